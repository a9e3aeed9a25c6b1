"""The arithmetic of the peer benchmarks: recall from raw vectors, speed at a recall, answers in one shape."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_speed_at_a_recall_lies_on_the_log_line_between_neighbours() -> None:
    at_recall = load("graph_search").at_recall
    points = [(0.90, 4000.0), (1.00, 1000.0)]
    assert at_recall(points, 0.95) == pytest.approx(2000.0)
    assert at_recall(points, 0.90) == 4000.0
    assert at_recall(points, 0.50) == 4000.0  # its fastest setting already finds more


def test_a_recall_that_no_effort_reaches_has_no_speed() -> None:
    at_recall = load("graph_search").at_recall
    assert at_recall([(0.90, 4000.0)], 0.95) is None
    assert at_recall([], 0.95) is None


def test_a_point_that_another_beats_in_both_is_no_neighbour() -> None:
    graph_search = load("graph_search")
    points = [(0.90, 4000.0), (0.94, 500.0), (0.96, 3000.0), (1.00, 1000.0)]
    assert graph_search.front(points) == [(0.90, 4000.0), (0.96, 3000.0), (1.00, 1000.0)]
    assert graph_search.at_recall(points, 0.94) > 3000.0


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("masked", [False, True])
def test_exact_answers_have_full_recall_and_a_row_named_twice_counts_once(metric: str, masked: bool) -> None:
    graph_search = load("graph_search")
    rng = np.random.default_rng(5)
    base, queries = (rng.standard_normal((n, 16)).astype(np.float32) for n in (500, 7))
    if metric == "cosine":
        base, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (base, queries))
    mask = rng.random(500) < 0.2 if masked else None
    truth = graph_search.Truth(graph_search.Data("some", base, queries, metric), queries, mask)
    far = -(queries.astype(np.float64) @ base.T)
    if metric == "l2":
        far = ((queries[:, None].astype(np.float64) - base) ** 2).sum(axis=2)
    if mask is not None:
        far[:, ~mask] = np.inf
    exact = np.argsort(far, axis=1)[:, :10]
    assert truth.recall(exact) == 1.0
    assert truth.recall(exact[:, [0] * 10]) == pytest.approx(0.1)
    short = exact.copy()
    short[:, 5:] = -1
    assert truth.recall(short) == pytest.approx(0.5)


def test_an_equally_near_row_is_as_good_and_an_excluded_one_is_an_error() -> None:
    graph_search = load("graph_search")
    base = np.repeat(np.eye(4, dtype=np.float32), 20, axis=0)
    data = graph_search.Data("some", base, base[:1], "ip")
    mask = np.arange(80) < 19
    truth = graph_search.Truth(data, base[:1], mask)
    assert truth.recall(np.arange(9, 19)[None]) == 1.0
    with pytest.raises(AssertionError, match="a row that its filter excludes"):
        truth.recall(np.arange(10, 20)[None])


def test_fewer_matches_than_k_are_all_that_is_wanted() -> None:
    graph_search = load("graph_search")
    base = np.eye(8, dtype=np.float32)
    truth = graph_search.Truth(graph_search.Data("some", base, base[:1], "l2"), base[:1], np.arange(8) < 3)
    assert truth.wanted == 3
    assert truth.recall(np.array([[0, 1, 2, -1, -1, -1, -1, -1, -1, -1]])) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        np.array([4, 2, 7], np.uint32),
        np.array([[4, 2, 7]], np.int32),
        [4, 2, 7],
        [np.array([4, 2, 7])],
    ],
)
def test_answers_of_every_shape_become_rows_padded_with_minus_one(answer: object) -> None:
    assert load("peers").rows_of(answer, 5).tolist() == [[4, 2, 7, -1, -1]]


def test_an_empty_answer_is_a_row_of_missing_neighbors() -> None:
    assert load("peers").rows_of([], 3).tolist() == [[-1, -1, -1]]


def test_timed_efforts_are_the_targets_and_both_sides_of_the_recall() -> None:
    bracket = load("filtered_search").bracket
    assert bracket({0.9: 0.91, 0.95: 0.96, 10: 0.7, 20: 0.9, 40: 0.96, 80: 0.99}) == [0.9, 0.95, 20, 40]
    assert bracket({10: 0.7, 20: 0.9}) == [20]
    assert bracket({10: 0.97, 20: 0.99}) == [10]


def test_every_peer_says_what_it_is() -> None:
    peers = load("peers")
    for name, peer in peers.PEERS.items():
        assert name == peer.name
        assert peer.package
        assert peer.efforts == tuple(sorted(peer.efforts))


def test_scanners_take_part_under_filters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers")
    for peer in peers.PEERS.values():
        monkeypatch.setattr(peer, "missing", classmethod(lambda _: None))
    assert not any(peer.scans for peer in peers.chosen(None))
    assert [peer.name for peer in peers.chosen("faiss-flat")] == []
    assert [peer.name for peer in peers.chosen("faiss-flat", filters=True)] == ["faiss-flat"]
    assert [peer.name for peer in peers.chosen("likewise")] == ["likewise", "likewise-mapped", "likewise-compact"]


def test_likewise_is_compared_with_libraries_and_not_with_itself(tmp_path: Path) -> None:
    graph_search, peers = load("graph_search"), load("peers")
    contestants = []
    for name, seconds in (("likewise", 1.0), ("likewise-mapped", 0.5), ("hnswlib", 2.0), ("scann", 4.0)):
        contestant = graph_search.Contestant(peers.PEERS[name](tmp_path), {}, {})
        contestant.recalls["single"] = {64: 0.96}
        contestant.seconds["single"] = {64: [seconds, seconds]}
        contestants.append(contestant)
    assert graph_search.ratios(contestants, "single", 1000, (0.95,)) == {
        "hnswlib": {"0.95": 2.0},
        "scann": {"0.95": 4.0},
    }
    made = {c.peer.name: graph_search.figures_of(c, 1000) for c in contestants}
    assert graph_search.best_peers(made, "single")["0.95"] == {"peer": "hnswlib", "qps": 500}


def test_a_mapped_file_that_is_not_read_takes_no_memory(tmp_path: Path) -> None:
    graph_search = load("graph_search")
    file = tmp_path / "index"
    np.zeros(4 << 20, np.uint8).tofile(file)
    _, before, _ = graph_search._memory_mib(tmp_path)
    held = np.memmap(file, mode="r")
    _, unread, _ = graph_search._memory_mib(tmp_path)
    assert held.sum() == 0
    _, mapped, touched = graph_search._memory_mib(tmp_path)
    assert (before, unread, mapped) == (0, 0, 4)
    assert 0 < touched <= 4


def test_whoever_opens_the_index_of_another_never_builds_it_anew() -> None:
    peers = load("peers")
    shared = [peer for peer in peers.PEERS.values() if peer.built_as]
    assert [peer.name for peer in shared] == ["likewise-mapped"]
    for peer in shared:
        owner = peers.PEERS[peer.built_as]
        assert (peer.version(), peer.parameters, peer.labelled) == (owner.version(), owner.parameters, owner.labelled)


def test_growth_is_the_median_ratio_of_times_at_the_recall(tmp_path: Path) -> None:
    graph_search, peers = load("graph_search"), load("peers")
    small, large = (graph_search.Contestant(peers.Likewise(tmp_path), {}, {}) for _ in range(2))
    small.recalls["single"], small.seconds["single"] = {64: 0.96}, {64: [1.0, 1.0, 2.0]}
    large.recalls["single"], large.seconds["single"] = {64: 0.96}, {64: [1.5, 1.6, 9.0]}
    assert load("graph_growth").growth(small, large, 100) == 1.6
    large.recalls["single"] = {64: 0.9}
    assert load("graph_growth").growth(small, large, 100) is None


def test_a_scan_is_priced_by_its_bytes_against_the_bandwidth() -> None:
    bandwidth = load("scan_bandwidth")
    made = bandwidth.figures_of(bandwidth.Scan(1 << 30, lambda: None), 0.1, 20.0)
    assert made == {"mib": 1024.0, "us_per_query": 100_000.0, "gb_per_s": 10.74, "share_of_bandwidth": 0.537}
