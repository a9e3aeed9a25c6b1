"""A service that cannot read some of its version: answers are whole, say that they are not, or are refused; then all is well."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from lifecycle.cli import run
from matching.datapoint import Datapoint
from matching.store import Store
from serving.wire import likewise_pb2 as pb
from serving.wire import vertex_pb2 as vx
from serving.wire.likewise_pb2_grpc import MatchServiceStub
from tests.integration.test_deployment import counted
from tests.services import Service, Shop, Start
from tests.versions import build_version
from tests.waiting import wait_until

N, DIM, K = 1_800, 64, 10
VECTORS = np.random.default_rng(12).normal(size=(N, DIM)).astype(np.float32)
QUERIES = np.random.default_rng(13).normal(size=(5, DIM)).astype(np.float32)
BODY = {"queries": [{"datapoint": {"featureVector": q.tolist()}, "neighborCount": K} for q in QUERIES]}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A store with one version of four shards."""
    store = Store(tmp_path / "store", create=True)
    points = [Datapoint(f"{at:04d}") for at in range(N)]
    build = {"plan": "flat", "threads": 1, "shard_bytes": 1 << 17}
    build_version(store, points, VECTORS, "l2", alias="shop", build=build)
    return Shop(store.path, "shop")


def shards_of(shop: Shop) -> list[Path]:
    """Return the file of each shard."""
    directory = Store(shop.store).directory("shop")
    told = json.loads((directory / "manifest.json").read_text())
    return [directory / shard["vectors"] for shard in told["spaces"][0]["shards"]]


def nearest(missing: int | None) -> list[list[str]]:
    """Return what the queries should find where a shard is missing."""
    distances = ((QUERIES[:, None, :].astype(np.float64) - VECTORS[None]) ** 2).sum(-1)
    if missing is not None:
        distances[:, 512 * missing : 512 * (missing + 1)] = np.inf
    return [[f"{row:04d}" for row in np.argsort(of_query, kind="stable")[:K]] for of_query in distances]


def coverage_without(shard: int) -> float:
    n_lost = min(512, N - 512 * shard)
    return (N - n_lost) / N


def told(answer: Any) -> list[list[str]]:
    return [[n["datapoint"]["datapointId"] for n in each["neighbors"]] for each in answer["nearestNeighbors"]]


def state(service: Service) -> tuple[int, Any]:
    status, _, body = service.ask("GET", "/readyz")
    return status, body


def flip(file: Path) -> None:
    """Change the checksum of the checksums, in place: what is mapped is not searched with it."""
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([byte[0] ^ 1]))


def test_every_answer_without_a_shard_says_so_on_every_wire(shop: Shop, start_service: Start) -> None:
    shards = shards_of(shop)
    shards[1].rename(shards[1].with_suffix(".away"))
    share = coverage_without(1)
    with start_service(shop, partial_answers=True) as service, grpc.insecure_channel(service.grpc) as channel:
        service.wait_until_ready()
        status, _, answer = service.ask("POST", "/v1/findNeighbors", BODY, {"X-Request-Id": "partial"})
        assert (status, answer["degraded"], answer["coverage"]) == (200, True, share)
        assert told(answer) == nearest(1)
        line = service.log_line("partial")
        assert (line["degraded"], line["coverage"]) == (True, share)
        vertex = "/v1/projects/p/locations/l/indexEndpoints/shop:findNeighbors"
        answer = service.ask("POST", vertex, {"deployedIndexId": "shop", **BODY})[2]
        assert (answer["degraded"], answer["coverage"], told(answer)) == (True, share, nearest(1))
        similar = service.ask("GET", "/v1/items/0003/similar?k=3")[2]
        assert (similar["degraded"], similar["coverage"]) == (True, share)

        query = pb.FindNeighborsRequest.Query(datapoint=pb.IndexDatapoint(feature_vector=QUERIES[0]), neighbor_count=K)
        found, call = MatchServiceStub(channel).FindNeighbors.with_call(pb.FindNeighborsRequest(queries=[query]))
        assert (found.degraded, found.coverage) == (True, share)
        assert ("x-likewise-coverage", str(share)) in [tuple(each) for each in call.trailing_metadata()]
        match = channel.unary_unary(
            "/google.cloud.aiplatform.container.v1.MatchService/Match",
            request_serializer=vx.MatchRequest.SerializeToString,
            response_deserializer=vx.MatchResponse.FromString,
        )
        found, call = match.with_call(vx.MatchRequest(deployed_index_id="shop", float_val=QUERIES[0], num_neighbors=K))
        assert [neighbor.id for neighbor in found.neighbor] == nearest(1)[0]
        assert ("x-likewise-coverage", str(share)) in [tuple(each) for each in call.trailing_metadata()]

        code, readiness = state(service)
        endpoint = readiness["endpoints"]["shop"]
        assert (code, endpoint["coverage"]) == (200, {"shop": share})
        assert "is missing" in endpoint["lost"][0]
        assert counted(service, "likewise_coverage") == share
        assert counted(service, "likewise_degraded_answers_total") == 5
        assert run(["doctor", "--json", "--url", service.http]) == 1

        # a datapoint of the lost shard is there, and cannot be read
        assert service.ask("POST", "/v1/readIndexDatapoints", {"ids": ["0600"]})[0] == 503
        assert service.ask("GET", "/v1/items/0600/similar")[0] == 503
        assert service.ask("POST", "/v1/readIndexDatapoints", {"ids": ["no such"]})[0] == 404

        shards[1].with_suffix(".away").rename(shards[1])
        wait_until(lambda: state(service)[1]["endpoints"]["shop"]["coverage"]["shop"] == 1.0, "full coverage")
        answer = service.ask("POST", "/v1/findNeighbors", BODY)[2]
        assert (answer["degraded"], answer["coverage"], told(answer)) == (False, 1.0, nearest(None))
        assert service.ask("GET", "/v1/items/0600/similar")[0] == 200
        assert state(service)[1]["endpoints"]["shop"]["lost"] == []


@contextmanager
def asking(service: Service, *, is_partial: bool) -> Iterator[list[str]]:
    """Ask without pause until the block ends; yields what was wrong: an answer that is not whole and does not say so."""
    host = service.http.removeprefix("http://")
    expected = {1.0: nearest(None)} | ({coverage_without(at): nearest(at) for at in (0, 1, 3)} if is_partial else {})
    faults: list[str] = []
    n_answered, is_over = itertools.count(), threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection(host, timeout=30)
        while not is_over.is_set():
            connection.request("POST", "/v1/findNeighbors", json.dumps(BODY))
            response = connection.getresponse()
            answer = json.loads(response.read())
            next(n_answered)
            if (
                response.status == 503
                and not is_partial
                and "until the file is whole again" in answer["error"]["message"]
            ):
                continue
            if response.status != 200 or answer["degraded"] != (answer["coverage"] < 1):
                faults.append(f"{response.status} {answer}")
            elif answer["coverage"] == coverage_without(1) and told(answer) in map(nearest, (0, 1, 2)):
                continue  # three shards are of one size
            elif told(answer) != expected.get(answer["coverage"]):
                faults.append(f"answered from {answer['coverage']}: {told(answer)}")
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield faults
    finally:
        is_over.set()
        thread.join()
    assert next(n_answered) > 20


@pytest.mark.parametrize("is_partial", [True, False])
def test_each_shard_is_lost_and_found_while_searches_go_on(shop: Shop, start_service: Start, is_partial: bool) -> None:
    with start_service(shop, partial_answers=is_partial, follow_s=0.05) as service:
        service.wait_until_ready()
        with asking(service, is_partial=is_partial) as faults:
            for shard, file in enumerate(shards_of(shop)):
                flip(file)
                share = coverage_without(shard) if is_partial else 0.0
                wait_until(lambda: state(service)[1]["endpoints"]["shop"]["coverage"] == {"shop": share}, "lost")  # noqa: B023
                code, readiness = state(service)
                assert (code, readiness["verified"]) == ((200, True) if is_partial else (503, False))
                assert file.name in readiness["endpoints"]["shop"]["lost"][0]
                status, _, answer = service.ask("POST", "/v1/findNeighbors", BODY)
                assert status == (200 if is_partial else 503)
                if not is_partial:
                    assert answer["error"]["status"] == "UNAVAILABLE"
                flip(file)
                service.wait_until_ready()
                wait_until(lambda: state(service)[1]["endpoints"]["shop"]["lost"] == [], "found")
            assert faults == []


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("spoil", [Path.unlink, cut, flip])
def test_the_version_before_is_served_where_partial_answers_are_not_wanted(
    shop: Shop, start_service: Start, spoil: Callable[[Path], None]
) -> None:
    store = Store(shop.store)
    before = store.resolve("shop")
    points = [Datapoint(f"{at:04d}") for at in range(N)]
    build = {"plan": "flat", "threads": 1, "shard_bytes": 1 << 17, "seed": 5}
    after = build_version(store, points, VECTORS, "l2", alias="shop", build=build).version_id
    spoil(shards_of(shop)[2])
    with start_service(shop) as service:
        assert service.index_version == before
    with start_service(shop, partial_answers=True) as service:
        assert service.index_version == after
        service.wait_until_ready()
        assert state(service)[1]["endpoints"]["shop"]["coverage"] == {"shop": coverage_without(2)}


def test_writes_go_on_without_a_shard_and_stay_when_it_is_back(
    shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    shards = shards_of(shop)
    shutil.move(shards[0], tmp_path / "away")
    settings: dict[str, Any] = {
        "write_log": str(tmp_path / "log"),
        "compact_after_writes": 1,
        "compact_after_frac": 0.0,
    }
    with start_service(shop, partial_answers=True, follow_s=0.1, **settings) as service:
        service.wait_until_ready()
        written = service.ask(
            "POST",
            "/v1/upsertDatapoints",
            {"datapoints": [{"datapointId": "0000", "featureVector": QUERIES[0].tolist()}]},
        )[2]
        asked = {**BODY, "minVersion": written["versionToken"]}
        answer = service.ask("POST", "/v1/findNeighbors", asked)[2]
        assert (answer["degraded"], told(answer)[0][0]) == (True, "0000")
        assert answer["coverage"] == (N - 512 + 1) / N
        versions = Store(shop.store).versions()
        shutil.move(tmp_path / "away", shards[0])
        wait_until(lambda: state(service)[1]["endpoints"]["shop"]["lost"] == [], "found")
        answer = service.ask("POST", "/v1/findNeighbors", BODY)[2]
        assert (answer["degraded"], told(answer)[0][0]) == (False, "0000")
        wait_until(lambda: len(Store(shop.store).versions()) > len(versions), "what could not be compacted is")
        assert "compaction" not in [line["message"] for line in service.log_lines() if "failed" in str(line)]
