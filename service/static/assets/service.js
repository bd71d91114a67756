// What is asked of the service, with the key where one is needed, and its refusals.

const KEY = "fnet-key";

/** The service refused, failed or gave no answer. */
export class Refusal extends Error {
  /**
   * @param {number} status The HTTP status, 0 where there was no answer.
   * @param {string} code The reason in one word; `unreachable` where there was no answer.
   * @param {string} detail The reason for its reader.
   * @param {{loc: (string|number)[], msg: string}[]} problems What is wrong where.
   * @param {number} wait Seconds after which another try makes sense, 0 where none was named.
   * @param {string} requestId The request's id in the service's log.
   */
  constructor(status, code, detail, problems = [], wait = 0, requestId = "") {
    super(detail);
    Object.assign(this, { status, code, detail, problems, wait, requestId });
  }
}

/** Where the service is, for people to copy: without a slash at its end. */
export function base() {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}

/** The service that this page came from. Addresses are relative: it may stand behind a path. */
export class Service {
  #key = sessionStorage.getItem(KEY) ?? "";

  /** Whether a key is presented. */
  get keyed() {
    return this.#key !== "";
  }

  /** Present a key from now on, until the tab is closed. */
  use(key) {
    this.#key = key;
    sessionStorage.setItem(KEY, key);
  }

  /** Present none any more. */
  forget() {
    this.#key = "";
    sessionStorage.removeItem(KEY);
  }

  /** Return what `GET path` answers, whatever its status. */
  async get(path, signal) {
    return this.#send(path, { signal });
  }

  /** Return what `GET path` answers as JSON. */
  async read(path, signal) {
    const response = await this.#send(path, { signal });
    if (!response.ok) throw await refusal(response);
    return response.json();
  }

  /** Return the tokens of texts. */
  async tokenize(texts, { truncate }, signal) {
    return (await this.#post("v1/tokenize", { texts, truncate }, signal)).answer;
  }

  /** Return the vectors of texts, `[texts, size]` row by row, and what the request took. */
  async encode(texts, { output, normalize, truncate }, signal) {
    const request = { texts, outputs: [output], normalize, truncate, encoding_format: "base64" };
    const { answer, response } = await this.#post("v1/encode", request, signal);
    const size = answer.hidden_dim;
    const vectors = new Float32Array(answer[output].length * size);
    answer[output].forEach((row, index) => vectors.set(floats(row), index * size));
    return { vectors, size, usage: answer.usage, timings: timings(response.headers.get("Server-Timing") ?? "") };
  }

  async #post(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    const response = await this.#send(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    if (!response.ok) throw await refusal(response);
    return { answer: await response.json(), response };
  }

  async #send(path, options) {
    const headers = { ...options.headers, ...(this.#key && { Authorization: `Bearer ${this.#key}` }) };
    try {
      return await fetch(path, { cache: "no-store", credentials: "same-origin", ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, "unreachable", "There is no answer: the service has stopped, or the way to it is cut.");
    }
  }
}

async function refusal(response) {
  const wait = Number(response.headers.get("Retry-After")) || 0;
  const requestId = response.headers.get("X-Request-Id") ?? "";
  try {
    const { code, detail, errors } = await response.json();
    if (typeof code !== "string" || typeof detail !== "string") throw new TypeError("no problem document");
    return new Refusal(response.status, code, detail, errors ?? [], wait, requestId);
  } catch {
    const detail = `Status ${response.status}, without the service's own reason.`;
    return new Refusal(response.status, "bad_answer", detail, [], wait, requestId);
  }
}

/** Return the float32 numbers of base64, little-endian as every browser's machine is. */
export function floats(base64) {
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let index = 0; index < letters.length; index++) bytes[index] = letters.charCodeAt(index);
  return new Float32Array(bytes.buffer);
}

/** Return the milliseconds of a Server-Timing header by name. */
export function timings(header) {
  return Object.fromEntries([...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));
}
