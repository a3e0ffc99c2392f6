"Test the dispersive losses: gradients, values by hand, symmetries, number ranges."

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.diffusion.dispersive import (
    SIGNS,
    acting_pairs,
    dispersive,
    log_mean_exp,
    pair_distances,
)
from contrec.foundations.errors import ConfigError
from contrec.foundations.registry import names
from contrec.tokenizer.sigma_vae import mean_cosine

VARIANTS = names("dispersive_loss")
PAIRWISE = ("infonce_l2", "infonce_cosine", "hinge")


def cloud(b=32, m=8, seed=0, spread=0.3):
    return spread * torch.randn(b, m, generator=torch.Generator().manual_seed(seed)) + 1


def spread_of(z, variant):
    "What each variant is meant to enlarge."
    if variant == "infonce_cosine":
        z = torch.nn.functional.normalize(z, dim=1)
    return pair_distances(z).mean()


def step(z, variant, sign, lr=0.05):
    z = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dispersive(z, variant, sign=sign), z)
    return (z - lr * gradient / gradient.norm()).detach()


@pytest.mark.parametrize("variant", PAIRWISE)
@pytest.mark.parametrize("seed", range(5))
def test_trap_01_dispersive_sign(variant, seed):
    "Downhill must spread the representations; only the named ablation contracts them."
    z = cloud(seed=seed)
    before = spread_of(z, variant)
    assert spread_of(step(z, variant, "dispersive"), variant) > before
    assert spread_of(step(z, variant, "contractive"), variant) < before


@pytest.mark.parametrize("seed", range(5))
def test_trap_01_dispersive_sign_of_the_covariance(seed):
    "The covariance variant spreads over dimensions: downhill, their correlations fall."
    z = cloud(seed=seed) @ torch.randn(
        8, 8, generator=torch.Generator().manual_seed(seed + 50)
    )

    def off(z):
        return (torch.corrcoef(z.T) - torch.eye(8)).square().sum()

    assert (
        off(step(z, "covariance", "dispersive"))
        < off(z)
        < off(step(z, "covariance", "contractive"))
    )


def test_trap_01_a_collapsed_batch_is_the_worst_case():
    for variant in PAIRWISE:
        assert dispersive(torch.ones(16, 4), variant) > dispersive(
            cloud(16, 4, spread=1.0), variant
        )


def test_values_by_hand():
    # D = 4 / 2 = 2 for the pair, 0 on the diagonal
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert dispersive(
        z, "infonce_l2", tau=1.0, normalise=False
    ).item() == pytest.approx(math.log((2 + 2 * math.exp(-2)) / 4))
    assert dispersive(
        z, "infonce_l2", tau=0.5, normalise=False
    ).item() == pytest.approx(math.log((2 + 2 * math.exp(-4)) / 4))
    assert dispersive(z, "hinge", margin=3.0, normalise=False).item() == pytest.approx(
        (2 * 9 + 2 * 1) / 4
    )
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # orthogonal
    assert dispersive(z, "infonce_cosine", tau=0.5).item() == pytest.approx(
        math.log((2 + 2 * math.exp(-2)) / 4)
    )
    # covariance 1 off the diagonal, over b - 1 = 2
    z = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    assert dispersive(z, "covariance", normalise=False).item() == pytest.approx(2.0)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_against_double_loops(variant, normalise):
    z, tau, margin = cloud(12, 5, spread=1.0).double(), 0.7, 1.3
    given, (b, m) = z.float(), z.shape
    if normalise:
        z = z / sum(x**2 for row in z.tolist() for x in row) ** 0.5 * (b * m) ** 0.5
    D = [[((z[i] - z[j]) ** 2).sum().item() / m for j in range(b)] for i in range(b)]
    cosine = [
        [(z[i] @ z[j] / z[i].norm() / z[j].norm()).item() for j in range(b)]
        for i in range(b)
    ]
    pairs = [(i, j) for i in range(b) for j in range(b)]

    def mean(values):
        return sum(values) / len(values)

    expected = {
        "infonce_l2": lambda: math.log(
            mean([math.exp(-D[i][j] / tau) for i, j in pairs])
        ),
        "infonce_cosine": lambda: math.log(
            mean([math.exp(-(1 - cosine[i][j]) / tau) for i, j in pairs])
        ),
        "hinge": lambda: mean([max(0.0, margin - D[i][j]) ** 2 for i, j in pairs]),
        "covariance": lambda: sum(
            torch.cov(z.T)[i, j].item() ** 2
            for i in range(m)
            for j in range(m)
            if i != j
        ),
    }[variant]()
    assert dispersive(
        given, variant, tau, margin, normalise=normalise
    ).item() == pytest.approx(expected, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    b=st.integers(1, 20),
    m=st.integers(1, 10),
    seed=st.integers(0, 999),
    variant=st.sampled_from(VARIANTS),
)
def test_order_of_rows_does_not_matter_and_the_value_is_finite(b, m, seed, variant):
    z = cloud(b, m, seed, spread=1.0).requires_grad_()
    value = dispersive(z, variant)
    order = torch.randperm(b, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        dispersive(z[order], variant), value, rtol=1e-4, atol=1e-5
    )
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(z.grad).all()


@settings(max_examples=30, deadline=None)
@given(b=st.integers(2, 20), seed=st.integers(0, 999))
def test_infonce_stays_between_its_bounds(b, seed):
    value = dispersive(cloud(b, 6, seed, spread=3.0), "infonce_l2").item()
    assert -math.log(b) - 1e-5 <= value <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_growing_longer_does_not_help(variant):
    """Normalised, the value keeps its size under any factor and the gradient has no
    part along z.

    The published L2 form falls.
    """
    z = cloud(40, 12, spread=1.0).requires_grad_()
    value = dispersive(z, variant)
    (gradient,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(dispersive(7 * z, variant), value, rtol=1e-4, atol=1e-5)
    assert abs((gradient * z).sum()) < 1e-4 * gradient.norm() * z.norm()
    if variant in ("infonce_l2", "hinge"):
        assert dispersive(7 * z, variant, normalise=False) < dispersive(
            z, variant, normalise=False
        )


def descend(normalise, steps=150):
    z = (
        torch.randn(512, 32, generator=torch.Generator().manual_seed(3)) + 2
    ).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(steps):
        value = dispersive(z, normalise=normalise)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return value.detach(), z.detach()


def test_the_published_form_falls_to_its_floor_by_growth_and_the_default_does_not():
    start = descend(True, steps=1)[1]
    value, z = descend(False)
    assert (
        value == pytest.approx(-math.log(512), abs=0.01)
        and acting_pairs(value, 512) < 0.01
    )
    assert z.norm(dim=1).mean() > 1.2 * start.norm(dim=1).mean()
    value, z = descend(True)
    lowest = math.log(1 / 512 + 511 / 512 * math.exp(-2 * 512 / 511 / 0.5))
    assert lowest <= value < lowest + 0.3 and acting_pairs(value, 512) > 0.85
    assert abs(mean_cosine(z)) < 0.1 < mean_cosine(start)


@pytest.mark.parametrize("sign", list(SIGNS))
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("variant", PAIRWISE)
def test_acting_pairs_are_the_share_of_different_rows(variant, normalise, sign):
    z = cloud(20, 6, spread=1.0)
    value = acting_pairs(
        dispersive(z, variant, sign=sign, normalise=normalise), 20, variant, sign=sign
    )
    if variant == "infonce_cosine":
        z = torch.nn.functional.normalize(z, dim=1)
        terms = torch.exp(-2 * (1 - z @ z.T))
    else:
        z = z / z.square().mean().sqrt() if normalise else z
        D = pair_distances(z)
        terms = (
            torch.exp(-2 * D)
            if variant == "infonce_l2"
            else (1 - D).clamp(min=0).square()
        )
    assert value.item() == pytest.approx(
        1 - terms.trace().item() / terms.sum().item(), abs=1e-4
    )


def test_acting_pairs_at_the_ends():
    assert acting_pairs(torch.tensor(-math.log(512)), 512) < 1e-5 and acting_pairs(
        torch.tensor(0.0), 512
    ) == pytest.approx(511 / 512)
    assert (
        acting_pairs(torch.tensor(0.3), 9, "covariance") == 1
        and acting_pairs(torch.tensor(0.0), 1) == 0
    )


def test_zeros_have_a_finite_gradient():
    for variant in VARIANTS:
        z = torch.zeros(8, 4, requires_grad=True)
        dispersive(z, variant).backward()
        assert torch.isfinite(z.grad).all(), variant


def test_trap_21_batch_size_one():
    for variant in VARIANTS:
        z = torch.randn(1, 6, requires_grad=True)
        value = dispersive(z, variant)
        value.backward()
        assert torch.isfinite(value) and torch.equal(z.grad, torch.zeros(1, 6))


@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e6])
def test_extreme_sizes_stay_finite(scale):
    for variant in PAIRWISE:
        z = (scale * torch.randn(50, 16)).requires_grad_()
        value = dispersive(z, variant, tau=0.01)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(z.grad).all(), variant


def test_a_common_offset_changes_nothing():
    z = cloud(40, 16, spread=1.0)
    torch.testing.assert_close(
        pair_distances(z + 300), pair_distances(z), rtol=1e-3, atol=1e-3
    )


def test_equal_rows_have_a_finite_gradient():
    for variant in VARIANTS:
        z = torch.ones(8, 4, requires_grad=True)
        dispersive(z, variant).backward()
        assert torch.isfinite(z.grad).all(), variant


def test_half_precision_is_computed_in_float32():
    z = cloud(64, 32, spread=1.0)
    for variant in VARIANTS:
        half = dispersive(z.bfloat16(), variant)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, dispersive(z.bfloat16().float(), variant))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(
                dispersive(z, variant), dispersive(z, variant).float()
            )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dispersive(z)
    torch.testing.assert_close(inside, dispersive(z))


def test_activations_of_any_shape_are_flattened_per_row():
    z = torch.randn(6, 3, 4)
    assert torch.equal(dispersive(z), dispersive(z.flatten(1)))


def test_log_mean_exp():
    assert log_mean_exp(torch.tensor([1000.0, 1000.0])).item() == pytest.approx(1000.0)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(variant="l2"), "unknown dispersive loss"),
        (dict(sign="minus"), "unknown sign"),
        (dict(tau=0.0), "positive"),
        (dict(margin=-1.0), "positive"),
        (dict(tau=math.nan), "positive"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ConfigError, match=words):
        dispersive(torch.ones(2, 2), **settings)
