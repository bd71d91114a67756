// Live metrics of the service, computed from successive readings of /metrics.

import { createElement, createSvgElement, formatCount, formatFixed, formatInteger } from "./dom.js";
import { Readings, bucketIncreases, buckets, parseMetrics, quantile, sum } from "./prometheus.js";

const POLL_INTERVAL_MS = 2000;
// Window of the rates and quantiles.
const WINDOW_SECONDS = 60;
// Window of the sparkline.
const HISTORY_SECONDS = 300;
const QUANTILES = [0.5, 0.95, 0.99];
const ENCODE_ROUTE = /^\/(v1\/(encode|embeddings)|embed|embed_all|v2\/models\/\{model\}(\/versions\/\{version\})?\/infer)$/;
const DASH = "\u2013";

// `/` is excluded: its metrics could include visits of this page.
const isEncodeRoute = ({ route }) => ENCODE_ROUTE.test(route);

const LATENCIES = [
  ["Total", "fnet_request_duration_seconds", isEncodeRoute],
  ["Queue", "fnet_queue_duration_seconds"],
  ["Compute", "fnet_compute_duration_seconds"],
  ["Tokenization", "fnet_tokenize_duration_seconds"],
];

/** The metrics panel, which polls while the page is visible. */
export class StatusPanel {
  #readings = new Readings(HISTORY_SECONDS);
  #timer = 0;
  #errorMessage = "";

  /**
   * @param {HTMLElement} container
   * @param {import("./service.js").Service} service
   * @param {() => void} onKeyRequest Called when the user wants to enter an API key.
   */
  constructor(container, service, onKeyRequest) {
    Object.assign(this, { container, service, onKeyRequest, maxQueueTokens: 0 });
    this.window = createElement("p", { class: "hint", id: "status-window" }, "No reading yet.");
    this.error = createElement("p", { class: "status-error", id: "status-error", hidden: true });
    this.throughput = createMetric("Throughput", "throughput");
    this.sparkline = createElement("div", { class: "sparkline" });
    this.throughput.element.append(this.sparkline);
    this.queue = createMetric("Queue", "queue", "Queued tokens relative to the queue limit");
    this.batchFill = createMetric("Batch fill", "batch-fill", "Share of batch positions that hold tokens");
    this.rejected = createMetric("Rejected", "rejected");
    this.process = createMetric("Process", "process");
    this.latencyRows = createElement("tbody");
    container.append(
      this.error,
      createElement(
        "dl",
        { class: "metrics" },
        ...[this.throughput, this.queue, this.batchFill, this.rejected, this.process].map(({ element }) => element),
      ),
      createElement(
        "table",
        { class: "latency" },
        createElement("caption", {}, "Latency"),
        createElement("thead", {}, createElement("tr", {}, ...["Phase", "p50", "p95", "p99"].map((header) => createElement("th", { scope: "col" }, header)))),
        this.latencyRows,
      ),
      this.window,
    );
    this.#update();
    document.addEventListener("visibilitychange", () => this.#schedule(0));
    this.#schedule(0);
  }

  /** Set the capacity of the queue in tokens. */
  setMaxQueueTokens(tokens) {
    this.maxQueueTokens = tokens;
    this.#update();
  }

  /** Poll now. */
  refresh() {
    this.#schedule(0);
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.#poll(), delay);
  }

  async #poll() {
    try {
      const response = await this.service.get("metrics");
      if (response.status === 401) this.#showError("The metrics require an API key.", { keyRequired: true });
      else if (!response.ok) this.#showError(`The metrics route returned status ${response.status}.`);
      else {
        this.#readings.add(performance.now() / 1000, parseMetrics(await response.text()));
        this.#showError("");
        this.#update();
      }
    } catch {
      this.#showError("Cannot reach the server. The metrics are outdated.");
    }
    this.#schedule(POLL_INTERVAL_MS);
  }

  /** Show an error message; an empty one hides it. */
  #showError(message, { keyRequired = false } = {}) {
    if (message === this.#errorMessage) return;
    this.#errorMessage = message;
    this.error.hidden = message === "";
    this.container.toggleAttribute("data-stale", message !== "");
    this.error.replaceChildren(message);
    if (keyRequired) {
      this.error.append(" ", createElement("button", { type: "button", class: "secondary", click: () => this.onKeyRequest() }, "Enter API key"));
    }
  }

  #update() {
    const after = this.#readings.last;
    if (!after) return this.#updateLatencies(null, null);
    const before = this.#readings.since(WINDOW_SECONDS);
    const seconds = after.time - before.time;
    const increase = (name, matches) => sum(after.samples, name, matches) - sum(before.samples, name, matches);
    const current = (name) => sum(after.samples, name);
    const rate = (name, matches) => (seconds > 0 ? increase(name, matches) / seconds : null);

    const tokenRate = rate("fnet_sequence_length_tokens_sum");
    this.throughput.set(
      tokenRate === null ? DASH : [formatRate(tokenRate), createUnit(" tokens/s")],
      tokenRate === null
        ? ""
        : `${formatRate(rate("fnet_sequence_length_tokens_count"))} texts/s, ${formatRate(rate("fnet_requests_total", isEncodeRoute))} requests/s`,
    );
    this.#drawSparkline();

    const [queuedTokens, queuedRequests] = [current("fnet_queue_tokens"), current("fnet_queue_requests")];
    this.queue.set(
      [formatInteger(queuedTokens), createUnit(" tokens")],
      `${formatCount(queuedRequests, "request")}${this.maxQueueTokens ? `; limit ${formatInteger(this.maxQueueTokens)} tokens` : ""}`,
    );
    this.queue.setMeter(this.maxQueueTokens ? queuedTokens / this.maxQueueTokens : 0);

    const batches = increase("fnet_batch_fill_ratio_count");
    const mean = (name) => increase(`${name}_sum`) / batches;
    const fillRatio = batches > 0 ? mean("fnet_batch_fill_ratio") : null;
    this.batchFill.set(
      fillRatio === null ? DASH : [formatFixed(fillRatio * 100, 0), createUnit(" %")],
      fillRatio === null
        ? "no batches"
        : `${formatCount(batches, "batch", "batches")}, mean ${formatFixed(mean("fnet_batch_tokens"), 0)} tokens, ${formatFixed(mean("fnet_batch_sequences"), 1)} texts`,
    );
    this.batchFill.setMeter(fillRatio ?? 0);

    const reasons = [...new Set((after.samples.get("fnet_rejected_total") ?? []).map(({ labels }) => labels.reason))]
      .map((reason) => [reason, increase("fnet_rejected_total", (labels) => labels.reason === reason)])
      .filter(([, rejections]) => rejections > 0)
      .sort(([, a], [, b]) => b - a);
    const rejected = reasons.reduce((total, [, rejections]) => total + rejections, 0);
    this.rejected.set(
      [formatInteger(rejected), createUnit(rejected === 1 ? " request" : " requests")],
      reasons.map(([reason, rejections]) => `${reason.replaceAll("_", " ")} ${formatInteger(rejections)}`).join(", ") || "none",
    );

    const cores = rate("process_cpu_seconds_total");
    this.process.set(
      [formatInteger(Math.round(current("process_resident_memory_bytes") / 2 ** 20)), createUnit(" MiB")],
      `${cores === null ? "" : `${formatFixed(cores, 2)} CPU cores used, `}up ${formatDuration(Date.now() / 1000 - current("process_start_time_seconds"))}`,
    );

    this.#updateLatencies(before.samples, after.samples);
    const period = seconds < 1 ? "First reading" : `Last ${formatCount(Math.round(seconds), "second")}`;
    this.window.textContent = `${period}. Quantiles are interpolated within histogram buckets. Updated every ${POLL_INTERVAL_MS / 1000} seconds.`;
  }

  #updateLatencies(before, after) {
    const rows = LATENCIES.map(([label, name, matches]) => {
      const counts = after ? bucketIncreases(buckets(before, name, matches), buckets(after, name, matches)) : [];
      const cells = QUANTILES.map((q) => createElement("td", {}, formatQuantile(quantile(q, counts))));
      return createElement("tr", {}, createElement("th", { scope: "row" }, label), ...cells);
    });
    this.latencyRows.replaceChildren(...rows);
  }

  /** Draw the throughput over the history of the readings. */
  #drawSparkline() {
    const [width, height] = [240, 36];
    const end = this.#readings.last.time;
    const span = Math.min(HISTORY_SECONDS, Math.max(WINDOW_SECONDS, end - this.#readings.first.time));
    const duration = formatDuration(span);
    const points = this.#readings.mapIntervals((before, after) => {
      const tokens = sum(after.samples, "fnet_sequence_length_tokens_sum") - sum(before.samples, "fnet_sequence_length_tokens_sum");
      return [after.time, tokens / Math.max(0.001, after.time - before.time)];
    });
    const peak = Math.max(...points.map(([, rate]) => rate), 0);
    const coordinates = points.map(([time, rate]) => {
      const x = width - ((end - time) / span) * width;
      return `${x.toFixed(1)},${(height - 2 - (peak ? (rate / peak) * (height - 6) : 0)).toFixed(1)}`;
    });
    const label = `Tokens per second over the last ${duration}: peak ${formatRate(peak)}, latest ${formatRate(points.at(-1)?.[1] ?? 0)}`;
    const svg = createSvgElement("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
    svg.append(createSvgElement("line", { x1: 0, x2: width, y1: height - 1, y2: height - 1, class: "axis" }));
    if (coordinates.length) svg.append(createSvgElement("polyline", { points: coordinates.join(" "), class: "series" }));
    const axisLabels = createElement(
      "p",
      { class: "axis-labels", "aria-hidden": "true" },
      createElement("span", {}, `${duration} ago`),
      createElement("span", {}, peak ? `peak ${formatRate(peak)}` : ""),
    );
    this.sparkline.replaceChildren(svg, axisLabels);
  }
}

/** Create a metric with a name, a value and a note; with `meterTitle` it has a meter as well. */
function createMetric(name, id, meterTitle = "") {
  const value = createElement("dd", { class: "value", id: `metric-${id}` }, DASH);
  const note = createElement("dd", { class: "note", id: `metric-${id}-note` });
  const meter = meterTitle && createElement("div", { class: "meter", "aria-hidden": "true", title: meterTitle }, createElement("span"));
  const element = createElement("div", { class: "metric" }, createElement("dt", {}, name), value);
  if (meter) element.append(createElement("dd", {}, meter));
  element.append(note);
  return {
    element,
    set(content, noteText) {
      value.replaceChildren(...[content].flat());
      note.textContent = noteText;
    },
    setMeter(ratio) {
      meter.firstChild.style.width = `${100 * Math.min(1, Math.max(0, ratio))}%`;
    },
  };
}

function createUnit(text) {
  return createElement("small", {}, text);
}

function formatRate(value) {
  return value >= 10 || value === 0 ? formatInteger(Math.round(value)) : formatFixed(value, 1);
}

function formatQuantile(result) {
  if (result === null) return DASH;
  const ms = result.value * 1000;
  const text = ms >= 1000 ? `${formatFixed(ms / 1000, 1)} s` : `${formatFixed(ms, ms < 9.95 ? 1 : 0)} ms`;
  return result.exceeded ? `> ${text}` : text;
}

function formatDuration(seconds) {
  const [minutes, hours, days] = [60, 3600, 86_400].map((length) => Math.floor(seconds / length));
  if (days >= 2) return `${days} days`;
  if (hours >= 2) return `${hours} hours`;
  if (minutes >= 2) return `${minutes} minutes`;
  return formatCount(Math.max(0, Math.round(seconds)), "second");
}
