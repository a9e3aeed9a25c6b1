"""Rules from a TOML or JSON file: `[[rules]]` tables, each with an id, a kind and what the kind needs."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timezone
from typing import Any, Final, cast, get_args

from matching.datapoint import NumericRestrict, Operator, Restrict
from matching.errors import InvalidInput
from matching.rules.eligibility import Hide, Keep, NotSame, PriceBand
from matching.rules.ordering import Cap, Diversity, Pin, Weigh
from matching.rules.rule import Rule, RuleSet, Scope
from matching.rules.selection import Selection

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_RULES: Final = 200
MAX_SLOT: Final = 1000
LEAST_RELEVANCE: Final = 0.05  # below it, being unlike could outweigh what already has a place
_OPERATORS: Final = get_args(Operator)
Action = Any


class _Table:
    """One table of the file; what was not read in the end is an unknown key."""

    def __init__(self, where: str, held: Mapping[str, Any]) -> None:
        self.where = where
        self._held = dict(held)
        self._known: list[str] = []

    def take(self, name: str, kind: type | tuple[type, ...], what: str, default: Any = ...) -> Any:
        self._known.append(name)
        value = self._held.pop(name, default)
        if value is ...:
            raise InvalidInput(f"[rules] {self.where} has no {name}; expected {what}; add it")
        if value is not default and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise self.wrong(name, value, what)
        return value

    def wrong(self, name: str, value: object, what: str) -> InvalidInput:
        return InvalidInput(f"[rules] {self.where}: {name} is {_shown(value)}; expected {what}; correct it")

    def text(self, name: str, default: Any = ...) -> Any:
        value = self.take(name, str, "a text", default)
        if value == "" and default is ...:
            raise self.wrong(name, value, "a text that is not empty")
        return value

    def number(self, name: str, least: float, most: float, default: Any = ...) -> float:
        what = f"a number from {least:g} to {most:g}"
        value = self.take(name, (int, float), what, default)
        if not (math.isfinite(value) and least <= value <= most):
            raise self.wrong(name, value, what)
        return float(value)

    def whole(self, name: str, least: int, most: int) -> int:
        what = f"a whole number from {least} to {most}"
        value = self.take(name, int, what)
        if not least <= value <= most:
            raise self.wrong(name, value, what)
        return int(value)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.take(name, list, "a list of texts", [])
        if not all(isinstance(each, str) for each in value):
            raise self.wrong(name, value, "a list of texts")
        return tuple(value)

    def tokens(self, name: str) -> dict[str, tuple[str, ...]]:
        """Read namespace = [tokens]."""
        value = self.take(name, dict, "a table of namespace = [tokens]", {})
        for tokens in value.values():
            if not isinstance(tokens, list) or not tokens or not all(isinstance(each, str) for each in tokens):
                raise self.wrong(name, value, "a table of namespace = [tokens]")
        return {namespace: tuple(tokens) for namespace, tokens in value.items()}

    def moment(self, name: str) -> int | None:
        """Read a date or a time, UTC where it names no zone, as milliseconds since 1970."""
        what = "a date or a time such as 2026-01-31 or 2026-01-31T18:00:00Z"
        value = self.take(name, (str, date, datetime), what, None)
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                raise self.wrong(name, value, what) from None
        if not isinstance(value, datetime):
            value = datetime.combine(value, time())
        value = value if value.tzinfo is not None else value.replace(tzinfo=timezone.utc)
        return int(value.timestamp() * 1000)

    def end(self) -> None:
        if self._held:
            strange = next(iter(self._held))
            near = difflib.get_close_matches(strange, self._known, 1)
            cure = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(self._known)}"
            raise InvalidInput(f"[rules] {self.where} has an unknown key {strange!r}; {cure}")


def _selection(table: _Table) -> Selection:
    allow, deny = table.tokens("allow"), table.tokens("deny")
    restricts = tuple(Restrict(name, allow.get(name, ()), deny.get(name, ())) for name in {**allow, **deny})
    found = Selection(restricts, _numbers(table), table.texts("items"))
    if found == Selection():
        raise InvalidInput(
            f"[rules] {table.where} selects no items; expected some of allow, deny, numbers, items; add one"
        )
    return found


def _numbers(table: _Table) -> tuple[NumericRestrict, ...]:
    found = []
    for at, each in enumerate(table.take("numbers", list, "a list of {namespace, op, value}", [])):
        if not isinstance(each, dict):
            raise table.wrong("numbers", each, "a list of {namespace, op, value}")
        own = _Table(f"{table.where}, numbers[{at}]", each)
        namespace, op = own.text("namespace"), own.text("op")
        if op not in _OPERATORS:
            raise own.wrong("op", op, f"one of {', '.join(_OPERATORS)}")
        found.append(NumericRestrict(namespace, own.number("value", -1e300, 1e300), op=cast(Operator, op)))
        own.end()
    return tuple(found)


def _in_stock(table: _Table) -> Keep:
    number = table.text("number", None)
    if number is not None:
        least = table.number("at_least", 0, 1e300, 1.0)
        return Keep(Selection((), (NumericRestrict(number, least, op="GREATER_EQUAL"),)))
    namespace = table.text("namespace", None)
    if namespace is None:
        raise InvalidInput(
            f"[rules] {table.where} does not say where stock is kept; expected number, or namespace and token; add one"
        )
    return Keep(Selection((Restrict(namespace, (table.text("token", "yes"),)),)))


def _price_band(table: _Table) -> PriceBand:
    low, high = table.number("low", 0, 1e6), table.number("high", 0, 1e6)
    if low > high:
        raise table.wrong("low", low, f"at most high, which is {high:g}")
    return PriceBand(table.text("number"), low, high)


KINDS: Final[Mapping[str, Callable[[_Table], Action]]] = {
    "filter": lambda table: Keep(_selection(table)),
    "hide": lambda table: Hide(_selection(table)),
    "in_stock": _in_stock,
    "price_band": _price_band,
    "not_same": lambda table: NotSame(table.text("namespace")),
    "pin": lambda table: Pin(table.text("item"), table.whole("slot", 1, MAX_SLOT)),
    "boost": lambda table: Weigh(_selection(table), table.number("factor", 1, 1000)),
    "bury": lambda table: Weigh(_selection(table), table.number("factor", 0, 1, 0.0)),
    "cap": lambda table: Cap(
        table.text("namespace"), table.whole("most", 1, MAX_SLOT), table.take("strict", bool, "true or false", False)
    ),
    "collapse": lambda table: Cap(table.text("namespace"), 1, True),
    "diversity": lambda table: Diversity(table.number("relevance", LEAST_RELEVANCE, 1, 0.7), table.text("space", None)),
}


def parse_rules(content: bytes, *, is_json: bool) -> RuleSet:
    """Return the rules of a file.

    Raises:
        InvalidInput: it cannot be read, or a rule is wrong; the message names it.
    """
    try:
        told = json.loads(content) if is_json else tomllib.loads(content.decode())
    except ValueError as error:  # both decoders', and that of UTF-8
        raise InvalidInput(
            f"[rules] the file is no {'JSON' if is_json else 'TOML'}: {error}; correct it, or name it .json or .toml"
        ) from None
    if not isinstance(told, dict) or set(told) != {"rules"} or not isinstance(told["rules"], list):
        raise InvalidInput("[rules] the file is not a list of rules; expected [[rules]] tables and nothing else")
    return rules_of(told["rules"])


def rules_of(tables: Sequence[Any], rules_id: str = "") -> RuleSet:
    """Return the rules of the tables of a file.

    Raises:
        InvalidInput: a rule is wrong; the message names it.
    """
    if len(tables) > MAX_RULES:
        raise InvalidInput(f"[rules] {len(tables)} rules; expected at most {MAX_RULES}; remove those that are over")
    rules: dict[str, Rule] = {}
    for at, table in enumerate(tables, 1):
        if not isinstance(table, dict):
            raise InvalidInput(f"[rules] rule {at} is {_shown(table)}; expected a table with id and kind; correct it")
        rule = _rule(at, table)
        if rule.id in rules:
            raise InvalidInput(f"[rules] two rules have the id {rule.id!r}; expected an id each; rename one")
        rules[rule.id] = rule
    return RuleSet(tuple(rules.values()), rules_id, tuple(_jsonable(table) for table in tables))


def _rule(at: int, held: Mapping[str, Any]) -> Rule:
    table = _Table(f"rule {at}", held)
    rule_id = table.text("id")
    if len(rule_id) > 100:
        raise table.wrong("id", rule_id, "at most 100 characters")
    table.where = f"rule {rule_id!r}"
    kind = table.text("kind")
    if kind not in KINDS:
        raise table.wrong("kind", kind, f"one of {', '.join(KINDS)}")
    table.text("note", "")
    scope = Scope(
        table.texts("surfaces"),
        table.moment("from"),
        table.moment("until"),
        tuple(Restrict(name, tokens) for name, tokens in table.tokens("context").items()),
    )
    if scope.from_ms is not None and scope.until_ms is not None and scope.from_ms >= scope.until_ms:
        raise InvalidInput(f"[rules] rule {rule_id!r} ends before it begins; expected from before until; correct one")
    action = KINDS[kind](table)
    table.end()
    return Rule(rule_id, kind, action, scope)


def _jsonable(table: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(table, default=lambda value: value.isoformat()))
    return told


def _shown(value: object) -> str:
    return repr(value)[:100]
