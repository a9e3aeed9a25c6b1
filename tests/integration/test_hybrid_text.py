"""Words searched by meaning and by BM25, from a catalogue on: the command line, HTTP and gRPC answer alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from embeddings import Content, TextEncoder, load_encoder
from embeddings.bm25 import Bm25
from embeddings.ngrams import words_of
from matching.fusion import SPARSE_ONLY, Fusion
from matching.hybrid import search_hybrid
from matching.store import Store
from matching.version import IndexVersion
from serving.wire import likewise_pb2 as pb
from serving.wire import schema
from serving.wire.likewise_pb2_grpc import SearchServiceStub
from tests.commands import likewise
from tests.services import Shop

if TYPE_CHECKING:
    from tests.services import Service, Start

WORDS = "black leather boots with a zip"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("bm25")
    likewise("catalog", "sample", folder / "shop", "--products", "120")
    where = ("--store", folder / "store", "--name", "words")
    likewise("build", "--catalog", folder / "shop" / "products.parquet", "--text-sparse", "bm25", *where)
    return Shop(folder / "store", "words")


@pytest.fixture(scope="module")
def version(shop: Shop) -> IndexVersion:
    return Store(shop.store).open(shop.name)


@pytest.fixture(scope="module")
def encoder(version: IndexVersion) -> TextEncoder:
    spec = version.space("text").encoder
    assert spec is not None
    encoder = load_encoder(spec)
    assert isinstance(encoder, TextEncoder)
    return encoder


@pytest.fixture(scope="module")
def service(shop: Shop, start_service: Start) -> Iterator[Service]:
    with start_service(shop) as running:
        running.wait_until_ready()
        yield running


def texts(version: IndexVersion) -> list[str]:
    """What was indexed of each product, by row, read where the build reads it."""
    from index_builder.catalog.catalog import open_catalog

    catalog = open_catalog(Path(str(version.manifest.source["path"])))
    own = {product.product_id: product.text for batch in catalog for product in batch.products}
    return [own[version.columns.datapoint_id(row)] for row in range(version.n_datapoints)]


def test_sparse_distances_are_the_bm25_scores_of_the_catalogue(version: IndexVersion, encoder: TextEncoder) -> None:
    held = texts(version)
    fitted = Bm25().fit(held)
    query, documents = fitted.queries([WORDS]), fitted.documents(held)
    weights = dict(zip(query.dimensions.tolist(), query.values.tolist(), strict=True))
    scores = [
        sum(
            weights.get(dimension, 0.0) * value
            for dimension, value in zip(
                documents.dimensions[documents.offsets[at] : documents.offsets[at + 1]].tolist(),
                documents.values[documents.offsets[at] : documents.offsets[at + 1]].tolist(),
                strict=True,
            )
        )
        for at in range(len(held))
    ]
    assert max(scores) > 1
    found = search_hybrid(version, 120, space="text", fusion=SPARSE_ONLY, sparse=encoder.sparse([WORDS])).neighbors[0]
    assert len(found) == sum(score > 0 for score in scores)
    for neighbor in found:
        row = version.columns.find(neighbor.datapoint_id)
        assert neighbor.sparse_distance == pytest.approx(-scores[row], rel=1e-5)


@pytest.mark.parametrize(
    ("fusion", "option", "field"),
    [
        (Fusion("rrf", 0.5), ("--rrf", "0.5"), {"rrfAlpha": 0.5}),
        (Fusion("rrf", 0.0), ("--rrf", "0"), {"rrfAlpha": 0}),
        (Fusion("rrf", 1.0), ("--rrf", "1"), {"rrfAlpha": 1}),
        (Fusion("score", 0.3), ("--weighted", "0.3"), {"scoreAlpha": 0.3}),
    ],
)
def test_every_way_to_ask_answers_alike(
    shop: Shop,
    service: Service,
    version: IndexVersion,
    encoder: TextEncoder,
    fusion: Fusion,
    option: tuple[str, str],
    field: dict[str, float],
) -> None:
    vectors, sparse = encoder.encode([Content(WORDS)]), encoder.sparse([WORDS])
    expected = search_hybrid(version, 5, space="text", fusion=fusion, vectors=vectors, sparse=sparse).neighbors[0]
    ids = [neighbor.datapoint_id for neighbor in expected]
    status, _, body = service.ask("POST", "/v1/search", {"text": WORDS, "k": 5, **field})
    assert status == 200, body
    schema.SearchResponse.model_validate(body)
    assert [neighbor["datapoint"]["datapointId"] for neighbor in body["neighbors"]] == ids
    for name, told in (("distance", "distance"), ("sparse_distance", "sparseDistance")):
        np.testing.assert_allclose(
            [neighbor[told] for neighbor in body["neighbors"]], [getattr(n, name) for n in expected], atol=1e-4
        )
    named = {"rrfAlpha": "rrf_alpha", "scoreAlpha": "score_alpha"}
    request = pb.SearchRequest(text=WORDS, k=5, **{named[key]: value for key, value in field.items()})  # type: ignore[arg-type]
    with grpc.insecure_channel(service.grpc) as channel:
        answer = SearchServiceStub(channel).Search(request, timeout=30)
    assert [neighbor.datapoint.datapoint_id for neighbor in answer.result.neighbors] == ids
    command = likewise("search", "--store", shop.store, "--name", shop.name, "--text", WORDS, "-k", "5", *option)
    assert [neighbor["datapoint_id"] for neighbor in command["neighbors"]] == ids


def test_a_word_that_one_product_has_finds_it(service: Service, version: IndexVersion) -> None:
    words = [set(words_of([text])[0]) for text in texts(version)]
    row, word = next(
        (row, word)
        for row, own in enumerate(words)
        for word in sorted(own)
        if word.isalpha() and sum(word in other for other in words) == 1
    )
    _, _, body = service.ask("POST", "/v1/search", {"text": word, "k": 3, "rrfAlpha": 0})
    assert body["neighbors"][0]["datapoint"]["datapointId"] == version.columns.datapoint_id(row)
    assert len(body["neighbors"]) == 1, "what lacks the word is no answer"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--text", "a", "--rrf", "0.5", "--weighted", "0.5"), "give one"),
        (("--id", "x", "--rrf", "0.5"), "fuse the two sides of a text"),
        (("--text", "a", "--rrf", "2"), "alpha is 2.0; expected 0"),
    ],
)
def test_mistakes_are_explained(shop: Shop, arguments: tuple[str, ...], says: str) -> None:
    assert says in likewise("search", "--store", shop.store, "--name", shop.name, *arguments, status=2)
