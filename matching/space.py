"""One vector space of an index version: plan a search, run it over the shards, rank what they found.

Distances here are -dot for "ip", 1 - cos for "cosine" (vectors and queries are unit vectors) and squared L2 for "l2". Rows are
datapoint rows of the version; a missing neighbor is row -1 at distance +inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from cpp_ext.native_space import NativeSpace, native_space
from matching.datapoint import Metric, SparseRows
from matching.encoder_spec import EncoderSpec
from matching.errors import Unavailable
from matching.faiss_index import FaissIndex
from matching.graph_index import GraphIndex
from matching.manifest import SpaceEntry

Bitmap = NDArray[np.uint64]
Found = tuple[NDArray[np.int64], NDArray[np.float32]]

PlanKind = Literal["exact", "graph", "ivf"]
_REFINE = 10  # IVF-PQ ranks that many times k candidates again: 8-bit codes alone order the first ten badly
_WIDEN = 4
_MAX_PLANS = 256
_SPARE = 4  # the graph index ranks by 16 bits: what it takes for the k-th may be a little farther than the next


@dataclass(frozen=True, slots=True)
class Plan:
    """How a search is run.

    `effort` is the number of rows whose links a graph search follows, efSearch of HNSW, nprobe of IVF-PQ; None for the
    exact scan.
    """

    kind: PlanKind
    effort: int | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """Datapoint rows first_row .. first_row + n_rows; offsets int64[n_rows + 1] where a datapoint owns several vectors.

    A shard without an index is scanned. The index of one that `grows` may hold more vectors than the shard knows of. One that
    is `lost` cannot be read, which is why; it stands for its rows without a vector.
    """

    first_row: int
    n_rows: int
    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64] | None
    index: GraphIndex | FaissIndex | None
    grows: bool = False
    lost: str = ""

    def owners(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turn vector positions into shard rows; -1 stays -1."""
        if self.offsets is None:
            return positions
        rows = np.searchsorted(self.offsets, positions, side="right") - 1
        return np.where(positions < 0, -1, rows)

    def words(self, bitmap: Bitmap) -> Bitmap:
        """Return the shard's part of a bitmap over all rows, as a view."""
        return bitmap[self.first_row // 64 : -(-(self.first_row + self.n_rows) // 64)]

    def selected(self, matching: Bitmap) -> Bitmap:
        """Return the bitmap over vector positions that a FAISS index reads."""
        words = np.ascontiguousarray(self.words(matching))
        if self.offsets is None:
            return words
        bits = np.unpackbits(words.view(np.uint8), count=self.n_rows, bitorder="little")
        of_vectors = np.packbits(np.repeat(bits, np.diff(self.offsets)), bitorder="little")
        return np.pad(of_vectors, (0, -len(of_vectors) % 8)).view(np.uint64)

    def candidates(
        self, queries: NDArray[np.float32], n: int, effort: int, matching: Bitmap | None
    ) -> NDArray[np.int64]:
        """Return the vector positions that the FAISS index finds, best first, -1 where there are fewer."""
        assert isinstance(self.index, FaissIndex)
        selected = None
        if (
            matching is not None
            and cpp_ext.count(np.ascontiguousarray(self.words(matching)), self.n_rows) < self.n_rows
        ):
            selected = self.selected(matching)
        return self.index.search(queries, min(n, max(len(self.vectors), 1)), effort=effort, selected=selected)


class SparseSide(Protocol):
    """The sparse vectors beside the dense ones."""

    def scores(self, queries: SparseRows, n_rows: int) -> NDArray[np.float32]:
        """Return the inner products of sparse queries with all datapoints, float32[q, n_rows]."""
        ...

    def vectors(self, rows: NDArray[np.int64], n_rows: int) -> SparseRows:
        """Return the sparse vectors of some of all n_rows datapoints; empty for those without one."""
        ...


@dataclass(frozen=True, slots=True)
class SparseIndex:
    """Inverted index of the sparse side: term t stands in rows[offsets[t]:offsets[t + 1]] with those weights.

    Attributes:
        dimensions: int64[t], sorted; the sparse dimension of each term.
    """

    dimensions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    weights: NDArray[np.float32]

    def scores(self, queries: SparseRows, n_rows: int) -> NDArray[np.float32]:
        """Return the inner products of sparse queries with all datapoints, float32[q, n_rows]."""
        if not len(self.dimensions):
            return np.zeros((len(queries), n_rows), np.float32)
        scores = []
        for at in range(len(queries)):
            part = slice(int(queries.offsets[at]), int(queries.offsets[at + 1]))
            wanted, weights = queries.dimensions[part], queries.values[part]
            terms = np.searchsorted(self.dimensions, wanted)
            known = self.dimensions[np.minimum(terms, len(self.dimensions) - 1)] == wanted
            scores.append(
                cpp_ext.sparse_scores(
                    self.offsets, self.rows, self.weights, terms[known].astype(np.int64), weights[known], n_rows
                )
            )
        return scores[0][None] if len(scores) == 1 else np.stack(scores)

    def vectors(self, rows: NDArray[np.int64], n_rows: int) -> SparseRows:
        """Return the sparse vectors of some datapoints, in their order, dimensions ascending; reads every entry once."""
        wanted, places = np.unique(rows, return_inverse=True)
        number = np.full(n_rows, -1, np.int32)
        number[wanted] = np.arange(len(wanted), dtype=np.int32)
        owners = number[self.rows]
        entries = np.flatnonzero(owners >= 0)  # by term, and so by dimension
        entries = entries[np.argsort(owners[entries], kind="stable")]
        counts = np.bincount(owners[entries], minlength=len(wanted))
        starts = (np.cumsum(counts) - counts)[places]
        lengths = counts[places]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        taken = entries[np.arange(int(offsets[-1])) - np.repeat(offsets[:-1] - starts, lengths)]
        terms = np.searchsorted(self.offsets, taken, side="right") - 1
        return SparseRows(offsets, np.asarray(self.dimensions[terms]), np.asarray(self.weights[taken]))


class Space:
    """A searchable space. Immutable and thread-safe."""

    def __init__(
        self,
        entry: SpaceEntry,
        shards: Sequence[Shard],
        *,
        n_rows: int,
        sparse: SparseSide | None = None,
        encoder: EncoderSpec | None = None,
        present: Bitmap | None = None,
        n_lost: int | None = None,
    ) -> None:
        """Take the shards of `n_rows` rows.

        Args:
            present: the rows that may be found, when they are not all that own a vector.
            n_lost: datapoints that would be found if their shards could be read; None for those of the entry that are not there.
        """
        self.entry = entry
        self.shards = tuple(shards)
        self.n_rows = n_rows
        self.encoder = encoder
        self.sparse = sparse
        self.lost = tuple(shard for shard in self.shards if shard.lost)
        self._present = present if present is not None or not self.lost else self._owning()
        self._plans: dict[tuple[int, bool, int | None, float | None], Plan] = {}  # where nothing is filtered
        self.n_datapoints = entry.n_datapoints if self._present is None else cpp_ext.count(self._present, n_rows)
        self.n_lost = (entry.n_datapoints - self.n_datapoints if n_lost is None else n_lost) if self.lost else 0
        self.coverage = 1.0 if not self.n_lost else self.n_datapoints / (self.n_datapoints + self.n_lost)

    @property
    def name(self) -> str:
        """The name that queries give."""
        return self.entry.name

    @property
    def space_id(self) -> str:
        """Digest of the encoder; vectors of another space_id do not belong here."""
        return self.entry.space_id

    @property
    def metric(self) -> Metric:
        """The metric of the distances."""
        return self.entry.metric

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.entry.dim

    @property
    def modality(self) -> str | None:
        """What its encoder reads: text, image or fused; None for ready-made vectors."""
        return self.entry.modality

    @property
    def plan_name(self) -> str:
        """How the space is indexed: flat, graph, hnsw or ivfpq."""
        return self.entry.plan.name

    @property
    def n_vectors(self) -> int:
        """Number of vectors, which may be more or fewer than datapoints."""
        return sum(len(shard.vectors) for shard in self.shards)

    @property
    def recall(self) -> float:
        """Mean recall@10 measured at build time with the default plan."""
        return self.entry.recall.mean

    @property
    def has_sparse(self) -> bool:
        """Whether queries may carry a sparse side."""
        return self.sparse is not None

    @cached_property
    def present(self) -> Bitmap | None:
        """Bitmap of the datapoints that may be found here, None where all rows may."""
        if self._present is not None:
            return self._present
        if not self.entry.is_grouped or self.entry.n_datapoints == self.n_rows:
            return None
        return self._owning()

    def _owning(self) -> Bitmap:
        bitmap = cpp_ext.new_bitmap(self.n_rows)
        for shard in self.shards:
            own = np.arange(shard.n_rows) if shard.offsets is None else np.flatnonzero(np.diff(shard.offsets))
            cpp_ext.set_rows(bitmap, shard.first_row + own)
        return bitmap

    def with_shards(self, shards: Sequence[Shard]) -> Space:
        """Return the space with other shards of the same rows: those that can be read now."""
        return Space(self.entry, shards, n_rows=self.n_rows, sparse=self.sparse, encoder=self.encoder)

    def clear_lost(self, bitmap: Bitmap) -> None:
        """Take the rows that cannot be read out of a bitmap over all rows."""
        for shard in self.lost:
            shard.words(bitmap)[:] = 0

    def vectors_of(self, row: int) -> NDArray[np.float32]:
        """Return the vectors that a datapoint owns, float32[m, dim].

        Raises:
            Unavailable: they cannot be read now.
        """
        shard = next(s for s in self.shards if s.first_row <= row < s.first_row + s.n_rows)
        if shard.lost:
            raise Unavailable(
                f"[read] the vectors of the datapoint in space {self.name!r} cannot be read: {shard.lost}; ask again when the "
                "file is whole"
            )
        at = row - shard.first_row
        if shard.offsets is None:
            return shard.vectors[at : at + 1]
        return shard.vectors[shard.offsets[at] : shard.offsets[at + 1]]

    def centres(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the mean of the vectors that each of some rows owns, float32[m, dim]; zeros where it has none to be read now."""
        out = np.zeros((len(rows), self.dim), np.float32)
        for shard in self.shards:
            inside = np.flatnonzero((rows >= shard.first_row) & (rows < shard.first_row + shard.n_rows))
            if shard.lost or not len(inside):
                continue
            local = rows[inside] - shard.first_row
            if shard.offsets is None:
                out[inside] = shard.vectors[local]
                continue
            first = shard.offsets[local]
            counts = shard.offsets[local + 1] - first
            starts = np.cumsum(counts) - counts
            flat = np.repeat(first - starts, counts) + np.arange(counts.sum())
            owning = np.flatnonzero(counts)
            if len(owning):
                sums = np.add.reduceat(shard.vectors[flat], starts[owning], axis=0)
                out[inside[owning]] = sums / counts[owning, None].astype(np.float32)
        return out

    def means_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the mean vector of each datapoint, float32[q, dim], 0 where it has none, and whether it has one, bool[q].

        Raises:
            Unavailable: those of one cannot be read now.
        """
        is_there = np.ones(len(rows), np.bool_)
        for shard in self.shards:
            inside = np.flatnonzero((rows >= shard.first_row) & (rows < shard.first_row + shard.n_rows))
            if shard.lost and len(inside):
                self.vectors_of(int(rows[inside[0]]))  # says why
            if shard.offsets is not None:
                local = rows[inside] - shard.first_row
                is_there[inside] = shard.offsets[local + 1] > shard.offsets[local]
        return self.centres(rows), is_there

    def distances(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the distances of a query, float32[dim] as `search` takes it, to some rows, float32[m]; +inf without a vector."""
        out = np.full(len(rows), np.inf, np.float32)
        for shard in self.shards:
            inside = np.flatnonzero((rows >= shard.first_row) & (rows < shard.first_row + shard.n_rows))
            if not len(inside):
                continue
            local = rows[inside] - shard.first_row
            found, distances = cpp_ext.rescore(
                shard.vectors,
                query[None],
                local[None],
                len(local),
                metric=self._kernel_metric,
                offsets=shard.offsets,
                best_of=self.entry.best_of,
            )
            order = np.argsort(local)
            is_known = found[0] >= 0
            places = order[np.searchsorted(local[order], found[0][is_known])]
            out[inside[places]] = distances[0][is_known]
        return out + np.float32(1) if self.metric == "cosine" else out

    def plan(self, k: int, n_matching: int, *, exact: bool, effort: int | None, recall_target: float | None) -> Plan:
        """Choose how to search, knowing how many datapoints match.

        A small subset is scanned exactly, because that is cheaper than any index; else the operating table gives the cheapest
        effort that reached the recall target at this selectivity, or says that only the exact scan does. A caller's own
        effort decides where nothing is filtered; under a filter it can only raise the table's. Within its effort the
        graph index chooses between its links and a scan of its codes by itself.
        """
        if n_matching < self.n_datapoints:
            return self._plan(k, n_matching, exact, effort, recall_target)
        asked = k, exact, effort, recall_target
        plan = self._plans.get(asked)
        if plan is None:
            plan = self._plan(k, n_matching, exact, effort, recall_target)
            if len(self._plans) < _MAX_PLANS:
                self._plans[asked] = plan
        return plan

    def _plan(self, k: int, n_matching: int, exact: bool, effort: int | None, recall_target: float | None) -> Plan:
        name = self.entry.plan.name
        if exact or name == "flat":
            return Plan("exact")
        kind: PlanKind = "ivf" if name == "ivfpq" else "graph"
        if effort is not None and n_matching >= self.n_datapoints:
            return Plan(kind, max(effort, k) if name == "hnsw" else effort)
        if n_matching <= self.entry.exact_below:
            return Plan("exact")
        target = self.entry.recall_target if recall_target is None else recall_target
        selectivity = n_matching / max(self.n_datapoints, 1)
        points = [p for p in self.entry.operating_table if p.recall_target >= target and p.selectivity <= selectivity]
        if not points:
            return Plan("exact")
        reach = min((p.k for p in points if p.k >= k), default=max(p.k for p in points))
        point = min((p for p in points if p.k == reach), key=lambda p: (p.recall_target, -p.selectivity))
        if point.effort is None:
            return Plan("exact")
        # a graph index stops by distance, so that one effort serves any k
        stretch = -(-k // reach) if k > reach and name != "graph" else 1
        return Plan(kind, max(point.effort * stretch, effort or 0))

    def search(
        self,
        plan: Plan,
        queries: NDArray[np.float32],
        k: int,
        *,
        matching: Bitmap | None,
        n_matching: int,
        sparse: SparseRows | None = None,
        tags: NDArray[np.int32] | None = None,
        tag_cap: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
        """Run a plan; what an index search leaves short of min(k, n_matching) is finished by the exact scan.

        Args:
            queries: float32[q, dim], finite; unit vectors for "cosine".
            matching: bitmap of the rows that may be found, None for all.
            sparse: sparse side of the queries; its inner product takes (1 - alpha) * dot off alpha * the dense distance.

        Returns:
            rows int64[q, k], distances float32[q, k], and the number of datapoints whose exact distance was computed.
        """
        ask = _Ask(queries, k, matching, None, tags, tag_cap)
        if sparse is None or self.sparse is None:
            return self._run(plan, ask, None, n_matching)
        alpha = np.float32(self.entry.alpha)
        scores = self.sparse.scores(sparse, self.n_rows)
        if self.metric == "l2" and alpha > 0:
            # A scaled query would lie elsewhere, so that its distances are scaled instead.
            ask = _Ask(queries, k, matching, scores * (1 - 1 / alpha), tags, tag_cap)
            rows, distances, n_scanned = self._run(plan, ask, scores, n_matching)
            return rows, distances * alpha, n_scanned
        ask = _Ask(queries * alpha, k, matching, scores * (alpha - 1), tags, tag_cap)
        return self._run(plan, ask, scores, n_matching)

    def _run(
        self, plan: Plan, ask: _Ask, scores: NDArray[np.float32] | None, n_matching: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
        if self._native is not None and (plan.kind == "exact" or not self._has_faiss):
            return self._native.search(
                ask.queries,
                ask.k,
                plan.effort or 0,
                0 if plan.effort is None else self._n_candidates(plan, ask),
                ask.matching,
                n_matching,
                ask.bias,
                ask.tags if ask.tag_cap else None,
                ask.tag_cap,
            )
        if plan.kind == "exact":
            rows, distances = self._scan(ask)
            n_scanned = n_matching * len(ask.queries)
        else:
            rows, distances, n_scanned = self._search_index(plan, ask, scores)
            wanted = min(ask.k, n_matching)
            short = np.flatnonzero(np.count_nonzero(rows >= 0, axis=1) < wanted)
            if len(short):
                rows[short], distances[short] = self._scan(ask.only(short))
                n_scanned += n_matching * len(short)
        if self.metric == "cosine":
            distances = distances + np.float32(1)
        return rows, distances, n_scanned

    def _search_index(
        self, plan: Plan, ask: _Ask, scores: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
        assert plan.effort is not None
        n_candidates = self._n_candidates(plan, ask)
        n_scanned = 0
        found = []
        for shard in self.shards:
            if shard.index is None:
                found.append(self._scan_shard(shard, ask))
                n_scanned += shard.n_rows * len(ask.queries)
                continue
            candidates = shard.owners(shard.candidates(ask.queries, n_candidates, plan.effort, ask.matching))
            if scores is not None:
                candidates = np.hstack([candidates, self._best_sparse(shard, ask, scores, n_candidates)])
            n_scanned += int(np.count_nonzero(candidates >= 0))
            rows, distances = cpp_ext.rescore(
                shard.vectors,
                ask.queries,
                np.ascontiguousarray(candidates),
                ask.k,
                metric=self._kernel_metric,
                offsets=shard.offsets,
                best_of=self.entry.best_of,
                bias=ask.bias_of(shard),
                tags=ask.tags_of(shard),
                tag_cap=ask.tag_cap,
            )
            found.append((rows, distances))
        rows, distances = self._merged(found, ask)
        return rows, distances, n_scanned

    def _n_candidates(self, plan: Plan, ask: _Ask) -> int:
        """Return how many vectors an index is asked for: more than k where their order is not that of the answer."""
        assert plan.effort is not None
        if plan.kind == "ivf":
            n = max(_REFINE * ask.k, 100)
        elif self.plan_name == "graph" and not (self.entry.is_grouped or ask.bias is not None or ask.tag_cap):
            n = ask.k + _SPARE
        else:
            n = max(plan.effort, ask.k)
        return n * _WIDEN if ask.tag_cap else n

    def _best_sparse(
        self, shard: Shard, ask: _Ask, scores: NDArray[np.float32], n_candidates: int
    ) -> NDArray[np.int64]:
        """Return the shard's rows of best sparse score, -1 where none is above 0."""
        part = scores[:, shard.first_row : shard.first_row + shard.n_rows]
        if ask.matching is not None:
            bits = np.unpackbits(
                np.ascontiguousarray(shard.words(ask.matching)).view(np.uint8), count=shard.n_rows, bitorder="little"
            )
            part = part * bits
        n = min(n_candidates, shard.n_rows)
        best = np.argpartition(-part, n - 1, axis=1)[:, :n].astype(np.int64)
        return np.where(np.take_along_axis(part, best, axis=1) > 0, best, -1)

    def _scan(self, ask: _Ask) -> Found:
        return self._merged([self._scan_shard(shard, ask) for shard in self.shards], ask)

    def _scan_shard(self, shard: Shard, ask: _Ask) -> Found:
        return cpp_ext.scan(
            shard.vectors,
            ask.queries,
            ask.k,
            metric=self._kernel_metric,
            mask=None if ask.matching is None else np.ascontiguousarray(shard.words(ask.matching)),
            offsets=shard.offsets,
            best_of=self.entry.best_of,
            bias=ask.bias_of(shard),
            tags=ask.tags_of(shard),
            tag_cap=ask.tag_cap,
        )

    def _merged(self, found: Sequence[Found], ask: _Ask) -> Found:
        if len(self.shards) == 1:
            return found[0]
        rows = np.stack([np.where(r < 0, -1, r + s.first_row) for (r, _), s in zip(found, self.shards)])
        distances = np.stack([d for _, d in found])
        return cpp_ext.merge(rows, distances, ask.k, tags=ask.tags if ask.tag_cap else None, tag_cap=ask.tag_cap)

    @property
    def _has_faiss(self) -> bool:
        return self.plan_name in ("hnsw", "ivfpq")

    @cached_property
    def _native(self) -> NativeSpace | None:
        """The space in one object that one call searches, None where there is no native module."""
        make = native_space()
        if make is None:
            return None
        shards = [
            (
                s.first_row,
                s.n_rows,
                s.vectors,
                s.offsets,
                s.index.native if isinstance(s.index, GraphIndex) else None,
                s.grows,
            )
            for s in self.shards
        ]
        return make(shards, dim=self.dim, n_rows=self.n_rows, metric=self.metric, best_of=self.entry.best_of)

    @property
    def _kernel_metric(self) -> Metric:
        return "ip" if self.metric == "cosine" else self.metric  # both sides are unit vectors


@dataclass(frozen=True, slots=True)
class _Ask:
    queries: NDArray[np.float32]
    k: int
    matching: Bitmap | None
    bias: NDArray[np.float32] | None
    tags: NDArray[np.int32] | None
    tag_cap: int

    def only(self, at: NDArray[np.int64]) -> _Ask:
        bias = None if self.bias is None else np.ascontiguousarray(self.bias[at])
        return _Ask(np.ascontiguousarray(self.queries[at]), self.k, self.matching, bias, self.tags, self.tag_cap)

    def bias_of(self, shard: Shard) -> NDArray[np.float32] | None:
        if self.bias is None:
            return None
        return np.ascontiguousarray(self.bias[:, shard.first_row : shard.first_row + shard.n_rows])

    def tags_of(self, shard: Shard) -> NDArray[np.int32] | None:
        if not self.tag_cap or self.tags is None:
            return None
        return self.tags[shard.first_row : shard.first_row + shard.n_rows]
