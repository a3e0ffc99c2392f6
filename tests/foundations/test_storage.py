"""Folders are whole or absent, locks do not survive their process, and manifests notice
every change.
"""

import json
import multiprocessing
import os
import stat
import time

import pytest
from crash_points import count_changes, crash_at, left_behind

from contrec.foundations.errors import (
    CheckpointError,
    ConfigError,
    ContrecError,
    DamagedFileError,
)
from contrec.foundations.storage import (
    MANIFEST,
    atomic_folder,
    check_files,
    is_temporary,
    locked,
    read_manifest,
    settle,
    sweep,
    write_manifest,
)

NAMES = ("a.txt", "text", MANIFEST)


def write(folder, version):
    with atomic_folder(folder, NAMES) as fresh:
        (fresh / "a.txt").write_text(version * 1000)
        (fresh / "text").mkdir()
        (fresh / "text" / "b.txt").write_text(version)
        write_manifest(fresh / MANIFEST, "model", version=version)


def read(folder):
    manifest = read_manifest(folder / MANIFEST, "model")
    check_files(folder / MANIFEST, manifest, closed=["text"], names=["a.txt"])
    return manifest.facts["version"]


@pytest.mark.parametrize("torn", [False, True])
def test_a_new_folder_killed_at_any_point_is_whole_or_absent(tmp_path, torn):
    for n in range(200):
        folder = tmp_path / str(n) / "model"
        with crash_at(n, torn) as crash:
            write(folder, "1")
        assert not folder.exists() or read(folder) == "1"
        write(folder, "2")
        assert read(folder) == "2" and not left_behind(folder.parent)
        if not crash.happened:
            break
    assert 15 < n < 199


@pytest.mark.parametrize("torn", [False, True])
def test_a_replaced_folder_killed_at_any_point_is_the_old_one_or_the_new_one(
    tmp_path, torn
):
    seen = set()
    for n in range(200):
        folder = tmp_path / str(n) / "model"
        write(folder, "1")
        with crash_at(n, torn) as crash:
            write(folder, "2")
        settle(folder)
        seen.add(read(folder))
        write(folder, "3")
        assert read(folder) == "3" and not left_behind(folder.parent)
        if not crash.happened:
            break
    assert seen == {"1", "2"} and 15 < n < 199


def test_every_file_is_synced_before_the_folder_gets_its_name(tmp_path):
    trace = [name for name, _ in count_changes(lambda: write(tmp_path / "model", "1"))]
    last = len(trace) - trace[::-1].index("rename") - 1
    assert (
        trace[last - 1] == trace[last + 1] == "fsync"
        and trace[:last].count("fsync") >= 5
    )


def test_files_of_others_are_never_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="thesis.tex"):
        write(tmp_path / "model", "1")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ContrecError):
        write(tmp_path / "file", "1")
    assert (
        (tmp_path / "model" / "thesis.tex").read_text()
        == (tmp_path / "file").read_text()
        == "mine"
    )


def test_a_folder_gets_the_mode_of_the_umask(tmp_path):
    with atomic_folder(tmp_path / "model", NAMES) as fresh:
        os.close(os.open(fresh / "a.txt", os.O_CREAT | os.O_WRONLY, 0o600))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a").touch()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert stat.S_IMODE((tmp_path / "model" / "a.txt").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain" / "a").stat().st_mode
    )


def test_sweeping_takes_only_what_the_kit_left_and_follows_no_link(tmp_path):
    token = "0123456789abcdef"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / f".{token}.part").touch()
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(tmp_path / "outside")
    (run / f".{token}.part").symlink_to(tmp_path / "outside" / f".{token}.part")
    (run / f".model.{token}.part").mkdir()
    (run / f".model.{token}.part" / "x").touch()
    for name in (".hidden", "x.part", ".git.part", f"{token}.part"):
        (run / name).touch()
    sweep(run)
    assert sorted(p.name for p in run.iterdir()) == sorted(
        [".hidden", "x.part", ".git.part", f"{token}.part", "link"]
    )
    assert (tmp_path / "outside" / f".{token}.part").exists() and not is_temporary(
        ".hidden"
    )


def hold(path, held):
    with locked(path, "busy"):
        held.set()
        time.sleep(60)


def test_a_lock_refuses_a_second_process_and_does_not_outlive_the_first(tmp_path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=hold, args=(tmp_path / ".lock", held))
    other.start()
    assert held.wait(120)
    with (
        pytest.raises(ConfigError, match="^it is busy$"),
        locked(tmp_path / ".lock", "it is busy"),
    ):
        pass
    other.kill()
    other.join()
    assert (tmp_path / ".lock").exists()  # left by the dead process, and no hindrance
    with locked(tmp_path / ".lock", "it is busy"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(ContrecError, match="cannot write"),
        locked(tmp_path / ".lock", "busy"),
    ):
        pass
    assert not (tmp_path / "victim").exists()


def test_every_flipped_bit_of_a_folder_is_noticed(tmp_path):
    folder = tmp_path / "model"
    write(folder, "1")
    for path in (folder / MANIFEST, folder / "a.txt", folder / "text" / "b.txt"):
        data = path.read_bytes()
        for bit in range(0, len(data) * 8, 1 if path.name == MANIFEST else 97):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError) as caught:
                read(folder)
            assert (
                path.name in str(caught.value)
                and len(str(caught.value).splitlines()) == 1
            )
        path.write_bytes(data)
    assert read(folder) == "1"


def test_files_that_are_missing_too_many_or_from_elsewhere_are_named(tmp_path):
    folder = tmp_path / "model"
    write(folder, "1")
    write(tmp_path / "other", "2")
    (folder / "text" / "extra.json").write_text("{}")
    with pytest.raises(CheckpointError, match="extra.json does not belong there"):
        read(folder)
    (folder / "text" / "extra.json").unlink()
    os.replace(tmp_path / "other" / "a.txt", folder / "a.txt")
    with pytest.raises(DamagedFileError, match="a.txt is damaged or from elsewhere"):
        read(folder)
    (folder / "a.txt").unlink()
    with pytest.raises(CheckpointError, match="a.txt does not exist"):
        read(folder)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"format": 2}, "format 2"),
        ({"kind": "run"}, "belongs to a run"),
        ({"files": {"../x": {"sha256": "0" * 64, "bytes": 1}}}, "inside the folder"),
        (
            {"files": {"/etc/passwd": {"sha256": "0" * 64, "bytes": 1}}},
            "inside the folder",
        ),
        ({"files": []}, "files"),
        ({"facts": None}, "facts"),
        ({"more": 1}, "more"),
        ({"files": {"a.txt": 3}}, "a.txt"),
    ],
)
def test_a_manifest_of_another_form_is_refused_in_a_line(tmp_path, change, words):
    from contrec.foundations.storage import _body_sha256

    write(tmp_path / "model", "1")
    path = tmp_path / "model" / MANIFEST
    body = json.loads(path.read_text()) | change
    path.write_text(json.dumps(body | {"sha256": _body_sha256(body)}))
    with pytest.raises(CheckpointError, match=words) as caught:
        read(tmp_path / "model")
    assert len(str(caught.value).splitlines()) == 1
