"""A file that is read again when it has changed, so that a running service follows it."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from matching.errors import InvalidInput

T = TypeVar("T")
_log = logging.getLogger(__name__)


class WatchedFile(Generic[T]):
    """What a file says now, or what it said last while it was readable. Belongs to one event loop.

    A file that somebody breaks or removes while the service runs is told of in the log, once, and changes nothing.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        """Read the file.

        Args:
            path: the file; nobody but its owner may be able to write it.
            parse: makes a value of its bytes; raises InvalidInput where it cannot.

        Raises:
            InvalidInput: it cannot be read, others may write it, or `parse` refuses it.
        """
        self._path = path
        self._parse = parse
        self._stamp, self._value = self._read()

    @property
    def value(self) -> T:
        """What the file says, read again if it is not the file that it was."""
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            try:
                self._stamp, self._value = self._read()
                _log.info("read %s again", self._path)
            except InvalidInput as error:
                self._stamp = stamp  # told once; it is read again when it changes again
                _log.error("%s; what was read before stays in force", error)
        return self._value

    def _read(self) -> tuple[tuple[int, ...], T]:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                content = file.read()
        except OSError as error:
            raise InvalidInput(
                f"[auth] {self._path} cannot be read: {error.strerror}; expected a file; make it, or correct the settings"
            ) from error
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InvalidInput(
                f"[auth] {self._path} has mode {stat.S_IMODE(found.st_mode):o}: others may write it; expected 600; chmod it"
            )
        try:
            return _of(found), self._parse(content)
        except InvalidInput as error:
            raise InvalidInput(f"[auth] {self._path}: {error}") from error


def _of(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        return _of(path.stat())
    except OSError:
        return ()
