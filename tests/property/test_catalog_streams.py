"""Whatever a catalogue or vector file holds: one reject a bad record, every good one kept, the same in all batch sizes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from index_builder.catalog.catalog import Product, open_catalog
from index_builder.catalog.rejects import Reject
from index_builder.catalog.vector_files import open_vectors
from matching.datapoint import Datapoint
from matching.errors import InvalidCatalog

# Text as a shop writes it: no control characters, no spaces at the ends or twice (they are folded), no markup.
WORDS = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="<&"), min_size=1, max_size=8)
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
IDS = st.lists(WORDS, min_size=1, max_size=12, unique=True)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    prices = st.floats(0, 1e6).map(lambda price: round(price, 2))
    return [
        {
            "id": product_id,
            "title": draw(TEXTS),
            "description": draw(TEXTS),
            "price": draw(prices),
            "stock": draw(st.integers(0, 9)),
        }
        for product_id in draw(IDS)
    ]


def write(folder: Path, kind: str, products: Sequence[dict[str, Any]]) -> Path:
    path = folder / f"shop.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(products)), path, row_group_size=3)
    elif kind == "jsonl":
        path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in products).encode())
    else:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(products[0]))
        writer.writeheader()
        writer.writerows(products)
        path.write_bytes(stream.getvalue().encode())
    return path


def read(path: Path, batch_size: int = 1024) -> tuple[list[Product], list[Reject]]:
    batches = list(open_catalog(path, batch_size=batch_size))
    return [product for batch in batches for product in batch.products], [r for batch in batches for r in batch.rejects]


@given(rows(), st.sampled_from(["parquet", "jsonl", "csv"]), st.integers(1, 7))
def test_catalogues_come_back_as_written(products: list[dict[str, Any]], kind: str, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), kind, products)
        got, rejects = read(path, batch_size)
        assert rejects == []
        assert [
            {"id": p.product_id, "title": p.title, "description": p.description, "price": p.price, **p.attributes}
            for p in got
        ] == products
        assert read(path) == (got, rejects)


GARBAGE = st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b""))


@given(rows(), st.lists(st.tuples(st.integers(0, 12), GARBAGE), max_size=6), st.integers(1, 5))
def test_a_line_of_garbage_in_json_is_one_reject(
    products: list[dict[str, Any]], garbage: list[tuple[int, bytes]], batch_size: int
) -> None:
    lines = [json.dumps(row).encode() for row in products]
    for at, line in garbage:
        lines.insert(min(at, len(lines) - 1) + 1, line)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        got, rejects = read(path, batch_size)
        assert [product.product_id for product in got] == [row["id"] for row in products]
        assert len(rejects) == len(garbage)
        good = {json.dumps(row).encode() for row in products}
        assert [reject.place for reject in rejects] == [
            f"line {n}" for n, line in enumerate(lines, 1) if line not in good
        ]
        assert read(path) == (got, rejects)


@given(rows(), st.lists(st.tuples(st.integers(0, 12), GARBAGE), max_size=6))
def test_a_line_of_garbage_in_csv_is_one_reject(
    products: list[dict[str, Any]], garbage: list[tuple[int, bytes]]
) -> None:
    # Good rows without quotes: then a stray quote cannot pair up with one of theirs.
    lines = [f"id-{n},title {n},{n}".encode() for n, _ in enumerate(products)]
    bad = [(at, line) for at, line in garbage if line.count(b",") != 2]
    for at, line in bad:
        lines.insert(min(at, len(lines)), line)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.csv"
        path.write_bytes(b"id,title,price\n" + b"".join(line + b"\n" for line in lines))
        got, rejects = read(path)
        quotes = sum(b'"' in line for _, line in bad)
        assert [product.product_id for product in got] == [f"id-{n}" for n, _ in enumerate(products)] or quotes > 1
        assert len(rejects) == len(bad) or quotes > 1
        assert len(got) + len(rejects) <= len(lines)


@given(st.binary(max_size=400), st.sampled_from(["csv", "jsonl", "parquet"]))
def test_any_bytes_are_read_or_refused_by_name(data: bytes, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"shop.{kind}"
        path.write_bytes(
            (b"id,title\n" if kind == "csv" else b'{"id": "x", "title": "t"}\n' if kind == "jsonl" else b"PAR1") + data
        )
        with contextlib.suppress(InvalidCatalog):  # anything else fails the test
            read(path)


# Vectors.

NUMBERS = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
TOKENS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=5).filter(
    lambda text: not text[-1].isdigit()
)


@st.composite
def vector_records(draw: st.DrawFn) -> list[dict[str, Any]]:
    dim = draw(st.integers(1, 4))
    records = []
    for name in draw(st.lists(TOKENS, min_size=1, max_size=8, unique=True)):
        record: dict[str, Any] = {
            "id": name,
            "embedding": draw(st.lists(NUMBERS, min_size=dim, max_size=dim).filter(any)),
        }
        namespaces = draw(st.lists(TOKENS, max_size=3, unique=True))
        record["restricts"] = [
            {
                "namespace": "t" + namespace,
                "allow": draw(st.lists(TOKENS, max_size=2, unique=True)),
                "deny": draw(st.lists(TOKENS, min_size=1, max_size=2, unique=True)),
            }
            for namespace in namespaces
        ]
        record["numeric_restricts"] = [
            {"namespace": "#n" + namespace, "value_int": draw(st.integers(-(2**31), 2**31 - 1))}
            for namespace in namespaces
        ]
        record["crowding_tag"] = draw(st.none() | TOKENS)
        records.append(record)
    return records


def csv_line(record: dict[str, Any]) -> list[str]:
    cells = [record["id"], *(repr(value) for value in record["embedding"])]
    for restrict in record["restricts"]:
        cells += [f"{restrict['namespace']}={token}" for token in restrict["allow"]]
        cells += [f"{restrict['namespace']}=!{token}" for token in restrict["deny"]]
    cells += [f"#{number['namespace']}={number['value_int']}i" for number in record["numeric_restricts"]]
    return cells + ([f"crowding_tag={record['crowding_tag']}"] if record["crowding_tag"] else [])


def write_vectors(folder: Path, kind: str, records: Sequence[dict[str, Any]]) -> Path:
    path = folder / f"v.{kind}"
    if kind == "json":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(csv_line(record) for record in records)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(records)), path, row_group_size=2)
    else:
        from tests.integration.test_vector_files import AVRO

        with path.open("wb") as binary:
            fastavro.writer(
                binary, AVRO, [{"sparse_embedding": None, **record} for record in records], sync_interval=50
            )
    return path


def read_vectors(path: Path, batch_size: int = 4096) -> tuple[list[Datapoint], list[list[float]], list[Reject]]:
    batches = list(open_vectors(path, batch_size=batch_size))
    vectors = np.concatenate([batch.vectors for batch in batches]).tolist()
    return [d for b in batches for d in b.datapoints], vectors, [r for b in batches for r in b.rejects]


@given(vector_records(), st.integers(1, 5))
def test_vectors_come_back_the_same_from_every_layout(records: list[dict[str, Any]], batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_vectors(Path(folder), kind, records) for kind in ("json", "csv", "avro", "parquet")]
        datapoints, vectors, rejects = read_vectors(paths[0])
        assert rejects == []
        assert [datapoint.datapoint_id for datapoint in datapoints] == [record["id"] for record in records]
        assert vectors == [record["embedding"] for record in records]
        for path in paths:
            assert read_vectors(path, batch_size) == (datapoints, vectors, rejects), path.suffix


@given(vector_records(), st.lists(st.tuples(st.integers(0, 8), GARBAGE), max_size=5), st.integers(1, 5))
def test_a_line_of_garbage_among_vectors_is_one_reject(
    records: list[dict[str, Any]], garbage: list[tuple[int, bytes]], batch_size: int
) -> None:
    lines = [json.dumps(record).encode() for record in records]
    for at, line in garbage:
        lines.insert(min(at, len(lines)), line)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.json"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        datapoints, _, rejects = read_vectors(path, batch_size)
        assert [datapoint.datapoint_id for datapoint in datapoints] == [record["id"] for record in records]
        assert len(rejects) == len(garbage)
        assert read_vectors(path)[2] == rejects


@given(st.binary(max_size=300), st.sampled_from(["json", "csv", "avro", "npy", "parquet"]))
def test_any_bytes_as_vectors_are_read_or_refused_by_name(data: bytes, kind: str) -> None:
    magic = {"avro": b"Obj\x01", "npy": b"\x93NUMPY\x01\x00", "parquet": b"PAR1"}.get(kind, b"")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"v.{kind}"
        path.write_bytes(magic + data)
        with contextlib.suppress(InvalidCatalog):  # anything else fails the test
            read_vectors(path)
