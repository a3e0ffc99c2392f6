"""Test the peers of ContRec.

Order is learnt where nothing else helps, beam search equals reading every item, seeds
decide everything, and a kill loses nothing.
"""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrec.data.interactions import Ragged
from contrec.data.reading import from_frame
from contrec.data.split import leave_one_out
from contrec.foundations.errors import ConfigError, DataError
from contrec.foundations.random import seeded
from contrec.foundations.trainer import Trainer
from contrec.ranking.linear import EASE, Popularity
from contrec.ranking.metrics import per_user
from contrec.ranking.recommender import check_recommender
from contrec.ranking.sequential import SASRec
from contrec.retrieval.rank_fusion import Fused
from contrec.studies.dreamrec import NOISES, DreamRec, noise_key
from contrec.studies.factor_models import BPR, LightGCNRecommender
from contrec.studies.sequence_models import BERT4Rec, GRU4Rec
from contrec.studies.tiger import (
    TIGER,
    CodeModel,
    beam_search,
    break_collisions,
    prefill,
    trie,
)


@pytest.fixture(scope="module")
def split():
    "Users who walk round a ring of 24 items: the last item says which comes next."
    users, items, steps = 60, 24, 8
    start = np.random.default_rng(0).integers(0, items, users)
    frame = pd.DataFrame(
        {
            "user": np.repeat([f"u{i}" for i in range(users)], steps),
            "item": [
                f"i{i}" for i in ((start[:, None] + np.arange(steps)) % items).ravel()
            ],
            "timestamp": np.tile(np.arange(steps), users),
        }
    )
    return leave_one_out(from_frame(frame, name="ring"), core=3)


DREAM = dict(T=10, guidance=1.0, width=16, hidden=32, length=6)
CODES = dict(
    tokens=2, size=6, width=16, layers=1, quantizer_epochs=30, length=6, beams=12
)
SMALL = {
    "BPR": lambda **o: BPR(width=8, batch_size=256, **o),
    "LightGCN": lambda **o: LightGCNRecommender(width=8, batch_size=256, **o),
    "GRU4Rec": lambda **o: GRU4Rec(width=16, length=6, **o),
    "BERT4Rec": lambda **o: BERT4Rec(width=16, layers=1, length=6, **o),
    "DreamRec": lambda **o: DreamRec(every=1, **DREAM, **o),
    "DreamRec, frozen": lambda **o: DreamRec("sasrec", every=1, **DREAM, **o),
    "TIGER": lambda **o: TIGER(**CODES, **o),
}


@pytest.fixture(scope="module")
def fitted(split):
    return {name: make(epochs=1).fit(split) for name, make in SMALL.items()}


@pytest.mark.parametrize("name", SMALL)
def test_contract(name, fitted, split):
    check_recommender(fitted[name], split)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("name", [*SMALL, "SASRec"])
def test_contract_on_a_gpu(name, split):
    model = (SMALL | {"SASRec": lambda **o: SASRec(width=16, length=6, **o)})[name](
        epochs=1, device="cuda"
    ).fit(split)
    check_recommender(model, split)
    assert {p.device.type for p in model.model.parameters()} == {"cuda"}


@pytest.fixture(scope="module")
def uneven():
    "Histories of 4 to 11 items: the windows have different numbers of steps."
    lengths = np.tile(np.arange(4, 12), 6)
    items = np.concatenate(
        [(7 * u + 5 * np.arange(n)) % 23 for u, n in enumerate(lengths)]
    )
    frame = pd.DataFrame(
        {
            "user": np.repeat([f"u{u}" for u in range(len(lengths))], lengths),
            "item": [f"i{i}" for i in items],
            "timestamp": np.concatenate([np.arange(n) for n in lengths]),
        }
    )
    return leave_one_out(from_frame(frame, name="uneven"), core=3)


def step_gradient(model, split, accumulate):
    """The gradient of one step of all training rows, sorted by length, in so many
    parts.
    """
    model.split = split
    with seeded(0):
        model.model, rows = model.build(split)
    rows = rows[(rows >= 0).flatten(1).sum(1).argsort()]
    Trainer(
        model.model.train(),
        lambda n: model.loss(rows[n]),
        len(rows),
        epochs=1,
        counts=model.counts(rows),
        accumulate=accumulate,
    ).backward(torch.arange(len(rows)))
    return torch.cat(
        [p.grad.flatten() for p in model.model.parameters() if p.grad is not None]
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: GRU4Rec(width=16, length=6, dropout=0.0),
        lambda: DreamRec(every=1, dropout=0.0, **DREAM),
        lambda: TIGER(dropout=0.0, **CODES),
    ],
    ids=["GRU4Rec", "DreamRec", "TIGER"],
)
def test_a_step_means_the_same_in_any_number_of_parts(make, uneven, without_draws):
    whole = step_gradient(make(), uneven, 1)
    for accumulate in (2, 8):
        assert (
            step_gradient(make(), uneven, accumulate) - whole
        ).norm() < 1e-5 * whole.norm()
    alike = make()
    alike.counts = lambda rows: None
    # weighted by rows it would differ
    assert (step_gradient(alike, uneven, 8) - whole).norm() > 1e-3 * whole.norm()


def test_parts_are_for_every_trained_system(uneven):
    one, parts = (
        GRU4Rec(width=16, length=6, dropout=0.0, epochs=3, accumulate=a).fit(uneven)
        for a in (1, 3)
    )
    for a, b in zip(one.model.parameters(), parts.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_a_short_history_among_others_changes_nothing(name, fitted):
    if name == "TIGER":
        fitted[name].beams = 24
    scores = fitted[name].score(Ragged.from_lists([[7], [3, 4, 5], [7]]))
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(
        scores[1],
        fitted[name].score(Ragged.from_lists([[3, 4, 5]]))[0],
        rtol=1e-3,
        atol=1e-4,
    )
    np.testing.assert_allclose(scores[0], scores[2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_the_same_model_and_the_test_item_is_never_seen(
    name, fitted, split
):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = SMALL[name](epochs=1).fit(replace(split, test=np.roll(split.test, 11)))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(
        again.score(split.train, np.arange(60)),
        SMALL[name](epochs=1).fit(split).score(split.train, np.arange(60)),
    )
    assert not np.array_equal(
        again.score(split.train),
        SMALL[name](epochs=1, seed=1).fit(split).score(split.train),
    )


@pytest.mark.parametrize(
    "name, options",
    [
        ("GRU4Rec", dict(lr=1e-2, epochs=15, batch_size=8)),
        ("BERT4Rec", dict(lr=5e-3, epochs=30, last=0.5, batch_size=8)),
        ("DreamRec, frozen", dict(lr=5e-3, epochs=30, batch_size=8)),
        ("TIGER", dict(lr=1e-2, epochs=15, batch_size=8)),
    ],
)
def test_order_is_learnt_where_sets_say_nothing(name, options, split):
    def hit(m):
        return per_user(
            m.rank(split.histories("test"), 3, np.arange(60)).ids, split.test, (3,)
        )["HR@3"].mean()

    assert (
        hit(SMALL[name](**options).fit(split))
        > 0.8
        > 0.3
        > hit(Popularity().fit(split))
    )


def test_trap_19_the_best_weights_stay_not_the_last(split):
    model = GRU4Rec(width=8, length=6, lr=5e-2, epochs=5).fit(split)
    assert per_user(model.rank(split.train, 10).ids, split.valid, (10,))[
        "NDCG@10"
    ].mean() == pytest.approx(max(row["score"] for row in model.log))


def test_a_killed_training_ends_with_the_same_scores(split, tmp_path):
    def make(**more):
        return BERT4Rec(width=8, layers=1, length=6, epochs=4, **more)

    def kill(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(checkpoint=tmp_path / "c.safetensors").fit(split, log=kill)
    np.testing.assert_array_equal(
        make(checkpoint=tmp_path / "c.safetensors").fit(split).score(split.train),
        make().fit(split).score(split.train),
    )


def test_a_hidden_item_is_really_hidden(split, monkeypatch):
    """What the cloze model reads holds the mask, and never the answer, at the places
    that it is asked about.
    """
    model = BERT4Rec(width=8, layers=1, length=6)
    model.split = split
    with seeded(0):
        model.model, rows = model.build(split)
    # left-padded
    assert rows.shape[1] == 6 and (rows[:, -1] >= 0).all()
    seen = {}
    forward = model.model.forward
    monkeypatch.setattr(
        model.model,
        "forward",
        lambda ids: seen.setdefault("ids", ids) is None or forward(ids),
    )
    with seeded(1):
        model.loss(rows[:8])
    with seeded(1):
        gaps = model.hide(rows[:8])
    assert (
        (seen["ids"][gaps] == split.n_items).all()
        and torch.equal(seen["ids"][~gaps], rows[:8][~gaps])
        and gaps.any(1).all()
    )


def test_trap_21_batches_of_one(split):
    for name in ("GRU4Rec", "BERT4Rec", "TIGER"):
        model = SMALL[name](epochs=1, batch_size=1).fit(
            replace(split, train=split.train.last(3))
        )
        top = model.rank(split.train.take([0, 1]), 3, batch_size=1)
        np.testing.assert_array_equal(
            top.ids, model.rank(split.train.take([0, 1]), 3).ids
        )


def test_strangers_are_served_by_what_they_took(split):
    model = BPR(width=8, batch_size=256, epochs=2).fit(split)
    np.testing.assert_allclose(
        model.score(split.train.take([3]))[0],
        model.score(Ragged.from_lists([split.train[3][::-1]]))[0],
        rtol=1e-4,
        atol=1e-6,
    )
    assert not np.allclose(
        model.score(split.train.take([3])),
        model.score(split.train.take([3]), np.array([3])),
    )


def test_fusion_leaves_a_search_its_gaps(fitted, split):
    fused = Fused(fitted["TIGER"], Popularity().fit(split), grid=()).fit(split)
    fitted["TIGER"].beams = 4
    assert (
        np.isfinite(fused.score(split.train.take([0]))[0])
        == np.isfinite(fitted["TIGER"].score(split.train.take([0]))[0])
    ).all()
    fitted["TIGER"].beams = 12


@st.composite
def catalogues(draw):
    levels, size = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    everything = list(itertools.product(range(size), repeat=levels))
    return np.array(
        draw(
            st.lists(st.sampled_from(everything), min_size=2, max_size=12, unique=True)
        ),
        dtype=np.int64,
    ), draw(st.integers(0, 10**6))


@settings(deadline=None, max_examples=25)
@given(catalogues())
def test_beam_search_against_brute_force(case):
    """All beams: every item's exact probability.

    Fewer: a subset with the same numbers. Only codes that exist; nothing that is not
    allowed.
    """
    codes, seed = case
    n, levels = codes.shape
    with seeded(seed):
        model = CodeModel((codes.max(0) + 1).tolist(), 4, 8, layers=2, heads=2).eval()
        allowed = torch.rand(2, n) < 0.7
    lengths, table = [2, 1], torch.from_numpy(codes)
    history = [table[[0, n - 1]], table[[1]]]
    words = model.sequence(
        torch.stack([history[0], torch.cat([history[1], history[1]])])
    )
    ends = torch.tensor([1 + levels * k for k in lengths])
    exact = torch.full((2, n), -torch.inf)
    with torch.no_grad():
        for b, i in allowed.nonzero().tolist():
            states = model(
                model.sequence(torch.cat([history[b], table[i : i + 1]])[None])
            )[0, -1 - levels : -1]
            exact[b, i] = sum(
                model.log_p(states[level], level)[table[i, level]]
                for level in range(levels)
            )
    found = beam_search(model, trie(codes), words, ends, 64, allowed)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    few = beam_search(model, trie(codes), words, ends, 2, allowed)
    # constrained: no beam is wasted on what is not there
    assert ((few > -torch.inf).sum(1) == allowed.sum(1).clamp_max(2)).all()
    hit = few > -torch.inf
    torch.testing.assert_close(few[hit], exact[hit], rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=15)
)
def test_collisions_are_broken_and_the_tree_holds_every_code(rows):
    codes = break_collisions(np.array(rows))
    assert (
        len(np.unique(codes, axis=0)) == len(rows)
        and (codes[:, :-1] == np.array(rows)).all()
    )
    assert all(
        sorted(codes[[r == row for r in rows], -1]) == list(range(rows.count(row)))
        for row in rows
    )
    tree, found = trie(codes), set()

    def walk(level, node, prefix):
        if level == 3:
            found.add((prefix, node))
            return
        for code, child in enumerate(tree.child[level][node].tolist()):
            if child >= 0:
                walk(level + 1, child, prefix + (code,))

    walk(0, 0, ())
    assert found == {(tuple(code), item) for item, code in enumerate(codes.tolist())}


def test_codes_see_no_padding(fitted, split):
    "A history in a batch with a longer one, and the same alone."
    model = fitted["TIGER"].model.eval()
    words = model.sequence(
        torch.randint(
            0,
            2,
            (1, 3, fitted["TIGER"].codes.shape[1]),
            generator=torch.Generator().manual_seed(0),
        )
    )
    with torch.no_grad():
        torch.testing.assert_close(
            prefill(model, words)[0][:, :4],
            prefill(model, words[:, :4])[0],
            rtol=1e-4,
            atol=1e-5,
        )


def test_dreams_use_many_noises_but_always_the_same_one():
    histories = Ragged.from_lists(
        np.random.default_rng(0).integers(0, 1000, (4000, 6)).tolist()
    )
    keys = noise_key(histories)
    counts = np.bincount(keys, minlength=NOISES)
    assert (
        keys.min() >= 0
        and keys.max() < NOISES
        and counts.max() < 20
        and (counts == 0).mean() < 0.1
    )
    np.testing.assert_array_equal(keys, noise_key(histories))


def test_dreams_are_the_ancestral_sampler_of_the_kit(fitted, split):
    """One user, the same noise.

    `Diffusion.sample` with method ddpm and as many steps as levels.
    """
    model = fitted["DreamRec"]
    row = split.train.take([0])
    key = int(noise_key(row)[0])
    draws = torch.Generator().manual_seed(model.seed)
    noise = [torch.randn(NOISES, 16, generator=draws)[key] for _ in range(11)]
    diffusion, ids = model.model.diffusion, torch.as_tensor(row.pad(6))
    with torch.no_grad():
        c = model.model.encoder(ids)[:, -1]
        walk, real = iter(noise), torch.randn
        try:
            torch.randn = lambda shape, **options: next(walk).view(shape)
            expected = diffusion.sample(c, steps=10, guidance=1.0, method="ddpm")[:, 0]
        finally:
            torch.randn = real
    torch.testing.assert_close(model.generate(row), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda s: BERT4Rec(hidden=1.0), ConfigError, "hidden is a share"),
        (
            lambda s: BERT4Rec(width=10, heads=4),
            ConfigError,
            "cannot be shared by 4 heads",
        ),
        (lambda s: DreamRec("random"), ConfigError, "unknown items 'random'"),
        (lambda s: TIGER("sound"), ConfigError, "unknown vectors 'sound'"),
        (lambda s: TIGER(beams=0), ConfigError, "finds nothing"),
        (lambda s: TIGER().rank(s.train), ConfigError, "TIGER has not been fitted"),
        (
            lambda s: Fused(EASE(), EASE()).recommend(["i1"]),
            ConfigError,
            "has not been fitted",
        ),
        (
            lambda s: GRU4Rec().fit(replace(s, train=s.train.last(1))),
            DataError,
            "no user has two training items",
        ),
    ],
)
def test_mistakes_are_named(make, error, says, split):
    with pytest.raises(error, match=says):
        make(split)
