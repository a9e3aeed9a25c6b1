"""Google's client asks for neighbours and reads datapoints: its answers are the plain way's, and our own API's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.api_core import exceptions

from matching.datapoint import Filter, NumericRestrict, Operator, Restrict
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import MatchServiceStub
from tests.compat.catalog import DIM, N, random_filter
from tests.compat.google import PARENT

if TYPE_CHECKING:
    from tests.compat.catalog import Catalog
    from tests.compat.google import Google
    from tests.services import Service

ENDPOINT = f"{PARENT}/indexEndpoints/things"
RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(30, DIM)).astype(np.float32)
OPERATORS: list[Operator] = ["LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL"]


def find(google: Google, *queries: Any, full: bool = False) -> Any:
    return google.match.find_neighbors(
        google.types.FindNeighborsRequest(index_endpoint=ENDPOINT, queries=queries, return_full_datapoint=full)
    ).nearest_neighbors


def told(neighbors: Any) -> list[tuple[str, float]]:
    return [(neighbor.datapoint.datapoint_id, neighbor.distance) for neighbor in neighbors]


def same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [distance for _, distance in found] == pytest.approx([distance for _, distance in expected], rel=1e-4)


def test_random_queries_answer_as_the_plain_way_does(google: Google, catalog: Catalog) -> None:
    rng = np.random.default_rng(7)
    wanted = [random_filter(rng) for _ in VECTORS]
    counts, caps = rng.integers(1, 30, len(VECTORS)), rng.integers(0, 4, len(VECTORS))
    asked = zip(VECTORS, wanted, counts, caps, strict=True)
    results = find(
        google,
        *[
            google.query(
                {"datapoint_id": f"q{at}", "feature_vector": vector.tolist()},
                passing,
                neighbor_count=int(k),
                per_crowding_attribute_neighbor_count=int(cap),
            )
            for at, (vector, passing, k, cap) in enumerate(asked)
        ],
    )
    assert [result.id for result in results] == [f"q{at}" for at in range(len(VECTORS))]
    lengths = set()
    for result, vector, passing, k, cap in zip(results, VECTORS, wanted, counts, caps, strict=True):
        same(told(result.neighbors), catalog.nearest(vector, int(k), passing, int(cap)))
        lengths.add(len(result.neighbors))
    assert len(lengths) > 5, "the filters must differ in what they let through"


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(
    "number",
    [NumericRestrict("price", 4.5, "float64"), NumericRestrict("stock", 0, "int64"), NumericRestrict("weight", 0.0, "float32")],
    ids=lambda number: number.type,
)  # fmt: skip
def test_each_operator_on_each_type(google: Google, catalog: Catalog, op: Operator, number: NumericRestrict) -> None:
    wanted = Filter(numeric_restricts=(NumericRestrict(number.namespace, number.value, number.type, op),))
    (result,) = find(google, google.query({"feature_vector": VECTORS[0].tolist()}, wanted, neighbor_count=N))
    same(told(result.neighbors), catalog.nearest(VECTORS[0], N, wanted))


@pytest.mark.parametrize(
    "wanted",
    [
        Restrict("color"),
        Restrict("color", ("red",)),
        Restrict("color", ("red", "blue"), ("sale",)),
        Restrict("color", (), ("red",)),
        Restrict("color", ("sale",), ("sale",)),
        Restrict("size", ("xl",)),
        Restrict("size", ("m", "xl")),
        Restrict("no such namespace", ("x",)),
        Restrict("no such namespace", (), ("x",)),
    ],
    ids=str,
)
def test_restricts(google: Google, catalog: Catalog, wanted: Restrict) -> None:
    asked = google.query({"feature_vector": VECTORS[1].tolist()}, Filter((wanted,)), neighbor_count=N)
    (result,) = find(google, asked)
    same(told(result.neighbors), catalog.nearest(VECTORS[1], N, Filter((wanted,))))


def test_a_query_by_id_finds_itself_first(google: Google, catalog: Catalog) -> None:
    (result,) = find(google, google.query({"datapoint_id": "thing-017"}, neighbor_count=6))
    assert result.id == "thing-017"
    assert result.neighbors[0].distance == 0.0
    same(told(result.neighbors), catalog.nearest(catalog.vector("thing-017"), 6))


def test_knobs_are_taken(google: Google, catalog: Catalog) -> None:
    query = google.query(
        {"feature_vector": VECTORS[2].tolist()},
        neighbor_count=4,
        approximate_neighbor_count=300,
        fraction_leaf_nodes_to_search_override=0.5,
    )
    same(told(find(google, query)[0].neighbors), catalog.nearest(VECTORS[2], 4))


def test_without_full_datapoints_ids_and_tags_are_told(google: Google, catalog: Catalog) -> None:
    (result,) = find(google, google.query({"feature_vector": VECTORS[3].tolist()}, neighbor_count=20))
    tags = {datapoint.datapoint_id: datapoint.crowding_tag for datapoint in catalog.datapoints}
    for neighbor in result.neighbors:
        assert not neighbor.datapoint.feature_vector
        assert not neighbor.datapoint.restricts
        assert neighbor.datapoint.crowding_tag.crowding_attribute == (tags[neighbor.datapoint.datapoint_id] or "")


def check_full(google: Google, catalog: Catalog, found: Any) -> None:
    held = {datapoint.datapoint_id: datapoint for datapoint in catalog.datapoints}[found.datapoint_id]
    expected = google.datapoint(held, catalog.vector(found.datapoint_id).tolist())
    assert type(found).to_dict(found) == type(expected).to_dict(expected)


def test_full_datapoints(google: Google, catalog: Catalog) -> None:
    (result,) = find(google, google.query({"datapoint_id": "thing-007"}, neighbor_count=40), full=True)
    assert len(result.neighbors) == 40
    for neighbor in result.neighbors:
        check_full(google, catalog, neighbor.datapoint)


def test_datapoints_are_read(google: Google, catalog: Catalog) -> None:
    ids = ["thing-000", "thing-049", "thing-007"]
    asked = google.types.ReadIndexDatapointsRequest(index_endpoint=ENDPOINT, deployed_index_id="any", ids=ids)
    found = google.match.read_index_datapoints(asked).datapoints
    assert [datapoint.datapoint_id for datapoint in found] == ids
    for datapoint in found:
        check_full(google, catalog, datapoint)


def test_answers_are_those_of_our_own_api(google: Google, channel: grpc.Channel) -> None:
    wanted = Filter((Restrict("color", ("red",)),))
    queries = [
        google.query({"feature_vector": vector.tolist()}, wanted, neighbor_count=15, per_crowding_attribute_neighbor_count=2)
        for vector in VECTORS
    ]  # fmt: skip
    same_queries = [pb.FindNeighborsRequest.Query.FromString(type(query).serialize(query)) for query in queries]
    own = MatchServiceStub(channel).FindNeighbors(pb.FindNeighborsRequest(queries=same_queries), timeout=10)
    for result, expected in zip(find(google, *queries), own.nearest_neighbors, strict=True):
        assert told(result.neighbors) == told(expected.neighbors)
    assert own.nearest_neighbors[0].neighbors


def refusal(google: Google, *queries: Any) -> exceptions.GoogleAPICallError:
    with pytest.raises(exceptions.GoogleAPICallError) as refused:
        find(google, *queries)
    return refused.value


def test_refusals_have_vertex_s_codes(google: Google) -> None:
    vector = {"feature_vector": VECTORS[0].tolist()}
    unknown = refusal(google, google.query({"datapoint_id": "no such thing"}))
    assert isinstance(unknown, exceptions.NotFound)
    assert "no such thing" in str(unknown)
    for query, message in (
        (google.query({}), "expected one; add it"),
        (google.query({"feature_vector": [1.0]}), "12"),
        (google.query(vector, neighbor_count=-1), "neighbor_count is -1"),
        (google.query(vector, fraction_leaf_nodes_to_search_override=1.5), "expected 0 to 1"),
        (google.query({**vector, "numeric_restricts": [{"namespace": "stock", "value_int": 1}]}), "must say which"),
        (google.query({**vector, "numeric_restricts": [{"namespace": "stock", "op": "LESS"}]}), "no value"),
        (google.query(vector, Filter(numeric_restricts=(NumericRestrict("stock", 1.0, "float64", "LESS"),))), "stock"),
    ):
        error = refusal(google, query)
        assert error.code == 400, error
        assert message in str(error)
    assert refusal(google).code == 400
    too_many = refusal(google, google.query(vector, neighbor_count=1001))
    assert too_many.code == 400
    assert "at most 1,000" in str(too_many)


def test_the_request_id_reaches_the_log(google: Google, service: Service) -> None:
    google.match.find_neighbors(
        google.types.FindNeighborsRequest(
            index_endpoint=ENDPOINT, queries=[google.query({"feature_vector": VECTORS[0].tolist()})]
        ),
        metadata=[("x-request-id", f"mine-{id(google)}")],
    )
    line = service.log_line(f"mine-{id(google)}")
    assert (line["endpoint"], line["q"], line["k"]) == ("find_neighbors", 1, 10)
