"""Files are whole or absent, and damage is named."""

import os
import stat
from pathlib import Path

import pytest
import torch
from crash_points import count_changes, crash_at

from contrec.foundations.errors import (
    CheckpointError,
    ContrecError,
    DamagedFileError,
)
from contrec.foundations.files import (
    atomic_path,
    load_checkpoint,
    load_tensors,
    read_json,
    save_tensors,
    sha256,
    write_json,
)


def test_write_leaves_nothing_behind_when_it_fails(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        ContrecError, match=r"cannot write .*a\.json: No space left on device"
    ):
        write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "deeper" / "a.txt"
    with pytest.raises(ContrecError, match="cannot write"), atomic_path(path) as p:
        p.write_text("x")


@pytest.mark.parametrize(
    "umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)]
)
def test_files_have_the_mode_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
        save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {mode}


def test_a_library_that_makes_a_private_file_does_not_keep_it_private(tmp_path):
    with atomic_path(tmp_path / "a") as p:
        p.unlink()
        os.close(os.open(p, os.O_CREAT | os.O_WRONLY, 0o600))
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_temporary_names_cannot_be_foreseen_and_no_link_is_followed(
    tmp_path, monkeypatch
):
    names = set()
    for _ in range(2):
        with atomic_path(tmp_path / "a") as p:
            names.add(p.name)
            assert p.parent == tmp_path and p.is_file() and not p.is_symlink()
    assert len(names) == 2 and not any(
        str(os.getpid()) == part for name in names for part in name.split(".")
    )
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(
        "contrec.foundations.files.secrets.token_hex", lambda n: "known"
    )
    (tmp_path / ".known.part").symlink_to(victim)  # someone guessed the name
    with pytest.raises(ContrecError, match="File exists"):
        write_json(tmp_path / "b.json", {})
    assert victim.read_text() == "mine"


def test_a_link_under_the_files_own_name_is_replaced_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a.json").symlink_to(tmp_path / "victim")
    write_json(tmp_path / "a.json", {"x": 1})
    assert (tmp_path / "victim").read_text() == "mine" and read_json(
        tmp_path / "a.json"
    ) == {"x": 1}


def test_content_is_synced_before_the_rename_and_the_folder_after_it(tmp_path):
    trace = count_changes(lambda: write_json(tmp_path / "new" / "a.json", {}))
    names = [name for name, _ in trace]
    assert (
        names.index("mkdir")
        < names.index("os.open")
        < names.index("open")
        < names.index("replace")
    )
    assert (
        names.count("fsync") == 3
        and names[names.index("replace") - 1]
        == names[names.index("replace") + 1]
        == "fsync"
    )


@pytest.mark.parametrize("torn", [False, True])
def test_a_crash_at_any_point_leaves_the_old_file_or_the_new_one(tmp_path, torn):
    path = tmp_path / "a.json"
    for n in range(100):
        write_json(path, {"version": 1, "long": "x" * 1000})
        with crash_at(n, torn) as crash:
            write_json(path, {"version": 2, "long": "y" * 1000})
        assert read_json(path)["version"] in (1, 2)
        if not crash.happened:
            break
    assert 4 <= n < 99 and read_json(path)["version"] == 2


@pytest.mark.parametrize(
    "make, word",
    [
        (Path.mkdir, "a folder"),
        (os.mkfifo, "not a regular file"),
        (lambda p: p.symlink_to(p), "cannot read"),
    ],
)
def test_reading_what_is_not_a_file_is_refused_without_waiting(tmp_path, make, word):
    make(tmp_path / "a.json")
    for read in (read_json, load_tensors, sha256):
        with pytest.raises(CheckpointError, match=word) as caught:
            read(tmp_path / "a.json")
        assert (
            "damaged" not in str(caught.value)
            and len(str(caught.value).splitlines()) == 1
        )


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_is_not_written_over(tmp_path, make):
    make(tmp_path / "a.json")
    with pytest.raises(ContrecError, match="cannot write"):
        write_json(tmp_path / "a.json", {})
    assert not (tmp_path / "a.json").is_file() and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})

    def closed(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", closed)
    for read in (load_tensors, read_json, sha256, load_checkpoint):
        with pytest.raises(
            CheckpointError, match="may not be read: Permission denied"
        ) as caught:
            read(tmp_path / "a.safetensors")
        assert (
            "amaged" not in str(caught.value)
            and "Delete" not in str(caught.value)
            and not isinstance(caught.value, DamagedFileError)
        )


@pytest.mark.parametrize(
    "number, words",
    [(28, "Free some space"), (30, "Read-only file system"), (13, "Permission denied")],
)
def test_a_folder_that_takes_no_file_is_named_in_a_line(
    tmp_path, monkeypatch, number, words
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("contrec.foundations.files.os.open", refuse)
    with pytest.raises(ContrecError, match=words) as caught:
        write_json(tmp_path / "a.json", {})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_impossible_names_are_refused_in_a_line(tmp_path, name):
    for call in (lambda p: write_json(p, {}), read_json, load_tensors, sha256):
        with pytest.raises(ContrecError) as caught:
            call(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content, what",
    [
        ("{", "not valid JSON"),
        (None, "does not exist"),
        ("[" * 100_000, "not valid JSON"),
        ('{"x": NaN}', "not valid JSON"),
    ],
)
def test_bad_json_is_named(tmp_path, content, what):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(CheckpointError, match=what):
        read_json(tmp_path / "a.json")


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))


def test_tensors_round_trip_even_when_they_share_memory(tmp_path):
    t = torch.arange(6.0)
    save_tensors(
        tmp_path / "t.safetensors",
        {"a": t, "b": t[:3], "c": t.view(2, 3).T},
        {"k": [1, None]},
    )
    saved = load_tensors(tmp_path / "t.safetensors")
    assert torch.equal(saved.tensors["c"], t.view(2, 3).T) and saved.metadata == {
        "k": [1, None]
    }


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"hello"])
def test_damaged_tensors_are_named(tmp_path, damage):
    (tmp_path / "t.safetensors").write_bytes(damage)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_tensors(tmp_path / "t.safetensors")


def test_every_flipped_bit_of_saved_tensors_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(
        path, {"a": torch.arange(3.0), "b": torch.tensor([1, 2])}, {"epoch": 3}
    )
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedFileError):
            load_tensors(path)


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert (
        sha256(tmp_path / "f")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
