"""Google's client writes: what it puts in, changes and removes is found, read and gone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from google.api_core import exceptions
from google.protobuf import field_mask_pb2

from matching.datapoint import Datapoint, Filter, NumericRestrict, Restrict
from tests.compat.catalog import DIM, Catalog, random_filter
from tests.compat.google import PARENT

if TYPE_CHECKING:
    from tests.compat.google import Google

INDEX = f"{PARENT}/indexes/things"
ENDPOINT = f"{PARENT}/indexEndpoints/things"
SEEDS = itertools.count(100)


@pytest.fixture
def fresh(google: Google) -> Catalog:
    """Datapoints far from all others, put in by Google's client."""
    rng = np.random.default_rng(next(SEEDS))
    n = 40
    datapoints = [
        Datapoint(
            f"new-{at}",
            (Restrict("color", (("red", "blue")[at % 2],), ("green",) if at % 3 == 0 else ()),),
            (NumericRestrict("price", float(at), "float64"), NumericRestrict("stock", at % 3, "int64")),
            ("acme", None)[at % 2],
            {"title": f"New {at}"},
        )
        for at in range(n)
    ]
    vectors = (rng.normal(size=(n, DIM)) + 50).astype(np.float32)
    made = Catalog(datapoints, vectors)
    upsert(google, [google.datapoint(one, v.tolist()) for one, v in zip(datapoints, vectors, strict=True)])
    eventually(lambda: read(google, f"new-{n - 1}").feature_vector == vectors[-1].tolist())
    return made


def upsert(google: Google, datapoints: list[Any], mask: str | None = None) -> None:
    update = {} if mask is None else {"update_mask": field_mask_pb2.FieldMask(paths=[mask])}
    google.index.upsert_datapoints(google.types.UpsertDatapointsRequest(index=INDEX, datapoints=datapoints, **update))


def read(google: Google, datapoint_id: str) -> Any:
    asked = google.types.ReadIndexDatapointsRequest(index_endpoint=ENDPOINT, ids=[datapoint_id])
    return google.match.read_index_datapoints(asked).datapoints[0]


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for a write to be seen; Google's client has no token to wait with."""
    for _ in range(400):
        try:
            if holds():
                return
        except exceptions.NotFound:
            pass
        time.sleep(0.02)
    raise AssertionError("the write is not seen")


def nearest(google: Google, vector: Any, k: int, wanted: Filter, cap: int = 0) -> list[str]:
    query = google.query(
        {"feature_vector": vector.tolist()}, wanted, neighbor_count=k, per_crowding_attribute_neighbor_count=cap
    )
    asked = google.types.FindNeighborsRequest(index_endpoint=ENDPOINT, queries=[query])
    (result,) = google.match.find_neighbors(asked).nearest_neighbors
    return [neighbor.datapoint.datapoint_id for neighbor in result.neighbors]


def test_what_was_put_in_is_found(google: Google, fresh: Catalog) -> None:
    rng = np.random.default_rng(2)
    n_found = 0
    for _ in range(20):
        vector = (rng.normal(size=DIM) + 50).astype(np.float32)
        wanted = random_filter(rng)
        wanted = Filter(wanted.restricts, tuple(n for n in wanted.numeric_restricts if n.namespace != "weight"))
        expected = [name for name, _ in fresh.nearest(vector, 5, wanted, cap=3)]
        assert nearest(google, vector, 5, wanted, cap=3)[: len(expected)] == expected
        n_found += len(expected)
    assert n_found > 20


def test_the_mask_all_restricts_changes_restricts_alone(google: Google, fresh: Catalog) -> None:
    before = read(google, "new-7")
    change = google.types.IndexDatapoint(
        datapoint_id="new-7",
        restricts=[{"namespace": "color", "allow_list": ["violet"]}],
        numeric_restricts=[{"namespace": "price", "value_double": 0.0}, {"namespace": "stock", "value_int": 0}],
    )
    upsert(google, [change], mask="all_restricts")
    eventually(lambda: read(google, "new-7").restricts[0].allow_list == ["violet"])
    after = read(google, "new-7")
    kind = type(after)
    assert kind.to_dict(after)["numeric_restricts"] == kind.to_dict(change)["numeric_restricts"]
    assert after.numeric_restricts[1]._pb.WhichOneof("Value") == "value_int", "a zero is a value"
    assert (after.feature_vector, after.crowding_tag) == (before.feature_vector, before.crowding_tag)
    assert after.embedding_metadata == before.embedding_metadata
    violet = Filter((Restrict("color", ("violet",)),), (NumericRestrict("stock", 0, "int64", "EQUAL"),))
    assert nearest(google, fresh.vectors[0], 5, violet) == ["new-7"]


def test_what_is_removed_is_gone(google: Google, fresh: Catalog) -> None:
    google.index.remove_datapoints(
        google.types.RemoveDatapointsRequest(index=INDEX, datapoint_ids=["new-3", "never there"])
    )

    def is_gone() -> bool:
        try:
            read(google, "new-3")
        except exceptions.NotFound:
            return True
        return False

    eventually(is_gone)
    assert "new-3" not in nearest(google, fresh.vectors[3], 39, Filter())


def test_refused_writes_change_nothing(google: Google, fresh: Catalog) -> None:
    vector = fresh.vectors[0].tolist()
    refused: list[tuple[dict[str, Any], str | None, str]] = [
        ({"datapoint_id": "other", "feature_vector": [1.0]}, None, "expected [m, 12]"),
        ({"datapoint_id": "", "feature_vector": vector}, None, "id"),
        ({"datapoint_id": "new-1", "feature_vector": vector}, "feature_vector", "all_restricts"),
        ({"datapoint_id": "new-1", "feature_vector": vector,
          "numeric_restricts": [{"namespace": "stock", "value_int": 1, "op": "EQUAL"}]}, None, "without one"),
    ]  # fmt: skip
    for point, mask, message in refused:
        with pytest.raises(exceptions.GoogleAPICallError) as error:
            upsert(google, [google.types.IndexDatapoint(**point)], mask)
        assert error.value.code == 400
        assert message in str(error.value)
    with pytest.raises(exceptions.NotFound):
        upsert(google, [google.types.IndexDatapoint(datapoint_id="nobody")], "all_restricts")
    assert read(google, "new-1").feature_vector == fresh.vectors[1].tolist()
