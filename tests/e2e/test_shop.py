"""The page as a shop in a real browser: shelves, a product, the basket, a visit that shows, two surfaces side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from lifecycle.visits import write_visits
from matching.interactions import EVENT_WEIGHTS, read_events
from matching.recommend.model_store import ModelStore, model_id_of
from matching.sources.training import train
from matching.store import Store
from serving.api_keys import KeyRing, change_keys
from tests.pages import Page, browser
from tests.services import start_service, text_shop
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

    from tests.services import Service, Shop, Start

__all__ = ["browser", "start_service", "text_shop"]
SURFACES = {
    "trending": {"trending": 1.0},
    "popular": {"popular": 1.0},
    "session": {"sequential-rules": 1.0, "content": 0.5, "trending": 0.0},
    "bought-together": {"bought-together": 1.0},
    "complements": {"bought-together": 1.0, "sequential-rules": 0.5},
    "basket": {"bought-together": 1.0, "content": 0.2},
}
PLACES = (
    """return [...document.querySelectorAll(`[data-shelf="${arguments[0]}"] a.card`)].map((card) => card.dataset.id)"""
)


@pytest.fixture(scope="module")
def shop(text_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The drawn shop, and models of visits that are generated for it."""
    visits = tmp_path_factory.mktemp("visits") / "visits.parquet"
    write_visits(Store(text_shop.store).open(text_shop.name), visits, until=datetime(2026, 1, 5, tzinfo=timezone.utc))
    models = ModelStore(text_shop.store)
    for source in ("popular", "trending", "sequential-rules", "bought-together"):
        weights = {"purchase": 1.0} if source == "bought-together" else EVENT_WEIGHTS
        known = read_events(visits, weights=weights)
        manifest = train(models, source, known, now_ms=int(known.at_ms[-1]) + 1)
        models.set_alias(source, model_id_of(manifest), why="test")
    return text_shop


@pytest.fixture(scope="module")
def service(shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("events") / "events.sqlite"
    recommend = {"sources": {"content": 1.0}, "surfaces": SURFACES}
    with start_service(shop, recommend=recommend, events={"log": str(log)}) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def page(browser: Chrome, service: Service) -> Iterator[Page]:
    browser.set_window_size(1400, 1000)
    page = Page(browser, service)
    page.open()
    page.ask("sessionStorage.clear(); localStorage.clear()")
    page.open()
    page.console()
    yield page
    assert not page.console()
    foreign = """return performance.getEntriesByType("resource").map((each) => each.name).filter((name) => !name.startsWith(origin) && !name.startsWith("blob:"))"""
    assert not page.ask(foreign)


def click(page: Page, selector: str) -> None:
    page.ask("document.querySelector(arguments[0]).click()", selector)
    page.settle()


def n_events(service: Service, event_type: str) -> float:
    text = service.ask("GET", "/metrics")[2].decode()
    asked = f'likewise_events_total{{event_type="{event_type}",outcome="accepted"}}'
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(asked))


def test_home_has_the_shelves_that_the_service_has(page: Page) -> None:
    names = page.ask("return [...document.querySelectorAll('.shelf')].map((shelf) => shelf.dataset.shelf)")
    assert names == ["trending", "popular"]
    expected = page.service.ask("POST", "/v1/recommend", {"surface": "popular", "k": 8})[2]["items"]
    assert page.ask(PLACES, "popular") == [each["itemId"] for each in expected]
    assert page.find("[data-shelf=popular] .why summary span").text == "Popular"
    assert len(page.ids) == 24


def test_from_home_to_a_product_to_the_basket_and_the_visit_follows(page: Page) -> None:
    service, views = page.service, n_events(page.service, "view")
    first = page.ask(PLACES, "popular")[0]
    click(page, "[data-shelf=popular] a.card")
    known = service.ask("GET", f"/v1/items?id={first}")[2]["datapoints"][0]["embeddingMetadata"]
    assert page.title == known["title"]
    assert page.find(".product .price").text.endswith(f"{known['price']:.2f}")
    assert page.browser.switch_to.active_element.get_attribute("id") == "results"
    assert n_events(service, "view") == views + 1
    together = page.ask(PLACES, "bought-together")
    asked = {"items": [first], "surface": "bought-together", "k": 8}
    assert together == [
        each["itemId"] for each in service.ask("POST", "/v1/recommend", asked)[2]["items"] if each["score"] > 0
    ]
    assert "bought together with this" in page.find("[data-shelf=bought-together] .why summary").text.lower()
    of_others = page.ask(
        """return [...document.querySelectorAll("[data-shelf=complements] .meta span")].map((each) => each.textContent)"""
    )
    assert of_others
    assert not [each for each in of_others if each.endswith(known["category"])]
    assert not page.browser.find_elements("css selector", "[data-shelf=visit] .badge"), "there is nothing before it"
    before = page.ask(PLACES, "visit")

    page.find("#add").click()
    wait_until(lambda: n_events(service, "add_to_cart") > 0)
    assert page.find("#n-basket").text == "1"
    assert page.find("#said").get_attribute("textContent") == f"{known['title']} is in the basket."
    click(page, "[data-shelf=complements] a.card")
    after = page.ask(PLACES, "visit")
    moved = page.ask(
        """return [...document.querySelectorAll("[data-shelf=visit] li")].map((each) => each.classList.contains("moved"))"""
    )
    assert moved == [one != other for one, other in zip(before, after, strict=True)]
    assert any(moved)
    assert f"{sum(moved)} of 8 places changed" in page.find("[data-shelf=visit] .changes").text
    assert first not in after
    page.shot("product")

    click(page, "#basket")
    assert page.title == "Basket"
    assert [line.get_attribute("data-id") for line in page.browser.find_elements("css selector", ".line")] == [first]
    assert first not in page.ask(PLACES, "basket")
    page.shot("basket")
    page.find(".step button:last-child").click()
    page.settle(lambda: page.find(".step output").text == "2")
    assert page.find(".total b").text.replace(",", "").endswith(f"{2 * known['price']:.2f}")
    page.find("#buy").click()
    page.settle(lambda: page.browser.current_url.endswith("/"))
    assert n_events(service, "purchase") == 1
    assert not page.find("#n-basket").is_displayed()
    page.shot("home")


def test_going_back_asks_nothing_again_and_stays_where_one_was(page: Page) -> None:
    page.ask("scrollTo(0, 500)")
    wait_until(lambda: page.ask("return scrollY") == 500)
    before = page.ids
    click(page, "#grid a.card")
    assert page.ask("return scrollY") == 0
    asked = "return performance.getEntriesByType('resource').filter((each) => each.name.includes('/v1/')).length"
    shelves = page.ask(PLACES, "popular")
    assert not shelves
    page.browser.back()
    page.settle(lambda: page.ids == before)
    n = page.ask(asked)
    assert page.ask("return scrollY") == 500
    page.browser.forward()
    page.settle(lambda: page.browser.find_elements("css selector", ".product"))
    assert page.ask(asked) == n


def test_why_tells_the_sources_of_a_place(page: Page) -> None:
    click(page, "[data-shelf=trending] a.card")
    click(page, "[data-shelf=visit] .why summary")
    page.settle(lambda: page.find("[data-shelf=visit] .because").text)
    told = page.find("[data-shelf=visit] .because").text
    assert re.search(r"Score \d+\.\d+, from", told)
    assert "Looked at next" in told or "Alike in words and looks" in told


def test_two_surfaces_stand_side_by_side(page: Page) -> None:
    click(page, "#grid a.card")
    item = page.find(".product").get_attribute("data-id")
    click(page, ".do a")
    assert page.title == "Side by side"
    page.ask(
        "const side = document.getElementById('side-b'); side.value = 'popular'; side.dispatchEvent(new Event('change'))"
    )
    page.settle(lambda: "b=popular" in page.browser.current_url)
    sides = [page.ask("""return [...document.querySelectorAll(`[data-side="${arguments[0]}"] .ranked li`)].map((each) => [each.dataset.id, each.querySelector(".badge").textContent])""", side) for side in "ab"]  # fmt: skip
    popular = page.service.ask("POST", "/v1/recommend", {"surface": "popular", "k": 10, "items": [item]})[2]["items"]
    assert [place for place, _ in sides[1]] == [each["itemId"] for each in popular]
    orders = [[place for place, _ in side] for side in sides]
    for side, other, name in ((sides[0], orders[1], "B"), (sides[1], orders[0], "A")):
        for at, (place, mark) in enumerate(side):
            rank = other.index(place) if place in other else -1
            assert mark == ("only here" if rank < 0 else f"same in {name}" if rank == at else f"{name}: {rank + 1}")
    assert f"{len({*orders[0]} & {*orders[1]})} of 10" in page.find(".shared").text
    page.shot("side-by-side")
    address = page.browser.current_url
    page.open(address.removeprefix(page.service.http))
    assert page.find("#side-b").get_attribute("value") == "popular"


def test_filters_hold_for_shelves_and_stay_on_the_way(page: Page) -> None:
    token = page.find('[data-facet="category"] .token')
    name = token.find_element("css selector", "span").text
    token.click()
    page.settle(lambda: "category=" in page.browser.current_url)
    of_shelf = (
        """return [...document.querySelectorAll(".shelf .meta span:first-child")].map((each) => each.textContent)"""
    )
    assert page.ask(of_shelf)
    assert all(each.endswith(name) for each in page.ask(of_shelf))
    page.find("#in-stock").click()
    page.settle(lambda: "stock=1" in page.browser.current_url)
    assert page.find("#n-filters").get_attribute("textContent") == "2"
    click(page, "#grid a.card")
    assert name in page.find(".under").text
    click(page, ".under button")
    assert "category=" not in page.browser.current_url


@pytest.mark.parametrize("path", ["/", "/?q=mug", "/?item=FIRST", "/?view=basket", "/?view=compare"])
@pytest.mark.parametrize("width", [360, 1400])
def test_every_view_has_landmarks_labels_and_room(page: Page, path: str, width: int) -> None:
    first = page.ids[0]
    page.ask("localStorage.setItem('likewise.basket', JSON.stringify([{ id: arguments[0], n: 1 }]))", first)
    sized = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sized)
    try:
        page.open(path.replace("FIRST", first))
        found = page.ask(CHECK)
        assert found == {"mains": 1, "headings": 1, "nameless": [], "dangling": [], "pictures": 0, "twice": []}
        assert page.ask("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CHECK = """
const shown = (each) => each.checkVisibility();
const labelled = (each) => each.getAttribute("aria-label") || [...(each.labels ?? [])].some((label) => label.textContent.trim())
  || (each.getAttribute("aria-labelledby") && document.getElementById(each.getAttribute("aria-labelledby"))) || (!each.matches("input, select") && each.textContent.trim());
const all = (selector) => [...document.querySelectorAll(selector)].filter(shown);
const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
return {
  mains: all("main").length,
  headings: all("h1").length,
  nameless: all("a[href], button, input, select, summary, nav, aside, section").filter((each) => !labelled(each)).map((each) => each.outerHTML.slice(0, 120)),
  dangling: all("[aria-labelledby]").map((each) => each.getAttribute("aria-labelledby")).filter((id) => !document.getElementById(id)),
  pictures: document.querySelectorAll("img:not([alt])").length,
  twice: ids.filter((id, at) => ids.indexOf(id) !== at),
};
"""


def test_a_service_without_events_and_sources_has_a_page_all_the_same(
    browser: Chrome, start_service: Start, text_shop: Shop
) -> None:
    with start_service(text_shop) as service:
        service.wait_until_ready()
        page = Page(browser, service)
        page.open()
        assert not page.browser.find_elements("css selector", ".shelf")
        assert not page.find("#compare").is_displayed()
        click(page, "#grid a.card")
        before = page.ask(PLACES, "visit")
        assert len(before) == 8
        assert "Similar to" in page.find("[data-shelf=visit] .why summary").text
        click(page, "[data-shelf=visit] a.card")
        assert page.ask(PLACES, "visit") != before, "the page itself remembers the visit"
        assert not page.console()


def test_with_a_key_that_may_only_read_the_page_remembers_the_visit(
    browser: Chrome, start_service: Start, shop: Shop, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    text = new_key(keys)
    events = {"log": str(tmp_path / "events.sqlite")}
    recommend = {"sources": {"content": 1.0}, "surfaces": SURFACES}
    with start_service(shop, auth={"keys_file": str(keys)}, events=events, recommend=recommend) as service:
        wait_until(lambda: service.ask("GET", "/readyz")[0] == 200)
        page = Page(browser, service)
        browser.execute_cdp_cmd("Network.enable", {})
        # as a proxy before the service would
        browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"x-api-key": text}})
        try:
            page.open()
            click(page, "[data-shelf=popular] a.card")
            click(page, "[data-shelf=bought-together] a.card")
            assert len(page.ask(PLACES, "visit")) == 8
            assert len([line for line in page.console() if "/v1/events" in line and "403" in line]) == 1, "asked once"
        finally:
            browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {}})


def new_key(file: Path) -> str:
    """Make a key that may read, and return its text."""

    def make(ring: KeyRing) -> tuple[KeyRing, str]:
        changed, _, text = ring.with_new("reader", ("read",), now=datetime.now(timezone.utc), expires_at=None)
        return changed, text

    return change_keys(file, make)
