"""What stands before every HTTP request: request id, who asks, body limit, receive deadline, error bodies, metrics, log lines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from matching.errors import DeadlineExceeded, LikewiseError, Overloaded, RateLimited, Unauthenticated
from serving.admission import Ticket, timeout_of
from serving.auth import Access, Credentials, Gate
from serving.error_codes import code_of, public_message, refusal_reason
from serving.metrics import Metrics
from serving.query import Route
from serving.request_log import RequestRecord, log_audit, log_request, request_id_from, route_from
from serving.settings import ServingSettings
from serving.tracing import begin

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Post = Callable[[bytes, RequestRecord, float], Awaitable[bytes]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
AccessOf = Callable[[str, str], Access]

_log = logging.getLogger(__name__)
RECORD, DEADLINE, STATUS = "likewise.record", "likewise.deadline", "likewise.status"
TICKET: Final = "likewise.ticket"
_ROUTE = (b"x-likewise-unit", b"x-likewise-override", b"x-likewise-endpoint")
_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    411: "INVALID_ARGUMENT",
    413: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
}
_DRAINED_BYTES = 64 * 1024  # a body of a refused request that is cheaper to read than a connection is to open again
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class _Refused(Exception):
    def __init__(self, http: int, message: str) -> None:
        self.http = http
        self.message = message


class Reply(NamedTuple):
    """An answer in JSON; `must_close` where the rest of the request is not worth reading."""

    status: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    must_close: bool = False


@dataclass(slots=True)
class Call:
    """A request on its way: what its head says, and what is known of it. `status` is 0 until it is answered."""

    scope: Scope
    headers: dict[bytes, bytes]
    record: RequestRecord
    access: Access
    began: float
    deadline: float
    status: int = 0
    reason: str | None = None


class Intake:
    """An ASGI application around another; belongs to one event loop.

    A connection may answer what `posts` has without ASGI: `begin` and `admit` when the head is there, `answer` when the body is,
    and `end` when the reply was written.
    """

    def __init__(
        self,
        app: App,
        *,
        settings: ServingSettings,
        metrics: Metrics,
        gate: Gate,
        access_of: AccessOf,
        image_path: str,
        posts: Mapping[str, Post] | None = None,
    ) -> None:
        """Wrap `app`.

        Args:
            app: answers what `posts` does not.
            settings: limits and times.
            metrics: counts requests.
            gate: refuses who may not ask, before the body is read.
            access_of: what a method and a path need.
            image_path: bodies for it may be as large as a picture, all others as large as JSON.
            posts: by path, what answers a POST from its body with JSON, without the way through `app`.
        """
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._gate = gate
        self._access_of = access_of
        self._image_path = image_path
        self.posts = posts or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = self.begin(scope)
        is_read = False

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                # What is left is up to the client, who may read slowly.
                scope[TICKET].answered(is_served=call.status != 504)
                message["headers"] = [*message.get("headers", ()), *headers_of(call.record)]
            await send(message)

        try:
            self.admit(call)
            body = await self._body(call, receive)
            is_read = True
            post = self.posts.get(scope["path"]) if scope["method"] == "POST" else None
            if post is None:
                await self._app(scope, _replayed(body, receive), sending)
            else:
                await _respond(sending, await self.answer(call, post, body))
        except Exception as error:  # the top of a request
            reply = self.failed(call, error)
            if not call.status:
                if isinstance(error, RateLimited) and _n_bytes(call.headers) <= _DRAINED_BYTES:
                    with contextlib.suppress(_Refused):
                        await self._body(call, receive)
                        is_read = True
                must_close = reply.must_close or (not is_read and _n_bytes(call.headers) > 0)
                await _respond(sending, reply._replace(must_close=must_close))
        self.end(call)

    def begin(self, scope: Scope) -> Call:
        """Return what the head of a request says; to be ended by `end`."""
        began = time.monotonic()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        request_id = request_id_from(None if given is None else given.decode("latin-1"))
        record = RequestRecord(request_id, "http", trace=begin(headers.get(b"traceparent")))
        scope[RECORD] = record
        deadline = scope.setdefault(DEADLINE, began + self._settings.request_deadline_s)
        return Call(scope, headers, record, self._access_of(scope["method"], scope["path"]), began, deadline)

    def admit(self, call: Call) -> None:
        """Let a request in by its head.

        Raises:
            LikewiseError: who asks may not, or too often, or what the head says cannot be read or came too late.
        """
        if call.access != "open":
            call.record.principal = principal = self._gate.identify(_credentials(call.headers), call.access)
            if principal is not None:
                self._gate.admit(principal, call.access)
                ticket: Ticket = call.scope[TICKET]
                ticket.claim(principal.name)
        call.record.route = _route(call.headers, call.record.request_id)
        _check_time(call.scope, call.headers)

    async def answer(self, call: Call, post: Post, body: bytes) -> Reply:
        """Return the answer to a POST, whatever becomes of it."""
        try:
            return Reply(200, await post(body, call.record, call.deadline))
        except Exception as error:  # the top of a request
            return self.failed(call, error)

    def failed(self, call: Call, error: Exception) -> Reply:
        """Return what a caller is told of an error."""
        request_id = call.record.request_id
        if isinstance(error, _Refused):
            # The rest of the body is not worth reading: the connection ends with the answer.
            body = error_body(error.http, _STATUS_NAMES[error.http], error.message, request_id)
            return Reply(error.http, body, must_close=True)
        if not isinstance(error, LikewiseError):
            _log.error("request %s failed", request_id, exc_info=error)
        call.reason = refusal_reason(error)
        http, body = error_response(error, request_id)
        return Reply(http, body, _advice(error, call.scope, call.headers))

    def end(self, call: Call) -> None:
        """Count and note a request that was answered, or whose caller went away."""
        seconds = time.monotonic() - call.began
        call.scope[STATUS] = call.status = call.status or 499  # 499: the caller went away before there was an answer
        record, code = call.record, str(call.status)
        self._metrics.requested("http", record.endpoint, code, seconds, reason=call.reason)
        log_request(record, code, seconds * 1e3)
        if call.access == "admin":
            log_audit(record, f"{call.scope['method']} {call.scope['path']}", code)

    def too_slow(self) -> Exception:
        """Return why a body is not waited for any longer."""
        limit_s = self._settings.receive_deadline_s
        return _Refused(408, f"[request] the body did not arrive within {limit_s:g} s; send it faster")

    async def _body(self, call: Call, receive: Receive) -> bytes:
        method, path, headers = call.scope["method"], call.scope["path"], call.headers
        if method in ("GET", "HEAD", "OPTIONS") and b"transfer-encoding" not in headers:
            if headers.get(b"content-length", b"0") == b"0":
                return b""
            raise _Refused(400, f"[request] {method} with a body; expected none; send it by POST")
        limit = self._settings.max_image_bytes if path == self._image_path else self._settings.max_json_bytes
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise _Refused(413, f"[request] the body has {int(length):,} bytes; at most {limit:,}; send less")
        if (body := await _within(_received(receive, limit), self._settings.receive_deadline_s)) is None:
            raise self.too_slow()
        return body


def headers_of(record: RequestRecord) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that every answer has."""
    return ((b"x-request-id", record.request_id.encode()), *_HEADERS)


async def _received(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _gone()
    first: bytes = message.get("body", b"")
    if not message.get("more_body", False) and len(first) <= limit:
        return first
    parts, n_bytes = [first], len(first)
    while message.get("more_body", False) and n_bytes <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _gone()
        parts.append(message.get("body", b""))
        n_bytes += len(parts[-1])
    if n_bytes > limit:
        raise _Refused(413, f"[request] the body has more than {limit:,} bytes, the most allowed; send less")
    return b"".join(parts)


async def _within(work: Coroutine[Any, Any, bytes], limit_s: float) -> bytes | None:
    """Return what `work` does, None when it took longer; `asyncio.wait_for` would make a task of it, for each request."""
    task = asyncio.current_task()
    assert task is not None
    is_late = False

    def end() -> None:
        nonlocal is_late
        is_late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(limit_s, end)
    try:
        return await work
    except asyncio.CancelledError:
        if not is_late:
            raise
        if sys.version_info >= (3, 11):
            task.uncancel()
        return None
    finally:
        timer.cancel()


def _replayed(body: bytes, receive: Receive) -> Receive:
    is_told = False

    async def replay() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def error_response(error: BaseException, request_id: str) -> tuple[int, bytes]:
    """Return HTTP status and body of an error."""
    code = code_of(error)
    return code.http, error_body(code.http, code.status, public_message(error), request_id)


def error_body(http: int, status: str, message: str, request_id: str) -> bytes:
    """Return the one shape that every refusal has."""
    error = {"code": http, "status": status, "message": message, "request_id": request_id}
    return orjson.dumps({"error": error})


def http_error_body(http: int, message: str, request_id: str) -> bytes:
    """Return the body of a refusal that comes from HTTP itself: no such path, no such method."""
    return error_body(http, _STATUS_NAMES.get(http, "UNKNOWN"), message, request_id)


def _credentials(headers: Mapping[bytes, bytes]) -> Credentials:
    authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
    return Credentials(
        None if authorization is None else authorization.decode("latin-1"),
        None if api_key is None else api_key.decode("latin-1"),
    )


def _check_time(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Check how long the caller waits, and that it has not done so already.

    Raises:
        InvalidInput: it says so in a way that nobody can read.
        DeadlineExceeded: a body would be read in vain.
    """
    if (given := headers.get(b"grpc-timeout")) is not None:
        timeout_of(given.decode("latin-1"), None)
    if (given := headers.get(b"x-server-timeout")) is not None:
        timeout_of(None, given.decode("latin-1"))
    if scope["method"] == "POST" and time.monotonic() >= scope[DEADLINE]:
        raise DeadlineExceeded("[request] the time ran out before the request's turn came; allow more time")


def _gone() -> _Refused:
    return _Refused(499, "[request] the caller hung up before all of the body was there; send it again")


def _route(headers: Mapping[bytes, bytes], request_id: str) -> Route:
    if headers.keys().isdisjoint(_ROUTE):
        return Route(request_id=request_id)
    unit_id, override, endpoint = (headers.get(name) for name in _ROUTE)
    return route_from(
        None if unit_id is None else unit_id.decode("utf-8", "replace"),
        None if override is None else override.decode("latin-1"),
        None if endpoint is None else endpoint.decode("latin-1"),
        request_id,
    )


def _n_bytes(headers: Mapping[bytes, bytes]) -> float:
    """Return how long a body is announced to be, infinity where it is not."""
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() and b"transfer-encoding" not in headers else math.inf


def _advice(error: BaseException, scope: Scope, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers that tell a caller what would help."""
    if isinstance(error, (RateLimited, Overloaded)):
        return [(b"retry-after", str(math.ceil(error.retry_after_s)).encode())]
    if isinstance(error, Unauthenticated):
        schemes = [(b"www-authenticate", b'Bearer realm="likewise"')]
        if scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b""):
            # a browser asks the person for a password, which may be a key, and sends it with whatever the page asks then
            schemes.insert(0, (b"www-authenticate", b'Basic realm="likewise", charset="UTF-8"'))
        return schemes
    return []


async def _respond(send: Send, reply: Reply) -> None:
    length = str(len(reply.body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), *reply.headers]
    if reply.must_close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
