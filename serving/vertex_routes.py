"""The HTTP routes that clients of Vertex AI Vector Search ask, answered by the use cases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.auth import Access
from serving.error_codes import as_vertex
from serving.intake import DEADLINE, RECORD
from serving.query import NeighborQuery
from serving.recommender import Recommender
from serving.request_log import RequestRecord
from serving.settings import ServingSettings
from serving.wire import vertex_json as wire

Handler = Callable[[Request, RequestRecord, float], Awaitable[dict[str, Any]]]
_VERSIONS: Final = ("v1", "v1beta1")
_PARENT: Final = "projects/{project}/locations/{location}"
_ENDPOINT: Final = f"{_PARENT}/indexEndpoints/{{endpoint}}"
_INDEX: Final = f"{_PARENT}/indexes/{{index}}"
_ACCESS: Final[dict[str, Access]] = {
    f"POST {_ENDPOINT}:findNeighbors": "read",
    f"POST {_ENDPOINT}:readIndexDatapoints": "read",
    f"POST {_INDEX}:upsertDatapoints": "write",
    f"POST {_INDEX}:removeDatapoints": "write",
}
ACCESS: Final[dict[str, Access]] = {
    route.replace(" ", f" /{version}/", 1): access for version in _VERSIONS for route, access in _ACCESS.items()
}


class VertexRoutes:
    """Vertex's routes over one recommender. Belongs to one event loop."""

    def __init__(self, recommender: Recommender, *, settings: ServingSettings) -> None:
        self._recommender = recommender
        self._settings = settings

    def routes(self) -> list[Route]:
        """Return a route for each method of each API version."""
        handlers: dict[str, Handler] = {
            f"POST {_ENDPOINT}:findNeighbors": self._find_neighbors,
            f"POST {_ENDPOINT}:readIndexDatapoints": self._read_datapoints,
            f"POST {_INDEX}:upsertDatapoints": self._upsert,
            f"POST {_INDEX}:removeDatapoints": self._remove,
        }
        return [
            Route(f"/{version}/{path}", _answering(handler), methods=[method])
            for version in _VERSIONS
            for (method, path), handler in ((route.split(" "), handler) for route, handler in handlers.items())
        ]

    async def _find_neighbors(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "find_neighbors"
        queries, full, token = wire.parse_find_neighbors(await self._body(request))
        answer = await self._recommender.find_neighbors(
            [_with_self(query) for query in queries],
            deadline=deadline,
            detail="vectors" if full else "id",
            min_version=token,
        )
        record.answered(answer, max(query.options.k for query in queries))
        return wire.find_neighbors_json(answer)

    async def _read_datapoints(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "read_datapoints"
        ids, space, token = wire.parse_read(await self._body(request))
        answer = await self._recommender.read_datapoints(ids, deadline=deadline, space=space, min_version=token)
        record.index_version, record.q = answer.version_id, len(ids)
        return wire.read_json(answer)

    async def _upsert(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "upsert"
        writes, restricts_only, request_id = wire.parse_upsert(await self._body(request))
        record.q = len(writes)
        written = await self._recommender.upsert(
            writes, deadline=deadline, restricts_only=restricts_only, request_id=request_id
        )
        record.index_version = written.version_id
        return wire.written_json(written)

    async def _remove(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "remove"
        ids, request_id = wire.parse_remove(await self._body(request))
        record.q = len(ids)
        written = await self._recommender.remove(ids, deadline=deadline, request_id=request_id)
        record.index_version = written.version_id
        return wire.written_json(written)

    async def _body(self, request: Request) -> dict[str, Any]:
        return wire.parse_body(await request.body(), self._settings.max_json_depth)


def _answering(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        with as_vertex():
            told = await handler(request, request.scope[RECORD], request.scope[DEADLINE])
        return Response(wire.dump(told), media_type="application/json")

    return answer


def _with_self(query: NeighborQuery) -> NeighborQuery:
    """Vertex searches for the vector that an id names, and finds whose it is."""
    return replace(query, options=replace(query.options, include_self=True))
