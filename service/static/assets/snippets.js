// The same request in other words, to copy.

import { make, say } from "./dom.js";
import { wire } from "./lines.js";
import { base } from "./service.js";

/**
 * Return the request as a command and as Python.
 *
 * @param {{texts: object[], output: string, normalize: boolean, truncate: boolean}} request
 * @param {{model: string, pooling: string, keyed: boolean}} served
 * @returns {{name: string, code: ?string, note: string}[]} No code where a language has no word for it.
 */
export function snippets(request, served) {
  return [curl(request, served), python(request, served), openai(request, served)];
}

function curl({ texts, output, normalize, truncate }, { keyed }) {
  const fields = [
    `"texts": ${list(texts.map((text) => JSON.stringify(wire(text)).replace('","', '", "')), "  ", "")}`,
    `"outputs": ["${output}"]`,
    ...(normalize ? ['"normalize": true'] : []),
    ...(truncate ? ['"truncate": true'] : []),
  ];
  const body = `{\n  ${fields.join(",\n  ")}\n}`;
  const lines = [
    `curl -s ${quoted(`${base()}/v1/encode`)}`,
    "-H 'Content-Type: application/json'",
    ...(keyed ? ['-H "Authorization: Bearer $FNET_API_KEY"'] : []),
    `-d ${quoted(body)}`,
  ];
  return { name: "curl", code: lines.join(" \\\n  "), note: "" };
}

function python({ texts, output, normalize, truncate }, { keyed }) {
  const written = texts.map(({ first, second }) =>
    second === null ? JSON.stringify(first) : `(${JSON.stringify(first)}, ${JSON.stringify(second)})`,
  );
  const options = [
    `outputs=["${output}"]`,
    ...(normalize ? ["normalize=True"] : []),
    ...(truncate ? ["truncate=True"] : []),
  ];
  const where = [JSON.stringify(base()), ...(keyed ? ['api_key=os.environ["FNET_API_KEY"]'] : [])];
  const code = [
    ...(keyed ? ["import os", ""] : []),
    "from service.client import Client",
    "",
    `texts = ${list(written, "")}`,
    `with Client(${where.join(", ")}) as client:`,
    `    vectors = client.encode(texts, ${options.join(", ")}).${output}`,
    `print(vectors.shape)  # one row a text`,
  ];
  return { name: "Python", code: code.join("\n"), note: "The client is part of this project and gives NumPy arrays." };
}

function openai({ texts, output, normalize, truncate }, { model, pooling, keyed }) {
  const name = "openai-python";
  if (texts.some(({ second }) => second !== null)) {
    return { name, code: null, note: "OpenAI\u2019s protocol has no pairs: use curl or Python for these." };
  }
  const where = [`base_url=${JSON.stringify(`${base()}/v1`)}`, `api_key=${keyed ? 'os.environ["FNET_API_KEY"]' : '"-"'}`];
  const code = [
    ...(keyed ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `texts = ${list(texts.map(({ first }) => JSON.stringify(first)), "")}`,
    `client = OpenAI(${where.join(", ")})`,
    `answer = client.embeddings.create(model=${JSON.stringify(model)}, input=texts)`,
    "vectors = [item.embedding for item in answer.data]",
    "print(len(vectors), len(vectors[0]))",
  ];
  const differs = [
    ...(output === `${pooling}_output` ? [] : [`gives the ${pooling} output`]),
    ...(normalize ? [] : ["gives vectors of length 1"]),
    ...(truncate ? ["refuses what is too long"] : []),
  ];
  return { name, code: code.join("\n"), note: differs.length ? `Other than above, this protocol ${differs.join(" and ")}.` : "" };
}

/** Write a list an item a line; JSON takes no comma after the last. */
function list(items, indent, last = ",") {
  if (items.length < 2) return `[${items.join("")}]`;
  return `[\n${items.map((item) => `${indent}    ${item}`).join(",\n")}${last}\n${indent}]`;
}

/** Quote for a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The tabs that show them. */
export class Snippets {
  #found = [];
  #chosen = 0;

  /** @param {HTMLElement} place Where they go. */
  constructor(place) {
    this.tabs = make("div", { role: "tablist", "aria-label": "Language", class: "tabs", keydown: (event) => this.#move(event) });
    this.copy = make("button", { type: "button", class: "quiet", id: "copy", click: () => this.#copy() }, "Copy");
    this.code = make("code");
    this.box = make("pre", { tabindex: "0", role: "region", "aria-label": "Code" }, this.code);
    this.note = make("p", { class: "hint" });
    this.panel = make("div", { role: "tabpanel", id: "snippet", "aria-labelledby": "tab-0" }, this.box, this.note);
    place.append(make("div", { class: "bar" }, this.tabs, this.copy), this.panel);
  }

  /** Show others. */
  show(found) {
    if (this.#found.length !== found.length) {
      this.tabs.replaceChildren(
        ...found.map(({ name }, index) =>
          make("button", { type: "button", role: "tab", id: `tab-${index}`, "aria-controls": "snippet", click: () => this.#choose(index) }, name),
        ),
      );
    }
    this.#found = found;
    this.#choose(this.#chosen);
  }

  #choose(index) {
    this.#chosen = index;
    [...this.tabs.children].forEach((tab, at) => {
      tab.setAttribute("aria-selected", String(at === index));
      tab.tabIndex = at === index ? 0 : -1;
    });
    const { code, note } = this.#found[index];
    this.panel.setAttribute("aria-labelledby", `tab-${index}`);
    this.box.hidden = this.copy.hidden = code === null;
    this.code.textContent = code ?? "";
    this.note.textContent = note;
    this.note.hidden = note === "";
  }

  #move(event) {
    const last = this.#found.length - 1;
    const to = { ArrowRight: this.#chosen + 1, ArrowLeft: this.#chosen - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#choose(to > last ? 0 : to < 0 ? last : to);
    this.tabs.children[this.#chosen].focus();
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.code.textContent);
      this.#told("Copied");
    } catch {
      // Browsers keep the clipboard from pages without TLS: what is selected can be copied by hand.
      getSelection().selectAllChildren(this.code);
      this.#told("Selected: press Ctrl+C");
    }
  }

  #told(text) {
    this.copy.textContent = text;
    say(text);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.copy.textContent = "Copy"), 2500);
  }
}
