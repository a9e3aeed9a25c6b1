"""Text and picture in one space: the weighting, and items that lack one of the two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings import Content, FusedEncoder, ImageEncoder, TextEncoder
from matching.errors import InvalidContent, InvalidInput
from tests.models import picture

pytest.importorskip("onnxruntime")
pytest.importorskip("torch", reason="the models are exported with torch")

YES, NO = np.array([True]), np.array([False])


@pytest.fixture(scope="module")
def fused() -> Iterator[FusedEncoder]:
    made = FusedEncoder(TextEncoder(), ImageEncoder(n_workers=1), weight=0.3)
    yield made
    made.close()


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = rng.normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_items_with_both_score_the_weighted_sum_of_the_two_cosines(fused: FusedEncoder) -> None:
    contents = [Content(f"item {n}", picture(n)) for n in range(4)]
    joined = fused.encode(contents)
    texts = fused.text.encode([Content(content.text) for content in contents])
    images = fused.image.encode([Content(image=content.image) for content in contents])
    np.testing.assert_allclose(joined @ joined.T, 0.3 * texts @ texts.T + 0.7 * images @ images.T, atol=1e-5)


def test_a_query_of_one_kind_ranks_whole_items_as_its_own_space_does(fused: FusedEncoder) -> None:
    items = [Content(f"item {n} is {name}", picture(n)) for n, name in enumerate(("red", "a turntable", "a lamp"))]
    index = fused.encode(items)
    query = fused.encode([Content("turntable"), Content(image=picture(2))])
    texts = fused.text.encode([Content(item.text) for item in items])
    images = fused.image.encode([Content(image=item.image) for item in items])
    np.testing.assert_allclose(
        index @ query[0], np.sqrt(0.3) * texts @ fused.text.encode([Content("turntable")])[0], atol=1e-5
    )
    picture_scores = images @ fused.image.encode([Content(image=picture(2))])[0]
    np.testing.assert_allclose(index @ query[1], np.sqrt(0.7) * picture_scores, atol=1e-5)
    assert int(np.argmax(index @ query[0])) == 1
    assert int(np.argmax(index @ query[1])) == 2


def test_text_alone_and_picture_alone_have_nothing_in_common(fused: FusedEncoder) -> None:
    one, two = fused.encode([Content("a turntable"), Content(image=picture())])
    assert one @ two == 0.0
    assert not one[fused.text.dim :].any()
    assert not two[: fused.text.dim].any()


@given(seed=st.integers(0, 2**32 - 1), flags=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_every_row_with_something_is_a_unit_vector(
    fused: FusedEncoder, seed: int, flags: list[tuple[bool, bool]]
) -> None:
    rng = np.random.default_rng(seed)
    has_text, has_image = (np.array(flag, bool) for flag in zip(*flags, strict=True))
    texts = unit(rng, len(flags), fused.text.dim)
    images = unit(rng, len(flags), fused.image.dim) * rng.uniform(0.1, 5)
    texts[~has_text], images[~has_image] = np.nan, np.nan  # not read
    if not (has_text | has_image).all():
        with pytest.raises(InvalidContent, match=r"\[fuse\] content \d+ has neither text nor picture"):
            fused.combine(texts, images, has_text, has_image)
        return
    joined = fused.combine(texts, images, has_text, has_image)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1.0, atol=1e-5)
    shares = (joined[:, : fused.text.dim] ** 2).sum(axis=1)
    np.testing.assert_allclose(shares, np.where(has_text & has_image, 0.3, has_text.astype(float)), atol=1e-5)


def test_shapes_that_do_not_go_together_are_refused(fused: FusedEncoder, rng: np.random.Generator) -> None:
    with pytest.raises(InvalidInput, match=r"have shapes \(\(1, 5\)"):
        fused.combine(unit(rng, 1, 5), unit(rng, 1, fused.image.dim), YES, NO)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.2, float("nan")])
def test_a_weight_that_silences_one_side_is_refused(fused: FusedEncoder, weight: float) -> None:
    with pytest.raises(InvalidInput, match=r"weight is .*; expected 0.001 to 0.999"):
        FusedEncoder(fused.text, fused.image, weight=weight)


def test_weight_and_parts_are_in_the_space_id_and_the_sparse_side_is_not(fused: FusedEncoder) -> None:
    text = fused.text
    assert isinstance(text, TextEncoder)
    assert FusedEncoder(text, fused.image, weight=0.31).space_id != fused.space_id
    assert FusedEncoder(text.fit(["a b"]), fused.image, weight=0.3).space_id == fused.space_id


def test_one_bad_half_refuses_the_content(fused: FusedEncoder) -> None:
    with pytest.raises(InvalidContent, match="content 1: its picture is no JPEG"):
        fused.encode([Content("good", picture()), Content("good", b"bad picture")])
    with pytest.raises(InvalidContent, match="content 0: its text ' ' is blank"):
        fused.encode([Content(" ", picture())])
