"""The gRPC front: services to use cases, with health and reflection."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from matching.errors import (
    DeadlineExceeded,
    InvalidQuery,
    LikewiseError,
    LimitExceeded,
    RateLimited,
    Unavailable,
)
from serving.admission import Admission
from serving.auth import Access, Credentials, Gate, Principal
from serving.endpoint_rpcs import ACCESS as ENDPOINT_ACCESS
from serving.endpoint_rpcs import SERVICE as ENDPOINT_SERVICE
from serving.endpoint_rpcs import EndpointRpcs
from serving.error_codes import code_of, public_message, refusal_reason
from serving.event_intake import EventIntake
from serving.event_rpcs import ACCESS as EVENT_ACCESS
from serving.event_rpcs import SERVICE as EVENT_SERVICE
from serving.event_rpcs import EventRpcs
from serving.grpc_admission import Admitted, AdmittingHandler, grpc_options
from serving.grpc_server import GrpcServer, has_own_connections
from serving.listener import grpc_tls, http2_tls
from serving.metrics import Metrics
from serving.query import Detail, Route
from serving.recommend_rpcs import ACCESS as RECOMMEND_ACCESS
from serving.recommend_rpcs import SERVICE as RECOMMEND_SERVICE
from serving.recommend_rpcs import RecommendRpcs
from serving.recommendations import Recommendations
from serving.recommender import Recommender
from serving.request_log import RequestRecord, log_audit, log_request, request_id_from, route_from
from serving.settings import ServingSettings, TlsSettings
from serving.tracing import begin
from serving.vertex_resources import VertexResources
from serving.vertex_rpcs import ACCESS as VERTEX_ACCESS
from serving.vertex_rpcs import Methods, VertexRpcs, Work
from serving.wire import likewise_pb2 as pb
from serving.wire import vertex_proto as wire

_log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[bytes, Message]
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_REFUSING_S: Final = 0.2
_COVERAGE: Final = "x-likewise-coverage"  # of a degraded answer; the messages of some services have no place for it
_ROUTE: Final = ("x-likewise-unit", "x-likewise-override", "x-likewise-endpoint")
_SERVICES: Final = (
    "likewise.v1.MatchService",
    "likewise.v1.IndexService",
    "likewise.v1.SearchService",
    ENDPOINT_SERVICE,
    RECOMMEND_SERVICE,
    EVENT_SERVICE,
)
ACCESS: Final[dict[str, Access]] = {  # what each method needs; one that is not here keeps the service from starting
    "/likewise.v1.MatchService/FindNeighbors": "read",
    "/likewise.v1.MatchService/ReadIndexDatapoints": "read",
    "/likewise.v1.IndexService/UpsertDatapoints": "write",
    "/likewise.v1.IndexService/RemoveDatapoints": "write",
    "/likewise.v1.SearchService/Search": "read",
    "/likewise.v1.SearchService/GetVersion": "read",
    **RECOMMEND_ACCESS,
    **ENDPOINT_ACCESS,
    **EVENT_ACCESS,
    **VERTEX_ACCESS,
    "/grpc.health.v1.Health/Check": "open",
    "/grpc.health.v1.Health/List": "open",
    "/grpc.health.v1.Health/Watch": "open",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "read",
}
_asking: contextvars.ContextVar[Principal | None] = contextvars.ContextVar("asking", default=None)


class GrpcApi:
    """The gRPC server of one service. Belongs to one event loop."""

    def __init__(
        self,
        recommender: Recommender,
        *,
        recommendations: Recommendations,
        gate: Gate,
        metrics: Metrics,
        settings: ServingSettings,
        admission: Admission | None = None,
        events: EventIntake | None = None,
    ) -> None:
        self._recommender = recommender
        self._metrics = metrics
        self._admission = admission or Admission(settings)
        self._request_deadline_s = settings.request_deadline_s
        self._is_stopping = False
        self._max_bytes = settings.max_json_bytes
        self._max_search_bytes = settings.max_image_bytes + 64 * 1024  # a picture and what surrounds it
        limit = max(self._max_bytes, self._max_search_bytes)
        door = _Doorkeeper(gate, metrics) if gate.is_on else None
        self._server: Any = (
            GrpcServer(
                settings=settings, metrics=metrics, max_message_bytes=limit, door=None if door is None else door.find
            )
            if has_own_connections(settings)
            else grpc.aio.server(
                options=grpc_options(settings, max_message_bytes=limit),
                maximum_concurrent_rpcs=settings.max_connections,
                interceptors=[] if door is None else [door],
            )
        )
        match: Methods = {
            "FindNeighbors": (pb.FindNeighborsRequest, self._find_neighbors),
            "ReadIndexDatapoints": (pb.ReadIndexDatapointsRequest, self._read_datapoints),
        }
        index: Methods = {
            "UpsertDatapoints": (pb.UpsertDatapointsRequest, self._upsert),
            "RemoveDatapoints": (pb.RemoveDatapointsRequest, self._remove),
        }
        search: Methods = {
            "Search": (pb.SearchRequest, self._search),
            "GetVersion": (pb.GetVersionRequest, self._version),
        }
        endpoints = EndpointRpcs(recommender).methods()
        recommend = RecommendRpcs(recommendations).methods()
        own = dict(
            zip(_SERVICES, (match, index, search, endpoints, recommend, EventRpcs(events).methods()), strict=True)
        )
        self._resources = VertexResources(recommender, domain_name=settings.vertex_domain_name)
        self._services = own | VertexRpcs(recommender, self._resources, match=match, index=index).services()
        for name, methods in self._services.items():
            self._add_service(name, methods)
        self._health = health_aio.HealthServicer()
        server: Any = self._server
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        add_reflection: Any = (
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        )  # generated code carries no types
        add_reflection(reflection.aio.ReflectionServicer(names), server)

    async def _find_neighbors(
        self, request: pb.FindNeighborsRequest, record: RequestRecord, deadline: float
    ) -> pb.FindNeighborsResponse:
        record.endpoint = "find_neighbors"
        queries = wire.read_find_neighbors(request)
        detail: Detail = "vectors" if request.return_full_datapoint else "id"
        answer = await self._recommender.find_neighbors(
            queries, deadline=deadline, detail=detail, min_version=request.min_version, route=record.route
        )
        record.answered(answer, max(query.options.k for query in queries))
        return wire.find_neighbors_message(answer)

    async def _read_datapoints(
        self, request: pb.ReadIndexDatapointsRequest, record: RequestRecord, deadline: float
    ) -> pb.ReadIndexDatapointsResponse:
        record.endpoint = "read_datapoints"
        answer = await self._recommender.read_datapoints(
            tuple(request.ids), deadline=deadline, min_version=request.min_version, route=record.route
        )
        record.index_version, record.q = answer.version_id, len(request.ids)
        return wire.read_message(answer)

    async def _upsert(
        self, request: pb.UpsertDatapointsRequest, record: RequestRecord, deadline: float
    ) -> pb.WriteResponse:
        record.endpoint, record.q = "upsert", len(request.datapoints)
        writes, restricts_only = wire.read_upsert(request)
        written = await self._recommender.upsert(
            writes,
            deadline=deadline,
            restricts_only=restricts_only,
            request_id=request.request_id or None,
            route=record.route,
        )
        record.index_version = written.version_id
        return wire.written_message(written)

    async def _remove(
        self, request: pb.RemoveDatapointsRequest, record: RequestRecord, deadline: float
    ) -> pb.WriteResponse:
        record.endpoint, record.q = "remove", len(request.datapoint_ids)
        written = await self._recommender.remove(
            tuple(request.datapoint_ids), deadline=deadline, request_id=request.request_id or None, route=record.route
        )
        record.index_version = written.version_id
        return wire.written_message(written)

    async def _search(self, request: pb.SearchRequest, record: RequestRecord, deadline: float) -> pb.SearchResponse:
        asked = request.WhichOneof("query")
        options = wire.read_search(request)
        if asked == "text":
            record.endpoint = "search_text"
            answer = await self._recommender.search_text(request.text, options, deadline=deadline, route=record.route)
        elif asked == "image":
            record.endpoint = "search_image"
            answer = await self._recommender.search_image(request.image, options, deadline=deadline, route=record.route)
        elif asked == "datapoint_id":
            record.endpoint = "similar_items"
            answer = await self._recommender.similar_items(
                request.datapoint_id, options, deadline=deadline, route=record.route
            )
        else:
            raise InvalidQuery("[request] the search has no query; expected one of text, image, datapoint_id; set it")
        record.answered(answer, options.k)
        return wire.search_message(answer)

    async def _version(self, request: pb.GetVersionRequest, record: RequestRecord, deadline: float) -> pb.Version:
        record.endpoint = "version"
        version = self._recommender.version(record.route)
        record.index_version = version.version_id
        return wire.version_message(version)

    def _add_service(self, name: str, methods: Methods) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[bytes, Message]] = {
            # The message is parsed inside the call: grpcio answers UNKNOWN to bytes that it cannot parse.
            method: grpc.unary_unary_rpc_method_handler(
                self._behavior(f"/{name}/{method}", kind, work), None, _serialized
            )
            for method, (kind, work) in methods.items()
        }
        named = {f"/{name}/{method}": handler for method, handler in handlers.items()}
        handler = AdmittingHandler(named, admission=self._admission, metrics=self._metrics)
        self._server.add_generic_rpc_handlers((handler,))

    def _behavior(self, method: str, kind: type[Any], work: Work) -> Callable[[bytes, Context], Awaitable[Message]]:
        """Surround a method with what every call has: deadline, request id, error code, metrics and the log line."""
        is_audited = ACCESS[method] == "admin"
        max_bytes = self._max_search_bytes if kind is pb.SearchRequest else self._max_bytes

        async def behave(content: bytes, context: Context) -> Message:
            began = time.monotonic()
            given = _told(context)
            record = _record(given)
            context.set_trailing_metadata((("x-request-id", record.request_id),))
            left, limit = context.time_remaining(), self._request_deadline_s
            deadline = began + (limit if left is None else min(left, limit))
            code = "CANCELLED"
            try:
                if self._is_stopping:
                    raise Unavailable("[serve] the service is shutting down; ask another replica")
                if deadline <= began:
                    raise DeadlineExceeded("[request] the time ran out before the call's turn came; allow more time")
                record.route = _route(given, record.request_id)
                response = await work(_parsed(kind, content, max_bytes), record, deadline)
                code = "OK"
                if record.is_degraded:
                    told = (("x-request-id", record.request_id), (_COVERAGE, str(record.coverage)))
                    context.set_trailing_metadata(told)
                return response
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the top of a request
                if not isinstance(error, LikewiseError):
                    _log.exception("request %s failed", record.request_id)
                code = code_of(error).status
                await context.abort(_CODES[code_of(error).grpc], public_message(error))
            finally:
                seconds = time.monotonic() - began
                self._metrics.requested("grpc", record.endpoint, code, seconds)
                log_request(record, code, seconds * 1e3)
                if is_audited:
                    log_audit(record, method, code)

        return behave

    def bind(self, host: str, port: int, tls: TlsSettings | None = None) -> int:
        """Bind, encrypted where the settings say so, and return the port obtained.

        Raises:
            OSError: the address is taken or not ours.
            InvalidInput: a file of certificates is missing or holds something else.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if isinstance(self._server, GrpcServer):
            bound = self._server.bind(host, port, http2_tls(tls or TlsSettings()))
        else:
            credentials = grpc_tls(tls or TlsSettings())
            try:
                if credentials is None:
                    bound = self._server.add_insecure_port(address)
                else:
                    bound = self._server.add_secure_port(address, credentials)
            except RuntimeError as error:
                raise OSError(str(error)) from None
        if not self._resources.domain_name:
            self._resources.domain_name = f"{address.rpartition(':')[0]}:{bound}"
        return bound

    async def start(self) -> None:
        """Answer calls; health says NOT_SERVING until `set_ready`."""
        await self.set_ready(False)
        await self._server.start()

    async def set_ready(self, is_ready: bool) -> None:
        """Tell health what to answer, for the server as a whole and each service."""
        status = health_pb2.HealthCheckResponse
        for name in ("", *self._services):
            await self._health.set(name, status.SERVING if is_ready else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those under way finish for `grace_s` seconds."""
        # Ourselves first, with UNAVAILABLE, which clients try elsewhere: grpcio says CANCELLED to a call that meets its stop.
        self._is_stopping = True
        await asyncio.sleep(_REFUSING_S)
        await self._server.stop(grace_s)


class _Doorkeeper(grpc.aio.ServerInterceptor):
    """Asks the gate as soon as the head of a call is there; its messages are not read before."""

    def __init__(self, gate: Gate, metrics: Metrics) -> None:
        self._gate = gate
        self._metrics = metrics

    def find(self, details: Any, look_up: Callable[[Any], Any]) -> Any:
        """Return what answers a call: its method, or a refusal."""
        access = ACCESS.get(details.method, "known")  # what there is not is told only to callers that are known
        try:
            return _claimed(self._admitted(details, access), look_up(details))
        except LikewiseError as error:
            return self._refusal(error, details.method, access)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Do the same for grpcio."""
        access = ACCESS.get(handler_call_details.method, "known")
        try:
            return _claimed(self._admitted(handler_call_details, access), await continuation(handler_call_details))
        except LikewiseError as error:
            return self._refusal(error, handler_call_details.method, access)

    def _admitted(self, details: Any, access: Access) -> Principal | None:
        principal = self._gate.identify(_credentials(details.invocation_metadata), access)
        _asking.set(principal)
        self._gate.admit(principal, access)
        return principal

    def _refusal(self, error: LikewiseError, method: str, access: Access) -> Any:
        began = time.monotonic()

        async def refuse(_: AsyncIterator[bytes], context: Context) -> None:
            record, code = _record(_told(context)), code_of(error)
            trailing = [("x-request-id", record.request_id)]
            if isinstance(error, RateLimited):
                trailing.append(("retry-after-ms", str(math.ceil(error.retry_after_s * 1e3))))
            seconds = time.monotonic() - began
            self._metrics.requested("grpc", record.endpoint, code.status, seconds, reason=refusal_reason(error))
            log_request(record, code.status, seconds * 1e3)
            if access == "admin":
                log_audit(record, method, code.status)
            await context.abort(_CODES[code.grpc], public_message(error), tuple(trailing))

        return grpc.stream_stream_rpc_method_handler(refuse)


def _claimed(principal: Principal | None, handler: Any) -> Any:
    if principal is not None and isinstance(handler, Admitted):
        handler.ticket.claim(principal.name)
    return handler


def _credentials(metadata: Any) -> Credentials:
    held: Mapping[str, Any] = dict(metadata or ())
    told = {name: held[name] for name in ("authorization", "x-api-key") if isinstance(held.get(name), str)}
    return Credentials(told.get("authorization"), told.get("x-api-key"))


def _told(context: Context) -> dict[str, str]:
    """Return the metadata of a call that are text."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _record(given: Mapping[str, str]) -> RequestRecord:
    trace = begin(given.get("traceparent"))
    return RequestRecord(request_id_from(given.get("x-request-id")), "grpc", principal=_asking.get(), trace=trace)


def _route(given: Mapping[str, str], request_id: str) -> Route:
    if given.keys().isdisjoint(_ROUTE):
        return Route(request_id=request_id)
    unit_id, override, endpoint = (given.get(name) for name in _ROUTE)
    return route_from(unit_id, override, endpoint, request_id)


def _parsed(kind: type[Any], content: bytes, max_bytes: int) -> Any:
    if len(content) > max_bytes:
        raise LimitExceeded(f"[request] the message has {len(content):,} bytes; at most {max_bytes:,}; send less")
    try:
        return kind.FromString(content)
    except DecodeError:
        raise InvalidQuery(
            f"[request] {len(content):,} bytes are not a {kind.DESCRIPTOR.full_name}; expected that message; check the client"
        ) from None


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
