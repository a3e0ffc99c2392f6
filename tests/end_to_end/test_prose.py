"""Prose: links and mentions of notebooks lead to one, and no caption begins halfway."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
NOTEBOOKS = [
    p for p in sorted(NBS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts
]
PAGES = [*NOTEBOOKS, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
# A number, and the name behind it, if any: "notebook 14, peers", "notebook
# 7_recommender/04_text_scores"
MENTION = re.compile(r"\bnotebooks? (\d\d)(?:_(\w+)|, (\w+))?", flags=re.I)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def prose(path):
    """A page's text without code blocks, code words and formulas."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        found = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
        text = "\n\n".join("".join(c["source"]) for c in found)
    return re.sub(r"```.*?```|`[^`\n]*`|\$[^$]*\$", "", text, flags=re.S)


def numbered():
    """The names of the notebooks that have each number."""
    names = {}
    for path in NBS.glob("[0-9][0-9]_*.ipynb"):
        number, _, name = path.stem.partition("_")
        names.setdefault(number, set()).add(name)
    return names


def wrong_mention(number, name, word):
    """Why a mention of a notebook leads nowhere, or None where it leads to one."""
    known = numbered().get(number, set())
    if not known:
        return f"no notebook has the number {number}"
    if name and name not in known:
        return f"there is no notebook {number}_{name}"
    if name or word in known:
        return None
    if len(known) > 1:
        return (
            f"notebook {number} may be any of {', '.join(sorted(known))}: add its name"
        )
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_in_prose_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        outside = re.match(r"https?:|mailto:|attachment:|data:", link)
        assert outside or (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_mentions_of_notebooks_lead_to_one(page):
    wrong = [
        w for m in MENTION.finditer(prose(page)) if (w := wrong_mention(*m.groups()))
    ]
    assert not wrong, f"{page.name}: {wrong}"


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_cell_begins_with_half_a_sentence(page):
    for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert not re.match(r"\s*[a-z,.;:)]", text), f"{page.name}: {text[:60]}"


def test_a_mention_is_judged():
    assert wrong_mention("05", None, None) is None
    assert wrong_mention("99", None, None)
    assert wrong_mention("14", None, None)
    assert wrong_mention("14", "peers", None) is None
    assert wrong_mention("14", None, "peers") is None
    assert wrong_mention("14", None, "and")
    assert wrong_mention("05", "nothing", None)
    assert wrong_mention("05", None, "and") is None
