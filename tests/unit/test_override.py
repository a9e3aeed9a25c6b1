"""Signed overrides: what is refused, by which words, and that no change of a token gets through."""

from __future__ import annotations

import base64
import hmac
import json
import secrets

import pytest

from matching.errors import Forbidden, InvalidInput
from serving import signed as module
from serving.override import Override, parse_override_keys, read_override, sign_override

KEY, OTHER = b"k" * 32, b"o" * 32
GRANTED = Override("home", "new", 1_800_000_000)
NOW = 1_799_999_999.0


def test_a_token_says_what_was_signed_until_it_expires() -> None:
    token = sign_override(GRANTED, KEY)
    assert read_override(token, [KEY], now=NOW) == GRANTED
    assert read_override(token, [OTHER, KEY], now=NOW) == GRANTED, "two keys while one replaces the other"
    with pytest.raises(Forbidden, match=r"expired at 2027-01-15T08:00:00\+00:00, 5 s ago"):
        read_override(token, [KEY], now=GRANTED.expires_at + 5)
    with pytest.raises(Forbidden, match="expired"):
        read_override(token, [KEY], now=GRANTED.expires_at)


@pytest.mark.parametrize("keys", [[], [OTHER], [OTHER, b"p" * 32]])
def test_another_key_s_signature_is_refused(keys: list[bytes]) -> None:
    with pytest.raises(Forbidden, match=f"none of the {len(keys)} override keys"):
        read_override(sign_override(GRANTED, KEY), keys, now=NOW)


def test_claims_under_another_signature_are_refused() -> None:
    form, _, signature = sign_override(GRANTED, KEY).split(".")
    forged = base64.urlsafe_b64encode(json.dumps(["home", "other", 2_000_000_000]).encode()).decode().rstrip("=")
    with pytest.raises(Forbidden, match="the signature is of none"):
        read_override(f"{form}.{forged}.{signature}", [KEY], now=NOW)


def test_a_signature_for_another_purpose_is_refused() -> None:
    claims = json.dumps(["home", "new", 1_800_000_000], separators=(",", ":")).encode()
    bare = base64.urlsafe_b64encode(hmac.digest(KEY, claims, "sha256")).decode().rstrip("=")
    form, shown, _ = sign_override(GRANTED, KEY).split(".")
    with pytest.raises(Forbidden, match="the signature is of none"):
        read_override(f"{form}.{shown}.{bare}", [KEY], now=NOW)


def test_no_changed_character_gets_through() -> None:
    token = sign_override(GRANTED, KEY)
    for at in range(len(token)):
        for letter in "AZaz09-_.":
            if token[at] != letter:
                with pytest.raises(Forbidden):
                    read_override(token[:at] + letter + token[at + 1 :], [KEY], now=NOW)
        with pytest.raises(Forbidden):
            read_override(token[:at], [KEY], now=NOW)
        with pytest.raises(Forbidden):
            read_override(token[:at] + token[at + 1 :], [KEY], now=NOW)


@pytest.mark.parametrize(
    "token", ["", "new", "o1..", "o2.YQ.YQ", "o1.YQ==.YQ", "o1.\n.YQ", "o1.YQ." + "Y" * 5000, "ö1.YQ.YQ"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Forbidden, match=r"not an override|the signature is of none"):
        read_override(token, [KEY], now=NOW)


def test_short_keys_are_refused() -> None:
    with pytest.raises(InvalidInput, match="the key has 8 bytes; expected at least 32"):
        sign_override(GRANTED, b"12345678")
    with pytest.raises(InvalidInput, match="the key has 8 bytes"):
        read_override(sign_override(GRANTED, KEY), [b"12345678"], now=NOW)


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(module.hmac, "compare_digest", spy)
    read_override(sign_override(GRANTED, KEY), [KEY, secrets.token_bytes(32)], now=NOW)
    assert len(compared) == 2, "one comparison a key, whichever fits"


def test_a_file_holds_a_key_a_line() -> None:
    first, second = b"a" * 32, b"b" * 40
    assert parse_override_keys(b"# testers\n" + first + b"\n\n  " + second + b"\n") == (first, second)
    with pytest.raises(InvalidInput, match="the file holds no key; expected one a line"):
        parse_override_keys(b"# none\n\n")
    with pytest.raises(InvalidInput, match="the key has 5 bytes; expected at least 32"):
        parse_override_keys(b"short\n")
