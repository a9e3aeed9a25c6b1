// Likewise for browsers and Node: what to show, searches, and what people did. One module, nothing else needed.

const AGAIN = new Set([408, 425, 429, 502, 503]);
const MOST_QUEUED = 1000;

/** What the service said, or that nobody answered (status 0). */
export class LikewiseError extends Error {
  constructor(message, status, code = "") {
    super(message);
    this.name = "LikewiseError";
    this.status = status;
    this.code = code;
  }
}

/** Asks one service. */
export class Likewise {
  #url;
  #headers;
  #timeoutMs;
  #attempts;
  #pauseMs;
  #batch;
  #flushMs;
  #onEvents;
  #queue = [];
  #timer = null;
  #sending = Promise.resolve();
  #leaving = () => {
    if (globalThis.document === undefined || document.visibilityState === "hidden") this.#beacon();
  };

  constructor(url, options = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#headers = {};
    if (options.key) this.#headers.authorization = `Bearer ${options.key}`;
    if (options.unitId) this.#headers["x-likewise-unit"] = options.unitId;
    if (options.endpoint) this.#headers["x-likewise-endpoint"] = options.endpoint;
    this.#timeoutMs = options.timeoutMs ?? 10000;
    this.#attempts = options.attempts ?? 4;
    this.#pauseMs = options.pauseMs ?? 100;
    this.#batch = options.batch ?? 50;
    this.#flushMs = options.flushMs ?? 2000;
    this.#onEvents = options.onEvents ?? (() => {});
    globalThis.document?.addEventListener?.("visibilitychange", this.#leaving);
    globalThis.window?.addEventListener?.("pagehide", this.#leaving);
  }

  /** A slate for a page: min(k, matches) items, with reasons. */
  recommend(asked = {}) {
    return this.#ask("POST", "/v1/recommend", asked);
  }

  /** Neighbours of a text. */
  search(text, asked = {}) {
    return this.#ask("POST", "/v1/search", { text, ...asked });
  }

  /** Neighbours of an item. */
  similar(itemId, k = 10) {
    return this.#ask("GET", `/v1/items/${encodeURIComponent(itemId)}/similar?k=${k}`);
  }

  /** Neighbours of items by id, or of vectors: one result a query, in their order. */
  async findNeighbors(queries, k = 10, asked = {}) {
    const body = queries.map((query) => ({
      ...asked,
      neighborCount: k,
      datapoint: {
        ...asked.datapoint,
        ...(typeof query === "string" ? { datapointId: query } : { featureVector: [...query] }),
      },
    }));
    return (await this.#ask("POST", "/v1/findNeighbors", { queries: body })).nearestNeighbors;
  }

  /**
   * Tell what somebody did. It leaves with others in a moment, in a beacon where the page is left; `onEvents` learns what became of
   * those that were answered. Returns the event's id.
   */
  tell(eventType, event = {}) {
    const told = { eventId: newId(), atMs: Date.now(), ...event, eventType };
    told.items = (event.items ?? []).map((item) => (typeof item === "string" ? { itemId: item } : item));
    if (this.#queue.length >= MOST_QUEUED) this.#queue.shift();
    this.#queue.push(told);
    if (this.#queue.length >= this.#batch) void this.flush().catch(() => {});
    else this.#timer ??= setTimeout(() => void this.flush().catch(() => {}), this.#flushMs);
    return told.eventId;
  }

  /** Send what waits; resolves when it is answered. What could not be sent waits on, and is known by its ids. */
  flush() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#sending = this.#sending.catch(() => {}).then(() => this.#send());
    return this.#sending;
  }

  /** Send what waits and listen to the page no more. */
  async close() {
    globalThis.document?.removeEventListener?.("visibilitychange", this.#leaving);
    globalThis.window?.removeEventListener?.("pagehide", this.#leaving);
    await this.flush();
  }

  async #send() {
    while (this.#queue.length) {
      const events = this.#queue.splice(0, this.#batch);
      try {
        this.#onEvents((await this.#ask("POST", "/v1/events", { events })).results);
      } catch (error) {
        if (error.status === 0 || AGAIN.has(error.status)) this.#queue.unshift(...events);
        throw error;
      }
    }
  }

  #beacon() {
    const send = globalThis.navigator?.sendBeacon?.bind(globalThis.navigator);
    // a beacon carries no headers: where a key is needed, fetch may outlive the page too
    while (this.#queue.length) {
      const events = this.#queue.splice(0, this.#batch);
      const body = JSON.stringify({ events });
      const isSent = send && !this.#headers.authorization && send(`${this.#url}/v1/events`, body);
      if (isSent) continue;
      void fetch(`${this.#url}/v1/events`, { method: "POST", body, headers: this.#headers, keepalive: true }).catch(() => {});
    }
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #ask(method, path, body) {
    const until = Date.now() + this.#timeoutMs;
    const content = body === undefined ? undefined : JSON.stringify(body);
    for (let attempt = 1; ; attempt++) {
      const left = until - Date.now();
      const { answer, error, waitMs } = await this.#once(method, path, content, left, attempt);
      if (error === undefined) return answer;
      if (waitMs === null || attempt >= this.#attempts || Date.now() + waitMs >= until) throw error;
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }

  async #once(method, path, body, left, attempt) {
    const pause = Math.random() * this.#pauseMs * 2 ** (attempt - 1);
    let reply;
    let told;
    try {
      reply = await fetch(this.#url + path, {
        method,
        body,
        headers: { ...this.#headers, ...(body === undefined ? {} : { "content-type": "application/json" }) },
        signal: AbortSignal.timeout(Math.max(left, 1)),
      });
      told = await reply.json().catch(() => undefined);
    } catch (cause) {
      const isLate = cause?.name === "TimeoutError";
      return { error: new LikewiseError(`${this.#url}: ${cause.message}`, 0), waitMs: isLate ? null : pause };
    }
    if (reply.ok) return { answer: told };
    const error = new LikewiseError(
      told?.error?.message ?? `the service answered ${reply.status}`,
      reply.status,
      told?.error?.status ?? "",
    );
    return { error, waitMs: AGAIN.has(reply.status) ? Math.max(pause, askedMs(reply.headers)) : null };
  }
}

function askedMs(headers) {
  for (const [name, unit] of [
    ["retry-after-ms", 1],
    ["retry-after", 1000],
  ]) {
    const value = Number.parseFloat(headers.get(name) ?? "");
    if (value >= 0) return value * unit;
  }
  return 0;
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
