"""The native graph index, typed. `matching.GraphIndex` documents it; there is no slow twin of it in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray


class NativeGraph(Protocol):
    """One index; every call but `arrays` releases the GIL."""

    @property
    def dim(self) -> int: ...
    @property
    def metric(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def n_live(self) -> int: ...
    @property
    def degree(self) -> int: ...
    @property
    def packed(self) -> bool: ...
    @property
    def longest(self) -> float: ...
    @property
    def owned_bytes(self) -> int: ...
    def first_unfit_row(self, vectors: NDArray[np.float32]) -> int: ...
    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        spread: float,
        margin: float,
        exact: bool,
        keep: NDArray[np.uint64] | None,
        threads: int,
        trace: bool,
    ) -> tuple[NDArray[np.generic], ...]: ...
    def quick_search(
        self,
        queries: object,
        k: object,
        spread: float,
        margin: float,
        keep: object,
        threads: object,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None: ...
    def add(self, vectors: NDArray[np.float32], threads: int) -> int: ...
    def join(self, threads: int) -> None: ...
    def remove(self, rows: NDArray[np.int64]) -> int: ...
    def emptied(self) -> NativeGraph: ...
    def compacted(self, threads: int) -> tuple[NativeGraph, NDArray[np.int64]]: ...
    def restore(self, rows: NDArray[np.int64]) -> NDArray[np.float32]: ...
    def arrays(self) -> dict[str, NDArray[np.generic]]: ...
    def spread_for_effort(self, effort: float) -> float: ...
    def spread_for_recall(self, recall: float) -> float: ...
    def recall_of(self, spread: float) -> float: ...
    def margin_for_recall(self, recall: float) -> float: ...
    def rank_from(self, file: int, offset: int) -> None: ...
    def load(self) -> None: ...
    @property
    def costs(self) -> tuple[float, float]: ...
    def set_costs(self, hop: float, block: float) -> None: ...
    def measure_costs(self) -> tuple[float, float]: ...
    def n_unreachable(self) -> int: ...


class NativeGraphClass(Protocol):
    """What makes them."""

    def first_unfit_row(self, vectors: NDArray[np.float32]) -> int: ...

    def build(
        self,
        vectors: NDArray[np.float32],
        *,
        metric: str,
        seed: int,
        degree: int,
        build_beam: int,
        occlusion: float,
        packed: bool,
        costs: tuple[float, float] | None,
        threads: int,
        progress: Callable[[int], None] | None,
        links: NDArray[np.int32] | None,
        held_out: NDArray[np.int64] | None,
    ) -> NativeGraph: ...

    def open(
        self,
        *,
        dim: int,
        metric: str,
        seed: int,
        degree: int,
        build_beam: int,
        occlusion: float,
        packed: bool,
        longest: float,
        **arrays: NDArray[np.generic],
    ) -> NativeGraph: ...


def native_graph() -> NativeGraphClass:
    """Return the native class.

    Raises:
        ImportError: the native module cannot be imported.
    """
    return cast("NativeGraphClass", import_module("cpp_ext._native").GraphIndex)
