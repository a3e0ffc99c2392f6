"""Logs in every form that people have, right and wrong: read rightly, or refused."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

from contrec.data.interactions import Interactions
from contrec.data.reading import read_log
from contrec.data.split import leave_one_out
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
    zipped,
)
from .tiny import clean_log

MUTATIONS = {}


def mutation(make):
    """Register a function `(frame, random, folder) -> Case` under its name."""
    MUTATIONS[make.__name__] = make
    return make


def digest(frame: pd.DataFrame) -> str:
    """Return the SHA-256 of the split of a frame that is known to be right."""
    plain = frame[["user", "item", "timestamp"]].reset_index(drop=True)
    plain = plain.astype({"user": object, "item": object, "timestamp": float})
    return leave_one_out(Interactions("oracle", plain), core=2).sha256


class Logs(Area):
    """Every trial writes one log and reads it."""

    name = "logs"
    limit = 30

    def attempt(self, kind, random, place):
        frame = clean_log(random)
        case = MUTATIONS[kind](frame, random, place)
        self.told |= {
            "file": case.path.name,
            "must": case.must,
            "options": case.options,
        }
        if os.path.isfile(case.path):
            self.told["begins"] = repr(case.path.read_bytes()[:160])
        try:
            log = read_log(case.path, **case.options)
            found = leave_one_out(log, core=2).sha256
        except ContrecError as error:
            self.told["refusal"] = str(error)
            check_message(str(error))
            require(case.must != "read", f"refused: {error}")
            return "refused"
        self.judge(case, log, found)
        return "clean"

    def judge(self, case, log, found):
        """Check what was read against what the file means."""
        said = warnings_of(log)
        require(case.must != "refuse", f"read, with {said or 'no warning'}")
        for line in said:
            check_message(line)
        right = case.means is not None and found == digest(case.means)
        if case.must == "refuse or say":
            require(right or said, "another split than the clean one, without a word")
        elif case.must != "not crash":
            require(
                right, f"another split than the one that the file means; said: {said}"
            )


def warnings_of(log) -> list[str]:
    """Return the warnings of the reading report."""
    return list(log.report.notes)


# Forms that must be read


@mutation
def separators(frame, random, folder):
    text = text_of(
        frame,
        sep=pick(random, "\t,;|"),
        lineterminator=pick(random, ["\n", "\r\n"]),
        quoting=pick(random, QUOTING),
    )
    text = text.rstrip("\r\n") if random.random() < 0.3 else text
    return Case(
        put(folder / pick(random, ["log.csv", "log.tsv", "log.txt", "log"]), text),
        frame,
        "read",
    )


@mutation
def columns_in_another_order(frame, random, folder):
    wide = frame.assign(rating=random.integers(1, 6, len(frame)), note="a, b")
    names = list(random.permutation(wide.columns))
    return Case(put(folder / "log.csv", text_of(wide[names])), frame, "read")


@mutation
def other_names(frame, random, folder):
    names = dict(
        zip(frame.columns, random.permutation(["who", "what", "when"]).tolist())
    )
    return Case(
        put(folder / "log.csv", text_of(frame.rename(columns=names))),
        frame,
        "read",
        names,
    )


@mutation
def shuffled(frame, random, folder):
    rows = random.permutation(len(frame))
    return Case(put(folder / "log.csv", text_of(frame.iloc[rows])), frame, "read")


@mutation
def compressed(frame, random, folder):
    kind = pick(random, ["gz", "xz", "bz2", "zip"])
    right = f"log.csv.{kind}"
    name = pick(random, [right, "log.csv", "log.gz", "log.zip", "log.parquet", "log"])
    must = "read" if name == right else "read or refuse"
    return Case(put(folder / name, packed(text_of(frame).encode(), kind)), frame, must)


@mutation
def encodings(frame, random, folder):
    ids = {u: f"Žofie-{n}é" for n, u in enumerate(frame["user"].unique())}
    other = frame.assign(user=frame["user"].map(ids))
    encoding = pick(
        random,
        [
            "utf-8",
            "utf-8-sig",
            "utf-16",
            "utf-16-le",
            "utf-32",
            "cp1250",
            "iso8859-2",
            "utf-7",
            "cp037",
        ],
    )
    named = {"encoding": encoding} if random.random() < 0.5 else {}
    must = "read" if named or encoding.startswith("utf-8") else "refuse or say"
    return Case(put(folder / "log.csv", text_of(other), encoding), other, must, named)


@mutation
def parquet(frame, random, folder):
    name = pick(random, ["log.parquet", "log.pq", "log.csv", "log"])
    return Case(put(folder / name, parquet_of(frame)), frame, "read")


@mutation
def csv_named_parquet(frame, random, folder):
    return Case(put(folder / "log.parquet", text_of(frame)), frame)


@mutation
def parquet_ids(frame, random, folder):
    column, kind = pick(random, ["user", "item"]), pick(random, ID_TYPES)
    ids, means = arrow_ids(frame[column].tolist(), kind)
    table = replaced(
        pyarrow.Table.from_pandas(frame, preserve_index=False), column, ids
    )
    path = put(folder / f"{kind}.parquet", parquet_of(table))
    if means is None:
        return Case(path, None, "refuse")
    return Case(path, frame.assign(**{column: means}), "read")


@mutation
def parquet_missing_ids(frame, random, folder):
    kind, column = pick(random, ["Int64", "string"]), pick(random, ["user", "item"])
    gone = random.random(len(frame)) < 0.1
    ids = frame[column].str[1:].astype("Int64") + 1
    ids = ids.mask(gone).astype(kind)
    kept = frame.assign(**{column: ids.astype(object).map(str)})[~gone]
    return Case(
        put(folder / "log.parquet", parquet_of(frame.assign(**{column: ids}))), kept
    )


@mutation
def parquet_times(frame, random, folder):
    unit, zone = (
        pick(random, ["s", "ms", "us", "ns"]),
        pick(random, [None, "UTC", "Asia/Tokyo"]),
    )
    times = pd.to_datetime(frame["timestamp"], unit="s", utc=True).tolist()
    if zone is None:
        times = [t.tz_localize(None) for t in times]
    column = pyarrow.array(times, pyarrow.timestamp(unit, zone))
    table = replaced(
        pyarrow.Table.from_pandas(frame, preserve_index=False), "timestamp", column
    )
    return Case(put(folder / "log.parquet", parquet_of(table)), frame, "read")


@mutation
def parquet_times_of_odd_types(frame, random, folder):
    kind = pick(random, ["date32", "duration", "bool", "list", "binary", "decimal"])
    seconds = frame["timestamp"].tolist()
    column = {
        "date32": lambda: pyarrow.array(
            [s // 86400 for s in seconds], pyarrow.date32()
        ),
        "duration": lambda: pyarrow.array(seconds, pyarrow.duration("s")),
        "bool": lambda: pyarrow.array([s % 2 == 0 for s in seconds]),
        "list": lambda: pyarrow.array([[s] for s in seconds]),
        "binary": lambda: pyarrow.array(
            [str(s).encode() for s in seconds], pyarrow.binary()
        ),
        "decimal": lambda: pyarrow.array(seconds).cast(pyarrow.decimal128(30, 2)),
    }[kind]()
    table = replaced(
        pyarrow.Table.from_pandas(frame, preserve_index=False), "timestamp", column
    )
    return Case(
        put(folder / f"{kind}.parquet", parquet_of(table)), frame, "refuse or say"
    )


@mutation
def lines_of_json(frame, random, folder):
    name = pick(random, ["log.jsonl", "log.json", "log.ndjson", "log.csv"])
    return Case(put(folder / name, json_lines(frame)), frame)


@mutation
def recbole_headers(frame, random, folder):
    typed = frame.rename(
        columns={
            "user": "user_id:token",
            "item": "item_id:token",
            "timestamp": "timestamp:float",
        }
    )
    return Case(put(folder / "log.inter", text_of(typed, sep="\t")), frame)


@mutation
def symbolic_links(frame, random, folder):
    put(folder / "real.csv", text_of(frame))
    (folder / "log.csv").symlink_to("real.csv")
    return Case(folder / "log.csv", frame)


# Times


@mutation
def units(frame, random, folder):
    factor = pick(random, [1, 1_000, 1_000_000, 1_000_000_000])
    return Case(
        put(
            folder / "log.csv",
            text_of(frame.assign(timestamp=frame["timestamp"] * factor)),
        ),
        frame,
        "read",
    )


@mutation
def mixed_units(frame, random, folder):
    some = random.random(len(frame)) < pick(random, [0.01, 0.3, 0.5, 0.9])
    some[0] = True
    times = frame["timestamp"].where(
        ~some, frame["timestamp"] * pick(random, [1_000, 1_000_000])
    )
    return Case(
        put(folder / "log.csv", text_of(frame.assign(timestamp=times))),
        frame,
        "refuse or say",
    )


@mutation
def dates(frame, random, folder):
    form = pick(
        random,
        [
            "%Y-%m-%d %H:%M:%S",
            "%Y-%m-%dT%H:%M:%S",
            "%Y-%m-%dT%H:%M:%SZ",
            "%Y/%m/%d %H:%M:%S",
            "%d %b %Y %H:%M:%S",
            "%a %b %d %H:%M:%S %Y",
            "%Y%m%d%H%M%S",
            "%d.%m.%Y %H:%M:%S",
            "%m/%d/%Y %I:%M:%S %p",
        ],
    )
    times = pd.to_datetime(frame["timestamp"], unit="s").dt.strftime(form)
    named = {"time_format": form} if random.random() < 0.5 else {}
    sure = named or form.startswith("%Y-")
    return Case(
        put(folder / "log.csv", text_of(frame.assign(timestamp=times))),
        frame,
        "read" if sure else "read or refuse",
        named,
    )


@mutation
def two_digit_years(frame, random, folder):
    form = pick(random, ["%d/%m/%y %H:%M:%S", "%y-%m-%d %H:%M:%S", "%m/%d/%y %H:%M:%S"])
    times = pd.to_datetime(frame["timestamp"], unit="s").dt.strftime(form)
    return Case(
        put(folder / "log.csv", text_of(frame.assign(timestamp=times))), frame, "refuse"
    )


@mutation
def day_and_month(frame, random, folder):
    form = pick(random, ["%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d-%m-%Y %H:%M:%S"])
    early = (
        1_704_067_200 + (frame["timestamp"] - frame["timestamp"].min()) // 4 % 950_000
    )
    other = frame.assign(timestamp=early)
    times = pd.to_datetime(early, unit="s").dt.strftime(form)
    return Case(
        put(folder / "log.csv", text_of(frame.assign(timestamp=times))), other, "refuse"
    )


@mutation
def coarse_times(frame, random, folder):
    what = pick(random, ["spreadsheet", "day", "constant"])
    times = {
        "spreadsheet": frame["timestamp"].map("{:.2E}".format),
        "day": frame["timestamp"] // 86400 * 86400,
        "constant": frame["timestamp"] * 0 + 5,
    }[what]
    return Case(
        put(folder / "log.csv", text_of(frame.assign(timestamp=times))),
        frame,
        "refuse or say",
    )


@mutation
def odd_times(frame, random, folder):
    bad = pick(
        random,
        [
            "nan",
            "inf",
            "-inf",
            "1e30",
            "-5",
            "1e400",
            "yesterday",
            "0x10",
            "١٢٣",
            "12:30",
            "1_700_000_000",
            "1,700,000,000",
            "NaT",
            "",
            "99999999999999999999",
            "2024-13-45",
            "\x1b[31m1",
            "1700000000\u202e",
        ],
    )
    times = frame["timestamp"].astype(object)
    times.iloc[int(random.integers(len(frame)))] = bad
    return Case(
        put(folder / "log.csv", text_of(frame.assign(timestamp=times))),
        frame,
        "refuse or say",
    )


@mutation
def only_odd_times(frame, random, folder):
    bad = pick(
        random,
        ["nan", "inf", "-inf", "1e30", "yesterday", "True", "", "9" * 400, "2024"],
    )
    return Case(
        put(folder / "log.csv", text_of(frame.assign(timestamp=bad))),
        None,
        "refuse or say",
    )


@mutation
def old_times(frame, random, folder):
    shift = pick(random, [3_000_000_000, 1_700_000_000, 1_750_000_000])
    other = frame.assign(timestamp=frame["timestamp"] - shift)
    return Case(put(folder / "log.csv", text_of(other)), other, "refuse or say")


@mutation
def decimal_commas(frame, random, folder):
    times = frame["timestamp"].map("{:.1f}".format).str.replace(".", ",")
    return Case(
        put(folder / "log.csv", text_of(frame.assign(timestamp=times), sep=";")), frame
    )


@mutation
def time_formats(frame, random, folder):
    bad = pick(
        random,
        ["%", "%Q", "%Y", "", "%d/%m/%Y", "%" * 500, "\x00", "%Y-%m-%d %H:%M:%S%z%z"],
    )
    return Case(
        put(folder / "log.csv", text_of(frame)),
        None,
        "refuse or say",
        {"time_format": bad},
    )


# Ids


@mutation
def missing_ids(frame, random, folder):
    spelling, column = pick(random, MISSING), pick(random, ["user", "item"])
    gone = random.random(len(frame)) < pick(random, [0.01, 0.2])
    other = frame.assign(**{column: frame[column].mask(gone, spelling)})
    return Case(put(folder / "log.csv", text_of(other)), frame[~gone])


@mutation
def two_spellings(frame, random, folder):
    column = pick(random, ["user", "item"])
    plain = frame[column].str[1:].astype(int).add(1).map(str)
    some = random.random(len(frame)) < 0.5
    other = plain.where(some, plain + pick(random, [".0", ".00", " ", "\u00a0"]))
    return Case(
        put(folder / "log.csv", text_of(frame.assign(**{column: other}))),
        frame.assign(**{column: plain}),
        "refuse or say",
    )


@mutation
def only_case_differs(frame, random, folder):
    column = pick(random, ["user", "item"])
    some = random.random(len(frame)) < 0.5
    other = frame.assign(
        **{column: frame[column].where(some, frame[column].str.upper())}
    )
    return Case(put(folder / "log.csv", text_of(other)), frame, "refuse or say")


@mutation
def spaces_around(frame, random, folder):
    column, space = (
        pick(random, ["user", "item"]),
        pick(random, [" ", "  ", "\u00a0", "\t", "\u3000"]),
    )
    some = random.random(len(frame)) < 0.2
    padded = frame[column] + space if random.random() < 0.5 else space + frame[column]
    other = frame.assign(**{column: frame[column].where(~some, padded)})
    return Case(put(folder / "log.csv", text_of(other, sep=",")), frame)


@mutation
def control_characters(frame, random, folder):
    column, odd = pick(random, ["user", "item"]), pick(random, CONTROLS)
    some = random.random(len(frame)) < pick(random, [0.002, 0.2, 1])
    some[0] = True
    other = frame.assign(
        **{column: frame[column].where(~some, "a" + odd + frame[column])}
    )
    return Case(put(folder / "log.csv", text_of(other)), other, "refuse or say")


@mutation
def any_letters(frame, random, folder):
    column, letters = (
        pick(random, ["user", "item"]),
        "äßçñ漢字кириллицаعربיתעבר😀👩‍🚀'\"()[]{}<>&%$#@!~^`/\\-_=+.?*",
    )
    values = frame[column].unique()
    names = [
        "".join(pick(random, letters) for _ in range(6)) + str(n)
        for n in range(len(values))
    ]
    other = frame.assign(**{column: frame[column].map(dict(zip(values, names)))})
    return Case(put(folder / "log.csv", text_of(other)), other, "refuse or say")


@mutation
def long_ids(frame, random, folder):
    column, length = (
        pick(random, ["user", "item"]),
        pick(random, [300, 10_000, 140_000]),
    )
    one = frame[column].iloc[0]
    other = frame.assign(
        **{column: frame[column].mask(frame[column] == one, "x" * length)}
    )
    return Case(put(folder / "log.csv", text_of(other)), other, "refuse or say")


@mutation
def numbers_that_are_no_integers(frame, random, folder):
    form = pick(
        random, ["{:.1f}", "{:.3f}", "{:e}", "{:06d}", "+{}", "-{}", "{}e3", "0x{:x}"]
    )
    whole = frame["item"].str[1:].astype(int) + 1
    ids = whole.map(
        lambda n: form.format(
            n
            if "d" in form
            or "x" in form
            or form.endswith("}")
            and "." not in form
            and ":e" not in form
            else float(n)
        )
    )
    other = frame.assign(item=ids)
    means = frame.assign(item=whole.map(str)) if form.endswith("f}") else other
    path = put(folder / "log.csv", text_of(other))
    return Case(path, means, "not crash" if form.endswith("f}") else "refuse or say")


# Rows


@mutation
def duplicates(frame, random, folder):
    every = random.random() < 0.5
    rows = (
        frame
        if every
        else frame.sample(frac=0.3, random_state=int(random.integers(2**31)))
    )
    other = pd.concat([frame, rows])
    if random.random() < 0.5:
        other = other.sort_values(["user", "timestamp"], kind="stable")
    return Case(put(folder / "log.csv", text_of(other)), frame)


@mutation
def broken_rows(frame, random, folder):
    lines = text_of(frame).splitlines()
    at = int(random.integers(1, len(lines)))
    lines[at] = pick(
        random,
        [
            lines[at] + ",7",
            lines[at].rpartition(",")[0],
            "# a comment",
            ",,",
            "x",
            "\x00",
            lines[0],
            lines[at].replace(",", ";"),
            '"' + lines[at],
            lines[at].replace(",", '","'),
            "\ufeff" + lines[at],
        ],
    )
    return Case(
        put(folder / "log.csv", "\n".join(lines) + "\n"),
        frame.drop(at - 1),
        "refuse or say",
    )


@mutation
def blank_lines(frame, random, folder):
    lines = text_of(frame).splitlines()
    lines.insert(
        int(random.integers(0, len(lines) + 1)), pick(random, ["", "   ", "\t"])
    )
    return Case(put(folder / "log.csv", "\n".join(lines) + "\n"), frame)


@mutation
def every_row_longer(frame, random, folder):
    head, *rows = text_of(frame).splitlines()
    rows = (
        [f"{n},{r}" for n, r in enumerate(rows)]
        if random.random() < 0.5
        else [r + ",4" for r in rows]
    )
    return Case(
        put(folder / "log.csv", "\n".join([head, *rows])), frame, "refuse or say"
    )


@mutation
def unbalanced_quotes(frame, random, folder):
    lines = text_of(frame).splitlines()
    for at in random.choice(
        np.arange(1, len(lines)), pick(random, [1, 2, 3]), replace=False
    ):
        column = int(random.integers(3))
        parts = lines[at].split(",")
        parts[column] = '"' + parts[column]
        lines[at] = ",".join(parts)
    return Case(put(folder / "log.csv", "\n".join(lines) + "\n"), None, "refuse or say")


# Headers


@mutation
def odd_headers(frame, random, folder):
    lines = text_of(frame).splitlines()
    lines[0] = pick(
        random,
        [
            "User,Item,Timestamp",
            " user, item, timestamp",
            "user,item,time",
            "user,item",
            "user,item,timestamp,",
            "user,user,timestamp",
            "user,item,timestamp,item",
            ",,",
            "",
            "user;item;timestamp",
            "\ufeff\ufeffuser,item,timestamp",
            "user\x00,item,timestamp",
            '"user,item,timestamp',
            "user,item,item",
            "#user,item,timestamp",
            "\x1b[31muser,item,timestamp",
        ],
    )
    return Case(
        put(folder / "log.csv", "\n".join(lines) + "\n"), frame, "refuse or say"
    )


@mutation
def no_header(frame, random, folder):
    return Case(
        put(folder / "log.csv", text_of(frame, header=False)), frame, "refuse or say"
    )


@mutation
def one_column_in_two_roles(frame, random, folder):
    a, b = random.choice(["user", "item", "timestamp"], 2, replace=False).tolist()
    return Case(put(folder / "log.csv", text_of(frame)), None, "refuse", {a: b})


@mutation
def ratings(frame, random, folder):
    stars = random.integers(1, 6, len(frame))
    least = pick(random, [1, 2, 3.5, 5, 6, float("nan"), float("inf"), -1])
    kept = frame[stars >= least] if least == least else frame[:0]
    means = kept if len(kept) else None
    return Case(
        put(folder / "log.csv", text_of(frame.assign(stars=stars))),
        means,
        "read or refuse",
        {"rating": "stars", "min_rating": least},
    )


@mutation
def odd_ratings(frame, random, folder):
    stars = random.integers(1, 6, len(frame)).astype(object)
    stars[5] = pick(random, ["", "NaN", "inf", "five", "4,5", "\x1b[31m", "1e400"])
    return Case(
        put(folder / "log.csv", text_of(frame.assign(stars=stars))),
        None,
        "not crash",
        {"rating": "stars", "min_rating": 1},
    )


# Files


@mutation
def truncated(frame, random, folder):
    kind = pick(random, ["csv", "gz", "xz", "bz2", "zip", "parquet"])
    text = text_of(frame).encode()
    data = {"csv": text, "parquet": parquet_of(frame)}.get(kind) or packed(text, kind)
    name = f"log.{kind}" if kind in ("csv", "parquet") else f"log.csv.{kind}"
    return Case(
        put(folder / name, cut(random, data)),
        None,
        "not crash" if kind == "csv" else "refuse",
    )


@mutation
def damaged(frame, random, folder):
    kind = pick(random, ["gz", "xz", "bz2", "zip", "parquet"])
    text = text_of(frame).encode()
    data = bytearray(parquet_of(frame) if kind == "parquet" else packed(text, kind))
    for _ in range(int(random.integers(1, 20))):
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    name = "log.parquet" if kind == "parquet" else f"log.csv.{kind}"
    return Case(put(folder / name, bytes(data)), None, "not crash")


@mutation
def garbage(frame, random, folder):
    name = pick(
        random,
        [
            "log.csv",
            "log.parquet",
            "log.csv.gz",
            "log.csv.xz",
            "log.csv.zip",
            "log.jsonl",
            "log.tsv",
            "log",
        ],
    )
    start = pick(
        random,
        [
            b"",
            b"PAR1",
            b"\x1f\x8b",
            b"PK\x03\x04",
            b"\xfd7zXZ\x00",
            b"BZh9",
            b"{",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"SQLite format 3\x00",
            b"%PDF-1.4\n",
        ],
    )
    return Case(
        put(folder / name, start + random.bytes(int(random.integers(1, 5000)))),
        None,
        "refuse",
    )


@mutation
def empty_files(frame, random, folder):
    content = pick(
        random,
        [
            b"",
            b"\n",
            b"\n\n\n",
            b"\xef\xbb\xbf",
            b" ",
            b"user,item,timestamp",
            b"user,item,timestamp\n",
            b"\x00" * 100,
            b",",
            b"[]",
            b"{}",
            b"null",
        ],
    )
    name = pick(random, ["log.csv", "log.parquet", "log.csv.gz", "log.jsonl"])
    return Case(put(folder / name, content), None, "refuse")


@mutation
def archives(frame, random, folder):
    text = text_of(frame).encode()
    what = pick(random, ["none", "two", "folder", "bomb", "mac", "outside"])
    members = {
        "none": {},
        "two": {"a.csv": text, "b.csv": text},
        "folder": {"logs/": b""},
        "bomb": {"log.csv": b"\x00" * 30_000_000},
        "outside": {"../../log.csv": text},
        "mac": {"log.csv": text, "__MACOSX/._log.csv": b"junk"},
    }[what]
    must = "refuse" if what in ("none", "two", "folder", "bomb") else "read or refuse"
    return Case(put(folder / "log.zip", zipped(**members)), frame, must)


@mutation
def no_files(frame, random, folder):
    what = pick(
        random, ["folder", "missing", "fifo", "loop", "device", "long", "empty", "null"]
    )
    path = folder / {
        "folder": "log.csv",
        "long": "x" * 5000,
        "empty": "",
        "null": "a\x00b",
    }.get(what, "log.csv")
    if what == "folder":
        path.mkdir()
    if what == "fifo":
        os.mkfifo(path)
    if what == "loop":
        path.symlink_to(path.name)
    return Case(Path("/dev/zero") if what == "device" else path, None, "refuse")


Logs.kinds = tuple(MUTATIONS)
