// Why a product has its place: a line under it, and on demand what each source and rule said.

import { explain, read } from "/page/api.js";
import { titleOf } from "/page/card.js";
import { make } from "/page/element.js";

const SOURCES = {
  popular: "Popular", trending: "Trending", "new-arrivals": "New arrivals", "sequential-rules": "Looked at next", "item-knn": "Chosen by the same people",
  ease: "Chosen with it", ials: "Taste", "bought-together": "Bought together", "buy-again": "Bought before", "session-knn": "Visits like this one",
  vstan: "Visits like this one", content: "Alike in words and looks", any: "From the catalogue", pinned: "Chosen by the shop",
};
export const nameOf = (source) => SOURCES[source] ?? source.replaceAll("-", " ");

// The reason in words, with the title of the product that it speaks of.
export async function reasons(places, signal, here = "") {
  const named = [...new Set(places.map((place) => place.because).filter(Boolean))];
  const titles = new Map((await read(named, signal)).map((each) => [each.datapointId, titleOf(each)]));
  const wordFor = (id) => (id === here ? "this" : `“${titles.get(id)}”`);
  const told = places.map(({ reason, because }) => (because && titles.has(because) ? reason.replaceAll(because, () => wordFor(because)) : reason));
  return told.map((words) => words.charAt(0).toUpperCase() + words.slice(1));
}

export function why(place, words, request) {
  const body = make("div", { class: "because" });
  let isAsked = false;
  const box = make("details", { class: "why" },
    make("summary", {}, make("span", {}, words), make("span", { class: "unseen" }, `: why ${titleOf(place.datapoint)} is here`)), body);
  box.addEventListener("toggle", async () => {
    if (!box.open || isAsked) return;
    isAsked = true;
    body.replaceChildren(...short(place));
    try {
      const told = await explain(request, place.itemId);
      if (told) body.replaceChildren(...long(told, place));
    } catch { /* what the slate said stays */ }
  });
  return box;
}

function short(place) {
  const named = place.score > 0 ? place.sources : [`${place.sources[0]}`];
  return [
    make("p", {}, place.score > 0 ? `Score ${place.score.toFixed(4)}, from` : "This place was left over; it was filled by"),
    make("ul", {}, ...named.map((source) => make("li", {}, nameOf(source)))),
    place.rules?.length ? make("p", {}, `Rules: ${place.rules.join(", ")}`) : null,
  ].filter(Boolean);
}

function long(told, place) {
  const shares = (told.sources ?? []).filter((share) => share.rank > 0);
  const most = Math.max(...shares.map((share) => share.contribution), 1e-9);
  const rows = shares.map((share) => {
    const bar = make("i", { "aria-hidden": "true" });
    bar.style.setProperty("--near", `${Math.round((100 * share.contribution) / most)}%`);
    return make("li", {}, make("span", {}, nameOf(share.source)), make("small", {}, `place ${share.rank}`), bar);
  });
  if (!rows.length) return short(place);
  return [
    make("p", {}, `Score ${told.score.toFixed(4)}${told.rank ? `, number ${told.rank} before rules` : ""}`), make("ul", { class: "shares" }, ...rows),
    told.rules?.length ? make("p", {}, `Rules: ${told.rules.join(", ")}`) : null,
  ].filter(Boolean);
}
