"""What a user bought and will soon need again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.interactions import DAY_MS, History, Interactions
from matching.recommend.cycles import PRIOR, PURCHASE, SAME_DAYS, Cycles
from matching.sources.source import NO_CANDIDATE

_MIN_SPREAD: Final = 0.3


@dataclass(frozen=True, slots=True)
class BuyAgain:
    """Items of the history by the chance that they are bought again soon; no other item is a candidate."""

    cycles: Cycles

    @classmethod
    def fit(cls, interactions: Interactions, *, horizon_days: float = 30.0) -> BuyAgain:
        """Learn from the purchases, that are the acts of weight 1 and more, how often and when items are bought again.

        What is known of few is drawn to the mean of all. A user counts with one time, the mean of theirs, an item.
        """
        bought = interactions.take(interactions.weights >= PURCHASE)
        n = interactions.n_items
        order = np.lexsort((bought.at_ms, bought.items, bought.users))
        pair = bought.users[order].astype(np.int64) * max(n, 1) + bought.items[order]
        gaps = np.diff(bought.at_ms[order], prepend=0) / DAY_MS
        is_again = np.diff(pair, prepend=-1) == 0
        is_again &= gaps >= SAME_DAYS
        distinct, place = np.unique(pair, return_inverse=True)
        n_times = np.bincount(place, is_again, len(distinct))
        log_gaps = np.bincount(place, np.where(is_again, np.log(np.maximum(gaps, SAME_DAYS)), 0), len(distinct))
        items = distinct % max(n, 1)
        again = n_times > 0
        means = log_gaps[again] / n_times[again]
        n_buyers = np.bincount(items, minlength=n)
        n_again = np.bincount(items[again], minlength=n)
        overall = (again.sum() + 1) / (len(distinct) + 2)
        centre = float(means.mean()) if len(means) else math.log(horizon_days)
        spread = float(means.std()) if len(means) else 1.0
        chance = (n_again + PRIOR * overall) / (n_buyers + PRIOR)
        log_days = (np.bincount(items[again], means, n) + PRIOR * centre) / (n_again + PRIOR)
        return cls(
            Cycles(chance.astype(np.float32), log_days.astype(np.float32), max(spread, _MIN_SPREAD), horizon_days)
        )

    @property
    def name(self) -> str:
        """See `Source`."""
        return "buy-again"

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        scores = np.full((len(histories), len(self.cycles.chance)), NO_CANDIDATE, np.float32)
        for row, history in enumerate(histories):
            is_bought = history.weights >= PURCHASE
            items, soon = self.cycles.due(history.items[is_bought].astype(np.int64), history.at_ms[is_bought], now_ms)
            scores[row, items] = soon
        return scores
