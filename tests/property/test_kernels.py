"""The native kernels agree with the NumPy ones on drawn inputs, and every SIMD level with the scalar one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cpp_ext import _native as native
from cpp_ext import reference

BATTERY = Path(__file__).with_name("kernel_battery.py")
DIMS = st.integers(1, 70) | st.sampled_from([384, 1000])
METRICS = st.sampled_from(["ip", "cosine", "l2"])
OPERATORS = ["LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL"]
QUICK = settings(max_examples=150, deadline=None)


def assert_same(found: reference.Found, wanted: reference.Found, metric: str) -> None:
    """Equal answers. Cosines are rounded, so near-ties may swap there: then each rank must hold the same distance."""
    assert found[0].dtype == np.int64
    assert found[1].dtype == np.float32
    np.testing.assert_array_equal(np.isinf(found[1]), found[0] == -1)
    if metric == "cosine":
        np.testing.assert_array_equal(found[0] == -1, wanted[0] == -1)
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])


def frozen(arguments: dict[str, Any]) -> dict[str, Any]:
    """Make every array read-only: a kernel that writes to one would have to break the lock."""
    for value in arguments.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return arguments


@st.composite
def searches(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the arguments of a scan over small integers: sums are exact, ties are many."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dim, n = draw(DIMS), draw(st.integers(0, 150))
    n_queries = draw(st.integers(0, 8))
    is_int8, is_grouped = draw(st.booleans()), draw(st.booleans())
    n_vectors = draw(st.integers(0, 200)) if is_grouped and n else n
    offsets = None
    if is_grouped:
        offsets = np.sort(rng.integers(0, n_vectors + 1, n + 1))
        offsets[0], offsets[-1] = 0, n_vectors if n else 0
    mask = None
    if draw(st.booleans()):
        mask = rng.integers(0, 2**64, -(-n // 64), dtype=np.uint64)  # with junk behind the last row
        mask[rng.random(len(mask)) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    tags = rng.integers(-1, draw(st.integers(0, 6)), n, dtype=np.int32) if draw(st.booleans()) else None
    return frozen(
        {
            "vectors": rng.integers(-4, 5, (n_vectors, dim)).astype(np.int8 if is_int8 else np.float32),
            "queries": rng.integers(-4, 5, (n_queries, dim)).astype(np.float32),
            "k": draw(st.integers(1, 20) | st.just(500)),
            "metric": draw(METRICS),
            "mask": mask,
            "offsets": offsets,
            "best_of": draw(st.sampled_from([1, 2, 3, 1000])),
            "scales": np.ldexp(np.float32(1), rng.integers(-2, 2, n_vectors)).astype(np.float32)
            if is_int8 and draw(st.booleans())
            else None,
            "bias": rng.integers(-9, 9, (n_queries, n)).astype(np.float32) if draw(st.booleans()) else None,
            "tags": tags,
            "tag_cap": draw(st.integers(0, 3)) if tags is not None else 0,
            "threads": draw(st.sampled_from([1, 2])),
        }
    )


@QUICK
@given(searches())
def test_scan(arguments: dict[str, Any]) -> None:
    assert_same(native.scan(**arguments), reference.scan(**arguments), arguments["metric"])


@QUICK
@given(searches(), st.integers(0, 60), st.integers(0, 2**32))
def test_rescore(arguments: dict[str, Any], m: int, seed: int) -> None:
    n = arguments["vectors"].shape[0] if arguments["offsets"] is None else len(arguments["offsets"]) - 1
    candidates = np.random.default_rng(seed).integers(-1, max(n, 0), (len(arguments["queries"]), m))
    arguments = frozen({**arguments, "candidates": candidates})
    assert_same(native.rescore(**arguments), reference.rescore(**arguments), arguments["metric"])


@settings(max_examples=25, deadline=None)
@given(searches(), st.integers(1, 3))
def test_merging_shards_is_scanning_all(arguments: dict[str, Any], n_shards: int) -> None:
    n = arguments["vectors"].shape[0] if arguments["offsets"] is None else len(arguments["offsets"]) - 1
    whole = native.new_bitmap(n, fill=True) if arguments["mask"] is None else arguments["mask"]
    found = []
    for shard in range(n_shards):
        mask = native.new_bitmap(n)
        native.set_rows(mask, np.arange(shard, n, n_shards))
        native.intersect(mask, whole)
        found.append(native.scan(**{**arguments, "mask": mask}))
    rows, distances = np.stack([rows for rows, _ in found]), np.stack([distances for _, distances in found])
    crowding = {"tags": arguments["tags"], "tag_cap": arguments["tag_cap"]}
    merged = native.merge(rows, distances, arguments["k"], **crowding)
    assert_same(merged, native.scan(**arguments), "ip")
    assert_same(merged, reference.merge(rows, distances, arguments["k"], **crowding), "ip")


@QUICK
@given(
    st.integers(0, 4),
    st.integers(0, 5),
    st.integers(0, 9),
    st.integers(1, 12),
    st.integers(0, 3),
    st.integers(0, 2**32),
)
def test_merge(n_shards: int, n_queries: int, m: int, k: int, tag_cap: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 12, (n_shards, n_queries, m))
    distances = rng.integers(-3, 4, rows.shape).astype(np.float32)
    distances[rng.random(rows.shape) < 0.1] = np.inf
    tags = rng.integers(-1, 3, 12, dtype=np.int32) if tag_cap else None
    for array in (rows, distances):
        array.setflags(write=False)
    found = native.merge(rows, distances, k, tags=tags, tag_cap=tag_cap)
    assert_same(found, reference.merge(rows, distances, k, tags=tags, tag_cap=tag_cap), "ip")


@QUICK
@given(st.integers(0, 300), st.integers(0, 100), st.sampled_from([np.int32, np.int64]), st.integers(0, 2**32))
def test_bitmaps(n: int, m: int, dtype: type[np.generic], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, n, m if n else 0).astype(dtype)
    rows.setflags(write=False)
    other = rng.integers(0, 2**64, -(-n // 64), dtype=np.uint64)
    other.setflags(write=False)
    start = native.new_bitmap(n, fill=True)
    np.testing.assert_array_equal(start, reference.new_bitmap(n, fill=True))
    for fill in (False, True):
        np.testing.assert_array_equal(native.new_bitmap(n, fill=fill), reference.new_bitmap(n, fill=fill))
        for operation, argument in (
            ("set_rows", rows),
            ("clear_rows", rows),
            ("intersect", other),
            ("union", other),
        ):
            ours, theirs = native.new_bitmap(n, fill=fill), reference.new_bitmap(n, fill=fill)
            getattr(native, operation)(ours, argument)
            getattr(reference, operation)(theirs, argument)
            np.testing.assert_array_equal(ours, theirs)
    assert native.count(other, n) == reference.count(other, n)
    np.testing.assert_array_equal(native.rows_of(other, n), reference.rows_of(other, n))
    assert native.rows_of(other, n).dtype == np.int64


NUMBERS = {
    np.int64: st.sampled_from([-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1]) | st.integers(-3, 3),
    np.float32: st.sampled_from([0.1, -0.0, 1e300, float("inf"), float("nan")]) | st.floats(-3, 3, width=16),
    np.float64: st.sampled_from([0.1, -0.0, 1e300, float("-inf"), float("nan")]) | st.floats(-3, 3, width=16),
}


@QUICK
@given(st.data(), st.sampled_from(list(NUMBERS)), st.sampled_from(OPERATORS), st.integers(0, 200))
def test_compare(data: st.DataObject, dtype: type[np.generic], op: reference.Operator, n: int) -> None:
    value = data.draw(NUMBERS[dtype])
    few = data.draw(st.lists(NUMBERS[dtype], min_size=1, max_size=6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    with np.errstate(over="ignore"):
        values = rng.choice(np.array([*few, value], dtype=dtype), n)
    values.setflags(write=False)
    ours = rng.integers(0, 2**64, -(-n // 64), dtype=np.uint64)
    theirs = ours.copy()
    native.compare(ours, values, op, value)
    reference.compare(theirs, values, op, value)
    np.testing.assert_array_equal(ours, theirs)


@QUICK
@given(st.integers(0, 20), st.integers(0, 80), st.integers(0, 8), st.integers(0, 2**32))
def test_sparse_scores(n_terms: int, n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 12 if n else 1, n_terms)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    nnz = int(offsets[-1])
    arguments = frozen(
        {
            "offsets": offsets,
            "rows": rng.integers(0, max(n, 1), nnz).astype(np.int32),
            "weights": rng.integers(-4, 5, nnz).astype(np.float32),
            "terms": rng.integers(0, n_terms, m if n_terms else 0),
            "term_weights": rng.integers(-4, 5, m if n_terms else 0).astype(np.float32),
            "n": n,
        }
    )
    scores = native.sparse_scores(**arguments)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, reference.sparse_scores(**arguments))


@QUICK
@given(st.integers(0, 300), st.integers(1, 90), st.floats(0, 1), st.booleans(), st.integers(0, 2**32))
def test_best_scores(n: int, k: int, share: float, has_mask: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-2, 6, n) / 2).astype(np.float32)  # ties at every border
    odd = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    scores[rng.random(n) < 0.05] = rng.choice(odd)
    mask = np.zeros(-(-n // 64), np.uint64)
    native.set_rows(mask, np.flatnonzero(rng.random(n) < share))
    if n % 64:
        mask[-1] |= np.uint64(1 << 63)  # beyond n, where n is not a whole word
    arguments = frozen({"scores": scores, "k": k, "mask": mask if has_mask else None})
    rows, distances = native.best_scores(**arguments)
    assert (rows.dtype, distances.dtype) == (np.int64, np.float32)
    expected = reference.best_scores(**arguments)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(distances, expected[1])
    passes = reference.rows_of(mask, n) if has_mask else np.arange(n)
    slowly = sorted((-float(scores[row]), int(row)) for row in passes if scores[row] > 0)
    assert rows.tolist() == [row for _, row in slowly[:k]]


@QUICK
@given(st.binary(max_size=400), st.integers(1, 450))
def test_crc32c(data: bytes, block_bytes: int) -> None:
    sums = native.crc32c(data, block_bytes)
    assert sums.dtype == np.uint32
    np.testing.assert_array_equal(sums, reference.crc32c(data, block_bytes))


@settings(max_examples=60, deadline=None)
@given(DIMS, METRICS, st.booleans(), st.integers(0, 2**32))
def test_real_numbers_agree_within_rounding(dim: int, metric: str, is_int8: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors: NDArray[Any] = rng.standard_normal((60, dim)).astype(np.float32)
    if is_int8:
        vectors = rng.integers(-128, 128, (60, dim), dtype=np.int8)
    queries = rng.standard_normal((3, dim)).astype(np.float32)
    wide, wide_queries = vectors.astype(np.float64), queries.astype(np.float64)
    dots = wide_queries @ wide.T
    norms = np.linalg.norm(wide_queries, axis=1)[:, None] * np.linalg.norm(wide, axis=1)
    if metric == "ip":
        exact, size = -dots, norms
    elif metric == "cosine":
        exact, size = 1 - dots / norms, np.ones_like(norms)
    else:
        exact = np.square(wide_queries[:, None] - wide).sum(axis=2)
        size = exact
    for kernels in (native, reference):
        rows, distances = kernels.scan(vectors, queries, 60, metric=metric)
        assert (np.sort(rows, axis=1) == np.arange(60)).all()
        error = np.abs(np.take_along_axis(exact, rows, axis=1) - distances)
        assert (error <= 1e-5 * np.take_along_axis(size, rows, axis=1)).all()


@pytest.mark.parametrize("level", ["avx2", "avx512", "avx512_vnni", "neon"])
def test_simd_levels_agree_with_scalar(level: str, tmp_path: Path) -> None:
    scalar, reported = at_level("scalar", tmp_path)
    assert reported == "scalar"
    if (level == "neon") != (platform.machine() in ("aarch64", "arm64")):
        pytest.skip(f"{level} belongs to another architecture")
    found, reported = at_level(level, tmp_path)
    if reported != level:
        pytest.skip(f"this CPU has no {level}, its best is {reported}")
    assert found.keys() == scalar.keys()
    for name, array in scalar.items():
        if name.startswith("rounded"):
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def at_level(level: str, folder: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """Run the battery in a process of its own under a SIMD cap; returns its arrays and what backend() said."""
    out = folder / f"{level}.npz"
    done = subprocess.run(
        [sys.executable, str(BATTERY), str(out)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LIKEWISE_SIMD": level},
    )
    with np.load(out) as arrays:
        return dict(arrays), done.stdout.strip()
