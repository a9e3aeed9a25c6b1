"""What each user and each visit did lately, in memory: what a log of events says of them.

A user is a dict entry and a string of 9 bytes an act; the least recently seen ones give way.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matching.events import Event, Stretch
from matching.interactions import EVENT_WEIGHTS
from matching.user_keys import user_digest, visit_digest

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
        sequence: up to which the log is known.
    """

    max_acts: int = 50
    max_users: int = 1_000_000
    sequence: int = 0
    _acts: dict[int, bytes] = field(default_factory=dict)  # least recently seen first
    _ids: list[str] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self._acts)

    def take(self, events: Sequence[Event]) -> None:
        """Remember some events."""
        with self._lock:
            for event in events:
                self._take(event)

    def follow(self, stretch: Stretch) -> int:
        """Take in what a log tells next, and forget whom it forgot.

        Returns:
            Up to which sequence the log is known now; before `stretch.after`, nothing was taken, and what lies between is needed
            first. What is known already is not taken again.
        """
        with self._lock:
            if self.sequence < stretch.after:
                return self.sequence
            for sequence, event in stretch.events:
                if sequence > self.sequence:
                    self._take(event)
            if stretch.until > self.sequence:
                self.sequence = stretch.until
                for digest in stretch.erased:
                    self._acts.pop(_key(digest), None)
            return self.sequence

    def clear(self) -> None:
        """Forget everybody, and the log."""
        with self._lock:
            self._acts.clear()
            self.sequence = 0

    def recent(self, user: str, session: str) -> Recent:
        """Return what a user did, and what was done in a visit that is not known to be theirs yet.

        Args:
            user: a keyed hash, "" for unknown.
            session: "" for unknown.
        """
        keys = [key for key in (_user(user), _visit(session)) if key]
        with self._lock:
            parts = [np.frombuffer(self._acts.get(key, b""), _ACT) for key in keys]
            acts = np.concatenate([np.empty(0, _ACT), *parts])
            if len(keys) > 1:
                acts = acts[np.argsort(acts["at_s"], kind="stable")]
            items = tuple([self._ids[place] for place in acts["item"].tolist()])
        kinds = acts["kind"]
        return Recent(items, acts["at_s"].astype(np.int64) * 1000, _WEIGHTS[kinds], kinds == _BOUGHT)

    def _take(self, event: Event) -> None:
        user, session = _user(event.user), _visit(event.session)
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


def _user(key: str) -> int:
    return _key(user_digest(key)) if key else 0


def _visit(session: str) -> int:
    return _key(visit_digest(session)) if session else 0


def _key(digest: str) -> int:
    """A number in place of a name: a fifth of the memory."""
    return int(digest[:30], 16)


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
