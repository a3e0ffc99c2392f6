"""Stages: done once, resumed, logged once."""

import json

import pytest
import torch

from contrec.foundations.errors import CheckpointError, ContrecError, TrainingError
from contrec.foundations.files import load_tensors, save_tensors
from contrec.foundations.run_folder import Stages, read_log_rows
from contrec.recommender.config import preset
from contrec.recommender.contrec import ContRec


def save(x, path):
    save_tensors(path.with_suffix(".safetensors"), {"x": x})


def load(path):
    return load_tensors(path.with_suffix(".safetensors")).tensors["x"]


def counting(n=3, die=None):
    def make(checkpoint, on_epoch_end):
        for epoch in range(1, n + 1):
            if epoch == die:
                raise KeyboardInterrupt
            on_epoch_end({"epoch": epoch, "seconds": 0.0})
        return torch.tensor([float(n)])

    return make


def test_a_finished_stage_is_loaded(tmp_path):
    assert Stages(tmp_path).do("a", counting(), save, load) == 3
    assert (
        Stages(tmp_path).do("a", lambda *_: pytest.fail("made again"), save, load) == 3
    )


def test_a_stage_that_failed_is_made_again_and_told_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).do("a", counting(5, die=4), save, load)
    assert [r["epoch"] for r in read_log_rows(tmp_path / "log.jsonl")] == [1, 2, 3]
    Stages(tmp_path).do("a", counting(5), save, load)
    assert [r["epoch"] for r in read_log_rows(tmp_path / "log.jsonl")] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_a_marker_is_only_there_with_its_result(tmp_path):
    def broken(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        Stages(tmp_path).do("a", counting(), broken, load)
    assert (
        not list((tmp_path / "stages").glob("*.json"))
        if (tmp_path / "stages").exists()
        else True
    )


def test_rows_of_other_stages_stay(tmp_path):
    stages = Stages(tmp_path)
    stages.do("a", counting(2), save, load)
    with pytest.raises(KeyboardInterrupt):
        stages.do("b", counting(5, die=3), save, load)
    Stages(tmp_path).do("b", counting(5), save, load)
    assert [
        (r["stage"], r["epoch"]) for r in read_log_rows(tmp_path / "log.jsonl")
    ] == [("a", 1), ("a", 2)] + [("b", e) for e in range(1, 6)]


def test_a_log_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    stages = Stages(tmp_path / "run")

    def make(checkpoint, on_epoch_end):
        (tmp_path / "run" / "log.jsonl").unlink()
        (tmp_path / "run" / "log.jsonl").mkdir()
        on_epoch_end({"epoch": 1})

    with pytest.raises(ContrecError, match="log.jsonl"):
        stages.do("a", make, save, load)


def test_a_torn_last_line_is_dropped_and_an_altered_one_is_not(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"stage": "a"}) + "\n" + '{"stage": "a", "epo')
    assert read_log_rows(path) == [{"stage": "a"}]
    path.write_text('{"stage"\n{"stage": "a"}\n')
    with pytest.raises(CheckpointError, match="line 1"):
        read_log_rows(path)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = Stages()
    assert (
        stages.do("a", counting(), save, load) == 3
        and stages.rows
        and "a" in stages.seconds
    )
    assert not list(tmp_path.iterdir())


def test_seconds_of_a_finished_stage_are_remembered(tmp_path):
    first = Stages(tmp_path)
    first.do("a", counting(), save, load)
    second = Stages(tmp_path)
    second.do("a", counting(), save, load)
    assert first.seconds == second.seconds


@pytest.mark.parametrize("lr", [300.0, 1e3])
def test_a_training_that_diverges_says_which_loss_or_input_and_step(small_split, lr):
    with pytest.raises(
        TrainingError,
        match=(
            r"recommender: .*(nan|inf|not finite).* in epoch 1, step \d+\. Lower the"
            r" learning rate"
        ),
    ):
        ContRec(
            preset(
                training={"epochs": 1, "tokenizer_epochs": 5, "lr": lr},
                embedding={"width": 16},
                diffusion={"hidden": 32, "blocks": 1},
            )
        ).fit(small_split)
