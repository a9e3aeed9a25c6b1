"""Another source's scores, lifted for what sells more now than it used to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.interactions import History, Interactions
from matching.sources.popular import Popular
from matching.sources.source import Source

_PRIOR: Final = (1.0, 5.0)  # users lately and ever that an item is taken to have had besides: few tell little


@dataclass(frozen=True, slots=True)
class Trending:
    """A source whose scores above 0 are multiplied by an item's trend.

    Attributes:
        source: the other source.
        trend: float32[n_items], (users lately + 1) / (users ever + 5), to the power `exponent`; above 0.
    """

    source: Source
    trend: NDArray[np.float32]

    @classmethod
    def fit(
        cls, source: Source, interactions: Interactions, *, now_ms: int, days: float = 14, exponent: float = 1.0
    ) -> Trending:
        """Compare the users of the last `days` with those of all time."""
        lately = Popular.fit(interactions, now_ms=now_ms, days=days).n_users
        ever = Popular.fit(interactions, now_ms=now_ms).n_users
        return cls(source, ((lately + np.float32(_PRIOR[0])) / (ever + np.float32(_PRIOR[1]))) ** np.float32(exponent))

    @property
    def name(self) -> str:
        """See `Source`."""
        return f"{self.source.name}-trending"

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        scores = self.source.scores(histories, now_ms)
        with np.errstate(invalid="ignore"):
            return np.where(scores > 0, scores * self.trend, scores)
