"""The HTTP route that tells a page what it may ask this service for."""

from __future__ import annotations

from typing import Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from serving.auth import Access
from serving.intake import RECORD
from serving.recommendations import Recommendations
from serving.request_log import RequestRecord
from serving.wire.endpoint_json import Shape
from serving.wire.vertex_json import dump

SURFACES: Final = "/v1/surfaces"
ACCESS: Final[dict[str, Access]] = {f"GET {SURFACES}": "read"}


class SurfacesResponse(Shape):
    """What a page may ask for."""

    sources: dict[str, float] = Field(description="weights of the blend where a request names no surface")
    surfaces: dict[str, dict[str, float]] = Field(description="weights of each surface that a request may name")
    takes_events: bool = Field(description="the service has a log of events")


class SurfaceRoutes:
    """A handler over the settings of one use case. Belongs to one event loop."""

    def __init__(self, recommendations: Recommendations, *, takes_events: bool) -> None:
        named = {name: dict(weights) for name, weights in recommendations.surfaces.items()}
        told = SurfacesResponse(sources=named.pop(""), surfaces=named, takes_events=takes_events)
        self._body = dump(told.model_dump(by_alias=True))

    async def surfaces(self, request: Request) -> Response:
        """Answer with what there is."""
        record: RequestRecord = request.scope[RECORD]
        record.endpoint = "surfaces"
        return Response(self._body, media_type="application/json")
