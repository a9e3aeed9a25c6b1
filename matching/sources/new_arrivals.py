"""What the shop has only lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.interactions import DAY_MS, History, Interactions
from matching.sources.popular import Popular
from matching.sources.source import NO_CANDIDATE

HALF_LIFE_DAYS: Final = 14.0  # after which being new counts half


@dataclass(frozen=True, slots=True)
class NewArrivals:
    """The same items for all: those first seen in the days before the fit, the newer and the more wanted the better.

    Attributes:
        worth: float32[n_items], log2(2 + users) halved by age; 0 for an item that is not new.
    """

    worth: NDArray[np.float32]

    @classmethod
    def fit(cls, interactions: Interactions, *, now_ms: int, days: float = 30.0) -> NewArrivals:
        """Find what was seen first in the `days` before `now_ms`.

        When the events begin everything is seen first; what is seen in their first `days` is not new for that.
        """
        known = interactions.between(0, now_ms)
        items, first = np.unique(known.items, return_index=True)
        if not len(items):
            return cls(np.zeros(interactions.n_items, np.float32))
        first_ms = known.at_ms[first]
        age_days = (now_ms - first_ms) / DAY_MS
        is_new = (age_days <= days) & (first_ms - known.at_ms[0] > days * DAY_MS)
        n_users = Popular.fit(interactions, now_ms=now_ms).n_users[items]
        worth = np.zeros(interactions.n_items, np.float32)
        worth[items[is_new]] = (np.log2(2 + n_users) * 0.5 ** (age_days / HALF_LIFE_DAYS))[is_new]
        return cls(worth)

    @property
    def name(self) -> str:
        """See `Source`."""
        return "new-arrivals"

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        row = np.where(self.worth > 0, self.worth, NO_CANDIDATE)
        return np.broadcast_to(row, (len(histories), len(row)))
