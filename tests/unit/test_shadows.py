"""Copies for shadows: bounded, counted, and harmless whatever becomes of them."""

from __future__ import annotations

import asyncio

from matching.errors import InvalidQuery
from serving.shadows import Outcome, Shadows


class Counts:
    def __init__(self) -> None:
        self.told: list[tuple[str, Outcome]] = []

    def mirrored(self, variant: str, outcome: Outcome) -> None:
        self.told.append((variant, outcome))


def test_copies_are_answered_in_turn_and_dropped_where_too_many_wait() -> None:
    counts = Counts()
    order: list[int] = []

    async def run() -> None:
        shadows = Shadows(3, counts)
        may_go = asyncio.Event()

        async def work(at: int) -> None:
            await may_go.wait()
            order.append(at)

        for at in range(5):  # nothing is taken from the queue before the loop turns
            shadows.mirror("next", lambda at=at: work(at))  # type: ignore[misc]
        assert counts.told == [("next", "dropped")] * 2
        may_go.set()
        while len(order) < 3:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await shadows.stop()

    asyncio.run(run())
    assert order == [0, 1, 2]
    assert counts.told[2:] == [("next", "answered")] * 3


def test_a_copy_that_fails_is_counted_and_the_next_is_answered() -> None:
    counts = Counts()

    async def run() -> None:
        shadows = Shadows(8, counts)

        async def refused() -> None:
            raise InvalidQuery("[search] no such space")

        async def broken() -> None:
            raise RuntimeError("a fault of ours")

        async def sound() -> None:
            pass

        for work in (refused, broken, sound):
            shadows.mirror("next", work)
        while len(counts.told) < 3:
            await asyncio.sleep(0)
        await shadows.stop()
        await Shadows(1, None).stop()  # one that never had a copy

    asyncio.run(run())
    assert [outcome for _, outcome in counts.told] == ["failed", "failed", "answered"]
