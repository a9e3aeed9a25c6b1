"""How many items a second does `likewise export neighbors` write, beside calling the batch search of FAISS directly?

The table holds the 50 nearest of each of 200,000 real text embeddings. Likewise searches its graph at its default recall
target, turns rows into ids and writes Parquet to disk, as the command does. FAISS (HNSW over float32, and over 8-bit codes) is
asked for the same items by `index.search` with the least efSearch whose recall of the 50 is no lower, on as many threads, and
writes nothing. Recall is of 1,000 items, against exact search. Rounds alternate; times are wall and CPU of the process.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.append(sys.path.pop(0))  # a benchmark beside this one is called as a package is

import faiss
import harness
import numpy as np
from numpy.typing import NDArray

from index_builder.draft import Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from lifecycle.exporting.folder import FolderSink
from lifecycle.exporting.job import run
from lifecycle.exporting.neighbors import PART_ITEMS, NeighborExport
from matching.datapoint import Datapoint
from matching.neighbor_table import Asked
from matching.store import Store
from matching.version import IndexVersion

N_ASKED = 1000
DEGREE, BUILD_BEAM = 32, 100
MOST = 4096


def built(store: Store, base: NDArray[np.float32], threads: int) -> IndexVersion:
    """Return a version whose ids are in the order of the vectors."""
    draft = Draft(store, BuildSettings(plan="graph", threads=threads, degree=DEGREE, build_beam=BUILD_BEAM), Silent())
    space = draft.new_space("text", base.shape[1], space_id="package-summaries", metric="ip")
    for at in range(len(base)):
        draft.columns.add(Datapoint(f"package-{at:07d}"))
    space.vectors.append(base, np.arange(len(base)))
    return store.open(draft.finish(source={"kind": "benchmark"}, parent=None).version_id)


def true_neighbors(base: NDArray[np.float32], asked: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the k nearest of some rows without themselves, exactly."""
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(base)
    found = index.search(base[asked], k + 1)[1]
    return np.stack([row[row != own][:k] for row, own in zip(found, asked)])


def least_ef(index: faiss.Index, ask: Callable[[], float], wanted: float) -> int | None:
    """Return the least efSearch that finds as much, None where none does; `index` keeps it."""
    low, high = 1, MOST
    while low < high:
        index.hnsw.efSearch = (low + high) // 2
        low, high = (low, (low + high) // 2) if ask() >= wanted else ((low + high) // 2 + 1, high)
    index.hnsw.efSearch = low
    return low if ask() >= wanted else None


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-results", action="store_true", help="print only")
    given = parser.parse_args()
    base = np.ascontiguousarray(harness.package_summaries(given.items)[0])
    faiss.omp_set_num_threads(given.threads)
    asked = np.sort(np.random.default_rng(1).choice(len(base), min(N_ASKED, len(base)), replace=False))
    truth = true_neighbors(base, asked, given.k)
    with tempfile.TemporaryDirectory() as folder:
        version = built(Store(Path(folder) / "store", create=True), base, given.threads)
        export = NeighborExport(version, Asked(given.k, "text"))
        reached = harness.recall(version.neighbors_of(asked, given.k, space="text").rows, truth, given.k)
        job, target = export.job(min(PART_ITEMS, len(base) // given.threads), ""), Path(folder) / "table"

        def ours() -> None:
            shutil.rmtree(target, ignore_errors=True)
            with FolderSink(target, "parquet") as sink:
                run(job, sink, export.part, threads=given.threads)

        contestants: dict[str, Callable[[], object]] = {"likewise": ours}
        peers: dict[str, dict[str, object]] = {}
        bytes_each = faiss.ScalarQuantizer.QT_8bit
        for name, index in (
            ("FAISS HNSW", faiss.IndexHNSWFlat(base.shape[1], DEGREE, faiss.METRIC_INNER_PRODUCT)),
            ("FAISS HNSW SQ8", faiss.IndexHNSWSQ(base.shape[1], bytes_each, DEGREE, faiss.METRIC_INNER_PRODUCT)),
        ):  # fmt: skip
            index.hnsw.efConstruction = 2 * BUILD_BEAM
            index.train(base)
            index.add(base)

            def ask(index: faiss.Index = index) -> float:
                found = index.search(base[asked], given.k + 1)[1]
                kept = np.stack([np.r_[row[row != own], -1][: given.k] for row, own in zip(found, asked)])
                return harness.recall(kept, truth, given.k)

            ef = least_ef(index, ask, reached)
            peers[name] = {"ef_search": ef, "recall": ask()}
            if ef is not None:
                contestants[name] = lambda index=index: index.search(base, given.k + 1)  # type: ignore[misc]
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(given.rounds):
            for name, work in contestants.items():
                spent[name].append(timed(work))
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table_mib = sum(file.stat().st_size for file in target.iterdir()) / 2**20
    figures: dict[str, object] = {
        "n_items": len(base),
        "k": given.k,
        "threads": given.threads,
        "recall": reached,
        "table_mib": table_mib,
        "peak_mib": peak_mib,
        "settings": asdict(job)["asked"],
        "peers": peers,
        "of": {
            name: {
                "wall_s": [wall for wall, _ in each],
                "cpu_s": [cpu for _, cpu in each],
                "items_per_s": len(base) / float(np.median([wall for wall, _ in each])),
                "time_over_ours": float(
                    np.median([wall / own for (wall, _), (own, _) in zip(each, spent["likewise"])])
                ),
            }
            for name, each in spent.items()
        },
    }
    if given.no_results:
        print(figures)
    else:
        harness.write("export", figures)


if __name__ == "__main__":
    main()
