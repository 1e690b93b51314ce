// The three curves over rounds: fitness, metric and round time, drawn by uPlot.

import { count, duration, figure, NOTHING, value } from "./format.js";
import { $, color, make, paint, part, setText, sized } from "./paint.js";

const FONT = '12px "Inter", system-ui, sans-serif';

const TEXT_MS = 1000; // between two updates of the text
const WAIT_MS = 1000; // before rounds thinner than a pixel are drawn
const ERROR_NEAR = 0.01; // an accuracy nearer to 1 is drawn on a linear scale, below on a logarithmic one
const NEAR = 0.02; // fitness nearer to 0 is drawn on a linear scale, beyond on a logarithmic one
const STEP_PX = 15; // between two ticks, at least

export const line = (name, width, dash) => ({
  stroke: () => color(name),
  width,
  dash,
  points: { show: (plot) => plot.data[0].length === 1, size: 6, fill: () => color(name) }, // one round is no line
});

export const axis = (size, values, more = {}) => ({
  stroke: () => color("soft"),
  font: FONT,
  size,
  gap: 6,
  values: (_, splits) => splits.map((at) => (at === null ? "" : values(at))),
  grid: { stroke: () => color("line"), width: 1 },
  ticks: { show: false },
  ...more,
});

/** The width of the axis numbers, in px. */
export const wide = (_, texts) => Math.max(56, 12 + 6.2 * Math.max(0, ...(texts ?? []).map((text) => text.length)));

/** One plot in the element `id`, of these columns of the rounds; "target" is the run's own, the same for all rounds. */
class Curve {
  model = null;
  #plot = null;
  #plotted = { rounds: 0, edition: 0, at: -Infinity, width: 0, height: 0 };
  #described = { edition: 0, at: -Infinity };
  #textTimer = 0;

  constructor(id, { columns, series, format, describe, legend, range, scale, splits, bands, marked }) {
    this.box = $(id);
    this.text = $(`${id}-text`);
    this.nothing = make("p", { class: "nothing", text: "Waiting for the first round" });
    this.box.append(this.nothing);
    Object.assign(this, { id, columns, series, format, describe, range, scale, splits, bands, marked });
    this.values = legend.map(([key, name]) => {
      const shown = make("b", { text: NOTHING });
      $(`${id}-legend`).append(make("li", {}, make("i", { class: `key ${key}`, "aria-hidden": "true" }), name, " ", shown));
      return shown;
    });
    this.size = sized(this.box, id);
    part(id, () => this.model?.head && this.draw(), this.box);
  }

  draw() {
    const rounds = this.model.newestClosed() + 1;
    this.nothing.hidden = rounds > 0;
    this.#describe();
    this.#legend(this.#plot?.cursor.idx ?? rounds - 1);
    if (rounds === 0) this.forget();
    else if (this.#shows(rounds)) this.#draw(rounds);
  }

  /** Whether a redraw would be visible: of many rounds, a few more are thinner than a pixel. */
  #shows(rounds) {
    const { rounds: before, edition, at, width, height, theme } = this.#plotted;
    if (this.#plot === null || width !== this.size.width || height !== this.size.height || theme !== this.#theme()) return true;
    if (edition === this.model.edition) return false;
    const pixels = ((rounds - before) / rounds) * width;
    return rounds < before || pixels >= 0.5 || performance.now() - at > WAIT_MS;
  }

  #theme = () => document.documentElement.dataset.theme;

  #draw(rounds) {
    const { width, height } = this.size;
    const data = ["round", ...this.columns].map((name) =>
      name === "target" ? new Array(rounds).fill(this.model.head.target) : this.model.rounds[name].slice(0, rounds),
    );
    if (this.#plot === null) this.#begin(data);
    else {
      if (width !== this.#plotted.width || height !== this.#plotted.height) this.#plot.setSize({ width, height });
      this.#renew(data);
    }
    this.#plotted = { rounds, edition: this.model.edition, at: performance.now(), width, height, theme: this.#theme() };
    this.box.dataset.rounds = rounds; // for tests
  }

  /** Replace the data of the plot, and keep the zoom of the reader. */
  #renew(data) {
    const plot = this.#plot;
    const [{ min, max }, before] = [plot.scales.x, plot.data[0]];
    if (min <= before[0] && max >= before.at(-1)) return plot.setData(data);
    return plot.batch(() => {
      plot.setData(data, false);
      plot.setScale("x", { min, max });
    });
  }

  #begin(data) {
    this.#plot = new uPlot(this.#options(), data, this.box);
    const labels = { role: "img", "aria-labelledby": `${this.id}-title`, "aria-describedby": `${this.id}-text` };
    for (const [name, to] of Object.entries(labels)) this.#plot.root.setAttribute(name, to);
  }

  /** Update the text below the plot, at a readable rate. */
  #describe() {
    const { edition } = this.model;
    if (edition === this.#described.edition) return;
    if (performance.now() - this.#described.at < TEXT_MS) {
      this.#textTimer ||= setTimeout(() => paint(this.id), TEXT_MS);
      return;
    }
    clearTimeout(this.#textTimer);
    [this.#described, this.#textTimer] = [{ edition, at: performance.now() }, 0];
    setText(this.text, this.describe(this.model));
  }

  #options() {
    return {
      ...this.size,
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: { points: { size: 7, width: 2, fill: () => color("card") }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: this.range, ...this.scale } },
      axes: [
        axis(28, count, { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 1e5, 1e6], space: 44, grid: { show: false } }),
        axis(wide, this.format, { space: 36, ...(this.splits && { splits: this.splits, filter: (_, at) => at }) }),
      ],
      series: [{}, ...this.series],
      bands: this.bands,
      hooks: { draw: [(plot) => this.#mark(plot)], setCursor: [(plot) => this.#legend(plot.cursor.idx ?? this.model.newestClosed())] },
    };
  }

  /** Draw a vertical line at each round that `marked` names. */
  #mark(plot) {
    const rounds = this.marked?.(this.model) ?? [];
    this.box.dataset.marked = rounds.join(" "); // for tests
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.beginPath();
    for (const round of rounds) {
      const x = Math.round(plot.valToPos(round, "x", true)) + 0.5;
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
    }
    ctx.strokeStyle = color("warn");
    ctx.lineWidth = devicePixelRatio || 1;
    ctx.setLineDash([3 * ctx.lineWidth, 3 * ctx.lineWidth]);
    ctx.stroke();
    ctx.restore();
  }

  /** Show the figures of the round under the pointer, else of the newest. */
  #legend(at) {
    this.columns.forEach((name, index) => {
      const x = name === "target" ? this.model.head.target : this.model.rounds[name]?.[at];
      setText(this.values[index], x === null || x === undefined ? NOTHING : this.format(x));
    });
  }

  forget() {
    this.#plot?.destroy();
    [this.#plot, this.#described] = [null, { edition: 0, at: -Infinity }];
  }

  show(model) {
    this.model = model;
    this.forget();
    for (const element of [this.text, ...this.values]) setText(element, "");
  }
}

/** A range with space above and below, or from `from`. */
export const roomy = (from) => (_, low, high) => {
  if (low === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [from ?? low - room, high + room];
};

/** Ticks for fitness: powers of ten from `low` to `high`, with values between them near 0; else a few even ones. */
function steps(plot, _, low, high) {
  const decade_px = Math.abs(plot.valToPos(100, "y") - plot.valToPos(10, "y"));
  const every = Math.ceil(STEP_PX / decade_px);
  const powers = every > 1 ? [] : [0.1];
  for (let power = 0; 10 ** power <= Math.max(-low, high); power += every) powers.push(10 ** power);
  const between = decade_px >= 2 * STEP_PX ? [0.03, 0.3, 3, 30] : [];
  const all = [...[...powers, ...between].map((at) => -at), 0, ...powers].filter((at) => at >= low && at <= high);
  return all.length > 1 ? all.sort((a, b) => a - b) : even(low, high);
}

/** Three to seven multiples of 1, 2 or 5 times a power of ten from `low` to `high`. */
function even(low, high) {
  const most = (high - low) / 3;
  const unit = 10 ** Math.floor(Math.log10(most));
  const step = unit * ([5, 2].find((one) => one * unit <= most) ?? 1);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, at) => (first + at) * step);
}

/** The rounds that searched in a new random pool. */
const restarts = (model) => (model.rounds.round ?? []).filter((_, at) => model.rounds.restarted?.[at]);

/** Why the best fitness falls at some rounds, or "". */
function describeRestarts(model) {
  const rounds = restarts(model);
  if (!rounds.length) return "";
  const named = rounds.slice(-3).map(count).join(", ");
  return ` The pool restarted at random in round ${rounds.length > 3 ? "… " : ""}${named}, because no better loss was found: fitness may fall there, and the best model is kept.`;
}

function describeRounds(model, text) {
  const at = model.newestClosed();
  if (at < 0) return "";
  return text((name) => model.rounds[name][at], at);
}

/** Make the curves; returns `show(model)`, to be called for another run. */
export function makeCurves() {
  const curves = [fitnessCurve(), valueCurve(), latencyCurve()];
  return (model) => curves.forEach((curve) => curve.show(model));
}

function fitnessCurve() {
  return new Curve("fitness", {
    series: [line("accent", 2.25), line("soft", 1.25), line("strong-line", 1.25, [4, 4])],
    bands: [{ series: [1, 3], fill: () => color("accent-soft") }],
    legend: [["best", "best"], ["mean", "mean"], ["worst", "worst"]],
    columns: ["fitness", "fitness_mean", "fitness_worst"],
    format: figure,
    // Fitness is minus a loss: the nearer to 0, the finer the scale, so that the worst values do not flatten the best.
    scale: { distr: 100, fwd: (x) => Math.asinh(x / NEAR), inv: (x) => NEAR * Math.sinh(x) },
    splits: steps,
    range: (_, low, high) => (low === null ? [-1, 0] : [low - 0.15 * Math.abs(low), Math.max(high * 0.8, high + NEAR / 2)]),
    describe: (model) =>
      describeRounds(model, (get) =>
        get("fitness") === null
          ? "Nothing scored yet."
          : `Round ${count(get("round"))}: best ${figure(get("fitness"))}, mean ${figure(get("fitness_mean"))}, worst ${figure(
              get("fitness_worst"),
            )} (minus the loss per row); diversity ${figure(get("diversity"))}.${describeRestarts(model)}`,
      ),
    marked: restarts,
  });
}

/** Ticks for an accuracy from `low` to `high`: round shares, apart from each other on the scale of errors. */
function shares(plot, low, high) {
  const wanted = [1, 0, 0.5, 0.9, 0.99, 0.95, 0.98, 0.8, 0.995, 0.25, 0.75, 0.999];
  const chosen = [];
  for (const at of wanted.filter((one) => one >= low && one <= high)) {
    const y = plot.valToPos(at, "y");
    if (chosen.every((one) => Math.abs(plot.valToPos(one, "y") - y) >= STEP_PX)) chosen.push(at);
  }
  return chosen.length > 1 ? chosen.sort((a, b) => a - b) : even(low, high);
}

function valueCurve() {
  const isAccuracy = () => curve.model?.head?.metric === "accuracy";
  const curve = new Curve("value", {
    series: [line("strong-line", 1.25, [4, 4]), line("soft", 1.25), line("accent", 2.25)],
    legend: [["target", "target"], ["mean", "training rows"], ["best", "best model"]],
    columns: ["target", "training", "value"],
    format: (x) => value(x, curve.model?.head?.metric),
    // The nearer to 100 %, the finer the scale: the step from 95 to 99.8 % halves the error four times.
    scale: {
      distr: 100,
      fwd: (x) => (isAccuracy() ? -Math.asinh((1 - x) / ERROR_NEAR) : x),
      inv: (x) => (isAccuracy() ? 1 - ERROR_NEAR * Math.sinh(-x) : x),
    },
    splits: (plot, _, low, high) => (isAccuracy() ? shares(plot, low, high) : even(low, high)),
    range: (_, low, high) => {
      if (!isAccuracy() || low === null) return roomy()(_, low, high);
      const [from, to] = [low, high].map((x) => Math.asinh((1 - x) / ERROR_NEAR));
      const room = Math.max(from - to, 0.5) * 0.08;
      return [from + room, to - room].map((x) => 1 - ERROR_NEAR * Math.sinh(x));
    },
    describe: (model) => {
      const head = model.head;
      $("value-title").textContent = head.metric ? head.metric[0].toUpperCase() + head.metric.slice(1) : "Metric";
      const heldOut = head.best?.value_of === "held-out";
      curve.values[1].parentElement.hidden = !heldOut;
      return describeRounds(model, (get) => {
        if (get("value") === null) return "Nothing scored yet.";
        const rows = heldOut ? "held-out rows" : "rows";
        const training = heldOut ? `; ${value(get("training"), head.metric)} on the rows trained on` : "";
        return `${value(get("value"), head.metric)} after round ${count(get("round"))}, on ${value(get("coverage"), "accuracy")} of the ${rows}${training}.`;
      });
    },
  });
  return curve;
}

function latencyCurve() {
  return new Curve("latency", {
    series: [{ ...line("accent", 1.25), fill: () => color("accent-soft") }],
    legend: [["best", "newest"]],
    columns: ["round_s"],
    format: duration,
    range: roomy(0),
    describe: (model) =>
      describeRounds(model, () => {
        const all = model.rounds.round_s.filter((one) => one !== null).sort((a, b) => a - b);
        return `Median ${duration(all[all.length >> 1])}, 95 % under ${duration(all[Math.floor(all.length * 0.95)])}.`;
      }),
  });
}
