"""Admission: places, waits and deadlines, on a clock of our own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matching.errors import InvalidInput, Overloaded, TooManyInFlight
from serving.admission import Admission, Ticket, lane_of, timeout_of
from serving.settings import ServingSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def held(admission: Admission, n: int, lane: str = "search") -> list[Ticket]:
    tickets = [admission.admit(lane, left_s=math.inf) for _ in range(n)]  # type: ignore[arg-type]
    for ticket in tickets:
        ticket.wait()
    return tickets


def paced(clock: Clock, seconds: float, **settings: float) -> Admission:
    """Return an admission whose search lane has moved at a pace."""
    admission = Admission(ServingSettings(**settings), now=clock)  # type: ignore[arg-type]
    for _ in range(400):
        (ticket,) = held(admission, 1)
        clock.now += seconds
        ticket.release()
    return admission


@pytest.mark.parametrize(
    ("path", "lane"),
    [
        ("/v1/findNeighbors", "search"),
        ("/likewise.v1.MatchService/FindNeighbors", "search"),
        ("/v1/projects/p/locations/l/indexEndpoints/e:findNeighbors", "search"),
        ("/v1/items/eshop:1/similar", "search"),
        ("/v1/search", "content"),
        ("/likewise.v1.SearchService/Search", "content"),
        ("/v1/upsertDatapoints", "write"),
        ("/healthz", "open"),
        ("/grpc.health.v1.Health/Check", "open"),
        ("/v1/facets", "other"),
        ("/x/healthz", "other"),
        ("", "other"),
    ],
)
def test_lanes(path: str, lane: str) -> None:
    assert lane_of(path) == lane


@pytest.mark.parametrize(
    ("grpc_timeout", "server_timeout", "seconds"),
    [
        (None, None, math.inf),
        ("250m", None, 0.25),
        ("2S", "9", 2.0),
        ("99999999n", None, 0.099999999),
        ("1H", None, 3600.0),
        (None, "0.25", 0.25),
        (None, "0", 0.0),
        (None, "inf", math.inf),
    ],
)
def test_timeouts(grpc_timeout: str | None, server_timeout: str | None, seconds: float) -> None:
    assert timeout_of(grpc_timeout, server_timeout) == pytest.approx(seconds)


@pytest.mark.parametrize("wrong", ["", "m", "-1m", "1", "1.5S", "123456789m", "\uff11m", "1x"])
def test_a_grpc_timeout_that_is_none(wrong: str) -> None:
    with pytest.raises(InvalidInput, match=r"grpc-timeout is .*expected digits and a unit"):
        timeout_of(wrong, None)


@pytest.mark.parametrize("wrong", ["", "soon", "nan", "-1"])
def test_a_server_timeout_that_is_none(wrong: str) -> None:
    with pytest.raises(InvalidInput, match=r"x-server-timeout is .*expected seconds"):
        timeout_of(None, wrong)


def test_who_would_wait_too_long_is_refused_and_told_when_to_come_back() -> None:
    clock = Clock()
    admission = paced(clock, 0.01, max_wait_s=0.505)
    tickets = held(admission, 51)
    with pytest.raises(
        Overloaded, match=r"51 requests of this kind wait, 0.51 s of work; expected at most 0.51 s"
    ) as told:
        admission.admit("search", left_s=9.0)
    assert told.value.retry_after_s == 0.26
    admission.admit("read", left_s=9.0).release()  # another lane is empty
    clock.now += 0.01
    tickets.pop().release()
    admission.admit("search", left_s=9.0).release()


def test_a_caller_s_deadline_counts_when_it_is_shorter() -> None:
    admission = paced(Clock(), 0.01, max_wait_s=0.5)
    held(admission, 10)
    with pytest.raises(Overloaded, match=r"expected at most 0.03 s"):
        admission.admit("search", left_s=0.1)  # it may wait half of that, and needs the rest
    admission.admit("search", left_s=0.3)


def test_those_whose_time_ran_out_do_not_make_a_lane_seem_fast() -> None:
    clock = Clock()
    admission = paced(clock, 0.01, max_wait_s=0.5)
    for _ in range(50):
        for ticket in held(admission, 40):
            ticket.is_served = False
            ticket.release()
    held(admission, 51)
    with pytest.raises(Overloaded, match=r"51 requests of this kind wait"):
        admission.admit("search", left_s=9.0)


def test_who_reads_an_answer_slowly_keeps_a_place_and_holds_up_nobody() -> None:
    clock = Clock()
    admission = paced(clock, 0.01, max_wait_s=0.5)
    for ticket in (slow := held(admission, 60)):
        ticket.answered(is_served=True)
    assert admission.n_in_flight == 60
    clock.now += 30.0
    for ticket in slow:
        ticket.release()
    held(admission, 40)
    admission.admit("search", left_s=9.0)  # the lane is as fast as it was


def test_health_is_never_refused() -> None:
    admission = Admission(ServingSettings(max_in_flight=1))
    held(admission, 1)
    with pytest.raises(Overloaded, match="1 requests with 0 bytes are under way; at most 1 with"):
        admission.admit("search", left_s=1.0)
    admission.admit("open", left_s=1.0)


def test_bodies_have_a_sum() -> None:
    admission = Admission(ServingSettings(max_in_flight_bytes=2000))
    first = admission.admit("write", left_s=1.0, n_bytes=1500)
    with pytest.raises(Overloaded, match=r"1 requests with 1,500 bytes are under way; at most 512 with 2,000"):
        admission.admit("write", left_s=1.0, n_bytes=501)
    first.release()
    first.release()
    admission.admit("write", left_s=1.0, n_bytes=2000)
    assert admission.n_in_flight == 1


def test_one_stall_does_not_pass_for_a_slow_lane() -> None:
    clock = Clock()
    admission = paced(clock, 0.001, max_wait_s=0.5)
    (stalled,) = held(admission, 1)
    clock.now += 600
    stalled.release()
    held(admission, 50)
    admission.admit("search", left_s=9.0)


def test_those_who_leave_in_bursts_have_the_pace_of_all() -> None:
    clock = Clock()
    admission = Admission(ServingSettings(max_wait_s=0.5), now=clock)
    for _ in range(100):
        tickets = held(admission, 8)
        clock.now += 0.08
        for ticket in tickets:
            ticket.release()
    _, wait_s = (held(admission, 10), admission.waits()["search"][1])
    assert 0.06 < wait_s < 0.14


def test_a_lane_that_has_become_slow_is_noticed() -> None:
    clock = Clock()
    admission = paced(clock, 0.001, max_wait_s=0.5)
    for _ in range(200):
        (ticket,) = held(admission, 1)
        clock.now += 0.3
        ticket.release()
    held(admission, 2)
    with pytest.raises(Overloaded, match=r"2 requests of this kind wait, 0\.60 s of work"):
        admission.admit("search", left_s=9.0)


@given(st.lists(st.tuples(st.sampled_from(["come", "go", "drop"]), st.floats(0, 0.1)), max_size=200))
def test_whoever_comes_and_goes_places_are_neither_lost_nor_invented(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    admission = Admission(ServingSettings(max_in_flight=20, max_wait_s=0.3), now=clock)
    waiting: list[Ticket] = []
    for step, seconds in steps:
        clock.now += seconds
        if step == "come":
            n_before = admission.n_in_flight
            try:
                ticket = admission.admit("search", left_s=1.0, n_bytes=3)
            except Overloaded:
                assert waiting
                assert admission.n_in_flight == n_before
            else:
                ticket.wait()
                waiting.append(ticket)
        elif waiting:
            ticket = waiting.pop(0 if step == "go" else -1)
            ticket.release()
            ticket.release()
        n_waiting, wait_s = admission.waits()["search"]
        assert n_waiting == len(waiting) == admission.n_in_flight
        assert wait_s >= 0


def test_a_caller_has_as_many_places_as_it_may_whoever_else_asks() -> None:
    rng = np.random.default_rng(4)
    admission = Admission(ServingSettings(), max_per_caller=3)
    held: dict[str, list[Ticket]] = {"a": [], "b": [], "c": []}
    for _ in range(2000):
        caller = "abc"[rng.integers(3)]
        if held[caller] and rng.random() < 0.5:
            ticket = held[caller].pop()
            ticket.release()
            ticket.release()
            continue
        ticket = admission.admit("open", left_s=1.0)
        if len(held[caller]) < 3:
            ticket.claim(caller)
            held[caller].append(ticket)
        else:
            with pytest.raises(TooManyInFlight, match=r"3 requests of this caller .* at most 3 \(auth.max_in_flight\)"):
                ticket.claim(caller)
            ticket.release()
        assert admission.n_in_flight == sum(map(len, held.values()))
    for ticket in (ticket for tickets in held.values() for ticket in tickets):
        ticket.release()
    assert not admission._by_caller, "who has nothing under way takes no memory"
