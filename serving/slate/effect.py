"""What rules did to a slate, by the ids of its items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matching.rules import Effect, Holding
from matching.rules.choice import bits_at
from matching.rules.ordering import Cap
from matching.version import IndexVersion


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """What a rule that held did.

    Attributes:
        rule_id: of the rule.
        kind: of the rule.
        removed: items that could have been shown but for it, as the rules before it left them.
        brought: ids that came among the k best of the blend by it.
        dropped: ids that it pushed out of them.
        moved: of those k places, how many hold another item than before it.
        cost: the blend's scores of the k best before it less those after it, in sum; below 0 where it won some back.
        yielded: places that caps gave way for; told with each cap that can.
    """

    rule_id: str
    kind: str
    removed: int = 0
    brought: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    moved: int = 0
    cost: float = 0.0
    yielded: int = 0


def effects_of(
    version: IndexVersion, holding: Holding, effects: Sequence[Effect], yielded: int
) -> tuple[RuleEffect, ...]:
    """Return what every rule that held did, in the order of the rules; one that did nothing is told too."""
    of_rule = {effect.rule.id: effect for effect in effects}
    told = []
    for rule in holding.rules:
        did = of_rule.get(rule.id) or Effect(rule)
        gives_way = isinstance(rule.action, Cap) and not rule.action.is_strict
        told.append(
            RuleEffect(
                rule.id,
                rule.kind,
                did.removed,
                tuple(version.columns.datapoint_ids(did.brought)),
                tuple(version.columns.datapoint_ids(did.dropped)),
                did.moved,
                did.cost,
                yielded if gives_way else 0,
            )
        )
    return tuple(told)


def touching(holding: Holding, effects: Sequence[Effect], shown: NDArray[np.int64]) -> Mapping[int, tuple[str, ...]]:
    """Return the rules that had to do with each row of a slate: boosts and buries of it, and those that brought it."""
    if not holding.rules:
        return {}
    touched: dict[int, list[str]] = {row: [] for row in shown.tolist()}
    for rule, _, selected in holding.weighing:
        for row in shown[bits_at(selected, shown)].tolist():
            touched[row].append(rule.id)
    pinned = {rule.id: row for rule, _, row in holding.pins}
    for effect in effects:
        rows = {*effect.brought, *([pinned[effect.rule.id]] if effect.rule.id in pinned else [])}
        for row in rows & touched.keys():
            if effect.rule.id not in touched[row]:
                touched[row].append(effect.rule.id)
    return {row: tuple(ids) for row, ids in touched.items()}
