"""Rules on the command line: put, list, show, lint and dry-run, and how each ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from matching.datapoint import Datapoint, Restrict
from matching.store import Store
from tests.commands import likewise
from tests.versions import build_version

RULES = """
[[rules]]
id = "one-a-brand"
kind = "cap"
namespace = "brand"
most = 1

[[rules]]
id = "house"
kind = "pin"
item = "i05"
slot = 1
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("shop") / "store", create=True)
    items = [Datapoint(f"i{at:02d}", (Restrict("brand", (f"b{at // 3}",)),)) for at in range(12)]
    vectors = np.cumsum(np.random.default_rng(1).normal(size=(12, 4)), axis=0).astype(np.float32)
    build_version(store, items, vectors, "l2", alias="shop")
    return store.path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rules") / "rules.toml"
    file.write_text(RULES)
    return file


def test_rules_are_put_listed_and_shown(store: Path, file: Path) -> None:
    first = likewise("rules", "put", "shop", file, "--why", "launch", "--store", store)
    assert (first["alias"], first["n_rules"], first["old"]) == ("shop", 2, None)
    second = likewise("rules", "put", "shop", file, "--store", store)
    assert second["old"] == first["new"]
    listed = likewise("rules", "list", "--store", store)
    assert {row["rules"] for row in listed} == {first["new"], second["new"]}
    shown = likewise("rules", "show", "shop", "--store", store)
    assert [rule["id"] for rule in shown["rules"]] == ["one-a-brand", "house"]
    assert [move["why"] for move in shown["history"]] == ["launch", "by hand"]
    back = likewise("rules", "alias", "shop", "--to", first["new"], "--why", "back", "--store", store)
    assert (back["old"], back["new"]) == (second["new"], first["new"])
    assert "no rules 'sale'" in likewise(
        *("endpoints", "create", "home", "--variant", "now=1@shop", "--knob", "now.rules=sale", "--store", store),
        status=2,
    )


def test_the_linter_ends_with_1_where_it_finds_something(store: Path, file: Path, tmp_path: Path) -> None:
    assert likewise("rules", "lint", file, "--store", store) == []
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps({"rules": [{"id": "x", "kind": "hide", "items": ["nowhere"]}]}))
    assert "1 findings" in likewise("rules", "lint", odd, "--store", store, status=1)
    odd.write_text(json.dumps({"rules": [{"id": "x", "kind": "heal"}]}))
    assert "kind is 'heal'" in likewise("rules", "lint", odd, "--store", store, status=2)


def test_a_dry_run_tells_both_slates_and_what_moved(store: Path, file: Path) -> None:
    request = json.dumps({"items": ["i00"], "k": 4})
    told = likewise("rules", "dry-run", file, "--request", request, "--store", store)
    before, after = ([place["item_id"] for place in told[slate]["places"]] for slate in ("before", "after"))
    assert after[0] == "i05" != before[0]
    assert len({int(item[1:]) // 3 for item in after}) == 4 > len({int(item[1:]) // 3 for item in before})
    cap, pin = told["after"]["rules"]
    assert cap["cost"] > 0
    assert set(cap["dropped"]) <= set(before)
    assert after[0] in told["after"]["rules"][1]["brought"] or pin["moved"] > 0
