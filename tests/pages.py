"""A page of a service in a real browser, for the tests of several files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.services import Service

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"


class Page:
    """What a person does with the page, and sees."""

    def __init__(self, browser: Chrome, service: Service) -> None:
        self.browser = browser
        self.service = service

    def open(self, path: str = "/") -> None:
        self.browser.get(self.service.http + path)
        self.settle()

    def settle(self, is_so: Callable[[], object] | None = None) -> None:
        """Wait until nothing is under way, and what is awaited is so."""
        quiet = "return document.body.dataset.state && !document.body.hasAttribute('aria-busy')"
        end = time.monotonic() + 20
        while not (self.browser.execute_script(quiet) and (is_so is None or is_so())):
            assert time.monotonic() < end, (self.title, self.notice, self.console())
            time.sleep(0.03)

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    @property
    def title(self) -> str:
        return str(self.find("h1").text)

    @property
    def notice(self) -> str:
        found = self.browser.find_elements("css selector", "#notice")
        return str(found[0].text) if found else ""

    @property
    def cards(self) -> list[dict[str, Any]]:
        """Return id, title, category line, price line, and distance of every product in the grid."""
        found: list[dict[str, Any]] = self.browser.execute_script(
            """return [...document.querySelectorAll("#grid a.card[data-id]")].map((card) => ({
              id: card.dataset.id, title: card.querySelector(".title").textContent, meta: card.querySelector(".meta").textContent,
              distance: Number(card.querySelector(".distance")?.textContent.replace("distance ", "") ?? NaN),
              picture: card.querySelector("img")?.getAttribute("src") ?? null,
              broken: [...card.querySelectorAll("img")].filter((i) => i.complete && !i.naturalWidth).length }))"""
        )
        return found

    @property
    def ids(self) -> list[str]:
        return [card["id"] for card in self.cards]

    def search(self, text: str) -> None:
        box = self.find("#text")
        box.clear()
        box.send_keys(text + "\n")
        self.settle(lambda: text in self.title)

    def ask(self, script: str, *arguments: object) -> Any:
        """Return what a script returns in the page."""
        return self.browser.execute_script(script, *arguments)

    def shot(self, name: str) -> None:
        """Keep a screenshot, pictures loaded."""
        loaded = "return [...document.querySelectorAll('#content img')].slice(0, 12).every((image) => image.complete)"
        self.settle(lambda: self.browser.execute_script(loaded))
        ARTIFACTS.mkdir(exist_ok=True)
        assert self.browser.save_screenshot(str(ARTIFACTS / f"page-{name}.png"))

    def console(self) -> list[str]:
        """Return what the browser complained of since the last call."""
        return [entry["message"] for entry in self.browser.get_log("browser")]  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service as Driver

    if not (shutil.which(CHROMIUM) and shutil.which(DRIVER)):
        pytest.skip(f"{CHROMIUM} or {DRIVER} is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--window-size=1400,1000",
    ):
        options.add_argument(flag)
    # nothing but this machine can be reached: what the page needs, it must bring
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Driver(DRIVER))
    yield browser
    browser.quit()
