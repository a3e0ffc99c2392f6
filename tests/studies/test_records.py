"""Test the tables of studies.

A record comes back without loss, a table is written whole or not at all, one process
writes at a time, and what is wrong is refused with one line.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.foundations.errors import CheckpointError, ConfigError
from contrec.ranking.evaluation import evaluate
from contrec.ranking.linear import EASE, Popularity
from contrec.ranking.records import Cost, record_name
from contrec.studies import study_tables as records
from contrec.studies.runner import read_ablation, run_name, run_once
from contrec.studies.study_tables import (
    RANKS,
    RUNS,
    find_record,
    per_user_ranks,
    read_records,
    read_study_table,
    record_kind,
    run_record,
    run_row,
    write_record,
    write_rows,
)
from contrec.studies.tuning import find_search, find_searches

STUDIES = Path(__file__).resolve().parents[2] / "nbs" / "experiments" / "records"

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(max_size=8)
VALUES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | NUMBERS | NAMES
SETTINGS = st.dictionaries(
    NAMES,
    st.recursive(
        VALUES,
        lambda x: st.lists(x, max_size=3) | st.dictionaries(NAMES, x, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
METRICS = st.dictionaries(
    st.sampled_from(["NDCG@10", "a.b", "HR@5 long", ""]), NUMBERS, min_size=1
)
SEEDS = st.integers(-(2**60), 2**60)
EVALUATIONS = st.fixed_dictionaries(
    {
        "dataset": NAMES,
        "system": NAMES,
        "seed": SEEDS,
        "part": NAMES,
        "config": SETTINGS,
        "metrics": METRICS,
        "beyond": METRICS,
        "ks": st.lists(st.integers(1, 99), min_size=1),
    },
    optional={
        "seconds": NUMBERS,
        "peak_mb": NUMBERS,
        "device": NAMES,
        "n_users": SEEDS,
        "parameters": SEEDS,
        "versions": SETTINGS,
        "commit": NAMES,
    },
)
TRIALS = st.fixed_dictionaries(
    {"config": SETTINGS, "seed": SEEDS, "context": SETTINGS, "metrics": METRICS},
    optional={"failed": NAMES, "seconds": NUMBERS},
)
SEARCHES = st.fixed_dictionaries(
    {
        "dataset": NAMES,
        "system": NAMES,
        "seed": SEEDS,
        "chosen": SETTINGS,
        "trials": st.lists(SETTINGS, max_size=3),
    },
    optional={"budget": SEEDS, "judged by": NAMES, "like": st.lists(NAMES)},
)


def evaluation(seed=0, **changes):
    return {
        "dataset": "toy",
        "system": "ease",
        "seed": seed,
        "part": "test",
        "ks": [5, 10],
        "config": {"penalty": 250.0},
        "metrics": {"NDCG@10": 0.25},
        "beyond": {},
    } | changes


def without_nothing(record):
    return {k: v for k, v in record.items() if v is not None and v != {}}


@given(
    st.dictionaries(
        st.text("abc/-", min_size=1, max_size=5),
        EVALUATIONS | TRIALS | SEARCHES,
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_record_comes_back(tmp_path_factory, kept):
    """From the file as Arrow gives it, and from the table of pandas."""
    path = tmp_path_factory.mktemp("study")
    write_rows(path, [run_row(record, run) for run, record in kept.items()])
    table = records._read_table(path / RUNS, records.RUN_SCHEMA)
    back = {row["run"]: run_record(row) for row in table.to_pylist()}
    assert {run: without_nothing(r) for run, r in back.items()} == {
        run: without_nothing(r) for run, r in kept.items()
    }
    table = read_study_table(path)
    assert table["run"].tolist() == sorted(kept)
    for _, row in table.iterrows():
        record = kept[row["run"]]
        assert row["kind"] == record_kind(record) and row["seed"] == record["seed"]
        assert row["config"] == record.get("config")
        for name, value in record.get("metrics", {}).items():
            assert row[f"metrics.{name}"] == value


@given(st.lists(st.integers(0, 2**31 - 1), max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_ranks_come_back(tmp_path_factory, ranks):
    path = tmp_path_factory.mktemp("study")
    write_rows(
        path,
        [run_row(evaluation(), "a"), run_row(evaluation(1), "b")],
        {"b": np.array(ranks, np.int32)},
    )
    found = per_user_ranks(path, ["b"])["b"]
    assert found.dtype == np.int32 and found.tolist() == ranks
    assert list(per_user_ranks(path)) == ["b"]


def test_rows_are_added_and_chosen(tmp_path):
    path = tmp_path / "study"
    write_rows(path, [run_row(evaluation(1), "b")], {"b": [1, 2]})
    write_rows(
        path, [run_row(evaluation(0, system="sasrec", metrics={"HR@5": 1}), "a")]
    )
    write_rows(path, [run_row(evaluation(1), "b")], {"b": [1, 2]})  # The same once more
    table = read_study_table(path)
    assert table["run"].tolist() == ["a", "b"]
    assert read_study_table(path, system="ease", seed=[1, 7])["run"].tolist() == ["b"]
    assert "metrics.HR@5" not in read_study_table(path, system="ease")
    assert len(read_study_table(path, seed=9)) == 0
    plain = pd.read_parquet(path / RUNS)
    assert plain["metrics.NDCG@10"].isna().tolist() == [True, False]


def test_another_run_of_the_same_name_is_refused_or_replaces(tmp_path):
    path = tmp_path / "study"
    write_rows(path, [run_row(evaluation(), "a")], {"a": [1, 2]})
    before = (path / RUNS).read_bytes(), (path / RANKS).read_bytes()
    other = run_row(evaluation(metrics={"NDCG@10": 0.5}), "a")
    with pytest.raises(ConfigError, match="another run 'a' already"):
        write_rows(path, [other], {"a": [3, 4]})
    assert ((path / RUNS).read_bytes(), (path / RANKS).read_bytes()) == before
    write_rows(path, [other], {"a": [3, 4]}, replace=True)
    assert read_study_table(path)["metrics.NDCG@10"].tolist() == [0.5]
    assert per_user_ranks(path)["a"].tolist() == [3, 4]


def test_the_same_records_give_the_same_bytes(tmp_path):
    rows = [run_row(evaluation(n), f"run {n}") for n in range(5)]
    write_rows(tmp_path / "a", rows)
    for row in rows[::-1]:
        write_rows(tmp_path / "b", [row])
    one, two = (tmp_path / name / RUNS for name in "ab")
    assert one.read_bytes() == two.read_bytes()


WRITER = """
import sys
from contrec.studies.study_tables import run_row, write_rows
for n in range(4):
    run = f"{sys.argv[2]} {n}"
    record = {"config": {}, "seed": n, "context": {}, "metrics": {"x": n}}
    write_rows(sys.argv[1], [run_row(record, run)], {run: [n]})
"""


def test_several_processes_lose_no_row(tmp_path):
    path = tmp_path / "study"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in "ab"
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    runs = [f"{name} {n}" for name in "ab" for n in range(4)]
    assert read_study_table(path)["run"].tolist() == runs
    assert sorted(per_user_ranks(path)) == runs


def test_a_writer_waits_and_then_gives_up(tmp_path):
    path = tmp_path / "study"
    path.mkdir()
    with FileLock(path / ".runs.lock"):
        outcome = []

        def write():
            try:
                write_rows(path, [run_row(evaluation(), "a")], timeout=0.1)
            except ConfigError as error:
                outcome.append(str(error))

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert "being written by another process" in outcome[0]
    assert not (path / RUNS).exists()


@pytest.mark.parametrize("place", [0, 1])
def test_a_writer_that_dies_leaves_the_old_study(tmp_path, monkeypatch, place):
    """Killed before the ranks, or between ranks and table.

    What is read is as before, and the next one succeeds.
    """
    path = tmp_path / "study"
    write_rows(path, [run_row(evaluation(), "a")], {"a": [1]})
    replaced, real = [], os.replace

    def replace(source, target):
        if len(replaced) == place:
            raise KeyboardInterrupt
        replaced.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            write_rows(path, [run_row(evaluation(1), "b")], {"b": [2]})
    assert read_study_table(path)["run"].tolist() == ["a"]
    assert per_user_ranks(path, ["a"])["a"].tolist() == [1]
    assert sorted(p.name for p in path.iterdir()) == [RANKS, RUNS]
    write_rows(path, [run_row(evaluation(1), "b")], {"b": [3]})
    assert {run: r.tolist() for run, r in per_user_ranks(path).items()} == {
        "a": [1],
        "b": [3],
    }


def test_ranks_of_another_run_are_not_believed(tmp_path, monkeypatch):
    """A writer that replaces a run dies between its ranks and its row.

    Or someone alters a rank.
    """
    path = tmp_path / "study"
    rows = [run_row(evaluation(), "a"), run_row(evaluation(1), "b")]
    write_rows(path, rows, {"a": [1], "b": [5]})
    before = (path / RUNS).read_bytes()
    write_rows(
        path,
        [run_row(evaluation(metrics={"NDCG@10": 0.5}), "a")],
        {"a": [2]},
        replace=True,
    )
    (path / RUNS).write_bytes(before)
    with pytest.raises(
        CheckpointError, match="the ranks of the run 'a' are not those of its row"
    ):
        per_user_ranks(path)
    assert per_user_ranks(path, ["b"])["b"].tolist() == [5]
    write_rows(path, rows[:1], {"a": [1]}, replace=True)
    assert per_user_ranks(path)["a"].tolist() == [1]


# A whole study


def test_every_kind_of_record_is_read_back(small_split, tmp_path):
    """Evaluations, a run of a grid and a search, in one table."""
    evaluations = [
        evaluate(system.fit(small_split), small_split)
        for system in (Popularity(), EASE(10))
    ]
    for found in evaluations:
        write_record(
            tmp_path,
            found,
            3,
            {"a": [1, None]},
            Cost(1.5, None, "x"),
            {"coverage@10": 0.5},
            parameters=7,
        )
    run_once(lambda config, seed: {"x": 1 / 3}, {"a": 1}, 0, tmp_path, {"b": 2})
    search = {
        "dataset": "toy",
        "system": "ease",
        "seed": 0,
        "split_sha256": "0",
        "chosen": {},
        "trials": [{"settings": {"a": None}, "score": 0.5, "seconds": 1.0}],
        "judged by": "NDCG@10",
        "budget": 1,
    }
    write_rows(tmp_path, [run_row(search, "search--toy--ease")])
    table = read_study_table(tmp_path)
    assert sorted(table["kind"]) == ["ablation", "evaluation", "evaluation", "search"]
    assert find_search(tmp_path, "toy", "ease") == search | {"like": []}
    assert read_ablation(tmp_path)["x"].tolist() == [1 / 3]
    kept = read_records(tmp_path).set_index("system")
    for found in evaluations:
        row = kept.loc[found.system]
        assert all(row[name] == value for name, value in found.metrics.items())
        assert (row["coverage@10"], row["seconds"], row["parameters"]) == (0.5, 1.5, 7)
        assert row["config"] == {"a": [1, None]} and row["device"] == "x"
        np.testing.assert_array_equal(row["ranks"], found.ranks)


@pytest.mark.parametrize(
    "field, value",
    {
        "seed": 1,
        "n_users": None,
        "metrics": {"NDCG@10": 0.25 + 1e-16},
        "versions": {"a": [1.5]},
        "unreachable": 2,
        "ks": [5],
        "beyond": {"x": 0},
        "failed": "no",
    }.items(),
)
def test_every_difference_is_found(tmp_path, field, value):
    record = evaluation(n_users=0, versions={"a": [1]}, unreachable=1)
    record |= {"metrics": {"NDCG@10": 0.25 - 1e-16}}
    write_rows(tmp_path, [run_row(record, "a")], {"a": [1, 2]})
    write_rows(tmp_path, [run_row(record, "a")], {"a": [1, 2]})
    for changed, ranks in ((record | {field: value}, [1, 2]), (record, [2, 1])):
        with pytest.raises(ConfigError, match="another run 'a' already"):
            write_rows(tmp_path, [run_row(changed, "a")], {"a": ranks})


def test_an_earlier_look_is_kept_apart(small_split, tmp_path):
    found = evaluate(Popularity().fit(small_split), small_split)
    name = write_record(tmp_path, found, 0, {"a": 1})
    row = pq.read_table(tmp_path / RUNS).to_pylist()[0]
    earlier = row | {"run": f"look-1--{name}", "look": 1, "config": '{"a": 0}'}
    write_rows(tmp_path, [earlier], {earlier["run"]: found.ranks})
    assert read_records(tmp_path)["config"].tolist() == [{"a": 1}]
    assert read_records(tmp_path, look=1)["config"].tolist() == [{"a": 0}]
    assert find_record(tmp_path, small_split, "popularity", 0, {"a": 1})
    with pytest.raises(CheckpointError, match="no records of look 2"):
        read_records(tmp_path, look=2)


@pytest.mark.parametrize(
    "folder",
    [p for p in sorted(STUDIES.iterdir()) if p.is_dir()],
    ids=lambda folder: folder.name,
)
def test_the_kits_own_records_are_whole(folder):
    """Each row is a record of its name, and metrics follow from the ranks."""
    assert {p.name for p in folder.iterdir()} <= {RUNS, RANKS}
    table = read_study_table(folder)
    looks = [None if np.isnan(x) else int(x) for x in table["look"].astype(float)]
    names = {"evaluation": set(), "ablation": set(), "search": set()}
    for look in sorted(set(looks), key=str):
        prefix = "" if look is None else f"look-{look}--"
        for kind, seen in names.items():
            for run, record in records.study_records(folder, kind, look=look).items():
                assert run == prefix + name_of(record)
                seen.add(run)
        if (table["kind"] == "evaluation").any():
            read_records(folder, look=look)
    assert set.union(*names.values()) == set(table["run"])
    with_ranks = [] if not names["evaluation"] else per_user_ranks(folder)
    assert set(with_ranks) == names["evaluation"]


def name_of(record):
    "The name of a row that its record asks for."
    if record_kind(record) == "ablation":
        return run_name(record["config"], record["seed"], record["context"])
    if record_kind(record) == "search":
        return f"search--{record['dataset']}--{record['system']}"
    return record_name(*(record[n] for n in ("dataset", "system", "seed", "part")))


# What is wrong gets a line

WRONG = {
    "no record": ({"a": 1}, "no record of a run"),
    "no dictionary": ([], "no record of a run"),
    "a field of its own": (
        evaluation(colour="red"),
        "the field 'colour' has no column",
    ),
    "a field called run": (evaluation(run="x"), "the field 'run' has no column"),
    "a metric in words": (
        evaluation(metrics={"NDCG@10": "high"}),
        "NDCG@10 is 'high', which no column",
    ),
    "a metric that is too long": (
        evaluation(metrics={"NDCG@10": 2**60 + 1}),
        "which no column",
    ),
    "a metric that is endless": (
        evaluation(metrics={"NDCG@10": float("inf")}),
        "is inf, which no column",
    ),
    "a metric that is true": (evaluation(beyond={"x": True}), "beyond x is True"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_record_is_refused(case):
    record, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        run_row(record, "name")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "one"},
        {"seed": 2**70},
        {"n_users": 1.5},
        {"ks": 5},
        {"ks": [0.5]},
        {"seconds": 2**60 + 1},
        {"failed": True},
        {"dataset": 3},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused(tmp_path, changes):
    with pytest.raises(ConfigError, match="does not fit"):
        write_rows(tmp_path, [run_row(evaluation(**changes), "a")])
    assert not list(tmp_path.iterdir())


def test_wrong_calls(tmp_path):
    path, row = tmp_path / "study", run_row(evaluation(), "a")
    with pytest.raises(ConfigError, match="one row only"):
        write_rows(path, [row, row])
    with pytest.raises(ConfigError, match="'b' must have one row"):
        write_rows(path, [row], {"b": [1]})
    with pytest.raises(ConfigError, match="no column 'colour'"):
        write_rows(path, [row | {"colour": 1}])
    with pytest.raises(CheckpointError, match="no table"):
        read_study_table(path)
    write_rows(path, [row])
    with pytest.raises(ConfigError, match="no column 'sytem'"):
        read_study_table(path, sytem="ease")
    with pytest.raises(CheckpointError, match="no ranks of the run 'a'"):
        per_user_ranks(path, ["a"])
    (path / RUNS).write_bytes((path / RUNS).read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="damaged"):
        read_study_table(path)
    with pytest.raises(CheckpointError, match="damaged"):
        write_rows(path, [row])


@pytest.mark.parametrize("ranks", [[1.5], [-1], [2**31], [[1]], ["a"], 3], ids=str)
def test_what_are_no_ranks_is_refused(tmp_path, ranks):
    path = tmp_path / "study"
    with pytest.raises(ConfigError, match="ranks of the run 'a' must be"):
        write_rows(path, [run_row(evaluation(), "a")], {"a": ranks})
    assert not list(path.glob("*.parquet"))


def test_wrong_folders(tmp_path):
    for read in (read_records, read_ablation):
        with pytest.raises(CheckpointError, match="holds no records"):
            read(tmp_path)
    (tmp_path / RUNS).mkdir()
    with pytest.raises(CheckpointError, match="runs.parquet is a folder"):
        read_records(tmp_path)
    (tmp_path / RUNS).rmdir()
    (tmp_path / RUNS).write_bytes(b"")
    for read in (read_records, read_ablation, find_searches, read_study_table):
        with pytest.raises(CheckpointError, match="runs.parquet is damaged"):
            read(tmp_path)
    for read in (read_records, read_ablation):
        with pytest.raises(CheckpointError, match="holds no records"):
            read(tmp_path / "nowhere")
