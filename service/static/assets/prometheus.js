// Parser of the Prometheus text format, and increases and quantiles over two readings.

/** @typedef {{name: string, labels: Object<string, string>, value: number}} Sample */

const SAMPLE_LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: "\n", '"': '"', "\\": "\\" };
// Tolerance for the jitter of the polling timer.
const JITTER_SECONDS = 0.05;

/** Return the samples of an exposition by metric name. */
export function parseMetrics(exposition) {
  const samples = new Map();
  for (const line of exposition.split("\n")) {
    const match = line.startsWith("#") ? null : SAMPLE_LINE.exec(line);
    if (!match) continue;
    const [, name, labels = "", value] = match;
    const sample = { name, labels: {}, value: parseNumber(value) };
    for (const [, label, escaped] of labels.matchAll(LABEL)) {
      sample.labels[label] = escaped.replace(/\\(.)/g, (sequence, character) => ESCAPES[character] ?? sequence);
    }
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push(sample);
  }
  return samples;
}

function parseNumber(text) {
  if (/^[+-]?Inf$/.test(text)) return text.startsWith("-") ? -Infinity : Infinity;
  return Number(text);
}

/** Return the sum of the samples of a metric whose labels match. */
export function sum(samples, name, matches = () => true) {
  return (samples.get(name) ?? []).filter(({ labels }) => matches(labels)).reduce((total, { value }) => total + value, 0);
}

/** Return the cumulative bucket counts of a histogram, `[bound, count][]` by bound, summed over the matching series. */
export function buckets(samples, name, matches = () => true) {
  const counts = new Map();
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    if (matches(labels)) counts.set(parseNumber(labels.le), (counts.get(parseNumber(labels.le)) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** Return the increase of each bucket between two readings. */
export function bucketIncreases(before, after) {
  const earlier = new Map(before);
  return after.map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
}

/**
 * Return a quantile of a histogram, interpolated linearly within its bucket as `histogram_quantile` does.
 *
 * @param {number} q Between 0 and 1.
 * @param {[number, number][]} counts Cumulative counts by bound.
 * @returns {?{value: number, exceeded: boolean}} null for an empty histogram. `exceeded` is true where the quantile lies
 *   above the last finite bound, which is then the value.
 */
export function quantile(q, counts) {
  const total = counts.length ? counts[counts.length - 1][1] : 0;
  if (!(total > 0)) return null;
  const rank = q * total;
  let [lowerBound, lowerCount] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= rank && count > lowerCount) {
      if (bound === Infinity) return { value: lowerBound, exceeded: true };
      const fraction = Math.max(0, rank - lowerCount) / (count - lowerCount);
      return { value: lowerBound + (bound - lowerBound) * fraction, exceeded: false };
    }
    [lowerBound, lowerCount] = [bound, count];
  }
  return { value: lowerBound, exceeded: true };
}

/** The readings of a time window, oldest first; cleared when the process restarts, because its counters restart too. */
export class Readings {
  #readings = [];

  /** @param {number} seconds The length of the window. */
  constructor(seconds) {
    this.seconds = seconds;
  }

  get length() {
    return this.#readings.length;
  }

  get first() {
    return this.#readings[0];
  }

  get last() {
    return this.#readings[this.#readings.length - 1];
  }

  /** Add a reading at a time in seconds. */
  add(time, samples) {
    const start = sum(samples, "process_start_time_seconds");
    const decreased = this.last && sum(samples, "fnet_batch_tokens_count") < sum(this.last.samples, "fnet_batch_tokens_count");
    if (this.last && (start !== this.last.start || decreased)) this.#readings = [];
    this.#readings.push({ time, samples, start });
    // One reading from before the window remains as its start.
    while (this.#readings.length > 2 && this.#readings[1].time <= time - this.seconds) this.#readings.shift();
  }

  /** Return the reading at the start of the last `seconds`. */
  since(seconds) {
    return [...this.#readings].reverse().find(({ time }) => time <= this.last.time - seconds + JITTER_SECONDS) ?? this.first;
  }

  /** Return the results of a function of each pair of successive readings. */
  mapIntervals(callback) {
    return this.#readings.slice(1).map((after, index) => callback(this.#readings[index], after));
  }
}
