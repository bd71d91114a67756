// What stands above the results when there is something to say: one thing at a time.

import { count, make, say } from "./dom.js";

const TITLES = {
  0: "No answer",
  401: "A key is needed",
  413: "Too much at once",
  422: "The service does not take this",
  429: "The service is full",
  500: "The service failed at this",
  503: "The service is not ready",
  504: "The time was up",
};

/** The one place for notices. */
export class Notice {
  #timer = 0;

  /** @param {HTMLElement} box Where they go. */
  constructor(box) {
    this.box = box;
    this.kind = "";
  }

  /** Take away what stands there. */
  clear() {
    clearInterval(this.#timer);
    this.kind = "";
    this.box.hidden = true;
    this.box.replaceChildren();
  }

  /** Say something of a kind, which is how its look and its tests find it. */
  show(kind, title, detail, ...more) {
    this.clear();
    this.kind = kind;
    this.box.dataset.kind = kind;
    this.box.hidden = false;
    this.box.append(make("h2", {}, title), make("p", {}, detail), ...more.filter((part) => part !== null));
    say(`${title}. ${detail}`, { urgent: kind !== "loading" });
  }

  /**
   * Tell of a refusal.
   *
   * @param {import("./service.js").Refusal} refusal
   * @param {(index: number) => ?number} lineOf Return the line of a text that the service counts from 0.
   * @param {(line: number) => void} go Called with a line to look at.
   */
  refused(refusal, lineOf, go) {
    const { status, code, detail, problems, requestId } = refusal;
    const items = problems.map(({ loc, msg }) => {
      const line = loc[0] === "texts" && Number.isInteger(loc[1]) ? lineOf(loc[1]) : null;
      if (line === null) return [loc.length ? `${loc.join(".")}: ${msg}` : msg];
      return [make("button", { type: "button", class: "link", click: () => go(line) }, `Line ${count(line)}`), ` ${msg}`];
    });
    // One problem is the whole detail, with its place in the service's words.
    const [one] = items.length === 1 && items[0].length === 2 ? items : [null];
    this.show(
      "error",
      TITLES[status] ?? "The service refused this",
      one ? one.map((part) => part.textContent ?? part).join("") : detail,
      items.length > 1 ? make("ul", { class: "problems" }, ...items.map((item) => make("li", {}, ...item))) : null,
      make("p", { class: "hint", id: "refusal" }, status ? `${status} ${code}` : code, requestId ? ", request " : "", requestId ? make("code", {}, requestId) : null),
    );
    if (one) this.box.querySelector("p").replaceChildren(...one);
  }

  /** Tell that another try follows after some seconds, which count down. */
  again(refusal, retry) {
    let left = Math.max(1, Math.ceil(refusal.wait));
    const clock = make("strong", { id: "countdown" });
    const write = () => (clock.textContent = `${left} s`);
    write();
    const now = () => {
      this.clear();
      retry();
    };
    this.show(
      "overload",
      TITLES[refusal.status],
      refusal.detail,
      make("p", {}, "The next try follows in ", clock, "."),
      make(
        "p",
        { class: "actions" },
        make("button", { type: "button", id: "try-now", click: now }, "Try now"),
        make("button", { type: "button", class: "quiet", id: "give-up", click: () => this.clear() }, "Leave it"),
      ),
    );
    this.#timer = setInterval(() => {
      left -= 1;
      if (left > 0) write();
      else now();
    }, 1000);
  }

  /** Tell how far the service is with getting ready; again, only the figures change. */
  loading({ done, of }, waits) {
    const detail = waits
      ? "The texts are sent as soon as it is."
      : "Texts can be written meanwhile, and sent; they wait for it.";
    if (this.kind !== "loading" || this.waits !== waits) {
      this.bar = make("progress", { "aria-label": "Programs that are ready" });
      this.steps = make("p", { class: "hint" });
      this.show("loading", "The service is getting ready", detail, this.bar, this.steps);
      this.waits = waits;
    }
    if (of) {
      this.bar.max = of;
      this.bar.value = done;
    } else this.bar.removeAttribute("value");
    this.steps.textContent = of ? `${done} of ${of} programs are compiled and tested.` : "The model is being loaded.";
  }

  /** Ask for a key; focus goes there. */
  key(wrong, use) {
    const input = make("input", {
      id: "key",
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      "aria-describedby": "key-hint",
      "aria-invalid": wrong ? "true" : null,
    });
    const form = make(
      "form",
      {
        class: "keyform",
        submit: (event) => {
          event.preventDefault();
          if (input.value.trim()) use(input.value.trim());
          else input.focus();
        },
      },
      make("label", { for: "key" }, "Key"),
      input,
      make("button", { type: "submit", class: "main" }, "Use it"),
    );
    const detail = wrong ? "The service does not know this key." : "This service lets in only who presents one of its keys.";
    this.show(
      "key",
      TITLES[401],
      detail,
      form,
      make("p", { class: "hint", id: "key-hint" }, "It is kept until this tab is closed, and sent to this service alone."),
    );
    input.focus();
  }
}
