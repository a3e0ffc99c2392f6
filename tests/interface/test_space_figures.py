"Figures of token spaces, and the projection into the plane."

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from figure_checks import (
    CONTINUOUS,
    DISCRETE,
    NAMES,
    POINTS,
    VECTORS,
    N,
    check_any_title_and_theme,
    check_text_inside,
)

from contrec.foundations.errors import ConfigError, DataError
from contrec.interface.space_figures import (
    main_category,
    plot_code_usage,
    plot_discrete,
    plot_spaces,
    plot_spectrum,
    plot_survival,
    plot_token_sets,
    plot_token_space,
    plot_tokenizers,
    plot_walk,
    project,
)
from contrec.tokenizer.sigma_vae import SigmaVAE

CODES = np.random.default_rng(1).integers(0, 8, (30, 5))
SPECTRA = {"_a": POINTS, "$b$ {": np.random.default_rng(1).normal(size=(9, 20))}
SPACES = {"$a$": POINTS, "_b\nsecond line": POINTS[::-1]}
TOKENIZERS = {"$a$": CONTINUOUS, "_b": DISCRETE}
FIGURES = {
    "space": lambda **options: plot_token_space(
        POINTS, NAMES, highlight=range(12), titles=NAMES, **options
    ),
    "values": lambda **options: plot_token_space(
        POINTS, values=np.arange(N) + 1, value_label="$n_i$", **options
    ),
    "spectrum": lambda **options: plot_spectrum(SPECTRA, **options),
    "codes": lambda **options: plot_code_usage(CODES, 8, **options),
    "spaces": lambda **options: plot_spaces(
        SPACES, values=np.arange(N) + 1, value_label="$n$", **options
    ),
    "token sets": lambda **options: plot_token_sets(
        CONTINUOUS, VECTORS, "pca", labels=NAMES, **options
    ),
    "tokenizers": lambda **options: plot_tokenizers(
        TOKENIZERS, VECTORS, "pca", **options
    ),
    "discrete": lambda **options: plot_discrete(
        DISCRETE, CONTINUOUS, VECTORS, "pca", **options
    ),
    "survival": lambda **options: plot_survival(TOKENIZERS, VECTORS, (0, 1), **options),
    "walk": lambda **options: plot_walk(CONTINUOUS, VECTORS, NAMES, 0, 5, **options),
}


@pytest.mark.parametrize("name", FIGURES)
def test_hard_titles_and_dark_themes_change_nothing(name):
    check_any_title_and_theme(FIGURES[name])


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_runs_out_of_the_figure(name):
    check_text_inside(FIGURES[name])


def test_projection_is_repeatable_and_quiet():
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        state = np.random.get_state()[1].copy()
        first, second = project(vectors, seed=3), project(vectors, seed=3)
        np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (40, 2) and first.dtype == np.float32
    assert np.isfinite(first).all()
    assert not np.array_equal(first, project(vectors, seed=4))


def test_umap_keeps_groups_together():
    centre = np.repeat(np.eye(4) * 10, 25, axis=0)
    plane = project(centre + np.random.default_rng(0).normal(size=(100, 4)))
    distance = np.square(plane[:, None] - plane).sum(-1) + 1e9 * np.eye(100)
    assert (distance.argmin(1) // 25 == np.arange(100) // 25).mean() > 0.95


def test_pca_equals_its_definition_and_has_one_sign():
    vectors = np.random.default_rng(0).normal(size=(50, 5)) * [5, 3, 1, 1, 1]
    plane = project(vectors, "pca")
    values = np.sort(np.linalg.eigvalsh(np.cov(vectors.T)))[::-1]
    np.testing.assert_allclose(plane.var(0, ddof=1), values[:2], rtol=1e-5)
    np.testing.assert_allclose(plane[::-1], project(vectors[::-1], "pca"), atol=1e-5)
    assert project(vectors[:, :1], "pca").shape == (50, 2)


@pytest.mark.parametrize("shape", [(3, 2), (5, 1), (4, 30), (10, 3)])
def test_small_catalogues_can_be_projected(shape):
    vectors = np.random.default_rng(0).normal(size=shape)
    assert np.isfinite(project(vectors)).all()


def test_umap_is_imported_only_when_asked_for():
    code = (
        "import sys, numpy as np; from contrec.interface.space_figures import project;"
        " project(np.eye(5), 'pca');"
        " assert 'umap' not in sys.modules and 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_main_category_takes_the_rarest_of_the_common():
    rows = [("Drama",)] * 5 + [("Drama", "Romance")] * 3
    rows += [("Drama", "Noir"), ("Noir",), ()]
    expected = ["Drama"] * 5 + ["Romance"] * 3 + ["Drama", "other", "none"]
    assert main_category(rows, 2).tolist() == expected


def test_more_than_eight_groups_end_in_other():
    labels = [f"c{i}" for i in range(12) for _ in range(12 - i)]
    points = np.random.default_rng(0).normal(size=(len(labels), 2))
    figure = plot_token_space(points, labels)
    assert "other 10" in figure.alt and len(figure.legends[0].texts) == 9
    colours = [tuple(c.get_facecolor()[0][:3]) for c in figure.axes[0].collections[:9]]
    assert len(set(colours)) == 9


def test_spectrum_names_the_effective_rank():
    x = np.random.default_rng(0).normal(size=(5000, 10))
    x[:, 5:] = x[:, :5]
    assert "effective rank 5.0 of 10" in plot_spectrum({"x": x}).alt
    collapsed = np.ones((9, 3)) + [[0, 0, 1e-3]] * np.arange(9)[:, None]
    assert "effective rank 1.0 of 3" in plot_spectrum({"collapsed": collapsed}).alt


BAD = {
    "nan points": (
        lambda: plot_token_space(np.array([[0, 1], [np.nan, 2]])),
        DataError,
        "row 1",
    ),
    "shape": (lambda: plot_token_space(np.ones((3, 3))), ConfigError, r"\(n, 2\)"),
    "labels": (
        lambda: plot_token_space(POINTS, ["a"]),
        ConfigError,
        "60 points but 1 labels",
    ),
    "both": (
        lambda: plot_token_space(POINTS, NAMES, POINTS[:, 0]),
        ConfigError,
        "not by both",
    ),
    "method": (lambda: project(POINTS, "tsne"), ConfigError, "tsne"),
    "few": (lambda: project(POINTS[:2]), ConfigError, "at least three"),
    "nan vectors": (lambda: project(POINTS * np.nan), DataError, "row 0"),
    "codes": (lambda: plot_code_usage(np.array([[9]]), 8), ConfigError, "do not fit"),
    "no codes": (lambda: plot_code_usage(np.zeros((0, 2)), 8), ConfigError, "shape"),
    "rows": (
        lambda: plot_spaces({"a": POINTS, "b": POINTS[:5]}),
        ConfigError,
        "the same rows, not 60, 5",
    ),
    "no spaces": (lambda: plot_spaces({}), ConfigError, "not none"),
    "no codes here": (
        lambda: plot_discrete(CONTINUOUS, CONTINUOUS, VECTORS),
        ConfigError,
        "SigmaVAE has no codes",
    ),
    "walk": (
        lambda: plot_walk(CONTINUOUS, VECTORS, ["a"], 0, 1),
        ConfigError,
        "60 rows but 1 titles",
    ),
    "width": (
        lambda: plot_token_sets(CONTINUOUS, VECTORS[:, :3]),
        DataError,
        "rows of 6 numbers",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(case):
    draw, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        draw()


def test_one_labelled_point_is_drawn():
    assert len(plot_token_space(POINTS[:1], ["a"]).png()) > 0


def test_discrete_picture_counts_the_items_that_share_a_point():
    # Every row twice: all share their point, whatever the tokenizer
    twice = np.repeat(VECTORS[:10], 2, axis=0)
    alt = plot_discrete(DISCRETE, CONTINUOUS, twice, "pca").alt
    assert "discrete: 100% share" in alt and "continuous: 100% share" in alt
    once = plot_discrete(DISCRETE, CONTINUOUS, VECTORS, "pca").alt
    assert "continuous: 0% share" in once


def test_walk_starts_and_ends_at_its_ends():
    identity = SigmaVAE(4, 4, 1)
    identity.tokenize, identity.decoder = lambda x: x[:, None], torch.nn.Identity()
    vectors = np.eye(4, dtype=np.float32)
    alt = plot_walk(identity, vectors, list("abcd"), 1, 3).alt
    assert "from b to d the nearest items are, in turn: b, d." in alt
