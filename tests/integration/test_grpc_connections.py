"""gRPC connections of our own: what a client may do wrong, whatever the pieces, and that nobody else notices."""

from __future__ import annotations

import contextlib
import importlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import psutil
import pytest

from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import MatchServiceStub
from tests.services import Service, Shop, Start

pytest.importorskip("cpp_ext._http2", reason="built without nghttp2: apt-get install libnghttp2-dev, make setup")
LIMIT_S = 1.0
PATH = "/likewise.v1.MatchService/FindNeighbors"
CALL = pb.FindNeighborsRequest(
    queries=[pb.FindNeighborsRequest.Query(datapoint=pb.IndexDatapoint(datapoint_id="item-0042"))]
)
LARGE = pb.FindNeighborsRequest(
    queries=[pb.FindNeighborsRequest.Query(datapoint=pb.IndexDatapoint(datapoint_id="item-0042"), neighbor_count=100)]
    * 20,
    return_full_datapoint=True,
)


@pytest.fixture(scope="module")
def service(vector_shop: Shop, start_service: Start) -> Iterator[Service]:
    limits = {"receive_deadline_s": LIMIT_S, "send_deadline_s": LIMIT_S, "max_connections": 40, "max_wait_s": 30.0}
    with start_service(vector_shop, grpc_server="own", **limits) as running:
        running.wait_until_ready()
        yield running


class Client:
    """A client of HTTP/2 that does as it is told, and not what it should."""

    def __init__(self, service: Service, **settings: int) -> None:
        host, _, port = service.grpc.partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
        self.http2.local_settings.update({getattr(h2.settings.SettingCodes, name): at for name, at in settings.items()})
        self.http2.initiate_connection()
        self.send()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self) -> None:
        self.socket.sendall(self.http2.data_to_send())

    def ask(self, *more: tuple[str, str], path: str = PATH, kind: str = "application/grpc") -> int:
        """Send the head of a call and return the call."""
        stream = self.http2.get_next_available_stream_id()
        own = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("content-type", kind)]
        self.http2.send_headers(stream, [*own, *more])
        self.send()
        return int(stream)

    def give(self, stream: int, content: bytes, *, is_last: bool = True) -> None:
        self.http2.send_data(stream, content, end_stream=is_last)
        self.send()

    def told(self, stream: int | None) -> dict[str, str]:
        """Read until a call, or for None the connection, has ended; return what its headers said."""
        headers: dict[str, str] = {}
        while data := self.socket.recv(65536):
            for event in self.http2.receive_data(data):
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    if event.stream_id == stream:
                        headers |= {_text(name): _text(value) for name, value in event.headers}
                elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    return headers
                elif isinstance(event, h2.events.ConnectionTerminated) and stream is None:
                    headers["goaway"] = str(int(event.error_code or 0))
            self.send()
        return headers


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def framed(message: bytes, *, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def answers(service: Service) -> bool:
    with grpc.insecure_channel(service.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return len(MatchServiceStub(channel).FindNeighbors(CALL, timeout=30).nearest_neighbors) == 1


def refusals(service: Service, reason: str) -> float:
    name = f'likewise_refused_requests_total{{reason="{reason}",transport="grpc"}}'
    lines = service.ask("GET", "/metrics")[2].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_a_call_in_pieces_of_a_byte_is_answered(service: Service) -> None:
    with Client(service) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = client.ask(("te", "trailers"))
        for at, byte in enumerate(content := framed(CALL.SerializeToString())):
            client.give(stream, bytes([byte]), is_last=at + 1 == len(content))
        told = client.told(stream)
    assert told[":status"], told["grpc-status"] == ("200", "0")
    assert told["x-request-id"]


@pytest.mark.parametrize(
    ("asked", "content", "status", "says"),
    [
        ({"path": "/likewise.v1.MatchService/No"}, b"", "12", "there is no method"),
        ({"path": "/"}, b"", "12", "there is no method"),
        ({"kind": "application/json"}, b"", "12", "this is no gRPC call"),
        ({}, b"", "13", "has no message"),
        ({}, framed(b"\xff"), "3", "are not a likewise.v1.FindNeighborsRequest"),
        ({}, framed(b"", flag=1), "13", "compressed by 'identity'"),
        ({}, struct.pack(">BI", 0, 2**31), "8", "2,147,483,648 bytes"),
    ],
    ids=["method", "path", "kind", "empty", "message", "compressed", "length"],
)
def test_what_is_no_call_is_refused(
    service: Service, asked: dict[str, str], content: bytes, status: str, says: str
) -> None:
    with Client(service) as client:
        stream = client.ask(**asked)
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            client.give(stream, content)
        told = client.told(stream)
    assert told["grpc-status"] == status, told
    assert says in told["grpc-message"].replace("%2C", ",")
    assert answers(service)


@pytest.mark.parametrize(
    ("name", "value", "status", "says"),
    [
        ("x-large", "y" * 40_000, "8", "metadata have more than 32,768 bytes"),
        ("x-odd-bin", "%%%", "13", "x-odd-bin are not base64"),
        ("grpc-timeout", "soon", "13", "grpc-timeout is 'soon'"),
        ("grpc-timeout", "1n", "4", ""),
    ],
)
def test_metadata_that_are_wrong_are_refused(service: Service, name: str, value: str, status: str, says: str) -> None:
    with Client(service) as client:
        stream = client.ask((name, value))
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            client.give(stream, framed(CALL.SerializeToString()))
        told = client.told(stream)
    assert told["grpc-status"] in (status, "8"), told
    assert says in told.get("grpc-message", "")


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_read(service: Service, kind: grpc.Compression) -> None:
    with grpc.insecure_channel(service.grpc, compression=kind) as channel:
        find: Any = MatchServiceStub(channel).FindNeighbors
        answer = find(LARGE, timeout=30, metadata=(("x-some-bin", b"\x00\xff"),))
    assert len(answer.nearest_neighbors) == 20


def test_a_message_that_unpacks_to_far_too_much_is_refused(service: Service) -> None:
    import zlib

    packed = zlib.compress(bytes(48 * 2**20))
    with Client(service) as client:
        stream = client.ask(("grpc-encoding", "deflate"))
        content = framed(packed, flag=1)
        for at in range(0, len(content), 16_000):
            client.give(stream, content[at : at + 16_000], is_last=at + 16_000 >= len(content))
        told = client.told(stream)
    assert told["grpc-status"] == "13"
    assert "or is cut" in told["grpc-message"]


@pytest.mark.parametrize("sent", [b"", b"PRI * HT", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", bytes(100)])
def test_what_is_no_http2_loses_its_connection(service: Service, sent: bytes) -> None:
    host, _, port = service.grpc.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as held:
        held.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            while held.recv(65536):
                pass
    assert answers(service)


def test_a_message_that_does_not_come_is_not_waited_for(service: Service) -> None:
    before = refusals(service, "slow_client")
    with Client(service) as client:
        streams = [client.ask() for _ in range(10)]
        for stream in streams:
            client.give(stream, framed(CALL.SerializeToString())[:-1], is_last=False)
        assert answers(service)
        told = [client.told(stream) for stream in streams[:1]]
    assert [each["grpc-status"] for each in told] == ["4"]
    assert "did not come in time" in told[0]["grpc-message"]
    assert refusals(service, "slow_client") >= before + 1


@pytest.mark.parametrize("window", [0, 100], ids=["window", "socket"])
def test_who_does_not_take_answers_is_let_go(service: Service, window: int) -> None:
    before, rss = refusals(service, "slow_client"), psutil.Process(service.process.pid).memory_info().rss
    large = {"INITIAL_WINDOW_SIZE": 0} if window == 0 else {"INITIAL_WINDOW_SIZE": 2**31 - 1}
    with Client(service, **large) as client:
        if window:
            client.http2.increment_flow_control_window(2**31 - 1 - 65_535)
            client.send()
        for _ in range(30):
            client.give(client.ask(), framed(LARGE.SerializeToString()))
        for _ in range(200):
            assert answers(service)
            if refusals(service, "slow_client") > before:
                break
            time.sleep(0.05)
        assert refusals(service, "slow_client") == before + 1
        with contextlib.suppress(ConnectionResetError):
            while client.socket.recv(1 << 20):
                pass
    assert psutil.Process(service.process.pid).memory_info().rss - rss < 64 * 2**20


def test_calls_that_are_reset_at_once_cost_little_and_harm_nobody(service: Service) -> None:
    rss = psutil.Process(service.process.pid).memory_info().rss
    with Client(service) as client, contextlib.suppress(ConnectionError, h2.exceptions.ProtocolError):
        for _ in range(300):
            for _ in range(100):
                stream = client.http2.get_next_available_stream_id()
                client.http2.send_headers(
                    stream, [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "x")]
                )
                client.http2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            client.send()
    assert answers(service)
    assert psutil.Process(service.process.pid).memory_info().rss - rss < 32 * 2**20
    assert "likewise_in_flight_requests 1.0" in service.ask("GET", "/metrics")[2].decode().splitlines()


def test_more_connections_than_may_be_are_closed(service: Service) -> None:
    before = refusals(service, "overload")
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(Client(service)) for _ in range(45)]
        last = clients[-1]
        with contextlib.suppress(ConnectionError):
            while last.socket.recv(65536):
                pass
        assert refusals(service, "overload") >= before + 5
        stream = clients[0].ask()
        clients[0].give(stream, framed(CALL.SerializeToString()))
        assert clients[0].told(stream)["grpc-status"] == "0"
    for _ in range(100):
        with contextlib.suppress(grpc.RpcError):
            if answers(service):
                break
        time.sleep(0.05)
    else:
        pytest.fail("the places of closed connections are not given back")


def test_connections_of_an_age_are_exchanged_without_a_failed_call(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop, grpc_server="own", grpc_connection_age_s=1) as service:
        service.wait_until_ready()
        with Client(service) as idle, grpc.insecure_channel(service.grpc) as channel:
            ends: list[dict[str, str]] = []
            waiting = threading.Thread(target=lambda: ends.append(idle.told(None)))
            waiting.start()
            find = MatchServiceStub(channel).FindNeighbors
            while waiting.is_alive():
                assert len(find(CALL, timeout=30).nearest_neighbors) == 1
            waiting.join()
            assert ends == [{"goaway": "0"}]
            for _ in range(50):
                assert len(find(CALL, timeout=30).nearest_neighbors) == 1


@pytest.mark.parametrize("server", ["own", "grpcio"])
def test_both_servers_answer_alike(vector_shop: Shop, start_service: Start, server: str) -> None:
    with start_service(vector_shop, grpc_server=server) as service, grpc.insecure_channel(service.grpc) as channel:
        service.wait_until_ready()
        answer = MatchServiceStub(channel).FindNeighbors(LARGE, timeout=30)
        assert [len(each.neighbors) for each in answer.nearest_neighbors] == [100] * 20
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/likewise.v1.MatchService/No")(b"", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_setting_that_cannot_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from matching.errors import InvalidInput
    from serving import ServingSettings

    module = importlib.import_module("serving.grpc_server")
    monkeypatch.setattr(module, "_http2", None)
    assert not module.has_own_connections(ServingSettings())
    with pytest.raises(InvalidInput, match="built without nghttp2"):
        module.has_own_connections(ServingSettings(grpc_server="own"))
