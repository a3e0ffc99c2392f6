"""One table in many forms: separators, encodings, compression, Parquet types."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

MISSING = (
    "",
    "NA",
    "N/A",
    "n/a",
    "null",
    "NULL",
    "None",
    "nan",
    "NaN",
    "<NA>",
    "\\N",
    "NaT",
    "#N/A",
)
CONTROLS = (
    "\x00",
    "\x07",
    "\x1b[31m",
    "\x1b]0;title\x07",
    "\x08",
    "\x7f",
    "\x85",
    "\x9b2J",
    "\u202e",
    "\u2066",
    "\u200f",
    "\u2028",
    "\n",
    "\r",
    "\r\n",
    "\t",
)


@dataclass
class Case:
    """A file, what it means, and what may be made of it."""

    path: Path
    means: pd.DataFrame | None = (
        None  # What a right reading gives; None: nothing is right
    )
    must: str = "read or refuse"  # Or: "read", "refuse", "refuse or say", "not crash"
    options: dict = field(default_factory=dict)  # Arguments of the reader


def pick(random: np.random.Generator, values):
    """Choose one of the values, whatever their types are."""
    return values[int(random.integers(len(values)))]


def text_of(frame: pd.DataFrame, **options) -> str:
    """Return a frame as CSV text."""
    return frame.to_csv(index=False, **options)


def put(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    """Write text or bytes."""
    data = content.encode(encoding) if isinstance(content, str) else content
    path.write_bytes(data)
    return path


def zipped(**members: bytes) -> bytes:
    """Return a zip archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def packed(data: bytes, kind: str) -> bytes:
    """Compress bytes as `gz`, `xz`, `bz2` or `zip`."""
    if kind == "zip":
        return zipped(**{"log.csv": data})
    return {"gz": gzip, "xz": lzma, "bz2": bz2}[kind].compress(data)


def parquet_of(table: pd.DataFrame | pyarrow.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    if isinstance(table, pd.DataFrame):
        table = pyarrow.Table.from_pandas(table, preserve_index=False)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def replaced(table: pyarrow.Table, name: str, column: pyarrow.Array) -> pyarrow.Table:
    """Return the table with another column in one column's place."""
    return table.set_column(table.column_names.index(name), name, column)


def arrow_ids(ids: list[str], kind: str) -> tuple[pyarrow.Array, list[str] | None]:
    """Return ids as a column of a Parquet type, and the strings that they mean."""
    numbers = [int(i[1:]) + 1 for i in ids]
    strings = [str(n) for n in numbers]
    column = {
        "binary": lambda: pyarrow.array([i.encode() for i in ids], pyarrow.binary()),
        "large_string": lambda: pyarrow.array(ids, pyarrow.large_string()),
        "dictionary": lambda: pyarrow.array(ids).dictionary_encode(),
        "int32": lambda: pyarrow.array(numbers, pyarrow.int32()),
        "uint64": lambda: pyarrow.array(numbers, pyarrow.uint64()),
        "decimal": lambda: pyarrow.array(
            [Decimal(n) for n in numbers], pyarrow.decimal128(12, 2)
        ),
        "double": lambda: pyarrow.array([float(n) for n in numbers]),
        "list": lambda: pyarrow.array([[n] for n in numbers]),
        "struct": lambda: pyarrow.array([{"id": n} for n in numbers]),
        "map": lambda: pyarrow.array(
            [[("a", n)] for n in numbers],
            pyarrow.map_(pyarrow.string(), pyarrow.int64()),
        ),
        "null": lambda: pyarrow.nulls(len(ids)),
    }[kind]()
    if kind in ("binary", "large_string", "dictionary"):
        return column, ids
    return column, None if kind in ("list", "struct", "map", "null") else strings


ID_TYPES = (
    "binary",
    "large_string",
    "dictionary",
    "int32",
    "uint64",
    "decimal",
    "double",
    "list",
    "struct",
    "map",
    "null",
)


def json_lines(frame: pd.DataFrame) -> str:
    """Return a JSON object for each row."""
    return "\n".join(json.dumps(row) for row in frame.to_dict("records")) + "\n"


def cut(random: np.random.Generator, data: bytes) -> bytes:
    """Return a file's beginning, as a broken download leaves it."""
    return data[: int(random.integers(1, len(data)))]


QUOTING = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)
