"""Models and their blend on the scoreboard: asked as a service asks them, by the same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifecycle.scoreboard.fold import Fold
from matching.fusion import head_depth
from matching.interactions import History
from matching.recommend import Model, ModelItems, blend
from matching.sources import NO_CANDIDATE
from matching.sources.training import learn

# Equal weights: those fitted on the month before did worse in the month after, see docs/scoreboard.md.
BLENDED: Final[Mapping[str, float]] = {"ease-trending": 1.0, "ials-trending": 1.0}
_K: Final = 20


class _Found(NamedTuple):
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def in_memory(source: str, fold: Fold) -> Model:
    """Train a model on what a fold knows, as `likewise train` does, and keep it in memory."""
    manifest, trained = learn(source, fold.train, fold.cut_ms)
    return Model(f"{source} {fold.name}", manifest, ModelItems(fold.train.item_ids), trained.arrays)


class Blend:
    """Candidates of several models under a bitmap without what a user had, blended with weights."""

    name = "blend"

    def __init__(self, models: Sequence[Model], weights: Mapping[str, float]) -> None:
        """Blend models by weights of their sources; those of weight 0 are not asked."""
        self.weights = {model.source: weights[model.source] for model in models if weights.get(model.source)}
        self.models = [model for model in models if model.source in self.weights]

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        """See `Source`; what was in the history is no candidate, as a page asks with `excludeSeen`."""
        scores = np.full((len(histories), len(self.models[0].items)), NO_CANDIDATE, np.float32)
        for row, history in enumerate(histories):
            found = candidates(self.models, history, now_ms)
            blended = blend([(self.weights[source], *each) for source, each in found.items()])
            scores[row, blended.rows] = blended.scores
        return scores


def candidates(models: Sequence[Model], history: History, now_ms: int) -> dict[str, _Found]:
    """Return what each model finds for a history, as deep as a slate of `_K` places looks."""
    items = models[0].items
    is_new = np.ones(-(-len(items) // 64) * 64, np.bool_)
    is_new[history.items] = False
    allowed = np.packbits(is_new, bitorder="little").view(np.uint64)
    ids = [items.ids[item] for item in history.items.tolist()]
    found = {}
    for model in models:
        asked = model.asked(ids, history.at_ms, history.weights, now_ms)
        best = model.candidates(asked, head_depth(_K), allowed)
        found[model.source] = _Found(best.items, best.scores)
    return found
