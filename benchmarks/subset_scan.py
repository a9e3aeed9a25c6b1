"""How fast is an exact search of a random subset beside FAISS, which walks all rows, and beside NumPy's gather and dot?

One thread, k 10, inner product, 200,000 x 384 unit float32 vectors. FAISS is IndexFlatIP with IDSelectorBitmap over the same
bitmap. `warm` asks every query of one subset, which then mostly lies in cache; `cold` draws a subset for each query, so that
its rows come from memory; `batch` hands all queries of one subset over in one call. Every answer is compared with
FAISS's; `likewise_int8` reads one byte a dimension and is shown with the recall that this costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import faiss
import harness
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import cpp_ext

K = 10
Answers = NDArray[np.int64]


class Contest:
    """The contestants of one selectivity; each run answers the same queries and returns rows int64[q, k]."""

    def __init__(self, base: NDArray[np.float32], queries: NDArray[np.float32], index: Any, n_chosen: int) -> None:
        self.base, self.queries, self.index = base, queries, index
        scales = np.abs(base).max(axis=1) / np.float32(127)
        self.codes, self.scales = np.round(base / scales[:, None]).astype(np.int8), scales
        rng = np.random.default_rng(n_chosen)
        self.masks = []
        for _ in queries:
            mask = cpp_ext.new_bitmap(len(base))
            cpp_ext.set_rows(mask, rng.choice(len(base), n_chosen, replace=False))
            self.masks.append(mask)
        self.rows = [cpp_ext.rows_of(mask, len(base)) for mask in self.masks]
        self.parameters = [
            faiss.SearchParameters(sel=faiss.IDSelectorBitmap(len(base), faiss.swig_ptr(mask.view(np.uint8))))
            for mask in self.masks
        ]

    def likewise(self, which: Callable[[int], int]) -> Answers:
        """Scan float32 rows, a call a query."""
        return np.concatenate(
            [cpp_ext.scan(self.base, q[None], K, metric="ip", mask=self.masks[which(i)])[0] for i, q in self.each()]
        )

    def likewise_int8(self, which: Callable[[int], int]) -> Answers:
        """Scan int8 rows, a call a query."""
        options: dict[str, Any] = {"metric": "ip", "scales": self.scales}
        return np.concatenate(
            [cpp_ext.scan(self.codes, q[None], K, mask=self.masks[which(i)], **options)[0] for i, q in self.each()]
        )

    def faiss(self, which: Callable[[int], int]) -> Answers:
        """Let FAISS walk all rows, a call a query."""
        return np.concatenate(
            [self.index.search(q[None], K, params=self.parameters[which(i)])[1] for i, q in self.each()]
        )

    def numpy(self, which: Callable[[int], int]) -> Answers:
        """Gather, multiply, partition, sort."""
        answers = []
        for i, q in self.each():
            rows = self.rows[which(i)]
            scores = self.base[rows] @ q
            best = np.argpartition(scores, len(scores) - K)[-K:]
            answers.append(rows[best[np.argsort(-scores[best])]])
        return np.array(answers)

    def each(self) -> enumerate[NDArray[np.float32]]:
        """Return queries with their positions."""
        return enumerate(self.queries)

    def likewise_batch(self) -> Answers:
        """Scan once for all queries."""
        return cpp_ext.scan(self.base, self.queries, K, metric="ip", mask=self.masks[0])[0]

    def faiss_batch(self) -> Answers:
        """Hand FAISS all queries at once."""
        return np.asarray(self.index.search(self.queries, K, params=self.parameters[0])[1])


def measure(contestants: dict[str, Callable[[], Answers]], n_queries: int, repeats: int) -> dict[str, Any]:
    """Time contestants in turns; return microseconds a query (medians), ratios to FAISS, and recall@10 of its answers."""
    peer = next(name for name in contestants if name.startswith("faiss"))
    true = contestants[peer]()
    spent = harness.interleaved(contestants, repeats=repeats)
    return {
        name: {
            "us_per_query": round(float(np.median(seconds)) / n_queries * 1e6, 1),
            "times_faster_than_faiss": round(float(np.median(np.divide(spent[peer], seconds))), 2),
            "recall_at_10": round(harness.recall(contestants[name](), true), 4),
        }
        for name, seconds in spent.items()
    }


def main() -> None:
    """Measure each selectivity and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200_000, help="vectors")
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    base, queries = harness.package_summaries(asked.n)
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(base)
    figures: dict[str, Any] = {"n": len(base), "dim": base.shape[1], "k": K, "threads": 1, "faiss": faiss.__version__}
    with threadpool_limits(1):
        for share, n_queries in ((0.5, 8), (0.1, 20), (0.01, 100), (0.001, 200)):
            contest = Contest(base, queries[:n_queries], index, int(share * len(base)))
            singles = {
                "likewise": contest.likewise,
                "faiss": contest.faiss,
                "numpy": contest.numpy,
                "likewise_int8": contest.likewise_int8,
            }
            warm = {name: lambda run=run: run(lambda _: 0) for name, run in singles.items()}
            cold = {name: lambda run=run: run(lambda i: i) for name, run in singles.items()}
            batch = {"likewise": contest.likewise_batch, "faiss": contest.faiss_batch}
            results = {
                mode: measure(contestants, n_queries, asked.repeats)
                for mode, contestants in (("warm", warm), ("cold", cold), ("batch", batch))
            }
            for mode, result in results.items():
                assert result["likewise"]["recall_at_10"] == 1.0, f"{mode} answers at {share} differ from FAISS's"
            figures[f"{share:.1%}"] = {"queries": n_queries, **results}
    harness.write("subset_scan", figures)


if __name__ == "__main__":
    main()
