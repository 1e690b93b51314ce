// The decision surface of the best model of any past round, over its two inputs, with a slider over the rounds.

import { count, figure } from "./format.js";
import { $, color, setAttr, paint, part, prepare, setText, sized } from "./paint.js";
import { contour, mixed } from "./field.js";

const KEPT_MAX = 512; // surfaces, so that each is requested once
const STEP_MS = 120; // between two models while playing
const AGAIN_MS = 500;

/** Make the surface; returns `show(model)`, to be called for another run. */
export function makeSurface() {
  const [card, canvas, slider, play] = ["surface-card", "surface", "surface-slider", "surface-play"].map($);
  const box = sized(canvas.parentNode, "surface");
  let model = null;
  let following = true; // the newest round, until the reader moves the slider
  let kept = new Map(); // round → surface
  let shown = null;
  let drawn = []; // the last drawn surface, its size and its theme
  let asking = false;
  let playing = 0;

  /** The round that closed with the best model of `round`. */
  const modelOf = (round) => model.bests.findLast((one) => one <= round) ?? null;

  function draw() {
    if (model === null || model.head === null) return;
    card.hidden = !model.head.drawable;
    document.documentElement.classList.toggle("flat", card.hidden);
    if (card.hidden) return;
    const [first, last] = [model.bests[0] ?? null, model.rounds.round?.[model.newestClosed()] ?? null];
    const known = first !== null && last !== null;
    slider.disabled = play.disabled = !known;
    $("surface-nothing").hidden = known;
    if (!known) return;
    setAttr(slider, "min", first);
    setAttr(slider, "max", Math.max(first, last));
    if (following) slider.value = slider.max;
    const wanted = modelOf(Number(slider.value));
    if (kept.has(wanted)) shown = kept.get(wanted);
    else ask();
    if (shown) drawShown();
  }

  function drawShown() {
    const now = [shown, box.width, box.height, document.documentElement.dataset.theme];
    if (now.some((one, at) => one !== drawn[at])) drawField(prepare(canvas, box.width, box.height), shown, box.width, box.height);
    drawn = now;
    const round = Number(slider.value);
    const since = shown.round === round ? "" : `, by the model of round ${count(shown.round)}`;
    setText($("surface-round"), `round ${count(round)}`);
    setAttr(slider, "aria-valuetext", `round ${count(round)}${since}`);
    const what = shown.what === "probability" ? `Probability of class ${shown.class}` : `Values from ${figure(shown.low)} to ${figure(shown.high)}`;
    setText($("surface-text"), `${what}${since}; inputs from ${figure(shown.x[0])} to ${figure(shown.x[1])}.`);
    canvas.dataset.round = shown.round; // for tests
  }

  /** Request one surface at a time; the next request is for the round shown by then. */
  async function ask() {
    if (asking) return;
    asking = true;
    const run = model.head.run;
    const asked = modelOf(Number(slider.value));
    let rest = 0;
    try {
      const answer = await fetch(`/api/runs/${run}/surface?round=${asked}`);
      if (answer.ok) keep(run, asked, await answer.json());
      else rest = AGAIN_MS;
    } catch {
      rest = AGAIN_MS; // the stream shows that the server does not answer
    }
    setTimeout(() => {
      asking = false;
      paint("surface");
    }, rest);
  }

  function keep(run, round, surface) {
    if (run !== model.head?.run) return;
    kept.set(round, surface);
    if (kept.size > KEPT_MAX) kept.delete(kept.keys().next().value);
  }

  function stop() {
    clearInterval(playing);
    playing = 0;
    setAttr(play, "aria-label", "Play the rounds");
    play.classList.remove("on");
  }

  function step() {
    const at = Number(slider.value);
    if (!kept.has(modelOf(at))) return; // not loaded yet
    const next = model.bests.find((one) => one > at);
    slider.value = next ?? slider.max;
    if (next === undefined) stop();
    following = next === undefined;
    paint("surface");
  }

  slider.addEventListener("input", () => {
    stop();
    following = slider.value === slider.max;
    paint("surface");
  });
  play.addEventListener("click", () => {
    if (playing) return stop();
    if (slider.value === slider.max) slider.value = slider.min;
    following = false;
    setAttr(play, "aria-label", "Stop playing");
    play.classList.add("on");
    playing = setInterval(step, STEP_MS);
    return paint("surface");
  });
  part("surface", draw);

  return (next) => {
    stop();
    [model, following, kept, shown, drawn] = [next, true, new Map(), null, []];
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    setText($("surface-round"), "");
    setText($("surface-text"), "");
  };
}

function drawField(context, { size, values, low, high, what, x, y, points }, width, height) {
  const image = new ImageData(size, size);
  const colors = mixed(color("field-low"), color("field-middle"), color("field-high"));
  const span = high - low || 1;
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      const level = Math.min(1, Math.max(0, (values[row * size + column] - low) / span));
      image.data.set(colors[Math.round(255 * level)], 4 * ((size - 1 - row) * size + column)); // y upwards
    }
  }
  const small = new OffscreenCanvas(size, size);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  // The centers of the cells are half a cell from the edge.
  context.drawImage(small, 0.5, 0.5, size - 1, size - 1, 0, 0, width, height);
  if (what === "probability") drawBorder(context, contour(values, size, (low + high) / 2), size, width, height);
  drawPoints(context, points, x, y, (low + high) / 2, width, height);
}

function drawBorder(context, lines, size, width, height) {
  context.beginPath();
  for (const [ax, ay, bx, by] of lines) {
    context.moveTo((ax / (size - 1)) * width, height - (ay / (size - 1)) * height);
    context.lineTo((bx / (size - 1)) * width, height - (by / (size - 1)) * height);
  }
  context.strokeStyle = color("ink");
  context.lineWidth = 1.5;
  context.lineCap = "round";
  context.stroke();
}

function drawPoints(context, points, [left, right], [bottom, top], middle, width, height) {
  for (const [x, y, target] of points) {
    context.beginPath();
    context.arc(((x - left) / (right - left)) * width, height - ((y - bottom) / (top - bottom)) * height, 5.5, 0, 7);
    context.fillStyle = color(target > middle ? "field-high" : "field-low");
    context.fill();
    context.strokeStyle = color("ink");
    context.lineWidth = 1.5;
    context.stroke();
  }
}
