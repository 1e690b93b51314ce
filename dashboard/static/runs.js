// The list of live and finished runs, with a search and a filter.

import { date, exactDate, plural, value } from "./format.js";
import { $, make, paint, setAttr, setText } from "./paint.js";
import { TONES } from "./tones.js";

const GROUPS = {
  all: ["All", () => true],
  live: ["Live", (run) => run.connected],
  over: ["Over", (run) => !run.connected],
  problems: ["Problems", (run) => ["warn", "bad"].includes(TONES[run.condition])],
};

/** Make the list; returns `draw(runs, shown)`, where `shown` is the name of the run that the page shows. */
export function makeRuns() {
  const [list, find, kind] = [$("runs"), $("runs-find"), $("runs-kind")];
  for (const [name, [text]] of Object.entries(GROUPS)) kind.append(make("option", { value: name, text }));
  kind.addEventListener("change", () => paint("runs"));
  find.addEventListener("input", () => paint("runs"));

  return (runs, shown) => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = runs.filter(GROUPS[kind.value][1]).filter((run) => words.every((word) => text(run).includes(word)));
    $("runs-tools").hidden = runs.length < 2;
    setText($("runs-count"), matching.length < runs.length ? `${matching.length} of ${plural(runs.length, "run")}` : "");
    $("runs-empty").hidden = runs.length > 0;
    drawItems(list, matching, shown);
  };
}

function drawItems(list, runs, shown) {
  const names = runs.map((run) => named(run, date));
  while (list.children.length > runs.length) list.lastChild.remove();
  runs.forEach((run, at) => {
    const item = list.children[at] ?? list.appendChild(newItem());
    const link = item.firstChild;
    setAttr(link, "href", `#run=${run.run}`);
    setAttr(link, "data-tone", TONES[run.condition] ?? "calm");
    setAttr(link, "aria-current", run.run === shown ? "page" : null);
    setAttr(link, "title", [run.run, run.folder && `folder ${run.folder}`, about(run)].filter(Boolean).join("\n"));
    const alone = names.indexOf(names[at]) === names.lastIndexOf(names[at]);
    setText(link.children[1], alone ? names[at] : named(run, exactDate));
    setText(link.children[2], about(run));
  });
}

function newItem() {
  const parts = [{ class: "dot", "aria-hidden": "true" }, { class: "name" }, { class: "about" }];
  return make("li", {}, make("a", {}, ...parts.map((one) => make("span", one))));
}

/** The name of a run's folder where a user has chosen one; else a generated name, shortened to task and start time. */
function named(run, when) {
  if (run.folder && run.folder !== run.run) return run.folder;
  const made = run.run.startsWith(`${run.task}-`) && /-\d{8}-\d{6}(-\w+)?$/.test(run.run);
  return made && run.started_at ? `${run.task}, ${when(run.started_at)}` : run.run;
}

function about(run) {
  const state = run.condition === "stalled" ? "stalled" : run.state;
  const best = run.value === null ? [] : [value(run.value, run.metric)];
  const when = run.folder && run.folder !== run.run && run.started_at ? [date(run.started_at)] : [];
  return [state, ...best, ...(run.round ? [plural(run.round, "round")] : []), ...when].join(" · ");
}

/** The text that a search looks at. */
const text = (run) => [run.run, run.folder ?? "", run.task, run.algorithm, about(run), date(run.started_at)].join(" ").toLowerCase();
