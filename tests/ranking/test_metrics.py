"Metrics against an independent oracle, properties, and the two traps about seen items."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contrec.data.interactions import Ragged
from contrec.ranking.metrics import (
    Contrast,
    _resampled_means,
    bootstrap,
    from_ranks,
    paired_bootstrap,
    per_user,
    summarise,
    target_ranks,
    top_k,
    unreachable,
)


def slow_top_k(scores, k, exclude):
    "The definition, one row at a time."
    rows = []
    for row, seen in zip(scores, exclude):
        left = sorted(
            (i for i in range(len(row)) if i not in seen), key=lambda i: (-row[i], i)
        )[:k]
        rows.append(left + [-1] * (k - len(left)))
    return np.array(rows, dtype=np.int64).reshape(len(scores), k)


@st.composite
def rankings(draw):
    """Scores with many ties, histories with repeats, a cut that may be longer than the
    catalogue.
    """
    n, items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    scores = draw(
        hnp.arrays(np.float32, (n, items), elements=st.integers(-3, 3).map(float))
    )
    seen = [
        draw(st.lists(st.integers(0, items - 1), max_size=2 * items)) for _ in range(n)
    ]
    return scores, seen, draw(st.integers(1, 15))


@settings(deadline=None, max_examples=150)
@given(rankings())
def test_top_k_is_the_definition_for_numpy_and_torch(case):
    scores, seen, k = case
    before = scores.copy()
    found = top_k(scores, k, Ragged.from_lists(seen))
    np.testing.assert_array_equal(found.ids, slow_top_k(scores, k, seen))
    for other in (
        torch.tensor(scores),
        scores.astype(np.float64),
        torch.tensor(scores).bfloat16(),
    ):
        np.testing.assert_array_equal(
            top_k(other, k, Ragged.from_lists(seen)).ids, found.ids
        )
    assert found.ids.dtype == np.int64 and found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.scores == -np.inf, found.ids == -1)
    rows, columns = np.nonzero(found.ids >= 0)
    np.testing.assert_array_equal(
        found.scores[rows, columns], scores[rows, found.ids[rows, columns]]
    )
    np.testing.assert_array_equal(scores, before)


@settings(deadline=None, max_examples=80)
@given(hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 30)))
def test_metrics_grow_with_the_cut_and_keep_their_order(ranks):
    m = from_ranks(ranks)
    for name in ("HR", "NDCG", "MRR"):
        assert (m[f"{name}@5"] <= m[f"{name}@10"]).all() and (
            m[f"{name}@10"] <= m[f"{name}@20"]
        ).all()
    for k in (5, 10, 20):
        assert (m[f"MRR@{k}"] <= m[f"NDCG@{k}"]).all() and (
            m[f"NDCG@{k}"] <= m[f"HR@{k}"]
        ).all()
        np.testing.assert_array_equal(m[f"HR@{k}"], (ranks >= 1) & (ranks <= k))


@pytest.fixture(scope="module")
def ranx_metrics():
    "ranx's functions as plain Python: compiling them would take a minute."
    numba = pytest.importorskip("numba")
    before, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, True
    try:
        return pytest.importorskip("ranx.metrics")
    finally:
        numba.config.DISABLE_JIT = before


def test_against_ranx(ranx_metrics):
    "An evaluator that shares no line with ours gives every user the same numbers."
    rng = np.random.default_rng(0)
    scores, targets = (
        rng.standard_normal((120, 60)).astype(np.float32),
        rng.integers(0, 60, 120),
    )
    seen = Ragged.from_lists(
        [rng.choice(np.setdiff1d(np.arange(60), t), 12, replace=False) for t in targets]
    )
    found = top_k(scores, 20, seen)
    # (users, 1, id and relevance)
    qrels = np.stack([targets, np.ones(120)], -1)[:, None]
    # (users, 20, id and score)
    run = np.stack([found.ids, found.scores], -1).astype(float)
    ours = per_user(found.ids, targets)
    for name, theirs in (
        ("HR", ranx_metrics.hit_rate),
        ("NDCG", ranx_metrics.ndcg),
        ("MRR", ranx_metrics.reciprocal_rank),
    ):
        for k in (5, 10, 20):
            np.testing.assert_allclose(
                ours[f"{name}@{k}"], theirs(qrels, run, k), atol=1e-12
            )
    assert 0 < ours["HR@5"].mean() < ours["HR@20"].mean() < 1


def test_by_hand():
    lists = np.array([[7, 1, 2, 3, 4], [5, 6, 8, 0, 1], [0, 1, 2, 3, 4]])
    m = per_user(lists, np.array([7, 8, 9]), ks=(2, 5))
    assert target_ranks(lists, np.array([7, 8, 9])).tolist() == [1, 3, 0]
    assert m["HR@5"].tolist() == [1, 1, 0] and m["HR@2"].tolist() == [1, 0, 0]
    assert m["NDCG@5"].tolist() == [1, 0.5, 0] and m["MRR@5"] == pytest.approx(
        [1, 1 / 3, 0]
    )


def test_trap_17_the_last_seen_item_is_excluded():
    """The item just before the target is part of the history, and nothing in the
    history is shown.
    """
    history, target = (
        Ragged.from_lists([[0, 1], [3, 2]]).append(np.array([2, 0])),
        np.array([3, 1]),
    )
    # the model likes the last seen item best
    scores = np.array([[4.0, 3.0, 9.0, 1.0, 0.0], [9.0, 1.0, 4.0, 3.0, 0.0]])
    assert top_k(scores, 2, history).ids.tolist() == [[3, 4], [1, 4]]
    wrong = top_k(scores, 2, history.drop_last())
    # what the published code shows
    assert wrong.ids[:, 0].tolist() == [2, 0]
    assert summarise(per_user(top_k(scores, 1, history).ids, target, (1,)))["HR@1"] == 1


def test_trap_18_seen_items_do_not_get_score_0():
    """With negative scores throughout, a score of 0 would put the seen items first.

    Here they stay out.
    """
    scores = np.full((1, 6), -5.0)
    scores[0, 4] = -1
    found = top_k(scores, 6, Ragged.from_lists([[0, 1]]))
    assert found.ids.tolist() == [[4, 2, 3, 5, -1, -1]]
    zeroed = scores.copy()
    zeroed[0, [0, 1]] = 0
    # what the published code shows
    assert set(top_k(zeroed, 2).ids[0]) == {0, 1}


def test_exclusion_comes_before_the_cut():
    scores = np.arange(30, 0, -1.0)[None]
    assert top_k(scores, 10, Ragged.from_lists([range(10)])).ids.tolist() == [
        list(range(10, 20))
    ]


def test_minus_infinity_is_no_candidate():
    scores = np.array([[1.0, -np.inf, 0.5]])
    assert top_k(scores, 3).ids.tolist() == [[0, 2, -1]]
    assert top_k(np.full((1, 3), -np.inf), 2).ids.tolist() == [[-1, -1]]
    assert target_ranks(np.array([[-1, -1]]), np.array([0])).tolist() == [0]


def test_no_rows():
    found = top_k(np.empty((0, 5)), 3)
    assert found.ids.shape == found.scores.shape == (0, 3)


def test_float64_differences_decide_although_scores_come_back_as_float32():
    scores = np.array([[1.0, 1.0 + 1e-12]])
    assert top_k(scores, 2).ids.tolist() == [[1, 0]]


def test_unreachable_counts_rows_not_repeats():
    assert (
        unreachable(
            Ragged.from_lists([[3, 3, 1], [], [2], [5]]), np.array([3, 0, 1, 5])
        )
        == 2
    )


def test_bootstrap_is_drawing_user_by_user():
    rng = np.random.default_rng(0)
    values = from_ranks(rng.integers(0, 60, 500))["NDCG@20"]
    textbook = values[rng.integers(0, 500, (8000, 500))].mean(1)
    fast = _resampled_means(values, 8000, seed=1)
    assert fast.mean() == pytest.approx(values.mean(), abs=3e-4)
    assert fast.std() == pytest.approx(textbook.std(), rel=0.05)
    assert np.quantile(fast, [0.025, 0.975]) == pytest.approx(
        np.quantile(textbook, [0.025, 0.975]), rel=0.05
    )


def test_bootstrap_in_pieces_covers_all_draws():
    # all different: pieces of 10 draws
    values = np.random.default_rng(0).random(400)
    means = _resampled_means(values, 205, seed=0, budget=4000)
    assert means.shape == (205,) and means.std() == pytest.approx(
        values.std() / 20, rel=0.2
    )


def test_bootstrap_repeats_and_leaves_the_global_generator_alone():
    values = np.random.default_rng(0).random(50)
    state = np.random.get_state()[1].copy()
    assert bootstrap(values, 200) == bootstrap(values, 200) and bootstrap(
        values, 200
    ) != bootstrap(values, 200, seed=1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    narrow, wide = bootstrap(values, level=0.5), bootstrap(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_paired_bootstrap_sees_what_is_there():
    rng = np.random.default_rng(0)
    hard = rng.random(800)
    a, b = (
        (rng.random(800) < hard + 0.1).astype(float),
        (rng.random(800) < hard - 0.1).astype(float),
    )
    found = paired_bootstrap(a, b)
    assert (
        found.low > 0
        and found.p < 0.01
        and found.difference == pytest.approx(a.mean() - b.mean())
    )
    assert paired_bootstrap(a, a) == Contrast(0, 0, 0, 1)
    nothing = paired_bootstrap(a, rng.permutation(a))
    assert nothing.low < 0 < nothing.high and nothing.p > 0.05


def test_p_is_uniform_without_a_difference():
    "Under no difference, about one test in ten has p < 0.1."
    rng = np.random.default_rng(0)
    ps = np.array(
        [
            paired_bootstrap(rng.random(200), rng.random(200), draws=300, seed=i).p
            for i in range(200)
        ]
    )
    assert 0.03 < (ps < 0.1).mean() < 0.18 and 0.35 < (ps < 0.5).mean() < 0.65


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: top_k(np.array([[0.1, np.nan]]), 1), "row 0, item 1 is NaN"),
        (lambda: top_k(np.zeros(3), 1), "must be \\(rows, items\\)"),
        (lambda: top_k(np.zeros((2, 3)), 0), "a list of 0 items"),
        (
            lambda: top_k(np.zeros((2, 3)), 1, Ragged.from_lists([[0]])),
            "2 rows of scores but 1",
        ),
        (
            lambda: per_user(np.zeros((1, 5), int), [0]),
            "lists of 5 items cannot be scored at a cut-off of 20",
        ),
        (lambda: summarise({"HR@5": np.empty(0)}), "no user"),
        (lambda: bootstrap(np.empty(0)), "no user"),
        (lambda: paired_bootstrap([1.0, 0.0], [1.0]), "the same users"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
