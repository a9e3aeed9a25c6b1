"""The columns of a base version with what was written since laid over them.

Every write leaves a record: a datapoint as it is from then on, or that it is gone. A snapshot is the first so many records; one
of them is current when no later one of the snapshot has its id. Rows of the base keep their numbers, rows that were added since
follow from the next multiple of 64 on, and a changed datapoint keeps its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.columns import Columns, compared_value, restrict_tokens
from matching.datapoint import Datapoint, Filter, NumericRestrict, NumericType
from matching.errors import NotFound
from matching.live.growing import Growing

Bitmap = NDArray[np.uint64]
WORD = 64


class _Postings:
    """Which records have each token of one namespace, ascending."""

    def __init__(self) -> None:
        self.records: dict[str, Growing[np.int32]] = {}

    def add(self, token: str, record: int) -> None:
        self.records.setdefault(token, Growing(np.int32)).append(record)


class _PostingsView:
    """The postings of the first so many records."""

    def __init__(self, postings: _Postings, n_records: int) -> None:
        self._postings = postings
        self._n_records = n_records

    def rows_of(self, token: str) -> NDArray[np.int32]:
        held = self._postings.records.get(token)
        return np.empty(0, np.int32) if held is None else held.below(self._n_records)


class _Numbers:
    """The numbers of one namespace: of record records[i] it is values[i]."""

    def __init__(self, kind: NumericType) -> None:
        self.kind: NumericType = kind
        self.records: Growing[np.int32] = Growing(np.int32)
        self.values: Growing[np.generic] = Growing(np.dtype(kind).type)


class Records:
    """What was written since the base was sealed. One thread appends; views are for any."""

    def __init__(self, base: Columns) -> None:
        self.base = base
        self.first_row = n_words(len(base)) * WORD  # of those added
        self.types = dict(base.numeric_types())
        self._datapoints: list[Datapoint | None] = []  # None: gone
        self._rows: Growing[np.int64] = Growing(np.int64)  # of each record; -1: gone
        self._tags: Growing[np.int32] = Growing(np.int32)
        self._tag_codes: dict[str, int] = {}
        self._of_id: dict[str, list[int]] = {}
        self._of_row: dict[int, list[int]] = {}
        self._added_ids: list[str] = []  # of rows from first_row on
        self._allow: dict[str, _Postings] = {}
        self._deny: dict[str, _Postings] = {}
        self._numbers: dict[str, _Numbers] = {}
        self._n_rows = self.first_row
        self._current = np.zeros(0, np.uint64)  # bitmap of records
        self._overlaid = cpp_ext.new_bitmap(len(base))  # base rows whose columns are no longer the base's
        self._live = _padded(cpp_ext.new_bitmap(len(base), fill=True), self.first_row)

    def __len__(self) -> int:
        return len(self._datapoints)

    def row(self, datapoint_id: str) -> int:
        """Return the row of an id as of now, or -1."""
        chain = self._of_id.get(datapoint_id)
        return self.base.find(datapoint_id) if chain is None else int(self._rows.view()[chain[-1]])

    def datapoint(self, datapoint_id: str) -> Datapoint | None:
        """Return a datapoint as of now, None where it is not there."""
        chain = self._of_id.get(datapoint_id)
        if chain is not None:
            return self._datapoints[chain[-1]]
        row = self.base.find(datapoint_id)
        return None if row < 0 else self.base.datapoint(row)

    def add(self, datapoint: Datapoint) -> int:
        """Put a datapoint into a row of its own, which is returned; the row it had is live no more."""
        self._retire(self.row(datapoint.datapoint_id))
        row = self._n_rows
        self._n_rows += 1
        if self._n_rows > len(self._live) * WORD:
            self._live = _padded(self._live, max(2 * len(self._live), 1) * WORD)
        cpp_ext.set_rows(self._live, np.asarray([row]))
        self._added_ids.append(datapoint.datapoint_id)
        self._record(datapoint.datapoint_id, datapoint, row)
        return row

    def change(self, datapoint: Datapoint) -> None:
        """Give a datapoint that is there other columns."""
        self._record(datapoint.datapoint_id, datapoint, self.row(datapoint.datapoint_id))

    def remove(self, datapoint_id: str) -> None:
        """Forget a datapoint that is there."""
        self._retire(self.row(datapoint_id))
        self._record(datapoint_id, None, -1)

    def view(self) -> LiveColumns:
        """Return the columns as of now, for good."""
        live = self._live.copy()
        return LiveColumns(self, len(self), self._n_rows, live, self._current.copy(), self._overlaid.copy())

    def _retire(self, row: int) -> None:
        if row < 0:
            return
        cpp_ext.clear_rows(self._live, np.asarray([row]))
        if row < len(self.base):
            cpp_ext.set_rows(self._overlaid, np.asarray([row]))

    def _record(self, datapoint_id: str, datapoint: Datapoint | None, row: int) -> None:
        record = len(self._datapoints)
        chain = self._of_id.setdefault(datapoint_id, [])
        if record >= len(self._current) * WORD:
            self._current = _padded(self._current, max(2 * len(self._current), 1) * WORD)
        if chain:
            cpp_ext.clear_rows(self._current, np.asarray([chain[-1]]))
        cpp_ext.set_rows(self._current, np.asarray([record]))
        self._rows.append(row)
        tag = None if datapoint is None else datapoint.crowding_tag
        self._tags.append(-1 if tag is None else self._tag_code(tag))
        if datapoint is not None:
            self._invert(record, datapoint)
            self._of_row.setdefault(row, []).append(record)
            if row < len(self.base):
                cpp_ext.set_rows(self._overlaid, np.asarray([row]))
        self._datapoints.append(datapoint)
        chain.append(record)

    def _tag_code(self, tag: str) -> int:
        of_base = self.base.tag_codes
        return of_base[tag] if tag in of_base else self._tag_codes.setdefault(tag, len(of_base) + len(self._tag_codes))

    def _invert(self, record: int, datapoint: Datapoint) -> None:
        for restrict in datapoint.restricts:
            for side, tokens in ((self._allow, restrict.allow), (self._deny, restrict.deny)):
                for token in dict.fromkeys(tokens):
                    side.setdefault(restrict.namespace, _Postings()).add(token, record)
        for number in datapoint.numeric_restricts:
            self.types.setdefault(number.namespace, number.type)
            held = self._numbers.setdefault(number.namespace, _Numbers(number.type))
            held.values.append(number.value)
            held.records.append(record)


class LiveColumns:
    """What `matching.columns.Columns` tells, of a base and the first so many records over it. Immutable and thread-safe."""

    def __init__(
        self, records: Records, n_records: int, n_rows: int, live: Bitmap, current: Bitmap, overlaid: Bitmap
    ) -> None:
        self._base = records.base
        self._records = records
        self._n_records = n_records
        self._n_rows = n_rows
        self._current = current
        self._overlaid = overlaid
        self.live = live[: n_words(n_rows)]
        self.n_live = cpp_ext.count(self.live, n_rows)

    def __len__(self) -> int:
        """Return the number of rows, of which those that are not live are never answered."""
        return self._n_rows

    def datapoint_id(self, row: int) -> str:
        """Return the id of a row."""
        if row < len(self._base):
            return self._base.datapoint_id(row)
        return self._records._added_ids[row - self._records.first_row]

    def datapoint_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of rows."""
        return [self.datapoint_id(row) for row in rows]

    def crowding_tags(self, rows: Sequence[int]) -> list[str | None]:
        """Return the crowding tags of live rows."""
        of_base = [row if row < len(self._base) else 0 for row in rows]
        tags: list[str | None] = self._base.crowding_tags(of_base) if len(self._base) else [None] * len(rows)
        for at, row in enumerate(rows):
            datapoint = self._written(row)
            if datapoint is not None:
                tags[at] = datapoint.crowding_tag
        return tags

    def find(self, datapoint_id: str) -> int:
        """Return the row of an id, or -1."""
        record = self._last(self._records._of_id.get(datapoint_id))
        return self._base.find(datapoint_id) if record < 0 else int(self._records._rows.view()[record])

    def datapoint(self, row: int) -> Datapoint:
        """Return all that is known of a live row besides its vectors."""
        return self._written(row) or self._base.datapoint(row)

    def matching(self, wanted: Filter) -> Bitmap:
        """Return the bitmap of the live rows that pass a filter.

        Raises:
            InvalidQuery: a number without operator, or of another type than the namespace holds.
        """
        if not wanted:
            return cast(Bitmap, self.live.copy())
        passing = _padded(self._base.matching(wanted) & ~self._overlaid, self._n_rows)
        cpp_ext.set_rows(passing, self._rows_of(self._matching_records(wanted)))
        return passing

    @cached_property
    def tags(self) -> NDArray[np.int32]:
        """Codes of the crowding tags of all rows, int32[n]; -1 for none."""
        tags = np.full(self._n_rows, -1, np.int32)
        tags[: len(self._base)] = self._base.tags
        current = self._present(self._current)
        tags[self._records._rows.view()[current]] = self._records._tags.view()[current]
        return tags

    def facets(self, namespace: str) -> dict[str, int]:
        """Return how many live datapoints have each token of a namespace, most frequent first.

        Raises:
            NotFound: no datapoint has the namespace.
        """
        held = self._records._allow.get(namespace)
        try:
            counts = self._base.facets(namespace, without=self._overlaid)
        except NotFound:
            if held is None:
                raise
            counts = {}
        for token, records in [] if held is None else list(held.records.items()):
            is_current = _bits(self._current, records.below(self._n_records))
            counts[token] = counts.get(token, 0) + int(np.count_nonzero(is_current))
        return dict(sorted(((token, n) for token, n in counts.items() if n), key=lambda each: -each[1]))

    def namespaces(self) -> tuple[str, ...]:
        """Return the token namespaces that any datapoint has or had."""
        return tuple(sorted({*self._base.namespaces(), *self._records._allow, *self._records._deny}))

    def numeric_types(self) -> dict[str, NumericType]:
        """Return the type of each numeric namespace."""
        return dict(self._records.types)

    def numeric_range(self, namespace: str) -> tuple[float, float] | None:
        """Return the least and the greatest number of a namespace; None where no live datapoint has one.

        Raises:
            NotFound: no datapoint has or had the namespace.
        """
        if namespace not in self._records.types:
            raise NotFound(f"[facets] no numeric namespace {namespace!r}; there are {sorted(self._records.types)}")
        ends: list[float] = []
        if namespace in self._base.numeric_types():
            ends += self._base.numeric_range(namespace, without=self._overlaid) or ()
        held = self._records._numbers.get(namespace)
        if held is not None:
            records = held.records.below(self._n_records)
            values = held.values.view(len(records))[_bits(self._current, records)]
            ends += [float(values.min()), float(values.max())] if len(values) else []
        return (min(ends), max(ends)) if ends else None

    def _last(self, chain: list[int] | None) -> int:
        """Return the newest record of a chain that this snapshot has, or -1."""
        for record in reversed(chain or ()):
            if record < self._n_records:
                return record
        return -1

    def _written(self, row: int) -> Datapoint | None:
        record = self._last(self._records._of_row.get(row))
        return None if record < 0 else self._records._datapoints[record]

    def _matching_records(self, wanted: Filter) -> Bitmap:
        n = self._n_records
        records = self._records
        passing = cpp_ext.new_bitmap(n, fill=True)
        for restrict in wanted.restricts:
            sides = (table.get(restrict.namespace) for table in (records._allow, records._deny))
            allow, deny = (None if side is None else _PostingsView(side, n) for side in sides)
            restrict_tokens(passing, n, restrict, allow, deny)
        for number in wanted.numeric_restricts:
            self._intersect_number(passing, number)
        return passing

    def _intersect_number(self, passing: Bitmap, wanted: NumericRestrict) -> None:
        held = self._records._numbers.get(wanted.namespace)
        op, value = compared_value(wanted, self._records.types.get(wanted.namespace, wanted.type))
        if held is None:
            passing[:] = 0
            return
        records = held.records.below(self._n_records)
        n = len(records)
        bits = cpp_ext.new_bitmap(n, fill=True)
        cpp_ext.compare(bits, cast("NDArray[np.float64]", held.values.view(n)), op, value)
        numbered = cpp_ext.new_bitmap(self._n_records)
        cpp_ext.set_rows(numbered, records[cpp_ext.rows_of(bits, n)])
        cpp_ext.intersect(passing, numbered)

    def _present(self, records: Bitmap) -> NDArray[np.int64]:
        """Return those of a bitmap of records that are current and no deletion."""
        n = n_words(self._n_records)
        rows = cpp_ext.rows_of(records[:n] & self._current[:n], self._n_records)
        return rows[self._records._rows.view()[rows] >= 0]

    def _rows_of(self, records: Bitmap) -> NDArray[np.int64]:
        return self._records._rows.view()[self._present(records)]


def n_words(n_rows: int) -> int:
    """Return how many words a bitmap of so many rows has."""
    return -(-n_rows // WORD)


def _padded(bitmap: Bitmap, n_rows: int) -> Bitmap:
    out = np.zeros(n_words(n_rows), np.uint64)
    out[: len(bitmap)] = bitmap
    return out


def _bits(bitmap: Bitmap, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
    shifts = (rows % WORD).astype(np.uint64)
    return cast("NDArray[np.bool_]", (bitmap[rows // WORD] >> shifts & np.uint64(1)) != 0)
