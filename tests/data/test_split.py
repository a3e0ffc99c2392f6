"""Logs that leave nothing to rank are refused in a line or two."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contrec.data.split as data
from contrec.data.reading import from_frame
from contrec.data.split import k_core, leave_one_out
from contrec.foundations.environment import MemoryBudgetError
from contrec.foundations.errors import ConfigError, DataError


def log(sequences):
    rows = [
        (f"u{u}", f"i{i}", t)
        for u, row in enumerate(sequences)
        for t, i in enumerate(row)
    ]
    return from_frame(
        pd.DataFrame(rows, columns=["user", "item", "timestamp"]), name="small"
    )


def refused(match, *arguments, error=DataError, **more):
    with pytest.raises(error, match=match) as caught:
        leave_one_out(*arguments, **more)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


@pytest.mark.parametrize("items", [1, 2])
def test_catalogues_of_one_and_two_items_are_refused(items):
    interactions = log([[t % items for t in range(6)] for _ in range(5)])
    said = refused(f"small: the split has {items} item", interactions, core=1)
    assert "3 or more" in said and "longer log" in said
    assert "--core" in refused("3 or more", interactions, core=2)


def test_a_log_whose_users_have_all_seen_everything_is_refused():
    interactions = log([[0, 1, 2, 3, 0, 1]] * 4)
    refused("every user has seen all of the 4 items", interactions, core=1)


def test_one_user_with_something_to_rank_is_enough():
    split = leave_one_out(log([[0, 1, 2, 3, 0, 1]] * 3 + [[0, 1, 2, 3]]), core=1)
    assert split.n_users == 4 and split.n_items == 4


def test_three_items_are_enough():
    assert leave_one_out(log([[0, 1, 2], [2, 1, 0]]), core=1).n_items == 3


def test_a_core_of_a_million_is_refused_after_few_peelings(monkeypatch):
    peelings = []

    def counted(*arguments):
        peelings.append(arguments)
        return k_core(*arguments)

    monkeypatch.setattr(data, "k_core", counted)
    interactions = log([list(range(40))] * 30)
    said = refused("after the 1000000-core", interactions, core=1_000_000)
    assert "Try a smaller one: --core 30." in said and len(peelings) < 12


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 8), min_size=1, max_size=9), min_size=1, max_size=9
    ),
    st.integers(2, 50),
)
def test_the_advised_core_is_the_largest_that_leaves_someone(sequences, below):
    frame = log(sequences).frame
    fits = [k for k in range(1, below) if len(k_core(frame, k, max(k, 3)))]
    if not len(k_core(frame, below, max(below, 3))):
        assert data._largest_core(frame, below) == (max(fits) if fits else None)


@pytest.mark.parametrize("core", [0, -1, 2.5, "5", None, float("nan"), 10**30])
def test_a_core_that_is_no_number_of_interactions(core):
    refused("core", log([[0, 1, 2, 3]] * 4), core=core, error=ConfigError)


@pytest.mark.parametrize("seed", [-1, 0.5, "1"])
def test_a_seed_that_numpy_cannot_take(seed):
    refused("seed", log([[0, 1, 2, 3]] * 4), core=1, seed=seed, error=ConfigError)


def test_a_table_of_categories_is_held_against_the_memory(monkeypatch):
    items = pd.DataFrame(
        {
            "item": [f"i{n}" for n in range(4)],
            "title": "",
            "text": "",
            "categories": [(f"c{n}",) for n in range(4)],
        }
    )
    interactions = log([[0, 1, 2, 3]] * 4)
    split = leave_one_out(
        data.Interactions("small", interactions.frame, items, ""), core=1
    )
    assert np.array_equal(split.category_matrix().sum(1), np.ones(4))
    monkeypatch.setenv("CONTREC_MEMORY_GB", "1e-9")
    with pytest.raises(MemoryBudgetError, match="4 items and 4 categories"):
        split.category_matrix()
