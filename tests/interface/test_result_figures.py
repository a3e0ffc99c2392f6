"Figures of results, and of one user's list."

import numpy as np
import pandas as pd
import pytest
from figure_checks import HARD_TITLES, check_any_title_and_theme, check_text_inside

from contrec.foundations.errors import ConfigError
from contrec.interface.result_figures import (
    plot_ablation,
    plot_comparison,
    plot_recommendations,
    plot_sweep,
)

TABLE = pd.DataFrame(
    {
        "dataset": ["a$b$"] * 3 + ["_c"],
        "system": ["contrec", "$EASE$", "_kNN", "contrec"],
        "NDCG@10": [0.12, 0.1, 0.08, 0.2],
        "low": [0.11, 0.09, 0.07, 0.1],
        "high": [0.13, 0.11, 0.09, 0.3],
    }
)
EFFECTS = pd.DataFrame(
    {
        "factor": ["mask", "_x", "$y$"],
        "value": [0.1, "$on$", None],
        "difference": [-0.02, 0.001, 0.03],
        "difference low": [-0.03, -0.01, 0.02],
        "difference high": [-0.01, 0.012, 0.04],
        "noise": [0.004] * 3,
    }
)
SWEEP = pd.DataFrame(
    {
        "$x$": [1, 2, 4],
        "mean": [0.1, 0.2, 0.15],
        "low": [0, 0.1, 0.1],
        "high": [0.2, 0.3, 0.2],
        "group": ["_a", "$b$", "_a"],
    }
)
SCORES = np.arange(len(HARD_TITLES))[::-1]
FIGURES = {
    "comparison": lambda **options: plot_comparison(TABLE, **options),
    "ablation": lambda **options: plot_ablation(EFFECTS, **options),
    "sweep": lambda **options: plot_sweep(SWEEP, "$x$", "$m$", **options),
    "recommendations": lambda title: plot_recommendations(
        HARD_TITLES, HARD_TITLES, SCORES, 2, user=title
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_hard_titles_and_dark_themes_change_nothing(name):
    check_any_title_and_theme(FIGURES[name])


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_runs_out_of_the_figure(name):
    check_text_inside(FIGURES[name])


def test_several_systems_can_be_ours():
    "The marked rows have another marker; the line stands at the best of the rest."
    figure = plot_comparison(TABLE, ours=["contrec", "$EASE$"])
    (line,) = [x for x in figure.axes[0].lines if x.get_linestyle() == "--"]
    assert line.get_xdata()[0] == 0.08


BAD = {
    "table": (lambda: plot_comparison(TABLE.drop(columns="high")), "'high'"),
    "empty": (lambda: plot_comparison(TABLE[:0]), "no rows"),
    "effects": (lambda: plot_ablation(EFFECTS.drop(columns="noise")), "'noise'"),
    "sweep": (lambda: plot_sweep(TABLE), "'value'"),
    "scores": (lambda: plot_recommendations([], ["a"], []), "1 titles but 0"),
    "hit": (lambda: plot_recommendations([], ["a"], [1], 2), "count from 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(case):
    draw, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        draw()


def test_smallest_inputs_are_drawn():
    unknown = {"difference low": np.nan, "difference high": np.nan, "noise": np.nan}
    plot_recommendations([], ["only"], [0.0]).png()
    plot_comparison(TABLE[:1], ours="nobody").png()
    plot_ablation(EFFECTS.assign(**unknown)).png()
