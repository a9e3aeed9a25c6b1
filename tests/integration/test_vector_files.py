"""Ready vectors in every layout, good and bad, against the real readers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_builder.build import build_from_vectors
from index_builder.catalog.rejects import Reject
from index_builder.catalog.vector_files import VectorBatch, VectorFiles, open_vectors
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, NumericRestrict, Restrict, SparseRows
from matching.errors import InvalidCatalog, InvalidInput
from matching.fusion import SPARSE_ONLY, Fusion
from matching.hybrid import search_hybrid
from matching.store import Store

FULL = {
    "id": "6",
    "embedding": [7, -8.5],
    "sparse_embedding": {"values": [0.5, 0.25], "dimensions": [40, 3]},
    "restricts": [{"namespace": "color", "allow": ["red"], "deny": ["blue"]}],
    "numeric_restricts": [{"namespace": "price", "value_double": 9.5}, {"namespace": "size", "value_int": 3}],
    "crowding_tag": "b",
}
DATAPOINT = Datapoint(
    "6",
    (Restrict("color", ("red",), ("blue",)),),
    (NumericRestrict("price", 9.5, "float64"), NumericRestrict("size", 3, "int64")),
    "b",
)
AVRO: dict[str, Any] = {
    "type": "record",
    "name": "FeatureVector",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "embedding", "type": {"type": "array", "items": "float"}},
        {
            "name": "sparse_embedding",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Sparse",
                    "fields": [
                        {"name": "values", "type": {"type": "array", "items": "float"}},
                        {"name": "dimensions", "type": {"type": "array", "items": "long"}},
                    ],
                },
            ],
        },
        {
            "name": "restricts",
            "type": [
                "null",
                {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Restrict",
                        "fields": [
                            {"name": "namespace", "type": "string"},
                            {"name": "allow", "type": ["null", {"type": "array", "items": "string"}]},
                            {"name": "deny", "type": ["null", {"type": "array", "items": "string"}]},
                        ],
                    },
                },
            ],
        },
        {
            "name": "numeric_restricts",
            "type": [
                "null",
                {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "NumericRestrict",
                        "fields": [
                            {"name": "namespace", "type": "string"},
                            {"name": "value_int", "type": ["null", "int"], "default": None},
                            {"name": "value_float", "type": ["null", "float"], "default": None},
                            {"name": "value_double", "type": ["null", "double"], "default": None},
                        ],
                    },
                },
            ],
        },
        {"name": "crowding_tag", "type": ["null", "string"]},
    ],
}


def read(files: VectorFiles) -> tuple[list[Datapoint], np.ndarray, list[Reject]]:
    batches: list[VectorBatch] = list(files)
    assert all(np.array_equal(batch.owners, np.arange(len(batch.datapoints))) for batch in batches)
    assert all(batch.sparse is None or len(batch.sparse) == len(batch.datapoints) for batch in batches)
    datapoints = [datapoint for batch in batches for datapoint in batch.datapoints]
    return (
        datapoints,
        np.concatenate([batch.vectors for batch in batches]),
        [r for batch in batches for r in batch.rejects],
    )


def write_json(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_avro(path: Path, rows: Sequence[dict[str, object]], **options: Any) -> Path:
    with path.open("wb") as stream:
        fastavro.writer(stream, fastavro.parse_schema(AVRO), rows, **options)
    return path


def test_a_record_has_a_vector_or_a_sparse_side_or_both(tmp_path: Path) -> None:
    sides: tuple[tuple[str, list[float], dict[str, list[float]] | None], ...] = (
        ("both", [1, 2], {"values": [0.5], "dimensions": [7]}),
        ("sparse", [], {"values": [2.0], "dimensions": [9]}),
        ("dense", [3, 4], None),
    )
    rows = [{"id": name, "embedding": vector, "sparse_embedding": sparse} for name, vector, sparse in sides]
    write_json(tmp_path / "a.json", [{key: value for key, value in row.items() if value} for row in rows])
    (tmp_path / "a.csv").write_text("both,1,2,7:0.5\nsparse,9:2\ndense,3,4\n")
    write_avro(
        tmp_path / "a.avro",
        [{**row, "restricts": None, "numeric_restricts": None, "crowding_tag": None} for row in rows],
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for kind in ("json", "csv", "avro", "parquet"):
        (batch,) = open_vectors(tmp_path / f"a.{kind}")
        assert batch.rejects == (), kind
        assert [point.datapoint_id for point in batch.datapoints] == ["both", "sparse", "dense"], kind
        assert batch.vectors.tolist() == [[1, 2], [3, 4]], kind
        assert batch.owners.tolist() == [0, 2], kind
        assert batch.sparse is not None
        assert batch.sparse.offsets.tolist() == [0, 1, 2, 2], kind
        assert batch.sparse.dimensions.tolist() == [7, 9], kind
    built = build_from_vectors(
        Store(tmp_path / "store", create=True),
        open_vectors(tmp_path / "a.json"),
        metric="ip",
        settings=BuildSettings(plan="flat", threads=1),
        progress=Silent(),
    )
    version = Store(tmp_path / "store").open(built.version_id)
    asked = SparseRows(np.array([0, 2]), np.array([7, 9]), np.array([1, 1], np.float32))
    vector = np.array([[1, 0]], np.float32)
    sparse = search_hybrid(version, 3, space="vectors", fusion=SPARSE_ONLY, sparse=asked)
    assert [(n.datapoint_id, n.sparse_distance) for n in sparse.neighbors[0]] == [("sparse", -2.0), ("both", -0.5)]
    dense = version.search(vector, 3, space="vectors")
    assert [n.datapoint_id for n in dense.neighbors[0]] == ["dense", "both"]
    fused = search_hybrid(version, 3, space="vectors", fusion=Fusion("rrf", 0.5), vectors=vector, sparse=asked)
    assert [n.datapoint_id for n in fused.neighbors[0]] == ["both", "dense", "sparse"]
    assert [n.distance for n in fused.neighbors[0]] == [-1.0, -3.0, 0.0]


def test_the_same_record_in_every_layout(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [FULL])
    (tmp_path / "a.csv").write_text(
        "6,7,-8.5,40:0.5,3:0.25,crowding_tag=b,color=red,color=!blue,#price=9.5d,#size=3i\n"
    )
    write_avro(tmp_path / "a.avro", [FULL])
    pq.write_table(pa.Table.from_pylist([FULL]), tmp_path / "a.parquet")
    for kind in ("json", "csv", "avro", "parquet"):
        (batch,) = open_vectors(tmp_path / f"a.{kind}")
        assert batch.rejects == (), kind
        assert batch.datapoints == (DATAPOINT,), kind
        assert batch.vectors.dtype == np.float32
        assert batch.vectors.tolist() == [[7, -8.5]], kind
        assert batch.sparse is not None
        assert batch.sparse.offsets.tolist() == [0, 2]
        assert batch.sparse.dimensions.tolist() == [3, 40]
        assert batch.sparse.values.tolist() == [0.25, 0.5]
        assert batch.bytes_done == batch.bytes_total == (tmp_path / f"a.{kind}").stat().st_size


def test_all_three_spellings_and_camel_case(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "embedding": [1, 0], "restricts": [{"namespace": "c", "allow": ["x"], "deny": ["y"]}]},
        {
            "datapoint_id": "2",
            "feature_vector": [1, 0],
            "restricts": [{"namespace": "c", "allow_list": ["x"], "deny_list": ["y"]}],
        },
        {"id": "3", "float_val": [1, 0], "restricts": [{"name": "c", "allow_tokens": ["x"], "deny_tokens": ["y"]}]},
        {
            "datapointId": "4",
            "featureVector": [1, 0],
            "restricts": [{"namespace": "c", "allowList": ["x"], "denyList": ["y"]}],
        },
    ]
    datapoints, _, rejects = read(open_vectors(write_json(tmp_path / "a.json", rows)))
    assert rejects == []
    assert [datapoint.restricts for datapoint in datapoints] == [(Restrict("c", ("x",), ("y",)),)] * 4


def test_values_that_look_false_are_kept(tmp_path: Path) -> None:
    row = {
        "id": "0",
        "embedding": [0, 1],
        "numeric_restricts": [{"namespace": "stock", "value_int": 0}, {"namespace": "text", "value_int": "12"}],
        "crowding_tag": {"crowding_attribute": "0"},
        "embedding_metadata": {"sale": False, "n": 0, "tags": []},
    }
    ((datapoint,), _, _) = read(open_vectors(write_json(tmp_path / "a.json", [row])))
    assert datapoint.numeric_restricts == (NumericRestrict("stock", 0, "int64"), NumericRestrict("text", 12, "int64"))
    assert datapoint.crowding_tag == "0"
    assert datapoint.metadata == {"sale": False, "n": 0, "tags": []}


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        ("", "EMPTY_LINE", "empty"),
        ("{", "INVALID_JSON_SYNTAX", "not JSON"),
        ("[1]", "INVALID_JSON_SYNTAX", "a JSON list; expected an object"),
        ({"embedding": [1, 0]}, "INVALID_EMBEDDING_ID", "the id is None"),
        ({"id": "", "embedding": [1, 0]}, "INVALID_EMBEDDING_ID", "the id is ''"),
        ({"id": 1.5, "embedding": [1, 0]}, "INVALID_EMBEDDING_ID", "the id is 1.5"),
        ({"id": "good", "embedding": [1, 0]}, "INVALID_EMBEDDING_ID", "the id came before, in a.json line 1"),
        ({"id": "a", "embedding": [1, 0, 0]}, "EMBEDDING_SIZE_MISMATCH", "has 3 values; expected 2"),
        ({"id": "a"}, "INVALID_EMBEDDING", "neither embedding nor sparse_embedding"),
        ({"id": "a", "embedding": 5}, "INVALID_EMBEDDING", "expected a list of numbers"),
        ({"id": "a", "embedding": [1, "2"]}, "INVALID_EMBEDDING", "value 1 of embedding is '2'"),
        ({"id": "a", "embedding": [1, True]}, "INVALID_EMBEDDING", "value 1 of embedding is True"),
        ({"id": "a", "embedding": [1, None]}, "INVALID_EMBEDDING", "value 1 of embedding is None"),
        ({"id": "a", "embedding": [1, [2]]}, "INVALID_EMBEDDING", "value 1"),
        ({"id": "a", "embedding": [float("nan"), 0]}, "INVALID_EMBEDDING", "value 0 is nan"),
        ({"id": "a", "embedding": [0, float("-inf")]}, "INVALID_EMBEDDING", "value 1 is -inf"),
        (
            {"id": "a", "embedding": [0, 1e20]},
            "INVALID_EMBEDDING",
            r"value 1 is 1e\+20; expected finite numbers of at most",
        ),
        ({"id": "a", "embedding": [0, 1e300]}, "INVALID_EMBEDDING", r"value 1 is 1e\+300"),
        ({"id": "a", "embedding": [0, 10**400]}, "INVALID_EMBEDDING", "beyond float64"),
        ({"id": "a", "embedding": [0, 0]}, "INVALID_EMBEDDING", "norm 0 and so no direction"),
        ({"id": "a", "embedding": [1e-30, 0]}, "INVALID_EMBEDDING", "norm 1e-30"),
        ({"id": "a", "embeding": [1, 0]}, "PARSING_ERROR", r"unknown key 'embeding'; did you mean 'embedding'\?"),
        ({"id": "a", "embedding": [1, 0], "float_val": [1, 0]}, "PARSING_ERROR", "'embedding' twice, in two spellings"),
        ({"id": "a", "embedding": [1, 0], "embedding_metadata": 3}, "PARSING_ERROR", "expected an object"),
        ({"id": "a", "embedding": [1, 0], "crowding_tag": [1]}, "PARSING_ERROR", "crowding_tag is"),
        ('{"id": "\\udc00", "embedding": [1, 0]}', "INVALID_ENCODING", "surrogate"),
    ],
)
def test_bad_records(tmp_path: Path, row: object, code: str, reason: str) -> None:
    path = write_json(
        tmp_path / "a.json", [{"id": "good", "embedding": [1, 0]}, row, {"id": "next", "embedding": [0, 1]}]
    )
    datapoints, _, (reject,) = read(open_vectors(path))
    assert [datapoint.datapoint_id for datapoint in datapoints] == ["good", "next"]
    assert (reject.place, reject.code.value) == ("line 2", code)
    assert re.search(reason, reject.reason)


@pytest.mark.parametrize(
    ("extra", "code", "reason"),
    [
        (
            {"restricts": [{"namespace": "c", "alow": ["x"]}]},
            "PARSING_ERROR",
            r"unknown key 'alow'; did you mean 'allow'\?",
        ),
        ({"restricts": [{"namespace": "c", "allow": ["x"], "allow_list": ["y"]}]}, "PARSING_ERROR", "'allow' twice"),
        ({"restricts": [{"allow": ["x"]}]}, "NAMESPACE_MISSING", "the namespace is None"),
        ({"restricts": [{"namespace": "", "allow": ["x"]}]}, "NAMESPACE_MISSING", "the namespace is ''"),
        ({"restricts": [{"namespace": "c"}, {"namespace": "c"}]}, "DUPLICATE_NAMESPACE", "'c' comes twice"),
        ({"restricts": [{"namespace": "c", "allow": [3]}]}, "INVALID_TOKEN_VALUE", "a token of 'c' is 3"),
        ({"restricts": [{"namespace": "c", "deny": [""]}]}, "INVALID_TOKEN_VALUE", "a token of 'c' is ''"),
        ({"restricts": {"c": ["x"]}}, "PARSING_ERROR", "restricts is .*; expected a list"),
        ({"numeric_restricts": [{"namespace": "n"}]}, "INVALID_NUMERIC_VALUE", "'n' has no value"),
        (
            {"numeric_restricts": [{"namespace": "n", "value_int": 1, "value_float": 1.0}]},
            "MULTIPLE_VALUES",
            "value_int and value_float",
        ),
        (
            {"numeric_restricts": [{"namespace": "n", "value_int": 1, "op": "EQUAL"}]},
            "OP_IN_DATAPOINT",
            "an op belongs to a query",
        ),
        ({"numeric_restricts": [{"namespace": "n", "value_int": 1.5}]}, "INVALID_NUMERIC_VALUE", "whole number"),
        (
            {"numeric_restricts": [{"namespace": "n", "value_int": 2**63}]},
            "INVALID_NUMERIC_VALUE",
            "whole number of 64 bits",
        ),
        ({"numeric_restricts": [{"namespace": "n", "value_float": 1e39}]}, "INVALID_NUMERIC_VALUE", "finite float32"),
        (
            {"numeric_restricts": [{"namespace": "n", "value_double": float("nan")}]},
            "INVALID_NUMERIC_VALUE",
            "finite float64",
        ),
        (
            {"numeric_restricts": [{"namespace": "typed", "value_float": 1.0}]},
            "INVALID_NUMERIC_VALUE",
            "float32 here and int64 before",
        ),
        (
            {"numeric_restricts": [{"namespace": "n", "value": 1}]},
            "PARSING_ERROR",
            "unknown key 'value'; did you mean 'value_int'",
        ),
        (
            {"sparse_embedding": {"values": [1], "dimensions": [1, 2]}},
            "INVALID_SPARSE_EMBEDDING",
            "1 sparse values and 2",
        ),
        ({"sparse_embedding": {"values": [1e9], "dimensions": [1]}}, "INVALID_SPARSE_EMBEDDING", r"go up to 1e\+09"),
        (
            {"sparse_embedding": {"values": [1], "dimensions": [-1]}},
            "INVALID_SPARSE_DIMENSIONS",
            "whole numbers from 0",
        ),
        ({"sparse_embedding": {"values": [1, 1], "dimensions": [2, 2]}}, "INVALID_SPARSE_DIMENSIONS", "2 comes twice"),
        ({"sparse_embedding": {"values": [1], "dims": [2]}}, "PARSING_ERROR", r"'dims'; did you mean 'dimensions'\?"),
    ],
)
def test_bad_restricts_and_sparse_sides(tmp_path: Path, extra: dict[str, object], code: str, reason: str) -> None:
    good = {"id": "good", "embedding": [1, 0], "numeric_restricts": [{"namespace": "typed", "value_int": 1}]}
    path = write_json(tmp_path / "a.json", [good, {"id": "bad", "embedding": [1, 0], **extra}])
    datapoints, _, (reject,) = read(open_vectors(path))
    assert len(datapoints) == 1
    assert (reject.datapoint_id, reject.code.value) == ("bad", code)
    assert re.search(reason, reject.reason)


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("a,1,x", "INVALID_CSV_SYNTAX", "cell 3 is 'x', no number"),
        ("a,1,0,color=red,5", "INVALID_CSV_SYNTAX", "a number after the embedding's end"),
        ("a,1,", "INVALID_CSV_SYNTAX", "cell 3 is ''"),
        ("a,1_0,0", "INVALID_CSV_SYNTAX", "cell 2 is '1_0'"),
        ('a,"1,0', "INVALID_CSV_SYNTAX", "no proper end"),
        ("a,1,0,7:x", "INVALID_SPARSE_EMBEDDING", "expected DIMENSION:NUMBER"),
        ("a,1,0,#size=3", "INVALID_NUMERIC_VALUE", r"#size=3 is no number; expected for example #size=3i"),
        ("a,1,0,#size=3.5i", "INVALID_NUMERIC_VALUE", "#size=3.5i is no number"),
        ("a,1,0,=red", "NAMESPACE_MISSING", "the namespace is ''"),
        ("a,1,0,color=", "INVALID_TOKEN_VALUE", "a token of 'color' is ''"),
        ("a,1,0,crowding_tag=x,crowding_tag=y", "MULTIPLE_VALUES", "crowding_tag comes again as 'y'"),
        ("a,1,0,#n=1i,#n=2i", "DUPLICATE_NAMESPACE", "'n' comes twice"),
        ("a,1,0,size=4i", "INVALID_TOKEN_VALUE", r"size=4i has no '#'.*expected #size=4i"),
        ("a,nan,0", "INVALID_EMBEDDING", "value 0 is nan"),
        ("a,1", "EMBEDDING_SIZE_MISMATCH", "has 1 values; expected 2"),
    ],
)
def test_bad_csv_records(tmp_path: Path, line: str, code: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(f"good,1,0,#size=3i\n{line}\nnext,0,1\n")
    datapoints, _, (reject,) = read(open_vectors(tmp_path / "a.csv", dim=2))
    assert [datapoint.datapoint_id for datapoint in datapoints] == ["good", "next"]
    assert (reject.place, reject.code.value) == ("line 2", code)
    assert re.search(reason, reject.reason)


def test_a_forgotten_hash_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text("a,1,0,size=3i\nb,1,0,size=4i\n")
    list(open_vectors(tmp_path / "a.csv", dim=2))
    assert [record.getMessage() for record in caplog.records] == [
        "size=3i is read as a token; a number is written #size=3i"
    ]


def test_other_metrics_take_vectors_without_direction(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"id": "a", "embedding": [0, 0]}])
    for metric, n in (("ip", 1), ("l2", 1), ("cosine", 0)):
        assert len(read(open_vectors(path, metric=metric))[0]) == n  # type: ignore[arg-type]


def test_the_usual_length_is_found_despite_a_bad_first_record(tmp_path: Path) -> None:
    rows = [{"id": "bad", "embedding": [1]}, *({"id": str(n), "embedding": [1, n]} for n in range(5))]
    files = open_vectors(write_json(tmp_path / "a.json", rows))
    assert files.dim == 2
    assert [reject.datapoint_id for reject in read(files)[2]] == ["bad"]


# Batch roots.


def test_a_batch_root_with_deletes(tmp_path: Path) -> None:
    write_json(tmp_path / "2.json", [{"id": "a", "embedding": [1, 0]}, {"id": "gone", "embedding": [1, 0]}])
    (tmp_path / "1.csv").write_text("a,0,1\nb,0,1\n")
    (tmp_path / "delete").mkdir()
    (tmp_path / "delete" / "x.txt").write_text("gone\n\nother\nother\n")
    files = open_vectors(tmp_path)
    datapoints, vectors, rejects = read(files)
    assert [datapoint.datapoint_id for datapoint in datapoints] == ["a", "b"]
    assert vectors.shape == (2, 2)
    assert [(reject.file, reject.place, reject.code.value) for reject in rejects] == [
        ("delete/x.txt", "line 2", "EMPTY_LINE"),
        ("delete/x.txt", "line 4", "INVALID_EMBEDDING_ID"),
        ("2.json", "line 1", "INVALID_EMBEDDING_ID"),
        ("2.json", "line 2", "INVALID_EMBEDDING_ID"),
    ]
    assert "1.csv line 1" in rejects[2].reason
    assert "delete/x.txt line 1" in rejects[3].reason
    assert [file.name for file in files.files] == ["1.csv", "2.json", "delete/x.txt"]
    assert sum(batch.n_rows for batch in files) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "more").mkdir(), r"holds the folder 'more'; expected files and at most 'delete'"),
        (lambda root: (root / "a.json.gz").touch(), r"a.json.gz is compressed"),
        (lambda root: None, r"holds no data; expected files that end in"),
        (
            lambda root: (root / "a.json").write_text("rubbish\n"),
            r"hold no vector; expected records with an id and an embedding",
        ),
    ],
)
def test_folders_that_are_no_batch_root(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path)
    with pytest.raises(InvalidCatalog, match=message):
        open_vectors(tmp_path)


def test_wrong_arguments(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"id": "a", "embedding": [1, 0]}])
    for options, message in (
        ({"dim": 0}, "dim is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"metric": "cos"}, "metric is 'cos'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            open_vectors(path, **options)  # type: ignore[arg-type]
    (tmp_path / "a.txt").touch()
    with pytest.raises(InvalidCatalog, match="is of no known kind; expected a name that ends in"):
        open_vectors(tmp_path / "a.txt")


# Arrays.


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, rng: np.random.Generator, dtype: type, order: Any) -> None:
    vectors = np.asarray(rng.normal(size=(300, 16)), dtype=dtype, order=order)
    vectors[7, 3] = np.nan
    vectors[9] = 0
    np.save(tmp_path / "v.npy", vectors)
    datapoints, got, rejects = read(open_vectors(tmp_path / "v.npy", batch_size=64))
    kept = [n for n in range(300) if n not in (7, 9)]
    assert [datapoint.datapoint_id for datapoint in datapoints] == [str(n) for n in kept]
    assert np.array_equal(got, vectors[kept].astype(np.float32))
    assert [(reject.place, reject.code.value) for reject in rejects] == [
        ("row 7", "INVALID_EMBEDDING"),
        ("row 9", "INVALID_EMBEDDING"),
    ]


def test_npy_over_many_reads_loses_no_row(tmp_path: Path) -> None:
    vectors = np.arange(1, 40_001, dtype=np.float32)[:, None].repeat(64, axis=1)  # 10 MB, read in pieces of 4 MiB
    np.save(tmp_path / "v.npy", vectors)
    datapoints, got, rejects = read(open_vectors(tmp_path / "v.npy"))
    assert rejects == []
    assert [int(datapoint.datapoint_id) for datapoint in datapoints] == list(range(40_000))
    assert np.array_equal(got, vectors)


@pytest.mark.parametrize("name", ["v.ids.txt", "v.ids.npy", "ids.txt"])
def test_npy_with_ids(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    if name.endswith(".txt"):
        (tmp_path / name).write_text("x\ny\nz\n")
    else:
        np.save(tmp_path / name, np.array(["x", "y", "z"]))
    files = open_vectors(tmp_path)
    assert [datapoint.datapoint_id for datapoint in read(files)[0]] == ["x", "y", "z"]
    assert [file.name for file in files.files] == ["v.npy", name]
    if name.endswith(".txt"):
        (tmp_path / name).write_text("x\ny\n")
        with pytest.raises(InvalidCatalog, match="has 2 ids for 3 vectors"):
            open_vectors(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4), np.uint8), r"is uint8\[3, 4\]; expected float16, float32 or float64 with two axes"),
        (np.zeros(4), r"is float64\[4\]"),
        (np.array([[None]]), "cannot be opened as .npy"),
    ],
)
def test_npy_of_the_wrong_kind(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(InvalidCatalog, match=message):
        open_vectors(tmp_path / "v.npy")


def test_npy_cut_short(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((100, 8), np.float32))
    (tmp_path / "v.npy").write_bytes((tmp_path / "v.npy").read_bytes()[:-5])
    with pytest.raises(InvalidCatalog, match=r"cannot be opened as \.npy"):
        open_vectors(tmp_path / "v.npy")


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed", "float16"])
def test_parquet_list_columns_with_bad_rows(tmp_path: Path, kind: str) -> None:
    value = pa.float16() if kind == "float16" else pa.float32()
    column: Any = {"list": pa.list_(value), "large_list": pa.large_list(value), "fixed": pa.list_(value, 2)}.get(
        kind, pa.list_(value)
    )
    # Arrow cannot read a null list of fixed size back.
    second = [float("inf"), 0.0] if kind == "fixed" else None
    rows: list[Any] = [[1.0, 2.0], second, [3.0, float("nan")], [5.0, 6.0]]
    table = pa.table(
        {
            "item_id": pa.array([10, 11, 12, 13], pa.int64()),
            "vector": pa.array(rows, column),
            "color": ["red", "blue", "red", "red"],
            "price": [1.5, 2.0, 3.0, None],
        }
    )
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=3)
    datapoints, vectors, rejects = read(open_vectors(tmp_path / "v.parquet", batch_size=3))
    assert vectors.tolist() == [[1, 2], [5, 6]]
    assert [(reject.place, reject.datapoint_id, reject.code.value) for reject in rejects] == [
        ("row 1", "11", "INVALID_EMBEDDING"),
        ("row 2", "12", "INVALID_EMBEDDING"),
    ]
    assert datapoints[0] == Datapoint(
        "10", (Restrict("color", ("red",)),), (NumericRestrict("price", 1.5),), None, {"color": "red", "price": 1.5}
    )
    assert datapoints[1].metadata == {"color": "red"}


def test_parquet_without_the_needed_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "v.parquet")
    with pytest.raises(InvalidCatalog, match=r"has the columns \['id', 'text'\]; expected an id column"):
        open_vectors(tmp_path / "v.parquet")


# Avro.


def records(n: int) -> list[dict[str, object]]:
    return [{**FULL, "id": f"id-{row:06d}", "embedding": [1.0, row]} for row in range(n)]


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_avro_in_many_blocks(tmp_path: Path, codec: str) -> None:
    path = write_avro(tmp_path / "a.avro", records(500), codec=codec, sync_interval=1000)
    datapoints, _, rejects = read(open_vectors(path, batch_size=7))
    assert rejects == []
    assert [datapoint.datapoint_id for datapoint in datapoints] == [f"id-{row:06d}" for row in range(500)]


def test_avro_with_a_spoilt_block_loses_just_that_block(tmp_path: Path) -> None:
    path = write_avro(tmp_path / "a.avro", records(500), sync_interval=1000)
    data = path.read_bytes()
    at = data.index(b"id-000200")
    path.write_bytes(data[: at - 1] + b"\x7f" + data[at:])  # the id's length: now it runs over the block's end
    files = open_vectors(path)
    datapoints, _, rejects = read(files)
    assert len(datapoints) + len(rejects) == 500 == sum(batch.n_rows for batch in files)
    assert 0 < len(rejects) < 30
    assert rejects[0].place == "record 200"
    assert {reject.code.value for reject in rejects} <= {"INVALID_AVRO_SYNTAX"}


def test_avro_cut_short_or_of_another_kind(tmp_path: Path) -> None:
    path = write_avro(tmp_path / "a.avro", records(500), sync_interval=1000)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InvalidCatalog, match=r"is damaged after record \d+"):
        list(open_vectors(path))
    path.write_bytes(b"rubbish")
    with pytest.raises(InvalidCatalog, match="cannot be opened as Avro"):
        open_vectors(path)
    with path.open("wb") as stream:
        fastavro.writer(
            stream, {"type": "record", "name": "X", "fields": [{"name": "id", "type": "string"}]}, [{"id": "a"}]
        )
    with pytest.raises(InvalidCatalog, match=r"has the Avro fields \['id'\]; expected a record with id and embedding"):
        open_vectors(path)


def test_real_vectors(data_dir: Path, tmp_path: Path) -> None:
    base = np.load(data_dir / "vectors" / "package_summaries_384" / "base.u8.npy", mmap_mode="r")[:3000]
    vectors = (base.astype(np.float32) - 128) * np.float32(0.0019)
    np.save(tmp_path / "v.npy", vectors)
    datapoints, got, rejects = read(open_vectors(tmp_path / "v.npy"))
    assert rejects == []
    assert len(datapoints) == 3000
    assert np.array_equal(got, vectors)
