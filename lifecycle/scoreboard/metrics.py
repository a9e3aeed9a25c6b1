"""How well a source answers a fold: figures a user, and figures of all answers together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lifecycle.scoreboard.fold import Fold
from matching.sources import Source

USER_METRICS: Final = ("hit", "recall", "ndcg", "mrr", "map", "revenue")
_NUMBERS_AT_ONCE: Final = 1 << 23
_USERS_AT_ONCE: Final = 1024


@dataclass(frozen=True)
class Scores:
    """What one source reached on one fold.

    Attributes:
        by_user: float64[m] for each metric and k, as `hit@10`, users in the fold's order.
        overall: `coverage`, `gini`, `novelty_bits` and `diversity` at each k, as `coverage@10`.
    """

    by_user: Mapping[str, NDArray[np.float64]]
    overall: Mapping[str, float]


def score(
    source: Source,
    fold: Fold,
    ks: Sequence[int] = (10, 20),
    *,
    leave_out_seen: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Ask a source about every user of a fold and compare with what they took.

    All items are ranked, none is sampled. Among equal scores a target has the mean of their ranks, so that no order of
    items in a file can help; an item that is no candidate is never found. With `leave_out_seen` what a user had before is
    left out of the ranking.

    `hit`, `recall` (found / all targets), `ndcg` (gain 1 / log2(1 + rank), over the best that k places allow), `mrr`,
    `map` (precision at each target found, over min(k, targets)) and `revenue` (what was paid for targets found) are of one
    user; `coverage` is the share of items ever answered, `gini` how unevenly (0 = evenly), `novelty_bits` the mean
    surprise -log2(users who took it / users) of an answer, `diversity` 1 - the mean cosine of two answers over the users
    who took them.
    """
    ks = sorted(set(ks))
    by_user = {f"{name}@{k}": np.zeros(len(fold.users)) for name in USER_METRICS for k in ks}
    n_items = fold.train.n_items
    answers = np.full((len(fold.users), ks[-1]), -1, np.int64)
    at_once = max(1, _NUMBERS_AT_ONCE // n_items)
    for start in range(0, len(fold.users), at_once):
        asked = range(start, min(start + at_once, len(fold.users)))
        block = np.array(source.scores([fold.histories[at] for at in asked], fold.cut_ms), np.float32)
        for at, scores in zip(asked, block, strict=True):
            if leave_out_seen:
                scores[fold.histories[at].items] = -np.inf
            ranks = _ranks(scores, fold.targets[at])
            for k in ks:
                for name, value in _of_user(ranks, fold.values[at], k).items():
                    by_user[f"{name}@{k}"][at] = value
            best = _best(scores, ks[-1])
            answers[at, : len(best)] = best
        progress(asked.stop)
    return Scores(by_user, _of_all(answers, fold, ks))


def _ranks(scores: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks from 1 of the targets, the mean one among equals, inf for what is no candidate: float64[t]."""
    found = scores[targets]
    above = np.array([np.count_nonzero(scores > score) for score in found])
    equal = np.array([np.count_nonzero(scores == score) for score in found])
    return np.where(np.isfinite(found), above + (equal + 1) / 2, np.inf)


def ndcg(ranks: NDArray[np.float64], n_targets: int, k: int) -> float:
    """Return the gain of the targets within k places, 1 / log2(1 + rank) each, over the best that k places allow."""
    within = ranks[ranks <= k]
    return float((1 / np.log2(1 + within)).sum() / (1 / np.log2(1 + np.arange(1, min(k, n_targets) + 1))).sum())


def _of_user(ranks: NDArray[np.float64], values: NDArray[np.float64], k: int) -> dict[str, float]:
    found = ranks <= k
    within = np.sort(ranks[found])
    n_best = min(k, len(ranks))
    return {
        "hit": float(found.any()),
        "recall": len(within) / len(ranks),
        "ndcg": ndcg(ranks, len(ranks), k),
        "mrr": float(1 / within[0]) if len(within) else 0.0,
        "map": float((np.arange(1, len(within) + 1) / within).sum()) / n_best,
        "revenue": float(values[found].sum()),
    }


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The best k candidates; of equals the first."""
    k = min(k, len(scores))
    kth = np.partition(scores, -k)[-k]
    rows = np.flatnonzero((scores >= kth) & np.isfinite(scores))
    return rows[np.lexsort((rows, -scores[rows]))][:k]


def _of_all(answers: NDArray[np.int64], fold: Fold, ks: Sequence[int]) -> dict[str, float]:
    train = fold.train
    users, items = train.distinct()
    n_takers = np.bincount(items, minlength=train.n_items)
    surprise = -np.log2((n_takers + 1) / (train.n_users + 1))
    of_unit_length = 1 / np.sqrt(n_takers[items])
    takers = sp.csr_array((of_unit_length, (items, users)), shape=(train.n_items, train.n_users))
    overall: dict[str, float] = {}
    for k in ks:
        shown = answers[:, :k]
        counts = np.sort(np.bincount(shown[shown >= 0], minlength=train.n_items))
        total = max(int(counts.sum()), 1)
        overall[f"coverage@{k}"] = float((counts > 0).mean())
        overall[f"gini@{k}"] = float(
            (2 * np.arange(1, len(counts) + 1) - len(counts) - 1) @ counts / (len(counts) * total)
        )
        overall[f"novelty_bits@{k}"] = float(surprise[shown[shown >= 0]].sum() / total)
        overall[f"diversity@{k}"] = _diversity(shown, takers)
    return overall


def _diversity(shown: NDArray[np.int64], takers: sp.csr_array) -> float:
    """1 - the mean cosine of two answers, over the users with two or more: from the length of the sum of unit vectors."""
    cosines = []
    for start in range(0, len(shown), _USERS_AT_ONCE):
        block = shown[start : start + _USERS_AT_ONCE]
        place, _ = np.nonzero(block >= 0)
        items = block[block >= 0]
        chosen = sp.csr_array((np.ones(len(items), np.float32), (place, items)), shape=(len(block), takers.shape[0]))
        sums = (chosen @ takers).power(2).sum(axis=1)
        taken = chosen @ (np.diff(takers.indptr) > 0).astype(np.float32)  # an item that nobody took has no direction
        n = np.diff(chosen.indptr)
        cosines.append(((sums - taken) / np.maximum(n * (n - 1), 1))[n > 1])
    pairs = np.concatenate(cosines)
    return float(1 - pairs.mean()) if len(pairs) else 0.0
