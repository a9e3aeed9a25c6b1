"""The Vertex shape in JSON: every accepted spelling, and a clear refusal of everything else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from matching.datapoint import Filter, NumericRestrict, Restrict
from matching.errors import InvalidQuery, LimitExceeded
from serving.wire.vertex_json import (
    parse_body,
    parse_filter,
    parse_find_neighbors,
    parse_read,
    parse_restricts,
    parse_search,
)


def one_query(query: dict[str, Any]) -> Any:
    (parsed,), _, _ = parse_find_neighbors({"queries": [query]})
    return parsed


def test_camel_and_snake_case_mean_the_same() -> None:
    camel = {
        "datapoint": {
            "datapointId": "a",
            "featureVector": [1, 0.5],
            "numericRestricts": [{"namespace": "price", "valueInt": "5", "op": "LESS"}],
        },
        "neighborCount": 3,
        "perCrowdingAttributeNeighborCount": 2,
        "approximateNeighborCount": 40,
        "fractionLeafNodesToSearchOverride": 0.2,
        "recallTarget": 0.9,
        "includeSelf": True,
    }
    snake = {
        "datapoint": {
            "datapoint_id": "a",
            "feature_vector": [1, 0.5],
            "numeric_restricts": [{"namespace": "price", "value_int": 5, "op": "LESS"}],
        },
        "neighbor_count": 3,
        "per_crowding_attribute_neighbor_count": 2,
        "approximate_neighbor_count": 40,
        "fraction_leaf_nodes_to_search_override": 0.2,
        "recall_target": 0.9,
        "include_self": True,
    }
    one, other = one_query(camel), one_query(snake)
    assert one.options == other.options
    assert one.options.filter == Filter(numeric_restricts=(NumericRestrict("price", 5, "int64", "LESS"),))
    assert (one.options.k, one.options.crowding_cap, one.options.effort, one.options.recall_target) == (3, 2, 40, 0.9)
    assert one.options.include_self
    np.testing.assert_array_equal(one.vector, np.array([1, 0.5], np.float32))
    assert one.vector.dtype == np.float32


@pytest.mark.parametrize("allow", ["allow", "allowList", "allow_list", "allowTokens", "allow_tokens"])
@pytest.mark.parametrize("deny", ["deny", "denyList", "deny_list", "denyTokens", "deny_tokens"])
def test_every_spelling_of_token_lists(allow: str, deny: str) -> None:
    wanted = parse_filter({"restricts": [{"namespace": "color", allow: ["red"], deny: ["blue"]}]})
    assert wanted == Filter((Restrict("color", ("red",), ("blue",)),))


def by(datapoint: dict[str, Any], **query: Any) -> dict[str, Any]:
    return {"queries": [{"datapoint": datapoint, **query}]}


def number(**numeric: Any) -> dict[str, Any]:
    return by({"numericRestricts": [{"namespace": "p", **numeric}]})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"querys": []}, r"unknown key 'querys'; did you mean 'queries'\?"),
        (
            by({"feature_vectors": [1]}),
            r"\[0\].datapoint has the unknown key 'feature_vectors'; did you mean 'feature_vector'",
        ),
        (by({"embedding": [1]}), "unknown key 'embedding'"),
        (by({"restricts": [{"namespace": "c", "allows": ["x"]}]}), "unknown key 'allows'; did you mean 'allow'"),
        (by({}, k=3), "unknown key 'k'; expected some of .*neighbor_count"),
        (by({"datapointId": "a", "datapoint_id": "a"}), "beside another spelling"),
        ({"queries": {}}, "queries is an object; expected a list"),
        ({"queries": [3]}, r"queries\[0\] is the number 3; expected an object"),
        (by({"feature_vector": [1, "2"]}), r"feature_vector\[1\] is a string; expected a number"),
        (by({"feature_vector": [1, None]}), r"feature_vector\[1\] is missing or null"),
        (by({"feature_vector": [True, 1]}), r"feature_vector\[0\] is a boolean"),
        (by({"feature_vector": [1, 1e39]}), r"feature_vector\[1\] is inf as float32"),
        (by({"feature_vector": [[1]]}), r"feature_vector\[0\] is a list"),
        (by({}, neighborCount=2.5), "neighbor_count is the number 2.5; expected a 64-bit integer"),
        (by({}, neighborCount=True), "neighbor_count is a boolean"),
        (by({}, exact="yes"), "exact is a string; expected true or false"),
        (by({}, rrf=0.5), r"queries\[0\].rrf is the number 0.5; expected an object"),
        (by({}, rrf={"alfa": 0.5}), r"queries\[0\].rrf has the unknown key 'alfa'; did you mean 'alpha'"),
        (by({}, weighted={"alpha": "1"}), r"queries\[0\].weighted.alpha is a string; expected a finite number"),
        (by({}, fractionLeafNodesToSearchOverride=1.5), "is 1.5; expected 0 to 1"),
        (number(valueFloat=1), "op is None; expected one of LESS"),
        (number(op="LESS"), "has no value"),
        (number(valueInt=1, valueFloat=1, op="LESS"), "value_int and value_float"),
        (number(valueInt=1.5, op="LESS"), "expected a 64-bit integer"),
        (by({"restricts": [{"allow": ["a"]}]}), "namespace is None"),
        (by({"restricts": [{"namespace": "c", "allow": [1]}]}), r"allow_list\[0\] is the number 1; expected a string"),
        (by({"sparseEmbedding": {"values": [1.0], "dimensions": [1, 2]}}), "1 values and 2 dimensions"),
        (by({"sparseEmbedding": {"values": [1.0, 2.0], "dimensions": [1, 1]}}), "repeats a number"),
    ],
)
def test_refusals_name_what_is_wrong(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        parse_find_neighbors(body)


def test_zero_is_a_value() -> None:
    (number,) = parse_filter(
        {"numericRestricts": [{"namespace": "n", "valueDouble": 0, "op": "EQUAL"}]}
    ).numeric_restricts
    assert number == NumericRestrict("n", 0.0, "float64", "EQUAL")


def test_int64_survives_as_text() -> None:
    (number,) = parse_filter(
        {"numericRestricts": [{"namespace": "n", "valueInt": str(2**62 + 1), "op": "LESS"}]}
    ).numeric_restricts
    assert number.value == 2**62 + 1


def test_sparse_side_is_read() -> None:
    query = one_query({"datapoint": {"featureVector": [1], "sparseEmbedding": {"values": [0.5], "dimensions": ["40"]}}})
    assert query.sparse.offsets.tolist() == [0, 1]
    assert query.sparse.dimensions.tolist() == [40]


def test_read_and_search_bodies() -> None:
    assert parse_read({"ids": ["a", "b"]}) == (("a", "b"), None, 0)
    assert parse_read({"ids": ["a"], "min_version": "7"}) == (("a",), None, 7)
    text, options = parse_search({"text": "boots", "k": 4, "crowdingCap": 1, "space": "fused"})
    assert (text, options.k, options.crowding_cap, options.space) == ("boots", 4, 1, "fused")
    with pytest.raises(InvalidQuery, match="text is missing or null"):
        parse_search({"k": 3})


def test_restrict_pairs() -> None:
    assert parse_restricts(["color=red", "color=a=b", "size=s"]) == (
        Restrict("color", ("red", "a=b")),
        Restrict("size", ("s",)),
    )
    with pytest.raises(InvalidQuery, match="expected namespace=token"):
        parse_restricts(["color"])


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b'{"a": Infinity}', b"\xff", b'{"a": 1}x'])
def test_not_json(body: bytes) -> None:
    with pytest.raises(InvalidQuery, match="the body is not JSON"):
        parse_body(body, 32)


def test_numbers_too_large_for_any_float_are_refused() -> None:
    for number in (b"1e400", b"1" + b"0" * 400):
        with pytest.raises(InvalidQuery):
            parse_find_neighbors(parse_body(b'{"queries":[{"datapoint":{"featureVector":[' + number + b"]}}]}", 32))


def test_a_list_is_no_request() -> None:
    with pytest.raises(InvalidQuery, match="the body is a list; expected an object"):
        parse_body(b"[]", 32)


@pytest.mark.parametrize("text", ["", "[[[[", "}]", 'a"[', "\\", '\\"{', "\n[", "ö{"])
@pytest.mark.parametrize("depth", [2, 5, 9])
def test_depth_is_that_of_what_was_parsed_whatever_strings_hold(text: str, depth: int) -> None:
    nested: object = [0.25, text, text]
    for _ in range(depth - 2):
        nested = [text, nested]
    body = json.dumps({text: nested, "others": [[text], [1.5]]}, ensure_ascii=False).encode()
    assert parse_body(body, max(depth, 3))[text] == nested
    with pytest.raises(LimitExceeded, match=f"nested {max(depth, 3)} deep; at most 1;"):
        parse_body(body, 1)


def test_depth_is_limited_and_brackets_in_strings_do_not_count() -> None:
    flat = json.dumps({"text": '[{\\"' * 200}).encode()
    assert parse_body(flat, 32)["text"].startswith("[{")
    deep = b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"
    with pytest.raises(LimitExceeded, match="nested 41 deep; at most 32"):
        parse_body(deep, 32)
    with pytest.raises(InvalidQuery):
        parse_body(b"[" * 100_000, 32)
    wide = json.dumps({"ids": [[1]] * 1000}).encode()
    assert len(parse_body(wide, 32)["ids"]) == 1000
