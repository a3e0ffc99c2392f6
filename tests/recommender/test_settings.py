"""Settings: types, ranges, near names, fixed presets, a check before training."""

import copy
import dataclasses
import json
import pickle
import random
from collections.abc import Mapping

import numpy as np
import pytest
import torch

import contrec.recommender.config
import contrec.recommender.contrec
from contrec.data.interactions import Ragged
from contrec.diffusion.diffusion import PRESETS as DIFFUSION_PRESETS
from contrec.diffusion.diffusion import preset as diffusion_preset
from contrec.foundations.errors import ConfigError, ContrecError, DataError
from contrec.foundations.random import seeded
from contrec.foundations.registry import _FOUND, names, register
from contrec.recommender.config import (
    LIMITS,
    PRESETS,
    SECTIONS,
    ContRecConfig,
    DecodingConfig,
    TrainingConfig,
    describe,
    differences,
    make_section,
    nested,
    preset,
    section_class,
)
from contrec.recommender.contrec import ContRec
from contrec.tokenizer.embeddings import Embeddings
from contrec.tokenizer.sigma_vae import Tokenizer

SHORT = dict(
    training={"epochs": 1, "tokenizer_epochs": 2},
    embedding={"width": 8},
    diffusion={"hidden": 16, "blocks": 1},
)
WRONG = [
    None,
    True,
    False,
    0,
    -1,
    3.0,
    0.5,
    10**40,
    -(10**40),
    float("nan"),
    float("inf"),
    "",
    "x",
    "1",
    "é" * 300,
    "\n",
    [],
    [1],
    [[]],
    {},
    {"x": 1},
    {"x": {"y": [None]}},
    np.int64(3),
    object(),
]


def one_or_two_lines(error):
    lines = str(error).splitlines()
    return 0 < len(lines) <= 2 and len(str(error)) < 2000


@pytest.mark.parametrize("name", [*SECTIONS, "seed"])
def test_any_value_of_any_section_is_taken_or_refused_in_a_line(name):
    for value in WRONG:
        try:
            preset("contrec", **{name: value})
        except ConfigError as error:
            assert one_or_two_lines(error), (value, str(error))


@pytest.mark.parametrize("name", [*describe(preset()).index, "diffusion.no such"])
def test_any_value_of_any_setting_is_taken_or_refused_in_a_line(name):
    refused = 0
    for value in WRONG:
        try:
            preset("contrec", **{name: value})
        except ConfigError as error:
            refused += 1
            assert one_or_two_lines(error), (name, value, str(error))
    assert refused > 0.5 * len(WRONG)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"training": {"epochs": 3.0}}, "epochs is 3.0. It must be a whole number"),
        ({"training": {"epochs": True}}, "epochs is True. It must be a whole number"),
        ({"training": {"epochs": 0}}, "epochs is 0. It must be at least 1"),
        ({"training": {"lr": "0.1"}}, "lr is '0.1'. It must be a number"),
        ({"training": {"lr": float("nan")}}, "must be a finite number"),
        ({"training": {"fine_tune": 1}}, "fine_tune is 1. It must be true or false"),
        ({"prompt": {"max_items": 10**12}}, "must be at most 1,000,000"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"training": {"patience": 0}}, "patience is 0"),
        ({"prompt": {"user_decays": [1.0, "a"]}}, r"user_decays\[1\] is 'a'"),
        ({"prompt": {"user_decays": 1.0}}, "user_decays is 1.0. It must be a list"),
        ({"backbone": {"name": "tyni"}}, "Did you mean 'tiny'"),
        ({"backbone": {"name": "smollm-135m"}}, "Did you mean 'smollm2-135m'"),
        ({"embedding": {"kind": "lineer"}}, "Did you mean 'linear'"),
        ({"tokenizer": {"kind": "SigmaVEA"}}, "Did you mean 'SigmaVAE'"),
        ({"tokeniser": {"kind": "SigmaVAE"}}, "Did you mean 'tokenizer'"),
        ({"training": {"epoch": 3}}, "Did you mean 'training.epochs'"),
        ({"training.epoch": 3}, "Did you mean 'training.epochs'"),
        ({"epoch": 3}, "Did you mean 'training.epochs'"),
        ({"epochs": 3}, "Did you mean 'training.epochs'"),
        ({"decoding": {"epochs": 3}}, "Did you mean 'training.epochs'"),
        ({"diffusion": {"taus": 0.1}}, "Did you mean 'diffusion.tau'"),
        ({"diffusion": {"T": 0}}, "T is 0"),
        ({"diffusion": {"T": 200.0}}, "T is 200.0. It must be a whole number"),
        ({"diffusion": {"schedule": "cosin"}}, "cosin"),
        (
            {
                "diffusion": {
                    "parameterisation": "eps",
                    "zero_terminal": True,
                    "ranking_loss": "none",
                }
            },
            "pure noise",
        ),
        ({"diffusion": None}, "diffusion is None. It must be an object"),
        ({"tokenizer": {"widht": 8}}, "Did you mean 'tokenizer.width'"),
        ({"tokenizer": {"mask": 1.5}}, "mask is 1.5"),
        ({"tokenizer": {"width": 0}}, "width is 0"),
        ({"tokenizer": {"d_in": 8}}, "unknown setting 'tokenizer.d_in' of SigmaVAE"),
        (
            {"tokenizer": {"kind": "VectorQuantizer", "tokens": 2}},
            "'tokenizer.tokens' of VectorQuantizer",
        ),
        ({"tokenizer": {"kind": "no.such:Thing"}}, "module cannot be imported"),
        ({"backbone": {"heads": 5}}, "cannot be shared by 5 heads"),
        ({"backbone": {"dropout": 1}}, "dropout is 1. It must be below 1"),
        ({"backbone": {"dtype": "int8"}}, "unknown number format 'int8'"),
        ({"backbone": {"text": "tiny"}}, "unknown setting 'backbone.text' of tiny"),
        ({"embedding": {"width": 0}}, "width is 0"),
        ({"embedding": {"epochs": "5"}}, "epochs is '5'"),
        ({"embedding": {"seed": 3}}, "unknown setting 'embedding.seed'"),
        ({"training": 5, "training.epochs": 3}, "Give one of the two"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(changes, says):
    with pytest.raises(ConfigError, match=says) as found:
        preset("contrec", **changes)
    assert len(str(found.value).splitlines()) == 1


def test_a_section_is_checked_when_it_is_made():
    with pytest.raises(ConfigError, match="training: epochs is 0"):
        TrainingConfig(epochs=0)
    with pytest.raises(ConfigError, match="decoding: noise_scale is 'loud'"):
        DecodingConfig(noise_scale="loud")
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset().training.epochs = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset().tokenizer.width = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset().seed = 3


def test_every_number_has_a_range():
    table = describe(preset("contrec"))
    plain = ("training", "decoding", "prompt", "retrieval")
    numbers = [
        name.split(".")
        for name, kind in table["type"].items()
        if kind.removesuffix(" | None") in ("int", "float") and name.startswith(plain)
    ]
    assert len(numbers) > 15
    assert not [name for section, name in numbers if name not in LIMITS[section]]


def test_whole_numbers_may_stand_for_fractions():
    whole = {"training.lr": 1, "diffusion.tau": 1, "decoding.guidance": 0}
    config = preset("contrec", **whole)
    assert config.training.lr == 1
    assert config == preset("contrec", **{name: float(v) for name, v in whole.items()})


def test_what_is_not_an_object_is_no_config():
    for value in (None, [], "x", 5, {"training": {"epochs": {}}}, {1: 2}):
        with pytest.raises(ConfigError):
            ContRecConfig.from_dict(value)
    for name in (None, [], {}, 5, "x" * 10_000, "\n"):
        with pytest.raises(ConfigError) as found:
            preset(name)
        assert one_or_two_lines(found.value)


def test_a_preset_stays_what_it_is():
    before = {name: config.to_dict() for name, config in PRESETS.items()}
    for name in PRESETS:
        PRESETS[name].to_dict()["diffusion"]["tau"] = 99.0
        PRESETS[name].to_dict()["prompt"]["user_decays"].append(0.1)
        PRESETS[name].diffusion.ranking_settings["x"] = 1
        preset(name).tokenizer.arguments["width"] = 1
        vars(preset(name).training)["epochs"] = 7
    assert {name: config.to_dict() for name, config in PRESETS.items()} == before
    with pytest.raises(TypeError):
        PRESETS["contrec"] = ContRecConfig()
    given = {"width": 8}
    one = ContRecConfig(embedding=given)
    given["width"] = 9
    assert one.embedding.width == 8
    decays = [1.0, 0.5]
    two = ContRecConfig(prompt={"user_decays": decays})
    decays.append(0.1)
    assert two.prompt.user_decays == (1.0, 0.5)


def test_a_preset_of_the_diffusion_stays_what_it_is():
    before = {name: dict(settings) for name, settings in DIFFUSION_PRESETS.items()}
    for name in DIFFUSION_PRESETS:
        DIFFUSION_PRESETS[name]["T"] = 1
        diffusion_preset(name)["T"] = 2
    assert {
        name: dict(settings) for name, settings in DIFFUSION_PRESETS.items()
    } == before
    assert isinstance(DIFFUSION_PRESETS, Mapping)
    with pytest.raises(TypeError):
        DIFFUSION_PRESETS["contrec"] = {}


def test_a_config_can_be_compared_hashed_copied_and_written():
    one, two = preset("contrec", seed=3), preset("contrec", seed=3)
    assert (
        one == two
        and hash(one) == hash(two)
        and len({one, two, preset("contrec")}) == 2
    )
    written = json.loads(json.dumps(one.to_dict()))
    assert copy.deepcopy(one) == one == ContRecConfig.from_dict(written)
    assert pickle.loads(pickle.dumps(one)) == one
    assert dataclasses.replace(one, seed=4) == preset("contrec", seed=4)


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_goes_through_yaml(name, tmp_path):
    path = tmp_path / "config.yaml"
    config = preset(name, tokenizer={"kind": "VAE"}, training={"lr": 1e-6}, seed=9)
    config.save(path)
    assert ContRecConfig.load(path) == config
    path.write_text(f"preset: {name}\ntraining:\n  lr: 1e-3\ndecoding.steps: 7\n")
    assert ContRecConfig.load(path) == preset(
        name, training={"lr": 1e-3}, decoding={"steps": 7}
    )
    path.write_text("")
    assert ContRecConfig.load(path) == ContRecConfig()


@pytest.mark.parametrize(
    "text, says",
    [
        ("training: {epoch: 3}", "config.yaml: unknown .* Did you mean 'training.epo"),
        ("preset: contrek", "config.yaml: unknown preset 'contrek'. Did you mean"),
        ("training: [1]", "config.yaml: .*training is"),
        ("- 1", "config.yaml: .*must be an object"),
        ("training: {epochs: 3", "config.yaml.*line"),
        ("seed: 1\nseed: 2", "twice"),
        ("tokenizer: {kind: VEA}", "config.yaml: unknown tokenizer"),
    ],
)
def test_a_wrong_file_of_settings_is_one_line(text, says, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says) as found:
        ContRecConfig.load(tmp_path / "config.yaml")
    assert len(str(found.value).splitlines()) == 1
    with pytest.raises(ConfigError, match="none.yaml does not exist"):
        ContRecConfig.load(tmp_path / "none.yaml")


def test_another_part_keeps_what_was_chosen_and_what_it_has():
    config = preset("contrec", tokenizer={"width": 32, "mask": 0.3, "sigma": 0.1})
    other = config.replace(tokenizer={"kind": "MaskedMultiCodebook", "size": 32})
    assert other.tokenizer.arguments == {
        "width": 32,
        "tokens": 1,
        "size": 32,
        "hidden": 256,
        "commitment": 0.25,
        "revive": 0.01,
        "mask": 0.3,
    }
    # a default of the old part is no choice: the new part has its own
    plain = preset("contrec").replace(tokenizer={"kind": "MaskedMultiCodebook"})
    assert plain.tokenizer.mask == 0.2
    wide = preset("contrec-basic").replace(embedding={"kind": "lightgcn"})
    assert (wide.embedding.width, wide.embedding.layers) == (128, 3)


def test_defaults_that_differ_stay_each_embeddings_own(small_split):
    both = make_section("embedding", {"kind": "lightgcn+sasrec"})
    assert (both.layers, both.epochs, both.lr) == (None, None, None)
    assert set(both.own_defaults) == {"layers", "epochs", "lr"}
    asked = []

    def watched(split, width: int = 64, layers: int = 7, seed: int = 0):
        asked.append(layers)
        return Embeddings(
            np.zeros((split.n_users, width), np.float32),
            np.random.default_rng(0).normal(size=(split.n_items, width)),
        )

    kept = dict(_FOUND["embedding"])
    try:
        register("embedding", "watched")(watched)
        for layers in (None, 2):
            kinds = {"kind": "watched+sasrec", "layers": layers, "epochs": 1}
            model = ContRec(preset("contrec-basic", **SHORT).replace(embedding=kinds))
            model.split = small_split
            model._embed("watched", None, None)
    finally:
        _FOUND["embedding"].clear()
        _FOUND["embedding"].update(kept)
    assert asked == [7, 2]


def test_every_setting_of_every_part_has_a_type_and_a_help_line():
    for section, naming in (("tokenizer", "kind"), ("embedding", "kind")):
        for name in names(section):
            table = describe(preset("contrec", **{section: {naming: name}}))
            assert not [setting for setting in table.index if not table.help[setting]]
            assert "Any" not in set(table.type)


def test_a_tokenizer_from_outside_the_kit_has_checked_settings(
    small_split, tmp_path, monkeypatch
):
    (tmp_path / "my_tokens.py").write_text(
        "from contrec.tokenizer.sigma_vae import SigmaVAE\n\n\n"
        "class Mine(SigmaVAE):\n"
        "    def __init__(self, d_in: int, width: int = 8, beta: float = 0.5):\n"
        "        super().__init__(d_in, width, 1)\n"
        "        self.beta = beta\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"kind": "my_tokens:Mine", "beta": 0.3}
    config = preset("contrec-basic", **SHORT).replace(tokenizer=mine)
    assert config.tokenizer.arguments == {"width": 8, "beta": 0.3}
    assert ContRecConfig.from_dict(config.to_dict()) == config
    model = ContRec(config)
    model.check(small_split)
    assert model._checked.network.tokenizer.beta == 0.3
    with pytest.raises(ConfigError, match="Did you mean 'tokenizer.beta'"):
        config.replace(tokenizer={"betta": 1.0})
    with pytest.raises(ConfigError, match="beta is 'x'. It must be a number"):
        config.replace(tokenizer={"beta": "x"})


def test_settings_with_dots_are_nested():
    assert nested({"training.epochs": 3, "training": {"lr": 1.0}, "seed": 1}) == {
        "training": {"epochs": 3, "lr": 1.0},
        "seed": 1,
    }
    given = {"training": {"epochs": 3}}
    nested(given)["training"]["epochs"] = 4
    assert given == {"training": {"epochs": 3}}


@pytest.mark.parametrize(
    "changes",
    [
        {"decoding": {"steps": 300}},
        {"decoding": {"guidance": 1.0}, "diffusion": {"cfg_dropout": 0.0}},
        {"backbone": {"hidden": 62, "heads": 2}, "diffusion": {"layer": 9}},
        {"backbone": {"name": "no/such model"}},
        {"decoding": {"text_encoder": "no/such encoder", "text_score": "sentence"}},
        {"prompt": {"max_items": 5000}},
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_trained_or_written(
    small_split, tmp_path, monkeypatch, changes
):
    def never(*given, **named):
        raise AssertionError("something was trained")

    monkeypatch.setattr(ContRec, "_embed", never)
    monkeypatch.setattr(contrec.recommender.contrec, "fit_tokenizer", never)
    if "prompt" in changes:  # longer than the language model can read
        long = Ragged.from_lists([np.arange(9000) % small_split.n_items] * 3)
        small_split = dataclasses.replace(small_split, train=long)
        changes = {"prompt": {"max_items": 9000}}
    with pytest.raises(ContrecError) as found:
        ContRec(preset("contrec-basic", **SHORT).replace(**changes)).fit(
            small_split, folder=tmp_path / "run"
        )
    assert one_or_two_lines(found.value) and not (tmp_path / "run").exists()


def test_a_split_without_anything_to_learn_is_refused_before_anything_is_written(
    small_split, tmp_path
):
    single = dataclasses.replace(
        small_split,
        train=Ragged.from_lists([[i % 40] for i in range(small_split.n_users)]),
    )
    with pytest.raises(DataError, match="nothing to predict"):
        ContRec(preset("contrec-basic", **SHORT)).fit(single, folder=tmp_path / "run")
    bare = dataclasses.replace(
        small_split,
        items=small_split.items.assign(categories=[()] * small_split.n_items),
    )
    with pytest.raises(ConfigError, match="no item of"):
        likely = {"text_score": "likelihood"}
        ContRec(preset("contrec-basic", **SHORT, decoding=likely)).fit(
            bare, folder=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_what_was_checked_is_what_is_trained_and_nothing_is_different(
    small_split, monkeypatch
):
    """The network is built once, from the seed alone.

    Neither a check before nor the generators' state changes a bit of the result.
    """
    built = []
    original = ContRec._build
    monkeypatch.setattr(
        ContRec,
        "_build",
        lambda self, *given: built.append(1) or original(self, *given),
    )
    plain = ContRec(preset("contrec-basic", **SHORT)).fit(small_split)
    assert len(built) == 1
    torch.rand(7), np.random.rand(7), random.random()
    checked = ContRec(preset("contrec-basic", **SHORT))
    before = torch.get_rng_state()
    checked.check(small_split), checked.check(small_split)
    assert torch.equal(before, torch.get_rng_state()) and checked.split is None
    checked.fit(small_split)
    assert len(built) == 2
    state = plain.network.state_dict()
    assert all(
        torch.equal(value, state[name])
        for name, value in checked.network.state_dict().items()
    )
    checked.fit(small_split)  # from the beginning, not from what was trained
    assert len(built) == 3 and all(
        torch.equal(value, state[name])
        for name, value in checked.network.state_dict().items()
    )


def test_initial_weights_are_those_of_the_seed(small_split):
    model = ContRec(preset("contrec-basic", **SHORT, seed=5))
    model.check(small_split)
    with seeded(5):
        by_hand = ContRec(model.config)
        by_hand.split = small_split
        by_hand._build(8)
    fresh = by_hand.network.state_dict()
    assert all(
        torch.equal(value, fresh[name])
        for name, value in model._checked.network.state_dict().items()
    )


def test_an_embedding_that_does_not_tell_its_width_can_be_used(small_split):
    def odd(split, factor: float = 1.0):
        rows = (
            np.random.default_rng(0).normal(size=(split.n_items, 11)).astype(np.float32)
            * factor
        )
        return Embeddings(np.zeros((split.n_users, 11), np.float32), rows)

    kept = dict(_FOUND["embedding"])
    try:
        register("embedding", "odd")(odd)
        config = preset("contrec-basic", **SHORT).replace(
            embedding={"kind": "odd", "factor": 2.0},
            training={"targets": "stop_gradient"},
        )
        model = ContRec(config).fit(small_split)
    finally:
        _FOUND["embedding"].clear()
        _FOUND["embedding"].update(kept)
    assert model.network.inputs.shape == (small_split.n_items, 11)


def test_settings_of_a_class_that_takes_anything_are_left_to_it():
    class Anything(Tokenizer):
        def __init__(self, **settings): ...

    kept = dict(_FOUND["tokenizer"])
    try:
        register("tokenizer", "Anything")(Anything)
        made = make_section("tokenizer", {"kind": "Anything", "x": [1]})
        assert made.arguments == {"x": [1]}
        assert [f.name for f in dataclasses.fields(section_class("tokenizer", "VAE"))]
    finally:
        _FOUND["tokenizer"].clear()
        _FOUND["tokenizer"].update(kept)


@pytest.mark.parametrize("index", ["exact", "flat", "hnsw", "ivf"])
def test_a_call_that_cannot_be_answered_is_refused_alike_by_every_index(
    small_split, index
):
    unfitted = ContRec(preset("contrec-basic", **SHORT, retrieval={"index": index}))
    some = small_split.histories("test").take(np.arange(3))
    for call in (
        unfitted.score,
        unfitted.rank,
        lambda histories: unfitted.recommend(["i1"]),
    ):
        with pytest.raises(ConfigError, match="has not been fitted"):
            call(some)
    model = unfitted.fit(small_split)
    for k in (0, -1, 2.5, True, "5"):
        with pytest.raises(ConfigError, match="k is"):
            model.rank(some, k)
    with pytest.raises(DataError, match="item number 40"):
        model.rank(Ragged.from_lists([[40]]))
    assert model.rank(Ragged.from_lists([]), 5).ids.shape == (0, 5)
    assert (
        model.rank(some, 60).ids.shape == (3, 60)
        and (model.rank(some, 60).ids[:, 40:] == -1).all()
    )


def test_a_configuration_is_shown_as_its_difference_from_the_nearest_preset():
    config = preset("contrec", training={"epochs": 3}, diffusion={"tau": 0.2})
    found = differences(config, PRESETS["contrec"])
    assert found["training.epochs"] == (PRESETS["contrec"].training.epochs, 3)
    assert found["diffusion.tau"] == (0.1, 0.2) and len(found) == 2
    quantized = preset("contrec", tokenizer={"kind": "VectorQuantizer"})
    found_parts = differences(quantized, PRESETS["contrec"])
    assert found_parts["tokenizer.size"] == ("not set", 256)
    assert found_parts["tokenizer.sigma"] == (0.5, "not set")
    back = differences(PRESETS["contrec"], config)
    assert back == {name: (new, old) for name, (old, new) in found.items()}
    assert (
        repr(config) == "ContRecConfig(contrec, diffusion.tau=0.2, training.epochs=3)"
    )
    assert "diffusion.tau" in config._repr_html_()
    for name in PRESETS:
        assert repr(preset(name)) == f"ContRecConfig({name})"


def test_a_model_introduces_itself_before_and_after_it_is_fitted(small_split):
    model = ContRec(preset("contrec-basic", **SHORT))
    assert "not fitted" in repr(model) and "not fitted" in model._repr_html_()
    odd = dataclasses.replace(small_split, name="<b>log</b>")
    model.fit(odd)
    assert f"items: {odd.n_items}" in repr(model) and len(repr(model)) < 400
    assert "&lt;b&gt;log" in model._repr_html_()
