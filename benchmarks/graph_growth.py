"""How does the CPU time of a query at recall@10 of .95 grow with the number of rows?

Likewise alone, in memory of its own, on the `generated` vectors of 128 dimensions, an index for each size. All sizes are
built first, then asked in turns, a call a query on one pinned core, so that a ratio is of one run. Recall, and the time at
a recall, are as in `graph_search.py`.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import graph_search
import harness
import numpy as np
import peers
from graph_search import Contestant, Truth
from threadpoolctl import threadpool_limits

TARGET = 0.95


def growth(smaller: Contestant, larger: Contestant, n_queries: int) -> float | None:
    """Return how many times longer a query takes in the larger index, the median over the repeats."""
    pairs = zip(*(c.speeds("single", n_queries, TARGET) for c in (smaller, larger)))
    over = [before / after for before, after in pairs if before is not None and after is not None]
    return round(float(np.median(over)), 2) if over else None


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100000,1000000", help="rows, ascending")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of builds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps built indexes between runs")
    asked = parser.parse_args()
    made: dict[int, Contestant] = {}
    queries = {}
    with graph_search.workplace(asked.cache) as place:
        for n in (int(size) for size in asked.sizes.split(",")):
            data = graph_search.load(
                "generated", rows=n, n_queries=asked.queries, metric=None, cache=None, threads=asked.threads
            )
            with threadpool_limits(asked.threads, "blas"):
                truth = Truth(data, data.queries)
            built = graph_search.prepare(peers.Likewise, data, place, threads=asked.threads, seed=asked.seed)
            assert built is not None, "Likewise takes every metric and dimension"
            with graph_search.pinned():
                graph_search.sweep([built], data, truth, "single", repeats=0, threads=1)  # the recalls
            made[n] = built
            queries[n] = [data.queries[i : i + 1] for i in range(len(data.queries))]
        with graph_search.pinned():
            for _ in range(asked.repeats):
                for n, contestant in made.items():
                    for effort, spent in contestant.seconds["single"].items():
                        spent.append(graph_search.one_by_one(contestant.peer, effort, queries[n])[0])
    sizes: dict[str, Any] = {str(n): graph_search.figures_of(c, asked.queries) for n, c in made.items()}
    for of in sizes.values():
        qps = of["single"]["qps_at"][f"{TARGET:.2f}"]
        of["us_per_query"] = round(1e6 / qps, 1) if qps else None
    steps = [
        {"from": before, "to": after, "times_slower": growth(made[before], made[after], asked.queries)}
        for before, after in pairwise(made)
    ]
    harness.write(
        "graph_growth",
        {
            "data": "generated",
            "dim": 128,
            "queries": asked.queries,
            "repeats": asked.repeats,
            "recall": TARGET,
            "sizes": sizes,
            "growth": steps,
        },
    )


if __name__ == "__main__":
    main()
