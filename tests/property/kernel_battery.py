"""Runs every native kernel on one fixed set of inputs and saves what comes out: `python kernel_battery.py OUT.npz`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpp_ext import _native as native

OPERATORS = ("LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL")


def battery() -> dict[str, NDArray[Any]]:
    """Return outputs by name; names that start with "rounded" depend on the order of summation."""
    rng = np.random.default_rng(11)
    out: dict[str, NDArray[Any]] = {}
    for dim in (*range(1, 71), 384, 1000):
        for dtype in (np.float32, np.int8):
            vectors = rng.integers(-5, 6, (70, dim)).astype(dtype)
            queries = rng.integers(-5, 6, (7, dim)).astype(np.float32)
            mask = rng.integers(0, 2**64, 2, dtype=np.uint64)
            for metric in ("ip", "l2"):
                for n_queries in (1, 7):
                    found = native.scan(vectors, queries[:n_queries], 9, metric=metric, mask=mask)
                    key = f"{metric} {dim} {dtype.__name__} {n_queries}"
                    out[f"rows {key}"], out[f"distances {key}"] = found
            # All rows come back, so sorting makes the answers comparable however near-ties fall.
            cosines = native.scan(vectors, queries, 70, metric="cosine")[1]
            out[f"rounded cosine {dim} {dtype.__name__}"] = np.sort(cosines, axis=1)
        real = rng.standard_normal((70, dim)).astype(np.float32)
        out[f"rounded l2 {dim}"] = np.sort(native.scan(real, real[:5], 70, metric="l2")[1], axis=1)
    for n in (1, 63, 64, 65, 500):
        for dtype, few in (
            (np.int64, [-(2**63), -1, 0, 2**63 - 1]),
            (np.float32, [-np.inf, -0.0, 0.5, np.nan]),
            (np.float64, [-np.inf, -0.0, 0.5, np.nan]),
        ):
            values = rng.choice(np.array(few, dtype=dtype), n)
            for op in OPERATORS:
                bitmap = native.new_bitmap(n, fill=True)
                native.compare(bitmap, values, op, 0)
                out[f"compare {n} {dtype.__name__} {op}"] = bitmap
                out[f"count {n} {dtype.__name__} {op}"] = np.array(native.count(bitmap, n))
        out[f"crc32c {n}"] = native.crc32c(rng.bytes(n), 17)
    return out


if __name__ == "__main__":
    np.savez(sys.argv[1], **battery())  # type: ignore[arg-type]  # the stub takes names for its own options
    print(native.backend())
