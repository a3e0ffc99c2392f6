"The page of a run, and the file that it is made from."

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from contrec.interface.report import page_template

ROOT = Path(__file__).parents[2]


def render(**changes):
    metrics = {
        "dataset": "<b>set</b>",
        "n_users": 1234,
        "n_items": 5,
        "n_interactions": 6,
        "protocol": "leave-one-out",
        "unreachable_targets": 0,
        "seed": 0,
        "split_sha256": "abc",
        "finished": "now",
        "versions": {"torch": "2", "numpy": "1"},
    }
    page = {"m": metrics, "systems": [], "columns": [], "intervals": {}, "examples": []}
    return page_template().render(page | changes)


def test_the_page_is_whole_and_asks_nothing_of_other_machines():
    page = render()
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "1,234 users" in page and "{{" not in page and "{%" not in page


def test_what_comes_from_data_is_escaped():
    page = render(
        ours="<i>a",
        columns=["HR@5"],
        systems=[("<i>a", {"HR@5": 0.25})],
        intervals={"<i>a": (0.1, 0.2)},
        examples=[
            {
                "user": "<u>",
                "history": ["<script>alert(1)</script>"],
                "recommended": ["<i>first", "second"],
                "target": "{{ 7 * 7 }}",
                "hit": 2,
            }
        ],
    )
    for text in ("<b>", "<i>", "<u>", "<script"):
        assert text not in page
    assert "&lt;script&gt;alert(1)" in page and "{{ 7 * 7 }}" in page
    assert '<tr class="ours">' in page and '<li class="hit">second</li>' in page
    assert "<td>0.2500</td>" in page and "<td>0.1000 to 0.2000</td>" in page


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel of the library, built from a copy of its files."
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "contrec", source / "contrec", ignore=ignore)
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", "dist", "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (found,) = (source / "dist").glob("*.whl")
    return found


def test_a_wheel_holds_every_file_beside_the_modules(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("contrec/")}
    beside = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "contrec").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "contrec/interface/report.html" in packed
    assert beside == packed


def test_an_installed_wheel_reads_its_page(wheel, tmp_path):
    options = ["--no-deps", "--no-index", "--quiet", "--target", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "install", *options, str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        " from contrec.interface import report;"
        " assert report.__file__.startswith(sys.argv[1]);"
        " report.page_template()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, env={"HOME": str(tmp_path)})
