"""What encoders of histories learn from: who took what after what, in batches that a seed fixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from matching.interactions import DAY_MS, History, Interactions

_SORTED_BATCHES = 64  # so many batches' windows are sorted by length together


class Batch(NamedTuple):
    """Parts of b histories, padded behind their ends.

    Attributes:
        items: int64[b, t].
        lengths: int64[b], 1 or more.
        targets: int64[b, t], what is to be told at each place.
        weights: float32[b, t], how much that counts; 0 where there is nothing.
    """

    items: NDArray[np.int64]
    lengths: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """All that some users did, about 20 bytes an event.

    Attributes:
        known: int64[m], the rows of `Interactions.item_ids` that occur; items below are rows of these.
        items: int32[n], by user, oldest first.
        ends: int64[users + 1], where each user's begin and end.
        weights: float32[n], of the events.
        is_new: bool[n], whether the user took the item for the first time.
        later: int64[n], the first event that may be told from this one; the user's end where there is none.
    """

    known: NDArray[np.int64]
    items: NDArray[np.int32]
    ends: NDArray[np.int64]
    weights: NDArray[np.float32]
    is_new: NDArray[np.bool_]
    later: NDArray[np.int64]

    @classmethod
    def of(cls, interactions: Interactions, also: NDArray[np.int64] | None = None, *, apart_ms: int = 0) -> Examples:
        """Take all of some interactions; events of one time keep their order.

        Args:
            also: further rows of `Interactions.item_ids` that are known.
            apart_ms: what is told lies more than so much later; 0 = it comes later in the order.
        """
        order = np.argsort(interactions.users, kind="stable")
        taken = interactions.items[order]
        known = np.unique(np.concatenate([taken.astype(np.int64), np.empty(0, np.int64) if also is None else also]))
        ends = np.searchsorted(interactions.users[order], np.arange(interactions.n_users + 1))
        pairs = interactions.users[order].astype(np.int64) * interactions.n_items + taken
        is_new = np.zeros(len(order), np.bool_)
        is_new[np.unique(pairs, return_index=True)[1]] = True
        items = np.searchsorted(known, taken).astype(np.int32)
        later = np.arange(1, len(order) + 1)
        if apart_ms:
            since = interactions.at_ms[order] - interactions.at_ms.min(initial=0)
            since += interactions.users[order].astype(np.int64) * (int(since.max(initial=0)) + apart_ms + 1)
            later = np.searchsorted(since, since + apart_ms, side="right")
        return cls(known, items, ends, interactions.weights[order], is_new, later)

    def taken(self) -> NDArray[np.int64]:
        """Return how often each known item occurs."""
        return np.bincount(self.items, minlength=len(self.known))

    def windows(self, max_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where parts of histories start, and their lengths: each event that another follows is in one of them.

        Parts are of `max_items` events but for the oldest of each user.
        """
        n = np.maximum(np.diff(self.ends) - 1, 0)  # the last event has no next
        n_parts = -(-n // max_items)
        user = np.repeat(np.arange(len(n)), n_parts)
        part = np.arange(len(user)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
        lasts = n[user] - part * max_items
        firsts = np.maximum(lasts - max_items, 0)
        return self.ends[user] + firsts, lasts - firsts

    def epoch(self, rng: np.random.Generator, *, max_items: int, batch_items: int) -> list[Windows]:
        """Return all windows in a random order, those of like length together, at most `batch_items` padded items a batch."""
        starts, lengths = self.windows(max_items)
        order = rng.permutation(len(starts))
        n_near = _SORTED_BATCHES * max(1, batch_items // max_items)
        batches: list[Windows] = []
        for first in range(0, len(order), n_near):
            near = order[first : first + n_near]
            near = near[np.argsort(lengths[near], kind="stable")]
            begin = 0
            for end in range(1, len(near) + 1):
                if end == len(near) or (end + 1 - begin) * lengths[near[end]] > batch_items:
                    batches.append(Windows(starts[near[begin:end]], lengths[near[begin:end]]))
                    begin = end
        return [batches[at] for at in rng.permutation(len(batches))]

    def batch(self, windows: Windows, rng: np.random.Generator, *, reach: int, new_only: bool) -> Batch:
        """Read windows.

        Args:
            reach: the target of a place is one of the next so many events that may be told, each as likely.
            new_only: a target that the user had before counts nothing.
        """
        steps = np.arange(int(windows.lengths.max()))
        there = steps < windows.lengths[:, None]
        places = np.where(there, windows.starts[:, None] + steps, windows.starts[:, None])
        end = self.ends[np.searchsorted(self.ends, windows.starts, side="right")][:, None]
        n_next = np.minimum(end - self.later[places], reach)
        ahead = np.minimum(self.later[places] + (rng.random(places.shape) * n_next).astype(np.int64), end - 1)
        weights = np.where(there & (n_next > 0), self.weights[ahead], 0).astype(np.float32)
        if new_only:
            weights *= self.is_new[ahead]
        return Batch(
            self.items[places].astype(np.int64) * there, windows.lengths, self.items[ahead].astype(np.int64), weights
        )


class Windows(NamedTuple):
    """Parts of histories: where they start and how long they are, int64[b] each."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """What is asked to know when to stop: who takes what next?

    Attributes:
        train: what is known.
        histories: of those who are asked about.
        targets: for each the items to be found, int64[t], rows of `Interactions.item_ids`.
        new_only: items of the history are left out of the answers.
    """

    train: Interactions
    histories: Sequence[History]
    targets: Sequence[NDArray[np.int64]]
    new_only: bool = True


def question_before(interactions: Interactions, now_ms: int, *, days: float, new_only: bool) -> Question | None:
    """Ask for what users took in the last days, of what was known before; None where that leaves nothing."""
    cut_ms = now_ms - int(days * DAY_MS)
    train, later = interactions.between(0, cut_ms), interactions.between(cut_ms, now_ms)
    histories, targets = [], []
    for user in np.flatnonzero(later.n_of_users() * train.n_of_users()):
        history = train.history(int(user))
        wanted = np.unique(later.history(int(user)).items).astype(np.int64)
        if new_only:
            wanted = wanted[~np.isin(wanted, history.items)]
        if len(wanted):
            histories.append(history)
            targets.append(wanted)
    return Question(train, histories, targets, new_only) if histories else None
