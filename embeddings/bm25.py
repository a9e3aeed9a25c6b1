"""Texts as words weighed by BM25: the score of search engines as an inner product.

A document's row holds the weights idf * tf / (tf + k1 * (1 - b + b * length / mean length)) of its words, a query's row how
often each word occurs in it. A word becomes a dimension by a 63-bit hash: the same in every process, without a vocabulary.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, with the idf of Lucene,
ln(1 + (n - df + 0.5) / (df + 0.5)), which is above 0, and without the constant factor k1 + 1.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import check_between
from embeddings.ngrams import MAX_CHARS, words_of
from embeddings.sparse_text import batches, check_recipe, idf
from matching.datapoint import SparseRows
from matching.errors import InvalidInput

DEFAULT_K1 = 1.2
DEFAULT_B = 0.75
_ALPHA = 0.95  # scores are not bounded: 20 weighs as much as a whole cosine; measured by benchmarks/hybrid_quality.py


class Bm25:
    """BM25 weights by a catalogue's counts.

    Args:
        k1: how soon a repeated word stops counting, 0 to 10.
        b: how much long documents are held back, 0 to 1.
        dimensions: int64[t] ascending, the catalogue's words; set by `fit`, as are all that follow.
        document_frequency: int32[t], how many texts hold each.
        n_documents: how many texts were counted.
        mean_length: words a text.

    Raises:
        InvalidInput: a number out of its range, or arrays that do not fit each other.
    """

    def __init__(
        self,
        *,
        k1: float = DEFAULT_K1,
        b: float = DEFAULT_B,
        dimensions: NDArray[np.int64] | None = None,
        document_frequency: NDArray[np.int32] | None = None,
        n_documents: int = 0,
        mean_length: float = 1.0,
    ) -> None:
        check_between("k1", k1, 0.0, 10.0)
        check_between("b", b, 0.0, 1.0)
        self._k1, self._b = float(k1), float(b)
        self._n_documents, self._mean_length = n_documents, mean_length
        self._dimensions = np.empty(0, np.int64) if dimensions is None else np.ascontiguousarray(dimensions, np.int64)
        df = np.empty(0, np.int32) if document_frequency is None else document_frequency
        self._df = np.ascontiguousarray(df, np.int32)
        if self._dimensions.shape != self._df.shape or (np.diff(self._dimensions) <= 0).any():
            raise InvalidInput(
                f"[load encoder] {len(self._dimensions)} words and {len(self._df)} counts; expected as many of both, words "
                "ascending; build the index again"
            )

    @classmethod
    def from_counts(
        cls, recipe: Mapping[str, Any], params: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]
    ) -> Bm25:
        """Return what `recipe` and `counted` told.

        Raises:
            InvalidInput: they do not fit each other or this release.
        """
        k1, b = recipe.get("k1", DEFAULT_K1), recipe.get("b", DEFAULT_B)
        if not arrays:
            made = cls(k1=k1, b=b)
        else:
            made = cls(
                k1=k1,
                b=b,
                dimensions=np.asarray(arrays["dimensions"], np.int64),
                document_frequency=np.asarray(arrays["document_frequency"], np.int32),
                n_documents=params["n_documents"],
                mean_length=params["mean_length"],
            )
        check_recipe(recipe, made.recipe())
        return made

    @property
    def alpha(self) -> float:
        return _ALPHA

    @property
    def is_fitted(self) -> bool:
        return self._n_documents > 0

    def fit(self, texts: Iterable[str]) -> Bm25:
        found: Counter[int] = Counter()
        n_documents = n_words = 0
        for batch in batches(texts):
            rows = _counted(batch)
            found.update(rows.dimensions.tolist())
            n_documents += len(batch)
            n_words += int(rows.values.sum())
        if n_documents == 0:
            raise InvalidInput("[fit text encoder] there is no text to count; expected at least one")
        dimensions = np.fromiter(found.keys(), np.int64, len(found))
        counts = np.fromiter(found.values(), np.int32, len(found))
        order = np.argsort(dimensions)
        return Bm25(
            k1=self._k1,
            b=self._b,
            dimensions=dimensions[order],
            document_frequency=counts[order],
            n_documents=n_documents,
            mean_length=max(n_words, 1) / n_documents,
        )

    def documents(self, texts: Sequence[str]) -> SparseRows:
        rows = _counted(texts)
        lengths = np.diff(rows.offsets)
        counts = rows.values.astype(np.float64)
        words = np.add.reduceat(np.r_[counts, 0.0], rows.offsets[:-1]) * (lengths > 0)
        damped = self._k1 * (1.0 - self._b + self._b * words / self._mean_length)
        weights = self._idf(rows.dimensions) * counts / (counts + np.repeat(damped, lengths))
        return SparseRows(rows.offsets, rows.dimensions, weights.astype(np.float32))

    def queries(self, texts: Sequence[str]) -> SparseRows:
        return _counted(texts)

    def recipe(self) -> dict[str, object]:
        return {"kind": "bm25", "k1": self._k1, "b": self._b, "max_chars": MAX_CHARS, "recipe": 1}

    def counted(self) -> tuple[dict[str, object], Mapping[str, NDArray[np.generic]]]:
        arrays: dict[str, NDArray[np.generic]] = {}
        if self.is_fitted:
            arrays = {"dimensions": self._dimensions, "document_frequency": self._df}
        return {"n_documents": self._n_documents, "mean_length": self._mean_length}, arrays

    def _idf(self, dimensions: NDArray[np.int64]) -> NDArray[np.float64]:
        df = np.zeros(len(dimensions), np.int32)
        if len(self._dimensions):
            at = np.minimum(np.searchsorted(self._dimensions, dimensions), len(self._dimensions) - 1)
            df = np.where(self._dimensions[at] == dimensions, self._df[at], 0)
        return idf(self._n_documents, df)


@functools.lru_cache(maxsize=1 << 17)
def _dimension(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _counted(texts: Sequence[str]) -> SparseRows:
    """Return how often each word occurs in each text, dimensions ascending."""
    words, owner, _ = words_of(texts)
    dimensions = np.fromiter(map(_dimension, words), np.int64, len(words))
    order = np.lexsort((dimensions, owner))
    dimensions, owner = dimensions[order], owner[order]
    is_first = np.r_[True, (dimensions[1:] != dimensions[:-1]) | (owner[1:] != owner[:-1])][: len(words)]
    first = np.flatnonzero(is_first)
    counts = np.diff(np.r_[first, len(words)]).astype(np.float32)
    offsets = np.searchsorted(owner[first], np.arange(len(texts) + 1)).astype(np.int64)
    return SparseRows(offsets, dimensions[first], counts)
