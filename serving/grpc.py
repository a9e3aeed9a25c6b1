"""The gRPC front: services to use cases, with health and reflection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from matching.errors import InvalidQuery, LikewiseError
from serving.error_codes import code_of, public_message
from serving.metrics import Metrics
from serving.query import Detail
from serving.recommender import Recommender
from serving.request_log import RequestRecord, log_request, request_id_from
from serving.settings import ServingSettings
from serving.wire import likewise_pb2 as pb
from serving.wire import likewise_pb2_grpc as glue
from serving.wire import vertex_proto as wire

_log = logging.getLogger(__name__)
Response = TypeVar("Response")
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_SERVICES: Final = ("likewise.v1.MatchService", "likewise.v1.SearchService")


class _Calls:
    """What surrounds every call: deadline, request id, error code, metrics and the log line."""

    def __init__(self, metrics: Metrics, request_deadline_s: float) -> None:
        self._metrics = metrics
        self._request_deadline_s = request_deadline_s

    async def answer(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        endpoint: str,
        work: Callable[[RequestRecord, float], Awaitable[Response]],
    ) -> Response:
        began = time.monotonic()
        given = next((str(value) for key, value in context.invocation_metadata() or () if key == "x-request-id"), None)
        record = RequestRecord(request_id_from(given), "grpc", endpoint)
        left = context.time_remaining()
        limit = self._request_deadline_s
        deadline = began + (limit if left is None else min(left, limit))
        context.set_trailing_metadata((("x-request-id", record.request_id),))
        code = "CANCELLED"
        try:
            response = await work(record, deadline)
            code = "OK"
            return response
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the top of a request
            if not isinstance(error, LikewiseError):
                _log.exception("request %s failed", record.request_id)
            code = code_of(error).status
            await context.abort(_CODES[code_of(error).grpc], public_message(error))
            raise AssertionError("abort returned") from error
        finally:
            seconds = time.monotonic() - began
            self._metrics.requested("grpc", endpoint, code, seconds)
            log_request(record, code, seconds * 1e3)


class MatchService(glue.MatchServiceServicer):
    """Vertex's data plane."""

    def __init__(self, recommender: Recommender, calls: _Calls) -> None:
        self._recommender = recommender
        self._calls = calls

    async def FindNeighbors(  # noqa: N802
        self, request: pb.FindNeighborsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindNeighborsResponse:
        """Answer a batch of queries."""

        async def work(record: RequestRecord, deadline: float) -> pb.FindNeighborsResponse:
            queries = wire.read_find_neighbors(request)
            detail: Detail = "vectors" if request.return_full_datapoint else "id"
            answer = await self._recommender.find_neighbors(queries, deadline=deadline, detail=detail)
            record.answered(answer, max(query.options.k for query in queries))
            return wire.find_neighbors_message(answer)

        return await self._calls.answer(context, "find_neighbors", work)

    async def ReadIndexDatapoints(  # noqa: N802
        self, request: pb.ReadIndexDatapointsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ReadIndexDatapointsResponse:
        """Answer with datapoints by id."""

        async def work(record: RequestRecord, deadline: float) -> pb.ReadIndexDatapointsResponse:
            answer = await self._recommender.read_datapoints(tuple(request.ids), deadline=deadline)
            record.index_version, record.q = answer.version_id, len(request.ids)
            return wire.read_message(answer)

        return await self._calls.answer(context, "read_datapoints", work)


class SearchService(glue.SearchServiceServicer):
    """Searches by text, picture and item."""

    def __init__(self, recommender: Recommender, calls: _Calls) -> None:
        self._recommender = recommender
        self._calls = calls

    async def Search(  # noqa: N802
        self, request: pb.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SearchResponse:
        """Answer a text, a picture or an item."""
        asked = request.WhichOneof("query")
        endpoints = {"text": "search_text", "image": "search_image", "datapoint_id": "similar_items", None: "search"}

        async def work(record: RequestRecord, deadline: float) -> pb.SearchResponse:
            options = wire.read_search(request)
            if asked == "text":
                answer = await self._recommender.search_text(request.text, options, deadline=deadline)
            elif asked == "image":
                answer = await self._recommender.search_image(request.image, options, deadline=deadline)
            elif asked == "datapoint_id":
                answer = await self._recommender.similar_items(request.datapoint_id, options, deadline=deadline)
            else:
                raise InvalidQuery(
                    "[request] the search has no query; expected one of text, image, datapoint_id; set it"
                )
            record.answered(answer, options.k)
            return wire.search_message(answer)

        return await self._calls.answer(context, endpoints[asked], work)

    async def GetVersion(  # noqa: N802
        self, request: pb.GetVersionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.Version:
        """Answer with what is being served."""

        async def work(record: RequestRecord, deadline: float) -> pb.Version:
            version = self._recommender.version()
            record.index_version = version.version_id
            return wire.version_message(version)

        return await self._calls.answer(context, "version", work)


class GrpcApi:
    """The gRPC server of one service. Belongs to one event loop."""

    def __init__(self, recommender: Recommender, *, metrics: Metrics, settings: ServingSettings) -> None:
        limit = max(settings.max_json_bytes, settings.max_image_bytes) + 64 * 1024  # a picture and what surrounds it
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", 100),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.max_ping_strikes", 2),
            ),
            maximum_concurrent_rpcs=settings.max_connections,
        )
        calls = _Calls(metrics, settings.request_deadline_s)
        glue.add_MatchServiceServicer_to_server(MatchService(recommender, calls), self._server)  # type: ignore[no-untyped-call]
        glue.add_SearchServiceServicer_to_server(SearchService(recommender, calls), self._server)  # type: ignore[no-untyped-call]
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def bind(self, host: str, port: int) -> int:
        """Bind and return the port obtained.

        Raises:
            RuntimeError: the address is taken or not ours.
        """
        return self._server.add_insecure_port(f"{host}:{port}")

    async def start(self) -> None:
        """Answer calls; health says NOT_SERVING until `set_ready`."""
        await self.set_ready(False)
        await self._server.start()

    async def set_ready(self, is_ready: bool) -> None:
        """Tell health what to answer, for the server as a whole and each service."""
        status = health_pb2.HealthCheckResponse
        for name in ("", *_SERVICES):
            await self._health.set(name, status.SERVING if is_ready else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those under way finish for `grace_s` seconds."""
        await self._server.stop(grace_s)
