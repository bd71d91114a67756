// One text: its neighbours, its tokens, its vector.

import { byId, counted, fixed, fold, make, scroller, table } from "./dom.js";
import { oneLine } from "./lines.js";
import { nearest } from "./numbers.js";
import { Strip } from "./strip.js";

const FEW_NEIGHBOURS = 5;

/** What is shown of the chosen text of one result. */
export class One {
  #all = false;

  /**
   * @param {HTMLElement} place Where it goes.
   * @param {object} result
   * @param {(index: number) => void} choose Called with a text that was chosen here.
   */
  constructor(place, result, choose) {
    Object.assign(this, { place, result, choose, rows: result.texts.length });
    this.neighbours = make("div");
    this.tokens = make("div");
    this.vector = make("div");
    this.text = make("p", { class: "whole" });
    this.place.replaceChildren(
      this.text,
      ...(this.rows > 1 ? [make("h3", {}, "Nearest"), this.neighbours] : []),
      make("h3", {}, "Tokens"),
      this.tokens,
      make("h3", {}, "Vector"),
      this.vector,
    );
  }

  /** Show a text. */
  select(index) {
    this.index = index;
    byId("one-title").textContent = `Text ${index + 1}`;
    this.text.textContent = oneLine(this.result.texts[index]);
    if (this.rows > 1) this.#showNeighbours();
    this.#showTokens();
    this.strip = new Strip(this.vector, this.result, index);
  }

  /** Draw anew. */
  draw() {
    this.strip?.draw();
  }

  /** The button that was pressed goes; the keyboard goes on from the title. */
  #go(other) {
    this.choose(other);
    byId("one-title").focus();
  }

  #showNeighbours() {
    const { cosines, texts } = this.result;
    const order = nearest(cosines, this.rows, this.index);
    const shown = this.#all ? order : order.slice(0, FEW_NEIGHBOURS);
    const rows = shown.map((other, rank) => {
      const value = cosines[this.index * this.rows + other];
      const bar = make("span", { class: "bar-of" }, make("span"));
      bar.firstChild.style.width = `${100 * Math.max(0, value)}%`;
      const cosine = make("span", { class: "cosine" }, fixed(value, 3), bar);
      const name = make("button", { type: "button", class: "name", "data-index": other, click: () => this.#go(other) });
      name.append(make("b", {}, String(other + 1)), ` ${oneLine(texts[other])}`);
      return [String(rank + 1), cosine, name];
    });
    const list = table(`Texts nearest to text ${this.index + 1}`, ["Rank", "Cosine", "Text"], rows);
    list.className = "neighbours";
    const more = make(
      "button",
      {
        type: "button",
        class: "quiet",
        id: "all-neighbours",
        "aria-expanded": String(this.#all),
        click: () => {
          this.#all = !this.#all;
          this.#showNeighbours();
          byId("all-neighbours").focus();
        },
      },
      this.#all ? `The nearest ${FEW_NEIGHBOURS} only` : `All ${order.length}`,
    );
    const box = this.#all ? scroller(`Texts nearest to text ${this.index + 1}`, list) : list;
    this.neighbours.replaceChildren(box, ...(order.length > FEW_NEIGHBOURS ? [more] : []));
  }

  #showTokens() {
    const { tokens, texts } = this.result;
    const [ids, segments, pieces, offsets] = ["token_ids", "segment_ids", "pieces", "offsets"].map((name) => tokens[name][this.index]);
    const paired = texts[this.index].second !== null;
    const special = (at) => offsets[at] === null;
    const chips = ids.map((id, at) =>
      make(
        "li",
        { class: `token segment-${segments[at]}${special(at) ? " special" : ""}`, title: `place ${at}, segment ${segments[at]}` },
        make("span", { class: "piece" }, pieces[at]),
        make("span", { class: "id" }, String(id)),
        paired ? make("span", { class: "segment" }, make("span", { class: "unseen" }, "segment "), String(segments[at])) : null,
      ),
    );
    const keys = paired
      ? [
          make("span", { class: "key segment-0" }, "segment 0"),
          make("span", { class: "key segment-1" }, "segment 1"),
          make("span", { class: "key special" }, "special"),
        ]
      : [make("span", { class: "key segment-0" }, "all in segment 0"), make("span", { class: "key special" }, "special")];
    const rows = () =>
      ids.map((id, at) => [
        String(at),
        make("code", {}, pieces[at]),
        String(id),
        String(segments[at]),
        offsets[at] === null ? "\u2013" : `${offsets[at][0]} to ${offsets[at][1]}`,
      ]);
    this.tokens.replaceChildren(
      make("p", { class: "hint keys-of" }, counted(ids.length, "token"), ...keys),
      make("ol", { class: "tokens", "aria-label": "Tokens with their ids" }, ...chips),
      fold("As a table", () =>
        scroller("Tokens", table("Tokens", ["Place", "Piece", "Id", "Segment", "Characters"], rows())),
      ),
    );
  }
}
