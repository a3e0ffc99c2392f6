"The five loaders on small files and on the originals, and downloads that go wrong."

import contextlib
import functools
import gzip
import http.server
import io
import lzma
import os
import threading
import time
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest

from contrec.data import datasets as catalog
from contrec.data import fetching
from contrec.data.datasets import DATASETS, fetch, load, load_split, load_users
from contrec.data.fetching import Source, UnreachableError, cache_dir, fetch_wheel
from contrec.data.interactions import tied_share
from contrec.data.split import leave_one_out
from contrec.foundations.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
original = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the original files (../shared/data) are not at hand"
)


def digest(content):
    return sha256(content).hexdigest()


@functools.cache  # The large ones take seconds
def split_of(name):
    return load_split(name, cache=SHARED)


def unpacked(path):
    "Content of an xz file."
    with lzma.open(path) as file:
        return file.read()


def refused(text, function, *args, kind=DataError, **options):
    with pytest.raises(kind) as caught:
        function(*args, **options)
    message = str(caught.value)
    for part in text if isinstance(text, (list, tuple)) else [text]:
        assert part in message
    assert message.count("\n") <= 1
    return message


def zipped(files, folder=""):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items():
            z.writestr(f"{folder}{name}", content)
    return out.getvalue()


def everything(folder):
    return (
        sorted(p for p in folder.rglob("*") if p.is_file()) if folder.exists() else []
    )


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    "No test reaches out: what a test does not provide cannot be had."

    def nothing(url, *args, **options):
        raise UnreachableError(f"{url}: no network in tests")

    monkeypatch.setattr(fetching, "_download", nothing)
    monkeypatch.setattr(fetching, "_pip_download", nothing)
    monkeypatch.setenv("CONTREC_CACHE", str(tmp_path / "cache"))


# ---- the original files


@original
@pytest.mark.parametrize("name", list(DATASETS))
def test_sizes_are_the_published_ones(name):
    split = split_of(name)
    assert (split.n_users, split.n_items, split.n_interactions) == DATASETS[
        name
    ].statistics
    assert (
        split.name == name
        and len(split.items) == split.n_items
        and len(split.sha256) == 64
    )
    assert (
        split.items["item"] == split.item_ids
    ).all() and split.train.lengths.min() >= 1
    assert (split.items["title"] != split.items["item"]).mean() > 0.999
    assert split.items["categories"].map(len).gt(0).mean() > (
        0.9 if name == "lastfm" else 0.98
    )
    assert {type(c) for row in split.items["categories"] for c in row} == {str}


@original
def test_folder_option_reads_the_same():
    assert (
        load_split("ml-100k", folder=SHARED / "ml-100k").sha256
        == split_of("ml-100k").sha256
    )


@original
def test_both_sources_of_ml_100k_give_the_same_split(tmp_path):
    """The wheel's files, rebuilt here from the original ones, must give the same
    sequences and the same item table.
    """
    folder = SHARED / "ml-100k"
    data, rows = (
        unpacked(folder / "u.data.xz"),
        unpacked(folder / "u.item.xz").decode("latin-1").splitlines(),
    )

    def atomic(line):
        cells = line.split("|")
        title, year = (
            cells[1].strip()[:-1].rsplit(" (", 1)
            if cells[1] != "unknown"
            else ("unkonwn", "unkonwn")
        )
        return "\t".join(
            [
                cells[0],
                title,
                year,
                " ".join(
                    g for g, flag in zip(catalog._GENRES, cells[5:]) if flag == "1"
                ),
            ]
        )

    (tmp_path / "ml-100k.inter").write_bytes(
        b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + data
    )
    (tmp_path / "ml-100k.item").write_text(
        "\n".join(
            [
                "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
                *map(atomic, rows),
                "",
            ]
        ),
        encoding="utf-8",
    )
    # so these ARE the wheel's files
    for name, expected in DATASETS["ml-100k"].forms[1][0].files.items():
        assert digest((tmp_path / name).read_bytes()) == expected
    a, b = split_of("ml-100k"), load_split("ml-100k", folder=tmp_path)
    assert a.sha256 == b.sha256 and a.items.values.tolist() == b.items.values.tolist()


def test_ml_100k_of_the_users_cache_is_the_same(monkeypatch):
    monkeypatch.delenv("CONTREC_CACHE")
    if not (cache_dir() / "ml-100k").exists():
        pytest.skip("ml-100k is not in this user's cache")
    assert (
        load_split("ml-100k").sha256
        == "18d2f8d1718bb2414dee5443ceb9f5fd5dd602aa80bf8982d8a2150fcaaf1556"
    )


@original
def test_the_checksum_of_ml_100k_is_the_one_above():
    assert (
        split_of("ml-100k").sha256
        == "18d2f8d1718bb2414dee5443ceb9f5fd5dd602aa80bf8982d8a2150fcaaf1556"
    )


@original
def test_lastfm_five_core_is_s3recs():
    """The iterated 5-core of the same pairs is S3-Rec's cut, sequence for sequence up
    to ties.

    ContRec's is another.
    """
    folder = SHARED / "lastfm-hetrec"
    with (
        zipfile.ZipFile(folder / "hetrec2011-lastfm-2k.zip") as archive,
        archive.open("user_taggedartists-timestamps.dat") as file,
    ):
        events = pd.read_csv(file, sep="\t", dtype=str)
    pairs = events.drop_duplicates(["userID", "artistID"]).rename(
        columns={"userID": "user", "artistID": "item"}
    )
    split = leave_one_out(
        catalog.from_frame(pairs[["user", "item", "timestamp"]]), core=5
    )
    assert (split.n_users, split.n_items, split.n_interactions) == (1090, 3646, 52551)
    artists = dict(
        pd.read_csv(
            SHARED / "lastfm-hetrec" / "s3rec_LastFM_items.tsv.xz",
            sep="\t",
            dtype=str,
            quoting=3,
        )[["id", "artistID"]].values
    )
    users = dict(
        pd.read_csv(
            SHARED / "lastfm-hetrec" / "s3rec_LastFM_users.tsv.xz", sep="\t", dtype=str
        ).values
    )
    theirs = {
        users[u]: [artists[i] for i in row]
        for u, *row in (
            line.split()
            for line in unpacked(folder / "s3rec_LastFM.txt.xz").decode().splitlines()
        )
    }
    ours = {
        split.user_ids[n]: {
            *split.item_ids[split.histories("test")[n]],
            split.item_ids[split.test[n]],
        }
        for n in range(split.n_users)
    }
    assert ours == {u: set(row) for u, row in theirs.items()}


@original
@pytest.mark.parametrize(
    "name, low, high",
    [
        ("ml-100k", 0.50, 0.52),
        ("lastfm", 0.85, 0.87),
        ("movietweetings-100k", 0.0, 0.001),
    ],
)
def test_ties(name, low, high):
    assert low <= tied_share(load(name, cache=SHARED).frame) <= high


@original
def test_beauty_without_words_has_numbers_for_attributes(tmp_path):
    for file in ("Beauty.txt.xz", "Beauty_item2attributes.json.xz"):
        (tmp_path / file).symlink_to(SHARED / "amazon2014-beauty" / file)
    plain, rich = (
        load("amazon-beauty", folder=tmp_path),
        load("amazon-beauty", cache=SHARED),
    )
    assert (
        plain.items["categories"][0][0].startswith("attribute ")
        and plain.items["title"][0] == "item 1"
    )
    assert rich.items["title"][0] == "nail lacquer simmer and shimmer" and rich.items[
        "categories"
    ][0] == ("OPI", "Makeup", "Nails", "Nail Polish")
    assert plain.frame.equals(rich.frame)


# ---- small files of each format

RATINGS = [
    ("9", "30", "5", "1"),
    ("9", "10", "3", "2"),
    ("9", "20", "4", "3"),
    ("8", "20", "4", "5"),
    ("8", "10", "2", "5"),
    ("8", "30", "1", "5"),
]
DOUBLE = "\n".join("::".join(r) for r in RATINGS) + "\n"
FILMS = (
    "10::Café (1995)::Comedy|Drama\n20::Heat (1995)::Action\n30::Odd One (1999)::(no"
    " genres listed)\n"
)
FLAGS = {
    g: "|".join(str(int(n in g)) for n in catalog._GENRES)
    for g in (("Comedy", "Drama"), ("Action",), ("unknown",))
}
FORMATS = {
    "ml-100k": {
        "u.data": "\n".join("\t".join(r) for r in RATINGS) + "\n",
        "u.item": (
            f"10|Café (1995) |a|b|c|{FLAGS['Comedy', 'Drama']}\n20|Heat"
            f" (1995)|a|b|c|{FLAGS[('Action',)]}\n30|Odd One"
            f" (1999)|a|b|c|{FLAGS[('unknown',)]}\n".encode("latin-1")
        ),
    },
    "ml-100k wheel": {
        "ml-100k.inter": (
            "\n".join(["u\ti\tr\tt", *("\t".join(r) for r in RATINGS)]) + "\n"
        ),
        "ml-100k.item": (
            "i\tt\ty\tc\n10\tCafé\t1995\tComedy Drama\n20\tHeat\t1995\tAction\n30\tOdd"
            " One\t1999\tunknown\n"
        ),
    },
    "ml-1m": {"ratings.dat": DOUBLE, "movies.dat": FILMS.encode("latin-1")},
    "ml-1m sequences": {
        "sasrec_order.txt": "9 30 10 20\n8 20 10 30\n",
        "movies.dat": FILMS.encode("latin-1"),
    },
    "movietweetings-100k": {"ratings.dat": DOUBLE, "movies.dat": FILMS},
    "amazon-beauty": {
        "Beauty.txt": "9 30 10 20\n8 20 10 30\n",
        "Beauty_item2attributes.json": '{"10": [4, 5], "20": [4]}',
    },
}


def put(folder, files, pack=bytes, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}{suffix}").write_bytes(
            pack(content if isinstance(content, bytes) else content.encode())
        )
    return folder


@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize(
    "pack, suffix", [(bytes, ""), (lzma.compress, ".xz"), (gzip.compress, ".gz")]
)
def test_small_files_of_each_format(tmp_path, form, pack, suffix):
    name = form.split(" ")[0]
    log = load(name, folder=put(tmp_path, FORMATS[form], pack, suffix))
    split = leave_one_out(log, core=2)
    rows = {
        u: [
            *split.item_ids[split.train[n]],
            split.item_ids[split.valid[n]],
            split.item_ids[split.test[n]],
        ]
        for n, u in enumerate(split.user_ids)
    }
    assert (
        rows == {"9": ["30", "10", "20"], "8": ["20", "10", "30"]}
        and split.name == name
    )
    table = split.items.set_index("item")
    if name == "amazon-beauty":
        assert table["categories"].to_dict() == {
            "10": ("attribute 4", "attribute 5"),
            "20": ("attribute 4",),
            "30": (),
        }
    else:
        assert table["title"].to_dict() == {
            "10": "Café (1995)",
            "20": "Heat (1995)",
            "30": "Odd One (1999)",
        }
        assert table["categories"].to_dict() == {
            "10": ("Comedy", "Drama"),
            "20": ("Action",),
            "30": (),
        }
        assert (
            table["text"]["10"] == "Café (1995): Comedy, Drama"
            and table["text"]["30"] == "Odd One (1999)"
        )
    assert ("rating" in log.frame) == (
        "ratings" in str(FORMATS[form].keys()) or "ml-100k" in form
    )


def lastfm_files(events, unnamed=()):
    artists = sorted({e[1] for e in events})
    return {
        "user_taggedartists-timestamps.dat": (
            "\r\n".join(
                ["userID\tartistID\ttagID\ttimestamp", *("\t".join(e) for e in events)]
            )
            + "\r\n"
        ),
        "artists.dat": (
            "id\tname\turl\tpictureURL\n"
            + "".join(f"{a}\tArtist {a}\tu\tp\n" for a in artists if a not in unnamed)
        ),
        "tags.dat": "tagID\ttagValue\n1\trock\n2\tjazz\n3\tcaf\xe9\n".encode("latin-1"),
    }


def lastfm_events(users="abcdef", artists="pqrstu", tag="1"):
    return [
        (u, a, tag, str(1_200_000_000_000 + 1000 * n))
        for u in users
        for n, a in enumerate(artists)
    ]


def test_lastfm_cut_is_of_one_round(tmp_path):
    """Artist `z` has five taggers, one of whom has too few artists.

    The artist stays with four.
    """
    events = [
        *lastfm_events(),
        *((u, "z", "1", "1300000000000") for u in "abcd"),
        ("g", "z", "1", "1300000000000"),
        *((u, "n", "1", "1300000000000") for u in "abcdef"),
    ]
    log = load("lastfm", folder=put(tmp_path, lastfm_files(events, unnamed="n")))
    counts = log.frame["item"].value_counts()
    assert (
        "n" not in counts
        and counts["z"] == 4
        and set(log.frame["user"]) == set("abcdef")
        and counts["p"] == 6
    )
    assert leave_one_out(log, core=1).n_interactions == 6 * 6 + 4


def test_lastfm_repeated_tags_count_once_at_the_first_row(tmp_path):
    events = [
        ("a", "u", "2", "1100000000000"),
        *lastfm_events(),
        ("a", "p", "3", "1000000000000"),
    ]
    log = load("lastfm", folder=put(tmp_path, lastfm_files(events)))
    assert len(log.frame) == 36
    of_a = log.frame[log.frame["user"] == "a"].set_index("item")["timestamp"]
    assert of_a["u"] == 1.1e9 and of_a["p"] == 1.2e9


def test_lastfm_tags_do_not_tell_the_held_out_events(tmp_path):
    """Every user's last two artists are t and u.

    Whatever is said there must not show in the categories.
    """
    events = [
        *lastfm_events(),
        *((u, "u", "2", "1300000000000") for u in "abcdef"),
        *((u, "p", "3", "1300000000000") for u in "ab"),
        ("a", "q", "2", "1300000000000"),
    ]
    items = (
        load("lastfm", folder=put(tmp_path, lastfm_files(events)))
        .items.set_index("item")["categories"]
        .to_dict()
    )
    assert items["t"] == () and items["u"] == ()
    # one user's tag alone is none
    assert items["p"] == ("rock", "café") and items["q"] == ("rock",)
    extra = [
        *events,
        *(("ghost", a, "2", "1250000000000") for a in "u"),
        *(("spirit", a, "2", "1250000000000") for a in "u"),
    ]
    assert load(
        "lastfm", folder=put(tmp_path / "2", lastfm_files(extra))
    ).items.set_index("item")["categories"]["u"] == ("jazz",)


def test_lastfm_without_users(tmp_path):
    refused(
        "no user is left after ContRec's cut",
        load,
        "lastfm",
        folder=put(tmp_path, lastfm_files(lastfm_events(users="ab"))),
    )


@pytest.mark.parametrize(
    "form, file, content, said",
    [
        ("ml-100k", "u.item", "10|Heat\n", ["u.item, line 1", "2 columns where 24"]),
        ("ml-100k", "u.data", "9\t30\t5\n", ["ml-100k", "timestamp"]),
        ("ml-100k", "u.data", "", ["rows"]),
        ("ml-1m", "ratings.dat", "9::30::five::1\n", ["'five'", "rating"]),
        (
            "movietweetings-100k",
            "movies.dat",
            FILMS.encode("latin-1"),
            ["movies.dat", "utf-8"],
        ),
        ("amazon-beauty", "Beauty.txt", "9\n", ["Beauty.txt, line 1"]),
        (
            "amazon-beauty",
            "Beauty_item2attributes.json",
            "{",
            ["Beauty_item2attributes.json"],
        ),
    ],
)
def test_original_files_that_are_not_as_they_should_be(
    tmp_path, form, file, content, said
):
    refused(said, load, form, folder=put(tmp_path, {**FORMATS[form], file: content}))


# ---- fetching


@pytest.fixture
def served(monkeypatch):
    """A small data set whose sources are played by a dict of URL -> content, with
    ml-100k's two forms.
    """
    archive = {
        k: v if isinstance(v, bytes) else v.encode()
        for k, v in FORMATS["ml-100k"].items()
    }
    wheel = {k: v.encode() for k, v in FORMATS["ml-100k wheel"].items()}
    packed = zipped(archive, "ml-100k/")
    forms = (
        (
            Source(
                "http://official/ml-100k.zip",
                {n: digest(c) for n, c in archive.items()},
                "ml-100k.zip",
                digest(packed),
            ),
        ),
        (
            Source(
                "recbole==1.2.1",
                {n: digest(c) for n, c in wheel.items()},
                wheel="recbole/data",
            ),
        ),
    )
    monkeypatch.setitem(DATASETS, "ml-100k", replace(DATASETS["ml-100k"], forms=forms))
    web = {
        "http://official/ml-100k.zip": packed,
        "recbole==1.2.1": zipped(wheel | {"other.kg": b"large"}, "recbole/data/"),
        "asked": [],
    }

    def download(url, *args):
        web["asked"].append(url)
        if url not in web:
            raise UnreachableError(f"{url}: timed out")
        return web[url]

    def pip(requirement, folder):
        content = download(requirement)
        path = Path(folder) / "recbole-1.2.1-py3-none-any.whl"
        path.write_bytes(content)
        return path

    monkeypatch.setattr(fetching, "_download", download)
    monkeypatch.setattr(fetching, "_pip_download", pip)
    return web


def test_official_archive_first_and_only_once(served):
    folder = fetch("ml-100k")
    assert [p.name for p in everything(cache_dir())] == [
        "ml-100k.zip"
    ] and folder == cache_dir() / "ml-100k"
    fetch("ml-100k")
    load("ml-100k")
    assert served["asked"] == ["http://official/ml-100k.zip"]


def test_wheel_where_the_official_host_cannot_be_reached(served):
    official = leave_one_out(load("ml-100k", cache=cache_dir() / "a"), core=2)
    del served["http://official/ml-100k.zip"]
    other = leave_one_out(load("ml-100k", cache=cache_dir() / "b"), core=2)
    # not the rest of the wheel, and no wheel
    assert [p.name for p in everything(cache_dir() / "b")] == [
        "ml-100k.inter",
        "ml-100k.item",
    ]
    assert (
        other.sha256 == official.sha256
        and other.items.values.tolist() == official.items.values.tolist()
    )
    load("ml-100k", cache=cache_dir() / "b")
    assert served["asked"].count("recbole==1.2.1") == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[:-40],
        lambda c: c[:100],
        lambda c: c.replace(b"P", b"Q", 1),
        lambda c: b"<html>sign in</html>",
        lambda c: b"",
    ],
)
@pytest.mark.parametrize("source", ["http://official/ml-100k.zip", "recbole==1.2.1"])
def test_a_truncated_or_altered_download_is_refused_and_leaves_nothing(
    served, source, damage
):
    if source == "recbole==1.2.1":
        del served["http://official/ml-100k.zip"]
    served[source] = damage(served[source])
    refused(
        [source.split("/")[-1] if "/" in source else source, "othing was kept"],
        load,
        "ml-100k",
    )
    assert everything(cache_dir()) == []
    # an altered archive does not fall through to the next source
    assert served["asked"][-1] == source


def test_a_wheel_with_other_files_is_refused(served):
    del served["http://official/ml-100k.zip"]
    good = {k: v.encode() for k, v in FORMATS["ml-100k wheel"].items()}
    served["recbole==1.2.1"] = zipped(
        {**good, "ml-100k.inter": good["ml-100k.inter"].replace(b"5", b"4")},
        "recbole/data/",
    )
    refused(
        ["ml-100k.inter", "truncated or altered", "Nothing was kept"], fetch, "ml-100k"
    )
    served["recbole==1.2.1"] = zipped(
        {"ml-100k.inter": good["ml-100k.inter"]}, "recbole/data/"
    )
    refused(["recbole==1.2.1", "does not hold", "ml-100k.item"], fetch, "ml-100k")
    assert everything(cache_dir()) == []


def test_nothing_to_be_reached_says_what_to_download_and_where_to_put_it(
    served, tmp_path
):
    archive = served.pop("http://official/ml-100k.zip")
    served.pop("recbole==1.2.1")
    message = refused(
        [
            "ml-100k: no source can be reached",
            "timed out",
            "http://official/ml-100k.zip",
            str(cache_dir() / "ml-100k"),
            "checked",
        ],
        load,
        "ml-100k",
    )
    assert "recbole==1.2.1: timed out" in message
    put(cache_dir() / "ml-100k", {"ml-100k.zip": archive})  # done as told
    assert len(load("ml-100k").frame) == 6
    put(cache_dir() / "ml-100k", {"ml-100k.zip": archive[:-1]})
    refused(["ml-100k.zip", "truncated or altered"], load, "ml-100k")


@pytest.mark.parametrize(
    "name", ["ml-1m", "lastfm", "movietweetings-100k", "amazon-beauty"]
)
def test_every_other_set_says_where_it_can_be_had(name):
    message = refused(
        [
            "no source can be reached",
            "by hand",
            str(cache_dir() / DATASETS[name].folder),
        ],
        load,
        name,
    )
    assert (
        all(s.location in message for s in DATASETS[name].forms[-1])
        and everything(cache_dir()) == []
    )


def test_altered_in_the_cache_is_noticed(served):
    fetch("ml-100k")
    path = cache_dir() / "ml-100k" / "ml-100k.zip"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused([str(path), "truncated or altered", "Delete it"], load, "ml-100k")
    path.unlink()
    put(
        cache_dir() / "ml-100k",
        {"u.data": FORMATS["ml-100k"]["u.data"].replace("5", "4")},
    )
    refused(["u.data", "truncated or altered"], load, "ml-100k")


def test_damaged_compression_in_the_cache(tmp_path):
    put(tmp_path, {"u.data.xz": b"no xz at all", "u.item": b""})
    refused(["u.data.xz", "cannot be read"], load, "ml-100k", folder=tmp_path)


def test_missing_files_are_named(tmp_path):
    refused(
        [
            "ml-100k",
            str(tmp_path),
            "u.data and u.item or ml-100k.inter and ml-100k.item",
        ],
        load,
        "ml-100k",
        folder=tmp_path,
    )


def test_a_loose_file_without_a_known_checksum_is_not_trusted(tmp_path):
    """Only ml-1m.zip as a whole has a known checksum, so a loose ratings.dat in the
    cache does not count.
    """
    put(cache_dir() / "ml-1m", FORMATS["ml-1m"])
    refused(["movies.dat", "truncated or altered"], load, "ml-1m")
    (cache_dir() / "ml-1m" / "movies.dat").unlink()
    refused("no source can be reached", load, "ml-1m")


def blocked(folder, how):
    if how == "a file in the way":
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text("")
    else:
        folder.mkdir(parents=True)
        folder.chmod(0o500)
    return folder


@pytest.mark.parametrize("how", ["a file in the way", "read-only"])
def test_a_cache_that_cannot_be_written(served, tmp_path, how):
    if how == "read-only" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = blocked(tmp_path / "locked", how)
    refused(
        ["cannot write to the cache", "CONTREC_CACHE"], fetch, "ml-100k", cache=folder
    )
    assert served["asked"] == []  # found out before anything was downloaded


def test_a_disk_that_is_full(served, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    fetch("ml-100k", cache=cache_dir() / "fine")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        refused(["No space left on device", "CONTREC_CACHE"], fetch, "ml-100k")
    assert everything(cache_dir() / "ml-100k") == []


def test_a_reachable_source_is_not_asked_for_what_is_there(served):
    put(cache_dir() / "ml-100k", FORMATS["ml-100k"], lzma.compress, ".xz")
    assert len(load("ml-100k").frame) == 6 and served["asked"] == []


def test_unknown_name():
    refused(
        [
            "unknown dataset 'ml100k'",
            "Did you mean 'ml-100k'?",
            "amazon-beauty",
            "--data",
        ],
        load,
        "ml100k",
    )
    refused("Did you mean 'ml-100k'?", load, "MovieLens-100K")
    refused("unknown dataset 'zzz'. There are", fetch, "zzz")


# ---- wheels


def wheel_of(monkeypatch, files):
    calls = []

    def pip(requirement, folder):
        calls.append(requirement)
        path = Path(folder) / "x.whl"
        path.write_bytes(zipped(files))
        return path

    monkeypatch.setattr(fetching, "_pip_download", pip)
    return calls


def test_fetch_wheel_one_file(monkeypatch, tmp_path):
    calls = wheel_of(
        monkeypatch, {"pkg/a/model.gguf": b"weights", "pkg/b.txt": b"text"}
    )
    for member in ("pkg/a/model.gguf", "*/model.gguf", "pkg/a/*.gguf"):
        assert (
            fetch_wheel("pkg==1", member, digest(b"weights"), tmp_path)
            == tmp_path / "model.gguf"
        )
    assert calls == ["pkg==1"] and everything(tmp_path) == [tmp_path / "model.gguf"]
    (tmp_path / "model.gguf").write_bytes(b"weight")  # damaged later: fetched again
    assert (
        fetch_wheel(
            "pkg==1", "pkg/a/model.gguf", digest(b"weights"), tmp_path
        ).read_bytes()
        == b"weights"
        and len(calls) == 2
    )


def test_fetch_wheel_several_files_keep_their_folders(monkeypatch, tmp_path):
    files = {
        "pkg/m/config.json": b"{}",
        "pkg/m/1_Pooling/config.json": b"[]",
        "pkg/m/other": b"no",
    }
    calls = wheel_of(monkeypatch, files)
    wanted = {"config.json": digest(b"{}"), "1_Pooling/config.json": digest(b"[]")}
    for _ in range(2):
        assert fetch_wheel("pkg==1", "pkg/m", wanted, tmp_path) == tmp_path
    assert (
        (tmp_path / "1_Pooling" / "config.json").read_bytes() == b"[]"
        and len(everything(tmp_path)) == 2
        and len(calls) == 1
    )


def test_fetch_wheel_faults(monkeypatch, tmp_path):
    wheel_of(monkeypatch, {"pkg/a.bin": b"a", "pkg/b.bin": b"b"})
    refused(
        ["does not hold pkg/c.bin"],
        fetch_wheel,
        "pkg==1",
        "pkg/c.bin",
        digest(b"a"),
        tmp_path,
    )
    refused(
        ["pkg/*.bin", "not once"],
        fetch_wheel,
        "pkg==1",
        "pkg/*.bin",
        digest(b"a"),
        tmp_path,
    )
    refused(
        ["a.bin", "truncated or altered"],
        fetch_wheel,
        "pkg==1",
        "pkg/a.bin",
        digest(b"b"),
        tmp_path,
    )
    refused(
        ["b.bin", "truncated or altered"],
        fetch_wheel,
        "pkg==1",
        "pkg",
        {"a.bin": digest(b"a"), "b.bin": digest(b"a")},
        tmp_path,
    )
    assert everything(tmp_path) == []


def test_pip_says_why(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(
        fetching.subprocess,
        "run",
        lambda *a, **k: type(
            "Done",
            (),
            {
                "returncode": 1,
                "stderr": (
                    "WARNING: x\nERROR: Could not find a version\nERROR: No matching"
                    " distribution found for pkg==1\n"
                ),
            },
        ),
    )
    refused(
        "pip download pkg==1: No matching distribution found for pkg==1",
        fetching._pip_download,
        "pkg==1",
        tmp_path,
        kind=UnreachableError,
    )
    monkeypatch.setattr(
        fetching.subprocess,
        "run",
        lambda *a, **k: type(
            "Done",
            (),
            {"returncode": 1, "stderr": "/usr/bin/python: No module named pip\n"},
        ),
    )
    refused(
        "No module named pip",
        fetching._pip_download,
        "pkg==1",
        tmp_path,
        kind=UnreachableError,
    )


def test_pip_is_this_pythons_and_installs_nothing(monkeypatch, tmp_path):
    monkeypatch.undo()
    seen = {}

    def run(command, **options):
        seen["command"] = command
        (tmp_path / "pkg.whl").write_bytes(b"")
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(fetching.subprocess, "run", run)
    assert fetching._pip_download("pkg==1", tmp_path) == tmp_path / "pkg.whl"
    command = seen["command"]
    assert (
        command[:4] == [fetching.sys.executable, "-m", "pip", "download"]
        and "--no-deps" in command
        and "install" not in command
    )
    # whatever index the user's pip is set to
    assert not any("index" in c for c in command)


# ---- the network itself, played by a server on this machine


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/slow":
                time.sleep(3)
            self.send_response(404 if self.path == "/gone" else 200)
            self.send_header("Content-Length", "1000" if self.path == "/short" else "5")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b"12345")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_download(server, monkeypatch):
    monkeypatch.undo()
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    assert fetching._download(f"{server}/file") == b"12345"
    refused("broke off after 5 bytes", fetching._download, f"{server}/short")
    refused(
        ["/gone", "Not Found"],
        fetching._download,
        f"{server}/gone",
        kind=UnreachableError,
    )
    start = time.monotonic()
    refused(
        ["/slow", "timed out"],
        fetching._download,
        f"{server}/slow",
        0.3,
        kind=UnreachableError,
    )
    assert time.monotonic() - start < 2.5
    refused(
        "refused", fetching._download, "http://127.0.0.1:9/x", kind=UnreachableError
    )


def test_cache_dir(monkeypatch, tmp_path):
    assert (
        cache_dir(tmp_path / "mine") == tmp_path / "mine"
        and cache_dir() == tmp_path / "cache"
    )
    monkeypatch.delenv("CONTREC_CACHE")
    assert cache_dir().name == "contrec"


# ---- users


@original
def test_users_of_movielens_are_the_users_of_the_split():
    people, split = load_users("ml-100k", cache=SHARED), split_of("ml-100k")
    assert (
        set(split.user_ids) == set(people["user"])
        and people["age"].between(7, 73).all()
        and set(people["gender"]) == {"F", "M"}
    )
    assert people.set_index("user").loc["1"].tolist() == [24, "M", "technician"]


def test_both_forms_of_the_user_table_read_alike():
    archive, wheel = (
        {"u.user": b"1|24|M|technician|85711\n2|53|F|other|94043\n"},
        {
            "ml-100k.user": (
                b"user_id:token\tage:token\tgender:token\toccupation:token\tzip\n1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043"
            )
        },
    )
    pd.testing.assert_frame_equal(
        catalog._read_people(archive), catalog._read_people(wheel)
    )


def test_users_that_are_not_told_or_not_to_be_had(tmp_path):
    refused(["lastfm tells nothing", "ml-100k"], load_users, "lastfm")
    refused("Did you mean 'ml-100k'", load_users, "ml-100")
    refused("no source can be reached", load_users, "ml-100k")
    folder = tmp_path / "cache" / "ml-100k"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "u.user").write_bytes(b"1|24|M|technician|85711\n")
    refused(["u.user", "truncated or altered"], load_users, "ml-100k")
