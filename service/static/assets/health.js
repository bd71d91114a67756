// Whether the service is ready, asked often while it is not.

const SOON = 700;
const LATER = 2000;

/** @typedef {{state: string, done: number, of: number}} State `asking`, `unreachable`, `keyed`, or as the service has it. */

/** What is written of a state. */
export function words({ state, done, of }) {
  const steps = of ? `, ${done} of ${of}` : "";
  return {
    asking: "Asking the service",
    ready: "Ready",
    loading: `Loading the model${steps}`,
    compiling: `Compiling${steps}`,
    draining: "About to end",
    failed: "Failed",
    unreachable: "No answer",
    keyed: "Key needed",
  }[state] ?? state;
}

/** Asks, and tells whoever wants to know of each change. */
export class Health {
  #timer = 0;
  #last = "";
  #asked = 0;

  /**
   * @param {import("./service.js").Service} service
   * @param {(state: State) => void} changed
   */
  constructor(service, changed) {
    Object.assign(this, { service, changed, now: { state: "asking", done: 0, of: 0 } });
    document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(this.#timer) : this.refresh()));
    this.refresh();
  }

  /** Ask now. */
  async refresh() {
    clearTimeout(this.#timer);
    const turn = ++this.#asked;
    const state = await this.#ask();
    // A later question has overtaken this one.
    if (turn !== this.#asked) return;
    this.now = state;
    const seen = JSON.stringify(state);
    if (seen !== this.#last) {
      this.#last = seen;
      this.changed(state);
    }
    if (!document.hidden) this.#timer = setTimeout(() => this.refresh(), ["ready", "keyed"].includes(state.state) ? LATER : SOON);
  }

  async #ask() {
    try {
      const response = await this.service.get("health/ready");
      if (response.status === 401) return { state: "keyed", done: 0, of: 0 };
      const { state, done, of } = await response.json();
      if (typeof state === "string") return { state, done, of };
    } catch {
      // As if there were none.
    }
    return { state: "unreachable", done: 0, of: 0 };
  }
}
