"""Upserts that bring texts and pictures in place of vectors: what a service makes of them is what a build would have made."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from index_builder.catalog.catalog import open_catalog
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import IndexServiceStub, SearchServiceStub

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services import Service, Shop, Start


@pytest.fixture(scope="module")
def product(text_shop: Shop) -> Any:
    """A product of the catalogue that the shop was built from, with a text and one picture."""
    assert text_shop.images is not None
    catalog = open_catalog(text_shop.images / "products.parquet", images_dir=text_shop.images)
    products = (one for batch in catalog for one in batch.products)
    return next(one for one in products if one.text and len(one.pictures) == 1)


@pytest.fixture(scope="module")
def picture(text_shop: Shop, product: Any) -> bytes:
    """The product's picture."""
    assert text_shop.images is not None
    return (text_shop.images / product.pictures[0]).read_bytes()


@pytest.fixture(scope="module")
def service(text_shop: Shop, start_service: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with start_service(text_shop, write_log=str(tmp_path_factory.mktemp("log"))) as started:
        started.wait_until_ready()
        yield started


def upsert(service: Service, datapoint_id: str, **content: str) -> tuple[int, Any]:
    status, _, told = service.ask(
        "POST", "/v1/upsertDatapoints", {"datapoints": [{"datapointId": datapoint_id, "content": content}]}
    )
    return status, told


def vectors(service: Service, ids: list[str], space: str, token: str) -> np.ndarray:
    body = {"ids": ids, "space": space, "minVersion": token}
    status, _, told = service.ask("POST", "/v1/readIndexDatapoints", body)
    assert status == 200, told
    return np.array([one["featureVector"] for one in told["datapoints"]])


def found(service: Service, datapoint_id: str, text: str) -> dict[str, Any]:
    """Return a datapoint among the neighbours of a text, once a search sees it."""
    for _ in range(100):
        status, _, told = service.ask("POST", "/v1/search", {"text": text, "k": 200})
        assert status == 200, told
        for neighbor in told["neighbors"]:
            if neighbor["datapoint"]["datapointId"] == datapoint_id:
                return dict(neighbor)
        time.sleep(0.05)
    raise AssertionError(f"{datapoint_id} is not found")


def test_a_product_added_by_its_content_is_found_as_if_it_had_been_built(
    service: Service, product: Any, picture: bytes
) -> None:
    status, told = upsert(service, "twin", text=product.text, image=base64.b64encode(picture).decode())
    assert status == 200, told
    for space in ("text", "image", "fused"):
        twin, built = vectors(service, ["twin", product.product_id], space, told["versionToken"])
        np.testing.assert_allclose(twin, built, atol=2e-3, err_msg=space)
    twin_found, built_found = (found(service, one, product.text) for one in ("twin", product.product_id))
    assert twin_found["distance"] == pytest.approx(built_found["distance"], abs=1e-3), "dense and sparse sides"


def test_over_grpc_a_text_alone_and_a_picture_beside_it(service: Service, product: Any, picture: bytes) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        request = pb.UpsertDatapointsRequest()
        for name, image in (("words", b""), ("both", picture)):
            point = request.datapoints.add(datapoint_id=name)
            point.content.text, point.content.image = "quetzalcoatlus lampshade", image
        token = str(IndexServiceStub(channel).UpsertDatapoints(request, timeout=20).version_token)
        words, both = vectors(service, ["words", "both"], "text", token)
        nearest = SearchServiceStub(channel).Search(pb.SearchRequest(image=picture, k=20, space="image"), timeout=20)
    np.testing.assert_allclose(words, both, atol=2e-3)
    assert "both" in [one.datapoint.datapoint_id for one in nearest.result.neighbors]
    assert found(service, "words", "quetzalcoatlus lampshade")["distance"] < 0.01


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"content": {}}, "the content of datapoint 'x' is empty; expected a text or a picture"),
        ({"content": {"text": " "}}, "[write] the text is empty"),
        ({"content": {"text": "a" * 2001}}, "[write] the text has 2,001 characters; at most 2,000"),
        ({"content": {"text": "a", "image": "%"}}, "datapoints[0].content.image is not base64"),
        ({"content": {"text": "a", "image": "aGVsbG8="}}, "expected a JPEG, PNG or WebP file"),
        ({"content": {"picture": "a"}}, "picture"),
        ({"content": {"text": "a"}, "featureVectors": {"text": [1.0]}}, "brings content and vectors"),
    ],
)
def test_content_that_cannot_be_taken_is_refused(service: Service, point: dict[str, Any], message: str) -> None:
    status, _, told = service.ask("POST", "/v1/upsertDatapoints", {"datapoints": [{"datapointId": "x", **point}]})
    assert status in (400, 413), told
    assert message in told["error"]["message"]


def test_ready_vectors_have_no_encoder_to_ask(vector_shop: Shop, start_service: Start, tmp_path: Path) -> None:
    with start_service(vector_shop, write_log=str(tmp_path / "log")) as service:
        service.wait_until_ready()
        status, told = upsert(service, "x", text="boots")
    assert status == 400
    assert (
        "space 'vectors' was built from ready vectors and has no encoder; expected its vector"
        in told["error"]["message"]
    )
