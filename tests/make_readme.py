"""Write README.md and its pictures from nbs/index.ipynb.

The tests compare the files with what `render()` returns.
"""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
PICTURES = "nbs/images"


def render() -> tuple[str, dict[str, bytes]]:
    """Return the README's text, and its pictures by path.

    Code is left out. Relative links are changed so that they work from the top folder.
    """
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    exporter = MarkdownExporter(exclude_input=True)
    pieces, pictures = [], {}
    for cell in notebook.cells:
        single = nbformat.v4.new_notebook(cells=[cell])
        text, resources = exporter.from_notebook_node(
            single,
            resources={
                "unique_key": f"index{len(pictures)}",
                "output_files_dir": PICTURES,
            },
        )
        if cell.cell_type == "markdown":
            text = re.sub(
                r"(\]\(|src=\")(?!https?:|#|\.\./)([^)\"]+)", r"\1nbs/\2", text
            )
            text = re.sub(r"(\]\(|src=\")\.\./", r"\1", text)
        for name, data in resources["outputs"].items():
            alt = " ".join(re.findall(r"#\| alt: (.*)", cell.source)) or "figure"
            text = text.replace(f"![png]({name})", f"![{alt}]({name})")
            pictures[name] = data
        pieces.append(text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(pieces)).strip() + "\n", pictures


if __name__ == "__main__":
    text, pictures = render()
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    for name, data in pictures.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(data)
