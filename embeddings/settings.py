"""Where models and embeddings are kept, and what encoding may use."""

from __future__ import annotations

from pathlib import Path

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
