"""API keys as values: made, found by their text alone, limited to two a holder, expired, revoked, kept as hashes."""

from __future__ import annotations

import hashlib
import json
import random
import time
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from scipy import stats

from matching.errors import AlreadyExists, InvalidInput, NotFound
from serving import api_keys as module
from serving.api_keys import KeyRing

NOW = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def test_a_key_is_found_by_its_text_and_only_a_hash_is_kept() -> None:
    ring, key, text = KeyRing().with_new("shop", ["write", "read"], now=NOW, expires_at=NOW + DAY)
    assert ring.find(text) == key
    assert (key.name, key.scopes, key.created_at) == ("shop", ("read", "write"), "2026-01-05T12:00:00+00:00")
    assert len(text.rpartition(f"{key.key_id}_")[2]) == 43, "256 bits"
    kept = ring.to_bytes()
    assert text.encode() not in kept
    assert text.rpartition("_")[2].encode() not in kept
    assert key.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert KeyRing.parse(kept).keys == ring.keys
    assert KeyRing.parse(kept).find(text) == key


def test_no_other_text_finds_a_key() -> None:
    ring, _, text = KeyRing().with_new("shop", ["read"], now=NOW)
    _, _, other = KeyRing().with_new("shop", ["read"], now=NOW)
    wrong = [text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :] for at in range(len(text))]
    wrong += [
        text[:-1],
        text + "A",
        text + "\n",
        text.upper(),
        " " + text,
        "",
        "lw_",
        other,
        text[:16] + other[16:],
        "é" * 59,
    ]
    assert not [guess for guess in wrong if ring.find(guess) is not None]
    assert ring.find("\ud800") is None


def test_texts_are_compared_in_constant_time_whether_or_not_the_id_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    ring, _, text = KeyRing().with_new("shop", ["read"], now=NOW)
    compared: list[tuple[str, str]] = []

    def spy(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(module.hmac, "compare_digest", spy)
    for guess in (text, text[:-1] + "~", "lw_000000000000_" + "a" * 43, "nonsense"):
        ring.find(guess)
    assert len(compared) == 4
    assert {(len(one), len(other)) for one, other in compared} == {(64, 64)}


@pytest.mark.parametrize("n", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_how_long_a_wrong_text_takes_does_not_tell_where_it_is_wrong(n: int) -> None:
    """Welch's t of two kinds of guesses, drawn in turn at random: it sees a difference, whatever the machine is doing."""
    ring, _, text = KeyRing().with_new("shop", ["read"], now=NOW)
    at = len(text) - 43
    guesses = (
        text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :],
        text[:-1] + ("A" if text[-1] != "A" else "B"),
    )
    rng = random.Random(20260106)
    taken: tuple[list[int], list[int]] = ([], [])
    for _ in range(2 * n):
        which = rng.randrange(2)
        began = time.perf_counter_ns()
        found = ring.find(guesses[which])
        taken[which].append(time.perf_counter_ns() - began)
        assert found is None
    most = np.percentile(np.concatenate(taken), 95)  # what was interrupted tells nothing
    first, last = (np.array(each)[np.array(each) < most] for each in taken)
    assert abs(stats.ttest_ind(first, last, equal_var=False).statistic) < 4.5


def test_two_keys_of_a_holder_live_at_once_and_no_third() -> None:
    ring, first, _ = KeyRing().with_new("shop", ["read"], now=NOW)
    ring, second, _ = ring.with_new("shop", ["read"], now=NOW)
    with pytest.raises(AlreadyExists, match=f"{first.key_id} and {second.key_id}; at most 2; revoke one"):
        ring.with_new("shop", ["read"], now=NOW)
    assert len(ring.with_new("other", ["read"], now=NOW)[0].keys) == 3
    ending = ring.expiring(first.key_id, NOW + DAY)
    assert not ending.get(first.key_id).is_live(NOW + DAY)
    assert ending.get(first.key_id).is_live(NOW + DAY - timedelta(seconds=1))
    assert len(ending.with_new("shop", ["read"], now=NOW + DAY)[0].keys) == 3
    assert ring.without(first.key_id).keys == (second,)


def test_an_end_is_never_put_off() -> None:
    ring, key, _ = KeyRing().with_new("shop", ["read"], now=NOW, expires_at=NOW + DAY)
    assert ring.expiring(key.key_id, NOW + 3 * DAY).get(key.key_id) == key


@pytest.mark.parametrize(
    ("name", "scopes", "expires_at", "message"),
    [
        ("shop", ["root"], None, "scopes are root; expected some of read, write, admin"),
        ("shop", [], None, "scopes are missing"),
        ("a shop", ["read"], None, "'a shop' cannot be a name"),
        ("shop", ["read"], NOW, "would expire at 2026-01-05T12:00:00"),
    ],
)
def test_what_is_refused(name: str, scopes: list[str], expires_at: datetime | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        KeyRing().with_new(name, scopes, now=NOW, expires_at=expires_at)  # type: ignore[arg-type]


def test_keys_that_there_are_not() -> None:
    with pytest.raises(NotFound, match="no key 'x'; `likewise keys list` tells"):
        KeyRing().without("x")
    with pytest.raises(NotFound, match="no key 'x'"):
        KeyRing().expiring("x", NOW)


def test_a_damaged_file_is_refused() -> None:
    ring, _, _ = KeyRing().with_new("shop", ["read"], now=NOW)
    whole = json.loads(ring.to_bytes())
    (key,) = whole["keys"]
    for told in (
        [],
        {},
        {**whole, "format": 2},
        {**whole, "keys": [key, key]},
        {**whole, "keys": [{**key, "sha256": ""}]},
        {**whole, "keys": [{**key, "scopes": []}]},
        {**whole, "keys": [{**key, "scopes": ["root"]}]},
        {**whole, "keys": [{**key, "expires_at": "soon"}]},
        {**whole, "keys": [{**key, "created_at": "2026-01-05T12:00:00"}]},
        {**whole, "keys": [{**key, "colour": "red"}]},
    ):
        with pytest.raises(InvalidInput, match="not a keys file"):
            KeyRing.parse(json.dumps(told).encode())
    for cut in range(len(ring.to_bytes()) - 2):
        with pytest.raises(InvalidInput, match="not a keys file"):
            KeyRing.parse(ring.to_bytes()[:cut])
