"""The scoreboard: baselines and challengers on the same folds, and who may be promoted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lifecycle.scoreboard.bootstrap import Interval, holm, interval, intervals
from lifecycle.scoreboard.fold import Fold
from lifecycle.scoreboard.metrics import Scores, score
from lifecycle.scoreboard.served import BLENDED, Blend, in_memory
from matching.errors import GateRefused, InvalidInput
from matching.interactions import History
from matching.sources import (
    NO_CANDIDATE,
    Ials,
    Popular,
    Profile,
    Source,
    Trending,
    fit_ease,
    fit_item_knn,
    fit_sequential_rules,
)

# Fits a source on a fold; what was fitted on it before, by name, may be built upon.
Fit = Callable[[Fold, Mapping[str, Source]], Source]

BLEND: Final = "blend"
_DECAYS: Final = (0.4, 0.6, 0.8, 1.0)


def _sequential_rules(fold: Fold, fitted: Mapping[str, Source]) -> Source:
    """With the decay of the profile that the validation likes best."""
    decay = 0.6
    if fold.validation is not None:
        table = fit_sequential_rules(fold.validation.train)
        reached = {
            each: float(
                score(replace(table, profile=Profile(step_decay=each)), fold.validation, [10]).by_user["ndcg@10"].mean()
            )
            for each in _DECAYS
        }
        decay = max(reached, key=lambda each: reached[each])
    return fit_sequential_rules(fold.train, profile=Profile(step_decay=decay))


# What every report holds: nothing is worth promoting that does not beat the best of them.
BASELINES: Final[Mapping[str, Fit]] = {
    "popular-7d": lambda fold, fitted: Popular.fit(fold.train, now_ms=fold.cut_ms, days=7),
    "popular": lambda fold, fitted: Popular.fit(fold.train, now_ms=fold.cut_ms),
    "sequential-rules": _sequential_rules,
    "item-knn": lambda fold, fitted: fit_item_knn(fold.train),
    "ease": lambda fold, fitted: fit_ease(fold.train),
    "ials": lambda fold, fitted: Ials.fit(fold.train, dim=64, penalty=0.01),
}


def _served(name: str, fold: Fold, fitted: Mapping[str, Source]) -> Blend:
    """One model as a service asks it."""
    return Blend([in_memory(name, fold)], {name: 1.0})


def _blend(fold: Fold, fitted: Mapping[str, Source]) -> Blend:
    known = [each for name in BLENDED if isinstance(each := fitted.get(name), Blend)]
    models = {model.source: model for each in known for model in each.models}
    return Blend([models.get(name) or in_memory(name, fold) for name in BLENDED], BLENDED)


CHALLENGERS: Final[Mapping[str, Fit]] = {
    "item-knn-trending": lambda fold, fitted: Trending.fit(fitted["item-knn"], fold.train, now_ms=fold.cut_ms),
    **{name: partial(_served, name) for name in ("ease-trending", "ials-trending", "session-knn")},
    BLEND: _blend,
}


@dataclass(frozen=True)
class Row:
    """One source over all folds.

    Attributes:
        metrics: mean and interval of each metric over the users with a history.
        overall: see `metrics.Scores`; the mean over folds.
        cold: the primary metric over the users without one, who are asked about as well; None where there are none.
        over_best: difference to the best baseline in the primary metric, over the same users; None for baselines.
        p_adjusted: of that difference, for as many challengers as there are.
        over_single: of a blend: difference to the best single source, challengers among them; None for single sources.
        is_promotable: a challenger whose difference to the best baseline has an interval above 0.
        weights: of a blend, in its last fold.
    """

    source: str
    is_baseline: bool
    metrics: Mapping[str, Interval]
    overall: Mapping[str, float]
    cold: float | None
    over_best: Interval | None
    p_adjusted: float | None
    over_single: Interval | None
    is_promotable: bool
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Board:
    """What was measured, best first by the primary metric."""

    primary: str
    folds: Sequence[Mapping[str, Any]]
    best_baseline: str
    best_single: str
    rows: Sequence[Row]

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        return asdict(self)


def measure(
    folds: Sequence[Fold],
    challengers: Mapping[str, Fit],
    *,
    baselines: Mapping[str, Fit] = BASELINES,
    primary: str = "ndcg@10",
    ks: Sequence[int] = (10, 20),
    leave_out_seen: bool = True,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Board:
    """Fit every source on every fold, ask it, and compare.

    Figures are of users with a history; of the others, whom most sources know nothing for, there is one beside them. A
    user who is asked about in several folds counts once, with the mean over them.

    Args:
        folds: in order of time.
        challengers: by name; all of `baselines` are fitted before them and measured beside them.
        primary: what decides, one of the metrics of `metrics.score`.
        progress: called with what is done, how many users are done and of how many.

    Raises:
        GateRefused: the folds leak, or the measure itself fails its own test.
    """
    for fold in folds:
        check_fold(fold)
        check_measure(fold, ks)
    fits = {**baselines, **challengers}
    results: dict[str, list[Scores]] = {name: [] for name in fits}
    weights: dict[str, Mapping[str, float]] = {}
    for fold in folds:
        fitted: dict[str, Source] = {}
        for name, fit in fits.items():
            stage = f"{name}, {fold.name}"
            progress(f"fit {stage}", 0, len(fold.users))
            fitted[name] = fit(fold, fitted)
            if name == BLEND:
                weights[name] = getattr(fitted[name], "weights", {})
            tell = _Tell(progress, f"ask {stage}", len(fold.users))
            results[name].append(score(fitted[name], fold, ks, leave_out_seen=leave_out_seen, progress=tell))
    seen = _Seen(folds)
    best = max(baselines, key=lambda name: float(seen.per_user(results[name], primary).mean()))
    against = seen.per_user(results[best], primary)
    best_single = max(
        (name for name in fits if name != BLEND), key=lambda name: float(seen.per_user(results[name], primary).mean())
    )
    over_single = {
        name: interval(seen.per_user(results[name], primary) - seen.per_user(results[best_single], primary), seed=seed)
        for name in weights
    }
    over = {name: interval(seen.per_user(results[name], primary) - against, seed=seed) for name in challengers}
    adjusted = dict(zip(over, holm([each.p for each in over.values()]), strict=True))
    rows = [
        Row(
            source=name,
            is_baseline=name in baselines,
            metrics=intervals({metric: seen.per_user(scores, metric) for metric in scores[0].by_user}, seed=seed),
            overall={key: float(np.mean([each.overall[key] for each in scores])) for key in scores[0].overall},
            cold=seen.cold(scores, primary),
            over_best=over.get(name),
            p_adjusted=adjusted.get(name),
            over_single=over_single.get(name),
            is_promotable=name in over and over[name].low > 0,
            weights=weights.get(name, {}),
        )
        for name, scores in results.items()
    ]
    rows.sort(key=lambda row: -row.metrics[primary].mean)
    return Board(primary, [_described(fold) for fold in folds], best, best_single, rows)


def check_fold(fold: Fold) -> None:
    """Check that nothing from behind the cut is known to a source.

    Raises:
        GateRefused: something is.
    """
    latest = max(
        [int(fold.train.at_ms[-1])] + [int(history.at_ms.max()) for history in fold.histories if len(history.at_ms)]
    )
    if latest >= fold.cut_ms:
        raise GateRefused(
            f"[evaluate] fold {fold.name} knows an event of {np.datetime64(latest, 'ms')}, at or behind its cut; "
            f"expected all of them before it; this is a fault of the split"
        )


def check_measure(fold: Fold, ks: Sequence[int]) -> None:
    """Check the measure by two sources whose figures are known: one that knows the answers, and one that knows nothing.

    Raises:
        GateRefused: a figure is not what it must be.
    """
    found = score(_Knows(fold, 1.0), fold, ks, leave_out_seen=False)
    missed = score(_Knows(fold, -np.inf), fold, ks, leave_out_seen=False)
    for k in ks:
        best = {"hit": 1.0, "ndcg": 1.0, "recall": float(np.mean([min(k, len(t)) / len(t) for t in fold.targets]))}
        for metric, expected in best.items():
            high, low = found.by_user[f"{metric}@{k}"].mean(), missed.by_user[f"{metric}@{k}"].mean()
            if abs(high - expected) > 1e-9 or low != 0:
                raise GateRefused(
                    f"[evaluate] {metric}@{k} of all answers is {high:.6f} and of none {low:.6f}; expected {expected:.6f} and 0; "
                    f"this is a fault of the measure"
                )


class _Knows:
    """Ranks the targets of a fold's users, in turn, above all other items."""

    name = "knows"

    def __init__(self, fold: Fold, of_targets: float) -> None:
        self._fold = fold
        self._of_targets = of_targets
        self._next = 0

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        scores = np.full((len(histories), self._fold.train.n_items), NO_CANDIDATE, np.float32)
        for row, targets in enumerate(self._fold.targets[self._next : self._next + len(histories)]):
            scores[row, targets] = self._of_targets * np.arange(len(targets), 0, -1)
        self._next += len(histories)
        return scores


class _Tell:
    """Hands on how many users of a stage are done."""

    def __init__(self, progress: Callable[[str, int, int], None], stage: str, total: int) -> None:
        self._progress, self._stage, self._total = progress, stage, total

    def __call__(self, done: int) -> None:
        self._progress(self._stage, done, self._total)


class _Seen:
    """Which of the asked users have a history, and who comes in several folds."""

    def __init__(self, folds: Sequence[Fold]) -> None:
        self._warm = np.concatenate([[len(history.items) > 0 for history in fold.histories] for fold in folds])
        users = np.concatenate([fold.users for fold in folds])[self._warm]
        if not len(users):
            raise InvalidInput(
                "[evaluate] no user who is asked about did anything before; expected some; choose a later cut"
            )
        _, self._place, self._n = np.unique(users, return_inverse=True, return_counts=True)

    def per_user(self, results: Sequence[Scores], metric: str) -> NDArray[np.float64]:
        """Mean over the folds of each user with a history: float64[distinct users]."""
        values = np.concatenate([each.by_user[metric] for each in results])[self._warm]
        return np.bincount(self._place, weights=values) / self._n

    def cold(self, results: Sequence[Scores], metric: str) -> float | None:
        """Mean over those without one."""
        values = np.concatenate([each.by_user[metric] for each in results])[~self._warm]
        return float(values.mean()) if len(values) else None


def _described(fold: Fold) -> dict[str, Any]:
    known = np.bincount(fold.train.items, minlength=fold.train.n_items) > 0
    targets = np.concatenate(fold.targets)
    return {
        "cut": fold.name,
        "n_events": len(fold.train),
        "n_users": len(fold.users),
        "n_cold_users": sum(len(history.items) == 0 for history in fold.histories),
        "n_targets": len(targets),
        "n_cold_targets": int((~known[targets]).sum()),
    }
