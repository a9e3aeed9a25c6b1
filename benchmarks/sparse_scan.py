"""What sparse searches cost over 200,000 rows: inner products with all rows, ranking them, and a whole search.

The rows are the real titles of two pairs of shops, again and again, so that words are as frequent as in a catalogue; the queries
are titles and their first three words.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import pyarrow.parquet as pq

from embeddings.bm25 import Bm25
from embeddings.ngrams import Ngrams
from index_builder.draft import Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, SparseRows
from matching.fusion import SPARSE_ONLY, Fusion, rank_sparse
from matching.hybrid import search_hybrid
from matching.store import Store
from matching.version import IndexVersion

N_ROWS = 200_000
N_QUERIES = 200
DIM = 384


def built(directory: Path, texts: list[str], side: Bm25 | Ngrams) -> IndexVersion:
    """Build a version of real vectors with the texts' sparse side."""
    store = Store(directory, create=True)
    draft = Draft(store, BuildSettings(plan="graph", threads=2), Silent())
    space = draft.new_space("vectors", DIM, space_id="benchmark", metric="cosine")
    base, _ = harness.package_summaries(N_ROWS)
    sparse = draft.new_sparse(space)
    for first in range(0, N_ROWS, 4096):
        last = min(first + 4096, N_ROWS)
        for row in range(first, last):
            draft.columns.add(Datapoint(f"{row:06d}"))
        space.vectors.append(base[first:last], np.arange(first, last))
        sparse.append(side.documents(texts[first:last]), np.arange(first, last))
    return store.open(draft.finish(source={"kind": "benchmark"}, parent=None).version_id)


def milliseconds(work: Callable[[int], object], n: int) -> dict[str, float]:
    """Return median and 99th percentile of the CPU time of work(0) .. work(n - 1), ms, after a warm-up."""
    for at in range(10):
        work(at)
    spent = []
    for at in range(n):
        began = time.process_time()
        work(at)
        spent.append((time.process_time() - began) * 1e3)
    return {"p50_ms": round(float(np.median(spent)), 3), "p99_ms": round(float(np.percentile(spent, 99)), 3)}


def measure(titles: list[str], side: Bm25 | Ngrams) -> dict[str, object]:
    """Return what one kind of sparse side costs."""
    rng = np.random.default_rng(1)
    texts = [titles[at] for at in rng.integers(len(titles), size=N_ROWS)]
    _, vectors = harness.package_summaries(N_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        version = built(Path(folder) / "store", texts, side)
        space = version.space("vectors")
        assert space.sparse is not None
        n_entries = int(np.diff(side.documents(texts).offsets).sum())
        told: dict[str, object] = {"entries": n_entries}
        asked = [titles[at] for at in rng.integers(len(titles), size=N_QUERIES)]
        for name, queries in (("title", asked), ("three_words", [" ".join(text.split()[:3]) for text in asked])):
            rows = side.queries(queries)
            scores = [space.sparse.scores(rows.row(at), N_ROWS)[0] for at in range(20)]

            def search(at: int, fusion: Fusion, rows: SparseRows = rows) -> object:
                return search_hybrid(
                    version,
                    10,
                    space="vectors",
                    fusion=fusion,
                    vectors=vectors[at : at + 1],
                    sparse=rows.row(at),
                )

            told[name] = {
                "terms": round(len(rows.dimensions) / N_QUERIES, 1),
                "rows_above_0_frac": round(float(np.mean([(each > 0).mean() for each in scores])), 3),
                "scores": milliseconds(lambda at, rows=rows: space.sparse.scores(rows.row(at), N_ROWS), N_QUERIES),  # type: ignore[misc, union-attr]
                "rank": milliseconds(lambda at, scores=scores: rank_sparse(scores[at % 20], 80), N_QUERIES),  # type: ignore[misc]
                "sparse_search": milliseconds(lambda at: search(at, SPARSE_ONLY), N_QUERIES),
                "rrf_search": milliseconds(lambda at: search(at, Fusion("rrf", 0.5)), N_QUERIES),
                "dense_search": milliseconds(
                    lambda at: version.search(vectors[at : at + 1], 10, space="vectors"), N_QUERIES
                ),
                "joined_search": milliseconds(
                    lambda at, rows=rows: version.search(  # type: ignore[misc]
                        vectors[at : at + 1], 10, space="vectors", sparse=rows.row(at)
                    ),
                    N_QUERIES,
                ),
            }
    return told


def main() -> None:
    """Measure and write results/sparse_scan.json."""
    folder = harness.data_dir() / "text_catalog" / "product_matching"
    titles = [title for title in pq.read_table(folder / "products.parquet")["title"].to_pylist() if title]
    harness.write(
        "sparse_scan",
        {"rows": N_ROWS, "bm25": measure(titles, Bm25().fit(titles)), "ngrams": measure(titles, Ngrams().fit(titles))},
    )


if __name__ == "__main__":
    main()
