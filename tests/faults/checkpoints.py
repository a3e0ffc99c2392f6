"""Checkpoints that were damaged between a kill and the resumption."""

import shutil
import signal

from .campaign import Area, check_message, require
from .crashes import difference, state
from .forms import pick
from .processes import operations, spawn
from .tiny import leftovers, run_arguments, write_world


class Checkpoints(Area):
    """Every trial kills a run in training, damages its checkpoints, and resumes."""

    name = "checkpoints"
    limit = 300
    share = 2.0
    kinds = (
        "newest flipped",
        "newest cut",
        "newest empty",
        "newest gone",
        "both flipped",
        "both cut",
        "marker broken",
        "result flipped",
        "log cut",
    )

    def __init__(self, folder):
        super().__init__(folder)
        self.world, out = (
            write_world(self.folder / "world"),
            self.folder / "whole" / "out",
        )
        out.parent.mkdir()
        line = run_arguments(self.world, out)
        self.count = operations(line, out.parent, self.world, self.folder / "said")
        self.right = in_any_order(state("run", out))

    def attempt(self, kind, random, place):
        out = place / "here" / "out"
        out.parent.mkdir()
        line = run_arguments(self.world, out)
        for _ in range(20):  # Until there is something of this kind to damage
            shutil.rmtree(out, ignore_errors=True)
            at = int(random.integers(1, self.count + 1))
            spawn(
                line, out.parent, self.world, place / "said", at, signal.SIGKILL
            ).end()
            files = targets(kind, out)
            if files:
                break
        else:
            return "clean"
        self.told |= {"killed at operation": at, "files": [f.name for f in files]}
        for file in files:
            damage(file, kind.split()[1], random)
        return self.resume(kind, [*line, "--resume"], out, place)

    def resume(self, kind, line, out, place):
        """Resume the run: it ends as it would have, and says what was lost."""
        ended = spawn(line, out.parent, self.world, place / "said").end()
        self.told["said"] = ended.err[-300:]
        require("Traceback" not in ended.err, f"a traceback: {ended.err[-600:]}")
        if ended.code == 2:
            check_message(ended.err)
            require(kind not in ("newest gone", "log cut"), f"refused: {ended.err}")
            require(not kind.startswith("newest"), f"the run is lost: {ended.err}")
            return "refused"
        require(ended.code == 0, f"exit code {ended.code}: {ended.err[-600:]}")
        found = in_any_order(state("run", out))
        require(found == self.right, f"another end: {difference(found, self.right)}")
        require(not leftovers(place), f"left behind: {leftovers(place)}")
        if kind.split()[1] in ("flipped", "cut", "empty") and kind.startswith(
            ("newest", "both")
        ):
            told = (ended.out + ended.err).lower()
            require(
                "damaged" in told or "checkpoint" in told, "not a word about the damage"
            )
        return "clean"


def in_any_order(state):
    """Return a run's state: a stage that is done again is told last."""
    return state | {"log": sorted(state["log"])}


def targets(kind, out):
    """Return the files that are to be damaged, where a killed run has them."""
    stages = out / "stages"
    saved = [p for p in stages.glob("*") if p.is_file() and not p.name.startswith(".")]
    kept = [p for p in saved if "checkpoint" in p.name and "safetensors" in p.name]
    kept.sort(key=lambda p: p.stat().st_mtime_ns, reverse=True)
    if kind.startswith("newest"):
        return kept[:1] if len(kept) > 1 else []
    if kind.startswith("both"):
        return kept
    if kind.startswith("marker"):
        return [p for p in saved if p.suffix == ".json"][:1]
    if kind.startswith("log"):
        return [p for p in (out / "log.jsonl",) if p.exists() and p.stat().st_size]
    return [p for p in saved if p.suffix == ".safetensors" and p not in kept][:1]


def damage(file, how, random):
    """Damage a file as a disk, a full disk or a person does."""
    data = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
        return
    if how in ("flipped", "broken") and data:
        for at in random.integers(len(data), size=pick(random, [1, 1, 30])):
            data[at] ^= 1 << int(random.integers(8))
    if how == "cut" and file.suffix == ".jsonl":
        last = data.rstrip(b"\n").rfind(b"\n") + 1
        data = data[: int(random.integers(last, len(data)))]
    elif how == "cut":
        data = data[: int(random.integers(len(data)))]
    file.write_bytes(b"" if how == "empty" else bytes(data))
