"""How well a photo taken in a shop finds its product among 81: raw features against the whitened space, items against photos.

Grocery: 810 gallery photos of 81 products are the index, 784 photos taken in shops ask. Whitening is fitted once on the gallery
and once on every catalogue picture there is (gallery, clothes, crockery): a catalogue is rarely of one kind.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import cpp_ext
from embeddings import Content, EmbeddingCache, ImageEncoder, embed


def features(encoder: ImageEncoder, files: Sequence[Path], cache: EmbeddingCache | None) -> NDArray[np.float32]:
    """Return float32[n, 1280] for picture files, all of which decode."""

    def batches() -> Iterator[list[Content]]:
        for begin in range(0, len(files), 256):
            yield [Content(image=file.read_bytes()) for file in files[begin : begin + 256]]

    done = list(embed(batches(), encoder, cache=cache))
    assert not any(part.failures for part in done)
    return np.concatenate([part.vectors for part in done])


def measure(
    gallery: NDArray[np.float32],
    owners: NDArray[np.int64],
    asked: NDArray[np.float32],
    truth: NDArray[np.int64],
    best_of: int,
) -> dict[str, float]:
    """Return top-1 and top-10 over products by the engine; gallery rows are sorted by owner."""
    n = int(owners.max()) + 1
    offsets = np.searchsorted(owners, np.arange(n + 1)).astype(np.int64)
    rows, _ = cpp_ext.scan(gallery, asked, 10, metric="cosine", offsets=offsets, best_of=best_of, threads=2)
    return {f"top-{k}": round(float((rows[:, :k] == truth[:, None]).any(axis=1).mean()), 4) for k in (1, 10)}


def main() -> None:
    """Measure and write results/picture_quality.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=None, help="embedding cache to use between runs")
    options = parser.parse_args()
    directory = harness.data_dir() / "products_images"
    listed = pq.read_table(directory / "images.parquet").to_pylist()
    gallery = sorted((row for row in listed if row["role"] == "gallery"), key=lambda row: row["product_id"])
    asked = [row for row in listed if row["role"] == "query"]
    others = [row for row in listed if row["role"] in ("main", "alt")]
    number = {name: at for at, name in enumerate(sorted({row["product_id"] for row in gallery}))}
    owners = np.array([number[row["product_id"]] for row in gallery])
    truth = np.array([number[row["product_id"]] for row in asked])
    encoder = ImageEncoder(n_threads=options.threads)
    cache = EmbeddingCache(options.cache) if options.cache else None
    own, theirs, rest = (
        features(encoder, [directory / row["image_path"] for row in rows], cache) for rows in (gallery, asked, others)
    )
    figures: dict[str, object] = {"queries": len(asked), "products": len(number), "gallery": len(gallery)}
    figures["raw_1280"] = {f"best_of_{b}": measure(own, owners, theirs, truth, b) for b in (1, 3)}
    for name, seen in (("fitted_on_gallery", own), ("fitted_on_all_catalogue_pictures", np.concatenate([own, rest]))):
        fitted = encoder.fit(seen)
        left, right = fitted.project(own), fitted.project(theirs)
        figures[name] = {
            "pictures": len(seen),
            "dim": fitted.dim,
            **{f"best_of_{b}": measure(left, owners, right, truth, b) for b in (1, 3)},
        }
    harness.write("picture_quality", figures)
    encoder.close()


if __name__ == "__main__":
    main()
