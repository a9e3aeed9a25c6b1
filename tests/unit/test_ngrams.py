"""Hashed n-grams: what becomes one word, what a dimension is, how counts weigh."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.ngrams import DIGIT_WEIGHT, GRAM_LENGTHS, MAX_CHARS, N_DIMENSIONS, count_ngrams

FULL_WIDTH = "".join(chr(ord(letter) + 0xFEE0) for letter in "PSLX350H")


def row(text: str) -> dict[int, float]:
    counted = count_ngrams([text])
    return dict(zip(counted.dimensions.tolist(), counted.values.tolist(), strict=True))


@pytest.mark.parametrize("same", ["PS-LX350H", "PSLX350H", "ps/lx350h", FULL_WIDTH, "(PS-LX350H)"])
def test_spellings_of_a_model_number_are_one_word(same: str) -> None:
    assert row(same) == row("pslx350h")


def test_words_without_a_digit_end_at_punctuation() -> None:
    assert row("in-ear/stereo") == row("in ear stereo")
    assert row("in-ear") != row("inear")


def test_a_word_gives_its_padded_ngrams() -> None:
    # " sony " has 4 n-grams of 3 and 3 of 4 characters.
    assert len(row("sony")) == 7
    assert set(row("sony")) < set(row("sony bose"))
    assert set(row("sony bose")) == set(row("sony")) | set(row("bose"))


def test_a_word_with_a_digit_weighs_more() -> None:
    assert set(row("sony").values()) == {1.0}
    assert set(row("sbv40s").values()) == {DIGIT_WEIGHT}


def test_repeats_are_damped() -> None:
    once, thrice = row("sony"), row("sony sony sony")
    assert set(once) == set(thrice)
    np.testing.assert_allclose(list(thrice.values()), 1 + np.log(3), rtol=1e-6)


def test_dimensions_are_fixed_for_all_time() -> None:
    # An index version on disk holds these numbers: a change makes old versions unreadable and needs a new recipe number.
    assert sorted(row("tv")) == [84174, 198968, 225524]


@given(st.lists(st.text(max_size=60), max_size=8))
def test_a_batch_is_its_texts_one_by_one(texts: list[str]) -> None:
    together = count_ngrams(texts)
    assert len(together) == len(texts)
    for at, text in enumerate(texts):
        alone = count_ngrams([text])
        span = slice(together.offsets[at], together.offsets[at + 1])
        assert together.dimensions[span].tolist() == alone.dimensions.tolist()
        assert together.values[span].tolist() == alone.values.tolist()


@given(st.text(max_size=200))
def test_dimensions_ascend_within_bounds(text: str) -> None:
    counted = count_ngrams([text])
    assert (np.diff(counted.dimensions) > 0).all()
    assert ((counted.dimensions >= 0) & (counted.dimensions < N_DIMENSIONS)).all()
    assert (counted.values > 0).all()


@given(st.text(st.characters(codec="ascii", categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=40))
def test_counts_are_those_of_a_plain_loop(word: str) -> None:
    padded = f" {word.lower()} "
    grams = [padded[at : at + n] for n in GRAM_LENGTHS for at in range(len(padded) - n + 1)]
    weight = DIGIT_WEIGHT if any(letter.isdigit() for letter in word) else 1.0
    expected = sorted(weight * (1 + np.log(grams.count(gram))) for gram in set(grams))
    got = sorted(row(word).values())
    if len(got) == len(expected):  # else two n-grams share a dimension
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert len(expected) - len(got) <= 1


def test_a_long_run_of_letters_is_cut_and_quick() -> None:
    assert row("ab" * MAX_CHARS) == row("ab" * (MAX_CHARS // 2))


@pytest.mark.parametrize("empty", ["", "   ", "!!! ---", "_"])
def test_a_text_without_letters_has_an_empty_row(empty: str) -> None:
    counted = count_ngrams(["sony", empty, "bose"])
    assert counted.offsets[1] == counted.offsets[2]
    assert counted.offsets[3] == len(counted.dimensions)
