"""Logs at the edge of what can be split, trained and ranked."""

import numpy as np
import pandas as pd

from .campaign import Area, require
from .forms import pick, put, text_of
from .tiny import clean_items, clean_log, command, judge, use_tiny_presets


def log_of(users: int, items: int, length: int, random) -> pd.DataFrame:
    """Make a log of a given size; people repeat items where there are too few."""
    rows = users * length
    return pd.DataFrame(
        {
            "user": np.repeat([f"u{u}" for u in range(users)], length),
            "item": [f"i{i}" for i in random.integers(items, size=rows)],
            "timestamp": 1_700_000_000 + random.permutation(rows),
        }
    )


class Edges(Area):
    """Every trial runs the whole method on a log of an odd shape."""

    name = "edges"
    limit = 120
    share = 1.0
    kinds = (
        "one item",
        "two items",
        "three items",
        "few items",
        "one user",
        "two users",
        "three each",
        "one long user",
        "many categories",
        "one category",
        "no categories",
        "long titles",
        "a list longer than the items",
        "a user who has seen all",
        "one popular item",
        "as it is",
    )

    def __init__(self, folder):
        super().__init__(folder)
        use_tiny_presets()

    def attempt(self, kind, random, place):
        frame, items = self.world_of(kind, random)
        log, out = put(place / "log.csv", text_of(frame)), place / "out"
        line = [
            "run",
            "--data",
            log,
            "--out",
            out,
            "--device",
            "cpu",
            "--core",
            pick(random, [1, 1, 2]),
        ]
        if items is not None:
            line += ["--items", put(place / "items.csv", text_of(items))]
        self.told["options"] = [str(o) for o in line[6:]]
        self.told |= frame.nunique().to_dict()
        said = command(*line)
        self.told["said"] = said.err[-300:]
        outcome = judge(said)
        require(kind != "as it is" or outcome == "clean", "a sound log is refused")
        if outcome == "refused":
            left = sorted(p.name for p in out.rglob("*")) if out.exists() else []
            require(not out.exists(), f"a refused run left its folder, with {left}")
            return "refused"
        return self.use(frame, out, random)

    def use(self, frame, out, random):
        """Ask the model that was trained for lists of any length."""
        user, k = (
            pick(random, list(frame["user"])),
            pick(random, [1, 10, 39, 40, 41, 10_000]),
        )
        self.told |= {"user": str(user), "k": k}
        for line in (["recommend", "--user", user, "-k", k, "--json"], ["evaluate"]):
            judge(command(*line, "--model", out, "--device", "cpu"))
        return "clean"

    def world_of(self, kind, random):
        """Return a log, and an item table or `None`."""
        few = {"one item": 1, "two items": 2, "three items": 3, "few items": 5}
        if kind in few:
            return log_of(20, few[kind], 6, random), None
        if kind in ("one user", "two users"):
            return log_of(1 if kind == "one user" else 2, 30, 25, random), None
        if kind == "three each":
            return log_of(40, pick(random, [4, 15, 60]), 3, random), None
        frame, items = clean_log(random), clean_items()
        if kind == "one long user":
            return pd.concat([frame, log_of(1, 40, 3000, random)]), items
        if kind == "a user who has seen all":
            times = 1_800_000_000 + np.arange(40)
            frame = pd.concat(
                [
                    frame,
                    pd.DataFrame(
                        {"user": "all", "item": items["item"], "timestamp": times}
                    ),
                ]
            )
        if kind == "one popular item":
            frame = frame.assign(
                item=frame["item"].where(random.random(len(frame)) < 0.1, "i000")
            )
        texts = {
            "many categories": "|".join(f"c{n}" for n in range(300)),
            "one category": "A",
            "no categories": "",
        }
        if kind in texts:
            items = items.assign(categories=texts[kind])
        if kind == "long titles":
            items = items.assign(title="word " * 5000)
        return frame, items
