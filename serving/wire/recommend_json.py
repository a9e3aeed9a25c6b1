"""What a shop's pages ask and are answered, as JSON; the models are the shapes of the HTTP API's document too.

Restricts are read by `vertex_json`, in all the spellings that a search takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from pydantic import Field

from serving.recommendations import Slate
from serving.slate import RuleEffect, SlateQuery
from serving.wire.endpoint_json import Shape, parsed
from serving.wire.schema import NumericRestriction, Restriction
from serving.wire.vertex_json import parse_filter

_FILTER: Final = frozenset(["restricts", "numericRestricts", "numeric_restricts"])


class RecommendRequest(Shape):
    """What a page asks."""

    user_id: str = Field(default="", description="the shop's own id of who looks; empty where nobody knows")
    session_id: str = Field(default="", description="the visit")
    items: list[str] = Field(default=[], description="what the page shows, the most important last")
    basket: list[str] = Field(default=[])
    surface: str = Field(default="", description="whose weights are taken; empty: those for all")
    k: int = SlateQuery().k
    restricts: list[Restriction] = Field(default=[])
    numeric_restricts: list[NumericRestriction] = Field(default=[])
    exclude: list[str] = Field(default=[], description="ids that are not wanted; items and basket never come back")
    exclude_seen: bool = Field(default=False, description="nothing that the user did anything with, as remembered")
    exclude_bought: bool = False


class PlaceShape(Shape):
    """One place."""

    item_id: str
    score: float = Field(description="of the blend; 0 where the place was filled up")
    sources: list[str] = Field(description="that named the item, the weightiest first")
    reason: str = Field(description="why the first of them did, in words")
    because: str = Field(description="the item that the reason speaks of; empty for none")
    rules: list[str] = Field(description="that brought it, pinned it, boosted or buried it")


class RuleEffectShape(Shape):
    """What a rule that held did."""

    rule_id: str
    kind: str
    removed: int = Field(description="items that could have been shown but for it, as the rules before it left them")
    brought: list[str] = Field(description="ids that came among the k best of the blend by it")
    dropped: list[str] = Field(description="ids that it pushed out of them")
    moved: int = Field(description="of those k places, how many hold another item than before it")
    cost: float = Field(description="the blend's scores of the k best before it less those after it, in sum")
    yielded: int = Field(description="places that caps gave way for")


class RecommendResponse(Shape):
    """A slate."""

    items: list[PlaceShape]
    recommendation_id: str = Field(description="for events that speak of it")
    index_version: str
    models: dict[str, str] = Field(description="the model of each source")
    variant: str
    degraded: bool = Field(description="a source could not be asked, or an older model or rule set answers")
    n_matching: int = Field(description="items that pass the restricts and the rules of what may be shown")
    rules_version: str = Field(description="the rule set that was applied; empty for none")
    rules: list[RuleEffectShape] = Field(description="those that held, in their order")


def parse_recommend(body: Mapping[str, Any]) -> SlateQuery:
    """Return what a page asks.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    wanted = parse_filter({name: value for name, value in body.items() if name in _FILTER})
    asked = parsed(RecommendRequest, {name: value for name, value in body.items() if name not in _FILTER})
    return SlateQuery(
        user=asked.user_id,
        session=asked.session_id,
        items=tuple(asked.items),
        basket=tuple(asked.basket),
        surface=asked.surface,
        k=asked.k,
        filter=wanted,
        exclude=tuple(asked.exclude),
        exclude_seen=asked.exclude_seen,
        exclude_bought=asked.exclude_bought,
    )


def slate_json(slate: Slate) -> dict[str, Any]:
    """Return a slate, as `RecommendResponse` says."""
    return {
        "items": [
            {
                "itemId": place.item_id,
                "score": place.score,
                "sources": place.sources,
                "reason": place.reason,
                "because": place.because,
                "rules": place.rules,
            }
            for place in slate.places
        ],
        "recommendationId": slate.recommendation_id,
        "indexVersion": slate.version_id,
        "models": slate.models,
        "variant": slate.variant,
        "degraded": slate.is_degraded,
        "nMatching": slate.n_matching,
        "rulesVersion": slate.rules_id,
        "rules": [_effect(each) for each in slate.rules],
    }


def _effect(effect: RuleEffect) -> dict[str, Any]:
    told = asdict(effect)
    return {"ruleId": told.pop("rule_id"), **told}
