"""The library and the README follow from the notebooks, which are saved clean.

Modules import only from lower rooms.
"""

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

NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
# Those that export a module
API = [p for p in NOTEBOOKS if re.search(r'"#\| *default_exp ', p.read_text())]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The source in another folder, exported and cleaned there."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "contrec"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for command in ("nbdev_export", "nbdev_clean"):
        done = subprocess.run(
            [BIN / command], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return folder


def test_library_in_step_with_notebooks(copy):
    def modules(root):
        files = (root / "contrec").rglob("*.py")
        return {str(p.relative_to(root)): p.read_text() for p in files}

    assert modules(ROOT) == modules(copy), "run `make export`"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_clean(copy, notebook):
    assert notebook.read_text() == (copy / notebook.relative_to(ROOT)).read_text(), (
        "run `make export`"
    )


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_outputs_are_presentable(notebook):
    cells = [
        c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"
    ]
    outputs = [o for c in cells for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"], (
        "saved with an error"
    )
    assert not re.search(r"/(root|tmp|home|work)/\w", json.dumps(outputs)), (
        "an output holds a path of a machine"
    )
    if notebook in API:
        assert outputs, "an API notebook lands with its outputs"


def test_readme_in_step_with_index():
    text, pictures = render()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == text, "run `make export`"
    for name, data in pictures.items():
        assert (ROOT / name).read_bytes() == data, f"{name}: run `make export`"


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert links
    for link in links:
        assert (ROOT / link).exists(), f"the README links to {link}, which is not there"


def room(notebook: Path) -> tuple[int, str]:
    """Where a notebook stands in reading order; the foundations are below all rooms."""
    folder = notebook.parent.name
    return (0 if folder == "foundations" else int(folder[0]), notebook.name)


def module_of(notebook: Path) -> str:
    """The module that a notebook exports, such as `diffusion.denoiser`."""
    return re.search(r'"#\| *default_exp ([\w.]+)', notebook.read_text())[1]


def imported_modules(module: str, known: list[str]) -> set[str]:
    """Modules of the library that a module imports, wherever in the file it does.

    A function may import a later module of its own room when it is called.
    """
    path = ROOT / "contrec" / f"{module.replace('.', '/')}.py"
    package = ["contrec", *module.split(".")[:-1]]
    found = set()
    tree = ast.parse(path.read_text())
    room_name = module.split(".")[0]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) + 1 - node.level] if node.level else []
        full = ".".join([*base, *([node.module] if node.module else [])])
        candidates = [full, *(f"{full}.{alias.name}" for alias in node.names)]
        names = [name.removeprefix("contrec.") for name in candidates]
        inside = node not in tree.body
        found |= {
            name
            for name in names
            if name in known and not (inside and name.split(".")[0] == room_name)
        }
    return found


def test_modules_import_only_lower_rooms():
    order = [module_of(p) for p in sorted(API, key=room)]
    assert len(set(order)) == len(order)
    for number, module in enumerate(order):
        later = imported_modules(module, order) - set(order[:number])
        assert not later, f"{module} imports {sorted(later)}, which comes later"


def test_a_module_has_the_folder_and_name_of_its_notebook():
    for notebook in API:
        folder = re.sub(r"^\d_", "", notebook.parent.name)
        name = re.sub(r"^\d\d_", "", notebook.stem)
        expected = "__main__" if name == "main" else f"{folder}.{name}"
        assert module_of(notebook) == expected
        same = [p for p in notebook.parent.iterdir() if p.name[:2] == notebook.name[:2]]
        assert same == [notebook], "a number belongs to one notebook"
