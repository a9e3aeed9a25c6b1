"""Searches of real index versions against a slow, obvious reference over Python dicts."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from matching.datapoint import Datapoint, Filter, Metric, NumericRestrict, Operator, Restrict
from matching.space import Plan
from matching.store import Store
from matching.version import IndexVersion
from tests.versions import build_version

DIM = 8
TOKENS = ("red", "green", "blue")
OPERATORS: tuple[Operator, ...] = ("LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL")
COMPARE = {
    "LESS": lambda a, b: a < b,
    "LESS_EQUAL": lambda a, b: a <= b,
    "EQUAL": lambda a, b: a == b,
    "GREATER_EQUAL": lambda a, b: a >= b,
    "GREATER": lambda a, b: a > b,
    "NOT_EQUAL": lambda a, b: a != b,
}

tokens = st.lists(st.sampled_from(TOKENS), max_size=2, unique=True).map(tuple)
restricts = st.dictionaries(st.sampled_from(("colour", "shape")), st.tuples(tokens, tokens), max_size=2).map(
    lambda held: tuple(Restrict(name, allow, deny) for name, (allow, deny) in held.items())
)
sizes = st.integers(-3, 3)


def passes(datapoint: Datapoint, wanted: Filter) -> bool:
    """Vertex's filter semantics, said slowly."""
    held = {r.namespace: r for r in datapoint.restricts}
    for asked in wanted.restricts:
        own = held.get(asked.namespace, Restrict(asked.namespace))
        if asked.allow and not set(asked.allow) & set(own.allow):
            return False
        if set(asked.deny) & set(own.allow) or set(asked.allow) & set(own.deny):
            return False
    numbers = {n.namespace: n.value for n in datapoint.numeric_restricts}
    return all(
        n.namespace in numbers and COMPARE[n.op](numbers[n.namespace], n.value) for n in wanted.numeric_restricts
    )  # type: ignore[index]


def distances_to(query: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    a, b = query.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return ((a - b) ** 2).sum(axis=-1)
    if metric == "ip":
        return -(b @ a)
    return 1 - (b @ a) / (np.linalg.norm(a) * np.linalg.norm(b, axis=-1))


@st.composite
def shops(draw: st.DrawFn) -> tuple[list[Datapoint], NDArray[np.float32]]:
    n = draw(st.integers(1, 90))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, DIM)).astype(np.float32)
    ids = rng.permutation([f"item-{at}" for at in range(n)])
    points = [
        Datapoint(
            str(ids[at]),
            draw(restricts),
            tuple(NumericRestrict("size", draw(sizes), "int64") for _ in range(draw(st.integers(0, 1)))),
            draw(st.sampled_from([None, "a", "b"])),
            {"title": f"Item {at}"},
        )
        for at in range(n)
    ]
    return points, vectors


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    numbers = draw(st.lists(st.tuples(sizes, st.sampled_from(OPERATORS)), max_size=2))
    return Filter(draw(restricts), tuple(NumericRestrict("size", value, "int64", op) for value, op in numbers))


@settings(max_examples=40)
@given(
    shop=shops(),
    metric=st.sampled_from(["ip", "cosine", "l2"]),
    wanted=st.lists(filters(), min_size=1, max_size=8),
    k=st.integers(1, 100),
    cap=st.integers(0, 2),
    shard_bytes=st.sampled_from([1 << 16, 1 << 30]),
)
def test_exact_search_equals_reference(
    shop: tuple[list[Datapoint], NDArray[np.float32]],
    metric: Metric,
    wanted: list[Filter],
    k: int,
    cap: int,
    shard_bytes: int,
) -> None:
    points, vectors = shop
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory), create=True)
        version = build_version(store, points, vectors, metric, build={"plan": "flat", "shard_bytes": shard_bytes})
        query = np.random.default_rng(len(points)).standard_normal(DIM).astype(np.float32)
        for one in [*wanted, Filter()]:
            check_against_reference(version, points, vectors, metric, query, one, k, cap)


def check_against_reference(
    version: IndexVersion,
    points: list[Datapoint],
    vectors: NDArray[np.float32],
    metric: Metric,
    query: NDArray[np.float32],
    wanted: Filter,
    k: int,
    cap: int,
) -> None:
    true = distances_to(query, vectors, metric)
    ranked = sorted(
        (float(true[at]), p.datapoint_id, p.crowding_tag) for at, p in enumerate(points) if passes(p, wanted)
    )
    expected, per_tag = [], dict.fromkeys(["a", "b"], 0)
    for distance, datapoint_id, tag in ranked:
        if tag is not None and cap:
            per_tag[tag] += 1
            if per_tag[tag] > cap:
                continue
        expected.append((datapoint_id, distance))
    result = version.search(query[None], k, space="vectors", filter=wanted, crowding_cap=cap)
    assert result.n_matching == len(ranked)
    assert [n.datapoint_id for n in result.neighbors[0]] == [i for i, _ in expected[:k]]
    np.testing.assert_allclose([n.distance for n in result.neighbors[0]], [d for _, d in expected[:k]], atol=2e-5)


@pytest.fixture(scope="module", params=["graph", "hnsw"])
def graph_shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[IndexVersion, list[Datapoint], NDArray[np.float32]]:
    """A clustered shop of 6,000 items under a graph, with categories that are clusters."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((20, 24))
    cluster = rng.integers(0, 20, 6_000)
    vectors = (centres[cluster] + 0.4 * rng.standard_normal((6_000, 24))).astype(np.float32)
    points = [
        Datapoint(
            f"{at:05}",
            (Restrict("category", (f"c{cluster[at]}",)), Restrict("rare", (f"r{at % 1000}",))),
            (NumericRestrict("price", float(at % 100)),),
            f"brand-{at % 7}",
        )
        for at in range(6_000)
    ]
    store = Store(tmp_path_factory.mktemp("graph"), create=True)
    return build_version(store, points, vectors, "cosine", build={"plan": request.param, "threads": 1}), points, vectors


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter((Restrict("category", ("c3",)),)),
        Filter((Restrict("category", (), ("c3", "c4")),)),
        Filter((Restrict("rare", ("r7",)),)),
        Filter((), (NumericRestrict("price", 50.0, "float64", "LESS"),)),
        Filter(
            (Restrict("category", ("c1", "c2", "c5", "c6", "c7")),),
            (NumericRestrict("price", 90.0, "float64", "LESS"),),
        ),
    ],
    ids=["none", "category", "deny", "rare", "half", "mixed"],
)
def test_index_search_keeps_the_filter_contract(
    graph_shop: tuple[IndexVersion, list[Datapoint], NDArray[np.float32]], wanted: Filter
) -> None:
    version, points, vectors = graph_shop
    queries = vectors[::97] + 0.01
    allowed = {p.datapoint_id for p in points if passes(p, wanted)}
    for k in (1, 10, 50):
        found = version.search(queries, k, space="vectors", filter=wanted)
        exact = version.search(queries, k, space="vectors", filter=wanted, exact=True)
        assert found.n_matching == len(allowed)
        hits = []
        for near, true in zip(found.neighbors, exact.neighbors):
            ids = [n.datapoint_id for n in near]
            assert len(ids) == len(set(ids)) == min(k, len(allowed))
            assert set(ids) <= allowed
            hits.append(len(set(ids) & {n.datapoint_id for n in true}) / len(true))
        assert np.mean(hits) >= 0.93, (k, found.plan, found.effort)


def test_graph_really_runs(graph_shop: tuple[IndexVersion, list[Datapoint], NDArray[np.float32]]) -> None:
    version, _, vectors = graph_shop
    result = version.search(vectors[:1], 10, space="vectors", effort=64)
    assert (result.plan, result.effort) == ("graph", 64)
    assert result.n_scanned < version.n_datapoints / 10


def test_graph_honours_the_bitmap(
    graph_shop: tuple[IndexVersion, list[Datapoint], NDArray[np.float32]],
) -> None:
    version, points, vectors = graph_shop
    wanted = Filter((), (NumericRestrict("price", 50.0, "float64", "LESS"),))
    queries = vectors[:40] / np.linalg.norm(vectors[:40], axis=1, keepdims=True)
    rows, distances, n_scanned = version.spaces["vectors"].search(
        Plan("graph", 200), queries, 10, matching=version.columns.matching(wanted), n_matching=3_000
    )
    assert n_scanned < 40 * 1_000
    assert (rows >= 0).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert all(passes(points[int(version.columns.datapoint_id(row))], wanted) for row in rows.ravel().tolist())
    exact = version.search(queries, 10, space="vectors", filter=wanted, exact=True)
    true = [{n.datapoint_id for n in near} for near in exact.neighbors]
    hits = [len({version.columns.datapoint_id(r) for r in of.tolist()} & t) / 10 for of, t in zip(rows, true)]
    assert np.mean(hits) >= 0.95


def test_crowding_fills_the_slate_where_it_can(
    graph_shop: tuple[IndexVersion, list[Datapoint], NDArray[np.float32]],
) -> None:
    version, _, vectors = graph_shop
    for effort, k in itertools.product((None, 16), (7, 14, 20)):
        result = version.search(vectors[:5], k, space="vectors", crowding_cap=2, effort=effort)
        for near in result.neighbors:
            assert len(near) == min(k, 14)  # seven brands, two of each
            tags = [n.crowding_tag for n in near]
            assert max(tags.count(t) for t in tags) <= 2


def test_excluded_datapoints_are_replaced(
    graph_shop: tuple[IndexVersion, list[Datapoint], NDArray[np.float32]],
) -> None:
    version, _, vectors = graph_shop
    first = version.search(vectors[:1], 5, space="vectors", exact=True).neighbors[0]
    rest = version.search(
        vectors[:1], 5, space="vectors", exact=True, exclude=[first[0].datapoint_id, "unknown"]
    ).neighbors[0]
    assert [n.datapoint_id for n in rest[:4]] == [n.datapoint_id for n in first[1:]]
    by_id = version.search_by_id(["00000", "00001"], 5, space="vectors")
    assert all(n.datapoint_id != asked for asked, near in zip(("00000", "00001"), by_id.neighbors) for n in near)
    itself = version.search_by_id(["00000"], 1, space="vectors", include_self=True).neighbors[0][0]
    assert itself.datapoint_id == "00000"
