"""The straight-through trap, k-means against a loop, revival, and faults."""

import inspect

import pytest
import torch
from torch import nn

from contrec.foundations.errors import CheckpointError, ConfigError
from contrec.foundations.random import seeded
from contrec.tokenizer import quantizers as module
from contrec.tokenizer.diagnostics import diagnose
from contrec.tokenizer.quantizers import (
    MaskedMultiCodebook,
    ResidualQuantizer,
    VectorQuantizer,
    code_statistics,
    k_means,
    nearest_codes,
    straight_through,
)
from contrec.tokenizer.sigma_vae import (
    fit_tokenizer,
    latents,
    load_tokenizer,
    save_tokenizer,
)

KINDS = [VectorQuantizer, ResidualQuantizer, MaskedMultiCodebook]


def rows(n=300, d=16, rank=6, seed=0):
    with seeded(seed):
        return torch.randn(n, rank) @ torch.randn(rank, d) + 0.1 * torch.randn(n, d) + 3


def make(kind, d=16, **kwargs):
    with seeded(0):
        return kind(d, **({"width": 8, "size": 16, "hidden": 32} | kwargs))


@pytest.mark.parametrize("kind", KINDS)
def test_trap_24_straight_through_reaches_the_encoder(kind):
    t, e = make(kind), rows()
    latents(t.encode(e))[:, 0].sum().backward()
    for n, p in t.encoders.named_parameters():
        assert p.grad is not None and p.grad.any(), n
    # In the loss too: without commitment, reconstruction alone must move the encoder
    t = make(kind, commitment=0)
    t.loss(e).reconstruction.backward()
    for n, p in t.encoders.named_parameters():
        assert p.grad is not None and p.grad.any(), n
    # Words follow the encoder by their own term
    assert t.codebooks.grad is None or not t.codebooks.grad.any()
    t.loss(e).regulariser.backward()
    assert t.codebooks.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_trap_24_the_gradient_is_that_of_the_identity(kind):
    t, e = make(kind), rows(20)
    z = t.continuous(t.standard(e)).detach().requires_grad_()
    words = t.quantise(z)[2]
    middle = t.middle(t.through(z, words))
    weight = torch.randn(middle.shape, generator=torch.Generator().manual_seed(0))
    (middle * weight).sum().backward()
    # d(mean over encoders) = 1 / ways each
    assert torch.allclose(
        z.grad, (weight / z.shape[1])[:, None].expand_as(z), atol=1e-6
    )


def test_straight_through_is_bit_for_bit_the_word():
    with seeded(0):
        z, q = torch.randn(10_000) * 1e3, torch.randn(10_000) * 1e-3
    assert torch.equal(straight_through(z, q), q)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint", [True, False])
def test_gradient_reaches_the_quantizer_only_if_joint(kind, joint):
    t, head = make(kind).requires_grad_(joint), nn.Linear(8, 1)
    head(latents(t.encode(rows()))).sum().backward()
    assert (
        any(p.grad is not None and p.grad.any() for p in t.parameters()) is joint
        and head.weight.grad.any()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_trap_02_saved_loaded_and_exact(kind, tmp_path):
    t, e = make(kind), rows()
    fit_tokenizer(t, e, epochs=5)
    save_tokenizer(t, tmp_path)
    loaded = load_tokenizer(tmp_path)
    before = e.clone()
    with torch.no_grad():
        z, codes, order = (
            t.encode(e),
            t.codes(e),
            torch.randperm(len(e), generator=torch.Generator().manual_seed(0)),
        )
        assert (
            type(loaded) is kind
            and torch.equal(loaded.encode(e), z)
            and torch.equal(loaded.codes(e), codes)
            and torch.equal(loaded.decode(z), t.decode(z))
        )
        assert torch.equal(t.words(codes), z) and torch.equal(
            t.encode(e[order]), z[order]
        )
        assert torch.equal(
            torch.cat([t.encode(r) for r in e[:40].split(1)]), z[:40]
        ) and torch.equal(torch.cat([t.codes(r) for r in e.split(70)]), codes)
        assert (
            torch.equal(e, before)
            and codes.shape == (len(e), t.tokens)
            and codes.dtype == torch.int64
        )


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_beats_predicting_the_mean_and_uses_the_codes(kind):
    t, e = make(kind), rows()
    fit_tokenizer(t, e, epochs=100, batch_size=64)
    table = diagnose(t, e)
    assert table["mse"] < 0.6 and table["utilisation"] > 0.8 and table["perplexity"] > 6
    assert {"bits", "utilisation", "perplexity", "collision"} <= set(table)


def test_more_levels_lose_less():
    e, errors = rows(), []
    for tokens in (1, 3):
        t = make(ResidualQuantizer, tokens=tokens)
        fit_tokenizer(t, e, epochs=60, batch_size=64)
        errors.append(diagnose(t, e)["mse"])
    assert errors[1] < errors[0]


def test_nearest_codes_against_a_loop():
    with seeded(0):
        z, books = torch.randn(50, 3, 4), torch.randn(3, 7, 4)
    loop = [
        [int((books[k] - row[k]).square().sum(1).argmin()) for k in range(3)]
        for row in z
    ]
    assert nearest_codes(z, books).tolist() == loop


def test_residual_levels_against_a_loop():
    t, e = make(ResidualQuantizer, tokens=3), rows(30)
    with torch.no_grad():
        z = t.continuous(t.standard(e))
        codes, asked, words = t.quantise(z)
        for n in range(30):
            rest = z[n, 0]
            for level in range(3):
                assert torch.allclose(asked[n, level], rest, atol=1e-6)
                code = int((t.codebooks[level] - rest).square().sum(1).argmin())
                assert code == int(codes[n, level])
                rest = rest - t.codebooks[level, code]
        assert torch.allclose(
            t.middle(words), words.sum(1), atol=1e-5
        ) and torch.allclose(t.decode(words), t.decode(words.mean(1)), atol=1e-5)


def test_multi_codebook_answers_each_encoder_from_its_own_book():
    t, e = make(MaskedMultiCodebook), rows(30)
    with torch.no_grad():
        z = t.continuous(t.standard(e))
        codes, _, words = t.quantise(z)
    assert z.shape == (30, 3, 8)
    for k in range(3):
        assert torch.equal(words[:, k], t.codebooks[k][codes[:, k]])
    assert not torch.equal(z[:, 0], z[:, 1])


def test_trap_04_the_mask_of_mq_leaves_the_batch_alone_and_is_drawn_afresh():
    t, e = make(MaskedMultiCodebook, mask=0.5), rows()
    before = e.clone()
    with seeded(0), torch.no_grad():
        a, b = t.loss(e).reconstruction, t.loss(e).reconstruction
    assert torch.equal(e, before) and a != b
    with torch.no_grad():
        assert torch.equal(t.encode(e), t.encode(e))  # Never masked


def test_dead_codes_are_revived_in_training_only():
    e = rows()

    def world():
        t = make(VectorQuantizer)
        t.fit_standard(e)
        t.prepare(t.standard(e))
        # Half of the words are out of reach
        with torch.no_grad():
            t.codebooks[0, 8:] = 1e4
        return t

    t = world().train()
    with torch.no_grad():
        for _ in range(100):
            t.loss(e)
        assert float(t.codebooks.abs().max()) < 1e3
        for change in (lambda t: t.eval(), lambda t: t.train().requires_grad_(False)):
            t = world()
            change(t)
            before = {k: v.clone() for k, v in t.state_dict().items()}
            for _ in range(100):
                t.loss(e)
            assert all(torch.equal(v, before[k]) for k, v in t.state_dict().items())
    off = make(VectorQuantizer, revive=0).train()
    before = off.codebooks.detach().clone()
    with torch.no_grad():
        off.loss(e)
    assert torch.equal(off.codebooks, before) and torch.equal(
        off.usage, torch.ones_like(off.usage)
    )


def test_k_means_start_uses_every_word():
    t, e = make(VectorQuantizer), rows()
    t.fit_standard(e)
    before = code_statistics(t.codes(e), 16)["utilisation"]
    t.prepare(t.standard(e))
    assert code_statistics(t.codes(e), 16)["utilisation"] == 1 > before


def test_k_means_is_seeded_and_survives_few_or_equal_rows():
    x = rows()
    assert torch.equal(k_means(x, 5, 1), k_means(x, 5, 1)) and k_means(
        x[:1], 4
    ).shape == (4, 16)
    t = make(VectorQuantizer)
    fit_tokenizer(t, rows(5), epochs=1)
    assert t.encode(rows(5)).isfinite().all()


def test_code_statistics_by_hand():
    even = code_statistics(torch.arange(8)[:, None], 8)
    assert even == {
        "bits": 3.0,
        "utilisation": 1.0,
        "perplexity": pytest.approx(8),
        "collision": 0.0,
    }
    one = code_statistics(torch.zeros(8, 2, dtype=torch.int64), 8)
    assert one == {
        "bits": 6.0,
        "utilisation": 1 / 8,
        "perplexity": pytest.approx(1),
        "collision": 1.0,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_loss_by_hand(kind):
    t, e = (
        make(kind, **({"mask": 0} if kind is MaskedMultiCodebook else {})).eval(),
        rows(40),
    )
    with torch.no_grad():
        loss, x = t.loss(e), t.standard(e)
        _, asked, words = t.quantise(t.continuous(x))
        error = (t.standard(t.decode(t.encode(e))) - x).square().mean()
        assert torch.allclose(loss.reconstruction, error, rtol=1e-4)
        assert torch.allclose(
            loss.regulariser, 1.25 * (asked - words).square().mean(), rtol=1e-5
        )
        assert torch.allclose(loss.total, loss.reconstruction + loss.regulariser)


def test_trap_06_constructor_does_not_reseed():
    for kind in KINDS:
        torch.manual_seed(3)
        kind(16, 8)
        first = torch.rand(1)
        torch.manual_seed(4)
        kind(16, 8)
        assert first != torch.rand(1)
    assert "cuda" not in inspect.getsource(module)


@pytest.mark.parametrize("kind", KINDS)
def test_trap_21_batch_of_one(kind):
    t = make(kind).train()
    loss = t.loss(rows(1))
    loss.total.backward()
    assert loss.total.isfinite() and t.encode(rows(1)).shape == (1, t.tokens, 8)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"size": 1}, "size is 1"),
        ({"commitment": -1}, "commitment is -1"),
        ({"revive": -1}, "revive is -1"),
        ({"mask": 1}, "mask is 1"),
        ({"tokens": 0}, "tokens is 0"),
    ],
)
def test_bad_options(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make(MaskedMultiCodebook, **kwargs)


def test_another_size_does_not_load(tmp_path):
    save_tokenizer(make(VectorQuantizer), tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"size": 16', '"size": 17'))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_tokenizer(tmp_path)
