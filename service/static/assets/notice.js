// The notice above the results: errors, loading progress and the API key form, one at a time.

import { announce, createElement, formatInteger } from "./dom.js";

const TITLES = {
  0: "Cannot reach the server",
  401: "API key required",
  413: "Request too large",
  422: "Invalid input",
  429: "Server overloaded",
  500: "Internal server error",
  503: "Service not ready",
  504: "Request timed out",
};

/** Shows at most one notice. */
export class Notice {
  #timer = 0;

  /** @param {HTMLElement} container The element that holds the notice. */
  constructor(container) {
    this.container = container;
    this.kind = "";
  }

  /** Hide the notice. */
  clear() {
    clearInterval(this.#timer);
    this.kind = "";
    this.container.hidden = true;
    this.container.replaceChildren();
  }

  /** Show a notice; `kind` is its `data-kind` attribute and selects its style. */
  show(kind, title, detail, ...content) {
    this.clear();
    this.kind = kind;
    this.container.dataset.kind = kind;
    this.container.hidden = false;
    this.container.append(createElement("h2", {}, title), createElement("p", {}, detail), ...content.filter((node) => node !== null));
    announce(`${title}. ${detail}`, { assertive: kind !== "loading" });
  }

  /**
   * Show an error of the service.
   *
   * @param {import("./service.js").ServiceError} error
   * @param {(index: number) => ?number} lineOf Returns the line of a text by its index in the request.
   * @param {(line: number) => void} selectLine Called when the link to a line is activated.
   */
  showError({ status, code, detail, errors, requestId }, lineOf, selectLine) {
    const items = errors.map(({ loc, msg }) => {
      const line = loc[0] === "texts" && Number.isInteger(loc[1]) ? lineOf(loc[1]) : null;
      if (line === null) return [loc.length ? `${loc.join(".")}: ${msg}` : msg];
      const link = createElement("button", { type: "button", class: "link", click: () => selectLine(line) }, `Line ${formatInteger(line)}`);
      return [link, `: ${msg}`];
    });
    // A single error of a line replaces the detail, which repeats it with the index instead of the line.
    const lineError = items.length === 1 && items[0].length === 2 ? items[0] : null;
    this.show(
      "error",
      TITLES[status] ?? "Request failed",
      lineError ? lineError.map((part) => part.textContent ?? part).join("") : detail,
      items.length > 1 ? createElement("ul", { class: "error-list" }, ...items.map((item) => createElement("li", {}, ...item))) : null,
      createElement(
        "p",
        { class: "hint", id: "error-reference" },
        status ? `${status} ${code}` : code,
        requestId ? ", request " : "",
        requestId ? createElement("code", {}, requestId) : null,
      ),
    );
    if (lineError) this.container.querySelector("p").replaceChildren(...lineError);
  }

  /** Show a countdown to the next attempt, and call `retry` at its end. */
  showRetry(error, retry) {
    let remaining = Math.max(1, Math.ceil(error.retryAfter));
    const countdown = createElement("strong", { id: "countdown" });
    const update = () => (countdown.textContent = `${remaining} s`);
    update();
    const retryNow = () => {
      this.clear();
      retry();
    };
    this.show(
      "overload",
      TITLES[error.status] ?? "Request failed",
      error.detail,
      createElement("p", {}, "Retrying in ", countdown, "."),
      createElement(
        "p",
        { class: "actions" },
        createElement("button", { type: "button", id: "retry-now", click: retryNow }, "Retry now"),
        createElement("button", { type: "button", class: "secondary", id: "cancel-retry", click: () => this.clear() }, "Cancel"),
      ),
    );
    this.#timer = setInterval(() => {
      remaining -= 1;
      if (remaining > 0) update();
      else retryNow();
    }, 1000);
  }

  /** Show the loading progress; a repeated call updates the numbers only. */
  showLoading({ done, of }, pending) {
    const detail = pending
      ? "The texts are sent as soon as the service is ready."
      : "Texts can be entered and sent already; they are encoded as soon as the service is ready.";
    if (this.kind !== "loading" || this.pending !== pending) {
      this.progress = createElement("progress", { "aria-label": "Compiled shapes" });
      this.progressText = createElement("p", { class: "hint" });
      this.show("loading", "The service is starting", detail, this.progress, this.progressText);
      this.pending = pending;
    }
    if (of) {
      this.progress.max = of;
      this.progress.value = done;
    } else this.progress.removeAttribute("value");
    this.progressText.textContent = of ? `${done} of ${of} shapes are compiled and tested.` : "Loading the model.";
  }

  /** Show the API key form and focus its field; `save` is called with the key. */
  showKeyForm(invalid, save) {
    const input = createElement("input", {
      id: "key",
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      "aria-describedby": "key-hint",
      "aria-invalid": invalid ? "true" : null,
    });
    const form = createElement(
      "form",
      {
        class: "key-form",
        submit: (event) => {
          event.preventDefault();
          if (input.value.trim()) save(input.value.trim());
          else input.focus();
        },
      },
      createElement("label", { for: "key" }, "API key"),
      input,
      createElement("button", { type: "submit", class: "primary" }, "Save"),
    );
    this.show(
      "key",
      TITLES[401],
      invalid ? "The API key is invalid." : "Enter an API key of this service.",
      form,
      createElement("p", { class: "hint", id: "key-hint" }, "The key is stored until this tab is closed and is sent to this service only."),
    );
    input.focus();
  }
}
