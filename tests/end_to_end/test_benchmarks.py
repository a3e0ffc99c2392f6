"""Speed, measured and reported: `pytest -m benchmark -s` on an idle machine.

If CONTREC_RECORD names a folder, each figure is also kept there.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from contrec import ContRec, load_split, preset
from contrec.foundations.environment import environment
from contrec.foundations.files import write_json
from contrec.foundations.random import seeded
from contrec.interface.denoising_explorer import explore_denoising
from contrec.interface.playground import explore_recommendations
from contrec.interface.record_browsers import explore_records
from contrec.interface.token_explorer import explore_space
from contrec.ranking.records import commit, measured
from contrec.studies.runner import read_ablation
from contrec.studies.study_tables import read_records
from contrec.tokenizer.embeddings import linear
from contrec.tokenizer.sigma_vae import SigmaVAE, fit_tokenizer

pytestmark = pytest.mark.benchmark


def report(name, **figures):
    """Print the figures, and keep them where the environment asks for it."""
    print(f"\n{name}: " + ", ".join(f"{k} {v:,.1f}" for k, v in figures.items()))
    if folder := os.environ.get("CONTREC_RECORD"):
        write_json(
            f"{folder}/benchmark-{name}.json",
            figures
            | {
                "command": "pytest -m benchmark -s",
                "threads": torch.get_num_threads(),
                "commit": commit(),
                "versions": environment(),
            },
        )


@pytest.mark.parametrize(
    "tokens,epochs", [(1, 200), (4, 150)], ids=["preset", "four-tokens"]
)
def test_tokenizer_of_ml_100k(tokens, epochs):
    """As in the preset `contrec`, and with the class's own defaults."""
    e = torch.from_numpy(linear(load_split("ml-100k"), width=128).items)
    with seeded(0):
        tokenizer = SigmaVAE(128, width=64, tokens=tokens)
    with measured() as cost:
        fit_tokenizer(tokenizer, e, epochs=epochs)
    report(
        f"tokenizer-ml-100k-{tokens}", seconds=cost.seconds, rows=len(e), epochs=epochs
    )


def test_one_epoch_over_a_million_items():
    """Throughput beside the bare products.

    Forward and backward, three times the forward, and nothing else.
    """
    n, d, hidden, tokens, batch = 1_000_000, 64, 256, 4, 4096
    with seeded(0):
        e, tokenizer = (
            torch.randn(n, d),
            SigmaVAE(d, width=d, tokens=tokens, hidden=hidden),
        )
    with measured() as cost:
        fit_tokenizer(tokenizer, e, epochs=1, batch_size=batch)
    x, h = torch.randn(tokens, batch, d), torch.randn(tokens, batch, hidden)
    w1, w2 = torch.randn(tokens, d, hidden), torch.randn(tokens, hidden, d)
    for _ in range(3):
        torch.bmm(x, w1), torch.bmm(h, w2)
    began = time.perf_counter()
    for _ in range(20):
        torch.bmm(x, w1), torch.bmm(h, w2)
    # The decoder is as large as one encoder
    bound = 3 * (1 + 1 / tokens) * (time.perf_counter() - began) / 20 * n / batch
    with torch.no_grad(), measured() as encoding:
        tokenizer.encode(e)
    report(
        "tokenizer-million",
        items_per_second=n / cost.seconds,
        bare_products_items_per_second=n / bound,
        share_of_bound_percent=100 * bound / cost.seconds,
        encoded_items_per_second=n / encoding.seconds,
        peak_gib=max(cost.peak_mb, encoding.peak_mb) / 1024,
    )
    assert max(cost.peak_mb, encoding.peak_mb) < 24 * 1024


class Sent:
    """Takes what a kernel would send to the page, as the bytes that it would send."""

    def update(self, data, **options):
        json.dumps([data, options]).encode()


def positions(key, control):
    """Some places to which a person may move a control."""
    if key == "loop":
        return [[x, 10.0, 90.0, x, 50.0, 90.0] for x in (5.0, 15.0, 25.0, 35.0)] + [
            [50.0, 50.0],
            [20.0, 30.0],
        ]
    if key == "search":
        return ["star wars", "alien", "fargo", "toy story", "god"]
    if key == "user":
        return ["5", "17", "200", "301", "405", "600"]
    if key == "history":
        return [
            control.value[:-1],
            control.value[1:],
            control.value[:5],
            [*control.value[3:], "Alien (1979)"],
            control.value[::2],
        ]
    if key in ("across", "up"):
        return [(0, 61), (0, 80), (10, 60), (40, 90), (20, 30)]
    if hasattr(control, "min"):
        return [
            type(control.value)(v) for v in np.linspace(control.min, control.max, 7)[1:]
        ]
    if hasattr(control, "index") and isinstance(control.index, tuple):
        return [control.options[n : n + 2] for n in range(len(control.options))]
    if hasattr(control, "options"):
        return [o[1] if isinstance(o, tuple) else o for o in control.options][::-1]
    return [not control.value]


def move(explorer, key, value):
    """Move a control to a state that was never shown; return the milliseconds."""
    for cached in explorer.view, explorer.text, explorer.picture:
        cached.cache_clear()
    began = time.perf_counter()
    explorer.controls[key].value = value
    assert not explorer.message.value, f"{key}: {explorer.message.value}"
    return 1000 * (time.perf_counter() - began)


def test_moves_of_the_explorers():
    """Every control of every explorer, at ml-100k's size.

    From its move to a table and a picture that were never shown before.
    """
    records = Path(__file__).parents[2] / "nbs" / "experiments" / "records"
    model = ContRec(preset(training={"epochs": 3})).fit(load_split("ml-100k"))
    compared = read_records(records / "compare")
    explorers = {
        "space": explore_space(model),
        "denoising": explore_denoising(model),
        "playground": explore_recommendations(model),
        "records": explore_records(compared[compared["dataset"] == "ml-100k"]),
        "ablation": explore_records(read_ablation(records / "tokenizers")),
    }
    figures, every = {"load": os.getloadavg()[0]}, []
    for name, explorer in explorers.items():
        explorer._handles = Sent(), Sent()
        if "projection" in explorer.controls:
            figures["space, projection: UMAP for the first time"] = move(
                explorer, "projection", "umap"
            )
        # Without noise several samples make no sense
        if name == "playground":
            move(explorer, "noise_scale", 1.0)
        for key, control in explorer.controls.items():
            before, taken = control.value, []
            for value in positions(key, control):
                if value != control.value:
                    taken.append(move(explorer, key, value))
            control.value = before
            if taken:
                figures |= {
                    f"{name}, {key}": float(np.median(taken)),
                    f"{name}, {key}, slowest": max(taken),
                }
            every += taken
    report(
        "explorers",
        **figures,
        moves=len(every),
        median=float(np.median(every)),
        slowest=max(every),
        within_200_ms_percent=100 * float(np.mean(np.array(every) <= 200)),
    )


def unfitted(backbone, split, **changes):
    """ContRec as the study of language models has it, with the weights that it starts
    from.

    Speed does not depend on what was learnt.
    """
    model = ContRec(
        preset(
            "contrec",
            **changes,
            backbone={"name": backbone},
            prompt={"template": "plain", "max_items": 20},
            training={"precision": "bf16"},
        )
    )
    model.split, model._ready, model._words = split, None, None
    with seeded(0):
        model._build(128)
    model.network.inputs.data.copy_(torch.from_numpy(linear(split, width=128).items))
    return model


def padded(batch, length=1024):
    """Published code pads every prompt to one length.

    In training behind it, before an answer in front of it.
    """
    more = length - batch.input_ids.shape[1]
    fill = dict(
        input_ids=0, attention_mask=0, token_slots=-1, user_slots=-1, labels=-100
    )
    wider = {
        k: torch.nn.functional.pad(
            getattr(batch, k), (more, 0) if batch.side == "left" else (0, more), value=v
        )
        for k, v in fill.items()
    }
    return batch._replace(
        **wider,
        condition_positions=batch.condition_positions
        + (more if batch.side == "left" else 0),
    )


def spliced_in_a_loop(backbone, batch, table):
    """Place by place, as published code replaces its placeholders."""
    words, rows = backbone.llm.get_input_embeddings()(batch.input_ids.clamp(min=0)), []
    for r in range(len(words)):
        places = list(words[r])
        for p in range(len(places)):
            if batch.token_slots[r, p] >= 0:
                places[p] = backbone.adapter(table[batch.token_slots[r, p]]).to(
                    words.dtype
                )
        rows.append(torch.stack(places))
    return torch.stack(rows)


def published_loss(network, history):
    """One history, one target.

    Everything padded, scores of the whole vocabulary at every place, the condition
    after the last item.
    """
    read, target = history.drop_last(), history.values[-1:]
    batch, catalogue = padded(network.prompts.batch(read, target)), network.catalogue()
    x = spliced_in_a_loop(network.backbone, batch, catalogue.tokens.flatten(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        out = network.backbone.llm(
            inputs_embeds=x,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            output_hidden_states=True,
            use_cache=False,
        )
    condition = out.hidden_states[-1][:, batch.condition_positions[0, -1]].float()
    target = torch.from_numpy(target)
    return (
        network.diffusion.loss(
            catalogue.latents[target], condition, catalogue.latents, target
        ).total
        + network.lm_weight * out.loss
    )


@torch.no_grad()
def published_list(network, history, text=True):
    """One user.

    A padded prompt with a loop for its tokens, an answer of at most 16 words, 200
    guided steps of diffusion, a ranking of all items.
    """
    batch, catalogue = (
        padded(network.prompts.batch(history, side="left")),
        network.catalogue(),
    )
    x = spliced_in_a_loop(network.backbone, batch, catalogue.tokens.flatten(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = network.backbone.llm.base_model(
            inputs_embeds=x, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        said = (
            network.backbone.llm.generate(
                inputs_embeds=x,
                attention_mask=batch.attention_mask,
                max_new_tokens=16,
                do_sample=False,
                pad_token_id=network.prompts.pad,
            )
            if text
            else None
        )
    preference = network.diffusion.sample(
        hidden[:, -1].float(), steps=network.diffusion.schedule.T, guidance=1.0
    )[:, 0]
    scores = torch.nn.functional.cosine_similarity(preference, catalogue.latents)
    scores[torch.from_numpy(history.values)] = -torch.inf
    return scores.topk(10).indices, said


def best_rate(amount, work, repeats=2):
    """Amount per second, the best of some repeats."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return amount / min(seconds)


def language_model_speed(backbone="smollm2-135m", users=128, rows=16):
    """Every rate of ours and of the published way, from one process."""
    split = load_split("ml-100k")
    model = unfitted(backbone, split)
    network, histories = (
        model.network,
        split.train.take(np.flatnonzero(split.train.lengths > 20)).last(21),
    )

    def step(loss):
        network.train()
        loss.backward()
        network.zero_grad(set_to_none=True)

    batch = histories.take(np.arange(rows))
    targets = int((batch.lengths - 1).sum())
    step(network.loss(batch).total)  # Warm
    found = {
        "targets_per_second": best_rate(
            targets, lambda: step(network.loss(batch).total)
        ),
        "published_targets_per_second": best_rate(
            1, lambda: step(published_loss(network, histories.take([0])))
        ),
    }
    network.eval()
    asked = split.histories("test").take(np.arange(users))
    speaking = model.with_decoding(text_score="sentence", text_weight=0.1)
    speaking.rank(asked.take(np.arange(2)), 10)  # Warm: the encoder reads the catalogue
    model._ready = speaking._ready
    one = asked.take([0]).last(20)
    return found | {
        "users_per_second": best_rate(users, lambda: model.rank(asked, 10)),
        "users_per_second_with_text": best_rate(
            users, lambda: speaking.rank(asked, 10)
        ),
        "published_users_per_second": best_rate(
            1, lambda: published_list(network, one, text=False)
        ),
        "published_users_per_second_with_text": best_rate(
            1, lambda: published_list(network, one)
        ),
    }


def test_language_model():
    """Beside the published way.

    One target per sequence, everything padded to 1,024 places, a loop for the splice,
    one user at a time, 200 guided steps.
    """
    pytest.importorskip("gguf")
    found = language_model_speed()
    ratios = {
        "targets_ratio": (
            found["targets_per_second"] / found["published_targets_per_second"]
        ),
        "latent_ratio": found["users_per_second"] / found["published_users_per_second"],
        "text_ratio": (
            found["users_per_second_with_text"]
            / found["published_users_per_second_with_text"]
        ),
    }
    report("language-model", **found, **ratios, load=os.getloadavg()[0])
