"""How long a write that was acknowledged takes until searches see it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from matching.errors import DeadlineExceeded, Unavailable
from matching.live import LiveIndex

_PATIENCE_S: Final = 30.0


class Freshness:
    """Follows one write at a time from its acknowledgement to the first snapshot that has it. Thread-safe."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """Begin; `observe` is told the seconds of each write that was followed."""
        self._observe = observe
        self._wanted = threading.Condition()
        self._written: tuple[LiveIndex, int, float] | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="freshness", daemon=True)
        self._thread.start()

    def acknowledged(self, live: LiveIndex, sequence: int) -> None:
        """Note a write that was just acknowledged; it is followed unless another one is."""
        with self._wanted:
            if self._written is None:
                self._written = live, sequence, time.monotonic()
                self._wanted.notify()

    def close(self) -> None:
        """Stop following; a live index that is being waited for is closed first, or this takes as long as the wait."""
        with self._wanted:
            self._is_closed = True
            self._wanted.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._written is not None or self._is_closed)
                written = self._written
            if self._is_closed or written is None:
                return
            live, sequence, since = written
            try:
                live.wait(sequence, deadline=since + _PATIENCE_S)
            except Unavailable:
                pass  # nothing is applied any more: the live index says why
            except DeadlineExceeded:
                self._observe(time.monotonic() - since)  # it counts for as long as it took so far
            else:
                self._observe(time.monotonic() - since)
            del live, written  # or a version that was replaced would stay
            with self._wanted:
                self._written = None
