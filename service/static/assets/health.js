// Poll the readiness of the service, more often while it is not ready.

const NOT_READY_INTERVAL_MS = 700;
const READY_INTERVAL_MS = 2000;

/**
 * @typedef {{state: string, done: number, of: number}} State `connecting`, `unreachable`, `key_required`, or a state that
 *   `/health/ready` reports; `done` of `of` shapes are compiled.
 */

/** Return the label of a state. */
export function stateLabel({ state, done, of }) {
  const progress = of ? `, ${done} of ${of}` : "";
  return {
    connecting: "Connecting",
    ready: "Ready",
    loading: `Loading the model${progress}`,
    compiling: `Compiling${progress}`,
    draining: "Shutting down",
    failed: "Failed",
    unreachable: "Unreachable",
    key_required: "API key required",
  }[state] ?? state;
}

/** Polls readiness and reports each change. */
export class HealthMonitor {
  #timer = 0;
  #lastReport = "";
  #pollCount = 0;

  /**
   * @param {import("./service.js").Service} service
   * @param {(state: State) => void} onChange
   */
  constructor(service, onChange) {
    Object.assign(this, { service, onChange, state: { state: "connecting", done: 0, of: 0 } });
    document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(this.#timer) : this.refresh()));
    this.refresh();
  }

  /** Poll now. */
  async refresh() {
    clearTimeout(this.#timer);
    const poll = ++this.#pollCount;
    const state = await this.#fetchState();
    // A later poll supersedes this one.
    if (poll !== this.#pollCount) return;
    this.state = state;
    const report = JSON.stringify(state);
    if (report !== this.#lastReport) {
      this.#lastReport = report;
      this.onChange(state);
    }
    if (document.hidden) return;
    const interval = ["ready", "key_required"].includes(state.state) ? READY_INTERVAL_MS : NOT_READY_INTERVAL_MS;
    this.#timer = setTimeout(() => this.refresh(), interval);
  }

  async #fetchState() {
    try {
      const response = await this.service.get("health/ready");
      if (response.status === 401) return { state: "key_required", done: 0, of: 0 };
      const { state, done, of } = await response.json();
      if (typeof state === "string") return { state, done, of };
    } catch {
      // An invalid response counts as none.
    }
    return { state: "unreachable", done: 0, of: 0 };
  }
}
