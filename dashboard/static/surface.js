// The decision surface: what the best model of any past round says about its two inputs, with a slider over the rounds.

import { count, figure } from "./format.js";
import { $, colour, mark, paint, part, prepare, say, sized } from "./paint.js";
import { contour, mixed } from "./field.js";

const KEPT_MAX = 512; // surfaces, so that sliding back and forth asks for each once
const STEP_MS = 120; // between two models while playing
const AGAIN_MS = 500;

/** Make it; returns `show(picture)`, to be called for another run. */
export function makeSurface() {
  const [card, canvas, slider, play] = ["surface-card", "surface", "surface-slider", "surface-play"].map($);
  const box = sized(canvas.parentNode, "surface");
  let picture = null;
  let following = true; // the newest round, until the reader takes the slider
  let kept = new Map(); // number of a round → what the server said
  let shown = null;
  let drawn = []; // what was shown, how large and in which theme
  let asking = false;
  let playing = 0;

  /** The round at whose close the model came that was the best at `round`. */
  const modelOf = (round) => picture.bests.findLast((one) => one <= round) ?? null;

  function draw() {
    if (picture === null || picture.head === null) return;
    card.hidden = !picture.head.drawable;
    document.documentElement.classList.toggle("flat", card.hidden);
    if (card.hidden) return;
    const [first, last] = [picture.bests[0] ?? null, picture.rounds.round?.[picture.newestClosed()] ?? null];
    const there = first !== null && last !== null;
    slider.disabled = play.disabled = !there;
    $("surface-nothing").hidden = there;
    if (!there) return;
    mark(slider, "min", first);
    mark(slider, "max", Math.max(first, last));
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
    say($("surface-round"), `round ${count(round)}`);
    mark(slider, "aria-valuetext", `round ${count(round)}${since}`);
    const what = shown.what === "probability" ? `How likely class ${shown.class} is` : `Values from ${figure(shown.low)} to ${figure(shown.high)}`;
    say($("surface-words"), `${what}${since}; inputs from ${figure(shown.x[0])} to ${figure(shown.x[1])}.`);
    canvas.dataset.round = shown.round; // for who looks at the page from outside
  }

  /** One question at a time; what is wanted by then is asked next. */
  async function ask() {
    if (asking) return;
    asking = true;
    const run = picture.head.run;
    const asked = modelOf(Number(slider.value));
    let rest = 0;
    try {
      const answer = await fetch(`/api/runs/${run}/surface?round=${asked}`);
      if (answer.ok) keep(run, asked, await answer.json());
      else rest = AGAIN_MS;
    } catch {
      rest = AGAIN_MS; // the server is away; the stream says so
    }
    setTimeout(() => {
      asking = false;
      paint("surface");
    }, rest);
  }

  function keep(run, round, surface) {
    if (run !== picture.head?.run) return;
    kept.set(round, surface);
    if (kept.size > KEPT_MAX) kept.delete(kept.keys().next().value);
  }

  function stop() {
    clearInterval(playing);
    playing = 0;
    mark(play, "aria-label", "Play the rounds");
    play.classList.remove("on");
  }

  function step() {
    const at = Number(slider.value);
    if (!kept.has(modelOf(at))) return; // it is on its way
    const next = picture.bests.find((one) => one > at);
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
    mark(play, "aria-label", "Stop playing");
    play.classList.add("on");
    playing = setInterval(step, STEP_MS);
    return paint("surface");
  });
  part("surface", draw);

  return (next) => {
    stop();
    [picture, following, kept, shown, drawn] = [next, true, new Map(), null, []];
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    say($("surface-round"), "");
    say($("surface-words"), "");
  };
}

function drawField(context, { size, values, low, high, what, x, y, points }, width, height) {
  const picture = new ImageData(size, size);
  const colours = mixed(colour("field-low"), colour("field-middle"), colour("field-high"));
  const span = high - low || 1;
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      const level = Math.min(1, Math.max(0, (values[row * size + column] - low) / span));
      picture.data.set(colours[Math.round(255 * level)], 4 * ((size - 1 - row) * size + column)); // y upwards
    }
  }
  const small = new OffscreenCanvas(size, size);
  small.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingQuality = "high";
  // The cells' centres stand half a cell from the edge.
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
  context.strokeStyle = colour("ink");
  context.lineWidth = 1.5;
  context.lineCap = "round";
  context.stroke();
}

function drawPoints(context, points, [left, right], [bottom, top], middle, width, height) {
  for (const [x, y, target] of points) {
    context.beginPath();
    context.arc(((x - left) / (right - left)) * width, height - ((y - bottom) / (top - bottom)) * height, 5.5, 0, 7);
    context.fillStyle = colour(target > middle ? "field-high" : "field-low");
    context.fill();
    context.strokeStyle = colour("ink");
    context.lineWidth = 1.5;
    context.stroke();
  }
}
