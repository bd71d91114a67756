// Elements, made one way. No markup is ever written as a string, and no style as an attribute.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: attributes by name, a function is a listener, `true` an empty attribute, `null` and `false` none. */
export function make(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** Make an element of a drawing. */
export function draw(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return the element of the page with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Make a table with headers: of columns, and of rows in the first column. */
export function table(caption, heads, rows) {
  return make(
    "table",
    {},
    make("caption", { class: "unseen" }, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make(
      "tbody",
      {},
      ...rows.map(([head, ...cells]) =>
        make("tr", {}, make("th", { scope: "row" }, head), ...cells.map((cell) => make("td", {}, cell))),
      ),
    ),
  );
}

/** Make a part that opens, whose content is made when it is first opened. */
export function fold(summary, content) {
  const details = make("details", {}, make("summary", {}, summary));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(content());
  });
  return details;
}

/** Make a region that scrolls by itself, which the keyboard must be able to reach. */
export function scroller(label, ...children) {
  return make("div", { class: "scroller", role: "region", "aria-label": label, tabindex: "0" }, ...children);
}

/** Say something to those who listen: politely, or at once. */
export function say(text, { urgent = false } = {}) {
  byId(urgent ? "alarm" : "said").textContent = text;
}

/** Draw on a canvas in units of the page, sharp on any screen; the height is its style's. */
export function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/** Call back with an element's width, now and whenever it changes, until it has left the page. */
export function onWidth(element, back) {
  let last = -1;
  const observer = new ResizeObserver(([entry]) => {
    if (!element.isConnected) return observer.disconnect();
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== last) back((last = width));
  });
  observer.observe(element);
}

/** Whether the page is dark now. */
export const darkness = matchMedia("(prefers-color-scheme: dark)");

const whole = new Intl.NumberFormat("en");

/** Write a whole number: 131,072. */
export function count(value) {
  return whole.format(value);
}

/** Write a number of things: `1 text`, `2 texts`. */
export function counted(value, thing) {
  return `${count(value)} ${thing}${value === 1 ? "" : "s"}`;
}

/** Write a number with so many digits after the point, and a true minus. */
export function fixed(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `\u2212${text}` : text;
}

/** Cut a text to be a label. */
export function short(text, most) {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("").trimEnd()}\u2026` : text;
}
