"""Tells a service what its log of events takes in, whoever appended it: itself, another replica, an import, an erasure.

What this process appended is handed over in memory; the log is asked for what lies between, and every moment for what is new.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from matching.errors import LikewiseError
from matching.events import Stretch
from serving.user_state import UserState

if TYPE_CHECKING:
    from matching.event_log import SqlEventLog

_log = logging.getLogger(__name__)
_SLOW_S: Final = 1.0  # between looks while the log cannot be reached


@dataclass(frozen=True, slots=True)
class EventLag:
    """How far what is known of users is behind the log.

    Attributes:
        n_events: events and erasures that are known to be in the log and are not taken in.
        seconds: since it was level with the log, 0 while it is.
        is_reachable: whether the log, and what keeps the users, can be asked.
    """

    n_events: int
    seconds: float
    is_reachable: bool


class EventFollower:
    """Keeps what is known of users level with a log: each event once, in the log's order. Thread-safe."""

    def __init__(self, log: SqlEventLog, state: UserState, *, period_s: float) -> None:
        """Follow a log from where the state left it.

        Args:
            log: stays the caller's to close, after the follower.
            state: takes in what the log has.
            period_s: between looks at the log.
        """
        self._log = log
        self._state = state
        self._period_s = period_s
        self._own: deque[Stretch] = deque()
        self._advancing = threading.Lock()
        self._head = self._known = 0
        self._level_at = time.monotonic()
        self._is_reachable = True
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events-followed", daemon=True)
        log.tell(self._own.append)

    def follow(self, *, is_patient: bool) -> None:
        """Take in all that the log holds, then go on by itself.

        Args:
            is_patient: whether to wait for that; else it comes when all that is needed answers.

        Raises:
            Unavailable: the log cannot be reached, or what keeps the users does not answer; never where nobody waits.
        """
        if is_patient:
            self.catch_up()
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def catch_up(self) -> None:
        """Take in all that the log holds.

        Raises:
            Unavailable: the log cannot be reached, or what keeps the users does not answer.
        """
        with self._advancing:
            self._take_own()
            began = time.monotonic()
            is_level = False
            while not is_level:
                self._known = self._state.sequence
                stretch = self._log.stretch(self._known)
                self._head = stretch.head
                if stretch.head < stretch.after:
                    _log.error("the log of events ends before what was read of it, it was put back; it is read anew")
                    self._own.clear()
                    self._state.clear()
                    continue
                self._known = self._state.follow(stretch)
                is_level = self._known >= stretch.head
            self._level_at = began

    def settle(self) -> None:
        """Take in what this process appended; where something does not answer that is needed for it, that comes later."""
        with self._advancing:
            try:
                self._take_own()
            except LikewiseError as error:
                self._own.clear()  # the log has it
                _log.warning("what is known of users falls behind: %s", error)

    @property
    def lag(self) -> EventLag:
        """How far behind it is."""
        n_behind = max(self._head - self._known, 0)
        seconds = time.monotonic() - self._level_at
        is_level = self._is_reachable and n_behind == 0
        return EventLag(n_behind, 0.0 if is_level else seconds, self._is_reachable)

    def _take_own(self) -> None:
        while self._own:
            own = self._own[0]
            while (known := self._state.follow(own)) < own.until:
                before = self._log.stretch(known, own.after)
                if before.until == known:  # the log was put back: the next look reads it anew
                    self._own.clear()
                    return
                self._state.follow(before)
            self._known, self._head = known, max(self._head, own.until)
            self._own.popleft()

    def _run(self) -> None:
        while not self._closing.wait(self._period_s if self._is_reachable else max(self._period_s, _SLOW_S)):
            try:
                self.catch_up()
            except LikewiseError as error:
                if self._is_reachable:
                    _log.warning("what is known of users falls behind: %s", error)
                self._is_reachable = False
            except Exception:  # the top of the thread: a next look may fare better
                _log.exception("following the log of events failed")
                self._is_reachable = False
            else:
                self._is_reachable = True
