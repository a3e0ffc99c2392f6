"""List every measured figure in prose, and what holds it.

    python tests/check_numbers.py            # figures that nothing holds
    python tests/check_numbers.py --all      # all figures, with what holds them

A measured figure is a decimal number with three or more digits after the point, or a
percentage. Code, formulas, links and examples that are computed by hand do not count.
An output of the same notebook may hold a figure, because outputs are made from records
or by the notebook itself. Otherwise the cell names the record that holds it, below
`nbs/experiments/records`:

    contrec reaches 0.1077. <!-- record: demo-ml-100k.json -->

Values are compared after rounding to the digits that the prose shows. A threshold that
somebody chose is named as such, `<!-- chosen: .005 -->`, and a figure without a record,
of which the prose says so, too: `<!-- no record: .016 -->`.
"""

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "nbs" / "experiments" / "records"
LEVELS = {"95%"}  # Of intervals: chosen, not measured
NOT_PROSE = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<!--.*?-->"
    r"|\b\d{4}\.\d{5}\b",  # Code, formulas, links, markers, numbers of arXiv
    flags=re.S,
)
FIGURE = re.compile(r"(?<![\w.,/:-])[-+−]?\d*\.\d{3,}(?!\w|\.\d)|\d+(?:\.\d+)? ?%")
NUMBER = re.compile(
    r"[-+−]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?%?"
)
RECORD = re.compile(r"<!-- *record: *(\S+) *-->")
EXEMPT = re.compile(r"<!-- *(?:chosen|no record): *(.*?) *-->")


class Figure(NamedTuple):
    """A measured figure in prose."""

    notebook: str
    cell: str
    text: str  # As it stands there
    holder: str  # `output`, the record, or empty


def figures_of(source: str) -> list[str]:
    """Return the measured figures of a cell's prose, without examples by hand.

    An example is a paragraph that begins with "By hand", and tables and formulas that
    follow it.
    """
    exempt = LEVELS | {
        text for found in EXEMPT.findall(source) for text in found.split()
    }
    prose, by_hand = [], False
    for paragraph in re.split(r"\n\s*\n", source):
        begins = re.match(r"\W*By hand\b", paragraph)
        by_hand = bool(begins) or (
            by_hand and paragraph.lstrip().startswith(("|", "$$"))
        )
        if not by_hand:
            prose.append(NOT_PROSE.sub(" ", paragraph))
    found = [text.replace(" ", "") for text in FIGURE.findall("\n\n".join(prose))]
    return [text for text in found if text not in exempt]


def value_of(text: str) -> float:
    """Return the value of a number as text; a percentage becomes a share."""
    plain = text.replace(",", "").replace("−", "-")
    return float(plain.rstrip("%")) / (100 if plain.endswith("%") else 1)


def is_held(figure: str, values: list[float]) -> bool:
    """Tell whether one of the values rounds to a figure."""
    share = figure.endswith("%")
    digits = len(figure.rstrip("%").partition(".")[2]) + 2 * share
    wanted = abs(value_of(figure))
    half = 0.5 * 10**-digits * (1 + 1e-9)
    return any(abs(abs(value) - wanted) <= half for value in values)


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text."""
    return [value_of(match) for match in NUMBER.findall(text)]


def numbers_of_outputs(cells: list[dict]) -> list[float]:
    """Return the numbers that the outputs of a notebook show."""
    values = []
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kinds = [data.get(f"text/{kind}", "") for kind in ("plain", "markdown")]
            tables = re.sub(r"<[^>]*>", " ", "".join(data.get("text/html", "")))
            texts = ["".join(kind) for kind in kinds] + [html.unescape(tables)]
            values += numbers_in(" ".join([*texts, "".join(output.get("text", ""))]))
    return values


def leaves(value) -> Iterator[float]:
    """Yield all numbers of a JSON value."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, (int, float)):
        yield float(value)
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)


def numbers_of_record(name: str) -> list[float]:
    """Return the numbers of a record: a JSON file or a Parquet table."""
    path = RECORDS / name
    if path.suffix == ".parquet":
        table = pd.read_parquet(path).select_dtypes("number")
        return [float(value) for value in table.to_numpy().ravel()]
    return list(leaves(json.loads(path.read_text(encoding="utf-8"))))


def check_notebook(path: Path) -> Iterator[Figure]:
    """Yield the measured figures in a notebook's prose, with what holds each."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown, name = numbers_of_outputs(cells), path.relative_to(ROOT).as_posix()
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] != "markdown":
            continue
        records = {file: numbers_of_record(file) for file in RECORD.findall(source)}
        for figure in figures_of(source):
            holders = ["output"] * is_held(figure, shown)
            holders += [
                file for file, known in records.items() if is_held(figure, known)
            ]
            yield Figure(name, cell["id"], figure, (holders or [""])[0])


def notebooks() -> list[Path]:
    """Return all notebooks."""
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]


def main(everything: bool) -> int:
    """Print figures that nothing holds, or all; return how many are not held."""
    found = [figure for path in notebooks() for figure in check_notebook(path)]
    for figure in found:
        if everything or not figure.holder:
            print(*figure[:3], figure.holder or "NOT HELD")
    orphans = sum(not figure.holder for figure in found)
    print(f"{len(found)} measured figures in prose, {orphans} without a record")
    return orphans


if __name__ == "__main__":
    sys.exit(min(1, main("--all" in sys.argv)))
