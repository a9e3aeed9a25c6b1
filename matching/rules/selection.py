"""Which items a rule speaks of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

import cpp_ext
from matching.columns import AnyColumns
from matching.datapoint import Filter, NumericRestrict, NumericType, Restrict
from matching.recommend.model import Bitmap

_LEAST, _GREATEST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Selection:
    """Items that pass all restricts and numbers and, where ids are listed, are among those.

    Attributes:
        numbers: compared as the type that the namespace holds; a number that no datapoint has selects nothing.
    """

    restricts: tuple[Restrict, ...] = ()
    numbers: tuple[NumericRestrict, ...] = ()
    items: tuple[str, ...] = ()

    def rows(self, columns: AnyColumns) -> Bitmap:
        """Return the bitmap of the selected rows."""
        types = columns.numeric_types()
        numbers = tuple(typed(each, types.get(each.namespace, "float64")) for each in self.numbers)
        found = columns.matching(Filter(self.restricts, numbers))
        if self.items:
            listed = cpp_ext.new_bitmap(len(columns))
            rows = [row for row in map(columns.find, self.items) if row >= 0]
            cpp_ext.set_rows(listed, np.array(rows, np.int64))
            cpp_ext.intersect(found, listed)
        return found


def typed(number: NumericRestrict, held: NumericType) -> NumericRestrict:
    """Return a comparison that means the same among numbers of type `held`."""
    if held != "int64":
        return replace(number, type=held, value=float(number.value))
    value = float(number.value)
    if value.is_integer() and _LEAST <= value <= _GREATEST:
        return replace(number, type=held, value=int(value))
    if number.op in ("EQUAL", "NOT_EQUAL"):  # no whole number is this one
        return replace(number, type=held, op="LESS" if number.op == "EQUAL" else "GREATER_EQUAL", value=_LEAST)
    whole = math.ceil(value) if number.op in ("LESS", "GREATER_EQUAL") else math.floor(value)
    return replace(number, type=held, value=min(max(whole, _LEAST), _GREATEST))
