"""Figures in prose: each stands in an output of its notebook, or in a named record."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from check_numbers import check_notebook, figures_of, is_held, notebooks, numbers_in


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda p: p.stem)
def test_every_figure_in_prose_has_a_record(notebook):
    orphans = [figure for figure in check_notebook(notebook) if not figure.holder]
    assert not orphans, "\n".join(" ".join(figure) for figure in orphans)


@pytest.mark.parametrize(
    ("source", "figures"),
    [
        ("NDCG@10 is .1196, and 0.0959 from the mean.", [".1196", "0.0959"]),
        ("It is 16 % ahead, with a 95% interval.", ["16%"]),
        ("Code `0.1196`, a formula $0.1196$, [a link](a/0.1196.ipynb).", []),
        ("arXiv 2504.12007, a version 1.2.3, a date 2026-12-01, 1,349 items.", []),
        ("**By hand.** 0.816.\n\n| 0.707 |\n\nMeasured: 0.612.", ["0.612"]),
        ("Within .005. <!-- chosen: .005 -->", []),
        ("Weights of 0.05 and 0.5.", []),
    ],
)
def test_what_counts_as_a_figure(source, figures):
    assert figures_of(source) == figures


def test_a_figure_is_held_by_a_value_that_rounds_to_it():
    assert is_held(".1196", [0.11957])
    assert not is_held(".1196", [0.1197])
    assert is_held("-.0069", [0.00694])
    assert is_held("16%", [0.158])
    assert not is_held("16%", [16.0])
    assert numbers_in("a 1,349 b 0.5 c 1e-3 d 16%") == [1349, 0.5, 0.001, 0.16]


def test_a_record_holds_a_figure_only_where_the_cell_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("check_numbers.ROOT", tmp_path)
    monkeypatch.setattr("check_numbers.RECORDS", tmp_path)
    (tmp_path / "run.json").write_text('{"metrics": {"NDCG@10": 0.11961}}')
    cells = [
        {"cell_type": "markdown", "id": "a", "source": ["It is .1196."]},
        {
            "cell_type": "markdown",
            "id": "b",
            "source": ["It is .1196. <!-- record: run.json -->"],
        },
    ]
    path = tmp_path / "made.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert [figure.holder for figure in check_notebook(path)] == ["", "run.json"]
