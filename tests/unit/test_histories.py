"""What encoders of histories learn from: each event told once a pass, by the rules that the settings state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.histories.examples import Examples, Windows, question_before
from embeddings.histories.training import tokens_of
from index_builder.catalog.catalog import Product
from lifecycle.encoder_training import features_of, with_items
from matching.interactions import DAY_MS, Interactions
from tests.interactions import NOW, random_interactions


def histories(known: Interactions) -> list[list[tuple[int, int]]]:
    """Items and times of each user, the slow way."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(known.n_users)]
    for user, item, at in zip(known.users.tolist(), known.items.tolist(), known.at_ms.tolist()):
        found[user].append((item, at))
    return found


@given(seed=st.integers(0, 1000), max_items=st.integers(2, 9), n=st.integers(1, 120))
def test_windows_hold_each_event_that_another_follows_once(seed: int, max_items: int, n: int) -> None:
    known = random_interactions(seed, n_users=6, n=n)
    examples = Examples.of(known)
    starts, lengths = examples.windows(max_items)
    covered = [place for start, length in zip(starts, lengths) for place in range(start, start + length)]
    firsts = np.cumsum([0, *(len(each) for each in histories(known))])
    expected = [at for first, each in zip(firsts, histories(known)) for at in range(first, first + len(each) - 1)]
    assert sorted(covered) == expected
    assert lengths.max(initial=0) <= max_items
    assert examples.known[examples.items].tolist() == [item for each in histories(known) for item, _ in each]


@given(seed=st.integers(0, 1000), max_items=st.integers(2, 9), room=st.integers(9, 60))
def test_batches_hold_all_windows_and_fit(seed: int, max_items: int, room: int) -> None:
    examples = Examples.of(random_interactions(seed, n_users=9, n=200))
    batches = examples.epoch(np.random.default_rng(seed), max_items=max_items, batch_items=room)
    assert all(len(each.starts) * each.lengths.max() <= room for each in batches)
    starts, lengths = examples.windows(max_items)
    got = sorted((int(s), int(n)) for each in batches for s, n in zip(*each))
    assert got == sorted(zip(starts.tolist(), lengths.tolist()))
    again = examples.epoch(np.random.default_rng(seed), max_items=max_items, batch_items=room)
    assert all(np.array_equal(a.starts, b.starts) for a, b in zip(batches, again))


@given(
    seed=st.integers(0, 1000),
    reach=st.sampled_from([1, 3, 1000]),
    apart_days=st.sampled_from([0, 1, 20]),
    new_only=st.booleans(),
)
def test_targets_are_what_may_be_told(seed: int, reach: int, apart_days: int, new_only: bool) -> None:
    known = random_interactions(seed, n_users=5, n_items=12, n=80)
    examples = Examples.of(known, apart_ms=apart_days * DAY_MS)
    rng = np.random.default_rng(seed)
    firsts = np.cumsum([0, *(len(each) for each in histories(known))])
    for windows in examples.epoch(rng, max_items=7, batch_items=30):
        batch = examples.batch(windows, rng, reach=reach, new_only=new_only)
        for row, (start, length) in enumerate(zip(*windows)):
            user = int(np.searchsorted(firsts, start, side="right")) - 1
            did = histories(known)[user]
            for step in range(batch.items.shape[1]):
                if step >= length:
                    assert batch.weights[row, step] == 0
                    continue
                place = int(start) + step - int(firsts[user])
                item, at = did[place]
                assert examples.known[batch.items[row, step]] == item
                later = [
                    (other, what)
                    for other, (what, when) in enumerate(did)
                    if (when > at + apart_days * DAY_MS if apart_days else other > place)
                ][:reach]
                may = {what for other, what in later if not new_only or what not in {w for w, _ in did[:other]}}
                if batch.weights[row, step]:
                    assert int(examples.known[batch.targets[row, step]]) in may
                else:
                    assert new_only or not later


def test_weights_are_those_of_the_events() -> None:
    known = random_interactions(1, n_users=4, n=60)
    weighted = known.__class__(
        known.user_ids,
        known.item_ids,
        known.users,
        known.items,
        known.at_ms,
        (known.items + 1).astype(np.float32),
        known.values,
    )
    examples = Examples.of(weighted)
    windows = Windows(*examples.windows(50))
    batch = examples.batch(windows, np.random.default_rng(0), reach=1, new_only=False)
    there = batch.weights > 0
    assert there.sum() == len(known) - 4
    assert batch.weights[there].tolist() == (examples.known[batch.targets[there]] + 1).tolist()


def test_the_question_asks_for_what_came_last() -> None:
    known = random_interactions(2)
    asked = question_before(known, NOW, days=20, new_only=True)
    assert asked is not None
    assert asked.train.at_ms.max() < NOW - 20 * DAY_MS
    every = histories(known)
    expected = []
    for did in every:
        before = {item for item, at in did if at < NOW - 20 * DAY_MS}
        new = {item for item, at in did if at >= NOW - 20 * DAY_MS} - before
        if before and new:
            expected.append(sorted(new))
    assert [targets.tolist() for targets in asked.targets] == expected
    assert question_before(known, NOW, days=101, new_only=True) is None


def test_features_that_items_share_are_numbered_the_rarest_first() -> None:
    tokens = tokens_of([["a", "b"], ["b", "c"], ["b", "c", "only here"], []])
    assert tokens.shape == (4, 16)
    assert [row[row > 0].tolist() for row in tokens] == [[1], [2, 1], [2, 1], []]
    many = tokens_of([[f"f{at}" for at in range(30)]] * 2)
    assert (many > 0).all()


def test_features_of_products_and_items_without_events() -> None:
    mug = Product(
        "mug", title="Blue Mug, blue", category="Cups", category_path=("Home", "Cups"), brand="Ola", price=9.0
    )
    assert set(features_of(mug)) == {
        "word blue",
        "word mug",
        "category Home",
        "category Cups",
        "brand Ola",
        "price 6",
    }
    known = random_interactions(3)
    more = with_items(known, ["a first", "i003", "z"])
    assert more.item_ids == ("a first", *known.item_ids, "z")
    assert [more.item_ids[item] for item in more.items] == [known.item_ids[item] for item in known.items]


def test_nothing_is_learned_of_users_with_one_event() -> None:
    from embeddings.histories.training import learn
    from embeddings.settings import HistoryTrainingSettings
    from matching.errors import InvalidInput

    alone = random_interactions(0, n_users=1, n=1)
    with pytest.raises(InvalidInput, match="no user has two events"):
        learn(alone, HistoryTrainingSettings(), question=None)
