// The table of rounds, the newest first, and the links to take everything away as a file.

import { bytes, count, duration, moment, NOTHING, time, value } from "./format.js";
import { $, make, mark, paint } from "./paint.js";
import { Table } from "./table.js";

const ROWS = 12;

/** Make the table; returns `draw(picture)`. */
export function makeRounds() {
  let picture = null;
  let turnedAt = null; // how many rounds there were when the reader left the first page: later ones move nothing
  const get = (name) => (at) => picture.rounds[name][at];
  const columns = [
    { name: "Round", head: true, cell: (at) => count(get("round")(at)) },
    { name: "Published", cell: timeCell("published_at") },
    { name: "Closed", cell: timeCell("closed_at") },
    { name: "Why", cell: whyCell },
    { name: "Took", number: true, cell: (at) => duration(get("round_s")(at)) },
    { name: "Received", number: true, cell: (at) => `${count(get("results")(at))} of ${count(get("invited")(at))}` },
    { name: "Late", number: true, cell: toneCell("late", "warn") },
    { name: "Rejected", number: true, cell: toneCell("rejected", "bad") },
    { name: "Up", number: true, cell: (at) => bytes(get("bytes_up")(at)) },
    { name: "Down", number: true, cell: (at) => bytes(get("bytes_down")(at)) },
    { name: "Best", number: true, cell: (at) => value(get("value")(at), picture.head.metric) },
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
      mark(cell, "title", at === null ? null : moment(at));
      return at === null ? NOTHING : time(at);
    };
  }

  function whyCell(at, cell) {
    const why = get("why")(at) || (get("closed_at")(at) === null ? "open" : NOTHING);
    mark(cell, "class", why === "deadline" ? "warn" : "");
    return why;
  }

  function toneCell(name, tone) {
    return (at, cell) => {
      const n = get(name)(at);
      mark(cell, "class", n ? `number ${tone}` : "number");
      return count(n);
    };
  }

  return (next) => {
    if (next !== picture) [turnedAt, table.page] = [null, 0];
    picture = next;
    const length = picture.length();
    turnedAt = table.page === 0 ? null : Math.min(turnedAt ?? length, length);
    const from = turnedAt ?? length;
    table.draw(from, (at) => from - 1 - at);
  };
}

/** Point the links at the run's files. */
export function drawExports(run) {
  const links = ["csv", "json"].map((kind) =>
    make("a", { href: `/api/runs/${encodeURIComponent(run)}/export.${kind}`, download: `${run}.${kind}`, text: kind.toUpperCase() }),
  );
  $("exports").replaceChildren("Take away as", ...links);
}
