"""Repairing a write log: the records that are whole keep their sequences, those that are not become writes of nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matching.errors import CorruptArtifact, NotFound
from matching.live import disk
from matching.live.head import NAME as HEAD
from matching.live.head import Head
from matching.live.recovery import segment_path, segment_paths, surviving_head, whole_frames
from matching.live.segment import FRAME_BYTES, HEADER_BYTES, Frame, Segment, SegmentReader, pack_body
from matching.live.write import Types, pack_write
from matching.live.write_log import WriteLog, locked

_ASIDE = ".damaged"
_N_AT_ONCE = 10_000  # lost records in one frame
_NOTHING = pack_write(Types({}))


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair does to a log.

    Attributes:
        first_sequence: of the oldest record that is retained.
        last_sequence: of the newest, whole or lost.
        damaged: names of the files that are kept aside and written anew, or that are missing.
        lost: first and last sequence of each run of records that nothing is left of.
        forgets_requests: the head is lost, and with it the request ids of records that were truncated.
    """

    first_sequence: int
    last_sequence: int
    damaged: tuple[str, ...]
    lost: tuple[tuple[int, int], ...]
    forgets_requests: bool

    @property
    def n_lost(self) -> int:
        """Records that nothing is left of."""
        return sum(last - first + 1 for first, last in self.lost)

    @property
    def n_kept(self) -> int:
        """Records that are whole."""
        return self.last_sequence - self.first_sequence + 1 - self.n_lost


def plan_repair(folder: Path) -> Repair:
    """Return what `repair` would do; changes nothing.

    Raises:
        NotFound: the folder holds no log.
        Unavailable: somebody writes to it.
        CorruptArtifact: the head and the headers of all files are damaged, or of another format, so that nothing can be proved.
        OSError: a file cannot be read.
    """
    with _alone(folder):
        return _surveyed(folder).plan()


def repair(folder: Path) -> Repair:
    """Make a log that can be opened of one that cannot; return what was done.

    Damaged files stay beside it under a name that ends in `.damaged`. A repair that was interrupted may be begun again.

    Raises:
        NotFound: the folder holds no log.
        Unavailable: somebody writes to it.
        CorruptArtifact: the head and the headers of all files are damaged, or of another format, so that nothing can be proved.
        OSError: a file cannot be read or written.
    """
    with _alone(folder):
        found = _surveyed(folder)
        plan = found.plan()
        if plan.damaged:
            for part in found.parts:
                if part.is_damaged:
                    content = part.content(found.head.log_id)
                    _keep_aside(part.path)
                    disk.publish(part.path, content)
            if found.is_head_damaged:
                _keep_aside(folder / HEAD)
            head = found.head
            Head(head.log_id, plan.first_sequence, plan.last_sequence, head.answered).write(folder)
        WriteLog.open(folder, read_only=True).close()
    return plan


@dataclass(slots=True)
class _Part:
    """A file as it is, and as it should be: whole frames, and between them runs of lost records."""

    path: Path
    first_sequence: int
    is_damaged: bool
    pieces: list[Frame | range]

    def content(self, log_id: bytes) -> bytes:
        segment = Segment(self.path, log_id, self.first_sequence)
        packed = bytearray(segment.header())
        for body, first_sequence, n_records in self._bodies(segment):
            at = len(packed)
            packed += segment.frame(at, body, n_records, first_sequence, at) + body
        return bytes(packed)

    def _bodies(self, segment: Segment) -> Iterator[tuple[bytes, int, int]]:
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(SegmentReader(segment)) if self.path.exists() else None
            for piece in self.pieces:
                if isinstance(piece, Frame):
                    assert reader is not None
                    yield reader.piece(piece.offset + FRAME_BYTES, piece.end), piece.first_sequence, piece.n_records
                else:
                    for start in range(piece.start, piece.stop, _N_AT_ONCE):
                        n = min(_N_AT_ONCE, piece.stop - start)
                        yield pack_body([_NOTHING] * n, b""), start, n


@dataclass(slots=True)
class _Survey:
    head: Head
    is_head_damaged: bool
    parts: list[_Part]
    last_sequence: int

    def plan(self) -> Repair:
        runs = [piece for part in self.parts for piece in part.pieces if isinstance(piece, range)]
        damaged = [part.path.name for part in self.parts if part.is_damaged]
        return Repair(
            self.head.first_sequence,
            self.last_sequence,
            (*damaged, *([HEAD] if self.is_head_damaged else [])),
            tuple((run.start, run.stop - 1) for run in runs),
            self.is_head_damaged,
        )


def _surveyed(folder: Path) -> _Survey:
    head, damage = surviving_head(folder)
    paths = {first: path for first, path in segment_paths(folder).items() if first >= head.first_sequence}
    firsts = list(paths)
    parts: list[_Part] = []
    if firsts[:1] != [head.first_sequence]:
        stop = firsts[0] if firsts else head.synced_sequence + 1
        missing = range(head.first_sequence, stop)
        parts.append(_Part(segment_path(folder, missing.start), missing.start, True, [missing] if missing else []))
    last_sequence = head.synced_sequence
    for at, first in enumerate(firsts):
        part, last = _part(paths[first], head, first, firsts[at + 1] if at + 1 < len(firsts) else None)
        parts.append(part)
        last_sequence = max(last_sequence, last)
    return _Survey(head, damage is not None, parts, last_sequence)


def _part(path: Path, head: Head, first_sequence: int, stop: int | None) -> tuple[_Part, int]:
    """Look at the file from a record on, to the one before `stop`, where the next file begins."""
    at, sequence = HEADER_BYTES, first_sequence
    pieces: list[Frame | range] = []
    with SegmentReader(Segment(path, head.log_id, first_sequence)) as reader:
        is_damaged = False
        try:
            reader.check_header()
        except CorruptArtifact:
            is_damaged = True
        for frame, _ in whole_frames(reader):
            is_damaged |= frame.offset != at or frame.first_sequence != sequence
            at = frame.end
            if frame.first_sequence < sequence or (stop is not None and frame.last_sequence >= stop):
                is_damaged = True  # no place is left for it
                continue
            if frame.first_sequence > sequence:
                pieces.append(range(sequence, frame.first_sequence))
            pieces.append(frame)
            sequence = frame.last_sequence + 1
        is_damaged |= stop is not None and reader.size() > at
        behind = [frame for frame in reader.later_frames(at + 1, reader.size()) if frame.synced_bytes > at]
    is_damaged |= bool(behind)
    if stop is None:  # what was acknowledged has its sequences for good, whether or not anything is left of it
        stop = max([head.synced_sequence, *(frame.last_sequence for frame in behind)]) + 1
    if sequence < stop:
        is_damaged = True
        pieces.append(range(sequence, stop))
    return _Part(path, first_sequence, is_damaged, pieces), max(sequence, stop) - 1


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    if not folder.is_dir():
        raise NotFound(f"[repair] there is no folder {folder}; expected that of one log, LOG/ENDPOINT")
    handle = locked(folder)
    try:
        yield
    finally:
        os.close(handle)


def _keep_aside(path: Path) -> None:
    if not path.exists():
        return
    n = 1
    while (aside := path.with_name(f"{path.name}{_ASIDE}{'' if n == 1 else f'-{n}'}")).exists():
        n += 1
    os.link(path, aside)
    disk.sync_folder(path.parent)
