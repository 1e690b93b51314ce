// The table of rounds, the newest first, and the links to download a run.

import { bytes, count, duration, moment, NOTHING, time, value } from "./format.js";
import { $, make, setAttr, paint } from "./paint.js";
import { Table } from "./table.js";

const ROWS = 12;

/** Make the table; returns `draw(model)`. */
export function makeRounds() {
  let model = null;
  let turnedAt = null; // number of rounds when the reader left the first page: later rounds move no row
  const get = (name) => (at) => model.rounds[name][at];
  const columns = [
    { name: "Round", head: true, cell: (at) => count(get("round")(at)) },
    { name: "Published", cell: timeCell("published_at") },
    { name: "Closed", cell: timeCell("closed_at") },
    { name: "Why", cell: whyCell },
    { name: "Duration", number: true, cell: (at) => duration(get("round_s")(at)) },
    { name: "Results", number: true, cell: resultsCell },
    { name: "Late", number: true, cell: toneCell("late", "warn") },
    { name: "Rejected", number: true, cell: toneCell("rejected", "bad") },
    { name: "In", number: true, cell: (at) => bytes(get("bytes_up")(at)) },
    { name: "Out", number: true, cell: (at) => bytes(get("bytes_down")(at)) },
    { name: "Best", number: true, cell: (at) => value(get("value")(at), model.head.metric) },
  ];
  const table = new Table($("rounds"), {
    caption: "Rounds, the newest first",
    columns,
    size: ROWS,
    nothing: () => "Waiting for the first round.",
    redraw: () => paint("rounds"),
  });

  function timeCell(name) {
    return (row, cell) => {
      const at = get(name)(row);
      setAttr(cell, "title", at === null ? null : moment(at));
      return at === null ? NOTHING : time(at);
    };
  }

  function resultsCell(at, cell) {
    const results = count(get("results")(at));
    setAttr(cell, "class", get("secure")(at) ? "number wrapped" : "number");
    return get("secure")(at) ? `secure sum of ${results}` : `${results} of ${count(get("invited")(at))}`;
  }

  function whyCell(at, cell) {
    const why = get("why")(at) || (get("closed_at")(at) === null ? "open" : NOTHING);
    setAttr(cell, "class", why === "deadline" ? "warn" : "");
    return get("restarted")(at) ? `${why}, new pool` : why;
  }

  function toneCell(name, tone) {
    return (at, cell) => {
      const n = get(name)(at);
      setAttr(cell, "class", n ? `number ${tone}` : "number");
      return count(n);
    };
  }

  return (next) => {
    if (next !== model) [turnedAt, table.page] = [null, 0];
    model = next;
    const length = model.length();
    turnedAt = table.page === 0 ? null : Math.min(turnedAt ?? length, length);
    const from = turnedAt ?? length;
    table.draw(from, (at) => from - 1 - at);
  };
}

/** Set the links to the files of the run. */
export function drawExports(run) {
  const links = ["csv", "json"].map((kind) =>
    make("a", { href: `/api/runs/${encodeURIComponent(run)}/export.${kind}`, download: `${run}.${kind}`, text: kind.toUpperCase() }),
  );
  $("exports").replaceChildren("Download", ...links);
}
