"""The HTTP routes by which endpoints are looked at and changed."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from serving.auth import Access
from serving.deployment import Deployment
from serving.intake import RECORD
from serving.recommender import Recommender
from serving.request_log import RequestRecord
from serving.settings import ServingSettings
from serving.wire import endpoint_json as wire
from serving.wire.vertex_json import parse_body

LIST: Final = "/v1/endpoints"
ONE: Final = "/v1/endpoints/{name}"
TRAFFIC, PROMOTE, ROLLBACK = f"{ONE}:traffic", f"{ONE}:promote", f"{ONE}:rollback"
ACCESS: Final[dict[str, Access]] = {
    f"GET {LIST}": "admin",
    f"GET {ONE}": "admin",
    f"POST {TRAFFIC}": "admin",
    f"POST {PROMOTE}": "admin",
    f"POST {ROLLBACK}": "admin",
}


class EndpointRoutes:
    """Handlers over the deployments of one recommender. Belongs to one event loop."""

    def __init__(self, recommender: Recommender, *, settings: ServingSettings) -> None:
        self._recommender = recommender
        self._max_depth = settings.max_json_depth

    async def list(self, request: Request) -> Response:
        """Answer with all endpoints."""
        _begin(request, "list_endpoints")
        shapes = [shape_of(deployment) for deployment in self._recommender.deployments]
        return _json(wire.EndpointsShape(endpoints=shapes))

    async def get(self, request: Request) -> Response:
        """Answer with one endpoint."""
        _begin(request, "get_endpoint")
        return _json(shape_of(self._deployment(request)))

    async def set_traffic(self, request: Request) -> Response:
        """Change variants and their shares."""
        record = _begin(request, "set_traffic")
        deployment = self._deployment(request)
        asked = wire.parsed(wire.TrafficRequest, await self._body(request))
        await deployment.set_traffic(
            wire.variants_of(asked, deployment.endpoint),
            why=asked.why,
            by=record.who or "api",
            coverage=asked.coverage,
            control=asked.control,
        )
        return _json(shape_of(deployment))

    async def promote(self, request: Request) -> Response:
        """Let a variant answer from another version."""
        record = _begin(request, "promote")
        asked = wire.parsed(wire.PromoteRequest, await self._body(request))
        move = await self._deployment(request).promote(
            asked.version, why=asked.why, by=record.who or "api", variant=asked.variant
        )
        record.index_version = move.new
        return _json(wire.move_shape(move))

    async def rollback(self, request: Request) -> Response:
        """Let a variant answer from the version before."""
        record = _begin(request, "rollback")
        asked = wire.parsed(wire.RollbackRequest, await self._body(request))
        move = await self._deployment(request).rollback(why=asked.why, by=record.who or "api", variant=asked.variant)
        record.index_version = move.new
        return _json(wire.move_shape(move))

    def _deployment(self, request: Request) -> Deployment:
        return self._recommender.deployment(request.path_params["name"])

    async def _body(self, request: Request) -> dict[str, object]:
        return parse_body(await request.body() or b"{}", self._max_depth)


def shape_of(deployment: Deployment) -> wire.EndpointShape:
    """Return a deployment's endpoint as it is served."""
    return wire.endpoint_shape(deployment.endpoint, deployment.versions, deployment.refusals)


def _begin(request: Request, endpoint: str) -> RequestRecord:
    record: RequestRecord = request.scope[RECORD]
    record.endpoint = endpoint
    return record


def _json(shape: wire.Shape) -> Response:
    return Response(wire.body_of(shape), media_type="application/json")
