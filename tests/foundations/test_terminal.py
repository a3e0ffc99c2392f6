"""What reaches a terminal, and work that is refused because it would need too much memory."""

import math
import unicodedata

import pytest

from contrec.foundations import trainer as core
from contrec.foundations.environment import (
    MemoryBudgetError,
    check_memory,
    memory_budget,
)
from contrec.foundations.errors import ConfigError, escape_controls

STEERING = [
    chr(c)
    for c in [
        *range(32),
        *range(127, 160),
        0x61C,
        0x200E,
        0x200F,
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
        0xFEFF,
        0xD800,
        0xDFFF,
    ]
]


@pytest.mark.parametrize("character", STEERING, ids=lambda c: f"U+{ord(c):04X}")
def test_characters_that_steer_a_terminal_are_escaped(character):
    shown = escape_controls(f"a{character}b")
    assert shown == f"a\\u{ord(character):04x}b" and shown.isascii()


def test_every_control_character_of_unicode_is_escaped():
    controls = {
        chr(c) for c in range(0x10000) if unicodedata.category(chr(c)) in ("Cc", "Cs")
    }
    assert not controls & set(escape_controls("".join(sorted(controls))))


def test_other_text_stays_as_it_is():
    for text in ("Amélie (2001)", "東京物語", "کلوزآپ", "👩‍🚀", "a\\b", ""):
        assert escape_controls(text) == text
    assert escape_controls("one\ntwo\t\x1b", keep="\n\t") == "one\ntwo\t\\u001b"
    assert escape_controls(3) == "3"


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


def test_without_a_word_the_budget_is_what_is_free(monkeypatch):
    monkeypatch.delenv("CONTREC_MEMORY_GB", raising=False)
    assert 1e6 < memory_budget() < 1e14


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    assert core._container_memory(tmp_path / "none") == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200\n")
    assert core._container_memory(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert core._container_memory(tmp_path) == math.inf
    monkeypatch.delenv("CONTREC_MEMORY_GB", raising=False)
    monkeypatch.setattr(core, "_container_memory", lambda: 1000)
    assert memory_budget() == 800
