"""A stream of contents into vectors: each distinct content once, resumable, decoding beside encoding.

A batch is cut into chunks. While one chunk is encoded, the next one is read, looked up in the cache and decoded on another
thread. A chunk's vectors are in the cache before they are handed on, so a killed run loses at most one chunk of work.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embeddings.embedding_cache import EmbeddingCache
from embeddings.encoder import Content, Decoded, Encoder
from matching.errors import InvalidContent

CHUNK = 256
_AHEAD = 1  # chunks decoded but not yet encoded


@dataclass(frozen=True, slots=True)
class Failure:
    """A content that has no vector. `position` counts from the begin of its batch."""

    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """One batch, embedded.

    Attributes:
        vectors: float32[m, dim] of unit norm.
        positions: int64[m], ascending: which contents of the batch the rows belong to.
        failures: the other contents, by position.
        n_cached: contents whose vector was there already, in the cache or earlier in the batch.
        n_encoded: contents that were encoded now. With n_cached and the failures, all contents of the batch.
    """

    vectors: NDArray[np.float32]
    positions: NDArray[np.int64]
    failures: tuple[Failure, ...] = ()
    n_cached: int = 0
    n_encoded: int = 0


@dataclass(slots=True)
class _Chunk:
    """Contents begin .. begin + len(digests) of a batch, looked up and decoded; slots number the distinct ones."""

    begin: int
    is_last: bool
    slot_of: list[int]
    digests: list[bytes]
    vectors: NDArray[np.float32]
    is_found: NDArray[np.bool_]
    to_encode: list[int] = field(default_factory=list)
    decoded: list[Decoded] = field(default_factory=list)
    wrong: dict[int, str] = field(default_factory=dict)


def embed(
    batches: Iterable[Sequence[Content]], encoder: Encoder, *, cache: EmbeddingCache | None = None, chunk: int = CHUNK
) -> Iterator[Embedded]:
    """Yield one `Embedded` a batch, in order. Memory depends on the batches and the chunk, not on their number.

    Identical contents are encoded once: within a chunk always, across chunks, batches and runs through the cache. What cannot be
    encoded becomes a `Failure`; its neighbours are embedded. `batches` is read on another thread, at most two chunks ahead. Its
    exceptions, and the encoder's and the cache's, are raised here.

    Args:
        batches: the contents; an empty batch gives an empty `Embedded`.
        encoder: turns them into vectors.
        cache: where vectors are kept, None for nowhere.
        chunk: contents that are looked up, decoded, encoded and kept together.

    Raises:
        CorruptArtifact: the cache's file is damaged.
    """
    ready: queue.Queue[_Chunk | BaseException | None] = queue.Queue(_AHEAD)
    is_over = threading.Event()
    reader = threading.Thread(
        target=_read, args=(batches, encoder, cache, chunk, ready, is_over), name="embed-reader", daemon=True
    )
    reader.start()
    try:
        parts: list[_Chunk] = []
        n_encoded = 0
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            n_encoded += _finish(item, encoder, cache)
            parts.append(item)
            if item.is_last:
                yield _joined(parts, n_encoded, encoder.dim)
                parts, n_encoded = [], 0
    finally:
        is_over.set()
        while reader.is_alive():
            _drain(ready)
            reader.join(0.05)


def _read(
    batches: Iterable[Sequence[Content]],
    encoder: Encoder,
    cache: EmbeddingCache | None,
    size: int,
    ready: queue.Queue[_Chunk | BaseException | None],
    is_over: threading.Event,
) -> None:
    try:
        for batch in batches:
            for begin in range(0, max(len(batch), 1), size):
                if is_over.is_set():
                    return
                ready.put(_prepared(batch, begin, size, encoder, cache))
        ready.put(None)
    except BaseException as error:  # the top of a thread: the consumer raises it
        ready.put(error)


def _prepared(
    batch: Sequence[Content], begin: int, size: int, encoder: Encoder, cache: EmbeddingCache | None
) -> _Chunk:
    contents = batch[begin : begin + size]
    slots: dict[bytes, int] = {}
    firsts: list[Content] = []
    slot_of = []
    for content in contents:
        digest = content.digest()
        if digest not in slots:
            slots[digest] = len(slots)
            firsts.append(content)
        slot_of.append(slots[digest])
    digests = list(slots)
    vectors = np.zeros((len(digests), encoder.dim), np.float32)
    found = np.zeros(len(digests), bool)
    if cache is not None:
        vectors, found = cache.lookup(encoder.vector_id, digests, encoder.dim)
    done = _Chunk(begin, begin + size >= len(batch), slot_of, digests, vectors, found)
    missing = np.flatnonzero(~found).tolist()
    for slot, decoded in zip(missing, encoder.decode([firsts[slot] for slot in missing]), strict=True):
        if isinstance(decoded, InvalidContent):
            done.wrong[slot] = str(decoded)
        else:
            done.to_encode.append(slot)
            done.decoded.append(decoded)
    return done


def _finish(chunk: _Chunk, encoder: Encoder, cache: EmbeddingCache | None) -> int:
    """Encode what the chunk still lacks, keep it, and return how many contents that were."""
    if cache is not None and chunk.to_encode:
        # The chunk before this one may have brought some of it since this one was read.
        digests = [chunk.digests[slot] for slot in chunk.to_encode]
        vectors, found = cache.lookup(encoder.vector_id, digests, encoder.dim)
        slots = np.asarray(chunk.to_encode)
        chunk.vectors[slots[found]] = vectors[found]
        chunk.decoded = [decoded for decoded, is_there in zip(chunk.decoded, found, strict=True) if not is_there]
        chunk.to_encode = slots[~found].tolist()
    if not chunk.to_encode:
        return 0
    vectors = encoder.encode_decoded(chunk.decoded)
    chunk.decoded = []
    if cache is not None:
        cache.store(encoder.vector_id, [chunk.digests[slot] for slot in chunk.to_encode], vectors)
    chunk.vectors[chunk.to_encode] = vectors
    return len(chunk.to_encode)


def _joined(chunks: Sequence[_Chunk], n_encoded: int, dim: int) -> Embedded:
    parts, positions, failures = [np.zeros((0, dim), np.float32)], [], []
    for chunk in chunks:
        good = [row for row, slot in enumerate(chunk.slot_of) if slot not in chunk.wrong]
        parts.append(chunk.vectors[[chunk.slot_of[row] for row in good]].reshape(len(good), dim))
        positions += [chunk.begin + row for row in good]
        failures += [
            Failure(chunk.begin + row, chunk.wrong[slot])
            for row, slot in enumerate(chunk.slot_of)
            if slot in chunk.wrong
        ]
    return Embedded(
        np.concatenate(parts),
        np.asarray(positions, np.int64),
        tuple(failures),
        n_cached=len(positions) - n_encoded,
        n_encoded=n_encoded,
    )


def _drain(ready: queue.Queue[_Chunk | BaseException | None]) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        pass
