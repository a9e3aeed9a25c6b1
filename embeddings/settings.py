"""Where models and embeddings are kept, what encoding may use, and how encoders of histories are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from embeddings.model_file import DEFAULT_MODEL_DIR


class EncodeSettings(BaseModel):
    """The `encode` section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_dir: Path = Field(default=DEFAULT_MODEL_DIR, description="where exported models are kept")
    cache: Path | None = Field(
        default=None, description="file of the embedding cache; STORE/embeddings.sqlite where not set"
    )
    threads: int = Field(default=2, ge=1, description="threads of an encoder while a catalogue is embedded")
    picture_workers: int = Field(default=2, ge=1, description="processes that decode pictures")
    max_picture_bytes: int = Field(default=20 << 20, ge=1024, description="largest picture file that is decoded")
    max_picture_pixels: int = Field(default=20_000_000, ge=1, description="largest picture that is decoded, in pixels")


class HistoryTrainingSettings(BaseModel):
    """How an encoder of histories is trained; `sasrec` and `two_tower` of the settings differ in their defaults alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: Literal["transformer", "pool"] = Field(
        default="transformer", description="what reads a history: transformer, or pool, a weighted mean"
    )
    dim: int = Field(default=64, ge=8, le=1024, multiple_of=8, description="numbers in a vector")
    n_blocks: int = Field(default=1, ge=1, le=16, description="blocks of a transformer")
    n_heads: Literal[1, 2, 4, 8] = Field(default=1, description="heads of a block's attention")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="share of numbers left out at random while it learns")
    max_items: int = Field(default=50, ge=2, le=1000, description="so many of the newest items of a history are read")
    temperature: float = Field(
        default=0,
        ge=0,
        le=10,
        description="what cosines are divided by while it learns; 0 = products in place of cosines",
    )
    full_items: int = Field(
        default=20_000, ge=0, description="up to so many items a transformer learns from the scores of all of them"
    )
    n_negatives: int = Field(default=1024, ge=256, description="items drawn for each step to be told from the target")
    leave_out: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of items known by their features alone while it learns, of a catalogue",
    )
    reach: int = Field(default=1, ge=1, le=1000, description="what is to be told is one of the next so many events")
    apart_minutes: float = Field(
        default=0, ge=0, description="what is to be told comes more than so much later; 0 = it may be of the same visit"
    )
    new_only: bool = Field(default=True, description="learn only what a user takes for the first time")
    batch_items: int = Field(default=2048, ge=64, description="items of histories in a step")
    learning_rate: float = Field(default=0.001, gt=0, le=1, description="size of the steps of the optimizer, Adam")
    max_epochs: int = Field(default=100, ge=1, description="passes over all events at most")
    patience: int = Field(default=5, ge=1, description="passes without a gain after which it stops")
    validation_days: float = Field(
        default=14, gt=0, description="the last days before --until are asked for to know when to stop"
    )
    checkpoint_steps: int = Field(default=500, ge=1, description="steps after which what was learned is kept")
    seed: int = Field(default=0, ge=0, description="of everything random")
    threads: int = Field(default=1, ge=1, description="threads of the processor; another number may round otherwise")
    device: str = Field(default="cpu", description="where it is trained: cpu or cuda")


class TwoTowerSettings(HistoryTrainingSettings):
    """The `two_tower` section of the settings."""

    encoder: Literal["transformer", "pool"] = Field(
        default="pool", description="what reads a history: transformer, or pool, a weighted mean"
    )
    temperature: float = Field(
        default=0.07,
        ge=0,
        le=10,
        description="what cosines are divided by while it learns; 0 = products in place of cosines",
    )
