"""Every recommender of the kit keeps the interface that `check_recommender` states.

A stranger's class is tested in the same way: fit it, then call `check_recommender`.
"""

import importlib
import pkgutil

import numpy as np
import pytest

import contrec
from contrec.data.interactions import Ragged
from contrec.foundations.errors import ConfigError, DataError
from contrec.ranking.linear import EASE, IALS, ItemKNN, Popularity
from contrec.ranking.recommender import Recommender, check_recommender
from contrec.ranking.sequential import SASRec
from contrec.recommender.config import preset
from contrec.recommender.contrec import ContRec
from contrec.retrieval.rank_fusion import Fused
from contrec.studies.dreamrec import DreamRec
from contrec.studies.factor_models import BPR, LightGCNRecommender, Trained
from contrec.studies.sequence_models import BERT4Rec, GRU4Rec
from contrec.studies.tiger import TIGER

SHORT = {"epochs": 1, "width": 16}
SMALL_CONTREC = {
    "embedding": {"width": 16},
    "training": {"tokenizer_epochs": 5, "epochs": 1},
    "diffusion": {"hidden": 32, "blocks": 1},
    "decoding": {"steps": 2},
}
MAKERS = {
    Popularity: Popularity,
    ItemKNN: ItemKNN,
    EASE: lambda: EASE(5.0),
    IALS: lambda: IALS(8, iterations=2),
    SASRec: lambda: SASRec(**SHORT, length=6),
    BPR: lambda: BPR(**SHORT),
    LightGCNRecommender: lambda: LightGCNRecommender(**SHORT),
    GRU4Rec: lambda: GRU4Rec(**SHORT, length=6),
    BERT4Rec: lambda: BERT4Rec(**SHORT, layers=1, length=6),
    DreamRec: lambda: DreamRec(**SHORT, T=5, hidden=16, length=6),
    TIGER: lambda: TIGER(
        **SHORT, tokens=2, size=6, layers=1, quantizer_epochs=3, length=6, beams=40
    ),
    Fused: lambda: Fused(EASE(5.0), ItemKNN()),
    ContRec: lambda: ContRec(preset("contrec", **SMALL_CONTREC)),
}


@pytest.fixture(scope="module", params=MAKERS, ids=lambda kind: kind.__name__)
def make(request):
    return MAKERS[request.param]


@pytest.fixture(scope="module")
def fitted(make, small_split):
    return make().fit(small_split)


def test_interface(fitted, small_split):
    check_recommender(fitted, small_split)


@pytest.mark.parametrize("call", ["score", "rank", "recommend"])
def test_a_new_object_refuses_every_question(make, call):
    question = ["i1"] if call == "recommend" else Ragged.from_lists([[0]])
    with pytest.raises(ConfigError, match="has not been fitted. Call fit"):
        getattr(make(), call)(question)


def test_every_class_of_the_kit_is_tried():
    "A recommender that is added to the kit must be added to `MAKERS`."
    for module in pkgutil.walk_packages(contrec.__path__, "contrec."):
        if not module.name.endswith("__main__"):  # That is the command itself
            importlib.import_module(module.name)
    found, waiting = set(), [Recommender]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__.startswith("contrec.") and kind.__name__[0] != "_":
                found.add(kind)
    assert found - {Trained} == set(MAKERS)


class Stranger(Recommender):
    "What someone else may write: no checks of its own."

    def __init__(self, wrong=None):
        self.wrong = wrong

    def fit(self, split, log=None):
        self.split = None if self.wrong == "split" else split
        return self

    def _score(self, histories, users):
        assert len(histories), "an empty batch must not reach the subclass"
        return np.tile(self.split.counts.astype(np.float32), (len(histories), 1))

    def rank(self, histories, k=20, users=None, exclude_seen=True, batch_size=512):
        if self.wrong == "k":
            k = max(int(k), 1)
        if self.wrong == "number":
            histories = Ragged(histories.values.clip(0, 3), histories.offsets)
        if self.wrong == "empty" and (histories.lengths == 0).any():
            histories = Ragged.from_lists([[0]] * len(histories))
        if self.wrong == "traceback" and k == 0:
            raise IndexError(k)
        if self.wrong == "short" and k == self._fitted().n_items + 2:
            k -= 2
        if self.wrong == "none" and not len(histories):
            k = 1
        return super().rank(histories, k, users, exclude_seen, batch_size)


def test_a_class_from_outside_has_the_checks(small_split):
    check_recommender(Stranger().fit(small_split), small_split)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("split", "fit does not set"),
        ("empty", "an empty history in rank is not refused"),
        ("k", "k = 0 is not refused"),
        ("number", "own history|number -1 is not refused"),
        ("traceback", "k = 0 raises IndexError"),
        ("short", "filled with -1"),
        ("none", "no histories"),
    ],
)
def test_what_a_class_does_wrong_is_noticed(small_split, wrong, says):
    with pytest.raises(AssertionError, match=says):
        check_recommender(Stranger(wrong).fit(small_split), small_split)


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda m: m.rank([[0]]), DataError, "histories are a list"),
        (
            lambda m: m.score(Ragged.from_lists([[0], []])),
            DataError,
            "the history in row 1 is empty, and EASE reads nothing else",
        ),
        (
            lambda m: m.rank(Ragged.from_lists([[0]]), batch_size=0),
            ConfigError,
            "batch_size is 0",
        ),
        (lambda m: m.recommend("i1"), DataError, "is one text"),
        (
            lambda m: m.score(Ragged.from_lists([[0], [1]]), np.array([0])),
            DataError,
            "one user number per history",
        ),
    ],
)
def test_other_bad_calls_are_one_line(small_split, call, error, says):
    with pytest.raises(error, match=says) as caught:
        call(EASE(5.0).fit(small_split))
    assert len(str(caught.value).splitlines()) == 1
