// Numbers, times and sizes as text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const momentTime = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium", hourCycle: "h23" });
const dateParts = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const dateTime = new Intl.DateTimeFormat(undefined, dateParts);
const exactTime = new Intl.DateTimeFormat(undefined, { ...dateParts, second: "2-digit" });

export const NOTHING = "–";

/** 12345 → "12,345". */
export const count = (n) => (n === null || n === undefined ? NOTHING : whole.format(n));

/** Three significant digits, or the whole number below a million: -0.0123, 1.57, 1,234, 2.66e12. */
export function figure(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return NOTHING;
  const size = Math.abs(x);
  if (size >= 999999.5) return x.toExponential(2).replace(/\.?0*e\+/, "e").replace("-", "−");
  if (size >= 1000) return (x < 0 ? "−" : "") + whole.format(size);
  if (size !== 0 && size < 1e-4) return x.toExponential(1).replaceAll("-", "−");
  return Number(x.toPrecision(3)).toString().replace("-", "−");
}

/** A metric's value: accuracy in percent, loss as a figure. */
export function value(x, metric) {
  if (x === null || x === undefined) return NOTHING;
  return metric === "accuracy" ? `${Number((100 * x).toFixed(1))} %` : figure(x);
}

/** A duration in a suitable unit: 3 ms, 1.2 s, 4 min 05 s, 2 h 10 min, 3 d 4 h. */
export function duration(s) {
  if (s === null || s === undefined) return NOTHING;
  if (s < 0.0995) return `${Number((1000 * s).toPrecision(2))} ms`;
  if (s < 0.9995) return `${Math.round(1000 * s)} ms`;
  if (s < 59.95) return `${s < 9.95 ? s.toFixed(1) : Math.round(s)} s`;
  const [minutes, seconds] = [Math.floor(s / 60), Math.floor(s % 60)];
  if (minutes < 60) return `${minutes} min ${String(seconds).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** An age in whole seconds, so that it does not flicker. */
export const ago = (s) => (s < 1 ? "now" : s < 60 ? `${Math.floor(s)} s` : duration(s));

/** 1536 → "1.5 kB". */
export function bytes(n) {
  if (n === null || n === undefined) return NOTHING;
  let unit = 0;
  for (; n >= 999.5 && unit < 4; unit += 1) n /= 1000;
  return `${unit && n < 9.95 ? n.toFixed(1) : Math.round(n)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}

export const share = (x) => `${x > 0 && x < 0.01 ? Number((100 * x).toPrecision(1)) : Math.round(100 * x)} %`;
export const time = (at) => clockTime.format(1000 * at);
export const exactDate = (at) => exactTime.format(1000 * at);
export const moment = (at) => momentTime.format(1000 * at);
export const date = (at) => (at ? dateTime.format(1000 * at) : NOTHING);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
