"""Texts and pictures in one space, by heads that were learned on a catalogue's own pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Content, Decoded, Encoder, Modality, all_decoded, digest_of
from embeddings.joint_heads import JointHeads
from matching.encoder_spec import EncoderSpec
from matching.errors import InvalidContent, InvalidInput

KIND = "joint"
_ARRAYS = ("text_mean", "text", "image_mean", "image")


class JointEncoder:
    """A text encoder and a picture encoder, each behind its head. A content with a picture is encoded by it, else by its text.

    Thread-compatible.

    Args:
        text: encoder of the texts.
        image: encoder of the pictures.
        heads: from their vectors into the joint space.

    Raises:
        InvalidInput: the heads are of other lengths than the encoders' vectors.
    """

    def __init__(self, text: Encoder, image: Encoder, heads: JointHeads) -> None:
        expected = (text.dim, image.dim)
        if (len(heads.text), len(heads.image)) != expected:
            raise InvalidInput(
                f"[joint encoder] heads take vectors of {len(heads.text)} and {len(heads.image)} numbers, the encoders make "
                f"{expected[0]} and {expected[1]}; build the index again"
            )
        self._text, self._image, self._heads = text, image, heads
        arrays = {name: getattr(heads, name) for name in _ARRAYS}
        # The text's sparse side has no part in this space.
        self._space_id = digest_of(KIND, {"text": text.vector_id, "image": image.vector_id, "recipe": 1}, arrays)

    @property
    def modality(self) -> Modality:
        return "joint"

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"text", "image"})

    @property
    def dim(self) -> int:
        return self._heads.dim

    @property
    def best_of(self) -> int:
        return 1

    @property
    def space_id(self) -> str:
        return self._space_id

    @property
    def vector_id(self) -> str:
        return self._space_id

    @property
    def heads(self) -> JointHeads:
        """From the encoders' vectors into the joint space."""
        return self._heads

    def encode(self, contents: Sequence[Content]) -> NDArray[np.float32]:
        return self.encode_decoded(all_decoded(self.decode(contents)))

    def decode(self, contents: Sequence[Content]) -> list[Decoded | InvalidContent]:
        pictured = [content.image is not None for content in contents]
        pictures = iter(self._image.decode([each for each, is_picture in zip(contents, pictured) if is_picture]))
        texts = iter(self._text.decode([each for each, is_picture in zip(contents, pictured) if not is_picture]))
        return [next(pictures) if is_picture else next(texts) for is_picture in pictured]

    def encode_decoded(self, decoded: Sequence[Decoded]) -> NDArray[np.float32]:
        is_text = np.array([isinstance(content, str) for content in decoded], bool)
        out = np.empty((len(decoded), self.dim), np.float32)
        if is_text.any():
            out[is_text] = self._heads.texts(
                self._text.encode_decoded([each for each in decoded if isinstance(each, str)])
            )
        if not is_text.all():
            pictures = [each for each in decoded if not isinstance(each, str)]
            out[~is_text] = self._heads.pictures(self._image.encode_decoded(pictures))
        return out

    def spec(self) -> EncoderSpec:
        params: dict[str, object] = {}
        arrays: dict[str, NDArray[np.generic]] = {f"heads.{name}": getattr(self._heads, name) for name in _ARRAYS}
        for name, part in (("text", self._text.spec()), ("image", self._image.spec())):
            params[name] = {"kind": part.kind, "params": dict(part.params)}
            arrays |= {f"{name}.{key}": array for key, array in part.arrays.items()}
        return EncoderSpec(KIND, params, arrays)

    def close(self) -> None:
        self._text.close()
        self._image.close()


def heads_of(spec: EncoderSpec) -> JointHeads:
    """Return the heads that a spec of a joint encoder holds.

    Raises:
        InvalidInput: it lacks one, or their shapes do not go together.
    """
    try:
        return JointHeads(*(np.ascontiguousarray(spec.arrays[f"heads.{name}"], np.float32) for name in _ARRAYS))
    except KeyError as error:
        raise InvalidInput(f"[load encoder] the spec of {KIND!r} lacks {error}; build the index again") from error
