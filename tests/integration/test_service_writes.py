"""Writes over HTTP and gRPC: seen by who gives their token, kept over a kill, refused alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format

from serving.wire import likewise_pb2 as pb
from serving.wire import schema
from serving.wire.likewise_pb2_grpc import IndexServiceStub, MatchServiceStub

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

VECTOR = [9.0, 9, 9, 9, 9, 9, 9, 9]
BOOT: dict[str, Any] = {
    "datapointId": "boot",
    "featureVector": VECTOR,
    "restricts": [{"namespace": "color", "allowList": ["violet"]}],
    "numericRestricts": [{"namespace": "price", "valueDouble": 79.5}, {"namespace": "stock", "valueInt": "3"}],
    "crowdingTag": {"crowdingAttribute": "brand-new"},
    "embeddingMetadata": {"title": "Boot"},
}


@pytest.fixture(scope="module")
def service(vector_shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("write-log")
    with start_service(vector_shop, write_log=str(log), max_writes=50) as running:
        running.wait_until_ready()
        yield running


def posted(service: Service, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    got, _, answer = service.ask("POST", path, body)
    assert got == status, answer
    return dict(answer)


def nearest(service: Service, token: str, **query: Any) -> list[str]:
    asked = {"datapoint": {"featureVector": VECTOR, **query}, "neighborCount": 3}
    answer = posted(service, "/v1/findNeighbors", {"queries": [asked], "minVersion": token})
    return [each["datapoint"]["datapointId"] for each in answer["nearestNeighbors"][0]["neighbors"]]


def test_a_write_is_seen_by_who_gives_its_token(service: Service) -> None:
    written = posted(service, "/v1/upsertDatapoints", {"datapoints": [BOOT]})
    token = written["versionToken"]
    assert nearest(service, token)[0] == "boot"
    violet = [{"namespace": "color", "allowList": ["violet"]}]
    assert nearest(service, token, restricts=violet) == ["boot"]
    read = posted(service, "/v1/readIndexDatapoints", {"ids": ["boot"], "minVersion": token})["datapoints"][0]
    assert {name: read[name] for name in BOOT if name != "restricts"} == {
        name: BOOT[name] for name in BOOT if name != "restricts"
    }
    facets = service.ask("GET", "/v1/facets?namespace=color")[2]["tokens"]["color"]
    assert {"token": "violet", "count": 1} in facets

    sale = {"datapointId": "boot", "numericRestricts": [{"namespace": "price", "valueDouble": -1}]}
    changed = posted(service, "/v1/upsertDatapoints", {"datapoints": [sale], "updateMask": "all_restricts"})
    cheap = [{"namespace": "price", "valueDouble": 0, "op": "LESS"}]
    assert nearest(service, changed["versionToken"], numericRestricts=cheap) == ["boot"]
    assert nearest(service, changed["versionToken"], restricts=violet) == []  # all restricts, not those given alone

    removed = posted(service, "/v1/removeDatapoints", {"datapointIds": ["boot", "never there"]})
    assert "boot" not in nearest(service, removed["versionToken"])
    posted(service, "/v1/readIndexDatapoints", {"ids": ["boot"]}, status=404)
    version = service.ask("GET", "/v1/versions/current")[2]
    assert int(version["versionToken"]) >= int(removed["versionToken"])


def test_the_document_s_examples_work(service: Service) -> None:
    paths = service.ask("GET", "/openapi.json")[2]["paths"]
    for path in ("/v1/upsertDatapoints", "/v1/removeDatapoints"):
        example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        schema.WriteResponse.model_validate(posted(service, path, example))


def test_grpc_writes_alike(service: Service, channel: grpc.Channel) -> None:
    index, match = IndexServiceStub(channel), MatchServiceStub(channel)
    point = json_format.ParseDict(BOOT, pb.IndexDatapoint())
    written = index.UpsertDatapoints(pb.UpsertDatapointsRequest(index="indexes/1", datapoints=[point]))
    query = pb.FindNeighborsRequest.Query(datapoint=pb.IndexDatapoint(feature_vector=VECTOR), neighbor_count=1)
    asked = pb.FindNeighborsRequest(queries=[query], return_full_datapoint=True, min_version=written.version_token)
    found = match.FindNeighbors(asked).nearest_neighbors[0].neighbors[0].datapoint
    assert found == point
    sale = pb.UpsertDatapointsRequest(datapoints=[pb.IndexDatapoint(datapoint_id="boot")])
    sale.update_mask.paths.append("all_restricts")
    changed = index.UpsertDatapoints(sale)
    read = pb.ReadIndexDatapointsRequest(ids=["boot"], min_version=changed.version_token)
    bare = match.ReadIndexDatapoints(read).datapoints[0]
    assert list(bare.restricts) == list(bare.numeric_restricts) == []
    assert bare.feature_vector == point.feature_vector
    removed = index.RemoveDatapoints(pb.RemoveDatapointsRequest(datapoint_ids=["boot"], request_id="gone"))
    again = index.RemoveDatapoints(pb.RemoveDatapointsRequest(datapoint_ids=["boot"], request_id="gone"))
    assert (again.version_token, again.is_repeat) == (removed.version_token, True)
    assert "boot" not in nearest(service, str(removed.version_token))


REFUSED = [
    ({"datapoints": []}, "no datapoints"),
    ({"datapoints": [{**BOOT, "featureVector": [1.0]}]}, "expected [m, 8]"),
    ({"datapoints": [{**BOOT, "featureVector": [1e20] * 8}]}, "whose norm is not within"),
    ({"datapoints": [{"datapointId": "boot"}]}, "has 0 vectors in space 'vectors'"),
    ({"datapoints": [{**BOOT, "datapointId": ""}]}, "expected 1 to 1024 bytes"),
    ({"datapoints": [{**BOOT, "numericRestricts": [{"namespace": "stock", "valueDouble": 1}]}]}, "which holds int64"),
    ({"datapoints": [{**BOOT, "featureVectors": {"pictures": [1.0]}}]}, "has vectors of ['pictures']"),
    ({"datapoints": [BOOT], "updateMask": "embedding"}, "expected all_restricts"),
    ({"datapoints": [BOOT] * 51}, "at most 50"),
    (
        {"datapoints": [{**BOOT, "numericRestricts": [{"namespace": "stock", "valueInt": "1", "op": "LESS"}]}]},
        "a datapoint has numbers without one",
    ),
]


@pytest.mark.parametrize(("body", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_a_bad_write_is_refused_by_both_in_one_voice(
    service: Service, channel: grpc.Channel, body: dict[str, Any], says: str
) -> None:
    status, _, answer = service.ask("POST", "/v1/upsertDatapoints", body)
    assert status == (413 if says == "at most 50" else 400)
    assert says in answer["error"]["message"]
    request = pb.UpsertDatapointsRequest()
    for point in body["datapoints"]:
        vectors = {space: {"values": vector} for space, vector in point.get("featureVectors", {}).items()}
        request.datapoints.append(json_format.ParseDict({**point, "featureVectors": vectors}, pb.IndexDatapoint()))
    request.update_mask.paths.extend([body["updateMask"]] if "updateMask" in body else [])
    with pytest.raises(grpc.RpcError) as refused:
        IndexServiceStub(channel).UpsertDatapoints(request)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if says == "at most 50" else grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.code() == code
    assert says in refused.value.details()


def test_the_future_is_not_waited_for_beyond_the_deadline(service: Service, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as late:
        MatchServiceStub(channel).ReadIndexDatapoints(
            pb.ReadIndexDatapointsRequest(ids=["item-0042"], min_version=10**9), timeout=0.3
        )
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_service_without_a_log_says_how_to_get_one(vector_service: Service) -> None:
    answer = posted(vector_service, "/v1/upsertDatapoints", {"datapoints": [BOOT]}, status=400)
    assert "--log" in answer["error"]["message"]
    body = {"queries": [{"datapoint": {"datapointId": "item-0042"}}], "minVersion": "7"}
    assert "takes no writes" in posted(vector_service, "/v1/findNeighbors", body, status=400)["error"]["message"]
    assert vector_service.ask("GET", "/readyz")[2]["writes"] == "off"
