"""Kernels over NumPy arrays: exact scans, top-k, bitmaps, sparse scores, checksums."""

from cpp_ext.kernels import (
    backend,
    best_scores,
    clear_rows,
    compare,
    count,
    crc32c,
    diversify,
    intersect,
    merge,
    new_bitmap,
    rescore,
    rows_of,
    scan,
    set_rows,
    sparse_scores,
    union,
)

__all__ = [
    "backend",
    "best_scores",
    "clear_rows",
    "compare",
    "count",
    "crc32c",
    "diversify",
    "intersect",
    "merge",
    "new_bitmap",
    "rescore",
    "rows_of",
    "scan",
    "set_rows",
    "sparse_scores",
    "union",
]
