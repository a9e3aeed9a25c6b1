"""Candidates come in, rows with places come out, and what each rule did to them.

The rules are applied one after the other: boosts and buries, caps, diversity, pins, each kind in the order of the file. After
each the list of the k best is made, so that what it brought, dropped and cost is the difference to the list before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from matching.recommend.model import Bitmap
from matching.rules.choice import bits_at, choose, full
from matching.rules.ordering import Diversity
from matching.rules.rule import Rule
from matching.rules.rulebook import Holding
from matching.space import Space

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a rule that held did.

    Attributes:
        removed: items that might have been shown but for it, as rules before it left them.
        brought: rows that came into the list by it.
        dropped: rows that it pushed out.
        moved: places that hold another item than before it.
        cost: sum of the blend's scores in the list before it less that in the list after it.
        yielded: places that a cap gave way for.
    """

    rule: Rule
    removed: int = 0
    brought: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    moved: int = 0
    cost: float = 0.0
    yielded: int = 0


@dataclass(slots=True)
class Arrangement:
    """Gives places to candidates under the rules that hold. Belongs to one request.

    Attributes:
        holding: the rules.
        k: how many places.
        space: of the vectors that tell what is alike, None where there are none.
        chosen: rows with a place, in the order of choice: pins first.
        effects: of boosts, buries, caps, diversity and pins, as they were applied.
    """

    holding: Holding
    k: int
    space: Space | None = None
    chosen: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    effects: list[Effect] = field(default_factory=list)
    yielded: int = 0
    _gave_way: bool = False
    _pinned: dict[int, int] = field(default_factory=dict)  # row to slot

    @property
    def missing(self) -> int:
        """Places that nothing has yet."""
        return self.k - len(self.chosen)

    @property
    def is_plain(self) -> bool:
        """Whether candidates are taken as they come."""
        held = self.holding
        return not (held.weighing or held.capping or held.diversity)

    @property
    def can_give_way(self) -> bool:
        """Whether a cap that is not strict still holds."""
        return not self._gave_way and any(not cap.is_strict for _, cap, _ in self.holding.capping)

    def give_way(self) -> None:
        """Apply strict caps alone from now on."""
        self._gave_way = True

    def best(self, rows: Rows, scores: NDArray[np.float64], allowed: Bitmap) -> None:
        """Give places to pins and to the candidates of the blend.

        Args:
            rows: best first.
            scores: float64[m], of the blend.
            allowed: bitmap of the rows that may be shown, which pins obey too.
        """
        steps = _Steps(rows, scores, rows[: self.k])
        relevance = scores
        order = np.arange(len(rows))
        for rule, factor, selected in self.holding.weighing:
            relevance = np.where(bits_at(selected, rows), relevance * factor, relevance)
            order = np.argsort(-relevance, kind="stable")
            self.effects.append(steps.after(rule, rows[order[: self.k]]))
        rows, relevance = rows[order], relevance[order]
        for at, (rule, _, _) in enumerate(self.holding.capping, 1):
            kept = choose(rows, relevance, 0, self.k, caps=self._caps()[:at])
            self.effects.append(steps.after(rule, rows[kept]))
        if self.holding.diversity is not None:
            kept = self._choose(rows, relevance, 0)
            self.effects.append(steps.after(self.holding.diversity[0], rows[kept]))
        first: list[int] = []
        for rule, slot, row in self.holding.pins:
            if slot > self.k or not bits_at(allowed, np.array([row]))[0]:
                continue
            first.append(row)
            ahead = np.array(first, np.int64)
            rest = ~np.isin(rows, ahead)
            both = np.concatenate([ahead, rows[rest]])
            kept = self._choose(both, np.concatenate([np.zeros(len(ahead)), relevance[rest]]), len(ahead))
            listed = both[kept]
            if row not in listed:  # a cap is full of earlier pins
                first.pop()
                continue
            self._pinned[row] = slot
            self.effects.append(steps.after(rule, listed, self.order_of(listed)))
        self.chosen = steps.listed

    def more(self, rows: Rows, relevance: NDArray[np.float64]) -> Rows:
        """Give places that are left to further candidates, best first, and return those that got one."""
        n_first = len(self.chosen)
        for _, factor, selected in self.holding.weighing:
            relevance = np.where(bits_at(selected, rows), relevance * factor, relevance)
        order = np.argsort(-relevance, kind="stable")
        both = np.concatenate([self.chosen, rows[order]])
        kept = self._choose(both, np.concatenate([np.zeros(n_first), relevance[order]]), n_first)
        new = both[kept[kept >= n_first]]
        self.chosen = np.concatenate([self.chosen, new])
        if self._gave_way:
            self.yielded += len(new)
        return new

    def full_rows(self) -> Rows:
        """Return all rows that no cap has room for."""
        found = [full(self.chosen, codes, most) for codes, most in self._caps()]
        return np.concatenate([np.empty(0, np.int64), *found])

    def order_of(self, listed: Rows) -> Rows:
        """Return chosen rows in the order of their places: pins in their slots, the others in the order of choice around them."""
        if not self._pinned:
            return listed
        rest = [row for row in listed.tolist() if row not in self._pinned]
        places = rest
        for row, slot in sorted(self._pinned.items(), key=lambda each: each[1]):
            places.insert(slot - 1, row)
        return np.array(places, np.int64)

    def _caps(self) -> list[tuple[NDArray[np.int32], int]]:
        return [(codes, cap.most) for _, cap, codes in self.holding.capping if cap.is_strict or not self._gave_way]

    def _choose(self, rows: Rows, relevance: NDArray[np.float64], n_first: int) -> Rows:
        diversity = None if self.holding.diversity is None else self.holding.diversity[1]
        if diversity is None or self.space is None:
            return choose(rows, relevance, n_first, self.k, caps=self._caps())
        return choose(
            rows,
            relevance,
            n_first,
            self.k,
            caps=self._caps(),
            vectors=self.space.centres(rows),
            weight=diversity.relevance,
        )


@dataclass(slots=True)
class _Steps:
    """Tells what each rule did to the list of the k best."""

    rows: Rows
    scores: NDArray[np.float64]
    listed: Rows
    _shown: Rows | None = None
    _order: Rows | None = None  # of rows, so that a score is found by bisection

    def after(self, rule: Rule, listed: Rows, shown: Rows | None = None) -> Effect:
        """Compare with the list before; `shown` is the list in the order of its places."""
        before, self.listed = self.listed, listed
        shown_before = before if self._shown is None else self._shown
        self._shown = listed if shown is None else shown
        n = min(len(shown_before), len(self._shown))
        were, are = before.tolist(), listed.tolist()
        old, new = set(were), set(are)
        return Effect(
            rule,
            brought=tuple([row for row in are if row not in old]),
            dropped=tuple([row for row in were if row not in new]),
            moved=int(np.count_nonzero(shown_before[:n] != self._shown[:n])) + len(self._shown) - n,
            cost=0.0 if old == new else self._score(before) - self._score(listed),
        )

    def _score(self, listed: Rows) -> float:
        if not len(self.rows):
            return 0.0
        if self._order is None:
            self._order = np.argsort(self.rows)
        places = self._order[np.minimum(np.searchsorted(self.rows, listed, sorter=self._order), len(self.rows) - 1)]
        return float(self.scores[places[self.rows[places] == listed]].sum())


def alike_in(
    diversity: tuple[Rule, Diversity] | None, spaces: Mapping[str, Space], suiting: str | None
) -> Space | None:
    """Return the space that tells what is alike, None where nothing asks for it or the version does not have it."""
    if diversity is None:
        return None
    name = diversity[1].space or suiting
    return None if name is None else spaces.get(name)
