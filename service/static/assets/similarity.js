// How alike the texts are: a matrix of cosines as a table with colours or, of many texts, as a picture.

import { colourOf, css, inkOn, scale } from "./colours.js";
import { counted, darkness, fixed, fold, make, onWidth, prepare, scroller, short, table } from "./dom.js";
import { oneLine } from "./lines.js";

// Beyond, a number has no room in its cell.
const MOST_IN_TABLE = 20;
// Beyond, the table of a picture has more than 10,000 cells, and says less than the neighbours of a text.
const MOST_AS_TABLE = 100;
const WIDEST = 640;

/** The matrix of one result. */
export class Similarity {
  #low = 0;
  #high = 1;

  /**
   * @param {HTMLElement} place Where it goes.
   * @param {{texts: object[], cosines: Float64Array}} result
   * @param {(index: number) => void} choose Called with a text that was chosen here.
   */
  constructor(place, { texts, cosines }, choose) {
    Object.assign(this, { place, texts, cosines, choose, rows: texts.length, chosen: 0, at: [0, 0] });
    this.stretched = false;
    this.body = make("div");
    this.legend = make("div", { class: "legend" });
    this.#measure();
    place.replaceChildren(this.body, this.legend);
    if (this.rows > MOST_IN_TABLE) this.#makePicture();
    this.#makeLegend();
    this.draw();
  }

  /** Show which text is chosen. */
  select(index) {
    this.chosen = index;
    this.at = [index, this.at[1]];
    this.draw();
  }

  /** Draw anew, in the colours of the page as it is now. */
  draw() {
    if (this.canvas) this.#paint();
    else this.#fillTable();
    this.#paintLegend();
  }

  #value(row, column) {
    return this.cosines[row * this.rows + column];
  }

  #measure() {
    let [least, most] = [1, -1];
    for (let i = 0; i < this.rows; i++) {
      for (let j = 0; j < this.rows; j++) {
        if (i !== j) [least, most] = [Math.min(least, this.#value(i, j)), Math.max(most, this.#value(i, j))];
      }
    }
    this.#low = this.stretched && this.rows > 2 ? least : Math.min(0, Math.floor(least * 10) / 10);
    this.#high = this.stretched && this.rows > 2 && most > least ? most : 1;
  }

  #colour(value) {
    return colourOf(value, this.#low, this.#high, darkness.matches);
  }

  // === As a table ===

  #fillTable() {
    const heads = this.texts.map((_, index) => make("th", { scope: "col" }, String(index + 1)));
    const rows = this.texts.map((text, row) => {
      const name = make("button", { type: "button", class: "name", tabindex: "-1", click: () => this.choose(row) });
      name.append(make("b", {}, String(row + 1)), make("span", { class: "text" }, ` ${short(oneLine(text), 60)}`));
      const cells = this.texts.map((_, column) => {
        const value = this.#value(row, column);
        const cell = make("td", { click: () => this.choose(row) }, fixed(value));
        const colour = this.#colour(value);
        cell.style.backgroundColor = css(colour);
        cell.style.color = inkOn(colour);
        return cell;
      });
      return make("tr", { class: row === this.chosen ? "chosen" : null }, make("th", { scope: "row" }, name), ...cells);
    });
    const caption = "Cosine similarity of every two texts";
    const grid = make(
      "table",
      { class: "matrix" },
      make("caption", { class: "unseen" }, caption),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, make("span", { class: "unseen" }, "Text")), ...heads)),
      make("tbody", {}, ...rows),
    );
    const left = this.body.firstChild?.scrollLeft ?? 0;
    this.body.replaceChildren(scroller(caption, grid));
    this.body.firstChild.scrollLeft = left;
  }

  // === As a picture ===

  #makePicture() {
    this.canvas = make("canvas", {
      class: "picture",
      tabindex: "0",
      role: "application",
      "aria-label": `Heat map of the cosines of ${counted(this.rows, "text")}. Arrow keys move, Enter chooses the text of the row.`,
      "aria-describedby": "similarity-value",
      keydown: (event) => this.#key(event),
      pointermove: (event) => this.#point(event),
      click: (event) => {
        this.#point(event);
        this.choose(this.at[0]);
      },
    });
    this.readout = make("p", { class: "readout", id: "similarity-value", "aria-live": "polite" });
    this.body.append(this.canvas, this.readout);
    if (this.rows <= MOST_AS_TABLE) {
      this.body.append(fold("As a table", () => scroller("Cosine similarity of every two texts", this.#plainTable())));
    } else {
      this.body.append(
        make("p", { class: "hint" }, `Up to ${MOST_AS_TABLE} texts there is a table as well; of more, each text has one of its neighbours below.`),
      );
    }
    onWidth(this.body, (width) => {
      this.width = Math.min(width, WIDEST);
      this.#paint();
    });
  }

  #plainTable() {
    const rows = this.texts.map((_, row) => [String(row + 1), ...this.texts.map((_text, column) => fixed(this.#value(row, column)))]);
    return table("Cosine similarity of every two texts", ["Text", ...this.texts.map((_, index) => String(index + 1))], rows);
  }

  #paint() {
    if (!this.width) return;
    // Whole pixels of the screen a cell, so that no line shows between two.
    const ratio = window.devicePixelRatio || 1;
    const cell = Math.max(1, Math.floor((this.width * ratio) / this.rows)) / ratio;
    const side = Math.min(cell * this.rows, this.width);
    const size = side / this.rows;
    const context = prepare(this.canvas, side, side);
    for (let row = 0; row < this.rows; row++) {
      for (let column = 0; column < this.rows; column++) {
        context.fillStyle = css(this.#colour(this.#value(row, column)));
        context.fillRect(column * size, row * size, size + 0.01, size + 0.01);
      }
    }
    const style = getComputedStyle(this.place);
    const [row, column] = this.at;
    context.lineWidth = 1;
    context.strokeStyle = style.getPropertyValue("--mark");
    context.strokeRect(0.5, this.chosen * size + 0.5, side - 1, Math.max(1, size - 1));
    context.lineWidth = 2;
    context.strokeRect(column * size - 1, row * size - 1, size + 2, size + 2);
    this.#read();
  }

  #read() {
    const [row, column] = this.at;
    const name = (index) => `${index + 1}\u2002${short(oneLine(this.texts[index]), 46)}`;
    this.readout.replaceChildren(make("b", {}, fixed(this.#value(row, column), 3)), make("span", {}, name(row)), make("span", {}, name(column)));
  }

  #point(event) {
    const area = this.canvas.getBoundingClientRect();
    const index = (part, whole) => Math.min(this.rows - 1, Math.max(0, Math.floor((part / whole) * this.rows)));
    this.#moveTo(index(event.clientY - area.top, area.height), index(event.clientX - area.left, area.width));
  }

  #key(event) {
    const [row, column] = this.at;
    const last = this.rows - 1;
    const to = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      PageUp: [row - 10, column],
      PageDown: [row + 10, column],
      Home: [row, 0],
      End: [row, last],
    }[event.key];
    if (event.key === "Enter" || event.key === " ") this.choose(row);
    else if (to) this.#moveTo(...to.map((index) => Math.min(last, Math.max(0, index))));
    else return;
    event.preventDefault();
  }

  #moveTo(row, column) {
    if (row === this.at[0] && column === this.at[1]) return;
    this.at = [row, column];
    this.#paint();
  }

  // === The legend ===

  #makeLegend() {
    this.bar = make("canvas", { class: "ramp", "aria-hidden": "true" });
    this.ends = [make("span"), make("span")];
    this.legend.append(make("span", {}, "cosine"), this.ends[0], this.bar, this.ends[1]);
    if (this.rows > 2) {
      const stretch = make("input", {
        type: "checkbox",
        id: "stretch",
        change: () => {
          this.stretched = stretch.checked;
          this.#measure();
          this.draw();
        },
      });
      this.legend.append(make("label", {}, stretch, "full contrast"));
    }
  }

  #paintLegend() {
    this.ends[0].textContent = fixed(this.#low);
    this.ends[1].textContent = fixed(this.#high);
    const context = prepare(this.bar, 128, 10);
    scale(darkness.matches).forEach((colour, step, all) => {
      context.fillStyle = css(colour);
      context.fillRect((step * 128) / all.length, 0, 128 / all.length + 0.5, 10);
    });
  }
}
