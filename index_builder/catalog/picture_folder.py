"""The folder of a catalogue's pictures: which may be read, and which belong to which product."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from index_builder.catalog.rejects import RejectCode
from matching.errors import InvalidCatalog, InvalidContent

PICTURE_TABLE = "images.parquet"
ROLE_ORDER = {"main": 0, "alt": 1, "gallery": 2}  # any other role, `query` first of all, is not a catalogue picture
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_CHUNK = 500


class PictureFolder:
    """Pictures below one folder, read by relative path and never from outside of it. Not thread-safe.

    Where the folder holds a table `images.parquet` with the columns product_id, image_path and role, the pictures of
    role main, alt and gallery belong to their product, in that order. The table is kept in a temporary SQLite file, so
    memory does not grow with it.
    """

    def __init__(self, root: str | os.PathLike[str], *, max_picture_bytes: int = 20 << 20) -> None:
        """Open a folder.

        Raises:
            InvalidCatalog: it is not a folder, or its picture table lacks a column.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise InvalidCatalog(
                f"[pictures] {self.root} is not a folder; expected the folder that picture paths start from"
            )
        self.max_picture_bytes = max_picture_bytes
        self._real_root = os.path.realpath(self.root)
        self.table = self.root / PICTURE_TABLE
        self._db = _load_table(self.table) if self.table.is_file() else None

    def listed(self, product_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the paths that the picture table lists for these products; a product without one is absent."""
        found: dict[str, list[tuple[int, int, str]]] = {}
        if self._db is not None:
            for start in range(0, len(product_ids), _CHUNK):
                chunk = product_ids[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                query = f"SELECT product_id, role, row, path FROM picture WHERE product_id IN ({marks})"  # noqa: S608
                for product_id, role, row, path in self._db.execute(query, chunk):
                    found.setdefault(product_id, []).append((role, row, path))
        return {product_id: [path for _, _, path in sorted(rows)] for product_id, rows in found.items()}

    def check(self, path: str) -> tuple[RejectCode, str] | None:
        """Return why the picture at `path` cannot be taken, or None when it can. Opens nothing, decodes nothing."""
        shown = repr(path if len(path) <= 200 else path[:200] + "...")
        if _SCHEME.match(path) and not re.match(r"^[A-Za-z]:[\\/]", path):
            return RejectCode.PICTURE_OUTSIDE, f"{shown} is an address; pictures are read from files: download it first"
        if not path or "\0" in path or path.startswith(("/", "\\", "~")) or _SCHEME.match(path):
            return (
                RejectCode.PICTURE_OUTSIDE,
                f"{shown} is not a relative path; expected one that starts below the images folder",
            )
        if ".." in re.split(r"[\\/]", path):
            return RejectCode.PICTURE_OUTSIDE, f"{shown} steps out with '..'; expected a path below the images folder"
        try:
            real = os.path.realpath(self.root / path)
            if os.path.commonpath((real, self._real_root)) != self._real_root:
                return RejectCode.PICTURE_OUTSIDE, f"{shown} leads out of the images folder through a link"
            status = Path(real).stat()
        except (OSError, ValueError) as error:
            return RejectCode.PICTURE_MISSING, f"{shown} does not exist{self._hint(path)}" if isinstance(
                error, FileNotFoundError
            ) else f"{shown} cannot be read: {error}"
        if not stat.S_ISREG(status.st_mode):
            return RejectCode.PICTURE_MISSING, f"{shown} is not a regular file"
        if status.st_size == 0:
            return RejectCode.PICTURE_UNDECODABLE, f"{shown} is empty"
        if status.st_size > self.max_picture_bytes:
            return (
                RejectCode.PICTURE_TOO_LARGE,
                f"{shown} has {status.st_size:,} bytes; expected at most {self.max_picture_bytes:,}",
            )
        return None

    def read(self, path: str) -> bytes:
        """Return the bytes of one picture, checked again: files change between check and use.

        Raises:
            InvalidContent: it cannot be taken, by the rules of `check`.
        """
        problem = self.check(path)
        if problem is None:
            try:
                with (self.root / path).open("rb") as stream:
                    data = stream.read(self.max_picture_bytes + 1)
            except OSError as error:
                problem = RejectCode.PICTURE_MISSING, f"{path!r} cannot be read: {error}"
            else:
                if len(data) <= self.max_picture_bytes:
                    return data
                problem = RejectCode.PICTURE_TOO_LARGE, f"{path!r} grew over {self.max_picture_bytes:,} bytes"
        raise InvalidContent(f"[pictures] {problem[1]}")

    def close(self) -> None:
        """Drop the picture table."""
        if self._db is not None:
            self._db.close()

    def _hint(self, path: str) -> str:
        # The commonest slip: paths begin with the folder's own name.
        if Path(path).parts[0] == self.root.name and (self.root.parent / path).is_file():
            return f" below {self.root}, but below its parent it does: give {self.root.parent} as the images folder"
        return f" below {self.root}"


def _load_table(table: Path) -> sqlite3.Connection:
    db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -8192")
    db.execute("CREATE TABLE picture (product_id TEXT, role INTEGER, row INTEGER, path TEXT)")
    db.execute("BEGIN")
    try:
        db.executemany("INSERT INTO picture VALUES (?, ?, ?, ?)", _table_rows(table))
    except BaseException:
        db.close()
        raise
    db.execute("CREATE INDEX of_product ON picture (product_id)")
    return db


def _table_rows(table: Path) -> Iterator[tuple[str, int, int, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    needed = ["product_id", "image_path", "role"]
    try:
        with pq.ParquetFile(table, buffer_size=1 << 20, pre_buffer=False) as parquet:
            missing = [name for name in needed if name not in parquet.schema_arrow.names]
            if missing:
                raise InvalidCatalog(f"[pictures] {table} lacks the columns {missing}; expected {needed}")
            row = 0
            for batch in parquet.iter_batches(8192, columns=needed):
                for record in batch.to_pylist():
                    role = ROLE_ORDER.get(record["role"])
                    if role is not None and record["product_id"] is not None and record["image_path"] is not None:
                        yield str(record["product_id"]), role, row, str(record["image_path"])
                    row += 1
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InvalidCatalog(f"[pictures] {table} cannot be read as Parquet: {error}") from error
