// Puts the page together: which run is shown, what comes from the server, and which part has to be painted for it.

import { makeControls } from "./controls.js";
import { makeCurves } from "./curves.js";
import { makeFeed } from "./feed.js";
import { makeGantt } from "./gantt.js";
import { drawClock, drawHeader } from "./header.js";
import { $, mark, paint, paintAll, part, say } from "./paint.js";
import { Picture } from "./picture.js";
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
let link = "connecting";

const controls = makeControls(() => session);
const [drawTrainers, drawRounds, drawFeed] = [makeTrainers(controls.act), makeRounds(), makeFeed()];
const shows = [makeCurves(), makeGantt(), makeSurface()];
const stream = new Stream(hear, (state) => {
  link = state;
  paint("link");
});

part("runs", () => drawRuns(runs, shown));
part("link", drawLink);
part("header", () => drawHeader(picture, shown));
part("clock", () => drawClock(picture));
part("controls", () => controls.draw(picture));
part("trainers", () => drawTrainers(picture, Boolean(session?.control)));
part("rounds", () => drawRounds(picture));
part("feed", () => drawFeed(picture));

/** The run that the reader chose, by the address of the page. */
const chosen = () => new URLSearchParams(location.hash.slice(1)).get("run");

function choose() {
  const run = chosen() ?? (shown && !over(shown) ? shown : (runs[0]?.run ?? null));
  if (run === shown) return;
  shown = run;
  picture = new Picture();
  for (const show of shows) show(picture);
  if (run !== null) drawExports(run);
  stream.open(run === null ? "/api/stream" : `/api/runs/${encodeURIComponent(run)}/stream`);
  paintAll();
}

/** Whether nothing more is to come of a run, so that a newer one may be shown. */
const over = (run) => runs.find((one) => one.run === run)?.here !== true;

function hear(name, data) {
  if (name === "runs") {
    ({ runs, broker } = data);
    picture.clock(data.now);
    choose();
    if (shown === null) say($("state-text"), "no run yet");
    paint("runs", "link");
  } else if (name === "absent") {
    say($("state-text"), "not known here yet");
  } else if (name === "full") {
    picture.replace(data);
    paintAll();
  } else {
    for (const changed of picture.merge(data)) paint(...(NEEDS[changed] ?? []));
  }
}

function drawLink() {
  const away = broker !== null && broker.address !== null && !broker.there;
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
setInterval(() => paint("clock", "trainers", "gantt", ...CURVES), 1000);
shown = chosen();
for (const show of shows) show(picture);
if (shown !== null) drawExports(shown);
stream.open(shown === null ? "/api/stream" : `/api/runs/${encodeURIComponent(shown)}/stream`);
paintAll();
begin();
