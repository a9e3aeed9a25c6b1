"""Encoders: content in, vectors of one space out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from matching.encoder_spec import EncoderSpec
from matching.errors import InvalidContent, InvalidInput

Modality = Literal["text", "image", "fused", "joint"]
Decoded: TypeAlias = "str | NDArray[np.uint8] | tuple[str | None, NDArray[np.uint8] | None]"


@dataclass(frozen=True, slots=True)
class Content:
    """What an encoder reads: a text, the bytes of a picture file, or both."""

    text: str | None = None
    image: bytes | None = None

    def digest(self) -> bytes:
        """Return the SHA-256 of what the content holds: 32 bytes, equal only for equal contents."""
        text = None if self.text is None else self.text.encode("utf-8", "surrogatepass")
        sha = hashlib.sha256()
        for part in (text, self.image):
            sha.update(b"-" if part is None else b"+%d:" % len(part))
            sha.update(part or b"")
        return sha.digest()


class Encoder(Protocol):
    """Content of one modality into unit vectors of one space. Implementations are thread-compatible, not thread-safe.

    `encode` is `decode` and then `encode_decoded`; a pipeline calls the two itself, so that one batch is decoded while the
    one before it is encoded. `decode` may run on another thread than `encode_decoded`.
    """

    @property
    def modality(self) -> Modality: ...

    @property
    def accepts(self) -> frozenset[str]:
        """What a content may bring: "text", "image" or both. One of them is enough."""

    @property
    def dim(self) -> int: ...

    @property
    def best_of(self) -> int:
        """How many of an item's nearest vectors make its distance; 1 where an item owns one vector."""

    @property
    def space_id(self) -> str:
        """Digest of weights, preprocessing, fitted arrays and normalisation; equal ids mean comparable vectors."""

    @property
    def vector_id(self) -> str:
        """Digest of what decides the output of `encode` alone; a cache of vectors goes by it."""

    def encode(self, contents: Sequence[Content]) -> NDArray[np.float32]:
        """Return float32[n, dim] of unit norm, row i for contents[i].

        Raises:
            InvalidContent: a content lacks the modality, or its picture cannot be decoded; names the position.
        """

    def decode(self, contents: Sequence[Content]) -> list[Decoded | InvalidContent]:
        """Check and decode each content; what cannot be encoded becomes the error that says why, without a position."""

    def encode_decoded(self, decoded: Sequence[Decoded]) -> NDArray[np.float32]:
        """Return float32[n, dim] of unit norm for what `decode` made."""

    def spec(self) -> EncoderSpec:
        """Return what `load_encoder` needs to make this encoder again."""

    def close(self) -> None:
        """Let go of processes and memory. The encoder is not used after that; a second call does nothing."""


def digest_of(kind: str, params: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]] | None = None) -> str:
    """Return 32 hex digits over a kind of encoder, its JSON parameters and its arrays: the same in every process."""
    sha = hashlib.sha256(json.dumps([kind, params], sort_keys=True, separators=(",", ":")).encode())
    for name, array in sorted((arrays or {}).items()):
        held = np.ascontiguousarray(array)
        sha.update(f"{name}|{held.dtype.str}|{held.shape}|".encode())
        sha.update(held.tobytes())
    return sha.hexdigest()[:32]


def all_decoded(decoded: Sequence[Decoded | InvalidContent]) -> list[Decoded]:
    """Return `decoded` when nothing in it is an error.

    Raises:
        InvalidContent: an entry is an error; names the first one's position.
    """
    good: list[Decoded] = []
    for position, entry in enumerate(decoded):
        if isinstance(entry, InvalidContent):
            raise InvalidContent(f"[encode] content {position}: {entry}")
        good.append(entry)
    return good


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number out of its range.

    Raises:
        InvalidInput: value is not in low .. high.
    """
    if not low <= value <= high:
        raise InvalidInput(f"[encoder] {name} is {value}; expected {low} to {high}")
