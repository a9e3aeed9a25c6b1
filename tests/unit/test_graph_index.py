"""What the graph index promises one by one: messages, recall with its floor, filters, mutations, files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cpp_ext
from matching import GraphIndex
from matching.container import open_container, write_container
from matching.errors import AlreadyExists, CorruptArtifact, InvalidInput, InvalidQuery, NotFound
from matching.graph_index import KIND, MAX_K, Costs, Layout, Metric, Trace

METRICS: tuple[Metric, ...] = ("ip", "cosine", "l2")


@dataclass(frozen=True)
class Shop:
    """Vectors in clusters, one cluster a category, and queries from the same clusters."""

    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    categories: NDArray[np.int64]
    centres: NDArray[np.float32]


def make_shop(n: int, dim: int, n_queries: int = 200, seed: int = 7, n_categories: int = 100) -> Shop:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_categories, dim))
    categories = rng.integers(0, n_categories, n + n_queries)
    vectors = (centres[categories] + 0.6 * rng.standard_normal((n + n_queries, dim))).astype(np.float32)
    vectors.setflags(write=False)
    return Shop(vectors[:n], vectors[n:], categories[:n], centres.astype(np.float32))


WALKS = Costs(hop=1, block=32)
"""As if links cost nothing: small graphs are walked that would be scanned."""


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop(20_000, 64)


@pytest.fixture(scope="module", params=["fast", "compact"])
def index(shop: Shop, request: pytest.FixtureRequest) -> GraphIndex:
    """Nobody changes it."""
    return GraphIndex.build(shop.vectors, metric="ip", threads=2, layout=request.param, costs=Costs(90, 32))


@pytest.fixture(scope="module")
def small() -> GraphIndex:
    return GraphIndex.build(make_shop(300, 12).vectors)


def recall(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """Share of the wanted rows that were found; -1 counts for nothing."""
    hits = sum(len(set(a) & set(b) - {-1}) for a, b in zip(found.tolist(), wanted.tolist()))
    return hits / max(int((wanted >= 0).sum()), 1)


def measured(index: GraphIndex, queries: NDArray[np.float32], k: int = 10, **how: Any) -> tuple[float, Trace]:
    """Return the recall against exact search of the same rows, and how it was found."""
    wanted, _ = index.search(queries, k, exact=True, mask=how.get("mask"), threads=2)
    traced = index.trace(queries, k, threads=2, **how)
    return recall(traced.rows, wanted), traced


def same_answers(one: GraphIndex, other: GraphIndex, queries: NDArray[np.float32]) -> None:
    for how in ({}, {"recall_target": 0.99}, {"effort": 20}, {"exact": True}):
        for ours, theirs in zip(one.search(queries, 10, **how), other.search(queries, 10, **how), strict=True):
            np.testing.assert_array_equal(ours, theirs)


# ---- messages


OK = np.ones((3, 12), np.float32)
NUMBERS: list[tuple[str, Any, str]] = [
    ("text", [["a", "b"]], "vectors cannot be read as numbers: could not convert string to float: 'a'; expected float"),
    ("ragged", [[1.0], [1.0, 2.0]], "vectors cannot be read as numbers: "),
    ("objects", [[object()]], "vectors cannot be read as numbers: "),
    ("one axis", np.ones(12), "vectors have shape (12,); expected float32[n, "),
    ("three axes", np.ones((1, 1, 12)), "vectors have shape (1, 1, 12); expected float32[n, "),
    ("nan", np.where(np.arange(36).reshape(3, 12) == 17, np.nan, 1), "row 1 holds NaN or infinity; expected finite"),
    ("infinity", np.where(np.arange(36).reshape(3, 12) == 35, -np.inf, 1), "row 2 holds NaN or infinity; expected"),
    ("both", np.where(np.arange(12) % 2, [[np.inf] * 12], -np.inf), "row 0 holds NaN or infinity; expected finite"),
    ("float64", np.full((1, 12), 1e300), "row 0 holds NaN or infinity; expected finite numbers"),
    ("large", np.full((1, 12), 2e15), "row 0 holds numbers beyond 1e15; expected smaller ones: scale them down"),
]


@pytest.mark.parametrize(("vectors", "message"), [each[1:] for each in NUMBERS], ids=[each[0] for each in NUMBERS])
def test_vectors_that_are_none_are_named(vectors: Any, message: str, small: GraphIndex) -> None:
    calls: list[tuple[str, Callable[[], object], type[Exception]]] = [
        ("build", lambda: GraphIndex.build(vectors), InvalidInput),
        ("build", lambda: GraphIndex.from_links(vectors, np.zeros((1, 1), np.int32)), InvalidInput),
        ("search", lambda: small.search(vectors), InvalidQuery),
        ("search", lambda: small.trace(vectors), InvalidQuery),
        ("add", lambda: small.add(vectors), InvalidInput),
    ]
    n_rows = small.n_rows
    for operation, call, error in calls:
        with pytest.raises(error, match=re.escape(f"[{operation}] {message}")):
            call()
    assert small.n_rows == n_rows


BUILD_REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"vectors": np.ones((3, 0))}, "[build] vectors have shape (3, 0); expected float32[n, d], 1 <= d <= 4096"),
    ({"vectors": np.ones((1, 4097))}, "[build] vectors have shape (1, 4097); expected float32[n, d], 1 <= d <= 4096"),
    ({"metric": "dot"}, "[build] metric is 'dot'; expected ip, cosine or l2"),
    ({"threads": 0}, "[build] threads is 0; expected an integer, 1 <= threads <= 256"),
    ({"threads": 257}, "[build] threads is 257; expected an integer, 1 <= threads <= 256"),
    ({"threads": 2.0}, "[build] threads is 2.0; expected an integer, 1 <= threads <= 256"),
    ({"threads": True}, "[build] threads is True; expected an integer, 1 <= threads <= 256"),
    ({"degree": 7}, "[build] degree is 7; expected an integer, 8 <= degree <= 128"),
    ({"degree": 129}, "[build] degree is 129; expected an integer, 8 <= degree <= 128"),
    ({"build_beam": 31}, "[build] build_beam is 31; expected an integer, 32 <= build_beam <= 4096"),
    ({"build_beam": 4097}, "[build] build_beam is 4097; expected an integer, 32 <= build_beam <= 4096"),
    ({"seed": -1}, "[build] seed is -1; expected an integer, 0 <= seed <= "),
    ({"seed": 2**63}, f"[build] seed is {2**63}; expected an integer, 0 <= seed <= {2**63 - 1}"),
]


@pytest.mark.parametrize(("arguments", "message"), BUILD_REFUSALS)
def test_build_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        GraphIndex.build(**{"vectors": OK, **arguments})


def test_a_link_to_nowhere_is_refused() -> None:
    with pytest.raises(InvalidInput, match=re.escape("[build] a link leads to row 3; expected rows below 3")):
        GraphIndex.from_links(OK, np.array([[1], [3], [-1]]))


@pytest.mark.parametrize("shape", [(2, 4), (3, 0), (3,), (3, 1, 1)])
def test_links_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    message = re.escape(f"[build] links have shape {shape}; expected (3, m) with m >= 1")
    with pytest.raises(InvalidInput, match=message):
        GraphIndex.from_links(OK, np.zeros(shape, np.int32))


SEARCH_REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"queries": np.ones((1, 11))}, "vectors have shape (1, 11); expected float32[n, 12]"),
    ({"k": 0}, f"k is 0; expected an integer, 1 <= k <= {MAX_K}"),
    ({"k": MAX_K + 1}, f"k is {MAX_K + 1}; expected an integer, 1 <= k <= {MAX_K}"),
    ({"k": 2.5}, f"k is 2.5; expected an integer, 1 <= k <= {MAX_K}"),
    ({"threads": 0}, "threads is 0; expected an integer, 1 <= threads <= 256"),
    ({"effort": 9, "recall_target": 0.9}, "effort and recall_target are both given; expected one of them"),
    ({"effort": 0}, "effort is 0; expected a number above 0"),
    ({"effort": -3.5}, "effort is -3.5; expected a number above 0"),
    ({"effort": np.nan}, "effort is nan; expected a number above 0"),
    ({"recall_target": 0}, "recall_target is 0; expected 0 < recall_target <= 1"),
    ({"recall_target": 1.01}, "recall_target is 1.01; expected 0 < recall_target <= 1"),
    ({"recall_target": np.nan}, "recall_target is nan; expected 0 < recall_target <= 1"),
    ({"mask": np.ones(299, np.bool_)}, "mask is bool[299]; expected bool[300] or a bitmap uint64[5]"),
    ({"mask": np.ones((1, 300), np.bool_)}, "mask is bool[1, 300]; expected bool[300] or a bitmap uint64[5]"),
    ({"mask": np.ones(4, np.uint64)}, "mask is uint64[4]; expected bool[300] or a bitmap uint64[5]"),
    ({"mask": np.ones(300, np.uint8)}, "mask is uint8[300]; expected bool[300] or a bitmap uint64[5]"),
]


@pytest.mark.parametrize(("arguments", "message"), SEARCH_REFUSALS)
def test_search_refuses(arguments: dict[str, Any], message: str, small: GraphIndex) -> None:
    for call in (small.search, small.trace):
        with pytest.raises(InvalidQuery, match=re.escape(f"[search] {message}")):
            call(**{"queries": OK, **arguments})


def test_rows_that_were_never_added_are_refused_and_nothing_is_deleted() -> None:
    index = GraphIndex.build(OK)
    for row in (-1, 3, 2**40):
        for call in (index.delete, index.vectors):
            name = call.__name__
            with pytest.raises(NotFound, match=re.escape(f"[{name}] row {row} is not in the index; expected 0 <= row")):
                call([0, row])
    for rows, kind in (([0.0], "float64[1]"), ([True], "bool[1]"), ([[0, 1]], "int64[1, 2]")):
        with pytest.raises(InvalidInput, match=re.escape(f"[delete] rows are {kind}; expected integers [m]")):
            index.delete(rows)
    for operation, refused in (
        ("add", lambda: index.add(OK, threads=0)),
        ("compact", lambda: index.compact(threads=0)),
    ):
        message = f"[{operation}] threads is 0; expected an integer, 1 <= threads <= 256"
        with pytest.raises(InvalidInput, match=re.escape(message)):
            refused()
    assert len(index) == 3
    assert index.delete([]) == 0
    assert index.delete([2, 2, 0]) == 2
    assert index.delete(np.array([2, 1], np.uint8)) == 1
    assert len(index) == 0


# ---- shapes


@pytest.mark.parametrize("threads", [1, 2])
def test_no_query_gets_no_answer(small: GraphIndex, threads: int) -> None:
    for how in ({}, {"exact": True}, {"mask": np.ones(300, np.bool_)}):
        traced = small.trace(np.empty((0, 12)), 3, threads=threads, **how)
        assert traced.rows.shape == traced.distances.shape == (0, 3)
        assert (traced.plans, len(traced.n_expanded)) == ([], 0)


def test_an_empty_index_answers_and_grows() -> None:
    shop = make_shop(900, 24)
    index = GraphIndex.build(shop.vectors[:0], metric="cosine")
    mask = np.zeros(0, np.bool_)
    for how in ({}, {"mask": mask}, {"exact": True}):
        rows, distances = index.search(shop.queries, 3, **how)
        assert (rows == -1).all()
        assert (distances == np.inf).all()
    compacted, old_rows = index.compact()
    assert len(compacted) == len(old_rows) == 0
    assert index.add(shop.vectors[:0]).shape == (0,)
    np.testing.assert_array_equal(index.add(shop.vectors, threads=2), np.arange(900))
    assert len(index) == 900
    found, _ = measured(index, shop.queries)
    assert found >= 0.95


def test_numbers_of_any_kind_and_layout_are_read_and_left_as_they_are(small: GraphIndex) -> None:
    numbers = np.arange(36).reshape(3, 12) - 17
    wanted = small.search(numbers.astype(np.float32), 5)
    wide = np.zeros((6, 24), np.float32)
    wide[::2, ::2] = numbers
    forms: list[Any] = [
        numbers,
        numbers.tolist(),
        numbers.astype(np.float16),
        np.asfortranarray(numbers),
        wide[::2, ::2],
    ]
    for form in forms:
        before = np.array(form)
        for ours, theirs in zip(small.search(form, 5), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        built = GraphIndex.build(form)
        built.add(form)
        np.testing.assert_array_equal(np.array(form), before)
        assert built.n_rows == 6


def test_usual_arguments_and_odd_ones_get_the_same_answers(shop: Shop, index: GraphIndex) -> None:
    queries = shop.queries[:7]
    mask = np.arange(len(shop.vectors)) % 3 == 0
    bitmap = cpp_ext.new_bitmap(len(mask))
    cpp_ext.set_rows(bitmap, np.flatnonzero(mask))
    for chosen in (None, mask, bitmap):
        first = index.search(queries, 10, effort=33, mask=chosen)  # an effort that was not asked for before
        for odd in (queries.tolist(), queries.astype(np.float64), np.asfortranarray(queries), queries):
            for k in (10, np.int32(10)):
                for threads in (1, np.int64(2)):
                    again = index.search(odd, k, effort=33, mask=chosen, threads=threads)  # type: ignore[arg-type]
                    for ours, theirs in zip(again, first, strict=True):
                        np.testing.assert_array_equal(ours, theirs)
                        assert ours.dtype == theirs.dtype


# ---- recall


@pytest.mark.parametrize(("target", "floor"), [(0.9, 0.88), (0.95, 0.93), (0.99, 0.975)])
def test_a_recall_target_is_reached_through_the_graph(
    shop: Shop, index: GraphIndex, target: float, floor: float
) -> None:
    found, traced = measured(index, shop.queries, recall_target=target)
    assert found >= floor
    assert traced.plans == ["graph"] * len(shop.queries)
    assert (traced.n_expanded > 0).all()
    assert traced.n_expanded.mean() < 100


@pytest.mark.parametrize("k", [1, 3])
def test_fewer_than_ten_are_found_as_surely(shop: Shop, index: GraphIndex, k: int) -> None:
    found, traced = measured(index, shop.queries, k, recall_target=0.95)
    assert found >= 0.93
    assert set(traced.plans) == {"graph"}


def test_a_walk_among_equal_rows_costs_no_more_than_a_scan() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((30_000, 16)).astype(np.float32)
    vectors[:5000] = vectors[0]
    index = GraphIndex.build(vectors, metric="l2", threads=2)
    traced = index.trace(np.repeat(vectors[:1], 3, axis=0), 10, recall_target=0.9)
    assert (traced.rows < 5000).all()
    assert (traced.n_expanded <= 30_000 / 10).all()


def test_the_default_target_is_95(shop: Shop, index: GraphIndex) -> None:
    for ours, theirs in zip(index.search(shop.queries), index.search(shop.queries, recall_target=0.95), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_more_effort_never_finds_less(shop: Shop, index: GraphIndex) -> None:
    efforts = [5, 15, 30, 60, 90]
    found, expanded = [], []
    for effort in efforts:
        share, traced = measured(index, shop.queries, effort=effort)
        assert set(traced.plans) == {"graph"}
        found.append(share)
        expanded.append(float(traced.n_expanded.mean()))
    assert (np.diff(found) > -0.005).all(), found
    assert (np.diff(expanded) > 0).all(), expanded
    assert np.abs(np.log(np.array(expanded[1:]) / efforts[1:])).max() < np.log(1.5), expanded
    assert found[-1] > 0.99
    for extreme in (1e-9, 1e9, 1e300, np.inf):
        share, _ = measured(index, shop.queries[:20], effort=extreme)
        assert share > (0.1 if extreme < 1 else 0.98)


def test_what_was_measured_holds_on_queries_of_its_kind(shop: Shop, index: GraphIndex) -> None:
    points = index.operating_points
    assert len(points) >= 4
    assert [point.effort for point in points] == sorted(point.effort for point in points)
    assert all(point.recall_low <= point.recall <= 1 for point in points)
    for point in points[:: len(points) // 3]:
        found, traced = measured(index, shop.queries, effort=point.effort)
        assert abs(found - point.recall) < 0.04
        assert abs(traced.n_expanded.mean() / point.effort - 1) < 0.25


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1100, 1350, 2000])
def test_a_target_is_reached_where_graph_and_scan_cost_about_the_same(n: int, metric: Metric) -> None:
    vectors = np.random.default_rng(n).standard_normal((n + 400, 24)).astype(np.float32)
    index = GraphIndex.build(vectors[: n - 100], metric=metric, threads=2, costs=WALKS)
    index.add(vectors[n - 100 : n])
    for target, floor in ((0.95, 0.91), (0.99, 0.95)):
        found, _ = measured(index, vectors[n:], recall_target=target)
        assert found >= floor


@pytest.mark.parametrize("metric", METRICS)
def test_rows_added_one_by_one_do_not_thin_out_the_graph(metric: Metric) -> None:
    shop = make_shop(4500, 32)
    index = GraphIndex.build(shop.vectors[:3000], metric=metric, threads=2, costs=WALKS)
    before, _ = measured(index, shop.queries, effort=15)
    for start in range(3000, 4500, 250):
        index.add(shop.vectors[start : start + 250], threads=2)
    after, traced = measured(index, shop.queries, effort=15)
    assert set(traced.plans) == {"graph"}
    assert after >= before - 0.04


@pytest.mark.parametrize("metric", METRICS)
def test_rows_added_in_tens_are_linked_as_well_as_those_built_at_once(metric: Metric) -> None:
    shop = make_shop(4000, 32)
    grown = GraphIndex.build(shop.vectors[:1000], metric=metric, threads=2, costs=WALKS)
    for start in range(1000, 4000, 10):  # full lists take in one link at a time
        grown.add(shop.vectors[start : start + 10])
    fresh = GraphIndex.build(shop.vectors, metric=metric, threads=2, costs=WALKS)
    assert grown.n_unreachable <= 4  # of 4,000: nobody connects rows that were added
    for effort in (15, 40):
        ours, traced = measured(grown, shop.queries, effort=effort)
        theirs, _ = measured(fresh, shop.queries, effort=effort)
        assert set(traced.plans) == {"graph"}
        assert ours >= theirs - 0.03


@pytest.mark.parametrize("dim", [32, 500])
def test_links_that_stay_are_described_as_if_they_were_new(dim: int) -> None:
    shop = make_shop(1200, dim)
    index = GraphIndex.build(shop.vectors[:600], layout="fast")
    for start in range(600, 1200, 10):
        index.add(shop.vectors[start : start + 10])
    anew, _ = index.compact()
    ours, theirs = index.native.arrays(), anew.native.arrays()
    same = (ours["neighbors"] == theirs["neighbors"]).all(axis=1)
    assert same.mean() > 0.9  # compacting may give some rows a link that makes others reachable
    np.testing.assert_array_equal(ours["blocks"][same], theirs["blocks"][same])


def test_duplicates_and_zeros_do_not_stop_a_walk() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((10_000, 20)).astype(np.float32)
    vectors[1000:1200] = vectors[0]
    vectors[2000:2100] = 0
    for metric in METRICS:
        index = GraphIndex.build(vectors, metric=metric, threads=2, costs=WALKS)
        assert index.n_unreachable == 0
        queries = np.concatenate([vectors[2500:2600], rng.standard_normal((100, 20))]).astype(np.float32)
        _, far = index.search(queries, exact=True)
        traced = index.trace(queries, effort=40)
        assert set(traced.plans) == {"graph"}
        assert (traced.rows >= 0).all()
        near = traced.distances <= far[:, -1:]
        assert near.mean() > (0.7 if metric == "ip" else 0.85)


# ---- filters


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("form", ["random", "far"])
def test_filters_keep_recall_and_fill_k(shop: Shop, index: GraphIndex, share: float, form: str) -> None:
    n = len(shop.vectors)
    rng = np.random.default_rng(11)
    if form == "random":
        mask, queries = rng.random(n) < share, shop.queries
    else:  # whole categories, the farthest from that of the queries
        order = np.argsort(shop.centres @ shop.centres[0])
        place = np.argsort(order)[shop.categories]
        mask = np.zeros(n, np.bool_)
        mask[np.argsort(place, kind="stable")[: int(share * n)]] = True
        queries = (shop.centres[0] + 0.6 * rng.standard_normal((100, 64))).astype(np.float32)
    n_allowed = int(mask.sum())
    for k in (10, 100):
        found, traced = measured(index, queries, k, mask=mask, recall_target=0.95)
        assert found >= 0.93
        assert ((traced.rows >= 0).sum(axis=1) == min(k, n_allowed)).all()
        assert mask[traced.rows[traced.rows >= 0]].all()
        if share <= 0.01:
            assert set(traced.plans) == {"scan"}
        if (form, share, k) == ("random", 0.5, 10):
            assert traced.plans.count("graph") > 0.9 * len(queries)


def test_plans_follow_what_is_asked(shop: Shop, index: GraphIndex) -> None:
    queries = shop.queries[:20]
    assert set(index.trace(queries, 10).plans) == {"graph"}
    exact = index.trace(queries, 10, exact=True)
    assert set(exact.plans) == {"scan"}
    assert (exact.n_expanded == 0).all()
    assert set(index.trace(queries, 10_000).plans) == {"scan"}
    assert set(index.trace(queries, 10, effort=1e6).plans) == {"scan"}
    few = np.arange(len(shop.vectors)) < 400
    assert set(index.trace(queries, 10, mask=few).plans) == {"scan"}
    rows, _ = index.search(queries, 30_000, mask=few)
    assert (rows[:, 400:] == -1).all()
    assert (np.sort(rows[:, :400], axis=1) == np.arange(400)).all()


# ---- links from elsewhere


def test_exact_links_make_a_graph(shop: Shop) -> None:
    vectors = shop.vectors[:6000]
    distances = -(vectors @ vectors.T)
    np.fill_diagonal(distances, np.inf)
    links = np.argpartition(distances, 48, axis=1)[:, :48].astype(np.int32)
    links[::7, 20:] = -1
    index = GraphIndex.from_links(vectors, links, threads=2, costs=WALKS)
    assert index.n_unreachable == 0
    assert len(index.operating_points) >= 3
    found, _ = measured(index, shop.queries, recall_target=0.95)
    assert found >= 0.93
    found, traced = measured(index, shop.queries, effort=20)
    assert set(traced.plans) == {"graph"}
    assert found >= 0.7
    same = GraphIndex.from_links(vectors, links.tolist(), threads=1, costs=WALKS)
    same_answers(index, same, shop.queries[:20])


def test_links_of_another_library_make_a_graph(shop: Shop) -> None:
    faiss = pytest.importorskip("faiss")
    n, m = 8000, 16
    vectors = np.ascontiguousarray(shop.vectors[:n])
    theirs = faiss.IndexHNSWFlat(64, m, faiss.METRIC_L2)
    theirs.hnsw.efConstruction = 60
    theirs.add(vectors)
    offsets = faiss.vector_to_array(theirs.hnsw.offsets).astype(np.int64)
    neighbors = faiss.vector_to_array(theirs.hnsw.neighbors)
    links = neighbors[offsets[:n, None] + np.arange(2 * m)]
    index = GraphIndex.from_links(vectors, links, metric="l2", threads=2, costs=WALKS)
    assert index.n_unreachable == 0
    found, traced = measured(index, shop.queries)
    assert set(traced.plans) == {"graph"}
    assert found >= 0.9
    index.add(shop.vectors[n : n + 500], threads=2)
    found, _ = measured(index, shop.queries)
    assert found >= 0.9


@pytest.mark.parametrize("degree", [8, 100, 128])
def test_links_are_taken_at_any_degree(degree: int) -> None:
    shop = make_shop(700, 16)
    links = np.random.default_rng(0).integers(-5, 700, (700, 20)).astype(np.int32)
    links[:, 3] = links[:, 4]  # twice the same
    links[:, 5] = np.arange(700)  # itself
    index = GraphIndex.from_links(shop.vectors, links, degree=degree)
    assert index.n_unreachable == 0
    found, _ = measured(index, shop.queries)
    assert found >= 0.9


# ---- mutations


@pytest.mark.parametrize(("metric", "layout"), [("cosine", "fast"), ("l2", "compact")])
def test_half_deleted_and_a_third_upserted_is_as_good_as_fresh(metric: Metric, layout: Layout) -> None:
    shop = make_shop(8000, 32)
    rng = np.random.default_rng(5)
    index = GraphIndex.build(shop.vectors[:6000], metric=metric, threads=2, layout=layout, costs=WALKS)
    gone = rng.permutation(6000)[:3000]
    assert index.delete(gone) == 3000
    found, traced = measured(index, shop.queries)
    assert not np.isin(traced.rows, gone).any()
    assert set(traced.plans) == {"graph"}
    assert found >= 0.9
    replaced = np.setdiff1d(np.arange(6000), gone)[:1000]  # an upsert is a deletion and an addition
    index.delete(replaced)
    index.add(shop.vectors[replaced], threads=2)
    index.add(shop.vectors[6000:], threads=2)
    dead = np.concatenate([gone, replaced])
    found, traced = measured(index, shop.queries)
    assert not np.isin(traced.rows, dead).any()
    assert found >= 0.9

    compacted, old_rows = index.compact(threads=2)
    np.testing.assert_array_equal(old_rows, np.setdiff1d(np.arange(9000), dead))
    assert compacted.n_unreachable == 0
    assert len(compacted) == compacted.n_rows == 5000
    live = index.vectors(old_rows)
    np.testing.assert_array_equal(compacted.vectors(np.arange(5000)), live)
    fresh = GraphIndex.build(live, metric=metric, threads=2, layout=layout, costs=WALKS)
    assert compacted.layout == layout
    for target in (0.95, 0.99):
        ours, traced = measured(compacted, shop.queries, recall_target=target)
        theirs, _ = measured(fresh, shop.queries, recall_target=target)
        assert ours >= theirs - 0.02
        assert target > 0.95 or "graph" in traced.plans  # .99 of 5,000 rows may be cheaper by a scan
    for index_now in (compacted, fresh):
        itself, _ = index_now.search(live, 10, recall_target=0.99, threads=2)
        missing = (itself != np.arange(5000)[:, None]).all(axis=1).sum()
        assert missing == 0


@pytest.mark.parametrize("n_left", [0, 3, 40])
def test_rows_added_after_nearly_all_were_deleted_are_found(n_left: int) -> None:
    shop = make_shop(7000, 32)
    index = GraphIndex.build(shop.vectors[:2000], metric="l2", threads=2)
    index.delete(np.arange(n_left, 2000))
    index.add(shop.vectors[2000:], threads=2)
    for now in (index, index.compact(threads=2)[0]):
        assert len(now) == 5000 + n_left
        assert now.n_unreachable == 0
        found, traced = measured(now, shop.queries)
        assert found >= 0.9
        assert traced.plans.count("graph") > 0.9 * len(shop.queries)


def test_everything_deleted_leaves_nothing(shop: Shop) -> None:
    index = GraphIndex.build(shop.vectors[:1500])
    index.delete(np.arange(1500))
    for how in ({}, {"exact": True}, {"mask": np.ones(1500, np.bool_)}):
        rows, distances = index.search(shop.queries[:3], 4, **how)
        assert (rows == -1).all()
        assert (distances == np.inf).all()
    compacted, old_rows = index.compact()
    assert len(compacted) == len(old_rows) == 0
    compacted.add(shop.vectors[:1200])
    assert recall(compacted.search(shop.queries)[0], compacted.search(shop.queries, exact=True)[0]) > 0.9


# ---- the same bytes, progress, cancelling


def test_a_build_depends_on_seed_alone(tmp_path: Path) -> None:
    vectors = make_shop(3000, 20).vectors
    files = {}
    for name, seed, threads in (("one", 5, 1), ("two", 5, 2), ("again", 5, 2), ("other", 6, 1)):
        index = GraphIndex.build(vectors, metric="cosine", seed=seed, threads=threads)
        index.save(tmp_path / name)
        index.delete(np.arange(0, 3000, 3))
        index.add(vectors[:300], threads=threads)
        index.compact(threads=threads)[0].save(tmp_path / f"{name} later")
        files[name] = (tmp_path / name).read_bytes(), (tmp_path / f"{name} later").read_bytes()
    assert files["one"] == files["two"] == files["again"]
    assert files["one"][0] != files["other"][0]


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_grows_and_what_it_raises_ends_the_build(threads: int) -> None:
    vectors = make_shop(2500, 20).vectors
    seen: list[int] = []
    GraphIndex.build(vectors, threads=threads, progress=seen.append)
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
    assert seen[-1] == 2500
    for error in (KeyboardInterrupt, RuntimeError):

        def give_up(done: int, error: type[BaseException] = error) -> None:
            seen.append(done)
            if done > 700:
                raise error("enough")

        seen.clear()
        with pytest.raises(error, match="enough"):
            GraphIndex.build(vectors, threads=threads, progress=give_up)
        assert seen[-2] <= 700 < seen[-1]
    seen.clear()
    GraphIndex.from_links(vectors, np.zeros((2500, 1), np.int32), progress=seen.append)
    assert seen[-1] == 2500


def test_an_interrupt_ends_a_build() -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seen: list[int] = []

    def interrupt(done: int) -> None:
        seen.append(done)
        if len(seen) == 5:
            signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            GraphIndex.build(make_shop(2500, 20).vectors, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) < 10


# ---- files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraphIndex, Path, Shop]:
    """Return an index with tombstones, its file and its shop; nobody changes them."""
    shop = make_shop(2600, 40, n_queries=40)
    index = GraphIndex.build(shop.vectors, metric="ip", seed=3, threads=2)
    index.delete(np.arange(0, 2600, 9))
    file = tmp_path_factory.mktemp("graph") / "index"
    index.save(file)
    return index, file, shop


@pytest.mark.parametrize("n", [0, 1, 2600])
@pytest.mark.parametrize("metric", METRICS)
def test_an_opened_file_is_the_index_that_was_saved(n: int, metric: Metric, tmp_path: Path) -> None:
    shop = make_shop(2600, 40, n_queries=40)
    layout: Layout = "compact" if metric == "cosine" else "fast"
    settings: dict[str, Any] = {"seed": 3, "degree": 24, "build_beam": 60, "layout": layout}
    index = GraphIndex.build(shop.vectors[:n], metric=metric, threads=2, **settings)
    index.delete(np.arange(0, n, 9))
    file = tmp_path / "index"
    index.save(file)
    for verify in (False, True):
        opened = GraphIndex.open(file, verify=verify)
        assert (len(opened), opened.n_rows, opened.dim, opened.metric) == (len(index), n, 40, metric)
        assert opened.operating_points == index.operating_points
        assert (opened.layout, opened.costs) == (layout, index.costs)
        assert opened.memory_bytes < 1000
        same_answers(opened, index, shop.queries)
        opened.save(tmp_path / f"again {verify}")
        assert (tmp_path / f"again {verify}").read_bytes() == file.read_bytes()
    rows = np.arange(0, n, 4)
    for each in (opened, index):
        each.delete(rows)
        each.add(shop.queries)
    same_answers(opened, index, shop.queries)
    assert opened.memory_bytes > 1000
    same_answers(opened.compact()[0], index.compact(threads=2)[0], shop.queries)
    same_answers(GraphIndex.open(file), GraphIndex.open(tmp_path / "again True"), shop.queries)
    assert {each.name for each in tmp_path.iterdir()} == {"index", "again False", "again True"}


@pytest.mark.parametrize("resident", [False, True])
def test_what_answers_are_ranked_by_may_stay_on_disk(
    saved: tuple[GraphIndex, Path, Shop], tmp_path: Path, resident: bool
) -> None:
    index, file, shop = saved
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = GraphIndex.open(file, resident=resident, ranks_from_disk=True)
    same_answers(opened, index, shop.queries)
    assert opened.memory_bytes <= GraphIndex.open(file, resident=True).memory_bytes - 2600 * 64 * resident
    opened.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    np.testing.assert_array_equal(opened.vectors([3, 5]), index.vectors([3, 5]))
    mutated = GraphIndex.open(file)
    for each in (opened, mutated):
        each.add(shop.queries)
        each.delete([1, 2])
    same_answers(opened, mutated, shop.queries)
    del opened, mutated, each
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_index_outlives_its_file(saved: tuple[GraphIndex, Path, Shop], tmp_path: Path) -> None:
    index, file, shop = saved
    copy = tmp_path / "copy"
    copy.write_bytes(file.read_bytes())
    opened = GraphIndex.open(copy)
    copy.unlink()
    same_answers(opened, index, shop.queries)


def test_a_path_that_is_taken_is_left_alone(saved: tuple[GraphIndex, Path, Shop], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_bytes(b"mine")
    with pytest.raises(AlreadyExists, match=re.escape(f"[save] {taken} exists; choose another path or remove it")):
        saved[0].save(taken)
    assert taken.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [taken]
    with pytest.raises(FileNotFoundError):
        saved[0].save(tmp_path / "nowhere" / "index")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_container(tmp_path / "other", "other", {"codes": np.zeros(3, np.int8)})
    with pytest.raises(CorruptArtifact, match=re.escape("[open] other: it holds b'other")):
        GraphIndex.open(tmp_path / "other")
    with pytest.raises(CorruptArtifact, match=re.escape("[open] nothing cannot be read")):
        GraphIndex.open(tmp_path / "nothing")


@pytest.mark.parametrize("kept", [0, 100, 4096, 0.5, -1])
def test_a_truncated_file_is_refused(saved: tuple[GraphIndex, Path, Shop], tmp_path: Path, kept: float) -> None:
    content = saved[1].read_bytes()
    n_bytes = int(kept * len(content)) if 0 < kept < 1 else int(kept)
    (tmp_path / "cut").write_bytes(content[:n_bytes])
    for verify in (False, True):
        with pytest.raises(CorruptArtifact, match=re.escape("[open] cut")):
            GraphIndex.open(tmp_path / "cut", verify=verify)


def test_a_flipped_bit_is_noticed_in_every_region(saved: tuple[GraphIndex, Path, Shop], tmp_path: Path) -> None:
    content = saved[1].read_bytes()
    arrays = open_container(saved[1], KIND)
    base = len(content) - 4 - 4 * -(-sum(array.nbytes for array in arrays.values()) // (1 << 20))
    regions = {name: content.find(array.tobytes()) for name, array in arrays.items()}
    assert min(regions.values()) > 0
    file = tmp_path / "flipped"
    for name, at in regions.items():
        damaged = bytearray(content)
        damaged[at + arrays[name].nbytes // 2] ^= 16
        file.write_bytes(damaged)
        with pytest.raises(CorruptArtifact, match="does not match its checksum"):
            GraphIndex.open(file, verify=True)
    for at in (0, 9, 30, 60, 200, 3000, 4095, base, len(content) - 1):  # header, layout, padding, table
        damaged = bytearray(content)
        damaged[at] ^= 16
        file.write_bytes(damaged)
        with pytest.raises(CorruptArtifact, match=re.escape("[open] flipped")):
            GraphIndex.open(file)


@pytest.mark.parametrize(
    ("dim", "layout", "opens"), [(448, "fast", True), (512, "fast", False), (512, "compact", True)]
)
def test_the_format_before_opens_where_it_is_the_same(tmp_path: Path, dim: int, layout: Layout, opens: bool) -> None:
    rows = np.random.default_rng(dim).normal(size=(300, dim)).astype(np.float32)
    index = GraphIndex.build(rows, layout=layout)
    index.save(tmp_path / "now")
    arrays = dict(open_container(tmp_path / "now", KIND))
    arrays["shape"] = np.array([2, *arrays["shape"][1:]])
    if not opens:  # signs of all coordinates: a longer block a row
        arrays["blocks"] = np.zeros(
            (len(arrays["blocks"]), arrays["blocks"].shape[1] + 32 * (512 - 448) // 8), np.uint8
        )
    write_container(tmp_path / "before", KIND, arrays)
    if not opens:
        with pytest.raises(CorruptArtifact, match="graph format 2 of rows as long as 512; build it again"):
            GraphIndex.open(tmp_path / "before")
        return
    old = GraphIndex.open(tmp_path / "before", verify=True)
    assert np.array_equal(old.search(rows[:20], 10)[0], index.search(rows[:20], 10)[0])


DAMAGE: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("shape", lambda a: np.array([1, *a["shape"][1:]]), "graph format 1 is not 3"),
    ("shape", lambda a: a["shape"][:-1], "its settings are damaged"),
    ("scalars", lambda a: a["scalars"][:1], "its settings are damaged"),
    ("scalars", lambda a: np.array([1, np.nan, 90, 8], np.float32), "are out of range; build it again"),
    ("scalars", lambda a: np.array([1, 1, 0, 8], np.float32), "are out of range; build it again"),
    ("scalars", lambda a: np.array([1, 0, 90, 8], np.float32), "are out of range; build it again"),
    *[
        ("shape", lambda a, i=i, value=value: np.where(np.arange(7) == i, value, a["shape"]), "out of range; build it")
        for i, value in ((1, 0), (1, 4097), (2, 3), (2, -1), (3, -1), (4, 7), (4, 129), (5, 8), (5, 5000), (6, 2))
    ],
    ("shape", lambda a: np.where(np.arange(7) == 1, 65, a["shape"]), "its arrays do not fit each other; build it"),
    ("shape", lambda a: np.where(np.arange(7) == 4, 31, a["shape"]), "its arrays do not fit each other; build it"),
    ("shape", lambda a: np.where(np.arange(7) == 6, 0, a["shape"]), "its arrays do not fit each other; build it"),
    *[
        (name, lambda a, name=name: a[name][:-1], "its arrays do not fit each other; build it again")
        for name in ("codes", "fine", "signs", "sign_blocks", "factors", "centre", "neighbors", "blocks", "live")
    ],
    *[
        (name, lambda a, name=name: a[name].ravel(), "its arrays do not fit each other; build it again")
        for name in ("codes", "neighbors", "table", "scan_table")
    ],
    *[
        (name, lambda a, name=name, kind=kind: a[name].astype(kind), "its arrays do not fit each other; build it again")
        for name, kind in (
            ("codes", np.int32),
            ("fine", np.uint8),
            ("signs", np.int64),
            ("factors", np.float64),
            ("neighbors", np.int64),
            ("live", np.int64),
            ("table", np.float64),
        )
    ],
    *[(name, lambda a: None, "arrays do not fit each other; build it again") for name in ("live", "codes", "table")],
]


@pytest.mark.parametrize(("name", "change", "message"), DAMAGE)
def test_a_sealed_file_that_makes_no_sense_is_refused(
    saved: tuple[GraphIndex, Path, Shop],
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Any]], Any],
    message: str,
) -> None:
    arrays = open_container(saved[1], KIND)
    changed = change(arrays)
    kept = {**arrays, name: np.ascontiguousarray(changed)} if changed is not None else dict(arrays)
    if changed is None:
        del kept[name]
    write_container(tmp_path / "odd", KIND, kept)
    with pytest.raises(CorruptArtifact, match=re.escape("[open] odd: ") + ".*" + re.escape(message)):
        GraphIndex.open(tmp_path / "odd")


TORTURE = """
import faulthandler, sys
from pathlib import Path
import numpy as np
from matching.container import open_container, write_container
from matching.graph_index import KIND, GraphIndex

faulthandler.enable()
source, folder, n_rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
names = ["codes", "fine", "signs", "factors", "centre", "neighbors", "entries", "live", "table", "scan_table"]
specials = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e38, -1e38, 1e-45, -1], np.float32)
rng = np.random.default_rng(0)
queries = np.concatenate([rng.standard_normal((3, 40)), np.zeros((1, 40)), np.full((1, 40), 1e15)]).astype(np.float32)
for i in range(n_rounds):
    arrays = {name: array.copy() for name, array in open_container(source, KIND).items()}
    for name in rng.permutation(names)[: rng.integers(1, 4)] if i >= 2 * len(names) else [names[i // 2]]:
        array = arrays[name]
        share = 1.0 if i % 4 == 1 else float(10 ** -rng.uniform(0, 4))
        if array.dtype == np.float32 and rng.random() < 0.7:
            hit = rng.random(array.shape) < max(share, 1 / array.size)
            array[hit] = rng.choice(specials, int(hit.sum()))
        else:
            raw = array.reshape(-1).view(np.uint8)
            hit = rng.random(raw.shape) < share
            raw[hit] = rng.integers(0, 256, int(hit.sum()))
    file = folder / str(i)
    write_container(file, KIND, arrays)
    index = GraphIndex.open(file, verify=bool(i % 2))
    n = index.n_rows
    masks = [None, rng.random(n) < 0.5, np.arange(n) == 7]
    def ask():
        for k, how in ((3, {}), (200, {"effort": 60}), (10, {"recall_target": 1.0}), (3000, {}), (5, {"exact": True})):
            mask = masks[rng.integers(0, 3)] if index.n_rows == n else None
            rows, distances = index.search(queries, k, mask=mask, threads=1 + i % 2, **how)
            assert rows.shape == (len(queries), k)
            assert ((rows >= -1) & (rows < index.n_rows)).all()
            assert not np.isnan(distances).any()
            assert (np.diff(np.where(rows < 0, np.float32(np.inf), distances)[:, :]) >= 0).all() or np.isinf(distances).any()
    with np.errstate(all="ignore"):
        ask()
        index.n_unreachable, index.operating_points
        index.vectors(np.arange(0, n, 50))
        index.delete(rng.integers(0, n, 300))
        ask()
        index.add(rng.standard_normal((90, 40)), threads=1 + i % 2)
        ask()
        index, _ = index.compact(threads=1 + i % 2)
        n = index.n_rows
        masks = [None, None, None]
        ask()
        index.n_unreachable
        index.save(folder / f"{i} again")
    file.unlink()
    (folder / f"{i} again").unlink()
print("survived", n_rounds)
"""


def test_damaged_files_never_crash(saved: tuple[GraphIndex, Path, Shop], tmp_path: Path) -> None:
    """The same under sanitizers: tests/cpp/test_graph.cpp."""
    command = [sys.executable, "-c", TORTURE, str(saved[1]), str(tmp_path), "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "survived 60\n"), done.stderr[-4000:]


@pytest.mark.parametrize(("dim", "layout"), [(24, "fast"), (1280, "fast"), (1280, "compact")])
def test_a_small_index_is_walked_where_that_is_cheaper(dim: int, layout: Layout) -> None:
    """6,000 rows are read in the time of 35 hops with compact rows, and of 60 to 100 with blocks."""
    vectors = make_shop(6_000, dim).vectors
    index = GraphIndex.build(vectors, metric="cosine", layout=layout)

    assert set(index.trace(vectors[:20], effort=20).plans) == {"graph"}
    assert set(index.trace(vectors[:20], effort=400).plans) == {"scan"}


def test_measured_costs_stay_near_the_usual_ones_and_are_saved(shop: Shop, tmp_path: Path) -> None:
    index = GraphIndex.build(shop.vectors, metric="ip")
    usual = index.costs

    measured = index.calibrate()

    assert usual.hop / 4 <= measured.hop <= 4 * usual.hop
    assert usual.block / 4 <= measured.block <= 4 * usual.block
    index.save(tmp_path / "graph")
    assert GraphIndex.open(tmp_path / "graph").costs == measured
