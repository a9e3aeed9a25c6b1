"""Past visits that are like a history, and what they vote for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cpp_ext


def votes(
    arrays: Mapping[str, NDArray[Any]],
    settings: Mapping[str, float],
    items: NDArray[np.int64],
    weights: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Score all items by the visits nearest to a history: float32[n_items], 0 for what none of them took.

    A visit is as near as its common items weigh together, rare ones more, times what a common item counts in it. An item of
    it gets that, the less the further it lies from the last common one, and the more the rarer it is.

    Args:
        arrays: `visit_offsets` int64[v + 1] and `visit_items` int32[m], items of a visit in their order; of each item its newest
            visits, `offsets` int64[n_items + 1], `visits` int32[q] and what a common item counts there, `worths` float32[q];
            `idf` float32[n_items].
        settings: `n_neighbors`, `reach` and `idf_weight`, see `matching.sources.session_knn`.
        items: int64[h], of the history, each once.
        weights: float32[h].
    """
    idf, ends = arrays["idf"], arrays["visit_offsets"]
    rarity = (1 + np.float32(settings["idf_weight"]) * idf).astype(np.float32)
    near = cpp_ext.sparse_scores(
        arrays["offsets"], arrays["visits"], arrays["worths"], items, weights * rarity[items], len(ends) - 1
    )
    if not len(near):
        return np.zeros(len(idf), np.float32)
    visits, negated = cpp_ext.best_scores(near, min(int(settings["n_neighbors"]), len(near)))
    if not len(visits):
        return np.zeros(len(idf), np.float32)
    lengths = ends[visits + 1] - ends[visits]
    starts = np.cumsum(lengths) - lengths
    places = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    taken = arrays["visit_items"][np.repeat(ends[visits], lengths) + places]
    last = np.maximum.reduceat(np.where(np.isin(taken, items), places, -1), starts)
    decay = np.exp(-np.abs(places - np.repeat(last, lengths)) / settings["reach"])
    given = np.repeat(-negated, lengths) * decay * rarity[taken]
    return np.bincount(taken, given, len(idf)).astype(np.float32)
