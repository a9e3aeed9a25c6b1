"""The recall that callers get: now and then an answered query is asked again, exactly, where it disturbs nobody."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from matching.errors import LikewiseError
from matching.version import IndexVersion, SearchResult
from serving.query import NeighborQuery

_log = logging.getLogger(__name__)
_WINDOW: Final = 1000  # queries, of each plan, that an estimate rests on
_Z: Final = 1.959964  # of 95 %
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.1, 2.0
_SAME: Final = 1e-6  # relative; scans and graphs add the same products in another order


@dataclass(frozen=True, slots=True)
class Recall:
    """An estimate of recall with its 95 % confidence interval, from so many queries."""

    estimate: float
    low: float
    high: float
    n_queries: int


class ExactSearch(Protocol):
    """Answers queries in one space of a version."""

    def __call__(self, version: IndexVersion, queries: Sequence[NeighborQuery], space: str, /) -> SearchResult: ...


class RecallObserver(Protocol):
    """Is told of each query that was asked again: of `n_wanted` neighbors the answer had `n_right`."""

    def recalled(self, plan: str, n_right: int, n_wanted: int) -> None: ...


class LiveRecall:
    """Asks one of the queries answered since the last time again, exactly, and compares. Thread-safe.

    Each query has the same chance. The thread that asks pauses after each for so long that it takes no more than its share of one
    core. It has the priority of all others: one that waits for the CPU with the interpreter's lock in hand holds up all requests.
    """

    def __init__(
        self, search: ExactSearch, *, share: float, observer: RecallObserver | None = None, seed: int | None = None
    ) -> None:
        """Begin.

        Args:
            search: what answers requests.
            share: of one core, over 0 and at most 1.
            observer: is told.
            seed: of the choice of queries.
        """
        self._search = search
        self._share = share
        self._observer = observer
        self._random = random.Random(seed).random  # noqa: S311 - a sample, no secret
        self._lock = threading.Lock()
        self._held: tuple[IndexVersion, NeighborQuery, str, SearchResult, int] | None = None
        self._n_seen = 0
        self._counts: dict[str, deque[tuple[int, int]]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="live-recall", daemon=True)
        self._thread.start()

    def found(self, version: IndexVersion, queries: Sequence[NeighborQuery], space: str, result: SearchResult) -> None:
        """Offer what was just answered; costs next to nothing."""
        if result.plan == "exact":
            return
        at = int(self._random() * len(queries))
        with self._lock:
            self._n_seen += 1
            if self._random() * self._n_seen < 1:  # a reservoir of one
                self._held = version, queries[at], space, result, at

    def estimates(self) -> dict[str, Recall]:
        """Return the recall of each plan over its newest queries."""
        with self._lock:
            held = {plan: list(counts) for plan, counts in self._counts.items()}
        return {plan: recall_of(counts) for plan, counts in held.items()}

    def close(self) -> None:
        """Stop asking."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        pause_s = _LEAST_PAUSE_S
        while not self._closing.wait(pause_s):
            began = time.monotonic()
            with self._lock:
                held, self._held, self._n_seen = self._held, None, 0
            if held is not None:
                self._compare(*held)
            del held  # or a version that was replaced would stay for the length of the pause
            took_s = time.monotonic() - began
            pause_s = min(max(took_s * (1 / self._share - 1), _LEAST_PAUSE_S), _MOST_PAUSE_S)

    def _compare(self, version: IndexVersion, query: NeighborQuery, space: str, result: SearchResult, at: int) -> None:
        exactly = replace(query, options=replace(query.options, exact=True, effort=None, recall_target=None))
        try:
            wanted = self._search(version, [exactly], space).neighbors[0]
        except LikewiseError:
            _log.exception("a query could not be asked again")
            return
        except Exception:  # the top of a thread
            _log.exception("live recall stops")
            self._closing.set()
            return
        if not wanted:
            return
        known = {neighbor.datapoint_id for neighbor in wanted}
        farthest = wanted[-1].distance
        # One that lies as near as the last one wanted is as good as that; fused rankings do not go by distance.
        limit = farthest + abs(farthest) * _SAME if query.options.fusion is None else -math.inf
        n_right = sum(n.datapoint_id in known or n.distance <= limit for n in result.neighbors[at])
        n_right = min(n_right, len(wanted))
        with self._lock:
            self._counts.setdefault(result.plan, deque(maxlen=_WINDOW)).append((n_right, len(wanted)))
        if self._observer is not None:
            self._observer.recalled(result.plan, n_right, len(wanted))


def recall_of(counts: Sequence[tuple[int, int]]) -> Recall:
    """Return the recall of some queries, each with how many neighbors were right and how many there are to find.

    The interval is Wilson's, from as many independent neighbors as the queries are worth: neighbors of one query are right or
    wrong together, by the design effect of Kish (Survey Sampling, 1965, 5.4).
    """
    n_queries, n_wanted = len(counts), sum(wanted for _, wanted in counts)
    if n_wanted == 0:
        return Recall(math.nan, 0.0, 1.0, n_queries)
    p = sum(right for right, _ in counts) / n_wanted
    independent = p * (1 - p) / n_wanted  # the variance of p if every neighbor were for itself
    clustered = sum((right - p * wanted) ** 2 for right, wanted in counts) / n_wanted**2
    effect = max(clustered / independent, 1.0) if independent > 0 else n_wanted / n_queries
    n = n_wanted / effect
    middle, half = p + _Z**2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
    whole = 1 + _Z**2 / n
    return Recall(p, max((middle - half) / whole, 0.0), min((middle + half) / whole, 1.0), n_queries)
