// The basket lies in the browser; the service is told what goes in and out, and what is bought.

import { read, service } from "/page/api.js";
import { go } from "/page/address.js";
import { kindOf, money, pictureOf, priceOf, titleOf } from "/page/card.js";
import { notice } from "/page/catalog.js";
import { $, make, say } from "/page/element.js";
import { filterOf } from "/page/filter.js";
import { visitShelf } from "/page/home.js";
import { tell, who } from "/page/session.js";
import { shelf } from "/page/shelf.js";
import { about } from "/page/address.js";

const KEY = "likewise.basket", MOST = 99;
let lines = load();

function load() {
  try {
    const held = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return held.filter((line) => typeof line?.id === "string" && line.n >= 1);
  } catch {
    return [];
  }
}

function keep(next) {
  lines = next;
  try { localStorage.setItem(KEY, JSON.stringify(lines)); } catch { /* no storage: until the page is loaded again */ }
  drawCount();
}

export const ids = () => lines.map((line) => line.id);

export function drawCount() {
  const n = lines.reduce((sum, line) => sum + line.n, 0);
  $("n-basket").textContent = n;
  $("n-basket").hidden = n === 0;
  $("basket").setAttribute("aria-label", n === 1 ? "Basket, 1 product" : `Basket, ${n} products`);
}

const priced = ({ datapointId: itemId, embeddingMetadata: meta }, quantity) => ({ itemId, quantity, ...(typeof meta?.price === "number" ? { value: meta.price * quantity } : {}) });

export function add(datapoint, n = 1) {
  const id = datapoint.datapointId, held = lines.find((line) => line.id === id);
  keep(held ? lines.map((line) => (line === held ? { id, n: Math.min(MOST, line.n + n) } : line)) : [...lines, { id, n }]);
  say(`${titleOf(datapoint)} is in the basket.`);
  tell("add_to_cart", [priced(datapoint, n)]);
  toast(make("span", {}, "In the basket: ", make("b", {}, titleOf(datapoint))), make("a", { href: about({ view: "basket" }), "data-go": true }, "See the basket"));
}

let hiding = 0;

function toast(...parts) {
  $("toast").replaceChildren(...parts);
  $("toast").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { $("toast").hidden = true; }, 5000);
}

export async function basket(s, signal) {
  $("toast").hidden = true;
  const heading = make("h1", { id: "results", tabindex: "-1" }, "Basket");
  const [held, { surfaces }] = await Promise.all([read(ids(), signal), service()]);
  const known = new Set(held.map((each) => each.datapointId));
  if (lines.some((line) => !known.has(line.id))) keep(lines.filter((line) => known.has(line.id))); // the catalogue has them no more
  const request = async () => ({ ...who(), basket: ids(), surface: "basket" in surfaces.surfaces ? "basket" : "", ...filterOf(s) });
  const shelves = [held.length ? shelf({ name: "basket", title: "Goes with your basket", hint: "Chosen for all that is in it", request, signal, follows: true }) : null, await visitShelf(s, signal)].filter(Boolean);
  const body = held.length ? bill(held) : notice("Nothing in it yet", "Open a product and put it in.", { label: "Look around", run: () => go({ view: "" }) });
  return { title: "Basket", isWide: true, parts: [make("div", { class: "asked" }, heading), body, ...shelves.map((each) => each.box)], settled: Promise.all(shelves.map((each) => each.filled)) };
}

function bill(held) {
  const rows = held.map((datapoint) => row(datapoint, lines.find((line) => line.id === datapoint.datapointId).n));
  const priceless = held.filter((each) => typeof each.embeddingMetadata?.price !== "number").length;
  const sums = new Map();
  for (const each of held) {
    const { price, currency = "" } = each.embeddingMetadata ?? {}, { n } = lines.find((line) => line.id === each.datapointId);
    if (typeof price === "number") sums.set(currency, (sums.get(currency) ?? 0) + price * n);
  }
  const total = [...sums].map(([currency, sum]) => money(sum, currency)).join(" + ") || "–";
  return make("div", { class: "bill" }, make("ul", { class: "lines", "aria-label": "In the basket" }, ...rows),
    make("aside", { class: "sum", "aria-label": "Sum" }, make("p", { class: "total" }, make("span", {}, "Total"), make("b", {}, total)),
      priceless ? make("p", { class: "hint" }, `${priceless} without a price`) : null,
      make("button", { type: "button", id: "buy", class: "main", onclick: () => buy(held) }, "Buy"),
      make("p", { class: "hint" }, "Nothing is ordered: the service is told of a purchase, as a shop would tell it.")));
}

function row(datapoint, n) {
  const id = datapoint.datapointId, title = titleOf(datapoint);
  const to = (next) => {
    keep(next < 1 ? lines.filter((line) => line.id !== id) : lines.map((line) => (line.id === id ? { id, n: next } : line)));
    if (next < 1) tell("remove", [{ itemId: id, quantity: n }]);
    else if (next > n) tell("add_to_cart", [priced(datapoint, next - n)]);
    say(next < 1 ? `${title} is out of the basket.` : `${next} of ${title}.`);
    go({});
  };
  return make("li", { class: "line", "data-id": id },
    make("a", { class: "tile", href: about({ item: id }), "data-go": true, tabindex: "-1", "aria-hidden": "true", "aria-label": title }, pictureOf(datapoint)),
    make("div", {}, make("a", { class: "title", href: about({ item: id }), "data-go": true }, title), make("p", { class: "hint" }, kindOf(datapoint)),
      make("button", { type: "button", class: "link", "aria-label": `Remove ${title}`, onclick: () => to(0) }, "Remove")),
    make("div", { class: "step", role: "group", "aria-label": `How many of ${title}` },
      make("button", { type: "button", "aria-label": "One fewer", onclick: () => to(n - 1) }, "−"), make("output", {}, String(n)),
      make("button", { type: "button", "aria-label": "One more", disabled: n >= MOST, onclick: () => to(n + 1) }, "+")),
    make("b", { class: "cost" }, priceOf(datapoint) ? money(datapoint.embeddingMetadata.price * n, datapoint.embeddingMetadata.currency) : ""));
}

async function buy(held) {
  await tell("purchase", held.map((each) => priced(each, lines.find((line) => line.id === each.datapointId).n)));
  keep([]);
  say("Bought. The basket is empty.");
  go({ view: "" });
}
