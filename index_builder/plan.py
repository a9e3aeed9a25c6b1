"""Choose how a space is indexed, say why, and predict what it will cost."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.datapoint import Metric
from matching.errors import InvalidInput
from matching.faiss_index import FaissIndex, HnswParams, IvfPqParams, n_gpus
from matching.graph_index import Layout
from matching.manifest import PlanEntry, PlanName

PlanChoice = Literal["auto", "flat", "graph", "hnsw", "ivfpq"]

FLAT_FLOATS = 6_000_000  # 24 MB are scanned in one or two milliseconds by one core
_PROBE_ROWS = 2_048
# CPU seconds a row of a graph build, over log2 of the rows and 1 + dim / _GRAPH_DIM: measured at 25 to 784 dims, AVX2
_GRAPH_ROW_S = 6e-6
_GRAPH_DIM = 350
_MIN_GRAPH_ROWS = 64
_MIN_IVFPQ_ROWS = 39 * 256  # FAISS wants 39 training rows for each of the 256 centroids of a product code


@dataclass(frozen=True, slots=True)
class GraphParams:
    """The native graph index: links of a row, and the candidates that they are chosen from."""

    degree: int
    build_beam: int
    layout: Layout = "fast"

    @property
    def factory(self) -> str:
        return f"Graph{self.degree}"

    def row_bytes(self, dim: int) -> int:
        """Return what a row takes: 16 bits and a sign a coordinate, factors of both, the links and their signs."""
        padded = -(-dim // 64) * 64
        signs = padded // 8 + 12
        beside_links = -(-self.degree // 32) * 32 * (min(padded, 448) // 8 + 8) if self.layout == "fast" else 0
        in_blocks = padded // 8 + 8
        return (
            2 * padded + 12 + (32 if signs <= 32 else -(-signs // 64) * 64) + in_blocks + 4 * self.degree + beside_links
        )


Params: TypeAlias = GraphParams | HnswParams | IvfPqParams


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """A chosen plan: `params` is None for the exact scan."""

    name: PlanName
    params: Params | None
    why: str
    resident_bytes: int
    build_cpu_s: float

    def entry(self) -> PlanEntry:
        """Return what the manifest keeps of the plan."""
        held: dict[str, int | float | str] = {
            "predicted_resident_bytes": self.resident_bytes,
            "predicted_build_cpu_s": round(self.build_cpu_s, 1),
        }
        if isinstance(self.params, GraphParams):
            held |= {
                "degree": self.params.degree,
                "build_beam": self.params.build_beam,
                "layout": self.params.layout,
            }
        elif isinstance(self.params, HnswParams):
            held |= {"links": self.params.links, "ef_construction": self.params.ef_construction}
        elif isinstance(self.params, IvfPqParams):
            held |= {"n_lists": self.params.n_lists, "n_subquantizers": self.params.n_subquantizers}
        return PlanEntry(self.name, "Flat" if self.params is None else self.params.factory, self.why, held)


def choose_plan(
    sample: NDArray[np.float32],
    n_vectors: int,
    metric: Metric,
    *,
    choice: PlanChoice,
    memory_budget_bytes: int,
    recall_target: float,
    graph: GraphParams,
    hnsw: HnswParams,
    n_threads: int,
) -> IndexPlan:
    """Choose the plan of a space.

    The exact scan wins while it answers in a millisecond or two; then the graph index, while it fits the memory budget, if
    need be in its compact layout (HNSW where the native module is missing); then product codes in inverted lists.
    Whatever is chosen, candidates are ranked again from the original vectors, so the recall target decides the effort of a
    search, not the plan, except that a target of 1 needs the exact scan.

    Args:
        sample: float32[m, d] of the vectors; of its first rows an HNSW graph is built, to predict the time of the whole.
        n_vectors: how many there will be.
        memory_budget_bytes: what the index may keep resident; original vectors are mapped and may be paged out.

    Raises:
        InvalidInput: the plan asked for cannot be built from so few vectors.
    """
    dim = sample.shape[1]
    size = f"{n_vectors:,} vectors of {dim}"
    ivfpq = IvfPqParams(_n_lists(n_vectors), _n_subquantizers(dim))
    if n_vectors * graph.row_bytes(dim) > memory_budget_bytes:
        graph = replace(graph, layout="compact")
    graph_bytes = n_vectors * graph.row_bytes(dim)
    hnsw_bytes = n_vectors * (dim + 4 * 2 * hnsw.links + 4 * hnsw.links // 15 + 16)
    ivfpq_bytes = n_vectors * (ivfpq.n_subquantizers + 16) + 4 * dim * (ivfpq.n_lists + 256)
    if choice == "auto":
        best: Literal["graph", "hnsw"] = "graph" if cpp_ext.backend() != "numpy" else "hnsw"
        best_bytes = graph_bytes if best == "graph" else hnsw_bytes
        choice, why = _choose(size, n_vectors * dim, n_vectors, best, best_bytes, memory_budget_bytes, recall_target)
    else:
        why = f"{choice} was asked for; {size}"
    if choice == "flat":
        return IndexPlan("flat", None, why, 0, 0.0)
    if choice in ("graph", "hnsw") and not has_enough(choice, n_vectors):
        raise InvalidInput(f"[plan] a graph needs {_MIN_GRAPH_ROWS} vectors, there are {n_vectors}; use --plan flat")
    if choice == "graph":
        return IndexPlan("graph", graph, why, graph_bytes, _predict_graph_s(n_vectors, dim, graph))
    if choice == "hnsw":
        seconds = _predict_hnsw_s(sample, n_vectors, metric, hnsw, n_threads)
        return IndexPlan("hnsw", hnsw, why, hnsw_bytes, seconds)
    if not has_enough(choice, n_vectors):
        raise InvalidInput(
            f"[plan] product codes need {_MIN_IVFPQ_ROWS:,} vectors to train, there are {n_vectors:,}; use --plan flat or graph"
        )
    # k-means: about 25 passes over 256 rows a list and a code, each row against all centroids, at some 10 GFLOP/s
    flops = 25 * 2 * dim * 256 * (ivfpq.n_lists**2 + 256 * 256) + 2 * n_vectors * dim * (ivfpq.n_lists + 256)
    return IndexPlan("ivfpq", ivfpq, why + (", trained on GPU" if n_gpus() else ""), ivfpq_bytes, flops / 1e10)


def has_enough(choice: PlanChoice, n_vectors: int) -> bool:
    """Return whether an index of a plan can be built from so few vectors."""
    least = {"graph": _MIN_GRAPH_ROWS, "hnsw": _MIN_GRAPH_ROWS, "ivfpq": _MIN_IVFPQ_ROWS}
    return n_vectors >= least.get(choice, 0)


def default_memory_budget_bytes() -> int:
    """Return half of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _choose(
    size: str,
    n_floats: int,
    n_vectors: int,
    best: Literal["graph", "hnsw"],
    graph_bytes: int,
    budget: int,
    recall_target: float,
) -> tuple[Literal["flat", "graph", "hnsw", "ivfpq"], str]:
    if n_floats <= FLAT_FLOATS:
        return "flat", f"{size} are scanned exactly in a millisecond or two"
    if recall_target >= 1:
        return "flat", f"a recall target of {recall_target:g} needs the exact scan"
    if graph_bytes <= budget or n_vectors < _MIN_IVFPQ_ROWS:
        return (
            best,
            f"{size} are too many to scan, and a graph of {_mib(graph_bytes)} fits the budget of {_mib(budget)}",
        )
    return "ivfpq", f"a graph over {size} would take {_mib(graph_bytes)}, more than the budget of {_mib(budget)}"


def _predict_graph_s(n_vectors: int, dim: int, params: GraphParams) -> float:
    """Scale the CPU time of a measured build: a candidate costs its code and what is done whatever its length."""
    seconds_a_row = _GRAPH_ROW_S * (params.build_beam / 100) * (1 + dim / _GRAPH_DIM)
    return n_vectors * seconds_a_row * math.log2(max(n_vectors, 2))


def _predict_hnsw_s(
    sample: NDArray[np.float32], n_vectors: int, metric: Metric, params: HnswParams, n_threads: int
) -> float:
    """Build a small graph here and now, and scale its CPU time by n log n."""
    rows = sample[:_PROBE_ROWS]
    index = FaissIndex.train(params, rows, metric, seed=0, n_threads=n_threads)
    before = time.process_time()
    for _ in index.add(rows, np.arange(len(rows)), n_threads=n_threads):
        pass
    spent = time.process_time() - before
    growth = n_vectors * math.log2(max(n_vectors, 2)) / (len(rows) * math.log2(max(len(rows), 2)))
    return spent * growth


def _n_lists(n_vectors: int) -> int:
    lists = 1 << round(math.log2(max(4 * math.sqrt(n_vectors), 1)))
    return max(1, min(lists, n_vectors // 39))


def _n_subquantizers(dim: int) -> int:
    """Return about a byte for each four dimensions, a divisor of dim."""
    return max(m for m in range(1, max(dim // 4, 1) + 1) if dim % m == 0)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
