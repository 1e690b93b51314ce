// The head of the page: how the run stands, in words and five figures.

import { ago, count, date, duration, NOTHING, plural, value } from "./format.js";
import { $, mark, say } from "./paint.js";
import { TONES } from "./tones.js";

const FIGURES = ["round", "metric", "eta", "progress-age", "present"];
const NOTES = ["run-about", "round-of", "metric-target", "eta-note", "progress-note", "present-of"];

export const NO_SUCH_RUN = "no such run";

/**
 * Paint what the events say of the run of that name, or `why` there is nothing to say yet; what goes on with the clock
 * is in `drawClock`.
 */
export function drawHeader(picture, name, why) {
  const head = picture.head;
  const absent = head === null && why === NO_SUCH_RUN;
  $("main").classList.toggle("absent", absent);
  mark($("main"), "aria-busy", name !== null && head === null && !absent);
  if (head === null) return drawNothing(name, why);
  say($("run-name"), head.run);
  say($("run-about"), about(head));
  drawState(picture, head);
  drawFigures(picture, head);
  drawBar(head);
  document.title = `${head.task || head.run} · fedmq`; // without figures: a tab that nobody looks at is told nothing
}

function drawNothing(name, why) {
  say($("run-name"), name ?? "Waiting for a run");
  mark($("state"), "data-tone", "calm");
  say($("state-text"), why);
  $("bar-fill").style.transform = "scaleX(0)";
  document.title = "fedmq";
  $("alarm").hidden = true;
  for (const id of FIGURES) say($(id), NOTHING);
  for (const id of NOTES) say($(id), "");
  if (why === NO_SUCH_RUN) say($("run-about"), "No run of that name is here. The list has those that are.");
}

function about(head) {
  const parts = [head.task, head.model, head.strategy, head.robust && `against liars: ${head.robust}`, `seed ${head.seed}`];
  return [...parts, `begun ${date(head.started_at)}`].filter(Boolean).join(" · ");
}

function drawState(picture, head) {
  const sure = head.finished !== null || picture.isHeard();
  mark($("state"), "data-tone", (sure && TONES[head.condition]) || "calm");
  // The seconds of a stall are in the figures: here they would be read aloud one by one.
  const state = head.condition === "stalled" ? "stalled" : head.state;
  say($("state-text"), sure ? state : `last known: ${state}`);
  const stalled = head.condition === "stalled";
  if (stalled && $("alarm").hidden) {
    const told = picture.feed.findLast((one) => one.kind === "stalled")?.text;
    say($("alarm"), `The run has stalled: ${told ?? "nothing has come for the open round"}.`);
  }
  $("alarm").hidden = !stalled;
}

function drawFigures(picture, head) {
  say($("round"), head.round ? count(head.round) : NOTHING);
  say($("round-of"), head.rounds_max ? `of ${count(head.rounds_max)}` : "");
  say($("metric-name"), head.metric ? `Best ${head.metric}` : "Best");
  say($("metric"), value((head.finished ?? {}).value ?? head.best?.value, head.metric));
  say($("metric-target"), head.target === null ? "" : `target ${value(head.target, head.metric)}`);
  say($("present"), count(head.present));
  say($("present-of"), picture.past() || (head.present < head.min_trainers ? `${head.min_trainers} needed` : "here"));
}

function drawBar(head) {
  const done = head.finished?.solved ? 1 : head.rounds_max ? Math.min(1, head.round / head.rounds_max) : 0;
  $("bar-fill").style.transform = `scaleX(${done})`;
  mark($("bar"), "aria-valuenow", Math.round(100 * done));
  mark($("bar"), "aria-valuetext", head.rounds_max ? `${head.round} of ${plural(head.rounds_max, "round")}` : null);
}

/** Paint what changes with time alone. */
export function drawClock(picture) {
  const head = picture.head;
  if (head === null) return;
  const now = picture.now();
  const over = head.finished !== null;
  const until = over || !head.connected ? head.event_at : now;
  say($("eta-name"), over || !head.connected ? "It ran for" : "Time left");
  const left = over || !head.connected ? Math.max(0, until - head.started_at) : head.left_s;
  say($("eta"), duration(left));
  say($("eta-note"), !over && head.connected && left !== null ? "at most" : "");
  const age = head.progress_at ? Math.max(0, now - head.progress_at) : null;
  say($("progress-age"), age === null ? NOTHING : ago(age));
  say($("progress-note"), age === null || age < 1 ? "" : "ago");
}
