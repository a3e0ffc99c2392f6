"""The studio's page in a real browser: no kernel, no network.

Each control is moved, and the result is read back from the page.
"""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from contrec.interface.figures import COLOURS
from contrec.interface.item_map import ItemMap, palette, truth
from contrec.interface.space import make_space
from contrec.interface.studio_page import studio_page

HOSTILE = '<img src=x onerror="document.title=1"> & "=1+1"'


@pytest.fixture(scope="module")
def shown():
    """Three hundred made-up films in five clouds; the first title is hostile."""
    random = np.random.default_rng(0)
    kind = random.integers(0, 5, 300)
    centres = random.normal(size=(5, 12))
    vectors = centres[kind] + 0.25 * random.normal(size=(300, 12))
    space = make_space(vectors, umap=False)
    space.planes["umap"] = space.planes["pca"][:, ::-1] ** 3  # Any other plane
    items = pd.DataFrame(
        {
            "item": [f"i{n}" for n in range(300)],
            "title": [HOSTILE, *(f"Film {n} (19{n % 90 + 10})" for n in range(1, 300))],
            "categories": [(f"kind {k}",) for k in kind],
            "users": random.permutation(300) + 1,
            "year": 1910 + np.arange(300) % 90,
        }
    )
    return ItemMap(space, items, "made-up films")


@pytest.fixture(scope="module")
def address(shown, tmp_path_factory):
    path = studio_page(shown).save(tmp_path_factory.mktemp("page") / "map.html")
    return path.as_uri()


@pytest.fixture
def page(context, address):
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    page.locator(".table tbody tr").first.wait_for()
    yield page
    assert page.errors == [] and context.strangers == []
    page.close()


def state(page, expression):
    """Evaluate an expression about the page's studio."""
    script = "() => { const s = document.querySelector('.contrec-studio').studio;"
    return page.evaluate(f"{script} return {expression}; }}")


def place(page, item):
    """Where a dot is on the screen."""
    x, y = state(page, f"s.dots.screen({item})")
    box = page.locator("canvas.dots").bounding_box()
    return box["x"] + x, box["y"] + y


def search(page, text):
    field = page.get_by_role("combobox", name="search a title")
    field.fill(text)
    page.locator(".toolbar .combo li[aria-selected=true]").wait_for()
    field.press("Enter")
    page.locator(".side h3").wait_for()


def test_a_search_lights_the_ten_nearest_and_says_whether_the_map_is_true(page, shown):
    field = page.get_by_role("combobox", name="search a title")
    field.press_sequentially("film 17")
    options = page.locator(".toolbar .combo li[role=option]")
    options.first.wait_for()
    wanted = [shown.names[i] for i in shown.search("film 17")]
    assert options.locator("span").all_inner_texts() == wanted
    field.press("ArrowDown")
    field.press("Enter")
    item = int(shown.search("film 17")[1])
    page.locator(".side h3", has_text=wanted[1]).wait_for()
    near = shown.neighbours(item, "umap")
    rows = page.locator(".near").first.locator("li")
    names = rows.locator("button").all_inner_texts()
    assert names == near["title"][near["space"]].tolist()
    cosines = [float(t) for t in rows.locator(".value").all_inner_texts()]
    np.testing.assert_allclose(cosines, near["cosine"][near["space"]], atol=0.006)
    far = rows.locator("[aria-label='far on the map']").count()
    assert far == (near["space"] & ~near["map"]).sum()
    assert page.locator(".verdict").inner_text() == truth(10 - far, 10)
    assert truth(10 - far, 10) in page.locator("[aria-live=polite]").inner_text()


def test_a_click_on_a_dot_opens_it_and_hovering_shows_a_card(page, shown):
    item = int(shown.space.planes["umap"][:, 0].argmax())  # At the border, alone
    page.mouse.move(*place(page, item))
    card = page.locator(".card")
    card.wait_for()
    assert shown.names[item] in card.inner_text()
    assert f"{shown.users[item]} users" in card.inner_text()
    page.mouse.click(*place(page, item))
    page.locator(".side h3", has_text=shown.names[item]).wait_for()
    page.mouse.move(5, 5)
    card.wait_for(state="hidden")


def test_wheel_drag_keys_and_fit_move_the_map(page):
    box = page.locator("canvas.dots").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -400)
    page.wait_for_function(
        "() => document.querySelector('.contrec-studio').studio.dots.view.zoom > 1.5"
    )
    before = state(page, "s.dots.view.x")
    page.mouse.down()
    page.mouse.move(middle[0] - 90, middle[1], steps=4)
    page.mouse.up()
    moved = state(page, "s.dots.view.x")
    unit = state(page, "s.dots.unit")
    assert moved - before == pytest.approx(90 / unit, rel=0.05)
    page.locator(".stage").focus()
    page.keyboard.press("ArrowRight")
    assert state(page, "s.dots.view.x") > moved
    zoom = state(page, "s.dots.view.zoom")
    page.keyboard.press("+")
    assert state(page, "s.dots.view.zoom") > zoom
    page.get_by_role("button", name="show the whole map").click()
    assert state(page, "s.dots.view") == {"x": 0, "y": 0, "zoom": 1}


def lasso(page, left=0.02, top=0.02, right=0.98, bottom=0.98):
    box = page.locator("canvas.dots").bounding_box()
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    places = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for x, y in places[1:]:
        page.mouse.move(x, y, steps=6)
    page.mouse.up()


def test_a_lasso_selects_and_the_selection_is_saved_as_csv(page, shown):
    page.get_by_role("button", name="lasso").click()
    lasso(page, right=0.5)
    page.locator(".tablehead h4", has_text="Selection:").wait_for()
    ids = state(page, "s.selection")
    width = page.locator("canvas.dots").bounding_box()["width"]
    across = state(page, "[...Array(300).keys()].map((i) => s.dots.screen(i)[0])")
    inside = np.flatnonzero(np.array(across) < width / 2)
    assert 10 < len(ids) < 290 and set(ids) == set(inside.tolist())
    with page.expect_download() as saving:
        page.get_by_role("button", name="save the selection").click()
    with open(saving.value.path(), newline="") as file:
        rows = list(csv.reader(file))
    assert {int(row[0]) for row in rows[1:]} == set(ids)
    titles = {row[1].removeprefix("'") for row in rows[1:]}
    assert titles == {shown.names[i] for i in ids}
    page.get_by_role("button", name="clear the selection").click()
    page.locator(".tablehead h4", has_text="All 300 items").wait_for()
    assert state(page, "s.selection") is None


def test_colours_legend_and_projection(page, shown):
    colour = page.get_by_label("colour by")
    assert colour.locator("option").all_inner_texts() == shown.colours
    for by in shown.colours:
        colour.select_option(by)
        page.locator(".legend b", has_text=shown.colour(by).title).wait_for()
        assert state(page, "[...s.dots.codes]") == shown.colour(by).codes.tolist()
    colour.select_option("category")
    row = page.locator(".legend button").first
    row.click()
    assert row.get_attribute("aria-pressed") == "false"
    visible = state(page, "[...s.dots.visible]")
    assert visible == (shown.colour("category").codes != 0).astype(int).tolist()
    row.click()
    assert state(page, "s.dots.visible") is None
    page.get_by_role("radio", name="PCA").click()
    page.wait_for_function(
        "() => document.querySelector('.contrec-studio').studio.plane === 'pca'"
    )
    places = np.array(state(page, "[...s.dots.points]")).reshape(-1, 2)
    np.testing.assert_allclose(places, shown.places("pca"), atol=1e-5)


def test_the_table_is_sorted_by_keyboard_and_linked_to_the_map(page, shown):
    heading = page.get_by_role("button", name="sort by title")
    heading.focus()
    page.keyboard.press("Enter")
    page.locator("th[aria-sort=ascending]", has_text="title").wait_for()
    page.keyboard.press("Enter")
    page.locator("th[aria-sort=descending]", has_text="title").wait_for()
    first = page.locator("tbody .link").first
    expected = shown.table(sort="title", count=1)[0]["title"]
    assert first.inner_text() == expected
    first.focus()
    page.keyboard.press("Enter")
    page.locator(".side h3", has_text=expected).wait_for()
    assert page.locator("tbody tr.here").count() == 1
    page.get_by_role("button", name="show more rows").click()
    page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 100")


def test_titles_stay_text(page, shown):
    search(page, "img src")
    assert page.locator(".side h3").inner_text() == HOSTILE
    assert page.locator("img").count() == 0 and page.title() != "1"
    page.evaluate("document.querySelector('.contrec-studio').studio.hover(0)")
    page.locator(".card").wait_for()
    assert HOSTILE in page.locator(".card").inner_text()


def test_every_control_has_a_name(page):
    search(page, "film 9")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [tabindex]")]
        .filter((e) => !e.getAttribute("aria-label") && !e.textContent.trim())
        .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == ['<div tabindex="0" class="scroll">'] or unnamed == []


CONTRAST = """() => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor);
            if (colour.length < 4 || colour[3] > 0.5) return colour;
        }
        return [255, 255, 255];
    };
    const light = (share) =>
        share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) =>
        0.2126 * light(r / 255) + 0.7152 * light(g / 255) + 0.0722 * light(b / 255);
    const found = {};
    const parts = [
        "button", "select", "h3", ".meta", ".verdict", "td", ".note", "small",
        "h4", ".legend b", ".value",
    ];
    for (const part of parts) {
        for (const element of document.querySelectorAll(`.contrec-studio ${part}`)) {
            const [a, b] = [getComputedStyle(element).color, null];
            const text = luminance(parse(a));
            const back = luminance(behind(element));
            const ratio = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
            found[part] = Math.min(found[part] ?? 99, ratio);
        }
    }
    return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1024, 1920])
def test_both_themes_at_two_widths(page, shown, theme, width, tmp_path):
    page.set_viewport_size({"width": width, "height": 1100})
    page.emulate_media(color_scheme=theme)
    dark = json.dumps(theme == "dark")
    page.wait_for_function(
        f"() => document.querySelector('.contrec-studio').studio.dark === {dark}"
    )
    search(page, "film 9")
    found = page.evaluate(CONTRAST)
    assert min(found.values()) > 4.5, found
    overflow = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow <= 0
    page.wait_for_timeout(300)
    page.locator(".stage").screenshot(path=tmp_path / "map.png")
    seen = np.asarray(Image.open(tmp_path / "map.png").convert("RGB"), int)
    colours = palette(shown.colour("category"), dark=theme == "dark")
    for colour in colours:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(seen - rgb).max(-1) < 14).sum() > 20, colour
    corner = seen[40:80, 40:80].reshape(-1, 3).mean()
    assert (corner < 60) == (theme == "dark") and len(COLOURS) == 8


def test_the_picture_is_saved_as_png(page):
    with page.expect_download() as saving:
        page.get_by_role("button", name="save the map as a picture").click()
    image = np.asarray(Image.open(saving.value.path()).convert("RGB"))
    assert min(image.shape[:2]) > 300 and image.std() > 5
