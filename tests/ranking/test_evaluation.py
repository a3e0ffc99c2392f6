"""Evaluation and records.

The rules of a list are held, parts are never mixed, and a killed or altered run cannot
fake a record.
"""

import subprocess
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.data.interactions import Ragged
from contrec.data.reading import from_frame
from contrec.data.split import leave_one_out
from contrec.foundations.errors import CheckpointError, ConfigError, ContrecError
from contrec.ranking import records
from contrec.ranking.beyond_accuracy import (
    beyond_accuracy,
    by_group,
    coverage,
    diversity,
    history_groups,
    miscalibration,
    novelty,
    popularity_groups,
)
from contrec.ranking.evaluation import Evaluation, compare, evaluate
from contrec.ranking.linear import Popularity
from contrec.ranking.metrics import TopK, paired_bootstrap
from contrec.ranking.recommender import Recommender
from contrec.ranking.records import Cost, commit, config_hash, measured
from contrec.studies import study_tables
from contrec.studies.study_tables import (
    RANKS,
    RUNS,
    find_record,
    per_user_ranks,
    read_records,
    run_row,
    study_records,
    write_record,
    write_rows,
)


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u}", f"i{i}", t)
        for u in range(40)
        for t, i in enumerate(rng.permutation(60)[: rng.integers(5, 15)])
    ]
    items = pd.DataFrame(
        {
            "item": [f"i{i}" for i in range(60)],
            "title": [f"Title {i}" for i in range(60)],
            "categories": [("odd",) if i % 2 else ("even", "round") for i in range(60)],
        }
    )
    return leave_one_out(
        from_frame(
            pd.DataFrame(rows, columns=["user", "item", "timestamp"]),
            items=items,
            name="small",
        ),
        core=1,
    )


class Fixed(Recommender):
    "Scores that are given, per user; notes what it is asked for."

    def __init__(self, split, scores, name="fixed"):
        self.split, self.scores, self.name, self.asked = split, scores, name, []

    def fit(self, split, log=None):
        return self

    def score(self, histories, users=None):
        self.asked.append((histories, users))
        return self.scores[users].astype(np.float32)


class Lists(Recommender):
    "Lists that are given, right or wrong."

    name = "lists"

    def __init__(self, ids):
        self.ids = ids

    def rank(self, histories, k=20, users=None, exclude_seen=True, batch_size=512):
        return TopK(self.ids, np.zeros(self.ids.shape, np.float32))


def noise(split, seed):
    return np.random.default_rng(seed).normal(size=(split.n_users, split.n_items))


def result(split, seed, name="fixed", part="test"):
    return evaluate(Fixed(split, noise(split, seed), name), split, part)


def test_ranks_equal_those_of_a_slow_oracle(split):
    scores = noise(split, 1)
    for part in ("valid", "test"):
        histories, targets = split.histories(part), split.targets(part)
        expected = []
        for u in range(split.n_users):
            if targets[u] in histories[u]:
                expected.append(0)
                continue
            better = sum(
                scores[u, i] > scores[u, targets[u]]
                for i in range(split.n_items)
                if i not in histories[u]
            )
            expected.append(better + 1 if better < 20 else 0)
        np.testing.assert_array_equal(
            evaluate(Fixed(split, scores), split, part).ranks, expected
        )


def test_trap_16_test_metrics_not_from_validation_outputs(split):
    asked = Fixed(split, noise(split, 2))
    valid, test = (
        evaluate(asked, split, "valid", batch_size=1000),
        evaluate(asked, split, "test", batch_size=1000),
    )
    (first, _), (second, users) = asked.asked
    assert len(asked.asked) == 2  # Ranked anew, not the same lists with other targets
    np.testing.assert_array_equal([row[-1] for row in second], split.valid)
    np.testing.assert_array_equal(second.lengths, first.lengths + 1)
    np.testing.assert_array_equal(users, np.arange(split.n_users))
    knows = np.zeros((split.n_users, split.n_items))
    knows[np.arange(split.n_users), split.valid] = 1
    assert evaluate(Fixed(split, knows), split, "valid").metrics["HR@5"] == 1
    assert not (
        evaluate(Fixed(split, knows), split, "test").ids == split.valid[:, None]
    ).any()
    with pytest.raises(ConfigError, match="different parts"):
        compare([valid, test])


def test_batch_size_changes_nothing(split):
    scores = noise(split, 3)
    np.testing.assert_array_equal(
        evaluate(Fixed(split, scores), split, batch_size=1).ids,
        evaluate(Fixed(split, scores), split, batch_size=999).ids,
    )


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda ids, split: ids[:, :5], "shape"),
        (lambda ids, split: ids[:-1], "shape"),
        (lambda ids, split: np.where(ids == ids[3, 0], split.n_items, ids), "no item"),
        (
            lambda ids, split: np.where(
                np.arange(len(ids))[:, None] == 2, ids[2, 0], ids
            ),
            "user 2 holds an item twice",
        ),
        (
            lambda ids, split: np.concatenate(
                [
                    np.where(np.arange(len(ids)) == 7, split.valid, ids[:, 0])[:, None],
                    ids[:, 1:],
                ],
                1,
            ),
            "user 7 holds an item of the user's own history",
        ),
    ],
)
def test_lists_that_break_the_rules_get_no_number(split, spoil, message):
    ids = (
        Fixed(split, noise(split, 4))
        .rank(split.histories("test"), 20, np.arange(split.n_users))
        .ids
    )
    evaluate(Lists(ids), split)
    with pytest.raises(ConfigError, match=message):
        evaluate(Lists(spoil(ids.copy(), split)), split)


def test_short_lists_are_allowed(split):
    ids = np.full((split.n_users, 20), -1)
    assert evaluate(Lists(ids), split).metrics["HR@20"] == 0


def test_unreachable_targets_are_counted():
    frame = pd.DataFrame(
        [
            (f"u{u}", i, t)
            for u in range(4)
            for t, i in enumerate("abcda" if u < 3 else "abcde")
        ],
        columns=["user", "item", "timestamp"],
    )
    again = leave_one_out(from_frame(frame, name="again"), core=1)
    assert evaluate(Popularity().fit(again), again).unreachable == 3


def test_record_round_trip(split, tmp_path):
    evaluation, cost = result(split, 5), Cost(1.5, 200.0)
    name = write_record(
        tmp_path, evaluation, 7, {"a": 1, "b": [1, 2]}, cost, {"coverage@10": 0.5}, 1234
    )
    row = read_records(tmp_path).iloc[0]
    for field, value in dict(
        dataset="small",
        system="fixed",
        seed=7,
        part="test",
        config={"a": 1, "b": [1, 2]},
        split_sha256=split.sha256,
        seconds=1.5,
        peak_mb=200.0,
        parameters=1234,
        n_users=split.n_users,
    ).items():
        assert row[field] == value
    assert (
        row["NDCG@10"] == evaluation.metrics["NDCG@10"]
        and row["coverage@10"] == 0.5
        and row["users_per_second"] > 0
        and "commit" in row
    )
    np.testing.assert_array_equal(row["ranks"], evaluation.ranks)
    found = find_record(tmp_path, split, "fixed", 7, {"b": [1, 2], "a": 1})
    assert found["metrics"] == evaluation.metrics
    assert (
        find_record(tmp_path, split, "fixed", 7, {"a": 1}) is None
        and find_record(tmp_path, split, "fixed", 8, {"a": 1, "b": [1, 2]}) is None
    )
    assert {
        "dataset",
        "system",
        "seed",
        "config",
        "split_sha256",
        "commit",
        "seconds",
        "peak_mb",
        "users_per_second",
        "metrics",
    } <= set(study_records(tmp_path, "evaluation", name)[name])
    # Nothing half-written stays
    assert sorted(p.name for p in tmp_path.iterdir()) == [RANKS, RUNS]


def test_a_table_says_what_the_trainings_ran_on(split, tmp_path):
    for seed, device in enumerate(["cpu b", "cpu a, cpu b", None]):
        write_record(tmp_path, result(split, 5), seed, {}, Cost(device=device))
    name = "small--fixed--2"
    older = study_records(tmp_path, "evaluation", name)[name]
    older.pop("device", None)
    ranks = per_user_ranks(tmp_path, [name])
    write_rows(tmp_path, [run_row(older, name)], ranks, replace=True)
    records = read_records(tmp_path)
    assert records["device"].tolist() == [
        "cpu b",
        "cpu a, cpu b",
        older["versions"]["device"],
    ]
    assert compare(records.head(2)).loc[0, "device"] == "cpu a, cpu b"


def test_validation_and_test_records_stand_side_by_side(split, tmp_path):
    write_record(tmp_path, result(split, 5), 0, {})
    write_record(tmp_path, result(split, 5, part="valid"), 0, {})
    records = read_records(tmp_path)
    assert sorted(records["part"]) == ["test", "valid"]
    with pytest.raises(ConfigError, match="different parts"):
        compare(records)


def test_a_kill_between_the_files_leaves_no_record(split, tmp_path, monkeypatch):
    def killed(path, table, real=study_tables._write_table):
        if path.name == RUNS:
            raise KeyboardInterrupt
        real(path, table)

    monkeypatch.setattr(study_tables, "_write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path, result(split, 6), 0, {})
    assert find_record(tmp_path, split, "fixed", 0, {}) is None
    with pytest.raises(CheckpointError, match="no records"):
        read_records(tmp_path)


def altered(path, **columns):
    "Write a study's file again with other values in some columns."
    rows = pq.read_table(path).to_pylist()
    names = pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist([r | columns for r in rows], names), path)


def others(path):
    "Write a Parquet file that is no table of a study."
    pq.write_table(pa.table({"run": ["small--fixed--0"], "other": [1]}), path)


@pytest.mark.parametrize(
    "harm,message",
    [
        (lambda j, n: j.write_bytes(j.read_bytes()[:-20]), "runs.parquet is damaged"),
        (lambda j, n: j.write_text("[]"), "runs.parquet is damaged"),
        (lambda j, n: others(j), "runs.parquet is damaged or no table of a study"),
        (lambda j, n: altered(j, config="{"), "fixed--0: config is not valid JSON"),
        (lambda j, n: altered(j, config="[]"), "fixed--0: config is no object"),
        (lambda j, n: altered(j, dataset=None), "fixed--0: the field 'dataset' is"),
        (lambda j, n: altered(j, ks=[0]), r"fixed--0: ks\[0\] is 0"),
        (lambda j, n: n.write_bytes(n.read_bytes()[:40]), "ranks.parquet is damaged"),
        (lambda j, n: n.write_bytes(b""), "ranks.parquet is damaged"),
        (lambda j, n: n.unlink(), "no ranks of the run 'small--fixed--0'"),
        (lambda j, n: others(n), "ranks.parquet is damaged"),
        (lambda j, n: altered(n, ranks=[1] * 40), "small--fixed--0' are not those"),
        (lambda j, n: altered(j, ranks_sha256="0"), "small--fixed--0' are not those"),
        (lambda j, n: altered(j, **{"metrics.NDCG@10": 0.9}), "fixed--0: NDCG@10 is"),
    ],
)
def test_damaged_records_are_named(split, tmp_path, harm, message):
    write_record(tmp_path, result(split, 7), 0, {})
    harm(tmp_path / RUNS, tmp_path / RANKS)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_records(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_two_systems_never_share_a_row(split, tmp_path):
    write_record(tmp_path, result(split, 1, "SASRec (CE)"), 0, {})
    with pytest.raises(ConfigError, match="same name"):
        write_record(tmp_path, result(split, 1, "sasrec, ce"), 0, {})


def test_unwritable_folder(split, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ContrecError, match="cannot write"):
        write_record(tmp_path / "file", result(split, 1), 0, {})


def test_config_hash_is_stable():
    assert (
        config_hash({"a": 1, "b": 2})
        == config_hash({"b": 2, "a": 1})
        != config_hash({"a": 1, "b": 3})
    )
    assert config_hash({}) == "44136fa355b3"


def test_commit_follows_the_repository(tmp_path, monkeypatch):
    def git(*arguments):
        return subprocess.run(
            [
                "git",
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b",
                "-C",
                tmp_path,
                *arguments,
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    package = tmp_path / "contrec"
    package.mkdir()
    source = package / "__init__.py"
    source.write_text("")
    spec = type("Spec", (), {"origin": str(source)})
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: spec)
    assert commit() is None
    git("init", "-q")
    assert commit() is None  # Not tracked: someone else's repository
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    assert commit() == git("rev-parse", "HEAD")
    source.write_text("1")
    assert commit() == git("rev-parse", "HEAD") + "+"


def test_measured_notes_the_peak_of_its_own_block():
    with measured() as large:
        np.ones(30_000_000).sum()
        time.sleep(0.05)  # 229 MiB
    with measured() as small:
        pass
    assert large.seconds >= 0.05 > small.seconds
    # Equal where the mark cannot be reset
    if large.peak_mb is not None:
        assert large.peak_mb - small.peak_mb > 100 or small.peak_mb == large.peak_mb
    with pytest.raises(ValueError), measured() as failed:
        raise ValueError
    assert failed.seconds is not None


def test_a_block_inside_another_takes_nothing_from_its_peak():
    with measured() as outer:
        np.ones(30_000_000).sum()  # 229 MiB
        with measured() as inner:
            pass
    if outer.peak_mb is not None:
        assert outer.peak_mb - inner.peak_mb > 100 or inner.peak_mb == outer.peak_mb
    with measured() as outer, measured() as inner:
        np.ones(30_000_000).sum()
    if outer.peak_mb is not None:
        assert outer.peak_mb >= inner.peak_mb


def test_memory_and_random_state_are_those_of_the_gpu_that_was_named(monkeypatch):
    import torch

    import contrec.foundations.trainer

    asked = []
    monkeypatch.setattr(records, "device_name", lambda device=None: "a GPU")
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device=None: asked.append(device)
    )
    monkeypatch.setattr(
        torch.cuda,
        "max_memory_allocated",
        lambda device=None: asked.append(device) or 2**20,
    )
    with measured("cuda:1") as cost:
        pass
    assert cost.peak_mb == 1 and asked == [torch.device("cuda:1")] * 2
    monkeypatch.setattr(
        torch.cuda,
        "get_rng_state",
        lambda device=None: asked.append(device) or torch.zeros(2),
    )
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device=None: asked.append(device)
    )
    state = contrec.foundations.trainer._random_states(
        lambda rows: rows, torch.device("cuda:1")
    )
    contrec.foundations.trainer._restore_random(state, 0, torch.device("cuda:1"))
    assert asked == [torch.device("cuda:1")] * 4
    assert "rng_cuda" not in contrec.foundations.trainer._random_states(
        lambda rows: rows, torch.device("cpu")
    )


def test_comparison_from_records_equals_that_from_evaluations(split, tmp_path):
    evaluations = [result(split, s, f"system {s}") for s in range(3)]
    for e in evaluations:
        write_record(tmp_path, e, 0, {})
    columns = [
        "system",
        "NDCG@10",
        "low",
        "high",
        "difference",
        "difference low",
        "difference high",
        "p",
    ]
    pd.testing.assert_frame_equal(
        compare(evaluations, reference="system 1")[columns],
        compare(read_records(tmp_path), reference="system 1")[columns],
    )


def test_contrast_has_a_sign_and_equals_the_paired_bootstrap(split):
    perfect = np.zeros((split.n_users, split.n_items))
    perfect[np.arange(split.n_users), split.test] = 1
    best, poor = (
        evaluate(Fixed(split, perfect, "perfect"), split),
        result(split, 1, "poor"),
    )
    table = compare([poor, best], reference="poor").set_index("system")
    assert list(table.index) == ["perfect", "poor"]
    contrast = paired_bootstrap(best.per_user["NDCG@10"], poor.per_user["NDCG@10"])
    row = table.loc["perfect"]
    assert (
        row["difference"],
        row["difference low"],
        row["difference high"],
        row["p"],
    ) == tuple(contrast)
    assert (
        row["difference low"] > 0
        and row["p"] < 0.01
        and np.isnan(table.loc["poor", "p"])
    )
    assert row["low"] <= row["NDCG@10"] <= row["high"]


def test_seeds_are_averaged_per_user(split):
    a, b = result(split, 1), result(split, 2)
    frame = pd.DataFrame(
        [
            dict(
                dataset=e.dataset,
                system="x",
                seed=n,
                part=e.part,
                split_sha256=e.split_sha256,
                ks=list(e.ks),
                ranks=e.ranks,
                seconds=10.0 * (n + 1),
            )
            for n, e in enumerate([a, b])
        ]
    )
    row = compare(frame).iloc[0]
    assert (
        row["seeds"] == 2
        and row["seconds"] == 15
        and row["NDCG@10"]
        == pytest.approx((a.metrics["NDCG@10"] + b.metrics["NDCG@10"]) / 2)
    )
    assert row["sd over seeds"] == pytest.approx(
        np.std([a.metrics["NDCG@10"], b.metrics["NDCG@10"]], ddof=1)
    )
    with pytest.raises(ConfigError, match="twice with one seed"):
        compare(frame.assign(seed=0))
    with pytest.raises(ConfigError, match="different splits"):
        compare(frame.assign(split_sha256=["a", "b"]))
    with pytest.raises(ConfigError, match="reference 'y'"):
        compare(frame, reference="y")
    with pytest.raises(ConfigError, match="unknown metric"):
        compare(frame, metric="NDCG@7")
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([])
    two = compare(
        pd.concat([frame, frame.assign(dataset="other", split_sha256="c")]),
        reference="x",
    )
    assert list(two["dataset"]) == ["other", "small"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 5), k=st.integers(2, 6))
def test_measures_on_lists_equal_slow_ones(seed, n, k):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(12)[:k] for _ in range(n)])
    features = rng.normal(size=(12, 4))
    counts = rng.integers(1, 50, 12)
    slow = [
        np.mean(
            [
                1
                - features[a]
                @ features[b]
                / np.linalg.norm(features[a])
                / np.linalg.norm(features[b])
                for a in row
                for b in row
                if a != b
            ]
        )
        for row in ids
    ]
    np.testing.assert_allclose(diversity(ids, features), slow, atol=1e-9)
    assert coverage(ids, 12) == len({int(i) for row in ids for i in row}) / 12
    assert novelty(ids, counts, 50) == pytest.approx(
        np.mean([-np.log2(counts[i] / 50) for row in ids for i in row])
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_miscalibration_is_bounded_and_zero_for_oneself(seed):
    rng = np.random.default_rng(seed)
    categories = rng.integers(0, 2, (12, 3))
    ids = np.stack([rng.permutation(12)[:5] for _ in range(4)])
    itself = miscalibration(ids, Ragged.from_lists(ids.tolist()), categories)
    assert np.nanmax(np.abs(itself), initial=0) < 1e-6
    other = miscalibration(ids, Ragged.from_lists(ids[::-1].tolist()), categories)
    assert (np.isnan(other) | ((other >= -1e-9) & (other <= 1 + 1e-9))).all()


def test_short_lists_and_missing_categories_give_nan_not_a_number_made_up():
    ids = np.array([[0, -1, -1], [-1, -1, -1], [0, 1, -1]])
    kinds = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(np.isnan(diversity(ids, kinds)), [True, True, False])
    assert diversity(ids, kinds)[2] == 1
    assert np.isnan(
        miscalibration(ids, Ragged.from_lists([[2], [0], [2]]), kinds)
    ).all()


def test_groups_cover_everyone(split):
    evaluation = result(split, 8)
    lengths = split.histories("test").lengths
    groups = history_groups(split)
    assert set(groups) == {"short history", "long history"}
    assert (
        lengths[groups == "short history"].max()
        < lengths[groups == "long history"].min()
    )
    counts = np.bincount(split.train.values, minlength=split.n_items)
    rare = popularity_groups(split) == "rare target"
    assert counts[split.test[rare]].max() <= counts[split.test[~rare]].min()
    table = by_group(evaluation.per_user["NDCG@10"], groups, 500)
    assert table["users"].sum() == split.n_users and np.average(
        table["mean"], weights=table["users"]
    ) == pytest.approx(evaluation.metrics["NDCG@10"])


def test_beyond_accuracy_needs_the_same_split(split):
    evaluation = result(split, 9)
    found = beyond_accuracy(evaluation, split)
    assert {
        "coverage@10",
        "novelty@10",
        "diversity@10",
        "miscalibration@10",
        "NDCG@10 rare target",
        "NDCG@10 short history",
    } <= set(found) and all(np.isfinite(v) for v in found.values())
    with pytest.raises(ConfigError, match="no cut-off 7"):
        beyond_accuracy(evaluation, split, 7)
    with pytest.raises(ConfigError, match="another split"):
        beyond_accuracy(
            Evaluation(**{**evaluation.__dict__, "split_sha256": "x"}), split
        )


def test_an_evaluation_introduces_itself_shortly(split):
    model = Popularity().fit(split)
    model.name = "most <b>popular</b>"
    evaluation = evaluate(model, split)
    text, page = repr(evaluation), evaluation._repr_html_()
    assert len(text) < 400 and f"{evaluation.metrics['NDCG@10']:.4f}" in text
    assert split.name in text and "\n" not in text
    assert "most &lt;b&gt;popular" in page and "<table" in page
    assert f"{evaluation.metrics['MRR@20']:.4f}" in page
