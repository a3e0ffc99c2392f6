"""Exported cells: each holds one idea, so it has at most 40 lines."""

import json
from pathlib import Path

import pytest

NBS = Path(__file__).parents[2] / "nbs"

# Still to be divided: generation among items and the studio, which came last
LONG = {
    "5_diffusion/07_posterior",
    "7_recommender/01_config",
    "9_interface/08_denoising_explorer",
    "9_interface/20_space",
    "9_interface/21_item_map",
    "9_interface/22_person",
    "9_interface/23_studio_page",
    "9_interface/24_studio",
    "9_interface/25_explore",
}

NOTEBOOKS = {
    path.relative_to(NBS).with_suffix("").as_posix(): path
    for path in sorted(NBS.rglob("*.ipynb"))
    if ".ipynb_checkpoints" not in path.parts
}


def exported(path):
    """Return the exported cells of a notebook: id and lines."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).split("\n")
        if cell["cell_type"] == "code" and lines[0].startswith("#| export"):
            yield cell["id"], lines


@pytest.mark.parametrize("name", sorted(NOTEBOOKS.keys() - LONG))
def test_exported_cells_have_at_most_40_lines(name):
    found = {cell: len(lines) for cell, lines in exported(NOTEBOOKS[name])}
    assert not {cell: n for cell, n in found.items() if n > 40}


def test_there_is_something_to_count():
    assert sum(1 for path in NOTEBOOKS.values() for _ in exported(path)) > 300
