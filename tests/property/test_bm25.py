"""BM25 as sparse rows, against a kept library over the same words and against the formula."""

from __future__ import annotations

import math

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embeddings.bm25 import Bm25
from embeddings.ngrams import words_of
from matching.datapoint import SparseRows
from matching.errors import InvalidInput

texts = st.lists(
    st.lists(st.sampled_from(["sony", "boots", "PS-LX350H", "of", "the", "red", "Größe"]), min_size=1, max_size=9).map(
        " ".join
    ),
    min_size=1,
    max_size=12,
)


def products(queries: SparseRows, documents: SparseRows) -> NDArray[np.float64]:
    def row(rows: SparseRows, at: int) -> dict[int, float]:
        part = slice(int(rows.offsets[at]), int(rows.offsets[at + 1]))
        assert (np.diff(rows.dimensions[part]) > 0).all()
        return dict(zip(rows.dimensions[part].tolist(), rows.values[part].tolist(), strict=True))

    held = [row(documents, at) for at in range(len(documents))]
    asked = [row(queries, at) for at in range(len(queries))]
    return np.array([[sum(n * own.get(word, 0.0) for word, n in query.items()) for own in held] for query in asked])


@given(texts, texts, st.sampled_from([0.0, 0.9, 1.5]), st.sampled_from([0.0, 0.4, 1.0]))
def test_scores_are_those_of_bm25s(pool: list[str], asked: list[str], k1: float, b: float) -> None:
    fitted = Bm25(k1=k1, b=b).fit(iter(pool))
    found = products(fitted.queries(asked), fitted.documents(pool))
    words = [words_of([text])[0] for text in pool]
    oracle = bm25s.BM25(method="lucene", k1=k1, b=b)
    oracle.index(words, show_progress=False)
    known = {word for own in words for word in own}
    for query, row in zip(asked, found, strict=True):
        own = [word for word in words_of([query])[0] if word in known]
        expected = oracle.get_scores(own) if own else np.zeros(len(pool))
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_a_worked_example_and_a_text_that_was_not_counted() -> None:
    fitted = Bm25(k1=1.2, b=0.75).fit(["red red boots", "blue hat"])
    [[score]] = products(fitted.queries(["red hat red"]), fitted.documents(["red red boots"]))
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    assert score == pytest.approx(2 * idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2.5)), rel=1e-6)
    new = products(fitted.queries(["violet"]), fitted.documents(["violet scarf"]))
    assert new[0, 0] == pytest.approx(math.log(1 + 2.5 / 0.5) / (1 + 1.2 * (0.25 + 0.75 * 2 / 2.5)), rel=1e-6)


def test_texts_without_words_have_empty_rows() -> None:
    fitted = Bm25().fit(["...", "a", ""])
    assert np.diff(fitted.documents(["!!", "a", "  "]).offsets).tolist() == [0, 1, 0]
    assert np.diff(Bm25().fit(["..."]).documents(["...", "new"]).offsets).tolist() == [0, 1]
    assert len(fitted.queries([])) == 0


def test_counts_come_back_and_other_recipes_are_refused() -> None:
    fitted = Bm25(k1=0.9).fit(["red boots", "red hat", "a coat of wool"])
    params, arrays = fitted.counted()
    again = Bm25.from_counts(fitted.recipe(), params, arrays)
    one, two = fitted.documents(["red wool boots"]), again.documents(["red wool boots"])
    assert one.values.tobytes() == two.values.tobytes()
    assert one.dimensions.tobytes() == two.dimensions.tobytes()
    with pytest.raises(InvalidInput, match="sparse side was made as"):
        Bm25.from_counts({**fitted.recipe(), "recipe": 2}, params, arrays)
    with pytest.raises(InvalidInput, match="7 words and 5 counts; expected as many of both"):
        Bm25.from_counts(fitted.recipe(), params, {**arrays, "document_frequency": np.ones(5, np.int32)})


@pytest.mark.parametrize(("name", "value"), [("k1", -1.0), ("k1", 11.0), ("b", 1.5), ("b", float("nan"))])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=rf"{name} is {value}; expected"):
        Bm25(**{name: value})  # type: ignore[arg-type]


def test_there_must_be_a_text_to_count() -> None:
    with pytest.raises(InvalidInput, match="there is no text to count"):
        Bm25().fit([])
