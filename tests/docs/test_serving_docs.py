"""docs/serving.md names every metric and error code there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest

from matching.version import IndexVersion, SearchResult
from serving.admission import Admission
from serving.error_codes import ERROR_CODES
from serving.metrics import Metrics
from serving.query import NeighborQuery
from serving.settings import ServingSettings

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    metrics = Metrics()
    metrics.requested("http", "search_text", "200", 0.1)
    metrics.searched("exact", 1, 0.1)
    metrics.encoded("text", 1, 0.1)
    metrics.refused("http", "overload")
    metrics.recalled("graph", 9, 10)
    metrics.stores({"store": Path()})
    metrics.found(cast(IndexVersion, None), [NeighborQuery()], "s", SearchResult(((),), "graph", None, 0, 0, "v", 1.0))
    metrics.loaded(Admission(ServingSettings()))
    text = metrics.exposition(is_ready=True, n_waiting=0).decode()
    exposed = set(re.findall(r"(?m)^# TYPE (likewise_\w+) ", text)) - set(
        re.findall(r"(?m)^# TYPE (\w+_created) ", text)
    )
    assert exposed == set(re.findall(r"(?m)^\| `(likewise_\w+)`", PAGE))


@pytest.mark.parametrize(
    "code", {code.status: code for code in ERROR_CODES.values()}.values(), ids=lambda code: code.status
)
def test_codes_that_a_caller_can_meet_are_documented(code: object) -> None:
    never_served = {"ALREADY_EXISTS", "FAILED_PRECONDITION", "UNIMPLEMENTED"}  # of builds, not of requests
    status = code.status  # type: ignore[attr-defined]
    assert status in never_served or status in PAGE
