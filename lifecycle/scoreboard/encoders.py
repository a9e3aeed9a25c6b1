"""Encoders of histories on the scoreboard: trained on each fold, stopped by the fold before, asked as they are served."""

from __future__ import annotations

from collections.abc import Mapping

from embeddings.histories.examples import Question
from embeddings.histories.training import EncodedSource, learn
from embeddings.settings import HistoryTrainingSettings
from lifecycle.scoreboard.board import Fit
from lifecycle.scoreboard.fold import Fold
from matching.sources import Source


def encoder_fits(settings: Mapping[str, HistoryTrainingSettings]) -> dict[str, Fit]:
    """Return what trains each encoder on a fold, by its name."""
    return {name: _fit(name, each) for name, each in settings.items()}


def question_of(fold: Fold) -> Question | None:
    """Return what the fold before asks those who have a history; None where it asks nobody."""
    before = fold.validation
    if before is None:
        return None
    asked = [at for at, history in enumerate(before.histories) if len(history.items)]
    return Question(before.train, [before.histories[at] for at in asked], [before.targets[at] for at in asked])


def _fit(name: str, settings: HistoryTrainingSettings) -> Fit:
    def fit(fold: Fold, fitted: Mapping[str, Source]) -> Source:
        return EncodedSource(name, learn(fold.train, settings, question=question_of(fold)), fold.train.n_items)

    return fit
