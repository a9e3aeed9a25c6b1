"""Whether a request that has just arrived will be answered in time; if not, it is refused while that is still cheap.

Requests wait in lanes, one for each kind of work. What leaves a lane while others wait tells how fast it moves, and that, times
those that wait, is how long a new one would have to. An empty lane takes everybody, so that a wrong guess mends itself.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from matching.errors import InvalidInput, Overloaded, TooManyInFlight
from serving.settings import ServingSettings

Lane = Literal["open", "search", "content", "read", "write", "other"]
_LANES: Final[dict[str, Lane]] = {  # by the last word of a path, the same in HTTP and gRPC
    "findneighbors": "search",
    "match": "search",
    "batchmatch": "search",
    "similar": "search",
    "search": "content",
    "image": "content",
    "readindexdatapoints": "read",
    "batchgetembeddings": "read",
    "upsertdatapoints": "write",
    "removedatapoints": "write",
}
_OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_OPEN_SERVICE: Final = "/grpc.health.v1.Health/"
_WEIGHT: Final = 1 / 16  # of the newest pace in its moving average
_FIRST_PACE_S: Final = 1e-3  # before anything is known
_LEAST_PACE_S: Final = 1e-6  # what is no more than that could not grow again
_MOST_AT_ONCE: Final = 2.0  # times the pace that one request may seem to have taken, but for
_BURST_S: Final = 0.1  # between two bursts in which an event loop that is busy lets them leave
_WAITED_FRAC: Final = 1 / 3  # of the time left; the rest is for what the pace does not tell, as a core that others use
_SOON_S: Final = 0.05  # when to ask again, at the earliest
_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def lane_of(path: str) -> Lane:
    """Return the kind of work that a path asks for; health and metrics are never refused."""
    if path in _OPEN or path.startswith(_OPEN_SERVICE):
        return "open"
    return _LANES.get(path.rpartition("/")[2].rpartition(":")[2].lower(), "other")


def timeout_of(grpc_timeout: str | None, server_timeout: str | None) -> float:
    """Return the seconds that a caller waits, infinity where it does not say.

    Args:
        grpc_timeout: `grpc-timeout`, up to 8 digits and a unit, as in `250m`.
        server_timeout: `X-Server-Timeout`, seconds.

    Raises:
        InvalidInput: it is neither.
    """
    if grpc_timeout is not None:
        digits, unit = grpc_timeout[:-1], grpc_timeout[-1:]
        if digits.isascii() and digits.isdigit() and len(digits) <= 8 and unit in _UNITS_S:
            return int(digits) * _UNITS_S[unit]
        raise InvalidInput(f"[request] grpc-timeout is {grpc_timeout[:50]!r}; expected digits and a unit, as in 250m")
    if server_timeout is not None:
        try:
            seconds = float(server_timeout)
        except ValueError:
            seconds = math.nan
        if seconds >= 0:
            return seconds
        raise InvalidInput(f"[request] x-server-timeout is {server_timeout[:50]!r}; expected seconds, as in 0.25")
    return math.inf


class Refusal(NamedTuple):
    """Why a request has no place, and when to ask again."""

    message: str
    retry_after_s: float


@functools.lru_cache(1024)
def _too_long(n_waiting: int, wait_s: float, most_s: float, retry_after_s: float) -> Refusal:
    return Refusal(
        f"[serve] {n_waiting} requests of this kind wait, {wait_s:.2f} s of work; expected at most {most_s:.2f} s; ask again "
        "later, or another replica",
        retry_after_s,
    )


class Ticket:
    """The place of one request; given back once, however the request ends."""

    __slots__ = ("_admission", "_caller", "_is_waiting", "_line", "is_served", "n_bytes")

    def __init__(self, admission: Admission, line: _Line, n_bytes: int) -> None:
        self._admission: Admission | None = admission
        self._line = line
        self._caller: str | None = None
        self._is_waiting = False
        self.is_served = True  # False for one whose time ran out: that it leaves says nothing of the pace
        self.n_bytes = n_bytes

    def claim(self, caller: str) -> None:
        """Count the request among those of its caller that are under way.

        Raises:
            TooManyInFlight: these are as many as one caller may have.
        """
        if self._admission is not None and self._admission.limits_callers and self._caller is None:
            self._admission.claim(caller)
            self._caller = caller

    def refusal(self, left_s: float) -> Refusal | None:
        """Return why the request should not begin to wait: its deadline, known only now, is too near for those that do."""
        return None if self._admission is None else self._line.refusal(left_s, self._admission.max_wait_s)

    def wait(self) -> None:
        """Count the request among those that wait: all that it needs has arrived."""
        if self._admission is not None and not self._is_waiting:
            self._is_waiting = True
            self._line.enter(self._admission.now())

    def answered(self, *, is_served: bool) -> None:
        """Count the request no longer among those that wait: its answer begins, and the place stays taken until its end."""
        if self._admission is not None and self._is_waiting:
            self._is_waiting = False
            self._line.leave(self._admission.now(), is_served=is_served)

    def release(self) -> None:
        """Give the place back; the second time does nothing."""
        if (admission := self._admission) is None:
            return
        self._admission = None
        if self._is_waiting:
            self._line.leave(admission.now(), is_served=self.is_served)
        admission.left(self.n_bytes, self._caller)


@dataclass(slots=True)
class _Line:
    n_waiting: int = 0
    pace_s: float = _FIRST_PACE_S  # between two that leave while others wait
    since: float = 0.0  # the last left, or the first came

    def refusal(self, left_s: float, max_wait_s: float) -> Refusal | None:
        wait_s, most_s = self.n_waiting * self.pace_s, min(left_s * _WAITED_FRAC, max_wait_s)
        if wait_s <= most_s:
            return None
        retry_after_s = max(wait_s - max_wait_s / 2, _SOON_S)
        return _too_long(self.n_waiting, round(wait_s, 2), round(most_s, 2), round(retry_after_s, 2))

    def enter(self, now: float) -> None:
        if self.n_waiting == 0:
            self.since = now
        self.n_waiting += 1

    def leave(self, now: float, *, is_served: bool) -> None:
        self.n_waiting -= 1
        if not is_served:
            return
        # One that waited for something else, as a write to come, must not pass for a slow lane.
        took = min(now - self.since, max(_MOST_AT_ONCE * self.pace_s, _BURST_S))
        self.pace_s = max(self.pace_s + (took - self.pace_s) * _WEIGHT, _LEAST_PACE_S)
        self.since = now


class Admission:
    """Lets requests in while they will be answered in time. Belongs to one event loop."""

    def __init__(
        self,
        settings: ServingSettings,
        *,
        max_per_caller: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with empty lanes.

        Args:
            settings: how many requests, how many bytes, and how long a wait.
            max_per_caller: how many requests of one caller, any number when None.
            now: seconds on a clock that only goes forward.
        """
        self.now = now
        self.max_wait_s = settings.max_wait_s
        self._max_in_flight = settings.max_in_flight
        self._max_bytes = settings.max_in_flight_bytes
        self.limits_callers = max_per_caller is not None
        self._max_per_caller = max_per_caller or 0
        self._by_caller: dict[str, int] = {}  # those that have something under way
        self._n_in_flight = 0
        self._n_bytes = 0
        self._lines: dict[Lane, _Line] = {lane: _Line() for lane in (*_LANES.values(), "open", "other")}

    def admit(self, lane: Lane, *, left_s: float, n_bytes: int = 0) -> Ticket:
        """Give a request a place; from `Ticket.wait` to `Ticket.release` it counts among those that wait.

        Args:
            lane: its kind of work.
            left_s: seconds until its deadline.
            n_bytes: what its body may take.

        Raises:
            Overloaded: it would have to wait longer than its deadline or the service's own patience allows, or too much is
                under way.
        """
        if (refusal := self.refusal(lane, left_s=left_s, n_bytes=n_bytes)) is not None:
            raise Overloaded(refusal.message, retry_after_s=refusal.retry_after_s)
        self._n_in_flight += 1
        self._n_bytes += n_bytes
        return Ticket(self, self._lines[lane], n_bytes)

    def refusal(self, lane: Lane, *, left_s: float, n_bytes: int = 0) -> Refusal | None:
        """Return why a request has no place, None where it has one; arguments are those of `admit`."""
        if lane == "open":
            return None
        line = self._lines[lane]
        if (refusal := line.refusal(left_s, self.max_wait_s)) is not None:
            return refusal
        if self._n_in_flight >= self._max_in_flight or self._n_bytes + n_bytes > self._max_bytes:
            return Refusal(
                f"[serve] {self._n_in_flight} requests with {self._n_bytes:,} bytes are under way; at most "
                f"{self._max_in_flight} with {self._max_bytes:,}; ask again later, or another replica",
                max(round(line.n_waiting * line.pace_s, 2), _SOON_S),
            )
        return None

    def claim(self, caller: str) -> None:
        """Count a request of a caller; tickets say so.

        Raises:
            TooManyInFlight: it has as many under way as one caller may have.
        """
        n = self._by_caller.get(caller, 0)
        if n >= self._max_per_caller:
            raise TooManyInFlight(
                f"[serve] {n} requests of this caller are under way; at most {self._max_per_caller} (auth.max_in_flight); wait "
                "for one of them to end",
                retry_after_s=_SOON_S,
            )
        self._by_caller[caller] = n + 1

    def left(self, n_bytes: int, caller: str | None) -> None:
        """Note that a request has gone; tickets say so."""
        self._n_in_flight -= 1
        self._n_bytes -= n_bytes
        if caller is not None and (n := self._by_caller.pop(caller)) > 1:
            self._by_caller[caller] = n - 1

    @property
    def n_in_flight(self) -> int:
        """Requests under way."""
        return self._n_in_flight

    def waits(self) -> dict[str, tuple[int, float]]:
        """Return, by lane, how many wait and how many seconds of work they are."""
        return {lane: (line.n_waiting, line.n_waiting * line.pace_s) for lane, line in self._lines.items()}
