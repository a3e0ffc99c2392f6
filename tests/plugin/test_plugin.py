"""Parts from outside the kit: trained, saved, loaded, compared and studied by path.

The package `workshop` beside this file has one part of each kind. Other processes find
it on `PYTHONPATH`, as they would find a package of a user.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from contrec.data.datasets import load_split
from contrec.foundations.errors import ConfigError
from contrec.foundations.registry import KINDS, names
from contrec.recommender.config import preset
from contrec.recommender.contrec import ContRec
from contrec.studies.runner import read_ablation

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DATA = "workshop.parts:two_shelves"
SETTINGS = {
    "embedding": {"kind": "workshop.parts:random_projection", "width": 8},
    "tokenizer": {"kind": "workshop.parts:LinearTokens", "width": 8},
    "backbone": {"name": "workshop.parts:SmallGPT2", "hidden": 16},
    "diffusion": {
        "ranking_loss": "workshop.parts:margin_ranking",
        "ranking_settings": {"margin": 0.2},
        "dispersive_variant": "workshop.parts:log_distance",
        "dispersive_settings": {"power": 2},
        "dispersive_weight": 0.1,
        "hidden": 16,
        "blocks": 1,
    },
    "training": {"epochs": 1, "tokenizer_epochs": 1},
}


def run_python(*arguments):
    """Run Python in a new process that can find the package."""
    path = os.pathsep.join(map(str, (HERE, ROOT)))
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "CONTREC_PROGRESS": "0"},
    )


@pytest.fixture(scope="module", autouse=True)
def workshop():
    """The package can be imported in this process too."""
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def model(workshop):
    """A ContRec all of whose parts come from the package, trained for an epoch."""
    config = preset("contrec-basic", **SETTINGS)
    return ContRec(config).fit(load_split(DATA))


def test_the_package_has_a_part_of_each_kind(model):
    source = (HERE / "workshop" / "parts.py").read_text()
    assert set(re.findall(r'@register\("(\w+)"\)', source)) == set(KINDS)
    assert "LinearTokens" in names("tokenizer")


def test_short_names_are_kept_as_paths(model):
    """What a folder or a worker is told must not depend on what was imported."""
    config = preset("contrec-basic", tokenizer={"kind": "LinearTokens"})
    assert config.tokenizer.kind == "workshop.parts:LinearTokens"
    with pytest.raises(ConfigError, match="unknown field 'margn'"):
        preset(
            "contrec-basic",
            diffusion=SETTINGS["diffusion"] | {"ranking_settings": {"margn": 1.0}},
        )


LOAD = """
import sys
from contrec.foundations.errors import ContrecError
from contrec.recommender.contrec import ContRec
folder, history = sys.argv[1], sys.argv[2].split(",")
try:
    ContRec.from_pretrained(folder)
except ContrecError as error:
    print(error)
assert "workshop" not in sys.modules
print(*ContRec.from_pretrained(folder, trust_code=True).recommend(history, 3)["item"])
print(*ContRec.from_pretrained(folder).recommend(history, 3)["item"])
"""


def test_a_saved_model_runs_its_code_in_another_process_if_allowed(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    history = list(model.split.item_ids[:4])
    done = run_python("-c", LOAD, tmp_path / "model", ",".join(history))
    assert done.returncode == 0, done.stderr
    refused, first, again = done.stdout.splitlines()
    assert "not run unasked" in refused and "--trust-code" in refused
    # Once approved, the code is known to the process
    assert first == again == " ".join(model.recommend(history, 3)["item"])


def test_the_command_line_asks_for_the_same_permission(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    command = ["-m", "contrec", "evaluate", "--model", tmp_path / "model"]
    done = run_python(*command)
    assert done.returncode == 2 and "not run unasked" in done.stderr
    done = run_python(*command, "--trust-code")
    assert done.returncode == 0 and '"NDCG@10"' in done.stdout, done.stderr


def test_a_comparison_with_two_workers(tmp_path):
    systems = ["workshop.parts:Neighbours", "popularity"]
    options = ["--workers", "2", "--tune", "--out", tmp_path / "compare"]
    command = ["compare", "--datasets", DATA, "--systems", *systems, *options]
    done = run_python("-m", "contrec", *command)
    assert done.returncode == 0, done.stderr
    assert "2 trials for workshop.parts:Neighbours" in done.stdout
    assert all(name in done.stdout for name in ("two shelves", *systems))


def test_a_study_with_two_workers(tmp_path):
    study = {
        "run": "tokenizer",
        "datasets": [DATA],
        "fixed": {"input": 8, "steps": 2, "tokenizer.width": 8},
        "default": {"tokenizer.kind": "workshop.parts:LinearTokens"},
        "factors": {"tokenizer.kind": ["workshop.parts:NoisyQuantizer"]},
        "seeds": [0],
    }
    grid = tmp_path / "mine.yaml"
    grid.write_text(yaml.safe_dump(study))
    options = ["--workers", "2", "--out", tmp_path / "study"]
    done = run_python("-m", "contrec", "ablate", grid, *options)
    assert done.returncode == 0, done.stderr
    table = read_ablation(tmp_path / "study")
    kinds = {"workshop.parts:LinearTokens", "workshop.parts:NoisyQuantizer"}
    assert set(table["tokenizer.kind"]) == kinds and table["mse"].notna().all()
    assert "workshop.parts:NoisyQuantizer" in done.stdout


def test_the_page_for_contributors_shows_this_code():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    source = (HERE / "workshop" / "parts.py").read_text(encoding="utf-8")
    assert len(blocks) == 1 + len(KINDS)
    for block in blocks:
        assert block in source, "CONTRIBUTING.md and tests/plugin differ"
