"""`likewise demo`: a real catalogue, embedded, indexed and served, in one command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lifecycle.terminal import err, out, print_table
from matching.errors import NotFound, Unavailable
from matching.store import Store

ALIAS = "demo"
DATA = "LIKEWISE_DATA"
_TEXTS = ("a warm jacket for winter", "something to drink with breakfast", "elegant shoes")
_START_S = 120.0
_PORTS = (8080, 8081)
_LEARNT = ("popular", "trending", "sequential-rules", "bought-together", "item-knn")
_SURFACES = """# what the page of the demo asks for
[recommend.sources]
content = 1.0
item-knn = 0.5
popular = 0.0

[recommend.surfaces]
trending = { trending = 1.0 }
popular = { popular = 1.0 }
session = { sequential-rules = 1.0, item-knn = 0.5, content = 0.5, trending = 0.0 }
alike = { content = 1.0 }
bought-together = { bought-together = 1.0 }
complements = { bought-together = 1.0, sequential-rules = 0.5 }
basket = { bought-together = 1.0, item-knn = 0.5, trending = 0.0 }
"""


def demo(
    check: Annotated[bool, typer.Option("--check", help="Ask over HTTP and gRPC, stop the service, and end.")] = False,
    directory: Annotated[
        Path, typer.Option("--directory", help="Where catalogue and store are kept between runs.")
    ] = Path(".demo"),
) -> None:
    """Build an index version of the sample catalogue and serve it on 127.0.0.1.

    The sample is the folder that LIKEWISE_DATA names, or a small shop that is drawn for it. Visits of its people are generated,
    and sources of recommendations learn from them, so that the page at / is a shop whose shelves are alive.

    Example: `likewise demo --check`
    """
    directory.mkdir(parents=True, exist_ok=True)
    catalog = _catalog(directory)
    store = directory / "store"
    _build(catalog, store)
    _learn(store, directory)
    with _service(store, directory, free_ports=check) as service:
        _show_answers(service["http"])
        if check:
            _ask_grpc(service["grpc"])
            out.print("HTTP and gRPC answered.")
            return
        out.print(f"\n[bold]Open {service['http']}/[/] in a browser. gRPC is at {service['grpc']}. Stop with Ctrl-C.")
        _wait()


def _catalog(directory: Path) -> Path:
    named = os.environ.get(DATA)
    if named:
        catalog = Path(named) / "products_images" / "products.parquet"
        if not catalog.is_file():
            raise NotFound(
                f"[demo] {DATA} names {named}, which has no products_images/products.parquet; unset it or mend it"
            )
        return catalog
    shop = directory / "shop"
    if not (shop / "products.parquet").is_file():
        from index_builder.sample.shop import write_sample_shop

        err.print(f"{DATA} is not set: drawing a sample shop in {shop}")
        drawn = directory / f"shop.{os.getpid()}"
        write_sample_shop(drawn)
        drawn.rename(shop)
    return shop / "products.parquet"


def _build(catalog: Path, store: Path) -> None:
    from index_builder.catalog.catalog import open_catalog

    digest = open_catalog(catalog, images_dir=catalog.parent).digest
    if (store / "versions").is_dir():
        held = Store(store)
        built = held.manifest(ALIAS) if ALIAS in held.aliases() else None
        if built and (built.source.get("digest"), built.code_version) == (
            digest,
            importlib.metadata.version("likewise"),
        ):
            err.print(f"{ALIAS} is built already: {held.resolve(ALIAS)}")
            return
    command = [
        "build",
        "--catalog",
        str(catalog),
        "--images",
        str(catalog.parent),
        "--store",
        str(store),
        "--name",
        ALIAS,
    ]
    subprocess.run([sys.executable, "-m", "lifecycle", *command], check=True)


def _learn(store: Path, directory: Path) -> None:
    """Train the sources on generated visits, once for each version."""
    held = Store(store)
    version_id = held.resolve(ALIAS)
    visits, noted = directory / "visits.parquet", directory / "visits.of"
    if noted.is_file() and noted.read_text() == version_id:
        return
    from lifecycle.visits import write_visits
    from matching.interactions import EVENT_WEIGHTS, read_events
    from matching.recommend.model_store import ModelStore, model_id_of
    from matching.sources.training import train

    n_events = write_visits(held.open(version_id), visits, until=datetime.now(timezone.utc))
    err.print(f"{n_events:,} events are generated: nobody has visited this shop yet")
    models = ModelStore(store)
    for source in _LEARNT:
        weights = {"purchase": 1.0} if source == "bought-together" else EVENT_WEIGHTS
        interactions = read_events(visits, weights=weights)
        now_ms = int(interactions.at_ms[-1]) + 1
        manifest = train(models, source, interactions, now_ms=now_ms)
        models.set_alias(source, model_id_of(manifest), why="demo")
        err.print(f"{source} learnt {manifest.n_items:,} products")
    (directory / "demo.toml").write_text(_SURFACES)
    noted.write_text(version_id)


@contextmanager
def _service(store: Path, directory: Path, *, free_ports: bool) -> Iterator[Mapping[str, str]]:
    http, grpc = (0, 0) if free_ports else (port if _is_free(port) else 0 for port in _PORTS)
    command = ["--settings", str(directory / "demo.toml"), "serve", "--store", str(store), "--name", ALIAS]
    command += ["--events", str(directory / "events.sqlite"), "--quiet", "--json"]
    command += ["--http-port", str(http), "--grpc-port", str(grpc)]
    process = subprocess.Popen([sys.executable, "-m", "lifecycle", *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Unavailable(f"[demo] the service ended with status {process.wait()} before it listened; see above")
        service = cast(dict[str, str], json.loads(line))
        _until_ready(service["http"], process)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _until_ready(address: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Unavailable(f"[demo] the service ended with status {process.returncode}; see above")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise Unavailable(f"[demo] the service was not ready within {_START_S:g} s; try `likewise serve` and read its log")


def _show_answers(address: str) -> None:
    first = None
    for text in _TEXTS:
        answer = _post(f"{address}/v1/search", {"text": text, "k": 4})
        _show(f"“{text}”", answer)
        first = first or answer["neighbors"][0]["datapoint"]["datapointId"]
    answer = _get(f"{address}/v1/items/{urllib.parse.quote(str(first), safe='')}/similar?k=4")
    _show(f"similar to {first}", answer)


def _show(asked: str, answer: Mapping[str, Any]) -> None:
    neighbors = answer["neighbors"]
    if not neighbors:
        raise Unavailable(f"[demo] the service found nothing for {asked}; look at `likewise versions show`")
    rows = [
        (n["datapoint"]["datapointId"], f"{n['distance']:.3f}", n["datapoint"]["embeddingMetadata"].get("title"))
        for n in neighbors
    ]
    print_table(f"\n{asked}", ["id", ">distance", "title"], rows)


def _post(url: str, body: object) -> Mapping[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return cast(Mapping[str, Any], json.load(answer))


def _get(url: str) -> Mapping[str, Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310
        return cast(Mapping[str, Any], json.load(answer))


def _ask_grpc(address: str) -> None:
    from serving.client.question import ask_text

    if not ask_text(address, _TEXTS[0], k=4):
        raise Unavailable(f"[demo] gRPC at {address} found nothing for {_TEXTS[0]!r}")


def _wait() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        err.print("stopping")
