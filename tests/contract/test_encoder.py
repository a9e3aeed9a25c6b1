"""What every encoder promises, asked of each of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from embeddings import (
    Content,
    Encoder,
    FusedEncoder,
    ImageEncoder,
    JointEncoder,
    SentenceTransformerEncoder,
    TextEncoder,
    embed,
    load_encoder,
)
from embeddings.joint_heads import JointHeads
from matching.errors import InvalidContent
from tests.models import picture, random_features, save_tiny_clip, save_tiny_text_model

pytest.importorskip("onnxruntime")
pytest.importorskip("torch", reason="the models are exported with torch")

TEXTS = (
    "Sony Turntable - PSLX350H",
    "a red dress",
    "Zucchini",
    "Bose Acoustimass 5 Series III Speaker System - AM53BK " * 3,
)
KINDS = ("text", "text fitted", "image", "image fitted", "fused", "joint", "text by path", "clip by path")


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Encoder]]:
    """Make each kind of encoder once."""
    made: dict[str, Encoder] = {}

    def build(kind: str) -> Encoder:
        match kind:
            case "text":
                return TextEncoder()
            case "text fitted":
                return TextEncoder().fit(TEXTS)
            case "image":
                return ImageEncoder(n_workers=1)
            case "image fitted":
                return ImageEncoder(n_workers=1).fit(random_features(600, np.random.default_rng(3)))
            case "fused":
                return FusedEncoder(get("text fitted"), get("image fitted"), weight=0.3)
            case "joint":
                rng = np.random.default_rng(4)
                shapes = ((384,), (384, 48), (512,), (512, 48))
                heads = JointHeads(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))
                return JointEncoder(get("text fitted"), get("image fitted"), heads)
            case "text by path":
                return SentenceTransformerEncoder(str(save_tiny_text_model(tmp_path_factory.mktemp("text") / "tiny")))
            case _:
                return SentenceTransformerEncoder(
                    str(save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")), n_workers=1
                )

    def get(kind: str) -> Encoder:
        if kind not in made:
            made[kind] = build(kind)
        return made[kind]

    yield get
    for encoder in made.values():
        encoder.close()


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest, make: Callable[[str], Encoder]) -> Encoder:
    return make(request.param)


def contents_for(encoder: Encoder) -> list[Content]:
    """Twelve different contents of all kinds that the encoder accepts."""
    found = []
    if "text" in encoder.accepts:
        found += [Content(text) for text in TEXTS] + [Content(f"item number {n} " + "x" * n) for n in range(4)]
    if "image" in encoder.accepts:
        found += [Content(image=picture(seed, form=form)) for seed, form in enumerate(("PNG", "JPEG", "WEBP", "PNG"))]
    if encoder.modality == "fused":
        found += [Content(text, picture(seed + 9)) for seed, text in enumerate(TEXTS)]
    return found


def test_vectors_are_unit_rows_in_the_order_of_the_contents(encoder: Encoder) -> None:
    contents = contents_for(encoder)
    vectors = encoder.encode(contents)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(contents), encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    backwards = encoder.encode(contents[::-1])[::-1]
    np.testing.assert_allclose(backwards, vectors, atol=2e-5)
    assert (np.abs(vectors[:, None] - vectors[None]).max(axis=2)[~np.eye(len(vectors), dtype=bool)] > 1e-4).all()


def test_a_vector_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    contents = contents_for(encoder)
    together = encoder.encode(contents)
    alone = np.concatenate([encoder.encode([content]) for content in contents])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_the_same_batch_gives_the_same_bytes(encoder: Encoder) -> None:
    contents = contents_for(encoder)
    assert encoder.encode(contents).tobytes() == encoder.encode(contents).tobytes()


def test_an_empty_batch_has_the_same_shape(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dim)
    assert encoder.encode([]).dtype == np.float32


def test_a_content_without_the_modality_is_refused_by_position(encoder: Encoder) -> None:
    good = contents_for(encoder)[:2]
    with pytest.raises(InvalidContent, match=r"\[encode\] content 2: .*expected"):
        encoder.encode([*good, Content(), *good])


def test_a_bad_text_or_picture_is_refused_by_position_and_alone(encoder: Encoder) -> None:
    good = contents_for(encoder)[0]
    bad = []
    if "text" in encoder.accepts:
        bad += [Content("  \n"), Content("broken \ud800 surrogate")]
    if "image" in encoder.accepts:
        bad += [Content(image=b""), Content(image=b"GIF89a" + bytes(50)), Content(image=picture()[:60])]
    for wrong in bad:
        with pytest.raises(InvalidContent, match=r"\[encode\] content 1: its (text|picture)"):
            encoder.encode([good, wrong])
        (done,) = embed([[good, wrong, good]], encoder)
        assert done.positions.tolist() == [0, 2]
        assert [failure.position for failure in done.failures] == [1]


def test_a_spec_makes_the_same_encoder_again(encoder: Encoder) -> None:
    spec = encoder.spec()
    again = load_encoder(spec, n_workers=1)
    try:
        assert again.space_id == encoder.space_id
        assert again.vector_id == encoder.vector_id
        assert (again.modality, again.dim, again.best_of, again.accepts) == (
            encoder.modality,
            encoder.dim,
            encoder.best_of,
            encoder.accepts,
        )
        contents = contents_for(encoder)
        np.testing.assert_allclose(again.encode(contents), encoder.encode(contents), atol=1e-6)
    finally:
        again.close()


def test_the_parameters_of_a_spec_are_json(encoder: Encoder) -> None:
    import json

    spec = encoder.spec()
    assert json.loads(json.dumps(dict(spec.params))) == dict(spec.params)
    assert all(isinstance(array, np.ndarray) for array in spec.arrays.values())


def test_spaces_differ_by_kind_and_by_what_was_fitted(make: Callable[[str], Encoder]) -> None:
    ids = [make(kind).space_id for kind in KINDS]
    assert len(set(ids)) == len(ids)
    assert make("text fitted").vector_id == make("text").vector_id, (
        "fitting the sparse side keeps the dense vectors valid"
    )


def test_a_space_id_is_the_same_in_another_process(make: Callable[[str], Encoder]) -> None:
    code = (
        "from embeddings import ImageEncoder, TextEncoder\n"
        f"texts = {TEXTS!r}\n"
        "text, image = TextEncoder(), ImageEncoder()\n"
        "print(text.space_id, text.fit(texts).space_id, image.space_id)\n"
        "print(text.fit(texts).sparse(texts).values.tobytes().hex())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    ids, values = run.stdout.splitlines()
    assert ids.split() == [make(kind).space_id for kind in ("text", "text fitted", "image")]
    fitted = make("text fitted")
    assert isinstance(fitted, TextEncoder)
    assert values == fitted.sparse(TEXTS).values.tobytes().hex()


def test_a_closed_encoder_closes_twice(make: Callable[[str], Encoder]) -> None:
    encoder = ImageEncoder(n_workers=1)
    encoder.encode([Content(image=picture())])
    encoder.close()
    encoder.close()
