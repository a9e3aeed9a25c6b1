"""What a shop's pages ask and are answered, as JSON; the models are the shapes of the HTTP API's document too.

Restricts are read by `vertex_json`, in all the spellings that a search takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from pydantic import Field
from pydantic.alias_generators import to_camel

from matching.errors import InvalidInput, InvalidQuery, LikewiseError
from serving.error_codes import code_of, public_message
from serving.recommendations import Slate, read_each
from serving.slate import Explanation, LeftOut, RuleEffect, SlateQuery
from serving.slate.explanation import Outcome
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
    depth: int = Field(
        default=0, description="places of all pages together, where the slate is asked for by pages of k"
    )
    page_token: str = Field(default="", description="nextPageToken of the page before; all else but k as it was")


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
    next_page_token: str = Field(description="of the page after this one; empty where there is none")


class ExplainRequest(Shape):
    """A request for a slate, and an item to be explained."""

    request: RecommendRequest
    item_id: str


class SourceShape(Shape):
    """What a source said of the item."""

    source: str
    rank: int = Field(description="1 for its best; 0 where the item is not among the depth it was asked for")
    depth: int
    contribution: float = Field(description="to the score")
    is_fallback: bool = Field(description="it was only asked for places that were left")


class ExplainResponse(Shape):
    """What became of an item."""

    item_id: str
    outcome: Outcome
    place: int = Field(description="1 for the first; 0 for none")
    score: float = Field(description="of the blend, before rules")
    rank: int = Field(description="in the blend, before rules; 0 where it is not there")
    last_score: float = Field(description="the least score of the blend among the places; 0 where it filled none")
    sources: list[SourceShape]
    rules: list[str] = Field(description="that brought, pinned, boosted or buried it, or kept it away")
    filters: list[str] = Field(description="what keeps it away besides rules: restricts and exclusions")
    message: str
    index_version: str
    variant: str
    rules_version: str


class RankRequest(Shape):
    """A request for a slate, whose k is not read, and items to be put in order."""

    request: RecommendRequest
    item_ids: list[str]


class LeftOutShape(Shape):
    """An item without a place."""

    item_id: str
    why: LeftOut


class RankResponse(Shape):
    """Given items in order."""

    slate: RecommendResponse
    left_out: list[LeftOutShape]


class BatchRecommendRequest(Shape):
    """Several requests."""

    requests: list[RecommendRequest]


class BatchErrorShape(Shape):
    """Why a request of a batch has no slate; the codes are those of an answer to it alone."""

    code: int
    status: str
    message: str


class BatchResultShape(Shape):
    """A slate or an error."""

    slate: RecommendResponse | None = None
    error: BatchErrorShape | None = None


class BatchRecommendResponse(Shape):
    """Results in the order of the requests."""

    results: list[BatchResultShape]


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
        depth=asked.depth,
        page_token=asked.page_token,
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
        "nextPageToken": slate.next_page_token,
    }


def _effect(effect: RuleEffect) -> dict[str, Any]:
    told = asdict(effect)
    return {"ruleId": told.pop("rule_id"), **told}


def parse_explain(body: Mapping[str, Any]) -> tuple[SlateQuery, str]:
    """Return what a page asks, and the item to be explained.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    query = _request(body)
    return query, parsed(ExplainRequest, {**body, "request": RecommendRequest()}).item_id


def parse_rank(body: Mapping[str, Any]) -> tuple[SlateQuery, tuple[str, ...]]:
    """Return what a page asks, and the items to be put in order.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    query = _request(body)
    return query, tuple(parsed(RankRequest, {**body, "request": RecommendRequest()}).item_ids)


def parse_batch(body: Mapping[str, Any]) -> list[SlateQuery | InvalidInput]:
    """Return what each request of a batch asks, or why it cannot be read.

    Raises:
        InvalidQuery: the body is no batch.
    """
    requests = body.get("requests")
    if not isinstance(requests, list) or len(body) != 1 or not all(isinstance(each, dict) for each in requests):
        raise InvalidQuery(
            '[request] the body is not {"requests": [{...}]}; expected that and nothing else; correct it'
        )
    return [read_each(parse_recommend, each) for each in requests]


def explanation_json(slate: Slate, told: Explanation) -> dict[str, Any]:
    """Return what became of an item, as `ExplainResponse` says."""
    answer = {to_camel(name): value for name, value in asdict(told).items()}
    answer["sources"] = [{to_camel(name): value for name, value in each.items()} for each in answer["sources"]]
    return {**answer, "indexVersion": slate.version_id, "variant": slate.variant, "rulesVersion": slate.rules_id}


def ranked_json(slate: Slate, left_out: Mapping[str, LeftOut]) -> dict[str, Any]:
    """Return given items in order, as `RankResponse` says."""
    return {"slate": slate_json(slate), "leftOut": [{"itemId": item, "why": why} for item, why in left_out.items()]}


def batch_json(results: Sequence[Slate | LikewiseError]) -> dict[str, Any]:
    """Return the results of a batch, as `BatchRecommendResponse` says."""
    return {"results": [_result(each) for each in results]}


def _result(result: Slate | LikewiseError) -> dict[str, Any]:
    if isinstance(result, Slate):
        return {"slate": slate_json(result)}
    code = code_of(result)
    return {"error": {"code": code.http, "status": code.status, "message": public_message(result)}}


def _request(body: Mapping[str, Any]) -> SlateQuery:
    request = body.get("request", {})
    if not isinstance(request, dict):
        raise InvalidQuery("[request] request is not an object; expected the body of /v1/recommend; correct it")
    return parse_recommend(request)
