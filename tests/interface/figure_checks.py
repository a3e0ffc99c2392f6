"What every figure must withstand: any title, any theme, and text that stays inside."

import base64
import io
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from contrec.foundations.random import seeded
from contrec.tokenizer.quantizers import ResidualQuantizer
from contrec.tokenizer.sigma_vae import SigmaVAE

HARD_TITLES = [
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
LONG_TITLE = "a $ and \\frac{ and _ and \n日本語 " + "long " * 60
N = 60
POINTS = np.random.default_rng(0).normal(size=(N, 2))
NAMES = [HARD_TITLES[i % len(HARD_TITLES)] for i in range(N)]
VECTORS = np.random.default_rng(2).normal(size=(N, 6)).astype(np.float32)
with seeded(0):
    CONTINUOUS, DISCRETE = SigmaVAE(6, 4, 3, 8), ResidualQuantizer(6, 4, 2, 8)


def check_any_title_and_theme(draw):
    "The figure is the same, and safe, for any title and under any theme."
    before = dict(matplotlib.rcParams)
    dark_settings = {"font.size": 20, "axes.grid": True, "lines.linewidth": 9}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(title=LONG_TITLE)
        data, metadata = figure._repr_mimebundle_()
        bright = base64.b64decode(data["image/png"])
        assert isinstance(figure, Figure)
        assert figure.png() == bright  # However often it is drawn
        assert dict(matplotlib.rcParams) == before
        assert plt.get_fignums() == []
        with (
            plt.style.context("dark_background"),
            matplotlib.rc_context(dark_settings),
        ):
            assert draw(title=LONG_TITLE).png() == bright
    check_image(bright)
    assert len(figure.alt) > 30 and "nan" not in figure.alt.split()
    assert metadata["image/png"]["alt"] == figure.alt


def check_image(png):
    "The picture fits a notebook, stands on opaque white, and something is drawn."
    image = Image.open(io.BytesIO(png))
    pixels = np.asarray(image.convert("RGB"))
    assert image.width <= 760 and "transparency" not in image.info
    assert (pixels[0, 0] == 255).all() and pixels.std() > 5


def check_text_inside(draw):
    "No visible text runs out of the figure."
    figure = draw(title="A title of ordinary length")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    whole, hidden = figure.bbox, undrawn_texts(figure)
    texts = [
        text
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden
    ]
    assert texts
    for text in texts:
        box = text.get_window_extent(renderer)
        inside = (
            box.x0 >= -3
            and box.x1 <= whole.x1 + 3
            and box.y0 >= -3
            and box.y1 <= whole.y1 + 3
        )
        assert inside, (text.get_text(), box, whole)


def undrawn_texts(figure):
    "Ids of the texts of hidden axes, and of ticks beyond the limits of their axis."
    hidden = []
    for ax in figure.axes:
        if not ax.axison:
            hidden += [*ax.get_xticklabels(), *ax.get_yticklabels()]
            hidden += [ax.xaxis.label, ax.yaxis.label]
        for axis, limits in (ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim()):
            labels = axis.get_ticklabels(which="both")
            low, high = min(limits) - 1e-9, max(limits) + 1e-9
            hidden += [
                label
                for label, place in zip(labels, axis.get_ticklocs())
                if not low <= place <= high
            ]
    return {id(text) for text in hidden}
