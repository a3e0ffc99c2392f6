"Figures: any title, any theme, never shown, always described, and honest about bad input."

import base64
import html.parser
import io
import subprocess
import sys
import warnings
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from contrec.foundations.errors import ConfigError, DataError
from contrec.foundations.random import seeded
from contrec.interface import result_figures as viz
from contrec.tokenizer.quantizers import ResidualQuantizer
from contrec.tokenizer.sigma_vae import SigmaVAE

RUDE = [
    "$9.99 and $\\frac{1",
    "_hidden",
    "two\nlines\t\x00end",
    "日本語 \U0001f600",
    "<b>&\"'",
    "\\alpha",
    "$",
    "100% {x} ^_~",
    "",
    "x" * 300,
    "עברית",
    "e\u0301te\u0301",
]
rng = np.random.default_rng(0)
N = 60
POINTS, NAMES = rng.normal(size=(N, 2)), [RUDE[i % len(RUDE)] for i in range(N)]
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
SPLIT = SimpleNamespace(
    train=SimpleNamespace(lengths=np.arange(3, 43)),
    user_ids=np.array([RUDE[i % len(RUDE)] for i in range(40)], dtype=object),
    n_users=40,
)
ROWS = rng.normal(size=(N, 6)).astype(np.float32)
with seeded(0):
    CONTINUOUS, DISCRETE = SigmaVAE(6, 4, 3, 8), ResidualQuantizer(6, 4, 2, 8)

FIGURES = {
    "histories": lambda **o: viz.plot_histories(rng.integers(3, 500, 100), **o),
    "split": lambda **o: viz.plot_split(SPLIT, **o),
    "popularity": lambda **o: viz.plot_popularity(np.arange(50), **o),
    "curves": lambda **o: viz.plot_learning_curves(LOG, **o),
    "space": lambda **o: viz.plot_token_space(
        POINTS, NAMES, highlight=range(12), titles=NAMES, **o
    ),
    "values": lambda **o: viz.plot_token_space(
        POINTS, values=np.arange(N) + 1, value_label="$n_i$", **o
    ),
    "spectrum": lambda **o: viz.plot_spectrum(
        {"_a": POINTS, "$b$ {": rng.normal(size=(9, 20))}, **o
    ),
    "codes": lambda **o: viz.plot_code_usage(rng.integers(0, 8, (30, 5)), 8, **o),
    "schedule": lambda **o: viz.plot_schedule(
        {"$exp$": np.linspace(1, 0, 20), "_lin": np.linspace(0.9, 0.1, 20)}, **o
    ),
    "denoising": lambda **o: viz.plot_denoising(
        rng.normal(size=(3, 12, 2)), POINTS, NAMES[:12], target=3, **o
    ),
    "interpolation": lambda **o: viz.plot_interpolation(
        np.linspace(0, 1, 12),
        np.stack([np.linspace(1, 0, 12), np.linspace(0, 1, 12)], 1),
        RUDE,
        (RUDE[0], RUDE[1]),
        **o,
    ),
    "comparison": lambda **o: viz.plot_comparison(TABLE, **o),
    "ablation": lambda **o: viz.plot_ablation(EFFECTS, **o),
    "sweep": lambda **o: viz.plot_sweep(
        pd.DataFrame(
            {
                "$x$": [1, 2, 4],
                "mean": [0.1, 0.2, 0.15],
                "low": [0, 0.1, 0.1],
                "high": [0.2, 0.3, 0.2],
                "group": ["_a", "$b$", "_a"],
            }
        ),
        "$x$",
        "$m$",
        **o,
    ),
    "spaces": lambda **o: viz.plot_spaces(
        {"$a$": POINTS, "_b\nsecond line": POINTS[::-1]},
        values=np.arange(N) + 1,
        value_label="$n$",
        **o,
    ),
    "token sets": lambda **o: viz.plot_token_sets(
        CONTINUOUS, ROWS, "pca", labels=NAMES, **o
    ),
    "tokenizers": lambda **o: viz.plot_tokenizers(
        {"$a$": CONTINUOUS, "_b": DISCRETE}, ROWS, "pca", **o
    ),
    "discrete": lambda **o: viz.plot_discrete(DISCRETE, CONTINUOUS, ROWS, "pca", **o),
    "survival": lambda **o: viz.plot_survival(
        {"$a$": CONTINUOUS, "_b": DISCRETE}, ROWS, (0, 1), **o
    ),
    "walk": lambda **o: viz.plot_walk(CONTINUOUS, ROWS, NAMES, 0, 5, **o),
    "recommendations": lambda **o: viz.plot_recommendations(
        RUDE, RUDE, np.arange(len(RUDE))[::-1], 2, user=o.get("title", "")
    ),
}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


RUDE_TITLE = "a $ and \\frac{ and _ and \n日本語 " + "long " * 60


@pytest.mark.parametrize("name", FIGURES)
def test_rude_titles_and_dark_themes_change_nothing(name):
    import matplotlib.pyplot as plt

    global rng
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rng = np.random.default_rng(1)
        figure = FIGURES[name](title=RUDE_TITLE)
        data, metadata = figure._repr_mimebundle_()
        bright = base64.b64decode(data["image/png"])
        # However often it is drawn
        assert isinstance(figure, Figure) and figure.png() == bright
        assert dict(matplotlib.rcParams) == before and plt.get_fignums() == []
        with (
            plt.style.context("dark_background"),
            matplotlib.rc_context(
                {"font.size": 20, "axes.grid": True, "lines.linewidth": 9}
            ),
        ):
            rng = np.random.default_rng(1)
            dark = FIGURES[name](title=RUDE_TITLE).png()
    assert dark == bright
    image = Image.open(io.BytesIO(bright))
    shown = pixels(bright)
    # Fits a notebook, opaque paper
    assert (
        image.width <= 760
        and "transparency" not in image.info
        and (shown[0, 0] == 255).all()
    )
    assert shown.std() > 5  # Something is drawn
    assert (
        len(figure.alt) > 30
        and "nan" not in figure.alt.split()
        and metadata["image/png"]["alt"] == figure.alt
    )


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_runs_out_of_the_figure(name):
    figure = FIGURES[name](title="A title of ordinary length")
    renderer = matplotlib.backends.backend_agg.FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    whole = figure.bbox
    texts = [
        t
        for t in figure.findobj(matplotlib.text.Text)
        if t.get_visible() and t.get_text().strip()
    ]
    for ax in figure.axes:
        if not ax.axison:
            texts = [
                t
                for t in texts
                if t
                not in (
                    *ax.get_xticklabels(),
                    *ax.get_yticklabels(),
                    ax.xaxis.label,
                    ax.yaxis.label,
                )
            ]
        # Ticks beyond the limits are not drawn
        for axis, limits in (ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim()):
            for label, place in zip(
                axis.get_ticklabels(which="both"), axis.get_ticklocs()
            ):
                if not min(limits) - 1e-9 <= place <= max(limits) + 1e-9:
                    texts = [t for t in texts if t is not label]
    assert texts
    for t in texts:
        box = t.get_window_extent(renderer)
        assert (
            box.x0 >= -3
            and box.x1 <= whole.x1 + 3
            and box.y0 >= -3
            and box.y1 <= whole.y1 + 3
        ), (t.get_text(), box, whole)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80), width=st.integers(2, 80))
def test_plain_is_safe_for_any_text(text, width):
    shown = viz.plain(text, width)
    assert (
        not matplotlib.cbook.is_math_text(shown)
        and not shown.startswith("_")
        and "\n" not in shown
    )
    assert len(shown.replace(r"\$", "$")) <= width + 1


def test_plain_leaves_ordinary_titles_alone():
    for title in (
        "Toy Story (1995)",
        "Amélie",
        "Léon: The Professional",
        "8½",
        "100% & more",
    ):
        assert viz.plain(title) == title


class Images(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


@pytest.mark.parametrize(
    "alt", ['"><script>alert(1)</script>', "a 'b' & <c>", "日本語"]
)
def test_html_is_one_image_and_alt_is_escaped(alt):
    figure = FIGURES["schedule"]()
    page = Images()
    page.feed(viz.figure_to_html(figure, alt))
    [(tag, attributes)] = page.tags
    assert tag == "img" and attributes["alt"] == alt
    assert (
        base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        == figure.png()
    )
    page = Images()
    page.feed(viz.figure_to_html(figure))
    assert page.tags[0][1]["alt"] == figure.alt


def test_a_figure_without_alt_is_refused():
    figure = Figure()
    figure.subplots()
    for alt in (None, "", "  "):
        with pytest.raises(ConfigError, match="alternative text"):
            viz.figure_to_html(figure, alt)
    assert viz.figure_to_html(figure, "an empty plot").startswith("<img ")


def test_projection_is_repeatable_and_quiet():
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        state = np.random.get_state()[1].copy()
        first, second = viz.project(vectors, seed=3), viz.project(vectors, seed=3)
        np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.testing.assert_array_equal(first, second)
    assert (
        first.shape == (40, 2)
        and first.dtype == np.float32
        and np.isfinite(first).all()
    )
    assert not np.array_equal(first, viz.project(vectors, seed=4))


def test_umap_keeps_groups_together():
    centre = np.repeat(np.eye(4) * 10, 25, axis=0)
    plane = viz.project(centre + np.random.default_rng(0).normal(size=(100, 4)))
    distance = np.square(plane[:, None] - plane).sum(-1) + 1e9 * np.eye(100)
    assert (distance.argmin(1) // 25 == np.arange(100) // 25).mean() > 0.95


def test_pca_equals_its_definition_and_has_one_sign():
    vectors = np.random.default_rng(0).normal(size=(50, 5)) * [5, 3, 1, 1, 1]
    plane = viz.project(vectors, "pca")
    values = np.sort(np.linalg.eigvalsh(np.cov(vectors.T)))[::-1]
    np.testing.assert_allclose(plane.var(0, ddof=1), values[:2], rtol=1e-5)
    np.testing.assert_allclose(
        plane[::-1], viz.project(vectors[::-1], "pca"), atol=1e-5
    )
    assert viz.project(vectors[:, :1], "pca").shape == (50, 2)


@pytest.mark.parametrize("shape", [(3, 2), (5, 1), (4, 30), (10, 3)])
def test_small_catalogues_can_be_projected(shape):
    assert np.isfinite(viz.project(np.random.default_rng(0).normal(size=shape))).all()


def test_umap_is_imported_only_when_asked_for():
    code = (
        "import sys, numpy as np; from contrec import viz; viz.project(np.eye(5),"
        " 'pca'); assert 'umap' not in sys.modules and 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_main_category_takes_the_rarest_of_the_common():
    rows = (
        [("Drama",)] * 5
        + [("Drama", "Romance")] * 3
        + [("Drama", "Noir"), ("Noir",), ()]
    )
    assert viz.main_category(rows, 2).tolist() == ["Drama"] * 5 + ["Romance"] * 3 + [
        "Drama",
        "other",
        "none",
    ]


def test_more_than_eight_groups_end_in_other():
    labels = [f"c{i}" for i in range(12) for _ in range(12 - i)]
    figure = viz.plot_token_space(
        np.random.default_rng(0).normal(size=(len(labels), 2)), labels
    )
    assert "other 10" in figure.alt and len(figure.legends[0].texts) == 9
    colours = [tuple(c.get_facecolor()[0][:3]) for c in figure.axes[0].collections[:9]]
    assert len(set(colours)) == 9


def test_several_systems_can_be_ours():
    """The marked rows have another marker, and the line stands at the best of the rest."""
    (line,) = [
        l
        for l in (
            viz.plot_comparison(TABLE, ours=["contrec", "$EASE$"]).figure.axes[0].lines
        )
        if l.get_linestyle() == "--"
    ]
    assert line.get_xdata()[0] == 0.08


def test_spectrum_names_the_effective_rank():
    x = np.random.default_rng(0).normal(size=(5000, 10))
    x[:, 5:] = x[:, :5]
    assert "effective rank 5.0 of 10" in viz.plot_spectrum({"x": x}).alt
    assert (
        "effective rank 1.0 of 3"
        in viz.plot_spectrum(
            {"collapsed": np.ones((9, 3)) + [[0, 0, 1e-3]] * np.arange(9)[:, None]}
        ).alt
    )


BAD = {
    "nan points": (
        lambda: viz.plot_token_space(np.array([[0, 1], [np.nan, 2]])),
        DataError,
        "row 1",
    ),
    "shape": (lambda: viz.plot_token_space(np.ones((3, 3))), ConfigError, r"\(n, 2\)"),
    "labels": (
        lambda: viz.plot_token_space(POINTS, ["a"]),
        ConfigError,
        "60 points but 1 labels",
    ),
    "both": (
        lambda: viz.plot_token_space(POINTS, NAMES, POINTS[:, 0]),
        ConfigError,
        "not by both",
    ),
    "method": (lambda: viz.project(POINTS, "tsne"), ConfigError, "tsne"),
    "few": (lambda: viz.project(POINTS[:2]), ConfigError, "at least three"),
    "nan vectors": (lambda: viz.project(POINTS * np.nan), DataError, "row 0"),
    "log": (lambda: viz.plot_learning_curves([]), ConfigError, "no losses"),
    "no loss": (
        lambda: viz.plot_learning_curves([{"epoch": 1, "seconds": 2.0}]),
        ConfigError,
        "no losses",
    ),
    "codes": (
        lambda: viz.plot_code_usage(np.array([[9]]), 8),
        ConfigError,
        "do not fit",
    ),
    "no codes": (
        lambda: viz.plot_code_usage(np.zeros((0, 2)), 8),
        ConfigError,
        "shape",
    ),
    "abar": (lambda: viz.plot_schedule({"x": [2.0]}), ConfigError, "between 0 and 1"),
    "path": (
        lambda: viz.plot_denoising(np.ones((1, 2)), POINTS),
        ConfigError,
        "at least two steps",
    ),
    "notes": (
        lambda: viz.plot_denoising(np.ones((3, 2)), POINTS, ["a"]),
        ConfigError,
        "3 steps but 1 notes",
    ),
    "way": (
        lambda: viz.plot_interpolation([0, 1], np.ones((2, 2)), ["a"], ("a", "b")),
        ConfigError,
        "one of each",
    ),
    "table": (
        lambda: viz.plot_comparison(TABLE.drop(columns="high")),
        ConfigError,
        "'high'",
    ),
    "empty": (lambda: viz.plot_comparison(TABLE[:0]), ConfigError, "no rows"),
    "effects": (
        lambda: viz.plot_ablation(EFFECTS.drop(columns="noise")),
        ConfigError,
        "'noise'",
    ),
    "sweep": (lambda: viz.plot_sweep(TABLE), ConfigError, "'value'"),
    "scores": (
        lambda: viz.plot_recommendations([], ["a"], []),
        ConfigError,
        "1 titles but 0",
    ),
    "hit": (
        lambda: viz.plot_recommendations([], ["a"], [1], 2),
        ConfigError,
        "count from 1",
    ),
    "rows": (
        lambda: viz.plot_spaces({"a": POINTS, "b": POINTS[:5]}),
        ConfigError,
        "the same rows, not 60, 5",
    ),
    "no spaces": (lambda: viz.plot_spaces({}), ConfigError, "not none"),
    "no codes here": (
        lambda: viz.plot_discrete(CONTINUOUS, CONTINUOUS, ROWS),
        ConfigError,
        "SigmaVAE has no codes",
    ),
    "walk": (
        lambda: viz.plot_walk(CONTINUOUS, ROWS, ["a"], 0, 1),
        ConfigError,
        "60 rows but 1 titles",
    ),
    "width": (
        lambda: viz.plot_token_sets(CONTINUOUS, ROWS[:, :3]),
        DataError,
        "rows of 6 numbers",
    ),
    "users": (lambda: viz.plot_histories([]), ConfigError, "no history"),
    "counts": (lambda: viz.plot_popularity(np.zeros(3)), ConfigError, "no interaction"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case):
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        call()


def test_extremes_are_drawn():
    viz.plot_histories([5]).png()
    viz.plot_popularity([3]).png()
    viz.plot_recommendations([], ["only"], [0.0]).png()
    viz.plot_token_space(POINTS[:1], ["a"]).png()
    viz.plot_learning_curves([{"epoch": 1, "total": 2.0}]).png()
    viz.plot_comparison(TABLE[:1], ours="nobody").png()
    viz.plot_ablation(
        EFFECTS.assign(
            **{"difference low": np.nan, "difference high": np.nan, "noise": np.nan}
        )
    ).png()


def test_discrete_picture_counts_the_items_that_share_a_point():
    # Every row twice: all share their point, whatever the tokenizer
    e = np.repeat(ROWS[:10], 2, axis=0)
    alt = viz.plot_discrete(DISCRETE, CONTINUOUS, e, "pca").alt
    assert "discrete: 100% share" in alt and "continuous: 100% share" in alt
    assert (
        "continuous: 0% share"
        in viz.plot_discrete(DISCRETE, CONTINUOUS, ROWS, "pca").alt
    )


def test_walk_starts_and_ends_at_its_ends():
    identity = SigmaVAE(4, 4, 1)
    identity.tokenize, identity.decoder = lambda x: x[:, None], torch.nn.Identity()
    alt = viz.plot_walk(identity, np.eye(4, dtype=np.float32), list("abcd"), 1, 3).alt
    assert "from b to d the nearest items are, in turn: b, d." in alt
