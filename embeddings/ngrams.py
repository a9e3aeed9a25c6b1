"""Texts as hashed character n-grams: the sparse view that keeps model numbers.

A text is lower-cased and cut into words at white space. A word with a digit in it is kept whole without its punctuation, so
"PS-LX350H", "PSLX350H" and "ps/lx350h" are one; other words end at punctuation too. Each word, with a space on either side, gives
its character n-grams. An n-gram becomes a dimension by a fixed 64-bit hash of its code points: the same in every process and on
every machine, without a vocabulary to keep.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.sparse_text import batches, check_recipe, idf
from matching.datapoint import SparseRows
from matching.errors import InvalidInput

N_DIMENSIONS = 1 << 18
GRAM_LENGTHS = (3, 4)
DIGIT_WEIGHT = 2.0  # n-grams of a word with a digit count twice: such words name one product
MAX_CHARS = 4096
DEFAULT_ALPHA = 0.4

_WORD = re.compile(r"[^\W_]+")
_PUNCTUATION = re.compile(r"[\W_]+")
_DIGIT = re.compile(r"\d")
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64


class Ngrams:
    """Unit rows of n-grams weighed by a catalogue's idf, so that a score is a cosine.

    Args:
        document_frequency: int32[262144], how many of the catalogue's texts hold each n-gram; set by `fit`.
        n_documents: how many texts were counted.

    Raises:
        InvalidInput: an array of another shape.
    """

    def __init__(self, *, document_frequency: NDArray[np.int32] | None = None, n_documents: int = 0) -> None:
        if document_frequency is not None and document_frequency.shape != (N_DIMENSIONS,):
            raise InvalidInput(
                f"[load encoder] document_frequency has shape {document_frequency.shape}; expected ({N_DIMENSIONS},); build the "
                "index again"
            )
        self._df = document_frequency
        self._n_documents = n_documents
        # an n-gram that the catalogue lacks weighs most and lowers all scores of its query alike
        self._idf = None if document_frequency is None else idf(n_documents, document_frequency).astype(np.float32)

    @classmethod
    def from_counts(
        cls, recipe: Mapping[str, Any], params: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]
    ) -> Ngrams:
        """Return what `recipe` and `counted` told.

        Raises:
            InvalidInput: they do not fit each other or this release.
        """
        check_recipe(recipe, cls().recipe())
        held = arrays.get("document_frequency")
        frequency = None if held is None else np.ascontiguousarray(held, np.int32)
        return cls(document_frequency=frequency, n_documents=params["n_documents"])

    @property
    def alpha(self) -> float:
        return DEFAULT_ALPHA

    @property
    def is_fitted(self) -> bool:
        return self._idf is not None

    def fit(self, texts: Iterable[str]) -> Ngrams:
        frequency = np.zeros(N_DIMENSIONS, np.int64)
        n_documents = 0
        for batch in batches(texts):
            frequency += np.bincount(count_ngrams(batch).dimensions, minlength=N_DIMENSIONS)
            n_documents += len(batch)
        if n_documents == 0:
            raise InvalidInput("[fit text encoder] there is no text to count; expected at least one")
        return Ngrams(document_frequency=frequency.astype(np.int32), n_documents=n_documents)

    def documents(self, texts: Sequence[str]) -> SparseRows:
        assert self._idf is not None
        counted = count_ngrams(texts)
        values = counted.values * self._idf[counted.dimensions]
        norms = np.sqrt(np.add.reduceat(np.r_[values.astype(np.float64) ** 2, 0.0], counted.offsets[:-1]))
        lengths = np.diff(counted.offsets)
        norms = np.where(lengths == 0, 1.0, norms)  # reduceat gives an empty row its neighbour's number
        return SparseRows(counted.offsets, counted.dimensions, (values / np.repeat(norms, lengths)).astype(np.float32))

    def queries(self, texts: Sequence[str]) -> SparseRows:
        return self.documents(texts)

    def recipe(self) -> dict[str, object]:
        return {
            "n_dimensions": N_DIMENSIONS,
            "gram_lengths": list(GRAM_LENGTHS),
            "digit_weight": DIGIT_WEIGHT,
            "max_chars": MAX_CHARS,
            "recipe": 1,
        }

    def counted(self) -> tuple[dict[str, object], Mapping[str, NDArray[np.generic]]]:
        return {"n_documents": self._n_documents}, {} if self._df is None else {"document_frequency": self._df}


def count_ngrams(texts: Sequence[str]) -> SparseRows:
    """Return each text's distinct n-gram dimensions, ascending, with weighted, damped counts (1 + ln n) * mean weight.

    Only the first 4,096 characters of a text count.
    """
    words, owner, weights = words_of(texts)
    n_texts = len(texts)
    if not words:
        return SparseRows(np.zeros(n_texts + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    letters = np.frombuffer("".join(f" {word} " for word in words).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.fromiter((len(word) + 2 for word in words), np.int64, len(words))
    word_of = np.repeat(np.arange(len(words)), lengths)
    keys, shares = [], []
    for n in GRAM_LENGTHS:
        last = len(letters) - n + 1
        begins = np.flatnonzero(word_of[: max(last, 0)] == word_of[n - 1 :]) if last > 0 else np.zeros(0, np.int64)
        dimensions = _hashed(letters, begins, n)
        keys.append(owner[word_of[begins]] * N_DIMENSIONS + dimensions)
        shares.append(weights[word_of[begins]])
    return _summed(np.concatenate(keys), np.concatenate(shares), n_texts)


def words_of(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """Return the words of all texts in order, the number of each one's text, and its weight: 2 with a digit in it, else 1."""
    words: list[str] = []
    owner: list[int] = []
    weights: list[float] = []
    for row, text in enumerate(texts):
        normal = unicodedata.normalize("NFKC", text[:MAX_CHARS]).lower()
        before = len(words)
        for run in normal.split():
            if _DIGIT.search(run):
                words.append(_PUNCTUATION.sub("", run))
                weights.append(DIGIT_WEIGHT)
            else:
                found = _WORD.findall(run)
                words.extend(found)
                weights.extend([1.0] * len(found))
        owner.extend([row] * (len(words) - before))
    return words, np.asarray(owner, np.int64), np.asarray(weights, np.float64)


def _hashed(letters: NDArray[np.uint32], begins: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    state = np.full(len(begins), n, np.uint64)
    for at in range(n):
        state = (state ^ letters[begins + at]) * _ODD
        state ^= state >> np.uint64(29)
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    state ^= state >> np.uint64(31)
    dimensions: NDArray[np.int64] = (state & np.uint64(N_DIMENSIONS - 1)).astype(np.int64)
    return dimensions


def _summed(keys: NDArray[np.int64], shares: NDArray[np.float64], n_texts: int) -> SparseRows:
    order = np.argsort(keys, kind="stable")
    keys, shares = keys[order], shares[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    distinct = keys[first]
    counts = np.diff(np.r_[first, len(keys)])
    totals = np.add.reduceat(shares, first) if len(first) else np.zeros(0)
    values = totals / np.maximum(counts, 1) * (1.0 + np.log(np.maximum(counts, 1)))
    offsets = np.searchsorted(distinct, np.arange(n_texts + 1, dtype=np.int64) * N_DIMENSIONS)
    return SparseRows(offsets.astype(np.int64), distinct % N_DIMENSIONS, values.astype(np.float32))
