"""What every source keeps to, whatever it learns: as a model it answers as its slow twin scores, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from matching.interactions import DAY_MS, Interactions
from matching.recommend import Asked, Model, ModelItems, ModelStore
from matching.recommend.model_store import model_id_of
from matching.sources import (
    BuyAgain,
    Ials,
    NewArrivals,
    Popular,
    Profile,
    SessionKnn,
    Source,
    Trending,
    fit_ease,
    fit_item_knn,
    fit_sequential_rules,
)
from matching.sources.baskets import baskets
from matching.sources.training import TRAINERS, learn, train
from tests.interactions import NOW, random_interactions

SLOW: dict[str, Any] = {
    "popular": lambda known: Popular.fit(known, now_ms=NOW, days=30),
    "trending": lambda known: Trending.fit(Popular.fit(known, now_ms=NOW, days=14), known, now_ms=NOW),
    "new-arrivals": lambda known: NewArrivals.fit(known, now_ms=NOW),
    "session-knn": lambda known: SessionKnn.fit(known, now_ms=NOW),
    "ease-trending": lambda known: Trending.fit(
        fit_ease(known, penalty=500, profile=Profile(half_life_days=120)), known, now_ms=NOW
    ),
    "ials-trending": lambda known: Trending.fit(Ials.fit(known, dim=64, penalty=0.01), known, now_ms=NOW),
    "buy-again": BuyAgain.fit,
    "sequential-rules": fit_sequential_rules,
    "item-knn": fit_item_knn,
    "ease": fit_ease,
    "ials": lambda known: Ials.fit(known, dim=64, penalty=0.01),
    "bought-together": lambda known: fit_item_knn(baskets(known)),
}


@pytest.fixture(scope="module", params=sorted(TRAINERS))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Source, Interactions]:
    folder = tmp_path_factory.mktemp("models")
    known = random_interactions(3, n_items=70)
    store = ModelStore(folder)
    manifest = train(store, request.param, known, now_ms=NOW)
    slow = SLOW[request.param](known)
    return store.open(request.param, model_id_of(manifest)), slow, known


@pytest.mark.parametrize("seed", range(20))
def test_candidates_are_the_best_of_the_slow_scores(trained: tuple[Model, Source, Interactions], seed: int) -> None:
    model, slow, known = trained
    rng = np.random.default_rng(seed)
    history = known.history(int(rng.integers(known.n_users)))
    if model.source == "bought-together":  # its slow twin weighs ages as item-kNN does by default
        history = history._replace(at_ms=np.full(len(history.items), NOW))
    is_allowed = rng.random(known.n_items) < rng.choice([0.1, 0.5, 1.0])
    n = int(rng.integers(1, 30))
    ids = [known.item_ids[item] for item in history.items]
    asked = model.asked([*ids, "no such item"][: len(ids)], history.at_ms, history.weights, NOW)
    found = model.candidates(asked, n, packed(is_allowed))
    scores = slow.scores([history], NOW)[0].astype(np.float64)
    expected = np.where(is_allowed & (scores > 1e-7), scores, 0)
    assert is_allowed[found.items].all()
    assert len(np.unique(found.items)) == len(found.items) == min(n, np.count_nonzero(expected))
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1][: len(found.items)], rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(found.scores, expected[found.items], rtol=2e-3, atol=1e-6)


def packed(is_set: NDArray[np.bool_]) -> NDArray[np.uint64]:
    padded = np.zeros(-(-len(is_set) // 64) * 64, np.bool_)
    padded[: len(is_set)] = is_set
    return np.packbits(padded, bitorder="little").view(np.uint64)


def test_the_reason_is_the_item_that_counted_most(trained: tuple[Model, Source, Interactions]) -> None:
    model, _, known = trained
    every = packed(np.ones(known.n_items, np.bool_))
    asked = Asked(np.array([3, 9, 17], np.int64), np.array([0.2, 1.0, 0.4], np.float32))
    found = model.candidates(asked, 20, every)
    because = model.because(asked, found.items)
    if not model.is_personal:
        assert (because == -1).all()
        return
    if model.source == "session-knn":  # visits vote, not items
        assert (because == -1).all()
        return
    if model.source == "buy-again":
        assert because.tolist() == found.items.tolist()
        return
    if model.source in ("ials", "ials-trending"):
        assert set(because.tolist()) <= {3, 9, 17}
        return
    alone = {
        item: model.candidates(Asked(np.array([item]), np.array([worth], np.float32)), known.n_items, every)
        for item, worth in zip(asked.items.tolist(), asked.weights.tolist())
    }
    for item, reason in zip(found.items, because):
        parts = {each: float(one.scores[one.items == item].sum()) for each, one in alone.items()}
        assert parts[int(reason)] == pytest.approx(max(parts.values()))


def test_nothing_is_asked_of_an_empty_history(trained: tuple[Model, Source, Interactions]) -> None:
    model, _, known = trained
    nothing = model.asked(["unknown"], np.array([NOW]), np.ones(1, np.float32), NOW)
    found = model.candidates(nothing, 5, packed(np.ones(known.n_items, np.bool_)))
    assert (len(found.items) > 0) == (not model.is_personal)


@pytest.fixture(params=sorted(TRAINERS))
def source(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def found(source: str, known: Interactions, *, now_ms: int = NOW) -> dict[str, float]:
    """What a source answers to one history: scores by item."""
    manifest, trained = learn(source, known, now_ms)
    model = Model("made", manifest, ModelItems(known.item_ids), trained.arrays)
    history = random_interactions(11, n_items=70).history(3)
    ids = [f"i{item:03d}" for item in history.items.tolist()]
    asked = model.asked(ids, np.minimum(history.at_ms, now_ms), history.weights, now_ms)
    best = model.candidates(asked, 70, packed(np.ones(known.n_items, np.bool_)))
    return {known.item_ids[item]: float(score) for item, score in zip(best.items.tolist(), best.scores.tolist())}


def test_what_comes_later_is_not_known(source: str) -> None:
    known = random_interactions(4, n_items=70)
    before = known.between(0, NOW // 2)
    later = known.between(NOW // 2, NOW)
    other = later.take(slice(None, None, -1))
    joined = (np.concatenate([getattr(before, of), getattr(other, of)]) for of in ("users", "items"))
    changed = replace(known, **dict(zip(("users", "items"), joined)))
    assert found(source, known, now_ms=NOW // 2) == found(source, changed, now_ms=NOW // 2)


@pytest.mark.filterwarnings("error")
def test_one_event_is_enough_and_no_score_is_odd(source: str) -> None:
    known = random_interactions(4, n_items=70)
    for n in (1, 2, 400):
        answer = found(source, known.take(slice(0, n)))
        assert all(0 < score < np.inf for score in answer.values())


def test_what_one_user_repeats_counts_a_bounded_time(source: str) -> None:
    """Four times as many acts of one user with one pair of items change nothing."""
    known = random_interactions(4, n_items=70)
    fake = np.array([60, 61] * 100, np.int32)
    place = np.searchsorted(known.at_ms, NOW - 5 * DAY_MS)

    def with_fakes(n: int) -> Interactions:
        users = np.insert(known.users, place, np.full(n, 29, np.int32))
        items = np.insert(known.items, place, fake[:n])
        whole = np.insert(known.at_ms, place, np.full(n, NOW - 5 * DAY_MS))
        ones = np.ones(len(users), np.float32)
        return replace(known, users=users, items=items, at_ms=whole, weights=ones, values=ones)

    some, many = (found(source, with_fakes(n)) for n in (50, 200))
    assert many == pytest.approx(some, rel=1e-5)
