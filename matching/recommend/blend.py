"""Rankings of several sources made one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from matching.fusion import RANK_CONSTANT


class Blended(NamedTuple):
    """Rows int64[m], best first, ties by row; scores float64[m]; and for each the rankings that have it, weightiest first."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    of: tuple[tuple[int, ...], ...]


def blend(rankings: Sequence[tuple[float, NDArray[np.int64]]], k: int) -> Blended:
    """Fuse rankings by reciprocal ranks: a row's score is the sum of weight / (60 + rank), rank 1 first.

    Args:
        rankings: weight above 0 and rows, each once, best first.
        k: at most so many.

    Source: Cormack, Clarke and Buettcher, Reciprocal rank fusion outperforms Condorcet and individual rank learning methods,
    SIGIR 2009, with weights.
    """
    rows = np.concatenate([np.empty(0, np.int64), *(ranked for _, ranked in rankings)])
    parts = np.concatenate(
        [np.empty(0), *(weight / (RANK_CONSTANT + 1 + np.arange(len(ranked))) for weight, ranked in rankings)]
    )
    which = np.repeat(np.arange(len(rankings)), [len(ranked) for _, ranked in rankings])
    distinct, place = np.unique(rows, return_inverse=True)
    scores = np.bincount(place, parts, len(distinct)).astype(np.float64)
    best = np.lexsort((distinct, -scores))[:k]
    wanted = np.flatnonzero(np.isin(place, best))
    having: dict[int, list[int]] = {int(at): [] for at in best}
    for entry in wanted[np.lexsort((which[wanted], -parts[wanted]))].tolist():
        having[int(place[entry])].append(int(which[entry]))
    return Blended(distinct[best], scores[best], tuple(tuple(having[int(at)]) for at in best))
