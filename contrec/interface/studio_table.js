// A sortable table of items, linked to the map. It is also the way for the keyboard.

const ROWS = 50;
const COLUMNS = [
  ["title", "title", false],
  ["categories", "categories", false],
  ["users", "users", true],
  ["kept", "map is true", true],
];

class ItemTable {
  constructor(app) {
    this.app = app;
    this.sort = "users";
    this.descending = true;
    this.ids = null; // Of the selection; null for all items
    this.caption = make("h4", { textContent: "All items" });
    this.head = make("tr");
    this.body = make("tbody");
    this.more = button("more rows", "show more rows", () => this.load(false));
    const table = make(
      "table",
      { "aria-label": "items" },
      make("thead", {}, this.head),
      this.body,
    );
    this.clear = button("clear selection", "clear the selection", () => app.select(null));
    this.element = make(
      "section",
      { className: "table", "aria-label": "table of items" },
      make("div", { className: "tablehead" }, this.caption, this.clear),
      make("div", { className: "scroll", tabIndex: 0 }, table, this.more),
    );
    this.drawHead();
  }

  drawHead() {
    const cells = COLUMNS.map(([key, label, numeric]) => {
      const here = this.sort === key;
      const mark = here ? (this.descending ? " ▾" : " ▴") : "";
      const sort = button(label + mark, `sort by ${label}`, () => this.sortBy(key, numeric));
      const direction = this.descending ? "descending" : "ascending";
      return make(
        "th",
        { scope: "col", "aria-sort": here ? direction : "none", className: numeric ? "number" : "" },
        sort,
      );
    });
    this.head.replaceChildren(...cells);
  }

  sortBy(key, numeric) {
    this.descending = this.sort === key ? !this.descending : numeric;
    this.sort = key;
    this.drawHead();
    const column = COLUMNS.findIndex(([name]) => name === key);
    this.head.children[column].firstChild.focus(); // The old button is gone
    this.load(true);
  }

  show(ids) {
    this.ids = ids;
    this.clear.hidden = ids === null;
    this.caption.textContent =
      ids === null ? `All ${number(this.app.n)} items` : `Selection: ${number(ids.length)} items`;
    return this.load(true);
  }

  async load(fresh) {
    const start = fresh ? 0 : this.body.children.length;
    const rows = await this.app.source.rows({
      ids: this.ids,
      sort: this.sort,
      descending: this.descending,
      start,
      count: ROWS,
      plane: this.app.plane,
    });
    const made = rows.map((row) => this.row(row));
    if (fresh) this.body.replaceChildren(...made);
    else this.body.append(...made);
    const all = this.ids === null ? this.app.n : this.ids.length;
    this.more.hidden = this.body.children.length >= all;
  }

  row(row) {
    const open = button(row.title, `show ${row.title} on the map`, () => {
      this.app.open(row.item, true);
    });
    open.className = "link";
    const line = make(
      "tr",
      { "data-item": row.item },
      make("td", {}, open),
      make("td", { textContent: row.categories }),
      make("td", { className: "number", textContent: number(row.users) }),
      make("td", {
        className: "number",
        textContent: row.kept === undefined ? "" : percent(row.kept),
      }),
    );
    line.addEventListener("mouseenter", () => this.app.hover(row.item));
    line.addEventListener("mouseleave", () => this.app.hover(null));
    return line;
  }

  mark(item) {
    for (const line of this.body.children) {
      line.classList.toggle("here", Number(line.dataset.item) === item);
    }
  }
}
