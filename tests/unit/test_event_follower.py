"""Followers of one log in one process: each knows what all of them append, in the log's order, and once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matching.errors import Unavailable
from matching.event_log import SqlEventLog
from matching.events import Event, EventItem, Stretch
from matching.user_keys import user_digest
from serving.event_follower import EventFollower
from serving.users_in_memory import UsersInMemory
from serving.users_in_redis import UsersInRedis
from tests.databases import PostgresProcess
from tests.redis_servers import RedisProcess
from tests.waiting import wait_until


class Heard(UsersInMemory):
    """A state that keeps what it was told, too."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []
        self.erased: set[str] = set()

    def follow(self, stretch: Stretch) -> int:
        before = self.sequence
        after = super().follow(stretch)
        if before >= stretch.after:
            self.heard += [sequence for sequence, _ in stretch.events if before < sequence]
            self.erased |= stretch.erased if after > before else set()
        return after


class Replica:
    """A log as one process has it open, and what follows it."""

    def __init__(self, where: Path | str, period_s: float = 0.02) -> None:
        self.log = SqlEventLog.open(where)
        self.state = Heard()
        self.follower = EventFollower(self.log, self.state, period_s=period_s)
        self.reads = 0
        read = self.log.stretch

        def counted(after: int, until: int | None = None) -> Stretch:
            self.reads += 1
            return read(after, until)

        self.log.stretch = counted  # type: ignore[method-assign]

    def append(self, *events: Event) -> None:
        self.log.append(events)
        self.follower.settle()

    def close(self) -> None:
        self.follower.close()
        self.log.close()


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    pair = Replica(tmp_path / "events.sqlite"), Replica(tmp_path / "events.sqlite")
    yield pair
    for each in pair:
        each.close()


def event(number: int, user: str = "u") -> Event:
    return Event(f"e{number}", "view", user, "", (EventItem(f"i{number}"),), 1_000 * number, 1_000 * number)


def test_what_a_process_appends_itself_is_known_at_once_and_not_read(replicas: tuple[Replica, Replica]) -> None:
    one, other = replicas
    one.append(event(1), event(2))
    one.append(event(1), event(3))
    assert one.state.recent("u", "").items == ("i1", "i2", "i3")
    assert (one.state.heard, one.reads) == ([1, 2, 3], 0)
    other.append(event(4))  # what came before it is read first
    assert (other.state.heard, other.reads) == ([1, 2, 3, 4], 1)
    other.append(event(5))
    assert (other.state.heard, other.reads) == ([1, 2, 3, 4, 5], 1)
    one.follower.catch_up()
    assert one.state.heard == [1, 2, 3, 4, 5]
    assert one.follower.lag.n_events == 0


def test_a_running_follower_learns_of_events_and_erasures_of_others(replicas: tuple[Replica, Replica]) -> None:
    one, other = replicas
    one.follower.follow(is_patient=True)
    other.log.append([event(number, user="v") for number in range(5_000)])
    wait_until(lambda: len(one.state.heard) == 5_000, "what the other appended")
    assert one.state.heard == list(range(1, 5_001))
    one.append(event(5_000))
    other.log.erase("v")
    wait_until(lambda: one.state.recent("v", "").items == (), "the erasure")
    assert one.state.recent("u", "").items == ("i5000",)
    assert one.state.erased == {user_digest("v")}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "late", "look", "erase"]), st.integers(0, 1), st.sampled_from("uvw")),
        max_size=25,
    ),
    st.uuids(),
)
def test_replicas_end_as_one_that_reads_the_log_at_last(
    tmp_path: Path, steps: list[tuple[str, int, str]], name: object
) -> None:
    pair = Replica(tmp_path / f"{name}.sqlite"), Replica(tmp_path / f"{name}.sqlite")
    try:
        for number, (what, at, user) in enumerate(steps):
            if what == "append":
                pair[at].append(event(2 * number, user), event(2 * number + 1, user))
            elif what == "late":  # told of, and not taken in yet
                pair[at].log.append([event(2 * number, user)])
            elif what == "erase":
                pair[at].log.erase(user)
            else:
                pair[at].follower.catch_up()
        fresh = Replica(tmp_path / f"{name}.sqlite")
        for each in (fresh, *pair):
            each.follower.catch_up()
            assert each.state.heard == sorted(set(each.state.heard))
            for user in "uvw":
                assert each.state.recent(user, "").items == fresh.state.recent(user, "").items
        fresh.close()
    finally:
        for each in pair:
            each.close()


def test_writers_that_meet_are_told_in_the_order_of_the_log(replicas: tuple[Replica, Replica]) -> None:
    one, other = replicas
    one.follower.follow(is_patient=True)
    other.follower.follow(is_patient=True)

    def write(writer: int) -> None:
        mine = replicas[writer % 2]
        for number in range(30):
            mine.append(event(100 * writer + number, user=f"u{writer}"))
            assert mine.state.recent(f"u{writer}", "").items[-1] == f"i{100 * writer + number}"

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in replicas:
        wait_until(lambda each=each: len(each.state.heard) == 180, "all events")  # type: ignore[misc]
        assert each.state.heard == list(range(1, 181))


def test_replicas_that_share_a_redis_bring_it_each_event_once(tmp_path: Path, redis_server: RedisProcess) -> None:
    def shared() -> tuple[SqlEventLog, UsersInRedis, EventFollower]:
        log = SqlEventLog.open(tmp_path / "events.sqlite")
        users = UsersInRedis(redis_server.url(), name=tmp_path.name, max_acts=500, ttl_s=1000, timeout_s=5)
        return log, users, EventFollower(log, users, period_s=0.02)

    replicas = [shared() for _ in range(3)]
    for _, _, follower in replicas:
        follower.follow(is_patient=False)

    def write(writer: int) -> None:
        log, users, follower = replicas[writer]
        for number in range(20):
            log.append([event(3 * number + writer, user=f"u{writer}"), event(1000 + 3 * number + writer, user="all")])
            follower.settle()
            assert f"i{3 * number + writer}" in users.recent(f"u{writer}", "").items

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    for log, users, follower in replicas:
        follower.catch_up()
        assert users.recent("all", "").items == tuple(f"i{number}" for number in range(1000, 1060))
        assert users.recent("u1", "").items == tuple(f"i{number}" for number in range(1, 60, 3))
        follower.close()
        users.close()
        log.close()


def test_a_log_that_was_put_back_is_read_anew(tmp_path: Path) -> None:
    one = Replica(tmp_path / "events.sqlite")
    one.append(*(event(number) for number in range(5)))
    one.log.close()
    restored = Replica(tmp_path / "restored.sqlite")
    restored.append(event(77))
    one.log, one.follower._log = restored.log, restored.log
    one.follower.catch_up()
    assert one.state.recent("u", "").items == ("i77",)
    one.close()


def test_a_lost_database_is_told_and_caught_up_with() -> None:
    server = PostgresProcess()
    try:
        server.start()
        address = server.new_database()
        one, other = Replica(address), Replica(address)
        one.follower.follow(is_patient=True)
        other.append(event(1))
        wait_until(lambda: one.state.heard == [1], "the first event")
        server.kill()
        wait_until(lambda: not one.follower.lag.is_reachable, "the loss")
        with pytest.raises(Unavailable):
            other.log.append([event(2)])
        assert one.follower.lag.seconds > 0
        server.start()
        other.append(event(2))
        wait_until(lambda: one.state.heard == [1, 2], "the second event")
        wait_until(lambda: one.follower.lag.is_reachable, "the way back")
        one.close()
        other.close()
    finally:
        server.remove()
