"""Keyed hashes in place of the ids of users: what is kept tells nobody who they are."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

from matching.errors import InvalidInput
from matching.files import sync

_SECRET_BYTES: Final = 32
_KEY_BYTES: Final = 16


class UserKeys:
    """Makes keys with one secret. Immutable and thread-safe; a lost secret makes all users strangers."""

    def __init__(self, secret: bytes) -> None:
        """Take a secret.

        Raises:
            InvalidInput: it is shorter than 32 bytes, or longer than 64.
        """
        if not _SECRET_BYTES <= len(secret) <= 64:
            raise InvalidInput(
                f"[users] the secret has {len(secret)} bytes; expected {_SECRET_BYTES} to 64; leave the file away and one is made"
            )
        self._secret = secret

    @classmethod
    def of_file(cls, file: Path) -> UserKeys:
        """Read the secret from a file of hex digits; a file that is missing is made, readable by its owner alone.

        Raises:
            InvalidInput: the file cannot be read or made, or others may read it, or it holds something else.
        """
        try:
            _make(file)
            with file.open("rb") as held:
                if os.fstat(held.fileno()).st_mode & 0o077:
                    raise InvalidInput(f"[users] others may read {file}; expected mode 0600; chmod 600 it")
                return cls(bytes.fromhex(held.read(1000).decode("ascii").strip()))
        except OSError as error:
            raise InvalidInput(f"[users] secret {file}: {error.strerror}; expected a file to read or make") from error
        except ValueError as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"[users] {file} is no secret; expected 64 hex digits; restore it") from error

    def key(self, raw_id: str) -> str:
        """Return the key of a user's id, "" for ""."""
        if not raw_id:
            return ""
        return hashlib.blake2b(raw_id.encode(), digest_size=_KEY_BYTES, key=self._secret).hexdigest()

    def derived(self, purpose: str) -> bytes:
        """Return a secret of 32 bytes for another purpose."""
        return hashlib.blake2b(purpose.encode(), digest_size=32, key=self._secret, person=b"derived").digest()

    @property
    def fingerprint(self) -> str:
        """What tells secrets apart, and nothing of them."""
        return hashlib.blake2b(b"fingerprint", digest_size=8, key=self._secret, person=b"likewise").hexdigest()


def user_digest(key: str) -> str:
    """Return what stands for a user's key where the key itself is not to be left: 64 hex digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def visit_digest(session: str) -> str:
    """Return the same for a visit."""
    return hashlib.sha256(f"visit\0{session}".encode()).hexdigest()


def _make(file: Path) -> None:
    """Make a secret, whole or not at all, where there is none."""
    if file.exists():
        return
    whole = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    handle = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as new:
            new.write(secrets.token_bytes(_SECRET_BYTES).hex() + "\n")
            new.flush()
            os.fsync(new.fileno())
        try:
            os.link(whole, file)  # refuses where another process was first
        except FileExistsError:
            return
        sync(file.parent)
    finally:
        whole.unlink()
