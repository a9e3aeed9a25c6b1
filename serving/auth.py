"""Who may ask what, decided from a request's head, before its body is read."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final, Literal

from matching.errors import Forbidden, InvalidInput, RateLimited, Unauthenticated
from serving.api_keys import KeyRing, Scope
from serving.rate_limit import TokenBuckets
from serving.settings import AuthSettings
from serving.watched_file import WatchedFile

Access = Literal[
    "open", "known", Scope
]  # everybody; every caller that is known, whatever its scopes; callers with a scope
_MAX_CREDENTIAL_CHARS: Final = 8192
_HOW: Final = "send `Authorization: Bearer KEY` or `x-api-key: KEY`"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        name: the holder of an API key, or the subject of a token, after `key:` or `jwt:`.
        key_id: which of the holder's keys, None for a token.
        scopes: what they may.
    """

    name: str
    key_id: str | None
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request says of who asks, as it stands in the headers or metadata of those names."""

    authorization: str | None = None
    api_key: str | None = None


class Gate:
    """Lets requests in, or refuses them. Belongs to one event loop."""

    def __init__(self, settings: AuthSettings, *, now: Callable[[], float] = time.time) -> None:
        """Read keys.

        Args:
            settings: where the keys are.
            now: seconds since 1970 in UTC.

        Raises:
            InvalidInput: a file cannot be read, or settings that need each other are not all there.
        """
        self._now = now
        self._keys = None if settings.keys_file is None else WatchedFile(settings.keys_file, KeyRing.parse)
        self._tokens = None
        if settings.jwks_file is not None:
            from serving.jwt_verifier import JwtVerifier

            if not settings.jwt_issuer or not settings.jwt_audience:
                raise InvalidInput(
                    f"[auth] auth.jwks_file is {settings.jwks_file}, without an issuer and an audience; expected both, "
                    "or tokens made for others would do; set auth.jwt_issuer and auth.jwt_audience"
                )
            self._tokens = JwtVerifier(
                settings.jwks_file,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                algorithms=settings.jwt_algorithms,
            )
        for name in ("requests_per_s", "max_in_flight"):
            if (limit := getattr(settings, name)) is not None and not self.is_on:
                raise InvalidInput(
                    f"[auth] auth.{name} is {limit:g}, and callers are not known; expected keys or tokens to count by; set "
                    "auth.keys_file or auth.jwks_file"
                )
        self._rate = None
        if settings.requests_per_s is not None:
            self._rate = TokenBuckets(per_s=settings.requests_per_s, burst=settings.burst)

    @property
    def is_on(self) -> bool:
        """Whether anybody is refused at all."""
        return self._keys is not None or self._tokens is not None

    def identify(self, credentials: Credentials, access: Access) -> Principal | None:
        """Return who asks, whatever they may; None where it does not matter.

        Args:
            credentials: what the request says of it.
            access: what is needed.

        Raises:
            Unauthenticated: it is not known who asks.
        """
        if access == "open" or not self.is_on:
            return None
        return self._principal(_text(credentials, access))

    def admit(self, principal: Principal | None, access: Access) -> None:
        """Let a request of a caller in, and count it.

        Args:
            principal: who asks, as `identify` said.
            access: what is needed.

        Raises:
            Forbidden: they lack the scope.
            RateLimited: they ask too often.
        """
        if principal is None:
            return
        if access != "known" and access not in principal.scopes:
            held = ", ".join(sorted(principal.scopes)) or "no scope"
            raise Forbidden(f"[auth] the credential has {held}; expected {access}; use one that has it")
        if self._rate is not None and (wait_s := self._rate.take(principal.name, time.monotonic())):
            raise RateLimited(
                f"[auth] too many requests; expected a pause of {wait_s:.2f} s before the next; ask again then",
                retry_after_s=wait_s,
            )

    def _principal(self, text: str) -> Principal:
        if text.startswith("lw_") or self._tokens is None:
            return self._holder(text)
        claims = self._tokens.verify(text)
        return Principal(f"jwt:{claims.subject}", None, claims.scopes)

    def _holder(self, text: str) -> Principal:
        key = None if self._keys is None else self._keys.value.find(text)
        if key is None:
            raise Unauthenticated(f"[auth] no key is like the one given; expected one that was not revoked; {_HOW}")
        if not key.is_live(datetime.fromtimestamp(self._now(), timezone.utc)):
            raise Unauthenticated(
                f"[auth] key {key.key_id} expired at {key.expires_at}; expected one that lives; use a new one"
            )
        return Principal(f"key:{key.name}", key.key_id, frozenset(key.scopes))


def _text(credentials: Credentials, access: Access) -> str:
    """Return the key or token of a request."""
    given = [found for found in (credentials.authorization, credentials.api_key) if found is not None]
    if len(given) != 1:
        raise Unauthenticated(f"[auth] the request has {len(given)} credentials; expected one; {_HOW}")
    text = given[0]
    if len(text) > _MAX_CREDENTIAL_CHARS:
        raise Unauthenticated(
            f"[auth] the credential has {len(text):,} letters; at most {_MAX_CREDENTIAL_CHARS:,}; send a shorter one"
        )
    if credentials.authorization is None:
        return text
    scheme, _, rest = text.partition(" ")
    if scheme.lower() in ("bearer", "bearer:"):  # the latter is what Vertex's client writes to a private endpoint
        return rest.strip()
    if scheme.lower() == "basic":
        if access != "read":  # a browser adds it by itself, also to what another site makes it send
            raise Unauthenticated(f"[auth] Basic credentials may only read; expected Bearer; {_HOW}")
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            pass
    raise Unauthenticated(f"[auth] the Authorization header is not of a kind that is known; expected Bearer; {_HOW}")
