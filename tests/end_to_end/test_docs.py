"""The book: it is built without a warning, and every notebook is a page.

Every link leads somewhere, every picture has alternative text, no network is needed.
"""

import hashlib
import html.parser
import json
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


class Page(html.parser.HTMLParser):
    """What a page holds: links, anchors, pictures, formulas, text."""

    def __init__(self, path):
        super().__init__()
        (
            self.links,
            self.needs,
            self.anchors,
            self.images,
            self.formulas,
            self._open,
            self.text,
        ) = ([], [], set(), [], [], 0, "")
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[k] for k in ("id", "name") if attributes.get(k)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "link" and attributes.get("href"):
            self.needs.append(attributes["href"])
        if tag in ("script", "img", "iframe", "source") and attributes.get("src"):
            self.needs.append(attributes["src"])
        if tag == "img":
            self.images.append(attributes)
        if tag == "math":
            self._open += 1
            self.formulas.append("")

    def handle_endtag(self, tag):
        if tag == "math":
            self._open -= 1

    def handle_data(self, data):
        self.text += data
        if self._open:
            self.formulas[-1] += data


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """What `make docs` builds, in a folder of its own."""
    out = tmp_path_factory.mktemp("book")
    command = re.search(
        r"^docs:.*\n\tpython -m (sphinx .*) -d _docs/pages \. _docs/html$",
        (ROOT / "Makefile").read_text(),
        flags=re.M,
    )[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *command.split(),
            "-d",
            str(out / "pages"),
            ".",
            str(out / "html"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def pages(book):
    return {p: Page(p) for p in book.rglob("*.html") if "_static" not in p.parts}


def page_of(book, notebook):
    return book / notebook.relative_to(ROOT).with_suffix(".html")


def test_every_notebook_is_a_page_that_the_index_leads_to(book, pages):
    index = page_of(book, ROOT / "nbs" / "index.ipynb")
    reached = {
        (index.parent / urldefrag(link)[0]).resolve()
        for link in pages[index].links
        if not urlparse(link).scheme
    }
    for notebook in NOTEBOOKS:
        assert page_of(book, notebook) in pages and page_of(
            book, notebook
        ).resolve() in reached | {index.resolve()}, notebook


def test_every_link_leads_somewhere(book, pages):
    wrong = []
    for path, page in pages.items():
        for link in page.links + page.needs:
            address, anchor = urldefrag(link)
            if urlparse(address).scheme in ("http", "https", "data", "mailto"):
                continue
            target = (
                (path.parent / unquote(address.partition("?")[0])).resolve()
                if address
                else path
            )
            assert not urlparse(address).scheme and book in (
                target,
                *target.parents,
            ), f"{path.name} leads out of the book: {link}"
            if not target.is_file():
                wrong.append(f"{path.name}: {link}")
            elif (
                anchor
                and target in pages
                and unquote(anchor) not in pages[target].anchors
            ):
                wrong.append(f"{path.name}: {link} has no such place")
    assert not wrong, "\n".join(wrong)
    assert sum(len(p.links) for p in pages.values()) > 20 * len(NOTEBOOKS)


def test_links_between_notebooks_became_links_between_pages(pages):
    for path, page in pages.items():
        for link in page.links:
            assert not link.endswith(".ipynb"), f"{path.name}: {link}"


def test_pages_need_nothing_from_elsewhere(pages):
    for path, page in pages.items():
        for needed in page.needs:
            assert urlparse(needed).scheme in (
                "",
                "data",
            ), f"{path.name} needs {needed}"


def pictures(notebook):
    """The pictures of a notebook that readers see, each with its own words if any.

    -> (name of the file in the book, alternative text)
    """
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        if re.match(r"#\| *hide\b", source):
            continue
        said = " ".join(re.findall(r"^#\| *alt: *(.+)$", source, flags=re.M))
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                data = b64decode("".join(output["data"]["image/png"]))
                own = output["metadata"].get("image/png", {}).get("alt")
                yield hashlib.sha256(data).hexdigest(), said or own


def test_every_picture_has_words(book, pages):
    shown = 0
    for notebook in NOTEBOOKS:
        images = pages[page_of(book, notebook)].images
        for image in images:
            assert len(image.get("alt", "")) > 20 and "base64" not in image["alt"], (
                f"{notebook.name}: {image}"
            )
        by_name = {Path(image["src"]).stem: image["alt"] for image in images}
        for name, own in pictures(notebook):
            assert name in by_name and by_name[name] == (own or by_name[name])
            shown += 1
    assert shown > 10


def test_formulas_are_drawn_and_none_is_left_in_latex(pages):
    formulas = [f for page in pages.values() for f in page.formulas]
    assert len(formulas) > 100
    for f in formulas:
        assert f.strip() and "\\" not in f, f


def test_what_is_hidden_stays_hidden(pages):
    for path, page in pages.items():
        assert not re.search(r"^#\| ?\w", page.text, flags=re.M), path.name
        assert "from fastcore.test import" not in page.text, path.name


EXPLORERS = {
    "06_explorer": 1,
    "07_token_explorer": 1,
    "08_denoising_explorer": 1,
    "09_playground": 1,
    "10_record_browsers": 2,
}


def test_explorers_show_what_they_showed_last(book, pages):
    saved = "The controls need a running kernel: run this cell. Below is what they"
    for name, count in EXPLORERS.items():
        page = pages[page_of(book, ROOT / "nbs" / "9_interface" / f"{name}.ipynb")]
        assert page.text.count(saved) >= count and len(page.images) >= count, name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_open_in_a_browser(book, context, scheme, tmp_path):
    page = context.new_page()
    page.emulate_media(color_scheme=scheme)
    page.goto((book / "index.html").as_uri())
    page.wait_for_url("**/nbs/index.html")
    page.locator("article").get_by_role(
        "link", name="schedule", exact=True
    ).first.click()
    page.get_by_role("heading", name="schedule").first.wait_for()
    formula, picture = (
        page.locator("article math[display=block]").first,
        page.locator("article img").first,
    )
    box = formula.bounding_box()
    assert box["width"] > 60 and box["height"] > 12
    picture.scroll_into_view_if_needed()
    page.wait_for_function(
        "image => image.complete && image.naturalWidth > 0",
        arg=picture.element_handle(),
    )
    assert picture.bounding_box()["width"] > 300
    page.screenshot(path=tmp_path / f"{scheme}.png")
    paper = np.asarray(Image.open(tmp_path / f"{scheme}.png").convert("L"))
    assert (np.median(paper) > 200) == (scheme == "light")
    assert not context.strangers
    page.close()
