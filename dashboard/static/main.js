// Puts the page together: which run is shown, what comes from the server, and which part has to be painted for it.

import { makeControls } from "./controls.js";
import { makeCurves } from "./curves.js";
import { makeFeed } from "./feed.js";
import { makeGantt } from "./gantt.js";
import { drawClock, drawHeader, NO_SUCH_RUN } from "./header.js";
import { $, mark, paint, paintAll, part, say } from "./paint.js";
import { Picture } from "./page_model.js";
import { drawExports, makeRounds } from "./rounds.js";
import { drawRuns } from "./runs.js";
import { Stream } from "./stream.js";
import { makeSurface } from "./surface.js";
import { makeTrainers } from "./trainers.js";

const CURVES = ["fitness", "value", "latency"];
const NEEDS = {
  head: ["header", "clock", "link", "controls", ...CURVES, "surface", "gantt"],
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
let picture = new Picture();
let why = "connecting …"; // there is no picture
let link = "connecting";

const controls = makeControls(() => session);
const [drawTrainers, drawRounds, drawFeed] = [makeTrainers(controls.act), makeRounds(), makeFeed()];
const shows = [makeCurves(), makeGantt(), makeSurface()];
const stream = new Stream(hear, (state) => {
  link = state;
  if (state !== "live") picture.halt();
  paint("link", "header", "clock", "trainers");
});

part("runs", () => drawRuns(runs, shown));
part("link", drawLink);
part("header", () => drawHeader(picture, shown, why));
part("clock", () => drawClock(picture));
part("controls", () => controls.draw(picture));
part("trainers", () => drawTrainers(picture, controls.able(picture)));
part("rounds", () => drawRounds(picture));
part("feed", () => drawFeed(picture));

/** The run that the reader chose, by the address of the page. */
const chosen = () => new URLSearchParams(location.hash.slice(1)).get("run");

/** The run to show: the one that was chosen, else the one that is shown, until another begins after its end. */
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
  picture = new Picture();
  for (const show of shows) show(picture);
  if (run !== null) drawExports(run);
  stream.open(run === null ? "/api/stream" : `/api/runs/${encodeURIComponent(run)}/stream`);
  paintAll();
}

function hear(name, data) {
  if (name === "runs") {
    ({ runs, broker } = data);
    picture.clock(data.now);
    choose();
    if (shown === null) why = "no run yet";
    paint("runs", "link", "header");
  } else if (name === "absent") {
    why = NO_SUCH_RUN;
    picture.halt();
    paint("header", "clock", "trainers");
  } else if (name === "full") {
    picture.replace(data);
    paintAll();
  } else {
    for (const changed of picture.merge(data)) paint(...(NEEDS[changed] ?? []));
  }
}

function drawLink() {
  const away = broker !== null && broker.address !== null && !broker.connected;
  const without = picture.head?.source === "folder" ? ["calm", "From its folder; no broker"] : ["warn", "The broker is away; waiting for it"];
  const [tone, text] = {
    connecting: ["calm", "Connecting …"],
    live: away ? without : ["good", "Live"],
    lost: ["warn", "The dashboard is away; trying again"],
    shut: ["warn", "Open the address that fedmq dashboard printed"],
  }[link];
  mark($("link"), "data-tone", tone);
  say($("link-text"), text);
}

async function begin() {
  try {
    session = await (await fetch("/api/session")).json();
  } catch {
    // The stream says that the server is away, and tries again.
  }
  paint("controls", "trainers");
}

addEventListener("hashchange", choose);
setInterval(() => paint("clock", "trainers", ...CURVES, ...(picture.goesOn() ? ["gantt"] : [])), 1000);
shown = chosen();
for (const show of shows) show(picture);
if (shown !== null) drawExports(shown);
stream.open(shown === null ? "/api/stream" : `/api/runs/${encodeURIComponent(shown)}/stream`);
paintAll();
begin();
