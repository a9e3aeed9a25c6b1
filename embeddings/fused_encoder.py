"""Text and picture of one item side by side in one space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Content, Decoded, Encoder, Modality, all_decoded, check_between, digest_of
from matching.encoder_spec import EncoderSpec
from matching.errors import InvalidContent, InvalidInput

KIND = "fused"
DEFAULT_WEIGHT = 0.5


class FusedEncoder:
    """The block sqrt(weight) * text beside the block sqrt(1 - weight) * picture, of unit norm.

    Between two items that have both, the cosine is weight * cos(texts) + (1 - weight) * cos(pictures). What lacks one of the two
    has zeros in its block and fills the rest: against an item with both, a query of text alone scores sqrt(weight) * cos(texts),
    so it ranks those items as the text space does; against an item of text alone it scores cos(texts). A query of text alone and
    an item of a picture alone have cosine 0. Thread-compatible.

    Args:
        text: encoder of the texts.
        image: encoder of the pictures.
        weight: share of the text, 0 < weight < 1.

    Raises:
        InvalidInput: weight is not between 0 and 1.
    """

    def __init__(self, text: Encoder, image: Encoder, *, weight: float = DEFAULT_WEIGHT) -> None:
        check_between("weight", weight, 0.001, 0.999)
        self._text, self._image, self._weight = text, image, float(weight)

    @property
    def modality(self) -> Modality:
        return "fused"

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"text", "image"})

    @property
    def dim(self) -> int:
        return self._text.dim + self._image.dim

    @property
    def best_of(self) -> int:
        return 1

    @property
    def weight(self) -> float:
        """Share of the text."""
        return self._weight

    @property
    def text(self) -> Encoder:
        """The encoder of the texts."""
        return self._text

    @property
    def image(self) -> Encoder:
        """The encoder of the pictures."""
        return self._image

    @property
    def space_id(self) -> str:
        # The text's sparse side has no part in this space.
        return digest_of(KIND, {"weight": self._weight, "text": self._text.vector_id, "image": self._image.vector_id})

    @property
    def vector_id(self) -> str:
        return self.space_id

    def encode(self, contents: Sequence[Content]) -> NDArray[np.float32]:
        return self.encode_decoded(all_decoded(self.decode(contents)))

    def decode(self, contents: Sequence[Content]) -> list[Decoded | InvalidContent]:
        texts = iter(self._text.decode([content for content in contents if content.text is not None]))
        images = iter(self._image.decode([content for content in contents if content.image is not None]))
        decoded: list[Decoded | InvalidContent] = []
        for content in contents:
            text = None if content.text is None else next(texts)
            image = None if content.image is None else next(images)
            wrong = next((part for part in (text, image) if isinstance(part, InvalidContent)), None)
            if wrong is not None:
                decoded.append(wrong)
            elif text is None and image is None:
                decoded.append(InvalidContent("it has neither text nor picture; expected one of them; leave it out"))
            else:
                decoded.append(cast(Decoded, (text, image)))
        return decoded

    def encode_decoded(self, decoded: Sequence[Decoded]) -> NDArray[np.float32]:
        pairs = cast(Sequence[tuple[str | None, NDArray[np.uint8] | None]], decoded)
        has_text = np.array([text is not None for text, _ in pairs], bool)
        has_image = np.array([image is not None for _, image in pairs], bool)
        texts = np.zeros((len(pairs), self._text.dim), np.float32)
        images = np.zeros((len(pairs), self._image.dim), np.float32)
        if has_text.any():
            texts[has_text] = self._text.encode_decoded([text for text, _ in pairs if text is not None])
        if has_image.any():
            images[has_image] = self._image.encode_decoded([image for _, image in pairs if image is not None])
        return self.combine(texts, images, has_text, has_image)

    def combine(
        self,
        text_vectors: NDArray[np.float32],
        image_vectors: NDArray[np.float32],
        has_text: NDArray[np.bool_],
        has_image: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Join vectors of the two spaces row by row.

        Args:
            text_vectors: float32[n, text.dim]; rows without text are not read.
            image_vectors: float32[n, image.dim]; rows without a picture are not read. Of several pictures, give their mean: its
                length does not matter.
            has_text: bool[n].
            has_image: bool[n].

        Returns:
            float32[n, dim] of unit norm.

        Raises:
            InvalidContent: a row has neither; names the first.
            InvalidInput: the shapes do not go together.
        """
        n = len(has_text)
        got = (text_vectors.shape, image_vectors.shape, np.shape(has_text), np.shape(has_image))
        expected = ((n, self._text.dim), (n, self._image.dim), (n,), (n,))
        if got != expected:
            raise InvalidInput(f"[fuse] texts, pictures and their flags have shapes {got}; expected {expected}")
        text = _unit(np.where(has_text[:, None], text_vectors, 0.0)) * math.sqrt(self._weight)
        image = _unit(np.where(has_image[:, None], image_vectors, 0.0)) * math.sqrt(1.0 - self._weight)
        joined = np.concatenate([text, image], axis=1)
        empty = ~joined.any(axis=1)
        if empty.any():
            raise InvalidContent(
                f"[fuse] content {int(empty.argmax())} has neither text nor picture; expected one of them; leave it out"
            )
        return _unit(joined).astype(np.float32)

    def spec(self) -> EncoderSpec:
        parts = {"text": self._text.spec(), "image": self._image.spec()}
        params: dict[str, object] = {"weight": self._weight}
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, part in parts.items():
            params[name] = {"kind": part.kind, "params": dict(part.params)}
            arrays |= {f"{name}.{key}": array for key, array in part.arrays.items()}
        return EncoderSpec(KIND, params, arrays)

    def close(self) -> None:
        self._text.close()
        self._image.close()


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows / np.where(norms == 0.0, 1.0, norms)
