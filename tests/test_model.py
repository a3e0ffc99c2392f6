"""ContRec whole: no leak, gradients, presets, saving, and the traps that only the whole can show."""
import dataclasses

import numpy as np
import pytest
import torch

from contrec.baselines import check_recommender
from contrec.core import ConfigError, DataError, seeded
from contrec.data import Ragged, from_frame, leave_one_out
from contrec.model import PRESETS, Config, ContRec, preset, running_mean
from contrec.tokenizer import Tokenizer

SHORT = dict(epochs=2, tokenizer_epochs=20, embedding_settings={"width": 16}, diffusion={"hidden": 32, "blocks": 1})


def short(name="contrec", **changes):
    settings = dict(SHORT)
    if PRESETS[name].embedding == "lightgcn":
        settings["embedding_settings"] = {"width": 16, "epochs": 3}
    return preset(name, **settings | changes)


@pytest.fixture(scope="module")
def model(small_split):
    return ContRec(short()).fit(small_split)


def test_it_keeps_the_contract_of_every_recommender(model, small_split):
    check_recommender(model, small_split)


@pytest.mark.parametrize("name", ["deftrec", "contrec-paper"])
def test_the_presets_are_the_same_parts(small_split, name):
    found = ContRec(short(name, epochs=1, steps=5)).fit(small_split)
    ranked = found.rank(small_split.histories("test"), 10)
    assert ranked.ids.shape == (small_split.n_users, 10) and np.isfinite(found.score(small_split.histories("test"))).all()


def test_it_learns(model, small_split):
    """In the small world half of the items are of a user's kind; an untrained model shows them half of the time."""
    kind = np.array([c[0] == "odd" for c in small_split.items["categories"]])
    likes_odd = np.array([int(u[1:]) % 2 == 1 for u in small_split.user_ids])
    ids = model.rank(small_split.histories("test"), 5).ids
    assert (kind[ids] == likes_odd[:, None]).mean() > 0.7


def conditions(model, histories, targets=None, training=False):
    network = model.network.train(training)
    with torch.no_grad(), seeded(0):
        batch = network.prompts.batch(histories, targets)
        c, _ = network.condition(batch, network._items(histories, batch), network.catalogue())
    network.eval()
    return c, batch


@pytest.mark.parametrize("training", [False, True])
def test_trap_09_the_condition_does_not_know_the_target(model, small_split, training):
    histories = small_split.train
    one, _ = conditions(model, histories, small_split.valid, training)
    two, _ = conditions(model, histories, (small_split.valid + 5) % small_split.n_items, training)
    none, _ = conditions(model, histories, None, training)
    assert torch.equal(one, two)
    if not training:
        torch.testing.assert_close(one, none)


def test_no_condition_sees_a_later_item(model, small_split):
    histories = small_split.train.last(6)
    c, _ = conditions(model, histories)
    for j in range(1, 6):
        changed = histories.pad()
        changed[:, j:] = (changed[:, j:] + 3) % small_split.n_items
        d, _ = conditions(model, Ragged.from_lists(changed))
        assert torch.equal(c[:, :j], d[:, :j]) and not torch.equal(c[:, j], d[:, j])


def test_the_running_user_is_the_mean_so_far():
    x = torch.randn(2, 4, 3)
    expected = torch.stack([x[:, :j + 1].mean(1) for j in range(4)], 1)
    torch.testing.assert_close(running_mean(x), expected)


def test_trap_10_gradients_reach_backbone_tokenizer_and_vectors(small_split):
    model = ContRec(short(epochs=1)).fit(small_split)
    network = model.network.train()
    network.zero_grad(); network.loss(small_split.train.take(np.arange(8))).total.backward()
    parts = {"vectors": [network.inputs], "tokenizer": network.tokenizer.encoders.parameters(), "users": network.user_tokenizer.encoders.parameters(),
             "adapter": network.backbone.adapter.parameters(), "llm": network.backbone.llm.parameters(), "diffusion": network.diffusion.parameters()}
    for part, parameters in parts.items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters), part


def test_windows_of_long_histories_all_train(small_split):
    """With histories cut at 4, every window trains if asked: more predictions per epoch than from the latest window alone."""
    import contrec.model
    def predictions(**changes):
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            original = contrec.model.train
            def watched(network, loss, n_rows, **how):
                seen.append(n_rows)
                return original(network, loss, n_rows, **how)
            patch.setattr(contrec.model, "train", watched)
            ContRec(short(epochs=1, max_items=4, **changes)).fit(small_split)
        return seen[-1]
    assert predictions() == small_split.n_users
    assert predictions(windows=True) == sum(-(-(n - 1) // 4) for n in small_split.train.lengths)


def test_frozen_mode_leaves_tokenizer_and_vectors_alone(small_split):
    frozen = ContRec(short(fine_tune=False, epochs=2))
    before = {}
    original = ContRec._train
    class Watched(ContRec):
        def _train(self, *a):
            before.update({k: v.clone() for k, v in self.network.tokenizer.state_dict().items()}, inputs=self.network.inputs.detach().clone())
            return original(self, *a)
    frozen.__class__ = Watched
    frozen.fit(small_split)
    for name, value in frozen.network.tokenizer.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(frozen.network.inputs, before["inputs"])


def test_trap_02_the_pretrained_tokenizer_is_the_one_in_use(small_split, tmp_path):
    """After the tokenizer's stage, the network's tokenizer reconstructs; an untrained one does not."""
    seen = {}
    class Watched(ContRec):
        def _train(self, *a):
            t, e = self.network.tokenizer, self.network.inputs.detach()
            with torch.no_grad():
                seen["trained"] = float((t.standard(t.decode(t.encode(e))) - t.standard(e)).square().mean())
            return super()._train(*a)
    Watched(short(tokenizer_epochs=200, epochs=1)).fit(small_split)
    with seeded(0):
        fresh = Tokenizer.kinds["SigmaVAE"](d_in=16, **PRESETS["contrec"].tokenizer_settings)
    assert seen["trained"] < 0.6


def test_trap_12_every_position_of_a_history_is_a_target(model, small_split):
    history = small_split.train.take(np.array([3]))
    batch = model.network.prompts.batch(history.drop_last(), history.values[-1:])
    assert batch.next_items[0].tolist() == history[0][1:].tolist()


def test_trap_21_batch_of_one_and_history_of_one(model, small_split):
    scores = model.score(Ragged.from_lists([[4]]))
    assert scores.shape == (1, small_split.n_items) and np.isfinite(scores).all()
    loss = model.network.train().loss(Ragged.from_lists([[1, 2]]))
    assert all(torch.isfinite(x) for x in loss)
    model.network.eval()


def test_trap_23_runs_without_cuda(model):
    assert {p.device.type for p in model.network.parameters()} == {torch.get_default_device().type}


def test_saved_and_loaded_scores_are_bit_equal(model, small_split, tmp_path):
    model.save_pretrained(tmp_path)
    again = ContRec.from_pretrained(tmp_path)
    histories = small_split.histories("test")
    assert np.array_equal(again.score(histories), model.score(histories))
    assert again.split.sha256 == small_split.sha256 and list(again.split.item_ids) == list(small_split.item_ids)
    assert again.config == model.config
    assert again.recommend(["i1", "i2"], 3).equals(model.recommend(["i1", "i2"], 3))


def test_loading_does_not_touch_the_global_generator(model, tmp_path):
    model.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    ContRec.from_pretrained(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_held_out_items_do_not_change_what_is_learnt(small_split):
    """With patience out of the way, another test item gives the same model; another validation item may only choose the epoch."""
    other = dataclasses.replace(small_split, test=(small_split.test + 1) % small_split.n_items)
    a, b = (ContRec(short()).fit(s).network.state_dict() for s in (small_split, other))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_sampling_is_deterministic_and_a_set_is_not_a_mean(small_split):
    many = ContRec(short(samples=8, temperature=1.0, epochs=1)).fit(small_split)
    histories = small_split.histories("test")
    assert np.array_equal(many.score(histories), many.score(histories))
    network, catalogue = many.network, many.network.catalogue()
    drawn = network.diffusion.sample(network.state(histories, catalogue), steps=1, samples=8, temperature=1.0)
    assert drawn.shape[:2] == (len(histories), 8) and drawn.std(1).mean() > 0


@pytest.mark.parametrize("changes, word", [({"embedding": "word2vec"}, "word2vec"), ({"tokenizer": "BPE"}, "BPE"), ({"template": "x"}, "'x'"),
    ({"samples": 4}, "temperature"), ({"speed": 3}, "speed"), ({"epochs": 0}, "epochs"), ({"batch_size": 0}, "batch_size")])
def test_settings_that_make_no_sense(changes, word):
    with pytest.raises(ConfigError, match=word):
        preset("contrec", **changes)


def test_a_log_without_anything_to_predict():
    import pandas as pd
    log = pd.DataFrame([(f"u{u}", f"i{i}", t) for u in range(6) for t, i in enumerate(range(3))], columns=["user", "item", "timestamp"])
    split = leave_one_out(from_frame(log, name="short"), core=1)
    with pytest.raises(DataError):
        ContRec(short(embedding_settings={"width": 2})).fit(split)
