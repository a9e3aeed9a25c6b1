"""Clients that send or read too slowly, or far too much, lose their connection; nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import psutil
import pytest

from tests.services import Service, Shop, Start

LIMIT_S = 1.0
HEAD = b"POST /v1/findNeighbors HTTP/1.1\r\nhost: x\r\n"
QUERY = {"queries": [{"datapoint": {"datapointId": "item-0042"}, "neighborCount": 3}]}
N_SLOW = pytest.mark.parametrize("n_slow", [60, pytest.param(500, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def service(vector_shop: Shop, start_service: Start) -> Iterator[Service]:
    with start_service(vector_shop, receive_deadline_s=LIMIT_S, send_deadline_s=LIMIT_S) as running:
        running.wait_until_ready()
        yield running


def connected(service: Service) -> socket.socket:
    host, _, port = service.http.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def rss(service: Service) -> int:
    return int(psutil.Process(service.process.pid).memory_info().rss)


def ended(held: socket.socket) -> bytes:
    """Return what a client still reads until its connection has ended."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := held.recv(65536):
            got += part
    return got


@N_SLOW
@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/find", HEAD + b"x-slow: ", HEAD + b"content-length: 1000\r\n\r\n{"],
    ids=["nothing", "line", "head", "body"],
)
def test_who_does_not_send_is_let_go_while_others_are_served(service: Service, sent: bytes, n_slow: int) -> None:
    before = rss(service)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(service)) for _ in range(n_slow)]
        stop = threading.Event()

        def dribble() -> None:
            for one in slow:
                with contextlib.suppress(OSError):
                    one.sendall(sent)
            while not stop.wait(0.2):
                for one in slow if sent else ():
                    with contextlib.suppress(OSError):
                        one.sendall(b"x")

        sending = threading.Thread(target=dribble)
        sending.start()
        try:
            assert {service.ask("POST", "/v1/findNeighbors", QUERY)[0] for _ in range(50)} == {200}
            answers = [ended(one) for one in slow]
        finally:
            stop.set()
            sending.join()
    assert all(not answer or b" 408 " in answer or b" 400 " in answer for answer in answers)
    assert rss(service) - before < 32 * 2**20
    assert service.ask("POST", "/v1/findNeighbors", QUERY)[0] == 200


@N_SLOW
def test_who_does_not_read_is_let_go(service: Service, vector_shop: Shop, n_slow: int) -> None:
    assert vector_shop.images is not None
    n_bytes = 30 * 2**20  # more than the buffers of both kernels' ends take
    (vector_shop.images / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(n_bytes))
    before, refused = rss(service), refusals(service)
    with contextlib.ExitStack() as stack:
        lazy: list[socket.socket] = []
        for at in range(0, n_slow, 20):
            lazy += [stack.enter_context(connected(service)) for _ in range(20)]
            for one in lazy[at:]:
                one.sendall(b"GET /images/huge.png HTTP/1.1\r\nhost: x\r\n\r\n")
            for one in lazy[at:]:
                assert one.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"  # and no more is read
        for _ in range(4000):
            assert service.ask("POST", "/v1/findNeighbors", QUERY)[0] == 200
            assert service.ask("GET", "/images/red/one%20two.png")[0] == 200  # of the same kind as what is not read
            if refusals(service) >= refused + n_slow:
                break
        assert rss(service) - before < 32 * 2**20
        for one in lazy:
            got = ended(one)
            assert len(got) < n_bytes  # what it did not take was dropped
    assert refusals(service) == refused + n_slow
    assert service.ask("POST", "/v1/findNeighbors", QUERY)[0] == 200


def refusals(service: Service) -> float:
    """Return how many clients were too slow so far."""
    name = 'likewise_refused_requests_total{reason="slow_client",transport="http"}'
    lines = service.ask("GET", "/metrics")[2].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (HEAD + b"".join(b"x-%d: y\r\n" % at for at in range(10_000)) + b"\r\n", b"431"),
        (HEAD + b"x-long: " + b"y" * 200_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"431"),
        (HEAD + b"content-length: 300000000\r\n\r\n", b"413"),
        (HEAD + b"content-length: 99999999999999999999999\r\n\r\n", b"4"),
    ],
    ids=["headers", "header", "address", "body", "length"],
)
def test_what_is_far_too_large_is_refused_and_not_kept(service: Service, head: bytes, says: bytes) -> None:
    before = rss(service)
    for _ in range(20):
        with connected(service) as held:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                held.sendall(head)
            answer = ended(held)
        # A reset may overtake the answer where the client was still sending.
        assert not answer or answer.startswith(b"HTTP/1.1 " + says), answer[:200]
    assert rss(service) - before < 32 * 2**20
    assert service.ask("POST", "/v1/findNeighbors", QUERY)[0] == 200


def test_a_body_without_end_is_refused_and_not_kept(service: Service) -> None:
    before = rss(service)
    n_sent = 0
    with connected(service) as held:
        held.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(300):
                held.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
                n_sent += 2**20
        answer = ended(held)
    assert not answer or answer.startswith(b"HTTP/1.1 413"), answer[:200]
    assert n_sent < 300 * 2**20
    assert rss(service) - before < 32 * 2**20
    assert service.ask("POST", "/v1/findNeighbors", QUERY)[0] == 200


def test_many_tiny_chunks_cost_little(service: Service) -> None:
    before = rss(service)
    with connected(service) as held:
        held.sendall(HEAD + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(50):
                held.sendall(b"6\r\n      \r\n" * 10_000)
            held.sendall(b"0\r\n\r\n")
        answer = ended(held)
    assert not answer or answer.split()[1] in (b"400", b"408"), answer[:200]
    assert rss(service) - before < 64 * 2**20
    assert service.ask("POST", "/v1/findNeighbors", QUERY)[0] == 200
