"""Google's client asks by sparse vectors, and by dense and sparse ones fused with each alpha."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.cloud.aiplatform.matching_engine._protos import match_service_pb2 as gp
from google.cloud.aiplatform.matching_engine._protos.match_service_pb2_grpc import MatchServiceStub

from matching.datapoint import Datapoint, SparseRows
from matching.fusion import head_depth
from matching.store import Store
from tests.compat.google import PARENT, WAYS, Google
from tests.versions import build_version

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.services import Service, Start

N, DIM, TERMS, K = 150, 6, 40, 20
ENDPOINT = f"{PARENT}/indexEndpoints/hybrid"


@dataclass
class Shelf:
    """Datapoints with dense vectors, float32[N, DIM], and sparse ones, by dimension."""

    vectors: NDArray[np.float32]
    sparse: list[dict[int, float]]

    def dense_distances(self, vector: NDArray[np.float32]) -> dict[str, float]:
        return {f"{at:03d}": float(-own) for at, own in enumerate(self.vectors @ vector)}

    def sparse_distances(self, asked: dict[int, float]) -> dict[str, float]:
        """Return the distances of those that share a dimension with the query."""
        inner = {f"{at:03d}": sum(w * row.get(d, 0.0) for d, w in asked.items()) for at, row in enumerate(self.sparse)}
        return {name: -own for name, own in inner.items() if own > 0}

    def fused(self, vector: NDArray[np.float32], asked: dict[int, float], alpha: float) -> list[str]:
        """Return the best K by reciprocal rank fusion of the heads of the two rankings."""
        scores: dict[str, float] = {}
        for share, distances in (
            (alpha, self.dense_distances(vector)),
            (1 - alpha, self.sparse_distances(asked)),
        ):
            head = sorted(distances, key=lambda name: (distances[name], name))[: head_depth(K)]
            for rank, name in enumerate(head, 1):
                if share > 0:
                    scores[name] = scores.get(name, 0.0) + share * (1 / (60 + rank))
        return sorted(scores, key=lambda name: (-scores[name], name))[:K]


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    rng = np.random.default_rng(41)
    sparse = [
        {int(d): float(w) for d, w in zip(rng.permutation(TERMS)[:5], rng.random(5).astype(np.float32) + 0.1)}
        for _ in range(N)
    ]
    return Shelf(rng.normal(size=(N, DIM)).astype(np.float32), sparse)


@pytest.fixture(scope="module")
def service(shelf: Shelf, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from tests.services import Shop

    folder: Path = tmp_path_factory.mktemp("hybrid-shop")
    rows = SparseRows(
        np.cumsum([0, *map(len, shelf.sparse)]).astype(np.int64),
        np.array([dimension for row in shelf.sparse for dimension in sorted(row)], np.int64),
        np.array([row[dimension] for row in shelf.sparse for dimension in sorted(row)], np.float32),
    )
    store = Store(folder / "store", create=True)
    points = [Datapoint(f"{at:03d}") for at in range(N)]
    version = build_version(store, points, shelf.vectors, "ip", sparse=rows, alpha=0.5, build={"plan": "flat"})
    store.set_alias("hybrid", version.version_id, why="test")
    with start_service(Shop(folder / "store", "hybrid"), write_log=str(folder / "log")) as running:
        running.wait_until_ready()
        yield running


def random_query(seed: int) -> tuple[NDArray[np.float32], dict[int, float]]:
    rng = np.random.default_rng(seed)
    asked = {int(d): float(w) for d, w in zip(rng.permutation(TERMS)[:6], rng.random(6).astype(np.float32) + 0.1)}
    return rng.normal(size=DIM).astype(np.float32), asked


def find(google: Google, datapoint: dict[str, Any], **options: Any) -> Any:
    query = google.query(datapoint, neighbor_count=K, **options)
    asked = google.types.FindNeighborsRequest(index_endpoint=ENDPOINT, queries=[query])
    return google.match.find_neighbors(asked).nearest_neighbors[0].neighbors


def sides(vector: NDArray[np.float32] | None, asked: dict[int, float]) -> dict[str, Any]:
    sparse = {"values": list(asked.values()), "dimensions": list(asked)}
    return {"sparse_embedding": sparse} | ({} if vector is None else {"feature_vector": vector.tolist()})


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_rankings_are_fused(google: Google, shelf: Shelf, alpha: float) -> None:
    for seed in range(5):
        vector, asked = random_query(seed)
        found = find(google, sides(vector, asked), rrf={"alpha": alpha})
        assert [neighbor.datapoint.datapoint_id for neighbor in found] == shelf.fused(vector, asked, alpha)
        dense, sparse = shelf.dense_distances(vector), shelf.sparse_distances(asked)
        for neighbor in found:
            name = neighbor.datapoint.datapoint_id
            if alpha > 0:
                assert neighbor.distance == pytest.approx(dense[name], rel=1e-4)
            if alpha < 1:
                assert neighbor.sparse_distance == pytest.approx(sparse.get(name, 0.0), rel=1e-4, abs=1e-6)


def test_a_sparse_vector_alone_asks_the_sparse_side_alone(google: Google, shelf: Shelf) -> None:
    vector, asked = random_query(9)
    found = find(google, sides(None, asked))
    assert [neighbor.datapoint.datapoint_id for neighbor in found] == shelf.fused(vector, asked, 0.0)
    distances = shelf.sparse_distances(asked)
    for neighbor in found:
        assert neighbor.sparse_distance == pytest.approx(distances[neighbor.datapoint.datapoint_id], rel=1e-4)


def test_an_empty_sparse_vector_is_none(google: Google, shelf: Shelf) -> None:
    vector, _ = random_query(3)
    found = find(google, {"feature_vector": vector.tolist(), "sparse_embedding": {}})
    assert [neighbor.datapoint.datapoint_id for neighbor in found] == shelf.fused(vector, {}, 1.0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_private_service_fuses_alike(channel: grpc.Channel, shelf: Shelf, alpha: float) -> None:
    vector, asked = random_query(18)
    request = gp.MatchRequest(
        float_val=vector.tolist(),
        sparse_embedding=gp.SparseEmbedding(float_val=list(asked.values()), dimension=list(asked)),
        rrf=gp.MatchRequest.RRF(alpha=alpha),
        num_neighbors=K,
    )
    found = MatchServiceStub(channel).Match(request).neighbor
    assert [neighbor.id for neighbor in found] == shelf.fused(vector, asked, alpha)
    if alpha < 1:
        distances = shelf.sparse_distances(asked)
        for neighbor in found:
            assert neighbor.sparse_distance == pytest.approx(distances.get(neighbor.id, 0.0), rel=1e-4, abs=1e-6)


def test_a_datapoint_with_a_sparse_vector_alone_is_put_in_and_found(google: Google) -> None:
    token = 1_000 + WAYS.index((google.version, google.transport))
    sparse = {"values": [2.0], "dimensions": [token]}
    point = google.types.IndexDatapoint(datapoint_id=f"new-{token}", sparse_embedding=sparse)
    index = f"{PARENT}/indexes/hybrid"
    google.index.upsert_datapoints(google.types.UpsertDatapointsRequest(index=index, datapoints=[point]))
    for _ in range(400):
        if found := find(google, {"sparse_embedding": sparse}):
            break
    assert [(neighbor.datapoint.datapoint_id, neighbor.sparse_distance) for neighbor in found] == [
        (f"new-{token}", -4.0)
    ]
