"""Two real processes on one machine share every step, and end where one would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contrec import ContRec, leave_one_out, preset, read_items, read_log
from contrec.ranking.metrics import per_user, summarise

SETTINGS = dict(
    training={
        "epochs": 4,
        "lr": 1e-3,
        "tokenizer_epochs": 20,
        "batch_size": 31,
        "accumulate": 2,
    },
    embedding={"width": 16},
    diffusion={"hidden": 32, "blocks": 1},
)
GRADIENT = '''
import numpy as np
import torch
import contrec.diffusion.diffusion
from contrec.foundations.trainer import Trainer
from contrec.foundations.random import seeded
from contrec.data.interactions import Ragged
from contrec import ContRec, preset


def step_gradient(split, accelerator=None, accumulate=1):
    """Return the gradient of one step of 24 histories of 2 to 8 items.

    The histories are sorted by length. The diffusion draws nothing.
    """

    def fixed_noise(shape, like, generator):
        return torch.linspace(-1, 1, shape[-1]).expand(shape).to(like)

    contrec.diffusion.diffusion._normal = fixed_noise
    contrec.diffusion.diffusion.draw_times = lambda n, T, *_: torch.full((n,), T // 2)
    quiet = {"hidden": 32, "blocks": 1, "cfg_dropout": 0.0, "dispersive_weight": 0.0}
    model = ContRec(
        preset(
            "contrec",
            prompt={"template": "both"},
            diffusion=quiet,
            tokenizer={"sigma": 0.0},
            backbone={"dropout": 0.0},
        )
    )
    model.split = split
    with seeded(0):
        model._build(16)
        torch.nn.init.normal_(model.network.inputs)
    network = model.network
    rows = [split.train[u][: 2 + u // 4 + (u > 11)] for u in range(24)]
    histories = Ragged.from_lists([r.tolist() for r in rows])
    trainer = Trainer(
        network.train(),
        lambda rows, shares: network.loss(histories.take(rows.numpy()), shares),
        24,
        epochs=1,
        counts=network.counts(histories),
        accumulate=accumulate,
        accelerator=accelerator,
    )
    trainer.backward(torch.arange(24))
    return torch.cat(
        [p.grad.flatten() for p in trainer.parameters if p.grad is not None]
    )
'''
SCRIPT = (
    GRADIENT
    + """
import json, sys
import torch
from accelerate import Accelerator
from contrec import ContRec, leave_one_out, preset, read_items, read_log
from contrec.ranking.metrics import per_user, summarise

torch.set_num_threads(1)
world, out, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
split = leave_one_out(
    read_log(world + "/log.csv", items=read_items(world + "/items.csv"))
)
accelerator = Accelerator(cpu=True)


class Watched(ContRec):
    die, scores = 0, ()

    def _validate(self, accelerator=None):
        self.scores = (*self.scores, super()._validate(accelerator))
        if len(self.scores) == self.die:
            raise KeyboardInterrupt
        return self.scores[-1]


def fit(folder, die=0):
    model, told = Watched(preset("contrec", **settings)), []
    model.die = die
    try:
        model.fit(
            split, log=told.append, folder=f"{out}/{folder}", accelerator=accelerator
        )
    except KeyboardInterrupt:
        pass
    ids = model.rank(split.histories("test"), 10).ids
    return {
        "processes": accelerator.num_processes,
        "scores": model.scores,
        "rows": [row for row in told if row["stage"] == "recommender"],
        "weights": [float(p.double().sum()) for p in model.network.parameters()],
        "NDCG@10": summarise(per_user(ids, split.test, ks=(10,)))["NDCG@10"],
    }


originals = contrec.diffusion.diffusion._normal, contrec.diffusion.diffusion.draw_times
gradient = step_gradient(split, accelerator, accumulate=3)
torch.save(gradient, f"{out}/gradient.{accelerator.process_index}.pt")
contrec.diffusion.diffusion._normal, contrec.diffusion.diffusion.draw_times = originals
found = {
    "whole": fit("whole"),
    "killed": fit("killed", die=3),
    "resumed": fit("killed"),
}
with open(f"{out}/{accelerator.process_index}.json", "w") as file:
    json.dump(found, file)
"""
)


@pytest.fixture(scope="module")
def two(world, tmp_path_factory):
    """What two processes found, started as `accelerate launch` would.

    A whole training, one killed in its third epoch, and that one resumed.
    """
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = dict(
        os.environ,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        ACCELERATE_USE_CPU="true",
        OMP_NUM_THREADS="1",
        CONTREC_PROGRESS="0",
        CUDA_VISIBLE_DEVICES="",
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(world), str(out), json.dumps(SETTINGS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(shared, RANK=str(r), LOCAL_RANK=str(r)),
        )
        for r in range(2)
    ]
    try:
        said = [p.communicate(timeout=400)[0] for p in started]
    finally:
        for p in started:
            if p.poll() is None:
                p.kill()
    assert [p.returncode for p in started] == [0, 0], "\n".join(said)
    return out, [json.loads((out / f"{r}.json").read_text()) for r in range(2)]


def test_two_processes_hold_the_same_model_and_speak_once(two):
    out, (first, second) = two
    for name in ("whole", "resumed"):
        assert first[name]["processes"] == second[name]["processes"] == 2
        assert (
            first[name]["weights"] == second[name]["weights"]
            and first[name]["scores"] == second[name]["scores"]
        )
    assert [r["epoch"] for r in first["whole"]["rows"]] == list(
        range(1, 5)
    ) and not second["whole"]["rows"]
    rows = [
        json.loads(line)
        for line in (out / "whole" / "log.jsonl").read_text().splitlines()
    ]
    assert [r["epoch"] for r in rows if r["stage"] == "recommender"] == list(
        range(1, 5)
    )
    assert not list((out / "whole" / "stages").glob("*.checkpoint*"))


def test_two_processes_make_the_same_step_as_one(two, small_split, monkeypatch):
    """To rounding, with histories sorted by length.

    Each process gets other lengths, and works through them in three parts.
    """
    import contrec.diffusion.diffusion

    for name in ("_normal", "draw_times"):
        # to be put back
        monkeypatch.setattr(
            contrec.diffusion.diffusion,
            name,
            getattr(contrec.diffusion.diffusion, name),
        )
    space = {}
    exec(GRADIENT, space)
    whole = space["step_gradient"](small_split)
    for process in range(2):
        found = torch.load(two[0] / f"gradient.{process}.pt")
        assert (found - whole).norm() < 1e-5 * whole.norm()


def test_two_processes_end_where_one_ends(two, small_split):
    """Same steps, same rates, other random draws.

    Losses and ranking agree within noise.
    """
    rows = []
    model = ContRec(preset("contrec", **SETTINGS)).fit(small_split, log=rows.append)
    found = two[1][0]["whole"]
    for a, b in zip(
        [r for r in rows if r["stage"] == "recommender"], found["rows"], strict=True
    ):
        assert (
            abs(a["denoising"] - b["denoising"]) < 0.1 * a["denoising"]
            and abs(a["score"] - b["score"]) < 0.1
        )
    one = summarise(
        per_user(
            model.rank(small_split.histories("test"), 10).ids,
            small_split.test,
            ks=(10,),
        )
    )["NDCG@10"]
    assert abs(one - found["NDCG@10"]) < 0.05


def test_two_processes_resume_exactly(two):
    for found in two[1]:
        # the third epoch had no checkpoint yet
        assert (
            len(found["killed"]["scores"]) == 3 and len(found["resumed"]["scores"]) == 2
        )
        assert (
            found["resumed"]["scores"] == found["whole"]["scores"][2:]
            and found["resumed"]["weights"] == found["whole"]["weights"]
        )


def test_accelerate_launches_the_command_line(world, tmp_path):
    """One run folder, each epoch told once, the metrics of one process within noise.

    And a refusal reaches both.
    """
    launcher = [
        str(Path(sys.executable).parent / "accelerate"),
        "launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "--no_python",
    ]
    command = [
        str(Path(sys.executable).parent / "contrec"),
        "run",
        "--data",
        str(world / "log.csv"),
        "--items",
        str(world / "items.csv"),
        "--epochs",
        "4",
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]

    def launch():
        return subprocess.run(
            launcher + command,
            capture_output=True,
            text=True,
            timeout=500,
            env=dict(
                os.environ,
                OMP_NUM_THREADS="1",
                CONTREC_PROGRESS="0",
                CUDA_VISIBLE_DEVICES="",
            ),
        )

    done = launch()
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("recommender ...") == 1
        and done.stdout.count("report.html tells the rest") == 1
    )
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "config.json",
        "log.jsonl",
        "manifest.json",
        "metrics.json",
        "model",
        "report.html",
        "space",
    ]
    rows = [
        json.loads(line)
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert [r["epoch"] for r in rows if r["stage"] == "recommender"] == [1, 2, 3, 4]
    split = leave_one_out(
        read_log(world / "log.csv", items=read_items(world / "items.csv"))
    )
    one, two = (
        ContRec(preset("contrec", training={"epochs": 4})).fit(split),
        json.loads((tmp_path / "run" / "metrics.json").read_text())["systems"][
            "contrec"
        ],
    )
    assert (
        abs(
            summarise(
                per_user(
                    one.rank(split.histories("test"), 10).ids, split.test, ks=(10,)
                )
            )["NDCG@10"]
            - two["NDCG@10"]
        )
        < 0.05
    )
    again = launch()
    assert (
        again.returncode != 0
        and "already holds a run" in again.stderr
        and "Connection" not in again.stderr
    )
