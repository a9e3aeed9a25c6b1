"""Requests that would not be answered in time, or would take too much, are refused at the head; places come back."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import grpc
import psutil
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
            return _answer(answers)

        with one_that_waits(impatient):
            assert ask(request)[0] == 429
            assert ask(request[:-30], request[-30:])[0] == 429  # its body comes after the refusal
        until_waiting(impatient, 0)
        assert ask(request)[0] == 200


def test_each_request_is_refused_once_however_its_bytes_arrive(impatient: Service) -> None:
    """Many on one connection, of kinds that the parser sees and that it does not, cut anywhere."""
    rng = random.Random(SEED)
    content = json.dumps(QUERY).encode()
    head = b"POST /v1/findNeighbors HTTP/1.1\r\nhost: x\r\n"
    plain = b"content-length: %d\r\n\r\n%b" % (len(content), content)
    unusual = b"x-name: \xc3\xa9\r\n"  # which the parser is left to read
    kinds = [head + plain, head + b"grpc-timeout: 2S\r\n" + plain, head + unusual + plain]
    host, _, port = impatient.http.removeprefix("http://").partition(":")
    n_requests = 40
    sent = b"".join(rng.choices(kinds, weights=[4, 4, 2], k=n_requests))
    cuts = sorted(rng.sample(range(1, len(sent)), 25))
    with socket.create_connection((host, int(port)), timeout=10) as held, held.makefile("rb") as answers:
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with one_that_waits(impatient):
            for start, end in itertools.pairwise([0, *cuts, len(sent)]):
                held.sendall(sent[start:end])
                time.sleep(0.001)
            told = [_answer(answers) for _ in range(n_requests)]
        assert {status for status, _ in told} == {429}, SEED
        assert all(b"requests of this kind wait" in body for _, body in told), SEED
        until_waiting(impatient, 0)
        held.sendall(kinds[0])
        assert _answer(answers)[0] == 200


def _answer(answers: BinaryIO) -> tuple[int, bytes]:
    status = int(answers.readline().split()[1])
    length = 0
    while (line := answers.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, answers.read(length)


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


SEED = 20260107
LONG = 100  # queries of a request that takes longer than 5 ms on any machine
QUERIES = [f"{at * 37:05d}" for at in range(LONG)]
N_HASTY = pytest.mark.parametrize(
    "n_hasty", [400, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)


@pytest.fixture(scope="module")
def busy(graph_shop: Shop, start_service: Start) -> Iterator[Service]:
    """A service with one thread for searches, which are long."""
    with start_service(graph_shop, search_threads=1, max_wait_s=0.2, grpc_streams=1000, grpc_backlog=1000) as service:
        service.wait_until_ready()
        yield service


@N_HASTY
def test_who_has_a_few_milliseconds_is_answered_or_not_searched_for(busy: Service, n_hasty: int) -> None:
    """Each that is told so was not searched for: what was searched is what was answered, or ran out of time on the way."""
    queries = [{"datapoint": {"datapointId": each}, "neighborCount": 100, "exact": True} for each in QUERIES]
    body = json.dumps({"queries": queries}).encode()
    before = searches(busy)
    told: Counter[str] = Counter()

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        with contextlib.closing(http.client.HTTPConnection(busy.http.removeprefix("http://"), timeout=30)) as kept:
            for _ in range(n_hasty // 20):
                kept.request("POST", "/v1/findNeighbors", body, {"grpc-timeout": f"{rng.randint(1000, 5000)}u"})
                answer = kept.getresponse()
                content = json.loads(answer.read())
                message = content["error"]["message"] if answer.status != 200 else ""
                told[f"{answer.status} on the way" if "no answer within" in message else str(answer.status)] += 1

    with ThreadPoolExecutor(20) as pool:
        for _ in pool.map(ask, range(SEED, SEED + 20)):
            pass
    until(busy, "likewise_in_flight_requests 1.0")
    n_searched = (searches(busy) - before) / LONG
    print(f"{dict(told)}, {n_searched:.0f} searched")
    assert set(told) <= {"200", "429", "504", "504 on the way"}, (SEED, told)
    assert told["200"] <= n_searched <= told["200"] + told["504 on the way"], (SEED, told)
    assert busy.ask("POST", "/v1/findNeighbors", {"queries": queries[:1]})[0] == 200


@N_HASTY
def test_calls_that_expire_or_are_cancelled_while_they_wait_are_not_searched_for(busy: Service, n_hasty: int) -> None:
    """They come fifty at once, and one search takes longer than all of them have."""
    rng = random.Random(SEED)
    request = pb.FindNeighborsRequest()
    for each in QUERIES:
        request.queries.add(exact=True, neighbor_count=100).datapoint.datapoint_id = each
    before = searches(busy)
    codes: Counter[grpc.StatusCode] = Counter()
    with grpc.insecure_channel(busy.grpc) as channel:
        find = MatchServiceStub(channel).FindNeighbors
        for _ in range(n_hasty // 50):
            calls = [find.future(request, timeout=rng.uniform(0.001, 0.005)) for _ in range(50)]
            for call in rng.sample(calls, 15):
                call.cancel()
            codes.update(call.code() for call in calls)
        until(busy, "likewise_in_flight_requests 1.0")
        n_searched = (searches(busy) - before) / LONG
        print(f"{ {code.name: n for code, n in codes.items()} }, {n_searched:.0f} searched")
        # UNAVAILABLE: gRPC's core refused the stream unread (REFUSED_STREAM) while those cancelled before were being cleared.
        expected = {"OK", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
        assert {code.name for code in codes} <= expected, (SEED, codes)
        assert n_searched < n_hasty / 5, (SEED, codes)
        assert len(find(pb.FindNeighborsRequest(queries=request.queries[:1]), timeout=30).nearest_neighbors) == 1


@pytest.mark.parametrize(
    "n_requests", [2000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_after_callers_who_never_pause_all_is_as_before(busy: Service, n_requests: int) -> None:
    """Three hundred of them ask again at once whatever they are told."""
    n_callers = 300
    body = json.dumps({"queries": [{"datapoint": {"datapointId": each}, "exact": True} for each in QUERIES[:20]]})
    head = f"POST /v1/findNeighbors HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    content = (head + body).encode()
    host, _, port = busy.http.removeprefix("http://").partition(":")
    statuses: Counter[int] = Counter()

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while sum(statuses.values()) < n_requests:
            writer.write(content)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            await reader.readexactly(int(length[1]))
            statuses[int(answer.split(b" ", 2)[1])] += 1
        writer.close()

    async def ask_all() -> None:
        health = 0
        asking = asyncio.gather(*(ask() for _ in range(n_callers)))
        while not asking.done():
            answer = await asyncio.to_thread(busy.ask, "GET", "/readyz")
            assert answer[0] == 200, answer
            health += 1
        await asking
        assert health > 0

    process = psutil.Process(busy.process.pid)
    before = process.memory_info().rss
    asyncio.run(ask_all())
    assert process.memory_info().rss - before < 100 * 2**20
    print(f"{dict(statuses)}, {(process.memory_info().rss - before) >> 20} MB more")
    assert set(statuses) <= {200, 429, 504}
    assert statuses[200] > 0
    assert statuses[429] > n_requests / 10, "it was too much"
    until_waiting(busy, 0)
    until(busy, "likewise_in_flight_requests 1.0")
    assert {busy.ask("POST", "/v1/findNeighbors", body.encode())[0] for _ in range(100)} == {200}


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


def test_a_call_is_refused_where_its_own_deadline_is_too_near(
    vector_shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    patient = {"max_wait_s": 60.0, "request_deadline_s": 60.0, "grpc_streams": 1000, "grpc_backlog": 1000}
    with (
        start_service(vector_shop, write_log=str(tmp_path / "log"), **patient) as service,
        grpc.insecure_channel(service.grpc) as channel,
    ):
        service.wait_until_ready()
        find = MatchServiceStub(channel).FindNeighbors
        far = pb.FindNeighborsRequest(queries=CALL.queries, min_version=10**6)
        waiting = [find.future(far, timeout=60) for _ in range(450)]
        until_waiting(service, 450)  # 0.45 s of work at the pace that is thought of at first
        with pytest.raises(grpc.RpcError) as told:
            find(CALL, timeout=1.2)
        error = told.value
        assert isinstance(error, grpc.Call)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "450 requests of this kind wait" in str(error.details())
        assert int(dict(error.trailing_metadata() or ())["retry-after-ms"]) >= 1
        assert len(find(CALL, timeout=30).nearest_neighbors) == 1
        for call in waiting:
            call.cancel()
        until_waiting(service, 0)
        until(service, 'likewise_refused_requests_total{reason="overload",transport="grpc"} 1.0')


def test_calls_that_nobody_looks_at_are_refused(vector_shop: Shop, start_service: Start) -> None:
    """All arrive in one moment: the service was stopped when they were sent."""
    with (
        start_service(vector_shop, grpc_server="grpcio", grpc_streams=8, grpc_backlog=8) as service,
        contextlib.ExitStack() as held,
    ):
        service.wait_until_ready()
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [held.enter_context(grpc.insecure_channel(service.grpc, own)) for _ in range(30)]
        finds = [MatchServiceStub(channel).FindNeighbors for channel in channels]
        for find in finds:
            find(CALL, timeout=30, wait_for_ready=True)
        service.process.send_signal(signal.SIGSTOP)
        try:
            calls = [find.future(CALL, timeout=60) for find in finds for _ in range(8)]
            time.sleep(0.5)
        finally:
            service.process.send_signal(signal.SIGCONT)
        codes = Counter(call.code().name for call in calls)
        assert set(codes) == {"OK", "CANCELLED"}, codes
        assert len(finds[0](CALL, timeout=30).nearest_neighbors) == 1
