"""What many users took lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matching.interactions import DAY_MS, History, Interactions
from matching.sources.source import NO_CANDIDATE


@dataclass(frozen=True, slots=True)
class Popular:
    """The same items for all: those of the most users in the days before the fit.

    Attributes:
        n_users: float32[n_items], users who took the item in that time.
        days: length of that time; inf = always.
    """

    n_users: NDArray[np.float32]
    days: float

    @classmethod
    def fit(cls, interactions: Interactions, *, now_ms: int, days: float = float("inf")) -> Popular:
        """Count users of the `days` before `now_ms`, each user once an item."""
        start_ms = 0 if days == float("inf") else now_ms - int(days * DAY_MS)
        lately = interactions.between(start_ms, now_ms)
        _, items = lately.distinct()
        return cls(np.bincount(items, minlength=interactions.n_items).astype(np.float32), days)

    @property
    def name(self) -> str:
        """See `Source`."""
        return "popular" if self.days == float("inf") else f"popular-{self.days:g}d"

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        row = np.where(self.n_users > 0, self.n_users, NO_CANDIDATE)
        return np.broadcast_to(row, (len(histories), len(row)))
