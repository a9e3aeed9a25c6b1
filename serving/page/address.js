// The state of the page is its address.

export const PAGE = 24, MOST = 240;
export const FACETS = ["category", "brand"];
export const NO_FILTER = { tokens: Object.fromEntries(FACETS.map((name) => [name, []])), from: "", to: "", stock: "" };
const WORDS = { text: "q", item: "item", view: "view", picture: "picture", by: "by", from: "from", to: "to", stock: "stock", a: "a", b: "b" };

export function readState() {
  const p = new URLSearchParams(location.search);
  const tokens = Object.fromEntries(FACETS.map((name) => [name, p.getAll(name)]));
  const words = Object.fromEntries(Object.entries(WORDS).map(([name, key]) => [name, p.get(key) ?? ""]));
  return { ...words, k: Math.min(MOST, Math.max(1, Number(p.get("k")) || PAGE)), tokens };
}

export function urlOf(s) {
  const p = new URLSearchParams();
  for (const [name, key] of Object.entries(WORDS)) if (s[name]) p.set(key, s[name]);
  for (const name of FACETS) for (const token of s.tokens[name]) p.append(name, token);
  if (s.k !== PAGE) p.set("k", s.k);
  const query = p.toString();
  return query ? `/?${query}` : "/";
}

// Another subject under the same filters.
export const about = (subject) => urlOf({ ...readState(), ...SUBJECT, ...subject });
const SUBJECT = { text: "", item: "", view: "", picture: "", by: "", a: "", b: "", k: PAGE };

let show = () => {};

export function onChange(handler) {
  show = handler;
  addEventListener("popstate", () => show());
}

export function go(changes, { replace = false } = {}) {
  return visit(urlOf({ ...readState(), k: PAGE, ...changes }), { replace });
}

export function visit(url, { replace = false } = {}) {
  if (url !== location.pathname + location.search) history[replace ? "replaceState" : "pushState"](null, "", url);
  return show();
}
