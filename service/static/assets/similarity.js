// Cosine similarity matrix of the texts: a colored table, or a heat map for many texts.

import { colorOf, colorScale, textColorOn, toCss } from "./colors.js";
import { createDisclosure, createElement, createScrollRegion, createTable, darkScheme, formatCount, formatFixed, observeWidth, resizeCanvas, shorten } from "./dom.js";
import { toDisplayText } from "./parse.js";

const CAPTION = "Cosine similarity of all pairs of texts";
// Above, the numbers do not fit into the cells.
const MAX_TABLE_TEXTS = 20;
// Above, the table under the heat map would have more than 10,000 cells.
const MAX_HEATMAP_TABLE_TEXTS = 100;
const MAX_HEATMAP_PX = 640;
const PAGE_STEP = 10;
const COLOR_BAR_PX = { width: 128, height: 10 };

/** The similarity matrix of one result. */
export class SimilarityMatrix {
  #low = 0;
  #high = 1;

  /**
   * @param {HTMLElement} container
   * @param {{texts: object[], similarities: Float64Array}} result
   * @param {(index: number) => void} onSelect Called with the index of a text that the user selects.
   */
  constructor(container, { texts, similarities }, onSelect) {
    Object.assign(this, { container, texts, similarities, onSelect, rows: texts.length, selected: 0, cell: [0, 0] });
    this.stretched = false;
    this.body = createElement("div");
    this.legend = createElement("div", { class: "legend" });
    this.#updateRange();
    container.replaceChildren(this.body, this.legend);
    if (this.rows > MAX_TABLE_TEXTS) this.#createHeatmap();
    this.#createLegend();
    this.draw();
  }

  /** Show the selected text. */
  select(index) {
    this.selected = index;
    this.cell = [index, this.cell[1]];
    this.draw();
  }

  /** Redraw the matrix in the colors of the current color scheme. */
  draw() {
    if (this.canvas) this.#drawHeatmap();
    else this.#updateTable();
    this.#drawLegend();
  }

  #value(row, column) {
    return this.similarities[row * this.rows + column];
  }

  /** Set the range of the color scale; a stretched one excludes the diagonal. */
  #updateRange() {
    let [min, max] = [1, -1];
    for (let i = 0; i < this.rows; i++) {
      for (let j = 0; j < this.rows; j++) {
        if (i !== j) [min, max] = [Math.min(min, this.#value(i, j)), Math.max(max, this.#value(i, j))];
      }
    }
    this.#low = this.stretched && this.rows > 2 ? min : Math.min(0, Math.floor(min * 10) / 10);
    this.#high = this.stretched && this.rows > 2 && max > min ? max : 1;
  }

  #color(value) {
    return colorOf(value, this.#low, this.#high, darkScheme.matches);
  }

  // === Table ===

  #updateTable() {
    const headers = this.texts.map((_, index) => createElement("th", { scope: "col" }, String(index + 1)));
    const rows = this.texts.map((text, row) => {
      const name = createElement("button", { type: "button", class: "name", tabindex: "-1", click: () => this.onSelect(row) });
      name.append(createElement("b", {}, String(row + 1)), createElement("span", { class: "text" }, ` ${shorten(toDisplayText(text), 60)}`));
      const cells = this.texts.map((_, column) => {
        const value = this.#value(row, column);
        const cell = createElement("td", { click: () => this.onSelect(row) }, formatFixed(value));
        const color = this.#color(value);
        cell.style.backgroundColor = toCss(color);
        cell.style.color = textColorOn(color);
        return cell;
      });
      return createElement("tr", { class: row === this.selected ? "selected" : null }, createElement("th", { scope: "row" }, name), ...cells);
    });
    const corner = createElement("th", { scope: "col" }, createElement("span", { class: "visually-hidden" }, "Text"));
    const table = createElement(
      "table",
      { class: "matrix" },
      createElement("caption", { class: "visually-hidden" }, CAPTION),
      createElement("thead", {}, createElement("tr", {}, corner, ...headers)),
      createElement("tbody", {}, ...rows),
    );
    const scrollLeft = this.body.firstChild?.scrollLeft ?? 0;
    this.body.replaceChildren(createScrollRegion(CAPTION, table));
    this.body.firstChild.scrollLeft = scrollLeft;
  }

  // === Heat map ===

  #createHeatmap() {
    this.canvas = createElement("canvas", {
      class: "heatmap",
      tabindex: "0",
      role: "application",
      "aria-label": `Heat map of the cosine similarities of ${formatCount(this.rows, "text")}. Arrow keys move the cursor, Enter selects the text of the row.`,
      "aria-describedby": "similarity-value",
      keydown: (event) => this.#handleKey(event),
      pointermove: (event) => this.#handlePointer(event),
      click: (event) => {
        this.#handlePointer(event);
        this.onSelect(this.cell[0]);
      },
    });
    this.readout = createElement("p", { class: "readout", id: "similarity-value", "aria-live": "polite" });
    this.body.append(this.canvas, this.readout);
    if (this.rows <= MAX_HEATMAP_TABLE_TEXTS) {
      this.body.append(createDisclosure("Show as table", () => createScrollRegion(CAPTION, this.#createHeatmapTable())));
    } else {
      this.body.append(
        createElement("p", { class: "hint" }, `The table is available for up to ${MAX_HEATMAP_TABLE_TEXTS} texts. The details of each text list its neighbors.`),
      );
    }
    observeWidth(this.body, (width) => {
      this.width = Math.min(width, MAX_HEATMAP_PX);
      this.#drawHeatmap();
    });
  }

  #createHeatmapTable() {
    const rows = this.texts.map((_, row) => [String(row + 1), ...this.texts.map((_text, column) => formatFixed(this.#value(row, column)))]);
    return createTable(CAPTION, ["Text", ...this.texts.map((_, index) => String(index + 1))], rows);
  }

  #drawHeatmap() {
    if (!this.width) return;
    // Cells of whole device pixels leave no visible seams.
    const ratio = window.devicePixelRatio || 1;
    const cellSize = Math.max(1, Math.floor((this.width * ratio) / this.rows)) / ratio;
    const side = Math.min(cellSize * this.rows, this.width);
    const size = side / this.rows;
    const context = resizeCanvas(this.canvas, side, side);
    for (let row = 0; row < this.rows; row++) {
      for (let column = 0; column < this.rows; column++) {
        context.fillStyle = toCss(this.#color(this.#value(row, column)));
        context.fillRect(column * size, row * size, size + 0.01, size + 0.01);
      }
    }
    const style = getComputedStyle(this.container);
    const [row, column] = this.cell;
    context.lineWidth = 1;
    context.strokeStyle = style.getPropertyValue("--highlight");
    context.strokeRect(0.5, this.selected * size + 0.5, side - 1, Math.max(1, size - 1));
    context.lineWidth = 2;
    context.strokeRect(column * size - 1, row * size - 1, size + 2, size + 2);
    this.#updateReadout();
  }

  #updateReadout() {
    const [row, column] = this.cell;
    const label = (index) => `${index + 1}\u2002${shorten(toDisplayText(this.texts[index]), 46)}`;
    this.readout.replaceChildren(
      createElement("b", {}, formatFixed(this.#value(row, column), 3)),
      createElement("span", {}, label(row)),
      createElement("span", {}, label(column)),
    );
  }

  #handlePointer(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const toIndex = (offset, length) => Math.min(this.rows - 1, Math.max(0, Math.floor((offset / length) * this.rows)));
    this.#moveTo(toIndex(event.clientY - bounds.top, bounds.height), toIndex(event.clientX - bounds.left, bounds.width));
  }

  #handleKey(event) {
    const [row, column] = this.cell;
    const last = this.rows - 1;
    const target = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      PageUp: [row - PAGE_STEP, column],
      PageDown: [row + PAGE_STEP, column],
      Home: [row, 0],
      End: [row, last],
    }[event.key];
    if (event.key === "Enter" || event.key === " ") this.onSelect(row);
    else if (target) this.#moveTo(...target.map((index) => Math.min(last, Math.max(0, index))));
    else return;
    event.preventDefault();
  }

  #moveTo(row, column) {
    if (row === this.cell[0] && column === this.cell[1]) return;
    this.cell = [row, column];
    this.#drawHeatmap();
  }

  // === Legend ===

  #createLegend() {
    this.colorBar = createElement("canvas", { class: "color-bar", "aria-hidden": "true" });
    this.rangeLabels = [createElement("span"), createElement("span")];
    this.legend.append(createElement("span", {}, "cosine"), this.rangeLabels[0], this.colorBar, this.rangeLabels[1]);
    if (this.rows > 2) {
      const checkbox = createElement("input", {
        type: "checkbox",
        id: "stretch",
        change: () => {
          this.stretched = checkbox.checked;
          this.#updateRange();
          this.draw();
        },
      });
      this.legend.append(createElement("label", {}, checkbox, "Stretch color scale"));
    }
  }

  #drawLegend() {
    this.rangeLabels[0].textContent = formatFixed(this.#low);
    this.rangeLabels[1].textContent = formatFixed(this.#high);
    const { width, height } = COLOR_BAR_PX;
    const context = resizeCanvas(this.colorBar, width, height);
    colorScale(darkScheme.matches).forEach((color, step, scale) => {
      context.fillStyle = toCss(color);
      context.fillRect((step * width) / scale.length, 0, width / scale.length + 0.5, height);
    });
  }
}
