// The card with what the algorithm found beside the model: genes of the best candidate by name, the Pareto front, and
// correlations of columns.

import { axis, line as curve, roomy, wide } from "./curves.js";
import { count, figure } from "./format.js";
import { $, make, paint, part, setText, sized } from "./paint.js";
import { line, sheet } from "./sheet.js";

/** Make the card; returns `show(model)`, to be called for another run. */
export function makeFindings() {
  let model = null;
  let drawn = null; // the findings in the tables
  let plotted = []; // the findings in the plot, its size and its theme
  let plot = null;
  const box = $("front");
  const size = sized(box, "front");

  part("findings", () => {
    const found = model?.head?.findings ?? null;
    $("findings-card").hidden = found === null;
    box.hidden = found?.objectives.length !== 2 || !found.front.length;
    if (found === null || found === drawn) return;
    drawn = found;
    $("findings").replaceChildren(...genes(found), ...front(found), ...correlations(found));
    setText($("findings-text"), describe(found));
    paint("front");
  });
  part("front", () => {
    const now = [drawn, size.width, size.height, document.documentElement.dataset.theme];
    if (now.every((one, at) => one === plotted[at])) return;
    plotted = now;
    plot?.destroy();
    plot = box.hidden || !drawn || !size.width ? null : scatter(box, drawn, size);
    box.dataset.points = plot ? drawn.front.length : 0; // for tests
  });
  return (next) => {
    [model, drawn] = [next, null];
  };
}

function genes({ genes: found }) {
  if (!found.length) return [];
  return [sheet("Genes of the best candidate", ["Gene", "Value", "Type"], found.map(([name, ...cells]) => line("th", name, cells)))];
}

/** The table of a front that cannot be plotted. */
function front({ objectives, front: found }) {
  if (objectives.length < 3 || !found.length) return [];
  const rows = found.map((fitness, at) => line("th", `Candidate ${count(at + 1)}`, fitness.map(figure)));
  return [sheet("Pareto front, by fitness", ["Candidate", ...objectives], rows)];
}

function correlations({ correlated, correlations: found }) {
  if (!correlated.length) return [];
  const rows = found.map((row, at) => {
    const one = line("th", correlated[at], row.map((x) => x.toFixed(2).replace("-", "−")));
    [...one.cells].slice(1).forEach((cell, other) => {
      if (other !== at && Math.abs(row[other]) >= 0.5) cell.replaceChildren(make("strong", { text: cell.textContent }));
    });
    return one;
  });
  return [sheet("Correlations of columns", ["Correlation", ...correlated], rows)];
}

function describe({ genes: named, genes_all: all, objectives, front: found, correlated }) {
  const parts = [];
  if (named.length) {
    const part = named.length < all ? `The first ${count(named.length)} of ${count(all)} genes` : "Genes";
    parts.push(`${part} of the best candidate.`);
  }
  if (found.length) {
    const of = objectives.length === 2 ? `: ${objectives[1]} by ${objectives[0]}` : "";
    parts.push(`Pareto front of ${count(found.length)} candidates${of}. None is better in one objective and as good in the others.`);
  }
  if (correlated.length) parts.push("Correlations over the rows of all trainers; the strong ones are bold.");
  return parts.join(" ");
}

function scatter(box, { objectives, front: found }, size) {
  const points = [...found].sort((one, other) => one[0] - other[0]);
  const series = { ...curve("accent", 1.25), points: { ...curve("accent").points, show: true, size: 8 } };
  const label = { labelSize: 18, labelFont: '12px "Inter", system-ui, sans-serif' };
  const options = {
    ...size,
    padding: [12, 20, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false, range: roomy() }, y: { range: roomy() } },
    axes: [
      axis(28, figure, { ...label, label: objectives[0], space: 60, grid: { show: false } }),
      axis(wide, figure, { ...label, label: objectives[1], space: 30 }),
    ],
    series: [{}, series],
  };
  const plot = new uPlot(options, [points.map((one) => one[0]), points.map((one) => one[1])], box);
  const labels = { role: "img", "aria-labelledby": "findings-title", "aria-describedby": "findings-text" };
  for (const [name, to] of Object.entries(labels)) plot.root.setAttribute(name, to);
  return plot;
}
