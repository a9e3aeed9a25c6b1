"""gRPC connections of our own: nghttp2 reads and writes HTTP/2, here are calls, their limits, and who is let go.

A call that has no place is refused as soon as its head is there, for next to nothing. A search that need not wait never becomes a
task. Clients that are slow, silent or too many lose their connection, as they do over HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import grpc

from matching.errors import InvalidInput
from serving.admission import Refusal
from serving.eager_task import begin
from serving.grpc_admission import KEEPALIVE_TIMEOUT_S, Admitted, Refused, told
from serving.grpc_call import Aborted, Call, Details, incoming, read_head, sent, status_trailers, unpacked
from serving.metrics import Metrics
from serving.settings import ServingSettings

if TYPE_CHECKING:
    from serving.grpc_server import GrpcServer

_log = logging.getLogger(__name__)
Handle = Callable[[Any, Call], Any]  # of a request or an iterator of them
_HEAD, _MESSAGE, _TOO_LONG, _END, _CLOSED = range(5)  # what is told, by cpp_ext/http2/connection.h
_TOO_LARGE: Final = 1  # a fault of a head, from there
_WRITTEN_BYTES: Final = 256 * 1024  # at once
_MAX_WAITING: Final = 64  # messages of one call that its handler has not asked for
_GRACE_S: Final = 30.0  # for the calls of a connection that has been told to end


class GrpcConnection(asyncio.Protocol):
    """One connection of a client. Belongs to one event loop."""

    def __init__(
        self,
        server: GrpcServer,
        http2: Any,
        find: Callable[[Details], Any],
        *,
        settings: ServingSettings,
        metrics: Metrics,
    ) -> None:
        """Begin with no calls.

        Args:
            http2: a `cpp_ext._http2.Connection`.
            find: gives the handler of a call, None for none; runs in the context that the handler then has.
        """
        self._server = server
        self._http2 = http2
        self._find = find
        self._settings = settings
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._calls: dict[int, Call] = {}
        self._is_reading = False  # answers made meanwhile are written together
        self._is_paused = False
        self._made = self._heard = self._taken = time.monotonic()
        self._n_taken = self._n_seen = 0
        self._was_asked = False  # for a sign of life
        self._left = math.inf  # when the client was told to leave

    # What asyncio tells.

    def connection_made(self, transport: Any) -> None:
        """Greet the client, unless there are too many."""
        self._transport = transport
        if self._server.joined(self):
            self._flush()
        else:
            self._metrics.refused("grpc", "overload")
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was under way."""
        self._server.parted(self)
        for call in list(self._calls.values()):
            self._cancel(call)

    def data_received(self, data: bytes) -> None:
        """Read what came, and answer what can be answered at once."""
        if self._transport.is_closing():
            return
        self._heard, self._was_asked = time.monotonic(), False
        is_well, events = self._http2.receive(data)
        self._is_reading = True
        over = {stream for kind, stream, *_ in events if kind == _CLOSED}
        for kind, stream, code, held, metadata in events:
            if stream in over and kind != _CLOSED:
                continue  # its client has stopped to wait for it in the meantime
            if kind == _HEAD:
                self._begin(stream, code, held, metadata)
            elif (call := self._calls.get(stream)) is not None:
                self._tell(call, kind, code, held)
        self._is_reading = False
        self._flush()
        if not is_well or (self.is_leaving and not self._calls):
            self._transport.close()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on writing."""
        self._is_paused = False
        self._flush()

    # What the server asks.

    @property
    def is_leaving(self) -> bool:
        """Whether the client was told to begin no more calls here."""
        return self._left != math.inf

    @property
    def n_calls(self) -> int:
        """Calls under way."""
        return len(self._calls)

    def leave(self) -> None:
        """Tell the client to begin no more calls here; the connection ends with the last one."""
        if not self.is_leaving and not self._transport.is_closing():
            self._left = time.monotonic()
            self._http2.leave()
            self._flush()
            if not self._calls:
                self._transport.close()

    def close(self) -> None:
        """End all calls, and the connection."""
        for call in list(self._calls.values()):
            self._stop(call, grpc.StatusCode.UNAVAILABLE, "[serve] the service is shutting down; ask another replica")
        self._transport.close()

    def look(self, now: float) -> None:
        """Let go of a client that is too slow or silent, and of calls that came in part or are over time. Once a second."""
        settings = self._settings
        if self._n_taken != self._n_seen or not (self._is_paused or self._http2.n_unsent_bytes):
            self._taken, self._n_seen = now, self._n_taken
        is_late = not self._http2.is_greeted and now - self._made > settings.receive_deadline_s
        is_stuck = now - self._taken > settings.send_deadline_s
        if is_late or is_stuck:
            self._metrics.refused("grpc", "slow_client")
            self._transport.abort()
            return
        if now - self._heard > settings.grpc_keepalive_s + KEEPALIVE_TIMEOUT_S or now - self._left > _GRACE_S:
            self._transport.abort()
            return
        for call in list(self._calls.values()):
            if now > call.deadline:
                self._stop(call, grpc.StatusCode.DEADLINE_EXCEEDED, "[request] the call's deadline has passed")
            elif not call.has_begun and now - call.arrived > settings.receive_deadline_s:
                self._metrics.refused("grpc", "slow_client")
                self._stop(call, grpc.StatusCode.DEADLINE_EXCEEDED, "[request] the message did not come in time")
        if now - self._made > settings.grpc_connection_age_s:
            self.leave()
        elif now - self._heard > settings.grpc_keepalive_s and not self._was_asked:
            self._was_asked = True
            self._http2.ping()
            self._flush()

    # Calls.

    def write(self, call: Call, content: bytes) -> None:
        """Send one of several messages of a call."""
        if call.stream in self._calls:
            self._http2.head(call.stream, [])
            self._http2.message(call.stream, content)
            self._flush()

    def _begin(self, stream: int, fault: int, path: str, headers: tuple[tuple[str, str], ...]) -> None:
        if fault:
            self._refuse(stream, *self._fault(fault))
            return
        try:
            asked = read_head(headers)
        except InvalidInput as error:
            self._refuse(stream, grpc.StatusCode.INTERNAL, str(error))
            return
        context = copy_context()
        handler = context.run(self._find, Details(path, asked.metadata, asked.timeout_s))
        if isinstance(handler, Refused):
            self._http2.trailers(stream, _refused(handler.refusal))
        elif handler is None:
            self._refuse(stream, grpc.StatusCode.UNIMPLEMENTED, f"[request] there is no method {path[:200]}")
        else:
            self._calls[stream] = call = Call(self, stream, handler, asked, now=self._heard, context=context)
            if handler.request_streaming:
                call.messages = asyncio.Queue()
                self._run(call, self._stream(call, handler.stream_stream, incoming(call.messages)))

    def _tell(self, call: Call, kind: int, code: int, content: Any) -> None:
        if kind == _MESSAGE:
            self._take(call, code, content)
        elif kind == _CLOSED:
            self._cancel(call)
        elif kind == _TOO_LONG:
            self._metrics.refused("grpc", "limit")
            most = self._server.max_message_bytes
            too_long = f"[request] the message has {code:,} bytes; at most {most:,}; send less"
            self._stop(call, grpc.StatusCode.RESOURCE_EXHAUSTED, too_long)
        elif call.messages is not None:
            call.messages.put_nowait(None)
        elif not call.has_begun:
            self._stop(call, grpc.StatusCode.INTERNAL, "[request] the call has no message; expected one")

    def _take(self, call: Call, is_packed: int, content: bytes) -> None:
        handler = call.handler
        try:
            message = unpacked(content, call.encoding, self._server.max_message_bytes) if is_packed else content
            if handler.request_deserializer is not None:
                message = handler.request_deserializer(message)
        except Exception as error:  # whatever a parser raises
            words = str(error) if isinstance(error, InvalidInput) else "[request] the message is not of its type"
            self._stop(call, grpc.StatusCode.INTERNAL, words)
            return
        if call.messages is not None:
            if call.messages.qsize() < _MAX_WAITING:
                call.messages.put_nowait(message)
            else:
                words = (
                    f"[request] {_MAX_WAITING} messages of the call wait; expected that answers are read; send fewer"
                )
                self._stop(call, grpc.StatusCode.RESOURCE_EXHAUSTED, words)
        elif not call.has_begun:
            if handler.response_streaming:
                self._run(call, self._stream(call, handler.unary_stream, message))
            else:
                self._run(call, self._answer(call, handler.unary_unary, message))

    def _run(self, call: Call, answering: Coroutine[Any, Any, None]) -> None:
        call.has_begun = True
        if isinstance(call.handler, Admitted) and call.handler.is_quick:
            call.task = call.context.run(begin, answering, self._loop)
        else:
            call.task = call.context.run(self._loop.create_task, answering)

    async def _answer(self, call: Call, handle: Handle, request: Any) -> None:
        try:
            content = call.handler.response_serializer(await handle(request, call))
        except Exception as error:  # the top of a call
            self._fail(call, error)
            return
        _release(call)
        if self._over(call):
            self._http2.respond(call.stream, [], content, call.trailers())
            self._flush()

    async def _stream(self, call: Call, handle: Handle, request: Any) -> None:
        """Run a handler that sends any number of messages: one that yields them, or that calls `write`."""
        try:
            answering = handle(request, call)
            if isinstance(answering, AsyncIterator):
                async for message in answering:
                    await call.write(message)
            else:
                await answering
        except Exception as error:  # the top of a call
            self._fail(call, error)
            return
        self._end(call)

    def _fail(self, call: Call, error: Exception) -> None:
        if isinstance(error, NotImplementedError):  # as generated code has it
            call.set_code(grpc.StatusCode.UNIMPLEMENTED)
        elif not isinstance(error, Aborted):
            _log.error("a call failed", exc_info=error)
            call.set_code(grpc.StatusCode.UNKNOWN)
            call.set_details("[serve] the call failed; the service's log says why")
        _release(call)
        self._end(call)

    def _stop(self, call: Call, code: grpc.StatusCode, details: str) -> None:
        """End a call whatever its handler does."""
        call.set_code(code)
        call.set_details(details)
        self._end(call)
        _abandon(call)

    def _end(self, call: Call) -> None:
        if self._over(call):
            self._http2.trailers(call.stream, call.trailers())
            self._flush()

    def _cancel(self, call: Call) -> None:
        """Let go of a call that its client no longer waits for."""
        self._over(call)
        _abandon(call)

    def _over(self, call: Call) -> bool:
        """Note that a call is over; False where it was before."""
        return self._calls.pop(call.stream, None) is not None

    def _refuse(self, stream: int, code: grpc.StatusCode, details: str) -> None:
        self._http2.trailers(stream, status_trailers(code, details))

    def _fault(self, fault: int) -> tuple[grpc.StatusCode, str]:
        if fault == _TOO_LARGE:
            self._metrics.refused("grpc", "limit")
            most = self._settings.max_header_bytes
            return grpc.StatusCode.RESOURCE_EXHAUSTED, f"[request] metadata have more than {most:,} bytes; send fewer"
        return grpc.StatusCode.UNIMPLEMENTED, "[request] this is no gRPC call; expected a POST of application/grpc"

    def _flush(self) -> None:
        """Write what there is, as far as the client takes it."""
        if self._is_reading or self._transport.is_closing():
            return
        while not self._is_paused and (content := self._http2.take(_WRITTEN_BYTES)):
            self._n_taken += len(content)
            self._transport.write(content)
        if self.is_leaving and not self._calls and not self._http2.n_unsent_bytes:
            self._transport.close()


def _abandon(call: Call) -> None:
    if call.task is None:
        _release(call)
    else:
        call.task.cancel()  # and its handler gives the place back


def _release(call: Call) -> None:
    if isinstance(call.handler, Admitted):
        call.handler.ticket.release()


@lru_cache(1024)
def _refused(refusal: Refusal) -> list[tuple[str, str]]:
    code, details, trailing = told(refusal)
    return [*status_trailers(code, details), *sent(trailing)]
