"""Events of a shop, for tests that remember them."""

from __future__ import annotations

import itertools

from matching.events import Event, EventItem

_numbers = itertools.count()


def event(kind: str, *items: str, user: str = "", session: str = "", at_s: int = 0) -> Event:
    """Return a new event."""
    told = tuple(EventItem(item) for item in items)
    return Event(f"e{next(_numbers)}", kind, user, session, told, at_s * 1000, at_s * 1000)
