"""Baselines against literal versions of their definitions, the common contract, and
what bad input gets.
"""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from threadpoolctl import threadpool_limits

from contrec.data.datasets import load_split
from contrec.data.interactions import Ragged
from contrec.data.reading import from_frame
from contrec.data.split import leave_one_out
from contrec.foundations.environment import MemoryBudgetError
from contrec.foundations.errors import ConfigError, DataError
from contrec.foundations.random import seeded
from contrec.foundations.trainer import Trainer
from contrec.ranking.linear import (
    EASE,
    IALS,
    ItemKNN,
    Popularity,
    ease_memory,
    ease_weights,
    recency,
)
from contrec.ranking.metrics import per_user
from contrec.ranking.recommender import Recommender, check_recommender
from contrec.ranking.sequential import (
    CausalEncoder,
    SASRec,
    generalised_bce,
    some_scores,
    steps_of,
    windows,
)
from contrec.tokenizer.embeddings import linear, linear_memory


def walks(users=80, items=30, steps=9, seed=0):
    "Users who walk round a ring of items: the last item says which comes next."
    start = np.random.default_rng(seed).integers(0, items, users)
    frame = pd.DataFrame(
        {
            "user": np.repeat([f"u{i}" for i in range(users)], steps),
            "item": [
                f"i{i}" for i in ((start[:, None] + np.arange(steps)) % items).ravel()
            ],
            "timestamp": np.tile(np.arange(steps), users),
        }
    )
    table = pd.DataFrame(
        {
            "item": [f"i{i}" for i in range(items)],
            "title": [f"Item {i}" for i in range(items)],
            "categories": [
                ("even", "ring") if i % 2 == 0 else ("ring",) for i in range(items)
            ],
        }
    )
    return leave_one_out(from_frame(frame, table, name="ring"), core=3, seed=seed)


@pytest.fixture(scope="module")
def split():
    return walks()


SMALL = {
    "popularity": lambda: Popularity(),
    "kNN": lambda: ItemKNN(10),
    "kNN, recency": lambda: ItemKNN(20, 1.0, 0.7),
    "EASE": lambda: EASE(5.0),
    "EASE, recency": lambda: EASE(5.0, 0.8),
    "iALS": lambda: IALS(8, alpha=3.0, iterations=3),
    "SASRec": lambda: SASRec(width=16, length=6, epochs=2),
    "SASRec BCE": lambda: SASRec("bce", width=16, length=6, epochs=1),
    "gSASRec": lambda: SASRec(
        "gbce", width=16, layers=2, heads=2, length=6, epochs=1, negatives=8
    ),
}


@pytest.fixture(scope="module", params=SMALL)
def fitted(request, split):
    return SMALL[request.param]().fit(split)


def test_contract(fitted, split):
    check_recommender(fitted, split)


def test_a_short_history_among_others_changes_nothing(fitted, split):
    "Rows of one item give finite scores and leave the other rows alone."
    rows = Ragged.from_lists([[7], [3, 4, 5], [7]])
    scores = fitted.score(rows)
    assert np.isfinite(scores).all() and scores.shape == (3, split.n_items)
    np.testing.assert_allclose(
        scores[1], fitted.score(Ragged.from_lists([[3, 4, 5]]))[0], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(scores[0], scores[2], rtol=1e-4, atol=1e-5)


def test_an_empty_history_is_refused_where_histories_are_read(fitted, split):
    rows = Ragged.from_lists([[3, 4, 5], []])
    if not fitted.reads_history:
        assert fitted.score(rows).shape == (2, split.n_items)
        return
    for call in (fitted.score, fitted.rank):
        with pytest.raises(DataError, match="the history in row 1 is empty"):
            call(rows)


def test_fitting_twice_gives_the_same(split):
    for make in (SMALL["iALS"], SMALL["SASRec"], SMALL["gSASRec"]):
        a, b = make().fit(split), make().fit(split)
        np.testing.assert_array_equal(a.score(split.train), b.score(split.train))


def test_fitting_leaves_the_global_generators_alone(split):
    torch.manual_seed(5)
    np.random.seed(5)
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    SASRec("bce", width=8, epochs=1).fit(split)
    IALS(4, iterations=1).fit(split)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)


def test_nothing_held_out_is_learned_from(split):
    """Other validation and test items, the same fitted model (SASRec may choose its
    epoch by validation, so one epoch here).
    """
    from dataclasses import replace

    other = replace(split, valid=np.roll(split.valid, 7), test=np.roll(split.test, 11))
    for make in (
        SMALL["popularity"],
        SMALL["kNN"],
        SMALL["EASE"],
        SMALL["iALS"],
        SMALL["SASRec BCE"],
    ):
        np.testing.assert_array_equal(
            make().fit(split).score(split.train), make().fit(other).score(split.train)
        )


def test_ials_is_the_same_with_any_number_of_threads(split):
    a, b = IALS(8, threads=1).fit(split), IALS(8, threads=2).fit(split)
    np.testing.assert_allclose(
        a.score(split.train), b.score(split.train), rtol=1e-4, atol=1e-5
    )


def test_ials_is_quiet(split, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IALS(4, iterations=1).fit(split)
    assert capfd.readouterr() == ("", "")


def test_ials_fold_in_is_the_formula(split):
    model = IALS(6, regularisation=0.5, alpha=4.0, iterations=2).fit(split)
    for u in range(5):
        y, seen = model.items, np.isin(np.arange(split.n_items), split.train[u])
        c = np.where(seen, 4.0, 1.0)
        expected = np.linalg.solve(
            (y * c[:, None]).T @ y + 0.5 * np.eye(6), (y * c[:, None]).T @ seen
        )
        np.testing.assert_allclose(
            model.fold_in(split.train.take([u]))[0], expected, rtol=1e-6
        )


@pytest.mark.filterwarnings("ignore:Method expects CSR")
def test_knn_and_ials_agree_with_the_library_implicit():
    "On real data; nobody but the library says what is right."
    split = load_split("ml-100k")
    users, histories = (
        split.train_matrix().tocsr(),
        split.histories("test").take(np.arange(40)),
    )
    theirs = CosineRecommender(K=split.n_items)
    theirs.fit(users, show_progress=False)
    similarity = theirs.similarity.toarray()
    np.fill_diagonal(similarity, 0)
    np.testing.assert_allclose(
        ItemKNN(split.n_items - 1).fit(split).similarity.toarray(),
        similarity,
        atol=1e-6,
    )
    ials = IALS(16, 0.1, 5.0, iterations=3, threads=1).fit(split)
    model = AlternatingLeastSquares(
        16, regularization=0.1, alpha=5.0, iterations=3, random_state=0, num_threads=1
    )
    with threadpool_limits(1, "blas"):
        model.fit(users, show_progress=False)
    ids, scores = model.recommend(
        np.arange(40),
        histories.to_csr(split.n_items, np.ones(len(histories.values), np.float32)),
        N=20,
        recalculate_user=True,
    )
    ours = ials.rank(histories, 20)
    np.testing.assert_allclose(ours.scores, scores, rtol=1e-3, atol=1e-3)
    # neighbours a rounding apart may change places
    assert (ours.ids == ids).mean() > 0.98


def test_ease_is_a_ridge_on_all_other_items(split):
    x = split.train_matrix().toarray().astype(float)
    n = x.shape[1]
    expected = np.zeros((n, n))
    for j in range(n):
        o = np.arange(n) != j
        expected[o, j] = np.linalg.solve(
            x[:, o].T @ x[:, o] + 3 * np.eye(n - 1), x[:, o].T @ x[:, j]
        )
    np.testing.assert_allclose(
        ease_weights(split.train_matrix(), 3.0), expected, atol=1e-6
    )


def test_knn_is_the_definition(split):
    x = split.train_matrix().toarray().astype(float)
    n = x.shape[1]
    both, single = x.T @ x, x.sum(0)
    s = both / (np.sqrt(np.outer(single, single)) + 2.0)
    np.fill_diagonal(s, -1)
    model = ItemKNN(4, 2.0).fit(split)
    kept = model.similarity.toarray()
    for j in range(n):
        best = sorted(range(n), key=lambda i: (-np.float32(s[i, j]), i))[:4]
        assert np.flatnonzero(kept[:, j]).tolist() == sorted(
            i for i in best if s[i, j] > 0
        )
        np.testing.assert_allclose(kept[best, j], np.maximum(s[best, j], 0), rtol=1e-6)


def test_decay_of_one_is_no_decay(split):
    for make in (lambda d: ItemKNN(10, decay=d), lambda d: EASE(5.0, d)):
        np.testing.assert_array_equal(
            make(None).fit(split).score(split.train),
            make(1.0).fit(split).score(split.train),
        )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=5),
    st.integers(1, 5),
)
def test_windows_hold_every_step_once(rows, length):
    found = windows(Ragged.from_lists(rows), length)
    steps = [(a, b) for w in found for a, b in zip(w[:-1], w[1:]) if b >= 0]
    assert sorted(steps) == sorted((a, b) for r in rows for a, b in zip(r[:-1], r[1:]))
    assert found.shape[1] == length + 1 and all(
        (np.diff((w >= 0).astype(int)) <= 0).all() and w[1] >= 0 for w in found
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=5),
    st.floats(0.1, 1.0),
)
def test_recency_counts_steps_from_the_end(rows, decay):
    expected = [decay ** (len(r) - 1 - p) for r in rows for p in range(len(r))]
    np.testing.assert_allclose(
        recency(Ragged.from_lists(rows), decay),
        np.array(expected, dtype=np.float32).reshape(-1),
        rtol=1e-5,
    )


def test_encoder_does_not_look_ahead():
    with seeded(0):
        model = CausalEncoder(12, 8, 16, layers=2, heads=2).eval()
    ids = torch.randint(12, (1, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids)
        for n in range(1, 8):
            torch.testing.assert_close(
                model(ids[:, :n]), whole[:, :n], rtol=1e-4, atol=1e-5
            )
            other = ids.clone()
            other[:, n:] = (other[:, n:] + 1) % 12
            torch.testing.assert_close(
                model(other)[:, :n], whole[:, :n], rtol=1e-4, atol=1e-5
            )


def test_padding_teaches_nothing(split):
    """The loss of two windows of different length is the mean over their real places,
    in company as alone.
    """
    model = SASRec(width=16, length=6, dropout=0.0)
    model.split = split
    with seeded(0):
        model.model = CausalEncoder(split.n_items, 6, 16, dropout=0.0)
    long, short = (
        torch.tensor([[0, 1, 2, 3, 4, 5, 6]]),
        torch.tensor([[7, 8, 9, -1, -1, -1, -1]]),
    )
    together = model._loss(torch.cat([long, short])).total
    torch.testing.assert_close(
        together, (6 * model._loss(long).total + 2 * model._loss(short).total) / 8
    )
    model._loss(short).total.backward()
    assert torch.isfinite(model.model.items.weight.grad).all()


def test_trap_21_batches_of_one(split):
    "Training and ranking with one row per batch."
    model = SASRec(width=8, length=6, epochs=1, batch_size=1).fit(split)
    top = model.rank(split.histories("test").take(np.arange(5)), 10, batch_size=1)
    np.testing.assert_array_equal(
        top.ids,
        model.rank(split.histories("test").take(np.arange(5)), 10, batch_size=5).ids,
    )


def test_only_the_last_items_are_read(split):
    model = SASRec(width=8, length=4, epochs=1).fit(split)
    np.testing.assert_allclose(
        model.score(Ragged.from_lists([[9, 8, 7, 3, 4, 5, 6]])),
        model.score(Ragged.from_lists([[3, 4, 5, 6]])),
        rtol=1e-5,
    )


def test_sasrec_learns_order_where_sets_say_nothing(split):

    def hr(model):
        ids = model.rank(split.histories("test"), 1).ids
        return per_user(ids, split.test, (1,))["HR@1"].mean()

    assert (
        hr(SASRec(width=32, epochs=40, lr=5e-3).fit(split))
        > 0.9
        > hr(EASE(5.0).fit(split))
    )


def test_trap_19_the_best_weights_stay_not_the_last(split):
    model = SASRec(width=16, length=6, epochs=6, lr=3e-2).fit(split)
    best = max(row["score"] for row in model.log)
    assert per_user(model.rank(split.histories("valid"), 10).ids, split.valid, (10,))[
        "NDCG@10"
    ].mean() == pytest.approx(best)


def test_ce_is_the_softmax_over_all_items(split):
    model = SASRec(width=16, length=6, dropout=0.0)
    with seeded(0):
        model.model = CausalEncoder(split.n_items, 6, 16, dropout=0.0)
    ids = torch.tensor([[3, 1, 4]])
    scores = model.model(ids[:, :2])[0] @ model.model.items.weight.T
    expected = -torch.log_softmax(scores, -1)[[0, 1], [1, 4]].mean()
    torch.testing.assert_close(model._loss(ids).total, expected)


@pytest.mark.parametrize("m", [1, 8])
def test_scores_of_some_items_are_those_of_all_and_pass_the_same_gradient(m):
    torch.manual_seed(0)
    hidden, items, chosen = (
        torch.randn(5, 4, requires_grad=True),
        torch.randn(200, 4, requires_grad=True),
        torch.randint(200, (5, m)),
    )
    found, expected = (
        some_scores(hidden, items, chosen),
        torch.stack([items[row] @ h for row, h in zip(chosen, hidden)]),
    )
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        *(
            torch.autograd.grad(s.square().sum(), (hidden, items))
            for s in (found, expected)
        )
    ):
        torch.testing.assert_close(ours, theirs)


def test_gbce_by_hand_and_its_limits(split):
    positive, negative = torch.tensor([1.0]), torch.tensor([[0.0, 2.0]])

    def sigma(x):
        return 1 / (1 + np.exp(-x))

    expected = -(
        0.3 * np.log(sigma(1.0)) + np.log(1 - sigma(0.0)) + np.log(1 - sigma(2.0))
    )
    assert generalised_bce(positive, negative, 0.3).item() == pytest.approx(
        expected, rel=1e-6
    )

    def loss(**setting):
        model = SASRec(width=16, length=6, dropout=0.0, negatives=8, **setting)
        with seeded(0):
            model.model = CausalEncoder(split.n_items, 6, 16, dropout=0.0)
            return model._loss(torch.tensor([[3, 1, 4, 1]])).total.item()

    assert loss(loss="gbce", calibration=0.0) == pytest.approx(loss(loss="bce"))
    assert (
        loss(loss="gbce", calibration=1.0)
        < loss(loss="gbce", calibration=0.5)
        < loss(loss="bce")
    )


def test_negatives_are_never_the_target(split, monkeypatch):
    drawn = []
    model = SASRec("bce", width=8, length=6, negatives=500)
    with seeded(0):
        model.model = CausalEncoder(split.n_items, 6, 8)
    monkeypatch.setattr(
        "contrec.ranking.sequential.some_scores",
        lambda hidden, items, chosen: (
            drawn.append(chosen) or some_scores(hidden, items, chosen)
        ),
    )
    model._loss(torch.tensor([[0, split.n_items - 1, 0]]))
    assert [set(place.tolist()) for place in drawn[0]] == [
        set(range(split.n_items)) - {split.n_items - 1},
        set(range(split.n_items)) - {0},
    ]


def test_a_killed_training_ends_with_the_same_scores(split, tmp_path):
    def make(**more):
        return SASRec(width=16, length=6, epochs=4, **more)

    whole = make().fit(split)

    def kill(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(checkpoint=tmp_path / "s.safetensors").fit(split, log=kill)
    resumed = make(checkpoint=tmp_path / "s.safetensors").fit(split)
    np.testing.assert_array_equal(resumed.score(split.train), whole.score(split.train))


def test_ranking_in_pieces_and_with_known_users(split):
    class ByUser(Recommender):
        name, reads_history = "by user", False

        def score(self, histories, users=None):
            return np.eye(split.n_items, dtype=np.float32)[users % split.n_items]

    model = ByUser()
    model.split = split
    users = np.arange(20)[::-1]
    top = model.rank(Ragged.from_lists([[]] * 20), 3, users, batch_size=6)
    np.testing.assert_array_equal(top.ids[:, 0], users % split.n_items)
    assert model.rank(Ragged.from_lists([]), 3).ids.shape == (0, 3)


def test_seen_items_can_be_left_in(split):
    model, history = Popularity().fit(split), split.histories("test").take(np.arange(6))
    seen = model.rank(history, split.n_items, exclude_seen=False)
    assert (np.sort(seen.ids, axis=1) == np.arange(split.n_items)).all()


def test_recommend_by_raw_ids(split):
    table = EASE(5.0).fit(split).recommend(["i4", "i5"], k=3, user="u0")
    assert table.columns.tolist() == [
        "rank",
        "item",
        "title",
        "categories",
        "score",
    ] and table["rank"].tolist() == [1, 2, 3]
    assert (
        not set(table["item"]) & {"i4", "i5"} and table["score"].is_monotonic_decreasing
    )
    for row in table.itertuples():
        assert row.title == f"Item {row.item[1:]}" and row.categories == (
            "even, ring" if int(row.item[1:]) % 2 == 0 else "ring"
        )
    everything = Popularity().fit(split).recommend(["i1"], k=1000)
    assert (
        len(everything) == split.n_items - 1 and np.isfinite(everything["score"]).all()
    )


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda s: EASE().recommend(["i1"]), ConfigError, "EASE has not been fitted"),
        (lambda s: SASRec().rank(s.train), ConfigError, "SASRec has not been fitted"),
        (
            lambda s: Popularity().fit(s).recommend(["i1", "i999"]),
            DataError,
            "unknown item 'i999'",
        ),
        (
            lambda s: Popularity().fit(s).recommend(["i1"], user="nobody"),
            DataError,
            "unknown user 'nobody'",
        ),
        (lambda s: Popularity().fit(s).recommend("i1,i2"), DataError, "one text"),
        (lambda s: EASE().fit(s).recommend([]), DataError, "the history is empty"),
        (lambda s: EASE(0.0).fit(s), ConfigError, "must be above 0"),
        (lambda s: ItemKNN(0), ConfigError, "at least one neighbour"),
        (lambda s: recency(s.train, 1.5), ConfigError, "decay is 1.5"),
        (lambda s: SASRec("hinge"), ConfigError, "unknown loss 'hinge'"),
        (lambda s: SASRec(negatives=3), ConfigError, "Leave negatives out"),
        (lambda s: SASRec("bce", calibration=0.5), ConfigError, "belongs to gbce"),
        (
            lambda s: SASRec(width=10, heads=3),
            ConfigError,
            "cannot be shared by 3 heads",
        ),
    ],
)
def test_mistakes_are_named(split, call, error, says):
    with pytest.raises(error, match=says):
        call(split)


def test_a_data_set_without_a_step_is_refused():
    frame = pd.DataFrame(
        {
            "user": np.repeat(list("abc"), 3),
            "item": list("xyzxyzxyz"),
            "timestamp": np.tile([1, 2, 3], 3),
        }
    )
    with pytest.raises(DataError, match="no user has two training items"):
        SASRec().fit(leave_one_out(from_frame(frame), core=1))


class Broken(EASE):
    "EASE with one thing wrong."

    def __init__(self, how):
        super().__init__(5.0)
        self.how, self.calls = how, 0

    def score(self, histories, users=None):
        scores = super().score(histories, users)
        self.calls += 1
        if self.how == "float64":
            return scores.astype(np.float64)
        if self.how == "narrow":
            return scores[:, 1:]
        if self.how == "nan":
            scores[0, 0] = np.nan
        if self.how == "random":
            scores += self.calls
        if self.how == "neighbours":
            scores += np.arange(len(scores), dtype=np.float32)[:, None]
        if self.how == "size":
            scores *= len(scores)
        return scores

    def rank(self, histories, k=20, users=None, exclude_seen=True, batch_size=512):
        top = super().rank(
            histories, k, users, exclude_seen and self.how != "seen", batch_size
        )
        return (
            top._replace(ids=top.ids[:, ::-1], scores=top.scores[:, ::-1])
            if self.how == "reversed"
            else top
        )

    def recommend(self, history, k=10, user=None):
        if self.how == "unknown":
            history = [i for i in history if i in self._fitted().item_ids]
        table = super().recommend(history, k, user)
        return table.assign(title="?") if self.how == "titles" else table


@pytest.mark.parametrize(
    "how, says",
    [
        ("float64", "float32"),
        ("narrow", "shape"),
        ("nan", "NaN"),
        ("random", "twice gives different"),
        ("neighbours", "order of the rows"),
        ("size", "alone is scored differently"),
        ("seen", "its own history"),
        ("reversed", "order of its scores"),
        ("unknown", "is not refused"),
        ("titles", "wrong titles"),
    ],
)
def test_the_contract_notices(split, how, says):
    with pytest.raises(AssertionError, match=says):
        check_recommender(Broken(how).fit(split), split)


# memory: what needs a matrix of items by items says so before it begins


def wide_log(items, users=60, seed=0):
    "Users with 25 of many items."
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user": np.repeat(np.arange(users), 25),
            "item": rng.integers(0, items, users * 25),
            "timestamp": np.tile(np.arange(25), users),
        }
    )
    return leave_one_out(from_frame(frame, name="wide"), core=1)


def peak(call):
    "Bytes that a call takes at its peak."
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "system, memory, advice",
    [(EASE(), ease_memory, "Leave EASE out"), (None, linear_memory, "ials")],
)
def test_more_memory_than_the_budget_is_refused_before_it_is_taken(
    system, memory, advice, monkeypatch
):
    split = wide_log(1500)
    budget = 0.99 * memory(split.n_items)
    monkeypatch.setenv("CONTREC_MEMORY_GB", repr(budget / 1e9))

    def fit():
        with pytest.raises(
            MemoryBudgetError, match=f"{split.n_items:,} items needs .* GB"
        ) as caught:
            system.fit(split) if system else linear(split, width=8)
        assert advice in str(caught.value) and len(str(caught.value).splitlines()) == 1

    assert peak(fit) < budget / 5
    monkeypatch.setenv("CONTREC_MEMORY_GB", repr(memory(split.n_items) / 0.99e9))
    used = peak(lambda: system.fit(split) if system else linear(split, width=8))
    # the estimate is one
    assert memory(split.n_items) / 3 < used < memory(split.n_items)


def test_item_knn_never_holds_a_matrix_of_items_by_items():
    split = wide_log(6000, users=240)
    assert (
        split.n_items > 3000
        and peak(lambda: ItemKNN().fit(split)) < 12 * split.n_items**2
    )
    a, b = ItemKNN().fit(split), split.train_matrix().toarray()
    cosine = b.T @ b / np.maximum(np.sqrt(np.outer((b**2).sum(0), (b**2).sum(0))), 1e-9)
    some = a.similarity[:, :50].toarray()
    np.testing.assert_allclose(some[some > 0], cosine[:, :50][some > 0], rtol=1e-5)


def test_folding_in_with_too_many_factors_is_refused(split, monkeypatch):
    monkeypatch.setenv("CONTREC_MEMORY_GB", "0.0001")
    with pytest.raises(MemoryBudgetError, match="iALS with 64 factors on 30 items"):
        IALS(64).fit(split)


def test_weights_of_ease_are_those_of_a_plain_inverse_whatever_the_blocks(monkeypatch):
    matrix = wide_log(700).train_matrix()
    plain = np.linalg.inv(
        (matrix.T @ matrix).toarray().astype(float) + 20 * np.eye(matrix.shape[1])
    )
    plain = -plain / np.diag(plain)
    np.fill_diagonal(plain, 0)
    found = ease_weights(matrix, 20.0)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-6)
    for block in (7, 10_000):
        monkeypatch.setattr("contrec.ranking.linear._BLOCK", block)
        np.testing.assert_array_equal(ease_weights(matrix, 20.0), found)


def test_a_step_of_sasrec_means_the_same_in_any_number_of_parts():
    """Windows sorted by length; also through `fit`, where the order is drawn.

    The sampled losses draw negatives per part, so their gradients differ by draws.
    """
    lengths = np.tile(np.arange(3, 11), 5)
    split = leave_one_out(
        from_frame(
            pd.DataFrame(
                {
                    "user": np.repeat([f"u{u}" for u in range(40)], lengths),
                    "item": [
                        f"i{i}"
                        for i in np.concatenate(
                            [
                                (7 * u + 5 * np.arange(n)) % 23
                                for u, n in enumerate(lengths)
                            ]
                        )
                    ],
                    "timestamp": np.concatenate([np.arange(n) for n in lengths]),
                }
            ),
            name="uneven",
        ),
        core=3,
    )
    model = SASRec("ce", width=16, dropout=0.0, length=8)
    with seeded(0):
        model.model = CausalEncoder(split.n_items, 8, 16, 1, 1, 0.0).train()
    ids = torch.as_tensor(windows(split.train, 8))
    ids = ids[(ids >= 0).sum(1).argsort()]

    def gradient(accumulate, counts):
        model.model.zero_grad()
        Trainer(
            model.model,
            lambda rows: model._loss(ids[rows]),
            len(ids),
            epochs=1,
            accumulate=accumulate,
            counts=counts,
        ).backward(torch.arange(len(ids)))
        return torch.cat([p.grad.flatten() for p in model.model.parameters()])

    whole = gradient(1, None)
    for accumulate in (1, 2, 8):
        assert (
            gradient(accumulate, steps_of(ids)) - whole
        ).norm() < 1e-5 * whole.norm()
    assert (gradient(8, None) - whole).norm() > 1e-3 * whole.norm()
    one, parts = (
        SASRec("ce", width=16, dropout=0.0, length=8, epochs=3, accumulate=a).fit(split)
        for a in (1, 4)
    )
    for a, b in zip(one.model.parameters(), parts.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
