"""How sure a mean is, and the difference of two over the same users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES: Final = 2_000
_NUMBERS_AT_ONCE: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over users with the middle 95 % of its bootstrap distribution.

    Attributes:
        p: two-sided: how often a resampled mean lies on the other side of 0, twice; at least 1 / resamples.
    """

    mean: float
    low: float
    high: float
    p: float


def intervals(
    values: Mapping[str, NDArray[np.float64]], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> dict[str, Interval]:
    """Resample users with replacement, for several figures of the same users by the same draws.

    Args:
        values: float64[m] by name; for a paired comparison each user's difference.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 (percentiles).
    """
    rng = np.random.default_rng(seed)
    table = np.stack(list(values.values()), axis=1)
    n = len(table)
    means = np.empty((n_resamples, table.shape[1]))
    at_once = max(1, _NUMBERS_AT_ONCE // n)
    for start in range(0, n_resamples, at_once):
        drawn = rng.integers(0, n, (min(at_once, n_resamples - start), n))
        times = np.stack([np.bincount(users, minlength=n) for users in drawn])  # that each user was drawn
        means[start : start + len(drawn)] = times @ table / n
    return {name: _interval(table[:, at], means[:, at]) for at, name in enumerate(values)}


def interval(values: NDArray[np.float64], *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Interval:
    """Resample users for one figure, as `intervals` does."""
    return intervals({"": values}, seed=seed, n_resamples=n_resamples)[""]


def _interval(values: NDArray[np.float64], means: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(means, [2.5, 97.5])
    beyond = min(float((means <= 0).mean()), float((means >= 0).mean()))
    return Interval(float(values.mean()), float(low), float(high), max(2 * beyond, 1 / len(means)))


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several comparisons, adjusted so that the chance of any false claim stays as stated.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    largest = 0.0
    for place, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[at]))
        adjusted[at] = largest
    return [float(value) for value in adjusted]
