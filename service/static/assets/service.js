// Client of the service: sends requests, with the API key where one is set, and turns error responses into exceptions.

const KEY_STORAGE_ITEM = "fnet-key";

/** The service returned an error or could not be reached. */
export class ServiceError extends Error {
  /**
   * @param {number} status The HTTP status, 0 without a response.
   * @param {string} code The error code; `unreachable` without a response.
   * @param {string} detail The message.
   * @param {{loc: (string|number)[], msg: string}[]} errors The invalid fields.
   * @param {number} retryAfter Seconds until a retry, 0 where the response has none.
   * @param {string} requestId The id of the request in the log of the service.
   */
  constructor(status, code, detail, errors = [], retryAfter = 0, requestId = "") {
    super(detail);
    Object.assign(this, { status, code, detail, errors, retryAfter, requestId });
  }
}

/** Return the absolute URL of the service, without a trailing slash. */
export function baseUrl() {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}

/** The service that serves this page. URLs are relative, so that it works behind a path prefix. */
export class Service {
  #key = sessionStorage.getItem(KEY_STORAGE_ITEM) ?? "";

  /** Whether an API key is set. */
  get hasKey() {
    return this.#key !== "";
  }

  /** Send an API key with each request until the tab is closed. */
  setKey(key) {
    this.#key = key;
    sessionStorage.setItem(KEY_STORAGE_ITEM, key);
  }

  /** Send no API key. */
  removeKey() {
    this.#key = "";
    sessionStorage.removeItem(KEY_STORAGE_ITEM);
  }

  /** Return the response to `GET path`, regardless of its status. */
  async get(path, signal) {
    return this.#send(path, { signal });
  }

  /** Return the JSON body of `GET path`. */
  async getJson(path, signal) {
    const response = await this.#send(path, { signal });
    if (!response.ok) throw await toServiceError(response);
    return response.json();
  }

  /** Return the tokens of texts. */
  async tokenize(texts, { truncate }, signal) {
    return (await this.#post("v1/tokenize", { texts, truncate }, signal)).body;
  }

  /** Return the embeddings of texts, `[texts, size]` in row-major order, with the usage and timings of the request. */
  async encode(texts, { output, normalize, truncate }, signal) {
    const request = { texts, outputs: [output], normalize, truncate, encoding_format: "base64" };
    const { body, response } = await this.#post("v1/encode", request, signal);
    const size = body.hidden_dim;
    const vectors = new Float32Array(body[output].length * size);
    body[output].forEach((row, index) => vectors.set(decodeFloat32(row), index * size));
    return { vectors, size, usage: body.usage, timings: parseServerTiming(response.headers.get("Server-Timing") ?? "") };
  }

  async #post(path, payload, signal) {
    const headers = { "Content-Type": "application/json" };
    const response = await this.#send(path, { method: "POST", headers, body: JSON.stringify(payload), signal });
    if (!response.ok) throw await toServiceError(response);
    return { body: await response.json(), response };
  }

  async #send(path, options) {
    const headers = { ...options.headers, ...(this.#key && { Authorization: `Bearer ${this.#key}` }) };
    try {
      return await fetch(path, { cache: "no-store", credentials: "same-origin", ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError(0, "unreachable", "The server is not running, or the network connection is interrupted.");
    }
  }
}

async function toServiceError(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  const requestId = response.headers.get("X-Request-Id") ?? "";
  try {
    const { code, detail, errors } = await response.json();
    if (typeof code !== "string" || typeof detail !== "string") throw new TypeError("not a problem document");
    return new ServiceError(response.status, code, detail, errors ?? [], retryAfter, requestId);
  } catch {
    const detail = `The server returned status ${response.status} without a problem document.`;
    return new ServiceError(response.status, "invalid_response", detail, [], retryAfter, requestId);
  }
}

/** Decode base64 of little-endian float32 values, which is the byte order of all browsers. */
export function decodeFloat32(base64) {
  const characters = atob(base64);
  const bytes = new Uint8Array(characters.length);
  for (let index = 0; index < characters.length; index++) bytes[index] = characters.charCodeAt(index);
  return new Float32Array(bytes.buffer);
}

/** Return the durations of a Server-Timing header by name, in milliseconds. */
export function parseServerTiming(header) {
  return Object.fromEntries([...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));
}
