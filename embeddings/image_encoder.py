"""Pictures: EfficientNet-Lite0's pooled features, partly whitened on the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Content, Decoded, Modality, all_decoded, check_between, digest_of
from embeddings.model_file import EFFICIENTNET_LITE0, check_weights, ensure_model
from embeddings.onnx_model import OnnxModel
from embeddings.pictures import Framing, PictureDecoder, PictureLimits
from matching.encoder_spec import EncoderSpec
from matching.errors import InvalidContent, InvalidInput

KIND = "efficientnet-lite0"
N_FEATURES = 1280
WHITENED_DIM = 512
FEWEST_PICTURES = 512
_BEST_OF = 3
# The network's own recipe: the centre 224/256 of the shorter side. Measured best here too: see docs/encoders.md.
_FRAMING = Framing(size=224, crop=0.875)
_EXPONENT = 0.35  # of the variance; 0.5 would whiten fully and let noise speak, 0 would only turn the axes
_PICTURES_A_RUN = 8
_ROWS_A_PASS = 8192


class ImageEncoder:
    """EfficientNet-Lite0 through ONNX Runtime, its pictures decoded in bounded processes.

    Unfitted, its space is that of the 1,280 pooled features. `fit` gives the encoder of a smaller, better space: features minus
    the catalogue's mean, turned onto its 512 strongest principal axes, each divided by variance ** 0.35. Thread-compatible.

    Args:
        model_dir: where exported models lie, `DEFAULT_MODEL_DIR` when None.
        n_threads: threads of one run.
        n_workers: processes that decode.
        limits: what one picture may cost.
        mean: float32[1280], set by `fit`.
        axes: float32[1280, d], set by `fit`.

    Raises:
        InvalidInput: a number out of its range, or mean and axes that do not go together.
        MissingExtra: onnxruntime is missing, or the model must be exported and torch is missing.
        CorruptArtifact: a model file is not the one that was exported.
    """

    def __init__(
        self,
        *,
        model_dir: Path | None = None,
        n_threads: int = 1,
        n_workers: int = 2,
        limits: PictureLimits | None = None,
        mean: NDArray[np.float32] | None = None,
        axes: NDArray[np.float32] | None = None,
        _shared: tuple[OnnxModel, PictureDecoder] | None = None,
    ) -> None:
        check_between("n_threads", n_threads, 1, 1024)
        check_between("n_workers", n_workers, 1, 1024)
        if (mean is None) != (axes is None) or (
            mean is not None and axes is not None and (mean.shape != (N_FEATURES,) or axes.shape[:1] != (N_FEATURES,))
        ):
            raise InvalidInput(
                f"[image encoder] whitening has mean {None if mean is None else mean.shape} and axes "
                f"{None if axes is None else axes.shape}; expected ({N_FEATURES},) and ({N_FEATURES}, d), or neither"
            )
        self._mean, self._axes = mean, axes
        self._model, self._decoder = _shared or (
            OnnxModel(ensure_model(EFFICIENTNET_LITE0, model_dir).onnx, n_threads=n_threads),
            PictureDecoder(_FRAMING, n_workers=n_workers, limits=limits),
        )
        arrays = {} if mean is None or axes is None else {"mean": mean, "axes": axes}
        self._space_id = digest_of(KIND, _recipe(), arrays)

    @classmethod
    def from_spec(
        cls,
        spec: EncoderSpec,
        *,
        model_dir: Path | None = None,
        n_threads: int = 1,
        n_workers: int = 2,
        limits: PictureLimits | None = None,
    ) -> ImageEncoder:
        """Make the encoder that a spec describes.

        Raises:
            SpaceMismatch: the spec was made with other weights.
            InvalidInput: its parameters are not those of this encoder.
        """
        check_weights(EFFICIENTNET_LITE0, spec.params.get("weights_sha256"))
        if dict(spec.params) != _recipe():
            raise InvalidInput(
                f"[load encoder] the spec of {KIND!r} holds {dict(spec.params)}; expected {_recipe()}; build the index "
                "again with this release"
            )
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in spec.arrays.items()}
        return cls(
            model_dir=model_dir,
            n_threads=n_threads,
            n_workers=n_workers,
            limits=limits,
            mean=arrays.get("mean"),
            axes=arrays.get("axes"),
        )

    @property
    def modality(self) -> Modality:
        return "image"

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"image"})

    @property
    def dim(self) -> int:
        return N_FEATURES if self._axes is None else self._axes.shape[1]

    @property
    def best_of(self) -> int:
        return _BEST_OF

    @property
    def is_fitted(self) -> bool:
        """Whether the space is the whitened one."""
        return self._axes is not None

    @property
    def space_id(self) -> str:
        return self._space_id

    @property
    def vector_id(self) -> str:
        return self._space_id

    def encode(self, contents: Sequence[Content]) -> NDArray[np.float32]:
        return self.encode_decoded(all_decoded(self.decode(contents)))

    def decode(self, contents: Sequence[Content]) -> list[Decoded | InvalidContent]:
        return decoded_pictures(self._decoder, contents)

    def encode_decoded(self, decoded: Sequence[Decoded]) -> NDArray[np.float32]:
        features = self._features(cast(Sequence[NDArray[np.uint8]], decoded))
        return features if self._axes is None else self.project(features)

    def features(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Return float32[n, 1280] of unit norm for picture files, whether fitted or not.

        Raises:
            InvalidContent: a picture cannot be decoded; names the position.
        """
        decoded = all_decoded(self.decode([Content(image=image) for image in images]))
        return self._features(cast(Sequence[NDArray[np.uint8]], decoded))

    def fit(self, features: NDArray[np.float32]) -> ImageEncoder:
        """Return the whitened encoder for a catalogue's features, float32[n, 1280], which may be memory-mapped.

        Fewer than 512 pictures say too little of 512 axes: the encoder is returned unfitted. Model and workers are shared with
        this encoder, and closed with either.

        Raises:
            InvalidInput: features have another shape or hold a number that is not finite.
        """
        check_features(features)
        if len(features) < FEWEST_PICTURES:
            return ImageEncoder(_shared=(self._model, self._decoder))
        mean, axes = _whitening(features)
        return ImageEncoder(mean=mean, axes=axes, _shared=(self._model, self._decoder))

    def project(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32[n, dim] of unit norm for features float32[n, 1280]; without fitting, a copy.

        Raises:
            InvalidInput: features have another shape or hold a number that is not finite.
        """
        check_features(features)
        if self._mean is None or self._axes is None:
            return np.array(features, np.float32)
        out = np.empty((len(features), self.dim), np.float32)
        for begin in range(0, len(features), _ROWS_A_PASS):
            part = (features[begin : begin + _ROWS_A_PASS] - self._mean) @ self._axes
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            # A picture that is exactly the mean of the catalogue has no direction; the first axis stands for it.
            part[norms[:, 0] == 0.0, 0] = 1.0
            out[begin : begin + _ROWS_A_PASS] = part / np.where(norms == 0.0, 1.0, norms)
        return out

    def spec(self) -> EncoderSpec:
        arrays: dict[str, NDArray[np.generic]] = {}
        if self._mean is not None and self._axes is not None:
            arrays = {"mean": self._mean, "axes": self._axes}
        return EncoderSpec(KIND, _recipe(), arrays)

    def close(self) -> None:
        self._decoder.close()

    def _features(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        out = np.empty((len(pictures), N_FEATURES), np.float32)
        for begin in range(0, len(pictures), _PICTURES_A_RUN):
            batch = np.stack(pictures[begin : begin + _PICTURES_A_RUN])
            out[begin : begin + _PICTURES_A_RUN] = self._model.run({"pictures": batch})
        return out


def decoded_pictures(decoder: PictureDecoder, contents: Sequence[Content]) -> list[Decoded | InvalidContent]:
    """Return each content's picture as uint8[size, size, 3], or the error that says why it has none."""
    held = [content.image for content in contents if content.image is not None]
    squares = iter(decoder.decode(held) if held else [])
    missing = InvalidContent("it has no picture; expected one; leave it out")
    return [missing if content.image is None else next(squares) for content in contents]


def check_features(features: NDArray[np.float32]) -> None:
    """Refuse what is no finite float[n, 1280].

    Raises:
        InvalidInput: it is not.
    """
    if features.ndim != 2 or features.shape[1] != N_FEATURES:
        raise InvalidInput(f"[image encoder] features have shape {features.shape}; expected (n, {N_FEATURES})")
    for begin in range(0, len(features), _ROWS_A_PASS):
        finite = np.isfinite(features[begin : begin + _ROWS_A_PASS]).all(axis=1)
        if not finite.all():
            raise InvalidInput(
                f"[image encoder] features row {begin + int(np.argmin(finite))} holds a number that is not finite; expected the "
                "output of features()"
            )


def _whitening(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    parts = range(0, len(features), _ROWS_A_PASS)
    mean = sum(features[at : at + _ROWS_A_PASS].sum(axis=0, dtype=np.float64) for at in parts) / len(features)
    covariance = np.zeros((N_FEATURES, N_FEATURES))
    for at in parts:
        centred = features[at : at + _ROWS_A_PASS].astype(np.float64) - mean
        covariance += centred.T @ centred
    variance, axes = np.linalg.eigh(covariance / (len(features) - 1))
    variance, axes = variance[::-1][:WHITENED_DIM], axes[:, ::-1][:, :WHITENED_DIM]
    spread = variance > variance[0] * 1e-6  # pictures that are all alike span fewer axes
    if not spread.any():
        spread[0] = True
        variance = np.maximum(variance, 1.0)
    variance, axes = variance[spread], axes[:, spread]
    # An eigenvector's sign is free; its largest part is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return mean.astype(np.float32), (axes * variance**-_EXPONENT).astype(np.float32)


def _recipe() -> dict[str, object]:
    return {
        "model": EFFICIENTNET_LITE0.name,
        "weights_sha256": EFFICIENTNET_LITE0.weights_sha256,
        "size": _FRAMING.size,
        "crop": _FRAMING.crop,
        "resample": "bicubic",
        "background": "white",
        "scale": "(x - 127) / 128",
        "pooling": "mean",
        "norm": "l2",
        "exponent": _EXPONENT,
        "best_of": _BEST_OF,
        "recipe": 1,
    }
