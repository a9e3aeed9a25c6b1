"""Traces of requests by OpenTelemetry, sent to a collector in the background.

Nothing of OpenTelemetry is imported until `traced` is told where to send spans; until then what stands here does nothing. A
collector that is slow or away costs spans and never a request: they wait in a bounded queue that another thread empties.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.metadata
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from matching.errors import MissingExtra
from serving.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

T = TypeVar("T")
_SEND_S: Final = 5.0  # what the collector has to take one batch
_CLOSE_S: Final = 2.0  # what it has for the last one
_NOTHING: Final = contextlib.nullcontext()
_FAULTS: Final = frozenset({"UNKNOWN", "INTERNAL", "DATA_LOSS", "UNAVAILABLE", "DEADLINE_EXCEEDED"})  # of gRPC's codes

_tracer: Tracer | None = None
_current: contextvars.ContextVar[Span | None] = contextvars.ContextVar("current", default=None)  # one that is recorded


class RequestTrace:
    """The span of one request, which the spans within it belong to."""

    __slots__ = ("_span", "trace_id")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.trace_id = f"{span.get_span_context().trace_id:032x}"
        _current.set(span if span.is_recording() else None)

    def end(self, told: Mapping[str, Any]) -> None:
        """End the span with what the log line of the request tells."""
        _current.set(None)
        if self._span.is_recording():
            from opentelemetry.trace import StatusCode

            self._span.update_name(told["endpoint"])
            self._span.set_attributes(_named(told))
            if told["code"] in _FAULTS or told["code"].startswith("5"):
                self._span.set_status(StatusCode.ERROR)
            self._span.end()


def begin(traceparent: str | bytes | None) -> RequestTrace | None:
    """Begin the trace of a request, or go on with its caller's; None where there are no traces.

    Args:
        traceparent: as the caller sent it (W3C Trace Context); one that cannot be read begins a new trace.
    """
    if _tracer is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    caller = Context()
    if traceparent is not None:
        text = traceparent.decode("latin-1") if isinstance(traceparent, bytes) else traceparent
        caller = TraceContextTextMapPropagator().extract({"traceparent": text}, caller)
    return RequestTrace(_tracer.start_span("request", context=caller, kind=SpanKind.SERVER))


def span(name: str, **told: Any) -> AbstractContextManager[object]:
    """Surround a part of a request with a span of its own, where the request has one that is recorded."""
    parent = _current.get()
    return _NOTHING if parent is None else _within(parent, name, told)


@contextlib.contextmanager
def _within(parent: Span, name: str, told: Mapping[str, Any]) -> Iterator[None]:
    from opentelemetry import trace

    tracer = _tracer
    if tracer is None:  # the service ends
        yield
        return
    own = tracer.start_span(name, context=trace.set_span_in_context(parent), attributes=_named(told))
    _current.set(own)
    try:
        yield
    finally:  # an error's message may hold what a caller sent, so it is not told: the request has its code
        own.end()
        _current.set(parent)


def tell(**told: Any) -> None:
    """Add to the span that surrounds the caller."""
    if (current := _current.get()) is not None:
        current.set_attributes(_named(told))


def carried(work: Callable[[], T]) -> Callable[[], T]:
    """Return work whose spans belong to the request under way here, whatever thread it runs in."""
    return work if _current.get() is None else functools.partial(contextvars.copy_context().run, work)


@contextlib.contextmanager
def traced(settings: TracingSettings) -> Iterator[None]:
    """Trace until the block ends, where the settings say so; the last spans have two seconds to leave.

    Raises:
        MissingExtra: they do, and OpenTelemetry is not installed.
    """
    global _tracer
    if settings.otlp_endpoint is None:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise MissingExtra(
            f"[serve] {error.name} is not installed here, which tracing.otlp_endpoint needs; pip install likewise[tracing]"
        ) from error
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # a full queue would warn with every span
    told = {"service.name": settings.service_name, "service.version": importlib.metadata.version("likewise")}
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.sample_ratio),
        resource=Resource.create(told),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.otlp_endpoint, timeout=_SEND_S)))
    _tracer = provider.get_tracer("likewise")
    try:
        yield
    finally:
        _tracer = None
        closing = threading.Thread(target=provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _named(told: Mapping[str, Any]) -> dict[str, Any]:
    return {f"likewise.{name}": value for name, value in told.items() if value is not None}
