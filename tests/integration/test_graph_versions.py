"""Index versions that serve from the graph index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import index_builder.plan
from index_builder.draft import Draft
from index_builder.plan import GraphParams
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, Filter, Metric, Restrict
from matching.errors import CorruptArtifact, InvalidInput
from matching.graph_index import GraphIndex
from matching.store import Store
from matching.version import IndexVersion, SearchResult, open_space
from tests.versions import MakeVersion

N = 6_000


@pytest.fixture
def vectors(rng: np.random.Generator) -> NDArray[np.float32]:
    centres = rng.standard_normal((40, 48))
    return (centres[rng.integers(0, 40, N)] + 0.6 * rng.standard_normal((N, 48))).astype(np.float32)


def points() -> list[Datapoint]:
    return [
        Datapoint(f"{at:05}", (Restrict("half", (f"h{at % 2}",)), Restrict("few", (f"f{at % 100}",))))
        for at in range(N)
    ]


def ids_of(result: SearchResult) -> list[list[str]]:
    return [[neighbor.datapoint_id for neighbor in near] for near in result.neighbors]


def kept(found: SearchResult, exact: SearchResult) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids_of(found), ids_of(exact))]))


def graphs_of(version: IndexVersion) -> list[GraphIndex]:
    found = [shard.index for shard in version.spaces["vectors"].shards]
    assert all(isinstance(index, GraphIndex) for index in found)
    return [index for index in found if isinstance(index, GraphIndex)]


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("shard_bytes", [1 << 30, 1 << 18])
def test_answers_are_near_those_of_exact_search_with_its_distances(
    make_version: MakeVersion, vectors: NDArray[np.float32], metric: Metric, shard_bytes: int
) -> None:
    version = make_version(points(), vectors, metric=metric, plan="graph", shard_bytes=shard_bytes)
    graphs = graphs_of(version)
    assert len(graphs) == (1 if shard_bytes > 1 << 20 else 5)
    assert sum(len(graph) for graph in graphs) == N
    assert all(graph.memory_bytes <= N // 8 + 8 for graph in graphs)  # mapped: all but a bit a row stays in the file
    assert not any(graph.n_unreachable for graph in graphs)
    queries = vectors[::60] + np.float32(0.05)
    for wanted, k in [(Filter(), 10), (Filter(), 300), (Filter((Restrict("half", ("h1",)),)), 10)]:
        found = version.search(queries, k, space="vectors", filter=wanted, effort=64)
        exact = version.search(queries, k, space="vectors", filter=wanted, exact=True)
        assert kept(found, exact) >= 0.95, (wanted, k, found.plan, found.effort)
        for near, true in zip(found.neighbors, exact.neighbors):
            assert len(near) == k
            distances = {neighbor.datapoint_id: neighbor.distance for neighbor in true}
            same = [(n.distance, distances[n.datapoint_id]) for n in near if n.datapoint_id in distances]
            np.testing.assert_array_equal(*zip(*same))
    plain = version.search(queries, 10, space="vectors", effort=64)
    assert plain.plan == "graph"
    assert plain.n_scanned < len(queries) * len(graphs) * 20


def test_any_filter_is_answered_in_full(make_version: MakeVersion, vectors: NDArray[np.float32]) -> None:
    version = make_version(points(), vectors, plan="graph")
    queries = vectors[:20]
    for k in (1, 50, 100):
        found = version.search(queries, k, space="vectors", filter=Filter((Restrict("few", ("f7",)),)))
        assert found.n_matching == N // 100
        assert all(len(ids) == min(k, N // 100) == len(set(ids)) for ids in ids_of(found))
        assert all(int(datapoint_id) % 100 == 7 for ids in ids_of(found) for datapoint_id in ids)


def test_measured_recall_holds_for_queries_that_the_graph_has_not_seen(
    make_version: MakeVersion, vectors: NDArray[np.float32], rng: np.random.Generator
) -> None:
    n = N - 500
    unseen = vectors[n:]
    version = make_version(points()[:n], vectors[:n], plan="graph", degree=8, build_beam=12, recall_target=0.8)
    entry = version.spaces["vectors"].entry
    assert (entry.plan.name, entry.plan.factory) == ("graph", "Graph8")
    [point] = [p for p in entry.operating_table if (p.k, p.selectivity, p.recall_target) == (10, 1.0, 0.8)]
    assert point.effort is not None
    exact = version.search(unseen, 10, space="vectors", exact=True)
    found = version.search(unseen, 10, space="vectors", effort=point.effort)
    assert kept(found, exact) == pytest.approx(entry.recall.mean, abs=0.04)


def test_auto_serves_from_the_graph_and_says_what_it_will_cost(
    store: Store, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_builder.plan, "FLAT_FLOATS", 1_000)
    told: list[str] = []
    advances: dict[str, list[int]] = {}

    class Told(Silent):
        def begin(self, stage: str, total: int | None) -> None:
            advances[stage] = []

        def advance(self, done: int, note: str = "") -> None:
            advances[list(advances)[-1]].append(done)

        def say(self, line: str) -> None:
            told.append(line)

    draft = Draft(store, BuildSettings(shard_bytes=1 << 19), Told())
    space = draft.new_space("vectors", vectors.shape[1], space_id="test", metric="l2")
    for point in points():
        draft.columns.add(point)
    space.vectors.append(vectors, np.arange(N))
    built = draft.finish(source={"kind": "test"}, parent=None)
    entry = built.manifest.spaces[0]
    assert entry.plan.name == "graph"
    assert "space vectors: graph, because 6,000 vectors of 48 are too many to scan" in told[0]
    assert "predicted" in told[0]
    done = advances["vectors: build graph"]
    assert done == sorted(done)
    assert len(done) > 10
    assert done[-1] == N - N // 20  # without the held-out ones
    sizes = [built.manifest.files[str(shard.graph)].n_bytes for shard in entry.shards]
    assert len(sizes) == 3
    predicted = entry.plan.params["predicted_resident_bytes"]
    assert predicted == N * GraphParams(32, 100).row_bytes(48)
    assert sum(sizes) == pytest.approx(predicted, rel=0.05)


def test_a_graph_of_other_vectors_is_refused(
    store: Store, make_version: MakeVersion, vectors: NDArray[np.float32], tmp_path: Path
) -> None:
    version = make_version(points(), vectors, plan="graph")
    directory, entry = store.directory(version.version_id), version.spaces["vectors"].entry
    for at, (other, deleted) in enumerate([(vectors[:-1], []), (vectors[:, :40], []), (vectors, [3])]):
        graph = GraphIndex.build(other)
        graph.delete(deleted)
        graph.save(tmp_path / f"{at}")
        swapped = replace(entry, shards=(replace(entry.shards[0], graph=str(tmp_path / f"{at}")),))
        with pytest.raises(CorruptArtifact, match=r"does not fit manifest.json; build again"):
            open_space(directory, swapped, N, verify=True)


def test_a_beam_narrower_than_the_links_is_refused(make_version: MakeVersion, vectors: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidInput, match="build_beam is 16; expected an integer, 32 <= build_beam"):
        make_version(points(), vectors, plan="graph", build_beam=16)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 40, 2_000])
def test_rows_held_out_of_a_build_are_found_once_they_joined(
    n: int, threads: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    vectors = rng.standard_normal((n, 24)).astype(np.float32)
    held = np.sort(rng.choice(n, max(n // 20, 1), replace=False))
    graph = GraphIndex.build(vectors, metric="l2", held_out=held, threads=threads)
    assert len(graph) == n - len(held)
    assert graph.n_rows == n
    rows, _ = graph.search(vectors[held], 5)
    assert not np.isin(rows, held).any()
    graph.join(threads=threads)
    graph.join()  # nobody is left
    assert (len(graph), graph.n_unreachable) == (n, 0)
    rows, _ = graph.search(vectors, 1, exact=True)
    np.testing.assert_array_equal(rows[:, 0], np.arange(n))
    graph.save(tmp_path / "one")
    again = GraphIndex.build(vectors, metric="l2", held_out=held[::-1], threads=3 - threads)
    again.join()
    again.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with pytest.raises(InvalidInput, match=rf"row {n} is not in the index"):
        GraphIndex.build(vectors, held_out=[n])


@pytest.mark.parametrize("n", [1_100, 2_000, 4_000])
def test_effort_beyond_what_was_measured_scans(n: int, rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((n, 24)).astype(np.float32)  # without clusters: hard for a graph, and quickly scanned
    graph = GraphIndex.build(vectors, metric="l2")
    most = graph.operating_points[-1]
    queries = rng.standard_normal((100, 24)).astype(np.float32)
    true, _ = graph.search(queries, 10, exact=True)
    trace = graph.trace(queries, 10, effort=2 * most.effort)
    assert set(trace.plans) == {"scan"}
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(trace.rows.tolist(), true.tolist())]) >= 0.99


def test_a_single_neighbor_is_found_as_well_as_ten(make_version: MakeVersion, vectors: NDArray[np.float32]) -> None:
    version = make_version(points(), vectors, metric="l2", plan="graph")
    queries = vectors[::20] + np.float32(0.1)
    table = version.spaces["vectors"].entry.operating_table
    [effort] = [p.effort for p in table if (p.k, p.selectivity, p.recall_target) == (10, 1.0, 0.95)]
    found = version.search(queries, 1, space="vectors", effort=effort)
    assert (found.plan, found.effort) == ("graph", effort)
    assert kept(found, version.search(queries, 1, space="vectors", exact=True)) >= 0.95
