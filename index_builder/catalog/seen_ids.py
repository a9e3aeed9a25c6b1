"""Ids already met in a stream, on disk: the memory it takes does not grow with the stream."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from types import TracebackType

CACHE_BYTES = 16 << 20
_CHUNK = 500  # below SQLite's oldest limit of 999 variables a statement


class SeenIds:
    """Tells which ids of a stream came before, and where.

    Ids are kept as 128-bit digests in a private temporary SQLite database that lives in a page cache of `CACHE_BYTES`
    and spills to SQLite's temporary folder (`SQLITE_TMPDIR`, else /var/tmp or /tmp). Not thread-safe.
    """

    def __init__(self) -> None:
        # Sharing between threads is safe as long as calls do not overlap: a batch may be made in a reading thread.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(f"PRAGMA cache_size = -{CACHE_BYTES >> 10}")
        self._db.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, ids: Sequence[str], places: Sequence[str]) -> list[str | None]:
        """Remember a batch; return for each id the place where it was first met, or None when that is here."""
        digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in ids]
        first: dict[bytes, str] = {}
        for start in range(0, len(digests), _CHUNK):
            chunk = digests[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            # Only question marks are pasted in; the values are bound.
            query = f"SELECT digest, place FROM seen WHERE digest IN ({marks})"  # noqa: S608
            first.update(self._db.execute(query, chunk))
        answer: list[str | None] = []
        new: list[tuple[bytes, str]] = []
        for digest, place in zip(digests, places, strict=True):
            answer.append(first.get(digest))
            if digest not in first:
                first[digest] = place
                new.append((digest, place))
        new.sort()
        self._db.executemany("INSERT INTO seen VALUES (?, ?)", new)
        return answer

    def close(self) -> None:
        """Drop everything."""
        self._db.close()

    def __enter__(self) -> SeenIds:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
