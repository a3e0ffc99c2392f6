"Retrieval: exclusion before the cut, and FAISS equal to exact search."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.data.interactions import Ragged
from contrec.foundations.errors import ConfigError, DataError
from contrec.ranking.metrics import top_k
from contrec.retrieval.fusion import fuse
from contrec.retrieval.index import ItemIndex, log_mean_exp


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(items, query, k, exclude, cosine=True, tau=0.1, scale=None):
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
                (1 if scale is None else scale[i].item()) * s / tau
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
    options = {"hnsw": {"ef_search": 50}, "ivf": {"nprobe": 50}}.get(kind, {})
    index = ItemIndex(items, kind, metric, scale=scale, **options)
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
    tau=st.sampled_from([0.02, 0.1, 1.0, 5.0]),
)
def test_flat_is_always_exact(n, b, s, k, seed, metric, tau):
    rng = np.random.default_rng(seed)
    items, query = draw(n, 6, seed=seed), draw(b, s, 6, seed=seed + 1)
    seen = Ragged.from_lists(
        [rng.integers(0, n, rng.integers(0, n + 1)).tolist() for _ in range(b)]
    )
    scale = draw(n, seed=seed + 2).exp() if seed % 2 else None
    longer = ItemIndex(items, "exact", metric, tau, scale=scale).search(
        query, k + 1, seen
    )
    flat = ItemIndex(items, "flat", metric, tau, scale=scale).search(query, k, seen)
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
    options = {"hnsw": {"ef_search": 64}, "ivf": {"nprobe": 32}}[kind]
    found = ItemIndex(items, kind, **options).search(query, 10, seen)
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


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(kind="annoy"), "unknown kind of index 'annoy'"),
        (dict(metric="l2"), "unknown metric 'l2'"),
        (dict(tau=0), "above 0"),
        (dict(tau=float("nan")), "above 0"),
        (dict(ef_search=5), "ef_search=5 has no meaning for the index 'exact'"),
        (dict(nprobe=5), "nprobe=5 has no meaning for the index 'exact'"),
        (dict(kind="ivf", ef_search=5), "only for 'hnsw'"),
        (dict(kind="hnsw", ef_search=0), "1 or more"),
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
