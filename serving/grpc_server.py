"""The listener of gRPC: connections of our own where nghttp2 is there to build them on, grpcio's server otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from matching.errors import InvalidInput
from serving.grpc_call import Details
from serving.grpc_connection import GrpcConnection
from serving.metrics import Metrics
from serving.settings import ServingSettings

_http2: Any = None
with contextlib.suppress(ImportError):  # where it was built without nghttp2
    _http2 = importlib.import_module("cpp_ext._http2")

_LOOK_S: Final = 1.0  # between two looks at every connection
_BACKLOG: Final = 1024


def has_own_connections(settings: ServingSettings) -> bool:
    """Whether gRPC is answered over connections of our own.

    Raises:
        InvalidInput: the settings ask for them, and this program was built without nghttp2.
    """
    if settings.grpc_server == "own" and _http2 is None:
        raise InvalidInput(
            "[serve] serving.grpc_server is own, and the native module was built without nghttp2; install its headers "
            "(libnghttp2-dev) and install likewise again, or leave the setting at auto"
        )
    return settings.grpc_server != "grpcio" and _http2 is not None


class GrpcServer:
    """Takes connections and gives their calls to handlers: of `grpc.aio.Server` what this service uses.

    Belongs to one event loop.
    """

    def __init__(
        self,
        *,
        settings: ServingSettings,
        metrics: Metrics,
        max_message_bytes: int,
        door: Callable[[Details, Callable[[Details], Any]], Any] | None = None,
    ) -> None:
        """Hold no handlers yet.

        Args:
            door: gives the handler of a call, or what refuses it, from what looks a handler up.
        """
        self.max_message_bytes = max_message_bytes
        self._settings = settings
        self._metrics = metrics
        self._handlers: list[Any] = []
        self._of_method: dict[str, Any] = {}  # which of them, as they were found
        self._connections: set[GrpcConnection] = set()
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._listening: asyncio.Server | None = None
        self._looking: asyncio.Task[None] | None = None
        self._find: Callable[[Details], Any] = self._look_up
        if door is not None:
            self._find = lambda details: door(details, self._look_up)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Add handlers; generated code calls it."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Do nothing: generated code tells the same handlers twice, in two ways."""

    def bind(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Bind and return the port obtained.

        Raises:
            OSError: the address is taken or not ours.
        """
        info = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(info[0], socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(info[4])
        except OSError:
            listener.close()
            raise
        self._socket, self._tls = listener, tls
        return int(listener.getsockname()[1])

    async def start(self) -> None:
        """Take connections."""
        assert self._socket is not None
        loop: Any = asyncio.get_running_loop()
        limit_s = self._settings.receive_deadline_s
        limits = {} if self._tls is None else {"ssl_handshake_timeout": limit_s, "ssl_shutdown_timeout": limit_s}
        self._listening = await loop.create_server(
            self._connection, sock=self._socket, ssl=self._tls, backlog=_BACKLOG, **limits
        )
        self._looking = asyncio.create_task(self._look(), name="grpc connections")

    async def stop(self, grace_s: float) -> None:
        """Take no more connections or calls, and wait `grace_s` seconds for those under way."""
        if self._listening is not None:
            self._listening.close()
        for connection in list(self._connections):
            connection.leave()
        until = time.monotonic() + grace_s
        while any(connection.n_calls for connection in self._connections) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.close()
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    def joined(self, connection: GrpcConnection) -> bool:
        """Note a connection; False where there are too many."""
        if len(self._connections) >= self._settings.max_connections:
            return False
        self._connections.add(connection)
        return True

    def parted(self, connection: GrpcConnection) -> None:
        """Note that a connection is gone."""
        self._connections.discard(connection)

    def _connection(self) -> GrpcConnection:
        http2 = _http2.Connection(
            n_streams=self._settings.grpc_streams,
            header_bytes=self._settings.max_header_bytes,
            message_bytes=self.max_message_bytes,
        )
        return GrpcConnection(self, http2, self._find, settings=self._settings, metrics=self._metrics)

    def _look_up(self, details: Details) -> Any:
        known = self._of_method.get(details.method)
        if known is not None:
            return known.service(details)
        for each in self._handlers:
            if (handler := each.service(details)) is not None:
                self._of_method[details.method] = each
                return handler
        return None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.look(now)
