"""How far a replica is behind the log that it follows, and whether that is too far to answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from matching.live import LiveIndex


@dataclass(frozen=True, slots=True)
class Lag:
    """Where a replica is.

    Attributes:
        position: the last write that searches see.
        n_writes: that the log is known to hold beyond it, at least.
        seconds: since it was level with the log, 0 while it is.
        is_reachable: whether the log can be asked.
        is_behind: whether it is too far behind to answer.
    """

    position: int
    n_writes: int
    seconds: float
    is_reachable: bool
    is_behind: bool

    def __str__(self) -> str:
        """Return what /readyz says."""
        told = f"{self.n_writes:,} writes, {self.seconds:.1f} s behind"
        return f"behind: {told}" if self.is_behind else "ok"


class LagMeter:
    """Measures the lag of one replica, as often as it is asked. Belongs to one thread.

    A replica begins behind, and is until it has everything that the log was known to hold a moment ago. It is behind again when
    it is over a limit, or when nobody asked the log for longer than the limit: then this process was stopped, and what it knows
    is old. A log that is lost changes nothing, so that reads go on.
    """

    def __init__(self, *, max_seconds: float, max_writes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_seconds = max_seconds
        self._max_writes = max_writes
        self._clock = clock
        self._is_behind = True
        self._level_at = self._left_at = clock()
        self._goal: tuple[int, float] | None = None  # a sequence to reach, and when the log was known to end there

    def measure(self, live: LiveIndex) -> Lag:
        """Return the lag now."""
        reach, position, now = live.reach, live.snapshot.sequence, self._clock()
        n_writes = max(reach.sequence - position, 0)
        is_old = reach.age_s > self._max_seconds
        if self._goal is not None and position >= self._goal[0]:
            self._level_at = max(self._level_at, self._goal[1])
            self._goal = None
        if reach.is_reachable:
            if n_writes == 0:
                self._level_at = max(self._level_at, now - reach.age_s)
            elif self._goal is None:
                self._goal = reach.sequence, now - reach.age_s
        seconds = now - self._level_at
        if is_old or (reach.is_reachable and (seconds > self._max_seconds or n_writes > self._max_writes)):
            if not self._is_behind:
                self._is_behind, self._left_at = True, now
        elif reach.is_reachable and (n_writes == 0 or self._level_at > self._left_at):
            self._is_behind = False
        return Lag(position, n_writes, seconds if n_writes or is_old else 0.0, reach.is_reachable, self._is_behind)
