"""Speed, measured and reported: `pytest -m benchmark -s` on an idle machine. With CONTREC_RECORD naming a folder, each figure is also kept there."""
import os
import time

import pytest
import torch

from contrec.catalog import load_split
from contrec.core import environment, seeded, write_json
from contrec.embeddings import linear
from contrec.evaluation import commit, measured
from contrec.tokenizer import SigmaVAE, fit_tokenizer

pytestmark = pytest.mark.benchmark


def report(name, **figures):
    """Print the figures, and keep them where the environment asks for it."""
    print(f"\n{name}: " + ", ".join(f"{k} {v:,.1f}" for k, v in figures.items()))
    if folder := os.environ.get("CONTREC_RECORD"):
        write_json(f"{folder}/benchmark-{name}.json", figures | {"command": "pytest -m benchmark -s", "threads": torch.get_num_threads(), "commit": commit(), "versions": environment()})


@pytest.mark.parametrize("tokens,epochs", [(1, 200), (4, 150)], ids=["preset", "four-tokens"])
def test_tokenizer_of_ml_100k(tokens, epochs):
    """As in the preset `contrec`, and with the class's own defaults."""
    e = torch.from_numpy(linear(load_split("ml-100k"), width=128).items)
    with seeded(0):
        tokenizer = SigmaVAE(128, width=64, tokens=tokens)
    with measured() as cost:
        fit_tokenizer(tokenizer, e, epochs=epochs)
    report(f"tokenizer-ml-100k-{tokens}", seconds=cost.seconds, rows=len(e), epochs=epochs)


def test_one_epoch_over_a_million_items():
    """Throughput beside the bare products: forward and backward, three times the forward, and nothing else."""
    n, d, hidden, tokens, batch = 1_000_000, 64, 256, 4, 4096
    with seeded(0):
        e, tokenizer = torch.randn(n, d), SigmaVAE(d, width=d, tokens=tokens, hidden=hidden)
    with measured() as cost:
        fit_tokenizer(tokenizer, e, epochs=1, batch_size=batch)
    x, h = torch.randn(tokens, batch, d), torch.randn(tokens, batch, hidden)
    w1, w2 = torch.randn(tokens, d, hidden), torch.randn(tokens, hidden, d)
    for _ in range(3):
        torch.bmm(x, w1), torch.bmm(h, w2)
    began = time.perf_counter()
    for _ in range(20):
        torch.bmm(x, w1), torch.bmm(h, w2)
    bound = 3 * (1 + 1 / tokens) * (time.perf_counter() - began) / 20 * n / batch  # The decoder is as large as one encoder
    with torch.no_grad(), measured() as encoding:
        tokenizer.encode(e)
    report("tokenizer-million", items_per_second=n / cost.seconds, bare_products_items_per_second=n / bound, share_of_bound_percent=100 * bound / cost.seconds,
           encoded_items_per_second=n / encoding.seconds, peak_gib=max(cost.peak_mb, encoding.peak_mb) / 1024)
    assert max(cost.peak_mb, encoding.peak_mb) < 24 * 1024
