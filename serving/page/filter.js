// What may be shown: category, brand, price, stock. The filters are in the address, and hold for searches and shelves alike.

import { FACETS, NO_FILTER, go, readState } from "/page/address.js";
import { $, make } from "/page/element.js";

const SHOWN = 12, IN_STOCK = ["yes", "true", "1", "in stock"];
const expanded = new Set();
let facets = null;

export const know = (told) => { facets = told; };

export const count = (s) => FACETS.reduce((sum, name) => sum + s.tokens[name].length, 0) + (s.from !== "" || s.to !== "" ? 1 : 0) + (s.stock ? 1 : 0);
export const clear = () => go(NO_FILTER);

const stockToken = () => facets.tokens.in_stock?.find(({ token }) => IN_STOCK.includes(token.toLowerCase()))?.token;

export function filterOf(s) {
  const restricts = FACETS.filter((name) => s.tokens[name].length).map((name) => ({ namespace: name, allowList: s.tokens[name] }));
  const field = facets.numbers.price?.field ?? "valueDouble";
  const numericRestricts = [["from", "GREATER_EQUAL"], ["to", "LESS_EQUAL"]]
    .filter(([end]) => s[end] !== "" && Number.isFinite(Number(s[end])))
    .map(([end, op]) => ({ namespace: "price", [field]: Number(s[end]), op }));
  if (s.stock && facets.numbers.stock) numericRestricts.push({ namespace: "stock", [facets.numbers.stock.field]: 0, op: "GREATER" });
  else if (s.stock && stockToken()) restricts.push({ namespace: "in_stock", allowList: [stockToken()] });
  return { restricts, numericRestricts };
}

// A line for pages without the panel: which filters hold there too.
export function note(s) {
  if (!count(s)) return null;
  const named = [...FACETS.flatMap((name) => s.tokens[name]), s.from !== "" ? `from ${s.from}` : "", s.to !== "" ? `up to ${s.to}` : "", s.stock ? "in stock" : ""];
  return make("p", { class: "under" }, make("span", {}, "Under your filters: ", make("b", {}, named.filter(Boolean).join(", "))),
    make("button", { type: "button", class: "link", onclick: clear }, "Clear"));
}

export function drawFilters(s) {
  const focused = document.activeElement?.dataset?.token;
  for (const name of FACETS.filter((name) => facets.tokens[name]?.length)) document.querySelector(`[data-facet="${name}"]`).replaceChildren(facet(s, name));
  if (focused) document.querySelector(`[data-token="${CSS.escape(focused)}"]`)?.focus();
  const price = facets.numbers.price;
  $("price").hidden = !price;
  if (price) {
    $("price-from").placeholder = String(Math.floor(price.least));
    $("price-to").placeholder = String(Math.ceil(price.greatest));
    $("price-hint").textContent = s.from !== "" || s.to !== "" ? "Products without a price are left out." : "";
    $("price-from").value = s.from;
    $("price-to").value = s.to;
  }
  $("stock").hidden = !(facets.numbers.stock || stockToken());
  $("in-stock").checked = Boolean(s.stock);
  const n = count(s);
  $("n-filters").hidden = $("clear").hidden = n === 0;
  $("n-filters").textContent = n;
}

function facet(s, name) {
  const all = facets.tokens[name], chosen = new Set(s.tokens[name]), isOpen = expanded.has(name);
  const shown = all.filter(({ token }, at) => isOpen || at < SHOWN || chosen.has(token));
  const boxes = shown.map(({ token, count: n }) => make("label", { class: "token", title: token },
    make("input", { type: "checkbox", "data-token": `${name}=${token}`, checked: chosen.has(token), onchange: (event) => toggle(name, token, event.target.checked) }),
    make("span", {}, token), make("b", {}, n.toLocaleString("en"))));
  const turn = () => { if (isOpen) expanded.delete(name); else expanded.add(name); drawFilters(readState()); };
  const rest = all.length > SHOWN
    ? make("button", { type: "button", class: "link", "aria-expanded": String(isOpen), onclick: turn }, isOpen ? "Show fewer" : `Show all ${all.length}`) : null;
  return make("section", { "aria-label": name }, make("h2", {}, name), ...boxes, rest);
}

function toggle(name, token, isOn) {
  const tokens = readState().tokens, kept = tokens[name].filter((other) => other !== token);
  go({ tokens: { ...tokens, [name]: isOn ? [...kept, token] : kept } });
}

export function listen() {
  $("clear").addEventListener("click", clear);
  $("in-stock").addEventListener("change", (event) => go({ stock: event.target.checked ? "1" : "" }));
  for (const end of ["from", "to"]) $(`price-${end}`).addEventListener("change", (event) => go({ [end]: event.target.value }));
  if (matchMedia("(max-width: 860px)").matches) $("filters").open = false;
}
