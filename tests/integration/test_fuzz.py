"""Whatever arrives, no operation of either transport fails by a fault of ours; all of them are asked, whoever added them."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.grpc import ACCESS
from serving.wire import likewise_pb2 as pb
from tests.services import Service, Shop, Start

CHECKED = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FEW, MANY = 12, 1000
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def service(vector_shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = str(tmp_path_factory.mktemp("log"))
    with start_service(vector_shop, write_log=log, receive_deadline_s=2.0) as running:
        running.wait_until_ready()
        yield running
        assert running.process.poll() is None


def fuzz_rest(service: Service, n_examples: int) -> None:
    schema = schemathesis.openapi.from_url(f"{service.http}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 10
    statuses: Counter[int] = Counter()
    with requests.Session() as session:
        for operation in operations:
            for mode in MODES:

                @seed(20260105)
                @settings(
                    max_examples=n_examples,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: Any) -> None:
                    response = case.call(session=session, timeout=30)
                    statuses[response.status_code] += 1
                    case.validate_response(response, checks=CHECKED)

                with contextlib.suppress(Unsatisfiable):  # some operations can be asked in no wrong way
                    ask()
    assert sum(statuses.values()) >= n_examples * len(operations)
    assert statuses[200] > 0
    assert statuses[400] > 0


def test_every_operation_of_the_document(service: Service) -> None:
    fuzz_rest(service, FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_operation_of_the_document_at_length(service: Service) -> None:
    fuzz_rest(service, MANY)


SEEDS = [
    pb.FindNeighborsRequest(
        queries=[
            pb.FindNeighborsRequest.Query(
                datapoint=pb.IndexDatapoint(datapoint_id="item-0042", feature_vector=[1.0] * 8), neighbor_count=3
            )
        ]
    ),
    pb.UpsertDatapointsRequest(datapoints=[pb.IndexDatapoint(datapoint_id="x", feature_vector=[1.0] * 8)]),
    pb.RemoveDatapointsRequest(datapoint_ids=["x", "y"]),
    pb.ReadIndexDatapointsRequest(ids=["item-0042"]),
    pb.SearchRequest(datapoint_id="item-0042", k=3),
]
OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few changed, left out, doubled or drawn."""
    data = bytearray(content or rng.randbytes(8))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.randint(1, 9)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 30)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        else:
            data[at:at] = b"\xff" * rng.randint(1, 12)  # lengths and numbers beyond all bounds
    return bytes(data)


def fuzz_grpc(service: Service, n_messages: int) -> None:
    methods = [name for name in ACCESS if not name.startswith(("/grpc.health", "/grpc.reflection"))]
    assert len(methods) >= 6
    rng = random.Random(7)
    with grpc.insecure_channel(service.grpc) as channel:
        calls = [channel.unary_unary(method) for method in methods]
        nested = b""
        for _ in range(10_000):
            nested = b"\x0a" + _varint(len(nested)) + nested
        for at in range(n_messages):
            content = nested if at < len(calls) else mutated(rng.choice(SEEDS).SerializeToString(), rng)
            future = calls[at % len(calls)].future(content, timeout=30)
            assert future.code() not in OURS, (future.details(), methods[at % len(calls)], content[:200])
    assert service.ask("GET", "/readyz")[0] == 200


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_every_method_by_bytes_that_are_nearly_a_message(service: Service) -> None:
    fuzz_grpc(service, 1500)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_method_at_length(service: Service) -> None:
    fuzz_grpc(service, 100_000)
