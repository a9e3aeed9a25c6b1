"""Texts that carry claims and a signature: FORM.CLAIMS.SIGNATURE."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signed:
    """Claims and their signature, which is not believed yet."""

    claims: bytes
    signature: bytes

    def is_of(self, keys: Sequence[bytes], *, purpose: bytes) -> bool:
        """Whether one of the keys signed the claims for a purpose; every key is tried, so that the time tells nothing."""
        return any([hmac.compare_digest(_signature(self.claims, key, purpose), self.signature) for key in keys])  # noqa: C419


def sign(form: str, claims: bytes, key: bytes, *, purpose: bytes) -> str:
    """Return signed claims as a text.

    Args:
        form: stands first.
        purpose: a key that also signs other things signs none of these by accident.
    """
    return f"{form}.{_encoded(claims)}.{_encoded(_signature(claims, key, purpose))}"


def split(text: str, form: str, *, max_chars: int) -> Signed | None:
    """Return the parts of what `sign` made, None where the text has another form."""
    found, _, rest = text[: max_chars + 1].partition(".")
    shown, _, signed = rest.partition(".")
    claims, signature = _decoded(shown), _decoded(signed)
    if found != form or len(text) > max_chars or claims is None or signature is None:
        return None
    return Signed(claims, signature)


def _signature(claims: bytes, key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, purpose + claims, hashlib.sha256)


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(text: str) -> bytes | None:
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if _encoded(content) == text else None  # one text for one content: nothing to vary in a token
