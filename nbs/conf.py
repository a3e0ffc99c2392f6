"""The book: `make docs` turns the saved notebooks into linked pages.

Neither building nor reading them needs a network.
"""

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
# Tables and formulas in outputs are drawn as those in the text
nb_render_markdown_format = "myst"
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
    """Return the table of contents of the index page, part by part."""
    nbs = ROOT / "nbs"
    parts = {"Start here": [nbs / "00_start_here.ipynb", nbs / "01_one_page.ipynb"]}
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
    """Return Markdown as one line of plain text."""
    text = re.sub(r"```.*?```|^\s*\|.*$|^#+ .*$", " ", markdown, flags=re.S | re.M)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[*`>]", "", text).split())


def directives(source: str) -> dict[str, str]:
    """Return the directives of a cell, `#| name: value`; repeated ones are joined."""
    found = {}
    for name, value in re.findall(r"^#\|\s*(\w+):?[ \t]*(.*)$", source, flags=re.M):
        found[name] = f"{found.get(name, '')} {value}".strip()
    return found


def prepare(app, docname: str, source: list[str]) -> None:
    """Make a saved notebook ready for readers.

    Directives, hidden cells and controls without a kernel are taken out. The
    alternative text of every picture is kept for `describe`.
    """
    if not docname.startswith("nbs/"):
        return
    notebook = json.loads(source[0])
    last_text, app.alts[docname] = "", {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            app.alts[docname] |= prepare_code(cell, text, last_text)
        else:
            last_text = in_words(text) or last_text
    if docname == root_doc:
        toctree = {"cell_type": "markdown", "id": "contents", "metadata": {}}
        notebook["cells"].append(toctree | {"source": contents()})
    source[0] = json.dumps(notebook)


def prepare_code(cell: dict, text: str, last_text: str) -> dict[str, str]:
    """Prepare a code cell in place, and return its alternative texts by picture."""
    found = directives(text)
    tags = cell["metadata"].setdefault("tags", [])
    cell["source"] = re.sub(r"^#\|.*\n?", "", text, flags=re.M).strip("\n")
    if "hide" in found or not cell["source"]:
        tags.append("remove-cell")
    if found.get("echo") == "false":
        tags.append("remove-input")
    alts = {}
    for output in cell["outputs"]:
        data = output.get("data", {})
        data.pop("application/vnd.jupyter.widget-view+json", None)
        if "image/png" in data:
            own = output["metadata"].get("image/png", {}).get("alt")
            picture = b64decode("".join(data["image/png"]))
            name = hashlib.sha256(picture).hexdigest()
            alts[name] = found.get("alt") or own or last_text
    return alts


def describe(app, doctree) -> None:
    """Give every picture its alternative text."""
    alts = app.alts.get(app.env.docname, {})
    for image in doctree.findall(nodes.image):
        image["alt"] = alts.get(Path(image["uri"]).stem) or image.get("alt", "")


def letter(match: re.Match) -> str:
    """Return a script or double-struck letter as a character of its own.

    Browsers do not know the attribute for it.
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
    """Write LaTeX as MathML, which browsers draw without a script."""
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
    """Let the top folder open the index."""
    if error is None:
        (Path(app.outdir) / "index.html").write_text(
            "<!doctype html><meta"
            f' charset="utf-8"><title>{html.escape(project)}</title><meta'
            ' http-equiv="refresh" content="0; url=nbs/index.html"><a'
            f' href="nbs/index.html">{html.escape(project)}</a>\n'
        )


def setup(app) -> dict:
    """Connect the functions above to Sphinx."""
    app.alts = {}
    app.connect("source-read", prepare)
    app.connect("doctree-read", describe)
    app.connect("build-finished", lead)
    app.add_html_math_renderer(
        "mathml", inline_renderers=(formula, None), block_renderers=(formula, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
