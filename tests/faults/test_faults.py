"""A short sample of the fault campaign; `make faults` runs the long one."""

import time
from collections import Counter

import pytest

import contrec.interface.space
import contrec.recommender.config
import contrec.studies.ablation
import contrec.studies.comparison

from .campaign import Area, Fault, check_message, require
from .checkpoints import Checkpoints
from .commands import Commands
from .crashes import Crashes
from .edges import Edges
from .hostile import Hostile
from .items import Items
from .jsons import Jsons
from .logs import Logs
from .models import Models
from .races import Races

SEED = 20


@pytest.fixture(autouse=True, scope="module")
def as_before():
    """Undo what the areas change in this process: presets, drawings, data sets."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (contrec.recommender.config, "PRESETS"),
            (contrec.interface.space, "_umap_plane"),
            (contrec.studies.ablation, "load_split"),
            (contrec.studies.experiments, "load_split"),
            (contrec.studies.tuning, "load_split"),
        ):
            patch.setattr(module, name, getattr(module, name))
        patch.setitem(
            contrec.studies.ablation.RUNS,
            "model",
            contrec.studies.ablation.RUNS["model"],
        )
        yield
    contrec.studies.tuning.split_of.cache_clear()


def sample(area: type[Area], folder, trials: int) -> Counter:
    """Run the first trials of an area; return how often each outcome came."""
    made = area(folder / area.name)
    results = [made.trial(SEED, number) for number in range(trials)]
    failed = [f"{r.number} {r.told}: {r.why}" for r in results if r.outcome == "failed"]
    assert not failed, "\n".join(failed)
    made.close()
    return Counter(r.outcome for r in results)


def test_a_log_in_any_form_is_read_as_it_is_meant_or_refused_in_two_lines(tmp_path):
    found = sample(Logs, tmp_path, 2 * len(Logs.kinds))
    assert found["clean"] > 20 and found["refused"] > 20


def test_an_item_table_in_any_form_is_read_as_it_is_meant_or_refused_in_two_lines(
    tmp_path,
):
    found = sample(Items, tmp_path, 2 * len(Items.kinds))
    assert found["clean"] > 8 and found["refused"] > 8


def test_a_command_line_of_any_words_works_or_is_refused_in_two_lines(tmp_path):
    found = sample(Commands, tmp_path, 3 * len(Commands.kinds))
    assert found["clean"] > 5 and found["refused"] > 15


def test_a_json_file_with_any_value_anywhere_is_used_or_refused_in_two_lines(tmp_path):
    found = sample(Jsons, tmp_path, 4 * len(Jsons.kinds))
    assert found["clean"] > 5 and found["refused"] > 10


def test_a_log_at_the_edge_of_what_can_be_ranked_works_or_is_refused(tmp_path):
    found = sample(Edges, tmp_path, 8)
    assert found["clean"] > 1 and found["refused"] > 1


def test_an_altered_model_is_never_believed(tmp_path):
    found = sample(Models, tmp_path, 2 * len(Models.kinds))
    assert found["refused"] > 25


def test_a_strangers_folder_runs_no_code_and_fetches_nothing(tmp_path):
    found = sample(Hostile, tmp_path, 2 * len(Hostile.kinds))
    assert found["refused"] > 10


def test_a_killed_command_goes_on_as_if_nothing_had_happened(tmp_path):
    found = sample(Crashes, tmp_path, 10)
    assert found["clean"] == 10


def test_a_damaged_checkpoint_costs_an_interval_and_never_the_run(tmp_path):
    assert sample(Checkpoints, tmp_path, 5).total() == 5


def test_two_processes_in_one_folder_do_not_disturb_each_other(tmp_path):
    assert sample(Races, tmp_path, 3).total() == 3


# The campaign itself


class Wrong(Area):
    """An area in which everything goes wrong."""

    name = "wrong"
    kinds = ("fault", "traceback", "exit", "hang", "fine")
    limit = 0.2

    def attempt(self, kind, random, place):
        require(kind != "fault", "what must not be")
        if kind == "traceback":
            raise KeyError("seconds")
        if kind == "exit":
            raise SystemExit(1)
        if kind == "hang":
            time.sleep(20)
        return "clean"


def test_the_campaign_counts_faults_tracebacks_exits_and_hangs_as_failures(tmp_path):
    area = Wrong(tmp_path / "wrong")
    results = [area.trial(0, n) for n in range(5)]
    assert [r.outcome for r in results] == ["failed"] * 4 + ["clean"]
    assert "what must not be" in results[0].why and "KeyError" in results[1].why
    assert "no end" in results[3].why


def test_a_trial_is_the_same_whatever_ran_before_it(tmp_path):
    one, other = Logs(tmp_path / "one"), Logs(tmp_path / "other")
    one.trial(3, 0)
    assert one.trial(3, 7).told == other.trial(3, 7).told
    assert one.trial(4, 7).told != other.trial(3, 7).told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\nb\nc",
        "Traceback (most recent call last)",
        "\x1b[31m",
        "\u202ea",
        "x" * 5000,
    ],
)
def test_a_refusal_that_nobody_can_read_is_a_fault(text):
    with pytest.raises(Fault):
        check_message(text)


def test_a_split_that_is_not_the_files_is_a_fault(tmp_path, monkeypatch):
    """The oracle is not the reader: a reader that drops a row is caught."""
    from contrec.data.reading import read_log as read

    def careless(path, **options):
        log = read(path, **options)
        object.__setattr__(log, "frame", log.frame.iloc[1:])
        return log

    monkeypatch.setattr(f"{Logs.__module__}.read_log", careless)
    result = Logs(tmp_path / "logs").trial(SEED, Logs.kinds.index("shuffled"))
    assert result.outcome == "failed" and "another split" in result.why
