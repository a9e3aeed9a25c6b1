"""A real service applies a shop's rules: alike over HTTP and gRPC, by alias and by variant, the newest there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from matching.datapoint import Datapoint, NumericRestrict, Restrict
from matching.rules import RuleStore
from matching.rules.parsing import rules_of
from matching.store import Store
from serving.endpoint import Endpoint, Variant
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import RecommendationServiceStub
from tests.services import Shop
from tests.versions import build_version
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Start

RULES: list[dict[str, Any]] = [
    {"id": "stock", "kind": "in_stock", "number": "stock"},
    {"id": "two-a-brand", "kind": "cap", "namespace": "brand", "most": 2, "strict": True},
    {"id": "first", "kind": "pin", "item": "i07", "slot": 2},
    {"id": "bolts", "kind": "boost", "factor": 5, "allow": {"brand": ["bolt"]}},
    {"id": "cellar", "kind": "hide", "items": ["i09"], "surfaces": ["cellar"]},
]


def put(store: Path, alias: str, rules: list[dict[str, Any]]) -> str:
    return RuleStore(store).put(alias, rules_of(rules), why="test").new


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return ruled_shop(tmp_path_factory.mktemp("shop") / "store")


def ruled_shop(path: Path) -> Shop:
    store = Store(path, create=True)
    items = [
        Datapoint(
            f"i{at:02d}",
            (Restrict("brand", (("acme", "bolt", "cord")[at % 3],)),),
            (NumericRestrict("stock", at % 4, "int64"),),
        )
        for at in range(40)
    ]
    build_version(
        store, items, np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32), "cosine", alias="index"
    )
    put(store.path, "shop", RULES)
    put(store.path, "bare", [])
    arms = [Variant("ruled", 0.5, index="index"), Variant("bare", 0.5, index="index", knobs={"rules": "bare"})]
    store.set_endpoint("home", Endpoint.create("home", arms).as_json(), n_before=0, why="test")
    return Shop(store.path, "home")


@pytest.fixture(scope="module")
def service(shop: Shop, start_service: Start) -> Iterator[Service]:
    with start_service(shop, recommend={"rules": "shop", "sources": {"content": 1.0}}, follow_s=0.05) as service:
        service.wait_until_ready()
        yield service


def ask(service: Service, k: int = 6, unit: str = "u", **asked: Any) -> dict[str, Any]:
    code, _, told = service.ask("POST", "/v1/recommend", {"items": ["i00"], "k": k, **asked}, {"x-likewise-unit": unit})
    assert code == 200, told
    answer: dict[str, Any] = told
    return answer


def unit_of(service: Service, variant: str) -> str:
    return next(unit for unit in map(str, range(100)) if ask(service, unit=unit)["variant"] == variant)


def test_both_transports_tell_what_the_rules_did(service: Service, channel: grpc.Channel, shop: Shop) -> None:
    unit = unit_of(service, "ruled")
    told = ask(service, unit=unit)
    request = pb.RecommendRequest(items=["i00"], k=6)
    answered = RecommendationServiceStub(channel).Recommend(request, metadata=[("x-likewise-unit", unit)])
    assert told["rulesVersion"] == answered.rules_version == RuleStore(shop.store).resolve("shop")
    assert [(place.item_id, list(place.rules)) for place in answered.items] == [
        (place["itemId"], place["rules"]) for place in told["items"]
    ]
    names = ("rule_id", "kind", "removed", "moved", "cost", "yielded")
    assert [tuple(getattr(each, name) for name in names) for each in answered.rules] == [
        tuple(each["ruleId" if name == "rule_id" else name] for name in names) for each in told["rules"]
    ]
    assert [list(each.brought) for each in answered.rules] == [each["brought"] for each in told["rules"]]
    shown = [place["itemId"] for place in told["items"]]
    assert [each["ruleId"] for each in told["rules"]] == ["stock", "two-a-brand", "first", "bolts"]
    assert told["rules"][0]["removed"] == 9  # the tenth is the item of the page
    assert shown[1] == "i07"
    assert "first" in told["items"][1]["rules"]
    brands = [int(item[1:]) % 3 for item in shown]
    assert len(shown) == 6
    assert max(map(brands.count, brands)) == 2
    assert all(int(item[1:]) % 4 for item in shown)
    assert {rule for place in told["items"] for rule in place["rules"]} >= {"first", "bolts"}


def test_surfaces_and_variants_have_their_own_rules(service: Service) -> None:
    ruled, bare = (ask(service, k=40, unit=unit_of(service, variant)) for variant in ("ruled", "bare"))
    assert len(ruled["items"]) == 6  # two of each brand, and the cap is strict
    assert (len(bare["items"]), bare["rules"]) == (39, [])
    assert bare["rulesVersion"] != ruled["rulesVersion"]


def test_a_service_follows_the_alias_and_keeps_what_it_has_where_a_file_is_damaged(
    service: Service, shop: Shop
) -> None:
    unit = unit_of(service, "ruled")
    newer = put(shop.store, "shop", [*RULES, {"id": "seven", "kind": "hide", "items": ["i07"]}])
    wait_until(lambda: ask(service, unit=unit)["rulesVersion"] == newer)
    assert "i07" not in [place["itemId"] for place in ask(service, unit=unit)["items"]]
    damaged = put(shop.store, "other", RULES[:1])
    file = shop.store / "rules" / "sets" / f"{damaged}.json"
    file.write_bytes(file.read_bytes().replace(b"stock", b"stick"))
    RuleStore(shop.store).set_alias("shop", damaged, why="test")
    wait_until(lambda: ask(service, unit=unit)["degraded"])
    assert ask(service, unit=unit)["rulesVersion"] == newer
    back = put(shop.store, "shop", RULES)
    wait_until(lambda: ask(service, unit=unit)["rulesVersion"] == back)
    assert ask(service, unit=unit)["degraded"] is False
