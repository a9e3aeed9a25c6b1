"""The scoreboard: folds that do not leak, figures that are right, claims that hold."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from lifecycle.cli import run
from lifecycle.scoreboard.board import BASELINES, check_fold, check_measure, measure
from lifecycle.scoreboard.bootstrap import holm, interval
from lifecycle.scoreboard.fold import Fold, leave_one_out, time_folds
from lifecycle.scoreboard.metrics import score
from lifecycle.scoreboard.report import as_rows, write_report
from lifecycle.scoreboard.served import Blend, candidates, in_memory
from matching.errors import GateRefused, InvalidInput
from matching.interactions import DAY_MS, History, Interactions
from matching.recommend import ModelStore
from matching.sources import Popular, Source
from tests.commands import likewise
from tests.interactions import NOW, random_interactions

FAST = {name: BASELINES[name] for name in ("popular", "item-knn")}


class Given:
    """A source of known scores, in the order of a fold's users."""

    name = "given"

    def __init__(self, scores: NDArray[np.float32]) -> None:
        self._scores = scores
        self._next = 0

    def scores(self, histories: Sequence[History], now_ms: int) -> NDArray[np.float32]:
        self._next += len(histories)
        return self._scores[self._next - len(histories) : self._next]


def a_fold(seed: int, **more: int) -> Fold:
    return next(time_folds(random_interactions(seed, **more), cut_ms=NOW * 3 // 4, horizon_ms=NOW // 4))


def test_folds_know_nothing_from_behind_their_cut() -> None:
    known = random_interactions(0)
    folds = list(time_folds(known, cut_ms=NOW * 3 // 4, horizon_ms=NOW // 8, n_origins=3))
    assert [fold.cut_ms for fold in folds] == [NOW // 2, NOW * 5 // 8, NOW * 3 // 4]
    for fold in folds:
        check_fold(fold)
        behind = known.between(fold.cut_ms, fold.cut_ms + NOW // 8)
        for user, history, targets in zip(fold.users, fold.histories, fold.targets):
            items = set(known.items[(known.users == user) & (known.at_ms < fold.cut_ms)].tolist())
            assert set(history.items.tolist()) == items
            assert set(targets.tolist()) == set(behind.items[behind.users == user].tolist()) - items
        assert fold.validation is not None
        assert fold.validation.cut_ms == fold.cut_ms - NOW // 8
        check_fold(fold.validation)
    again = next(time_folds(known, cut_ms=NOW * 3 // 4, horizon_ms=NOW // 8, new_only=False))
    assert sum(map(len, again.targets)) > sum(map(len, folds[-1].targets))


def test_what_comes_later_changes_nothing_before() -> None:
    known = random_interactions(1)
    fold = a_fold(1)
    shuffled = np.where(known.at_ms >= fold.cut_ms, (known.items + 7) % known.n_items, known.items).astype(np.int32)
    other = next(time_folds(replace(known, items=shuffled), cut_ms=NOW * 3 // 4, horizon_ms=NOW // 4))
    assert np.array_equal(fold.train.items, other.train.items)
    for fit in BASELINES.values():
        asked = [fold.train.history(user) for user in range(5)]
        assert np.array_equal(fit(fold, {}).scores(asked, fold.cut_ms), fit(other, {}).scores(asked, fold.cut_ms))


def test_a_leak_is_refused() -> None:
    fold = a_fold(2)
    late = replace(fold.train, at_ms=np.append(fold.train.at_ms[:-1], fold.cut_ms))
    with pytest.raises(GateRefused, match="at or behind its cut"):
        check_fold(replace(fold, train=late))


def test_a_cut_without_events_is_told() -> None:
    with pytest.raises(InvalidInput, match="leaves no event before it or no user"):
        list(time_folds(random_interactions(0), cut_ms=2 * NOW, horizon_ms=DAY_MS))


def test_leave_one_out_asks_for_the_last() -> None:
    known = random_interactions(3)
    fold = leave_one_out(known)
    assert fold.validation is not None
    for (user, history, targets), before in zip(
        zip(fold.users, fold.histories, fold.targets), fold.validation.histories
    ):
        items = known.items[known.users == user]
        assert history.items.tolist() == items[:-1].tolist()
        assert targets.tolist() == items[-1:].tolist()
        assert before.items.tolist() == items[:-2].tolist()
        assert fold.train.history(int(user)).items.tolist() == items[:-2].tolist()
    with pytest.raises(InvalidInput, match="no user has three"):
        leave_one_out(known.take(slice(0, 2)))


def by_hand(scores: NDArray[np.float32], targets: set[int], values: dict[int, float], k: int) -> dict[str, float]:
    """Means over all orders of equal scores would be exact; mean ranks are what is promised."""
    ranks = {}
    for target in targets:
        above = sum(1 for s in scores if s > scores[target])
        equal = sum(1 for s in scores if s == scores[target])
        ranks[target] = above + (equal + 1) / 2 if np.isfinite(scores[target]) else np.inf
    within = sorted(rank for rank in ranks.values() if rank <= k)
    best = sum(1 / np.log2(place + 1) for place in range(1, min(k, len(targets)) + 1))
    return {
        "hit": float(bool(within)),
        "recall": len(within) / len(targets),
        "ndcg": sum(1 / np.log2(rank + 1) for rank in within) / best,
        "mrr": 1 / within[0] if within else 0.0,
        "map": sum((at + 1) / rank for at, rank in enumerate(within)) / min(k, len(targets)),
        "revenue": sum(values[target] for target, rank in ranks.items() if rank <= k),
    }


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_computed_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fold = a_fold(seed)
    scores = rng.integers(0, 6, (len(fold.users), fold.train.n_items)).astype(np.float32)  # many equal ones
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    found = score(Given(scores), fold, [3, 8])
    for at, history in enumerate(fold.histories):
        seen = scores[at].copy()
        seen[history.items] = -np.inf
        values = dict(zip(fold.targets[at].tolist(), fold.values[at].tolist()))
        for k in (3, 8):
            for metric, expected in by_hand(seen, set(values), values, k).items():
                assert found.by_user[f"{metric}@{k}"][at] == pytest.approx(expected), (metric, k)


def test_figures_of_all_answers_by_hand() -> None:
    fold = a_fold(0)
    rng = np.random.default_rng(0)
    scores = rng.random((len(fold.users), fold.train.n_items)).astype(np.float32)
    scores[:, 10:] = -np.inf
    overall = score(Given(scores), fold, [4], leave_out_seen=False).overall
    shown = np.argsort(-scores, axis=1)[:, :4]
    counts = np.bincount(shown.ravel(), minlength=fold.train.n_items)
    takers = [set(fold.train.users[fold.train.items == item].tolist()) for item in range(fold.train.n_items)]
    assert overall["coverage@4"] == pytest.approx((counts > 0).mean())
    differences = np.abs(counts[:, None] - counts[None]).sum()
    assert overall["gini@4"] == pytest.approx(differences / (2 * len(counts) * counts.sum()))
    surprise = [-np.log2((len(takers[item]) + 1) / (fold.train.n_users + 1)) for item in shown.ravel()]
    assert overall["novelty_bits@4"] == pytest.approx(np.mean(surprise))
    cosines = [
        np.mean(
            [
                len(takers[a] & takers[b]) / max(np.sqrt(len(takers[a]) * len(takers[b])), 1)
                for a, b in itertools.combinations(row, 2)
            ]
        )
        for row in shown
    ]
    assert overall["diversity@4"] == pytest.approx(1 - np.mean(cosines), rel=1e-5)


def _one_rank_late(scores: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(scores[targets]), np.arange(len(targets)) + 2.0, np.inf)


def test_the_measure_is_tested_by_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = a_fold(0)
    check_measure(fold, [10, 20])
    from lifecycle.scoreboard import metrics

    monkeypatch.setattr(metrics, "_ranks", _one_rank_late)
    with pytest.raises(GateRefused, match="ndcg@10 of all answers"):
        check_measure(fold, [10])


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = interval(rng.exponential(1.0, 150), seed=trial, n_resamples=400)
        covered += found.low <= 1.0 <= found.high
    assert 180 <= covered <= 199
    sure = interval(np.full(50, 0.5))
    assert (sure.mean, sure.low, sure.high, sure.p) == (0.5, 0.5, 0.5, 1 / 2_000)
    assert interval(np.array([-1.0, 1.0] * 50)).p > 0.5


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_only_what_beats_the_best_baseline_for_certain_is_promotable() -> None:
    folds = list(
        time_folds(random_interactions(5, n_users=200, n=3_000), cut_ms=NOW * 3 // 4, horizon_ms=NOW // 8, n_origins=2)
    )

    def knowing(fold: Fold, fitted: Mapping[str, Source]) -> Given:
        scores = np.full((len(fold.users), fold.train.n_items), -np.inf, np.float32)
        for row, targets in zip(scores, fold.targets):
            row[targets] = 1
        return Given(scores)

    board = measure(
        folds,
        {
            "knowing": knowing,
            "same": FAST["popular"],
            "nothing": lambda fold, fitted: Given(np.full((len(fold.users), 20), -np.inf, np.float32)),
        },
        baselines=FAST,
    )
    rows = {row.source: row for row in board.rows}
    assert board.rows[0].source == "knowing"
    assert [row.source for row in board.rows if row.is_promotable] == ["knowing"]
    assert rows["popular"].over_best is None
    assert rows["nothing"].metrics["hit@10"].mean == 0
    if board.best_baseline == "popular":
        assert rows["same"].over_best == interval(np.zeros(1))
    assert json.loads(json.dumps(board.to_json()))["primary"] == "ndcg@10"


def test_the_same_twice() -> None:
    fold = a_fold(6)
    first, second = (measure([fold], {"popular again": FAST["popular"]}, baselines=FAST) for _ in range(2))
    assert first == second


def test_users_without_a_history_are_asked_about_apart() -> None:
    known = random_interactions(7)
    newcomer = int(known.users[known.at_ms >= NOW * 3 // 4][0])
    keep = (known.users != newcomer) | (known.at_ms >= NOW * 3 // 4)
    fold = next(time_folds(known.take(keep), cut_ms=NOW * 3 // 4, horizon_ms=NOW // 4))
    board = measure([fold], {}, baselines=FAST)
    rows = {row.source: row for row in board.rows}
    assert board.folds[0]["n_cold_users"] == 1
    assert rows["item-knn"].cold == 0
    assert rows["popular"].cold is not None
    warm = score(Popular.fit(fold.train, now_ms=fold.cut_ms), fold).by_user["ndcg@10"][fold.users != newcomer]
    assert rows["popular"].metrics["ndcg@10"].mean == pytest.approx(warm.mean())


def write_events(path: Path, interactions: Interactions) -> Path:
    start = datetime(2024, 1, 1)
    pq.write_table(
        pa.table(
            {
                "user_id": [interactions.user_ids[u] for u in interactions.users],
                "item_id": [interactions.item_ids[i] for i in interactions.items],
                "event_type": ["purchase"] * len(interactions),
                "timestamp": [start + timedelta(milliseconds=int(at)) for at in interactions.at_ms],
            }
        ),
        path,
    )
    return path


def test_the_command_prints_a_board_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = write_events(tmp_path / "events.parquet", random_interactions(8, n_users=60, n=900))
    asked = ["evaluate", str(events), "--cut", "2024-03-10"]
    assert run([*asked, "--days", "20", "--origins", "2", "--output", str(tmp_path / "board.html")]) == 0
    told = capsys.readouterr().out
    assert "sequential-rules" in told
    assert "ease-trending" in told
    page = (tmp_path / "board.html").read_text()
    assert "data:image/svg+xml;base64," in page
    assert "of them never seen before" in page
    (tmp_path / "shop" / "versions").mkdir(parents=True)
    board = likewise(*asked, "--source", "item-knn-trending", "--store", str(tmp_path / "shop"))
    assert {row["source"] for row in board["rows"]} == {*BASELINES, "item-knn-trending"}
    (row,) = [row for row in board["rows"] if row["source"] == "item-knn-trending"]
    verdict = ModelStore(tmp_path / "shop").verdict("item-knn-trending")
    assert verdict is not None
    assert (verdict.mean, verdict.low, verdict.over) == (
        row["over_best"]["mean"],
        row["over_best"]["low"],
        board["best_baseline"],
    )
    assert verdict.is_promotable == row["is_promotable"]


def test_the_blend_is_measured_as_it_is_served() -> None:
    fold = a_fold(4, n_items=60, n=900)
    sources = ("item-knn", "trending")
    models = [in_memory(source, fold) for source in sources]
    history = fold.histories[0]
    found = candidates(models, history, fold.cut_ms)
    assert set(found) == set(sources)
    for source, model in zip(sources, models):
        assert not set(found[source].rows.tolist()) & set(history.items.tolist())
        assert (np.diff(found[source].scores) <= 0).all()
        assert model.source == source
    (scores,) = Blend(models, {"item-knn": 1.0, "trending": 0.5}).scores([history], fold.cut_ms)
    for item in range(fold.train.n_items):
        shares = [
            weight * float(found[source].scores[found[source].rows == item].sum() / found[source].scores[0])
            for source, weight in (("item-knn", 1.0), ("trending", 0.5))
        ]
        assert (scores[item] if np.isfinite(scores[item]) else 0) == pytest.approx(sum(shares), rel=1e-5)


def test_sequences_are_evaluated_by_their_last_item(tmp_path: Path) -> None:
    sequences = tmp_path / "sequences.txt"
    sequences.write_text(
        "".join(f"{user} {' '.join(str((user + step) % 30) for step in range(6))}\n" for user in range(90))
    )
    board = likewise("evaluate", sequences, "--mode", "leave-one-out")
    rows = {row["source"]: row for row in board["rows"]}
    assert rows["sequential-rules"]["metrics"]["hit@10"]["mean"] == 1
    assert "sequences without times" in likewise("evaluate", sequences, status=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--cut is missing; the events run from 2024-01-01 to 2024-04-"),
        (["--cut", "2030-01-01"], "leaves no event before it or no user to ask about"),
        (["--cut", "2024-03-01", "--source", "magic"], "no source magic; there are item-knn-trending"),
        (["--cut", "2024-03-01", "--weight", "view"], "'view' is not TYPE=WEIGHT"),
        (["--cut", "2024-03-01", "--weight", "view=1"], "holds no event that counts"),
    ],
)
def test_wrong_requests_are_told(tmp_path: Path, options: list[str], message: str) -> None:
    events = write_events(tmp_path / "events.parquet", random_interactions(8))
    assert message in " ".join(likewise("evaluate", events, *options, status=2).split())


def test_the_page_escapes_names(tmp_path: Path) -> None:
    board = measure([a_fold(9)], {"<b>": FAST["popular"]}, baselines=FAST)
    write_report(board, tmp_path / "page.html", title="<script>")
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert "<b>" not in page
    assert [row[0] for row in as_rows(board)] == [row.source for row in board.rows]
