"""Index versions of real vectors against the exact neighbors that come with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from matching.datapoint import Datapoint, Metric
from tests.versions import MakeVersion


def matrix(column: object) -> np.ndarray:
    chunk = column.combine_chunks()  # type: ignore[attr-defined]
    return chunk.flatten().to_numpy().reshape(len(chunk), -1)


@pytest.mark.parametrize(
    ("plan", "metric"),
    [
        ("flat", "cosine"),
        ("flat", "l2"),
        ("graph", "cosine"),
        ("graph", "l2"),
        ("hnsw", "cosine"),
        ("ivfpq", "l2"),
        pytest.param("hnsw", "l2", marks=pytest.mark.slow),
        pytest.param("ivfpq", "cosine", marks=pytest.mark.slow),
    ],
)
def test_glove_words_find_their_known_neighbors(
    data_dir: Path, make_version: MakeVersion, metric: Metric, plan: str
) -> None:
    folder = data_dir / "vectors" / "glove_twitter_25d"
    words = pq.read_table(folder / "vectors.parquet")
    vectors = matrix(words["vector"]).astype(np.float32)
    rows = np.flatnonzero(~words["is_query"].to_numpy(zero_copy_only=False))  # the queries are held out
    truth = pq.read_table(folder / "ground_truth.parquet")
    asked = truth["query_row"].to_numpy()
    true = matrix(truth[f"{metric}_rows"])[:, :10]
    points = [Datapoint(f"{row:06}") for row in rows.tolist()]
    version = make_version(points, vectors[rows], metric=metric, plan=plan, recall_target=0.95, max_effort=512)
    found = version.search(vectors[asked], 10, space="vectors", recall_target=0.95)
    kept = [len({int(n.datapoint_id) for n in a} & set(b.tolist())) / 10 for a, b in zip(found.neighbors, true)]
    floor = 0.999 if plan == "flat" else 0.94
    assert np.mean(kept) >= floor, (plan, found.plan, found.effort)
    assert version.spaces["vectors"].recall >= 0.95
    assert version.spaces["vectors"].plan_name == plan
