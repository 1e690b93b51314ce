// A small table of figures that is replaced as a whole.

import { make } from "./paint.js";

/** Make a table of these heads and rows; all columns but the first hold numbers. */
export function sheet(caption, heads, rows) {
  const head = make("tr", {}, ...heads.map((text, at) => make("th", { scope: "col", class: at ? "number" : "", text })));
  const box = make("div", { class: "sheet", role: "region", tabindex: "0", "aria-label": caption });
  box.append(make("table", {}, make("caption", { text: caption }), make("thead", {}, head), make("tbody", {}, ...rows)));
  return box;
}

/** Make a row with its name and the texts of its cells. */
export const line = (tag, name, cells) =>
  make("tr", {}, make(tag, { scope: "row", text: name }), ...cells.map((text) => make("td", { class: "number", text })));
