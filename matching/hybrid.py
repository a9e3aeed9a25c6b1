"""Hybrid search: a space's dense and sparse sides searched apart and fused, or one of them alone.

`IndexVersion.search` with a sparse side scores both in one inner product. Here each side makes its own ranking, so that neither
needs scores that can be compared with the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.datapoint import Filter, Neighbor, SparseRows
from matching.errors import InvalidQuery
from matching.fusion import Fusion, Ranking, capped, fused, head_depth, rank_sparse
from matching.space import Bitmap, Plan, Space
from matching.version import MAX_K, IndexVersion, SearchResult, check_knobs, check_queries

_NOTHING = Ranking(np.empty(0, np.int64), np.empty(0, np.float32))


def search_hybrid(
    version: IndexVersion,
    k: int,
    *,
    space: str,
    fusion: Fusion,
    vectors: NDArray[np.float32] | None = None,
    sparse: SparseRows | None = None,
    filter: Filter = Filter(),
    crowding_cap: int = 0,
    exact: bool = False,
    effort: int | None = None,
    recall_target: float | None = None,
    exclude: Sequence[str] = (),
) -> SearchResult:
    """Return the best k datapoints of each query by its dense and its sparse ranking.

    Each side is searched `head_depth(k)` deep, k deep where it has all of the share. The sparse side is always exact, and ranks
    the datapoints whose inner product with the query is above 0. So there may be fewer than k neighbors when only the sparse
    side is asked. A crowding cap holds within each side and in the answer.

    Args:
        version: where to search.
        k: how many neighbors.
        space: its name.
        fusion: how the rankings become one; the side that has no share need not be given.
        vectors: float32[q, dim], the dense sides.
        sparse: the sparse sides, one a query.
        filter, crowding_cap, exact, effort, recall_target, exclude: as in `IndexVersion.search`.

    Returns:
        Neighbors with both distances of what was given: `distance` is 0 where the query or the datapoint has no dense vector,
        `sparse_distance` the negated inner product. `n_matching` counts what passes the filter, on whichever side it stands.

    Raises:
        NotFound: no such space.
        InvalidQuery: a side that has a share is missing, of another shape or not finite, or a knob is out of range.
    """
    target = version.space(space)
    check_knobs(k, crowding_cap, effort, recall_target)
    queries = None if vectors is None else check_queries(vectors, target)
    n_queries = _checked_sides(target, fusion, queries, sparse)
    matching = version.matching(filter, exclude)
    target.clear_lost(matching)
    depth = k if fusion.alpha in (0.0, 1.0) else min(head_depth(k), MAX_K)
    ask = _Ask(version, target, depth, matching, version.columns.tags if crowding_cap else None, crowding_cap)
    plan, n_scanned, dense = Plan("exact"), 0, [_NOTHING] * n_queries
    if queries is not None and fusion.alpha > 0.0:
        plan, dense, n_scanned = ask.dense(queries, exact=exact, effort=effort, recall_target=recall_target)
    neighbors = []
    for at in range(n_queries):
        scores = None if sparse is None else ask.sparse_scores(sparse, at)
        asked = _NOTHING if scores is None or fusion.alpha == 1.0 else ask.rank_sparse(scores)
        rows = fused(fusion, dense[at], asked)
        if ask.tags is not None:
            rows = capped(rows, ask.tags, crowding_cap)
        neighbors.append(ask.neighbors(rows[:k], None if queries is None else queries[at], scores))
    return SearchResult(
        tuple(neighbors),
        plan.kind,
        plan.effort,
        cpp_ext.count(matching, len(version.columns)),
        n_scanned,
        version.version_id,
        target.coverage,
    )


def search_hybrid_by_id(
    version: IndexVersion,
    datapoint_ids: Sequence[str],
    k: int,
    *,
    space: str,
    fusion: Fusion,
    include_self: bool = False,
    filter: Filter = Filter(),
    crowding_cap: int = 0,
    exact: bool = False,
    effort: int | None = None,
    recall_target: float | None = None,
) -> SearchResult:
    """Return the best k datapoints by the dense and the sparse sides of datapoints; of several vectors of one, the mean asks.

    Raises:
        NotFound: no such space or datapoint.
        Unavailable: the vectors of a datapoint cannot be read now.
        InvalidQuery: the space has no sparse side, a datapoint has no vector and the dense side has a share, or a knob is out of
            range.
    """
    sparse = version.sparse_vectors(datapoint_ids, space)
    parts = []
    for at, (datapoint_id, own) in enumerate(zip(datapoint_ids, version.vectors(datapoint_ids, space), strict=True)):
        vectors = own.mean(axis=0, dtype=np.float32)[None] if len(own) else None
        parts.append(
            search_hybrid(
                version,
                k,
                space=space,
                fusion=fusion,
                vectors=vectors,
                sparse=None if sparse is None else sparse.row(at),
                filter=filter,
                crowding_cap=crowding_cap,
                exact=exact,
                effort=effort,
                recall_target=recall_target,
                exclude=() if include_self else (datapoint_id,),
            )
        )
    return SearchResult.joined(parts)


def _checked_sides(space: Space, fusion: Fusion, queries: NDArray[np.float32] | None, sparse: SparseRows | None) -> int:
    """Return how many queries there are."""
    if fusion.alpha > 0.0 and queries is None:
        raise InvalidQuery(
            f"[search] alpha {fusion.alpha:g} gives the dense side a share and the query has no vector; send one, or alpha 0"
        )
    if sparse is not None and not space.has_sparse:
        raise InvalidQuery(
            f"[search] a sparse query in space {space.name!r}, which has no sparse side; leave it out, or ask in another space"
        )
    if fusion.alpha < 1.0 and sparse is None:
        raise InvalidQuery(
            f"[search] alpha {fusion.alpha:g} gives the sparse side a share and the query has no sparse vector; send one in a "
            "space with a sparse side, or alpha 1"
        )
    n_queries = len(sparse) if queries is None and sparse is not None else len(queries if queries is not None else ())
    if n_queries == 0 or (sparse is not None and len(sparse) != n_queries):
        raise InvalidQuery(
            f"[search] {0 if sparse is None else len(sparse)} sparse queries beside {n_queries} dense ones; send one a query"
        )
    if sparse is not None and not np.isfinite(sparse.values).all():
        raise InvalidQuery("[search] a sparse query holds a value that is not finite; send finite numbers")
    return n_queries


@dataclass(frozen=True, slots=True)
class _Ask:
    """What the queries of one call share."""

    version: IndexVersion
    space: Space
    depth: int
    matching: Bitmap
    tags: NDArray[np.int32] | None
    cap: int

    def dense(
        self, queries: NDArray[np.float32], *, exact: bool, effort: int | None, recall_target: float | None
    ) -> tuple[Plan, list[Ranking], int]:
        """Return the head of each query's dense ranking."""
        matching = self.matching
        if self.space.present is not None:
            matching = matching.copy()
            cpp_ext.intersect(matching, self.space.present)
        n_matching = cpp_ext.count(matching, self.space.n_rows)
        plan = self.space.plan(self.depth, n_matching, exact=exact, effort=effort, recall_target=recall_target)
        rows, distances, n_scanned = self.space.search(
            plan,
            queries,
            self.depth,
            matching=matching,
            n_matching=n_matching,
            tags=self.tags,
            tag_cap=self.cap,
        )
        heads = [Ranking(own[own >= 0], at[own >= 0]) for own, at in zip(rows, distances)]
        return plan, heads, n_scanned

    def sparse_scores(self, sparse: SparseRows, at: int) -> NDArray[np.float32]:
        """Return the inner products of one sparse query with all rows, float32[n]."""
        assert self.space.sparse is not None
        (scores,) = self.space.sparse.scores(sparse.row(at), self.space.n_rows)
        return cast(NDArray[np.float32], scores)

    def rank_sparse(self, scores: NDArray[np.float32]) -> Ranking:
        """Return the head of one query's sparse ranking."""
        return rank_sparse(scores, self.depth, matching=self.matching, tags=self.tags, cap=self.cap)

    def neighbors(
        self, rows: NDArray[np.int64], query: NDArray[np.float32] | None, scores: NDArray[np.float32] | None
    ) -> tuple[Neighbor, ...]:
        """Return the neighbors that rows are, with their distances."""
        columns = self.version.columns
        distances = np.zeros(len(rows), np.float32) if query is None else self.space.distances(query, rows)
        distances[np.isinf(distances)] = 0
        known = rows.tolist()
        sparse = [None] * len(known) if scores is None else (-scores[rows] + 0.0).tolist()
        ids, tags = columns.datapoint_ids(known), columns.crowding_tags(known)
        return tuple(map(Neighbor, ids, distances.tolist(), tags, sparse))
