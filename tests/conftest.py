"""Shared by the tests: no progress bars, and a small world to learn in seconds."""

import os
import shutil

os.environ["CONTREC_PROGRESS"] = "0"

import numpy as np
import pandas as pd
import pytest


def write_world(folder, users=90, items=40, length=10, seed=0):
    """A log in which people mostly stay with one of two kinds of items, and its item
    table, as CSV files.
    """
    random = np.random.default_rng(seed)
    kind = np.arange(items) % 2
    taste = np.where(kind == np.arange(2)[:, None], 6.0, 1.0)
    taste /= taste.sum(1, keepdims=True)
    rows = [
        (f"u{u}", f"i{i}", 1_600_000_000 + 60 * t)
        for u in range(users)
        for t, i in enumerate(
            random.choice(items, length, replace=False, p=taste[u % 2])
        )
    ]
    pd.DataFrame(rows, columns=["user", "item", "timestamp"]).to_csv(
        folder / "log.csv", index=False
    )
    pd.DataFrame(
        {
            "item": [f"i{i}" for i in range(items)],
            "title": [f"Item {i}, & <b>" for i in range(items)],
            "category": [("odd" if k else "even") for k in kind],
        }
    ).to_csv(folder / "items.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder with `log.csv` and `items.csv`."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def small_split(world):
    """The small world, split."""
    from contrec import leave_one_out, read_items, read_log

    return leave_one_out(
        read_log(world / "log.csv", items=read_items(world / "items.csv"))
    )


@pytest.fixture
def without_draws(monkeypatch):
    """The diffusion draws nothing.

    The same noise, the same time and a known condition for every row, so that its loss
    is a function of the rows.
    """
    import torch

    import contrec.diffusion.diffusion

    monkeypatch.setattr(
        contrec.diffusion.diffusion,
        "_normal",
        lambda shape, like, generator: (
            torch.linspace(-1, 1, shape[-1]).expand(shape).to(like)
        ),
    )
    monkeypatch.setattr(
        contrec.diffusion.diffusion,
        "draw_times",
        lambda n, steps, *_: torch.full((n,), steps // 2),
    )
    monkeypatch.setattr(
        contrec.diffusion.diffusion.Diffusion,
        "_draw_null_rows",
        lambda self, x0, generator: torch.zeros(len(x0), dtype=torch.bool),
    )


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
FLAGS = (
    "--no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader"
    " --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --no-proxy-server"
)


# Not longer: while Playwright runs, nothing else in the process may run an event loop
@pytest.fixture(scope="module")
def context():
    """A browser without a memory that may talk to this machine only.

    What it asks of others is refused, and noted in `strangers`.
    """
    if CHROMIUM is None:
        missing = "no Chromium on this machine: apt-get install chromium"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS.split(), timeout=180_000
        )
        context = browser.new_context(
            viewport={"width": 1280, "height": 1500}, reduced_motion="reduce"
        )
        context.set_default_timeout(180_000)  # Other work may keep both cores busy
        context.strangers = []

        def stranger(route):
            context.strangers.append(route.request.url)
            route.abort()

        context.route(
            lambda url: (
                url.startswith("http") and not url.startswith("http://127.0.0.1:")
            ),
            stranger,
        )
        yield context
        browser.close()
