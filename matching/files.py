"""Files on disk: their digests, and making their names durable."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex, read in blocks.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reserve(handle: int, n_bytes: int) -> None:
    """Claim the first bytes of a file: a full disk says so here, and not by a signal when a mapped page is written.

    Raises:
        OSError: the disk is full, or files may not grow so large.
    """
    if not hasattr(os, "posix_fallocate") or not n_bytes:
        return
    try:
        os.posix_fallocate(handle, 0, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
            raise
