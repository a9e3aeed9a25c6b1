"""The writes that a log carries: a datapoint with its vectors, what to change of one, one to delete, types to keep to.

Layout, little-endian: version u8, kind u8 (`U` upsert, `C` change, `D` delete, `T` types), JSON bytes u32, JSON, then the arrays
of an upsert in the order in which the JSON names them, without padding.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matching.datapoint import Datapoint, NumericRestrict, NumericType, Restrict, SparseRows
from matching.errors import CorruptArtifact, InvalidInput

VERSION = 1
FieldName = Literal["restricts", "numeric_restricts", "crowding_tag", "metadata"]
_FIELDS: tuple[FieldName, ...] = ("restricts", "numeric_restricts", "crowding_tag", "metadata")
_HEAD = struct.Struct("<BcI")
_DTYPES = {"vectors": ("<f4",), "sparse": ("<i8", "<i8", "<f4")}


@dataclass(frozen=True, slots=True, eq=False)
class Upsert:
    """A datapoint in place of whatever had its id.

    Attributes:
        vectors: space to float32[m, dim]; m is 1 but where a datapoint may own none or several.
        sparse: space to the sparse vectors beside those.
    """

    datapoint: Datapoint
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    sparse: Mapping[str, SparseRows] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """New columns for a datapoint that is there; its vectors stay.

    Attributes:
        datapoint: its id, and the new values.
        fields: which of them to take; the others stay as they were.
    """

    datapoint: Datapoint
    fields: frozenset[FieldName]


@dataclass(frozen=True, slots=True)
class Delete:
    """A datapoint to forget; it need not be there."""

    datapoint_id: str


Write = Upsert | Change | Delete


@dataclass(frozen=True, slots=True)
class Types:
    """What numbers the new numeric namespaces of the writes to come hold. Of several for one namespace the first holds."""

    types: Mapping[str, NumericType]


def pack_write(write: Write | Types) -> bytes:
    """Return the payload of a write; arrays and strings come back from it bit for bit.

    Raises:
        InvalidInput: metadata is no JSON object, a number is not finite, a string is no Unicode text, or an array is not
            float32[m, dim] or rows of int64 and float32.
    """
    if isinstance(write, Types):
        return _packed(b"T", {"types": dict(write.types)}, [])
    if isinstance(write, Delete):
        return _packed(b"D", {"id": write.datapoint_id}, [])
    if isinstance(write, Change):
        unknown = sorted(set(write.fields) - set(_FIELDS))
        if unknown or not write.fields:
            raise InvalidInput(
                f"[pack] fields are {sorted(write.fields)}; expected one or more of {', '.join(_FIELDS)}"
            )
        return _packed(b"C", _told(write.datapoint, [name for name in _FIELDS if name in write.fields]), [])
    arrays: list[NDArray[Any]] = []
    shapes: list[list[object]] = []
    for space, vectors in write.vectors.items():
        if vectors.dtype != np.float32 or vectors.ndim != 2:
            raise InvalidInput(
                f"[pack] vectors of {space!r} are {vectors.dtype}{list(vectors.shape)}; expected float32[m, dim]"
            )
        arrays.append(vectors)
        shapes.append(["vectors", space, *vectors.shape])
    for space, rows in write.sparse.items():
        found = ", ".join(str(array.dtype) for array in (rows.offsets, rows.dimensions, rows.values))
        if found != "int64, int64, float32" or rows.dimensions.shape != rows.values.shape:
            raise InvalidInput(
                f"[pack] sparse rows of {space!r} are {found}, {len(rows.dimensions)} dimensions and {len(rows.values)} values; "
                "expected int64, int64, float32 and as many of both"
            )
        arrays += [rows.offsets, rows.dimensions, rows.values]
        shapes.append(["sparse", space, len(rows.offsets), len(rows.dimensions)])
    return _packed(b"U", {**_told(write.datapoint, _FIELDS), "arrays": shapes}, arrays)


def unpack_write(payload: bytes) -> Write | Types:
    """Return the write that a payload carries; its arrays are read-only views of the payload.

    Raises:
        CorruptArtifact: it carries none, or one of a later version.
    """
    if payload[:1] and payload[0] != VERSION:
        raise CorruptArtifact(
            f"[unpack] write format {payload[0]} is not {VERSION}, the one this program reads; run the program that wrote it"
        )
    try:
        _, kind, n_bytes = _HEAD.unpack_from(payload)
        told = json.loads(payload[_HEAD.size : _HEAD.size + n_bytes])
        write = _unpacked(kind, told, payload, _HEAD.size + n_bytes)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"[unpack] a payload of {len(payload)} bytes is no write: {error}; expected what `pack_write` returns"
        ) from error
    return write


def pack_datapoint(datapoint: Datapoint) -> bytes:
    """Return a datapoint in bytes, as the payload of an upsert has it.

    Raises:
        InvalidInput: as `pack_write`.
    """
    return _text(_told(datapoint, _FIELDS))


def unpack_datapoint(packed: bytes) -> Datapoint:
    """Return the datapoint that `pack_datapoint` packed, or `packed_datapoint` took from a payload."""
    return _datapoint(json.loads(packed))


def packed_datapoint(payload: bytes) -> bytes:
    """Return the datapoint of the payload of an upsert as it stands there."""
    return payload[_HEAD.size : _HEAD.size + _HEAD.unpack_from(payload)[2]]


def _packed(kind: bytes, told: Mapping[str, object], arrays: Sequence[NDArray[Any]]) -> bytes:
    text = _text(told)
    raw = [array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes() for array in arrays]
    return b"".join((_HEAD.pack(VERSION, kind, len(text)), text, *raw))


def _text(told: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"[pack] a datapoint cannot be kept: {error}; expected Unicode text and finite numbers"
        ) from error


def _unpacked(kind: bytes, told: dict[str, Any], payload: bytes, at: int) -> Write | Types:
    if kind in b"DT":
        _check_end(payload, at)
        return Delete(told["id"]) if kind == b"D" else Types(told["types"])
    datapoint = _datapoint(told)
    if kind == b"C":
        _check_end(payload, at)
        return Change(datapoint, frozenset(name for name in _FIELDS if name in told))
    if kind != b"U":
        raise ValueError(f"kind {kind!r} is none of U, C, D, T")
    vectors: dict[str, NDArray[np.float32]] = {}
    sparse: dict[str, SparseRows] = {}
    for what, space, n, m in told["arrays"]:
        counts = (n * m,) if what == "vectors" else (n, m, m)
        arrays = []
        for dtype, count in zip(_DTYPES[what], counts, strict=True):
            arrays.append(np.frombuffer(payload, dtype, count, at))
            at += arrays[-1].nbytes
        if what == "vectors":
            vectors[space] = arrays[0].reshape(n, m)
        else:
            sparse[space] = SparseRows(*arrays)
    _check_end(payload, at)
    return Upsert(datapoint, vectors, sparse)


def _check_end(payload: bytes, at: int) -> None:
    if at != len(payload):
        raise ValueError(f"{len(payload) - at} bytes are left behind its end")


def _told(datapoint: Datapoint, fields: Sequence[FieldName]) -> dict[str, object]:
    values: dict[FieldName, object] = {
        "restricts": [(r.namespace, r.allow, r.deny) for r in datapoint.restricts],
        "numeric_restricts": [(r.namespace, r.value, r.type) for r in datapoint.numeric_restricts],
        "crowding_tag": datapoint.crowding_tag,
        "metadata": dict(datapoint.metadata),
    }
    return {"id": datapoint.datapoint_id, **{name: values[name] for name in fields}}


def _datapoint(told: Mapping[str, Any]) -> Datapoint:
    return Datapoint(
        told["id"],
        tuple(Restrict(name, tuple(allow), tuple(deny)) for name, allow, deny in told.get("restricts", ())),
        tuple(NumericRestrict(name, value, kind) for name, value, kind in told.get("numeric_restricts", ())),
        told.get("crowding_tag"),
        told.get("metadata", {}),
    )
