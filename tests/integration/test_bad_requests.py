"""Vectors and counts beyond all bounds, over both transports, to search and to write: refused whole, and told why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from matching.datapoint import Datapoint
from matching.store import Store
from matching.version import MAX_K
from serving.settings import ServingSettings
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import IndexServiceStub, MatchServiceStub
from tests.services import Service, Shop, Start
from tests.versions import MakeVersion

DIM = 8
GOOD = [0.5] * DIM
INF, NAN = float("inf"), float("nan")
# what stands in JSON, and what a message holds; None where it cannot hold such a thing
BAD_VECTORS: dict[str, tuple[str, list[float] | None]] = {
    "nan": ("[NaN,1,1,1,1,1,1,1]", [NAN, *GOOD[1:]]),
    "inf": ("[Infinity,1,1,1,1,1,1,1]", [INF, *GOOD[1:]]),
    "minus inf": ("[-Infinity,1,1,1,1,1,1,1]", [-INF, *GOOD[1:]]),
    "1e20": ("[1e20,1,1,1,1,1,1,1]", [1e20, *GOOD[1:]]),
    "1e30": ("[1e30,1,1,1,1,1,1,1]", [1e30, *GOOD[1:]]),
    "greatest float32": ("[3.4028234e38,1,1,1,1,1,1,1]", [3.4028234e38, *GOOD[1:]]),
    "greatest float64": ("[1.7976931348623157e308,1,1,1,1,1,1,1]", None),
    "beyond float64": ("[1e400,1,1,1,1,1,1,1]", None),
    "one too many": (json.dumps([*GOOD, 1.0]), [*GOOD, 1.0]),
    "one too few": (json.dumps(GOOD[1:]), GOOD[1:]),
    "none": ("[]", []),
    "very long": (json.dumps([1.0] * 200_000), [1.0] * 200_000),
    "ragged": ("[[1,1,1,1],[1,1,1,1]]", None),
    "null": ("[null,1,1,1,1,1,1,1]", None),
    "string": ('["1",1,1,1,1,1,1,1]', None),
    "a string": ('"1,1,1,1,1,1,1,1"', None),
    "bool": ("[true,1,1,1,1,1,1,1]", None),
    "object": ('[{"x":1},1,1,1,1,1,1,1]', None),
}


@pytest.fixture(scope="module")
def service(vector_shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = str(tmp_path_factory.mktemp("log"))
    with start_service(vector_shop, write_log=log) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.grpc, options=[("grpc.max_send_message_length", -1)]) as opened:
        yield opened


def refused(call: Any, message: Any, codes: tuple[grpc.StatusCode, ...] = (grpc.StatusCode.INVALID_ARGUMENT,)) -> str:
    with pytest.raises(grpc.RpcError) as told:
        call(message, timeout=30)
    assert isinstance(told.value, grpc.Call)
    assert told.value.code() in codes, told.value.details()
    return str(told.value.details())


@pytest.mark.parametrize("name", BAD_VECTORS)
def test_a_bad_vector_is_never_searched_with(service: Service, channel: grpc.Channel, name: str) -> None:
    text, values = BAD_VECTORS[name]
    good = f'{{"datapoint":{{"featureVector":{GOOD}}}}}'
    body = f'{{"queries":[{good},{{"datapoint":{{"featureVector":{text}}}}}]}}'.encode()
    status, _, answer = service.ask("POST", "/v1/findNeighbors", body)
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT"), answer
    if values is not None:
        request = pb.FindNeighborsRequest()
        for vector in (GOOD, values):
            request.queries.add().datapoint.feature_vector.extend(vector)
        assert refused(MatchServiceStub(channel).FindNeighbors, request)


@pytest.mark.parametrize("name", BAD_VECTORS)
def test_a_batch_with_a_bad_vector_is_not_written(service: Service, channel: grpc.Channel, name: str) -> None:
    text, values = BAD_VECTORS[name]
    sound = f'{{"datapointId":"sound","featureVector":{GOOD}}}'
    body = f'{{"datapoints":[{sound},{{"datapointId":"bad","featureVector":{text}}}]}}'.encode()
    status, _, answer = service.ask("POST", "/v1/upsertDatapoints", body)
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT"), answer
    if values is not None:
        points = [
            pb.IndexDatapoint(datapoint_id=point_id, feature_vector=vector)
            for point_id, vector in (("sound", GOOD), ("bad", values))
        ]
        assert refused(IndexServiceStub(channel).UpsertDatapoints, pb.UpsertDatapointsRequest(datapoints=points))
    assert service.ask("POST", "/v1/readIndexDatapoints", {"ids": ["sound"]})[0] == 404


@pytest.mark.parametrize("vector", [[1e-45] * DIM, [0.0] * DIM, [1e-30] + [0.0] * 7, GOOD])
def test_answers_hold_finite_distances_and_real_datapoints(service: Service, vector: list[float]) -> None:
    body = {"queries": [{"datapoint": {"featureVector": vector}, "neighborCount": 1000}]}
    status, _, answer = service.ask("POST", "/v1/findNeighbors", body)
    assert status == 200
    neighbors = answer["nearestNeighbors"][0]["neighbors"]
    ids = [neighbor["datapoint"]["datapointId"] for neighbor in neighbors]
    assert len(set(ids)) == len(ids) == 300
    assert all(0 <= neighbor["distance"] < 1e12 for neighbor in neighbors)


def test_a_vector_without_direction_is_refused_where_angles_are_compared(
    store: Store, make_version: MakeVersion, start_service: Start, tmp_path: Path
) -> None:
    make_version([Datapoint("only")], np.ones((1, DIM), np.float32), plan="flat", alias="angles")
    with start_service(Shop(store.path, "angles"), write_log=str(tmp_path / "log")) as service:
        service.wait_until_ready()
        with grpc.insecure_channel(service.grpc) as channel:
            for value in (0.0, -0.0, 1e-45, 1e-30):
                vector = [value] * DIM
                query, point = {"datapoint": {"featureVector": vector}}, {"datapointId": "x", "featureVector": vector}
                for path, body in (
                    ("findNeighbors", {"queries": [query]}),
                    ("upsertDatapoints", {"datapoints": [point]}),
                ):
                    status, _, answer = service.ask("POST", f"/v1/{path}", body)
                    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT"), (path, value, answer)
                asked = pb.FindNeighborsRequest(queries=[{"datapoint": {"feature_vector": vector}}])
                assert "direction" in refused(MatchServiceStub(channel).FindNeighbors, asked)
                written = pb.UpsertDatapointsRequest(datapoints=[{"datapoint_id": "x", "feature_vector": vector}])
                assert refused(IndexServiceStub(channel).UpsertDatapoints, written)
        assert service.ask("POST", "/v1/readIndexDatapoints", {"ids": ["x"]})[0] == 404


LIMITS = ServingSettings()
HUGE = (2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30)


@pytest.mark.parametrize(
    ("name", "most", "least"),
    [
        ("neighborCount", LIMITS.max_k, 1),
        ("approximateNeighborCount", MAX_K, 0),
        ("perCrowdingAttributeNeighborCount", None, 0),
    ],
)
def test_counts_of_a_query(service: Service, name: str, most: int | None, least: int) -> None:
    for value in (-(2**63) - 1, -(2**31), -1, least - 1, *(() if most is None else (most + 1,)), *HUGE):
        body = {"queries": [{"datapoint": {"featureVector": GOOD}, name: value}]}
        status, _, answer = service.ask("POST", "/v1/findNeighbors", body)
        if most is None and value > 0 and status == 200:
            continue  # any cap above the count caps nothing
        assert status in (400, 413), (value, answer)
    for value in (least, most or 5):
        body = {"queries": [{"datapoint": {"featureVector": GOOD}, name: value}]}
        assert service.ask("POST", "/v1/findNeighbors", body)[0] == 200


@pytest.mark.parametrize("value", [-(2**31), -1, 1001, 2**31 - 1])
def test_counts_of_a_message(channel: grpc.Channel, value: int) -> None:
    request = pb.FindNeighborsRequest()
    query = request.queries.add(neighbor_count=value)
    query.datapoint.feature_vector.extend(GOOD)
    codes = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    told = refused(MatchServiceStub(channel).FindNeighbors, request, codes)
    assert f"neighbor_count is {value}" in told.replace(",", "")


def test_sums_of_a_request_have_limits_and_messages_name_them(service: Service) -> None:
    query = {"datapoint": {"featureVector": GOOD}}
    tokens = {"namespace": "color", "allowList": ["x"] * (LIMITS.max_tokens + 1)}
    many = [{"namespace": f"n{at}", "allowList": ["x"]} for at in range(LIMITS.max_restricts + 1)]
    nested = b'{"a":' * 1000 + b"{}" + b"}" * 1000
    cases: list[tuple[str, Any, str]] = [
        ("findNeighbors", {"queries": [query] * (LIMITS.max_queries + 1)}, f"at most {LIMITS.max_queries}"),
        (
            "findNeighbors",
            {"queries": [{**query, "neighborCount": 1000}] * 21},
            f"21,000 neighbors; at most {LIMITS.max_neighbors:,}",
        ),
        (
            "findNeighbors",
            {"queries": [{**query, "neighborCount": 1000}] * 3, "returnFullDatapoint": True},
            f"3,000 neighbors; at most {LIMITS.max_full_neighbors:,}",
        ),
        ("findNeighbors", {"queries": [{"datapoint": {"featureVector": GOOD, "restricts": [tokens]}}]}, "1,025 tokens"),
        ("findNeighbors", {"queries": [{"datapoint": {"featureVector": GOOD, "restricts": many}}]}, "65 restricts"),
        ("findNeighbors", nested, "32"),
        ("readIndexDatapoints", {"ids": ["item-0042"] * (LIMITS.max_ids + 1)}, f"at most {LIMITS.max_ids:,}"),
        ("upsertDatapoints", {"datapoints": [{"datapointId": "x"}] * (LIMITS.max_writes + 1)}, "1,001 datapoints"),
        ("removeDatapoints", {"datapointIds": ["x"] * (LIMITS.max_writes + 1)}, "1,001 datapoints"),
        ("search", {"text": "x" * 5_000_000}, "5,000,000 characters"),
        (
            "findNeighbors",
            {"queries": [{"datapoint": {"restricts": [{**tokens, "allowList": ["x"] * 100_000}]}}]},
            "100,000 tokens",
        ),
    ]
    before = psutil.Process(service.process.pid).memory_info().rss
    for path, body, says in cases:
        status, _, answer = service.ask("POST", f"/v1/{path}", body)
        assert (status, answer["error"]["status"]) == (413, "RESOURCE_EXHAUSTED"), (says, answer)
        assert says in answer["error"]["message"].replace("at most 1000;", "at most 1,000;")
    assert psutil.Process(service.process.pid).memory_info().rss - before < 50 * 2**20


def test_sums_of_a_message_have_the_same_limits(channel: grpc.Channel) -> None:
    point = {"feature_vector": GOOD}
    query = {"datapoint": point, "neighbor_count": 1000}
    tokens = {"namespace": "color", "allow_list": ["x"] * 100_000}
    find, read = pb.FindNeighborsRequest, pb.ReadIndexDatapointsRequest
    match, index = MatchServiceStub(channel), IndexServiceStub(channel)
    many = [f"{at}" for at in range(LIMITS.max_writes + 1)]
    cases: list[tuple[Any, Any, str]] = [
        (match.FindNeighbors, find(queries=[query] * 101), f"at most {LIMITS.max_queries}"),
        (match.FindNeighbors, find(queries=[query] * 21), f"21,000 neighbors; at most {LIMITS.max_neighbors:,}"),
        (
            match.FindNeighbors,
            find(queries=[query] * 3, return_full_datapoint=True),
            f"3,000 neighbors; at most {LIMITS.max_full_neighbors:,}",
        ),
        (match.FindNeighbors, find(queries=[{"datapoint": {**point, "restricts": [tokens]}}]), "100,000 tokens"),
        (
            match.FindNeighbors,
            find(queries=[{"datapoint": {**point, "restricts": [{"namespace": each} for each in many[:65]]}}]),
            "65 restricts",
        ),
        (match.ReadIndexDatapoints, read(ids=["item-0042"] * (LIMITS.max_ids + 1)), f"at most {LIMITS.max_ids:,}"),
        (
            index.UpsertDatapoints,
            pb.UpsertDatapointsRequest(datapoints=[{"datapoint_id": each, **point} for each in many]),
            "1,001 datapoints",
        ),
        (index.RemoveDatapoints, pb.RemoveDatapointsRequest(datapoint_ids=many), "1,001 datapoints"),
        (match.FindNeighbors, find(queries=[{"datapoint": {"datapoint_id": "x" * 10_000_000}}]), "at most 8,388,608"),
    ]
    for call, message, says in cases:
        told = refused(call, message, (grpc.StatusCode.RESOURCE_EXHAUSTED,))
        assert says in told.replace("at most 1000;", "at most 1,000;")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("findNeighbors", {"queries": []}),
        ("readIndexDatapoints", {"ids": []}),
        ("upsertDatapoints", {"datapoints": []}),
        ("removeDatapoints", {"datapointIds": []}),
        ("search", {"text": ""}),
    ],
)
def test_requests_for_nothing_are_refused(service: Service, path: str, body: dict[str, Any]) -> None:
    status, _, answer = service.ask("POST", f"/v1/{path}", body)
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT"), answer


@pytest.mark.parametrize("length", [0, 1025, 1_000_000])
def test_ids_have_a_length(service: Service, length: int) -> None:
    body = {"datapoints": [{"datapointId": "x" * length, "featureVector": GOOD}]}
    status, _, answer = service.ask("POST", "/v1/upsertDatapoints", body)
    assert status == 400
    assert "expected 1 to 1024 bytes" in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 1000


def test_numbers_of_datapoints_have_bounds(service: Service) -> None:
    for value in ("NaN", "Infinity", "1e400", '"x"', "null", "[]"):
        number = f'{{"namespace":"price","valueDouble":{value}}}'
        body = f'{{"datapoints":[{{"datapointId":"n","featureVector":{GOOD},"numericRestricts":[{number}]}}]}}'
        assert service.ask("POST", "/v1/upsertDatapoints", body.encode())[0] == 400, value
    for value in (2**63, -(2**63) - 1, 10**40):
        body_ = {
            "datapoints": [
                {
                    "datapointId": "n",
                    "featureVector": GOOD,
                    "numericRestricts": [{"namespace": "stock", "valueInt": str(value)}],
                }
            ]
        }
        assert service.ask("POST", "/v1/upsertDatapoints", body_)[0] == 400, value
    assert service.ask("POST", "/v1/readIndexDatapoints", {"ids": ["n"]})[0] == 404
