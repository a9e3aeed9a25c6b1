"""One service of several endpoints: each has its versions, its write log and its name on every wire."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from matching.store import Store
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import MatchServiceStub
from tests.integration.test_deployment import DIM, N, new_version, post
from tests.services import Service, Shop, Start

BODY = {"queries": [{"datapoint": {"featureVector": [0.1] * DIM}, "neighborCount": 50}]}


def marks(service: Service, path: str = "/v1/findNeighbors", headers: dict[str, str] | None = None) -> set[str]:
    """Return how the ids of an answer begin; the first ten are in every version."""
    status, _, answer = service.ask("POST", path, BODY, headers)
    assert status == 200, answer
    return {n["datapoint"]["datapointId"][0] for n in answer["nearestNeighbors"][0]["neighbors"]} - {"0"}


def test_each_endpoint_answers_writes_and_moves_by_itself(tmp_path: Path, start_service: Start) -> None:
    store = Store(tmp_path / "store", create=True)
    ids = {name: new_version(store, name[0]) for name in ("art", "books", "cars")}
    store.set_alias("shop", ids["art"], why="test")
    store.set_alias("similar", ids["books"], why="test")
    shop = Shop(store.path, "shop")
    with start_service(shop, also=("similar",), write_log=str(tmp_path / "logs"), follow_s=0.05) as service:
        service.wait_until_ready()
        named = {name: {"x-likewise-endpoint": name} for name in ("shop", "similar", "else")}
        vertex = "/v1/projects/p/locations/l/indexEndpoints/{}:findNeighbors"
        assert (marks(service), marks(service, headers=named["shop"])) == ({"a"}, {"a"})
        assert marks(service, headers=named["similar"]) == {"b"}
        assert marks(service, vertex.format("similar")) == {"b"}
        assert marks(service, vertex.format("shop")) == {"a"}
        for path, headers in (("/v1/findNeighbors", named["else"]), (vertex.format("else"), {})):
            status, _, answer = service.ask("POST", path, BODY, headers)
            assert (status, "expected shop, similar" in answer["error"]["message"]) == (404, True)

        query = pb.FindNeighborsRequest.Query(
            datapoint=pb.IndexDatapoint(feature_vector=[0.1] * DIM), neighbor_count=50
        )
        asked = pb.FindNeighborsRequest(queries=[query])
        with grpc.insecure_channel(service.grpc) as channel:
            find = MatchServiceStub(channel).FindNeighbors
            assert find(asked, metadata=[("x-likewise-endpoint", "similar")]).index_version == ids["books"]
            assert find(asked).index_version == ids["art"]
            with pytest.raises(grpc.RpcError, match="expected shop, similar"):
                find(asked, metadata=[("x-likewise-endpoint", "else")])

        # a write is seen by the endpoint that took it alone
        write = {"datapoints": [{"datapointId": "z-new", "featureVector": [0.1] * DIM}]}
        status, _, written = service.ask("POST", "/v1/upsertDatapoints", write, named["similar"])
        assert status == 200
        read = {"ids": ["z-new"], "minVersion": written["versionToken"]}
        assert service.ask("POST", "/v1/readIndexDatapoints", read, named["similar"])[0] == 200
        assert service.ask("POST", "/v1/readIndexDatapoints", {"ids": ["z-new"]})[0] == 404
        assert {each.name for each in (tmp_path / "logs").iterdir() if each.is_dir()} == {"shop", "similar"}

        # and so is a promotion
        post(service, "/v1/endpoints/similar:promote", {"version": ids["cars"], "why": "test"})
        assert marks(service) == {"a"}
        assert marks(service, headers=named["similar"]) - {"z"} == {"c"}
        assert (store.resolve("shop"), store.resolve("similar")) == (ids["art"], ids["cars"])
        state = service.ask("GET", "/readyz")[2]["endpoints"]
        assert {name: held["versions"] for name, held in state.items()} == {
            "shop": {"shop": ids["art"]},
            "similar": {"similar": ids["cars"]},
        }
        metrics = service.ask("GET", "/metrics")[2].decode()
        assert 'likewise_variant_answers_total{served="similar",variant="similar"}' in metrics
        assert f"likewise_index_datapoints {float(2 * N)}" in metrics
        listed = service.ask("GET", "/v1/endpoints")[2]["endpoints"]
        assert [each["name"] for each in listed] == ["shop", "similar"]
