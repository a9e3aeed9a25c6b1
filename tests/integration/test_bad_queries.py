"""Queries that no version answers: each is refused with what was wrong, and none disturbs the next."""

from __future__ import annotations

import numpy as np
import pytest

from matching.datapoint import Datapoint, Filter, Metric, NumericRestrict, Restrict
from matching.errors import InvalidQuery
from matching.version import IndexVersion
from tests.versions import MakeVersion


@pytest.fixture(params=[("graph", "ip"), ("graph", "cosine"), ("graph", "l2"), ("hnsw", "cosine")], ids="-".join)
def version(request: pytest.FixtureRequest, make_version: MakeVersion) -> IndexVersion:
    rng = np.random.default_rng(1)
    points = [Datapoint(f"{at}", (), (NumericRestrict("price", float(at)),)) for at in range(80)]
    plan: str
    metric: Metric
    plan, metric = request.param
    return make_version(points, rng.standard_normal((80, 12)), metric=metric, plan=plan, recall_target=0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e7, 1e20, 1e30, 3.4e38])
def test_numbers_that_are_not_finite_or_too_large(version: IndexVersion, value: float) -> None:
    query = np.ones((2, 12), np.float32)
    query[1, 5] = value
    with pytest.raises(InvalidQuery, match="not finite, or has a norm above 1e\\+06"):
        version.search(query, 3, space="vectors")
    assert len(version.search(query[:1], 3, space="vectors").neighbors[0]) == 3


@pytest.mark.parametrize("shape", [(1, 11), (1, 13), (0, 12), (12,), (1, 1, 12)])
def test_shapes_of_another_space(version: IndexVersion, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidQuery, match=r"expected \[q, 12\] with q >= 1"):
        version.search(np.ones(shape, np.float32), 3, space="vectors")


def test_a_query_without_direction(version: IndexVersion) -> None:
    query = np.zeros((1, 12), np.float32)
    if version.spaces["vectors"].metric == "cosine":
        with pytest.raises(InvalidQuery, match="has no direction"):
            version.search(query, 3, space="vectors")
    else:
        assert len(version.search(query, 3, space="vectors").neighbors[0]) == 3


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"k": 0}, "k is 0; expected 1 to 10,000"),
        ({"k": 10_001}, "k is 10001"),
        ({"crowding_cap": -1}, "crowding cap is -1"),
        ({"effort": 0}, "effort is 0"),
        ({"recall_target": 0.0}, "recall_target is 0.0"),
        ({"recall_target": 1.5}, "recall_target is 1.5"),
        ({"filter": Filter((), (NumericRestrict("price", 1.0),))}, "has no op"),
        ({"filter": Filter((), (NumericRestrict("price", 1, "int64", "LESS"),))}, "send the value as value_double"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_knobs_out_of_range(version: IndexVersion, knobs: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidQuery, match=says):
        version.search(np.ones((1, 12), np.float32), **{"k": 3, "space": "vectors", **knobs})  # type: ignore[arg-type]


def test_filters_on_what_no_datapoint_has_match_nothing(version: IndexVersion) -> None:
    for wanted in (
        Filter((Restrict("colour", ("red",)),)),
        Filter((), (NumericRestrict("size", 1.0, "float64", "LESS"),)),
    ):
        result = version.search(np.ones((2, 12), np.float32), 3, space="vectors", filter=wanted)
        assert (result.neighbors, result.n_matching) == (((), ()), 0)
