"""Vector files: ready vectors in Vertex AI's JSON, CSV and Avro layouts, in .npy and in Parquet, read as checked batches."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index_builder.catalog.cells import NOT_TEXT, RefusedRow, arrow_cells, json_cell, json_object, shown
from index_builder.catalog.columns import nearest
from index_builder.catalog.data_file import DataFile, digest_of, part_files
from index_builder.catalog.facets import Facets, FacetSurvey
from index_builder.catalog.rejects import Reject, RejectCode
from index_builder.catalog.seen_ids import SeenIds
from index_builder.catalog.text_records import read_csv_records, read_lines
from matching.datapoint import Datapoint, Metric, NumericRestrict, NumericType, Restrict, SparseRows
from matching.errors import InvalidCatalog, InvalidInput

logger = logging.getLogger(__name__)

MAX_ABS = 1e6  # beyond it a single stored value drowns all others in float32 sums
MIN_NORM = 1e-6  # below it a direction is rounding noise
MAX_DIM = 65_536
MAX_ID_BYTES = 512
MAX_FILES = 5000
DELETE_FOLDER = "delete"
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".avro", ".npy", ".parquet", ".pq")
_HEAD_RECORDS = 1000
_FLOAT32_MAX = float(np.finfo(np.float32).max)

# Each field under all the names that Vertex gives it: in files, in the public API, in the private endpoint's API.
_RECORD_KEYS = {
    "id": ("id", "datapoint_id", "embedding_id"),
    "embedding": ("embedding", "feature_vector", "float_val"),
    "sparse_embedding": ("sparse_embedding",),
    "restricts": ("restricts",),
    "numeric_restricts": ("numeric_restricts",),
    "crowding_tag": ("crowding_tag",),
    "embedding_metadata": ("embedding_metadata",),
}
_RESTRICT_KEYS = {
    "namespace": ("namespace", "name"),
    "allow": ("allow", "allow_list", "allow_tokens"),
    "deny": ("deny", "deny_list", "deny_tokens"),
}
_NUMERIC_KEYS = {
    "namespace": ("namespace", "name"),
    "value_int": ("value_int",),
    "value_float": ("value_float",),
    "value_double": ("value_double",),
    "op": ("op",),
}
_SPARSE_KEYS = {"values": ("values", "float_val"), "dimensions": ("dimensions", "dimension")}
_TYPES: dict[str, NumericType] = {"value_int": "int64", "value_float": "float32", "value_double": "float64"}
_CSV_TYPES = {"i": "value_int", "f": "value_float", "d": "value_double"}
_CSV_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_CSV_SPARSE = re.compile(r"(\d+):(.+)")
_CSV_FORGOTTEN_HASH = re.compile(r"[+-]?\d+(\.\d+)?[ifd]")


@dataclass(frozen=True, slots=True)
class VectorBatch:
    """What came of the next records.

    Attributes:
        datapoints: the m datapoints that were accepted, in file order; each has a vector, a sparse side or both.
        vectors: float32[v, d], finite, |x| <= 1e6; not normalised.
        owners: int64[v], ascending; which of the m datapoints has each vector.
        sparse: their sparse sides, empty rows for those without one; None when none of them has one.
        rejects: the refused records.
        n_rows: records read, refused ones included.
        bytes_done, bytes_total: progress through the files.
    """

    datapoints: tuple[Datapoint, ...]
    vectors: NDArray[np.float32]
    owners: NDArray[np.int64]
    sparse: SparseRows | None
    rejects: tuple[Reject, ...]
    n_rows: int
    bytes_done: int
    bytes_total: int


class _Record(NamedTuple):
    """One record as read; `problem` is set when the record was refused, the other fields when it was not."""

    place: str
    end: int
    problem: tuple[str | None, RejectCode, str] | None = None
    datapoint: Datapoint | None = None
    vector: NDArray[np.float64] | NDArray[np.float32] | None = None
    sparse: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None


def open_vectors(
    path: str | os.PathLike[str],
    *,
    dim: int | None = None,
    metric: Metric = "cosine",
    batch_size: int = 4096,
    restricts: Sequence[str] | None = None,
) -> VectorFiles:
    """Open one vector file, or a batch root: a folder of them, with ids to leave out in `delete/*.txt`.

    Args:
        path: `.json`, `.csv` or `.avro` in Vertex's layouts; `.npy` float[n, d] (ids are row numbers, or stand in
            `NAME.ids.txt` or `NAME.ids.npy` beside it); Parquet with an id column and a list column `embedding` or
            `vector`.
        dim: the length of the vectors; None takes the most frequent one among the first 1,000 records.
        metric: under `cosine`, vectors without a direction are refused.
        batch_size: records a batch; it does not change what is read.
        restricts: the other Parquet columns to filter by; None chooses them (see `FacetSurvey`).

    Raises:
        InvalidCatalog: a file is missing, damaged or of no known kind, or no vector was found.
        InvalidInput: an argument is out of range.
    """
    if batch_size < 1:
        raise InvalidInput(f"[open vectors] batch_size is {batch_size}; expected at least 1")
    if dim is not None and not 1 <= dim <= MAX_DIM:
        raise InvalidInput(f"[open vectors] dim is {dim}; expected 1 to {MAX_DIM}")
    if metric not in ("ip", "cosine", "l2"):
        raise InvalidInput(f"[open vectors] metric is {metric!r}; expected ip, cosine or l2")
    return VectorFiles(Path(path), dim=dim, metric=metric, batch_size=batch_size, restricts=restricts)


class VectorFiles:
    """Open vector files. Each iteration reads them anew and yields the same batches. Not thread-safe.

    Memory is bounded by one batch and fixed caches, in Avro also by one block of the file.

    Attributes:
        path: what was opened.
        dim: the length of the vectors.
    """

    def __init__(
        self, path: Path, *, dim: int | None, metric: Metric, batch_size: int, restricts: Sequence[str] | None
    ) -> None:
        """Use `open_vectors`."""
        self.path = path
        self._metric = metric
        self._batch_size = batch_size
        self._restricts = restricts
        self._parts, self._deletes = _batch_root(path)
        self._bytes_total = sum(part.stat().st_size for part in (*self._parts, *self._deletes))
        self.dim = dim if dim is not None else self._usual_dim()

    @functools.cached_property
    def files(self) -> tuple[DataFile, ...]:
        """The files that are read, with their digests."""
        extra = [ids for part in self._parts if part.suffix == ".npy" and (ids := _ids_file(part)) is not None]
        read = [*self._parts, *extra, *self._deletes]
        return tuple(DataFile.of(part, self._name(part)) for part in read)

    @property
    def digest(self) -> str:
        """SHA-256 of the data that is read: of the file, or of what `sha256sum` prints for several."""
        return digest_of(self.files)

    def __iter__(self) -> Iterator[VectorBatch]:
        """Read the files from their beginning.

        Raises:
            InvalidCatalog: a file is damaged in a way that hides how many records are lost.
        """
        done = 0
        with SeenIds() as seen:
            for part in self._deletes:
                for batch in _batched(_deleted(part), self._batch_size):
                    yield self._delete_batch(self._name(part), batch, seen, done)
                done += part.stat().st_size
            for part, records in self._sources():
                name = self._name(part)
                for batch in _batched(records, self._batch_size):
                    yield self._batch(name, batch, seen, done)
                done += part.stat().st_size

    def _sources(self) -> Iterator[tuple[Path, Iterator[_Record]]]:
        types: dict[str, NumericType] = {}
        n_npy = 0
        for part in self._parts:
            if part.suffix == ".npy":
                ids = _ids_file(part)
                yield part, _npy_records(part, ids, n_npy)
                n_npy += 0 if ids is not None else len(_npy(part))
            elif part.suffix in (".parquet", ".pq"):
                yield part, _parquet_records(part, self._restricts, types)
            else:
                yield part, _READERS[part.suffix](part, types)

    def _usual_dim(self) -> int:
        lengths: Counter[int] = Counter()
        heads = itertools.chain.from_iterable(records for _, records in self._sources())
        for record in itertools.islice(heads, _HEAD_RECORDS):
            if record.vector is not None:
                lengths[len(record.vector)] += 1
        if not lengths:
            raise InvalidCatalog(
                f"[open vectors] the first {_HEAD_RECORDS:,} records of {self.path} hold no vector; "
                "expected records with an id and an embedding"
            )
        return lengths.most_common(1)[0][0]

    def _name(self, part: Path) -> str:
        return part.name if part.parent == self.path or part == self.path else str(part.relative_to(self.path))

    def _delete_batch(
        self, name: str, batch: Sequence[tuple[int, str | None, str, RejectCode | None, int]], seen: SeenIds, done: int
    ) -> VectorBatch:
        rejects = [
            Reject(name, f"line {number}", None, code or RejectCode.INVALID_EMBEDDING_ID, reason)
            for number, deleted, reason, code, _ in batch
            if deleted is None
        ]
        good = [(number, deleted) for number, deleted, _, _, _ in batch if deleted is not None]
        places = [f"{name} line {number}" for number, _ in good]
        for (number, deleted), first in zip(good, seen.add([deleted for _, deleted in good], places), strict=True):
            if first is not None:
                reason = f"the id came before, in {first}"
                rejects.append(Reject(name, f"line {number}", deleted, RejectCode.INVALID_EMBEDDING_ID, reason))
        vectors = np.empty((0, self.dim), np.float32)
        owners = np.empty(0, np.int64)
        n_bytes = done + batch[-1][-1]
        return VectorBatch((), vectors, owners, None, tuple(rejects), len(batch), n_bytes, self._bytes_total)

    def _batch(self, name: str, batch: Sequence[_Record], seen: SeenIds, done: int) -> VectorBatch:
        problems: list[tuple[str | None, RejectCode, str] | None] = [record.problem for record in batch]
        kept: list[int] = []
        for n, record in enumerate(batch):
            if record.datapoint is None:
                continue
            problem = self._vector_problem(record)
            if problem is None:
                kept.append(n)
            else:
                problems[n] = record.datapoint.datapoint_id, *problem
        points = [point for n in kept if (point := batch[n].datapoint) is not None]
        places = [f"{name} {batch[n].place}" for n in kept]
        is_new = []
        for n, point, first in zip(
            kept, points, seen.add([point.datapoint_id for point in points], places), strict=True
        ):
            is_new.append(first is None)
            if first is not None:
                reason = f"the id came before, in {first}; an id stands once in a batch"
                problems[n] = point.datapoint_id, RejectCode.INVALID_EMBEDDING_ID, reason
        kept = list(itertools.compress(kept, is_new))
        own = [(at, vector) for at, n in enumerate(kept) if (vector := batch[n].vector) is not None]
        vectors = np.empty((len(own), self.dim), np.float32)
        for row, (_, vector) in enumerate(own):
            vectors[row] = vector
        return VectorBatch(
            tuple(itertools.compress(points, is_new)),
            vectors,
            np.array([at for at, _ in own], np.int64),
            _sparse_rows([batch[n].sparse for n in kept]),
            tuple(
                Reject(name, record.place, *problem)
                for record, problem in zip(batch, problems, strict=True)
                if problem is not None
            ),
            len(batch),
            done + batch[-1].end,
            self._bytes_total,
        )

    def _vector_problem(self, record: _Record) -> tuple[RejectCode, str] | None:
        vector = record.vector
        if vector is None:
            return None
        if len(vector) != self.dim:
            reason = f"the embedding has {len(vector)} values; expected {self.dim}"
            return RejectCode.EMBEDDING_SIZE_MISMATCH, reason
        wrong = check_vector(vector, self._metric)
        return None if wrong is None else (RejectCode.INVALID_EMBEDDING, wrong)


def check_vector(vector: NDArray[np.float64] | NDArray[np.float32], metric: Metric) -> str | None:
    """Return why a vector cannot be stored, or None when it can."""
    largest = float(np.abs(vector).max())
    if not largest <= MAX_ABS:  # NaN too
        at = int(np.flatnonzero(~(np.abs(vector) <= MAX_ABS))[0])
        return f"value {at} is {float(vector[at]):g}; expected finite numbers of at most {MAX_ABS:g}"
    if metric == "cosine" and largest < MIN_NORM:
        norm = float(np.sqrt(np.square(vector, dtype=np.float64).sum()))
        if norm < MIN_NORM:
            return f"the embedding has norm {norm:g} and so no direction; cosine needs at least {MIN_NORM:g}"
    return None


# The files of a batch.


def _batch_root(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the vector files and the delete files that a path stands for."""
    if path.is_file():
        if path.suffix.lower() not in _SUFFIXES:
            raise InvalidCatalog(
                f"[open vectors] {path} is of no known kind; expected a name that ends in {', '.join(_SUFFIXES)}"
            )
        return [path], []
    deletes: list[Path] = []
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.is_dir() and entry.name == DELETE_FOLDER:
                deletes = sorted(file for file in entry.iterdir() if file.suffix == ".txt")
            elif entry.is_dir() and entry.name[0] not in "._":
                raise InvalidCatalog(
                    f"[open vectors] {path} holds the folder {entry.name!r}; expected files and at most {DELETE_FOLDER!r}"
                )
            elif entry.suffix.lower() in (".gz", ".zst", ".bz2", ".zip"):
                raise InvalidCatalog(f"[open vectors] {entry} is compressed; expected plain files; unpack it first")
    parts = [
        part for part in part_files(path, _SUFFIXES) if not part.name.endswith(".ids.npy") and part.name != "ids.npy"
    ]
    if len(parts) + len(deletes) > MAX_FILES:
        raise InvalidCatalog(
            f"[open vectors] {path} holds {len(parts) + len(deletes):,} files; expected at most {MAX_FILES:,}"
        )
    return parts, deletes


def _deleted(path: Path) -> Iterator[tuple[int, str | None, str, RejectCode | None, int]]:
    for line in read_lines(path):
        if line.text is None:
            yield line.number, None, line.reason, line.code, line.end
            continue
        try:
            yield line.number, _id(line.text), "", None, line.end
        except RefusedRow as refused:
            yield line.number, None, refused.reason, refused.code, line.end


def _json_records(path: Path, types: dict[str, NumericType]) -> Iterator[_Record]:
    for line in read_lines(path):
        place = f"line {line.number}"
        if line.text is None:
            assert line.code is not None
            yield _Record(place, line.end, (None, line.code, line.reason))
            continue
        values, problem = json_object(line.text)
        if values is None:
            assert problem is not None
            yield _Record(place, line.end, (None, *problem))
        else:
            yield _record(place, line.end, values, types)


def _csv_records(path: Path, types: dict[str, NumericType]) -> Iterator[_Record]:
    forgotten: set[str] = set()
    for row in read_csv_records(path):
        place = f"line {row.number}"
        if row.cells is None:
            assert row.code is not None
            yield _Record(place, row.end, (None, row.code, row.reason))
            continue
        try:
            values = _CsvShape(row.cells, types, forgotten).record
        except RefusedRow as refused:
            yield _Record(place, row.end, (row.cells[0].strip() or None, refused.code, refused.reason))
        else:
            yield _record(place, row.end, values, types)


class _CsvShape:
    """One CSV record on its way into the shape of a JSON one.

    `id,v1..vn,dim:val..,crowding_tag=t,color=red,color=!blue,#size=3i`
    """

    def __init__(self, cells: Sequence[str], types: Mapping[str, NumericType], forgotten: set[str]) -> None:
        self._types, self._forgotten = types, forgotten
        self._values: list[float] = []
        self._dimensions: list[int] = []
        self._tokens: dict[str, tuple[list[str], list[str]]] = {}
        self._numbers: list[dict[str, object]] = []
        embedding = _leading_numbers(cells[1:])
        self.record: dict[str, object] = {"id": cells[0].strip(), "embedding": embedding}
        for at, cell in enumerate((cell.strip() for cell in cells[1 + len(embedding) :]), start=2 + len(embedding)):
            name, equals, value = cell.partition("=")
            if not equals:
                self._add_sparse(at, cell)
            elif name == "crowding_tag":
                if "crowding_tag" in self.record:
                    raise RefusedRow(RejectCode.MULTIPLE_VALUES, f"crowding_tag comes again as {shown(value)}")
                self.record["crowding_tag"] = value
            elif name.startswith("#"):
                self._numbers.append(_csv_number(name[1:], value))
            else:
                self._add_token(name, value)
        if self._dimensions:
            self.record["sparse_embedding"] = {"values": self._values, "dimensions": self._dimensions}
        self.record["restricts"] = [
            {"namespace": name, "allow": allow, "deny": deny} for name, (allow, deny) in self._tokens.items()
        ]
        self.record["numeric_restricts"] = self._numbers

    def _add_sparse(self, at: int, cell: str) -> None:
        sparse = _CSV_SPARSE.fullmatch(cell)
        if sparse is None:
            what = "a number after the embedding's end" if _CSV_NUMBER.fullmatch(cell) else "no number"
            reason = f"cell {at} is {shown(cell)}, {what}; expected ID,NUMBERS,DIMENSION:NUMBER,NAMESPACE=TOKEN"
            raise RefusedRow(RejectCode.INVALID_CSV_SYNTAX, reason)
        if not _CSV_NUMBER.fullmatch(sparse[2]):
            reason = f"cell {at} is {shown(cell)}; expected DIMENSION:NUMBER"
            raise RefusedRow(RejectCode.INVALID_SPARSE_EMBEDDING, reason)
        self._dimensions.append(int(sparse[1]) if len(sparse[1]) < 20 else 1 << 63)
        self._values.append(float(sparse[2]))

    def _add_token(self, name: str, value: str) -> None:
        if _CSV_FORGOTTEN_HASH.fullmatch(value):
            if name in self._types:
                reason = f"{name}={value} has no '#', and {name!r} is a numeric namespace; expected #{name}={value}"
                raise RefusedRow(RejectCode.INVALID_TOKEN_VALUE, reason)
            if name not in self._forgotten and len(self._forgotten) < 100:
                self._forgotten.add(name)
                logger.warning("%s=%s is read as a token; a number is written #%s=%s", name, value, name, value)
        allow, deny = self._tokens.setdefault(name, ([], []))
        (deny if value.startswith("!") else allow).append(value.removeprefix("!"))


def _leading_numbers(cells: Sequence[str]) -> list[float]:
    numbers: list[float] = []
    for cell in cells:
        if "_" in cell:  # Python reads 1_000 as a number
            break
        try:
            numbers.append(float(cell))
        except ValueError:
            break
    return numbers


def _csv_number(namespace: str, text: str) -> dict[str, object]:
    kind, digits = _CSV_TYPES.get(text[-1:]), text[:-1]
    if (
        kind is None
        or not _CSV_NUMBER.fullmatch(digits)
        or (kind == "value_int" and not re.fullmatch(r"[+-]?\d+", digits))
    ):
        raise RefusedRow(
            RejectCode.INVALID_NUMERIC_VALUE,
            f"#{namespace}={shown(text)[1:-1]} is no number; expected for example #{namespace}=3i, 0.1f or 0.3d",
        )
    value: int | float = float(digits)
    if kind == "value_int":
        value = int(digits) if len(digits) < 25 else 1 << 64
    return {"namespace": namespace, kind: value}


def _avro_records(path: Path, types: dict[str, NumericType]) -> Iterator[_Record]:
    import fastavro

    broken = (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error)
    n_bytes = path.stat().st_size
    row = 0
    with path.open("rb") as stream:
        try:
            blocks = fastavro.block_reader(stream)
            schema = blocks.writer_schema
        except (*broken, OSError) as error:
            raise InvalidCatalog(f"[read] {path} cannot be opened as Avro: {error}; write it again") from error
        fields = [field["name"] for field in schema.get("fields", ())] if isinstance(schema, dict) else []
        if "id" not in fields or "embedding" not in fields:
            raise InvalidCatalog(f"[read] {path} has the Avro fields {fields}; expected a record with id and embedding")
        while True:
            try:
                block = next(blocks, None)
            except Exception as error:  # decoders fail in their own ways: zlib, snappy, zstd
                raise InvalidCatalog(
                    f"[read] {path} is damaged after record {row}: {error!r}; write it again"
                ) from error
            if block is None:
                return
            end = min(stream.tell(), n_bytes)
            last = row + block.num_records
            try:
                for values in block:
                    yield _record(f"record {row}", end, values, types)
                    row += 1
            except broken as error:
                # The block's frame is intact, so exactly its remaining records are lost.
                for lost in range(row, last):
                    reason = f"the block cannot be decoded from record {row} on: {error!r}"
                    yield _Record(f"record {lost}", end, (None, RejectCode.INVALID_AVRO_SYNTAX, reason))
                row = last


_READERS: dict[str, Callable[[Path, dict[str, NumericType]], Iterator[_Record]]] = {
    ".json": _json_records,
    ".jsonl": _json_records,
    ".ndjson": _json_records,
    ".csv": _csv_records,
    ".avro": _avro_records,
}


# One record in Vertex's shape.


def _record(place: str, end: int, values: object, types: dict[str, NumericType]) -> _Record:
    """Check one record's shape; the vector's values are checked with its batch."""
    datapoint_id = None
    try:
        fields = _fields(values, _RECORD_KEYS, "a record")
        datapoint_id = _id(fields.get("id"))
        datapoint = Datapoint(
            datapoint_id,
            restricts=_restricts(fields.get("restricts")),
            numeric_restricts=_numeric_restricts(fields.get("numeric_restricts"), types),
            crowding_tag=_crowding_tag(fields.get("crowding_tag")),
            metadata=_metadata(fields.get("embedding_metadata")),
        )
        vector = _numbers(fields.get("embedding"), RejectCode.INVALID_EMBEDDING, "embedding")
        sparse = _sparse(fields.get("sparse_embedding"))
        if not len(vector) and sparse is None:
            raise RefusedRow(
                RejectCode.INVALID_EMBEDDING, "the record has neither embedding nor sparse_embedding; expected numbers"
            )
        return _Record(place, end, None, datapoint, vector if len(vector) else None, sparse)
    except RefusedRow as refused:
        return _Record(place, end, (datapoint_id, refused.code, refused.reason))


def _fields(values: object, keys: Mapping[str, tuple[str, ...]], what: str) -> dict[str, object]:
    """Return the values under their canonical keys; a null counts as absent, an unknown key is refused."""
    if not isinstance(values, Mapping):
        raise RefusedRow(RejectCode.PARSING_ERROR, f"{what} is {shown(values)}; expected an object")
    fields: dict[str, object] = {}
    for key, value in values.items():
        # Protobuf's JSON writes camelCase.
        snake = re.sub(r"[A-Z]", lambda capital: "_" + capital[0].lower(), str(key))
        name = next((name for name, spellings in keys.items() if snake in spellings), None)
        if name is None:
            known = [spelling for spellings in keys.values() for spelling in spellings]
            guess = nearest(str(key), tuple(keys)) or nearest(str(key), known)
            reason = f"{what} has the unknown key {shown(key)}{guess}; expected {', '.join(keys)}"
            raise RefusedRow(RejectCode.PARSING_ERROR, reason)
        if value is None:
            continue
        if name in fields:
            raise RefusedRow(RejectCode.PARSING_ERROR, f"{what} has {name!r} twice, in two spellings; keep one")
        fields[name] = value
    return fields


def _id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise RefusedRow(RejectCode.INVALID_EMBEDDING_ID, f"the id is {shown(value)}; expected a text")
    value = value.strip()
    if len(value.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise RefusedRow(RejectCode.INVALID_EMBEDDING_ID, f"the id has more than {MAX_ID_BYTES} bytes: {shown(value)}")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise RefusedRow(RejectCode.INVALID_EMBEDDING_ID, f"the id holds control characters: {shown(value)}")
    return value


def _numbers(values: object, code: RejectCode, what: str) -> NDArray[np.float64]:
    if values is None:
        return np.empty(0)
    if not isinstance(values, (list, tuple)):
        raise RefusedRow(code, f"{what} is {shown(values)}; expected a list of numbers")
    if len(values) > MAX_DIM:
        raise RefusedRow(code, f"{what} has {len(values):,} values; expected at most {MAX_DIM:,}")
    wrong = set(map(type, values)) - {int, float}
    if wrong:
        at, value = next((at, value) for at, value in enumerate(values) if type(value) in wrong)
        raise RefusedRow(code, f"value {at} of {what} is {shown(value)}; expected a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise RefusedRow(code, f"{what} holds a whole number beyond float64") from error


def _sparse(values: object) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    if values is None:
        return None
    fields = _fields(values, _SPARSE_KEYS, "sparse_embedding")
    weights = _numbers(fields.get("values"), RejectCode.INVALID_SPARSE_EMBEDDING, "sparse_embedding.values")
    dimensions = fields.get("dimensions", [])
    if not isinstance(dimensions, (list, tuple)) or any(
        type(dim) is not int or not 0 <= dim < 1 << 63 for dim in dimensions
    ):
        reason = f"sparse dimensions are {shown(dimensions)}; expected whole numbers from 0 to 2^63 - 1"
        raise RefusedRow(RejectCode.INVALID_SPARSE_DIMENSIONS, reason)
    if len(dimensions) != len(weights):
        reason = f"{len(weights)} sparse values and {len(dimensions)} dimensions; expected as many of each"
        raise RefusedRow(RejectCode.INVALID_SPARSE_EMBEDDING, reason)
    if len(set(dimensions)) != len(dimensions):
        twice = next(dim for dim, n in Counter(dimensions).items() if n > 1)
        raise RefusedRow(
            RejectCode.INVALID_SPARSE_DIMENSIONS, f"sparse dimension {twice} comes twice; expected each once"
        )
    if len(weights) and not float(np.abs(weights).max()) <= MAX_ABS:
        reason = (
            f"sparse values go up to {float(np.abs(weights).max()):g}; expected finite numbers of at most {MAX_ABS:g}"
        )
        raise RefusedRow(RejectCode.INVALID_SPARSE_EMBEDDING, reason)
    if not len(weights):
        return None
    order = np.argsort(np.array(dimensions, dtype=np.int64))
    return np.array(dimensions, dtype=np.int64)[order], weights[order].astype(np.float32)


def _sparse_rows(sides: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]] | None]) -> SparseRows | None:
    if not any(sides):
        return None
    lengths = [0 if side is None else len(side[0]) for side in sides]
    return SparseRows(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([side[0] for side in sides if side is not None]),
        np.concatenate([side[1] for side in sides if side is not None]),
    )


def _list(values: object, what: str) -> Sequence[object]:
    if values is None:
        return ()
    if not isinstance(values, (list, tuple)):
        raise RefusedRow(RejectCode.PARSING_ERROR, f"{what} is {shown(values)}; expected a list")
    return values


def _namespace(fields: Mapping[str, object], taken: set[str]) -> str:
    namespace = fields.get("namespace")
    if not isinstance(namespace, str) or not namespace:
        raise RefusedRow(RejectCode.NAMESPACE_MISSING, f"the namespace is {shown(namespace)}; expected a text")
    if namespace in taken:
        raise RefusedRow(RejectCode.DUPLICATE_NAMESPACE, f"namespace {namespace!r} comes twice; expected it once")
    taken.add(namespace)
    return namespace


def _restricts(values: object) -> tuple[Restrict, ...]:
    taken: set[str] = set()
    restricts = []
    for entry in _list(values, "restricts"):
        fields = _fields(entry, _RESTRICT_KEYS, "a restrict")
        namespace = _namespace(fields, taken)
        tokens = {}
        for side in ("allow", "deny"):
            tokens[side] = tuple(dict.fromkeys(_token(token, namespace) for token in _list(fields.get(side), side)))
        restricts.append(Restrict(namespace, tokens["allow"], tokens["deny"]))
    return tuple(restricts)


def _token(value: object, namespace: str) -> str:
    if not isinstance(value, str) or not value:
        raise RefusedRow(RejectCode.INVALID_TOKEN_VALUE, f"a token of {namespace!r} is {shown(value)}; expected a text")
    return value


def _numeric_restricts(values: object, types: dict[str, NumericType]) -> tuple[NumericRestrict, ...]:
    taken: set[str] = set()
    restricts = []
    for entry in _list(values, "numeric_restricts"):
        fields = _fields(entry, _NUMERIC_KEYS, "a numeric restrict")
        namespace = _namespace(fields, taken)
        if "op" in fields:
            reason = (
                f"{namespace!r} has the op {shown(fields['op'])}; an op belongs to a query, a datapoint has a value"
            )
            raise RefusedRow(RejectCode.OP_IN_DATAPOINT, reason)
        given = [name for name in _TYPES if name in fields]
        if len(given) > 1:
            raise RefusedRow(
                RejectCode.MULTIPLE_VALUES, f"{namespace!r} has {' and '.join(given)}; expected one of them"
            )
        if not given:
            reason = f"{namespace!r} has no value; expected one of {', '.join(_TYPES)}"
            raise RefusedRow(RejectCode.INVALID_NUMERIC_VALUE, reason)
        kind = _TYPES[given[0]]
        restricts.append(NumericRestrict(namespace, _number(fields[given[0]], kind, namespace), kind))
        if types.setdefault(namespace, kind) != kind:
            reason = f"{namespace!r} is {kind} here and {types[namespace]} before; expected one type a namespace"
            raise RefusedRow(RejectCode.INVALID_NUMERIC_VALUE, reason)
    return tuple(restricts)


def _number(value: object, kind: NumericType, namespace: str) -> int | float:
    if kind == "int64":
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value):
            value = int(value)  # protobuf's JSON writes int64 as a text
        if type(value) is int and -(1 << 63) <= value < 1 << 63:
            return value
        raise RefusedRow(
            RejectCode.INVALID_NUMERIC_VALUE, f"{namespace!r} is {shown(value)}; expected a whole number of 64 bits"
        )
    if type(value) in (int, float):
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:
            number = math.inf
        if abs(number) <= (_FLOAT32_MAX if kind == "float32" else math.inf) and math.isfinite(number):
            return number
    raise RefusedRow(RejectCode.INVALID_NUMERIC_VALUE, f"{namespace!r} is {shown(value)}; expected a finite {kind}")


def _crowding_tag(value: object) -> str | None:
    if isinstance(value, Mapping):  # the public API nests it
        value = _fields(value, {"crowding_attribute": ("crowding_attribute",)}, "crowding_tag").get(
            "crowding_attribute"
        )
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # the private endpoint counts by int64
    if value is not None and not isinstance(value, str):
        raise RefusedRow(RejectCode.PARSING_ERROR, f"crowding_tag is {shown(value)}; expected a text")
    return value or None


def _metadata(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RefusedRow(RejectCode.PARSING_ERROR, f"embedding_metadata is {shown(value)}; expected an object")
    return {str(key): json_cell(part, str(key), None) for key, part in value.items()}


# Arrays.


def _npy(path: Path) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InvalidCatalog(
            f"[read] {path} cannot be opened as .npy: {error}; write it again with numpy.save"
        ) from error
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32, np.float64):
        raise InvalidCatalog(
            f"[read] {path} is {array.dtype}{list(array.shape)}; expected float16, float32 or float64 with two axes"
        )
    return array


def _ids_file(path: Path) -> Path | None:
    """Return the file that names the rows of a .npy file, if there is one."""
    alone = len([other for other in path.parent.glob("*.npy") if not other.name.endswith("ids.npy")]) == 1
    names = [path.name.removesuffix(".npy") + ending for ending in (".ids.txt", ".ids.npy")]
    names += ["ids.txt", "ids.npy"] if alone else []
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def _npy_ids(path: Path, n: int) -> Iterator[object]:
    if path.suffix == ".npy":
        try:
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InvalidCatalog(
                f"[read] {path} cannot be opened as .npy: {error}; expected texts or integers"
            ) from error
        if ids.ndim != 1 or ids.dtype.kind not in "Uiu":
            raise InvalidCatalog(
                f"[read] {path} is {ids.dtype}{list(ids.shape)}; expected texts or integers on one axis"
            )
        n_ids, found = len(ids), (value.item() for value in ids)
    else:
        n_ids, found = sum(1 for _ in read_lines(path)), (line.text for line in read_lines(path))
    if n_ids != n:
        raise InvalidCatalog(f"[read] {path} has {n_ids:,} ids for {n:,} vectors; expected one for each")
    return found


def _npy_records(path: Path, ids: Path | None, first: int) -> Iterator[_Record]:
    array = _npy(path)
    n, dim = array.shape
    width = array.dtype.itemsize * dim
    names = iter(range(first, first + n)) if ids is None else _npy_ids(ids, n)
    # Plain reads: pages of a memory map would count as this process's memory.
    step = max(1, (4 << 20) // max(width, 1))
    with path.open("rb") as stream:
        stream.seek(array.offset)
        for start in range(0, n, step):
            m = min(step, n - start)
            if array.flags.c_contiguous:
                block = np.fromfile(stream, array.dtype, m * dim).reshape(m, dim)
            else:
                block = np.array(array[start : start + m])
            for row, (vector, name) in enumerate(zip(block, names, strict=False), start=start):
                end = array.offset + (row + 1) * width
                try:
                    datapoint = Datapoint(_id(name))
                except RefusedRow as refused:
                    yield _Record(f"row {row}", end, (None, refused.code, refused.reason))
                else:
                    yield _Record(f"row {row}", end, None, datapoint, _wide(vector))


def _wide(vector: NDArray[Any]) -> NDArray[Any]:
    """Return float16 and integers as float32 and float64, in which the limits can be compared."""
    if vector.dtype in (np.float32, np.float64):
        return vector
    return vector.astype(np.float32 if vector.dtype == np.float16 else np.float64)


_ID_COLUMNS = ("id", "datapoint_id", "product_id", "item_id")
_VECTOR_COLUMNS = ("embedding", "vector", "feature_vector", "embeddings", "vectors", "emb")


def _parquet_records(path: Path, restricts: Sequence[str] | None, types: dict[str, NumericType]) -> Iterator[_Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_bytes = path.stat().st_size
    row = 0
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as parquet:
            schema = parquet.schema_arrow
            id_column, vector_column = _vector_columns(path, schema)
            shaped = [name for name in schema.names if name in _RECORD_KEYS and name not in (id_column, vector_column)]
            plain = [name for name in schema.names if name not in (id_column, vector_column, *shaped)]
            facets = _parquet_facets(path, parquet, plain, restricts)
            n_rows = max(parquet.metadata.num_rows, 1)
            for batch in parquet.iter_batches(1024, use_threads=False):
                vectors = _arrow_vectors(batch.column(vector_column))
                columns = {name: arrow_cells(batch.column(name)) for name in (id_column, *shaped, *plain)}
                for n in range(batch.num_rows):
                    values = {name: cells[n] for name, cells in columns.items()}
                    place, end = f"row {row}", n_bytes * (row + 1) // n_rows
                    yield _parquet_record(place, end, values, vectors[n], id_column, shaped, plain, facets, types)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise InvalidCatalog(
            f"[read] {path} cannot be read as Parquet after row {row}: {error}; write it again"
        ) from error


def _vector_columns(path: Path, schema: Any) -> tuple[str, str]:
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    lists = [
        field.name
        for field in schema
        if any(is_kind(field.type) for is_kind in kinds)
        and (pa.types.is_floating(field.type.value_type) or pa.types.is_integer(field.type.value_type))
    ]
    vector_column = next((name for name in _VECTOR_COLUMNS if name in lists), lists[0] if len(lists) == 1 else None)
    id_column = next((name for name in _ID_COLUMNS if name in schema.names), None)
    if vector_column is None or id_column is None:
        raise InvalidCatalog(
            f"[read] {path} has the columns {schema.names}; expected an id column ({', '.join(_ID_COLUMNS)}) and a column of "
            f"lists of numbers ({', '.join(_VECTOR_COLUMNS)})"
        )
    return id_column, vector_column


def _parquet_facets(path: Path, parquet: Any, plain: Sequence[str], restricts: Sequence[str] | None) -> Facets:
    survey = FacetSurvey()
    if plain:
        for batch in parquet.iter_batches(8192, columns=list(plain), use_threads=False):
            cells = [arrow_cells(batch.column(name)) for name in plain]
            for values in zip(*cells, strict=True):
                survey.add(dict(zip(plain, values, strict=True)))
    found = survey.facets()
    if restricts is None:
        return found
    for name in restricts:
        if name not in plain:
            raise InvalidCatalog(
                f"[open vectors] {path} has no column {name!r}{nearest(name, plain)}; its columns are {', '.join(plain)}"
            )
    return Facets(tuple(restricts), tuple(name for name in found.numbers if name not in restricts))


def _arrow_vectors(column: Any) -> list[NDArray[np.float64] | NDArray[np.float32] | None]:
    """Return each list of an Arrow list column; a null inside a list becomes NaN."""
    import pyarrow as pa

    values = _wide(column.values.to_numpy(zero_copy_only=False))
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        starts = (np.arange(len(column)) + column.offset) * size
        stops = starts + size
    else:
        offsets = column.offsets.to_numpy()
        starts, stops = offsets[:-1], offsets[1:]
    there = column.is_valid().to_numpy(zero_copy_only=False)
    return [values[start:stop] if valid else None for start, stop, valid in zip(starts, stops, there, strict=True)]


def _parquet_record(
    place: str,
    end: int,
    values: Mapping[str, object],
    vector: NDArray[np.float64] | NDArray[np.float32] | None,
    id_column: str,
    shaped: Sequence[str],
    plain: Sequence[str],
    facets: Facets,
    types: dict[str, NumericType],
) -> _Record:
    datapoint_id = None
    try:
        bad = next((name for name, value in values.items() if value is NOT_TEXT), None)
        if bad is not None:
            raise RefusedRow(RejectCode.INVALID_ENCODING, f"column {bad!r} is not UTF-8")
        datapoint_id = _id(values[id_column])
        given = {name: values[name] for name in shaped}
        sparse = _sparse(given.get("sparse_embedding"))
        if vector is None or not len(vector):
            vector = None
            if sparse is None:
                raise RefusedRow(
                    RejectCode.INVALID_EMBEDDING, "the row has neither embedding nor sparse_embedding; expected numbers"
                )
        elif len(vector) > MAX_DIM:
            raise RefusedRow(RejectCode.INVALID_EMBEDDING, f"{len(vector):,} values; expected at most {MAX_DIM:,}")
        own = {name: values[name] for name in plain if values[name] is not None}
        other = {name: json_cell(value, name, None) for name, value in own.items()}
        tokens = _restricts(given.get("restricts"))
        numbers = _numeric_restricts(given.get("numeric_restricts"), types)
        taken = {restrict.namespace for restrict in tokens} | {number.namespace for number in numbers}
        datapoint = Datapoint(
            datapoint_id,
            tokens + tuple(restrict for restrict in facets.restricts_of(other) if restrict.namespace not in taken),
            numbers + tuple(number for number in facets.numeric_restricts_of(other) if number.namespace not in taken),
            _crowding_tag(given.get("crowding_tag")),
            {**other, **_metadata(given.get("embedding_metadata"))},
        )
        return _Record(place, end, None, datapoint, vector, sparse)
    except RefusedRow as refused:
        return _Record(place, end, (datapoint_id, refused.code, refused.reason))


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
