"""A run's folder: one process writes to it, a killed run resumes, and a run with other
settings is refused.
"""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from crash_points import crash_at, left_behind
from tiny_model import tiny

from contrec.foundations.errors import CheckpointError, ConfigError
from contrec.foundations.files import load_tensors, save_tensors
from contrec.foundations.run_folder import (
    Stages,
    claim_run,
    finish_run,
    is_finished,
    item_table_sha256,
    read_log_rows,
    run_lock,
    run_record,
)
from contrec.recommender.contrec import ContRec


def answers(model):
    return model.score(model.split.histories("test").take(np.arange(5)))


RECORD = {
    "dataset": "x",
    "split_sha256": "a",
    "items_sha256": "b",
    "source": {},
    "base_model": None,
    "contrec": "1",
    "format": 1,
    "config": {"lr": 0.1, "seed": 0},
}


def save(x, path):
    save_tensors(path.with_suffix(".safetensors"), {"x": x})


def load(path):
    return load_tensors(path.with_suffix(".safetensors")).tensors["x"]


def start(folder, record=RECORD, resume=False):
    with run_lock(folder):
        claim_run(folder, record, resume)


def test_the_first_write_killed_at_any_point_leaves_a_folder_that_is_taken(tmp_path):
    for n in itertools.count():
        folder = tmp_path / str(n) / "run"
        with crash_at(n) as crash:
            start(folder)
        if not (folder / "config.json").exists():
            start(folder)  # as if nothing had been there
        else:
            with pytest.raises(ConfigError, match="--resume"):
                start(folder)
            start(folder, resume=True)
        assert [p.name for p in folder.iterdir()] == ["config.json"]
        if not crash.happened:
            break
    assert 5 < n < 100


@pytest.mark.parametrize(
    "change, words",
    [
        ({"items_sha256": "other"}, "another item table"),
        ({"base_model": {"weights_sha256": "x"}}, "another base model"),
        ({"contrec": "2"}, "another version"),
        ({"format": 2}, "another format"),
        ({"split_sha256": "other"}, "another split"),
        ({"config": {"lr": 0.2, "seed": 0}}, "another config.lr"),
        ({"config": {"lr": {"of": 1}, "seed": 0}}, "another config.lr"),
        ({"dataset": "y"}, "another dataset"),
    ],
)
def test_a_resume_with_anything_else_is_refused_with_the_reason(
    tmp_path, change, words
):
    start(tmp_path / "run")
    with pytest.raises(ConfigError, match=words):
        start(tmp_path / "run", RECORD | change, resume=True)
    start(tmp_path / "run", resume=True)


@pytest.mark.parametrize("value", [[], 3, {}, {"config": 3}, {"config": None}])
def test_a_record_of_another_form_is_refused_in_a_line(tmp_path, value):
    start(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="holds a run with another") as caught:
        start(tmp_path / "run", resume=True)
    assert len(str(caught.value).splitlines()) == 1


def test_what_dead_processes_left_is_swept_and_files_of_others_are_not_touched(
    tmp_path,
):
    folder, token = tmp_path / "run", "0123456789abcdef"
    start(folder)
    (folder / "stages").mkdir()
    for name in (f".{token}.part", f"stages/.{token}.part"):
        (folder / name).touch()
    (folder / f".model.{token}.part").mkdir()
    start(folder, resume=True)
    assert not left_behind(folder)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch(), (mine / f".{token}.part").touch()
    with pytest.raises(ConfigError, match="not a run"):
        start(mine)
    assert sorted(p.name for p in mine.iterdir()) == [f".{token}.part", "thesis.tex"]


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    with (
        run_lock(tmp_path / "run"),
        pytest.raises(ConfigError, match="another process is working in"),
        run_lock(tmp_path / "run"),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a run"), run_lock(tmp_path / "file"):
        pass


def test_a_finished_run_is_known_and_an_altered_result_is_not_believed(tmp_path):
    start(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    assert not is_finished(tmp_path)
    (tmp_path / "stages").mkdir()
    finish_run(tmp_path)
    assert is_finished(tmp_path) and not (tmp_path / "stages").exists()
    (tmp_path / "metrics.json").write_text('{"better": 1}')
    with pytest.raises(CheckpointError, match="metrics.json"):
        is_finished(tmp_path)


def test_a_damaged_or_missing_result_is_made_again_with_a_line(tmp_path):
    said, made = [], []

    def make(checkpoint, log):
        made.append(1)
        return torch.arange(3.0)

    def do():
        return Stages(tmp_path, said.append).do("a", make, save, load)

    whole, path = do(), tmp_path / "stages" / "a.safetensors"
    for damage in (
        lambda: path.write_bytes(path.read_bytes()[:-1] + b"x"),
        path.unlink,
        lambda: (tmp_path / "stages" / "a.json").write_text("{"),
    ):
        made.clear(), said.clear(), damage()
        assert (
            torch.equal(do(), whole)
            and made
            and any("done again" in line for line in said)
        )
    made.clear()
    assert torch.equal(do(), whole) and not made


def test_stages_of_other_settings_are_not_taken(tmp_path):
    Stages(tmp_path, context={"config": {"lr": 1}}).do(
        "a", lambda *_: torch.zeros(1), save, load
    )
    with pytest.raises(ConfigError, match="another config.lr"):
        Stages(tmp_path, context={"config": {"lr": 2}})
    (tmp_path / "stages" / "context.json").unlink()
    with pytest.raises(CheckpointError, match="nobody knows"):
        Stages(tmp_path, context={"config": {"lr": 1}})


def test_a_training_with_another_item_table_does_not_take_the_stages(
    small_split, tmp_path
):
    import dataclasses

    ContRec(tiny()).fit(small_split, folder=tmp_path)
    items = small_split.items.assign(
        title=[f"new {t}" for t in small_split.items["title"]]
    )
    other = dataclasses.replace(small_split, items=items)
    assert (
        item_table_sha256(items)
        != item_table_sha256(small_split.items)
        == item_table_sha256(small_split.items.iloc[::-1])
    )
    with pytest.raises(ConfigError, match="another item table"):
        ContRec(tiny()).fit(other, folder=tmp_path)
    assert run_record(small_split, {}) != run_record(other, {})


@pytest.mark.parametrize(
    "line", ["3", "[]", '{"epoch": 1}', '{"stage": 5}', "\\xff\\xfe"]
)
def test_rows_of_a_log_that_are_none_are_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes(line.encode("latin-1") + b'\n{"stage": "a"}\n')
    with pytest.raises(CheckpointError, match="line 1"):
        read_log_rows(path)
    path.write_bytes(b'{"stage": "a"}\n' + line.encode("latin-1"))
    assert read_log_rows(path) == [{"stage": "a"}]


def test_a_log_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "run").mkdir()
    stages = Stages(tmp_path / "run")

    def make(checkpoint, log):
        (tmp_path / "run" / "log.jsonl").unlink()
        (tmp_path / "run" / "log.jsonl").symlink_to(tmp_path / "victim")
        log({"epoch": 1})

    with pytest.raises(Exception, match="cannot write"):
        stages.do("a", make, save, load)
    assert (tmp_path / "victim").read_text() == "mine\n"


def run(folder, split, resume):
    """What `contrec run` does with a run's folder, without its baselines and its
    report.
    """
    model = ContRec(tiny(training={"tokenizer_epochs": 1}))
    model.check(split)
    with run_lock(folder):
        claim_run(
            folder,
            run_record(split, {"seed": 0}, base_model=model.base_model()),
            resume,
        )
        if is_finished(folder):
            return
        model.fit(split, folder=folder)
        model.save_pretrained(folder / "model")
        (folder / "metrics.json").write_text("{}")
        finish_run(folder)


@pytest.mark.parametrize("offset, torn", [(0, False), (11, True)])
def test_a_run_killed_at_any_point_ends_with_the_same_model(
    small_split, tmp_path, offset, torn
):
    """Every 22nd change of the disk, from two starts.

    The campaign in tests/faults kills whole processes.
    """
    run(tmp_path / "whole", small_split, False)
    expected = answers(ContRec.from_pretrained(tmp_path / "whole"))
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    for n in range(offset, 2000, 22):
        folder = tmp_path / str(n)
        with crash_at(n, torn, inside=tmp_path) as crash:
            run(folder, small_split, False)
        if not crash.happened:
            break
        if (folder / "config.json").exists():
            with pytest.raises(ConfigError, match="--resume"):
                run(folder, small_split, False)
        run(folder, small_split, True)
        assert sorted(p.name for p in folder.iterdir()) == names and not left_behind(
            folder
        )
        assert np.array_equal(answers(ContRec.from_pretrained(folder)), expected)
        shutil.rmtree(folder)
    assert 100 < n < 1999
