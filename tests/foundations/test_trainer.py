"""What the training loop promises."""

from typing import NamedTuple

import pytest
import torch
from crash_points import crash_at
from torch import nn

from contrec.foundations.errors import (
    CheckpointError,
    ConfigError,
    DamagedFileError,
    NotFiniteError,
    TrainingError,
)
from contrec.foundations.files import (
    load_checkpoint,
    load_tensors,
    save_checkpoint,
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


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def loss_of(net):
    return lambda rows: Loss((net(X[rows]) - Y[rows]).square().mean())


@pytest.mark.parametrize("die_at", [1, 4, 9])
@pytest.mark.parametrize("evaluated", [False, True])
def test_resume_is_exact_with_dropout_and_evaluation(tmp_path, die_at, evaluated):
    def run(checkpoint=None, die=None):
        net = model()
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
    assert without_seconds(told) == without_seconds(retold)


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


def test_patience_stops_the_training():
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


def test_lr_multipliers_make_some_parameters_learn_faster(tmp_path):
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

    def moved(after, name):
        return (after[name] - before[name]).abs().mean().item()

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


def test_accumulated_parts_make_the_same_steps(tmp_path):
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

        def reduce(self, tensors, how):
            gradients, *others = tensors
            messages.append(torch.cat([g.flatten() for g in gradients]))
            return [[g.clone() for g in gradients], *others]

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
    found = sum(messages)
    assert (found - whole).norm() < 1e-5 * whole.norm()
    # a step with fewer rows than processes: the second one joins in at weight 0
    messages.clear()
    net.zero_grad()
    Trainer(net, loss, 40, accelerator=Half(1), **settings).backward(rows[:1])
    assert not messages[0].any()


def test_all_numbers_of_an_evaluation_are_logged():
    net = model()
    rows = train(
        net,
        loss_of(net),
        64,
        epochs=2,
        evaluate=lambda: {"score": 1.0, "rank": torch.tensor(3.5)},
    )
    assert [(r["score"], r["rank"]) for r in rows] == [(1.0, 3.5)] * 2


def test_a_saved_state_is_restored(tmp_path):
    net, path = model(), tmp_path / "c.safetensors"
    assert load_checkpoint(path) is None and load_checkpoint(None) is None
    trainer = Trainer(net, loss_of(net), 64, epochs=2)
    trainer.run()
    save_checkpoint(path, trainer.state())
    again = Trainer(model(), loss_of(net), 64, epochs=2)
    again.restore(load_checkpoint(path))
    assert again.epoch == 2 and again.step == trainer.step and again.log == trainer.log


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


def test_progress_yields_every_item():
    assert list(progress([1, 2, 3], "x")) == [1, 2, 3]
