// The panel of one item: its ten nearest, and whether the map is true around it.

class ItemPanel {
  constructor(app) {
    this.app = app;
    this.element = make("div", { className: "panel item" });
    this.empty();
  }

  empty() {
    this.element.replaceChildren(
      make("p", {
        className: "hint",
        textContent:
          "Click a dot, or search a title: its ten nearest items light up, with" +
          " lines. Scroll to zoom, drag to move, Shift and drag to select.",
      }),
    );
  }

  show(card, near) {
    const { app } = this;
    const children = [
      make("h3", { textContent: card.title }),
      make("p", { className: "meta", textContent: describe(card) }),
      make("p", { className: "verdict", textContent: verdict(near) }),
    ];
    if (app.person) {
      const add = () => app.person.add(card.item, card.title);
      children.push(button("+ add to the history", "add to the history", add));
    }
    const inSpace = near.rows.filter((row) => row.space);
    const onMap = near.rows.filter((row) => !row.space);
    children.push(make("h4", { textContent: "Nearest in the full space" }));
    children.push(this.list(inSpace));
    if (onMap.length) {
      children.push(make("h4", { textContent: "Near on the map only" }));
      children.push(this.list(onMap));
    }
    this.element.replaceChildren(...children);
  }

  list(rows) {
    const items = rows.map((row) => {
      const open = button(row.title, `show ${row.title}`, () => this.app.open(row.item, true));
      open.className = "link";
      const truth = row.space
        ? row.map
          ? ["near on the map too", "●"]
          : ["far on the map", "○"]
        : ["near on the map only", "✕"];
      const bar = make("span", { className: "bar", "aria-hidden": "true" });
      bar.style.setProperty("--share", Math.max(0, row.cosine ?? 0));
      return make(
        "li",
        { className: row.space ? "" : "only" },
        make("span", { className: "truth", role: "img", title: truth[0], "aria-label": truth[0], textContent: truth[1] }),
        open,
        make("span", { className: "value", textContent: row.cosine === null ? "" : row.cosine.toFixed(2) }),
        bar,
      );
    });
    return make("ol", { className: "near" }, ...items);
  }
}

function describe(card) {
  const parts = [card.categories, `${number(card.users)} users`];
  if (card.kept !== undefined) parts.push(`neighbours kept: ${percent(card.kept)}`);
  return parts.filter(Boolean).join(" · ");
}

// The words of `contrec.interface.item_map.truth`
function verdict(near) {
  const share = near.kept / Math.max(near.of, 1);
  let words = "here the map misleads";
  if (share >= 0.7) words = "here the map tells the truth";
  else if (share >= 0.4) words = "here the map tells half of the truth";
  return `The map keeps ${near.kept} of its ${near.of} nearest items: ${words}.`;
}
