"""How well the text encoder finds the same product at another shop: dense, sparse and joined.

Abt-Buy: the title at Abt asks, the 1,092 titles at Buy answer, 1,097 pairs are known. Sets without known pairs check that nothing
was tuned to that one: the first 25 words of a description ask for their own product's title.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import harness
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import cpp_ext
from embeddings import Content, TextEncoder
from embeddings.ngrams import N_DIMENSIONS
from matching.datapoint import SparseRows

ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6)
N_DESCRIPTIONS = 1000


def ranks(scores: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many answers rank before the true one, float[q, n] and int64[q]; ties go to the smaller row."""
    own = scores[np.arange(len(truth)), truth][:, None]
    before = np.arange(scores.shape[1])[None] < truth[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1)


def hits(scores: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float]:
    """Return hit@1 and hit@10."""
    place = ranks(scores, truth)
    return {f"hit@{k}": round(float((place < k).mean()), 4) for k in (1, 10)}


def sparse_cosines(queries: SparseRows, answers: SparseRows) -> NDArray[np.float32]:
    """Return float32[q, n] through the engine's inverted index."""
    order = np.argsort(answers.dimensions, kind="stable")
    rows = np.repeat(np.arange(len(answers)), np.diff(answers.offsets))[order].astype(np.int32)
    offsets = np.searchsorted(answers.dimensions[order], np.arange(N_DIMENSIONS + 1)).astype(np.int64)
    weights = answers.values[order]
    out = np.empty((len(queries), len(answers)), np.float32)
    for row in range(len(queries)):
        span = slice(int(queries.offsets[row]), int(queries.offsets[row + 1]))
        out[row] = cpp_ext.sparse_scores(
            offsets, rows, weights, queries.dimensions[span], queries.values[span], len(answers)
        )
    return out


def measure(encoder: TextEncoder, asked: list[str], pool: list[str], truth: NDArray[np.int64]) -> dict[str, object]:
    """Return hits of dense, sparse and joined scores; the sparse side is fitted on the pool alone."""
    fitted = encoder.fit(pool)
    dense = fitted.encode([Content(text) for text in asked]) @ fitted.encode([Content(text) for text in pool]).T
    sparse = sparse_cosines(fitted.sparse(asked), fitted.sparse(pool))
    joined = {
        str(alpha): hits((alpha * dense + (1 - alpha) * sparse).astype(np.float32), truth)
        for alpha in sorted({*ALPHAS, fitted.alpha})
    }
    return {
        "queries": len(asked),
        "pool": len(pool),
        "dense": hits(dense, truth),
        "sparse": hits(sparse, truth),
        "joined": joined[str(fitted.alpha)],
        "joined_by_alpha": joined,
    }


def abt_buy(catalog: Path) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Return the titles at Abt of all known pairs as questions, all titles at Buy as answers, and the true rows."""
    products = pq.read_table(catalog / "product_matching" / "products.parquet").to_pylist()
    pairs = pq.read_table(catalog / "product_matching" / "matches.parquet").to_pylist()
    titles = {row["id"]: row["title"] for row in products}
    buy = [row for row in products if row["side"] == "buy"]
    row_of = {row["id"]: at for at, row in enumerate(buy)}
    truth = np.array([row_of[pair["right_id"]] for pair in pairs])
    return [titles[pair["left_id"]] for pair in pairs], [row["title"] for row in buy], truth


def described(rows: list[dict[str, str]]) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Return descriptions as questions, all titles as answers, and the true rows."""
    own = [at for at, row in enumerate(rows) if row["description"] and len(row["description"]) > 20][:N_DESCRIPTIONS]
    asked = [" ".join(rows[at]["description"].split()[:25]) for at in own]
    return asked, [row["title"] for row in rows], np.asarray(own)


def main() -> None:
    """Measure and write results/text_quality.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    catalog = harness.data_dir() / "text_catalog"
    asked, pool, truth = abt_buy(catalog)
    products = pq.read_table(catalog / "product_matching" / "products.parquet").to_pylist()
    encoder = TextEncoder(n_threads=threads)
    figures: dict[str, object] = {
        "alpha": encoder.alpha,
        "abt_title_to_buy": measure(encoder, asked, pool, truth),
        "description_to_title": {
            "retail_demo_store": measure(
                encoder, *described(pq.read_table(catalog / "retail_demo_store.parquet").to_pylist())
            ),
            "google": measure(encoder, *described([row for row in products if row["side"] == "google"])),
            "buy": measure(encoder, *described([row for row in products if row["side"] == "buy"])),
        },
    }
    harness.write("text_quality", figures)


if __name__ == "__main__":
    main()
