"""Items that follow from items: a table of weights, and how a history is weighed when it asks the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from matching.errors import LimitExceeded
from matching.interactions import History, Interactions
from matching.profile import Profile
from matching.sources.source import NO_CANDIDATE

MAX_DENSE_ITEMS: Final = 30_000  # EASE inverts a matrix of items x items: 7 GiB in 64 bits
_PAIRS_AT_ONCE: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class ItemTable:
    """Scores an item by the sum over a history of (weight of the item there) x (weight in the table).

    Attributes:
        name: see `Source`.
        weights: float32[n_items, n_items], from an item in the history to a candidate; sparse rows, or dense.
        profile: how much each item of a history counts; an item that comes twice counts as its best time.
    """

    name: str
    weights: sp.csr_array | NDArray[np.float32]
    profile: Profile

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        asked = self._asked(histories, now_ms)
        if isinstance(self.weights, np.ndarray):
            dense: NDArray[np.float32] = asked @ self.weights
            dense[np.diff(asked.indptr) == 0] = NO_CANDIDATE
            return dense
        found = (asked @ self.weights).tocsr()
        scores = np.full(found.shape, NO_CANDIDATE, np.float32)
        rows = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
        scores[rows, found.indices] = found.data
        return scores

    def _asked(self, histories: Sequence[History], now_ms: int) -> sp.csr_array:
        n = self.weights.shape[0]
        ends = np.cumsum([0, *(len(history.items) for history in histories)])
        items = np.concatenate([np.empty(0, np.int32), *(history.items for history in histories)])
        weights = np.concatenate([np.empty(0, np.float32), *(self.profile.weigh(each, now_ms) for each in histories)])
        users = np.repeat(np.arange(len(histories)), np.diff(ends))
        key = users * n + items
        order = np.lexsort((-weights, key))
        first = np.unique(key[order], return_index=True)[1]
        best = order[first]
        return sp.csr_array((weights[best], (users[best], items[best])), shape=(len(histories), n))


def fit_sequential_rules(
    interactions: Interactions, *, window: int = 10, profile: Profile = Profile(step_decay=0.6)
) -> ItemTable:
    """Count what came after what: directed co-occurrence, 1 / distance each time, of one user at most 1 a pair of items.

    Args:
        window: how many steps later an item still follows from one.

    Source: "sequential rules" of Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018,
    section 3.1, over whole histories and with the profile's decay.
    """
    n = interactions.n_items
    order = np.lexsort((interactions.at_ms, interactions.users))  # stable: equal times stay in their order
    users, items = interactions.users[order], interactions.items[order].astype(np.int64)
    table = sp.csr_array((n, n), dtype=np.float32)
    start = 0
    while start < len(users):  # some users at once, each whole
        last = users[min(start + max(_PAIRS_AT_ONCE // window, 1), len(users)) - 1]
        end = int(np.searchsorted(users, last, side="right"))
        table = table + _followed(users[start:end], items[start:end], window, n)
        start = end
    return ItemTable("sequential-rules", table, profile)


def fit_item_knn(
    interactions: Interactions, *, n_neighbors: int = 200, profile: Profile = Profile(half_life_days=60)
) -> ItemTable:
    """Cosine between items over the users who took them, the nearest `n_neighbors` of each.

    Source: Deshpande and Karypis, Item-based top-N recommendation algorithms, TOIS 2004, section 4.1.
    """
    taken = _taken(interactions)
    lengths = np.sqrt(np.maximum(taken.sum(axis=0), 1)).astype(np.float32)
    unit = (taken @ sp.diags_array(1 / lengths)).tocsr()
    by_item = unit.T.tocsr()
    n = interactions.n_items
    parts = []
    at_once = max(1, _PAIRS_AT_ONCE // max(n, 1))
    for start in range(0, n, at_once):
        parts.append(_nearest((by_item[start : start + at_once] @ unit).tocsr(), start, n_neighbors))
    table = sp.vstack(parts, format="csr") if parts else sp.csr_array((0, 0), dtype=np.float32)
    return ItemTable("item-knn", sp.csr_array(table), profile)


def fit_ease(
    interactions: Interactions, *, penalty: float = 300, profile: Profile = Profile(half_life_days=60)
) -> ItemTable:
    """The linear model of items from items with no item from itself, in closed form.

    Args:
        penalty: on the square of its weights.

    Raises:
        LimitExceeded: more items than can be inverted.

    Source: Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019, algorithm 1.
    """
    n = interactions.n_items
    if n > MAX_DENSE_ITEMS:
        raise LimitExceeded(
            f"[ease] {n:,} items; at most {MAX_DENSE_ITEMS:,} can be inverted; leave ease out, item-knn takes any number"
        )
    taken = _taken(interactions)
    gram = (taken.T @ taken).toarray().astype(np.float64)
    gram[np.diag_indices(n)] += penalty
    inverse = np.linalg.inv(gram)
    weights = (inverse / -np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return ItemTable("ease", weights, profile)


def _followed(users: NDArray[np.int32], items: NDArray[np.int64], window: int, n: int) -> sp.csr_array:
    """What came after what in the histories of some users: float32[n, n]."""
    keys, worths = [], []
    for steps in range(1, window + 1):
        follows = np.flatnonzero((users[steps:] == users[:-steps]) & (items[steps:] != items[:-steps]))
        rank = users[follows].astype(np.int64) - int(users[0])
        keys.append(np.stack([rank, items[follows], items[follows + steps]]))
        worths.append(np.full(len(follows), 1 / steps, np.float32))
    user, before, after = np.concatenate(keys, axis=1)
    order = np.lexsort((after, before, user))
    user, before, after = user[order], before[order], after[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (user[1:] != user[:-1]) | (before[1:] != before[:-1]) | (after[1:] != after[:-1])
    of_user = np.bincount(np.cumsum(is_first) - 1, np.concatenate(worths)[order], int(is_first.sum()))
    pairs = (before[is_first], after[is_first])
    return sp.csr_array((np.minimum(of_user, 1).astype(np.float32), pairs), shape=(n, n))


def _taken(interactions: Interactions) -> sp.csr_array:
    """1 where a user took an item: float32[n_users, n_items]."""
    users, items = interactions.distinct()
    shape = (interactions.n_users, interactions.n_items)
    return sp.csr_array((np.ones(len(users), np.float32), (users, items)), shape=shape)


def _nearest(rows: sp.csr_array, first: int, most: int) -> sp.csr_array:
    """The largest entries of each row, but for item `first` + row itself."""
    kept_items, kept_weights, ends = [], [], [0]
    for row in range(rows.shape[0]):
        items = rows.indices[rows.indptr[row] : rows.indptr[row + 1]]
        weights = rows.data[rows.indptr[row] : rows.indptr[row + 1]]
        other = items != first + row
        items, weights = items[other], weights[other]
        best = np.lexsort((items, -weights))[:most]
        kept_items.append(items[best])
        kept_weights.append(weights[best])
        ends.append(ends[-1] + len(best))
    arrays = (np.concatenate(kept_weights), np.concatenate(kept_items), np.array(ends))
    return sp.csr_array(arrays, shape=rows.shape)
