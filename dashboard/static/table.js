// A table with pages and sorting; its cells are changed in place.

import { count } from "./format.js";
import { make, setAttr, setText } from "./paint.js";

/**
 * columns: { name, cell(row, td), number?, sort?(row), head? }: `cell` returns a text, or fills `td` and returns
 * nothing; `sort` makes the heading a button; `head` makes the cells the headings of their rows.
 */
export class Table {
  page = 0;
  by = null; // the column to sort by
  down = false; // descending
  #cells = [];

  constructor(box, { caption, columns, size, nothing, redraw }) {
    Object.assign(this, { columns, size, nothing, redraw });
    this.heads = columns.map((column) => this.#head(column));
    this.body = make("tbody");
    const table = make("table", {}, make("caption", { text: caption }), make("thead", {}, make("tr", {}, ...this.heads)), this.body);
    this.empty = make("p", { class: "empty" });
    const scroll = make("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, table);
    box.append(scroll, this.empty, this.#pager(caption));
  }

  #head(column) {
    const head = make("th", { scope: "col", class: column.number ? "number" : "" });
    if (!column.sort) {
      head.append(column.name);
      return head;
    }
    const button = make("button", { type: "button", text: column.name });
    button.addEventListener("click", () => {
      this.down = this.by === column ? !this.down : Boolean(column.number);
      this.by = column;
      this.page = 0;
      this.redraw();
    });
    head.append(button);
    return head;
  }

  #pager(caption) {
    const turn = (name, label, to) => {
      const button = make("button", { type: "button", class: "quiet", text: name, "aria-label": label });
      button.addEventListener("click", () => {
        this.page = to(this.page);
        this.redraw();
      });
      return button;
    };
    this.where = make("span");
    this.back = turn("←", `Previous page of ${caption}`, (page) => page - 1);
    this.on = turn("→", `Next page of ${caption}`, (page) => page + 1);
    this.first = turn("First", `First page of ${caption}`, () => 0);
    this.last = turn("Last", `Last page of ${caption}`, () => Infinity);
    this.pager = make("div", { class: "pager" }, this.where, this.first, this.back, this.on, this.last);
    return this.pager;
  }

  /** Paint those of the rows `row(0)` … `row(length - 1)` that are on this page. */
  draw(length, row) {
    const pages = Math.max(1, Math.ceil(length / this.size));
    this.page = Math.min(Math.max(0, this.page), pages - 1);
    const from = this.page * this.size;
    const shown = Math.min(this.size, length - from);
    while (this.#cells.length < shown) this.#cells.push(this.#addRow());
    this.#cells.forEach((cells, at) => {
      cells[0].parentNode.hidden = at >= shown;
      if (at < shown) this.#fill(cells, row(from + at));
    });
    this.columns.forEach((column, at) => {
      if (column.sort) setAttr(this.heads[at], "aria-sort", column !== this.by ? null : this.down ? "descending" : "ascending");
    });
    setText(this.empty, length ? "" : this.nothing());
    this.empty.hidden = length > 0;
    this.pager.hidden = pages === 1;
    setText(this.where, `${count(from + 1)} to ${count(from + shown)} of ${count(length)}`);
    this.first.disabled = this.back.disabled = this.page === 0;
    this.on.disabled = this.last.disabled = this.page === pages - 1;
  }

  #addRow() {
    const cells = this.columns.map((column) =>
      column.head ? make("th", { scope: "row" }) : make("td", { class: column.number ? "number" : "" }),
    );
    this.body.append(make("tr", {}, ...cells));
    return cells;
  }

  #fill(cells, row) {
    this.columns.forEach((column, at) => {
      const text = column.cell(row, cells[at]);
      if (text !== undefined) setText(cells[at], text);
    });
  }
}
