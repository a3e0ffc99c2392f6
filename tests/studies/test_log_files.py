"""Test studies on logs of one's own.

A log goes through `compare` and `ablate` as a named set does, in worker processes too,
and its records say what it was.
"""

import random

import pytest

from contrec.data.log_files import LogFile, data_facts, load_split
from contrec.data.reading import read_items, read_log
from contrec.data.split import leave_one_out
from contrec.foundations.errors import ConfigError, DataError
from contrec.interface import cli
from contrec.ranking.evaluation import evaluate
from contrec.ranking.linear import EASE
from contrec.studies.runner import read_ablation
from contrec.studies.study_tables import read_records, read_study_table

COLUMNS = [
    "--user-column",
    "who",
    "--item-column",
    "what",
    "--timestamp-column",
    "when",
]
NAMED = {"user": "who", "item": "what", "timestamp": "when"}
GRID = """
run: tokenizer  # Seconds, not hours
datasets: [ml-100k]
fixed: {input: 8, steps: 4}
default:
  tokenizer: {kind: SigmaVAE, width: 4}
factors:
  tokenizer:
    - {kind: SigmaVAE, width: 2}
seeds: [0]
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    "A log of 60 users, with times that tie, and its item table."
    folder, draw = tmp_path_factory.mktemp("own"), random.Random(0)
    rows = [
        f"u{u};i{(u + 3 * t + draw.randrange(3)) % 25};{t // 2}"
        for u in range(60)
        for t in range(8)
    ]
    (folder / "plays.v2.csv").write_text("\n".join(["who;what;when", *rows]))
    items = [f"i{i},Title {i}" for i in range(25)]
    (folder / "songs.csv").write_text("\n".join(["id,name", *items]))
    return folder / "plays.v2.csv"


def options(log):
    items = ["--items", str(log.parent / "songs.csv"), "--items-id-column", "id"]
    return ["--data", str(log), *COLUMNS, *items, "--title-column", "name"]


def test_a_comparison_on_a_log(log, tmp_path, capsys):
    ask = ["compare", *options(log), "--systems", "ease", "popularity", "--tune"]
    for more in (["--workers", "2"], []):
        assert cli.main([*ask, "--out", str(tmp_path), *more]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 trainings are kept from before" in shown and "\nplays\n" in shown
    items = read_items(log.parent / "songs.csv", item="id", title="name")
    split = leave_one_out(
        read_log(log, **NAMED, items=items), core=5, repeats="keep", ties="random"
    )
    records = read_records(tmp_path).set_index("system")
    ease = records.loc["ease"]
    found = evaluate(EASE(**ease["config"]).fit(split), split)
    assert ease["split_sha256"] == split.sha256 and (ease["ranks"] == found.ranks).all()
    data = ease["data"]
    assert (data["file"], data["items"]) == ("plays.v2.csv", "songs.csv")
    assert (data["core"], data["repeats"], data["ties"]) == (5, "keep", "random")
    assert data["report"]["rows"] == 480 and data["report"]["titles"] == 25
    assert data["report"]["split"]["users"] == split.n_users
    assert "u1" not in str(data) and str(log.parent) not in str(data)


def test_ties_in_the_files_order_may_be_shuffled(log, tmp_path, capsys):
    ask = ["compare", *options(log), "--systems", "ease", "--out", str(tmp_path)]
    assert cli.main([*ask, "--shuffle-ties"]) == 2
    assert "are in random order already" in capsys.readouterr().err
    for more in ([], ["--shuffle-ties"]):
        assert cli.main([*ask, "--ties", "file", *more]) == 0
    records = read_records(tmp_path)
    assert records["dataset"].tolist() == ["plays", "plays, ties shuffled"]
    assert records["split_sha256"].nunique() == 2


def test_an_ablation_on_a_log(log, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(GRID)
    ask = ["ablate", str(tmp_path / "grid.yaml"), *options(log)]
    out = tmp_path / "out"
    assert cli.main([*ask, "--out", str(out), "--workers", "2"]) == 0
    assert "plays, mse" in capsys.readouterr().out
    records = read_ablation(out)
    assert len(records) == 2 and records["mse"].notna().all()
    table = read_study_table(out)
    for context, data in zip(table["context"], table["data"]):
        assert context["dataset"] == "plays" and data["file"] == "plays.v2.csv"
    assert table["context"].map(lambda c: c["split_sha256"]).nunique() == 1


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--datasets", "ml-100k", "--core", "3"], "--core describes your own log"),
        (["--datasets", "ml-100k", "--user-column", "a"], "--user-column describes"),
        (["--data", "no/such.csv"], "no/such.csv cannot be read: No such file"),
        (["--data", __file__, "--title-column", "a"], "needs --items FILE"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(tmp_path, capsys, arguments, says):
    ask = ["compare", *arguments, "--systems", "ease", "--out", str(tmp_path / "out")]
    assert cli.main(ask) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_is_read_again(log, tmp_path):
    path = tmp_path / "plays.csv"
    path.write_bytes(log.read_bytes())
    own = LogFile(str(path), tuple(NAMED.items()))
    first = load_split(own)
    assert load_split(own) is first and data_facts("ml-100k", first) == {}
    path.write_text(path.read_text() + "\nu0;i1;9")
    assert load_split(own).sha256 != first.sha256
    with pytest.raises(ConfigError, match="random order already"):
        load_split(own, ties="random")
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_split(own)
