"""An index version, opened: one immutable object that answers searches and reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.columns import AnyColumns, Columns
from matching.datapoint import Datapoint, Filter, Neighbor, NumericType, SparseRows
from matching.errors import CorruptArtifact, InvalidQuery, NotFound
from matching.manifest import FILE_NAME, Manifest, read_manifest
from matching.opening import OpenedFiles, check_file, open_space
from matching.space import Bitmap, Plan, Space

_new = tuple.__new__  # what a named tuple has of its own is a Python function
MAX_K = 10_000
MAX_MAGNITUDE = 1e6
MIN_NORM = 1e-6


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Answers of one call, and how they were found.

    Attributes:
        neighbors: one tuple a query, nearest first, ties by datapoint id.
        plan: "exact", "graph" or "ivf".
        effort: what was used, as `Plan` says; None for exact.
        n_matching: datapoints that pass the filter and have a vector in the space.
        n_scanned: exact distances computed, over all queries.
        coverage: share of the datapoints that were searched; below 1 where a shard cannot be read.
    """

    neighbors: tuple[tuple[Neighbor, ...], ...]
    plan: str
    effort: int | None
    n_matching: int
    n_scanned: int
    version_id: str
    coverage: float

    @classmethod
    def joined(cls, parts: Sequence[SearchResult]) -> SearchResult:
        """Return the answers of calls of one query each, over the same version, as those of one call."""
        return cls(
            tuple(part.neighbors[0] for part in parts),
            parts[0].plan,
            parts[0].effort,
            max(part.n_matching for part in parts),
            sum(part.n_scanned for part in parts),
            parts[0].version_id,
            parts[0].coverage,
        )


@dataclass(frozen=True, slots=True)
class FoundRows:
    """Neighbors of rows.

    Attributes:
        rows: int64[q, k], nearest first, ties by row; -1 for none.
        distances: float32[q, k], +inf for none.
        n_matching: int64[q], datapoints that pass the filter and have a vector in the space.
        n_scanned: exact distances computed, over all queries.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    plan: Plan
    n_matching: NDArray[np.int64]
    n_scanned: int


class IndexVersion:
    """A sealed version, memory-mapped. Immutable and thread-safe."""

    def __init__(
        self,
        version_id: str,
        manifest: Manifest,
        columns: AnyColumns,
        spaces: Mapping[str, Space],
        files: OpenedFiles | None = None,
    ) -> None:
        self.version_id = version_id
        self.manifest = manifest
        self.columns = columns
        self.spaces = spaces
        self._files = files

    @classmethod
    def open(cls, directory: Path, *, verify: bool = True, partial: bool = False) -> IndexVersion:
        """Open the version that lies in `directory`.

        Args:
            verify: check every block of every file before anything is read from it.
            partial: leave out shards that cannot be read, as long as each space has one that can; `lost` says which.

        Raises:
            CorruptArtifact: a file is missing, truncated or changed, or does not fit the manifest.
        """
        manifest = read_manifest(directory)
        files = OpenedFiles.of(directory, manifest)
        for name in manifest.files.keys() - files.of_shards:
            check_file(directory, name, manifest.files, verify=verify and name not in files.containers)
        columns = Columns.open(directory / manifest.columns, verify=verify)
        if len(columns) != manifest.n_datapoints:
            raise CorruptArtifact(
                f"[open] version {directory.name}: {len(columns):,} datapoints in the columns, {manifest.n_datapoints:,} in "
                f"{FILE_NAME}; build again"
            )
        spaces = {
            entry.name: open_space(
                directory, entry, len(columns), verify=verify, partial=partial, sealed=manifest.files
            )
            for entry in manifest.spaces
        }
        return cls(directory.name, manifest, columns, spaces, files)

    @property
    def lost(self) -> tuple[str, ...]:
        """Why some of its files cannot be believed; nothing where all is well."""
        damaged = () if self._files is None else self._files.damaged.values()
        return (*damaged, *(shard.lost for space in self.spaces.values() for shard in space.lost))

    @property
    def failure(self) -> str | None:
        """Why nothing can be answered: a file that every search needs is lost, or all shards of a space are."""
        if self._files is not None and self._files.damaged:
            return next(iter(self._files.damaged.values()))
        return next((s.lost[0].lost for s in self.spaces.values() if len(s.lost) == len(s.entry.shards)), None)

    def look_again(self, *, again: bool = False) -> IndexVersion:
        """Return the version as its files are now: without shards that were written over, with those that are whole again.

        A file that was removed, or has another in its place, does no harm: what is mapped stays.

        Args:
            again: read lost files too that nobody has touched: a disk may have been mended.

        Returns:
            This version itself where nothing has changed; the same columns in any case.
        """
        assert self._files is not None, "a sealed version"
        files, spaces = self._files.look_again(self.spaces, again=again)
        if files is self._files:
            return self
        return IndexVersion(self.version_id, self.manifest, self.columns, spaces, files)

    @property
    def created_at(self) -> str:
        """When the version was sealed, ISO 8601 in UTC."""
        return self.manifest.created_at

    @property
    def n_datapoints(self) -> int:
        """Number of datapoints."""
        return self.columns.n_live

    @property
    def images_dir(self) -> str | None:
        """Where the catalogue's pictures lay when the version was built."""
        return cast("str | None", self.manifest.source.get("images_dir"))

    def space(self, name: str) -> Space:
        """Return a space by name.

        Raises:
            NotFound: the version has no such space.
        """
        if name not in self.spaces:
            raise NotFound(f"[search] no space {name!r} in version {self.version_id}; it has {sorted(self.spaces)}")
        return self.spaces[name]

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        space: str,
        filter: Filter = Filter(),
        crowding_cap: int = 0,
        exact: bool = False,
        effort: int | None = None,
        recall_target: float | None = None,
        sparse: SparseRows | None = None,
        exclude: Sequence[str] = (),
    ) -> SearchResult:
        """Return the nearest datapoints of each query: min(k, matches) of them, under any filter.

        Args:
            vectors: float32[q, dim]; normalised here where the metric is cosine.
            filter: what the datapoints must pass.
            crowding_cap: how many results may share a crowding tag; 0 for any number. Datapoints without a tag are never capped.
            exact: scan instead of searching an index.
            effort: instead of what the operating table says; see `Plan`.
            recall_target: choose the effort for this recall instead of the version's.
            sparse: sparse sides of the queries, in a space that has one.
            exclude: datapoint ids that are not wanted.

        Raises:
            NotFound: no such space.
            InvalidQuery: wrong dimension, a number that is not finite, or a knob out of range.
        """
        target = self.space(space)
        queries = check_queries(vectors, target)
        check_knobs(k, crowding_cap, effort, recall_target)
        if sparse is not None and (len(sparse) != len(queries) or not target.has_sparse):
            raise InvalidQuery(
                f"[search] {len(sparse)} sparse queries beside {len(queries)} dense ones in space {space!r}, which has "
                f"{'a' if target.has_sparse else 'no'} sparse side; send one a query, or none"
            )
        matching = self._matching(target, filter, exclude)
        n_matching = target.n_datapoints if matching is None else cpp_ext.count(matching, len(self.columns))
        plan = target.plan(k, n_matching, exact=exact, effort=effort, recall_target=recall_target)
        rows, distances, n_scanned = target.search(
            plan,
            queries,
            k,
            matching=matching,
            n_matching=n_matching,
            sparse=sparse,
            tags=self.columns.tags if crowding_cap else None,
            tag_cap=crowding_cap,
        )
        return self._result(rows, distances, plan, n_matching, n_scanned, target.coverage)

    def nearest_rows(
        self, vectors: NDArray[np.float32], k: int, *, space: str, matching: Bitmap
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows int64[q, k] and distances float32[q, k] of the nearest datapoints of a bitmap, -1 and +inf for none.

        Args:
            vectors: float32[q, dim].
            matching: as `matching` returns it.

        Raises:
            NotFound: no such space.
            InvalidQuery: wrong dimension, or a number that is not finite.
        """
        target = self.space(space)
        queries = check_queries(vectors, target)
        check_knobs(k, 0, None, None)
        if target.present is not None:
            matching = matching.copy()
            cpp_ext.intersect(matching, target.present)
        n_matching = cpp_ext.count(matching, len(self.columns))
        plan = target.plan(k, n_matching, exact=False, effort=None, recall_target=None)
        rows, distances, _ = target.search(plan, queries, k, matching=matching, n_matching=n_matching)
        return rows, distances

    def search_by_id(
        self,
        datapoint_ids: Sequence[str],
        k: int,
        *,
        space: str,
        include_self: bool = False,
        filter: Filter = Filter(),
        crowding_cap: int = 0,
        exact: bool = False,
        effort: int | None = None,
        recall_target: float | None = None,
    ) -> SearchResult:
        """Return the nearest datapoints of datapoints; of several vectors of one, the mean asks.

        Raises:
            NotFound: no such space or datapoint.
            Unavailable: the vectors of a datapoint cannot be read now.
            InvalidQuery: a datapoint has no vector in the space, or a knob is out of range.
        """
        own = np.array([self._row(i) for i in datapoint_ids], np.int64)
        if include_self:
            queries = self._queries(self.space(space), own)
            knobs = {"effort": effort, "recall_target": recall_target}
            return self.search(queries, k, space=space, filter=filter, crowding_cap=crowding_cap, exact=exact, **knobs)  # type: ignore[arg-type]
        found = self.neighbors_of(
            own,
            k,
            space=space,
            filter=filter,
            crowding_cap=crowding_cap,
            exact=exact,
            effort=effort,
            recall_target=recall_target,
        )
        n_matching = int(found.n_matching.max())
        coverage = self.space(space).coverage
        return self._result(found.rows, found.distances, found.plan, n_matching, found.n_scanned, coverage)

    def neighbors_of(
        self,
        rows: NDArray[np.int64],
        k: int,
        *,
        space: str,
        filter: Filter = Filter(),
        crowding_cap: int = 0,
        exact: bool = False,
        effort: int | None = None,
        recall_target: float | None = None,
    ) -> FoundRows:
        """Return the nearest datapoints of rows, without themselves; what each gets does not depend on the others.

        Args:
            rows: int64[q], each with a vector in the space.

        Raises:
            NotFound: no such space.
            Unavailable: the vectors of a datapoint cannot be read now.
            InvalidQuery: a datapoint has no vector in the space, or a knob is out of range.
        """
        target = self.space(space)
        check_knobs(k, crowding_cap, effort, recall_target)
        queries = check_queries(self._queries(target, rows), target)
        matching = self._matching(target, filter, ())
        n_all = target.n_datapoints if matching is None else cpp_ext.count(matching, len(self.columns))
        is_in = np.ones(len(rows), np.bool_)
        if matching is not None:
            is_in = (matching[rows // 64] >> (rows % 64).astype(np.uint64)) & np.uint64(1) != 0
        n_matching = n_all - is_in
        plan = target.plan(k, n_all, exact=exact, effort=effort, recall_target=recall_target)
        if crowding_cap:  # a query's own tag must not count
            return self._neighbors_apart(target, plan, queries, rows, k, matching, n_matching, crowding_cap)
        found, distances, n_scanned = target.search(plan, queries, k + 1, matching=matching, n_matching=n_all)
        is_self = found == rows[:, None]
        dropped = np.where(is_self.any(axis=1), is_self.argmax(axis=1), k)
        kept = np.arange(k + 1) != dropped[:, None]
        shape = len(rows), k
        return FoundRows(found[kept].reshape(shape), distances[kept].reshape(shape), plan, n_matching, n_scanned)

    def _neighbors_apart(
        self,
        target: Space,
        plan: Plan,
        queries: NDArray[np.float32],
        rows: NDArray[np.int64],
        k: int,
        matching: Bitmap | None,
        n_matching: NDArray[np.int64],
        crowding_cap: int,
    ) -> FoundRows:
        """Search for one after the other, each left out of what may be found."""
        if matching is None:
            matching = cpp_ext.new_bitmap(len(self.columns), fill=True)
        parts = []
        for at, n in enumerate(n_matching.tolist()):
            others = matching.copy()
            cpp_ext.clear_rows(others, rows[at : at + 1])
            parts.append(
                target.search(
                    plan,
                    queries[at : at + 1],
                    k,
                    matching=others,
                    n_matching=n,
                    tags=self.columns.tags,
                    tag_cap=crowding_cap,
                )
            )
        found, distances, n_scanned = zip(*parts, strict=True)
        return FoundRows(np.concatenate(found), np.concatenate(distances), plan, n_matching, sum(n_scanned))

    def datapoints(self, datapoint_ids: Sequence[str]) -> tuple[Datapoint, ...]:
        """Return datapoints by id.

        Raises:
            NotFound: an id is unknown.
        """
        return tuple(self.columns.datapoint(self._row(i)) for i in datapoint_ids)

    def vectors(self, datapoint_ids: Sequence[str], space: str) -> tuple[NDArray[np.float32], ...]:
        """Return the vectors of datapoints in a space, float32[m, dim] each.

        Raises:
            NotFound: an id or the space is unknown.
            Unavailable: those of one cannot be read now.
        """
        target = self.space(space)
        return tuple(target.vectors_of(self._row(i)) for i in datapoint_ids)

    def sparse_vectors(self, datapoint_ids: Sequence[str], space: str) -> SparseRows | None:
        """Return the sparse vectors of datapoints in a space, one row each; None where the space has no sparse side.

        Raises:
            NotFound: an id or the space is unknown.
        """
        target = self.space(space)
        rows = np.array([self._row(i) for i in datapoint_ids], np.int64)
        return None if target.sparse is None else target.sparse.vectors(rows, target.n_rows)

    def facets(self, namespace: str) -> dict[str, int]:
        """Return how many datapoints have each token of a namespace, most frequent first."""
        return self.columns.facets(namespace)

    def namespaces(self) -> tuple[str, ...]:
        """Return the token namespaces."""
        return self.columns.namespaces()

    def numeric_types(self) -> dict[str, NumericType]:
        """Return the type of each numeric namespace."""
        return self.columns.numeric_types()

    def numeric_range(self, namespace: str) -> tuple[float, float] | None:
        """Return least and greatest number of a namespace, None where no datapoint has one."""
        return self.columns.numeric_range(namespace)

    def _row(self, datapoint_id: str) -> int:
        row = self.columns.find(datapoint_id)
        if row < 0:
            raise NotFound(
                f"[read] no datapoint {datapoint_id!r} among {self.n_datapoints:,}; ask for an id that was built in"
            )
        return row

    def matching(self, wanted: Filter, exclude: Sequence[str] = ()) -> Bitmap:
        """Return the bitmap of the rows that pass a filter, without those of some datapoints, known or not.

        Raises:
            InvalidQuery: the filter contradicts the version.
        """
        matching = self.columns.matching(wanted)
        rows = [row for row in map(self.columns.find, exclude) if row >= 0]
        cpp_ext.clear_rows(matching, np.asarray(rows, np.int64))
        return matching

    def _matching(self, space: Space, wanted: Filter, exclude: Sequence[str]) -> Bitmap | None:
        """Return what may be found in a space, None for all of it."""
        if not wanted and not exclude:
            return space.present
        matching = self.matching(wanted, exclude)
        if space.present is not None:
            cpp_ext.intersect(matching, space.present)
        return matching

    def _queries(self, space: Space, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what asks for datapoints, float32[q, dim]: of several vectors of one, the mean."""
        queries, is_there = space.means_of(rows)
        if not is_there.all():
            row = int(rows[np.argmin(is_there)])
            raise InvalidQuery(
                f"[search] datapoint {self.columns.datapoint_id(row)!r} has no vector in space {space.name!r}; ask in another "
                f"space of {sorted(self.spaces)}"
            )
        return queries

    def _result(
        self,
        rows: NDArray[np.int64],
        distances: NDArray[np.float32],
        plan: Plan,
        n_matching: int,
        n_scanned: int,
        coverage: float,
    ) -> SearchResult:
        neighbors = tuple(self._neighbors(of_query, at) for of_query, at in zip(rows.tolist(), distances.tolist()))
        return SearchResult(neighbors, plan.kind, plan.effort, n_matching, n_scanned, self.version_id, coverage)

    def _neighbors(self, rows: list[int], distances: list[float]) -> tuple[Neighbor, ...]:
        if rows[-1] < 0:
            rows = [row for row in rows if row >= 0]
        told = zip(self.columns.datapoint_ids(rows), distances, self.columns.crowding_tags(rows), repeat(None))
        return tuple([_new(Neighbor, each) for each in told])


def check_queries(vectors: NDArray[np.float32], space: Space) -> NDArray[np.float32]:
    """Return queries as float32[q, dim], of unit norm where the metric is cosine.

    Raises:
        InvalidQuery: another shape, or a value that is not finite or too large.
    """
    queries = np.ascontiguousarray(vectors, np.float32)
    if queries.ndim != 2 or queries.shape[1] != space.dim or not len(queries):
        raise InvalidQuery(
            f"[search] queries of shape {list(queries.shape)} for space {space.name!r}; expected [q, {space.dim}] with q >= 1"
        )
    # einsum warns of nothing; a norm is not finite where a value is not
    norms = [math.sqrt(square) for square in np.einsum("qd,qd->q", queries, queries).tolist()]
    if not all(norm <= MAX_MAGNITUDE for norm in norms):
        raise InvalidQuery(
            f"[search] a query holds a value that is not finite, or has a norm above {MAX_MAGNITUDE:g}; send finite numbers"
        )
    if space.metric != "cosine":
        return queries
    if min(norms) < MIN_NORM:
        raise InvalidQuery(
            f"[search] a query of norm {min(norms):g} has no direction; cosine needs a norm of {MIN_NORM:g} or more"
        )
    return queries / np.array(norms, np.float32)[:, None]


def check_knobs(k: int, crowding_cap: int, effort: int | None, recall_target: float | None) -> None:
    """Check the numbers a caller may turn.

    Raises:
        InvalidQuery: one is out of range.
    """
    if not 1 <= k <= MAX_K:
        raise InvalidQuery(f"[search] k is {k}; expected 1 to {MAX_K:,}")
    if crowding_cap < 0:
        raise InvalidQuery(f"[search] the crowding cap is {crowding_cap}; expected 0 (none) or more")
    if effort is not None and not 1 <= effort <= MAX_K:
        raise InvalidQuery(f"[search] effort is {effort}; expected 1 to {MAX_K:,}")
    if recall_target is not None and not 0 < recall_target <= 1:
        raise InvalidQuery(f"[search] recall_target is {recall_target}; expected above 0, up to 1")
