"""One slate: history -> candidates of each source under one bitmap -> blend -> fallback, until k places are taken.

Every step takes arrays of rows and returns arrays of rows; the words of a place are found last, for the places alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import cpp_ext
from matching.fusion import head_depth
from matching.recommend import Blended, ItemRows, Model, ModelItems, blend
from matching.recommend.model import Bitmap
from matching.version import MAX_K, IndexVersion
from serving.slate.asker import Asker, with_context
from serving.slate.place import Chosen, Place, places_of
from serving.slate.query import SlateQuery
from serving.slate.source import ANY, CONTENT, Ranking
from serving.user_state import Recent


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
    allowed = _allowed(version, query, recent)
    n_matching = cpp_ext.count(allowed, len(version.columns))
    history = with_context(recent, query.context, now_ms)
    asker = Asker(version, allowed, history, query.context, models, rows_of, now_ms, content_space)
    rankings, blended = _blended(asker, weights, min(head_depth(query.k), MAX_K))
    chosen = _best(rankings, blended, query.k)
    chosen += _fallback(asker, _fallbacks(weights, models), chosen, min(query.k, n_matching))
    return Filled(places_of(version, chosen), n_matching, tuple(asker.lost))


def _allowed(version: IndexVersion, query: SlateQuery, recent: Recent) -> Bitmap:
    """The one bitmap of what may be shown."""
    seen = recent.items if query.exclude_seen else ()
    bought = [item for item, is_so in zip(recent.items, recent.is_bought.tolist()) if is_so and query.exclude_bought]
    return version.matching(query.filter, list({*query.context, *query.exclude, *seen, *bought}))


def _blended(asker: Asker, weights: Mapping[str, float], depth: int) -> tuple[list[Ranking], Blended]:
    asked = {source: weight for source, weight in weights.items() if weight > 0}
    rankings = [asker.ranking(source, depth) for source in asked]
    return rankings, blend([(asked[each.source], each.rows) for each in rankings])


def _best(rankings: Sequence[Ranking], blended: Blended, k: int) -> list[Chosen]:
    head = zip(blended.rows[:k].tolist(), blended.scores[:k].tolist())
    return [
        Chosen(row, score, tuple([rankings[each] for each in blended.named_by(at)]))
        for at, (row, score) in enumerate(head)
    ]


def _fallback(asker: Asker, sources: Sequence[str], chosen: Sequence[Chosen], n: int) -> list[Chosen]:
    """Fill the places that are left of n, each source asked for what those before it left."""
    filled: list[Chosen] = []
    taken = np.array([each.row for each in chosen], np.int64)
    for source in sources:
        missing = n - len(chosen) - len(filled)
        if missing <= 0:
            break
        asker.leave_out(taken)
        ranking = asker.ranking(source, missing)
        taken = ranking.rows
        filled += [Chosen(row, 0.0, (ranking,)) for row in taken.tolist()]
    return filled


def _fallbacks(weights: Mapping[str, float], models: Mapping[str, Model]) -> list[str]:
    """Sources that only fill up: of the history, of content, of all users, and at last any item."""
    idle = [source for source in models if not weights.get(source)]
    personal = [source for source in idle if models[source].is_personal]
    rest = [source for source in idle if not models[source].is_personal]
    return [*personal, *([] if weights.get(CONTENT) else [CONTENT]), *rest, ANY]
