"""Protocol buffers to queries, and answers to protocol buffers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from embeddings.encoder import Content
from matching.datapoint import Datapoint, Filter, NumericRestrict, NumericType, Operator, Restrict, SparseRows
from matching.errors import InvalidQuery
from serving.query import Answer, DatapointWrite, NeighborQuery, Options, ReadAnswer, Result, VersionInfo, Written
from serving.slate import SlateQuery
from serving.wire import likewise_pb2 as pb
from serving.wire.vertex_json import (
    OPERATORS,
    KnownQueries,
    check_finite,
    check_fraction,
    is_restricts_only,
    sparse_row,
)

_TYPES: Final[dict[str, NumericType]] = {"value_int": "int64", "value_float": "float32", "value_double": "float64"}
_FIELDS: Final[dict[NumericType, str]] = {kind: field for field, kind in _TYPES.items()}
_known = KnownQueries()
_Operators = pb.IndexDatapoint.NumericRestriction.Operator


def read_find_neighbors(request: pb.FindNeighborsRequest) -> tuple[NeighborQuery, ...]:
    """Return the queries of a find-neighbors request.

    Raises:
        InvalidQuery: a field holds what the API does not know.
    """
    return tuple(_query(query, f"queries[{at}]") for at, query in enumerate(request.queries))


def read_search(request: pb.SearchRequest) -> Options:
    """Return the options of a search.

    Raises:
        InvalidQuery: a field holds what the API does not know.
    """
    return Options(
        k=request.k or Options().k,
        space=request.space or None,
        filter=_filter(request.restricts, request.numeric_restricts, "request"),
        crowding_cap=request.crowding_cap,
        exact=request.exact,
        recall_target=request.recall_target or None,
        rrf_alpha=request.rrf_alpha if request.HasField("rrf_alpha") else None,
        score_alpha=request.score_alpha if request.HasField("score_alpha") else None,
    )


def read_recommend(request: pb.RecommendRequest) -> SlateQuery:
    """Return what a page asks.

    Raises:
        InvalidQuery: a field holds what the API does not know.
    """
    return SlateQuery(
        user=request.user_id,
        session=request.session_id,
        items=tuple(request.items),
        basket=tuple(request.basket),
        surface=request.surface,
        k=request.k or SlateQuery().k,
        filter=_filter(request.restricts, request.numeric_restricts, "request"),
        exclude=tuple(request.exclude),
        exclude_seen=request.exclude_seen,
        exclude_bought=request.exclude_bought,
        depth=request.depth,
        page_token=request.page_token,
    )


def read_upsert(request: pb.UpsertDatapointsRequest) -> tuple[tuple[DatapointWrite, ...], bool]:
    """Return the datapoints of an upsert, and whether it is of their restricts alone.

    Raises:
        InvalidQuery: a field holds what the API does not know.
    """
    writes = tuple(_write(point, f"datapoints[{at}]") for at, point in enumerate(request.datapoints))
    return writes, is_restricts_only(",".join(request.update_mask.paths))


def written_message(written: Written) -> pb.WriteResponse:
    """Return the answer to a write."""
    return pb.WriteResponse(
        version_token=written.version_token, is_repeat=written.is_repeat, index_version=written.version_id
    )


def find_neighbors_message(answer: Answer) -> pb.FindNeighborsResponse:
    """Return a batch's answer."""
    response = pb.FindNeighborsResponse(
        index_version=answer.version_id,
        variant=answer.variant,
        degraded=answer.is_degraded,
        coverage=answer.coverage,
    )
    for result in answer.results:
        _fill_result(response.nearest_neighbors.add(), result)
    return response


def search_message(answer: Answer) -> pb.SearchResponse:
    """Return the answer to a search."""
    response = pb.SearchResponse(
        index_version=answer.version_id,
        variant=answer.variant,
        degraded=answer.is_degraded,
        coverage=answer.coverage,
    )
    _fill_result(response.result, answer.results[0])
    return response


def read_message(answer: ReadAnswer) -> pb.ReadIndexDatapointsResponse:
    """Return the answer to a read."""
    response = pb.ReadIndexDatapointsResponse(index_version=answer.version_id)
    for datapoint, vectors, sparse in zip(answer.datapoints, answer.vectors, answer.sparse, strict=True):
        _fill_datapoint(response.datapoints.add(), datapoint, vectors, sparse)
    return response


def datapoint_message(
    datapoint: Datapoint, vectors: NDArray[np.float32] | None, sparse: SparseRows | None
) -> pb.IndexDatapoint:
    """Return a datapoint with its vectors, float32[m, dim], one after the other, and its sparse row."""
    message = pb.IndexDatapoint()
    _fill_datapoint(message, datapoint, vectors, sparse)
    return message


def version_message(version: VersionInfo) -> pb.Version:
    """Return what is being served."""
    spaces = [
        pb.Version.Space(
            name=space.name,
            space_id=space.space_id,
            modality=space.modality or "",
            metric=space.metric,
            dim=space.dim,
            plan=space.plan,
            n_vectors=space.n_vectors,
            recall=space.recall,
        )
        for space in version.spaces
    ]
    return pb.Version(
        version_id=version.version_id,
        created_at=version.created_at,
        n_datapoints=version.n_datapoints,
        version_token=version.version_token,
        spaces=spaces,
    )


def _query(query: pb.FindNeighborsRequest.Query, where: str) -> NeighborQuery:
    """Read a query. Those of one caller differ in their vectors, so that the rest of each is read once."""
    values = query.datapoint.feature_vector
    if not values:
        return _query_without(query, where)
    vector = _vector(values, f"{where}.datapoint.feature_vector")
    query.datapoint.ClearField("feature_vector")
    rest = query.SerializeToString()
    without = _known.get(rest) or _known.keep(rest, _query_without(query, where))
    return NeighborQuery(without.datapoint_id, vector, without.sparse, without.options)


def _query_without(query: pb.FindNeighborsRequest.Query, where: str) -> NeighborQuery:
    check_fraction(query.fraction_leaf_nodes_to_search_override)
    point = query.datapoint
    inside = f"{where}.datapoint"
    sparse = _sparse(point, inside)
    options = Options(
        k=query.neighbor_count or Options().k,
        space=query.space or None,
        filter=_filter(point.restricts, point.numeric_restricts, f"{where}.datapoint"),
        crowding_cap=query.per_crowding_attribute_neighbor_count,
        exact=query.exact,
        effort=query.approximate_neighbor_count or None,
        recall_target=query.recall_target or None,
        include_self=query.include_self,
        rrf_alpha=query.rrf.alpha if query.HasField("rrf") else None,
        score_alpha=query.weighted.alpha if query.HasField("weighted") else None,
    )
    return NeighborQuery(point.datapoint_id, None, sparse, options)


def _write(point: pb.IndexDatapoint, where: str) -> DatapointWrite:
    vectors = {
        name: _vector(vector.values, f"{where}.feature_vectors[{name!r}]")
        for name, vector in point.feature_vectors.items()
    }
    if point.feature_vector:
        vectors[""] = _vector(point.feature_vector, f"{where}.feature_vector")
    datapoint = Datapoint(
        point.datapoint_id,
        _restricts(point.restricts, where),
        tuple(
            _number_held(number, f"{where}.numeric_restricts[{at}]")
            for at, number in enumerate(point.numeric_restricts)
        ),
        point.crowding_tag.crowding_attribute or None,
        json_format.MessageToDict(point.embedding_metadata),
    )
    content = Content(point.content.text or None, point.content.image or None) if point.HasField("content") else None
    return DatapointWrite(datapoint, vectors, _sparse(point, where), content)


def _vector(values: Sequence[float], where: str) -> NDArray[np.float32]:
    vector = np.array(values, np.float32)
    check_finite(vector, where)
    return vector


def _sparse(point: pb.IndexDatapoint, where: str) -> SparseRows | None:
    if not point.sparse_embedding.values and not point.sparse_embedding.dimensions:
        return None  # Vertex's client sends an empty one beside every vector of a hybrid query
    here = f"{where}.sparse_embedding"
    values = _vector(point.sparse_embedding.values, f"{here}.values")
    return sparse_row(values, list(point.sparse_embedding.dimensions), here)


def _filter(
    restricts: Iterable[pb.IndexDatapoint.Restriction],
    numbers: Iterable[pb.IndexDatapoint.NumericRestriction],
    where: str,
) -> Filter:
    return Filter(
        _restricts(restricts, where),
        tuple(_numeric(number, f"{where}.numeric_restricts[{at}]") for at, number in enumerate(numbers)),
    )


def _restricts(restricts: Iterable[pb.IndexDatapoint.Restriction], where: str) -> tuple[Restrict, ...]:
    return tuple(_restrict(restrict, f"{where}.restricts[{at}]") for at, restrict in enumerate(restricts))


def _restrict(restrict: pb.IndexDatapoint.Restriction, where: str) -> Restrict:
    if not restrict.namespace:
        raise InvalidQuery(f"[request] {where}.namespace is ''; expected a name; send one")
    return Restrict(restrict.namespace, tuple(restrict.allow_list), tuple(restrict.deny_list))


def _numeric(number: pb.IndexDatapoint.NumericRestriction, where: str) -> NumericRestrict:
    op = _operator(number.op)
    held = _number(number, where)
    if op is None:
        raise InvalidQuery(
            f"[request] {where}.op is {number.op}; expected one of {', '.join(OPERATORS)}; a query must say which"
        )
    return replace(held, op=op)


def _number_held(number: pb.IndexDatapoint.NumericRestriction, where: str) -> NumericRestrict:
    if number.op:
        raise InvalidQuery(f"[request] {where}.op is {number.op}; a datapoint has numbers without one; leave it out")
    return _number(number, where)


def _number(number: pb.IndexDatapoint.NumericRestriction, where: str) -> NumericRestrict:
    if not number.namespace:
        raise InvalidQuery(f"[request] {where}.namespace is ''; expected a name; send one")
    field = number.WhichOneof("Value")
    if field is None:
        raise InvalidQuery(
            f"[request] {where} has no value; expected exactly one of value_int, value_float, value_double"
        )
    value: int | float = getattr(number, field)
    if not np.isfinite(value):
        raise InvalidQuery(f"[request] {where}.{field} is {value}; expected a finite number; correct it")
    return NumericRestrict(number.namespace, value, _TYPES[field])


def _operator(number: int) -> Operator | None:
    return OPERATORS.get(_Operators.Name(number)) if number in _Operators.values() else None


def _fill_result(message: pb.FindNeighborsResponse.NearestNeighbors, result: Result) -> None:
    message.id, message.space, message.plan = result.query_id, result.space, result.plan
    message.n_matching, message.exact, message.effort = result.n_matching, result.exact, result.effort or 0
    for found in result.neighbors:
        neighbor = message.neighbors.add()
        neighbor.distance = found.distance
        if found.sparse_distance is not None:
            neighbor.sparse_distance = found.sparse_distance
        if found.datapoint is not None:
            _fill_datapoint(neighbor.datapoint, found.datapoint, found.vectors, found.sparse)
            continue
        neighbor.datapoint.datapoint_id = found.datapoint_id
        if found.crowding_tag is not None:
            neighbor.datapoint.crowding_tag.crowding_attribute = found.crowding_tag


def _fill_datapoint(
    message: pb.IndexDatapoint, datapoint: Datapoint, vectors: NDArray[np.float32] | None, sparse: SparseRows | None
) -> None:
    message.datapoint_id = datapoint.datapoint_id
    if vectors is not None:
        message.feature_vector.extend(vectors.ravel().tolist())
    if sparse is not None:
        message.sparse_embedding.values.extend(sparse.values.tolist())
        message.sparse_embedding.dimensions.extend(sparse.dimensions.tolist())
    for restrict in datapoint.restricts:
        message.restricts.add(namespace=restrict.namespace, allow_list=restrict.allow, deny_list=restrict.deny)
    for number in datapoint.numeric_restricts:
        held = message.numeric_restricts.add(namespace=number.namespace)
        setattr(held, _FIELDS[number.type], number.value)
    if datapoint.crowding_tag is not None:
        message.crowding_tag.crowding_attribute = datapoint.crowding_tag
    message.embedding_metadata.update(cast(dict[str, Any], datapoint.metadata))
