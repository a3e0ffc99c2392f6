"""Item tables in every form that people have: read rightly, or refused."""

import json
import os

import pandas as pd
import pyarrow

from contrec.data.reading import read_items, read_log
from contrec.foundations.errors import ContrecError

from .campaign import Area, check_message, require
from .forms import (
    CONTROLS,
    ID_TYPES,
    MISSING,
    QUOTING,
    Case,
    arrow_ids,
    cut,
    json_lines,
    packed,
    parquet_of,
    pick,
    put,
    replaced,
    text_of,
)
from .logs import warnings_of
from .tiny import clean_items, clean_log

MUTATIONS = {}


def mutation(make):
    """Register a function `(table, random, folder) -> Case` under its name."""
    MUTATIONS[make.__name__] = make
    return make


def facts(table: pd.DataFrame) -> dict:
    """Return what a table says of each item; categories as a set."""
    found = {}
    for row in table.itertuples():
        categories = row.categories
        if isinstance(categories, str):
            categories = categories.split("|")
        found[row.item] = row.title or row.item, frozenset(categories)
    return found


class Items(Area):
    """Every trial writes one item table and reads it beside a clean log."""

    name = "items"
    limit = 30
    share = 0.5

    def attempt(self, kind, random, place):
        case = MUTATIONS[kind](clean_items(), random, place)
        log = put(place / "the log.csv", text_of(clean_log(random)))
        self.told |= {
            "file": case.path.name,
            "must": case.must,
            "options": case.options,
        }
        if os.path.isfile(case.path):
            self.told["begins"] = repr(case.path.read_bytes()[:160])
        try:
            items = read_items(case.path, **case.options)
            said = warnings_of(read_log(log, items=items))
        except ContrecError as error:
            self.told["refusal"] = str(error)
            check_message(str(error))
            require(case.must != "read", f"refused: {error}")
            return "refused"
        self.judge(case, items, said)
        return "clean"

    def judge(self, case, items, said):
        """Check what was read against what the table means."""
        require(case.must != "refuse", f"read, with {said or 'no warning'}")
        for line in said:
            check_message(line)
        right = case.means is not None and facts(items) == facts(case.means)
        if case.must == "refuse or say":
            require(right or said, "another table than the clean one, without a word")
        elif case.means is not None and case.must != "not crash":
            require(right, f"not what the file means: {odd_one(items, case.means)}")


def odd_one(found: pd.DataFrame, means: pd.DataFrame) -> str:
    """Return the first item that was read wrongly."""
    found, means = facts(found), facts(means)
    wrong = [i for i in {**means, **found} if found.get(i) != means.get(i)]
    return "".join(f"{i!r} is {found.get(i)}, not {means.get(i)}" for i in wrong[:1])


@mutation
def separators(table, random, folder):
    separator = pick(random, "\t,;")
    text = text_of(
        table,
        sep=separator,
        quoting=pick(random, QUOTING),
        lineterminator=pick(random, ["\n", "\r\n"]),
    )
    return Case(put(folder / "items.csv", text), table, "read")


@mutation
def encodings(table, random, folder):
    table = table.assign(title="Amélie " + table["item"])
    encoding = pick(
        random, ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le"]
    )
    named = {"encoding": encoding} if random.random() < 0.5 else {}
    must = "read" if named or encoding.startswith("utf-8") else "read or refuse"
    return Case(put(folder / "items.csv", text_of(table), encoding), table, must, named)


@mutation
def categories_as_lists(table, random, folder):
    lists = table["categories"].str.split("|")
    form = pick(random, [str, json.dumps, ", ".join, "; ".join, "|".join, " | ".join])
    other = table.assign(categories=[form(c) for c in lists])
    must = "read" if form == "|".join else "refuse or say"
    return Case(put(folder / "items.csv", text_of(other)), table, must)


@mutation
def missing_values(table, random, folder):
    spelling, column = (
        pick(random, MISSING),
        pick(random, ["title", "categories", "text"]),
    )
    gone = random.random(len(table)) < pick(random, [0.05, 0.5, 1])
    other = table.assign(**{column: table[column].mask(gone, spelling)})
    empty = table["item"] if column == "title" else ""
    means = table.assign(**{column: table[column].mask(gone, empty)})
    means["categories"] = [c.split("|") if c else [] for c in means["categories"]]
    return Case(put(folder / "items.csv", text_of(other)), means)


@mutation
def missing_ids(table, random, folder):
    other = table.assign(
        item=table["item"].mask(table.index == 5, pick(random, MISSING))
    )
    return Case(put(folder / "items.csv", text_of(other)), table.drop(5))


@mutation
def two_rows_of_one_item(table, random, folder):
    twin = (
        table.iloc[[7]]
        if random.random() < 0.5
        else table.iloc[[7]].assign(title="Another")
    )
    return Case(put(folder / "items.csv", text_of(pd.concat([table, twin]))), table)


@mutation
def every_row_twice(table, random, folder):
    return Case(put(folder / "items.csv", text_of(pd.concat([table, table]))), table)


@mutation
def spaces_around_ids(table, random, folder):
    space = pick(random, [" ", "\t", "\u00a0"])
    other = table.assign(
        item=[i + space if n % 3 else i for n, i in enumerate(table["item"])]
    )
    return Case(put(folder / "items.csv", text_of(other)), table, "refuse or say")


@mutation
def control_characters(table, random, folder):
    column, odd = pick(random, list(table.columns)), pick(random, CONTROLS)
    other = table.assign(**{column: "a" + odd + table[column]})
    return Case(put(folder / "items.csv", text_of(other)), None, "not crash")


@mutation
def long_cells(table, random, folder):
    column = pick(random, ["title", "categories", "text"])
    other = table.assign(**{column: "x" * pick(random, [5_000, 140_000])})
    return Case(put(folder / "items.csv", text_of(other)), other)


@mutation
def fits_half(table, random, folder):
    share = pick(random, [0.1, 0.3, 0.6])
    kept = table[random.random(len(table)) < share]
    other = table.assign(
        item=table["item"].where(table.index.isin(kept.index), "x" + table["item"])
    )
    table = other if random.random() < 0.5 else kept
    return Case(put(folder / "items.csv", text_of(table)), None, "refuse or say")


@mutation
def fits_nothing(table, random, folder):
    other = table.assign(item=pick(random, ["", "item-", "0"]) + table["item"].str[1:])
    return Case(put(folder / "items.csv", text_of(other)), None, "refuse")


@mutation
def other_columns(table, random, folder):
    names = pick(
        random,
        [
            {"item": "movieId"},
            {"title": "name"},
            {"categories": "genres"},
            {"title": "Title", "categories": "Genres"},
            {"item": "Item"},
        ],
    )
    return Case(
        put(folder / "items.csv", text_of(table.rename(columns=names))),
        table,
        "refuse or say",
    )


@mutation
def odd_headers(table, random, folder):
    lines = text_of(table).splitlines()
    lines[0] = pick(
        random,
        [
            "item,title,categories",
            "item,title,title,text",
            "item,item,title,text",
            "",
            "item",
            "item,title,categories,text,",
            "a,b,c,d",
            "\x1b[31m,title,categories,text",
        ],
    )
    return Case(put(folder / "items.csv", "\n".join(lines)), table, "refuse or say")


@mutation
def parquet_ids(table, random, folder):
    kind = pick(random, ID_TYPES)
    ids, means = arrow_ids(table["item"].tolist(), kind)
    arrow = replaced(
        pyarrow.Table.from_pandas(table, preserve_index=False), "item", ids
    )
    path = put(folder / f"{kind}.parquet", parquet_of(arrow))
    if kind in ("binary", "large_string", "dictionary"):
        return Case(path, table, "read")
    return Case(path, None, "refuse")


@mutation
def parquet_columns_of_odd_types(table, random, folder):
    name = pick(random, ["title", "categories", "text"])
    kind = pick(random, ID_TYPES)
    column, _ = arrow_ids(table["item"].tolist(), kind)
    arrow = replaced(
        pyarrow.Table.from_pandas(table, preserve_index=False), name, column
    )
    return Case(put(folder / f"{kind}.parquet", parquet_of(arrow)), None, "not crash")


@mutation
def parquet_lists(table, random, folder):
    lists = table.assign(categories=table["categories"].str.split("|"))
    return Case(put(folder / "items.parquet", parquet_of(lists)), table, "read")


@mutation
def lines_of_json(table, random, folder):
    lists = table.assign(categories=table["categories"].str.split("|"))
    return Case(put(folder / "items.jsonl", json_lines(lists)), table)


@mutation
def recbole_headers(table, random, folder):
    names = {
        "item": "item_id:token",
        "title": "title:token_seq",
        "text": "text:token_seq",
        "categories": "categories:token_seq",
    }
    return Case(
        put(folder / "log.item", text_of(table.rename(columns=names), sep="\t")),
        table,
        "refuse or say",
    )


@mutation
def truncated(table, random, folder):
    kind = pick(random, ["csv", "gz", "parquet"])
    text = text_of(table).encode()
    data = {"csv": text, "parquet": parquet_of(table)}.get(kind) or packed(text, kind)
    name = "items.csv.gz" if kind == "gz" else f"items.{kind}"
    return Case(
        put(folder / name, cut(random, data)),
        None,
        "not crash" if kind == "csv" else "refuse",
    )


@mutation
def garbage(table, random, folder):
    start = pick(
        random, [b"", b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"{", b"item,title\n"]
    )
    name = pick(random, ["items.csv", "items.parquet", "items.csv.gz", "items"])
    return Case(put(folder / name, start + random.bytes(3000)), None, "refuse")


@mutation
def options_that_do_not_fit(table, random, folder):
    named = pick(
        random,
        [
            {"title": "none"},
            {"category": "item"},
            {"separator": ""},
            {"category_separator": ""},
            {"separator": "\x00"},
            {"item": "title"},
            {"title": "item"},
            {"encoding": "martian"},
            {"encoding": ""},
            {"item": "\x1b[31m"},
            {"encoding": "rot13"},
            {"encoding": "base64"},
            {"separator": "x" * 999},
        ],
    )
    return Case(put(folder / "items.csv", text_of(table)), None, "not crash", named)


Items.kinds = tuple(MUTATIONS)
