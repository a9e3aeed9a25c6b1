"""When what was bought is bought again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.interactions import DAY_MS

PURCHASE: Final = 1.0  # what an act must weigh to be a purchase
SAME_DAYS: Final = 1.0  # what is bought again sooner belongs to the same purchase
PRIOR: Final = 5.0  # buyers, or times between purchases, that all items together are worth in what is told of one


@dataclass(frozen=True, slots=True)
class Cycles:
    """How often items are bought again, and after how long.

    Attributes:
        chance: float32[n_items], that a buyer ever buys it again, in (0, 1).
        log_days: float32[n_items], mean logarithm of the days between two purchases.
        spread: standard deviation of that logarithm, over all items.
        horizon_days: what "soon" means.
    """

    chance: NDArray[np.float32]
    log_days: NDArray[np.float32]
    spread: float
    horizon_days: float

    def due(
        self, items: NDArray[np.int64], at_ms: NDArray[np.int64], now_ms: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the items of some purchases, each once, and the chance that each is bought again within the horizon.

        Of an item that was bought several times the user's own times between purchases count beside those of others. Given
        that it was not bought again until now, the chance is c (F(t + h) - F(t)) / (1 - c F(t)): F is the log-normal
        distribution of the time, t the time since, h the horizon.

        Args:
            items: int64[p].
            at_ms: int64[p], since 1970, ascending.
        """
        order = np.argsort(items, kind="stable")
        own, times = items[order], at_ms[order]
        distinct, first = np.unique(own, return_index=True)
        gaps = np.diff(times, prepend=times[:1]) / DAY_MS
        gaps[first] = 0
        is_again = gaps >= SAME_DAYS
        place = np.searchsorted(distinct, own)
        n_again = np.bincount(place, is_again, len(distinct))
        log_gaps = np.bincount(place, np.where(is_again, np.log(np.maximum(gaps, SAME_DAYS)), 0), len(distinct))
        chance = (self.chance[distinct] * PRIOR + n_again) / (PRIOR + n_again)
        mean = (self.log_days[distinct] * PRIOR + log_gaps) / (PRIOR + n_again)
        last = times[np.append(first[1:], len(times)) - 1] if len(times) else times
        since = np.maximum((now_ms - last) / DAY_MS, 1e-3)
        before = _normal((np.log(since) - mean) / self.spread)
        until = _normal((np.log(since + self.horizon_days) - mean) / self.spread)
        soon = chance * (until - before) / (1 - chance * before)
        return distinct, soon.astype(np.float32)


def _normal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard normal distribution."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values.tolist()])
