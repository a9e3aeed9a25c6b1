"""Sources of candidates beside slow, obvious ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from matching.errors import LimitExceeded
from matching.interactions import DAY_MS, History, Interactions
from matching.sources import (
    BuyAgain,
    Ials,
    NewArrivals,
    Popular,
    Profile,
    SessionKnn,
    Trending,
    fit_ease,
    fit_item_knn,
    fit_sequential_rules,
)
from matching.sources import item_table as item_table_module
from tests.interactions import NOW, random_interactions


def histories(interactions: Interactions) -> list[History]:
    return [interactions.history(user) for user in range(interactions.n_users)]


def taken(interactions: Interactions) -> NDArray[np.float64]:
    matrix = np.zeros((interactions.n_users, interactions.n_items))
    matrix[interactions.users, interactions.items] = 1
    return matrix


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "profile", [Profile(), Profile(step_decay=0.5), Profile(half_life_days=20), Profile(by_event=True)]
)
def test_sequential_rules_count_what_came_after_what(seed: int, profile: Profile) -> None:
    known = random_interactions(seed)
    table: dict[tuple[int, int], float] = defaultdict(float)
    for history in histories(known):
        of_user: dict[tuple[int, int], float] = defaultdict(float)
        for at, item in enumerate(history.items):
            for steps, other in enumerate(history.items[at + 1 : at + 5], 1):
                if other != item:
                    of_user[int(item), int(other)] += 1 / steps
        for pair, worth in of_user.items():
            table[pair] += min(worth, 1)
    asked = [*histories(known), History(*(np.empty(0, t) for t in (np.int32, np.int64, np.float32)))]
    expected = np.zeros((len(asked), known.n_items))
    for row, history in enumerate(asked):
        best: dict[int, float] = {}
        for step, (item, at, weight) in enumerate(zip(history.items[::-1], history.at_ms[::-1], history.weights[::-1])):
            worth = profile.step_decay**step * 0.5 ** ((NOW - at) / DAY_MS / profile.half_life_days)
            best[int(item)] = max(best.get(int(item), 0), worth * (weight if profile.by_event else 1))
        for (item, other), weight in table.items():
            expected[row, other] += best.get(item, 0) * weight
    scores = fit_sequential_rules(known, window=4, profile=profile).scores(asked, NOW)
    np.testing.assert_allclose(np.where(np.isfinite(scores), scores, 0), expected, rtol=1e-4, atol=1e-6)
    assert not np.isfinite(scores[-1]).any()


def test_pairs_are_counted_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = random_interactions(5)
    rules, neighbors = fit_sequential_rules(known), fit_item_knn(known)
    monkeypatch.setattr(item_table_module, "_PAIRS_AT_ONCE", 7)
    np.testing.assert_allclose(fit_sequential_rules(known).weights.toarray(), rules.weights.toarray(), rtol=1e-6)
    np.testing.assert_allclose(fit_item_knn(known).weights.toarray(), neighbors.weights.toarray(), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_item_knn_keeps_the_nearest_by_cosine(seed: int) -> None:
    known = random_interactions(seed)
    matrix = taken(known)
    lengths = np.maximum(np.linalg.norm(matrix, axis=0), 1)
    cosine = matrix.T @ matrix / np.outer(lengths, lengths)
    np.fill_diagonal(cosine, 0)
    table = fit_item_knn(known, n_neighbors=4).weights.toarray()
    for item in range(known.n_items):
        best = np.sort(cosine[item])[::-1][:4]
        np.testing.assert_allclose(np.sort(table[item])[::-1][:4], best, rtol=1e-5, atol=1e-7)
        chosen = table[item] > 0
        np.testing.assert_allclose(table[item][chosen], cosine[item][chosen], rtol=1e-5)
        assert chosen.sum() <= 4


@pytest.mark.parametrize("penalty", [1.0, 50.0])
def test_ease_is_the_best_linear_model_without_itself(penalty: float) -> None:
    known = random_interactions(1)
    matrix = taken(known)
    weights = fit_ease(known, penalty=penalty).weights
    assert np.diag(weights).tolist() == [0] * known.n_items
    for item in range(known.n_items):  # ridge regression of an item on all others
        others = np.delete(np.arange(known.n_items), item)
        left = matrix[:, others].T @ matrix[:, others] + penalty * np.eye(len(others))
        np.testing.assert_allclose(
            weights[others, item], np.linalg.solve(left, matrix[:, others].T @ matrix[:, item]), rtol=1e-3, atol=1e-5
        )


def test_ease_refuses_what_it_cannot_invert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_table_module, "MAX_DENSE_ITEMS", 19)
    with pytest.raises(LimitExceeded, match="20 items; at most 19 can be inverted"):
        fit_ease(random_interactions(1))


def loss(model: Ials, users: NDArray[np.float64], matrix: NDArray[np.float64]) -> float:
    found = users @ model.items.astype(np.float64).T
    n_items_of, n_users_of = matrix.sum(axis=1), matrix.sum(axis=0)
    fit = ((1 - found) ** 2 * matrix).sum() + model.unobserved * (found**2).sum()
    by_user = (n_items_of + model.unobserved * matrix.shape[1]) ** model.exponent
    by_item = (n_users_of + model.unobserved * matrix.shape[0]) ** model.exponent
    return float(fit + model.penalty * ((users**2).sum(axis=1) @ by_user + (model.items**2).sum(axis=1) @ by_item))


def test_ials_solves_each_user_exactly_and_gets_better_by_epochs() -> None:
    known = random_interactions(2, n_users=300, n=2_000)  # more rows than are solved at once
    matrix = taken(known)
    model = Ials.fit(known, dim=8, n_epochs=4, penalty=0.01)
    users = model.user_vectors(histories(known))
    for user in (0, 17, 299):
        rows = model.items[np.flatnonzero(matrix[user])].astype(np.float64)
        penalty = model.penalty * (len(rows) + model.unobserved * known.n_items) ** model.exponent
        left = rows.T @ rows + model.unobserved * model.gram + penalty * np.eye(8)
        np.testing.assert_allclose(users[user], np.linalg.solve(left, rows.sum(axis=0)), rtol=1e-3, atol=1e-5)
    losses = []
    for n_epochs in (1, 2, 4):
        fitted = Ials.fit(known, dim=8, n_epochs=n_epochs, penalty=0.01)
        losses.append(loss(fitted, fitted.user_vectors(histories(known)).astype(np.float64), matrix))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_popular_counts_users_of_the_last_days() -> None:
    known = random_interactions(3)
    for days in (float("inf"), 30.0):
        expected = Counter(
            int(item)
            for _, item in {
                (user, item)
                for user, item, at in zip(known.users, known.items, known.at_ms)
                if at >= NOW - days * DAY_MS
            }
        )
        scores = Popular.fit(known, now_ms=NOW, days=days).scores(histories(known)[:2], NOW)
        assert {i: int(s) for i, s in enumerate(scores[1]) if np.isfinite(s)} == expected


def test_trending_lifts_what_is_taken_lately() -> None:
    known = random_interactions(4)
    plain = fit_item_knn(known)
    trending = Trending.fit(plain, known, now_ms=NOW, half_life_days=10)
    before, after = (source.scores(histories(known), NOW) for source in (plain, trending))
    last = {(user, item): at for user, item, at in zip(known.users, known.items, known.at_ms)}
    lately = np.zeros(known.n_items)
    for (_, item), at in last.items():
        lately[item] += 0.5 ** ((NOW - at) / DAY_MS / 10)
    ever = Popular.fit(known, now_ms=NOW).n_users
    some = before > 0
    np.testing.assert_allclose(after[some], (before * (lately + 1) / (ever + 5))[some], rtol=1e-5)
    assert (after[~some] == before[~some]).all()
    assert trending.name == "item-knn-trending"


def test_new_arrivals_are_those_first_seen_lately() -> None:
    known = random_interactions(5)
    days = 40.0
    items = known.items.copy()
    items[known.at_ms < NOW - 20 * DAY_MS] %= 15  # the last five are new
    known = replace(known, items=items)
    scores = NewArrivals.fit(known, now_ms=NOW, days=days).scores([History(*(np.empty(0),) * 3)], NOW)[0]
    expected = {}
    for item in range(known.n_items):
        at_ms = known.at_ms[known.items == item]
        if len(at_ms) and NOW - at_ms[0] <= days * DAY_MS and at_ms[0] - known.at_ms[0] > days * DAY_MS:
            n_users = len(set(known.users[known.items == item].tolist()))
            expected[item] = np.log2(2 + n_users) * 0.5 ** ((NOW - at_ms[0]) / DAY_MS / 14)
    assert set(expected) == set(range(15, 20))
    assert {i: float(s) for i, s in enumerate(scores) if np.isfinite(s)} == pytest.approx(expected)
    young = NewArrivals.fit(known, now_ms=int(known.at_ms[0]) + 30 * DAY_MS, days=days)
    assert (young.worth == 0).all()  # when the events begin nothing is new


def test_what_is_bought_in_a_rhythm_is_due_when_its_time_comes() -> None:
    """Tea is bought every 20 days and a pot never again; who bought tea 19 days ago needs it more than yesterday."""
    acts = [(user, 0, (user + 20 * time) * DAY_MS) for user in range(10) for time in range(4)]
    acts += [(user, 1, user * DAY_MS) for user in range(10)]
    acts.sort(key=lambda act: act[2])
    users, items, at_ms = (np.array(column) for column in zip(*acts))
    n = len(acts)
    known = Interactions(
        tuple(f"u{i:02d}" for i in range(10)),
        ("tea", "pot"),
        users.astype(np.int32),
        items.astype(np.int32),
        at_ms.astype(np.int64),
        np.ones(n, np.float32),
        np.zeros(n, np.float32),
    )
    source = BuyAgain.fit(known, horizon_days=7)
    assert source.cycles.chance[0] > 0.8 > 0.3 > source.cycles.chance[1]
    assert source.cycles.log_days[0] == pytest.approx(np.log(20), rel=0.01)

    def asked(days_ago: float, weight: float = 1.0) -> float:
        history = History(
            np.array([0], np.int32),
            np.array([NOW - days_ago * DAY_MS], np.int64),
            np.array([weight], np.float32),
        )
        return float(source.scores([history], NOW)[0, 0])

    assert asked(19) > 5 * asked(1)
    assert 0 <= asked(1) < asked(10) < asked(17) <= 1
    assert not np.isfinite(asked(19, weight=0.1))  # a view is no purchase


def test_the_nearest_visits_vote() -> None:
    """Two past visits share an item with this one; what lies nearer to it there, and in the newer visit, comes first."""
    minutes = [0, 1, 2, 3, 4]
    rows = [(0, item, minute * 60_000) for item, minute in zip((1, 2, 3, 4, 5), minutes)]
    rows += [(1, item, 50 * DAY_MS + minute * 60_000) for item, minute in zip((3, 6), minutes)]
    users, items, at_ms = (np.array(column) for column in zip(*rows))
    known = Interactions(
        ("old", "new"),
        tuple("abcdefg"),
        users.astype(np.int32),
        items.astype(np.int32),
        at_ms.astype(np.int64),
        np.ones(len(rows), np.float32),
        np.zeros(len(rows), np.float32),
    )
    source = SessionKnn.fit(known, now_ms=NOW)
    history = History(np.array([3], np.int32), np.array([NOW], np.int64), np.ones(1, np.float32))
    (scores,) = source.scores([history], NOW)
    assert np.flatnonzero(np.isfinite(scores)).tolist() == [1, 2, 3, 4, 5, 6]
    assert scores[6] > scores[2] == scores[4] > scores[1] == scores[5]
    far = SessionKnn.fit(known, now_ms=NOW, n_neighbors=1).scores([history], NOW)[0]
    assert np.flatnonzero(np.isfinite(far)).tolist() == [3, 6]
