"""What the library's own small model reaches, for the test of the one page.

Run `python tests/record_one_page.py` to measure it again."""

from pathlib import Path

from contrec import ContRec, evaluate, load_split, preset
from contrec.foundations.environment import environment
from contrec.foundations.files import write_json
from contrec.ranking.records import commit, measured

RECORD = Path(__file__).parents[1] / "nbs/experiments/records/one_page.json"
SEEDS = range(6)
METRICS = ("NDCG@10", "HR@10")
# The preset without what the page leaves out: running users, words, guidance,
# a second block.
SETTINGS = {
    "preset": "contrec-basic",
    "prompt": {"user_token": False},
    "diffusion": {"hidden": 128, "blocks": 1, "cfg_dropout": 0.0},
    "training": {"lm_weight": 0.0, "epochs": 15, "tokenizer_epochs": 50},
}


def run(seed: int) -> dict:
    """Train the library's small model once and return its figures by part."""
    split = load_split("ml-100k")
    changes = {name: value for name, value in SETTINGS.items() if name != "preset"}
    with measured() as cost:
        model = ContRec(preset(SETTINGS["preset"], **changes, seed=seed)).fit(split)
    record = {"seed": seed, "seconds": round(cost.seconds, 1)}
    for part in ("valid", "test"):
        found = evaluate(model, split, part).metrics
        record[part] = {name: found[name] for name in METRICS}
    return record


if __name__ == "__main__":
    record = {
        "command": "python tests/record_one_page.py",
        "dataset": "ml-100k",
        "split_sha256": load_split("ml-100k").sha256,
        "settings": SETTINGS,
        "commit": commit(),
        "machine": environment(),
        "runs": [run(seed) for seed in SEEDS],
    }
    write_json(RECORD, record)
