// The page: its address says what is shown; a turn draws it, and gives way to the next one.

import { service } from "/page/api.js";
import { about, onChange, readState, visit } from "/page/address.js";
import { basket, drawCount } from "/page/basket.js";
import { notice } from "/page/catalog.js";
import { compare, offer } from "/page/compare.js";
import { $, make, say } from "/page/element.js";
import * as filter from "/page/filter.js";
import { home, search } from "/page/home.js";
import * as picture from "/page/picture.js";
import { follow, product } from "/page/product.js";
import * as session from "/page/session.js";

const positions = new Map(); // address -> how far it was scrolled
let running = null, drawn = { subject: null, url: "" }, isBack = false, isBegun = false;

function viewOf(s) {
  if (s.view === "basket") return basket;
  if (s.view === "compare") return compare;
  if (s.item) return product;
  return s.text || s.picture ? search : home;
}

const subjectOf = (s) => JSON.stringify([viewOf(s).name, s.text, s.picture, s.view ? "" : s.item]);

async function show() {
  running?.abort();
  const turn = (running = new AbortController()), s = readState(), url = location.pathname + location.search;
  const subject = subjectOf(s), isNew = subject !== drawn.subject;
  document.body.setAttribute("aria-busy", "true");
  $("content").classList.add("busy");
  try {
    if (!isBegun) await begin();
    $("text").value = s.text;
    const view = await viewOf(s)(s, turn.signal);
    if (turn.signal.aborted) return;
    if (!isNew || isBack) await view.settled; // what is there stays until what follows is whole
    if (turn.signal.aborted) return;
    $("frame").classList.toggle("is-wide", view.isWide);
    if (!view.isWide) filter.drawFilters(s);
    $("content").replaceChildren(...view.parts.filter(Boolean));
    $("content").classList.remove("busy");
    document.title = view.title ? `${view.title} · Likewise` : "Likewise";
    if (isBack) scrollTo({ top: positions.get(url) ?? 0, behavior: "instant" });
    else if (isNew && drawn.subject) arrive(view.title || "Home");
    drawn = { subject, url };
    isBack = false;
    await view.settled;
    if (!turn.signal.aborted) document.body.dataset.state = "shown";
  } catch (error) {
    if (error.name === "AbortError" || turn.signal.aborted) return;
    await fail(error, turn);
  } finally {
    if (running === turn) document.body.removeAttribute("aria-busy");
  }
}

function arrive(title) {
  scrollTo({ top: 0, behavior: "instant" });
  $("results")?.focus({ preventScroll: true });
  say(title);
}

async function fail(error, turn) {
  const isPassing = error.isPassing;
  const told = isPassing ? notice("One moment", "The service is getting ready; this page asks again by itself.")
    : notice("That did not work", error.message.replace(/^\[[^\]]*\] /, ""), { label: "Try again", run: () => show(), isError: true });
  $("content").replaceChildren(make("h1", { id: "results", class: "unseen", tabindex: "-1" }, document.title), told);
  $("content").classList.remove("busy");
  drawn = { subject: null, url: "" };
  if (!isPassing) document.body.dataset.state = "failed";
  else {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    if (!turn.signal.aborted) show();
  }
}

async function begin() {
  const { version, facets } = await service();
  filter.know(facets);
  await Promise.all([session.begin(), offer()]);
  const can = (modality) => version.spaces.some((space) => space.modality === modality || space.modality === "fused");
  if (!can("text")) { $("text").disabled = true; $("text").placeholder = "This catalogue has no words to search"; }
  if (!can("image")) document.querySelector(".camera").hidden = $("file").disabled = true;
  $("foot").textContent = `${version.nDatapoints.toLocaleString("en")} products · index version ${version.versionId}`;
  isBegun = true;
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); visit(about({ text: $("text").value.trim() })); });
$("text").addEventListener("search", () => { if (!$("text").value && readState().text) visit(about({})); });
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.card, a[data-go], a[data-home]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  if (link.dataset.id) follow(link.dataset.id, link.dataset.slate ?? "");
  visit(link.getAttribute("href"));
});
addEventListener("scroll", () => { if (drawn.url) positions.set(drawn.url, scrollY); }, { passive: true });
addEventListener("popstate", () => { isBack = true; }, { capture: true });
history.scrollRestoration = "manual";
filter.listen();
picture.listen((title, words) => $("content").prepend(notice(title, words)));
drawCount();
onChange(show);
show();
