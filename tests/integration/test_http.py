"""The HTTP front, asked over the network: answers against the version itself, every refusal, limits and the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from matching.datapoint import Filter, NumericRestrict, Restrict
from matching.errors import Unavailable
from matching.store import Store
from matching.version import IndexVersion
from serving.http import PAGE
from serving.server import serve
from serving.settings import ServingSettings
from serving.surface_routes import SurfacesResponse
from serving.wire import endpoint_json, recommend_json, schema

if TYPE_CHECKING:
    from tests.services import Service, Shop


class Start(Protocol):
    def __call__(self, shop: Shop, **settings: Any) -> AbstractContextManager[Service]: ...


@pytest.fixture(scope="module")
def version(vector_shop: Shop) -> IndexVersion:
    return Store(vector_shop.store).open(vector_shop.name)


@pytest.fixture(scope="module")
def strict_service(vector_shop: Shop, start_service: Start) -> Iterator[Service]:
    limits = {
        "max_json_bytes": 4096,
        "receive_deadline_s": 0.5,
        "max_k": 20,
        "max_queries": 2,
        "max_ids": 3,
        "max_restricts": 2,
        "max_tokens": 4,
        "max_image_bytes": 2048,
    }
    with start_service(vector_shop, **limits) as service:
        service.wait_until_ready()
        yield service


def find(service: Service, *queries: dict[str, Any], **others: Any) -> dict[str, Any]:
    status, _, body = service.ask("POST", "/v1/findNeighbors", {"queries": list(queries), **others})
    assert status == 200, body
    schema.FindNeighborsResponse.model_validate(body)
    return body  # type: ignore[no-any-return]


def told(result: dict[str, Any]) -> list[tuple[str, float]]:
    return [(n["datapoint"]["datapointId"], pytest.approx(n["distance"], rel=1e-5)) for n in result["neighbors"]]


FILTERS = [
    (Filter(), {}),
    (
        Filter((Restrict("color", ("red", "blue"), ("blue",)),)),
        {"restricts": [{"namespace": "color", "allow": ["red", "blue"], "denyTokens": ["blue"]}]},
    ),
    (
        Filter((Restrict("color", (), ("red",)),), (NumericRestrict("price", 12.5, "float64", "LESS_EQUAL"),)),
        {
            "restricts": [{"namespace": "color", "deny_list": ["red"]}],
            "numericRestricts": [{"namespace": "price", "valueDouble": 12.5, "op": "LESS_EQUAL"}],
        },
    ),
    (
        Filter((), (NumericRestrict("stock", 0, "int64", "EQUAL"), NumericRestrict("weight", 3.5, "float32", "GREATER"))),
        {
            "numericRestricts": [
                {"namespace": "stock", "valueInt": 0, "op": "EQUAL"},
                {"namespace": "weight", "valueFloat": 3.5, "op": "GREATER"},
            ]
        },
    ),
    (Filter((Restrict("size", ("xl",)),)), {"restricts": [{"namespace": "size", "allow": ["xl"]}]}),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "told_as"), FILTERS, ids=range(len(FILTERS)))
def test_find_neighbors_is_the_version_s_search(
    vector_service: Service, version: IndexVersion, wanted: Filter, told_as: dict[str, Any]
) -> None:
    vector = np.random.default_rng(1).normal(size=8).astype(np.float32)
    expected = version.search(vector[None], 7, space="vectors", filter=wanted, crowding_cap=2, exact=True)
    query = {
        "datapoint": {"datapointId": "mine", "featureVector": vector.tolist(), **told_as},
        "neighborCount": 7,
        "perCrowdingAttributeNeighborCount": 2,
    }
    body = find(vector_service, query)
    (result,) = body["nearestNeighbors"]
    assert told(result) == [(n.datapoint_id, n.distance) for n in expected.neighbors[0]]
    assert (result["id"], result["plan"], result["exact"], result["nMatching"]) == (
        "mine",
        "exact",
        True,
        expected.n_matching,
    )
    assert body["indexVersion"] == version.version_id == vector_service.index_version


def test_a_query_by_id_leaves_itself_out_unless_asked(vector_service: Service, version: IndexVersion) -> None:
    body = find(
        vector_service,
        {"datapoint": {"datapointId": "item-0042"}, "neighborCount": 4},
        {"datapoint": {"datapointId": "item-0042"}, "neighborCount": 4, "includeSelf": True},
    )
    without, with_self = body["nearestNeighbors"]
    assert with_self["neighbors"][0]["datapoint"]["datapointId"] == "item-0042"
    assert with_self["neighbors"][0]["distance"] == pytest.approx(0, abs=1e-5)
    assert told(without)[:3] == told(with_self)[1:]
    assert without["nMatching"] == version.n_datapoints - 1


def test_a_batch_of_unlike_queries_keeps_its_order(vector_service: Service) -> None:
    rng = np.random.default_rng(3)
    queries = [
        {
            "datapoint": {"datapointId": f"q{at}", "featureVector": rng.normal(size=8).tolist()},
            "neighborCount": 2 + at % 3,
        }
        for at in range(12)
    ]
    queries[5] = {"datapoint": {"datapointId": "item-0007"}, "neighborCount": 3}
    together = find(vector_service, *queries)["nearestNeighbors"]
    assert [result["id"] for result in together] == [query["datapoint"]["datapointId"] for query in queries]
    for query, result in zip(queries, together, strict=True):
        (alone,) = find(vector_service, query)["nearestNeighbors"]
        assert told(alone) == told(result)
        assert len(result["neighbors"]) == query["neighborCount"]


def test_full_datapoints_are_what_was_built(vector_service: Service, version: IndexVersion) -> None:
    query = {"datapoint": {"datapointId": "item-0042"}, "neighborCount": 3}
    (result,) = find(vector_service, query, returnFullDatapoint=True)["nearestNeighbors"]
    for neighbor in result["neighbors"]:
        datapoint_id = neighbor["datapoint"]["datapointId"]
        (held,), (vectors,) = version.datapoints([datapoint_id]), version.vectors([datapoint_id], "vectors")
        assert neighbor["datapoint"]["featureVector"] == pytest.approx(vectors[0].tolist())
        assert neighbor["datapoint"]["embeddingMetadata"] == held.metadata
        assert neighbor["datapoint"]["crowdingTag"] == {"crowdingAttribute": held.crowding_tag}
        types = {n["namespace"]: set(n) - {"namespace"} for n in neighbor["datapoint"]["numericRestricts"]}
        assert types == {"price": {"valueDouble"}, "stock": {"valueInt"}, "weight": {"valueFloat"}}
    status, _, read = vector_service.ask("POST", "/v1/readIndexDatapoints", {"ids": ["item-0042", "a/b 1é"]})
    assert status == 200
    assert [d["datapointId"] for d in read["datapoints"]] == ["item-0042", "a/b 1é"]


def test_similar_items_takes_any_id(vector_service: Service) -> None:
    status, _, body = vector_service.ask("GET", "/v1/items/" + urllib.parse.quote("a/b 1é", safe="") + "/similar?k=3")
    assert status == 200
    schema.SearchResponse.model_validate(body)
    (by_batch,) = find(vector_service, {"datapoint": {"datapointId": "a/b 1é"}, "neighborCount": 3})["nearestNeighbors"]
    assert told(body) == told(by_batch)
    assert body["neighbors"][0]["datapoint"]["embeddingMetadata"]["title"].startswith("Thing")


def test_restrict_parameters_and_filter_join(vector_service: Service) -> None:
    filter_ = json.dumps({"numericRestricts": [{"namespace": "price", "valueDouble": 5, "op": "LESS"}]})
    query = urllib.parse.urlencode(
        [("restrict", "color=red"), ("restrict", "color=green"), ("filter", filter_), ("k", "200")]
    )
    status, _, body = vector_service.ask("GET", f"/v1/items?{query}")
    assert status == 200
    schema.BrowseResponse.model_validate(body)
    assert body["nMatching"] == len(body["datapoints"]) == sum(at % 3 != 1 and at % 10 != 0 for at in range(50))


def test_browsing_is_spread_complete_and_steady(vector_service: Service, version: IndexVersion) -> None:
    pages = [
        vector_service.ask("GET", f"/v1/items?k=60&offset={offset}")[2]["datapoints"] for offset in range(0, 360, 60)
    ]
    ids = [datapoint["datapointId"] for page in pages for datapoint in page]
    assert len(ids) == len(set(ids)) == version.n_datapoints
    rows = [version.columns.find(datapoint_id) for datapoint_id in ids[:60]]
    counts = np.histogram(rows, bins=6, range=(0, version.n_datapoints))[0]
    assert counts.min() >= 8, "a window should show every part of the catalogue"
    assert vector_service.ask("GET", "/v1/items?k=60")[2]["datapoints"] == pages[0]


def test_facets_count_what_filters_find(vector_service: Service) -> None:
    status, _, body = vector_service.ask(
        "GET", "/v1/facets?namespace=color&namespace=nothing&number=price&number=stock"
    )
    assert status == 200
    schema.FacetsResponse.model_validate(body)
    assert set(body["tokens"]) == {"color"}
    assert body["numbers"]["price"] == {"least": 0.0, "greatest": 29.9, "field": "valueDouble"}
    assert body["numbers"]["stock"]["field"] == "valueInt"
    for counted in body["tokens"]["color"]:
        answer = vector_service.ask("GET", f"/v1/items?restrict=color={counted['token']}")[2]
        assert answer["nMatching"] == counted["count"]


def one(datapoint: dict[str, Any], **query: Any) -> dict[str, Any]:
    return {"queries": [{"datapoint": datapoint, **query}]}


BAD, GONE, MUCH = (400, "INVALID_ARGUMENT"), (404, "NOT_FOUND"), (413, "RESOURCE_EXHAUSTED")
KNOWN = {"datapointId": "item-0042"}


@pytest.mark.parametrize(
    ("asked", "body", "code", "message"),
    [
        ("POST /v1/findNeighbors", b"{", BAD, "not JSON"),
        ("POST /v1/findNeighbors", {"queries": []}, BAD, "no queries"),
        ("POST /v1/findNeighbors", {"querys": []}, BAD, "did you mean 'queries'"),
        ("POST /v1/findNeighbors", one({}), BAD, "no feature_vector, sparse_embedding"),
        ("POST /v1/findNeighbors", one({"featureVector": [1]}), BAD, "has 1 numbers"),
        ("POST /v1/findNeighbors", one({"datapointId": "no"}), GONE, "no datapoint 'no'"),
        ("POST /v1/findNeighbors", one(KNOWN, space="x"), BAD, "has no space 'x'"),
        ("POST /v1/findNeighbors", one(KNOWN, neighborCount=-1), BAD, "neighbor_count is -1"),
        ("POST /v1/findNeighbors", one(KNOWN, neighborCount=1001), MUCH, "at most 1,000"),
        ("POST /v1/findNeighbors", one(KNOWN, recallTarget=2), BAD, "recall_target is 2"),
        ("POST /v1/readIndexDatapoints", {"ids": ["no"]}, GONE, "no datapoint 'no'"),
        ("POST /v1/readIndexDatapoints", {"ids": []}, BAD, "no ids"),
        ("POST /v1/search", {"text": "boots"}, BAD, "has no encoder"),
        ("POST /v1/search", {"text": " "}, BAD, "the text is empty"),
        ("POST /v1/search", {"text": "x" * 2001}, MUCH, "2,001 characters"),
        ("POST /v1/search/image", b"", BAD, "the picture is empty"),
        ("POST /v1/search/image", b"GIF89a....", BAD, "expected a JPEG, PNG or WebP"),
        ("GET /v1/items/no/similar", None, GONE, "no datapoint 'no'"),
        ("GET /v1/items/item-0042/similar?kk=3", None, BAD, "unknown parameter 'kk'"),
        ("GET /v1/items/item-0042/similar?k=x", None, BAD, "k is 'x'"),
        ("GET /v1/items?filter=[]", None, BAD, "a list; expected an object"),
        ("GET /v1/items?restrict=red", None, BAD, "expected namespace=token"),
        ("GET /v1/nothing", None, GONE, "Not Found"),
        ("GET /v1/findNeighbors", None, (405, "UNIMPLEMENTED"), "Method Not Allowed"),
        ("GET /images/none.png", None, GONE, "no picture"),
    ],
)
def test_refusals(vector_service: Service, asked: str, body: Any, code: tuple[int, str], message: str) -> None:
    found, headers, answer = vector_service.ask(*asked.split(" "), body, {"X-Request-Id": "mine-1"})
    status, name = code
    assert found == status, answer
    schema.ErrorResponse.model_validate(answer)
    assert answer["error"]["code"] == status
    assert answer["error"]["status"] == name
    assert message in answer["error"]["message"]
    assert answer["error"]["request_id"] == headers["x-request-id"] == "mine-1"
    assert "Traceback" not in str(answer)
    assert "/tmp" not in str(answer)


def test_a_request_id_unfit_for_a_log_is_replaced(vector_service: Service) -> None:
    _, headers, _ = vector_service.ask("GET", "/healthz", headers={"X-Request-Id": "x" * 500})
    assert len(headers["x-request-id"]) == 16
    _, headers, _ = vector_service.ask("GET", "/healthz", headers={"X-Request-Id": 'a"b'})
    assert len(headers["x-request-id"]) == 16


def test_limits_of_a_request(strict_service: Service) -> None:
    unit = [1.0] + [0.0] * 7
    query = {"datapoint": {"featureVector": unit}}
    refused = [
        {"queries": [query] * 3},
        {"queries": [{**query, "neighborCount": 21}]},
        {"queries": [{"datapoint": {"featureVector": unit, "restricts": [{"namespace": str(n)} for n in range(3)]}}]},
        {
            "queries": [
                {"datapoint": {"featureVector": unit, "restricts": [{"namespace": "a", "allow": list("abcde")}]}}
            ]
        },
        {"queries": [query], "x": "y" * 5000},
    ]
    for body in refused:
        assert strict_service.ask("POST", "/v1/findNeighbors", body)[0] == 413
    assert strict_service.ask("POST", "/v1/findNeighbors", {"queries": [{**query, "neighborCount": 20}]})[0] == 200
    assert strict_service.ask("POST", "/v1/readIndexDatapoints", {"ids": ["item-0042"] * 4})[0] == 413
    assert strict_service.ask("POST", "/v1/search/image", b"\xff\xd8\xff" + b"x" * 3000)[0] == 413
    assert strict_service.ask("POST", "/v1/findNeighbors", b'{"a":' + b"[" * 50 + b"]" * 50 + b"}")[0] == 413


def raw(service: Service, data: bytes, *, then: float = 0.0) -> bytes:
    """Send bytes, wait, and return everything that comes back until the connection closes or falls silent."""
    host, port = service.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(data)
        time.sleep(then)
        received = b""
        while True:
            try:
                part = connection.recv(65536)
            except (TimeoutError, ConnectionResetError):
                return received
            if not part:
                return received
            received += part


def test_a_body_that_grows_past_the_limit_is_cut_off(strict_service: Service) -> None:
    chunks = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(5))
    head = b"POST /v1/search HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(strict_service, head + chunks)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer


@pytest.mark.parametrize("path", ["search", "findNeighbors"])
def test_a_body_that_does_not_arrive_is_refused(strict_service: Service, path: str) -> None:
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
    answer = raw(strict_service, head.encode() + b"{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"DEADLINE_EXCEEDED" in answer


def post(path: str, body: dict[str, Any], *more: str) -> bytes:
    """Return the bytes of a request."""
    content = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(content)}", *more, "", ""]
    return "\r\n".join(head).encode() + content


@pytest.mark.parametrize("inline", [0, 10**9], ids=["in a thread", "on the loop"])
def test_answers_come_in_the_order_of_requests_however_they_are_cut(
    vector_shop: Shop, start_service: Start, inline: int
) -> None:
    ids = [f"item-{at:04}" for at in range(20, 26)]
    asked = [post("/v1/findNeighbors", {"queries": [{"datapoint": {"datapointId": one}}]}) for one in ids]
    asked.insert(3, post("/v1/readIndexDatapoints", {"ids": ["item-0042"]}))
    asked.insert(5, post("/v1/findNeighbors", {"queries": [{"neighborCount": 1}]}))
    stream = b"".join(asked) + post("/v1/findNeighbors", {"queries": []}, "Connection: close")
    with start_service(vector_shop, inline_multiply_adds=inline) as service:
        service.wait_until_ready()
        host, port = service.http.removeprefix("http://").split(":")
        for cut in (len(stream), 1000, 97, 13):
            with socket.create_connection((host, int(port)), 10) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(0, len(stream), cut):
                    connection.sendall(stream[at : at + cut])
                received = b"".join(iter(lambda: connection.recv(65536), b""))
            statuses = [int(line[:3]) for line in received.split(b"HTTP/1.1 ")[1:]]
            assert statuses == [200, 200, 200, 200, 200, 400, 200, 200, 400]
            places = [received.index(f'"nearestNeighbors":[{{"id":"{one}"'.encode()) for one in ids]
            assert places == sorted(places)


@pytest.mark.parametrize("head", [b"", b"GET /healthz HTTP/1.1\r\nHost: a"])
def test_a_head_that_does_not_arrive_loses_its_connection(strict_service: Service, head: bytes) -> None:
    began = time.monotonic()
    assert raw(strict_service, head) == b""
    assert time.monotonic() - began < 4.5, "the connection should have been closed, not left to the client's own limit"


def test_a_connection_serves_many_requests_and_outlives_the_head_deadline(strict_service: Service) -> None:
    host, port = strict_service.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        for _ in range(3):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            received = b""
            while not received.endswith(b'{"status":"ok"}'):
                part = connection.recv(65536)
                assert part, "the connection was closed"
                received += part
            assert received.startswith(b"HTTP/1.1 200")
            time.sleep(0.7)


def test_a_get_with_a_body_is_refused(vector_service: Service) -> None:
    answer = raw(vector_service, b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
    assert answer.startswith(b"HTTP/1.1 400")


def test_garbage_is_not_served_and_the_service_lives_on(vector_service: Service) -> None:
    rng = np.random.default_rng(9)
    for _ in range(20):
        answer = raw(vector_service, rng.bytes(200) + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
    assert vector_service.ask("GET", "/readyz")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/images/../store/versions",
        "/images/..%2Foutside.png",
        "/images/%2e%2e/outside.png",
        "/images/red/..%2f..%2foutside.png",
        "/images/link.png",
        "/images/masked.png",
        "/images/secret.txt",
        "/images/red",
        "/images//etc/passwd",
        "/images/%2Fetc%2Fpasswd",
        "/images/red/one%20two.png%00.txt",
        "/images/",
    ],
)
def test_only_pictures_of_the_folder_are_served(vector_service: Service, path: str) -> None:
    answer = raw(vector_service, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
    assert b"PNG" not in answer


def test_pictures_carry_type_and_tag(vector_service: Service, vector_shop: Shop) -> None:
    assert vector_shop.images is not None
    status, headers, content = vector_service.ask("GET", "/images/red/one%20two.png")
    assert status == 200
    assert content == (vector_shop.images / "red" / "one two.png").read_bytes()
    assert headers["content-type"] == "image/png"
    assert "max-age" in headers["cache-control"]
    assert headers["x-content-type-options"] == "nosniff"
    again, headers, content = vector_service.ask(
        "GET", "/images/red/one%20two.png", headers={"If-None-Match": headers["etag"]}
    )
    assert (again, content) == (304, b"")


def test_the_page_needs_nothing_from_elsewhere(vector_service: Service) -> None:
    paths = {f"/page/{file.name}" for file in PAGE.iterdir() if file.suffix != ".html"}
    assert "/page/page.js" in paths
    for path in ("/", "/docs", *paths):
        status, headers, content = vector_service.ask("GET", path)
        assert status == 200
        assert "default-src 'self'" in headers["content-security-policy"]
        foreign = [word for word in content.decode().split() if "://" in word and "www.w3.org/2000/svg" not in word]
        assert not foreign
    texts = "".join(file.read_text() for file in PAGE.iterdir())
    assert set(re.findall(r'"(/page/[a-z.]+)"', texts)) == paths, "what is served is used, and what is used is served"
    assert "<script>" not in texts, "the policy forbids it"
    assert " style=" not in texts


def test_every_example_of_the_document_works(vector_service: Service) -> None:
    status, _, api = vector_service.ask("GET", "/openapi.json")
    assert status == 200
    answers = {
        "/v1/findNeighbors": schema.FindNeighborsResponse,
        "/v1/readIndexDatapoints": schema.ReadIndexDatapointsResponse,
        "/v1/recommend": recommend_json.RecommendResponse,
        "/v1/explain": recommend_json.ExplainResponse,
        "/v1/rank": recommend_json.RankResponse,
        "/v1/batchRecommend": recommend_json.BatchRecommendResponse,
        "/v1/items": schema.BrowseResponse,
        "/v1/items/{datapoint_id}/similar": schema.SearchResponse,
        "/v1/facets": schema.FacetsResponse,
        "/v1/surfaces": SurfacesResponse,
        "/v1/versions/current": schema.VersionResponse,
        "/v1/endpoints": endpoint_json.EndpointsShape,
        "/v1/endpoints/{name}": endpoint_json.EndpointShape,
        "/v1/endpoints/{name}:traffic": endpoint_json.EndpointShape,
        "/v1/endpoints/{name}:promote": endpoint_json.MoveShape,
    }
    needs_a_version_before = {"/v1/endpoints/{name}:rollback"}
    needs_encoders = {"/v1/search", "/v1/search/image"}
    needs_log = {"/v1/upsertDatapoints", "/v1/removeDatapoints", "/v1/events"}
    assert set(api["paths"]) == set(answers) | needs_encoders | needs_log | needs_a_version_before
    for path, answer in answers.items():
        ((method, about),) = api["paths"][path].items()
        url, query = path, []
        for parameter in about["parameters"]:
            if parameter["in"] == "path":
                url = url.replace("{" + parameter["name"] + "}", urllib.parse.quote(parameter["example"], safe=""))
            elif "example" in parameter:
                query += [(parameter["name"], value) for value in parameter["example"]]
        body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        url += "?" + urllib.parse.urlencode(query) if query else ""
        status, _, told_back = vector_service.ask(method.upper(), url, body)
        assert status == 200, (path, told_back)
        answer.model_validate(told_back)


def test_metrics_count_each_request_once(vector_service: Service) -> None:
    def read(name: str) -> float:
        text = vector_service.ask("GET", "/metrics")[2].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    ok = 'likewise_requests_total{code="200",endpoint="find_neighbors",transport="http"}'
    refused = 'likewise_requests_total{code="400",endpoint="find_neighbors",transport="http"}'
    before, before_refused, queries = read(ok), read(refused), read('likewise_queries_total{plan="exact"}')
    query = {"datapoint": {"datapointId": "item-0042"}}
    find(vector_service, query, query)
    vector_service.ask("POST", "/v1/findNeighbors", {"x": 1})
    assert read(ok) == before + 1
    assert read(refused) == before_refused + 1
    assert read('likewise_queries_total{plan="exact"}') == queries + 2
    assert read("likewise_index_datapoints") == 300
    assert read("likewise_ready") == 1
    assert read("process_resident_memory_bytes") > 0


def test_a_request_is_one_line_of_the_log(vector_service: Service) -> None:
    query = {"datapoint": {"featureVector": [0.123456789] * 8}, "neighborCount": 3}
    status, _, _ = vector_service.ask("POST", "/v1/findNeighbors", {"queries": [query]}, {"X-Request-Id": "log-me"})
    assert status == 200
    line = vector_service.log_line("log-me")
    expected = {
        "endpoint": "find_neighbors",
        "transport": "http",
        "code": "200",
        "index_version": vector_service.index_version,
        "q": 1,
        "k": 3,
        "plan": "exact",
        "degraded": False,
    }
    assert {name: line[name] for name in expected} == expected
    assert line["latency_ms"] > 0
    assert "0.1234" not in json.dumps(line)


def test_time_that_ran_out_is_504_and_nothing_is_searched(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop, request_deadline_s=1e-9) as service:
        service.wait_until_ready()
        before = service.ask("GET", "/metrics")[2].decode()
        status, _, body = service.ask(
            "POST", "/v1/findNeighbors", {"queries": [{"datapoint": {"datapointId": "item-0042"}}]}
        )
        after = service.ask("GET", "/metrics")[2].decode()
    assert (status, body["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
    counts = [
        line for text in (before, after) for line in text.splitlines() if line.startswith("likewise_queries_total")
    ]
    assert len(set(counts)) <= 1


def test_the_end_is_graceful(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop) as service:
        service.wait_until_ready()
        host, port = service.http.removeprefix("http://").split(":")
        body = json.dumps({"queries": [{"datapoint": {"datapointId": "item-0042"}}]}).encode()
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(
                f"POST /v1/findNeighbors HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body[:-1]
            )
            time.sleep(0.1)  # the request is under way, its last byte is still to come
            began = time.monotonic()
            os.kill(service.process.pid, signal.SIGTERM)
            time.sleep(0.1)
            assert service.ask("GET", "/readyz")[2]["draining"] is True
            time.sleep(0.3)
            connection.sendall(body[-1:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert service.process.wait(10) == 0
        assert time.monotonic() - began < 10
        assert service.log_lines()[-1]["message"] == "stopped"


def test_a_second_signal_while_starting_ends_it_too(vector_shop: Shop, start_service: Start) -> None:
    with start_service(vector_shop) as service:
        os.kill(service.process.pid, signal.SIGINT)
        assert service.process.wait(10) == 0


def test_a_damaged_version_is_not_served(vector_shop: Shop, start_service: Start, tmp_path: Path) -> None:
    shutil.copytree(vector_shop.store, tmp_path / "store")
    largest = max((tmp_path / "store" / "versions").rglob("*.vectors"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    damaged = type(vector_shop)(tmp_path / "store", vector_shop.name)
    with pytest.raises(AssertionError, match=r"(?s)the service ended with 1:.*CorruptArtifact"), start_service(damaged):
        pass


def test_a_taken_port_is_named(vector_shop: Shop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            Unavailable, match=rf"HTTP port {port} of 127.0.0.1: Address already in use; choose another"
        ):
            serve(Store(vector_shop.store), "vectors", settings=ServingSettings(), http_port=port, grpc_port=0)


def test_many_callers_at_once_get_their_own_answers(vector_service: Service, version: IndexVersion) -> None:
    ids = [version.columns.datapoint_id(row) for row in range(0, 300, 10)]
    wrong: list[str] = []

    def ask(datapoint_id: str) -> None:
        query = {"datapoint": {"datapointId": datapoint_id}, "neighborCount": 1, "includeSelf": True}
        for _ in range(5):
            (result,) = find(vector_service, query)["nearestNeighbors"]
            if result["neighbors"][0]["datapoint"]["datapointId"] != datapoint_id:
                wrong.append(datapoint_id)

    threads = [threading.Thread(target=ask, args=(datapoint_id,)) for datapoint_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_serving_leaves_training_libraries_alone() -> None:
    code = (
        "import sys, serving, serving.http, serving.grpc; "
        "print([m for m in ('torch', 'sentence_transformers', 'transformers') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_the_graph_is_searched_with_the_effort_asked_and_says_so(graph_shop: Shop, start_service: Start) -> None:
    version = Store(graph_shop.store).open(graph_shop.name)
    sample = version.vectors([version.columns.datapoint_id(row) for row in range(0, 12_000, 600)], "vectors")
    vectors = np.concatenate(sample) + np.float32(0.1)
    with start_service(graph_shop) as service:
        service.wait_until_ready()
        queries = [{"datapoint": {"featureVector": vector.tolist()}, "neighborCount": 10} for vector in vectors]
        default = find(service, *queries)["nearestNeighbors"]
        wide = find(service, *[{**query, "approximateNeighborCount": 400} for query in queries])["nearestNeighbors"]
        exact = find(service, *[{**query, "exact": True} for query in queries])["nearestNeighbors"]
    expected = version.search(vectors, 10, space="vectors")
    assert {(r["plan"], r["exact"], r["effort"]) for r in default} == {
        (expected.plan, expected.plan == "exact", expected.effort)  # which of the two is quicker here decides
    }
    assert {(r["plan"], r["exact"], r["effort"]) for r in wide} == {("graph", False, 400)}
    assert {(r["plan"], r["exact"], r["effort"]) for r in exact} == {("exact", True, None)}
    truth = [{neighbor for neighbor, _ in told(result)} for result in exact]
    for results, floor in ((default, 0.9), (wide, 0.99)):
        hits = [len({neighbor for neighbor, _ in told(r)} & true) / 10 for r, true in zip(results, truth, strict=True)]
        assert np.mean(hits) >= floor


def test_a_scan_off_the_event_loop_answers_the_same(
    vector_shop: Shop, start_service: Start, vector_service: Service
) -> None:
    query = {"datapoint": {"featureVector": [0.25] * 8}, "neighborCount": 6}
    with start_service(vector_shop, inline_multiply_adds=0) as service:
        service.wait_until_ready()
        off_loop = find(service, query)["nearestNeighbors"][0]
        status, _, body = service.ask("POST", "/v1/findNeighbors", one({"featureVector": [1.0]}))
        assert (status, body["error"]["status"]) == (400, "INVALID_ARGUMENT"), "errors cross the thread unchanged"
    on_loop = find(vector_service, query)["nearestNeighbors"][0]
    assert told(off_loop) == told(on_loop)
