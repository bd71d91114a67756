// Entry point of the page: sends texts to the service and shows the results.

import { announce, byId, createElement, darkScheme, formatCount, formatFixed, formatInteger } from "./dom.js";
import { Detail } from "./detail.js";
import { EXAMPLES } from "./examples.js";
import { HealthMonitor, stateLabel } from "./health.js";
import { cosineMatrix, principalComponents } from "./linalg.js";
import { TextMap } from "./map.js";
import { Notice } from "./notice.js";
import { MAX_TEXTS, parseLines, toPayload } from "./parse.js";
import { Service } from "./service.js";
import { SimilarityMatrix } from "./similarity.js";
import { createSnippets, SnippetTabs } from "./snippets.js";
import { StatusPanel } from "./status.js";
import { TextList } from "./texts.js";

const INPUT_DEBOUNCE_MS = 150;
// Width from which the form and the results are side by side, as in style.css.
const TWO_COLUMNS_PX = 1024;
const BACKEND_LABELS = { jax: "JAX", openvino: "OpenVINO" };

const service = new Service();
const notice = new Notice(byId("notice"));
const snippetTabs = new SnippetTabs(byId("snippets"));
const statusPanel = new StatusPanel(byId("status"), service, () => showKeyForm(false));
const [textArea, form] = [byId("texts"), byId("encode-form")];

let info = null;
let abortController = null;
// Whether the texts are sent once the service is ready or an API key is set.
let pending = false;
let views = [];

const health = new HealthMonitor(service, showHealth);

// === Form ===

function isPairInput() {
  return form.elements.input_type.value === "pairs";
}

function readForm() {
  return {
    texts: parseLines(textArea.value, { pairs: isPairInput() }),
    output: byId("output").value,
    normalize: byId("normalize").checked,
    truncate: byId("truncate").checked,
  };
}

function updateForm() {
  const request = readForm();
  const pairs = isPairInput();
  const textCount = request.texts.length;
  const unpairedCount = request.texts.filter(({ second }) => second === null).length;
  byId("count").textContent = textCount
    ? `${pairs ? formatCount(textCount, "line") : formatCount(textCount, "text")}${pairs && unpairedCount ? `, ${formatInteger(unpairedCount)} without a second text` : ""}`
    : `At most ${formatInteger(MAX_TEXTS)}`;
  byId("count").toggleAttribute("data-exceeded", textCount > MAX_TEXTS);
  byId("input-hint").textContent = pairs ? 'Separate the two texts with a tab or " | ".' : "Empty lines are ignored.";
  const placeholders = [
    { first: "First text", second: pairs ? "Its second text" : null },
    { first: "Second text", second: pairs ? "Its second text" : null },
  ];
  const server = { model: info?.preset ?? "fnet", pooling: info?.pooling ?? "pooled", hasKey: service.hasKey };
  snippetTabs.show(createSnippets({ ...request, texts: textCount ? request.texts : placeholders }, server));
}

let inputTimer = 0;
textArea.addEventListener("input", () => {
  clearTimeout(inputTimer);
  inputTimer = setTimeout(updateForm, INPUT_DEBOUNCE_MS);
});
form.addEventListener("change", updateForm);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  encode();
});
form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  encode();
});
byId("cancel").addEventListener("click", () => {
  cancel();
  textArea.focus();
  announce("Canceled.");
});
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", async () => {
    const { example } = button.dataset;
    textArea.value = EXAMPLES[example].join("\n");
    form.elements.input_type.value = example;
    updateForm();
    await encode();
    // The button is hidden with its section, so focus moves to the results.
    if (!byId("results").hidden) byId("summary").focus({ preventScroll: true });
  });
}

function selectLine(line) {
  const lines = textArea.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((length, text) => length + text.length + 1, 0);
  textArea.focus();
  textArea.setSelectionRange(start, start + lines[line - 1].length);
}

// === Requests ===

function cancel() {
  abortController?.abort();
  abortController = null;
  pending = false;
  setBusy(false);
}

function setBusy(busy) {
  byId("cancel").hidden = !busy;
  byId("encode").textContent = busy ? "Encoding\u2026" : "Encode";
  byId("main").setAttribute("aria-busy", String(busy));
}

async function encode() {
  const request = readForm();
  const textCount = request.texts.length;
  cancel();
  if (textCount === 0) {
    notice.show("error", "No input", "Enter at least one text.");
    textArea.focus();
    return;
  }
  const maxTexts = Math.min(MAX_TEXTS, info?.limits.max_sequences ?? MAX_TEXTS);
  if (textCount > maxTexts) {
    notice.show(
      "error",
      "Too many texts",
      `${formatCount(textCount, "text")} exceed the maximum of ${formatInteger(maxTexts)} on this page. The code below sends all texts; the API accepts up to ${formatInteger(info?.limits.max_sequences ?? maxTexts)} per request.`,
    );
    return;
  }
  notice.clear();
  const controller = (abortController = new AbortController());
  setBusy(true);
  try {
    const payload = request.texts.map(toPayload);
    const [tokens, embeddings] = await Promise.all([
      service.tokenize(payload, request, controller.signal),
      service.encode(payload, request, controller.signal),
    ]);
    if (abortController !== controller) return;
    cancel();
    showResults(request, tokens, embeddings);
    scrollOnNarrowScreen(byId("summary"), "start");
  } catch (error) {
    // The other of the two requests is no longer needed.
    controller.abort();
    // The request was canceled or superseded.
    if (abortController !== controller) return;
    cancel();
    if (!error.code || error.status === undefined) throw error;
    handleError(error, request);
    scrollOnNarrowScreen(byId("notice"), "nearest");
  }
}

/** Scroll to an element where the form fills the screen. */
function scrollOnNarrowScreen(element, block) {
  if (innerWidth < TWO_COLUMNS_PX) element.scrollIntoView({ block });
}

function handleError(error, request) {
  if (error.status === 401) {
    pending = true;
    showKeyForm(service.hasKey);
  } else if (error.code === "not_ready") {
    pending = true;
    health.refresh();
    notice.showLoading(health.state, true);
  } else if (error.retryAfter > 0) notice.showRetry(error, encode);
  else notice.showError(error, (index) => request.texts[index]?.line ?? null, selectLine);
}

// === Results ===

function showResults(request, tokens, { vectors, size, usage, timings }) {
  const rows = request.texts.length;
  const similarities = cosineMatrix(vectors, rows, size);
  const result = { ...request, tokens, vectors, size, similarities, ...principalComponents(vectors, rows, size) };
  byId("empty").hidden = true;
  byId("results").hidden = false;
  views = [
    new SimilarityMatrix(byId("similarity"), result, select),
    new TextMap(byId("map"), result, select),
    new TextList(byId("list"), result, select),
    new Detail(byId("detail"), result, select),
  ];
  select(0);
  const durations = Object.keys(timings).length
    ? `, ${formatMilliseconds(timings.total)} total (queue ${formatMilliseconds(timings.queue)}, compute ${formatMilliseconds(timings.compute)})`
    : "";
  const summary = `${formatCount(rows, "text")}, ${formatCount(usage.tokens, "token")}, ${formatCount(size, "dimension")}${durations}`;
  byId("summary").textContent = summary;
  announce(`Encoded: ${summary}`);
  statusPanel.refresh();
}

function formatMilliseconds(value) {
  return `${formatFixed(value, value < 10 ? 1 : 0)} ms`;
}

/** Select a text in all views. */
function select(index) {
  for (const view of views) view.select(index);
}

darkScheme.addEventListener("change", () => {
  for (const view of views) view.draw?.();
});

// === Service ===

function showHealth(state) {
  byId("badge").dataset.state = state.state;
  byId("badge-text").textContent = stateLabel(state);
  if (["loading", "compiling"].includes(state.state)) {
    if (!abortController && !["key", "overload", "error"].includes(notice.kind)) notice.showLoading(state, pending);
    return;
  }
  if (notice.kind === "loading") notice.clear();
  if (state.state === "ready") {
    loadInfo();
    if (pending && notice.kind !== "key") encode();
  } else if (state.state === "key_required") {
    loadInfo();
  } else if (state.state === "failed") {
    notice.show("error", "Service failed", "The service is stopping. See its log for the cause.");
  }
}

/** Fetch the description of the service and show it. */
async function loadInfo() {
  const initial = info === null;
  try {
    info = await service.getJson("v1/info");
  } catch (error) {
    if (error.status === 401) showKeyForm(service.hasKey);
    else if (error.status === undefined) throw error;
    return;
  }
  const { preset, preset_version: version, hidden_dim: size, architecture, dtype, backend, parameters, trained, tokenizer, pooling, limits } = info;
  const maxTokens = formatInteger(architecture.max_sequence_length);
  const items = [
    [preset, version].filter(Boolean).join(" "),
    formatCount(architecture.num_layers, "layer"),
    formatCount(size, "dimension"),
    `${formatFixed(parameters / 1e6, 1)} M parameters`,
    `up to ${maxTokens} tokens`,
    `${dtype}, ${BACKEND_LABELS[backend] ?? backend}`,
    ...(trained ? [] : ["random weights"]),
  ];
  byId("model-info").replaceChildren(...items.map((item) => createElement("span", {}, item)));
  byId("truncate-label").textContent = `Truncate to ${maxTokens} tokens`;
  // Later calls keep the output that the user selected.
  if (initial) byId("output").value = `${pooling}_output`;
  byId("remove-key").hidden = !service.hasKey;
  statusPanel.setMaxQueueTokens(limits.max_queue_tokens);
  if (!tokenizer) {
    notice.show("error", "Texts are not supported", "This preset has no tokenizer. Send token ids to the API instead.");
  }
  updateForm();
}

function showKeyForm(invalid) {
  notice.showKeyForm(invalid, async (key) => {
    // An HTTP header holds printable ASCII only, and so does every valid key.
    if (!/^[\x20-\x7e]+$/.test(key)) return showKeyForm(true);
    service.setKey(key);
    try {
      await service.getJson("v1/info");
    } catch (error) {
      if (error.status === 401) {
        service.removeKey();
        return showKeyForm(true);
      }
    }
    notice.clear();
    announce("API key accepted.");
    textArea.focus();
    statusPanel.refresh();
    health.refresh();
    await loadInfo();
    if (pending) encode();
  });
}

byId("remove-key").addEventListener("click", () => {
  service.removeKey();
  byId("remove-key").hidden = true;
  updateForm();
  showKeyForm(false);
});

byId("detail-title").tabIndex = byId("summary").tabIndex = -1;
updateForm();
