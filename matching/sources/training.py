"""From interactions to a model in the store: what each source learns, in the form in which it is asked."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from matching.errors import InvalidInput
from matching.interactions import History, Interactions
from matching.manifest import SealedFile
from matching.profile import Profile
from matching.recommend.model import Array, Form, ModelManifest
from matching.recommend.model_store import ModelStore
from matching.sources.baskets import BASKET_MS, baskets
from matching.sources.buy_again import BuyAgain
from matching.sources.ials import Ials
from matching.sources.item_table import ItemTable, fit_ease, fit_item_knn, fit_sequential_rules
from matching.sources.new_arrivals import NewArrivals
from matching.sources.popular import Popular
from matching.sources.session_knn import SessionKnn
from matching.sources.source import Source
from matching.sources.trending import HALF_LIFE_DAYS, Trending, trend

# Of each item the weightiest so many others are kept: what a long history asks stays short.
MAX_FOLLOWING: Final = 500
_NOTHING: Final = History(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class Trained:
    """What was learned: arrays as `matching.recommend.Model` takes them."""

    form: Form
    arrays: Mapping[str, Array]
    profile: Profile
    settings: Mapping[str, float]


def _popular(interactions: Interactions, now_ms: int) -> Trained:
    days = 30.0
    return _scores(Popular.fit(interactions, now_ms=now_ms, days=days), now_ms, {"days": days})


def _trending(interactions: Interactions, now_ms: int) -> Trained:
    days = 14.0
    popular = Popular.fit(interactions, now_ms=now_ms, days=days)
    settings = {"days": days, "half_life_days": HALF_LIFE_DAYS}
    return _scores(Trending.fit(popular, interactions, now_ms=now_ms), now_ms, settings)


def _new_arrivals(interactions: Interactions, now_ms: int) -> Trained:
    days = 30.0
    return _scores(NewArrivals.fit(interactions, now_ms=now_ms, days=days), now_ms, {"days": days})


def _scores(source: Source, now_ms: int, settings: Mapping[str, float]) -> Trained:
    scores = np.maximum(source.scores([_NOTHING], now_ms)[0], 0).astype(np.float32)
    return Trained("scores", {"scores": scores}, Profile(), settings)


def _sequential_rules(interactions: Interactions, now_ms: int) -> Trained:
    return _table(fit_sequential_rules(interactions), {"window": 10})


def _item_knn(interactions: Interactions, now_ms: int) -> Trained:
    return _table(fit_item_knn(interactions), {"n_neighbors": 200})


def _ease(interactions: Interactions, now_ms: int) -> Trained:
    return _table(fit_ease(interactions), {"penalty": 300})


def _ease_trending(interactions: Interactions, now_ms: int) -> Trained:
    table = fit_ease(interactions, penalty=500, profile=Profile(half_life_days=120))
    lifted = replace(table, weights=table.weights * trend(interactions, now_ms=now_ms))
    return _table(lifted, {"penalty": 500, "half_life_days": HALF_LIFE_DAYS})


def _bought_together(interactions: Interactions, now_ms: int) -> Trained:
    table = fit_item_knn(baskets(interactions), profile=Profile())
    return _table(table, {"n_neighbors": 200, "basket_minutes": BASKET_MS / 60_000})


def _table(table: ItemTable, settings: Mapping[str, float]) -> Trained:
    rows = weightiest(sp.csr_array(table.weights), MAX_FOLLOWING)
    arrays: dict[str, NDArray[np.generic]] = {
        "offsets": rows.indptr.astype(np.int64),
        "items": rows.indices.astype(np.int32),
        "weights": rows.data.astype(np.float32),
    }
    return Trained("table", arrays, table.profile, {**settings, "following": MAX_FOLLOWING})


def _ials(interactions: Interactions, now_ms: int) -> Trained:
    return _factors(Ials.fit(interactions, dim=64, penalty=0.01), {})


def _ials_trending(interactions: Interactions, now_ms: int) -> Trained:
    solved = Ials.fit(interactions, dim=64, penalty=0.01)
    model = _factors(solved, {"half_life_days": HALF_LIFE_DAYS})
    lift = trend(interactions, now_ms=now_ms)
    return replace(model, arrays={**model.arrays, "factors": solved.items * lift[:, None], "lift": lift})


def _factors(model: Ials, more: Mapping[str, float]) -> Trained:
    settings = {"unobserved": model.unobserved, "penalty": model.penalty, "exponent": model.exponent, "dim": 64}
    return Trained("factors", {"factors": model.items, "gram": model.gram}, Profile(), {**settings, **more})


def _session_knn(interactions: Interactions, now_ms: int) -> Trained:
    model = SessionKnn.fit(interactions, now_ms=now_ms)
    offsets, visits = model.by_item()
    arrays: dict[str, NDArray[np.generic]] = {
        "visit_offsets": model.offsets,
        "visit_items": model.items,
        "offsets": offsets,
        "visits": visits,
        "worths": model.nearness()[visits],
        "idf": model.idf,
    }
    settings = {
        "n_neighbors": model.n_neighbors,
        "n_visits_asked": model.n_visits_asked,
        "half_life_days": model.half_life_days,
        "reach": model.reach,
        "idf_weight": model.idf_weight,
    }
    return Trained("visits", arrays, model.profile, settings)


def _buy_again(interactions: Interactions, now_ms: int) -> Trained:
    cycles = BuyAgain.fit(interactions).cycles
    arrays: dict[str, NDArray[np.generic]] = {"chance": cycles.chance, "log_days": cycles.log_days}
    return Trained("cycles", arrays, Profile(), {"spread": cycles.spread, "horizon_days": cycles.horizon_days})


TRAINERS: Final[Mapping[str, Callable[[Interactions, int], Trained]]] = {
    "popular": _popular,
    "trending": _trending,
    "new-arrivals": _new_arrivals,
    "sequential-rules": _sequential_rules,
    "item-knn": _item_knn,
    "session-knn": _session_knn,
    "ease": _ease,
    "ease-trending": _ease_trending,
    "ials": _ials,
    "ials-trending": _ials_trending,
    "bought-together": _bought_together,
    "buy-again": _buy_again,
}


def learn(source: str, interactions: Interactions, now_ms: int) -> tuple[ModelManifest, Trained]:
    """Train a source on what happened before `now_ms`; what it learned is kept nowhere.

    Args:
        source: one of `TRAINERS`.

    Returns:
        The manifest, but for what is known when the arrays are written, and what was learned.

    Raises:
        InvalidInput: no such source, or nothing happened before.
        LimitExceeded: more items than the source can learn.
    """
    if source not in TRAINERS:
        raise InvalidInput(f"[train] no source {source!r}; there are {', '.join(TRAINERS)}; train one of them")
    known = interactions.between(0, now_ms)
    if not len(known):
        raise InvalidInput("[train] no event lies before --until; expected some to learn from; give a later date")
    began = time.perf_counter()
    trained = TRAINERS[source](known, now_ms)
    manifest = ModelManifest(
        source=source,
        form=trained.form,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        code_version=importlib.metadata.version("likewise"),
        settings=trained.settings,
        profile=trained.profile,
        n_items=len(known.item_ids),
        items_digest="",
        events_sha256=known.digest(),
        first_ms=int(known.at_ms[0]),
        last_ms=int(known.at_ms[-1]),
        metrics={
            "n_events": len(known),
            "n_users": len(np.unique(known.users)),
            "fit_seconds": round(time.perf_counter() - began, 3),
        },
        file=SealedFile(0, ""),
    )
    return manifest, trained


def train(store: ModelStore, source: str, interactions: Interactions, *, now_ms: int) -> ModelManifest:
    """Train a source as `learn` does and seal the model; no alias is moved.

    Raises:
        InvalidInput: no such source, or nothing happened before.
        LimitExceeded: more items than the source can learn.
    """
    manifest, trained = learn(source, interactions, now_ms)
    return store.publish(interactions.item_ids, trained.arrays, lambda: manifest)


def weightiest(table: sp.csr_array, most: int) -> sp.csr_array:
    """Return the entries of each row that weigh most, whether for or against, in order of their column."""
    table.sort_indices()
    order = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    rank = np.empty(table.nnz, np.int64)
    by_weight = np.lexsort((table.indices, -np.abs(table.data), order))
    rank[by_weight] = np.arange(table.nnz) - table.indptr[order[by_weight]]
    kept = (rank < most) & (table.data != 0)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(order[kept], minlength=table.shape[0]))])
    return sp.csr_array((table.data[kept], table.indices[kept], indptr), shape=table.shape)
