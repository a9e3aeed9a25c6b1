"""Which datapoint of an index version each item of a model is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.columns import AnyColumns
from matching.datapoint import Filter
from matching.recommend.model import Bitmap, ModelItems

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class ItemRows:
    """The rows of a model's items. Immutable and thread-safe.

    Attributes:
        items: of the model.
        rows: int64[n_items], rows of the version; -1 for an item that it does not have.
        n_rows: rows of the version that were looked at; a live version gets more, in which replaced items lie anew.
    """

    items: ModelItems
    rows: NDArray[np.int64]
    n_rows: int

    @classmethod
    def of(cls, items: ModelItems, columns: AnyColumns) -> ItemRows:
        """Find the items among the live rows of a version."""
        return cls(items, np.full(len(items), -1, np.int64), 0).grown(columns)

    def grown(self, columns: AnyColumns) -> ItemRows:
        """Return the same for later columns of the same version; this one where they are no longer."""
        if len(columns) <= self.n_rows:
            return self
        live = cpp_ext.rows_of(columns.matching(Filter()), len(columns))
        new = live[np.searchsorted(live, self.n_rows) :]
        rows = self.rows.copy()
        for start in range(0, len(new), _ROWS_AT_ONCE):
            some = new[start : start + _ROWS_AT_ONCE].tolist()
            places = [self.items.find(datapoint_id, -1) for datapoint_id in columns.datapoint_ids(some)]
            known = [(place, row) for place, row in zip(places, some, strict=True) if place >= 0]
            if known:
                at, found = np.array(known, np.int64).T
                rows[at] = found
        return ItemRows(self.items, rows, len(columns))

    def allowed(self, rows: Bitmap, n_rows: int) -> Bitmap:
        """Return the bitmap of the items whose rows are in a bitmap of n_rows."""
        bits = np.unpackbits(rows.view(np.uint8), bitorder="little")
        inside = self.rows >= 0 if self.n_rows <= n_rows else (self.rows >= 0) & (self.rows < n_rows)
        of_items = np.zeros(-(-len(self.rows) // 64) * 64, np.uint8)
        np.multiply(bits.take(self.rows, mode="clip"), inside, out=of_items[: len(self.rows)])
        return np.packbits(of_items, bitorder="little").view(np.uint64)
