"""What is known of each datapoint besides its vectors: id, restricts, numbers, crowding tag, metadata; and filters over it.

Rows are sorted by the UTF-8 bytes of the id, so an id is found by binary search and ties by row are ties by id.

Filters follow Vertex AI Vector Search: AND across namespaces, OR inside one. A query's allow tokens match only datapoints that
have one of them; a namespace named with deny tokens alone matches all that have none of those; a datapoint's own deny token
excludes it from any query that allows the token; deny wins. A number matches only where the datapoint has that namespace.
Source: https://cloud.google.com/vertex-ai/docs/vector-search/filtering
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.container import ContainerWriter, open_container
from matching.datapoint import Datapoint, Filter, NumericRestrict, NumericType, Operator, Restrict
from matching.errors import InvalidCatalog, InvalidQuery, NotFound
from matching.strings import StringColumn

KIND = "columns"
_FIELDS: dict[NumericType, str] = {"int64": "value_int", "float32": "value_float", "float64": "value_double"}


class AnyColumns(Protocol):
    """What is known of the rows of a version; `Columns` says what each of them tells."""

    def __len__(self) -> int: ...
    @property
    def n_live(self) -> int: ...
    @property
    def tags(self) -> NDArray[np.int32]: ...
    def datapoint_id(self, row: int) -> str: ...
    def datapoint_ids(self, rows: Sequence[int]) -> list[str]: ...
    def crowding_tags(self, rows: Sequence[int]) -> list[str | None]: ...
    def find(self, datapoint_id: str) -> int: ...
    def datapoint(self, row: int) -> Datapoint: ...
    def facets(self, namespace: str) -> dict[str, int]: ...
    def namespaces(self) -> tuple[str, ...]: ...
    def numeric_types(self) -> dict[str, NumericType]: ...
    def numeric_range(self, namespace: str) -> tuple[float, float] | None: ...
    def matching(self, wanted: Filter) -> NDArray[np.uint64]: ...
    def token_codes(self, namespace: str) -> NDArray[np.int32]: ...


class TokenRows(Protocol):
    """Inverted lists of one namespace and one side."""

    def rows_of(self, token: str) -> NDArray[np.int32]:
        """Return the rows that have a token, ascending."""
        ...


def restrict_tokens(
    passing: NDArray[np.uint64], n_rows: int, restrict: Restrict, allow: TokenRows | None, deny: TokenRows | None
) -> None:
    """Keep in a bitmap of n_rows, in place, the rows that pass a restrict, given what rows allow and deny in its namespace."""
    if restrict.allow:
        allowed = cpp_ext.new_bitmap(n_rows)
        for token in restrict.allow:
            if allow is not None:
                cpp_ext.set_rows(allowed, allow.rows_of(token))
        cpp_ext.intersect(passing, allowed)
        for token in restrict.allow:
            if deny is not None:
                cpp_ext.clear_rows(passing, deny.rows_of(token))
    for token in restrict.deny:
        if allow is not None:
            cpp_ext.clear_rows(passing, allow.rows_of(token))


def compared_value(wanted: NumericRestrict, held: NumericType) -> tuple[Operator, int | float]:
    """Return the operator of a numeric restrict, and its value as numbers of type `held` are compared with it.

    Raises:
        InvalidQuery: it has no operator, or its type is another.
    """
    if wanted.op is None:
        raise InvalidQuery(
            f"[filter] the numeric restrict on {wanted.namespace!r} has no op; give one of LESS, LESS_EQUAL, EQUAL, "
            "GREATER_EQUAL, GREATER, NOT_EQUAL"
        )
    if held != wanted.type:
        raise InvalidQuery(
            f"[filter] {wanted.namespace!r} holds {held} numbers and the query compares {wanted.type}; send the value as "
            f"{_FIELDS[held]}"
        )
    return wanted.op, float(np.float32(wanted.value)) if held == "float32" else wanted.value


class _Tokens:
    """Inverted lists of one namespace and one side: which rows allow (or deny) each token."""

    def __init__(self, vocabulary: StringColumn, offsets: NDArray[np.int64], rows: NDArray[np.int32]) -> None:
        self.vocabulary = vocabulary
        self.offsets = offsets
        self.rows = rows

    def rows_of(self, token: str) -> NDArray[np.int32]:
        at = self.vocabulary.find(token.encode())
        return self.rows[:0] if at < 0 else self.rows[self.offsets[at] : self.offsets[at + 1]]


class Columns:
    """The columns of one index version, memory-mapped. Immutable and thread-safe."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        self._ids = StringColumn.unpack(arrays, "ids")
        self._records = StringColumn.unpack(arrays, "records")
        self._tag_names = StringColumn.unpack(arrays, "tag_names")
        self.tags = arrays["tags"].view(np.int32)
        self._tag_codes = self.tags.data  # a single element is read faster than from an array
        self._allow: dict[str, _Tokens] = {}
        self._deny: dict[str, _Tokens] = {}
        for side, table in (("allow", self._allow), ("deny", self._deny)):
            for at, namespace in enumerate(_unpacked(arrays, f"{side}.names")):
                key = f"{side}.{at}"
                table[namespace] = _Tokens(
                    StringColumn.unpack(arrays, f"{key}.tokens"),
                    arrays[f"{key}.offsets"].view(np.int64),
                    arrays[f"{key}.rows"].view(np.int32),
                )
        self._numbers = {name: arrays[f"number.{at}"] for at, name in enumerate(_unpacked(arrays, "number.names"))}
        self._numbered = {name: arrays[f"numbered.{at}"].view(np.uint64) for at, name in enumerate(self._numbers)}
        self._codes: dict[str, NDArray[np.int32]] = {}

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Columns:
        """Map the columns of a version.

        Raises:
            CorruptArtifact: the file is not what was sealed.
        """
        return cls(open_container(path, KIND, verify=verify))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def n_live(self) -> int:
        """Number of rows that may be answered: all of them."""
        return len(self)

    @property
    def ids(self) -> StringColumn:
        """The ids of all rows, ascending."""
        return self._ids

    def datapoint_id(self, row: int) -> str:
        """Return the id of a row."""
        return self._ids[row].decode()

    def datapoint_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of rows."""
        return self._ids.texts(rows)

    def crowding_tags(self, rows: Sequence[int]) -> list[str | None]:
        """Return the crowding tags of rows."""
        codes = self._tag_codes
        return [None if codes[row] < 0 else self._tag_names[codes[row]].decode() for row in rows]

    @cached_property
    def tag_codes(self) -> dict[str, int]:
        """The code in `tags` of each crowding tag."""
        return {self._tag_names[code].decode(): code for code in range(len(self._tag_names))}

    def find(self, datapoint_id: str) -> int:
        """Return the row of an id, or -1."""
        return self._ids.find(datapoint_id.encode(errors="surrogatepass"))

    def datapoint(self, row: int) -> Datapoint:
        """Return all that is known of a row besides its vectors."""
        return _from_record(self.datapoint_id(row), json.loads(self._records[row]))

    def facets(self, namespace: str, *, without: NDArray[np.uint64] | None = None) -> dict[str, int]:
        """Return how many datapoints have each token of a namespace, most frequent first; those of a bitmap do not count.

        Raises:
            NotFound: no datapoint has the namespace.
        """
        if namespace not in self._allow:
            raise NotFound(f"[facets] no namespace {namespace!r}; there are {sorted(self._allow)}")
        tokens = self._allow[namespace]
        ends = tokens.offsets
        if without is not None and len(tokens.rows):
            left_out = np.unpackbits(without.view(np.uint8), bitorder="little")[tokens.rows]
            ends = ends - np.concatenate([[0], np.cumsum(left_out, dtype=np.int64)])[ends]
        counts = np.diff(ends)
        order = np.argsort(-counts, kind="stable")
        return {tokens.vocabulary[int(at)].decode(): int(counts[at]) for at in order}

    def namespaces(self) -> tuple[str, ...]:
        """Return the token namespaces that any datapoint has."""
        return tuple(sorted(self._allow.keys() | self._deny.keys()))

    def numeric_types(self) -> dict[str, NumericType]:
        """Return the type of each numeric namespace."""
        return {name: cast(NumericType, values.dtype.name) for name, values in self._numbers.items()}

    def numeric_range(self, namespace: str, *, without: NDArray[np.uint64] | None = None) -> tuple[float, float] | None:
        """Return the least and the greatest number of a namespace, without the datapoints of a bitmap; None where none is left.

        Raises:
            NotFound: no datapoint has the namespace.
        """
        if namespace not in self._numbers:
            raise NotFound(f"[facets] no numeric namespace {namespace!r}; there are {sorted(self._numbers)}")
        numbered = self._numbered[namespace]
        rows = cpp_ext.rows_of(numbered if without is None else numbered & ~without, len(self))
        held = self._numbers[namespace][rows]
        return (float(held.min()), float(held.max())) if len(held) else None

    def matching(self, wanted: Filter) -> NDArray[np.uint64]:
        """Return the bitmap of the rows that pass a filter.

        Raises:
            InvalidQuery: a number without operator, or of another type than the namespace holds.
        """
        passing = cpp_ext.new_bitmap(len(self), fill=True)
        for restrict in wanted.restricts:
            namespace = restrict.namespace
            restrict_tokens(passing, len(self), restrict, self._allow.get(namespace), self._deny.get(namespace))
        for number in wanted.numeric_restricts:
            self._intersect_number(passing, number)
        return passing

    def token_codes(self, namespace: str) -> NDArray[np.int32]:
        """Return a number for the first token, in the order of their bytes, that each row has in a namespace; -1 for none.

        Returns:
            int32[n]; the same number for the same token. Made at the first call, and kept.
        """
        codes = self._codes.get(namespace)
        if codes is None:
            codes = np.full(len(self), -1, np.int32)
            tokens = self._allow.get(namespace)
            if tokens is not None:
                counts = np.diff(tokens.offsets)
                of = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
                codes[tokens.rows[::-1]] = of[::-1]  # of several the first is written last
            self._codes[namespace] = codes
        return codes

    def token_code(self, namespace: str, token: str) -> int:
        """Return the number of a token in `token_codes`, -1 where no row has it."""
        tokens = self._allow.get(namespace)
        return -1 if tokens is None else tokens.vocabulary.find(token.encode())

    def n_tokens(self, namespace: str) -> int:
        """Return how many tokens a namespace has."""
        tokens = self._allow.get(namespace)
        return 0 if tokens is None else len(tokens.vocabulary)

    def _intersect_number(self, passing: NDArray[np.uint64], wanted: NumericRestrict) -> None:
        values = self._numbers.get(wanted.namespace)
        held = wanted.type if values is None else cast(NumericType, values.dtype.name)
        op, value = compared_value(wanted, held)
        if values is None:
            passing[:] = 0
            return
        cpp_ext.intersect(passing, self._numbered[wanted.namespace])
        cpp_ext.compare(passing, cast(NDArray[np.float64], values), op, value)


class ColumnsBuilder:
    """Gathers datapoints and writes their columns.

    Datapoints come in any order; `write` sorts them. Inverted lists are held in memory (4 bytes a token), records on disk.
    """

    def __init__(self, staging: Path) -> None:
        """Keep the records in the file `staging` until `write`."""
        self._staging = staging
        self._file = staging.open("wb")
        self._ends = array("q", [0])
        self._ids: list[bytes] = []

    def add(self, datapoint: Datapoint) -> None:
        """Add one datapoint; its id must be new."""
        record = json.dumps(_to_record(datapoint), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        self._file.write(record)
        self._ends.append(self._ends[-1] + len(record))
        self._ids.append(datapoint.datapoint_id.encode())

    def __len__(self) -> int:
        return len(self._ids)

    def order(self) -> NDArray[np.int64]:
        """Return, for each row of the sorted columns, the position at which its datapoint was added.

        Raises:
            InvalidCatalog: two datapoints have one id.
        """
        ids = self._ids
        order = sorted(range(len(ids)), key=ids.__getitem__)
        for before, after in itertools.pairwise(order):
            if ids[before] == ids[after]:
                raise InvalidCatalog(
                    f"[build] two datapoints have the id {ids[after].decode()!r}; ids must be unique: remove one or reject it"
                )
        return np.asarray(order, np.int64)

    def write(self, path: Path) -> None:
        """Sort, invert and seal the columns at `path`.

        Raises:
            InvalidCatalog: two datapoints have one id, or a numeric namespace mixes types.
        """
        self._file.close()
        order = self.order()
        staged = np.memmap(self._staging, np.uint8, "r") if self._ends[-1] else np.empty(0, np.uint8)
        ends = self._ends

        def record_at(position: int) -> bytes:
            return bytes(staged[ends[position] : ends[position + 1]])

        inverted = _Inverted(len(order))
        for row, position in enumerate(order):
            inverted.add(row, _from_record(self._ids[position].decode(), json.loads(record_at(int(position)))))
        arrays = StringColumn.pack(self._ids[position] for position in order).arrays("ids") | inverted.arrays()
        lengths = np.diff(np.frombuffer(ends, np.int64))[order]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        sizes = {name: (column.dtype.name, column.shape) for name, column in arrays.items()}
        sizes |= {"records.offsets": ("int64", offsets.shape), "records.bytes": ("uint8", (int(offsets[-1]),))}
        writer = ContainerWriter(path, KIND, sizes)
        for name, column in arrays.items():
            writer.arrays[name][...] = column
        writer.arrays["records.offsets"][...] = offsets
        records = writer.arrays["records.bytes"]
        for row, position in enumerate(order):
            records[offsets[row] : offsets[row + 1]] = np.frombuffer(record_at(int(position)), np.uint8)
        writer.seal()
        self.close()

    def close(self) -> None:
        """Remove what is staged; closing twice is harmless."""
        self._file.close()
        self._staging.unlink(missing_ok=True)


class _Inverted:
    """Postings, numbers and tags, filled in row order."""

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows
        self._sides: dict[str, dict[str, dict[str, array[int]]]] = {"allow": {}, "deny": {}}
        self._numbers: dict[str, tuple[NumericType, array[int], list[int | float]]] = {}
        self._tags = np.full(n_rows, -1, np.int32)
        self._tag_codes: dict[str, int] = {}

    def add(self, row: int, datapoint: Datapoint) -> None:
        for restrict in datapoint.restricts:
            for side, tokens in (("allow", restrict.allow), ("deny", restrict.deny)):
                for token in dict.fromkeys(tokens):
                    lists = self._sides[side].setdefault(restrict.namespace, {})
                    lists.setdefault(token, array("i")).append(row)
        for number in datapoint.numeric_restricts:
            kind, rows, values = self._numbers.setdefault(number.namespace, (number.type, array("i"), []))
            if kind != number.type:
                raise InvalidCatalog(
                    f"[build] datapoint {datapoint.datapoint_id!r} has {number.type} in the numeric namespace "
                    f"{number.namespace!r}, others {kind}; use one type a namespace"
                )
            rows.append(row)
            values.append(number.value)
        if datapoint.crowding_tag is not None:
            self._tags[row] = self._tag_codes.setdefault(datapoint.crowding_tag, len(self._tag_codes))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        out: dict[str, NDArray[np.generic]] = {"tags": self._tags}
        out |= StringColumn.pack(tag.encode() for tag in self._tag_codes).arrays("tag_names")
        for side, namespaces in self._sides.items():
            out |= StringColumn.pack(name.encode() for name in namespaces).arrays(f"{side}.names")
            for at, lists in enumerate(namespaces.values()):
                tokens = sorted(lists, key=str.encode)
                out |= StringColumn.pack(token.encode() for token in tokens).arrays(f"{side}.{at}.tokens")
                counts = [len(lists[token]) for token in tokens]
                out[f"{side}.{at}.offsets"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
                out[f"{side}.{at}.rows"] = np.concatenate([np.frombuffer(lists[token], np.int32) for token in tokens])
        out |= StringColumn.pack(name.encode() for name in self._numbers).arrays("number.names")
        for at, (kind, rows, values) in enumerate(self._numbers.values()):
            column = np.zeros(self._n_rows, kind)
            column[np.frombuffer(rows, np.int32)] = values
            numbered = cpp_ext.new_bitmap(self._n_rows)
            cpp_ext.set_rows(numbered, np.frombuffer(rows, np.int32))
            out[f"number.{at}"], out[f"numbered.{at}"] = column, numbered
        return out


def _unpacked(arrays: Mapping[str, NDArray[np.generic]], name: str) -> list[str]:
    column = StringColumn.unpack(arrays, name)
    return [column[at].decode() for at in range(len(column))]


def _to_record(datapoint: Datapoint) -> dict[str, object]:
    return {
        "restricts": [[r.namespace, list(r.allow), list(r.deny)] for r in datapoint.restricts],
        "numbers": [[r.namespace, r.value, r.type] for r in datapoint.numeric_restricts],
        "tag": datapoint.crowding_tag,
        "metadata": dict(datapoint.metadata),
    }


def _from_record(datapoint_id: str, record: Mapping[str, object]) -> Datapoint:
    restricts = cast(Sequence[tuple[str, list[str], list[str]]], record["restricts"])
    numbers = cast(Sequence[tuple[str, float, NumericType]], record["numbers"])
    return Datapoint(
        datapoint_id,
        tuple(Restrict(namespace, tuple(allow), tuple(deny)) for namespace, allow, deny in restricts),
        tuple(NumericRestrict(namespace, value, kind) for namespace, value, kind in numbers),
        cast("str | None", record["tag"]),
        cast(dict[str, object], record["metadata"]),
    )
