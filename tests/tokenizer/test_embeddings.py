"""Vectors against oracles, their properties, a sentence encoder, and that nothing held
out is seen.
"""

import dataclasses
import inspect

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from contrec.data.fetching import cache_dir
from contrec.data.interactions import Ragged
from contrec.foundations.errors import ConfigError, DataError
from contrec.foundations.random import seeded
from contrec.tokenizer import embeddings as module
from contrec.tokenizer.embeddings import (
    LightGCN,
    history_vectors,
    ials,
    lightgcn,
    linear,
    negatives,
    normalised_adjacency,
    prefix_vectors,
    sasrec,
)
from contrec.tokenizer.text_vectors import (
    SentenceVectors,
    TextVectors,
    encode_texts,
    item_sentences,
    text_encoder,
    text_vectors,
)


def quick(split, **kwargs):
    return lightgcn(split, **({"width": 8, "epochs": 2} | kwargs))


FITS = [
    quick,
    lambda s: linear(s, width=8),
    lambda s: ials(s, width=8),
    lambda s: sasrec(s, width=8, epochs=2),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    "A tiny random BERT with its tokenizer, saved as a hub model would be."
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,&<>"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *("##" + c for c in letters),
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    with seeded(0):
        BertModel(
            BertConfig(
                vocab_size=len(words),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                hidden_dropout_prob=0.5,
            )
        ).save_pretrained(folder)
    return folder


# --- nothing held out is seen, and the same seed gives the same numbers


@pytest.mark.parametrize("fit", FITS)
def test_no_held_out_interaction_is_seen(small_split, fit):
    rng = np.random.default_rng(0)
    other = dataclasses.replace(
        small_split,
        valid=rng.integers(0, small_split.n_items, small_split.n_users),
        test=rng.integers(0, small_split.n_items, small_split.n_users),
    )
    for a, b in zip(fit(small_split), fit(other)):
        assert np.array_equal(a, b)
    # ... while the training part matters
    changed = dataclasses.replace(small_split, train=small_split.train.drop_last())
    assert not np.array_equal(fit(small_split).items, fit(changed).items)


@pytest.mark.parametrize("fit", FITS)
def test_shapes_types_and_seeds(small_split, fit):
    a, b = fit(small_split), fit(small_split)
    assert (
        a.users.shape == (small_split.n_users, 8)
        and a.items.shape == (small_split.n_items, 8)
        and a.users.dtype == a.items.dtype == np.float32
    )
    assert (
        np.array_equal(a.users, b.users)
        and np.array_equal(a.items, b.items)
        and np.isfinite(a.items).all()
    )


def test_trap_06_no_global_reseeding(small_split):
    torch.manual_seed(3)
    np.random.seed(3)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for fit in FITS:
        fit(small_split)
    text_vectors(small_split.items)
    assert torch.equal(torch.get_rng_state(), state[0]) and np.array_equal(
        np.random.get_state()[1], state[1]
    )
    assert not np.array_equal(
        quick(small_split).items, quick(small_split, seed=1).items
    )
    assert "cuda" not in inspect.getsource(module)


# --- they learn the two tastes of the small world


@pytest.mark.parametrize(
    "fit",
    [
        lambda s: lightgcn(s, width=16, epochs=40, batch_size=256),
        lambda s: linear(s, 8, 10.0),
        lambda s: ials(s, width=8),
        lambda s: sasrec(s, 8, epochs=60, lr=1e-2),
    ],
)
def test_items_of_a_kind_are_near(small_split, fit):
    kind = small_split.category_matrix()[:, 0].astype(bool)
    x = fit(small_split).items
    x = x - x.mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = x @ x.T
    np.fill_diagonal(similarity, np.nan)
    assert (
        np.nanmean(similarity[kind][:, kind])
        > np.nanmean(similarity[kind][:, ~kind]) + 0.1
    )


def test_states_and_items_of_sasrec_rank_as_it_does(small_split, tmp_path):
    """Users times items are the scores of the same training, and a training that was
    killed goes on from its checkpoint.
    """
    from contrec.ranking.sequential import SASRec

    found, model = (
        sasrec(
            small_split, 8, dropout=0.4, epochs=2, checkpoint=tmp_path / "c.safetensors"
        ),
        SASRec(width=8, dropout=0.4, epochs=2, patience=None).fit(small_split),
    )
    assert np.allclose(
        found.users @ found.items.T, model.score(small_split.train), atol=1e-5
    )
    # validation was not looked at
    assert [set(row) for row in model.log] == [{"epoch", "total", "seconds"}] * 2
    # nothing is left to train
    again = sasrec(small_split, 8, epochs=2, checkpoint=tmp_path / "c.safetensors")
    assert np.array_equal(found.items, again.items)


# --- running forms


@given(
    st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=6),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_running_form_against_a_loop(rows, mean):
    items = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    r = Ragged.from_lists(rows)
    loop = [
        f(items[row[: n + 1]], 0)
        for f in [np.mean if mean else np.sum]
        for row in rows
        for n in range(len(row))
    ]
    assert np.allclose(
        prefix_vectors(items, r, mean), np.array(loop).reshape(-1, 3), atol=1e-5
    )
    whole = [
        (np.mean if mean else np.sum)(items[row], 0) if row else np.zeros(3)
        for row in rows
    ]
    assert np.allclose(history_vectors(items, r, mean), whole, atol=1e-5)


def test_prefixes_do_not_see_what_comes_later():
    items, a, b = (
        np.random.default_rng(0).normal(size=(9, 4)),
        Ragged.from_lists([[1, 2, 3], [4, 5]]),
        Ragged.from_lists([[1, 2, 8], [4, 0]]),
    )
    assert np.array_equal(
        prefix_vectors(items, a)[[0, 1]], prefix_vectors(items, b)[[0, 1]]
    )


# --- LightGCN


def test_propagation_against_dense(small_split):
    m = small_split.train_matrix()
    with seeded(0):
        model = LightGCN(m, 8, 3)
    a = np.block(
        [
            [np.zeros((m.shape[0],) * 2), m.toarray()],
            [m.toarray().T, np.zeros((m.shape[1],) * 2)],
        ]
    )
    d = np.diag(1 / np.sqrt(np.maximum(a.sum(1), 1)))
    step = d @ a @ d
    e = model.vectors.detach().double().numpy()
    layers = [np.linalg.matrix_power(step, n) @ e for n in range(4)]
    users, items = model.propagate()
    assert np.allclose(
        torch.cat([users, items]).detach(), np.mean(layers, 0), atol=1e-5
    )


def test_gradient_of_propagation(small_split):
    with seeded(0):
        model, weight = (
            LightGCN(small_split.train_matrix(), 4, 2),
            torch.randn(small_split.n_users + small_split.n_items, 4),
        )
    (torch.cat(model.propagate()) * weight).sum().backward()
    dense = model.adjacency.to_dense().double()
    eye = torch.eye(len(dense)).double()
    assert torch.allclose(
        model.vectors.grad.double(),
        ((eye + dense + dense @ dense) / 3).T @ weight.double(),
        atol=1e-5,
    )


def test_loss_by_hand(small_split):
    with seeded(0):
        model = LightGCN(small_split.train_matrix(), 4, 1, norm=0.5)
    rows = torch.tensor([0, 5, 5, 9])
    with seeded(1), torch.no_grad():
        loss = model.loss(rows)
    with seeded(1):
        user, item = model.pairs[:, rows]
        negative = negatives(user, model.seen, model.n_items)
    with torch.no_grad():
        users, items = model.propagate()
        ranking = torch.stack(
            [
                -torch.log(torch.sigmoid(users[u] @ items[i] - users[u] @ items[j]))
                for u, i, j in zip(user, item, negative)
            ]
        ).mean()
        norm = (
            sum(
                model.vectors[n].square().sum()
                for u, i, j in zip(user, item, negative)
                for n in (u, model.n_users + i, model.n_users + j)
            )
            / len(rows)
            / 2
        )
    assert (
        torch.allclose(loss.ranking, ranking, atol=1e-6)
        and torch.allclose(loss.norm, norm, atol=1e-5)
        and torch.allclose(loss.total, ranking + 0.5 * norm, atol=1e-5)
    )


def test_negatives_are_never_positives_and_uniform(small_split):
    m = small_split.train_matrix().tocoo()
    seen = torch.from_numpy(
        np.sort(m.row.astype(np.int64) * small_split.n_items + m.col)
    )
    users = torch.arange(small_split.n_users).repeat_interleave(400)
    with seeded(0):
        drawn = negatives(users, seen, small_split.n_items)
    assert not torch.isin(users * small_split.n_items + drawn, seen).any()
    counts = torch.bincount(drawn[users == 0], minlength=small_split.n_items)
    free = small_split.n_items - len(np.unique(small_split.train[0]))
    assert (counts > 0).sum() == free and counts.max() < 4 * 400 / free


def test_a_user_with_everything_does_not_hang():
    with seeded(0):
        assert negatives(
            torch.zeros(5, dtype=torch.int64), torch.arange(3), 3
        ).shape == (5,)


def test_node_without_edges():
    a = normalised_adjacency(sparse.csr_matrix([[1.0, 0.0], [0.0, 0.0]])).to_dense()
    assert a.isfinite().all() and a.sum() == 2


# --- linear


def test_linear_against_ease(small_split):
    """At full width and with only the positive part cut off, the symmetric form is
    EASE's weight with both diagonals in the place of one.
    """
    x = small_split.train_matrix().toarray().astype(float)
    p = np.linalg.inv(x.T @ x + 50 * np.eye(small_split.n_items))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    symmetric = b * np.sqrt(np.diag(p))[None] / np.sqrt(np.diag(p))[:, None]
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    positive = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
    items = linear(small_split, small_split.n_items, 50.0).items
    assert np.allclose(items @ items.T, positive, atol=1e-5) and np.allclose(
        symmetric, symmetric.T, atol=1e-8
    )


def test_linear_users_are_sums(small_split):
    e = linear(small_split, 8)
    assert np.allclose(
        e.users, np.stack([e.items[row].sum(0) for row in small_split.train]), atol=1e-5
    )


# --- text

ITEMS = pd.DataFrame(
    {
        "title": ["Red car", "Blue car", "Red apple", "Green apple"],
        "categories": [("toys",), ("toys", "cars"), (), ("food",)],
        "text": ["", "fast", "", ""],
    }
)


def test_sentences():
    assert item_sentences(ITEMS)[:3] == [
        "Red car. toys",
        "Blue car. toys, cars. fast",
        "Red apple",
    ]


def test_text_neighbours_and_new_items():
    model = TextVectors(3).fit(ITEMS)
    v = model.transform(ITEMS)
    assert v.dtype == np.float32 and np.allclose(
        np.linalg.norm(v, axis=1), 1, atol=1e-5
    )
    assert np.array_equal(
        v, TextVectors(3).fit(ITEMS).transform(ITEMS)
    ) and np.array_equal(v, text_vectors(ITEMS, width=3))
    assert v[0] @ v[1] > v[0] @ v[3]
    assert np.allclose(model.transform(ITEMS.iloc[[2]]), v[[2]], atol=1e-6)
    assert np.array_equal(
        model.transform(ITEMS.iloc[[2]].assign(title="?!")), np.zeros((1, v.shape[1]))
    )


def test_text_narrower_catalogues_than_the_width():
    assert (
        text_vectors(ITEMS, width=64).shape[1] <= 4
        and text_vectors(ITEMS.iloc[:2], width=64).shape[0] == 2
    )


def test_sentence_encoder_pools_over_words_only(encoder):
    model = SentenceVectors(encoder)
    v = model.transform(ITEMS)
    assert (
        v.shape == (4, 16)
        and np.allclose(np.linalg.norm(v, axis=1), 1, atol=1e-5)
        and not any(p.requires_grad for p in model.model.parameters())
    )
    for n in range(4):  # Alone (no padding) as in the batch
        batch = model.pieces(item_sentences(ITEMS)[n], return_tensors="pt")
        with torch.no_grad():
            mean = model.model(**batch).last_hidden_state[0].mean(0)
        assert np.allclose(v[n], mean / mean.norm(), atol=1e-5)
    assert np.array_equal(text_vectors(ITEMS, encoder), v)


# --- faults


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: linear(s, 1000), "width is 1000"),
        (lambda s: linear(s, 8, -1), "regularisation is -1"),
        (lambda s: quick(s, layers=-1), "layers is -1"),
        (lambda s: quick(s, width=0), "width is 0"),
        (lambda s: text_vectors(s.items, width=0), "width is 0"),
        (
            lambda s: text_vectors(s.items, "no/such/folder"),
            "no sentence encoder at 'no/such/folder'",
        ),
    ],
)
def test_bad_options(small_split, call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call(small_split)
    assert len(str(caught.value).splitlines()) <= 2


def test_items_without_words():
    with pytest.raises(DataError, match="no words"):
        text_vectors(ITEMS.assign(title="", categories=[()] * 4, text=""))


@pytest.mark.skipif(
    not (cache_dir() / "all-minilm-l6-v2" / "model.safetensors").exists(),
    reason="MiniLM is not in the cache; SentenceVectors('minilm') brings it there",
)
def test_the_real_sentence_encoder():
    """all-MiniLM-L6-v2 from its wheel.

    Sentences that mean the same are near, and free texts lie in the space of the items.
    """
    vectors = encode_texts(
        text_encoder("minilm"),
        [
            "A man is eating food.",
            "A man is eating a piece of bread.",
            "The girl is carrying a baby.",
        ],
    )
    assert vectors.shape == (3, 384) and np.allclose(
        np.linalg.norm(vectors, axis=1), 1, atol=1e-5
    )
    assert vectors[0] @ vectors[1] > 0.7 > 0.2 > vectors[0] @ vectors[2]


def test_an_encoder_by_name(small_split, encoder):
    assert isinstance(text_encoder(), TextVectors) and isinstance(
        text_encoder(encoder), SentenceVectors
    )
    fitted = text_encoder(None, 8).fit(small_split.items)
    assert np.allclose(
        encode_texts(fitted, item_sentences(small_split.items)),
        fitted.transform(small_split.items),
        atol=1e-6,
    )
    with pytest.raises(ConfigError, match="no sentence encoder"):
        text_encoder(encoder / "nothing")


@pytest.mark.parametrize("alpha", [0.0, 1.0, 9.0])
def test_ials_gives_an_interaction_the_confidence_that_it_documents(small_split, alpha):
    """After many passes the item factors are those of Hu et al.'s normal equations."""
    found = module.ials(
        small_split, width=4, regularisation=0.5, alpha=alpha, iterations=100
    )
    users, matrix = found.users.astype(float), small_split.train_matrix().tocsc()
    for item in range(small_split.n_items):
        seen = users[matrix[:, item].indices]
        left = users.T @ users + alpha * seen.T @ seen + 0.5 * np.eye(4)
        expected = np.linalg.solve(left, (1 + alpha) * seen.sum(0))
        np.testing.assert_allclose(found.items[item], expected, atol=5e-3)
