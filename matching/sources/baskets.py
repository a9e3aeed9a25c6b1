"""Events of a user put together to baskets."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from matching.interactions import Interactions

BASKET_MS: Final = 30 * 60_000  # a basket ends where its user takes nothing for so long


def baskets(interactions: Interactions) -> Interactions:
    """Return the same interactions with a user for each basket: what one took without a pause of `BASKET_MS`."""
    order = np.lexsort((interactions.at_ms, interactions.users))
    users, at_ms = interactions.users[order], interactions.at_ms[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (users[1:] != users[:-1]) | (at_ms[1:] - at_ms[:-1] > BASKET_MS)
    basket = np.empty(len(order), np.int32)
    basket[order] = np.cumsum(begins, dtype=np.int32) - 1
    return replace(interactions, user_ids=tuple(map(str, range(int(begins.sum())))), users=basket)
