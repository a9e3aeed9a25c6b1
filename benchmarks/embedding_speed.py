"""Texts and pictures a second against sentence-transformers' way of encoding, in turns, on the same threads.

Text: the same model and the same texts through sentence-transformers on torch float32. Pictures: the same network in torch behind
a loop that opens, scales and stacks batches of 32 with Pillow, one after the other, as sentence-transformers' encode does. Ours
decodes in two worker processes. A B A B; the ratio is the median over the rounds of the wall times of a round.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable

import harness
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings import Content, ImageEncoder, TextEncoder, embed
from embeddings.model_file import EFFICIENTNET_LITE0, MINILM, packaged


def compare(
    ours: Callable[[], NDArray[np.float32]], theirs: Callable[[], NDArray[np.float32]], n: int, rounds: int
) -> dict[str, object]:
    """Return rates a second, the median ratio, and the smallest cosine between the two outputs."""
    cosines = (ours() * theirs()).sum(axis=1)
    spent: list[tuple[float, float]] = []
    for _ in range(rounds):
        times = []
        for run in (ours, theirs):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        spent.append((times[0], times[1]))
    return {
        "n": n,
        "ours_per_s": round(n / statistics.median(a for a, _ in spent), 1),
        "theirs_per_s": round(n / statistics.median(b for _, b in spent), 1),
        "ratio": round(statistics.median(b / a for a, b in spent), 2),
        "ratio_by_round": [round(b / a, 2) for a, b in spent],
        "cosine_min": round(float(cosines.min()), 6),
        "cosine_median": round(float(np.median(cosines)), 6),
    }


def texts(n: int, threads: int, rounds: int) -> dict[str, object]:
    """Compare on real titles, and on titles with descriptions."""
    from sentence_transformers import SentenceTransformer

    rows = pq.read_table(harness.data_dir() / "text_catalog" / "product_matching" / "products.parquet").to_pylist()
    rows = [rows[at] for at in np.random.default_rng(1).permutation(len(rows))[:n]]
    encoder = TextEncoder(n_threads=threads)
    reference = SentenceTransformer(str(packaged(MINILM) / "model"), device="cpu")
    found: dict[str, object] = {}
    long = [f"{row['title']}. {row['description'] or ''}" for row in rows[: n // 4]]
    for name, asked in (("titles", [row["title"] for row in rows]), ("titles_with_descriptions", long)):
        contents = [Content(text) for text in asked]

        def ours(contents: list[Content] = contents) -> NDArray[np.float32]:
            return encoder.encode(contents)

        def theirs(asked: list[str] = asked) -> NDArray[np.float32]:
            return np.asarray(reference.encode(asked, normalize_embeddings=True, show_progress_bar=False))

        found[name] = compare(ours, theirs, len(asked), rounds)
    return found


def pictures(files: list[bytes], threads: int, rounds: int) -> dict[str, object]:
    """Compare on picture files in memory."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = packaged(EFFICIENTNET_LITE0) / EFFICIENTNET_LITE0.weights
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()
    encoder = ImageEncoder(n_threads=threads, n_workers=2)
    contents = [Content(image=file) for file in files]

    def ours() -> NDArray[np.float32]:
        return np.concatenate([part.vectors for part in embed([contents], encoder, chunk=64)])

    def squared(file: bytes) -> NDArray[np.float32]:
        picture = Image.open(io.BytesIO(file)).convert("RGB")
        side = 0.875 * min(picture.size)
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        box = (left, top, left + side, top + side)
        square = picture.resize((224, 224), Image.Resampling.BICUBIC, box=box)
        return (np.asarray(square, np.float32) - 127.0) / 128.0

    def theirs() -> NDArray[np.float32]:
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(files), 32):
                batch = torch.from_numpy(np.stack([squared(file) for file in files[begin : begin + 32]])).permute(
                    0, 3, 1, 2
                )
                pooled = network.extract_features(batch).mean((2, 3))
                parts.append(torch.nn.functional.normalize(pooled, dim=-1).numpy())
        return np.concatenate(parts)

    try:
        return compare(ours, theirs, len(files), rounds)
    finally:
        encoder.close()


def enlarged(file: bytes, side: int) -> bytes:
    """Return the picture as a JPEG of the size that a shop or a phone delivers."""
    from PIL import Image

    picture = Image.open(io.BytesIO(file)).convert("RGB")
    scale = side / max(picture.size)
    stream = io.BytesIO()
    size = (round(picture.width * scale), round(picture.height * scale))
    picture.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=88)
    return stream.getvalue()


def main() -> None:
    """Measure and write results/embedding_speed.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=800)
    parser.add_argument("--pictures", type=int, default=192)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    directory = harness.data_dir() / "products_images"
    listed = pq.read_table(directory / "images.parquet").to_pylist()
    chosen = np.random.default_rng(2).permutation(len(listed))[: options.pictures]
    small = [(directory / listed[at]["image_path"]).read_bytes() for at in chosen]
    large = [enlarged(file, 1600) for file in small[: options.pictures // 2]]
    harness.write(
        "embedding_speed",
        {
            "threads": options.threads,
            "texts": texts(options.texts, options.threads, options.rounds),
            "pictures_224": pictures(small, options.threads, options.rounds),
            "pictures_1600": pictures(large, options.threads, options.rounds),
        },
    )


if __name__ == "__main__":
    main()
