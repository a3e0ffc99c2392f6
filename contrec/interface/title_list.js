// A list of titles to edit. The page knows no titles: it sends what was typed,
// and Python answers with the titles that match, in `found` and `message`.

function make(tag, options) {
  return Object.assign(document.createElement(tag), options);
}

function makeParts() {
  const tags = make("div", { className: "tags" });
  const field = make("input", {
    type: "text",
    placeholder: "add a title: type, then Enter",
  });
  const found = make("ul", {
    id: `contrec-${Math.random().toString(36).slice(2)}`,
  });
  const status = make("div");
  field.setAttribute("role", "combobox");
  found.setAttribute("role", "listbox");
  status.setAttribute("role", "status");
  field.setAttribute("aria-label", "add a title to the history");
  field.setAttribute("aria-controls", found.id);
  field.setAttribute("autocomplete", "off");
  return { tags, field, found, status };
}

function render({ model, el }) {
  const { tags, field, found, status } = makeParts();
  let chosen = -1; // Number of the suggestion that the arrow keys chose
  let count = model.get("value").length;

  function add(title) {
    model.send({ add: title });
  }

  function remove(number) {
    const kept = model.get("value").filter((_, i) => i !== number);
    model.set("value", kept);
    model.save_changes();
  }

  function makeTag(title, number) {
    const tag = make("span", { className: "tag", textContent: title });
    const close = make("button", { type: "button", textContent: "\u00d7" });
    close.setAttribute("aria-label", `remove ${title}`);
    close.onclick = () => remove(number);
    tag.append(close);
    return tag;
  }

  function drawTags() {
    const value = model.get("value");
    tags.replaceChildren(...value.map(makeTag));
    if (value.length > count) field.value = "";
    count = value.length;
  }

  function makeOption(title, number) {
    const option = make("li", { textContent: title, id: `${found.id}-${number}` });
    option.setAttribute("role", "option");
    option.onmousedown = (event) => {
      event.preventDefault();
      add(title);
    };
    return option;
  }

  function drawFound() {
    const titles = model.get("found");
    found.replaceChildren(...titles.map(makeOption));
    field.setAttribute("aria-expanded", String(titles.length > 0));
    choose(-1);
  }

  function drawMessage() {
    status.textContent = model.get("message");
  }

  function choose(number) {
    const options = [...found.children];
    const last = options.length - 1;
    chosen = options.length ? Math.max(-1, Math.min(number, last)) : -1;
    options.forEach((option, i) => {
      option.setAttribute("aria-selected", String(i === chosen));
    });
    const active = chosen < 0 ? "" : options[chosen].id;
    field.setAttribute("aria-activedescendant", active);
  }

  function pressKey(event) {
    event.stopPropagation(); // The notebook has shortcuts of its own
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      choose(chosen + step);
    } else if (event.key === "Enter") {
      add(chosen < 0 ? field.value : found.children[chosen].textContent);
    } else if (event.key === "Escape") {
      model.send({ search: "" });
    } else {
      return;
    }
    event.preventDefault();
  }

  field.addEventListener("keydown", pressKey);
  field.addEventListener("input", () => model.send({ search: field.value }));

  const drawings = { value: drawTags, found: drawFound, message: drawMessage };
  for (const [name, draw] of Object.entries(drawings)) {
    model.on(`change:${name}`, draw);
    draw();
  }
  el.classList.add("contrec-titles");
  el.append(tags, field, found, status);
  return () => {
    for (const [name, draw] of Object.entries(drawings)) {
      model.off(`change:${name}`, draw);
    }
  };
}

export default { render };
