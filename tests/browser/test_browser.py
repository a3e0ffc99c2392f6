"""A real browser: JupyterLab on a copy of the notebooks.

The explorers' notebooks are run, and every control is moved through the page, in the
light and in the dark theme.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrec.interface.figures import COLOURS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "nbs/9_interface"
# The notebook of each explorer, and the last line of the cell that shows it
EXPLORERS = {
    "toy": ("06_explorer", "toy"),
    "space": ("07_token_explorer", "Explorer(space.view, space_controls)"),
    "denoising": (
        "08_denoising_explorer",
        "Explorer(denoising.view, denoising.controls())",
    ),
    "playground": ("09_playground", "Explorer(playground.view, playground.controls())"),
    "records": ("10_record_browsers", "Explorer(browser.view, record_controls)"),
    "ablation": ("10_record_browsers", "Explorer(ablation.view, ablation.controls())"),
}


def path_of(notebook):
    return f"{FOLDER}/{notebook}.ipynb"


def sources(notebook):
    """The source of every cell."""
    cells = json.loads((ROOT / path_of(notebook)).read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells]


SOURCES = {notebook: sources(notebook) for notebook, _ in EXPLORERS.values()}
PARTS = (
    ".widget-label",
    "input, select",
    ".widget-readout",
    ".contrec-titles .tag",
    ".contrec-titles input",
    ".contrec-lasso + div",
    ".jp-RenderedHTMLCommon :is(p, th, td)",
)
SETTINGS = {
    "notification": {"fetchNews": "false", "checkForUpdates": False},
    "themes": {"theme": "JupyterLab Light"},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab that keeps to itself and serves a copy of the repository's
    notebooks.

    Its kernels are this very interpreter. -> (address, token, folder)
    """
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(
        ROOT / "nbs",
        home / "repository" / "nbs",
        ignore=shutil.ignore_patterns(".ipynb_checkpoints"),
    )
    for name, settings in SETTINGS.items():
        path = (
            home
            / "lab_settings"
            / "@jupyterlab"
            / "apputils-extension"
            / f"{name}.jupyterlab-settings"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = os.urandom(16).hex()
    folders = {
        f"{name}_DIR": str(home / name.lower())
        for name in (
            "JUPYTER_CONFIG",
            "JUPYTER_DATA",
            "JUPYTER_RUNTIME",
            "JUPYTERLAB_WORKSPACES",
        )
    }
    folders |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab_settings"),
        "IN_TEST": "1",  # The copy is read only: nothing is exported from it
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={home / 'repository'}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
    ]
    with open(home / "log.txt", "w") as log:
        server = subprocess.Popen(
            command,
            cwd=home,
            stdout=log,
            stderr=log,
            env=os.environ
            | folders
            | {
                "CONTREC_PROGRESS": "0",
                "PYTHONPATH": str(ROOT),
            },
        )
    try:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(
                    f"{address}/api/status?token={token}", timeout=10
                ).read()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (
                    home / "log.txt"
                ).read_text()[-3000:]
                time.sleep(0.2)
        yield address, token, home / "repository"
    finally:
        server.terminate()  # It ends its kernels first
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def saved(lab, context):
    """The explorers' notebooks as they were saved, opened and not yet run.

    Each is in a page of its own, with all of its cells. -> {notebook: page}
    """
    pages = {}
    for notebook, cells in SOURCES.items():
        pages[notebook] = opened(context, lab, path_of(notebook), len(cells))
        # UMAP is compiled when it's first asked for, and other work may keep both cores
        # busy
        pages[notebook].set_default_timeout(240_000)
    yield pages
    for page in pages.values():
        page.close()


# Every prompt has a number; or there is a traceback, or a warning
ALL_CELLS_RAN = """() => {
    const found = document.querySelectorAll(
        ".jp-Notebook .jp-CodeCell .jp-InputPrompt"
    );
    const stderr = '[data-mime-type="application/vnd.jupyter.stderr"]';
    return (
        [...found].every(prompt => /\\d/.test(prompt.textContent)) ||
        document.querySelector(`.jp-Notebook ${stderr}`)
    );
}"""


@pytest.fixture(scope="module")
def pages(saved):
    """The same pages, after all cells were run through the menu."""
    for page in saved.values():
        menu(page, "Run", "Run All Cells")
        page.wait_for_function(ALL_CELLS_RAN, polling=200, timeout=600_000)
    return saved


def menu(page, bar, *names):
    """Choose from the menu bar, as a person does."""
    page.locator(".lm-MenuBar-item", has_text=bar).click()
    for name in names:
        page.locator(
            ".lm-Menu-item",
            has=page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True),
        ).last.click()


NEW_OUTPUTS = """([cell, source, words, told, rows]) => {
    const image = cell.querySelector(".jp-RenderedImage img");
    const text = [...cell.querySelectorAll(".jp-RenderedHTMLCommon")].at(-1);
    if (!image || !text || cell.querySelector("[role=alert]")) return false;
    const width = image.getBoundingClientRect().width;
    const drawn = image.naturalWidth > 0 && image.naturalWidth === width;
    const count = text.querySelectorAll("tbody tr").length;
    return (
        image.src !== source &&
        drawn &&
        text.textContent !== words &&
        text.textContent.includes(told) &&
        (rows === null || count === rows)
    );
}"""
LOWEST_CONTRAST = """found => {
    const parse = colour => {
        const values = colour.match(/[\\d.]+/g).map(Number);
        return values.length < 4 ? [...values, 1] : values;
    };
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor);
            if (colour[3] > 0.5) return colour;
        }
        return [255, 255, 255, 1];
    };
    const linear = share =>
        share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    const luminance = colour => {
        const [red, green, blue] = colour.map(value => linear(value / 255));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const ratio = element => {
        const text = luminance(parse(getComputedStyle(element).color));
        const back = luminance(behind(element));
        return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    };
    return Math.min(...found.map(ratio));
}"""


class Shown:
    """One explorer on the page.

    Its controls, and the picture and the table below them.
    """

    def __init__(self, pages, name):
        notebook, last_line = EXPLORERS[name]
        (number,) = (
            i
            for i, source in enumerate(SOURCES[notebook])
            if source.splitlines()[-1] == last_line
        )
        self.page = pages[notebook]
        self.cell = self.page.locator(".jp-Notebook .jp-Cell").nth(number)
        self.cell.scroll_into_view_if_needed()
        self.box, self.image, self.words = (
            self.cell.locator(".widget-vbox"),
            self.cell.locator(".jp-RenderedImage img"),
            self.cell.locator(".jp-RenderedHTMLCommon").last,
        )
        self.alert, self.canvas, self.tags = (
            self.box.locator("[role=alert]"),
            self.box.locator(".contrec-lasso"),
            self.box.locator(".contrec-titles"),
        )

    def labels(self):
        """Of every control; those without one by their kind."""
        self.box.locator(".widget-label").first.wait_for()
        named = [
            t
            for t in self.box.locator(
                ".widget-label, .widget-label-basic"
            ).all_text_contents()
            if t.strip("\u200b ")
        ]
        return {
            *named,
            *["history"] * self.tags.count(),
            *["loop"] * self.canvas.count(),
        }

    def control(self, label):
        return self.box.locator(
            ".widget-inline-hbox",
            has=self.page.locator(".widget-label, .widget-label-basic").get_by_text(
                label, exact=True
            ),
        )

    def press(self, label, key, handle=0):
        self.control(label).locator(".noUi-handle").nth(handle).press(key)

    def choose(self, label, *options):
        self.control(label).locator("select").select_option(
            **(
                {"index": options[0]}
                if isinstance(options[0], int)
                else {"label": list(options)}
            )
        )

    def type(self, label, text):
        self.control(label).locator("input").fill(text)
        self.control(label).locator("input").press("Enter")

    def drag(self, *corners):
        """A loop on the canvas, its corners as shares of width and height.

        One alone is a click.
        """
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        places = [
            (box["x"] + x * box["width"], box["y"] + y * box["height"])
            for x, y in corners
        ]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=5)
        self.page.mouse.up()

    def shows(self, move, told="", rows=None, table=True, picture=True):
        """Make a move, and wait, all in one look, for a new picture at its own size and
        a new text, which holds `told` and a table of so many rows, and no error.

        With `table` or `picture` false that one may stay.
        """
        before = self.image.get_attribute("src"), self.words.text_content()
        move()
        self.page.wait_for_function(
            NEW_OUTPUTS,
            arg=[
                self.cell.element_handle(),
                before[0] if picture else None,
                before[1] if table else None,
                told,
                rows,
            ],
        )

    def picture(self):
        return b64decode(self.image.get_attribute("src").partition(",")[2])


def contrast(locator):
    """The lowest ratio between the colours of text and of what lies behind it (WCAG's
    formula), over all that the locator finds.
    """
    return locator.evaluate_all(LOWEST_CONTRAST)


def test_a_saved_notebook_shows_its_pictures_without_being_run(saved):
    for name in EXPLORERS:
        shown = Shown(saved, name)
        shown.cell.locator(
            ".jp-RenderedText",
            has_text=(
                "The controls need a running kernel: run this cell. Below is what they"
                " showed last."
            ),
        ).wait_for()
        shown.page.wait_for_function(
            "image => image.complete && image.naturalWidth > 300",
            arg=shown.image.element_handle(),
        )
        assert shown.words.locator("tbody tr").count() >= 1 and shown.box.count() == 0


def test_all_cells_run_without_an_error(pages):
    stderr = '.jp-Notebook [data-mime-type="application/vnd.jupyter.stderr"]'
    for page in pages.values():
        # Tracebacks and warnings
        assert page.locator(stderr).all_text_contents() == []
        prompts = page.locator(
            ".jp-Notebook .jp-CodeCell .jp-InputPrompt"
        ).all_text_contents()
        assert prompts == [f"[{n}]:" for n in range(1, len(prompts) + 1)]
    for name in EXPLORERS:
        Shown(pages, name).box.wait_for()


def move_all(shown, moves):
    """Each move in turn.

    Together they must reach every control that the explorer has.
    """
    assert {label for label, *_ in moves} == shown.labels()
    for _, move, expected in moves:
        shown.shows(move, **expected)


def test_every_control_of_the_toy(pages):
    toy = Shown(pages, "toy")
    move_all(
        toy,
        [
            (
                "frequency",
                lambda: toy.press("frequency", "ArrowRight"),
                dict(told="3 humps."),
            )
        ],
    )


def test_every_control_of_the_token_space(pages):
    space = Shown(pages, "space")
    move_all(
        space,
        [
            (
                "neighbours",
                lambda: space.press("neighbours", "ArrowRight"),
                dict(told="Nearest to Star Wars (1977)", rows=10),
            ),
            (
                "search",
                lambda: space.type("search", "god"),
                dict(told="titles fit 'god'; this is number 1.", rows=10),
            ),
            (
                "match",
                lambda: space.type("match", "2"),
                dict(told="titles fit 'god'; this is number 2.", rows=10),
            ),
            (
                "zoom",
                lambda: space.control("zoom").locator("input").click(),
                dict(table=False),
            ),
            ("colour", lambda: space.choose("colour", "popularity"), dict(table=False)),
            ("colour", lambda: space.choose("colour", "user"), dict(table=False)),
            ("user", lambda: space.type("user", "1"), dict(table=False)),
            (
                "search",
                lambda: space.type("search", ""),
                dict(told="1,349 of 1,349 items are in the window", rows=50),
            ),
            (
                "across (%)",
                lambda: space.press("across (%)", "PageUp", 0),
                dict(told="of 1,349 items are in the window"),
            ),
            (
                "up (%)",
                lambda: space.press("up (%)", "PageDown", 1),
                dict(told="of 1,349 items are in the window"),
            ),
            (
                "loop",
                lambda: space.drag((0.1, 0.1), (0.8, 0.1), (0.8, 0.9), (0.1, 0.9)),
                dict(told="of 1,349 items are in the loop"),
            ),
            ("loop", lambda: space.drag((0.4, 0.6)), dict(told="Nearest to ", rows=10)),
            (
                "loop",
                lambda: space.box.get_by_role("button", name="clear the loop").click(),
                dict(told="of 1,349 items are in the window"),
            ),
        ]
        + [
            (
                "projection",
                lambda: space.choose("projection", "UMAP (some seconds, once)"),
                dict(told="of 1,349 items are in the window"),
            )
        ],
    )


def test_the_canvas_names_the_dot_under_the_pointer(pages):
    space = Shown(pages, "space")
    page = space.page
    space.canvas.scroll_into_view_if_needed()
    box, said = (
        space.canvas.bounding_box(),
        space.canvas.locator("xpath=following-sibling::div[1]"),
    )
    titles = set()
    # Where dots are is the model's affair
    for x, y in np.random.default_rng(0).uniform(0.1, 0.9, (60, 2)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        titles.add(said.inner_text())
    assert len(titles) > 1 and any("(19" in t for t in titles)
    page.mouse.move(box["x"], box["y"] - 20)
    page.wait_for_function(
        "text => text.textContent.startsWith('Drag a loop')", arg=said.element_handle()
    )


def test_every_control_of_the_denoising(pages):
    denoising = Shown(pages, "denoising")
    move_all(
        denoising,
        [
            (
                "user",
                lambda: denoising.type("user", "1"),
                dict(told="What user 1 really chose next", rows=9),
            ),
            ("steps", lambda: denoising.press("steps", "ArrowRight"), dict(rows=10)),
            (
                "guidance",
                lambda: denoising.press("guidance", "ArrowRight"),
                dict(rows=10),
            ),
            ("seed", lambda: denoising.press("seed", "ArrowRight"), dict(rows=10)),
            (
                "paths",
                lambda: denoising.press("paths", "ArrowRight"),
                dict(told="The first of 5 paths"),
            ),
            (
                "temperature",
                lambda: denoising.press("temperature", "ArrowLeft"),
                dict(rows=10),
            ),
        ],
    )


def test_every_control_of_the_playground(pages):
    playground = Shown(pages, "playground")

    def says():
        _, _, answers = playground.words.text_content().partition(
            "The language model's answers"
        )
        return answers.partition("rank")[0]

    heard, tags = [says()], playground.tags.locator(".tag")

    def take_away():
        tags.last.get_by_role("button").click()

    def add():
        playground.tags.locator("input").press_sequentially("Alien (1979)")
        playground.tags.locator("input").press("Enter")

    move_all(
        playground,
        [
            ("user", lambda: playground.type("user", "1"), dict(rows=10)),
            (
                "noise scale",
                lambda: playground.press("noise scale", "End"),
                dict(rows=10),
            ),
            (
                "samples",
                lambda: playground.press("samples", "ArrowRight"),
                dict(rows=10),
            ),
            (
                "guidance",
                lambda: playground.press("guidance", "ArrowRight"),
                dict(rows=10),
            ),
            ("steps", lambda: playground.press("steps", "ArrowRight"), dict(rows=10)),
            ("seed", lambda: playground.press("seed", "ArrowRight"), dict(rows=10)),
            ("words (λ)", lambda: playground.press("words (λ)", "End"), dict(rows=10)),
            ("history", lambda: (heard.append(says()), take_away()), dict(rows=10)),
            ("history", lambda: (heard.append(says()), add()), dict(rows=10)),
        ],
    )
    # The text answer follows the history, and nothing else
    assert tags.count() == 20 and len({*heard, says()}) == 4


def test_an_error_is_told_and_the_picture_stays(pages):
    playground = Shown(pages, "playground")
    before = playground.picture()
    playground.press("noise scale", "Home")
    playground.alert.wait_for()
    assert (
        "samples at noise scale 0 are all the same vector"
        in playground.alert.inner_text()
    )
    same = playground.picture() == before
    assert same
    playground.shows(lambda: playground.press("noise scale", "ArrowRight"))


def test_every_control_of_the_records(pages):
    records = Shown(pages, "records")
    move_all(
        records,
        [
            (
                "against",
                lambda: records.choose("against", "EASE"),
                dict(rows=4, picture=False),
            ),
            (
                "metric",
                lambda: records.choose("metric", "HR@10"),
                dict(told="HR@10", rows=4),
            ),
            (
                "systems",
                lambda: records.choose("systems", "EASE", "item-kNN"),
                dict(told="Best of 2", rows=2),
            ),
            ("data", lambda: records.choose("data", 1), dict(told="Best of 3", rows=3)),
        ],
    )


def test_every_control_of_the_ablation(pages):
    ablation = Shown(pages, "ablation")
    move_all(
        ablation,
        [
            ("factor", lambda: ablation.choose("factor", "samples"), dict(rows=3)),
            (
                "against",
                lambda: ablation.choose("against", "samples = 8"),
                dict(told="samples = 8", rows=3, picture=False),
            ),
            ("metric", lambda: ablation.choose("metric", "HR@10"), dict(rows=3)),
            ("context", lambda: ablation.choose("context", 1), dict(rows=3)),
        ],
    )


def choose_theme(page, theme):
    """Choose a theme from the menu, and wait until the page has it."""
    menu(page, "Settings", "Theme", f"JupyterLab {theme}")
    page.wait_for_function(
        "light => document.body.dataset.jpThemeLight === light",
        arg=str(theme == "Light").lower(),
    )


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_both_themes(pages, theme, tmp_path):
    """Everything is there and can be read.

    Words against their background, and each picture, pixel by pixel, as it was drawn.
    """
    for page in pages.values():
        choose_theme(page, theme)
    pale = {}
    for name in EXPLORERS:
        shown = Shown(pages, name)
        shown.image.scroll_into_view_if_needed()
        shown.image.screenshot(path=tmp_path / f"{name}-picture.png")
        seen, drawn = (
            np.asarray(Image.open(f).convert("RGB"), dtype=int)
            for f in (tmp_path / f"{name}-picture.png", io.BytesIO(shown.picture()))
        )
        # It may begin between two rows of the screen
        assert (
            min(
                np.abs(seen[y : y + len(drawn)] - drawn).mean()
                for y in range(len(seen) - len(drawn) + 1)
            )
            < 1
        ), name
        assert shown.image.bounding_box()["width"] <= shown.cell.bounding_box()["width"]
        shown.cell.screenshot(path=tmp_path / f"{name}.png")
        # Where there is nothing but the page
        margin = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))[:, :40]
        assert (np.median(margin) > 200) == (theme == "Light")
        for part in PARTS:
            if (found := shown.cell.locator(part)).count():
                pale[name, part] = contrast(found)
    Shown(pages, "space").canvas.screenshot(path=tmp_path / "canvas.png")
    dots = np.asarray(
        Image.open(tmp_path / "canvas.png").convert("RGB"), dtype=int
    ).reshape(-1, 3)
    for c in COLOURS:
        assert (
            np.abs(dots - [int(c[i : i + 2], 16) for i in (1, 3, 5)]).max(1) < 3
        ).sum() > 30, f"no dots in {c}"
    # WCAG's level AA
    assert {part for _, part in pale} == set(PARTS) and min(pale.values()) > 4.5, pale


def saved_pictures(path):
    """The pictures in a notebook's outputs."""
    cells = json.loads(path.read_text())["cells"]
    outputs = [o.get("data", {}) for c in cells for o in c.get("outputs", [])]
    return {b64decode("".join(o["image/png"])) for o in outputs if "image/png" in o}


def test_what_was_shown_is_saved(pages, lab):
    for page in pages.values():
        menu(page, "File", "Save Notebook")
    until = time.monotonic() + 180
    for name, (notebook, _) in EXPLORERS.items():
        picture = Shown(pages, name).picture()
        while picture not in saved_pictures(lab[2] / path_of(notebook)):
            assert time.monotonic() < until, name
            # Not `sleep`: the page's requests pass through this process
            pages[notebook].wait_for_timeout(200)


# A small notebook: run, saved, closed, opened again

SMALL = {
    "nbs/small.ipynb": (
        """import os, time; os.environ.pop("CONTREC_PROGRESS")
import numpy as np, pandas as pd
from contrec.foundations.trainer import progress
from contrec.interface.explorer import Explorer, View
from contrec.interface.playground import TitleList
from contrec.interface.diffusion_figures import plot_schedule
bar = progress(range(3), "recommender")
for step in bar:
    time.sleep(0.6)
    bar.set_postfix(score="0.1234", best="0.2345", refresh=False)
---
def view(history):
    draw = lambda: plot_schedule({f"{len(history)} titles": np.linspace(1, 0, 50)})
    return View(draw, pd.DataFrame({"title": history}), f"{len(history)} titles.")
films = ["Alien (1979)", "Aliens (1986)"]
films += ["Am\u00e9lie (2001)", "Fargo (1996) <b>\u202e"]
Explorer(view, {"history": TitleList(films, np.array([3, 2, 1, 0]), films[3:])})"""
    )
}
BROKEN = "Error displaying widget", "Loading widget"
VIEW = ".lm-Panel.jp-OutputArea-output"  # Where JupyterLab puts a widget


def opened(context, lab, path, cells):
    """Open a notebook in a page of its own, and wait until its kernel is idle."""
    page = context.new_page()
    page.goto(f"{lab[0]}/lab/tree/{path}?reset&token={lab[1]}")
    page.wait_for_function(
        "n => document.querySelectorAll('.jp-Notebook .jp-Cell').length === n",
        arg=cells,
    )
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
    return page


def closed(page, lab):
    """Close the page, and end all kernels, as if the machine had been switched off."""
    page.close()
    for session in json.load(
        urllib.request.urlopen(f"{lab[0]}/api/sessions?token={lab[1]}")
    ):
        request = urllib.request.Request(
            f"{lab[0]}/api/sessions/{session['id']}?token={lab[1]}", method="DELETE"
        )
        urllib.request.urlopen(request).read()


def notebook(*sources):
    """Make a notebook of code cells that were not run."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{n}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for n, source in enumerate(sources)
    ]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


@pytest.fixture(scope="module")
def small(lab, context):
    """The small notebook, all cells run. -> (page, path)"""
    ((path, source),) = SMALL.items()
    (lab[2] / path).write_text(json.dumps(notebook(*source.split("---\n"))))
    page = opened(context, lab, path, 2)
    menu(page, "Run", "Run All Cells")
    page.locator(".contrec-titles input").wait_for()
    yield page, path


def test_enter_adds_a_title(small):
    page, _ = small
    field, tags, status = (
        page.locator(f".contrec-titles {part}")
        for part in ("input", ".tag", "[role=status]")
    )
    assert field.is_visible() and tags.all_inner_texts() == [
        "Fargo (1996) <b>\u202e\u00d7"
    ]
    field.press_sequentially("amelie")
    field.press("Enter")
    page.wait_for_function(
        "() => document.querySelectorAll('.contrec-titles .tag').length === 2"
    )
    assert (
        tags.last.inner_text() == "Am\u00e9lie (2001)\u00d7"
        and field.input_value() == ""
    )
    page.locator(".contrec-note", has_text="2 titles.").wait_for()
    field.press_sequentially("alien")
    field.press("Enter")
    status.get_by_text("2 titles match 'alien'").wait_for()
    field.press("ArrowDown")
    field.press("Enter")
    page.locator(".contrec-note", has_text="3 titles.").wait_for()
    assert tags.last.inner_text() == "Alien (1979)\u00d7"
    field.press_sequentially("zzz")
    field.press("Enter")
    status.get_by_text("No title matches 'zzz'").wait_for()
    assert (
        tags.count() == 3
        and min(contrast(tags), contrast(field), contrast(status)) > 4.5
    )


def test_a_notebook_that_was_saved_and_opened_again_shows_what_it_showed(
    small, lab, context
):
    page, path = small
    menu(page, "File", "Save Notebook")
    file, until = lab[2] / path, time.monotonic() + 60
    while "3 titles." not in file.read_text():
        assert time.monotonic() < until
        page.wait_for_timeout(200)
    closed(page, lab)
    again = opened(context, lab, path, 2)
    again.locator(".jp-RenderedImage img").wait_for()
    # So the notebook is trusted
    again.wait_for_function(
        "view => document.querySelector(view).textContent === 'Error displaying widget:"
        " model not found'",
        arg=VIEW,
    )
    assert not again.locator(VIEW).is_visible()
    text = "\n".join(again.locator(".jp-OutputArea").all_inner_texts())
    assert not any(words in text for words in BROKEN)
    before = again.locator(".contrec-note").evaluate(
        "e => getComputedStyle(e, '::before').content"
    )
    assert "The controls need a running kernel" in before and "3 titles." in text
    assert re.search(
        r"^recommender: 3 of 3, \d\.\d s, best 0\.2345$", text, re.MULTILINE
    )
    # A line; controls, picture, table
    assert again.locator(".jp-OutputArea-child").count() == 4
    again.close()


@pytest.mark.parametrize(
    "path",
    ["nbs/9_interface/09_playground.ipynb", "nbs/7_recommender/06_contrec.ipynb"],
)
def test_a_committed_notebook_opens_without_broken_widgets_and_is_not_changed(
    lab, context, path
):
    """JupyterLab itself notes which kernel it found.

    Nothing else differs when the notebook is saved.
    """
    copied, before = f"{path[:-6]}-copy.ipynb", json.loads((ROOT / path).read_text())
    (lab[2] / copied).write_text(json.dumps(before))
    page = opened(context, lab, copied, len(before["cells"]))
    page.locator(".jp-RenderedImage img").first.wait_for()
    text = "\n".join(page.locator(".jp-OutputArea").all_inner_texts())
    assert (
        not any(words in text for words in BROKEN) and page.locator(VIEW).count() == 0
    )
    # The kernel's name and version
    page.wait_for_function("() => document.querySelector('.jp-mod-dirty')")
    menu(page, "File", "Save Notebook")
    page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    after = json.loads((lab[2] / copied).read_text())
    joined = [
        [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"]]
        for notebook in (before, after)
    ]
    assert len(joined[0]) == len(joined[1])
    for one, two in zip(*joined):
        assert plain_outputs(one) == plain_outputs(two)
    assert set(after["metadata"]) == {"kernelspec", "language_info"}
    closed(page, lab)


def plain_outputs(cell):
    """The cell with each text of its outputs in one piece, however it was cut into
    lines.
    """

    def joined(x):
        return (
            "".join(x)
            if isinstance(x, list) and all(isinstance(y, str) for y in x)
            else x
        )

    outputs = [
        {
            **o,
            "text": joined(o.get("text", "")),
            "data": {k: joined(v) for k, v in o.get("data", {}).items()},
        }
        for o in cell.get("outputs", [])
    ]
    return {**cell, "outputs": outputs}


def test_nobody_else_was_asked(context, pages):
    assert context.strangers == []
