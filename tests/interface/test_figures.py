"The picture that all figures share: safe titles, HTML, alternative text."

import base64
import html.parser

import matplotlib
import numpy as np
import pytest
from figure_checks import POINTS
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from contrec.foundations.errors import ConfigError
from contrec.interface.figures import figure_to_html, plain
from contrec.interface.space_figures import plot_token_space


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80), width=st.integers(2, 80))
def test_plain_is_safe_for_any_text(text, width):
    shown = plain(text, width)
    assert not matplotlib.cbook.is_math_text(shown)
    assert not shown.startswith("_") and "\n" not in shown
    assert len(shown.replace(r"\$", "$")) <= width + 1


@pytest.mark.parametrize(
    "title",
    [
        "Toy Story (1995)",
        "Amélie",
        "Léon: The Professional",
        "8½",
        "100% & more",
    ],
)
def test_plain_leaves_ordinary_titles_alone(title):
    assert plain(title) == title


class TagReader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def read_tags(page):
    reader = TagReader()
    reader.feed(page)
    return reader.tags


@pytest.mark.parametrize(
    "alt", ['"><script>alert(1)</script>', "a 'b' & <c>", "日本語"]
)
def test_html_is_one_image_and_alt_is_escaped(alt):
    figure = plot_token_space(POINTS)
    [(tag, attributes)] = read_tags(figure_to_html(figure, alt))
    assert tag == "img" and attributes["alt"] == alt
    png = attributes["src"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(png) == figure.png()
    [(_, attributes)] = read_tags(figure_to_html(figure))
    assert attributes["alt"] == figure.alt


def test_a_figure_without_alt_is_refused():
    figure = Figure()
    figure.subplots()
    for alt in (None, "", "  "):
        with pytest.raises(ConfigError, match="alternative text"):
            figure_to_html(figure, alt)
    assert figure_to_html(figure, "an empty plot").startswith("<img ")


def test_the_png_of_a_figure_is_the_same_each_time():
    first = plot_token_space(POINTS, values=np.arange(len(POINTS))).png()
    assert plot_token_space(POINTS, values=np.arange(len(POINTS))).png() == first
