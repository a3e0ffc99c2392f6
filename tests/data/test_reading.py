"Reading logs and item tables: what each kind of file becomes, or how it is refused."

import gzip
import io
import json
import lzma
import os
import zipfile
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.data.reading import describe, from_frame, read_items, read_log, with_split
from contrec.data.split import leave_one_out
from contrec.foundations.errors import ConfigError, ContrecError, DataError

GOOD = "user,item,timestamp\nann,x,1\nann,y,2\nann,z,3\n"


def refused(text, function, *args, kind=DataError, **options):
    """The message, which must contain every line of `text`, have at most two lines, and
    no control character.
    """
    with pytest.raises(kind) as caught:
        function(*args, **options)
    message = str(caught.value)
    for part in text if isinstance(text, (list, tuple)) else [text]:
        assert part in message
    assert message.count("\n") <= 1 and all(
        line.isprintable() for line in message.split("\n")
    )
    return message


@pytest.fixture
def file(tmp_path):
    def make(text, name="log.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


# ---- reading what is good


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separators(file, separator):
    log = read_log(file(GOOD.replace(",", separator), "log.txt"))
    assert (
        log.frame.values.tolist()
        == [["ann", "x", 1.0], ["ann", "y", 2.0], ["ann", "z", 3.0]]
        and log.name == "log"
    )


@pytest.mark.parametrize("suffix", ["gz", "xz", "zip"])
def test_compressed(tmp_path, suffix):
    path = tmp_path / f"log.csv.{suffix}"
    if suffix == "gz":
        path.write_bytes(gzip.compress(GOOD.encode()))
    elif suffix == "xz":
        path.write_bytes(lzma.compress(GOOD.encode()))
    else:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("log.csv", GOOD)
    assert len(read_log(path).frame) == 3


def test_parquet_keeps_ids(tmp_path):
    frame = pd.DataFrame(
        {
            "u": [7, 8, 8],
            "i": ["007", "7", "8"],
            "t": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"]),
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    log = read_log(tmp_path / "log.parquet", user="u", item="i", timestamp="t")
    assert log.frame["user"].tolist() == ["7", "8", "8"] and log.frame[
        "item"
    ].tolist() == ["007", "7", "8"]
    assert log.frame["timestamp"].tolist() == [1704067200.0, 1704153600.0, 1704240000.0]


def test_ids_are_plain_str_whatever_they_were(file):
    for log in (
        read_log(file(GOOD)),
        from_frame(
            pd.DataFrame({"user": [1.0, 2.0], "item": [3, 4], "timestamp": [0, 1]})
        ),
    ):
        assert {type(v) for c in ("user", "item") for v in log.frame[c]} == {str}
    assert log.frame["user"].tolist() == ["1", "2"]
    split = leave_one_out(read_log(file(GOOD)), core=1)
    assert split.item_ids.dtype == object and {
        type(i) for i in (*split.item_ids, *split.user_ids, *split.items["title"])
    } == {str}


def test_byte_order_mark_windows_line_ends_and_blank_end(file):
    log = read_log(
        file(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    )
    assert log.frame["user"].tolist() == ["ann"] * 3


@pytest.mark.parametrize(
    "times, seconds",
    [
        (["1714521600", "1714521601"], [1714521600, 1714521601]),
        (["1714521600000", "1714521600500"], [1714521600, 1714521600.5]),
        (["1714521600000000"] * 2, [1714521600] * 2),
        (["2024-05-01", "2024-05-01 00:00:01.5"], [1714521600, 1714521601.5]),
        (["2024-05-01T02:00:00+02:00", "2024-05-01T00:00:00Z"], [1714521600] * 2),
        (["25/04/2024", "01/05/2024"], [1714003200, 1714521600]),
        (["04/25/2024", "05/01/2024"], [1714003200, 1714521600]),
        (["-5", "3"], [-5, 3]),
    ],
)
def test_times(file, times, seconds):
    log = read_log(
        file(
            "user,item,timestamp\n"
            + "".join(f"a,{n},{t}\n" for n, t in enumerate(times))
        )
    )
    assert log.frame["timestamp"].tolist() == seconds


def test_time_format_settles_what_is_ambiguous(file):
    path = file("user,item,timestamp\na,x,03/04/2024\n")
    refused(["column 'timestamp'", "'03/04/2024'", "time_format"], read_log, path)
    assert (
        read_log(path, time_format="%d/%m/%Y").frame["timestamp"][0]
        == pd.Timestamp("2024-04-03", tz="UTC").timestamp()
    )
    refused(["line 2", "'03/04/2024'", "%Y-%m"], read_log, path, time_format="%Y-%m")


def test_ambiguous_only_where_the_readings_differ(file):
    assert len(read_log(file("user,item,timestamp\na,x,04/04/2024\n")).frame) == 1


def test_min_rating(file):
    path = file("user,item,timestamp,stars\na,x,1,5\na,y,2,2\na,z,3,4\n")
    log = read_log(path, rating="stars", min_rating=4)
    assert (
        log.frame["item"].tolist() == ["x", "z"]
        and log.frame["rating"].tolist() == [5, 4]
        and log.frame.index.tolist() == [0, 1]
    )
    assert leave_one_out(
        read_log(path, rating="stars", min_rating=1.5), core=1
    ).protocol.startswith("ratings of 1.5 or more, ")
    refused(["no rating reaches 6", "5"], read_log, path, rating="stars", min_rating=6)
    refused("min_rating", read_log, path, min_rating=4, kind=ConfigError)
    refused(
        ["line 3", "'many'", "rating"],
        read_log,
        file("user,item,timestamp,stars\na,x,1,5\na,y,2,many\n"),
        rating="stars",
    )


def test_items(file):
    items = file(
        "item\ttitle\tcategory\ttext\nx\tAn X\tred;big;red\t\ny\t\t\tabout y\n",
        "items.tsv",
    )
    split = leave_one_out(
        read_log(file(GOOD), items=read_items(items, category_separator=";")), core=1
    )
    by_id = split.items.set_index("item")
    assert by_id.loc["x"].tolist() == ["An X", ("red", "big"), ""]
    assert by_id.loc["y"].tolist() == ["y", (), "about y"] and by_id.loc[
        "z"
    ].tolist() == ["z", (), ""]
    assert split.categories == ("big", "red")
    assert split.category_matrix().tolist() == [
        [1, 1] if i == "x" else [0, 0] for i in split.item_ids
    ]


def test_items_from_a_path_and_from_a_frame_agree(file):
    path = file("item,title,category\nx,An X,red|big\ny,A Y,\n", "items.csv")
    a = read_log(file(GOOD), items=path).items
    b = from_frame(
        pd.DataFrame({"user": ["a"], "item": ["x"], "timestamp": [1]}),
        items=pd.DataFrame(
            {
                "item": ["x", "y"],
                "title": ["An X", "A Y"],
                "category": ["red|big", None],
            }
        ),
    ).items
    assert (
        a.values.tolist()
        == b.values.tolist()
        == [["x", "An X", ("red", "big"), ""], ["y", "A Y", (), ""]]
    )


# ---- reading what is bad: each message names the place and what to do


def test_missing_column_names_what_is_there_and_what_is_close(file):
    message = refused(
        [
            "log.csv",
            "no column 'user'",
            "'user_id'",
            "'item'",
            "Did you mean 'user_id'?",
            "--user-column",
        ],
        read_log,
        file("user_id,item,timestamp\na,x,1\n"),
    )
    assert "''" not in message
    refused(
        ["no column 'genre'", "category='...'"],
        read_items,
        file("item,title\nx,X\n"),
        category="genre",
    )


def test_unparsable_timestamp_names_line_column_and_value(file):
    refused(
        ["log.csv, line 3, column 'timestamp'", "'yesterday'", "2024-05-31"],
        read_log,
        file("user,item,timestamp\na,x,1\na,y,yesterday\na,z,3\n"),
    )
    refused(
        ["line 3", "'soon'"],
        read_log,
        file("user,item,timestamp\na,x,2024-01-01\na,y,soon\na,z,2024-01-01\n"),
    )
    refused(
        ["line 2", "2 more such lines"],
        read_log,
        file("user,item,timestamp\na,x,?\na,y,?\na,z,?\n"),
    )


def test_line_numbers_count_as_an_editor_does(file):
    refused(
        "line 6, column 'timestamp'",
        read_log,
        file(
            'user,item,timestamp,note\na,x,1,"one\ntwo\nthree"\na,y,2,ok\na,z,never,ok\n'
        ),
    )
    # a blank line in the middle
    refused(
        "line 5, column 'timestamp'",
        read_log,
        file("user,item,timestamp\na,x,1\na,y,2\n\na,z,no\n"),
    )
    refused(
        "line 4, column 'timestamp'",
        read_log,
        file(
            '{"user": 1, "item": 2, "timestamp": 3}\n\n\n{"user": 1, "item": 2,'
            ' "timestamp": "no"}\n'
        ),
    )


def test_a_missing_time_is_refused_and_a_missing_id_is_left_out(file):
    refused(
        "log.csv, line 3, column 'timestamp'",
        read_log,
        file("user,item,timestamp\nb,y,1\na,x,\nc,z,1\nd,y,2\n"),
    )
    for row in (",x,1", "a,,1", "a,NULL,1"):
        assert read_log(file(f"user,item,timestamp\nb,y,1\n{row}\nc,z,1\n")).frame[
            "user"
        ].tolist() == ["b", "c"]


def test_missing_values_in_a_frame():
    frame = pd.DataFrame({"user": ["a", None], "item": ["x", "y"], "timestamp": [1, 2]})
    assert from_frame(frame).report.left_out == {"no user": 1}
    refused("frame, row 2, column 'user'", from_frame, frame, strict=True)
    refused(
        "row 1, column 'item'",
        from_frame,
        frame.assign(item=[np.nan, 3.0]).fillna({"user": "b"}),
        strict=True,
    )
    refused(
        "row 2, column 'timestamp'",
        from_frame,
        frame.assign(user="a", timestamp=pd.to_datetime(["2024-01-01", None])),
    )


@pytest.mark.parametrize(
    "text", ["", "user,item,timestamp\n", "user,item,timestamp\n\n\n", "\n"]
)
def test_empty_file(file, text):
    refused(["log.csv", "empty"], read_log, file(text))


def test_empty_frame():
    refused(
        "no rows", from_frame, pd.DataFrame({"user": [], "item": [], "timestamp": []})
    )


def test_no_file(tmp_path):
    refused("does not exist", read_log, tmp_path / "nowhere.csv")
    refused("not a file", read_log, tmp_path)


def test_too_many_columns_names_the_line(file):
    refused(
        ["log.csv", "line 3"], read_log, file("user,item,timestamp\na,x,1\na,y,2,3,4\n")
    )


def test_damaged_files(tmp_path):
    whole = {
        "a.csv.gz": gzip.compress(GOOD.encode() * 200),
        "a.csv.xz": lzma.compress(GOOD.encode() * 200),
    }
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content[:-20])
        refused([name, "get it again"], read_log, tmp_path / name)
    for name, start in {
        "b.csv.gz": b"\x1f\x8b",
        "b.csv.xz": b"\xfd7zXZ\x00",
        "b.csv.zip": b"PK\x03\x04",
        "b.csv.bz2": b"BZh",
        "b.csv.zst": b"\x28\xb5\x2f\xfd",
        "b.parquet": b"PAR1",
    }.items():
        (tmp_path / name).write_bytes(start + b"this is no such thing")
        refused([name, "get it again"], read_log, tmp_path / name)


def test_not_utf8(file):
    path = file("user,item,timestamp\na,caf\xe9,1\n".encode("latin-1"))
    refused(["log.csv", "utf-8", "encoding='latin-1'"], read_log, path)
    assert read_log(path, encoding="latin-1").frame["item"][0] == "café"


def test_item_tables_that_cannot_be_used(file):
    refused(
        ["line 4", "'x' has a row already"],
        read_items,
        file("item,title\nx,X\ny,Y\nx,Other\n"),
    )
    refused(
        ["none of its items", "'x'", "'1'"],
        read_log,
        file(GOOD),
        items=read_items(file("item\n1\n", "items.csv")),
    )


# ---- small logs that go wrong in the ways that people report


def rows_of(users=30, items=12, length=8, seed=0):
    "A clean log: a frame of str, in time order within each user."
    rng = np.random.default_rng(seed)
    rows = [
        (
            f"u{u:03}",
            f"i{i:03}",
            str(1_700_000_000 + 997 * u + 86_400 * t),
            str(rng.integers(1, 6)),
        )
        for u in range(users)
        for t, i in enumerate(rng.choice(items, length, replace=False))
    ]
    return pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating"])


def table_of(items=12):
    "The item table of that log."
    names = [f"i{n:03}" for n in range(items)]
    kinds = ["Drama", "Comedy", "Horror", "War"]
    categories = [f"{kinds[n % 4]}|Genre{n % 3}" for n in range(items)]
    return pd.DataFrame(
        {
            "item": names,
            "title": [f"Film {n}" for n in range(items)],
            "categories": categories,
        }
    )


def csv_of(frame, **options):
    return frame.to_csv(index=False, **options)


def warned(log, *words):
    "One of the warnings of a log's report holds all the words."
    found = [w for w in log.report.warnings if all(word in w for word in words)]
    assert found, (words, log.report.warnings)
    return found[0]


def same_split(a, b, **options):
    one, two = (leave_one_out(log, core=2, ties="random", **options) for log in (a, b))
    return one.sha256 == two.sha256


@pytest.fixture
def clean(file):
    return read_log(file(csv_of(rows_of()), "clean.csv"))


def test_a_clean_log_has_no_warning_and_its_rows_agree(file, clean):
    report = clean.report
    assert (
        report.rows == report.kept == 240
        and report.left_out == {}
        and report.warnings == []
    )
    assert (report.users, report.items, report.unit, report.tied) == (
        30,
        12,
        "seconds",
        0.0,
    )
    assert report.first == "2023-11-14" and report.largest_user == ("u000", 8)
    log = read_log(file(csv_of(rows_of())), items=file(csv_of(table_of()), "items.csv"))
    assert (
        log.report.warnings == []
        and log.report.titles == 12
        and log.report.categories == 7
    )


@pytest.mark.parametrize(
    "named", ["user,item,timestamp", "user,item,timestamp,rating,note"]
)
def test_a_header_of_another_width_is_refused(file, named):
    text = csv_of(rows_of()).replace("user,item,timestamp,rating", named, 1)
    refused(
        ["log.csv, line 2", "4 fields", f"{len(named.split(','))} columns"],
        read_log,
        file(text),
    )


def test_a_row_of_another_width_is_refused_by_its_line(file):
    lines = csv_of(rows_of()).splitlines()
    lines[7] += ",more"
    refused(["line 8", "5 fields", "4 columns"], read_log, file("\n".join(lines)))
    lines[7] = "u1,i1"
    refused(["line 8", "2 fields"], read_log, file("\n".join(lines)))


def test_two_columns_of_one_name_are_refused(file):
    text = csv_of(rows_of()).replace(
        "user,item,timestamp,rating", "user,item,timestamp, item", 1
    )
    refused(["log.csv", "2 columns", "'item'"], read_log, file(text))
    frame = pd.DataFrame(
        [["a", "x", 1, "y"]], columns=["user", "item", "timestamp", "item"]
    )
    refused("'item'", from_frame, frame)
    refused(
        "'item'", read_log, file('{"user": 1, "item": 2, "item": 3, "timestamp": 4}\n')
    )
    table = pa.table(
        [["a"], ["x"], [1], ["y"]], names=["user", "item", "timestamp", "item"]
    )
    stream = io.BytesIO()
    pa.parquet.write_table(table, stream)
    refused("'item'", read_log, file(stream.getvalue()))


def test_one_column_in_two_roles_is_refused(file):
    refused(
        ["'item'", "user", "--item-column"],
        read_log,
        file(GOOD),
        user="item",
        kind=ConfigError,
    )
    refused("'timestamp'", read_log, file(GOOD), rating="timestamp", kind=ConfigError)
    refused(
        "'title'",
        lambda path: read_items(path, text="title"),
        file("item,title\nx,X\n"),
        kind=ConfigError,
    )
    refused(
        "'item'", read_items, file("item,title\nx,X\n"), title="item", kind=ConfigError
    )


@pytest.mark.parametrize(
    "text, line",
    [
        ('user,item,timestamp,note\na,x,1,"one\nb,y,2,two\nc,z,3,three\n', 2),
        ('user,item,timestamp,note\na,x,1,ok\nb,y,2,"one\nc,z,3,two"\n', 3),
        ('item,title,text\nx,"X, the film,about\ny,Y",why\n', 2),
        ('user\titem\ttimestamp\tnote\na\tx\t1\t"one\nb\ty\t2\ttwo\n', 2),
    ],
)
def test_quotes_that_swallow_rows_are_refused(file, text, line):
    read = read_items if text.startswith("item,") else read_log
    refused([f"line {line}", "quote"], read, file(text))


def test_quotes_in_their_place_are_read(file):
    text = (
        'item,title,text\nx,"X, ""the"" film","one\n\ntwo, three, four\nand so'
        ' on"\ny,5" pipe,\n'
    )
    items = read_items(file(text))
    assert items["title"].tolist() == ['X, "the" film', '5" pipe']
    assert items["text"].tolist() == ["one two, three, four and so on", ""]


@pytest.mark.parametrize(
    "cell", ['"a\nb"', '"a\rb"', "a\x1b[31m", "a\x07", "a\x7f", "a\u202eb", '"a\tb"']
)
@pytest.mark.parametrize("column", [0, 1])
def test_ids_with_line_breaks_or_control_characters_are_refused_and_escaped(
    file, cell, column
):
    row = ["a", "x", "2"]
    row[column] = cell
    said = refused(
        "line 3", read_log, file(f"user,item,timestamp\na,x,1\n{','.join(row)}\n")
    )
    assert "control character" in said and "\\u00" in said or "\\u202e" in said


def test_control_characters_of_files_never_reach_the_terminal(file, tmp_path):
    escape = "\x1b]0;gone\x07"
    refused("\\u001b]0", read_log, file(f"user{escape},item,timestamp\na,x,1\n"))
    refused("\\u001b]0", read_log, file(f"user,item,timestamp\na,x,{escape}\n"))
    refused("\\u001b]0", read_log, file("user,timestamp\na,1\n", f"log{escape}.csv"))
    refused("\\u001b]0", read_log, tmp_path / f"none{escape}")
    refused("\\u001b]0", read_log, file(json.dumps({f"user{escape}": 1})))
    items = read_items(file(f"item,title,categories\nx,A{escape}B,red{escape}|blue\n"))
    assert items["title"].tolist() == ["A ]0;gone B"] and items["categories"][0] == (
        "red ]0;gone",
        "blue",
    )


# ---- times


@pytest.mark.parametrize(
    "dates",
    [
        ["31122023", "01012024", "05042024"],
        ["12312023", "01012024", "05042024"],
        ["231231", "240101", "240405"],
    ],
)
def test_dates_as_one_number_without_the_year_first_are_refused(file, dates):
    path = file(
        "user,item,timestamp\n" + "".join(f"a,{n},{d}\n" for n, d in enumerate(dates))
    )
    refused(["log.csv, line 2", f"'{dates[0]}'", "--time-format"], read_log, path)
    assert (
        len(
            read_log(
                path,
                time_format={"3": "%d%m%Y", "1": "%m%d%Y", "2": "%y%m%d"}[dates[0][0]],
            ).frame
        )
        == 3
    )


@pytest.mark.parametrize(
    "few", ["1700000000000", "0", "-1", "19700", "1700000000000000"]
)
def test_times_of_mixed_magnitude_are_refused(file, few):
    frame = rows_of()
    frame.loc[[11, 50], "timestamp"] = few
    refused(
        ["log.csv, line 13", "timestamp", few, "magnitude", "1 more"],
        read_log,
        file(csv_of(frame)),
    )


def test_times_over_a_wide_range_of_one_unit_are_read(file):
    times = [str(86_400 * n) for n in range(3000)]
    text = "user,item,timestamp\n" + "".join(
        f"u{n % 7},i{n % 5},{t}\n" for n, t in enumerate(times)
    )
    assert read_log(file(text)).frame["timestamp"].tolist() == [float(t) for t in times]


@pytest.mark.parametrize(
    "date", ["03/04/24", "24-05-31", "31.12.99", "5-Mar-24", "3/4/24 18:30"]
)
def test_two_digit_years_are_refused(file, date):
    path = file(f"user,item,timestamp\na,x,2024-01-01\na,y,{date}\n")
    refused(["line 3", "two digits", "--time-format"], read_log, path)


def test_a_time_format_reads_two_digit_years(file):
    log = read_log(
        file("user,item,timestamp\na,x,03/04/24\na,y,04/04/24\n"),
        time_format="%d/%m/%y",
    )
    assert log.report.first == "2024-04-03" and log.report.last == "2024-04-04"


def test_day_and_month_in_two_orders_in_one_file_are_refused(file):
    path = file("user,item,timestamp\na,x,25/04/2024\na,y,04/26/2024\n")
    refused(["line 2", "'25/04/2024'"], read_log, path)


@pytest.mark.parametrize(
    "time",
    [
        "now",
        "today",
        "tomorrow",
        "10",
        "12:30",
        "Friday",
        "2024-13-45",
        "1e400",
        "nan",
        "inf",
        "0x10",
        "True",
        "2024-05-31 25:00",
        "31/04/2024",
    ],
)
def test_what_is_no_time_is_refused_by_its_line(file, time):
    path = file(f"user,item,timestamp\na,x,2024-01-30\na,y,2024-01-31\na,z,{time}\n")
    refused(["line 4, column 'timestamp'", f"'{time}'"], read_log, path)


@pytest.mark.parametrize(
    "time, seconds",
    [
        ("31 May 2024", 1717113600),
        ("May 31, 2024 6:30 PM", 1717180200),
        ("2024/05/31 18:30", 1717180200),
        ("Fri May 31 18:30:00 2024", 1717180200),
        ("31.05.2024 18:30", 1717180200),
        ("5/31/2024 6:30 PM", 1717180200),
        ("20240531", 1717113600),
        ("20240531183000", 1717180200),
        ("2024-05-31T18:30:00.000Z", 1717180200),
        ("Fri, 31 May 2024 18:30:00 +0000", 1717180200),
        ("31/05/2024, 18:30:00", 1717180200),
        ("31-May-2024", 1717113600),
    ],
)
def test_dates_as_people_write_them(file, time, seconds):
    assert read_log(file(f'user,item,timestamp\na,x,"{time}"\n')).frame[
        "timestamp"
    ].tolist() == [seconds]


@pytest.mark.parametrize(
    "time_format",
    ["", "abc", "%", "%Q", "%Y%Y", "%s", "(", "\x1b%", "mixed", "ISO8601", "%y" * 999],
)
def test_absurd_time_formats_are_refused(file, time_format):
    with pytest.raises(ContrecError) as caught:
        read_log(file(GOOD), time_format=time_format)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 400


def test_times_that_a_spreadsheet_rounded_are_reported(file):
    log = read_log(file(csv_of(rows_of().assign(timestamp="1.70E+09"))))
    assert log.report.tied == 1.0
    warned(log, "spreadsheet")
    warned(log, "100% of neighbours", "order is not known")
    refused(
        ["spreadsheet", "'1.70E+09'"],
        read_log,
        file(csv_of(rows_of().assign(user="1.70E+09"))),
    )


def test_one_time_for_all_gives_the_same_split_in_any_order_of_rows(file):
    frame = rows_of().assign(timestamp="0")
    logs = [
        read_log(file(csv_of(f)))
        for f in (
            frame.sort_values(["user", "item"]),
            frame.sample(frac=1, random_state=2),
        )
    ]
    assert same_split(*logs)
    for log in logs:
        warned(log, "100% of neighbours")
    assert logs[0].report.to_dict() == logs[1].report.to_dict()


def test_ties_below_a_fifth_are_no_warning(file):
    frame = rows_of()
    frame.loc[frame.groupby("user").cumcount() == 1, "timestamp"] = frame.groupby(
        "user"
    )["timestamp"].transform("first")
    log = read_log(file(csv_of(frame)))
    assert log.report.tied == pytest.approx(1 / 7) and log.report.warnings == []


def test_times_out_of_the_ordinary_are_reported(file):
    warned(
        read_log(file(csv_of(rows_of().assign(timestamp="2199-01-01")))),
        "2199-01-01",
        "unit",
    )
    frame = rows_of()
    frame["timestamp"] = [str(int(t) // 10) for t in frame["timestamp"]]
    warned(read_log(file(csv_of(frame))), "1975")


# ---- ids


def test_one_id_in_two_spellings_is_united_and_said(file):
    frame = rows_of()
    for column in ("user", "item"):
        frame[column] = frame[column].str[1:].astype(int).astype(str)
    plain = read_log(file(csv_of(frame)))
    frame.loc[::3, "user"] += ".0"
    frame.loc[1::2, "item"] += ".00"
    log = read_log(file(csv_of(frame)))
    assert log.report.users == 30 and same_split(log, plain)
    warned(log, "200 rows", "12.0")


def test_numbers_in_two_spellings_among_names_are_refused(file):
    refused(
        ["line 3, column 'user'", "'12.0'"],
        read_log,
        file("user,item,timestamp\n12,x,1\n12.0,y,2\nann,z,3\n"),
    )
    log = read_log(file("user,item,timestamp\n1.0,x,1\n2.0,y,2\nann,z,3\n"))
    assert log.frame["user"].tolist() == ["1.0", "2.0", "ann"]


def test_spaces_around_ids_are_stripped_and_counted(file, clean):
    frame = rows_of()
    frame.loc[:9, "user"] += " "
    frame.loc[5:19, "item"] = "\u00a0 " + frame.loc[5:19, "item"]
    log = read_log(file(csv_of(frame)))
    assert log.report.users == 30 and same_split(log, clean)
    warned(log, "25 rows", "spaces", "stripped")


@pytest.mark.parametrize(
    "word",
    [
        "",
        " ",
        "NA",
        "N/A",
        "n/a",
        "null",
        "NULL",
        "None",
        "nan",
        "NaN",
        "-",
        "--",
        "\\N",
        "<NA>",
        "#N/A",
        "NaT",
        "?",
    ],
)
@pytest.mark.parametrize("column", ["user", "item"])
def test_missing_ids_are_left_out_and_counted_however_written(file, word, column):
    frame = rows_of()
    rest = read_log(file(csv_of(frame.drop(frame.index[::5]))))
    frame.loc[::5, column] = word
    log = read_log(file(csv_of(frame)))
    assert (
        log.report.left_out == {f"no {column}": 48}
        and log.report.rows == 240
        and log.report.kept == 192
    )
    assert log.frame.equals(rest.frame)
    warned(log, "48 rows", column, repr(word).replace("\\\\", "\\"))


def test_a_log_without_any_id_is_refused(file):
    refused(
        ["'item'", "every row"], read_log, file(csv_of(rows_of().assign(item="NA")))
    )


def test_ids_that_look_alike_are_reported_and_kept_apart(file):
    log = read_log(file("user,item,timestamp\nAnn,x,1\nann,x y,2\nbob,xy,3\n"))
    assert log.report.look_alikes == {"users": 2, "items": 2} and log.report.users == 3
    warned(log, "user ids differ", "'Ann'", "'ann'")


def test_leading_zeros_are_kept_and_reported(file):
    log = read_log(file("user,item,timestamp\n7,x,1\n007,y,2\n8,xy,3\n"))
    assert log.report.users == 3
    warned(log, "user ids differ", "'007'", "'7'")


@pytest.mark.parametrize(
    "ids", [["-12", "-12.0", "3"], ["12", "12,0", "3"], ["12", "12,00", "NA"]]
)
def test_one_number_in_other_spellings_is_one_id(file, ids):
    log = read_log(
        file(
            "user;item;timestamp\n"
            + "".join(f"{i};x{n};{n}\n" for n, i in enumerate(ids))
        )
    )
    assert log.frame["user"].nunique() == len(set(ids) - {"NA"}) - 1


def test_accents_written_apart_are_one_id(file):
    log = read_log(file("user,item,timestamp\ncaf\u00e9,x,1\ncafe\u0301,y,2\n"))
    assert log.report.users == 1
    warned(log, "1 row", "accents")


IDS = {
    "bytes": pa.array([b"1", b"2", None], pa.binary()),
    "decimal": pa.array([Decimal("1.00"), Decimal("2.00"), None]),
    "dictionary": pa.array(["1", "2", None]).dictionary_encode(),
    "integers in a dictionary": pa.array([1, 2, None]).dictionary_encode(),
    "nullable integers": pa.array([1, 2, None], pa.int32()),
    "unsigned": pa.array([1, 2, None], pa.uint64()),
    "floats": pa.array([1.0, 2.0, None]),
    "large strings": pa.array(["1", "2", None], pa.large_string()),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_parquet_are_read_as_what_they_mean(tmp_path, kind):
    table = pa.table({"user": IDS[kind], "item": IDS[kind], "timestamp": [1, 2, 3]})
    pa.parquet.write_table(table, tmp_path / "log")
    log = read_log(tmp_path / "log")
    assert log.frame["user"].tolist() == log.frame["item"].tolist() == ["1", "2"]
    assert log.report.left_out == {"no user": 1}


def test_large_integers_stay_exact(tmp_path):
    big = 2**62 + 1
    pa.parquet.write_table(
        pa.table(
            {"user": pa.array([big, None]), "item": ["x", "y"], "timestamp": [1, 2]}
        ),
        tmp_path / "log",
    )
    assert read_log(tmp_path / "log").frame["user"].tolist() == [str(big)]


@pytest.mark.parametrize(
    "ids",
    [
        [1.5, 2.0],
        [1e300, 1.0],
        [float(2**53), 1.0],
        [b"\xff\xfe", b"a"],
        [[1], [2]],
        [{"a": 1}, {"a": 2}],
        [True, False],
        [np.inf, 1.0],
        pd.to_datetime(["2024-01-01", "2024-01-02"]),
        pd.to_timedelta([1, 2]),
    ],
)
def test_ids_that_are_none_are_refused(ids):
    refused(
        ["column 'user'", "row"],
        from_frame,
        pd.DataFrame({"user": ids, "item": ["x", "y"], "timestamp": [1, 2]}),
    )


@pytest.mark.parametrize(
    "ids",
    [
        pd.Categorical([1, 2, 1]),
        pd.array([1, 2, 1], "Int64"),
        pd.array([1, 2, 1], "string"),
        [1, "2", 1.0],
        ["1", b"2", Decimal(1)],
    ],
)
def test_ids_of_frames_are_read_as_what_they_mean(ids):
    log = from_frame(
        pd.DataFrame({"user": ids, "item": ["x", "y", "z"], "timestamp": [1, 2, 3]})
    )
    assert log.frame["user"].tolist() == ["1", "2", "1"]


# ---- rows that are there twice


@pytest.mark.parametrize("how", ["each", "appended"])
def test_rows_that_are_there_twice_are_dropped_and_counted(file, clean, how):
    frame = rows_of()
    frame = (
        frame.loc[frame.index.repeat(2)] if how == "each" else pd.concat([frame, frame])
    )
    log = read_log(file(csv_of(frame)))
    assert (
        log.frame.equals(clean.frame)
        and log.report.left_out == {"exact duplicates": 240}
        and log.report.rows == 480
    )
    warned(log, "240 rows", "same as an earlier")


def test_a_rating_tells_rows_apart_where_it_is_read(file):
    text = "user,item,timestamp,rating\na,x,1,5\na,x,1,3\n"
    assert (
        len(read_log(file(text)).frame) == 1
        and len(read_log(file(text), rating="rating").frame) == 2
    )


def test_rows_agree_with_what_was_left_out(file):
    text = (
        csv_of(rows_of())
        + "\n,i001,1700000000,5\nu001,NA,1700000000,5\n\n"
        + "u001,i001,1700000000,1\n" * 2
    )
    report = read_log(file(text), rating="rating", min_rating=2).report
    low = (rows_of()["rating"].astype(int) < 2).sum()
    assert report.left_out == {
        "blank lines": 2,
        "no user": 1,
        "no item": 1,
        "exact duplicates": 1,
        "lower ratings": low + 1,
    }
    assert (
        report.rows == text.count("\n") - 1
        and report.kept + sum(report.left_out.values()) == report.rows
    )


# ---- item tables

LISTS = {
    "bar": lambda names: "|".join(names),
    "comma": ", ".join,
    "semicolon": ";".join,
    "python": str,
    "json": json.dumps,
    "objects": lambda names: json.dumps(
        [{"id": n, "name": name} for n, name in enumerate(names)]
    ),
    "python objects": lambda names: str(
        [{"id": n, "name": name} for n, name in enumerate(names)]
    ),
    "tuple of python in a set": lambda names: "{" + ", ".join(map(repr, names)) + "}",
    "numpy": lambda names: str(np.array(names)),
    "bare": lambda names: f"[{', '.join(names)}]",
}


@pytest.mark.parametrize("kind", LISTS)
def test_categories_as_lists_are_the_same_categories(file, kind):
    frame = table_of()
    expected = read_items(file(csv_of(frame)))["categories"].tolist()
    lists = [LISTS[kind](c.split("|")) for c in frame["categories"]]
    items = read_items(file(csv_of(frame.assign(categories=lists))))
    assert items["categories"].tolist() == expected
    assert len({c for row in items["categories"] for c in row}) == 7


@pytest.mark.parametrize(
    "cell",
    ["(no genres listed)", "[]", "", "NA", "None", "['(no genres listed)']", "{}"],
)
def test_no_categories_however_written(file, cell):
    frame = table_of().astype(object)
    frame.loc[0, "categories"] = cell
    assert read_items(file(csv_of(frame)))["categories"][0] == ()


def test_lists_in_frames_and_parquet(tmp_path):
    frame = pd.DataFrame(
        {"item": ["x", "y", "z"], "categories": [["Drama", "War"], [], None]}
    )
    frame.to_parquet(tmp_path / "items")
    for table in (frame, tmp_path / "items"):
        assert read_items(table)["categories"].tolist() == [("Drama", "War"), (), ()]


@pytest.mark.parametrize(
    "cell",
    [
        "[{'a': 1}]",
        "['Drama', War",
        "{'id': 3}",
        "[" * 5000,
        "[1, {2: [f()]}]",
        "['a' + 'b']",
    ],
)
def test_lists_that_cannot_be_read_are_refused_or_stay_text(file, cell):
    frame = table_of().astype(object)
    frame.loc[3, "categories"] = cell
    path = file(csv_of(frame))
    if cell[-1] in "]}":
        refused("line 5, column 'categories'", read_items, path)
    else:
        assert read_items(path)["categories"][3]


def test_commas_inside_names_of_categories_stay(file):
    frame = pd.DataFrame(
        {
            "item": list("abcd"),
            "title": list("ABCD"),
            "category": ["Food, Drinks & Tobacco", "Clothing, Shoes"] * 2,
        }
    )
    log = read_log(
        file("user,item,timestamp\nu,a,1\nu,b,2\n"),
        items=file(csv_of(frame), "items.csv"),
    )
    assert log.items["categories"][0] == ("Food, Drinks & Tobacco",)
    warned(log, "commas", "--category-separator")
    split = read_items(file(csv_of(frame), "items.csv"), category_separator=",")
    assert split["categories"][0] == ("Food", "Drinks & Tobacco")


def test_an_item_table_that_fits_less_than_nine_tenths_warns(file):
    path = file(csv_of(rows_of()))
    log = read_log(path, items=file(csv_of(table_of().head(8)), "items.csv"))
    assert log.report.titles == 8
    warned(log, "8 of its 12 items", "'categories'")
    warned(log, "titles for 8 of 12 items")


def test_more_categories_than_the_words_about_an_item_name_are_said(file):
    many = "|".join(f"kind {n}" for n in range(300))
    table = table_of()
    table.loc[11, "categories"] = many
    log = read_log(
        file(csv_of(rows_of())),
        items=file(csv_of(table), "items.csv"),
    )
    warned(log, "300 categories", "the first 50")
    assert log.report.categories == 307


def test_an_item_table_that_fits_less_than_half_is_refused_unless_told(file):
    path, items = file(csv_of(rows_of())), file(csv_of(table_of().head(5)), "items.csv")
    refused(
        ["5 of its 12 items", "'title'", "--allow-partial-items"],
        read_log,
        path,
        items=items,
    )
    log = read_log(path, items=items, allow_partial_items=True)
    assert log.report.titles == 5
    warned(log, "5 of its 12 items")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f.assign(item=f["item"].str[1:].str.lstrip("0")), "eading zeros"),
        (lambda f: f.assign(item="É" + f["item"]), "apital"),
        (lambda f: f.assign(item="e" + f["item"]), "ccents"),
        (
            lambda f: f.assign(item=range(len(f)), code="é" + f["item"]),
            "Did you mean column 'code'? Say so with --items-id-column",
        ),
    ],
)
def test_an_item_table_that_does_not_fit_says_why(file, change, words):
    log = rows_of()
    log["item"] = log["item"].str[1:] if "zeros" in words else "é" + log["item"]
    refused(
        ["Did you mean", words],
        read_log,
        file(csv_of(log)),
        items=file(csv_of(change(table_of())), "items.csv"),
    )


def test_accents_of_an_item_table_written_apart_fit(file):
    log = read_log(
        file(csv_of(rows_of().assign(item="\u00e9" + rows_of()["item"]))),
        items=file(
            csv_of(table_of().assign(item="e\u0301" + table_of()["item"])), "items.csv"
        ),
    )
    assert log.report.titles == 12
    warned(log, "items.csv", "accents")


def test_an_item_table_of_which_no_column_is_known_says_so(file):
    table = table_of().rename(columns={"title": "name", "categories": "sort"})
    log = read_log(file(csv_of(rows_of())), items=file(csv_of(table), "items.csv"))
    warned(log, "items.csv", "'name'", "'sort'", "--title-column")


@pytest.mark.parametrize(
    "names, option",
    [
        ({"title": "name"}, "--title-column"),
        ({"categories": "Genres"}, "--category-column"),
    ],
)
def test_one_column_of_an_item_table_that_is_not_known_is_said(file, names, option):
    log = read_log(
        file(csv_of(rows_of())),
        items=file(csv_of(table_of().rename(columns=names)), "items.csv"),
    )
    assert repr(list(names.values())[0]) in warned(log, "items.csv", option)
    assert (
        read_log(
            file(csv_of(rows_of())),
            items=file(csv_of(table_of().assign(year=1999)), "items.csv"),
        ).report.warnings
        == []
    )
    warned(
        read_log(
            file(csv_of(rows_of())),
            items=file(csv_of(table_of().assign(description="long")), "items.csv"),
        ),
        "--text-column",
    )


def test_the_same_row_twice_in_an_item_table(file):
    table = table_of()
    log = read_log(
        file(csv_of(rows_of())),
        items=file(csv_of(pd.concat([table, table])), "items.csv"),
    )
    assert len(log.items) == 12
    warned(log, "12 rows", "same as an earlier")
    refused(
        ["line 14", "has a row already"],
        read_items,
        file(csv_of(pd.concat([table, table.assign(title="Other")]))),
    )


# ---- files of all kinds


def test_an_encoding_for_each_file(file):
    log, items = rows_of(), table_of()
    log["item"], items["item"] = "é" + log["item"], "é" + items["item"]
    path = file(("\ufeff" + csv_of(log)).encode())
    table = file(csv_of(items).encode("latin-1"), "items.csv")
    refused(["items.csv, line 2", "--items-encoding latin-1"], read_items, table)
    assert (
        read_log(path, items=read_items(table, encoding="latin-1")).report.titles == 12
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_byte_order_marks_tell_the_encoding(file, encoding):
    assert (
        read_log(file("user,item,timestamp\ncafé,x,1\n".encode(encoding))).frame[
            "user"
        ][0]
        == "café"
    )


def test_utf_16_without_a_mark_is_refused_and_read_with_its_name(file):
    path = file(GOOD.encode("utf-16-le"))
    refused(["zero byte", "--encoding utf-16-le"], read_log, path)
    assert len(read_log(path, encoding="utf-16-le").frame) == 3


@pytest.mark.parametrize(
    "encoding",
    [
        "utf-9",
        "",
        "hex",
        "rot13",
        "zip",
        "idna",
        "punycode",
        "unicode_escape",
        "\x00",
        "a" * 5000,
        "\x1b[1m",
        "undefined",
    ],
)
def test_absurd_encodings_are_refused(file, encoding):
    refused(
        "no text encoding", read_log, file(GOOD), encoding=encoding, kind=ConfigError
    )


def test_an_encoding_that_is_doubtful_is_said(file):
    warned(
        read_log(file("user,item,timestamp\ncafé,x,1\n"), encoding="latin-1"),
        "utf-8",
        "latin-1",
    )


def packed(text, kind):
    if kind == "gz":
        return gzip.compress(text.encode())
    if kind == "xz":
        return lzma.compress(text.encode())
    if kind == "bz2":
        return __import__("bz2").compress(text.encode())
    if kind == "zst":
        return pa.compress(text.encode(), "zstd", asbytes=True)
    return archive({"log.csv": text})


def archive(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as z:
        for name, text in members.items():
            z.writestr(name, text)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "zst", "zip"])
@pytest.mark.parametrize("name", ["log", "log.parquet", "log.csv.gz", "log.zip"])
def test_files_are_known_by_their_content_not_their_names(file, kind, name):
    assert len(read_log(file(packed(GOOD, kind), name)).frame) == 3


def test_text_and_parquet_under_other_names(file, tmp_path):
    assert (
        len(read_log(file(GOOD, "log.parquet")).frame)
        == len(read_log(file(GOOD, "log.csv.gz")).frame)
        == 3
    )
    frame = pd.DataFrame({"user": ["a"], "item": ["x"], "timestamp": [1]})
    frame.to_parquet(tmp_path / "log.csv")
    frame.to_feather(tmp_path / "feather.csv")
    assert (
        len(read_log(tmp_path / "log.csv").frame)
        == len(read_log(tmp_path / "feather.csv").frame)
        == 1
    )


@pytest.mark.parametrize(
    "members, words",
    [
        ({}, ["0 files"]),
        ({"a.csv": GOOD, "b.csv": GOOD}, ["2 files", "'a.csv'", "'b.csv'"]),
        ({"a.csv": ""}, ["empty"]),
        ({"folder/": ""}, ["0 files"]),
        ({"a.zip": packed(GOOD, "zip")}, ["another archive"]),
        ({"xl/workbook.xml": "x"}, ["spreadsheet"]),
        ({"a\x1b.csv": GOOD, "b": ""}, ["2 files", "\\u001b"]),
    ],
)
def test_archives_with_none_two_or_strange_members(file, members, words):
    refused(["log.zip", *words], read_log, file(archive(members), "log.zip"))


def test_an_archive_that_would_fill_the_memory_is_refused(file, monkeypatch):
    monkeypatch.setattr("contrec.data.reading._UNPACK_LIMIT", 1 << 20)
    refused(
        ["log.csv", "300 times"],
        read_log,
        file(lzma.compress(bytes(1) + b"a" * (1 << 26))),
    )


@pytest.mark.parametrize(
    "start, words",
    [
        (b"\x89HDF", "HDF5"),
        (b"SQLite format 3\x00", "SQLite"),
        (b"%PDF-1.4", "PDF"),
        (b"\x00\x01\x02\x03", "zero byte"),
    ],
)
def test_files_of_other_kinds_are_named(file, start, words):
    refused(["log.csv", words], read_log, file(start + b"abc"))


def test_paths_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(["pipe", "not a file"], read_log, tmp_path / "pipe")
    refused("folder", read_log, tmp_path)
    refused("too long", read_log, tmp_path / ("a" * 5000))
    refused("cannot be read", read_log, "a\x00b")
    refused("does not exist", read_log, "")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused("loop", read_log, tmp_path / "loop")


def test_a_file_that_may_not_be_read_is_said_to_be_that(file, monkeypatch):
    path = file(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):  # The superuser may read everything

        def deny(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.read_bytes", deny)
    said = refused(["log.csv", "permission denied"], read_log, path)
    assert "damaged" not in said


def test_json_lines(file):
    lines = [
        {"user": 7, "item": "007", "timestamp": 1714521600000, "note": [1]},
        {"user": "8", "item": "7", "timestamp": 1714521600500},
    ]
    for text in ("\n".join(map(json.dumps, lines)), json.dumps(lines)):
        log = read_log(file(text))
        assert log.frame.values.tolist() == [
            ["7", "007", 1714521600.0],
            ["8", "7", 1714521600.5],
        ]
    refused(
        ["log.csv, line 2", "not JSON"],
        read_log,
        file('{"user": 1, "item": 2, "timestamp": 3}\n{"user": 1, "it\n'),
    )
    refused("line 1", read_log, file("{" * 100_000))
    for text in ("[]", "[1, 2]", "{}", '[{"user": 1}, 2]'):
        refused("log.csv", read_log, file(text))


def test_typed_headers_of_recbole(file):
    log = read_log(
        file(
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3.0\t881250949\n",
            "a.inter",
        ),
        rating="rating",
    )
    assert (
        log.frame.values.tolist() == [["1", "2", 881250949.0, 3.0]]
        and "RecBole" in log.report.to_dict()["remarks"][0]
    )
    items = read_items(
        file(
            "item_id:token\ttitle:token_seq\tcategory:token_seq\n2\tToy Story\tDrama"
            " War\n3\tHeat\tWar\n",
            "a.item",
        )
    )
    assert items["title"].tolist() == ["Toy Story", "Heat"] and items[
        "categories"
    ].tolist() == [("Drama", "War"), ("War",)]


def test_files_without_a_header(file):
    path = file(
        "196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n",
        "u.data",
    )
    refused(
        ["u.data", "line 1 looks like data".replace("line", "Line"), "--no-header"],
        read_log,
        path,
    )
    log = read_log(path, header=False)
    assert log.frame["user"].tolist() == ["196", "186", "22"] and log.report.rows == 3
    assert (
        "no header: user is column 1, item is column 2, timestamp is column 4"
        in log.report.to_dict()["remarks"]
    )
    assert (
        read_log(
            path, header=False, user="2", item="1", timestamp="4", rating="3"
        ).frame["user"][0]
        == "242"
    )
    refused(
        "--timestamp-column",
        read_log,
        file("a,b,1700000000,1700000000\n"),
        header=False,
    )
    items = read_items(
        file("242|Kolya|Comedy\n302|L.A.|Crime\n", "u.item"),
        header=False,
        title="2",
        separator="|",
    )
    assert items["title"].tolist() == ["Kolya", "L.A."]


@pytest.mark.parametrize("separator", ["::", "\t", ",", ";", "|"])
def test_separators_are_found_out(file, separator):
    assert read_log(file(GOOD.replace(",", separator))).frame["item"].tolist() == list(
        "xyz"
    )


@pytest.mark.parametrize("separator", ["^", " ", "~", "||", "\\t"])
def test_other_separators_by_an_option(file, separator):
    path = file(GOOD.replace(",", separator.replace("\\t", "\t")))
    if separator == "^":
        refused("no column 'user'", read_log, path)
    assert read_log(path, separator=separator).frame["item"].tolist() == list("xyz")


@pytest.mark.parametrize("separator", ["", "a", '"', "\n", "abcdef", "\x00"])
def test_absurd_separators_are_refused(file, separator):
    refused(
        "makes no sense", read_log, file(GOOD), separator=separator, kind=ConfigError
    )


def test_decimal_commas(file):
    path = file(
        "user;item;timestamp;rating\na;x;1700000000,5;4,5\na;y;1700000001,5;3\n"
    )
    refused(["line 2", "'1700000000,5'", "--decimal ,"], read_log, path)
    log = read_log(path, decimal=",", rating="rating", min_rating=4)
    assert log.frame.values.tolist() == [["a", "x", 1700000000.5, 4.5]]
    refused("decimal", read_log, path, decimal="x", kind=ConfigError)


def test_an_id_column_of_its_own_for_the_item_table(file):
    table = table_of().rename(columns={"item": "movie"})
    refused(["'movie'", "--items-id-column"], read_items, file(csv_of(table)))
    assert read_items(file(csv_of(table)), item="movie")["item"][0] == "i000"


# ---- the report


def test_the_report_as_lines_and_as_data(file):
    log = read_log(
        file(csv_of(rows_of().assign(timestamp="5"))),
        items=file(csv_of(table_of()), "items.csv"),
    )
    split = leave_one_out(log, core=2, ties="random")
    report = with_split(split.report, split)
    lines = report.lines()
    assert all(len(line) > 12 and line.isprintable() for line in lines)
    assert any(
        line.startswith("rows ") and "240 in the file, 240 kept" in line
        for line in lines
    )
    assert any("titles for 12 of 12 items" in line for line in lines)
    assert any(line.startswith("warning: 100% of neighbours") for line in lines)
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["rows"] == 240 and found["tied"] == 1.0 and len(found["warnings"]) >= 1
    assert found["split"]["unreachable_targets"] == 0
    assert found["split"]["fewest_candidates"] == found["split"]["most_candidates"] == 5


def test_targets_that_no_list_can_hold_are_counted(file):
    rows = [
        (f"u{u}", i, 1_700_000_000 + t)
        for u in range(10)
        for t, i in enumerate("abca" if u < 4 else "abcd")
    ]
    log = read_log(
        file(csv_of(pd.DataFrame(rows, columns=["user", "item", "timestamp"])))
    )
    split = leave_one_out(log, core=1)
    report = with_split(split.report, split)
    assert report.split["unreachable_targets"] == 4
    assert any("40% of test items were seen before" in w for w in report.warnings)
    assert any("candidate" in w for w in report.warnings)


def test_one_user_or_item_that_is_most_of_the_log_is_said(file):
    robot = pd.DataFrame(
        {
            "user": "robot",
            "item": [f"i{n % 12:03}" for n in range(300)],
            "timestamp": [str(1_700_000_000 + n) for n in range(300)],
            "rating": "1",
        }
    )
    warned(
        read_log(file(csv_of(pd.concat([rows_of(), robot])))), "of one user", "'robot'"
    )


def test_describe_a_log_that_no_file_gave(clean):
    assert describe(clean).rows == 240 and describe(clean).warnings == []


# ---- whatever comes

cells = st.text(
    st.sampled_from(
        list("ab1290.,;:|\t\"'\n\r{}[]()-+eE/ \\\x00\x1b\u202e\ufeff\u0301é%_TZ")
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.lists(cells, max_size=5), max_size=6),
    st.sampled_from([",", "\t", ";", "::"]),
    st.booleans(),
    st.booleans(),
)
def test_no_text_escapes_as_another_error(
    tmp_path_factory, rows, separator, named, header
):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    head = [["user", "item", "timestamp"]] if named else []
    path.write_text(
        "\n".join(separator.join(r) for r in head + rows), encoding="utf-8", newline=""
    )
    for read in (read_log, read_items):
        try:
            read(path, header=header)
        except ContrecError as error:
            assert str(error).count("\n") <= 1 and all(
                line.isprintable() for line in str(error).split("\n")
            )


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"PAR1",
            b"ARROW1",
            b"\x1f\x8b\x08",
            b"PK\x03\x04",
            b"BZh9",
            b"\xfd7zXZ\x00",
            b"\x28\xb5\x2f\xfd",
            b"\xff\xfe",
            b"{",
            b"[",
        ]
    ),
)
def test_no_bytes_escape_as_another_error(tmp_path_factory, content, start):
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(start + content)
    for read in (read_log, read_items):
        with pytest.raises(ContrecError) as caught:
            read(path)
        assert all(line.isprintable() for line in str(caught.value).split("\n"))


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(),
    st.decimals(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(*[st.lists(values, min_size=n, max_size=n)] * 3)
    )
)
def test_no_frame_escapes_as_another_error(columns):
    frame = pd.DataFrame(
        {
            name: pd.Series(list(c), dtype=object)
            for name, c in zip(("user", "item", "timestamp"), columns)
        }
    )
    for read in (from_frame, read_items):
        try:
            read(frame)
        except ContrecError as error:
            assert str(error).count("\n") <= 1


# ---- the command line


def check(capsys, *arguments):
    "Exit code, output and error of `contrec data check`."
    from contrec.interface.cli import main

    code = main(["data", "check", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_data_check_prints_the_report_and_trains_nothing(file, capsys, tmp_path):
    path, items = (
        file(csv_of(rows_of().assign(timestamp="5"))),
        file(csv_of(table_of()), "items.csv"),
    )
    before = sorted(tmp_path.iterdir())
    code, out, _ = check(capsys, "--data", path, "--items", items, "--core", 2)
    assert (
        code == 0
        and "240 in the file, 240 kept" in out
        and "titles for 12 of 12" in out
    )
    assert "warning: 100% of neighbours" in out and sorted(tmp_path.iterdir()) == before
    code, out, _ = check(capsys, "--data", path, "--core", 2, "--json")
    found = json.loads(out)
    assert (
        code == 0
        and found["tied"] == 1.0
        and "ties in random order" in found["protocol"]
    )
    assert (
        "ties by row order"
        in check(capsys, "--data", path, "--core", 2, "--json", "--ties", "file")[1]
    )


def test_data_check_refuses_with_code_2(file, capsys):
    code, out, error = check(
        capsys, "--data", file("user,item,timestamp\na,x,1,5\n"), "--json"
    )
    assert (
        code == 2
        and out == ""
        and error.startswith("contrec: log.csv, line 2")
        and "Traceback" not in error
    )
    assert check(capsys)[0] == 2
    assert check(capsys, "--data", file(GOOD), "--items-encoding", "latin-1")[0] == 2


def test_options_reach_the_readers(file, capsys):
    log, items = rows_of(), table_of().rename(columns={"item": "movie"})
    log["item"], items["movie"] = "é" + log["item"], "é" + items["movie"]
    path = file(csv_of(log, sep="^", header=False, decimal=",").encode())
    table = file(csv_of(items, sep="~").encode("latin-1"), "items.csv")
    code, out, error = check(
        capsys,
        "--data",
        path,
        "--separator",
        "^",
        "--no-header",
        "--core",
        2,
        "--items",
        table,
        "--items-encoding",
        "latin-1",
        "--items-id-column",
        "movie",
        "--items-separator",
        "~",
        "--decimal",
        ",",
        "--json",
    )
    assert code == 0, error
    assert (
        json.loads(out)["titles"] == 12 and "no header" in json.loads(out)["remarks"][0]
    )
