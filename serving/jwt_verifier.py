"""JSON Web Tokens: who made them, for whom, until when, and with a key of ours."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt

from matching.errors import InvalidInput, Unauthenticated
from serving.api_keys import SCOPES, Scope
from serving.settings import Algorithm
from serving.watched_file import WatchedFile

_LEEWAY_S: Final = 30  # clocks differ
_MAX_HELD: Final = 4096
_MIN_RSA_BITS: Final = 2048
_MIN_SECRET_BYTES: Final = 32
# What a key may sign follows from the key, never from the token: a public RSA key is no HMAC secret.
_ALGORITHMS_OF: Final[dict[tuple[str, str | None], frozenset[str]]] = {
    ("RSA", None): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    ("oct", None): frozenset({"HS256"}),
}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says.

    Attributes:
        subject: whom it was made for.
        scopes: those of ours that it names in `scope` (words) or `scp` (a list).
    """

    subject: str
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class _Key:
    key: Any
    algorithms: frozenset[str]


_Keys = Mapping[str | None, _Key]


class JwtVerifier:
    """Checks tokens against the keys of a JWKS file, which is read again when it changes. Belongs to one event loop.

    A signature costs as much as a search, so the tokens that were valid last, 4,096 of them, are known by their hash until they
    expire or the keys change.
    """

    def __init__(self, jwks_file: Path, *, issuer: str, audience: str, algorithms: tuple[Algorithm, ...]) -> None:
        """Read the keys.

        Raises:
            InvalidInput: the file cannot be read, is no JWKS, or holds no key for any of the algorithms.
        """
        self._issuer = issuer
        self._audience = audience
        allowed = frozenset[str](algorithms)
        self._keys = WatchedFile(jwks_file, lambda content: _keys(content, allowed))
        self._held_under = self._keys.value
        self._held: OrderedDict[bytes, tuple[Claims, float]] = OrderedDict()  # hash -> claims, until when

    def verify(self, token: str) -> Claims:
        """Return what a token says.

        Raises:
            Unauthenticated: it is no token, or not one of ours, or not valid now.
        """
        keys = self._keys.value
        if keys is not self._held_under:
            self._held.clear()
            self._held_under = keys
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        claims, until = self._held.get(digest, (None, 0.0))
        if claims is None or time.time() >= until:
            claims, until = self._verified(token, keys)
            self._held[digest] = claims, until
            if len(self._held) > _MAX_HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(digest)
        return claims

    def _verified(self, token: str, keys: _Keys) -> tuple[Claims, float]:
        try:
            key = _key_of(token, keys)
            claims = jwt.decode(
                token,
                key=key.key,
                algorithms=sorted(key.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return Claims(claims["sub"], _scopes(claims)), int(claims["exp"]) + _LEEWAY_S
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            why = str(error) if isinstance(error, jwt.PyJWTError) else "it cannot be read"
            raise Unauthenticated(
                f"[auth] the token is refused: {why}; expected a valid one of issuer {self._issuer!r} for audience "
                f"{self._audience!r}; ask the issuer for another"
            ) from None


def _key_of(token: str, keys: _Keys) -> _Key:
    kid = jwt.get_unverified_header(token).get("kid")
    if kid is None and len(keys) == 1:
        return next(iter(keys.values()))
    if kid is None or kid not in keys:
        raise jwt.InvalidTokenError(f"it names no key (kid) of the {len(keys)} that are known")
    return keys[kid]


def _scopes(claims: dict[str, Any]) -> frozenset[Scope]:
    told = claims.get("scope", claims.get("scp", ""))
    words = told.split() if isinstance(told, str) else told
    return frozenset(scope for scope in SCOPES if scope in words)


def _keys(content: bytes, allowed: frozenset[str]) -> _Keys:
    try:
        found = json.loads(content)["keys"]
        keys: dict[str | None, _Key] = {}
        for told in found:
            kid, key = told.get("kid"), _key(told, allowed)
            if key is None:
                continue
            if kid in keys or (kid is None and len(found) > 1):
                raise InvalidInput(f"[jwks] key id {kid!r} is missing or twice there; expected one each; correct it")
            keys[kid] = key
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"[jwks] this is not a JWKS: {error}; expected {{'keys': [...]}}; correct it") from error
    if not keys:
        raise InvalidInput(
            f"[jwks] none of {len(found)} keys signs by {', '.join(sorted(allowed))}; expected one at least; "
            "add one, or set auth.jwt_algorithms"
        )
    return keys


def _key(told: dict[str, Any], allowed: frozenset[str]) -> _Key | None:
    """Return a key that may sign tokens here, None for one that may not."""
    kind = told.get("kty")
    algorithms = _ALGORITHMS_OF.get((str(kind), told.get("crv")), frozenset()) & allowed
    if "alg" in told:
        algorithms &= {told["alg"]}
    if not algorithms or told.get("use", "sig") != "sig":
        return None
    if kind != "oct" and "d" in told:
        raise InvalidInput(
            f"[jwks] key {told.get('kid')!r} is a private one; expected public keys; take its private part out"
        )
    key = jwt.PyJWK(told, algorithm=min(algorithms)).key
    if kind == "RSA" and key.key_size < _MIN_RSA_BITS:
        raise InvalidInput(
            f"[jwks] key {told.get('kid')!r} has {key.key_size} bits; expected {_MIN_RSA_BITS} or more; make a new one"
        )
    if kind == "oct" and len(key) < _MIN_SECRET_BYTES:
        raise InvalidInput(
            f"[jwks] key {told.get('kid')!r} has {len(key)} bytes; expected {_MIN_SECRET_BYTES} or more; make a new one"
        )
    return _Key(key, algorithms)
