"""An append-only history in one file: a line holds a checksum and a JSON object, and the last line rules."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cpp_ext
from matching.errors import CorruptArtifact
from matching.files import sync

Line = Mapping[str, Any]


class Journal:
    """The history of one thing. Several threads and processes may read and append at once."""

    def __init__(self, file: Path, of: str) -> None:
        """Stand for the history in `file`, of what errors call `of`; the file need not be there."""
        self._file = file
        self._of = of

    def lines(self) -> tuple[dict[str, Any], ...]:
        """Return what was appended, oldest first; nothing where there is no file.

        Raises:
            CorruptArtifact: a line does not match its checksum.
        """
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            return ()
        found = []
        for at, line in enumerate(content.split(b"\n")[:-1], 1):  # a torn last line never took effect
            checksum, _, told = line.partition(b" ")
            if checksum != _checksum(told):
                raise CorruptArtifact(
                    f"[store] line {at} of the history of {self._of} does not match its checksum; restore {self._file.name}, "
                    "or remove the line after checking what should be live"
                )
            found.append(json.loads(told))
        return tuple(found)

    def append(self, make: Callable[[tuple[dict[str, Any], ...]], Line]) -> Line:
        """Append what `make` says to the lines that are there, and return it once it is on disk.

        Raises:
            CorruptArtifact: a line is damaged.
        """
        self._file.parent.mkdir(exist_ok=True)
        with _locked(self._file.with_suffix(".lock")):
            line = make(self.lines())
            content = json.dumps(line, ensure_ascii=False, sort_keys=True).encode()
            with self._file.open("ab") as out:
                out.truncate(_whole_bytes(self._file))
                out.write(_checksum(content) + b" " + content + b"\n")
                out.flush()
                os.fsync(out.fileno())
            sync(self._file.parent)
        return line

    def stamp(self) -> tuple[int, int]:
        """Return what changes with every line: cheap enough to be asked often."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_mtime_ns, found.st_size


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _whole_bytes(file: Path) -> int:
    return file.read_bytes().rfind(b"\n") + 1


def _checksum(content: bytes) -> bytes:
    return b"%08x" % int(cpp_ext.crc32c(content or b"\0", max(len(content), 1))[0])
