"""What do writes cost searches, and how soon does a search see a write?

One index version of sentence embeddings with a graph, in one process with its live index. Queries are asked one by one, k = 10,
`--queries` a second: of the sealed version, of a live index without writes, while `--rate` upserts a second arrive (batches of
10, one thread), and with 30 % of the datapoints in the delta. Latencies are wall times of the same queries in the same run, from
the moment a query was due, medians over rounds in which searches without writes and under them take turns (a shared machine
stands still now and then); ratios are to the live index without writes. A write's freshness is the time from its acknowledgement
to a snapshot that has it. Write throughput is that of single upserts from 1 and 8 threads, on disk and applied. Recall is of
approximate against exact search over the same snapshot.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness
import numpy as np
from numpy.typing import NDArray

from index_builder.draft import Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, NumericRestrict
from matching.live import LiveIndex, Upsert, WriteLog
from matching.store import Store
from matching.version import IndexVersion
from serving.server import SWITCH_S

BATCH = 10
K = 10


def built(folder: Path, vectors: NDArray[np.float32]) -> IndexVersion:
    """A version of those vectors under the plan `graph`."""
    store = Store(folder, create=True)
    draft = Draft(store, BuildSettings(plan="graph", threads=2), Silent())
    space = draft.new_space("vectors", vectors.shape[1], space_id="benchmark", metric="ip")
    for at in range(len(vectors)):
        draft.columns.add(Datapoint(f"base-{at:07}", numeric_restricts=(NumericRestrict("price", float(at % 100)),)))
    space.vectors.append(vectors, np.arange(len(vectors)))
    return store.open(draft.finish(source={"kind": "benchmark"}, parent=None).version_id)


def upserts(vectors: NDArray[np.float32], first: int) -> list[Upsert]:
    """New datapoints, every tenth in place of one of the base."""
    return [
        Upsert(
            Datapoint(
                f"base-{first + at:07}" if at % 10 == 0 else f"new-{first + at:07}",
                numeric_restricts=(NumericRestrict("price", float(at % 100)),),
            ),
            {"vectors": vector[None]},
        )
        for at, vector in enumerate(vectors)
    ]


def latencies(
    version: Callable[[], IndexVersion], queries: NDArray[np.float32], seconds: float, rate: float
) -> NDArray[np.float64]:
    """Milliseconds of searches that are due at a rate, for so many seconds."""
    spent = []
    began = time.perf_counter()
    for at in range(int(seconds * rate)):
        due = began + at / rate
        time.sleep(max(due - time.perf_counter(), 0))
        version().search(queries[at % len(queries)][None], K, space="vectors")
        spent.append(1e3 * (time.perf_counter() - due))
    return np.array(spent)


def recall(version: IndexVersion, queries: NDArray[np.float32]) -> float:
    """recall@10 of the default plan."""
    near, exact = (version.search(queries, K, space="vectors", exact=exact).neighbors for exact in (False, True))
    hits = [
        len({n.datapoint_id for n in a} & {n.datapoint_id for n in b}) / K for a, b in zip(near, exact, strict=True)
    ]
    return float(np.mean(hits))


def summary(spent: Sequence[NDArray[np.float64]], beside: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """p50 and p99 in milliseconds, medians over rounds, and their ratios to another's."""
    told = {}
    for name, part in (("p50", 50), ("p99", 99)):
        value, other = (np.median([np.percentile(each, part) for each in rounds]) for rounds in (spent, beside))
        told[f"{name}_ms"] = round(float(value), 3)
        told[f"{name}_ratio"] = round(float(value / other), 2)
    return told


def at_rate(live: LiveIndex, writes: Sequence[Upsert], rate: float, stop: threading.Event) -> list[float]:
    """Write batches at a rate until told to stop; return the milliseconds until each was seen."""

    def seen(token: int, acknowledged: float) -> float:
        live.wait(token, deadline=time.monotonic() + 10)
        return 1e3 * (time.perf_counter() - acknowledged)

    began = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        waiting = []
        for at in range(0, len(writes) - BATCH, BATCH):
            if stop.is_set():
                break
            time.sleep(max(began + at / rate - time.perf_counter(), 0))
            token = live.write(writes[at : at + BATCH]).last_sequence
            waiting.append(pool.submit(seen, token, time.perf_counter()))
    return [each.result() for each in waiting]


def throughput(live: LiveIndex, writes: Sequence[Upsert], n_threads: int) -> float:
    """Single upserts a second from so many threads, the last one seen by searches."""
    began = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as pool:
        tokens = list(pool.map(lambda write: live.write([write]).last_sequence, writes))
    live.wait(max(tokens), deadline=time.monotonic() + 60)
    return len(writes) / (time.perf_counter() - began)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=70_000, help="of the base; 3 / 7 as many are added")
    parser.add_argument("--rate", type=float, default=1000, help="upserts a second")
    parser.add_argument("--queries", type=float, default=500, help="queries a second")
    parser.add_argument("--seconds", type=float, default=20, help="of each latency run, all rounds together")
    parser.add_argument("--rounds", type=int, default=10, help="searches without writes and under them take turns")
    arguments = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)
    n = arguments.rows
    vectors, queries = harness.package_summaries(n * 10 // 7 + 4_000)
    base, rest = vectors[:n], vectors[n:]
    with tempfile.TemporaryDirectory() as directory:
        version = built(Path(directory) / "store", base)
        with WriteLog.open(Path(directory) / "log") as log:
            live = LiveIndex(version, log, threads=1)
            n_rate = int(arguments.rate * arguments.seconds * 1.2)
            writes = upserts(rest[:n_rate], 0)
            gc.collect()
            gc.freeze()  # as a service does when it is ready
            latencies(lambda: version, queries, 1, arguments.queries)
            seconds = arguments.seconds / arguments.rounds
            sealed = [latencies(lambda: version, queries, seconds, arguments.queries) for _ in range(arguments.rounds)]
            idle, under_writes = [], []
            freshness: list[float] = []
            each = len(writes) // arguments.rounds
            for at in range(arguments.rounds):
                idle.append(latencies(lambda: live.snapshot, queries, seconds, arguments.queries))
                stop = threading.Event()
                part = writes[at * each : (at + 1) * each]
                writer = threading.Thread(
                    target=lambda part, stop: freshness.extend(at_rate(live, part, arguments.rate, stop)),
                    args=(part, stop),
                )
                writer.start()
                under_writes.append(latencies(lambda: live.snapshot, queries, seconds, arguments.queries))
                stop.set()
                writer.join()
            n_written = live.snapshot.sequence
            single = throughput(live, upserts(rest[n_rate : n_rate + 2_000], n_rate), 1)
            eight = throughput(live, upserts(rest[n_rate + 2_000 : n_rate + 4_000], n_rate + 2_000), 8)
            done = n_rate + 4_000
            for at in range(done, n * 3 // 7, 500):
                live.write(upserts(rest[at : at + 500], at))
            live.wait(log.last_sequence, deadline=time.monotonic() + 600)
            full = live.snapshot
            with_delta = [latencies(lambda: full, queries, seconds, arguments.queries) for _ in range(arguments.rounds)]
            figures = {
                "rows": n,
                "queries_per_s": arguments.queries,
                "sealed": summary(sealed, idle),
                "live_idle": summary(idle, idle),
                "under_writes": {
                    **summary(under_writes, idle),
                    "upserts_per_s": round(n_written / arguments.seconds),
                    "freshness_p50_ms": round(float(np.percentile(freshness, 50)), 2),
                    "freshness_p99_ms": round(float(np.percentile(freshness, 99)), 2),
                },
                "delta_share": round(1 - n / full.n_datapoints, 3),
                "with_delta": {**summary(with_delta, idle), "recall": round(recall(full, queries), 4)},
                "recall_sealed": round(recall(version, queries), 4),
                "single_upserts_per_s": {"1 thread": round(single), "8 threads": round(eight)},
            }
            live.close()
    harness.write("live_index", figures)


if __name__ == "__main__":
    main()
