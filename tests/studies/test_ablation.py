"""Test ablations.

Nothing runs twice, a kill loses at most one run, and effects are those of a
computation by hand.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from scipy import stats

from contrec.foundations.errors import (
    CheckpointError,
    ConfigError,
    ContrecError,
    TrainingError,
)
from contrec.foundations.storage import is_temporary
from contrec.studies import ablation, experiments, runner
from contrec.studies.ablation import Study, read_study, run_study
from contrec.studies.experiments import nested
from contrec.studies.runner import (
    ablate,
    grid,
    read_ablation,
    run_once,
    side_by_side,
)
from contrec.studies.statistics import effects, summary
from contrec.studies.study_tables import RUNS, study_records

DEFAULT = {"a": 1, "b": "x", "c": None}


class Counted:
    "A run that counts its calls and can be killed at one of them."

    def __init__(self, kill=None):
        self.calls, self.kill = [], kill

    def __call__(self, config, seed):
        self.calls.append((json.dumps(config), seed))
        if len(self.calls) == self.kill:
            raise KeyboardInterrupt
        return {
            "NDCG@10": (
                config["a"] / 10
                + np.random.default_rng([seed, config["a"]]).normal() / 100
            ),
            "HR@10": 0.5,
        }


def test_grid_each_changes_one_setting():
    configs = grid(DEFAULT, {"a": [0, 1, 2], "c": [None, 5]})
    assert configs == [
        DEFAULT,
        DEFAULT | {"a": 0},
        DEFAULT | {"a": 2},
        DEFAULT | {"c": 5},
    ]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_grid_sizes(sizes):
    default = {f"f{n}": 0 for n in range(len(sizes))}
    factors = {f"f{n}": list(range(s)) for n, s in enumerate(sizes)}
    assert len(grid(default, factors, "product")) == np.prod(sizes) and len(
        grid(default, factors)
    ) == 1 + sum(s - 1 for s in sizes)


@pytest.mark.parametrize(
    "factors,mode,message",
    [
        ({"d": [1]}, "each", "no setting"),
        ({"a": []}, "each", "list of values"),
        ({"a": 3}, "each", "list of values"),
        ({"b": "xy"}, "each", "list of values"),
        ({"a": [1]}, "all", "unknown mode"),
    ],
)
def test_grid_refuses(factors, mode, message):
    with pytest.raises(ConfigError, match=message):
        grid(DEFAULT, factors, mode)


@pytest.mark.parametrize("mode", ["each", "product"])
def test_further_configurations_stand_beside_the_grid(mode):
    plain, more = (
        grid(DEFAULT, {"a": [0, 1]}, mode),
        grid(DEFAULT, {"a": [0, 1]}, mode, [{"a": 7, "c": 5}, {"a": 1}]),
    )
    assert more == plain + [{**DEFAULT, "a": 7, "c": 5}]
    with pytest.raises(ConfigError, match="'z' is no setting"):
        grid(DEFAULT, {}, mode, [{"z": 1}])


@settings(max_examples=12, deadline=None)
@given(kill=st.integers(1, 9))
def test_a_killed_grid_resumes_and_ends_alike(tmp_path_factory, kill):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    killed, again = Counted(kill), Counted()
    with pytest.raises(KeyboardInterrupt):
        ablate(killed, DEFAULT, {"a": [2, 3]}, [0, 1, 2], one)
    assert {f.name for f in one.iterdir()} <= {RUNS}
    resumed, whole = (
        ablate(again, DEFAULT, {"a": [2, 3]}, [0, 1, 2], one),
        ablate(Counted(), DEFAULT, {"a": [2, 3]}, [0, 1, 2], two),
    )
    assert len(again.calls) == 9 - (kill - 1) and not set(killed.calls[:-1]) & set(
        again.calls
    )
    pd.testing.assert_frame_equal(
        resumed.drop(columns="seconds"), whole.drop(columns="seconds")
    )


def test_growing_a_grid_runs_only_what_is_new(tmp_path):
    ablate(Counted(), DEFAULT, {"a": [2]}, [0, 1], tmp_path)
    grown = Counted()
    ablate(grown, DEFAULT, {"a": [2, 3]}, [0, 1, 2], tmp_path)
    assert len(grown.calls) == 9 - 4


def test_context_is_part_of_the_name(tmp_path):
    first, second = Counted(), Counted()
    ablate(first, DEFAULT, {"a": [2]}, [0], tmp_path, context={"dataset": "one"})
    ablate(second, DEFAULT, {"a": [2]}, [0], tmp_path, context={"dataset": "two"})
    assert len(second.calls) == 2
    mixed = read_ablation(tmp_path)
    for f in (lambda: summary(mixed), lambda: effects(mixed, DEFAULT)):
        with pytest.raises(ConfigError, match="2 different contexts"):
            f()
    assert len(summary(mixed[[c["dataset"] == "one" for c in mixed["context"]]])) == 2


def test_reading_needs_no_run_and_gives_the_same_table(tmp_path):
    ran = ablate(Counted(), DEFAULT, {"a": [2, 3], "c": [1]}, [0, 1, 2], tmp_path)
    pd.testing.assert_frame_equal(
        effects(read_ablation(tmp_path), DEFAULT), effects(ran, DEFAULT)
    )
    record = next(iter(study_records(tmp_path, "ablation").values()))
    assert {
        "config",
        "seed",
        "context",
        "metrics",
        "seconds",
        "peak_mb",
        "commit",
    } <= set(record)
    assert ran["seconds"].notna().all()


def test_run_may_not_change_the_settings_it_was_given(tmp_path):
    def vandal(config, seed):
        config["a"] = 99
        return {"m@1": 1.0}

    assert run_once(vandal, {"a": 1}, 0, tmp_path)["config"] == {"a": 1}
    read_ablation(tmp_path)


def frame(values):  # {a: metrics per seed}
    return pd.DataFrame(
        [
            {
                "config": {"a": a, "b": 0},
                "context": {},
                "failed": None,
                "seed": s,
                "m@1": v,
            }
            for a, row in values.items()
            for s, v in enumerate(row)
        ]
    )


def test_effects_equal_a_paired_t_test():
    rng = np.random.default_rng(0)
    base, changed = rng.normal(size=5), rng.normal(size=5) + 1
    row = effects(frame({0: base, 1: changed}), {"a": 0, "b": 0}, "m@1").iloc[0]
    oracle = stats.ttest_rel(changed, base)
    low, high = oracle.confidence_interval(0.95)
    assert (row["factor"], row["value"], row["seeds"]) == ("a", 1, 5)
    np.testing.assert_allclose(
        [
            row["difference"],
            row["difference low"],
            row["difference high"],
            row["p"],
            row["noise"],
        ],
        [(changed - base).mean(), low, high, oracle.pvalue, base.std(ddof=1)],
    )
    mean = summary(frame({0: base}), "m@1").iloc[0]
    np.testing.assert_allclose(
        [mean["low"], mean["high"]],
        stats.t.interval(0.95, 4, base.mean(), stats.sem(base)),
    )


def test_pairing_is_by_seed_not_by_row():
    records = frame({0: [1.0, 2.0, 3.0], 1: [1.5, 2.5, 3.5]})
    shuffled = records.sample(frac=1, random_state=3)
    row = effects(shuffled, {"a": 0, "b": 0}, "m@1").iloc[0]
    assert row["difference"] == pytest.approx(0.5) and row["difference high"] - row[
        "difference low"
    ] == pytest.approx(0)
    missing = effects(
        records[
            ~((records["seed"] == 0) & (records["config"].map(lambda c: c["a"]) == 1))
        ],
        {"a": 0, "b": 0},
        "m@1",
    ).iloc[0]
    assert missing["seeds"] == 2 and missing["difference"] == pytest.approx(0.5)


def test_one_seed_has_no_interval_rather_than_a_false_one():
    row = effects(frame({0: [1.0], 1: [2.0]}), {"a": 0, "b": 0}, "m@1").iloc[0]
    assert (
        row["difference"] == 1
        and np.isnan([row["difference low"], row["p"], row["noise"]]).all()
    )


def test_a_product_grid_gives_effects_of_single_changes(tmp_path):
    table = effects(
        ablate(
            Counted(),
            {"a": 1, "b": "x"},
            {"a": [1, 2], "b": ["x", "y"]},
            [0, 1],
            tmp_path,
            "product",
        ),
        {"a": 1, "b": "x"},
    )
    assert sorted(zip(table["factor"], table["value"])) == [("a", 2), ("b", "y")]


def test_values_keep_their_type(tmp_path):
    table = effects(
        ablate(
            lambda c, s: {"NDCG@10": c["a"] + c["b"]},
            {"a": 1, "b": 0.5},
            {"a": [20], "b": [0.25]},
            [0, 1],
            tmp_path,
        ),
        {"a": 1, "b": 0.5},
    )
    assert sorted(map(str, table["value"])) == ["0.25", "20"]


def test_failed_trainings_are_results_and_mistakes_are_not(tmp_path):
    def collapses(config, seed):
        if config["a"] == 2:
            raise TrainingError("collapsed")
        return {"NDCG@10": 0.1 + seed}

    records = ablate(collapses, DEFAULT, {"a": [2]}, [0, 1], tmp_path)
    assert effects(records, DEFAULT).iloc[0]["failures"] == 2 and np.isnan(
        effects(records, DEFAULT).iloc[0]["difference"]
    )
    assert records["failed"].tolist()[2:] == ["collapsed"] * 2

    def mistaken(config, seed):
        raise ConfigError("no such option")

    with pytest.raises(ConfigError, match="no such option"):
        ablate(mistaken, DEFAULT, {"a": [7]}, [0], tmp_path / "x")
    assert not list((tmp_path / "x").glob("*"))
    for bad in ({}, {"m": float("nan")}, {"m": float("inf")}):
        with pytest.raises(ConfigError, match="finite numbers"):
            run_once(lambda c, s, bad=bad: bad, {"a": 5}, 0, tmp_path)


@pytest.mark.parametrize(
    "harm,message",
    [
        ({"config": '{"a": 1'}, "config is not valid JSON"),
        ({"context": "[1]"}, "context is no object"),
        ({"config": None}, "the field 'config' is missing. This is no record"),
        ({"seed": 4}, "altered or renamed"),
        ({"run": "0123456789ab"}, "0123456789ab does not hold.*altered or renamed"),
    ],
)
def test_damaged_records_are_named(tmp_path, harm, message):
    run_once(Counted(), DEFAULT, 0, tmp_path)
    table = pq.read_table(tmp_path / RUNS)
    harmed = pa.Table.from_pylist([table.to_pylist()[0] | harm], table.schema)
    pq.write_table(harmed, tmp_path / RUNS)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_ablation(tmp_path)
    assert "\n" not in str(caught.value) and RUNS in str(caught.value)


def test_other_bad_input(tmp_path):
    with pytest.raises(CheckpointError, match="no records"):
        read_ablation(tmp_path)
    for seeds in ([], [1, 1]):
        with pytest.raises(ConfigError, match="different numbers"):
            ablate(Counted(), DEFAULT, {"a": [2]}, seeds, tmp_path)
    records = ablate(Counted(), DEFAULT, {"a": [2]}, [0], tmp_path)
    with pytest.raises(ConfigError, match="not among the records"):
        effects(records, {"a": 9, "b": "x", "c": None})
    with pytest.raises(ConfigError, match="unknown metric"):
        summary(records, "NDCG@99")
    with pytest.raises(ConfigError, match="twice with one seed"):
        summary(pd.concat([records, records]))
    with pytest.raises(ConfigError, match="exactly one"):
        effects(records[:1], DEFAULT)
    with pytest.raises(ConfigError, match="no records"):
        summary(records[:0])
    (tmp_path / "file").write_text("")
    with pytest.raises(ContrecError):
        ablate(Counted(), DEFAULT, {"a": [2]}, [0], tmp_path / "file")


# --- studies


# Workers find it by name
def noisy(config, seed):
    return {"NDCG@10": config["a"] + np.random.default_rng(seed).normal()}


def test_workers_give_the_same_records_as_one(tmp_path):
    one = ablate(noisy, {"a": 0}, {"a": [1, 2]}, [0, 1], tmp_path / "one")
    two = ablate(noisy, {"a": 0}, {"a": [1, 2]}, [0, 1], tmp_path / "two", workers=2)
    pd.testing.assert_frame_equal(
        one[["a", "seed", "NDCG@10"]], two[["a", "seed", "NDCG@10"]]
    )
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(
        p.name for p in (tmp_path / "two").iterdir()
    )


def threads_of(n):
    return n, torch.get_num_threads()


def dies(n):
    os._exit(3)


def fails(n):
    raise ConfigError(f"job {n} is wrong")


def test_workers_share_the_threads_and_keep_the_order(monkeypatch):
    monkeypatch.setattr(runner.torch, "get_num_threads", lambda: 6)
    found = side_by_side(threads_of, [(n,) for n in range(5)], 2, "test")
    assert found == [(n, 3) for n in range(5)]


def test_a_worker_that_dies_is_one_line(tmp_path):
    ablate(noisy, {"a": 0}, {}, [0], tmp_path)
    with pytest.raises(ContrecError, match="ended unexpectedly.*fewer than 2") as died:
        side_by_side(dies, [(0,), (1,)], 2, "test")
    assert "\n" not in str(died.value)
    with pytest.raises(ConfigError, match="job [01] is wrong"):
        side_by_side(fails, [(0,), (1,)], 2, "test")
    # And the next one has workers again
    assert side_by_side(threads_of, [(7,), (8,)], 2, "test") == [(7, 1), (8, 1)]


ORPHANS = """
import os, sys, time
from contrec.studies.runner import side_by_side
def wait(folder, n):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(600)
if __name__ == "__main__":
    side_by_side(wait, [(sys.argv[1], 0), (sys.argv[1], 1)], 2, "test")
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    begun = tmp_path / "begun"
    begun.mkdir()
    command = [sys.executable, str(tmp_path / "orphans.py"), str(begun)]
    with subprocess.Popen(command) as parent:
        while len(list(begun.iterdir())) < 2:
            assert parent.poll() is None
            time.sleep(0.1)
        parent.kill()
    workers = [int(path.name) for path in begun.iterdir()]
    gone, alive = psutil.wait_procs(
        [psutil.Process(w) for w in workers if psutil.pid_exists(w)], timeout=60
    )
    assert not alive


def test_a_cluster_makes_the_same_study(tmp_path):
    """Two workers of Dask, with and without `workers`, in the table of one process."""
    one = ablate(noisy, {"a": 0}, {"a": [1, 2]}, [0, 1], tmp_path / "one")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as here,
        Client(here),
        parallel_config(backend="dask"),
    ):
        pids = {pid for _, pid in side_by_side(pid_of, [(n,) for n in range(8)], 1, "")}
        two = ablate(noisy, {"a": 0}, {"a": [1, 2]}, [0, 1], tmp_path / "two")
        again = ablate(
            noisy, {"a": 0}, {"a": [1, 2]}, [0, 1], tmp_path / "two", workers=2
        )
        with pytest.raises(ConfigError, match="job [01] is wrong"):
            side_by_side(fails, [(0,), (1,)], 2, "test")
    assert pids and os.getpid() not in pids
    columns = ["a", "seed", "NDCG@10"]
    pd.testing.assert_frame_equal(one[columns], two[columns])
    pd.testing.assert_frame_equal(two, again)


def pid_of(n):
    return n, os.getpid()


def test_no_worker_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="0 workers"):
        ablate(noisy, {"a": 0}, {}, [0], tmp_path, workers=0)


def test_dots_go_into_parts():
    assert nested({"epochs": 3, "diffusion.tau": 0.1, "diffusion.layer": 2}) == {
        "epochs": 3,
        "diffusion": {"tau": 0.1, "layer": 2},
    }


@pytest.mark.parametrize(
    "change,message",
    [
        ({"run": "models"}, "unknown run 'models'"),
        ({"seed": [0]}, "unknown field 'seed'"),
        ({"seeds": None}, "the field 'seeds' is missing"),
    ],
)
def test_a_bad_grid_file_is_told(tmp_path, change, message):
    grid = {
        "run": "model",
        "datasets": ["ml-100k"],
        "fixed": {},
        "default": {"training.epochs": 1},
        "factors": {},
        "seeds": [0],
    } | change
    (tmp_path / "grid.yaml").write_text(
        json.dumps({k: v for k, v in grid.items() if v is not None})
    )
    with pytest.raises(ConfigError, match=message):
        read_study(tmp_path / "grid.yaml")


@pytest.fixture
def small_world(monkeypatch, small_split):
    for cached in experiments._vectors, experiments._trained:
        cached.cache_clear()
    for module in ablation, experiments:
        monkeypatch.setattr(module, "load_split", lambda name: small_split)
    yield
    for cached in experiments._vectors, experiments._trained:
        cached.cache_clear()


def test_every_kind_of_study_runs_and_is_kept(tmp_path, small_world, small_split):
    small = {
        "preset": "contrec",
        "training.epochs": 1,
        "training.tokenizer_epochs": 3,
        "embedding.width": 8,
        "prompt.max_items": 8,
    }
    kinds = Study(
        "tokenizer",
        ["small"],
        {"input": 8, "steps": 4},
        {"tokenizer": {"kind": "SigmaVAE", "width": 4}},
        {"tokenizer": [{"kind": "VectorQuantizer", "width": 4, "size": 4}]},
        [0],
    )
    models = Study(
        "model",
        ["small"],
        small,
        {"diffusion.dispersive_weight": 0.05},
        {"diffusion.dispersive_weight": [0]},
        [0],
    )
    train = {f"train.{k}": v for k, v in small.items() if k != "preset"}
    readouts = Study(
        "readout",
        ["small"],
        {"preset": "contrec", **train, "decoding.noise_scale": 1.0},
        {"decoding.steps": 1, "decoding.samples": 1},
        {"decoding.samples": [2]},
        [0],
    )
    speeds = readouts._replace(
        run="speed", fixed=readouts.fixed | {"users": 8, "users_at_once": 4}
    )
    spoken = models._replace(
        run="text",
        fixed=small | {"score": "sentence", "decoding.text_encoder": None},
        default={"training.epochs": 1},
        factors={"training.epochs": [2]},
    )
    cold = spoken._replace(run="cold", fixed=small | {"decoding.text_encoder": None})
    recipes = models._replace(
        run="recipe",
        fixed=small | {"ease.regularisation": 10, "item-knn.neighbours": 5},
    )
    for name, study, metric in (
        ("t", kinds, "mse"),
        ("m", models, "NDCG@10"),
        ("r", readouts, "NDCG@10"),
        ("s", speeds, "users_per_second"),
        ("w", spoken, "NDCG@10 both"),
        ("c", cold, "contrec HR@10 among new"),
        ("f", recipes, "NDCG@10"),
    ):
        first = run_study(study, tmp_path / name)
        # a row has columns of these names
        records = study_records(tmp_path / name, "ablation").values()
        assert not {"seed", "failed", "seconds", "config", "context"} & set().union(
            *(record["metrics"] for record in records)
        )
        assert (
            len(first) == 2
            and first[metric].notna().all()
            and first["failed"].isna().all()
            and set(first["dataset"]) == {"small"}
        )
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / name).iterdir()}
        again = run_study(study, tmp_path / name)
        assert (
            before == {p: p.stat().st_mtime_ns for p in (tmp_path / name).iterdir()}
            and again[metric].tolist() == first[metric].tolist()
        )
        assert all(r["context"]["split_sha256"] == small_split.sha256 for r in records)
        assert len(effects(first, study.default, metric)) == 1


def test_the_command_tells_of_a_study_without_factors(tmp_path, small_world, capsys):
    from contrec.interface import cli

    study = {
        "run": "tokenizer",
        "datasets": ["small"],
        "fixed": {"input": 8, "steps": 4},
        "default": {"tokenizer": {"kind": "SigmaVAE", "width": 4}},
        "factors": {},
        "seeds": [0, 1],
    }
    (tmp_path / "grid.yaml").write_text(json.dumps(study))
    for named in (["--grid"], []):  # by its name, or without
        assert (
            cli.main(
                [
                    "ablate",
                    *named,
                    str(tmp_path / "grid.yaml"),
                    "--out",
                    str(tmp_path / "out"),
                ]
            )
            == 0
        )
        assert (
            "small, mse: mean, its 95% interval over seeds" in capsys.readouterr().out
        )
    for wrong in ([], ["a.yaml", "--grid", "b.yaml"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["ablate", *wrong])
        assert stop.value.code == 2 and "GRID" in capsys.readouterr().err


def test_what_is_inside_a_model_has_its_limits(small_world, small_split):
    from contrec.recommender.config import preset
    from contrec.recommender.contrec import ContRec

    model = ContRec(
        preset(
            training={"epochs": 1, "tokenizer_epochs": 3},
            embedding={"width": 8},
            prompt={"max_items": 8},
        )
    ).fit(small_split)
    found = experiments.inside(model, samples=4, steps=2)
    assert (
        0 < found["sample diversity"] < 1.4
        and 1 <= found["hidden rank"] <= 256
        and found["hidden norm"] > 0
        and 1 <= found["preference rank"] <= 64
    )


def test_a_study_of_words_tells_what_its_parts_tell(small_world, small_split):
    """The figures of one run, each made again by the function that a person would call
    for it.
    """
    from contrec.ranking.evaluation import evaluate
    from contrec.recommender.config import preset
    from contrec.recommender.contrec import ContRec
    from contrec.recommender.text_effect import hybrid_table, text_accuracy

    settings = dict(
        training={"epochs": 3, "tokenizer_epochs": 3, "lm_weight": 1.0},
        embedding={"width": 8},
        decoding={"text_encoder": None},
    )
    found = experiments.text_run(
        {"dataset": "small", "preset": "contrec", "score": "sentence", **settings}, 0
    )
    model = ContRec(preset("contrec", **settings)).fit(small_split)
    assert np.isclose(
        found["NDCG@10"], evaluate(model, small_split).metrics["NDCG@10"]
    ) and np.isclose(
        found["valid NDCG@10"], evaluate(model, small_split, "valid").metrics["NDCG@10"]
    )
    speaking = model.with_decoding(text_score="sentence")
    assert speaking.config.decoding.text_weight == found["weight"]
    table, said = hybrid_table(speaking, small_split), text_accuracy(model, small_split)
    for row, name in (("latent only", ""), ("text only", " text"), ("both", " both")):
        assert np.isclose(table.loc[row, "NDCG@10"], found["NDCG@10" + name])
    assert (
        np.isclose(found["F1"], said.f1)
        and np.isclose(found["frequent F1"], said.frequent_f1)
        and found["unread"] == said.failures / said.users
        and found["cut"] == said.cut / said.users
    )
    long = small_split.histories("test").lengths > np.median(
        small_split.histories("test").lengths
    )
    if long.any():
        assert np.isclose(
            found["NDCG@10 long"] * long.mean()
            + found["NDCG@10 short"] * (~long).mean(),
            found["NDCG@10"],
        )
    assert (
        found["trained"]
        == found["parameters"]
        == sum(p.numel() for p in model.network.parameters())
    )
    assert found["epoch_cpu_seconds"] > 0 and 100 < found["train_peak_mb"] < 24 * 1024


def test_a_recipe_is_taken_apart_into_what_its_parts_tell(small_world, small_split):
    """The figures of one run, each made again by the function that a person would call
    for it.

    An oracle is never worse than what it chooses from.
    """
    from contrec.ranking.evaluation import evaluate
    from contrec.ranking.linear import EASE, ItemKNN
    from contrec.recommender.config import preset
    from contrec.recommender.contrec import ContRec
    from contrec.retrieval.rank_fusion import Fused

    settings = dict(
        training={"epochs": 2, "tokenizer_epochs": 3}, embedding={"width": 8}
    )
    found = experiments.recipe_run(
        {
            "dataset": "small",
            "preset": "contrec",
            "ease.regularisation": 10,
            "ease.decay": 0.8,
            "item-knn.neighbours": 5,
            **settings,
        },
        0,
    )
    model, ease, knn = (
        ContRec(preset("contrec", **settings)).fit(small_split),
        EASE(10, 0.8).fit(small_split),
        ItemKNN(5).fit(small_split),
    )
    one = Fused(model, ease).fit(small_split)
    both = Fused(model, ease, knn, start=(1, 0.5, 0.5)).fit(small_split)
    for name, system in (
        ("", both),
        (" alone", model),
        (" with EASE", one),
        (" priors", Fused(ease, knn).fit(small_split)),
    ):
        for part, before in (("test", ""), ("valid", "valid ")):
            assert np.isclose(
                found[f"{before}NDCG@10{name}"],
                evaluate(system, small_split, part).metrics["NDCG@10"],
            )
    for before in "", "valid ":
        assert (
            found[f"{before}NDCG@10 best of three"] >= found[f"{before}NDCG@10 alone"]
        )
    assert (
        1,
        found["weight of EASE"],
        found["weight of item-kNN"],
    ) == both.chosen.weights


NEEDED = {  # Kind of run -> settings that it needs, and a value of each
    "tokenizer": {"input": 8, "steps": 4, "tokenizer": {"kind": "SigmaVAE"}},
    "model": {"preset": "contrec"},
    "readout": {"preset": "contrec"},
    "speed": {"preset": "contrec", "users": 4},
    "text": {"preset": "contrec", "score": "sentence"},
    "cold": {"preset": "contrec"},
    "recipe": {
        "preset": "contrec",
        "ease": {"regularisation": 10},
        "item-knn": {"neighbours": 5},
    },
}


def write_grid(path, run, fixed, **changes):
    "Write a grid file with one seed and no factors."
    grid = {
        "run": run,
        "datasets": ["ml-100k"],
        "fixed": fixed,
        "default": {"training.epochs": 1},
        "factors": {},
        "seeds": [0],
    }
    path.write_text(json.dumps(grid | changes))


def test_every_kind_of_run_says_what_it_needs():
    assert set(NEEDED) == set(ablation.RUNS) == set(ablation.SETTINGS)


@pytest.mark.parametrize(
    "run,missing", [(run, name) for run, some in NEEDED.items() for name in some]
)
def test_a_missing_setting_is_named_with_its_file(tmp_path, capsys, run, missing):
    from contrec.interface import cli

    path = tmp_path / "grid.yaml"
    write_grid(path, run, NEEDED[run])
    assert read_study(path).run == run
    fixed = {name: value for name, value in NEEDED[run].items() if name != missing}
    write_grid(path, run, fixed)
    assert cli.main(["ablate", str(path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{path}: " in said and f"the field '{missing}' is missing" in said
    assert len(said.strip().splitlines()) <= 2 and "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "run,changes,message",
    [
        ("tokenizer", {"steps": 0}, "steps is 0. It must be at least 1"),
        ("tokenizer", {"input": "8"}, "input is '8'. It must be a whole number"),
        ("tokenizer", {"tokenizer": {}}, "the field 'tokenizer.kind' is missing"),
        ("tokenizer", {"tokenizer": {"kind": "VAF"}}, "unknown tokenizer 'VAF'"),
        ("model", {"tokenizer": {"widht": 4}}, "Did you mean 'tokenizer.width'"),
        ("model", {"preset": "contrek"}, "Did you mean 'contrec'?"),
        ("speed", {"users": None}, "users is None. It must be a whole number"),
        ("readout", {"train": 3}, "train is 3. It must be an object"),
        ("recipe", {"ease": 10}, "ease is 10. It must be an object"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path, run, changes, message):
    path = tmp_path / "grid.yaml"
    write_grid(path, run, NEEDED[run] | changes)
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        read_study(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_the_last_configuration_is_checked_before_the_first_runs(tmp_path):
    path = tmp_path / "grid.yaml"
    factors = {"factors": {"steps": [8, 0]}, "default": {"steps": 4}}
    write_grid(path, "tokenizer", NEEDED["tokenizer"], **factors)
    with pytest.raises(ConfigError, match="steps is 0"):
        read_study(path)
    study = Study(
        "tokenizer", ["nowhere"], NEEDED["tokenizer"], **factors, seeds=[0]
    )  # Written in Python, not read from a file
    with pytest.raises(ConfigError, match="steps is 0"):
        run_study(study, tmp_path / "out")


LEFT = ".0123456789abcdef.part"  # The name of a temporary file


def test_a_study_removes_what_a_killed_one_left(tmp_path):
    places = ("", "unfinished", "unfinished/small--ease--0--abc")
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / LEFT).touch()
    dead = tmp_path / ".study-0123456789abcdef.lock"
    dead.touch()  # Nobody holds it
    (tmp_path / "notes").mkdir()
    others = [tmp_path / "notes" / LEFT, tmp_path / "my.part", tmp_path / ".x.part"]
    for path in others:
        path.touch()
    ablate(noisy, {"a": 0}, {}, [0], tmp_path)
    assert not any((tmp_path / place / LEFT).exists() for place in places)
    assert not dead.exists() and not list(tmp_path.glob(".study*"))
    assert all(path.exists() for path in others)  # Not the study's


def test_a_study_leaves_the_files_of_one_that_still_works(tmp_path):
    holder = (
        "import sys, time\n"
        "from contrec.studies.runner import study_folder\n"
        "with study_folder(sys.argv[1]):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "begun\n"
            (tmp_path / LEFT).touch()
            ablate(noisy, {"a": 0}, {}, [0], tmp_path)
            assert (tmp_path / LEFT).exists()
        finally:
            other.kill()  # SIGKILL: its lock file stays behind
    assert list(tmp_path.glob(".study-*.lock"))
    ablate(noisy, {"a": 0}, {}, [0], tmp_path)
    assert not (tmp_path / LEFT).exists() and not list(tmp_path.glob(".study*"))


def test_a_killed_write_leaves_nothing_after_the_next_start(tmp_path):
    killed = (
        "import os, signal, sys\n"
        "from contrec.studies.runner import ablate\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = die\n"
        "ablate(lambda c, s: {'m': 1.0}, {'a': 0}, {}, [0], sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path)], timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert [p for p in tmp_path.iterdir() if is_temporary(p)]
    ablate(noisy, {"a": 0}, {}, [0], tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_study_in_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    first = ablate(noisy, {"a": 0}, {}, [0], tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    pd.testing.assert_frame_equal(first, ablate(noisy, {"a": 0}, {}, [0], tmp_path))
