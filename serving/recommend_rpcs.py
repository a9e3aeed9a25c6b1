"""The RPC by which a shop's pages ask what to show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from serving.auth import Access
from serving.recommendations import Recommendations, Slate, read_each
from serving.request_log import RequestRecord
from serving.wire import likewise_pb2 as pb
from serving.wire.recommend_proto import explanation_message, ranked_message, result_message, slate_message
from serving.wire.vertex_proto import read_recommend

Work = Callable[[Any, RequestRecord, float], Awaitable[Message]]
SERVICE: Final = "likewise.v1.RecommendationService"
METHODS: Final = ("Recommend", "Explain", "Rank", "BatchRecommend")
ACCESS: Final[dict[str, Access]] = {f"/{SERVICE}/{method}": "read" for method in METHODS}


class RecommendRpcs:
    """Methods over one use case. Belongs to one event loop."""

    def __init__(self, recommendations: Recommendations) -> None:
        self._recommendations = recommendations

    def methods(self) -> Mapping[str, tuple[type[Any], Work]]:
        """Return message type and work of each method."""
        return {
            "Recommend": (pb.RecommendRequest, self._recommend),
            "Explain": (pb.ExplainRequest, self._explain),
            "Rank": (pb.RankRequest, self._rank),
            "BatchRecommend": (pb.BatchRecommendRequest, self._recommend_all),
        }

    async def _recommend(self, request: pb.RecommendRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "recommend"
        query = read_recommend(request)
        slate = await self._recommendations.recommend(query, deadline=deadline, route=record.route)
        record.index_version, record.variant, record.k = slate.version_id, slate.variant, query.k
        return slate_message(slate)

    async def _explain(self, request: pb.ExplainRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint = "explain"
        query = read_recommend(request.request)
        slate, told = await self._recommendations.explain(query, request.item_id, deadline=deadline, route=record.route)
        record.index_version, record.variant, record.k = slate.version_id, slate.variant, query.k
        return explanation_message(slate, told)

    async def _rank(self, request: pb.RankRequest, record: RequestRecord, deadline: float) -> Message:
        record.endpoint, record.k = "rank", len(request.item_ids)
        slate, left_out = await self._recommendations.rank(
            read_recommend(request.request), tuple(request.item_ids), deadline=deadline, route=record.route
        )
        record.index_version, record.variant = slate.version_id, slate.variant
        return ranked_message(slate, left_out)

    async def _recommend_all(
        self, request: pb.BatchRecommendRequest, record: RequestRecord, deadline: float
    ) -> Message:
        record.endpoint, record.q = "batch_recommend", len(request.requests)
        results = await self._recommendations.recommend_all(
            [read_each(read_recommend, each) for each in request.requests], deadline=deadline, route=record.route
        )
        record.index_version = next((each.version_id for each in results if isinstance(each, Slate)), "")
        return pb.BatchRecommendResponse(results=[result_message(each) for each in results])
