// A product as a card: picture, title, what it is, price.

import { make } from "/page/element.js";
import { about } from "/page/address.js";

export const titleOf = (datapoint) => String(datapoint.embeddingMetadata?.title || datapoint.datapointId);

function hueOf(text) {
  let hash = 7;
  for (const char of text) hash = (hash * 31 + char.codePointAt(0)) % 360;
  return hash;
}

function blank(datapoint) {
  const meta = datapoint.embeddingMetadata ?? {};
  const title = titleOf(datapoint), kind = String(meta.category ?? meta.brand ?? "");
  const tile = make("span", { class: "blank", "aria-hidden": "true" },
    make("i", {}, (title.match(/[\p{L}\p{N}]/u)?.[0] ?? "·").toUpperCase()), make("small", {}, kind || "no picture"));
  tile.style.setProperty("--hue", hueOf(kind || title));
  return tile;
}

export function pictureOf(datapoint, { at = 0, alt = "", loading = "lazy" } = {}) {
  const path = datapoint.embeddingMetadata?.pictures?.[at];
  if (!path) return blank(datapoint);
  const image = make("img", { src: "/images/" + path.split("/").map(encodeURIComponent).join("/"), alt, loading, decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(blank(datapoint)), { once: true });
  return image;
}

export function money(value, currency) {
  const style = currency ? { style: "currency", currency } : { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  try {
    return value.toLocaleString("en", style);
  } catch {
    return `${value.toFixed(2)} ${currency}`;
  }
}

export const priceOf = ({ embeddingMetadata: meta }) => (typeof meta?.price === "number" ? money(meta.price, meta.currency) : null);

export function kindOf(datapoint) {
  const meta = datapoint.embeddingMetadata ?? {}, told = titleOf(datapoint).toLowerCase();
  return [meta.brand, meta.category].filter((part) => part && part.toLowerCase() !== told).join(" · ");
}

// Args: what lies over the picture, what comes below the card, and the slate that showed it.
export function card(datapoint, { over = null, inside = null, below = null, recommendationId = "" } = {}) {
  const price = priceOf(datapoint);
  const link = make("a", { class: "card", href: about({ item: datapoint.datapointId }), "data-id": datapoint.datapointId, "data-slate": recommendationId || null },
    make("span", { class: "tile" }, pictureOf(datapoint), over), make("span", { class: "title" }, titleOf(datapoint)),
    make("span", { class: "meta" }, make("span", {}, kindOf(datapoint)), price ? make("b", {}, price) : null), inside);
  return make("li", {}, link, below);
}

export const ghost = () => make("li", { class: "ghost", "aria-hidden": "true" },
  make("span", { class: "card" }, make("span", { class: "tile" }), make("span", { class: "title" }), make("span", { class: "meta" })));
