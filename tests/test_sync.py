"""The library and the notebooks in step, the notebooks clean, the README made from its notebook, the layers in order."""
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_readme import ROOT, render

NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
API = [p for p in NOTEBOOKS if re.search(r'"#\| *default_exp ', p.read_text())]  # Those that export a module
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The source in another folder, exported and cleaned there."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "contrec"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for command in ("nbdev_export", "nbdev_clean"):
        done = subprocess.run([BIN / command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


def test_library_in_step_with_notebooks(copy):
    ours = {p.name: p.read_text() for p in (ROOT / "contrec").glob("*.py")}
    exported = {p.name: p.read_text() for p in (copy / "contrec").glob("*.py")}
    assert ours == exported, "run `make export`"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_clean(copy, notebook):
    assert notebook.read_text() == (copy / notebook.relative_to(ROOT)).read_text(), "run `make export`"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_outputs_are_presentable(notebook):
    cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    outputs = [o for c in cells for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"], "saved with an error"
    assert not re.search(r"/(root|tmp|home|work)/\w", json.dumps(outputs)), "an output holds a path of a machine"
    if notebook in API:
        assert outputs, "an API notebook lands with its outputs"


def test_readme_in_step_with_index():
    text, pictures = render()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == text, "run `make export`"
    for name, data in pictures.items():
        assert (ROOT / name).read_bytes() == data, f"{name}: run `make export`"


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [l for l in re.findall(r"\]\(([^)#]+)", text) if not l.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).exists(), f"the README links to {link}, which is not there"


def test_modules_import_only_lower_numbers():
    order = [re.sub(r"^\d\d_", "", p.stem) for p in API]
    for module in order:
        tree = ast.parse((ROOT / "contrec" / f"{module}.py").read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.level or (node.module or "").startswith("contrec")):
                continue
            imported = (node.module or "").removeprefix("contrec").lstrip(".").split(".")[0]
            names = [imported] if imported else [a.name for a in node.names]
            for name in names:
                assert order.index(name) < order.index(module), f"{module} imports {name}, which comes later"
