"Test schedules against diffusers, steps against Bayes' rule, and conversions."

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.diffusion.schedule import (
    BETAS,
    KINDS,
    Schedule,
    ddim_coefficients,
    ddpm_coefficients,
    draw_times,
    end_in_noise,
    q_sample,
    q_target,
    shift_noise,
    to_eps,
    to_v,
    to_x0,
)
from contrec.foundations.errors import ConfigError

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is the oracle of this file"
)
SAY = {"x0": to_x0, "eps": to_eps, "v": to_v}
PREDICTION = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}


def oracle(cls, schedule, kind="eps", **more):
    return cls(
        num_train_timesteps=schedule.T,
        trained_betas=schedule.beta[1:].double().numpy(),
        prediction_type=PREDICTION[kind],
        clip_sample=False,
        **more,
    )


def test_linear_and_cosine_equal_diffusers_own():
    for name, theirs in (
        ("linear", dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
        ("cosine", dict(beta_schedule="squaredcos_cap_v2")),
    ):
        for T in (50, 1000):
            reference = diffusers.DDPMScheduler(num_train_timesteps=T, **theirs)
            torch.testing.assert_close(
                Schedule(name, T).abar[1:],
                reference.alphas_cumprod,
                rtol=2e-4,
                atol=1e-6,
            )


def test_exp_is_the_formula_of_the_method():
    T, product = 200, 1.0
    schedule = Schedule("exp", T)
    for i in range(T):
        x = 1 + i * 2 * T / (T - 1)
        product *= math.exp(-0.1 / T - x / 2 * (10 - 0.1) / T**2)
        assert schedule.abar[i + 1].item() == pytest.approx(product, rel=1e-5)


def test_sqrt_abar_follows_its_formula():
    schedule = Schedule("sqrt", 100)
    u = torch.arange(1, 100) / 100
    # relative to its value at time 0
    expected = (1 - (u + 1e-4).sqrt()) / (1 - math.sqrt(1e-4))
    torch.testing.assert_close(schedule.abar[1:100], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "exp", "sqrt"])
def test_zero_terminal_equals_diffusers_rescaling(name):
    plain, ours = Schedule(name, 100), Schedule(name, 100, zero_terminal=True)
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    theirs = (1 - rescale_zero_terminal_snr(plain.beta[1:].double())).cumprod(0).float()
    torch.testing.assert_close(ours.abar[1:], theirs, rtol=1e-4, atol=1e-7)
    assert ours.abar[-1] == 0 and ours.abar[1] == pytest.approx(
        plain.abar[1].item(), rel=1e-6
    )


@pytest.mark.parametrize("name", list(BETAS))
@pytest.mark.parametrize("T", [2, 3, 50, 200, 1000])
def test_every_schedule_falls_from_clean_to_noisy(name, T):
    schedule = Schedule(name, T)
    assert schedule.abar.shape == schedule.beta.shape == (T + 1,)
    assert schedule.abar[0] == 1 and schedule.beta[0] == 0
    assert (
        torch.isfinite(schedule.abar).all()
        and (schedule.abar.diff() < 0).all()
        and (schedule.abar > 0).all()
    )
    assert ((schedule.beta[1:] > 0) & (schedule.beta[1:] <= 1)).all()


def test_shift_divides_the_signal_to_noise_ratio_by_the_square():
    cosine, shifted = Schedule("cosine", 50), Schedule("shifted", 50)
    torch.testing.assert_close(
        shifted.snr()[1:-1], cosine.snr()[1:-1] / 16, rtol=1e-3, atol=0
    )
    abar = Schedule("exp", 50, shift=3.0).abar
    torch.testing.assert_close(abar, shift_noise(Schedule("exp", 50).abar, 3.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["exp", "cosine"])
@pytest.mark.parametrize("steps", [1, 4, 10, 100])
def test_ddim_walk_equals_diffusers(kind, name, steps):
    schedule = Schedule(name, 100)
    theirs = oracle(
        diffusers.DDIMScheduler, schedule, kind, timestep_spacing="trailing"
    )
    theirs.set_timesteps(steps)
    times = schedule.times(steps)
    assert (theirs.timesteps + 1).tolist() == times[:-1]  # theirs count from 0
    generator = torch.Generator().manual_seed(0)
    x = y = torch.randn(5, 3, generator=generator)
    network = torch.nn.Linear(3, 3).requires_grad_(False)
    abar = schedule.abar.double()
    for t, s in zip(times, times[1:]):
        x0 = to_x0(network(x), x, schedule.abar[t], kind)
        clean, current, fresh = ddim_coefficients(abar[t], abar[s])
        x = float(clean) * x0 + float(current) * x
        assert fresh == 0
        y = theirs.step(network(y), t - 1, y).prev_sample
    torch.testing.assert_close(x, y, rtol=2e-3, atol=2e-3 * float(y.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_ddpm_step_has_diffusers_mean_and_variance(kind):
    schedule = Schedule("exp", 50)
    theirs = oracle(
        diffusers.DDPMScheduler, schedule, kind, variance_type="fixed_small"
    )
    x_t, answer = torch.randn(4, 3), torch.randn(4, 3)
    for t in (50, 20, 2, 1):
        clean, current, fresh = ddpm_coefficients(
            schedule.abar[t].double(), schedule.abar[t - 1].double()
        )
        generator = torch.Generator().manual_seed(3)
        expected = theirs.step(answer, t - 1, x_t, generator=generator).prev_sample
        z = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3))
        mine = (
            float(clean) * to_x0(answer, x_t, schedule.abar[t], kind)
            + float(current) * x_t
            + float(fresh) * z
        )
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-4)


def test_q_sample_and_velocity_equal_diffusers():
    schedule = Schedule("exp", 100)
    theirs = oracle(diffusers.DDPMScheduler, schedule)
    x0, eps, t = torch.randn(64, 7), torch.randn(64, 7), torch.randint(1, 101, (64,))
    abar = schedule.at(t, x0)
    torch.testing.assert_close(
        q_sample(x0, eps, abar), theirs.add_noise(x0, eps, t - 1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        q_target(x0, eps, abar, "v"),
        theirs.get_velocity(x0, eps, t - 1),
        rtol=1e-4,
        atol=1e-5,
    )


@settings(max_examples=50, deadline=None)
@given(abar_t=st.floats(1e-3, 0.97), share=st.floats(0.05, 0.95))
def test_ancestral_step_is_bayes_rule(abar_t, share):
    """The posterior of x_s given x_t and x0, from completing the square in one
    dimension.
    """
    abar_s = abar_t + share * (1 - abar_t)
    kept = abar_t / abar_s
    precision = kept / (1 - kept) + 1 / (1 - abar_s)
    clean, current, noise = ddpm_coefficients(
        torch.tensor(abar_t, dtype=torch.float64),
        torch.tensor(abar_s, dtype=torch.float64),
    )
    assert current.item() == pytest.approx(
        math.sqrt(kept) / (1 - kept) / precision, rel=1e-8
    )
    assert clean.item() == pytest.approx(
        math.sqrt(abar_s) / (1 - abar_s) / precision, rel=1e-8
    )
    assert noise.item() == pytest.approx(1 / math.sqrt(precision), rel=1e-8)


@settings(max_examples=100, deadline=None)
@given(
    abar=st.floats(0.01, 0.99),
    kind=st.sampled_from(KINDS),
    through=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
)
def test_conversions_are_round_trips(abar, kind, through, seed):
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    a = torch.tensor(abar, dtype=torch.float64)
    x_t = q_sample(x0, eps, a)
    there = SAY[through](q_target(x0, eps, a, kind), x_t, a, kind)
    torch.testing.assert_close(
        there, q_target(x0, eps, a, through), rtol=1e-8, atol=1e-8
    )
    torch.testing.assert_close(
        SAY[kind](there, x_t, a, through),
        q_target(x0, eps, a, kind),
        rtol=1e-8,
        atol=1e-8,
    )


def test_v_survives_pure_noise_and_eps_does_not():
    x0, eps, zero = torch.randn(3, 2), torch.randn(3, 2), torch.tensor(0.0)
    torch.testing.assert_close(
        to_x0(q_target(x0, eps, zero, "x0"), eps, zero, "x0"), x0
    )
    assert torch.isfinite(to_x0(q_target(x0, eps, zero, "v"), eps, zero, "v")).all()
    assert not torch.isfinite(to_x0(eps, eps, zero, "eps")).any()


@pytest.mark.parametrize("T", [2, 7, 200])
def test_times_are_distinct_and_include_both_ends(T):
    for steps in range(1, T + 1):
        times = Schedule("exp", T).times(steps)
        assert times[0] == T and times[-1] == 0 and len(times) == steps + 1
        assert all(a > b for a, b in zip(times, times[1:]))


def test_time_distribution():
    generator = torch.Generator().manual_seed(0)
    times = draw_times(40_000, 10, 0.5, generator)
    share = torch.bincount(times, minlength=11)[1:] / len(times)
    torch.testing.assert_close(
        share, torch.tensor([0.05] * 9 + [0.55]), rtol=0, atol=0.01
    )
    uniform = draw_times(40_000, 10, 0.0, generator)
    torch.testing.assert_close(
        torch.bincount(uniform, minlength=11)[1:] / len(uniform),
        torch.full((10,), 0.1),
        rtol=0,
        atol=0.01,
    )
    assert (draw_times(100, 10, 1.0, generator) == 10).all()
    assert torch.equal(
        draw_times(9, 10, generator=torch.Generator().manual_seed(1)),
        draw_times(9, 10, generator=torch.Generator().manual_seed(1)),
    )


def test_tables_stay_exact_in_bf16_and_out_of_the_saved_state():
    module = torch.nn.ModuleList([Schedule("exp", 200)]).to(torch.bfloat16)
    assert module[0].abar.dtype == torch.float32 and torch.equal(
        module[0].abar, Schedule("exp", 200).abar
    )
    assert not module.state_dict()
    x = torch.randn(3, 2).bfloat16()
    assert (
        q_sample(x, x, module[0].at(torch.tensor([1, 2, 3]), x)).dtype == torch.bfloat16
    )
    assert Schedule("exp", 20).to("meta").abar.device.type == "meta"


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Schedule("karras"), "unknown schedule 'karras'"),
        (lambda: Schedule("exp", 1), "at least T = 2"),
        (lambda: Schedule("exp", 10, shift=0.0), "positive"),
        (lambda: Schedule("exp", 10, shift=math.nan), "positive"),
        (lambda: Schedule("exp", 10).times(0), "1 to 10"),
        (lambda: Schedule("exp", 10).times(11), "1 to 10"),
        (
            lambda: to_x0(torch.ones(1), torch.ones(1), torch.tensor(0.5), "noise"),
            "unknown parameterisation",
        ),
        (
            lambda: q_target(torch.ones(1), torch.ones(1), torch.tensor(0.5), "noise"),
            "unknown parameterisation",
        ),
        (lambda: draw_times(3, 10, -0.1), "0 to 1"),
    ],
)
def test_bad_settings(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_end_in_noise_keeps_the_first():
    abar = torch.tensor([0.9, 0.5, 0.2])
    rescaled = end_in_noise(abar)
    assert (
        rescaled[0].item() == pytest.approx(0.9)
        and rescaled[-1] == 0
        and 0 < rescaled[1] < 0.5
    )
