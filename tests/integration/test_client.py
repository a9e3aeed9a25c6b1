"""The Python client against a real service, and against answers that ask for patience."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from matching.errors import DeadlineExceeded, InvalidQuery, NotFound, Overloaded, Unavailable
from serving.client import (
    AsyncClient,
    Client,
    Datapoint,
    EventItem,
    Filter,
    ItemWrite,
    NumericRestrict,
    Restrict,
    Retry,
    ShopEvent,
)
from tests.brokers import free_port
from tests.services import running_service
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

RED = Filter((Restrict("color", ("red",)),), (NumericRestrict("price", 20.0, "float64", "LESS_EQUAL"),))


@pytest.fixture(scope="module")
def service(vector_shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("client")
    with start_service(
        vector_shop, write_log=str(folder / "log"), events={"log": str(folder / "events.sqlite")}, max_wait_s=30
    ) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.http) as opened:
        yield opened


def test_reads_are_typed(client: Client, service: Service) -> None:
    assert client.is_ready()
    version = client.version()
    assert (version.version_id, version.n_datapoints, version.dims) == (service.index_version, 300, {"vectors": 8})
    one, two = client.find_neighbors(["item-0007", [0.1] * 8], 4, filter=RED)
    assert (one.query_id, len(one.items), two.query_id, one.plan) == ("item-0007", 4, "", "exact")
    assert [item.distance for item in one.items] == sorted(item.distance for item in one.items)
    assert one.index_version == service.index_version
    (full,) = client.find_neighbors(["item-0007"], 2, full=True, crowding_cap=1)
    point = full.items[0].datapoint
    assert (len(full.items[0].vector or ()), point.metadata["title"]) == (8, f"Thing {int(point.datapoint_id[-4:])}")
    assert full.items[0].datapoint.crowding_tag != full.items[1].datapoint.crowding_tag
    near = client.similar("a/b 1é", 3)
    assert len(near.ids) == 3
    (read,) = client.read(["item-0003"])
    assert {each.namespace: each.value for each in read.numeric_restricts} == {"price": 0.3, "stock": 3, "weight": 1.5}
    assert {each.type for each in read.numeric_restricts} == {"float64", "int64", "float32"}


def test_writes_are_seen_with_their_token_and_done_once(client: Client) -> None:
    point = Datapoint(
        "new", (Restrict("color", ("gold",)),), (NumericRestrict("stock", 2, "int64"),), "b", {"title": "New"}
    )
    done = client.upsert([ItemWrite(point, [9.0] * 8)], request_id="w1")
    again = client.upsert([ItemWrite(point, [9.0] * 8)], request_id="w1")
    assert (done.is_repeat, again.is_repeat, again.version_token) == (False, True, done.version_token)
    assert client.read(["new"], min_version=done.version_token) == (point,)
    (found,) = client.find_neighbors([[9.0] * 8], 1, min_version=done.version_token)
    assert found.ids == ("new",)
    gone = client.remove(["new", "never there"])
    with pytest.raises(NotFound, match="no datapoint 'new'"):
        client.read(["new"], min_version=gone.version_token)


def test_events_change_slates(client: Client) -> None:
    now = int(time.time() * 1000)
    events = [
        ShopEvent("view", "ann", "v1", ["item-0007"], now),
        ShopEvent("purchase", "ann", items=[EventItem("item-0008", 2, 39.8)], at_ms=now),
        ShopEvent("view", "ann", items=["item-0007"], at_ms=1),
    ]
    told = client.tell([*events, events[0]])
    assert [each.status for each in told] == ["accepted", "accepted", "rejected", "duplicate"]
    assert (told[2].reason, told[0].event_id) == ("late", events[0].event_id)
    slate = client.recommend(user_id="ann", k=5, exclude_bought=True, exclude=["item-0001"], filter=RED)
    assert (len(slate.items), slate.is_degraded, slate.items[0].sources) == (5, False, ("content",))
    assert slate.items[0].because in {"item-0007", "item-0008"}
    assert not {"item-0008", "item-0001"} & set(slate.ids)
    assert slate.recommendation_id == slate.told["recommendationId"]


def test_a_slate_comes_by_pages(client: Client) -> None:
    whole = client.recommend(items=["item-0007"], k=7)
    pages = [client.recommend(items=["item-0007"], k=3, depth=7)]
    while pages[-1].next_page_token:
        pages.append(client.recommend(items=["item-0007"], k=3, depth=7, page_token=pages[-1].next_page_token))
    assert [len(page.items) for page in pages] == [3, 3, 1]
    assert tuple(one for page in pages for one in page.ids) == whole.ids


def test_errors_are_ours(client: Client, service: Service) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        client.similar("nowhere")
    with pytest.raises(InvalidQuery, match="surface 'cellar'"):
        client.recommend(surface="cellar")
    with pytest.raises(InvalidQuery, match="no encoder"):
        client.search("a lamp")
    with Client(f"http://127.0.0.1:{free_port()}", retry=Retry(2, 0.01)) as nobody:
        assert not nobody.is_ready()
        with pytest.raises(Unavailable, match="ConnectError"):
            nobody.version()


def test_an_event_loop_asks_the_same(client: Client, service: Service) -> None:
    async def ask() -> None:
        async with AsyncClient(service.http) as other:
            several = await asyncio.gather(*(other.find_neighbors([f"item-{at:04d}"], 3) for at in range(10, 20)))
            assert [each[0].ids for each in several] == [
                client.find_neighbors([f"item-{at:04d}"], 3)[0].ids for at in range(10, 20)
            ]
            assert await other.version() == client.version()
            done = await other.upsert([ItemWrite(Datapoint("async"), np.full(8, 5.0).tolist())])
            assert (await other.read(["async"], min_version=done.version_token))[0].datapoint_id == "async"
            await other.remove(["async"])
            assert (await other.similar("item-0007", 2)).ids == client.similar("item-0007", 2).ids
            assert (await other.recommend(items=["item-0007"], k=2)).ids == client.recommend(
                items=["item-0007"], k=2
            ).ids
            (told,) = await other.tell([ShopEvent("view", "bob", items=["item-0009"])])
            assert told.status == "accepted"
            with pytest.raises(InvalidQuery, match="no encoder"):
                await other.search("a lamp")

    asyncio.run(ask())


def test_a_text_finds_products(text_service: Service) -> None:
    with Client(text_service.http) as client:
        found = client.search("red shoes", 5, space="text")
    assert (len(found.items), found.space) == (5, "text")
    assert found.items[0].datapoint.metadata["title"]


def test_a_call_waits_for_a_service_that_starts_again(vector_shop: Shop, tmp_path: Path) -> None:
    with running_service(vector_shop, tmp_path / "one.log", write_log=str(tmp_path / "log")) as first:
        address = first.http
        first.wait_until_ready()
    answers: list[Any] = []
    port = int(address.rpartition(":")[2])
    asked = Client(address, timeout_s=120, retry=Retry(1000, 0.1, 0.3))
    thread = threading.Thread(target=lambda: answers.append(asked.version()))
    thread.start()
    time.sleep(0.3)
    assert not answers
    root = Path(__file__).resolve().parents[2]
    command = ["-m", "lifecycle", "serve", "--store", str(vector_shop.store), "--name", "vectors", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, *command, "--http-port", str(port), "--grpc-port", "0"], cwd=root, stdout=subprocess.DEVNULL
    )
    try:
        thread.join(100)
        wait_until(asked.is_ready)
    finally:
        process.terminate()
        process.wait()
        asked.close()
    assert [each.n_datapoints for each in answers] == [300]


class Scripted(BaseHTTPRequestHandler):
    """Answers as told, one answer after the other, and keeps what was asked."""

    script: list[tuple[int, dict[str, str], bytes]]
    asked: list[tuple[float, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append((time.monotonic(), dict(self.headers.items()), body))
        status, headers, content = self.script.pop(0)
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def scripted() -> Iterator[tuple[str, type[Scripted]]]:
    class Own(Scripted):
        pass

    Own.script, Own.asked = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Own
    server.shutdown()
    thread.join()
    server.server_close()


DONE = b'{"versionToken": "7", "isRepeat": false, "indexVersion": "v"}'
BUSY = b'{"error": {"message": "[serving] too much"}}'


def test_a_refusal_is_asked_again_when_the_service_says(scripted: tuple[str, type[Scripted]]) -> None:
    url, server = scripted
    server.script += [(429, {"retry-after-ms": "250"}, BUSY), (503, {}, BUSY), (200, {}, DONE)]
    with Client(url, key="secret", unit_id="u", retry=Retry(pause_s=0.001)) as client:
        assert client.remove(["a"]).version_token == 7
    (first, headers, body), (second, _, same), (_, later, last) = server.asked
    assert second - first >= 0.25
    assert body == same == last
    assert b"requestId" in body
    assert (headers["authorization"], headers["x-likewise-unit"]) == ("Bearer secret", "u")
    assert float(later["x-server-timeout"]) < float(headers["x-server-timeout"]) <= 10


def test_patience_ends_with_the_deadline_and_the_attempts(scripted: tuple[str, type[Scripted]]) -> None:
    url, server = scripted
    server.script += [(429, {"retry-after": "30"}, BUSY)] + [(429, {}, BUSY)] * 3 + [(400, {}, BUSY), (504, {}, b"")]
    with Client(url, retry=Retry(3, 0.001), timeout_s=5) as client:
        with pytest.raises(Overloaded, match="too much") as told:  # 30 s are more than there are
            client.remove(["a"])
        assert (told.value.retry_after_s, len(server.asked)) == (30.0, 1)
        with pytest.raises(Overloaded):
            client.remove(["a"])
        assert len(server.asked) == 4
        with pytest.raises(InvalidQuery):
            client.remove(["a"])
        with pytest.raises(DeadlineExceeded):
            client.remove(["a"])
        assert len(server.asked) == 6


def test_the_client_loads_no_server() -> None:
    heavy = {"fastapi", "grpc", "torch", "faiss", "uvicorn", "pyarrow"}
    code = f"import sys, serving.client; print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
