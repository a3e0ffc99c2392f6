"""Settings: types, ranges, near names, fixed presets, a check before training."""

import copy
import dataclasses
import json
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
from contrec.foundations.schema import check_arguments
from contrec.recommender.config import (
    LIMITS,
    PART_LIMITS,
    PRESETS,
    Config,
    differences,
    preset,
)
from contrec.recommender.contrec import ContRec
from contrec.tokenizer.sigma_vae import Tokenizer

SHORT = dict(
    epochs=1,
    tokenizer_epochs=2,
    embedding_settings={"width": 8},
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


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Config)])
def test_any_value_of_any_setting_is_taken_or_refused_in_a_line(name):
    for value in WRONG:
        try:
            preset("contrec", **{name: value})
        except ConfigError as error:
            assert one_or_two_lines(error), (value, str(error))


PARTS = [
    (part, name, value)
    for part, names in PART_LIMITS.items()
    for name in [*names, "no such"]
    for value in WRONG
]
PARTS += [
    ("diffusion", name, value)
    for name in (
        "schedule",
        "parameterisation",
        "preference",
        "layer",
        "skip",
        "drop",
        "zero_terminal",
        "p_terminal",
        "dispersive_variant",
        "dispersive_sign",
    )
    for value in WRONG
]
PARTS += [
    ("tokenizer_settings", name, value)
    for name in ("mask", "sigma", "barlow", "mu")
    for value in WRONG
]
PARTS += [
    ("backbone_settings", name, value) for name in ("dtype", "cache") for value in WRONG
]


def test_any_value_of_any_argument_of_a_part_is_taken_or_refused_in_a_line():
    refused = 0
    for part, name, value in PARTS:
        try:
            preset("contrec", **{part: {name: value}})
        except ConfigError as error:
            refused += 1
            assert one_or_two_lines(error), (part, name, value, str(error))
    assert refused > 0.7 * len(PARTS)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"epochs": 3.0}, "epochs is 3.0. It must be a whole number"),
        ({"epochs": True}, "epochs is True. It must be a whole number"),
        ({"epochs": 0}, "epochs is 0. It must be at least 1"),
        ({"lr": "0.1"}, "lr is '0.1'. It must be a number"),
        ({"lr": float("nan")}, "must be a finite number"),
        ({"fine_tune": 1}, "fine_tune is 1. It must be true or false"),
        ({"max_items": 10**12}, "must be at most 1,000,000"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"patience": 0}, "patience is 0"),
        ({"running_decays": [1.0, "a"]}, r"running_decays\[1\] is 'a'"),
        ({"backbone": "tyni"}, "Did you mean 'tiny'"),
        ({"backbone": "smollm-135m"}, "Did you mean 'smollm2-135m'"),
        ({"embedding": "lineer"}, "Did you mean 'linear'"),
        ({"tokenizer": "SigmaVEA"}, "Did you mean 'SigmaVAE'"),
        ({"tokeniser": "SigmaVAE"}, "Did you mean 'tokenizer'"),
        ({"diffusion": {"taus": 0.1}}, "Did you mean 'tau'"),
        ({"diffusion": {"T": 0}}, "T is 0"),
        ({"diffusion": {"T": 200.0}}, "T is 200.0. It must be a whole number"),
        ({"diffusion": {"schedule": "cosin"}}, "cosin"),
        (
            {
                "diffusion": {
                    "parameterisation": "eps",
                    "zero_terminal": True,
                    "preference": "none",
                }
            },
            "pure noise",
        ),
        ({"diffusion": None}, "diffusion is None. It must be an object"),
        ({"tokenizer_settings": {"widht": 8}}, "Did you mean 'width'"),
        ({"tokenizer_settings": {"mask": 1.5}}, "mask is 1.5"),
        ({"tokenizer_settings": {"width": 0}}, "width is 0"),
        ({"backbone_settings": {"heads": 5}}, "cannot be shared by 5 heads"),
        ({"backbone_settings": {"dropout": 1}}, "dropout is 1. It must be below 1"),
        ({"backbone_settings": {"dtype": "int8"}}, "unknown number format 'int8'"),
        ({"backbone_settings": {"name": "tiny"}}, "unknown field 'name'"),
        ({"embedding_settings": {"width": 0}}, "width is 0"),
        ({"embedding_settings": {"epochs": "5"}}, "epochs is '5'"),
        ({"embedding_settings": {"seed": 3}}, "unknown embedding setting 'seed'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(changes, says):
    with pytest.raises(ConfigError, match=says):
        preset("contrec", **changes)


def test_every_number_has_a_range():
    numbers = [
        f.name
        for f in dataclasses.fields(Config)
        if f.type
        in (
            "int",
            "float",
            "int | None",
            "float | None",
            int,
            float,
            int | None,
            float | None,
        )
    ]
    assert len(numbers) > 15 and not [name for name in numbers if name not in LIMITS]


def test_whole_numbers_may_stand_for_fractions():
    config = preset("contrec", lr=1, diffusion={"tau": 1}, guidance=0)
    assert config.lr == 1 and config == preset(
        "contrec", lr=1.0, diffusion={"tau": 1.0}
    )


def test_what_is_not_an_object_is_no_config():
    for value in (None, [], "x", 5, {"epochs": {}}, {1: 2}):
        with pytest.raises(ConfigError):
            Config.from_dict(value)
    for name in (None, [], {}, 5, "x" * 10_000, "\n"):
        with pytest.raises(ConfigError) as found:
            preset(name)
        assert one_or_two_lines(found.value)


def test_a_preset_stays_what_it_is():
    before = {name: dataclasses.asdict(config) for name, config in PRESETS.items()}
    for name in PRESETS:
        PRESETS[name].diffusion["tau"] = 99.0
        PRESETS[name].running_decays.append(0.1)
        preset(name).tokenizer_settings["width"] = 1
        ContRec(preset(name)).config.embedding_settings.clear()
    ContRec().config.diffusion["T"] = 1
    assert {
        name: dataclasses.asdict(config) for name, config in PRESETS.items()
    } == before
    with pytest.raises(TypeError):
        PRESETS["contrec"] = Config()
    given = {"width": 8}
    one, two = Config(embedding_settings=given), Config(embedding_settings=given)
    given["width"] = 9
    one.embedding_settings["width"] = 10
    assert two.embedding_settings == {"width": 8}
    assert Config().embedding_settings is not Config().embedding_settings


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
    assert (
        copy.deepcopy(one)
        == one
        == Config.from_dict(json.loads(json.dumps(dataclasses.asdict(one))))
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 300},
        {"guidance": 1.0, "diffusion": {"drop": 0.0}},
        {"backbone_settings": {"hidden": 62, "heads": 2}, "diffusion": {"layer": 9}},
        {"backbone": "no/such model"},
        {"text_encoder": "no/such encoder", "text_score": "sentence"},
        {"max_items": 5000},
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_trained_or_written(
    small_split, tmp_path, monkeypatch, changes
):
    def never(*given, **named):
        raise AssertionError("something was trained")

    for name in contrec.recommender.config.EMBEDDINGS:
        monkeypatch.setitem(contrec.recommender.config.EMBEDDINGS, name, never)
    monkeypatch.setattr(contrec.recommender.contrec, "fit_tokenizer", never)
    monkeypatch.setattr(
        contrec.recommender.config, "_check_embedding", lambda config: None
    )
    if "max_items" in changes:  # longer than the language model can read
        long = Ragged.from_lists([np.arange(9000) % small_split.n_items] * 3)
        small_split = dataclasses.replace(small_split, train=long)
        changes = {"max_items": 9000}
    with pytest.raises(ContrecError) as found:
        ContRec(preset("contrec-basic", **SHORT | changes)).fit(
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
        ContRec(preset("contrec-basic", **SHORT, text_score="likelihood")).fit(
            bare, folder=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_a_dictionary_changed_after_the_check_is_checked_again(small_split):
    model = ContRec(preset("contrec-basic", **SHORT))
    model.config.diffusion["taus"] = 1.0
    with pytest.raises(ConfigError, match="Did you mean 'tau'"):
        model.check(small_split)


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


def test_an_embedding_that_does_not_tell_its_width_can_be_used(
    small_split, monkeypatch
):
    from contrec.tokenizer.embeddings import Embeddings

    def odd(split, factor: float = 1.0):
        rows = (
            np.random.default_rng(0).normal(size=(split.n_items, 11)).astype(np.float32)
            * factor
        )
        return Embeddings(np.zeros((split.n_users, 11), np.float32), rows)

    monkeypatch.setitem(contrec.recommender.config.EMBEDDINGS, "odd", odd)
    changes = SHORT | {
        "targets": "stop_gradient",
        "embedding": "odd",
        "embedding_settings": {"factor": 2.0},
    }
    model = ContRec(dataclasses.replace(preset("contrec-basic"), **changes)).fit(
        small_split
    )
    assert model.network.inputs.shape == (small_split.n_items, 11)


def test_arguments_of_a_class_that_takes_anything_are_left_to_it():
    class Anything(Tokenizer):
        def __init__(self, **settings): ...

    try:
        check_arguments(Anything, {"x": object()}, "tokenizer_settings")
    finally:
        del Tokenizer.kinds["Anything"]


@pytest.mark.parametrize("index", ["exact", "flat", "hnsw", "ivf"])
def test_a_call_that_cannot_be_answered_is_refused_alike_by_every_index(
    small_split, index
):
    unfitted = ContRec(preset("contrec-basic", **SHORT, index=index))
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
    config = preset("contrec", epochs=3, diffusion={"tau": 0.2})
    found = differences(config, PRESETS["contrec"])
    assert found["epochs"] == (PRESETS["contrec"].epochs, 3)
    assert found["diffusion.tau"] == ("not set", 0.2) and len(found) == 2
    back = differences(PRESETS["contrec"], config)
    assert back == {name: (new, old) for name, (old, new) in found.items()}
    assert repr(config) == "Config(contrec, diffusion.tau=0.2, epochs=3)"
    assert "diffusion.tau" in config._repr_html_()
    for name in PRESETS:
        assert repr(preset(name)) == f"Config({name})"


def test_a_model_introduces_itself_before_and_after_it_is_fitted(small_split):
    model = ContRec(preset("contrec-basic", **SHORT))
    assert "not fitted" in repr(model) and "not fitted" in model._repr_html_()
    odd = dataclasses.replace(small_split, name="<b>log</b>")
    model.fit(odd)
    assert f"items: {odd.n_items}" in repr(model) and len(repr(model)) < 400
    assert "&lt;b&gt;log" in model._repr_html_()
