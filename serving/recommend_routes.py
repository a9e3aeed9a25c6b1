"""The HTTP routes by which a shop's pages ask what to show."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from serving.auth import Access
from serving.intake import DEADLINE, RECORD
from serving.recommendations import Recommendations, Slate
from serving.request_log import RequestRecord
from serving.wire.recommend_json import (
    batch_json,
    explanation_json,
    parse_batch,
    parse_explain,
    parse_rank,
    parse_recommend,
    ranked_json,
    slate_json,
)
from serving.wire.vertex_json import dump, parse_body

RECOMMEND: Final = "/v1/recommend"
EXPLAIN: Final = "/v1/explain"
RANK: Final = "/v1/rank"
BATCH: Final = "/v1/batchRecommend"
ACCESS: Final[dict[str, Access]] = {f"POST {path}": "read" for path in (RECOMMEND, EXPLAIN, RANK, BATCH)}


class RecommendRoutes:
    """Handlers over one use case. Belongs to one event loop."""

    def __init__(self, recommendations: Recommendations, *, max_depth: int) -> None:
        self._recommendations = recommendations
        self._max_depth = max_depth

    async def recommend(self, request: Request) -> Response:
        """Answer with a slate."""
        record, body = await self._begin(request, "recommend")
        query = parse_recommend(body)
        slate = await self._recommendations.recommend(query, deadline=request.scope[DEADLINE], route=record.route)
        record.index_version, record.variant, record.k = slate.version_id, slate.variant, query.k
        return _json(slate_json(slate))

    async def explain(self, request: Request) -> Response:
        """Answer with what became of an item."""
        record, body = await self._begin(request, "explain")
        query, item_id = parse_explain(body)
        slate, told = await self._recommendations.explain(
            query, item_id, deadline=request.scope[DEADLINE], route=record.route
        )
        record.index_version, record.variant, record.k = slate.version_id, slate.variant, query.k
        return _json(explanation_json(slate, told))

    async def rank(self, request: Request) -> Response:
        """Answer with given items in order."""
        record, body = await self._begin(request, "rank")
        query, item_ids = parse_rank(body)
        record.k = len(item_ids)
        slate, left_out = await self._recommendations.rank(
            query, item_ids, deadline=request.scope[DEADLINE], route=record.route
        )
        record.index_version, record.variant = slate.version_id, slate.variant
        return _json(ranked_json(slate, left_out))

    async def recommend_all(self, request: Request) -> Response:
        """Answer with a slate or an error for each request."""
        record, body = await self._begin(request, "batch_recommend")
        queries = parse_batch(body)
        record.q = len(queries)
        results = await self._recommendations.recommend_all(
            queries, deadline=request.scope[DEADLINE], route=record.route
        )
        record.index_version = next((each.version_id for each in results if isinstance(each, Slate)), "")
        return _json(batch_json(results))

    async def _begin(self, request: Request, endpoint: str) -> tuple[RequestRecord, dict[str, Any]]:
        record: RequestRecord = request.scope[RECORD]
        record.endpoint = endpoint
        return record, parse_body(await request.body(), self._max_depth)


def _json(told: dict[str, Any]) -> Response:
    return Response(dump(told), media_type="application/json")
