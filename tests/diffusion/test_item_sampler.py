"""Generating among items: where samples end, averages of posteriors, and blocks."""

import pytest
import torch
from torch.nn import functional as F

from contrec.diffusion.diffusion import Diffusion
from contrec.diffusion.objectives import item_logits
from contrec.diffusion.posterior import ItemSampler, sampler_of
from contrec.foundations.errors import ConfigError, NotFiniteError

D, N_ITEMS = 16, 30
SETTINGS = {
    "ranking_loss": "posterior",
    "schedule": "shifted",
    "zero_terminal": True,
    "T": 40,
    "hidden": 16,
    "denoising_weight": 0.0,
    "tau": 0.25,
}


@pytest.fixture
def sampler():
    """An untrained network: its estimate is the condition, whatever the level."""
    torch.manual_seed(0)
    items = D**0.5 * F.normalize(torch.randn(N_ITEMS, D), dim=1)
    return ItemSampler(Diffusion(D, D, **SETTINGS), items)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def test_samples_end_on_items(sampler):
    torch.manual_seed(1)
    x = sampler.sample(torch.randn(3, D), 20, 0.0, 50, 1.0, "ddpm", noise())
    assert x.shape == (3, 50, D)
    cosine = F.normalize(x, dim=-1) @ F.normalize(sampler.items, dim=-1).T
    assert cosine.max(-1).values.median() > 0.99


def test_samples_have_the_probabilities_of_the_model(sampler):
    torch.manual_seed(2)
    c = torch.randn(1, D)
    p = item_logits(c, sampler.items, 0.25).softmax(-1)[0]
    x = sampler.sample(c, 40, samples=4000, method="ddpm", generator=noise())[0]
    ends = (x @ sampler.items.T).argmax(-1)
    share = torch.bincount(ends, minlength=N_ITEMS) / 4000
    assert (share - p).abs().sum() < 0.2
    assert (share - p.roll(1)).abs().sum() > 0.5


@pytest.mark.parametrize("step", [1, 3, 6])
def test_the_average_of_posteriors_is_that_of_the_model(sampler, step):
    torch.manual_seed(3)
    c = torch.randn(2, D)
    p = item_logits(c, sampler.items, 0.25).softmax(-1)
    scores = sampler.average(
        c, step, 10, samples=3000, method="ddpm", generator=noise()
    )
    assert torch.allclose(scores.exp().sum(-1), torch.ones(2), atol=1e-4)
    assert (scores.exp() - p).abs().sum(-1).max() < 0.15


def test_a_row_does_not_depend_on_its_batch(sampler):
    torch.manual_seed(4)
    c = torch.randn(5, D)
    together = sampler.average(c, 2, 4, samples=8, generator=noise())
    alone = sampler.average(c[3:4], 2, 4, samples=8, generator=noise())
    assert torch.allclose(together[3:4], alone, atol=1e-5)
    x = sampler.sample(c, 4, samples=8, method="ddpm", generator=noise())
    y = sampler.sample(c[3:4], 4, samples=8, method="ddpm", generator=noise())
    assert torch.allclose(x[3:4], y, atol=1e-4)


def test_the_loss_trains_the_prior_at_every_level(sampler):
    torch.manual_seed(5)
    diffusion, items = sampler.diffusion, sampler.items
    c, target = torch.randn(64, D), torch.randint(N_ITEMS, (64,))
    loss = diffusion.loss(items[target], c, items, target, noise())
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert diffusion.denoiser.skip.weight.grad.abs().sum() > 0
    assert loss.total == loss.preference


def test_scale_multiplies_the_cosines(sampler):
    c, scale = torch.randn(1, D), torch.ones(N_ITEMS)
    scale[7] = 3.0
    scaled = ItemSampler(sampler.diffusion, sampler.items, scale)
    found = scaled.average(c, samples=1, temperature=0.0)
    expected = item_logits(c, sampler.items, 0.25, scale).log_softmax(-1)
    assert torch.allclose(found, expected, atol=1e-4)


def test_what_generates_follows_from_the_ranking_loss(sampler):
    other = Diffusion(D, D, ranking_loss="softmax", hidden=16)
    assert sampler_of(other, sampler.items) is other
    assert isinstance(sampler_of(sampler.diffusion, sampler.items), ItemSampler)
    with pytest.raises(ConfigError, match="'posterior', not 'softmax'"):
        ItemSampler(other, sampler.items)


def test_bad_arguments(sampler):
    c = torch.randn(2, D)
    with pytest.raises(ConfigError, match="not among the 3 steps"):
        sampler.average(c, 4, 3)
    with pytest.raises(ConfigError, match="unknown sampling method"):
        sampler.sample(c, method="euler")
    with pytest.raises(ValueError, match="condition"):
        sampler.sample(c[:, :3])
    broken = ItemSampler(sampler.diffusion, sampler.items * torch.inf)
    with pytest.raises(NotFiniteError):
        broken.sample(c, 2)
