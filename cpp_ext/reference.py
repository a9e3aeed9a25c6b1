"""Every kernel in plain NumPy: what the native ones must agree with, and what answers where they are missing.

Arrays are C-contiguous. A bitmap is uint64[ceil(n / 64)]; bit r, least significant first, stands for row r, and bits from n
on are ignored. A row is a datapoint: with offsets int64[n + 1] row r owns vectors offsets[r]:offsets[r + 1], without them
vector r. Distances are -dot (ip), 1 - cos (cosine; a zero vector has cos 0) and squared L2 (l2); smaller is nearer and ties
go to the smaller row. A missing neighbor is row -1, distance +inf, and a distance of NaN or +inf is never a neighbor.

All functions are thread-safe as long as no other thread writes to their arguments; they raise TypeError for a wrong type
or dtype, ValueError for a wrong shape, order or value, and IndexError for a row or term that does not exist.
"""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Buffer

Metric = Literal["ip", "cosine", "l2"]
Operator = Literal["LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL"]
Found = tuple[NDArray[np.int64], NDArray[np.float32]]
Diversified = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]

MAX_K = 1 << 20
MAX_THREADS = 256
MAX_ROWS = 1 << 40
MAX_QUOTAS = 128  # an exchange recurses three frames deep for each
_CHUNK = 4096  # vectors turned to float32 at a time

_HOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "LESS": operator.lt,
    "LESS_EQUAL": operator.le,
    "EQUAL": operator.eq,
    "GREATER_EQUAL": operator.ge,
    "GREATER": operator.gt,
    "NOT_EQUAL": lambda a, b: (a < b) | (a > b),
}


def backend() -> str:
    """Return what computes: "avx512_vnni", "avx512", "avx2", "neon", "scalar", or "numpy" for this module."""
    return "numpy"


def scan(
    vectors: NDArray[np.float32] | NDArray[np.int8],
    queries: NDArray[np.float32],
    k: int,
    *,
    metric: Metric,
    mask: NDArray[np.uint64] | None = None,
    offsets: NDArray[np.int64] | None = None,
    best_of: int = 1,
    scales: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
    tags: NDArray[np.int32] | None = None,
    tag_cap: int = 0,
    threads: int = 1,
) -> Found:
    """Return the exact k nearest rows of each query among the rows of a bitmap.

    Args:
        vectors: float32 or int8 [N, d], finite.
        queries: float32[q, d], finite.
        k: 1 to 2**20.
        metric: "ip", "cosine" or "l2".
        mask: bitmap of the n rows to look at; None = all.
        offsets: int64[n + 1] from 0 to N, ascending; None = one vector a row. A row without vectors is never a result.
        best_of: a row's distance is the mean of its best_of nearest vectors, of all when it has fewer.
        scales: float32[N], each > 0; vector i is scales[i] * vectors[i]. For int8 vectors only.
        bias: float32[q, n], added to the distance.
        tags: int32[n]; -1 = no tag.
        tag_cap: with tags, the greedy best list in which no tag has more than this many entries; 0 = no cap.
        threads: 1 to 256, of which only as many start as the work pays for; the answer does not depend on it.

    Returns:
        Rows int64[q, k] and distances float32[q, k], nearest first, padded with -1 and +inf.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument has the wrong shape, order or value; offsets of a visited row do not ascend within N.
    """
    request = _Request(
        "scan", vectors, queries, k, metric, mask, offsets, best_of, scales, bias, tags, tag_cap, threads
    )
    rows = np.arange(request.n, dtype=np.int64) if mask is None else rows_of(mask, request.n)
    return _stack([request.nearest(q, rows) for q in range(len(queries))], k)


def rescore(
    vectors: NDArray[np.float32] | NDArray[np.int8],
    queries: NDArray[np.float32],
    candidates: NDArray[np.int64],
    k: int,
    *,
    metric: Metric,
    offsets: NDArray[np.int64] | None = None,
    best_of: int = 1,
    scales: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
    tags: NDArray[np.int32] | None = None,
    tag_cap: int = 0,
    mask: NDArray[np.uint64] | None = None,
    threads: int = 1,
) -> Found:
    """Return the exact k nearest of each query's candidates.

    Args:
        vectors: as in `scan`, and so are all arguments not named here.
        queries: float32[q, d].
        candidates: int64[q, m] rows; -1 is skipped, a repeated row counts once.
        k: 1 to 2**20.
        metric: "ip", "cosine" or "l2".
        offsets: int64[n + 1] or None.
        best_of: how many of a row's vectors count.
        scales: float32[N] or None.
        bias: float32[q, n] or None.
        tags: int32[n] or None.
        tag_cap: entries a tag may have; 0 = no cap.
        mask: bitmap of the rows that may be results; None = all.
        threads: 1 to 256.

    Returns:
        Rows int64[q, k] and distances float32[q, k], nearest first, padded with -1 and +inf.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument has the wrong shape, order or value; offsets of a visited row do not ascend within N.
        IndexError: a candidate is below -1 or not below n.
    """
    request = _Request(
        "rescore", vectors, queries, k, metric, mask, offsets, best_of, scales, bias, tags, tag_cap, threads
    )
    _check_array("rescore", "candidates", candidates, [np.int64], {"q": len(queries), "m": None})
    found = []
    for q, listed in enumerate(candidates):
        for row in listed[(listed < -1) | (listed >= request.n)]:
            raise IndexError(f"[rescore] candidates holds {row}; expected -1 or 0 <= row < {request.n}")
        rows = np.unique(listed[listed >= 0])
        if mask is not None:
            rows = np.intersect1d(rows, rows_of(mask, request.n))
        found.append(request.nearest(q, rows))
    return _stack(found, k)


def merge(
    rows: NDArray[np.int64],
    distances: NDArray[np.float32],
    k: int,
    *,
    tags: NDArray[np.int32] | None = None,
    tag_cap: int = 0,
) -> Found:
    """Return the k nearest of several answers to the same queries.

    Args:
        rows: int64[s, q, m], -1 = none; a row in two answers counts once, with its smaller distance.
        distances: float32[s, q, m].
        k: 1 to 2**20.
        tags: int32[n] or None, as in `scan`.
        tag_cap: entries a tag may have; 0 = no cap.

    Returns:
        Rows int64[q, k] and distances float32[q, k], nearest first, padded with -1 and +inf.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument has the wrong shape, order or value.
        IndexError: a row is below -1 or, with a cap, not below n.
    """
    _check_array("merge", "rows", rows, [np.int64], {"s": None, "q": None, "m": None})
    n_shards, n_queries, m = rows.shape
    _check_array("merge", "distances", distances, [np.float32], {"s": n_shards, "q": n_queries, "m": m})
    k = _check_integer("merge", "k", k, 1, MAX_K)
    tag_cap = _check_crowding("merge", tags, tag_cap, None)
    found = []
    for q in range(n_queries):
        nearest: dict[int, np.float32] = {}
        for row, distance in zip(rows[:, q].ravel().tolist(), distances[:, q].ravel(), strict=True):
            if row < -1 or (tag_cap and tags is not None and row >= len(tags)):
                limit = f" < {len(tags)}" if tag_cap and tags is not None else ""
                raise IndexError(f"[merge] rows holds {row}; expected -1 or 0 <= row{limit}")
            if row >= 0 and distance < nearest.get(row, np.float32(np.inf)):
                nearest[row] = distance
        found.append(
            _nearest(
                np.fromiter(nearest.keys(), np.int64, len(nearest)),
                np.fromiter(nearest.values(), np.float32, len(nearest)),
                k,
                tags,
                tag_cap,
            )
        )
    return _stack(found, k)


def diversify(
    rows: NDArray[np.int64],
    distances: NDArray[np.float32],
    k: int,
    *,
    tags: NDArray[np.int32] | None = None,
    caps: NDArray[np.int32] | None = None,
    quotas: NDArray[np.int32] | None = None,
    vectors: NDArray[np.float32] | None = None,
    metric: Metric = "cosine",
    mmr_lambda: float = 1.0,
) -> Diversified:
    """Choose k of each query's candidates under tag caps, quotas and MMR, and say what each of them cost.

    Candidates are chosen one by one. The next is, of those that break no cap or quota's most and that leave every quota
    fillable, the one of least mmr_lambda * distance - (1 - mmr_lambda) * (distance to the nearest of those chosen before); the
    first, and all with an mmr_lambda of 1, is the nearest; ties go to the nearer position. Quotas of one column, with at most
    one other column capped, are filled as far as the candidates allow, in sum; with more columns, where finding out is
    NP-hard, as far as exchanges along single paths reach. What cannot be filled is reported, and the list is no shorter for it.

    Args:
        rows: int64[q, c] rows of tags and vectors, nearest first; -1 = none.
        distances: float32[q, c], smaller is nearer; NaN and +inf = none.
        k: 1 to 2**20.
        tags: int32[t, n], t tags of each row; -1 = no tag.
        caps: int32[t], how many of the k may share a tag of that column; 0 = no cap.
        quotas: int32[m, 4] of (column, tag, least, most): how many of the k carry this tag; most stands in place of the
            column's cap. At most 128, an earlier one is filled first.
        vectors: float32[n, d], finite; for MMR.
        metric: between vectors: "ip", "cosine" or "l2", which should be that of the distances.
        mmr_lambda: weight of the query's distance, 0 to 1; 1 = no MMR.

    Returns:
        positions: int64[q, k] among the c candidates in the order of choice, padded with -1.
        given_up: float32[q, t + 2], the distance that each rule cost: the cap of each column, the quotas, MMR. A rule's cost is
            that of the list under it and all rules before, less that of the list under those before alone; a list's
            cost is the sum of its distances less that of as many nearest candidates, over the places that the answer
            fills. They add up to the cost of the answer; one below 0 won back what an earlier rule had cost.
        moved: int32[q, t + 2], how many of the list before each rule pushed out.
        shortfall: int32[q, m], how many each quota lacks.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument has the wrong shape, order or value; distances are not nearest first.
        IndexError: a row is below -1 or not below n.

    Source:
        Carbonell and Goldstein, The use of MMR, diversity-based reranking, SIGIR 1998.
    """
    _check_array("diversify", "rows", rows, [np.int64], {"q": None, "c": None})
    n_queries, n_candidates = rows.shape
    _check_array("diversify", "distances", distances, [np.float32], {"q": n_queries, "c": n_candidates})
    k = _check_integer("diversify", "k", k, 1, MAX_K)
    n_rows = None
    if tags is not None:
        _check_array("diversify", "tags", tags, [np.int32], {"t": None, "n": None})
        n_rows = tags.shape[1]
    n_columns = 0 if tags is None else len(tags)
    caps = _check_caps(caps, tags)
    quotas = _check_quotas(quotas, tags)
    _check_name("diversify", "metric", metric, ("ip", "cosine", "l2"))
    mmr_lambda = _check_fraction("diversify", "mmr_lambda", mmr_lambda)
    if vectors is not None:
        _check_array("diversify", "vectors", vectors, [np.float32], {"n": n_rows, "d": None})
        n_rows, dim = vectors.shape
        if dim == 0:
            raise ValueError("[diversify] vectors has dimension 0; expected d >= 1")
    elif mmr_lambda < 1:
        raise ValueError(
            f"[diversify] mmr_lambda is {mmr_lambda} and vectors is None; expected vectors float32[n, d] with MMR; "
            "pass them or leave mmr_lambda at 1"
        )
    positions = np.full((n_queries, k), -1, np.int64)
    given_up = np.zeros((n_queries, n_columns + 2), np.float32)
    moved = np.zeros((n_queries, n_columns + 2), np.int32)
    shortfall = np.zeros((n_queries, len(quotas)), np.int32)
    for q in range(n_queries):
        _check_candidates(rows[q], distances[q], q, n_rows)
        at = np.flatnonzero((rows[q] >= 0) & (distances[q] < np.inf))
        chosen_tags = np.zeros((0, len(at)), np.int32) if tags is None else tags[:, rows[q, at]]
        slate = _Slate(distances[q, at], chosen_tags, caps, quotas, k)
        lists = [list(range(min(k, len(at))))]
        for column in range(n_columns):
            lists.append(slate.within_caps(column + 1) if caps[column] else lists[-1])
        lists.append(slate.nearest() if len(quotas) else lists[-1])
        if mmr_lambda < 1:
            assert vectors is not None
            lists.append(slate.by_mmr(vectors[rows[q, at]], metric, mmr_lambda))
        else:
            lists.append(lists[-1])
        costs = [slate.cost_of(each[: len(lists[-1])]) for each in lists]
        given_up[q] = np.diff(costs)
        moved[q] = [len(set(before) - set(after)) for before, after in itertools.pairwise(lists)]
        positions[q, : len(lists[-1])] = at[lists[-1]]
        for i, (column, tag, least, _) in enumerate(quotas.tolist()):
            shortfall[q, i] = max(least - int(np.count_nonzero(chosen_tags[column, lists[-1]] == tag)), 0)
    return positions, given_up, moved, shortfall


def new_bitmap(n: int, fill: bool = False) -> NDArray[np.uint64]:
    """Return an empty bitmap of n rows, or with `fill` one that holds them all.

    Raises:
        TypeError: n is not an int.
        ValueError: n is negative or above 2**40.
    """
    n = _check_integer("new_bitmap", "n", n, 0, MAX_ROWS)
    return _pack(np.full(n, fill))


def set_rows(bitmap: NDArray[np.uint64], rows: NDArray[np.int32] | NDArray[np.int64]) -> None:
    """Put rows into a bitmap, in place.

    Raises:
        TypeError: an argument has the wrong dtype.
        ValueError: an argument has the wrong shape, or the bitmap cannot be written.
        IndexError: a row has no bit; the bitmap is unchanged.
    """
    bits = _bits_to_change("set_rows", bitmap, rows)
    bits[rows] = True
    bitmap[:] = _pack(bits)


def clear_rows(bitmap: NDArray[np.uint64], rows: NDArray[np.int32] | NDArray[np.int64]) -> None:
    """Take rows out of a bitmap, in place.

    Raises:
        TypeError: an argument has the wrong dtype.
        ValueError: an argument has the wrong shape, or the bitmap cannot be written.
        IndexError: a row has no bit; the bitmap is unchanged.
    """
    bits = _bits_to_change("clear_rows", bitmap, rows)
    bits[rows] = False
    bitmap[:] = _pack(bits)


def intersect(bitmap: NDArray[np.uint64], other: NDArray[np.uint64]) -> None:
    """Keep in `bitmap`, in place, the rows that are in `other` too.

    Raises:
        TypeError: an argument has the wrong dtype.
        ValueError: the lengths differ, or the bitmap cannot be written.
    """
    _check_writable("intersect", bitmap)
    _check_array("intersect", "other", other, [np.uint64], {"words": len(bitmap)})
    np.bitwise_and(bitmap, other, out=bitmap)


def union(bitmap: NDArray[np.uint64], other: NDArray[np.uint64]) -> None:
    """Put the rows of `other` into `bitmap`, in place.

    Raises:
        TypeError: an argument has the wrong dtype.
        ValueError: the lengths differ, or the bitmap cannot be written.
    """
    _check_writable("union", bitmap)
    _check_array("union", "other", other, [np.uint64], {"words": len(bitmap)})
    np.bitwise_or(bitmap, other, out=bitmap)


def count(bitmap: NDArray[np.uint64], n: int) -> int:
    """Return how many of the rows below n a bitmap holds.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: the bitmap does not have ceil(n / 64) words.
    """
    return int(np.count_nonzero(_check_bitmap("count", bitmap, n)))


def rows_of(bitmap: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """Return int64[m], the rows below n that a bitmap holds, ascending.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: the bitmap does not have ceil(n / 64) words.
    """
    return np.flatnonzero(_check_bitmap("rows_of", bitmap, n)).astype(np.int64)


def compare(
    bitmap: NDArray[np.uint64],
    values: NDArray[np.int64] | NDArray[np.float32] | NDArray[np.float64],
    op: Operator,
    value: int | float,
) -> None:
    """Keep in a bitmap, in place, the rows with `values[r] op value`.

    Args:
        bitmap: bitmap of n rows.
        values: int64, float32 or float64 [n]; NaN never passes, whatever the operator.
        op: "LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER" or "NOT_EQUAL".
        value: an int of 64 bits for int64 values; otherwise rounded to the type of the values.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: the bitmap does not have ceil(n / 64) words or cannot be written, or op is unknown, or value does not
            fit int64.
    """
    _check_array("compare", "values", values, [np.int64, np.float32, np.float64], {"n": None})
    _check_writable("compare", bitmap)
    _check_array("compare", "bitmap", bitmap, [np.uint64], {"words": _words(len(values))})
    _check_name("compare", "op", op, tuple(_HOLDS))
    wanted: np.int64 | np.float32 | np.float64
    if values.dtype == np.int64:
        limits = np.iinfo(np.int64)
        wanted = np.int64(_check_integer("compare", "value", value, int(limits.min), int(limits.max)))
    else:
        try:
            number = float(value)
        except TypeError:
            raise TypeError(f"[compare] value is {type(value).__name__}; expected a number") from None
        with np.errstate(over="ignore"):
            wanted = np.float32(number) if values.dtype == np.float32 else np.float64(number)
    with np.errstate(invalid="ignore"):
        passes = _HOLDS[op](values, wanted)
    np.bitwise_and(bitmap, _pack(passes), out=bitmap)


def sparse_scores(
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    weights: NDArray[np.float32],
    terms: NDArray[np.int64],
    term_weights: NDArray[np.float32],
    n: int,
) -> NDArray[np.float32]:
    """Return float32[n], for each row the sum over the terms of weight * term_weight, from an inverted index.

    Args:
        offsets: int64[t + 1]; term t owns entries offsets[t]:offsets[t + 1].
        rows: int32[nnz], the row of each entry.
        weights: float32[nnz], the weight of each entry.
        terms: int64[m], the terms of the query; a repeated one counts again.
        term_weights: float32[m].
        n: number of rows, at most 2**31.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument has the wrong shape; offsets of a term do not ascend within nnz.
        IndexError: a term or the row of one of its entries does not exist.
    """
    _check_array("sparse_scores", "offsets", offsets, [np.int64], {"t + 1": None})
    if len(offsets) == 0:
        raise ValueError("[sparse_scores] offsets has shape (0,); expected (t + 1,)")
    _check_array("sparse_scores", "rows", rows, [np.int32], {"nnz": None})
    _check_array("sparse_scores", "weights", weights, [np.float32], {"nnz": len(rows)})
    _check_array("sparse_scores", "terms", terms, [np.int64], {"m": None})
    _check_array("sparse_scores", "term_weights", term_weights, [np.float32], {"m": len(terms)})
    n = _check_integer("sparse_scores", "n", n, 0, 1 << 31)
    scores = np.zeros(n, np.float32)
    for term, term_weight in zip(terms.tolist(), term_weights, strict=True):
        if not 0 <= term < len(offsets) - 1:
            raise IndexError(f"[sparse_scores] terms holds {term}; expected 0 <= term < {len(offsets) - 1}")
        first, last = int(offsets[term]), int(offsets[term + 1])
        if not 0 <= first <= last <= len(rows):
            raise ValueError(
                f"[sparse_scores] offsets gives term {term} the entries {first}:{last}; "
                f"expected ascending within 0:{len(rows)}"
            )
        hit = rows[first:last]
        for row in hit[(hit < 0) | (hit >= n)]:
            raise IndexError(f"[sparse_scores] rows holds {row}; expected 0 <= row < {n}")
        np.add.at(scores, hit, weights[first:last] * term_weight)
    return scores


def best_scores(
    scores: NDArray[np.float32], k: int, mask: NDArray[np.uint64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of the k greatest scores above 0, int64[m], best first, ties by row, and the scores negated, float32[m].

    Args:
        scores: float32[n]; NaN is not above 0.
        k: at most so many; fewer where fewer are above 0.
        mask: bitmap of the rows that may be found; None = all.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument has the wrong shape, or k is out of range.
    """
    _check_array("best_scores", "scores", scores, [np.float32], {"n": None})
    k = _check_integer("best_scores", "k", k, 1, MAX_K)
    if mask is not None:
        _check_array("best_scores", "mask", mask, [np.uint64], {"words": _words(len(scores))})
    rows = np.flatnonzero(scores > 0 if mask is None else (scores > 0) & _unpack(mask, len(scores)))
    own = scores[rows]
    if len(rows) > k:
        near = own >= np.partition(own, len(own) - k)[len(own) - k]  # with all that tie with the k-th
        rows, own = rows[near], own[near]
    order = np.lexsort((rows, -own))[:k]
    return rows[order].astype(np.int64), -own[order]


def crc32c(data: Buffer, block_bytes: int) -> NDArray[np.uint32]:
    """Return uint32[ceil(length / block_bytes)], the CRC-32C of each block of a contiguous buffer.

    Raises:
        TypeError: data is not a contiguous buffer, or block_bytes not an int.
        ValueError: block_bytes is not positive.
    """
    block_bytes = _check_integer("crc32c", "block_bytes", block_bytes, 1, int(np.iinfo(np.int64).max))
    try:
        octets = memoryview(data).cast("B")
    except TypeError:
        raise TypeError(f"[crc32c] data is {type(data).__name__}; expected a contiguous buffer of bytes") from None
    return np.array(
        [_crc32c(octets[at : at + block_bytes]) for at in range(0, len(octets), block_bytes)], dtype=np.uint32
    )


class _Request:
    """The checked arguments that `scan` and `rescore` share."""

    def __init__(
        self,
        operation: str,
        vectors: NDArray[np.float32] | NDArray[np.int8],
        queries: NDArray[np.float32],
        k: int,
        metric: Metric,
        mask: NDArray[np.uint64] | None,
        offsets: NDArray[np.int64] | None,
        best_of: int,
        scales: NDArray[np.float32] | None,
        bias: NDArray[np.float32] | None,
        tags: NDArray[np.int32] | None,
        tag_cap: int,
        threads: int,
    ) -> None:
        _check_array(operation, "vectors", vectors, [np.float32, np.int8], {"N": None, "d": None})
        n_vectors, dim = vectors.shape
        if dim == 0:
            raise ValueError(f"[{operation}] vectors has dimension 0; expected d >= 1")
        _check_array(operation, "queries", queries, [np.float32], {"q": None, "d": dim})
        self.n = n_vectors if offsets is None else _check_offsets(operation, offsets, n_vectors)
        self.k = _check_integer(operation, "k", k, 1, MAX_K)
        _check_name(operation, "metric", metric, ("ip", "cosine", "l2"))
        self.best_of = _check_integer(operation, "best_of", best_of, 1, int(np.iinfo(np.int32).max))
        _check_integer(operation, "threads", threads, 1, MAX_THREADS)
        if mask is not None:
            _check_array(operation, "mask", mask, [np.uint64], {"words": _words(self.n)})
        if scales is not None:
            if vectors.dtype != np.int8:
                raise ValueError(f"[{operation}] scales is given with float32 vectors; expected None, or int8 vectors")
            _check_array(operation, "scales", scales, [np.float32], {"N": n_vectors})
        if bias is not None:
            _check_array(operation, "bias", bias, [np.float32], {"q": len(queries), "n": self.n})
        self.tag_cap = _check_crowding(operation, tags, tag_cap, self.n)
        self.operation = operation
        self.vectors = vectors
        self.queries = queries
        self.metric = metric
        self.offsets = offsets
        self.scales = scales
        self.bias = bias
        self.tags = tags

    def nearest(self, q: int, rows: NDArray[np.int64]) -> Found:
        """Return the sorted neighbors of query q among distinct rows."""
        if self.offsets is None:
            distances = self._distances(q, rows)
        else:
            rows, distances = self._grouped(q, rows, self.offsets)
        if self.bias is not None:
            distances = distances + self.bias[q, rows]
        return _nearest(rows, distances, self.k, self.tags, self.tag_cap)

    def _grouped(self, q: int, rows: NDArray[np.int64], offsets: NDArray[np.int64]) -> Found:
        first, last = offsets[rows], offsets[rows + 1]
        for row in np.flatnonzero((first < 0) | (last < first) | (last > len(self.vectors))):
            raise ValueError(
                f"[{self.operation}] offsets gives row {rows[row]} the vectors {first[row]}:{last[row]}; "
                f"expected ascending within 0:{len(self.vectors)}"
            )
        rows, first, n_owned = rows[last > first], first[last > first], (last - first)[last > first]
        group = np.repeat(np.arange(len(rows)), n_owned)
        starts = np.cumsum(n_owned) - n_owned
        ids = np.arange(len(group)) - np.repeat(starts - first, n_owned)
        distances = self._distances(q, ids)
        order = np.lexsort((distances, group))
        rank = np.arange(len(group)) - np.repeat(starts, n_owned)
        counted = order[rank < self.best_of]
        sums = np.bincount(group[counted], distances[counted].astype(np.float64), len(rows))
        return rows, (sums / np.minimum(n_owned, self.best_of)).astype(np.float32)

    def _distances(self, q: int, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.empty(len(ids), np.float32)
        query = self.queries[q]
        for at in range(0, len(ids), _CHUNK):
            chunk = ids[at : at + _CHUNK]
            vectors = self.vectors[chunk].astype(np.float32)
            scales = np.ones(len(chunk), np.float32) if self.scales is None else self.scales[chunk]
            if self.metric == "l2":
                out[at : at + _CHUNK] = np.square(query - vectors * scales[:, None]).sum(axis=1)
                continue
            dots = (vectors @ query) * scales
            if self.metric == "ip":
                out[at : at + _CHUNK] = -dots
                continue
            norms = np.sqrt(query @ query) * (np.sqrt(np.square(vectors).sum(axis=1)) * scales)
            cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
            out[at : at + _CHUNK] = np.float32(1) - cosines
        return out


def _nearest(
    rows: NDArray[np.int64], distances: NDArray[np.float32], k: int, tags: NDArray[np.int32] | None, tag_cap: int
) -> Found:
    order = np.lexsort((rows, distances))
    order = order[distances[order] < np.inf]
    if tags is not None and tag_cap:
        seen: Counter[int] = Counter()
        kept = []
        for at in order:
            tag = int(tags[rows[at]])
            seen[tag] += 1
            if tag < 0 or seen[tag] <= tag_cap:
                kept.append(at)
            if len(kept) == k:
                break
        order = np.array(kept, dtype=np.int64)
    return rows[order[:k]], distances[order[:k]]


def _stack(found: list[Found], k: int) -> Found:
    rows = np.full((len(found), k), -1, np.int64)
    distances = np.full((len(found), k), np.inf, np.float32)
    for q, (found_rows, found_distances) in enumerate(found):
        rows[q, : len(found_rows)] = found_rows
        distances[q, : len(found_rows)] = found_distances
    return rows, distances


@dataclass(slots=True)
class _Cell:
    """What carries one tag of one column."""

    least: int
    most: int
    floor: int = 0  # what the reserve has promised of least
    n_held: int = 0  # chosen or reserved
    n_chosen: int = 0


class _Slate:
    """The choice among one query's candidates; diversity.cpp tells how the reserve works."""

    def __init__(
        self,
        distances: NDArray[np.float32],
        tags: NDArray[np.int32],
        caps: NDArray[np.int32],
        quotas: NDArray[np.int32],
        k: int,
    ) -> None:
        self.distances = distances.tolist()
        self.tags = tags
        self.caps = caps.tolist()
        self.k = min(k, len(distances))
        self.n = len(distances)
        self.rules = {(column, tag): (least, most) for column, tag, least, most in quotas.tolist()}
        self.n_quota_columns = len(set(quotas[:, 0].tolist()))
        self.keys: list[list[tuple[int, int]]] = [[] for _ in range(self.n)]
        for column, cap in enumerate(self.caps):
            for at, tag in enumerate(tags[column].tolist()):
                if tag >= 0 and (cap or (column, tag) in self.rules):
                    self.keys[at].append((column, tag))
                    self.rules.setdefault((column, tag), (0, cap))

    def cost_of(self, chosen: list[int]) -> float:
        cost = 0.0
        for i, at in enumerate(chosen):
            cost += self.distances[at] - self.distances[i]
        return cost

    def within_caps(self, n_columns: int) -> list[int]:
        seen: Counter[tuple[int, int]] = Counter()
        chosen: list[int] = []
        for at in range(self.n):
            keys = [key for key in self.keys[at] if key[0] < n_columns and self.caps[key[0]]]
            if len(chosen) < self.k and all(seen[key] < self.caps[key[0]] for key in keys):
                chosen.append(at)
                seen.update(keys)
        return chosen

    def nearest(self) -> list[int]:
        self._start()
        for at in range(self.n):
            if len(self.chosen) < self.k:
                self._take(at)
        return self._take_refused()

    def by_mmr(self, vectors: NDArray[np.float32], metric: Metric, mmr_lambda: float) -> list[int]:
        self._start()
        distances = np.array(self.distances)
        nearest = np.full(self.n, np.inf, np.float32)
        is_open = np.ones(self.n, np.bool_)
        costs = mmr_lambda * distances
        while len(self.chosen) < self.k and is_open.any():
            at = int(np.argmin(np.where(is_open, costs, np.inf)))
            if not is_open[at]:  # all that are open cost inf
                at = int(np.flatnonzero(is_open)[0])
            is_open[at] = False
            if self._take(at):
                reached = _between(vectors, vectors[at], metric)
                nearest = np.where(reached < nearest, reached, nearest)
                costs = mmr_lambda * distances - (1 - mmr_lambda) * nearest.astype(np.float64)
        return self._take_refused()

    def _start(self) -> None:
        self.cells = {key: _Cell(least, most) for key, (least, most) in self.rules.items()}
        self.chosen: list[int] = []
        self.states = ["free"] * self.n
        self.n_held = 0
        for key, cell in self.cells.items():
            is_growing = True
            while is_growing and cell.n_held < cell.least and self.n_held < self.k:
                cell.floor = cell.n_held + 1  # so that an exchange within the cell is no gain
                self._begin_exchange()
                is_growing = self._cover(key)
            cell.floor = min(cell.least, cell.n_held)

    def _cells_of(self, at: int) -> list[_Cell]:
        return [self.cells[key] for key in self.keys[at]]

    def _take(self, at: int) -> bool:
        cells = self._cells_of(at)
        if self.states[at] != "reserved":
            if any(cell.n_chosen >= cell.most for cell in cells):
                return False
            self._begin_exchange()
            self._hold(at, "chosen")
            self._release_redundant()
            if not self._make_room(at) or self.n_held > self.k:
                self._undo(0)
                self.states[at] = "refused"
                return False
        self.states[at] = "chosen"
        for cell in cells:
            cell.n_chosen += 1
        self.chosen.append(at)
        return True

    def _take_refused(self) -> list[int]:
        for at in range(self.n):
            if len(self.chosen) < self.k and self.states[at] == "refused":
                self._take(at)
        return self.chosen

    def _cover(self, key: tuple[int, int]) -> bool:
        if key in self.covered:
            return False
        self.covered.add(key)
        for gain in range(self.n_quota_columns, 0, -1):
            for at in range(self.n):
                if self.states[at] != "free" or key not in self.keys[at]:
                    continue
                if sum(cell.n_held < cell.least for cell in self._cells_of(at)) != gain:
                    continue
                mark = len(self.log)
                self._hold(at, "reserved")
                if self._make_room(at):
                    return True
                self._undo(mark)
        return False

    def _make_room(self, at: int) -> bool:
        for key in self.keys[at]:
            while self.cells[key].n_held > self.cells[key].most:
                if not self._vacate(key):
                    return False
        return True

    def _vacate(self, key: tuple[int, int]) -> bool:
        if key in self.vacated:
            return False
        self.vacated.add(key)
        for at in range(self.n):
            if self.states[at] != "reserved" or at in self.pinned or key not in self.keys[at]:
                continue
            mark = len(self.log)
            self._release(at)
            for other in self.keys[at]:
                cell = self.cells[other]
                if cell.n_held < cell.floor and not self._cover(other):
                    break
            else:
                return True
            self._undo(mark)
        return False

    def _release_redundant(self) -> None:
        for anywhere in (False, True):
            for at in reversed(range(self.n)):
                cells = self._cells_of(at)
                if self.states[at] != "reserved" or any(0 < cell.floor >= cell.n_held for cell in cells):
                    continue
                if anywhere or any(cell.n_held > cell.most for cell in cells):
                    self._release(at)

    def _begin_exchange(self) -> None:
        self.log: list[tuple[int, str]] = []
        self.pinned: set[int] = set()
        self.covered: set[tuple[int, int]] = set()
        self.vacated: set[tuple[int, int]] = set()

    def _hold(self, at: int, state: str) -> None:
        self.log.append((at, self.states[at]))
        self.pinned.add(at)
        self._turn(at, state, 1)

    def _release(self, at: int) -> None:
        self.log.append((at, self.states[at]))
        self._turn(at, "free", -1)

    def _undo(self, mark: int) -> None:
        while len(self.log) > mark:
            at, before = self.log.pop()
            self._turn(at, before, 1 if before == "reserved" else -1)

    def _turn(self, at: int, state: str, n: int) -> None:
        self.states[at] = state
        self.n_held += n
        for cell in self._cells_of(at):
            cell.n_held += n


def _between(vectors: NDArray[np.float32], other: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    if metric == "l2":
        return np.asarray(np.square(vectors - other).sum(axis=1), np.float32)
    dots = vectors @ other
    if metric == "ip":
        return -dots
    norms = np.sqrt(other @ other) * np.sqrt(np.square(vectors).sum(axis=1))
    cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    return np.asarray(np.float32(1) - cosines, np.float32)


def _words(n: int) -> int:
    return -(-n // 64)


def _pack(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    octets = np.zeros(_words(len(bits)) * 8, np.uint8)
    packed = np.packbits(bits, bitorder="little")
    octets[: len(packed)] = packed
    return octets.view("<u8").astype(np.uint64)


def _unpack(bitmap: NDArray[np.uint64], n: int) -> NDArray[np.bool_]:
    octets = bitmap.astype("<u8").view(np.uint8)
    return np.unpackbits(octets, count=n, bitorder="little").astype(np.bool_)


def _bits_to_change(
    operation: str, bitmap: NDArray[np.uint64], rows: NDArray[np.int32] | NDArray[np.int64]
) -> NDArray[np.bool_]:
    _check_writable(operation, bitmap)
    _check_array(operation, "rows", rows, [np.int32, np.int64], {"m": None})
    n = 64 * len(bitmap)
    if len(rows) and (rows.min() < 0 or rows.max() >= n):
        row = rows.min() if rows.min() < 0 else rows.max()
        raise IndexError(f"[{operation}] rows holds {row}; expected 0 <= row < {n}, the bits of this bitmap")
    return _unpack(bitmap, n)


def _check_array(
    operation: str, name: str, array: object, dtypes: list[type[np.generic]], extents: dict[str, int | None]
) -> None:
    """Check dtype, shape (an extent of None may be any), C order and alignment."""
    wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"[{operation}] {name} is {type(array).__name__}; expected a NumPy array of {wanted}")
    if array.dtype not in dtypes:
        raise TypeError(f"[{operation}] {name} has dtype {array.dtype}; expected a NumPy array of {wanted}")
    lengths = list(extents.values())
    fits = array.ndim == len(lengths) and all(
        length is None or length == have for have, length in zip(array.shape, lengths, strict=True)
    )
    if not fits:
        parts = [axis if length is None else f"{axis}={length}" for axis, length in extents.items()]
        shape = f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        raise ValueError(f"[{operation}] {name} has shape {array.shape}; expected {shape}")
    for holds, what, needed in (
        (array.flags.c_contiguous, "C-contiguous", "C order"),
        (array.flags.aligned, "aligned", "an aligned array"),
    ):
        if not holds and array.size:
            raise ValueError(
                f"[{operation}] {name} is not {what} (shape {array.shape}); expected {needed}; "
                "copy it with numpy.array(..., order='C')"
            )


def _check_writable(operation: str, bitmap: NDArray[np.uint64]) -> None:
    _check_array(operation, "bitmap", bitmap, [np.uint64], {"words": None})
    if not bitmap.flags.writeable:
        raise ValueError(f"[{operation}] bitmap is read-only; expected a writable array, it is changed in place")


def _check_bitmap(operation: str, bitmap: NDArray[np.uint64], n: int) -> NDArray[np.bool_]:
    n = _check_integer(operation, "n", n, 0, MAX_ROWS)
    _check_array(operation, "bitmap", bitmap, [np.uint64], {"words": _words(n)})
    return _unpack(bitmap, n)


def _check_integer(operation: str, name: str, value: SupportsIndex | float, lowest: int, highest: int) -> int:
    try:
        integer = operator.index(value)  # type: ignore[arg-type]  # a float is what the check is for
    except TypeError:
        raise TypeError(f"[{operation}] {name} is {type(value).__name__}; expected an int") from None
    if not lowest <= integer <= highest:
        raise ValueError(f"[{operation}] {name} is {integer}; expected {lowest} <= {name} <= {highest}")
    return integer


def _check_name(operation: str, name: str, value: object, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        names = ", ".join(repr(each) for each in known)
        raise ValueError(f"[{operation}] {name} is {value!r}; expected one of {names}")


def _check_offsets(operation: str, offsets: NDArray[np.int64], n_vectors: int) -> int:
    """Return n, the number of rows that the offsets describe."""
    _check_array(operation, "offsets", offsets, [np.int64], {"n + 1": None})
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != n_vectors:
        span = f"{offsets[0]} to {offsets[-1]}" if len(offsets) else "nothing"
        raise ValueError(f"[{operation}] offsets runs from {span}; expected 0 to {n_vectors}, the number of vectors")
    return len(offsets) - 1


def _check_crowding(operation: str, tags: NDArray[np.int32] | None, tag_cap: int, n: int | None) -> int:
    tag_cap = _check_integer(operation, "tag_cap", tag_cap, 0, MAX_K)
    if tags is not None:
        _check_array(operation, "tags", tags, [np.int32], {"n": n})
    elif tag_cap:
        raise ValueError(
            f"[{operation}] tag_cap is {tag_cap} and tags is None; expected tags int32[n] with a cap; "
            "pass both or neither"
        )
    return tag_cap


def _check_caps(caps: NDArray[np.int32] | None, tags: NDArray[np.int32] | None) -> NDArray[np.int32]:
    if caps is None:
        return np.zeros(0 if tags is None else len(tags), np.int32)
    if tags is None:
        raise ValueError(
            "[diversify] caps is given and tags is None; expected tags int32[t, n] with caps; pass both or neither"
        )
    _check_array("diversify", "caps", caps, [np.int32], {"t": len(tags)})
    for cap in caps[caps < 0]:
        raise ValueError(f"[diversify] caps holds {cap}; expected 0 (no cap) or more")
    return caps


def _check_quotas(quotas: NDArray[np.int32] | None, tags: NDArray[np.int32] | None) -> NDArray[np.int32]:
    if quotas is None:
        return np.zeros((0, 4), np.int32)
    if tags is None:
        raise ValueError(
            "[diversify] quotas is given and tags is None; expected tags int32[t, n] with quotas; pass both or neither"
        )
    _check_array("diversify", "quotas", quotas, [np.int32], {"m": None, "fields": 4})
    if len(quotas) > MAX_QUOTAS:
        raise ValueError(f"[diversify] quotas holds {len(quotas)} quotas; expected at most {MAX_QUOTAS}")
    seen: set[tuple[int, int]] = set()
    for column, tag, least, most in quotas.tolist():
        held = f"[diversify] quotas holds {(column, tag, least, most)}"
        if not (0 <= column < len(tags) and tag >= 0 and 0 <= least <= most):
            raise ValueError(f"{held}; expected a column below {len(tags)}, a tag of 0 or more and 0 <= least <= most")
        if (column, tag) in seen:
            raise ValueError(f"{held}, a second quota of its tag; expected one quota a tag")
        seen.add((column, tag))
    return quotas


def _check_fraction(operation: str, name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"[{operation}] {name} is {type(value).__name__}; expected a number") from None
    if not 0 <= number <= 1:
        raise ValueError(f"[{operation}] {name} is {number}; expected 0 <= {name} <= 1")
    return number


def _check_candidates(rows: NDArray[np.int64], distances: NDArray[np.float32], q: int, n_rows: int | None) -> None:
    last = float(np.finfo(np.float32).min)
    for at, (row, distance) in enumerate(zip(rows.tolist(), distances.tolist(), strict=True)):
        if row < -1 or (n_rows is not None and row >= n_rows):
            limit = "" if n_rows is None else f" < {n_rows}"
            raise IndexError(f"[diversify] rows holds {row}; expected -1 or 0 <= row{limit}")
        if row == -1 or not distance < float("inf"):
            continue
        if distance < last:
            raise ValueError(
                f"[diversify] distances of query {q} falls to {distance:g} at position {at}; "
                "expected finite ones, nearest first; sort the candidates by distance"
            )
        last = distance


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def _crc32c(octets: memoryview) -> int:
    crc = 0xFFFFFFFF
    for byte in octets:
        crc = (crc >> 8) ^ _CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
