"""`fedmq report`: one file with everything in it, read by people in a browser."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from services import run_fedmq

SITES = ("north", "south")
DATA = ("--data", "north.csv", "--data", "south.csv")
Open = Callable[..., Page]


def write_tables(folder: Path) -> None:
    """Two sites with a number, a category with markup in a label, a gap, and a class."""
    random = np.random.default_rng(1)
    for site in SITES:
        ages, groups = random.normal(50, 10, 120), random.choice(["a", "<b>x</b>", "c"], 120)
        ill = random.random(120) < 1 / (1 + np.exp(-(ages - 50) / 8 - (groups == "c")))
        lines = [
            f"{age:.1f},{group},{'ill' if one else 'well'}" for age, group, one in zip(ages, groups, ill, strict=True)
        ]
        lines[3] = f",a,{lines[3].rsplit(',', 1)[1]}"
        (folder / f"{site}.csv").write_text("\n".join(["age,group,state", *lines]) + "\n")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small run of `newton`."""
    folder = tmp_path_factory.mktemp("report")
    write_tables(folder)
    for arguments in (
        ["new", "ill", "--from", "north.csv", "--target", "state"],
        ["demo", "ill.toml", *DATA, "--algorithm", "newton", "--out", "run", "--quiet"],
        ["report", "run", "-o", "report.html"],
    ):
        done = run_fedmq(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder / "report.html"


def test_report_holds_all_of_itself_and_escapes_what_is_foreign(report: Path) -> None:
    page = report.read_text()
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page), "no part is loaded from elsewhere"
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_report_repeats_the_figures_of_the_run_and_its_replay(report: Path) -> None:
    page, said = report.read_text(), json.loads((report.parent / "run" / "report.json").read_text())
    assert said["model_sha256"] in page
    assert "the same SHA-256" in page
    assert f"{said['held_out']['auc']:.4g}" in page
    for count in np.ravel(said["held_out"]["confusion"]):
        assert f">{count}</td>" in page
    assert said["held_out"]["roc"][0][0] == [0.0, 0.0]
    assert said["held_out"]["roc"][0][-1] == [1.0, 1.0]
    for section in ("Result", "Training", "Classes", "Model", "Data", "Sites", "What was asked", "How to reproduce"):
        assert f"<h2>{section}" in page
    assert "group=c" in page, "a coefficient has the name of its feature"


def test_changed_model_is_said(report: Path) -> None:
    run = report.parent / "run"
    kept = (run / "report.json").read_text()
    sha256 = json.loads(kept)["model_sha256"]
    (run / "report.json").write_text(kept.replace(sha256, "0" * 64))
    try:
        assert run_fedmq("report", "run", "-o", "changed.html", cwd=report.parent).returncode == 0
    finally:
        (run / "report.json").write_text(kept)
    assert "another SHA-256" in (report.parent / "changed.html").read_text()


def test_run_without_a_report_is_said_in_one_line(tmp_path: Path) -> None:
    done = run_fedmq("report", "nothing", cwd=tmp_path)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert "expected a run that has ended" in done.stderr


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_report_reads_well_in_a_browser(report: Path, open_page: Open, scheme: str, width: int) -> None:
    page = open_page(report.as_uri(), color_scheme=scheme, viewport={"width": width, "height": 900})
    serious = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"][:120]) for one in serious] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page itself never scrolls sideways"
