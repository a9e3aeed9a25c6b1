"""A native space of a snapshot, typed. `matching.space.Space` plans its searches and documents them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cpp_ext.native_graph import NativeGraph

NativeShard = tuple[
    int,  # first row
    int,  # rows
    NDArray[np.float32],
    "NDArray[np.int64] | None",  # offsets
    "NativeGraph | None",
    bool,  # whether the graph may hold more vectors than these
]


class NativeSpace(Protocol):
    """Immutable; keeps what it was made of."""

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        effort: float,
        n_candidates: int,
        matching: NDArray[np.uint64] | None,
        n_matching: int,
        bias: NDArray[np.float32] | None,
        tags: NDArray[np.int32] | None,
        tag_cap: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
        """Return rows, distances and how many of them were computed; releases the GIL once. Effort 0 scans."""
        ...


class NativeSpaceClass(Protocol):
    """What makes them."""

    def __call__(
        self, shards: Sequence[NativeShard], *, dim: int, n_rows: int, metric: str, best_of: int
    ) -> NativeSpace: ...


def native_space() -> NativeSpaceClass | None:
    """Return the native class, None where the native module cannot be imported."""
    try:
        return cast("NativeSpaceClass", import_module("cpp_ext._native").SearchSpace)
    except ImportError:
        return None
