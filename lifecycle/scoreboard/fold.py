"""What is learnt from and what is then asked: folds of interactions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from matching.errors import InvalidInput
from matching.interactions import DAY_MS, History, Interactions


@dataclass(frozen=True)
class Fold:
    """One question to all sources: who takes what after `cut_ms`?

    Attributes:
        name: what reports call it.
        cut_ms: now, for the sources.
        train: what happened before.
        users: int64[m], who is asked about.
        histories: what each of them did before.
        targets: for each, int64[t], the items to be found, t >= 1.
        values: for each, float64[t], what was paid for them.
        validation: the same question asked earlier, of `train` alone, to choose a source's settings by; None where there is
            nothing to ask.
    """

    name: str
    cut_ms: int
    train: Interactions
    users: NDArray[np.int64]
    histories: Sequence[History]
    targets: Sequence[NDArray[np.int64]]
    values: Sequence[NDArray[np.float64]]
    validation: Fold | None = None


def time_folds(
    interactions: Interactions, *, cut_ms: int, horizon_ms: int, n_origins: int = 1, new_only: bool = True
) -> Iterator[Fold]:
    """Cut in time: all before a cut is known, what comes in the horizon after it is to be found.

    Args:
        cut_ms: of the last fold; each fold before it is cut one horizon earlier.
        horizon_ms: how long after the cut counts.
        new_only: items that a user had before the cut are not asked for (and are to be left out of answers).

    Raises:
        InvalidInput: a fold has nothing before or nothing after its cut.
    """
    for back in range(n_origins - 1, -1, -1):
        at = cut_ms - back * horizon_ms
        fold = _cut(interactions, at, horizon_ms, new_only)
        if fold is None:
            first, last = (np.datetime64(int(t), "ms").astype("datetime64[m]") for t in interactions.at_ms[[0, -1]])
            raise InvalidInput(
                f"[evaluate] the cut at {_minute(at)} leaves no event before it or no user to ask about in the "
                f"{horizon_ms / DAY_MS:g} days after it; the events run from {first} to {last}; choose another cut, horizon "
                f"or fewer origins"
            )
        yield replace(fold, validation=_cut(fold.train, at - horizon_ms, horizon_ms, new_only))


def leave_one_out(interactions: Interactions) -> Fold:
    """Ask for the last item of each user with three or more; sources learn from all but the last two of each.

    The item before the last is the validation, and in the history when the last is asked for. A later event of one user is
    known when an earlier one of another is asked for: figures made so compare with published ones and are no forecast.

    Raises:
        InvalidInput: no user has three interactions.
    """
    asked = {user: rows for user in range(interactions.n_users) if len(rows := interactions.rows_of(user)) > 2}
    if not asked:
        raise InvalidInput("[evaluate] no user has three events; leave-one-out needs some; evaluate by time instead")
    is_known = np.ones(len(interactions), np.bool_)
    is_known[np.concatenate([rows[-2:] for rows in asked.values()])] = False
    train = interactions.take(is_known)
    last, before = (_last_of(interactions, train, asked, n_later) for n_later in (0, 1))
    return replace(last, validation=before)


def _last_of(
    interactions: Interactions, train: Interactions, asked: Mapping[int, NDArray[np.int64]], n_later: int
) -> Fold:
    at = -1 - n_later
    told = [
        (
            user,
            interactions.history_of(rows[:at]),
            interactions.items[rows[[at]]].astype(np.int64),
            interactions.values[rows[[at]]].astype(np.float64),
        )
        for user, rows in asked.items()
    ]
    return _fold("leave-one-out", int(interactions.at_ms[-1]) + 1, train, told)


def _cut(interactions: Interactions, at: int, horizon_ms: int, new_only: bool) -> Fold | None:
    train, test = interactions.between(0, at), interactions.between(at, at + horizon_ms)
    asked = []
    for user in np.flatnonzero(test.n_of_users()):
        history = train.history(int(user))
        targets, values = _targets(test, int(user))
        if new_only:
            new = ~np.isin(targets, history.items)
            targets, values = targets[new], values[new]
        if len(targets):
            asked.append((int(user), history, targets, values))
    return _fold(_minute(at), at, train, asked) if asked and len(train) else None


def _minute(at_ms: int) -> str:
    return str(np.datetime64(at_ms, "ms").astype("datetime64[m]"))


def _targets(test: Interactions, user: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows = test.rows_of(user)
    targets, place = np.unique(test.items[rows], return_inverse=True)
    paid = np.bincount(place, weights=test.values[rows].astype(np.float64), minlength=len(targets))
    return targets.astype(np.int64), paid.astype(np.float64)


def _fold(
    name: str,
    cut_ms: int,
    train: Interactions,
    asked: Sequence[tuple[int, History, NDArray[np.int64], NDArray[np.float64]]],
) -> Fold:
    users, histories, targets, values = zip(*asked, strict=True)
    return Fold(name, cut_ms, train, np.array(users, np.int64), histories, targets, values)
