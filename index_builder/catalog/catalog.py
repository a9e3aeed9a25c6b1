"""Catalogues: Parquet, CSV and JSON Lines files of products, read as a stream of checked batches."""

from __future__ import annotations

import contextlib
import dataclasses
import decimal
import functools
import html
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from index_builder.catalog.cells import NOT_TEXT, RefusedRow, arrow_cells, json_cell, json_object, shown
from index_builder.catalog.columns import ColumnMapping, nearest
from index_builder.catalog.data_file import DataFile, digest_of, part_files
from index_builder.catalog.facets import NOT_A_NUMBER, Facets, FacetSurvey
from index_builder.catalog.picture_folder import PICTURE_TABLE, PictureFolder
from index_builder.catalog.rejects import Reject, RejectCode
from index_builder.catalog.seen_ids import SeenIds
from index_builder.catalog.text_records import open_text, read_csv_records, read_lines
from matching.datapoint import Datapoint, NumericRestrict, Restrict
from matching.errors import InvalidCatalog, InvalidInput

Decode = Callable[[Sequence[bytes]], Sequence["str | None"]]
MAX_ID_BYTES = 512
MAX_PRICE = 1e12
_KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
_HEAD_LINES = 200
_OWN_NAMESPACES = ("category", "brand", "category_path", "price")
_TAG = re.compile(r"<[A-Za-z/!][^<>]*>")
_CURRENCY_SIGNS = re.compile(r"^(?:[A-Z]{3}|[^\d\s.,+\-]{1,3})\s*(?=[-\d.])|\s*(?:[A-Z]{3}|[^\d\s.,]{1,3})$")


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a catalogue, checked.

    Attributes:
        product_id: its id, unique in the catalogue.
        category_path: from the widest category to the narrowest.
        price: >= 0, in `currency`.
        pictures: paths relative to the images folder, the main picture first; all of them exist.
        crowding: the tag that a cap per brand or per product family counts.
        attributes: all columns that have no part of their own; values are JSON.
        facets: the columns of the catalogue that can be filtered by.
    """

    product_id: str
    title: str | None = None
    description: str | None = None
    category: str | None = None
    category_path: tuple[str, ...] = ()
    brand: str | None = None
    price: float | None = None
    currency: str | None = None
    pictures: tuple[str, ...] = ()
    crowding: str | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    facets: Facets = field(default_factory=Facets, repr=False, compare=False)

    @property
    def text(self) -> str:
        """What a text encoder reads: title, brand and category where the title does not say them, description."""
        title = self.title or ""
        said = title.casefold()
        parts = [title]
        parts += [part for part in (self.brand, self.category) if part and part.casefold() not in said]
        if self.description and self.description.casefold() != said:
            parts.append(self.description)
        return ". ".join(part.rstrip(" .") for part in parts if part.rstrip(" ."))

    def datapoint(self) -> Datapoint:
        """Return what can be filtered by and shown.

        Restricts: `category`, `brand`, `category_path` (one token a level, `Clothing`, `Clothing > Shirts`, so that a
        filter on a wide category finds everything below) and the facet columns. Numeric restricts: `price` and the
        numeric columns, float64. Crowding tag: the product family where the catalogue has one, else the brand.
        Metadata: everything, as JSON.
        """
        tokens = {
            "category": (self.category,) if self.category else (),
            "brand": (self.brand,) if self.brand else (),
            "category_path": tuple(" > ".join(self.category_path[: n + 1]) for n in range(len(self.category_path))),
        }
        restricts = tuple(Restrict(namespace, allow=allow) for namespace, allow in tokens.items() if allow)
        price = () if self.price is None else (NumericRestrict("price", self.price),)
        metadata: dict[str, object] = {
            "title": self.title,
            "description": self.description,
            "category": self.category,
            "category_path": list(self.category_path),
            "brand": self.brand,
            "price": self.price,
            "currency": self.currency,
            "pictures": list(self.pictures),
            "attributes": dict(self.attributes),
        }
        return Datapoint(
            self.product_id,
            restricts=restricts + self.facets.restricts_of(self.attributes),
            numeric_restricts=price + self.facets.numeric_restricts_of(self.attributes),
            crowding_tag=self.crowding or self.brand,
            metadata={name: value for name, value in metadata.items() if value not in (None, [], {})},
        )


@dataclass(frozen=True, slots=True)
class CatalogBatch:
    """What came of the next rows of a catalogue.

    Attributes:
        products: the products of those rows, in file order.
        rejects: their refused rows and pictures.
        n_rows: rows read, refused ones included.
        n_pictures: pictures that those rows name.
        bytes_done, bytes_total: progress through the files.
    """

    products: tuple[Product, ...]
    rejects: tuple[Reject, ...]
    n_rows: int
    n_pictures: int
    bytes_done: int
    bytes_total: int


class _Row(NamedTuple):
    place: str
    values: Mapping[str, object] | None
    problem: tuple[RejectCode, str] | None
    parts: Mapping[str, str]
    end: int


def open_catalog(
    path: str | os.PathLike[str],
    *,
    columns: ColumnMapping | None = None,
    images_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 1024,
    restricts: Sequence[str] | None = None,
    without_pictures: Literal["keep", "reject"] = "keep",
    max_picture_bytes: int = 20 << 20,
) -> Catalog:
    """Open a catalogue: one file, or a folder of part files that are read in the order of their names.

    Args:
        path: Parquet, CSV or JSON Lines. CSV is RFC 4180 with a header, separated by commas (or by semicolons or tabs
            when the header has no comma), UTF-8 with or without a byte order mark.
        columns: which column holds which part; the usual names are found without it.
        images_dir: where picture paths start from. None leaves pictures out. A table `images.parquet` in it adds
            pictures (see `PictureFolder`).
        batch_size: rows a batch; it does not change what is read.
        restricts: the attribute columns to filter by; None chooses them by a look at all rows (see `FacetSurvey`).
        without_pictures: what becomes of a row that named pictures of which none can be taken.
        max_picture_bytes: the largest picture file that is taken.

    Raises:
        InvalidCatalog: a file is missing, of no known kind, or has no usable columns.
        InvalidInput: an argument is out of range.
    """
    if batch_size < 1:
        raise InvalidInput(f"[open catalogue] batch_size is {batch_size}; expected at least 1")
    if max_picture_bytes < 1:
        raise InvalidInput(f"[open catalogue] max_picture_bytes is {max_picture_bytes}; expected at least 1")
    return Catalog(
        Path(path),
        columns or ColumnMapping(),
        None if images_dir is None else PictureFolder(images_dir, max_picture_bytes=max_picture_bytes),
        batch_size=batch_size,
        restricts=restricts,
        reject_without_pictures=without_pictures == "reject",
    )


class Catalog:
    """An open catalogue. Each iteration reads it anew and yields the same batches. Not thread-safe.

    Memory is bounded by one batch, one Parquet page a column, and fixed caches: it does not grow with the rows.
    """

    def __init__(
        self,
        path: Path,
        columns: ColumnMapping,
        pictures: PictureFolder | None,
        *,
        batch_size: int,
        restricts: Sequence[str] | None,
        reject_without_pictures: bool,
    ) -> None:
        """Use `open_catalog`."""
        self.path = path
        self.pictures = pictures
        self._batch_size = batch_size
        self._restricts = restricts
        self._reject_without_pictures = reject_without_pictures
        self._sources = [_open_source(part, columns) for part in part_files(path, _KINDS, skip=(PICTURE_TABLE,))]
        self._bytes_total = sum(source.n_bytes for source in self._sources)
        kinds = {type(source) for source in self._sources}
        if len(kinds) > 1:
            names = ", ".join(source.path.name for source in self._sources[:6])
            raise InvalidCatalog(
                f"[open catalogue] {path} mixes kinds of files ({names}); expected part files of one kind"
            )

    @property
    def columns(self) -> dict[str, str]:
        """Part to column, as found in the first file."""
        return dict(self._sources[0].parts)

    @functools.cached_property
    def files(self) -> tuple[DataFile, ...]:
        """The files that are read, with their digests: the catalogue's, then the picture table."""
        read = [DataFile.of(source.path) for source in self._sources]
        if self.pictures is not None and self.pictures.table.is_file():
            read.append(DataFile.of(self.pictures.table))
        return tuple(read)

    @property
    def digest(self) -> str:
        """SHA-256 of the data that is read: of the file, or of what `sha256sum` prints for several."""
        return digest_of(self.files)

    @functools.cached_property
    def _survey(self) -> tuple[Facets, dict[str, str], int]:
        """One pass over all rows: the facets, what the texts of a CSV file mean, the number of rows."""
        raw = FacetSurvey()
        n_rows = 0
        for source in self._sources:
            for row in source.rows(self._batch_size):
                n_rows += 1
                if row.values is not None:
                    raw.add(_attributes_of(row.values, row.parts))
        kinds = raw.kinds() if any(isinstance(source, _CsvSource) for source in self._sources) else {}
        found = raw.facets()
        chosen = found.restricts if self._restricts is None else tuple(dict.fromkeys(self._restricts))
        for name in chosen:
            if name not in raw.columns:
                raise InvalidCatalog(
                    f"[open catalogue] {self.path} has no attribute column {name!r}{nearest(name, raw.columns)}; "
                    "expected the name of a column that has no part of its own"
                )
        facets = Facets(
            restricts=tuple(name for name in chosen if name not in _OWN_NAMESPACES),
            numbers=tuple(name for name in found.numbers if name not in _OWN_NAMESPACES and name not in chosen),
        )
        return facets, kinds, n_rows

    @property
    def facets(self) -> Facets:
        """The attribute columns that can be filtered by. The first use reads the catalogue once."""
        return self._survey[0]

    @property
    def n_rows(self) -> int:
        """Rows in the files, good and bad. The first use reads the catalogue once."""
        return self._survey[2]

    def __iter__(self) -> Iterator[CatalogBatch]:
        """Read the catalogue from its beginning.

        Raises:
            InvalidCatalog: a file is damaged in a way that hides how many rows are lost.
        """
        facets, kinds, _ = self._survey
        done = 0
        with SeenIds() as seen:
            for source in self._sources:
                rows: list[_Row] = []
                for row in source.rows(self._batch_size):
                    rows.append(row)
                    if len(rows) == self._batch_size:
                        yield self._batch(source, rows, seen, facets, kinds, done + row.end)
                        rows = []
                done += source.n_bytes
                if rows:
                    yield self._batch(source, rows, seen, facets, kinds, done)

    def _batch(
        self,
        source: _Source,
        rows: Sequence[_Row],
        seen: SeenIds,
        facets: Facets,
        kinds: Mapping[str, str],
        bytes_done: int,
    ) -> CatalogBatch:
        name = source.path.name
        outcome: list[Product | Reject] = []
        for row in rows:
            if row.problem is not None:
                outcome.append(Reject(name, row.place, None, *row.problem))
                continue
            assert row.values is not None
            try:
                outcome.append(_product(row.values, row.parts, kinds, facets))
            except RefusedRow as refused:
                raw_id = row.values.get(row.parts.get("id", ""))
                product_id = str(raw_id)[:MAX_ID_BYTES] if isinstance(raw_id, (str, int)) else None
                outcome.append(Reject(name, row.place, product_id, refused.code, refused.reason))
        good = [n for n, made in enumerate(outcome) if isinstance(made, Product)]
        ids = [made.product_id for made in outcome if isinstance(made, Product)]
        for n, product_id, first in zip(
            good, ids, seen.add(ids, [f"{name} {rows[n].place}" for n in good]), strict=True
        ):
            if first is not None:
                reason = f"the id came before, in {first}; the first one is kept"
                outcome[n] = Reject(name, rows[n].place, product_id, RejectCode.DUPLICATE_ID, reason)
        listed = {} if self.pictures is None else self.pictures.listed(ids)
        products: list[Product] = []
        rejects: list[Reject] = []
        n_pictures = 0
        for row, made in zip(rows, outcome, strict=True):
            if isinstance(made, Reject):
                rejects.append(made)
                continue
            n_pictures += self._settle(made, listed.get(made.product_id, []), f"{name}\0{row.place}", products, rejects)
        return CatalogBatch(tuple(products), tuple(rejects), len(rows), n_pictures, bytes_done, self._bytes_total)

    def _settle(
        self, product: Product, listed: Sequence[str], where: str, products: list[Product], rejects: list[Reject]
    ) -> int:
        """Check one product's pictures and file it as a product or a reject; return how many pictures it names."""
        file, _, place = where.partition("\0")
        named = tuple(dict.fromkeys((*product.pictures, *listed)))
        if self.pictures is None:
            if not product.text:
                reason = "it has no title, brand, category or description"
                reason += ", and its pictures are left out" if named else ", and no picture"
                rejects.append(Reject(file, place, product.product_id, RejectCode.NO_CONTENT, reason))
            else:
                products.append(_with_pictures(product, ()))
            return 0
        taken = []
        for path in named:
            problem = self.pictures.check(path)
            if problem is None:
                taken.append(path)
            else:
                rejects.append(Reject(file, place, product.product_id, *problem))
        if not taken and not product.text:
            reason = (
                f"it has no text, and none of its {len(named)} pictures can be taken"
                if named
                else "it has neither text nor picture"
            )
            rejects.append(Reject(file, place, product.product_id, RejectCode.NO_CONTENT, reason))
        elif named and not taken and self._reject_without_pictures:
            reason = f"none of its {len(named)} pictures can be taken"
            rejects.append(Reject(file, place, product.product_id, RejectCode.NO_PICTURE_LEFT, reason))
        else:
            products.append(_with_pictures(product, tuple(taken)))
        return len(named)


# Sources: a file as rows of named raw values.


class _Source:
    """One file of a catalogue: its path, its size and the columns that its parts lie in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_bytes = path.stat().st_size
        self.parts: Mapping[str, str] = {}

    def rows(self, batch_size: int) -> Iterator[_Row]:
        raise NotImplementedError


class _ParquetSource(_Source):
    def __init__(self, path: Path, columns: ColumnMapping) -> None:
        super().__init__(path)
        with self._open() as parquet:
            self.parts = columns.resolve(parquet.schema_arrow.names, source=path.name)

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Without pre_buffer a column is read page by page, so a file of one huge row group stays small in memory.
            return pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise InvalidCatalog(f"[read] {self.path} cannot be opened as Parquet: {error}; write it again") from error

    def rows(self, batch_size: int) -> Iterator[_Row]:
        import pyarrow as pa

        row = 0
        with self._open() as parquet:
            n_rows = max(parquet.metadata.num_rows, 1)
            try:
                for batch in parquet.iter_batches(batch_size, use_threads=False):
                    names = batch.schema.names
                    for values in zip(*(arrow_cells(column) for column in batch.columns), strict=True):
                        end = self.n_bytes * (row + 1) // n_rows
                        bad = next((name for name, value in zip(names, values, strict=True) if value is NOT_TEXT), None)
                        problem = None if bad is None else (RejectCode.INVALID_ENCODING, f"column {bad!r} is not UTF-8")
                        cells = None if problem else dict(zip(names, values, strict=True))
                        yield _Row(f"row {row}", cells, problem, self.parts, end)
                        row += 1
            except (pa.ArrowException, OSError) as error:
                raise InvalidCatalog(
                    f"[read] {self.path} is damaged after row {row}: {error}; write it again"
                ) from error


class _CsvSource(_Source):
    def __init__(self, path: Path, columns: ColumnMapping) -> None:
        super().__init__(path)
        with open_text(path) as stream:
            start = stream.readline(1 << 16)
        self.delimiter = ","
        if b"," not in start:
            self.delimiter = next((sign for sign in (";", "\t") if sign.encode() in start), ",")
        header = next(read_csv_records(path, delimiter=self.delimiter), None)
        if header is None or header.cells is None:
            what = "is empty" if header is None else f"has a bad first line: {header.reason}"
            raise InvalidCatalog(f"[read] {path} {what}; expected a header with the names of the columns")
        self.header = [cell.strip() for cell in header.cells]
        twice = {name for name in self.header if self.header.count(name) > 1}
        if twice or "" in self.header:
            what = f"names {sorted(twice)} twice" if twice - {""} else "has a column without a name"
            raise InvalidCatalog(f"[read] the header of {path} {what}; expected a different name for each column")
        self.parts = columns.resolve(self.header, source=path.name)

    def rows(self, batch_size: int) -> Iterator[_Row]:
        records = read_csv_records(self.path, delimiter=self.delimiter)
        next(records)
        for record in records:
            place = f"line {record.number}"
            if record.cells is None:
                assert record.code is not None
                yield _Row(place, None, (record.code, record.reason), self.parts, record.end)
            elif len(record.cells) != len(self.header):
                reason = f"{len(record.cells)} cells; expected {len(self.header)}, as in the header"
                yield _Row(place, None, (RejectCode.INVALID_CSV_SYNTAX, reason), self.parts, record.end)
            else:
                yield _Row(place, dict(zip(self.header, record.cells, strict=True)), None, self.parts, record.end)


class _JsonSource(_Source):
    def __init__(self, path: Path, columns: ColumnMapping) -> None:
        super().__init__(path)
        with open_text(path) as stream:
            if stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                raise InvalidCatalog(
                    f"[read] {path} is one JSON array; expected one object a line: jq -c '.[]' makes them"
                )
        names: dict[str, None] = {}
        for number, line in enumerate(read_lines(path)):
            if number == _HEAD_LINES:
                break
            values, _ = json_object(line.text or "")
            names.update(dict.fromkeys(values or ()))
        self.parts = columns.resolve(tuple(names), source=f"{path.name} (first {_HEAD_LINES} lines)")
        # Later lines may have other keys: they fill the parts that the head left open, and never replace one.
        self._complete = functools.lru_cache(maxsize=1024)(lambda keys: columns.complete(self.parts, keys))

    def rows(self, batch_size: int) -> Iterator[_Row]:
        for line in read_lines(self.path):
            place = f"line {line.number}"
            if line.text is None:
                assert line.code is not None
                yield _Row(place, None, (line.code, line.reason), self.parts, line.end)
                continue
            values, problem = json_object(line.text)
            parts = self.parts if values is None else self._complete(tuple(values))
            yield _Row(place, values, problem, parts, line.end)


def _open_source(path: Path, columns: ColumnMapping) -> _Source:
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise InvalidCatalog(f"[read] {path} cannot be read: {error}; expected a readable file") from error
    if start.startswith(b"PAR1"):
        return _ParquetSource(path, columns)
    kind = _KINDS.get(path.suffix.lower())
    if kind == "parquet":
        raise InvalidCatalog(f"[read] {path} does not begin as Parquet does; expected PAR1, got {start[:4]!r}")
    if kind is None:
        kind = "json" if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else "csv"
    return _JsonSource(path, columns) if kind == "json" else _CsvSource(path, columns)


# Rows into products.


def _attributes_of(values: Mapping[str, object], parts: Mapping[str, str]) -> dict[str, object]:
    """Return the columns without a part, and the entries of the attributes column; a column wins."""
    used = set(parts.values())
    found = {name: value for name, value in values.items() if name not in used and value is not None and value != ""}
    if "attributes" in parts:
        column = parts["attributes"]
        nested = values.get(column)
        if isinstance(nested, str):
            with contextlib.suppress(ValueError, RecursionError):  # then it is a text like any other
                nested = json.loads(nested) if nested.lstrip().startswith("{") else nested
        if isinstance(nested, dict):
            for key, value in nested.items():
                if value is not None and value != "":
                    name = str(key).strip("\ufeff \t\r\n")
                    found[name if name not in values else f"{column}.{name}"] = value
        elif nested is not None and nested != "":
            found[column] = nested
    return found


def _product(
    values: Mapping[str, object], parts: Mapping[str, str], kinds: Mapping[str, str], facets: Facets
) -> Product:
    part = {name: values.get(column) for name, column in parts.items()}
    product_id = _product_id(part.get("id"), parts.get("id", "id"))
    path = _category_path(part.get("category_path"))
    category = _text(part.get("category"), parts.get("category", ""))
    if category and " > " in category:
        path = path or _category_path(category)
        category = path[-1]
    return Product(
        product_id,
        title=_text(part.get("title"), parts.get("title", "")),
        description=_text(part.get("description"), parts.get("description", "")),
        category=category or (path[-1] if path else None),
        category_path=path,
        brand=_text(part.get("brand"), parts.get("brand", "")),
        price=_price(part.get("price"), parts.get("price", "")),
        currency=_text(part.get("currency"), parts.get("currency", "")),
        pictures=_picture_paths(part.get("pictures"), parts.get("pictures", "")),
        crowding=_tag(part.get("crowding"), parts.get("crowding", "")),
        attributes={
            name: json_cell(value, name, kinds.get(name)) for name, value in _attributes_of(values, parts).items()
        },
        facets=facets,
    )


def _with_pictures(product: Product, pictures: tuple[str, ...]) -> Product:
    if product.pictures == pictures:
        return product
    return dataclasses.replace(product, pictures=pictures)


def _product_id(value: object, column: str) -> str:
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise RefusedRow(RejectCode.MISSING_ID, f"{column!r} is empty; expected the id of the product")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RefusedRow(RejectCode.INVALID_ID, f"{column!r} is {shown(value)}; expected a text or a whole number")
    product_id = str(value).strip()
    n_bytes = len(product_id.encode("utf-8"))
    if n_bytes > MAX_ID_BYTES:
        raise RefusedRow(RejectCode.INVALID_ID, f"{column!r} has {n_bytes} bytes; expected at most {MAX_ID_BYTES}")
    if any(ord(char) < 32 or ord(char) == 127 for char in product_id):
        raise RefusedRow(RejectCode.INVALID_ID, f"{column!r} is {shown(value)}; expected no control characters")
    return product_id


def _text(value: object, column: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        value = ", ".join(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RefusedRow(RejectCode.PARSING_ERROR, f"{column!r} is {shown(value)}; expected a text")
    if "<" in value:
        value = _TAG.sub(" ", value)
    if "&" in value:
        value = html.unescape(value)
    return " ".join(value.split()) or None


def _tag(value: object, column: str) -> str | None:
    return None if value is None else _text(str(value) if isinstance(value, bool) else value, column)


def _price(value: object, column: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        price = _price_of_text(value)
        if price is None:
            raise RefusedRow(
                RejectCode.INVALID_NUMERIC_VALUE, f"{column!r} is {shown(value)}; expected a price such as 19.99"
            )
    elif isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool):
        price = _float(value)
    else:
        raise RefusedRow(RejectCode.INVALID_NUMERIC_VALUE, f"{column!r} is {shown(value)}; expected a number")
    if not 0 <= price <= MAX_PRICE:  # NaN too
        raise RefusedRow(
            RejectCode.INVALID_NUMERIC_VALUE, f"{column!r} is {price}; expected a price from 0 to {MAX_PRICE:g}"
        )
    return price + 0.0  # never -0.0


def _price_of_text(text: str) -> float | None:
    """Read `19.99`, `$1,299.00`, `1.299,00 EUR`, `19,99`: of two separators the last is the decimal one."""
    if NOT_A_NUMBER.fullmatch(text.strip()):
        return math.nan
    digits = _CURRENCY_SIGNS.sub("", text.strip())
    digits = re.sub(r"[\s'_\u00a0\u202f]", "", _CURRENCY_SIGNS.sub("", digits))
    if "," in digits and "." in digits:
        thousands, point = (",", ".") if digits.rindex(".") > digits.rindex(",") else (".", ",")
        digits = digits.replace(thousands, "").replace(point, ".")
    elif re.fullmatch(r"-?\d{1,3}(,\d{3})+", digits):
        digits = digits.replace(",", "")
    else:
        digits = digits.replace(",", ".")
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", digits):
        return None
    return float(digits)


def _float(value: int | float | decimal.Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _category_path(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                return _category_path(json.loads(text))
            except (ValueError, RecursionError):
                pass
        value = re.split(r"[>|]", text)
    if not isinstance(value, (list, tuple)):
        return ()
    levels = (" ".join(str(level).split()) for level in value if level is not None)
    return tuple(level for level in levels if level)


def _picture_paths(value: object, column: str) -> tuple[str, ...]:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = [text]
        else:
            value = text.split("|")
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise RefusedRow(RejectCode.PARSING_ERROR, f"{column!r} is {shown(value)}; expected a path or a list of paths")
    paths = []
    for path in value:
        if isinstance(path, dict):  # Arrow and JSON exports nest {"path": ...} or {"src": ...}
            path = next((path[key] for key in ("path", "src", "url") if key in path), None)
        if path is not None and not isinstance(path, str):
            raise RefusedRow(RejectCode.PARSING_ERROR, f"{column!r} holds {shown(path)}; expected a path")
        if path and path.strip():
            paths.append(path.strip())
    return tuple(paths)
