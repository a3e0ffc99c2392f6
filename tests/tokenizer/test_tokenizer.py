"What notebook 05 cannot show: the traps by name, properties, and faults."

import inspect
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from contrec.foundations.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    TrainingError,
)
from contrec.foundations.random import seeded
from contrec.tokenizer import sigma_vae as module
from contrec.tokenizer.diagnostics import diagnose, nearest, survival
from contrec.tokenizer.sigma_vae import (
    VAE,
    AutoEncoder,
    KWay,
    MaskedKWay,
    SigmaVAE,
    add_noise,
    barlow_twins,
    effective_rank,
    fit_tokenizer,
    latents,
    load_tokenizer,
    mean_cosine,
    random_mask,
    save_tokenizer,
)

KINDS = [SigmaVAE, VAE, AutoEncoder, MaskedKWay]


def rows(n=200, d=16, rank=6, seed=0):
    with seeded(seed):
        return torch.randn(n, rank) @ torch.randn(rank, d) + 0.1 * torch.randn(n, d) + 3


def make(kind=SigmaVAE, d=16, seed=0, **kwargs):
    with seeded(seed):
        return kind(d, **({"width": 8, "tokens": 3, "hidden": 32} | kwargs))


@pytest.fixture(scope="module")
def fitted():
    t, e = make(), rows()
    fit_tokenizer(t, e, epochs=30, batch_size=64)
    return t, e


# --- the traps of the published code


@pytest.mark.parametrize("kind", KINDS)
def test_trap_02_saved_tokenizer_is_really_loaded(kind, tmp_path):
    t, e = make(kind), rows()
    fit_tokenizer(t, e, epochs=3)
    save_tokenizer(t, tmp_path)
    loaded, fresh = load_tokenizer(tmp_path), make(kind, seed=1)
    with torch.no_grad():
        assert type(loaded) is kind and loaded.config == t.config
        assert torch.equal(loaded.encode(e), t.encode(e)) and torch.equal(
            loaded.decode(t.encode(e)), t.decode(t.encode(e))
        )
        assert not torch.equal(fresh.encode(e), t.encode(e))
    for name, value in t.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_trap_03_no_layer_depends_on_the_mode(kind):
    t, e = make(kind), rows()
    assert not any(
        isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.Dropout))
        for m in t.modules()
    )
    results = []
    for mode in (True, False):
        t.train(mode)
        with seeded(5), torch.no_grad():
            results.append((t.loss(e).total, t.encode(e)))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(
        results[0][1], results[1][1]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_trap_04_masking_not_in_place(kind):
    t, e = make(kind), rows()
    before = e.clone()
    with seeded(0):
        t.loss(e).total.backward()
        masked = random_mask(e, 0.5)
    with torch.no_grad():
        t.encode(e)
    assert torch.equal(e, before)
    assert masked.data_ptr() != e.data_ptr() and (masked == 0).any()


def test_trap_04_the_target_is_the_unmasked_row():
    t, e = make(mask=0.5, sigma=0, mu=0, barlow=0), rows()
    with torch.no_grad():
        x = t.standard(e)
        with seeded(1):
            loss = t.loss(e)
        with seeded(1):
            masked = random_mask(x, 0.5)
        back = t.decoder(t.statistics(masked).mean(1))
    assert torch.allclose(loss.reconstruction, (back - x).square().mean())
    assert not torch.allclose(loss.reconstruction, (back - masked).square().mean())


@given(share=st.floats(0.05, 0.95), n=st.integers(2, 20), d=st.integers(64, 200))
@settings(max_examples=25, deadline=None)
def test_trap_04_every_row_has_its_own_mask(share, n, d):
    with seeded(0):
        masked = random_mask(torch.ones(n, d), share)
    assert set(masked.unique().tolist()) <= {0.0, 1.0}
    assert len(masked.unique(dim=0)) > 1
    assert (
        abs(float((masked == 0).float().mean()) - share)
        < 5 * (share * (1 - share) / (n * d)) ** 0.5 + 1e-6
    )


def test_trap_05_sigma_and_eps_are_drawn_at_every_call_and_per_row():
    mu = torch.zeros(4000, 2, 64)
    with seeded(0):
        first, second = add_noise(mu, 0.5), add_noise(mu, 0.5)
    assert not torch.equal(first, second)
    sigma = first.flatten(1).std(1)
    assert sigma.std() > 0.2, "one sigma for the whole batch"
    # Mean of |N(0, 0.5)|
    assert abs(float(sigma.mean()) - 0.5 * (2 / np.pi) ** 0.5) < 0.03
    assert (
        torch.corrcoef(
            torch.stack([first[:, 0].abs().mean(1), first[:, 1].abs().mean(1)])
        )[0, 1]
        > 0.9
    ), "sigma is shared by a row's tokens"
    t = make()
    # Nothing drawn is kept outside the saved state
    assert set(t.state_dict()) == set(dict(t.named_parameters())) | {"mean", "scale"}
    e = rows()
    with seeded(0), torch.no_grad():
        a, b = t.loss(e), t.loss(e)
    assert a.total != b.total


@pytest.mark.parametrize("kind", KINDS)
def test_trap_06_constructor_does_not_reseed(kind, tmp_path):
    torch.manual_seed(3)
    kind(16, 8)
    first = torch.rand(1)
    torch.manual_seed(4)
    kind(16, 8)
    second = torch.rand(1)
    assert first != second
    save_tokenizer(make(kind), tmp_path)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_tokenizer(tmp_path)
    fit_tokenizer(make(kind), rows(), epochs=1)
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(
        np.random.get_state()[1], states[1]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_trap_07_positions_in_training_and_in_encoding(kind):
    t, e = (
        make(
            kind,
            **({"mask": 0} if kind in (SigmaVAE, VAE, MaskedKWay) else {}),
            **({"sigma": 0} if kind is SigmaVAE else {}),
        ),
        rows(),
    )

    def both():
        with torch.no_grad():
            with seeded(0):
                loss = t.loss(e).reconstruction
            return t.encode(e), loss

    encoded, loss = both()
    with torch.no_grad():
        t.position.add_(1)
    moved, other = both()
    assert not torch.equal(encoded, moved) and loss != other
    # Without mask and noise the loss is the error of exactly what encode says
    if kind is not VAE:
        with torch.no_grad():
            error = (t.standard(t.decode(t.encode(e))) - t.standard(e)).square().mean()
        assert torch.allclose(error, other, rtol=1e-4)


def test_trap_08_correlation_over_the_batch():
    with seeded(0):
        a = torch.randn(5000, 1, 7)
    same = torch.cat([a, a], 1)
    # C is the identity: a division by the width would give C_ii = 5000 / 7
    assert float(barlow_twins(same)) < 0.02
    # ... and change with the batch
    for n in (50, 500, 5000):
        assert float(barlow_twins(same[:n], 0.0)) < 1e-3
    tokens = torch.randn(300, 3, 5, generator=torch.Generator().manual_seed(0))
    by_hand = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        c = np.corrcoef(tokens[:, i].T.numpy(), tokens[:, j].T.numpy())[:5, 5:]
        by_hand.append(
            ((1 - np.diag(c)) ** 2).sum()
            + 0.005 * ((c**2).sum() - (np.diag(c) ** 2).sum())
        )
    assert float(barlow_twins(tokens)) == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_trap_21_batch_of_one():
    for kind in KINDS:
        t = make(kind)
        loss = t.loss(rows(1))
        loss.total.backward()
        assert loss.total.isfinite() and all(
            p.grad is None or p.grad.isfinite().all() for p in t.parameters()
        )
        assert t.encode(rows(1)).shape == (1, 3, 8)


def test_trap_23_no_device_strings():
    assert "cuda" not in inspect.getsource(module) and '"cpu"' not in inspect.getsource(
        module
    )


# --- switches


def test_every_switch_changes_the_loss_and_zero_is_off():
    e = rows()

    def loss(**kwargs):
        t = make(**({"mask": 0, "sigma": 0, "barlow": 0, "mu": 0} | kwargs))
        with seeded(0), torch.no_grad():
            return t.loss(e)

    off = loss()
    assert off.regulariser == 0 and off.total == off.reconstruction
    for name, value in (("mask", 0.3), ("sigma", 0.5), ("barlow", 0.1), ("mu", 0.1)):
        assert loss(**{name: value}).total != off.total, name
    assert (
        loss(barlow=0.2).regulariser
        == pytest.approx(float(2 * loss(barlow=0.1).regulariser))
        and loss(mu=0.1).reconstruction == off.reconstruction
    )
    assert loss(tokens=1, barlow=0.1).regulariser == 0  # One encoder has no twin
    # Presets are the same class with switches set
    for kind, twin in ((AutoEncoder, {}), (MaskedKWay, {"mask": 0.2})):
        with seeded(0), torch.no_grad():
            assert make(kind).loss(e).total == loss(**twin).total


def test_k_way_equals_k_networks():
    with seeded(0):
        net, x = KWay(3, 5, 7, 2), torch.randn(9, 3, 5)
    for k in range(3):
        alone = (
            nn.functional.gelu(x[:, k] @ net.weights[0][k] + net.biases[0][k])
            @ net.weights[1][k]
            + net.biases[1][k]
        )
        assert torch.allclose(net(x)[:, k], alone, atol=1e-6)


def test_additive_the_decoder_sees_the_mean_of_the_tokens(fitted):
    t, e = fitted
    with torch.no_grad():
        z = t.encode(e)
        assert torch.allclose(
            t.decode(z), t.decode(z.mean(1)), atol=1e-6
        ) and torch.allclose(t.decode(z), t.decode(z.flip(1)), atol=1e-5)


def test_vae_kl_against_torch():
    t, x = make(VAE, kl=1.0), rows()
    mu, _, penalty = t.draw(x)
    s = (0.5 * t.statistics(x).chunk(2, -1)[1]).exp()
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, s), torch.distributions.Normal(0.0, 1.0)
    ).mean()
    assert torch.allclose(penalty, kl, rtol=1e-4)


# --- exactness


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_exact_tokens_for_any_batch_size_and_order(kind, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        t, e = make(kind, d=64, width=32, hidden=100), rows(333, 64)
        with torch.no_grad():
            z, order = (
                t.encode(e),
                torch.randperm(333, generator=torch.Generator().manual_seed(0)),
            )
            assert torch.equal(t.encode(e[order]), z[order])
            assert torch.equal(
                torch.cat([t.encode(r) for r in e[:40].split(1)]), z[:40]
            )
            assert torch.equal(torch.cat([t.encode(r) for r in e.split(70)]), z)
            assert t.encode(e[:0]).shape == (0, 3, 32)
    finally:
        torch.set_num_threads(before)


def test_same_seed_same_weights():
    a, b, c = make(), make(), make()
    fit_tokenizer(a, rows(), epochs=3)
    torch.rand(7)
    fit_tokenizer(b, rows(), epochs=3)
    fit_tokenizer(c, rows(), epochs=3, seed=1)
    assert all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values())
    )
    assert not torch.equal(a.encoders.weights[0], c.encoders.weights[0])


def test_killed_and_resumed(tmp_path):
    def kill(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    whole, killed, resumed = make(), make(), make()
    fit_tokenizer(whole, rows(), epochs=6)
    with pytest.raises(KeyboardInterrupt):
        fit_tokenizer(
            killed, rows(), epochs=6, checkpoint=tmp_path / "c.safetensors", log=kill
        )
    fit_tokenizer(resumed, rows(), epochs=6, checkpoint=tmp_path / "c.safetensors")
    assert all(
        torch.equal(x, y)
        for x, y in zip(whole.state_dict().values(), resumed.state_dict().values())
    )


# --- joint and frozen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint", [True, False])
def test_gradient_reaches_the_tokenizer_only_if_joint(kind, joint):
    t, head = make(kind).requires_grad_(joint), nn.Linear(8, 1)
    before = {n: p.clone() for n, p in t.named_parameters()}
    optimizer = torch.optim.SGD(
        [p for p in [*t.parameters(), *head.parameters()] if p.requires_grad], 0.1
    )
    head(latents(t.encode(rows()))).square().mean().backward()
    optimizer.step()
    changed = {n for n, p in t.named_parameters() if not torch.equal(p, before[n])}
    assert bool(changed) is joint
    if joint:
        assert {"position", "encoders.weights.0", "encoders.weights.1"} <= changed
    assert head.weight.grad.any()


# --- standardisation


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_standardisation_undoes_scale_and_shift(scale, shift):
    t, e = make(), rows().double()
    t.double().fit_standard(scale * e + shift)
    x = t.standard(scale * e + shift)
    assert torch.allclose(
        x.mean(0), torch.zeros(16).double(), atol=1e-6
    ) and x.square().mean().item() == pytest.approx(1, rel=1e-6)
    assert torch.allclose(
        t.original(x), scale * e + shift, atol=1e-6 * scale + 1e-9 * abs(shift)
    )
    # One scale: neighbours stay
    assert torch.equal(
        nearest(x, x, 5, skip=torch.arange(len(x))),
        nearest(e, e, 5, skip=torch.arange(len(x))),
    )


def test_blocks_have_equal_weight():
    t, e = make(), rows()
    e = torch.cat([e[:, :10] * 1000, e[:, 10:] * 0.01], 1)
    t.fit_standard(e, (10, 6))
    x = t.standard(e)
    assert x[:, :10].square().mean().item() == pytest.approx(1, rel=1e-3) and x[
        :, 10:
    ].square().mean().item() == pytest.approx(1, rel=1e-3)
    with pytest.raises(ConfigError, match="sum to 17"):
        t.fit_standard(e, (10, 7))


def test_constant_input_does_not_divide_by_zero():
    t = make()
    t.fit_standard(torch.ones(20, 16))
    assert t.standard(torch.ones(20, 16)).isfinite().all()


# --- diagnostics


def test_diagnose_sees_a_perfect_and_a_useless_tokenizer():
    class Identity(SigmaVAE):
        def tokenize(self, x):
            return x[:, None]

        def decode(self, z):
            return self.original(z.mean(1) if z.ndim == 3 else z)

    class Useless(Identity):
        # Blocks repeat each other
        def tokenize(self, x):
            return torch.randn(
                len(x), 1, 16, generator=torch.Generator().manual_seed(0)
            )

        def decode(self, z):
            return self.mean.expand(len(z), -1)

    e, held = rows(400), np.arange(40)
    identity, useless = Identity(16, 16, 1), Useless(16, 16, 1)
    for t in (identity, useless):
        t.fit_standard(e[40:])
    good, bad = diagnose(identity, e, held), diagnose(useless, e, held)
    assert (
        survival(identity, e, 0) == 1
        and 0.5 < survival(identity, e, 0.1) <= 1
        and survival(identity, e, 100) < 0.05
    )
    assert survival(identity, e, 0.3, seed=1) == survival(identity, e, 0.3, seed=1)
    assert good["mse"] < 1e-9 and good["recall@1"] == 1 and good["overlap@10"] == 1
    assert (
        bad["mse"] == pytest.approx(1, abs=0.05)
        and bad["recall@1"] < 0.05
        and bad["overlap@10"] < 0.1
    )


def test_effective_rank_and_cosine_against_numpy():
    e = rows(50)
    p = np.linalg.eigvalsh(np.cov(e.double().numpy().T))
    p = p / p.sum()
    assert effective_rank(e) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    x = (e / e.norm(dim=1, keepdim=True)).double().numpy()
    c = x @ x.T
    assert mean_cosine(e) == pytest.approx(c[~np.eye(50, dtype=bool)].mean(), rel=1e-6)


def test_nearest_is_the_same_in_chunks():
    with seeded(0):
        q, x = torch.randn(1500, 4), torch.randn(300, 4)
    assert torch.equal(
        nearest(q, x, 5), torch.cdist(q, x).topk(5, largest=False).indices
    )


def test_a_short_fit_is_useful(fitted):
    t, e = fitted
    table, before = diagnose(t, e), diagnose(make(), e)
    # 30 epochs of four steps
    assert (
        table["mse"] < before["mse"] / 2
        and table["mse"] < 0.5
        and table["recall@10"] > 0.5
        and table["effective_rank"] > 2.5
    )


# --- faults


@pytest.mark.parametrize(
    "kind, options", [(SigmaVAE, {"mu": 300.0, "barlow": 0}), (VAE, {"kl": 30.0})]
)
def test_collapse_stops_training(kind, options):
    with pytest.raises(
        TrainingError, match="items: the token space collapsed|items, epoch .*collapsed"
    ) as caught:
        fit_tokenizer(make(kind, **options), rows(), epochs=60, name="items")
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("how", ["one direction", "one common direction", "no spread"])
def test_collapse_is_seen_whatever_its_form(how):
    class Fixed(SigmaVAE):
        def tokenize(self, x):
            z = (
                x[:, :1].expand(-1, 8)
                if how == "one direction"
                else (
                    x[:, :8] + 1000
                    if how == "one common direction"
                    else 1e-3 * x[:, :8]
                )
            )
            return z[:, None]

    t = Fixed(16, 8, 1)
    t.fit_standard(rows())
    with pytest.raises(TrainingError, match="collapsed"):
        module.check_collapse(t, rows())
    module.check_collapse(make(AutoEncoder), rows())  # Untrained is not collapsed


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"mask": 1.0}, "mask is 1.0"),
        ({"mask": -0.1}, "mask"),
        ({"sigma": -1}, "sigma is -1"),
        ({"barlow": float("nan")}, "barlow"),
        ({"width": 0}, "width is 0"),
        ({"tokens": 0}, "tokens is 0"),
        ({"d": 0}, "d_in is 0"),
    ],
)
def test_bad_options(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make(**kwargs)


@pytest.mark.parametrize(
    "bad, message",
    [
        (torch.zeros(0, 16), "at least one row"),
        (torch.zeros(16), "shape"),
        (torch.full((9, 16), float("inf")), "row 0, column 0"),
        (torch.zeros(9, 3), "16 numbers"),
    ],
)
def test_bad_rows(bad, message):
    with pytest.raises(DataError, match=message):
        fit_tokenizer(make(), bad, epochs=1)


def test_wrong_width_is_named():
    with pytest.raises(DataError, match="16 numbers"):
        make().encode(torch.zeros(9, 3))


def damage(folder, what):
    if what == "missing":
        (folder / "model.safetensors").unlink()
    if what == "truncated":
        p = folder / "model.safetensors"
        p.write_bytes(p.read_bytes()[:100])
    if what == "json":
        (folder / "config.json").write_text("{")
    config = (
        json.loads((folder / "config.json").read_text())
        if what not in ("json", "missing", "truncated")
        else None
    )
    if what == "width":
        config["width"] = 9
    if what == "kind":
        config["kind"] = "Magic"
    if what == "option":
        config["colour"] = 3
    if config:
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "what", ["missing", "truncated", "json", "width", "kind", "option"]
)
def test_damaged_folder(what, tmp_path):
    save_tokenizer(make(), tmp_path)
    damage(tmp_path, what)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(tmp_path)
    assert (
        str(tmp_path) in str(caught.value) and len(str(caught.value).splitlines()) <= 2
    )


# --- speed


def test_a_tokenizer_introduces_itself_in_one_line():
    text = repr(SigmaVAE(8, width=4, tokens=2, hidden=16))
    assert text.startswith("SigmaVAE(d_in=8, width=4, tokens=2, hidden=16")
    assert "parameters)" in text and "\n" not in text
