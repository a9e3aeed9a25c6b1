"""Streams of contents into vectors: order, repeats, failures, overlap, and runs that are killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embeddings import Content, Embedded, EmbeddingCache, Failure, FusedEncoder, ImageEncoder, TextEncoder, embed
from embeddings.encoder import Decoded
from embeddings.pipeline import CHUNK
from matching.errors import CorruptArtifact, InvalidContent
from tests.models import picture

pytest.importorskip("onnxruntime")
pytest.importorskip("torch", reason="the models are exported with torch")


class Counting(TextEncoder):
    """The text encoder, and how often each text was encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def encode_decoded(self, decoded: Sequence[Decoded]) -> NDArray[np.float32]:
        self.seen.update(str(text) for text in decoded)
        return super().encode_decoded(decoded)


@pytest.fixture
def encoder() -> Counting:
    return Counting()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(tmp_path / "cache.sqlite") as made:
        yield made


def texts(*names: str) -> list[Content]:
    return [Content(name) for name in names]


def run(
    batches: Sequence[Sequence[Content]], encoder: TextEncoder, cache: EmbeddingCache | None, chunk: int = CHUNK
) -> list[Embedded]:
    return list(embed(iter(batches), encoder, cache=cache, chunk=chunk))


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_rows_come_in_order_with_their_positions(encoder: Counting, cache: EmbeddingCache, chunk: int) -> None:
    batches = [texts("a", "b", "c", "d", "e"), [], texts("f"), texts("g", "h", "i", "j")]
    done = run(batches, encoder, cache, chunk)
    assert [part.positions.tolist() for part in done] == [[0, 1, 2, 3, 4], [], [0], [0, 1, 2, 3]]
    for part, batch in zip(done, batches, strict=True):
        assert part.vectors.shape == (len(batch), 384)
        np.testing.assert_allclose(part.vectors, encoder.encode(batch), atol=2e-5)


@pytest.mark.parametrize("chunk", [2, 256])
def test_identical_contents_are_encoded_once_and_counted(encoder: Counting, cache: EmbeddingCache, chunk: int) -> None:
    batches = [texts("a", "b", "a", "a", "b"), texts("b", "c", "c", "a"), texts("a")]
    done = run(batches, encoder, cache, chunk)
    assert encoder.seen == Counter("abc")
    assert sum(part.n_encoded for part in done) == 3
    assert sum(part.n_cached for part in done) == 7
    first = done[0].vectors
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(done[2].vectors[0], first[0])


def test_a_second_run_encodes_nothing_and_gives_the_same_bytes(encoder: Counting, cache: EmbeddingCache) -> None:
    batches = [texts(*(f"item {n}" for n in range(begin, begin + 50))) for begin in (0, 50)]
    first = run(batches, encoder, cache, 16)
    encoder.seen.clear()
    second = run(batches, encoder, cache, 40)
    assert not encoder.seen
    assert [part.n_cached for part in second] == [50, 50]
    for one, two in zip(first, second, strict=True):
        assert one.vectors.tobytes() == two.vectors.tobytes()


def test_fitting_the_sparse_side_keeps_the_cached_vectors(cache: EmbeddingCache) -> None:
    encoder = TextEncoder()
    run([texts("a", "b")], encoder, cache)
    assert [part.n_cached for part in run([texts("a", "b")], encoder.fit(["a", "b"]), cache)] == [2]


def test_without_a_cache_repeats_within_a_chunk_are_still_encoded_once(encoder: Counting) -> None:
    (done,) = run([texts("a", "a", "b")], encoder, None)
    assert encoder.seen == Counter("ab")
    assert done.positions.tolist() == [0, 1, 2]


def test_what_cannot_be_encoded_is_told_with_its_place(encoder: Counting, cache: EmbeddingCache) -> None:
    batches = [[Content("a"), Content(" "), Content(image=b"x"), Content("b"), Content(" ")], [Content(" ")]]
    first, second = run(batches, encoder, cache, 2)
    assert first.positions.tolist() == [0, 3]
    assert [failure.position for failure in first.failures] == [1, 2, 4]
    assert "blank" in first.failures[0].reason
    assert "has no text" in first.failures[1].reason
    assert second.vectors.shape == (0, 384)
    assert [failure.position for failure in second.failures] == [0]
    assert isinstance(second.failures[0], Failure)
    assert len(cache) == 2


def test_a_damaged_row_is_embedded_again(encoder: Counting, tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with EmbeddingCache(path) as cache:
        (before,) = run([texts("a", "b", "c")], encoder, cache)
    connection = sqlite3.connect(path)
    key, blob = connection.execute("SELECT key, vector FROM vectors LIMIT 1").fetchone()
    connection.execute("UPDATE vectors SET vector = ? WHERE key = ?", (bytes([blob[0] ^ 1]) + blob[1:], key))
    connection.commit()
    connection.close()
    encoder.seen.clear()
    with EmbeddingCache(path) as cache:
        (after,) = run([texts("a", "b", "c")], encoder, cache)
        assert sum(encoder.seen.values()) == 1
        np.testing.assert_allclose(after.vectors, before.vectors, atol=2e-5)
        (healed,) = run([texts("a", "b", "c")], encoder, cache)
        assert healed.n_cached == 3


def test_pictures_and_pairs_go_through_the_same_stream(cache: EmbeddingCache) -> None:
    image = ImageEncoder(n_workers=2)
    fused = FusedEncoder(TextEncoder(), image)
    try:
        contents = [Content(image=picture(n)) for n in range(5)] + [Content(image=b"broken"), Content(image=picture(0))]
        (done,) = embed([contents], image, cache=cache, chunk=3)
        assert done.positions.tolist() == [0, 1, 2, 3, 4, 6]
        np.testing.assert_allclose(done.vectors[:5], image.encode(contents[:5]), atol=1e-5)
        assert (done.n_encoded, done.n_cached) == (5, 1)
        pairs = [Content("a", picture(0)), Content("b"), Content(image=picture(1)), Content()]
        (both,) = embed([pairs], fused, cache=cache)
        assert both.positions.tolist() == [0, 1, 2]
        np.testing.assert_allclose(both.vectors, fused.encode(pairs[:3]), atol=1e-5)
    finally:
        image.close()


def test_reading_stays_at_most_two_chunks_ahead(encoder: Counting) -> None:
    read: list[int] = []

    def source() -> Iterator[list[Content]]:
        for n in range(30):
            read.append(n)
            yield texts(f"item {n}")

    stream = embed(source(), encoder)
    for n in range(5):
        next(stream)
        time.sleep(0.05)
        assert len(read) <= n + 4
    stream.close()  # type: ignore[attr-defined]
    assert len(read) < 12


def test_decoding_runs_beside_encoding() -> None:
    encoding, overlapped = threading.Event(), threading.Event()

    class Watching(TextEncoder):
        def decode(self, contents: Sequence[Content]) -> list[Decoded | InvalidContent]:
            if contents[0].text == "second" and encoding.wait(20):
                overlapped.set()
            return super().decode(contents)

        def encode_decoded(self, decoded: Sequence[Decoded]) -> NDArray[np.float32]:
            if decoded[0] == "first":
                encoding.set()
                assert overlapped.wait(20), "the second batch is decoded only after the first was encoded"
            return super().encode_decoded(decoded)

    assert len(list(embed([texts("first"), texts("second")], Watching()))) == 2


def test_errors_of_the_source_and_of_the_cache_are_raised_here(encoder: Counting, tmp_path: Path) -> None:
    def source() -> Iterator[list[Content]]:
        yield texts("a")
        raise RuntimeError("the catalogue ended early")

    stream = embed(source(), encoder)
    assert next(stream).positions.tolist() == [0]
    with pytest.raises(RuntimeError, match="the catalogue ended early"):
        next(stream)
    path = tmp_path / "cache.sqlite"
    with EmbeddingCache(path) as cache:
        connection = sqlite3.connect(path)
        connection.execute("DROP TABLE vectors")
        connection.commit()
        connection.close()
        with pytest.raises(CorruptArtifact, match="no such table"):
            list(embed([texts("a")], encoder, cache=cache))


def test_a_stream_that_is_dropped_leaves_no_thread(encoder: Counting) -> None:
    before = threading.active_count()
    stream = embed((texts(f"item {n}") for n in range(1000)), encoder)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


N_ROWS, BATCH, CHUNK_KILLED = 1200, 100, 20
RUN = f"""
import sys
import numpy as np
from embeddings import Content, EmbeddingCache, TextEncoder, embed
path, log, out = sys.argv[1:]
class Logged(TextEncoder):
    def encode_decoded(self, decoded):
        with open(log, "a") as stream:
            stream.write("".join(f"{{text}}\\n" for text in decoded))
        return super().encode_decoded(decoded)
names = [f"product {{n % 900}} model X{{n % 900}}" for n in range({N_ROWS})]
batches = ([Content(name) for name in names[at : at + {BATCH}]] for at in range(0, {N_ROWS}, {BATCH}))
encoder = Logged()
print("ready", flush=True)
with EmbeddingCache(path) as cache:
    done = list(embed(batches, encoder, cache=cache, chunk={CHUNK_KILLED}))
assert not any(part.failures for part in done)
positions = np.concatenate([part.positions + at * {BATCH} for at, part in enumerate(done)])
assert positions.tolist() == list(range({N_ROWS}))
np.save(out, np.concatenate([part.vectors for part in done]))
"""


@pytest.mark.parametrize("n_kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_lose_and_repeat_nothing(tmp_path: Path, n_kills: int) -> None:
    path, log, out = tmp_path / "cache.sqlite", tmp_path / "encoded.txt", tmp_path / "vectors.npy"
    command = [sys.executable, "-c", RUN, str(path), str(log), str(out)]
    rng = np.random.default_rng(n_kills)
    n_killed = kept = n_since_begin = 0
    encoded: list[str] = []
    while n_killed < n_kills:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            process.wait(float(rng.uniform(0.02, 4.0 / n_kills)))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            n_killed += 1
            n_since_begin += 1
        process.stdout.close()
        process.wait()
        lines = log.read_text().splitlines() if log.exists() else []
        assert len(set(lines[len(encoded) :])) == len(lines) - len(encoded), "a run encodes nothing twice"
        encoded = lines
        with EmbeddingCache(path) as cache:
            assert len(cache) >= kept, "what was kept stays"
            kept = len(cache)
        # Of each run at most the chunk that was under way is encoded again by the next.
        assert kept <= len(encoded) <= kept + CHUNK_KILLED * n_since_begin
        if out.exists():  # it finished before the kill: begin again from nothing
            for file in tmp_path.iterdir():
                file.unlink()
            kept = n_since_begin = 0
            encoded = []
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
    names = [f"product {n % 900} model X{n % 900}" for n in range(N_ROWS)]
    expected = TextEncoder().encode([Content(name) for name in names])
    np.testing.assert_allclose(np.load(out), expected, atol=2e-5)
    with EmbeddingCache(path) as cache:
        assert len(cache) == 900
