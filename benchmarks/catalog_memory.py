"""Does the memory of a catalogue build grow with the catalogue?

Builds catalogues of rising length with `likewise build`, each in a process of its own, and reports the peak resident memory of
that process. Titles are real ones in new combinations; every `--distinct` rows the texts repeat, so that the embedding
cache answers for the rest and a long catalogue can be measured in minutes: all other work is done for every row.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np
import pyarrow.parquet as pq


def write_catalog(path: Path, n: int, distinct: int) -> None:
    """Write n products; row i has the texts of row i % distinct."""
    columns = ["title", "description", "category", "price"]
    shop = pq.read_table(harness.data_dir() / "text_catalog" / "retail_demo_store.parquet", columns=columns).to_pydict()
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(shop["title"]), (distinct, 2))
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", *columns])
        for at, (first, second) in zip(range(n), itertools.cycle(picks.tolist())):
            title = f"{shop['title'][first]} with {shop['title'][second]}"
            rows.writerow(
                [f"p{at:08}", title, shop["description"][first][:120], shop["category"][first], shop["price"][first]]
            )


def build(catalog: Path, store: Path) -> dict[str, float]:
    """Run the build; return peak memory in MiB, and wall and CPU seconds."""
    command = [
        sys.executable,
        "-m",
        "lifecycle",
        "build",
        "--catalog",
        str(catalog),
        "--store",
        str(store),
        "--name",
        "c",
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=harness.ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the build ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "peak_mib": usage.ru_maxrss / 1024,
        "wall_s": time.perf_counter() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }


def main() -> None:
    """Build each length and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--distinct", type=int, default=10_000)
    asked = parser.parse_args()
    figures: dict[str, object] = {"distinct_texts": asked.distinct}
    with tempfile.TemporaryDirectory() as directory:
        for n in asked.rows:
            catalog = Path(directory) / f"{n}.csv"
            write_catalog(catalog, n, asked.distinct)
            figures[f"rows_{n}"] = build(catalog, Path(directory) / "store")
    harness.write("catalog_memory", figures)


if __name__ == "__main__":
    main()
