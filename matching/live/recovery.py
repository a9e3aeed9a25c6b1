"""What is left of a write log: proving its segments, telling a torn end from damage, saving what is whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matching.errors import CorruptArtifact, NotFound
from matching.live import disk
from matching.live.head import Head, read_head
from matching.live.segment import (
    CURE,
    HEADER_BYTES,
    BadFrame,
    Body,
    Frame,
    Segment,
    SegmentReader,
    log_id_of,
)

_SUFFIX = ".log"
_N_DIGITS = 20  # of the first sequence, which is the name of a file
_N_TRIES = 8  # of reading beside a process that rotates and truncates


@dataclass(slots=True)
class Recovered:
    """What the files of a log hold.

    Attributes:
        segments: in order, at least one.
        answered: request id to first and last sequence, oldest first.
        file_bytes: size of the last file.
        unproved_bytes: offset in the last file behind which nothing later proves that it is on disk.
        proved_sequence: of the last record before that offset.
        n_torn_bytes: bytes of a torn end behind the last good frame, without zeros after it.
        damage: why there is nothing behind the last good frame that can be believed, None where all is well.
    """

    segments: list[Segment]
    answered: dict[str, tuple[int, int]]
    file_bytes: int = 0
    unproved_bytes: int = 0
    proved_sequence: int = 0
    n_torn_bytes: int = 0
    damage: str | None = None

    def forget_requests(self, n_kept: int) -> None:
        """Keep only the newest request ids."""
        while len(self.answered) > n_kept:
            del self.answered[next(iter(self.answered))]


def segment_path(folder: Path, first_sequence: int) -> Path:
    """Return the file whose first record has a sequence."""
    return folder / f"{first_sequence:0{_N_DIGITS}d}{_SUFFIX}"


def segment_paths(folder: Path) -> dict[int, Path]:
    """Return the files of a log by their first sequence, in order."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix == _SUFFIX and path.stem.isdecimal() and len(path.stem) == _N_DIGITS:
            found[int(path.stem)] = path
    return dict(sorted(found.items()))


def tidy(folder: Path, head: Head) -> None:
    """Remove what an interrupted truncation or publication left.

    Raises:
        OSError: the folder cannot be changed.
    """
    for first_sequence, path in segment_paths(folder).items():
        if first_sequence < head.first_sequence:
            disk.remove(path)
    for path in folder.glob(f"*{disk.NEW}"):
        disk.remove(path)


def recover(folder: Path, head: Head, n_request_ids: int) -> Recovered:
    """Prove every byte of a log; changes nothing.

    Raises:
        CorruptArtifact: records are damaged or missing that may have been acknowledged.
        OSError: a file cannot be read.
    """
    found = Recovered([], dict(head.answered))
    _recover(found, folder, head, n_request_ids)
    return found


def recover_up_to_damage(folder: Path, n_request_ids: int) -> Recovered:
    """As `recover`, of what lies before the first damaged or missing record; `damage` tells of that.

    Raises:
        NotFound: the folder holds no log.
        CorruptArtifact: the head and all segments' headers are damaged, so that nothing can be proved.
        OSError: a file cannot be read.
    """
    head, damage = surviving_head(folder)
    found = Recovered([], dict(head.answered))
    try:
        _recover(found, folder, head, n_request_ids)
        found.damage = damage
    except CorruptArtifact as error:
        found.damage = str(error)
    if not found.segments:
        found.segments = [Segment(segment_path(folder, head.first_sequence), head.log_id, head.first_sequence)]
    return found


def _recover(found: Recovered, folder: Path, head: Head, n_request_ids: int) -> None:
    found.forget_requests(n_request_ids)
    expected = head.first_sequence
    paths = {first: path for first, path in segment_paths(folder).items() if first >= head.first_sequence}
    for first_sequence, path in paths.items():
        segment = Segment(path, head.log_id, first_sequence)
        if first_sequence != expected:
            missing = f"records {expected} to {first_sequence - 1} are missing before it"
            raise segment.corrupt("open", 0, missing)
        found.segments.append(segment)
        _recover_segment(found, n_request_ids, is_last=path == list(paths.values())[-1])
        expected = segment.last_sequence + 1
    if expected <= head.synced_sequence or not paths:
        last = found.segments[-1] if paths else Segment(segment_path(folder, expected), head.log_id, expected)
        missing = f"records {expected} to {head.synced_sequence} are missing, which were acknowledged"
        raise last.corrupt("open", last.end, missing)
    found.proved_sequence = max(found.proved_sequence, head.synced_sequence)


def recover_beside_a_writer(folder: Path, head: Head, n_request_ids: int) -> Recovered:
    """As `recover`, while a process may append, rotate and truncate.

    Raises:
        CorruptArtifact: as there.
        OSError: a file cannot be read.
    """
    for _ in range(_N_TRIES):
        try:
            return recover(folder, head, n_request_ids)
        except (CorruptArtifact, FileNotFoundError):
            before, head = head, read_head(folder) or head
            if head == before:
                raise
    return recover(folder, head, n_request_ids)


def _recover_segment(found: Recovered, n_request_ids: int, *, is_last: bool) -> None:
    segment = found.segments[-1]
    found.unproved_bytes = HEADER_BYTES
    found.proved_sequence = segment.last_sequence  # the file before was synced before this one was begun
    with SegmentReader(segment) as reader:
        found.file_bytes = reader.size()
        reader.check_header()
        while segment.end < found.file_bytes:
            try:
                frame, body = _proved(reader, segment.end, found.file_bytes)
            except BadFrame as bad:
                if _is_torn(reader, segment, found.file_bytes, bad, is_last=is_last):
                    found.n_torn_bytes = reader.end_of_bytes(segment.end, found.file_bytes) - segment.end
                    return
                continue
            if frame.first_sequence != segment.last_sequence + 1:
                wrong = f"record {frame.first_sequence} follows {segment.last_sequence}"
                raise segment.corrupt("open", frame.offset, wrong)
            found.unproved_bytes = frame.synced_bytes
            if frame.synced_bytes == frame.offset:
                found.proved_sequence = segment.last_sequence
            segment.grow(frame.first_sequence, frame.last_sequence, frame.offset, frame.end)
            if body.request_id:
                found.answered.pop(body.request_id, None)  # the newest of its name, and the last in order
                found.answered[body.request_id] = (frame.first_sequence, frame.last_sequence)
                found.forget_requests(n_request_ids)


def _is_torn(reader: SegmentReader, segment: Segment, end: int, bad: BadFrame, *, is_last: bool) -> bool:
    """Return whether the log ends at a bad frame; False where a process that writes has just written a good one.

    Raises:
        CorruptArtifact: the frame had been on disk, so it is damaged.
    """
    at = segment.end
    later = next((frame for frame in reader.later_frames(at + 1, end) if frame.synced_bytes > at), None)
    if later:
        reader.forget()
        try:
            _proved(reader, at, end)
        except BadFrame:
            told = f"{bad}, and record {later.first_sequence} at byte {later.offset} was written later"
            raise segment.corrupt("open", at, told) from bad
        return False
    if not is_last:
        raise segment.corrupt("open", at, f"{bad}, and a later file follows") from bad
    return True


def _proved(reader: SegmentReader, offset: int, end: int) -> tuple[Frame, Body]:
    frame = reader.frame(offset, end)
    return frame, reader.body(frame)


def surviving_head(folder: Path) -> tuple[Head, str | None]:
    """Return the head of a log, and what is wrong with it; where it is damaged, what the files say that it was.

    Raises:
        NotFound: the folder holds no log.
        CorruptArtifact: it and the headers of all files are damaged, or of another format.
        OSError: a file cannot be read.
    """
    paths = segment_paths(folder)
    damage = f"[open] the head of the log in {folder.name} is missing; {CURE}"
    try:
        if head := read_head(folder):
            return head, None
    except CorruptArtifact as error:
        damage = str(error)
    if not paths:
        raise NotFound(f"[open] no write log in {folder.name}; expected the folder that holds its `{_SUFFIX}` files")
    first_sequence = next(iter(paths))
    for path in paths.values():
        if log_id := log_id_of(path):
            return Head(log_id, first_sequence, first_sequence - 1, {}), damage
    raise CorruptArtifact(
        f"[open] neither the head nor any of the headers of {len(paths)} files is whole; restore one of them from a copy"
    )


def whole_frames(reader: SegmentReader) -> Iterator[tuple[Frame, Body]]:
    """Yield every whole frame of a file, in the order of their places, stepping over what is damaged."""
    at, end = HEADER_BYTES, reader.size()
    while at < end:
        try:
            frame, body = _proved(reader, at, end)
        except BadFrame:
            at = next((later.offset for later in reader.later_frames(at + 1, end)), end)
        else:
            yield frame, body
            at = frame.end
