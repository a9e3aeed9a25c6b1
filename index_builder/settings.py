"""The choices of a build."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class BuildSettings(BaseModel):
    """The `build` section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Literal["auto", "flat", "hnsw", "ivfpq"] = Field(default="auto", description="how spaces are indexed")
    recall_target: float = Field(
        default=0.95, gt=0, le=1, description="recall@10 a space must reach, else the build is refused"
    )
    max_effort: int = Field(default=1024, ge=8, description="greatest efSearch or nprobe that may be spent to reach it")
    seed: int = Field(default=0, ge=0, description="seed of graphs, codes, samples and held-out queries")
    threads: int = Field(default=2, ge=1, description="threads of index building")
    links: int = Field(default=16, ge=4, le=128, description="links of a graph node (HNSW M)")
    ef_construction: int = Field(default=200, ge=8, description="search width while a graph is built")
    shard_bytes: int = Field(default=8 << 30, ge=1 << 16, description="bytes of vectors a shard may hold")
    memory_budget_bytes: int | None = Field(
        default=None, ge=1 << 20, description="memory an index may keep resident; half of the machine's where not set"
    )
    max_reject_frac: float = Field(
        default=0.01, ge=0, le=1, description="share of rejected rows or pictures that refuses a build"
    )
    fused_text_weight: float = Field(
        default=0.5, gt=0, lt=1, description="weight of text against pictures in the fused space"
    )
