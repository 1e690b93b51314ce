// The three curves over rounds: fitness, metric and round time. uPlot draws them; here is what they show.

import { count, duration, figure, NOTHING, value } from "./format.js";
import { $, colour, make, paint, part, say } from "./paint.js";

const FONT = '12px "Inter", system-ui, sans-serif';

const TOLD_MS = 1000;
const NEAR = 0.02; // fitness this near to 0 is drawn on a linear scale, beyond on a logarithmic one
const STEPS = [...[1e6, 1e5, 1e4, 1000, 100, 30, 10, 3, 1, 0.3, 0.1, 0.03].map((at) => -at), 0, 0.1, 1, 10, 100];

const line = (name, width, dash) => ({ stroke: () => colour(name), width, dash, points: { show: false } });

const axis = (size, values, more = {}) => ({
  stroke: () => colour("soft"),
  font: FONT,
  size,
  gap: 6,
  values: (_, splits) => splits.map((at) => (at === null ? "" : values(at))),
  grid: { stroke: () => colour("line"), width: 1 },
  ticks: { show: false },
  ...more,
});

/** One plot in the element `id`: `series` of uPlot, `read(picture)` gives its data, x first. */
class Curve {
  #plot = null;
  #size = [0, 0];
  #toldAt = -Infinity;
  #telling = 0;

  constructor(id, { series, read, format, describe, legend, range, scale, splits, bands }) {
    this.box = $(id);
    this.words = $(`${id}-words`);
    this.nothing = make("p", { class: "nothing", text: "Waiting for the first round", "aria-hidden": "true" });
    this.box.append(this.nothing);
    Object.assign(this, { id, series, read, format, describe, range, scale, splits, bands });
    this.values = legend.map(([key, name]) => {
      const shown = make("b", { text: NOTHING });
      $(`${id}-legend`).append(make("li", {}, make("i", { class: `key ${key}`, "aria-hidden": "true" }), name, " ", shown));
      return shown;
    });
    new ResizeObserver(() => paint(id)).observe(this.box);
    part(id, () => this.picture?.head && this.draw(), this.box);
  }

  draw() {
    const data = this.read(this.picture);
    this.nothing.hidden = data[0].length > 0;
    this.#tell();
    if (!data[0].length) {
      this.#plot?.destroy();
      this.#plot = null;
    } else if (this.#plot === null) {
      this.#plot = new uPlot(this.#options(), data, this.box);
    } else {
      this.#resize();
      this.#plot.setData(data);
    }
    this.#legend(data);
    this.box.dataset.rounds = data[0].length; // for who looks at the page from outside
  }

  /** In words, not more often than they can be read. */
  #tell() {
    if (performance.now() - this.#toldAt < TOLD_MS) {
      this.#telling ||= setTimeout(() => paint(this.id), TOLD_MS);
      return;
    }
    clearTimeout(this.#telling);
    [this.#toldAt, this.#telling] = [performance.now(), 0];
    say(this.words, this.describe(this.picture));
  }

  #options() {
    this.#size = [this.box.clientWidth, this.box.clientHeight];
    return {
      width: this.#size[0],
      height: this.#size[1],
      padding: [8, 4, 0, 0],
      legend: { show: false },
      cursor: { points: { size: 7, width: 2, fill: () => colour("card") }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: this.range, ...this.scale } },
      axes: [
        axis(28, count, { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 1e5, 1e6], space: 64, grid: { show: false } }),
        axis(56, this.format, { space: 36, ...(this.splits && { splits: this.splits, filter: (_, at) => at }) }),
      ],
      series: [{}, ...this.series],
      bands: this.bands,
      hooks: { setCursor: [(plot) => this.#legend(plot.data, plot.cursor.idx)] },
    };
  }

  #resize() {
    const [width, height] = [this.box.clientWidth, this.box.clientHeight];
    if (width === this.#size[0] && height === this.#size[1]) return;
    this.#size = [width, height];
    this.#plot.setSize({ width, height });
  }

  /** The figures of the round under the pointer, else of the newest that has any. */
  #legend(data, at = null) {
    this.values.forEach((shown, index) => {
      const column = data[index + 1];
      const x = at ?? column.findLastIndex((one) => one !== null);
      say(shown, column[x] === null || column[x] === undefined ? NOTHING : this.format(column[x]));
    });
  }

  show(picture) {
    this.picture = picture;
    this.#plot?.destroy();
    [this.#plot, this.#toldAt] = [null, -Infinity];
  }
}

const columns = (picture, ...names) => {
  const length = picture.newestClosed() + 1;
  return ["round", ...names].map((name) => (picture.rounds[name] ?? []).slice(0, length));
};

/** A range with room above and below, that starts at `from` if that is given. */
const roomy = (from) => (_, low, high) => {
  if (low === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [from ?? low - room, high + room];
};

function inWords(picture, told) {
  const at = picture.newestClosed();
  if (at < 0) return "Waiting for the first round.";
  return told((name) => picture.rounds[name][at], at);
}

/** Make the curves; returns `show(picture)`, to be called for another run. */
export function makeCurves() {
  const curves = [fitnessCurve(), valueCurve(), latencyCurve()];
  return (picture) => curves.forEach((curve) => curve.show(picture));
}

function fitnessCurve() {
  return new Curve("fitness", {
    series: [line("accent", 2.25), line("soft", 1.25), line("strong-line", 1.25, [4, 4])],
    bands: [{ series: [1, 3], fill: () => colour("accent-soft") }],
    legend: [["best", "best"], ["mean", "mean"], ["worst", "worst"]],
    read: (picture) => columns(picture, "fitness", "fitness_mean", "fitness_worst"),
    format: figure,
    // Fitness is minus a loss: the nearer to 0, the finer the scale, so that the worst do not flatten the best.
    scale: { distr: 100, fwd: (x) => Math.asinh(x / NEAR), inv: (x) => NEAR * Math.sinh(x) },
    splits: (_, __, low, high) => STEPS.filter((at) => at >= low && at <= high),
    range: (_, low, high) => (low === null ? [-1, 0] : [low * 1.15, Math.max(high * 0.8, high + NEAR / 2)]),
    describe: (picture) =>
      inWords(picture, (get) =>
        get("fitness") === null
          ? "Nothing has been scored yet."
          : `Round ${count(get("round"))}: best ${figure(get("fitness"))}, mean ${figure(get("fitness_mean"))}, worst ${figure(
              get("fitness_worst"),
            )}; diversity ${figure(get("diversity"))}. More is better: it is minus the loss per row.`,
      ),
  });
}

function valueCurve() {
  const curve = new Curve("value", {
    series: [line("strong-line", 1.25, [4, 4]), line("accent", 2.25)],
    legend: [["target", "target"], ["best", "best model"]],
    read: (picture) => {
      const [round, best] = columns(picture, "value");
      return [round, round.map(() => picture.head.target), best];
    },
    format: (x) => value(x, curve.picture?.head?.metric),
    range: (_, low, high) => (curve.picture.head.metric === "accuracy" ? [Math.min(0.5, low) - 0.03, 1.03] : roomy()(_, low, high)),
    describe: (picture) => {
      const head = picture.head;
      $("value-title").textContent = head.metric ? head.metric[0].toUpperCase() + head.metric.slice(1) : "Metric";
      return inWords(picture, (get) =>
        get("value") === null ? "Nothing has been scored yet." : `${value(get("value"), head.metric)} after round ${count(get("round"))}, on ${value(get("coverage"), "accuracy")} of the rows.`,
      );
    },
  });
  return curve;
}

function latencyCurve() {
  return new Curve("latency", {
    series: [{ ...line("accent", 1.25), fill: () => colour("accent-soft") }],
    legend: [["best", "newest"]],
    read: (picture) => columns(picture, "round_s"),
    format: duration,
    range: roomy(0),
    describe: (picture) =>
      inWords(picture, () => {
        const all = picture.rounds.round_s.filter((one) => one !== null).sort((a, b) => a - b);
        return `Half took less than ${duration(all[all.length >> 1])}, 95 % less than ${duration(all[Math.floor(all.length * 0.95)])}.`;
      }),
  });
}
