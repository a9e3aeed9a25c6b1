"""The graph index agrees with plain float64 arithmetic on drawn inputs, filters and histories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from matching import GraphIndex
from matching.graph_index import Costs, Layout

Metric = Literal["ip", "cosine", "l2"]
Kind = Literal["plain", "offset", "lengths", "constant", "duplicates", "zeros", "flat"]

METRICS = st.sampled_from(["ip", "cosine", "l2"])
KINDS = st.sampled_from(["plain", "offset", "lengths", "constant", "duplicates", "zeros", "flat"])
DIMS = st.integers(1, 300) | st.sampled_from([1, 7, 8, 63, 64, 65, 127, 128, 129, 192, 256])
SEEDS = st.integers(0, 2**32)
WALKS = Costs(hop=1, block=32)
QUICK = settings(max_examples=150, deadline=None)


@dataclass(frozen=True)
class Drawn:
    """Vectors with their queries, and what float64 says of them."""

    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    metric: Metric
    is_centred: bool = True
    """Whether the index learnt its centre from these very vectors."""

    def distances(self) -> NDArray[np.float64]:
        """Return every distance, float64[q, n], in the metric's own terms."""
        x, q = self.vectors.astype(np.float64), self.queries.astype(np.float64)
        if self.metric == "l2":
            return np.asarray(((q[:, None] - x[None]) ** 2).sum(axis=2))
        if self.metric == "cosine":
            return np.asarray(1 - unit(q) @ unit(x).T)
        return np.asarray(-(q @ x.T))

    def tolerance(self) -> NDArray[np.float64]:
        """Return how far an exact answer may lie from that, float64[q, 1]: 1e-4 of the spread, 1e-6 of the size."""
        x, q = self.vectors.astype(np.float64), self.queries.astype(np.float64)
        size = np.ones((len(q), 1))
        if self.metric == "cosine":
            x, q = unit(x), unit(q)
        if self.metric == "ip":  # a query counts as if it were as long as the longest row
            longest = np.linalg.norm(x, axis=1).max(initial=0) or 1.0
            size = np.linalg.norm(q, axis=1, keepdims=True) / longest
            q = unit(q) * longest
        centre = x.mean(axis=0) if len(x) and self.is_centred else np.zeros(x.shape[1])
        reach = np.linalg.norm(q - centre, axis=1, keepdims=True)
        spread = np.linalg.norm(x - centre, axis=1).max(initial=0) + (0 if self.is_centred else 4 * np.sqrt(x.shape[1]))
        lengths = np.linalg.norm(q, axis=1, keepdims=True) + 2 * np.linalg.norm(x, axis=1).max(initial=0)
        return np.asarray((1e-4 * reach * spread + 1e-6 * lengths**2) * size + 1e-12)


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


def draw_vectors(rng: np.random.Generator, n: int, dim: int, kind: Kind) -> NDArray[np.float32]:
    x = rng.standard_normal((n, dim))
    if kind == "offset":
        x += 1e4
    elif kind == "lengths":
        x *= 10.0 ** rng.integers(-5, 6, (n, 1))
    elif kind == "constant":
        x[:] = x[:1]
    elif kind == "duplicates":
        x = x[rng.integers(0, 1 + n // 4, n)]
    elif kind == "zeros":
        x[rng.random(n) < 0.4] = 0
    elif kind == "flat":
        x[:] = x[:, :1]
    return x.astype(np.float32)


def drawn(seed: int, n: int, dim: int, metric: Metric, kind: Kind, n_queries: int = 4) -> Drawn:
    rng = np.random.default_rng(seed)
    vectors = draw_vectors(rng, n, dim, kind)
    queries = rng.standard_normal((n_queries, dim)) + (1e4 if kind == "offset" else 0)
    if n:
        queries[0] = vectors[rng.integers(0, n)]
    queries[-1] *= kind != "zeros"
    vectors.setflags(write=False)
    asked = queries.astype(np.float32)
    asked.setflags(write=False)
    return Drawn(vectors, asked, metric)


def bitmap(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack a mask; the bits beyond the last row are set, and must not matter."""
    padded = np.ones(-(-len(mask) // 64) * 64, np.bool_)
    padded[: len(mask)] = mask
    return np.packbits(padded, bitorder="little").view(np.uint64)


def check_shape(
    rows: NDArray[np.int64], distances: NDArray[np.float32], k: int, allowed: NDArray[np.bool_], n_queries: int
) -> None:
    """Check what holds for every answer, whatever the plan: how many, which, in what order, padded with what."""
    assert rows.dtype == np.int64
    assert distances.dtype == np.float32
    assert rows.shape == distances.shape == (n_queries, k)
    n_found = min(k, int(allowed.sum()))
    assert (rows[:, n_found:] == -1).all()
    assert (distances[:, n_found:] == np.inf).all()
    found, near = rows[:, :n_found], distances[:, :n_found]
    assert ((found >= 0) & (found < len(allowed))).all()
    assert allowed[found].all()
    assert np.isfinite(near).all()
    assert all(len(set(each)) == n_found for each in found.tolist())
    assert (np.diff(near, axis=1) >= 0).all()
    tied = np.diff(near, axis=1) == 0
    assert (np.diff(found, axis=1)[tied] > 0).all()


def check_exact(case: Drawn, rows: NDArray[np.int64], distances: NDArray[np.float32], allowed: Any) -> None:
    """Check an exact answer against float64: right distances, and no nearer row left out."""
    wanted, tolerance = case.distances(), case.tolerance()
    for q in range(len(rows)):
        found = rows[q][rows[q] >= 0]
        near = distances[q][: len(found)]
        assert (np.abs(wanted[q, found] - near) <= tolerance[q]).all()
        left = np.setdiff1d(np.flatnonzero(allowed), found)
        if len(found) and len(left):
            assert wanted[q, left].min() >= wanted[q, found].max() - 2 * tolerance[q, 0]


def check_near(case: Drawn, rows: NDArray[np.int64], allowed: Any, floor: float) -> None:
    """Check that of all answers at least `floor` are as near as the true k nearest."""
    wanted, tolerance = case.distances(), case.tolerance()
    n_found = n_good = 0
    for q in range(len(rows)):
        found = rows[q][rows[q] >= 0]
        if not len(found):
            continue
        kth = np.sort(wanted[q, np.flatnonzero(allowed)])[len(found) - 1]
        n_good += int((wanted[q, found] <= kth + 2 * tolerance[q]).sum())
        n_found += len(found)
    assert n_good >= floor * n_found


@QUICK
@given(SEEDS, st.integers(0, 90), DIMS, METRICS, KINDS, st.integers(1, 120), st.integers(1, 3))
@example(0, 0, 5, "ip", "plain", 3, 1)
@example(0, 1, 1, "cosine", "plain", 1, 2)
@example(0, 2, 3, "l2", "duplicates", 5, 1)
@example(1, 9, 4096, "cosine", "plain", 4, 2)
@example(2, 9, 4095, "l2", "zeros", 4, 1)
def test_exact_search_agrees_with_float64(
    seed: int, n: int, dim: int, metric: Metric, kind: Kind, k: int, threads: int
) -> None:
    case = drawn(seed, n, dim, metric, kind)
    index = GraphIndex.build(case.vectors, metric=metric, seed=seed % 7, threads=threads)
    assert (len(index), index.n_rows, index.dim, index.metric, index.n_unreachable) == (n, n, dim, metric, 0)
    everything = np.ones(n, np.bool_)
    rows, distances = index.search(case.queries, k, exact=True, threads=threads)
    check_shape(rows, distances, k, everything, len(case.queries))
    check_exact(case, rows, distances, everything)
    rows, distances = index.search(case.queries, k, threads=threads)
    check_shape(rows, distances, k, everything, len(case.queries))
    check_near(case, rows, everything, 0.75)


@QUICK
@given(SEEDS, st.integers(1, 700), st.sampled_from([3, 64, 100]), METRICS, KINDS, st.integers(1, 80), st.data())
def test_masks_keep_the_contract(
    seed: int, n: int, dim: int, metric: Metric, kind: Kind, k: int, data: st.DataObject
) -> None:
    case = drawn(seed, n, dim, metric, kind)
    rng = np.random.default_rng(seed)
    share = data.draw(st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]))
    mask = rng.random(n) < share
    if data.draw(st.booleans()):
        mask = np.arange(n) == rng.integers(0, n)
    index = GraphIndex.build(case.vectors, metric=metric)
    gone = np.flatnonzero(rng.random(n) < data.draw(st.sampled_from([0.0, 0.5])))
    assert index.delete(gone) == len(gone)
    allowed = mask.copy()
    allowed[gone] = False
    packed = bitmap(mask)
    for form in (mask, packed):
        form.setflags(write=False)
    for exact in (True, False):
        rows, distances = index.search(case.queries, k, mask=mask, exact=exact)
        check_shape(rows, distances, k, allowed, len(case.queries))
        again = index.search(case.queries, k, mask=packed, exact=exact, threads=2)
        np.testing.assert_array_equal(rows, again[0])
        np.testing.assert_array_equal(distances, again[1])
        if exact:
            check_exact(case, rows, distances, allowed)
    check_near(case, rows, allowed, 0.75)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 1500), st.sampled_from([5, 64, 130]), METRICS, KINDS, st.booleans())
def test_an_answer_depends_neither_on_threads_nor_on_its_batch(
    seed: int, n: int, dim: int, metric: Metric, kind: Kind, is_masked: bool
) -> None:
    case = drawn(seed, n, dim, metric, kind, n_queries=21)
    mask = np.random.default_rng(seed).random(n) < 0.5 if is_masked else None
    layout: Layout = "fast" if seed % 2 else "compact"
    one = GraphIndex.build(case.vectors, metric=metric, threads=1, layout=layout, costs=WALKS)
    two = GraphIndex.build(case.vectors, metric=metric, threads=2, layout=layout, costs=WALKS)
    together = one.trace(case.queries, 10, mask=mask, effort=12)
    for index in (one, two):
        for threads in (1, 2, 3):
            same = index.trace(case.queries, 10, mask=mask, effort=12, threads=threads)
            np.testing.assert_array_equal(same.rows, together.rows)
            np.testing.assert_array_equal(same.distances, together.distances)
            np.testing.assert_array_equal(same.n_expanded, together.n_expanded)
            assert same.plans == together.plans
    for q in range(len(case.queries)):
        rows, distances = one.search(case.queries[q : q + 1], 10, mask=mask, effort=12)
        np.testing.assert_array_equal(rows[0], together.rows[q])
        np.testing.assert_array_equal(distances[0], together.distances[q])


@QUICK
@given(SEEDS, st.integers(1, 60), DIMS, METRICS, KINDS)
def test_restored_vectors_are_those_that_were_given(seed: int, n: int, dim: int, metric: Metric, kind: Kind) -> None:
    case = drawn(seed, n, dim, metric, kind)
    given_vectors = case.vectors.astype(np.float64)
    wanted = unit(given_vectors) if metric == "cosine" else given_vectors
    index = GraphIndex.build(case.vectors, metric=metric)
    rows = np.random.default_rng(seed).integers(0, n, 2 * n)
    restored = index.vectors(rows)
    assert restored.dtype == np.float32
    assert restored.shape == (2 * n, dim)
    spread = np.abs(wanted - wanted.mean(axis=0)).max(initial=0) * np.sqrt(dim)
    size = np.linalg.norm(wanted, axis=1).max(initial=0)
    assert (np.abs(restored - wanted[rows]) <= 1e-4 * spread + 3e-6 * size + 1e-12).all()


STEPS = st.lists(st.sampled_from(["add", "delete", "compact"]), min_size=1, max_size=8)


def live_through(
    index: GraphIndex, vectors: NDArray[np.float32], kind: Kind, most: int, step: str, rng: np.random.Generator
) -> tuple[GraphIndex, NDArray[np.float32], NDArray[np.bool_]]:
    """Do one step; returns the index, every vector by row, and what changed of the rows that live."""
    live = np.zeros(len(vectors), np.bool_)
    live[:] = True
    if step == "add":
        more = draw_vectors(rng, int(rng.integers(0, most)), vectors.shape[1], kind)
        rows = index.add(more, threads=int(rng.integers(1, 3)))
        np.testing.assert_array_equal(rows, np.arange(len(vectors), len(vectors) + len(more)))
        return index, np.concatenate([vectors, more]), np.concatenate([live, np.ones(len(more), np.bool_)])
    gone = rng.integers(0, len(vectors), int(rng.integers(0, 1 + len(vectors)))) if len(vectors) else np.zeros(0, int)
    live[gone] = False
    return index, vectors, live


def check_history(
    seed: int, n: int, dim: int, metric: Metric, kind: Kind, steps: list[str], most: int, floor: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors = draw_vectors(rng, n, dim, kind)
    index = GraphIndex.build(vectors, metric=metric, layout="fast" if seed % 2 else "compact", costs=WALKS)
    live = np.ones(n, np.bool_)
    for step in [*steps, "compact"]:
        if step == "compact":
            before, n_before = index, len(index)
            index, old_rows = before.compact(threads=2)
            np.testing.assert_array_equal(old_rows, np.flatnonzero(live))
            assert (len(before), before.n_rows) == (n_before, len(vectors))
            vectors, live = vectors[old_rows], np.ones(len(old_rows), np.bool_)
            assert index.n_unreachable == 0
        else:
            index, vectors, kept = live_through(index, vectors, kind, most, step, rng)
            if step == "delete":
                gone = np.flatnonzero(~kept)
                assert index.delete(gone) == live[gone].sum()
                assert index.delete(gone) == 0
            live = np.concatenate([live, np.ones(len(vectors) - len(live), np.bool_)]) & kept
        assert (len(index), index.n_rows) == (live.sum(), len(vectors))
        queries = draw_vectors(rng, 5, dim, "plain")
        case = Drawn(vectors, queries, metric, is_centred=False)
        rows, distances = index.search(queries, 7, exact=True)
        check_shape(rows, distances, 7, live, 5)
        check_exact(case, rows, distances, live)
        rows, distances = index.search(queries, 7, threads=2)
        check_shape(rows, distances, 7, live, 5)
        check_near(case, rows, live, floor)


@settings(max_examples=80, deadline=None)
@given(
    SEEDS,
    st.integers(0, 60),
    st.sampled_from([1, 6, 64, 70]),
    METRICS,
    st.sampled_from(["plain", "duplicates", "zeros", "constant"]),
    STEPS,
)
def test_any_history_leaves_the_rows_that_live(
    seed: int, n: int, dim: int, metric: Metric, kind: Kind, steps: list[str]
) -> None:
    check_history(seed, n, dim, metric, kind, steps, most=40, floor=0.6)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.integers(600, 1600), METRICS, st.sampled_from(["plain", "duplicates"]), STEPS)
def test_histories_of_a_graph_that_is_walked(seed: int, n: int, metric: Metric, kind: Kind, steps: list[str]) -> None:
    check_history(seed, n, 24, metric, kind, steps, most=900, floor=0.6)
