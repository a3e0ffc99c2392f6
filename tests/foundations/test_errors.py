"""Text from data cannot control a terminal."""

import unicodedata

import pytest

from contrec.foundations.errors import escape_controls

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
