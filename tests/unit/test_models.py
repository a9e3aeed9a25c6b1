"""Models in the store answer as the sources that they were trained from, and only as they were sealed."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from matching.errors import CorruptArtifact, InvalidInput, NotFound
from matching.interactions import Interactions
from matching.recommend import Asked, Model, ModelStore, blend
from matching.recommend.model_store import model_id_of
from matching.sources import Ials, Popular, Source, Trending, fit_ease, fit_item_knn, fit_sequential_rules
from matching.sources.training import BASKET_MS, TRAINERS, baskets, train, weightiest
from tests.interactions import NOW, random_interactions

SLOW: dict[str, Any] = {
    "popular": lambda known: Popular.fit(known, now_ms=NOW, days=30),
    "trending": lambda known: Trending.fit(Popular.fit(known, now_ms=NOW, days=14), known, now_ms=NOW),
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
    events = folder / "events.parquet"
    events.write_bytes(b"what was read")
    known = random_interactions(3, n_items=70)
    store = ModelStore(folder)
    manifest = train(store, request.param, known, now_ms=NOW, events=events)
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
    if model.source == "ials":
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


def test_baskets_end_where_their_user_pauses() -> None:
    told = random_interactions(1, n_users=2, n=6)
    minutes = np.array([0, 10, 45, 46, 50, 200]) * 60_000
    whole = baskets(
        told.take(slice(None)).__class__(
            told.user_ids,
            told.item_ids,
            np.array([0, 0, 0, 1, 0, 1], np.int32),
            told.items,
            minutes,
            told.weights,
            told.values,
        )
    )
    assert BASKET_MS == 30 * 60_000
    assert whole.users.tolist() == [0, 0, 1, 2, 1, 3]
    assert whole.n_users == 4


@given(seed=st.integers(0, 1000), most=st.integers(1, 6))
def test_the_weightiest_of_each_row_are_kept(seed: int, most: int) -> None:
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    dense = (rng.normal(size=(6, 9)) * (rng.random((6, 9)) < 0.5)).astype(np.float32)
    kept = weightiest(sp.csr_array(dense), most).toarray()
    for row, had in zip(kept, dense):
        wanted = np.sort(np.abs(had))[::-1][:most]
        assert np.sort(np.abs(row))[::-1][:most].tolist() == wanted.tolist()
        assert ((row == 0) | (row == had)).all()


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_blended_ranks_are_sums_of_reciprocals(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    rankings = [
        (float(rng.choice([0.5, 1.0, 3.0])), rng.permutation(15)[: rng.integers(0, 10)].astype(np.int64))
        for _ in range(rng.integers(0, 5))
    ]
    scores: dict[int, float] = {}
    for weight, rows in rankings:
        for rank, row in enumerate(rows.tolist(), 1):
            scores[row] = scores.get(row, 0.0) + weight / (60 + rank)
    expected = sorted(scores, key=lambda row: (-round(scores[row], 12), row))[:k]
    found = blend(rankings, k)
    np.testing.assert_allclose(found.scores, [scores[row] for row in expected], rtol=1e-12)
    assert sorted(found.rows.tolist()) == sorted(set(found.rows.tolist()))
    for row, of in zip(found.rows.tolist(), found.of):
        assert sorted(of) == [at for at, (_, rows) in enumerate(rankings) if row in rows]


def test_models_are_found_by_alias_and_refused_when_touched(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"read")
    known, store = random_interactions(2), ModelStore(tmp_path)
    with pytest.raises(NotFound, match=r"source 'ease' has no model 'champion'; there are none"):
        store.open("ease")
    first = model_id_of(train(store, "ease", known, now_ms=NOW, events=tmp_path / "events"))
    second = model_id_of(train(store, "ease", known, now_ms=NOW // 2, events=tmp_path / "events"))
    assert first != second
    assert set(store.models("ease")) == {first, second}
    for target in (first, second, first):
        store.set_alias("ease", target, why="test")
    assert [(move.old, move.new) for move in store.history("ease")] == [(None, first), (first, second), (second, first)]
    assert store.open("ease").model_id == first
    assert store.open("ease").items is store.open("ease").items  # shared while in use
    manifest = store.manifest("ease")
    assert (manifest.n_items, manifest.metrics["n_events"]) == (known.n_items, len(known))
    assert manifest.from_bytes(manifest.to_bytes()) == manifest
    with pytest.raises(InvalidInput, match=r"no event lies before --until"):
        train(store, "ease", known, now_ms=0, events=tmp_path / "events")
    file = tmp_path / "models" / "ease" / first / "model.likewise"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptArtifact):
        store.open("ease")
    told = tmp_path / "models" / "ease" / second / "model.json"
    told.write_text(told.read_text().replace("ease", "easy"))
    with pytest.raises(CorruptArtifact, match="was changed"):
        store.open("ease", second)
    assert not list((tmp_path / "models").glob("work-*"))


def test_the_command_line_trains(tmp_path: Path) -> None:
    made = random_interactions(4)
    pq.write_table(
        pa.table(
            {
                "user_id": [made.user_ids[user] for user in made.users],
                "item_id": [made.item_ids[item] for item in made.items],
                "event_type": ["purchase"] * len(made),
                "timestamp": [datetime.fromtimestamp(at / 1000, timezone.utc) for at in made.at_ms.tolist()],
            }
        ),
        tmp_path / "events.parquet",
    )
    (tmp_path / "shop" / "versions").mkdir(parents=True)
    line = [sys.executable, "-m", "lifecycle", "train", "--store", str(tmp_path / "shop"), "--json"]
    line += ["--events", str(tmp_path / "events.parquet")]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*line, *more], capture_output=True, text=True, cwd=Path(__file__).parents[2])

    done = run("popular", "--until", "1970-03-01")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert ModelStore(tmp_path / "shop").resolve("popular") == told["model"]
    assert told["n_events"] == int((made.at_ms < 59 * 86_400_000).sum())
    refused = run("unheard-of")
    assert refused.returncode == 2
    assert "no source 'unheard-of'; there are popular" in refused.stderr.replace("\n", " ")
