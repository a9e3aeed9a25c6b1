"""Vectors on their way from an encoder, or a file, into the shards of a space.

They arrive in any order, each with the arrival number of its datapoint, and are appended to plain files. Once the order of
the rows is known they are gathered, a chunk at a time, into sealed containers. Memory does not grow with the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matching.container import ContainerWriter
from matching.datapoint import SparseRows
from matching.manifest import ShardEntry

_CHUNK_ROWS = 8_192


class StagedVectors:
    """The dense vectors of one space in a file of float32 rows. Not thread-safe."""

    def __init__(self, path: Path, dim: int) -> None:
        """Start an empty file at `path`."""
        self.dim = dim
        self._path = path
        self._file = path.open("wb")
        self._owners: list[NDArray[np.int64]] = []
        self.n_vectors = 0

    def append(self, vectors: NDArray[np.float32], owners: NDArray[np.int64]) -> None:
        """Append vectors float32[m, dim], each with the arrival number of the datapoint that owns it."""
        assert vectors.shape == (len(owners), self.dim), (vectors.shape, len(owners), self.dim)
        self._file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        self._owners.append(owners)
        self.n_vectors += len(owners)

    def owners(self) -> NDArray[np.int64]:
        """Return the arrival number of each vector's datapoint, int64[n_vectors]."""
        return np.concatenate(self._owners) if self._owners else np.empty(0, np.int64)

    def vectors(self) -> NDArray[np.float32]:
        """Map what was appended, float32[n_vectors, dim]."""
        self._file.flush()
        if not self.n_vectors:
            return np.empty((0, self.dim), np.float32)
        return np.memmap(self._path, "<f4", "r", shape=(self.n_vectors, self.dim))

    def sample(self, n: int, *, seed: int) -> NDArray[np.float32]:
        """Return n random vectors (all of them where there are fewer), in file order."""
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(self.n_vectors, min(n, self.n_vectors), replace=False))
        return np.asarray(self.vectors()[rows], np.float32)

    def close(self) -> None:
        """Remove the file; closing twice is harmless."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class StagedSparse:
    """Sparse vectors of datapoints, in files of CSR parts. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        """Start empty files beside `path`."""
        self._paths = (path.with_suffix(".dimensions"), path.with_suffix(".values"))
        self._files = tuple(p.open("wb") for p in self._paths)
        self._owners: list[NDArray[np.int64]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self.n_entries = 0

    def append(self, rows: SparseRows, owners: NDArray[np.int64]) -> None:
        """Append sparse vectors, each with the arrival number of the datapoint that owns it."""
        self._files[0].write(rows.dimensions.astype("<i8").tobytes())
        self._files[1].write(rows.values.astype("<f4").tobytes())
        self._owners.append(owners)
        self._lengths.append(np.diff(rows.offsets))
        self.n_entries += len(rows.dimensions)

    def write(self, path: Path, order: NDArray[np.int64]) -> None:
        """Invert into a sealed container: for each dimension its rows, ascending, and their weights.

        Args:
            order: arrival number of each row.
        """
        for file in self._files:
            file.close()
        writer_sizes = {"dimensions": ("int64", (0,)), "offsets": ("int64", (1,)), "rows": ("int32", (0,))}
        if not self.n_entries:
            writer = ContainerWriter(path, "sparse", {**writer_sizes, "weights": ("float32", (0,))})
            writer.arrays["offsets"][...] = 0
            writer.seal()
            self.close()
            return
        dimensions = np.memmap(self._paths[0], "<i8", "r")
        values = np.memmap(self._paths[1], "<f4", "r")
        lengths, starts = self._spans(order)
        terms, counts = _counted(dimensions)
        writer = ContainerWriter(
            path,
            "sparse",
            {
                "dimensions": ("int64", (len(terms),)),
                "offsets": ("int64", (len(terms) + 1,)),
                "rows": ("int32", (self.n_entries,)),
                "weights": ("float32", (self.n_entries,)),
            },
        )
        offsets = np.concatenate([[0], np.cumsum(counts)])
        writer.arrays["dimensions"][...] = terms
        writer.arrays["offsets"][...] = offsets
        free = offsets[:-1].copy()
        for first in range(0, len(order), _CHUNK_ROWS):
            spans = lengths[first : first + _CHUNK_ROWS]
            entries = _gathered(starts[first : first + _CHUNK_ROWS], spans)
            rows = np.repeat(np.arange(first, first + len(spans), dtype=np.int32), spans)
            at = np.searchsorted(terms, dimensions[entries])
            by_term = np.argsort(at, kind="stable")
            at = at[by_term]
            places = free[at] + rank_in_run(at)
            writer.arrays["rows"][places] = rows[by_term]
            writer.arrays["weights"][places] = values[entries][by_term]
            free += np.bincount(at, minlength=len(terms))
        writer.seal()
        self.close()

    def close(self) -> None:
        """Remove the files; closing twice is harmless."""
        for file, path in zip(self._files, self._paths):
            file.close()
            path.unlink(missing_ok=True)

    def _spans(self, order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return length and first entry of each row; a row without a sparse vector has length 0."""
        owners, staged = np.concatenate(self._owners), np.concatenate(self._lengths)
        lengths = np.zeros(len(order), np.int64)
        starts = np.zeros(len(order), np.int64)
        lengths[owners] = staged
        starts[owners] = np.cumsum(staged) - staged
        return lengths[order], starts[order]


def write_shards(
    staged: StagedVectors,
    order: NDArray[np.int64],
    directory: Path,
    prefix: str,
    *,
    max_shard_bytes: int,
    is_grouped: bool = False,
) -> tuple[ShardEntry, ...]:
    """Gather staged vectors into sealed shards of whole datapoints.

    Args:
        order: arrival number of each row.
        directory: the version in the making; file names are `prefix` and the shard's number, relative to it.
        max_shard_bytes: a shard holds at most about so many bytes of vectors.
        is_grouped: keep room for datapoints with none or several, whether or not there are any.
    """
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    rows = rank[staged.owners()]
    gather = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(order))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    is_grouped = is_grouped or bool((counts != 1).any())
    vectors = staged.vectors()
    entries = []
    for number, (first, last) in enumerate(_row_ranges(offsets, 4 * staged.dim, max_shard_bytes)):
        name = f"{prefix}/shard-{number:04}.vectors"
        part = gather[offsets[first] : offsets[last]]
        sizes: dict[str, tuple[str, tuple[int, ...]]] = {"vectors": ("float32", (len(part), staged.dim))}
        if is_grouped:
            sizes["offsets"] = ("int64", (last - first + 1,))
        writer = ContainerWriter(directory / name, "vectors", sizes)
        if is_grouped:
            writer.arrays["offsets"][...] = offsets[first : last + 1] - offsets[first]
        for start in range(0, len(part), _CHUNK_ROWS):
            writer.arrays["vectors"][start : start + _CHUNK_ROWS] = vectors[part[start : start + _CHUNK_ROWS]]
        writer.seal()
        entries.append(ShardEntry(first, last - first, len(part), name))
    return tuple(entries)


def _row_ranges(offsets: NDArray[np.int64], vector_bytes: int, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut the rows where a shard is full, at multiples of 64 so that a bitmap can be cut there too."""
    n_rows = len(offsets) - 1
    per_shard = max(max_bytes // vector_bytes, 1)
    first = 0
    while first < n_rows:
        last = int(np.searchsorted(offsets, offsets[first] + per_shard, side="right")) - 1
        if last < n_rows:
            last = max(last - (last - first) % 64, min(first + 64, n_rows))
        yield first, min(last, n_rows)
        first = min(last, n_rows)


def _counted(dimensions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct values and how often each occurs, a chunk at a time."""
    terms = np.empty(0, np.int64)
    counts = np.empty(0, np.int64)
    for start in range(0, len(dimensions), 1 << 22):
        found, n = np.unique(dimensions[start : start + (1 << 22)], return_counts=True)
        merged, places = np.unique(np.concatenate([terms, found]), return_inverse=True)
        counts = np.bincount(places, weights=np.concatenate([counts, n]), minlength=len(merged)).astype(np.int64)
        terms = merged
    return terms, counts


def _gathered(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return starts[0], starts[0] + 1, ... for lengths[0] entries, then those of the next."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - lengths, lengths) + np.repeat(starts, lengths)


def rank_in_run(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, 2 ... within each run of equal neighbors."""
    if not len(values):
        return values
    begins = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    lengths = np.diff(np.concatenate([begins, [len(values)]]))
    return np.arange(len(values), dtype=np.int64) - np.repeat(begins, lengths).astype(np.int64)
