// Dots on a canvas. The reader drags a loop around some of them, or clicks one.
// `value` holds the corners of the loop, x, y, x, y, ... in percent of the map.

const WIDTH = 380;
const HEIGHT = 250;
const PADDING = 8;
const DOT = 2.4; // Width of a dot, in pixels
const REACH = 8; // How near the pointer must be to a dot to name it, in pixels
const HELP = "Drag a loop around dots, or click one.";

// From percent of the map to pixels of the canvas, and back
function toPixels(x, y) {
  return [
    PADDING + ((WIDTH - 2 * PADDING) * x) / 100,
    HEIGHT - PADDING - ((HEIGHT - 2 * PADDING) * y) / 100,
  ];
}

function toPercent([x, y]) {
  const across = (100 * (x - PADDING)) / (WIDTH - 2 * PADDING);
  const up = (100 * (HEIGHT - PADDING - y)) / (HEIGHT - 2 * PADDING);
  return [across, up].map((share) => Math.round(10 * share) / 10);
}

// A flat list x, y, x, y, ... in percent as a list of pixels [x, y]
function pairs(flat) {
  const found = [];
  for (let i = 0; i + 1 < flat.length; i += 2) {
    found.push(toPixels(flat[i], flat[i + 1]));
  }
  return found;
}

function makeCanvas(sharpness) {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH * sharpness;
  canvas.height = HEIGHT * sharpness;
  canvas.className = "contrec-lasso";
  Object.assign(canvas.style, {
    width: `${WIDTH}px`,
    height: `${HEIGHT}px`,
    cursor: "crosshair",
    touchAction: "none",
    border: "1px solid var(--jp-border-color1, #bdbdbd)",
  });
  canvas.setAttribute("role", "img");
  return canvas;
}

function makeStatus() {
  const status = document.createElement("div");
  status.style.minHeight = "1.5em";
  status.style.color = "var(--jp-ui-font-color1)";
  status.textContent = HELP;
  return status;
}

function makeButton() {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "clear the loop";
  button.className = "jupyter-button";
  button.style.width = "auto";
  return button;
}

function drawDots(pen, model) {
  const kinds = model.get("kinds");
  const palette = model.get("palette");
  pairs(model.get("points")).forEach(([x, y], i) => {
    pen.fillStyle = palette[kinds[i]];
    pen.fillRect(x - DOT / 2, y - DOT / 2, DOT, DOT);
  });
}

function drawLoop(pen, loop, colour) {
  pen.strokeStyle = colour;
  pen.fillStyle = colour;
  pen.lineWidth = 1.5;
  pen.beginPath();
  if (loop.length === 1) {
    pen.arc(...loop[0], 7, 0, 7);
  } else {
    loop.forEach((corner, i) => {
      if (i) pen.lineTo(...corner);
      else pen.moveTo(...corner);
    });
  }
  if (loop.length > 1) {
    pen.closePath();
    pen.globalAlpha = 0.12;
    pen.fill();
    pen.globalAlpha = 1;
  }
  pen.stroke();
}

// Number of the dot that is nearest to a pixel, -1 if none is near
function nearestDot(model, [x, y]) {
  let best = -1;
  let least = REACH;
  pairs(model.get("points")).forEach(([u, v], i) => {
    const distance = Math.hypot(u - x, v - y);
    if (distance < least) {
      best = i;
      least = distance;
    }
  });
  return best;
}

function render({ model, el }) {
  const sharpness = window.devicePixelRatio || 1;
  const canvas = makeCanvas(sharpness);
  const status = makeStatus();
  const clear = makeButton();
  const pen = canvas.getContext("2d");
  let path = null; // Pixels of the loop that is being drawn

  function draw() {
    const loop = path || pairs(model.get("value"));
    pen.setTransform(sharpness, 0, 0, sharpness, 0, 0);
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    drawDots(pen, model);
    drawLoop(pen, loop, getComputedStyle(el).color);
    clear.disabled = !loop.length;
    const count = model.get("kinds").length;
    const label =
      `Map of ${count} dots. ${HELP} ` +
      "The ranges across and up choose by keyboard.";
    canvas.setAttribute("aria-label", label);
  }

  function send(value) {
    model.set("value", value);
    model.save_changes();
    draw();
  }

  function pixelOf(event) {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * WIDTH) / box.width,
      ((event.clientY - box.top) * HEIGHT) / box.height,
    ];
  }

  function startLoop(event) {
    path = [pixelOf(event)];
    canvas.setPointerCapture(event.pointerId);
  }

  function movePointer(event) {
    const [x, y] = pixelOf(event);
    const dot = nearestDot(model, [x, y]);
    status.textContent = dot < 0 ? HELP : model.get("names")[dot];
    if (!path) return;
    const [u, v] = path.at(-1);
    if (Math.hypot(x - u, y - v) > 3) {
      path.push([x, y]);
      draw();
    }
  }

  function endLoop() {
    if (!path) return;
    const corners = path.length < 3 ? [path[0]] : path;
    path = null;
    send(corners.flatMap(toPercent));
  }

  function cancelLoop() {
    path = null;
    draw();
  }

  canvas.addEventListener("pointerdown", startLoop);
  canvas.addEventListener("pointermove", movePointer);
  canvas.addEventListener("pointerup", endLoop);
  canvas.addEventListener("pointercancel", cancelLoop);
  canvas.addEventListener("pointerleave", () => {
    status.textContent = HELP;
  });
  clear.addEventListener("click", () => send([]));

  const changes = ["change:points", "change:kinds", "change:value"];
  changes.forEach((change) => model.on(change, draw));
  el.append(canvas, status, clear);
  requestAnimationFrame(draw);
  return () => changes.forEach((change) => model.off(change, draw));
}

export default { render };
