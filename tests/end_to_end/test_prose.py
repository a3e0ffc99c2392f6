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
# "notebook 05", "notebook 05_diffusion", "notebook 5_diffusion/05_diffusion"
MENTION = re.compile(r"\bnotebooks? ((?:[\w]+/)?\d\d(?:_\w+)?)\b", flags=re.I)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def prose(path):
    """A page's text without code blocks, code words and formulas."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        found = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
        text = "\n\n".join("".join(c["source"]) for c in found)
    return re.sub(r"```.*?```|`[^`\n]*`|\$[^$]*\$", "", text, flags=re.S)


def wrong_mention(mention):
    """Why a mention of a notebook leads nowhere, or None if it leads to one.

    Every room has its own numbers, so a number alone says nothing.
    """
    if "_" not in mention.rpartition("/")[2]:
        return f"notebook {mention}: write its room and name"
    found = [p for p in NOTEBOOKS if p.as_posix().endswith(f"/{mention}.ipynb")]
    if not found:
        return f"there is no notebook {mention}"
    if len(found) > 1:
        return f"several notebooks are called {mention}: write the room"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_in_prose_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        outside = re.match(r"https?:|mailto:|attachment:|data:", link)
        assert outside or (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_mentions_of_notebooks_lead_to_one(page):
    wrong = [w for m in MENTION.findall(prose(page)) if (w := wrong_mention(m))]
    assert not wrong, f"{page.name}: {wrong}"


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_cell_begins_with_half_a_sentence(page):
    for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert not re.match(r"\s*[a-z,.;:)]", text), f"{page.name}: {text[:60]}"


def test_a_mention_is_judged():
    assert MENTION.findall("Notebook 05, notebooks 1_data/02_split and") == [
        "05",
        "1_data/02_split",
    ]
    assert wrong_mention("05")
    assert wrong_mention("05_nothing")
    assert wrong_mention("6_retrieval/02_split")
    assert wrong_mention("02_split") is None
    assert wrong_mention("1_data/02_split") is None
