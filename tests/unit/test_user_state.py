"""What is remembered of users and visits, beside a slow and obvious memory."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from matching.events import Event, EventItem, Stretch
from matching.user_keys import user_digest, visit_digest
from serving.user_state import UserState

_numbers = itertools.count()


def event(kind: str, *items: str, user: str = "", session: str = "", at_s: int = 0) -> Event:
    told = tuple(EventItem(item) for item in items)
    return Event(f"e{next(_numbers)}", kind, user, session, told, at_s * 1000, at_s * 1000)


def stretch(*events: Event, after: int = 0, erased: tuple[str, ...] = ()) -> Stretch:
    told = tuple(enumerate(events, after + 1))
    until = after + len(told) + bool(erased)
    return Stretch(after, until, told, frozenset(erased), until)


def test_a_log_is_followed_without_gaps_and_without_repeats() -> None:
    state = UserState()
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
    state.clear()
    assert (state.sequence, len(state)) == (0, 0)


def test_acts_come_back_in_their_order_with_what_they_say() -> None:
    state = UserState()
    state.take([event("view", "a", user="u", at_s=10), event("purchase", "b", "c", user="u", at_s=20)])
    state.take([event("view", "late", user="u", at_s=5), event("impression", "x", user="u", at_s=30)])
    recent = state.recent("u", "")
    assert recent.items == ("late", "a", "b", "c")
    assert recent.at_ms.tolist() == [5000, 10_000, 20_000, 20_000]
    assert recent.is_bought.tolist() == [False, False, True, True]
    assert recent.weights.tolist() == [recent.weights[0], recent.weights[0], 1, 1]
    assert recent.weights[0] < 1
    assert state.recent("nobody", "").items == state.recent("", "").items == ()


def test_a_visit_becomes_its_users_when_they_log_in() -> None:
    state = UserState()
    state.take([event("view", "a", user="u", at_s=1), event("view", "b", session="s", at_s=2)])
    assert state.recent("", "s").items == ("b",)
    assert state.recent("u", "s").items == ("a", "b")  # the request knows already
    state.take([event("view", "c", user="u", session="s", at_s=3)])
    assert state.recent("u", "").items == ("a", "b", "c")
    assert state.recent("", "s").items == ()
    assert state.recent("u", "s").items == ("a", "b", "c")
    assert len(state) == 1


def test_users_and_visits_of_one_name_are_apart() -> None:
    state = UserState()
    state.take([event("view", "a", user="x"), event("view", "b", session="x")])
    assert (state.recent("x", "").items, state.recent("", "x").items) == (("a",), ("b",))


def test_what_is_taken_back_is_forgotten() -> None:
    state = UserState()
    state.take(
        [event("add_to_cart", "a", "b", user="u"), event("purchase", "c", user="u"), event("view", "a", user="u")]
    )
    state.take([event("remove", "a", "unknown", user="u"), event("return", "c", user="u")])
    assert state.recent("u", "").items == ("b", "a")


def test_memory_is_bounded_by_user_and_by_users() -> None:
    state = UserState(max_acts=3, max_users=2)
    state.take([event("purchase", *(f"i{at}" for at in range(9)), user="a")])
    assert state.recent("a", "").items == ("i6", "i7", "i8")
    state.take([event("view", "x", user="b"), event("view", "y", user="a", at_s=1), event("view", "z", user="c")])
    assert state.recent("b", "").items == ()  # seen least recently
    assert state.recent("a", "").items == ("i7", "i8", "y")
    assert len(state) == 2


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
def test_a_rebuilt_state_is_that_of_an_obvious_memory(told: list[tuple[str, str, str, list[str], int]]) -> None:
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
    lived, rebuilt = UserState(), UserState()
    for one in events:
        lived.take([one])
    assert rebuilt.follow(stretch(*events)) == len(events)
    for (kind, name), acts in slow.items():
        asked = (name, "") if kind == "user" else ("", name)
        assert lived.recent(*asked).items == tuple(act[2] for act in acts)
        assert rebuilt.recent(*asked).items == lived.recent(*asked).items
