// A vector as a strip: a bar a number, up or down from zero.

import { fixed, fold, make, onWidth, prepare, say, scroller, table } from "./dom.js";

const HEIGHT = 96;

/** The strip of one text's vector. */
export class Strip {
  /**
   * @param {HTMLElement} place Where it goes.
   * @param {{vectors: Float32Array, size: number}} result
   * @param {number} index Which text.
   */
  constructor(place, { vectors, size }, index) {
    this.values = vectors.subarray(index * size, (index + 1) * size);
    this.place = place;
    this.at = 0;
    this.most = this.values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
    const length = Math.sqrt(this.values.reduce((sum, value) => sum + value * value, 0));
    this.canvas = make("canvas", {
      class: "strip",
      tabindex: "0",
      role: "slider",
      id: "strip",
      "aria-label": "Numbers of the vector",
      "aria-valuemin": "0",
      "aria-valuemax": String(size - 1),
      keydown: (event) => this.#key(event),
      pointermove: (event) => this.#point(event),
      pointerdown: (event) => this.#point(event),
    });
    this.readout = make("p", { class: "readout" });
    const copy = make("button", { type: "button", class: "quiet", click: () => this.#copy(copy) }, "Copy as JSON");
    this.frame = make("div", { class: "frame" }, this.canvas);
    place.replaceChildren(
      this.frame,
      make("div", { class: "bar" }, this.readout, copy),
      make("p", { class: "hint" }, `${size} numbers of float32 within \u00b1${fixed(this.most, 3)}; the vector has length ${fixed(length, 3)}.`),
      fold("As a table", () =>
        scroller(
          "Numbers of the vector",
          table("Numbers of the vector", ["Place", "Number"], [...this.values].map((value, at) => [String(at), fixed(value, 6)])),
        ),
      ),
    );
    // Its own element, so that the observer ends with it.
    onWidth(this.frame, (width) => {
      this.width = width;
      this.draw();
    });
  }

  /** Draw anew. */
  draw() {
    if (!this.width) return;
    const context = prepare(this.canvas, this.width, HEIGHT);
    const style = getComputedStyle(this.place);
    const [up, down, line] = ["--up", "--down", "--line"].map((name) => style.getPropertyValue(name));
    const middle = HEIGHT / 2;
    const step = this.width / this.values.length;
    // Bars thinner than a pixel run together: each is drawn as it is, in a colour that lets the others through.
    const bar = Math.max(step > 3 ? step - 1 : step, 0.8);
    context.fillStyle = line;
    context.fillRect(0, middle - 0.5, this.width, 1);
    this.values.forEach((value, at) => {
      const high = (Math.abs(value) / this.most) * (middle - 3);
      context.fillStyle = value < 0 ? down : up;
      context.fillRect(at * step, value < 0 ? middle : middle - high, bar, Math.max(high, 0.5));
    });
    context.strokeStyle = style.getPropertyValue("--ink");
    context.lineWidth = 1;
    const x = Math.round((this.at + 0.5) * step - 0.5) + 0.5;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, HEIGHT);
    context.stroke();
    this.#read();
  }

  #read() {
    const text = `number ${this.at}: ${fixed(this.values[this.at], 6)}`;
    this.canvas.setAttribute("aria-valuenow", String(this.at));
    this.canvas.setAttribute("aria-valuetext", text);
    this.readout.textContent = text;
  }

  #key(event) {
    const last = this.values.length - 1;
    const to = {
      ArrowRight: this.at + 1,
      ArrowUp: this.at + 1,
      ArrowLeft: this.at - 1,
      ArrowDown: this.at - 1,
      PageUp: this.at + 16,
      PageDown: this.at - 16,
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#moveTo(Math.min(last, Math.max(0, to)));
  }

  #point(event) {
    const area = this.canvas.getBoundingClientRect();
    const at = Math.floor(((event.clientX - area.left) / area.width) * this.values.length);
    this.#moveTo(Math.min(this.values.length - 1, Math.max(0, at)));
  }

  #moveTo(at) {
    if (at === this.at) return;
    this.at = at;
    this.draw();
  }

  async #copy(button) {
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(JSON.stringify([...this.values]));
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser lets no page without TLS copy";
    }
    say(button.textContent);
    setTimeout(() => (button.textContent = before), 2500);
  }
}
