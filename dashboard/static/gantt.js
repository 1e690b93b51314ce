// The work of trainers over the newest rounds: a line for each trainer, a bar for each result. Stragglers stand out,
// because the other trainers wait for them.

import { count, duration, plural } from "./format.js";
import { $, color, paint, part, prepare, setText, sized } from "./paint.js";

const LINES_MAX = 16;
const LINES_MIN = 4; // so that nothing moves when the first trainers join
const LINE_PX = 26;
const AXIS_PX = 24;
const ORDERED_MS = 1000;
const inOrder = new Intl.Collator("en", { numeric: true }).compare;

/** Make the chart; returns `show(model)`, to be called for another run. */
export function makeGantt() {
  const canvas = $("gantt");
  const box = sized($("gantt-box"), "gantt");
  let model = null;
  let lines = [];
  let orderedAt = -Infinity;
  let bars = []; // for the pointer: [x, width, line, work]
  let pointed = false;

  function order() {
    if (performance.now() - orderedAt < ORDERED_MS && lines.length) return;
    orderedAt = performance.now();
    const all = [...model.trainers.values()];
    const few = all.length <= LINES_MAX;
    const seen = few ? all : all.filter((one) => one.presence !== "gone").sort((a, b) => slowness(b) - slowness(a));
    lines = seen.slice(0, LINES_MAX).map((one) => one.name);
    if (few) lines.sort(inOrder);
  }

  /** The shown time span, and its rounds. */
  function span() {
    const { rounds, head } = model;
    const length = model.length();
    const from = Math.max(0, length - Number($("gantt-rounds").value));
    const last = rounds.closed_at?.[length - 1] ?? (head.connected ? model.now() : head.event_at);
    return { from, length, start: rounds.published_at[from], end: Math.max(last, rounds.published_at[length - 1] + 1e-3) };
  }

  function draw() {
    if (model === null || model.head === null) return;
    order();
    const width = box.width;
    const height = Math.max(LINES_MIN, lines.length) * LINE_PX + AXIS_PX;
    if (canvas.style.height !== `${height}px`) canvas.style.height = `${height}px`;
    const context = prepare(canvas, width, height);
    context.font = '12px "Inter", system-ui, sans-serif';
    context.textBaseline = "middle";
    const left = Math.ceil(Math.min(width * 0.28, Math.max(48, ...lines.map((name) => context.measureText(name).width)))) + 14;
    drawNames(context, left, width);
    bars = [];
    if (model.length() === 0) return void showText();
    const time = span();
    const x = (at) => left + (Math.max(0, at - time.start) / (time.end - time.start)) * (width - left - 2);
    drawRounds(context, time, x, height);
    drawWorks(context, time, x);
    drawOpen(context, time, x);
    showText(time);
  }

  function drawNames(context, left, width) {
    lines.forEach((name, line) => {
      const y = line * LINE_PX + LINE_PX / 2;
      context.fillStyle = color("line");
      context.fillRect(left, y - 0.5, width - left, 1);
      context.fillStyle = color(model.trainers.get(name)?.presence === "gone" ? "soft" : "ink");
      context.textAlign = "left";
      context.fillText(fitted(context, name, left - 14), 0, y);
    });
  }

  function drawRounds(context, { from, length }, x, height) {
    const { round, published_at, closed_at } = model.rounds;
    context.textAlign = "left";
    let free = -Infinity;
    for (let at = from; at < length; at += 1) {
      const begin = x(published_at[at]);
      context.fillStyle = color("line");
      context.fillRect(Math.round(begin), 0, 1, height - AXIS_PX + 4);
      const text = count(round[at]);
      const end = closed_at[at] === null ? Infinity : x(closed_at[at]);
      if (begin < free || end - begin < context.measureText(text).width + 4) continue;
      context.fillStyle = color("soft");
      context.fillText(text, begin, height - AXIS_PX / 2 + 2);
      free = begin + context.measureText(text).width + 12;
    }
  }

  function drawWorks(context, { start }, x) {
    const place = new Map(lines.map((name, line) => [name, line]));
    for (let at = model.works.length - 1; at >= 0; at -= 1) {
      const work = model.works[at];
      if (work.ended_at < start) break;
      const line = place.get(work.trainer);
      if (line === undefined) continue;
      const [begin, end] = [x(work.began_at), x(work.ended_at)];
      const rest = Math.max(0, work.ended_at - work.began_at - work.train_s);
      const [from, to] = [x(work.began_at + rest / 2), x(work.ended_at - rest / 2)];
      const y = line * LINE_PX + 7;
      bar(context, begin, y, end, work.staleness ? "warn-soft" : "accent-mid", work.staleness ? 1 : 0.45);
      bar(context, from, y, to, work.staleness ? "warn" : "accent", 1);
      bars.push([begin, Math.max(3, end - begin), line, work]);
    }
  }

  /** The open round: a growing empty bar for each trainer without a result. */
  function drawOpen(context, { length }, x) {
    const { rounds, head } = model;
    if (!head.open || !head.connected || rounds.closed_at[length - 1] !== null) return;
    const round = rounds.round[length - 1];
    const answered = new Set();
    for (let at = model.works.length - 1; at >= 0 && model.works[at].round >= round; at -= 1) {
      answered.add(model.works[at].trainer);
    }
    const begin = x(rounds.published_at[length - 1]);
    context.strokeStyle = color("strong-line");
    lines.forEach((name, line) => {
      if (answered.has(name) || model.trainers.get(name)?.presence === "gone") return;
      context.beginPath();
      context.roundRect(begin + 0.5, line * LINE_PX + 7.5, Math.max(1, x(model.now()) - begin - 1), LINE_PX - 15, 2);
      context.stroke();
    });
  }

  function bar(context, begin, y, end, name, opacity) {
    context.globalAlpha = opacity;
    context.fillStyle = color(name);
    context.beginPath();
    context.roundRect(begin, y, Math.max(1.5, end - begin - 0.5), LINE_PX - 14, 2);
    context.fill();
    context.globalAlpha = 1;
  }

  function showText(time) {
    if (pointed) return;
    setText($("gantt-text"), time ? describeRounds(model, lines, time) : "Waiting for the first result.");
  }

  canvas.addEventListener("pointermove", (event) => {
    const line = Math.floor(event.offsetY / LINE_PX);
    const hit = bars.find(([x, width, at]) => at === line && event.offsetX >= x - 1 && event.offsetX <= x + width + 1);
    pointed = hit !== undefined;
    if (pointed) setText($("gantt-text"), describeWork(hit[3]));
    else paint("gantt");
  });
  canvas.addEventListener("pointerleave", () => {
    pointed = false;
    paint("gantt");
  });
  $("gantt-rounds").addEventListener("change", () => paint("gantt"));
  part("gantt", draw, $("gantt-box"));

  return (next) => {
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    setText($("gantt-text"), "");
    [model, lines, orderedAt, pointed] = [next, [], -Infinity, false];
  };
}

const slowness = (one) => one.train_s + one.round_trip_s;

function describeWork(work) {
  const all = work.ended_at - work.began_at;
  const late = work.staleness ? `, ${plural(work.staleness, "round")} late` : "";
  return `${work.trainer}, round ${count(work.round)}: ${duration(work.train_s)} of training in ${duration(all)}${late}.`;
}

function describeRounds(model, lines, { from, length, start, end }) {
  const seen = lines.map((name) => model.trainers.get(name)).filter((one) => one && one.presence !== "gone");
  const slowest = seen.sort((a, b) => slowness(b) - slowness(a))[0];
  const summary = `${plural(length - from, "round")} in ${duration(end - start)}.`;
  const some = lines.length < model.trainers.size ? ` The ${lines.length} slowest of ${plural(model.trainers.size, "trainer")}.` : "";
  if (!slowest || slowness(slowest) === 0) return summary + some;
  return `${summary}${some} Slowest now: ${slowest.name}, ${duration(slowest.train_s)} of training in ${duration(slowness(slowest))}.`;
}

function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length -= 1;
  return `${text.slice(0, length)}…`;
}
