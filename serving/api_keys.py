"""API keys: made, shown once, kept as hashes, found again, revoked."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from matching.errors import AlreadyExists, InvalidInput, NotFound
from matching.files import sync
from matching.store import check_name

T = TypeVar("T")
Scope = Literal["read", "write", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
MAX_LIVE: Final = 2
_FORMAT: Final = 1
_TEXT: Final = re.compile(r"lw_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")  # 43 letters hold 256 bits
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_NOBODY: Final = "0" * 64  # is compared where no key has the id, so that both cases take the same steps


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key.

    Attributes:
        key_id: names it, and begins its text; no secret.
        name: who holds it; two keys of one holder may live at once, so that one can replace the other.
        scopes: what it may.
        sha256: of its text, in hex.
        created_at: when it was made, ISO 8601 in UTC.
        expires_at: from when on it is refused, None for never.
    """

    key_id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created_at: str
    expires_at: str | None

    def is_live(self, now: datetime) -> bool:
        """Whether it may be used at a time."""
        return self.expires_at is None or now < datetime.fromisoformat(self.expires_at)


class KeyRing:
    """Some API keys. A value: what changes them returns another."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys: Final = tuple(keys)
        self._by_id = {key.key_id: key for key in self.keys}

    @classmethod
    def parse(cls, content: bytes) -> KeyRing:
        """Return what `to_bytes` wrote.

        Raises:
            InvalidInput: the bytes are something else.
        """
        try:
            told = json.loads(content)
            keys = [_checked(ApiKey(**{**key, "scopes": tuple(key["scopes"])})) for key in told["keys"]]
            if told["format"] != _FORMAT or len({key.key_id for key in keys}) != len(keys):
                raise ValueError("another format, or a key twice")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInput(
                f"[keys] this is not a keys file: {error}; expected what `likewise keys` writes; restore it"
            ) from error
        return cls(keys)

    def to_bytes(self) -> bytes:
        """Return all keys as they are kept: no text of a key is among it."""
        return json.dumps({"format": _FORMAT, "keys": [asdict(key) for key in self.keys]}, indent=1).encode() + b"\n"

    def find(self, text: str) -> ApiKey | None:
        """Return the key of a text, live or expired; None where there is none. Takes the same steps whoever asks."""
        shape = _TEXT.fullmatch(text)
        key = self._by_id.get(shape[1]) if shape else None
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        is_right = hmac.compare_digest(digest, _NOBODY if key is None else key.sha256)
        return key if is_right else None

    def with_new(
        self, name: str, scopes: Iterable[Scope], *, now: datetime, expires_at: datetime | None = None
    ) -> tuple[KeyRing, ApiKey, str]:
        """Return the keys with a new one, the new one, and its text, which is nowhere else.

        Raises:
            InvalidInput: the name or a scope is not valid, there is no scope, or it would be born expired.
            AlreadyExists: the holder has two live keys already.
        """
        check_name(name)
        live = [key.key_id for key in self.keys if key.name == name and key.is_live(now)]
        if len(live) >= MAX_LIVE:
            raise AlreadyExists(
                f"[keys] {name!r} has {len(live)} live keys, {' and '.join(live)}; at most {MAX_LIVE}; revoke one first"
            )
        key_id = secrets.token_hex(6)
        text = f"lw_{key_id}_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        ordered = tuple(scope for scope in SCOPES if scope in set(scopes))
        ends = None if expires_at is None else _told(expires_at)
        key = ApiKey(key_id, name, ordered, digest, _told(now), ends)
        if not set(scopes) or set(scopes) - set(SCOPES):
            raise InvalidInput(
                f"[keys] scopes are {', '.join(scopes) or 'missing'}; expected some of {', '.join(SCOPES)}; correct them"
            )
        if not key.is_live(now):
            raise InvalidInput(f"[keys] the key would expire at {ends}; expected a time to come; choose a later one")
        return KeyRing((*self.keys, key)), key, text

    def expiring(self, key_id: str, at: datetime) -> KeyRing:
        """Return the keys, one of them living no longer than until a time.

        Raises:
            NotFound: no such key.
        """
        key = self.get(key_id)
        if key.is_live(at):
            key = replace(key, expires_at=_told(at))
        return KeyRing(key if held.key_id == key_id else held for held in self.keys)

    def without(self, key_id: str) -> KeyRing:
        """Return the keys without one.

        Raises:
            NotFound: no such key.
        """
        self.get(key_id)
        return KeyRing(key for key in self.keys if key.key_id != key_id)

    def get(self, key_id: str) -> ApiKey:
        """Return a key by its id.

        Raises:
            NotFound: no such key.
        """
        if key_id not in self._by_id:
            raise NotFound(f"[keys] no key {key_id!r}; `likewise keys list` tells which there are; choose one of them")
        return self._by_id[key_id]


def read_keys(file: Path) -> KeyRing:
    """Return the keys of a file, none where there is no file yet.

    Raises:
        InvalidInput: it is not a keys file.
    """
    return KeyRing.parse(file.read_bytes()) if file.exists() else KeyRing()


def change_keys(file: Path, change: Callable[[KeyRing], tuple[KeyRing, T]]) -> T:
    """Replace a keys file by what `change` makes of it, in one rename, and return what it says besides.

    Only the owner may read the new file. Two that change at once wait for each other. A file that is not there counts as empty.

    Raises:
        InvalidInput: it is not a keys file.
        OSError: it cannot be written.
    """
    with file.with_name(file.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changed, said = change(read_keys(file))
        draft = file.with_name(file.name + ".new")
        draft.unlink(missing_ok=True)  # of one who died here; the lock is ours
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            os.fchmod(handle, 0o600)
            out.write(changed.to_bytes())
            out.flush()
            os.fsync(handle)
        draft.replace(file)
        sync(file.parent)
    return said


def _checked(key: ApiKey) -> ApiKey:
    times: list[Any] = [key.created_at, *([key.expires_at] if key.expires_at is not None else [])]
    if any(datetime.fromisoformat(time).tzinfo is None for time in times):
        raise ValueError(f"key {key.key_id} has a time without a zone")
    if not _HASH.fullmatch(key.sha256) or not key.scopes or set(key.scopes) - set(SCOPES):
        raise ValueError(f"key {key.key_id} has no hash, or scopes that there are not")
    return key


def _told(at: datetime) -> str:
    return at.astimezone(timezone.utc).isoformat(timespec="seconds")
