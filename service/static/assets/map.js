// The texts as points on their two principal axes.

import { draw, fixed, fold, make, onWidth, scroller, short, table } from "./dom.js";
import { oneLine } from "./lines.js";
import { nearest } from "./numbers.js";

// Beyond, names would cover the points.
const MOST_NAMED = 16;
const MOST_NUMBERED = 60;
const LINE = 15;
const NEIGHBOURS = 3;

/** The map of one result. */
export class TextMap {
  /**
   * @param {HTMLElement} place Where it goes.
   * @param {{texts: object[], cosines: Float64Array, places: [number, number][], shares: [number, number]}} result
   * @param {(index: number) => void} choose Called with a text that was chosen here.
   */
  constructor(place, result, choose) {
    Object.assign(this, result, { choose, chosen: 0, rows: result.texts.length });
    this.drawing = make("div", { class: "drawing" });
    this.pen = make("canvas").getContext("2d");
    this.family = getComputedStyle(document.body).fontFamily;
    place.replaceChildren(this.drawing, make("p", { class: "hint" }, this.#says()));
    if (this.rows > 1) {
      place.append(
        fold("As a table", () =>
          scroller(
            "Places of the texts on the map",
            table(
              "Places of the texts on the map",
              ["Text", "Across", "Up"],
              this.texts.map((text, index) => [
                `${index + 1} ${short(oneLine(text), 60)}`,
                ...this.places[index].map((value) => fixed(value, 3)),
              ]),
            ),
          ),
        ),
      );
    }
    onWidth(this.drawing, (width) => {
      this.width = width;
      this.draw();
    });
  }

  /** Show which text is chosen. */
  select(index) {
    this.chosen = index;
    this.draw();
  }

  /** Return how wide a label is, in pixels. */
  #wide(text, chosen) {
    this.pen.font = `${chosen ? 600 : 400} 12px ${this.family}`;
    return this.pen.measureText(text).width;
  }

  #says() {
    if (this.rows === 1) return "One text is a point; two make a map.";
    const [across, up] = this.shares.map((share) => `${Math.round(share * 100)} %`);
    if (this.shares[0] === 0) return "The texts have one vector: there is nothing to tell them apart by.";
    const lines = this.rows > 2 ? ` Lines lead to the chosen text\u2019s nearest.` : "";
    return `Principal axes of the vectors: ${across} of what they differ in lies across, ${up} up and down.${lines}`;
  }

  /** Draw anew. */
  draw() {
    if (!this.width) return;
    const width = this.width;
    const height = Math.round(Math.min(460, Math.max(240, width * 0.72)));
    const at = this.#scaled(width, height);
    const radius = this.rows > MOST_NUMBERED ? 3.5 : 5;
    const svg = draw("svg", {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": `Map of the texts; the same as a table below, and the chosen text\u2019s neighbours in their own.`,
    });
    const near = this.rows > 2 ? nearest(this.cosines, this.rows, this.chosen).slice(0, NEIGHBOURS) : [];
    for (const other of near) {
      const [[x1, y1], [x2, y2]] = [at[this.chosen], at[other]];
      svg.append(draw("line", { x1, y1, x2, y2, class: "tie" }));
    }
    at.forEach(([cx, cy], index) => {
      const point = draw("circle", {
        cx,
        cy,
        r: index === this.chosen ? radius + 2 : radius,
        class: index === this.chosen ? "point chosen" : "point",
        "data-index": index,
        click: () => this.choose(index),
      });
      point.append(draw("title", {}, `${index + 1} ${oneLine(this.texts[index])}`));
      svg.append(point);
    });
    // The chosen one is drawn over the others.
    svg.append(svg.querySelector(".point.chosen"));
    svg.append(...this.#names(at, near, width, height, radius));
    this.drawing.replaceChildren(svg);
  }

  /** One scale for both axes: a distance is the same in every direction. */
  #scaled(width, height) {
    const margin = 26;
    const [xs, ys] = [this.places.map(([x]) => x), this.places.map(([, y]) => y)];
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const unit = Math.min((width - 2 * margin) / (right - left || 1e-9), (height - 2 * margin) / (high - low || 1e-9));
    const scale = right - left || high - low ? unit : 0;
    return this.places.map(([x, y]) => [
      width / 2 + (x - (left + right) / 2) * scale,
      height / 2 - (y - (low + high) / 2) * scale,
    ]);
  }

  /** Names beside their points, as long as they find room: the chosen text's first, then its neighbours'. */
  #names(at, near, width, height, radius) {
    const order = [...new Set([this.chosen, ...near, ...at.keys()])].slice(0, this.rows > MOST_NUMBERED ? 1 + near.length : undefined);
    const taken = at.map(([x, y]) => [x - radius, y - radius, x + radius, y + radius]);
    const names = [];
    for (const index of order) {
      const [x, y] = at[index];
      const whole = `${index + 1} ${short(oneLine(this.texts[index]), width < 420 ? 18 : 26)}`;
      const wordings = this.rows <= MOST_NAMED || index === this.chosen ? [whole, String(index + 1)] : [String(index + 1)];
      const found = wordings.flatMap((text) => this.#sides(text, this.#wide(text, index === this.chosen), x, y, radius)).find(
        ({ box: [x1, y1, x2, y2] }) =>
          x1 >= 0 && y1 >= 0 && x2 <= width && y2 <= height && !taken.some((b) => x1 < b[2] && x2 > b[0] && y1 < b[3] && y2 > b[1]),
      );
      if (!found) continue;
      taken.push(found.box);
      const anchor = { x: found.x, y: found.y, "text-anchor": found.anchor, class: index === this.chosen ? "label chosen" : "label" };
      names.push(draw("text", anchor, found.text));
    }
    return names;
  }

  #sides(text, long, x, y, radius) {
    const gap = radius + 5;
    const box = (left, top) => [left - 1, top, left + long + 1, top + LINE];
    return [
      { text, x: x + gap, y: y + 4, anchor: "start", box: box(x + gap, y - 8) },
      { text, x: x - gap, y: y + 4, anchor: "end", box: box(x - gap - long, y - 8) },
      { text, x, y: y - gap - 2, anchor: "middle", box: box(x - long / 2, y - gap - LINE + 1) },
      { text, x, y: y + gap + 9, anchor: "middle", box: box(x - long / 2, y + gap - 2) },
    ];
  }
}
