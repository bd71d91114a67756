// The list of all texts, from which one is chosen.

import { fixed, make } from "./dom.js";
import { oneLine } from "./lines.js";
import { nearest } from "./numbers.js";

/** The list of one result: a listbox, so that it is one stop of the keyboard however long it is. */
export class TextList {
  /**
   * @param {HTMLElement} place Where it goes.
   * @param {{texts: object[], cosines: Float64Array, tokens: object}} result
   * @param {(index: number) => void} choose Called with a text that was chosen here.
   */
  constructor(place, { texts, cosines, tokens }, choose) {
    this.choose = choose;
    this.chosen = 0;
    const rows = texts.length;
    this.options = texts.map((text, index) => {
      const [near] = rows > 1 ? nearest(cosines, rows, index) : [];
      const size = tokens.token_ids[index].length;
      return make(
        "li",
        { role: "option", id: `text-${index}`, click: () => this.#take(index) },
        make("b", { class: "number" }, String(index + 1)),
        make("span", { class: "text" }, oneLine(text)),
        make("span", { class: "figure", title: `${size} tokens` }, String(size), make("span", { class: "unseen" }, " tokens")),
        near === undefined
          ? null
          : make(
              "span",
              { class: "figure near", title: "nearest" },
              make("span", { class: "unseen" }, "; nearest "),
              `${near + 1}`,
              make("span", { class: "cosine" }, ` ${fixed(cosines[index * rows + near])}`),
            ),
      );
    });
    const head = make(
      "p",
      { class: "listhead", "aria-hidden": "true" },
      make("span", { class: "number" }, "#"),
      make("span", { class: "text" }),
      make("span", { class: "figure" }, "tokens"),
      rows > 1 ? make("span", { class: "figure near" }, "nearest") : null,
    );
    this.box = make(
      "ul",
      { role: "listbox", tabindex: "0", "aria-label": "Texts", class: "listbox", keydown: (event) => this.#key(event) },
      ...this.options,
    );
    place.replaceChildren(head, this.box);
  }

  /** Show which text is chosen. */
  select(index) {
    this.chosen = index;
    this.options.forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
    const option = this.options[index];
    this.box.setAttribute("aria-activedescendant", option.id);
    // Within the list alone: the page stays where it is.
    const [top, bottom] = [option.offsetTop, option.offsetTop + option.offsetHeight];
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (bottom > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = bottom - this.box.clientHeight;
  }

  #take(index) {
    this.choose(index);
  }

  #key(event) {
    const last = this.options.length - 1;
    const to = {
      ArrowUp: this.chosen - 1,
      ArrowDown: this.chosen + 1,
      PageUp: this.chosen - 10,
      PageDown: this.chosen + 10,
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(Math.min(last, Math.max(0, to)));
  }
}
