"""Signed permission to see one variant of an endpoint: for a tester's browser, a canary check, a screenshot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

from matching.errors import Forbidden, InvalidInput
from serving.signed import sign, split

MIN_KEY_BYTES: Final = 32
_FORM: Final = "o1"
_PURPOSE: Final = b"likewise variant override\n"
_MAX_CHARS: Final = 1024


@dataclass(frozen=True, slots=True)
class Override:
    """A variant that its bearer is answered from.

    Attributes:
        endpoint: the endpoint it holds for.
        variant: the variant.
        expires_at: the second, since 1970 in UTC, from which on it no longer holds.
    """

    endpoint: str
    variant: str
    expires_at: int


def sign_override(override: Override, key: bytes) -> str:
    """Return a token that `read_override` accepts until it expires.

    Args:
        override: what the bearer may.
        key: a secret of at least 32 random bytes.

    Raises:
        InvalidInput: the key is too short.
    """
    _check_key(key)
    claims = json.dumps([override.endpoint, override.variant, override.expires_at], separators=(",", ":")).encode()
    return sign(_FORM, claims, key, purpose=_PURPOSE)


def read_override(token: str, keys: Sequence[bytes], *, now: float) -> Override:
    """Return what a token permits.

    Args:
        token: what `sign_override` made.
        keys: the secrets that may have signed it; two while one replaces the other.
        now: seconds since 1970 in UTC.

    Raises:
        Forbidden: the token has another form, none of the keys signed it, or it has expired.
        InvalidInput: a key is too short.
    """
    for key in keys:
        _check_key(key)
    signed = split(token, _FORM, max_chars=_MAX_CHARS)
    if signed is None:
        raise Forbidden(
            f"[override] {len(token)} characters are not an override; expected {_FORM}.CLAIMS.SIGNATURE; ask for a new one"
        )
    if not signed.is_of(keys, purpose=_PURPOSE):
        raise Forbidden(
            f"[override] the signature is of none of the {len(keys)} override keys; expected one of them; "
            "ask for an override of this service"
        )
    endpoint, variant, expires_at = json.loads(signed.claims)
    if now >= expires_at:
        ended = datetime.fromtimestamp(expires_at, timezone.utc).isoformat()
        raise Forbidden(
            f"[override] it expired at {ended}, {now - expires_at:.0f} s ago; expected one that still holds; ask for a new one"
        )
    return Override(endpoint, variant, expires_at)


def parse_override_keys(content: bytes) -> tuple[bytes, ...]:
    """Return the keys of a file that holds one a line; blank lines and those that begin with # are left out.

    Raises:
        InvalidInput: it holds none, or one is too short.
    """
    lines = [line.strip() for line in content.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith(b"#"))
    for key in keys:
        _check_key(key)
    if not keys:
        raise InvalidInput(
            "[override] the file holds no key; expected one a line; write `openssl rand -hex 32` into it"
        )
    return keys


def _check_key(key: bytes) -> None:
    if len(key) < MIN_KEY_BYTES:
        raise InvalidInput(
            f"[override] the key has {len(key)} bytes; expected at least {MIN_KEY_BYTES} random ones; make a longer one"
        )
