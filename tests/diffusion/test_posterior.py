"""The denoising posterior over items: Bayes' rule, gradients, and its ranking loss."""

import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional as F

from contrec.diffusion.objectives import (
    RankingBatch,
    channel_logits,
    item_logits,
    posterior_logits,
    posterior_ranking,
    softmax_over_items,
)
from contrec.diffusion.schedule import q_sample

N_ITEMS, D = 11, 6


@pytest.fixture
def items():
    torch.manual_seed(0)
    return D**0.5 * F.normalize(torch.randn(N_ITEMS, D), dim=1)


@pytest.mark.parametrize("abar", [0.01, 0.3, 0.9])
def test_posterior_is_bayes_rule_with_gaussian_densities(items, abar):
    torch.manual_seed(1)
    abar = torch.tensor(abar)
    estimate, x_t = torch.randn(4, D), torch.randn(4, D)
    prior = item_logits(estimate, items, 0.3).softmax(-1)
    noise = Normal(abar.sqrt() * items, (1 - abar).sqrt())
    density = noise.log_prob(x_t[:, None]).sum(-1).exp()
    expected = prior * density / (prior * density).sum(-1, keepdim=True)
    found = posterior_logits(estimate, x_t, items, abar, 0.3).softmax(-1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_at_pure_noise_the_loss_is_the_softmax_over_items(items):
    torch.manual_seed(2)
    estimate, target = torch.randn(5, D), torch.tensor([0, 3, 10, 3, 1])
    scale = torch.rand(N_ITEMS) + 0.5
    batch = RankingBatch(
        torch.zeros(5),
        items[target],
        estimate,
        None,
        items,
        target,
        scale,
        x_t=torch.randn(5, D),
        abar=torch.zeros(5, 1),
    )
    expected = softmax_over_items(estimate, items, target, 0.2, scale)
    assert torch.allclose(posterior_ranking(batch, 0.2), expected)


def test_with_little_noise_the_target_is_certain(items):
    torch.manual_seed(3)
    target = torch.arange(N_ITEMS)
    abar = torch.full((N_ITEMS, 1), 0.99)
    x_t = q_sample(items, torch.randn_like(items), abar)
    p = posterior_logits(torch.randn(N_ITEMS, D), x_t, items, abar, 1.0).softmax(-1)
    assert (p.argmax(-1) == target).all()
    assert (p.max(-1).values > 0.99).all()


def test_no_gradient_goes_through_the_channel(items):
    torch.manual_seed(4)
    learned = items.clone().requires_grad_()
    estimate = torch.randn(2, D)
    x_t = 0.5 * learned[:2] + torch.randn(2, D)
    abar = torch.full((2, 1), 0.25)
    logits = posterior_logits(estimate, x_t, learned, abar, 0.5)
    (found,) = torch.autograd.grad(logits.square().sum(), learned)
    constant = channel_logits(x_t, learned, abar).detach()
    expected = item_logits(estimate, learned, 0.5) + constant
    (wanted,) = torch.autograd.grad(expected.square().sum(), learned)
    assert torch.allclose(found, wanted)


def test_the_average_over_samples_of_a_level_is_the_prior(items):
    torch.manual_seed(5)
    estimate, abar = torch.randn(1, D), torch.tensor(0.2)
    prior = item_logits(estimate, items, 0.5).softmax(-1)[0]
    drawn = torch.multinomial(prior, 40_000, replacement=True)
    x_t = q_sample(items[drawn], torch.randn(40_000, D), abar)
    average = posterior_logits(estimate, x_t, items, abar, 0.5).softmax(-1).mean(0)
    assert (average - prior).abs().max() < 0.01


def test_the_loss_needs_the_noised_targets(items):
    batch = RankingBatch(
        torch.zeros(1), items[:1], items[:1], None, items, torch.tensor([0])
    )
    with pytest.raises(ValueError, match="give x_t and abar"):
        posterior_ranking(batch)
