"""The generative preset and its control: trained, ranked by posteriors, checked."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from contrec.foundations.errors import ConfigError
from contrec.ranking.recommender import check_recommender
from contrec.recommender.config import preset
from contrec.recommender.contrec import ContRec

SHORT = dict(
    training={"epochs": 2, "tokenizer_epochs": 2},
    embedding={"kind": "linear", "width": 8},
    tokenizer={"width": 8},
    diffusion={"hidden": 16, "blocks": 1, "T": 20},
    backbone={"hidden": 16},
)


def short(name="contrec-generative", **changes):
    return preset(name, **SHORT).replace(**changes)


@pytest.fixture(scope="module")
def model(small_split):
    return ContRec(short()).fit(small_split)


def test_it_keeps_the_contract_of_every_recommender(model, small_split):
    check_recommender(model, small_split)


def test_scores_are_the_average_of_posteriors(model, small_split):
    histories = small_split.histories("test")
    scores = torch.from_numpy(model.score(histories))
    total = scores.exp().sum(1)
    assert torch.allclose(total, torch.ones(len(total)), atol=1e-4)
    other = model.with_decoding(reading="similarity")
    assert not np.array_equal(other.score(histories), scores.numpy())


def test_samples_end_on_items(model, small_split):
    catalogue, _, preference = model.generate(small_split.histories("test"))
    assert preference.shape == (small_split.n_users, 64, 8)
    unit = F.normalize(catalogue.latents, dim=-1)
    cosine = F.normalize(preference, dim=-1) @ unit.T
    assert cosine.max(-1).values.median() > 0.95


def test_blocks_change_nothing(model, small_split, monkeypatch):
    histories = small_split.histories("test")
    before = model.score(histories)
    monkeypatch.setattr("contrec.recommender.contrec.BLOCK", 64 * small_split.n_items)
    assert np.allclose(model.score(histories), before, atol=1e-4)


def test_it_is_saved_and_loaded(model, small_split, tmp_path):
    model.save_pretrained(tmp_path)
    again = ContRec.from_pretrained(tmp_path)
    histories = small_split.histories("test")
    assert again.config == model.config
    assert np.array_equal(again.score(histories), model.score(histories))


def test_the_control_is_trained_and_read_at_pure_noise(small_split):
    config = short("contrec-regression")
    assert config.diffusion.p_terminal == 1 and config.decoding.steps == 1
    generative = short()
    assert (
        config.replace(
            diffusion={"p_terminal": 0.5}, decoding=generative.to_dict()["decoding"]
        )
        == generative
    )
    check_recommender(ContRec(config).fit(small_split), small_split)


def test_new_items_need_the_similarity(model):
    new = pd.DataFrame({"item": ["n1"], "title": ["New"]})
    with pytest.raises(ConfigError, match="with_decoding"):
        model.with_items(new)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"decoding": {"posterior_step": 11}}, "not among the 10 steps"),
        ({"decoding": {"reading": "posteriors"}}, "posterior"),
        ({"retrieval": {"index": "hnsw"}}, "scores every item"),
        ({"diffusion": {"ranking_loss": "softmax"}}, "knows the posterior"),
    ],
)
def test_settings_that_do_not_fit_end_in_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        short(**changes)
    assert "\n" not in str(caught.value)
