// How the service does, now: what its metrics say between readings.

import { count, counted, draw, fixed, make } from "./dom.js";
import { Readings, between, buckets, parse, quantile, sum } from "./prometheus.js";

const EVERY = 2000;
// Seconds that figures are of, and that the line of throughput shows.
const SPAN = 60;
const KEPT = 300;
const SHARES = [0.5, 0.95, 0.99];
// Routes that encode. `/` is left out: there the page is as well.
const ENCODES = /^\/(v1\/(encode|embeddings)|embed|embed_all|v2\/models\/\{model\}(\/versions\/\{version\})?\/infer)$/;
const encodes = ({ route }) => ENCODES.test(route);

const TIMES = [
  ["Whole request", "fnet_request_duration_seconds", encodes],
  ["Waiting", "fnet_queue_duration_seconds"],
  ["Computing", "fnet_compute_duration_seconds"],
  ["Tokenising", "fnet_tokenize_duration_seconds"],
];

/** The panel, and the clock that keeps it live while it can be seen. */
export class Status {
  #readings = new Readings(KEPT);
  #timer = 0;
  #failed = "";

  /**
   * @param {HTMLElement} place Where it goes.
   * @param {import("./service.js").Service} service
   * @param {() => void} askKey Called where its reader wants to give a key.
   */
  constructor(place, service, askKey) {
    Object.assign(this, { place, service, askKey, most: 0 });
    this.when = make("p", { class: "hint", id: "status-when" }, "Waiting for a first reading.");
    this.trouble = make("p", { class: "trouble", id: "status-trouble", hidden: true });
    this.rate = figure("Throughput", "rate");
    this.line = make("div", { class: "sparkline" });
    this.rate.box.append(this.line);
    this.queue = figure("Queue", "queue", "Tokens that wait, of those that may");
    this.fill = figure("Batch fill", "fill", "Share of a row that its tokens take");
    this.refused = figure("Refused", "refused");
    this.process = figure("Process", "process");
    this.times = make("tbody");
    place.append(
      this.trouble,
      make("dl", { class: "figures" }, ...[this.rate, this.queue, this.fill, this.refused, this.process].map(({ box }) => box)),
      make(
        "table",
        { class: "times" },
        make("caption", {}, "Time of a request"),
        make("thead", {}, make("tr", {}, ...["Part", "p50", "p95", "p99"].map((head) => make("th", { scope: "col" }, head)))),
        this.times,
      ),
      this.when,
    );
    this.#show();
    document.addEventListener("visibilitychange", () => this.#next(0));
    this.#next(0);
  }

  /** Tell how many tokens may wait. */
  limit(tokens) {
    this.most = tokens;
    this.#show();
  }

  /** Read now. */
  refresh() {
    this.#next(0);
  }

  #next(wait) {
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.#read(), wait);
  }

  async #read() {
    try {
      const response = await this.service.get("metrics");
      if (response.status === 401) this.#fail("Here the metrics ask for a key, too.", true);
      else if (!response.ok) this.#fail(`The metrics answer with status ${response.status}.`);
      else {
        this.#readings.add(performance.now() / 1000, parse(await response.text()));
        this.#fail("");
        this.#show();
      }
    } catch {
      this.#fail("There is no answer. These figures are the last that came.");
    }
    this.#next(EVERY);
  }

  #fail(why, key = false) {
    if (why === this.#failed) return;
    this.#failed = why;
    this.trouble.hidden = why === "";
    this.place.toggleAttribute("data-stale", why !== "");
    this.trouble.replaceChildren(why);
    if (key) this.trouble.append(" ", make("button", { type: "button", class: "quiet", click: () => this.askKey() }, "Give a key"));
  }

  #show() {
    const after = this.#readings.last;
    if (!after) return this.#showTimes(null, null);
    const before = this.#readings.since(SPAN);
    const seconds = after.time - before.time;
    const grown = (name, passes) => sum(after.samples, name, passes) - sum(before.samples, name, passes);
    const now = (name) => sum(after.samples, name);
    const rate = (name, passes) => (seconds > 0 ? grown(name, passes) / seconds : null);

    const tokens = rate("fnet_sequence_length_tokens_sum");
    this.rate.say(
      tokens === null ? "\u2013" : [speed(tokens), unit(" tokens/s")],
      tokens === null ? "" : `${speed(rate("fnet_sequence_length_tokens_count"))} texts/s, ${speed(rate("fnet_requests_total", encodes))} requests/s`,
    );
    this.#drawLine();

    const [waiting, asking] = [now("fnet_queue_tokens"), now("fnet_queue_requests")];
    this.queue.say([count(waiting), unit(" tokens")], `${counted(asking, "request")} waiting${this.most ? `; room for ${count(this.most)} tokens` : ""}`);
    this.queue.level(this.most ? waiting / this.most : 0);

    const batches = grown("fnet_batch_fill_ratio_count");
    const mean = (name) => grown(`${name}_sum`) / batches;
    const filled = batches > 0 ? mean("fnet_batch_fill_ratio") : null;
    this.fill.say(
      filled === null ? "\u2013" : [fixed(filled * 100, 0), unit(" %")],
      filled === null
        ? "no batch ran"
        : `${counted(batches, "batch").replace("batchs", "batches")}, on average ${fixed(mean("fnet_batch_tokens"), 0)} tokens of ${fixed(mean("fnet_batch_sequences"), 1)} texts`,
    );
    this.fill.level(filled ?? 0);

    const reasons = [...new Set((after.samples.get("fnet_rejected_total") ?? []).map(({ labels }) => labels.reason))]
      .map((reason) => [reason, grown("fnet_rejected_total", (labels) => labels.reason === reason)])
      .filter(([, times]) => times > 0)
      .sort(([, a], [, b]) => b - a);
    const refused = reasons.reduce((all, [, times]) => all + times, 0);
    this.refused.say(
      [count(refused), unit(refused === 1 ? " request" : " requests")],
      reasons.map(([reason, times]) => `${reason.replaceAll("_", " ")} ${count(times)}`).join(", ") || "none",
    );

    const cores = rate("process_cpu_seconds_total");
    this.process.say(
      [count(Math.round(now("process_resident_memory_bytes") / 2 ** 20)), unit(" MiB")],
      `${cores === null ? "" : `${fixed(cores, 2)} processors busy, `}up ${duration(Date.now() / 1000 - now("process_start_time_seconds"))}`,
    );

    this.#showTimes(before.samples, after.samples);
    const span = seconds < 1 ? "the first reading" : `the last ${Math.round(seconds)} seconds`;
    this.when.textContent = `Figures are of ${span}, quantiles within the buckets of the metrics\u2019 histograms. Read every ${EVERY / 1000} seconds.`;
  }

  #showTimes(before, after) {
    const rows = TIMES.map(([label, name, passes]) => {
      const counts = after ? between(buckets(before, name, passes), buckets(after, name, passes)) : [];
      const cells = SHARES.map((share) => make("td", {}, time(quantile(share, counts))));
      return make("tr", {}, make("th", { scope: "row" }, label), ...cells);
    });
    this.times.replaceChildren(...rows);
  }

  /** Tokens a second over all that is kept. */
  #drawLine() {
    const [width, height] = [240, 36];
    const end = this.#readings.last.time;
    const span = Math.min(KEPT, Math.max(SPAN, end - this.#readings.first.time));
    const ago = duration(span);
    const points = this.#readings.steps((before, after) => {
      const tokens = sum(after.samples, "fnet_sequence_length_tokens_sum") - sum(before.samples, "fnet_sequence_length_tokens_sum");
      return [after.time, tokens / Math.max(0.001, after.time - before.time)];
    });
    const most = Math.max(...points.map(([, value]) => value), 0);
    const places = points.map(([at, value]) => {
      const x = width - ((end - at) / span) * width;
      return `${x.toFixed(1)},${(height - 2 - (most ? (value / most) * (height - 6) : 0)).toFixed(1)}`;
    });
    const label = `Tokens a second over the last ${ago}: at most ${speed(most)}, at last ${speed(points.at(-1)?.[1] ?? 0)}`;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
    svg.append(draw("line", { x1: 0, x2: width, y1: height - 1, y2: height - 1, class: "axis" }));
    if (places.length) svg.append(draw("polyline", { points: places.join(" "), class: "course" }));
    this.line.replaceChildren(svg, make("p", { class: "ends", "aria-hidden": "true" }, make("span", {}, `${ago} ago`), make("span", {}, most ? `peak ${speed(most)}` : "")));
  }
}

/** Make a figure: its name, its value, what there is to know beside it, and a bar for a share. */
function figure(name, id, meaning = "") {
  const value = make("dd", { class: "value", id: `figure-${id}` }, "\u2013");
  const beside = make("dd", { class: "more", id: `figure-${id}-more` });
  const bar = meaning && make("div", { class: "level", "aria-hidden": "true", title: meaning }, make("span"));
  const box = make("div", { class: "figure-box" }, make("dt", {}, name), value);
  if (bar) box.append(make("dd", { class: "level-of" }, bar));
  box.append(beside);
  return {
    box,
    say(text, more) {
      value.replaceChildren(...[text].flat());
      beside.textContent = more;
    },
    level(share) {
      bar.firstChild.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
    },
  };
}

function unit(text) {
  return make("small", {}, text);
}

function speed(value) {
  return value >= 10 || value === 0 ? count(Math.round(value)) : fixed(value, 1);
}

function time(found) {
  if (found === null) return "\u2013";
  const ms = found.value * 1000;
  const text = ms >= 1000 ? `${fixed(ms / 1000, 1)} s` : `${fixed(ms, ms < 9.95 ? 1 : 0)} ms`;
  return found.beyond ? `> ${text}` : text;
}

function duration(seconds) {
  const [minutes, hours, days] = [60, 3600, 86_400].map((length) => Math.floor(seconds / length));
  if (days >= 2) return `${days} days`;
  if (hours >= 2) return `${hours} hours`;
  if (minutes >= 2) return `${minutes} minutes`;
  return counted(Math.max(0, Math.round(seconds)), "second");
}
