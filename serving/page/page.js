// The page: its state is its URL, its pictures of unknown things are kept by history entry.

const $ = (id) => document.getElementById(id);
const PAGE = 24, MOST = 240;
const FACETS = ["category", "brand"];
const SHOWN = 12;
const names = { text: "Words", image: "Looks", fused: "Both", joint: "Meaning" };

const uploads = new Map(); // key in the URL -> {file, url}
let version = null, facets = null, running = null, expanded = new Set();

// ---- state <-> URL -------------------------------------------------------------------------------------------------

function readState() {
  const p = new URLSearchParams(location.search);
  const tokens = Object.fromEntries(FACETS.map((name) => [name, p.getAll(name)]));
  return {
    text: p.get("q") ?? "", like: p.get("like") ?? "", picture: p.get("picture") ?? "", by: p.get("by") ?? "",
    from: p.get("from") ?? "", to: p.get("to") ?? "", k: Math.min(MOST, Math.max(1, Number(p.get("k")) || PAGE)), tokens,
  };
}

function urlOf(s) {
  const p = new URLSearchParams();
  if (s.text) p.set("q", s.text);
  if (s.like) p.set("like", s.like);
  if (s.picture) p.set("picture", s.picture);
  if (s.by) p.set("by", s.by);
  for (const name of FACETS) for (const token of s.tokens[name]) p.append(name, token);
  if (s.from !== "") p.set("from", s.from);
  if (s.to !== "") p.set("to", s.to);
  if (s.k !== PAGE) p.set("k", s.k);
  const query = p.toString();
  return query ? `/?${query}` : "/";
}

function go(changes, { replace = false } = {}) {
  const next = urlOf({ ...readState(), k: PAGE, ...changes });
  if (next === location.pathname + location.search) return show();
  history[replace ? "replaceState" : "pushState"](null, "", next);
  return show();
}

const ask = (subject) => go({ text: "", like: "", picture: "", by: "", ...subject });

// ---- talking to the service ----------------------------------------------------------------------------------------

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service cannot be reached. Is it still running?");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    const error = new Error(body?.error?.message ?? `The service answered ${response.status}.`);
    throw Object.assign(error, { isPassing: response.status === 503 });
  }
  return body;
}

function filterOf(s) {
  const restricts = FACETS.filter((name) => s.tokens[name].length).map((name) => ({ namespace: name, allowList: s.tokens[name] }));
  const field = facets?.numbers.price?.field ?? "valueDouble";
  const numericRestricts = [["from", "GREATER_EQUAL"], ["to", "LESS_EQUAL"]]
    .filter(([end]) => s[end] !== "" && Number.isFinite(Number(s[end])))
    .map(([end, op]) => ({ namespace: "price", [field]: Number(s[end]), op }));
  return { restricts, numericRestricts };
}

async function fetchAnswer(s, signal) {
  const filter = filterOf(s);
  const p = new URLSearchParams({ k: s.k, filter: JSON.stringify(filter) });
  if (s.by) p.set("space", s.by);
  if (s.text) {
    const body = { text: s.text, k: s.k, ...filter, ...(s.by ? { space: s.by } : {}) };
    return call("/v1/search", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
  }
  if (s.like) return call(`/v1/items/${encodeURIComponent(s.like)}/similar?${p}`, { signal });
  if (s.picture) {
    const upload = uploads.get(s.picture);
    if (!upload) throw new Error("The picture was not kept when the page was loaded again. Drop it once more.");
    return call(`/v1/search/image?${p}`, { method: "POST", headers: { "content-type": upload.file.type || "image/jpeg" }, body: upload.file, signal });
  }
  p.delete("space");
  const window = await call(`/v1/items?${p}`, { signal });
  return { ...window, neighbors: window.datapoints.map((datapoint) => ({ datapoint, distance: null })) };
}

async function fetchSubject(s, signal) {
  if (!s.like) return null;
  const body = await call("/v1/readIndexDatapoints", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ ids: [s.like] }), signal,
  });
  return body.datapoints[0];
}

// ---- drawing -------------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const titleOf = (datapoint) => String(datapoint.embeddingMetadata?.title || datapoint.datapointId);

function hueOf(text) {
  let hash = 7;
  for (const char of text) hash = (hash * 31 + char.codePointAt(0)) % 360;
  return hash;
}

function blank(datapoint) {
  const about = datapoint.embeddingMetadata ?? {};
  const title = titleOf(datapoint), kind = String(about.category ?? about.brand ?? "");
  const tile = make("span", { class: "blank", "aria-hidden": "true" },
    make("i", {}, (title.match(/[\p{L}\p{N}]/u)?.[0] ?? "·").toUpperCase()), make("small", {}, kind || "no picture"));
  tile.style.setProperty("--hue", hueOf(kind || title));
  return tile;
}

function pictureOf(datapoint) {
  const path = datapoint.embeddingMetadata?.pictures?.[0];
  if (!path) return blank(datapoint);
  const image = make("img", { src: "/images/" + path.split("/").map(encodeURIComponent).join("/"), alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(blank(datapoint)), { once: true });
  return image;
}

function priceOf(about) {
  if (typeof about.price !== "number") return null;
  try {
    return about.price.toLocaleString("en", about.currency ? { style: "currency", currency: about.currency } : { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  } catch {
    return `${about.price.toFixed(2)} ${about.currency}`;
  }
}

function card({ datapoint, distance }, at, reach) {
  const about = datapoint.embeddingMetadata ?? {};
  const told = titleOf(datapoint).toLowerCase();
  const price = priceOf(about), kind = [about.brand, about.category].filter((part) => part && part.toLowerCase() !== told).join(" · ");
  const tile = make("span", { class: "tile" }, pictureOf(datapoint));
  let near = null;
  if (distance !== null) {
    tile.append(make("span", { class: "rank", "aria-hidden": "true" }, String(at + 1)));
    near = make("span", { class: "near", title: "Distance: smaller is nearer" }, make("i", { "aria-hidden": "true" }),
      make("span", { class: "distance" }, make("span", { class: "unseen" }, "distance "), distance.toFixed(3)));
    near.style.setProperty("--near", `${Math.round(100 * reach(distance))}%`);
  }
  const state = { ...readState(), text: "", picture: "", by: "", like: datapoint.datapointId, k: PAGE };
  return make("li", {},
    make("a", { class: "card", href: urlOf(state), "data-id": datapoint.datapointId },
      tile, make("span", { class: "title" }, titleOf(datapoint)),
      make("span", { class: "meta" }, make("span", {}, kind), price ? make("b", {}, price) : null), near));
}

function fact(label, value) {
  return make("span", {}, `${label} `, make("b", {}, value));
}

function drawHead(s, subject) {
  const box = $("subject"), upload = uploads.get(s.picture);
  box.replaceChildren();
  box.style.position = "relative";
  let title = "The catalogue";
  if (s.text) title = `“${s.text}”`;
  if (subject) { title = `Like ${titleOf(subject)}`; box.append(pictureOf(subject)); }
  if (s.picture) { title = "Like your picture"; if (upload) box.append(make("img", { src: upload.url, alt: "Your picture" })); }
  $("results").textContent = title;
  document.title = s.text || s.like || s.picture ? `${title} · Likewise` : "Likewise";
  $("text").value = s.text;
}

function drawFacts(s, answer) {
  const n = answer.neighbors.length, of = answer.nMatching.toLocaleString("en");
  if (!answer.plan) return $("facts").replaceChildren(make("span", {}, make("b", {}, of), answer.nMatching === 1 ? " product" : " products"));
  const plan = answer.plan + (answer.effort ? ` ${answer.effort}` : "");
  $("facts").replaceChildren(
    make("span", {}, make("b", {}, n ? String(n) : "None"), n ? ` nearest of ${of}` : " of the products"), fact("compared by", names[answer.space]?.toLowerCase() ?? answer.space),
    fact("plan", plan), fact("in", `${answer.tookMs.toFixed(1)} ms`));
}

function drawBy(s, answer) {
  const reads = { text: ["text", "fused", "joint"], like: version.spaces.map((space) => space.name), picture: ["image", "fused", "joint"] };
  const asked = s.text ? "text" : s.like ? "like" : s.picture ? "picture" : null;
  const choices = version.spaces.filter((space) => asked && reads[asked].includes(asked === "like" ? space.name : space.modality));
  $("by").hidden = choices.length < 2;
  $("by").replaceChildren($("by").firstElementChild, ...choices.map((space) =>
    make("label", {}, make("input", { type: "radio", name: "by", value: space.name, checked: space.name === (answer?.space ?? s.by), onchange: () => go({ by: space.name }) }),
      make("span", {}, names[space.name] ?? space.name))));
}

function drawFacets(s) {
  const focused = document.activeElement?.dataset?.token;
  for (const name of FACETS.filter((name) => facets.tokens[name]?.length)) {
    const all = facets.tokens[name], chosen = new Set(s.tokens[name]);
    const open = expanded.has(name);
    const shown = all.filter(({ token }, at) => open || at < SHOWN || chosen.has(token));
    const boxes = shown.map(({ token, count }) => make("label", { class: "token", title: token },
      make("input", { type: "checkbox", "data-token": `${name}=${token}`, checked: chosen.has(token), onchange: (event) => toggle(name, token, event.target.checked) }),
      make("span", {}, token), make("b", {}, count.toLocaleString("en"))));
    const rest = all.length > SHOWN
      ? make("button", { type: "button", class: "link", "aria-expanded": String(open), onclick: () => { open ? expanded.delete(name) : expanded.add(name); drawFacets(readState()); } },
        open ? "Show fewer" : `Show all ${all.length}`) : null;
    document.querySelector(`[data-facet="${name}"]`).replaceChildren(make("section", { "aria-label": name }, make("h2", {}, name), ...boxes, rest));
  }
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
  const n = FACETS.reduce((sum, name) => sum + s.tokens[name].length, 0) + (s.from !== "" || s.to !== "" ? 1 : 0);
  $("n-filters").hidden = $("clear").hidden = n === 0;
  $("n-filters").textContent = n;
}

function toggle(name, token, isOn) {
  const tokens = readState().tokens;
  const kept = tokens[name].filter((other) => other !== token);
  go({ tokens: { ...tokens, [name]: isOn ? [...kept, token] : kept } });
}

function drawNotice(title, words, action) {
  const notice = $("notice");
  notice.hidden = !title;
  notice.className = action?.isError ? "notice error" : "notice";
  if (!title) return notice.replaceChildren();
  notice.replaceChildren(make("strong", {}, title), make("p", {}, words),
    action ? make("button", { type: "button", class: "quiet", onclick: action.run }, action.label) : null);
}

function drawGhosts() {
  $("grid").replaceChildren(...Array.from({ length: 12 }, () => make("li", { class: "ghost", "aria-hidden": "true" },
    make("span", { class: "card" }, make("span", { class: "tile" }), make("span", { class: "title" })))));
}

// ---- one turn ------------------------------------------------------------------------------------------------------

async function show() {
  running?.abort();
  const turn = (running = new AbortController());
  const s = readState();
  $("grid").classList.add("busy");
  document.body.setAttribute("aria-busy", "true");
  if (!$("grid").children.length) drawGhosts();
  try {
    if (!version) await load();
    drawFacets(s);
    const [answer, subject] = await Promise.all([fetchAnswer(s, turn.signal), fetchSubject(s, turn.signal)]);
    if (turn.signal.aborted) return;
    drawHead(s, subject);
    drawFacts(s, answer);
    drawBy(s, answer);
    const distances = answer.neighbors.map((neighbor) => neighbor.distance);
    const least = Math.min(...distances), most = Math.max(...distances);
    const reach = (distance) => (most > least ? 1 - (0.85 * (distance - least)) / (most - least) : 1); // the nearest fills its bar
    $("grid").replaceChildren(...answer.neighbors.map((neighbor, at) => card(neighbor, at, reach)));
    $("more").hidden = answer.neighbors.length < s.k || s.k >= MOST || answer.neighbors.length >= answer.nMatching;
    if (answer.neighbors.length) drawNotice();
    else drawNotice("Nothing passes these filters", "Take one away, or widen the price range.", { label: "Clear all filters", run: clearFilters });
    document.body.dataset.state = "shown";
  } catch (error) {
    if (error.name === "AbortError" || turn.signal.aborted) return;
    $("grid").replaceChildren();
    $("facts").replaceChildren();
    $("more").hidden = true;
    drawHead(s, null);
    if (error.isPassing) {
      drawNotice("One moment", "The service is getting ready; this page asks again by itself.");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (!turn.signal.aborted) return show();
      return;
    }
    drawNotice("That did not work", error.message.replace(/^\[[^\]]*\] /, ""), { label: "Try again", run: () => show(), isError: true });
    document.body.dataset.state = "failed";
  } finally {
    if (running === turn) {
      $("grid").classList.remove("busy");
      document.body.removeAttribute("aria-busy");
    }
  }
}

async function load() {
  const query = new URLSearchParams([...FACETS.map((name) => ["namespace", name]), ["number", "price"]]);
  [version, facets] = await Promise.all([call("/v1/versions/current"), call(`/v1/facets?${query}`)]);
  const can = (modality) => version.spaces.some((space) => space.modality === modality || space.modality === "fused");
  if (!can("text")) { $("text").disabled = true; $("text").placeholder = "This catalogue has no words to search"; }
  if (!can("image")) document.querySelector(".camera").hidden = $("file").disabled = true;
  $("foot").textContent = `${version.nDatapoints.toLocaleString("en")} products · index version ${version.versionId}`;
}

function clearFilters() {
  go({ tokens: Object.fromEntries(FACETS.map((name) => [name, []])), from: "", to: "" });
}

function askPicture(file) {
  if (!file) return;
  if (!/^image\/(jpeg|png|webp)$/.test(file.type)) {
    return drawNotice("That is not a picture we can read", `“${file.name}” should be a JPEG, PNG or WebP file.`);
  }
  const key = crypto.randomUUID?.().slice(0, 8) ?? String(Date.now());
  uploads.set(key, { file, url: URL.createObjectURL(file) });
  ask({ picture: key });
}

// ---- events --------------------------------------------------------------------------------------------------------

$("ask").addEventListener("submit", (event) => { event.preventDefault(); ask({ text: $("text").value.trim() }); });
$("text").addEventListener("search", () => { if (!$("text").value && readState().text) ask({}); });
$("file").addEventListener("change", () => { askPicture($("file").files[0]); $("file").value = ""; });
$("clear").addEventListener("click", clearFilters);
$("more").addEventListener("click", () => go({ k: Math.min(MOST, readState().k + PAGE) }, { replace: true }));
for (const end of ["from", "to"]) $(`price-${end}`).addEventListener("change", (event) => go({ [end]: event.target.value }));
addEventListener("popstate", () => show());
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.card, a[data-home]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  if (link.dataset.id) ask({ like: link.dataset.id });
  else { history.pushState(null, "", "/"); show(); }
  scrollTo({ top: 0 });
  $("results").focus({ preventScroll: true });
});

let depth = 0;
const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => { if (holdsFile(event)) { depth += 1; $("drop").hidden = false; } });
addEventListener("dragleave", (event) => { if (holdsFile(event) && --depth <= 0) { depth = 0; $("drop").hidden = true; } });
addEventListener("dragover", (event) => { if (holdsFile(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!holdsFile(event)) return;
  event.preventDefault();
  depth = 0;
  $("drop").hidden = true;
  askPicture(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => askPicture([...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"))));

if (matchMedia("(max-width: 860px)").matches) $("filters").open = false;
show();
