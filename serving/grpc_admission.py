"""gRPC connections and calls: how many, how large, how long, and which are refused at the head."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import grpc

from serving.admission import Admission, Refusal, Ticket, lane_of
from serving.metrics import Metrics
from serving.settings import ServingSettings

_GRACE_MS: Final = 30_000
KEEPALIVE_TIMEOUT_S: Final = 20
_HARD: Final = 2  # from so many times the limit on, all metadata are refused; below, larger ones ever more often


def grpc_options(settings: ServingSettings, *, max_message_bytes: int) -> tuple[tuple[str, int], ...]:
    """Return what grpcio's server keeps to: sizes, streams, how long connections live, and how often clients may ping."""
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", _HARD * settings.max_header_bytes),
        ("grpc.max_concurrent_streams", settings.grpc_streams),
        ("grpc.max_connection_age_ms", settings.grpc_connection_age_s * 1000),
        ("grpc.max_connection_age_grace_ms", _GRACE_MS),
        ("grpc.keepalive_time_ms", settings.grpc_keepalive_s * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.server_handshake_timeout_ms", int(settings.receive_deadline_s * 1e3)),
        ("grpc.so_reuseport", 0),
        # What nobody has looked at yet grpcio drops itself, for much less than a refusal costs here.
        ("grpc.server.max_pending_requests", settings.grpc_backlog),
        ("grpc.server.max_pending_requests_hard_limit", settings.grpc_backlog),
    )


class AdmittingHandler(grpc.GenericRpcHandler):
    """The methods of a service, each call with a place. Belongs to one event loop.

    A call without one is refused when only its head is there.
    """

    def __init__(self, methods: Mapping[str, Any], *, admission: Admission, metrics: Metrics) -> None:
        """Hold the handlers of full method names, `/package.Service/Method`."""
        self._methods = {name: (handler, lane_of(name)) for name, handler in methods.items()}
        self._admission = admission
        self._metrics = metrics

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return what answers a call; None where the method is not known here.

        Args:
            handler_call_details: also with `left_s`, seconds to the deadline, which grpcio does not tell yet.
        """
        found = self._methods.get(handler_call_details.method)
        if found is None:
            return None
        handler, lane = found
        left_s = getattr(handler_call_details, "left_s", math.inf)
        if (refusal := self._admission.refusal(lane, left_s=left_s)) is not None:
            self._metrics.refused("grpc", "overload")
            return Refused(refusal)
        ticket = self._admission.admit(lane, left_s=left_s)
        return Admitted(handler, ticket, self._metrics, is_quick=lane == "search")


class Admitted:
    """A method for one call. grpcio holds it until the call is over, and its answer sent where there is one.

    Attributes:
        is_quick: whether its answer seldom has to wait for anything, so that it need not be a task.
    """

    __slots__ = ("_handler", "_metrics", "is_quick", "response_serializer", "ticket")
    request_streaming = response_streaming = False
    request_deserializer = unary_stream = stream_unary = stream_stream = None

    def __init__(self, handler: Any, ticket: Ticket, metrics: Metrics, *, is_quick: bool) -> None:
        self.ticket = ticket
        self.is_quick = is_quick
        self.response_serializer = handler.response_serializer
        self._handler = handler
        self._metrics = metrics

    async def unary_unary(self, content: bytes, context: Any) -> Any:
        """Answer the call, unless it came too late: its deadline, which grpcio tells nobody before, leaves no time to wait."""
        left_s = context.time_remaining()
        if (refusal := self.ticket.refusal(math.inf if left_s is None else left_s)) is not None:
            self._metrics.refused("grpc", "overload")
            await context.abort(*told(refusal))
        self.ticket.wait()
        try:
            return await self._handler.unary_unary(content, context)
        except BaseException:
            # An error and what it came through hold each other, and this call with them, until garbage is collected.
            self.ticket.release()
            raise

    def __del__(self) -> None:
        self.ticket.release()


class Refused:
    """The method of a call that has no place."""

    __slots__ = ("refusal",)
    request_streaming = response_streaming = True
    request_deserializer = response_serializer = None
    unary_unary = unary_stream = stream_unary = None

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal

    async def stream_stream(self, _: AsyncIterator[bytes], context: Any) -> None:
        """Refuse the call."""
        await context.abort(*told(self.refusal))


def told(refusal: Refusal) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Return status, words and trailing metadata of a refusal."""
    trailing = (("retry-after-ms", str(math.ceil(refusal.retry_after_s * 1e3))),)
    return grpc.StatusCode.RESOURCE_EXHAUSTED, refusal.message, trailing
