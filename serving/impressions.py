"""Recommendation ids that vouch for what was shown: signed by the service over the items of a slate and who asked for it."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

_NONCE_BYTES: Final = 6
_TIME_BYTES: Final = 4
_MARK_BYTES: Final = 10
_ITEM_BYTES: Final = 2  # one in 65,536 guesses of an item passes
_HEAD: Final = _NONCE_BYTES + _TIME_BYTES
MOST_ITEMS: Final = 80  # further places are not vouched for: the id stays short enough for an event
_AHEAD_S: Final = 300  # between the clocks of replicas


class Impressions:
    """Signs slates and knows them again. Immutable and thread-safe; replicas with one secret know each other's."""

    def __init__(self, secret: bytes, *, max_age_s: float) -> None:
        """Take a secret of 32 to 64 bytes, and how long after a slate its items may be acted on."""
        self._secret = secret
        self._max_age_s = max_age_s

    def sign(self, item_ids: Sequence[str], user: str, session: str, *, now_ms: int) -> str:
        """Return an id for a slate.

        Args:
            item_ids: what it shows, best first.
            user: the key of who asked, "" where nobody knows.
            session: their visit; the id holds for it where it is known, else for the user, else for anybody.
            now_ms: milliseconds since 1970.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        shown = b"".join([self._item(nonce, item_id) for item_id in item_ids[:MOST_ITEMS]])
        head = nonce + (now_ms // 1000).to_bytes(_TIME_BYTES, "big")
        signed = head + self._mark(head + shown, _who(user, session)[0]) + shown
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()

    def vouches(self, recommendation_id: str, item_ids: Sequence[str], user: str, session: str, *, at_ms: int) -> bool:
        """Tell whether all of some items were shown, under an id, to who acts on them, and not too long ago."""
        try:
            padding = "=" * (-len(recommendation_id) % 4)
            signed = base64.b64decode(recommendation_id + padding, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return False
        head, mark, shown = signed[:_HEAD], signed[_HEAD : _HEAD + _MARK_BYTES], signed[_HEAD + _MARK_BYTES :]
        if len(mark) < _MARK_BYTES:
            return False
        whose = _who(user, session)
        if not any(hmac.compare_digest(mark, self._mark(head + shown, who)) for who in whose):
            return False
        age_s = at_ms / 1000 - int.from_bytes(head[_NONCE_BYTES:], "big")
        tags = {shown[at : at + _ITEM_BYTES] for at in range(0, len(shown), _ITEM_BYTES)}
        is_shown = all(self._item(head[:_NONCE_BYTES], item_id) in tags for item_id in item_ids)
        return is_shown and -_AHEAD_S <= age_s <= self._max_age_s

    def _mark(self, told: bytes, who: str) -> bytes:
        return blake2b(
            len(told).to_bytes(4, "big") + told + who.encode(), key=self._secret, digest_size=_MARK_BYTES
        ).digest()

    def _item(self, nonce: bytes, item_id: str) -> bytes:
        return blake2b(item_id.encode(), key=self._secret, salt=nonce, digest_size=_ITEM_BYTES).digest()


def _who(user: str, session: str) -> list[str]:
    """For whom an id may hold, the closest first; who asks gets one for the first, who acts may have any."""
    return [f"visit {session}"] * bool(session) + [f"user {user}"] * bool(user) + ["anybody"]
