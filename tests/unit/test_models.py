"""Models in the store answer as the sources that they were trained from, and only as they were sealed."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matching.errors import CorruptArtifact, InvalidInput, NotFound
from matching.recommend import ModelStore, blend
from matching.recommend.model_store import Verdict, model_id_of
from matching.sources.baskets import BASKET_MS, baskets
from matching.sources.training import train, weightiest
from tests.interactions import NOW, random_interactions


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


@given(seed=st.integers(0, 10_000))
def test_blended_scores_are_sums_of_shares_of_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rankings = []
    for _ in range(rng.integers(0, 5)):
        rows = rng.permutation(15)[: rng.integers(0, 10)].astype(np.int64)
        scores = np.sort(rng.uniform(0.1, 9, len(rows)))[::-1].astype(np.float32)
        rankings.append((float(rng.choice([0.5, 1.0, 3.0])), rows, scores))
    expected: dict[int, float] = {}
    for weight, rows, scores in rankings:
        for row, score in zip(rows.tolist(), scores.tolist()):
            expected[row] = expected.get(row, 0.0) + weight * score / scores[0]
    found = blend(rankings)
    assert found.rows.tolist() == sorted(expected, key=lambda row: (-found.scores[found.rows == row][0], row))
    np.testing.assert_allclose(found.scores, [expected[row] for row in found.rows.tolist()], rtol=1e-6)
    np.testing.assert_allclose(found.parts.sum(axis=0), found.scores)
    for at, row in enumerate(found.rows.tolist()):
        assert sorted(found.named_by(at)) == [each for each, (_, rows, _) in enumerate(rankings) if row in rows]


def test_models_are_found_by_alias_and_refused_when_touched(tmp_path: Path) -> None:
    known, store = random_interactions(2), ModelStore(tmp_path)
    with pytest.raises(NotFound, match=r"source 'ease' has no model 'champion'; there are none"):
        store.open("ease")
    first = model_id_of(train(store, "ease", known, now_ms=NOW))
    second = model_id_of(train(store, "ease", known, now_ms=NOW // 2))
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
        train(store, "ease", known, now_ms=0)
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
    log = tmp_path / "log.sqlite"
    imported = subprocess.run(
        [sys.executable, "-m", "lifecycle", "events", "import", str(log), str(tmp_path / "events.parquet")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert imported.returncode == 0, imported.stderr
    line[-1] = str(log)
    of_log = run("popular", "--until", "1970-03-01")
    assert of_log.returncode == 0, of_log.stderr
    models = ModelStore(tmp_path / "shop")
    champion = models.open("popular")
    assert champion.model_id == json.loads(of_log.stdout)["model"] != told["model"]
    every = np.full(1, 2**64 - 1, np.uint64)
    nothing = champion.asked([], np.empty(0, np.int64), np.empty(0, np.float32), NOW)
    answers = [model.candidates(nothing, 20, every) for model in (champion, models.open("popular", told["model"]))]
    assert np.array_equal(answers[0].scores, answers[1].scores)
    models.keep_verdict("popular", Verdict("now", "then", "ndcg@10", "ease", 0.01, -0.01, 0.03))
    waits = run("popular")
    assert json.loads(waits.stdout)["alias"] == "challenger"
    assert "popular is not promotable: ndcg@10 over ease was +0.0100 (-0.0100 to +0.0300)" in " ".join(
        waits.stderr.split()
    )
    assert models.resolve("popular") == champion.model_id
    assert models.resolve("popular", "challenger") == json.loads(waits.stdout)["model"]
    assert json.loads(run("popular", "--alias", "champion").stdout)["alias"] == "champion"
    models.keep_verdict("popular", Verdict("now", "then", "ndcg@10", "ease", 0.02, 0.01, 0.03))
    assert json.loads(run("popular").stdout)["alias"] == "champion"
    refused = run("unheard-of")
    assert refused.returncode == 2
    assert "no source 'unheard-of'; there are popular" in refused.stderr.replace("\n", " ")
