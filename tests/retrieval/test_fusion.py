"Fusion of latent and text scores: it cannot invert, and validation weighs it."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.data.interactions import Ragged
from contrec.foundations.errors import ConfigError
from contrec.foundations.random import seeded
from contrec.retrieval.fusion import calibrate, choose_weight, fuse


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_trap_15_text_bonus_not_inverted():
    latent, text = draw(20, 100), torch.zeros(20, 100)
    text[:, 40] = 1.0  # Item 40's text agrees, no other's does

    def items_before(weight):
        fused = fuse(latent, text, weight)
        return (fused > fused[:, 40:41]).sum(1)

    assert (items_before(0.3) <= items_before(0)).all()
    assert (items_before(0.3) < items_before(0)).any()
    assert (items_before(100.0) == 0).all()
    with pytest.raises(ConfigError, match="negative"):
        fuse(latent, text, -0.1)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    a=st.floats(0.1, 100),
    c=st.floats(-10, 10),
    weight=st.floats(0, 3),
)
def test_fusion_does_not_depend_on_scale_or_offset(seed, a, c, weight):
    latent, text = draw(3, 40, seed=seed).double(), draw(3, 40, seed=seed + 1).double()
    seen = Ragged.from_lists([[0, 1], [], [39]])
    torch.testing.assert_close(
        fuse(latent * a + c, text, weight, seen),
        fuse(latent, text, weight, seen),
        rtol=1e-2,
        atol=1e-2,
    )


def test_fusion_standardises_over_candidates_only():
    latent, text = draw(1, 10), draw(1, 10, seed=1)
    seen = Ragged.from_lists([[2, 7]])
    keep = [i for i in range(10) if i not in (2, 7)]
    with_wild = latent.clone()
    with_wild[0, 2], with_wild[0, 7] = 1e4, -1e4
    torch.testing.assert_close(
        fuse(with_wild, text, 0.5, seen), fuse(latent, text, 0.5, seen)
    )
    z = (latent[0, keep] - latent[0, keep].mean()) / latent[0, keep].std(correction=0)
    t = (text[0, keep] - text[0, keep].mean()) / text[0, keep].std(correction=0)
    torch.testing.assert_close(fuse(latent, text, 0.5, seen)[0, keep], z + 0.5 * t)
    masked = latent.clone()
    masked[0, [2, 7]] = -torch.inf
    torch.testing.assert_close(fuse(masked, text, 0.5), fuse(latent, text, 0.5, seen))


def test_constant_text_changes_nothing():
    latent = draw(5, 30)
    for level in (0.0, 1 / 3, -1e5):
        torch.testing.assert_close(
            fuse(latent, torch.full((5, 30), level), 2.0),
            fuse(latent, torch.zeros(5, 30), 0.0),
        )


def test_row_without_candidates_is_minus_infinity_not_nan():
    fused = fuse(draw(1, 3), draw(1, 3), 1.0, Ragged.from_lists([[0, 1, 2]]))
    assert (fused == -torch.inf).all()


def test_weight_is_chosen_by_validation_and_ties_go_to_the_smallest():
    latent, targets = draw(50, 30), np.arange(50) % 30
    text = torch.nn.functional.one_hot(torch.as_tensor(targets), 30).float()
    assert choose_weight(latent, text, targets, weights=(0, 0.01, 50)).weight == 50
    assert (
        choose_weight(latent, torch.zeros(50, 30), targets, weights=(1, 0.5, 0)).weight
        == 0
    )
    for metric in ("F1@10", "NDCG", "NDCG@0", "NDCG@x"):
        with pytest.raises(ConfigError, match="unknown metric"):
            choose_weight(latent, text, targets, metric=metric)
    with pytest.raises(ConfigError, match="at least one"):
        choose_weight(latent, text, targets, weights=())


def test_calibration_gives_new_items_the_scale_of_the_known_ones():
    """Known scores stay.

    If the known items' text-predicted scores were those of new items, they would
    spread as the known ones do; row by row, whatever the scale.
    """
    with seeded(0):
        known, text_predicted, new = (
            torch.randn(5, 40) * 3 + 7,
            torch.randn(5, 40) * 0.1 + 2,
            torch.randn(5, 3),
        )
    moved = calibrate(torch.cat([known, text_predicted], 1), text_predicted)
    torch.testing.assert_close(moved[:, :40], known)
    torch.testing.assert_close(moved[:, 40:].mean(1), known.mean(1))
    torch.testing.assert_close(moved[:, 40:].std(1), known.std(1))
    scores = torch.cat([known, new], 1)
    torch.testing.assert_close(
        calibrate(torch.cat([known, 10 * new + 4], 1), 10 * text_predicted + 4),
        calibrate(scores, text_predicted),
        atol=1e-3,
        rtol=1e-4,
    )
    # The order of the new items among themselves does not change
    assert (
        calibrate(scores, text_predicted)[:, 40:].argsort(1) == new.argsort(1)
    ).all()
    assert (
        calibrate(scores[:, :41], text_predicted).shape == (5, 41)
        and calibrate(known, torch.full((5, 40), 2.0)).isfinite().all()
    )


def test_scores_of_different_shapes_are_refused():
    with pytest.raises(ConfigError, match="one shape"):
        fuse(draw(2, 3), draw(2, 4), 0.1)
