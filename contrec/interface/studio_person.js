// The panel of one person: a history to edit, recommendations, and why.

class PersonPanel {
  constructor(app) {
    this.app = app;
    this.user = "";
    this.history = []; // Item numbers, oldest first
    this.titles = {}; // Item number -> title
    this.listed = []; // Recommended rows
    this.chosen = null; // {item, title, reasons}
    this.values = {}; // Settings that were moved
    this.sliders = {}; // Label -> {input, take}
    this.next = null; // What a known person really chose next
    const find = (text) => app.source.users(text);
    this.people = makeCombo("person", "a person's id", find, (user) => this.load(user));
    const search = (text) => app.suggest(text);
    const add = (item, title) => this.add(item, title);
    this.titleField = makeCombo("add a title to the history", "add a title …", search, add);
    this.rows = make("ol", { className: "history", "aria-label": "history, oldest first" });
    this.settings = make("details", {}, make("summary", { textContent: "decoding settings" }));
    this.list = make("ol", { className: "list", "aria-label": "recommendations" });
    this.words = make("p", { className: "meta", textContent: "The model is being loaded …" });
    this.why = make("div", { className: "why" });
    this.who = make("h4", { textContent: "History" });
    const empty = button("clear", "remove all titles from the history", () => this.set([], ""));
    this.element = make(
      "div",
      { className: "panel person" },
      make("div", { className: "row" }, this.people),
      make("div", { className: "row" }, this.who, make("span", { className: "space" }), empty),
      this.rows,
      make("div", { className: "row" }, this.titleField),
      this.settings,
      make("h4", { textContent: "Recommended next" }),
      this.list,
      this.words,
      this.why,
    );
    this.ask = later(() => this.recommend(), 60);
  }

  // Called once, when the model is ready
  start(answer) {
    for (const setting of answer.settings) this.settings.append(this.slider(setting));
    this.take(answer);
  }

  slider(setting) {
    const { row, input, take } = makeSlider(setting, this.values, () => {
      this.couple(setting.label);
      this.ask();
    });
    this.sliders[setting.label] = { input, take };
    return row;
  }

  // Several samples differ only if there is noise
  couple(moved) {
    const { samples, "noise scale": noise } = this.sliders;
    if (Number(samples.input.value) === 1 || Number(noise.input.value) > 0) return;
    if (moved === "samples") noise.take(1);
    else samples.take(1);
  }

  async load(user) {
    const answer = await this.app.asked(this.app.source.person(user));
    if (answer) this.take(answer);
  }

  take({ user, history, titles, next }) {
    this.titles = { ...this.titles, ...titles };
    this.next = next;
    this.set(history, user);
  }

  add(item, title) {
    this.app.show("person");
    if (this.history.includes(item)) return this.app.say(`${title} is in the history already.`);
    this.titles[item] = title;
    this.set([...this.history, item], this.user, true);
    this.app.say(`${title} was added to the history.`);
  }

  remove(index) {
    this.set(this.history.filter((_, n) => n !== index), this.user, true);
  }

  move(index, by) {
    const other = index + by;
    if (other < 0 || other >= this.history.length) return;
    const history = [...this.history];
    [history[index], history[other]] = [history[other], history[index]];
    this.set(history, this.user, true);
    this.rows.children[history.length - 1 - other]?.querySelector("button.small")?.focus();
  }

  set(history, user, edited = false) {
    this.history = history;
    this.user = user;
    if (!user) this.next = null;
    const words = user ? `History of person ${user}` : "Your own history";
    this.who.textContent = words + (edited && user ? ", edited" : "");
    this.chosen = null;
    this.why.replaceChildren();
    const newestFirst = history.map((item, n) => this.row(item, n)).reverse();
    this.rows.replaceChildren(...newestFirst);
    if (!history.length) {
      this.rows.append(make("li", { className: "hint", textContent: "empty: add a title below" }));
    }
    this.app.overlay.draw();
    this.app.noise?.stale();
    this.ask();
  }

  row(item, index) {
    const title = this.titles[item] ?? `item ${item}`;
    const open = button(title, `show ${title}`, () => this.app.open(item, true));
    open.className = "link";
    const small = { className: "small" };
    return make(
      "li",
      {},
      make("span", { className: "place", textContent: index + 1 }),
      open,
      button("▲", `move ${title} later`, () => this.move(index, 1), small),
      button("▼", `move ${title} earlier`, () => this.move(index, -1), small),
      button("×", `remove ${title}`, () => this.remove(index), small),
    );
  }

  async recommend() {
    if (!this.history.length) {
      this.listed = [];
      this.list.replaceChildren();
      this.words.textContent = "";
      this.app.overlay.draw();
      return;
    }
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const request = { history: this.history, settings: this.values };
    const answer = await this.app.asked(this.app.source.recommend(request));
    if (!answer || turn !== this.turn) return;
    this.listed = answer.rows;
    for (const row of answer.rows) this.titles[row.item] = row.title;
    this.words.textContent = answer.words ? `The language model says: ${answer.words}` : "";
    this.drawList();
    if (turn === 1 && this.app.tab === "person") this.look();
    this.app.personChanged();
    const chosen = this.chosen && answer.rows.find((row) => row.item === this.chosen.item);
    if (chosen) this.explain(chosen);
    const first = answer.rows[0];
    this.app.say(`Recommended first: ${first.title}. Choose one to see why.`);
  }

  // Show the part of the map where the history and the list are
  look() {
    const items = [...this.history.slice(-15), ...this.listed.map((row) => row.item)];
    if (items.length) this.app.dots.focus(items);
  }

  drawList() {
    const rows = this.listed.map((row, n) => {
      const open = button(row.title, `why ${row.title}?`, () => this.explain(row));
      open.className = "link";
      const here = this.chosen?.item === row.item;
      const hit = this.next?.item === row.item;
      return make(
        "li",
        { className: here ? "here" : "" },
        make("span", { className: "place", textContent: n + 1 }),
        open,
        hit ? make("span", { className: "next", textContent: "chosen next" }) : null,
        make("span", { className: "value", textContent: row.score.toFixed(2) }),
      );
    });
    this.list.replaceChildren(...rows);
    this.app.overlay.draw();
  }

  async explain(row) {
    const request = { history: this.history, item: row.item, settings: this.values };
    const answer = await this.app.asked(this.app.source.why(request));
    if (!answer) return;
    this.chosen = { ...row, reasons: answer.rows };
    this.drawList();
    this.drawWhy(row, answer);
    this.app.say(answer.note);
  }

  drawWhy(row, answer) {
    const most = Math.max(...answer.rows.map((r) => Math.abs(r.change)), 1e-12);
    const strongest = [...answer.rows].sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
    const bars = strongest.slice(0, REASONS).map((reason) => {
      const fill = make("i");
      fill.style.setProperty("--share", Math.abs(reason.change) / most);
      const minus = reason.change < 0 ? " minus" : "";
      return make(
        "li",
        {},
        make("span", { textContent: reason.title }),
        make("span", { className: `both${minus}`, "aria-hidden": "true" }, fill),
        make("span", {
          className: "number",
          textContent: (reason.change < 0 ? "−" : "+") + Math.abs(reason.change).toFixed(2),
        }),
      );
    });
    this.why.replaceChildren(
      make("h4", { textContent: `Why ${row.title}?` }),
      make("p", { className: "verdict", textContent: answer.note }),
      make("p", {
        className: "meta",
        textContent: `Fall of its score when a title is left out, the strongest ${bars.length} of ${answer.rows.length}:`,
      }),
      make("ol", { "aria-label": "reasons" }, ...bars),
    );
    this.why.scrollIntoView({ block: "nearest" });
  }
}
