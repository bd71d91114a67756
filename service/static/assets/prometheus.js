// Prometheus' text format, and what the difference of two readings says.

/** @typedef {{name: string, labels: Object<string, string>, value: number}} Sample */

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n", '"': '"', "\\": "\\" };

/** Return the samples of an exposition by name. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    const [, name, labels = "", value] = found;
    const sample = { name, labels: {}, value: number(value) };
    for (const [, label, written] of labels.matchAll(LABEL)) {
      sample.labels[label] = written.replace(/\\(.)/g, (whole, letter) => ESCAPED[letter] ?? whole);
    }
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push(sample);
  }
  return samples;
}

function number(written) {
  if (/^[+-]?Inf$/.test(written)) return written.startsWith("-") ? -Infinity : Infinity;
  return Number(written);
}

/** Return the sum of a name's samples whose labels pass. */
export function sum(samples, name, passes = () => true) {
  return (samples.get(name) ?? []).filter(({ labels }) => passes(labels)).reduce((all, { value }) => all + value, 0);
}

/** Return a histogram's counts up to each bound, `[bound, count][]` in order, over all series whose labels pass. */
export function buckets(samples, name, passes = () => true) {
  const counts = new Map();
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    if (passes(labels)) counts.set(number(labels.le), (counts.get(number(labels.le)) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** Return what came between two readings of a histogram. */
export function between(before, after) {
  const earlier = new Map(before);
  return after.map(([bound, counted]) => [bound, counted - (earlier.get(bound) ?? 0)]);
}

/**
 * Return a quantile of a histogram, values even within a bucket as Prometheus has it; `null` of nothing.
 *
 * Beyond the last bound nothing is known but that: `beyond` is true, and the value is that bound.
 */
export function quantile(share, counts) {
  const all = counts.length ? counts[counts.length - 1][1] : 0;
  if (!(all > 0)) return null;
  const rank = share * all;
  let [low, below] = [0, 0];
  for (const [bound, counted] of counts) {
    if (counted >= rank && counted > below) {
      if (bound === Infinity) return { value: low, beyond: true };
      return { value: low + ((bound - low) * Math.max(0, rank - below)) / (counted - below), beyond: false };
    }
    [low, below] = [bound, counted];
  }
  return { value: low, beyond: true };
}

/** The readings of the last while, oldest first; another process, whose counters begin anew, begins them anew. */
export class Readings {
  #kept = [];

  /** @param {number} seconds How long a reading is kept. */
  constructor(seconds) {
    this.seconds = seconds;
  }

  get length() {
    return this.#kept.length;
  }

  get first() {
    return this.#kept[0];
  }

  get last() {
    return this.#kept[this.#kept.length - 1];
  }

  /** Add a reading at a time in seconds. */
  add(time, samples) {
    const start = sum(samples, "process_start_time_seconds");
    const shrunk = this.last && sum(samples, "fnet_batch_tokens_count") < sum(this.last.samples, "fnet_batch_tokens_count");
    if (this.last && (start !== this.last.start || shrunk)) this.#kept = [];
    this.#kept.push({ time, samples, start });
    // One that is older stays, as the other end of the whole while.
    while (this.#kept.length > 2 && this.#kept[1].time <= time - this.seconds) this.#kept.shift();
  }

  /** Return the reading from which the last so many seconds are counted. */
  since(seconds) {
    return [...this.#kept].reverse().find(({ time }) => time <= this.last.time - seconds + 0.05) ?? this.first;
  }

  /** Return what a function says of each reading and the one after it. */
  steps(say) {
    return this.#kept.slice(1).map((after, index) => say(this.#kept[index], after));
  }
}
