"""Slates and explanations as protocol buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from matching.errors import LikewiseError
from serving.error_codes import code_of, public_message
from serving.recommendations import Slate
from serving.slate import Explanation, LeftOut
from serving.wire import likewise_pb2 as pb


def slate_message(slate: Slate) -> pb.RecommendResponse:
    """Return a slate."""
    return pb.RecommendResponse(
        items=[
            pb.RecommendResponse.Item(
                item_id=place.item_id,
                score=place.score,
                sources=place.sources,
                reason=place.reason,
                because=place.because,
                rules=place.rules,
            )
            for place in slate.places
        ],
        recommendation_id=slate.recommendation_id,
        index_version=slate.version_id,
        models=slate.models,
        variant=slate.variant,
        degraded=slate.is_degraded,
        n_matching=slate.n_matching,
        rules_version=slate.rules_id,
        rules=[pb.RecommendResponse.RuleEffect(**asdict(each)) for each in slate.rules],
        next_page_token=slate.next_page_token,
    )


def explanation_message(slate: Slate, told: Explanation) -> pb.ExplainResponse:
    """Return what became of an item in a slate."""
    return pb.ExplainResponse(
        item_id=told.item_id,
        outcome=told.outcome.upper(),
        place=told.place,
        score=told.score,
        rank=told.rank,
        last_score=told.last_score,
        sources=[pb.ExplainResponse.SourceShare(**asdict(each)) for each in told.sources],
        rules=told.rules,
        filters=told.filters,
        message=told.message,
        index_version=slate.version_id,
        variant=slate.variant,
        rules_version=slate.rules_id,
    )


def ranked_message(slate: Slate, left_out: Mapping[str, LeftOut]) -> pb.RankResponse:
    """Return given items in order, and those without a place."""
    left = [pb.RankResponse.LeftOut(item_id=item, why=why) for item, why in left_out.items()]
    return pb.RankResponse(slate=slate_message(slate), left_out=left)


def result_message(result: Slate | LikewiseError) -> pb.BatchRecommendResponse.Result:
    """Return what became of one request of a batch."""
    if isinstance(result, Slate):
        return pb.BatchRecommendResponse.Result(slate=slate_message(result))
    code = code_of(result)
    error = pb.BatchRecommendResponse.Error(code=code.grpc, status=code.status, message=public_message(result))
    return pb.BatchRecommendResponse.Result(error=error)
