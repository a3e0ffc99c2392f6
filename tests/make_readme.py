"""README.md from nbs/index.ipynb: run without arguments to write it; `render()` is what the tests compare with."""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def render() -> str:
    """The README's text: the index notebook without hidden cells, its relative links made to work from the top folder."""
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [c for c in notebook.cells if not c.source.startswith("#| hide")]
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"(\]\(|src=\")(?!https?:|#|\.\./)([^)\"]+)", r"\1nbs/\2", text)
    text = re.sub(r"(\]\(|src=\")\.\./", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(render(), encoding="utf-8")
