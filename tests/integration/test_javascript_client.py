"""The JavaScript client in Node, against a real service."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from matching.event_log import SqlEventLog
from tests.brokers import free_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

MODULE = Path(__file__).resolve().parents[2] / "serving" / "javascript" / "likewise.js"
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed; make test installs it where it may")


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("events") / "events.sqlite"


@pytest.fixture(scope="module")
def service(vector_shop: Shop, start_service: Start, log_file: Path) -> Iterator[Service]:
    with start_service(vector_shop, events={"log": str(log_file)}) as running:
        running.wait_until_ready()
        yield running


def node(url: str, code: str) -> Any:
    """Run a program that knows `shop`, and return what it tells."""
    assert NODE is not None
    program = f"""
import {{ Likewise, LikewiseError }} from {json.dumps(MODULE.as_uri())};
const url = {json.dumps(url)};
const heard = [];
const shop = new Likewise(url, {{ onEvents: (told) => heard.push(...told), flushMs: 20, pauseMs: 1 }});
const tell = (told) => process.stdout.write(JSON.stringify(told));
{code}
"""
    done = subprocess.run(
        [NODE, "--input-type=module"], input=program, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_pages_are_answered(service: Service) -> None:
    told = node(
        service.http,
        """
const slate = await shop.recommend({ items: ["item-0007"], k: 4, exclude: ["item-0001"] });
const [one, two] = await shop.findNeighbors(["item-0007", new Float32Array(8)], 3);
const similar = await shop.similar("a/b 1é", 2);
let refused;
try { await shop.search("a lamp"); } catch (error) {
  refused = [error instanceof LikewiseError, error.status, error.code, error.message];
}
tell({ slate, one, two, similar, refused });
""",
    )
    assert [len(told["slate"]["items"]), told["slate"]["indexVersion"]] == [4, service.index_version]
    status, _, same = service.ask("POST", "/v1/recommend", {"items": ["item-0007"], "k": 4, "exclude": ["item-0001"]})
    assert (status, same["items"]) == (200, told["slate"]["items"])
    assert (told["one"]["id"], len(told["one"]["neighbors"]), len(told["two"]["neighbors"])) == ("item-0007", 3, 3)
    assert len(told["similar"]["neighbors"]) == 2
    assert told["refused"][:3] == [True, 400, "INVALID_ARGUMENT"]
    assert "no encoder" in told["refused"][3]


def test_events_leave_together_and_count_once(service: Service, log_file: Path) -> None:
    told = node(
        service.http,
        """
const ids = [];
const items = ["item-0007", { itemId: "item-0008" }];
for (let at = 0; at < 120; at++) ids.push(shop.tell("view", { sessionId: `v${at}`, items }));
shop.tell("view", { eventId: ids[0], sessionId: "v0", items });
shop.tell("purchase", { userId: "ann", items: [{ itemId: "item-0009", quantity: 2, value: 3.5 }] });
shop.tell("view", {});
await shop.close();
tell({ ids, heard });
""",
    )
    outcomes = {each["eventId"]: each["status"] for each in told["heard"][:120]}
    assert outcomes == dict.fromkeys(told["ids"], "accepted")
    assert [each["status"] for each in told["heard"][120:]] == ["duplicate", "accepted", "rejected"]
    with SqlEventLog.open(log_file) as log:
        kept = [event for _, event in log.read()]
    assert len(kept) == 121
    assert [item.item_id for item in kept[0].items] == ["item-0007", "item-0008"]
    assert (kept[-1].items[0].quantity, kept[-1].items[0].value) == (2, 3.5)


def test_events_wait_for_a_service_that_is_away(service: Service) -> None:
    told = node(
        f"http://127.0.0.1:{free_port()}",
        """
shop.tell("view", { sessionId: "s" });
let first;
try { await shop.flush(); } catch (error) { first = error.status; }
tell({ first, heard });
process.exit(0);
""",
    )
    assert told == {"first": 0, "heard": []}


_SERVER = """
import http.server, sys
script = [(429, {"retry-after-ms": "300"}), (503, {}), (200, {}), (429, {"retry-after": "60"})]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status, headers = script.pop(0)
        self.send_response(status)
        content = b'{"error": {"message": "too much", "status": "RESOURCE_EXHAUSTED"}}'
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_refusal_is_asked_again_when_the_service_says() -> None:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = node(
                f"http://127.0.0.1:{int(server.stdout.readline())}",
                """
const began = performance.now();
await shop.recommend();
const tookMs = performance.now() - began;
let status;
try { await shop.recommend(); } catch (error) { status = [error.status, error.code]; }
tell({ tookMs, status });
""",
            )
        finally:
            server.kill()
    assert told["tookMs"] >= 300
    assert told["status"] == [429, "RESOURCE_EXHAUSTED"]


def test_what_waits_when_a_page_is_left_goes_in_a_beacon(
    vector_shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service as Driver

    if not (Path(CHROMIUM).exists() and Path(DRIVER).exists()):
        pytest.skip(f"{CHROMIUM} or {DRIVER} is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    module = MODULE.read_text().replace("export class", "class")
    log_file = tmp_path / "events.sqlite"
    with start_service(vector_shop, events={"log": str(log_file)}) as service:
        service.wait_until_ready()
        browser = webdriver.Chrome(options=options, service=Driver(DRIVER))
        try:
            browser.get(service.http + "/docs")
            browser.execute_script(
                f"""{module}
                const shop = new Likewise(location.origin, {{ flushMs: 600000 }});
                shop.tell("view", {{ sessionId: "left", items: ["item-0007"] }});
                shop.tell("add_to_cart", {{ sessionId: "left", items: ["item-0007"] }});"""
            )
            browser.get("about:blank")

            def kept() -> list[str]:
                with SqlEventLog.open(log_file) as log:
                    return [event.event_type for _, event in log.read()]

            wait_until(lambda: kept() == ["view", "add_to_cart"], "the beacon")
        finally:
            browser.quit()
