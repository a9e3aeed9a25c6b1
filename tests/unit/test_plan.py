"""The choice of a plan, and what it is predicted to cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import cpp_ext
from index_builder.plan import GraphParams, IndexPlan, PlanChoice, choose_plan
from matching.errors import InvalidInput
from matching.faiss_index import HnswParams

GRAPH = GraphParams(degree=32, build_beam=100)


@pytest.fixture
def sample(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal((500, 64)).astype(np.float32)


def chosen(
    sample: NDArray[np.float32],
    n_vectors: int,
    choice: PlanChoice = "auto",
    *,
    memory_budget_bytes: int = 1 << 40,
    recall_target: float = 0.95,
    graph: GraphParams = GRAPH,
) -> IndexPlan:
    return choose_plan(
        sample,
        n_vectors,
        "cosine",
        choice=choice,
        memory_budget_bytes=memory_budget_bytes,
        recall_target=recall_target,
        graph=graph,
        hnsw=HnswParams(8, 40),
        n_threads=1,
    )


def test_auto_scans_what_is_small_and_links_what_is_not(sample: NDArray[np.float32]) -> None:
    assert chosen(sample, 50_000).name == "flat"
    graph = chosen(sample, 1_000_000)
    assert (graph.name, graph.params) == ("graph", GRAPH)
    assert "1,000,000 vectors of 64 are too many to scan, and a graph of" in graph.why
    assert chosen(sample, 1_000_000, recall_target=1).name == "flat"


def test_a_graph_that_is_too_large_is_laid_out_compactly(sample: NDArray[np.float32]) -> None:
    plan = chosen(sample, 1_000_000, memory_budget_bytes=400 << 20)
    assert plan.params == replace(GRAPH, layout="compact")
    assert plan.resident_bytes < 400 << 20 < GRAPH.row_bytes(64) * 1_000_000


def test_auto_takes_product_codes_where_a_graph_is_beyond_the_budget(sample: NDArray[np.float32]) -> None:
    plan = chosen(sample, 1_000_000, memory_budget_bytes=200 << 20)
    assert plan.name == "ivfpq"
    assert plan.resident_bytes < 200 << 20 < GRAPH.row_bytes(64) * 1_000_000
    assert "more than the budget of 200 MiB" in plan.why


def test_auto_takes_hnsw_where_the_native_module_is_missing(
    sample: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpp_ext, "backend", lambda: "numpy")
    plan = chosen(sample, 1_000_000)
    assert plan.name == "hnsw"
    assert plan.build_cpu_s > 0


@pytest.mark.parametrize("choice", ["graph", "hnsw"])
def test_few_vectors_make_no_graph(sample: NDArray[np.float32], choice: PlanChoice) -> None:
    with pytest.raises(InvalidInput, match="a graph needs 64 vectors, there are 63; use --plan flat"):
        chosen(sample[:63], 63, choice)
    assert chosen(sample[:64], 64, choice).name == choice


def test_prediction_of_a_graph_grows_with_rows_length_links_and_beam(sample: NDArray[np.float32]) -> None:
    small = chosen(sample, 100_000, "graph")
    assert small.resident_bytes == 100_000 * GRAPH.row_bytes(64)
    assert chosen(sample, 200_000, "graph").build_cpu_s > 2 * small.build_cpu_s
    assert chosen(np.tile(sample, 4), 100_000, "graph").build_cpu_s > small.build_cpu_s
    wide = chosen(sample, 100_000, "graph", graph=GraphParams(64, 200))
    assert wide.resident_bytes - small.resident_bytes == 100_000 * 32 * (4 + 8 + 8)
    assert wide.build_cpu_s == pytest.approx(2 * small.build_cpu_s)
    assert small.entry().params["degree"] == 32
    assert small.entry().factory == "Graph32"
