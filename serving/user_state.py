"""What each user and each visit did lately, in memory: a listener of the events that are taken.

A user is a dict entry and a string of 9 bytes an act; the least recently seen ones give way.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matching.events import Event
from matching.interactions import EVENT_WEIGHTS

# What is remembered; the place in this list is what is kept of a type. Other types say nothing of the wish for an item.
_KINDS: Final = ("view", "click", "wishlist", "add_to_cart", "purchase")
_CODES: Final = {kind: code for code, kind in enumerate(_KINDS)}
_BOUGHT: Final = _CODES["purchase"]
_WEIGHTS: Final = np.array([EVENT_WEIGHTS.get(kind, EVENT_WEIGHTS["view"]) for kind in _KINDS], np.float32)
_UNDONE: Final = {"remove": _CODES["add_to_cart"], "return": _CODES["purchase"]}  # which acts an event takes back
_ACT: Final = np.dtype([("item", "<u4"), ("at_s", "<u4"), ("kind", "u1")])
_MAX_ITEMS: Final = 5_000_000  # ids that are remembered; acts on later ones are not


class Recent(NamedTuple):
    """Acts, oldest first.

    Attributes:
        items: ids, one an act.
        at_ms: int64[h], since 1970, in whole seconds.
        weights: float32[h], what the types of the events say.
        is_bought: bool[h].
    """

    items: tuple[str, ...]
    at_ms: NDArray[np.int64]
    weights: NDArray[np.float32]
    is_bought: NDArray[np.bool_]


@dataclass(slots=True)
class UserState:
    """Recent acts by user and by visit. Thread-safe.

    Acts of a visit whose user becomes known are the user's from then on.

    Attributes:
        max_acts: remembered of one user.
        max_users: remembered, visits of unknown users among them.
    """

    max_acts: int = 50
    max_users: int = 1_000_000
    _acts: dict[int, bytes] = field(default_factory=dict)  # least recently seen first
    _ids: list[str] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self._acts)

    def take(self, events: Sequence[Event]) -> None:
        """Remember what was accepted."""
        with self._lock:
            for event in events:
                self._take(event)

    def rebuild(self, log: Iterable[tuple[int, Event]]) -> int:
        """Remember what a log holds, as `EventLog.read` yields it; return how many events that were."""
        n = 0
        for _, event in log:
            self.take((event,))
            n += 1
        return n

    def recent(self, user: str, session: str) -> Recent:
        """Return what a user did, and what was done in a visit that is not known to be theirs yet.

        Args:
            user: a keyed hash, "" for unknown.
            session: "" for unknown.
        """
        keys = [key for key in (_key("u", user), _key("s", session)) if key]
        with self._lock:
            parts = [np.frombuffer(self._acts.get(key, b""), _ACT) for key in keys]
            acts = np.concatenate([np.empty(0, _ACT), *parts])
            if len(keys) > 1:
                acts = acts[np.argsort(acts["at_s"], kind="stable")]
            items = tuple([self._ids[place] for place in acts["item"].tolist()])
        kinds = acts["kind"]
        return Recent(items, acts["at_s"].astype(np.int64) * 1000, _WEIGHTS[kinds], kinds == _BOUGHT)

    def erase(self, user: str) -> None:
        """Forget a user."""
        with self._lock:
            self._acts.pop(_key("u", user), None)

    def _take(self, event: Event) -> None:
        user, session = _key("u", event.user), _key("s", event.session)
        owner = user or session
        if not owner:
            return
        held = self._acts.pop(owner, b"")
        if user and session in self._acts:
            held = _merged(held, self._acts.pop(session))
        undone = _UNDONE.get(event.event_type)
        if undone is not None:
            held = self._without(held, undone, {item.item_id for item in event.items})
        code = _CODES.get(event.event_type)
        if code is not None:
            held = _merged(held, self._told(event, code))
        if held:
            self._acts[owner] = held[-self.max_acts * _ACT.itemsize :]
            if len(self._acts) > self.max_users:
                del self._acts[next(iter(self._acts))]

    def _told(self, event: Event, code: int) -> bytes:
        at_s = min(max(event.at_ms // 1000, 0), 2**32 - 1)
        acts = []
        for item in event.items[-self.max_acts :]:
            place = self._places.get(item.item_id)
            if place is None:
                if len(self._ids) >= _MAX_ITEMS:
                    continue
                place = self._places[item.item_id] = len(self._ids)
                self._ids.append(item.item_id)
            acts.append((place, at_s, code))
        return np.array(acts, _ACT).tobytes()

    def _without(self, held: bytes, code: int, item_ids: set[str]) -> bytes:
        acts = np.frombuffer(held, _ACT)
        places = [self._places[item_id] for item_id in item_ids if item_id in self._places]
        kept: bytes = acts[~((acts["kind"] == code) & np.isin(acts["item"], places))].tobytes()
        return kept


def _key(kind: str, name: str) -> int:
    """A number in place of a name: a fifth of the memory."""
    return int.from_bytes(hashlib.blake2b(f"{kind}{name}".encode(), digest_size=15).digest(), "little") if name else 0


def _merged(held: bytes, told: bytes) -> bytes:
    """Both in order of time; what was told later comes later where times are equal."""
    both = held + told
    if not held or not told:
        return both
    acts = np.frombuffer(both, _ACT)
    at_s = acts["at_s"]
    first = len(held) // _ACT.itemsize
    if at_s[first - 1] <= at_s[first] and np.all(at_s[first:-1] <= at_s[first + 1 :]):
        return both
    return acts[np.argsort(at_s, kind="stable")].tobytes()
