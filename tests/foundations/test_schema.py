"""Files with wrong values at random places are accepted or refused in a line or two."""

import copy
import json
import random
from functools import partial

import pytest

from contrec.foundations.errors import ContrecError
from contrec.foundations.run_folder import read_log_rows
from contrec.ranking.evaluation import evaluate
from contrec.ranking.linear import Popularity
from contrec.ranking.records import read_records, write_record
from contrec.studies.ablation import read_study
from contrec.studies.runner import ablate, read_ablation
from contrec.studies.tuning import _read_search

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


@pytest.mark.parametrize(
    "value, read, seed", [(STUDY, read_study, 0), (SEARCH, _read_search, 1)]
)
def test_wrong_values_anywhere_in_a_file(tmp_path, value, read, seed):
    draw, path = random.Random(seed), tmp_path / "file.json"
    path.write_text(json.dumps(value))
    assert judged(lambda: read(path)) == 0
    refused = 0
    for text in texts(value, draw):
        path.write_bytes(text)
        refused += judged(lambda: read(path))
    assert refused > 30


def test_wrong_values_anywhere_in_records(tmp_path, small_split):
    draw = random.Random(2)
    ablate(lambda config, seed: {"m": 0.5}, {"a": 1}, {}, [0], tmp_path / "study")
    record = write_record(
        tmp_path / "runs",
        evaluate(Popularity().fit(small_split), small_split),
        0,
        {"a": 1},
    )
    for folder, path, read in (
        (tmp_path / "study", next((tmp_path / "study").glob("*.json")), read_ablation),
        (tmp_path / "runs", record, read_records),
    ):
        value = json.loads(path.read_text())
        assert judged(partial(read, folder)) == 0
        refused = 0
        for text in texts(value, draw):
            path.write_bytes(text)
            refused += judged(partial(read, folder))
        assert refused > 15


def test_wrong_values_anywhere_in_a_log(tmp_path):
    draw, path = random.Random(3), tmp_path / "log.jsonl"
    for text in texts(
        {"stage": "tokenizer", "epoch": 1, "total": 0.5, "seconds": 1.0}, draw
    ):
        path.write_bytes(text + b'\n{"stage": "a", "epoch": 1}\n')
        judged(lambda: read_log_rows(path))
