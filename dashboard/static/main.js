// Builds the page: chooses the run to show, receives its events, and repaints the parts that they change.

import { makeControls } from "./controls.js";
import { makeCurves } from "./curves.js";
import { makeFeed } from "./feed.js";
import { makeFindings } from "./findings.js";
import { makeGantt } from "./gantt.js";
import { drawClock, drawHeader, NO_SUCH_RUN } from "./header.js";
import { makeMeasured } from "./measured.js";
import { $, setAttr, paint, paintAll, part, setText } from "./paint.js";
import { PageModel } from "./page_model.js";
import { drawExports, makeRounds } from "./rounds.js";
import { makeRuns } from "./runs.js";
import { Stream } from "./stream.js";
import { makeSurface } from "./surface.js";
import { makeTrainers } from "./trainers.js";

const CURVES = ["fitness", "value", "latency"];
const NEEDS = {
  head: ["header", "clock", "link", "controls", ...CURVES, "surface", "gantt", "measured", "findings"],
  rounds: ["rounds", ...CURVES, "surface", "gantt"],
  trainers: ["trainers", "gantt"],
  works: ["gantt"],
  bests: ["surface"],
  feed: ["feed"],
};

let session = null;
let runs = [];
let broker = null;
let shown = null; // the name of the run
let model = new PageModel();
let why = "connecting …"; // the reason that there is no model
let link = "connecting";

const controls = makeControls(() => session);
const [drawRuns, drawTrainers, drawRounds, drawFeed] = [makeRuns(), makeTrainers(controls.act), makeRounds(), makeFeed()];
const shows = [makeCurves(), makeGantt(), makeSurface(), makeMeasured(), makeFindings()];
const stream = new Stream(receive, (state) => {
  link = state;
  if (state !== "live") model.stopClock();
  paint("link", "header", "clock", "trainers");
});

part("runs", () => drawRuns(runs, shown));
part("link", drawLink);
part("header", () => drawHeader(model, shown, why));
part("clock", () => drawClock(model));
part("controls", () => controls.draw(model));
part("trainers", () => drawTrainers(model, controls.able(model)));
part("rounds", () => drawRounds(model));
part("feed", () => drawFeed(model));

/** The run in the address of the page. */
const chosen = () => new URLSearchParams(location.hash.slice(1)).get("run");

/** The run to show: the chosen one, else the current one until another starts after its end. */
function wanted() {
  const now = runs.find((one) => one.run === shown);
  if (chosen() !== null) return chosen();
  if (now === undefined) return runs[0]?.run ?? shown;
  return now.connected ? shown : (runs.find((one) => one.connected && one.started_at > now.event_at)?.run ?? shown);
}

function choose() {
  const run = wanted();
  if (run === shown) return;
  [shown, why] = [run, "loading …"];
  model = new PageModel();
  for (const show of shows) show(model);
  if (run !== null) drawExports(run);
  stream.open(run === null ? "/api/stream" : `/api/runs/${encodeURIComponent(run)}/stream`);
  paintAll();
}

function receive(name, data) {
  if (name === "runs") {
    ({ runs, broker } = data);
    model.clock(data.now);
    choose();
    if (shown === null) why = "no run yet";
    paint("runs", "link", "header");
  } else if (name === "absent") {
    why = NO_SUCH_RUN;
    model.stopClock();
    paint("header", "clock", "trainers");
  } else if (name === "full") {
    model.replace(data);
    paintAll();
  } else {
    for (const changed of model.merge(data)) paint(...(NEEDS[changed] ?? []));
  }
}

function drawLink() {
  const disconnected = broker !== null && broker.address !== null && !broker.connected;
  const without = model.head?.source === "folder" ? ["calm", "From its folder; no broker"] : ["warn", "No connection to the broker; retrying"];
  const [tone, text] = {
    connecting: ["calm", "Connecting …"],
    live: disconnected ? without : ["good", "Live"],
    lost: ["warn", "No connection to the dashboard; retrying"],
    shut: ["warn", "Open the address that fedmq dashboard printed"],
  }[link];
  setAttr($("link"), "data-tone", tone);
  setText($("link-text"), text);
}

async function begin() {
  try {
    session = await (await fetch("/api/session")).json();
  } catch {
    // The stream shows that the server does not answer, and retries.
  }
  paint("controls", "trainers");
}

addEventListener("hashchange", choose);
setInterval(() => paint("clock", "trainers", ...CURVES, ...(model.isLive() ? ["gantt"] : [])), 1000);
shown = chosen();
for (const show of shows) show(model);
if (shown !== null) drawExports(shown);
stream.open(shown === null ? "/api/stream" : `/api/runs/${encodeURIComponent(shown)}/stream`);
paintAll();
begin();
