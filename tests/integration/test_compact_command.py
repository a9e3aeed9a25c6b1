"""`likewise versions compact`, as it is typed."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.compact import compact
from index_builder.draft import Built
from lifecycle import compact_command
from lifecycle.cli import REFUSED, USAGE, run
from matching.datapoint import Datapoint
from matching.live import Delete, LiveIndex, WriteLog, pack_write
from matching.store import Store
from tests.versions import MakeVersion


def command(store: Store, log: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "lifecycle", "versions", "compact", "shop", "--store", str(store.path)]
    return subprocess.run(
        [*line, "--log", str(log), *arguments], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )


@pytest.fixture
def log(tmp_path: Path, make_version: MakeVersion, rng: np.random.Generator) -> Path:
    """The folder of logs of a store whose alias `shop` names a version of 30 datapoints, one of which was deleted since."""
    points = [Datapoint(f"item-{at:02}") for at in range(30)]
    make_version(points, rng.standard_normal((30, 8)).astype(np.float32), alias="shop")
    with WriteLog.open(tmp_path / "logs" / "shop") as written:
        written.append([pack_write(Delete("item-07"))])
    return tmp_path / "logs"


def test_it_publishes_beside_the_writer_and_leaves_the_alias(store: Store, log: Path) -> None:
    base = store.resolve("shop")
    with WriteLog.open(log / "shop") as written:
        written.append([pack_write(Delete("item-08"))])
        done = command(store, log, "--up-to", "2", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        told.pop("seconds")
        assert told == {
            "version": told["version"],
            "base": base,
            "log_sequence": 2,
            "n_writes": 2,
            "n_datapoints": 28,
            "is_promoted": False,
        }
        assert store.resolve("shop") == base
        live = LiveIndex(store.open(told["version"]), written)
        assert (live.snapshot.sequence, live.snapshot.n_datapoints) == (2, 28)
        live.close()


def test_it_promotes_where_it_is_told_to_and_then_has_nothing_left_to_do(store: Store, log: Path) -> None:
    base = store.resolve("shop")
    done = command(store, log, "--promote")
    assert done.returncode == 0, done.stderr
    assert "29 datapoints; 1 writes taken in\nshop names it now" in done.stdout
    assert (store.history("shop")[-1].old, store.history("shop")[-1].why) == (base, "1 writes taken in")
    again = command(store, log, "--promote")
    assert again.returncode == 2
    assert "has the writes up to 1 in it" in again.stderr
    assert len(store.versions()) == 2


def test_without_a_log_it_says_so(store: Store, log: Path) -> None:
    done = command(store, log / "elsewhere")
    assert done.returncode == 2
    assert "no write log in shop" in done.stderr
    assert not (log / "elsewhere").exists()


def test_one_at_a_time(store: Store, log: Path) -> None:
    with (store.path / "aliases" / "shop.jsonl").open("rb") as history:
        fcntl.flock(history, fcntl.LOCK_EX)
        done = command(store, log)
        assert done.returncode == USAGE
        assert "shop is being compacted already; wait for that to end" in done.stderr
    assert command(store, log).returncode == 0


def test_an_alias_that_moved_meanwhile_stays_where_it_is(
    store: Store,
    log: Path,
    make_version: MakeVersion,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    newer = make_version([Datapoint("x")], rng.standard_normal((1, 8)).astype(np.float32)).version_id

    def slowly(*given: Any, **named: Any) -> Built:
        built = compact(*given, **named)
        store.set_alias("shop", newer, why="by hand, meanwhile")
        return built

    monkeypatch.setattr(compact_command, "compact", slowly)
    place = ["--store", str(store.path), "--log", str(log), "--nice", "0"]
    assert run(["versions", "compact", "shop", *place, "--promote"]) == REFUSED
    assert "shop was moved meanwhile" in capsys.readouterr().err
    assert store.resolve("shop") == newer
    assert len(store.versions()) == 3
