"""How well dense, sparse and fused rankings find the right product: hit@1, hit@10 and MRR@10.

Abt-Buy: the title at Abt asks, the 1,092 titles at Buy answer, 1,097 pairs are known. The other sets check that nothing was tuned
to that one: the first 25 words of a description ask for their own product's title. Rankings are fused as a search for ten does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import harness
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from text_quality import abt_buy, described

import cpp_ext
from embeddings import Content, TextEncoder
from matching.datapoint import SparseRows
from matching.fusion import Fusion, Ranking, fused, head_depth, rank_sparse

K = 10
BM25_ALPHAS = (0.8, 0.9, 0.95, 0.98)
SHARES = (0.3, 0.5, 0.7)


def sparse_scores(queries: SparseRows, answers: SparseRows) -> NDArray[np.float32]:
    """Return float32[q, n] inner products through the engine's inverted index."""
    order = np.argsort(answers.dimensions, kind="stable")
    rows = np.repeat(np.arange(len(answers)), np.diff(answers.offsets))[order].astype(np.int32)
    terms, starts = np.unique(answers.dimensions[order], return_index=True)
    offsets = np.append(starts, len(rows)).astype(np.int64)
    weights = answers.values[order]
    out = np.empty((len(queries), len(answers)), np.float32)
    for row in range(len(queries)):
        span = slice(int(queries.offsets[row]), int(queries.offsets[row + 1]))
        at = np.minimum(np.searchsorted(terms, queries.dimensions[span]), len(terms) - 1)
        known = terms[at] == queries.dimensions[span]
        out[row] = cpp_ext.sparse_scores(
            offsets, rows, weights, at[known].astype(np.int64), queries.values[span][known], len(answers)
        )
    return out


def by_score(scores: NDArray[np.float32]) -> Ranking:
    """Return the best rows of one query by its scores float32[n], as deep as a fused search for ten looks."""
    order = np.lexsort((np.arange(len(scores)), -scores))[: head_depth(K)]
    return Ranking(order.astype(np.int64), -scores[order])


def figures(find: Callable[[int], NDArray[np.int64]], truth: NDArray[np.int64]) -> dict[str, float]:
    """Return hit@1, hit@10 and MRR@10 of what `find` answers to each query."""
    places = []
    for query, true in enumerate(truth):
        at = np.flatnonzero(find(query)[:K] == true)
        places.append(int(at[0]) if len(at) else K)
    place = np.array(places)
    told = {f"hit@{k}": float((place < k).mean()) for k in (1, K)}
    told[f"mrr@{K}"] = float(np.where(place < K, 1.0 / (place + 1), 0.0).mean())
    return {name: round(value, 4) for name, value in told.items()}


def measure(encoder: TextEncoder, asked: list[str], pool: list[str], truth: NDArray[np.int64]) -> dict[str, object]:
    """Return the figures of each way to rank; what is fitted is fitted on the pool alone."""
    vectors = (encoder.encode([Content(text) for text in texts]) for texts in (asked, pool))
    query_vectors, answers = vectors
    cosines = query_vectors @ answers.T
    told: dict[str, object] = {"queries": len(asked), "pool": len(pool)}
    told["dense"] = figures(lambda q: by_score(cosines[q]).rows, truth)
    for kind in ("ngrams", "bm25"):
        fitted = TextEncoder(sparse=kind).fit(pool)  # type: ignore[arg-type]
        scores = sparse_scores(fitted.sparse(asked), fitted.sparse_documents(pool))
        told[kind] = figures(lambda q, s=scores: rank_sparse(s[q], K).rows, truth)  # type: ignore[misc]
        for alpha in {fitted.alpha, *(BM25_ALPHAS if kind == "bm25" else ())}:
            joined = np.float32(alpha) * cosines + np.float32(1 - alpha) * scores
            told[f"joined {alpha:g} {kind}"] = figures(lambda q, j=joined: by_score(j[q]).rows, truth)  # type: ignore[misc]
        for name in ("rrf", "score"):
            for alpha in SHARES:
                fusion = Fusion(name, alpha)  # type: ignore[arg-type]

                def find(q: int, fusion: Fusion = fusion, scores: NDArray[np.float32] = scores) -> NDArray[np.int64]:
                    return fused(fusion, by_score(cosines[q]), rank_sparse(scores[q], head_depth(K)))

                told[f"{name} {alpha:g} {kind}"] = figures(find, truth)
    return told


def main() -> None:
    """Measure and write results/hybrid_quality.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    catalog = harness.data_dir() / "text_catalog"
    products = pq.read_table(catalog / "product_matching" / "products.parquet").to_pylist()
    encoder = TextEncoder(n_threads=threads)
    demo_store = pq.read_table(catalog / "retail_demo_store.parquet").to_pylist()
    harness.write(
        "hybrid_quality",
        {
            "abt_title_to_buy": measure(encoder, *abt_buy(catalog)),
            "demo_store_description_to_title": measure(encoder, *described(demo_store)),
            "google_description_to_title": measure(
                encoder, *described([row for row in products if row["side"] == "google"])
            ),
        },
    )


if __name__ == "__main__":
    main()
