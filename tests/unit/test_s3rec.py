"""The benchmark on the files of S3-Rec, run on made files of their layout and held against a slow reading of the protocol."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
N_ITEMS = 40


@pytest.fixture(scope="module")
def s3rec() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("s3rec")


@pytest.fixture(scope="module")
def lines() -> dict[str, list[str]]:
    """Users and what they took, none of it twice, as in those files."""
    rng = np.random.default_rng(5)
    after = rng.permutation(N_ITEMS)
    found = {}
    for user in range(1, 121):
        items = [int(rng.integers(N_ITEMS))]
        while len(items) < 5 + user % 9:
            item = int(after[items[-1]] if rng.random() < 0.6 else rng.integers(N_ITEMS))
            if item not in items:
                items.append(item)
        found[str(user)] = [str(item + 1) for item in items]
    return found


@pytest.fixture
def folder(tmp_path: Path, lines: dict[str, list[str]]) -> Path:
    text = "".join(f"{user} {' '.join(items)}\n" for user, items in lines.items())
    for name in ("Beauty", "Toys_and_Games"):
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def by_hand(lines: dict[str, list[str]], decay: float) -> tuple[float, float]:
    """Recall@10 and ndcg@10 of sequential rules, read off the protocol with dictionaries."""
    follows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for items in lines.values():
        learned = items[:-2]
        for first in range(len(learned)):
            for second in range(first + 1, min(first + 11, len(learned))):
                follows[learned[first]][learned[second]] += 1 / (second - first)
    hits = gains = 0.0
    for items in lines.values():
        *history, target = items
        scores: dict[str, float] = defaultdict(float)
        for ago, item in enumerate(reversed(history)):
            for other, weight in follows[item].items():
                scores[other] += decay**ago * weight
        left = {item: round(each, 9) for item, each in scores.items() if item not in history}
        if target not in left:
            continue
        above = sum(each > left[target] for each in left.values())
        equal = sum(each == left[target] for each in left.values())
        rank = above + (equal + 1) / 2
        if rank <= 10:
            hits += 1
            gains += 1 / np.log2(1 + rank)
    return hits / len(lines), gains / len(lines)


def test_sequential_rules_are_those_of_the_protocol(
    s3rec: ModuleType, folder: Path, lines: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / "figures.json"
    sources = ("popular", "item-knn", "item-knn, decay", "ease", "ease, decay", "sequential-rules")
    status = s3rec.main([str(folder), "--output", str(output), "--sources", *sources])
    assert status == 1  # made files are not what is known
    told = json.loads(output.read_text())
    for file, decay in (("Beauty", 0.4), ("Toys_and_Games", 0.6)):
        figures = {each["source"]: each for each in told[file]}
        recall, ndcg = by_hand(lines, decay)
        assert figures["sequential-rules"]["recall"][0] == pytest.approx(recall, abs=1e-9)
        assert figures["sequential-rules"]["ndcg"][0] == pytest.approx(ndcg, abs=1e-6)
        assert figures["sequential-rules + ease"]["ndcg"][0] > 0.9 * max(ndcg, figures["ease"]["ndcg"][0])
        assert figures["popular"]["ndcg"][0] < figures["item-knn, decay"]["ndcg"][0] != figures["item-knn"]["ndcg"][0]
        over = figures["popular"]["over_known"][0]
        assert over == pytest.approx(figures["popular"]["recall"][0] - s3rec.KNOWN[file]["popular"][0])
    printed = capsys.readouterr().out
    assert "120 users, 40 items" in printed
    assert "sequential-rules is NOT within 0.001 of what is known" in printed
    assert printed.count("the goal") == 2


def test_sasrec_learns_and_is_blended(s3rec: ModuleType, folder: Path) -> None:
    pytest.importorskip("torch")
    (folder / "Toys_and_Games.txt").unlink()
    output = folder / "figures.json"
    asked = [str(folder), "--sources", "popular", "sequential-rules", "sasrec", "--epochs", "6", "--dim", "32"]
    s3rec.main([*asked, "--threads", "1", "--output", str(output)])
    figures = {each["source"]: each["ndcg"][0] for each in json.loads(output.read_text())["Beauty"]}
    assert set(figures) == {"popular", "sequential-rules", "sasrec", "sequential-rules + sasrec"}
    assert figures["sequential-rules + sasrec"] > 0.9 * max(figures.values())


def test_weights_are_chosen_by_the_validation(s3rec: ModuleType, folder: Path) -> None:
    from lifecycle.scoreboard.fold import leave_one_out
    from lifecycle.scoreboard.metrics import score
    from matching.interactions import read_sequences
    from matching.sources import Popular, fit_sequential_rules

    fold = leave_one_out(read_sequences(folder / "Beauty.txt"))
    assert fold.validation is not None
    sources = [fit_sequential_rules(fold.train), Popular.fit(fold.train, now_ms=fold.cut_ms)]
    chosen = s3rec.choose("both", sources, fold)
    reached = {
        tenth: score(s3rec.Blend("", sources, (tenth / 10, 1 - tenth / 10)), fold.validation, [10])
        .by_user["ndcg@10"]
        .mean()
        for tenth in range(11)
    }
    best = max(reached.values())
    assert reached[round(10 * chosen.weights[0])] == pytest.approx(best, rel=1e-3)


def test_a_folder_without_the_files_is_told(
    s3rec: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        s3rec.main([str(tmp_path)])
    assert "holds none of Beauty.txt, Sports_and_Outdoors.txt, Toys_and_Games.txt" in capsys.readouterr().err
