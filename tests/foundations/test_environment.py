"""Versions, devices, and work that is refused because it needs too much memory."""

import json
import math

import pytest
import torch

from contrec.foundations import environment as module
from contrec.foundations.environment import (
    MemoryBudgetError,
    check_memory,
    environment,
    memory_budget,
)
from contrec.foundations.errors import (
    ConfigError,
)


def test_environment_is_json():
    assert json.loads(json.dumps(environment()))["threads"] == torch.get_num_threads()


def test_the_budget_is_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("CONTREC_MEMORY_GB", "0.5")
    assert memory_budget() == 500_000_000
    check_memory("a small matrix", 5e8, "Nothing to do.")
    with pytest.raises(
        MemoryBudgetError,
        match=r"EASE on 9 items needs 0.6 GB .* 0.5 GB .*Leave it out",
    ):
        check_memory("EASE on 9 items", 6e8, "Leave it out.")
    with pytest.raises(ConfigError, match="72.0 GB"):
        check_memory("EASE on 3 items", 72e9, "Leave it out.")


@pytest.mark.parametrize("given", ["", "much", "0", "-1", "nan", "inf", "1GB"])
def test_a_budget_that_is_no_number_is_refused(monkeypatch, given):
    monkeypatch.setenv("CONTREC_MEMORY_GB", given)
    with pytest.raises(ConfigError, match="CONTREC_MEMORY_GB"):
        memory_budget()


def test_without_a_setting_the_budget_is_the_free_memory(monkeypatch):
    monkeypatch.delenv("CONTREC_MEMORY_GB", raising=False)
    assert 1e6 < memory_budget() < 1e14


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    assert module._container_memory(tmp_path / "none") == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200\n")
    assert module._container_memory(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert module._container_memory(tmp_path) == math.inf
    monkeypatch.delenv("CONTREC_MEMORY_GB", raising=False)
    monkeypatch.setattr(module, "_container_memory", lambda: 1000)
    assert memory_budget() == 800
