// Details of the selected text: nearest neighbors, tokens and vector.

import { byId, createDisclosure, createElement, createScrollRegion, createTable, formatCount, formatFixed } from "./dom.js";
import { HeatStrip } from "./heat_strip.js";
import { nearestNeighbors } from "./linalg.js";
import { toDisplayText } from "./parse.js";

const INITIAL_NEIGHBOR_COUNT = 5;

/** The details of the selected text of one result. */
export class Detail {
  #showAllNeighbors = false;

  /**
   * @param {HTMLElement} container
   * @param {object} result
   * @param {(index: number) => void} onSelect Called with the index of a text that the user selects.
   */
  constructor(container, result, onSelect) {
    Object.assign(this, { result, onSelect, rows: result.texts.length });
    this.neighbors = createElement("div");
    this.tokens = createElement("div");
    this.vector = createElement("div");
    this.text = createElement("p", { class: "full-text" });
    container.replaceChildren(
      this.text,
      ...(this.rows > 1 ? [createElement("h3", {}, "Nearest neighbors"), this.neighbors] : []),
      createElement("h3", {}, "Tokens"),
      this.tokens,
      createElement("h3", {}, "Vector"),
      this.vector,
    );
  }

  /** Show a text. */
  select(index) {
    this.index = index;
    byId("detail-title").textContent = `Text ${index + 1}`;
    this.text.textContent = toDisplayText(this.result.texts[index]);
    if (this.rows > 1) this.#showNeighbors();
    this.#showTokens();
    this.heatStrip = new HeatStrip(this.vector, this.result, index);
  }

  /** Redraw the vector. */
  draw() {
    this.heatStrip?.draw();
  }

  /** Select a neighbor. Focus moves to the title, because the activated button is removed. */
  #selectNeighbor(index) {
    this.onSelect(index);
    byId("detail-title").focus();
  }

  #showNeighbors() {
    const { similarities, texts } = this.result;
    const order = nearestNeighbors(similarities, this.rows, this.index);
    const visible = this.#showAllNeighbors ? order : order.slice(0, INITIAL_NEIGHBOR_COUNT);
    const rows = visible.map((neighbor, rank) => {
      const value = similarities[this.index * this.rows + neighbor];
      const bar = createElement("span", { class: "cosine-bar" }, createElement("span"));
      bar.firstChild.style.width = `${100 * Math.max(0, value)}%`;
      const cosine = createElement("span", { class: "cosine" }, formatFixed(value, 3), bar);
      const name = createElement("button", { type: "button", class: "name", "data-index": neighbor, click: () => this.#selectNeighbor(neighbor) });
      name.append(createElement("b", {}, String(neighbor + 1)), ` ${toDisplayText(texts[neighbor])}`);
      return [String(rank + 1), cosine, name];
    });
    const caption = `Nearest neighbors of text ${this.index + 1}`;
    const table = createTable(caption, ["Rank", "Cosine", "Text"], rows);
    table.className = "neighbors";
    const toggle = createElement(
      "button",
      {
        type: "button",
        class: "secondary",
        id: "all-neighbors",
        "aria-expanded": String(this.#showAllNeighbors),
        click: () => {
          this.#showAllNeighbors = !this.#showAllNeighbors;
          this.#showNeighbors();
          byId("all-neighbors").focus();
        },
      },
      this.#showAllNeighbors ? `Show ${INITIAL_NEIGHBOR_COUNT}` : `Show all ${order.length}`,
    );
    const content = this.#showAllNeighbors ? createScrollRegion(caption, table) : table;
    this.neighbors.replaceChildren(content, ...(order.length > INITIAL_NEIGHBOR_COUNT ? [toggle] : []));
  }

  #showTokens() {
    const { tokens, texts } = this.result;
    const [ids, segments, pieces, offsets] = ["token_ids", "segment_ids", "pieces", "offsets"].map((name) => tokens[name][this.index]);
    const isPair = texts[this.index].second !== null;
    const isSpecial = (position) => offsets[position] === null;
    const items = ids.map((id, position) =>
      createElement(
        "li",
        {
          class: `token segment-${segments[position]}${isSpecial(position) ? " special" : ""}`,
          title: `position ${position}, segment ${segments[position]}`,
        },
        createElement("span", { class: "piece" }, pieces[position]),
        createElement("span", { class: "id" }, String(id)),
        isPair
          ? createElement("span", { class: "segment" }, createElement("span", { class: "visually-hidden" }, "segment "), String(segments[position]))
          : null,
      ),
    );
    const legend = [
      createElement("span", { class: "legend-item segment-0" }, "segment 0"),
      ...(isPair ? [createElement("span", { class: "legend-item segment-1" }, "segment 1")] : []),
      createElement("span", { class: "legend-item special" }, "special"),
    ];
    const createRows = () =>
      ids.map((id, position) => [
        String(position),
        createElement("code", {}, pieces[position]),
        String(id),
        String(segments[position]),
        isSpecial(position) ? "\u2013" : `${offsets[position][0]} to ${offsets[position][1]}`,
      ]);
    this.tokens.replaceChildren(
      createElement("p", { class: "hint token-legend" }, formatCount(ids.length, "token"), ...legend),
      createElement("ol", { class: "tokens", "aria-label": "Tokens with their ids" }, ...items),
      createDisclosure("Show as table", () =>
        createScrollRegion("Tokens", createTable("Tokens", ["Position", "Piece", "Id", "Segment", "Characters"], createRows())),
      ),
    );
  }
}
