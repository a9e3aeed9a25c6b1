"""What of a write log may go: only what serves, and what a rollback leads to, both have in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from index_builder.compact import compact
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from lifecycle.cli import USAGE, run
from matching.datapoint import Datapoint
from matching.errors import InvalidInput, NotFound
from matching.live import Delete, LiveIndex, WriteLog, covered_sequence, kept_versions, pack_write, truncate_log
from matching.store import Store
from tests.versions import MakeVersion


@pytest.fixture
def versions(store: Store, make_version: MakeVersion, tmp_path: Path) -> list[str]:
    """Four versions in a row that the alias `shop` named, with the writes up to 0, 10, 20 and 30 in them."""
    vectors = np.random.default_rng(3).standard_normal((60, 8)).astype(np.float32)
    found = [make_version([Datapoint(f"{at:02}") for at in range(60)], vectors, alias="shop").version_id]
    with WriteLog.open(tmp_path / "logs" / "shop", segment_bytes=200) as log:
        for at in range(30):
            log.append([pack_write(Delete(f"{at:02}"))])
            if at % 10 == 9:
                built = compact(store, found[-1], log, settings=BuildSettings(), progress=Silent())
                store.set_alias("shop", built.version_id, why="compacted")
                found.append(built.version_id)
        log.append([pack_write(Delete("40"))])
    return found


def test_what_a_rollback_leads_to_can_be_served_after_it(store: Store, versions: list[str], tmp_path: Path) -> None:
    assert kept_versions(store, "shop") == (versions[3], versions[2])
    assert [covered_sequence(store, ["shop"], n) for n in (2, 3, 4, 5)] == [20, 10, 0, 0]
    with WriteLog.open(tmp_path / "logs" / "shop", segment_bytes=200) as log:
        assert truncate_log(store, ["shop"], log, 5) == 1
        first = truncate_log(store, ["shop"], log)
        assert 15 < first <= 21, "whole files go"
        assert log.first_sequence == first
        assert truncate_log(store, ["shop"], log) == first
        for version in versions[2:]:
            live = LiveIndex(store.open(version), log)
            assert live.snapshot.n_datapoints == 29
            live.close()
        for version in versions[:2]:
            with pytest.raises(
                NotFound, match="what lies between was truncated, since newer versions have it; serve one"
            ):
                LiveIndex(store.open(version), log)


def test_a_move_back_is_reckoned_with(store: Store, versions: list[str]) -> None:
    store.set_alias("shop", versions[2], why="rolled back")
    assert kept_versions(store, "shop") == (versions[2], versions[1])
    store.set_alias("shop", versions[1], why="rolled back further")
    assert kept_versions(store, "shop") == (versions[1], versions[0])
    assert covered_sequence(store, ["shop"]) == 0
    store.set_alias("shop", versions[3], why="forward again")
    assert kept_versions(store, "shop") == (versions[3], versions[1])


def test_versions_that_are_gone_and_other_aliases_count(store: Store, versions: list[str]) -> None:
    store.set_alias("other", versions[1], why="slow")
    assert covered_sequence(store, ["shop", "other"]) == 0, "it named one version only"
    store.set_alias("other", versions[2], why="slow")
    assert covered_sequence(store, ["shop", "other"]) == 10
    shutil.rmtree(store.directory(versions[2]))
    assert kept_versions(store, "shop") == (versions[3], versions[1])
    with pytest.raises(InvalidInput, match="1 versions were to be kept; expected 2 or more"):
        covered_sequence(store, ["shop"], 1)
    with pytest.raises(InvalidInput, match="no alias was named"):
        covered_sequence(store, [])
    with pytest.raises(NotFound, match="no alias 'nobody'"):
        covered_sequence(store, ["nobody"])


def test_the_command_tells_what_went(
    store: Store, versions: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["versions", "truncate-log", "shop", "--store", str(store.path), "--log", str(tmp_path / "logs")]
    assert run([*command, "--keep", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "first_sequence": 1,
        "last_sequence": 31,
        "n_dropped": 0,
        "n_bytes": 0,
    }
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_dropped"] == told["first_sequence"] - 1 > 14
    assert told["n_bytes"] > 500
    assert run([*command, "--keep", "1"]) == USAGE
    with WriteLog.open(tmp_path / "logs" / "shop"):
        assert run(command) == 3
    assert "writes to shop; close it there" in capsys.readouterr().err
