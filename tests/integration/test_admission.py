"""Requests that would not be answered in time, or would take too much, are refused at the head; places come back."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import MatchServiceStub
from tests.services import Service, Shop, Start

QUERY = {"queries": [{"datapoint": {"datapointId": "item-0042"}, "neighborCount": 3}]}
FAR = {**QUERY, "minVersion": 10**6}  # waits for a write that nobody makes, until its time is up
CALL = pb.FindNeighborsRequest(
    queries=[pb.FindNeighborsRequest.Query(datapoint=pb.IndexDatapoint(datapoint_id="item-0042"))]
)


@pytest.fixture(scope="module")
def impatient(vector_shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = str(tmp_path_factory.mktemp("log"))
    with start_service(vector_shop, write_log=log, max_wait_s=1e-6, request_deadline_s=2.0) as service:
        service.wait_until_ready()
        yield service


def until(service: Service, line: str) -> None:
    """Wait until the metrics have a line."""
    for _ in range(1000):
        if line in service.ask("GET", "/metrics")[2].decode().splitlines():
            return
    raise AssertionError(f"the metrics never say {line}")


def until_waiting(service: Service, n: int) -> None:
    """Wait until so many searches wait."""
    until(service, f'likewise_waiting_requests{{lane="search"}} {n}.0')


@contextlib.contextmanager
def one_that_waits(service: Service) -> Iterator[None]:
    """Hold a search in its lane while the block runs, and until its time is up."""
    until_waiting(service, 0)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(service.ask("POST", "/v1/findNeighbors", FAR)[0]))
    waiting.start()
    try:
        until_waiting(service, 1)
        yield
    finally:
        waiting.join()
    assert answers == [504]


def test_a_request_that_would_wait_is_refused_at_once_and_told_when_to_come_back(impatient: Service) -> None:
    with one_that_waits(impatient):
        status, headers, body = impatient.ask("POST", "/v1/findNeighbors", QUERY)
        assert (status, body["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert "1 requests of this kind wait" in body["error"]["message"]
        assert int(headers["retry-after"]) >= 1
        assert impatient.ask("GET", "/healthz")[0] == 200
        assert impatient.ask("POST", "/v1/readIndexDatapoints", {"ids": ["item-0042"]})[0] == 200
    until_waiting(impatient, 0)
    assert impatient.ask("POST", "/v1/findNeighbors", QUERY)[0] == 200
    metrics = impatient.ask("GET", "/metrics")[2].decode()
    assert 'likewise_refused_requests_total{reason="overload",transport="http"}' in metrics


def test_calls_share_the_lanes_and_give_their_places_back_when_cancelled(impatient: Service) -> None:
    with grpc.insecure_channel(impatient.grpc) as channel:
        find = MatchServiceStub(channel).FindNeighbors
        with one_that_waits(impatient):
            with pytest.raises(grpc.RpcError) as told:
                find(CALL, timeout=5)
            error = told.value
            assert isinstance(error, grpc.Call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "requests of this kind wait" in str(error.details())
            assert int(dict(error.trailing_metadata() or ())["retry-after-ms"]) >= 1
        for _ in range(5):
            waiting = find.future(pb.FindNeighborsRequest(queries=CALL.queries, min_version=10**6), timeout=5)
            waiting.cancel()
        until_waiting(impatient, 0)  # the service hears of a cancellation a moment later
        assert len(find(CALL, timeout=5).nearest_neighbors) == 1


def test_a_connection_goes_on_after_a_refusal(impatient: Service) -> None:
    host, _, port = impatient.http.removeprefix("http://").partition(":")
    content = json.dumps(QUERY).encode()
    request = b"POST /v1/findNeighbors HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content) + content
    with socket.create_connection((host, int(port)), timeout=10) as held, held.makefile("rb") as answers:

        def ask(*parts: bytes) -> tuple[int, bytes]:
            for part in parts:
                held.sendall(part)
            status = int(answers.readline().split()[1])
            length = 0
            while (line := answers.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, answers.read(length)

        with one_that_waits(impatient):
            assert ask(request)[0] == 429
            assert ask(request[:-30], request[-30:])[0] == 429  # its body comes after the refusal
        until_waiting(impatient, 0)
        assert ask(request)[0] == 200


def test_requests_under_way_have_a_number_and_a_size(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop, max_in_flight=1, max_in_flight_bytes=5000) as service:
        service.wait_until_ready()
        host, _, port = service.http.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(b"POST /v1/findNeighbors HTTP/1.1\r\nhost: x\r\ncontent-length: 400\r\n\r\n{")
            until(service, "likewise_in_flight_requests 2.0")  # itself and the slow one
            status, _, body = service.ask("POST", "/v1/findNeighbors", QUERY)
            assert status == 429
            assert "1 requests with 400 bytes are under way; at most 1 with 5,000" in body["error"]["message"]
        until(service, "likewise_in_flight_requests 1.0")
        assert service.ask("POST", "/v1/findNeighbors", QUERY)[0] == 200
        big = {**QUERY, "x": "y" * 6000}
        status, _, body = service.ask("POST", "/v1/findNeighbors", big)
        assert status == 429
        assert "at most 1 with 5,000" in body["error"]["message"]


@pytest.mark.parametrize("name", ["grpc-timeout", "x-server-timeout"])
def test_a_caller_s_deadline_is_kept_over_http(impatient: Service, name: str) -> None:
    value = {"grpc-timeout": "1n", "x-server-timeout": "0"}[name]
    until_waiting(impatient, 0)
    before = searches(impatient)
    status, _, body = impatient.ask("POST", "/v1/findNeighbors", QUERY, {name: value})
    assert (status, body["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
    assert searches(impatient) == before
    assert impatient.ask("POST", "/v1/findNeighbors", QUERY, {name: {"grpc-timeout": "5S"}.get(name, "5")})[0] == 200
    status, _, body = impatient.ask("POST", "/v1/findNeighbors", QUERY, {name: "soon"})
    assert status == 400
    assert f"{name} is 'soon'" in body["error"]["message"]


def test_expired_work_is_never_started(impatient: Service) -> None:
    """Every one of many requests with next to no time is told so, and none is searched."""
    until_waiting(impatient, 0)
    before = searches(impatient)
    statuses = {impatient.ask("POST", "/v1/findNeighbors", QUERY, {"grpc-timeout": "1u"})[0] for _ in range(100)}
    assert statuses == {504}
    assert searches(impatient) == before


def searches(service: Service) -> float:
    text = service.ask("GET", "/metrics")[2].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("likewise_queries_total"))


def test_a_connection_too_many_is_refused(vector_shop: Shop, start_service: Start, tmp_path: Path) -> None:
    with start_service(vector_shop, max_connections=2) as service:
        service.wait_until_ready()
        host, _, port = service.http.removeprefix("http://").partition(":")
        with contextlib.ExitStack() as held:
            for _ in range(2):
                held.enter_context(socket.create_connection((host, int(port)), timeout=10))
            with socket.create_connection((host, int(port)), timeout=10) as third:
                third.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                answer = third.recv(4096)
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"connections are open; at most 2" in answer
        assert service.ask("GET", "/healthz")[0] == 200
