"""Test the comparison and its search for settings.

A kill loses at most an epoch, nothing is trained twice, the search is written down,
fusions share their parts, and names are checked first.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from contrec.foundations.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    TrainingError,
)
from contrec.interface import cli
from contrec.ranking.evaluation import evaluate
from contrec.ranking.linear import EASE, Popularity
from contrec.retrieval.rank_fusion import Fused
from contrec.studies import comparison, factor_models, tables, tuning
from contrec.studies.comparison import Job, jobs_of, run_comparison
from contrec.studies.runner import study_folder
from contrec.studies.sequence_models import GRU4Rec
from contrec.studies.study_tables import (
    RUNS,
    per_user_ranks,
    read_records,
    run_row,
    study_records,
    write_rows,
)
from contrec.studies.systems import BUDGET, FUSED, SYSTEMS, System, make, product
from contrec.studies.tables import (
    beyond_accuracy_table,
    comparison_table,
    contrast_table,
    search_table,
)
from contrec.studies.tuning import (
    find_search,
    search_of,
    settings_of,
    split_of,
    tune,
)


class Counted:
    "A system that counts its trainings."

    def __init__(self, inner):
        self.inner, self.made = inner, []

    def __call__(self, **settings):
        self.made.append(settings)
        return self.inner(**settings)


@pytest.fixture
def small(small_split, monkeypatch):
    "The small world as the only data set, and small systems."

    def load(name, ties="file"):
        if name not in ("small", "second", "large"):
            raise DataError(f"unknown dataset '{name}'.")
        return replace(small_split, name=name)

    monkeypatch.setattr(tuning, "load_split", load)
    split_of.cache_clear()
    made = {
        "ease": Counted(EASE),
        "sasrec-ce": Counted(GRU4Rec),
        "popularity": Counted(Popularity),
    }
    tiny = {"width": 8, "length": 5, "epochs": 4, "lr": 5e-3}
    monkeypatch.setitem(
        SYSTEMS, "popularity", System(made["popularity"], {}, [], False, False)
    )
    monkeypatch.setitem(
        SYSTEMS,
        "ease",
        System(
            made["ease"],
            {"regularisation": 10},
            product(regularisation=(1, 100, 1000)),
            False,
            False,
        ),
    )
    monkeypatch.setitem(
        SYSTEMS,
        "sasrec-ce",
        System(made["sasrec-ce"], tiny, product(dropout=(0.0, 0.5))),
    )
    yield made
    split_of.cache_clear()


def change_search(folder, dataset, **fields):
    "Write the search of EASE on a data set with other values in some fields."
    changed = find_search(folder, dataset, "ease") | fields
    row = run_row(changed, f"search--{dataset}--ease")
    write_rows(folder, [row], replace=True)


def run(folder, *names, **options):
    return run_comparison(["small"], names, folder=folder, **options)


def test_records_say_everything(small, small_split, tmp_path):
    records = run(tmp_path, "popularity", "ease", "sasrec-ce", seeds=[0, 1])
    assert sorted(zip(records["system"], records["seed"])) == [
        ("ease", 0),
        ("popularity", 0),
        ("sasrec-ce", 0),
        ("sasrec-ce", 1),
    ]
    kept = study_records(tmp_path, "evaluation")
    record = kept["small--sasrec-ce--1"]
    assert {
        "dataset",
        "system",
        "seed",
        "config",
        "config_hash",
        "split_sha256",
        "commit",
        "seconds",
        "peak_mb",
        "users_per_second",
        "parameters",
        "device",
        "metrics",
        "beyond",
    } <= set(record)
    assert (
        record["config"] == SYSTEMS["sasrec-ce"].settings
        and record["seconds"] > 0
        and record["split_sha256"] == small_split.sha256
    )
    assert {
        "coverage@10",
        "novelty@10",
        "diversity@10",
        "miscalibration@10",
        "NDCG@10 rare target",
        "NDCG@10 short history",
        "valid NDCG@10",
    } <= set(record["beyond"])
    ease, popularity = (kept[f"small--{s}--0"] for s in ("ease", "popularity"))
    assert (
        ease["parameters"] == small_split.n_items**2
        and popularity["parameters"] == small_split.n_items
    )
    name = "small--ease--0"
    assert len(per_user_ranks(tmp_path, [name])[name]) == small_split.n_users
    assert not list((tmp_path / "unfinished").glob("*"))


def test_networks_train_where_they_are_told_to():
    for name, system in SYSTEMS.items():
        made = make(name, {}, device="meta")
        assert getattr(made, "device", None) == (
            torch.device("meta") if system.network else None
        ), name
    assert (
        make("contrec", {}).device
        == make("gru4rec", {}).device
        == torch.get_default_device()
    )


def test_a_cache_hit_does_not_train(small, tmp_path):
    first = run(tmp_path, "ease", "sasrec-ce", seeds=[0])
    told = []
    again = run(tmp_path, "ease", "sasrec-ce", seeds=[0], report=told.append)
    assert len(small["ease"].made) == len(small["sasrec-ce"].made) == 1 and told == [
        "2 of 2 trainings are kept from before, 0 to do"
    ]
    pd.testing.assert_frame_equal(first, again)
    run(tmp_path, "ease", "sasrec-ce", seeds=[0, 1])
    assert len(small["ease"].made) == 1 and [
        m["seed"] for m in small["sasrec-ce"].made
    ] == [0, 1]


def test_other_settings_or_another_split_are_another_run(small, tmp_path, monkeypatch):
    run(tmp_path, "ease")
    monkeypatch.setitem(
        SYSTEMS, "ease", SYSTEMS["ease"]._replace(settings={"regularisation": 11})
    )
    run(tmp_path, "ease")
    assert [m["regularisation"] for m in small["ease"].made] == [10, 11]
    load = tuning.load_split
    monkeypatch.setattr(
        tuning, "load_split", lambda name, ties: replace(load(name), sha256="0" * 64)
    )
    split_of.cache_clear()
    run(tmp_path, "ease")
    assert len(small["ease"].made) == 3


@pytest.mark.parametrize("kill", [3, 6])
def test_a_kill_in_the_middle_and_resume_gives_equal_records(
    small, tmp_path, monkeypatch, kill
):
    "Killed in an epoch of the first or of the second training."
    real, calls = factor_models.per_user, []

    def killing(*arguments):
        calls.append(1)
        if len(calls) == kill:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(factor_models, "per_user", killing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", "sasrec-ce", "popularity", seeds=[0, 1])
    assert list((tmp_path / "killed/unfinished").glob("*/training.safetensors"))
    before = len(calls)
    resumed = run(tmp_path / "killed", "sasrec-ce", "popularity", seeds=[0, 1])
    whole = run(tmp_path / "whole", "sasrec-ce", "popularity", seeds=[0, 1])
    # four epochs twice, less what was done; then all eight
    assert len(calls) - before == 8 - (kill - 1) + 8
    same = [
        c
        for c in whole
        if c not in ("seconds", "peak_mb", "users_per_second", "versions")
    ]
    pd.testing.assert_frame_equal(resumed[same], whole[same])
    assert not list((tmp_path / "killed/unfinished").glob("*"))


def test_tuning_is_written_down_and_used(small, small_split, tmp_path):
    records = run(tmp_path, "ease", "sasrec-ce", "popularity", tuned=True, seeds=[1])
    found = find_search(tmp_path, "small", "ease")
    assert [t["settings"] for t in found["trials"]] == SYSTEMS["ease"].search and found[
        "split_sha256"
    ] == small_split.sha256
    best = max(found["trials"], key=lambda t: t["score"])
    assert (
        found["chosen"] == best["settings"]
        and settings_of("small", "ease", tmp_path) == best["settings"]
    )
    row = records[records["system"] == "ease"].iloc[0]
    assert row["config"] == best["settings"] and row["valid NDCG@10"] == pytest.approx(
        best["score"]
    )
    # two trials with seed 0, then the run
    assert [m["seed"] for m in small["sasrec-ce"].made] == [0, 0, 1]
    made = sum(len(s.made) for s in small.values())
    run(tmp_path, "ease", "sasrec-ce", "popularity", tuned=True, seeds=[1])
    assert sum(len(s.made) for s in small.values()) == made
    table = search_table(tmp_path).set_index("system")
    assert (
        table.loc["ease", "trials"] == 3
        and table.loc["ease", "best"]
        >= table.loc["ease", "median"]
        >= table.loc["ease", "worst"]
    )


def test_the_winner_of_a_search_is_not_trained_twice(small, tmp_path, monkeypatch):
    real, calls = factor_models.per_user, []
    monkeypatch.setattr(
        factor_models, "per_user", lambda *a: calls.append(1) or real(*a)
    )
    tune("small", "sasrec-ce", tmp_path)
    searched = len(calls)
    # the loser's is gone
    assert (
        searched
        and len(list((tmp_path / "unfinished").glob("*/training.safetensors"))) == 1
    )
    kept = json.loads(next((tmp_path / "unfinished").glob("*/cost.json")).read_text())
    record = run(tmp_path, "sasrec-ce", tuned=True, seeds=[0]).iloc[0]
    assert (
        len(calls) == searched
        and record["peak_mb"] >= kept["peak_mb"]
        and record["device"].startswith(kept["device"])
        and not list((tmp_path / "unfinished").glob("*"))
    )
    found = find_search(tmp_path, "small", "sasrec-ce")
    assert record["valid NDCG@10"] == pytest.approx(
        max(t["score"] for t in found["trials"])
    )
    # another seed is another training
    fresh = run(tmp_path / "fresh", "sasrec-ce", tuned=True, seeds=[1]).iloc[0]
    assert len(calls) > searched and fresh["seed"] == 1


def test_a_search_of_other_settings_is_done_again(small, tmp_path, monkeypatch):
    run_comparison(["small"], ["ease"], folder=tmp_path, tuned=True)
    told, was = [], len(small["ease"].made)
    run_comparison(["small"], ["ease"], folder=tmp_path, tuned=True, report=told.append)
    assert len(small["ease"].made) == was and not any(
        "earlier version" in line for line in told
    )
    monkeypatch.setitem(
        SYSTEMS,
        "ease",
        SYSTEMS["ease"]._replace(search=product(regularisation=(1, 100, 1000, 5000))),
    )
    run_comparison(["small"], ["ease"], folder=tmp_path, tuned=True, report=told.append)
    found = find_search(tmp_path, "small", "ease")
    # the others' trials are kept
    assert [t["settings"]["regularisation"] for t in found["trials"]] == [
        1,
        100,
        1000,
        5000,
    ] and small["ease"].made[was]["regularisation"] == 5000
    assert (
        sum(
            line.startswith("ease on small: its search is of an earlier version")
            for line in told
        )
        == 1
    )


def test_a_large_set_tries_what_won_on_the_small_ones(small, tmp_path):
    for name, chosen in (
        ("small", {"regularisation": 1}),
        ("second", {"regularisation": 1000}),
    ):
        tune(name, "ease", tmp_path)
        change_search(tmp_path, name, chosen=chosen)
    small["ease"].made.clear()
    run_comparison(
        ["large"],
        ["ease", "popularity"],
        folder=tmp_path,
        tuned=True,
        like=["small", "second"],
    )
    found = find_search(tmp_path, "large", "ease")
    assert (
        [t["settings"]["regularisation"] for t in found["trials"]] == [1, 1000]
        and found["budget"] == 2
        and found["like"] == ["small", "second"]
    )
    assert (
        found["chosen"] == max(found["trials"], key=lambda t: t["score"])["settings"]
        and len(small["ease"].made) == 3
    )
    table = pq.read_table(tmp_path / RUNS)
    others = pc.field("run") != "search--large--ease"
    pq.write_table(table.filter(others), tmp_path / RUNS)
    # one winner needs no trial
    alone = tune("large", "ease", tmp_path, like=["second"])
    assert (
        alone["trials"] == []
        and alone["chosen"] == {"regularisation": 1000}
        and len(small["ease"].made) == 3
    )
    # what a large set needs beside, one after the other
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            SYSTEMS,
            "ease",
            SYSTEMS["ease"]._replace(large=({"decay": 0.9}, {"decay": 0.8})),
        )
        assert search_of("ease", tmp_path, ["small", "second"]) == [
            {"regularisation": 1, "decay": 0.9},
            {"regularisation": 1000, "decay": 0.8},
        ]
        assert search_of("ease", tmp_path, ["second"]) == [
            {"regularisation": 1000, "decay": 0.9}
        ]
    with pytest.raises(ConfigError, match="sasrec-ce was not tuned on second"):
        run_comparison(
            ["large"], ["sasrec-ce"], folder=tmp_path, tuned=True, like=["second"]
        )
    with pytest.raises(ConfigError, match="needs tuned"):
        run_comparison(["large"], ["ease"], folder=tmp_path, like=["second"])


def test_a_killed_search_goes_on(small, tmp_path, monkeypatch):
    def killing(dataset, system, settings, *more, real=tuning._run_trial):
        if settings == {"regularisation": 1000}:
            raise KeyboardInterrupt
        return real(dataset, system, settings, *more)

    with monkeypatch.context() as patched:
        patched.setattr(comparison, "_run_trial", killing)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "ease", tuned=True)
    assert (
        find_search(tmp_path, "small", "ease") is None and len(small["ease"].made) == 2
    )
    run(tmp_path, "ease", tuned=True)
    # the third trial, and the run
    assert len(small["ease"].made) == 4


def test_two_processes_do_not_train_the_same(small, small_split, tmp_path):
    work = tuning._checkpoint_folder(
        tmp_path, replace(small_split, name="small"), "sasrec-ce", {}, 0
    )
    work.parent.mkdir()
    with (
        FileLock(f"{work}.lock"),
        pytest.raises(
            ConfigError,
            match="small--sasrec-ce--0--[0-9a-f]{12} is being trained by another",
        ),
    ):
        run(tmp_path, "sasrec-ce", seeds=[0])
    assert len(run(tmp_path, "sasrec-ce", seeds=[0])) == 1 and not list(
        (tmp_path / "unfinished").glob("*")
    )


def test_two_processes_may_do_the_same_where_no_checkpoint_is_kept(
    small, small_split, tmp_path
):
    work = tuning._checkpoint_folder(
        tmp_path,
        replace(small_split, name="small"),
        "ease",
        SYSTEMS["ease"].settings,
        0,
    )
    work.parent.mkdir()
    with FileLock(f"{work}.lock"):
        assert len(run(tmp_path, "ease", seeds=[0])) == 1


def test_a_comparison_removes_what_a_killed_one_left(small, tmp_path):
    work = tmp_path / "unfinished/large--ease--0--abc"
    work.mkdir(parents=True)
    left = [place / ".0123456789abcdef.part" for place in (tmp_path, work)]
    with study_folder(tmp_path):  # Somebody works there
        for path in left:
            path.touch()
        run(tmp_path, "ease", tuned=True)
        assert all(path.exists() for path in left)
    run(tmp_path, "ease", tuned=True)
    assert not any(path.exists() for path in left)
    assert not list(tmp_path.glob(".study*"))


def test_searches_that_fail_or_do_not_fit(small, tmp_path, monkeypatch):
    class Failing(EASE):
        def fit(self, split, log=None):
            if self.regularisation > 1:
                raise TrainingError("it went wrong")
            return super().fit(split)

    monkeypatch.setitem(SYSTEMS, "ease", SYSTEMS["ease"]._replace(make=Failing))
    found = tune("small", "ease", tmp_path)
    assert found["chosen"] == {"regularisation": 1} and [
        t["failed"] for t in found["trials"]
    ] == [None, "it went wrong", "it went wrong"]
    monkeypatch.setitem(
        SYSTEMS, "ease", SYSTEMS["ease"]._replace(search=product(regularisation=(5, 6)))
    )
    with pytest.raises(TrainingError, match="each of the 2 settings"):
        tune("small", "ease", tmp_path)
    change_search(tmp_path, "small", split_sha256="0" * 64)
    with pytest.raises(CheckpointError, match="another split"):
        settings_of("small", "ease", tmp_path)
    change_search(tmp_path, "small", chosen=[])
    with pytest.raises(
        CheckpointError,
        match="must be an object with named values. This is no record of a search",
    ):
        settings_of("small", "ease", tmp_path)


def test_a_failed_training_is_told_and_does_not_stop_the_others(
    small, tmp_path, monkeypatch
):
    class Failing(Popularity):
        def fit(self, split, log=None):
            raise TrainingError("it went wrong")

    monkeypatch.setitem(SYSTEMS, "popularity", System(Failing, {}, [], False, False))
    with pytest.raises(
        TrainingError,
        match="1 of 2 trainings failed.*small, popularity, seed 0: it went wrong",
    ):
        run(tmp_path, "popularity", "ease")
    assert read_records(tmp_path)["system"].tolist() == ["ease"]


def test_a_fusion_trains_its_part_once_and_both_get_records(small, tmp_path):
    records = run(tmp_path, "sasrec+ease", "sasrec-ce", "ease", seeds=[0, 1]).set_index(
        ["system", "seed"]
    )
    assert [m["seed"] for m in small["sasrec-ce"].made] == [0, 1]
    fused = records.loc[("sasrec+ease", 1)]
    assert (
        fused["config"]
        == {
            "sasrec-ce": settings_of("small", "sasrec-ce", tmp_path),
            "ease": settings_of("small", "ease", tmp_path),
            "weights": [1, 1],
        }
        and fused["weight of EASE"] >= 0
    )
    assert (
        fused["parameters"]
        == records.loc[("sasrec-ce", 1), "parameters"]
        + records.loc[("ease", 0), "parameters"]
    )
    assert (
        fused["seconds"] > records.loc[("sasrec-ce", 1), "seconds"]
        and fused["valid NDCG@10"] >= records.loc[("sasrec-ce", 1), "valid NDCG@10"]
    )
    run(tmp_path, "sasrec+ease", seeds=[0, 1])
    assert len(small["sasrec-ce"].made) == 2


def test_a_fusion_of_three_starts_with_its_weights(small, small_split, tmp_path):
    fused = run(tmp_path, "sasrec+recency").iloc[0]
    three = Fused(
        make("sasrec-ce", SYSTEMS["sasrec-ce"].settings, 0),
        make("ease-recency", {}),
        make("item-knn-recency", {}),
        start=(1, 0.5, 0.5),
    ).fit(small_split)
    assert {k: v for k, v in fused.items() if k.startswith("weight of")} == dict(
        zip(
            ["weight of EASE, recency", "weight of item-kNN, recency"],
            three.chosen.weights[1:],
        )
    )
    assert list(fused["config"]) == [
        "sasrec-ce",
        "ease-recency",
        "item-knn-recency",
        "weights",
    ] and fused["config"]["weights"] == [1, 0.5, 0.5]
    assert (fused["ranks"] == evaluate(three, small_split).ranks).all()
    assert len(small["sasrec-ce"].made) == 2


def test_parts_that_fusions_share_are_trained_once_and_go_on_after_a_kill(
    small, tmp_path, monkeypatch
):
    first = Counted(GRU4Rec)
    monkeypatch.setitem(
        SYSTEMS, "gru4rec", System(first, SYSTEMS["sasrec-ce"].settings, [])
    )
    monkeypatch.setitem(FUSED, "two", {"gru4rec": 1, "ease": 1, "sasrec-ce": 1})
    monkeypatch.setitem(FUSED, "one", {"gru4rec": 1, "ease": 1})
    calls, count = (
        [],
        lambda *arguments, real=factor_models.per_user: (
            calls.append(0) or real(*arguments)
        ),
    )

    def killing(*arguments):
        if len(calls) == 6:
            raise KeyboardInterrupt
        return count(*arguments)

    monkeypatch.setattr(factor_models, "per_user", killing)
    # in the third epoch of the last part
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "one", "two", seeds=[1])
    assert list(
        (tmp_path / "unfinished").glob("*--gru4rec--*/sasrec-ce/training.safetensors")
    )
    monkeypatch.setattr(factor_models, "per_user", count)
    records = run(
        tmp_path, "one", "two", "gru4rec", "sasrec-ce", "ease", seeds=[1]
    ).set_index("system")
    # killed and resumed; EASE for its own record too
    assert (
        len(calls) == 4 + 4 + 4
        and len(first.made) == 2
        and len(small["ease"].made) == 3
    )
    assert (
        records.loc["two", "parameters"]
        == records.loc[["gru4rec", "ease", "sasrec-ce"], "parameters"].sum()
    )
    assert not list((tmp_path / "unfinished").glob("*"))


def test_controls_have_the_same_priors_in_any_order():
    own = (
        "contrec",
        "contrec+ease",
        "contrec+recency",
        "contrec+recency+sasrec",
        "contrec+recency+sasrec+gru4rec",
    )
    found = {name: tables._controls(name, own) for name in own}
    assert found == {
        "contrec": [],
        "contrec+ease": ["sasrec+ease"],
        "contrec+recency": ["sasrec+recency", "gru4rec+recency", "recency"],
        "contrec+recency+sasrec": ["sasrec+recency", "gru4rec+recency+sasrec"],
        "contrec+recency+sasrec+gru4rec": ["gru4rec+recency+sasrec"],
    }


def test_shuffled_ties_stand_beside(small, tmp_path):
    run(tmp_path, "ease", "popularity")
    records = run(tmp_path, "ease", "popularity", shuffle_ties=True)
    assert set(records["dataset"]) == {"small, ties shuffled"}
    both = read_records(tmp_path)
    table = comparison_table(both).set_index("system")
    assert len(both) == 4 and table["ties shuffled"].to_dict() == pytest.approx(
        records.set_index("system")["NDCG@10"].to_dict()
    )
    other = both.assign(
        config_hash=both["config_hash"].where(
            both["dataset"] == "small", "of other settings"
        )
    )
    # those are another row's ties
    assert comparison_table(other)["ties shuffled"].isna().all()
    with pytest.raises(ConfigError, match="all of data with shuffled ties"):
        comparison_table(records)


def test_the_page_is_made_from_records(small, tmp_path):
    records = run(
        tmp_path,
        "sasrec+recency",
        "sasrec+ease",
        "recency",
        "ease",
        "popularity",
        seeds=[0],
    )
    page = contrast_table(records, ours=("sasrec+recency", "sasrec+ease"))
    means = records.set_index("system")["NDCG@10"]
    best = means[["ease", "popularity"]].idxmax()  # a fusion is no single baseline
    assert page[["system", "against", "other"]].values.tolist() == [
        ["sasrec+recency", "best baseline", best],
        ["sasrec+recency", "control", "recency"],
        ["sasrec+ease", "best baseline", best],
    ]
    for row in page.to_dict("records"):
        assert (
            row["ratio"] == pytest.approx(means[row["system"]] / means[row["other"]])
            and row["difference"]
            == pytest.approx(means[row["system"]] - means[row["other"]])
            and 0 < row["p"] <= 1
        )
    assert (
        contrast_table(records, ours=()).empty
        and contrast_table(
            records[records["system"] == "sasrec+ease"], ours=("sasrec+ease",)
        ).empty
    )
    # two priors have no control
    assert contrast_table(records, ours=("recency",))["other"].tolist() == [best]
    assert (
        beyond_accuracy_table(records)["system"].tolist()
        == means.sort_values(ascending=False).index.tolist()
    )


@pytest.mark.parametrize(
    "names, options, error, says",
    [
        (
            ["sasrec"],
            {},
            ConfigError,
            "unknown system 'sasrec'. Did you mean 'sasrec-ce'",
        ),
        ([], {}, ConfigError, "no system to compare"),
        (["ease", "ease"], {}, ConfigError, "twice"),
        (["ease"], {"seeds": []}, ConfigError, "different numbers"),
        (["ease"], {"seeds": [1, 1]}, ConfigError, "different numbers"),
        (["ease"], {"workers": 0}, ConfigError, "0 workers"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(
    small, tmp_path, names, options, error, says
):
    with pytest.raises(error, match=says):
        run(tmp_path, *names, **options)
    with pytest.raises(DataError, match="unknown dataset 'smal'"):
        run_comparison(["small", "smal"], ["ease"], folder=tmp_path)
    with pytest.raises(ConfigError, match="different names"):
        run_comparison(["small", "small"], ["ease"], folder=tmp_path)
    assert not small["ease"].made and not list(tmp_path.iterdir())


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="ease: .*'lambda'.*regularisation"):
        make("ease", {"lambda": 3})
    with pytest.raises(ConfigError, match="unknown setting 'layers'"):
        make("contrec", {"layers": 3})


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_setting_that_is_tried_can_be_made(name):
    search = SYSTEMS[name].search
    assert len(search) in (0, BUDGET) and len(
        {json.dumps(s, sort_keys=True) for s in search}
    ) == len(search)
    for settings in search:
        assert make(name, json.loads(json.dumps(settings)), 3).name
    for parts in FUSED.values():
        assert set(parts) <= set(SYSTEMS) and len(parts) > 1


def test_jobs_come_in_whole_seeds(tmp_path):
    jobs = jobs_of(
        ["a", "b"], ["contrec+ease", "contrec", "ease", "sasrec+ease"], [1, 0], tmp_path
    )
    assert jobs[1] == Job("a", "file", "ease", ("ease",), 0, str(tmp_path))
    assert [(j.dataset, j.seed) for j in jobs] == sorted(
        (j.dataset, j.seed) for j in jobs
    )
    assert [j.systems for j in jobs if j.dataset == "b" and j.seed == 1] == [
        ("contrec+ease", "contrec"),
        ("sasrec+ease",),
    ]


def test_the_command_and_its_workers(tmp_path, capsys):
    "On MovieLens 100K, in two processes, then in none."
    ask = [
        "compare",
        "--datasets",
        "ml-100k",
        "--systems",
        "popularity",
        "item-knn",
        "--out",
        str(tmp_path / "two"),
    ]
    assert cli.main([*ask, "--workers", "2"]) == 0
    shown = capsys.readouterr().out
    assert "item-knn" in shown and "NDCG@10" in shown
    assert cli.main([*ask[:-1], str(tmp_path / "one")]) == 0
    one, two = read_records(tmp_path / "one"), read_records(tmp_path / "two")
    assert all((a == b).all() for a, b in zip(one["ranks"], two["ranks"])) and one[
        "system"
    ].tolist() == two["system"].tolist() == ["item-knn", "popularity"]
    assert (
        cli.main(
            [
                "compare",
                "--datasets",
                "ml-100k",
                "--systems",
                "itemknn",
                "--out",
                str(tmp_path / "no"),
            ]
        )
        == 2
    )
    assert "Did you mean 'item-knn'" in capsys.readouterr().err
    assert (
        cli.main(
            [
                "compare",
                "--datasets",
                "ml-10k",
                "--systems",
                "ease",
                "--out",
                str(tmp_path / "no"),
            ]
        )
        == 2
    )
    assert "ml-100k" in capsys.readouterr().err and not (tmp_path / "no").exists()


QUICK = {
    **dict.fromkeys(
        (
            "bpr",
            "lightgcn",
            "gru4rec",
            "sasrec-ce",
            "sasrec-bce",
            "gsasrec",
            "bert4rec",
        ),
        {"epochs": 1},
    ),
    "dreamrec": {"epochs": 1, "T": 10, "every": 1},
    "tiger": {"epochs": 1, "quantizer_epochs": 2},
    "contrec": {
        "training.epochs": 1,
        "training.tokenizer_epochs": 2,
        "embedding.epochs": 1,
    },
    **dict.fromkeys(
        ("contrec-paper", "deftrec"),
        {
            "training.epochs": 1,
            "training.tokenizer_epochs": 2,
            "embedding.kind": "linear",
            "decoding.steps": 5,
        },
    ),
}


def changed_by(fit, split):
    """Which of the two held-out parts moves the scores of a system that has one epoch,
    so that validation has nothing to choose.
    """

    def score(part):
        return fit(
            split
            if part is None
            else replace(split, **{part: (getattr(split, part) + 1) % split.n_items})
        ).score(split.train.take(np.arange(20)), np.arange(20))

    expected = score(None)
    return [
        part for part in ("valid", "test") if not np.array_equal(score(part), expected)
    ]


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_system_sees_what_it_is_judged_by(name, small_split):
    assert (
        changed_by(
            lambda split: make(name, QUICK.get(name, {})).fit(split), small_split
        )
        == []
    )


def test_a_system_that_cheats_is_caught(small_split):
    class Cheat(Popularity):
        def fit(self, split):
            return super().fit(replace(split, train=split.histories("test")))

    class Oracle(Popularity):
        def fit(self, split):
            super().fit(split)
            self.best = split.test
            return self

        def score(self, histories, users=None):
            return (
                super().score(histories, users)
                + np.eye(self.split.n_items, dtype=np.float32)[self.best[users]]
            )

    assert changed_by(lambda split: Cheat().fit(split), small_split) == [
        "valid"
    ] and changed_by(lambda split: Oracle().fit(split), small_split) == ["test"]
