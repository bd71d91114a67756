// Scatter plot of the texts on their first two principal components.

import { createDisclosure, createElement, createScrollRegion, createSvgElement, createTable, formatFixed, observeWidth, shorten } from "./dom.js";
import { nearestNeighbors } from "./linalg.js";
import { toDisplayText } from "./parse.js";

// Above these numbers of texts, labels would cover the points.
const MAX_TEXT_LABELS = 16;
const MAX_NUMBER_LABELS = 60;
const LABEL_HEIGHT_PX = 15;
const NEIGHBOR_COUNT = 3;

/** The scatter plot of one result. */
export class TextMap {
  /**
   * @param {HTMLElement} container
   * @param {{texts: object[], similarities: Float64Array, coordinates: [number, number][],
   *   explainedVariance: [number, number]}} result
   * @param {(index: number) => void} onSelect Called with the index of a text that the user selects.
   */
  constructor(container, result, onSelect) {
    Object.assign(this, result, { onSelect, selected: 0, rows: result.texts.length });
    this.plot = createElement("div", { class: "plot" });
    this.measureContext = createElement("canvas").getContext("2d");
    this.fontFamily = getComputedStyle(document.body).fontFamily;
    container.replaceChildren(this.plot, createElement("p", { class: "hint" }, this.#caption()));
    if (this.rows > 1) {
      container.append(
        createDisclosure("Show as table", () =>
          createScrollRegion(
            "Coordinates of the texts",
            createTable(
              "Coordinates of the texts",
              ["Text", "x", "y"],
              this.texts.map((text, index) => [
                `${index + 1} ${shorten(toDisplayText(text), 60)}`,
                ...this.coordinates[index].map((value) => formatFixed(value, 3)),
              ]),
            ),
          ),
        ),
      );
    }
    observeWidth(this.plot, (width) => {
      this.width = width;
      this.draw();
    });
  }

  /** Show the selected text. */
  select(index) {
    this.selected = index;
    this.draw();
  }

  /** Return the width of a label in pixels. */
  #labelWidth(text, selected) {
    this.measureContext.font = `${selected ? 600 : 400} 12px ${this.fontFamily}`;
    return this.measureContext.measureText(text).width;
  }

  #caption() {
    if (this.rows === 1) return "The projection needs at least two texts.";
    if (this.explainedVariance[0] === 0) return "All vectors are equal: there is no variance to project.";
    const [x, y] = this.explainedVariance.map((ratio) => `${Math.round(ratio * 100)} %`);
    const lines = this.rows > 2 ? " Lines connect the selected text to its nearest neighbors." : "";
    return `PCA: x explains ${x} of the variance, y explains ${y}.${lines}`;
  }

  /** Redraw the plot. */
  draw() {
    if (!this.width) return;
    const width = this.width;
    const height = Math.round(Math.min(460, Math.max(240, width * 0.72)));
    const points = this.#toPixels(width, height);
    const radius = this.rows > MAX_NUMBER_LABELS ? 3.5 : 5;
    const svg = createSvgElement("svg", {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": "PCA projection of the texts. The table below has the same coordinates; the selected text lists its neighbors.",
    });
    const neighbors = this.rows > 2 ? nearestNeighbors(this.similarities, this.rows, this.selected).slice(0, NEIGHBOR_COUNT) : [];
    for (const neighbor of neighbors) {
      const [[x1, y1], [x2, y2]] = [points[this.selected], points[neighbor]];
      svg.append(createSvgElement("line", { x1, y1, x2, y2, class: "neighbor-line" }));
    }
    points.forEach(([cx, cy], index) => {
      const point = createSvgElement("circle", {
        cx,
        cy,
        r: index === this.selected ? radius + 2 : radius,
        class: index === this.selected ? "point selected" : "point",
        "data-index": index,
        click: () => this.onSelect(index),
      });
      point.append(createSvgElement("title", {}, `${index + 1} ${toDisplayText(this.texts[index])}`));
      svg.append(point);
    });
    // Appending the selected point again draws it above the others.
    svg.append(svg.querySelector(".point.selected"));
    svg.append(...this.#labels(points, neighbors, width, height, radius));
    this.plot.replaceChildren(svg);
  }

  /** Return the coordinates in pixels, with the same scale on both axes. */
  #toPixels(width, height) {
    const margin = 26;
    const [xs, ys] = [this.coordinates.map(([x]) => x), this.coordinates.map(([, y]) => y)];
    const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const fit = Math.min((width - 2 * margin) / (right - left || 1e-9), (height - 2 * margin) / (top - bottom || 1e-9));
    const scale = right - left || top - bottom ? fit : 0;
    return this.coordinates.map(([x, y]) => [
      width / 2 + (x - (left + right) / 2) * scale,
      height / 2 - (y - (bottom + top) / 2) * scale,
    ]);
  }

  /** Return the labels that do not overlap; the selected text comes first, then its neighbors. */
  #labels(points, neighbors, width, height, radius) {
    const order = [...new Set([this.selected, ...neighbors, ...points.keys()])].slice(0, this.rows > MAX_NUMBER_LABELS ? 1 + neighbors.length : undefined);
    const occupied = points.map(([x, y]) => [x - radius, y - radius, x + radius, y + radius]);
    const labels = [];
    for (const index of order) {
      const [x, y] = points[index];
      const selected = index === this.selected;
      const fullText = `${index + 1} ${shorten(toDisplayText(this.texts[index]), width < 420 ? 18 : 26)}`;
      const candidates = this.rows <= MAX_TEXT_LABELS || selected ? [fullText, String(index + 1)] : [String(index + 1)];
      const label = candidates.flatMap((text) => this.#labelPositions(text, this.#labelWidth(text, selected), x, y, radius)).find(
        ({ box: [x1, y1, x2, y2] }) =>
          x1 >= 0 && y1 >= 0 && x2 <= width && y2 <= height && !occupied.some((b) => x1 < b[2] && x2 > b[0] && y1 < b[3] && y2 > b[1]),
      );
      if (!label) continue;
      occupied.push(label.box);
      const attributes = { x: label.x, y: label.y, "text-anchor": label.anchor, class: selected ? "label selected" : "label" };
      labels.push(createSvgElement("text", attributes, label.text));
    }
    return labels;
  }

  /** Return the candidate positions of a label: right, left, above and below its point. */
  #labelPositions(text, textWidth, x, y, radius) {
    const gap = radius + 5;
    const box = (left, top) => [left - 1, top, left + textWidth + 1, top + LABEL_HEIGHT_PX];
    return [
      { text, x: x + gap, y: y + 4, anchor: "start", box: box(x + gap, y - 8) },
      { text, x: x - gap, y: y + 4, anchor: "end", box: box(x - gap - textWidth, y - 8) },
      { text, x, y: y - gap - 2, anchor: "middle", box: box(x - textWidth / 2, y - gap - LABEL_HEIGHT_PX + 1) },
      { text, x, y: y + gap + 9, anchor: "middle", box: box(x - textWidth / 2, y + gap - 2) },
    ];
  }
}
