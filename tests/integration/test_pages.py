"""Slates by pages: whatever happens meanwhile, no item twice and none left out, or a plain refusal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from matching.datapoint import Datapoint
from matching.rules import RuleStore
from matching.rules.parsing import rules_of
from matching.store import Store
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import RecommendationServiceStub
from tests.services import Shop
from tests.versions import build_version
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Start

N = 60
ASKED: dict[str, Any] = {"userId": "ann", "items": ["i00"]}


def build(store: Store, seed: int) -> str:
    vectors = np.random.default_rng(seed).normal(size=(N, 8)).astype(np.float32)
    return build_version(
        store, [Datapoint(f"i{at:02d}") for at in range(N)], vectors, "cosine", alias="shop"
    ).version_id


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("pages")
    store = Store(folder / "store", create=True)
    build(store, 1)
    RuleStore(store.path).put("shop", rules_of([{"id": "d", "kind": "diversity"}]), why="test")
    (folder / "keys").write_text("k" * 40 + "\n")
    return Shop(store.path, "shop")


@pytest.fixture(scope="module")
def service(shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("events") / "events.sqlite"
    recommend = {"rules": "shop", "page_key_file": str(shop.store.parent / "keys")}
    with start_service(shop, recommend=recommend, events={"log": str(log)}, follow_s=0.05) as service:
        service.wait_until_ready()
        yield service


def ask(service: Service, status: int = 200, **asked: Any) -> dict[str, Any]:
    code, _, told = service.ask("POST", "/v1/recommend", {**ASKED, **asked})
    assert code == status, told
    answer: dict[str, Any] = told
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [place["itemId"] for place in answer["items"]]


def view(service: Service, item: str, number: int) -> None:
    event = {"eventId": f"e{number}", "eventType": "view", "userId": "ann", "items": [{"itemId": item}]}
    code, _, told = service.ask("POST", "/v1/events", {"events": [event]})
    assert (code, told["results"][0]["status"]) == (200, "accepted")


def test_pages_are_the_slate_cut_into_pieces_whatever_the_user_does_meanwhile(service: Service) -> None:
    whole = ids(ask(service, k=25))
    first = ask(service, k=10, depth=25)
    view(service, "i33", 1)
    second = ask(service, k=7, pageToken=first["nextPageToken"])
    view(service, "i44", 2)
    third = ask(service, k=10, pageToken=second["nextPageToken"])
    assert ids(first) + ids(second) + ids(third) == whole
    assert [len(each["items"]) for each in (first, second, third)] == [10, 7, 8]
    assert third["nextPageToken"] == ""
    assert ids(ask(service, k=7, pageToken=first["nextPageToken"])) == ids(second)


def test_pages_end_with_what_there_is(service: Service) -> None:
    seen: list[str] = []
    answer = ask(service, k=25, depth=500)
    while True:
        seen += ids(answer)
        if not answer["nextPageToken"]:
            break
        answer = ask(service, k=25, pageToken=answer["nextPageToken"])
    assert len(seen) == len(set(seen)) == N - 1 == answer["nMatching"]
    assert ask(service, k=10)["nextPageToken"] == ""


def test_both_transports_take_each_others_tokens(service: Service, channel: grpc.Channel) -> None:
    first = ask(service, k=10, depth=25)
    recommend = RecommendationServiceStub(channel).Recommend
    request = pb.RecommendRequest(user_id="ann", items=["i00"], k=10, page_token=first["nextPageToken"])
    second = recommend(request)
    assert [item.item_id for item in second.items] == ids(ask(service, k=10, pageToken=first["nextPageToken"]))
    assert ids(ask(service, k=10, pageToken=second.next_page_token))
    fresh = recommend(pb.RecommendRequest(user_id="ann", items=["i00"], k=10, depth=25))
    assert [item.item_id for item in fresh.items] == ids(ask(service, k=10, depth=25))


def test_a_token_is_of_one_service_and_of_one_request(service: Service, shop: Shop, start_service: Start) -> None:
    token = ask(service, k=10, depth=25)["nextPageToken"]
    for wrong in (token[:-2] + "xx", "p1.a.b", "x", token.replace("p1.", "o1.", 1), "x" * 5000):
        assert "are not a token" in ask(service, 400, pageToken=wrong)["error"]["message"]
    for other in ({"userId": "bob"}, {"exclude": ["i01"]}, {"items": []}):
        assert "of another request" in ask(service, 400, **{**other, "pageToken": token})["error"]["message"]
    assert "[recommend] k is 0" in ask(service, 400, pageToken=token, k=0)["error"]["message"]
    assert ask(service, 413, k=10, depth=100_000)
    with start_service(shop, recommend={"rules": "shop"}) as stranger:
        stranger.wait_until_ready()
        assert "are not a token" in ask(stranger, 400, pageToken=token)["error"]["message"]


def test_a_replica_with_the_same_keys_goes_on(service: Service, shop: Shop, start_service: Start) -> None:
    asked = {"userId": "", "sessionId": "", "k": 10}
    first = ask(service, depth=25, **asked)
    recommend = {"rules": "shop", "page_key_file": str(shop.store.parent / "keys")}
    with start_service(shop, recommend=recommend) as replica:
        replica.wait_until_ready()
        assert ids(ask(replica, pageToken=first["nextPageToken"], **asked)) == ids(
            ask(service, pageToken=first["nextPageToken"], **asked)
        )


def test_a_token_of_what_is_gone_is_refused_with_what_is_gone(service: Service, shop: Shop) -> None:
    token = ask(service, k=10, depth=25)["nextPageToken"]
    newer = RuleStore(shop.store).put("shop", rules_of([]), why="test").new
    wait_until(lambda: ask(service)["rulesVersion"] == newer)
    assert f"and {newer} would answer now" in ask(service, 404, pageToken=token)["error"]["message"]
    token = ask(service, k=10, depth=25)["nextPageToken"]
    version_id = build(Store(shop.store), 2)
    wait_until(lambda: ask(service)["indexVersion"] == version_id)
    message = ask(service, 404, pageToken=token)["error"]["message"]
    assert "of the index version" in message
    assert "ask for the first page again" in message
