// The panel of denoising: from noise to titles, step by step.

class NoisePanel {
  constructor(app) {
    this.app = app;
    this.walk = null;
    this.step = 0;
    this.timer = null;
    this.values = { guidance: 0 }; // Of the settings, see `start`
    this.play = button("▶ play", "play the denoising", () => this.toggle());
    this.slider = make("input", { type: "range", min: 0, max: 24, "aria-label": "denoising step" });
    this.slider.addEventListener("keydown", (event) => event.stopPropagation());
    this.slider.addEventListener("input", () => {
      this.pause();
      this.go(Number(this.slider.value));
    });
    this.ticker = make("div", { className: "ticker", "aria-live": "off" });
    this.curve = make("div");
    this.settings = make("details", {}, make("summary", { textContent: "settings" }));
    this.element = make(
      "div",
      { className: "panel noise" },
      make("p", {
        className: "hint",
        textContent:
          "The model makes a vector from noise, under the history of the person tab." +
          " Titles near to the thick path tick along.",
      }),
      make(
        "div",
        { className: "row" },
        button("|◀", "back to noise", () => this.jump(0)),
        button("◀", "one step back", () => this.jump(this.step - 1)),
        this.play,
        button("▶|", "one step on", () => this.jump(this.step + 1)),
      ),
      this.slider,
      this.ticker,
      this.curve,
      this.settings,
    );
    this.ask = later(() => this.load(), 80);
  }

  start(controls) {
    for (const control of controls) {
      this.values[control.name] = control.value;
      const slider = makeSlider(control, this.values, () => {
        this.stale();
        this.ask();
      });
      this.settings.append(slider.row);
    }
  }

  stale() {
    this.pause();
    this.walk = null;
    if (this.app.tab === "noise") this.ask();
  }

  async load() {
    const { history, next } = this.app.person;
    if (!history.length) return this.app.say("The history is empty. Add a title first.");
    const request = {
      history,
      target: next?.item ?? null,
      plane: this.app.plane,
      ...this.values,
    };
    const walk = await this.app.asked(this.app.source.denoise(request));
    if (!walk) return;
    this.walk = walk;
    this.slider.max = walk.steps.length - 1;
    this.drawCurve();
    this.go(0);
    this.app.say(walk.note);
  }

  async toggle() {
    if (this.timer) return this.pause();
    if (!this.walk) await this.load();
    if (!this.walk) return;
    if (this.step >= this.walk.steps.length - 1) this.go(0);
    this.play.textContent = "pause";
    this.play.setAttribute("aria-label", "pause the denoising");
    this.timer = setInterval(() => {
      this.go(this.step + 1);
      if (this.step >= this.walk.steps.length - 1) this.pause();
    }, 320);
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "▶ play";
    this.play.setAttribute("aria-label", "play the denoising");
  }

  async jump(step) {
    this.pause();
    if (!this.walk) await this.load();
    if (this.walk) this.go(step);
  }

  go(step) {
    this.step = Math.max(0, Math.min(step, this.walk.steps.length - 1));
    this.slider.value = this.step;
    const now = this.walk.steps[this.step];
    const rank = now.rank === null ? "" : ` · rank of the true next title: ${number(now.rank)}`;
    this.ticker.replaceChildren(
      make("span", {
        className: "meta",
        textContent: `step ${this.step} of ${this.walk.steps.length - 1} · ${Math.round(now.noise)}% noise${rank}`,
      }),
      make("b", { textContent: now.near.length ? now.near[0].title : "no direction yet" }),
      make("span", {
        className: "meta",
        textContent: now.near.slice(1).map((row) => row.title).join(" · "),
      }),
    );
    this.slider.setAttribute("aria-valuetext", `step ${this.step}, nearest ${now.near[0]?.title ?? "none"}`);
    const cursor = this.curve.querySelector(".cursor");
    if (cursor) {
      cursor.setAttribute("cx", this.x(this.step));
      cursor.setAttribute("cy", this.y(now.rank ?? 1));
    }
    this.app.overlay.draw();
  }

  x(step) {
    return 34 + (step / Math.max(1, this.walk.steps.length - 1)) * 256;
  }

  y(rank) {
    return 12 + (Math.log(rank) / Math.log(Math.max(2, this.app.n))) * 92;
  }

  drawCurve() {
    const ranks = this.walk.steps.map((step) => step.rank);
    if (ranks.includes(null)) return this.curve.replaceChildren();
    const points = ranks.map((rank, n) => `${this.x(n)},${this.y(rank)}`).join(" ");
    const ticks = [1, 10, 100, 1000].filter((rank) => rank < this.app.n);
    const label = `rank of the true next title: ${ranks[0]} at the start, ${ranks.at(-1)} at the end`;
    const grid = ticks.flatMap((rank) => [
      makeSvg("line", { x1: 34, x2: 290, y1: this.y(rank), y2: this.y(rank), stroke: "var(--line)" }),
      makeSvg("text", { x: 30, y: this.y(rank) + 3, "text-anchor": "end" }, number(rank)),
    ]);
    this.curve.replaceChildren(
      makeSvg(
        "svg",
        { class: "curve", viewBox: "0 0 300 124", role: "img", "aria-label": label },
        ...grid,
        makeSvg("polyline", { points, fill: "none", stroke: "var(--against)", "stroke-width": 2 }),
        makeSvg("circle", { class: "cursor", r: 5, cx: this.x(0), cy: this.y(ranks[0]), fill: "var(--against)" }),
        makeSvg("text", { x: 162, y: 120, "text-anchor": "middle" }, "rank of the true next title, by step"),
      ),
    );
  }
}
