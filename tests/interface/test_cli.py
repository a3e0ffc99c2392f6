"""The command line from end to end.

A run, its files, its answers, its refusals, and its resumption after a kill.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import contrec.interface.space
import contrec.interface.space_figures
from contrec.data import datasets as catalog
from contrec.foundations.files import read_json
from contrec.foundations.run_folder import read_log_rows
from contrec.interface import cli, job
from contrec.recommender.contrec import ContRec

FILES = [
    "config.json",
    "log.jsonl",
    "manifest.json",
    "metrics.json",
    "model",
    "report.html",
    "space",
]
FAST = ["--epochs", "3"]


@pytest.fixture(autouse=True)
def flat_projection(monkeypatch, request):
    """UMAP compiles for many seconds.

    All tests but the marked one draw the token space with PCA.
    """
    if "umap" not in request.keywords:
        monkeypatch.setattr(
            contrec.interface.space,
            "_umap_plane",
            lambda x, seed=0: contrec.interface.space_figures.project(x, method="pca"),
        )


def arguments(world, out, *more):
    return [
        "run",
        "--data",
        str(world / "log.csv"),
        "--items",
        str(world / "items.csv"),
        "--out",
        str(out),
        *FAST,
        *more,
    ]


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            contrec.interface.space,
            "_umap_plane",
            lambda x, seed=0: contrec.interface.space_figures.project(x, method="pca"),
        )
        assert cli.main(arguments(world, out)) == 0
    return out


def systems(folder):
    return read_json(folder / "metrics.json")["systems"]


def refused(capsys, argv, *words):
    """The command fails with code 2 and one or two lines that hold the words."""
    assert cli.main([str(a) for a in argv]) == 2
    said = capsys.readouterr().err.strip()
    assert (
        said.startswith("contrec: ")
        and len(said.splitlines()) <= 2
        and "Traceback" not in said
    ), said
    for word in words:
        assert str(word) in said, f"{word!r} is not in {said!r}"
    return said


def test_a_run_leaves_what_it_promises(finished):
    assert sorted(p.name for p in finished.iterdir()) == FILES
    metrics = read_json(finished / "metrics.json")
    assert {
        "dataset",
        "split_sha256",
        "n_users",
        "n_items",
        "n_interactions",
        "protocol",
        "seed",
        "versions",
        "seconds",
        "systems",
    } <= set(metrics)
    assert (
        metrics["reading"]["rows"] == metrics["reading"]["kept"] == 900
        and metrics["reading"]["titles"] == 40
        and metrics["reading"]["warnings"] == []
    )
    assert (
        set(metrics["systems"]) >= {"contrec", "popularity", "item-kNN", "EASE"}
        or len(metrics["systems"]) == 4
    )
    for row in metrics["systems"].values():
        assert list(row) == [
            "HR@5",
            "HR@10",
            "HR@20",
            "NDCG@5",
            "NDCG@10",
            "NDCG@20",
            "MRR@20",
        ]
        assert (
            0 <= row["HR@5"] <= row["HR@10"] <= row["HR@20"] <= 1
            and row["NDCG@5"] <= row["HR@5"]
        )
    assert {
        "embeddings linear",
        "embeddings sasrec",
        "tokenizer",
        "recommender",
        "evaluation",
        "total",
    } <= set(metrics["seconds"])
    assert {r["stage"] for r in read_log_rows(finished / "log.jsonl")} >= {
        "tokenizer",
        "recommender",
    }
    kinds = {p.suffix for p in (finished / "model").rglob("*") if p.is_file()}
    assert kinds == {".safetensors", ".json"}


def test_titles_are_escaped_in_the_report(finished):
    page = (finished / "report.html").read_text()
    assert (
        "&amp; &lt;b&gt;" in page
        and ", & <b>" not in page
        and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    )


def test_same_seed_same_metrics_to_the_last_digit(world, finished, tmp_path):
    assert cli.main(arguments(world, tmp_path / "again")) == 0
    assert systems(tmp_path / "again") == systems(finished)


def test_another_seed_gives_another_model(world, finished, tmp_path):
    assert cli.main(arguments(world, tmp_path / "other", "--seed", "1")) == 0
    assert systems(tmp_path / "other")["contrec"] != systems(finished)["contrec"]
    assert systems(tmp_path / "other")["EASE"] == systems(finished)["EASE"]


@pytest.mark.parametrize(
    "stage, epoch",
    [
        ("tokenizer", 1),
        ("tokenizer", 150),
        ("user tokenizer", 3),
        ("recommender", 1),
        ("recommender", 3),
    ],
)
def test_a_run_stopped_anywhere_resumes_to_the_same_metrics(
    world, finished, tmp_path, monkeypatch, stage, epoch
):
    out, append = tmp_path / "run", contrec.foundations.run_folder.Stages._append

    def stop(self, row):
        if (row["stage"], row["epoch"]) == (stage, epoch):
            raise KeyboardInterrupt
        append(self, row)

    monkeypatch.setattr(contrec.foundations.run_folder.Stages, "_append", stop)
    assert cli.main(arguments(world, out)) == 130
    monkeypatch.setattr(contrec.foundations.run_folder.Stages, "_append", append)
    assert not (out / "metrics.json").exists()
    assert cli.main(arguments(world, out, "--resume")) == 0
    assert (
        systems(out) == systems(finished)
        and sorted(p.name for p in out.iterdir()) == FILES
    )
    told = [(r["stage"], r["epoch"]) for r in read_log_rows(out / "log.jsonl")]
    assert told == [
        (r["stage"], r["epoch"]) for r in read_log_rows(finished / "log.jsonl")
    ]


@pytest.mark.parametrize("where", ["save_pretrained", "html_report"])
def test_a_run_stopped_after_training_resumes_to_the_same_metrics(
    world, finished, tmp_path, monkeypatch, where
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ContRec if where == "save_pretrained" else job, where, stop)
        assert cli.main(arguments(world, tmp_path / "run")) == 130
    assert cli.main(arguments(world, tmp_path / "run", "--resume")) == 0
    assert systems(tmp_path / "run") == systems(finished)


@pytest.mark.umap
def test_a_process_killed_outright_resumes_to_the_same_metrics(
    world, finished, tmp_path
):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-c",
        "import sys; from contrec.interface.cli import main; sys.exit(main())",
        *arguments(world, out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "log.jsonl").exists() and '"recommender"' in (
            out / "log.jsonl"
        ).read_text():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists(), (
        "the run was over before it could be killed"
    )
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert systems(out) == systems(finished)
    assert "contrec" in done.stdout and "Top 10" in done.stdout


def test_evaluate_and_recommend_use_the_saved_model(finished, capsys):
    assert cli.main(["evaluate", "--model", str(finished)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {k: found[k] for k in job.METRICS} == systems(finished)["contrec"]
    assert (
        cli.main(
            [
                "recommend",
                "--model",
                str(finished / "model"),
                "--history",
                "i1,i3",
                "-k",
                "5",
                "--json",
            ]
        )
        == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert (
        len(rows) == 5
        and not {r["item"] for r in rows} & {"i1", "i3"}
        and rows[0]["title"].endswith("& <b>")
    )


def test_a_known_user_is_not_shown_anything_of_the_log_again(finished, capsys):
    assert (
        cli.main(
            [
                "recommend",
                "--model",
                str(finished),
                "--user",
                "u7",
                "-k",
                "40",
                "--json",
            ]
        )
        == 0
    )
    shown = {r["item"] for r in json.loads(capsys.readouterr().out)}
    split = ContRec.from_pretrained(finished / "model").split
    u = split.user_number("u7")
    assert (
        not shown
        & {split.item_ids[i] for i in [*split.train[u], split.valid[u], split.test[u]]}
        and len(shown) == split.n_items - 10
    )


@pytest.mark.parametrize("preset", ["deftrec", "contrec-paper"])
def test_the_papers_presets_run(world, tmp_path, preset):
    assert (
        cli.main(
            arguments(world, tmp_path / "run", "--preset", preset, "--epochs", "1")
        )
        == 0
    )
    assert (
        read_json(tmp_path / "run" / "config.json")["config"]["embedding"]["kind"]
        == "lightgcn"
    )


# refusals: code 2, one or two lines, nothing half-written


def test_a_missing_column(world, tmp_path, capsys):
    refused(
        capsys,
        [
            "run",
            "--data",
            world / "log.csv",
            "--user-column",
            "usr",
            "--out",
            tmp_path / "r",
        ],
        "log.csv",
        "usr",
        "--user-column",
    )
    assert not (tmp_path / "r").exists()


def test_an_unparsable_timestamp(world, tmp_path, capsys):
    lines = (world / "log.csv").read_text().splitlines()
    lines[7] = "u1,i3,yesterday"
    (tmp_path / "bad.csv").write_text("\n".join(lines))
    refused(
        capsys,
        ["run", "--data", tmp_path / "bad.csv", "--out", tmp_path / "r"],
        "bad.csv",
        "8",
        "timestamp",
        "yesterday",
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("content", ["", "user,item,timestamp\n"])
def test_an_empty_file(tmp_path, capsys, content):
    (tmp_path / "empty.csv").write_text(content)
    refused(
        capsys,
        ["run", "--data", tmp_path / "empty.csv", "--out", tmp_path / "r"],
        "empty.csv",
    )
    assert not (tmp_path / "r").exists()


def test_no_file(tmp_path, capsys):
    refused(
        capsys,
        ["run", "--data", tmp_path / "none.csv", "--out", tmp_path / "r"],
        "none.csv",
    )


def test_nobody_left_after_the_core(world, tmp_path, capsys):
    refused(
        capsys,
        ["run", "--data", world / "log.csv", "--core", "500", "--out", tmp_path / "r"],
        "500",
        "--core",
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("core", ["0", "-3"])
def test_a_core_below_one(world, tmp_path, capsys, core):
    refused(
        capsys,
        ["run", "--data", world / "log.csv", f"--core={core}", "--out", tmp_path / "r"],
        core,
    )


def test_an_unknown_item_in_the_history(finished, capsys):
    refused(capsys, ["recommend", "--model", finished, "--history", "i1,i99"], "i99")


@pytest.mark.parametrize("history", ["", " , "])
def test_an_empty_history(finished, capsys, history):
    refused(capsys, ["recommend", "--model", finished, "--history", history], "empty")


def test_an_unknown_user(finished, capsys):
    refused(capsys, ["recommend", "--model", finished, "--user", "nobody"], "nobody")


@pytest.mark.parametrize("k", ["0", "-1"])
def test_a_list_of_no_items(finished, capsys, k):
    refused(capsys, ["recommend", "--model", finished, "--user", "u1", f"-k={k}"], k)


def test_an_unknown_dataset(tmp_path, capsys):
    refused(
        capsys,
        ["run", "--dataset", "ml-100", "--out", tmp_path / "r"],
        "ml-100",
        "ml-100k",
    )
    refused(capsys, ["data", "fetch", "nope"], "nope")
    assert not (tmp_path / "r").exists()


def test_an_option_that_would_be_ignored(tmp_path, capsys):
    refused(
        capsys,
        [
            "run",
            "--dataset",
            "ml-100k",
            "--rating-column",
            "stars",
            "--out",
            tmp_path / "r",
        ],
        "--rating-column",
        "--data",
    )


def test_a_download_that_was_altered(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "cache" / catalog.DATASETS["ml-100k"].folder
    folder.mkdir(parents=True)
    (folder / "u.data").write_text("1\t2\t3\t4\n")
    (folder / "u.item").write_text("x")
    monkeypatch.setenv("CONTREC_CACHE", str(tmp_path / "cache"))
    refused(capsys, ["run", "--dataset", "ml-100k", "--out", tmp_path / "r"], "u.data")
    assert not (tmp_path / "r").exists()


def test_an_output_folder_that_cannot_be_written(world, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    refused(capsys, arguments(world, tmp_path / "file" / "run"), "cannot write", "file")


def test_a_disk_that_fills_up(world, finished, tmp_path, capsys, monkeypatch):
    """Every write after the first fails as on a full disk.

    Afterwards there is room again, and the run goes on.
    """
    replace, calls = os.replace, []

    def full(a, b):
        calls.append(b)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        replace(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        refused(
            capsys,
            arguments(world, tmp_path / "run"),
            "No space left on device",
            tmp_path / "run",
        )
    assert not [p for p in (tmp_path / "run").rglob("*") if p.name.endswith(".part")]
    assert cli.main(arguments(world, tmp_path / "run", "--resume")) == 0
    assert systems(tmp_path / "run") == systems(finished)


@pytest.mark.parametrize(
    "damage",
    ["model.safetensors", "sequences.safetensors", "config.json", "catalogue.json"],
)
def test_a_damaged_model(finished, tmp_path, capsys, damage):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "model" / damage
    path.write_bytes(path.read_bytes()[:-30])
    refused(capsys, ["recommend", "--model", tmp_path / "run", "--user", "u1"], damage)


def test_a_model_that_is_not_there(tmp_path, capsys):
    refused(capsys, ["evaluate", "--model", tmp_path / "nothing"], "nothing")


def test_a_damaged_checkpoint(world, finished, tmp_path, capsys, monkeypatch):
    """The newest one costs an epoch.

    Only where both generations are damaged the run stops, with the remedy.
    """
    append = contrec.foundations.run_folder.Stages._append

    def stop(self, row):
        append(self, row)
        if (row["stage"], row["epoch"]) == ("recommender", 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(contrec.foundations.run_folder.Stages, "_append", stop)
        cli.main(arguments(world, tmp_path / "run"))
    capsys.readouterr()
    newest, before = (
        tmp_path / "run" / "stages" / f"recommender.checkpoint{x}.safetensors"
        for x in ("", ".previous")
    )
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    for path in (
        newest,
        tmp_path / "other" / newest.relative_to(tmp_path / "run"),
        tmp_path / "other" / before.relative_to(tmp_path / "run"),
    ):
        path.write_bytes(path.read_bytes()[:100])
    refused(
        capsys,
        arguments(world, tmp_path / "other", "--resume"),
        newest.name,
        before.name,
        "damaged",
        "Delete",
    )
    assert cli.main(arguments(world, tmp_path / "run", "--resume")) == 0
    assert "recommender.checkpoint.safetensors is damaged" in capsys.readouterr().err
    assert systems(tmp_path / "run") == systems(finished)


def test_a_folder_with_another_run(world, finished, capsys):
    refused(capsys, arguments(world, finished), "--resume")
    refused(capsys, arguments(world, finished, "--resume", "--seed", "5"), "seed")


def test_a_folder_with_something_else(world, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("do not touch")
    refused(capsys, arguments(world, tmp_path), "not a run")
    assert (tmp_path / "thesis.tex").read_text() == "do not touch"


def test_a_device_that_is_not_there(world, tmp_path, capsys):
    refused(capsys, arguments(world, tmp_path / "r", "--device", "warp9"), "warp9")


def test_every_command_has_help_worth_reading(capsys):
    for command in (
        ["run"],
        ["evaluate"],
        ["recommend"],
        ["data"],
        ["data", "list"],
        ["data", "fetch"],
        [],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--help"])
        assert stop.value.code == 0
        assert len(capsys.readouterr().out.split()) > 15


def test_data_list_names_every_set(capsys):
    assert cli.main(["data", "list"]) == 0
    said = capsys.readouterr().out
    assert all(
        name in said
        for name in (
            "ml-100k",
            "ml-1m",
            "lastfm",
            "movietweetings-100k",
            "amazon-beauty",
        )
    )


def test_a_second_run_into_the_same_folder_is_refused(world, tmp_path, capsys):
    with contrec.foundations.run_folder.run_lock(tmp_path / "run"):
        refused(
            capsys,
            arguments(world, tmp_path / "run"),
            "another process is working in",
            tmp_path / "run",
        )
    assert not any(p.name != ".lock" for p in (tmp_path / "run").iterdir())


def test_a_folder_whose_first_write_was_killed_is_taken(world, finished, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".0123456789abcdef.part").write_text('{"dataset"')
    (out / ".lock").touch()  # of a process that died
    assert cli.main(arguments(world, out)) == 0
    assert (
        systems(out) == systems(finished)
        and sorted(p.name for p in out.iterdir()) == FILES
    )


def test_a_resume_with_another_item_table_is_refused(world, finished, tmp_path, capsys):
    other = tmp_path / "world"
    shutil.copytree(world, other)
    shutil.copytree(finished, tmp_path / "run")
    kept = read_json(tmp_path / "run" / "config.json")
    items = (other / "items.csv").read_text()
    (other / "items.csv").write_text(items.replace("Item 7", "Another 7"))
    kept["source"] = kept["source"] | {
        k: v.replace(str(world), str(other))
        for k, v in kept["source"].items()
        if isinstance(v, str)
    }
    (tmp_path / "run" / "config.json").write_text(json.dumps(kept))
    refused(
        capsys, arguments(other, tmp_path / "run", "--resume"), "another item table"
    )


def test_an_altered_result_of_a_finished_run_is_not_believed(
    world, finished, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "metrics.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    refused(capsys, arguments(world, tmp_path / "run", "--resume"), "metrics.json")


def test_an_altered_model_needs_to_be_asked_for(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "model" / "catalogue.json"
    path.write_text(path.read_text().replace("Item 7,", "Another 7,"))
    refused(
        capsys,
        ["recommend", "--model", tmp_path / "run", "--user", "u1"],
        "catalogue.json",
    )
    assert (
        cli.main(
            [
                "recommend",
                "--model",
                str(tmp_path / "run"),
                "--user",
                "u1",
                "--no-verify",
            ]
        )
        == 0
    )


def test_a_hub_id_is_not_fetched_unless_told(world, tmp_path, capsys):
    refused(
        capsys,
        arguments(world, tmp_path / "run", "--backbone", "someone/a-model"),
        "someone/a-model",
        "--download",
    )
    assert not (tmp_path / "run").exists()


def test_where_memory_is_short_ease_is_left_out_and_the_run_goes_on(
    world, tmp_path, capsys, monkeypatch
):
    """Linear vectors need as much: they are refused before the folder is made.

    With others the run goes on without EASE.
    """
    for place in (
        "contrec.interface.job.linear_memory",
        "contrec.ranking.linear.ease_memory",
    ):
        # as if there were many more items
        monkeypatch.setattr(place, lambda n_items: 1e15)
    refused(
        capsys,
        arguments(world, tmp_path / "run"),
        "'linear' on",
        "needs",
        "may be used",
        "--embedding",
        "CONTREC_MEMORY_GB",
    )
    assert not (tmp_path / "run").exists()
    assert (
        cli.main(
            arguments(world, tmp_path / "run", "--embedding", "sasrec", "--epochs", "1")
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "EASE is left out: EASE on" in said and "Traceback" not in said
    assert "EASE" not in systems(tmp_path / "run") and "contrec" in systems(
        tmp_path / "run"
    )


def test_the_names_of_embeddings_are_kept(world, tmp_path):
    assert (
        cli.main(
            arguments(world, tmp_path / "run", "--embedding", "ials", "--epochs", "1")
        )
        == 0
    )
    kept = read_json(tmp_path / "run" / "config.json")["config"]
    assert kept["embedding"]["kind"] == "ials"


def test_a_list_longer_than_the_catalogue_has_a_row_per_item(
    finished, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "70")
    assert (
        cli.main(
            [
                "recommend",
                "--model",
                str(finished),
                "--history",
                "i1,i1,i3",
                "-k",
                "100000",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) <= ContRec.from_pretrained(finished / "model").split.n_items - 1
        and max(map(len, lines)) <= 70
    )
