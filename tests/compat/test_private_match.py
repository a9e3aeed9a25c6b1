"""The private match service, asked by the stub that Google's client carries."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.cloud.aiplatform.matching_engine._protos import match_service_pb2 as gp
from google.cloud.aiplatform.matching_engine._protos.match_service_pb2_grpc import MatchServiceStub
from hypothesis import given
from hypothesis import strategies as st

from matching.datapoint import Filter, NumericRestrict, Restrict
from serving.wire.vertex_private import crowding_number
from tests.compat.catalog import DIM, random_filter

if TYPE_CHECKING:
    from tests.compat.catalog import Catalog

RNG = np.random.default_rng(23)
VECTORS = RNG.normal(size=(25, DIM)).astype(np.float32)
_FIELDS = {"int64": "value_int", "float32": "value_float", "float64": "value_double"}


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return MatchServiceStub(channel)


def namespaces(wanted: Filter) -> dict[str, Any]:
    return {
        "restricts": [
            gp.Namespace(name=one.namespace, allow_tokens=one.allow, deny_tokens=one.deny) for one in wanted.restricts
        ],
        "numeric_restricts": [
            gp.NumericNamespace(name=one.namespace, op=one.op or 0, **{_FIELDS[one.type]: one.value})  # type: ignore[arg-type]
            for one in wanted.numeric_restricts
        ],
    }


def told(response: Any) -> list[tuple[str, float]]:
    return [(neighbor.id, pytest.approx(neighbor.distance, rel=1e-4)) for neighbor in response.neighbor]


def test_match_answers_as_the_plain_way_does(stub: Any, catalog: Catalog) -> None:
    rng = np.random.default_rng(1)
    requests, expected = [], []
    for vector in VECTORS:
        wanted, k, cap = random_filter(rng), int(rng.integers(1, 20)), int(rng.integers(0, 3))
        requests.append(
            gp.MatchRequest(
                deployed_index_id="any",
                float_val=vector.tolist(),
                num_neighbors=k,
                per_crowding_attribute_num_neighbors=cap,
                approx_num_neighbors=200,
                fraction_leaf_nodes_to_search_override=0.2,
                **namespaces(wanted),
            )
        )
        expected.append(catalog.nearest(vector, k, wanted, cap))
    assert [told(stub.Match(request)) for request in requests] == expected
    batch = gp.BatchMatchRequest.BatchMatchRequestPerIndex(
        deployed_index_id="any", requests=requests, low_level_batch_size=4
    )
    (response,) = stub.BatchMatch(gp.BatchMatchRequest(requests=[batch])).responses
    assert response.deployed_index_id == "any"
    assert response.status.code == 0
    assert [told(each) for each in response.responses] == expected


def test_an_id_is_looked_up_where_there_is_no_vector(stub: Any, catalog: Catalog) -> None:
    asked = gp.MatchRequest(embedding_id="thing-011", num_neighbors=4)
    assert told(stub.Match(asked)) == catalog.nearest(catalog.vector("thing-011"), 4)
    asked = gp.MatchRequest(embedding_id="thing-011", float_val=VECTORS[0].tolist(), num_neighbors=4)
    assert told(stub.Match(asked)) == catalog.nearest(VECTORS[0], 4)


def test_embeddings_come_with_the_answer_and_by_id(stub: Any, catalog: Catalog) -> None:
    answer = stub.Match(gp.MatchRequest(float_val=VECTORS[1].tolist(), num_neighbors=30, embedding_enabled=True))
    ids = [neighbor.id for neighbor in answer.neighbor]
    assert [embedding.id for embedding in answer.embeddings] == ids
    assert list(stub.BatchGetEmbeddings(gp.BatchGetEmbeddingsRequest(id=ids)).embeddings) == list(answer.embeddings)
    held = {datapoint.datapoint_id: datapoint for datapoint in catalog.datapoints}
    for neighbor, embedding in zip(answer.neighbor, answer.embeddings, strict=True):
        datapoint = held[embedding.id]
        expected = namespaces(Filter(datapoint.restricts, datapoint.numeric_restricts))
        assert np.array_equal(np.float32(embedding.float_val), catalog.vector(embedding.id))
        assert list(embedding.restricts) == expected["restricts"]
        assert list(embedding.numeric_restricts) == expected["numeric_restricts"]
        assert dict(embedding.embedding_metadata) == datapoint.metadata
        assert embedding.crowding_attribute == neighbor.crowding_attribute == crowding_number(datapoint.crowding_tag)
    assert not stub.Match(gp.MatchRequest(float_val=VECTORS[1].tolist(), num_neighbors=3)).embeddings


def test_a_batch_that_fails_leaves_the_others_their_answers(stub: Any, catalog: Catalog) -> None:
    def batch(name: str, **request: Any) -> Any:
        asked = gp.MatchRequest(deployed_index_id=name, **request)
        return gp.BatchMatchRequest.BatchMatchRequestPerIndex(deployed_index_id=name, requests=[asked])

    request = gp.BatchMatchRequest(
        requests=[
            batch("a", embedding_id="no such thing"),
            batch("b", float_val=VECTORS[0].tolist(), num_neighbors=2),
            batch("c", float_val=VECTORS[0].tolist(), num_neighbors=2000),
        ]
    )
    unknown, good, many = stub.BatchMatch(request).responses
    assert (unknown.status.code, many.status.code) == (grpc.StatusCode.NOT_FOUND.value[0], 3)
    assert "no such thing" in unknown.status.message
    assert "at most 1,000" in many.status.message
    assert not unknown.responses
    assert told(good.responses[0]) == catalog.nearest(VECTORS[0], 2)


def test_refusals(stub: Any) -> None:
    wrong_type = Filter(numeric_restricts=(NumericRestrict("stock", 1.0, "float64", "LESS"),))
    no_name = Filter((Restrict("", ("x",)),))
    for request, code in (
        (gp.MatchRequest(), "INVALID_ARGUMENT"),
        (gp.MatchRequest(embedding_id="no such thing"), "NOT_FOUND"),
        (gp.MatchRequest(float_val=[1.0]), "INVALID_ARGUMENT"),
        (gp.MatchRequest(float_val=VECTORS[0].tolist(), **namespaces(wrong_type)), "INVALID_ARGUMENT"),
        (gp.MatchRequest(float_val=VECTORS[0].tolist(), **namespaces(no_name)), "INVALID_ARGUMENT"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stub.Match(request)
        assert refused.value.code().name == code
    with pytest.raises(grpc.RpcError) as refused:
        stub.BatchGetEmbeddings(gp.BatchGetEmbeddingsRequest(id=["no such thing"]))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_numbers_that_stand_for_tags_never_change() -> None:
    assert crowding_number(None) == crowding_number("") == 0
    assert crowding_number("42") == 42
    assert crowding_number(str(2**62 - 1)) == 2**62 - 1
    assert crowding_number("acme") == 5479075265991895200
    hashed = [crowding_number(tag) for tag in ("007", "0", "-1", "4.2", "٤٢", "Äpfel", str(2**62), "9" * 40)]
    assert all(2**62 <= number < 2**63 for number in hashed)
    assert len(set(hashed)) == len(hashed)


@given(st.sets(st.text(string.printable, max_size=12), max_size=40))
def test_different_tags_have_different_numbers(tags: set[str]) -> None:
    assert len({crowding_number(tag) for tag in tags}) == len(tags)
