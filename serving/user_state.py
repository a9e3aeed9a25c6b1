"""What each user and each visit did lately, as recommendations ask it and a log of events tells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from matching.events import Stretch
from matching.interactions import EVENT_WEIGHTS

# What is remembered; the place in this list is what is kept of a type. Other types say nothing of the wish for an item.
_KINDS: Final = ("view", "click", "wishlist", "add_to_cart", "purchase")
CODES: Final = {kind: code for code, kind in enumerate(_KINDS)}
UNDONE: Final = {"remove": CODES["add_to_cart"], "return": CODES["purchase"]}  # which acts an event takes back
_WEIGHTS: Final = np.array([EVENT_WEIGHTS.get(kind, EVENT_WEIGHTS["view"]) for kind in _KINDS], np.float32)


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


class UserState(Protocol):
    """Recent acts by user and by visit. Implementations are thread-safe.

    Acts of a visit whose user becomes known are the user's from then on.
    """

    @property
    def is_remote(self) -> bool:
        """Whether an answer takes a while."""
        ...

    @property
    def sequence(self) -> int:
        """Up to where the log is known.

        Raises:
            Unavailable: what keeps it does not answer.
        """
        ...

    def follow(self, stretch: Stretch) -> int:
        """Take in what a log tells next, and forget whom it forgot; all of a part or nothing.

        Returns:
            Up to which sequence the log is known now; before `stretch.after`, nothing was taken, and what lies between is needed
            first. What is known already is not taken again.

        Raises:
            Unavailable: what keeps it does not answer; it may be taken all the same.
        """
        ...

    def clear(self) -> None:
        """Forget everybody, and the log.

        Raises:
            Unavailable: what keeps it does not answer.
        """
        ...

    def recent(self, user: str, session: str) -> Recent:
        """Return what a user did, and what was done in a visit that is not known to be theirs yet.

        Args:
            user: a keyed hash, "" for unknown.
            session: "" for unknown.

        Raises:
            Unavailable: what keeps it does not answer.
        """
        ...

    def close(self) -> None:
        """Give back connections; twice is once."""
        ...


def recent_of(items: Sequence[str], at_s: NDArray[np.integer], codes: NDArray[np.integer]) -> Recent:
    """Return acts by their items, times in seconds and codes of their types."""
    return Recent(tuple(items), at_s.astype(np.int64) * 1000, _WEIGHTS[codes], codes == CODES["purchase"])


NOTHING: Final = recent_of((), np.empty(0, np.int64), np.empty(0, np.int64))
