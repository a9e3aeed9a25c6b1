"""Rankings of several sources made one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from matching.fusion import RANK_CONSTANT


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


def blend(rankings: Sequence[tuple[float, NDArray[np.int64]]]) -> Blended:
    """Fuse rankings by reciprocal ranks: a row's score is the sum of weight / (60 + rank), rank 1 first.

    Args:
        rankings: weight above 0 and rows, each once, best first.

    Source: Cormack, Clarke and Buettcher, Reciprocal rank fusion outperforms Condorcet and individual rank learning methods,
    SIGIR 2009, with weights.
    """
    rows = np.concatenate([np.empty(0, np.int64), *(ranked for _, ranked in rankings)])
    given = np.concatenate([np.empty(0), *(weight / (RANK_CONSTANT + 1 + np.arange(len(r))) for weight, r in rankings)])
    which = np.repeat(np.arange(len(rankings)), [len(ranked) for _, ranked in rankings])
    distinct, place = np.unique(rows, return_inverse=True)
    parts = np.zeros((len(rankings), len(distinct)))
    parts[which, place] = given
    scores = parts.sum(axis=0)
    order = np.lexsort((distinct, -scores))
    return Blended(distinct[order], scores[order], parts[:, order])
