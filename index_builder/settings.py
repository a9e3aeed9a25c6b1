"""The choices of a build."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from matching.graph_index import DEFAULT_BUILD_BEAM, DEFAULT_DEGREE, Layout


class BuildSettings(BaseModel):
    """The `build` section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Literal["auto", "flat", "graph", "hnsw", "ivfpq"] = Field(
        default="auto", description="how spaces are indexed"
    )
    recall_target: float = Field(
        default=0.95, gt=0, le=1, description="recall@10 a space must reach, else the build is refused"
    )
    max_effort: int = Field(
        default=1024,
        ge=8,
        description="greatest effort that may be spent to reach it: rows that a graph search follows, efSearch, nprobe",
    )
    seed: int = Field(default=0, ge=0, description="seed of graphs, codes, samples and held-out queries")
    threads: int = Field(default=2, ge=1, description="threads of index building")
    degree: int = Field(default=DEFAULT_DEGREE, ge=8, le=128, description="plan graph: links of a row")
    build_beam: int = Field(
        default=DEFAULT_BUILD_BEAM,
        ge=8,
        le=4096,
        description="plan graph: candidates that a row's links are chosen from, at least `degree`",
    )
    layout: Layout = Field(
        default="fast",
        description="plan graph: fast, or compact at a third of the memory; compact too where fast exceeds the memory budget",
    )
    links: int = Field(default=16, ge=4, le=128, description="plan hnsw: links of a node (M)")
    ef_construction: int = Field(default=200, ge=8, description="plan hnsw: search width while the graph is built")
    shard_bytes: int = Field(default=8 << 30, ge=1 << 16, description="bytes of vectors a shard may hold")
    memory_budget_bytes: int | None = Field(
        default=None, ge=1 << 20, description="memory an index may keep resident; half of the machine's where not set"
    )
    text_sparse: Literal["ngrams", "bm25"] = Field(
        default="ngrams", description="sparse side of the text space: character n-grams, or words weighed by BM25"
    )
    max_reject_frac: float = Field(
        default=0.01, ge=0, le=1, description="share of rejected rows or pictures that refuses a build"
    )
    fused_text_weight: float = Field(
        default=0.5, gt=0, lt=1, description="weight of text against pictures in the fused space"
    )
    joint: bool = Field(
        default=False,
        description="make a space in which texts find pictures and pictures texts, learned on the catalogue",
    )
