"""A saved model is checked: every altered, swapped or missing file is named."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from crash_points import crash_at, left_behind
from tiny_model import tiny

from contrec.data.reading import read_items, read_log
from contrec.data.split import leave_one_out
from contrec.foundations.errors import CheckpointError, ConfigError
from contrec.foundations.files import load_tensors, save_tensors
from contrec.foundations.storage import MANIFEST
from contrec.recommender.checkpoints import sequences_sha256
from contrec.recommender.config import NAMED_PARTS
from contrec.recommender.contrec import ContRec


@pytest.fixture(scope="module")
def model(small_split):
    return ContRec(tiny()).fit(small_split)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def answers(model):
    return model.score(model.split.histories("test").take(np.arange(5)))


def refused(folder, *words, **how):
    with pytest.raises(CheckpointError) as caught:
        ContRec.from_pretrained(folder, **how)
    said = str(caught.value)
    assert len(said.splitlines()) == 1, said
    for word in words:
        assert word in said, said
    return said


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_file_is_in_the_manifest_and_nothing_is_left_beside(saved, model):
    manifest = json.loads((saved / MANIFEST).read_text())
    names = {
        p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()
    } - {MANIFEST}
    assert (
        set(manifest["files"]) == names
        and {
            "config.json",
            "catalogue.json",
            "model.safetensors",
            "sequences.safetensors",
            "text/tokenizer.json",
        }
        <= names
    )
    assert (
        manifest["facts"]["sequences_sha256"]
        == manifest["facts"]["split_sha256"]
        == model.split.sha256
    )
    assert manifest["facts"]["base_model"] is None and not left_behind(saved.parent)
    assert np.array_equal(answers(ContRec.from_pretrained(saved)), answers(model))


def test_a_runs_folder_is_taken_too(saved, tmp_path, model):
    shutil.copytree(saved, tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert np.array_equal(
        answers(ContRec.from_pretrained(tmp_path / "run")), answers(model)
    )
    shutil.rmtree(tmp_path / "run" / "model")
    refused(tmp_path / "run", "no model yet", "--resume")


def test_flipped_bits_are_noticed_wherever_they_are(folder):
    random = np.random.default_rng(0)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        before = path.read_bytes()
        for bit in random.integers(0, 8 * len(before), 8):
            flip(path, int(bit))
            refused(folder, path.name)
            path.write_bytes(before)


def test_a_missing_file_is_named(folder):
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        kept = path.read_bytes()
        path.unlink()
        refused(folder, path.name)
        path.write_bytes(kept)


def test_a_file_that_would_be_loaded_and_does_not_belong_there_is_named(folder):
    (folder / "text" / "added_tokens.json").write_text("{}")
    refused(folder, "added_tokens.json", "does not belong there")


def test_files_of_another_model_are_noticed(folder, small_split, tmp_path):
    ContRec(tiny(seed=1)).fit(small_split).save_pretrained(tmp_path / "other")
    for name in ("model.safetensors", "config.json"):
        kept = (folder / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, folder / name)
        refused(folder, name)
        (folder / name).write_bytes(kept)


def resigned(folder):
    """The manifest as if the files had always been so.

    What remains is whether they fit each other.
    """
    from contrec.foundations.storage import read_manifest, write_manifest

    facts = read_manifest(folder / MANIFEST, "model").facts
    write_manifest(folder / MANIFEST, "model", **facts)


def test_swapped_ids_and_another_split_are_noticed_even_with_a_fitting_manifest(
    folder, world
):
    table = json.loads((folder / "catalogue.json").read_text())
    original = json.dumps(table)
    rows = table["items"]
    rows[0][0], rows[1][0] = rows[1][0], rows[0][0]
    (folder / "catalogue.json").write_text(json.dumps(table))
    resigned(folder)
    refused(folder, "sequences", MANIFEST)
    (folder / "catalogue.json").write_text(original)
    resigned(folder)
    ContRec.from_pretrained(folder)
    other = leave_one_out(
        read_log(world / "log.csv", items=read_items(world / "items.csv")), seed=3
    )
    tensors = {
        "values": other.train.values,
        "offsets": other.train.offsets,
        "valid": other.valid,
        "test": other.test,
    }
    save_tensors(
        folder / "sequences.safetensors",
        {k: torch.from_numpy(v) for k, v in tensors.items()},
    )
    resigned(folder)
    refused(folder, "sequences")


def test_a_title_that_was_changed_is_noticed_even_with_a_fitting_manifest(folder):
    table = json.loads((folder / "catalogue.json").read_text())
    table["items"][0][1] = "another"
    (folder / "catalogue.json").write_text(json.dumps(table))
    resigned(folder)
    refused(folder, "items")
    assert (
        ContRec.from_pretrained(folder, verify=False).split.items["title"][0]
        == "another"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"users": {}},
        lambda t: t | {"users": [1] * len(t["users"])},
        lambda t: t | {"users": t["users"][:1] * len(t["users"])},
        lambda t: t | {"items": []},
        lambda t: t | {"items": [["a"]]},
        lambda t: t | {"items": [[1, "t", [], ""]]},
        lambda t: t | {"items": [["a", "t", "drama", ""]]},
        lambda t: t | {"items": [["a", "t", [2], ""]]},
        lambda t: t | {"sha256": None},
        lambda t: {},
        lambda t: [],
        lambda t: 3,
        lambda t: None,
        lambda t: {k: v for k, v in t.items() if k != "name"},
    ],
)
def test_a_catalogue_of_another_form_is_refused(folder, change):
    path = folder / "catalogue.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    refused(folder, "catalogue.json", verify=False)


@pytest.mark.parametrize(
    "change",
    [
        {"values": torch.tensor([10**6])},
        {"valid": -1},
        {"test": 10**6},
        {"offsets": torch.zeros(3, dtype=torch.int64)},
        {"values": torch.zeros(3)},
        {"valid": torch.zeros(2, 2, dtype=torch.int64)},
        {"offsets": "backwards"},
        {"offsets": "negative"},
        {"test": None},
    ],
)
def test_sequences_that_cannot_be_are_refused(folder, change):
    path = folder / "sequences.safetensors"
    tensors = dict(load_tensors(path).tensors)
    for name, value in change.items():
        if value is None:
            del tensors[name]
        elif value == "backwards" if isinstance(value, str) else False:
            tensors[name][1:-1] = tensors[name][1:-1].flip(0)
        elif isinstance(value, str):
            tensors[name][0] = -1
        elif isinstance(value, int):
            tensors[name][0] = value
        else:
            tensors[name] = value
    save_tensors(path, tensors)
    refused(folder, "sequences.safetensors", verify=False)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": {"name": 7}},
        {"tokenizer": {"kind": "Evil"}},
        {"training": {"epochs": "many"}},
        {"diffusion": []},
        {"backbone": {"download": True}},
        {"unknown": 1},
        {"tokenizer": {"width": 9, "tokens": 1}},
        {"backbone": {"name": "someone/else"}},
        {"backbone": {"name": "../../x"}},
        {"backbone": {"name": "https://example.org/x"}},
    ],
)
def test_settings_of_another_form_are_refused(folder, change, monkeypatch):
    import socket

    def no(*_, **__):
        pytest.fail("went to the network")

    monkeypatch.setattr(socket.socket, "connect", no)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(folder, verify=False)


@pytest.mark.parametrize("value", [[], 3, None, "x"])
def test_settings_that_are_no_object_are_refused(folder, value):
    (folder / "config.json").write_text(json.dumps(value))
    refused(folder, "config.json", verify=False)


@pytest.mark.parametrize("place", NAMED_PARTS)
@pytest.mark.parametrize("name", ["strangers.module:Part", "subprocess:run"])
def test_code_from_outside_the_kit_is_not_run_unasked(folder, place, name):
    section, _, setting = place.partition(".")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for changed in (
        {place: name} | config,
        config | {place: name},
        config | {section: config[section] | {setting: name}},
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match="not run unasked") as caught:
            ContRec.from_pretrained(folder, verify=False)
        assert len(str(caught.value).splitlines()) == 1
    assert "strangers" not in sys.modules
    # With permission it is looked for, and there is no such package
    if name.startswith("strangers"):
        words = ("cannot be imported", "strangers")
        refused(folder, *words, verify=False, trust_code=True)


def test_a_vocabulary_that_asks_for_code_is_refused(folder):
    path = folder / "text" / "tokenizer_config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {"auto_map": {"AutoTokenizer": ["evil.Model", None]}}
        )
    )
    refused(folder, "code of its own", verify=False)


def test_a_model_without_a_manifest_says_so(folder):
    (folder / MANIFEST).unlink()
    refused(folder, MANIFEST, "--no-verify")
    ContRec.from_pretrained(folder, verify=False)


def test_other_weights_of_the_base_model_are_noticed(small_split, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from contrec.language_model.prompts import TEMPLATES, word_tokenizer

    base, text = (
        tmp_path / "base",
        word_tokenizer(TEMPLATES["tokens"], small_split.items),
    )
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(text),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    ).save_pretrained(base)
    text.save_pretrained(base)
    ContRec(tiny(backbone={"name": str(base), "rank": 2})).fit(
        small_split
    ).save_pretrained(tmp_path / "model")
    kept = answers(ContRec.from_pretrained(tmp_path / "model"))
    other = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    other.save_pretrained(base)
    refused(tmp_path / "model", "another", "the weights of the one here differ")
    assert not np.array_equal(
        answers(ContRec.from_pretrained(tmp_path / "model", verify=False)), kept
    )
    shutil.rmtree(base)
    refused(tmp_path / "model", "cannot be loaded")


def test_a_model_saved_or_replaced_and_killed_at_any_point_is_whole(
    model, saved, tmp_path
):
    expected = answers(model)
    # every fifth change; tests/test_storage.py does all of them with smaller files
    for n in range(0, 400, 5):
        for there in (False, True):
            folder = tmp_path / f"{n}{there}" / "model"
            if there:
                shutil.copytree(saved, folder)
            with crash_at(n + there) as crash:
                model.save_pretrained(folder)
            try:
                found = ContRec.from_pretrained(folder)
            except CheckpointError as error:
                assert not there and "does not exist" in str(error)
            else:
                assert np.array_equal(answers(found), expected)
            model.save_pretrained(folder)
            assert not left_behind(folder.parent)
            shutil.rmtree(folder.parent)
        if not crash.happened:
            break
    assert 40 < n < 399


def test_a_kept_model_killed_at_any_point_is_made_again(
    model, small_split, tmp_path, monkeypatch
):
    monkeypatch.setattr(ContRec, "fit", lambda self, split: model)
    for n in range(1, 400, 7):
        folder = tmp_path / str(n) / "kept"
        with crash_at(n) as crash:
            ContRec.fitted(tiny(), small_split, folder)
        assert np.array_equal(
            answers(ContRec.fitted(tiny(), small_split, folder)), answers(model)
        )
        assert not left_behind(folder.parent)
        if not crash.happened:
            break
    assert 40 < n < 399


def test_a_folder_with_something_else_is_left_alone(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="thesis.tex"):
        model.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_digest_of_the_sequences_is_the_splits_own(small_split, world):
    other = leave_one_out(
        read_log(world / "log.csv", items=read_items(world / "items.csv")), seed=5
    )
    assert (
        sequences_sha256(small_split) == small_split.sha256 == sequences_sha256(other)
    )


def test_a_model_goes_to_the_hub_and_back(model, tmp_path, monkeypatch):
    """A folder plays the hub; what is fetched is checked as any folder is."""
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, **how): ...

        def create_repo(self, repo_id, private, exist_ok):
            assert private
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path):
            shutil.copytree(folder_path, hub)

    monkeypatch.setattr("contrec.recommender.contrec.HfApi", Api)
    assert model.push_to_hub("me/films") == "https://hub/me/films"
    card = (hub / "README.md").read_text()
    assert "library_name: contrec" in card and "user ids and histories" in card
    assert 'from_pretrained("me/films", download=True)' in card

    def snapshot(name, allow_patterns, local_files_only):
        assert name == "me/films" and not local_files_only
        return str(hub)

    monkeypatch.setattr("contrec.foundations.hub.snapshot_download", snapshot)
    found = ContRec.from_pretrained("me/films", download=True)
    assert np.array_equal(answers(found), answers(model))
    flip(hub / "model.safetensors", 4321)
    refused("me/films", "model.safetensors", download=True)
    monkeypatch.delattr("contrec.foundations.hub.snapshot_download")
    refused("me/films", "does not exist")  # Without download nothing is asked

    def fails(*_, **__):
        raise OSError("no network")

    Api.upload_folder = fails
    with pytest.raises(ConfigError, match="no network.*hf auth login"):
        model.push_to_hub("me/films")
