"""Writes come back from their payloads bit for bit, and nothing else passes for a write."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matching.datapoint import Datapoint, NumericRestrict, Restrict, SparseRows
from matching.errors import CorruptArtifact, InvalidInput
from matching.live import Change, Delete, Upsert, Write, pack_write, unpack_write

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TOKENS = st.lists(TEXT, max_size=3).map(tuple)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.builds(NumericRestrict, TEXT, st.integers(-(2**63), 2**63 - 1), st.just("int64")) | st.builds(
    NumericRestrict, TEXT, FINITE, st.sampled_from(["float32", "float64"])
)
DATAPOINTS = st.builds(
    Datapoint,
    TEXT,
    st.lists(st.builds(Restrict, TEXT, TOKENS, TOKENS), max_size=3).map(tuple),
    st.lists(NUMBERS, max_size=3).map(tuple),
    st.none() | TEXT,
    st.dictionaries(TEXT, JSON, max_size=3),
)
VECTORS = hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 5)))


@st.composite
def sparse_rows(draw: st.DrawFn) -> SparseRows:
    lengths = draw(st.lists(st.integers(0, 4), max_size=3))
    n = sum(lengths)
    return SparseRows(
        np.cumsum([0, *lengths], dtype=np.int64),
        draw(hnp.arrays(np.int64, n, elements=st.integers(0, 2**63 - 1))),
        draw(hnp.arrays(np.float32, n)),
    )


UPSERTS = st.builds(
    Upsert, DATAPOINTS, st.dictionaries(TEXT, VECTORS, max_size=3), st.dictionaries(TEXT, sparse_rows(), max_size=2)
)
FIELDS = st.frozensets(st.sampled_from(["restricts", "numeric_restricts", "crowding_tag", "metadata"]), min_size=1)


def parts(write: Write) -> object:
    """Return what can be compared, arrays as their bytes: a NaN is kept too, whatever its bits."""
    if not isinstance(write, Upsert):
        return write
    return (
        write.datapoint,
        {name: (v.dtype, v.shape, v.tobytes()) for name, v in write.vectors.items()},
        {
            name: [(a.dtype, a.tobytes()) for a in (rows.offsets, rows.dimensions, rows.values)]
            for name, rows in write.sparse.items()
        },
    )


@given(UPSERTS | st.builds(Delete, TEXT))
def test_a_write_comes_back(write: Write) -> None:
    assert parts(unpack_write(pack_write(write))) == parts(write)


@given(DATAPOINTS, FIELDS)
def test_a_change_carries_only_its_fields(datapoint: Datapoint, fields: frozenset[str]) -> None:
    found = unpack_write(pack_write(Change(datapoint, fields)))  # type: ignore[arg-type]
    assert isinstance(found, Change)
    assert found.fields == fields
    empty = Datapoint(datapoint.datapoint_id)
    for name in ("restricts", "numeric_restricts", "crowding_tag", "metadata"):
        assert getattr(found.datapoint, name) == getattr(datapoint if name in fields else empty, name)


@given(UPSERTS, st.data())
def test_half_a_write_is_none(write: Upsert, data: st.DataObject) -> None:
    payload = pack_write(write)
    for wrong in (payload[: data.draw(st.integers(0, len(payload) - 1))], payload + b"\0"):
        with pytest.raises(CorruptArtifact, match=r"\[unpack\] a payload of \d+ bytes is no write"):
            unpack_write(wrong)


@given(st.binary(max_size=60))
def test_bytes_are_not_a_write(data: bytes) -> None:
    with pytest.raises(CorruptArtifact, match=r"\[unpack\]"):
        unpack_write(data)
    with pytest.raises(CorruptArtifact, match=r"\[unpack\]"):
        unpack_write(struct.pack("<BcI", 1, b"U", len(data)) + data)


def test_a_later_version_is_told_apart() -> None:
    with pytest.raises(CorruptArtifact, match="write format 2 is not 1"):
        unpack_write(b"\2" + pack_write(Delete("a"))[1:])
    with pytest.raises(CorruptArtifact, match="kind b'X' is none of U, C, D"):
        unpack_write(b"\1X" + pack_write(Upsert(Datapoint("a")))[2:])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (Delete("\ud800"), "surrogates not allowed; expected Unicode text"),
        (Upsert(Datapoint("a", metadata={"x": object()})), "not JSON serializable"),
        (Upsert(Datapoint("a", metadata={"x": float("nan")})), "finite numbers"),
        (Upsert(Datapoint("a"), {"s": np.zeros((1, 2))}), r"float64\[1, 2\]; expected float32\[m, dim\]"),
        (Upsert(Datapoint("a"), {"s": np.zeros(2, np.float32)}), r"float32\[2\]; expected float32\[m, dim\]"),
        (
            Upsert(Datapoint("a"), {}, {"s": SparseRows(*np.zeros((3, 1), np.int64))}),  # type: ignore[arg-type]
            "int64, int64, int64, 1 dimensions and 1 values; expected int64, int64, float32",
        ),
        (Change(Datapoint("a"), frozenset()), r"fields are \[\]; expected one or more of restricts"),
        (Change(Datapoint("a"), frozenset(["vectors"])), "expected one or more of restricts"),  # type: ignore[list-item]
    ],
)
def test_what_cannot_be_kept_is_refused(write: Write, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        pack_write(write)
