"""Live recall: the interval holds what it promises, and each answered query has the same chance."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from matching.datapoint import Neighbor
from matching.version import IndexVersion, SearchResult
from serving.live_recall import LiveRecall, recall_of
from serving.query import NeighborQuery, Options


def wilson(right: int, n: int) -> tuple[float, float]:
    """The two recalls p that lie 1.96 standard errors, their own, from what was counted; by bisection."""

    def far(p: float) -> bool:
        return abs(right / n - p) > 1.959964 * (p * (1 - p) / n) ** 0.5

    ends = []
    for outside in (0.0, 1.0):
        inside = right / n
        for _ in range(80):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if far(middle) else (middle, outside)
        ends.append(inside)
    return ends[0], ends[1]


@pytest.mark.parametrize(("right", "n"), [(95, 100), (1, 10), (5, 10), (950, 1000)])
def test_queries_of_one_neighbor_have_wilson_s_interval(right: int, n: int) -> None:
    recall = recall_of([(1, 1)] * right + [(0, 1)] * (n - right))
    low, high = wilson(right, n)
    assert recall.estimate == right / n
    assert (recall.low, recall.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_nothing_asked_and_nothing_missed() -> None:
    assert (recall_of([]).low, recall_of([]).high) == (0.0, 1.0)
    all_right = recall_of([(10, 10)] * 50)
    assert all_right.estimate == 1.0
    assert (all_right.low, all_right.high) == (pytest.approx(wilson(50, 50)[0], abs=1e-6), pytest.approx(1.0))


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0], ids=["alike", "some", "wild"])
def test_the_interval_holds_the_truth_however_alike_neighbors_of_a_query_are(spread: float) -> None:
    rng = np.random.default_rng(4)
    truth, n_runs, n_held = 0.93, 400, 0
    for _ in range(n_runs):
        own = rng.beta(truth / spread, (1 - truth) / spread, 300) if spread else np.full(300, truth)
        recall = recall_of([(int(right), 10) for right in rng.binomial(10, own)])
        n_held += recall.low <= truth <= recall.high
    assert n_held / n_runs >= 0.92


def answer(plan: str, *ids: str) -> SearchResult:
    neighbors = tuple(Neighbor(name, float(at), None) for at, name in enumerate(ids))
    return SearchResult((neighbors,), plan, None, 100, 0, "v", 1.0)


class Exactly:
    """Finds a, b and c, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[NeighborQuery] = []

    def __call__(self, version: IndexVersion, queries: Sequence[NeighborQuery], space: str) -> SearchResult:
        self.asked.extend(queries)
        return answer("exact", "a", "b", "c")


class Told:
    def __init__(self) -> None:
        self.counts: list[tuple[str, int, int]] = []
        self.left = threading.Semaphore(0)

    def recalled(self, plan: str, n_right: int, n_wanted: int) -> None:
        self.counts.append((plan, n_right, n_wanted))
        self.left.release()


def test_answers_are_compared_with_exact_ones() -> None:
    exactly, told = Exactly(), Told()
    watched = LiveRecall(exactly, share=0.5, observer=told, seed=1)
    version: Any = object()
    for found in (answer("graph", "a", "b", "c"), answer("graph", "a", "x"), answer("exact", "a")):
        watched.found(version, [NeighborQuery("q")], "s", found)
        if found.plan != "exact":
            assert told.left.acquire(timeout=30)
    watched.close()
    # x lies as near as b does, and so is as good
    assert told.counts == [("graph", 3, 3), ("graph", 2, 3)]
    assert all(query.options.exact for query in exactly.asked)
    assert watched.estimates()["graph"].estimate == pytest.approx(5 / 6)


def test_fused_answers_are_compared_by_id_alone() -> None:
    told = Told()
    watched = LiveRecall(Exactly(), share=0.5, observer=told, seed=1)
    version: Any = object()
    watched.found(version, [NeighborQuery("q", options=Options(rrf_alpha=0.5))], "s", answer("graph", "a", "x"))
    assert told.left.acquire(timeout=30)
    watched.close()
    assert told.counts == [("graph", 1, 3)]


def test_each_query_has_the_same_chance() -> None:
    chosen: Counter[str] = Counter()
    version: Any = object()
    for seed in range(600):
        watched = LiveRecall(Exactly(), share=0.5, seed=seed)
        watched._closing.set()
        watched._thread.join()
        for name in "abcdef":
            watched.found(version, [NeighborQuery(name)], "s", answer("graph", "a"))
        assert watched._held is not None
        chosen[watched._held[1].datapoint_id] += 1
    assert all(60 <= chosen[name] <= 140 for name in "abcdef"), chosen
