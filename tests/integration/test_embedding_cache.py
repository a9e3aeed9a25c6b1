"""The embedding cache: shared, damaged, killed."""

from __future__ import annotations

import hashlib
import multiprocessing
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from embeddings import EmbeddingCache
from matching.errors import CorruptArtifact, InvalidInput, Unavailable

DIM = 6


def digests(*names: object) -> list[bytes]:
    return [hashlib.sha256(str(name).encode()).digest() for name in names]


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def test_what_was_stored_is_found_by_content_and_encoder(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "deep" / "cache.sqlite") as cache:
        vectors = rows(3)
        cache.store("space", digests("a", "b", "c"), vectors)
        got, found = cache.lookup("space", digests("c", "x", "a"), DIM)
        assert found.tolist() == [True, False, True]
        np.testing.assert_array_equal(got[[0, 2]], vectors[[2, 0]])
        assert not got[1].any()
        assert not cache.lookup("other space", digests("a", "b", "c"), DIM)[1].any()
        assert not cache.lookup("space", digests("a"), DIM + 1)[1].any()
        assert len(cache) == 3
        assert cache.lookup("space", [], DIM)[0].shape == (0, DIM)


def test_it_lasts(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        cache.store("space", digests("a"), rows(1))
        cache.store("space", digests("a"), rows(1, seed=2))
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        got, found = cache.lookup("space", digests("a"), DIM)
        assert found.all()
        np.testing.assert_array_equal(got, rows(1, seed=2))
        assert len(cache) == 1


@pytest.mark.parametrize("column", ["vector", "crc", "key"])
def test_a_flipped_bit_makes_the_row_absent_and_storing_heals_it(tmp_path: Path, column: str) -> None:
    path = tmp_path / "cache.sqlite"
    with EmbeddingCache(path) as cache:
        cache.store("space", digests("a", "b"), rows(2))
    connection = sqlite3.connect(path)
    key, blob, crc = connection.execute("SELECT key, vector, crc FROM vectors").fetchone()
    flipped: object = crc ^ 1
    if column != "crc":
        data = bytearray(blob if column == "vector" else key)
        data[5] ^= 4
        flipped = bytes(data)
    connection.execute(f"UPDATE vectors SET {column} = ? WHERE key = ?", (flipped, key))
    connection.commit()
    connection.close()
    with EmbeddingCache(path) as cache:
        assert cache.lookup("space", digests("a", "b"), DIM)[1].sum() == 1
        cache.store("space", digests("a", "b"), rows(2))
        got, found = cache.lookup("space", digests("a", "b"), DIM)
        assert found.all()
        np.testing.assert_array_equal(got, rows(2))


def test_every_flipped_byte_of_a_vector_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with EmbeddingCache(path) as cache:
        cache.store("space", digests("a"), rows(1))
    blob = rows(1).tobytes()
    data = path.read_bytes()
    at = data.index(blob)
    for offset in range(len(blob)):
        damaged = bytearray(data)
        damaged[at + offset] ^= 0x10
        path.write_bytes(damaged)
        with EmbeddingCache(path) as cache:
            assert not cache.lookup("space", digests("a"), DIM)[1].any(), f"byte {offset}"


def test_a_file_that_is_no_cache_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"not a database, and long enough to be looked at" * 100)
    with pytest.raises(CorruptArtifact, match=r"\[embedding cache\] .*remove it and the vectors are computed again"):
        EmbeddingCache(path)


def test_a_damaged_file_is_refused_and_never_wrong(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    names = [str(n) for n in range(400)]
    with EmbeddingCache(path) as cache:
        cache.store("space", digests(*names), rows(400))
    whole = path.read_bytes()
    rng = np.random.default_rng(4)
    for _ in range(20):
        damaged = bytearray(whole)
        begin = int(rng.integers(100, len(whole) - 600))
        damaged[begin : begin + 500] = rng.bytes(500)
        path.write_bytes(damaged)
        for extra in ("-wal", "-shm"):
            path.with_name(path.name + extra).unlink(missing_ok=True)
        try:
            with EmbeddingCache(path) as cache:
                got, found = cache.lookup("space", digests(*names), DIM)
        except CorruptArtifact:
            continue
        np.testing.assert_array_equal(got[found], rows(400)[found])


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    EmbeddingCache(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(InvalidInput, match="has format 2; expected at most 1"):
        EmbeddingCache(path)


def test_a_closed_cache_says_so(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    cache.close()
    cache.close()
    with pytest.raises(Unavailable, match="is closed"):
        cache.lookup("space", digests("a"), DIM)


def _write_many(path: Path, worker: int) -> None:
    with EmbeddingCache(path) as cache:
        for n in range(40):
            cache.store("space", digests(*(f"{worker}-{n}-{i}" for i in range(5)), f"shared-{n}"), rows(6, seed=n))


def test_threads_and_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    cache = EmbeddingCache(path)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(path, worker)) for worker in range(2)]
    failed: list[BaseException] = []

    def read_and_write(worker: int) -> None:
        try:
            for n in range(40):
                names = [f"thread-{worker}-{n}-{i}" for i in range(5)]
                cache.store("space", digests(*names), rows(5, seed=worker))
                got, found = cache.lookup("space", digests(*names), DIM)
                assert found.all()
                np.testing.assert_array_equal(got, rows(5, seed=worker))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read_and_write, args=(worker,)) for worker in range(4)]
    for runner in (*processes, *threads):
        runner.start()
    for runner in (*processes, *threads):
        runner.join()
    assert failed == []
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(cache) == 2 * 40 * 5 + 40 + 4 * 40 * 5
    names = [f"{worker}-{n}-{i}" for worker in range(2) for n in range(40) for i in range(5)]
    assert cache.lookup("space", digests(*names), DIM)[1].all()
    cache.close()


def test_storing_is_all_or_nothing(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        with pytest.raises(ValueError, match="zip"):
            cache.store("space", digests("a", "b"), rows(1))
        assert len(cache) == 0
