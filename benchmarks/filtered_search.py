"""How many queries a second does a filtered search answer at recall@10 of .95, from half of the rows down to one in 10,000?

Three kinds of filters: `random` rows; `near`, the clusters of rows that are nearest to the queries, as when shoppers ask within
their category; `far`, the clusters that are farthest from them, where a walk towards the query leads away from every answer.
The last two are asked by groups of queries that lie close together. One Python call a query on one pinned core, CPU time of
the process, contestants in turns; a filter is made ready outside the clock (a bitmap, a selector, an indexed attribute).
Recall is counted as in `graph_search.py`, against the exact nearest among the rows that the filter lets through; `short` is
the share of queries that got fewer than min(10, matching rows) answers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import graph_search
import numpy as np
import peers
from graph_search import Contestant, Data, K, Truth
from numpy.typing import NDArray
from peers import Mask, Rows, Vectors
from threadpoolctl import threadpool_limits

SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)
TARGET = 0.95
ENOUGH = 0.97
SLOWEST_S = 20.0  # of CPU for one pass; no larger effort is tried after it
N_CLUSTERS = 256


@dataclass(frozen=True)
class Question:
    """A filter and the queries that are asked under it."""

    kind: str
    share: float
    label: str
    mask: Mask
    queries: list[Vectors]
    truth: Truth


def clusters(base: Vectors, rng: np.random.Generator) -> tuple[Vectors, NDArray[np.int64]]:
    """Return centroids float32[c, d] and the cluster int64[n] of each row: some rounds of k-means on a sample."""
    sample = base[rng.choice(len(base), min(len(base), 50_000), replace=False)]
    centroids = sample[rng.choice(len(sample), min(N_CLUSTERS, len(sample) // 4), replace=False)].copy()
    for _ in range(8):
        owners = nearest(sample, centroids)
        for cluster in range(len(centroids)):
            if (owners == cluster).any():
                centroids[cluster] = sample[owners == cluster].mean(axis=0)
    return centroids, nearest(base, centroids)


def nearest(vectors: Vectors, centroids: Vectors) -> NDArray[np.int64]:
    """Return the nearest centroid of each vector."""
    half = np.square(centroids).sum(axis=1) / 2
    return np.concatenate(
        [np.argmax(part @ centroids.T - half, axis=1) for part in np.array_split(vectors, len(vectors) // 20_000 + 1)]
    )


def questions(data: Data, *, n_queries: int, n_groups: int, seed: int) -> list[Question]:
    """Return the filters of each kind and share, those of near and far once for each group of queries."""
    rng = np.random.default_rng(seed)
    n = len(data.base)
    order = rng.permutation(n)
    made = [
        _question(
            data, "random", share, 0, order[: max(1, round(share * n))], np.arange(min(n_queries, len(data.queries)))
        )
        for share in SHARES
    ]
    centroids, owners = clusters(data.base, rng)
    by_cluster = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[by_cluster], np.arange(len(centroids) + 1))
    popular = np.argsort(-np.bincount(nearest(data.queries, centroids), minlength=len(centroids)), kind="stable")
    for group, anchor in enumerate(centroids[popular[:n_groups]]):
        asked = np.argsort(np.square(data.queries - anchor).sum(axis=1), kind="stable")[: n_queries // n_groups]
        away = np.argsort(np.square(centroids - anchor).sum(axis=1), kind="stable")
        for kind, ranked in (("near", away), ("far", away[::-1])):
            rows = np.concatenate([by_cluster[starts[c] : starts[c + 1]] for c in ranked])
            made += [_question(data, kind, share, group, rows[: max(1, round(share * n))], asked) for share in SHARES]
    return made


def _question(
    data: Data, kind: str, share: float, group: int, rows: NDArray[np.int64], asked: NDArray[np.int64]
) -> Question:
    mask = np.zeros(len(data.base), bool)
    mask[rows] = True
    queries = data.queries[asked]
    label = f"{kind}_{group}_{round(share * 10_000)}"
    single = [queries[i : i + 1] for i in range(len(queries))]
    return Question(kind, share, label, mask, single, Truth(data, queries, mask))


def ask_all(contestant: Contestant, question: Question, effort: float) -> tuple[float, Rows]:
    """Answer a question's queries, a call each; return CPU seconds of the process and rows int64[q, k]."""
    ask = contestant.peer.among(question.label, question.mask, K, effort)
    start = time.process_time()
    answers = [ask(query) for query in question.queries]
    spent = time.process_time() - start
    return spent, np.concatenate([peers.rows_of(answer, K) for answer in answers])


def sweep(contestants: Sequence[Contestant], group: Sequence[Question], repeats: int) -> dict[str, dict[float, float]]:
    """Fill in recall and seconds of questions of one kind and share, under the first one's label; return shares of short answers.

    Only the efforts on both sides of the recall wanted are timed, and every recall target that a contestant can be given.
    """
    label = group[0].label
    short: dict[str, dict[float, float]] = {}
    n_queries = sum(len(question.queries) for question in group)
    for contestant in contestants:
        found: dict[float, float] = {}
        lacking: dict[float, float] = {}
        for effort in contestant.peer.efforts:
            answers = [ask_all(contestant, question, effort) for question in group]
            found[effort] = (
                sum(q.truth.recall(rows) * len(q.queries) for q, (_, rows) in zip(group, answers)) / n_queries
            )
            missed = sum(int(((rows >= 0).sum(axis=1) < q.truth.wanted).sum()) for q, (_, rows) in zip(group, answers))
            lacking[effort] = missed / n_queries
            if effort >= 1 and (found[effort] >= ENOUGH or sum(spent for spent, _ in answers) > SLOWEST_S):
                break
        contestant.recalls[label] = found
        contestant.seconds[label] = {effort: [] for effort in bracket(found)}
        short[contestant.peer.name] = lacking
    for _ in range(repeats):
        for contestant in contestants:
            for effort, spent in contestant.seconds[label].items():
                spent.append(sum(ask_all(contestant, question, effort)[0] for question in group))
    return short


def bracket(found: dict[float, float]) -> list[float]:
    """Return the efforts worth timing: targets, the last below the wanted recall, the first that reaches it or the best."""
    efforts = [effort for effort in found if effort >= 1]
    below = [effort for effort in efforts if found[effort] < TARGET]
    above = [effort for effort in efforts if found[effort] >= TARGET]
    return [effort for effort in found if effort < 1] + below[-1:] + above[:1]


def figures_of(contestant: Contestant, label: str, n_queries: int, short: dict[float, float]) -> dict[str, Any]:
    """Return what is written of one contestant under one filter."""
    recalls, seconds = contestant.recalls[label], contestant.seconds[label]
    reached = [effort for effort, found in recalls.items() if found >= TARGET]
    at = min(reached, key=lambda effort: float(np.median(seconds.get(effort) or [np.inf]))) if reached else max(recalls)
    return {
        "qps_at": graph_search.middle(contestant.speeds(label, n_queries, TARGET)),
        "highest_recall": round(max(recalls.values()), 4),
        "short": round(short[at], 4),
        "points": [
            {
                "effort": effort,
                "recall": round(found, 4),
                "qps": round(n_queries / float(np.median(seconds[effort]))) if effort in seconds else None,
                "short": round(short[effort], 4),
            }
            for effort, found in recalls.items()
        ],
    }


def table(made: dict[str, dict[str, Any]]) -> str:
    """Return queries a second by filter and peer; in brackets the highest recall where that is too low."""
    names = list(next(iter(made.values()))["peers"])
    lines = [f"{'':16}" + "".join(f"{name[:15]:>16}" for name in names)]
    for label, of in made.items():
        cells = []
        for name in names:
            told = of["peers"][name]
            cells.append(f"({told['highest_recall']:.3f})" if told["qps_at"] is None else f"{told['qps_at']:,}")
        lines.append(f"{label:16}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Measure and write the figures."""
    parser = graph_search.arguments(__doc__)
    parser.add_argument("--queries", type=int, default=100, help="under each filter")
    parser.add_argument("--groups", type=int, default=4, help="of queries that share their near and far categories")
    parser.add_argument("--kinds", default="random,near,far")
    asked = parser.parse_args()
    data = graph_search.load(
        asked.data, rows=asked.rows, n_queries=1000, metric=asked.metric, cache=asked.cache, threads=asked.threads
    )
    with threadpool_limits(asked.threads, "blas"):
        every = questions(data, n_queries=asked.queries, n_groups=asked.groups, seed=asked.seed)
    labels = {question.label: question.mask for question in every}
    made: dict[str, dict[str, Any]] = {}
    with graph_search.workplace(asked.cache) as place:
        contestants = []
        for kind in peers.chosen(asked.peers, filters=True):
            marked = f"-labels{asked.groups}-{asked.seed}" if kind.labelled else ""
            contestant = graph_search.prepare(
                kind,
                data,
                place,
                threads=asked.threads,
                seed=asked.seed,
                labels=labels if kind.labelled else None,
                marked=marked,
            )
            if contestant:
                contestants.append(contestant)
        with graph_search.pinned():
            for kind_of_filter in asked.kinds.split(","):
                for share in SHARES:
                    group = [q for q in every if (q.kind, q.share) == (kind_of_filter, share)]
                    short = sweep(contestants, group, asked.repeats)
                    n_queries, label = sum(len(q.queries) for q in group), group[0].label
                    made[f"{kind_of_filter} {100 * share:g}%"] = {
                        "rows": int(group[0].mask.sum()),
                        "peers": {
                            c.peer.name: figures_of(c, label, n_queries, short[c.peer.name]) for c in contestants
                        },
                        "times_faster": graph_search.ratios(contestants, label, n_queries, (TARGET,)),
                    }
                    print(table(made), flush=True)
    figures = {
        "queries": asked.queries,
        "repeats": asked.repeats,
        "recall": TARGET,
        "build": {c.peer.name: {**c.build, **c.memory} for c in contestants},
        "filters": made,
    }
    graph_search.keep_figures("filtered_search", data, figures)
    print(table(made))


if __name__ == "__main__":
    main()
