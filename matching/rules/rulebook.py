"""A rule set over the columns of what is served: what holds for a request, as bitmaps and codes of rows."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matching.columns import AnyColumns
from matching.datapoint import Datapoint
from matching.recommend.model import Bitmap
from matching.rules.eligibility import Hide, Keep, NotSame, PriceBand, eligible_rows
from matching.rules.ordering import Cap, Diversity, Pin, Weigh
from matching.rules.rule import Rule, RuleSet
from matching.rules.selection import Selection


@dataclass(frozen=True, slots=True)
class Holding:
    """The rules that hold for one request, in their order, with what they mean in the columns of one version.

    Attributes:
        rules: all of them.
        eligible: rules of what may be shown, and the rows that each lets through.
        weighing: boosts and buries, the factor and the selected rows.
        capping: caps, how many, and the codes of all rows.
        pins: the slot and the row of each that is there; one a slot and one an item.
        diversity: the first such rule.
    """

    rules: tuple[Rule, ...] = ()
    eligible: tuple[tuple[Rule, Bitmap], ...] = ()
    weighing: tuple[tuple[Rule, float, Bitmap], ...] = ()
    capping: tuple[tuple[Rule, Cap, NDArray[np.int32]], ...] = ()
    pins: tuple[tuple[Rule, int, int], ...] = ()
    diversity: tuple[Rule, Diversity] | None = None


class Rulebook:
    """Rules to be applied. Thread-safe; the rows that a rule selects are found once for the columns of a version."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self._selected: weakref.WeakKeyDictionary[AnyColumns, dict[Selection, Bitmap]] = weakref.WeakKeyDictionary()
        self._reads_items = any(
            rule.scope.context or isinstance(rule.action, PriceBand | NotSame) for rule in rules.rules
        )

    def holding(self, columns: AnyColumns, item_ids: Sequence[str], *, surface: str, now_ms: int) -> Holding:
        """Return the rules that hold for a request.

        Args:
            item_ids: of the request, the context item last.
            now_ms: milliseconds since 1970.
        """
        if not self.rules.rules:
            return Holding()
        items = self._items(columns, item_ids) if self._reads_items else []
        context = items[-1] if items else None
        rules = tuple(rule for rule in self.rules.rules if rule.scope.holds(surface, now_ms, context))
        eligible: list[tuple[Rule, Bitmap]] = []
        weighing: list[tuple[Rule, float, Bitmap]] = []
        capping: list[tuple[Rule, Cap, NDArray[np.int32]]] = []
        pins: dict[int, tuple[Rule, int, int]] = {}
        diversity: tuple[Rule, Diversity] | None = None
        for rule in rules:
            action = rule.action
            if isinstance(action, Weigh):
                weighing.append((rule, action.factor, self.selected(columns, action.selection)))
            elif isinstance(action, Cap):
                capping.append((rule, action, columns.token_codes(action.namespace)))
            elif isinstance(action, Pin):
                row = columns.find(action.item)
                if row >= 0 and row not in {held for _, _, held in pins.values()}:
                    pins.setdefault(action.slot, (rule, action.slot, row))
            elif isinstance(action, Diversity):
                diversity = diversity or (rule, action)
            else:
                selected = self.selected(columns, action.selection) if isinstance(action, Keep | Hide) else None
                allowed = eligible_rows(action, columns, selected, items)
                if allowed is not None:
                    eligible.append((rule, allowed))
        return Holding(
            rules,
            tuple(eligible),
            tuple(weighing),
            tuple(capping),
            tuple(pins[slot] for slot in sorted(pins)),
            diversity,
        )

    def selected(self, columns: AnyColumns, selection: Selection) -> Bitmap:
        """Return the bitmap of the rows that a selection means; not to be changed."""
        held = self._selected.setdefault(columns, {})
        rows = held.get(selection)
        if rows is None:
            rows = held[selection] = selection.rows(columns)
        return rows

    @staticmethod
    def _items(columns: AnyColumns, item_ids: Sequence[str]) -> list[Datapoint]:
        rows = [columns.find(item_id) for item_id in item_ids]
        return [columns.datapoint(row) for row in rows if row >= 0]


NO_RULES = Rulebook(RuleSet())
