"""A gRPC client that costs little: HTTP/2 with the same few frames for every call, so that not the generator is measured."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from typing import Any, Final

from load import Load

STREAMS: Final = 32  # at once on a connection, as many as the server allows
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WIDE: Final = 2**31 - 1 - 65_535
_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def call_of(path: str, message: bytes, timeout_ms: float) -> tuple[bytes, bytes]:
    """Return the payloads of a call's HEADERS and DATA."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "b",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": f"{timeout_ms:.0f}m",
    }
    literals = (
        b"\0%c%b%c%b" % (len(name), name.encode(), len(value), value.encode()) for name, value in fields.items()
    )
    return b"".join(literals), b"\0" + struct.pack(">I", len(message)) + message


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


class GrpcConnection(asyncio.Protocol):
    """Up to `STREAMS` calls at once. One is good when its answer has a message, and refused when it has none."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._head, self._data = load.call
        self._held = b""
        self._stream = -1
        self._window = 65_535
        self._blocked: deque[int] = deque()  # streams whose message has to wait for the server's window
        self._due: dict[int, float] = {}
        self._answered: set[int] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        wide = _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1)) + _frame(
            _WINDOW, 0, 0, struct.pack(">I", _WIDE)
        )
        transport.write(_GREETING + wide)

    def ask(self, due: float) -> None:
        self._stream += 2
        self._due[self._stream] = due
        head = _frame(_HEADERS, _END_HEADERS, self._stream, self._head)
        if self._window >= len(self._data) and not self._blocked:
            self._window -= len(self._data)
            self.transport.write(head + _frame(_DATA, _END_STREAM, self._stream, self._data))
        else:
            self.transport.write(head)
            self._blocked.append(self._stream)

    def data_received(self, data: bytes) -> None:
        data = self._held + data
        at = 0
        while len(data) - at >= 9:
            size, flags, stream = struct.unpack_from(">IBI", data, at)
            kind, size = size & 255, size >> 8
            if len(data) - at - 9 < size:
                break
            self._take(kind, flags, stream & 0x7FFFFFFF, data[at + 9 : at + 9 + size])
            at += 9 + size
        self._held = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA and payload:
            self._answered.add(stream)
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self.transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _WINDOW and stream == 0:
            self._window += int.from_bytes(payload, "big")
            while self._blocked and self._window >= len(self._data):
                waiting = self._blocked.popleft()
                if waiting in self._due:
                    self._window -= len(self._data)
                    self.transport.write(_frame(_DATA, _END_STREAM, waiting, self._data))
        if (kind in (_DATA, _HEADERS) and flags & _END_STREAM) or kind == _RESET:
            self._end(stream)

    def _end(self, stream: int) -> None:
        due = self._due.pop(stream, None)
        if due is None:
            return  # reset after its trailers
        if stream in self._blocked:
            self.transport.write(_frame(_RESET, 0, stream, struct.pack(">I", 8)))  # its message will not come
        is_good = stream in self._answered
        self._answered.discard(stream)
        self._load.answered(200 if is_good else 429, time.perf_counter() - due)
        self._load.free.append(self)
        self._load.freed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost += 1
