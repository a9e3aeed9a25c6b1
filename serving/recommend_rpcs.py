"""The RPC by which a shop's pages ask what to show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from google.protobuf.message import Message

from serving.auth import Access
from serving.recommendations import Recommendations
from serving.request_log import RequestRecord
from serving.wire import likewise_pb2 as pb
from serving.wire.vertex_proto import read_recommend

Work = Callable[[Any, RequestRecord, float], Awaitable[Message]]
SERVICE: Final = "likewise.v1.RecommendationService"
ACCESS: Final[dict[str, Access]] = {f"/{SERVICE}/Recommend": "read"}


class RecommendRpcs:
    """Methods over one use case. Belongs to one event loop."""

    def __init__(self, recommendations: Recommendations) -> None:
        self._recommendations = recommendations

    def methods(self) -> Mapping[str, tuple[type[Any], Work]]:
        """Return message type and work of each method."""
        return {"Recommend": (pb.RecommendRequest, self._recommend)}

    async def _recommend(self, request: pb.RecommendRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "recommend"
        query = read_recommend(request)
        slate = await self._recommendations.recommend(query, deadline=deadline, route=record.route)
        record.index_version, record.variant, record.k = slate.version_id, slate.variant, query.k
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
        )
