"""What stands before every HTTP request: request id, body limit, receive deadline, error bodies, metrics and the log line."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any

import orjson

from matching.errors import LikewiseError
from serving.error_codes import code_of, public_message
from serving.metrics import Metrics
from serving.request_log import RequestRecord, log_request, request_id_from
from serving.settings import ServingSettings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Post = Callable[[bytes, RequestRecord, float], Awaitable[bytes]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
RECORD, DEADLINE = "likewise.record", "likewise.deadline"
_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    411: "INVALID_ARGUMENT",
    413: "RESOURCE_EXHAUSTED",
}
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class _Refused(Exception):
    def __init__(self, http: int, message: str) -> None:
        self.http = http
        self.message = message


class Intake:
    """An ASGI application around another; belongs to one event loop."""

    def __init__(
        self,
        app: App,
        *,
        settings: ServingSettings,
        metrics: Metrics,
        image_path: str,
        posts: Mapping[str, Post] | None = None,
    ) -> None:
        """Wrap `app`.

        Args:
            app: answers what `posts` does not.
            settings: limits and times.
            metrics: counts requests.
            image_path: bodies for it may be as large as a picture, all others as large as JSON.
            posts: by path, what answers a POST from its body with JSON, without the way through `app`.
        """
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._image_path = image_path
        self._posts = posts or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        record = RequestRecord(request_id_from(None if given is None else given.decode("latin-1")), "http")
        scope[RECORD], scope[DEADLINE] = record, began + self._settings.request_deadline_s
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", record.request_id.encode()),
                    *_HEADERS,
                ]
            await send(message)

        try:
            body = await self._body(scope, headers, receive)
            post = self._posts.get(scope["path"]) if scope["method"] == "POST" else None
            if post is None:
                await self._app(scope, _replayed(body, receive), sending)
            else:
                await _respond(sending, 200, await post(body, record, scope[DEADLINE]))
        except _Refused as refused:
            # The rest of the body is not worth reading: the connection ends with the answer.
            body = error_body(refused.http, _STATUS_NAMES[refused.http], refused.message, record.request_id)
            await _respond(sending, refused.http, body, close=True)
        except Exception as error:  # the top of a request
            if not isinstance(error, LikewiseError):
                _log.exception("request %s failed", record.request_id)
            if not status:
                http, body = error_response(error, record.request_id)
                await _respond(sending, http, body)
        seconds = time.monotonic() - began
        code = str(status or 499)  # 499: the caller went away before there was an answer
        self._metrics.requested("http", record.endpoint, code, seconds)
        log_request(record, code, seconds * 1e3)

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        if scope["method"] in ("GET", "HEAD", "OPTIONS") and b"transfer-encoding" not in headers:
            if headers.get(b"content-length", b"0") == b"0":
                return b""
            raise _Refused(400, f"[request] {scope['method']} with a body; expected none; send it by POST")
        is_image = scope["path"] == self._image_path
        limit = self._settings.max_image_bytes if is_image else self._settings.max_json_bytes
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise _Refused(413, f"[request] the body has {int(length):,} bytes; at most {limit:,}; send less")
        limit_s = self._settings.receive_deadline_s
        if (body := await _within(_received(receive, limit), limit_s)) is None:
            raise _Refused(408, f"[request] the body did not arrive within {limit_s:g} s; send it faster")
        return body


async def _received(receive: Receive, limit: int) -> bytes:
    message = await receive()
    first: bytes = message.get("body", b"")
    if not message.get("more_body", False) and len(first) <= limit:
        return first
    parts, n_bytes = [first], len(first)
    while message.get("more_body", False) and n_bytes <= limit:
        message = await receive()
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


async def _respond(send: Send, http: int, body: bytes, *, close: bool = False) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": http, "headers": headers})
    await send({"type": "http.response.body", "body": body})
