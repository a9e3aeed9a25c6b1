"""What the kernels promise one by one: worked examples, messages, the fallback, the GIL, the stub."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import cpp_ext
from cpp_ext import _native as native
from cpp_ext import kernels, reference

INF = float("inf")
VECTORS = np.array([[0, 0], [3, 4], [1, 0], [0, 2], [-1, 0]], np.float32)
QUERY = np.array([[1, 0]], np.float32)


@pytest.fixture(params=[native, reference], ids=["native", "numpy"])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def f32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("metric", "rows", "distances"),
    [
        ("ip", [1, 2, 0, 3, 4, -1], [-3, -1, 0, 0, 1, INF]),
        ("cosine", [2, 1, 0, 3, 4, -1], [0, 0.4, 1, 1, 2, INF]),
        ("l2", [2, 0, 4, 3, 1, -1], [0, 1, 4, 5, 20, INF]),
    ],
)
def test_distances_and_ties_and_padding(
    engine: ModuleType, metric: str, rows: list[int], distances: list[float]
) -> None:
    found = engine.scan(VECTORS, QUERY, 6, metric=metric)
    np.testing.assert_array_equal(found[0], [rows])
    np.testing.assert_allclose(found[1], [distances], rtol=1e-6)


def test_a_row_is_scored_by_its_best_vectors(engine: ModuleType) -> None:
    offsets = i64(0, 3, 3, 5)  # row 0 owns three vectors, row 1 none, row 2 two
    wanted = {1: [0, 2], 2: [0, 2], 3: [2, 0]}
    distances = {1: [-3, 0], 2: [-2, 0.5], 3: [0.5, -4 / 3]}
    for best_of in (1, 2, 3):
        rows, found = engine.scan(VECTORS, QUERY, 3, metric="ip", offsets=offsets, best_of=best_of)
        by_row = dict(zip(rows[0].tolist(), found[0].tolist(), strict=True))
        expected = dict(zip(wanted[best_of], distances[best_of], strict=True))
        assert by_row == pytest.approx({**expected, -1: INF})


def test_scales_and_bias_enter_the_distance(engine: ModuleType) -> None:
    scales = np.array([1, 0.5, 4, 1, 1], np.float32)
    bias = np.array([[0, 0, 0, -9, 0]], np.float32)
    rows, distances = engine.scan(VECTORS.astype(np.int8), QUERY, 3, metric="ip", scales=scales, bias=bias)
    assert rows.tolist() == [[3, 2, 1]]
    assert distances.tolist() == [[-9, -4, -1.5]]


def test_crowding_takes_the_greedy_list(engine: ModuleType) -> None:
    vectors = -np.arange(8, dtype=np.float32)[:, None]
    tags = np.array([7, 7, 7, -1, -1, 2, 7, 2], np.int32)
    rows, _ = engine.scan(vectors, np.ones((1, 1), np.float32), 6, metric="ip", tags=tags, tag_cap=1)
    assert rows.tolist() == [[0, 3, 4, 5, -1, -1]]
    rows, _ = engine.scan(vectors, np.ones((1, 1), np.float32), 6, metric="ip", tags=tags, tag_cap=2)
    assert rows.tolist() == [[0, 1, 3, 4, 5, 7]]


def test_candidates_count_once_and_only_within_the_mask(engine: ModuleType) -> None:
    mask = engine.new_bitmap(5)
    engine.set_rows(mask, i64(0, 2, 3))
    rows, distances = engine.rescore(VECTORS, QUERY, i64(3, 1, -1, 3, 2, 3)[None], 4, metric="l2", mask=mask)
    assert rows.tolist() == [[2, 3, -1, -1]]
    assert distances.tolist() == [[0, 5, INF, INF]]


def test_infinite_and_undefined_distances_are_no_neighbors(engine: ModuleType) -> None:
    bias = np.array([[np.nan, INF, 0, np.nan, INF]], np.float32)
    rows, _ = engine.scan(VECTORS, QUERY, 2, metric="ip", bias=bias)
    assert rows.tolist() == [[2, -1]]


def test_sparse_scores_of_a_worked_example(engine: ModuleType) -> None:
    postings = (i64(0, 2, 2, 5), np.array([0, 3, 1, 3, 3], np.int32), np.array([1, 2, 3, 4, 5], np.float32))
    scores = engine.sparse_scores(*postings, i64(2, 0, 1), np.array([10, 1, 7], np.float32), 4)
    assert scores.tolist() == [1, 30, 0, 92]


def test_crc32c_gives_the_published_values(engine: ModuleType) -> None:
    # RFC 3720, appendix B.4
    assert engine.crc32c(b"123456789", 9).tolist() == [0xE3069283]
    octets = np.concatenate([np.zeros(32, np.uint8), np.full(32, 0xFF, np.uint8), np.arange(32, dtype=np.uint8)])
    assert engine.crc32c(octets, 32).tolist() == [0x8A9136AA, 0x62A8AB43, 0x46DD794E]
    assert engine.crc32c(memoryview(b""), 4).tolist() == []


def test_float32_columns_compare_in_float32(engine: ModuleType) -> None:
    bitmap = engine.new_bitmap(2, fill=True)
    engine.compare(bitmap, np.array([0.1, 0.2], np.float32), "EQUAL", 0.1)
    assert engine.rows_of(bitmap, 2).tolist() == [0]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_the_answer(threads: int) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.integers(-1, 2, (40_000, 64)).astype(np.float32)  # ties across every border between threads
    queries = rng.integers(-1, 2, (8, 64)).astype(np.float32)
    tags = rng.integers(-1, 5, len(vectors), dtype=np.int32)
    mask = native.new_bitmap(len(vectors))
    native.set_rows(mask, rng.integers(0, len(vectors), 20_000))
    for crowding in ({}, {"tags": tags, "tag_cap": 3}):
        alone = native.scan(vectors, queries, 15, metric="ip", mask=mask, **crowding)
        together = native.scan(vectors, queries, 15, metric="ip", mask=mask, threads=threads, **crowding)
        np.testing.assert_array_equal(alone[0], together[0])
        np.testing.assert_array_equal(alone[1], together[1])


@pytest.mark.parametrize("dim", [67, 128, 201])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_an_answer_depends_neither_on_its_batch_nor_on_the_other_rows(dim: int, dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(6)
    vectors = rng.uniform(-128, 128, (500, dim)).astype(dtype)
    scales = rng.uniform(0.5, 1.5, 500).astype(np.float32) if dtype is np.int8 else None
    queries = rng.standard_normal((70, dim)).astype(np.float32)
    mask = native.new_bitmap(500)
    native.set_rows(mask, rng.choice(500, 250, replace=False))
    for metric in ("ip", "cosine", "l2"):
        rows, distances = native.scan(vectors, queries, 500, metric=metric, scales=scales)
        for q in (0, 1, 63, 69):
            alone = native.scan(vectors, queries[q : q + 1], 500, metric=metric, scales=scales)
            np.testing.assert_array_equal(alone[0][0], rows[q])
            np.testing.assert_array_equal(alone[1][0], distances[q])
            some = native.scan(vectors, queries[q : q + 1], 250, metric=metric, scales=scales, mask=mask)
            is_chosen = np.isin(rows[q], native.rows_of(mask, 500))
            np.testing.assert_array_equal(some[0][0], rows[q][is_chosen])
            np.testing.assert_array_equal(some[1][0], distances[q][is_chosen])
        again = native.rescore(vectors, queries, rows, 9, metric=metric, scales=scales)
        np.testing.assert_array_equal(again[0], rows[:, :9])
        np.testing.assert_array_equal(again[1], distances[:, :9])


def test_returned_arrays_outlive_the_call() -> None:
    rows, distances = native.scan(VECTORS, QUERY, 3, metric="ip")
    copies = rows.copy(), distances.copy()
    for _ in range(50):
        native.scan(VECTORS, -QUERY, 3, metric="l2")
    np.testing.assert_array_equal(rows, copies[0])
    np.testing.assert_array_equal(distances, copies[1])
    assert rows.flags.writeable
    assert rows.flags.c_contiguous


def bitmap_of(n: int) -> np.ndarray:
    return np.zeros(-(-n // 64), np.uint64)


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def unaligned(array: np.ndarray) -> np.ndarray:
    octets = np.zeros(array.nbytes + 1, np.uint8)
    return octets[1:].view(array.dtype).reshape(array.shape)


def search(**changes: Any) -> Callable[[ModuleType], object]:
    arguments = {"vectors": f32(5, 2), "queries": f32(1, 2), "k": 3, "metric": "ip", **changes}
    return lambda engine: engine.scan(**arguments)


BAD_CALLS: list[tuple[Callable[[ModuleType], object], type[Exception], str]] = [
    (search(vectors=[[1.0]]), TypeError, "[scan] vectors is list; expected a NumPy array of float32 or int8"),
    (
        search(vectors=np.zeros((5, 2))),
        TypeError,
        "[scan] vectors has dtype float64; expected a NumPy array of float32 or int8",
    ),
    (search(vectors=f32(5)), ValueError, "[scan] vectors has shape (5,); expected (N, d)"),
    (search(vectors=f32(5, 0), queries=f32(1, 0)), ValueError, "[scan] vectors has dimension 0; expected d >= 1"),
    (
        search(vectors=f32(2, 5).T),
        ValueError,
        "[scan] vectors is not C-contiguous (shape (5, 2)); expected C order; copy it with numpy.array(..., order='C')",
    ),
    (
        search(vectors=unaligned(f32(5, 2))),
        ValueError,
        "[scan] vectors is not aligned (shape (5, 2)); expected an aligned array; "
        "copy it with numpy.array(..., order='C')",
    ),
    (search(queries=f32(1, 3)), ValueError, "[scan] queries has shape (1, 3); expected (q, d=2)"),
    (
        search(queries=np.zeros((1, 2), object)),
        TypeError,
        "[scan] queries has dtype object; expected a NumPy array of float32",
    ),
    (
        search(queries=np.zeros((1, 2), ">f4")),
        TypeError,
        "[scan] queries has dtype >f4; expected a NumPy array of float32",
    ),
    (search(k=0), ValueError, "[scan] k is 0; expected 1 <= k <= 1048576"),
    (search(k=2**70), ValueError, f"[scan] k is {2**70}; expected 1 <= k <= 1048576"),
    (search(k=3.0), TypeError, "[scan] k is float; expected an int"),
    (search(metric="dot"), ValueError, "[scan] metric is 'dot'; expected one of 'ip', 'cosine', 'l2'"),
    (search(metric=None), ValueError, "[scan] metric is None; expected one of 'ip', 'cosine', 'l2'"),
    (search(mask=bitmap_of(65)), ValueError, "[scan] mask has shape (2,); expected (words=1,)"),
    (search(mask=np.ones(5, bool)), TypeError, "[scan] mask has dtype bool; expected a NumPy array of uint64"),
    (search(best_of=0), ValueError, "[scan] best_of is 0; expected 1 <= best_of <= 2147483647"),
    (search(threads=0), ValueError, "[scan] threads is 0; expected 1 <= threads <= 256"),
    (search(threads=257), ValueError, "[scan] threads is 257; expected 1 <= threads <= 256"),
    (search(scales=f32(5)), ValueError, "[scan] scales is given with float32 vectors; expected None, or int8 vectors"),
    (
        search(vectors=np.zeros((5, 2), np.int8), scales=f32(4)),
        ValueError,
        "[scan] scales has shape (4,); expected (N=5,)",
    ),
    (search(bias=f32(1, 4)), ValueError, "[scan] bias has shape (1, 4); expected (q=1, n=5)"),
    (search(tags=np.zeros(4, np.int32)), ValueError, "[scan] tags has shape (4,); expected (n=5,)"),
    (search(tags=i64(1, 2, 3, 4, 5)), TypeError, "[scan] tags has dtype int64; expected a NumPy array of int32"),
    (
        search(tag_cap=2),
        ValueError,
        "[scan] tag_cap is 2 and tags is None; expected tags int32[n] with a cap; pass both or neither",
    ),
    (search(tag_cap=-1), ValueError, "[scan] tag_cap is -1; expected 0 <= tag_cap <= 1048576"),
    (search(offsets=i64()), ValueError, "[scan] offsets runs from nothing; expected 0 to 5, the number of vectors"),
    (search(offsets=i64(0, 4)), ValueError, "[scan] offsets runs from 0 to 4; expected 0 to 5, the number of vectors"),
    (search(offsets=i64(1, 5)), ValueError, "[scan] offsets runs from 1 to 5; expected 0 to 5, the number of vectors"),
    (
        search(offsets=i64(0, 4, 3, 5)),
        ValueError,
        "[scan] offsets gives row 1 the vectors 4:3; expected ascending within 0:5",
    ),
    (
        search(offsets=i64(0, 9, 9, 5)),
        ValueError,
        "[scan] offsets gives row 0 the vectors 0:9; expected ascending within 0:5",
    ),
    (
        lambda e: e.rescore(f32(5, 2), f32(1, 2), i64(0, 5)[None], 3, metric="ip"),
        IndexError,
        "[rescore] candidates holds 5; expected -1 or 0 <= row < 5",
    ),
    (
        lambda e: e.rescore(f32(5, 2), f32(1, 2), i64(-2)[None], 3, metric="ip"),
        IndexError,
        "[rescore] candidates holds -2; expected -1 or 0 <= row < 5",
    ),
    (
        lambda e: e.rescore(f32(5, 2), f32(2, 2), i64(1)[None], 3, metric="ip"),
        ValueError,
        "[rescore] candidates has shape (1, 1); expected (q=2, m)",
    ),
    (
        lambda e: e.merge(np.zeros((1, 2, 3), np.int64), f32(1, 2, 2), 3),
        ValueError,
        "[merge] distances has shape (1, 2, 2); expected (s=1, q=2, m=3)",
    ),
    (
        lambda e: e.merge(i64(-2)[None, None], f32(1, 1, 1), 3),
        IndexError,
        "[merge] rows holds -2; expected -1 or 0 <= row",
    ),
    (
        lambda e: e.merge(i64(4)[None, None], f32(1, 1, 1), 3, tags=np.zeros(4, np.int32), tag_cap=1),
        IndexError,
        "[merge] rows holds 4; expected -1 or 0 <= row < 4",
    ),
    (lambda e: e.new_bitmap(-1), ValueError, "[new_bitmap] n is -1; expected 0 <= n <= 1099511627776"),
    (
        lambda e: e.set_rows(bitmap_of(3), i64(0, 64)),
        IndexError,
        "[set_rows] rows holds 64; expected 0 <= row < 64, the bits of this bitmap",
    ),
    (
        lambda e: e.clear_rows(bitmap_of(3), np.array([-1], np.int32)),
        IndexError,
        "[clear_rows] rows holds -1; expected 0 <= row < 64, the bits of this bitmap",
    ),
    (
        lambda e: e.set_rows(bitmap_of(0), i64(0)),
        IndexError,
        "[set_rows] rows holds 0; expected 0 <= row < 0, the bits of this bitmap",
    ),
    (
        lambda e: e.set_rows(read_only(bitmap_of(3)), i64(0)),
        ValueError,
        "[set_rows] bitmap is read-only; expected a writable array, it is changed in place",
    ),
    (
        lambda e: e.set_rows(bitmap_of(3), f32(1)),
        TypeError,
        "[set_rows] rows has dtype float32; expected a NumPy array of int32 or int64",
    ),
    (
        lambda e: e.intersect(bitmap_of(3), bitmap_of(65)),
        ValueError,
        "[intersect] other has shape (2,); expected (words=1,)",
    ),
    (
        lambda e: e.union(read_only(bitmap_of(3)), bitmap_of(3)),
        ValueError,
        "[union] bitmap is read-only; expected a writable array, it is changed in place",
    ),
    (lambda e: e.count(bitmap_of(3), 65), ValueError, "[count] bitmap has shape (1,); expected (words=2,)"),
    (lambda e: e.rows_of(bitmap_of(3), "3"), TypeError, "[rows_of] n is str; expected an int"),
    (
        lambda e: e.compare(bitmap_of(3), i64(1, 2, 3), "LIKE", 2),
        ValueError,
        "[compare] op is 'LIKE'; expected one of 'LESS', 'LESS_EQUAL', 'EQUAL', 'GREATER_EQUAL', 'GREATER', 'NOT_EQUAL'",
    ),
    (
        lambda e: e.compare(bitmap_of(3), i64(1, 2, 3), "LESS", 2.5),
        TypeError,
        "[compare] value is float; expected an int",
    ),
    (
        lambda e: e.compare(bitmap_of(3), i64(1, 2, 3), "LESS", 2**63),
        ValueError,
        f"[compare] value is {2**63}; expected {-(2**63)} <= value <= {2**63 - 1}",
    ),
    (
        lambda e: e.compare(bitmap_of(3), f32(3), "LESS", None),
        TypeError,
        "[compare] value is NoneType; expected a number",
    ),
    (
        lambda e: e.compare(bitmap_of(65), f32(3), "LESS", 1),
        ValueError,
        "[compare] bitmap has shape (2,); expected (words=1,)",
    ),
    (
        lambda e: e.sparse_scores(i64(0, 2), np.array([0, 9], np.int32), f32(2), i64(0), f32(1), 9),
        IndexError,
        "[sparse_scores] rows holds 9; expected 0 <= row < 9",
    ),
    (
        lambda e: e.sparse_scores(i64(0, 2), np.array([0, -1], np.int32), f32(2), i64(0), f32(1), 9),
        IndexError,
        "[sparse_scores] rows holds -1; expected 0 <= row < 9",
    ),
    (
        lambda e: e.sparse_scores(i64(0, 2), np.zeros(2, np.int32), f32(2), i64(1), f32(1), 9),
        IndexError,
        "[sparse_scores] terms holds 1; expected 0 <= term < 1",
    ),
    (
        lambda e: e.sparse_scores(i64(0, 3), np.zeros(2, np.int32), f32(2), i64(0), f32(1), 9),
        ValueError,
        "[sparse_scores] offsets gives term 0 the entries 0:3; expected ascending within 0:2",
    ),
    (
        lambda e: e.sparse_scores(i64(), np.zeros(2, np.int32), f32(2), i64(0), f32(1), 9),
        ValueError,
        "[sparse_scores] offsets has shape (0,); expected (t + 1,)",
    ),
    (lambda e: e.best_scores(f32(9), 0), ValueError, f"[best_scores] k is 0; expected 1 <= k <= {2**20}"),
    (
        lambda e: e.best_scores(np.ones(9), 1),
        TypeError,
        "[best_scores] scores has dtype float64; expected a NumPy array of float32",
    ),
    (
        lambda e: e.best_scores(f32(65), 1, np.zeros(1, np.uint64)),
        ValueError,
        "[best_scores] mask has shape (1,); expected (words=2,)",
    ),
    (lambda e: e.crc32c(b"abc", 0), ValueError, f"[crc32c] block_bytes is 0; expected 1 <= block_bytes <= {2**63 - 1}"),
    (lambda e: e.crc32c("abc", 1), TypeError, "[crc32c] data is str; expected a contiguous buffer of bytes"),
    (
        lambda e: e.crc32c(memoryview(b"abcd")[::2], 1),
        TypeError,
        "[crc32c] data is memoryview; expected a contiguous buffer of bytes",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[message for _, _, message in BAD_CALLS])
def test_bad_arguments_are_named(
    engine: ModuleType, call: Callable[[ModuleType], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call(engine)


def test_a_refused_row_leaves_the_bitmap_unchanged(engine: ModuleType) -> None:
    bitmap = engine.new_bitmap(10)
    with pytest.raises(IndexError):
        engine.set_rows(bitmap, i64(1, 64))
    assert engine.count(bitmap, 10) == 0


def test_other_threads_run_during_a_scan() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((20_000, 256)).astype(np.float32)
    queries = rng.standard_normal((1_000, 256)).astype(np.float32)
    is_inside, is_done = threading.Event(), threading.Event()

    def work() -> None:
        is_inside.set()
        native.scan(vectors, queries, 10, metric="l2")
        is_done.set()

    worker = threading.Thread(target=work)
    worker.start()
    is_inside.wait()
    n_turns = 0
    while not is_done.is_set():
        time.sleep(0)  # hands the GIL over: a scan that held it would be over before the next turn
        n_turns += 1
    worker.join()
    assert n_turns > 100


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_backend_names_what_computes() -> None:
    assert cpp_ext.backend() in ("avx512_vnni", "avx512", "avx2", "neon", "scalar")
    assert cpp_ext.scan is native.scan
    assert reference.backend() == "numpy"
    done = run_python("import cpp_ext; print(cpp_ext.backend())", LIKEWISE_SIMD="scalar")
    assert done.stdout == "scalar\n"


def test_an_unknown_simd_level_is_refused_on_import() -> None:
    done = run_python("import cpp_ext", LIKEWISE_SIMD="avx9")
    assert done.returncode == 1
    assert "ValueError: [backend] LIKEWISE_SIMD is 'avx9'; expected one of scalar, " in done.stderr


def test_numpy_answers_where_the_native_module_is_missing() -> None:
    code = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s")
sys.modules["cpp_ext._native"] = None
import numpy, cpp_ext, cpp_ext.kernels
vectors = numpy.eye(3, dtype=numpy.float32)
print(cpp_ext.backend(), cpp_ext.scan(vectors, vectors[1:2], 1, metric="ip")[0])
"""
    done = run_python(code)
    assert done.stdout == "numpy [[1]]\n", done.stderr
    assert done.stderr.count("WARNING [cpp_ext] the native kernels cannot be imported") == 1


def test_every_kernel_has_one_signature() -> None:
    stub = next(path for path in files("likewise") or [] if path.name == "_native.pyi")
    declared = {
        node.name: node.args
        for node in ast.parse(Path(stub.locate()).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert sorted(declared) == sorted(kernels.__all__) == sorted(cpp_ext.__all__)
    for name, arguments in declared.items():
        parameters = inspect.signature(getattr(reference, name)).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        assert [a.arg for a in arguments.args] == [p.name for p in positional], name
        assert [a.arg for a in arguments.kwonlyargs] == [p.name for p in keyword], name
        defaults = [p.default for p in positional if p.default is not p.empty]
        assert [ast.literal_eval(d) for d in arguments.defaults] == defaults, name
        for default, parameter in zip(arguments.kw_defaults, keyword, strict=True):
            assert (default is None) == (parameter.default is parameter.empty), (name, parameter.name)
            if default is not None:
                assert ast.literal_eval(default) == parameter.default, (name, parameter.name)
