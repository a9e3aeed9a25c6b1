"""Which share of the machine's load bandwidth do the exact scans reach, on one thread?

The bandwidth is the best of several plain readers (a maximum, two BLAS products, a checksum) over a buffer far larger than any
third-level cache. A scan is one query, in turns with the others, which take the caches for themselves; the best of several
times counts, and so do only the bytes it cannot do without: rows, codes, scales. The graph's own scan looks at the signs of
all rows and at the codes of some: its bytes are the signs alone. FAISS scans the same vectors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import faiss
import graph_search
import harness
import numpy as np
from graph_search import Data
from threadpoolctl import threadpool_limits

import cpp_ext
from matching import GraphIndex

K = 10
NO_WALK = 1e9  # an effort beyond what any build measures, where a scan is cheaper


@dataclass(frozen=True)
class Scan:
    """One question, and the bytes that an answer cannot do without."""

    n_bytes: int
    ask: Callable[[], object]


def best_s(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least CPU seconds of each, in turns after a warm-up."""
    return {name: min(spent) for name, spent in harness.interleaved(contestants, repeats=repeats).items()}


def bandwidth(mib: int, repeats: int) -> dict[str, float]:
    """Return GB/s of each reader over a buffer that nobody writes to."""
    buffer = np.ones(mib << 20, np.uint8)  # not zeros: those may all be one page
    floats = buffer.view(np.float32)
    readers: dict[str, Callable[[], object]] = {
        "maximum": buffer.view(np.int32).max,
        "dot product": partial(np.dot, floats, floats),
        "matrix times vector": partial(np.dot, floats.reshape(-1, 1024), np.ones(1024, np.float32)),
        "crc32c": partial(cpp_ext.crc32c, buffer.data, 1 << 20),
    }
    return {name: buffer.nbytes / seconds / 1e9 for name, seconds in best_s(readers, repeats).items()}


def scans(data: Data, threads: int) -> dict[str, Scan]:
    """Return the contestants, ready to answer the first query."""
    n, dim = data.base.shape
    query, rng = data.queries[:1], np.random.default_rng(0)
    metric: Literal["ip", "l2"] = "l2" if data.metric == "l2" else "ip"
    scan = partial(cpp_ext.scan, metric=metric)
    scales = np.maximum(np.abs(data.base).max(axis=1), np.float32(1e-30)) / np.float32(127)
    codes = np.round(data.base / scales[:, None]).astype(np.int8)
    made = {
        "float32": Scan(4 * n * dim, partial(scan, data.base, query, K)),
        "float32, cosine": Scan(4 * n * dim, partial(cpp_ext.scan, data.base, query, K, metric="cosine")),
        "int8": Scan(n * (dim + 4), partial(scan, codes, query, K, scales=scales)),
        "int8, cosine": Scan(n * (dim + 4), partial(cpp_ext.scan, codes, query, K, metric="cosine", scales=scales)),
    }
    for name, share in (("a random half", 0.5), ("a random tenth", 0.1)):
        chosen = rng.choice(n, round(share * n), replace=False)
        mask = cpp_ext.new_bitmap(n)
        cpp_ext.set_rows(mask, chosen)
        made[f"float32, {name}"] = Scan(4 * len(chosen) * dim, partial(scan, data.base, query, K, mask=mask))
        asked = partial(scan, codes, query, K, mask=mask, scales=scales)
        made[f"int8, {name}"] = Scan(len(chosen) * (dim + 4), asked)
    # Only its rows are read: a link from each to the next spares the building of a graph.
    graph = GraphIndex.from_links(data.base, (np.arange(1, n + 1) % n)[:, None], metric=metric, threads=threads)
    assert graph.trace(query, K, effort=NO_WALK).plans == ["scan"]
    part = {name: array.nbytes for name, array in graph._native.arrays().items()}
    exact = partial(graph.search, query, K, exact=True)
    made["graph, exact by 16 bits"] = Scan(part["codes"] + part["fine"] + part["factors"], exact)
    made["graph, by signs first"] = Scan(part["sign_blocks"], partial(graph.search, query, K, effort=NO_WALK))
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    peers = {4: faiss.IndexFlat(dim, kind), 1: faiss.index_factory(dim, "SQ8", kind)}
    for size, index in peers.items():
        index.train(data.base)
        index.add(data.base)
        made[f"FAISS {'float32' if size == 4 else 'SQ8'}"] = Scan(size * n * dim, partial(index.search, query, K))
    return made


def figures_of(scan: Scan, seconds: float, gb_per_s: float) -> dict[str, float]:
    """Return what is written of a scan, its share of a bandwidth too."""
    speed = scan.n_bytes / seconds / 1e9
    return {
        "mib": round(scan.n_bytes / 2**20, 1),
        "us_per_query": round(1e6 * seconds, 1),
        "gb_per_s": round(speed, 2),
        "share_of_bandwidth": round(speed / gb_per_s, 3),
    }


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="generated", choices=("generated", "package_summaries", "fashion"))
    parser.add_argument("--rows", type=int, default=None, help="only so many rows")
    parser.add_argument("--buffer-mib", type=int, default=1024, help="what the bandwidth is measured on")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of the preparation")
    asked = parser.parse_args()
    data = graph_search.load(asked.data, rows=asked.rows, n_queries=1, metric=None, cache=None, threads=asked.threads)
    contestants = scans(data, asked.threads)
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1), graph_search.pinned():
        runs = [bandwidth(asked.buffer_mib, asked.repeats)]
        spent = best_s({name: scan.ask for name, scan in contestants.items()}, asked.repeats)
        runs.append(bandwidth(asked.buffer_mib, asked.repeats))
    readers = {name: round(max(run[name] for run in runs), 2) for name in runs[0]}
    figures = {
        "data": data.name,
        "n": len(data.base),
        "dim": data.base.shape[1],
        "metric": data.metric,
        "repeats": asked.repeats,
        "faiss": faiss.__version__,
        "buffer_mib": asked.buffer_mib,
        "gb_per_s": max(readers.values()),
        "readers_gb_per_s": readers,
        "scans": {name: figures_of(scan, spent[name], max(readers.values())) for name, scan in contestants.items()},
    }
    harness.write("scan_bandwidth", figures)


if __name__ == "__main__":
    main()
