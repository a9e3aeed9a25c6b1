"""An operator, an account and a user of a NATS server, as `nsc` would make them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import Any

import nkeys


@dataclass(frozen=True)
class Identities:
    """What the server has to know, and what the user shows.

    Attributes:
        config: for the server's configuration file.
        credentials: the content of a credentials file.
    """

    config: str
    credentials: str


def new_identities() -> Identities:
    """Make new keys of all three, and an account that may use JetStream."""
    operator, system, account, user = (_seed(kind) for kind in (b"O", b"A", b"A", b"U"))
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    limits = {"limits": {**unlimited, "wildcards": True}, "type": "account", "version": 2}
    with_storage = {**limits, "limits": {**unlimited, **stored, "wildcards": True}}
    allowed = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2}
    told = {
        "operator": _jwt(
            "op", operator, operator, {"type": "operator", "version": 2, "system_account": _public(system)}
        ),
        "system": _jwt("sys", operator, system, limits),
        "account": _jwt("shops", operator, account, with_storage),
        "user": _jwt("shop", account, user, allowed),
    }
    config = (
        f'operator: "{told["operator"]}"\nsystem_account: {_public(system)}\nresolver: MEMORY\nresolver_preload: {{\n'
        f'  {_public(system)}: "{told["system"]}"\n  {_public(account)}: "{told["account"]}"\n}}\n'
    )
    line = "-----{} {}-----"
    credentials = "\n".join(
        (
            line.format("BEGIN", "NATS USER JWT"),
            told["user"],
            "------END NATS USER JWT------",
            "",
            line.format("BEGIN", "USER NKEY SEED"),
            user.decode(),
            "------END USER NKEY SEED------",
            "",
        )
    )
    return Identities(config, credentials)


def _seed(kind: bytes) -> bytes:
    prefixes = {b"O": nkeys.PREFIX_BYTE_OPERATOR, b"A": nkeys.PREFIX_BYTE_ACCOUNT, b"U": nkeys.PREFIX_BYTE_USER}
    return bytes(nkeys.encode_seed(os.urandom(32), prefixes[kind]))


def _public(seed: bytes) -> str:
    return str(nkeys.from_seed(bytearray(seed)).public_key.decode())


def _jwt(name: str, issuer: bytes, subject: bytes, nats: dict[str, Any]) -> str:
    claims: dict[str, Any] = {"iat": int(time.time()), "iss": _public(issuer), "name": name, "sub": _public(subject)}
    claims["nats"] = nats
    digest = hashlib.new("sha512_256", json.dumps(claims).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = f"{_encoded(json.dumps({'typ': 'JWT', 'alg': 'ed25519-nkey'}).encode())}.{_encoded(json.dumps(claims).encode())}"
    return f"{signed}.{_encoded(nkeys.from_seed(bytearray(issuer)).sign(signed.encode()))}"


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
