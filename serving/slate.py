"""One slate: candidates of each source under one bitmap, blended, and filled up until k places are taken.

history -> each source's ranking -> reciprocal rank fusion -> what is missing, from sources of weight 0 -> any item
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.datapoint import Filter
from matching.errors import InvalidQuery, Unavailable
from matching.fusion import head_depth
from matching.recommend import ItemRows, Model, ModelItems, blend
from matching.recommend.model import Bitmap
from matching.version import MAX_K, IndexVersion
from serving.user_state import Recent

CONTENT: Final = "content"
ANY: Final = "any"
_CONTEXT_ALONE: Final = frozenset(["bought-together"])  # asked with the items of the request, not with the history
_N_CONTENT: Final = 3  # items whose neighbours are looked for
_REASONS: Final[Mapping[str, str]] = {
    "popular": "popular",
    "trending": "trending now",
    "sequential-rules": "chosen after {}",
    "item-knn": "chosen by those who chose {}",
    "ease": "chosen by those who chose {}",
    "ials": "like {}, by those who chose it",
    "bought-together": "bought together with {}",
    CONTENT: "similar to {}",
    ANY: "from the catalogue",
}


@dataclass(frozen=True, slots=True)
class SlateQuery:
    """What a shop's page asks.

    Attributes:
        user: the shop's own id of who looks; "" where nobody knows.
        session: the visit.
        items: what the page shows, the most important last.
        basket: what lies in it.
        surface: whose weights are taken; "" those for all.
        k: how many places.
        filter: what the items must pass.
        exclude: ids that are not wanted.
        exclude_seen: nothing that the user did anything with, as far as that is remembered.
        exclude_bought: nothing that they bought.
    """

    user: str = ""
    session: str = ""
    items: tuple[str, ...] = ()
    basket: tuple[str, ...] = ()
    surface: str = ""
    k: int = 10
    filter: Filter = field(default_factory=Filter)
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = False
    exclude_bought: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a slate.

    Attributes:
        score: of the blend; 0 where the place was filled up.
        sources: that named the item, the weightiest first.
        reason: why the first of them did, in words.
        because: the item of the history that the reason speaks of, "" for none.
    """

    item_id: str
    score: float
    sources: tuple[str, ...]
    reason: str
    because: str


@dataclass(frozen=True, slots=True)
class Filled:
    """Places, best first: min(k, n_matching) of them.

    Attributes:
        n_matching: items that pass the filter and are not excluded.
        lost: sources that could not be asked.
    """

    places: tuple[Place, ...]
    n_matching: int
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Rows of one source, best first; `why` tells the ids that some of them, by place, are there for."""

    source: str
    rows: NDArray[np.int64]
    why: Callable[[NDArray[np.int64]], Sequence[str]]


def fill(
    version: IndexVersion,
    query: SlateQuery,
    recent: Recent,
    models: Mapping[str, Model],
    rows_of: Callable[[ModelItems], ItemRows],
    weights: Mapping[str, float],
    *,
    now_ms: int,
    content_space: str | None = None,
) -> Filled:
    """Fill a slate.

    Args:
        recent: what the user and the visit did.
        models: by source.
        rows_of: the rows of a model's items in the version.
        weights: of models and `content` in the blend, 0 or more; `content` fills up where it is not there.
        now_ms: milliseconds since 1970.
        content_space: of content neighbours; None for the one that suits.

    Raises:
        InvalidQuery: the filter contradicts the version.
    """
    context = (*query.basket, *query.items)
    seen = recent.items if query.exclude_seen else ()
    bought = [item for item, is_so in zip(recent.items, recent.is_bought.tolist()) if is_so and query.exclude_bought]
    allowed = version.matching(query.filter, list({*context, *query.exclude, *seen, *bought}))
    n_matching = cpp_ext.count(allowed, len(version.columns))
    history = _with(recent, context, now_ms)
    asker = _Asker(version, allowed, history, context, models, rows_of, now_ms, content_space)
    blended = {source: weight for source, weight in weights.items() if weight > 0}
    rankings = [asker.ranking(source, min(head_depth(query.k), MAX_K)) for source in blended]
    best = blend([(blended[each.source], each.rows) for each in rankings], query.k)
    places = _places(version, best.rows, best.scores, [[rankings[at] for at in of] for of in best.of])
    taken = best.rows
    for source in _fallbacks(weights, models):
        missing = min(query.k, n_matching) - len(places)
        if missing <= 0:
            break
        asker.leave_out(taken)
        ranking = asker.ranking(source, missing)
        taken = ranking.rows
        places += _places(version, taken, np.zeros(len(taken)), [[ranking]] * len(taken))
    return Filled(tuple(places), n_matching, tuple(asker.lost))


def _with(recent: Recent, context: Sequence[str], now_ms: int) -> Recent:
    """What was done, and then the items of the request: those are looked at now."""
    if not context:
        return recent
    return Recent(
        (*recent.items, *context),
        np.concatenate([recent.at_ms, np.full(len(context), now_ms, np.int64)]),
        np.concatenate([recent.weights, np.ones(len(context), np.float32)]),
        np.concatenate([recent.is_bought, np.zeros(len(context), np.bool_)]),
    )


def _fallbacks(weights: Mapping[str, float], models: Mapping[str, Model]) -> list[str]:
    """Sources that only fill up: of the history, of content, of all users, and at last any item."""
    idle = [source for source in models if not weights.get(source)]
    personal = [source for source in idle if models[source].is_personal]
    rest = [source for source in idle if not models[source].is_personal]
    return [*personal, *([] if weights.get(CONTENT) else [CONTENT]), *rest, ANY]


def _places(
    version: IndexVersion, rows: NDArray[np.int64], scores: NDArray[np.float64], of: Sequence[Sequence[_Ranking]]
) -> list[Place]:
    because = [""] * len(rows)
    for ranking in {id(each[0]): each[0] for each in of}.values():
        own = [at for at, each in enumerate(of) if each[0] is ranking]
        at_row = {row: place for place, row in enumerate(ranking.rows.tolist())}
        told = ranking.why(np.array([at_row[int(rows[at])] for at in own], np.int64))
        for at, item_id in zip(own, told, strict=True):
            because[at] = item_id
    ids = version.columns.datapoint_ids(rows.tolist())
    return [
        Place(item_id, score, tuple([each.source for each in named]), _reason(named[0].source, why), why)
        for item_id, score, named, why in zip(ids, scores.tolist(), of, because, strict=True)
    ]


def _reason(source: str, because: str) -> str:
    return _REASONS.get(source, source).format(because or "what you chose")


@dataclass(slots=True)
class _Asker:
    """Asks the sources of one request."""

    version: IndexVersion
    allowed: Bitmap
    history: Recent
    context: tuple[str, ...]
    models: Mapping[str, Model]
    rows_of: Callable[[ModelItems], ItemRows]
    now_ms: int
    content_space: str | None
    lost: list[str] = field(default_factory=list)
    _of_items: dict[ModelItems, Bitmap] = field(default_factory=dict)

    def leave_out(self, rows: NDArray[np.int64]) -> None:
        """Allow some rows no longer."""
        cpp_ext.clear_rows(self.allowed, rows)
        self._of_items.clear()

    def ranking(self, source: str, n: int) -> _Ranking:
        """Return the n best allowed rows of a source; fewer where it knows fewer."""
        if source == ANY:
            rows = cpp_ext.rows_of(self.allowed, len(self.version.columns))
            n = min(n, len(rows))  # spread over the catalogue, the same each time
            return _Ranking(ANY, rows[np.arange(n) * len(rows) // max(n, 1)], _nothing)
        if source == CONTENT:
            try:
                return self._content(n)
            except Unavailable:
                self.lost.append(CONTENT)
                return _Ranking(CONTENT, np.empty(0, np.int64), _nothing)
        return self._model(self.models[source], n)

    def _model(self, model: Model, n: int) -> _Ranking:
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

        return _Ranking(model.source, rows.rows[found.items], why)

    def _content(self, n: int) -> _Ranking:
        """The neighbours of the newest items that have a vector, nearest first whichever item they are of."""
        name = self.content_space or suiting_space(self.version)
        found: list[tuple[str, NDArray[np.float32]]] = []
        if name is not None:
            space = self.version.space(name)
            for item_id in dict.fromkeys(reversed(self.context or self.history.items)):
                row = self.version.columns.find(item_id)
                vectors = space.vectors_of(row) if row >= 0 else ()
                if len(vectors):
                    found.append((item_id, np.mean(vectors, axis=0, dtype=np.float32)))
                if len(found) == _N_CONTENT:
                    break
        if name is None or not found:
            return _Ranking(CONTENT, np.empty(0, np.int64), _nothing)
        try:
            rows, distances = self.version.nearest_rows(
                np.stack([vector for _, vector in found]), n, space=name, matching=self.allowed
            )
        except InvalidQuery:  # a mean of vectors may have no direction
            return _Ranking(CONTENT, np.empty(0, np.int64), _nothing)
        of = np.repeat(np.arange(len(found)), rows.shape[1])
        order = np.lexsort((rows.ravel(), distances.ravel()))
        order = order[rows.ravel()[order] >= 0]
        first = np.sort(np.unique(rows.ravel()[order], return_index=True)[1])[:n]
        kept = order[first]
        return _Ranking(CONTENT, rows.ravel()[kept], lambda places: [found[at][0] for at in of[kept[places]].tolist()])


def _nothing(places: NDArray[np.int64]) -> Sequence[str]:
    return [""] * len(places)


def suiting_space(version: IndexVersion) -> str | None:
    """Return the space whose neighbours are alike in content, None where it is not obvious."""
    for name in ("fused", "text", "image"):
        if name in version.spaces:
            return name
    return next(iter(version.spaces)) if len(version.spaces) == 1 else None
