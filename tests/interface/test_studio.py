"""The studio without a browser: what it keeps, what it answers, what it refuses."""

import base64
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_model import tiny

import contrec.interface.space as space_module
import contrec.interface.studio as studio_module
import contrec.interface.studio_page as page_module
from contrec import ContRec, ContrecError
from contrec.foundations.errors import CheckpointError, ConfigError, DataError
from contrec.interface.explore import explore, lab_command, write_notebook
from contrec.interface.item_map import ItemMap, colour_groups, colour_numbers, truth
from contrec.interface.person import Person
from contrec.interface.space import (
    SPACE_FILES,
    item_table,
    load_space,
    make_space,
    nearest_items,
    share_kept,
    space_of,
    unit_rows,
)
from contrec.interface.studio import PERSON_ASKS, studio
from contrec.interface.studio_page import map_part, studio_page

HOSTILE = '</script><img src=x onerror="alert(1)"> $x_1$ \u202e'


@pytest.fixture(scope="module")
def model(small_split):
    return ContRec(tiny()).fit(small_split)


@pytest.fixture(scope="module")
def space(model):
    return space_of(model)[0]


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A folder like that of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def shown(model):
    return studio(model, report=None)


def made_up(n, width=8, seed=0, **columns):
    random = np.random.default_rng(seed)
    items = pd.DataFrame(
        {
            "item": [f"i{k}" for k in range(n)],
            "title": [f"Item {k}" for k in range(n)],
            "categories": [("a",) if k % 2 else ("b", "c") for k in range(n)],
            "users": random.integers(1, 500, n),
            **columns,
        }
    )
    return random.normal(size=(n, width)).astype(np.float32), items


# The space


def test_neighbours_are_those_of_a_full_sort(space):
    directions = unit_rows(space.latents.astype(np.float64))
    cosine = directions @ directions.T
    np.fill_diagonal(cosine, -np.inf)
    np.testing.assert_allclose(space.cosines, -np.sort(-cosine)[:, :10], atol=1e-5)
    for item in (0, 5, 39):
        np.testing.assert_array_equal(space.nearest(item)[0], space.neighbours[item])
    assert not (space.neighbours == np.arange(len(space))[:, None]).any()


def test_the_share_kept_is_counted_by_hand(space):
    for plane, points in space.planes.items():
        distance = np.square(points[:, None] - points).sum(-1)
        np.fill_diagonal(distance, np.inf)
        near = np.argsort(distance)[:, :10]
        share = [
            len(set(a) & set(b)) / 10
            for a, b in zip(space.neighbours.tolist(), near.tolist())
        ]
        np.testing.assert_allclose(space.kept[plane], share)


def test_the_share_kept_where_all_items_are_at_one_place():
    vectors, _ = made_up(30)
    near, _ = nearest_items(unit_rows(vectors), np.arange(30))
    share = share_kept(np.zeros((30, 2)), near)
    assert ((share >= 0) & (share <= 1)).all()


def test_a_kept_space_is_loaded_without_the_model(run, model, monkeypatch):
    assert load_space(run) is None
    made = space_of(model, run)
    monkeypatch.setattr(ContRec, "from_pretrained", None)
    space, items, name = load_space(run)
    for part in ("latents", "neighbours", "cosines", "groups"):
        np.testing.assert_array_equal(getattr(space, part), getattr(made[0], part))
    np.testing.assert_array_equal(space.planes["umap"], made[0].planes["umap"])
    assert items["categories"].tolist() == made[1]["categories"].tolist()
    assert name == model.split.name


def test_another_model_makes_a_kept_space_void(model, small_split, tmp_path):
    model.save_pretrained(tmp_path / "model")
    space_of(model, tmp_path)
    ContRec(tiny(seed=1)).fit(small_split).save_pretrained(tmp_path / "model")
    assert load_space(tmp_path) is None


@pytest.mark.parametrize("name", SPACE_FILES)
def test_a_damaged_space_is_never_shown(name, model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    space_of(model, tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    try:
        assert load_space(tmp_path) is None  # It will be made again
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_a_space_that_is_none_is_refused(tmp_path):
    for latents in (np.zeros((2, 3)), np.zeros(5), np.full((9, 2), np.inf)):
        with pytest.raises(ConfigError):
            make_space(latents)
    with pytest.raises(CheckpointError, match="holds no model"):
        load_space(tmp_path)
    with pytest.raises(ConfigError, match="no token space"):
        space_of(object())


@pytest.mark.parametrize("n", [3, 4, 11])
def test_a_space_of_few_items(n):
    vectors, items = made_up(n)
    space = make_space(vectors, umap=False)
    shown = ItemMap(space, items, "few")
    assert space.neighbours.shape == (n, min(10, n - 1))
    assert len(shown.neighbours(0)) >= min(10, n - 1)
    assert studio_page(shown).text.count("contrec-studio-page") > 1


# The item map


def test_colours_of_numbers_and_groups():
    linear = colour_numbers("n", np.array([1.0, 2.0, 3.0]))
    assert linear.codes.tolist() == [0, 128, 255] and not linear.log
    assert colour_numbers("n", np.r_[np.ones(50), 5000]).log
    assert colour_numbers("n", np.ones(4)).codes.tolist() == [0] * 4
    found = colour_groups("g", [*"aaabbc", "none"], most=2)
    assert found.names == ("a", "b", "other")
    assert found.codes.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_every_item_column_is_a_colour():
    year, studio_of = np.arange(60), ["x", "y", "z"] * 20
    vectors, items = made_up(60, year=year, studio=studio_of, note=[None] * 60)
    shown = ItemMap(make_space(vectors, umap=False), items, "films")
    assert {"year", "studio", "category", "popularity", "group"} <= set(shown.colours)
    assert "note" not in shown.colours
    assert shown.colour("studio").names == ("x", "y", "z")
    with pytest.raises(ConfigError, match="cannot be coloured by 'mood'"):
        shown.colour("mood")


def test_the_truth_about_a_neighbourhood(space, small_split):
    shown = ItemMap(space, item_table(small_split), "small")
    for item in (0, 17):
        near = shown.neighbours(item, "umap")
        both = near["space"] & near["map"]
        assert both.sum() / 10 == pytest.approx(space.kept["umap"][item])
        assert near["map"].sum() == near["space"].sum() == 10
        vector = space.directions[item]
        cosines = space.directions[near["number"]] @ vector
        np.testing.assert_allclose(near["cosine"], cosines, atol=1e-5)
    assert "tells the truth" in truth(7, 10) and "misleads" in truth(3, 10)


def test_the_table_is_sorted_both_ways(shown):
    items = shown.items
    rows = items.table(sort="users", count=100)
    assert len(rows) == len(items.items)
    users = [row["users"] for row in rows]
    assert users == sorted(users, reverse=True)
    titles = [r["title"] for r in items.table(sort="title", descending=False, count=9)]
    assert titles == sorted(titles, key=str.casefold)
    part = items.table(np.array([3, 7]), sort="kept")
    assert {row["item"] for row in part} == {3, 7}
    with pytest.raises(ConfigError, match="unknown column"):
        items.table(sort="colour")


# The person


@pytest.fixture(scope="module")
def person(model):
    return Person(model)


def test_recommendations_are_those_of_the_model(person, model, small_split):
    user = person.instructive_user()
    history = person.history_of(user)
    row = small_split.histories("test").take([small_split.user_number(user)])
    found = person.recommend(history)
    assert found["number"].tolist() == model.rank(row, 10).ids[0].tolist()
    assert not set(found["number"]) & set(history)


def test_a_reason_is_what_is_missing_without_an_item(person, model):
    from contrec.data.interactions import Ragged

    history = person.history_of(person.instructive_user())
    item = int(person.recommend(history)["number"][0])
    table = person.reasons(history, item)
    assert len(table) == len(history)
    assert table["change"].is_monotonic_decreasing
    whole = model.score(Ragged.from_lists([history]))[0, item]
    for _, row in table.head(3).iterrows():
        rest = history[: row["position"]] + history[row["position"] + 1 :]
        without = model.score(Ragged.from_lists([rest]))[0, item]
        assert row["change"] == pytest.approx(whole - without, abs=1e-5)


def test_only_settings_that_can_work_are_on_offer(person):
    history = [0, 1, 2]
    for setting in person.settings:
        for value in (setting.low, setting.high):
            moved = {setting.name: value}
            if setting.name == "samples":
                moved["noise_scale"] = 1.0
            assert len(person.recommend(history, moved))
    with pytest.raises(ConfigError, match="'heat'"):
        person.recommend(history, {"heat": 1})


def test_guidance_is_not_offered_without_the_null_condition(small_split):
    from contrec.interface.person import decoding_settings

    config = tiny(diffusion={"cfg_dropout": 0.0})
    names = [s.name for s in decoding_settings(ContRec(config).fit(small_split))]
    assert "guidance" not in names and "steps" in names


def test_denoising_ends_where_the_model_ends(person, model):
    from contrec.data.interactions import Ragged

    history = person.history_of(person.instructive_user())
    walk = person.denoise(history, None, steps=5, samples=3, seed=4)
    assert walk.paths.shape[:2] == (3, 6) and walk.ranks is None
    assert not np.isin(walk.nearest, history).any()
    network, noise = model.network, torch.Generator().manual_seed(4)
    condition = network.state(Ragged.from_lists([history]), person.catalogue)
    last = network.diffusion.sample(condition, 5, 0.0, 3, 1.0, generator=noise)[0]
    np.testing.assert_allclose(
        unit_rows(walk.paths[:, -1]), unit_rows(last.detach().numpy()), atol=1e-5
    )


@pytest.mark.parametrize("history", [[], list(range(40))])
def test_an_impossible_history_gets_a_line(person, history):
    with pytest.raises(DataError) as error:
        person.recommend(history)
    assert "\n" not in str(error.value)


# The studio


class Sent(list):
    """What is sent to the page."""

    def send(self, content, buffers=None):
        self.append(json.loads(json.dumps(content)))


def asked(shown, name, *values):
    """Ask as the page does; return the answer."""
    found = Sent()
    shown.__dict__["widget"] = found
    try:
        message = {"id": 1, "ask": name, "values": json.loads(json.dumps(values))}
        shown._on_message(None, message, [])
    finally:
        shown.__dict__.pop("widget")
    (answer,) = found
    assert answer["id"] == 1
    return answer


def test_every_question_is_answered_in_json(shown):
    user = shown.person.instructive_user()
    someone = asked(shown, "person", user)["answer"]
    history = {"history": someone["history"], "settings": {}}
    item = asked(shown, "recommend", history)["answer"]["rows"][0]["item"]
    rows = dict(ids=None, sort="users", descending=True, start=0, count=5, plane="pca")
    walk = dict(target=None, plane="umap", steps=4, samples=2, seed=0)
    walk |= dict(noise_scale=1.0, guidance=0.0)
    state = dict(plane="pca", colour="group", item=3, ids=[1], **history)
    questions = {
        "card": (0, "pca"),
        "neighbours": (0, "umap"),
        "search": ("item 1",),
        "rows": (rows,),
        "legend": ("score", someone["history"], {}),
        "place": ("pca", True),
        "select": ([1, 2],),
        "opened": (3,),
        "person": (user,),
        "users": ("u",),
        "recommend": (history,),
        "why": (history | {"item": item},),
        "denoise": (history | walk,),
        "code": (state,),
        "hello": (),
    }
    assert set(questions) == set(shown._scene()["asks"])
    for name, values in questions.items():
        if name != "hello":
            assert "answer" in asked(shown, name, *values), name


def test_a_wrong_question_gets_one_line(shown):
    empty = {"history": [], "settings": {}}
    for name, values in {
        "recommend": (empty,),
        "person": ("nobody",),
        "place": ("globe", False),
        "legend": ("mood", [], {}),
    }.items():
        error = asked(shown, name, *values)["error"]
        assert error and "\n" not in error
    found = Sent()
    shown.__dict__["widget"] = found
    shown._on_message(None, {"id": 1, "ask": "__class__", "values": []}, [])
    shown.__dict__.pop("widget")
    assert found == []


def test_the_page_gets_places_and_colours(shown):
    fresh = studio_module.Studio(shown.items)
    drawn = np.asarray(fresh.scatter.widget.points)[:, :2]
    np.testing.assert_allclose(drawn, shown.items.places("umap"), atol=1e-6)
    for plane in ("pca", "umap"):
        packed = asked(shown, "place", plane, True)["answer"]
        places = np.frombuffer(base64.b64decode(packed), "<f4").reshape(-1, 2)
        np.testing.assert_allclose(places, shown.items.places(plane), atol=1e-6)
        assert shown.plane == plane
        assert asked(shown, "place", plane, False)["answer"] is None
    for by in shown.items.colours:
        legend = asked(shown, "legend", by, [], {})["answer"]
        codes = np.frombuffer(base64.b64decode(legend["codes"]), "u1")
        assert codes.tolist() == shown.items.colour(by).codes.tolist()
        assert codes.max() < len(legend["light"]) and shown.colour == by


def test_the_selection_is_a_table(shown):
    asked(shown, "select", [4, 2])
    assert shown.selection["item"].tolist() == ["i4", "i2"] or len(shown.selection) == 2
    assert {"item", "title", "categories", "users", "group", "x", "y", "kept"} <= set(
        shown.selection
    )
    asked(shown, "select", None)
    assert len(shown.selection) == 0


def test_the_code_that_is_copied_runs(shown, model):
    history = [1, 2, 3]
    state = dict(plane="pca", colour="group", item=5, ids=[1], history=history)
    code = asked(shown, "code", state | {"settings": {"steps": 2}})["answer"]
    scope = {"model": model}
    exec(code, scope)
    assert scope["shown"].focus == 5 and len(scope["selected"]) == 1
    assert scope["history"] == model.split.item_ids[history].tolist()


def test_a_run_opens_without_its_model_and_finds_it_when_asked(run, model):
    space_of(model, run)
    began = time.perf_counter()
    opened = studio(run)
    assert opened.widget.scene["n"] == model.split.n_items
    assert time.perf_counter() - began < 10  # Seconds; about 0.1 on a free core
    user = model.split.user_ids[0]
    rows = asked(opened, "person", str(user))["answer"]
    assert rows["history"] == Person(model).history_of(str(user))


def test_a_run_without_a_map_gets_one(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    lines = []
    first = studio(tmp_path, report=lines.append)
    assert "keeps no map yet" in lines[0] and "UMAP" in lines[1]
    again = studio(tmp_path, report=lines.append)
    assert len(lines) == 2
    np.testing.assert_array_equal(
        first.items.space.planes["umap"], again.items.space.planes["umap"]
    )


def test_a_tokenizer_shows_items_only(model, small_split):
    network = model.network
    shown = studio(network.tokenizer, small_split, network.inputs, report=None)
    assert not set(PERSON_ASKS) & set(shown._scene()["asks"])
    with pytest.raises(ConfigError, match="items only"):
        _ = shown.person
    with pytest.raises(ConfigError, match="the split"):
        studio(network.tokenizer)


def test_a_large_catalogue_stays_in_python(monkeypatch):
    for module in (space_module, studio_module, page_module):
        monkeypatch.setattr(module, "LARGE", 500)
    n = 700
    vectors, items = made_up(n)
    space = make_space(vectors)
    assert list(space.planes) == ["pca"] and space.neighbours.shape == (n, 0)
    shown = studio_module.Studio(ItemMap(space, items, "many"))
    scene = shown._scene()
    assert "names" not in scene and len(scene["titles"]) == 400
    near = asked(shown, "neighbours", 7, "pca")["answer"]
    assert near["of"] == 10 and len(near["rows"]) >= 10
    page = shown.html()
    scene = re.search(r'type="application/json">(.*?)</script>', page.text, re.S)[1]
    assert json.loads(scene)["n"] == 500


# The page


def test_hostile_titles_stay_text(model, small_split):
    items = item_table(small_split).assign(title=HOSTILE, categories=[(HOSTILE,)] * 40)
    shown = ItemMap(space_of(model)[0], items, HOSTILE)
    text = studio_page(shown).text
    assert "<img src=x" not in text and "\u202e" not in text
    plain = studio_page(ItemMap(shown.space, item_table(small_split), "plain")).text
    assert text.count("</script>") == plain.count("</script>")
    assert text.count("<script") == plain.count("<script")


def test_the_page_asks_nothing_of_the_network(shown, tmp_path):
    page = shown.html(tmp_path / "map.html")
    assert (tmp_path / "map.html").read_text() == page.text
    assert "default-src 'none'" in page.text
    assert not re.search(
        r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page.text
    )
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", page.text)
    assert "srcdoc=" in page._repr_html_() and page.text not in page._repr_html_()


def test_the_part_of_a_page_has_a_picture_with_words(shown):
    part = map_part(shown.items)
    assert part.count("<img ") == 1 and 'alt="' in part


def test_a_page_that_is_too_large_is_refused():
    vectors, items = made_up(600)
    items["title"] = ["x" * 10_000] * 600
    with pytest.raises(ContrecError, match="Show fewer"):
        studio_page(ItemMap(make_space(vectors, umap=False), items, "long"))


# A saved notebook, and the command


def test_a_saved_notebook_keeps_picture_and_table(shown):
    still = shown._still()
    assert "<img " in still["text/html"] and "<table" in still["text/html"]
    assert "needs a running kernel" in still["text/html"]
    assert "<script" not in still["text/html"]


def test_explore_writes_a_notebook_or_a_page(run, model, tmp_path):
    space_of(model, run)
    notebook = json.loads(write_notebook(run).read_text())
    code = "".join(notebook["cells"][1]["source"])
    assert "studio('.')" in code
    lines = []
    explore(run, tmp_path / "map.html", report=lines.append)
    assert (tmp_path / "map.html").exists() and "MB" in lines[-1]
    with pytest.raises(CheckpointError):
        write_notebook(tmp_path)
    assert lab_command(run, False)[-1] == "--no-browser"
