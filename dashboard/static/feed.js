// The feed of events, the newest first, with a filter.

import { moment, time } from "./format.js";
import { $, make, paint } from "./paint.js";

const SHOWN_MAX = 100;
const ROUNDS = ["round-closed", "checkpoint-kept"];
const GROUPS = {
  most: ["All except rounds", (one) => !ROUNDS.includes(one.kind)],
  all: ["All", () => true],
  problems: ["Problems", (one) => one.level === "warn" || one.level === "bad"],
  rounds: ["Rounds", (one) => ROUNDS.includes(one.kind)],
  trainers: ["Trainers", (one) => one.kind.startsWith("trainer-") || one.kind === "waiting"],
  results: ["Results", (one) => one.kind.startsWith("result-")],
  run: ["The run", (one) => one.kind.startsWith("run-")],
};

/** Make the feed; returns `draw(model)`. */
export function makeFeed() {
  const list = $("feed");
  const kind = $("feed-kind");
  let shown = { model: null, kind: "", seq: -1 };
  for (const [name, [text]] of Object.entries(GROUPS)) kind.append(make("option", { value: name, text }));
  kind.addEventListener("change", () => paint("feed"));

  return (model) => {
    if (model !== shown.model || kind.value !== shown.kind || (model.feed.at(-1)?.seq ?? -1) < shown.seq) {
      list.replaceChildren();
      shown = { model, kind: kind.value, seq: -1 };
    }
    const wanted = GROUPS[kind.value][1];
    const fresh = model.feed.filter((one) => one.seq > shown.seq && wanted(one)).slice(-SHOWN_MAX);
    list.prepend(...fresh.reverse().map(item));
    while (list.children.length > SHOWN_MAX) list.lastChild.remove();
    shown.seq = model.feed.at(-1)?.seq ?? -1;
    $("feed-empty").hidden = list.children.length > 0;
    $("feed-empty").textContent = model.feed.length ? "No such event." : "No event yet.";
  };
}

const item = (one) => make("li", { "data-tone": one.level }, make("time", { text: time(one.at), title: moment(one.at) }), make("p", { text: one.text }));
