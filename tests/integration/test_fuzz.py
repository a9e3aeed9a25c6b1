"""Whatever arrives, no operation of either transport fails by a fault of ours; all of them are asked, whoever added them."""

from __future__ import annotations

import contextlib
import random
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import grpc
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    ensure_resource_availability,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    use_after_free,
)

from serving.api_keys import SCOPES, KeyRing, Scope, change_keys
from serving.grpc import ACCESS
from serving.wire import likewise_pb2 as pb
from tests.services import Service, Shop, Start

SEED = 20260105
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def no_fault_of_ours(_: Any, response: Any, case: Any) -> None:
    """Expect no 5xx, but for a time that ran out where the caller told us to wait for a write."""
    waits = isinstance(case.body, dict) and bool(case.body.get("minVersion"))
    assert response.status_code < 500 or (response.status_code == 504 and waits), response.content


# All that schemathesis has but for one: that whatever fits the shapes is accepted cannot hold, for a shape does not say
# which spaces, names and operators a version knows.
CHECKED = [
    no_fault_of_ours,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
    negative_data_rejection,
    missing_required_header,
    unsupported_method,
    use_after_free,
    ensure_resource_availability,
    ignored_auth,
]


ROLES: dict[str, tuple[Scope, ...]] = {"reader": ("read",), "writer": ("read", "write"), "admin": SCOPES}


@dataclass
class Guarded:
    """A service, and a key of each role."""

    service: Service
    keys: dict[str, str]


@pytest.fixture(scope="module")
def guarded(vector_shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("fuzz")
    ring, now, keys = KeyRing(), datetime.now(timezone.utc), {}
    for role, scopes in ROLES.items():
        ring, _, keys[role] = ring.with_new(role, scopes, now=now)
    change_keys(folder / "keys.json", lambda _: (ring, None))
    settings = {"write_log": str(folder / "log"), "receive_deadline_s": 2.0, "request_deadline_s": 1.0}
    with start_service(vector_shop, auth={"keys_file": str(folder / "keys.json")}, **settings) as running:
        running.wait_until_ready()
        yield Guarded(running, keys)
        assert running.process.poll() is None


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "n_examples", [6, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])], ids=str
)
def test_every_operation_of_the_document(guarded: Guarded, role: str, n_examples: int) -> None:
    """Right and wrong requests, so many of each for every operation and role; the seed is in the failure's report."""
    service, key = guarded.service, {"x-api-key": guarded.keys[role]}
    own_keys = SchemathesisConfig.from_dict(
        {"generation": {"with-security-parameters": False}}
    )  # or nearly all are refused
    reading = {"x-api-key": guarded.keys["reader"]}
    schema = schemathesis.openapi.from_url(f"{service.http}/openapi.json", headers=reading, config=own_keys)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 10
    assert schema.raw_schema["security"] == [{"bearer": []}, {"key": []}]
    statuses: Counter[int] = Counter()
    with requests.Session() as session:
        for operation in operations:
            for mode in MODES:

                @seed(SEED)
                @settings(
                    max_examples=n_examples,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: Any) -> None:
                    response = case.call(session=session, timeout=30, headers=key)
                    statuses[response.status_code] += 1
                    case.validate_response(response, checks=CHECKED, headers=key)

                with contextlib.suppress(Unsatisfiable):  # some operations can be asked in no wrong way
                    ask()
    assert sum(statuses.values()) >= n_examples * len(operations)
    assert (statuses[403] > 0) == (role != "admin")
    assert statuses[400] > 0
    assert statuses[200] > 0
    assert service.ask("GET", "/readyz")[0] == 200
    print(f"{role}: {dict(statuses)}")


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


@pytest.mark.parametrize(
    "n_messages", [1500, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_every_method_by_bytes_that_are_nearly_a_message(guarded: Guarded, n_messages: int) -> None:
    service = guarded.service
    methods = [name for name in ACCESS if not name.startswith(("/grpc.health", "/grpc.reflection"))]
    assert len(methods) >= 6
    rng = random.Random(SEED)
    codes: Counter[grpc.StatusCode] = Counter()
    nested = b""
    for _ in range(10_000):
        nested = b"\x0a" + _varint(len(nested)) + nested
    unknown = b"\xfa\xff\xff\xff\x0f" + _varint(1_000_000) + bytes(1_000_000)  # field 536,870,911
    with grpc.insecure_channel(service.grpc) as channel:
        calls = [(method, channel.unary_unary(method), _key_for(guarded, method)) for method in methods]
        for at in range(n_messages):
            method, call, key = calls[at % len(calls)]
            if at < 2 * len(calls):
                content = nested if at < len(calls) else rng.choice(SEEDS).SerializeToString() + unknown
            else:
                content = mutated(rng.choice(SEEDS).SerializeToString(), rng)
            future = call.future(content, timeout=30, metadata=key)
            code = future.code()
            codes[code] += 1
            assert code not in OURS, (SEED, at, future.details(), method, content[:200])
    assert codes[grpc.StatusCode.OK] > 0
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > n_messages / 10
    assert service.ask("GET", "/readyz")[0] == 200
    print({code.name: n for code, n in codes.items()})


def _key_for(guarded: Guarded, method: str) -> list[tuple[str, str]]:
    return [] if ACCESS[method] == "open" else [("x-api-key", guarded.keys["admin"])]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("size", [9 * 2**20, 64 * 2**20])
def test_a_message_that_is_too_large_is_refused(guarded: Guarded, size: int) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(guarded.service.grpc, options=options) as channel:
        for method in ACCESS:
            if method.startswith("/likewise"):
                future = channel.unary_unary(method).future(bytes(size), timeout=60, metadata=_key_for(guarded, method))
                expected = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT}
                assert future.code() in expected, (method, future.code(), future.details())


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize("n_connections", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_garbage_in_front_of_grpc_is_let_go(guarded: Guarded, n_connections: int) -> None:
    service, rng = guarded.service, random.Random(SEED)
    host, _, port = service.grpc.partition(":")
    kinds = (
        lambda: b"",
        lambda: PREFACE,
        lambda: PREFACE + b"\0\0\0\x04\0\0\0\0\0",  # sound settings, and then
        lambda: PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x40\x01\x04\0\0\0\x01",  # a head of 64 bytes
    )
    for at in range(n_connections):
        with socket.create_connection((host, int(port)), timeout=30) as held, contextlib.suppress(OSError):
            held.sendall(kinds[at % 4]() + rng.randbytes(rng.randint(1, 600)))
            if at % 50 == 0:
                held.settimeout(0.2)
                held.recv(4096)  # what it answers may be looked at, too
    assert service.process.poll() is None
    assert service.ask("GET", "/readyz")[0] == 200
    with grpc.insecure_channel(service.grpc) as channel:
        future = channel.unary_unary("/likewise.v1.MatchService/FindNeighbors").future(
            SEEDS[0].SerializeToString(), timeout=30, metadata=[("x-api-key", guarded.keys["reader"])]
        )
        assert future.code() is grpc.StatusCode.OK
