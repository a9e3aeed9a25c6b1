"""Tokens against real keys: what is valid, and every way to be not."""

from __future__ import annotations

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from matching.errors import InvalidInput, Unauthenticated
from serving.jwt_verifier import JwtVerifier
from tests.certificates import jwks, public_jwk, rsa_key

ISSUER, AUDIENCE = "https://issuer.test", "likewise"
SECRET = b"s" * 32


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa_key()


@pytest.fixture(scope="module")
def stranger() -> rsa.RSAPrivateKey:
    return rsa_key()


def written(folder: Path, content: bytes) -> Path:
    file = folder / "jwks.json"
    file.write_bytes(content)
    file.chmod(0o600)
    return file


def verifier(folder: Path, content: bytes, *algorithms: str) -> JwtVerifier:
    chosen: Any = algorithms or ("RS256", "ES256", "EdDSA")
    return JwtVerifier(written(folder, content), issuer=ISSUER, audience=AUDIENCE, algorithms=chosen)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    told = {"iss": ISSUER, "aud": AUDIENCE, "sub": "job-7", "iat": now, "exp": now + 300, "scope": "read write other"}
    return {name: value for name, value in {**told, **changed}.items() if value is not None}


def token(key: Any, algorithm: str = "RS256", *, kid: str | None = "one", head: Any = None, **changed: Any) -> str:
    headers = {**({} if kid is None else {"kid": kid}), **(head or {})}
    return jwt.encode(claims(**changed), key, algorithm, headers=headers)


def raw_token(head: dict[str, Any], body: Any, signature: bytes = b"") -> str:
    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    return ".".join((part(json.dumps(head).encode()), part(json.dumps(body).encode()), part(signature)))


def test_each_kind_of_key_verifies_its_own(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    curve, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    known = verifier(tmp_path, jwks(public_jwk(key, "r"), public_jwk(curve, "e"), public_jwk(edwards, "d")))
    for kid, signer, algorithm in (("r", key, "RS256"), ("e", curve, "ES256"), ("d", edwards, "EdDSA")):
        found = known.verify(token(signer, algorithm, kid=kid))
        assert (found.subject, found.scopes) == ("job-7", {"read", "write"})
        for other in {"r", "e", "d"} - {kid}:
            with pytest.raises(Unauthenticated):
                known.verify(token(signer, algorithm, kid=other))


def test_scopes_may_be_a_list_and_others_mean_nothing(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    known = verifier(tmp_path, jwks(public_jwk(key)))
    assert known.verify(token(key, scope=None, scp=["admin", "x"])).scopes == {"admin"}
    assert known.verify(token(key, scope=None)).scopes == frozenset()
    assert known.verify(token(key, scope="readers unwrite")).scopes == frozenset()
    assert known.verify(token(key, kid=None)).subject == "job-7", "with one key there is no choice to name"
    assert known.verify(token(key, aud=["other", AUDIENCE])).subject == "job-7"


WRONG: dict[str, dict[str, Any]] = {
    "expired": {"exp": int(time.time()) - 60},
    "no exp": {"exp": None},
    "exp in words": {"exp": "tomorrow"},
    "not yet": {"nbf": int(time.time()) + 86_400},
    "of the future": {"iat": int(time.time()) + 86_400},
    "another issuer": {"iss": "https://other.test"},
    "an issuer that begins alike": {"iss": ISSUER + ".evil.test"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "someone-else"},
    "no audience": {"aud": None},
    "an empty audience": {"aud": []},
    "no subject": {"sub": None},
    "a subject that is no text": {"sub": 7},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
def test_claims_that_do_not_hold_are_refused(tmp_path: Path, key: rsa.RSAPrivateKey, changed: dict[str, Any]) -> None:
    known = verifier(tmp_path, jwks(public_jwk(key)))
    bad = jwt.api_jws.encode(json.dumps(claims(**changed)).encode(), key, "RS256", headers={"kid": "one"})
    with pytest.raises(Unauthenticated, match=r"the token is refused: .*; expected a valid one of issuer"):
        known.verify(bad)


def test_clocks_may_differ_a_little(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    known = verifier(tmp_path, jwks(public_jwk(key)))
    assert known.verify(token(key, exp=int(time.time()) - 10)).subject == "job-7"


def test_none_is_no_algorithm(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    known = verifier(tmp_path, jwks(public_jwk(key)))
    for name in ("none", "None", "NONE", "nOnE", ""):
        with pytest.raises(Unauthenticated):
            known.verify(raw_token({"alg": name, "typ": "JWT", "kid": "one"}, claims()))
    head, body, _ = token(key).split(".")
    with pytest.raises(Unauthenticated):
        known.verify(f"{head}.{body}.")


def test_a_public_key_is_no_secret_even_where_hs256_is_allowed(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    """The old confusion: a token signed by HMAC with what everybody knows, the public key."""
    shared = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode(), "kid": "shared"}
    known = verifier(tmp_path, jwks(public_jwk(key), shared), "RS256", "HS256")
    public = key.public_key()
    for secret in (
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
    ):
        head = {"alg": "HS256", "typ": "JWT", "kid": "one"}
        signed = raw_token(head, claims()).rpartition(".")[0]
        signature = base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), "sha256")).rstrip(b"=").decode()
        with pytest.raises(Unauthenticated):
            known.verify(f"{signed}.{signature}")
    assert known.verify(token(SECRET, "HS256", kid="shared")).subject == "job-7"
    with pytest.raises(Unauthenticated):
        known.verify(token(key, "RS256", kid="shared"))


def test_algorithms_are_those_of_the_settings_and_the_key(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    known = verifier(tmp_path, jwks(public_jwk(key)), "RS256")
    for algorithm in ("RS384", "RS512", "PS256"):
        with pytest.raises(Unauthenticated):
            known.verify(token(key, algorithm))
    stated = verifier(tmp_path, jwks(public_jwk(key, alg="RS512")), "RS256", "RS512")
    assert stated.verify(token(key, "RS512")).subject == "job-7"
    with pytest.raises(Unauthenticated):
        stated.verify(token(key, "RS256"))


def test_keys_that_a_token_brings_along_are_ignored(
    tmp_path: Path, key: rsa.RSAPrivateKey, stranger: rsa.RSAPrivateKey
) -> None:
    known = verifier(tmp_path, jwks(public_jwk(key)))
    for head in (
        {"jwk": public_jwk(stranger)},
        {"jku": "https://evil.test/jwks.json"},
        {"x5u": "https://evil.test/cert.pem"},
    ):
        with pytest.raises(Unauthenticated):
            known.verify(token(stranger, head=head))
    for kid in ("two", "../one", "/dev/null", "one' or '1", ""):
        with pytest.raises(Unauthenticated, match="names no key"):
            known.verify(token(stranger, kid=kid))
    with pytest.raises(Unauthenticated):
        known.verify(token(key, head={"crit": ["b64"], "b64": False}))
    with pytest.raises(Unauthenticated):
        known.verify(token(key, head={"crit": ["x"], "x": 1}))


def test_a_changed_token_is_refused(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    known = verifier(tmp_path, jwks(public_jwk(key)))
    good = token(key)
    for at in range(0, len(good), 7):
        changed = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        if at < len(good) - 1:  # the last letter has bits that mean nothing
            with pytest.raises(Unauthenticated):
                known.verify(changed)


@pytest.mark.parametrize(
    "bad",
    [
        "", "a", "..", "a.b.c", "é.é.é", "a" * 8000, "." * 8000, "\ud800.a.b",
        raw_token({}, {}), raw_token({"alg": 7}, {}), raw_token({"alg": "RS256", "kid": ["one"]}, {}),
        raw_token({"alg": "RS256", "kid": {"a": 1}}, {}), raw_token({"alg": "RS256", "kid": "one"}, 7),
        base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.AA",
        base64.urlsafe_b64encode(b'{"alg":' + b"9" * 5000 + b"}").decode() + ".e30.AA",
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_no_token_is_refused_and_never_a_fault(tmp_path: Path, key: rsa.RSAPrivateKey, bad: str) -> None:
    with pytest.raises(Unauthenticated):
        verifier(tmp_path, jwks(public_jwk(key))).verify(bad)


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, key: rsa.RSAPrivateKey, stranger: rsa.RSAPrivateKey, caplog: pytest.LogCaptureFixture
) -> None:
    known = verifier(tmp_path, jwks(public_jwk(key, "old")))
    written(tmp_path, jwks(public_jwk(key, "old"), public_jwk(stranger, "new")))
    assert known.verify(token(stranger, kid="new")).subject == "job-7"
    assert known.verify(token(key, kid="old")).subject == "job-7"
    written(tmp_path, b"{")
    for _ in range(3):
        assert known.verify(token(key, kid="old")).subject == "job-7"
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "not a JWKS" in told.getMessage()
    (tmp_path / "jwks.json").unlink()
    assert known.verify(token(key, kid="old")).subject == "job-7"
    written(tmp_path, jwks(public_jwk(stranger, "new")))
    with pytest.raises(Unauthenticated):
        known.verify(token(key, kid="old"))


def test_a_token_that_was_valid_is_refused_once_it_expires_or_its_key_is_gone(
    tmp_path: Path, key: rsa.RSAPrivateKey, stranger: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, checked = verifier(tmp_path, jwks(public_jwk(key))), []
    decode = jwt.decode
    monkeypatch.setattr(jwt, "decode", lambda *args, **more: checked.append(1) or decode(*args, **more))
    good = token(key, exp=int(time.time()) + 300)
    assert known.verify(good) == known.verify(good)
    assert len(checked) == 1, "its signature is checked once"
    now = time.time()
    monkeypatch.setattr("serving.jwt_verifier.time.time", lambda: now + 331)
    known.verify(good)  # PyJWT has a clock of its own
    assert len(checked) == 2, "after its end it is looked at anew"
    monkeypatch.undo()
    almost = token(key, exp=int(time.time()) - 28)
    assert known.verify(almost).subject == "job-7"
    time.sleep(2.5)
    with pytest.raises(Unauthenticated, match="expired"):
        known.verify(almost)
    written(tmp_path, jwks(public_jwk(stranger)))
    with pytest.raises(Unauthenticated):
        known.verify(good)


def test_tokens_without_number_do_not_fill_the_memory(tmp_path: Path) -> None:
    shared = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode(), "kid": "one"}
    known = verifier(tmp_path, jwks(shared), "HS256")
    for at in range(4_200):
        assert known.verify(token(SECRET, "HS256", sub=f"job-{at}")).subject == f"job-{at}"
    assert len(known._held) == 4_096


def test_files_that_are_refused_from_the_start(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    private = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key))
    short = {"kty": "oct", "k": base64.urlsafe_b64encode(b"short").decode(), "kid": "s"}
    weak = public_jwk(rsa_key(1024), "weak")
    for content, message in (
        (b"", "not a JWKS"),
        (b"{}", "not a JWKS"),
        (b'{"keys": [7]}', "not a JWKS"),
        (jwks(), "none of 0 keys signs by"),
        (jwks(public_jwk(key, use="enc")), "none of 1 keys signs by"),
        (jwks(public_jwk(key, alg="RSA-OAEP")), "none of 1 keys"),
        (jwks(short), "none of 1 keys"),
        (jwks(public_jwk(key), public_jwk(key)), "key id 'one' is missing or twice"),
        (jwks(public_jwk(key, None), public_jwk(key)), "key id None is missing or twice"),
        (jwks({**private, "kid": "one"}), "is a private one"),
        (jwks(weak), "has 1024 bits; expected 2048 or more"),
        (jwks({"kty": "RSA", "n": "!", "e": "AQAB"}), "not a JWKS"),
    ):
        with pytest.raises(InvalidInput, match=message):
            verifier(tmp_path, content)
    with pytest.raises(InvalidInput, match="has 5 bytes; expected 32 or more"):
        verifier(tmp_path, jwks(short), "HS256")
    file = written(tmp_path, jwks(public_jwk(key)))
    file.chmod(0o666)
    with pytest.raises(InvalidInput, match="has mode 666: others may write it; expected 600"):
        JwtVerifier(file, issuer=ISSUER, audience=AUDIENCE, algorithms=("RS256",))
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        JwtVerifier(tmp_path / "none", issuer=ISSUER, audience=AUDIENCE, algorithms=("RS256",))
