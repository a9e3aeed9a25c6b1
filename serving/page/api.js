// What the service is asked. What is known of products and shelves is kept, so that going back asks nothing.

const FRESH_MS = 5 * 60_000, SHELVES = 200, IDS = 40;
const products = new Map(), shelves = new Map();
let facts = null, document_ = null;

export async function call(path, options = {}) {
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
    throw Object.assign(error, { status: response.status, isPassing: response.status === 503 });
  }
  return body;
}

export const post = (path, body, options = {}) =>
  call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), ...options });

// Version, facets and surfaces: once.
export async function service() {
  if (facts) return facts;
  const query = "namespace=category&namespace=brand&namespace=in_stock&number=price&number=stock";
  const [version, facets, surfaces] = await Promise.all([call("/v1/versions/current"), call(`/v1/facets?${query}`), call("/v1/surfaces")]);
  return (facts = { version, facets, surfaces });
}

// Products by id, in the order asked; those that are gone are left out.
export async function read(ids, signal) {
  const missing = [...new Set(ids.filter((id) => !products.has(id)))];
  const parts = Array.from({ length: Math.ceil(missing.length / IDS) }, (_, at) => missing.slice(at * IDS, (at + 1) * IDS));
  const answers = await Promise.all(parts.map((part) => call(`/v1/items?${new URLSearchParams(part.map((id) => ["id", id]))}`, { signal })));
  for (const { datapoints } of answers) keep(datapoints);
  return ids.map((id) => products.get(id)).filter(Boolean);
}

export function keep(datapoints) {
  for (const datapoint of datapoints) products.set(datapoint.datapointId, datapoint);
}

// A slate with its products. The same request is answered from memory while it is fresh.
export async function recommend(request, signal) {
  const key = JSON.stringify(request), held = shelves.get(key);
  if (held && performance.now() - held.at < FRESH_MS) return held.slate;
  const answer = await post("/v1/recommend", request, { signal });
  const known = new Map((await read(answer.items.map((place) => place.itemId), signal)).map((each) => [each.datapointId, each]));
  const slate = { ...answer, request, places: answer.items.map((place) => ({ ...place, datapoint: known.get(place.itemId) })).filter((place) => place.datapoint) };
  shelves.set(key, { at: performance.now(), slate });
  if (shelves.size > SHELVES) shelves.delete(shelves.keys().next().value);
  return slate;
}

// Slates of this visit are others after each act.
export function forget(session) {
  for (const [key, { slate }] of shelves) if (slate.request.sessionId === session) shelves.delete(key);
}

// Why an item has its place, where the service can tell; else null.
export async function explain(request, itemId) {
  document_ ??= await call("/openapi.json");
  if (!document_.paths["/v1/explain"]) return null;
  return post("/v1/explain", { request, itemId });
}
