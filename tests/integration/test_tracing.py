"""Traces as a collector gets them: real requests over HTTP and gRPC, and the protobufs of OTLP on a real connection."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from matching.errors import MissingExtra
from serving.settings import TracingSettings
from serving.tracing import traced
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import MatchServiceStub
from tests.certificates import jwks, public_jwk, rsa_key
from tests.integration.test_jwt_verifier import AUDIENCE, ISSUER, token

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services import Service, Shop, Start

CALLER = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = f"00-{CALLER}-b7ad6b7169203331-01", f"00-{CALLER}-b7ad6b7169203331-00"
FIND = {"queries": [{"datapoint": {"datapointId": "item-0042"}, "neighborCount": 2}] * 3}


class Collector(ThreadingHTTPServer):
    """What OTLP calls a receiver: it takes spans over HTTP and keeps them."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    def spans(self) -> list[Span]:
        """Return all spans so far."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of(self, request_id: str, n: int) -> tuple[Span, list[Span]]:
        """Return the span of a request and the `n` below it, once they have come."""
        for _ in range(400):
            roots = [span for span in self.spans() if told(span).get("request_id") == request_id]
            below = [span for span in self.spans() if roots and span.parent_span_id == roots[0].span_id]
            if roots and len(below) == n:
                (root,) = roots
                return root, below
            time.sleep(0.05)
        raise AssertionError(f"no span of {request_id} with {n} below it: {self.spans()}")


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        assert self.headers["content-type"] == "application/x-protobuf"
        self.server.requests.append(ExportTraceServiceRequest.FromString(content))
        body = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def told(span: Span) -> dict[str, Any]:
    """Return what a span tells, by the names that the log line has."""
    return {
        each.key.removeprefix("likewise."): getattr(each.value, str(each.value.WhichOneof("value")))
        for each in span.attributes
    }


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        yield receiver
        receiver.shutdown()


@pytest.fixture(scope="module")
def service(
    vector_shop: Shop, start_service: Start, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("writes")
    tracing = {"otlp_endpoint": collector.endpoint, "sample_ratio": 1.0}
    with start_service(vector_shop, tracing=tracing, write_log=str(log)) as started:
        started.wait_until_ready()
        yield started


def test_a_request_over_http_is_a_span_that_tells_what_its_line_does(service: Service, collector: Collector) -> None:
    headers = {"x-request-id": "http-1", "x-likewise-unit": "user-7"}
    status, _, _ = service.ask("POST", "/v1/findNeighbors", FIND, headers)
    assert status == 200
    root, (search,) = collector.of("http-1", 1)
    assert (root.name, root.kind, root.parent_span_id) == ("find_neighbors", Span.SPAN_KIND_SERVER, b"")
    line = service.log_line("http-1")
    assert line.pop("trace_id") == root.trace_id.hex()
    wanted = {name: value for name, value in line.items() if name not in ("time", "level", "logger")}
    assert told(root) == wanted
    assert (wanted["q"], wanted["k"], wanted["plan"], wanted["degraded"]) == (3, 2, "exact", False)
    assert (wanted["variant"], wanted["index_version"]) == ("vectors", service.index_version)
    assert (search.name, search.trace_id) == ("search", root.trace_id)
    assert told(search) == {"space": "vectors", "q": 3, "k": 2, "plan": "exact", "n_matching": 299}
    assert root.start_time_unix_nano <= search.start_time_unix_nano <= search.end_time_unix_nano
    assert search.end_time_unix_nano <= root.end_time_unix_nano
    (resource,) = {r.resource.SerializeToString() for one in collector.requests for r in one.resource_spans}
    assert b"service.name" in resource
    assert "item-0042" not in str(collector.spans())
    assert "user-7" not in str(collector.spans())


def test_a_caller_s_trace_goes_on_over_http_and_grpc(service: Service, collector: Collector) -> None:
    service.ask("POST", "/v1/findNeighbors", FIND, {"x-request-id": "mine-1", "traceparent": SAMPLED})
    with grpc.insecure_channel(service.grpc) as channel:
        asked = pb.FindNeighborsRequest()
        asked.queries.add().datapoint.datapoint_id = "item-0042"
        MatchServiceStub(channel).FindNeighbors(asked, metadata=[("x-request-id", "mine-2"), ("traceparent", SAMPLED)])
    for request_id, transport in (("mine-1", "http"), ("mine-2", "grpc")):
        root, (search,) = collector.of(request_id, 1)
        assert told(root)["transport"] == transport
        assert root.trace_id.hex() == search.trace_id.hex() == CALLER == service.log_line(request_id)["trace_id"]
        assert root.parent_span_id.hex() == "b7ad6b7169203331"


def test_a_caller_that_does_not_trace_is_not_traced_and_its_id_is_logged(
    service: Service, collector: Collector
) -> None:
    service.ask("POST", "/v1/findNeighbors", FIND, {"x-request-id": "unsampled", "traceparent": UNSAMPLED})
    service.ask("POST", "/v1/findNeighbors", FIND, {"x-request-id": "broken", "traceparent": "00-zz-é"})
    root, _ = collector.of("broken", 1)
    assert root.parent_span_id == b"", "what cannot be read begins a trace"
    assert service.log_line("unsampled")["trace_id"] == CALLER
    assert not [span for span in collector.spans() if told(span).get("request_id") == "unsampled"]


def test_a_write_is_traced_to_its_acknowledgement(service: Service, collector: Collector) -> None:
    point = {"datapointId": "new", "featureVector": [0.5] * 8}
    status, _, answer = service.ask(
        "POST", "/v1/upsertDatapoints", {"datapoints": [point]}, {"x-request-id": "write-1"}
    )
    assert status == 200, answer
    root, (append,) = collector.of("write-1", 1)
    assert (root.name, append.name) == ("upsert", "append")
    assert told(append) == {"last_sequence": int(answer["versionToken"]), "is_repeat": False}


def test_a_fault_marks_the_span_and_tells_no_more_than_its_code(service: Service, collector: Collector) -> None:
    headers = {"x-request-id": "late", "x-server-timeout": "0"}
    assert service.ask("POST", "/v1/findNeighbors", FIND, headers)[0] == 504
    wrong = {"queries": [{"datapoint": {"datapointId": "secret-id"}}]}
    assert service.ask("POST", "/v1/findNeighbors", wrong, {"x-request-id": "wrong"})[0] == 404
    late, _ = collector.of("late", 0)
    assert (late.status.code, late.status.message, told(late)["code"]) == (2, "", "504")
    wrong_one, (search,) = collector.of("wrong", 1)
    assert wrong_one.status.code == 0, "the caller's mistake is no fault of the service"
    assert not search.events
    assert "secret-id" not in str(collector.spans())


def test_encoding_is_a_span_of_its_own(
    text_shop: Shop, start_service: Start, collector: Collector, tmp_path: Path
) -> None:
    with start_service(text_shop, tracing={"otlp_endpoint": collector.endpoint, "sample_ratio": 1.0}) as service:
        service.wait_until_ready()
        status, _, _ = service.ask("POST", "/v1/search", {"text": "zebra boots"}, {"x-request-id": "text-1"})
        assert status == 200
    _, below = collector.of("text-1", 2)  # the last spans leave as the service ends
    assert sorted(span.name for span in below) == ["encode", "search"]
    encode = next(span for span in below if span.name == "encode")
    assert told(encode) == {"space": "text", "asked": "text"}
    assert "zebra" not in str(collector.spans())


def test_a_share_of_requests_is_traced(vector_shop: Shop, start_service: Start, collector: Collector) -> None:
    tracing = {"otlp_endpoint": collector.endpoint, "sample_ratio": 0.25, "service_name": "shop-search"}
    with start_service(vector_shop, tracing=tracing) as service:
        service.wait_until_ready()
        for at in range(200):
            service.ask("GET", "/v1/versions/current", headers={"x-request-id": f"share-{at}"})
    n = sum(str(told(span).get("request_id", "")).startswith("share-") for span in collector.spans())
    assert 20 <= n <= 85, "50 are expected, with a standard deviation of 6"
    assert "shop-search" in str(collector.requests[-1].resource_spans[0].resource)


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"


@contextlib.contextmanager
def away() -> Iterator[str]:
    """A collector that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1/traces"


@pytest.mark.parametrize("dead", [silent, away])
def test_a_dead_collector_costs_spans_and_no_request(
    vector_shop: Shop, start_service: Start, dead: Callable[[], contextlib.AbstractContextManager[str]]
) -> None:
    with dead() as endpoint:
        tracing = {"otlp_endpoint": endpoint, "sample_ratio": 1.0}
        # more spans than the queue holds, and an answer that waited for the collector would be refused
        with start_service(vector_shop, tracing=tracing, request_deadline_s=2.0) as service:
            service.wait_until_ready()
            body = {
                "queries": [
                    {"datapoint": {"datapointId": f"item-{at:04d}"}, "neighborCount": at} for at in range(10, 60)
                ]
            }
            for _ in range(60):
                assert service.ask("POST", "/v1/findNeighbors", body)[0] == 200
        assert service.process.returncode == 0
    lines = service.log_lines()
    assert not [line for line in lines if "exception" in line]
    assert len([line for line in lines if line["logger"].startswith("opentelemetry")]) < 20


def test_without_settings_nothing_of_it_is_imported(vector_service: Service) -> None:
    code = "import serving.server, serving.http, serving.grpc, sys; print([m for m in sys.modules if 'opentelemetry.sdk' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    vector_service.ask("GET", "/healthz", headers={"x-request-id": "plain"})
    assert "trace_id" not in vector_service.log_line("plain")


def test_it_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with (
        pytest.raises(MissingExtra, match=r"pip install likewise\[tracing\]"),
        traced(TracingSettings(otlp_endpoint="http://collector:4318/v1/traces")),
    ):
        pass


def test_a_caller_s_name_reaches_no_span(
    vector_shop: Shop, start_service: Start, collector: Collector, tmp_path: Path
) -> None:
    key, file = rsa_key(), tmp_path / "jwks.json"
    file.write_bytes(jwks(public_jwk(key)))
    file.chmod(0o600)
    auth = {"jwks_file": str(file), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    made = token(key, sub="somebody@example.com")
    with start_service(
        vector_shop, auth=auth, tracing={"otlp_endpoint": collector.endpoint, "sample_ratio": 1.0}
    ) as service:
        service.wait_until_ready()
        headers = {"Authorization": f"Bearer {made}", "x-request-id": "named"}
        assert service.ask("POST", "/v1/findNeighbors", FIND, headers)[0] == 200
        assert service.ask("POST", "/v1/findNeighbors", FIND, {"x-request-id": "nobody"})[0] == 401
    collector.of("named", 1)
    nobody, _ = collector.of("nobody", 0)
    assert told(nobody)["code"] == "401"
    whole = json.dumps([str(request) for request in collector.requests])
    assert "somebody" not in whole
    assert made not in whole
