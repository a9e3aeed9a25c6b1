"""What is remembered of users and visits, in memory and in Redis, beside a slow and obvious memory."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matching.errors import Unavailable
from matching.events import Event, Stretch
from matching.user_keys import user_digest, visit_digest
from serving.user_state import UserState
from serving.users_in_memory import UsersInMemory
from serving.users_in_redis import UsersInRedis
from tests.acts import event
from tests.redis_servers import RedisProcess

Make = Callable[..., UserState]


def stretch(*events: Event, after: int = 0, erased: tuple[str, ...] = ()) -> Stretch:
    told = tuple(enumerate(events, after + 1))
    until = after + len(told) + bool(erased)
    return Stretch(after, until, told, frozenset(erased), until)


def take(state: UserState, *events: Event) -> None:
    """Have a state take in what its log tells next."""
    told = stretch(*events, after=state.sequence)
    assert state.follow(told) == told.until


def in_redis(server: RedisProcess, max_acts: int = 50, name: str = "", timeout_s: float = 5) -> UsersInRedis:
    return UsersInRedis(
        server.url(), name=name or secrets.token_hex(8), max_acts=max_acts, ttl_s=1000, timeout_s=timeout_s
    )


@pytest.fixture(scope="module", params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    """Return what makes a state that knows nobody."""
    if request.param == "memory":
        return UsersInMemory
    server: RedisProcess = request.getfixturevalue("redis_server")
    return lambda **more: in_redis(server, **more)


@pytest.fixture
def state(make: Make) -> Iterator[UserState]:
    made = make()
    yield made
    made.close()


def test_a_log_is_followed_without_gaps_and_without_repeats(state: UserState) -> None:
    a, b, c, d = (event("view", name, user="u", session="s", at_s=at) for at, name in enumerate("abcd"))
    assert state.follow(stretch(a)) == 1
    assert state.follow(stretch(c, after=2)) == 1  # b is not known yet
    assert state.recent("u", "").items == ("a",)
    assert state.follow(stretch(b, after=1)) == 2
    assert state.follow(stretch(a, b, c)) == 3  # the first two again
    assert state.follow(stretch(a, b)) == 3
    assert state.recent("u", "").items == ("a", "b", "c")
    other = event("view", "x", session="t")
    assert state.follow(stretch(other, after=3, erased=(user_digest("u"), visit_digest("t")))) == 5
    assert state.recent("u", "s").items == state.recent("", "t").items == ()
    assert state.follow(stretch(d, after=5)) == 6
    assert state.recent("u", "").items == ("d",)
    state.clear()
    assert (state.sequence, state.recent("u", "").items) == (0, ())
    assert state.follow(stretch(b)) == 1
    assert state.recent("u", "").items == ("b",)


def test_acts_come_back_in_their_order_with_what_they_say(state: UserState) -> None:
    take(state, event("view", "a", user="u", at_s=10), event("purchase", "b", "ü", user="u", at_s=20))
    take(state, event("view", "late", user="u", at_s=5), event("impression", "x", user="u", at_s=30))
    recent = state.recent("u", "")
    assert recent.items == ("late", "a", "b", "ü")
    assert recent.at_ms.tolist() == [5000, 10_000, 20_000, 20_000]
    assert recent.is_bought.tolist() == [False, False, True, True]
    assert recent.weights.tolist() == [recent.weights[0], recent.weights[0], 1, 1]
    assert recent.weights[0] < 1
    assert state.recent("nobody", "").items == state.recent("", "").items == ()


def test_a_visit_becomes_its_users_when_they_log_in(state: UserState) -> None:
    take(state, event("view", "a", user="u", at_s=1), event("view", "b", session="s", at_s=2))
    assert state.recent("", "s").items == ("b",)
    assert state.recent("u", "s").items == ("a", "b")  # the request knows already
    take(state, event("view", "c", user="u", session="s", at_s=3))
    assert state.recent("u", "").items == ("a", "b", "c")
    assert state.recent("", "s").items == ()
    assert state.recent("u", "s").items == ("a", "b", "c")


def test_users_and_visits_of_one_name_are_apart(state: UserState) -> None:
    take(state, event("view", "a", user="x"), event("view", "b", session="x"))
    assert (state.recent("x", "").items, state.recent("", "x").items) == (("a",), ("b",))


def test_what_is_taken_back_is_forgotten(state: UserState) -> None:
    take(
        state,
        event("add_to_cart", "a", "b", user="u"),
        event("purchase", "c", user="u"),
        event("view", "a", user="u"),
    )
    take(state, event("remove", "a", "unknown", user="u"), event("return", "c", user="u"))
    assert state.recent("u", "").items == ("b", "a")


def test_what_is_remembered_of_a_user_is_bounded(make: Make) -> None:
    state = make(max_acts=3)
    take(state, event("purchase", *(f"i{at}" for at in range(9)), user="a"))
    assert state.recent("a", "").items == ("i6", "i7", "i8")
    take(state, event("view", "x", user="b"), event("view", "y", user="a", at_s=1))
    assert state.recent("a", "").items == ("i7", "i8", "y")
    state.close()


def test_a_process_remembers_so_many_users() -> None:
    state = UsersInMemory(max_users=2)
    take(state, *(event("view", name, user=name) for name in "abac"))
    assert state.recent("b", "").items == ()  # seen least recently
    assert state.recent("a", "").items == ("a", "a")
    assert len(state) == 2


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["view", "purchase", "add_to_cart", "remove", "search"]),
            st.sampled_from(["", "u", "v"]),
            st.sampled_from(["", "s", "t"]),
            st.lists(st.sampled_from("abcde"), max_size=3),
            st.integers(0, 6),
        ),
        max_size=25,
    )
)
def test_a_state_is_that_of_an_obvious_memory(make: Make, told: list[tuple[str, str, str, list[str], int]]) -> None:
    events = [event(kind, *items, user=user, session=session, at_s=at) for kind, user, session, items, at in told]
    slow: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    for one in events:
        owner = ("user", one.user) if one.user else ("session", one.session)
        if not owner[1]:
            continue
        acts = slow.pop(owner, [])
        if one.user and one.session:
            acts = sorted(acts + slow.pop(("session", one.session), []), key=lambda act: act[0])
        if one.event_type == "remove":
            gone = {item.item_id for item in one.items}
            acts = [act for act in acts if not (act[1] == "add_to_cart" and act[2] in gone)]
        elif one.event_type != "search":
            acts = acts + [(one.at_ms, one.event_type, item.item_id) for item in one.items]
        slow[owner] = sorted(acts, key=lambda act: act[0])
    lived, rebuilt = make(), make()
    for one in events:
        take(lived, one)
    take(rebuilt, *events)
    for (kind, name), acts in slow.items():
        asked = (name, "") if kind == "user" else ("", name)
        assert lived.recent(*asked).items == tuple(act[2] for act in acts)
        assert rebuilt.recent(*asked).items == lived.recent(*asked).items
    lived.close()
    rebuilt.close()


def test_replicas_that_bring_the_same_events_to_redis_bring_each_once(redis_server: RedisProcess) -> None:
    events = [event("view", f"i{at}", user=f"u{at % 7}", session=f"s{at % 3}", at_s=at) for at in range(3_000)]
    replicas = [in_redis(redis_server, max_acts=500, name="many") for _ in range(4)]

    def bring(replica: UsersInRedis) -> None:
        while (known := replica.sequence) < len(events):
            replica.follow(stretch(*events[known : known + 700], after=known))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bring, replicas))
    for user in range(7):
        assert replicas[0].recent(f"u{user}", "").items == tuple(f"i{at}" for at in range(user, 3_000, 7))


def test_what_redis_forgot_is_asked_for_again() -> None:
    server = RedisProcess()
    server.start()
    state = in_redis(server)
    take(state, event("view", "a", user="u"))
    server.kill()
    with pytest.raises(Unavailable, match="Redis does not answer: ConnectionError; see that it runs"):
        state.recent("u", "")
    with pytest.raises(Unavailable, match="it is asked again in a moment"):
        state.recent("u", "")
    server.start()
    state._lost_until = 0
    assert state.recent("u", "").items == ()
    assert state.follow(stretch(event("view", "b", user="u"), after=1)) == 0  # a has to come first
    take(state, event("view", "a", user="u"), event("view", "b", user="u"))
    assert state.recent("u", "").items == ("a", "b")
    state.close()
    server.remove()


def test_a_redis_that_hangs_is_not_waited_for() -> None:
    server = RedisProcess()
    server.start()
    state = in_redis(server, timeout_s=0.05)
    take(state, event("view", "a", user="u"))
    server.send(signal.SIGSTOP)
    with pytest.raises(Unavailable, match="TimeoutError"):
        state.recent("u", "")
    server.send(signal.SIGCONT)
    state._lost_until = 0
    assert state.recent("u", "").items == ("a",)
    state.close()
    server.remove()


def test_nothing_in_redis_lasts_or_tells_who(redis_server: RedisProcess) -> None:
    state = in_redis(redis_server, name="kept")
    take(state, event("view", "a", user="canary", session="canary-visit"), event("view", "b", session="other"))
    keys = [key.decode() for key in state._telling.keys("likewise:kept:*")]
    assert len(keys) == 2
    assert all("canary" not in key and 0 < int(state._telling.ttl(key)) <= 1000 for key in keys)
    state.close()
