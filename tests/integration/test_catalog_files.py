"""Catalogue files of all kinds, good and bad, against the real readers."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_builder.catalog.catalog import Catalog, Product, open_catalog
from index_builder.catalog.catalog_report import check_catalog, render_summary
from index_builder.catalog.columns import ColumnMapping
from index_builder.catalog.rejects import Reject, RejectCode, RejectsFile
from matching.errors import InvalidCatalog, InvalidContent, InvalidInput

JPEG = b"\xff\xd8\xff\xe0 not looked into in here"


def read(catalog: Catalog) -> tuple[list[Product], list[Reject]]:
    batches = list(catalog)
    return [product for batch in batches for product in batch.products], [r for batch in batches for r in batch.rejects]


def write_json(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_csv_by_rfc_4180(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_bytes(
        b"\xef\xbb\xbfsku,name,price,stock,on_sale,zip\r\n"
        b'1,"Shirt, ""linen""",19.99,4,true,01234\r\n'
        b'2,"two\r\nlines",$5,,FALSE,99999\r\n'
        b'3,5" pipe,"1,299.00",12,true,00001\r\n'
    )
    products, rejects = read(open_catalog(path))
    assert rejects == []
    assert [product.title for product in products] == ['Shirt, "linen"', "two lines", '5" pipe']
    assert [product.price for product in products] == [19.99, 5.0, 1299.0]
    assert products[0].attributes == {"stock": 4, "on_sale": True, "zip": "01234"}
    assert products[1].attributes == {"on_sale": False, "zip": "99999"}


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(delimiter.join(("id", "title", "price")) + "\n" + delimiter.join(("1", "a, b", "2,50")) + "\n")
    products, rejects = read(open_catalog(path))
    assert rejects == []
    assert (products[0].title, products[0].price) == ("a, b", 2.5)


def test_every_bad_csv_row_is_rejected_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_bytes(
        b"id,title,price\n"
        b"1,good,1\n"
        b",no id,1\n"
        b"1,twice,1\n"
        b"4,nan,NaN\n"
        b"5,huge,1e300\n"
        b"6,negative,-1\n"
        b"7,words,call us\n"
        b"8,bad \xff byte,1\n"
        b"9,too,many,cells\n"
        b"10,few\n"
        b"\n"
        b'12,"open quote,1\n'
        b"13,nul\0,1\n"
        b"14,,1\n"
        b"15,good,1\n"
    )
    products, rejects = read(open_catalog(path))
    assert [product.product_id for product in products] == ["1", "15"]
    assert {reject.place: reject.code.value for reject in rejects} == {
        "line 3": "MISSING_ID",
        "line 4": "DUPLICATE_ID",
        "line 5": "INVALID_NUMERIC_VALUE",
        "line 6": "INVALID_NUMERIC_VALUE",
        "line 7": "INVALID_NUMERIC_VALUE",
        "line 8": "INVALID_NUMERIC_VALUE",
        "line 9": "INVALID_ENCODING",
        "line 10": "INVALID_CSV_SYNTAX",
        "line 11": "INVALID_CSV_SYNTAX",
        "line 12": "EMPTY_LINE",
        "line 13": "INVALID_CSV_SYNTAX",
        "line 14": "INVALID_ENCODING",
        "line 15": "NO_CONTENT",
    }
    by_place = {reject.place: reject for reject in rejects}
    assert by_place["line 4"].reason == "the id came before, in shop.csv line 2; the first one is kept"
    assert by_place["line 9"].reason == "not UTF-8: byte 0xff at offset 6 of the line"
    assert by_place["line 10"].reason == "4 cells; expected 3, as in the header"


def test_every_bad_json_line_is_rejected_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl"
    lines = [
        '{"id": "1", "title": "good", "attributes": {"color": "red", "size": {"w": 3}}}',
        '{"id": "2", "title": ',
        "[1, 2]",
        '{"title": "no id"}',
        '{"id": 3.5, "title": "float id"}',
        '{"id": true, "title": "bool id"}',
        '{"id": "a\\nb", "title": "control"}',
        '{"id": "\\ud800", "title": "half a pair"}',
        '{"id": "9", "title": "huge", "weight": 1e999}',
        '{"id": "10", "title": "nan", "price": NaN}',
        '{"id": "11", "title": {"en": "object"}}',
        "[" * 100_000,
        '{"id": ' + "9" * 5000 + ', "title": "x"}',
        '{"id": "' + "x" * 600 + '", "title": "long id"}',
        '{"id": "15", "title": "w", "big": 99999999999999999999}',
        '{"id": 16, "title": "whole number"}',
    ]
    path.write_text("\n".join(lines))
    products, rejects = read(open_catalog(path))
    assert [product.product_id for product in products] == ["1", "16"]
    assert products[0].attributes == {"color": "red", "size": {"w": 3}}
    assert [int(reject.place.removeprefix("line ")) for reject in rejects] == list(range(2, 16))
    codes = {int(reject.place.removeprefix("line ")): reject.code for reject in rejects}
    assert codes[2] == codes[3] == codes[12] == codes[13] == RejectCode.INVALID_JSON_SYNTAX
    assert codes[4] == RejectCode.MISSING_ID
    assert codes[5] == codes[6] == codes[7] == codes[14] == RejectCode.INVALID_ID
    assert codes[8] == RejectCode.INVALID_ENCODING
    assert codes[9] == codes[10] == codes[15] == RejectCode.INVALID_NUMERIC_VALUE
    assert codes[11] == RejectCode.PARSING_ERROR
    assert max(len(reject.reason) for reject in rejects) < 300


def test_keys_of_later_lines_fill_open_parts_and_never_replace_one(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": str(n), "title": "t"} for n in range(300)]
    rows.append({"id": "late", "sku": "other", "name": "other", "body": "first seen here"})
    products, rejects = read(open_catalog(write_json(tmp_path / "shop.jsonl", rows)))
    assert rejects == []
    late = products[-1]
    assert (late.product_id, late.title, late.description) == ("late", None, "first seen here")
    assert late.attributes == {"sku": "other", "name": "other"}


def test_a_line_without_end_costs_one_reject_and_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl"
    path.write_bytes(b'{"id": "1", "title": "a"}\n' + b"x" * (17 << 20) + b'\n{"id": "2", "title": "b"}\n')
    products, rejects = read(open_catalog(path))
    assert [product.product_id for product in products] == ["1", "2"]
    assert [reject.place for reject in rejects] == ["line 2"]
    assert "expected at most 16,777,216" in rejects[0].reason


def test_parquet_types(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    table = pa.table(
        {
            "product_id": pa.array([1, None, 3, 4], pa.int64()),
            "name": pa.array([b"bytes", b"b", b"\xff", b"d"], pa.binary()),
            "price": pa.array([decimal.Decimal("9.90")] * 4, pa.decimal128(9, 2)),
            "categories": pa.array([["A", "B"]] * 4, pa.list_(pa.string())),
            "added": pa.array([datetime.datetime(2025, 1, 2)] * 4, pa.timestamp("ms")),
            "specs": pa.array([[("w", 3.0)]] * 4, pa.map_(pa.string(), pa.float64())),
            "rating": pa.array([1.0, 2.0, 3.0, float("inf")]),
        }
    )
    pq.write_table(table, path, row_group_size=2)
    products, rejects = read(open_catalog(path))
    assert len(products) == 1
    assert (products[0].product_id, products[0].title, products[0].price) == ("1", "bytes", 9.9)
    assert (products[0].category, products[0].category_path) == ("B", ("A", "B"))
    assert products[0].attributes == {"added": "2025-01-02T00:00:00", "rating": 1.0, "w": 3.0}
    assert [(reject.place, reject.code.value) for reject in rejects] == [
        ("row 1", "MISSING_ID"),
        ("row 2", "INVALID_ENCODING"),
        ("row 3", "INVALID_NUMERIC_VALUE"),
    ]


def test_one_catalogue_in_three_formats_gives_the_same_products(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"p{n}",
            "title": f"Thing {n}",
            "price": n + 0.5,
            "color": ("red", "blue")[n % 2],
            "stock": n,
            "sale": n % 2 == 0,
        }
        for n in range(50)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "shop.parquet")
    write_json(tmp_path / "shop.jsonl", rows)
    header = ",".join(rows[0])
    (tmp_path / "shop.csv").write_text(
        "\n".join([header, *(",".join(str(v) for v in row.values()) for row in rows)]) + "\n"
    )
    read_as = {kind: read(open_catalog(tmp_path / f"shop.{kind}")) for kind in ("parquet", "jsonl", "csv")}
    datapoints = {kind: [product.datapoint() for product in products] for kind, (products, _) in read_as.items()}
    assert all(rejects == [] for _, rejects in read_as.values())
    assert datapoints["parquet"] == datapoints["jsonl"] == datapoints["csv"]
    assert datapoints["csv"][3].restricts[0].allow == ("blue",)


def test_a_folder_of_parts_is_read_in_name_order(tmp_path: Path) -> None:
    for part, rows in (("part-2", ["c", "a"]), ("part-1", ["a", "b"])):
        write_json(tmp_path / f"{part}.jsonl", [{"id": name, "title": part} for name in rows])
    (tmp_path / "_SUCCESS").touch()
    catalog = open_catalog(tmp_path, batch_size=1)
    products, rejects = read(catalog)
    assert [(product.product_id, product.title) for product in products] == [
        ("a", "part-1"),
        ("b", "part-1"),
        ("c", "part-2"),
    ]
    assert (rejects[0].file, rejects[0].place) == ("part-2.jsonl", "line 2")
    assert "part-1.jsonl line 1" in rejects[0].reason
    sums = "".join(
        f"{hashlib.sha256((tmp_path / n).read_bytes()).hexdigest()}  {n}\n" for n in ("part-1.jsonl", "part-2.jsonl")
    )
    assert catalog.digest == hashlib.sha256(sums.encode()).hexdigest()
    assert [batch.bytes_done for batch in catalog][-1] == [batch.bytes_total for batch in catalog][-1]


def test_digest_of_one_file_is_its_sha256(tmp_path: Path) -> None:
    path = write_json(tmp_path / "shop.jsonl", [{"id": "1", "title": "a"}])
    assert open_catalog(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'[{"id": 1}]', r"is one JSON array; expected one object a line: jq -c"),
        ("a.csv", b"", r"a.csv is empty; expected a header"),
        ("a.csv", b"id,,x\n", r"has a column without a name"),
        ("a.csv", b"id,x,x\n", r"names \['x'\] twice"),
        ("a.csv", b"\xff\xfei\0d\0", r"is UTF-16; .*iconv"),
        ("a.csv", b"\x1f\x8b\x08\0", r"compressed with gzip; .*gunzip"),
        ("a.parquet", b"nope", r"does not begin as Parquet does"),
        ("a.parquet", b"PAR1 and then rubbish", r"cannot be opened as Parquet"),
        ("a.csv", b"name,price\na,1\n", r"no column for the product id"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidCatalog, match=message):
        open_catalog(tmp_path / name)


def test_a_missing_path_and_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(InvalidCatalog, match="does not exist; expected a file or a folder"):
        open_catalog(tmp_path / "no.csv")
    path = write_json(tmp_path / "shop.jsonl", [{"id": "1", "title": "a", "color": "red"}])
    with pytest.raises(InvalidInput, match="batch_size is 0"):
        open_catalog(path, batch_size=0)
    with pytest.raises(InvalidCatalog, match="is not a folder"):
        open_catalog(path, images_dir=tmp_path / "none")
    with pytest.raises(InvalidCatalog, match=r"no attribute column 'colour'; did you mean 'color'\?"):
        list(open_catalog(path, restricts=["colour"]))


def test_damaged_parquet_stops_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    ids = [f"id-{n}" for n in range(20_000)]
    pq.write_table(pa.table({"id": ids, "title": ids}), path, compression="snappy", row_group_size=5000)
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 4000):
        data[at] ^= 0x5A
    path.write_bytes(data)
    with pytest.raises(InvalidCatalog, match=r"is damaged after row \d+"):
        list(open_catalog(path))


# Pictures.


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "a.jpg").write_bytes(JPEG)
    (root / "sub" / "b.jpg").write_bytes(JPEG)
    (root / "empty.jpg").touch()
    (root / "large.jpg").write_bytes(b"x" * 3000)
    (root / "folder.jpg").mkdir()
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "inner.jpg").symlink_to(root / "a.jpg")
    os.mkfifo(root / "pipe.jpg")
    return root


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("none.jpg", "PICTURE_MISSING", "does not exist below"),
        ("../secret.jpg", "PICTURE_OUTSIDE", "steps out with '..'"),
        ("sub/../../secret.jpg", "PICTURE_OUTSIDE", "steps out with '..'"),
        ("/etc/passwd", "PICTURE_OUTSIDE", "not a relative path"),
        ("C:\\x.jpg", "PICTURE_OUTSIDE", "not a relative path"),
        ("https://shop.example/a.jpg", "PICTURE_OUTSIDE", "is an address; .*download it first"),
        ("link.jpg", "PICTURE_OUTSIDE", "through a link"),
        ("folder.jpg", "PICTURE_MISSING", "not a regular file"),
        ("pipe.jpg", "PICTURE_MISSING", "not a regular file"),
        ("empty.jpg", "PICTURE_UNDECODABLE", "is empty"),
        ("large.jpg", "PICTURE_TOO_LARGE", r"has 3,000 bytes; expected at most 1,000"),
        ("x" * 5000, "PICTURE_MISSING", "cannot be read"),
    ],
)
def test_bad_pictures_are_rejected_and_their_products_kept(
    tmp_path: Path, images: Path, path: str, code: str, reason: str
) -> None:
    file = write_json(
        tmp_path / "shop.jsonl", [{"id": "1", "title": "t", "image_path": [path, "sub/b.jpg", "inner.jpg"]}]
    )
    catalog = open_catalog(file, images_dir=images, max_picture_bytes=1000)
    products, rejects = read(catalog)
    assert products[0].pictures == ("sub/b.jpg", "inner.jpg")
    assert [(reject.code.value, reject.place, reject.datapoint_id) for reject in rejects] == [(code, "line 1", "1")]
    assert catalog.pictures is not None
    with pytest.raises(InvalidContent, match=reason):
        catalog.pictures.read(path)
    assert catalog.pictures.read("sub/b.jpg") == JPEG


def test_products_without_a_picture_left(tmp_path: Path, images: Path) -> None:
    rows = [
        {"id": "1", "title": "t", "image": "none.jpg"},
        {"id": "2", "image": "none.jpg"},
        {"id": "3", "image": "a.jpg"},
    ]
    path = write_json(tmp_path / "shop.jsonl", [*rows, {"id": "4", "title": "no picture named"}])
    products, rejects = read(open_catalog(path, images_dir=images))
    assert [product.product_id for product in products] == ["1", "3", "4"]
    assert [reject.code.value for reject in rejects] == ["PICTURE_MISSING", "PICTURE_MISSING", "NO_CONTENT"]
    products, rejects = read(open_catalog(path, images_dir=images, without_pictures="reject"))
    assert [product.product_id for product in products] == ["3", "4"]
    assert rejects[1].code is RejectCode.NO_PICTURE_LEFT
    products, _ = read(open_catalog(path))
    assert [product.product_id for product in products] == ["1", "4"]
    assert all(product.pictures == () for product in products)


def test_the_picture_table_adds_pictures_in_the_order_of_their_roles(tmp_path: Path, images: Path) -> None:
    rows = [
        ("1", "sub/b.jpg", "gallery"),
        ("1", "inner.jpg", "alt"),
        ("1", "a.jpg", "main"),
        ("1", "large.jpg", "query"),
    ]
    table = [{"product_id": product, "image_path": path, "role": role} for product, path, role in rows]
    pq.write_table(pa.Table.from_pylist(table), images / "images.parquet")
    path = write_json(
        tmp_path / "shop.jsonl", [{"id": "1", "title": "t", "image": "inner.jpg"}, {"id": "2", "title": "u"}]
    )
    catalog = open_catalog(path, images_dir=images)
    products, _ = read(catalog)
    assert products[0].pictures == ("inner.jpg", "a.jpg", "sub/b.jpg")
    assert products[1].pictures == ()
    assert [file.name for file in catalog.files] == ["shop.jsonl", "images.parquet"]


def test_a_folder_one_level_too_deep_is_named(tmp_path: Path, images: Path) -> None:
    path = write_json(tmp_path / "shop.jsonl", [{"id": "1", "title": "t", "image": "images/a.jpg"}])
    _, rejects = read(open_catalog(path, images_dir=images))
    assert f"give {tmp_path} as the images folder" in rejects[0].reason


# The whole.


def test_check_sums_up_and_draws(tmp_path: Path, images: Path) -> None:
    from rich.console import Console

    rows = [{"id": str(n), "title": f"T {n}", "category": "AB"[n % 2], "price": n, "image": "a.jpg"} for n in range(20)]
    path = write_json(
        tmp_path / "shop.jsonl", [*rows, {"id": "1", "title": "twice"}, {"id": "x", "image": "sub/b.jpg"}]
    )

    def decode(pictures: Sequence[bytes]) -> list[str | None]:
        return ["broken" if n == 0 else None for n, _ in enumerate(pictures)]

    with RejectsFile(tmp_path / "rejects.jsonl") as rejects:
        summary = check_catalog(open_catalog(path, images_dir=images), rejects=rejects, decode=decode)
    assert (summary.n_rows, summary.n_products, summary.n_rejected_rows) == (22, 21, 1)
    assert summary.rejects == {"DUPLICATE_ID": 1, "PICTURE_UNDECODABLE": 1}
    assert (summary.n_pictures, summary.n_with_pictures, summary.n_with_text) == (21, 20, 20)
    assert summary.top_categories == (("A", 10), ("B", 10))
    assert summary.price is not None
    assert (summary.price.least, summary.price.median, summary.price.most) == (0, 10, 19)
    assert sum(summary.price.bins) == 20
    assert summary.fill["price"] == 20 / 21
    assert summary.refusal is not None
    assert "1 of 22 rows" in summary.refusal
    assert json.loads(json.dumps(summary.to_json()))["top_categories"] == [["A", 10], ["B", 10]]
    with (tmp_path / "drawn.txt").open("w") as stream:
        render_summary(summary, Console(file=stream, width=80))
    drawn = (tmp_path / "drawn.txt").read_text()
    assert "a build would refuse it" in drawn
    assert "█" in drawn
    assert max(len(line) for line in drawn.splitlines()) <= 80


_MEASURE = """
import re, sys
from index_builder.catalog.catalog import open_catalog
n = sum(len(batch.products) for batch in open_catalog(sys.argv[1]))
print(n, re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_peak_memory_does_not_grow_with_rows(tmp_path: Path, kind: str) -> None:
    peaks_kib = []
    for n in (20_000, 80_000):
        path = tmp_path / f"{n}.{kind}"
        ids, titles = [f"product-{i:08d}" for i in range(n)], [f"Thing number {i} with a title" for i in range(n)]
        notes = [f"Row {i} has a description of its own. " * 4 for i in range(n)]
        if kind == "csv":
            with path.open("w") as stream:
                stream.write("id,title,description\n")
                stream.writelines(f"{a},{b},{c}\n" for a, b, c in zip(ids, titles, notes, strict=True))
        else:  # one row group for all
            pq.write_table(pa.table({"id": ids, "title": titles, "description": notes}), path, row_group_size=n)
        told = subprocess.run(
            [sys.executable, "-c", _MEASURE, path], capture_output=True, text=True, check=True
        ).stdout.split()
        assert int(told[0]) == n
        peaks_kib.append(int(told[1]))
    # Kept in memory, 60,000 more products would take over 30 MiB.
    assert peaks_kib[1] - peaks_kib[0] < 24 << 10


def test_real_products_with_pictures(data_dir: Path) -> None:
    folder = data_dir / "products_images"
    catalog = open_catalog(
        folder / "products.parquet", images_dir=folder, columns=ColumnMapping.parse("pictures=image_path")
    )
    products, rejects = read(catalog)
    assert rejects == []
    assert len(products) == catalog.n_rows == 5281
    assert sum(len(product.pictures) for product in products) > 6000
    assert "kids" in catalog.facets.restricts
    assert all(product.text for product in products)
    shirts = [p for p in products if p.category_path[:1] == ("Clothing",)]
    assert "Clothing" in next(r.allow for r in shirts[0].datapoint().restricts if r.namespace == "category_path")


def test_real_shop_of_texts(data_dir: Path) -> None:
    catalog = open_catalog(data_dir / "text_catalog" / "retail_demo_store.parquet")
    products, rejects = read(catalog)
    assert rejects == []
    assert len(products) == 2465
    assert "style" in catalog.facets.restricts
    assert "current_stock" in catalog.facets.numbers
    assert all(product.price is not None and product.price > 0 for product in products)
