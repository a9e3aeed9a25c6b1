"""Rankings of several sources made one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Blended(NamedTuple):
    """Every row that a ranking has, best first, ties by row.

    Attributes:
        rows: int64[m].
        scores: float64[m].
        parts: float64[s, m], what each ranking gave to the score; 0 where it does not have the row.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    parts: NDArray[np.float64]

    def named_by(self, at: int) -> tuple[int, ...]:
        """Return the rankings that have a row, by its position here, the weightiest first."""
        parts = self.parts[:, at]
        return tuple(place for place in np.argsort(-parts, kind="stable").tolist() if parts[place] > 0)


def blend(rankings: Sequence[tuple[float, NDArray[np.int64], NDArray[np.float32]]]) -> Blended:
    """Add up what each ranking gives: its weight for its best row, and less for others as their scores say.

    Args:
        rankings: weight above 0; rows, each once; and their scores above 0, best first.
    """
    rows = np.concatenate([np.empty(0, np.int64), *(ranked for _, ranked, _ in rankings)])
    which = np.repeat(np.arange(len(rankings)), [len(ranked) for _, ranked, _ in rankings])
    shares = (weight * (scores / scores[:1].astype(np.float64)) for weight, _, scores in rankings)
    given = np.concatenate([np.empty(0), *shares])
    distinct, place = np.unique(rows, return_inverse=True)
    parts = np.zeros((len(rankings), len(distinct)))
    parts[which, place] = given
    scores = parts.sum(axis=0)
    order = np.lexsort((distinct, -scores))
    return Blended(distinct[order], scores[order], parts[:, order])
