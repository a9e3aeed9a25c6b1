"""Encoders: content in, vectors of one space out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Modality = Literal["text", "image", "fused"]


@dataclass(frozen=True, slots=True)
class Content:
    """What an encoder reads: a text, the bytes of a picture file, or both."""

    text: str | None = None
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """All that is needed to make the same encoder again, as an index version keeps it.

    Attributes:
        kind: names the encoder class to `embeddings.load_encoder`.
        params: JSON values only: model name or path, its digest, pooling, weights.
        arrays: fitted parameters (whitening matrix, inverse document frequencies), by name.
    """

    kind: str
    params: Mapping[str, object]
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


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
