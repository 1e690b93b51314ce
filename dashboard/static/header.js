// The head of the page: the state of the run and five figures.

import { ago, count, date, duration, NOTHING, plural, value } from "./format.js";
import { $, setAttr, setText } from "./paint.js";
import { TONES } from "./tones.js";

const FIGURES = ["round", "metric", "eta", "progress-age", "present"];
const NOTES = ["run-about", "round-of", "metric-target", "eta-note", "progress-note", "present-of"];

export const NO_SUCH_RUN = "no such run";

/**
 * Paint the state of the run `name`, or the reason `why` it is unknown. `drawClock` paints what changes with time.
 */
export function drawHeader(model, name, why) {
  const head = model.head;
  const absent = head === null && why === NO_SUCH_RUN;
  $("main").classList.toggle("absent", absent);
  setAttr($("main"), "aria-busy", name !== null && head === null && !absent);
  if (head === null) return drawNothing(name, why);
  setText($("run-name"), head.run);
  setText($("run-about"), about(head));
  drawState(model, head);
  drawFigures(model, head);
  drawBar(head);
  document.title = `${head.task || head.run} · fedmq`; // without figures: hidden tabs receive no updates
}

function drawNothing(name, why) {
  setText($("run-name"), name ?? "Waiting for a run");
  setAttr($("state"), "data-tone", "calm");
  setText($("state-text"), why);
  $("bar-fill").style.transform = "scaleX(0)";
  document.title = "fedmq";
  $("alarm").hidden = true;
  for (const id of FIGURES) setText($(id), NOTHING);
  for (const id of NOTES) setText($(id), "");
  if (why === NO_SUCH_RUN) setText($("run-about"), "There is no such run. Choose one from the list.");
}

function about(head) {
  const parts = [head.task, head.model, head.algorithm, head.robust && `robust rule: ${head.robust}`, head.privacy, `seed ${head.seed}`];
  const folder = head.folder?.split("/").at(-1);
  return [...parts, `started ${date(head.started_at)}`, folder && folder !== head.run && `folder ${folder}`].filter(Boolean).join(" · ");
}

function drawState(model, head) {
  const known = head.finished !== null || model.isCurrent();
  setAttr($("state"), "data-tone", (known && TONES[head.condition]) || "calm");
  // The figures show the seconds of a stall; a screen reader would read each of them here.
  const state = head.condition === "stalled" ? "stalled" : head.state;
  setText($("state-text"), known ? state : `last known: ${state}`);
  const stalled = head.condition === "stalled";
  const failed = head.condition === "failed";
  if (failed) setText($("alarm"), `The run has failed: ${head.finished.detail}.`);
  if (stalled && $("alarm").hidden) {
    const reason = model.feed.findLast((one) => one.kind === "stalled")?.text;
    setText($("alarm"), `The run has stalled: ${reason ?? "no result of the open round arrives"}.`);
  }
  $("alarm").hidden = !stalled && !failed;
}

function drawFigures(model, head) {
  setText($("round"), head.round ? count(head.round) : NOTHING);
  setText($("round-of"), head.rounds_max ? `of ${count(head.rounds_max)}` : "");
  const which = head.best?.value_of === "held-out" ? "Held-out" : "Best";
  setText($("metric-name"), head.metric ? `${which} ${head.metric}` : which);
  setText($("metric"), value((head.finished ?? {}).value ?? head.best?.value, head.metric));
  setText($("metric-target"), head.target === null ? "" : `target ${value(head.target, head.metric)}`);
  setText($("present"), count(head.present));
  setText($("present-of"), model.asOf() || (head.present < head.min_trainers ? `${head.min_trainers} needed` : "present"));
}

function drawBar(head) {
  const done = head.finished?.solved ? 1 : head.rounds_max ? Math.min(1, head.round / head.rounds_max) : 0;
  $("bar-fill").style.transform = `scaleX(${done})`;
  setAttr($("bar"), "aria-valuenow", Math.round(100 * done));
  setAttr($("bar"), "aria-valuetext", head.rounds_max ? `${head.round} of ${plural(head.rounds_max, "round")}` : null);
}

/** Paint what changes with time alone. */
export function drawClock(model) {
  const head = model.head;
  if (head === null) return;
  const now = model.now();
  const over = head.finished !== null;
  const until = over || !head.connected ? head.event_at : now;
  setText($("eta-name"), over || !head.connected ? "Run time" : "Time left");
  const left = over || !head.connected ? Math.max(0, until - head.started_at) : head.left_s;
  setText($("eta"), duration(left));
  setText($("eta-note"), !over && head.connected && left !== null ? "at most" : "");
  const age = head.progress_at ? Math.max(0, now - head.progress_at) : null;
  setText($("progress-age"), age === null ? NOTHING : ago(age));
  setText($("progress-note"), age === null || age < 1 ? "" : "ago");
}
