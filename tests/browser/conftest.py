"""Fixtures of the browser tests: one browser, one federation, and pages without console errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from chromium import CHROMIUM, MISSING, Complaints, chromium
from playwright.sync_api import Browser, Page
from scene import Scene

WAIT_MS = 30_000
LARGE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not os.access(CHROMIUM, os.X_OK):
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def scene(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as running:
        running.begin()
        yield running


@pytest.fixture(scope="module")
def address(scene: Scene) -> str:
    """The address of a dashboard without controls."""
    return scene.start_dashboard()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open an address, with `settings` of the browser context; fail at the end if a page had a console error."""
    complaints, contexts = [], []

    def open_one(address: str, **settings: object) -> Page:
        context = browser.new_context(**{"viewport": LARGE, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        complaints.append(Complaints(page, address))
        page.goto(address)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [text for one in complaints for text in one.found] == []
