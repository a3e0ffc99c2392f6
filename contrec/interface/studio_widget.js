// The studio in a notebook: jupyter-scatter draws the dots, the kernel answers.

const BACKGROUND = { light: "#ffffff", dark: "#14181d" };

class KernelSource {
  constructor(model) {
    this.model = model;
    this.waiting = new Map();
    this.last = 0;
    this.onReady = () => {};
    model.on("msg:custom", (message) => this.hear(message));
    for (const name of model.get("scene").asks) {
      this[name] = (...values) => this.ask(name, values);
    }
    this.colour = (by, person) => this.askColour(by, person);
  }

  ask(name, values) {
    const id = ++this.last;
    this.model.send({ id, ask: name, values });
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  hear(message) {
    if (message.ready) return this.onReady(message.ready);
    if (message.failed) return this.onFailed?.(message.failed);
    if (message.show) return this.onShow?.(message.show);
    const { resolve, reject } = this.waiting.get(message.id) ?? {};
    this.waiting.delete(message.id);
    if (message.error) reject?.(new Error(message.error));
    else resolve?.(message.answer);
  }

  async askColour(by, person) {
    const history = person?.history ?? [];
    const settings = person?.values ?? {};
    const legend = await this.ask("legend", [by, history, settings]);
    legend.bytes = unpack(legend.codes, Uint8Array);
    return legend;
  }
}

// What `studio_app.js` asks of dots, answered by jupyter-scatter
class ScatterDots {
  constructor(api, source, scene, places) {
    this.api = api;
    this.source = source;
    this.large = !scene.names; // Then jupyter-scatter's opacity by density is best
    this.places = { ...places }; // Plane -> Float32Array x, y, x, y, ...
    this.codes = new Uint8Array(scene.n);
    this.grouped = true;
    this.tool = "move";
    this.handlers = { view: [], hover: [], click: [], lasso: [] };
    const names = { pointover: "hover", view: "view" };
    for (const [theirs, ours] of Object.entries(names)) {
      api.subscribe(theirs, (value) => this.emit(ours, value));
    }
    api.subscribe("draw", () => this.emit("view"));
    api.subscribe("pointout", () => this.emit("hover", null));
    api.subscribe("select", ({ points }) => this.chosen([...points]));
    api.subscribe("lassoStart", () => (this.looping = true));
  }

  on(name, handler) {
    this.handlers[name].push(handler);
  }

  emit(name, value) {
    for (const handler of this.handlers[name]) handler(value);
  }

  chosen(ids) {
    if (ids.length === 1 && !this.looping) {
      this.api.deselect({ preventEvent: true });
      this.emit("click", ids[0]);
    } else {
      this.emit("lasso", ids);
    }
    this.looping = false;
  }

  screen(i) {
    try {
      return this.api.getScreenPosition(i);
    } catch {
      return undefined; // Nothing is drawn yet
    }
  }

  screenOf(x, y) {
    return [this.api.get("xScale")(x), this.api.get("yScale")(y)];
  }

  async show(plane, animate = true) {
    const packed = await this.source.place(plane, !this.places[plane]);
    this.places[plane] ??= unpack(packed, Float32Array);
    this.plane = plane;
    await this.draw(animate && !still());
  }

  async paint(by, legend, dark) {
    this.codes = legend.bytes;
    this.grouped = legend.names.length > 0;
    const look = { pointColor: dark ? legend.dark : legend.light, colorBy: "valueA" };
    if (!this.large) Object.assign(look, { opacityBy: null, opacity: 0.9 });
    const pointSize = Math.min(6, Math.max(1, 9 - 1.2 * Math.log10(this.codes.length)));
    this.api.set({ ...look, pointSize, opacityInactiveScale: 0.2 });
    await this.draw(false);
  }

  // jupyter-scatter refuses to draw while it draws, so one waits for the other
  draw(transition) {
    this.drawing = (this.drawing ?? Promise.resolve()).then(() => this.drawNow(transition));
    return this.drawing;
  }

  async drawNow(transition) {
    for (let tries = 0; tries < 100; tries++) {
      try {
        await this.drawOnce(transition);
        break;
      } catch (error) {
        if (!/draw call/.test(error.message)) throw error;
        await new Promise((done) => setTimeout(done, 50));
      }
    }
    this.emit("view");
  }

  async drawOnce(transition) {
    const at = this.places[this.plane];
    const scale = this.grouped ? 1 : 255;
    const points = {
      x: at.filter((_, n) => n % 2 === 0),
      y: at.filter((_, n) => n % 2 === 1),
      valueA: Float32Array.from(this.codes, (code) => code / scale),
    };
    await this.api.draw(points, {
      transition,
      transitionDuration: 600,
      preventFilterReset: true,
      zDataType: this.grouped ? "categorical" : "continuous",
    });
  }

  filter(visible) {
    if (!visible) return this.api.unfilter({ preventEvent: true });
    const ids = [];
    visible.forEach((shown, i) => shown && ids.push(i));
    return this.api.filter(ids, { preventEvent: true });
  }

  select(ids) {
    if (ids.length) this.api.select(ids, { preventEvent: true });
    else this.api.deselect({ preventEvent: true });
  }

  mode(tool) {
    this.api.set({ mouseMode: tool === "lasso" ? "lasso" : "panZoom" });
  }

  // The origin's view cuts a map that is wider than high; the outermost dots do not
  fit() {
    this.focus(outermost(this.places[this.plane]), 0.1);
  }

  focus(ids, padding = 0.5) {
    this.api.zoomToPoints(ids, {
      transition: !still(),
      transitionDuration: 450,
      padding,
    });
  }

  nudge(dx, dy, factor) {
    const [x, y] = this.api.get("cameraTarget");
    const distance = this.api.get("cameraDistance");
    const target = [x + 2 * dx * distance, y + 2 * dy * distance];
    this.api.zoomToLocation(target, distance / factor);
  }

  async image() {
    const data = await this.api.export();
    const canvas = make("canvas", { width: data.width, height: data.height });
    canvas.getContext("2d").putImageData(data, 0, 0);
    return canvas;
  }

  theme(dark) {
    const colour = dark ? BACKGROUND.dark : BACKGROUND.light;
    this.api.set({ backgroundColor: colour });
    const box = this.api.get("canvas").parentElement.parentElement;
    box.style.backgroundColor = colour;
  }
}

async function scatterApi(element) {
  for (let tries = 0; tries < 600; tries++) {
    const found = [...element.querySelectorAll("div")].find((div) => div.api);
    if (found) return found.api;
    await new Promise((done) => requestAnimationFrame(done));
  }
  throw new Error("the map cannot be drawn: this browser has no WebGL");
}

// Is the page dark? JupyterLab says so; elsewhere the system does
// The dots at the left, right, bottom and top of a plane (x, y, x, y, ...)
function outermost(places) {
  const ids = [0, 0, 0, 0];
  for (let i = 0; 2 * i < places.length; i++) {
    for (const axis of [0, 1]) {
      const at = (id) => places[2 * id + axis];
      if (at(i) < at(ids[2 * axis])) ids[2 * axis] = i;
      if (at(i) > at(ids[2 * axis + 1])) ids[2 * axis + 1] = i;
    }
  }
  return [...new Set(ids)];
}

function isDark() {
  const light = document.body.dataset.jpThemeLight;
  if (light !== undefined) return light === "false";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

// The studio has a toolbar of its own
function hideToolbar(api) {
  const box = api.get("canvas").parentElement.parentElement; // Of canvas and titles
  const toolbar = box.parentElement.previousElementSibling;
  if (toolbar) toolbar.style.display = "none";
}

// Keep jupyter-scatter's height that of its place
function watchSize(studio, child) {
  const sizes = new ResizeObserver(() => {
    const { clientHeight } = studio.ground;
    if (clientHeight && clientHeight !== child.get("height")) {
      child.set("height", clientHeight);
    }
  });
  sizes.observe(studio.ground);
  return sizes;
}

async function render({ model, el }) {
  const scene = model.get("scene");
  const root = make("div");
  el.append(root);
  const source = new KernelSource(model);
  const local = scene.names ? new LocalSource(scene) : null;
  for (const name of local ? ["card", "search", "rows"] : []) {
    source[name] = (...values) => local[name](...values);
  }
  const studio = new Studio(root, scene, source);
  studio.setTheme(isDark());
  const id = model.get("scatter").replace("IPY_MODEL_", "");
  const child = await model.widget_manager.get_model(id);
  const view = await model.widget_manager.create_view(child);
  view.el.setAttribute("aria-hidden", "true"); // The table says the same
  studio.ground.append(view.el);
  const sizes = watchSize(studio, child);
  const api = await scatterApi(view.el);
  hideToolbar(api);
  studio.attach(new ScatterDots(api, source, scene, local?.planes));
  studio.setTheme(isDark());
  source.onReady = (answer) => studio.startPerson(answer);
  source.onFailed = (text) => {
    studio.person.words.textContent = text;
    studio.say(text, true);
  };
  source.onShow = (wanted) => showState(studio, wanted);
  const themes = new MutationObserver(() => studio.setTheme(isDark()));
  themes.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  root.studio = studio; // For tests, and for people who look inside
  await studio.begin();
  source.hello?.();
  return () => {
    themes.disconnect();
    sizes.disconnect();
    studio.noise?.pause();
    view.remove();
  };
}

// What `studio.show(...)` asks for in Python
async function showState(studio, { plane, colour, item }) {
  if (plane && plane !== studio.plane) await studio.move(plane);
  if (colour && colour !== studio.by) await studio.paint(colour);
  if (item !== null && item !== undefined) await studio.open(item, true);
}

export default { render };
