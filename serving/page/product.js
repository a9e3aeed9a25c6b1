// A product's page: picture, facts, what goes with it, and what is like it.

import { read, service } from "/page/api.js";
import { urlOf } from "/page/address.js";
import { add } from "/page/basket.js";
import { ghost, kindOf, pictureOf, priceOf, titleOf } from "/page/card.js";
import { found } from "/page/catalog.js";
import { make } from "/page/element.js";
import { filterOf, note } from "/page/filter.js";
import { visitShelf } from "/page/home.js";
import { acts, tell } from "/page/session.js";
import { shelf } from "/page/shelf.js";

const OWN = new Set(["title", "description", "price", "currency", "pictures", "brand", "category", "category_path", "stock"]);
let clicked = { itemId: "", recommendationId: "" };

// The slate whose card was followed, for the event that speaks of it.
export const follow = (itemId, recommendationId) => { clicked = { itemId, recommendationId }; };

export async function product(s, signal) {
  const [[datapoint], { surfaces }] = await Promise.all([read([s.item], signal), service()]);
  if (!datapoint) throw new Error(`There is no product “${s.item}” in this catalogue.`);
  const recommendationId = clicked.itemId === s.item ? clicked.recommendationId : "";
  if (acts().at(-1) !== s.item) tell("view", [{ itemId: s.item }], recommendationId ? { recommendationId } : {});
  const filter = filterOf(s), category = datapoint.embeddingMetadata?.category;
  const others = category ? { ...filter, restricts: [...filter.restricts, { namespace: "category", denyList: [category] }] } : filter;
  const ask = (surface, wanted) => async () => ({ items: [s.item], surface, ...wanted });
  const shelves = [
    "bought-together" in surfaces.surfaces && shelf({ name: "bought-together", title: "Bought together", hint: "In one basket with this", request: ask("bought-together", filter), signal, here: s.item, isStrict: true }),
    "complements" in surfaces.surfaces && shelf({ name: "complements", title: "Goes with it", hint: "Of other categories", request: ask("complements", others), signal, here: s.item, isStrict: true }),
    await visitShelf(s, signal),
  ].filter(Boolean);
  const heading = make("h2", { id: "found" }, "Similar products");
  const like = make("section", { class: "all", "aria-labelledby": "found" }, make("div", { class: "asked" }, heading), make("ol", { class: "grid" }, ...Array.from({ length: 6 }, ghost)));
  const drawn = found(s, signal, { heading }).then((parts) => like.replaceChildren(...parts.filter(Boolean)));
  return {
    title: titleOf(datapoint), isWide: true, parts: [panel(s, datapoint), note(s), ...shelves.map((each) => each.box), like],
    settled: Promise.all([drawn, ...shelves.map((each) => each.filled)]),
  };
}

function panel(s, datapoint) {
  const meta = datapoint.embeddingMetadata ?? {}, title = titleOf(datapoint);
  const large = make("div", { class: "large" }, pictureOf(datapoint, { alt: title, loading: "eager" }));
  const added = make("button", { type: "button", id: "add", class: "main", onclick: () => add(datapoint) }, "Add to basket");
  const stock = typeof meta.stock === "number" ? make("p", { class: meta.stock > 0 ? "stock" : "stock out" }, meta.stock > 0 ? `${meta.stock} in stock` : "Not in stock") : null;
  const compare = make("a", { class: "quiet", href: urlOf({ ...BARE, view: "compare", item: s.item }), "data-go": true }, "Side by side");
  return make("article", { class: "product", "data-id": datapoint.datapointId },
    make("div", { class: "pictures" }, large, thumbs(datapoint, large, title)),
    make("div", { class: "facts-of" }, make("p", { class: "kind" }, kindOf(datapoint)), make("h1", { id: "results", tabindex: "-1" }, title),
      make("p", { class: "price" }, priceOf(datapoint) ?? ""), stock, meta.description ? make("p", { class: "description" }, String(meta.description)) : null,
      make("p", { class: "do" }, added, compare), facts(datapoint)));
}

const BARE = { text: "", item: "", view: "", picture: "", by: "", from: "", to: "", stock: "", a: "", b: "", k: 24, tokens: { category: [], brand: [] } };

function thumbs(datapoint, large, title) {
  const n = datapoint.embeddingMetadata?.pictures?.length ?? 0;
  if (n < 2) return null;
  const buttons = Array.from({ length: Math.min(n, 6) }, (_, at) => make("button", { type: "button", "aria-label": `Picture ${at + 1} of ${n}`, "aria-pressed": String(at === 0), onclick: () => {
    large.replaceChildren(pictureOf(datapoint, { at, alt: title, loading: "eager" }));
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === at)));
  } }, pictureOf(datapoint, { at })));
  return make("div", { class: "thumbs" }, ...buttons);
}

function facts(datapoint) {
  const meta = datapoint.embeddingMetadata ?? {};
  const told = [["category", meta.category_path ?? meta.category], ["brand", meta.brand], ...Object.entries(meta).filter(([name]) => !OWN.has(name))];
  const rows = told.map(([name, value]) => [name, [value].flat().filter((each) => ["string", "number"].includes(typeof each)).join(" › ")]).filter(([, words]) => words && words.length < 120);
  return make("dl", {}, ...[...rows, ["id", datapoint.datapointId]].flatMap(([name, words]) => [make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, words)]));
}
