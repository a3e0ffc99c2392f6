"""Effect of the text score: F1 against slow oracles, rankings, held-out items."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.data.interactions import Ragged
from contrec.foundations.errors import ConfigError, DataError
from contrec.ranking.metrics import per_user, summarise
from contrec.recommender.cold_start import cold_start, hold_out_items
from contrec.recommender.config import preset
from contrec.recommender.contrec import ContRec
from contrec.recommender.text_effect import (
    category_f1,
    hybrid_table,
    most_frequent_categories,
    text_accuracy,
)

SHORT = dict(
    training={
        "epochs": 10,
        "batch_size": 16,
        "lr": 5e-3,
        "tokenizer_epochs": 20,
        "lm_weight": 1.0,
    },
    embedding={"width": 16},
    diffusion={"hidden": 32, "blocks": 1},
    decoding={"text_encoder": None},
)


@pytest.fixture(scope="module")
def model(small_split):
    return ContRec(preset("contrec", **SHORT)).fit(small_split)


names = st.lists(st.sampled_from("abcdef"), max_size=5).map(tuple)


@given(said=names, true=names)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(said, true):
    found = category_f1([said], [true])[0]
    if not true:
        assert np.isnan(found)
        return
    hit = len(set(said) & set(true))
    precision, recall = hit / max(1, len(set(said))), hit / len(set(true))
    assert np.isclose(
        found, 2 * precision * recall / (precision + recall) if hit else 0
    )


def test_the_most_frequent_categories_by_hand(small_split):
    items = small_split.items.copy()
    items["categories"] = [("x", "y"), ("x",), ("z",), ()] + [("w",)] * 36
    split = dataclasses.replace(
        small_split,
        items=items,
        train=Ragged.from_lists(
            [[0, 1, 2], [2, 3], [3]] + [[5]] * (small_split.n_users - 3)
        ),
        valid=np.array([0, 2, 3] + [5] * (small_split.n_users - 3)),
    )
    # 4 mentions over 3 items, 1 over 2, none over 1: one name each
    assert most_frequent_categories(split, "valid")[:3] == [("x",), ("z",), ("w",)]
    assert most_frequent_categories(split, "test")[0] == ("x", "y")


def test_text_accuracy_counts_what_it_cannot_read(model, small_split, monkeypatch):
    found = text_accuracy(model, small_split)
    assert (
        found.users == small_split.n_users
        and found.failures == found.cut == 0
        and 0.4 < found.f1 <= 1
        and 0.6 < found.frequent_f1 <= 1
    )
    from contrec.recommender.text_scores import Answers

    monkeypatch.setattr(
        ContRec,
        "answers",
        lambda self, h: Answers([""] * len(h), [()] * len(h), len(h), 0),
    )
    nothing = text_accuracy(model, small_split)
    assert (
        nothing.f1 == 0
        and nothing.failures == small_split.n_users
        and nothing.frequent_f1 == found.frequent_f1
    )
    bare = small_split.items.assign(categories=[()] * small_split.n_items)
    with pytest.raises(DataError, match="no held-out item has a category"):
        text_accuracy(model, dataclasses.replace(small_split, items=bare))


@pytest.mark.parametrize("score", ["likelihood", "sentence"])
def test_the_three_rankings_are_those_of_the_models(model, small_split, score):
    """`latent only` and `both` equal the ranking by the model itself without and with
    its text score.
    """
    fused = model.with_decoding(text_score=score, text_weight=0.3)
    table = hybrid_table(fused, small_split, ks=(10,))
    assert list(table.index) == ["latent only", "text only", "both"]
    for name, system in (("latent only", model), ("both", fused)):
        own = summarise(
            per_user(
                system.rank(small_split.histories("test"), 10).ids,
                small_split.test,
                ks=(10,),
            )
        )
        for measure in own:
            assert abs(own[measure] - table.loc[name, measure]) < 1e-9, (name, measure)
    assert table.loc["both", "weight"] == 0.3
    with pytest.raises(ConfigError, match="no text score"):
        hybrid_table(model, small_split)


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.05, 0.6), seed=st.integers(0, 1000))
def test_items_are_held_out_entirely(small_split, share, seed):
    cold = hold_out_items(small_split, share, seed)
    warm, new = cold.warm, set(cold.items["item"])
    assert (
        len(new) == round(share * 40)
        and not new & set(warm.item_ids)
        and len(new) + warm.n_items == 40
    )
    ids = [*warm.item_ids, *cold.items["item"]]
    assert warm.items["item"].tolist() == list(warm.item_ids)
    whole = {
        u: [small_split.item_ids[i] for i in row]
        for u, row in zip(
            small_split.user_ids, small_split.histories("test").append(small_split.test)
        )
    }
    # in its own order, without the new ones
    for u, row, valid, test in zip(warm.user_ids, warm.train, warm.valid, warm.test):
        assert [ids[i] for i in row] + [ids[valid], ids[test]] == [
            i for i in whole[u] if i not in new
        ]
    assert set(warm.user_ids) == {
        u for u, row in whole.items() if sum(i not in new for i in row) >= 3
    }
    moments = []
    # slow: the last new item and what was known before it
    for u in small_split.user_ids:
        places = [p for p, i in enumerate(whole[u]) if i in new]
        if places and (before := [i for i in whole[u][: places[-1]] if i not in new]):
            moments.append((before, whole[u][places[-1]]))
    assert [
        ([ids[i] for i in row], ids[t]) for row, t in zip(cold.histories, cold.targets)
    ] == moments


def test_new_items_are_told_apart_by_their_text(small_split):
    cold = hold_out_items(small_split, 0.25)
    fitted = ContRec(preset("contrec", **SHORT)).fit(cold.warm)
    found = cold_start(fitted, cold, k=3)
    assert (
        list(found.index) == ["contrec", "text neighbours", "random order"]
        and ((found >= 0) & (found <= 1)).all().all()
    )
    assert (
        found.loc["contrec", "NDCG@3 among new"]
        > found.loc["random order", "NDCG@3 among new"]
    )
    assert (found["HR@3 among all"] <= found["HR@3 among new"] + 1e-9).all()
    assert 0 < found.loc["random order", "shown"] < 0.5
    with pytest.raises(ConfigError, match="Fit it on cold.warm"):
        cold_start(fitted, hold_out_items(small_split, 0.1))
    for share in (0.0, 1.0, 0.001):
        with pytest.raises(ConfigError, match="share"):
            hold_out_items(small_split, share)
