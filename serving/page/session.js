// A visit: what was looked at and put in the basket. The service is told where it takes events; else the page remembers alone.

import { forget, post, service } from "/page/api.js";

const REMEMBERED = 20;
const KEYS = { id: "likewise.visit", seen: "likewise.seen", before: "likewise.before" };
let isTold = true, telling = Promise.resolve();

const stored = (key, otherwise) => { try { return JSON.parse(sessionStorage.getItem(key)) ?? otherwise; } catch { return otherwise; } };
const store = (key, value) => { try { sessionStorage.setItem(key, JSON.stringify(value)); } catch { /* no storage: until the page is loaded again */ } };

const newId = () => crypto.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
let id = stored(KEYS.id, ""), seen = stored(KEYS.seen, []), before = stored(KEYS.before, {});
if (!id) store(KEYS.id, (id = newId()));

export const visitId = () => id;
export const acts = () => seen;

// What says who asks: the visit, and where the service does not keep it, what was looked at.
export function who(context = []) {
  return isTold ? { sessionId: id, items: context } : { items: [...seen.filter((each) => !context.includes(each)), ...context].slice(-REMEMBERED) };
}

export async function begin() {
  isTold = (await service()).surfaces.takesEvents;
}

// Tell of an act; slates that are asked after it know of it.
export function tell(eventType, items, about = {}) {
  const ids = items.map((item) => item.itemId);
  if (ids.length && eventType !== "remove") store(KEYS.seen, (seen = [...seen.filter((each) => !ids.includes(each)), ...ids].slice(-REMEMBERED)));
  forget(id);
  if (!isTold) return Promise.resolve();
  const event = { eventId: newId(), eventType, sessionId: id, items, ...about };
  telling = telling.then(() => post("/v1/events", { events: [event] })).catch((error) => {
    if ([400, 401, 403].includes(error.status)) isTold = false; // no log, or a key that may only read
  });
  return telling;
}

export const told = () => telling;

// Which places of a shelf changed since it was last seen in this visit: place of each item before, or null the first time.
export function compared(shelf, ids) {
  const earlier = before[shelf] ?? null;
  before = { ...before, [shelf]: { ids, was: sameAs(earlier?.ids, ids) ? earlier.was : (earlier?.ids ?? null) } };
  store(KEYS.before, before);
  const was = before[shelf].was;
  return was && ids.map((item, at) => { const place = was.indexOf(item); return place < 0 ? "new" : place - at; });
}

const sameAs = (one, other) => one?.length === other.length && one.every((item, at) => item === other[at]);

export function forgetVisit() {
  forget(id);
  [id, seen, before] = [newId(), [], {}];
  store(KEYS.id, id); store(KEYS.seen, seen); store(KEYS.before, before);
}
