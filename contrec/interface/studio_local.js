// Answers from the page's own data: no kernel, no network.

class LocalSource {
  constructor(scene) {
    this.scene = scene;
    this.users = unpack(scene.users, Int32Array);
    this.neighbourIds = unpack(scene.neighbours, Int32Array);
    this.cosines = unpack(scene.cosines, Int16Array);
    this.kept = {};
    for (const [plane, text] of Object.entries(scene.kept)) {
      this.kept[plane] = unpack(text, Uint8Array);
    }
    this.planes = {};
    for (const [plane, text] of Object.entries(scene.planes)) {
      this.planes[plane] = unpack(text, Float32Array);
    }
    this.folded = scene.names.map(fold);
    this.legends = {};
  }

  async card(i, plane) {
    return {
      item: i,
      title: this.scene.names[i],
      categories: this.scene.categories[i],
      users: this.users[i],
      kept: this.kept[plane] ? this.kept[plane][i] / 100 : undefined,
    };
  }

  async search(text) {
    const wanted = fold(text).trim();
    const words = wanted.split(/\s+/);
    const found = [];
    this.folded.forEach((name, i) => {
      if (words.every((word) => name.includes(word))) found.push(i);
    });
    const key = (i) => [
      this.folded[i] !== wanted,
      !this.folded[i].startsWith(wanted),
      -this.users[i],
      i,
    ];
    const order = (a, b) => {
      const [left, right] = [key(a), key(b)];
      const at = left.findIndex((value, n) => value !== right[n]);
      return at < 0 ? 0 : left[at] < right[at] ? -1 : 1;
    };
    return found.sort(order).slice(0, 8).map((i) => ({
      item: i,
      title: this.scene.names[i],
      users: this.users[i],
    }));
  }

  async colour(by) {
    const legend = this.scene.colours[by];
    legend.bytes ??= unpack(legend.codes, Uint8Array);
    return legend;
  }

  nearestOn(plane, i, k) {
    const at = this.planes[plane];
    const distance = new Float64Array(this.scene.n);
    for (let j = 0; j < this.scene.n; j++) {
      distance[j] =
        (at[2 * j] - at[2 * i]) ** 2 + (at[2 * j + 1] - at[2 * i + 1]) ** 2;
    }
    distance[i] = Infinity;
    const order = Array.from(distance.keys());
    order.sort((a, b) => distance[a] - distance[b] || a - b);
    return order.slice(0, k);
  }

  async neighbours(i, plane) {
    const k = this.scene.k;
    const ids = Array.from(this.neighbourIds.slice(k * i, k * (i + 1)));
    const onMap = new Set(this.nearestOn(plane, i, k));
    const rows = ids.map((j, n) => ({
      item: j,
      title: this.scene.names[j],
      cosine: this.cosines[k * i + n] / 10000,
      space: true,
      map: onMap.has(j),
    }));
    const only = [...onMap].filter((j) => !ids.includes(j));
    rows.push(
      ...only.map((j) => ({
        item: j,
        title: this.scene.names[j],
        cosine: null,
        space: false,
        map: true,
      })),
    );
    return { rows, kept: ids.filter((j) => onMap.has(j)).length, of: k };
  }

  async rows({ ids, sort, descending, start, count, plane }) {
    const all = ids ?? Array.from({ length: this.scene.n }, (_, i) => i);
    const kept = this.kept[plane];
    const keys = {
      users: (i) => this.users[i],
      title: (i) => this.folded[i],
      categories: (i) => this.scene.categories[i],
      kept: (i) => (kept ? kept[i] : 0),
    };
    const key = keys[sort];
    const sorted = [...all].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      const order = left < right ? -1 : left > right ? 1 : 0;
      return descending ? -order : order;
    });
    const part = sorted.slice(start, start + count);
    return Promise.all(part.map((i) => this.card(i, plane)));
  }
}
