"""Takes what people did: checks each event, keeps the good ones durably, then tells those who wait for them."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, Protocol

from matching.errors import DeadlineExceeded, InvalidInput, LimitExceeded, Unavailable
from matching.events import Event, EventItem, EventLog
from matching.user_keys import UserKeys
from serving.impressions import Impressions
from serving.settings import EventSettings

Status = Literal["accepted", "duplicate", "rejected"]
Listener = Callable[[], None]
KNOWN_TYPES: Final = frozenset(
    ("view", "click", "add_to_cart", "purchase", "wishlist", "remove", "return", "search", "impression")
)
_OF_SLATES: Final = ("click", "impression")
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_ID_CHARS: Final = 256
_MAX_QUERY_CHARS: Final = 2_000
_MAX_ITEM_ID_BYTES: Final = 1_024
_MAX_AMOUNT: Final = 1e12
_MAX_POSITION: Final = 1_000_000
_WRITERS: Final = 8  # appends that are committed together
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class ToldEvent:
    """An event as a caller tells it; `user_id` is the shop's own id and goes no further, `at_ms` None means now."""

    event_id: str
    event_type: str
    user_id: str = ""
    session: str = ""
    items: tuple[EventItem, ...] = ()
    at_ms: int | None = None
    query: str = ""
    recommendation_id: str = ""


class Malformed(NamedTuple):
    """What is no event, and why."""

    event_id: str
    message: str


class EventResult(NamedTuple):
    """What became of one event; `reason` and `message` where it was rejected."""

    event_id: str
    status: Status
    reason: str = ""
    message: str = ""


class EventObserver(Protocol):
    """Is told what became of events; a service counts them."""

    def took_events(self, event_type: str, outcome: str, n: int) -> None: ...

    def odd_event(self, reason: str) -> None: ...


class EventIntake:
    """The one way into the log of a service. Thread-safe."""

    def __init__(
        self,
        log: EventLog,
        keys: UserKeys,
        *,
        settings: EventSettings,
        knows_item: Callable[[str], bool],
        observer: EventObserver,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Write to a log, which stays the caller's to close.

        Args:
            log: keeps what is accepted.
            keys: make the keys of users.
            settings: limits.
            knows_item: whether an item is in what is served.
            observer: counts.
            clock_ms: milliseconds since 1970.
        """
        self.log = log
        self._keys = keys
        self._settings = settings
        self._knows_item = knows_item
        self._observer = observer
        self._clock_ms = clock_ms
        self._impressions = Impressions(keys.derived("impressions"), max_age_s=settings.max_age_s)
        self._listeners: list[Listener] = []
        self._actors = _Actors(settings.max_per_minute)
        self._threads = ThreadPoolExecutor(_WRITERS, thread_name_prefix="event")

    def listen(self, listener: Listener) -> None:
        """Call something when events of a request are in the log, before the request is answered; from several threads."""
        self._listeners.append(listener)

    def user_key(self, raw_id: str) -> str:
        """Return the key by which a shop's user is known here, "" for ""."""
        return self._keys.key(raw_id)

    def sign(self, item_ids: Sequence[str], user_id: str, session: str) -> str:
        """Return the id of a slate, by which clicks on it are known."""
        return self._impressions.sign(item_ids, self._keys.key(user_id), session, now_ms=self._clock_ms())

    def write(self, told: Sequence[ToldEvent | Malformed], *, is_queued: bool = False) -> list[EventResult]:
        """Take events; those that are accepted are on disk when it returns.

        Args:
            told: at most `events.max_batch`.
            is_queued: a broker of the shop's held them, so that neither their age nor their number in a minute says anything.

        Returns:
            What became of each, in their order.

        Raises:
            LimitExceeded: too many at once; none was taken.
            StorageFull: there is no space; none was taken.
            Unavailable: the log cannot be reached; none is known to be taken, repeat them.
        """
        if len(told) > self._settings.max_batch:
            raise LimitExceeded(
                f"[events] {len(told)} events in one request; at most {self._settings.max_batch}; split the request"
            )
        now = self._clock_ms()
        batch = _Batch(self._actors.of_minute(now // _MINUTE_MS))
        checked = [self._checked(each, now, None if is_queued else batch) for each in told]
        appended = self.log.append([each for each in checked if isinstance(each, Event)])
        batch.count(appended.accepted)
        if appended.accepted:
            for listener in self._listeners:
                listener()
        new = {id(event) for event in appended.accepted}
        counted: dict[tuple[str, str], int] = {}
        results = [_result(each, new, counted) for each in checked]
        for (event_type, outcome), n in counted.items():
            self._observer.took_events(event_type, outcome, n)
        return results

    async def take(self, told: Sequence[ToldEvent | Malformed], *, deadline: float) -> list[EventResult]:
        """Do the same for an event loop.

        Raises:
            DeadlineExceeded: the time ran out; the events may be taken all the same, repeat them.
            InvalidInput: there are none.
        """
        if not told:
            raise InvalidInput("[events] the request has no events; expected at least one; add one to `events`")
        try:
            working = asyncio.get_running_loop().run_in_executor(self._threads, self.write, told)
        except RuntimeError:
            raise Unavailable("[events] the service is shutting down; ask another replica") from None
        done, _ = await asyncio.wait((working,), timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            working.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise DeadlineExceeded("[events] the log did not answer in time; send the same events again")
        return working.result()

    def close(self) -> None:
        """Wait for what is under way and refuse more."""
        self._threads.shutdown(wait=True)

    def _checked(self, told: ToldEvent | Malformed, now: int, batch: _Batch | None) -> Event | EventResult:
        if isinstance(told, Malformed):
            return _refused(told.event_id, "invalid", told.message)
        wrong = _wrong(told, self._settings)
        if wrong:
            return _refused(told.event_id, "invalid", wrong)
        at_ms = now if told.at_ms is None else told.at_ms
        if at_ms > now + self._settings.max_ahead_s * 1e3:
            return _refused(told.event_id, "future", "it happens in the future; expected a past time; set the clock")
        if batch is not None and at_ms < now - self._settings.max_age_s * 1e3:
            return _refused(told.event_id, "late", "it happened too long ago; use likewise events import for history")
        unknown = [item for item in told.items if not self._knows_item(item.item_id)]
        if unknown:
            self._observer.odd_event("unknown_item")
            if self._settings.unknown_items == "reject":
                return _refused(told.event_id, "unknown_item", "an item is not in what is served; add it first")
        if at_ms > now:
            self._observer.odd_event("ahead")
        event = Event(
            told.event_id,
            told.event_type,
            self._keys.key(told.user_id),
            told.session,
            told.items,
            min(at_ms, now),
            now,
            told.query,
            told.recommendation_id,
        )
        if batch is not None and batch.is_full(event):
            return _refused(told.event_id, "bot", "too many events of one user or session in a minute; send fewer")
        return self._vouched_for(event)

    def _vouched_for(self, event: Event) -> Event:
        """The event, of a type that says nothing where it should name a slate that showed its items and does not."""
        if not self._settings.signed_impressions or event.event_type not in _OF_SLATES:
            return event
        shown = [item.item_id for item in event.items]
        if self._impressions.vouches(event.recommendation_id, shown, event.user, event.session, at_ms=event.at_ms):
            return event
        self._observer.odd_event("unverified")
        return replace(event, event_type=f"unverified_{event.event_type}")


class _Actors:
    """How many events each user or session had this minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lock = threading.Lock()
        self._minute = 0
        self.counts: dict[str, int] = {}

    def of_minute(self, minute: int) -> _Actors:
        with self.lock:
            if minute != self._minute:
                self._minute, self.counts = minute, {}
        return self


class _Batch:
    """The events of one request, by who acted; a repeat is not held against them once it is known as one."""

    def __init__(self, actors: _Actors) -> None:
        self._actors = actors
        self._pending: dict[str, int] = {}

    def is_full(self, event: Event) -> bool:
        """Note an event; return whether who acted has had their share."""
        actor = event.user or event.session
        n = self._pending.get(actor, 0)
        if self._actors.counts.get(actor, 0) + n >= self._actors.limit:
            return True
        self._pending[actor] = n + 1
        return False

    def count(self, accepted: Sequence[Event]) -> None:
        with self._actors.lock:
            counts = self._actors.counts
            for event in accepted:
                actor = event.user or event.session
                counts[actor] = counts.get(actor, 0) + 1


def _result(checked: Event | EventResult, new: set[int], counted: dict[tuple[str, str], int]) -> EventResult:
    """What became of an event, which is counted."""
    if isinstance(checked, EventResult):
        result, what = checked, ("", checked.reason)
    else:
        status: Status = "accepted" if id(checked) in new else "duplicate"
        result, what = EventResult(checked.event_id, status), (checked.event_type, status)
    counted[what] = counted.get(what, 0) + 1
    return result


def _refused(event_id: str, reason: str, message: str) -> EventResult:
    return EventResult(event_id, "rejected", reason, message)


def _wrong(told: ToldEvent, settings: EventSettings) -> str:
    """Return what is wrong with an event, "" where nothing is; values of users are not in it."""
    if not told.event_id:
        return "event_id is empty; expected an id that is the same when it is sent again"
    if not _TYPE.fullmatch(told.event_type):
        return "event_type is no name; expected view, purchase, ... or one of a-z, 0-9 and _"
    for name, text, limit in (
        ("event_id", told.event_id, _MAX_ID_CHARS),
        ("user_id", told.user_id, _MAX_ID_CHARS),
        ("session_id", told.session, _MAX_ID_CHARS),
        ("recommendation_id", told.recommendation_id, _MAX_ID_CHARS),
        ("query", told.query, _MAX_QUERY_CHARS),
    ):
        if len(text) > limit or not _is_text(text):
            return f"{name} has {len(text)} characters; expected at most {limit}, none of them NUL"
    if not told.user_id and not told.session:
        return "nobody did it; expected user_id or session_id"
    return _wrong_items(told, settings)


def _wrong_items(told: ToldEvent, settings: EventSettings) -> str:
    if told.event_type == "search":
        if not told.query:
            return "a search without query; expected what was searched for"
    elif not told.items and told.event_type in KNOWN_TYPES:
        return "there are no items; expected at least one"
    if len(told.items) > settings.max_items:
        return f"there are {len(told.items)} items; expected at most {settings.max_items}"
    return next((wrong for wrong in map(_wrong_item, told.items) if wrong), "")


def _wrong_item(item: EventItem) -> str:
    name = item.item_id
    n_bytes = len(name) if name.isascii() else len(name.encode(errors="surrogatepass"))
    if not 0 < n_bytes <= _MAX_ITEM_ID_BYTES or not _is_text(name):
        return f"item_id has {n_bytes} bytes; expected 1 to {_MAX_ITEM_ID_BYTES}, none of them NUL"
    if not 0 < item.quantity <= _MAX_AMOUNT:
        return "quantity is not a number above 0"
    if item.value is not None and not 0 <= item.value <= _MAX_AMOUNT:
        return "value is not a number from 0 on"
    if item.position is not None and not 0 <= item.position <= _MAX_POSITION:
        return "position is not a whole number from 0 on"
    if item.propensity is not None and not (0 < item.propensity <= 1 and math.isfinite(item.propensity)):
        return "propensity is not above 0 and at most 1"
    return ""


def _is_text(text: str) -> bool:
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True
