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
        why: tells the ids that some of them, by place, are there for.
        depth: how many it was asked for.
    """

    source: str
    rows: NDArray[np.int64]
    why: Callable[[NDArray[np.int64]], Sequence[str]]
    depth: int = 0


def nothing(places: NDArray[np.int64]) -> Sequence[str]:
    """Tell of no item."""
    return [""] * len(places)
