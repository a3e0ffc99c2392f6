"""What draws are worth: exact small cases, bounds, and bad input."""

import numpy as np
import pandas as pd
import pytest
import torch

from contrec.data.interactions import Ragged
from contrec.data.split import Split
from contrec.diffusion.sample_worth import (
    count_draws,
    draw_items,
    entropy,
    next_item_distribution,
    read_draws,
    sample_worth,
)
from contrec.foundations.errors import ConfigError
from contrec.ranking.recommender import Recommender

N_ITEMS, N_USERS = 40, 600


class Known(Recommender):
    """A recommender whose logits are given."""

    name = "known"

    def __init__(self, split, logits):
        self.split, self.logits = split, logits

    def _score(self, histories, users):
        return self.logits[users]


@pytest.fixture(scope="module")
def world():
    """Latents, a split whose targets follow known probabilities, and the oracle."""
    rng = np.random.default_rng(3)
    latents = rng.normal(size=(N_ITEMS, 16))
    logits = 3 * rng.normal(size=(N_USERS, N_ITEMS))
    history = Ragged.from_lists([[rng.integers(N_ITEMS)] for _ in range(N_USERS)])
    p = next_item_distribution(torch.from_numpy(logits), history).double().numpy()
    targets = np.array([rng.choice(N_ITEMS, 2, p=row / row.sum()) for row in p])
    names = np.arange(N_ITEMS).astype(str)
    split = Split(
        name="world",
        user_ids=np.arange(N_USERS).astype(str),
        item_ids=names,
        train=history,
        valid=targets[:, 0],
        test=targets[:, 1],
        items=pd.DataFrame({"item": names, "title": names}),
        protocol="toy",
        sha256="toy",
    )
    known = Known(split, logits.astype(np.float32))
    return torch.from_numpy(latents).float(), split, known


def test_seen_items_have_no_probability_and_are_never_drawn(world):
    _, split, known = world
    history = split.histories("valid")
    p = next_item_distribution(known.logits, history)
    assert torch.allclose(p.sum(1), torch.ones(N_USERS))
    seen = torch.as_tensor(history.values)[:, None]
    assert p.gather(1, seen).max() == 0
    drawn = draw_items(p, 200, torch.Generator().manual_seed(0))
    assert not (drawn == seen).any()


def test_draws_have_the_probabilities(world):
    p = torch.tensor([[0.6, 0.3, 0.1, 0.0]])
    counts = count_draws(draw_items(p, 20_000, torch.Generator().manual_seed(0)), 4)
    assert (counts / 20_000 - p).abs().max() < 0.02
    assert entropy(torch.full((1, 8), 1 / 8)).item() == pytest.approx(np.log(8))


def test_log_mean_exp_is_that_of_the_draws():
    torch.manual_seed(0)
    latents = torch.nn.functional.normalize(torch.randn(9, 4), dim=-1)
    drawn = torch.randint(9, (5, 7))
    kernel = ((latents @ latents.T - 1) / 0.2).exp()
    found = read_draws(count_draws(drawn, 9), latents, kernel)
    cosines = latents[drawn] @ latents.T
    direct = ((cosines - 1) / 0.2).logsumexp(1) - np.log(7)
    assert torch.allclose(found["log-mean-exp"], direct, atol=1e-4)
    mean = torch.nn.functional.normalize(latents[drawn].mean(1), dim=-1)
    assert torch.allclose(found["mean"], mean @ latents.T, atol=1e-5)


def test_no_reading_of_draws_is_ahead_of_the_probabilities(world):
    latents, split, known = world
    worth = sample_worth(known, split, latents, tau=0.02)
    table = worth.readings.set_index(["reading", "draws"])["NDCG@10"]
    best = table["probabilities", np.inf]
    # the standard error over these users is about .016
    assert table.max() < best + 0.03
    assert table["log-mean-exp", 1] < 0.7 * best
    assert table["log-mean-exp", 256] > 0.9 * best


def test_facts_of_the_next_item(world):
    latents, split, known = world
    worth = sample_worth(known, split, latents, draws=(1, 256))
    facts = worth.next_item
    # of a calibrated recommender the mean log-loss is the mean entropy
    assert facts["log-loss"] == pytest.approx(facts["entropy"], abs=0.15)
    hit = worth.readings.query("draws == 1 and reading == 'mean'")["target drawn"]
    assert hit.item() == pytest.approx(facts["target probability"], abs=0.05)


def test_users_are_a_sample_and_the_seed_decides(world):
    latents, split, known = world
    one = sample_worth(known, split, latents, users=100, seed=1)
    same = sample_worth(known, split, latents, users=100, seed=1)
    other = sample_worth(known, split, latents, users=100, seed=2)
    assert one.readings.equals(same.readings)
    assert not one.readings.equals(other.readings)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"latents": torch.zeros(3, 2)}, "one row for each of the 40 items"),
        ({"draws": ()}, "at least 1"),
        ({"draws": (4, 0)}, "at least 1"),
        ({"tau": 0.0}, "above 0"),
    ],
)
def test_bad_arguments_end_in_one_line(world, change, message):
    latents, split, known = world
    with pytest.raises(ConfigError, match=message) as caught:
        sample_worth(known, split, **{"latents": latents} | change)
    assert "\n" not in str(caught.value)
