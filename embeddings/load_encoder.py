"""From what an index version remembers of an encoder back to the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from embeddings import fused_encoder, image_encoder, joint_encoder, sentence_transformer_encoder, text_encoder
from embeddings.encoder import Encoder
from embeddings.fused_encoder import FusedEncoder
from embeddings.image_encoder import ImageEncoder
from embeddings.joint_encoder import JointEncoder
from embeddings.pictures import PictureLimits
from embeddings.sentence_transformer_encoder import SentenceTransformerEncoder
from embeddings.text_encoder import TextEncoder
from matching.encoder_spec import EncoderSpec
from matching.errors import InvalidInput


def load_encoder(
    spec: EncoderSpec,
    *,
    model_dir: Path | None = None,
    n_threads: int = 1,
    n_workers: int = 2,
    limits: PictureLimits | None = None,
) -> Encoder:
    """Make the encoder that a spec describes; its space_id is the one the spec was taken from.

    Args:
        spec: what `Encoder.spec` returned.
        model_dir: where exported models lie, `DEFAULT_MODEL_DIR` when None.
        n_threads: threads of one run.
        n_workers: processes that decode pictures.
        limits: what one picture may cost.

    Raises:
        InvalidInput: no encoder of that kind, or parameters it does not know.
        SpaceMismatch: the model's weights are not those the vectors were made with.
        CorruptArtifact: a model file is not the one that was exported.
        MissingExtra: a package that the encoder needs is not installed.
    """
    if spec.kind == text_encoder.KIND:
        return TextEncoder.from_spec(spec, model_dir=model_dir, n_threads=n_threads)
    if spec.kind == image_encoder.KIND:
        return ImageEncoder.from_spec(
            spec, model_dir=model_dir, n_threads=n_threads, n_workers=n_workers, limits=limits
        )
    if spec.kind == sentence_transformer_encoder.KIND:
        return SentenceTransformerEncoder.from_spec(spec, n_threads=n_threads, n_workers=n_workers, limits=limits)
    if spec.kind in (fused_encoder.KIND, joint_encoder.KIND):
        text, image = (
            load_encoder(
                _part(spec, name), model_dir=model_dir, n_threads=n_threads, n_workers=n_workers, limits=limits
            )
            for name in ("text", "image")
        )
        if spec.kind == joint_encoder.KIND:
            return JointEncoder(text, image, joint_encoder.heads_of(spec))
        return FusedEncoder(text, image, weight=cast(float, spec.params["weight"]))
    known = (
        text_encoder.KIND,
        image_encoder.KIND,
        fused_encoder.KIND,
        joint_encoder.KIND,
        sentence_transformer_encoder.KIND,
    )
    raise InvalidInput(
        f"[load encoder] there is no encoder of kind {spec.kind!r}; expected one of {', '.join(known)}; the index may come "
        "from a newer release"
    )


def _part(spec: EncoderSpec, name: str) -> EncoderSpec:
    try:
        held = cast(Mapping[str, Any], spec.params[name])
        arrays = {key[len(name) + 1 :]: array for key, array in spec.arrays.items() if key.startswith(f"{name}.")}
        return EncoderSpec(held["kind"], held["params"], arrays)
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"[load encoder] the spec of {spec.kind!r} lacks {error}; build the index again") from error
