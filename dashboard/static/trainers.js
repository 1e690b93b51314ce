// The table of trainers: presence, speed and contribution.

import { ago, bytes, count, duration, NOTHING, share } from "./format.js";
import { $, make, setAttr, paint, setText } from "./paint.js";
import { Table } from "./table.js";

const ROWS = 12;
const ORDERED_MS = 1000; // between two sorts of the rows
const TONE = { alive: "good", suspect: "warn", silent: "warn", gone: "gone" };
const RANK = { alive: 0, suspect: 1, silent: 2, gone: 3 };
const inOrder = new Intl.Collator("en", { numeric: true }).compare;

/** Make the table; its buttons call `act(action, name)`. Returns `draw(model, control)`. */
export function makeTrainers(act) {
  let model = null;
  let control = false;
  let order = [];
  let orderedAt = -Infinity;
  const find = $("trainers-find");
  const redraw = () => {
    orderedAt = -Infinity;
    paint("trainers");
  };
  const columns = columnsFor(() => model, act);
  const tables = [false, true].map((acting) => {
    const box = make("div");
    $("trainers").append(box);
    const table = new Table(box, {
      caption: "Trainers",
      columns: columns.filter((column) => acting || !column.acting),
      size: ROWS,
      nothing: () => (find.value ? "No such trainer." : "Waiting for the first trainer."),
      redraw,
    });
    [table.by] = columns;
    return { box, table };
  });
  find.addEventListener("input", redraw);

  function reorder(table) {
    if (performance.now() - orderedAt < ORDERED_MS && order.length) return;
    orderedAt = performance.now();
    const wanted = find.value.trim().toLowerCase();
    const all = [...model.trainers.values()];
    const found = wanted ? all.filter((one) => searchText(one).includes(wanted)) : all;
    const key = table.by.sort;
    const sign = table.down ? -1 : 1;
    order = found
      .map((one) => [key(one), one.name])
      .sort(([a, m], [b, n]) => sign * (typeof a === "string" ? inOrder(a, b) : a - b) || inOrder(m, n))
      .map(([, name]) => name);
  }

  return (next, mayControl) => {
    if (next !== model) orderedAt = -Infinity;
    [model, control] = [next, mayControl];
    tables.forEach(({ box }, acting) => (box.hidden = Boolean(acting) !== control));
    const { table } = tables[Number(control)];
    reorder(table);
    const known = order.filter((name) => model.trainers.has(name));
    table.draw(known.length, (at) => model.trainers.get(known[at]));
    setText($("trainers-sum"), summary(model));
  };
}

const searchText = (one) => [one.name, one.presence, one.barred, one.reason, one.version, one.fingerprint, ...one.labels].join(" ").toLowerCase();

function summary(model) {
  const by = { alive: 0, suspect: 0, silent: 0, gone: 0 };
  for (const one of model.trainers.values()) by[one.presence] += 1;
  const counts = Object.entries(by)
    .filter(([, n]) => n)
    .map(([presence, n]) => `${count(n)} ${presence}`)
    .join(" · ");
  return counts && model.asOf() ? `${model.asOf()}: ${counts}` : counts;
}

function columnsFor(model, act) {
  const number = (name, of, text = count) => ({ name, number: true, sort: of, cell: (one) => text(of(one)) });
  const known = (text) => (x) => (x ? text(x) : NOTHING);
  return [
    { name: "Name", head: true, sort: (one) => one.name, cell: nameCell },
    { name: "State", sort: (one) => RANK[one.presence], cell: (one, cell) => presenceCell(model(), one, cell) },
    { name: "Last seen", number: true, sort: (one) => -one.seen_at, cell: (one) => since(model(), one) },
    number("Training", (one) => one.train_s, known(duration)),
    number("Round trip", (one) => one.round_trip_s, known(duration)),
    number("Rows", (one) => one.num_examples, known(count)),
    { name: "Contribution", number: true, sort: (one) => one.results, cell: (one) => contribution(model(), one) },
    number("Late", (one) => one.late),
    { ...number("Rejected", (one) => one.rejected), cell: rejectedCell },
    { name: "Metrics", sort: (one) => one.metrics, cell: (one) => one.metrics || NOTHING },
    number("CPU", (one) => one.cpu, known(share)),
    number("Memory", (one) => one.memory, known(bytes)),
    { name: "Version", sort: (one) => one.version, cell: (one) => one.version || NOTHING },
    { name: "Key", cell: keyCell },
    { name: "Actions", acting: true, cell: (one, cell) => buttonsCell(one, cell, act) },
  ];
}

function since(model, one) {
  const age = ago(Math.max(0, model.now() - one.seen_at));
  return age === "now" ? age : `${age} ago`;
}

const contribution = (model, one) =>
  model.head.results ? `${share(one.results / model.head.results)} · ${count(one.results)}` : NOTHING;

function nameCell(one, cell) {
  const labels = one.labels.join("\n");
  if (cell.dataset.name === one.name && cell.dataset.labels === labels) return;
  Object.assign(cell.dataset, { name: one.name, labels });
  cell.title = [one.name, ...one.labels].join("\n");
  cell.replaceChildren(make("span", { class: "name", text: one.name }), ...one.labels.map((text) => make("span", { class: "tag", text })));
}

function presenceCell(model, one, cell) {
  if (!cell.firstChild) {
    cell.append(make("span", { class: "presence" }, make("span", { class: "dot", "aria-hidden": "true" }), make("span")));
  }
  setAttr(cell.firstChild, "data-tone", one.presence !== "gone" && model.asOf() ? "past" : TONE[one.presence]);
  setText(cell.firstChild.lastChild, [one.presence, one.barred, one.reason, one.differs && "differs"].filter(Boolean).join(", "));
  setAttr(cell.firstChild, "title", one.detail || one.differs);
}

function rejectedCell(one, cell) {
  setAttr(cell, "class", one.rejected ? "number bad" : "number");
  return count(one.rejected);
}

function keyCell(one, cell) {
  if (!cell.firstChild) cell.append(make("code"));
  setText(cell.firstChild, one.fingerprint ? one.fingerprint.slice(0, 8) : NOTHING);
  setAttr(cell.firstChild, "title", one.fingerprint || null);
}

const ACTS = { "": ["drain", "ban"], drained: ["readmit", "ban"], banned: ["readmit"] };

function buttonsCell(one, cell, act) {
  const key = `${one.name}\n${one.barred}`;
  if (cell.dataset.key === key) return;
  cell.dataset.key = key;
  const buttons = (ACTS[one.barred] ?? []).map((action) => {
    const name = action[0].toUpperCase() + action.slice(1);
    const button = make("button", { type: "button", class: "quiet", text: name, "aria-label": `${name} ${one.name}` });
    button.addEventListener("click", () => act(action, one.name));
    return button;
  });
  cell.replaceChildren(make("span", { class: "rowbuttons" }, ...buttons));
}
