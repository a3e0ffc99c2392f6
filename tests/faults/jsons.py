"""JSON of a run, a model, a study and a comparison with any value anywhere."""

import copy
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import contrec.studies.ablation
import contrec.studies.comparison
from contrec.data.reading import read_items, read_log
from contrec.data.split import leave_one_out
from contrec.studies.study_tables import RUNS

from .campaign import Area, require
from .forms import pick
from .tiny import (
    command,
    judge,
    pretend_run,
    run_arguments,
    use_tiny_presets,
    write_world,
)

VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2.5,
    1e308,
    10**30,
    -(10**30),
    "",
    "x",
    "1",
    "\x1b[31m",
    "\u202e",
    "a" * 10_000,
    "../../etc/passwd",
    "a\x00b",
    [],
    {},
    [[]],
    [None],
    ["x", 1],
    {"a": 1},
    {"": None},
    float("nan"),
    float("inf"),
)
GRID = {
    "run": "model",
    "datasets": ["ml-100k"],
    "fixed": {"preset": "contrec"},
    "seeds": [0, 1],
    "default": {"training.epochs": 2, "training.lr": 0.001},
    "factors": {"training.epochs": [1, 3]},
    "mode": "each",
}


def nodes(value, path=()):
    """Yield the path of every node below a JSON value, itself included."""
    yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in inner:
        yield from nodes(child, (*path, key))


def parent_of(value, path):
    """Return the container of the node at a path."""
    for key in path[:-1]:
        value = value[key]
    return value


def with_another_value(value, random):
    """Replace one node by a value of any type."""
    value, path, new = (
        copy.deepcopy(value),
        pick(random, list(nodes(value))),
        pick(random, VALUES),
    )
    if not path:
        return new, f"all of it is {str(new)[:40]!r}"
    parent_of(value, path)[path[-1]] = copy.deepcopy(new)
    return value, f"{path} is {str(new)[:40]!r}"


def without_a_node(value, random):
    """Delete one node."""
    value, paths = copy.deepcopy(value), [p for p in nodes(value) if p]
    path = pick(random, paths)
    del parent_of(value, path)[path[-1]]
    return value, f"{path} is gone"


def with_a_stranger(value, random):
    """Add a key or an element."""
    value = copy.deepcopy(value)
    path = pick(random, list(nodes(value)))
    node = value
    for key in path:
        node = node[key]
    if isinstance(node, dict):
        node["stranger"] = pick(random, VALUES)
    if isinstance(node, list):
        node.append(pick(random, VALUES))
    return value, f"more in {path}"


def broken_text(text, random):
    """Break the file itself, not its values."""
    how = pick(
        random,
        [
            "cut",
            "garbage",
            "deep",
            "duplicate",
            "bom",
            "utf-16",
            "empty",
            "comma",
            "binary",
            "null bytes",
            "surrogate",
        ],
    )
    data = {
        "cut": lambda: text[: int(random.integers(len(text)))].encode(),
        "garbage": lambda: flipped(text, random),
        "deep": lambda: ("[" * 100_000 + "]" * 100_000).encode(),
        "duplicate": lambda: text.replace("{", '{"seed": 5, "seed": [], ', 1).encode(),
        "bom": lambda: b"\xef\xbb\xbf" + text.encode(),
        "utf-16": lambda: text.encode("utf-16"),
        "empty": lambda: b"",
        "comma": lambda: text.replace(",", ",,", 1).encode(),
        "binary": lambda: random.bytes(500),
        "null bytes": lambda: b"\x00" * len(text),
        "surrogate": lambda: b'{"name": "\\ud800"}',
    }[how]()
    return data, how


def flipped(text, random):
    """Change some bytes."""
    data = bytearray(text.encode())
    for _ in range(5):
        data[int(random.integers(len(data)))] = int(random.integers(256))
    return bytes(data)


VALUE_CHANGES = (with_another_value, without_a_node, with_a_stranger)


def alter(path: Path, random) -> str:
    """Change one thing in a JSON file, or in one row of a file of JSON lines."""
    text = path.read_text(encoding="utf-8")
    if random.random() < 0.25:
        data, how = broken_text(text, random)
        path.write_bytes(data)
        return how
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    at = int(random.integers(len(lines)))
    value, how = pick(random, VALUE_CHANGES)(json.loads(lines[at]), random)
    lines[at] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"line {at + 1}: {how}" if len(lines) > 1 else how


def alter_row(path: Path, random, kinds) -> str:
    """Change the JSON text of one cell of a study's table, or a byte of the file."""
    if random.random() < 0.25:
        data = bytearray(path.read_bytes())
        at = int(random.integers(len(data)))
        data[at] ^= 1 + int(random.integers(255))
        path.write_bytes(bytes(data))
        return f"byte {at}"
    table = pq.read_table(path)
    rows = table.to_pylist()
    cells = [
        (row, name)
        for row in rows
        for name in ("config", "context", "versions", "search")
        if row["kind"] in kinds and len(row[name] or "") > 2
    ]
    row, name = cells[int(random.integers(len(cells)))]
    if random.random() < 0.25:
        data, how = broken_text(row[name], random)
        row[name] = data.decode("utf-8", errors="replace")
    else:
        value, how = pick(random, VALUE_CHANGES)(json.loads(row[name]), random)
        row[name] = json.dumps(value)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    return f"{row['run']}, {name}: {how}"


class Jsons(Area):
    """Every trial alters one JSON text and uses what it belongs to."""

    name = "jsons"
    share = 1.5
    kinds = (
        "model config",
        "grid",
        "run metrics",
        "catalogue",
        "study record",
        "run config",
        "manifest",
        "compare record",
        "run log",
        "text",
        "tuned record",
    )

    def __init__(self, folder):
        super().__init__(folder)
        use_tiny_presets()
        self.world = write_world(self.folder / "world")
        items = read_items(self.world / "items.csv")
        split = leave_one_out(read_log(self.world / "log.csv", items=items))
        contrec.studies.ablation.RUNS["model"] = pretend_run
        for module in (
            contrec.studies.ablation,
            contrec.studies.experiments,
            contrec.studies.tuning,
        ):
            module.load_split = lambda name, ties="file", **_: split
        contrec.studies.tuning.split_of.cache_clear()
        self.run, self.study = self.folder / "run", self.folder / "study"
        self.compared, self.grid = self.folder / "compared", self.folder / "grid.json"
        self.grid.write_text(json.dumps(GRID))
        for said in (
            command(*run_arguments(self.world, self.run)),
            self.ablate(self.grid, self.study),
            self.compare(self.compared),
        ):
            require(said.code == 0, said.err)

    def ablate(self, grid, out):
        return command("ablate", grid, "--out", out)

    def compare(self, out):
        return command(
            "compare",
            "--datasets",
            "ml-100k",
            "--systems",
            "popularity",
            "item-knn",
            "--tune",
            "--out",
            out,
        )

    def attempt(self, kind, random, place):
        return judge(getattr(self, "alter_" + kind.split()[0])(kind, random, place))

    def change(self, path, random):
        """Alter a file and note what was done."""
        self.told |= {"file": path.name, "change": alter(path, random)}

    def alter_run(self, kind, random, place):
        shutil.copytree(self.run, place / "run")
        self.change(
            place
            / "run"
            / {
                "run metrics": "metrics.json",
                "run config": "config.json",
                "run log": "log.jsonl",
            }[kind],
            random,
        )
        return command(*run_arguments(self.world, place / "run", "--resume"))

    def alter_model(self, kind, random, place, pattern="config.json"):
        model = place / "model"
        shutil.copytree(self.run / "model", model)
        files = sorted(model.glob(pattern))
        require(files, f"no {pattern} in a model folder")
        self.change(pick(random, files), random)
        return command(
            "recommend",
            "--model",
            model,
            "--history",
            "i001,i002",
            "--device",
            "cpu",
            *pick(random, [[], ["--no-verify"]]),
        )

    def alter_catalogue(self, kind, random, place):
        return self.alter_model(kind, random, place, "catalogue.json")

    def alter_manifest(self, kind, random, place):
        return self.alter_model(kind, random, place, "manifest.json")

    def alter_text(self, kind, random, place):
        return self.alter_model(kind, random, place, "text/*.json")

    def alter_grid(self, kind, random, place):
        shutil.copy(self.grid, place / "grid.yaml")
        self.change(place / "grid.yaml", random)
        return self.ablate(place / "grid.yaml", place / "study")

    def alter_study(self, kind, random, place):
        shutil.copytree(self.study, place / "study")
        self.change_row(place / "study", random, ["ablation"])
        return self.ablate(self.grid, place / "study")

    def change_row(self, study, random, kinds):
        """Alter a study's table and note what was done."""
        self.told |= {"file": RUNS, "change": alter_row(study / RUNS, random, kinds)}

    def alter_compare(self, kind, random, place, kinds=("evaluation",)):
        out = place / "compared"
        shutil.copytree(self.compared, out)
        self.change_row(out, random, kinds)
        return self.compare(out)

    def alter_tuned(self, kind, random, place):
        return self.alter_compare(kind, random, place, ("ablation", "search"))
