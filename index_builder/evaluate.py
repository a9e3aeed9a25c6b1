"""Measure a space before it may be published: recall against exact search, and the operating table.

Queries are datapoints held out of the index while it is measured, so the index has not seen them. Filters are drawn in two
shapes, random and clustered (the datapoints nearest to some other one, which is what a category far from the query looks
like to a graph), and the worse of the two counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from cpp_ext import reference
from matching.faiss_index import FaissIndex
from matching.manifest import OperatingPoint, Recall
from matching.space import Bitmap, Plan, PlanKind, Space

SELECTIVITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.005, 0.001)
RECALL_TARGETS = (0.8, 0.9, 0.95, 0.99)
BANDS_OF_K = (10, 100)
_EFFORTS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_GRAPH_EFFORTS = tuple(
    np.geomspace(8, 1024, 22).round().astype(int).tolist()
)  # finer, for each step is quickly measured
_N_TABLE_QUERIES = 300
_N_ORACLE_QUERIES = 50  # the oracle is slow
_N_TIMED = 32
_Z95 = 1.96
_TIE = 1e-5


@dataclass(frozen=True, slots=True)
class Measured:
    """What a space does: its recall at the default plan, its operating table, and where the exact scan is cheaper."""

    recall: Recall
    table: tuple[OperatingPoint, ...]
    exact_below: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries and the bitmap of the datapoints that they are held against."""

    queries: NDArray[np.float32]
    answerable: Bitmap


def measure_exact(space: Space, held_out: HeldOut) -> Measured:
    """Measure a flat space: its native scan against the NumPy oracle."""
    n_rows = space.n_rows
    rows = cpp_ext.rows_of(held_out.answerable, n_rows)
    k = min(10, len(rows))
    queries = held_out.queries[:_N_ORACLE_QUERIES]
    _, found, _ = space.search(Plan("exact"), queries, k, matching=held_out.answerable, n_matching=len(rows))
    shift = np.float32(1 if space.metric == "cosine" else 0)
    best = [
        reference.scan(
            shard.vectors,
            queries,
            k,
            metric="ip" if space.metric == "cosine" else space.metric,
            mask=np.ascontiguousarray(shard.words(held_out.answerable)),
            offsets=shard.offsets,
            best_of=space.entry.best_of,
        )[1]
        for shard in space.shards
    ]
    true = np.sort(np.hstack(best), axis=1)[:, :k] + shift
    return Measured(_recall(found, true, k), (), n_rows)


def measure_index(
    space: Space,
    held_out: HeldOut,
    *,
    recall_target: float,
    max_effort: int,
    seed: int,
    progress: Callable[[str], None],
) -> Measured:
    """Measure a space with an index, and find for each band of filters the cheapest effort that reaches each target.

    A point counts as reached when the lower 95 % confidence bound of its recall does. Where no effort up to `max_effort`
    reaches it, or the exact scan was quicker in the same run, the table says so.
    """
    kind: PlanKind = "ivf" if space.plan_name == "ivfpq" else "graph"
    rng = np.random.default_rng(seed)
    targets = tuple(sorted({*RECALL_TARGETS, recall_target}))
    ladder = _GRAPH_EFFORTS if space.plan_name == "graph" else _EFFORTS
    efforts = [e for e in ladder if e <= max_effort and (kind == "graph" or e <= _n_lists(space))]
    table: list[OperatingPoint] = []
    recall, exact_below = Recall(BANDS_OF_K[0], 0.0, 0.0, 0.0, 0), space.n_rows
    for k in BANDS_OF_K:
        for selectivity in SELECTIVITIES:
            progress(f"k {k}, filter {selectivity:.0%}")
            masks = _masks(space, held_out, selectivity, rng)
            if min(cpp_ext.count(mask, space.n_rows) for mask in masks) < k:
                break
            is_default = selectivity == 1 and k == BANDS_OF_K[0]  # the one the gate looks at
            queries = held_out.queries if is_default else held_out.queries[:_N_TABLE_QUERIES]
            band = _Band(space, kind, queries, k, selectivity, masks, is_filtered=selectivity < 1)
            points = band.points(efforts, targets)
            table += points
            if is_default:
                effort = next(p.effort for p in points if p.recall_target == recall_target)
                recall = band.recall(effort or efforts[-1])
                exact_below = band.exact_below(effort) if effort else space.n_rows
            if all(p.effort is None for p in points):
                break  # smaller subsets only get harder for the index and cheaper for the scan
    return Measured(recall, tuple(table), exact_below)


class _Band:
    """One selectivity and one k: truth once, then recall and time at each effort."""

    def __init__(
        self,
        space: Space,
        kind: PlanKind,
        queries: NDArray[np.float32],
        k: int,
        selectivity: float,
        masks: Sequence[Bitmap],
        *,
        is_filtered: bool,
    ) -> None:
        self._space, self._kind, self._queries, self._k = space, kind, queries, k
        self._selectivity, self._masks, self._is_filtered = selectivity, masks, is_filtered
        self._true = [self._run(Plan("exact"), mask, queries) for mask in masks]

    def _run(self, plan: Plan, mask: Bitmap, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        # the index does not hold the held-out datapoints, so an unfiltered search of it needs no mask
        matching = mask if plan.kind == "exact" or self._is_filtered else None
        return self._space.search(plan, queries, self._k, matching=matching, n_matching=0)[1]

    def recall(self, effort: int) -> Recall:
        plan = Plan(self._kind, effort)
        parts = [_recall(self._run(plan, m, self._queries), true, self._k) for m, true in zip(self._masks, self._true)]
        return min(parts, key=lambda part: part.low)

    def points(self, efforts: Sequence[int], targets: Sequence[float]) -> list[OperatingPoint]:
        found: dict[float, OperatingPoint] = {}
        for effort in efforts:
            open_targets = [t for t in targets if t not in found]
            if not open_targets or self._is_scan_quicker(effort):
                break
            recall = self.recall(effort)
            for target in open_targets:
                if recall.low >= target:
                    reached = round(recall.mean, 4), round(recall.low, 4)
                    found[target] = OperatingPoint(target, self._k, self._selectivity, effort, *reached)
        return [found.get(t, OperatingPoint(t, self._k, self._selectivity, None, 1.0, 1.0)) for t in targets]

    def exact_below(self, effort: int) -> int:
        """Return the number of datapoints that are scanned in the time of one search."""
        n_scanned = cpp_ext.count(self._masks[0], self._space.n_rows)
        return int(n_scanned * self._time_s(Plan(self._kind, effort)) / self._scan_s)

    def _is_scan_quicker(self, effort: int) -> bool:
        return self._is_filtered and self._scan_s < self._time_s(Plan(self._kind, effort))

    @cached_property
    def _scan_s(self) -> float:
        return self._time_s(Plan("exact"))

    def _time_s(self, plan: Plan) -> float:
        """Return the median time of a query, one at a time, as a service asks."""
        spent = []
        for at in range(min(_N_TIMED, len(self._queries))):
            start = time.perf_counter()
            self._run(plan, self._masks[-1], self._queries[at : at + 1])
            spent.append(time.perf_counter() - start)
        return float(np.median(spent))


def _recall(found: NDArray[np.float32], true: NDArray[np.float32], k: int) -> Recall:
    """Recall by distance: a neighbor as near as the k-th true one counts, so ties do not."""
    bound = true[:, -1:] + _TIE * np.maximum(np.abs(true[:, -1:]), 1)
    hits = np.mean(found <= bound, axis=1)
    mean = float(hits.mean())
    margin = _Z95 * float(hits.std(ddof=1)) / np.sqrt(len(hits)) if len(hits) > 1 else 0.0
    low, high = max(mean - margin, 0.0), min(mean + margin, 1.0)
    return Recall(k, round(mean, 5), round(float(low), 5), round(float(high), 5), len(hits))


def _masks(space: Space, held_out: HeldOut, selectivity: float, rng: np.random.Generator) -> list[Bitmap]:
    if selectivity == 1:
        return [held_out.answerable]
    rows = cpp_ext.rows_of(held_out.answerable, space.n_rows)
    n = int(len(rows) * selectivity)
    random = cpp_ext.new_bitmap(space.n_rows)
    cpp_ext.set_rows(random, np.sort(rng.choice(rows, n, replace=False)))
    centre = space.vectors_of(int(rng.choice(rows)))[:1]
    near, _, _ = space.search(
        Plan("exact"), np.ascontiguousarray(centre), n, matching=held_out.answerable, n_matching=len(rows)
    )
    clustered = cpp_ext.new_bitmap(space.n_rows)
    cpp_ext.set_rows(clustered, np.sort(near[0]))
    return [random, clustered]


def _n_lists(space: Space) -> int:
    return max(shard.index.max_effort for shard in space.shards if isinstance(shard.index, FaissIndex))
