"""What the intake accepts, rejects and counts, over a real log and a clock that the test sets."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from matching.errors import DeadlineExceeded, InvalidInput, LimitExceeded, Unavailable
from matching.event_files import read_event_log
from matching.event_log import SqlEventLog
from matching.events import Event, EventItem
from matching.sources.popular import Popular
from matching.user_keys import UserKeys
from serving.event_intake import EventIntake, EventResult, Malformed, ToldEvent
from serving.settings import EventSettings
from serving.users_in_memory import UsersInMemory
from serving.wire.event_json import parse_events

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
VIEW = ToldEvent("e1", "view", "ann", "s1", (EventItem("a"),), NOW - 1000)


class Counted:
    """What was counted."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, str]] = Counter()
        self.odd: Counter[str] = Counter()

    def took_events(self, event_type: str, outcome: str, n: int) -> None:
        self.events[event_type, outcome] += n

    def odd_event(self, reason: str) -> None:
        self.odd[reason] += 1


class Shop:
    """An intake, and what surrounds it."""

    def __init__(self, log: SqlEventLog, **settings: object) -> None:
        self.log = log
        self.now = NOW
        self.counted = Counted()
        self.heard: list[tuple[Event, ...]] = []
        self.intake = EventIntake(
            log,
            UserKeys(b"k" * 32),
            settings=EventSettings(**settings),  # type: ignore[arg-type]
            knows_item=lambda item_id: item_id < "x",
            observer=self.counted,
            clock_ms=lambda: self.now,
        )
        self.intake.listen(lambda: self.heard.append(tuple(self.kept())))

    def write(self, *told: ToldEvent | Malformed) -> list[tuple[str, str]]:
        return [(each.status, each.reason) for each in self.intake.write(told)]

    def kept(self) -> list[Event]:
        return [event for _, event in self.log.read()]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqlEventLog]:
    with SqlEventLog.open(tmp_path / "events.sqlite") as opened:
        yield opened


def test_an_accepted_event_is_kept_told_and_counted(log: SqlEventLog) -> None:
    shop = Shop(log)
    assert shop.write(VIEW, replace(VIEW, event_id="e2", at_ms=None)) == [("accepted", "")] * 2
    user = shop.intake.user_key("ann")
    first = Event("e1", "view", user, "s1", (EventItem("a"),), NOW - 1000, NOW)
    assert shop.kept() == [first, replace(first, event_id="e2", at_ms=NOW)]
    assert shop.heard == [tuple(shop.kept())]
    assert shop.write(VIEW) == [("duplicate", "")]
    assert len(shop.heard) == 1
    assert shop.counted.events == {("view", "accepted"): 2, ("view", "duplicate"): 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_id": ""}, "event_id is empty"),
        ({"event_id": "x" * 257}, "event_id has 257 characters; expected at most 256"),
        ({"event_type": "Add To Cart"}, "event_type is no name"),
        ({"user_id": "", "session": ""}, "nobody did it; expected user_id or session_id"),
        ({"user_id": "a\0b"}, "user_id has 3 characters; expected at most 256, none of them NUL"),
        ({"session": "\ud800"}, "session_id has 1 characters"),
        ({"query": "q" * 2001}, "query has 2001 characters"),
        ({"items": ()}, "there are no items"),
        ({"event_type": "search"}, "a search without query"),
        ({"items": (EventItem("a"),) * 4}, "there are 4 items; expected at most 3"),
        ({"items": (EventItem(""),)}, "item_id has 0 bytes"),
        ({"items": (EventItem("a", 0),)}, "quantity is not a number above 0"),
        ({"items": (EventItem("a", float("nan")),)}, "quantity is not a number above 0"),
        ({"items": (EventItem("a", value=-1),)}, "value is not a number from 0 on"),
        ({"items": (EventItem("a", position=-1),)}, "position is not a whole number from 0 on"),
        ({"items": (EventItem("a", propensity=1.5),)}, "propensity is not above 0 and at most 1"),
    ],
)
def test_what_is_wrong_is_rejected_alone(log: SqlEventLog, change: dict[str, object], message: str) -> None:
    shop = Shop(log, max_items=3)
    wrong = replace(VIEW, **change)  # type: ignore[arg-type]
    good = replace(VIEW, event_id="good")
    first, second = shop.intake.write([wrong, good])
    assert (first.event_id, first.status, first.reason) == (wrong.event_id, "rejected", "invalid")
    assert message in first.message
    assert "ann" not in first.message
    assert second == EventResult("good", "accepted")
    assert shop.counted.events == {("", "invalid"): 1, ("view", "accepted"): 1}


def test_every_type_has_its_shape(log: SqlEventLog) -> None:
    shop = Shop(log)
    kinds = ["view", "click", "add_to_cart", "purchase", "wishlist", "remove", "return", "impression"]
    told = [replace(VIEW, event_id=kind, event_type=kind) for kind in kinds]
    search = replace(VIEW, event_id="s", event_type="search", query="boots", items=())
    free = replace(VIEW, event_id="f", event_type="newsletter_opened", items=())
    assert shop.write(*told, search, free) == [("accepted", "")] * 10


def test_times(log: SqlEventLog) -> None:
    shop = Shop(log, max_ahead_s=60, max_age_s=86_400)
    at = [NOW + 60_001, NOW + 60_000, NOW, NOW - DAY_MS, NOW - DAY_MS - 1, -(1 << 80)]
    found = shop.write(*(replace(VIEW, event_id=str(each), at_ms=each) for each in at))
    assert [reason for _, reason in found] == ["future", "", "", "", "late", "late"]
    assert [event.at_ms for event in shop.kept()] == [NOW, NOW, NOW - DAY_MS]
    assert shop.counted.odd == {"ahead": 1}


def test_unknown_items_are_kept_and_counted_or_rejected(log: SqlEventLog) -> None:
    strange = replace(VIEW, items=(EventItem("a"), EventItem("z")))
    strict = Shop(log, unknown_items="reject")
    assert strict.write(strange) == [("rejected", "unknown_item")]
    shop = Shop(log)
    assert shop.write(strange) == [("accepted", "")]
    assert strict.counted.odd == shop.counted.odd == {"unknown_item": 1}


def test_one_actor_cannot_flood_the_log(log: SqlEventLog) -> None:
    shop = Shop(log, max_per_minute=100)
    clicks = [replace(VIEW, event_id=f"c{n}", event_type="click") for n in range(900)]
    found = shop.write(*clicks[:150])
    assert found == [("accepted", "")] * 100 + [("rejected", "bot")] * 50
    assert shop.write(*clicks[150:900]) == [("rejected", "bot")] * 750
    other = replace(VIEW, event_id="other", user_id="bob", session="s1")
    nobody = replace(VIEW, event_id="nobody", user_id="", session="s2")
    assert shop.write(other, nobody) == [("accepted", "")] * 2
    shop.now += 60_000
    assert shop.write(*clicks[100:150]) == [("accepted", "")] * 50
    assert shop.counted.events["", "bot"] == 800


def test_repeats_are_not_held_against_an_actor(log: SqlEventLog) -> None:
    shop = Shop(log, max_per_minute=100)
    for _ in range(10):
        shop.write(*(replace(VIEW, event_id=f"c{n}") for n in range(60)))
    assert len(shop.kept()) == 60
    assert shop.write(replace(VIEW, event_id="new")) == [("accepted", "")]


def test_a_click_has_to_name_the_slate_that_showed_its_items(log: SqlEventLog) -> None:
    shop = Shop(log, signed_impressions=True)
    token = shop.intake.sign(["a", "b"], "ann", "s1")
    clicks = [
        replace(VIEW, event_id="shown", event_type="click", recommendation_id=token),
        replace(VIEW, event_id="not-shown", event_type="click", recommendation_id=token, items=(EventItem("c"),)),
        replace(VIEW, event_id="not-to-them", event_type="click", recommendation_id=token, session="s2"),
        replace(VIEW, event_id="made-up", event_type="impression", recommendation_id="9f0c9f0c9f0c9f0c"),
        replace(VIEW, event_id="none", event_type="click"),
        replace(VIEW, event_id="view"),
    ]
    assert shop.write(*clicks) == [("accepted", "")] * 6
    assert [event.event_type for event in shop.kept()] == [
        "click",
        "unverified_click",
        "unverified_click",
        "unverified_impression",
        "unverified_click",
        "view",
    ]
    assert shop.counted.odd == {"unverified": 4}
    users = UsersInMemory()
    users.take(shop.kept())
    assert users.recent(shop.intake.user_key("ann"), "").items == ("a", "a")
    lenient = Shop(log)
    assert lenient.write(replace(clicks[4], event_id="lenient")) == [("accepted", "")]
    assert lenient.kept()[-1].event_type == "click"


@pytest.mark.parametrize("n_a_minute", [250, pytest.param(5_000, marks=pytest.mark.slow)])
def test_one_actor_is_one_user_however_much_they_click(log: SqlEventLog, n_a_minute: int) -> None:
    """Thousands of clicks within 20 minutes, each sent twice."""
    shop = Shop(log, max_per_minute=50)
    for minute in range(20):
        clicks = [
            replace(VIEW, event_id=f"{minute}/{n}", at_ms=shop.now, items=(EventItem("a" if n % 2 else "b"),))
            for n in range(n_a_minute)
        ]
        for start in range(0, len(clicks), 1_000):
            shop.write(*clicks[start : start + 1_000])
            shop.write(*clicks[start : start + 1_000])
        shop.now += 60_000
    assert len(shop.kept()) == 20 * 50
    other = replace(VIEW, event_id="bob", user_id="bob", at_ms=None, items=(EventItem("b"), EventItem("c")))
    shop.write(other)
    users = UsersInMemory(max_acts=50)
    users.take(shop.kept())
    assert len(users.recent(shop.intake.user_key("ann"), "").items) == 50
    learned = read_event_log(log)
    popular = Popular.fit(learned, now_ms=shop.now + 1)
    assert dict(zip(learned.item_ids, popular.n_users.tolist(), strict=True)) == {"a": 1, "b": 2, "c": 1}


def test_limits_of_a_request(log: SqlEventLog) -> None:
    shop = Shop(log, max_batch=2)
    with pytest.raises(LimitExceeded, match="3 events in one request; at most 2; split the request"):
        shop.write(VIEW, VIEW, VIEW)
    assert shop.kept() == []
    with pytest.raises(InvalidInput, match="the request has no events"):
        asyncio.run(shop.intake.take([], deadline=time.monotonic() + 9))


def test_a_log_that_does_not_answer_in_time(log: SqlEventLog) -> None:
    shop = Shop(log)
    with log._committing, pytest.raises(DeadlineExceeded, match="send the same events again"):
        asyncio.run(shop.intake.take([VIEW], deadline=time.monotonic() + 0.05))
    shop.intake.close()  # waits for it
    assert len(shop.kept()) == 1
    with pytest.raises(Unavailable, match="shutting down"):
        asyncio.run(shop.intake.take([VIEW], deadline=time.monotonic() + 9))


def test_bodies_are_read_event_by_event() -> None:
    whole = {"eventId": "1", "eventType": "purchase", "userId": "ann", "items": [{"itemId": "a", "quantity": 2}]}
    odd: Sequence[object] = [
        whole,
        {"event_id": "2", "event_type": "view", "at_ms": 5, "items": []},
        {**whole, "price": 3},
        {**whole, "items": [{"itemId": 7}]},
        {"eventId": 5},
        "text",
        None,
    ]
    told = parse_events({"events": odd})
    assert told[0] == ToldEvent("1", "purchase", "ann", "", (EventItem("a", 2),))
    assert told[1] == ToldEvent("2", "view", at_ms=5)
    assert [type(each) for each in told[2:]] == [Malformed] * 5
    assert [each.event_id for each in told[2:]] == ["1", "1", "", "", ""]
    assert "price" in told[2][1]  # type: ignore[index]
    for wrong in ({}, {"events": {}}, {"events": [], "more": 1}):
        with pytest.raises(InvalidInput, match=r'the body is not \{"events": \[...\]\}'):
            parse_events(wrong)


def test_settings_name_no_password() -> None:
    with pytest.raises(ValueError, match="without a password"):
        EventSettings(log="postgresql://shop:secret@host/db")
    with pytest.raises(ValueError, match="expected a file, or postgresql"):
        EventSettings(log="mysql://host/db")
    assert EventSettings(log="postgresql://shop@host:5432/db").log == "postgresql://shop@host:5432/db"
    assert EventSettings(log="a/b.sqlite").user_keys == Path("a/b.sqlite.key")
    with pytest.raises(InvalidInput, match=r"events\.user_key_file is not set; expected a file that all replicas have"):
        _ = EventSettings(log="postgresql://shop@host/db").user_keys
