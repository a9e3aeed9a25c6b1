"""Rules that say which items may be shown at all; they become part of the one bitmap that every source is asked under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cpp_ext
from matching.columns import AnyColumns
from matching.datapoint import Datapoint, Filter, NumericRestrict, Restrict
from matching.recommend.model import Bitmap
from matching.rules.selection import Selection, typed


@dataclass(frozen=True, slots=True)
class Keep:
    """Only what is selected may be shown."""

    selection: Selection


@dataclass(frozen=True, slots=True)
class Hide:
    """What is selected may not be shown."""

    selection: Selection


@dataclass(frozen=True, slots=True)
class PriceBand:
    """Only items whose number lies between `low` and `high` times that of the context item; nothing where it has none."""

    number: str
    low: float
    high: float

    def rows(self, columns: AnyColumns, context: Datapoint | None) -> Bitmap | None:
        """Return the bitmap of the rows in the band, None where there is no band."""
        numbers = () if context is None else context.numeric_restricts
        value = next((float(each.value) for each in numbers if each.namespace == self.number), None)
        if value is None:
            return None
        held = columns.numeric_types()[self.number]
        low, high = sorted((value * self.low, value * self.high))
        return columns.matching(
            Filter(
                (),
                (
                    typed(NumericRestrict(self.number, low, op="GREATER_EQUAL"), held),
                    typed(NumericRestrict(self.number, high, op="LESS_EQUAL"), held),
                ),
            )
        )


@dataclass(frozen=True, slots=True)
class NotSame:
    """Nothing that shares a token of the namespace with an item of the request: another size of the same shirt."""

    namespace: str

    def rows(self, columns: AnyColumns, items: Sequence[Datapoint]) -> Bitmap | None:
        """Return the bitmap of the rows that may be shown, None for all."""
        tokens = {token for item in items for r in item.restricts if r.namespace == self.namespace for token in r.allow}
        return columns.matching(Filter((Restrict(self.namespace, (), tuple(sorted(tokens))),))) if tokens else None


Eligibility = Keep | Hide | PriceBand | NotSame


def eligible_rows(
    rule: Eligibility, columns: AnyColumns, selected: Bitmap | None, items: Sequence[Datapoint]
) -> Bitmap | None:
    """Return the bitmap of the rows that a rule lets through, None for all.

    Args:
        selected: of the rule's selection, where it has one.
        items: of the request, the context item last.
    """
    if isinstance(rule, Keep):
        return selected
    if isinstance(rule, Hide):
        assert selected is not None
        every = cpp_ext.new_bitmap(len(columns), fill=True)
        return every & ~selected
    if isinstance(rule, PriceBand):
        return rule.rows(columns, items[-1] if items else None)
    return rule.rows(columns, items)
