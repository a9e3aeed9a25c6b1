"""An index version that takes writes: what the log acknowledges is searched with the base from a moment later on.

    write -> checked -> log, kept -> acknowledged
                            |
             one thread applies them in sequence -> records, delta of each space -> next snapshot

A snapshot is an index version like any other, of a sequence. Deleted and replaced rows of the base are left out by bitmap, rows
that were added lie in one more shard of each space, with a graph of its own where the base has graphs.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.columns import Columns
from matching.datapoint import Datapoint, Metric, NumericType, SparseRows
from matching.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from matching.graph_index import GraphIndex
from matching.live.columns import LiveColumns, Records
from matching.live.growing import Growing
from matching.live.log import Appended, Log, Reach
from matching.live.write import (
    Change,
    Delete,
    Types,
    Upsert,
    Write,
    pack_write,
    packed_datapoint,
    unpack_write,
)
from matching.space import Shard, Space, SparseSide
from matching.version import MAX_MAGNITUDE, MIN_NORM, IndexVersion

_logger = logging.getLogger(__name__)
MAX_ID_BYTES = 1024
_BATCH = 1024  # writes applied before searches see them
_PATIENCE_S = 0.1
_CATCH_UP_S = 5.0


class LiveVersion(IndexVersion):
    """What a request is answered from: the base and all writes up to `sequence`. Immutable and thread-safe."""

    def __init__(self, base: IndexVersion, columns: LiveColumns, spaces: Mapping[str, Space], sequence: int) -> None:
        super().__init__(base.version_id, base.manifest, columns, spaces)
        self.sequence = sequence


class LiveIndex:
    """A base version, the writes of its log, and the snapshot of both. Thread-safe."""

    def __init__(self, base: IndexVersion, log: Log, *, sequence: int | None = None, threads: int = 1) -> None:
        """Apply what the log holds, then follow it.

        Args:
            base: the version that the writes change.
            log: of those writes; stays the caller's, who closes it after this.
            sequence: the last write that the base has in it; None for what its manifest says.
            threads: that link added rows.

        Raises:
            InvalidInput: the base is a snapshot of another live index, or has writes in it that the log does not know.
            NotFound: writes behind `sequence` were truncated from the log.
            CorruptArtifact: a record of the log is no write.
        """
        if not isinstance(base.columns, Columns):
            raise InvalidInput("[open] the base is live itself; expected a sealed version")
        if sequence is None:
            sequence = base.manifest.log_sequence
        check_reach(base.version_id, sequence, log)
        self._log = log
        self._threads = threads
        self._base = base
        self._records = Records(base.columns)
        self._deltas = {
            name: _Delta(space, len(base.columns), self._records.first_row) for name, space in base.spaces.items()
        }
        self._published = threading.Condition()
        self._applies = threading.Lock()
        self._sequence = sequence
        self._failure: str | None = None
        self._is_closed = False
        while log.last_sequence > self._sequence:
            self._apply_some()
        self._snapshot = self._view()
        self._applying = threading.Thread(target=self._follow, name="live-index", daemon=True)
        self._applying.start()

    @property
    def snapshot(self) -> LiveVersion:
        """What a request that begins now is answered from."""
        return self._snapshot

    @property
    def failure(self) -> str | None:
        """Why writes are refused, None while all is well; reads go on."""
        return self._log.failure or self._failure

    @property
    def n_written(self) -> int:
        """Writes since the base that changed something: what the next version has to take in."""
        return len(self._records)

    @property
    def reach(self) -> Reach:
        """How far the log is known to reach."""
        return self._log.reach

    @property
    def n_unapplied(self) -> int:
        """Writes that are on disk and that no search sees yet."""
        return max(self._log.last_sequence - self._snapshot.sequence, 0)

    def write(self, writes: Sequence[Write], *, request_id: str | None = None) -> Appended:
        """Take writes, all or none, and return when they are on disk; searches see them a moment later, see `wait`.

        Of several writes of one datapoint the last one holds.

        Args:
            writes: at least one.
            request_id: of what is repeated: a known one is answered as the first time and changes nothing.

        Returns:
            Their sequences; the last one is the version token to read one's own writes by.

        Raises:
            InvalidInput: a vector is missing, of another dimension, not finite or without direction, a space is unknown, or
                a number is of another type than its namespace.
            NotFound: a change of a datapoint that is not there.
            DeadlineExceeded: a change, and what was acknowledged before it is not applied within seconds.
            Unavailable: the log takes no more writes; see `failure`.
        """
        if self._failure is not None:
            raise Unavailable(f"[write] {self._failure}; reads go on, mend it and start again")
        known = dict(self._records.types)  # what is settled meanwhile is new to these writes
        try:
            self._check_all(writes, known)
        except NotFound:  # it may have been there when this was asked for the first time
            answered = None if request_id is None else self._log.answered(request_id)
            if answered is None:
                raise
            return answered
        payloads = [pack_write(write) for write in writes]
        new = {
            number.namespace: number.type
            for write in writes
            if not isinstance(write, Delete)
            for number in write.datapoint.numeric_restricts
            if number.namespace not in known
        }
        if new:
            self._agree(new)
            self._check_all(writes, self._records.types)
        return self._log.append(payloads, request_id=request_id)

    def wait(self, sequence: int, *, deadline: float) -> LiveVersion:
        """Return a snapshot that has a write in it.

        Args:
            sequence: the write's version token.
            deadline: when to give up, on `time.monotonic`'s clock.

        Raises:
            DeadlineExceeded: it was not applied in time, or there is no such write yet.
            Unavailable: nothing is applied any more.
        """
        with self._published:
            self._published.wait_for(
                lambda: self._snapshot.sequence >= sequence or self._failure is not None or self._is_closed,
                max(deadline - time.monotonic(), 0),
            )
            snapshot = self._snapshot
        if snapshot.sequence >= sequence:
            return snapshot
        if self._failure is not None or self._is_closed:
            why = self._failure or "the index is closed"
            raise Unavailable(f"[read] write {sequence} is not applied: {why}; ask another replica")
        raise DeadlineExceeded(f"[read] write {sequence} is not applied yet, {snapshot.sequence} is; ask again")

    def rebase(self, base: IndexVersion) -> None:
        """Go on over the same version with other shards of it readable; searches see that when this returns."""
        assert base.columns is self._base.columns, "the same version"
        with self._applies:
            self._base = base
            for name, delta in self._deltas.items():
                delta.space = base.spaces[name]
            self._publish()

    def close(self) -> None:
        """Stop following the log. Snapshots can be searched on."""
        with self._published:
            self._is_closed = True
            self._published.notify_all()
        self._applying.join()

    def _agree(self, types: Mapping[str, NumericType]) -> None:
        """Return when new numeric namespaces have a type for good, these or those that another writer was first with."""
        kept = self._log.append([pack_write(Types(types))])
        self.wait(kept.last_sequence, deadline=time.monotonic() + _CATCH_UP_S)

    def _check_all(self, writes: Sequence[Write], types: Mapping[str, NumericType]) -> None:
        added: set[str] = set()
        agreed = dict(types)
        for write in writes:
            self._check(write, agreed, added)

    def _check(self, write: Write, types: dict[str, NumericType], added: set[str]) -> None:
        datapoint_id = write.datapoint_id if isinstance(write, Delete) else write.datapoint.datapoint_id
        if not 1 <= len(datapoint_id.encode(errors="surrogatepass")) <= MAX_ID_BYTES:
            raise InvalidInput(
                f"[write] a datapoint id of {len(datapoint_id):,} characters; expected 1 to {MAX_ID_BYTES} bytes"
            )
        if isinstance(write, Delete):
            added.discard(datapoint_id)
            return
        for number in write.datapoint.numeric_restricts:
            held = types.setdefault(number.namespace, number.type)
            if held != number.type:
                raise InvalidInput(
                    f"[write] datapoint {datapoint_id!r} has {number.type} in the numeric namespace {number.namespace!r}, "
                    f"which holds {held}; use one type a namespace"
                )
            is_whole = number.type == "int64"
            if is_whole and not (isinstance(number.value, int) and -(2**63) <= number.value < 2**63):
                raise InvalidInput(
                    f"[write] datapoint {datapoint_id!r} has {number.value!r} in {number.namespace!r}; expected an int of 64 bits"
                )
            if not (is_whole or math.isfinite(number.value)):
                raise InvalidInput(
                    f"[write] datapoint {datapoint_id!r} has {number.value!r} in {number.namespace!r}; expected a finite number"
                )
        if isinstance(write, Upsert):
            self._check_vectors(write)
            added.add(datapoint_id)
        elif datapoint_id not in added and not self._is_there(datapoint_id):
            raise NotFound(f"[write] no datapoint {datapoint_id!r} to change; upsert it with its vectors")

    def _is_there(self, datapoint_id: str) -> bool:
        if self._snapshot.columns.find(datapoint_id) >= 0:
            return True
        # What was acknowledged may not be applied yet.
        deadline = time.monotonic() + _CATCH_UP_S
        newest = self.wait(self._log.newest(timeout_s=_CATCH_UP_S), deadline=deadline)
        return newest.columns.find(datapoint_id) >= 0

    def _check_vectors(self, write: Upsert) -> None:
        datapoint_id = write.datapoint.datapoint_id
        unknown = sorted({*write.vectors, *write.sparse} - {*self._base.spaces})
        if unknown:
            raise InvalidInput(
                f"[write] datapoint {datapoint_id!r} has vectors of {unknown}; the spaces are {sorted(self._base.spaces)}"
            )
        for name, space in self._base.spaces.items():
            vectors = write.vectors.get(name)
            n = 0 if vectors is None else len(vectors)
            is_sparse_alone = n == 0 and name in write.sparse
            if not (n == 1 or is_sparse_alone or space.entry.is_grouped):
                raise InvalidInput(
                    f"[write] datapoint {datapoint_id!r} has {n} vectors in space {name!r}; expected one of {space.dim} numbers"
                )
            if vectors is not None:
                _check_numbers(datapoint_id, space, vectors)
            if name in write.sparse:
                _check_sparse(datapoint_id, space, write.sparse[name])

    def _follow(self) -> None:
        try:
            while not self._is_closed:
                self._follow_on()
        except Exception as error:  # the top of the thread: whatever it is, waiting for it to go on is in vain
            if self._is_closed:
                return
            _logger.exception("writes are no longer applied")
            with self._published:
                self._failure = f"writes are no longer applied: {error}"
                self._published.notify_all()

    def _follow_on(self) -> None:
        try:
            if self._log.wait(self._sequence + 1, timeout_s=_PATIENCE_S):
                with self._applies:
                    self._apply_some()
                    self._publish()
        except Unavailable:
            if self._log.is_over:
                raise
            time.sleep(_PATIENCE_S)  # the log is lost, and may come back

    def _apply_some(self) -> None:
        """Apply up to a batch of what the log holds."""
        for record in itertools.islice(self._log.read(self._sequence + 1), _BATCH):
            self._apply(unpack_write(record.payload), record.payload)
            self._sequence = record.sequence
        for delta in self._deltas.values():
            delta.link(self._threads)

    def _apply(self, write: Write | Types, payload: bytes) -> None:
        records = self._records
        if isinstance(write, Types):
            for namespace, kind in write.types.items():
                records.types.setdefault(namespace, kind)
        elif isinstance(write, Delete):
            if records.row(write.datapoint_id) >= 0:
                records.remove(write.datapoint_id)
        elif isinstance(write, Change):
            before = records.datapoint(write.datapoint.datapoint_id)
            if before is not None:  # it may have been deleted since the change was taken
                records.change(fitting(changed(before, write), records.types))
        else:
            fit = fitting(write.datapoint, records.types)
            packed = packed_datapoint(payload) if fit is write.datapoint else None
            records.add(fit, packed)
            for name, delta in self._deltas.items():
                delta.add(write.vectors.get(name), write.sparse.get(name))

    def _view(self) -> LiveVersion:
        columns = self._records.view()
        spaces = {name: delta.view(columns) for name, delta in self._deltas.items()}
        return LiveVersion(self._base, columns, spaces, self._sequence)

    def _publish(self) -> None:
        snapshot = self._view()
        with self._published:
            self._snapshot = snapshot
            self._published.notify_all()


def check_reach(version_id: str, sequence: int, log: Log) -> None:
    """Check that a log goes on where a version ends.

    Args:
        sequence: the last write that the version has in it.

    Raises:
        NotFound: writes behind `sequence` were truncated from the log.
        InvalidInput: the log ends before it.
    """
    if sequence + 1 < log.first_sequence:
        raise NotFound(
            f"[open] version {version_id} has the writes up to {sequence} in it, and the log begins at {log.first_sequence}: "
            "what lies between was truncated, since newer versions have it; serve one of those, or this one without a log"
        )
    if sequence > log.last_sequence and not (log.is_over and log.failure):  # a damaged log ends where nobody knows
        raise InvalidInput(
            f"[open] version {version_id} has the writes up to {sequence} in it, and the log ends at {log.last_sequence}; open "
            f"the log that it was made from, or begin a new one with first_sequence {sequence + 1}"
        )


def fitting(datapoint: Datapoint, types: Mapping[str, NumericType]) -> Datapoint:
    """Leave out numbers of another type than their namespace: only who serves a version of other types writes those."""
    numbers = datapoint.numeric_restricts
    kept = tuple(number for number in numbers if types.get(number.namespace, number.type) == number.type)
    if len(kept) == len(numbers):
        return datapoint
    for number in set(numbers) - set(kept):
        _logger.warning(
            "[write] the %s %r of datapoint %r is left out; the namespace holds %s here",
            number.type,
            number.namespace,
            datapoint.datapoint_id,
            types[number.namespace],
        )
    return replace(datapoint, numeric_restricts=kept)


def kept_vectors(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """Return float32[m, dim] as they are searched: of unit length where the metric is cosine."""
    if metric != "cosine":
        return vectors
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class _Delta:
    """What was added to one space. One thread adds; views are for any."""

    def __init__(self, space: Space, n_base_rows: int, first_row: int) -> None:
        self.space = space
        self._n_base_rows = n_base_rows
        self._first_row = first_row
        self._vectors: Growing[np.float32] = Growing(np.float32, (space.dim,))
        self._ends: Growing[np.int64] = Growing(np.int64)
        self._ends.append(0)
        self._sparse = None if space.sparse is None else _SparseDelta(space.sparse, n_base_rows, first_row)
        first = next((shard.index for shard in space.shards if isinstance(shard.index, GraphIndex)), None)
        self._graph = None if first is None else first.emptied()

    def add(self, vectors: NDArray[np.float32] | None, sparse: SparseRows | None) -> None:
        """Give the next row its vectors."""
        if vectors is not None:
            self._vectors.extend(kept_vectors(vectors, self.space.metric))
        self._ends.append(len(self._vectors))
        if self._sparse is not None:
            self._sparse.add(sparse)

    def link(self, threads: int) -> None:
        """Link what was added since the last time."""
        if self._graph is not None and self._graph.n_rows < len(self._vectors):
            self._graph.add(self._vectors.view()[self._graph.n_rows :], threads=threads)

    def view(self, columns: LiveColumns) -> Space:
        """Return the space with what was added, for good."""
        space = self.space
        n_rows = len(columns)
        n_added = n_rows - self._first_row
        if n_added == 0 and columns.n_live == self._n_base_rows == n_rows:
            return space
        ends = self._ends.view(n_added + 1)
        has_vector = np.diff(ends) > 0
        offsets = None if has_vector.all() and not space.entry.is_grouped else ends
        vectors = self._vectors.view(int(ends[-1]))
        added = Shard(self._first_row, n_added, vectors, offsets, self._graph, grows=True)
        shards = (*space.shards, added) if n_added else space.shards
        sparse = space.sparse if self._sparse is None else self._sparse.view(n_added)
        return Space(
            space.entry,
            shards,
            n_rows=n_rows,
            sparse=sparse,
            encoder=space.encoder,
            present=self._present(columns, has_vector),
            n_lost=self._n_lost(columns),
        )

    def _n_lost(self, columns: LiveColumns) -> int:
        """Return how many datapoints of the base would be found if their shards could be read."""
        lost = self.space.lost
        n_rows = sum(shard.n_rows for shard in lost)
        n_live = sum(cpp_ext.count(np.ascontiguousarray(s.words(columns.live)), s.n_rows) for s in lost)
        return math.ceil(self.space.n_lost * n_live / max(n_rows, 1))

    def _present(self, columns: LiveColumns, has_vector: NDArray[np.bool_]) -> NDArray[np.uint64]:
        present: NDArray[np.uint64] = columns.live.copy()
        of_base = self.space.present
        if of_base is not None:
            present[: len(of_base)] &= of_base
        if not has_vector.all():
            cpp_ext.clear_rows(present, self._first_row + np.flatnonzero(~has_vector))
        return present


class _SparseDelta:
    """Sparse vectors of added rows: by dimension, and by row from offsets[r] to offsets[r + 1]."""

    def __init__(self, base: SparseSide, n_base_rows: int, first_row: int) -> None:
        self.base = base
        self.n_base_rows = n_base_rows
        self.first_row = first_row
        self.rows: dict[int, Growing[np.int64]] = {}
        self.weights: dict[int, Growing[np.float32]] = {}
        self.offsets: Growing[np.int64] = Growing(np.int64)
        self.offsets.append(0)
        self.dimensions: Growing[np.int64] = Growing(np.int64)
        self.values: Growing[np.float32] = Growing(np.float32)

    def add(self, sparse: SparseRows | None) -> None:
        """Give the next row its sparse vector, None for none."""
        row = len(self.offsets) - 1
        if sparse is not None:
            for dimension, weight in zip(sparse.dimensions.tolist(), sparse.values.tolist(), strict=True):
                self.weights.setdefault(dimension, Growing(np.float32)).append(weight)
                self.rows.setdefault(dimension, Growing(np.int64)).append(row)
            self.dimensions.extend(sparse.dimensions)
            self.values.extend(sparse.values)
        self.offsets.append(len(self.values))

    def row(self, row: int) -> SparseRows:
        """Return the sparse vector of a row, empty for none."""
        part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        own = np.array([0, part.stop - part.start], np.int64)
        return SparseRows(own, self.dimensions.view()[part], self.values.view()[part])

    def view(self, n_added: int) -> SparseSide:
        return _SparseView(self, n_added)


@dataclass(frozen=True, slots=True)
class _SparseView:
    """The sparse side of the base and of the first so many rows that were added."""

    _delta: _SparseDelta
    _n_added: int

    def scores(self, queries: SparseRows, n_rows: int) -> NDArray[np.float32]:
        """Return the inner products of sparse queries with all rows, float32[q, n_rows]."""
        delta = self._delta
        scores = np.zeros((len(queries), n_rows), np.float32)
        scores[:, : delta.n_base_rows] = delta.base.scores(queries, delta.n_base_rows)
        added = scores[:, delta.first_row : delta.first_row + self._n_added]
        for query, own in enumerate(added):
            part = slice(int(queries.offsets[query]), int(queries.offsets[query + 1]))
            for dimension, weight in zip(queries.dimensions[part].tolist(), queries.values[part].tolist(), strict=True):
                rows = delta.rows.get(dimension)
                if rows is None:
                    continue
                known = rows.below(self._n_added)
                own[known] += np.float32(weight) * delta.weights[dimension].view(len(known))
        return scores

    def vectors(self, rows: NDArray[np.int64], n_rows: int) -> SparseRows:
        """Return the sparse vectors of some rows, in their order; empty for those without one."""
        delta = self._delta
        is_added = rows >= delta.first_row
        of_base = delta.base.vectors(rows[~is_added], delta.n_base_rows)
        held = [of_base.row(at) for at in range(len(of_base))]
        own = iter(held)
        nothing = SparseRows(np.zeros(2, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        found = [
            delta.row(row - delta.first_row) if added else next(own)
            for row, added in zip(rows.tolist(), is_added.tolist())
        ]
        return SparseRows(
            np.cumsum([0, *(len(each.values) for each in found)]).astype(np.int64),
            np.concatenate([each.dimensions for each in [*found, nothing]]),
            np.concatenate([each.values for each in [*found, nothing]]),
        )


def changed(before: Datapoint, change: Change) -> Datapoint:
    """Return a datapoint with the columns that a change gives it."""
    wanted = change.datapoint
    return replace(before, **{name: getattr(wanted, name) for name in change.fields})


def _check_numbers(datapoint_id: str, space: Space, vectors: NDArray[np.float32]) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != space.dim:
        raise InvalidInput(
            f"[write] datapoint {datapoint_id!r} has vectors {list(vectors.shape)} in space {space.name!r}; expected "
            f"[m, {space.dim}]"
        )
    norms = np.sqrt(np.einsum("md,md->m", vectors, vectors))  # not finite where a value is not
    least = MIN_NORM if space.metric == "cosine" else 0
    if len(norms) and not (norms.max() <= MAX_MAGNITUDE and norms.min() >= least):
        raise InvalidInput(
            f"[write] datapoint {datapoint_id!r} has a vector in space {space.name!r} that holds a value that is not finite, or "
            f"whose norm is not within {least:g} and {MAX_MAGNITUDE:g}; send finite numbers"
        )


def _check_sparse(datapoint_id: str, space: Space, rows: SparseRows) -> None:
    if not (space.has_sparse and len(rows) == 1):
        raise InvalidInput(
            f"[write] datapoint {datapoint_id!r} has {len(rows)} sparse vectors in space {space.name!r}; expected one, in "
            "a space with a sparse side"
        )
    if len(rows.values) and not np.abs(rows.values).max() <= MAX_MAGNITUDE:
        raise InvalidInput(
            f"[write] datapoint {datapoint_id!r} has a sparse vector in space {space.name!r} that holds a value that is not "
            f"finite or above {MAX_MAGNITUDE:g}; send finite numbers"
        )
