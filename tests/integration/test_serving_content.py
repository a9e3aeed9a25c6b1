"""Words and pictures through the whole service: the same answers over HTTP and gRPC, and what happens when encoding fails."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pytest

from embeddings import Content, TextEncoder, load_encoder
from index_builder.draft import Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint
from matching.encoder_spec import EncoderSpec
from matching.store import Store
from matching.version import IndexVersion
from serving.wire import likewise_pb2 as pb
from serving.wire import schema
from serving.wire.likewise_pb2_grpc import SearchServiceStub
from tests.services import Shop

if TYPE_CHECKING:
    from tests.services import Service, Start


@pytest.fixture(scope="module")
def version(text_shop: Shop) -> IndexVersion:
    return Store(text_shop.store).open(text_shop.name)


def ids(answer: dict[str, Any]) -> list[str]:
    schema.SearchResponse.model_validate(answer)
    return [neighbor["datapoint"]["datapointId"] for neighbor in answer["neighbors"]]


def first_with_picture(version: IndexVersion) -> tuple[str, str]:
    for row in range(version.n_datapoints):
        datapoint = version.columns.datapoint(row)
        pictures = datapoint.metadata.get("pictures")
        if isinstance(pictures, list) and pictures:
            return datapoint.datapoint_id, pictures[0]
    raise AssertionError("the sample shop has pictures")


def test_words_are_searched_with_both_sides_of_the_text_space(text_service: Service, version: IndexVersion) -> None:
    title = str(version.columns.datapoint(7).metadata["title"])
    status, _, body = text_service.ask("POST", "/v1/search", {"text": title, "k": 5})
    assert status == 200, body
    spec = version.spaces["text"].encoder
    assert spec is not None
    encoder = load_encoder(spec)
    assert isinstance(encoder, TextEncoder)
    vectors, sparse = encoder.encode([Content(text=title)]), encoder.sparse([title])
    expected = version.search(vectors, 5, space="text", sparse=sparse)
    assert ids(body) == [neighbor.datapoint_id for neighbor in expected.neighbors[0]]
    np.testing.assert_allclose(
        [n["distance"] for n in body["neighbors"]], [n.distance for n in expected.neighbors[0]], atol=1e-4
    )
    assert body["space"] == "text"
    dense_only = version.search(vectors, 5, space="text").neighbors[0]
    assert abs(dense_only[0].distance - expected.neighbors[0][0].distance) > 1e-3, "the sparse side must have counted"


def test_a_catalogue_picture_finds_its_own_product(
    text_service: Service, text_shop: Shop, version: IndexVersion
) -> None:
    assert text_shop.images is not None
    datapoint_id, path = first_with_picture(version)
    picture = (text_shop.images / path).read_bytes()
    status, _, body = text_service.ask("POST", "/v1/search/image?k=3", picture, {"Content-Type": "image/png"})
    assert status == 200, body
    assert body["space"] == "image"
    assert datapoint_id in ids(body)
    status, _, served = text_service.ask("GET", "/images/" + urllib.parse.quote(path))
    assert (status, served) == (200, picture)


def test_items_are_compared_by_both_unless_a_space_is_named(text_service: Service, version: IndexVersion) -> None:
    datapoint_id, _ = first_with_picture(version)
    path = f"/v1/items/{urllib.parse.quote(datapoint_id, safe='')}/similar?k=4"
    found = {space: text_service.ask("GET", f"{path}&space={space}")[2] for space in ("fused", "text", "image")}
    assert ids(text_service.ask("GET", path)[2]) == ids(found["fused"])
    for space, answer in found.items():
        assert answer["space"] == space
        assert datapoint_id not in ids(answer)


def test_filters_hold_for_words(text_service: Service) -> None:
    _, _, facets = text_service.ask("GET", "/v1/facets?namespace=category&number=price")
    token = facets["tokens"]["category"][0]
    restricts = [{"namespace": "category", "allow_list": [token["token"]]}]
    status, _, body = text_service.ask("POST", "/v1/search", {"text": "blue", "k": 500, "restricts": restricts})
    assert status == 200
    assert len(body["neighbors"]) == body["nMatching"] == token["count"]
    assert {neighbor["datapoint"]["embeddingMetadata"]["category"] for neighbor in body["neighbors"]} == {
        token["token"]
    }


@pytest.mark.parametrize(
    ("asked", "body", "message"),
    [
        ("POST /v1/search", {"text": "mug", "space": "image"}, "space 'image' cannot be asked by text"),
        ("POST /v1/search/image?space=text", b"\x89PNG\r\n\x1a\n", "space 'text' cannot be asked by image"),
        ("POST /v1/search/image", b"\x89PNG\r\n\x1a\n" + b"broken" * 20, "its picture"),
    ],
)
def test_content_that_does_not_fit_is_refused(text_service: Service, asked: str, body: Any, message: str) -> None:
    status, _, answer = text_service.ask(*asked.split(" "), body)
    assert status == 400
    assert message in answer["error"]["message"]


def test_every_example_that_needs_words_works(text_service: Service) -> None:
    example = text_service.ask("GET", "/openapi.json")[2]["paths"]["/v1/search"]["post"]["requestBody"]["content"]
    status, _, body = text_service.ask("POST", "/v1/search", example["application/json"]["example"])
    assert status == 200
    assert ids(body)


def test_grpc_answers_alike(text_service: Service, text_shop: Shop, version: IndexVersion) -> None:
    assert text_shop.images is not None
    _, path = first_with_picture(version)
    picture = (text_shop.images / path).read_bytes()
    with grpc.insecure_channel(text_service.grpc) as channel:
        stub = SearchServiceStub(channel)
        by_text = stub.Search(pb.SearchRequest(text="ceramic mug", k=4), timeout=10)
        by_image = stub.Search(pb.SearchRequest(image=picture, k=4, space="fused"), timeout=10)
    over_http = text_service.ask("POST", "/v1/search", {"text": "ceramic mug", "k": 4})[2]
    assert [n.datapoint.datapoint_id for n in by_text.result.neighbors] == ids(over_http)
    over_http = text_service.ask("POST", "/v1/search/image?k=4&space=fused", picture)[2]
    assert [n.datapoint.datapoint_id for n in by_image.result.neighbors] == ids(over_http)
    assert by_image.result.neighbors[0].datapoint.embedding_metadata["title"]


def test_a_lost_encoder_costs_words_only_and_comes_back(
    text_shop: Shop, start_service: Start, version: IndexVersion
) -> None:
    with start_service(text_shop) as service:
        service.wait_until_ready()
        (encoder,) = [
            child
            for child in psutil.Process(service.process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        encoder.send_signal(signal.SIGKILL)
        service.wait_until_ready(False)
        status, _, body = service.ask("POST", "/v1/search", {"text": "mug"})
        assert (status, body["error"]["status"]) == (503, "UNAVAILABLE")
        similar = f"/v1/items/{urllib.parse.quote(version.columns.datapoint_id(0), safe='')}/similar"
        assert service.ask("GET", similar)[0] == 200, "vectors need no encoder"
        service.wait_until_ready()
        assert service.ask("POST", "/v1/search", {"text": "mug"})[0] == 200
        assert "likewise_encoder_restarts_total 1.0" in service.ask("GET", "/metrics")[2].decode()


def test_a_stopped_encoder_holds_nobody_else_up(text_shop: Shop, start_service: Start, version: IndexVersion) -> None:
    with start_service(text_shop, request_deadline_s=1.0) as service:
        service.wait_until_ready()
        encoder = next(
            child
            for child in psutil.Process(service.process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
        os.kill(encoder.pid, signal.SIGSTOP)
        status, _, body = service.ask("POST", "/v1/search", {"text": "mug"})
        assert (status, body["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
        vector = version.vectors([version.columns.datapoint_id(0)], "text")[0][0].tolist()
        query = {"datapoint": {"featureVector": vector}, "space": "text"}
        began = time.monotonic()
        assert service.ask("POST", "/v1/findNeighbors", {"queries": [query]})[0] == 200
        assert time.monotonic() - began < 0.9, "a vector must not wait behind words"
        service.wait_until_ready(False)
        os.kill(encoder.pid, signal.SIGCONT)
        service.wait_until_ready()


def test_what_was_typed_never_reaches_the_log(text_service: Service) -> None:
    text_service.ask("POST", "/v1/search", {"text": "zanzibar teapot"}, {"X-Request-Id": "secret-1"})
    line = text_service.log_line("secret-1")
    assert line["endpoint"] == "search_text"
    assert "zanzibar" not in json.dumps(text_service.log_lines())


def test_a_version_whose_encoders_cannot_be_loaded_ends_the_service(tmp_path: Path, start_service: Start) -> None:
    draft = Draft(Store(tmp_path / "store", create=True), BuildSettings(plan="flat", threads=1), Silent())
    space = draft.new_space("text", 4, space_id="test", metric="ip", modality="text")
    space.encoder = EncoderSpec("nonsense", {})
    draft.columns.add(Datapoint("only"))
    space.vectors.append(np.ones((1, 4), np.float32), np.arange(1))
    built = draft.finish(source={"kind": "test"}, parent=None)
    with start_service(Shop(tmp_path / "store", built.version_id)) as service:
        assert service.process.wait(60) == 1
    assert "there is no encoder of kind 'nonsense'" in service.log.read_text()
