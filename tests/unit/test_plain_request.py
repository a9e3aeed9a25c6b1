"""Heads that are read without a parser: what is read is what the parser reads, and what it reads in another way is not."""

from __future__ import annotations

import math

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.plain_request import plain_request

MOST = 32 * 1024
LINE = b"POST /v1/findNeighbors HTTP/1.1\r\n"


class Parsed:
    """What httptools makes of bytes."""

    def __init__(self, data: bytes) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.n_complete = 0
        self.is_kept = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(data)
        self.method, self.version = self._parser.get_method(), self._parser.get_http_version()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.n_complete += 1
        self.is_kept = self._parser.should_keep_alive()


PIECES = [
    *(b"Host: x\r\n", b"Connection: keep-alive\r\n", b"connection: close\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Content-Length: 3\r\n", b"content-length: 0\r\n", b"Content-Length : 3\r\n", b"Content-Length:3\r\n"),
    *(b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"grpc-timeout: 250m\r\n", b"X-Server-Timeout: 0.5\r\n"),
    *(
        b"x: content-length: 4\r\n",
        b"x: y\n",
        b"x: y\r",
        b" folded\r\n",
        b"x: \xc3\xa9\r\n",
        b": y\r\n",
        b"x\r\n",
        b"x: \0\r\n",
    ),
]
HEADS = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=6).map(b"".join)


@given(st.sampled_from([LINE, b"POST /a HTTP/1.0\r\n", b"GET /a HTTP/1.1\r\n", b"POST /a?b HTTP/1.1\r\n"]), HEADS)
@example(LINE, b"Content-Length: 3\r\n")
@example(LINE, b"Content-Length: 3\r\nContent-Length: 5\r\n")
@example(LINE, b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")
def test_what_is_read_is_one_request_to_the_parser_too(line: bytes, head: bytes) -> None:
    data = line + head + b"\r\n"
    request = plain_request(data, MOST)
    if request is None:
        return
    body = b"b" * request.n_body_bytes
    parsed = Parsed(data + body)
    assert request.n_head_bytes == len(data)
    assert (parsed.method, parsed.version, parsed.n_complete, parsed.is_kept) == (b"POST", "1.1", 1, True)
    assert parsed.body == body
    assert not {b"expect", b"upgrade", b"transfer-encoding"} & {name for name, _ in parsed.headers}


def test_an_ordinary_head() -> None:
    head = LINE + b"Host: x\r\ngrpc-timeout: 250m\r\nAccept: */*\r\nContent-Length: 14000\r\n\r\n"
    request = plain_request(head + b"{" * 20_000, MOST)
    assert request == ("search", 0.25, len(head), 14000)
    by_seconds = plain_request(head.replace(b"grpc-timeout: 250m", b"X-Server-Timeout: 0.5"), MOST)
    assert by_seconds is not None
    assert by_seconds.timeout_s == 0.5
    unsaid = plain_request(head.replace(b"grpc-timeout: 250m\r\n", b""), MOST)
    assert unsaid is not None
    assert unsaid.timeout_s == math.inf


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"POST",
        LINE + b"content-length: 3\r\n",
        LINE + b"\r\n",
        LINE + b"content-length: 3\r\ncontent-length: 3\r\n\r\n",
        LINE + b"content-length: 3\r\nconnection: close\r\n\r\n",
        LINE + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        LINE + b"content-length: 3\r\nexpect: 100-continue\r\n\r\n",
        LINE + b"content-length: 3\r\ngrpc-timeout: soon\r\n\r\n",
        LINE + b"x: " + b"y" * MOST + b"\r\ncontent-length: 3\r\n\r\n",
    ],
)
def test_anything_else_is_left_to_the_parser(head: bytes) -> None:
    assert plain_request(head, MOST) is None
