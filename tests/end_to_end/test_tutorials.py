"""Tutorials and explanations: their form, links, hidden solutions and names."""

import ast
import json
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import pytest

matplotlib.use("Agg")
NBS = Path(__file__).resolve().parents[2] / "nbs"
TUTORIALS = sorted((NBS / "tutorials").glob("*.ipynb"))
TOLD = (
    TUTORIALS
    + sorted((NBS / "explanations").glob("*.ipynb"))
    + sorted((NBS / "experiments").glob("*.ipynb"))
    + [NBS / "index.ipynb", NBS / "00_start_here.ipynb"]
)
STORIES = {
    "from_log_to_list",
    "token_space",
    "diffusion_2d",
    "why_dispersive",
    "continuous_or_discrete",
    "reading_the_answer",
    "your_own_data",
    "laptop_to_gpu",
}


def cells(path, kind):
    """Sources of a notebook's cells of one kind."""
    return [
        "".join(c["source"])
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == kind
    ]


def solutions(path):
    """The code that a reader may copy from each hidden solution, in order."""
    hidden = re.findall(
        r"<details><summary>Solution</summary>(.*?)</details>",
        "\n\n".join(cells(path, "markdown")),
        flags=re.S,
    )
    return [
        "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))
        for text in hidden
    ]


def names(code, context):
    """Names that a piece of code reads (`ast.Load`) or makes (`ast.Store`), wherever
    they stand.
    """
    made = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, context):
            made.add(node.id)
        elif context is ast.Store and isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif context is ast.Store and isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(a.asname or a.name).split(".")[0] for a in node.names}
    return made


def needed(code, before):
    """Those of the cells that `code` depends on, in order.

    What it reads is made there, or is read there in turn.
    """
    wanted, kept = names(code, ast.Load), []
    for cell in reversed(before):
        if names(cell, ast.Store) & wanted:
            kept.append(cell)
            wanted |= names(cell, ast.Load)
    return kept[::-1]


def test_only_what_is_needed_is_run():
    assert needed(
        "print(a)", ["import b", "a = b.c", "d = a", "def e(): return a"]
    ) == ["import b", "a = b.c"]


def test_every_story_is_told():
    assert {p.stem for p in TUTORIALS} == STORIES


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_has_a_goal_a_run_what_was_seen_and_exercises(tutorial):
    prose = cells(tutorial, "markdown")
    assert re.match(r"# [^\n]+\n\n> Goal: ", prose[0]), "a title, then the goal"
    assert sum("**What you saw.**" in text for text in prose) >= 3
    tasks = prose[-1].partition("## Exercises")[2]
    assert (
        len(re.findall(r"^\d+\. ", tasks, flags=re.M))
        == len(re.findall("<details>", tasks))
        == len(re.findall("</details>", tasks))
        == len(solutions(tutorial))
        >= 3
    )
    assert all(solutions(tutorial)), "a solution without code"
    code = json.loads(tutorial.read_text(encoding="utf-8"))["cells"]
    assert all(
        c["outputs"]
        for c in code
        if c["cell_type"] == "code" and "#| alt" in "".join(c["source"])
    ), "saved without its figures"


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_exports_nothing(tutorial):
    assert not re.search(
        r"^#\|\s*(default_exp|export)", "\n".join(cells(tutorial, "code")), flags=re.M
    )


@pytest.mark.parametrize("notebook", TOLD, ids=lambda p: p.stem)
def test_links_lead_somewhere(notebook):
    for link in re.findall(
        r"\]\(([^)#\s]+)[^)]*\)",
        re.sub(
            r"```.*?```|`[^`]*`|\$[^$]*\$",
            "",
            "\n\n".join(cells(notebook, "markdown")),
            flags=re.S,
        ),
    ):
        assert re.match(r"https?:", link) or (notebook.parent / link).exists(), (
            f"{notebook.name} links to {link}, which is not there"
        )


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda p: p.stem)
def test_the_hidden_solutions_run(tutorial, monkeypatch):
    """Each solution runs behind the cells that it depends on, as it would in the
    reader's own kernel.
    """
    monkeypatch.chdir(tutorial.parent)
    code, world = cells(tutorial, "code"), {"__name__": "__main__"}
    for cell in needed("\n".join(solutions(tutorial)), code):
        exec(compile(cell, tutorial.name, "exec"), world)
    for number, solution in enumerate(solutions(tutorial), 1):
        kept = dict(world)
        exec(compile(solution, f"solution {number} of {tutorial.name}", "exec"), world)
        world.clear()
        world.update(kept)
        matplotlib.pyplot.close("all")


def test_start_here_leads_three_readers_to_notebooks_and_trains_nothing(monkeypatch):
    page = NBS / "00_start_here.ipynb"
    monkeypatch.chdir(NBS)
    first, *others = cells(page, "code")
    assert "#| eval: false" in first and "studio(demo_run())" in first
    code, world = "\n\n".join(others), {}
    assert not re.search(r"default_exp|#\| *export|contrec|\.fit\(", code)
    exec(compile(code, page.name, "exec"), world)
    matplotlib.pyplot.close("all")
    assert list(world["PATHS"]) == [
        f"The {reader}'s path" for reader in ("student", "researcher", "engineer")
    ]
    for paths in world["PATHS"].values():
        assert len(set(paths)) == len(paths) >= 8
        assert all((NBS / path).exists() for path in paths)
    rooms = {path.parent.name for path in NBS.glob("[1-9]_*/*.ipynb")}
    assert {name.replace(" ", "_") for name in world["ROOMS"]} == rooms


def test_every_name_in_the_paper_map_exists(monkeypatch):
    """The map's own last cell looks each symbol, notebook and test up."""
    page = NBS / "explanations" / "paper_map.ipynb"
    monkeypatch.chdir(page.parent)
    world = {}
    for cell in cells(page, "code"):
        exec(compile(cell, page.name, "exec"), world)
    assert len(world["ROWS"]) >= 25
    sections = {row[0] for row in world["ROWS"]}
    assert {f"{n}" for n in range(1, 8)} <= {s.partition(".")[0] for s in sections}, (
        "a section of the paper map has no row"
    )
