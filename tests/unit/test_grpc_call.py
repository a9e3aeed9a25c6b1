"""What the head of a call and its messages say, and who is let go for silence."""

from __future__ import annotations

import asyncio
import gzip
import math
import time
import zlib

import grpc
import pytest

from matching.errors import InvalidInput
from serving import ServingSettings
from serving.grpc_call import read_head, sent, status_trailers, unpacked
from serving.grpc_connection import GrpcConnection
from serving.grpc_server import GrpcServer
from serving.metrics import Metrics


def test_a_head_says_metadata_deadline_and_encoding() -> None:
    asked = read_head(
        [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "250m"),
            ("grpc-encoding", "gzip"),
            ("x-request-id", "a"),
            ("x-trace-bin", "AP8,AQ=="),
        ]
    )
    assert asked.metadata == (("x-request-id", "a"), ("x-trace-bin", b"\x00\xff"), ("x-trace-bin", b"\x01"))
    assert (asked.timeout_s, asked.encoding) == (0.25, "gzip")
    assert read_head([]).timeout_s == math.inf


@pytest.mark.parametrize(
    "head", [("grpc-timeout", "1x"), ("grpc-timeout", "123456789m"), ("a-bin", "A"), ("a-bin", "$$$$")]
)
def test_a_head_that_cannot_be_read_is_refused(head: tuple[str, str]) -> None:
    with pytest.raises(InvalidInput, match=head[0]):
        read_head([head])


def test_metadata_and_status_are_written_as_grpc_has_them() -> None:
    assert sent([("a", "b"), ("c-bin", b"\x00\xff")]) == [("a", "b"), ("c-bin", "AP8")]
    assert status_trailers(grpc.StatusCode.OK, "") == (("grpc-status", "0"),)
    told = status_trailers(grpc.StatusCode.NOT_FOUND, "50 % of\nGröße")
    assert told == (("grpc-status", "5"), ("grpc-message", "50 %25 of%0AGr%C3%B6%C3%9Fe"))


def test_compressed_messages_have_their_limit() -> None:
    message = bytes(range(256)) * 40
    assert unpacked(gzip.compress(message), "gzip", len(message)) == message
    assert unpacked(zlib.compress(message), "deflate", len(message)) == message
    for content, encoding, most, says in (
        (zlib.compress(message), "deflate", len(message) - 1, "more than 10,239 bytes"),
        (gzip.compress(message)[:-9], "gzip", len(message), "or is cut"),
        (message, "gzip", len(message), "is no gzip"),
        (message, "snappy", len(message), "compressed by 'snappy'"),
    ):
        with pytest.raises(InvalidInput, match=says):
            unpacked(content, encoding, most)


class _Transport:
    """What a connection tells its transport."""

    def __init__(self) -> None:
        self.written = b""
        self.end = ""

    def is_closing(self) -> bool:
        return bool(self.end)

    def write(self, content: bytes) -> None:
        self.written += content

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


def _connected(age_s: int) -> tuple[GrpcConnection, _Transport]:
    http2 = pytest.importorskip("cpp_ext._http2")
    settings, metrics, transport = ServingSettings(grpc_connection_age_s=age_s), Metrics(), _Transport()
    server = GrpcServer(settings=settings, metrics=metrics, max_message_bytes=1000)
    limits = {"n_streams": 10, "header_bytes": 1000, "message_bytes": 1000}
    connection = GrpcConnection(server, http2.Connection(**limits), lambda _: None, settings=settings, metrics=metrics)
    connection.connection_made(transport)
    connection.data_received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    return connection, transport


async def _look(seconds: list[float], *, pong_after: int = 100, age_s: int = 3600) -> list[tuple[str, bool]]:
    connection, transport = _connected(age_s)
    began, seen = time.monotonic(), []
    for at, second in enumerate(seconds):
        transport.written = b""
        if at > pong_after:
            connection.data_received(bytes([0, 0, 8, 6, 1, 0, 0, 0, 0]) + bytes(8))
        connection.look(began + second)
        seen.append((transport.end, bytes([0, 0, 8, 6, 0]) in transport.written))
    return seen


def test_who_is_silent_is_asked_once_and_then_let_go() -> None:
    seen = asyncio.run(_look([10, 59, 61, 70, 79, 82]))
    assert seen == [("", False), ("", False), ("", True), ("", False), ("", False), ("aborted", False)]


def test_who_answers_stays_until_the_age_of_a_connection() -> None:
    assert [end for end, _ in asyncio.run(_look([61, 70, 75], pong_after=0))] == ["", "", ""]
    assert [end for end, _ in asyncio.run(_look([29, 31], age_s=30))] == ["", "closed"]
