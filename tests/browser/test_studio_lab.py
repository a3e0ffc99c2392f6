"""The studio in JupyterLab: jupyter-scatter draws, the kernel answers.

Each control is moved, and the result is read back from the page and from Python.
"""

import json
import re

import numpy as np
import pytest
from test_browser import (  # noqa: F401
    VIEW,
    choose_theme,
    closed,
    lab,
    menu,
    notebook,
    opened,
)
from tiny_model import tiny

from contrec import ContRec
from contrec.interface.person import Person
from contrec.interface.space import space_of

PATH = "nbs/studio.ipynb"


@pytest.fixture(scope="module")
def model(small_split):
    return ContRec(tiny()).fit(small_split)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio") / "run"
    model.save_pretrained(folder / "model")
    space_of(model, folder)
    return folder


@pytest.fixture(scope="module")
def page(lab, context, run):  # noqa: F811
    """The studio on a small run, with the model loaded."""
    show = f"from contrec import studio\nshown = studio({str(run)!r})\nshown"
    read = (
        "import json\nprint(json.dumps([shown.selection['item'].tolist(),"
        " shown.plane, shown.colour, shown.focus]))"
    )
    (lab[2] / PATH).write_text(json.dumps(notebook(show, read)))
    page = opened(context, lab, PATH, 2)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    menu(page, "Run", "Run All Cells")
    page.locator(".contrec-studio .table tbody tr").first.wait_for()
    page.wait_for_function(
        "() => document.querySelector('.contrec-studio').studio.person.history.length"
    )
    yield page
    assert page.errors == [] and context.strangers == []


def state(page, expression):
    """Evaluate an expression about the page's studio."""
    script = "() => { const s = document.querySelector('.contrec-studio').studio;"
    return page.evaluate(f"{script} return {expression}; }}")


def until(page, expression):
    """Wait for an expression about the page's studio to be true."""
    script = "() => { const s = document.querySelector('.contrec-studio').studio;"
    page.wait_for_function(f"{script} return {expression}; }}")


def from_python(page):
    """Run the second cell and read what it prints."""
    cell = page.locator(".jp-Notebook .jp-Cell").nth(1)
    before = cell.locator(".jp-InputPrompt").inner_text()
    cell.locator(".jp-InputPrompt").click()
    menu(page, "Run", "Run Selected Cell")
    page.wait_for_function(
        "([cell, before]) => /\\d/.test(cell.innerText) && cell.innerText !== before",
        arg=[cell.locator(".jp-InputPrompt").element_handle(), before],
    )
    return json.loads(cell.locator(".jp-OutputArea-output").last.inner_text())


def on_screen(page, item):
    page.locator(".stage").scroll_into_view_if_needed()
    x, y = state(page, f"s.dots.screen({item})")
    box = page.locator(".stage .ground").bounding_box()
    return box["x"] + x, box["y"] + y


def saved(page, tries=9):
    """Save the notebook. A picture that comes late asks for a further save."""
    for _ in range(tries):
        menu(page, "File", "Save Notebook")
        page.wait_for_timeout(2000)
        if not page.locator(".jp-mod-dirty").count():
            return
    raise AssertionError(f"the notebook is unsaved after {tries} saves")


def test_search_click_plane_and_colour_reach_python(page, model):
    field = page.get_by_role("combobox", name="search a title")
    field.fill("item 7")
    page.locator(".toolbar .combo li[aria-selected=true]").wait_for()
    field.press("Enter")
    page.locator(".side h3", has_text="Item 7").wait_for()
    assert page.locator(".near").first.locator("li").count() == 10
    page.get_by_role("button", name="show the whole map").click()
    page.get_by_role("radio", name="PCA").click()
    until(page, "s.plane === 'pca' && s.note.textContent.startsWith('Places by PCA')")
    page.get_by_label("colour by").select_option("popularity")
    page.locator(".legend b", has_text="users").wait_for()
    page.wait_for_timeout(1500)
    item = int(np.argmax(space_of(model)[0].planes["pca"][:, 0]))
    x, y = on_screen(page, item)
    page.mouse.move(x - 30, y - 5)
    page.mouse.move(x, y, steps=10)  # A jump is no move for jupyter-scatter
    page.locator(".contrec-studio .card").wait_for()
    page.mouse.down()
    page.mouse.up()
    until(page, f"s.near.item === {item}")
    assert from_python(page) == [[], "pca", "popularity", item]


def test_a_lasso_is_a_table_in_python(page):
    page.get_by_role("button", name="lasso", exact=True).click()
    page.locator(".stage").scroll_into_view_if_needed()
    box = page.locator(".stage .ground").bounding_box()
    left, top = box["x"] + 4, box["y"] + 4
    right, bottom = box["x"] + box["width"] - 4, box["y"] + box["height"] - 4
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in [(right, top), (right, bottom), (left, bottom), (left, top + 8)]:
        page.mouse.move(x, y, steps=12)
    page.mouse.up()
    until(page, "s.selection && s.selection.length > 20")
    chosen = state(page, "s.selection")
    assert len(from_python(page)[0]) == len(chosen)
    page.get_by_role("button", name="clear the selection").click()
    until(page, "s.selection === null")
    page.get_by_role("button", name="move", exact=True).click()
    assert from_python(page)[0] == []


def test_a_person_is_edited_and_recommendations_say_why(page, model):
    page.get_by_role("tab", name="Person").click()
    page.locator(".person .list li").nth(9).wait_for()
    history = state(page, "s.person.history")
    listed = [row["item"] for row in state(page, "s.person.listed")]
    person = Person(model)
    assert listed == person.recommend(history)["number"].tolist()
    page.get_by_role("button", name="remove all titles from the history").click()
    until(page, "s.person.history.length === 0")
    field = page.get_by_role("combobox", name="add a title to the history")
    for text in ("item 3,", "item 12,", "item 20,"):
        field.fill(text)
        page.locator(".person .combo li[aria-selected=true]").wait_for()
        field.press("Enter")
    until(page, "s.person.history.length === 3 && s.person.listed.length === 10")
    first = page.locator(".person .history .link").first.inner_text()
    assert first.startswith("Item 20")
    page.get_by_role("button", name=re.compile("^move Item 20.* earlier")).click()
    page.get_by_role("button", name=re.compile("^remove Item 3,")).click()
    until(page, "s.person.history.length === 2")
    history = state(page, "s.person.history")
    wanted = person.recommend(history)["number"].tolist()
    until(
        page,
        f"JSON.stringify(s.person.listed.map(r => r.item)) === '{wanted}'".replace(
            " ", ""
        )
        .replace("===", " === ")
        .replace("=>", " => "),
    )
    page.locator(".person .list .link").first.click()
    page.locator(".why .verdict", has_text="speaks most for it").wait_for()
    assert page.locator(".why li").count() == 2


def test_only_decoding_values_that_can_work_are_on_offer(page):
    page.locator(".person summary").click()
    sliders = page.locator(".person .setting input")
    assert sliders.count() >= 3
    for n in range(sliders.count()):
        for key in ("End", "Home"):
            sliders.nth(n).press(key)
            page.wait_for_timeout(700)
            assert page.locator(".note.error").count() == 0, (n, key)
    assert state(page, "s.person.listed.length") == 10


def test_denoising_plays_steps_and_pauses(page):
    page.get_by_role("tab", name="Denoising").click()
    page.locator(".noise .ticker b").wait_for()
    assert state(page, "s.noise.step") == 0
    page.get_by_role("button", name="play the denoising").click()
    until(page, "s.noise.step >= 2")
    page.get_by_role("button", name="pause the denoising").click()
    step = state(page, "s.noise.step")
    page.get_by_role("button", name="one step on").click()
    assert state(page, "s.noise.step") == step + 1
    page.get_by_role("slider", name="denoising step").press("End")
    until(page, "s.noise.step === s.noise.walk.steps.length - 1")
    steps = state(page, "s.noise.walk.steps.length")
    page.locator(".noise summary").click()
    page.get_by_role("slider", name="steps", exact=True).press("ArrowLeft")
    until(page, f"s.noise.walk && s.noise.walk.steps.length === {steps - 1}")


def test_the_code_is_shown(page):
    page.get_by_role("button", name="copy what is shown as Python code").click()
    text = page.get_by_role("textbox", name="Python code").input_value()
    assert "shown.show(plane='pca', colour='popularity'" in text
    assert "recommend(history)" in text
    page.get_by_role("button", name="close the code").click()


def test_both_themes_and_what_was_shown_is_saved(page, lab, context):  # noqa: F811
    for theme, light in (("Dark", "false"), ("Light", "true")):
        choose_theme(page, f"{theme}")
        until(page, f"String(!s.dark) === '{light}'")
        back = page.locator(".contrec-studio").evaluate(
            "e => getComputedStyle(e).backgroundColor"
        )
        assert (back == "rgb(255, 255, 255)") == (theme == "Light")
    assert not page.locator(".contrec-still").is_visible()
    saved(page)
    closed(page, lab)
    again = opened(context, lab, PATH, 2)
    again.locator(".contrec-still img").wait_for()
    assert "needs a running kernel" in again.locator(".contrec-still").inner_text()
    assert again.locator(".contrec-still tbody tr").count() == 10
    assert not again.locator(VIEW).is_visible()
    closed(again, lab)
