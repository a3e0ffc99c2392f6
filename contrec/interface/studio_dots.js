// Dots on a canvas, for a page without a kernel: zoom, pan, hover, click and lasso.
// In a notebook jupyter-scatter does the same; `studio_widget.js` wraps it.

const HOVER_DISTANCE = 9; // Pixels

class CanvasDots {
  constructor(element, scene, places) {
    this.canvas = make("canvas", { className: "dots" });
    element.append(this.canvas);
    this.element = element;
    this.n = scene.n;
    this.places = places; // Plane -> Float32Array x, y, x, y, ... from -1 to 1
    this.view = { x: 0, y: 0, zoom: 1 };
    this.visible = null; // Uint8Array, or null for all
    this.selected = new Set();
    this.codes = new Uint8Array(this.n);
    this.colours = ["#888888"];
    this.handlers = { view: [], hover: [], click: [], lasso: [] };
    this.tool = "move";
    this.draw = perFrame(() => this.paintNow());
    new ResizeObserver(() => this.resize()).observe(element);
    this.listen();
    this.resize();
  }

  on(name, handler) {
    this.handlers[name].push(handler);
  }

  emit(name, value) {
    for (const handler of this.handlers[name]) handler(value);
  }

  resize() {
    const scale = window.devicePixelRatio || 1;
    this.width = this.element.clientWidth;
    this.height = this.element.clientHeight;
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(this.height * scale);
    this.draw();
    this.emit("view");
  }

  // Pixels per unit of the plane
  get unit() {
    return 0.46 * Math.min(this.width, this.height) * this.view.zoom;
  }

  screenOf(x, y) {
    return [
      this.width / 2 + (x - this.view.x) * this.unit,
      this.height / 2 - (y - this.view.y) * this.unit,
    ];
  }

  screen(i) {
    const at = this.points;
    return this.screenOf(at[2 * i], at[2 * i + 1]);
  }

  placeOf(px, py) {
    return [
      this.view.x + (px - this.width / 2) / this.unit,
      this.view.y - (py - this.height / 2) / this.unit,
    ];
  }

  async show(plane, animate = true) {
    const goal = this.places[plane];
    const from = this.points;
    if (!from || !animate || still()) {
      this.points = goal;
      this.draw();
      this.emit("view");
      return;
    }
    const start = performance.now();
    const current = new Float32Array(goal.length);
    this.points = current;
    await new Promise((done) => {
      const step = (now) => {
        const t = Math.min(1, (now - start) / 600);
        const share = t * t * (3 - 2 * t);
        for (let i = 0; i < goal.length; i++) {
          current[i] = from[i] + share * (goal[i] - from[i]);
        }
        this.paintNow();
        this.emit("view");
        if (t < 1) requestAnimationFrame(step);
        else done();
      };
      requestAnimationFrame(step);
    });
    this.points = goal;
    this.draw();
    this.emit("view");
  }

  async paint(by, legend, dark) {
    this.codes = legend.bytes;
    this.colours = dark ? legend.dark : legend.light;
    this.dark = dark;
    this.draw();
  }

  filter(visible) {
    this.visible = visible;
    this.draw();
  }

  select(ids) {
    this.selected = new Set(ids);
    this.draw();
  }

  mode(tool) {
    this.tool = tool;
    this.canvas.style.cursor = tool === "lasso" ? "crosshair" : "grab";
  }

  fit() {
    this.glide({ x: 0, y: 0, zoom: 1 });
  }

  // Move so that these items fill the middle of the map
  focus(ids) {
    const xs = ids.map((i) => this.points[2 * i]);
    const ys = ids.map((i) => this.points[2 * i + 1]);
    const [left, right] = [Math.min(...xs), Math.max(...xs)];
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const base = this.unit / this.view.zoom;
    const wide = (0.5 * this.width) / base / Math.max(right - left, 0.05);
    const tall = (0.5 * this.height) / base / Math.max(high - low, 0.05);
    const zoom = Math.min(12, Math.max(1, Math.min(wide, tall)));
    this.glide({ x: (left + right) / 2, y: (low + high) / 2, zoom });
  }

  glide(goal) {
    if (still()) {
      this.view = goal;
      this.draw();
      return this.emit("view");
    }
    const from = { ...this.view };
    const start = performance.now();
    const step = (now) => {
      const t = Math.min(1, (now - start) / 450);
      const share = t * t * (3 - 2 * t);
      for (const name of ["x", "y"]) {
        this.view[name] = from[name] + share * (goal[name] - from[name]);
      }
      this.view.zoom = from.zoom * (goal.zoom / from.zoom) ** share;
      this.paintNow();
      this.emit("view");
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  nudge(dx, dy, factor) {
    this.view.x += (dx * this.width) / this.unit;
    this.view.y += (dy * this.height) / this.unit;
    this.view.zoom = Math.min(400, Math.max(0.3, this.view.zoom * factor));
    this.draw();
    this.emit("view");
  }

  async image() {
    this.paintNow();
    return this.canvas;
  }

  // One small picture per colour, drawn many times
  sprite(colour, radius, scale) {
    const size = Math.ceil(2 * (radius + 1) * scale);
    const canvas = make("canvas", { width: size, height: size });
    const pen = canvas.getContext("2d");
    pen.fillStyle = colour;
    pen.strokeStyle = this.dark ? "#00000080" : "#ffffffa0";
    pen.lineWidth = 0.7 * scale;
    pen.beginPath();
    pen.arc(size / 2, size / 2, radius * scale, 0, 7);
    pen.fill();
    pen.stroke();
    return canvas;
  }

  radius() {
    const crowd = Math.sqrt(2000 / Math.max(this.n, 500));
    const grown = 3.1 * Math.min(1.4, crowd) * this.view.zoom ** 0.35;
    return Math.min(9, Math.max(1.1, grown));
  }

  paintNow() {
    if (!this.points) return;
    const scale = window.devicePixelRatio || 1;
    const pen = this.canvas.getContext("2d");
    const radius = this.radius();
    const sprites = this.colours.map(() => null);
    const any = this.selected.size > 0;
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (let k = this.n - 1; k >= 0; k--) {
      if (this.visible && !this.visible[k]) continue;
      const [x, y] = this.screen(k);
      if (x < -9 || y < -9 || x > this.width + 9 || y > this.height + 9) continue;
      const code = this.codes[k];
      sprites[code] ??= this.sprite(this.colours[code], radius, scale);
      pen.globalAlpha = any && !this.selected.has(k) ? 0.18 : 0.92;
      const half = sprites[code].width / 2;
      pen.drawImage(sprites[code], x * scale - half, y * scale - half);
    }
    pen.globalAlpha = 1;
  }

  nearest(px, py) {
    let best = null;
    let least = (HOVER_DISTANCE + this.radius()) ** 2;
    for (let i = 0; i < this.n; i++) {
      if (this.visible && !this.visible[i]) continue;
      const [x, y] = this.screen(i);
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance < least) {
        least = distance;
        best = i;
      }
    }
    return best;
  }

  inside(loop) {
    const found = [];
    for (let i = 0; i < this.n; i++) {
      if (this.visible && !this.visible[i]) continue;
      const [x, y] = this.screen(i);
      let within = false;
      for (let a = 0, b = loop.length - 1; a < loop.length; b = a++) {
        const [ax, ay] = loop[a];
        const [bx, by] = loop[b];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) {
          within = !within;
        }
      }
      if (within) found.push(i);
    }
    return found;
  }

  listen() {
    const canvas = this.canvas;
    let down = null;
    let loop = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      down = at(event);
      this.moved = false;
      canvas.setPointerCapture(event.pointerId);
      const lasso = this.tool === "lasso" || event.shiftKey;
      loop = lasso ? [down] : null;
    });
    canvas.addEventListener("pointermove", (event) => {
      const place = at(event);
      if (!down) return this.emit("hover", this.nearest(...place));
      this.moved ||= Math.hypot(place[0] - down[0], place[1] - down[1]) > 3;
      if (loop) {
        loop.push(place);
        this.drawLoop(loop);
      } else if (this.moved) {
        const last = this.last ?? down;
        this.view.x -= (place[0] - last[0]) / this.unit;
        this.view.y += (place[1] - last[1]) / this.unit;
        this.last = place;
        this.draw();
        this.emit("view");
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      if (loop && this.moved) this.emit("lasso", this.inside(loop));
      else if (down && !this.moved) this.emit("click", this.nearest(...at(event)));
      down = loop = this.last = null;
      this.draw();
    });
    canvas.addEventListener("pointerleave", () => this.emit("hover", null));
    const wheel = (event) => {
      event.preventDefault();
      const before = this.placeOf(...at(event));
      const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018));
      this.view.zoom = Math.min(400, Math.max(0.3, this.view.zoom * factor));
      const after = this.placeOf(...at(event));
      this.view.x += before[0] - after[0];
      this.view.y += before[1] - after[1];
      this.draw();
      this.emit("view");
    };
    canvas.addEventListener("wheel", wheel, { passive: false });
  }

  drawLoop(loop) {
    this.paintNow();
    const scale = window.devicePixelRatio || 1;
    const pen = this.canvas.getContext("2d");
    pen.strokeStyle = this.dark ? "#ffffff" : "#111111";
    pen.lineWidth = 1.5 * scale;
    pen.setLineDash([5 * scale, 4 * scale]);
    pen.beginPath();
    for (const [x, y] of loop) pen.lineTo(x * scale, y * scale);
    pen.closePath();
    pen.stroke();
    pen.setLineDash([]);
  }
}
