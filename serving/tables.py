"""Tables of neighbors that were exported before anybody asked, in place of searches that would find the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matching.columns import AnyColumns
from matching.datapoint import Neighbor
from matching.neighbor_table import Asked, NeighborTable
from matching.version import IndexVersion, SearchResult
from serving.query import NeighborQuery

_log = logging.getLogger(__name__)
PLAN: Final = "table"


class Tables:
    """Answers from tables of the version that is asked. Immutable and thread-safe."""

    def __init__(self, tables: Sequence[NeighborTable] = ()) -> None:
        self._tables: dict[str, list[NeighborTable]] = {}
        for table in tables:
            self._tables.setdefault(table.manifest.version_id, []).append(table)

    @classmethod
    def open(cls, folders: Sequence[Path]) -> Tables:
        """Map tables; every block is checked before anything is believed.

        Raises:
            NotFound: a folder holds no whole table.
            CorruptArtifact: one holds no table that can be served, or not what was sealed.
        """
        tables = [NeighborTable.open(folder) for folder in folders]
        for table in tables:
            told = table.manifest
            _log.info(
                "answers from a table: %d items of %s, space %s", told.n_items, told.version_id, table.asked.space
            )
        return cls(tables)

    def find(self, version: IndexVersion, query: NeighborQuery, space: str) -> SearchResult | None:
        """Return the answer to one query, None where the engine has to be asked.

        That is where no table is of this version, asked as the query asks, and knows the item; and where what was written since
        changes the answer.
        """
        tables = self._tables.get(version.version_id)
        if not tables or query.vector is not None or query.sparse is not None:
            return None
        if version.lost:
            return None  # the engine says what is missing
        for table in tables:
            if not _is_asked(table.asked, query, space):
                continue
            row = version.columns.find(query.datapoint_id)
            found = None if row < 0 else table.find(version, row)
            if found is not None:
                rows = found.rows[: query.options.k].tolist()
                told = _told(version.columns, rows, found.distances.tolist())
                return SearchResult((told,), PLAN, None, found.n_matching, 0, version.version_id, 1.0)
        return None


def _is_asked(asked: Asked, query: NeighborQuery, space: str) -> bool:
    options = query.options
    return (
        options.k <= asked.k
        and (space, options.filter, options.crowding_cap) == (asked.space, asked.filter, asked.crowding_cap)
        and (options.exact, options.effort, options.recall_target) == (asked.exact, asked.effort, asked.recall_target)
        and not options.include_self
        and options.fusion is None
    )


def _told(columns: AnyColumns, rows: list[int], distances: list[float]) -> tuple[Neighbor, ...]:
    told = zip(columns.datapoint_ids(rows), distances, columns.crowding_tags(rows), strict=False)
    return tuple(Neighbor(*each) for each in told)
