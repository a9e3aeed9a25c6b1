// A shelf: a slate of one surface as a row of cards, with the reason of each place and what changed since it was last seen.

import { recommend } from "/page/api.js";
import { card, ghost } from "/page/card.js";
import { make } from "/page/element.js";
import { reasons, why } from "/page/explanation.js";
import { compared } from "/page/session.js";

export const PLACES = 8;

// Returns the shelf at once, with room for its cards, and a promise that fills it or takes it away.
// Args: here is the product whose page it is; isStrict keeps only places that a source of the blend named; follows marks what changed since the shelf was last seen.
export function shelf({ name, title, hint = "", request, signal, here = "", isStrict = false, follows = false, head = null }) {
  const list = make("ol", { class: "row", "aria-labelledby": `shelf-${name}` }, ...Array.from({ length: PLACES }, ghost));
  const changes = make("p", { class: "changes", hidden: true });
  const box = make("section", { class: "shelf", "data-shelf": name, "aria-labelledby": `shelf-${name}`, "aria-busy": "true" },
    make("div", { class: "shelf-head" }, make("h2", { id: `shelf-${name}` }, title), make("p", { class: "hint" }, hint), head), changes, list);
  const filled = fill().catch((error) => {
    if (error.name === "AbortError" || signal?.aborted) return null;
    box.remove();
    return null;
  });
  return { box, filled };

  async function fill() {
    const slate = await recommend({ k: PLACES, ...(await request()) }, signal);
    const places = isStrict ? slate.places.filter((place) => place.score > 0) : slate.places;
    if (!places.length) { box.remove(); return null; }
    const words = await reasons(places, signal, here);
    if (signal?.aborted) return null;
    const moved = follows ? compared(name, places.map((place) => place.itemId)) : null;
    list.replaceChildren(...places.map((place, at) => {
      const item = card(place.datapoint, { over: moved ? badge(moved[at]) : null, below: why(place, words[at], slate.request), recommendationId: slate.recommendationId });
      if (moved && moved[at] !== 0) item.classList.add("moved");
      return item;
    }));
    tellChanges(changes, moved);
    box.removeAttribute("aria-busy");
    return { slate, places, moved };
  }
}

function badge(move) {
  if (move === 0) return null;
  if (move === "new") return make("span", { class: "badge fresh" }, "New here");
  return make("span", { class: "badge" }, make("span", { "aria-hidden": "true" }, `${move > 0 ? "↑" : "↓"} ${Math.abs(move)}`),
    make("span", { class: "unseen" }, `moved ${move > 0 ? "up" : "down"} ${Math.abs(move)}`));
}

function tellChanges(line, moved) {
  const n = moved?.filter((move) => move !== 0).length ?? 0;
  line.hidden = !moved;
  if (!moved) return;
  const fresh = moved.filter((move) => move === "new").length;
  line.textContent = n ? `${n} of ${moved.length} places changed with what you did last${fresh ? `, ${fresh} of them new` : ""}.` : "Nothing changed with what you did last.";
}
