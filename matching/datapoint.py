"""The domain's nouns: what is indexed, and what a caller may ask of it.

Field names follow Vertex AI Vector Search (`IndexDatapoint`, `Restriction`, `NumericRestriction`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Metric = Literal["ip", "cosine", "l2"]
Operator = Literal["LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL"]
NumericType = Literal["int64", "float32", "float64"]
Metadata = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Restrict:
    """Tokens of one namespace: on a datapoint what it has and denies, in a query what is asked for and refused."""

    namespace: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NumericRestrict:
    """One number of one namespace; `op` is required in a query and forbidden on a datapoint.

    `type` is the wire type: `value_int`, `value_float` and `value_double` are int64, float32 and float64.
    """

    namespace: str
    value: int | float
    type: NumericType = "float64"
    op: Operator | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """What a query restricts: AND across namespaces, OR inside one, deny wins."""

    restricts: tuple[Restrict, ...] = ()
    numeric_restricts: tuple[NumericRestrict, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.restricts or self.numeric_restricts)


@dataclass(frozen=True, slots=True)
class Datapoint:
    """One indexed thing, without its vectors: they live in the spaces of an index version."""

    datapoint_id: str
    restricts: tuple[Restrict, ...] = ()
    numeric_restricts: tuple[NumericRestrict, ...] = ()
    crowding_tag: str | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A batch of sparse vectors in CSR form.

    Attributes:
        offsets: int64[n + 1]; row r holds entries offsets[r]:offsets[r + 1].
        dimensions: int64[nnz], unique within a row, >= 0.
        values: float32[nnz].
    """

    offsets: NDArray[np.int64]
    dimensions: NDArray[np.int64]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, at: int) -> SparseRows:
        """Return one of the rows as a batch of its own."""
        part = slice(int(self.offsets[at]), int(self.offsets[at + 1]))
        return SparseRows(np.array([0, part.stop - part.start], np.int64), self.dimensions[part], self.values[part])


class Neighbor(NamedTuple):
    """One result; a smaller distance is nearer. Distances are -dot (ip), 1 - cos (cosine), squared L2 (l2).

    `sparse_distance` is the negated inner product of the sparse sides, where a search looked at them apart.
    """

    datapoint_id: str
    distance: float
    crowding_tag: str | None = None
    sparse_distance: float | None = None
