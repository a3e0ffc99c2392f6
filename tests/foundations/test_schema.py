"""Files with wrong values at random places are accepted or refused in a line or two."""

import copy
import json
import random
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from contrec.foundations.errors import ContrecError
from contrec.foundations.run_folder import read_log_rows
from contrec.ranking.evaluation import evaluate
from contrec.ranking.linear import Popularity
from contrec.studies.ablation import read_study
from contrec.studies.runner import ablate, read_ablation
from contrec.studies.study_tables import (
    RUN_SCHEMA,
    RUNS,
    read_records,
    run_row,
    write_record,
    write_rows,
)
from contrec.studies.tuning import find_searches

WRONG = [
    None,
    True,
    False,
    0,
    -1,
    3.5,
    10**30,
    -(10**30),
    1e308,
    "",
    "x",
    "\x1b[31m",
    "é" * 200,
    [],
    [None],
    [[]],
    {},
    {"x": None},
    {"": {"": []}},
]
STUDY = {
    "run": "tokenizer",
    "datasets": ["ml-100k"],
    "fixed": {"steps": 3, "input": 8, "tokenizer": {"kind": "SigmaVAE"}},
    "default": {"a": 1, "b": [1]},
    "factors": {"a": [1, 2]},
    "seeds": [0, 1],
    "mode": "each",
    "also": [{"a": 3}],
}
SEARCH = {
    "dataset": "ml-100k",
    "system": "ease",
    "split_sha256": "0",
    "seed": 0,
    "chosen": {"a": 1},
    "trials": [{"settings": {"a": 1}, "score": 0.1, "seconds": 1.0, "failed": None}],
    "like": [],
}


def places(value, path=()):
    yield path
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from places(inner, (*path, key))


def altered(value, draw):
    "The value with one place changed, taken out, or added to."
    value = copy.deepcopy(value)
    *before, last = draw.choice([p for p in places(value) if p])
    at = value
    for key in before:
        at = at[key]
    if draw.random() < 0.15:
        del at[last]
    else:
        at[last] = draw.choice(WRONG)
    return value


def texts(value, draw):
    "JSON with a wrong value, or a text that is hardly JSON."
    good = json.dumps(value)
    yield from (json.dumps(altered(value, draw)).encode() for _ in range(60))
    yield from (json.dumps(w).encode() for w in WRONG)
    cut = draw.randrange(len(good))
    yield from (
        good[:cut].encode(),
        b"\xff\xfe" + good.encode("utf-16-le"),
        b"\xef\xbb\xbf" + good.encode(),
        b"",
        b"[" * 50_000,
        good.replace("1", "NaN", 1).encode(),
        good.replace("1", "1" * 5000, 1).encode(),
        (good[:-1] + "," + good[1:]).encode(),
        b'"\\ud800"',
    )


def judged(read):
    try:
        read()
    except ContrecError as error:
        assert 1 <= len(str(error).splitlines()) <= 2 and "\x1b" not in str(error), str(
            error
        )
        return 1
    return 0


def test_wrong_values_anywhere_in_a_grid(tmp_path):
    draw, path = random.Random(0), tmp_path / "grid.yaml"
    path.write_text(json.dumps(STUDY))
    assert judged(lambda: read_study(path)) == 0
    refused = 0
    for text in texts(STUDY, draw):
        path.write_bytes(text)
        refused += judged(lambda: read_study(path))
    assert refused > 30


def wrong_cells(row, draw):
    "The row with a wrong value in one of its columns, of the column's own type."
    wrong = {
        pa.string(): [None, "", "x", "[]", "{", "\x1b[31m", '{"x": NaN}', "[" * 50_000],
        pa.int64(): [None, -1, 2**62],
        pa.float64(): [None, float("nan"), float("inf"), -1.0],
    }
    for name, value in row.items():
        kind = RUN_SCHEMA.field(name).type if name in RUN_SCHEMA.names else pa.float64()
        for other in wrong.get(kind, [None, [], [0], [-1]]):
            yield {**row, name: other}
        if isinstance(value, str) and value.startswith("{"):
            for _ in range(20):
                yield {**row, name: json.dumps(altered({"": json.loads(value)}, draw))}


def test_wrong_values_anywhere_in_records(tmp_path, small_split):
    draw = random.Random(2)
    for folder, read in (
        (tmp_path / "study", read_ablation),
        (tmp_path / "runs", read_records),
        (tmp_path / "searches", find_searches),
    ):
        if read is read_ablation:
            ablate(lambda config, seed: {"m": 0.5}, {"a": 1}, {}, [0], folder)
        elif read is read_records:
            found = evaluate(Popularity().fit(small_split), small_split)
            write_record(folder, found, 0, {"a": 1})
        else:
            write_rows(folder, [run_row(SEARCH, "search--ml-100k--ease")])
        assert judged(partial(read, folder)) == 0
        table, refused = pq.read_table(folder / RUNS), 0
        for row in wrong_cells(table.to_pylist()[0], draw):
            wrong = pa.Table.from_pylist([row], table.schema)
            pq.write_table(wrong, folder / RUNS)
            refused += judged(partial(read, folder))
        assert refused > 15


def test_any_bytes_instead_of_a_table_are_refused(tmp_path, small_split):
    draw = random.Random(4)
    found = evaluate(Popularity().fit(small_split), small_split)
    write_record(tmp_path, found, 0, {"a": 1})
    good, refused = (tmp_path / RUNS).read_bytes(), 0
    for _ in range(150):
        wrong = bytearray(good)
        for _ in range(draw.randrange(1, 5)):
            wrong[draw.randrange(len(wrong))] = draw.randrange(256)
        (tmp_path / RUNS).write_bytes(bytes(wrong[: draw.choice([None, -9, 40])]))
        refused += judged(partial(read_records, tmp_path))
    assert refused > 75


def test_wrong_values_anywhere_in_a_log(tmp_path):
    draw, path = random.Random(3), tmp_path / "log.jsonl"
    for text in texts(
        {"stage": "tokenizer", "epoch": 1, "total": 0.5, "seconds": 1.0}, draw
    ):
        path.write_bytes(text + b'\n{"stage": "a", "epoch": 1}\n')
        judged(lambda: read_log_rows(path))
