"""Ids of recommendations: whom and what they vouch for, and what they do not."""

from __future__ import annotations

import base64

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.impressions import MOST_ITEMS, Impressions

NOW = 1_700_000_000_000
SIGNED = Impressions(b"s" * 32, max_age_s=3600)
SLATE = [f"item-{at}" for at in range(10)]


def vouches(token: str, *items: str, user: str = "", session: str = "", at_ms: int = NOW) -> bool:
    return SIGNED.vouches(token, items, user, session, at_ms=at_ms)


def test_an_id_vouches_for_its_items_its_asker_and_its_time() -> None:
    token = SIGNED.sign(SLATE, "ann", "visit", now_ms=NOW)
    assert vouches(token, *SLATE, session="visit")
    assert vouches(token, "item-3", session="visit", user="ann")
    assert vouches(token, "item-3", session="visit", user="who logged in meanwhile")
    assert not vouches(token, "item-3", "item-11", session="visit")
    assert not vouches(token, "item-3", session="another")
    assert not vouches(token, "item-3", user="ann")
    assert vouches(token, "item-3", session="visit", at_ms=NOW + 3_599_000)
    assert not vouches(token, "item-3", session="visit", at_ms=NOW + 3_602_000)
    assert not vouches(token, "item-3", session="visit", at_ms=NOW - 400_000)
    assert not Impressions(b"t" * 32, max_age_s=3600).vouches(token, ["item-3"], "", "visit", at_ms=NOW)
    assert SIGNED.sign(SLATE, "ann", "visit", now_ms=NOW) != token


def test_an_id_holds_for_a_user_or_for_anybody_where_no_more_is_known() -> None:
    of_user = SIGNED.sign(SLATE, "ann", "", now_ms=NOW)
    assert vouches(of_user, "item-1", user="ann", session="any")
    assert not vouches(of_user, "item-1", user="bob", session="any")
    of_nobody = SIGNED.sign(SLATE, "", "", now_ms=NOW)
    assert vouches(of_nobody, "item-1", user="bob")


def test_places_that_an_event_could_not_name_are_not_vouched_for() -> None:
    slate = [f"item-{at}" for at in range(200)]
    token = SIGNED.sign(slate, "", "v", now_ms=NOW)
    assert len(token) <= 256
    assert vouches(token, *slate[:MOST_ITEMS], session="v")
    assert not vouches(token, *slate[MOST_ITEMS:], session="v")
    assert not vouches(SIGNED.sign([], "", "v", now_ms=NOW), "item-1", session="v")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_whatever_else_is_told_is_no_id(text: str) -> None:
    assert not vouches(text, "item-1", session="v")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 39 * 8 - 1))
def test_no_bit_of_an_id_may_change(bit: int) -> None:
    token = SIGNED.sign(SLATE, "", "v", now_ms=NOW)
    signed = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    signed[bit // 8] ^= 1 << bit % 8
    assert not vouches(base64.urlsafe_b64encode(signed).decode().rstrip("="), "item-1", session="v")
