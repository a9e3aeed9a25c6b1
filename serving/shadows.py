"""Copies of requests for shadow variants: answered in the background, seen by nobody, dropped where they would wait."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from matching.errors import LikewiseError

Outcome = Literal["answered", "failed", "dropped"]
Work = Callable[[], Awaitable[object]]
_log = logging.getLogger(__name__)


class ShadowObserver(Protocol):
    """Is told what becomes of copies; a service counts it."""

    def mirrored(self, variant: str, outcome: Outcome) -> None: ...


class Shadows:
    """A bounded queue of copies, answered one after the other. Belongs to one event loop."""

    def __init__(self, n_waiting: int, observer: ShadowObserver | None) -> None:
        self._queue: asyncio.Queue[tuple[str, Work]] = asyncio.Queue(n_waiting)
        self._observer = observer
        self._running: asyncio.Task[None] | None = None

    def mirror(self, variant: str, work: Work) -> None:
        """Let a shadow answer in the background; where too many copies wait, this one is dropped."""
        if self._running is None:
            # In a context of its own: what it does belongs to no request, least of all to the one that happens to be first.
            self._running = contextvars.Context().run(asyncio.create_task, self._run(), name="shadows")
        try:
            self._queue.put_nowait((variant, work))
        except asyncio.QueueFull:
            self._tell(variant, "dropped")

    async def stop(self) -> None:
        """Drop what waits."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run(self) -> None:
        while True:
            variant, work = await self._queue.get()
            try:
                await work()
                self._tell(variant, "answered")
            except LikewiseError as error:
                _log.debug("shadow %s: %s", variant, error)
                self._tell(variant, "failed")
            except Exception:  # the top of a copy
                _log.exception("shadow %s failed", variant)
                self._tell(variant, "failed")

    def _tell(self, variant: str, outcome: Outcome) -> None:
        if self._observer is not None:
            self._observer.mirrored(variant, outcome)
