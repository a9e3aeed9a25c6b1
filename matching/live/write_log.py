"""The write log: records in the order in which they were acknowledged, kept through kills, power cuts and full disks.

What holds:

*   An append that returned is on disk. After any crash it is there, at its sequence, in order, whole.
*   An append that raised, or never returned, is there whole or not at all. It is never told which; repeat it with its request
    id, and it is in the log once.
*   Sequences start at 1, have no gaps and never go back for an acknowledged record.
*   While the disk is full, appends are refused and reads go on; what of them was written is cut off again before they are told.
    Appends go on once there is space.
*   After any other error of a write, and the first of a sync, nothing is acknowledged any more by this object. It does not ask
    the disk again: a second sync may succeed over pages that the first one lost. Reads go on, up to the last acknowledged record.
    Closing and opening anew writes the unproved end of the log once more before it believes it.
*   Opening cuts a torn end, which no one was told of, and says so; damage anywhere else is refused.

What no log can tell: whether the newest frames were torn by a crash or rotted since, while nothing later proves them: no later
frame that was written after their sync, no orderly close, no opening.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from matching.errors import (
    AlreadyExists,
    CorruptArtifact,
    InvalidInput,
    LimitExceeded,
    NotFound,
    StorageFull,
    Unavailable,
)
from matching.live import disk
from matching.live.head import Head, read_head
from matching.live.log import (
    MAX_REQUEST_ID_BYTES,
    Appended,
    Reach,
    Record,
    check_append,
    check_covered,
    not_yet,
    truncated,
)
from matching.live.recovery import (
    Recovered,
    recover,
    recover_beside_a_writer,
    recover_up_to_damage,
    segment_path,
    segment_paths,
    tidy,
)
from matching.live.segment import (
    CURE,
    FRAME_BYTES,
    HEADER_BYTES,
    MAX_BODY_BYTES,
    BadFrame,
    Frame,
    Segment,
    SegmentReader,
    new_log_id,
    pack_body,
)

LOCK = "lock"
_MAX_GROUP_BYTES = 1 << 23  # what one sync may have to wait for, unless one append is larger
_RESERVED_BYTES = 1 << 22
_COPIED_BYTES = 1 << 22
_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    """An append on its way to the disk; guarded by the log's lock but for `gate`, which its thread waits at."""

    body: bytes
    n_records: int
    request_id: str | None
    first_sequence: int = 0
    offset: int = 0
    is_done: bool = False
    is_refused: bool = False  # the disk is full
    is_abandoned: bool = False
    gate: threading.Lock = field(default_factory=threading.Lock)

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + self.n_records - 1


class WriteLog:
    """A folder of segments with one writer; made by `open`, a context manager.

    Thread-safe. One thread among those that append writes and syncs for all that wait; no thread of its own. A process that was
    forked off may only call `close`, and should: the writer's lock on the folder is held until every copy of its handle is
    closed. Programs that were executed inherit nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool,
        up_to_damage: bool,
        segment_bytes: int,
        n_request_ids: int,
        first_sequence: int,
    ) -> None:
        self._folder = folder
        self._is_read_only = read_only
        self._segment_bytes = segment_bytes
        self._n_request_ids = n_request_ids
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._progress = threading.Condition(self._lock)  # notified when something was synced, failed or closed
        self._files = threading.Lock()  # taken before _lock: by what replaces the head
        self._queue: list[_Waiting] = []
        self._leader: _Waiting | None = None
        self._failure: str | None = None
        self._shortage: str | None = None
        self._is_closed = False
        self._requests: dict[str, _Waiting | Appended] = {}  # oldest first
        self._segments: list[Segment] = []
        self._cut_bytes = 0
        self._proved_sequence = 0
        self._handle = -1  # of the last segment
        self._reserved_end = 0
        self._is_head_due = False
        self._lock_handle = -1 if read_only else locked(folder)
        try:
            if up_to_damage:
                self._take(recover_up_to_damage(folder, n_request_ids))
            else:
                self._recover(first_sequence)
        except BaseException:
            self._close_handles()
            raise

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        read_only: bool = False,
        up_to_damage: bool = False,
        segment_bytes: int = 1 << 26,
        n_request_ids: int = 1 << 16,
        first_sequence: int = 1,
    ) -> WriteLog:
        """Open a log and prove every byte of it, or make a new one.

        A torn end is cut off and a warning says how many bytes. The time is that of reading all that is retained.

        Args:
            folder: of the log alone; made where it is missing.
            read_only: take no lock and change nothing; what was whole at this moment can be read, whether or not the process
                that writes has acknowledged it yet. Open again to see more.
            up_to_damage: read-only, of a damaged log what lies before the damage, which is its `failure` then.
            segment_bytes: a new file is begun where this one would grow larger; a larger append has a file for itself.
            n_request_ids: how many request ids, the newest, are remembered; truncating does not forget them.
            first_sequence: of a new log; one that is there keeps its own.

        Raises:
            InvalidInput: a size or sequence is not positive, or a log is to be written to up to its damage.
            Unavailable: another process, or another object of this one, writes to the folder.
            NotFound: read-only, and there is no log.
            CorruptArtifact: records are damaged or missing; the message tells the file, the offset in bytes and what to do.
            OSError: the folder cannot be read or written.
        """
        for name, value in (("segment_bytes", segment_bytes), ("first_sequence", first_sequence)):
            if value < 1:
                raise InvalidInput(f"[open] {name} is {value}; expected 1 or more")
        if n_request_ids < 0:
            raise InvalidInput(f"[open] n_request_ids is {n_request_ids}; expected 0 or more")
        if up_to_damage and not read_only:
            raise InvalidInput("[open] a damaged log can only be read; expected read_only with up_to_damage")
        return cls(
            Path(folder),
            read_only=read_only,
            up_to_damage=up_to_damage,
            segment_bytes=segment_bytes,
            n_request_ids=n_request_ids,
            first_sequence=first_sequence,
        )

    def __enter__(self) -> WriteLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def first_sequence(self) -> int:
        """The sequence of the oldest record that is retained, or will be."""
        return self._segments[0].first_sequence

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest acknowledged record; first_sequence - 1 where none is retained."""
        return self._segments[-1].last_sequence

    @property
    def proved_sequence(self) -> int:
        """The newest record that is known to be on disk.

        For the process that writes that is last_sequence. One that reads beside it may see records that were written and not
        synced, so that a power cut may yet take them away; up to here, something later proves the sync.
        """
        return self._proved_sequence if self._is_read_only else self.last_sequence

    @property
    def n_bytes(self) -> int:
        """Bytes of all records that are retained, with their frames."""
        with self._lock:
            return sum(segment.end for segment in self._segments)

    @property
    def cut_bytes(self) -> int:
        """Bytes of a torn end: those that opening cut off, or would have if it were not read-only."""
        return self._cut_bytes

    @property
    def failure(self) -> str | None:
        """Why nothing is acknowledged, for good or while the disk is full; None while all is well."""
        return self._failure or self._shortage

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: the log is closed, read-only or has failed."""
        return self._is_closed or self._is_read_only or self._failure is not None

    @property
    def reach(self) -> Reach:
        """How far the log reaches: what is on disk can be read at once."""
        return Reach(self.last_sequence)

    def answered(self, request_id: str) -> Appended | None:
        """Return how a request was answered, None for one that is not remembered or waits for the disk."""
        with self._lock:
            known = self._requests.get(request_id)
        return replace(known, is_repeat=True) if isinstance(known, Appended) else None

    def newest(self, *, timeout_s: float) -> int:
        """Return the sequence of the newest acknowledged record; only this object acknowledges any."""
        return self.last_sequence

    def append(self, payloads: Sequence[bytes], *, request_id: str | None = None) -> Appended:
        """Append records, all or none of them, and return when they are on disk.

        Appends of other threads that wait meanwhile share one sync.

        Args:
            payloads: at least one; together at most 64 MiB.
            request_id: what a repeated request repeats, at most 255 bytes of UTF-8. If it is among those remembered, nothing is
                appended, whatever the payloads; if the first such request still waits for the disk, this one waits too.

        Raises:
            InvalidInput: no payloads, or an empty request id.
            LimitExceeded: too many bytes.
            StorageFull: the disk is; the records are not there.
            Unavailable: the log is closed, read-only or has failed, now or before. If it failed now, the records may be there
                after the log was opened anew: repeat the request with its request id.
        """
        waiting = _checked(payloads, request_id)
        self._check_process("append")
        try:
            with self._lock:
                self._check_open("append")
                self._check_failure("append")
                if self._is_read_only:
                    raise Unavailable("[append] the log was opened read-only; open it without read_only to write")
                known = self._requests.get(request_id) if request_id is not None else None
                if known is not None:
                    return self._repeated(known)
                self._enqueue(waiting)
                leads = self._leader is waiting
            if leads:
                self._lead(waiting)
            else:
                waiting.gate.acquire()
                if self._leader is waiting:
                    self._lead(waiting)
        except BaseException:
            self._abandon(waiting)
            raise
        self._check_taken(waiting)
        return Appended(waiting.first_sequence, waiting.last_sequence)

    def read(self, first_sequence: int) -> Iterator[Record]:
        """Yield the acknowledged records from a sequence on, as `Log.read` says: a chunk at a time, from files of its own.

        Raises:
            NotFound, CorruptArtifact, Unavailable: as there.
            OSError: while iterating, the disk cannot be read.
        """
        self._check_process("read")
        with self._lock:
            self._check_open("read")
            if first_sequence > self.last_sequence + 1:
                raise not_yet(first_sequence, self.last_sequence)
            self._segment_of(first_sequence)
        return self._records(first_sequence)

    def wait(self, sequence: int, *, timeout_s: float) -> bool:
        """Wait until a record is acknowledged; return whether it is.

        Raises:
            Unavailable: it is not, and the log is closed, read-only or has failed, so that it never will be.
        """
        self._check_process("wait")
        with self._progress:
            self._progress.wait_for(
                lambda: (
                    self.last_sequence >= sequence or self._is_closed or self._failure is not None or self._is_read_only
                ),
                timeout_s,
            )
            if self.last_sequence >= sequence:
                return True
            self._check_open("wait")
            self._check_failure("wait")
            if self._is_read_only:
                raise Unavailable(
                    f"[wait] the log was opened read-only and ends at {self.last_sequence}; open it again to see more"
                )
            return False

    def truncate(self, covered_sequence: int) -> int:
        """Drop the files whose records are all covered by a sealed version; return the oldest sequence that is retained.

        The file that is being written stays. Request ids stay remembered. A read that has begun on a dropped file finishes
        that file. After a crash the files are dropped or all there, as before.

        Args:
            covered_sequence: the last sequence that is no longer needed.

        Raises:
            InvalidInput: it was not acknowledged yet.
            Unavailable: the log is closed, read-only or has failed, or the disk refuses; all records are there still.
        """
        self._check_process("truncate")
        with self._files:
            with self._lock:
                self._check_open("truncate")
                self._check_failure("truncate")
                if self._is_read_only:
                    raise Unavailable("[truncate] the log was opened read-only; open it without read_only to write")
                check_covered(covered_sequence, self.last_sequence)
                n_dropped = sum(segment.last_sequence <= covered_sequence for segment in self._segments[:-1])
                dropped = self._segments[:n_dropped]
                head = self._head(self._segments[n_dropped].first_sequence)
            if not dropped:
                return head.first_sequence
            try:
                head.write(self._folder)
            except OSError as error:
                raise Unavailable(
                    f"[truncate] the head cannot be written: {_told(error)}; nothing was dropped"
                ) from error
            with self._lock:
                del self._segments[:n_dropped]
            for segment in dropped:
                with contextlib.suppress(OSError):  # the next opening removes it
                    disk.remove(segment.path)
            return head.first_sequence

    def copy(self, folder: Path) -> int:
        """Write the acknowledged records, with their request ids, as a log of its own; return the sequence of the last.

        Of a log that was opened read-only: the records that it sees. Appends may go on meanwhile; what they add is left out.

        Args:
            folder: made where it is missing; must hold no log.

        Raises:
            AlreadyExists: it holds one.
            NotFound: records were truncated meanwhile; open the log anew and copy it again.
            Unavailable: the log is closed.
            OSError: it cannot be written; the head, without which it is no log, is written last.
        """
        self._check_process("copy")
        folder.mkdir(parents=True, exist_ok=True)
        if read_head(folder) or segment_paths(folder):
            raise AlreadyExists(f"[copy] {folder.name} holds a log; choose an empty folder")
        with self._lock:
            self._check_open("copy")
            parts = [(segment, segment.end) for segment in self._segments]
            head = self._head(self.first_sequence)
        for segment, end in parts:
            with contextlib.closing(self._reader(segment)) as reader:
                _copy_file(reader, segment_path(folder, segment.first_sequence), end)
        head.write(folder)
        return head.synced_sequence

    def close(self) -> None:
        """Wait for the appends that wait for the disk, note that the log ended here, and let others write.

        May be called twice. After a failure the files are left as they are.

        Raises:
            Unavailable: the note cannot be written; all acknowledged records are there still.
        """
        if os.getpid() != self._process:
            self._is_closed = True
            self._close_handles()  # the lock is the parent's until it has closed its own
            return
        with self._progress:
            if self._is_closed:
                return
            self._is_closed = True
            self._progress.notify_all()
            self._progress.wait_for(lambda: self._leader is None and not self._queue)
        try:
            if not self._is_read_only and self._failure is None:
                with self._files:
                    disk.cut(self._handle, self._segments[-1].end)
                    self._head(self.first_sequence).write(self._folder)
        except OSError as error:
            self._failure = _told(error)
            raise Unavailable(
                f"[close] the end of the log cannot be noted: {self._failure}; all acknowledged records are there"
            ) from error
        finally:
            self._close_handles()

    # the way of an append

    def _repeated(self, known: _Waiting | Appended) -> Appended:
        while isinstance(known, _Waiting) and not known.is_done:
            self._check_failure("append")
            if known.is_refused:
                raise self._full()
            self._progress.wait()
        return Appended(known.first_sequence, known.last_sequence, is_repeat=True)

    def _enqueue(self, waiting: _Waiting) -> None:
        waiting.gate.acquire()
        self._queue.append(waiting)
        if waiting.request_id is not None:
            self._requests[waiting.request_id] = waiting
            self._forget_requests()
        if self._leader is None:
            self._leader = waiting

    def _lead(self, own: _Waiting) -> None:
        """Commit groups until the own append is on disk, then hand the lead to another thread that waits."""
        while True:
            with self._lock:
                if not self._queue:
                    self._leader = None
                    self._progress.notify_all()
                    return
                heir = next((waiting for waiting in self._queue if not waiting.is_abandoned), None)
                if heir is not None and (own.is_done or own.is_refused or own.is_abandoned):
                    self._leader = heir
                    heir.gate.release()
                    return
                group, n_bytes = 0, 0
                while group < len(self._queue) and (group == 0 or n_bytes < _MAX_GROUP_BYTES):
                    n_bytes += FRAME_BYTES + len(self._queue[group].body)
                    group += 1
                taken = self._queue[:group]
            self._commit(taken, n_bytes)

    def _commit(self, group: list[_Waiting], n_bytes: int) -> None:
        """Write and sync what waits at the front of the queue, and let it go; on any error but a full disk stop for good."""
        try:
            try:
                segment = self._written(group, n_bytes)
            except OSError as error:
                if not disk.is_full(error):
                    raise
                self._refuse(group, error)
                return
            disk.sync(self._handle)
            with self._lock:
                self._acknowledge(segment, group)
        except BaseException as error:  # an interrupt too: what it left on disk is unknown
            self._stop(error)
            if not isinstance(error, Exception):
                raise

    def _written(self, group: list[_Waiting], n_bytes: int) -> Segment:
        """Write a group behind the last acknowledged record; return the segment that has it now, not synced."""
        segment = self._segments[-1]
        if segment.end > HEADER_BYTES and segment.end + n_bytes > self._segment_bytes:
            segment = self._rotate()
        if self._is_head_due:
            self._note_head()
        at, sequence = segment.end, segment.last_sequence + 1
        parts = []
        for waiting in group:
            waiting.first_sequence, waiting.offset = sequence, at
            parts += [segment.frame(at, waiting.body, waiting.n_records, sequence, segment.end), waiting.body]
            at += FRAME_BYTES + len(waiting.body)
            sequence += waiting.n_records
        self._reserve(at)
        disk.write(self._handle, b"".join(parts), segment.end)
        return segment

    def _refuse(self, group: list[_Waiting], error: OSError) -> None:
        """Take back what was written of a group: a repeat of it, elsewhere, must not find half of it behind itself."""
        end = self._segments[-1].end
        disk.cut(self._handle, end)
        self._reserved_end = end
        with self._lock:
            is_news = self._shortage is None
            self._shortage = _short(error)
            del self._queue[: len(group)]
            for waiting in group:
                waiting.is_refused = True
                if waiting.request_id is not None and self._requests.get(waiting.request_id) is waiting:
                    del self._requests[waiting.request_id]
                if waiting is not self._leader:
                    waiting.gate.release()
            self._progress.notify_all()
        if is_news:
            _logger.error("[append] the write log takes no writes: %s", self._shortage)

    def _reserve(self, end: int) -> None:
        if end > self._reserved_end:
            reserved_end = max(end, min(end + _RESERVED_BYTES, self._segment_bytes))
            disk.reserve(self._handle, self._reserved_end, reserved_end - self._reserved_end)
            self._reserved_end = reserved_end

    def _acknowledge(self, segment: Segment, group: list[_Waiting]) -> None:
        for waiting in group:
            end = waiting.offset + FRAME_BYTES + len(waiting.body)
            segment.grow(waiting.first_sequence, waiting.last_sequence, waiting.offset, end)
        del self._queue[: len(group)]
        if self._shortage is not None:
            self._shortage = None
            _logger.warning("[append] there is space again, the write log takes writes")
        for waiting in group:
            waiting.is_done = True
            if waiting.request_id is not None and self._requests.get(waiting.request_id) is waiting:
                self._requests[waiting.request_id] = Appended(waiting.first_sequence, waiting.last_sequence)
            if waiting is not self._leader:
                waiting.gate.release()
        self._progress.notify_all()

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            self._failure = _told(error)
            for waiting in self._queue:
                if waiting.gate.locked():
                    waiting.gate.release()
            self._queue.clear()
            self._progress.notify_all()
        _logger.error("[append] the write log failed and acknowledges nothing more: %s", self._failure)

    def _abandon(self, waiting: _Waiting) -> None:
        """Leave the records of a thread that was interrupted to the others; lead them on if that was its turn."""
        with self._lock:
            waiting.is_abandoned = True
            leads = self._leader is waiting
        if leads:
            self._lead(waiting)

    def _rotate(self) -> Segment:
        """Begin a new file; the old one is whole on disk, and ends where its last record does."""
        old = self._segments[-1]
        disk.cut(self._handle, old.end)
        segment = Segment(segment_path(self._folder, old.last_sequence + 1), old.log_id, old.last_sequence + 1)
        with self._files:
            disk.publish(segment.path, segment.header())
            old_handle, self._handle = self._handle, os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
            os.close(old_handle)
            self._reserved_end = HEADER_BYTES
            self._is_head_due = True
            with self._lock:
                self._segments.append(segment)
        return segment

    def _note_head(self) -> None:
        """Note in the head what must be there."""
        with self._files:
            with self._lock:
                head = self._head(self.first_sequence)
            head.write(self._folder)
            self._is_head_due = False

    # reading

    def _records(self, sequence: int) -> Iterator[Record]:
        segment: Segment | None = None
        reader: SegmentReader | None = None
        offset = 0
        try:
            while True:
                with self._lock:
                    self._check_open("read")
                    if sequence > self.last_sequence:
                        return
                    found = segment if segment and sequence <= segment.last_sequence else self._segment_of(sequence)
                    end = found.end
                    if found is not segment:
                        offset = found.place_before(sequence)
                if reader is None or found is not segment:
                    if reader:
                        reader.close()
                        reader = None
                    segment, reader = found, self._reader(found)
                while offset < end:
                    frame, payloads = _read(found, reader, offset, end, sequence)
                    for at, payload in enumerate(payloads, frame.first_sequence):
                        if at >= sequence:
                            yield Record(at, payload)
                    offset, sequence = frame.end, max(sequence, frame.last_sequence + 1)
        finally:
            if reader:
                reader.close()

    def _reader(self, segment: Segment) -> SegmentReader:
        try:
            return SegmentReader(segment)
        except FileNotFoundError:
            with self._lock:
                self._segment_of(segment.first_sequence)
            head = read_head(self._folder)
            if head and head.first_sequence > segment.first_sequence:  # by the process that writes
                raise truncated(segment.first_sequence, head.first_sequence) from None
            raise segment.corrupt("read", 0, "the file is gone") from None

    def _segment_of(self, sequence: int) -> Segment:
        found = bisect_right(self._segments, sequence, key=lambda segment: segment.first_sequence) - 1
        if found < 0:
            raise truncated(sequence, self.first_sequence)
        return self._segments[found]

    # opening

    def _recover(self, first_sequence: int) -> None:
        head = read_head(self._folder)
        paths = segment_paths(self._folder)
        if head is None:
            if paths:
                first = next(iter(paths.values()))
                raise CorruptArtifact(f"[open] the head of the log is missing beside {first.name}; {CURE}")
            if self._is_read_only:
                raise _no_log(self._folder)
            head = Head(new_log_id(), first_sequence, first_sequence - 1, {})
            head.write(self._folder)
        is_new = not paths and head.synced_sequence < head.first_sequence
        if self._is_read_only:
            if is_new:
                raise _no_log(self._folder)
            self._take(recover_beside_a_writer(self._folder, head, self._n_request_ids))
            return
        if is_new:
            segment = Segment(segment_path(self._folder, head.first_sequence), head.log_id, head.first_sequence)
            disk.publish(segment.path, segment.header())
        found = recover(self._folder, head, self._n_request_ids)
        self._take(found)
        self._mend(found)
        tidy(self._folder, head)
        try:
            self._note_head()
        except OSError as error:
            if not disk.is_full(error):
                raise
            self._is_head_due = True  # the one that is there holds
            self._shortage = _short(error)

    def _take(self, found: Recovered) -> None:
        self._segments = found.segments
        self._requests = {request_id: Appended(*where) for request_id, where in found.answered.items()}
        self._cut_bytes = found.n_torn_bytes
        self._proved_sequence = found.proved_sequence
        self._failure = found.damage

    def _mend(self, found: Recovered) -> None:
        """Cut the last file behind its last record, and put on disk what only memory may hold."""
        last = found.segments[-1]
        self._handle = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        self._reserved_end = last.end
        if found.file_bytes != last.end:
            disk.cut(self._handle, last.end)
        if (
            found.unproved_bytes < last.end
        ):  # after a failed sync the kernel may call pages clean that the disk never got
            with SegmentReader(last) as reader:
                unproved = reader.piece(found.unproved_bytes, last.end)
            disk.write(self._handle, unproved, found.unproved_bytes)
            disk.sync(self._handle)
        if found.n_torn_bytes:
            _logger.warning(
                "[open] %s: %d bytes of a torn record behind byte %d were cut off; no one was told that it was kept",
                last.path.name,
                found.n_torn_bytes,
                last.end,
            )

    # small things

    def _head(self, first_sequence: int) -> Head:
        answered = {}
        for request_id, found in self._requests.items():
            if isinstance(found, _Waiting) or found.first_sequence >= first_sequence:
                break
            answered[request_id] = (found.first_sequence, found.last_sequence)
        return Head(self._segments[0].log_id, first_sequence, self.last_sequence, answered)

    def _forget_requests(self) -> None:
        while len(self._requests) > self._n_request_ids:
            del self._requests[next(iter(self._requests))]

    def _close_handles(self) -> None:
        for handle in (self._handle, self._lock_handle):
            if handle >= 0:
                os.close(handle)
        self._handle = self._lock_handle = -1

    def _check_process(self, operation: str) -> None:
        if os.getpid() != self._process:
            raise Unavailable(
                f"[{operation}] the log was opened by process {self._process}, before a fork; open it here anew"
            )

    def _check_open(self, operation: str) -> None:
        if self._is_closed:
            raise Unavailable(f"[{operation}] the log is closed; open it again")

    def _check_failure(self, operation: str) -> None:
        if self._failure is not None:
            raise self._failed(operation)

    def _check_taken(self, waiting: _Waiting) -> None:
        if waiting.is_refused:
            raise self._full()
        if not waiting.is_done:
            raise self._failed("append")

    def _full(self) -> StorageFull:
        return StorageFull(
            "[append] the disk of the write log is full, so nothing was taken, reads go on; make room, or let versions take its "
            "writes in and truncate it, and send it again"
        )

    def _failed(self, operation: str) -> Unavailable:
        return Unavailable(
            f"[{operation}] the write log has failed: {self._failure}; nothing is acknowledged any more, reads go on; "
            "mend the disk, open the log again and repeat the request with its request id"
        )


def _checked(payloads: Sequence[bytes], request_id: str | None) -> _Waiting:
    """Return an append that may go to the disk."""
    encoded = check_append(payloads, request_id)
    n_bytes = sum(map(len, payloads)) + 4 * len(payloads)
    if n_bytes > MAX_BODY_BYTES - MAX_REQUEST_ID_BYTES - 2:
        raise LimitExceeded(
            f"[append] {len(payloads)} records take {n_bytes} bytes; at most {MAX_BODY_BYTES} fit one append: send fewer at once"
        )
    return _Waiting(pack_body(payloads, encoded), len(payloads), request_id)


def _read(segment: Segment, reader: SegmentReader, offset: int, end: int, sequence: int) -> tuple[Frame, list[bytes]]:
    """Return the frame at an offset, and its payloads unless all of them come before a sequence."""
    try:
        frame = reader.frame(offset, end)
        return frame, reader.body(frame).payloads if frame.last_sequence >= sequence else []
    except BadFrame as bad:
        raise segment.corrupt("read", offset, f"{bad}, which was whole when it was written") from bad


def _copy_file(reader: SegmentReader, path: Path, end: int) -> None:
    handle = disk.create(path)
    try:
        for start in range(0, end, _COPIED_BYTES):
            disk.write(handle, reader.piece(start, min(start + _COPIED_BYTES, end)), start)
        disk.sync(handle)
    finally:
        os.close(handle)


def _no_log(folder: Path) -> NotFound:
    return NotFound(f"[open] no write log in {folder.name}; open it for writing to make one")


def _told(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _short(error: OSError) -> str:
    return f"{_told(error)}; writes go on once there is space"


def locked(folder: Path) -> int:
    """Return the handle that keeps other writers out of a folder, which is made where it is missing.

    Raises:
        Unavailable: another process, or another object of this one, writes to the folder.
        OSError: the folder cannot be made or written to.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        disk.sync_folder(path.parent)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 20, 0).decode() or "unknown"
        os.close(handle)
        raise Unavailable(
            f"[open] process {holder} writes to {folder.name}; close it there, or open it read-only"
        ) from None
    except BaseException:
        os.close(handle)
        raise
    with contextlib.suppress(OSError):  # only for that message
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle
