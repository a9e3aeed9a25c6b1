"""What was taken in past visits that are like this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.interactions import DAY_MS, History, Interactions
from matching.profile import Profile
from matching.sources.baskets import baskets
from matching.sources.source import NO_CANDIDATE

MAX_VISIT: Final = 100  # a visit counts with its last so many items: nobody chooses among thousands
_STEP_DECAY: Final = float(np.exp(-1 / 4.9))


@dataclass(frozen=True, slots=True)
class SessionKnn:
    """Nearest past visits by cosine, newer ones counting more; their items vote.

    Attributes:
        offsets: int64[n_visits + 1]; visit v took items[offsets[v]:offsets[v + 1]], each once, in order of its last time.
        items: int32[m].
        ages: float32[n_visits], days from the end of a visit to the fit.
        idf: float32[n_items], log(n_visits / visits with the item), and 0 for one that nobody took.
        n_visits_asked: of each item of a history the newest so many visits are looked at.
        n_neighbors: visits that vote.
        half_life_days: after which a visit counts half.
        reach: an item whose distance to the last common one, in places of the visit, is so long votes 1 / e.
        idf_weight: rare items count 1 + this * idf.
        profile: how much each item of a history counts.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    ages: NDArray[np.float32]
    idf: NDArray[np.float32]
    n_visits_asked: int
    n_neighbors: int
    half_life_days: float
    reach: float
    idf_weight: float
    profile: Profile

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        *,
        now_ms: int,
        n_visits_asked: int = 1000,
        n_neighbors: int = 500,
        half_life_days: float = 28.0,
        reach: float = 4.9,
        idf_weight: float = 1.0,
        profile: Profile = Profile(step_decay=_STEP_DECAY),
    ) -> SessionKnn:
        """Keep the visits.

        Source: Ludewig, Mauro, Latifi and Jannach, Empirical analysis of session-based recommendation algorithms, UMUAI 2021,
        section 3.1 (VSTAN: the decays of STAN, Garg et al., SIGIR 2019, with idf).
        """
        told = baskets(interactions)
        order = np.lexsort((told.at_ms, told.users))
        visits, items, at_ms = told.users[order], told.items[order], told.at_ms[order]
        key = visits.astype(np.int64) * told.n_items + items
        last = len(key) - 1 - np.unique(key[::-1], return_index=True)[1]  # of what comes twice the last time
        kept = np.sort(last)
        place = np.arange(len(kept)) - np.searchsorted(visits[kept], visits[kept], side="right")
        kept = kept[place >= -MAX_VISIT]
        n_visits = told.n_users
        ends = at_ms[np.searchsorted(visits, np.arange(n_visits), side="right") - 1] if n_visits else at_ms[:0]
        by_age = np.argsort(ends, kind="stable")  # oldest first, so that the newest of an item lie together
        renamed = np.empty(n_visits, np.int64)
        renamed[by_age] = np.arange(n_visits)
        moved = np.argsort(renamed[visits[kept]], kind="stable")
        kept_visits, kept_items = renamed[visits[kept]][moved], items[kept][moved]
        n_with = np.bincount(kept_items, minlength=told.n_items)
        return cls(
            np.searchsorted(kept_visits, np.arange(n_visits + 1)).astype(np.int64),
            kept_items.astype(np.int32),
            ((now_ms - ends[by_age]) / DAY_MS).astype(np.float32),
            np.where(n_with > 0, np.log(max(n_visits, 1) / np.maximum(n_with, 1)), 0).astype(np.float32),
            n_visits_asked,
            n_neighbors,
            half_life_days,
            reach,
            idf_weight,
            profile,
        )

    @property
    def name(self) -> str:
        """See `Source`."""
        return "session-knn"

    def by_item(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the newest visits of each item: offsets int64[n_items + 1] and visits int32[q], oldest first."""
        visits = np.repeat(np.arange(len(self.ages), dtype=np.int32), np.diff(self.offsets))
        order = np.argsort(self.items, kind="stable")
        ends = np.searchsorted(self.items[order], np.arange(1, len(self.idf) + 1))
        until = ends[self.items[order]] if len(order) else ends[:0]
        kept = order[until - np.arange(len(order)) <= self.n_visits_asked]
        offsets = np.searchsorted(self.items[kept], np.arange(len(self.idf) + 1))
        return offsets.astype(np.int64), visits[kept]

    def nearness(self) -> NDArray[np.float32]:
        """Return what a common item counts in each visit: float32[n_visits], 1 / sqrt(its items), halved by its age."""
        lengths = np.maximum(np.diff(self.offsets), 1)
        return ((0.5 ** (self.ages / self.half_life_days)) / np.sqrt(lengths)).astype(np.float32)

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        offsets, visits = self.by_item()
        nearness = self.nearness()
        scores = np.full((len(histories), len(self.idf)), NO_CANDIDATE, np.float32)
        for row, history in enumerate(histories):
            best: dict[int, float] = {}
            for item, worth in zip(history.items.tolist(), self.profile.weigh(history, now_ms).tolist(), strict=True):
                best[item] = max(best.get(item, 0.0), worth)
            near: dict[int, float] = {}
            for item, worth in best.items():
                for visit in visits[offsets[item] : offsets[item + 1]].tolist():
                    near[visit] = (
                        near.get(visit, 0.0) + worth * (1 + self.idf_weight * self.idf[item]) * nearness[visit]
                    )
            for visit in sorted(near, key=lambda each: (-near[each], each))[: self.n_neighbors]:
                taken = self.items[self.offsets[visit] : self.offsets[visit + 1]].tolist()
                last = max(at for at, item in enumerate(taken) if item in best)
                for at, item in enumerate(taken):
                    vote = near[visit] * np.exp(-abs(at - last) / self.reach)
                    scores[row, item] = max(scores[row, item], 0) + vote * (1 + self.idf_weight * self.idf[item])
        return scores
