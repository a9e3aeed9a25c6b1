"""Another source's scores, lifted for what sells more now than it used to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.interactions import DAY_MS, History, Interactions
from matching.sources.popular import Popular
from matching.sources.source import Source

HALF_LIFE_DAYS: Final = 7.0  # after which a user counts half
_PRIOR: Final = (1.0, 5.0)  # users lately and ever that an item is taken to have had besides: few tell little


def trend(interactions: Interactions, *, now_ms: int, half_life_days: float = HALF_LIFE_DAYS) -> NDArray[np.float32]:
    """Return how much more each item is taken lately than it used to: float32[n_items], above 0.

    That is (users lately + 1) / (users ever + 5); each user counts once an item, at their last time, halved by its age.
    """
    ever = Popular.fit(interactions, now_ms=now_ms).n_users
    known = interactions.between(0, now_ms)
    pair = known.users.astype(np.int64) * max(known.n_items, 1) + known.items
    pairs, last = np.unique(pair[::-1], return_index=True)
    days = (now_ms - known.at_ms[::-1][last]) / DAY_MS
    lately = np.bincount(pairs % max(known.n_items, 1), 0.5 ** (days / half_life_days), known.n_items)
    return ((lately + _PRIOR[0]) / (ever + _PRIOR[1])).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Trending:
    """A source whose scores above 0 are multiplied by an item's trend.

    Attributes:
        source: the other source.
        trend: float32[n_items], above 0.
    """

    source: Source
    trend: NDArray[np.float32]

    @classmethod
    def fit(
        cls, source: Source, interactions: Interactions, *, now_ms: int, half_life_days: float = HALF_LIFE_DAYS
    ) -> Trending:
        """Lift by `trend`."""
        return cls(source, trend(interactions, now_ms=now_ms, half_life_days=half_life_days))

    @property
    def name(self) -> str:
        """See `Source`."""
        return f"{self.source.name}-trending"

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        scores = self.source.scores(histories, now_ms)
        with np.errstate(invalid="ignore"):
            return np.where(scores > 0, scores * self.trend, scores)
