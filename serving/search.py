"""Queries that can be searched together, in one call of the index version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from matching.datapoint import Filter, SparseRows
from matching.errors import InvalidQuery
from matching.fusion import SPARSE_ONLY
from matching.hybrid import search_hybrid, search_hybrid_by_id
from matching.version import IndexVersion, SearchResult
from serving.query import NeighborQuery, Options


def search_alike(version: IndexVersion, queries: Sequence[NeighborQuery], space: str) -> SearchResult:
    """Search for queries with the same options and the same kinds of vectors.

    Raises:
        NotFound: a query's datapoint is not indexed.
        InvalidQuery: what a query brings is not what the space or its options ask for.
    """
    first = queries[0]
    options, fusion, knobs = first.options, first.options.fusion, _knobs(first.options, space)
    if first.vector is None and first.sparse is None:
        ids, with_self = [query.datapoint_id for query in queries], options.include_self
        if fusion is None:
            return version.search_by_id(ids, options.k, include_self=with_self, **knobs)
        return search_hybrid_by_id(version, ids, options.k, fusion=fusion, include_self=with_self, **knobs)
    vectors = None if first.vector is None else _vectors(version, queries, space)
    sparse = _stacked([query.sparse for query in queries if query.sparse is not None])
    if vectors is not None and fusion is None:
        return version.search(vectors, options.k, sparse=sparse, **knobs)
    return search_hybrid(version, options.k, fusion=fusion or SPARSE_ONLY, vectors=vectors, sparse=sparse, **knobs)


class _Knobs(TypedDict):
    space: str
    filter: Filter
    crowding_cap: int
    exact: bool
    effort: int | None
    recall_target: float | None


def _knobs(options: Options, space: str) -> _Knobs:
    return {
        "space": space,
        "filter": options.filter,
        "crowding_cap": options.crowding_cap,
        "exact": options.exact,
        "effort": options.effort,
        "recall_target": options.recall_target,
    }


def _vectors(version: IndexVersion, queries: Sequence[NeighborQuery], space: str) -> NDArray[np.float32]:
    dims = {len(query.vector) for query in queries if query.vector is not None}
    if dims != {version.spaces[space].dim}:
        wrong = sorted(dims - {version.spaces[space].dim})[0]
        raise InvalidQuery(
            f"[search] a feature_vector has {wrong} numbers; space {space!r} has {version.spaces[space].dim}; send that many"
        )
    vectors = [query.vector for query in queries if query.vector is not None]
    return vectors[0][None] if len(vectors) == 1 else np.stack(vectors)


def _stacked(rows: Sequence[SparseRows]) -> SparseRows | None:
    if not rows:
        return None
    lengths = [len(row.values) for row in rows]
    return SparseRows(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([row.dimensions for row in rows]),
        np.concatenate([row.values for row in rows]),
    )


def sparse_told(version: IndexVersion, datapoint_ids: Sequence[str], space: str) -> tuple[SparseRows | None, ...]:
    """Return the sparse vectors of datapoints that came ready-made; None for what has none, or where an encoder made them.

    Raises:
        NotFound: an id or the space is unknown.
    """
    sparse = None if version.spaces[space].encoder is not None else version.sparse_vectors(datapoint_ids, space)
    if sparse is None:
        return (None,) * len(datapoint_ids)
    rows = (sparse.row(at) for at in range(len(sparse)))
    return tuple(row if len(row.values) else None for row in rows)
