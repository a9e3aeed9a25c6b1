"""Why an item has a place, or why it has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from matching.datapoint import Filter
from matching.rules.choice import bits_at, full
from serving.slate.pipeline import Filled, Filling
from serving.user_state import Recent

Outcome = Literal["shown", "unknown", "excluded", "filtered", "not_retrieved", "removed", "ranked_below"]
_WORDS: Final = {
    "unknown": "the catalogue does not have it",
    "not_retrieved": "no source in the blend found it among its best",
}


@dataclass(frozen=True, slots=True)
class SourceShare:
    """What a source said of the item.

    Attributes:
        rank: 1 for its best; 0 where the item is not among the `depth` that it was asked for.
        contribution: to the score.
        is_fallback: it was only asked for places that were left.
    """

    source: str
    rank: int
    depth: int
    contribution: float
    is_fallback: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of an item.

    Attributes:
        place: 1 for the first; 0 for none.
        score: of the blend, before rules.
        rank: in the blend, before rules, 1 for the best; 0 where it is not there.
        last_score: of the blend, of the last place that the blend filled; 0 where it filled none.
        sources: all that were asked, in the order in which they were.
        rules: that brought, pinned, boosted or buried it, or kept it away.
        filters: what keeps it away besides rules: restricts by their namespace, and exclusions.
        message: the same in a sentence.
    """

    item_id: str
    outcome: Outcome
    place: int
    score: float
    rank: int
    last_score: float
    sources: tuple[SourceShare, ...]
    rules: tuple[str, ...]
    filters: tuple[str, ...]
    message: str


def explain(filling: Filling, filled: Filled, recent: Recent, item_id: str) -> Explanation:
    """Return what became of an item in a slate that was made.

    Args:
        filling: after its run.
        filled: what it told.
        recent: what the user and the visit did.
    """
    row = filling.version.columns.find(item_id)
    place = next((at for at, each in enumerate(filled.places, 1) if each.item_id == item_id), 0)
    found = np.flatnonzero(filling.blended.rows == row) if row >= 0 else np.empty(0, np.int64)
    rank = int(found[0]) + 1 if len(found) else 0
    score = float(filling.blended.scores[rank - 1]) if rank else 0.0
    filters: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    outcome: Outcome
    if row < 0:
        outcome = "unknown"
    elif place:
        outcome, rules = "shown", filled.places[place - 1].rules
    elif not bits_at(filling.allowed, np.array([row]))[0]:
        excluded = tuple(_exclusions(filling, recent, item_id))
        filters = excluded + tuple(_restricts(filling, row))
        rules = tuple(
            rule.id for rule, eligible in filling.holding.eligible if not bits_at(eligible, np.array([row]))[0]
        )
        outcome = "excluded" if excluded else "filtered"
    else:
        rules = tuple(dict.fromkeys(_removing(filling, row)))
        outcome = "removed" if rules else "ranked_below" if rank else "not_retrieved"
    last = min((each.score for each in filled.places if each.score > 0), default=0.0)
    told = _message(outcome, place, rank, score, last, rules, filters)
    return Explanation(item_id, outcome, place, score, rank, last, tuple(_shares(filling, row)), rules, filters, told)


def _exclusions(filling: Filling, recent: Recent, item_id: str) -> Iterator[str]:
    query = filling.query
    if item_id in query.context:
        yield "an item of the request"
    if item_id in query.exclude:
        yield "exclude"
    if query.exclude_seen and item_id in recent.items:
        yield "excludeSeen"
    if query.exclude_bought and item_id in [i for i, is_so in zip(recent.items, recent.is_bought.tolist()) if is_so]:
        yield "excludeBought"
    if query.only and item_id not in query.only:
        yield "not in the list"


def _restricts(filling: Filling, row: int) -> Iterator[str]:
    wanted, columns = filling.query.filter, filling.version.columns
    parts = [(r.namespace, Filter((r,))) for r in wanted.restricts]
    parts += [(n.namespace, Filter((), (n,))) for n in wanted.numeric_restricts]
    for namespace, part in parts:
        if not bits_at(columns.matching(part), np.array([row]))[0]:
            yield namespace


def _removing(filling: Filling, row: int) -> Iterator[str]:
    """Rules that pushed it out of the list, and caps that have no room for it."""
    for effect in filling.arrangement.effects:
        if row in effect.dropped:
            yield effect.rule.id
    for rule, cap, codes in filling.holding.capping:
        if row in full(filling.arrangement.chosen, codes, cap.most):
            yield rule.id


def _shares(filling: Filling, row: int) -> Iterator[SourceShare]:
    n_blended = len(filling.blended.parts)
    for at, ranking in enumerate(filling.rankings):
        found = np.flatnonzero(ranking.rows == row)
        rank = int(found[0]) + 1 if len(found) else 0
        part = 0.0
        if at < n_blended and rank:
            part = float(filling.blended.parts[at, np.flatnonzero(filling.blended.rows == row)[0]])
        yield SourceShare(ranking.source, rank, ranking.depth, part, at >= n_blended)


def _message(
    outcome: Outcome,
    place: int,
    rank: int,
    score: float,
    last: float,
    rules: tuple[str, ...],
    filters: tuple[str, ...],
) -> str:
    by = [*filters, *(f"rule {rule}" for rule in rules)]
    if outcome == "shown":
        moved = f", by rule {', '.join(rules)}" if rules else ""
        return f"place {place}{moved}"
    if outcome in ("excluded", "filtered"):
        return f"kept away by {', '.join(by)}" if by else "it may not be shown"
    if outcome == "removed":
        return f"removed by {', '.join(by)}"
    if outcome == "ranked_below":
        return f"rank {rank} of the blend with score {score:.6f}; the last place kept has {last:.6f}"
    return _WORDS[outcome]
