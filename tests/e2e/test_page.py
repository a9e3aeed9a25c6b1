"""The page in a real browser: words, pictures, clicks, filters, the back button, the keyboard; screenshots are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.pages import ARTIFACTS, Page, browser
from tests.services import start_service, text_service, text_shop

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.services import Service, Shop

__all__ = ["browser", "start_service", "text_service", "text_shop"]


@pytest.fixture
def page(browser: Chrome, text_service: Service) -> Iterator[Page]:
    browser.set_window_size(1400, 1000)
    page = Page(browser, text_service)
    page.open()
    page.console()
    yield page
    assert not page.console()


def test_the_catalogue_is_shown_at_once(page: Page) -> None:
    cards = page.cards
    assert len(cards) == 24
    assert "150 products" in page.find("#facts").text
    page.shot("catalogue")
    assert not sum(card["broken"] for card in page.cards)
    assert sum(card["picture"] is not None for card in cards) >= 20


def test_words_find_products_with_distances(page: Page) -> None:
    page.search("ceramic mug")
    cards = page.cards
    assert len(cards) == 24
    assert "mug" in cards[0]["title"].lower()
    distances = [card["distance"] for card in cards]
    assert distances == sorted(distances)
    assert 0 <= distances[0] < distances[-1]
    facts = page.find("#facts").text
    for said in ("24 nearest of 150", "compared by words", "plan exact", " ms"):
        assert said in facts
    assert page.service.index_version in page.find("#foot").text
    page.shot("words")


def test_a_click_shows_what_is_like_the_product(page: Page) -> None:
    chosen = page.cards[3]
    page.find(f'a.card[data-id="{chosen["id"]}"]').click()
    page.settle(lambda: page.title == chosen["title"])
    found = page.ids
    assert chosen["id"] not in found
    expected = page.service.ask("GET", f"/v1/items/{chosen['id']}/similar?k=24")[2]["neighbors"]
    assert found == [neighbor["datapoint"]["datapointId"] for neighbor in expected]
    page.shot("like-a-product")


def test_another_comparison_gives_another_order(page: Page) -> None:
    page.find("#grid a.card img").click()
    page.settle(lambda: page.browser.find_elements("css selector", ".product"))
    both = page.ids
    page.find('#by input[value="image"]').click()
    page.settle(lambda: "compared by looks" in page.find("#facts").text)
    assert page.ids != both
    assert "by=image" in page.browser.current_url


def test_an_upload_finds_its_product(page: Page, text_shop: Shop) -> None:
    assert text_shop.images is not None
    card = next(card for card in page.cards if card["picture"])
    file = text_shop.images / card["picture"].removeprefix("/images/")
    page.find("#file").send_keys(str(file))
    page.settle(lambda: page.title == "Like your picture")
    assert card["id"] in page.ids[:3]
    assert "compared by looks" in page.find("#facts").text
    page.shot("like-a-picture")


def test_a_dropped_picture_is_an_upload(page: Page) -> None:
    page.browser.execute_async_script(
        """const done = arguments[0];
        const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
        const pen = canvas.getContext("2d"); pen.fillStyle = "#2a5298"; pen.fillRect(8, 8, 48, 48);
        canvas.toBlob((blob) => {
          const files = new DataTransfer(); files.items.add(new File([blob], "blue.png", { type: "image/png" }));
          const about = { bubbles: true, cancelable: true, dataTransfer: files };
          const fire = (kind) => document.body.dispatchEvent(new DragEvent(kind, about));
          fire("dragenter");
          const isOffered = !document.getElementById("drop").hidden;
          fire("dragover"); fire("drop"); done(isOffered);
        });"""
    )
    page.settle(lambda: page.title == "Like your picture")
    assert len(page.cards) == 24
    assert not page.find("#drop").is_displayed()


def test_category_and_price_change_what_is_shown(page: Page) -> None:
    page.search("for the kitchen")
    everything = page.ids
    token = page.find('[data-facet="category"] .token')
    name, count = token.find_element("css selector", "span").text, int(token.find_element("css selector", "b").text)
    token.click()
    page.settle(lambda: f"of {count}" in page.find("#facts").text)
    filtered = page.cards
    assert filtered
    assert [card["id"] for card in filtered] != everything
    assert all(name in card["meta"] for card in filtered)
    assert "category=" in page.browser.current_url
    page.find("#price-to").send_keys("40\t")
    page.settle(lambda: "to=40" in page.browser.current_url)
    prices = [float(card["meta"].rsplit("$", 1)[-1].rsplit("€", 1)[-1].replace(",", "")) for card in page.cards]
    assert prices
    assert max(prices) <= 40
    assert len(prices) < len(filtered)
    assert page.find("#n-filters").get_attribute("textContent") == "2"
    page.shot("filters")
    page.find("#clear").click()
    page.settle(lambda: page.ids == everything)


def test_the_url_is_the_state(page: Page) -> None:
    page.search("backpack")
    words = page.ids
    page.find("#grid a.card").click()
    page.settle(lambda: page.browser.find_elements("css selector", ".product"))
    like, address = page.ids, page.browser.current_url
    page.browser.back()
    page.settle(lambda: page.title == "“backpack”")
    assert page.ids == words
    assert page.find("#text").get_attribute("value") == "backpack"
    page.browser.forward()
    page.settle(lambda: page.browser.find_elements("css selector", ".product"))
    assert page.ids == like
    page.browser.get(address)
    page.settle()
    assert page.ids == like


def test_more_can_be_shown(page: Page) -> None:
    page.search("lamp")
    first = page.ids
    page.browser.execute_script("document.getElementById('more').click()")
    page.settle(lambda: len(page.cards) == 48)
    assert page.ids[:24] == first


def test_the_keyboard_is_enough(page: Page) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(keys: str) -> None:
        ActionChains(page.browser).send_keys(keys).perform()

    page.browser.execute_script("document.getElementById('text').focus()")
    press("travel cup" + Keys.ENTER)
    page.settle(lambda: "travel cup" in page.title)
    for _ in range(200):
        active = page.browser.switch_to.active_element
        if "card" in (active.get_attribute("class") or ""):
            break
        press(Keys.TAB)
    title = active.find_element("css selector", ".title").text
    press(Keys.ENTER)
    page.settle(lambda: page.title == title)
    assert page.browser.switch_to.active_element.get_attribute("id") == "results"


def test_nothing_found_says_so_and_offers_a_way_out(page: Page) -> None:
    page.open("/?q=mug&from=1000000")
    assert "Nothing passes these filters" in page.notice
    assert not page.cards
    page.shot("nothing-found")
    page.find("#notice button").click()
    page.settle(lambda: len(page.cards) == 24)


def test_an_error_is_told_in_words(page: Page) -> None:
    page.open("/?item=no-such-product")
    assert "no product “no-such-product”" in page.notice
    page.shot("error")
    page.find(".brand").click()
    page.settle(lambda: len(page.cards) == 24)


def test_a_product_without_picture_has_a_tile(page: Page) -> None:
    found = page.service.ask("GET", "/v1/items?k=200")[2]["datapoints"]
    bare = next(point for point in found if not point["embeddingMetadata"].get("pictures"))
    page.search(bare["embeddingMetadata"]["title"])
    card = next(card for card in page.cards if card["id"] == bare["datapointId"])
    assert card["picture"] is None
    tile = page.find(f'a.card[data-id="{card["id"]}"] .blank')
    assert tile.size["height"] > 100
    assert tile.text.startswith(card["title"][0].upper())
    page.shot("no-picture")


def test_a_small_screen_holds_it_all(page: Page) -> None:
    page.browser.set_window_size(500, 900)
    page.open("/?q=mug")
    assert page.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), (
        "no sideways scrolling"
    )
    assert not page.browser.execute_script("return document.getElementById('filters').open")
    page.find("#filters summary").click()
    assert page.find('[data-facet="category"] .token').is_displayed()
    page.shot("small")


def test_the_api_s_own_page_runs_its_examples(page: Page) -> None:
    page.browser.get(page.service.http + "/docs")
    end = time.monotonic() + 10
    while not (operations := page.browser.find_elements("css selector", ".operation")):
        assert time.monotonic() < end
        time.sleep(0.05)
    paths = httpx.get(page.service.http + "/openapi.json").json()["paths"]
    assert len(operations) == sum(len(methods) for methods in paths.values())
    operations[0].find_element("css selector", "summary").click()
    operations[0].find_element("css selector", "button").click()
    while not (answer := operations[0].find_element("css selector", "pre").text):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert answer.startswith("200")
    assert page.browser.save_screenshot(str(ARTIFACTS / "page-docs.png"))
    assert (ARTIFACTS / "page-docs.png").stat().st_size > 5000
