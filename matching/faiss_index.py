"""FAISS, in the one file that knows it: candidate search inside one shard, on CPU, built on GPU where there is one.

FAISS answers with candidates only; their distances are computed again from the original vectors. Its ids are vector
positions in the shard. A blob is read only out of a sealed container, and under limits, because FAISS itself checks little:
of 10,000 one-byte changes three quarters load without an error.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from matching.datapoint import Metric
from matching.errors import CorruptArtifact, InvalidInput, MissingExtra

Faiss: TypeAlias = Any  # the wheel ships no types
_ADD_ROWS = 16_384
_LOOP_LIMIT = 1 << 28


@dataclass(frozen=True, slots=True)
class HnswParams:
    """Graph over 8-bit codes. `links` is M, `ef_construction` the width of the search while building."""

    links: int = 16
    ef_construction: int = 200

    @property
    def factory(self) -> str:
        return f"IDMap,HNSW{self.links}_SQ8"


@dataclass(frozen=True, slots=True)
class IvfPqParams:
    """Inverted lists of product codes: `n_lists` cells, `n_subquantizers` bytes a vector."""

    n_lists: int
    n_subquantizers: int

    @property
    def factory(self) -> str:
        return f"IDMap,IVF{self.n_lists},PQ{self.n_subquantizers}x8"


Params: TypeAlias = HnswParams | IvfPqParams


def load_faiss() -> ModuleType:
    """Import FAISS.

    Raises:
        MissingExtra: neither faiss-cpu nor faiss-gpu is installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise MissingExtra(
            "[faiss] FAISS is not installed; run `pip install likewise[cpu]`, or likewise[gpu] on a machine with a GPU"
        ) from error


def faiss_version() -> str | None:
    """Return the version of FAISS, None where it is not installed: a flat version needs none."""
    try:
        return str(load_faiss().__version__)
    except MissingExtra:
        return None


def n_gpus() -> int:
    """Return how many GPUs FAISS may use; 0 with faiss-cpu."""
    count = getattr(load_faiss(), "get_num_gpus", None)
    return int(count()) if count is not None else 0


class FaissIndex:
    """Candidates by FAISS. Searches are thread-safe; `add` is not."""

    def __init__(self, index: Faiss, kind: Literal["hnsw", "ivfpq"], memory: object = None) -> None:
        self._faiss = load_faiss()
        self._index = index
        self._inner = self._faiss.downcast_index(index.index)
        self.kind = kind
        self._memory = memory  # what the index may still point into

    @classmethod
    def train(
        cls, params: Params, sample: NDArray[np.float32], metric: Metric, *, seed: int, n_threads: int
    ) -> FaissIndex:
        """Make an empty index with its codes trained on a sample.

        Args:
            sample: float32[m, d]; IVF-PQ wants at least 39 rows a list.
        """
        faiss = load_faiss()
        faiss.omp_set_num_threads(n_threads)
        measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        dim = sample.shape[1]
        if isinstance(params, HnswParams):
            inner = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, params.links, measure)
            inner.hnsw.efConstruction = params.ef_construction
            inner.hnsw.rng = faiss.RandomGenerator(seed)
            inner.train(sample)
            return cls(faiss.IndexIDMap(inner), "hnsw")
        inner = faiss.index_factory(dim, params.factory.removeprefix("IDMap,"), measure)
        inner.cp.seed = seed
        inner.pq.cp.seed = seed
        if n_gpus():
            on_gpu = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, inner)
            on_gpu.train(sample)
            inner = faiss.index_gpu_to_cpu(on_gpu)
        else:
            inner.train(sample)
        return cls(faiss.IndexIDMap(inner), "ivfpq")

    def add(self, vectors: NDArray[np.float32], positions: NDArray[np.int64], *, n_threads: int) -> Iterator[int]:
        """Add vectors[positions] in batches, and yield the number of vectors held after each.

        The batches are part of what makes a build repeat to the byte: for one list of positions they are always the same.
        """
        self._faiss.omp_set_num_threads(n_threads)
        for start in range(0, len(positions), _ADD_ROWS):
            batch = positions[start : start + _ADD_ROWS]
            self._index.add_with_ids(np.ascontiguousarray(vectors[batch]), batch)
            yield int(self._index.ntotal)

    def search(
        self,
        queries: NDArray[np.float32],
        n_candidates: int,
        *,
        effort: int,
        selected: NDArray[np.uint64] | None = None,
    ) -> NDArray[np.int64]:
        """Return candidate positions, best first, -1 where there are fewer.

        Args:
            queries: float32[q, d].
            effort: efSearch of a graph, nprobe of inverted lists.
            selected: bitmap over positions, position p being bit p % 64 of word p // 64; None selects all.

        Returns:
            int64[q, n_candidates].
        """
        faiss = self._faiss
        faiss.omp_set_num_threads(1)  # it counts for the calling thread only, and idle OpenMP threads spin
        selector = (
            None
            if selected is None
            else faiss.IDSelectorBitmap(selected.nbytes, faiss.swig_ptr(selected.view(np.uint8)))
        )
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=max(effort, n_candidates), sel=selector)
        else:
            params = faiss.SearchParametersIVF(nprobe=min(effort, self._inner.nlist), sel=selector)
        _, positions = self._index.search(queries, min(n_candidates, self._index.ntotal), params=params)
        return np.asarray(positions, np.int64)

    @property
    def max_effort(self) -> int:
        """The effort above which nothing is gained."""
        return int(self._inner.nlist) if self.kind == "ivfpq" else int(self._index.ntotal)

    def save(self, path: Path) -> None:
        """Write the plain FAISS file; the caller seals it."""
        self._faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, blob: NDArray[np.uint8], *, dim: int, n_vectors: int, kind: Literal["hnsw", "ivfpq"]) -> FaissIndex:
        """Read an index out of the verified bytes of a container, without copying what can stay mapped.

        Raises:
            CorruptArtifact: FAISS refuses the bytes, or they hold something else than the manifest says.
        """
        faiss = load_faiss()
        # loading IVF-PQ under L2 also fills a table of lists x subquantizers x 256 floats; 1 KiB a vector is ample for it
        faiss.set_deserialization_vector_byte_limit(len(blob) + 1024 * n_vectors + (1 << 20))
        faiss.set_deserialization_loop_limit(_LOOP_LIMIT)
        try:
            index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(blob), len(blob)))
        except RuntimeError as error:
            raise CorruptArtifact(f"[open] FAISS refuses the index: {error}; build the version again") from error
        if index.d != dim or index.ntotal != n_vectors:
            raise CorruptArtifact(
                f"[open] the FAISS index holds {index.ntotal} vectors of {index.d} dimensions, the manifest says {n_vectors} of "
                f"{dim}; build the version again"
            )
        return cls(index, kind, memory=blob)


def hnsw_links(index: Faiss) -> NDArray[np.int32]:
    """Return the links of an HNSW graph's lowest level, for `GraphIndex.from_links`.

    A CAGRA graph built on a GPU comes the same way: copy it into an `IndexHNSWCagra` with `copyTo` first.

    Args:
        index: a FAISS index with an `hnsw`, or one around such an index.

    Returns:
        int32[n, m]; -1 = none.

    Raises:
        InvalidInput: it holds no HNSW graph.
    """
    faiss = load_faiss()
    while not hasattr(index, "hnsw"):
        if not hasattr(index, "index"):
            raise InvalidInput(f"[hnsw_links] {type(index).__name__} holds no HNSW graph; expected a FAISS HNSW index")
        index = faiss.downcast_index(index.index)
    hnsw = index.hnsw
    offsets = faiss.vector_to_array(hnsw.offsets)[: index.ntotal].astype(np.int64)
    neighbors = faiss.vector_to_array(hnsw.neighbors)
    links: NDArray[np.int32] = neighbors[offsets[:, None] + np.arange(hnsw.nb_neighbors(0))]
    return links
