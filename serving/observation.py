"""What looks at a running service beside its requests: live recall, freshness of writes, disks, what is under way."""

from __future__ import annotations

from pathlib import Path

from serving.admission import Admission
from serving.freshness import Freshness
from serving.live_recall import LiveRecall
from serving.metrics import Metrics
from serving.recommender import Recommender
from serving.search import search_alike
from serving.settings import ServingSettings


class Observation:
    """Feeds the metrics of one service until it is closed."""

    def __init__(
        self,
        metrics: Metrics,
        recommender: Recommender,
        admission: Admission,
        *,
        settings: ServingSettings,
        store: Path,
    ) -> None:
        folders = {"log": settings.log_folder, "store": store}
        metrics.watch(lambda: metrics.loaded(admission))
        metrics.watch(lambda: metrics.lives(recommender.lives))
        metrics.watch(lambda: metrics.follows(recommender.lags))
        metrics.watch(lambda: metrics.stores(folders))
        self._freshness = Freshness(metrics.visible)
        self._live_recall = (
            LiveRecall(search_alike, share=settings.recall_share, observer=metrics) if settings.recall_share else None
        )
        metrics.sample(self._live_recall, self._freshness)

    def close(self) -> None:
        """Stop looking, after the last write was answered."""
        if self._live_recall is not None:
            self._live_recall.close()
        self._freshness.close()
