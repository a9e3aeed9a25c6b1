"""Places of a slate, and why an item has one, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from matching.version import IndexVersion
from serving.slate.source import ANY, CONTENT, PINNED, Ranking

_REASONS: Final[Mapping[str, str]] = {
    "popular": "popular",
    "trending": "trending now",
    "sequential-rules": "chosen after {}",
    "item-knn": "chosen by those who chose {}",
    "ease": "chosen by those who chose {}",
    "ease-trending": "chosen by those who chose {}, more than ever",
    "ials": "like {}, by those who chose it",
    "ials-trending": "like {}, by those who chose it, and chosen more than ever",
    "session-knn": "chosen in visits like this one",
    "buy-again": "bought before, and soon due again",
    "new-arrivals": "new",
    "bought-together": "bought together with {}",
    "sasrec": "fits what you did last, as {}",
    "two-tower": "for those who chose {}",
    CONTENT: "similar to {}",
    ANY: "from the catalogue",
    PINNED: "chosen by the shop",
}


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a slate.

    Attributes:
        score: of the blend; 0 where the place was filled up.
        sources: that named the item, the weightiest first.
        reason: why the first of them did, in words.
        because: the item of the history that the reason speaks of, "" for none.
        rules: that brought the item, pinned it, boosted or buried it.
    """

    item_id: str
    score: float
    sources: tuple[str, ...]
    reason: str
    because: str
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """A row that has a place, before its words are found.

    Attributes:
        score: of the blend; 0 where the place was filled up.
        named_by: the rankings that have it, the weightiest first.
    """

    row: int
    score: float
    named_by: tuple[Ranking, ...]


def places_of(
    version: IndexVersion, chosen: Sequence[Chosen], rules: Mapping[int, tuple[str, ...]]
) -> tuple[Place, ...]:
    """Return the places of what was chosen, in their order; each ranking is asked once for all that it speaks for.

    Args:
        rules: by row, those that had to do with it.
    """
    because = [""] * len(chosen)
    for ranking in {id(each.named_by[0]): each.named_by[0] for each in chosen}.values():
        own = [at for at, each in enumerate(chosen) if each.named_by[0] is ranking]
        at_row = {row: place for place, row in enumerate(ranking.rows.tolist())}
        told = ranking.why(np.array([at_row[chosen[at].row] for at in own], np.int64))
        for at, item_id in zip(own, told, strict=True):
            because[at] = item_id
    ids = version.columns.datapoint_ids([each.row for each in chosen])
    return tuple([_place(*each, rules) for each in zip(ids, chosen, because, strict=True)])


def _place(item_id: str, chosen: Chosen, because: str, rules: Mapping[int, tuple[str, ...]]) -> Place:
    sources = tuple([ranking.source for ranking in chosen.named_by])
    return Place(item_id, chosen.score, sources, _reason(sources[0], because), because, rules.get(chosen.row, ()))


def _reason(source: str, because: str) -> str:
    return _REASONS.get(source, source).format(because or "what you chose")
