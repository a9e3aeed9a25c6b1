"""Users and items as short vectors whose inner product tells what is taken, from what was taken and what was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.interactions import History, Interactions
from matching.sources.source import NO_CANDIDATE

_NUMBERS_AT_ONCE: Final = 1 << 23


@dataclass(frozen=True, slots=True)
class Ials:
    """Implicit alternating least squares; a user's vector is solved from their history when they ask.

    Attributes:
        items: float32[n_items, dim].
        gram: float32[dim, dim], items' @ items.
        unobserved: weight of what was not taken.
        penalty: see `fit`.
        exponent: see `fit`.
    """

    items: NDArray[np.float32]
    gram: NDArray[np.float32]
    unobserved: float
    penalty: float
    exponent: float

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        *,
        dim: int = 128,
        penalty: float = 0.003,
        exponent: float = 1.0,
        unobserved: float = 0.1,
        n_epochs: int = 16,
        deviation: float = 0.1,
        seed: int = 0,
    ) -> Ials:
        """Solve users and items in turns.

        Args:
            penalty: of a vector's square, times (what it was seen in + `unobserved` * all) ** `exponent`.
            deviation: of the vectors at the start, times 1 / sqrt(dim).

        Source: Rendle, Krichene, Zhang and Koren, Revisiting the performance of iALS on item recommendation benchmarks,
        RecSys 2022, equations 2 to 6 and the initialisation of section 4.
        """
        users, items = interactions.distinct()
        of_users = _lists(users, items, interactions.n_users)
        of_items = _lists(items, users, interactions.n_items)
        rng = np.random.default_rng(seed)
        scale = deviation / np.sqrt(dim)
        item_vectors = rng.normal(0, scale, (interactions.n_items, dim)).astype(np.float32)
        for _ in range(n_epochs):
            user_vectors = _solve(of_users, item_vectors, unobserved, penalty, exponent)
            item_vectors = _solve(of_items, user_vectors, unobserved, penalty, exponent)
        return cls(item_vectors, item_vectors.T @ item_vectors, unobserved, penalty, exponent)

    @property
    def name(self) -> str:
        """See `Source`."""
        return "ials"

    def user_vectors(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Solve users from what they did: float32[b, dim]."""
        lists = [np.unique(history.items) for history in histories]
        return _solve(lists, self.items, self.unobserved, self.penalty, self.exponent, self.gram)

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        scores: NDArray[np.float32] = self.user_vectors(histories) @ self.items.T
        scores[[len(history.items) == 0 for history in histories]] = NO_CANDIDATE
        return scores


def _lists(rows: NDArray[np.int64], others: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    order = np.argsort(rows, kind="stable")
    return np.split(others[order], np.searchsorted(rows[order], np.arange(1, n)))


def _solve(
    lists: Sequence[NDArray[np.generic]],
    others: NDArray[np.float32],
    unobserved: float,
    penalty: float,
    exponent: float,
    gram: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The best vector of each row given the vectors of the others; rows of like length are solved together."""
    dim = others.shape[1]
    whole = others.T @ others if gram is None else gram
    lengths = np.array([len(each) for each in lists], np.int64)
    solved = np.zeros((len(lists), dim), np.float32)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        longest = int(lengths[order[min(start + 255, len(order) - 1)]])
        n = max(1, min(256, _NUMBERS_AT_ONCE // (max(longest, dim) * dim)))
        rows = order[start : start + n]
        start += len(rows)
        longest = int(lengths[rows[-1]])
        places = np.zeros((len(rows), longest), np.int64)
        there = np.zeros((len(rows), longest, 1), np.float32)
        for place, row in enumerate(rows):
            places[place, : lengths[row]] = lists[row]
            there[place, : lengths[row]] = 1
        known = others[places] * there
        left = np.matmul(known.transpose(0, 2, 1), known) + unobserved * whole
        penalties = penalty * (lengths[rows] + unobserved * len(others)) ** exponent
        left[:, np.arange(dim), np.arange(dim)] += penalties[:, None].astype(np.float32)
        solved[rows] = np.linalg.solve(left, known.sum(axis=1)[..., None])[..., 0]
    return solved
