"""One gRPC call on a connection of our own: what its handler may ask of it, and how its end is written."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextvars import Context
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import grpc

from matching.errors import InvalidInput
from serving.admission import timeout_of

if TYPE_CHECKING:
    from serving.grpc_connection import GrpcConnection

Metadata = Sequence[tuple[str, str | bytes]]
Trailers = list[tuple[str, str]]
_GZIP: Final = 16 + zlib.MAX_WBITS
_WINDOWS: Final = {"gzip": _GZIP, "deflate": zlib.MAX_WBITS}
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")  # what a message says as it is
_BINARY: Final = "-bin"  # the end of the names whose values are bytes
_OWN: Final = frozenset({"content-type", "te", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"})  # gRPC's


class Aborted(Exception):
    """A handler has ended its call by `Call.abort`."""


class Details(NamedTuple):
    """What is known of a call when its head is there: what grpcio calls `HandlerCallDetails`."""

    method: str
    invocation_metadata: Metadata
    left_s: float  # until its deadline, infinity without one


class Asked(NamedTuple):
    """What the head of a call says."""

    metadata: Metadata
    timeout_s: float
    encoding: str  # of messages that say that they are compressed


def read_head(given: Sequence[tuple[str, str]]) -> Asked:
    """Return what the headers of a call say.

    Raises:
        InvalidInput: a timeout or a value in base64 is none.
    """
    metadata: list[tuple[str, str | bytes]] = []
    timeout, encoding = None, "identity"
    for name, value in given:
        if name == "grpc-timeout":
            timeout = value
        elif name == "grpc-encoding":
            encoding = value
        elif name.endswith(_BINARY):
            metadata += ((name, each) for each in _bytes_of(name, value))
        elif name not in _OWN:
            metadata.append((name, value))
    return Asked(tuple(metadata), timeout_of(timeout, None), encoding)


def unpacked(content: bytes, encoding: str, most: int) -> bytes:
    """Return a message that came compressed, of `most` bytes or fewer.

    Raises:
        InvalidInput: it is none, longer, or compressed in a way that is not known here.
    """
    window = _WINDOWS.get(encoding)
    if window is None:
        raise InvalidInput(f"[request] a message is compressed by {encoding[:50]!r}; expected gzip or deflate")
    try:
        reader = zlib.decompressobj(window)
        message = reader.decompress(content, most + 1)
    except zlib.error as error:
        raise InvalidInput(
            f"[request] a message is no {encoding}: {error}; expected what grpc-encoding says"
        ) from error
    if len(message) > most or not reader.eof:
        raise InvalidInput(f"[request] a message has more than {most:,} bytes, or is cut; send all of less")
    return message


@lru_cache(256)
def status_trailers(code: grpc.StatusCode, details: str) -> tuple[tuple[str, str], ...]:
    """Return the trailers that tell how a call ended."""
    told = (("grpc-status", str(code.value[0])),)
    return (*told, ("grpc-message", quote(details, safe=_PLAIN))) if details else told


def sent(metadata: Metadata) -> Trailers:
    """Return metadata as they are written."""
    return [
        (name, base64.b64encode(value).rstrip(b"=").decode() if isinstance(value, bytes) else value)
        for name, value in metadata
    ]


class Call:
    """One call: of grpcio's `ServicerContext` what the handlers of this service use. Belongs to one event loop."""

    __slots__ = (
        "_connection",
        "_details",
        "_trailing",
        "arrived",
        "code",
        "context",
        "deadline",
        "encoding",
        "handler",
        "has_begun",
        "messages",
        "metadata",
        "stream",
        "task",
    )

    def __init__(
        self, connection: GrpcConnection, stream: int, handler: Any, asked: Asked, *, now: float, context: Context
    ) -> None:
        self._connection = connection
        self._details = ""
        self._trailing: Metadata = ()
        self.arrived = now
        self.code = grpc.StatusCode.OK
        self.context = context
        self.deadline = now + asked.timeout_s
        self.encoding = asked.encoding
        self.handler = handler
        self.has_begun = False  # its handler has what it needs
        self.messages: asyncio.Queue[Any] | None = None  # of a client that sends several; None ends them
        self.metadata = asked.metadata
        self.stream = stream
        self.task: asyncio.Task[None] | None = None

    def invocation_metadata(self) -> Metadata:
        """Return what the client sent with the call; values of names that end in `-bin` are bytes."""
        return self.metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the client's deadline, None where it has none."""
        return None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set what is sent at the end."""
        self._trailing = metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status of a call that its handler ends by returning."""
        self.code = code

    def set_details(self, details: str) -> None:
        """Set the words beside it."""
        self._details = details

    async def write(self, message: Any) -> None:
        """Send one of several messages."""
        self._connection.write(self, self.handler.response_serializer(message))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        """End the call with an error.

        Raises:
            Aborted: always.
        """
        self.code, self._details = code, details
        self._trailing = (*self._trailing, *trailing_metadata)
        raise Aborted

    def trailers(self) -> Trailers:
        """Return status, words and metadata as they are written."""
        return [*status_trailers(self.code, self._details), *sent(self._trailing)]


async def incoming(messages: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """Yield the messages of a client until it has sent all."""
    while (message := await messages.get()) is not None:
        yield message


def _bytes_of(name: str, value: str) -> list[bytes]:
    try:
        return [base64.b64decode(each + "=" * (-len(each) % 4), validate=True) for each in value.split(",")]
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"[request] metadata {name[:100]} are not base64; expected that of a -bin name") from error
