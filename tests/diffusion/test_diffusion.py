"""Test the diffusion.

Samplers against independent loops and a known posterior, objectives by hand, bad input,
and the traps.
"""

import inspect
import json
import math
import shutil
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contrec.diffusion.denoiser import Denoised
from contrec.diffusion.diffusion import (
    PRESETS,
    Diffusion,
    DiffusionConfig,
    preset,
)
from contrec.diffusion.dispersive import dispersive, pair_distances
from contrec.diffusion.objectives import (
    centroid_negative,
    denoising_error,
    preferred,
    sampled_negatives,
    softmax_over_items,
)
from contrec.diffusion.schedule import KINDS, to_eps, to_v, to_x0
from contrec.foundations.errors import ConfigError, ContrecError
from contrec.foundations.random import seeded
from contrec.foundations.registry import names
from contrec.foundations.trainer import train

RANKING_LOSSES = ("none", *names("ranking_loss"))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(**settings):
    "Make a small model in which no weight is zero, as after training."
    with seeded(0):
        model = Diffusion(**dict(width=4, condition=6, T=20, hidden=16) | settings)
        for p in model.denoiser.parameters():
            nn.init.normal_(p, std=0.15)
    return model


def batch(b=12, items=30, width=4, condition=6):
    g = generator(1)
    items = torch.randn(items, width, generator=g)
    target = torch.randint(len(items), (b,), generator=g)
    return items[target], torch.randn(b, condition, generator=g), items, target


class Spy(nn.Module):
    "Stand in for a denoiser: record the inputs, return a function of them."

    def __init__(self, answer):
        super().__init__()
        self.answer, self.calls = answer, []

    def forward(self, x_t, t, c, is_null=None):
        self.calls.append((x_t, t, c, is_null))
        estimate = self.answer(x_t, t, c)
        return Denoised(estimate, estimate)


# ---- samplers


@pytest.mark.parametrize("kind", KINDS)
def test_ddim_with_all_steps_equals_an_independent_loop(kind):
    model, c = trained(parameterisation=kind), batch()[1]
    T, abar = 20, [1.0]
    for i in range(T):
        abar.append(
            abar[-1] * math.exp(-0.1 / T - (1 + i * 2 * T / (T - 1)) / 2 * 9.9 / T**2)
        )
    x = torch.randn(12, 1, 4, generator=generator(7))[:, 0]
    with torch.no_grad():
        for t in range(T, 0, -1):
            answer = model.denoiser(x, torch.full((12,), t), c).estimate
            a, s = math.sqrt(abar[t]), math.sqrt(1 - abar[t])
            if kind == "x0":
                x0, eps = answer, (x - a * answer) / s
            elif kind == "eps":
                x0, eps = (x - s * answer) / a, answer
            else:
                x0, eps = a * x - s * answer, s * x + a * answer
            x = math.sqrt(abar[t - 1]) * x0 + math.sqrt(1 - abar[t - 1]) * eps
    torch.testing.assert_close(
        model.sample(c, steps=T, generator=generator(7))[:, 0],
        x,
        rtol=1e-3,
        atol=1e-3 * float(x.abs().max()),
    )


def test_ddpm_with_all_steps_equals_an_independent_loop():
    model, c, T = trained(), batch()[1], 20
    beta = [0.0] + [
        1 - math.exp(-0.1 / T - (1 + i * 2 * T / (T - 1)) / 2 * 9.9 / T**2)
        for i in range(T)
    ]
    abar = [math.prod(1 - b for b in beta[: t + 1]) for t in range(T + 1)]
    g = generator(7)
    x = torch.randn(12, 1, 4, generator=g)[:, 0]
    with torch.no_grad():
        for t in range(T, 0, -1):  # DDPM, algorithm 2 in its x0 form
            x0 = model.denoiser(x, torch.full((12,), t), c).estimate
            mean = (
                math.sqrt(abar[t - 1]) * beta[t] / (1 - abar[t]) * x0
                + math.sqrt(1 - beta[t]) * (1 - abar[t - 1]) / (1 - abar[t]) * x
            )
            x = mean
            if t > 1:
                x = (
                    x
                    + math.sqrt(beta[t] * (1 - abar[t - 1]) / (1 - abar[t]))
                    * torch.randn(12, 1, 4, generator=g)[:, 0]
                )
    torch.testing.assert_close(
        model.sample(c, steps=T, method="ddpm", generator=generator(7))[:, 0],
        x,
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_the_optimal_denoiser_of_a_gaussian_gives_that_gaussian(kind, method):
    """Targets N(c, deviation^2).

    The posterior mean is known, so what is sampled must have the right mean and
    deviation.
    """
    deviation = torch.tensor([0.3, 1.0, 2.0])
    model = Diffusion(3, 3, T=400, zero_terminal=True, parameterisation=kind, hidden=8)

    def posterior(x_t, t, c):
        abar = model.schedule.at(t, x_t)
        c = c[:, None]
        x0 = c + abar.sqrt() * deviation**2 / (abar * deviation**2 + 1 - abar) * (
            x_t - abar.sqrt() * c
        )
        return {"x0": to_x0, "v": to_v}[kind](x0, x_t, abar, "x0")

    model.denoiser = Spy(posterior)
    c = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.0, 0.5]])
    x = model.sample(c, steps=400, samples=8000, method=method, generator=generator())
    torch.testing.assert_close(x.mean(1), c, rtol=0, atol=0.09)
    torch.testing.assert_close(x.std(1), deviation.expand(2, 3), rtol=0.05, atol=0)


def test_the_optimal_eps_denoiser_gives_that_gaussian():
    model = Diffusion(1, 1, T=400, parameterisation="eps", hidden=8)

    def posterior(x_t, t, c):
        abar = model.schedule.at(t, x_t)
        x0 = c[:, None] + abar.sqrt() * 0.25 / (abar * 0.25 + 1 - abar) * (
            x_t - abar.sqrt() * c[:, None]
        )
        return to_eps(x0, x_t, abar, "x0")

    model.denoiser = Spy(posterior)
    x = model.sample(
        torch.tensor([[0.5]]),
        steps=400,
        samples=20_000,
        method="ddpm",
        generator=generator(),
    )
    assert x.mean().item() == pytest.approx(
        0.5, abs=0.03
    ) and x.std().item() == pytest.approx(0.5, rel=0.05)


def test_training_finds_the_posterior_mean():
    "One step without noise is the mean of the targets under the condition."
    with seeded(0):
        c = torch.eye(2).repeat(500, 1)
        x0 = torch.where(c[:, :1] > 0, 1.0, -0.5) + 0.3 * torch.randn(1000, 2)
        model = Diffusion(2, 2, hidden=32)
    train(
        model,
        lambda rows: model.loss(x0[rows], c[rows]),
        1000,
        epochs=12,
        batch_size=100,
        lr=5e-3,
        lr_schedule="cosine",
    )
    mean = model.sample(torch.eye(2), steps=1, temperature=0.0)[:, 0]
    torch.testing.assert_close(
        mean, torch.tensor([[1.0, 1.0], [-0.5, -0.5]]), rtol=0, atol=0.12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_is_its_formula(kind):
    model, (x, c, *_) = trained(parameterisation=kind), batch()
    t, w, everyone = torch.full((12,), 9), 1.7, torch.ones(12, dtype=torch.bool)
    with torch.no_grad():

        def f(is_null):
            estimate = model.denoiser(x, t, c, is_null).estimate
            return to_x0(estimate, x, model.schedule.abar[9], kind)

        expected = (1 + w) * f(~everyone) - w * f(everyone)
        torch.testing.assert_close(
            model.estimate(x, t, c, w), expected, rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(model.estimate(x, t, c, 0.0), f(None))
    assert not torch.allclose(
        model.sample(c, guidance=2.0, generator=generator()),
        model.sample(c, generator=generator()),
    )


def test_guidance_takes_one_pass():
    model, c = trained(), batch()[1]
    model.denoiser = Spy(lambda x, t, c: x)
    model.sample(c, steps=3, samples=5, guidance=1.0)
    assert [tuple(call[0].shape) for call in model.denoiser.calls] == [(24, 5, 4)] * 3


def test_many_samples_in_one_pass_equal_one_by_one():
    model, c = trained(), batch()[1]
    start = torch.randn(12, 5, 4, generator=generator(3))
    together = model.sample(c, steps=4, samples=5, generator=generator(3))
    with torch.no_grad():
        for i in range(5):
            x, abar = start[:, i], model.schedule.abar
            for t, s in ((20, 15), (15, 10), (10, 5), (5, 0)):
                x0 = model.estimate(x, torch.full((12,), t), c)
                x = (
                    abar[s].sqrt() * x0
                    + (1 - abar[s]).sqrt()
                    * (x - abar[t].sqrt() * x0)
                    / (1 - abar[t]).sqrt()
                )
            torch.testing.assert_close(together[:, i], x, rtol=1e-3, atol=1e-3)


def test_temperature():
    model, c = trained(), batch()[1]
    with torch.no_grad():
        mean = model.denoiser(torch.zeros(12, 4), torch.full((12,), 20), c).estimate
    torch.testing.assert_close(model.sample(c, steps=1, temperature=0.0)[:, 0], mean)
    for method in ("ddim", "ddpm"):
        a, b = (
            model.sample(
                c, steps=5, temperature=0.0, method=method, generator=generator(s)
            )
            for s in (1, 2)
        )
        assert torch.equal(a, b)
    first = [
        next(model.walk(c, temperature=h, generator=generator())) for h in (1.0, 0.5)
    ]
    torch.testing.assert_close(first[0] / 2, first[1])


def test_the_generator_alone_decides():
    model, c = trained(), batch()[1]
    for method in ("ddim", "ddpm"):

        def run(seed, method=method):
            return model.sample(
                c, steps=5, samples=3, method=method, generator=generator(seed)
            )

        before = torch.get_rng_state()
        assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
        assert torch.equal(torch.get_rng_state(), before)
    x0, c, items, target = batch()
    for name in RANKING_LOSSES:
        model = trained(ranking_loss=name, dispersive_weight=0.5, dispersive_rows=5)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = model.loss(x0, c, items, target, generator(4))
            torch.manual_seed(9)
            assert torch.equal(
                first.total, model.loss(x0, c, items, target, generator(4)).total
            )
    with seeded(1):
        a = model.sample(c)
    with seeded(1):
        assert torch.equal(a, model.sample(c))


def test_walk_starts_at_noise_and_ends_at_the_sample():
    model, c = trained(), batch()[1]
    path = list(model.walk(c, steps=5, samples=2, generator=generator(3)))
    assert len(path) == 6 and torch.equal(
        path[0], torch.randn(12, 2, 4, generator=generator(3))
    )
    assert torch.equal(
        path[-1], model.sample(c, steps=5, samples=2, generator=generator(3))
    )


def test_sampling_keeps_no_gradient():
    assert not trained().sample(batch()[1].requires_grad_()).requires_grad


# ---- objectives


def test_terms_by_hand():
    assert denoising_error(
        torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    ).tolist() == [2.5]
    value = preferred(torch.tensor([0.1, 1.0]), torch.tensor([[0.6, 0.1], [0.0, 1.0]]))

    def sigma(x):
        return 1 / (1 + math.exp(-x))

    assert value.item() == pytest.approx(
        -sum(math.log(sigma(v)) for v in (0.5, 0.0, -1.0, 0.0)) / 4
    )
    items = torch.tensor([[3.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    value = softmax_over_items(
        torch.tensor([[0.6, 0.8]]), items, torch.tensor([1]), tau=0.5
    )
    assert value.item() == pytest.approx(
        math.log(sum(math.exp(v / 0.5) for v in (0.6, 0.8, -0.6))) - 0.8 / 0.5, rel=1e-5
    )
    value = softmax_over_items(
        torch.tensor([[0.6, 0.8]]),
        items,
        torch.tensor([1]),
        0.5,
        torch.tensor([2.0, 1.0, 0.5]),
    )
    assert value.item() == pytest.approx(
        math.log(sum(math.exp(v / 0.5) for v in (1.2, 0.8, -0.3))) - 0.8 / 0.5, rel=1e-5
    )


def test_the_softmax_over_two_items_is_the_loss_of_one_negative():
    """With two items, cross entropy of cosines is the logistic preference of one over
    the other.
    """
    x0, items = torch.randn(5, 3), torch.randn(2, 3)
    cosine = F.normalize(x0, dim=1) @ F.normalize(items, dim=1).T
    expected = preferred(-cosine[:, 0] / 0.1, -cosine[:, 1:] / 0.1)
    torch.testing.assert_close(
        softmax_over_items(x0, items, torch.zeros(5, dtype=torch.long), 0.1), expected
    )


def test_negatives_are_drawn_per_row_and_never_the_target():
    items, target = torch.arange(6.0)[:, None], torch.tensor([0, 5, 2, 2])
    drawn = sampled_negatives(items, target, 6000, generator())[..., 0]
    for row, own in zip(drawn, target):
        share = torch.bincount(row.long(), minlength=6) / 6000
        assert share[own] == 0
        torch.testing.assert_close(
            share[torch.arange(6) != own], torch.full((5,), 0.2), rtol=0, atol=0.03
        )
    assert not torch.equal(drawn[2], drawn[3])


def test_the_centroid_leaves_out_its_own_row():
    x0 = torch.randn(7, 3)
    for i, centroid in enumerate(centroid_negative(x0)[:, 0]):
        torch.testing.assert_close(centroid, torch.cat([x0[:i], x0[i + 1 :]]).mean(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preference", ["negative", "centroid"])
def test_negatives_are_noised_with_the_same_eps_and_t(kind, preference):
    model, (x0, c, items, target) = (
        trained(
            parameterisation=kind,
            ranking_loss=preference,
            negatives=3,
            ranking_weight=0.5,
        ),
        batch(),
    )
    network = nn.Linear(4, 4).requires_grad_(False)
    model.denoiser = Spy(lambda x, t, c: network(x))
    loss = model.loss(x0, c, items, target, generator(2))
    (x_t, t, _, is_null), (other_t, other_time, _, other_null) = model.denoiser.calls
    assert torch.equal(t, other_time) and torch.equal(is_null, other_null)
    a = model.schedule.abar[t].sqrt()[:, None, None]
    s = (1 - a**2).sqrt()
    eps = (x_t[:, None] - a * x0[:, None]) / s
    other = (other_t - s * eps) / a  # what was noised, if the noise was the same
    if preference == "negative":
        assert (
            torch.cdist(other.flatten(0, 1), items).amin(1) < 1e-2
        ).all() and other.shape == (12, 3, 4)
    else:
        torch.testing.assert_close(other, centroid_negative(x0), rtol=1e-3, atol=1e-3)
    answer = {
        "x0": lambda x, e: x,
        "eps": lambda x, e: e,
        "v": lambda x, e: a * e - s * x,
    }[kind]
    plus = (network(x_t)[:, None] - answer(x0[:, None], eps)).square().mean(-1)
    minus = (network(other_t) - answer(other, eps.expand_as(other))).square().mean(-1)
    assert loss.denoising.item() == pytest.approx(plus.mean().item(), rel=1e-3)
    assert loss.preference.item() == pytest.approx(
        -F.logsigmoid(minus - plus).mean().item(), rel=1e-3
    )
    assert loss.total.item() == pytest.approx(
        loss.denoising.item() + 0.5 * loss.preference.item(), rel=1e-4
    )


def test_the_total_is_the_weighted_sum():
    x0, c, items, target = batch()
    model = trained(
        ranking_loss="softmax",
        denoising_weight=0.2,
        ranking_weight=0.7,
        dispersive_weight=0.3,
    )
    loss = model.loss(x0, c, items, target, generator())
    torch.testing.assert_close(
        loss.total, 0.2 * loss.denoising + 0.7 * loss.preference + 0.3 * loss.dispersive
    )
    plain = trained().loss(x0, c, generator=generator())
    assert (
        plain.preference == 0
        and plain.dispersive == 0
        and torch.equal(plain.total, plain.denoising)
    )


def test_softmax_sees_the_estimate_of_x0_in_every_parameterisation():
    x0, c, items, target = batch()
    for kind in KINDS:
        model = trained(parameterisation=kind, ranking_loss="softmax", p_terminal=0.0)
        model.denoiser = Spy(lambda x, t, c: x / 2)
        loss = model.loss(x0, c, items, target, generator())
        x_t, t, *_ = model.denoiser.calls[0]
        expected = softmax_over_items(
            to_x0(x_t / 2, x_t, model.schedule.at(t, x_t), kind), items, target, 0.1
        )
        torch.testing.assert_close(loss.preference, expected)


def test_the_dispersive_loss_sees_the_chosen_layer_and_sampled_rows():
    x0, c, *_ = batch(b=40)
    for layer in (0, 1, 2):
        model = trained(layer=layer, dispersive_weight=1.0)
        spy = {}
        model.denoiser.register_forward_hook(
            lambda module, args, out, spy=spy: spy.update(hidden=out.hidden, args=args)
        )
        assert torch.equal(
            model.loss(x0, c, generator=generator()).dispersive,
            dispersive(spy["hidden"]),
        )
        if layer == 0:
            assert torch.equal(spy["hidden"], model.denoiser.embed_x(spy["args"][0]))
    few = trained(dispersive_weight=1.0, dispersive_rows=10)
    assert few.loss(x0, c, generator=generator()).dispersive >= -math.log(10) - 1e-5
    assert (
        few._sample_rows(torch.arange(40.0)[:, None], generator()).unique().numel()
        == 10
    )


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_learn(name):
    with seeded(0):
        items = F.normalize(torch.randn(20, 8), dim=1) * 8**0.5
        target = torch.randint(20, (400,))
        c = items[target] @ torch.randn(8, 5) / 8**0.5
        model = Diffusion(8, 5, **preset(name, T=50, hidden=32))
    rows = train(
        model,
        lambda rows: model.loss(items[target[rows]], c[rows], items, target[rows]),
        400,
        epochs=15,
        batch_size=50,
        lr=5e-3,
    )
    assert (
        rows[-1]["total"] < rows[0]["total"]
        and rows[-1]["denoising"] < rows[0]["denoising"]
    )
    x = model.sample(c[:100], steps=10, samples=8, generator=generator())
    hits = (F.normalize(x, dim=-1) @ F.normalize(items, dim=1).T).mean(1).argmax(
        1
    ) == target[:100]
    assert hits.float().mean() > 0.5  # of 20 items: by chance 0.05


def test_the_papers_presets_keep_the_published_dispersive_loss():
    assert (
        preset("contrec-paper")["dispersive_normalise"] is False
        and preset("contrec")["dispersive_variant"] == "infonce_cosine"
    )
    assert (
        Diffusion(4, 3).settings.dispersive_normalise
        and not Diffusion(4, 3, **preset("contrec-paper")).settings.dispersive_normalise
    )


def test_the_share_of_acting_pairs_is_reported():
    x0, c = (
        torch.randn(50, 4, generator=generator()),
        torch.randn(50, 6, generator=generator()),
    )
    loss = trained(dispersive_weight=1.0).loss(x0, c, generator=generator())
    assert (
        loss.acting_pairs
        == pytest.approx(1 - math.exp(-math.log(50) - loss.dispersive.item()), abs=1e-5)
        and not loss.acting_pairs.requires_grad
    )
    assert trained().loss(x0, c, generator=generator()).acting_pairs is None


def test_presets_are_the_papers():
    assert (
        preset("contrec-paper")["parameterisation"] == "x0"
        and preset("contrec-paper")["schedule"] == "exp"
        and preset("contrec-paper")["T"] == 200
    )
    assert (
        preset("deftrec")["parameterisation"] == "eps"
        and preset("deftrec")["ranking_weight"] == 0.5
    )
    assert preset("contrec", T=50)["T"] == 50 and preset("contrec")["T"] == 200


# ---- traps of the published code


@pytest.mark.parametrize("variant", ["infonce_l2", "infonce_cosine", "hinge"])
def test_trap_01_dispersive_sign(variant):
    """A step down the regulariser spreads the hidden vectors.

    `contractive` pulls them together.
    """
    x0, c, *_ = batch(b=40)

    def spread_after(sign):
        model = trained(
            denoising_weight=0.0,
            dispersive_weight=1.0,
            dispersive_variant=variant,
            dispersive_sign=sign,
            dispersive_margin=5.0,
        )

        def spread():
            out = {}
            handle = model.denoiser.register_forward_hook(
                lambda module, args, result: out.update(hidden=result.hidden.detach())
            )
            loss = model.loss(x0, c, generator=generator())
            handle.remove()
            z = (
                F.normalize(out["hidden"], dim=1)
                if variant == "infonce_cosine"
                else out["hidden"]
            )
            return loss, pair_distances(z).mean().item()

        loss, before = spread()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        loss.total.backward()
        optimizer.step()
        return spread()[1] - before

    assert spread_after("dispersive") > 0 > spread_after("contractive")


def test_trap_05_eps_and_sigma_drawn_once():
    """Noise and time are fresh for every row and every call, and are no part of the
    saved state.
    """
    model = trained(p_terminal=0.0)
    model.denoiser = Spy(lambda x, t, c: x)
    for _ in range(2):
        model.loss(torch.zeros(50, 4), torch.zeros(50, 6))
    (first, t1, _, d1), (second, t2, _, d2) = model.denoiser.calls
    assert first.unique(dim=0).shape[0] == 50 and not torch.allclose(first, second)
    assert len(t1.unique()) > 5 and not torch.equal(t1, t2)
    assert all(name.startswith("denoiser.") for name in trained().state_dict())


def test_trap_06_a_constructor_reseeds_nothing():
    before = torch.get_rng_state()
    torch.manual_seed(0)
    Diffusion(4, 6, hidden=16)
    a = torch.rand(3)
    torch.manual_seed(1)
    Diffusion(4, 6, hidden=16)
    assert not torch.equal(a, torch.rand(3))
    torch.set_rng_state(before)


@pytest.mark.parametrize("preference", RANKING_LOSSES)
def test_trap_21_batch_size_one(preference):
    x0, c, items, target = batch()
    model = trained(ranking_loss=preference, dispersive_weight=0.5)
    loss = model.loss(x0[:1], c[:1], items, target[:1])
    loss.total.backward()
    assert torch.isfinite(loss.total)
    for method in ("ddim", "ddpm"):
        assert model.sample(c[:1], samples=1, method=method, guidance=1.0).shape == (
            1,
            1,
            4,
        )
    assert model.sample(c[:0]).shape == (0, 1, 4)


def test_trap_23_cuda_assumed():
    """Everything runs where the weights and inputs are, with a generator that lives on
    the processor.
    """
    x0, c, items, target = batch()
    model = trained(ranking_loss="softmax", dispersive_weight=0.5)
    expected = model.sample(c, generator=generator())
    assert {p.device.type for p in model.parameters()} | {expected.device.type} == {
        "cpu"
    }
    if torch.cuda.is_available():
        model = model.cuda()
        there = [v.cuda() for v in (x0, c, items, target)]
        assert torch.isfinite(model.loss(*there, generator=generator()).total)
        torch.testing.assert_close(
            model.sample(there[1], generator=generator()).cpu(),
            expected,
            rtol=1e-2,
            atol=1e-2,
        )


# ---- half precision, compiled, saved


@pytest.mark.parametrize("preference", RANKING_LOSSES)
def test_bf16(preference):
    x0, c, items, target = batch()
    model = trained(ranking_loss=preference, dispersive_weight=0.5)
    exact = model.loss(x0, c, items, target, generator())
    points = model.sample(c, samples=3, guidance=1.0, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.loss(x0, c, items, target, generator())
        torch.testing.assert_close(
            model.sample(c, samples=3, guidance=1.0, generator=generator()),
            points,
            rtol=0.1,
            atol=0.15,
        )
    half = model.bfloat16()
    x0, c, items = x0.bfloat16(), c.bfloat16(), items.bfloat16()
    moved = half.loss(x0, c, items, target, generator())
    for loss in (mixed, moved):
        assert loss.total.item() == pytest.approx(
            exact.total.item(), rel=0.05, abs=0.05
        )
    moved.total.backward()
    sampled = half.sample(c, samples=3, guidance=1.0, generator=generator())
    assert sampled.dtype == torch.bfloat16
    torch.testing.assert_close(sampled.float(), points, rtol=0.1, atol=0.15)


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler",
)
def test_compiled():
    model, c = trained(blocks=1, hidden=8), batch()[1]
    expected = model.sample(c, steps=3, generator=generator())
    model.denoiser.compile(dynamic=False)
    torch.testing.assert_close(
        model.sample(c, steps=3, generator=generator()), expected, rtol=1e-4, atol=1e-5
    )


def test_config_rebuilds_the_model():
    model = trained(
        ranking_loss="softmax", dispersive_weight=0.3, blocks=3, layer=2, shift=2.0
    )
    twin = Diffusion(**json.loads(json.dumps(model.config)))
    twin.load_state_dict(model.state_dict())
    c = batch()[1]
    assert torch.equal(
        twin.sample(c, generator=generator()), model.sample(c, generator=generator())
    )
    assert twin.config == model.config


# ---- faults


def broken(shape, value):
    x = torch.zeros(shape)
    x[-1, 0] = value
    return x


@pytest.mark.parametrize(
    "call, error, words",
    [
        (
            lambda m: m.sample(torch.zeros(3, 5)),
            ValueError,
            r"condition must have the shape \(any, 6\), not \(3, 5\)",
        ),
        (
            lambda m: m.sample(torch.zeros(6)),
            ValueError,
            "condition must have the shape",
        ),
        (
            lambda m: m.sample(torch.zeros(3, 2, 6)),
            ValueError,
            "condition must have the shape",
        ),
        (
            lambda m: m.sample(broken((3, 6), math.nan)),
            ValueError,
            "not finite, first in row 2",
        ),
        (lambda m: m.sample(broken((3, 6), math.inf)), ValueError, "not finite"),
        (
            lambda m: m.sample(torch.zeros(3, 6), steps=21),
            ConfigError,
            "21 sampling steps .* 1 to 20",
        ),
        (lambda m: m.sample(torch.zeros(3, 6), steps=0), ConfigError, "1 to 20"),
        (lambda m: m.sample(torch.zeros(3, 6), steps=-1), ConfigError, "1 to 20"),
        (lambda m: m.sample(torch.zeros(3, 6), samples=0), ConfigError, "at least 1"),
        (
            lambda m: m.sample(torch.zeros(3, 6), temperature=-1.0),
            ConfigError,
            "temperature",
        ),
        (
            lambda m: m.sample(torch.zeros(3, 6), temperature=math.nan),
            ConfigError,
            "temperature",
        ),
        (
            lambda m: m.sample(torch.zeros(3, 6), method="heun"),
            ConfigError,
            "unknown sampling method 'heun'",
        ),
        (
            lambda m: m.sample(torch.zeros(3, 6), steps=4, guidance=1e38),
            ValueError,
            "generated latent has a value that is not finite",
        ),
        (
            lambda m: m.loss(torch.zeros(3, 5), torch.zeros(3, 6)),
            ValueError,
            r"x0 must have the shape \(any, 4\)",
        ),
        (
            lambda m: m.loss(torch.zeros(3, 4), torch.zeros(2, 6)),
            ValueError,
            r"condition must have the shape \(3, 6\)",
        ),
        (
            lambda m: m.loss(broken((3, 4), math.nan), torch.zeros(3, 6)),
            ValueError,
            "x0 has a value that is not finite, first in row 2",
        ),
        (
            lambda m: m.loss(torch.zeros(3, 4), broken((3, 6), math.nan)),
            ValueError,
            "condition has a value",
        ),
    ],
)
def test_bad_input_is_refused_with_its_name(call, error, words):
    with pytest.raises(error, match=words):
        call(trained())


@pytest.mark.parametrize(
    "items, target, words",
    [
        (None, None, "give `items` and `target`"),
        (
            torch.zeros(9, 3),
            torch.zeros(3, dtype=torch.long),
            r"items must have the shape \(any, 4\)",
        ),
        (
            broken((9, 4), math.nan),
            torch.zeros(3, dtype=torch.long),
            "items has a value that is not finite",
        ),
        (
            torch.zeros(9, 4),
            torch.zeros(2, dtype=torch.long),
            r"target must have the shape \(3\)",
        ),
    ],
)
def test_bad_items_are_refused_with_their_name(items, target, words):
    for name in ("softmax", "negative"):
        with pytest.raises(ValueError, match=words):
            trained(ranking_loss=name).loss(
                torch.zeros(3, 4), torch.zeros(3, 6), items, target
            )


def test_guidance_needs_a_model_trained_with_null_conditions():
    model = trained(cfg_dropout=0.0)
    with pytest.raises(ConfigError, match="cfg_dropout = 0"):
        model.sample(torch.zeros(3, 6), guidance=0.5)
    assert model.sample(torch.zeros(3, 6)).shape == (3, 1, 4)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(parameterisation="score"), "unknown parameterisation 'score'"),
        (dict(ranking_loss="bpr"), "unknown ranking loss"),
        (dict(schedule="quadratic"), "unknown schedule"),
        (dict(dispersive_variant="l2"), "unknown dispersive loss"),
        (dict(dispersive_sign="up"), "unknown sign"),
        (dict(p_terminal=2.0), "p_terminal"),
        (dict(cfg_dropout=1.0), "cfg_dropout"),
        (dict(tau=0.0), "tau"),
        (dict(negatives=0), "negatives"),
        (dict(denoising_weight=0.0), "all zero"),
        (dict(dispersive_weight=-0.5), "negative"),
        (dict(parameterisation="eps", zero_terminal=True), "pure noise"),
        (dict(layer=9), "layer 9"),
        (dict(T=1), "T = 2"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ContrecError, match=words):
        Diffusion(4, 6, hidden=16, **settings)


def test_settings_are_frozen_and_known_to_the_signature():
    model = Diffusion(4, 6, hidden=16)
    with pytest.raises(FrozenInstanceError):
        model.settings.hidden = 8
    names = [field.name for field in fields(DiffusionConfig)]
    assert list(inspect.signature(Diffusion).parameters) == [
        "width",
        "condition",
        *names,
    ]
    assert list(model.config) == ["width", "condition", *names]
    with pytest.raises(TypeError, match="hiden"):
        Diffusion(4, 6, hiden=16)


def test_unknown_preset():
    with pytest.raises(ConfigError, match="unknown diffusion preset 'dreamrec'"):
        preset("dreamrec")
