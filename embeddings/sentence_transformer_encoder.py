"""Any model that the sentence-transformers library runs: text models, and CLIP-type ones with texts and pictures in one space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Content, Decoded, Modality, all_decoded, check_between, digest_of
from embeddings.image_encoder import decoded_pictures
from embeddings.pictures import Framing, PictureDecoder, PictureLimits
from embeddings.text_encoder import checked_text
from matching.encoder_spec import EncoderSpec
from matching.errors import InvalidContent, InvalidInput, MissingExtra, SpaceMismatch

KIND = "sentence-transformers"
_BEST_OF = 3
_DEFAULT_SIDE = 224


class SentenceTransformerEncoder:
    """A model by local path or by name, run by sentence-transformers on torch.

    A model of texts and pictures takes either: a content with a picture is encoded by its picture, else by its text, into the one
    space they share. Weights are read from safetensors alone and no code of the model is run. Thread-compatible.

    Args:
        model: a folder, or a name that the library resolves (it may download).
        n_threads: torch threads, of the whole process.
        n_workers: processes that decode pictures, for models that take them.
        limits: what one picture may cost.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        InvalidInput: the model cannot be loaded, or takes neither texts nor pictures.
    """

    def __init__(
        self, model: str, *, n_threads: int = 1, n_workers: int = 2, limits: PictureLimits | None = None
    ) -> None:
        check_between("n_threads", n_threads, 1, 1024)
        self._name = model
        self._model = _load(model, n_threads)
        self._accepts = frozenset(self._model.modalities) & {"text", "image"}
        if not self._accepts:
            raise InvalidInput(
                f"[load model] {model} takes {', '.join(map(str, self._model.modalities))}; expected a model of texts or pictures"
            )
        self._dim = int(self._model.get_embedding_dimension())
        self._decoder: PictureDecoder | None = None
        self._side = _side(self._model)
        if "image" in self._accepts:
            self._decoder = PictureDecoder(Framing(size=self._side), n_workers=n_workers, limits=limits)
        self._weights = _weights_digest(self._model)
        self._vector_id = digest_of(KIND, {"weights": self._weights, "side": self._side, "norm": "l2", "recipe": 1})

    @classmethod
    def from_spec(
        cls, spec: EncoderSpec, *, n_threads: int = 1, n_workers: int = 2, limits: PictureLimits | None = None
    ) -> SentenceTransformerEncoder:
        """Make the encoder that a spec describes.

        Raises:
            SpaceMismatch: what lies at the model's path is no longer the model that the spec was made with.
            InvalidInput: the model cannot be loaded.
            MissingExtra: sentence-transformers is not installed.
        """
        encoder = cls(cast(str, spec.params["model"]), n_threads=n_threads, n_workers=n_workers, limits=limits)
        if encoder._weights != spec.params["weights_sha256"]:
            encoder.close()
            raise SpaceMismatch(
                f"[load encoder] the vectors were made by {encoder._name} with weights "
                f"{str(spec.params['weights_sha256'])[:12]}, and now it has "
                f"{encoder._weights[:12]}; expected the same weights; restore the model, or build the index again"
            )
        return encoder

    @property
    def modality(self) -> Modality:
        return "image" if "image" in self._accepts else "text"

    @property
    def accepts(self) -> frozenset[str]:
        return self._accepts

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def best_of(self) -> int:
        return _BEST_OF if self.modality == "image" else 1

    @property
    def space_id(self) -> str:
        return self._vector_id

    @property
    def vector_id(self) -> str:
        return self._vector_id

    def encode(self, contents: Sequence[Content]) -> NDArray[np.float32]:
        return self.encode_decoded(all_decoded(self.decode(contents)))

    def decode(self, contents: Sequence[Content]) -> list[Decoded | InvalidContent]:
        decoded: list[Decoded | InvalidContent] = [checked_text(content) for content in contents]
        if self._decoder is None:
            return decoded
        pictured = [
            at for at, content in enumerate(contents) if content.image is not None or "text" not in self._accepts
        ]
        for at, square in zip(
            pictured, decoded_pictures(self._decoder, [contents[at] for at in pictured]), strict=True
        ):
            decoded[at] = square
        return decoded

    def encode_decoded(self, decoded: Sequence[Decoded]) -> NDArray[np.float32]:
        out = np.empty((len(decoded), self._dim), np.float32)
        for kind in (str, np.ndarray):
            rows = [at for at, content in enumerate(decoded) if isinstance(content, kind)]
            if rows:
                inputs = [_as_input(decoded[row]) for row in rows]
                out[rows] = self._model.encode(inputs, normalize_embeddings=True, show_progress_bar=False)
        return out

    def spec(self) -> EncoderSpec:
        return EncoderSpec(KIND, {"model": self._name, "weights_sha256": self._weights})

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()


def _load(name: str, n_threads: int) -> Any:
    try:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra(
            f"[load model] {name} runs on sentence-transformers, which is not installed; expected the extra 'models'; run: pip "
            "install 'likewise[encode,models]'"
        ) from error
    torch.set_num_threads(n_threads)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(name, device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except Exception as error:  # the library raises whatever its parts raise
        raise InvalidInput(
            f"[load model] sentence-transformers cannot load {name!r}: {str(error)[:300]}; expected a model folder or a name it "
            "knows, with weights in safetensors"
        ) from error
    model.eval()
    config = getattr(model[0], "config", None)
    config = getattr(config, "text_config", config)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and (model.max_seq_length or positions) > positions:
        model.max_seq_length = positions  # a tokenizer without a limit of its own
    return model


def _side(model: Any) -> int:
    processor = getattr(getattr(model[0], "processor", None), "image_processor", None)
    for name in ("crop_size", "size"):
        held = getattr(processor, name, None)
        try:
            sides = dict(held) if held is not None else {}
        except (TypeError, ValueError):
            continue
        numbers = [side for side in sides.values() if isinstance(side, int)]
        if numbers:
            return max(numbers)
    return _DEFAULT_SIDE


def _weights_digest(model: Any) -> str:
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        held = tensor.detach().cpu().contiguous()
        sha.update(f"{name}|{held.dtype}|{tuple(held.shape)}|".encode())
        sha.update(held.flatten().view(torch.uint8).numpy().tobytes())
    tokenizer = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    sha.update(b"" if tokenizer is None else tokenizer.to_str().encode())
    sha.update(repr((model.max_seq_length, model.prompts, model.default_prompt_name)).encode())
    return sha.hexdigest()


def _as_input(content: Decoded) -> Any:
    if isinstance(content, str):
        return content
    from PIL import Image

    return Image.fromarray(cast(NDArray[np.uint8], content))
