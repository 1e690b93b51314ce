// The list of live and finished runs.

import { date, exactDate, plural, value } from "./format.js";
import { $, make, setAttr, setText } from "./paint.js";
import { TONES } from "./tones.js";

/** Paint the list; `shown` is the name of the run that the page shows. */
export function drawRuns(runs, shown) {
  const list = $("runs");
  const names = runs.map((run) => named(run, date));
  $("runs-empty").hidden = runs.length > 0;
  while (list.children.length > runs.length) list.lastChild.remove();
  runs.forEach((run, at) => {
    const item = list.children[at] ?? list.appendChild(newItem());
    const link = item.firstChild;
    setAttr(link, "href", `#run=${run.run}`);
    setAttr(link, "data-tone", TONES[run.condition] ?? "calm");
    setAttr(link, "aria-current", run.run === shown ? "page" : null);
    setAttr(link, "title", `${run.run}\n${about(run)}`);
    const alone = names.indexOf(names[at]) === names.lastIndexOf(names[at]);
    setText(link.children[1], alone ? names[at] : named(run, exactDate));
    setText(link.children[2], about(run));
  });
}

function newItem() {
  const parts = [{ class: "dot", "aria-hidden": "true" }, { class: "name" }, { class: "about" }];
  return make("li", {}, make("a", {}, ...parts.map((one) => make("span", one))));
}

/** Shorten a name that fedmq generated to its task and start time. */
function named(run, when) {
  const made = run.run.startsWith(`${run.task}-`) && /-\d{8}-\d{6}(-\w+)?$/.test(run.run);
  return made && run.started_at ? `${run.task}, ${when(run.started_at)}` : run.run;
}

function about(run) {
  const state = run.condition === "stalled" ? "stalled" : run.state;
  const best = run.value === null ? [] : [value(run.value, run.metric)];
  return [state, ...best, ...(run.round ? [plural(run.round, "round")] : [])].join(" · ");
}
