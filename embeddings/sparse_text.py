"""What gives texts a sparse side: n-grams or BM25."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from matching.datapoint import SparseRows
from matching.errors import InvalidInput

SparseKind = Literal["ngrams", "bm25"]
TEXTS_A_BATCH = 1024


class SparseText(Protocol):
    """Texts into sparse rows; the inner product of a query's row with a document's is the score. Immutable."""

    @property
    def alpha(self) -> float:
        """Share of the dense cosine where it is joined with this score and nobody has said otherwise."""

    @property
    def is_fitted(self) -> bool:
        """Whether a catalogue was counted."""

    def fit(self, texts: Iterable[str]) -> SparseText:
        """Count a catalogue's texts, once over them, and return what weighs by those counts.

        Raises:
            InvalidInput: there is no text.
        """

    def documents(self, texts: Sequence[str]) -> SparseRows:
        """Return the rows of indexed texts, dimensions ascending."""

    def queries(self, texts: Sequence[str]) -> SparseRows:
        """Return the rows of asking texts, dimensions ascending."""

    def recipe(self) -> dict[str, object]:
        """Return what a fitted catalogue does not decide: another recipe makes other rows."""

    def counted(self) -> tuple[dict[str, object], Mapping[str, NDArray[np.generic]]]:
        """Return what the catalogue decides: JSON parameters and arrays; nothing before `fit`."""


def check_recipe(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Refuse a recipe that this release does not follow.

    Raises:
        InvalidInput: it is another one.
    """
    if found != expected:
        raise InvalidInput(
            f"[load encoder] the spec's sparse side was made as {dict(found)}; expected {dict(expected)}; build the index "
            "again with this release"
        )


def idf(n_documents: int, document_frequency: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the inverse document frequency of terms that so many documents hold each, always above 0.

    Source: that of BM25 in Lucene, ln(1 + (n - df + 0.5) / (df + 0.5)).
    """
    df = document_frequency.astype(np.float64)
    return np.asarray(np.log1p((n_documents - df + 0.5) / (df + 0.5)))


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts some at a time."""
    stream = iter(texts)
    while batch := list(islice(stream, TEXTS_A_BATCH)):
        yield batch
