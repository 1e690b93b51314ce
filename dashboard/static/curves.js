// The three curves over rounds: fitness, metric and round time. uPlot draws them; here is what they show.

import { count, duration, figure, NOTHING, value } from "./format.js";
import { $, colour, make, paint, part, say, sized } from "./paint.js";

const FONT = '12px "Inter", system-ui, sans-serif';

const TOLD_MS = 1000;
const WAIT_MS = 1000; // for rounds that are too thin to be seen, before they are drawn
const NEAR = 0.02; // fitness this near to 0 is drawn on a linear scale, beyond on a logarithmic one
const STEP_PX = 15; // between two ticks, at least

const line = (name, width, dash) => ({
  stroke: () => colour(name),
  width,
  dash,
  points: { show: (plot) => plot.data[0].length === 1, size: 6, fill: () => colour(name) }, // one round alone is no line
});

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

/** How much room the numbers beside a plot need, in px. */
const wide = (_, texts) => Math.max(56, 12 + 6.2 * Math.max(0, ...(texts ?? []).map((text) => text.length)));

/** One plot in the element `id`, of these columns of the rounds; "target" is the run's own, the same for all rounds. */
class Curve {
  picture = null;
  #plot = null;
  #plotted = { rounds: 0, edition: 0, at: -Infinity, width: 0, height: 0 };
  #told = { edition: 0, at: -Infinity };
  #telling = 0;

  constructor(id, { columns, series, format, describe, legend, range, scale, splits, bands }) {
    this.box = $(id);
    this.words = $(`${id}-words`);
    this.nothing = make("p", { class: "nothing", text: "Waiting for the first round" });
    this.box.append(this.nothing);
    Object.assign(this, { id, columns, series, format, describe, range, scale, splits, bands });
    this.values = legend.map(([key, name]) => {
      const shown = make("b", { text: NOTHING });
      $(`${id}-legend`).append(make("li", {}, make("i", { class: `key ${key}`, "aria-hidden": "true" }), name, " ", shown));
      return shown;
    });
    this.size = sized(this.box, id);
    part(id, () => this.picture?.head && this.draw(), this.box);
  }

  draw() {
    const rounds = this.picture.newestClosed() + 1;
    this.nothing.hidden = rounds > 0;
    this.#tell();
    this.#legend(this.#plot?.cursor.idx ?? rounds - 1);
    if (rounds === 0) this.forget();
    else if (this.#shows(rounds)) this.#draw(rounds);
  }

  /** Whether anybody could see a difference: of very many rounds a few more are thinner than a pixel. */
  #shows(rounds) {
    const { rounds: before, edition, at, width, height, theme } = this.#plotted;
    if (this.#plot === null || width !== this.size.width || height !== this.size.height || theme !== this.#theme()) return true;
    if (edition === this.picture.edition) return false;
    const pixels = ((rounds - before) / rounds) * width;
    return rounds < before || pixels >= 0.5 || performance.now() - at > WAIT_MS;
  }

  #theme = () => document.documentElement.dataset.theme;

  #draw(rounds) {
    const { width, height } = this.size;
    const data = ["round", ...this.columns].map((name) =>
      name === "target" ? new Array(rounds).fill(this.picture.head.target) : this.picture.rounds[name].slice(0, rounds),
    );
    if (this.#plot === null) this.#begin(data);
    else {
      if (width !== this.#plotted.width || height !== this.#plotted.height) this.#plot.setSize({ width, height });
      this.#renew(data);
    }
    this.#plotted = { rounds, edition: this.picture.edition, at: performance.now(), width, height, theme: this.#theme() };
    this.box.dataset.rounds = rounds; // for who looks at the page from outside
  }

  /** Other data in the same plot; what the reader has zoomed to stays in sight. */
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
    const told = { role: "img", "aria-labelledby": `${this.id}-title`, "aria-describedby": `${this.id}-words` };
    for (const [name, to] of Object.entries(told)) this.#plot.root.setAttribute(name, to);
  }

  /** In words, not more often than they can be read. */
  #tell() {
    const { edition } = this.picture;
    if (edition === this.#told.edition) return;
    if (performance.now() - this.#told.at < TOLD_MS) {
      this.#telling ||= setTimeout(() => paint(this.id), TOLD_MS);
      return;
    }
    clearTimeout(this.#telling);
    [this.#told, this.#telling] = [{ edition, at: performance.now() }, 0];
    say(this.words, this.describe(this.picture));
  }

  #options() {
    return {
      ...this.size,
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: { points: { size: 7, width: 2, fill: () => colour("card") }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: this.range, ...this.scale } },
      axes: [
        axis(28, count, { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 1e5, 1e6], space: 44, grid: { show: false } }),
        axis(wide, this.format, { space: 36, ...(this.splits && { splits: this.splits, filter: (_, at) => at }) }),
      ],
      series: [{}, ...this.series],
      bands: this.bands,
      hooks: { setCursor: [(plot) => this.#legend(plot.cursor.idx ?? this.picture.newestClosed())] },
    };
  }

  /** The figures of the round under the pointer, else of the newest. */
  #legend(at) {
    this.columns.forEach((name, index) => {
      const x = name === "target" ? this.picture.head.target : this.picture.rounds[name]?.[at];
      say(this.values[index], x === null || x === undefined ? NOTHING : this.format(x));
    });
  }

  forget() {
    this.#plot?.destroy();
    [this.#plot, this.#told] = [null, { edition: 0, at: -Infinity }];
  }

  show(picture) {
    this.picture = picture;
    this.forget();
    for (const element of [this.words, ...this.values]) say(element, "");
  }
}

/** A range with room above and below, that starts at `from` if that is given. */
const roomy = (from) => (_, low, high) => {
  if (low === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [from ?? low - room, high + room];
};

/** Ticks for fitness: powers of ten (and near 0 what is between) from `low` to `high`, else a few even ones. */
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

function inWords(picture, told) {
  const at = picture.newestClosed();
  if (at < 0) return "";
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
    columns: ["fitness", "fitness_mean", "fitness_worst"],
    format: figure,
    // Fitness is minus a loss: the nearer to 0, the finer the scale, so that the worst do not flatten the best.
    scale: { distr: 100, fwd: (x) => Math.asinh(x / NEAR), inv: (x) => NEAR * Math.sinh(x) },
    splits: steps,
    range: (_, low, high) => (low === null ? [-1, 0] : [low - 0.15 * Math.abs(low), Math.max(high * 0.8, high + NEAR / 2)]),
    describe: (picture) =>
      inWords(picture, (get) =>
        get("fitness") === null
          ? "Nothing has been scored yet."
          : `Round ${count(get("round"))}: best ${figure(get("fitness"))}, mean ${figure(get("fitness_mean"))}, worst ${figure(
              get("fitness_worst"),
            )} (minus the loss per row); diversity ${figure(get("diversity"))}.`,
      ),
  });
}

function valueCurve() {
  const curve = new Curve("value", {
    series: [line("strong-line", 1.25, [4, 4]), line("accent", 2.25)],
    legend: [["target", "target"], ["best", "best model"]],
    columns: ["target", "value"],
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
    columns: ["round_s"],
    format: duration,
    range: roomy(0),
    describe: (picture) =>
      inWords(picture, () => {
        const all = picture.rounds.round_s.filter((one) => one !== null).sort((a, b) => a - b);
        return `Median ${duration(all[all.length >> 1])}, 95 % under ${duration(all[Math.floor(all.length * 0.95)])}.`;
      }),
  });
}
