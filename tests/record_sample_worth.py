"""Measure what a perfect generator's draws are worth, and keep the record.

`python tests/record_sample_worth.py ml-100k lastfm amazon-beauty` fits SASRec with the
softmax over all items on each set, reads its own draws in three token spaces, and
writes `nbs/experiments/records/sample-worth.json`, which the page
`nbs/experiments/sample_worth.ipynb` reads. Sets that are not named keep their rows.
"""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from contrec.data.datasets import load_split
from contrec.diffusion.sample_worth import DRAWS, sample_worth
from contrec.foundations.environment import environment
from contrec.foundations.files import load_tensors, read_json, save_tensors, write_json
from contrec.foundations.random import seeded
from contrec.ranking.evaluation import evaluate
from contrec.ranking.linear import Popularity
from contrec.ranking.records import commit
from contrec.ranking.sequential import SASRec
from contrec.tokenizer.embeddings import lightgcn
from contrec.tokenizer.sigma_vae import SigmaVAE, fit_tokenizer, latents

RECORD = Path(__file__).parents[1] / "nbs/experiments/records/sample-worth.json"
# Of SASRec; on the large set an epoch has many times the steps
SETTINGS = {
    "ml-100k": {},
    "lastfm": {},
    "amazon-beauty": {
        "batch_size": 128,
        "epochs": 10,
        "patience": None,
        "lr": 2e-3,
        "dropout": 0.4,
    },
}
SPACES = ("SASRec's", "LightGCN's", "random")
USERS = 5000


def fitted_sasrec(split, seed, folder):
    "Return SASRec; it is read from `folder` if it was fitted before."
    model = SASRec("ce", seed=seed, **SETTINGS[split.name])
    kept = folder and Path(folder) / f"sasrec-ce-{split.name}-{seed}.safetensors"
    if kept and kept.exists():
        model.model, model.split = model._build(split.n_items), split
        model.model.load_state_dict(load_tensors(kept).tensors)
        return model
    model.fit(split)
    if kept:
        save_tensors(kept, model.model.state_dict())
    return model


def token_space(name, split, sasrec, seed):
    "Return item latents (n_items, 64): tokens of vectors, or random directions."
    if name == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(split.n_items, 64, generator=generator)
    if name == "SASRec's":
        vectors = sasrec.model.items.weight.detach()
    else:
        vectors = torch.from_numpy(lightgcn(split, seed=seed).items)
    with seeded(seed):
        tokenizer = SigmaVAE(vectors.shape[1], width=64, tokens=1)
    fit_tokenizer(tokenizer, vectors, epochs=100, seed=seed)
    with torch.no_grad():
        return latents(tokenizer.eval().encode(vectors))


def measure(name, seed, folder):
    "Return the rows of one data set."
    split, began = load_split(name), time.time()
    sasrec = fitted_sasrec(split, seed, folder)
    rows, facts = [], {}
    for space in SPACES:
        vectors = token_space(space, split, sasrec, seed)
        for part in ("valid", "test"):
            worth = sample_worth(sasrec, split, vectors, part, users=USERS, seed=seed)
            facts[part] = worth.next_item
            readings = worth.readings.astype(object).where(worth.readings.notna(), None)
            for row in readings.to_dict("records"):
                row["draws"] = None if row["draws"] == float("inf") else row["draws"]
                rows.append({"space": space, "part": part, **row})
        print(name, space, round(time.time() - began), "s", flush=True)
    popular = Popularity().fit(split)
    return {
        "dataset": name,
        "split_sha256": split.sha256,
        "n_users": split.n_users,
        "n_items": split.n_items,
        "users asked": min(USERS, split.n_users),
        "config": {"SASRec": {"loss": "ce", **SETTINGS[name]}, "draws": DRAWS},
        "seed": seed,
        "next item": facts,
        "popularity": {
            part: evaluate(popular, split, part).metrics["NDCG@10"]
            for part in ("valid", "test")
        },
        "looks at test": 1,
        "rows": rows,
        "commit": commit(),
        "seconds": time.time() - began,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": environment(),
    }


def main(names, folder=None, seed=0):
    "Measure the named sets, one after the other."
    record = read_json(RECORD) if RECORD.exists() else {"sets": []}
    for name in names:
        made = measure(name, seed, folder)
        others = [s for s in record["sets"] if s["dataset"] != name]
        record = {"sets": [*others, made]}
        write_json(RECORD, record)


if __name__ == "__main__":
    # `--models=FOLDER` keeps the fitted SASRecs there
    folders = [
        a.removeprefix("--models=") for a in sys.argv if a.startswith("--models=")
    ]
    main([a for a in sys.argv[1:] if not a.startswith("--")], *folders)
