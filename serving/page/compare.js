// Two surfaces side by side, for the same visit: what a merchandiser looks at before one of them goes live.

import { read, recommend, service } from "/page/api.js";
import { about, go } from "/page/address.js";
import { ids } from "/page/basket.js";
import { kindOf, pictureOf, priceOf, titleOf } from "/page/card.js";
import { $, make } from "/page/element.js";
import { nameOf, reasons, why } from "/page/explanation.js";
import { filterOf, note } from "/page/filter.js";
import { acts, told, who } from "/page/session.js";

const PLACES = 10, ALL = "*"; // `*` in the address: the weights for all

export async function compare(s, signal) {
  const { surfaces } = await service();
  const weights = new Map([[ALL, surfaces.sources], ...Object.entries(surfaces.surfaces)]);
  const names = [...weights.keys()];
  const a = weights.has(s.a) ? s.a : names.includes("session") ? "session" : names[0];
  const b = weights.has(s.b) ? s.b : (a === ALL ? names[1] : ALL);
  const [datapoint] = s.item ? await read([s.item], signal) : [];
  const columns = [column("a", a, weights), column("b", b, weights)];
  const shared = make("p", { class: "shared", role: "status" }, " ");
  const parts = [
    make("div", { class: "asked" }, datapoint ? make("div", { class: "subject" }, pictureOf(datapoint)) : null,
      make("div", { class: "said" }, make("h1", { id: "results", tabindex: "-1" }, "Side by side"), make("p", { class: "facts" }, context(datapoint)))),
    note(s), shared, make("div", { class: "sides" }, ...columns.map((each) => each.box)),
  ];
  const drawn = draw();
  return { title: "Side by side", isWide: true, parts, settled: drawn };

  async function draw() {
    await told();
    const request = { ...who(s.item ? [s.item] : []), basket: ids(), k: PLACES, ...filterOf(s) };
    const slates = await Promise.all([a, b].map((name) => recommend({ ...request, surface: name === ALL ? "" : name }, signal)));
    const orders = slates.map((slate) => slate.places.map((place) => place.itemId));
    await Promise.all(slates.map(async (slate, at) => {
      const words = await reasons(slate.places, signal);
      columns[at].list.replaceChildren(...slate.places.map((place, rank) => line(place, rank, words[rank], orders[1 - at].indexOf(place.itemId), "BA"[at], slate.request)));
    }));
    const both = orders[0].filter((id) => orders[1].includes(id)).length, same = orders[0].filter((id, at) => orders[1][at] === id).length;
    const most = Math.max(orders[0].length, orders[1].length);
    shared.replaceChildren(make("b", {}, `${both} of ${most}`), " products in both, ", make("b", {}, String(same)), " of them at the same place");
    const meter = make("span", { class: "meter", "aria-hidden": "true" });
    meter.style.setProperty("--near", `${Math.round((100 * both) / Math.max(most, 1))}%`);
    shared.append(meter);
  }
}

function context(datapoint) {
  const told = [datapoint ? `On the page of ${titleOf(datapoint)}` : "On the home page", `${acts().length} looked at in this visit`, `${ids().length} in the basket`];
  return make("span", {}, told.join(" · "));
}

const titleOfSurface = (name) => (name === ALL ? "all sources" : name);

function column(side, chosen, weights) {
  const choice = make("select", { id: `side-${side}`, onchange: (event) => go({ [side]: event.target.value }, { replace: true }) },
    ...[...weights.keys()].map((name) => make("option", { value: name, selected: name === chosen }, titleOfSurface(name))));
  const told = Object.entries(weights.get(chosen)).map(([source, weight]) => make("li", {}, nameOf(source), make("b", {}, weight ? String(weight) : "fills up")));
  const list = make("ol", { class: "ranked", "aria-label": `${side.toUpperCase()}: ${titleOfSurface(chosen)}` }, ...Array.from({ length: PLACES }, () => make("li", { class: "ghost" }, make("span", { class: "tile" }), make("span", { class: "title" }))));
  const box = make("section", { class: "side", "data-side": side, "aria-labelledby": `label-${side}` },
    make("div", { class: "side-head" }, make("h2", { id: `label-${side}` }, side.toUpperCase()), make("label", { class: "unseen", for: `side-${side}` }, `Surface ${side.toUpperCase()}`), choice),
    make("ul", { class: "weights", "aria-label": "Weights" }, ...told), list);
  return { box, list };
}

function line(place, rank, words, elsewhere, other, request) {
  const move = elsewhere - rank;
  const mark = elsewhere < 0 ? make("span", { class: "badge fresh" }, "only here")
    : make("span", { class: "badge" }, move === 0 ? `same in ${other}` : `${other}: ${elsewhere + 1}`);
  return make("li", { "data-id": place.itemId, class: elsewhere < 0 ? "only" : move ? "shifted" : null },
    make("a", { class: "card", href: about({ item: place.itemId }), "data-id": place.itemId, "data-slate": null },
      make("span", { class: "number", "aria-hidden": "true" }, String(rank + 1)), make("span", { class: "tile" }, pictureOf(place.datapoint)),
      make("span", { class: "words" }, make("span", { class: "title" }, titleOf(place.datapoint)), make("span", { class: "meta" }, make("span", {}, kindOf(place.datapoint)), priceOf(place.datapoint) ? make("b", {}, priceOf(place.datapoint)) : null))),
    mark, why(place, words, request));
}

export async function offer() {
  const { surfaces } = await service();
  $("compare").hidden = !Object.keys(surfaces.surfaces).length;
}
