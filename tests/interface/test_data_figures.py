"Figures of logs, splits and training."

from types import SimpleNamespace

import numpy as np
import pytest
from figure_checks import HARD_TITLES, check_any_title_and_theme, check_text_inside

from contrec.foundations.errors import ConfigError
from contrec.interface.data_figures import (
    plot_histories,
    plot_learning_curves,
    plot_popularity,
    plot_split,
)

LOG = [
    {
        "stage": "a$b$",
        "epoch": e,
        "total": 100 / e**3,
        "_part": -1.0 * e,
        "seconds": 1.0,
    }
    for e in range(1, 6)
] + [
    {
        "stage": "c",
        "epoch": e,
        "total": 1 / e,
        "score": 0.1 * e if e % 2 else None,
        "seconds": 1.0,
    }
    for e in range(1, 6)
]
USERS = [HARD_TITLES[i % len(HARD_TITLES)] for i in range(40)]
SPLIT = SimpleNamespace(
    train=SimpleNamespace(lengths=np.arange(3, 43)),
    user_ids=np.array(USERS, dtype=object),
    n_users=40,
)
LENGTHS = np.random.default_rng(1).integers(3, 500, 100)
FIGURES = {
    "histories": lambda **options: plot_histories(LENGTHS, **options),
    "split": lambda **options: plot_split(SPLIT, **options),
    "popularity": lambda **options: plot_popularity(np.arange(50), **options),
    "curves": lambda **options: plot_learning_curves(LOG, **options),
}


@pytest.mark.parametrize("name", FIGURES)
def test_hard_titles_and_dark_themes_change_nothing(name):
    check_any_title_and_theme(FIGURES[name])


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_runs_out_of_the_figure(name):
    check_text_inside(FIGURES[name])


BAD = {
    "log": (lambda: plot_learning_curves([]), "no losses"),
    "no loss": (
        lambda: plot_learning_curves([{"epoch": 1, "seconds": 2.0}]),
        "no losses",
    ),
    "users": (lambda: plot_histories([]), "no history"),
    "counts": (lambda: plot_popularity(np.zeros(3)), "no interaction"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(case):
    draw, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        draw()


def test_smallest_inputs_are_drawn():
    plot_histories([5]).png()
    plot_popularity([3]).png()
    plot_learning_curves([{"epoch": 1, "total": 2.0}]).png()
