"""What every log of events holds to: the SQLite file of one machine, and the PostgreSQL that several services share."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matching.errors import CorruptArtifact, InvalidInput, StorageFull, Unavailable
from matching.event_log import EventStats, SqlEventLog
from matching.events import Appended, Event, EventItem, Stretch
from matching.user_keys import user_digest, visit_digest
from tests.databases import PostgresProcess
from tests.disks import empty, fill, small_disk

Open = Callable[[], SqlEventLog]


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Return what opens the log, the same one each time."""
    if request.param == "sqlite":
        return lambda: SqlEventLog.open(tmp_path / "events.sqlite")
    server: PostgresProcess = request.getfixturevalue("postgres")
    address = server.new_database()
    return lambda: SqlEventLog.open(address)


@pytest.fixture
def log(opener: Open) -> Iterator[SqlEventLog]:
    with opener() as opened:
        yield opened


def event(number: int, user: str = "u", kind: str = "view") -> Event:
    return Event(f"e{number}", kind, user, "s", (EventItem(f"i{number}"),), 1_000 + number, 2_000 + number)


FULL = Event(
    "é/1",
    "impression",
    "",
    "visit",
    (EventItem("a", 2.5, 9.99, 0, 0.25), EventItem('b "ü"', value=0.0, position=1), EventItem("c")),
    -5,
    1_700_000_000_123,
    "rote schuhe 'x'",
    "rec-1",
)


def test_what_was_appended_comes_back(opener: Open) -> None:
    with opener() as log:
        assert list(log.read()) == []
        assert log.append([]) == Appended((), 0, 0)
        assert log.append([FULL, event(1)]) == Appended((FULL, event(1)), 0, 2)
        assert list(log.read()) == [(1, FULL), (2, event(1))]
    with opener() as log:
        assert log.append([event(2)]) == Appended((event(2),), 0, 3)
        assert list(log.read(after=2)) == [(3, event(2))]
        assert list(log.read(after=3)) == []
        assert log.stats() == EventStats({"impression": 1, "view": 2}, 1, 0, -5, 1_002, 3)


def test_an_event_counts_once_whoever_tells_it_again(opener: Open) -> None:
    changed = replace(event(1), user="other", received_ms=9)
    with opener() as log, opener() as other:
        assert log.append([event(1), changed, event(2)]) == Appended((event(1), event(2)), 1, 2)
        assert other.append([changed, event(3)]) == Appended((event(3),), 1, 3)
        assert other.append([event(1)]) == Appended((), 1, 3)
        assert [kept.event_id for _, kept in log.read()] == ["e1", "e2", "e3"]


def test_more_than_a_page_and_a_question(log: SqlEventLog) -> None:
    events = [event(number, f"u{number % 700}") for number in range(4_500)]
    log.append(events)
    assert log.append(events).duplicates == 4_500
    assert list(log.read()) == list(enumerate(events, 1))
    assert [sequence for sequence, _ in log.read(after=4_498)] == [4_499, 4_500]


def test_an_erased_user_stays_away(opener: Open) -> None:
    with opener() as log:
        log.append([event(1, "ann"), event(2, "bob"), event(3, "ann")])
        assert log.erase("ann") == 2
        assert [kept.user for _, kept in log.read()] == ["bob"]
        assert log.erase("ann") == 0
        assert log.append([event(1, "ann"), event(4, "ann"), event(5, "bob")]) == Appended((event(5, "bob"),), 2, 6)
    with opener() as log:
        assert log.append([event(9, "ann")]).accepted == ()
        assert (log.stats().n_users, log.stats().n_erased) == (1, 1)
        with pytest.raises(InvalidInput, match="the user is empty; expected the key of one"):
            log.erase("")


def test_a_sequence_is_never_given_twice(opener: Open) -> None:
    with opener() as log:
        log.append([event(1, "ann"), event(2, "ann")])
        log.erase("ann")
    with opener() as log:
        assert log.append([event(3, "bob")]).sequence == 4
        assert [sequence for sequence, _ in log.read()] == [4]


def test_what_was_done_before_they_logged_in_goes_with_a_user(opener: Open) -> None:
    def done(number: int, user: str, visit: str) -> Event:
        return replace(event(number, user), session=visit)

    kept = [done(3, "", "other"), done(4, "bob", "v1"), done(5, "", "")]
    with opener() as log:
        log.append([done(1, "", "v1"), done(2, "ann", "v1"), *kept, done(6, "", "v2"), done(7, "ann", "v2")])
        assert log.erase("ann") == 4
        assert [each for _, each in log.read()] == kept
        told = log.stretch(0)
        assert told.erased == {user_digest("ann"), visit_digest("v1"), visit_digest("v2")}


def test_stretches_are_what_was_appended_and_erased_in_their_order(opener: Open) -> None:
    with opener() as log, opener() as other:
        own: list[Stretch] = []
        log.tell(own.append)
        assert log.stretch(0) == Stretch(0, 0, (), frozenset(), 0)
        log.append([event(1, "ann"), event(2, "bob")])
        log.append([event(1, "ann")])
        other.append([event(3, "ann")])
        log.append([event(4, "bob")])
        assert own == [
            Stretch(0, 2, ((1, event(1, "ann")), (2, event(2, "bob"))), frozenset(), 2),
            Stretch(3, 4, ((4, event(4, "bob")),), frozenset(), 4),
        ]
        assert log.stretch(2, until=3) == Stretch(2, 3, ((3, event(3, "ann")),), frozenset(), 4)
        assert log.stretch(2, until=2) == Stretch(2, 2, (), frozenset(), 4)
        other.erase("ann")
        erased = frozenset([user_digest("ann"), visit_digest("s")])
        assert log.stretch(2) == Stretch(2, 5, ((4, event(4, "bob")),), erased, 5)
        assert log.stretch(2, until=4).erased == frozenset()
        log.append([event(number, "bob") for number in range(10, 4_510)])
        first = log.stretch(4)
        assert (first.after, first.until, len(first.events), first.erased, first.head) == (
            4,
            2_005,
            2_000,
            erased,
            4_505,
        )
        second = log.stretch(first.until)
        assert (second.until, second.erased) == (4_005, frozenset())
        assert log.stretch(second.until).until == log.stretch(9_999).head == 4_505


def test_writers_that_meet_keep_all_once_and_a_reader_misses_none(opener: Open) -> None:
    with opener() as log, opener() as other:
        done = threading.Event()
        seen: list[int] = []

        def follow() -> None:
            is_last = False
            while not is_last:
                is_last = done.is_set()
                seen.extend(sequence for sequence, _ in other.read(seen[-1] if seen else 0))

        def write(writer: int) -> int:
            mine = log if writer % 2 else other
            return sum(len(mine.append([event(each)]).accepted) for each in range(writer % 3, 120, 2))

        with ThreadPoolExecutor(9) as pool:
            following = pool.submit(follow)
            accepted = sum(pool.map(write, range(8)))
            done.set()
            following.result()
        assert accepted == 120
        assert seen == list(range(1, 121))
        assert sorted(int(kept.event_id[1:]) for _, kept in log.read()) == list(range(120))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", "ann", "bob"])), max_size=8),
            st.sampled_from(["ann", "bob"]),
        ),
        max_size=8,
    )
)
def test_a_log_is_a_dict_in_the_order_of_arrival(steps: list[list[tuple[int, str]] | str], opener: Open) -> None:
    salt = uuid.uuid4().hex  # the examples share one log
    with opener() as log:
        base = log.stats().sequence
        kept: dict[str, tuple[int, Event]] = {}
        erased: set[str] = set()
        sequence = base
        for step in steps:
            if isinstance(step, str):
                user = f"{step}{salt}"
                gone = [key for key, (_, each) in kept.items() if each.user == user]
                assert log.erase(user) == len(gone)
                kept = {key: value for key, value in kept.items() if key not in gone}
                erased.add(user)
                sequence += 1
                continue
            events = [
                replace(
                    event(each, f"{user}{salt}" if user else ""), event_id=f"{salt}/{each}", session=f"{user}{salt}"
                )
                for each, user in step
            ]
            accepted = []
            for each in events:
                if each.event_id not in kept and each.user not in erased:
                    sequence += 1
                    kept[each.event_id] = (sequence, each)
                    accepted.append(each)
            assert log.append(events) == Appended(tuple(accepted), len(events) - len(accepted), sequence)
        assert list(log.read(after=base)) == sorted(kept.values())


def test_values_that_a_database_cannot_hold_are_refused_whole(opener: Open) -> None:
    with opener() as log:
        if not log._is_sqlite:
            with pytest.raises(InvalidInput, match="cannot hold a value of an event"):
                log.append([event(1), replace(event(2), session="a\0b")])
            assert list(log.read()) == []
        with pytest.raises((InvalidInput, OverflowError, Unavailable)):
            log.append([event(1), replace(event(2), at_ms=1 << 70)])
        assert list(log.read()) == []
        assert log.append([event(1)]).sequence == 1


def test_the_bytes_of_an_erased_user_are_gone_from_the_file(tmp_path: Path) -> None:
    with SqlEventLog.open(tmp_path / "events.sqlite") as log:
        log.append([replace(event(n, "a1b2c3d4"), query="canary") for n in range(500)])
        assert any(b"canary" in file.read_bytes() for file in tmp_path.iterdir())
        assert log.erase("a1b2c3d4") == 500
        for file in tmp_path.iterdir():
            assert b"canary" not in file.read_bytes()
            assert b"a1b2c3d4" not in file.read_bytes()


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"mysql:// is no event log; expected a path or postgresql://"):
        SqlEventLog.open("mysql://host/db")
    with pytest.raises(InvalidInput, match=r"the folder .*missing is missing"):
        SqlEventLog.open(tmp_path / "missing" / "events.sqlite")
    (tmp_path / "text").write_text("no database at all" * 100)
    with pytest.raises(CorruptArtifact, match="file is not a database; expected an event log"):
        SqlEventLog.open(tmp_path / "text")
    with pytest.raises(Unavailable, match=r"postgresql\+psycopg://u:\*\*\*@127.0.0.1:9/x") as told:
        SqlEventLog.open("postgresql://u:secret@127.0.0.1:9/x")
    assert "secret" not in str(told.value)


def test_a_full_disk_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk, SqlEventLog.open(disk / "events.sqlite") as log:
        log.append([event(1)])
        fill(disk)
        with pytest.raises(StorageFull, match="is full; make room and send again"):
            log.append([event(number) for number in range(2, 5_000)])
        empty(disk)
        assert log.append([event(2)]).sequence == 2
        assert [kept.event_id for _, kept in log.read()] == ["e1", "e2"]


def test_a_killed_database_loses_nothing_that_was_acknowledged() -> None:
    server = PostgresProcess()
    try:
        server.start()
        with SqlEventLog.open(server.new_database()) as log:
            log.append([event(1), event(2)])
            server.kill()
            with pytest.raises(Unavailable, match="see that the database answers"):
                log.append([event(3)])
            server.start()
            assert log.append([event(2), event(3)]) == Appended((event(3),), 1, 3)
            assert [sequence for sequence, _ in log.read()] == [1, 2, 3]
    finally:
        server.remove()
