"""Running services, and the index versions they serve, for the tests of several folders."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    import grpc

pytest_plugins = ["tests.versions"]

_SERVE = """
import json, sys
from pathlib import Path
from matching.store import Store
from serving import AuthSettings, EventSettings, RecommendSettings, ServingSettings, TlsSettings, TracingSettings
from serving.server import serve
asked = json.loads(sys.argv[1])
serve(Store(Path(asked["store"])), asked["name"], settings=ServingSettings(**asked["settings"]),
      events=EventSettings(**asked["events"]),
      auth=AuthSettings(**asked["auth"]), tls=TlsSettings(**asked["tls"]), tracing=TracingSettings(**asked["tracing"]),
      recommend=RecommendSettings(**asked["recommend"]), also=asked["also"],
      host=asked["host"], http_port=0, grpc_port=asked["grpc_port"], as_json=True)
"""


@dataclass
class Shop:
    """A published version: the store it lies in, its alias, and the folder of its pictures."""

    store: Path
    name: str
    images: Path | None = None


@dataclass
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    http: str
    grpc: str
    index_version: str
    log: Path
    tls: ssl.SSLContext | None = None  # how a client trusts it

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """Return status, headers and body (parsed, where it is JSON) of one request."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.http + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.tls) as answer:
                status, told, content = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, told, content = error.code, error.headers, error.read()
        is_json = (told.get("content-type") or "").startswith("application/json")
        return status, told, json.loads(content) if is_json else content

    def wait_until_ready(self, is_ready: bool = True) -> None:
        """Wait until /readyz says so."""
        for _ in range(1200):
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}: {self.log.read_text()}")
            if (self.ask("GET", "/readyz")[0] == 200) == is_ready:
                return
            time.sleep(0.05)
        raise AssertionError(f"not ready after a minute: {self.log.read_text()}")

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def log_line(self, request_id: str) -> dict[str, Any]:
        """Return the one line of a request; it is written just after the answer was sent."""
        for _ in range(100):
            found = [line for line in self.log_lines() if line.get("request_id") == request_id]
            if found:
                (line,) = found
                return line
            time.sleep(0.02)
        raise AssertionError(f"no line of {request_id}")


_SHOPS: dict[str, Shop] = {}
Start = Callable[..., contextlib.AbstractContextManager[Service]]


@contextlib.contextmanager
def running_service(
    shop: Shop,
    log: Path,
    *,
    events: dict[str, Any] | None = None,
    auth: dict[str, Any] | None = None,
    tls: dict[str, Any] | None = None,
    tracing: dict[str, Any] | None = None,
    recommend: dict[str, Any] | None = None,
    host: str = "127.0.0.1",
    grpc_port: int = 0,
    trust: ssl.SSLContext | None = None,
    also: tuple[str, ...] = (),
    **settings: Any,
) -> Iterator[Service]:
    """Serve a shop in a process of its own until the block ends."""
    sections = {"settings": settings, "auth": auth or {}, "tls": tls or {}, "tracing": tracing or {}}
    sections["recommend"] = recommend or {}
    sections["events"] = events or {}
    listening = {"host": host, "grpc_port": grpc_port}
    asked = json.dumps({"store": str(shop.store), "name": shop.name, "also": also, **listening, **sections})
    with log.open("w") as stderr:
        command = [sys.executable, "-c", _SERVE, asked]
        root = Path(__file__).parent.parent
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=root)
    assert process.stdout is not None
    with process.stdout:
        try:
            line = process.stdout.readline()
            if not line:
                process.wait(10)
                raise AssertionError(f"the service ended with {process.returncode}: {log.read_text()}")
            yield Service(process, **json.loads(line), log=log, tls=trust)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Return a function that serves a shop with the settings given."""
    logs = tmp_path_factory.mktemp("service-logs")
    numbers = iter(range(1_000_000))
    return lambda shop, **settings: running_service(shop, logs / f"{next(numbers)}.log", **settings)


@pytest.fixture(scope="module")
def channel(service: Service) -> Iterator[grpc.Channel]:
    """A connection to the service that a module asks."""
    import grpc

    with grpc.insecure_channel(service.grpc) as opened:
        yield opened


@pytest.fixture(scope="session")
def vector_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A version of 300 ready vectors of 8 numbers, with tokens, numbers of each type, tags and a few pictures."""
    from index_builder.draft import Draft
    from index_builder.progress import Silent
    from index_builder.settings import BuildSettings
    from matching.datapoint import Datapoint, NumericRestrict, Restrict
    from matching.store import Store

    folder = tmp_path_factory.mktemp("vector-shop")
    images = folder / "images"
    (images / "red").mkdir(parents=True)
    (images / "red" / "one two.png").write_bytes(_png())
    (images / "secret.txt").write_text("secret")
    (folder / "outside.png").write_bytes(_png())
    (images / "link.png").symlink_to(folder / "outside.png")
    (images / "masked.png").symlink_to(images / "secret.txt")

    rng = np.random.default_rng(5)
    draft = Draft(Store(folder / "store", create=True), BuildSettings(plan="flat", threads=1), Silent())
    space = draft.new_space("vectors", 8, space_id="test", metric="l2")
    n = 300
    for at in range(n):
        color = ("red", "blue", "green")[at % 3]
        draft.columns.add(
            Datapoint(
                f"a/b {at}é" if at < 3 else f"item-{at:04d}",
                (Restrict("color", (color,)), Restrict("size", ("s",), ("xl",))) if at % 10 else (),
                (
                    NumericRestrict("price", at / 10, "float64"),
                    NumericRestrict("stock", at % 7, "int64"),
                    NumericRestrict("weight", at / 2, "float32"),
                ),
                f"brand-{at % 5}",
                {"title": f"Thing {at}", "pictures": ["red/one two.png"] if at == 0 else []},
            )
        )
    space.vectors.append(rng.normal(size=(n, 8)).astype(np.float32), np.arange(n))
    built = draft.finish(source={"kind": "test", "images_dir": str(images)}, parent=None)
    store = Store(folder / "store")
    store.set_alias("vectors", built.version_id, why="test")
    return Shop(store.path, "vectors", images)


@pytest.fixture(scope="session")
def graph_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A version of 12,000 clustered vectors of 64 numbers in a graph: enough that the graph beats a scan."""
    from index_builder.draft import Draft
    from index_builder.progress import Silent
    from index_builder.settings import BuildSettings
    from matching.datapoint import Datapoint
    from matching.store import Store

    folder = tmp_path_factory.mktemp("graph-shop")
    rng = np.random.default_rng(8)
    n = 12_000
    vectors = rng.normal(size=(200, 64))[rng.integers(200, size=n)] + rng.normal(size=(n, 64)) * 0.6
    settings = BuildSettings(plan="graph", threads=1, degree=16, build_beam=40)
    draft = Draft(Store(folder / "store", create=True), settings, Silent())
    space = draft.new_space("vectors", 64, space_id="test", metric="l2")
    for at in range(n):
        draft.columns.add(Datapoint(f"{at:05d}"))
    space.vectors.append(vectors.astype(np.float32), np.arange(n))
    built = draft.finish(source={"kind": "test"}, parent=None)
    return Shop(folder / "store", built.version_id)


@pytest.fixture(scope="session")
def vector_service(vector_shop: Shop, start_service: Start) -> Iterator[Service]:
    """The version of `vector_shop`, served."""
    with start_service(vector_shop) as service:
        service.wait_until_ready()
        yield service


def _png() -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + b"\xc8\x30\x20" * 8 for _ in range(8)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="session")
def text_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A small drawn shop, built through the real encoders: words, pictures and both."""
    if "text" not in _SHOPS:  # the fixture is known to several folders, and would be built in each
        _SHOPS["text"] = _text_shop(tmp_path_factory)
    return _SHOPS["text"]


def _text_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    from embeddings import EmbeddingCache, ImageEncoder, TextEncoder
    from index_builder.build import CatalogEncoders, build_from_catalog
    from index_builder.catalog.catalog import open_catalog
    from index_builder.progress import Silent
    from index_builder.sample.shop import write_sample_shop
    from index_builder.settings import BuildSettings
    from matching.store import Store

    folder = tmp_path_factory.mktemp("text-shop")
    catalog = write_sample_shop(folder / "shop", n_products=150, seed=3)
    store = Store(folder / "store", create=True)
    image = ImageEncoder(n_workers=2)
    built = build_from_catalog(
        store,
        open_catalog(catalog, images_dir=catalog.parent),
        CatalogEncoders(TextEncoder(), image),
        cache=EmbeddingCache(folder / "cache.sqlite"),
        settings=BuildSettings(plan="flat", threads=1),
        progress=Silent(),
    )
    image.close()
    store.set_alias("shop", built.version_id, why="test")
    return Shop(store.path, "shop", catalog.parent)


@pytest.fixture(scope="session")
def text_service(text_shop: Shop, start_service: Start) -> Iterator[Service]:
    """The version of `text_shop`, served with its encoders."""
    with start_service(text_shop) as service:
        service.wait_until_ready()
        yield service
