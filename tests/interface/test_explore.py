"""Explorers: views are functions, and the controls fit them.

Hostile titles stay text, an error leaves the last picture, nothing is drawn twice.
"""

import base64
import copy
import dataclasses
import html.parser
import inspect
import io
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contrec import ContRec, ContrecError, compare, evaluate, preset
from contrec.foundations import trainer
from contrec.foundations.errors import ConfigError, DataError, escape_controls
from contrec.interface import token_explorer
from contrec.interface.denoising_explorer import Denoising, explore_denoising
from contrec.interface.explorer import (
    Explorer,
    View,
    find_titles,
    fold,
    render_picture,
    render_text,
    table_to_html,
    unique_names,
)
from contrec.interface.figures import Picture
from contrec.interface.playground import (
    Playground,
    TitleList,
    explore_recommendations,
)
from contrec.interface.record_browsers import (
    AblationBrowser,
    RecordBrowser,
    explore_records,
)
from contrec.interface.result_figures import plot_recommendations
from contrec.interface.token_explorer import TokenSpace, explore_space, percent
from contrec.ranking.linear import EASE, ItemKNN, Popularity
from contrec.studies.runner import ablate, read_ablation
from contrec.studies.statistics import effects
from contrec.studies.study_tables import read_records, write_record

HOSTILE = '<script>alert(1)</script> & "$x_1$" \u202e'


@pytest.fixture(scope="module")
def split(small_split):
    return small_split


def fitted(split, config=None, **diffusion):
    small = dict(
        training={"epochs": 4, "lr": 1e-2, "tokenizer_epochs": 10},
        embedding={"width": 8},
        tokenizer={"width": 8},
        diffusion={"hidden": 16, "blocks": 1, **diffusion},
        backbone={"hidden": 8},
    )
    config = preset("contrec-basic", **small).replace(**config or {})
    return ContRec(config).fit(split)


@pytest.fixture(scope="module")
def model(split):
    return fitted(split)


@pytest.fixture(scope="module")
def records(split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for system in Popularity().fit(split), ItemKNN(5).fit(split), EASE(10).fit(split):
        for part in "test", "valid":
            write_record(folder, evaluate(system, split, part), 0, {})
    return read_records(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    def run(config, seed):
        return {"NDCG@10": 0.1 + 0.01 * config["a"] - 0.02 * config["b"] + 0.001 * seed}

    folder = tmp_path_factory.mktemp("runs")
    ablate(
        run,
        {"a": 1, "b": False},
        {"a": [2, 4], "b": [True]},
        [0, 1],
        folder,
        context={"data": "x"},
    )
    ablate(run, {"a": 1, "b": False}, {"a": [3]}, [0, 1], folder, context={"data": "y"})
    return read_ablation(folder)


@pytest.fixture(scope="module")
def explorables(model, records, runs):
    return {
        "space": TokenSpace(model),
        "denoising": Denoising(model),
        "playground": Playground(model),
        "records": RecordBrowser(records),
        "ablation": AblationBrowser(runs),
    }


NAMES = ["space", "denoising", "playground", "records", "ablation"]


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


class Published:
    """What a notebook would get.

    Outputs by display id, and how often each was replaced.
    """

    def __init__(self):
        self.outputs, self.updates = {}, 0

    def __call__(self, data, metadata=None, *, transient=None, update=False, **_):
        self.updates += update
        self.outputs[(transient or {}).get("display_id", len(self.outputs))] = data


@pytest.fixture
def notebook(monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    shell, published = InteractiveShell.instance(), Published()
    monkeypatch.setattr(shell.display_pub, "publish", published)
    yield published
    InteractiveShell.clear_instance()


# Every explorer


@pytest.mark.parametrize("name", NAMES)
def test_controls_are_keywords_of_the_view(explorables, name):
    thing = explorables[name]
    parameters = inspect.signature(thing.view).parameters
    assert set(thing.controls()) <= set(parameters)
    view = thing.view(**Explorer(thing.view, thing.controls()).state)
    assert (
        isinstance(view, View)
        and len(view.table)
        and view.note
        and len(view.figure.alt) > 30
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_a_function_of_its_state(explorables, name):
    thing = explorables[name]
    state = Explorer(thing.view, thing.controls()).state
    random = np.random.get_state()[1].tolist()
    one, two = thing.view(**state), thing.view(**state)
    pd.testing.assert_frame_equal(one.table, two.table)
    assert one.note == two.note and render_picture(one) == render_picture(two)
    assert np.random.get_state()[1].tolist() == random


def other_values(key, control):
    """Values that a control can be moved to, by the kind of the control."""
    value = control.value
    if key == "loop":
        return [[0.0, 0.0, 100.0, 0.0, 0.0, 100.0], [50.0, 50.0]]
    if isinstance(value, list):
        return [value[1:]]
    if isinstance(value, bool):
        return [True]
    if hasattr(control, "min"):
        whole = isinstance(value, tuple)  # A range
        return [(10, 90)] if whole else [control.min, min(control.max, 2)]
    if isinstance(value, tuple):
        return [control.options[:1]]
    if hasattr(control, "index"):
        values = [o[1] if isinstance(o, tuple) else o for o in control.options]
        return [v for v in values if v != "umap"][-2:]
    return ["u1" if key == "user" else "Item 1"]


@pytest.mark.parametrize("name", NAMES)
def test_every_control_can_be_moved(explorables, name):
    thing = explorables[name]
    explorer = Explorer(thing.view, thing.controls())
    # Without noise several samples make no sense
    if "noise_scale" in explorer.controls:
        explorer.controls["noise_scale"].value = 1.0
    for key, control in explorer.controls.items():
        if key == "noise_scale":
            continue
        before = control.value
        for value in other_values(key, control):
            control.value = value
            assert explorer.message.value == "", (
                f"{key} = {value!r}: {explorer.message.value}"
            )
        control.value = before


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_notebook_keeps_picture_and_table(explorables, name, notebook):
    thing = explorables[name]
    explorer = Explorer(thing.view, thing.controls())
    explorer._ipython_display_()
    box, picture, text = notebook.outputs.values()
    assert (
        "application/vnd.jupyter.widget-view+json" in box
        and "VBox(" not in box["text/plain"]
    )
    image = Image.open(io.BytesIO(base64.b64decode(picture["image/png"])))
    assert image.width <= 760 and np.asarray(image.convert("RGB")).std() > 5
    assert "<table" in text["text/html"] and "<script" not in text["text/html"]


# The binding


def counted(view):
    calls = []

    def wrapped(**state):
        calls.append(state)
        return view(**state)

    return wrapped, calls


def test_moving_replaces_the_outputs_and_nothing_is_drawn_twice(
    explorables, notebook, monkeypatch
):
    drawn = []
    monkeypatch.setattr(
        Picture, "png", lambda figure, real=Picture.png: drawn.append(1) or real(figure)
    )
    view, calls = counted(explorables["playground"].view)
    explorer = Explorer(view, explorables["playground"].controls())
    explorer._ipython_display_()
    kept = list(notebook.outputs)
    first = dict(notebook.outputs)
    explorer.controls["weight"].value = 1.0
    assert (
        list(notebook.outputs) == kept
        and notebook.outputs != first
        and notebook.updates == 2
    )
    assert len(calls) == len(drawn) == 2
    explorer.controls["weight"].value = 0.0
    assert notebook.outputs == first and notebook.updates == 4
    assert len(calls) == len(drawn) == 2  # Remembered


def test_an_error_is_told_and_the_last_picture_stays(explorables, notebook):
    explorer = Explorer(
        explorables["playground"].view, explorables["playground"].controls()
    )
    explorer._ipython_display_()
    before = dict(notebook.outputs)
    explorer.controls["user"].value = "<b>nobody"
    assert (
        "&lt;b&gt;nobody" in explorer.message.value
        and "<b>" not in explorer.message.value
    )
    assert notebook.outputs == before
    explorer.controls["user"].value = "u2"
    assert explorer.message.value == "" and notebook.outputs != before


def test_garbage_waits_until_the_answer_is_shown(explorables, monkeypatch):
    import gc

    states = []
    monkeypatch.setattr(
        Picture,
        "png",
        lambda figure, real=Picture.png: states.append(gc.isenabled()) or real(figure),
    )
    explorer = Explorer(explorables["records"].view, explorables["records"].controls())
    explorer.controls["metric"].value = "HR@5"
    explorer.controls["reference"].value = "EASE"
    assert states == [True, False, False] and gc.isenabled()
    with monkeypatch.context() as patch:
        patch.setattr(explorer, "text", lambda **state: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            explorer.controls["metric"].value = "HR@10"
    assert gc.isenabled()


def test_a_bug_is_not_hidden():
    def view(x):
        if x:
            raise KeyError("bug")
        return View(
            lambda: plot_recommendations([], ["a"], [1.0]),
            pd.DataFrame({"a": [1]}),
            "note",
        )

    import ipywidgets

    explorer = Explorer(view, {"x": ipywidgets.IntSlider(0, 0, 1)})
    with pytest.raises(KeyError):
        explorer.controls["x"].value = 1


def test_without_a_notebook_moving_prints_nothing(explorables, capsys):
    explorer = Explorer(explorables["records"].view, explorables["records"].controls())
    explorer.controls["metric"].value = "HR@5"
    assert capsys.readouterr() == ("", "")


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_stays_text(title, note):
    parsed = Tags(
        table_to_html(pd.DataFrame({"title": [title, HOSTILE]}), note + HOSTILE)
    )
    assert parsed.tags <= {"p", "div", "table", "thead", "tbody", "tr", "th", "td"}
    assert (
        escape_controls(HOSTILE) in parsed.text
        and escape_controls(parsed.text, keep="\n") == parsed.text
    )


def test_no_formula_is_read_into_titles():
    out = table_to_html(pd.DataFrame({"title": ["$a$ and $b$"]}), "$c$")
    assert out.count("mathjax_ignore") == 2 and "tex2jax_ignore" in out


# Titles


def test_names_are_unique_even_where_titles_imitate_them():
    items = pd.DataFrame({"item": ["1", "2", "3"], "title": ["A", "A", "A [1]"]})
    names = unique_names(items)
    assert len(set(names)) == 3 and all(n.startswith("A") for n in names)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=12), st.randoms())
@settings(max_examples=60, deadline=None)
def test_every_name_finds_itself_first(titles, random):
    names = unique_names(
        pd.DataFrame({"item": [str(i) for i in range(len(titles))], "title": titles})
    )
    folded, counts = (
        [fold(n) for n in names],
        np.array([random.randrange(5) for _ in names]),
    )
    for i, name in enumerate(names):
        found = find_titles(folded, name, counts)
        if not fold(name).split():
            assert len(found) == 0
        elif fold(name).strip() == folded[i]:
            assert folded[found[0]] == folded[i] and i in found


def test_search_ignores_case_accents_and_order():
    folded = [
        fold(n) for n in ("Amélie (2001)", "The Fabulous Destiny of Amelie", "Alien")
    ]
    assert find_titles(folded, "AMELIE", np.array([1, 9, 9])).tolist() == [0, 1]
    assert find_titles(folded, "amelie fabulous", np.array([1, 9, 9])).tolist() == [1]
    assert (
        find_titles(folded, "   ", np.zeros(3)).tolist()
        == find_titles(folded, "zzz", np.zeros(3)).tolist()
        == []
    )


# Token space


def test_neighbours_are_those_of_a_slow_search(explorables):
    space = explorables["space"]
    chosen = space.names[7]
    table = space.view(search=chosen, neighbours=5).table
    x = space.latents.astype(float)
    slow = sorted(
        (i for i in range(len(x)) if i != 7),
        key=lambda i: -(x[i] @ x[7]) / np.linalg.norm(x[i]) / np.linalg.norm(x[7]),
    )
    assert table["title"].tolist() == [chosen, *(space.names[i] for i in slow[:5])]
    assert table["cosine"].is_monotonic_decreasing and table["cosine"].iloc[0] == 1
    assert len(space.view(search=chosen, neighbours=10**6).table) == len(space.names)


def test_the_window_lists_what_is_inside(explorables):
    space = explorables["space"]
    assert f"{len(space.names)} of {len(space.names)} items" in space.view().note
    points = space.points("pca")
    middle = points[:, 0].min() + np.ptp(points[:, 0]) / 2
    halves = [set(space.view(across=a).table["title"]) for a in ((0, 50), (50, 100))]
    assert halves[0] == {
        space.names[i] for i in np.flatnonzero(points[:, 0] <= middle + 1e-6)
    }
    assert halves[0] | halves[1] == set(space.names)
    assert (
        len(space.view(across=(3, 3), up=(99, 99)).table) == 0
        and "dashed" in space.view(across=(3, 3)).figure.alt
    )
    space.view(across=(3, 3), up=(99, 99), zoom=True).figure.png()


def test_projection_is_done_once(model, monkeypatch):
    done = []
    monkeypatch.setattr(
        token_explorer,
        "project",
        lambda x, method: done.append(method) or np.asarray(x)[:, :2],
    )
    space = TokenSpace(model)
    for method in "pca", "umap", "pca", "umap":
        for colour in "category", "popularity", "user":
            space.view(colour=colour, user="u1", projection=method)
    assert done == ["pca", "umap"]


def test_colours(explorables, model, split):
    space = explorables["space"]
    assert "coloured by users + 1" in space.view(colour="popularity").figure.alt
    assert "score for user u3" in space.view(colour="user", user="u3").figure.alt
    np.testing.assert_array_equal(
        space.user_scores("u3"),
        model.score(split.histories("test").take([split.user_number("u3")]))[0],
    )


def crossings(x, y, corners):
    "Inside, by how many edges a ray to the right crosses."
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


@settings(max_examples=25, deadline=None)
@given(
    corners=st.lists(
        st.tuples(st.floats(-5, 105), st.floats(-5, 105)), min_size=3, max_size=9
    ),
    across=st.tuples(st.integers(0, 50), st.integers(51, 100)),
)
def test_a_loop_lists_what_it_holds(explorables, corners, across):
    space = explorables["space"]
    corners = [(round(x, 1) + 0.05, round(y, 1) + 0.05) for x, y in corners]
    view = space.view(loop=tuple(v for c in corners for v in c), across=across)
    on = percent(space.points("pca"))
    expected = {
        space.names[i]
        for i in range(len(on))
        if across[0] <= on[i, 0] <= across[1] and crossings(*on[i], corners)
    }
    assert set(view.table["title"]) == expected and view.note.startswith(
        f"{len(expected)} of {len(on)} "
    )


def test_a_loop_and_what_it_holds_are_in_the_picture(explorables):
    view = explorables["space"].view(loop=(10.0, 10.0, 90.0, 10.0, 50.0, 90.0))
    figure = view.figure
    assert (
        f"loop holds {len(view.table)} of them" in figure.alt
        and len(figure.axes[0].patches) == 1
    )
    zoomed = (
        explorables["space"]
        .view(loop=(10.0, 10.0, 90.0, 10.0, 50.0, 90.0), zoom=True)
        .figure
    )
    assert np.ptp(zoomed.axes[0].get_xlim()) < np.ptp(figure.axes[0].get_xlim())


def test_numbers_stand_beside_their_rings_in_a_zoomed_picture(explorables):
    space = explorables["space"]
    figure = space.view(search=space.names[3], neighbours=2, zoom=True).figure
    figure.canvas.draw()
    ax, told = (
        figure.axes[0],
        [text for text in figure.axes[0].texts if text.get_text()],
    )
    assert sorted(text.get_text() for text in told) == ["0", "1", "2"]
    for text in told:
        right, up = text.get_window_extent().min - ax.transData.transform(text.xy)
        # Pixels: two of them may have to give way to a third
        assert 0 < right < 20 and 0 < up < 45


def test_a_click_takes_the_nearest_item(explorables):
    space = explorables["space"]
    on = percent(space.points("pca"))
    for i in range(0, len(on), 7):
        view = space.view(loop=tuple(on[i]), search="Item 1")
        first = space.view(search=space.names[i])
        assert (
            view.table.equals(first.table)
            and view.table["title"].iloc[0] == space.names[i]
        )


def test_pointing_ends_a_search_and_a_search_ends_pointing(explorables):
    space = explorables["space"]
    explorer = Explorer(space.view, space.controls())
    lasso, search = explorer.controls["loop"], explorer.controls["search"]
    search.value = "Item 1"
    lasso.value = [50.0, 50.0]
    assert search.value == "" and explorer.shown[0] == render_text(
        space.view(user=explorer.state["user"], loop=(50.0, 50.0))
    )
    search.value = "Item 2"
    assert lasso.value == [] and "Item 2" in explorer.shown[0]["text/html"]
    lasso.value = [0.0, 0.0, 100.0, 0.0, 0.0, 100.0]
    lasso.value = []
    assert explorer.shown[0]["text/plain"].startswith(
        f"{len(space.names)} of {len(space.names)} "
    )


def test_the_lasso_shows_the_map_of_the_picture(explorables):
    space = explorables["space"]
    lasso = space.controls()["loop"]
    assert len(lasso.kinds) == len(lasso.names) == len(space.names) and set(
        lasso.kinds
    ) <= set(range(len(lasso.palette)))
    np.testing.assert_allclose(
        np.reshape(lasso.points, (-1, 2)),
        percent(space.points("pca")),
        atol=0.01,
    )
    dots = {}
    for collection in space.view().figure.axes[0].collections[:3]:
        dots |= {
            tuple(p): hexadecimal(collection)
            for p in np.round(collection.get_offsets().data.astype(np.float32), 3)
        }
    for point, kind in zip(np.round(space.points("pca"), 3), lasso.kinds):
        assert dots[tuple(point)] == lasso.palette[kind]


def hexadecimal(collection):
    from matplotlib.colors import to_hex

    return to_hex(collection.get_facecolor()[0])


def test_every_control_says_what_it_does(explorables):
    for name in NAMES:
        explorer = Explorer(explorables[name].view, explorables[name].controls())
        for key, control in explorer.controls.items():
            if hasattr(control, "description"):
                assert control.tooltip and control.tooltip != "null", (name, key)
    space = Explorer(explorables["space"].view, explorables["space"].controls())
    assert space.controls["neighbours"].tooltip == "How many are ringed and listed"


# Denoising


def test_the_way_ends_where_sample_ends(explorables, model):
    denoising = explorables["denoising"]
    path = denoising.walk(4, 6, 1.5, 3, 0.7, 11)
    end = model.network.diffusion.sample(
        denoising.condition(4),
        6,
        1.5,
        3,
        0.7,
        generator=torch.Generator().manual_seed(11),
    )
    assert path.shape == (3, 7, 8)
    np.testing.assert_array_equal(path[:, -1], end[0].numpy())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_condition_is_the_models_own(model, split, explorables, seed):
    "One step without noise ends at the model's first recommendation, for every user."
    top = model.rank(split.histories("test"), 1).ids[:, 0]
    for u in range(seed, split.n_users, 9):
        table = (
            explorables["denoising"]
            .view(split.user_ids[u], steps=1, temperature=0.0, samples=1, seed=seed)
            .table
        )
        assert table["nearest unseen title"].tolist() == [
            "(no direction yet)",
            explorables["denoising"].names[top[u]],
        ]


def test_trap_17_no_seen_item_is_ever_nearest(explorables, split):
    denoising = explorables["denoising"]
    for u in range(0, split.n_users, 7):
        seen = {denoising.names[i] for i in split.histories("test")[u]}
        assert not seen & set(
            denoising.view(split.user_ids[u], steps=6, seed=u).table[
                "nearest unseen title"
            ]
        )


def test_the_linear_map_puts_items_on_their_places(explorables):
    denoising = explorables["denoising"]
    np.testing.assert_allclose(
        (denoising.latents - denoising.centre) @ denoising.axes,
        denoising.points,
        atol=1e-4,
    )


def test_noise_falls_from_all_to_none(explorables, split):
    noise = (
        explorables["denoising"].view(split.user_ids[0], steps=10).table["noise (%)"]
    )
    assert noise.iloc[0] > 99 and noise.iloc[-1] == 0 and noise.is_monotonic_decreasing


def test_guidance_only_where_it_was_trained(split, explorables):
    blind = fitted(split, cfg_dropout=0.0)
    assert (
        "guidance" in explorables["denoising"].controls()
        and "guidance" in explorables["playground"].controls()
    )
    assert (
        "guidance" not in Denoising(blind).controls()
        and "guidance" not in Playground(blind).controls()
    )
    with pytest.raises(ConfigError, match="cfg_dropout = 0"):
        Denoising(blind).view(split.user_ids[0], guidance=1.0)


def test_the_nearest_three_are_told_at_every_step(explorables, split):
    denoising, u = explorables["denoising"], 6
    table = denoising.view(split.user_ids[u], steps=4, guidance=0.5, seed=2).table
    x = denoising.latents / np.linalg.norm(denoising.latents, axis=1, keepdims=True)
    for step, position in enumerate(denoising.walk(u, 4, 0.5, 4, 1.0, 2)[0]):
        order = [
            i
            for i in np.argsort(-(x @ position), kind="stable")
            if i not in split.histories("test")[u]
        ]
        assert [
            table["nearest unseen title"][step],
            *table["second and third"][step].split("; "),
        ] == [denoising.names[i] for i in order[:3]]


# Playground


def test_the_unedited_history_gives_the_models_own_list(explorables, model, split):
    playground = explorables["playground"]
    top = model.rank(split.histories("test"), 10).ids
    for u in range(0, split.n_users, 11):
        view = playground.view(split.user_ids[u])
        assert view.table["title"].tolist() == [playground.names[i] for i in top[u]]
        assert view.table["rank before"].tolist() == [str(n) for n in range(1, 11)]


def test_the_older_part_of_a_history_still_counts(model, split):
    short = Playground(model, shown=3)
    user = split.user_ids[0]
    assert len(short.history_of(user)) == 3
    assert short.view(user).table.equals(Playground(model).view(user).table)
    seen = {short.names[i] for i in split.histories("test")[0]}
    edited = short.view(user, short.history_of(user)[:-1], k=40).table["title"]
    assert short.history_of(user)[-1] in set(edited) and not (
        seen - {short.history_of(user)[-1]}
    ) & set(edited)


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt.template": "profile"},
        {"prompt.template": "explained", "decoding.noise_scale": 1.0},
        {
            "decoding.text_score": "sentence",
            "decoding.text_encoder": None,
            "training.epochs": 12,
            "training.lm_weight": 5.0,
            "training.batch_size": 4,
        },
    ],
    ids=str,
)
def test_a_models_own_words_give_its_own_list(split, settings):
    """Templates with the user's tokens or a fed-back item, and both kinds of text
    score.
    """
    model = fitted(
        split,
        config={"decoding.text_score": "likelihood", "decoding.text_weight": 0.7}
        | settings,
    )
    playground = Playground(model)
    c = model.config.decoding
    speechless, moved = model.with_decoding(text_weight=0.0), 0
    for u in range(0, split.n_users, 17):
        view = playground.view(
            split.user_ids[u],
            samples=c.samples,
            noise_scale=c.noise_scale,
            guidance=c.guidance,
            steps=c.steps,
            seed=model.config.seed,
            weight=c.text_weight,
            k=30,
        )
        # One at a time: a batch shares its noise
        top, plain = (
            m.rank(split.histories("test").take([u]), 30).ids[0]
            for m in (model, speechless)
        )
        assert view.table["title"].tolist() == [
            playground.names[i] for i in top
        ] and view.table["rank before"].tolist() == [str(n) for n in range(1, 31)]
        moved += (top != plain).any()
    assert moved
    assert playground.controls()["weight"].value == 0.7


def test_a_history_is_read_once_whatever_else_moves(model, split, monkeypatch):
    """Condition and answers are computed again only for another history."""
    read = []

    def counted_method(name):
        method = getattr(model.network, name)

        def wrapped(*arguments):
            read.append(name)
            return method(*arguments)

        return wrapped

    for name in "state", "question":
        monkeypatch.setattr(model.network, name, counted_method(name))
    playground = Playground(model)
    explorer = Explorer(playground.view, playground.controls())
    del read[:]
    explorer.controls["noise_scale"].value = 1.0
    for key, value in (
        ("seed", 3),
        ("samples", 4),
        ("guidance", 2.0),
        ("steps", 3),
        ("weight", 1.0),
    ):
        explorer.controls[key].value = value
        assert explorer.message.value == ""
    assert read == []
    explorer.controls["history"].value = explorer.controls["history"].value[:-1]
    assert sorted(read) == ["question", "state"]
    denoising = Denoising(model)
    explorer = Explorer(denoising.view, denoising.controls())
    del read[:]
    for key, value in (
        ("seed", 3),
        ("samples", 2),
        ("guidance", 2.0),
        ("steps", 3),
        ("temperature", 0.5),
    ):
        explorer.controls[key].value = value
    assert read == []


def test_somebody_new(explorables):
    playground = explorables["playground"]
    view = playground.view("", tuple(playground.names[:3]))
    assert (
        "rank before" not in view.table
        and not set(playground.names[:3]) & set(view.table["title"])
        and playground.history_of("") == ()
    )


def test_settings_change_the_list_and_not_the_model(explorables, model, split):
    playground, user = explorables["playground"], split.user_ids[5]
    config = model.config
    plain = playground.view(user).table
    lists = {
        tuple(playground.view(user, samples=1, noise_scale=1.0, seed=s).table["title"])
        for s in range(4)
    }
    assert len(lists) > 1 and model.config is config
    assert playground.view(user).table.equals(plain)


def test_words_change_the_list(model, split):
    playground, user = Playground(model), split.user_ids[5]
    plain = playground.view(user, k=20).table["categories"].tolist()
    other = next(c for c in ("odd", "even") if c != plain[0])
    speaks = [
        other in model.network.prompts.text.decode(playground.answers[i])
        for i in range(len(playground.answers))
    ]
    playground.answer_scores = lambda items, readout: (
        torch.tensor(speaks).float().log().clamp(min=-9)
    )
    view = playground.view(user, weight=50.0, k=10)
    assert (
        set(view.table["categories"]) == {other}
        and f"first: {other} (100.0%)" in view.note
    )
    assert playground.view(user, k=20).table["categories"].tolist() == plain


def test_trap_15_words_help_what_they_speak_for(explorables):
    playground = explorables["playground"]
    words, _ = playground._text_scores((0, 2, 4), ())
    said = playground.answer_scores((0, 2, 4), ())
    best = int(said.argmax())
    assert (
        words[0][np.flatnonzero(playground.answer_of == best)] == said[best]
    ).all() and float(words.max()) == float(said.max())


def test_with_decoding_shares_the_network_and_refuses_training(model, split):
    other = model.with_decoding(samples=4, noise_scale=1.0)
    assert other.network is model.network and model.config.decoding.samples == 1
    warmer = model.with_decoding(tau=0.5)
    rows = split.histories("test").take(np.arange(5))
    # One sample: cosine / tau
    np.testing.assert_allclose(
        warmer.score(rows) * 0.5, model.score(rows) * 0.1, atol=1e-4
    )
    for name in "epochs", "max_items", "tokenizer", "nonsense":
        with pytest.raises(ConfigError, match=name):
            model.with_decoding(**{name: 3})
    with pytest.raises(ConfigError, match="noise scale 0"):
        model.with_decoding(samples=4)


def test_choosing_a_user_fills_in_the_history(explorables, split):
    playground = explorables["playground"]
    explorer = Explorer(playground.view, playground.controls())
    explorer.controls["history"].value = explorer.controls["history"].value[:-1]
    user = split.user_ids[8]
    explorer.controls["user"].value = user
    assert explorer.state["history"] == playground.history_of(user)
    assert explorer.shown[0] == render_text(
        playground.view(user, seed=explorer.state["seed"])
    )
    explorer.controls["user"].value = ""
    assert "history is empty" in explorer.message.value
    explorer.controls["history"].value = [playground.names[0]]
    assert explorer.message.value == ""


# Records


def test_the_record_browser_shows_what_compare_says(explorables, records):
    browser = explorables["records"]
    data = next(d for d in browser.parts if d.endswith(", test"))
    table = browser.view(data, reference="EASE").table
    expected = compare(records[records["part"] == "test"], reference="EASE", draws=2000)
    assert table["system"].tolist() == expected["system"].tolist()
    np.testing.assert_allclose(table["difference"], expected["difference"], atol=1e-4)
    assert browser.view(data, systems=("EASE",)).table["system"].tolist() == ["EASE"]


def test_parts_are_never_mixed(explorables):
    assert sorted(d.rpartition(", ")[2] for d in explorables["records"].parts) == [
        "test",
        "valid",
    ]


def test_two_splits_of_one_data_set_are_told_apart(records):
    both = pd.concat(
        [records, records.assign(split_sha256="f" * 64)], ignore_index=True
    )
    assert len(RecordBrowser(both).parts) == 4


def test_the_ablation_browser_shows_what_effects_says(explorables, runs):
    browser = explorables["ablation"]
    context = next(c for c in browser.parts if '"x"' in c)
    table = browser.view(context).table
    expected = effects(
        runs[runs["context"].map(lambda c: c == {"data": "x"})], {"a": 1, "b": False}
    )
    assert (
        table["difference"].tolist() == expected["difference"].round(4).tolist()
        and len(table) == 3
    )
    assert list(browser.defaults[context])[0] == "the default" and browser.defaults[
        context
    ]["the default"] == {"a": 1, "b": False}
    line = browser.view(context, factor="a")
    assert "against a from 1 to 4" in line.figure.alt
    assert browser.view(context, factor="b").table["factor"].tolist() == ["b"]
    other = browser.view(context, default="a = 4").table
    assert set(zip(other["factor"], other["value"])) == {("a", 1), ("a", 2)}


def test_the_context_changes_what_there_is_to_choose(explorables):
    browser = explorables["ablation"]
    explorer = Explorer(browser.view, browser.controls())
    for context in browser.parts:
        explorer.controls["context"].value = context
        assert (
            list(explorer.controls["default"].options)
            == list(browser.defaults[context])
            and explorer.message.value == ""
        )


# Bad input

BAD = {
    "colour": ("space", dict(colour="red"), ConfigError, "red"),
    "title": ("space", dict(search="zzz"), DataError, "zzz"),
    "user of the map": ("space", dict(colour="user", user="me"), DataError, "me"),
    "half a loop": ("space", dict(loop=(1.0, 2.0, 3.0)), ConfigError, "3 numbers"),
    "a line": ("space", dict(loop=(1.0, 2.0, 3.0, 4.0)), ConfigError, "no inside"),
    "projection": ("space", dict(projection="tsne"), ConfigError, "tsne"),
    "user": ("denoising", dict(user="me"), DataError, "me"),
    "steps": ("denoising", dict(user="u1", steps=10**4), ConfigError, "10000"),
    "empty": ("playground", dict(user="", history=()), DataError, "empty"),
    "item": ("playground", dict(user="u1", history=("x",)), DataError, "called 'x'"),
    "samples": ("playground", dict(user="u1", samples=3), ConfigError, "noise scale 0"),
    "data": ("records", dict(data="x"), ConfigError, "no records of 'x'"),
    "default": (
        "ablation",
        dict(context='{"data": "x"}', default="x"),
        ConfigError,
        "called 'x'",
    ),
    "factor": (
        "ablation",
        dict(context='{"data": "x"}', factor="x"),
        ConfigError,
        "not changed alone",
    ),
    "context": ("ablation", dict(context="x"), ConfigError, "context x"),
    "metric": (
        "ablation",
        dict(context='{"data": "x"}', metric="x"),
        ConfigError,
        "unknown metric",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(explorables, case):
    name, state, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        explorables[name].view(**state)


def test_everything_seen_leaves_nothing(explorables):
    playground = explorables["playground"]
    with pytest.raises(DataError, match="nothing is left"):
        playground.view("", tuple(playground.names))


@pytest.mark.parametrize("kind", [TokenSpace, Denoising, Playground])
def test_a_model_without_tokens_is_refused(kind, split):
    for wrong in Popularity().fit(split), ContRec():
        with pytest.raises(ContrecError):
            kind(wrong)


def test_no_records():
    for kind in RecordBrowser, AblationBrowser:
        with pytest.raises(ConfigError, match="no records"):
            kind(pd.DataFrame())


def test_the_one_line_functions(model, records, runs):
    for explorer in (
        explore_space(model),
        explore_denoising(model),
        explore_recommendations(model),
        explore_records(records),
        explore_records(runs),
    ):
        assert isinstance(explorer, Explorer) and explorer.shown[1][0]["image/png"]


def with_titles(model, split, titles):
    """The same model, as if its items had these titles."""
    other = copy.copy(model)
    other.split = dataclasses.replace(split, items=split.items.assign(title=titles))
    return other


def test_hostile_titles_stay_text_everywhere(model, split):
    """HTML, formulas, controls and marks of the reading direction, in tables, notes,
    pictures and controls.
    """
    hostile = with_titles(model, split, HOSTILE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for thing, state in (
            (TokenSpace(hostile), {"search": "script"}),
            (Denoising(hostile), {"user": "u1"}),
            (Playground(hostile), {"user": "u1"}),
        ):
            view = thing.view(**state)
            shown = render_text(view)
            parsed = Tags(shown["text/html"])
            assert "script" not in parsed.tags and HOSTILE.strip()[:20] in parsed.text
            picture, size = render_picture(view)
            alt = size["image/png"]["alt"]
            for text in parsed.text, shown["text/plain"], picture["text/plain"], alt:
                assert escape_controls(text, keep="\n") == text
            assert "\\u202e" in parsed.text and "\\u202e" in shown["text/plain"]
            assert all(escape_controls(n) == n for n in thing.names)


@given(st.lists(st.text(max_size=6), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_names_are_unique_and_without_controls(titles):
    items = pd.DataFrame(
        {"item": [f"i{n}" for n in range(len(titles))], "title": titles}
    )
    names = unique_names(items)
    assert [escape_controls(n) for n in names] == names and len(set(names)) == len(
        names
    )


# The list of titles to edit

FILMS = ["Star Wars (1977)", "Alien (1979)", "Aliens (1986)", "Amélie (2001)"]
POPULARITY = np.array([5, 3, 4, 1])
TYPED = {
    "a part": ("star", ["Star Wars (1977)"], ""),
    "words in any order, without accents": ("2001 amelie", ["Amélie (2001)"], ""),
    "a whole title that begins another": ("Alien (1979)", ["Alien (1979)"], ""),
    "several": (
        "alien",
        [],
        (
            "2 titles match 'alien'. Choose one of the list with the arrow keys and"
            " Enter, or type more."
        ),
    ),
    "none": (
        "zzz",
        [],
        "No title matches 'zzz'. Check the spelling, or type less of it.",
    ),
    "nothing": ("  ", [], "Type a part of a title first."),
    "markup and controls": (
        "<b>\u202e",
        [],
        "No title matches '<b>\\u202e'. Check the spelling, or type less of it.",
    ),
}


@pytest.mark.parametrize("case", TYPED)
def test_enter_adds_the_title_that_matches(case):
    text, expected, message = TYPED[case]
    titles = TitleList(FILMS, POPULARITY)
    titles._handle_custom_msg({"add": text}, [])
    assert (titles.value, titles.message) == (expected, message)
    assert titles.found == (
        ["Aliens (1986)", "Alien (1979)"] if case == "several" else []
    )


def test_a_title_is_added_once():
    titles = TitleList(FILMS, POPULARITY, ["Alien (1979)"])
    titles.add("alien (1979)")
    assert (
        titles.value == ["Alien (1979)"]
        and titles.message == "'Alien (1979)' is in the list already."
    )


def test_suggestions_follow_what_is_typed():
    titles = TitleList(FILMS, POPULARITY)
    for text, found in (
        ("a", ["Aliens (1986)", "Alien (1979)", "Amélie (2001)", "Star Wars (1977)"]),
        ("al", ["Aliens (1986)", "Alien (1979)"]),
        ("x", []),
        ("", []),
    ):
        titles._handle_custom_msg({"search": text}, [])
        assert titles.found == found and titles.message == ""


def test_an_added_title_changes_the_list(explorables):
    playground = explorables["playground"]
    explorer = Explorer(playground.view, playground.controls())
    before, history = explorer.shown, explorer.state["history"]
    new = next(n for n in playground.names if n not in history)
    explorer.controls["history"].add(new)
    assert (
        explorer.state["history"] == (*history, new)
        and explorer.message.value == ""
        and explorer.shown != before
    )


# Saved notebooks


def test_a_bar_leaves_one_line_in_a_notebook(notebook, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "_in_notebook", lambda: True)
    monkeypatch.delenv("CONTREC_PROGRESS")
    bar = trainer.progress(range(3), "recommender")
    for step in bar:
        bar.set_postfix(score="0.1", best=f"0.{step}")
    assert list(trainer.progress([], "nothing")) == []
    lines = [data["text/plain"] for data in notebook.outputs.values()]
    assert len(lines) == 2 and all(
        set(data) == {"text/plain"} for data in notebook.outputs.values()
    )
    assert re.fullmatch(
        r"recommender: 3 of 3, \d\.\d s, best 0\.2", lines[0]
    ) and lines[1].startswith("nothing: 0")
    assert notebook.updates >= 4 and capsys.readouterr() == ("", "")


WIDGET = "application/vnd.jupyter.widget-view+json"
COMMITTED = sorted((Path(__file__).resolve().parents[2] / "nbs").rglob("*.ipynb"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_show_no_broken_widget(path):
    """No widget in an output, and no state of one.

    A saved notebook shows pictures, tables and lines of text.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = [
        output.get("data", {})
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
    ]
    assert [data for data in outputs if WIDGET in data] == [], (
        "run python tests/strip_widgets.py"
    )
    assert "widgets" not in notebook["metadata"], "run python tests/strip_widgets.py"
