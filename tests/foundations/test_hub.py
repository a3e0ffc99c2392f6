"""Model folders from strangers: no code runs, nothing is downloaded, and a refusal is
one line.
"""

import builtins
import json
import pickle
import shutil
import socket
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from contrec.foundations.errors import CheckpointError, ConfigError, ContrecError
from contrec.foundations.hub import check_model_folder, load_text, model_folder
from contrec.language_model.backbone import Backbone
from contrec.language_model.prompts import TEMPLATES, word_tokenizer
from contrec.tokenizer.text_vectors import SentenceVectors


@pytest.fixture(autouse=True)
def sealed(monkeypatch, tmp_path):
    """No network, no questions, no stranger's code.

    Attempts are noted, and the test fails at its end.
    """
    attempts = []

    def refuse(what):
        def attempt(*args, **kwargs):
            attempts.append(f"{what} {args[-1:]}")
            raise OSError(f"{what} is not allowed")

        return attempt

    class Silent:
        read = readline = fileno = refuse("stdin")

        def isatty(self):
            return True

    monkeypatch.setattr(socket.socket, "connect", refuse("connect"))
    monkeypatch.setattr(socket, "create_connection", refuse("connection"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse("name lookup"))
    monkeypatch.setattr(sys, "stdin", Silent())
    monkeypatch.setattr(builtins, "input", refuse("input"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("CONTREC_TEST_MARK", str(tmp_path / "ran"))
    yield attempts
    assert not attempts and not (tmp_path / "ran").exists()


EVIL = "import os, pathlib\npathlib.Path(os.environ['CONTREC_TEST_MARK']).touch()\n"


class Bomb:
    def __reduce__(self):
        return exec, (EVIL,)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A small language model as anyone would save it."""
    import pandas as pd

    folder = tmp_path_factory.mktemp("honest") / "model"
    items = pd.DataFrame(
        {"item": ["a"], "title": ["A"], "categories": [("x", "y")], "text": ["A"]}
    )
    text = word_tokenizer(TEMPLATES["tokens"], items)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(text),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    ).save_pretrained(folder)
    text.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(honest, tmp_path):
    """A copy to be spoiled, with a program in it."""
    copy = tmp_path / "model"
    shutil.copytree(honest, copy)
    (copy / "evil.py").write_text(EVIL + "class Model: pass\n")
    return copy


def change(path, **values):
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | values))


def to_pickle(folder):
    (folder / "model.safetensors").unlink()
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump(Bomb(), file)


def index_outside(folder):
    shutil.move(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(
            {
                "metadata": {},
                "weight_map": {"model.embed_tokens.weight": "../elsewhere.safetensors"},
            }
        )
    )


HOSTILE = {
    "model code": (
        lambda f: change(
            f / "config.json",
            auto_map={"AutoConfig": "evil.Model", "AutoModelForCausalLM": "evil.Model"},
        ),
        "code of its own",
    ),
    "model code of a new type": (
        lambda f: change(
            f / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Model"}
        ),
        "code of its own",
    ),
    "model code on the hub": (
        lambda f: change(
            f / "config.json",
            auto_map={"AutoModelForCausalLM": "someone/else--evil.Model"},
        ),
        "code of its own",
    ),
    "nested code": (
        lambda f: change(
            f / "config.json", text_config={"auto_map": {"AutoConfig": "evil.Model"}}
        ),
        "code of its own",
    ),
    "tokenizer code": (
        lambda f: change(
            f / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["evil.Model", "evil.Model"]},
        ),
        "code of its own",
    ),
    "generation code": (
        lambda f: change(f / "generation_config.json", custom_generate="someone/else"),
        "code of its own",
    ),
    "kernel": (
        lambda f: change(f / "config.json", _attn_implementation="someone/kernel"),
        "attention from elsewhere",
    ),
    "pickle": (to_pickle, "pickle"),
    "adapter": (
        lambda f: change(
            f / "adapter_config.json",
            base_model_name_or_path="someone/else",
            peft_type="LORA",
        ),
        "adapter for another model",
    ),
    "index outside": (index_outside, "not in the folder"),
    "weights outside": (
        lambda f: change(f / "config.json", transformers_weights="../x.safetensors"),
        "outside of its folder",
    ),
    "no json": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "cannot be loaded"),
    "unknown type": (
        lambda f: change(f / "config.json", model_type="evil"),
        "cannot be loaded",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "cannot be loaded"),
    "weights of another shape": (
        lambda f: change(f / "config.json", hidden_size="many"),
        "cannot be loaded",
    ),
    "damaged weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"x" * 99),
        "cannot be loaded",
    ),
}


def test_an_honest_folder_is_loaded(folder):
    backbone = Backbone(str(folder), 16)
    described = backbone.base_model()
    assert (
        set(described) == {"name", "revision", "weights_sha256", "vocabulary_sha256"}
        and described["revision"] is None
    )
    assert described == Backbone(str(folder), 16).base_model()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_base_model_is_refused_in_a_line(folder, kind):
    spoil, words = HOSTILE[kind]
    spoil(folder)
    with pytest.raises(ConfigError, match=words) as caught:
        Backbone(str(folder), 16)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "kind", ["model code", "tokenizer code", "pickle", "adapter", "no config"]
)
def test_a_hostile_sentence_encoder_is_refused_in_a_line(folder, kind):
    HOSTILE[kind][0](folder)
    with pytest.raises(ConfigError) as caught:
        SentenceVectors(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pickle_beside_safetensors_is_never_opened(folder):
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump(Bomb(), file)
    Backbone(str(folder), 16)


@pytest.mark.parametrize("name", ["someone/a-model", "gpt2", "someone/a-model:2"])
def test_a_hub_id_is_not_fetched_unless_told(name):
    for make in (lambda: Backbone(name, 16), lambda: SentenceVectors(name)):
        with pytest.raises(
            ConfigError, match="--download" if ":" not in name else "download|neither"
        ) as caught:
            make()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/nowhere/at/all",
        "https://example.org/a/model",
        "a/b/c",
        "",
        "x\0y",
        "~nobody/x",
    ],
)
def test_a_name_that_is_neither_folder_nor_id_is_refused(name):
    for download in (False, True):
        with pytest.raises(ConfigError):
            model_folder(name, download)


def test_the_kits_own_models_are_not_fetched_where_nothing_may_be(tmp_path):
    with pytest.raises(ConfigError, match="nothing says to fetch it"):
        Backbone("smollm2-135m", 16, cache=tmp_path, download=False)
    with pytest.raises(ConfigError, match="nothing says to fetch it"):
        SentenceVectors("minilm", cache=tmp_path, download=False)


def test_told_to_download_it_asks_the_hub_and_the_environment_can_forbid_it(
    monkeypatch,
):
    asked = []

    def snapshot(name, **how):
        asked.append((name, how["local_files_only"]))
        raise ConnectionError("no route")

    monkeypatch.setattr("contrec.foundations.hub.snapshot_download", snapshot)
    with pytest.raises(ConfigError, match="could not be fetched"):
        Backbone("someone/a-model", 16, download=True)
    with pytest.raises(ConfigError, match="nothing says to fetch it"):
        Backbone("someone/a-model", 16)
    assert asked == [("someone/a-model", False), ("someone/a-model", True)]


def test_what_came_from_the_hub_is_looked_through_too(folder, monkeypatch):
    HOSTILE["model code"][0](folder)
    monkeypatch.setattr(
        "contrec.foundations.hub.snapshot_download", lambda name, **how: str(folder)
    )
    with pytest.raises(ConfigError, match="code of its own"):
        Backbone("someone/a-model", 16, download=True)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (
            lambda f: change(
                f / "tokenizer_config.json",
                auto_map={"AutoTokenizer": ["evil.Model", None]},
            ),
            "code of its own",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "does not exist"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "damaged"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "damaged"),
        (lambda f: shutil.rmtree(f), "does not exist"),
    ],
)
def test_a_hostile_vocabulary_is_refused_in_a_line(folder, spoil, words):
    spoil(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_text(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_tokenizer_class_of_a_stranger_runs_nothing(folder):
    change(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    try:
        load_text(folder)
        Backbone(str(folder), 16)
    except ContrecError as error:
        assert len(str(error).splitlines()) == 1


def test_a_saved_backbone_cannot_name_the_hub(folder, tmp_path):
    backbone = Backbone(str(folder), 16)
    backbone.save(tmp_path / "saved")
    for name in ("someone/else", "../../x", "https://example.org/x", 5, None):
        change(tmp_path / "saved" / "config.json", name=name)
        with pytest.raises(ContrecError):
            Backbone.load(tmp_path / "saved")
    change(tmp_path / "saved" / "config.json", name="someone/else", download=True)
    with pytest.raises(CheckpointError, match="not what was written"):
        Backbone.load(tmp_path / "saved")


def test_other_weights_or_words_of_a_base_model_have_another_fingerprint(folder):
    before = Backbone(str(folder), 16).base_model()
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    model.save_pretrained(folder)
    after = Backbone(str(folder), 16).base_model()
    assert (
        after["weights_sha256"] != before["weights_sha256"]
        and after["vocabulary_sha256"] == before["vocabulary_sha256"]
    )


def test_an_unreadable_folder_is_said_to_be_that(folder, monkeypatch):
    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", closed)
    with pytest.raises(ConfigError, match="may not be read"):
        check_model_folder(folder)
