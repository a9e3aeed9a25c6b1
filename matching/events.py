"""What people do in a shop, as it is told, kept and read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EventItem:
    """An item of an event.

    Attributes:
        item_id: what was acted on.
        quantity: how many of it.
        value: what all of them cost, in the shop's currency; None where nobody knows.
        position: where it stood in the list that was shown, 0 first; None where there was no list.
        propensity: how likely it was to be shown there, above 0 and at most 1; None where nobody knows.
    """

    item_id: str
    quantity: float = 1
    value: float | None = None
    position: int | None = None
    propensity: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One act of one person.

    Attributes:
        event_id: the caller's; what is told twice under one id counts once.
        event_type: view, click, add_to_cart, purchase, wishlist, remove, return, search, impression, or a free one.
        user: a keyed hash of who acted, never their id; "" where nobody knows.
        session: the visit; "" where nobody knows.
        items: what was acted on, in the order it was told; none for a search.
        at_ms: when it happened, milliseconds since 1970.
        received_ms: when it was told, milliseconds since 1970.
        query: what was searched for.
        recommendation_id: the answer that showed the items; "" where there was none.
    """

    event_id: str
    event_type: str
    user: str
    session: str
    items: tuple[EventItem, ...]
    at_ms: int
    received_ms: int
    query: str = ""
    recommendation_id: str = ""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of events that were appended.

    Attributes:
        accepted: those that were new, in the order given.
        duplicates: how many the log had already, or that came twice, or whose user was erased.
        sequence: of the newest event or erasure in the log; 0 where there never was one.
    """

    accepted: tuple[Event, ...]
    duplicates: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """All that a log took in beyond one sequence and up to another.

    Attributes:
        after: the first of the two.
        until: the second; the same where there is nothing new.
        events: each with its sequence, ascending.
        erased: digests of users, and of the visits that were theirs: nothing of them is in the log any more.
        head: where the log ended when it was asked.
    """

    after: int
    until: int
    events: tuple[tuple[int, Event], ...]
    erased: frozenset[str]
    head: int


class EventLog(Protocol):
    """Keeps events, each once, in one order. Implementations are thread-safe."""

    def append(self, events: Sequence[Event]) -> Appended:
        """Keep events, all or none; durable when it returns.

        Raises:
            StorageFull: there is no space.
            Unavailable: the database cannot be reached.
        """
        ...

    def read(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield what was kept after a sequence, each with its own, ascending; a page in memory at a time.

        What is appended meanwhile may be yielded or not.

        Raises:
            Unavailable: the database cannot be reached.
        """
        ...

    def stretch(self, after: int, until: int | None = None) -> Stretch:
        """Return what comes after a sequence, a page at most, and no further than `until`.

        Raises:
            Unavailable: the database cannot be reached.
        """
        ...

    def erase(self, user: str) -> int:
        """Remove every trace of a user and never keep anything of them again; returns how many events went.

        That is their events, and those of nobody known in the visits that became theirs. It takes a sequence as an event does.

        Raises:
            InvalidInput: `user` is "".
            Unavailable: the database cannot be reached.
        """
        ...

    def close(self) -> None:
        """Give back connections; twice is once."""
        ...
