"""Made-up events of a few users."""

from __future__ import annotations

import numpy as np

from matching.interactions import DAY_MS, Interactions

NOW = 100 * DAY_MS


def random_interactions(seed: int, n_users: int = 30, n_items: int = 20, n: int = 400) -> Interactions:
    rng = np.random.default_rng(seed)
    return Interactions(
        tuple(f"u{i:03d}" for i in range(n_users)),
        tuple(f"i{i:03d}" for i in range(n_items)),
        rng.integers(0, n_users, n).astype(np.int32),
        np.minimum(rng.geometric(0.15, n) - 1, n_items - 1).astype(np.int32),
        np.sort(rng.integers(0, NOW, n)),
        np.ones(n, np.float32),
        np.zeros(n, np.float32),
    )
