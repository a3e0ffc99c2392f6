// The studio: toolbar, map, panels, note and table, over any source and any dots.

class Studio {
  // `source` answers questions; `attach` gives it the dots
  constructor(root, scene, source) {
    this.root = root;
    this.scene = scene;
    this.source = source;
    this.n = scene.n;
    this.planes = scene.planeNames ?? Object.keys(scene.planes);
    this.plane = this.planes.includes(scene.plane) ? scene.plane : this.planes[0];
    this.colours = scene.colourNames ?? Object.keys(scene.colours);
    this.by = this.colours[0];
    this.titles = scene.titles ?? scene.popular.map((item) => ({ item, title: scene.names[item] }));
    this.labels = true;
    this.tab = "item";
    this.selection = null;
    this.visible = null;
    this.hidden = new Set();
    this.near = null;
    root.classList.add("contrec-studio");
    this.build();
    this.overlay = new Overlay(this.stage, this);
    if (source.recommend) this.addPerson();
    this.showTab();
  }

  attach(dots) {
    this.dots = dots;
    this.dots.on("view", () => this.overlay.draw());
    this.dots.on("hover", (item) => this.hover(item));
    this.dots.on("click", (item) => item !== null && this.open(item));
    this.dots.on("lasso", (ids) => this.select(ids.length ? ids : null));
  }

  async begin() {
    this.say(
      `${number(this.n)} items of ${this.scene.name}. Click a dot, or search a title.`,
    );
    await this.asked(this.dots.show(this.plane, false));
    await this.paint(this.by);
    await this.table.show(null);
  }

  build() {
    const { root } = this;
    this.ground = make("div", { className: "ground" });
    this.hoverCard = make("div", { className: "card", hidden: true });
    this.legendBox = make("div", { className: "legend", role: "group", "aria-label": "legend" });
    this.busyBox = make("div", { className: "busy", role: "status", hidden: true });
    this.stage = make(
      "div",
      {
        className: "stage",
        tabIndex: 0,
        role: "application",
        "aria-label": `map of ${number(this.n)} items; arrow keys move, plus and minus zoom, 0 shows all; the table below lists the same items`,
      },
      this.ground,
      this.hoverCard,
      this.legendBox,
      this.busyBox,
    );
    this.stage.addEventListener("keydown", (event) => this.pressKey(event));
    this.note = make("p", { className: "note", "aria-live": "polite" });
    this.codeBox = make("div", { className: "codebox", hidden: true });
    this.tabs = make("div", { className: "tabs", role: "tablist", "aria-label": "panels" });
    this.side = make("div", { className: "side" }, this.tabs);
    this.item = new ItemPanel(this);
    this.panels = { item: ["Item", this.item] };
    this.table = new ItemTable(this);
    root.append(
      this.toolbar(),
      make("div", { className: "main" }, this.stage, this.side),
      this.note,
      this.codeBox,
      this.table.element,
    );
  }

  toolbar() {
    const search = makeCombo(
      "search a title",
      "search a title …",
      (text) => this.suggest(text),
      (item) => this.open(item, true),
    );
    this.planeButtons = this.planes.map((plane) =>
      make("button", {
        type: "button",
        role: "radio",
        textContent: plane.toUpperCase(),
        "aria-checked": String(plane === this.plane),
        title: `places by ${plane.toUpperCase()}`,
        onclick: () => this.move(plane),
      }),
    );
    this.colourField = make(
      "select",
      { "aria-label": "colour by", onchange: () => this.paint(this.colourField.value) },
      ...this.colours.map((by) => make("option", { value: by, textContent: by })),
    );
    this.tools = ["move", "lasso"].map((tool) =>
      make("button", {
        type: "button",
        textContent: tool,
        "aria-pressed": String(tool === "move"),
        title: tool === "move" ? "drag moves the map" : "drag selects items",
        onclick: () => this.mode(tool),
      }),
    );
    const titles = make("button", {
      type: "button",
      textContent: "titles",
      "aria-pressed": "true",
      title: "titles of popular items",
      onclick: () => {
        this.labels = !this.labels;
        titles.setAttribute("aria-pressed", String(this.labels));
        this.overlay.draw();
      },
    });
    const group = (label, role, parts) =>
      make("div", { className: "group", role, "aria-label": label }, ...parts);
    const code = button("code", "copy what is shown as Python code", () => this.copyCode());
    return make(
      "div",
      { className: "toolbar", role: "group", "aria-label": "map controls" },
      search,
      this.planes.length > 1 ? group("projection", "radiogroup", this.planeButtons) : null,
      make("label", {}, "colour", this.colourField),
      group("what dragging does", "group", this.tools),
      button("fit", "show the whole map", () => this.dots.fit()),
      titles,
      make("span", { className: "space" }),
      button("CSV", "save the selection, or all items, as CSV", () => this.saveTable()),
      button("PNG", "save the map as a picture", () => this.savePicture()),
      this.source.code ? code : null,
    );
  }

  addPerson() {
    this.person = new PersonPanel(this);
    this.noise = new NoisePanel(this);
    this.panels.person = ["Person", this.person];
    this.panels.noise = ["Denoising", this.noise];
  }

  startPerson(answer) {
    this.person.start(answer);
    this.noise.start(answer.noise);
    this.colourField.append(
      make("option", { value: "score", textContent: "score for the person" }),
    );
  }

  showTab() {
    const names = Object.keys(this.panels);
    this.tabs.hidden = names.length < 2;
    const made = names.map((name) =>
      make("button", {
        type: "button",
        role: "tab",
        textContent: this.panels[name][0],
        "aria-selected": String(name === this.tab),
        onclick: () => this.show(name),
      }),
    );
    this.tabs.replaceChildren(...made);
    this.side.replaceChildren(this.tabs, this.panels[this.tab][1].element);
    this.overlay?.draw();
  }

  show(tab) {
    if (tab === this.tab) return;
    this.tab = tab;
    this.showTab();
    if (tab === "person") this.person.look();
    if (tab === "noise") this.dots.fit();
    if (tab === "noise" && !this.noise.walk) this.noise.load();
    if (tab !== "noise") this.noise?.pause();
  }

  say(text, error = false) {
    this.note.textContent = text;
    this.note.classList.toggle("error", error);
  }

  // Wait for an answer; an error becomes the note, and the answer is undefined
  async asked(promise) {
    const wait = setTimeout(() => this.busy("working …"), 250);
    try {
      return await promise;
    } catch (error) {
      this.say(error.message, true);
      return undefined;
    } finally {
      clearTimeout(wait);
      this.busy("");
    }
  }

  busy(text) {
    this.busyBox.textContent = text;
    this.busyBox.hidden = !text;
  }

  async suggest(text) {
    const found = await this.source.search(text);
    return found.map((row) => ({
      label: row.title,
      detail: `${number(row.users)} users`,
      value: row.item,
    }));
  }

  async move(plane) {
    this.plane = plane;
    this.planeButtons.forEach((each, n) => {
      each.setAttribute("aria-checked", String(this.planes[n] === plane));
    });
    await this.asked(this.dots.show(plane));
    this.dots.fit(); // What was in view is elsewhere in another plane
    this.table.load(true);
    if (this.near) await this.open(this.near.item, false, false);
    this.noise?.stale();
    const words = plane === "pca" ? "the two directions of largest variance" : "neighbourhoods";
    this.say(`Places by ${plane.toUpperCase()}, which keeps ${words}.`);
  }

  async paint(by) {
    this.by = by;
    this.colourField.value = by;
    this.hidden.clear();
    const legend = await this.asked(this.source.colour(by, this.person));
    if (!legend) return;
    this.legend = legend;
    await this.asked(this.dots.paint(by, legend, this.dark));
    this.applyFilter();
    this.drawLegend();
  }

  personChanged() {
    if (this.by === "score") this.paint("score");
  }

  setTheme(dark) {
    this.dark = dark;
    this.root.classList.toggle("dark", dark);
    this.dots?.theme?.(dark);
    if (this.legend) this.paint(this.by);
    this.overlay?.draw();
  }

  drawLegend() {
    const { legend } = this;
    const colours = this.dark ? legend.dark : legend.light;
    const title = make("b", { textContent: legend.title });
    if (!legend.names.length) {
      const ramp = make("div", { className: "ramp", role: "img", "aria-label": "colour scale" });
      const stops = colours.filter((_, n) => n % 17 === 0);
      ramp.style.background = `linear-gradient(to right, ${stops.join(",")})`;
      const shown = legend.high <= 1 && legend.low >= 0 && legend.title.startsWith("share");
      const ends = make(
        "div",
        { className: "ends" },
        make("span", { textContent: shown ? "0%" : number(legend.low) }),
        make("span", { textContent: legend.log ? "log" : "" }),
        make("span", { textContent: shown ? "100%" : number(legend.high) }),
      );
      this.legendBox.replaceChildren(title, ramp, ends);
      return;
    }
    const rows = legend.names.map((name, n) => {
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = colours[n];
      const row = make(
        "button",
        {
          type: "button",
          "aria-pressed": String(!this.hidden.has(n)),
          "aria-label": `show ${name}, ${number(legend.counts[n])} items`,
          title: "click hides or shows; double click shows only this",
          onclick: () => this.toggleGroup(n),
          ondblclick: () => this.onlyGroup(n),
        },
        swatch,
        make("span", { textContent: name }),
        make("small", { textContent: number(legend.counts[n]) }),
      );
      return row;
    });
    this.legendBox.replaceChildren(title, ...rows);
  }

  toggleGroup(n) {
    if (!this.hidden.delete(n)) this.hidden.add(n);
    this.applyFilter();
    this.markLegend();
  }

  onlyGroup(n) {
    this.hidden = new Set(this.legend.names.map((_, i) => i).filter((i) => i !== n));
    this.applyFilter();
    this.markLegend();
  }

  markLegend() {
    [...this.legendBox.querySelectorAll("button")].forEach((row, n) => {
      row.setAttribute("aria-pressed", String(!this.hidden.has(n)));
    });
  }

  applyFilter() {
    if (!this.hidden.size) {
      if (this.visible) this.dots.filter(null);
      this.visible = null;
    } else {
      const codes = this.legend.bytes;
      this.visible = Uint8Array.from(codes, (code) => (this.hidden.has(code) ? 0 : 1));
      this.dots.filter(this.visible);
    }
    this.overlay.draw();
  }

  mode(tool) {
    this.tools.forEach((each) => {
      each.setAttribute("aria-pressed", String(each.textContent === tool));
    });
    this.dots.mode(tool);
  }

  async open(item, focus = false, tab = true) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const { plane } = this;
    const answer = await this.asked(
      Promise.all([this.source.card(item, plane), this.source.neighbours(item, plane)]),
    );
    if (!answer || turn !== this.turn) return;
    const [card, near] = answer;
    this.near = { ...near, item, title: card.title };
    this.item.show(card, near);
    if (tab) {
      this.tab = "item";
      this.showTab();
    }
    if (focus) {
      const close = near.rows.filter((row) => row.map);
      this.dots.focus([item, ...close.map((row) => row.item)]);
    }
    this.table.mark(item);
    this.overlay.draw();
    if (tab) this.say(`${card.title}. ${verdict(near)}`);
    this.source.opened?.(item);
  }

  select(ids) {
    this.selection = ids;
    this.dots.select(ids ?? []);
    this.table.show(ids);
    this.source.select?.(ids);
    this.say(ids ? `${number(ids.length)} items selected.` : "Nothing is selected.");
  }

  async hover(item) {
    this.hovered = item;
    if (item === null) {
      this.hoverCard.hidden = true;
      return;
    }
    const card = await this.source.card(item, this.plane);
    if (this.hovered !== item || !card) return;
    this.hoverCard.replaceChildren(
      make("b", { textContent: card.title }),
      make("span", { textContent: describe(card) }),
    );
    this.hoverCard.hidden = false;
    const [x, y] = this.dots.screen(item);
    const { offsetWidth: width, offsetHeight: height } = this.hoverCard;
    const left = x + 14 + width > this.stage.clientWidth ? x - width - 14 : x + 14;
    const top = Math.min(Math.max(4, y - height / 2), this.stage.clientHeight - height - 4);
    this.hoverCard.style.left = `${Math.max(4, left)}px`;
    this.hoverCard.style.top = `${top}px`;
  }

  pressKey(event) {
    if (event.target !== this.stage) return;
    const moves = {
      ArrowLeft: [-0.1, 0, 1],
      ArrowRight: [0.1, 0, 1],
      ArrowUp: [0, 0.1, 1],
      ArrowDown: [0, -0.1, 1],
      "+": [0, 0, 1.3],
      "=": [0, 0, 1.3],
      "-": [0, 0, 1 / 1.3],
    };
    if (event.key === "0") this.dots.fit();
    else if (moves[event.key]) this.dots.nudge(...moves[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  async saveTable() {
    const count = this.selection?.length ?? this.n;
    const rows = await this.asked(
      this.source.rows({
        ids: this.selection,
        sort: this.table.sort,
        descending: this.table.descending,
        start: 0,
        count,
        plane: this.plane,
      }),
    );
    const lines = [["item number", "title", "categories", "users", "share kept"]];
    for (const row of rows) {
      lines.push([row.item, row.title, row.categories, row.users, row.kept ?? ""]);
    }
    const text = lines.map((line) => line.map(csvCell).join(",")).join("\n");
    download("items.csv", `${text}\n`);
    this.say(`${number(rows.length)} items were saved as items.csv.`);
  }

  async savePicture() {
    const dots = await this.dots.image();
    const { width, height } = this.overlay.canvas;
    const canvas = make("canvas", { width, height });
    const pen = canvas.getContext("2d");
    pen.fillStyle = getComputedStyle(this.root).getPropertyValue("--paper");
    pen.fillRect(0, 0, width, height);
    pen.drawImage(dots, 0, 0, width, height);
    pen.drawImage(this.overlay.canvas, 0, 0);
    canvas.toBlob((blob) => download("map.png", blob));
    this.say("The map was saved as map.png.");
  }

  async copyCode() {
    const text = await this.asked(
      this.source.code({
        plane: this.plane,
        colour: this.by,
        item: this.near?.item ?? null,
        ids: this.selection,
        history: this.tab === "item" ? [] : this.person?.history ?? [],
        settings: this.person?.values ?? {},
      }),
    );
    if (!text) return;
    const field = make("textarea", { readOnly: true, value: text, "aria-label": "Python code" });
    field.addEventListener("keydown", (event) => event.stopPropagation());
    const close = button("close", "close the code", () => (this.codeBox.hidden = true));
    this.codeBox.replaceChildren(field, close);
    this.codeBox.hidden = false;
    field.select();
    try {
      await navigator.clipboard.writeText(text);
      this.say("The code is in the clipboard.");
    } catch {
      this.say("Copy the code from the field above the table.");
    }
  }
}
