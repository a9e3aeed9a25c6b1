"""What users and visits did lately, in the memory of one process.

A user is a dict entry and a string of 9 bytes an act; the least recently seen ones give way.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from matching.events import Event, Stretch
from matching.user_keys import user_digest, visit_digest
from serving.user_state import CODES, UNDONE, Recent, recent_of

_ACT: Final = np.dtype([("item", "<u4"), ("at_s", "<u4"), ("kind", "u1")])
_PACKED: Final = struct.Struct("<IIB")  # the same, without the price of small arrays
_MAX_ITEMS: Final = 5_000_000  # ids that are remembered; acts on later ones are not


@dataclass(slots=True)
class UsersInMemory:
    """A `UserState` of one process.

    Attributes:
        max_acts: remembered of one user.
        max_users: remembered, visits of unknown users among them.
        sequence: see `UserState`.
    """

    is_remote: ClassVar[bool] = False
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
        """Remember some events, of no log."""
        with self._lock:
            for event in events:
                self._take(event)

    def follow(self, stretch: Stretch) -> int:
        """See `UserState`."""
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
        """See `UserState`."""
        with self._lock:
            self._acts.clear()
            self.sequence = 0

    def recent(self, user: str, session: str) -> Recent:
        """See `UserState`."""
        keys = [key for key in (_user(user), _visit(session)) if key]
        with self._lock:
            parts = [np.frombuffer(self._acts.get(key, b""), _ACT) for key in keys]
            acts = np.concatenate([np.empty(0, _ACT), *parts])
            if len(keys) > 1:
                acts = acts[np.argsort(acts["at_s"], kind="stable")]
            items = [self._ids[place] for place in acts["item"].tolist()]
        return recent_of(items, acts["at_s"], acts["kind"])

    def close(self) -> None:
        """See `UserState`."""

    def _take(self, event: Event) -> None:
        user, session = _user(event.user), _visit(event.session)
        owner = user or session
        if not owner:
            return
        held = self._acts.pop(owner, b"")
        if user and session in self._acts:
            held = _merged(held, self._acts.pop(session))
        undone = UNDONE.get(event.event_type)
        if undone is not None:
            held = self._without(held, undone, {item.item_id for item in event.items})
        code = CODES.get(event.event_type)
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
            acts.append(_PACKED.pack(place, at_s, code))
        return b"".join(acts)

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
    """Both, each in order of time, as one; what was told later comes later where times are equal."""
    both = held + told
    if not held or not told:
        return both
    (_, last, _), (_, first, _) = _PACKED.unpack_from(held, len(held) - _PACKED.size), _PACKED.unpack_from(told)
    if last <= first:
        return both
    acts = np.frombuffer(both, _ACT)
    return acts[np.argsort(acts["at_s"], kind="stable")].tobytes()
