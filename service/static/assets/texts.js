// List of the texts, in which one is selected.

import { createElement, formatFixed } from "./dom.js";
import { nearestNeighbors } from "./linalg.js";
import { toDisplayText } from "./parse.js";

const PAGE_STEP = 10;

/** The list of one result: a listbox, so that it is a single tab stop. */
export class TextList {
  /**
   * @param {HTMLElement} container
   * @param {{texts: object[], similarities: Float64Array, tokens: object}} result
   * @param {(index: number) => void} onSelect Called with the index of a text that the user selects.
   */
  constructor(container, { texts, similarities, tokens }, onSelect) {
    this.onSelect = onSelect;
    this.selected = 0;
    const rows = texts.length;
    this.options = texts.map((text, index) => {
      const [nearest] = rows > 1 ? nearestNeighbors(similarities, rows, index) : [];
      const tokenCount = tokens.token_ids[index].length;
      return createElement(
        "li",
        { role: "option", id: `text-${index}`, click: () => this.onSelect(index) },
        createElement("b", { class: "number" }, String(index + 1)),
        createElement("span", { class: "text" }, toDisplayText(text)),
        createElement(
          "span",
          { class: "numeric", title: `${tokenCount} tokens` },
          String(tokenCount),
          createElement("span", { class: "visually-hidden" }, " tokens"),
        ),
        nearest === undefined
          ? null
          : createElement(
              "span",
              { class: "numeric", title: "nearest neighbor and cosine" },
              createElement("span", { class: "visually-hidden" }, "; nearest neighbor "),
              `${nearest + 1}`,
              createElement("span", { class: "cosine" }, ` ${formatFixed(similarities[index * rows + nearest])}`),
            ),
      );
    });
    const header = createElement(
      "p",
      { class: "list-header", "aria-hidden": "true" },
      createElement("span", { class: "number" }, "#"),
      createElement("span", { class: "text" }),
      createElement("span", { class: "numeric" }, "tokens"),
      rows > 1 ? createElement("span", { class: "numeric" }, "nearest") : null,
    );
    this.list = createElement(
      "ul",
      { role: "listbox", tabindex: "0", "aria-label": "Texts", class: "listbox", keydown: (event) => this.#handleKey(event) },
      ...this.options,
    );
    container.replaceChildren(header, this.list);
  }

  /** Show the selected text. */
  select(index) {
    this.selected = index;
    this.options.forEach((option, position) => option.setAttribute("aria-selected", String(position === index)));
    const option = this.options[index];
    this.list.setAttribute("aria-activedescendant", option.id);
    // Scrolls the list only: scrollIntoView would scroll the page as well.
    const [top, bottom] = [option.offsetTop, option.offsetTop + option.offsetHeight];
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (bottom > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = bottom - this.list.clientHeight;
  }

  #handleKey(event) {
    const last = this.options.length - 1;
    const target = {
      ArrowUp: this.selected - 1,
      ArrowDown: this.selected + 1,
      PageUp: this.selected - PAGE_STEP,
      PageDown: this.selected + PAGE_STEP,
      Home: 0,
      End: last,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.onSelect(Math.min(last, Math.max(0, target)));
  }
}
