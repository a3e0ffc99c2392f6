"Retrieval: exclusion before the cut, FAISS equal to exact search, fusion that cannot invert."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.data.interactions import Ragged
from contrec.foundations.errors import ConfigError, DataError
from contrec.foundations.random import seeded
from contrec.ranking.metrics import top_k
from contrec.retrieval.fusion import calibrate, choose_weight, fuse
from contrec.retrieval.index import ItemIndex, log_mean_exp


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(items, query, k, exclude, cosine=True, temperature=0.1, scale=None):
    "One user, one item, one sample at a time, in float64."
    items, query = items.double().numpy(), query.double().numpy()
    lists = []
    for samples, seen in zip(query, exclude):
        scored = []
        for i, x in enumerate(items):
            if i in seen:
                continue
            similarities = [
                q @ x / (np.linalg.norm(q) * np.linalg.norm(x) if cosine else 1)
                for q in samples
            ]
            similarities = [
                (1 if scale is None else scale[i].item()) * s / temperature
                for s in similarities
            ]
            scored.append(
                (-(np.logaddexp.reduce(similarities) - np.log(len(samples))), i)
            )
        lists.append([i for _, i in sorted(scored)[:k]])
    return lists


HISTORY = [[], [3], [5, 5, 7], list(range(30)), list(range(48))]


@pytest.mark.parametrize("kind", ItemIndex.kinds)
@pytest.mark.parametrize("metric", ItemIndex.metrics)
def test_lists_equal_those_of_a_slow_oracle(kind, metric):
    items, query = draw(50, 8), draw(5, 3, 8, seed=1)
    found = ItemIndex(items, kind, metric).search(query, 5, Ragged.from_lists(HISTORY))
    expected = oracle(items, query, 5, HISTORY, metric == "cosine")
    for row, wanted in zip(found.ids, expected):
        assert (
            row[: len(wanted)].tolist() == wanted and (row[len(wanted) :] == -1).all()
        )


@pytest.mark.parametrize("kind", ItemIndex.kinds)
@pytest.mark.parametrize("metric", ItemIndex.metrics)
def test_items_with_a_scale_of_their_own(kind, metric):
    items, query, scale = draw(50, 8), draw(5, 3, 8, seed=1), draw(50, seed=2).exp()
    seen = Ragged.from_lists(HISTORY)
    index = ItemIndex(
        items, kind, metric, effort=50 if kind in ("hnsw", "ivf") else None, scale=scale
    )
    expected = oracle(items, query, 5, HISTORY, metric == "cosine", scale=scale)
    for row, wanted in zip(index.search(query, 5, seen).ids, expected):
        assert row[: len(wanted)].tolist() == wanted
    assert expected != oracle(items, query, 5, HISTORY, metric == "cosine")
    np.testing.assert_array_equal(
        index.scores(query)[0].argsort(descending=True)[:5], expected[0]
    )


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 400),
    b=st.integers(1, 6),
    s=st.integers(1, 6),
    k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    metric=st.sampled_from(ItemIndex.metrics),
    temperature=st.sampled_from([0.02, 0.1, 1.0, 5.0]),
)
def test_flat_is_always_exact(n, b, s, k, seed, metric, temperature):
    rng = np.random.default_rng(seed)
    items, query = draw(n, 6, seed=seed), draw(b, s, 6, seed=seed + 1)
    seen = Ragged.from_lists(
        [rng.integers(0, n, rng.integers(0, n + 1)).tolist() for _ in range(b)]
    )
    scale = draw(n, seed=seed + 2).exp() if seed % 2 else None
    longer = ItemIndex(items, "exact", metric, temperature, scale=scale).search(
        query, k + 1, seen
    )
    flat = ItemIndex(items, "flat", metric, temperature, scale=scale).search(
        query, k, seen
    )
    np.testing.assert_allclose(flat.scores, longer.scores[:, :k], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(flat.ids == -1, longer.ids[:, :k] == -1)
    gaps = -np.diff(np.where(longer.ids < 0, -1e9, longer.scores), axis=1, prepend=1e9)
    # No tie within rounding, above or below
    clear = (gaps[:, :-1] > 1e-3) & (gaps[:, 1:] > 1e-3)
    np.testing.assert_array_equal(flat.ids[clear], longer.ids[:, :k][clear])


@pytest.mark.parametrize("kind,least", [("hnsw", 0.95), ("ivf", 0.9)])
def test_approximate_recall_is_as_stated(kind, least):
    items = draw(6000, 16)
    query = items[:80, None] + 0.5 * draw(80, 4, 16, seed=2)
    seen = Ragged.from_lists(
        np.random.default_rng(0).integers(0, 6000, (80, 40)).tolist()
    )
    exact = ItemIndex(items).search(query, 10, seen)
    found = ItemIndex(items, kind, effort={"hnsw": 64, "ivf": 32}[kind]).search(
        query, 10, seen
    )
    recall = (found.ids[:, :, None] == exact.ids[:, None, :]).any(1).mean()
    assert recall >= least, recall


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_the_fetch_grows_past_a_history_of_the_nearest(kind):
    items, query = draw(3000, 16), draw(2, 1, 16, seed=3)
    order = ItemIndex(items).scores(query).argsort(descending=True)
    seen = Ragged.from_lists([order[0, :700].tolist(), order[1, :3].tolist()])
    exact, found = (
        ItemIndex(items, name).search(query, 10, seen) for name in ("exact", kind)
    )
    assert (found.ids >= 0).all()
    for row, hidden in zip(found.ids, seen):
        assert not np.isin(row, hidden).any()
    assert (found.ids == exact.ids).mean() >= (1.0 if kind == "flat" else 0.8)


@pytest.mark.parametrize("kind", ItemIndex.kinds)
def test_trap_17_last_seen_item_excluded(kind):
    items = draw(2000, 8)
    last = 1234
    # The generated vector is exactly the last seen item
    query = items[last][None, None]
    top = ItemIndex(items, kind).search(query, 10, Ragged.from_lists([[5, 8, last]]))
    assert last not in top.ids[0]
    # So that the test could fail
    assert ItemIndex(items, kind).search(query, 10).ids[0, 0] == last


@pytest.mark.parametrize("kind", ItemIndex.kinds)
def test_trap_18_seen_not_scored_zero(kind):
    items = torch.nn.functional.normalize(draw(600, 8), dim=1)
    items[:, 0] = -items[:, 0].abs() - 0.1
    # Every item's similarity is negative
    query = torch.zeros(1, 1, 8)
    query[..., 0] = 1
    seen = [3, 77, 500]
    assert (ItemIndex(items).scores(query) < 0).all()
    top = ItemIndex(items, kind).search(query, 600, Ragged.from_lists([seen]))
    assert not set(seen) & set(top.ids[0].tolist()) and (top.ids[0, -3:] == -1).all()
    fused = fuse(
        ItemIndex(items).scores(query),
        torch.zeros(1, 600),
        1.0,
        Ragged.from_lists([seen]),
    )
    assert not set(seen) & set(top_k(fused, 597).ids[0].tolist())


def test_trap_15_text_bonus_not_inverted():
    latent, text = draw(20, 100), torch.zeros(20, 100)
    text[:, 40] = 1.0  # Item 40's text agrees, no other's does

    def place(weight):
        return (fuse(latent, text, weight) > fuse(latent, text, weight)[:, 40:41]).sum(
            1
        )

    assert (
        (place(0.3) <= place(0)).all()
        and (place(0.3) < place(0)).any()
        and (place(100.0) == 0).all()
    )
    with pytest.raises(ConfigError, match="negative"):
        fuse(latent, text, -0.1)


def test_trap_21_batch_of_one():
    items, query = draw(30, 4), draw(3, 2, 4, seed=1)
    index = ItemIndex(items)
    assert index.scores(query[:1]).shape == (1, 30) and index.search(
        query[:1], 4
    ).ids.shape == (1, 4)
    for i in range(3):
        np.testing.assert_array_equal(
            index.search(query[i : i + 1], 4).ids, index.search(query, 4).ids[i : i + 1]
        )
    assert index.search(query[:0], 4, Ragged.from_lists([])).ids.shape == (0, 4)


def test_log_mean_exp_is_between_mean_and_maximum_and_does_not_overflow():
    x = draw(4, 7, 9) * 500
    y = log_mean_exp(x)
    assert (
        y.isfinite().all() and (y <= x.amax(1)).all() and (y >= x.mean(1) - 1e-3).all()
    )


def test_blocks_do_not_change_the_scores(monkeypatch):
    items, query = draw(100, 8), draw(37, 5, 8, seed=1)
    whole = ItemIndex(items).scores(query)
    monkeypatch.setattr("contrec.retrieval.index.BLOCK", 1000)
    torch.testing.assert_close(ItemIndex(items).scores(query), whole)
    seen = Ragged.from_lists([[i] for i in range(37)])
    lists = [
        ItemIndex(items, kind).search(query, 5, seen).ids for kind in ("exact", "flat")
    ]
    np.testing.assert_array_equal(*lists)


def test_index_does_not_follow_later_changes_nor_change_its_input():
    items = draw(20, 4)
    before = items.clone()
    index = ItemIndex(items)
    scores = index.scores(items[:2, None])
    torch.testing.assert_close(items, before)
    items.zero_()
    torch.testing.assert_close(index.scores(before[:2, None]), scores)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    a=st.floats(0.1, 100),
    c=st.floats(-10, 10),
    weight=st.floats(0, 3),
)
def test_fusion_does_not_depend_on_scale_or_offset(seed, a, c, weight):
    latent, text = draw(3, 40, seed=seed).double(), draw(3, 40, seed=seed + 1).double()
    seen = Ragged.from_lists([[0, 1], [], [39]])
    torch.testing.assert_close(
        fuse(latent * a + c, text, weight, seen),
        fuse(latent, text, weight, seen),
        rtol=1e-2,
        atol=1e-2,
    )


def test_fusion_standardises_over_candidates_only():
    latent, text = draw(1, 10), draw(1, 10, seed=1)
    seen = Ragged.from_lists([[2, 7]])
    keep = [i for i in range(10) if i not in (2, 7)]
    with_wild = latent.clone()
    with_wild[0, 2], with_wild[0, 7] = 1e4, -1e4
    torch.testing.assert_close(
        fuse(with_wild, text, 0.5, seen), fuse(latent, text, 0.5, seen)
    )
    z = (latent[0, keep] - latent[0, keep].mean()) / latent[0, keep].std(correction=0)
    t = (text[0, keep] - text[0, keep].mean()) / text[0, keep].std(correction=0)
    torch.testing.assert_close(fuse(latent, text, 0.5, seen)[0, keep], z + 0.5 * t)
    masked = latent.clone()
    masked[0, [2, 7]] = -torch.inf
    torch.testing.assert_close(fuse(masked, text, 0.5), fuse(latent, text, 0.5, seen))


def test_constant_text_changes_nothing():
    latent = draw(5, 30)
    for level in (0.0, 1 / 3, -1e5):
        torch.testing.assert_close(
            fuse(latent, torch.full((5, 30), level), 2.0),
            fuse(latent, torch.zeros(5, 30), 0.0),
        )


def test_row_without_candidates_is_minus_infinity_not_nan():
    fused = fuse(draw(1, 3), draw(1, 3), 1.0, Ragged.from_lists([[0, 1, 2]]))
    assert (fused == -torch.inf).all()


def test_weight_is_chosen_by_validation_and_ties_go_to_the_smallest():
    latent, targets = draw(50, 30), np.arange(50) % 30
    text = torch.nn.functional.one_hot(torch.as_tensor(targets), 30).float()
    assert choose_weight(latent, text, targets, weights=(0, 0.01, 50)).weight == 50
    assert (
        choose_weight(latent, torch.zeros(50, 30), targets, weights=(1, 0.5, 0)).weight
        == 0
    )
    for metric in ("F1@10", "NDCG", "NDCG@0", "NDCG@x"):
        with pytest.raises(ConfigError, match="unknown metric"):
            choose_weight(latent, text, targets, metric=metric)
    with pytest.raises(ConfigError, match="at least one"):
        choose_weight(latent, text, targets, weights=())


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(kind="annoy"), "unknown kind of index 'annoy'"),
        (dict(metric="l2"), "unknown metric 'l2'"),
        (dict(temperature=0), "above 0"),
        (dict(temperature=float("nan")), "above 0"),
        (dict(effort=5), "effort=5"),
        (dict(scale=torch.ones(4)), r"scale must be one finite number per item \(5\)"),
        (
            dict(scale=torch.tensor([0.0, 1.0, torch.nan, 0.0, 0.0])),
            "scale must be one finite",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        ItemIndex(draw(5, 2), **options)


def test_bad_input():
    items = draw(5, 2)
    items[3, 1] = torch.inf
    with pytest.raises(DataError, match="item 3"):
        ItemIndex(items)
    with pytest.raises(ConfigError, match=r"\(n_items, d\)"):
        ItemIndex(draw(5))
    index = ItemIndex(draw(5, 2))
    for query in (draw(3, 2), draw(3, 1, 4), draw(3, 0, 2)):
        with pytest.raises(ConfigError, match="must have the shape"):
            index.search(query, 2)
    for kind in ItemIndex.kinds:
        for search in (lambda i, q: i.search(q, 2), lambda i, q: i.scores(q)):
            with pytest.raises(DataError, match="query of row 2 is not finite"):
                search(
                    ItemIndex(draw(50, 2), kind),
                    torch.cat([draw(2, 3, 2), torch.full((1, 3, 2), torch.nan)]),
                )
    with pytest.raises(ConfigError, match="k=0"):
        index.search(draw(1, 1, 2), 0)
    with pytest.raises(ConfigError, match="2 queries but 1 rows"):
        index.search(draw(2, 1, 2), 1, Ragged.from_lists([[0]]))
    with pytest.raises(ConfigError, match="one shape"):
        fuse(draw(2, 3), draw(2, 4), 0.1)


def test_calibration_gives_new_items_the_scale_of_the_known_ones():
    """Known scores stay.

    If the known items' foretold copies themselves were new, they would spread as the
    known ones do; row by row, whatever the scale.
    """
    with seeded(0):
        known, foretold, new = (
            torch.randn(5, 40) * 3 + 7,
            torch.randn(5, 40) * 0.1 + 2,
            torch.randn(5, 3),
        )
    moved = calibrate(torch.cat([known, foretold], 1), foretold)
    torch.testing.assert_close(moved[:, :40], known)
    torch.testing.assert_close(moved[:, 40:].mean(1), known.mean(1))
    torch.testing.assert_close(moved[:, 40:].std(1), known.std(1))
    scores = torch.cat([known, new], 1)
    torch.testing.assert_close(
        calibrate(torch.cat([known, 10 * new + 4], 1), 10 * foretold + 4),
        calibrate(scores, foretold),
        atol=1e-3,
        rtol=1e-4,
    )
    # among themselves nothing changes
    assert (calibrate(scores, foretold)[:, 40:].argsort(1) == new.argsort(1)).all()
    assert (
        calibrate(scores[:, :41], foretold).shape == (5, 41)
        and calibrate(known, torch.full((5, 40), 2.0)).isfinite().all()
    )
