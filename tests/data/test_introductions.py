"Logs, splits and reports introduce themselves: shortly, in text and in HTML."

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from contrec.data.interactions import Interactions, html_card
from contrec.data.reading import from_frame
from contrec.data.split import leave_one_out

HOSTILE = "<script>alert(1)</script>\x1b[2J"


@pytest.fixture
def log():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user": np.repeat(np.arange(200), 10),
            "item": rng.integers(0, 300, 2000),
            "timestamp": np.tile(np.arange(10), 200),
        }
    )
    return from_frame(frame, name="many")


def test_a_log_introduces_itself_in_one_line(log):
    items = log.frame["item"].nunique()
    assert repr(log) == (
        f"Interactions 'many': 200 users, {items} items, {len(log.frame):,} "
        "interactions, no item table"
    )


def test_a_split_introduces_itself_in_two_lines(log):
    split = leave_one_out(log, core=2)
    first, second = repr(split).split("\n")
    assert first == (
        f"Split 'many': {split.n_users:,} users, {split.n_items:,} items, "
        f"{split.n_interactions:,} interactions"
    )
    assert second == split.protocol and len(repr(split)) < 300


def test_cards_hold_the_sizes_and_stay_small(log):
    split = leave_one_out(log, core=2)
    for thing in (log, split):
        card = thing._repr_html_()
        assert len(card) < 3000 and f"{thing.statistics()['interactions']:,}" in card
    assert split.protocol in split._repr_html_()
    assert split.sha256[:12] in split._repr_html_()


def test_names_cannot_bring_html_or_control_characters(log):
    named = Interactions(HOSTILE, log.frame, None, HOSTILE)
    split = leave_one_out(named, core=2)
    for thing in (named, split):
        assert "<script>" not in thing._repr_html_()
        assert "&lt;script&gt;" in thing._repr_html_()
        assert thing._repr_html_().isprintable()
        assert all(line.isprintable() for line in repr(thing).split("\n"))
    assert "<b>x</b>" not in html_card("title", {"<b>x</b>": "<b>x</b>"})


def test_an_item_table_is_mentioned(log):
    items = pd.DataFrame({"item": ["1"], "title": "", "categories": [()], "text": ""})
    named = Interactions("log", log.frame, items)
    assert repr(named).endswith("with an item table")
    assert "1 rows" in named._repr_html_()


def test_a_report_introduces_itself_in_one_line(log):
    report = log.report
    items = log.frame["item"].nunique()
    said = len(report.warnings)
    assert repr(report) == (
        f"ReadingReport 'many': {len(log.frame):,} of 2,000 rows kept, 200 users, "
        f"{items} items, {said} warning{'s' * (said != 1)}"
    )


def test_the_card_of_a_report_has_all_its_lines_and_is_escaped(log):
    report = replace(log.report, name=HOSTILE, notes=("warning: <b>odd</b>", "a note"))
    card = report._repr_html_()
    assert "<script>" not in card and "<b>odd</b>" not in card
    assert "&lt;b&gt;odd&lt;/b&gt;" in card and "a note" in card and "200" in card
    assert card.isprintable() and repr(report).isprintable()
