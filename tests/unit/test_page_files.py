"""The files of the page: what the content security policy requires, and the third-party note."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

from fedmq.observe import run_state

STATIC = Path(__file__).parents[2] / "dashboard" / "static"
PAGE = (STATIC / "index.html").read_text()


class Elements(HTMLParser):
    """The elements of a page: names and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(PAGE)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_has_no_inline_script_or_style() -> None:
    elements = Elements().found
    assert all(name != "style" for name, _ in elements)
    assert all("src" in attributes for name, attributes in elements if name == "script")
    assert [key for _, attributes in elements for key in attributes if key == "style" or key.startswith("on")] == []


def test_page_writes_no_markup() -> None:
    modules = sorted(STATIC.glob("*.js"))
    assert "main.js" in [module.name for module in modules]
    ours = {module.name: module.read_text() for module in modules if not module.name.endswith(".min.js")}
    markup = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|document\.write|DOMParser|srcdoc|\beval\b")
    assert {name: found for name, text in ours.items() if (found := markup.findall(text))} == {}


def test_page_names_only_existing_own_files() -> None:
    named = [attributes.get("src") or attributes.get("href") for name, attributes in Elements().found if name != "a"]
    files = [file for file in named if file]
    assert files
    for file in files:
        assert file.startswith("/static/"), file
        assert (STATIC / file.removeprefix("/static/")).is_file(), file


def test_page_preloads_all_modules() -> None:
    asked = {
        (attributes.get("href") or "").removeprefix("/static/")
        for name, attributes in Elements().found
        if name == "link" and attributes.get("rel") == "modulepreload"
    }
    imported = {
        name
        for module in STATIC.glob("*.js")
        for name in re.findall(r'^(?:import|\}) .*from "\./([a-z_]+\.js)";$', module.read_text(), flags=re.MULTILINE)
    }
    assert asked == imported


@pytest.mark.parametrize("what", ["ROUNDS", "WORKS", "BESTS", "FEED"])
def test_page_has_the_bounds_of_the_server(what: str) -> None:
    here = re.search(rf"^const {what}_MAX = (\d+);", (STATIC / "page_model.js").read_text(), flags=re.MULTILINE)
    assert here is not None
    assert int(here[1]) == getattr(run_state, f"{what}_KEPT_MAX")


def test_every_condition_has_a_tone() -> None:
    tones = re.findall(r'^  "?([a-z ]+)"?: "', (STATIC / "tones.js").read_text(), flags=re.MULTILINE)
    assert set(tones) == set(get_args(run_state.Condition))


def test_third_party_note_has_the_versions() -> None:
    note = (STATIC.parent / "THIRD-PARTY.md").read_text()
    version = re.search(r"\(v([\d.]+)\)", (STATIC / "uPlot.iife.min.js").read_text())
    assert version is not None
    assert f"| {version[1]} |" in note
    assert all((STATIC / name).is_file() for name in re.findall(r"`([\w./-]+\.LICENSE)`", note))
