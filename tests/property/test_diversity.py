"""The native choice under caps, quotas and MMR agrees with the NumPy one on drawn inputs, and keeps what it promises."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cpp_ext import _native as native
from cpp_ext import reference

QUICK = settings(max_examples=300, deadline=None)


def assert_same(found: reference.Diversified, wanted: reference.Diversified) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the arguments of a choice over small integers: distances are exact, ties and conflicts are many."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_candidates = draw(st.integers(0, 30) | st.just(120))
    n, n_columns = n_candidates + draw(st.integers(0, 10)), draw(st.integers(0, 4))
    metric = draw(st.sampled_from(["ip", "cosine", "l2"]))
    dim = draw(st.sampled_from([1, 4, 16])) if metric == "cosine" else draw(st.integers(1, 40))
    vectors = rng.integers(-3, 4, (n, dim))
    if metric == "cosine":
        vectors = 2 * rng.integers(0, 2, (n, dim)) - 1  # the norm is a power of two: cosines are exact
        vectors[rng.random(n) < 0.1] = 0
    n_queries = draw(st.integers(0, 3))
    rows = np.array([rng.permutation(n)[:n_candidates] for _ in range(n_queries)], np.int64)
    rows = rows.reshape(n_queries, n_candidates)
    distances = np.sort(rng.integers(-6, 7, rows.shape), axis=1).astype(np.float32) / np.float32(2)
    missing = rng.random(rows.shape) < draw(st.sampled_from([0.0, 0.2]))
    rows[missing & (rng.random(rows.shape) < 0.5)] = -1
    distances[missing & (rows >= 0)] = rng.choice([np.nan, np.inf])
    n_tags = draw(st.integers(1, 8))
    quotas = []
    for column in range(n_columns):
        for tag in range(n_tags):
            if rng.random() < 0.4:
                least = int(rng.integers(0, 4))
                quotas.append((column, tag, least, least + int(rng.integers(0, 4))))
    arguments = {
        "rows": rows,
        "distances": distances,
        "k": draw(st.integers(1, 12) | st.just(200)),
        "tags": rng.integers(-1, n_tags, (n_columns, n), dtype=np.int32),
        "caps": rng.integers(0, 4, n_columns, dtype=np.int32) if draw(st.booleans()) else None,
        "quotas": rng.permutation(np.array(quotas, np.int32).reshape(-1, 4)) if draw(st.booleans()) else None,
        "vectors": vectors.astype(np.float32),
        "metric": metric,
        "mmr_lambda": draw(st.sampled_from([0, 0.25, 0.5, 0.7, 1])),
    }
    for value in arguments.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return arguments


@QUICK
@given(choices())
def test_native_agrees_with_numpy(arguments: dict[str, Any]) -> None:
    assert_same(native.diversify(**arguments), reference.diversify(**arguments))


@QUICK
@given(choices())
def test_rules_hold_and_costs_add_up(arguments: dict[str, Any]) -> None:
    rows, distances, tags, k = (arguments[name] for name in ("rows", "distances", "tags", "k"))
    positions, given_up, moved, shortfall = native.diversify(**arguments)
    caps = np.zeros(len(tags), np.int32) if arguments["caps"] is None else arguments["caps"]
    quotas = np.zeros((0, 4), np.int32) if arguments["quotas"] is None else arguments["quotas"]
    ruled = {(column, tag) for column, tag, _, _ in quotas.tolist()}
    for q in range(len(rows)):
        chosen = positions[q][positions[q] >= 0]
        assert (positions[q, len(chosen) :] == -1).all()
        assert len(set(chosen.tolist())) == len(chosen)
        candidates = np.flatnonzero((rows[q] >= 0) & (distances[q] < np.inf))
        assert np.isin(chosen, candidates).all()
        nearest = candidates[: len(chosen)]
        assert given_up[q].sum() == distances[q, chosen].sum() - distances[q, nearest].sum()
        carried = tags[:, rows[q, chosen]]
        for i, (column, tag, least, most) in enumerate(quotas.tolist()):
            n = np.count_nonzero(carried[column] == tag)
            assert n <= most
            assert shortfall[q, i] == max(least - n, 0)
        for column, cap in enumerate(caps.tolist()):
            held, counts = np.unique(carried[column][carried[column] >= 0], return_counts=True)
            assert not cap or all(
                n <= cap for tag, n in zip(held.tolist(), counts.tolist()) if (column, tag) not in ruled
            )
        most = {(column, tag): cap for column, cap in enumerate(caps.tolist()) if cap for tag in range(8)}
        most.update({(column, tag): limit for column, tag, _, limit in quotas.tolist()})
        for at in np.setdiff1d(candidates, chosen).tolist() if len(chosen) < k else []:
            of = enumerate(tags[:, rows[q, at]].tolist())
            assert any(np.count_nonzero(carried[key[0]] == key[1]) >= most.get(key, k) for key in of), at
        assert (moved[q] <= min(k, len(candidates))).all()
    assert given_up.shape == moved.shape == (len(rows), len(tags) + 2)
    assert (moved[:, :-2][:, caps == 0] == 0).all()


@QUICK
@given(choices())
def test_an_answer_does_not_depend_on_its_batch(arguments: dict[str, Any]) -> None:
    together = native.diversify(**arguments)
    for q in range(len(arguments["rows"])):
        own = {name: np.ascontiguousarray(arguments[name][q : q + 1]) for name in ("rows", "distances")}
        for whole, part in zip(together, native.diversify(**{**arguments, **own}), strict=True):
            np.testing.assert_array_equal(whole[q : q + 1], part)


@QUICK
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**32))
def test_one_capped_column_is_crowding(n: int, k: int, cap: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.integers(-9, 9, (1, n)).astype(np.float32), axis=1)
    rows = np.arange(n)[None]
    tags = rng.integers(-1, 6, n, dtype=np.int32)
    crowded, _ = native.merge(rows[None], distances[None], k, tags=tags, tag_cap=cap)
    positions = native.diversify(rows, distances, k, tags=tags[None], caps=np.array([cap], np.int32))[0]
    np.testing.assert_array_equal(positions, crowded)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 70),
    st.sampled_from(["ip", "cosine", "l2"]),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_every_choice_is_the_best_by_mmr_within_rounding(
    n: int, dim: int, metric: Any, weight: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    rows, distances = native.scan(vectors, vectors[:1], n, metric=metric)
    positions = native.diversify(rows, distances, 30, vectors=vectors, metric=metric, mmr_lambda=weight)[0][0]
    between = exact_distances(vectors[rows[0]].astype(np.float64), metric)
    tolerance = 1e-5 * (1 + np.abs(between).max())
    nearest = np.zeros(n)
    left = set(range(n))
    assert len(positions[positions >= 0]) == min(n, 30)
    for step, at in enumerate(positions[positions >= 0].tolist()):
        costs = weight * distances[0] - (1 - weight) * nearest
        assert costs[at] <= costs[list(left)].min() + tolerance
        left.remove(at)
        nearest = between[at] if step == 0 else np.minimum(nearest, between[at])


def exact_distances(vectors: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    dots = vectors @ vectors.T
    squares = np.diag(dots)
    if metric == "ip":
        return -dots
    if metric == "l2":
        return np.asarray(squares[:, None] + squares - 2 * dots, np.float64)
    return np.asarray(1 - dots / np.sqrt(squares[:, None] * squares), np.float64)
