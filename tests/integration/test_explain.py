"""Slates explained, given items ranked and batches answered by a real service, alike over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import RecommendationServiceStub
from tests.integration.test_rules_service import ruled_shop

if TYPE_CHECKING:
    from tests.services import Service, Start

UNIT = ("x-likewise-unit", "2")  # of one variant or the other, the same for both transports
ASKED: dict[str, Any] = {
    "items": ["i00"],
    "k": 5,
    "exclude": ["i10"],
    "restricts": [{"namespace": "brand", "denyList": ["cord"]}],
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: Start) -> Iterator[Service]:
    shop = ruled_shop(tmp_path_factory.mktemp("shop") / "store")
    settings = {"rules": "shop", "surfaces": {"cellar": {"content": 1.0}}}
    with start_service(shop, recommend=settings, max_queries=4, max_ids=50) as service:
        service.wait_until_ready()
        yield service


def ask(service: Service, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    code, _, told = service.ask("POST", path, body, dict([UNIT]))
    assert code == status, told
    answer: dict[str, Any] = told
    return answer


def call(channel: grpc.Channel, method: str, message: Any) -> dict[str, Any]:
    answer = getattr(RecommendationServiceStub(channel), method)(message, metadata=[UNIT])
    return MessageToDict(answer, always_print_fields_with_no_presence=True)


def alike(told: Any) -> Any:
    """What both transports say, but for what is new in each answer and for how JSON writes large numbers."""
    if isinstance(told, dict):
        return {name: alike(value) for name, value in told.items() if name != "recommendationId"}
    if isinstance(told, list):
        return [alike(each) for each in told]
    return int(told) if isinstance(told, str) and told.isdigit() else told


@pytest.mark.parametrize("item", ["i00", "i07", "i08", "i10", "i11", "i13", "i39", "nowhere"])
def test_an_item_is_explained(service: Service, channel: grpc.Channel, item: str) -> None:
    told = ask(service, "/v1/explain", {"request": ASKED, "itemId": item})
    message = pb.ExplainRequest(request=ParseDict(ASKED, pb.RecommendRequest()), item_id=item)
    over_grpc = call(channel, "Explain", message)
    over_grpc["outcome"] = over_grpc["outcome"].lower()
    assert alike(over_grpc) == alike(told)
    shown = [place["itemId"] for place in ask(service, "/v1/recommend", ASKED)["items"]]
    assert told["place"] == (shown.index(item) + 1 if item in shown else 0)
    assert (told["outcome"] == "shown") == (item in shown)
    if item in ("i00", "i10"):
        assert told["outcome"] == "excluded"
        assert told["filters"][0] == ("an item of the request" if item == "i00" else "exclude")
    if item in ("i08", "i11"):  # of the brand that is denied
        assert told["outcome"] == "filtered"
        assert "brand" in told["filters"]
    if item == "nowhere":
        assert (told["outcome"], told["message"]) == ("unknown", "the catalogue does not have it")
    if item == "i13" and told["rank"]:
        assert told["score"] == pytest.approx(sum(each["contribution"] for each in told["sources"]))


def test_given_items_are_ranked(service: Service, channel: grpc.Channel) -> None:
    body = {"request": {"items": ["i00"]}, "itemIds": ["i30", "i01", "nowhere", "i00", "i05", "i30"]}
    told = ask(service, "/v1/rank", body)
    message = pb.RankRequest(request=pb.RecommendRequest(items=["i00"]), item_ids=body["itemIds"])
    assert alike(call(channel, "Rank", message)) == alike(told)
    assert {place["itemId"] for place in told["slate"]["items"]} == {"i30", "i01", "i05"}
    assert told["leftOut"] == [{"itemId": "nowhere", "why": "unknown"}, {"itemId": "i00", "why": "not_allowed"}]
    kept = ask(service, "/v1/rank", {"request": {"surface": ""}, "itemIds": ["i31", "i02", "i21"]})["slate"]["items"]
    ids = [place["itemId"] for place in kept]
    assert (
        ids == ["i31", "i02", "i21"] or "bolts" in kept[0]["rules"]
    )  # nothing is known: the caller's order, then rules


def test_each_request_of_a_batch_has_a_slate_or_an_error(service: Service, channel: grpc.Channel) -> None:
    requests: list[Any] = [ASKED, {"k": 0}, {"surface": "attic"}]
    told = ask(service, "/v1/batchRecommend", {"requests": requests})["results"]
    assert [place["itemId"] for place in told[0]["slate"]["items"]] == [
        place["itemId"] for place in ask(service, "/v1/recommend", ASKED)["items"]
    ]
    assert [each["error"]["status"] for each in told[1:]] == ["INVALID_ARGUMENT"] * 2
    requests[1] = {"k": -1}
    message = pb.BatchRecommendRequest(requests=[ParseDict(each, pb.RecommendRequest()) for each in requests])
    over_grpc = call(channel, "BatchRecommend", message)["results"]
    assert alike(over_grpc[0]) == alike(told[0])
    assert [each["error"]["code"] for each in over_grpc[1:]] == [3, 3]
    assert (
        "[request]" in ask(service, "/v1/batchRecommend", {"requests": [{"kk": 1}]})["results"][0]["error"]["message"]
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "what"),
    [
        ("/v1/explain", {"request": ASKED}, 400, "itemId: Field required"),
        ("/v1/explain", {"request": ASKED, "itemId": ""}, 400, "names no item"),
        ("/v1/explain", {"request": [], "itemId": "i01"}, 400, "request is not an object"),
        ("/v1/rank", {"request": ASKED, "itemIds": []}, 400, "no items to rank"),
        ("/v1/rank", {"request": ASKED, "itemIds": ["x"] * 51}, 413, "51 items; at most 50"),
        ("/v1/rank", {"request": {"kk": 1}, "itemIds": ["x"]}, 400, "kk"),
        ("/v1/batchRecommend", {"requests": []}, 400, "no requests"),
        ("/v1/batchRecommend", {"requests": [{}] * 5}, 413, "5 requests in one batch; at most 4"),
        ("/v1/batchRecommend", {"requests": [1]}, 400, "expected that and nothing else"),
    ],
)
def test_what_cannot_be_answered_is_refused(service: Service, path: str, body: Any, status: int, what: str) -> None:
    assert what in ask(service, path, body, status)["error"]["message"]
