// Code for the current request, to copy.

import { announce, createElement } from "./dom.js";
import { toPayload } from "./parse.js";
import { baseUrl } from "./service.js";

const FEEDBACK_MS = 2500;

/**
 * Return the request as a curl command and as Python programs.
 *
 * @param {{texts: object[], output: string, normalize: boolean, truncate: boolean}} request
 * @param {{model: string, pooling: string, hasKey: boolean}} server
 * @returns {{name: string, code: ?string, note: string}[]} `code` is null where a protocol does not support the request.
 */
export function createSnippets(request, server) {
  return [curlSnippet(request, server), pythonSnippet(request, server), openaiSnippet(request, server)];
}

function curlSnippet({ texts, output, normalize, truncate }, { hasKey }) {
  const fields = [
    `"texts": ${formatList(texts.map((text) => JSON.stringify(toPayload(text)).replace('","', '", "')), "  ", "")}`,
    `"outputs": ["${output}"]`,
    ...(normalize ? ['"normalize": true'] : []),
    ...(truncate ? ['"truncate": true'] : []),
  ];
  const body = `{\n  ${fields.join(",\n  ")}\n}`;
  const lines = [
    `curl -s ${shellQuote(`${baseUrl()}/v1/encode`)}`,
    "-H 'Content-Type: application/json'",
    ...(hasKey ? ['-H "Authorization: Bearer $FNET_API_KEY"'] : []),
    `-d ${shellQuote(body)}`,
  ];
  return { name: "curl", code: lines.join(" \\\n  "), note: "" };
}

function pythonSnippet({ texts, output, normalize, truncate }, { hasKey }) {
  const literals = texts.map(({ first, second }) =>
    second === null ? JSON.stringify(first) : `(${JSON.stringify(first)}, ${JSON.stringify(second)})`,
  );
  const options = [
    `outputs=["${output}"]`,
    ...(normalize ? ["normalize=True"] : []),
    ...(truncate ? ["truncate=True"] : []),
  ];
  const clientArguments = [JSON.stringify(baseUrl()), ...(hasKey ? ['api_key=os.environ["FNET_API_KEY"]'] : [])];
  const code = [
    ...(hasKey ? ["import os", ""] : []),
    "from service.client import Client",
    "",
    `texts = ${formatList(literals, "")}`,
    `with Client(${clientArguments.join(", ")}) as client:`,
    `    vectors = client.encode(texts, ${options.join(", ")}).${output}`,
    `print(vectors.shape)  # one row per text`,
  ];
  return { name: "Python", code: code.join("\n"), note: "The client is part of this project and returns NumPy arrays." };
}

function openaiSnippet({ texts, output, normalize, truncate }, { model, pooling, hasKey }) {
  const name = "openai-python";
  if (texts.some(({ second }) => second !== null)) {
    return { name, code: null, note: "The OpenAI protocol does not support text pairs; use curl or Python." };
  }
  const clientArguments = [`base_url=${JSON.stringify(`${baseUrl()}/v1`)}`, `api_key=${hasKey ? 'os.environ["FNET_API_KEY"]' : '"-"'}`];
  const code = [
    ...(hasKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `texts = ${formatList(texts.map(({ first }) => JSON.stringify(first)), "")}`,
    `client = OpenAI(${clientArguments.join(", ")})`,
    `response = client.embeddings.create(model=${JSON.stringify(model)}, input=texts)`,
    "vectors = [item.embedding for item in response.data]",
    "print(len(vectors), len(vectors[0]))",
  ];
  const differences = [
    ...(output === `${pooling}_output` ? [] : [`returns the ${pooling} output`]),
    ...(normalize ? [] : ["normalizes the vectors"]),
    ...(truncate ? ["does not truncate"] : []),
  ];
  const note = differences.length ? `In contrast to the form, this request ${differences.join(" and ")}.` : "";
  return { name, code: code.join("\n"), note };
}

/** Format a list with one item per line; JSON allows no trailing comma. */
function formatList(items, indent, trailing = ",") {
  if (items.length < 2) return `[${items.join("")}]`;
  return `[\n${items.map((item) => `${indent}    ${item}`).join(",\n")}${trailing}\n${indent}]`;
}

/** Quote a string for a POSIX shell. */
function shellQuote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The tabs that show the snippets. */
export class SnippetTabs {
  #snippets = [];
  #selected = 0;

  /** @param {HTMLElement} container */
  constructor(container) {
    this.tabs = createElement("div", { role: "tablist", "aria-label": "Language", class: "tabs", keydown: (event) => this.#handleKey(event) });
    this.copyButton = createElement("button", { type: "button", class: "secondary", id: "copy", click: () => this.#copy() }, "Copy");
    this.code = createElement("code");
    this.codeBlock = createElement("pre", { tabindex: "0", role: "region", "aria-label": "Code" }, this.code);
    this.note = createElement("p", { class: "hint" });
    this.panel = createElement("div", { role: "tabpanel", id: "snippet", "aria-labelledby": "tab-0" }, this.codeBlock, this.note);
    container.append(createElement("div", { class: "toolbar" }, this.tabs, this.copyButton), this.panel);
  }

  /** Replace the snippets. */
  show(snippets) {
    if (this.#snippets.length !== snippets.length) {
      this.tabs.replaceChildren(
        ...snippets.map(({ name }, index) =>
          createElement("button", { type: "button", role: "tab", id: `tab-${index}`, "aria-controls": "snippet", click: () => this.#select(index) }, name),
        ),
      );
    }
    this.#snippets = snippets;
    this.#select(this.#selected);
  }

  #select(index) {
    this.#selected = index;
    [...this.tabs.children].forEach((tab, position) => {
      tab.setAttribute("aria-selected", String(position === index));
      tab.tabIndex = position === index ? 0 : -1;
    });
    const { code, note } = this.#snippets[index];
    this.panel.setAttribute("aria-labelledby", `tab-${index}`);
    this.codeBlock.hidden = this.copyButton.hidden = code === null;
    this.code.textContent = code ?? "";
    this.note.textContent = note;
    this.note.hidden = note === "";
  }

  #handleKey(event) {
    const last = this.#snippets.length - 1;
    const target = { ArrowRight: this.#selected + 1, ArrowLeft: this.#selected - 1, Home: 0, End: last }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#select(target > last ? 0 : target < 0 ? last : target);
    this.tabs.children[this.#selected].focus();
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.code.textContent);
      this.#showFeedback("Copied");
    } catch {
      // Browsers provide the clipboard over HTTPS only; the selection can still be copied by keyboard.
      getSelection().selectAllChildren(this.code);
      this.#showFeedback("Selected: press Ctrl+C");
    }
  }

  #showFeedback(text) {
    this.copyButton.textContent = text;
    announce(text);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.copyButton.textContent = "Copy"), FEEDBACK_MS);
  }
}
