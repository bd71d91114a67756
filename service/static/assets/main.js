// The page: texts go to the service, what comes back is shown.

import { byId, count, counted, darkness, fixed, make, say } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { Health, words } from "./health.js";
import { MOST_TEXTS, parse, wire } from "./lines.js";
import { TextMap } from "./map.js";
import { Notice } from "./notice.js";
import { cosines, principal } from "./numbers.js";
import { One } from "./one.js";
import { Service } from "./service.js";
import { Similarity } from "./similarity.js";
import { snippets, Snippets } from "./snippets.js";
import { Status } from "./status.js";
import { TextList } from "./texts.js";

const TYPING = 150;

const service = new Service();
const notice = new Notice(byId("notice"));
const code = new Snippets(byId("snippets"));
const status = new Status(byId("status"), service, () => askKey(false));
const [texts, form] = [byId("texts"), byId("ask")];

let info = null;
let running = null;
// Whether texts wait for the service to be ready, or for a key.
let waiting = false;
let parts = [];

const health = new Health(service, showHealth);

// === What is asked ===

function asked() {
  return {
    texts: parse(texts.value, { pairs: form.elements.lines.value === "pairs" }),
    output: byId("output").value,
    normalize: byId("normalize").checked,
    truncate: byId("truncate").checked,
  };
}

function showAsked() {
  const request = asked();
  const pairs = form.elements.lines.value === "pairs";
  const number = request.texts.length;
  const single = request.texts.filter(({ second }) => second === null).length;
  byId("count").textContent = number
    ? `${counted(number, pairs ? "line" : "text")}${pairs && single ? `, ${count(single)} without a second text` : ""}`
    : `At most ${count(MOST_TEXTS)}`;
  byId("count").toggleAttribute("data-over", number > MOST_TEXTS);
  byId("hint").textContent = pairs ? "A tab, or a bar with a space on each side, parts the two." : "Empty lines are left out.";
  const example = [{ first: "The first text", second: pairs ? "and its second" : null }, { first: "The second text", second: pairs ? "and its own" : null }];
  const served = { model: info?.preset ?? "fnet", pooling: info?.pooling ?? "pooled", keyed: service.keyed };
  code.show(snippets({ ...request, texts: number ? request.texts : example }, served));
}

let typed = 0;
texts.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(showAsked, TYPING);
});
form.addEventListener("change", showAsked);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  encode();
});
form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  encode();
});
byId("stop").addEventListener("click", () => {
  stop();
  texts.focus();
  say("Stopped.");
});
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", async () => {
    const { example } = button.dataset;
    texts.value = EXAMPLES[example].join("\n");
    form.elements.lines.value = example;
    showAsked();
    await encode();
    // The button has gone with what it stood in: the keyboard goes on with what came.
    if (!byId("results").hidden) byId("summary").focus({ preventScroll: true });
  });
}

function goToLine(line) {
  const lines = texts.value.split("\n");
  const from = lines.slice(0, line - 1).reduce((all, each) => all + each.length + 1, 0);
  texts.focus();
  texts.setSelectionRange(from, from + lines[line - 1].length);
}

// === Asking ===

function stop() {
  running?.abort();
  running = null;
  waiting = false;
  busy(false);
}

function busy(is) {
  byId("stop").hidden = !is;
  byId("encode").textContent = is ? "Encoding\u2026" : "Encode";
  byId("main").setAttribute("aria-busy", String(is));
}

async function encode() {
  const request = asked();
  const number = request.texts.length;
  stop();
  if (number === 0) {
    notice.show("error", "Nothing to encode", "Write a text, or several, one a line.");
    texts.focus();
    return;
  }
  const most = Math.min(MOST_TEXTS, info?.limits.max_sequences ?? MOST_TEXTS);
  if (number > most) {
    notice.show("error", "Too many for this page", `It shows up to ${counted(most, "text")}; these are ${count(number)}. The request below is whole and takes them all, up to the service\u2019s limit.`);
    return;
  }
  notice.clear();
  const mine = (running = new AbortController());
  busy(true);
  try {
    const sent = request.texts.map(wire);
    const [tokens, encoded] = await Promise.all([
      service.tokenize(sent, request, mine.signal),
      service.encode(sent, request, mine.signal),
    ]);
    if (running !== mine) return;
    stop();
    showResult(request, tokens, encoded);
    reveal(byId("summary"), "start");
  } catch (error) {
    // Its sibling has nothing left to tell; one that was stopped has nothing either.
    mine.abort();
    if (running !== mine) return;
    stop();
    if (!error.code || error.status === undefined) throw error;
    refused(error, request);
    reveal(byId("notice"), "nearest");
  }
}

/** On a small screen, bring what came of a press to where it can be seen. */
function reveal(element, block) {
  if (innerWidth < 1024) element.scrollIntoView({ block });
}

function refused(refusal, request) {
  if (refusal.status === 401) {
    waiting = true;
    askKey(service.keyed);
  } else if (refusal.code === "not_ready") {
    waiting = true;
    health.refresh();
    notice.loading(health.now, true);
  } else if (refusal.wait > 0) notice.again(refusal, encode);
  else notice.refused(refusal, (index) => request.texts[index]?.line ?? null, goToLine);
}

// === What came back ===

function showResult(request, tokens, { vectors, size, usage, timings }) {
  const rows = request.texts.length;
  const similar = cosines(vectors, rows, size);
  const result = { ...request, tokens, vectors, size, cosines: similar, ...principal(vectors, rows, size) };
  byId("empty").hidden = true;
  byId("results").hidden = false;
  parts = [
    new Similarity(byId("similarity"), result, choose),
    new TextMap(byId("map"), result, choose),
    new TextList(byId("list"), result, choose),
    new One(byId("one"), result, choose),
  ];
  choose(0);
  const took = Object.keys(timings).length
    ? ` ${ms(timings.total)} in the service, of it ${ms(timings.queue)} waiting and ${ms(timings.compute)} computing.`
    : "";
  const text = `${counted(rows, "text")}, ${counted(usage.tokens, "token")}, ${count(size)} numbers each.${took}`;
  byId("summary").textContent = text;
  say(`Encoded: ${text}`);
  status.refresh();
}

function ms(value) {
  return `${fixed(value, value < 10 ? 1 : 0)} ms`;
}

function choose(index) {
  for (const part of parts) part.select(index);
}

darkness.addEventListener("change", () => {
  for (const part of parts) part.draw?.();
});

// === The service itself ===

function showHealth(state) {
  byId("badge").dataset.state = state.state;
  byId("badge-text").textContent = words(state);
  if (["loading", "compiling"].includes(state.state)) {
    if (!running && !["key", "overload", "error"].includes(notice.kind)) notice.loading(state, waiting);
    return;
  }
  if (notice.kind === "loading") notice.clear();
  if (state.state === "ready") {
    describe();
    if (waiting && notice.kind !== "key") encode();
  } else if (state.state === "keyed") {
    describe();
  } else if (state.state === "failed") {
    notice.show("error", "The service has failed", "It ends itself; its log says why.");
  }
}

/** Learn what is served. */
async function describe() {
  const first = info === null;
  try {
    info = await service.read("v1/info");
  } catch (error) {
    if (error.status === 401) askKey(service.keyed);
    else if (error.status === undefined) throw error;
    return;
  }
  const { preset, preset_version: version, hidden_dim: size, architecture, dtype, backend, parameters, trained, tokenizer, pooling, limits } = info;
  const facts = [
    [preset, version].filter(Boolean).join(" "),
    counted(architecture.num_layers, "layer"),
    `${count(size)} wide`,
    `${fixed(parameters / 1e6, 1)} M parameters`,
    `up to ${count(architecture.max_sequence_length)} tokens`,
    `${dtype} by ${backend}`,
    ...(trained ? [] : ["random weights"]),
  ];
  byId("facts").replaceChildren(...facts.map((fact) => make("span", {}, fact)));
  // Once: then it is its reader's choice.
  if (first) byId("output").value = `${pooling}_output`;
  byId("forget-key").hidden = !service.keyed;
  status.limit(limits.max_queue_tokens);
  if (!tokenizer) {
    notice.show("error", "This preset takes no texts", "It has no tokenizer: only token ids can be encoded, which is not done here.");
  }
  showAsked();
}

function askKey(wrong) {
  notice.key(wrong, async (key) => {
    // A header takes no other letters, and no key has them.
    if (!/^[\x20-\x7e]+$/.test(key)) return askKey(true);
    service.use(key);
    try {
      await service.read("v1/info");
    } catch (error) {
      if (error.status === 401) {
        service.forget();
        return askKey(true);
      }
    }
    notice.clear();
    say("The service knows this key.");
    texts.focus();
    status.refresh();
    health.refresh();
    await describe();
    if (waiting) encode();
  });
}

byId("forget-key").addEventListener("click", () => {
  service.forget();
  byId("forget-key").hidden = true;
  showAsked();
  askKey(false);
});

byId("one-title").tabIndex = byId("summary").tabIndex = -1;
showAsked();
