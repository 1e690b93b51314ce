// Painting: at most once an animation frame, only the requested parts, and canvases only while they are visible.

const parts = new Map(); // name → { draw, seen }
const dirty = new Set();
let frame = 0;

const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const [name, part] = [...parts].find(([, one]) => one.where === entry.target);
      part.seen = entry.isIntersecting;
      if (part.seen) paint(name);
    }
  },
  { rootMargin: "25%" },
);

/** Register `draw` for `name`; with an element `where`, only while it is on the screen or near it. */
export function part(name, draw, where = null) {
  parts.set(name, { draw, where, seen: where === null });
  if (where) watcher.observe(where);
}

/** Request these parts for the next frame. */
export function paint(...names) {
  for (const name of names) dirty.add(name);
  frame ||= requestAnimationFrame(run);
}

export const paintAll = () => paint(...parts.keys());

function run() {
  frame = 0;
  for (const name of [...dirty]) {
    const one = parts.get(name);
    if (one === undefined || !one.seen) continue; // it stays dirty until it is visible
    dirty.delete(name);
    one.draw();
  }
}

/** Set the text of an element if it changed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute if it changed. */
export function setAttr(element, name, to) {
  if (to === null || to === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(to)) {
    element.setAttribute(name, to === true ? "" : to);
  }
}

export const $ = (id) => document.getElementById(id);

/** Make an element: make("li", { class: "x", text: "y" }, child, …). */
export function make(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, to] of Object.entries(attributes)) element.setAttribute(name, to);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

/** The colors of the theme, read again when it changes. */
let colors = {};
export function color(name) {
  return (colors[name] ??= getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
}
addEventListener("theme", () => {
  colors = {};
  paintAll();
});

/** The size of an element, updated without forcing a layout; `name` is painted when it changes. */
export function sized(element, name) {
  const size = { width: element.clientWidth, height: element.clientHeight };
  new ResizeObserver(([{ contentRect }]) => {
    if (size.width === contentRect.width && size.height === contentRect.height) return;
    Object.assign(size, { width: contentRect.width, height: contentRect.height });
    paint(name);
  }).observe(element);
  return size;
}

/** Clear a canvas in device pixels; returns its context, scaled to CSS pixels. */
export function prepare(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
