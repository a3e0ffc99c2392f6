"Figures of noise schedules and of denoising."

import numpy as np
import pytest
from figure_checks import (
    HARD_TITLES,
    NAMES,
    POINTS,
    check_any_title_and_theme,
    check_text_inside,
)

from contrec.foundations.errors import ConfigError
from contrec.interface.diffusion_figures import (
    plot_denoising,
    plot_interpolation,
    plot_schedule,
)

SCHEDULES = {"$exp$": np.linspace(1, 0, 20), "_lin": np.linspace(0.9, 0.1, 20)}
PATHS = np.random.default_rng(1).normal(size=(3, 12, 2))
WEIGHTS = np.linspace(0, 1, 12)
SIMILARITY = np.stack([WEIGHTS[::-1], WEIGHTS], 1)
FIGURES = {
    "schedule": lambda **options: plot_schedule(SCHEDULES, **options),
    "denoising": lambda **options: plot_denoising(
        PATHS, POINTS, NAMES[:12], target=3, **options
    ),
    "interpolation": lambda **options: plot_interpolation(
        WEIGHTS, SIMILARITY, HARD_TITLES, HARD_TITLES[:2], **options
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_hard_titles_and_dark_themes_change_nothing(name):
    check_any_title_and_theme(FIGURES[name])


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_runs_out_of_the_figure(name):
    check_text_inside(FIGURES[name])


BAD = {
    "abar": (lambda: plot_schedule({"x": [2.0]}), "between 0 and 1"),
    "path": (
        lambda: plot_denoising(np.ones((1, 2)), POINTS),
        "at least two steps",
    ),
    "notes": (
        lambda: plot_denoising(np.ones((3, 2)), POINTS, ["a"]),
        "3 steps but 1 notes",
    ),
    "lengths": (
        lambda: plot_interpolation([0, 1], np.ones((2, 2)), ["a"], ("a", "b")),
        "one of each",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(case):
    draw, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        draw()
