// What is drawn over the dots: titles, neighbours, a person's path, denoising.

const FONT = '12px system-ui, -apple-system, "Segoe UI", sans-serif';
const MOST_LABELS = 36;
const REASONS = 8; // So many are listed and drawn
const FEW_LABELS = 10; // Beside something that was chosen

class Overlay {
  constructor(element, app) {
    this.app = app;
    this.canvas = make("canvas", { className: "overlay" });
    element.append(this.canvas);
    this.element = element;
    this.draw = perFrame(() => this.paintNow());
    new ResizeObserver(() => this.draw()).observe(element);
  }

  paintNow() {
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.element;
    if (this.canvas.width !== Math.round(width * scale)) {
      this.canvas.width = Math.round(width * scale);
    }
    if (this.canvas.height !== Math.round(height * scale)) {
      this.canvas.height = Math.round(height * scale);
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!this.app.dots) return;
    pen.font = FONT;
    this.pen = pen;
    this.size = [width, height];
    this.boxes = [];
    const style = getComputedStyle(this.app.root);
    this.ink = style.getPropertyValue("--ink").trim();
    this.paper = style.getPropertyValue("--paper").trim();
    this.accent = style.getPropertyValue("--accent").trim();
    this.against = style.getPropertyValue("--against").trim();
    const { tab, legendBox } = this.app;
    const { offsetLeft: left, offsetTop: top } = legendBox;
    const corner = [left + legendBox.offsetWidth, top + legendBox.offsetHeight];
    this.boxes.push([left, top, ...corner]);
    if (tab === "item") this.drawNeighbours();
    if (tab === "person") this.drawPerson();
    if (tab === "noise") this.drawWalk();
    if (this.app.labels) this.drawTitles();
  }

  screen(i) {
    return this.app.dots.screen(i) ?? [-100, -100];
  }

  ring(i, radius, colour, width = 2) {
    const [x, y] = this.screen(i);
    this.pen.beginPath();
    this.pen.arc(x, y, radius, 0, 7);
    this.pen.strokeStyle = this.paper;
    this.pen.lineWidth = width + 2.5;
    this.pen.stroke();
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = width;
    this.pen.stroke();
  }

  line(from, to, colour, width, dashes = []) {
    this.pen.beginPath();
    this.pen.setLineDash(dashes);
    this.pen.moveTo(...from);
    this.pen.lineTo(...to);
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = width;
    this.pen.stroke();
    this.pen.setLineDash([]);
  }

  // Write a text beside a place unless it would cover another one
  write(text, x, y, options = {}) {
    const { force = false, bold = false } = options;
    const [width, height] = this.size;
    this.pen.font = bold ? `600 ${FONT}` : FONT;
    const long = this.pen.measureText(text).width;
    const tries = [
      [x + 9, y + 4],
      [x - long - 9, y + 4],
      [x - long / 2, y - 10],
      [x - long / 2, y + 18],
    ];
    for (const [left, base] of tries) {
      const box = [left - 3, base - 13, left + long + 3, base + 5];
      const inside = box[0] >= 2 && box[1] >= 2 && box[2] <= width - 2;
      if (!inside || box[3] > height - 2) continue;
      if (this.boxes.some((other) => overlaps(other, box))) continue;
      return this.put(text, left, base, box);
    }
    if (force) {
      const left = Math.min(Math.max(x + 9, 4), width - long - 4);
      return this.put(text, left, y + 4, [left - 3, y - 9, left + long + 3, y + 9]);
    }
    return false;
  }

  put(text, left, base, box) {
    this.boxes.push(box);
    this.pen.lineJoin = "round";
    this.pen.strokeStyle = this.paper;
    this.pen.lineWidth = 4;
    this.pen.globalAlpha = 0.85;
    this.pen.strokeText(text, left, base);
    this.pen.globalAlpha = 1;
    this.pen.fillStyle = this.ink;
    this.pen.fillText(text, left, base);
    return true;
  }

  keepFree(x, y, radius) {
    this.boxes.push([x - radius, y - radius, x + radius, y + radius]);
  }

  drawTitles() {
    const [width, height] = this.size;
    const { visible, tab, near } = this.app;
    const most = tab !== "item" || near ? FEW_LABELS : MOST_LABELS;
    let written = 0;
    for (const { item, title } of this.app.titles) {
      if (written >= most) break;
      if (visible && !visible[item]) continue;
      const [x, y] = this.screen(item);
      if (x < 0 || y < 0 || x > width || y > height) continue;
      if (this.write(shorten(title, 26), x, y)) written++;
    }
  }

  drawNeighbours() {
    const near = this.app.near;
    if (!near) return;
    const from = this.screen(near.item);
    for (const row of near.rows) {
      const to = this.screen(row.item);
      if (!row.space) {
        this.line(from, to, this.against, 1.2, [2, 4]);
        this.ring(row.item, 6, this.against, 1.5);
      } else {
        this.line(from, to, this.accent, 1.8, row.map ? [] : [6, 4]);
        this.ring(row.item, 6, this.accent, 2);
      }
    }
    this.ring(near.item, 9, this.ink, 3);
    this.write(shorten(near.title, 40), ...from, { force: true, bold: true });
    for (const row of near.rows.filter((r) => r.space)) {
      this.write(shorten(row.title, 30), ...this.screen(row.item));
    }
  }

  drawPerson() {
    const { history, listed, chosen } = this.app.person;
    const latest = history.slice(-15);
    const places = latest.map((i) => this.screen(i));
    for (let n = 1; n < places.length; n++) {
      this.pen.globalAlpha = (chosen ? 0.25 : 1) * (0.25 + (0.75 * n) / places.length);
      this.arrow(places[n - 1], places[n], this.ink);
    }
    this.pen.globalAlpha = 1;
    if (chosen) this.drawReasons(chosen);
    listed.forEach((row) => this.ring(row.item, 8, this.accent, 2.5));
    latest.forEach((i, n) => this.badge(places[n], String(n + 1 + history.length - latest.length)));
    listed.forEach((row, n) => {
      const bold = chosen?.item === row.item;
      this.write(`${n + 1} ${shorten(row.title, 30)}`, ...this.screen(row.item), { bold });
    });
    latest.toReversed().forEach((i, n) => {
      this.write(shorten(this.app.person.titles[i] ?? "", 26), ...places[places.length - 1 - n]);
    });
  }

  drawReasons({ item, reasons }) {
    const size = (reason) => Math.abs(reason.change);
    const strongest = [...reasons].sort((a, b) => size(b) - size(a)).slice(0, REASONS);
    const most = Math.max(...reasons.map(size), 1e-12);
    for (const { item: from, change } of strongest) {
      const colour = change >= 0 ? this.accent : this.against;
      const width = 1 + (6 * Math.abs(change)) / most;
      this.pen.globalAlpha = 0.7;
      this.line(this.screen(from), this.screen(item), colour, width);
    }
    this.pen.globalAlpha = 1;
  }

  arrow(from, to, colour) {
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    const long = Math.hypot(dx, dy);
    if (long < 14) return;
    const [ux, uy] = [dx / long, dy / long];
    const end = [to[0] - 9 * ux, to[1] - 9 * uy];
    this.line(from, end, colour, 1.6);
    this.pen.beginPath();
    this.pen.moveTo(...end);
    this.pen.lineTo(end[0] - 7 * ux + 3.5 * uy, end[1] - 7 * uy - 3.5 * ux);
    this.pen.lineTo(end[0] - 7 * ux - 3.5 * uy, end[1] - 7 * uy + 3.5 * ux);
    this.pen.fillStyle = colour;
    this.pen.fill();
  }

  badge([x, y], text) {
    this.pen.beginPath();
    this.pen.arc(x, y, 8.5, 0, 7);
    this.pen.fillStyle = this.ink;
    this.pen.fill();
    this.pen.strokeStyle = this.paper;
    this.pen.lineWidth = 1.5;
    this.pen.stroke();
    this.pen.fillStyle = this.paper;
    this.pen.font = "600 10px system-ui, sans-serif";
    this.pen.textAlign = "center";
    this.pen.fillText(text, x, y + 3.5);
    this.pen.textAlign = "left";
    this.pen.font = FONT;
    this.keepFree(x, y, 9);
  }

  drawWalk() {
    const { walk, step } = this.app.noise;
    if (!walk) return;
    walk.paths.forEach((path, n) => {
      const places = path
        .slice(0, step + 1)
        .map(([x, y]) => this.app.dots.screenOf(x, y));
      this.pen.globalAlpha = n ? 0.35 : 1;
      const colour = n ? this.ink : this.accent;
      for (let k = 1; k < places.length; k++) {
        this.line(places[k - 1], places[k], colour, n ? 1.3 : 3);
      }
      const [x, y] = places.at(-1);
      this.pen.beginPath();
      this.pen.arc(x, y, n ? 3.5 : 6.5, 0, 7);
      this.pen.fillStyle = colour;
      this.pen.fill();
    });
    this.pen.globalAlpha = 1;
    const now = walk.steps[step];
    now.near.forEach((row, n) => {
      this.ring(row.item, 7, this.accent, n ? 1.2 : 2.5);
      this.write(shorten(row.title, 32), ...this.screen(row.item), { bold: !n, force: !n });
    });
    if (walk.target) {
      this.ring(walk.target.item, 10, this.against, 3);
      const text = `next: ${shorten(walk.target.title, 30)}`;
      this.write(text, ...this.screen(walk.target.item), { force: true, bold: true });
    }
  }
}

function overlaps(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}
