"""Compaction in processes that are killed or run out of disk, at every step."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from matching.datapoint import Datapoint, SparseRows
from matching.live import Delete, LiveIndex, Upsert, WriteLog, pack_write
from matching.store import Store
from matching.version import IndexVersion
from tests.disks import empty, fill, small_disk
from tests.versions import build_version

ROOT = Path(__file__).resolve().parents[2]
N, DIM = 400, 16

# compacts, promotes and truncates; the n-th stage, or a file larger than so many bytes, ends it
PROCESS = """
import os, resource, signal, sys
from pathlib import Path
from index_builder.compact import compact
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.live import WriteLog
from matching.store import Store

class Killer(Silent):
    left = int(sys.argv[3])
    def begin(self, stage, total):
        self.step()
    def step(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

store, killer = Store(Path(sys.argv[1])), Killer()
if int(sys.argv[4]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    with WriteLog.open(sys.argv[2], read_only=True) as log:
        built = compact(store, store.resolve("shop"), log, settings=BuildSettings(threads=1), progress=killer)
except OSError as error:
    print(error)
    sys.exit(3)
killer.step()
store.set_alias("shop", built.version_id, why="compacted")
killer.step()
"""


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Store, Path]:
    """A store with a graph and a sparse side, and a log of changes."""
    rng = np.random.default_rng(2)
    store = Store(tmp_path / "store", create=True)
    sparse = SparseRows(np.arange(N + 1), np.arange(N) % 30, np.ones(N, np.float32))
    points = [Datapoint(f"item-{at:03}", metadata={"title": "x" * 50}) for at in range(N)]
    build_version(
        store,
        points,
        rng.standard_normal((N, DIM)).astype(np.float32),
        "cosine",
        sparse=sparse,
        alias="shop",
        build={"plan": "graph", "recall_target": 0.5, "threads": 1},
    )
    with WriteLog.open(tmp_path / "log") as log:
        for at in range(0, 120, 3):
            vector = rng.standard_normal((1, DIM)).astype(np.float32)
            log.append(
                [pack_write(Delete(f"item-{at:03}")), pack_write(Upsert(Datapoint(f"new-{at}"), {"vectors": vector}))]
            )
    return store, tmp_path / "log"


def state(store: Store, log_folder: Path) -> dict[str, bytes]:
    """Return the vectors that a service which starts now would have, by id."""
    with WriteLog.open(log_folder) as log:
        live = LiveIndex(store.open("shop"), log)
        live.close()
    version: IndexVersion = live.snapshot
    ids = [f"item-{at:03}" for at in range(N)] + [f"new-{at}" for at in range(N)]
    found = {one: version.vectors([one], "vectors")[0].tobytes() for one in ids if version.columns.find(one) >= 0}
    assert len(found) == version.n_datapoints
    return found


def run(store: Store, log: Path, *, kill_at: int = 0, file_bytes: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROCESS, store.path, log, str(kill_at), str(file_bytes)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def check_old_or_new(store: Store, log: Path, expected: dict[str, bytes], before: tuple[str, ...]) -> None:
    """Nothing half is visible, whatever is there can be opened, and a service answers as before."""
    assert set(before) <= set(store.versions())
    for version_id in store.versions():
        assert store.verify(version_id) > 0
    assert state(store, log) == expected


def test_a_kill_at_any_stage_leaves_the_old_or_the_new_version(shop: tuple[Store, Path]) -> None:
    store, log = shop
    expected, base = state(store, log), store.resolve("shop")
    for kill_at in range(1, 40):
        before = store.versions()
        ended = run(store, log, kill_at=kill_at)
        check_old_or_new(store, log, expected, before)
        assert ended.returncode == -9, ended.stderr
        if store.resolve("shop") != base:
            break
    assert kill_at > 8
    assert store.manifest("shop").log_sequence == 80
    store.remove_work(store.new_work("next"))
    assert list((store.path / "work").iterdir()) == [], "what the killed ones left is swept"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace, which kills at a system call for us")
@pytest.mark.parametrize("call", ["fsync", "rename", "unlink", "mkdir", "ftruncate", "link", "fallocate"])
def test_a_kill_at_any_system_call(shop: tuple[Store, Path], tmp_path: Path, call: str) -> None:
    store, log = shop
    expected, n_hit = state(store, log), 0
    for n in range(1, 60):
        before = store.versions()
        trace = tmp_path / "trace"
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}"]
        command = ["strace", "-f", "-o", str(trace), *inject, sys.executable, "-c", PROCESS]
        subprocess.run([*command, store.path, log, "0", "0"], cwd=ROOT, capture_output=True)
        check_old_or_new(store, log, expected, before)
        if store.manifest("shop").parent is not None:
            break
        n_hit += 1
    assert n_hit > 0


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", [3.0, pytest.param(1.2, marks=pytest.mark.slow)])
def test_a_small_disk_leaves_nothing_half_and_space_mends_it(
    shop: tuple[Store, Path], tmp_path: Path, step: float
) -> None:
    """So much of a disk is free, more each time, until the next version has room."""
    kept, log = shop
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        store = Store(Path(shutil.copytree(kept.path, disk / "store")))
        expected, base = state(store, log), store.resolve("shop")
        free_bytes, n_refused = 4_096.0, 0
        while store.resolve("shop") == base:
            fill(disk, but=int(free_bytes))
            ended = run(store, log)
            assert ended.returncode in (0, 1, 3), ended.stderr
            check_old_or_new(store, log, expected, (base,))
            if ended.returncode:
                n_refused += 1
                assert "No space left on device" in ended.stdout + ended.stderr
                assert len(store.versions()) <= 2, "what was published is whole"
            free_bytes *= step
        assert n_refused >= 3
        empty(disk)
        store.remove_work(store.new_work("next"))
        assert list((store.path / "work").iterdir()) == []


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", [1.35, pytest.param(1.03, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_nothing_half_and_space_mends_it(shop: tuple[Store, Path], step: float) -> None:
    """No file may grow beyond a limit, which rises until the largest fits."""
    store, log = shop
    expected, base = state(store, log), store.resolve("shop")
    file_bytes, n_refused = 2_000, 0
    while store.resolve("shop") == base:
        ended = run(store, log, file_bytes=int(file_bytes))
        assert ended.returncode in (0, 3), ended.stderr
        check_old_or_new(store, log, expected, (base,))
        if ended.returncode == 3:
            n_refused += 1
            assert "File too large" in ended.stdout
            assert store.versions() == (base,)
            assert list((store.path / "work").iterdir()) == []
        file_bytes *= step
    assert n_refused >= 5
    assert len(store.versions()) == 2
