"""Files that are whole or absent, local seeding, and the training loop's promises."""

import json
import os
import random
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from crash_points import count_changes, crash_at
from torch import nn

from contrec.foundations.environment import environment
from contrec.foundations.errors import (
    CheckpointError,
    ConfigError,
    ContrecError,
    DamagedFileError,
    NotFiniteError,
    TrainingError,
)
from contrec.foundations.files import (
    atomic_path,
    load_checkpoint,
    load_tensors,
    read_json,
    save_checkpoint,
    save_tensors,
    sha256,
    write_json,
)
from contrec.foundations.random import seeded
from contrec.foundations.trainer import Trainer, learning_rate, progress, train


class Loss(NamedTuple):
    total: torch.Tensor


with seeded(0):
    X = torch.randn(64, 3)
    Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])


def model():
    with seeded(0):
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def loss_of(net):
    return lambda rows: Loss((net(X[rows]) - Y[rows]).square().mean())


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
    with pytest.raises(ContrecError, match="cannot write"):
        with atomic_path(tmp_path / "file" / "deeper" / "a.txt") as p:
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
        "contrec.foundations.trainer.secrets.token_hex", lambda n: "known"
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
def test_what_is_no_file_is_said_in_a_line_and_nothing_waits(tmp_path, make, word):
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

    monkeypatch.setattr("contrec.foundations.trainer.os.open", refuse)
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


def test_nan_is_no_json(tmp_path):
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


def test_trap_06_seeding_is_local():
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    with seeded(11):
        torch.rand(5), np.random.rand(5), random.random()
    net = model()
    train(net, loss_of(net), 64, epochs=2, seed=5)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_states_come_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        with seeded(1):
            torch.rand(3)
            raise KeyError
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("die_at", [1, 4, 9])
@pytest.mark.parametrize("evaluated", [False, True])
def test_resume_is_exact_with_dropout_and_evaluation(tmp_path, die_at, evaluated):
    def run(checkpoint=None, die=None):
        net, scores = model(), iter(range(100))
        score = (lambda: -float((net(X) - Y).square().mean())) if evaluated else None

        def log(row):
            if row["epoch"] == die:
                raise KeyboardInterrupt

        rows = train(
            net,
            loss_of(net),
            64,
            epochs=10,
            batch_size=10,
            lr=0.01,
            lr_schedule="cosine",
            warmup=0.1,
            evaluate=score,
            checkpoint=checkpoint,
            on_epoch_end=log,
        )
        return net, rows

    whole, told = run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c.safetensors", die_at)
    resumed, retold = run(tmp_path / "c.safetensors")
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)
    drop = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert drop(told) == drop(retold)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    net = model()
    train(net, loss_of(net), 64, epochs=2, checkpoint=tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="steps"):
        train(net, loss_of(net), 64, epochs=3, checkpoint=tmp_path / "c.safetensors")


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    net = model()
    train(net, loss_of(net), 64, epochs=2, checkpoint=tmp_path / "c.safetensors")
    wider = nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.2), nn.Linear(9, 1))
    with pytest.raises(CheckpointError, match="another network"):
        train(
            wider, loss_of(wider), 64, epochs=2, checkpoint=tmp_path / "c.safetensors"
        )


def interrupted_training(path, die=7, **how):
    """Train until an epoch begins to be told.

    The checkpoint is that of the epoch before.
    """

    def log(row):
        if row["epoch"] == die:
            raise KeyboardInterrupt

    net = model()
    rows = train(
        net,
        loss_of(net),
        64,
        epochs=10,
        batch_size=10,
        lr=0.01,
        ema=0.9,
        checkpoint=path,
        on_epoch_end=log if die else None,
        **how,
    )
    return net, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:100],
        lambda b: b"",
        lambda b: b[:-1] + bytes([b[-1] ^ 4]),
        lambda b: b"x" * len(b),
    ],
)
def test_a_damaged_checkpoint_costs_an_epoch_and_not_the_training(
    tmp_path, capsys, damage
):
    path = tmp_path / "c.safetensors"
    whole, told = interrupted_training(None, None)
    with pytest.raises(KeyboardInterrupt):
        interrupted_training(path)
    assert [
        load_tensors(p).metadata["epoch"]
        for p in (path, tmp_path / "c.previous.safetensors")
    ] == [6, 5]
    path.write_bytes(damage(path.read_bytes()))
    resumed, retold = interrupted_training(path, None)
    assert told == retold and torch.equal(whole[0].weight, resumed[0].weight)
    assert (
        "c.safetensors is damaged. Going on from the one before it."
        in capsys.readouterr().err
    )


def test_two_damaged_checkpoints_are_named_with_the_remedy(tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        interrupted_training(path)
    for generation in (path, tmp_path / "c.previous.safetensors"):
        generation.write_bytes(b"?")
    with pytest.raises(
        DamagedFileError,
        match=r"c\.safetensors and .*c\.previous\.safetensors: damaged.*Delete",
    ):
        interrupted_training(path, None)
    for generation in tmp_path.iterdir():
        generation.unlink()
    assert torch.equal(
        interrupted_training(path, None)[0][0].weight,
        interrupted_training(None, None)[0][0].weight,
    )


@pytest.mark.parametrize("torn", [False, True])
def test_training_killed_at_any_change_of_the_disk_ends_with_the_same_numbers(
    tmp_path, torn
):
    def work(path):
        net = model()
        train(net, loss_of(net), 64, epochs=3, batch_size=32, lr=0.01, checkpoint=path)
        return net[0].weight

    whole = work(None)
    for n in range(200):
        path = tmp_path / str(n) / "c.safetensors"
        with crash_at(n, torn) as crash:
            work(path)
        assert torch.equal(work(path), whole)
        if not crash.happened:
            break
    assert 15 < n < 199


def test_a_finished_checkpoint_is_only_loaded(tmp_path):
    net = model()
    train(net, loss_of(net), 64, epochs=3, checkpoint=tmp_path / "c.safetensors")
    again = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    rows = train(
        again,
        lambda rows: pytest.fail("trained again"),
        64,
        epochs=3,
        checkpoint=tmp_path / "c.safetensors",
    )
    assert len(rows) == 3 and torch.equal(again[0].weight, net[0].weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_it(tmp_path, value):
    net, calls = model(), []

    def loss(rows):
        calls.append(1)
        good = loss_of(net)(rows).total
        return Loss(good * value if len(calls) == 6 else good)

    with pytest.raises(
        TrainingError,
        match=(
            r"bend: the loss 'total' is (nan|inf) in epoch 3, step 6.*last good"
            r" checkpoint"
        ),
    ):
        train(
            net,
            loss,
            64,
            epochs=5,
            batch_size=32,
            checkpoint=tmp_path / "c.safetensors",
            name="bend",
        )
    assert load_tensors(tmp_path / "c.safetensors").metadata["epoch"] == 2
    assert all(p.isfinite().all() for p in net.parameters())


def test_an_input_that_is_not_finite_stops_training_in_the_same_way(tmp_path):
    net, calls = model(), []

    def loss(rows):
        calls.append(1)
        if len(calls) == 6:
            raise NotFiniteError("x0 has a value that is not finite, first in row 3.")
        return loss_of(net)(rows)

    with pytest.raises(
        TrainingError,
        match=(
            r"bend: x0 has a value that is not finite, first in row 3 in epoch 3, step"
            r" 6.*learning rate.*last good checkpoint"
        ),
    ):
        train(
            net,
            loss,
            64,
            epochs=5,
            batch_size=32,
            checkpoint=tmp_path / "c.safetensors",
            name="bend",
        )


def test_trap_19_the_best_weights_are_kept_not_the_last():
    net, seen = model(), []

    def score():
        seen.append({k: v.clone() for k, v in net.state_dict().items()})
        return [1, 5, 3, 2][len(seen) - 1]

    train(net, loss_of(net), 64, epochs=4, evaluate=score)
    assert torch.equal(net[0].weight, seen[1]["0.weight"]) and not torch.equal(
        seen[1]["0.weight"], seen[3]["0.weight"]
    )


def test_patience_stops():
    net, calls = model(), []

    def score():
        calls.append(1)
        return -len(calls)

    assert len(train(net, loss_of(net), 64, epochs=50, evaluate=score, patience=3)) == 4


def test_trap_03_training_mode_in_training_and_eval_mode_in_evaluation():
    net, modes = model(), []

    def loss(rows):
        modes.append(net.training)
        return loss_of(net)(rows)

    def score():
        modes.append(net.training)
        return 0.0

    train(net, loss, 64, epochs=2, batch_size=64, evaluate=score)
    assert modes == [True, False, True, False] and not net.training


def test_some_parameters_learn_faster(tmp_path):
    def run(checkpoint=None, die=None, **more):
        net = model()

        def log(row):
            if row["epoch"] == die:
                raise KeyboardInterrupt

        train(
            net,
            loss_of(net),
            64,
            epochs=3,
            batch_size=64,
            lr=0.01,
            lr_schedule="cosine",
            checkpoint=checkpoint,
            on_epoch_end=log,
            **more,
        )
        return dict(net.named_parameters())

    before, first = (
        dict(model().named_parameters()),
        next(iter(dict(model().named_parameters()))),
    )
    alike, faster = run(), run(lr_multipliers={first: 4.0})
    moved = lambda after, name: (after[name] - before[name]).abs().mean().item()
    assert moved(faster, first) > 2 * moved(alike, first)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c.safetensors", 2, lr_multipliers={first: 4.0})
    for a, b in zip(
        faster.values(),
        run(tmp_path / "c.safetensors", lr_multipliers={first: 4.0}).values(),
    ):
        assert torch.equal(a, b)
    with pytest.raises(ConfigError, match="no parameter 'wieght'"):
        run(lr_multipliers={"wieght": 2.0})


def test_trap_11_the_rate_follows_the_true_number_of_steps():
    rates = [learning_rate(s, 50, 5, "cosine") for s in range(50)]
    assert (
        rates[5] == 1
        and all(a > b for a, b in zip(rates[5:], rates[6:]))
        and rates[-1] < 0.01
    )
    assert rates[:5] == sorted(rates[:5])
    with pytest.raises(ConfigError, match="unknown learning-rate schedule"):
        learning_rate(0, 1, schedule="zigzag")


def test_parts_make_the_same_steps(tmp_path):
    """Without dropout, gradients of parts add up to that of the whole, also where the
    last step has fewer rows than parts.
    """

    def run(**how):
        net = nn.Sequential(*(m for m in model() if not isinstance(m, nn.Dropout)))
        rows = train(
            net,
            loss_of(net),
            61,
            epochs=3,
            batch_size=10,
            lr=0.01,
            lr_schedule="cosine",
            **how,
        )
        return rows, torch.cat([p.flatten() for p in net.parameters()])

    (told, whole), (retold, parts) = run(), run(accumulate=4)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    assert [r["epoch"] for r in retold] == [1, 2, 3] and abs(
        told[-1]["total"] - retold[-1]["total"]
    ) < 1e-4


# sorted: the first parts hold few cases, the last ones many
LENGTHS = torch.arange(1, 41)
CASES = torch.randn(40, 40, 3, generator=torch.Generator().manual_seed(1))


def gradient_of_sorted_rows(accumulate, counted):
    """The gradient of one step in which row r has LENGTHS[r] cases.

    Also what is logged.
    """
    net = nn.Sequential(*(m for m in model() if not isinstance(m, nn.Dropout)))

    def mean(rows):
        real = torch.arange(40) < LENGTHS[rows][:, None]
        return (net(CASES[rows][real]) - 1).square().mean()

    def share(rows, shares):
        return Loss(mean(rows) * shares["cases"])

    loss = share if counted == "by name" else lambda rows: Loss(mean(rows))
    counts = {"by name": {"cases": LENGTHS}, "once": LENGTHS, None: None}[counted]
    trainer = Trainer(
        net, loss, 40, epochs=1, batch_size=40, accumulate=accumulate, counts=counts
    )
    logged = trainer.backward(torch.arange(40))
    return torch.cat([p.grad.flatten() for p in net.parameters()]), logged["total"]


@pytest.mark.parametrize("accumulate", [1, 2, 8])
@pytest.mark.parametrize("counted", ["once", "by name"])
def test_with_counts_a_step_means_the_same_in_any_number_of_parts(accumulate, counted):
    whole, logged = gradient_of_sorted_rows(1, counted=None)
    parts, relogged = gradient_of_sorted_rows(accumulate, counted)
    assert (parts - whole).norm() < 1e-5 * whole.norm() and relogged == pytest.approx(
        logged, rel=1e-5
    )


def test_without_counts_means_over_cases_would_change_with_the_parts():
    whole, _ = gradient_of_sorted_rows(1, counted=None)
    parts, _ = gradient_of_sorted_rows(8, counted=None)
    assert (parts - whole).norm() > 0.01 * whole.norm()


def test_two_processes_add_up_to_one():
    """Each process works out its share of a step.

    Their sums are the step's gradient. The communication itself is tested in
    test_processes.
    """

    class Half:
        num_processes = 2

        def __init__(self, index):
            self.process_index = index

        def reduce(self, message, how):
            messages.append(message)
            return message

    messages, net = [], nn.Linear(3, 1)
    rows = torch.arange(40)

    def loss(part):
        real = torch.arange(40) < LENGTHS[part][:, None]
        return Loss((net(CASES[part][real]) - 1).square().mean())

    settings = dict(epochs=1, batch_size=40, counts=LENGTHS)
    one = Trainer(net, loss, 40, **settings)
    one.backward(rows)
    whole = torch.cat([p.grad.flatten() for p in net.parameters()])
    for index in range(2):
        net.zero_grad()
        Trainer(
            net, loss, 40, accumulate=3, accelerator=Half(index), **settings
        ).backward(rows)
    found = sum(messages)[: len(whole)]
    assert (found - whole).norm() < 1e-5 * whole.norm()
    # a step with fewer rows than processes: the second one joins in at weight 0
    messages.clear()
    net.zero_grad()
    Trainer(net, loss, 40, accelerator=Half(1), **settings).backward(rows[:1])
    assert not messages[0][: len(whole)].any()


def test_further_figures_of_a_validation_are_logged():
    net = model()
    rows = train(
        net,
        loss_of(net),
        64,
        epochs=2,
        evaluate=lambda: {"score": 1.0, "rank": torch.tensor(3.5)},
    )
    assert [(r["score"], r["rank"]) for r in rows] == [(1.0, 3.5)] * 2


def test_a_checkpoint_is_written_and_read_by_two_functions(tmp_path):
    net, path = model(), tmp_path / "c.safetensors"
    assert load_checkpoint(path) is None and load_checkpoint(None) is None
    trainer = Trainer(net, loss_of(net), 64, epochs=2)
    trainer.run()
    save_checkpoint(path, trainer.state())
    again = Trainer(model(), loss_of(net), 64, epochs=2)
    again.restore(load_checkpoint(path))
    assert (
        again.epoch == 2 and again.step == trainer.step and again.rows == trainer.rows
    )


def test_trap_11_parts_do_not_change_the_rate():
    """The schedule counts steps of the optimiser, not parts.

    The last rate of a cosine is the same.
    """

    def rates(**how):
        net, seen = model(), []
        with pytest.MonkeyPatch.context() as patch:
            original = torch.optim.AdamW.step
            patch.setattr(
                torch.optim.AdamW,
                "step",
                lambda self, *a: (
                    seen.append(self.param_groups[0]["lr"]),
                    original(self, *a),
                )[1],
            )
            train(
                net,
                loss_of(net),
                64,
                epochs=3,
                batch_size=10,
                lr=0.01,
                lr_schedule="cosine",
                warmup=0.2,
                **how,
            )
        return seen

    assert rates() == rates(accumulate=3) and len(rates()) == 21


@pytest.mark.parametrize("evaluated", [False, True])
def test_the_average_of_the_weights_is_validated_and_kept(tmp_path, evaluated):
    net, own, seen = model(), [], []

    def loss(rows):
        own.append(net[0].weight.detach().clone())
        return loss_of(net)(rows)

    def score():
        seen.append(net[0].weight.detach().clone())
        return len(seen)

    train(
        net,
        loss,
        64,
        epochs=3,
        batch_size=64,
        lr=0.1,
        ema=0.5,
        evaluate=score if evaluated else None,
    )
    # by hand: two observed starts of a step, and the kept share min(0.5, n / (n + 10))
    expected = own[0]
    for n, weight in enumerate(own[1:], 1):
        expected = expected.lerp(weight, 1 - min(0.5, n / (n + 10)))
        if evaluated:
            torch.testing.assert_close(seen[n - 1], expected)
            # and training went on from its own weights
            assert not torch.equal(seen[n - 1], weight)
    if evaluated:
        assert torch.equal(net[0].weight, seen[-1])
    assert not any(torch.equal(net[0].weight, w) for w in own[1:])


def test_resume_is_exact_with_an_average(tmp_path):
    def run(checkpoint=None, die=None):
        def log(row):
            if row["epoch"] == die:
                raise KeyboardInterrupt

        net = model()
        train(
            net,
            loss_of(net),
            64,
            epochs=6,
            batch_size=10,
            lr=0.05,
            ema=0.9,
            accumulate=2,
            evaluate=lambda: -float((net(X) - Y).square().mean()),
            checkpoint=checkpoint,
            on_epoch_end=log,
        )
        return net

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c.safetensors", 4)
    assert torch.equal(run(tmp_path / "c.safetensors")[0].weight, whole[0].weight)
    with pytest.raises(CheckpointError, match="average"):
        train(
            whole,
            loss_of(whole),
            64,
            epochs=6,
            batch_size=10,
            checkpoint=tmp_path / "c.safetensors",
        )


def test_environment_is_json():
    assert json.loads(json.dumps(environment()))["threads"] == torch.get_num_threads()


def test_progress_gives_everything():
    assert list(progress([1, 2, 3], "x")) == [1, 2, 3]
