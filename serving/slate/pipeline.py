"""One slate: history -> candidates of each source under one bitmap -> blend -> rules -> fallback, until k places are taken.

Every step takes arrays of rows and returns arrays of rows; the words of a place are found last, for the places alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.fusion import head_depth
from matching.recommend import Blended, ItemRows, Model, ModelItems, blend
from matching.recommend.model import Bitmap
from matching.rules import NO_RULES, Arrangement, Effect, Holding, Rulebook, alike_in
from matching.rules.choice import bits_at
from matching.version import MAX_K, IndexVersion
from serving.slate.asker import Asker, with_context
from serving.slate.content import suiting_space
from serving.slate.effect import RuleEffect, effects_of, touching
from serving.slate.place import Chosen, Place, places_of
from serving.slate.query import SlateQuery
from serving.slate.source import ANY, CONTENT, PINNED, Ranking, by_rank, nothing
from serving.user_state import Recent

LeftOut = Literal["unknown", "not_allowed", "rules"]


@dataclass(frozen=True, slots=True)
class Filled:
    """Places in their order: min(k, n_matching) of them, fewer only where a strict cap keeps the rest away.

    Attributes:
        n_matching: items that pass the filter and the rules of what may be shown, and are not excluded.
        rules: what each rule that held did.
        lost: sources that could not be asked.
    """

    places: tuple[Place, ...]
    n_matching: int
    rules: tuple[RuleEffect, ...]
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
    rulebook: Rulebook = NO_RULES,
) -> Filled:
    """Fill a slate.

    Args:
        recent: what the user and the visit did.
        models: by source.
        rows_of: the rows of a model's items in the version.
        weights: of models and `content` in the blend, 0 or more; `content` fills up where it is not there.
        now_ms: milliseconds since 1970.
        content_space: of content neighbours; None for the one that suits.
        rulebook: of the shop.

    Raises:
        InvalidQuery: the filter contradicts the version.
    """
    filling = Filling.of(
        version,
        query,
        recent,
        models,
        rows_of,
        weights,
        now_ms=now_ms,
        content_space=content_space,
        rulebook=rulebook,
    )
    filling.run()
    return filling.told()


@dataclass(slots=True)
class Filling:
    """A slate while it is made, and everything it was made of.

    Attributes:
        weights: of the sources in the blend.
        removed: what each rule of what may be shown left out.
        n_matching: of rows that may be shown.
        rankings: of the sources in the blend, and of the fallbacks that were asked.
        blended: candidates with their scores.
    """

    version: IndexVersion
    query: SlateQuery
    asker: Asker
    weights: Mapping[str, float]
    holding: Holding
    arrangement: Arrangement
    removed: tuple[Effect, ...]
    n_matching: int
    allowed: Bitmap
    rankings: list[Ranking] = field(default_factory=list)
    blended: Blended = field(default_factory=lambda: blend([]))
    _chosen: dict[int, Chosen] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        version: IndexVersion,
        query: SlateQuery,
        recent: Recent,
        models: Mapping[str, Model],
        rows_of: Callable[[ModelItems], ItemRows],
        weights: Mapping[str, float],
        *,
        now_ms: int,
        content_space: str | None = None,
        rulebook: Rulebook = NO_RULES,
    ) -> Filling:
        """Find what may be shown and which rules hold, as `fill` takes it."""
        columns = version.columns
        holding = rulebook.holding(columns, query.context, surface=query.surface, now_ms=now_ms)
        allowed = version.matching(query.filter, query.left_out(recent))
        listed = _listed(version, query.only)
        if listed is not None:
            cpp_ext.intersect(allowed, _bitmap(listed, len(columns)))
        n_matching = cpp_ext.count(allowed, len(columns))
        removed = []
        for rule, eligible in holding.eligible:
            cpp_ext.intersect(allowed, eligible)
            before, n_matching = n_matching, cpp_ext.count(allowed, len(columns))
            removed.append(Effect(rule, removed=before - n_matching))
        space = alike_in(holding.diversity, version.spaces, content_space or suiting_space(version))
        history = with_context(recent, query.context, now_ms)
        return cls(
            version,
            query,
            Asker(version, allowed.copy(), history, query.context, models, rows_of, now_ms, content_space, listed),
            weights,
            holding,
            Arrangement(holding, query.k, space),
            tuple(removed),
            n_matching,
            allowed,
        )

    def run(self) -> None:
        """Ask the sources in the blend, apply the rules, and fill the places that are left."""
        asked = {source: weight for source, weight in self.weights.items() if weight > 0}
        depth = min(head_depth(self.query.k), MAX_K)
        self.rankings = [self.asker.ranking(source, depth) for source in asked]
        self.blended = blend([(asked[each.source], each.rows, each.scores) for each in self.rankings])
        self.arrangement.best(self.blended.rows, self.blended.scores, self.allowed)
        self._name_blended(self.arrangement.chosen)
        self._fall_back()
        if self.missing > 0 and self.arrangement.can_give_way:
            self._give_way()

    @property
    def missing(self) -> int:
        """Places that could be taken, and are not yet."""
        return min(self.query.k, self.n_matching) - len(self.arrangement.chosen)

    def told(self) -> Filled:
        """Return the slate in words."""
        shown = self.arrangement.order_of(self.arrangement.chosen)
        effects = (*self.removed, *self.arrangement.effects)
        touched = touching(self.holding, self.arrangement.effects, shown)
        chosen = [self._chosen[row] for row in shown.tolist()]
        return Filled(
            places_of(self.version, chosen, touched),
            self.n_matching,
            effects_of(self.version, self.holding, effects, self.arrangement.yielded),
            tuple(dict.fromkeys(self.asker.lost)),
        )

    def why_not(self, item_id: str) -> LeftOut:
        """Return why an item has no place where there was one for it."""
        row = self.version.columns.find(item_id)
        if row < 0:
            return "unknown"
        return "rules" if bits_at(self.allowed, np.array([row]))[0] else "not_allowed"

    def _name_blended(self, rows: NDArray[np.int64]) -> None:
        """Note the score and the sources of rows of the blend; a pin may be in none of them."""
        found = np.flatnonzero(np.isin(self.blended.rows, rows))
        at_row = dict(zip(self.blended.rows[found].tolist(), found.tolist(), strict=True))
        for row in rows.tolist():
            at = at_row.get(row)
            if at is None:
                self._chosen[row] = Chosen(row, 0.0, (Ranking(PINNED, np.array([row]), by_rank(1), nothing),))
            else:
                named = tuple([self.rankings[each] for each in self.blended.named_by(at)])
                self._chosen[row] = Chosen(row, float(self.blended.scores[at]), named)

    def _fall_back(self) -> None:
        """Fill the places that are left, each source asked for what those before it left."""
        self.asker.leave_out(self.arrangement.chosen)
        for source in _fallbacks(self.weights, self.asker.models):
            while self.missing > 0:
                self.asker.leave_out(self.arrangement.full_rows())
                n = self.missing if self.arrangement.is_plain else min(head_depth(self.missing), MAX_K)
                ranking = self.asker.ranking(source, n)
                self.rankings.append(ranking)
                new = self.arrangement.more(ranking.rows, ranking.scores.astype(np.float64))
                self._chosen |= {row: Chosen(row, 0.0, (ranking,)) for row in new.tolist()}
                self.asker.leave_out(new)
                if len(ranking.rows) < n or not len(new):  # it knows no more
                    break

    def _give_way(self) -> None:
        """Fill what caps have left empty: first from the blend, then as before, under strict caps alone."""
        self.arrangement.give_way()
        chosen = self.arrangement.chosen
        rows = self.blended.rows
        full = self.arrangement.full_rows()
        left = ~np.isin(rows, chosen) & ~np.isin(rows, full)
        new = self.arrangement.more(rows[left], self.blended.scores[left])
        self._name_blended(new)
        self.asker.allow(self.allowed)
        self._fall_back()


def _listed(version: IndexVersion, only: Sequence[str]) -> NDArray[np.int64] | None:
    """Return the rows of a list that are there, in its order."""
    if not only:
        return None
    rows = map(version.columns.find, dict.fromkeys(only))
    return np.array([row for row in rows if row >= 0], np.int64)


def _bitmap(rows: NDArray[np.int64], n_rows: int) -> Bitmap:
    bitmap = cpp_ext.new_bitmap(n_rows)
    cpp_ext.set_rows(bitmap, rows)
    return bitmap


def _fallbacks(weights: Mapping[str, float], models: Mapping[str, Model]) -> Sequence[str]:
    """Sources that only fill up: of the history, of content, of all users, and at last any item."""
    idle = [source for source in models if not weights.get(source)]
    personal = [source for source in idle if models[source].is_personal]
    rest = [source for source in idle if not models[source].is_personal]
    return [*personal, *([] if weights.get(CONTENT) else [CONTENT]), *rest, ANY]
