"""Two rankings of one query, dense and sparse, fused into one. Pure functions over rows.

Ties go to the smaller row, which in a sealed version is the smaller datapoint id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.errors import InvalidQuery

RANK_CONSTANT = 60


@dataclass(frozen=True, slots=True)
class Fusion:
    """How a dense and a sparse ranking become one.

    Attributes:
        kind: "rrf" goes by ranks, "score" by scores.
        alpha: share of the dense side, 0 to 1; 1 is the dense ranking alone, 0 the sparse one alone.

    Raises:
        InvalidQuery: alpha is not within 0 and 1.
    """

    kind: Literal["rrf", "score"]
    alpha: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise InvalidQuery(
                f"[search] alpha is {self.alpha}; expected 0 (sparse alone) to 1 (dense alone); correct it"
            )


SPARSE_ONLY = Fusion("rrf", 0.0)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The head of one side's ranking: rows int64[n], each once, and their distances float32[n], nearest first."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


def head_depth(k: int) -> int:
    """Return how far down each side is looked at for the best k of both: 2 k + 60.

    A row that neither head of that depth holds scores at most 1 / (60 + 2 k + 61), while the k best rows of the weightier side,
    with a share of at least 1 / 2, score at least 1 / (2 (60 + k)) each. So none of the best k by reciprocal rank fusion of the
    full rankings is missing from both heads, whatever alpha is.
    """
    return 2 * k + RANK_CONSTANT


def fused(fusion: Fusion, dense: Ranking, sparse: Ranking) -> NDArray[np.int64]:
    """Return the rows of both heads, best first; those of a side without a share are left out."""
    if fusion.alpha == 1.0:
        return dense.rows
    if fusion.alpha == 0.0:
        return sparse.rows
    if fusion.kind == "rrf":
        parts = _reciprocal_ranks(dense), _reciprocal_ranks(sparse)
    else:
        parts = _spread(dense), _above_zero(sparse)
    rows = np.union1d(dense.rows, sparse.rows)
    scores = np.zeros(len(rows))
    for share, side, own in zip((fusion.alpha, 1.0 - fusion.alpha), (dense, sparse), parts, strict=True):
        scores[np.searchsorted(rows, side.rows)] += share * own
    return rows[np.lexsort((rows, -scores))]


def _reciprocal_ranks(side: Ranking) -> NDArray[np.float64]:
    """Return 1 / (60 + rank), rank 1 for the nearest.

    Source: Cormack, Clarke and Büttcher, Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods, SIGIR
    2009, whose constant is 60. The shares alpha and 1 - alpha of the two sides are Vertex AI Vector Search's.
    """
    return np.asarray(1.0 / (RANK_CONSTANT + 1.0 + np.arange(len(side.rows))), np.float64)


def _spread(side: Ranking) -> NDArray[np.float64]:
    """Return scores from 1 for the nearest to 0 for the last of the head.

    Source: Bruch, Gai and Ingber, An Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023: the convex combination of
    min-max scaled scores, and of scores scaled from their least possible value where that is known, as 0 is for the sparse side.
    """
    if not len(side.rows):
        return np.empty(0)
    distances = side.distances.astype(np.float64)
    width = distances[-1] - distances[0]
    return (distances[-1] - distances) / width if width > 0 else np.ones(len(distances))


def _above_zero(side: Ranking) -> NDArray[np.float64]:
    """Return scores as shares of the best one; a sparse distance is below 0 wherever it stands in a ranking."""
    if not len(side.rows):
        return np.empty(0)
    distances = side.distances.astype(np.float64)
    return np.asarray(distances / distances[0])


def capped(rows: NDArray[np.int64], tags: NDArray[np.int32], cap: int) -> NDArray[np.int64]:
    """Return the rows without those that come after `cap` others of their tag; tags int32[n], -1 is no tag, cap 0 no limit."""
    if not cap or not len(rows):
        return rows
    own = tags[rows]
    by_tag = np.argsort(own, kind="stable")
    ordered = own[by_tag]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    place = np.empty(len(rows), np.int64)
    place[by_tag] = np.arange(len(rows)) - np.repeat(begins, np.diff(np.r_[begins, len(rows)]))
    return rows[(own < 0) | (place < cap)]


def rank_sparse(
    scores: NDArray[np.float32],
    k: int,
    *,
    matching: NDArray[np.uint64] | None = None,
    tags: NDArray[np.int32] | None = None,
    cap: int = 0,
) -> Ranking:
    """Rank rows by their inner product with a sparse query; rows that have nothing in common with it, 0 or less, are left out.

    Args:
        scores: float32[n].
        k: how many rows at most.
        matching: bitmap of the rows that may be found; None for all.
        tags: int32[n] crowding tags, -1 for none.
        cap: how many rows may share a tag, 0 for any number.

    Returns:
        Rows and the negated scores.
    """
    if not cap or tags is None:
        return Ranking(*cpp_ext.best_scores(scores, k, matching))
    rows = np.flatnonzero(scores > 0) if matching is None else cpp_ext.rows_of(matching, len(scores))
    rows = rows[scores[rows] > 0]
    rows = capped(rows[np.lexsort((rows, -scores[rows]))], tags, cap)[:k]
    return Ranking(rows, -scores[rows])
