"""A service asked over HTTP: `Client` from threads, `AsyncClient` from an event loop; one set of calls for both."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from matching.datapoint import Datapoint
from matching.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidQuery,
    LikewiseError,
    LimitExceeded,
    MissingExtra,
    NotFound,
    Overloaded,
    StorageFull,
    Unauthenticated,
    Unavailable,
)
from serving.client import requests as calls
from serving.client.answers import EventOutcome, Neighbors, Recommended, ServedVersion, WriteDone
from serving.client.requests import Call, ItemWrite, NeighborKnobs, SearchKnobs, ShopEvent, SlateKnobs
from serving.client.retry import AGAIN, Retry

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Unpack

T = TypeVar("T")
_ERRORS: Final[Mapping[int, type[LikewiseError]]] = {
    400: InvalidQuery,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    408: DeadlineExceeded,
    413: LimitExceeded,
    503: Unavailable,
    504: DeadlineExceeded,
    507: StorageFull,
}


@dataclass(slots=True)
class _Attempts:
    """One call on its way: what is sent next, and whether after what came back anything is."""

    call: Call[Any]
    retry: Retry
    until: float
    headers: Mapping[str, str]
    n: int = 0
    wait_s: float = 0.0
    failure: LikewiseError | None = None

    def request(self) -> dict[str, Any]:
        """Return what the next attempt sends, and how long it may take.

        Raises:
            DeadlineExceeded: the time is up.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise self.failure or DeadlineExceeded(f"[client] {self.call.path}: no answer within the time given")
        headers = {**self.headers, "x-server-timeout": f"{left:.3f}"}
        content = None
        if self.call.body is not None:
            content = json.dumps(self.call.body, allow_nan=False).encode()
            headers["content-type"] = "application/json"
        return {
            "method": self.call.method,
            "url": self.call.path,
            "content": content,
            "headers": headers,
            "timeout": left,
        }

    def answered(self, status: int, headers: Mapping[str, str], content: bytes) -> Any:
        """Return the answer, or None where the call is to be asked again after `wait`.

        Raises:
            LikewiseError: as the service says.
        """
        if status == 200:
            return self.call.read(json.loads(content))
        error = _error(status, headers, content)
        self.failed(error, headers, may_again=status in AGAIN)
        return None

    def failed(self, error: LikewiseError, headers: Mapping[str, str], *, may_again: bool) -> None:
        """Note that an attempt failed.

        Raises:
            LikewiseError: it was the last one.
        """
        self.failure = error
        self.wait_s = self.retry.wait_s(self.n, headers)
        self.n += 1
        if not may_again or self.n >= self.retry.attempts or time.monotonic() + self.wait_s >= self.until:
            raise error


def _error(status: int, headers: Mapping[str, str], content: bytes) -> LikewiseError:
    try:
        message = str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"[client] the service answered {status}"
    if status == 429:
        return Overloaded(message, retry_after_s=_seconds(headers.get("retry-after", "1")))
    return _ERRORS.get(status, Unavailable)(message)


def _seconds(told: str) -> float:
    try:
        return max(float(told), 0.0) if math.isfinite(float(told)) else 1.0
    except ValueError:
        return 1.0


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtra(f"[client] {error.name} is not installed; pip install likewise[client]") from error
    return httpx


@dataclass(frozen=True, slots=True)
class _Settings:
    url: str
    headers: Mapping[str, str]
    timeout_s: float
    retry: Retry

    @classmethod
    def of(cls, url: str, key: str, unit_id: str, endpoint: str, timeout_s: float, retry: Retry | None) -> _Settings:
        named = {"x-likewise-unit": unit_id, "x-likewise-endpoint": endpoint}
        headers = {name: value for name, value in named.items() if value}
        if key:
            headers["authorization"] = f"Bearer {key}"
        return cls(url.rstrip("/"), headers, timeout_s, retry or Retry())

    def attempts(self, call: Call[Any], timeout_s: float | None) -> _Attempts:
        until = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        return _Attempts(call, self.retry, until, self.headers)


class Client:
    """Asks a service. Thread-safe; a context manager.

    Every method raises what the service says, as `matching.errors` has it, after it was asked again where that may help: when it
    refused for now (429, 503) or nobody answered. Writes and events carry ids, so that they are done once.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        unit_id: str = "",
        endpoint: str = "",
        timeout_s: float = 10.0,
        retry: Retry | None = None,
        verify: Any = True,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            url: as in `https://shop.example:8080`.
            key: a key or a token, where the service wants one.
            unit_id: user, session or device that is assigned to a variant.
            endpoint: whom requests are for; the service's first one where left out.
            timeout_s: of a call with all its attempts.
            retry: when a call is asked again; four attempts where left out.
            verify: as httpx takes it: False, or an SSL context, to trust other authorities.

        Raises:
            MissingExtra: httpx is not installed.
        """
        self._settings = _Settings.of(url, key, unit_id, endpoint, timeout_s, retry)
        self._library = _httpx()
        self._http: httpx.Client = self._library.Client(base_url=self._settings.url, verify=verify)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back."""
        self._http.close()

    def ask(self, call: Call[T], *, timeout_s: float | None = None) -> T:
        """Ask a call, again where that may help."""
        attempts = self._settings.attempts(call, timeout_s)
        while True:
            try:
                told = self._http.request(**attempts.request())
            except self._library.TransportError as error:
                attempts.failed(Unavailable(f"[client] {self._settings.url}: {error!r}"), {}, may_again=True)
            else:
                answer: T | None = attempts.answered(told.status_code, told.headers, told.content)
                if answer is not None:
                    return answer
            time.sleep(attempts.wait_s)

    def find_neighbors(
        self, queries: Sequence[str | Sequence[float]], k: int = 10, **knobs: Unpack[NeighborKnobs]
    ) -> tuple[Neighbors, ...]:
        """Return the neighbors of items by id, or of vectors; the knobs are those of `requests.find_neighbors`."""
        return self.ask(calls.find_neighbors(queries, k, **knobs))

    def search(self, text: str, k: int = 10, **knobs: Unpack[SearchKnobs]) -> Neighbors:
        """Return the neighbors of a text; the knobs are those of `requests.search`."""
        return self.ask(calls.search(text, k, **knobs))

    def similar(self, item_id: str, k: int = 10) -> Neighbors:
        """Return the neighbors of an item, with what is known of them."""
        return self.ask(calls.similar(item_id, k))

    def recommend(self, **asked: Unpack[SlateKnobs]) -> Recommended:
        """Return a slate; what may be asked is said at `requests.recommend`."""
        return self.ask(calls.recommend(**asked))

    def tell(self, events: Sequence[ShopEvent]) -> tuple[EventOutcome, ...]:
        """Tell what people did; what became of each event, in their order."""
        return self.ask(calls.tell(events))

    def upsert(self, writes: Sequence[ItemWrite], *, request_id: str | None = None) -> WriteDone:
        """Put datapoints in, all or none; on disk when it returns."""
        return self.ask(calls.upsert(writes, request_id))

    def remove(self, ids: Sequence[str], *, request_id: str | None = None) -> WriteDone:
        """Delete datapoints, which need not be there."""
        return self.ask(calls.remove(ids, request_id))

    def read(self, ids: Sequence[str], *, min_version: int = 0) -> tuple[Datapoint, ...]:
        """Return datapoints in the order asked."""
        return self.ask(calls.read(ids, min_version))

    def version(self) -> ServedVersion:
        """Return what is served."""
        return self.ask(calls.version())

    def is_ready(self, *, timeout_s: float = 1.0) -> bool:
        """Return whether requests are welcome; asked once."""
        try:
            return self._http.get("/readyz", timeout=timeout_s).status_code == 200
        except self._library.TransportError:
            return False


class AsyncClient:
    """`Client` for an event loop; an asynchronous context manager."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        unit_id: str = "",
        endpoint: str = "",
        timeout_s: float = 10.0,
        retry: Retry | None = None,
        verify: Any = True,
    ) -> None:
        """As `Client`."""
        self._settings = _Settings.of(url, key, unit_id, endpoint, timeout_s, retry)
        self._library = _httpx()
        self._http: httpx.AsyncClient = self._library.AsyncClient(base_url=self._settings.url, verify=verify)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give connections back."""
        await self._http.aclose()

    async def ask(self, call: Call[T], *, timeout_s: float | None = None) -> T:
        """Ask a call, again where that may help."""
        attempts = self._settings.attempts(call, timeout_s)
        while True:
            try:
                told = await self._http.request(**attempts.request())
            except self._library.TransportError as error:
                attempts.failed(Unavailable(f"[client] {self._settings.url}: {error!r}"), {}, may_again=True)
            else:
                answer: T | None = attempts.answered(told.status_code, told.headers, told.content)
                if answer is not None:
                    return answer
            await asyncio.sleep(attempts.wait_s)

    async def find_neighbors(
        self, queries: Sequence[str | Sequence[float]], k: int = 10, **knobs: Unpack[NeighborKnobs]
    ) -> tuple[Neighbors, ...]:
        """As `Client.find_neighbors`."""
        return await self.ask(calls.find_neighbors(queries, k, **knobs))

    async def search(self, text: str, k: int = 10, **knobs: Unpack[SearchKnobs]) -> Neighbors:
        """As `Client.search`."""
        return await self.ask(calls.search(text, k, **knobs))

    async def similar(self, item_id: str, k: int = 10) -> Neighbors:
        """As `Client.similar`."""
        return await self.ask(calls.similar(item_id, k))

    async def recommend(self, **asked: Unpack[SlateKnobs]) -> Recommended:
        """As `Client.recommend`."""
        return await self.ask(calls.recommend(**asked))

    async def tell(self, events: Sequence[ShopEvent]) -> tuple[EventOutcome, ...]:
        """As `Client.tell`."""
        return await self.ask(calls.tell(events))

    async def upsert(self, writes: Sequence[ItemWrite], *, request_id: str | None = None) -> WriteDone:
        """As `Client.upsert`."""
        return await self.ask(calls.upsert(writes, request_id))

    async def remove(self, ids: Sequence[str], *, request_id: str | None = None) -> WriteDone:
        """As `Client.remove`."""
        return await self.ask(calls.remove(ids, request_id))

    async def read(self, ids: Sequence[str], *, min_version: int = 0) -> tuple[Datapoint, ...]:
        """As `Client.read`."""
        return await self.ask(calls.read(ids, min_version))

    async def version(self) -> ServedVersion:
        """As `Client.version`."""
        return await self.ask(calls.version())
