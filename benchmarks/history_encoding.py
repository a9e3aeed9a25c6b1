"""What does an encoder of histories cost a request: CPU of encoding a history, and of finding its nearest items?

The networks are untrained, which costs the same. A history has 50 items; vectors have 64 numbers; a tenth of the items may be
shown. One thread.
"""

from __future__ import annotations

import argparse
import sys

sys.path.append(sys.path.pop(0))  # a benchmark beside this one is called as a package is

import harness
import numpy as np

import cpp_ext
from embeddings.histories.training import learn
from embeddings.settings import HistoryTrainingSettings, TwoTowerSettings
from matching.interactions import Interactions


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--requests", type=int, default=1000)
    asked = parser.parse_args()
    ids = tuple(f"{at:07d}" for at in range(asked.items))
    ones = np.ones(asked.items, np.float32)
    items = np.arange(asked.items, dtype=np.int32)
    known = Interactions(("u",), ids, np.zeros(asked.items, np.int32), items, items.astype(np.int64), ones, ones)
    figures: dict[str, object] = {"items": asked.items, "requests": asked.requests}
    rng = np.random.default_rng(0)
    bitmap = np.packbits(rng.random(-(-asked.items // 64) * 64) < 0.1, bitorder="little").view(np.uint64)
    histories = [rng.integers(0, asked.items, 50) for _ in range(asked.requests)]
    for settings in (HistoryTrainingSettings(max_epochs=1), TwoTowerSettings(max_epochs=1)):
        encoder = learn(known.take(slice(0, 3)), settings, question=None).encoder
        encoder.vectors = rng.normal(size=(asked.items, settings.dim)).astype(np.float32)
        found = encoder.encode(histories)

        def encode(encoder=encoder) -> None:  # type: ignore[no-untyped-def]
            for history in histories:
                encoder.encode([history])

        def nearest(encoder=encoder, found=found) -> None:  # type: ignore[no-untyped-def]
            for vector in found:
                cpp_ext.scan(encoder.vectors, vector[None], 80, metric="ip", mask=bitmap)

        spent = harness.interleaved({"encode": encode, "nearest": nearest}, repeats=3)
        figures[settings.encoder] = {
            f"{name}_cpu_ms": float(np.median(each)) / asked.requests * 1e3 for name, each in spent.items()
        }
    harness.write("history_encoding", figures)


if __name__ == "__main__":
    main()
