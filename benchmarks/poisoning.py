"""How far do fake users lift an item beside another one? Each source learns a shop's events with and without them.

python benchmarks/poisoning.py $LIKEWISE_DATA/interactions/online_retail/events.parquet --sources item-knn ease

A pair is an item that many take, and a target that few do. Fake users, a share of the real ones, take both, one after the other,
and nothing else; with --camouflage each takes so many other items too, as popular as they are. Told is the rank of the target
among all items for somebody who has taken the first item alone, before and after, median and worst, and how often it comes into
the best ten.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.append(sys.path.pop(0))  # a benchmark beside this one is called as a package is

import numpy as np
from numpy.typing import NDArray

from matching.interactions import History, Interactions, read_events
from matching.sources.ials import Ials
from matching.sources.item_table import fit_ease, fit_item_knn, fit_sequential_rules
from matching.sources.popular import Popular
from matching.sources.source import Source

SOURCES: dict[str, Callable[[Interactions, int], Source]] = {
    "popular": lambda known, now_ms: Popular.fit(known, now_ms=now_ms, days=30),
    "sequential-rules": lambda known, now_ms: fit_sequential_rules(known),
    "item-knn": lambda known, now_ms: fit_item_knn(known),
    "ease": lambda known, now_ms: fit_ease(known),
    "ials": lambda known, now_ms: Ials.fit(known, dim=64, penalty=0.01),
}


def main() -> None:
    """Print one JSON object a source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", type=Path)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.01, help="fake users for each real one")
    parser.add_argument("--camouflage", type=int, default=0, help="other items that each of them takes")
    parser.add_argument("--fewest", type=int, default=1, help="learn from users of at least so many items alone")
    asked = parser.parse_args()
    known = read_events(asked.events)
    rng = np.random.default_rng(11)
    now_ms = int(known.at_ms[-1]) + 1
    n_fake = round(asked.share * known.n_users)
    taken = np.bincount(known.distinct()[1], minlength=known.n_items)
    by_users = np.argsort(-taken, kind="stable")
    first = rng.choice(by_users[: known.n_items // 20], asked.pairs, replace=False)
    targets = rng.choice(by_users[known.n_items // 4 : known.n_items // 2], asked.pairs, replace=False)
    for name in asked.sources:
        clean = SOURCES[name](of_many(known, asked.fewest), now_ms)
        before, after = [], []
        for item, target in zip(first.tolist(), targets.tolist(), strict=True):
            poisoned = attacked(known, item, target, n_fake, asked.camouflage, taken, rng)
            before.append(rank(clean, item, target, now_ms))
            after.append(rank(SOURCES[name](of_many(poisoned, asked.fewest), now_ms), item, target, now_ms))
        gains = np.array(before) - np.array(after)
        told = {
            "source": name,
            "n_fake": n_fake,
            "camouflage": asked.camouflage,
            "fewest": asked.fewest,
            "pairs": asked.pairs,
            "rank_before": float(np.median(before)),
            "rank_after": float(np.median(after)),
            "gain_median": float(np.median(gains)),
            "gain_worst": int(gains.max()),
            "new_in_top_10": int(np.sum((np.array(after) <= 10) & (np.array(before) > 10))),
        }
        print(json.dumps(told), flush=True)


def attacked(
    known: Interactions,
    item: int,
    target: int,
    n_fake: int,
    n_others: int,
    taken: NDArray[np.int64],
    rng: np.random.Generator,
) -> Interactions:
    """Return the same events, and those of fake users over the last 20 days."""
    others = rng.choice(known.n_items, (n_fake, n_others), p=taken / taken.sum()).astype(np.int32)
    pair = np.tile(np.array([item, target], np.int32), (n_fake, 1))
    items = np.concatenate([others, pair], axis=1)
    days = rng.integers(0, 20 * 86_400_000, n_fake)[:, None]
    at_ms = int(known.at_ms[-1]) - days - np.arange(items.shape[1])[::-1] * 60_000
    users = np.repeat(known.n_users + np.arange(n_fake, dtype=np.int32), items.shape[1])
    whole = np.concatenate([known.at_ms, at_ms.ravel()])
    order = np.argsort(whole, kind="stable")
    n_new = items.size
    return replace(
        known,
        user_ids=(*known.user_ids, *(f"~{at}" for at in range(n_fake))),
        users=np.concatenate([known.users, users])[order],
        items=np.concatenate([known.items, items.ravel()])[order],
        at_ms=whole[order],
        weights=np.concatenate([known.weights, np.ones(n_new, np.float32)])[order],
        values=np.concatenate([known.values, np.zeros(n_new, np.float32)])[order],
    )


def of_many(known: Interactions, fewest: int) -> Interactions:
    """Return what users did who took so many different items."""
    n_items = np.bincount(known.distinct()[0], minlength=len(known.user_ids))
    return known.take(n_items[known.users] >= fewest)


def rank(source: Source, item: int, target: int, now_ms: int) -> int:
    """Return the place of the target for somebody who took the item just now: 1 is the best, ties take the mean of theirs."""
    history = History(np.array([item], np.int32), np.array([now_ms - 60_000], np.int64), np.ones(1, np.float32))
    scores = np.array(source.scores([history], now_ms)[0])
    scores[item] = -np.inf
    return int(np.sum(scores > scores[target]) + np.sum(scores == scores[target]) / 2 + 0.5)


if __name__ == "__main__":
    main()
