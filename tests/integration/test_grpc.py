"""The gRPC front, asked by stock clients: answers alike HTTP's, codes, deadlines, health, reflection and the end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import MatchServiceStub, SearchServiceStub

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

Numeric = pb.IndexDatapoint.NumericRestriction


@pytest.fixture(scope="module")
def channel(vector_service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(vector_service.grpc) as channel:
        yield channel


def request(*queries: pb.FindNeighborsRequest.Query, **others: Any) -> pb.FindNeighborsRequest:
    return pb.FindNeighborsRequest(queries=queries, **others)


def by_id(datapoint_id: str, **query: Any) -> pb.FindNeighborsRequest.Query:
    return pb.FindNeighborsRequest.Query(datapoint=pb.IndexDatapoint(datapoint_id=datapoint_id), **query)


QUERIES = [
    by_id("item-0042", neighbor_count=5),
    by_id("a/b 1é", neighbor_count=5, include_self=True),
    pb.FindNeighborsRequest.Query(
        datapoint=pb.IndexDatapoint(
            datapoint_id="mine",
            feature_vector=[0.5, -1, 0, 0, 2, 0, 0, 1],
            restricts=[
                pb.IndexDatapoint.Restriction(namespace="color", allow_list=["red", "blue"], deny_list=["blue"])
            ],
            numeric_restricts=[
                Numeric(namespace="stock", value_int=0, op=Numeric.NOT_EQUAL),
                Numeric(namespace="weight", value_float=100.5, op=Numeric.LESS),
                Numeric(namespace="price", value_double=2.5, op=Numeric.GREATER_EQUAL),
            ],
        ),
        neighbor_count=9,
        per_crowding_attribute_neighbor_count=2,
        approximate_neighbor_count=50,
    ),
]


@pytest.mark.parametrize("full", [False, True])
def test_both_transports_answer_alike(channel: grpc.Channel, vector_service: Service, full: bool) -> None:
    asked = request(*QUERIES, return_full_datapoint=full)
    answer = MatchServiceStub(channel).FindNeighbors(asked, timeout=5)
    status, _, over_http = vector_service.ask("POST", "/v1/findNeighbors", json_format.MessageToDict(asked))
    assert status == 200
    assert answer.index_version == over_http["indexVersion"]
    for told, expected in zip(answer.nearest_neighbors, over_http["nearestNeighbors"], strict=True):
        assert (told.id, told.plan, told.space, told.exact) == tuple(
            expected[f] for f in ("id", "plan", "space", "exact")
        )
        assert told.n_matching == expected["nMatching"]
        assert len(told.neighbors) > 0
        for neighbor, held in zip(told.neighbors, expected["neighbors"], strict=True):
            assert neighbor.distance == pytest.approx(held["distance"])
            as_json = json_format.MessageToDict(neighbor.datapoint)
            vector = as_json.pop("featureVector", None)
            assert vector == (pytest.approx(held["datapoint"].pop("featureVector")) if full else None)
            held["datapoint"] = {name: value for name, value in held["datapoint"].items() if value != []}
            for restrict in held["datapoint"].get("restricts", []):
                for side in ("allowList", "denyList"):
                    if not restrict[side]:
                        del restrict[side]
            assert as_json == held["datapoint"]


def test_read_datapoints_and_version(channel: grpc.Channel, vector_service: Service) -> None:
    answer = MatchServiceStub(channel).ReadIndexDatapoints(
        pb.ReadIndexDatapointsRequest(ids=["item-0042", "item-0007"])
    )
    assert [datapoint.datapoint_id for datapoint in answer.datapoints] == ["item-0042", "item-0007"]
    assert len(answer.datapoints[0].feature_vector) == 8
    assert answer.datapoints[0].embedding_metadata["title"] == "Thing 42"
    version = SearchServiceStub(channel).GetVersion(pb.GetVersionRequest())
    assert version.version_id == answer.index_version == vector_service.index_version
    ((space),) = version.spaces
    assert (space.name, space.metric, space.dim, space.n_vectors) == ("vectors", "l2", 8, 300)


def test_search_by_item(channel: grpc.Channel) -> None:
    answer = SearchServiceStub(channel).Search(pb.SearchRequest(datapoint_id="item-0042", k=3))
    same = MatchServiceStub(channel).FindNeighbors(request(by_id("item-0042", neighbor_count=3)))
    ids = [neighbor.datapoint.datapoint_id for neighbor in answer.result.neighbors]
    assert ids == [neighbor.datapoint.datapoint_id for neighbor in same.nearest_neighbors[0].neighbors]
    assert answer.result.neighbors[0].datapoint.embedding_metadata["title"].startswith("Thing")


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        (request(), "INVALID_ARGUMENT", "no queries"),
        (request(by_id("no")), "NOT_FOUND", "no datapoint 'no'"),
        (request(by_id("")), "INVALID_ARGUMENT", "no feature_vector, sparse_embedding or datapoint_id"),
        (request(by_id("item-0042", neighbor_count=-3)), "INVALID_ARGUMENT", "neighbor_count is -3"),
        (request(by_id("item-0042", neighbor_count=1001)), "RESOURCE_EXHAUSTED", "at most 1,000"),
        (request(by_id("item-0042", space="x")), "INVALID_ARGUMENT", "no space 'x'"),
        (request(*[by_id("item-0042")] * 101), "RESOURCE_EXHAUSTED", "101 queries"),
        (request(by_id("item-0042", rrf={"alpha": 0})), "INVALID_ARGUMENT", "the query has no sparse vector"),
        (request(by_id("item-0042", rrf={"alpha": 1.5})), "INVALID_ARGUMENT", "alpha is 1.5"),
    ],
)
def test_refusals(channel: grpc.Channel, asked: pb.FindNeighborsRequest, code: str, message: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        MatchServiceStub(channel).FindNeighbors(asked, timeout=5, metadata=(("x-request-id", "mine-2"),))
    assert refused.value.code().name == code
    assert message in refused.value.details()
    assert ("x-request-id", "mine-2") in [tuple(pair) for pair in refused.value.trailing_metadata()]


def test_a_search_for_nothing_is_refused(channel: grpc.Channel) -> None:
    for asked, message in (
        (pb.SearchRequest(), "expected one of text, image, datapoint_id"),
        (pb.SearchRequest(text="boots"), "has no encoder"),
        (pb.SearchRequest(image=b"GIF89a"), "expected a JPEG, PNG or WebP"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            SearchServiceStub(channel).Search(asked)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert message in refused.value.details()


def test_numbers_that_are_not_finite_are_refused(channel: grpc.Channel) -> None:
    for number in (float("nan"), float("inf")):
        query = pb.FindNeighborsRequest.Query(datapoint=pb.IndexDatapoint(feature_vector=[0.0] * 7 + [number]))
        with pytest.raises(grpc.RpcError) as refused:
            MatchServiceStub(channel).FindNeighbors(request(query))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "feature_vector[7]" in refused.value.details()


def test_mutated_bytes_never_break_the_service(channel: grpc.Channel, vector_service: Service) -> None:
    rng = np.random.default_rng(11)
    call = channel.unary_unary("/likewise.v1.MatchService/FindNeighbors")
    whole = request(*QUERIES).SerializeToString()
    codes = set()
    for _ in range(300):
        mutated = bytearray(whole)
        for at in rng.integers(0, len(mutated), 4):
            mutated[at] = rng.integers(256)
        try:
            call(bytes(mutated), timeout=5)
        except grpc.RpcError as error:
            codes.add(error.code().name)
    assert codes <= {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
    assert "INVALID_ARGUMENT" in codes
    assert not [line for line in vector_service.log_lines() if line["level"] == "ERROR"]
    assert vector_service.ask("GET", "/readyz")[0] == 200


def test_messages_too_large_are_refused(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop, max_json_bytes=4096, max_image_bytes=4096) as service:
        service.wait_until_ready()
        for n_bytes in (5_000, 100_000):  # over our limit, and over the transport's
            with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
                MatchServiceStub(channel).ReadIndexDatapoints(pb.ReadIndexDatapointsRequest(ids=["x" * n_bytes]))
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_deadline_is_kept_and_nothing_is_searched_after_it(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop) as service, grpc.insecure_channel(service.grpc) as channel:
        service.wait_until_ready()
        stub = MatchServiceStub(channel)
        stub.FindNeighbors(request(by_id("item-0042")), timeout=5)

        def searched() -> float:
            text = service.ask("GET", "/metrics")[2].decode()
            return sum(
                float(line.split(" ")[-1]) for line in text.splitlines() if line.startswith("likewise_queries_total")
            )

        before = searched()
        os.kill(service.process.pid, signal.SIGSTOP)  # whatever the reason, the service does not get to run in time
        try:
            with pytest.raises(grpc.RpcError) as late:
                stub.FindNeighbors(request(by_id("item-0042")), timeout=0.3)
        finally:
            time.sleep(0.2)
            os.kill(service.process.pid, signal.SIGCONT)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        time.sleep(0.3)
        assert searched() == before
        assert stub.FindNeighbors(request(by_id("item-0042")), timeout=5).index_version == service.index_version


def test_the_service_s_own_deadline_is_told(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop, request_deadline_s=1e-9) as service, grpc.insecure_channel(service.grpc) as channel:
        service.wait_until_ready()
        with pytest.raises(grpc.RpcError) as late:
            MatchServiceStub(channel).FindNeighbors(request(by_id("item-0042")), timeout=5)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "ran out before the search began" in late.value.details()


@pytest.mark.parametrize("service_name", ["", "likewise.v1.MatchService", "likewise.v1.SearchService"])
def test_health(channel: grpc.Channel, service_name: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for _ in range(100):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service_name))
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
        time.sleep(0.05)
    raise AssertionError(f"{service_name!r} is {answer.status} though /readyz said ready")


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = stub.ServerReflectionInfo(asked)
    names = {service.name for service in answer.list_services_response.service}
    assert {"likewise.v1.MatchService", "likewise.v1.SearchService", "grpc.health.v1.Health"} <= names


def test_calls_are_counted_and_logged(channel: grpc.Channel, vector_service: Service) -> None:
    name = 'likewise_requests_total{code="OK",endpoint="find_neighbors",transport="grpc"}'

    def count() -> float:
        lines = vector_service.ask("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.split(" ")[-1]) for line in lines if line.startswith(name))

    before = count()
    MatchServiceStub(channel).FindNeighbors(request(QUERIES[2]), metadata=(("x-request-id", "grpc-1"),))
    line = vector_service.log_line("grpc-1")
    assert (line["transport"], line["code"], line["q"], line["k"], line["plan"]) == ("grpc", "OK", 1, 9, "exact")
    assert count() == before + 1


def test_the_end_lets_calls_finish_and_tells_health(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop) as service, grpc.insecure_channel(service.grpc) as channel:
        service.wait_until_ready()
        stub, failed, answered = MatchServiceStub(channel), [], []
        stopped = threading.Event()

        def keep_asking() -> None:
            while not stopped.is_set():
                try:
                    answered.append(stub.FindNeighbors(request(*QUERIES), timeout=5))
                except grpc.RpcError as error:
                    failed.append(error.code())
                    return

        asking = threading.Thread(target=keep_asking)
        asking.start()
        while len(answered) < 5:
            time.sleep(0.01)
        os.kill(service.process.pid, signal.SIGTERM)
        assert service.process.wait(10) == 0
        stopped.set()
        asking.join()
        assert failed == [grpc.StatusCode.UNAVAILABLE], "a client should try elsewhere"
        codes = [line["code"] for line in service.log_lines() if line.get("endpoint") == "find_neighbors"]
        assert codes == ["OK"] * len(answered), "a call under way must not be cut"
