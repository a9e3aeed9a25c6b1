"""A rule of a shop: what it does, and when it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matching.datapoint import Datapoint, Restrict
from matching.rules.eligibility import Eligibility
from matching.rules.ordering import Ordering


@dataclass(frozen=True, slots=True)
class Scope:
    """When a rule holds.

    Attributes:
        surfaces: of the request; none listed: all.
        from_ms, until_ms: from the one to before the other, milliseconds since 1970; None without end.
        context: what the context item has: of each namespace one of the tokens. Without such an item the rule does not hold.
    """

    surfaces: tuple[str, ...] = ()
    from_ms: int | None = None
    until_ms: int | None = None
    context: tuple[Restrict, ...] = ()

    def is_due(self, now_ms: int) -> bool:
        """Whether it holds at a time."""
        return (self.from_ms is None or now_ms >= self.from_ms) and not self.is_over(now_ms)

    def is_over(self, now_ms: int) -> bool:
        """Whether it will not hold again."""
        return self.until_ms is not None and now_ms >= self.until_ms

    def holds(self, surface: str, now_ms: int, context: Datapoint | None) -> bool:
        """Whether it holds for a request."""
        if not self.is_due(now_ms) or (self.surfaces and surface not in self.surfaces):
            return False
        if not self.context:
            return True
        if context is None:
            return False
        held = {(each.namespace, token) for each in context.restricts for token in each.allow}
        return all(any((each.namespace, token) in held for token in each.allow) for each in self.context)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        id: names it in answers; no two of a set have the same.
        kind: as the file calls it.
    """

    id: str
    kind: str
    action: Eligibility | Ordering
    scope: Scope = field(default_factory=Scope)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order of their file, in which they are applied.

    Attributes:
        rules_id: of the stored file; "" for a set that is not stored.
        told: the tables of the file as JSON holds them.
    """

    rules: tuple[Rule, ...] = ()
    rules_id: str = ""
    told: tuple[Mapping[str, Any], ...] = ()
