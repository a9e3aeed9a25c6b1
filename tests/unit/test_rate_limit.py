"""Token buckets against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from serving.rate_limit import TokenBuckets


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    buckets = TokenBuckets(per_s=2, burst=3)
    assert [buckets.take("a", 10.0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]
    assert buckets.take("a", 10.4) == pytest.approx(0.1)
    assert buckets.take("a", 10.5) == 0
    assert buckets.take("a", 10.5) == pytest.approx(0.5)
    assert buckets.take("b", 10.5) == 0, "others have their own"
    assert [buckets.take("a", 99.0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)], (
        "a pause fills no more than a burst"
    )


@pytest.mark.parametrize(("per_s", "burst"), [(0.5, 2), (10, 5), (1000, 100)])
def test_over_a_long_time_the_rate_is_exact(per_s: float, burst: int) -> None:
    rng = np.random.default_rng(3)
    buckets = TokenBuckets(per_s=per_s, burst=burst)
    at, n_let = 0.0, 0
    while at < 400 / per_s:
        n_let += buckets.take("a", at) == 0
        at += rng.exponential(0.02 / per_s)
    assert burst + at * per_s - 2 <= n_let <= burst + at * per_s


def test_who_waits_as_told_is_let_through() -> None:
    buckets = TokenBuckets(per_s=3, burst=1)
    at = 0.0
    for _ in range(1000):
        assert buckets.take("a", at) == 0
        at += buckets.take("a", at)


def test_callers_without_number_do_not_fill_the_memory() -> None:
    buckets = TokenBuckets(per_s=1, burst=1)
    for caller in range(20_000):
        buckets.take(str(caller), 0.0)
    assert buckets.take("19999", 0.0) > 0, "who asked last is remembered"
    assert buckets.take("0", 0.0) == 0
    assert len(buckets._held) == 10_000
