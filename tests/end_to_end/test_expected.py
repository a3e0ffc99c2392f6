"""The quality of a small, fixed configuration stays: a change that hurts it fails here.

The expected figures are records, made by `contrec ablate` from the grids
`expected` and `expected-broken`, with
`--out nbs/experiments/records/expected`. If you improve the method on purpose, remove
the records and run both again.

One run detects a loss of about a tenth of NDCG@10 on test. Smaller losses need the
ablations: for example, training times without their share at pure noise, which are
also among the records.
"""

from pathlib import Path

import pytest
from scipy import stats

from contrec import evaluate, load_split
from contrec.ranking.linear import EASE
from contrec.studies.ablation import read_study
from contrec.studies.experiments import model_run
from contrec.studies.runner import read_ablation
from contrec.studies.study_tables import study_records

EXPERIMENTS = Path(__file__).parents[2] / "nbs" / "experiments"
STUDY = read_study(EXPERIMENTS / "grids" / "expected.yaml")
METRICS = ("valid NDCG@10", "NDCG@10", "NDCG@10 sampled")


@pytest.fixture(scope="module")
def records():
    return read_ablation(EXPERIMENTS / "records" / "expected")


def runs(records, config):
    return records[[c == config for c in records["config"]]].set_index("seed")


def bounds(values):
    """Where 99 of 100 further seeds would lie."""
    n = len(values)
    half = stats.t.ppf(0.995, n - 1) * values.std(ddof=1) * (1 + 1 / n) ** 0.5
    return values.mean() - half, values.mean() + half


def test_the_records_are_of_this_study_and_split(records):
    assert (
        len(runs(records, STUDY.default)) == len(STUDY.seeds)
        and records["failed"].isna().all()
    )
    for context in records["context"]:
        assert (context["fixed"], context["split_sha256"]) == (
            STUDY.fixed,
            load_split("ml-100k").sha256,
        )


def test_training_reaches_what_it_reached(records):
    found = model_run(STUDY.fixed | {"dataset": "ml-100k"} | STUDY.default, seed=100)
    for metric in METRICS:
        low, high = bounds(runs(records, STUDY.default)[metric])
        assert low <= found[metric] <= high, (
            f"{metric} is {found[metric]:.4f}, expected {low:.4f} to {high:.4f}"
        )


def test_the_bounds_would_notice_targets_that_collapse_without_a_ranking_term(records):
    broken = runs(
        records, {"diffusion.ranking_loss": "none", "training.allow_collapse": True}
    )
    assert len(broken) >= 3
    for metric in METRICS:
        assert (broken[metric] < bounds(runs(records, STUDY.default)[metric])[0]).all()


def test_what_is_exact_stays_exact():
    found = evaluate(
        EASE(100).fit(load_split("ml-100k")), load_split("ml-100k")
    ).metrics
    study = EXPERIMENTS / "records" / "compare"
    name = "ml-100k--ease--0"
    expected = study_records(study, "evaluation", name)[name]
    assert expected["config"]["regularisation"] == 100
    assert found["NDCG@10"] == pytest.approx(expected["metrics"]["NDCG@10"], abs=1e-4)
