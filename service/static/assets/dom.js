// Helpers to create elements, format numbers and announce messages. No markup is written as a string.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/**
 * Create an HTML element.
 *
 * @param {string} tag
 * @param {object} attributes By name. A function adds an event listener, `true` sets an empty attribute, and `null`,
 *   `undefined` or `false` sets none.
 * @param {...(Node|string|null)} children
 */
export function createElement(tag, attributes = {}, ...children) {
  return initialize(document.createElement(tag), attributes, children);
}

/** Create an SVG element; the arguments are those of `createElement`. */
export function createSvgElement(tag, attributes = {}, ...children) {
  return initialize(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

function initialize(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Create a table with column headers, and row headers in its first column. */
export function createTable(caption, headers, rows) {
  return createElement(
    "table",
    {},
    createElement("caption", { class: "visually-hidden" }, caption),
    createElement("thead", {}, createElement("tr", {}, ...headers.map((header) => createElement("th", { scope: "col" }, header)))),
    createElement(
      "tbody",
      {},
      ...rows.map(([header, ...cells]) =>
        createElement("tr", {}, createElement("th", { scope: "row" }, header), ...cells.map((cell) => createElement("td", {}, cell))),
      ),
    ),
  );
}

/** Create a collapsed section whose content is created when it is first expanded. */
export function createDisclosure(summary, createContent) {
  const details = createElement("details", {}, createElement("summary", {}, summary));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(createContent());
  });
  return details;
}

/** Create a scrollable region that the keyboard can focus. */
export function createScrollRegion(label, ...children) {
  return createElement("div", { class: "scroll-region", role: "region", "aria-label": label, tabindex: "0" }, ...children);
}

/** Announce a message to screen readers; an assertive one interrupts the current speech. */
export function announce(text, { assertive = false } = {}) {
  byId(assertive ? "alert-message" : "status-message").textContent = text;
}

/** Size a canvas in CSS pixels at the resolution of the screen, and return its 2D context. */
export function resizeCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/** Call `onChange` with the width of an element, now and after each change, until the element leaves the document. */
export function observeWidth(element, onChange) {
  let last = -1;
  const observer = new ResizeObserver(([entry]) => {
    if (!element.isConnected) return observer.disconnect();
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== last) onChange((last = width));
  });
  observer.observe(element);
}

/** The media query that matches while the color scheme is dark. */
export const darkScheme = matchMedia("(prefers-color-scheme: dark)");

const integerFormat = new Intl.NumberFormat("en");

/** Format an integer with thousands separators: `131,072`. */
export function formatInteger(value) {
  return integerFormat.format(value);
}

/** Format a count with its noun: `1 text`, `2 texts`. */
export function formatCount(value, singular, plural = `${singular}s`) {
  return `${formatInteger(value)} ${value === 1 ? singular : plural}`;
}

/** Format a number with a fixed number of decimals, and U+2212 as its minus sign. */
export function formatFixed(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `\u2212${text}` : text;
}

/** Shorten a text to at most `maxLength` code points, with an ellipsis. */
export function shorten(text, maxLength) {
  const characters = [...text];
  return characters.length > maxLength ? `${characters.slice(0, maxLength - 1).join("").trimEnd()}\u2026` : text;
}
