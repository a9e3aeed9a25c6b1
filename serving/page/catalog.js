// Products in a grid: the catalogue, what a text or a picture finds, what is like a product.

import { call, keep, post, service } from "/page/api.js";
import { MOST, PAGE, go } from "/page/address.js";
import { card } from "/page/card.js";
import { make } from "/page/element.js";
import { clear, filterOf } from "/page/filter.js";
import { uploaded } from "/page/picture.js";
import { tell } from "/page/session.js";

const SPACES = { text: "Words", image: "Looks", fused: "Both", joint: "Meaning" };
const FRESH_MS = 60_000, KEPT = 20;
const answers = new Map(); // so that going back asks nothing
let lastText = "";

async function answerOf(s, signal) {
  const key = JSON.stringify([s, filterOf(s)]), held = answers.get(key);
  if (held && performance.now() - held.at < FRESH_MS) return held.answer;
  const answer = await ask(s, signal);
  answers.set(key, { at: performance.now(), answer });
  if (answers.size > KEPT) answers.delete(answers.keys().next().value);
  return answer;
}

async function ask(s, signal) {
  const filter = filterOf(s), p = new URLSearchParams({ k: s.k, filter: JSON.stringify(filter) });
  if (s.by) p.set("space", s.by);
  if (s.text) return post("/v1/search", { text: s.text, k: s.k, ...filter, ...(s.by ? { space: s.by } : {}) }, { signal });
  if (s.item) return call(`/v1/items/${encodeURIComponent(s.item)}/similar?${p}`, { signal });
  if (s.picture) {
    const upload = uploaded(s.picture);
    if (!upload) throw new Error("The picture was not kept when the page was loaded again. Drop it once more.");
    return call(`/v1/search/image?${p}`, { method: "POST", headers: { "content-type": upload.file.type || "image/jpeg" }, body: upload.file, signal });
  }
  p.delete("space");
  const found = await call(`/v1/items?${p}`, { signal });
  return { ...found, neighbors: found.datapoints.map((datapoint) => ({ datapoint, distance: null })) };
}

// Returns the answer as elements: heading, facts, what it is compared by, the grid and what leads on.
export async function found(s, signal, { heading }) {
  const answer = await answerOf(s, signal);
  const { version } = await service();
  keep(answer.neighbors.map((neighbor) => neighbor.datapoint));
  if (s.text && s.text !== lastText) tell("search", [], { query: (lastText = s.text) });
  const head = make("div", { class: "asked" }, subject(s), make("div", { class: "said" }, heading, facts(answer)), by(s, answer, version));
  if (!answer.neighbors.length) {
    return [head, notice("Nothing passes these filters", "Take one away, or widen the price range.", { label: "Clear all filters", run: clear })];
  }
  const isMore = answer.neighbors.length === s.k && s.k < MOST && s.k < answer.nMatching;
  const more = () => go({ k: Math.min(MOST, s.k + PAGE) }, { replace: true });
  return [head, grid(answer, heading.id), isMore ? make("p", { class: "more" }, make("button", { id: "more", type: "button", class: "quiet", onclick: more }, "Show more")) : null];
}

export function notice(title, words, { label = "", run = null, isError = false } = {}) {
  return make("div", { id: "notice", class: isError ? "notice error" : "notice", role: "status" }, make("strong", {}, title), make("p", {}, words),
    run && make("button", { type: "button", class: "quiet", onclick: run }, label));
}

function subject(s) {
  const upload = uploaded(s.picture);
  return upload ? make("div", { class: "subject" }, make("img", { src: upload.url, alt: "Your picture" })) : null;
}

function fact(label, value) {
  return make("span", {}, `${label} `, make("b", {}, value));
}

function facts(answer) {
  const n = answer.neighbors.length, of = answer.nMatching.toLocaleString("en");
  const line = (...told) => make("p", { id: "facts", class: "facts" }, ...told);
  if (!answer.plan) return line(make("span", {}, make("b", {}, of), answer.nMatching === 1 ? " product" : " products"));
  const plan = answer.plan + (answer.effort ? ` ${answer.effort}` : "");
  return line(make("span", {}, make("b", {}, n ? String(n) : "None"), n ? ` nearest of ${of}` : " of the products"),
    fact("compared by", SPACES[answer.space]?.toLowerCase() ?? answer.space), fact("plan", plan), fact("in", `${answer.tookMs.toFixed(1)} ms`));
}

function by(s, answer, version) {
  const reads = { text: ["text", "fused", "joint"], picture: ["image", "fused", "joint"] }[s.text ? "text" : "picture"];
  const choices = s.item ? version.spaces : s.text || s.picture ? version.spaces.filter((space) => reads.includes(space.modality)) : [];
  if (choices.length < 2) return null;
  return make("fieldset", { id: "by", class: "by" }, make("legend", { class: "unseen" }, "Compare by"), ...choices.map(({ name }) =>
    make("label", {}, make("input", { type: "radio", name: "by", value: name, checked: name === answer.space, onchange: () => go({ by: name }, { replace: true }) }),
      make("span", {}, SPACES[name] ?? name))));
}

function grid({ neighbors }, headingId) {
  const distances = neighbors.map((neighbor) => neighbor.distance), least = Math.min(...distances), most = Math.max(...distances);
  const reach = (distance) => (most > least ? 1 - (0.85 * (distance - least)) / (most - least) : 1); // the nearest fills its bar
  return make("ol", { id: "grid", class: "grid", "aria-labelledby": headingId }, ...neighbors.map(({ datapoint, distance }, at) => {
    if (distance === null) return card(datapoint);
    const near = make("span", { class: "near", title: "Distance: smaller is nearer" }, make("i", { "aria-hidden": "true" }),
      make("span", { class: "distance" }, make("span", { class: "unseen" }, "distance "), distance.toFixed(3)));
    near.style.setProperty("--near", `${Math.round(100 * reach(distance))}%`);
    return card(datapoint, { over: make("span", { class: "rank", "aria-hidden": "true" }, String(at + 1)), inside: near });
  }));
}
