"""Which k of some candidates have a place, under caps and diversity: by the native kernel, over arrays of candidates alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.recommend.model import Bitmap

_AHEAD: Final = 1000.0  # what already has a place is nearer than any candidate by more than vectors can be unlike


def choose(
    rows: NDArray[np.int64],
    relevance: NDArray[np.float64],
    n_first: int,
    k: int,
    *,
    caps: Sequence[tuple[NDArray[np.int32], int]] = (),
    vectors: NDArray[np.float32] | None = None,
    weight: float = 1.0,
) -> NDArray[np.int64]:
    """Return the positions of at most k candidates, in the order of choice.

    Args:
        rows: int64[c], each once; the first `n_first` come before all others as far as the caps let them.
        relevance: float64[c], 0 or more; of those after the first ones the greatest first.
        caps: codes int32[n] of all rows, -1 for none, and how many of the chosen may share one.
        vectors: float32[c, dim], for diversity.
        weight: of the relevance against being unlike those chosen before; 1 for no diversity.
    """
    if not len(rows) or (not caps and weight == 1.0):
        return np.arange(min(k, len(rows)))
    distances = np.empty(len(rows), np.float32)
    distances[:n_first] = -_AHEAD * np.arange(n_first, 0, -1)
    greatest = float(relevance[n_first:].max(initial=0.0)) or 1.0
    distances[n_first:] = 1 - relevance[n_first:] / greatest
    positions, _, _, _ = cpp_ext.diversify(
        np.arange(len(rows))[None],
        distances[None],
        k,
        tags=np.stack([codes[rows] for codes, _ in caps]) if caps else None,
        caps=np.array([most for _, most in caps], np.int32) if caps else None,
        vectors=vectors,
        metric="cosine",
        mmr_lambda=weight,
    )
    chosen: NDArray[np.int64] = positions[0][positions[0] >= 0]
    return chosen


def full(rows: NDArray[np.int64], codes: NDArray[np.int32], most: int) -> NDArray[np.int64]:
    """Return all rows, int64[m], whose token has as many of the chosen rows as a cap allows.

    Args:
        rows: those chosen.
        codes: int32[n] of all rows, -1 for none.
    """
    held = codes[rows]
    counts = np.bincount(held[held >= 0], minlength=1)
    is_full = np.append(counts >= most, False)  # the last one is that of rows without a token
    return np.flatnonzero(is_full[np.minimum(codes, len(counts))])


def bits_at(bitmap: Bitmap, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each of some rows is in a bitmap, bool[m]."""
    shifts = (rows & 63).astype(np.uint64)
    inside: NDArray[np.bool_] = ((bitmap[rows >> 6] >> shifts) & np.uint64(1)).astype(np.bool_)
    return inside
