"""The item-to-item table: the nearest datapoints of every datapoint of a version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import cpp_ext
from lifecycle.exporting.job import Job
from matching.columns import Columns
from matching.errors import InvalidInput
from matching.neighbor_table import KIND, Asked
from matching.version import FoundRows, IndexVersion

_AT_ONCE: Final = 1000  # queries of one call: what they find stays small, and what a call costs does not count
PART_ITEMS: Final = 10_000


@dataclass(frozen=True, slots=True)
class NeighborPart:
    """The neighbors of some rows."""

    ids: Any  # of all rows, as Arrow has strings
    of: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    n_matching: NDArray[np.int64]

    def table(self) -> pa.Table:
        """Return item_id, rank from 1 on, neighbor_id and distance, a row a neighbor."""
        is_one = self.rows >= 0
        counts = is_one.sum(axis=1)
        ranks = np.broadcast_to(np.arange(1, self.rows.shape[1] + 1, dtype=np.int32), self.rows.shape)
        return pa.table(
            {
                "item_id": self.ids.take(pa.array(np.repeat(self.of, counts))),
                "rank": pa.array(ranks[is_one]),
                "neighbor_id": self.ids.take(pa.array(self.rows[is_one])),
                "distance": pa.array(self.distances[is_one]),
            }
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return what `NeighborTable` maps."""
        return {
            "of": self.of.astype(np.int32),
            "rows": self.rows.astype(np.int32),
            "distances": self.distances,
            "n_matching": self.n_matching.astype(np.int32),
        }


class NeighborExport:
    """Answers for the datapoints of a sealed version. Thread-safe."""

    def __init__(self, version: IndexVersion, asked: Asked) -> None:
        """Prepare.

        Raises:
            NotFound: the version has no such space.
            InvalidInput: nothing has a vector there.
        """
        assert isinstance(version.columns, Columns), "a sealed version"
        self._version = version
        self._asked = asked
        space = version.space(asked.space)
        n_rows = len(version.columns)
        present = cpp_ext.new_bitmap(n_rows, fill=True) if space.present is None else space.present
        self._rows = cpp_ext.rows_of(present, n_rows)
        if not len(self._rows):
            raise InvalidInput(
                f"[export] no datapoint has a vector in space {asked.space!r}; expected some; name another"
            )
        ids = version.columns.ids
        where = [None, pa.py_buffer(ids.offsets.data), pa.py_buffer(ids.data.data)]  # the columns' own memory
        self._ids = pa.Array.from_buffers(pa.large_string(), len(ids), where)

    def job(self, part_items: int, version_sha256: str) -> Job:
        """Return what is to be made, of the version whose manifest has that digest."""
        digest = hashlib.sha256(self._rows.astype("<i8").tobytes()).hexdigest()
        version = self._version
        return Job(
            kind=KIND,
            version_id=version.version_id,
            version_sha256=version_sha256,
            models={},
            asked=self._asked.as_json(),
            n_items=len(self._rows),
            items_digest=digest,
            part_items=part_items,
        )

    def part(self, places: slice) -> NeighborPart:
        """Answer for some of the datapoints."""
        own = self._rows[places]
        found = [self._found(own[at : at + _AT_ONCE]) for at in range(0, len(own), _AT_ONCE)]
        return NeighborPart(
            self._ids,
            own,
            np.concatenate([each.rows for each in found]),
            np.concatenate([each.distances for each in found]),
            np.concatenate([each.n_matching for each in found]),
        )

    def _found(self, rows: NDArray[np.int64]) -> FoundRows:
        asked = self._asked
        return self._version.neighbors_of(
            rows,
            asked.k,
            space=asked.space,
            filter=asked.filter,
            crowding_cap=asked.crowding_cap,
            exact=asked.exact,
            effort=asked.effort,
            recall_target=asked.recall_target,
        )
