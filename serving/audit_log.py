"""Who did what to a service's configuration: a file of lines, each with the hash of the one before it.

A line that is changed, taken out, put in or moved breaks the chain. Lines cut off at the end do not: keep the last digest
elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from matching.errors import CorruptArtifact, NotFound, Unavailable
from matching.files import sync

_log = logging.getLogger(__name__)
_FIRST: Final = "0" * 64  # stands before the first line
_TAIL_BYTES: Final = 64 * 1024  # a line is far shorter


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line.

    Attributes:
        number: counted from 1.
        at: when, ISO 8601 in UTC.
        told: who, action, object, version, result.
        digest: SHA-256 of the line before and of this one.
    """

    number: int
    at: str
    told: dict[str, Any]
    digest: str


class AuditLog:
    """An append-only file. Thread-safe; several processes may append to one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, told: Mapping[str, Any]) -> AuditEntry:
        """Add a line, and return when it is on disk.

        Raises:
            Unavailable: it cannot be written; whoever asks should not go on.
        """
        try:
            is_new = not self._path.exists()
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "rb+", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                last = _last(file.fileno())
                number, previous = (1, _FIRST) if last is None else (last.number + 1, last.digest)
                at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
                entry = AuditEntry(number, at, dict(told), _digest(previous, number, at, told))
                file.write(_line(entry))
                os.fsync(file.fileno())
            if is_new:
                sync(self._path.parent)
        except (OSError, CorruptArtifact) as error:
            raise Unavailable(
                f"[audit] {self._path} takes no line: {error}; expected a file that can be written and whose last line is whole; "
                "mend it, or keep it and name another file"
            ) from error
        return entry

    def entries(self) -> Iterator[AuditEntry]:
        """Yield all lines, each after it was proved.

        Raises:
            NotFound: there is no such file.
            CorruptArtifact: the chain is broken; the message tells where.
        """
        previous = _FIRST
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            raise NotFound(f"[audit] there is no file {self._path}; the setting auth.audit_file names it") from None
        with file:
            for number, line in enumerate(file, 1):
                entry = _entry(line)
                is_next = entry is not None and entry.number == number
                if entry is None or not is_next or entry.digest != _digest(previous, number, entry.at, entry.told):
                    raise CorruptArtifact(
                        f"[audit] line {number} of {self._path} does not follow from the line before it; expected an unbroken "
                        "chain; somebody changed, removed or moved lines: compare with a copy"
                    )
                previous = entry.digest
                yield entry


class AuditHandler(logging.Handler):
    """Appends what the logger `serving.audit` is told."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = AuditLog(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; where that fails, say so in the log."""
        if isinstance(record.msg, dict):
            try:
                self._file.append(record.msg)
            except Unavailable as error:
                _log.error("%s", error)


def _digest(previous: str, number: int, at: str, told: Mapping[str, Any]) -> str:
    content = json.dumps([previous, number, at, told], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


def _line(entry: AuditEntry) -> bytes:
    held = {"number": entry.number, "at": entry.at, **entry.told, "digest": entry.digest}
    return json.dumps(held).encode() + b"\n"


def _entry(line: bytes) -> AuditEntry | None:
    try:
        held = json.loads(line)
        number, at, digest = held.pop("number"), held.pop("at"), held.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return AuditEntry(number, at, held, digest) if line.endswith(b"\n") else None


def _last(handle: int) -> AuditEntry | None:
    size = os.fstat(handle).st_size
    if size == 0:
        return None
    tail = os.pread(handle, _TAIL_BYTES, max(size - _TAIL_BYTES, 0))
    if (entry := _entry(tail.rstrip(b"\n").rpartition(b"\n")[2] + tail[-1:])) is None:
        raise CorruptArtifact("the last line is torn")
    return entry
