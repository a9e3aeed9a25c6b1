"""HTTP connections: how long a client may take to send and to read, and which requests are refused at the head."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from matching.errors import InvalidInput, Overloaded, RateLimited
from serving.admission import Admission, Refusal, Ticket, lane_of, timeout_of
from serving.eager_task import begin
from serving.intake import (
    DEADLINE,
    STATUS,
    TICKET,
    App,
    Call,
    Intake,
    Post,
    Receive,
    Reply,
    Scope,
    Send,
    error_body,
    headers_of,
)
from serving.metrics import Metrics
from serving.plain_request import plain_request
from serving.settings import ServingSettings

_UNSERVED: Final = (499, 504)
_BACKLOG: Final = 1024
_DRAINED_BYTES: Final = (
    64 * 1024
)  # a body of a refused request that is cheaper to read than a connection is to open again
_LINES: Final[dict[int, bytes]] = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}
_NOBODY: Final = asyncio.Event()  # waits for the body of a request that no application reads


def http_server(
    intake: Intake, *, settings: ServingSettings, metrics: Metrics, admission: Admission, tls: ssl.SSLContext | None
) -> uvicorn.Server:
    """Return a uvicorn server that leaves signals to us and whose connections keep the limits of the settings."""

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=[])
            self.started = False
            assert sockets is not None
            limit_s = settings.receive_deadline_s
            self.servers = [await _listening(self._new_connection, listener, tls, limit_s) for listener in sockets]
            self.started = True

        def _new_connection(self) -> Connection:
            return Connection(config, self, intake, settings, metrics, admission)

    config = uvicorn.Config(
        _Ending(intake),
        http=HttpToolsProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    return Server(config)


class _Ending:
    """Gives the place of a request back when its application has ended."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            scope[TICKET].is_served = scope.get(STATUS) not in _UNSERVED
            scope[TICKET].release()


class _Exchange:
    """A request that is answered without ASGI: what uvicorn's connection, which calls it a cycle, wants to know of it."""

    __slots__ = (
        "body",
        "call",
        "context",
        "disconnected",
        "keep_alive",
        "message_event",
        "post",
        "response_complete",
        "scope",
    )

    def __init__(self, call: Call, post: Post, context: Context, *, keep_alive: bool) -> None:
        self.call = call
        self.context = context  # all connections of a listener share theirs
        self.post = post
        self.scope = call.scope
        self.body: list[bytes] = []
        self.keep_alive = keep_alive
        self.message_event = _NOBODY
        self.disconnected = self.response_complete = False


class Connection(HttpToolsProtocol):
    """One connection of a client.

    A head, a body, and the reading of an answer each have a deadline; uvicorn itself waits for ever. A request that would not be
    answered in time is refused as soon as its head is there, without an application, a task or a look at its body. What the
    intake has a `Post` for is answered without ASGI, and without a task where nothing has to be waited for.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server: uvicorn.Server,
        intake: Intake,
        settings: ServingSettings,
        metrics: Metrics,
        admission: Admission,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server.server_state, server.lifespan.state, loop)
        self._intake = intake
        self._settings = settings
        self._metrics = metrics
        self._admission = admission
        self._arriving: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._n_head_bytes = 0
        self._ticket: Ticket | None = None
        self._is_partial = False  # the head, or the body of a request that no application reads
        self._is_refused = False  # the request whose bytes are arriving
        self._is_between = True  # requests, as the parser sees it
        self._n_unread = 0  # bytes to come of a body that the parser does not see
        self._refused_at = -math.inf  # when the parser last missed a request
        self._exchange: _Exchange | None = None  # likewise, where it is answered without ASGI

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        if self.scheme == "http":  # whatever the client does not take at once has a deadline; TLS ends have their own
            transport.set_write_buffer_limits(high=0)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what was held."""
        self._arrived()
        if self._exchange is not None:
            self._end(self._exchange.call)
        self.resume_writing()
        if self._ticket is not None and (self.cycle is None or self.cycle.scope.get(TICKET) is not self._ticket):
            self._ticket.release()
        for cycle, _ in self.pipeline:
            cycle.scope[TICKET].release()  # type: ignore[typeddict-item]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came, unless the connection is ending."""
        if self.transport.is_closing():
            return
        if self._n_unread:
            data, self._n_unread = data[self._n_unread :], max(0, self._n_unread - len(data))
        while data and self._is_between and self._admission.n_in_flight and (n_bytes := self._refuse_plain(data)):
            data, self._n_unread = data[n_bytes:], max(0, n_bytes - len(data))
        if data:
            super().data_received(data)
        if self._is_partial or self._n_unread:
            if self._arriving is None:
                self._expect()
        elif self._arriving is not None:
            self._arrived()

    def _refuse_plain(self, data: bytes) -> int:
        """Refuse an ordinary request at the front of what came, at a fraction of what the parser would cost.

        Returns:
            The bytes of the request, more than came where its body is on its way; 0 where it is for the parser.
        """
        if (self.cycle is not None and not self.cycle.response_complete) or self.flow.write_paused:
            return 0
        request = plain_request(data, self._settings.max_header_bytes)
        if request is None or request.n_body_bytes > _DRAINED_BYTES:
            return 0
        lane, timeout_s, n_head_bytes, n_body_bytes = request
        left_s = min(timeout_s, self._settings.request_deadline_s)
        refusal = self._admission.refusal(lane, left_s=left_s, n_bytes=n_body_bytes)
        if refusal is None:
            return 0
        self._metrics.refused("http", "overload")
        self.transport.write(_refused(refusal))
        self._refused_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._keep()
        return n_head_bytes + n_body_bytes

    def _keep(self) -> None:
        """Wait for the next request for as long as connections are kept."""
        later = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self.timeout_keep_alive_task = later

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nothing came over for long."""
        if self._refused_at + self.timeout_keep_alive > self.loop.time() + 1e-3:
            self._keep()
        else:
            super().timeout_keep_alive_handler()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._is_between = False
        self._n_head_bytes = 0
        self._is_refused = False
        self._is_partial = True

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        super().on_url(url)
        self._measure(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if not self._is_refused:
            super().on_header(name, value)
            self._measure(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Let the request in, or refuse it."""
        if self._is_refused:
            return
        self._arrived()
        self._is_partial = False
        headers = dict(self.headers)
        n_bytes = _announced(headers, self._settings.max_json_bytes)
        try:
            self._ticket = self._admitted(headers, n_bytes)
        except Overloaded as overloaded:
            self._metrics.refused("http", "overload")
            reply = _reply(Refusal(str(overloaded), overloaded.retry_after_s))
            self._refuse(reply._replace(must_close=n_bytes > _DRAINED_BYTES))
            return
        post = self._intake.posts.get(self.url.decode("latin-1"))
        if post is not None and self._is_plain(headers):
            self._begin_exchange(post)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._exchange is not None:
            self._exchange.body.append(body)
        elif not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer the request, or note that it is there."""
        self._is_between = True
        if (exchange := self._exchange) is not None:
            self._exchange = None
            self._is_partial = False
            exchange.scope[TICKET].wait()
            exchange.context.run(self._begin, self._answer(exchange))
        elif not self._is_refused:
            assert self._ticket is not None
            self._ticket.wait()
            super().on_message_complete()
        elif not self.transport.is_closing():
            self._is_partial = False
            self._unset_keepalive_if_required()
            self._keep()

    def _is_plain(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request has nothing about it that uvicorn and ASGI are better at, and is the next to be answered."""
        length = headers.get(b"content-length", b"")
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and length.isdigit()
            and int(length) <= self._settings.max_json_bytes
            and b"transfer-encoding" not in headers
            and b"upgrade" not in headers
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _begin_exchange(self, post: Post) -> None:
        scope: Any = self.scope
        scope["method"], scope["path"] = "POST", self.url.decode("latin-1")
        context = copy_context()
        call = context.run(self._intake.begin, scope)
        try:
            self._intake.admit(call)
        except Exception as error:  # the top of a request
            n_bytes = int(call.headers[b"content-length"])
            self._refuse_call(
                call, error, must_close=n_bytes > (_DRAINED_BYTES if isinstance(error, RateLimited) else 0)
            )
            return
        self.cycle: Any = _Exchange(call, post, context, keep_alive=self.parser.should_keep_alive())
        self._exchange = self.cycle
        self._is_partial = True

    def _refuse_call(self, call: Call, error: Exception, *, must_close: bool) -> None:
        reply = self._intake.failed(call, error)
        call.status = reply.status
        self._refuse(reply._replace(headers=(*reply.headers, *headers_of(call.record)), must_close=must_close))
        self._end(call)

    def _begin(self, answering: Coroutine[Any, Any, None]) -> None:
        if (task := begin(answering, self.loop)) is not None:
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    async def _answer(self, exchange: _Exchange) -> None:
        call = exchange.call
        try:
            reply = await self._intake.answer(call, exchange.post, b"".join(exchange.body))
            call.status = reply.status
            if not self.transport.is_closing():
                headers = (*reply.headers, *headers_of(call.record))
                self._write(reply._replace(headers=headers, must_close=not exchange.keep_alive))
        finally:
            self._end(call)
        exchange.response_complete = True
        self.on_response_complete()

    def _end(self, call: Call) -> None:
        self._intake.end(call)
        ticket: Ticket = call.scope[TICKET]
        ticket.is_served = call.status not in _UNSERVED
        ticket.release()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        if self._leaving is None:
            self._leaving = self.loop.call_later(self._settings.send_deadline_s, self._abandon)

    def resume_writing(self) -> None:
        """Note that the client has read."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        super().resume_writing()

    def _admitted(self, headers: dict[bytes, bytes], n_bytes: int) -> Ticket:
        scope: Any = self.scope
        try:
            left_s = timeout_of(_text(headers.get(b"grpc-timeout")), _text(headers.get(b"x-server-timeout")))
        except InvalidInput:
            left_s = math.inf  # the intake says what is wrong with it
        left_s = min(left_s, self._settings.request_deadline_s)
        scope[DEADLINE] = self._admission.now() + left_s
        if len(self.connections) > self._settings.max_connections:
            raise Overloaded(
                f"[serve] {len(self.connections)} connections are open; at most {self._settings.max_connections}; close some"
            )
        lane = lane_of(self.url.partition(b"?")[0].decode("latin-1"))
        is_first = self.cycle is None or self.cycle.response_complete
        # Answers come in the order of requests: one that was sent behind another is let in, and waits for it.
        ticket = self._admission.admit(lane if is_first else "open", left_s=left_s, n_bytes=n_bytes)
        scope[TICKET] = ticket
        return ticket

    def _measure(self, n_bytes: int) -> None:
        self._n_head_bytes += n_bytes
        if self._n_head_bytes > self._settings.max_header_bytes and not self._is_refused:
            self._metrics.refused("http", "limit")
            told = f"[request] address and headers have more than {self._settings.max_header_bytes:,} bytes; send fewer"
            self._refuse(Reply(431, error_body(431, "RESOURCE_EXHAUSTED", told, ""), must_close=True))

    def _refuse(self, reply: Reply) -> None:
        """Answer when the request is not there yet; the rest of it is read over, or ends the connection."""
        self._is_refused = self._is_partial = True
        self._write(reply if self.parser.should_keep_alive() else reply._replace(must_close=True))

    def _write(self, reply: Reply) -> None:
        self.transport.write(_written(reply))
        if reply.must_close:
            self.transport.close()

    def _expect(self) -> None:
        self._arrived()
        self._arriving = self.loop.call_later(self._settings.receive_deadline_s, self._too_late)

    def _arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _too_late(self) -> None:
        if (exchange := self._exchange) is None:
            self._abandon()
            return
        self._exchange = None
        self._refuse_call(exchange.call, self._intake.too_slow(), must_close=True)

    def _abandon(self) -> None:
        self._metrics.refused("http", "slow_client")
        self.transport.abort()


def _written(reply: Reply) -> bytes:
    head = [_LINES[reply.status], b"content-type: application/json\r\ncontent-length: %d\r\n" % len(reply.body)]
    head += [b"%s: %s\r\n" % header for header in reply.headers]
    head.append(b"connection: close\r\n\r\n" if reply.must_close else b"\r\n")
    return b"".join((*head, reply.body))


def _reply(refusal: Refusal) -> Reply:
    body = error_body(429, "RESOURCE_EXHAUSTED", refusal.message, "")
    return Reply(429, body, ((b"retry-after", b"%d" % math.ceil(refusal.retry_after_s)),))


@lru_cache(1024)
def _refused(refusal: Refusal) -> bytes:
    return _written(_reply(refusal))


def _announced(headers: dict[bytes, bytes], most: int) -> int:
    """Return how many bytes a body may take, as its head tells."""
    if b"transfer-encoding" in headers:
        return most
    length = headers.get(b"content-length", b"0")
    return min(int(length), most) if length.isdigit() and len(length) < 20 else 0


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


async def _listening(
    protocol: Callable[[], Any], listener: socket.socket, tls: ssl.SSLContext | None, limit_s: float
) -> Any:
    """Return a server that waits no longer than `limit_s` for a handshake, or for the end of one; uvicorn's waits a minute."""
    loop: Any = asyncio.get_running_loop()  # uvloop's, which knows more than asyncio of Python 3.10
    limits = {} if tls is None else {"ssl_handshake_timeout": limit_s, "ssl_shutdown_timeout": limit_s}
    return await loop.create_server(protocol, sock=listener, ssl=tls, backlog=_BACKLOG, **limits)
