"""Encoders in a process of their own, so that a crash, a slow picture or a batch job never stalls a search.

The service and the process speak over one socket pair: a length-prefixed JSON header, then raw bytes. One batch is under way
at a time; what arrives meanwhile waits in a bounded queue and leaves it as the next batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Content, Encoder
from matching.datapoint import SparseRows
from matching.encoder_spec import EncoderSpec
from matching.errors import DeadlineExceeded, InvalidContent, InvalidQuery, LikewiseError, Unavailable
from serving.settings import ServingSettings

_log = logging.getLogger(__name__)
_LENGTHS = struct.Struct("<II")  # header, payload
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.2, 10.0
_LOAD_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """One content as the encoder of a space sees it: float32[dim], and its sparse row where the space has a sparse side."""

    vector: NDArray[np.float32]
    sparse: SparseRows | None


class EncoderObserver(Protocol):
    """Is told what the encoder process does; a service counts it."""

    def encoded(self, space: str, n_contents: int, seconds: float) -> None: ...

    def restarted(self) -> None: ...


@runtime_checkable
class _SparseEncoder(Protocol):
    def sparse(self, texts: Sequence[str]) -> SparseRows: ...

    def sparse_documents(self, texts: Sequence[str]) -> SparseRows: ...


class _LoadFailed(Exception):
    """The process says that an encoder cannot be loaded."""


@dataclass(eq=False, slots=True)
class _Job:
    space: str
    is_document: bool
    content: Content
    deadline: float
    future: asyncio.Future[Encoded] = field(repr=False)


class EncoderProcess:
    """The service's side of the encoder process. Belongs to one event loop.

    Attributes:
        refused: set when the encoders cannot be loaded at all, which another try would not mend.
        refusal: why, then.
    """

    def __init__(
        self,
        specs: Mapping[str, EncoderSpec],
        *,
        settings: ServingSettings,
        model_dir: Path | None = None,
        observer: EncoderObserver | None = None,
    ) -> None:
        """Prepare to run the encoders of `specs`, by space name; `start` runs them."""
        self._model_dir = model_dir
        self._specs = dict(specs)
        self._settings = settings
        self._observer = observer
        self._queue: deque[_Job] = deque()
        self._wakeup = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._process: BaseProcess | None = None
        self.refusal = ""
        self.refused = asyncio.Event()
        self._accepts: Mapping[str, frozenset[str]] = {}
        self._is_ready = False
        self._batch_since: float | None = None

    @property
    def n_waiting(self) -> int:
        """How many contents wait to be encoded."""
        return len(self._queue)

    @property
    def pid(self) -> int | None:
        """The process id while a process runs."""
        return self._process.pid if self._process is not None else None

    @property
    def is_ready(self) -> bool:
        """Whether the process has loaded its encoders and answers; true when there is nothing to encode with."""
        if not self._specs:
            return True
        return self._is_ready and (self._batch_since is None or time.monotonic() - self._batch_since < 2.0)

    def start(self) -> None:
        """Run the process and keep it running until `stop`."""
        if self._specs:
            self._running = asyncio.create_task(self._keep_running(), name="encoder-process")

    async def stop(self) -> None:
        """End the process; whoever waits is told Unavailable."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            self._running = None
        self._refuse_waiting("the service is shutting down")

    def accepts(self, space: str) -> frozenset[str]:
        """Return what the encoder of a space reads, of `text` and `image`.

        Raises:
            Unavailable: the process is loading or fell over.
        """
        if not self._is_ready:
            raise Unavailable("[encode] the encoder process is not ready; try again in a moment")
        return self._accepts.get(space, frozenset())

    async def encode(self, space: str, content: Content, *, deadline: float, is_document: bool = False) -> Encoded:
        """Encode one content with the encoder of a space.

        Args:
            space: a name in the specs this was made with.
            content: what to encode.
            deadline: when to give up, on `time.monotonic`'s clock.
            is_document: it is to be indexed, and does not ask: the sparse sides of the two differ.

        Raises:
            InvalidQuery: the encoder of the space reads no such content.
            InvalidContent: the encoder cannot read this one.
            Unavailable: the queue is full, or the process is loading or fell over; worth another try.
            DeadlineExceeded: no answer before the deadline.
        """
        check_accepted(space, content, self.accepts(space))
        if len(self._queue) >= self._settings.encoder_queue:
            raise Unavailable(f"[encode] {len(self._queue)} contents wait already, the limit; try again in a moment")
        job = _Job(space, is_document, content, deadline, asyncio.get_running_loop().create_future())
        self._queue.append(job)
        self._wakeup.set()
        try:
            return await asyncio.wait_for(job.future, max(0.0, deadline - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            raise DeadlineExceeded(
                f"[encode] no answer within the time given, {len(self._queue)} contents waiting; allow more time"
            ) from None

    async def ping(self, timeout_s: float) -> bool:
        """Return whether the process answers an empty batch in time, behind whatever is under way."""
        if not self._specs:
            return True
        if not self._is_ready:
            return False
        with contextlib.suppress(Unavailable, DeadlineExceeded, InvalidContent):
            await self.encode("", Content(), deadline=time.monotonic() + timeout_s)
            return True
        return False

    async def _keep_running(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            started = time.monotonic()
            ours, theirs = socket.socketpair()
            process = multiprocessing.get_context("spawn").Process(
                target=_run,
                args=(theirs, self._specs, self._model_dir, self._settings.encoder_threads),
                name="likewise-encoder",
                daemon=True,
            )
            try:
                await asyncio.to_thread(process.start)  # writes the fitted arrays into a pipe
                theirs.close()
                self._process = process
                await self._converse(ours)
            except _LoadFailed as error:
                if not self._accepts:
                    self.refusal = str(error)
                    self.refused.set()
                    return
                _log.error("encoder process %s cannot load what its predecessor could: %s", process.pid, error)
            except Exception as error:  # the top of this task: whatever happened, a new process is the cure
                _log.warning("encoder process %s ended: %s", process.pid, str(error) or type(error).__name__)
            finally:
                self._is_ready, self._batch_since = False, None
                ours.close()
                theirs.close()
                await asyncio.shield(asyncio.to_thread(_end, process))
                self._process = None
            self._refuse_waiting("the encoder process fell over and is being started again")
            if self._observer is not None:
                self._observer.restarted()
            if time.monotonic() - started > 60.0:
                backoff_s = _FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    async def _converse(self, ours: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            greeting, _ = await asyncio.wait_for(_read_frame(reader), _LOAD_LIMIT_S)
            if "failed" in greeting:
                raise _LoadFailed(greeting["failed"])
            self._accepts = {name: frozenset(parts) for name, parts in greeting["accepts"].items()}
            self._is_ready = True
            while True:
                self._wakeup.clear()
                batch = self._next_batch()
                if not batch:
                    gone = asyncio.ensure_future(reader.read(1))
                    woken = asyncio.ensure_future(self._wakeup.wait())
                    try:
                        await asyncio.wait((gone, woken), return_when=asyncio.FIRST_COMPLETED)
                        if gone.done():
                            raise asyncio.IncompleteReadError(b"", None)
                    finally:
                        woken.cancel()
                        gone.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await gone
                    continue
                await self._answer(batch, reader, writer)
        finally:
            writer.close()

    def _next_batch(self) -> list[_Job]:
        """Take what can be encoded together: of one space and kind, at most `encoder_batch`, nobody who has given up."""
        batch: list[_Job] = []
        kept: list[_Job] = []
        now = time.monotonic()
        while self._queue and len(batch) < self._settings.encoder_batch:
            job = self._queue.popleft()
            if job.future.done() or job.deadline <= now:
                continue
            is_alike = not batch or (job.space, job.is_document) == (batch[0].space, batch[0].is_document)
            (batch if is_alike else kept).append(job)
        self._queue.extendleft(reversed(kept))
        return batch

    async def _answer(self, batch: list[_Job], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._batch_since = started = time.monotonic()
        try:
            header: dict[str, Any] = {"space": batch[0].space, "is_document": batch[0].is_document, "contents": []}
            parts: list[bytes] = []
            for job in batch:
                image = job.content.image
                header["contents"].append([job.content.text, None if image is None else len(image)])
                parts.append(image or b"")
            writer.write(_frame(header, b"".join(parts)))
            await writer.drain()
            replied, payload = await asyncio.wait_for(_read_frame(reader), self._settings.encoder_stuck_s)
        except BaseException:
            for job in batch:
                if not job.future.done():
                    job.future.set_exception(
                        Unavailable("[encode] the encoder process fell over; try again in a moment")
                    )
            raise
        finally:
            self._batch_since = None
        if self._observer is not None and batch[0].space:
            self._observer.encoded(batch[0].space, len(batch), time.monotonic() - started)
        at = 0
        for job, reply in zip(batch, replied["replies"], strict=True):
            error, dim, n_sparse = reply
            encoded: Encoded | None = None
            if error is None:
                encoded, at = _unpacked(payload, at, dim, n_sparse)
            if job.future.done():
                continue
            if encoded is None:
                job.future.set_exception(InvalidContent(error))
            else:
                job.future.set_result(encoded)

    def _refuse_waiting(self, why: str) -> None:
        while self._queue:
            job = self._queue.popleft()
            if not job.future.done():
                job.future.set_exception(Unavailable(f"[encode] {why}; try again in a moment"))


def check_accepted(space: str, content: Content, accepts: frozenset[str]) -> None:
    """Check that the encoder of a space reads what a content brings.

    Raises:
        InvalidQuery: it does not.
    """
    for part, held in (("text", content.text), ("image", content.image)):
        if held is not None and part not in accepts:
            raise InvalidQuery(
                f"[encode] space {space!r} cannot be asked by {part}; its encoder reads {' and '.join(sorted(accepts))}; "
                "name another space"
            )


def _frame(header: Mapping[str, object], payload: bytes) -> bytes:
    head = json.dumps(header).encode()
    return _LENGTHS.pack(len(head), len(payload)) + head + payload


async def _read_frame(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    n_head, n_payload = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    head = await reader.readexactly(n_head)
    return json.loads(head), await reader.readexactly(n_payload)


def _unpacked(payload: bytes, at: int, dim: int, n_sparse: int | None) -> tuple[Encoded, int]:
    vector = np.frombuffer(payload, np.float32, dim, at)
    at += vector.nbytes
    if n_sparse is None:
        return Encoded(vector, None), at
    dimensions = np.frombuffer(payload, np.int64, n_sparse, at).copy()  # a copy is aligned
    at += dimensions.nbytes
    values = np.frombuffer(payload, np.float32, n_sparse, at)
    return Encoded(vector, SparseRows(np.array([0, n_sparse], np.int64), dimensions, values)), at + values.nbytes


def _end(process: BaseProcess) -> None:
    if process.pid is None:
        return
    process.terminate()
    process.join(1.0)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


# What follows runs in the encoder process.


def _run(channel: socket.socket, specs: Mapping[str, EncoderSpec], model_dir: Path | None, n_threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the service's to handle: it closes the channel
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(n_threads)
    from embeddings.load_encoder import load_encoder

    encoders: dict[str, Encoder] = {}
    with channel, channel.makefile("rwb") as stream:
        try:
            for name, spec in specs.items():
                encoders[name] = load_encoder(spec, model_dir=model_dir, n_threads=n_threads, n_workers=1)
        except LikewiseError as error:
            stream.write(_frame({"failed": str(error)}, b""))
            return
        stream.write(_frame({"accepts": {name: sorted(encoder.accepts) for name, encoder in encoders.items()}}, b""))
        stream.flush()
        while True:
            lengths = stream.read(_LENGTHS.size)
            if len(lengths) < _LENGTHS.size:
                break  # the service has gone
            n_head, n_payload = _LENGTHS.unpack(lengths)
            header, payload = json.loads(stream.read(n_head)), stream.read(n_payload)
            replies, vectors = _encode(encoders, header, payload)
            stream.write(_frame({"replies": replies}, vectors))
            stream.flush()
    for encoder in encoders.values():
        encoder.close()


def _encode(encoders: Mapping[str, Encoder], header: dict[str, Any], payload: bytes) -> tuple[list[Any], bytes]:
    """Encode a batch; a content that cannot be read is refused alone."""
    contents: list[Content] = []
    at = 0
    for text, n_bytes in header["contents"]:
        contents.append(Content(text, None if n_bytes is None else payload[at : at + n_bytes]))
        at += n_bytes or 0
    if not header["space"]:  # a ping
        return [[None, 0, None] for _ in contents], b""
    encoder = encoders[header["space"]]
    decoded = encoder.decode(contents)
    replies: list[Any] = [[f"[encode] {one}", 0, None] if isinstance(one, InvalidContent) else None for one in decoded]
    sound = [position for position, reply in enumerate(replies) if reply is None]
    if not sound:
        return replies, b""
    vectors = encoder.encode_decoded([one for one in decoded if not isinstance(one, InvalidContent)])
    texts = [contents[position].text for position in sound]
    sparse: SparseRows | None = None
    if isinstance(encoder, _SparseEncoder) and all(text is not None for text in texts):
        side = encoder.sparse_documents if header["is_document"] else encoder.sparse
        sparse = side([text or "" for text in texts])
    parts: list[bytes] = []
    for row, position in enumerate(sound):
        parts.append(np.ascontiguousarray(vectors[row], np.float32).tobytes())
        n_sparse: int | None = None
        if sparse is not None:
            entries = slice(int(sparse.offsets[row]), int(sparse.offsets[row + 1]))
            n_sparse = entries.stop - entries.start
            parts.append(np.ascontiguousarray(sparse.dimensions[entries], np.int64).tobytes())
            parts.append(np.ascontiguousarray(sparse.values[entries], np.float32).tobytes())
        replies[position] = [None, vectors.shape[1], n_sparse]
    return replies, b"".join(parts)
