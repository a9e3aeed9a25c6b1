"""One file of the write log, and how its bytes are proved.

Layout, little-endian:

    header  magic `LWWRITES`, format u32, header bytes u32, log_id[16], first sequence u64, zeros, CRC32C of it u32: 64 bytes
    frames  one for each append, without a gap:
              mark u32, body bytes u32, n_records u32, CRC32C of the body u32, first sequence u64, synced bytes u64,
              CRC32C u32 of log_id, the segment's first sequence, this frame's offset and all of the above
              body: request id bytes u16, request id, payload bytes u32[n_records], the payloads
    zeros   space reserved behind the last frame; only in the file that is being written

A frame is whole or not there, so an append of many records is too. Its checksum knows its log, file and offset: bytes
that were moved, left over or carried inside a payload do not pass for a frame. `synced bytes` is how much of the file was on
disk before the frame was written. It tells damage from a torn end: frames that were waiting for one sync reach the disk in
any order, so a good one behind a bad one proves nothing by itself, but one that was written after the bad place had been
synced proves that the bad place was good.
"""

from __future__ import annotations

import contextlib
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cpp_ext
from matching.errors import CorruptArtifact

MAGIC = b"LWWRITES"
FORMAT = 1
HEADER_BYTES = 64
MAX_BODY_BYTES = 1 << 26
CURE = "restore the file from a copy, or keep the records that are whole with `likewise log repair`"
_HEADER = struct.Struct("<8sII16sQ")
_FRAME = struct.Struct("<4sIIIQQ")
_CRC = struct.Struct("<I")
_PLACE = struct.Struct("<16sQQ")
FRAME_BYTES = _FRAME.size + _CRC.size
_CHUNK_BYTES = 1 << 18
_SPACING_BYTES = 1 << 18  # between the remembered places of a segment: a read begins at most this far before its record


def crc32c(data: bytes | memoryview) -> int:
    """Return the checksum of some bytes."""
    return int(cpp_ext.crc32c(data, len(data))[0]) if len(data) else 0


def pack_body(payloads: Sequence[bytes], request_id: bytes) -> bytes:
    """Return the body of a frame."""
    lengths = struct.pack(f"<H{len(request_id)}s{len(payloads)}I", len(request_id), request_id, *map(len, payloads))
    return b"".join((lengths, *payloads))


def new_log_id() -> bytes:
    """Return what tells one log from another, 16 bytes; the first four mark frames, so they are never all zero."""
    return b"\xa7" + os.urandom(15)


def log_id_of(path: Path) -> bytes | None:
    """Return the log that a file says it belongs to, None where its header is damaged or of another format."""
    with path.open("rb") as file:
        packed = file.read(HEADER_BYTES)
    if len(packed) < HEADER_BYTES or not _is_sealed(packed):
        return None
    magic, fmt, _, log_id, _ = _HEADER.unpack_from(packed)
    return bytes(log_id) if (magic, fmt) == (MAGIC, FORMAT) else None


def _is_sealed(header: bytes) -> bool:
    return header[-_CRC.size :] == _CRC.pack(crc32c(header[: -_CRC.size]))


@dataclass(frozen=True, slots=True)
class Frame:
    """The proved head of a frame; its body was not looked at."""

    offset: int
    body_bytes: int
    n_records: int
    body_crc: int
    first_sequence: int
    synced_bytes: int

    @property
    def end(self) -> int:
        """Return the offset behind the frame."""
        return self.offset + FRAME_BYTES + self.body_bytes

    @property
    def last_sequence(self) -> int:
        """Return the sequence of its last record."""
        return self.first_sequence + self.n_records - 1


@dataclass(frozen=True, slots=True)
class Body:
    """What a frame carries."""

    request_id: str
    payloads: list[bytes]


def unpack_body(data: bytes, n_records: int) -> Body:
    """Return what `pack_body` packed."""
    n_id = int.from_bytes(data[:2], "little")
    at = 2 + n_id + 4 * n_records
    lengths = struct.unpack_from(f"<{n_records}I", data, 2 + n_id)
    payloads = []
    for length in lengths:
        payloads.append(data[at : at + length])
        at += length
    assert at == len(data), (at, len(data))
    return Body(data[2 : 2 + n_id].decode(), payloads)


class BadFrame(Exception):  # not for callers: it becomes CorruptArtifact or a torn end
    """There is no good frame at an offset."""


class Segment:
    """What is known of one file: its name, how far it is good, and where to begin reading. Guarded by its log's lock.

    Attributes:
        first_sequence: of the first record that it holds or will hold.
        last_sequence: of the last record on disk; first_sequence - 1 where there is none.
        end: offset behind the last frame on disk, bytes.
    """

    __slots__ = ("_places", "end", "first_sequence", "last_sequence", "log_id", "path")

    def __init__(self, path: Path, log_id: bytes, first_sequence: int) -> None:
        self.path = path
        self.log_id = log_id
        self.first_sequence = first_sequence
        self.last_sequence = first_sequence - 1
        self.end = HEADER_BYTES
        self._places: list[tuple[int, int]] = []

    def grow(self, first_sequence: int, last_sequence: int, offset: int, end: int) -> None:
        """Take in a frame that is on disk."""
        if not self._places or offset - self._places[-1][1] >= _SPACING_BYTES:
            self._places.append((first_sequence, offset))
        self.last_sequence, self.end = last_sequence, end

    def place_before(self, sequence: int) -> int:
        """Return the offset of a frame at or before a record."""
        found = bisect_right(self._places, (sequence, 1 << 63)) - 1
        return self._places[found][1] if found >= 0 else HEADER_BYTES

    def header(self) -> bytes:
        """Return the first bytes of the file."""
        packed = _HEADER.pack(MAGIC, FORMAT, HEADER_BYTES, self.log_id, self.first_sequence)
        packed = packed.ljust(HEADER_BYTES - _CRC.size, b"\0")
        return packed + _CRC.pack(crc32c(packed))

    def frame(self, offset: int, body: bytes, n_records: int, first_sequence: int, synced_bytes: int) -> bytes:
        """Return a frame's head; the body follows it."""
        mark = self.log_id[:4]
        packed = _FRAME.pack(mark, len(body), n_records, crc32c(body), first_sequence, synced_bytes)
        return packed + _CRC.pack(self._frame_crc(packed, offset))

    def parsed(self, packed: bytes, offset: int) -> Frame:
        """Return the proved head of the frame at an offset.

        Raises:
            BadFrame: it is not one.
        """
        if len(packed) < FRAME_BYTES:
            raise BadFrame(f"{len(packed)} bytes are left, less than the head of a record")
        mark, body_bytes, n_records, body_crc, first_sequence, synced_bytes = _FRAME.unpack_from(packed)
        if mark != self.log_id[:4]:
            raise BadFrame("no record begins here")
        if _CRC.unpack_from(packed, _FRAME.size)[0] != self._frame_crc(packed[: _FRAME.size], offset):
            raise BadFrame("the head of a record does not match its checksum")
        return Frame(offset, body_bytes, n_records, body_crc, first_sequence, synced_bytes)

    def _frame_crc(self, packed: bytes, offset: int) -> int:
        return crc32c(_PLACE.pack(self.log_id, self.first_sequence, offset) + packed)

    def corrupt(self, operation: str, offset: int, what: object) -> CorruptArtifact:
        """Return the error that names this file and an offset in it."""
        return CorruptArtifact(f"[{operation}] {self.path.name} at byte {offset}: {what}; {CURE}")


class SegmentReader:
    """Reads one segment, a chunk at a time. Not thread-safe.

    Raises:
        OSError: the file cannot be opened or read.
    """

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._handle = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        self._chunk = b""
        self._chunk_at = 0

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._handle)

    def size(self) -> int:
        """Return the size of the file now, bytes."""
        return os.fstat(self._handle).st_size

    def forget(self) -> None:
        """Read from the file again what was read before."""
        self._chunk = b""

    def check_header(self) -> None:
        """Prove that the file is the segment that its name says.

        Raises:
            CorruptArtifact: it is not.
        """
        packed = self._bytes(0, HEADER_BYTES, HEADER_BYTES)
        if len(packed) < HEADER_BYTES:
            raise self._segment.corrupt("open", 0, f"{len(packed)} bytes are less than a header of {HEADER_BYTES}")
        magic, fmt, _, _, _ = _HEADER.unpack_from(packed)
        if magic == MAGIC and fmt != FORMAT and _is_sealed(packed):
            raise CorruptArtifact(
                f"[open] {self._segment.path.name}: segment format {fmt} is not {FORMAT}, the one this program reads; "
                "open it with the program that wrote it"
            )
        if packed != self._segment.header():
            raise self._segment.corrupt("open", 0, "the header is damaged, or belongs to another log or file name")

    def frame(self, offset: int, end: int) -> Frame:
        """Return the frame at an offset of a file that ends at `end`.

        Raises:
            BadFrame: it is not one, or reaches beyond the end.
        """
        frame = self._segment.parsed(self._bytes(offset, FRAME_BYTES, end), offset)
        if frame.end > end:
            raise BadFrame(f"a record of {frame.body_bytes} bytes reaches {frame.end - end} bytes beyond the end")
        return frame

    def body(self, frame: Frame) -> Body:
        """Return what a frame carries.

        Raises:
            BadFrame: it does not match its checksum.
        """
        data = self._bytes(frame.offset + FRAME_BYTES, frame.body_bytes, frame.end)
        if len(data) != frame.body_bytes or crc32c(data) != frame.body_crc:
            raise BadFrame("a record does not match its checksum")
        return unpack_body(data, frame.n_records)

    def piece(self, start: int, end: int) -> bytes:
        """Return the bytes between two offsets."""
        return self._bytes(start, end - start, end)

    def later_frames(self, offset: int, end: int) -> Iterator[Frame]:
        """Yield every proved frame head that begins at an offset or behind it, wherever it lies."""
        mark = self._segment.log_id[:4]
        while offset < end:
            chunk = os.pread(self._handle, min(_CHUNK_BYTES, end - offset), offset)
            found = chunk.find(mark)
            while found >= 0:
                at = offset + found
                with contextlib.suppress(BadFrame):
                    yield self._segment.parsed(os.pread(self._handle, FRAME_BYTES, at), at)
                found = chunk.find(mark, found + 1)
            if len(chunk) < len(mark):
                return
            offset += len(chunk) - len(mark) + 1

    def end_of_bytes(self, offset: int, end: int) -> int:
        """Return the offset behind the last byte that is not zero, at least `offset`."""
        last = offset
        while offset < end:
            chunk = os.pread(self._handle, min(_CHUNK_BYTES, end - offset), offset)
            if not chunk:
                break
            kept = len(chunk.rstrip(b"\0"))
            last = offset + kept if kept else last
            offset += len(chunk)
        return last

    def _bytes(self, offset: int, n_bytes: int, end: int) -> bytes:
        """Return bytes of the file, fewer where it ends."""
        start = offset - self._chunk_at
        if start < 0 or start + n_bytes > len(self._chunk):
            wanted = max(0, min(max(n_bytes, _CHUNK_BYTES), end - offset))
            self._chunk, self._chunk_at, start = os.pread(self._handle, wanted, offset), offset, 0
        return self._chunk[start : start + n_bytes]
