"""Vertex-shaped JSON to queries, and answers to JSON.

Requests may spell names in camelCase or snake_case, and allow and deny lists in any of Vertex's three ways. A key that nothing
here reads is refused with the nearest right one, because one that is silently ignored costs its author an evening.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

from embeddings.encoder import Content
from matching.datapoint import Datapoint, Filter, NumericRestrict, NumericType, Operator, Restrict, SparseRows
from matching.errors import InvalidQuery, LimitExceeded
from serving.query import (
    Answer,
    DatapointWrite,
    Facets,
    Found,
    NeighborQuery,
    Options,
    ReadAnswer,
    Result,
    VersionInfo,
    Window,
    Written,
)

_ID_ALONE = (None,) * (len(Found._fields) - 2)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_NO_TOKENS = bytes(sorted(set(range(256)) - set(b'[]{}"')))
OPERATORS: Final[dict[str, Operator]] = {
    "LESS": "LESS",
    "LESS_EQUAL": "LESS_EQUAL",
    "EQUAL": "EQUAL",
    "GREATER_EQUAL": "GREATER_EQUAL",
    "GREATER": "GREATER",
    "NOT_EQUAL": "NOT_EQUAL",
}
_VALUES: Final[dict[str, NumericType]] = {"value_int": "int64", "value_float": "float32", "value_double": "float64"}
_VALUE_KEYS: Final[dict[NumericType, str]] = {"int64": "valueInt", "float32": "valueFloat", "float64": "valueDouble"}


def _keys(*names: str, **others: str) -> dict[str, str]:
    """Return what each accepted spelling means: every name in snake_case and camelCase, and other names for one."""
    table = {name: name for name in names} | others
    return table | {_camel(spelled): meant for spelled, meant in table.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


_MAX_KNOWN: Final = 1024
_MAX_KNOWN_BYTES: Final = 1024


class KnownQueries:
    """Queries without their vectors, by the bytes that they were read from. Belongs to one event loop."""

    def __init__(self) -> None:
        self._held: dict[bytes, NeighborQuery] = {}
        self.get = self._held.get

    def keep(self, rest: bytes, query: NeighborQuery) -> NeighborQuery:
        """Return the query, kept for the next time where it is short; nothing is kept for no bytes."""
        if 0 < len(rest) <= _MAX_KNOWN_BYTES:
            if len(self._held) >= _MAX_KNOWN:
                self._held.clear()
            self._held[rest] = query
        return query


_known = KnownQueries()


_RESTRICT = _keys(
    "namespace",
    allow_list="allow",
    deny_list="deny",
    allow="allow",
    deny="deny",
    allow_tokens="allow",
    deny_tokens="deny",
    name="namespace",
)
_NUMERIC = _keys("namespace", "value_int", "value_float", "value_double", "op", name="namespace")
_SPARSE = _keys("values", "dimensions")
_DATAPOINT = _keys(
    "datapoint_id",
    "feature_vector",
    "restricts",
    "numeric_restricts",
    "crowding_tag",
    "sparse_embedding",
    "embedding_metadata",
)
_QUERY = _keys(
    "datapoint",
    "neighbor_count",
    "per_crowding_attribute_neighbor_count",
    "approximate_neighbor_count",
    "fraction_leaf_nodes_to_search_override",
    "rrf",
    "weighted",
    "exact",
    "space",
    "recall_target",
    "include_self",
)
_ALPHA = _keys("alpha")
_FIND = _keys("index_endpoint", "deployed_index_id", "queries", "return_full_datapoint", "min_version")
_READ = _keys("index_endpoint", "deployed_index_id", "ids", "space", "min_version")
_CROWDING = _keys("crowding_attribute")
_WRITTEN = _DATAPOINT | _keys("feature_vectors", "content")
_CONTENT = _keys("text", "image")
_UPSERT = _keys("index", "datapoints", "update_mask", "request_id")
_REMOVE = _keys("index", "datapoint_ids", "request_id")
_FILTER = _keys("restricts", "numeric_restricts")
_SEARCH = _keys(
    "text",
    "k",
    "space",
    "restricts",
    "numeric_restricts",
    "crowding_cap",
    "exact",
    "recall_target",
    "rrf_alpha",
    "score_alpha",
    neighbor_count="k",
)


def parse_body(body: bytes, max_depth: int) -> dict[str, Any]:
    """Return the JSON object of a request body.

    Raises:
        InvalidQuery: the body is not JSON, or not an object.
        LimitExceeded: it is nested deeper than `max_depth`.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidQuery(f"[request] the body is not JSON: {error}; expected an object; correct it") from None
    if body.count(b"[") + body.count(b"{") > max_depth:
        depth = _depth(body)
        if depth > max_depth:
            raise LimitExceeded(f"[request] the body is nested {depth} deep; at most {max_depth}; flatten it")
    if not isinstance(parsed, dict):
        raise InvalidQuery(f"[request] the body is {_kind(parsed)}; expected an object; wrap it")
    return parsed


def parse_find_neighbors(body: Mapping[str, Any]) -> tuple[tuple[NeighborQuery, ...], bool, int]:
    """Return the queries of a find-neighbors request, whether it wants full datapoints, and its least version token.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    fields = _read(body, _FIND, "the request")
    queries = _list(fields.get("queries"), "queries")
    full = _flag(fields, "return_full_datapoint")
    asked = [_query(query, f"queries[{at}]") for at, query in enumerate(queries)]
    return tuple(asked), full, _token(fields)


def parse_read(body: Mapping[str, Any]) -> tuple[tuple[str, ...], str | None, int]:
    """Return the ids of a read request, the space it names and its least version token.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    fields = _read(body, _READ, "the request")
    return _strings(fields.get("ids"), "ids"), _optional(fields, "space", "the request"), _token(fields)


def parse_upsert(body: Mapping[str, Any]) -> tuple[tuple[DatapointWrite, ...], bool, str | None]:
    """Return the datapoints of an upsert, whether it is of their restricts alone, and its request id.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    fields = _read(body, _UPSERT, "the request")
    mask = _optional(fields, "update_mask", "the request")
    points = _list(fields.get("datapoints"), "datapoints")
    writes = tuple(_write(point, f"datapoints[{at}]") for at, point in enumerate(points))
    return writes, is_restricts_only(mask), _optional(fields, "request_id", "the request")


def is_restricts_only(mask: str | None) -> bool:
    """Return what an update mask means: nothing, or the restricts alone.

    Raises:
        InvalidQuery: it is another one.
    """
    if mask not in (None, "", "all_restricts", "allRestricts"):
        raise InvalidQuery(
            f"[request] updateMask is {mask!r}; expected all_restricts, or none to replace datapoints as a whole; correct it"
        )
    return bool(mask)


def parse_remove(body: Mapping[str, Any]) -> tuple[tuple[str, ...], str | None]:
    """Return the ids of a removal and its request id.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    fields = _read(body, _REMOVE, "the request")
    return _strings(fields.get("datapoint_ids"), "datapoint_ids"), _optional(fields, "request_id", "the request")


def parse_search(body: Mapping[str, Any]) -> tuple[str, Options]:
    """Return the text and the options of a text search.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    fields = _read(body, _SEARCH, "the request")
    if not isinstance(fields.get("text"), str):
        raise InvalidQuery(f"[request] text is {_kind(fields.get('text'))}; expected a string; send one")
    where = "the request"
    options = Options(
        k=_whole(fields, "k", where, Options().k),
        space=_optional(fields, "space", where),
        filter=_filter(fields, where),
        crowding_cap=_whole(fields, "crowding_cap", where, 0),
        exact=_flag(fields, "exact"),
        recall_target=_real(fields, "recall_target", where),
        rrf_alpha=_real(fields, "rrf_alpha", where),
        score_alpha=_real(fields, "score_alpha", where),
    )
    return fields["text"], options


def parse_filter(body: Mapping[str, Any]) -> Filter:
    """Return the filter that a query string's `filter` parameter holds.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    return _filter(_read(body, _FILTER, "filter"), "filter")


def parse_restricts(pairs: Sequence[str]) -> tuple[Restrict, ...]:
    """Return the restricts that `namespace=token` parameters mean: tokens of one namespace are alternatives.

    Raises:
        InvalidQuery: a pair has no `=`.
    """
    allowed: dict[str, list[str]] = {}
    for pair in pairs:
        namespace, equals, token = pair.partition("=")
        if not equals or not namespace or not token:
            raise InvalidQuery(f"[request] restrict is {pair!r}; expected namespace=token; correct it")
        allowed.setdefault(namespace, []).append(token)
    return tuple(Restrict(namespace, tuple(tokens)) for namespace, tokens in allowed.items())


def dump(body: Mapping[str, Any]) -> bytes:
    """Return an answer as JSON bytes."""
    return orjson.dumps(body)


def find_neighbors_json(answer: Answer) -> dict[str, Any]:
    """Return the Vertex shape of a batch's answer."""
    return {
        "nearestNeighbors": [{"id": result.query_id, **_result(result)} for result in answer.results],
        "indexVersion": answer.version_id,
        "variant": answer.variant,
        "degraded": answer.is_degraded,
        "coverage": answer.coverage,
    }


def search_json(answer: Answer, took_ms: float) -> dict[str, Any]:
    """Return the answer to a search by text, picture or item."""
    return {
        "indexVersion": answer.version_id,
        "variant": answer.variant,
        "degraded": answer.is_degraded,
        "coverage": answer.coverage,
        "tookMs": round(took_ms, 3),
        **_result(answer.results[0]),
    }


def written_json(written: Written) -> dict[str, Any]:
    """Return the answer to a write."""
    return {
        "versionToken": str(written.version_token),  # as proto3's JSON writes 64-bit integers
        "isRepeat": written.is_repeat,
        "indexVersion": written.version_id,
    }


def read_json(answer: ReadAnswer) -> dict[str, Any]:
    """Return the answer to a read."""
    told = zip(answer.datapoints, answer.vectors, answer.sparse, strict=True)
    return {
        "datapoints": [_datapoint(datapoint, vectors, sparse) for datapoint, vectors, sparse in told],
        "space": answer.space,
        "indexVersion": answer.version_id,
    }


def window_json(window: Window) -> dict[str, Any]:
    """Return a shop window."""
    return {
        "indexVersion": window.version_id,
        "nMatching": window.n_matching,
        "datapoints": [_datapoint(datapoint) for datapoint in window.datapoints],
    }


def facets_json(facets: Facets) -> dict[str, Any]:
    """Return counts and ranges; tokens are a list because their order, most frequent first, means something."""
    return {
        "indexVersion": facets.version_id,
        "tokens": {
            namespace: [{"token": token, "count": count} for token, count in counts.items()]
            for namespace, counts in facets.tokens.items()
        },
        "numbers": {
            namespace: {"least": facet.least, "greatest": facet.greatest, "field": _VALUE_KEYS[facet.type]}
            for namespace, facet in facets.numbers.items()
        },
    }


def version_json(version: VersionInfo) -> dict[str, Any]:
    """Return what is being served."""
    return {
        "versionId": version.version_id,
        "createdAt": version.created_at,
        "nDatapoints": version.n_datapoints,
        "versionToken": str(version.version_token),
        "spaces": [
            {
                "name": space.name,
                "spaceId": space.space_id,
                "modality": space.modality,
                "metric": space.metric,
                "dim": space.dim,
                "plan": space.plan,
                "nVectors": space.n_vectors,
                "recall": space.recall,
            }
            for space in version.spaces
        ],
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "neighbors": [
            {"datapoint": {"datapointId": found[0]}, "distance": found[1]}
            if found[2:] == _ID_ALONE
            else _neighbor(found)
            for found in result.neighbors
        ],
        "space": result.space,
        "plan": result.plan,
        "effort": result.effort,
        "nMatching": result.n_matching,
        "exact": result.exact,
    }


def _neighbor(found: Found) -> dict[str, Any]:
    if found.datapoint is not None:
        datapoint = _datapoint(found.datapoint, found.vectors, found.sparse)
    else:
        datapoint = {"datapointId": found.datapoint_id}
        if found.crowding_tag is not None:
            datapoint["crowdingTag"] = {"crowdingAttribute": found.crowding_tag}
    told = {"datapoint": datapoint, "distance": found.distance}
    if found.sparse_distance is not None:
        told["sparseDistance"] = found.sparse_distance
    return told


def _datapoint(
    datapoint: Datapoint, vectors: NDArray[np.float32] | None = None, sparse: SparseRows | None = None
) -> dict[str, Any]:
    told: dict[str, Any] = {"datapointId": datapoint.datapoint_id}
    if vectors is not None:
        told["featureVector"] = vectors.ravel().tolist()
    if sparse is not None:
        told["sparseEmbedding"] = {"values": sparse.values.tolist(), "dimensions": sparse.dimensions.tolist()}
    told["restricts"] = [
        {"namespace": r.namespace, "allowList": list(r.allow), "denyList": list(r.deny)} for r in datapoint.restricts
    ]
    told["numericRestricts"] = [
        # proto3's JSON writes 64-bit integers as strings, and so does Vertex
        {"namespace": n.namespace, _VALUE_KEYS[n.type]: str(n.value) if n.type == "int64" else n.value}
        for n in datapoint.numeric_restricts
    ]
    if datapoint.crowding_tag is not None:
        told["crowdingTag"] = {"crowdingAttribute": datapoint.crowding_tag}
    told["embeddingMetadata"] = dict(datapoint.metadata)
    return told


def _query(query: object, where: str) -> NeighborQuery:
    """Read a query. Those of one caller differ in their vectors, so that the rest of each is read once."""
    point = query.get("datapoint") if isinstance(query, dict) else None
    values = point.pop("featureVector", None) if isinstance(point, dict) and "feature_vector" not in point else None
    if not values:
        return _query_without(query, where)
    try:
        rest = orjson.dumps(query)
    except orjson.JSONEncodeError:  # a surrogate, or an integer of more than 64 bits
        rest = b""
    without = _known.get(rest) or _known.keep(rest, _query_without(query, where))
    vector = _vector(values, f"{where}.datapoint.feature_vector")
    return NeighborQuery(without.datapoint_id, vector, without.sparse, without.options)


def _query_without(query: object, where: str) -> NeighborQuery:
    fields = _read(query, _QUERY, where)
    leaves = _real(fields, "fraction_leaf_nodes_to_search_override", where)
    check_fraction(leaves or 0.0)
    inside = f"{where}.datapoint"
    point = _read(fields.get("datapoint", {}), _DATAPOINT, inside)
    datapoint_id = _optional(point, "datapoint_id", inside) or ""
    vector = point.get("feature_vector")
    options = Options(
        k=_whole(fields, "neighbor_count", where, Options().k),
        space=_optional(fields, "space", where),
        filter=_filter(point, inside),
        crowding_cap=_whole(fields, "per_crowding_attribute_neighbor_count", where, 0),
        exact=_flag(fields, "exact"),
        effort=_whole(fields, "approximate_neighbor_count", where, 0) or None,
        recall_target=_real(fields, "recall_target", where) or None,
        include_self=_flag(fields, "include_self"),
        rrf_alpha=_alpha(fields, "rrf", where),
        score_alpha=_alpha(fields, "weighted", where),
    )
    return NeighborQuery(
        datapoint_id,
        _vector(vector, f"{inside}.feature_vector") if vector else None,
        _sparse(point.get("sparse_embedding"), inside),
        options,
    )


def _alpha(fields: Mapping[str, Any], name: str, where: str) -> float | None:
    """Return the alpha of a ranking, 0 where it is left out, as proto3 does; None without a ranking."""
    if fields.get(name) is None:
        return None
    return _real(_read(fields[name], _ALPHA, f"{where}.{name}"), "alpha", f"{where}.{name}") or 0.0


def _write(point: object, where: str) -> DatapointWrite:
    fields = _read(point, _WRITTEN, where)
    datapoint_id = _optional(fields, "datapoint_id", where) or ""
    vectors = {
        name: _vector(vector, f"{where}.feature_vectors[{name!r}]")
        for name, vector in _object(fields.get("feature_vectors", {}), f"{where}.feature_vectors").items()
    }
    if fields.get("feature_vector"):
        vectors[""] = _vector(fields["feature_vector"], f"{where}.feature_vector")
    tag = fields.get("crowding_tag")
    crowding = {} if tag is None else _read(tag, _CROWDING, f"{where}.crowding_tag")
    numbers = _list(fields.get("numeric_restricts", []), f"{where}.numeric_restricts")
    datapoint = Datapoint(
        datapoint_id,
        _restricts(fields, where),
        tuple(_number_held(number, f"{where}.numeric_restricts[{at}]") for at, number in enumerate(numbers)),
        _optional(crowding, "crowding_attribute", f"{where}.crowding_tag") or None,
        _object(fields.get("embedding_metadata", {}), f"{where}.embedding_metadata"),
    )
    content = None if fields.get("content") is None else _content(fields["content"], f"{where}.content")
    return DatapointWrite(datapoint, vectors, _sparse(fields.get("sparse_embedding"), where), content)


def _content(value: object, where: str) -> Content:
    fields = _read(value, _CONTENT, where)
    image = _optional(fields, "image", where)
    try:
        return Content(
            _optional(fields, "text", where), None if image is None else base64.b64decode(image, validate=True)
        )
    except (binascii.Error, ValueError):
        raise InvalidQuery(
            f"[request] {where}.image is not base64; expected the bytes of a picture file in it"
        ) from None


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidQuery(f"[request] {where} is {_kind(value)}; expected an object; correct it")
    return value


def _token(fields: Mapping[str, Any]) -> int:
    raw = fields.get("min_version")
    return 0 if raw is None else _int64(raw, "min_version")


def check_fraction(fraction: float) -> None:
    """Check `fraction_leaf_nodes_to_search_override`, which Vertex's clients may send and nothing here reads.

    Raises:
        InvalidQuery: it is no fraction.
    """
    if not 0.0 <= fraction <= 1.0:
        raise InvalidQuery(
            f"[request] fraction_leaf_nodes_to_search_override is {fraction}; expected 0 to 1; correct it"
        )


def _vector(values: object, where: str) -> NDArray[np.float32]:
    numbers = _list(values, where)
    if not set(map(type, numbers)) <= {float, int}:
        wrong = next(at for at, number in enumerate(numbers) if type(number) not in (float, int))
        raise InvalidQuery(f"[request] {where}[{wrong}] is {_kind(numbers[wrong])}; expected a number; correct it")
    if not numbers:
        return np.empty(0, np.float32)
    vector = np.frombuffer(array("f", numbers), np.float32)  # does not warn of what float32 cannot hold
    check_finite(vector, where)
    return vector


def check_finite(vector: NDArray[np.float32], where: str) -> None:
    """Check that a query's vector holds numbers that float32 can hold.

    Raises:
        InvalidQuery: it does not; names the first that is not.
    """
    square = np.einsum("d,d->", vector, vector)  # warns of nothing, and is not finite where a value is not
    if not math.isfinite(square) and len(wrongs := np.flatnonzero(~np.isfinite(vector))):
        wrong = int(wrongs[0])
        raise InvalidQuery(
            f"[request] {where}[{wrong}] is {vector[wrong]} as float32; expected a finite number; correct it"
        )


def _sparse(value: object, where: str) -> SparseRows | None:
    if not value and isinstance(value, (dict, type(None))):
        return None  # Vertex's client sends an empty one beside every vector of a hybrid query
    here = f"{where}.sparse_embedding"
    fields = _read(value, _SPARSE, here)
    values = _vector(fields.get("values"), f"{here}.values")
    dimensions = _list(fields.get("dimensions"), f"{here}.dimensions")
    return sparse_row(values, [_int64(dimension, f"{here}.dimensions") for dimension in dimensions], here)


def sparse_row(values: NDArray[np.float32], dimensions: Sequence[int], where: str) -> SparseRows:
    """Return one checked sparse row.

    Raises:
        InvalidQuery: values and dimensions differ in number, or a dimension is negative or repeats.
    """
    if len(values) != len(dimensions):
        raise InvalidQuery(
            f"[request] {where} has {len(values)} values and {len(dimensions)} dimensions; send as many of both"
        )
    if len(set(dimensions)) != len(dimensions) or min(dimensions, default=0) < 0:
        raise InvalidQuery(
            f"[request] {where}.dimensions repeats a number or holds a negative one; send each once, from 0 up"
        )
    return SparseRows(np.array([0, len(values)], np.int64), np.array(dimensions, np.int64), values)


def _filter(fields: Mapping[str, Any], where: str) -> Filter:
    numbers = _list(fields.get("numeric_restricts", []), f"{where}.numeric_restricts")
    return Filter(
        _restricts(fields, where),
        tuple(_numeric(number, f"{where}.numeric_restricts[{at}]") for at, number in enumerate(numbers)),
    )


def _restricts(fields: Mapping[str, Any], where: str) -> tuple[Restrict, ...]:
    restricts = _list(fields.get("restricts", []), f"{where}.restricts")
    return tuple(_restrict(restrict, f"{where}.restricts[{at}]") for at, restrict in enumerate(restricts))


def _restrict(value: object, where: str) -> Restrict:
    fields = _read(value, _RESTRICT, where)
    return Restrict(
        _namespace(fields, where),
        _strings(fields.get("allow", []), f"{where}.allow_list"),
        _strings(fields.get("deny", []), f"{where}.deny_list"),
    )


def _numeric(value: object, where: str) -> NumericRestrict:
    held, op = _number_and_op(value, where)
    if type(op) is int and 1 <= op <= len(OPERATORS):  # Vertex's client sends enums by number
        op = list(OPERATORS)[op - 1]
    if not isinstance(op, str) or op not in OPERATORS:
        raise InvalidQuery(
            f"[request] {where}.op is {op!r}; expected one of {', '.join(OPERATORS)}; a query must say which"
        )
    return replace(held, op=OPERATORS[op])


def _number_held(value: object, where: str) -> NumericRestrict:
    held, op = _number_and_op(value, where)
    if op not in (None, 0, "OPERATOR_UNSPECIFIED"):
        raise InvalidQuery(f"[request] {where}.op is {op!r}; a datapoint has numbers without one; leave it out")
    return held


def _number_and_op(value: object, where: str) -> tuple[NumericRestrict, object]:
    fields = _read(value, _NUMERIC, where)
    given = [name for name in _VALUES if fields.get(name) is not None]
    if len(given) != 1:
        raise InvalidQuery(
            f"[request] {where} has {' and '.join(given) or 'no value'}; expected exactly one of {', '.join(_VALUES)}"
        )
    kind = _VALUES[given[0]]
    raw = fields[given[0]]
    number = _int64(raw, f"{where}.{given[0]}") if kind == "int64" else _number(raw, f"{where}.{given[0]}")
    return NumericRestrict(_namespace(fields, where), number, kind), fields.get("op")


def _namespace(fields: Mapping[str, Any], where: str) -> str:
    namespace = fields.get("namespace")
    if not isinstance(namespace, str) or not namespace:
        raise InvalidQuery(f"[request] {where}.namespace is {namespace!r}; expected a name; send one")
    return namespace


def _read(value: object, keys: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return an object's values by their meaning, whatever their spelling."""
    if not isinstance(value, dict):
        raise InvalidQuery(f"[request] {where} is {_kind(value)}; expected an object; correct it")
    fields: dict[str, Any] = {}
    for key, held in value.items():
        meant = keys.get(key)
        if meant is None:
            _refuse_key(key, keys, where)
        if meant in fields:
            raise InvalidQuery(f"[request] {where} has {key!r} beside another spelling of it; send one")
        fields[meant] = held
    return fields


def _refuse_key(key: str, keys: Mapping[str, str], where: str) -> NoReturn:
    by_folded = {_folded(name): name for name in reversed(list(keys))}  # of two spellings, the first told
    near = difflib.get_close_matches(_folded(key), by_folded, n=1, cutoff=0.6)
    known = ", ".join(sorted(dict.fromkeys(keys.values())))
    advice = f"did you mean {by_folded[near[0]]!r}?" if near else f"expected some of {known}"
    raise InvalidQuery(f"[request] {where} has the unknown key {key[:100]!r}; {advice}")


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidQuery(f"[request] {where} is {_kind(value)}; expected a list; correct it")
    return value


def _strings(value: object, where: str) -> tuple[str, ...]:
    held = _list(value, where)
    for at, item in enumerate(held):
        if not isinstance(item, str):
            raise InvalidQuery(f"[request] {where}[{at}] is {_kind(item)}; expected a string; quote it")
    return tuple(held)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidQuery(f"[request] {name} is {_kind(value)}; expected true or false; correct it")
    return bool(value)


def _optional(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidQuery(f"[request] {where}.{name} is {_kind(value)}; expected a string; quote it")
    return value


def _whole(fields: Mapping[str, Any], name: str, where: str, default: int) -> int:
    value = fields.get(name)
    return default if value is None else _int64(value, f"{where}.{name}")


def _real(fields: Mapping[str, Any], name: str, where: str) -> float | None:
    value = fields.get(name)
    return None if value is None else _number(value, f"{where}.{name}")


def _int64(value: object, where: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value, re.ASCII):  # proto3's JSON of a 64-bit integer
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise InvalidQuery(f"[request] {where} is {_kind(value)}; expected a 64-bit integer; correct it")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise InvalidQuery(f"[request] {where} is {_kind(value)}; expected a finite number; correct it")
    return float(value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "missing or null"}
    return names.get(type(value), f"the number {value}")


def _depth(body: bytes) -> int:
    if b"\\" not in body:  # an escape would be parted from what it escapes
        body = body.translate(None, _NO_TOKENS)
    depth = deepest = 0
    for token in _TOKEN.finditer(body):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif mark in (b"]", b"}"):
            depth -= 1
    return deepest
