// Who worked when: a line a trainer, a bar a result, over the newest rounds. Stragglers stand out, because everybody
// else waits for them.

import { count, duration, plural } from "./format.js";
import { $, colour, paint, part, prepare, say, sized } from "./paint.js";

const LINES_MAX = 16;
const LINES_MIN = 4; // so that nothing moves when the first trainers come
const LINE_PX = 26;
const AXIS_PX = 24;
const ORDERED_MS = 1000;
const inOrder = new Intl.Collator("en", { numeric: true }).compare;

/** Make it; returns `show(picture)`, to be called for another run. */
export function makeGantt() {
  const canvas = $("gantt");
  const box = sized($("gantt-box"), "gantt");
  let picture = null;
  let lines = [];
  let orderedAt = -Infinity;
  let bars = []; // what is under the pointer: [x, width, line, work]
  let pointed = false;

  function order() {
    if (performance.now() - orderedAt < ORDERED_MS && lines.length) return;
    orderedAt = performance.now();
    const all = [...picture.trainers.values()];
    const few = all.length <= LINES_MAX;
    const seen = few ? all : all.filter((one) => one.presence !== "gone").sort((a, b) => slowness(b) - slowness(a));
    lines = seen.slice(0, LINES_MAX).map((one) => one.name);
    if (few) lines.sort(inOrder);
  }

  /** From when to when, and the rows of the rounds in it. */
  function span() {
    const { rounds, head } = picture;
    const length = picture.length();
    const from = Math.max(0, length - Number($("gantt-rounds").value));
    const last = rounds.closed_at?.[length - 1] ?? (head.connected ? picture.now() : head.event_at);
    return { from, length, start: rounds.published_at[from], end: Math.max(last, rounds.published_at[length - 1] + 1e-3) };
  }

  function draw() {
    if (picture === null || picture.head === null) return;
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
    if (picture.length() === 0) return void words();
    const time = span();
    const x = (at) => left + (Math.max(0, at - time.start) / (time.end - time.start)) * (width - left - 2);
    drawRounds(context, time, x, height);
    drawWorks(context, time, x);
    drawOpen(context, time, x);
    words(time);
  }

  function drawNames(context, left, width) {
    lines.forEach((name, line) => {
      const y = line * LINE_PX + LINE_PX / 2;
      context.fillStyle = colour("line");
      context.fillRect(left, y - 0.5, width - left, 1);
      context.fillStyle = colour(picture.trainers.get(name)?.presence === "gone" ? "soft" : "ink");
      context.textAlign = "left";
      context.fillText(fitted(context, name, left - 14), 0, y);
    });
  }

  function drawRounds(context, { from, length }, x, height) {
    const { round, published_at, closed_at } = picture.rounds;
    context.textAlign = "left";
    let free = -Infinity;
    for (let at = from; at < length; at += 1) {
      const begin = x(published_at[at]);
      context.fillStyle = colour("line");
      context.fillRect(Math.round(begin), 0, 1, height - AXIS_PX + 4);
      const text = count(round[at]);
      const end = closed_at[at] === null ? Infinity : x(closed_at[at]);
      if (begin < free || end - begin < context.measureText(text).width + 4) continue;
      context.fillStyle = colour("soft");
      context.fillText(text, begin, height - AXIS_PX / 2 + 2);
      free = begin + context.measureText(text).width + 12;
    }
  }

  function drawWorks(context, { start }, x) {
    const place = new Map(lines.map((name, line) => [name, line]));
    for (let at = picture.works.length - 1; at >= 0; at -= 1) {
      const work = picture.works[at];
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

  /** The open round: who has not answered has an empty bar that grows. */
  function drawOpen(context, { length }, x) {
    const { rounds, head } = picture;
    if (!head.open || !head.connected || rounds.closed_at[length - 1] !== null) return;
    const round = rounds.round[length - 1];
    const answered = new Set();
    for (let at = picture.works.length - 1; at >= 0 && picture.works[at].round >= round; at -= 1) {
      answered.add(picture.works[at].trainer);
    }
    const begin = x(rounds.published_at[length - 1]);
    context.strokeStyle = colour("strong-line");
    lines.forEach((name, line) => {
      if (answered.has(name) || picture.trainers.get(name)?.presence === "gone") return;
      context.beginPath();
      context.roundRect(begin + 0.5, line * LINE_PX + 7.5, Math.max(1, x(picture.now()) - begin - 1), LINE_PX - 15, 2);
      context.stroke();
    });
  }

  function bar(context, begin, y, end, name, opacity) {
    context.globalAlpha = opacity;
    context.fillStyle = colour(name);
    context.beginPath();
    context.roundRect(begin, y, Math.max(1.5, end - begin - 0.5), LINE_PX - 14, 2);
    context.fill();
    context.globalAlpha = 1;
  }

  function words(time) {
    if (pointed) return;
    say($("gantt-words"), time ? inWords(picture, lines, time) : "Waiting for the first result.");
  }

  canvas.addEventListener("pointermove", (event) => {
    const line = Math.floor(event.offsetY / LINE_PX);
    const hit = bars.find(([x, width, at]) => at === line && event.offsetX >= x - 1 && event.offsetX <= x + width + 1);
    pointed = hit !== undefined;
    if (pointed) say($("gantt-words"), workInWords(hit[3]));
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
    say($("gantt-words"), "");
    [picture, lines, orderedAt, pointed] = [next, [], -Infinity, false];
  };
}

const slowness = (one) => one.train_s + one.round_trip_s;

function workInWords(work) {
  const all = work.ended_at - work.began_at;
  const late = work.staleness ? `, ${plural(work.staleness, "round")} late` : "";
  return `${work.trainer}, round ${count(work.round)}: ${duration(work.train_s)} of training in ${duration(all)}${late}.`;
}

function inWords(picture, lines, { from, length, start, end }) {
  const seen = lines.map((name) => picture.trainers.get(name)).filter((one) => one && one.presence !== "gone");
  const slowest = seen.sort((a, b) => slowness(b) - slowness(a))[0];
  const told = `${plural(length - from, "round")} in ${duration(end - start)}.`;
  const some = lines.length < picture.trainers.size ? ` The ${lines.length} slowest of ${plural(picture.trainers.size, "trainer")}.` : "";
  if (!slowest || slowness(slowest) === 0) return told + some;
  return `${told}${some} Slowest at last: ${slowest.name}, ${duration(slowest.train_s)} of training in ${duration(slowness(slowest))}.`;
}

function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length -= 1;
  return `${text.slice(0, length)}…`;
}
