"""Counting, writing and refusing rejects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from index_builder.catalog.rejects import Reject, RejectCode, RejectsFile
from index_builder.catalog.seen_ids import SeenIds
from matching.errors import GateRefused, InvalidInput

BAD_ROW = Reject("shop.csv", "line 3", "a1", RejectCode.MISSING_ID, "'id' is empty")
BAD_PICTURE = Reject("shop.csv", "line 4", "a2", RejectCode.PICTURE_MISSING, "'x.jpg' does not exist")


def test_rejects_are_written_and_named_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    with RejectsFile(path) as rejects:
        rejects.add([BAD_ROW, BAD_PICTURE], n_rows=10, n_pictures=5)
        assert not path.exists()
        assert (tmp_path / "rejects.jsonl.partial").read_text().count("\n") == 2
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {
        "file": "shop.csv",
        "place": "line 3",
        "datapoint_id": "a1",
        "code": "MISSING_ID",
        "reason": "'id' is empty",
    }
    assert not (tmp_path / "rejects.jsonl.partial").exists()
    assert (rejects.n_rejected_rows, rejects.n_rejected_pictures) == (1, 1)


def test_rejects_survive_an_exception(tmp_path: Path) -> None:
    def fail() -> None:
        with RejectsFile(tmp_path / "r.jsonl") as rejects:
            rejects.add([BAD_ROW], n_rows=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert "line 3" in (tmp_path / "r.jsonl").read_text()


def test_limit_is_on_the_share_of_rows() -> None:
    rejects = RejectsFile(None, max_reject_frac=0.1)
    rejects.add([BAD_ROW], n_rows=10)
    rejects.check()
    rejects.add([BAD_ROW], n_rows=1)
    with pytest.raises(GateRefused, match=r"2 of 11 rows were rejected \(18.18%\); expected at most 10.00%") as refused:
        rejects.check()
    assert "2 x MISSING_ID, such as shop.csv line 3: 'id' is empty" in str(refused.value)


def test_limit_is_on_the_share_of_pictures_too() -> None:
    rejects = RejectsFile(None, max_reject_frac=0.1)
    rejects.add([BAD_PICTURE], n_rows=1000, n_pictures=5)
    with pytest.raises(GateRefused, match=r"1 of 5 pictures were rejected"):
        rejects.check()


def test_zero_limit_takes_a_clean_catalogue() -> None:
    rejects = RejectsFile(None, max_reject_frac=0)
    rejects.check()
    rejects.add([], n_rows=5)
    rejects.check()


@pytest.mark.parametrize("frac", [-0.1, 1.1, float("nan")])
def test_wrong_limit(frac: float) -> None:
    with pytest.raises(InvalidInput, match="max_reject_frac"):
        RejectsFile(None, max_reject_frac=frac)


def test_seen_ids_tell_the_first_place() -> None:
    with SeenIds() as seen:
        assert seen.add(["a", "b", "a"], ["1", "2", "3"]) == [None, None, "1"]
        assert seen.add(["c", "b"], ["4", "5"]) == [None, "2"]
        many = [f"id {n}" for n in range(3000)]
        assert seen.add(many, many) == [None] * 3000
        assert seen.add(many, ["later"] * 3000) == many
