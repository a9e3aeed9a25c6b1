"""Grouped, sparse and sharded spaces against a slow reference; staging against NumPy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_builder.staging import StagedSparse
from matching.container import open_container
from matching.datapoint import Datapoint, Metric, SparseRows
from matching.errors import InvalidQuery
from matching.store import Store
from tests.versions import MakeVersion, build_version


def sparse_rows(dense: np.ndarray) -> SparseRows:
    rows, dimensions = np.nonzero(dense)
    offsets = np.searchsorted(rows, np.arange(len(dense) + 1))
    return SparseRows(
        offsets.astype(np.int64), dimensions.astype(np.int64) * 7, dense[rows, dimensions].astype(np.float32)
    )


@settings(max_examples=25)
@given(
    n=st.integers(1, 150),
    seed=st.integers(0, 2**16),
    best_of=st.integers(1, 4),
    shard_bytes=st.sampled_from([1 << 16, 1 << 30]),
    plan=st.sampled_from(["flat", "graph", "hnsw"]),
)
def test_items_with_several_vectors_are_scored_as_items(
    n: int, seed: int, best_of: int, shard_bytes: int, plan: str
) -> None:
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(n), rng.integers(0, 5, n))
    if len(np.unique(owners)) < 2:
        return
    dim = 300  # so that 64 KiB cut a shard every 54 vectors
    vectors = rng.standard_normal((len(owners), dim)).astype(np.float32)
    if len(vectors) < 64:
        plan = "flat"
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory), create=True)
        version = build_version(
            store,
            [Datapoint(f"{at:04}") for at in range(n)],
            vectors,
            "cosine",
            owners=owners,
            best_of=best_of,
            build={"plan": plan, "shard_bytes": shard_bytes, "recall_target": 0.01},
        )
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        query = rng.standard_normal(dim).astype(np.float32)
        cosine = 1 - unit @ (query / np.linalg.norm(query))
        expected = sorted(
            (float(np.sort(cosine[owners == at])[:best_of].mean()), f"{at:04}") for at in np.unique(owners).tolist()
        )
        result = version.search(query[None], 10, space="vectors", exact=True)
        assert result.n_matching == len(expected)
        assert [x.datapoint_id for x in result.neighbors[0]] == [i for _, i in expected[:10]]
        np.testing.assert_allclose([x.distance for x in result.neighbors[0]], [d for d, _ in expected[:10]], atol=1e-5)
        approximate = version.search(query[None], 10, space="vectors", effort=200)
        assert [x.datapoint_id for x in approximate.neighbors[0]] == [i for _, i in expected[:10]]


@pytest.mark.parametrize("plan", ["flat", "graph", "hnsw"])
def test_sparse_side_joins_as_one_score(make_version: MakeVersion, rng: np.random.Generator, plan: str) -> None:
    n, alpha = 2_000, 0.4
    vectors = rng.standard_normal((n, 32)).astype(np.float32)
    sparse = np.where(rng.random((n, 50)) < 0.1, rng.random((n, 50)), 0).astype(np.float32)
    sparse /= np.maximum(np.linalg.norm(sparse, axis=1, keepdims=True), 1e-9)
    points = [Datapoint(f"{at:05}") for at in range(n)]
    version = make_version(
        points, vectors, sparse=sparse_rows(sparse), alpha=alpha, plan=plan, recall_target=0.5, shard_bytes=1 << 17
    )
    queries = rng.standard_normal((20, 32)).astype(np.float32)
    asked = sparse[:20]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    unit_queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    true = 1 - (alpha * unit_queries @ unit.T + (1 - alpha) * asked @ sparse.T)
    result = version.search(queries, 10, space="vectors", sparse=sparse_rows(asked), exact=True)
    for near, distances in zip(result.neighbors, true):
        assert [x.datapoint_id for x in near] == [f"{at:05}" for at in np.argsort(distances, kind="stable")[:10]]
        np.testing.assert_allclose([x.distance for x in near], np.sort(distances)[:10], atol=1e-5)
    index = version.search(queries, 10, space="vectors", sparse=sparse_rows(asked), effort=100)
    kept = [
        len({x.datapoint_id for x in a} & {x.datapoint_id for x in b}) / 10
        for a, b in zip(index.neighbors, result.neighbors)
    ]
    assert np.mean(kept) >= 0.9
    with pytest.raises(InvalidQuery, match="3 sparse queries beside 1 dense"):
        version.search(queries[:1], 10, space="vectors", sparse=sparse_rows(asked[:3]))


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("plan", ["flat", "graph"])
def test_sparse_side_takes_its_share_off_any_distance(
    make_version: MakeVersion, rng: np.random.Generator, metric: Metric, plan: str
) -> None:
    """Of vectors of any length: what a query is scaled by must not move it."""
    n, alpha = 500, 0.3
    vectors = rng.standard_normal((n, 16)).astype(np.float32) * rng.uniform(0.2, 3, (n, 1)).astype(np.float32)
    sparse = np.where(rng.random((n, 50)) < 0.1, rng.random((n, 50)), 0).astype(np.float32)
    points = [Datapoint(f"{at:05}") for at in range(n)]
    version = make_version(
        points, vectors, metric=metric, sparse=sparse_rows(sparse), alpha=alpha, plan=plan, recall_target=0.5
    )
    queries, asked = rng.standard_normal((10, 16)).astype(np.float32), sparse[:10]
    dense = ((queries[:, None] - vectors[None]) ** 2).sum(axis=2) if metric == "l2" else -(queries @ vectors.T)
    true = alpha * dense - (1 - alpha) * asked @ sparse.T
    result = version.search(queries, 10, space="vectors", sparse=sparse_rows(asked), exact=True)
    for near, distances in zip(result.neighbors, true):
        assert [x.datapoint_id for x in near] == [f"{at:05}" for at in np.argsort(distances, kind="stable")[:10]]
        np.testing.assert_allclose([x.distance for x in near], np.sort(distances)[:10], rtol=1e-4, atol=1e-4)
    index = version.search(queries, 10, space="vectors", sparse=sparse_rows(asked), effort=200)
    kept = [
        len({x.datapoint_id for x in a} & {x.datapoint_id for x in b}) / 10
        for a, b in zip(index.neighbors, result.neighbors)
    ]
    assert np.mean(kept) >= 0.9


@settings(max_examples=60)
@given(n=st.integers(1, 60), batch=st.integers(1, 20), density=st.floats(0, 0.5), seed=st.integers(0, 2**16))
def test_inverted_side_holds_every_entry_once(n: int, batch: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, 12)) < density, rng.random((n, 12)) + 0.1, 0).astype(np.float32)
    order = rng.permutation(n)
    with tempfile.TemporaryDirectory() as directory:
        staged = StagedSparse(Path(directory) / "sparse")
        for first in range(0, n, batch):
            part = dense[first : first + batch]
            staged.append(sparse_rows(part), np.arange(first, first + len(part)))
        staged.write(Path(directory) / "sealed", order)
        arrays = open_container(Path(directory) / "sealed", "sparse")
        found = np.zeros_like(dense)
        offsets = arrays["offsets"]
        for term, dimension in enumerate(arrays["dimensions"].tolist()):
            rows = arrays["rows"][offsets[term] : offsets[term + 1]]
            assert (np.diff(rows.astype(int)) > 0).all()
            found[rows, dimension // 7] = arrays["weights"][offsets[term] : offsets[term + 1]]
        np.testing.assert_array_equal(found, dense[order])


def test_product_codes_are_ranked_again_from_the_vectors(make_version: MakeVersion, rng: np.random.Generator) -> None:
    centres = rng.standard_normal((50, 16))
    vectors = (centres[rng.integers(0, 50, 12_000)] + 0.5 * rng.standard_normal((12_000, 16))).astype(np.float32)
    points = [Datapoint(f"{at:05}") for at in range(len(vectors))]
    version = make_version(points, vectors, metric="l2", plan="ivfpq", recall_target=0.8)
    queries = vectors[:100] + 0.1
    found = version.search(queries, 10, space="vectors", effort=64)
    exact = version.search(queries, 10, space="vectors", exact=True)
    assert found.plan == "ivf"
    assert found.n_scanned < 100 * 400
    kept = [
        len({x.datapoint_id for x in a} & {x.datapoint_id for x in b}) for a, b in zip(found.neighbors, exact.neighbors)
    ]
    assert np.mean(kept) / 10 >= 0.9
    truth = {x.datapoint_id: x.distance for x in exact.neighbors[0]}
    for near in found.neighbors[0]:
        if near.datapoint_id in truth:
            assert near.distance == pytest.approx(truth[near.datapoint_id], rel=1e-5)
