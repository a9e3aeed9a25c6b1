"""A coroutine that is begun at once, and becomes a task where it has to wait for something."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any


def begin(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run a coroutine to its end, in a task from where it has to wait; until there it must not ask for its task.

    Returns:
        The task, None where there was nothing to wait for.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return loop.create_task(_finished(_Resumed(coroutine, awaited)))


class _Resumed:
    """The rest of a coroutine that was begun without a task, for a task to go on with."""

    __slots__ = ("_awaited", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited  # what its first wait is for

    def __await__(self) -> Generator[Any, Any, None]:
        awaited = self._awaited
        while True:
            try:
                sent = yield awaited
            except BaseException as error:
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, sent)
            try:
                awaited = step()
            except StopIteration:
                return


async def _finished(rest: _Resumed) -> None:
    await rest
