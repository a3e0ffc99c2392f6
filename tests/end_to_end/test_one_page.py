"""The one page: short, on its own, as good as the library, with exercises that work."""

import ast
import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from record_one_page import RECORD, SEEDS, SETTINGS
from test_expected import bounds

from contrec import evaluate, load_split
from contrec.ranking.linear import Popularity

PAGE = Path(__file__).parents[2] / "nbs/01_one_page.ipynb"
ALLOWED = {"io", "pandas", "torch", "contrec"}
EXERCISE = r"```python\n(.*?)```\s*<details><summary>Solution</summary>(.*?)</details>"


def cells(kind):
    """Sources of the page's cells of one kind."""
    notebook = json.loads(PAGE.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def exercises():
    """For each exercise its check and its solution, as code."""
    text = "\n\n".join(cells("markdown")).partition("## Exercises")[2]
    code = re.compile(r"```python\n(.*?)```", flags=re.S)
    found = re.findall(EXERCISE, text, flags=re.S)
    return [(check, *code.findall(hidden)) for check, hidden in found]


@pytest.fixture(scope="module")
def page():
    """The names that the page leaves behind after all its cells have run."""
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    with torch.random.fork_rng(devices=[]):
        for cell in cells("code"):
            exec(compile(cell, PAGE.name, "exec"), names)
    matplotlib.pyplot.close("all")
    return names


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def recorded(record, part):
    """NDCG@10 of the library's model, one figure for each seed."""
    return np.array([run[part]["NDCG@10"] for run in record["runs"]])


def test_the_page_is_short():
    lines = [line.strip() for cell in cells("code") for line in cell.splitlines()]
    code = [line for line in lines if line and not line.startswith("#")]
    assert 0 < len(code) <= 150
    for cell in cells("code"):
        assert len(cell.splitlines()) <= 25
        assert all(len(line) <= 88 for line in cell.splitlines())


def test_the_page_uses_nothing_of_the_kit_but_the_data():
    imported = {}
    for node in ast.walk(ast.parse("\n".join(cells("code")))):
        if isinstance(node, ast.Import):
            imported |= {name.name: None for name in node.names}
        if isinstance(node, ast.ImportFrom):
            imported[node.module] = [name.name for name in node.names]
    assert {name.partition(".")[0] for name in imported} <= ALLOWED
    kit = {name: what for name, what in imported.items() if name.startswith("contrec")}
    assert kit == {"contrec.data.datasets": ["load"]}


def test_the_page_splits_as_the_library_does(page):
    split = load_split("ml-100k")
    assert sorted(page["histories"]) == sorted(split.user_ids)
    for number, user in enumerate(split.user_ids):
        own = page["item_ids"][page["histories"][user]]
        known = [*split.train[number], split.valid[number], split.test[number]]
        assert list(own) == list(split.item_ids[known])


def test_the_record_is_of_these_settings_and_this_split(record):
    assert record["settings"] == SETTINGS
    assert record["split_sha256"] == load_split("ml-100k").sha256
    assert [run["seed"] for run in record["runs"]] == list(SEEDS)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_the_page_is_as_good_as_the_library(page, record, part):
    found = page["quality"](page[part])
    low, high = bounds(recorded(record, part))
    assert low <= found["NDCG@10"] <= high, f"{part}: expected {low:.4f} to {high:.4f}"


def test_the_bounds_would_notice_a_page_that_learns_nothing(record):
    split = load_split("ml-100k")
    popularity = Popularity().fit(split)
    for part in ("valid", "test"):
        found = evaluate(popularity, split, part).metrics["NDCG@10"]
        assert found < bounds(recorded(record, part))[0]


def test_seen_films_are_never_recommended(page):
    scores = page["score"](page["test"][0][:50])
    for row, watched in zip(scores, page["test"][0], strict=False):
        assert (row[watched] == -torch.inf).all()
    watched = {"50", "172", "174"}
    found = page["recommend"](sorted(watched), k=5)
    assert len(set(found.index) - watched) == 5


def test_the_condition_does_not_see_the_next_film(page):
    history, mean = page["pad"](page["train"][:4], 50), page["tokens"]()[0]
    changed = history.clone()
    changed[:, -1] = (changed[:, -1] + 1) % len(mean)
    before, after = page["read"](history, mean), page["read"](changed, mean)
    assert torch.allclose(before[:, :-1], after[:, :-1], atol=1e-5)
    assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-3)


@pytest.mark.parametrize("number", range(3))
def test_exercises_have_solutions_that_pass_their_checks(page, number):
    assert len(exercises()) == 3
    check, solution = exercises()[number]
    names = dict(page)
    with pytest.raises(NameError):
        exec(compile(check, f"check {number + 1}", "exec"), dict(page))
    with torch.random.fork_rng(devices=[]):
        exec(compile(solution, f"solution {number + 1}", "exec"), names)
        exec(compile(check, f"check {number + 1}", "exec"), names)
