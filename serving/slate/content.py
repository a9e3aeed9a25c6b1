"""Content neighbours as a source: of the newest items that have a vector, nearest first whichever item they are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.errors import InvalidQuery
from matching.recommend.model import Bitmap
from matching.version import IndexVersion
from serving.slate.source import CONTENT, Ranking, by_rank, nothing

_N_ITEMS: Final = 3  # whose neighbours are looked for


def content_ranking(
    version: IndexVersion, item_ids: Sequence[str], n: int, allowed: Bitmap, *, space: str | None
) -> Ranking:
    """Return the n nearest allowed rows of the newest items that have a vector.

    Args:
        item_ids: the newest last.
        space: None for the one that suits.

    Raises:
        Unavailable: the vectors of an item cannot be read now.
    """
    empty = Ranking(CONTENT, np.empty(0, np.int64), by_rank(0), nothing)
    name = space or suiting_space(version)
    if name is None:
        return empty
    found = _vectors(version, item_ids, name)
    if not found:
        return empty
    try:
        rows, distances = version.nearest_rows(
            np.stack([vector for _, vector in found]), n, space=name, matching=allowed
        )
    except InvalidQuery:  # a mean of vectors may have no direction
        return empty
    of = np.repeat(np.arange(len(found)), rows.shape[1])
    order = np.lexsort((rows.ravel(), distances.ravel()))
    order = order[rows.ravel()[order] >= 0]
    first = np.sort(np.unique(rows.ravel()[order], return_index=True)[1])[:n]
    kept = order[first]
    return Ranking(
        CONTENT,
        rows.ravel()[kept],
        by_rank(len(kept)),
        lambda places: [found[at][0] for at in of[kept[places]].tolist()],
    )


def _vectors(version: IndexVersion, item_ids: Sequence[str], name: str) -> list[tuple[str, NDArray[np.float32]]]:
    space = version.space(name)
    found: list[tuple[str, NDArray[np.float32]]] = []
    for item_id in dict.fromkeys(reversed(item_ids)):
        row = version.columns.find(item_id)
        vectors = space.vectors_of(row) if row >= 0 else ()
        if len(vectors):
            found.append((item_id, np.mean(vectors, axis=0, dtype=np.float32)))
        if len(found) == _N_ITEMS:
            break
    return found


def suiting_space(version: IndexVersion) -> str | None:
    """Return the space whose neighbours are alike in content, None where it is not obvious."""
    for name in ("fused", "text", "image"):
        if name in version.spaces:
            return name
    return next(iter(version.spaces)) if len(version.spaces) == 1 else None
