// The card with the figures of the best model on held-out rows: single figures beside those of training rows, and the
// confusion matrix of few classes.

import { count, figure, NOTHING, value } from "./format.js";
import { $, part, setText } from "./paint.js";
import { line, sheet } from "./sheet.js";

const FIGURES = [
  ["accuracy", "Accuracy", (x) => value(x, "accuracy")],
  ["balanced_accuracy", "Balanced accuracy", (x) => value(x, "accuracy")],
  ["auc", "AUC", figure],
  ["log_loss", "Log-loss", figure],
  ["brier", "Brier score", figure],
  ["rmse", "RMSE", figure],
  ["mae", "MAE", figure],
  ["r2", "R²", figure],
];

/** Make the card; returns `show(model)`, to be called for another run. */
export function makeMeasured() {
  let model = null;
  let drawn = null;
  part("measured", () => {
    const measured = model?.head?.measured ?? null;
    $("measured-card").hidden = measured === null;
    if (measured === null || measured === drawn) return;
    drawn = measured;
    $("measured").replaceChildren(figures(measured), ...confusion(measured.held_out.confusion ?? [], model.head.classes), ...sites(measured));
    const { rows, trainers } = measured.held_out;
    const secure = model.rounds.secure?.some(Boolean) ? ` Their figures are a secure sum of ${count(trainers)}: no trainer's own figures are known.` : "";
    setText($("measured-text"), `${count(rows)} rows of ${count(trainers)} trainers measured the model, and never trained it.${secure}`);
  });
  return (next) => {
    [model, drawn] = [next, null];
  };
}

function figures({ held_out: heldOut, training }) {
  const known = FIGURES.filter(([name]) => heldOut[name] !== undefined && !(name === "accuracy" && heldOut.rmse !== undefined));
  const heads = ["Figure", "Held-out rows", ...(training ? ["Training rows"] : [])];
  const rows = known.map(([name, text, shown]) =>
    line("th", text, [shown(heldOut[name]), ...(training ? [training[name] === undefined ? NOTHING : shown(training[name])] : [])]),
  );
  return sheet("Figures of the best model", heads, rows);
}

function confusion(counts, classes) {
  if (!counts.length) return [];
  const names = counts.map((_, at) => classes[at] ?? `class ${at}`);
  const rows = counts.map((row, at) => line("th", names[at], row.map(count)));
  return [sheet("Confusion matrix: rows by true class, columns by predicted class", ["True class", ...names.map((name) => `As ${name}`)], rows)];
}

function sites({ held_out: heldOut, trainers: own }) {
  const values = heldOut.rmse !== undefined;
  const rows = Object.entries(own).map(([name, x]) => line("th", name, [values ? figure(x) : value(x, "accuracy")]));
  if (!rows.length) return [];
  return [sheet("Figures of each trainer on its own held-out rows", ["Trainer", values ? "RMSE of its own" : "Accuracy of its own"], rows)];
}
