"""The HTTP routes that clients of Vertex AI Vector Search ask, answered by the use cases."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from matching.errors import InvalidQuery
from serving.auth import Access
from serving.error_codes import as_vertex
from serving.intake import DEADLINE, RECORD
from serving.query import NeighborQuery
from serving.query import Route as RoutedTo
from serving.recommender import Recommender
from serving.request_log import RequestRecord
from serving.settings import ServingSettings
from serving.vertex_resources import VertexResources, done_operation
from serving.wire import vertex_json as wire
from serving.wire import vertex_pb2 as vx

M = TypeVar("M", vx.DeployIndexRequest, vx.UndeployIndexRequest)
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
    f"GET {_INDEX}": "read",
    f"GET {_PARENT}/indexes": "read",
    f"GET {_ENDPOINT}": "read",
    f"GET {_PARENT}/indexEndpoints": "read",
    f"POST {_ENDPOINT}:deployIndex": "admin",
    f"POST {_ENDPOINT}:undeployIndex": "admin",
    f"POST {_ENDPOINT}:mutateDeployedIndex": "admin",
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
            f"GET {_INDEX}": self._get_index,
            f"GET {_PARENT}/indexes": self._list_indexes,
            f"GET {_ENDPOINT}": self._get_endpoint,
            f"GET {_PARENT}/indexEndpoints": self._list_endpoints,
            f"POST {_ENDPOINT}:deployIndex": self._deploy,
            f"POST {_ENDPOINT}:undeployIndex": self._undeploy,
            f"POST {_ENDPOINT}:mutateDeployedIndex": self._mutate,
        }
        return [
            Route(f"/{version}/{path}", _answering(handler), methods=[method])
            for version in _VERSIONS
            for (method, path), handler in ((route.split(" "), handler) for route, handler in handlers.items())
        ]

    async def _find_neighbors(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "find_neighbors"
        body = await self._body(request)
        queries, full, token = wire.parse_find_neighbors(body)
        answer = await self._recommender.find_neighbors(
            [_with_self(query) for query in queries],
            deadline=deadline,
            detail="vectors" if full else "id",
            min_version=token,
            route=self._route(request, record, body),
        )
        record.answered(answer, max(query.options.k for query in queries))
        return wire.find_neighbors_json(answer)

    async def _read_datapoints(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "read_datapoints"
        body = await self._body(request)
        ids, space, token = wire.parse_read(body)
        route = self._route(request, record, body)
        answer = await self._recommender.read_datapoints(
            ids, deadline=deadline, space=space, min_version=token, route=route
        )
        record.index_version, record.q = answer.version_id, len(ids)
        return wire.read_json(answer)

    async def _upsert(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "upsert"
        writes, restricts_only, request_id = wire.parse_upsert(await self._body(request))
        record.q = len(writes)
        written = await self._recommender.upsert(
            writes,
            deadline=deadline,
            restricts_only=restricts_only,
            request_id=request_id,
            route=self._write_route(request, record),
        )
        record.index_version = written.version_id
        return wire.written_json(written)

    async def _remove(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "remove"
        ids, request_id = wire.parse_remove(await self._body(request))
        record.q = len(ids)
        written = await self._recommender.remove(
            ids, deadline=deadline, request_id=request_id, route=self._write_route(request, record)
        )
        record.index_version = written.version_id
        return wire.written_json(written)

    async def _get_index(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "get_index"
        return _json(self._resources(request).get_index(_name(request)))

    async def _list_indexes(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "list_indexes"
        return _json(self._resources(request).list_indexes(_listing(request)))

    async def _get_endpoint(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "get_index_endpoint"
        return _json(self._resources(request).get_endpoint(_name(request)))

    async def _list_endpoints(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "list_index_endpoints"
        return _json(self._resources(request).list_endpoints(_listing(request)))

    async def _deploy(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "deploy_index"
        asked = _filled(vx.DeployIndexRequest(), await self._body(request), _name(request))
        return _done(request, await self._resources(request).deploy(asked, by=record.who or "anybody"))

    async def _undeploy(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "undeploy_index"
        asked = _filled(vx.UndeployIndexRequest(), await self._body(request), _name(request))
        return _done(request, await self._resources(request).undeploy(asked, by=record.who or "anybody"))

    async def _mutate(self, request: Request, record: RequestRecord, deadline: float) -> dict[str, Any]:
        record.endpoint = "mutate_deployed_index"
        asked = _filled(vx.DeployIndexRequest(), {"deployedIndex": await self._body(request)}, _name(request))
        return _done(request, self._resources(request).mutate(asked), "MutateDeployedIndexResponse")

    def _resources(self, request: Request) -> VertexResources:
        """Return what names mean to a caller, who found us under the name of its Host header."""
        domain_name = self._settings.vertex_domain_name or request.headers.get("host", "")
        return VertexResources(self._recommender, domain_name=domain_name)

    def _route(self, request: Request, record: RequestRecord, body: Mapping[str, Any]) -> RoutedTo:
        variant = body.get("deployedIndexId", body.get("deployed_index_id")) or ""
        if not isinstance(variant, str):
            raise InvalidQuery("[request] deployedIndexId is no string; expected the name of a variant; quote it")
        return self._resources(request).route(record.route, _name(request), variant)

    def _write_route(self, request: Request, record: RequestRecord) -> RoutedTo:
        return self._resources(request).write_route(record.route, _name(request))

    async def _body(self, request: Request) -> dict[str, Any]:
        return wire.parse_body(await request.body(), self._settings.max_json_depth)


def _answering(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        with as_vertex():
            told = await handler(request, request.scope[RECORD], request.scope[DEADLINE])
        return Response(wire.dump(told), media_type="application/json")

    return answer


def _name(request: Request) -> str:
    """Return the name of the resource that a path is of, without what is to be done with it."""
    return request.url.path.split("/", 2)[2].partition(":")[0]


def _filled(message: M, body: dict[str, Any], index_endpoint: str) -> M:
    """Return the message of a body and a path; what we have no field for is Vertex's alone and has no effect."""
    try:
        json_format.ParseDict(body, message, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise InvalidQuery(f"[request] the body is no {message.DESCRIPTOR.name}: {error}; correct it") from None
    message.index_endpoint = index_endpoint
    return message


def _listing(request: Request) -> vx.ListRequest:
    asked, size = request.query_params, request.query_params.get("pageSize", "0")
    if not re.fullmatch(r"\d{1,9}", size, re.ASCII):
        raise InvalidQuery(f"[request] pageSize is {size[:100]!r}; expected a whole number; correct it")
    return vx.ListRequest(
        parent=_name(request).rpartition("/")[0],
        filter=asked.get("filter", ""),
        page_size=int(size),
        page_token=asked.get("pageToken", ""),
    )


def _json(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message)


def _done(request: Request, response: Message, type_name: str = "") -> dict[str, Any]:
    """Return an operation that has ended, with what it ended with as Google's message of that name."""
    version = request.url.path.split("/", 2)[1]
    held = f"type.googleapis.com/google.cloud.aiplatform.{version}.{type_name or response.DESCRIPTOR.name}"
    operation = done_operation(_name(request), response, held)
    return {"name": operation.name, "done": True, "response": {"@type": held, **_json(response)}}


def _with_self(query: NeighborQuery) -> NeighborQuery:
    """Vertex searches for the vector that an id names, and finds whose it is."""
    return replace(query, options=replace(query.options, include_self=True))
