"""Vectors already computed, by what they were computed from.

One SQLite file in write-ahead mode. The key is SHA-256 over the content's digest and the encoder's `vector_id`: a renamed
product or a second catalogue with the same picture costs nothing, and another encoder never sees these vectors. Each vector
carries a CRC-32 over key and bytes; a row that fails it counts as absent and is written again.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from matching.errors import CorruptArtifact, InvalidInput, Unavailable

_FORMAT = 1
_BUSY_S = 60.0


class EmbeddingCache:
    """Vectors on disk by content and encoder. Thread-safe; several processes may share one file.

    A vector is there after `store` returned, whatever happens to the process. After a loss of power the last ones may be missing,
    never wrong.

    Args:
        path: the SQLite file, made with its folder where it is missing.

    Raises:
        CorruptArtifact: the file is no cache, or a damaged one.
        InvalidInput: it was written by a newer release.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.DatabaseError as error:
            raise self._corrupt(error) from error
        self._connection = connection

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        with self._lock:
            return int(self._open().execute("SELECT count(*) FROM vectors").fetchone()[0])

    def lookup(
        self, vector_id: str, digests: Sequence[bytes], dim: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return float32[n, dim] and bool[n]: the vectors found, and which those are; the rest is zero.

        Raises:
            CorruptArtifact: the file is damaged beyond single rows.
            Unavailable: the cache is closed.
        """
        vectors = np.zeros((len(digests), dim), np.float32)
        found = np.zeros(len(digests), bool)
        with self._lock:
            connection = self._open()
            try:
                for row, digest in enumerate(digests):
                    key = _key(vector_id, digest)
                    held = connection.execute("SELECT vector, crc FROM vectors WHERE key = ?", (key,)).fetchone()
                    if held is not None and _is_whole(key, held[0], held[1], dim):
                        vectors[row] = np.frombuffer(held[0], "<f4")
                        found[row] = True
            except sqlite3.DatabaseError as error:
                raise self._corrupt(error) from error
        return vectors, found

    def store(self, vector_id: str, digests: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Keep vectors float32[n, dim] for n contents, all of them or none.

        Raises:
            CorruptArtifact: the file is damaged, or the disk is full.
            Unavailable: the cache is closed.
        """
        rows = []
        for digest, vector in zip(digests, np.ascontiguousarray(vectors, "<f4"), strict=True):
            key, blob = _key(vector_id, digest), vector.tobytes()
            rows.append((key, blob, zlib.crc32(blob, zlib.crc32(key))))
        with self._lock:
            connection = self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    connection.executemany("INSERT OR REPLACE INTO vectors (key, vector, crc) VALUES (?, ?, ?)", rows)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise self._corrupt(error) from error

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable(f"[embedding cache] {self._path} is closed; expected an open cache; open it again")
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL, crc INTEGER NOT NULL)"
            )
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
        connection.execute("COMMIT")
        if version > _FORMAT:
            raise InvalidInput(
                f"[embedding cache] {self._path} has format {version}; expected at most {_FORMAT}; use the release that wrote "
                "it, or another file"
            )

    def _corrupt(self, error: sqlite3.DatabaseError) -> CorruptArtifact:
        return CorruptArtifact(
            f"[embedding cache] {self._path} failed: {error}; expected a sound SQLite file on a disk with room; if it is "
            "damaged, remove it and the vectors are computed again"
        )


def _key(vector_id: str, digest: bytes) -> bytes:
    return hashlib.sha256(vector_id.encode() + b"|" + digest).digest()


def _is_whole(key: bytes, blob: object, crc: object, dim: int) -> bool:
    return isinstance(blob, bytes) and len(blob) == 4 * dim and zlib.crc32(blob, zlib.crc32(key)) == crc
