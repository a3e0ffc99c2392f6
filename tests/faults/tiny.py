"""A small clean world, a model that trains in half a second, and the command line."""

import io
import os
import socket
import sys
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

import contrec.interface.space
import contrec.interface.space_figures
import contrec.recommender.contrec
from contrec.foundations.schema import Presets
from contrec.interface.cli import main
from contrec.studies.experiments import nested

from .campaign import Fault, Hang, check_message, require

CATEGORIES = ("Drama", "Comedy", "War", "Film Noir", "Sci-Fi")


def clean_log(
    random: np.random.Generator, users: int = 80, items: int = 40
) -> pd.DataFrame:
    """Make a log of str ids and int seconds: no two times are equal."""
    lengths = random.integers(7, 12, users)
    rows = int(lengths.sum())
    times = 1_700_000_000 + np.cumsum(random.integers(60, 4000, rows))
    chosen = [random.choice(items, n, replace=False) for n in lengths]
    user = np.repeat(np.arange(users), lengths)
    frame = pd.DataFrame(
        {
            "user": [f"u{u:03d}" for u in user],
            "item": [f"i{i:03d}" for i in np.concatenate(chosen)],
        }
    )
    return frame.assign(timestamp=random.permutation(times))


def clean_items(items: int = 40) -> pd.DataFrame:
    """Make an item table with a title and one or two categories for each item."""
    number = np.arange(items)
    return pd.DataFrame(
        {
            "item": [f"i{i:03d}" for i in number],
            "title": [f"Film {i}" for i in number],
            "categories": [
                f"{CATEGORIES[i % 5]}|{CATEGORIES[i // 5 % 5]}" for i in number
            ],
            "text": [f"a story of {i} people" for i in number],
        }
    )


def write_world(folder: Path, seed: int = 0) -> Path:
    """Write `log.csv` and `items.csv` of a clean world."""
    folder.mkdir(parents=True, exist_ok=True)
    clean_log(np.random.default_rng(seed)).to_csv(folder / "log.csv", index=False)
    clean_items().to_csv(folder / "items.csv", index=False)
    return folder


def use_tiny_presets() -> None:
    """Let presets of this process train in half a second, and draw without UMAP."""
    small = {
        "embedding": {"width": 8, "epochs": 2},
        "diffusion": {"hidden": 16, "blocks": 1},
        "training": {"epochs": 3, "tokenizer_epochs": 3, "windows": False},
    }
    presets = {
        name: contrec.recommender.config.PRESETS[name]
        for name in contrec.recommender.config.PRESETS
    }
    presets["contrec"] = contrec.recommender.config.preset("contrec", **small)
    contrec.recommender.config.PRESETS = Presets(**presets)
    contrec.interface.space._umap_plane = project_linearly


def project_linearly(x, seed=0):
    """Project with PCA: UMAP compiles for many seconds."""
    return contrec.interface.space_figures.project(x, method="pca")


def pretend_run(config, seed):
    """Check the settings of a study's run as a real one does; make up its metrics."""
    config = {k: v for k, v in config.items() if k != "dataset"}
    contrec.recommender.config.preset(config.pop("preset"), **nested(config), seed=seed)
    return {"NDCG@10": 0.1 + seed / 100, "HR@10": 0.2}


def run_arguments(world: Path, out: Path, *more: str) -> list[str]:
    """Return the arguments of a run on the clean world."""
    return [
        "run",
        "--data",
        str(world / "log.csv"),
        "--items",
        str(world / "items.csv"),
        "--out",
        str(out),
        "--device",
        "cpu",
        *more,
    ]


class Said(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


def command(*arguments: object, refusal: type[BaseException] = Hang) -> Said:
    """Run `contrec` without stdin; `refusal` meets whoever wants a network."""
    out, err, stdin = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO("")
    try:
        with redirect_stdout(out), redirect_stderr(err), no_network(refusal):
            warnings.simplefilter("ignore")
            code = exit_code([str(a) for a in arguments])
    finally:
        sys.stdin = stdin
    return Said(code, out.getvalue(), err.getvalue())


def exit_code(arguments: list[str]) -> int:
    """Return what the process would have returned to the shell."""
    with warnings.catch_warnings():
        try:
            return main(arguments) or 0
        except SystemExit as stop:
            return stop.code or 0


@contextmanager
def no_network(refusal: type[BaseException]):
    """Let every attempt to reach another machine raise an error."""

    def refuse(self, address, *_):
        raise refusal(f"tried to connect to {address!r}")

    connect, look_up = socket.socket.connect, socket.getaddrinfo
    socket.socket.connect = refuse
    socket.getaddrinfo = lambda host, *_, **__: refuse(None, host)
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = connect, look_up


def judge(said: Said) -> str:
    """Return `clean` or `refused`; raises `Fault` for every other end."""
    require("Traceback" not in said.err + said.out, f"a traceback: {said.err[-800:]}")
    require(said.code in (0, 2), f"exit code {said.code}: {said.err[-800:]}")
    if said.code == 0:
        return "clean"
    check_message(said.err)
    require(said.err.startswith("contrec"), f"an unsigned refusal: {said.err[:300]!r}")
    return "refused"


def leftovers(folder: Path) -> list[str]:
    """Return temporary files below a folder."""
    return [
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.name.endswith((".part", ".tmp")) or p.name.startswith(".tmp")
    ]


def can_be_unreadable() -> bool:
    """Return whether permissions bind this user: they do not bind root."""
    return os.geteuid() != 0


__all__ = ["Fault", "Said", "clean_items", "clean_log", "command", "judge", "leftovers"]
