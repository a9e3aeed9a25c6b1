"""Every way in which the write log changes a disk; nothing is on it before `sync`, `cut` or `sync_folder` returned.

All of them raise OSError, and none tries again: after a failed sync the kernel may call lost pages clean.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from matching.files import sync as _sync_path

NEW = ".new"  # behind the name of a file that is not published yet
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: OSError) -> bool:
    """Return whether there was no space; what was on disk before is there still."""
    return error.errno in _FULL


def create(path: Path) -> int:
    """Open a file for reading and writing, emptied if it is there; return its handle."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)


def write(handle: int, data: bytes, at: int) -> None:
    """Write all of the data at a byte offset, however many calls that takes."""
    left = memoryview(data)
    while left:
        n = os.pwrite(handle, left, at)
        left, at = left[n:], at + n


def reserve(handle: int, start: int, n_bytes: int) -> None:
    """Let the file reach over n_bytes of zeros more, where the file system can: a sync is cheaper when no size changes."""
    if hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError):  # only for speed; a full disk will tell when it is written to
            os.posix_fallocate(handle, start, n_bytes)


def sync(handle: int) -> None:
    """Wait until what was written is on disk."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(handle)
    else:
        os.fsync(handle)


def cut(handle: int, size: int) -> None:
    """Let the file end after size bytes, and wait until that is on disk."""
    os.ftruncate(handle, size)
    os.fsync(handle)


def replace(source: Path, target: Path) -> None:
    """Give a file another name, which may be taken."""
    source.replace(target)


def remove(path: Path) -> None:
    """Remove a name; it need not be there."""
    path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    _sync_path(path)


def publish(path: Path, data: bytes) -> None:
    """Put a file under a name in one step, and wait until both are on disk: it is there whole, or as it was before."""
    new = path.with_name(path.name + NEW)
    handle = create(new)
    try:
        write(handle, data, 0)
        sync(handle)
    finally:
        os.close(handle)
    replace(new, path)
    sync_folder(path.parent)
