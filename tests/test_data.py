"Logs and splits: every kind of bad input by its message, and the rules of the split against slow, plain oracles."
import gzip, lzma, zipfile
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from contrec.core import ConfigError, DataError
from contrec.data import Ragged, from_frame, k_core, leave_one_out, read_items, read_log, tied_share

GOOD = "user,item,timestamp\nann,x,1\nann,y,2\nann,z,3\n"
lists = st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=8)
relaxed = settings(deadline=None, max_examples=60) # a slow machine is no failure
events = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 4)), min_size=1, max_size=80)

def refused(text, function, *args, kind=DataError, **options):
    "The message, which must contain every line of `text` and have at most two lines."
    with pytest.raises(kind) as caught: function(*args, **options)
    message = str(caught.value)
    for part in text if isinstance(text, (list, tuple)) else [text]: assert part in message
    assert message.count("\n") <= 1
    return message

@pytest.fixture
def file(tmp_path):
    def make(text, name="log.csv"):
        path = tmp_path/name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path
    return make

# ---- Ragged

@relaxed
@given(lists)
def test_ragged_is_a_list_of_lists(rows):
    r = Ragged.from_lists(rows)
    plain = lambda ragged: [list(row) for row in ragged]
    assert plain(r) == rows and len(r) == len(rows)
    assert r.lengths.tolist() == [len(x) for x in rows]
    assert r.row_index.tolist() == [i for i, x in enumerate(rows) for _ in x]
    assert plain(r.last(2)) == [x[-2:] for x in rows]
    assert plain(r.last(0)) == [[] for _ in rows]
    assert plain(r.drop_last()) == [x[:-1] for x in rows]
    assert plain(r.append(np.arange(len(rows)))) == [x + [i] for i, x in enumerate(rows)]
    assert plain(r.take(np.arange(len(rows))[::-1])) == rows[::-1]
    assert plain(r.take(np.array([len(x) > 1 for x in rows], dtype=bool))) == [x for x in rows if len(x) > 1]

@relaxed
@given(lists, st.integers(0, 7), st.sampled_from(["left", "right"]))
def test_pad_keeps_the_last_values(rows, length, side):
    padded = Ragged.from_lists(rows).pad(length, fill=-7, side=side)
    for row, out in zip(rows, padded):
        kept = row[-length:] if length else []
        gap = [-7] * (length - len(kept))
        assert out.tolist() == (kept + gap if side == "right" else gap + kept)
    assert padded.shape == (len(rows), length)

def test_ragged_corners():
    r = Ragged.from_lists([[1, 2], [], [3]])
    assert r[-1].tolist() == [3] and r.take([]).pad().shape == (0, 0) and len(Ragged.from_lists([])) == 0
    with pytest.raises(IndexError): r[3]
    with pytest.raises(ConfigError): r.pad(side="middle")
    assert r.to_csr(4).toarray().tolist() == [[0, 1, 1, 0], [0] * 4, [0, 0, 0, 1]]
    assert Ragged.from_lists([[1, 1]]).to_csr(2, [2, 3]).toarray().tolist() == [[0, 5]]
    assert r.to_csr(4).dtype == np.float32 and r.values.dtype == np.int64

def test_to_csr_leaves_the_rows_alone():
    r = Ragged.from_lists([[3, 1, 3]])
    r.to_csr(4)
    assert r[0].tolist() == [3, 1, 3]

# ---- reading what is good

@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separators(file, separator):
    log = read_log(file(GOOD.replace(",", separator), "log.txt"))
    assert log.frame.values.tolist() == [["ann", "x", 1.0], ["ann", "y", 2.0], ["ann", "z", 3.0]] and log.name == "log"

@pytest.mark.parametrize("suffix", ["gz", "xz", "zip"])
def test_compressed(tmp_path, suffix):
    path = tmp_path/f"log.csv.{suffix}"
    if suffix == "gz": path.write_bytes(gzip.compress(GOOD.encode()))
    elif suffix == "xz": path.write_bytes(lzma.compress(GOOD.encode()))
    else:
        with zipfile.ZipFile(path, "w") as z: z.writestr("log.csv", GOOD)
    assert len(read_log(path).frame) == 3

def test_parquet_keeps_ids(tmp_path):
    frame = pd.DataFrame({"u": [7, 8, 8], "i": ["007", "7", "8"], "t": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"])})
    frame.to_parquet(tmp_path/"log.parquet")
    log = read_log(tmp_path/"log.parquet", user="u", item="i", timestamp="t")
    assert log.frame["user"].tolist() == ["7", "8", "8"] and log.frame["item"].tolist() == ["007", "7", "8"]
    assert log.frame["timestamp"].tolist() == [1704067200.0, 1704153600.0, 1704240000.0]

def test_ids_are_plain_str_whatever_they_were(file):
    for log in (read_log(file(GOOD)), from_frame(pd.DataFrame({"user": [1.0, 2.0], "item": [3, 4], "timestamp": [0, 1]}))):
        assert {type(v) for c in ("user", "item") for v in log.frame[c]} == {str}
    assert log.frame["user"].tolist() == ["1", "2"]
    split = leave_one_out(read_log(file(GOOD)), core=1)
    assert split.item_ids.dtype == object and {type(i) for i in (*split.item_ids, *split.user_ids, *split.items["title"])} == {str}

def test_byte_order_mark_windows_line_ends_and_blank_end(file):
    log = read_log(file(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n\r\n"))
    assert log.frame["user"].tolist() == ["ann"] * 3

@pytest.mark.parametrize("times, seconds", [
    (["1714521600", "1714521601"], [1714521600, 1714521601]),
    (["1714521600000", "1714521600500"], [1714521600, 1714521600.5]),
    (["1714521600000000"] * 2, [1714521600] * 2),
    (["2024-05-01", "2024-05-01 00:00:01.5"], [1714521600, 1714521601.5]),
    (["2024-05-01T02:00:00+02:00", "2024-05-01T00:00:00Z"], [1714521600] * 2),
    (["25/04/2024", "01/05/2024"], [1714003200, 1714521600]),
    (["04/25/2024", "05/01/2024"], [1714003200, 1714521600]),
    (["-5", "3"], [-5, 3]),
])
def test_times(file, times, seconds):
    log = read_log(file("user,item,timestamp\n" + "".join(f"a,{n},{t}\n" for n, t in enumerate(times))))
    assert log.frame["timestamp"].tolist() == seconds

def test_time_format_settles_what_is_ambiguous(file):
    path = file("user,item,timestamp\na,x,03/04/2024\n")
    refused(["column 'timestamp'", "'03/04/2024'", "time_format"], read_log, path)
    assert read_log(path, time_format="%d/%m/%Y").frame["timestamp"][0] == pd.Timestamp("2024-04-03", tz="UTC").timestamp()
    refused(["line 2", "'03/04/2024'", "%Y-%m"], read_log, path, time_format="%Y-%m")

def test_ambiguous_only_where_the_readings_differ(file):
    assert len(read_log(file("user,item,timestamp\na,x,04/04/2024\n")).frame) == 1

def test_min_rating(file):
    path = file("user,item,timestamp,stars\na,x,1,5\na,y,2,2\na,z,3,4\n")
    log = read_log(path, rating="stars", min_rating=4)
    assert log.frame["item"].tolist() == ["x", "z"] and log.frame["rating"].tolist() == [5, 4] and log.frame.index.tolist() == [0, 1]
    assert leave_one_out(read_log(path, rating="stars", min_rating=1.5), core=1).protocol.startswith("ratings of 1.5 or more, ")
    refused(["no rating reaches 6", "5"], read_log, path, rating="stars", min_rating=6)
    refused("min_rating", read_log, path, min_rating=4, kind=ConfigError)
    refused(["line 3", "'many'", "rating"], read_log, file("user,item,timestamp,stars\na,x,1,5\na,y,2,many\n"), rating="stars")

def test_items(file):
    items = file("item\ttitle\tcategory\ttext\nx\tAn X\tred;big;red\t\ny\t\t\tabout y\n", "items.tsv")
    split = leave_one_out(read_log(file(GOOD), items=read_items(items, separator=";")), core=1)
    by_id = split.items.set_index("item")
    assert by_id.loc["x"].tolist() == ["An X", ("red", "big"), ""]
    assert by_id.loc["y"].tolist() == ["y", (), "about y"] and by_id.loc["z"].tolist() == ["z", (), ""]
    assert split.categories == ("big", "red")
    assert split.category_matrix().tolist() == [[1, 1] if i == "x" else [0, 0] for i in split.item_ids]

def test_items_from_a_path_and_from_a_frame_agree(file):
    path = file("item,title,category\nx,An X,red|big\ny,A Y,\n", "items.csv")
    a = read_log(file(GOOD), items=path).items
    b = from_frame(pd.DataFrame({"user": ["a"], "item": ["x"], "timestamp": [1]}), items=pd.DataFrame({"item": ["x", "y"], "title": ["An X", "A Y"], "category": ["red|big", None]})).items
    assert a.values.tolist() == b.values.tolist() == [["x", "An X", ("red", "big"), ""], ["y", "A Y", (), ""]]

# ---- reading what is bad: each message names the place and what to do

def test_missing_column_names_what_is_there_and_what_is_close(file):
    message = refused(["log.csv", "no column 'user'", "'user_id'", "'item'", "Did you mean 'user_id'?", "--user-column"], read_log, file("user_id,item,timestamp\na,x,1\n"))
    assert "''" not in message
    refused(["no column 'genre'", "category='...'"], read_items, file("item,title\nx,X\n"), category="genre")

def test_unparsable_timestamp_names_line_column_and_value(file):
    refused(["log.csv, line 3, column 'timestamp'", "'yesterday'", "2024-05-31"], read_log, file("user,item,timestamp\na,x,1\na,y,yesterday\na,z,3\n"))
    refused(["line 3", "'soon'"], read_log, file("user,item,timestamp\na,x,2024-01-01\na,y,soon\na,z,2024-01-01\n"))
    refused(["line 2", "2 more such lines"], read_log, file("user,item,timestamp\na,x,?\na,y,?\na,z,?\n"))

def test_line_numbers_count_as_an_editor_does(file):
    refused("line 6, column 'timestamp'", read_log, file('user,item,timestamp,note\na,x,1,"one\ntwo\nthree"\na,y,2,ok\na,z,never,ok\n'))
    refused("line 4, column 'user'", read_log, file("user,item,timestamp\na,x,1\na,y,2\n\na,z,3\n")) # a blank line in the middle

@pytest.mark.parametrize("row, column", [(",x,1", "user"), ("a,,1", "item"), ("a,NULL,1", "item"), ("a,x,", "timestamp"), ("a", "item")])
def test_missing_value(file, row, column):
    refused(f"log.csv, line 3, column '{column}'", read_log, file(f"user,item,timestamp\nb,y,1\n{row}\nc,z,1\nd,y,2\n"))

def test_missing_value_in_a_frame_names_the_row():
    frame = pd.DataFrame({"user": ["a", None], "item": ["x", "y"], "timestamp": [1, 2]})
    refused("frame, row 2, column 'user'", from_frame, frame)
    refused("row 1, column 'item'", from_frame, frame.assign(item=[np.nan, 3.0]).fillna({"user": "b"}))
    refused("row 2, column 'timestamp'", from_frame, frame.assign(user="a", timestamp=pd.to_datetime(["2024-01-01", None])))

@pytest.mark.parametrize("text", ["", "user,item,timestamp\n", "user,item,timestamp\n\n\n", "\n"])
def test_empty_file(file, text): refused(["log.csv", "empty"], read_log, file(text))

def test_empty_frame(): refused("no rows", from_frame, pd.DataFrame({"user": [], "item": [], "timestamp": []}))

def test_no_file(tmp_path):
    refused("does not exist", read_log, tmp_path/"nowhere.csv")
    refused("not a file", read_log, tmp_path)

def test_too_many_columns_names_the_line(file): refused(["log.csv", "line 3"], read_log, file("user,item,timestamp\na,x,1\na,y,2,3,4\n"))

def test_damaged_files(tmp_path):
    whole = {"a.csv.gz": gzip.compress(GOOD.encode() * 200), "a.csv.xz": lzma.compress(GOOD.encode() * 200)}
    for name, content in whole.items():
        (tmp_path/name).write_bytes(content[:-20])
        refused([name, "get it again"], read_log, tmp_path/name)
    for name in ("b.csv.gz", "b.csv.xz", "b.csv.zip", "b.parquet"):
        (tmp_path/name).write_bytes(b"this is no such thing")
        refused([name, "get it again"], read_log, tmp_path/name)

def test_not_utf8(file):
    path = file("user,item,timestamp\na,caf\xe9,1\n".encode("latin-1"))
    refused(["log.csv", "utf-8", "encoding='latin-1'"], read_log, path)
    assert read_log(path, encoding="latin-1").frame["item"][0] == "café"

def test_item_tables_that_cannot_be_used(file):
    refused(["line 4", "'x' has a row already"], read_items, file("item,title\nx,X\ny,Y\nx,Other\n"))
    refused(["none of its items", "'x'", "'1'"], read_log, file(GOOD), items=read_items(file("item\n1\n", "items.csv")))

# ---- k-core

def naive_core(pairs, k, users):
    while True:
        u, i = Counter(p[0] for p in pairs), Counter(p[1] for p in pairs)
        kept = [p for p in pairs if u[p[0]] >= users and i[p[1]] >= k]
        if kept == pairs: return kept
        pairs = kept

@relaxed
@given(events, st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_what_peeling_leaves(rows, k, users):
    frame = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    assert k_core(frame, k, users)[["user", "item"]].values.tolist() == [list(p) for p in naive_core([r[:2] for r in rows], k, users)]

def test_k_core_needs_more_than_one_round():
    "One round would leave user b with a single item."
    frame = pd.DataFrame([("a", "x"), ("a", "y"), ("b", "y"), ("b", "z"), ("c", "x"), ("c", "y")], columns=["user", "item"])
    assert set(k_core(frame, 2)["user"]) == {"a", "c"}

# ---- the split

long_logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)), min_size=20, max_size=60) # few users and times: long, tied sequences

@relaxed
@given(st.one_of(events, long_logs), st.integers(1, 3), st.sampled_from(["keep", "first"]), st.integers(0, 3))
def test_split_against_a_plain_oracle(rows, core, repeats, seed):
    log = from_frame(pd.DataFrame(rows, columns=["user", "item", "timestamp"]))
    ordered = sorted(rows, key=lambda r: r[2]) # stable
    if repeats == "first": ordered = [r for n, r in enumerate(ordered) if r[:2] not in {q[:2] for q in ordered[:n]}]
    sequences = {}
    for u, i in naive_core([r[:2] for r in ordered], core, max(core, 3)): sequences.setdefault(str(u), []).append(str(i))
    if not sequences:
        refused("no user is left", leave_one_out, log, core=core, repeats=repeats)
        return
    items = {i for whole in sequences.values() for i in whole}
    if len(items) < 3 or all(set(whole[:-1]) == items for whole in sequences.values()):
        refused("3 or more" if len(items) < 3 else "nothing to recommend", leave_one_out, log, core=core, repeats=repeats)
        return
    split = leave_one_out(log, core=core, seed=seed, repeats=repeats)
    assert set(split.user_ids) == set(sequences) and set(split.item_ids) == {i for s in sequences.values() for i in s}
    for n, user in enumerate(split.user_ids):
        whole = sequences[user]
        assert split.item_ids[split.train[n]].tolist() == whole[:-2]
        assert split.item_ids[split.histories("test")[n]].tolist() == whole[:-1]
        assert [split.item_ids[split.valid[n]], split.item_ids[split.test[n]]] == whole[-2:]
        assert split.user_number(user) == n
    assert split.item_numbers(split.item_ids).tolist() == list(range(split.n_items))
    assert split.n_interactions == sum(map(len, sequences.values())) == split.statistics()["interactions"]
    assert split.counts.tolist() == [sum(whole[:-2].count(i) for whole in sequences.values()) for i in split.item_ids]
    assert split.train_matrix().toarray().tolist() == [[float(i in split.train[n]) for i in range(split.n_items)] for n in range(split.n_users)]

def made_log(seed=0, users=30, items=40, ties=3):
    rng = np.random.default_rng(seed)
    return from_frame(pd.DataFrame({"user": rng.integers(0, users, 600), "item": rng.integers(0, items, 600), "timestamp": rng.integers(0, 600 // ties, 600)}), name="made")

def test_checksum_is_of_the_sequences_and_not_of_the_numbering():
    log = made_log()
    a, b = leave_one_out(log, seed=0), leave_one_out(log, seed=1)
    assert a.sha256 == b.sha256 and a.user_ids.tolist() != b.user_ids.tolist() and a.item_ids.tolist() != b.item_ids.tolist()
    same = leave_one_out(log, seed=0)
    assert same.item_ids.tolist() == a.item_ids.tolist() and same.test.tolist() == a.test.tolist()
    changed = from_frame(log.frame.assign(item=["0" if n == 50 and i != "0" else "1" if n == 50 else i for n, i in enumerate(log.frame["item"])]))
    assert leave_one_out(changed).sha256 != a.sha256
    assert leave_one_out(log, core=1).sha256 == leave_one_out(log, core=2).sha256 # nothing came off, so the same sequences

def test_checksum_does_not_depend_on_the_order_of_users_in_the_file():
    log = made_log(ties=1)
    frame = log.frame.assign(timestamp=np.arange(len(log.frame)))
    assert leave_one_out(from_frame(frame.sample(frac=1, random_state=0))).sha256 == leave_one_out(from_frame(frame)).sha256

def test_checksum_tells_ids_apart_that_look_alike_when_joined():
    a = pd.DataFrame({"user": "u", "item": ["a b", "c", "d"], "timestamp": range(3)})
    assert leave_one_out(from_frame(a), core=1).sha256 != leave_one_out(from_frame(a.assign(item=["a", "b c", "d"])), core=1).sha256

def test_ties_keep_file_order_or_are_shuffled():
    frame = pd.DataFrame({"user": np.repeat([f"u{n}" for n in range(20)], 10), "item": np.tile([f"i{n}" for n in range(10)], 20), "timestamp": np.tile([0] * 5 + [1] * 5, 20)})
    in_file, shuffled = leave_one_out(from_frame(frame)), leave_one_out(from_frame(frame), ties="random")
    assert all(in_file.item_ids[in_file.test] == "i9")
    last = shuffled.item_ids[shuffled.test]
    assert len(set(last)) > 2 and set(last) <= {f"i{n}" for n in range(5, 10)} # shuffled among the tied ones only
    assert shuffled.sha256 == leave_one_out(from_frame(frame), ties="random").sha256 != leave_one_out(from_frame(frame), ties="random", seed=1).sha256
    assert "ties in random order (seed 0)" in shuffled.protocol and "ties by row order" in in_file.protocol

def test_numbers_do_not_follow_first_appearance():
    "The published files number items as they appear, so 'largest so far plus one' finds the target; a random numbering gives nothing away."
    rng = np.random.default_rng(0)
    frame = pd.concat([pd.DataFrame({"user": f"{u:03}", "item": [f"{i:05}" for i in [*rng.choice(60, 6, replace=False), 100 + u]], "timestamp": range(7)}) for u in range(200)])
    appearance = pd.factorize(frame["item"])[0].reshape(200, 7) # users in file order, items numbered as they come
    assert ((appearance[:, :-1].max(1) + 1) == appearance[:, -1]).sum() < 200
    highest = np.maximum.accumulate(appearance.max(1))
    assert (appearance[1:, -1] == np.maximum(highest[:-1], appearance[1:, :-1].max(1)) + 1).all() # the leak: always right
    split = leave_one_out(from_frame(frame), core=1)
    guess = np.array([row.max() + 1 for row in split.histories("test")])
    assert (guess == split.test).mean() < 0.05

def test_a_core_that_leaves_nobody_says_what_it_removed_and_what_would_fit():
    rows = [(u, i, n) for n, (u, i) in enumerate((u, i) for u in "abc" for i in "wxyz")]
    log = from_frame(pd.DataFrame(rows, columns=["user", "item", "timestamp"]), name="small")
    refused(["small: no user is left after the 5-core", "3 users, 4 items and 12 interactions", "at most 4 of one user and 3 of one item", "--core 3"], leave_one_out, log)
    assert leave_one_out(log, core=3).n_users == 3
    refused(["No core", "three interactions"], leave_one_out, from_frame(pd.DataFrame({"user": list("abc"), "item": list("xyz"), "timestamp": [1, 2, 3]})))

def test_users_with_fewer_than_three_interactions_are_left_out_and_the_protocol_says_so():
    frame = pd.DataFrame({"user": list("aaabb"), "item": list("xyzxy"), "timestamp": range(5)})
    split = leave_one_out(from_frame(frame), core=1)
    assert split.user_ids.tolist() == ["a"] and "users with 3 or more" in split.protocol
    assert "3 for users" in leave_one_out(from_frame(pd.concat([frame, frame])), core=2).protocol

def test_repeats():
    frame = pd.DataFrame({"user": "a", "item": list("xyxz"), "timestamp": range(4)})
    keep, first = leave_one_out(from_frame(frame), core=1), leave_one_out(from_frame(frame), core=1, repeats="first")
    assert keep.n_interactions == 4 and keep.item_ids[keep.valid[0]] == "x"
    assert first.n_interactions == 3 and first.item_ids[first.train[0]].tolist() == ["x"]

def test_unknown_rules_are_refused():
    log = made_log()
    refused("keep or first", leave_one_out, log, repeats="drop", kind=ConfigError)
    refused("file or random", leave_one_out, log, ties="id", kind=ConfigError)
    refused("core of 0", leave_one_out, log, core=0, kind=ConfigError)
    split = leave_one_out(log)
    refused("valid or test", split.histories, "train", kind=ConfigError)
    refused("valid or test", split.targets, "dev", kind=ConfigError)

def test_unknown_item_and_user_name_what_is_close():
    items = pd.DataFrame({"item": ["tt01", "tt02", "tt03"], "title": ["Toy Story (1995)", "GoldenEye (1995)", "Heat (1995)"]})
    frame = pd.DataFrame({"user": np.repeat(["ann", "bob"], 3), "item": ["tt01", "tt02", "tt03"] * 2, "timestamp": range(6)})
    split = leave_one_out(from_frame(frame, items, name="films"), core=2)
    refused(["unknown item 'tt1'", "films", "'tt01' (Toy Story (1995))"], split.item_numbers, ["tt02", "tt1"])
    refused("Did you mean 'tt02' (GoldenEye (1995))?", split.item_numbers, ["goldeneye"])
    refused("Did you mean 'tt01'", split.item_numbers, ["Toy Stroy (1995)"])
    refused("Ids look like 'tt0", split.item_numbers, ["?"])
    refused("Did you mean 'ann'?", split.user_number, "anne")
    refused("Ids look like", split.user_number, 99)

def test_nothing_global_is_touched():
    before = np.random.get_state()[1].copy()
    leave_one_out(made_log(), seed=5, ties="random")
    assert (np.random.get_state()[1] == before).all()

def test_tied_share():
    assert tied_share(pd.DataFrame({"user": list("aaab"), "timestamp": [2, 1, 2, 2]})) == 0.5
    assert tied_share(pd.DataFrame({"user": list("ab"), "timestamp": [1, 1]})) == 0.0
