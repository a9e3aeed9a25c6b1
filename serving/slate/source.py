"""What a source answers in one request: rows of the version, best first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONTENT: Final = "content"
ANY: Final = "any"
PINNED: Final = "pinned"  # an item that no source named


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Rows of one source, best first.

    Attributes:
        scores: of the rows, above 0, as `blend` takes them.
        why: tells the ids that some of them, by place, are there for.
        depth: how many it was asked for.
    """

    source: str
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    why: Callable[[NDArray[np.int64]], Sequence[str]]
    depth: int = 0


def by_rank(n: int) -> NDArray[np.float32]:
    """Return scores of a ranking whose own say little of how much better one row is: half at the eleventh place."""
    return (10 / (10 + np.arange(n))).astype(np.float32)


def nothing(places: NDArray[np.int64]) -> Sequence[str]:
    """Tell of no item."""
    return [""] * len(places)
