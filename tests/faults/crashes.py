"""Processes that die at any moment, and go on as if nothing had happened."""

import json
import shutil
import signal
from pathlib import Path

from contrec.studies.study_tables import read_study_table, run_record

from .campaign import Area, check_message, require
from .child import CALLS
from .forms import pick
from .jsons import GRID
from .processes import operations, spawn
from .tiny import leftovers, run_arguments, write_world

ENDS = {signal.SIGKILL: (137, -9), signal.SIGTERM: (143,), signal.SIGINT: (130,)}
COMMANDS = ("run", "compare", "ablate", "save", "fitted")
KEPT = (
    "metrics",
    "config",
    "seed",
    "chosen",
    "trials",
    "failed",
)  # Of a record: no times


class Crashes(Area):
    """Every trial kills a command once or twice, and then lets it end."""

    name = "crashes"
    limit = 400
    share = 4.0
    kinds = tuple(
        f"{command} {how}"
        for how in ("SIGKILL", "SIGTERM", "SIGINT", "at a time")
        for command in COMMANDS
    )

    def __init__(self, folder):
        super().__init__(folder)
        self.world = write_world(self.folder / "world")
        (self.folder / "grid.json").write_text(json.dumps(GRID))
        for n in (0, 1):
            out = self.folder / f"run{n}"
            run = run_arguments(self.world, out, "--seed", str(n))
            operations(run, out, self.world, self.folder / "said")
        self.counts, self.right = {}, {}
        for name in COMMANDS:
            out = self.out_of(name, self.folder / "whole" / name)
            line = self.line(name, out)
            self.counts[name] = operations(
                line, out.parent, self.world, self.folder / "said"
            )
            self.right[name] = state(name, out)

    def line(self, name, out):
        """Return the arguments of one of the commands."""
        model = self.folder / "run0" / "model"
        return {
            "run": run_arguments(self.world, out),
            "compare": [
                "compare",
                "--datasets",
                "ml-100k",
                "--systems",
                "item-knn",
                "contrec",
                "sasrec-ce",
                "--tune",
                "--device",
                "cpu",
                "--out",
                str(out),
            ],
            "ablate": ["ablate", str(self.folder / "grid.json"), "--out", str(out)],
            "save": ["save", str(model), str(out)],
            "fitted": ["fitted", str(model), str(out)],
        }[name]

    def out_of(self, name, place):
        """Return where a command writes; a save finds an older model there."""
        place.mkdir(parents=True)
        if name == "save":
            shutil.copytree(self.folder / "run1" / "model", place / "out")
        return place / "out"

    def attempt(self, kind, random, place):
        name, _, how = kind.partition(" ")
        out = self.out_of(name, place / "here")
        line = self.line(name, out)
        for _ in range(pick(random, [1, 1, 2])):
            ended = self.kill(name, line, how, random, place)
            self.check_end(name, how, ended)
            line = again(name, line)
        ended = spawn(line, out.parent, self.world, place / "said").end()
        require(
            ended.code == 0, f"not resumed: exit code {ended.code}: {ended.err[-600:]}"
        )
        require(
            "Traceback" not in ended.err, f"a traceback on resuming: {ended.err[-600:]}"
        )
        require(not leftovers(place), f"left behind: {leftovers(place)}")
        found = state(name, out)
        require(
            found == self.right[name],
            f"another end: {difference(found, self.right[name])}",
        )
        return "clean"

    def kill(self, name, line, how, random, place):
        """Start a command and let it die; note when."""
        if how == "at a time":
            sent, seconds = pick(random, list(ENDS)), 0.05 + 2 * float(random.random())
            self.told.setdefault("killed", []).append(
                f"{sent.name} after {seconds:.3f} s"
            )
            running = spawn(line, place / "here", self.world, place / "said")
            return sent, running.kill_after(seconds, sent)
        at, sent = int(random.integers(1, self.counts[name] + 1)), getattr(signal, how)
        self.told.setdefault("killed", []).append(f"{sent.name} at operation {at}")
        return (
            sent,
            spawn(line, place / "here", self.world, place / "said", at, sent).end(),
        )

    def check_end(self, name, how, ended):
        """Check the exit code of a killed command, and that it said little."""
        sent, said = ended
        early = how == "at a time" or name in CALLS  # Nobody handles the signal yet
        require(
            said.code in (0, *ENDS[sent]) or early and said.code == -sent,
            f"exit code {said.code} after {sent.name}: {said.err[-600:]}",
        )
        require(
            "Traceback" not in said.err,
            f"a traceback after {sent.name}: {said.err[-600:]}",
        )
        if said.code in (130, 143) and said.err:
            check_message(said.err)


def again(name, line):
    """Return the line that goes on with a stopped command."""
    return [*line, "--resume"] if name == "run" and "--resume" not in line else line


def state(name: str, out: Path) -> dict:
    """Return what a command left, without times and versions."""
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    names = [n for n in names if not n.endswith(".lock")]
    if name == "run":
        rows = [json.loads(r) for r in (out / "log.jsonl").read_text().splitlines()]
        metrics = json.loads((out / "metrics.json").read_text())["systems"]
        return {
            "files": names,
            "metrics": metrics,
            "log": [(r["stage"], r["epoch"]) for r in rows],
        }
    if name in ("save", "fitted"):
        weights = (out / "model.safetensors").read_bytes().hex()
        return {"files": names, "weights": weights}
    rows = read_study_table(out).to_dict("records")
    records = {row["run"]: kept(run_record(row)) for row in rows}
    return {"files": names, "records": records}


def kept(record: dict) -> dict:
    """Return what must be the same each time that a record is made."""
    found = {k: v for k, v in record.items() if k in KEPT}
    if "trials" in found:
        found["trials"] = [
            {k: t[k] for k in ("settings", "score")} for t in found["trials"]
        ]
    return found


def difference(found: dict, right: dict) -> str:
    """Return what differs, in short."""
    for key in right:
        a, b = found.get(key), right[key]
        if key == "files" and a != b:
            return (
                f"files too many {sorted({*a} - {*b})}, missing {sorted({*b} - {*a})}"
            )
        if a != b:
            return f"{key}: {str(a)[:300]} instead of {str(b)[:300]}"
    return ""
