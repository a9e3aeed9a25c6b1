"""Rules as files say them: what is read, what is refused and why, when they hold, and what a linter finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from matching.columns import ColumnsBuilder
from matching.datapoint import Datapoint, NumericRestrict, Restrict
from matching.errors import AlreadyExists, CorruptArtifact, InvalidInput, NotFound
from matching.rules import Rulebook, RuleStore, parse_rules
from matching.rules.lint import lint
from matching.rules.parsing import KINDS, rules_of
from matching.rules.selection import typed
from matching.store import Store
from tests.versions import MakeVersion

WINTER = b"""
[[rules]]
id = "in-stock"
kind = "in_stock"
number = "stock"

[[rules]]
id = "brands"
kind = "cap"
namespace = "brand"
most = 2
surfaces = ["home", "basket"]
from = 2026-01-01
until = 2026-02-01T12:00:00+02:00
note = "as agreed"

[[rules]]
id = "boots-in-winter"
kind = "boost"
factor = 1.5
allow = { category = ["Footwear"] }
deny = { brand = ["acme"] }
numbers = [{ namespace = "price", op = "LESS", value = 99.5 }]
context = { category = ["Coats", "Footwear"] }
"""
MINUTE = 60_000
JANUARY = 1_767_225_600_000  # 2026-01-01T00:00Z


def boot(category: str = "Footwear") -> Datapoint:
    return Datapoint("boot", (Restrict("category", (category,)),))


def test_rules_are_read_from_toml_and_from_what_the_store_keeps() -> None:
    rules = parse_rules(WINTER, is_json=False)
    assert [(rule.id, rule.kind) for rule in rules.rules] == [
        ("in-stock", "in_stock"),
        ("brands", "cap"),
        ("boots-in-winter", "boost"),
    ]
    assert rules_of(json.loads(json.dumps(rules.told))).rules == rules.rules
    assert parse_rules(json.dumps({"rules": rules.told}).encode(), is_json=True) == rules
    scope = rules.rules[1].scope
    assert (scope.from_ms, scope.until_ms) == (JANUARY, JANUARY + 31 * 24 * 60 * MINUTE + 10 * 60 * MINUTE)


def test_a_rule_holds_in_its_time_on_its_surfaces_and_beside_its_items() -> None:
    _, brands, boots = (rule.scope for rule in parse_rules(WINTER, is_json=False).rules)
    assert brands.holds("home", JANUARY, None)
    assert not brands.holds("home", JANUARY - 1, None)
    assert brands.holds("basket", JANUARY + 31 * 24 * 60 * MINUTE, None)
    assert brands.until_ms is not None
    assert not brands.holds("home", brands.until_ms, None)
    assert not brands.holds("", JANUARY, None)
    assert boots.holds("anywhere", 0, boot())
    assert not boots.holds("anywhere", 0, boot("Hats"))
    assert not boots.holds("anywhere", 0, None)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ({}, "rule 1 has no id"),
        ({"id": "x"}, "rule 'x' has no kind"),
        ({"id": "x", "kind": "lift"}, "kind is 'lift'; expected one of filter, hide, in_stock"),
        ({"id": "x", "kind": "cap", "namespace": "brand"}, "rule 'x' has no most"),
        ({"id": "x", "kind": "cap", "namespace": "brand", "most": 0}, "most is 0; expected a whole number from 1"),
        ({"id": "x", "kind": "cap", "namespace": "brand", "most": True}, "most is True"),
        (
            {"id": "x", "kind": "cap", "namespace": "brand", "most": 1, "mots": 2},
            "unknown key 'mots'; did you mean most?",
        ),
        ({"id": "x", "kind": "boost", "factor": 2}, "selects no items"),
        ({"id": "x", "kind": "boost", "factor": 0.5, "items": ["a"]}, "factor is 0.5; expected a number from 1"),
        ({"id": "x", "kind": "bury", "factor": float("nan"), "items": ["a"]}, "factor is nan"),
        ({"id": "x", "kind": "hide", "items": "a"}, "items is 'a'; expected a list of texts"),
        ({"id": "x", "kind": "hide", "allow": {"brand": "acme"}}, "expected a table of namespace = [tokens]"),
        ({"id": "x", "kind": "filter", "numbers": [{"namespace": "p", "op": "<", "value": 1}]}, "expected one of LESS"),
        ({"id": "x", "kind": "in_stock"}, "does not say where stock is kept"),
        (
            {"id": "x", "kind": "price_band", "number": "price", "low": 2, "high": 1},
            "low is 2.0; expected at most high",
        ),
        ({"id": "x", "kind": "collapse", "namespace": "shirt", "until": "soon"}, "until is 'soon'; expected a date"),
        ({"id": "x", "kind": "collapse", "namespace": "s", "from": "2026-02-01", "until": "2026-01-01"}, "ends before"),
        ({"id": "x", "kind": "diversity", "relevance": 0}, "relevance is 0; expected a number from 0.05"),
        ({"id": "", "kind": "diversity"}, "id is ''"),
    ],
)
def test_a_wrong_rule_is_refused_by_its_name(table: dict[str, object], what: str) -> None:
    with pytest.raises(InvalidInput, match=r"^\[rules\]") as refused:
        rules_of([table])
    assert what in str(refused.value)


def test_a_wrong_file_is_refused() -> None:
    for content, is_json, what in (
        (b"[[rules]", False, "is no TOML"),
        (b"{", True, "is no JSON"),
        (b"[rules]\nid='x'", False, "not a list of rules"),
        (b"\xff", False, "is no TOML"),
        (b'{"rules": [1]}', True, "rule 1 is 1"),
    ):
        with pytest.raises(InvalidInput, match=what):
            parse_rules(content, is_json=is_json)
    twice = {"id": "x", "kind": "collapse", "namespace": "shirt"}
    with pytest.raises(InvalidInput, match="two rules have the id 'x'"):
        rules_of([twice, twice])
    with pytest.raises(InvalidInput, match="at most 200"):
        rules_of([{**twice, "id": str(at)} for at in range(201)])


def test_a_store_keeps_every_set_and_every_move(store: Store) -> None:
    kept = RuleStore(store.path)
    first = parse_rules(WINTER, is_json=False)
    assert kept.sets() == ()
    move = kept.put("shop", first, why="winter")
    opened = kept.open("shop")
    assert (opened.rules, opened.rules_id) == (first.rules, move.new)
    empty = kept.put("shop", rules_of([]), why="spring", instead_of=move.new)
    assert kept.aliases() == {"shop": empty.new}
    assert [(each.old, each.new, each.why) for each in kept.history("shop")] == [
        (None, move.new, "winter"),
        (move.new, empty.new, "spring"),
    ]
    assert kept.open(move.new).rules == first.rules
    with pytest.raises(AlreadyExists, match="somebody else moved it"):
        kept.set_alias("shop", move.new, why="back", instead_of=move.new)
    with pytest.raises(NotFound, match="no rules 'summer'; there are the aliases shop and 2 sets"):
        kept.open("summer")
    file = store.path / "rules" / "sets" / f"{move.new}.json"
    file.write_bytes(file.read_bytes().replace(b"brand", b"grand"))
    with pytest.raises(CorruptArtifact, match="was changed"):
        kept.open(move.new)


@pytest.mark.parametrize("op", ["LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL"])
@pytest.mark.parametrize("value", [2.0, 2.5, -2.5, 1e30, -1e30])
def test_a_number_means_the_same_among_whole_numbers(
    make_version: MakeVersion, op: str, value: float, rng: np.random.Generator
) -> None:
    wanted = NumericRestrict("n", value, op=op)  # type: ignore[arg-type]
    whole = typed(wanted, "int64")
    assert isinstance(whole.value, int)
    compare = {
        "LESS": lambda a, b: a < b,
        "LESS_EQUAL": lambda a, b: a <= b,
        "EQUAL": lambda a, b: a == b,
        "GREATER_EQUAL": lambda a, b: a >= b,
        "GREATER": lambda a, b: a > b,
        "NOT_EQUAL": lambda a, b: a != b,
    }
    for held in range(-4, 5):
        assert whole.op is not None
        assert compare[whole.op](held, whole.value) == compare[op](held, value), held
    assert -(2**63) <= whole.value < 2**63


def test_the_linter_finds_what_contradicts_or_does_nothing(make_version: MakeVersion) -> None:
    items = [
        Datapoint(f"i{at}", (Restrict("brand", (("acme", "bolt")[at % 2],)),), (NumericRestrict("stock", at, "int64"),))
        for at in range(10)
    ]
    version = make_version(items, np.eye(10, dtype=np.float32))
    acme = {"allow": {"brand": ["acme"]}}
    told = [
        {"id": "old", "kind": "hide", "items": ["i0"], "until": "2020-01-01"},
        {"id": "stock", "kind": "in_stock", "number": "stock"},
        {"id": "zero", "kind": "pin", "item": "i0", "slot": 1},
        {"id": "one", "kind": "pin", "item": "i1", "slot": 1, "surfaces": ["home"]},
        {"id": "two", "kind": "pin", "item": "i1", "slot": 2, "surfaces": ["basket"]},
        {"id": "gone", "kind": "pin", "item": "nowhere", "slot": 5},
        {"id": "up", "kind": "boost", "factor": 2, **acme},
        {"id": "down", "kind": "bury", "numbers": [{"namespace": "stock", "op": "LESS", "value": 3}]},
        {"id": "later", "kind": "bury", **acme, "from": "2999-01-01", "surfaces": ["home"]},
        {"id": "none", "kind": "boost", "factor": 2, "allow": {"brand": ["zed"]}},
        {"id": "sellers", "kind": "cap", "namespace": "seller", "most": 1},
        {"id": "band", "kind": "price_band", "number": "price", "low": 0.5, "high": 2},
        {"id": "few", "kind": "filter", "items": ["i0"], "surfaces": ["cellar"]},
        {"id": "d1", "kind": "diversity"},
        {"id": "d2", "kind": "diversity"},
    ]
    found = {(each.problem, each.rule_ids) for each in lint(rules_of(told), version.columns, now_ms=JANUARY)}
    assert found == {
        ("expired", ("old",)),
        ("hidden-pin", ("zero", "stock")),
        ("same-slot", ("zero", "one")),
        ("matches-nothing", ("gone",)),
        ("boost-and-bury", ("up", "down")),
        ("boost-and-bury", ("up", "later")),
        ("matches-nothing", ("none",)),
        ("matches-nothing", ("sellers",)),
        ("matches-nothing", ("band",)),
        ("nothing-left", ("stock", "few")),
        ("two-diversities", ("d1", "d2")),
    }


def test_every_kind_has_a_rule_that_is_read() -> None:
    needed = {"items": ["a"], "namespace": "n", "number": "n", "most": 1, "factor": 1, "slot": 1, "item": "a"}
    needed |= {"low": 0.5, "high": 2}
    uses = {
        "filter": ["items"],
        "hide": ["items"],
        "in_stock": ["number"],
        "price_band": ["number", "low", "high"],
        "not_same": ["namespace"],
        "pin": ["item", "slot"],
        "boost": ["items", "factor"],
        "bury": ["items"],
        "cap": ["namespace", "most"],
        "collapse": ["namespace"],
        "diversity": [],
    }
    assert uses.keys() == KINDS.keys()
    for kind, names in uses.items():
        (rule,) = rules_of([{"id": "x", "kind": kind, **{name: needed[name] for name in names}}]).rules
        assert rule.kind == kind


def test_an_item_with_several_tokens_counts_as_the_first(tmp_path: Path) -> None:
    builder = ColumnsBuilder(tmp_path / "staged")
    for item, tokens in (("a", ("z", "b")), ("b", ("b",)), ("c", ()), ("d", ("z",))):
        builder.add(Datapoint(item, (Restrict("brand", tokens),) if tokens else ()))
    builder.write(tmp_path / "columns")
    from matching.columns import Columns

    columns = Columns.open(tmp_path / "columns")
    codes = columns.token_codes("brand").tolist()
    assert codes[0] == codes[1] != codes[3]
    assert codes[2] == -1
    assert columns.token_codes("nothing").tolist() == [-1] * 4
    assert Rulebook(rules_of([])).holding(columns, ["a"], surface="", now_ms=0).rules == ()
