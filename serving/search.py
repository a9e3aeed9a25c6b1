"""Queries that can be searched together, in one call of the index version."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matching.datapoint import SparseRows
from matching.errors import InvalidQuery
from matching.fusion import SPARSE_ONLY, Fusion
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
    options, by_id = first.options, first.vector is None and first.sparse is None
    fusion = options.fusion
    if first.vector is None and first.sparse is not None and fusion is None:
        fusion = SPARSE_ONLY
    if by_id:
        return _search_by_id(version, queries, options, space)
    vectors = None if first.vector is None else _vectors(version, queries, space)
    sparse = _stacked([query.sparse for query in queries if query.sparse is not None])
    if fusion is not None:
        return _search_fused(version, vectors, sparse, options, fusion, space)
    assert vectors is not None
    return version.search(
        vectors,
        options.k,
        space=space,
        filter=options.filter,
        crowding_cap=options.crowding_cap,
        exact=options.exact,
        effort=options.effort,
        recall_target=options.recall_target,
        sparse=sparse,
    )


def _search_by_id(
    version: IndexVersion, queries: Sequence[NeighborQuery], options: Options, space: str
) -> SearchResult:
    ids = [query.datapoint_id for query in queries]
    if options.fusion is not None:
        return search_hybrid_by_id(
            version,
            ids,
            options.k,
            space=space,
            fusion=options.fusion,
            include_self=options.include_self,
            filter=options.filter,
            crowding_cap=options.crowding_cap,
            exact=options.exact,
            effort=options.effort,
            recall_target=options.recall_target,
        )
    return version.search_by_id(
        ids,
        options.k,
        space=space,
        include_self=options.include_self,
        filter=options.filter,
        crowding_cap=options.crowding_cap,
        exact=options.exact,
        effort=options.effort,
        recall_target=options.recall_target,
    )


def _search_fused(
    version: IndexVersion,
    vectors: NDArray[np.float32] | None,
    sparse: SparseRows | None,
    options: Options,
    fusion: Fusion,
    space: str,
) -> SearchResult:
    return search_hybrid(
        version,
        options.k,
        space=space,
        fusion=fusion,
        vectors=vectors,
        sparse=sparse,
        filter=options.filter,
        crowding_cap=options.crowding_cap,
        exact=options.exact,
        effort=options.effort,
        recall_target=options.recall_target,
    )


def _vectors(version: IndexVersion, queries: Sequence[NeighborQuery], space: str) -> NDArray[np.float32]:
    dims = {len(query.vector) for query in queries if query.vector is not None}
    if dims != {version.spaces[space].dim}:
        wrong = sorted(dims - {version.spaces[space].dim})[0]
        raise InvalidQuery(
            f"[search] a feature_vector has {wrong} numbers; space {space!r} has {version.spaces[space].dim}; send that many"
        )
    return np.stack([query.vector for query in queries if query.vector is not None])


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
