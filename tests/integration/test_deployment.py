"""Versions exchanged under load, by a real service: no request fails, no answer is of two versions, no write is lost."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from matching.datapoint import Datapoint
from matching.store import Store
from tests.services import Shop
from tests.versions import build_version

if TYPE_CHECKING:
    from tests.services import Service, Start

DIM = 16
N = 400


def new_version(store: Store, mark: str, n: int = N, **build: Any) -> str:
    """Publish a version whose ids begin with its mark; the first ten ids are in every version."""
    rng = np.random.default_rng(7)
    ids = [f"0-{at}" if at < 10 else f"{mark}-{at:04d}" for at in range(n)]
    points = [Datapoint(each, metadata={"mark": mark}) for each in ids]
    vectors = rng.normal(size=(n, DIM)).astype(np.float32)
    return build_version(store, points, vectors, "l2", build={"plan": "flat", "threads": 1, **build}).version_id


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A store with one version, `a`, under the alias `shop`."""
    store = Store(tmp_path / "store", create=True)
    store.set_alias("shop", new_version(store, "a"), why="test")
    return Shop(store.path, "shop")


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = 60) -> None:
    """Wait until something holds; fail where it never does."""
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.02)


def served(service: Service) -> str:
    """Return the version that answers."""
    return str(service.ask("GET", "/v1/versions/current")[2]["versionId"])


def wait_for(service: Service, version_id: str) -> None:
    """Wait until a version answers."""
    wait_until(lambda: served(service) == version_id, f"{version_id} answers: {service.log.read_text()[-3000:]}")


@dataclass
class Load:
    """What threads that ask without pause were told."""

    n_answered: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)


@contextmanager
def load(service: Service, marks: dict[str, str], *, n_threads: int = 2, pause_s: float = 0.002) -> Iterator[Load]:
    """Ask for neighbours until the block ends; each answer must be whole, and of one version."""
    told, is_over, lock = Load(), threading.Event(), threading.Lock()
    host = service.http.removeprefix("http://")
    body = json.dumps(
        {"queries": [{"datapoint": {"featureVector": [at] * DIM}, "neighborCount": 50} for at in (0.1, -1)]}
    )

    def ask() -> None:
        connection = http.client.HTTPConnection(host, timeout=30)
        while not is_over.is_set():
            began = time.perf_counter()
            try:
                connection.request("POST", "/v1/findNeighbors", body)
                answer = connection.getresponse()
                content = json.loads(answer.read())
                fault = "" if answer.status == 200 else f"{answer.status} {content}"
            except OSError as error:
                fault, content = repr(error), {}
            with lock:
                told.seconds.append(time.perf_counter() - began)
                if fault:
                    told.faults.append(fault)
                    continue
                told.n_answered += 1
                told.versions.add(content["indexVersion"])
                of = {n["datapoint"]["datapointId"][0] for q in content["nearestNeighbors"] for n in q["neighbors"]}
                if of - {"0"} - {marks[content["indexVersion"]]}:
                    told.faults.append(f"{content['indexVersion']} answered with items of {sorted(of)}")
            time.sleep(pause_s)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_versions_are_exchanged_under_load_without_a_failed_or_mixed_answer(shop: Shop, start_service: Start) -> None:
    switches_under_load(shop, start_service, n_switches=4)


@pytest.mark.slow
def test_a_hundred_switches_under_load(shop: Shop, start_service: Start) -> None:
    switches_under_load(shop, start_service, n_switches=100)


def switches_under_load(shop: Shop, start_service: Start, *, n_switches: int) -> None:
    store = Store(shop.store)
    marks = {store.resolve("shop"): "a"} | {new_version(store, mark): mark for mark in "bc"}
    ids = list(marks)
    with start_service(shop, follow_s=0.05) as service:
        service.wait_until_ready()
        with load(service, marks) as told:
            for at in range(1, n_switches + 1):
                store.set_alias("shop", ids[at % 3], why="test")
                wait_for(service, ids[at % 3])
        assert told.faults == []
        assert told.n_answered > 20 * n_switches
        assert told.versions == set(ids)
        metrics = service.ask("GET", "/metrics")[2].decode()
        assert f'likewise_version_switches_total{{served="shop"}} {float(n_switches)}' in metrics
        line = f'likewise_variant_version{{index_version="{ids[n_switches % 3]}",served="shop",variant="shop"}} 1.0'
        assert [row for row in metrics.splitlines() if row.startswith("likewise_variant_version{")] == [line]
