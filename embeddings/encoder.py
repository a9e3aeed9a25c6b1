"""Encoders: content in, vectors of one space out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from matching.encoder_spec import EncoderSpec

Modality = Literal["text", "image", "fused"]


@dataclass(frozen=True, slots=True)
class Content:
    """What an encoder reads: a text, the bytes of a picture file, or both."""

    text: str | None = None
    image: bytes | None = None


class Encoder(Protocol):
    """Content of one modality into unit vectors of one space. Implementations are thread-compatible, not thread-safe."""

    @property
    def modality(self) -> Modality: ...

    @property
    def dim(self) -> int: ...

    @property
    def space_id(self) -> str:
        """Digest of weights, preprocessing, fitted arrays and normalisation; equal ids mean comparable vectors."""

    def encode(self, contents: Sequence[Content]) -> NDArray[np.float32]:
        """Return float32[n, dim] of unit norm, row i for contents[i].

        Raises:
            InvalidContent: a content lacks the modality, or its picture cannot be decoded; names the position.
        """

    def spec(self) -> EncoderSpec:
        """Return what `load_encoder` needs to make this encoder again."""
