"""A real service recommends: the same over HTTP and gRPC, under the limits of a search, from the newest champion."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict

from matching.datapoint import Datapoint, Restrict
from matching.interactions import read_events
from matching.recommend import ModelStore
from matching.recommend.model_store import model_id_of
from matching.sources.training import train
from matching.store import Store
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import RecommendationServiceStub
from tests.interactions import NOW, random_interactions
from tests.services import Shop
from tests.versions import build_version
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Start

KNOWN = random_interactions(8, n_items=40, n=900)
SOURCES = {"sequential-rules": 1.0, "bought-together": 1.0, "trending": 0.0}


def new_model(store: Path, source: str, *, until: int = NOW) -> str:
    model_id = model_id_of(train(ModelStore(store), source, KNOWN, now_ms=until))
    ModelStore(store).set_alias(source, model_id, why="test")
    return model_id


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    store = Store(tmp_path_factory.mktemp("shop") / "store", create=True)
    items = [Datapoint(item, (Restrict("half", (str(at % 2),)),)) for at, item in enumerate(KNOWN.item_ids)]
    vectors = np.random.default_rng(1).normal(size=(len(items), 8)).astype(np.float32)
    build_version(store, items, vectors, "cosine", alias="shop")
    for source in SOURCES:
        new_model(store.path, source)
    return Shop(store.path, "shop")


@pytest.fixture(scope="module")
def service(shop: Shop, start_service: Start) -> Iterator[Service]:
    recommend = {"sources": SOURCES, "surfaces": {"basket": {"bought-together": 1.0, "content": 0.5}}}
    with start_service(shop, recommend=recommend, follow_s=0.05, max_ids=20) as service:
        service.wait_until_ready()
        yield service


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"items": ["i003"], "k": 7, "sessionId": "s"},
        {"items": ["i003", "nowhere"], "basket": ["i001"], "surface": "basket", "userId": "u"},
        {"basket": ["i001"], "k": 40, "restricts": [{"namespace": "half", "allowList": ["1"]}], "exclude": ["i005"]},
        {
            "excludeSeen": True,
            "excludeBought": True,
            "userId": "u",
            "restricts": [{"namespace": "half", "denyList": ["0"]}],
        },
    ],
)
def test_both_transports_answer_alike(service: Service, channel: grpc.Channel, asked: dict[str, Any]) -> None:
    code, _, told = service.ask("POST", "/v1/recommend", asked)
    assert code == 200, told
    message = pb.RecommendRequest()
    for name, value in asked.items():
        field = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        if name == "restricts":
            for each in value:
                message.restricts.add(
                    namespace="half", allow_list=each.get("allowList", []), deny_list=each.get("denyList", [])
                )
        elif isinstance(value, list):
            getattr(message, field).extend(value)
        else:
            setattr(message, field, value)
    answered = RecommendationServiceStub(channel).Recommend(message)
    assert MessageToDict(answered)["indexVersion"] == told["indexVersion"] == service.index_version
    assert dict(answered.models) == told["models"]
    assert [(each.item_id, each.score, list(each.sources), each.reason, each.because) for each in answered.items] == [
        (each["itemId"], each["score"], each["sources"], each["reason"], each["because"]) for each in told["items"]
    ]
    assert (answered.degraded, answered.n_matching, answered.variant) == (False, told["nMatching"], told["variant"])
    assert len(told["items"]) == min(asked.get("k", 10), told["nMatching"])
    assert told["recommendationId"] != answered.recommendation_id
    shown = {each["itemId"] for each in told["items"]}
    assert not shown & {*asked.get("items", []), *asked.get("basket", []), *asked.get("exclude", [])}
    if "restricts" in asked:
        assert {int(item[1:]) % 2 for item in shown} == {1}


@pytest.mark.parametrize(
    ("asked", "status", "what"),
    [
        ({"surface": "cellar"}, 400, "surface 'cellar' is not configured; expected one of basket"),
        ({"k": 0}, 400, "[recommend] k is 0"),
        ({"k": 5000}, 413, "at most 1,000"),
        ({"items": ["x"] * 21}, 413, "21 items, basket and exclude together; at most 20"),
        ({"userId": "x" * 1001}, 413, "at most 1,000"),
        ({"item": ["x"]}, 400, "item: Extra inputs"),
        ({"items": "x"}, 400, "items: Input should be a valid list"),
        ({"restricts": [{"name space": "x"}]}, 400, "name space"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_cure(
    service: Service, asked: dict[str, Any], status: int, what: str
) -> None:
    code, _, told = service.ask("POST", "/v1/recommend", asked)
    assert (code, what in told["error"]["message"]) == (status, True), told


def test_the_service_follows_the_champion(service: Service, shop: Shop) -> None:
    def asks() -> dict[str, Any]:
        answer: dict[str, Any] = service.ask("POST", "/v1/recommend", {"k": 3})[2]
        return answer

    before = asks()
    model_id = new_model(shop.store, "trending", until=NOW // 2)
    assert before["models"]["trending"] != model_id
    wait_until(lambda: asks()["models"]["trending"] == model_id)
    damaged = new_model(shop.store, "trending")
    file = shop.store / "models" / "trending" / damaged / "model.likewise"
    wait_until(lambda: asks()["models"]["trending"] == damaged)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()  # what is mapped stays
    file.write_bytes(content)
    ModelStore(shop.store).set_alias("trending", model_id, why="test")
    wait_until(lambda: asks()["models"]["trending"] == model_id)
    assert asks()["degraded"] is False
    ModelStore(shop.store).set_alias("trending", damaged, why="test")
    wait_until(lambda: asks()["degraded"])
    assert asks()["models"]["trending"] == model_id
    ModelStore(shop.store).set_alias("trending", model_id, why="test")
    wait_until(lambda: not asks()["degraded"])


def test_a_source_without_a_model_keeps_the_service_from_starting(shop: Shop, start_service: Start) -> None:
    with (
        pytest.raises(AssertionError, match="source 'ease' has no model 'champion'"),
        start_service(shop, recommend={"sources": {"ease": 1.0}}),
    ):
        pass


def test_a_real_shop_is_recommended_to(data_dir: Path, tmp_path: Path, start_service: Start) -> None:
    import pyarrow.parquet as pq

    folder = data_dir / "interactions" / "online_retail"
    cut_ms = int(datetime(2011, 10, 9, tzinfo=timezone.utc).timestamp() * 1000)
    store = Store(tmp_path / "store", create=True)
    ids = pq.read_table(folder / "items.parquet", columns=["item_id"]).column("item_id").to_pylist()
    vectors = np.random.default_rng(2).normal(size=(len(ids), 16)).astype(np.float32)
    build_version(store, [Datapoint(item) for item in ids], vectors, "cosine", alias="retail", build={"plan": "flat"})
    interactions = read_events(folder / "events.parquet", weights={"purchase": 1.0})
    sources = ("popular", "sequential-rules", "item-knn", "ease", "bought-together")
    models = ModelStore(store.path)
    for source in sources:
        model_id = model_id_of(train(models, source, interactions, now_ms=cut_ms))
        models.set_alias(source, model_id, why="test")
    after = interactions.between(cut_ms, cut_ms + 30 * 86_400_000)
    hits = n = 0
    with start_service(Shop(store.path, "retail"), recommend={"sources": dict.fromkeys(sources, 1.0)}) as service:
        service.wait_until_ready()
        rng = np.random.default_rng(0)
        for user in rng.choice(np.unique(after.users), 150, replace=False).tolist():
            history = interactions.between(0, cut_ms).history(user)
            if not len(history.items):
                continue
            bought = [interactions.item_ids[item] for item in dict.fromkeys(history.items.tolist()[::-1])][:50]
            taken = {interactions.item_ids[item] for item in after.history(user).items}
            code, _, told = service.ask("POST", "/v1/recommend", {"basket": bought[::-1], "k": 10})
            assert code == 200, told
            assert len(told["items"]) == 10
            n += 1
            hits += any(each["itemId"] in taken - set(bought) for each in told["items"])
    assert n > 80
    assert hits / n > 0.25  # popular items alone reach that of a quarter of the users


def test_events_change_the_next_answer_and_outlive_a_restart(shop: Shop, start_service: Start, tmp_path: Path) -> None:
    recommend = {"sources": {"sequential-rules": 1.0, "trending": 0.0}}
    log = {"log": str(tmp_path / "events.sqlite")}

    def ask(service: Service, **asked: Any) -> list[dict[str, Any]]:
        code, _, told = service.ask("POST", "/v1/recommend", {"k": 5, **asked})
        assert code == 200, told
        items: list[dict[str, Any]] = told["items"]
        return items

    def tell(service: Service, name: str, kind: str, item: str, **who: str) -> None:
        event = {"eventId": name, "eventType": kind, "items": [{"itemId": item}], **who}
        code, _, told = service.ask("POST", "/v1/events", {"events": [event]})
        assert (code, told["results"][0]["status"]) == (200, "accepted"), told

    with start_service(shop, recommend=recommend, events=log) as service:
        service.wait_until_ready()
        nobody = ask(service, sessionId="visit")
        assert {each["sources"][0] for each in nobody} == {"trending"}
        tell(service, "e1", "view", "i003", sessionId="visit")
        visited = ask(service, sessionId="visit")
        assert visited != nobody
        assert {(each["sources"][0], each["because"]) for each in visited} == {("sequential-rules", "i003")}
        assert ask(service, sessionId="another visit") == ask(service, userId="ann") == nobody
        tell(service, "e2", "purchase", visited[0]["itemId"], sessionId="visit", userId="ann")
        known = ask(service, userId="ann")
        assert known == ask(service, userId="ann", sessionId="visit") != nobody
        assert ask(service, sessionId="visit") == nobody  # what was done in it is ann's now
        without = ask(service, userId="ann", k=40, excludeBought=True)
        assert visited[0]["itemId"] not in {each["itemId"] for each in without}
        assert len(without) == 39
        assert len(ask(service, userId="ann", k=40, excludeSeen=True)) == 38
    with start_service(shop, recommend=recommend, events=log) as service:
        service.wait_until_ready()
        again = ask(service, userId="ann")
        assert [(each["itemId"], each["because"]) for each in again] == [
            (each["itemId"], each["because"]) for each in known
        ]
        assert len(ask(service, userId="ann", k=40, excludeSeen=True)) == 38
