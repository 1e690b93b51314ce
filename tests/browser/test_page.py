"""The page in a real browser, with a real federation that runs and fails.

Curves and the surface are canvases; data attributes hold their round.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from msgspec import structs
from playwright.sync_api import Locator, Page, Route, expect
from scene import RUN, TRAINERS, Scene
from services import closed

from fedmq.algorithms.evaluation.figures import Measured, Metrics
from fedmq.algorithms.findings import Findings, FrontMember
from fedmq.dashboard.page_model import Origin, all_values, list_row
from fedmq.observe import events
from fedmq.observe.run_state import RunState
from fedmq.testing import run_started

Open = Callable[..., Page]
expect.set_options(timeout=30_000)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


# The share of the height of a plot that its line covers in the right half.
SPAN = """canvas => {
  const [r, g, b] = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim()
    .match(/^#(..)(..)(..)$/).slice(1).map((part) => parseInt(part, 16));
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const rows = [];
  for (let y = 0; y < height; y += 1)
    for (let x = width >> 1; x < width; x += 1) {
      const at = 4 * (y * width + x);
      const distance = Math.hypot(data[at] - r, data[at + 1] - g, data[at + 2] - b);
      if (data[at + 3] > 200 && distance < 12) { rows.push(y); break; }
    }
  return rows.length ? (rows.at(-1) - rows[0]) / height : 0;
}"""


def of_values(*values: float, restarted: int = 0) -> RunState:
    """Return a run with these accuracies of its rounds; round `restarted` searched in a new pool."""
    state = RunState()
    started = run_started(
        run="night", term=1, round=1, task="xor", algorithm="evolution", seed=1, metric="accuracy", target=1.0
    )
    state.apply(1000.0, started)
    for number, value in enumerate(values, 1):
        best = events.Best(
            value=value, coverage=1.0, fitness=-1.0, fitness_mean=-2.0, fitness_worst=-3.0, diversity=0.1
        )
        state.apply(1000.0 + number, events.RoundPublished(round=number, invited=2))
        close = events.RoundClosed(
            round=number, why="complete", results=2, round_s=0.5, present=2, best=best, restarted=number == restarted
        )
        state.apply(1000.5 + number, close)
    return state


def serve(page: Page, *shown: tuple[RunState, Origin]) -> None:
    """Answer the streams of a page with these runs, and show the first."""
    rows = [list_row(state, origin, 2000.0) for state, origin in shown]
    listed = {"now": 2000.0, "broker": {"address": None, "connected": False}, "runs": rows}
    body = f"retry: 60000\nevent: runs\ndata: {json.dumps(listed)}\n\n"
    body += f"event: full\ndata: {msgspec.json.encode(all_values(*shown[0], 2000.0)).decode()}\n\n"
    page.route(
        re.compile(r"/api/(.*/)?stream"), lambda route: route.fulfill(content_type="text/event-stream", body=body)
    )
    page.reload()


def until_rounds(page: Page, count: int) -> int:
    """Wait until the curve has `count` rounds; return how many it has."""
    handle = page.wait_for_function(
        "count => { const n = Number(document.querySelector('#fitness').dataset.rounds); return n >= count && n; }",
        arg=count,
    )
    return int(handle.json_value())


def pixels(canvas: Locator) -> str:
    drawn: str = canvas.evaluate("canvas => canvas.toDataURL()")
    return drawn


def until_redrawn(page: Page, canvas: Locator, drawn: str) -> None:
    """Wait until a canvas shows other pixels: a curve is drawn after its values have come."""
    page.wait_for_function("([canvas, drawn]) => canvas.toDataURL() !== drawn", arg=[canvas.element_handle(), drawn])


def turn(page: Page, *, hidden: bool) -> None:
    """Simulate a change to another tab or back: in Playwright every tab is visible."""
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { configurable: true, value: hidden });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def trainer_row(page: Page, name: str) -> Locator:
    return page.locator("#trainers tbody tr").filter(has=page.get_by_role("rowheader", name=name, exact=True))


def test_curve_grows_while_the_run_is_live(open_page: Open, address: str) -> None:
    page = open_page(address)
    expect(page.get_by_role("heading", level=1)).to_have_text(RUN)
    expect(page.locator("#state-text")).to_have_text("running")
    before, curve = until_rounds(page, 1), page.locator("#fitness canvas")
    drawn = pixels(curve)
    until_rounds(page, before + 5)
    until_redrawn(page, curve, drawn)
    expect(page.locator("#fitness-text")).to_contain_text(re.compile(r"Round \d+: best −"))
    expect(page.get_by_role("group", name="Controls of the run")).to_be_hidden()  # without --control


def test_zoomed_curve_stays_until_a_double_click(open_page: Open, address: str) -> None:
    page = open_page(address)
    until_rounds(page, 10)
    curve = page.locator("#fitness canvas")
    place = page.locator("#fitness .u-over").bounding_box()
    assert place is not None
    x, y, width = place["x"], place["y"] + place["height"] / 2, place["width"]
    page.mouse.move(x + width / 4, y)
    page.mouse.down()
    page.mouse.move(x + width / 2, y, steps=3)
    page.mouse.up()
    zoomed, there = pixels(curve), until_rounds(page, 10)
    until_rounds(page, there + 5)
    assert pixels(curve) == zoomed  # closed rounds do not change
    page.mouse.dblclick(x + width / 2, y)
    until_redrawn(page, curve, zoomed)


def test_page_opened_during_a_run_shows_all_rounds(open_page: Open, address: str, scene: Scene) -> None:
    there = closed(scene.run)
    page = open_page(address)
    until_rounds(page, there)
    table = page.locator("#rounds")
    table.get_by_role("button", name="Last page").click()
    expect(table.locator("tbody tr:visible").last.get_by_role("rowheader")).to_have_text("1")


def test_killed_trainer_is_gone_and_alive_after_a_restart(open_page: Open, address: str, scene: Scene) -> None:
    page = open_page(address)
    row = trainer_row(page, "carol")
    expect(row).to_contain_text("alive")
    scene.kill("carol")
    expect(row).to_contain_text("gone")
    expect(page.locator("#trainers-sum")).to_have_text("2 alive · 1 gone")
    expect(page.locator("#feed")).to_contain_text("carol")
    scene.start_trainer("carol", f"coins.py:3/{len(TRAINERS)}")
    expect(row).to_contain_text("alive")


def test_hidden_tab_has_no_connection_and_continues_where_it_stopped(open_page: Open, address: str) -> None:
    page = open_page(address)
    before = until_rounds(page, 1)
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/stream")):
        turn(page, hidden=True)
    with page.expect_request(re.compile(r"/stream\?after=\d+-\d+$")):
        turn(page, hidden=False)
    until_rounds(page, before + 3)


def test_slider_shows_the_decision_surface_of_a_past_round(open_page: Open, address: str) -> None:
    page = open_page(address)
    until_rounds(page, 10)
    slider, surface = page.get_by_label("Round of the decision surface"), page.locator("#surface")
    expect(slider).to_be_enabled()
    slider.focus()
    with page.expect_response(re.compile(r"/surface\?round=\d+$")) as answered:
        page.keyboard.press("Home")
    first = answered.value.json()["round"]
    expect(surface).to_have_attribute("data-round", str(first))
    expect(page.locator("#surface-round")).to_have_text(f"round {first}")
    early = pixels(surface)
    page.keyboard.press("End")
    expect(surface).not_to_have_attribute("data-round", str(first))
    expect(page.locator("#surface-round")).not_to_have_text(f"round {first}")
    until_redrawn(page, surface, early)
    page.keyboard.press("Home")  # the page keeps it
    expect(surface).to_have_attribute("data-round", str(first))
    assert pixels(surface) == early


def test_page_recovers_from_a_broker_restart_without_a_reload(open_page: Open, address: str, scene: Scene) -> None:
    page = open_page(address)
    until_rounds(page, 1)
    page.evaluate("() => { window.marker = 'kept'; }")
    scene.kill("broker")
    expect(page.locator("#link-text")).to_contain_text("No connection to the broker")
    before = int(page.locator("#fitness").get_attribute("data-rounds") or 0)
    scene.start_broker()
    expect(page.locator("#link-text")).to_have_text("Live")
    until_rounds(page, before + 3)
    expect(page.locator("#state-text")).to_have_text("running")
    assert page.evaluate("() => window.marker") == "kept"


def test_buttons_pause_and_resume_the_run(open_page: Open, scene: Scene) -> None:
    page = open_page(scene.start_dashboard("desk", "--control"))
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#state-text")).to_have_text("paused")
    expect(page.locator("#toast")).not_to_be_empty()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#state-text")).to_have_text("running")
    page.get_by_role("button", name="Ban carol").click()
    expect(page.get_by_role("dialog")).to_contain_text("Ban carol?")
    page.get_by_role("button", name="Cancel").click()
    expect(trainer_row(page, "carol")).not_to_contain_text("banned")
    scene.terminate("desk")
    expect(page.locator("#state-text")).to_have_text("last known: running")
    expect(page.locator("#state")).to_have_attribute("data-tone", "calm")
    expect(page.locator("#present-of")).to_have_text("last known")
    expect(page.locator("#trainers-sum")).to_have_text("last known: 3 alive")


def test_page_shows_a_finished_run_until_another_starts(open_page: Open, address: str) -> None:
    runs: list[dict[str, object]] = []

    def list_runs(*listed: tuple[str, str, int, int]) -> None:
        """Set the list of runs: name, condition, start and newest event of each."""
        same = {"task": "xor", "round": 1, "metric": "loss", "value": None}
        runs[:] = [
            {**same, "run": run, "state": state, "condition": state, "connected": state == "running"}
            | {"started_at": started_at, "event_at": event_at}
            for run, state, started_at, event_at in listed
        ]

    def answer(route: Route) -> None:
        data = json.dumps({"now": 100, "broker": {"address": None, "connected": False}, "runs": runs})
        route.fulfill(content_type="text/event-stream", body=f"retry: 100\nevent: runs\ndata: {data}\n\n")

    page = open_page(address)
    name, verdict = page.get_by_role("heading", level=1), page.locator("#runs [href='#run=first']")
    page.route(re.compile(r"/api/(.*/)?stream"), answer)
    list_runs(("first", "running", 20, 30), ("earlier", "running", 10, 30))
    page.reload()
    expect(name).to_have_text("first")
    list_runs(("earlier", "running", 10, 50), ("first", "solved", 20, 40))
    expect(verdict).to_contain_text("solved")
    expect(name).to_have_text("first")
    list_runs(("later", "running", 60, 60), ("earlier", "running", 10, 50), ("first", "solved", 20, 40))
    expect(name).to_have_text("later")


def test_accuracies_near_the_target_are_no_flat_line(open_page: Open, address: str) -> None:
    page = open_page(address, color_scheme="light")
    serve(page, (of_values(*[0.1] * 3, *np.linspace(0.95, 0.998, 40)), Origin(False, "folder", None)))
    expect(page.locator("#value-text")).to_contain_text("99.8 % after round 43")
    page.wait_for_function("document.querySelector('#value').dataset.rounds === '43'")
    page.wait_for_function(f"canvas => ({SPAN})(canvas) > 0.15", arg=page.locator("#value canvas").element_handle())


def test_restart_of_the_pool_is_marked_and_explained(open_page: Open, address: str) -> None:
    page = open_page(address)
    serve(page, (of_values(0.5, 0.6, 0.6, restarted=3), Origin(False, "folder", None)))
    expect(page.locator("#fitness-text")).to_contain_text(
        "The pool restarted at random in round 3, because no better loss was found: fitness may fall there"
    )
    expect(page.locator("#fitness")).to_have_attribute("data-marked", "3")
    expect(page.locator("#rounds tbody tr").first).to_contain_text("complete, new pool")


def test_nights_are_listed_by_folder_and_can_be_found(open_page: Open, address: str) -> None:
    page = open_page(address)
    nights = [(of_values(0.9), Origin(night == 30, "folder", f"/srv/runs/night-{night:02}")) for night in range(1, 31)]
    for night, (state, _) in enumerate(nights, 1):
        assert state.config is not None
        state.config = structs.replace(state.config, run=f"xor-20261101-0100{night:02}-ab12")
    serve(page, *nights)
    listed, count = page.locator("#runs li .name"), page.locator("#runs-count")
    expect(listed).to_have_text([f"night-{night:02}" for night in range(1, 31)])
    page.get_by_label("Find a run").fill("NIGHT-1 90 %")
    expect(listed).to_have_text([f"night-{night:02}" for night in range(10, 20)])
    expect(count).to_have_text("10 of 30 runs")
    page.get_by_label("Find a run").fill("")
    page.get_by_label("Filter runs").select_option("live")
    expect(listed).to_have_text(["night-30"])
    expect(page.get_by_role("link", name="night-30")).to_have_attribute(
        "title", re.compile("xor-20261101-010030-ab12\nfolder night-30")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_on_held_out_rows_and_findings_are_shown(open_page: Open, address: str, scheme: str) -> None:
    held_out = Metrics(
        rows=100, trainers=2, accuracy=0.96, balanced_accuracy=0.5, auc=0.75, log_loss=0.2, confusion=((96, 0), (4, 0))
    )
    measured = Measured(held_out=held_out, training=held_out.brief(), trainers={"north": held_out.brief()})
    state = of_values(0.9, 0.95, 0.96)
    best = events.Best(
        value=0.96,
        coverage=1.0,
        fitness=-1.0,
        fitness_mean=-2.0,
        fitness_worst=-3.0,
        diversity=0.1,
        value_of="held-out",
        training=0.99,
        balanced_accuracy=0.5,
        auc=0.75,
    )
    close = events.RoundClosed(round=4, why="complete", results=2, round_s=0.5, present=2, best=best)
    state.apply(1005.0, close)
    state.apply(1005.0, events.ModelMeasured(round=4, measured=measured))
    findings = Findings(
        gene_names=("over <b>", "then"),
        gene_types=("int", "int"),
        genes=(140, 1),
        objectives=("right rows", "minus rules"),
        front=tuple(FrontMember(fitness=(90.0 + place, -float(place)), genes=()) for place in (3, 2, 1)),
        correlated=("age", "ill"),
        correlations=((1.0, -0.75), (-0.75, 1.0)),
    )
    state.apply(1005.0, events.FindingsChanged(round=4, findings=findings))
    page = open_page(address, color_scheme=scheme)
    serve(page, (state, Origin(connected=False, source="folder", folder="runs/night")))
    found = page.get_by_role("region", name="Findings", exact=True)
    expect(found.get_by_role("row", name="over <b> 140 int")).to_be_visible()
    expect(found.get_by_role("row", name="age 1.00 −0.75")).to_be_visible()
    expect(found).to_contain_text("Pareto front of 3 candidates: minus rules by right rows.")
    page.locator("#front").scroll_into_view_if_needed()
    expect(page.locator("#front")).to_have_attribute("data-points", "3")
    expect(page.locator("#front canvas")).to_be_visible()
    card = page.get_by_role("region", name="Held-out rows", exact=True)
    expect(card.get_by_role("row", name="Balanced accuracy 50 % 50 %")).to_be_visible()
    expect(card.get_by_role("row", name="AUC 0.75 0.75")).to_be_visible()
    expect(card.get_by_role("row", name="class 1 4 0")).to_be_visible()
    expect(card.get_by_role("row", name="north 96 %")).to_be_visible()
    expect(page.locator("#metric-name")).to_have_text("Held-out accuracy")
    expect(page.locator("#value-text")).to_contain_text("of the held-out rows; 99 % on the rows trained on")
    violations = Axe().run(page).response["violations"]
    assert [(one["id"], one["help"]) for one in violations if one["impact"] in ("serious", "critical")] == []


def test_secure_sums_are_shown_in_place_of_single_figures(open_page: Open, address: str) -> None:
    held_out = Metrics(rows=90, trainers=3, accuracy=0.96)
    state = of_values(0.9)
    close = events.RoundClosed(round=2, why="complete", results=3, round_s=0.5, present=3, best=None, secure=True)
    state.apply(1005.0, close)
    state.apply(1005.0, events.ModelMeasured(round=2, measured=Measured(held_out=held_out)))
    page = open_page(address)
    serve(page, (state, Origin(connected=False, source="folder", folder="runs/night")))
    rounds = page.get_by_role("table", name="Rounds, the newest first")
    expect(rounds.get_by_role("cell", name="secure sum of 3")).to_be_visible()
    card = page.get_by_role("region", name="Held-out rows", exact=True)
    expect(card).to_contain_text("a secure sum of 3: no trainer's own figures are known")
    expect(card.get_by_role("table", name="Figures of each trainer")).to_have_count(0)


def test_run_without_held_out_rows_has_no_card_about_them(open_page: Open, address: str) -> None:
    page = open_page(address)
    until_rounds(page, 1)
    expect(page.locator("#measured-card")).to_be_hidden()
    expect(page.locator("#findings-card")).to_be_hidden()
    expect(page.locator("#metric-name")).to_have_text("Best accuracy")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_reports_no_serious_violation(open_page: Open, address: str, scheme: str) -> None:
    page = open_page(address, color_scheme=scheme)
    until_rounds(page, 5)
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["help"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_keyboard_reaches_the_run_first_and_sets_the_theme(open_page: Open, address: str) -> None:
    page = open_page(address, color_scheme="light")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the run")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    theme = page.get_by_role("button", name="Dark")
    theme.focus()
    page.keyboard.press("Space")
    expect(theme).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_phone_shows_the_state_without_horizontal_scrolling(open_page: Open, address: str) -> None:
    page = open_page(address, **PHONE)
    until_rounds(page, 3)
    expect(page.locator("#state-text")).to_be_in_viewport()
    expect(page.locator("#round")).to_be_in_viewport()
    for target in ("#trainers", "#feed"):
        page.locator(target).scroll_into_view_if_needed()
        assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
