"""Take live widgets out of the saved notebooks.

Run it after a notebook with explorers was executed. The picture, the table and the line
of text beside a widget stay. Without a kernel a widget shows controls that do nothing,
or the words "Error displaying widget".
"""

import json
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"
WIDGET = "application/vnd.jupyter.widget-view+json"


def strip(notebook: dict) -> bool:
    """Remove views and states of widgets in place; return whether there were any."""
    found = notebook["metadata"].pop("widgets", None) is not None
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).pop(WIDGET, None) is not None
    return found


if __name__ == "__main__":
    for path in sorted(NOTEBOOKS.rglob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if strip(notebook):
            text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
            print(f"stripped {path.relative_to(NOTEBOOKS.parent)}")
