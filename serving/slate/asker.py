"""Asks the sources of one request, all of them under one bitmap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.errors import Unavailable
from matching.recommend import ItemRows, Model, ModelItems
from matching.recommend.model import Bitmap
from matching.rules.choice import bits_at
from matching.version import IndexVersion
from serving.slate.content import content_ranking
from serving.slate.source import ANY, CONTENT, Ranking, by_rank, nothing
from serving.user_state import Recent

_CONTEXT_ALONE: Final = frozenset(["bought-together"])  # asked with the items of the request, not with the history


def with_context(recent: Recent, context: Sequence[str], now_ms: int) -> Recent:
    """Return what was done, and then the items of the request: those are looked at now."""
    if not context:
        return recent
    return Recent(
        (*recent.items, *context),
        np.concatenate([recent.at_ms, np.full(len(context), now_ms, np.int64)]),
        np.concatenate([recent.weights, np.ones(len(context), np.float32)]),
        np.concatenate([recent.is_bought, np.zeros(len(context), np.bool_)]),
    )


@dataclass(slots=True)
class Asker:
    """Asks the sources of one request.

    Attributes:
        allowed: bitmap of the rows that may be shown; `leave_out` shrinks it.
        history: what was done, and then the items of the request.
        listed: rows int64[m] that are to be ranked, in the caller's order, in which `any` names them; None for all rows.
        lost: sources that could not be asked.
    """

    version: IndexVersion
    allowed: Bitmap
    history: Recent
    context: tuple[str, ...]
    models: Mapping[str, Model]
    rows_of: Callable[[ModelItems], ItemRows]
    now_ms: int
    content_space: str | None
    listed: NDArray[np.int64] | None = None
    lost: list[str] = field(default_factory=list)
    _of_items: dict[ModelItems, Bitmap] = field(default_factory=dict)

    def leave_out(self, rows: NDArray[np.int64]) -> None:
        """Allow some rows no longer."""
        cpp_ext.clear_rows(self.allowed, rows)
        self._of_items.clear()

    def allow(self, rows: Bitmap) -> None:
        """Allow the rows of a bitmap from now on."""
        self.allowed = rows.copy()
        self._of_items.clear()

    def ranking(self, source: str, n: int) -> Ranking:
        """Return the n best allowed rows of a source; fewer where it knows fewer."""
        return replace(self._ranking(source, n), depth=n)

    def _ranking(self, source: str, n: int) -> Ranking:
        if source == ANY:
            if self.listed is not None:
                rows = self.listed[bits_at(self.allowed, self.listed)][:n]
                return Ranking(ANY, rows, by_rank(len(rows)), nothing)
            rows = cpp_ext.rows_of(self.allowed, len(self.version.columns))
            n = min(n, len(rows))  # spread over the catalogue, the same each time
            return Ranking(ANY, rows[np.arange(n) * len(rows) // max(n, 1)], by_rank(n), nothing)
        if source == CONTENT:
            try:
                asking = self.context or self.history.items
                return content_ranking(self.version, asking, n, self.allowed, space=self.content_space)
            except Unavailable:
                self.lost.append(CONTENT)
                return Ranking(CONTENT, np.empty(0, np.int64), by_rank(0), nothing)
        return self._model(self.models[source], n)

    def _model(self, model: Model, n: int) -> Ranking:
        history = self.history
        if model.source in _CONTEXT_ALONE:
            first = len(history.items) - len(self.context)
            items, at_ms, weights, is_bought = history
            history = Recent(items[first:], at_ms[first:], weights[first:], is_bought[first:])
        asked = model.asked(history.items, history.at_ms, history.weights, self.now_ms)
        rows = self.rows_of(model.items)
        of_items = self._of_items.get(model.items)
        if of_items is None:
            of_items = self._of_items[model.items] = rows.allowed(self.allowed, len(self.version.columns))
        found = model.candidates(asked, n, of_items)

        def why(places: NDArray[np.int64]) -> Sequence[str]:
            because = model.because(asked, found.items[places])
            return [model.items.ids[item] if item >= 0 else "" for item in because.tolist()]

        return Ranking(model.source, rows.rows[found.items], found.scores, why)
