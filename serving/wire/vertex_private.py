"""The private match service's messages to queries, and answers to its messages.

It spells the same things otherwise than the public service; its messages are read as queries of that one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from serving.error_codes import code_of, public_message
from serving.query import Answer, NeighborQuery, ReadAnswer, Result
from serving.wire import likewise_pb2 as pb
from serving.wire import vertex_pb2 as vx
from serving.wire.vertex_proto import datapoint_message, read_find_neighbors

_HASHED: Final = 1 << 62  # numbers from here up stand for tags that are not numbers themselves


def read_matches(requests: Iterable[vx.MatchRequest]) -> tuple[NeighborQuery, ...]:
    """Return the queries of match requests.

    Raises:
        InvalidQuery: a field holds what the API does not know.
    """
    return read_find_neighbors(pb.FindNeighborsRequest(queries=[_query(request) for request in requests]))


def match_message(result: Result) -> vx.MatchResponse:
    """Return the answer to one match request, with embeddings where the result has them."""
    response = vx.MatchResponse()
    for found in result.neighbors:
        tag = found.crowding_tag if found.datapoint is None else found.datapoint.crowding_tag
        response.neighbor.add(
            id=found.datapoint_id,
            distance=found.distance,
            sparse_distance=found.sparse_distance,
            crowding_attribute=crowding_number(tag),
        )
        if found.datapoint is not None:
            response.embeddings.append(_embedding(datapoint_message(found.datapoint, found.vectors, found.sparse)))
    return response


def batch_message(deployed_index_id: str, answer: Answer) -> vx.BatchMatchResponse.BatchMatchResponsePerIndex:
    """Return the answer to the requests of one deployed index."""
    return vx.BatchMatchResponse.BatchMatchResponsePerIndex(
        deployed_index_id=deployed_index_id, responses=map(match_message, answer.results)
    )


def failure_message(deployed_index_id: str, error: Exception) -> vx.BatchMatchResponse.BatchMatchResponsePerIndex:
    """Return what the requests of one deployed index failed with."""
    status = vx.BatchMatchResponse.Status(code=code_of(error).grpc, message=public_message(error))
    return vx.BatchMatchResponse.BatchMatchResponsePerIndex(deployed_index_id=deployed_index_id, status=status)


def embeddings_message(answer: ReadAnswer) -> vx.BatchGetEmbeddingsResponse:
    """Return the answer to a read."""
    told = zip(answer.datapoints, answer.vectors, answer.sparse, strict=True)
    return vx.BatchGetEmbeddingsResponse(embeddings=[_embedding(datapoint_message(*each)) for each in told])


def crowding_number(tag: str | None) -> int:
    """Return the number that stands for a crowding tag where the wire takes only numbers: the same one everywhere.

    No tag is 0. A tag that is a number from 1 to 2**62 - 1 as one would write it stands for itself; any other for 62 bits of
    its hash from 2**62 up.
    """
    if not tag:
        return 0
    if tag.isascii() and tag.isdigit() and tag[0] != "0" and len(tag) < 20 and int(tag) < _HASHED:
        return int(tag)
    return _HASHED | int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=8).digest(), "big") >> 2


def _query(request: vx.MatchRequest) -> pb.FindNeighborsRequest.Query:
    datapoint = pb.IndexDatapoint(
        datapoint_id=request.embedding_id,
        feature_vector=request.float_val,
        restricts=request.restricts,
        numeric_restricts=request.numeric_restricts,
        sparse_embedding=request.sparse_embedding if request.HasField("sparse_embedding") else None,
    )
    return pb.FindNeighborsRequest.Query(
        datapoint=datapoint,
        neighbor_count=request.num_neighbors,
        per_crowding_attribute_neighbor_count=request.per_crowding_attribute_num_neighbors,
        approximate_neighbor_count=request.approx_num_neighbors,
        fraction_leaf_nodes_to_search_override=request.fraction_leaf_nodes_to_search_override,
        rrf=pb.FindNeighborsRequest.Query.RRF(alpha=request.rrf.alpha) if request.HasField("rrf") else None,
        include_self=True,
    )


def _embedding(point: pb.IndexDatapoint) -> vx.Embedding:
    return vx.Embedding(
        id=point.datapoint_id,
        float_val=point.feature_vector,
        restricts=point.restricts,
        crowding_attribute=crowding_number(point.crowding_tag.crowding_attribute),
        numeric_restricts=point.numeric_restricts,
        sparse_embedding=point.sparse_embedding if point.HasField("sparse_embedding") else None,
        embedding_metadata=point.embedding_metadata,
    )
