// Bar chart of a vector: one bar per dimension, above or below the zero line.

import { announce, createDisclosure, createElement, createScrollRegion, createTable, formatFixed, observeWidth, resizeCanvas } from "./dom.js";

const HEIGHT_PX = 96;
const PAGE_STEP = 16;
const FEEDBACK_MS = 2500;
const COPY_LABEL = "Copy as JSON";

/** The chart of the vector of one text. */
export class HeatStrip {
  /**
   * @param {HTMLElement} container
   * @param {{vectors: Float32Array, size: number}} result
   * @param {number} index The text.
   */
  constructor(container, { vectors, size }, index) {
    this.values = vectors.subarray(index * size, (index + 1) * size);
    this.container = container;
    this.position = 0;
    this.maxMagnitude = this.values.reduce((max, value) => Math.max(max, Math.abs(value)), 0) || 1;
    const norm = Math.sqrt(this.values.reduce((sum, value) => sum + value * value, 0));
    this.canvas = createElement("canvas", {
      class: "heat-strip",
      tabindex: "0",
      role: "slider",
      id: "heat-strip",
      "aria-label": "Vector components",
      "aria-valuemin": "0",
      "aria-valuemax": String(size - 1),
      keydown: (event) => this.#handleKey(event),
      pointermove: (event) => this.#handlePointer(event),
      pointerdown: (event) => this.#handlePointer(event),
    });
    this.readout = createElement("p", { class: "readout" });
    const copyButton = createElement("button", { type: "button", class: "secondary", click: () => this.#copy(copyButton) }, COPY_LABEL);
    this.frame = createElement("div", { class: "frame" }, this.canvas);
    container.replaceChildren(
      this.frame,
      createElement("div", { class: "toolbar" }, this.readout, copyButton),
      createElement("p", { class: "hint" }, `${size} dimensions, float32, range \u00b1${formatFixed(this.maxMagnitude, 3)}, L2 norm ${formatFixed(norm, 3)}.`),
      createDisclosure("Show as table", () =>
        createScrollRegion(
          "Vector components",
          createTable("Vector components", ["Dimension", "Value"], [...this.values].map((value, position) => [String(position), formatFixed(value, 6)])),
        ),
      ),
    );
    // The observer ends with the frame, which is replaced when another text is selected.
    observeWidth(this.frame, (width) => {
      this.width = width;
      this.draw();
    });
  }

  /** Redraw the chart. */
  draw() {
    if (!this.width) return;
    const context = resizeCanvas(this.canvas, this.width, HEIGHT_PX);
    const style = getComputedStyle(this.container);
    const [positive, negative, border] = ["--positive", "--negative", "--border"].map((name) => style.getPropertyValue(name));
    const zeroLine = HEIGHT_PX / 2;
    const step = this.width / this.values.length;
    // A gap separates the bars where there is space; bars narrower than a pixel overlap.
    const barWidth = Math.max(step > 3 ? step - 1 : step, 0.8);
    context.fillStyle = border;
    context.fillRect(0, zeroLine - 0.5, this.width, 1);
    this.values.forEach((value, position) => {
      const barHeight = (Math.abs(value) / this.maxMagnitude) * (zeroLine - 3);
      context.fillStyle = value < 0 ? negative : positive;
      context.fillRect(position * step, value < 0 ? zeroLine : zeroLine - barHeight, barWidth, Math.max(barHeight, 0.5));
    });
    context.strokeStyle = style.getPropertyValue("--foreground");
    context.lineWidth = 1;
    const x = Math.round((this.position + 0.5) * step - 0.5) + 0.5;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, HEIGHT_PX);
    context.stroke();
    this.#updateReadout();
  }

  #updateReadout() {
    const text = `dimension ${this.position}: ${formatFixed(this.values[this.position], 6)}`;
    this.canvas.setAttribute("aria-valuenow", String(this.position));
    this.canvas.setAttribute("aria-valuetext", text);
    this.readout.textContent = text;
  }

  #handleKey(event) {
    const last = this.values.length - 1;
    const target = {
      ArrowRight: this.position + 1,
      ArrowUp: this.position + 1,
      ArrowLeft: this.position - 1,
      ArrowDown: this.position - 1,
      PageUp: this.position + PAGE_STEP,
      PageDown: this.position - PAGE_STEP,
      Home: 0,
      End: last,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#moveTo(Math.min(last, Math.max(0, target)));
  }

  #handlePointer(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const position = Math.floor(((event.clientX - bounds.left) / bounds.width) * this.values.length);
    this.#moveTo(Math.min(this.values.length - 1, Math.max(0, position)));
  }

  #moveTo(position) {
    if (position === this.position) return;
    this.position = position;
    this.draw();
  }

  async #copy(button) {
    try {
      await navigator.clipboard.writeText(JSON.stringify([...this.values]));
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copying requires HTTPS";
    }
    announce(button.textContent);
    setTimeout(() => (button.textContent = COPY_LABEL), FEEDBACK_MS);
  }
}
