"""How a history is weighed when it asks for candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matching.interactions import DAY_MS, History


@dataclass(frozen=True, slots=True)
class Profile:
    """How much each item of a history counts.

    Attributes:
        step_decay: what an item is worth of the one after it; 1 = order does not matter.
        half_life_days: after which an item is worth half; inf = age does not matter.
        by_event: count what the type of the event says, instead of 1.
    """

    step_decay: float = 1.0
    half_life_days: float = float("inf")
    by_event: bool = False

    def weigh(self, history: History, now_ms: int) -> NDArray[np.float32]:
        """Weights of a history: float32[h]."""
        steps = np.arange(len(history.items) - 1, -1, -1, dtype=np.float32)
        weights: NDArray[np.float32] = np.float32(self.step_decay) ** steps
        if self.half_life_days != float("inf"):
            days = np.maximum(now_ms - history.at_ms, 0).astype(np.float32) / DAY_MS
            weights *= np.float32(0.5) ** (days / np.float32(self.half_life_days))
        return weights * history.weights if self.by_event else weights
