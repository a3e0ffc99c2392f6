"""A process that runs one command, and dies at a chosen file operation."""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import contrec.studies.ablation
import contrec.studies.comparison
from contrec.data.reading import read_items, read_log
from contrec.data.split import leave_one_out
from contrec.interface.cli import main
from contrec.recommender.config import preset
from contrec.recommender.contrec import ContRec

from .tiny import pretend_run, use_tiny_presets

AUDITED = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.truncate",
)
KILLED = 137  # What a shell says of a process that was killed
TINY = {
    "training.epochs": 2,
    "training.tokenizer_epochs": 2,
    "embedding.width": 8,
    "embedding.epochs": 2,
    "diffusion.hidden": 16,
    "diffusion.blocks": 1,
}


class Death:
    """Count what changes files below a folder, and die at one of these operations."""

    def __init__(self, folder: Path, at: int, how: int):
        self.folder, self.at, self.how, self.seen = str(folder), at, how, 0

    def install(self) -> None:
        """Watch this process from now on."""
        sys.addaudithook(self.audit)
        flush = os.fsync

        def fsync(descriptor):
            flush(descriptor)
            self.step()

        os.fsync = fsync

    def audit(self, event: str, arguments: tuple) -> None:
        """Count an operation that Python is about to do."""
        if event in AUDITED and concerns(event, arguments, self.folder):
            self.step()

    def step(self) -> None:
        """Count one operation; die at the chosen one."""
        self.seen += 1
        if self.seen == self.at and self.how == signal.SIGKILL:
            os._exit(KILLED)
        if self.seen == self.at:
            os.kill(os.getpid(), self.how)


def concerns(event: str, arguments: tuple, folder: str) -> bool:
    """Return whether an operation changes something below the folder."""
    paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, str | bytes | Path)]
    inside = any(p.startswith(folder) for p in paths)
    if event != "open":
        relative = event in ("os.remove", "os.rmdir") and arguments[1] != -1
        return inside or relative
    flags = arguments[2] if isinstance(arguments[2], int) else 0
    return inside and bool(flags & (os.O_WRONLY | os.O_RDWR))


def use_tiny_data(world: Path) -> None:
    """Let every named data set be the tiny world, and every system train in no time."""
    split = leave_one_out(
        read_log(world / "log.csv", items=read_items(world / "items.csv"))
    )
    for module in (
        contrec.studies.ablation,
        contrec.studies.experiments,
        contrec.studies.tuning,
    ):
        module.load_split = lambda name, ties="file", **_: split
    contrec.studies.ablation.RUNS["model"] = pretend_run
    systems = contrec.studies.systems.SYSTEMS
    systems["contrec"] = systems["contrec"]._replace(
        settings=TINY, search=[{"training.lr": 0.001}]
    )
    few = {"epochs": 3, "width": 8}
    systems["sasrec-ce"] = systems["sasrec-ce"]._replace(
        settings=few, search=[{"lr": 0.001}, {"lr": 0.01}]
    )


def save(source: str, target: str) -> int:
    """Save one model over another."""
    ContRec.from_pretrained(source, "cpu").save_pretrained(target)
    return 0


def fitted(source: str, target: str) -> int:
    """Fit a model on another model's split, where the target does not keep it yet."""
    split = ContRec.from_pretrained(source, "cpu").split
    ContRec.fitted(preset("contrec"), split, target, "cpu")
    return 0


def ask(target: str, rounds: str) -> int:
    """Load a model again and again, and write every answer that it gives."""
    for _ in range(int(rounds)):
        model = ContRec.from_pretrained(target, "cpu")
        print(
            json.dumps(model.recommend(["i001", "i005"], 5)["item"].tolist()),
            flush=True,
        )
    return 0


CALLS = {"save": save, "fitted": fitted, "ask": ask}


def start(arguments, folder, world, said, at=None, how=signal.SIGKILL) -> None:
    """Run a command or a call, with its output in files, and end the process."""
    for stream, name in ((1, "out"), (2, "err")):
        target = os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(target, stream)
    sys.stdout, sys.stderr = (
        os.fdopen(1, "w", closefd=False),
        os.fdopen(2, "w", closefd=False),
    )
    use_tiny_presets()
    use_tiny_data(world)
    death = Death(folder, at or 0, how)
    if at is not None:
        death.install()
    code = run(arguments)
    Path(f"{said}.seen").write_text(str(death.seen))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def call(name: str, *arguments: str) -> int:
    """Return the exit code of a Python script that makes one call."""
    try:
        return CALLS[name](*arguments)
    except KeyboardInterrupt:
        return 130


def run(arguments) -> int:
    """Return the exit code of a command line, or of a call by its name."""
    try:
        if arguments[0] in CALLS:
            return call(*arguments)
        return main(arguments) or 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
