"""The protocol-buffer side: generated code is fresh, numbers are Vertex's, and both transports read one request alike."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from matching.errors import InvalidQuery
from serving.wire import likewise_pb2 as pb
from serving.wire.generate import generate
from serving.wire.vertex_json import parse_find_neighbors, parse_search
from serving.wire.vertex_proto import read_find_neighbors, read_search

WIRE = Path(pb.__file__).parent


def without_versions(text: str) -> str:
    return re.sub(r"(?m)^.*(Protobuf Python Version|GRPC_GENERATED_VERSION = ).*$|^    \d+,$", "", text)


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    written = generate(tmp_path)
    assert {file.name for file in written} == {file.name for file in WIRE.glob("*_pb2*")}
    for file in written:
        assert without_versions(file.read_text()) == without_versions((WIRE / file.name).read_text()), file.name


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        (
            pb.FindNeighborsRequest,
            {"index_endpoint": 1, "deployed_index_id": 2, "queries": 3, "return_full_datapoint": 4},
        ),
        (
            pb.FindNeighborsRequest.Query,
            {
                "datapoint": 1,
                "neighbor_count": 2,
                "per_crowding_attribute_neighbor_count": 3,
                "approximate_neighbor_count": 4,
                "fraction_leaf_nodes_to_search_override": 5,
                "rrf": 6,
            },
        ),
        (pb.FindNeighborsResponse, {"nearest_neighbors": 1}),
        (pb.FindNeighborsResponse.NearestNeighbors, {"id": 1, "neighbors": 2}),
        (pb.FindNeighborsResponse.Neighbor, {"datapoint": 1, "distance": 2, "sparse_distance": 3}),
        (pb.ReadIndexDatapointsRequest, {"index_endpoint": 1, "deployed_index_id": 2, "ids": 3}),
        (pb.ReadIndexDatapointsResponse, {"datapoints": 1}),
        (
            pb.IndexDatapoint,
            {
                "datapoint_id": 1,
                "feature_vector": 2,
                "restricts": 4,
                "crowding_tag": 5,
                "numeric_restricts": 6,
                "sparse_embedding": 7,
                "embedding_metadata": 8,
            },
        ),
        (pb.IndexDatapoint.Restriction, {"namespace": 1, "allow_list": 2, "deny_list": 3}),
        (
            pb.IndexDatapoint.NumericRestriction,
            {"namespace": 1, "value_int": 2, "value_float": 3, "value_double": 4, "op": 5},
        ),
        (pb.IndexDatapoint.CrowdingTag, {"crowding_attribute": 1}),
        (pb.IndexDatapoint.SparseEmbedding, {"values": 1, "dimensions": 2}),
    ],
    ids=lambda value: value.DESCRIPTOR.name if hasattr(value, "DESCRIPTOR") else "",
)
def test_numbers_are_those_of_vertex_and_ours_begin_at_100(message: type, numbers: dict[str, int]) -> None:
    fields = {field.name: field.number for field in message.DESCRIPTOR.fields}  # type: ignore[attr-defined]
    assert {name: number for name, number in fields.items() if number < 100} == numbers


def test_both_transports_read_one_request_alike() -> None:
    restriction, numeric = pb.IndexDatapoint.Restriction, pb.IndexDatapoint.NumericRestriction
    message = pb.FindNeighborsRequest(
        queries=[
            pb.FindNeighborsRequest.Query(
                datapoint=pb.IndexDatapoint(
                    datapoint_id="a",
                    feature_vector=[0.25, -1],
                    restricts=[restriction(namespace="color", allow_list=["red"], deny_list=["blue"])],
                    numeric_restricts=[
                        numeric(namespace="stock", value_int=0, op=numeric.EQUAL),
                        numeric(namespace="price", value_double=9.5, op=numeric.LESS_EQUAL),
                    ],
                    sparse_embedding=pb.IndexDatapoint.SparseEmbedding(values=[0.5], dimensions=[7]),
                ),
                neighbor_count=4,
                per_crowding_attribute_neighbor_count=1,
                approximate_neighbor_count=99,
                exact=True,
                space="text",
            )
        ]
    )
    body = {
        "queries": [
            {
                "datapoint": {
                    "datapointId": "a",
                    "featureVector": [0.25, -1],
                    "restricts": [{"namespace": "color", "allowList": ["red"], "denyList": ["blue"]}],
                    "numericRestricts": [
                        {"namespace": "stock", "valueInt": "0", "op": "EQUAL"},
                        {"namespace": "price", "valueDouble": 9.5, "op": "LESS_EQUAL"},
                    ],
                    "sparseEmbedding": {"values": [0.5], "dimensions": [7]},
                },
                "neighborCount": 4,
                "perCrowdingAttributeNeighborCount": 1,
                "approximateNeighborCount": 99,
                "exact": True,
                "space": "text",
            }
        ]
    }
    (from_proto,) = read_find_neighbors(message)
    (from_json,), _, _ = parse_find_neighbors(body)
    assert from_proto.options == from_json.options
    assert from_proto.datapoint_id == from_json.datapoint_id
    assert from_proto.vector is not None
    assert from_json.vector is not None
    np.testing.assert_array_equal(from_proto.vector, from_json.vector)
    assert from_proto.sparse is not None
    assert from_proto.sparse.dimensions.tolist() == [7]


@pytest.mark.parametrize(
    ("ranking", "rrf_alpha", "score_alpha"),
    [
        ({}, None, None),
        ({"rrf": {"alpha": 0}}, 0.0, None),
        ({"rrf": {}}, 0.0, None),
        ({"rrf": {"alpha": 0.5}}, 0.5, None),
        ({"weighted": {"alpha": 1}}, None, 1.0),
    ],
)
def test_a_ranking_reads_alike(
    ranking: dict[str, dict[str, float]], rrf_alpha: float | None, score_alpha: float | None
) -> None:
    (from_json,), _, _ = parse_find_neighbors({"queries": [{"datapoint": {"datapointId": "a"}, **ranking}]})
    message = pb.FindNeighborsRequest.Query(datapoint={"datapoint_id": "a"}, **ranking)  # type: ignore[arg-type]
    (from_proto,) = read_find_neighbors(pb.FindNeighborsRequest(queries=[message]))
    for options in (from_json.options, from_proto.options):
        assert (options.rrf_alpha, options.score_alpha) == (rrf_alpha, score_alpha)


def test_an_alpha_of_0_is_one_in_a_search() -> None:
    for body, message in (
        ({"rrfAlpha": 0}, pb.SearchRequest(text="a", rrf_alpha=0)),
        ({"scoreAlpha": 0}, pb.SearchRequest(text="a", score_alpha=0)),
        ({}, pb.SearchRequest(text="a")),
    ):
        assert parse_search({"text": "a", **body})[1] == read_search(message)
    assert read_search(pb.SearchRequest(rrf_alpha=0)).rrf_alpha == 0.0
    assert read_search(pb.SearchRequest()).rrf_alpha is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"datapoint": {"feature_vector": [float("nan")]}}, r"feature_vector\[0\] is nan"),
        ({"datapoint": {"numeric_restricts": [{"namespace": "p", "value_int": 1}]}}, "op is 0; expected one of LESS"),
        ({"datapoint": {"numeric_restricts": [{"namespace": "p", "value_int": 1, "op": 77}]}}, "op is 77"),
        ({"datapoint": {"numeric_restricts": [{"namespace": "p", "op": 1}]}}, "has no value"),
        ({"datapoint": {"restricts": [{"allow_list": ["a"]}]}}, "namespace is ''"),
        ({"fraction_leaf_nodes_to_search_override": -0.5}, "expected 0 to 1"),
    ],
)
def test_refusals_name_what_is_wrong(query: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        read_find_neighbors(pb.FindNeighborsRequest(queries=[pb.FindNeighborsRequest.Query(**query)]))  # type: ignore[arg-type]
