"""What makes candidates of a user's history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from matching.interactions import History

NO_CANDIDATE = np.float32(-np.inf)


class Source(Protocol):
    """Scores items for users. Implementations are immutable and thread-safe."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """Score all items for each history: larger is better.

        Args:
            histories: what b users did before `now_ms`; may be empty.
            now_ms: when the answer is asked for, milliseconds since 1970.

        Returns:
            float32[b, n_items]; -inf is no candidate. Items of the history are scored like any other.
        """
        ...
