"""Train RecBole's models on the kit's own splits, to check the kit from outside.

`python tests/outside_oracle.py ml-100k` writes nbs/experiments/records/outside.json.
RecBole is no dependency: `pip install recbole==1.2.1 ray tensorboard`. Its model, loss,
sampler, trainer, mask and metrics are used; only the split is the kit's.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

# RecBole 1.2.1 was written for NumPy 1 and for an older SciPy. So both are changed
# before it is imported, and its imports cannot stand at the top.
# ruff: noqa: E402
for name, kind in {
    "float": float,
    "bool": bool,
    "long": int,
    "int": int,
    "float_": np.float64,
    "bool8": np.bool_,
    "unicode_": np.str_,
    "complex_": np.complex128,
}.items():
    if name not in vars(np):
        setattr(np, name, kind)
sparse.dok_matrix._update = lambda self, cells: self._dict.update(cells)

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from contrec import Recommender, Split, evaluate
from contrec.foundations.files import read_json, write_json
from contrec.ranking.records import commit
from contrec.studies.tuning import settings_of, split_of

ROOT = Path(__file__).resolve().parents[1] / "nbs" / "experiments" / "records"
# RecBole's name -> the kit's, and the settings that the kit's tuning chose in RecBole's
# words
MODELS = {
    "LightGCN": (
        "lightgcn",
        lambda s: {
            "embedding_size": s.get("width", 64),
            "n_layers": s.get("layers", 3),
            "reg_weight": s["norm"],
            "learning_rate": s["lr"],
        },
    ),
    "BPR": (
        "bpr",
        lambda s: {"embedding_size": s.get("width", 64), "learning_rate": s["lr"]},
    ),
}


def write_atomic(split: Split, folder: Path) -> None:
    "The split as RecBole's benchmark files; ids are the kit's numbers."
    folder.mkdir(parents=True)
    user = np.repeat(np.arange(split.n_users), split.train.lengths)
    parts = {
        "train": (user, split.train.values),
        "valid": (np.arange(split.n_users), split.valid),
        "test": (np.arange(split.n_users), split.test),
    }
    for part, rows in parts.items():
        text = "".join(f"{u}\t{i}\n" for u, i in zip(*rows))
        (folder / f"{folder.name}.{part}.inter").write_text(
            "user_id:token\titem_id:token\n" + text
        )


class Outside(Recommender):
    "A model of RecBole's behind the kit's contract."

    def __init__(self, name, model, dataset, split):
        self.name, self.model, self.split = name, model.eval(), split
        self.users = torch.as_tensor(
            dataset.token2id("user_id", [str(u) for u in range(split.n_users)])
        )
        self.items = torch.as_tensor(
            dataset.token2id("item_id", [str(i) for i in range(split.n_items)])
        )

    def fit(self, split, log=None):
        return self

    @torch.no_grad()
    def score(self, histories, users=None):
        return (
            self.model.full_sort_predict(
                {"user_id": self.users[torch.as_tensor(users)]}
            )
            .view(len(users), -1)[:, self.items]
            .numpy()
        )


def run(dataset_name: str, model_name: str, seed: int) -> dict:
    """Train RecBole's model on the kit's split.

    Its own metrics, and the kit's for the same scores.
    """
    split, (ours, translate) = split_of(dataset_name), MODELS[model_name]
    settings = translate(settings_of(dataset_name, ours, ROOT / "compare"))
    # RecBole logs where it stands
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        write_atomic(split, Path(temporary) / "outside")
        config = Config(
            model=model_name,
            dataset="outside",
            config_dict={
                "data_path": temporary,
                "benchmark_filename": ["train", "valid", "test"],
                "checkpoint_dir": temporary,
                "load_col": {"inter": ["user_id", "item_id"]},
                "use_gpu": False,
                "eval_args": {
                    "mode": "full",
                    "order": "RO",
                    "group_by": "user",
                    "split": {"LS": "valid_and_test"},
                },
                "metrics": ["Hit", "NDCG"],
                "topk": [10],
                "valid_metric": "NDCG@10",
                "metric_decimal_place": 6,
                "train_batch_size": 2048,
                "eval_batch_size": 1_000_000,
                "epochs": 500,
                "stopping_step": 10,
                "seed": seed,
                "reproducibility": True,
                "show_progress": False,
                "state": "ERROR",
                **settings,
            },
        )
        init_seed(seed, True)
        dataset = create_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        model = get_model(model_name)(config, train.dataset)
        began, trainer = (
            time.time(),
            get_trainer(config["MODEL_TYPE"], model_name)(config, model),
        )
        best, _ = trainer.fit(
            train, valid, saved=True, show_progress=False, verbose=False
        )
        saved = torch.load(trainer.saved_model_file, weights_only=False)
        model.load_state_dict(saved["state_dict"])
        model.load_other_parameter(saved["other_parameter"])
        theirs = trainer.evaluate(test, load_best_model=False, show_progress=False)
    again = {
        part: (
            evaluate(
                Outside(model_name, model, dataset, split), split, part, (10,)
            ).metrics
        )
        for part in ("valid", "test")
    }
    return {
        "dataset": dataset_name,
        "split_sha256": split.sha256,
        "model": model_name,
        "seed": seed,
        "settings": settings,
        "seconds": round(time.time() - began, 1),
        "commit": commit(),
        "RecBole's metrics": {
            "valid NDCG@10": float(best),
            "HR@10": float(theirs["hit@10"]),
            "NDCG@10": float(theirs["ndcg@10"]),
        },
        "the kit's metrics": {
            "valid NDCG@10": again["valid"]["NDCG@10"],
            "HR@10": again["test"]["HR@10"],
            "NDCG@10": again["test"]["NDCG@10"],
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+")
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=list(MODELS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given, path = parser.parse_args(), ROOT / "outside.json"
    for d in given.datasets:
        for m in given.models:
            for s in given.seeds:
                found = run(d, m, s)
                kept = [
                    r
                    for r in (read_json(path) if path.exists() else [])
                    if (r["dataset"], r["model"], r["seed"]) != (d, m, s)
                ]
                write_json(
                    path,
                    sorted(
                        [*kept, found],
                        key=lambda r: (r["dataset"], r["model"], r["seed"]),
                    ),
                )
                print(found, flush=True)
