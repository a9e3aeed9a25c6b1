"""Sparse and hybrid searches over HTTP and gRPC: built from Vertex's files, written while served, alike on both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format

from index_builder.build import build_from_vectors
from index_builder.catalog.vector_files import open_vectors
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.fusion import Fusion, Ranking, fused, head_depth
from matching.store import Store
from serving.wire import likewise_pb2 as pb
from serving.wire import schema
from serving.wire.likewise_pb2_grpc import MatchServiceStub
from tests.services import Service, Shop

if TYPE_CHECKING:
    from tests.services import Start

N, DIM = 300, 8
RNG = np.random.default_rng(11)
VECTORS = RNG.normal(size=(N, DIM)).round(3)
SPARSE = [{int(d): float(w) for d, w in zip(RNG.choice(40, 5, replace=False), RNG.integers(1, 5, 5))} for _ in range(N)]
QUERY = [0.5, -1.0, 0.25, 1.0, 0.0, 0.75, -0.5, 1.0]
TERMS = {3: 1.0, 17: 2.0, 29: 1.0, 999: 5.0}


def has_vector(at: int) -> bool:
    return at % 10 != 0


def has_sparse(at: int) -> bool:
    return at % 10 != 5


def embedding(terms: dict[int, float]) -> dict[str, Any]:
    return {"dimensions": list(terms), "values": list(terms.values())}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("hybrid-shop")
    with (folder / "vectors.json").open("w") as file:
        for at in range(N):
            row: dict[str, Any] = {"id": f"{at:03d}", "restricts": [{"namespace": "half", "allow": [str(at % 2)]}]}
            row["crowding_tag"] = f"brand-{at % 7}"
            if has_vector(at):
                row["embedding"] = VECTORS[at].tolist()
            if has_sparse(at):
                row["sparse_embedding"] = embedding(SPARSE[at])
            file.write(json.dumps(row) + "\n")
    store = Store(folder / "store", create=True)
    built = build_from_vectors(
        store,
        open_vectors(folder / "vectors.json", metric="ip"),
        metric="ip",
        settings=BuildSettings(plan="flat", threads=1),
        progress=Silent(),
    )
    store.set_alias("hybrid", built.version_id, why="test")
    return Shop(store.path, "hybrid")


@pytest.fixture(scope="module")
def service(shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with start_service(shop, write_log=str(tmp_path_factory.mktemp("log"))) as running:
        running.wait_until_ready()
        yield running


def asked(service: Service, query: dict[str, Any], token: str = "0", status: int = 200) -> dict[str, Any]:
    got, _, answer = service.ask("POST", "/v1/findNeighbors", {"queries": [query], "minVersion": token})
    assert got == status, answer
    return answer if status != 200 else dict(answer["nearestNeighbors"][0])


def hybrid(k: int = 10, **more: Any) -> dict[str, Any]:
    point = {"featureVector": QUERY, "sparseEmbedding": embedding(TERMS)}
    return {"datapoint": point, "neighborCount": k, **more}


def inner(at: int) -> float:
    return sum(weight * SPARSE[at].get(term, 0.0) for term, weight in TERMS.items()) if has_sparse(at) else 0.0


def best(k: int, kind: Any, alpha: float) -> list[int]:
    """The ids of the best k, from scores of all datapoints."""
    depth = head_depth(k) if 0 < alpha < 1 else k
    dots = VECTORS.astype(np.float32) @ np.array(QUERY, np.float32)
    dense = sorted((at for at in range(N) if has_vector(at)), key=lambda at: (-dots[at], at))[:depth]
    sparse = sorted((at for at in range(N) if inner(at) > 0), key=lambda at: (-inner(at), at))[:depth]
    heads = [
        Ranking(np.array(rows), np.array([-score(at) for at in rows], np.float32))
        for rows, score in ((dense, lambda at: dots[at]), (sparse, inner))
    ]
    return fused(Fusion(kind, alpha), *heads)[:k].tolist()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 0.25])
@pytest.mark.parametrize(("field", "kind"), [("rrf", "rrf"), ("weighted", "score")])
def test_both_transports_fuse_what_all_scores_say(
    service: Service, channel: grpc.Channel, alpha: float, field: str, kind: str
) -> None:
    query = hybrid(**{field: {"alpha": alpha}})
    result = asked(service, query)
    schema.NearestNeighbors.model_validate(result)
    ids = [int(neighbor["datapoint"]["datapointId"]) for neighbor in result["neighbors"]]
    assert ids == best(10, kind, alpha)
    for at, neighbor in zip(ids, result["neighbors"], strict=True):
        expected = -float(VECTORS[at] @ QUERY) if has_vector(at) else 0.0
        assert neighbor["distance"] == pytest.approx(expected, abs=1e-4)
        assert neighbor["sparseDistance"] == -inner(at)
    request = json_format.ParseDict({"queries": [query]}, pb.FindNeighborsRequest())
    answer = MatchServiceStub(channel).FindNeighbors(request).nearest_neighbors[0]
    assert [int(neighbor.datapoint.datapoint_id) for neighbor in answer.neighbors] == ids
    assert [neighbor.sparse_distance for neighbor in answer.neighbors] == [
        neighbor["sparseDistance"] for neighbor in result["neighbors"]
    ]


def test_a_sparse_vector_alone_asks_the_sparse_side(service: Service) -> None:
    alone = {"datapoint": {"datapointId": "my-query", "sparseEmbedding": embedding(TERMS)}, "neighborCount": 10}
    result = asked(service, alone)
    assert result["id"] == "my-query"
    assert [int(n["datapoint"]["datapointId"]) for n in result["neighbors"]] == best(10, "rrf", 0.0)
    assert {n["distance"] for n in result["neighbors"]} == {0.0}
    unknown = asked(service, {"datapoint": {"sparseEmbedding": embedding({12345: 1.0})}})
    assert unknown["neighbors"] == []
    exposition = service.ask("GET", "/metrics")[2].decode()
    assert 'likewise_short_results_total{why="sparse"} 1.0' in exposition
    assert 'likewise_short_results_total{why="search"}' not in exposition


def test_filters_and_crowding_hold(service: Service) -> None:
    point = {"restricts": [{"namespace": "half", "allowList": ["1"]}]}
    query = hybrid(k=20, rrf={"alpha": 0.5}, perCrowdingAttributeNeighborCount=2)
    query["datapoint"] |= point
    neighbors = asked(service, query)["neighbors"]
    tags = [neighbor["datapoint"]["crowdingTag"]["crowdingAttribute"] for neighbor in neighbors]
    assert len(neighbors) == 14, "two of each of seven tags"
    assert max(tags.count(tag) for tag in tags) == 2
    assert all(int(neighbor["datapoint"]["datapointId"]) % 2 for neighbor in neighbors)


def test_without_a_ranking_both_sides_make_one_score(service: Service) -> None:
    result = asked(service, hybrid(k=1))
    joined = {at: 0.5 * float(VECTORS[at] @ QUERY) + 0.5 * inner(at) for at in range(N) if has_vector(at)}
    nearest = max(joined, key=lambda at: joined[at])
    [neighbor] = result["neighbors"]
    assert int(neighbor["datapoint"]["datapointId"]) == nearest
    assert neighbor["distance"] == pytest.approx(-joined[nearest], abs=1e-4)
    assert "sparseDistance" not in neighbor


def test_written_sides_are_searched(service: Service) -> None:
    new = [
        {"datapointId": "sparse-new", "sparseEmbedding": embedding({999: 20.0})},
        {"datapointId": "dense-new", "featureVector": [10 * x for x in QUERY]},
        {
            "datapointId": "both-new",
            "featureVector": [5 * x for x in QUERY],
            "sparseEmbedding": embedding({999: 10.0}),
        },
    ]
    status, _, written = service.ask("POST", "/v1/upsertDatapoints", {"datapoints": new})
    assert status == 200, written
    token = written["versionToken"]

    def found(alpha: float) -> list[str]:
        neighbors = asked(service, hybrid(k=2, rrf={"alpha": alpha}), token)["neighbors"]
        return [neighbor["datapoint"]["datapointId"] for neighbor in neighbors]

    assert found(0.0) == ["sparse-new", "both-new"]
    assert found(1.0) == ["dense-new", "both-new"]
    assert found(0.5)[0] == "both-new"
    names = [point["datapointId"] for point in new]
    _, _, removed = service.ask("POST", "/v1/removeDatapoints", {"datapointIds": names})
    token = removed["versionToken"]
    assert not {*found(0.0), *found(1.0)} & set(names)


@pytest.mark.parametrize("ranking", [{"rrf": {"alpha": 0.5}}, {"rrf": {"alpha": 0.0}}, {"weighted": {"alpha": 0.25}}])
def test_a_datapoint_asks_with_both_of_its_sides(service: Service, ranking: dict[str, Any]) -> None:
    by_id = {"datapoint": {"datapointId": "007"}, "neighborCount": 5, **ranking}
    own = {"featureVector": VECTORS[7].tolist(), "sparseEmbedding": embedding(SPARSE[7])}
    with_self = asked(service, {"datapoint": own, "neighborCount": 6, **ranking})["neighbors"]
    same = asked(service, {**by_id, "neighborCount": 6, "includeSelf": True})["neighbors"]
    assert [n["datapoint"] for n in same] == [n["datapoint"] for n in with_self]
    assert same[0]["datapoint"]["datapointId"] == "007"
    others = [n["datapoint"]["datapointId"] for n in asked(service, by_id)["neighbors"]]
    assert "007" not in others
    assert len(others) == 5


def test_both_sides_are_read_back(service: Service, channel: grpc.Channel) -> None:
    new = {"datapointId": "fresh", "sparseEmbedding": embedding({5: 2.5, 3: 1.5})}
    _, _, written = service.ask("POST", "/v1/upsertDatapoints", {"datapoints": [new]})
    ids = ["fresh", "003", "005", "000", "003"]
    body = {"ids": ids, "minVersion": written["versionToken"]}
    _, _, read = service.ask("POST", "/v1/readIndexDatapoints", body)
    schema.ReadIndexDatapointsResponse.model_validate(read)
    request = pb.ReadIndexDatapointsRequest(ids=ids, min_version=int(written["versionToken"]))
    message = MatchServiceStub(channel).ReadIndexDatapoints(request)
    expected: list[dict[int, float]] = [{5: 2.5, 3: 1.5}, SPARSE[3], {}, SPARSE[0], SPARSE[3]]
    for terms, told, point in zip(expected, read["datapoints"], message.datapoints, strict=True):
        sparse = told.get("sparseEmbedding", {"dimensions": [], "values": []})
        assert dict(zip(sparse["dimensions"], sparse["values"], strict=True)) == terms
        assert dict(zip(point.sparse_embedding.dimensions, point.sparse_embedding.values, strict=True)) == terms
        assert point.HasField("sparse_embedding") == bool(terms)
    assert [len(told["featureVector"]) for told in read["datapoints"]] == [0, DIM, DIM, 0, DIM]
    full = {"queries": [hybrid(k=3, rrf={"alpha": 0.0})], "returnFullDatapoint": True}
    for neighbor in service.ask("POST", "/v1/findNeighbors", full)[2]["nearestNeighbors"][0]["neighbors"]:
        point = neighbor["datapoint"]
        sparse = point["sparseEmbedding"]
        own = SPARSE[int(point["datapointId"])]
        assert dict(zip(sparse["dimensions"], sparse["values"], strict=True)) == own
    service.ask("POST", "/v1/removeDatapoints", {"datapointIds": ["fresh"]})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (hybrid(rrf={"alpha": 1.5}), "alpha is 1.5; expected 0 (sparse alone) to 1"),
        (hybrid(rrf={"alpha": 0.5}, weighted={"alpha": 0.5}), "not both; choose one"),
        ({"datapoint": {"featureVector": QUERY}, "rrf": {"alpha": 0.5}}, "the query has no sparse vector"),
        ({"datapoint": {"sparseEmbedding": embedding(TERMS)}, "rrf": {"alpha": 0.5}}, "the query has no vector"),
        ({"datapoint": {"datapointId": "000"}, "rrf": {"alpha": 0.5}}, "the query has no vector"),
        ({"datapoint": {}, "rrf": {"alpha": 0.5}}, "no feature_vector, sparse_embedding or datapoint_id"),
    ],
)
def test_refusals(service: Service, query: dict[str, Any], message: str) -> None:
    assert message in asked(service, query, status=400)["error"]["message"]


def test_a_space_without_a_sparse_side_refuses(vector_service: Service) -> None:
    alone = {"datapoint": {"sparseEmbedding": embedding(TERMS)}}
    assert "has no sparse side" in asked(vector_service, alone, status=400)["error"]["message"]
