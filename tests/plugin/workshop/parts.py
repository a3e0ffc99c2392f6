"""One part of each kind, as somebody outside the kit writes them.

`CONTRIBUTING.md` shows this code, and a test keeps the two the same.
"""

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPT2Config

from contrec.data.reading import from_frame
from contrec.foundations.registry import register
from contrec.language_model.backbone import Backbone
from contrec.ranking.recommender import Recommender
from contrec.tokenizer.embeddings import Embeddings
from contrec.tokenizer.quantizers import VectorQuantizer
from contrec.tokenizer.sigma_vae import Tokenizer, TokenizerLoss


@register("embedding")
def random_projection(split, width: int = 16, seed: int = 0):
    "Project each item's users onto random directions."
    matrix = split.train.to_csr(split.n_items)
    directions = np.random.default_rng(seed).normal(size=(split.n_users, width))
    items = (matrix.T @ directions).astype(np.float32)
    return Embeddings(matrix @ items, items)


@register("tokenizer")
class LinearTokens(Tokenizer):
    "Map an item to its tokens with one linear layer, and back with another."

    def __init__(self, d_in: int, width: int = 16, tokens: int = 1):
        super().__init__(dict(d_in=d_in, width=width, tokens=tokens))
        self.encoder = nn.Linear(d_in, tokens * width)
        self.decoder = nn.Linear(width, d_in)

    def tokenize(self, x):
        return self.encoder(x).unflatten(1, (self.tokens, self.width))

    def decode(self, z):
        return self.original(self.decoder(z.mean(1) if z.ndim == 3 else z))

    def loss(self, e, target=None):
        tokens = self.tokenize(self.standard(e))
        target = self.standard(e if target is None else target)
        error = F.mse_loss(self.decoder(tokens.mean(1)), target)
        return TokenizerLoss(error, error, torch.zeros_like(error))


@register("quantizer")
class NoisyQuantizer(VectorQuantizer):
    "Quantise an item that is a little different at every step of training."

    def corrupt(self, x):
        return x + 0.1 * torch.randn_like(x)


@register("backbone")
class SmallGPT2(Backbone):
    "Read prompts with a GPT-2 that is trained from scratch."

    def make_model(self, settings, text, cache, download):
        shape = dict(n_embd=settings.hidden, n_layer=settings.layers, n_head=1)
        config = GPT2Config(vocab_size=len(text), **shape)
        self.text, self.llm = text, AutoModelForCausalLM.from_config(config)


@register("dispersive_loss")
def log_distance(z, tau: float, power: int = 1):
    "Spread the rows of z (b, m) by the logarithm of their distances."
    distances = torch.cdist(z, z).square() / z.shape[1]
    return -(distances / tau + 1).log().pow(power).mean()


@register("ranking_loss")
def margin_ranking(batch, margin: float = 0.5):
    "Let the target's cosine exceed every other item's by a margin."
    batch.check_items()
    estimates, items = F.normalize(batch.estimate), F.normalize(batch.items)
    cosines = estimates @ items.T
    own = cosines.gather(1, batch.target[:, None])
    return F.relu(margin + cosines - own).mean()


@register("dataset")
def two_shelves():
    "Make up readers who stay with one of two shelves of twelve books."
    rng, rows = np.random.default_rng(0), []
    for user in range(60):
        books = 2 * rng.permutation(12)[:8] + user % 2
        rows += [(f"u{user}", f"b{book}", time) for time, book in enumerate(books)]
    log = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    return from_frame(log, name="two shelves")


@register("recommender")
class Neighbours(Recommender):
    "Recommend what is read right after the last item."

    name = "neighbours"
    search = [{"shrink": 1.0}, {"shrink": 5.0}]  # What `contrec compare --tune` tries

    def __init__(self, shrink: float = 1.0):
        self.shrink = shrink

    def fit(self, split, log=None):
        self.split, counts = split, np.zeros((split.n_items, split.n_items), np.float32)
        for history in split.train:
            np.add.at(counts, (history[:-1], history[1:]), 1)
        self.after = counts / (counts.sum(1, keepdims=True) + self.shrink)
        return self

    def _score(self, histories, users):
        return self.after[histories.values[histories.offsets[1:] - 1]]
