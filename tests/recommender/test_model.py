"""The whole ContRec: no leak, gradients, presets, saving, and traps of the whole."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from contrec.data.interactions import Ragged
from contrec.data.reading import from_frame
from contrec.data.split import leave_one_out
from contrec.foundations.errors import ConfigError, DataError, TrainingError
from contrec.foundations.random import seeded
from contrec.foundations.trainer import Trainer
from contrec.language_model.generation import Generated
from contrec.language_model.prompts import TEMPLATES, word_tokenizer
from contrec.ranking.recommender import check_recommender
from contrec.recommender.config import PRESETS, TARGETS, preset
from contrec.recommender.contrec import ContRec
from contrec.recommender.network import Network, running_mean
from contrec.tokenizer.sigma_vae import latents

SHORT = dict(
    training={"epochs": 2, "tokenizer_epochs": 20},
    embedding={"width": 16},
    diffusion={"hidden": 32, "blocks": 1},
)


def short(name="contrec", **changes):
    config = preset(name, **SHORT)
    if config.embedding.kind == "lightgcn":
        config = config.replace(embedding={"epochs": 3})
    return config.replace(**changes)


@pytest.fixture(scope="module")
def model(small_split):
    return ContRec(short()).fit(small_split)


def test_it_keeps_the_contract_of_every_recommender(model, small_split):
    check_recommender(model, small_split)


@pytest.mark.parametrize("name", ["deftrec", "contrec-paper"])
def test_the_presets_are_the_same_parts(small_split, name):
    found = ContRec(short(name, training={"epochs": 1}, decoding={"steps": 5})).fit(
        small_split
    )
    ranked = found.rank(small_split.histories("test"), 10)
    assert (
        ranked.ids.shape == (small_split.n_users, 10)
        and np.isfinite(found.score(small_split.histories("test"))).all()
    )


def test_it_learns(model, small_split):
    """In the small world half of the items are of a user's kind.

    An untrained model shows them half of the time.
    """
    kind = np.array([c[0] == "odd" for c in small_split.items["categories"]])
    likes_odd = np.array([int(u[1:]) % 2 == 1 for u in small_split.user_ids])
    ids = model.rank(small_split.histories("test"), 5).ids
    assert (kind[ids] == likes_odd[:, None]).mean() > 0.7


def conditions(model, histories, targets=None, training=False):
    network = model.network.train(training)
    with torch.no_grad(), seeded(0):
        batch = network.prompts.batch(histories, targets)
        c, _ = network.condition(
            batch, network._items(histories, batch), network.catalogue()
        )
    network.eval()
    return c, batch


@pytest.mark.parametrize("training", [False, True])
def test_trap_09_the_condition_does_not_know_the_target(model, small_split, training):
    histories = small_split.train
    one, _ = conditions(model, histories, small_split.valid, training)
    two, _ = conditions(
        model, histories, (small_split.valid + 5) % small_split.n_items, training
    )
    none, _ = conditions(model, histories, None, training)
    assert torch.equal(one, two)
    if not training:
        torch.testing.assert_close(one, none)


def untrained(split, **changes):
    model = ContRec(short(**changes))
    model.split = split
    with seeded(0):
        model._build(16)
        torch.nn.init.normal_(model.network.inputs)
        torch.nn.init.normal_(model.network.user_adapter.weight)
    model.network.eval()
    model._ready = model._words = None
    return model


def told_to_the_diffusion(network, histories, training):
    """The conditions and targets that `loss` hands to the diffusion."""
    seen, original = [], network.diffusion.loss
    with pytest.MonkeyPatch.context() as patch, seeded(0), torch.no_grad():
        patch.setattr(
            network.diffusion,
            "loss",
            lambda x0, c, items, target, **terms: (
                seen.append((c.clone(), target.clone())),
                original(x0, c, items, target, **terms),
            )[1],
        )
        network.train(training).loss(histories)
    network.eval()
    return seen[0]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("training", [False, True])
def test_trap_09_no_leak_for_every_template(small_split, template, training):
    """Another target (the last item of each row).

    Another answer is learnt, another vector is aimed at, and every condition stays,
    also where the model answers first.
    """
    model = untrained(
        small_split, prompt={"template": template}, tokenizer={"tokens": 2}
    )
    histories = small_split.train.take(np.arange(20)).last(6)
    other = Ragged(histories.values.copy(), histories.offsets)
    other.values[other.offsets[1:] - 1] = (
        other.values[other.offsets[1:] - 1] + 7
    ) % small_split.n_items
    (one, target), (two, changed) = (
        told_to_the_diffusion(model.network, h, training) for h in (histories, other)
    )
    assert torch.equal(one, two) and not torch.equal(target, changed)
    # what is told in training is what is told in evaluation, where no target is known
    if not training:
        last = (torch.arange(len(histories)) + 1) * 5 - 1
        with torch.no_grad():
            torch.testing.assert_close(
                one[last],
                model.network.state(histories.drop_last(), model.network.catalogue()),
                atol=1e-4,
                rtol=1e-4,
            )


def test_reason_then_recommend_reads_behind_the_models_own_answer(small_split):
    """`state` equals reading the prompt and the generated words in one go, and differs
    from a state without words.
    """
    model = untrained(small_split, prompt={"template": "reasoned"})
    network, histories = model.network, small_split.train.take(np.arange(12))
    with torch.no_grad():
        torch.nn.init.zeros_(network.user_adapter.weight)
        catalogue = network.catalogue()
        said = network.generate_answers(histories, catalogue)
        silent, _ = network.condition(
            network.prompts.batch(histories),
            network._items(histories, network.prompts.batch(histories)),
            catalogue,
        )
        told = network.state(histories, catalogue)
    spoke = np.array([len(r) > 0 for r in said.ids])
    assert spoke.any() and len(set(said.ids.lengths)) >= 1
    torch.testing.assert_close(told, said.condition, atol=1e-4, rtol=1e-4)
    assert (told - silent[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_latent_fed_back_is_the_items_own_tokens(small_split, tokens):
    network = untrained(small_split, tokenizer={"tokens": tokens}).network
    with torch.no_grad():
        catalogue = network.catalogue()
        torch.testing.assert_close(
            network.feed_back(catalogue.latents, catalogue),
            catalogue.tokens,
            atol=1e-5,
            rtol=1e-4,
        )
        between = catalogue.latents[:10] + 0.4 * catalogue.latents[10:20]
        fed = network.feed_back(between, catalogue)
    assert fed.shape == (10, tokens, 64)
    torch.testing.assert_close(
        torch.cosine_similarity(fed.mean(1), between), torch.ones(10)
    )


def test_the_token_that_is_fed_back_is_read(small_split):
    """Under `explained`, the likelihood of an answer depends on the token in the slot,
    and equals that of the item itself for the item's tokens.
    """
    model = untrained(small_split, prompt={"template": "explained"})
    network, histories = model.network, small_split.train.take(np.arange(4))
    with torch.no_grad():
        catalogue = network.catalogue()
        answers, _ = network.prompts.answers(titles=False)

        def likely(shown):
            return network.backbone.likelihood(
                *network.question(histories, catalogue, shown)[:2], answers
            )

        items = np.array([3, 5, 7, 9])
        by_table = network.backbone.likelihood(
            network.prompts.batch(histories, side="left", shown=items),
            catalogue.tokens,
            answers,
        )
        torch.testing.assert_close(likely(catalogue.tokens[items]), by_table)
        assert not torch.allclose(
            likely(catalogue.tokens[items + 1]), by_table, atol=1e-4
        )


@pytest.fixture(scope="module")
def explained(small_split):
    return ContRec(
        short(
            "contrec-basic",
            prompt={"template": "explained"},
            training={"epochs": 30, "batch_size": 16, "lr": 5e-3, "lm_weight": 1.0},
            backbone={"dropout": 0.0},
        )
    ).fit(small_split)


def test_recommend_then_explain(explained, small_split):
    table = explained.explain(["i1", "i3"], k=6)
    assert (
        list(table["rank"]) == [1, 2, 3, 4, 5, 6]
        and table["item"].tolist()
        == explained.recommend(["i1", "i3"], 6)["item"].tolist()
    )
    named = [text.split(";")[0].strip() for text in table["text"]]
    assert np.mean([n == c for n, c in zip(named, table["categories"])]) >= 5 / 6
    assert all("Item" in text for text in table["text"])
    with pytest.raises(ConfigError, match="ties no words"):
        untrained(small_split).explain(["i1"])


def test_answers_are_read_back_and_end(explained, small_split):
    said = explained.answers(small_split.histories("test"))
    assert (
        len(said.texts) == small_split.n_users and said.failures == 0 and said.cut == 0
    )
    likes_odd = np.array([int(u[1:]) % 2 == 1 for u in small_split.user_ids])
    assert (
        np.mean([("odd" in c) == odd for c, odd in zip(said.categories, likes_odd)])
        > 0.7
    )


def test_failed_parses_are_counted_and_never_fatal(explained, small_split):
    histories = small_split.histories("test")

    def babble(network, rows, catalogue, shown=None):
        n = len(rows)
        return Generated(
            Ragged.from_lists([[5]] * n),
            ["", "?!", "nonsense", "odd"] * (n // 4) + [""] * (n % 4),
            torch.zeros(n, 64),
            torch.tensor([True, False] * (n // 2)),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "generate_answers", babble)
        said = explained.answers(histories)
        assert (
            said.failures == len(histories) - len(histories) // 4
            and said.cut == len(histories) // 2
        )
        scores = explained.with_decoding(
            text_score="sentence", text_encoder=None, text_weight=0.5
        ).score(histories)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("score,share", [("likelihood", 0.95), ("sentence", 0.9)])
def test_text_scores_prefer_the_kind_that_the_model_names(
    explained, small_split, score, share
):
    model = explained.with_decoding(
        text_score=score, text_encoder=None, text_weight=50.0
    )
    histories = small_split.histories("test")
    kind = np.array([c[0] == "odd" for c in small_split.items["categories"]])
    says_odd = np.array(["odd" in c for c in explained.answers(histories).categories])
    assert (kind[model.rank(histories, 5).ids] == says_odd[:, None]).mean() > share
    assert np.array_equal(
        model.with_decoding(text_weight=0.0).score(histories),
        explained.score(histories),
    )


def test_lambda_is_chosen_on_validation_and_saved(explained, small_split, tmp_path):
    model = explained.with_decoding(text_score="likelihood")
    choice = model.choose_text_weight()
    assert (
        model.config.decoding.text_weight == choice.weight
        and set(choice.curve) >= {0.0, 1.0}
        and choice.curve[choice.weight] == max(choice.curve.values())
    )
    elsewhere = dataclasses.replace(small_split, test=small_split.test[::-1].copy())
    again = explained.with_decoding(text_score="none")
    again.split = elsewhere
    # the test items have no say
    assert (
        again.with_decoding(text_score="likelihood").config.decoding.text_weight
        == choice.weight
    )
    model.save_pretrained(tmp_path)
    loaded = ContRec.from_pretrained(tmp_path)
    assert loaded.config == model.config
    np.testing.assert_array_equal(
        loaded.score(small_split.histories("test")),
        model.score(small_split.histories("test")),
    )


def test_an_item_without_categories_is_neither_preferred_nor_lost(small_split):
    items = small_split.items.copy()
    items["categories"] = [
        () if i in (0, 7) else c for i, c in enumerate(items["categories"])
    ]
    model = untrained(
        dataclasses.replace(small_split, items=items),
        decoding={"text_score": "likelihood", "text_weight": 1.0},
    )
    histories = small_split.train.take(np.arange(5))
    _, _, preference = model.generate(histories)
    text = model.text_scores(histories, preference)
    others = [i for i in range(40) if i not in (0, 7)]
    torch.testing.assert_close(
        text[:, [0, 7]], text[:, others].mean(1, keepdim=True).expand(-1, 2)
    )
    assert np.isfinite(model.score(histories)).all()


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_another_index_finds_the_same_lists(model, small_split, kind):
    exact, found = (
        model.rank(small_split.histories("test"), 5).ids,
        model.with_decoding(index=kind).rank(small_split.histories("test"), 5).ids,
    )
    assert (exact == found).mean() > 0.98


def test_a_shorter_memory_ends_at_the_same_place(small_split):
    """Parts, recomputation, 16 bits and an average of the weights, all at once.

    And validation scores are those of the average.
    """
    rows = []
    found = ContRec(
        short(
            training={
                "epochs": 4,
                "accumulate": 4,
                "checkpointing": True,
                "precision": "bf16",
                "ema": 0.9,
            }
        )
    ).fit(small_split, log=rows.append)
    kind = np.array([c[0] == "odd" for c in small_split.items["categories"]])
    likes_odd = np.array([int(u[1:]) % 2 == 1 for u in small_split.user_ids])
    assert (
        kind[found.rank(small_split.histories("test"), 5).ids] == likes_odd[:, None]
    ).mean() > 0.7
    best = max(r["score"] for r in rows if r["stage"] == "recommender")
    assert abs(found._validate() - best) < 1e-9


@pytest.mark.parametrize("template", ["instructed", "profile", "reasoned", "explained"])
def test_a_pretrained_backbone_trains_saves_and_loads(small_split, tmp_path, template):
    """Any causal language model in a folder, with all that saves memory.

    Only LoRA and the small parts are saved, its conditions are standardised, and it
    resumes exactly.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    text = word_tokenizer(TEMPLATES["explained"], small_split.items)
    with seeded(1):
        AutoModelForCausalLM.from_config(
            LlamaConfig(
                vocab_size=len(text),
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        ).save_pretrained(tmp_path / "llm")
    text.save_pretrained(tmp_path / "llm")

    class Killed(ContRec):
        def _validate(self, accelerator=None):
            if self._die == 2:
                raise KeyboardInterrupt
            self._die += 1
            return super()._validate(accelerator)

    config = short(
        backbone={"name": str(tmp_path / "llm")},
        prompt={"template": template},
        training={"epochs": 3, "checkpointing": True, "ema": 0.9, "accumulate": 2},
    )
    model, killed = ContRec(config).fit(small_split), Killed(config)
    killed._die = 0
    with pytest.raises(KeyboardInterrupt):
        killed.fit(small_split, folder=tmp_path / "run")
    resumed = ContRec(config).fit(small_split, folder=tmp_path / "run")
    state = model.network.state_dict()
    assert all(
        torch.equal(v, state[k]) for k, v in resumed.network.state_dict().items()
    )
    assert (model.network.backbone.condition_scale != 1).any() and not any(
        "embed_tokens" in k or "base_layer" in k for k in state
    )
    model.save_pretrained(tmp_path / "saved")
    again = ContRec.from_pretrained(tmp_path / "saved")
    histories = small_split.histories("test")
    assert np.array_equal(again.score(histories), model.score(histories))
    said = again.answers(histories)
    assert len(said.texts) == len(histories) and 0 <= said.failures <= len(histories)


def test_trap_23_precision_follows_the_device_and_accelerate(small_split):
    class Told:
        mixed_precision = "bf16"

    plain, half = (
        untrained(small_split),
        untrained(small_split, training={"precision": "bf16"}),
    )
    assert (
        plain._precision() == torch.float32
        and plain._precision(Told())
        == torch.bfloat16
        == half._precision()
        == half.network.backbone.precision
    )
    assert (
        untrained(small_split, training={"precision": "fp32"})._precision(Told())
        == torch.float32
    )
    Told.mixed_precision = "fp8"
    with pytest.raises(ConfigError, match="fp8"):
        plain._precision(Told())


def test_sixteen_bits_are_those_of_the_whole_training(small_split):
    losses, kinds = [], []
    for model in (
        untrained(small_split),
        untrained(small_split, training={"precision": "bf16"}),
    ):
        first = next(
            part
            for part in model.network.diffusion.denoiser.modules()
            if isinstance(part, torch.nn.Linear)
        )
        first.register_forward_hook(
            lambda module, given, made: kinds.append(made.dtype)
        )
        with seeded(0):
            losses.append(model.network.loss(small_split.train.take(range(16))))
    assert kinds[0] == torch.float32 and kinds[1] == torch.bfloat16
    # the tokenizer's own loss is switched off
    for exact, coarse in zip(*(loss._replace(tokenizer=loss.total) for loss in losses)):
        assert coarse.dtype == torch.float32 and torch.isclose(
            exact, coarse, rtol=0.02, atol=0.01
        )


def test_new_items_are_recommended_from_their_text(explained, small_split, tmp_path):
    new = pd.DataFrame(
        {
            "item": ["new odd", "new even"],
            "title": ["Item 101, & <b>", "Item 102, & <b>"],
            "categories": [("odd",), ("even",)],
            "text": ["", ""],
        }
    )
    larger = explained.with_decoding(text_encoder=None).with_items(new)
    assert larger.split.n_items == 42 and explained.split.n_items == 40
    old, wide = (
        explained.score(small_split.histories("test")),
        larger.score(small_split.histories("test")),
    )
    np.testing.assert_allclose(wide[:, :40], old, atol=1e-4)
    likes_odd = np.array([int(u[1:]) % 2 == 1 for u in small_split.user_ids])
    assert ((wide[:, 40] > wide[:, 41]) == likes_odd).mean() > 0.75
    larger.save_pretrained(tmp_path / "larger")  # with what calibrates the new items
    np.testing.assert_array_equal(
        ContRec.from_pretrained(tmp_path / "larger").score(
            small_split.histories("test")
        ),
        wide,
    )
    assert (
        "new odd" in larger.recommend(["i1", "i3", "i5"], 42)["item"].tolist()
        and len(larger.recommend(["new odd"], 3)) == 3
    )
    with pytest.raises(DataError, match="'i3' is in the catalogue already"):
        explained.with_items(
            pd.DataFrame(
                {"item": ["i3"], "title": ["x"], "categories": [()], "text": [""]}
            )
        )


def test_no_condition_sees_a_later_item(model, small_split):
    histories = small_split.train.last(6)
    c, _ = conditions(model, histories)
    for j in range(1, 6):
        changed = histories.pad()
        changed[:, j:] = (changed[:, j:] + 3) % small_split.n_items
        d, _ = conditions(model, Ragged.from_lists(changed))
        assert torch.equal(c[:, :j], d[:, :j]) and not torch.equal(c[:, j], d[:, j])


def test_the_user_vector_is_the_decayed_mean_so_far():
    x = torch.randn(2, 4, 3)
    expected = torch.stack([x[:, : j + 1].mean(1) for j in range(4)], 1)
    torch.testing.assert_close(running_mean(x), expected)

    def weighted_mean(j):
        weights = 0.6 ** torch.arange(j, -1, -1)
        return (x[:, : j + 1] * weights[:, None]).sum(1) / weights.sum()

    torch.testing.assert_close(
        running_mean(x, 0.6), torch.stack([weighted_mean(j) for j in range(4)], 1)
    )


def test_running_users_with_several_memories(small_split, tmp_path):
    model = untrained(small_split, prompt={"user_decays": [1.0, 0.5]})
    histories = small_split.train.take(np.array([0]))
    network, catalogue = model.network, model.network.catalogue()
    assert network.user_adapter.in_features == 2 * network.tokenizer.width
    before = network.state(histories, catalogue)
    with torch.no_grad():
        network.user_adapter.weight[:, network.tokenizer.width :] = 0
    # the second user was heard
    assert not torch.allclose(before, network.state(histories, catalogue))
    one = untrained(small_split, prompt={"user_decays": [1.0]})
    with torch.no_grad():
        one.network.load_state_dict(
            network.state_dict()
            | {
                "user_adapter.weight": (
                    network.user_adapter.weight[:, : network.tokenizer.width].clone()
                )
            }
        )
    # unheard, it changes nothing
    torch.testing.assert_close(
        one.network.state(histories, one.network.catalogue()),
        network.state(histories, catalogue),
    )
    fitted = ContRec(
        short(prompt={"user_decays": [1.0, 0.5]}, training={"epochs": 1})
    ).fit(small_split)
    fitted.save_pretrained(tmp_path / "kept")
    again = ContRec.from_pretrained(tmp_path / "kept")
    assert again.config == fitted.config and np.array_equal(
        again.score(small_split.histories("test")),
        fitted.score(small_split.histories("test")),
    )


def test_vectors_side_by_side(small_split, tmp_path):
    """Each part is a stage of its own with the settings that it knows, weighs as much
    as the other, and is what it is alone.
    """
    side, alone = (
        ContRec(
            short(
                embedding={"kind": e, "width": 8, "epochs": 1},
                training={"epochs": 1, "fine_tune": False},
            )
        )
        for e in ("linear+sasrec", "sasrec")
    )
    side.fit(small_split, folder=tmp_path / "run"), alone.fit(small_split)
    inputs = side.network.inputs
    assert inputs.shape[1] == 16 and torch.equal(inputs[:, 8:], alone.network.inputs)
    for part in inputs.split(8, 1):
        torch.testing.assert_close(part.square().mean(), torch.tensor(1.0))
    assert [name for name in side.seconds if name.startswith("embeddings")] == [
        "embeddings linear",
        "embeddings sasrec",
    ] and "embeddings" in alone.seconds
    again = ContRec(side.config).fit(small_split, folder=tmp_path / "run")
    assert torch.equal(again.network.inputs, inputs)


def test_trap_10_gradients_reach_backbone_tokenizer_and_vectors(small_split):
    model = ContRec(short(training={"epochs": 1})).fit(small_split)
    network = model.network.train()
    network.zero_grad()
    network.loss(small_split.train.take(np.arange(8))).total.backward()
    parts = {
        "vectors": [network.inputs],
        "tokenizer": network.tokenizer.encoders.parameters(),
        "users": network.user_tokenizer.encoders.parameters(),
        "adapter": network.backbone.adapter.parameters(),
        "llm": network.backbone.llm.parameters(),
        "diffusion": network.diffusion.parameters(),
    }
    for part, parameters in parts.items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters), (
            part
        )


def uneven_split(users=24):
    """Histories of 4 to 11 items.

    Some items have no category, so that some answers have no words.
    """
    lengths = np.tile(np.arange(4, 12), users // 8)
    items = np.concatenate(
        [(7 * u + 5 * np.arange(n)) % 23 for u, n in enumerate(lengths)]
    )
    log = pd.DataFrame(
        {
            "user": np.repeat([f"u{u}" for u in range(users)], lengths),
            "item": [f"i{i}" for i in items],
            "timestamp": np.concatenate([np.arange(n) for n in lengths]),
        }
    )
    table = pd.DataFrame(
        {
            "item": [f"i{i}" for i in range(23)],
            "title": "x",
            "text": "",
            "categories": [
                () if i % 4 == 0 else tuple(f"kind {k}" for k in range(i % 4))
                for i in range(23)
            ],
        }
    )
    return leave_one_out(from_frame(log, items=table, name="uneven"), core=3)


def step_losses(network, histories, accumulate, shares=True):
    """Losses and gradient of one step of these histories, in so many parts."""
    network.zero_grad()
    loss = (
        (lambda rows, shares: network.loss(histories.take(rows.numpy()), shares))
        if shares
        else lambda rows: network.loss(histories.take(rows.numpy()))
    )
    trainer = Trainer(
        network.train(),
        loss,
        len(histories),
        epochs=1,
        accumulate=accumulate,
        counts=network.counts(histories) if shares else None,
    )
    with seeded(0):
        values = trainer.backward(torch.arange(len(histories)))
    return values, torch.cat(
        [p.grad.flatten() for p in trainer.parameters if p.grad is not None]
    )


QUIET = dict(tokenizer={"sigma": 0.0}, backbone={"dropout": 0.0})


@pytest.mark.parametrize("preference", ["softmax", "none"])
@pytest.mark.parametrize("template", ["tokens", "both"])
def test_a_step_means_the_same_in_any_number_of_parts(
    without_draws, template, preference
):
    """Histories sorted by length.

    Denoising and ranking are means over positions, the language model's loss over the
    words of the answers.
    """
    split = uneven_split()
    histories = split.train.take(np.argsort(split.train.lengths, kind="stable"))
    terms = {
        "ranking_loss": preference,
        "dispersive_weight": 0.0,
        "denoising_weight": 1.0,
    }
    model = untrained(
        split,
        **QUIET,
        prompt={"template": template},
        training={"targets": "stop_gradient"},
        diffusion=terms,
    )
    logged, whole = step_losses(model.network, histories, 1, shares=False)
    assert logged["lm"] > 0
    for accumulate in (1, 2, 8):
        again, gradient = step_losses(model.network, histories, accumulate)
        assert (gradient - whole).norm() < 1e-5 * whole.norm(), accumulate
        assert again == pytest.approx(logged, rel=1e-5)
    by_rows = step_losses(model.network, histories, 8, shares=False)[1]
    assert (by_rows - whole).norm() > 1e-3 * whole.norm()


def test_the_counts_are_those_of_the_prompts():
    split = uneven_split()
    network = untrained(split, prompt={"template": "both", "max_items": 5}).network
    counts, batch = (
        network.counts(split.train),
        network.prompts.batch(
            split.train.drop_last(), split.train.values[split.train.offsets[1:] - 1]
        ),
    )
    assert torch.equal(counts["positions"], (batch.next_items >= 0).sum(1))
    assert (
        torch.equal(counts["answer words"], (batch.labels != -100).sum(1))
        and (counts["answer words"] == 0).any()
    )


def test_terms_over_pairs_see_their_part_only(without_draws):
    """As said in the notebook on training.

    The dispersive loss of a step in parts is the mean of the parts', weighted by
    positions.
    """
    split = uneven_split()
    histories = split.train.take(np.argsort(split.train.lengths, kind="stable"))
    network = untrained(split, **QUIET).network
    parts = np.array_split(np.arange(len(histories)), 2)
    alone = [
        step_losses(network, histories.take(part), 1)[0]["dispersive"] for part in parts
    ]
    weights = [
        int(network.counts(histories.take(part))["positions"].sum()) for part in parts
    ]
    found = step_losses(network, histories, 2)[0]["dispersive"]
    assert found == pytest.approx(np.average(alone, weights=weights), rel=1e-5)
    assert abs(found - step_losses(network, histories, 1)[0]["dispersive"]) > 1e-4


def test_items_with_a_scale_of_their_own(small_split, tmp_path):
    found = ContRec(short(training={"item_scale": True, "item_lr": 5.0})).fit(
        small_split
    )
    network, histories = found.network, small_split.histories("test")
    assert network.log_scale.abs().mean() > 1e-3, "the scale does not learn"
    check_recommender(found, small_split)
    catalogue, _, preference = found.generate(histories)
    cosine = torch.nn.functional.cosine_similarity(
        preference, catalogue.latents[None], dim=-1
    )
    by_hand = network.log_scale.exp() * cosine / 0.1
    np.testing.assert_allclose(
        found.score(histories), by_hand.detach(), rtol=1e-4, atol=1e-4
    )
    flat = found.with_decoding(index="flat").rank(histories, 5)
    np.testing.assert_array_equal(flat.ids, found.rank(histories, 5).ids)
    found.save_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(
        ContRec.from_pretrained(tmp_path / "m").score(histories), found.score(histories)
    )
    new = pd.DataFrame(
        {"item": ["new"], "title": ["New"], "categories": [("odd",)], "text": [""]}
    )
    larger = found.with_decoding(text_encoder=None).with_items(new)
    np.testing.assert_allclose(
        larger.score(histories)[:, :-1], found.score(histories), rtol=1e-4, atol=1e-4
    )
    assert (
        torch.isclose(larger.network.log_scale[-1], network.log_scale.mean())
        and np.isfinite(larger.score(histories)).all()
    )


def test_items_have_no_scale_unless_asked(model):
    assert (
        "log_scale" not in model.network.state_dict()
        and model.network.catalogue().scale is None
    )


def test_what_belongs_to_items_learns_at_its_own_rate(small_split):
    slow, fast = (
        ContRec(
            short(
                training={
                    "epochs": 1,
                    "item_scale": True,
                    "item_lr": factor,
                    "ema": None,
                }
            )
        )
        .fit(small_split)
        .network
        for factor in (1.0, 5.0)
    )
    assert fast.log_scale.abs().mean() > 3 * slow.log_scale.abs().mean()
    assert not torch.equal(fast.inputs, slow.inputs)


def test_windows_of_long_histories_all_train(small_split):
    """With histories cut at 4, every window trains if asked.

    More predictions per epoch than from the latest window alone.
    """
    import contrec.recommender.contrec

    def predictions(**changes):
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            original = contrec.recommender.contrec.train

            def watched(network, loss, n_rows, **how):
                seen.append(n_rows)
                return original(network, loss, n_rows, **how)

            patch.setattr(contrec.recommender.contrec, "train", watched)
            ContRec(
                short(training={"epochs": 1}, prompt={"max_items": 4}).replace(
                    **changes
                )
            ).fit(small_split)
        return seen[-1]

    assert predictions(training={"windows": False}) == small_split.n_users
    assert predictions(training={"windows": True}) == sum(
        -(-(n - 1) // 4) for n in small_split.train.lengths
    )


def test_frozen_mode_leaves_tokenizer_and_vectors_alone(small_split):
    frozen = ContRec(short(training={"fine_tune": False, "epochs": 2}))
    before = {}
    original = ContRec._train

    class Watched(ContRec):
        def _train(self, *a, **k):
            before.update(
                {k: v.clone() for k, v in self.network.tokenizer.state_dict().items()},
                inputs=self.network.inputs.detach().clone(),
            )
            return original(self, *a, **k)

    frozen.__class__ = Watched
    frozen.fit(small_split)
    for name, value in frozen.network.tokenizer.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(frozen.network.inputs, before["inputs"])


# tokens that learn, targets that learn


def latents_before_and_after(split, **changes):
    """Tokens' mean latents and the diffusion's targets, before joint training and after
    two epochs of it.
    """
    seen = []

    class Watched(ContRec):
        def _train(self, *a, **k):
            seen.append(self._look())
            return super()._train(*a, **k)

        @torch.no_grad()
        def _look(self):
            catalogue = self.network.eval().catalogue()
            return latents(catalogue.tokens), catalogue.latents

    model = Watched(short(**changes)).fit(split)
    return model, seen[0], model._look()


@pytest.mark.parametrize("targets", TARGETS)
def test_targets_are_frozen_or_follow_or_learn(small_split, targets):
    model, (tokens, aims), (moved, after) = latents_before_and_after(
        small_split, training={"targets": targets}
    )
    network = model.network.train()
    torch.testing.assert_close(tokens, aims)
    assert not torch.allclose(tokens, moved, atol=1e-2), "the tokens do not learn"
    assert torch.equal(after, aims) == (targets == "frozen")
    if targets != "frozen":
        torch.testing.assert_close(after, moved)
    assert network.catalogue().latents.requires_grad == (targets == "learned")
    network.zero_grad()
    network.loss(small_split.train.take(np.arange(8))).total.backward()
    # through the backbone at least
    assert (
        network.inputs.grad.abs().sum() > 0
        and network.tokenizer.position.grad.abs().sum() > 0
    )


def test_the_targets_gradient_is_all_that_differs(small_split):
    """The same numbers forward; backward, a stopped target is a constant."""
    losses, gradients = [], []
    for targets in ("learned", "stop_gradient"):
        network = untrained(small_split, training={"targets": targets}).network.train()
        with seeded(0):
            loss = network.loss(small_split.train.take(np.arange(16)))
        loss.total.backward()
        losses.append(loss.total.item())
        gradients.append(network.tokenizer.position.grad.clone())
    assert losses[0] == losses[1] and not torch.allclose(*gradients)


@pytest.mark.parametrize("name", ["contrec", "contrec-basic"])
def test_the_presets_that_rank_let_their_targets_learn(name):
    training = preset(name).training
    assert training.fine_tune and training.targets == "learned"
    assert training.tokenizer_weight == 0
    for paper in ("contrec-paper", "deftrec"):
        training = preset(paper).training
        assert not training.fine_tune and training.targets == "frozen"


def test_frozen_targets_are_saved_fed_back_and_joined_by_new_items(
    small_split, tmp_path
):
    model = ContRec(
        short(
            training={"targets": "frozen", "epochs": 1}, decoding={"text_encoder": None}
        )
    ).fit(small_split)
    histories = small_split.histories("test")
    model.save_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(
        ContRec.from_pretrained(tmp_path / "m").score(histories), model.score(histories)
    )
    catalogue = model.network.catalogue()
    back = model.network.feed_back(catalogue.latents, catalogue)
    torch.testing.assert_close(back, catalogue.tokens, atol=1e-5, rtol=1e-4)
    new = pd.DataFrame(
        {"item": ["new"], "title": ["New"], "categories": [("odd",)], "text": [""]}
    )
    larger = model.with_items(new)
    assert larger.network.catalogue().latents.shape == (small_split.n_items + 1, 64)
    assert torch.equal(larger.network.catalogue().latents[:-1], catalogue.latents)
    assert np.isfinite(larger.score(histories)).all()


@pytest.mark.parametrize("targets", ["frozen", "stop_gradient"])
def test_joint_training_resumes_exactly_with_every_kind_of_target(
    small_split, tmp_path, targets
):
    settings = dict(training={"targets": targets, "tokenizer_weight": 0.5, "epochs": 3})
    whole = ContRec(short(**settings)).fit(small_split)

    def killer(row):
        if row["stage"] == "recommender" and row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ContRec(short(**settings)).fit(small_split, folder=tmp_path, log=killer)
    again = ContRec(short(**settings)).fit(small_split, folder=tmp_path)
    for (name, a), b in zip(
        whole.network.state_dict().items(), again.network.state_dict().values()
    ):
        assert torch.equal(a, b), name


def decode_error(model):
    """Mean squared error of what the tokens decode to, against the vectors before joint
    training, in units of these vectors' variance.
    """
    tokenizer, start = model.network.tokenizer, model.start
    with torch.no_grad():
        return (
            (tokenizer.decode(tokenizer.encode(model.network.inputs)) - start)
            .square()
            .mean()
            / start.var(0).mean()
        ).item()


def test_the_tokenizers_own_loss_keeps_it_able_to_decode(small_split):
    class Watched(ContRec):
        def _train(self, *a, **k):
            self.start = self.network.inputs.detach().clone()
            self.before = decode_error(self)
            return super()._train(*a, **k)

    models, logs = [], []
    for weight in (0.0, 10.0):
        rows = []
        models.append(
            Watched(
                short(
                    training={
                        "tokenizer_weight": weight,
                        "epochs": 6,
                        "tokenizer_epochs": 100,
                        "lr": 5e-3,
                    }
                )
            ).fit(small_split, log=rows.append)
        )
        logs.append([row for row in rows if row["stage"] == "recommender"])
    plain, kept = (decode_error(model) - model.before for model in models)
    assert plain > 0.02 and kept < 0.3 * plain
    assert (
        not any("tokenizer" in row for row in logs[0])
        and logs[1][-1]["tokenizer"] < logs[1][0]["tokenizer"]
    )


def test_a_variational_tokenizer_keeps_its_learned_noise_in_joint_training(small_split):
    network = untrained(
        small_split, tokenizer={"kind": "VAE", "width": 8, "tokens": 2}
    ).network
    x = network.tokenizer.standard(network.inputs)
    with torch.no_grad():
        mu, log_variance = network.tokenizer.statistics(x).chunk(2, -1)
        noise = (
            torch.stack([network.train().catalogue().tokens for _ in range(400)]) - mu
        )
        assert torch.equal(network.eval().catalogue().tokens, mu)
    torch.testing.assert_close(
        noise.std(0), (0.5 * log_variance).exp(), rtol=0.3, atol=0.02
    )
    assert noise.mean(0).abs().max() < 0.3


def test_how_the_targets_are_spread_is_logged(small_split):
    rows = []
    ContRec(short()).fit(small_split, log=rows.append)
    for row in rows:
        if row["stage"] == "recommender":
            assert 1 <= row["target_rank"] <= 64 and -1 <= row["target_cosine"] <= 1


def test_targets_that_collapse_stop_the_training(small_split):
    """A ranking term without weight to speak of cannot keep learned targets apart.

    The same training with stopped targets goes through.
    """
    weak = {"ranking_weight": 1e-9, "denoising_weight": 1.0}
    settings = dict(
        diffusion=weak,
        training={"epochs": 40, "lr": 2e-2, "ema": None},
    )
    with pytest.raises(
        TrainingError,
        match="the targets collapsed: effective rank .* mean cosine .*stop_gradient",
    ):
        ContRec(short(**settings)).fit(small_split)
    ContRec(
        short(**settings).replace(training={"epochs": 10, "targets": "stop_gradient"})
    ).fit(small_split)
    ContRec(
        short(**settings).replace(training={"epochs": 10, "allow_collapse": True})
    ).fit(small_split)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"diffusion": {"ranking_loss": "none"}}, "collapse.*frozen or stop_gradient"),
        (
            {"diffusion": {"ranking_weight": 0.0}},
            "collapse.*frozen or stop_gradient",
        ),
        ({"training": {"targets": "moving"}}, "unknown kind of targets 'moving'"),
        (
            {"training": {"fine_tune": False, "tokenizer_weight": 1.0}},
            "fine_tune is off",
        ),
        ({"training": {"tokenizer_weight": -1.0}}, "tokenizer_weight"),
    ],
)
def test_targets_that_cannot_work_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        preset("contrec", **changes)


def test_what_is_refused_can_be_told_explicitly():
    for changes in (
        {"training": {"targets": "frozen"}},
        {"training": {"targets": "stop_gradient"}},
        {"training": {"fine_tune": False}},
        {"training": {"allow_collapse": True}},
    ):
        config = preset("contrec", **changes, diffusion={"ranking_loss": "none"})
        assert config.diffusion.ranking_loss == "none"


def test_a_dispersive_loss_at_its_floor_is_said_once(small_split):
    said, rows = [], []
    published = {
        "dispersive_variant": "infonce_l2",
        "dispersive_normalise": False,
        "dispersive_weight": 50.0,
        "dispersive_tau": 0.01,
    }
    ContRec(short(diffusion=published, training={"epochs": 4})).fit(
        small_split, report=said.append, log=rows.append
    )
    acting = [row["acting_pairs"] for row in rows if row["stage"] == "recommender"]
    assert (
        acting[-1] < 0.01
        and sum(
            "the dispersive loss is at its floor; it no longer acts" in line
            for line in said
        )
        == 1
    )
    said.clear()
    rows.clear()
    ContRec(short(training={"epochs": 4})).fit(
        small_split, report=said.append, log=rows.append
    )
    assert (
        not any("floor" in line for line in said)
        and min(row["acting_pairs"] for row in rows if row["stage"] == "recommender")
        > 0.5
    )


def test_trap_02_the_pretrained_tokenizer_is_the_one_in_use(small_split, tmp_path):
    """After the tokenizer's stage, the network's tokenizer reconstructs.

    An untrained one does not.
    """
    seen = {}

    class Watched(ContRec):
        def _train(self, *a):
            t, e = self.network.tokenizer, self.network.inputs.detach()
            with torch.no_grad():
                seen["trained"] = float(
                    (t.standard(t.decode(t.encode(e))) - t.standard(e)).square().mean()
                )
            return super()._train(*a)

    Watched(short(training={"tokenizer_epochs": 200, "epochs": 1})).fit(small_split)
    assert seen["trained"] < 0.6


def test_trap_12_every_position_of_a_history_is_a_target(model, small_split):
    history = small_split.train.take(np.array([3]))
    batch = model.network.prompts.batch(history.drop_last(), history.values[-1:])
    assert batch.next_items[0].tolist() == history[0][1:].tolist()


def test_trap_21_batch_of_one_and_history_of_one(model, small_split):
    scores = model.score(Ragged.from_lists([[4]]))
    assert scores.shape == (1, small_split.n_items) and np.isfinite(scores).all()
    loss = model.network.train().loss(Ragged.from_lists([[1, 2]]))
    assert loss.tokenizer is None and all(torch.isfinite(x) for x in loss[:-1])
    model.network.eval()


def test_trap_23_runs_without_cuda(model):
    assert {p.device.type for p in model.network.parameters()} == {
        torch.get_default_device().type
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("name", PRESETS)
def test_it_trains_on_a_gpu(name, small_split):
    model = ContRec(short(name, training={"precision": "fp32"}), "cuda").fit(
        small_split
    )
    check_recommender(model, small_split)
    assert {p.device.type for p in model.network.parameters()} == {"cuda"}


def test_saved_and_loaded_scores_are_bit_equal(model, small_split, tmp_path):
    model.save_pretrained(tmp_path)
    again = ContRec.from_pretrained(tmp_path)
    histories = small_split.histories("test")
    assert np.array_equal(again.score(histories), model.score(histories))
    assert again.split.sha256 == small_split.sha256 and list(
        again.split.item_ids
    ) == list(small_split.item_ids)
    assert again.config == model.config
    assert again.recommend(["i1", "i2"], 3).equals(model.recommend(["i1", "i2"], 3))


def test_loading_does_not_touch_the_global_generator(model, tmp_path):
    model.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    ContRec.from_pretrained(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_held_out_items_do_not_change_what_is_learnt(small_split):
    """With patience out of the way, another test item gives the same model.

    Another validation item may only choose the epoch.
    """
    other = dataclasses.replace(
        small_split, test=(small_split.test + 1) % small_split.n_items
    )
    a, b = (ContRec(short()).fit(s).network.state_dict() for s in (small_split, other))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_sampling_is_deterministic_and_a_set_is_not_a_mean(small_split):
    many = ContRec(
        short(decoding={"samples": 8, "noise_scale": 1.0}, training={"epochs": 1})
    ).fit(small_split)
    histories = small_split.histories("test")
    assert np.array_equal(many.score(histories), many.score(histories))
    network, catalogue = many.network, many.network.catalogue()
    drawn = network.diffusion.sample(
        network.state(histories, catalogue), steps=1, samples=8, temperature=1.0
    )
    assert drawn.shape[:2] == (len(histories), 8) and drawn.std(1).mean() > 0


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"embedding": {"kind": "word2vec"}}, "word2vec"),
        ({"embedding": {"kind": "linear+word2vec"}}, "word2vec"),
        (
            {"embedding": {"layers": 2, "kind": "linear"}},
            "'embedding.layers' of linear",
        ),
        ({"tokenizer": {"kind": "BPE"}}, "BPE"),
        ({"prompt": {"template": "x"}}, "'x'"),
        ({"decoding": {"samples": 4}}, "noise scale 0"),
        ({"speed": 3}, "speed"),
        ({"training": {"epochs": 0}}, "epochs"),
        ({"training": {"batch_size": 0}}, "batch_size"),
        ({"training": {"accumulate": 0}}, "accumulate"),
        ({"training": {"accumulate": 33}}, "33 parts"),
        ({"training": {"ema": 1.0}}, "ema is 1.0"),
        ({"training": {"precision": "fp8"}}, "fp8"),
        ({"decoding": {"text_score": "vibes"}}, "vibes"),
        ({"decoding": {"text_weight": -1.0}}, "text_weight"),
        ({"retrieval": {"index": "annoy"}}, "annoy"),
        (
            {"retrieval": {"index": "hnsw"}, "decoding": {"text_score": "likelihood"}},
            "hnsw",
        ),
        ({"prompt": {"template": "profile", "user_token": False}}, "profile"),
        (
            {
                "training": {"item_scale": True},
                "diffusion": {"ranking_loss": "centroid"},
            },
            "ranking_loss is 'centroid'",
        ),
        ({"training": {"item_lr": 0.0}}, "item_lr is 0.0"),
        ({"training": {"item_lr": 2.0, "fine_tune": False}}, "neither learns"),
        ({"prompt": {"user_decays": []}}, "at least one"),
        ({"prompt": {"user_decays": [1.0, 0.0]}}, "above 0"),
        ({"prompt": {"user_decays": [0.5, 0.5]}}, "different"),
        (
            {"prompt": {"user_decays": [0.5], "user_token": False}},
            "prompt.user_token is off",
        ),
    ],
)
def test_settings_that_make_no_sense(changes, word):
    with pytest.raises(ConfigError, match=word):
        preset("contrec", **changes)


def test_a_log_without_anything_to_predict():
    import pandas as pd

    log = pd.DataFrame(
        [(f"u{u}", f"i{i}", t) for u in range(6) for t, i in enumerate(range(3))],
        columns=["user", "item", "timestamp"],
    )
    split = leave_one_out(from_frame(log, name="short"), core=1)
    with pytest.raises(DataError):
        ContRec(short(embedding={"width": 2})).fit(split)


def test_a_kept_model_is_trained_once_and_belongs_to_its_settings(
    small_split, tmp_path, monkeypatch
):
    trained, fit = [], ContRec.fit
    monkeypatch.setattr(
        ContRec, "fit", lambda self, *given: trained.append(1) or fit(self, *given)
    )
    first = ContRec.fitted(short(), small_split, tmp_path / "kept")
    again = ContRec.fitted(
        short(decoding={"guidance": 1.0}), small_split, tmp_path / "kept"
    )
    assert len(trained) == 1 and [p.name for p in tmp_path.iterdir()] == ["kept"]
    histories = small_split.histories("test")
    assert (
        np.array_equal(
            first.score(histories), again.with_decoding(guidance=0.0).score(histories)
        )
        and again.config.decoding.guidance == 1.0
    )
    for config, split, word in (
        (short(training={"lr": 0.1}), small_split, "another training.lr"),
        (short(seed=1), small_split, "another seed"),
        (short(), dataclasses.replace(small_split, sha256="0"), "another split"),
    ):
        with pytest.raises(ConfigError, match=word):
            ContRec.fitted(config, split, tmp_path / "kept")
    assert len(trained) == 1


def test_two_who_train_a_kept_model_at_once_leave_one(
    small_split, tmp_path, monkeypatch
):
    fit = ContRec.fit

    def overtaken(self, *given):
        ready = fit(self, *given)
        ready.save_pretrained(tmp_path / "kept")  # the other process is done first
        return ready

    monkeypatch.setattr(ContRec, "fit", overtaken)
    assert ContRec.fitted(short(), small_split, tmp_path / "kept").config == short()
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_kept_model_that_cannot_be_written_leaves_nothing(
    small_split, tmp_path, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    # the last file of all
    monkeypatch.setattr("contrec.recommender.checkpoints.write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ContRec.fitted(short(), small_split, tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def new_items(names):
    return pd.DataFrame(
        {
            "item": names,
            "title": [f"Item {name}, & <b>" for name in names],
            "categories": [
                ("odd",) if n % 2 else ("even",) for n, _ in enumerate(names)
            ],
            "text": [""] * len(names),
        }
    )


@pytest.mark.parametrize("changes", [{}, {"training": {"item_scale": True}}])
def test_new_items_in_two_batches_are_those_of_one(small_split, tmp_path, changes):
    """What an earlier batch was given is no knowledge.

    The regression and the calibration are of the items of the training alone.
    """
    model = ContRec(short(**changes, decoding={"text_encoder": None})).fit(small_split)
    histories, new = (
        small_split.histories("test"),
        new_items(["n1", "n2", "n3", "n4", "n5"]),
    )
    once = model.with_items(new)
    first = model.with_items(new[:2])
    twice = first.with_items(new[2:])
    np.testing.assert_array_equal(twice.score(histories), once.score(histories))
    assert (
        list(twice.split.item_ids) == list(once.split.item_ids)
        and first.split.n_items == 42
    )
    first.save_pretrained(tmp_path / "first")
    again = ContRec.from_pretrained(tmp_path / "first").with_items(new[2:])
    np.testing.assert_allclose(again.score(histories), once.score(histories), atol=1e-5)


def test_new_items_that_cannot_be_added_are_named(model, small_split):
    ready = model.with_decoding(text_encoder=None)
    for items, says in (
        (new_items(["a", "a"]), "'a' is twice"),
        (new_items([]), "no new items"),
        (new_items(["a"]).drop(columns="title"), "column 'title'"),
    ):
        with pytest.raises(DataError, match=says):
            ready.with_items(items)


@pytest.mark.parametrize(
    "kind", ["VectorQuantizer", "ResidualQuantizer", "MaskedMultiCodebook"]
)
def test_a_discrete_tokenizer_comes_back_in_a_fresh_process(
    small_split, tmp_path, kind
):
    import subprocess
    import sys

    settings = {"width": 16, "size": 32} | (
        {} if kind == "VectorQuantizer" else {"tokens": 2}
    )
    config = short(
        "contrec-basic",
        training={"epochs": 1},
        tokenizer=settings | {"kind": kind},
        prompt={"user_token": False},
    )
    model = ContRec(config).fit(small_split)
    model.save_pretrained(tmp_path / "m")
    np.save(tmp_path / "scores.npy", model.score(small_split.histories("test")))
    code = f"""
import numpy as np
from contrec.recommender.contrec import ContRec
model = ContRec.from_pretrained({str(tmp_path / "m")!r})
scores = model.score(model.split.histories("test"))
assert np.array_equal(scores, np.load({str(tmp_path / "scores.npy")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
