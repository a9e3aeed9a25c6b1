"""Heads: the loss and its slopes against torch's, what is no wrong answer, and that they find what they were shown."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from embeddings.joint_heads import JointHeads, Pairs, fit_heads, info_nce
from index_builder.cross_modal import learn_heads, measure, unaligned
from index_builder.progress import Silent
from matching.errors import GateRefused, InvalidInput


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made_pairs(n: int, seed: int = 0, *, n_shared: int = 0, related: bool = True) -> Pairs:
    """Texts and one to three pictures each, both made of the same hidden numbers; the last n_shared texts are equal."""
    rng = np.random.default_rng(seed)
    ways = np.random.default_rng(99).normal(size=(2, 8, 40))
    hidden = rng.normal(size=(n, 8))
    hidden[n - n_shared :] = hidden[n - 1]
    of = np.repeat(np.arange(n), rng.integers(1, 4, n))
    shown = hidden[of] if related else rng.normal(size=(len(of), 8))
    texts = unit(hidden @ ways[0][:, :24])
    same = np.minimum(np.arange(n), n - max(n_shared, 1))
    return Pairs(texts, same, unit(shown @ ways[1] + 0.3 * rng.normal(size=(len(of), 40))), of)


@pytest.mark.parametrize("seed", range(4))
def test_loss_and_slopes_are_those_of_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    heads = {"text": rng.normal(size=(5, 4)), "image": rng.normal(size=(7, 4)), "scale": np.array(np.log(9.0))}
    texts, pictures = rng.normal(size=(6, 5)), rng.normal(size=(6, 7))
    same = np.array([0, 1, 2, 1, 3, 2])
    loss, slopes = info_nce(
        {n: a.astype(np.float32) for n, a in heads.items()}, *(x.astype(np.float32) for x in (texts, pictures)), same
    )

    held = {name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in heads.items()}
    left = torch.nn.functional.normalize(torch.tensor(texts) @ held["text"], dim=1)
    right = torch.nn.functional.normalize(torch.tensor(pictures) @ held["image"], dim=1)
    scores = held["scale"].exp() * left @ right.T
    equal = torch.tensor(same[:, None] == same[None]) & ~torch.eye(6, dtype=torch.bool)
    scores = scores.masked_fill(equal, -torch.inf)
    entropy, answers = torch.nn.functional.cross_entropy, torch.arange(6)
    expected = (entropy(scores, answers) + entropy(scores.T, answers)) / 2
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, held[name].grad.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


def test_heads_find_pairs_that_they_have_not_seen() -> None:
    pairs = made_pairs(600)
    is_held = np.arange(600) >= 500
    heads = fit_heads(pairs.part(~is_held), seed=0)
    held = pairs.part(is_held)
    found = measure(heads.texts(held.texts), heads.pictures(held.pictures), held)
    before = unaligned(held)
    assert found.text_to_picture_at_1 > 0.8 > 0.2 > before.text_to_picture_at_1
    assert found.picture_to_text_at_1 > 0.6 > 0.2 > before.picture_to_text_at_1
    for rows in (heads.texts(held.texts), heads.pictures(held.pictures)):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_learning_is_better_than_where_it_begins() -> None:
    pairs = made_pairs(600, n_shared=300)
    is_held = np.random.default_rng(1).random(600) < 0.2
    learned, held = pairs.part(~is_held), pairs.part(is_held)
    import embeddings.joint_heads as module

    begun = JointHeads(
        learned.texts[learned.of].mean(axis=0),
        np.eye(24, dtype=np.float32),
        learned.pictures.mean(axis=0),
        module._regressed(
            learned.pictures - learned.pictures.mean(axis=0),
            unit(learned.texts - learned.texts[learned.of].mean(axis=0))[learned.of],
        ),
    )
    heads = fit_heads(learned, seed=0)
    before, after = (measure(h.texts(held.texts), h.pictures(held.pictures), held) for h in (begun, heads))
    assert after.picture_to_text_at_1 > before.picture_to_text_at_1


def test_the_same_pairs_and_seed_give_the_same_heads() -> None:
    pairs = made_pairs(120)
    first, again, other = (fit_heads(pairs, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.text, again.text)
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).any()


def test_measure_counts_each_text_and_each_picture_by_hand() -> None:
    """Against a slow count over all candidates."""
    rng = np.random.default_rng(5)
    pairs = made_pairs(60, n_shared=12)
    texts, pictures = unit(rng.normal(size=(60, 3))), unit(rng.normal(size=(len(pairs.of), 3)))
    told = measure(texts, pictures, pairs)
    right = pairs.same[pairs.of]
    firsts = [int(np.flatnonzero(pairs.same == each)[0]) for each in np.unique(pairs.same)]
    for k, by_text, by_picture in (
        (1, told.text_to_picture_at_1, told.picture_to_text_at_1),
        (10, told.text_to_picture_at_10, told.picture_to_text_at_10),
    ):
        found = [pairs.same[at] in right[np.argsort(-(pictures @ texts[at]))[:k]] for at in range(60)]
        assert by_text == pytest.approx(np.mean(found))
        found = [right[at] in pairs.same[firsts][np.argsort(-(texts[firsts] @ p))[:k]] for at, p in enumerate(pictures)]
        assert by_picture == pytest.approx(np.mean(found))
    assert (told.n_texts, told.n_different, told.n_pictures) == (60, 49, len(pairs.of))


def test_parts_of_pairs_keep_what_belongs_together() -> None:
    pairs = made_pairs(40, n_shared=5)
    is_in = np.random.default_rng(0).random(40) < 0.5
    part = pairs.part(is_in)
    at = 0
    for text in np.flatnonzero(is_in):
        for picture in np.flatnonzero(pairs.of == text):
            np.testing.assert_array_equal(part.pictures[at], pairs.pictures[picture])
            np.testing.assert_array_equal(part.texts[part.of[at]], pairs.texts[text])
            assert part.same[part.of[at]] == pairs.same[text]
            at += 1
    assert at == len(part.of)


@pytest.mark.parametrize("seed", range(3))
def test_texts_that_say_nothing_of_their_pictures_are_refused(seed: int) -> None:
    with pytest.raises(GateRefused, match=r"\[joint\] of \d+ held-out texts"):
        learn_heads(made_pairs(150, seed, related=False), seed=seed, progress=Silent())


def test_too_little_to_learn_from_is_refused() -> None:
    with pytest.raises(InvalidInput, match="99 products have text and picture; expected 100"):
        learn_heads(made_pairs(99), seed=0, progress=Silent())
    with pytest.raises(InvalidInput, match="fewer than two different texts"):
        fit_heads(made_pairs(5, n_shared=5), seed=0)
    with pytest.raises(InvalidInput, match=r"arrays have shapes .* expected"):
        JointHeads(*(np.zeros(shape, np.float32) for shape in ((4,), (4, 2), (5,), (5, 3))))
