// The home: what suits the visit, what many choose, what is new, and the whole catalogue.

import { service } from "/page/api.js";
import { ghost } from "/page/card.js";
import { found } from "/page/catalog.js";
import { make } from "/page/element.js";
import { count, filterOf } from "/page/filter.js";
import { acts, forgetVisit, told, who } from "/page/session.js";
import { go } from "/page/address.js";
import { shelf } from "/page/shelf.js";

const FOR_ALL = [
  ["trending", "Trending", "More wanted now than before"],
  ["popular", "Popular", "What most people chose lately"],
  ["new", "New", "Seen for the first time lately"],
];

// The shelf of this visit: the same everywhere, so that what changed in it is what was done meanwhile.
export async function visitShelf(s, signal) {
  if (!acts().length) return null;
  const { surfaces } = await service();
  const begin = make("button", { type: "button", class: "link", onclick: () => { forgetVisit(); go({}); } }, "Forget this visit");
  const request = async () => {
    await told();
    return { ...who(), surface: "session" in surfaces.surfaces ? "session" : "", ...filterOf(s), excludeSeen: true };
  };
  return shelf({ name: "visit", title: "For this visit", hint: "Follows what you look at", request, signal, follows: true, head: begin });
}

export async function home(s, signal) {
  const { surfaces } = await service();
  const filter = filterOf(s);
  const shelves = [await visitShelf(s, signal), ...FOR_ALL.filter(([name]) => name in surfaces.surfaces)
    .map(([name, title, hint]) => shelf({ name, title, hint, request: async () => ({ surface: name, ...filter }), signal, isStrict: true }))].filter(Boolean);
  const title = make(shelves.length ? "h2" : "h1", { id: shelves.length ? "found" : "results", tabindex: "-1" }, count(s) ? "What passes your filters" : "The catalogue");
  const all = make("section", { class: "all" }, make("ol", { class: "grid" }, ...Array.from({ length: 12 }, ghost)));
  const drawn = found(s, signal, { heading: title }).then((parts) => all.replaceChildren(...parts.filter(Boolean)));
  const head = shelves.length ? make("h1", { id: "results", class: "unseen", tabindex: "-1" }, "The shop") : null;
  return { title: "", isWide: false, parts: [head, ...shelves.map((each) => each.box), all], settled: Promise.all([drawn, ...shelves.map((each) => each.filled)]) };
}

// What a text or a picture finds.
export async function search(s, signal) {
  const words = s.text ? `“${s.text}”` : "Like your picture";
  const parts = make("section", { class: "all" }, make("h1", { id: "results", tabindex: "-1" }, words), make("ol", { class: "grid" }, ...Array.from({ length: 12 }, ghost)));
  const drawn = found(s, signal, { heading: make("h1", { id: "results", tabindex: "-1" }, words) }).then((all) => parts.replaceChildren(...all.filter(Boolean)));
  return { title: words, isWide: false, parts: [parts], settled: drawn };
}
