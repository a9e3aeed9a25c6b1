"""When a replica is too far behind to answer, with a clock and a log that the test turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from matching.live import LiveIndex, Reach
from serving.lag import Lag, LagMeter


@dataclass
class _Position:
    sequence: int = 0


@dataclass
class Replica:
    """What the meter asks of a live index."""

    now: float = 100.0
    reach: Reach = field(default_factory=lambda: Reach(0))
    snapshot: _Position = field(default_factory=_Position)

    def __post_init__(self) -> None:
        self.meter = LagMeter(max_seconds=5, max_writes=100, clock=lambda: self.now)

    def after(self, seconds: float, sequence: int, position: int, age_s: float = 0.2, is_reachable: bool = True) -> Lag:
        self.now += seconds
        self.reach, self.snapshot.sequence = Reach(sequence, age_s, is_reachable), position
        return self.meter.measure(cast(LiveIndex, self))


def test_a_new_replica_is_behind_until_it_is_level() -> None:
    replica = Replica()
    assert replica.after(6, 1000, 0).is_behind
    assert replica.after(6, 1000, 900).is_behind
    assert replica.after(6, 1000, 999).is_behind  # within the limit of writes, and not level
    lag = replica.after(0.5, 1000, 1000)
    assert (lag.is_behind, lag.n_writes, lag.seconds, str(lag)) == (False, 0, 0.0, "ok")


def test_a_replica_that_keeps_up_with_constant_writes_is_level() -> None:
    replica = Replica()
    replica.after(1, 0, 0)
    lags = [replica.after(0.5, at * 100, at * 100 - 40) for at in range(1, 100)]
    assert not any(lag.is_behind for lag in lags)
    assert max(lag.seconds for lag in lags) < 2


def test_over_either_limit_it_leaves_and_comes_back_level() -> None:
    replica = Replica()
    replica.after(1, 10, 10)
    lag = replica.after(1, 200, 20)
    assert (lag.is_behind, lag.n_writes) == (True, 180)
    assert str(lag).startswith("behind: 180 writes, 1.")
    assert replica.after(1, 200, 150).is_behind
    assert not replica.after(1, 200, 200).is_behind
    assert not replica.after(1, 210, 200).is_behind
    assert not replica.after(3, 210, 200).is_behind
    assert replica.after(3, 210, 200).is_behind  # few writes, for too long


def test_a_lost_log_changes_nothing() -> None:
    replica = Replica()
    replica.after(1, 10, 10)
    for _ in range(100):
        lag = replica.after(10, 10, 10, is_reachable=False)
        assert (lag.is_behind, lag.is_reachable) == (False, False)
    behind = Replica()
    behind.after(1, 500, 10)
    assert behind.after(1, 500, 500, is_reachable=False).is_behind


def test_what_was_stopped_knows_that_it_knows_nothing() -> None:
    replica = Replica()
    replica.after(1, 10, 10)
    assert replica.after(20, 10, 10, age_s=20.2).is_behind
    assert replica.after(0.1, 10, 10, age_s=20.2, is_reachable=False).is_behind  # lost while it was stopped
    assert replica.after(0.1, 5000, 10).is_behind
    assert not replica.after(1, 5000, 5000).is_behind
