"""What is odd about a rule set: conflicts, rules that are over, rules that match nothing in an index version."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

import cpp_ext
from matching.columns import AnyColumns
from matching.recommend.model import Bitmap
from matching.rules.choice import bits_at
from matching.rules.eligibility import Hide, Keep, NotSame, PriceBand
from matching.rules.ordering import Cap, Diversity, Pin, Weigh
from matching.rules.rule import Rule, RuleSet, Scope
from matching.rules.rulebook import Rulebook

Problem = Literal[
    "expired",
    "matches-nothing",
    "hidden-pin",
    "same-slot",
    "pinned-twice",
    "boost-and-bury",
    "nothing-left",
    "two-diversities",
]
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One oddity: of which rules, and what to do."""

    problem: Problem
    rule_ids: tuple[str, ...]
    message: str


def lint(rules: RuleSet, columns: AnyColumns, *, now_ms: int) -> tuple[Finding, ...]:
    """Return what is odd about rules over the columns of a version, milliseconds since 1970 being `now_ms`.

    Two rules are held against each other where both can hold for one request.
    """
    linter = _Linter(Rulebook(rules), columns)
    alive = [rule for rule in rules.rules if not rule.scope.is_over(now_ms)]
    over = [
        Finding("expired", (rule.id,), f"rule {rule.id!r} holds no longer; remove it, or set a later until")
        for rule in rules.rules
        if rule.scope.is_over(now_ms)
    ]
    alone = [finding for rule in alive for finding in linter.alone(rule)]
    pairs = [pair for pair in itertools.combinations(alive, 2) if _meet(pair[0].scope, pair[1].scope)]
    return (*over, *alone, *(finding for pair in pairs for finding in linter.pair(*pair)))


@dataclass(frozen=True, slots=True)
class _Linter:
    book: Rulebook
    columns: AnyColumns

    def alone(self, rule: Rule) -> Iterator[Finding]:
        action = rule.action
        found = ""
        if isinstance(action, Keep | Hide | Weigh):
            if not cpp_ext.count(self._selected(rule), len(self.columns)):
                found = "selects no item"
        elif isinstance(action, Pin):
            if self.columns.find(action.item) < 0:
                found = f"pins {action.item!r}, which is not there"
        elif isinstance(action, PriceBand):
            if action.number not in self.columns.numeric_types():
                found = f"needs the number {action.number!r}, which no item has"
        elif isinstance(action, Cap | NotSame) and action.namespace not in self.columns.namespaces():
            found = f"needs the namespace {action.namespace!r}, which no item has"
        if found:
            yield Finding("matches-nothing", (rule.id,), f"rule {rule.id!r} {found}; correct it or build the items in")

    def pair(self, one: Rule, other: Rule) -> Iterator[Finding]:
        ids = (one.id, other.id)
        actions = one.action, other.action
        if isinstance(one.action, Pin) and isinstance(other.action, Pin):
            if one.action.slot == other.action.slot:
                told = f"both pin slot {one.action.slot}: {one.id!r} has it"
                yield Finding("same-slot", ids, f"{told}; give {other.id!r} another slot")
            if one.action.item == other.action.item:
                yield Finding("pinned-twice", ids, f"both pin {one.action.item!r}; remove one")
        elif all(isinstance(each, Diversity) for each in actions):
            yield Finding("two-diversities", ids, f"only {one.id!r} is applied where both hold; remove one")
        elif all(isinstance(each, Weigh) for each in actions):
            yield from self._weighing(one, other)
        elif all(isinstance(each, Keep | Hide) for each in actions):
            if not cpp_ext.count(self._shown(one) & self._shown(other), len(self.columns)):
                yield Finding("nothing-left", ids, f"{one.id!r} and {other.id!r} together leave no item to show")
        else:
            for pin, rule in ((one, other), (other, one)):
                yield from self._hidden(pin, rule)

    def _weighing(self, one: Rule, other: Rule) -> Iterator[Finding]:
        assert isinstance(one.action, Weigh)
        assert isinstance(other.action, Weigh)
        if (one.action.factor > 1) == (other.action.factor > 1):
            return
        both = self._selected(one) & self._selected(other)
        n = cpp_ext.count(both, len(self.columns))
        if n:
            some = self.columns.datapoint_ids(cpp_ext.rows_of(both, len(self.columns))[:_SHOWN].tolist())
            told = f"one boosts and one buries {n:,} items, {', '.join(some)} among them"
            yield Finding("boost-and-bury", (one.id, other.id), f"{told}; narrow one of them")

    def _hidden(self, pin: Rule, rule: Rule) -> Iterator[Finding]:
        if not isinstance(pin.action, Pin) or not isinstance(rule.action, Keep | Hide):
            return
        row = self.columns.find(pin.action.item)
        if row >= 0 and not bits_at(self._shown(rule), np.array([row]))[0]:
            told = f"{pin.id!r} pins {pin.action.item!r}, which {rule.id!r} does not let through"
            yield Finding("hidden-pin", (pin.id, rule.id), f"{told}; pin another item or change the filter")

    def _selected(self, rule: Rule) -> Bitmap:
        assert isinstance(rule.action, Keep | Hide | Weigh)
        return self.book.selected(self.columns, rule.action.selection)

    def _shown(self, rule: Rule) -> Bitmap:
        selected = self._selected(rule)
        if isinstance(rule.action, Keep):
            return selected
        return cpp_ext.new_bitmap(len(self.columns), fill=True) & ~selected


def _meet(one: Scope, other: Scope) -> bool:
    """Whether both can hold for one request."""
    if one.surfaces and other.surfaces and not set(one.surfaces) & set(other.surfaces):
        return False
    begins = max(one.from_ms or 0, other.from_ms or 0)
    return all(scope.until_ms is None or scope.until_ms > begins for scope in (one, other))
