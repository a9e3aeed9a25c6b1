"""Our messages have the field names, numbers and types of Google's own, wherever both have the field."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud.aiplatform.matching_engine._protos import match_service_pb2 as gp
from google.cloud.aiplatform_v1 import types as v1
from google.cloud.aiplatform_v1beta1 import types as v1beta1
from google.longrunning import operations_pb2

from serving.wire import likewise_pb2 as pb
from serving.wire import vertex_pb2 as vx

OURS_ALONE = 100  # fields from this number on are what Likewise adds
PUBLIC = [
    (pb.FindNeighborsRequest, "FindNeighborsRequest"),
    (pb.FindNeighborsResponse, "FindNeighborsResponse"),
    (pb.ReadIndexDatapointsRequest, "ReadIndexDatapointsRequest"),
    (pb.ReadIndexDatapointsResponse, "ReadIndexDatapointsResponse"),
    (pb.UpsertDatapointsRequest, "UpsertDatapointsRequest"),
    (pb.RemoveDatapointsRequest, "RemoveDatapointsRequest"),
    (pb.WriteResponse, "UpsertDatapointsResponse"),
    (pb.WriteResponse, "RemoveDatapointsResponse"),
    (vx.Index, "Index"),
    (vx.IndexEndpoint, "IndexEndpoint"),
    (vx.GetRequest, "GetIndexRequest"),
    (vx.GetRequest, "GetIndexEndpointRequest"),
    (vx.ListRequest, "ListIndexesRequest"),
    (vx.ListRequest, "ListIndexEndpointsRequest"),
    (vx.ListIndexesResponse, "ListIndexesResponse"),
    (vx.ListIndexEndpointsResponse, "ListIndexEndpointsResponse"),
    (vx.DeployIndexRequest, "DeployIndexRequest"),
    (vx.DeployIndexRequest, "MutateDeployedIndexRequest"),
    (vx.DeployIndexResponse, "DeployIndexResponse"),
    (vx.DeployIndexResponse, "MutateDeployedIndexResponse"),
    (vx.UndeployIndexRequest, "UndeployIndexRequest"),
    (vx.UndeployIndexResponse, "UndeployIndexResponse"),
]
PRIVATE = [
    (vx.MatchRequest, gp.MatchRequest),
    (vx.MatchResponse, gp.MatchResponse),
    (vx.BatchMatchRequest, gp.BatchMatchRequest),
    (vx.BatchMatchResponse, gp.BatchMatchResponse),
    (vx.BatchGetEmbeddingsRequest, gp.BatchGetEmbeddingsRequest),
    (vx.BatchGetEmbeddingsResponse, gp.BatchGetEmbeddingsResponse),
]


def check(own: Any, google: Any, *, names: bool) -> int:
    """Compare all fields below a message; return how many there were."""
    n_fields = 0
    for field in own.fields:
        if field.number >= OURS_ALONE:
            continue
        other = google.fields_by_number.get(field.number)
        where = f"{own.full_name}.{field.name}"
        assert other is not None, where
        assert not names or field.name == other.name, where
        assert (field.type, field.is_repeated) == (other.type, other.is_repeated), where
        n_fields += 1
        if field.message_type is not None and field.message_type.file.package != "google.protobuf":
            n_fields += check(field.message_type, other.message_type, names=names)
        if field.enum_type is not None:
            told = {value.number: value.name for value in field.enum_type.values}
            assert told == {value.number: value.name for value in other.enum_type.values}, where
    return n_fields


@pytest.mark.parametrize("types", [v1, v1beta1], ids=["v1", "v1beta1"])
def test_public_messages(types: Any) -> None:
    assert sum(check(own.DESCRIPTOR, getattr(types, name).pb().DESCRIPTOR, names=True) for own, name in PUBLIC) > 150


@pytest.mark.parametrize(("own", "google"), PRIVATE, ids=lambda kind: kind.DESCRIPTOR.name)
def test_private_messages(own: Any, google: Any) -> None:
    assert check(own.DESCRIPTOR, google.DESCRIPTOR, names=False) > 1  # restricts are spelt otherwise there


def test_operations() -> None:
    assert check(vx.Operation.DESCRIPTOR, operations_pb2.Operation.DESCRIPTOR, names=True) == 3
