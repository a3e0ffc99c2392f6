"Rows of different length, the k-core and the split, against slow, plain oracles."

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.data.interactions import Ragged, tied_share
from contrec.data.reading import from_frame
from contrec.data.split import k_core, leave_one_out
from contrec.foundations.errors import ConfigError, DataError

lists = st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=8)
relaxed = settings(deadline=None, max_examples=60)  # a slow machine is no failure
events = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 4)),
    min_size=1,
    max_size=80,
)


def refused(text, function, *args, kind=DataError, **options):
    "The message, which must contain every line of `text` and have at most two lines."
    with pytest.raises(kind) as caught:
        function(*args, **options)
    message = str(caught.value)
    for part in text if isinstance(text, (list, tuple)) else [text]:
        assert part in message
    assert message.count("\n") <= 1
    return message


# ---- Ragged


@relaxed
@given(lists)
def test_ragged_is_a_list_of_lists(rows):
    r = Ragged.from_lists(rows)

    def plain(ragged):
        return [list(row) for row in ragged]

    assert plain(r) == rows and len(r) == len(rows)
    assert r.lengths.tolist() == [len(x) for x in rows]
    assert r.row_index.tolist() == [i for i, x in enumerate(rows) for _ in x]
    assert plain(r.last(2)) == [x[-2:] for x in rows]
    assert plain(r.last(0)) == [[] for _ in rows]
    assert plain(r.drop_last()) == [x[:-1] for x in rows]
    assert plain(r.append(np.arange(len(rows)))) == [
        x + [i] for i, x in enumerate(rows)
    ]
    assert plain(r.take(np.arange(len(rows))[::-1])) == rows[::-1]
    assert plain(r.take(np.array([len(x) > 1 for x in rows], dtype=bool))) == [
        x for x in rows if len(x) > 1
    ]


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
    assert (
        r[-1].tolist() == [3]
        and r.take([]).pad().shape == (0, 0)
        and len(Ragged.from_lists([])) == 0
    )
    with pytest.raises(IndexError):
        r[3]
    with pytest.raises(ConfigError):
        r.pad(side="middle")
    assert r.to_csr(4).toarray().tolist() == [[0, 1, 1, 0], [0] * 4, [0, 0, 0, 1]]
    assert Ragged.from_lists([[1, 1]]).to_csr(2, [2, 3]).toarray().tolist() == [[0, 5]]
    assert r.to_csr(4).dtype == np.float32 and r.values.dtype == np.int64


def test_to_csr_leaves_the_rows_alone():
    r = Ragged.from_lists([[3, 1, 3]])
    r.to_csr(4)
    assert r[0].tolist() == [3, 1, 3]


# ---- k-core


def naive_core(pairs, k, users):
    while True:
        u, i = Counter(p[0] for p in pairs), Counter(p[1] for p in pairs)
        kept = [p for p in pairs if u[p[0]] >= users and i[p[1]] >= k]
        if kept == pairs:
            return kept
        pairs = kept


@relaxed
@given(events, st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_what_peeling_leaves(rows, k, users):
    frame = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    assert k_core(frame, k, users)[["user", "item"]].values.tolist() == [
        list(p) for p in naive_core([r[:2] for r in rows], k, users)
    ]


def test_k_core_needs_more_than_one_round():
    "One round would leave user b with a single item."
    frame = pd.DataFrame(
        [("a", "x"), ("a", "y"), ("b", "y"), ("b", "z"), ("c", "x"), ("c", "y")],
        columns=["user", "item"],
    )
    assert set(k_core(frame, 2)["user"]) == {"a", "c"}


# ---- the split

# few users and times: long, tied sequences
long_logs = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)),
    min_size=20,
    max_size=60,
)


@relaxed
@given(
    st.one_of(events, long_logs),
    st.integers(1, 3),
    st.sampled_from(["keep", "first"]),
    st.integers(0, 3),
)
def test_split_against_a_plain_oracle(rows, core, repeats, seed):
    # the same row may be there twice
    log = from_frame(
        pd.DataFrame(rows, columns=["user", "item", "timestamp"]), strict=True
    )
    ordered = sorted(rows, key=lambda r: r[2])  # stable
    if repeats == "first":
        ordered = [
            r
            for n, r in enumerate(ordered)
            if r[:2] not in {q[:2] for q in ordered[:n]}
        ]
    sequences = {}
    for u, i in naive_core([r[:2] for r in ordered], core, max(core, 3)):
        sequences.setdefault(str(u), []).append(str(i))
    if not sequences:
        refused("no user is left", leave_one_out, log, core=core, repeats=repeats)
        return
    items = {i for whole in sequences.values() for i in whole}
    if len(items) < 3 or all(set(whole[:-1]) == items for whole in sequences.values()):
        refused(
            "3 or more" if len(items) < 3 else "nothing to recommend",
            leave_one_out,
            log,
            core=core,
            repeats=repeats,
        )
        return
    split = leave_one_out(log, core=core, seed=seed, repeats=repeats)
    assert set(split.user_ids) == set(sequences) and set(split.item_ids) == {
        i for s in sequences.values() for i in s
    }
    for n, user in enumerate(split.user_ids):
        whole = sequences[user]
        assert split.item_ids[split.train[n]].tolist() == whole[:-2]
        assert split.item_ids[split.histories("test")[n]].tolist() == whole[:-1]
        assert [split.item_ids[split.valid[n]], split.item_ids[split.test[n]]] == whole[
            -2:
        ]
        assert split.user_number(user) == n
    assert split.item_numbers(split.item_ids).tolist() == list(range(split.n_items))
    assert (
        split.n_interactions
        == sum(map(len, sequences.values()))
        == split.statistics()["interactions"]
    )
    assert split.counts.tolist() == [
        sum(whole[:-2].count(i) for whole in sequences.values()) for i in split.item_ids
    ]
    assert split.train_matrix().toarray().tolist() == [
        [float(i in split.train[n]) for i in range(split.n_items)]
        for n in range(split.n_users)
    ]


def made_log(seed=0, users=30, items=40, ties=3):
    rng = np.random.default_rng(seed)
    return from_frame(
        pd.DataFrame(
            {
                "user": rng.integers(0, users, 600),
                "item": rng.integers(0, items, 600),
                "timestamp": rng.integers(0, 600 // ties, 600),
            }
        ),
        name="made",
    )


def test_checksum_is_of_the_sequences_and_not_of_the_numbering():
    log = made_log()
    a, b = leave_one_out(log, seed=0), leave_one_out(log, seed=1)
    assert (
        a.sha256 == b.sha256
        and a.user_ids.tolist() != b.user_ids.tolist()
        and a.item_ids.tolist() != b.item_ids.tolist()
    )
    same = leave_one_out(log, seed=0)
    assert (
        same.item_ids.tolist() == a.item_ids.tolist()
        and same.test.tolist() == a.test.tolist()
    )
    changed = from_frame(
        log.frame.assign(
            item=[
                "0" if n == 50 and i != "0" else "1" if n == 50 else i
                for n, i in enumerate(log.frame["item"])
            ]
        )
    )
    assert leave_one_out(changed).sha256 != a.sha256
    # nothing came off, so the same sequences
    assert leave_one_out(log, core=1).sha256 == leave_one_out(log, core=2).sha256


def test_checksum_does_not_depend_on_the_order_of_users_in_the_file():
    log = made_log(ties=1)
    frame = log.frame.assign(timestamp=np.arange(len(log.frame)))
    assert (
        leave_one_out(from_frame(frame.sample(frac=1, random_state=0))).sha256
        == leave_one_out(from_frame(frame)).sha256
    )


def test_checksum_tells_ids_apart_that_look_alike_when_joined():
    a = pd.DataFrame({"user": "u", "item": ["a b", "c", "d"], "timestamp": range(3)})
    assert (
        leave_one_out(from_frame(a), core=1).sha256
        != leave_one_out(from_frame(a.assign(item=["a", "b c", "d"])), core=1).sha256
    )


def test_ties_keep_file_order_or_are_shuffled():
    frame = pd.DataFrame(
        {
            "user": np.repeat([f"u{n}" for n in range(20)], 10),
            "item": np.tile([f"i{n}" for n in range(10)], 20),
            "timestamp": np.tile([0] * 5 + [1] * 5, 20),
        }
    )
    in_file, shuffled = (
        leave_one_out(from_frame(frame)),
        leave_one_out(from_frame(frame), ties="random"),
    )
    assert all(in_file.item_ids[in_file.test] == "i9")
    last = shuffled.item_ids[shuffled.test]
    # shuffled among the tied ones only
    assert len(set(last)) > 2 and set(last) <= {f"i{n}" for n in range(5, 10)}
    assert (
        shuffled.sha256
        == leave_one_out(from_frame(frame), ties="random").sha256
        != leave_one_out(from_frame(frame), ties="random", seed=1).sha256
    )
    assert (
        "ties in random order (seed 0)" in shuffled.protocol
        and "ties by row order" in in_file.protocol
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_random_ties_do_not_depend_on_the_order_of_rows(seed):
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, 20, 400),
            "item": rng.integers(0, 15, 400),
            "timestamp": rng.integers(0, 3, 400),
        }
    )
    splits = [
        leave_one_out(from_frame(f), core=2, seed=seed, ties="random")
        for f in (
            frame,
            frame.sort_values(["user", "item"]),
            frame.sample(frac=1, random_state=1),
        )
    ]
    assert (
        len({s.sha256 for s in splits}) == 1
        and len({tuple(s.test) for s in splits}) == 1
    )
    by_row = [
        leave_one_out(from_frame(f), core=2, seed=seed, ties="rows")
        for f in (frame, frame.sort_values(["user", "item"]))
    ]
    assert (
        by_row[0].sha256 != by_row[1].sha256
        and "ties in random order" in by_row[0].protocol
    )


def test_numbers_do_not_follow_first_appearance():
    """The published files number items as they appear, so 'largest so far plus one'
    finds the target.

    A random numbering gives nothing away.
    """
    rng = np.random.default_rng(0)
    frame = pd.concat(
        [
            pd.DataFrame(
                {
                    "user": f"{u:03}",
                    "item": [
                        f"{i:05}" for i in [*rng.choice(60, 6, replace=False), 100 + u]
                    ],
                    "timestamp": range(7),
                }
            )
            for u in range(200)
        ]
    )
    # users in file order, items numbered as they come
    appearance = pd.factorize(frame["item"])[0].reshape(200, 7)
    assert ((appearance[:, :-1].max(1) + 1) == appearance[:, -1]).sum() < 200
    highest = np.maximum.accumulate(appearance.max(1))
    # the leak: always right
    assert (
        appearance[1:, -1] == np.maximum(highest[:-1], appearance[1:, :-1].max(1)) + 1
    ).all()
    split = leave_one_out(from_frame(frame), core=1)
    guess = np.array([row.max() + 1 for row in split.histories("test")])
    assert (guess == split.test).mean() < 0.05


def test_a_core_that_leaves_nobody_says_what_it_removed_and_what_would_fit():
    rows = [(u, i, n) for n, (u, i) in enumerate((u, i) for u in "abc" for i in "wxyz")]
    log = from_frame(
        pd.DataFrame(rows, columns=["user", "item", "timestamp"]), name="small"
    )
    refused(
        [
            "small: no user is left after the 5-core",
            "3 users, 4 items and 12 interactions",
            "at most 4 of one user and 3 of one item",
            "--core 3",
        ],
        leave_one_out,
        log,
    )
    assert leave_one_out(log, core=3).n_users == 3
    refused(
        ["No core", "three interactions"],
        leave_one_out,
        from_frame(
            pd.DataFrame(
                {"user": list("abc"), "item": list("xyz"), "timestamp": [1, 2, 3]}
            )
        ),
    )


def test_users_with_fewer_than_three_interactions_are_left_out():
    frame = pd.DataFrame(
        {"user": list("aaabb"), "item": list("xyzxy"), "timestamp": range(5)}
    )
    split = leave_one_out(from_frame(frame), core=1)
    assert split.user_ids.tolist() == ["a"] and "users with 3 or more" in split.protocol
    assert (
        "3 for users"
        in leave_one_out(
            from_frame(pd.concat([frame, frame]), strict=True), core=2
        ).protocol
    )


def test_repeats():
    frame = pd.DataFrame({"user": "a", "item": list("xyxz"), "timestamp": range(4)})
    keep, first = (
        leave_one_out(from_frame(frame), core=1),
        leave_one_out(from_frame(frame), core=1, repeats="first"),
    )
    assert keep.n_interactions == 4 and keep.item_ids[keep.valid[0]] == "x"
    assert first.n_interactions == 3 and first.item_ids[first.train[0]].tolist() == [
        "x"
    ]


def test_unknown_rules_are_refused():
    log = made_log()
    refused("keep or first", leave_one_out, log, repeats="drop", kind=ConfigError)
    refused("file or random", leave_one_out, log, ties="id", kind=ConfigError)
    refused("core of 0", leave_one_out, log, core=0, kind=ConfigError)
    split = leave_one_out(log)
    refused("valid or test", split.histories, "train", kind=ConfigError)
    refused("valid or test", split.targets, "dev", kind=ConfigError)


def test_unknown_item_and_user_name_what_is_close():
    items = pd.DataFrame(
        {
            "item": ["tt01", "tt02", "tt03"],
            "title": ["Toy Story (1995)", "GoldenEye (1995)", "Heat (1995)"],
        }
    )
    frame = pd.DataFrame(
        {
            "user": np.repeat(["ann", "bob"], 3),
            "item": ["tt01", "tt02", "tt03"] * 2,
            "timestamp": range(6),
        }
    )
    split = leave_one_out(from_frame(frame, items, name="films"), core=2)
    refused(
        ["unknown item 'tt1'", "films", "'tt01' (Toy Story (1995))"],
        split.item_numbers,
        ["tt02", "tt1"],
    )
    refused(
        "Did you mean 'tt02' (GoldenEye (1995))?", split.item_numbers, ["goldeneye"]
    )
    refused("Did you mean 'tt01'", split.item_numbers, ["Toy Stroy (1995)"])
    refused("Ids look like 'tt0", split.item_numbers, ["?"])
    refused("Did you mean 'ann'?", split.user_number, "anne")
    refused("Ids look like", split.user_number, 99)


def test_nothing_global_is_touched():
    before = np.random.get_state()[1].copy()
    leave_one_out(made_log(), seed=5, ties="random")
    assert (np.random.get_state()[1] == before).all()


def test_tied_share():
    assert (
        tied_share(pd.DataFrame({"user": list("aaab"), "timestamp": [2, 1, 2, 2]}))
        == 0.5
    )
    assert tied_share(pd.DataFrame({"user": list("ab"), "timestamp": [1, 1]})) == 0.0
