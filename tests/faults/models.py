"""Saved models that were altered: never believed, never a traceback."""

import os
import shutil
from contextlib import suppress
from threading import Timer

from .campaign import Area, require
from .forms import pick
from .tiny import command, judge, run_arguments, use_tiny_presets, write_world

LIMIT = 30  # Seconds for one trial
SAME = ("nothing", "another_file", "link_to_the_same")  # The content is what was saved


def flip_a_bit(path, other, random):
    data = bytearray(path.read_bytes())
    data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    path.write_bytes(bytes(data))


def flip_an_early_bit(path, other, random):
    data = bytearray(path.read_bytes())
    data[int(random.integers(min(300, len(data))))] ^= 1 << int(random.integers(8))
    path.write_bytes(bytes(data))


def truncate(path, other, random):
    os.truncate(path, int(random.integers(path.stat().st_size)))


def lengthen(path, other, random):
    path.write_bytes(
        path.read_bytes() + pick(random, [b"\n", b" ", b"\x00", b"{}", b"x" * 5000])
    )


def empty(path, other, random):
    path.write_bytes(b"")


def delete(path, other, random):
    path.unlink()


def folder_instead(path, other, random):
    path.unlink()
    path.mkdir()


def fifo_instead(path, other, random):
    path.unlink()
    os.mkfifo(path)
    Timer(LIMIT + 1, end_waiting, [path]).start()


def end_waiting(path):
    """Open a FIFO for who still reads it: no signal reaches a library's read."""
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def link_to_nothing(path, other, random):
    path.unlink()
    path.symlink_to("nowhere")


def link_to_itself(path, other, random):
    path.unlink()
    path.symlink_to(path.name)


def link_to_the_same(path, other, random):
    twin = path.parent.parent / f"moved {path.name}"
    path.rename(twin)
    path.symlink_to(twin)


def another_models(path, other, random):
    shutil.copy(other, path)


def another_file(path, other, random):
    """Leave a stray file at the top of the model folder."""
    top = path.parent if path.parent.name == "model" else path.parent.parent
    name = pick(random, ["notes.txt", ".DS_Store", "old.safetensors"])
    (top / name).write_text("x")


def nothing(path, other, random):
    pass


DAMAGES = {
    d.__name__: d
    for d in (
        flip_a_bit,
        truncate,
        another_models,
        flip_an_early_bit,
        delete,
        folder_instead,
        empty,
        lengthen,
        fifo_instead,
        link_to_nothing,
        link_to_itself,
        link_to_the_same,
        another_file,
        nothing,
    )
}


class Models(Area):
    """Every trial alters one file of a saved model, and asks it for a list."""

    name = "models"
    limit = LIMIT

    kinds = tuple(f"{d}{how}" for how in ("", " without checks") for d in DAMAGES)

    def __init__(self, folder):
        super().__init__(folder)
        use_tiny_presets()
        for n in (0, 1):
            world = write_world(self.folder / f"world{n}", n)
            said = command(
                *run_arguments(world, self.folder / f"run{n}", "--seed", str(n))
            )
            require(said.code == 0, said.err)
        self.model, self.other = (
            self.folder / "run0" / "model",
            self.folder / "run1" / "model",
        )
        self.answer = self.ask(self.model).out

    def ask(self, model, *more):
        """Ask a model for a list, as a user does."""
        return command(
            "recommend",
            "--model",
            model,
            "--history",
            "i001,i005,i007",
            "-k",
            "5",
            "--json",
            "--device",
            "cpu",
            *more,
        )

    def attempt(self, kind, random, place):
        damage, unchecked = (
            kind.removesuffix(" without checks"),
            kind.endswith("checks"),
        )
        model = place / "model"
        shutil.copytree(self.model, model)
        files = sorted(p.relative_to(model) for p in model.rglob("*") if p.is_file())
        file = pick(random, files)
        self.told["file"] = str(file)
        DAMAGES[damage](model / file, self.other / file, random)
        said = self.ask(model, *["--no-verify"] * unchecked)
        self.told["said"] = said.err[-300:]
        return self.check(damage, unchecked, same_bytes(model, self.model), said)

    def check(self, damage, unchecked, same, said):
        """Judge the answer: an altered model is refused, unless checks are off."""
        outcome = judge(said)
        if outcome == "clean" and (same or damage in SAME):
            require(said.out == self.answer, "another list from the same model")
        elif outcome == "clean" and self.told["file"] == "manifest.json":
            require(said.out == self.answer, "another list from another manifest")
        elif outcome == "clean":
            require(unchecked, "an altered model was believed")
        else:
            require(
                damage not in ("nothing", "another_file"),
                f"a sound model was refused: {said.err}",
            )
        return outcome


def same_bytes(a, b):
    """Return whether two folders hold the same files."""
    names = {p.relative_to(b) for p in b.rglob("*") if p.is_file()}
    return all(
        (a / n).is_file() and (a / n).read_bytes() == (b / n).read_bytes()
        for n in names
    )
