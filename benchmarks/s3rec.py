"""How do the sources fare on the Amazon files of S3-Rec, by its protocol, beside what others have measured?

FOLDER holds Beauty.txt, Sports_and_Outdoors.txt or Toys_and_Games.txt as Zhou et al. (CIKM 2020) publish them: a line a user, the
user's id and then the items, oldest first. The last item of each user is asked for. All items are ranked but those of the user's
history, which holds the item before the last; sources learn from all but the last two items of each user. What is chosen (the
passes of sasrec, the weights of blends) is chosen by the last but one.

Figures are recall@10 and ndcg@10 with the middle 95 % of their bootstrap distribution, and the difference to what is known:
sequential-rules must come within .001, for sasrec the best published model of its kind is told.

`likewise evaluate Beauty.txt --mode leave-one-out` measures the same with other settings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.append(sys.path.pop(0))  # a benchmark beside this one is called as a package is

import harness
import numpy as np
from numpy.typing import NDArray

from embeddings.histories.training import EncodedSource, learn
from embeddings.settings import HistoryTrainingSettings
from lifecycle.scoreboard.bootstrap import intervals
from lifecycle.scoreboard.encoders import question_of
from lifecycle.scoreboard.fold import Fold, leave_one_out
from lifecycle.scoreboard.metrics import Scores, score
from matching.interactions import History, read_sequences
from matching.sources import Popular, Profile, Source, fit_ease, fit_item_knn, fit_sequential_rules

# What is known of each file, recall@10 and ndcg@10: by the simple sources, and by the best published models for sasrec.
KNOWN: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "Beauty": {
        "popular": (0.0120, 0.0056),
        "item-knn": (0.0569, 0.0326),
        "item-knn, decay": (0.0657, 0.0399),
        "ease": (0.0694, 0.0374),
        "ease, decay": (0.0773, 0.0456),
        "sequential-rules": (0.0836, 0.0525),
        "sequential-rules + ease": (0.0859, 0.0544),
        "sasrec": (0.0921, 0.0531),
    },
    "Sports_and_Outdoors": {
        "popular": (0.0091, 0.0052),
        "item-knn": (0.0318, 0.0184),
        "item-knn, decay": (0.0326, 0.0199),
        "sequential-rules": (0.0532, 0.0316),
        "sasrec": (0.0569, 0.0314),
    },
    "Toys_and_Games": {
        "popular": (0.0090, 0.0049),
        "item-knn": (0.0667, 0.0391),
        "item-knn, decay": (0.0784, 0.0482),
        "sequential-rules": (0.0962, 0.0624),
        "sasrec": (0.0970, 0.0580),
    },
}
DECAYS = {"Beauty": 0.4, "Sports_and_Outdoors": 0.6, "Toys_and_Games": 0.6}  # of the profile of sequential-rules
GOALS = {"Beauty": (0.093, 0.055), "Sports_and_Outdoors": (0.0, 0.032), "Toys_and_Games": (0.0, 0.062)}  # of the best
NAMES = ("popular", "item-knn", "item-knn, decay", "ease", "ease, decay", "sequential-rules", "sasrec")
WITHIN = 0.001  # so near must sequential-rules come
N_CHOSEN_BY = 4_000  # users by whom the weights of a blend are chosen
_AT_ONCE = 256


@dataclass(frozen=True)
class Figure:
    """What a source reached on a file: mean, low and high of each metric, and the difference to what is known."""

    source: str
    recall: tuple[float, float, float]
    ndcg: tuple[float, float, float]
    known: tuple[float, float] | None
    over_known: tuple[float, float] | None
    seconds: float


@dataclass(frozen=True)
class Blend:
    """The weighted sum of sources, each scaled to 1 for the best item of a user."""

    name: str
    sources: Sequence[Source]
    weights: tuple[float, ...]

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`."""
        return mixed([scaled(each, histories, now_ms) for each in self.sources], self.weights)


def scaled(source: Source, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
    """Scores of which the best of each user is 1: an encoder's as chances relative to the best, others divided by the best."""
    scores = np.array(source.scores(histories, now_ms), np.float32)
    best = scores.max(axis=1, keepdims=True)
    if isinstance(source, EncodedSource):
        return np.exp(scores - np.where(np.isfinite(best), best, 0))
    return np.where(np.isfinite(scores), scores, 0) / np.where(best > 0, best, 1)


def mixed(parts: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32]:
    """Sum of parts by weight; what no part knows stays no candidate."""
    total = np.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        total += np.float32(weight) * part
    return np.where(total != 0, total, -np.inf)


def choose(name: str, sources: Sequence[Source], fold: Fold, n_users: int = N_CHOSEN_BY) -> Blend:
    """Blend sources by the weights, in tenths, that answer the validation best in ndcg@10."""
    asked = fold.validation
    assert asked is not None
    tenths = [each for each in itertools.product(range(11), repeat=len(sources)) if sum(each) == 10]
    gains = np.zeros(len(tenths))
    users = np.arange(len(asked.users))
    if len(users) > n_users:
        users = np.sort(np.random.default_rng(0).choice(users, n_users, replace=False))
    for start in range(0, len(users), _AT_ONCE):
        some = users[start : start + _AT_ONCE]
        histories = [asked.histories[at] for at in some]
        parts = [scaled(each, histories, asked.cut_ms) for each in sources]
        targets = np.array([asked.targets[at][0] for at in some])
        for at, weights in enumerate(tenths):
            scores = mixed(parts, [tenth / 10 for tenth in weights])
            for row, history in zip(scores, histories, strict=True):
                row[history.items] = -np.inf
            found = scores[np.arange(len(some)), targets][:, None]
            ranks = (scores > found).sum(axis=1) + ((scores == found).sum(axis=1) + 1) / 2
            ranks[~np.isfinite(found[:, 0])] = np.inf
            gains[at] += (1 / np.log2(1 + ranks[ranks <= 10])).sum()
    best = tenths[int(np.argmax(gains))]
    return Blend(name, sources, tuple(tenth / 10 for tenth in best))


def fitted(name: str, file: str, fold: Fold, settings: HistoryTrainingSettings) -> Source:
    """Fit one source as the known figures were measured."""
    decay = Profile(step_decay=0.6)
    if name == "popular":
        return Popular.fit(fold.train, now_ms=fold.cut_ms)
    if name == "sequential-rules":
        return fit_sequential_rules(fold.train, window=10, profile=Profile(step_decay=DECAYS[file]))
    if name.startswith("item-knn"):
        return fit_item_knn(fold.train, profile=decay if name.endswith("decay") else Profile())
    if name.startswith("ease"):
        return fit_ease(fold.train, penalty=100, profile=decay if name.endswith("decay") else Profile())
    learned = learn(fold.train, settings, question=question_of(fold), tell=tell)
    print(
        f"  sasrec: {learned.n_epochs} passes, best ndcg@10 of the validation {max(learned.reached):.4f}",
        file=sys.stderr,
    )
    return EncodedSource("sasrec", learned, fold.train.n_items)


def measured(file: str, fold: Fold, names: Sequence[str], settings: HistoryTrainingSettings) -> Iterator[Figure]:
    """Yield what each source reached, as soon as it is known, and then the blends."""
    sources: dict[str, Source] = {}
    for name in names:
        began = time.perf_counter()
        if name.endswith(", decay") and name.removesuffix(", decay") in sources:  # the same table, asked otherwise
            sources[name] = replace(sources[name.removesuffix(", decay")], profile=Profile(step_decay=0.6))
        else:
            sources[name] = fitted(name, file, fold, settings)
        yield figure(file, name, sources[name], fold, began)
    parts = [each for each in ("sequential-rules", "ease", "sasrec") if each in sources]
    for blended in (parts[:2], parts):
        name = " + ".join(blended)
        if len(blended) > 1 and name not in sources:
            began = time.perf_counter()
            sources[name] = blend = choose(name, [sources[each] for each in blended], fold)
            print(f"  {name}: weights {blend.weights}", file=sys.stderr)
            yield figure(file, name, blend, fold, began)


def figure(file: str, name: str, source: Source, fold: Fold, began: float) -> Figure:
    """Ask a source and compare."""
    found: Scores = score(source, fold, [10])
    held = intervals({metric: found.by_user[f"{metric}@10"] for metric in ("recall", "ndcg")})
    recall, ndcg = ((each.mean, each.low, each.high) for each in (held["recall"], held["ndcg"]))
    known = KNOWN[file].get(name)
    over = None if known is None else (recall[0] - known[0], ndcg[0] - known[1])
    return Figure(name, recall, ndcg, known, over, round(time.perf_counter() - began, 1))


def tell(stage: str, done: int, total: int, note: str) -> None:
    """Tell on stderr how far the training is."""
    if done % 100 == 0:
        print(f"  sasrec: {stage}, step {done:,} of at most {total:,}, {note}", file=sys.stderr)


def line(each: Figure) -> str:
    """Return a row of the table."""
    told = f"{each.source:34} {shown(each.recall)} {shown(each.ndcg)}"
    if each.known is None or each.over_known is None:
        return f"{told} {'':31} {each.seconds:8,.1f} s"
    known = "/".join(f"{value:.4f}" for value in each.known)
    over = "/".join(f"{value:+.4f}" for value in each.over_known)
    return f"{told} {known:>14} {over:>16} {each.seconds:8,.1f} s"


def shown(values: tuple[float, float, float]) -> str:
    """Return a mean with its interval."""
    return f"{values[0]:.4f} ({values[1]:.4f} to {values[2]:.4f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table for each file, and return 1 where sequential-rules is not what it is known to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sources", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--patience", type=int, default=20)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    asked = parser.parse_args(arguments)
    files = [asked.folder / f"{name}.txt" for name in KNOWN if (asked.folder / f"{name}.txt").is_file()]
    if not files:
        parser.error(f"{asked.folder} holds none of {', '.join(f'{name}.txt' for name in KNOWN)}; expected one of them")
    settings = HistoryTrainingSettings(
        dim=asked.dim,
        n_blocks=asked.blocks,
        max_epochs=asked.epochs,
        patience=asked.patience,
        threads=asked.threads,
        device=asked.device,
    )
    results: dict[str, object] = {"machine": harness.machine(), "settings": settings.model_dump()}
    is_right = True
    for path in files:
        fold = leave_one_out(read_sequences(path))
        print(
            f"\n{path.stem}: {len(fold.users):,} users, {fold.train.n_items:,} items, {len(fold.train):,} events learned from"
        )
        print(f"{'source':34} {'recall@10':25} {'ndcg@10':25} {'known':>14} {'over known':>16} {'time':>10}")
        figures = []
        for each in measured(path.stem, fold, asked.sources, settings):
            figures.append(each)
            print(line(each), flush=True)
            if each.source == "sequential-rules" and each.over_known is not None:
                near = max(map(abs, each.over_known)) <= WITHIN
                print(f"  sequential-rules is {'' if near else 'NOT '}within {WITHIN} of what is known")
                is_right &= near
        best = max(figures, key=lambda each: each.ndcg[0])
        goal = GOALS[path.stem]
        reached = best.recall[0] >= goal[0] and best.ndcg[0] >= goal[1]
        print(f"  best: {best.source}; the goal {goal[0]}/{goal[1]} is {'' if reached else 'NOT '}reached")
        results[path.stem] = [asdict(each) for each in figures]
    if asked.output is not None:
        asked.output.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if is_right else 1


if __name__ == "__main__":
    raise SystemExit(main())
