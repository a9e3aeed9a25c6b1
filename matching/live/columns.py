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
from matching.live.write import pack_datapoint, unpack_datapoint

Bitmap = NDArray[np.uint64]
WORD = 64
_BITS = tuple(np.uint64(1 << at) for at in range(WORD))


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
    """What was written since the base was sealed. One thread appends; views are for any.

    A record is numbers in arrays and a few strings, nothing that the garbage collector has to visit: its pauses would grow with
    what was written, and every search waits for them.
    """

    def __init__(self, base: Columns) -> None:
        self.base = base
        self.first_row = n_words(len(base)) * WORD  # of those added
        self.types = dict(base.numeric_types())
        self._packed: list[bytes | None] = []  # datapoints; None: gone
        self._rows: Growing[np.int64] = Growing(np.int64)  # of each record; -1: gone
        self._before: Growing[np.int32] = Growing(np.int32)  # the record of the same id before it, or -1
        self._tags: Growing[np.int32] = Growing(np.int32)
        self._tag_codes: dict[str, int] = {}
        self._tag_names: list[str | None] = []  # of each record
        self._of_id: dict[str, int] = {}  # the newest record
        self._of_row: dict[int, int] = {}
        self._added_ids: list[str] = []  # of rows from first_row on
        self._allow: dict[str, _Postings] = {}
        self._deny: dict[str, _Postings] = {}
        self._numbers: dict[str, _Numbers] = {}
        self._n_rows = self.first_row
        self._current = np.zeros(0, np.uint64)  # bitmap of records
        self._overlaid = cpp_ext.new_bitmap(len(base))  # base rows whose columns are no longer the base's
        self._live = _padded(cpp_ext.new_bitmap(len(base), fill=True), self.first_row)

    def __len__(self) -> int:
        return len(self._packed)

    def row(self, datapoint_id: str) -> int:
        """Return the row of an id as of now, or -1."""
        record = self._of_id.get(datapoint_id)
        return self.base.find(datapoint_id) if record is None else int(self._rows[record])

    def datapoint(self, datapoint_id: str) -> Datapoint | None:
        """Return a datapoint as of now, None where it is not there."""
        record = self._of_id.get(datapoint_id)
        if record is not None:
            packed = self._packed[record]
            return None if packed is None else unpack_datapoint(packed)
        row = self.base.find(datapoint_id)
        return None if row < 0 else self.base.datapoint(row)

    def add(self, datapoint: Datapoint, packed: bytes | None = None) -> int:
        """Put a datapoint into a row of its own, which is returned; the row it had is live no more.

        Args:
            packed: what `pack_datapoint` would return, where it is known.
        """
        self._retire(self.row(datapoint.datapoint_id))
        row = self._n_rows
        self._n_rows += 1
        if self._n_rows > len(self._live) * WORD:
            self._live = _padded(self._live, max(2 * len(self._live), 1) * WORD)
        _set(self._live, row)
        self._added_ids.append(datapoint.datapoint_id)
        self._record_one(datapoint, row, pack_datapoint(datapoint) if packed is None else packed)
        return row

    def change(self, datapoint: Datapoint) -> None:
        """Give a datapoint that is there other columns."""
        self._record_one(datapoint, self.row(datapoint.datapoint_id), pack_datapoint(datapoint))

    def remove(self, datapoint_id: str) -> None:
        """Forget a datapoint that is there."""
        self._retire(self.row(datapoint_id))
        self._record(datapoint_id, -1, None, None)

    def view(self) -> LiveColumns:
        """Return the columns as of now, for good."""
        live = self._live.copy()
        return LiveColumns(self, len(self), self._n_rows, live, self._current.copy(), self._overlaid.copy())

    def last(self, record: int | None, n_records: int) -> int:
        """Return the newest of the first so many records that has the id of a later one, or -1."""
        record = -1 if record is None else record
        while record >= n_records:
            record = int(self._before[record])
        return record

    def _retire(self, row: int) -> None:
        if row < 0:
            return
        _clear(self._live, row)
        if row < len(self.base):
            _set(self._overlaid, row)

    def _record_one(self, datapoint: Datapoint, row: int, packed: bytes) -> None:
        record = len(self)
        self._invert(record, datapoint)
        if row < len(self.base):
            _set(self._overlaid, row)
        self._record(datapoint.datapoint_id, row, packed, datapoint.crowding_tag)
        self._of_row[row] = record

    def _record(self, datapoint_id: str, row: int, packed: bytes | None, tag: str | None) -> None:
        record = len(self)
        before = self._of_id.get(datapoint_id, -1)
        if record >= len(self._current) * WORD:
            self._current = _padded(self._current, max(2 * len(self._current), 1) * WORD)
        if before >= 0:
            _clear(self._current, before)
        _set(self._current, record)
        self._rows.append(row)
        self._before.append(before)
        self._tags.append(-1 if tag is None else self._tag_code(tag))
        self._tag_names.append(tag)
        self._packed.append(packed)
        self._of_id[datapoint_id] = record  # who finds it finds the rest

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
        self._codes: dict[str, NDArray[np.int32]] = {}
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
            record = self._written(row)
            if record >= 0:
                tags[at] = self._records._tag_names[record]
        return tags

    def find(self, datapoint_id: str) -> int:
        """Return the row of an id, or -1."""
        record = self._records.last(self._records._of_id.get(datapoint_id), self._n_records)
        return self._base.find(datapoint_id) if record < 0 else int(self._records._rows[record])

    def datapoint(self, row: int) -> Datapoint:
        """Return all that is known of a live row besides its vectors."""
        packed = self._records._packed[record] if (record := self._written(row)) >= 0 else None
        return self._base.datapoint(row) if packed is None else unpack_datapoint(packed)

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

    def token_codes(self, namespace: str) -> NDArray[np.int32]:
        """Return a number for the first token that each live row has in a namespace, as `Columns` does; -1 for none."""
        codes = self._codes.get(namespace)
        if codes is None:
            codes = self._codes[namespace] = self._new_codes(namespace)
        return codes

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

    def _written(self, row: int) -> int:
        """Return the newest record of a live row, or -1 where it is as the base has it."""
        return self._records.last(self._records._of_row.get(row), self._n_records)

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

    def _new_codes(self, namespace: str) -> NDArray[np.int32]:
        codes = np.full(self._n_rows, -1, np.int32)
        codes[: len(self._base)] = self._base.token_codes(namespace)
        codes[self._records._rows.view()[self._present(self._current)]] = -1
        held = self._records._allow.get(namespace)
        tokens = [] if held is None else sorted(held.records.items(), key=lambda each: each[0].encode(), reverse=True)
        later = self._base.n_tokens(namespace) + len(tokens)
        for at, (token, postings) in enumerate(tokens):  # of several the first is written last
            known = self._base.token_code(namespace, token)
            own = cpp_ext.new_bitmap(self._n_records)
            cpp_ext.set_rows(own, postings.below(self._n_records))
            codes[self._rows_of(own)] = known if known >= 0 else later - at
        return codes

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


def _set(bitmap: Bitmap, row: int) -> None:
    bitmap[row >> 6] |= _BITS[row & 63]


def _clear(bitmap: Bitmap, row: int) -> None:
    bitmap[row >> 6] &= ~_BITS[row & 63]


def _bits(bitmap: Bitmap, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
    shifts = (rows % WORD).astype(np.uint64)
    return cast("NDArray[np.bool_]", (bitmap[rows // WORD] >> shifts & np.uint64(1)) != 0)
