"Test the denoiser: its first estimate, shared conditions, sizes, precision, tracing."

import pytest
import torch
from torch import nn

from contrec.diffusion.denoiser import (
    AdaBlock,
    Denoised,
    Denoiser,
    LinearDenoiser,
    time_features,
)
from contrec.foundations.errors import ConfigError
from contrec.foundations.random import seeded


def trained(cls=Denoiser, width=6, condition=10, **settings):
    "A denoiser whose every weight matters, as after training."
    with seeded(0):
        model = cls(width, condition, **settings)
        for p in model.parameters():
            nn.init.normal_(p, std=0.2)
    return model.requires_grad_(False)


def batch(b=4, width=6, condition=10, s=None):
    generator = torch.Generator().manual_seed(1)
    shape = (b, width) if s is None else (b, s, width)
    return (
        torch.randn(shape, generator=generator),
        torch.randint(1, 200, (b,), generator=generator),
        torch.randn(b, condition, generator=generator),
    )


def test_starts_as_the_identity_on_its_condition():
    model = Denoiser(8, 8, hidden=32, blocks=3)
    x, t, c = batch(width=8, condition=8)
    assert torch.equal(model(x, t, c).estimate, c)
    # another width: a plain linear map of c
    assert not torch.equal(Denoiser(8, 6)(x, t, c[:, :6]).estimate, torch.zeros(4, 8))
    assert torch.equal(Denoiser(8, 8, skip=False)(x, t, c).estimate, torch.zeros(4, 8))


def test_blocks_start_as_the_identity():
    h = torch.randn(3, 16)
    assert torch.equal(AdaBlock(16)(h, torch.randn(3, 16)), h)


def test_the_output_depends_on_everything_once_trained():
    model, (x, t, c) = trained(), batch()
    base = model(x, t, c).estimate
    for other in (model(x + 1, t, c), model(x, t + 50, c), model(x, t, c + 1)):
        assert ((other.estimate - base).abs().amax(1) > 1e-3).all()


def test_gradient_reaches_every_parameter_after_one_step():
    with seeded(0):
        model = Denoiser(5, 7, hidden=16)
    x, t, c = batch(width=5, condition=7)
    is_null = torch.tensor([True, False, False, False])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x, t, c, is_null).estimate.sub(x).square().mean().backward()
        optimizer.step()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("cls", [Denoiser, LinearDenoiser])
def test_latents_that_share_a_condition_equal_one_at_a_time(cls):
    model, (x, t, c) = trained(cls), batch(s=5)
    is_null = torch.tensor([True, False, False, True])
    many = model(x, t, c, is_null)
    for s in range(5):
        torch.testing.assert_close(
            many.estimate[:, s],
            model(x[:, s], t, c, is_null).estimate,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("cls", [Denoiser, LinearDenoiser])
def test_in_null_rows_only_the_null_condition_has_influence(cls):
    model, (x, t, c) = trained(cls), batch()
    everyone = torch.ones(4, dtype=torch.bool)
    assert torch.equal(
        model(x, t, c, everyone).estimate, model(x, t, -c, everyone).estimate
    )
    assert torch.equal(model(x, t, c, ~everyone).estimate, model(x, t, c).estimate)
    before = model(x, t, c, everyone).estimate
    model.null.add_(1)
    assert not torch.allclose(model(x, t, c, everyone).estimate, before)


def test_layer_chooses_the_activation():
    x, t, c = batch()
    hidden = [trained(blocks=3, layer=layer)(x, t, c).hidden for layer in range(4)]
    # the embedded input knows nothing of the condition
    assert torch.equal(hidden[0], trained(blocks=3).embed_x(x))
    for a, b in zip(hidden, hidden[1:]):
        assert not torch.allclose(a, b)
    assert (
        trained(blocks=3).layer == 2
        and trained(blocks=2).layer == 1
        and trained(blocks=1).layer == 1
    )


@pytest.mark.parametrize("cls", [Denoiser, LinearDenoiser])
def test_trap_21_batch_size_one(cls):
    model, (x, t, c) = trained(cls), batch()
    one = model(x[:1], t[:1], c[:1])
    assert isinstance(one, Denoised) and one.estimate.shape == (1, 6)
    torch.testing.assert_close(
        one.estimate, model(x, t, c).estimate[:1], rtol=1e-4, atol=1e-5
    )
    assert model(x[:0], t[:0], c[:0]).estimate.shape == (0, 6)


def test_trap_23_works_wherever_its_weights_are():
    "No device is named in the module: on the meta device it runs and stays there."
    model = Denoiser(6, 10, hidden=32).to("meta")
    x, t, c = (v.to("meta") for v in batch())
    assert (
        model(
            x, t, c, torch.ones(4, dtype=torch.bool, device="meta")
        ).estimate.device.type
        == "meta"
    )
    if torch.cuda.is_available():
        x, t, c = (v.cuda() for v in batch())
        assert torch.allclose(
            trained().cuda()(x, t, c).estimate.cpu(),
            trained()(*batch()).estimate,
            atol=1e-3,
        )


def test_bf16_is_close_to_float32():
    model, (x, t, c) = trained(), batch()
    exact = model(x, t, c).estimate
    half = trained().bfloat16()(x.bfloat16(), t, c.bfloat16())
    assert half.estimate.dtype == half.hidden.dtype == torch.bfloat16
    assert (half.estimate.float() - exact).norm() < 0.05 * exact.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(x, t, c).estimate
    assert (mixed.float() - exact).norm() < 0.05 * exact.norm()


def test_it_traces_as_one_graph():
    """Nothing in the forward pass leaves the graph.

    The compiled kernels themselves are tried in test_diffusion.py.
    """
    model, (x, t, c) = trained(hidden=16, blocks=1), batch()
    expected = model(x, t, c)
    traced = torch.compile(model, backend="eager", fullgraph=True)(x, t, c)
    torch.testing.assert_close(traced.estimate, expected.estimate, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(traced.hidden, expected.hidden, rtol=1e-4, atol=1e-5)


def test_time_features_differ_for_all_times():
    features = time_features(torch.arange(1001), 64)
    assert features.shape == (1001, 64) and features.abs().max() <= 1
    distances = torch.cdist(features, features) + 9 * torch.eye(1001)
    assert distances.min() > 0.1


def test_state_moves_between_equal_models():
    with seeded(5):
        other = Denoiser(6, 10)
    other.load_state_dict(trained().state_dict())
    assert torch.equal(other(*batch()).estimate, trained()(*batch()).estimate)


def test_construction_follows_the_seed_and_disturbs_nobody():
    with seeded(3):
        a = Denoiser(6, 10)
    with seeded(3):
        b = Denoiser(6, 10)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(hidden=15), "even"),
        (dict(hidden=0), "even"),
        (dict(blocks=0), "at least one block"),
        (dict(blocks=2, layer=3), r"Choose 0 .* to 2"),
        (dict(layer=-1), "layer -1"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ConfigError, match=words):
        Denoiser(6, 10, **settings)


def test_bad_widths():
    with pytest.raises(ConfigError, match="positive widths"):
        Denoiser(0, 10)
    with pytest.raises(ConfigError, match="even"):
        LinearDenoiser(6, 10, times=7)
