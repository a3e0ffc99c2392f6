"Rank fusion: ranks against counting, weights that validation must be sure of."

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contrec.data.interactions import Ragged
from contrec.data.reading import from_frame
from contrec.data.split import leave_one_out
from contrec.foundations.errors import ConfigError
from contrec.ranking.linear import EASE, ItemKNN, Popularity
from contrec.ranking.metrics import per_user
from contrec.ranking.recommender import check_recommender
from contrec.retrieval.rank_fusion import Fused, choose_weights, log_ranks


@pytest.fixture(scope="module")
def split():
    "Users who walk round a ring of 24 items: the last item says which comes next."
    users, items, steps = 60, 24, 8
    start = np.random.default_rng(0).integers(0, items, users)
    item = ((start[:, None] + np.arange(steps)) % items).ravel()
    frame = pd.DataFrame(
        {
            "user": np.repeat([f"u{i}" for i in range(users)], steps),
            "item": [f"i{i}" for i in item],
            "timestamp": np.tile(np.arange(steps), users),
        }
    )
    return leave_one_out(from_frame(frame, name="ring"), core=3)


def ranks_one_by_one(row):
    """Count each item's rank; equal scores share their mean rank."""
    return np.array([(row > x).sum() + ((row == x).sum() + 1) / 2 for x in row])


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([-2.0, 0.0, 0.5, 1.0, 7.0]),
    ),
    st.integers(1, 15),
)
def test_ranks_equal_counting_and_are_shared_below_the_depth(scores, depth):
    found = np.exp(-log_ranks(torch.from_numpy(scores), depth).numpy())
    for row, got in zip(scores, found):
        wanted = ranks_one_by_one(row)
        cut = np.sort(row)[::-1][min(depth, len(row)) - 1]
        np.testing.assert_allclose(got[row > cut], wanted[row > cut], rtol=1e-4)
        np.testing.assert_allclose(
            got[row <= cut], wanted[row <= cut].mean(), rtol=1e-4
        )
    # The scale of the scores does not matter
    np.testing.assert_array_equal(
        log_ranks(torch.from_numpy(scores), depth),
        log_ranks(torch.from_numpy(scores * 4 + 3), depth),
    )


def test_fused_score_is_the_weighted_sum_of_log_ranks(split):
    a, b = EASE(5.0).fit(split), ItemKNN(20, 1.0, 0.5).fit(split)
    fused = Fused(a, b, start=(2, 0.7), grid=()).fit(split)
    rows, users = split.train.take([0, 1]), np.array([0, 1])

    def negative_log_ranks(scores):
        return -np.log(np.stack([ranks_one_by_one(row) for row in scores]))

    np.testing.assert_allclose(
        fused.score(rows, users),
        2 * negative_log_ranks(a.score(rows)) + 0.7 * negative_log_ranks(b.score(rows)),
        rtol=1e-3,
        atol=1e-4,
    )


def test_each_part_adds_one_term_and_their_order_does_not_matter(split):
    a, b, c = (
        EASE(5.0).fit(split),
        ItemKNN(20, 1.0, 0.5).fit(split),
        Popularity().fit(split),
    )
    rows = split.train.take([0, 1, 2])

    def fused_scores(*parts, **options):
        return Fused(*parts, **options, grid=()).fit(split).score(rows)

    np.testing.assert_allclose(fused_scores(a, b, c), fused_scores(c, a, b), rtol=1e-5)
    np.testing.assert_allclose(
        fused_scores(a, b, c, start=(1, 0.5, 2)) - fused_scores(a, b, start=(1, 0.5)),
        2 * log_ranks(torch.from_numpy(c.score(rows))),
        rtol=1e-3,
        atol=1e-4,
    )
    np.testing.assert_array_equal(
        fused_scores(a, b, c, start=(1, 0.5, 0)), fused_scores(a, b, start=(1, 0.5))
    )


def test_weights_are_chosen_on_validation_only(split):
    chosen = Fused(EASE(5.0), ItemKNN(20, 1.0, 0.5)).fit(split).chosen
    assert (
        Fused(EASE(5.0), ItemKNN(20, 1.0, 0.5))
        .fit(replace(split, test=np.roll(split.test, 5)))
        .chosen
        == chosen
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_changes_only_beyond_the_standard_error(seed):
    """The best of several weights for a part of noise is best by chance: no change.

    A part that knows the target gains weight, and one of noise loses it.
    """
    draw = np.random.default_rng(seed)
    targets, none = draw.integers(0, 50, 400), Ragged.from_lists([[]] * 400)

    def noise():
        return log_ranks(
            torch.from_numpy(draw.normal(size=(400, 50)).astype(np.float32))
        )

    knows = log_ranks(
        torch.from_numpy(
            (draw.normal(size=(400, 50)) + 2 * np.eye(50)[targets]).astype(np.float32)
        )
    )
    alike = choose_weights(
        [knows, knows + 1e-3 * noise()], targets, none, (1, 1), (0, 0.5, 1, 2, 5)
    )
    assert alike.weights == (1, 1) and alike.changes == []
    chosen = choose_weights(
        [noise(), noise(), knows], targets, none, (1, 1, 1), (0, 0.5, 1, 2, 5)
    )
    assert (
        chosen.weights[0] == 1 and chosen.weights[2] >= 2 and chosen.weights[1] <= 0.5
    )
    assert all(c["gain"] > c["error"] > 0 for c in chosen.changes)
    before = choose_weights(
        [noise(), noise(), knows], targets, none, (1, 1, 1), ()
    ).score
    assert chosen.score > before


def test_reported_score_is_that_of_the_ranked_lists(split):
    fused = Fused(EASE(5.0), ItemKNN(20, 1.0, 0.5), start=(1, 0.3)).fit(split)

    def ndcg(weights):
        fixed = Fused(*fused.parts, start=weights, grid=()).fit(split)
        lists = fixed.rank(split.train, 10, np.arange(split.n_users)).ids
        return per_user(lists, split.valid, (10,))["NDCG@10"].mean()

    # Lists break ties by item number; the choice counts ties against the target
    assert np.isclose(ndcg(fused.chosen.weights), fused.chosen.score, atol=2e-3)
    assert fused.chosen.score >= ndcg((1, 0.3)) - 2e-3


def test_seen_items_are_no_candidates_for_the_choice():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    found = choose_weights(
        [log_ranks(scores), log_ranks(scores)],
        np.array([1]),
        Ragged.from_lists([[0]]),
        (1, 1),
        (),
    )
    assert found.score == 1.0
    # A target that was seen cannot be found
    assert (
        choose_weights(
            [log_ranks(scores)] * 2,
            np.array([0]),
            Ragged.from_lists([[0]]),
            (1, 1),
            (),
        ).score
        == 0.0
    )


def test_fused_recommender_keeps_the_contract(split):
    check_recommender(Fused(ItemKNN(20, 1.0, 0.5), EASE(5.0)).fit(split), split)


@pytest.mark.parametrize(
    "parts, options, message",
    [
        (1, {}, "two parts or more"),
        (2, {"start": (1,)}, "2 parts need as many weights"),
        (2, {"start": (0, 1)}, "first one above 0"),
        (2, {"grid": (-1,)}, "0 or more and finite"),
        (2, {"most": 0}, "1 or more of both"),
        (2, {"depth": 0}, "1 or more of both"),
    ],
)
def test_bad_options_of_a_fusion_are_refused(parts, options, message):
    with pytest.raises(ConfigError, match=message):
        Fused(*(EASE(5.0) for _ in range(parts)), **options)
