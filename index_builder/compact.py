"""Fold the writes of a log into the next sealed version.

The log is read twice: once for what it says of each datapoint last, once for the vectors of the upserts that still hold. Rows and
vectors go from the base and the log to staging files a chunk at a time; what is held in memory is the ids, and what changes said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_builder.draft import Built, Draft, SpaceDraft
from index_builder.plan import has_enough
from index_builder.progress import Progress
from index_builder.settings import BuildSettings
from index_builder.staging import rank_in_run
from matching.columns import Columns
from matching.datapoint import Datapoint, SparseRows
from matching.errors import InvalidCatalog, InvalidInput
from matching.files import reserve
from matching.live import Change, Delete, Log, Types, Upsert, Write, check_reach, kept_vectors, unpack_write
from matching.live.live_index import changed, fitting
from matching.space import Shard, Space, SparseIndex
from matching.store import Store
from matching.version import IndexVersion

_CHUNK_ROWS = 8_192
_CHUNK_ENTRIES = 1 << 20
_BATCH = 1_024
_GONE, _OF_BASE = -1, 0


@dataclass(slots=True)
class _Last:
    """What the log says of a datapoint last.

    Attributes:
        sequence: of the upsert that its vectors are from; _OF_BASE where they are the base's, _GONE where it was deleted.
        change: all that was changed of its columns since, in one.
    """

    sequence: int
    change: Change | None = None

    def columns(self, datapoint: Datapoint) -> Datapoint:
        """Return a datapoint as it is after the changes."""
        return datapoint if self.change is None else changed(datapoint, self.change)


def compact(
    store: Store,
    base_id: str,
    log: Log,
    *,
    settings: BuildSettings,
    progress: Progress,
    last_sequence: int | None = None,
) -> Built:
    """Write, measure, seal and publish the version that a base and its writes amount to.

    It answers as the live index over them did. Built as the base was, with the threads and the memory budget of the settings.
    The log stays as it is, and may be written to meanwhile.

    Args:
        base_id: of the version that the writes change.
        log: of those writes; opened read-only where another process writes to it.
        last_sequence: the last write to take in; None for the newest that is known to be on disk.

    Raises:
        InvalidInput: there is no such write, or none that the base does not have in it.
        NotFound: writes that the base does not have in it were truncated from the log.
        CorruptArtifact: the base or the log is damaged.
        InvalidCatalog: nothing is left in the version, or in one of its spaces.
        GateRefused: a space missed its recall floor; kept for inspection.
    """
    base = store.open(base_id)
    first = base.manifest.log_sequence + 1
    check_reach(base.version_id, first - 1, log)
    last = log.proved_sequence if last_sequence is None else last_sequence
    if not first <= last <= log.last_sequence:
        raise InvalidInput(
            f"[compact] version {base.version_id} has the writes up to {first - 1} in it, and those up to {last} were asked for; "
            f"the log has {log.last_sequence}, of which {log.proved_sequence} are known to be on disk: expected newer ones"
        )
    settings = _as_built(base, settings)
    draft = Draft(store, settings, progress)
    try:
        work = _Compaction(base, log, first, last, draft, progress)
        work.read_log()
        work.carry_rows()
        work.carry_vectors()
        work.add_written()
        source = {
            **{
                name: base.manifest.source[name]
                for name in ("path", "digest", "images_dir")
                if name in base.manifest.source
            },
            "kind": "compaction",
            "first_sequence": first,
            "last_sequence": last,
            "n_written": len(work.written),
            "n_added": len(draft.columns) - work.n_carried,
            "n_dropped": len(base.columns) - work.n_carried,
        }
        work.check_spaces(settings)
        return draft.finish(source=source, parent=base.version_id, log_sequence=last)
    except BaseException:
        draft.abandon()
        raise


class _Compaction:
    """The steps that come before indexing."""

    def __init__(self, base: IndexVersion, log: Log, first: int, last: int, draft: Draft, progress: Progress) -> None:
        assert isinstance(base.columns, Columns)
        self._base, self._columns, self._draft, self._progress = base, base.columns, draft, progress
        self._log, self._first, self._last = log, first, last
        self._arrivals = np.full(len(base.columns), -1, np.int64)  # of each base row; -1: not carried over
        self._spaces = {name: _carried_space(draft, space) for name, space in base.spaces.items()}
        self._types = dict(base.columns.numeric_types())
        self.written: dict[str, _Last] = {}
        self.n_carried = 0

    def read_log(self) -> None:
        """Find what the log says last of each datapoint."""
        self._progress.begin("read log", self._last - self._first + 1)
        for sequence, write in self._writes():
            self._take(sequence, write)
            self._progress.advance(sequence - self._first + 1)

    def carry_rows(self) -> None:
        """Keep the columns of the datapoints whose vectors are the base's."""
        self._progress.begin("carry datapoints over", len(self._columns))
        for row in range(len(self._columns)):
            said = self.written.get(self._columns.datapoint_id(row))
            if said is None or said.sequence == _OF_BASE:
                self._arrivals[row] = len(self._draft.columns)
                self._keep(self._columns.datapoint(row), said)
            self._progress.advance(row + 1)
        self.n_carried = len(self._draft.columns)

    def carry_vectors(self) -> None:
        """Keep their vectors, dense and sparse, bit for bit."""
        for name, target in self._spaces.items():
            space = self._base.space(name)
            self._progress.begin(f"{name}: carry vectors over", space.n_vectors)
            n_done = 0
            for shard in space.shards:
                for owners, vectors in _chunks(shard):
                    arrivals = self._arrivals[owners + shard.first_row]
                    is_kept = arrivals >= 0
                    target.vectors.append(vectors[is_kept], arrivals[is_kept])
                    n_done += len(vectors)
                    self._progress.advance(n_done)
            if target.sparse is not None:
                assert isinstance(space.sparse, SparseIndex)
                for rows, sparse in _by_row(space.sparse, len(self._columns), self._draft.work / "sparse.scratch"):
                    arrivals = self._arrivals[rows]
                    target.sparse.append(_kept(sparse, arrivals >= 0), arrivals[arrivals >= 0])

    def add_written(self) -> None:
        """Read the log again, and add the datapoints whose upserts hold."""
        self._progress.begin("add written datapoints", self._last - self._first + 1)
        held: list[Upsert] = []
        for sequence, write in self._writes():
            if isinstance(write, Upsert) and self.written[write.datapoint.datapoint_id].sequence == sequence:
                held.append(write)
            if len(held) == _BATCH or sequence == self._last:
                self._add(held)
                held.clear()
            self._progress.advance(sequence - self._first + 1)

    def check_spaces(self, settings: BuildSettings) -> None:
        """Check that the next version has the spaces of the base; one that shrank too far for its plan is scanned.

        Raises:
            InvalidCatalog: the last vector of one was deleted.
        """
        empty = [name for name, space in self._spaces.items() if not space.vectors.n_vectors]
        if empty:
            raise InvalidCatalog(
                f"[compact] no vector is left in space {empty[0]!r} after write {self._last}; a version needs one in each space: "
                "write datapoints with vectors first, or build a new version without the space"
            )
        for space in self._spaces.values():
            if not has_enough(settings.plan, space.vectors.n_vectors):
                space.plan = "flat"

    def _writes(self) -> Iterator[tuple[int, Write | Types]]:
        for record in self._log.read(self._first):
            yield record.sequence, unpack_write(record.payload)
            if record.sequence == self._last:
                return

    def _take(self, sequence: int, write: Write | Types) -> None:
        if isinstance(write, Types):
            for namespace, kind in write.types.items():
                self._types.setdefault(namespace, kind)
        elif isinstance(write, Upsert):
            self.written[write.datapoint.datapoint_id] = _Last(sequence)
            self._settle_types(write.datapoint)
        elif isinstance(write, Delete):
            self.written[write.datapoint_id] = _Last(_GONE)
        else:
            self._change(write)

    def _change(self, change: Change) -> None:
        datapoint_id = change.datapoint.datapoint_id
        said = self.written.get(datapoint_id)
        if said is None:
            said = _Last(_OF_BASE if self._columns.find(datapoint_id) >= 0 else _GONE)
        if said.sequence == _GONE:
            return  # it may have been deleted since the change was taken
        before = said.change
        if before is not None:
            change = Change(changed(before.datapoint, change), before.fields | change.fields)
        said.change = change
        self.written[datapoint_id] = said
        self._settle_types(change.datapoint)

    def _settle_types(self, datapoint: Datapoint) -> None:
        """Let a new numeric namespace have the type that is written to it first, as a live index does."""
        for number in datapoint.numeric_restricts:
            self._types.setdefault(number.namespace, number.type)

    def _keep(self, datapoint: Datapoint, said: _Last | None) -> None:
        self._draft.columns.add(datapoint if said is None else fitting(said.columns(datapoint), self._types))

    def _add(self, upserts: Sequence[Upsert]) -> None:
        arrivals = np.arange(len(upserts)) + len(self._draft.columns)
        for upsert in upserts:
            self._keep(upsert.datapoint, self.written[upsert.datapoint.datapoint_id])
        for name, target in self._spaces.items():
            at = [i for i, upsert in enumerate(upserts) if len(upsert.vectors.get(name, ()))]
            if at:
                vectors = [kept_vectors(upserts[i].vectors[name], target.metric) for i in at]
                target.vectors.append(np.concatenate(vectors), np.repeat(arrivals[at], [len(each) for each in vectors]))
            at = [i for i, upsert in enumerate(upserts) if name in upsert.sparse]
            if at and target.sparse is not None:
                target.sparse.append(_joined([upserts[i].sparse[name] for i in at]), arrivals[at])


def _as_built(base: IndexVersion, settings: BuildSettings) -> BuildSettings:
    """Return the settings that the base was built with, but for what depends on the machine."""
    held = base.manifest.build.get("settings")
    then = held if isinstance(held, dict) else {}
    known = {name: value for name, value in then.items() if name in BuildSettings.model_fields}
    here = {"threads": settings.threads, "memory_budget_bytes": settings.memory_budget_bytes}
    return BuildSettings(**{**settings.model_dump(), **known, **here})


def _carried_space(draft: Draft, space: Space) -> SpaceDraft:
    target = draft.new_space(
        space.name, space.dim, space_id=space.space_id, metric=space.metric, modality=space.modality
    )
    target.alpha, target.best_of = space.entry.alpha, space.entry.best_of
    target.encoder, target.is_grouped = space.encoder, space.entry.is_grouped
    if space.has_sparse:
        draft.new_sparse(target)
    return target


def _chunks(shard: Shard) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield vectors of a shard, in order, with the shard row that owns each."""
    for start in range(0, len(shard.vectors), _CHUNK_ROWS):
        vectors = shard.vectors[start : start + _CHUNK_ROWS]
        yield shard.owners(np.arange(start, start + len(vectors))), vectors


def _by_row(index: SparseIndex, n_rows: int, scratch: Path) -> Iterator[tuple[NDArray[np.int64], SparseRows]]:
    """Yield the sparse vectors of an inverted index, in row order, with the row of each; rows without one are left out.

    Args:
        scratch: path of two files that are there meanwhile.
    """
    n_entries = len(index.rows)
    if not n_entries:
        return
    lengths = np.zeros(n_rows, np.int64)
    for start in range(0, n_entries, _CHUNK_ENTRIES):
        lengths += np.bincount(index.rows[start : start + _CHUNK_ENTRIES], minlength=n_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    paths = scratch.with_suffix(".dimensions"), scratch.with_suffix(".values")
    try:
        dimensions = _scratch(paths[0], "<i8", n_entries)
        values = _scratch(paths[1], "<f4", n_entries)
        free = offsets[:-1].copy()
        for start in range(0, n_entries, _CHUNK_ENTRIES):
            part = slice(start, min(start + _CHUNK_ENTRIES, n_entries))
            rows = index.rows[part].astype(np.int64)
            terms = np.searchsorted(index.offsets, np.arange(part.start, part.stop), side="right") - 1
            order = np.argsort(rows, kind="stable")  # the terms of a row stay ascending
            places = free[rows[order]] + rank_in_run(rows[order])
            dimensions[places] = index.dimensions[terms[order]]
            values[places] = index.weights[part][order]
            free += np.bincount(rows, minlength=n_rows)
        for first in range(0, n_rows, _CHUNK_ROWS):
            found = first + np.flatnonzero(lengths[first : first + _CHUNK_ROWS])
            if len(found):
                part = slice(int(offsets[first]), int(offsets[found[-1] + 1]))
                ends = np.concatenate([[0], np.cumsum(lengths[found])])
                yield found, SparseRows(ends, np.array(dimensions[part]), np.array(values[part]))
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _scratch(path: Path, dtype: str, n: int) -> np.memmap[Any, np.dtype[Any]]:
    with path.open("xb") as file:
        file.truncate(n * np.dtype(dtype).itemsize)
        reserve(file.fileno(), n * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r+")


def _kept(rows: SparseRows, is_kept: NDArray[np.bool_]) -> SparseRows:
    lengths = np.diff(rows.offsets)
    entries = np.repeat(is_kept, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths[is_kept])])
    return SparseRows(offsets, rows.dimensions[entries], rows.values[entries])


def _joined(parts: Sequence[SparseRows]) -> SparseRows:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return SparseRows(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part.dimensions for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
