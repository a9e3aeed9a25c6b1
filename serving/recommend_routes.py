"""The HTTP route by which a shop's pages ask what to show."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from serving.auth import Access
from serving.intake import DEADLINE, RECORD
from serving.recommendations import Recommendations
from serving.request_log import RequestRecord
from serving.wire.recommend_json import parse_recommend, slate_json
from serving.wire.vertex_json import dump, parse_body

RECOMMEND: Final = "/v1/recommend"
ACCESS: Final[dict[str, Access]] = {f"POST {RECOMMEND}": "read"}


class RecommendRoutes:
    """Handlers over one use case. Belongs to one event loop."""

    def __init__(self, recommendations: Recommendations, *, max_depth: int) -> None:
        self._recommendations = recommendations
        self._max_depth = max_depth

    async def recommend(self, request: Request) -> Response:
        """Answer with a slate."""
        record: RequestRecord = request.scope[RECORD]
        record.endpoint = "recommend"
        query = parse_recommend(parse_body(await request.body(), self._max_depth))
        slate = await self._recommendations.recommend(query, deadline=request.scope[DEADLINE], route=record.route)
        record.index_version, record.variant, record.k = slate.version_id, slate.variant, query.k
        return Response(dump(slate_json(slate)), media_type="application/json")
