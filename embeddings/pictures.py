"""Pictures from anyone, decoded in processes that may die.

Each worker is a program of its own (`picture_worker.py`) with limits on memory and CPU time. One that hangs or dies is killed
and replaced, and only the picture it held is refused.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matching.errors import InvalidContent, MissingExtra, Unavailable

_LENGTH = struct.Struct("<I")
_START_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What one picture may cost. All are refusals of that picture, never of the batch."""

    max_bytes: int = 20 << 20
    max_pixels: int = 20_000_000
    max_memory_bytes: int = 1 << 30
    max_cpu_s: int = 10
    max_wall_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Framing:
    """How a picture becomes a square: the centre square of `crop` times the shorter side, scaled to `size` by bicubic."""

    size: int = 224
    crop: float = 1.0


class PictureDecoder:
    """JPEG, PNG and WEBP, told by their content, into RGB squares. Thread-safe.

    Upright by Exif, transparent parts on white, the first frame of an animation. Workers start at the first picture; at most
    `n_workers` pictures are under way at a time, and `decode` holds no more than one batch.

    Args:
        framing: the square to cut.
        n_workers: processes, at least 1.
        limits: what one picture may cost.
    """

    def __init__(self, framing: Framing, *, n_workers: int = 2, limits: PictureLimits | None = None) -> None:
        self._framing = framing
        self._limits = limits or PictureLimits()
        self._n_workers = max(1, n_workers)
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(self._n_workers):
            self._idle.put(None)
        self._threads = ThreadPoolExecutor(self._n_workers, "picture")
        self._alive: set[_Worker] = set()
        self._lock = threading.Lock()
        self._is_closed = False
        self._finalizer = weakref.finalize(self, _end_all, self._alive, self._threads)

    def decode(self, pictures: Sequence[bytes]) -> list[NDArray[np.uint8] | InvalidContent]:
        """Return uint8[size, size, 3] for each picture file, or the error that says why it has none.

        Raises:
            Unavailable: the decoder is closed.
            MissingExtra: Pillow is not installed.
        """
        if self._is_closed:
            raise Unavailable("[decode picture] the decoder is closed; expected an open one; make a new encoder")
        if len(pictures) == 1:
            return [self._decode_one(pictures[0])]
        return list(self._threads.map(self._decode_one, pictures))

    def close(self) -> None:
        """End the workers. A second call does nothing."""
        self._is_closed = True
        self._finalizer()

    def _decode_one(self, picture: bytes) -> NDArray[np.uint8] | InvalidContent:
        limits = self._limits
        if not picture:
            return InvalidContent("its picture is empty; expected a JPEG, PNG or WEBP; leave it out")
        if len(picture) > limits.max_bytes:
            return InvalidContent(
                f"its picture has {len(picture)} bytes; expected at most {limits.max_bytes}; scale it down"
            )
        with self._worker() as worker:
            try:
                status, reply = worker.ask(picture, limits.max_wall_s)
            except TimeoutError:
                worker.end()
                return InvalidContent(
                    f"its picture took more than {limits.max_wall_s:g} s to decode; expected less; scale it down"
                )
            except OSError:
                worker.end()
                return InvalidContent(
                    f"its picture brought the decoder down (it may take {limits.max_cpu_s} s of CPU and "
                    f"{limits.max_memory_bytes >> 20} MiB); expected a sound picture; save it again"
                )
        if status:
            return InvalidContent(f"its picture {reply.decode('utf-8', 'replace')}; expected a sound JPEG, PNG or WEBP")
        return np.frombuffer(reply, np.uint8).reshape(self._framing.size, self._framing.size, 3)

    @contextlib.contextmanager
    def _worker(self) -> Iterator[_Worker]:
        worker = self._idle.get()
        try:
            if worker is None or worker.is_ended:
                with self._lock:
                    self._alive.discard(worker) if worker else None
                worker = _Worker(self._framing, self._limits)
                with self._lock:
                    self._alive.add(worker)
            yield worker
        finally:
            self._idle.put(worker)


class _Worker:
    """One decoding process and the socket to it."""

    def __init__(self, framing: Framing, limits: PictureLimits) -> None:
        ours, theirs = socket.socketpair()
        program = str(Path(__file__).with_name("picture_worker.py"))
        numbers = (framing.size, limits.max_pixels, limits.max_memory_bytes, limits.max_cpu_s, framing.crop)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, program, *map(str, numbers)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is for the parent
            )
        self._channel = ours
        self.is_ended = False
        try:
            self._receive(1, time.monotonic() + _START_LIMIT_S)
        except OSError as error:
            self.end()
            raise MissingExtra(
                f"[decode picture] the decoder does not start (status {self._process.returncode}); expected Pillow to be "
                "installed; run: pip install 'likewise[encode]'"
            ) from error

    def ask(self, picture: bytes, limit_s: float) -> tuple[int, bytes]:
        """Return status and reply for one picture.

        Raises:
            TimeoutError: no answer within limit_s.
            OSError: the process died.
        """
        deadline = time.monotonic() + limit_s
        self._channel.settimeout(limit_s)
        self._channel.sendall(_LENGTH.pack(len(picture)) + picture)
        head = self._receive(1 + _LENGTH.size, deadline)
        return head[0], self._receive(_LENGTH.unpack(head[1:])[0], deadline)

    def end(self) -> None:
        """Kill the process and wait for it."""
        self.is_ended = True
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, n_bytes: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < n_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._channel.settimeout(left)
            part = self._channel.recv(n_bytes - len(parts))
            if not part:
                raise ConnectionResetError
            parts += part
        return bytes(parts)


def _end_all(alive: set[_Worker], threads: ThreadPoolExecutor) -> None:
    threads.shutdown(wait=True, cancel_futures=True)
    for worker in list(alive):
        if not worker.is_ended:
            worker.end()
