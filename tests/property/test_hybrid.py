"""Sparse and hybrid searches of real versions, sealed and live, against rankings of Python dicts fused slowly."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_builder.compact import compact
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, Filter, Metric, Restrict, SparseRows
from matching.fusion import Fusion, Ranking, fused, head_depth
from matching.hybrid import search_hybrid
from matching.live import Delete, LiveIndex, Upsert, WriteLog
from matching.store import Store
from matching.version import IndexVersion
from tests.property.test_search import DIM, distances_to, filters, passes
from tests.versions import build_version


@dataclass(frozen=True)
class Both:
    """A datapoint with its sides, of which one may be missing."""

    point: Datapoint
    vector: NDArray[np.float32] | None
    sparse: dict[int, float]


terms = st.dictionaries(st.integers(0, 6), st.sampled_from([0.5, 1.0, 2.0, -1.0]), max_size=4)


@st.composite
def boths(draw: st.DrawFn, name: str, rng: np.random.Generator) -> Both:
    sparse = draw(terms)
    has_vector = draw(st.booleans()) or not sparse
    colour = draw(st.sampled_from(["red", "green"]))
    point = Datapoint(name, (Restrict("colour", (colour,)),), (), draw(st.sampled_from([None, "a", "b"])))
    return Both(point, rng.standard_normal(DIM).astype(np.float32) if has_vector else None, sparse)


@st.composite
def shelves(draw: st.DrawFn) -> list[Both]:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n = draw(st.integers(1, 40))
    shelf = [draw(boths(f"item-{at}", rng)) for at in range(n)]
    first = shelf[0]
    return [Both(first.point, np.ones(DIM, np.float32), {0: 1.0}), *shelf[1:]]  # so that both sides are there


def sparse_rows(rows: list[dict[int, float]]) -> SparseRows:
    return SparseRows(
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
        np.array([dimension for row in rows for dimension in sorted(row)], np.int64),
        np.array([row[dimension] for row in rows for dimension in sorted(row)], np.float32),
    )


def built(directory: Path, shelf: list[Both], metric: Metric, shard_bytes: int = 1 << 30) -> IndexVersion:
    owners = np.array([at for at, both in enumerate(shelf) if both.vector is not None], np.int64)
    return build_version(
        Store(directory / "store", create=True),
        [both.point for both in shelf],
        np.stack([both.vector for both in shelf if both.vector is not None]),
        metric,
        owners=owners,
        sparse=sparse_rows([both.sparse for both in shelf]),
        alpha=0.5,
        build={"plan": "flat", "shard_bytes": shard_bytes},
    )


def head(
    shelf: list[Both], distance: Callable[[Both], float | None], row: Callable[[str], int], cap: int, depth: int
) -> Ranking:
    told = [(own, row(both.point.datapoint_id), both) for both in shelf if (own := distance(both)) is not None]
    kept: list[tuple[int, float]] = []
    seen: dict[str, int] = {}
    for own, at, both in sorted(told, key=lambda each: each[:2]):
        tag = both.point.crowding_tag
        if tag is not None:
            seen[tag] = seen.get(tag, 0) + 1
            if cap and seen[tag] > cap:
                continue
        kept.append((at, own))
    kept = kept[:depth]
    return Ranking(np.array([at for at, _ in kept], np.int64), np.array([own for _, own in kept], np.float32))


def check(
    version: IndexVersion, shelf: list[Both], metric: Metric, fusion: Fusion, wanted: Filter, k: int, cap: int
) -> None:
    query = np.random.default_rng(len(shelf)).standard_normal(DIM).astype(np.float32)
    asked = {0: 1.0, 1: 2.0, 5: 0.5}
    good = [both for both in shelf if passes(both.point, wanted)]
    found = search_hybrid(
        version,
        k,
        space="vectors",
        fusion=fusion,
        vectors=query[None],
        sparse=sparse_rows([asked]),
        filter=wanted,
        crowding_cap=cap,
    )

    def dense(both: Both) -> float | None:
        return None if both.vector is None else float(distances_to(query, both.vector[None], metric)[0])

    def inner(both: Both) -> float:
        return sum(weight * both.sparse.get(dimension, 0.0) for dimension, weight in asked.items())

    row = version.columns.find
    depth = head_depth(k) if 0 < fusion.alpha < 1 else k
    sparse_head = head(good, lambda both: -inner(both) if inner(both) > 0 else None, row, cap, depth)
    order = fused(fusion, head(good, dense, row, cap, depth), sparse_head).tolist()
    of_row = {row(both.point.datapoint_id): both for both in good}
    expected: list[Both] = []
    seen: dict[str | None, int] = {}
    for at in order:
        tag = of_row[at].point.crowding_tag
        seen[tag] = seen.get(tag, 0) + 1
        if tag is None or not cap or seen[tag] <= cap:
            expected.append(of_row[at])
    [neighbors] = found.neighbors
    assert [n.datapoint_id for n in neighbors] == [both.point.datapoint_id for both in expected[:k]]
    assert found.n_matching == len(good)
    for neighbor, both in zip(neighbors, expected):
        assert neighbor.crowding_tag == both.point.crowding_tag
        np.testing.assert_allclose(neighbor.distance, dense(both) or 0.0, rtol=1e-4, atol=1e-5)
        assert neighbor.sparse_distance == -inner(both)
    alone = search_hybrid(
        version, k, space="vectors", fusion=Fusion("rrf", 0.0), sparse=sparse_rows([asked, {77: 1.0}]), filter=wanted
    )
    best = head(good, lambda both: -inner(both) if inner(both) > 0 else None, row, 0, k)
    assert [row(n.datapoint_id) for n in alone.neighbors[0]] == best.rows.tolist()
    assert [n.sparse_distance for n in alone.neighbors[0]] == best.distances.tolist()
    assert all(n.distance == 0 for n in alone.neighbors[0])
    assert alone.neighbors[1] == ()
    assert alone.plan == "exact"
    names = [both.point.datapoint_id for both in shelf]
    held = version.sparse_vectors(names, "vectors")
    assert held is not None
    assert [dict(zip(row.dimensions.tolist(), row.values.tolist())) for row in map(held.row, range(len(held)))] == [
        both.sparse for both in shelf
    ]


kinds = st.sampled_from(["rrf", "score"])
shares = st.sampled_from([0.0, 0.3, 0.5, 1.0])


@settings(max_examples=40)
@given(
    shelf=shelves(),
    metric=st.sampled_from(["ip", "cosine", "l2"]),
    shard_bytes=st.sampled_from([1 << 16, 1 << 30]),
    asked=st.lists(st.tuples(kinds, shares, filters(), st.integers(1, 50), st.integers(0, 2)), min_size=1, max_size=6),
)
def test_a_sealed_version(
    shelf: list[Both], metric: Metric, shard_bytes: int, asked: list[tuple[str, float, Filter, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        version = built(Path(directory), shelf, metric, shard_bytes)
        for kind, alpha, wanted, k, cap in asked:
            check(version, shelf, metric, Fusion(kind, alpha), wanted, k, cap)  # type: ignore[arg-type]


@settings(max_examples=15)
@given(
    shelf=shelves(),
    metric=st.sampled_from(["ip", "cosine", "l2"]),
    batches=st.lists(
        st.lists(st.tuples(st.booleans(), st.integers(0, 60), terms, st.booleans()), min_size=1, max_size=8),
        min_size=1,
        max_size=4,
    ),
    kind=kinds,
    alpha=shares,
    wanted=filters(),
    k=st.integers(1, 50),
    cap=st.integers(0, 2),
)
def test_a_live_version_after_any_history(
    shelf: list[Both],
    metric: Metric,
    batches: list[list[tuple[bool, int, dict[int, float], bool]]],
    kind: str,
    alpha: float,
    wanted: Filter,
    k: int,
    cap: int,
) -> None:
    rng = np.random.default_rng(len(shelf))
    held = {both.point.datapoint_id: both for both in shelf}
    with tempfile.TemporaryDirectory() as directory, WriteLog.open(Path(directory) / "log") as log:
        live = LiveIndex(built(Path(directory), shelf, metric), log)
        for batch in batches:
            writes: list[Upsert | Delete] = []
            for is_delete, number, sparse, has_vector in batch:
                name = f"item-{number}"
                if is_delete:
                    held.pop(name, None)
                    writes.append(Delete(name))
                    continue
                vector = rng.standard_normal(DIM).astype(np.float32) if has_vector or not sparse else None
                both = Both(Datapoint(name, (Restrict("colour", ("red",)),), (), "b"), vector, sparse)
                held.pop(name, None)
                held[name] = both
                vectors = {} if vector is None else {"vectors": vector[None]}
                writes.append(Upsert(both.point, vectors, {"vectors": sparse_rows([sparse])} if sparse else {}))
            token = live.write(writes).last_sequence
            version = live.wait(token, deadline=time.monotonic() + 30)
            if held:
                check(version, list(held.values()), metric, Fusion(kind, alpha), wanted, k, cap)  # type: ignore[arg-type]
        live.close()
        if any(both.vector is not None for both in held.values()):
            store = Store(Path(directory) / "store")
            folded = compact(store, version.version_id, log, settings=BuildSettings(), progress=Silent())
            sealed = store.open(folded.version_id)
            check(sealed, list(held.values()), metric, Fusion(kind, alpha), wanted, k, cap)  # type: ignore[arg-type]
