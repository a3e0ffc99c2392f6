"""The book: `make docs` turns the notebooks, as they were saved, into linked pages that need no network, neither to build nor to read."""

import configparser
import hashlib
import html
import json
import re
import unicodedata
from base64 import b64decode
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parent.parent
META = configparser.ConfigParser(delimiters="=")
META.read(ROOT / "settings.ini")
META = META["DEFAULT"]

project, author, copyright, version = (
    META["title"],
    META["author"],
    META["copyright"],
    META["version"],
)
extensions = ["myst_nb"]
root_doc = "nbs/index"
include_patterns = ["nbs/**.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [
    ".*",
    "**/.*",
    "_*",
    "build",
    "contrec",
    "dist",
    "nbs/images",
    "runs",
    "shared",
    "tests",
]
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # Controls show their static picture: nothing is fetched
# Matters of taste; a lost link is none
suppress_warnings = ["misc.highlighting_failure", "myst.header"]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
}
html_title = META["title"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
pygments_style = "default"


def contents() -> str:
    """What the index leads to, part by part."""
    nbs = ROOT / "nbs"
    parts = {"Start here": [nbs / "01_one_page.ipynb"]}
    for folder in sorted(nbs.iterdir()):
        notebooks = sorted(folder.glob("*.ipynb")) if folder.is_dir() else []
        if notebooks:
            parts[folder.name.replace("_", " ").capitalize()] = notebooks
    parts["The project"] = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]

    def pages(paths):
        links = (p.relative_to(ROOT).with_suffix("").as_posix() for p in paths)
        return "\n".join(f"/{link}" for link in links)

    return "\n\n".join(
        f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{pages(paths)}\n```"
        for caption, paths in parts.items()
    )


def in_words(markdown: str) -> str:
    """Markdown as one line of plain text."""
    text = re.sub(r"```.*?```|^\s*\|.*$|^#+ .*$", " ", markdown, flags=re.S | re.M)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[*`>]", "", text).split())


def prepare(app, docname: str, source: list[str]) -> None:
    """A saved notebook as readers want it.

    No directives, no hidden cells, no controls that nothing answers, and the words of
    every picture.
    """
    if not docname.startswith("nbs/"):
        return
    notebook = json.loads(source[0])
    words, app.alts[docname] = "", {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            words = in_words(text) or words
            continue
        said = dict(re.findall(r"^#\|\s*(\w+):?[ \t]*(.*)$", text, flags=re.M))
        tags = cell["metadata"].setdefault("tags", [])
        cell["source"] = re.sub(r"^#\|.*\n?", "", text, flags=re.M).strip("\n")
        if "hide" in said or not cell["source"]:
            tags.append("remove-cell")
        if said.get("echo") == "false":
            tags.append("remove-input")
        for output in cell["outputs"]:
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in data:
                alt = (
                    said.get("alt")
                    or output["metadata"].get("image/png", {}).get("alt")
                    or words
                )
                app.alts[docname][
                    hashlib.sha256(b64decode("".join(data["image/png"]))).hexdigest()
                ] = alt
    if docname == root_doc:
        notebook["cells"].append(
            {
                "cell_type": "markdown",
                "id": "contents",
                "metadata": {},
                "source": contents(),
            }
        )
    source[0] = json.dumps(notebook)


def describe(app, doctree) -> None:
    """Pictures with their words, for those who cannot see them."""
    alts = app.alts.get(app.env.docname, {})
    for image in doctree.findall(nodes.image):
        image["alt"] = alts.get(Path(image["uri"]).stem) or image.get("alt", "")


def letter(match: re.Match) -> str:
    """A script or double-struck letter as a character of its own.

    The attribute for it is no part of what browsers know.
    """
    kind, c = match[1].upper(), match[2]
    name = f"{kind} {'CAPITAL' if c.isupper() else 'SMALL'} {c.upper()}"
    for full in "MATHEMATICAL " + name, name:
        try:
            return f"<mi>{unicodedata.lookup(full)}</mi>"
        except KeyError:
            pass
    return match[0]


def formula(writer, node) -> None:
    """LaTeX as MathML, which browsers draw without a script."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    drawn = re.sub(
        r'<mi mathvariant="(script|double-struck|bold|fraktur)">([A-Za-z])</mi>',
        letter,
        convert(node.astext(), display=display),
    )
    writer.body.append(
        f'<div class="equation" style="margin: 1em; overflow-x: auto">{drawn}</div>'
        if display == "block"
        else drawn
    )
    raise nodes.SkipNode


def lead(app, error) -> None:
    """The top folder opens on the index."""
    if error is None:
        (Path(app.outdir) / "index.html").write_text(
            "<!doctype html><meta"
            f' charset="utf-8"><title>{html.escape(project)}</title><meta'
            ' http-equiv="refresh" content="0; url=nbs/index.html"><a'
            f' href="nbs/index.html">{html.escape(project)}</a>\n'
        )


def setup(app) -> dict:
    app.alts = {}
    app.connect("source-read", prepare)
    app.connect("doctree-read", describe)
    app.connect("build-finished", lead)
    app.add_html_math_renderer(
        "mathml", inline_renderers=(formula, None), block_renderers=(formula, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
