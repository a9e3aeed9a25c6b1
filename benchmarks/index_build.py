"""How much does an index version cost to build beside plain FAISS HNSW, and what recall does its default plan reach?

Both build from the same vectors with the same threads, FAISS with M 16 and efConstruction 200, Likewise by its default
plan, each in a process of its own, so that peak memory is its own. Likewise's time holds staging, columns, codes and
graph; measuring and sealing are shown apart. Recall@10 is against the exact neighbors of 1,000 queries that neither has
seen.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np


def likewise(n: int, threads: int, sender: Any) -> None:
    """Build a version through the draft, as `likewise build --vectors` does, and search it."""
    from index_builder.draft import Draft
    from index_builder.progress import Silent
    from index_builder.settings import BuildSettings
    from matching.datapoint import Datapoint
    from matching.store import Store

    base, queries = harness.package_summaries(n)
    at_rest = harness.reset_peak()
    directory = Path(tempfile.mkdtemp())
    start, cpu = time.perf_counter(), time.process_time()
    store = Store(directory, create=True)
    draft = Draft(store, BuildSettings(threads=threads), Silent())
    space = draft.new_space("vectors", base.shape[1], space_id="benchmark", metric="ip")
    for first in range(0, n, 4096):
        part = base[first : first + 4096]
        for at in range(first, first + len(part)):
            draft.columns.add(Datapoint(f"{at:08}"))
        space.vectors.append(part, np.arange(first, first + len(part)))
    staged = time.perf_counter() - start
    built = draft.finish(source={"kind": "benchmark"}, parent=None)
    whole, whole_cpu = time.perf_counter() - start, time.process_time() - cpu
    version = store.open(built.version_id)
    entry = built.manifest.spaces[0]
    found = np.array(
        [[int(x.datapoint_id) for x in version.search(q[None], 10, space="vectors").neighbors[0]] for q in queries]
    )
    result = version.search(queries[:1], 10, space="vectors")
    sender.send(
        {
            "plan": result.plan,
            "effort": result.effort,
            "found": found,
            "promised_recall": entry.recall.mean,
            "promised_low": entry.recall.low,
            "build_s": staged
            + built.seconds["columns"]
            + built.seconds["vectors vectors"]
            + built.seconds["vectors index"],
            "index_cpu_s": built.seconds["vectors index cpu"],
            "predicted_cpu_s": entry.plan.params["predicted_build_cpu_s"],
            "measure_s": built.seconds["vectors measure"],
            "whole_s": whole,
            "whole_cpu_s": whole_cpu,
            "peak_mib": harness.peak_mib() - at_rest,
            "stored_mib": sum(f.n_bytes for f in built.manifest.files.values()) / 2**20,
        }
    )
    shutil.rmtree(directory)


def faiss_hnsw(n: int, threads: int, sender: Any) -> None:
    """Build IndexHNSWFlat."""
    import faiss

    base, _ = harness.package_summaries(n)
    at_rest = harness.reset_peak()
    faiss.omp_set_num_threads(threads)
    start, cpu = time.perf_counter(), time.process_time()
    index = faiss.IndexHNSWFlat(base.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.add(base)
    sender.send(
        {
            "build_s": time.perf_counter() - start,
            "index_cpu_s": time.process_time() - cpu,
            "peak_mib": harness.peak_mib() - at_rest,
        }
    )


def main() -> None:
    """Run both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200_000, help="vectors")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    figures: dict[str, Any] = {"n": asked.n, "dim": 384, "threads": asked.threads}
    context = multiprocessing.get_context("spawn")
    for name, build in (("faiss_hnsw_flat", faiss_hnsw), ("likewise", likewise)):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=build, args=(asked.n, asked.threads, sender))
        process.start()
        figures[name] = receiver.recv()
        process.join()
    base, queries = harness.package_summaries(asked.n)
    true = np.argsort(-(queries @ base.T), axis=1)[:, :10]
    figures["likewise"]["recall_at_10"] = harness.recall(figures["likewise"].pop("found"), true)
    ours, peer = figures["likewise"], figures["faiss_hnsw_flat"]
    figures["ratio"] = {k: round(ours[k] / peer[k], 3) for k in ("build_s", "index_cpu_s", "peak_mib")}
    harness.write("index_build", json.loads(json.dumps(figures, default=float)))


if __name__ == "__main__":
    main()
