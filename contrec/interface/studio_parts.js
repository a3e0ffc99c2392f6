// Small helpers of the studio: elements, text, packed arrays, lines of a canvas.

const SVG = "http://www.w3.org/2000/svg";

// Make an element: properties with "aria-" or "data-" are attributes
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") {
      element.setAttribute(name, value);
    } else {
      element[name] = value;
    }
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Make a labelled slider that keeps its value in `values` under its name:
// its row, its input, and a function that sets its value
function makeSlider(control, values, moved) {
  const shown = make("output", { textContent: control.value });
  const input = make("input", {
    type: "range",
    min: control.low,
    max: control.high,
    step: control.step,
    "aria-label": control.label,
    title: control.help ?? "",
  });
  const take = (value) => {
    input.value = value;
    shown.textContent = input.value;
    values[control.name] = Number(input.value);
  };
  input.value = control.value;
  input.addEventListener("keydown", (event) => event.stopPropagation());
  input.addEventListener("input", () => {
    take(input.value);
    moved();
  });
  const label = make("span", { textContent: control.label, title: control.help ?? "" });
  return { row: make("div", { className: "setting" }, label, input, shown), input, take };
}

function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function button(text, label, onclick, properties = {}) {
  return make("button", {
    type: "button",
    textContent: text,
    "aria-label": label,
    title: label,
    onclick,
    ...properties,
  });
}

// Lower case without accents, as `contrec.interface.explorer.fold`
function fold(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

function shorten(text, length) {
  return text.length <= length ? text : `${text.slice(0, length - 1).trimEnd()}…`;
}

function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Type(bytes.buffer);
}

function number(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: 3 });
}

function percent(share) {
  return `${Math.round(100 * share)}%`;
}

// Save text or a blob as a file
function download(name, content) {
  const blob = content instanceof Blob ? content : new Blob([content]);
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// One cell of a CSV file; a formula of a spreadsheet stays text
function csvCell(value) {
  let text = String(value);
  if (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// Does the reader want pictures to keep still?
function still() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

// Run at most once per frame
function perFrame(action) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      action();
    });
  };
}

// Run when nothing has been asked for some milliseconds
function later(action, delay) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), delay);
  };
}

// A field with a list of suggestions: type, arrows, Enter, or click.
// `suggest(text)` returns a promise of [{label, detail, value}].
function makeCombo(label, placeholder, suggest, choose) {
  const id = `contrec-${Math.random().toString(36).slice(2)}`;
  const list = make("ul", { id, role: "listbox", hidden: true, "aria-label": label });
  const field = make("input", {
    type: "search",
    placeholder,
    role: "combobox",
    autocomplete: "off",
    "aria-label": label,
    "aria-controls": id,
    "aria-expanded": "false",
    "aria-autocomplete": "list",
  });
  let options = [];
  let chosen = -1;
  let asked = 0;

  function mark(index) {
    chosen = options.length ? (index + options.length) % options.length : -1;
    [...list.children].forEach((item, i) => {
      item.setAttribute("aria-selected", String(i === chosen));
    });
    field.setAttribute("aria-activedescendant", chosen < 0 ? "" : `${id}-${chosen}`);
    if (chosen >= 0) list.children[chosen].scrollIntoView({ block: "nearest" });
  }

  function close() {
    options = [];
    list.hidden = true;
    list.replaceChildren();
    field.setAttribute("aria-expanded", "false");
    field.setAttribute("aria-activedescendant", "");
  }

  function take(option) {
    field.value = "";
    close();
    choose(option.value, option.label);
  }

  function show(found, text) {
    options = found;
    const items = found.map((option, i) =>
      make(
        "li",
        {
          id: `${id}-${i}`,
          role: "option",
          "aria-selected": "false",
          onmousedown: (event) => {
            event.preventDefault();
            take(option);
          },
        },
        make("span", { textContent: option.label }),
        make("small", { textContent: option.detail ?? "" }),
      ),
    );
    if (!found.length) {
      items.push(make("li", { className: "empty", textContent: `no match for “${text}”` }));
    }
    list.replaceChildren(...items);
    list.hidden = false;
    field.setAttribute("aria-expanded", "true");
    mark(0);
  }

  async function ask() {
    const text = field.value.trim();
    const turn = ++asked;
    if (!text) return close();
    const found = await suggest(text);
    if (turn === asked && field.value.trim() === text) show(found, text);
  }

  field.addEventListener("input", ask);
  field.addEventListener("blur", () => setTimeout(close, 150));
  field.addEventListener("keydown", async (event) => {
    event.stopPropagation(); // The notebook has shortcuts of its own
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (list.hidden) await ask();
      else mark(chosen + step);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (list.hidden || !options.length) await ask();
      if (options.length) take(options[Math.max(chosen, 0)]);
    } else if (event.key === "Escape") {
      close();
    }
  });
  return make("div", { className: "combo" }, field, list);
}
