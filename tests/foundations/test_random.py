"""Seeding is local."""

import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from contrec.foundations.random import seeded
from contrec.foundations.trainer import train


class Loss(NamedTuple):
    total: torch.Tensor


def test_trap_06_seeding_is_local():
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    with seeded(11):
        torch.rand(5), np.random.rand(5), random.random()
    with seeded(0):
        rows = torch.randn(64, 3)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    train(model, lambda n: Loss(model(rows[n]).square().mean()), 64, epochs=2, seed=5)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_states_come_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1):
        torch.rand(3)
        raise KeyError
    assert torch.equal(before, torch.get_rng_state())
