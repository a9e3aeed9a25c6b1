"""Snapshots taken under writes, compactions and switches; restored, damaged, interrupted, on a full disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index_builder.compact import compact
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from lifecycle.cli import FAULT, USAGE, run
from lifecycle.snapshot import Snapshot, restore_snapshot, take_snapshot
from matching.datapoint import Datapoint
from matching.errors import AlreadyExists, CorruptArtifact, InvalidInput, NotFound
from matching.live import Change, Delete, LiveIndex, Upsert, Write, WriteLog, truncate_log
from matching.store import Store
from matching.version import IndexVersion
from tests.versions import build_version

ROOT = Path(__file__).resolve().parents[2]
N, DIM = 200, 8
Model = dict[str, tuple[str | None, bytes]]


class Shop:
    """A store with an alias `shop`, its log, and every write that was taken."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(1)
        self.store = Store(folder / "store", create=True)
        self.logs = folder / "logs"
        vectors = rng.standard_normal((N, DIM)).astype(np.float32)
        points = [Datapoint(f"item-{at:03}") for at in range(N)]
        build_version(self.store, points, vectors, "ip", alias="shop")
        self.first: Model = {p.datapoint_id: (None, v.tobytes()) for p, v in zip(points, vectors, strict=True)}
        self.log = WriteLog.open(self.logs / "shop", segment_bytes=4_000)
        self.live = LiveIndex(self.store.open("shop"), self.log)
        self.written: list[Write] = []
        self.rng = rng

    def write(self, n: int) -> None:
        for _ in range(n):
            one = Datapoint(f"item-{self.rng.integers(0, N + 50):03}", crowding_tag=f"t{len(self.written)}")
            kind = self.rng.integers(0, 3)
            write: Write = Delete(one.datapoint_id)
            if kind == 0 and self.live.snapshot.columns.find(one.datapoint_id) >= 0:
                write = Change(one, frozenset({"crowding_tag"}))
            elif kind == 1:
                write = Upsert(one, {"vectors": self.rng.standard_normal((1, DIM)).astype(np.float32)})
            try:
                token = self.live.write([write]).last_sequence
            except NotFound:
                continue
            self.written.append(write)
            assert token == len(self.written)
            self.live.wait(token, deadline=time.monotonic() + 30)

    def compact(self) -> None:
        built = compact(self.store, "shop", self.log, settings=BuildSettings(threads=1), progress=Silent())
        self.store.set_alias("shop", built.version_id, why="compacted")
        truncate_log(self.store, ["shop"], self.log)

    def model(self, sequence: int) -> Model:
        held = dict(self.first)
        for write in self.written[:sequence]:
            if isinstance(write, Delete):
                held.pop(write.datapoint_id, None)
            elif isinstance(write, Upsert):
                point = write.datapoint
                held[point.datapoint_id] = (point.crowding_tag, write.vectors["vectors"][0].tobytes())
            elif write.datapoint.datapoint_id in held:
                point = write.datapoint
                held[point.datapoint_id] = (point.crowding_tag, held[point.datapoint_id][1])
        return held

    def snapshot(self, out: Path) -> Snapshot:
        return take_snapshot(self.store, self.logs, out, n_kept=2, progress=Silent())


def served(version: IndexVersion) -> Model:
    ids = [f"item-{at:03}" for at in range(N + 50)]
    known = [one for one in ids if version.columns.find(one) >= 0]
    assert len(known) == version.n_datapoints
    points, vectors = version.datapoints(known), version.vectors(known, "vectors")
    return {p.datapoint_id: (p.crowding_tag, v.tobytes()) for p, v in zip(points, vectors, strict=True)}


def served_from(store: Path, logs: Path) -> Model:
    """Start on what was restored, write to it, and return what it held before."""
    with WriteLog.open(logs / "shop") as log:
        live = LiveIndex(Store(store).open("shop"), log)
        found = served(live.snapshot)
        last = live.write([Delete("nobody")]).last_sequence
        assert live.wait(last, deadline=time.monotonic() + 30).sequence == log.last_sequence
        live.close()
    return found


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    one = Shop(tmp_path)
    yield one
    one.live.close()
    one.log.close()


def restored(source: Path, target: Path) -> tuple[Path, Path]:
    restore_snapshot(source, target / "store", target / "logs", progress=Silent())
    return target / "store", target / "logs"


def test_snapshots_under_writes_and_switches_equal_the_model_at_their_sequence(shop: Shop, tmp_path: Path) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            shop.write(60)
            shop.compact()

    worker = threading.Thread(target=work)
    worker.start()
    taken = []
    try:
        while len(taken) < 5 or len(shop.store.versions()) < 5:
            taken.append(shop.snapshot(tmp_path / f"out-{len(taken)}"))
    finally:
        stop.set()
        worker.join()
    assert len({one.logs["shop"][1] for one in taken}) >= 4
    for at, one in enumerate(taken):
        store, logs = restored(tmp_path / f"out-{at}", tmp_path / f"restored-{at}")
        first, last = one.logs["shop"]
        assert served_from(store, logs) == shop.model(last)
        for version in one.versions:
            assert Store(store).manifest(version).log_sequence >= first - 1, "a rollback can be served too"
    assert not list(tmp_path.glob(".*"))


def test_request_ids_are_known_after_a_restoration(shop: Shop, tmp_path: Path) -> None:
    shop.live.write([Delete("item-001")], request_id="order-1")
    shop.snapshot(tmp_path / "out")
    _, logs = restored(tmp_path / "out", tmp_path / "new")
    with WriteLog.open(logs / "shop") as log:
        assert log.append([b"again"], request_id="order-1").is_repeat
        assert log.last_sequence == 1


def test_a_store_without_logs_and_what_lies_beside_them(shop: Shop, tmp_path: Path) -> None:
    take_snapshot(shop.store, None, tmp_path / "bare", n_kept=2, progress=Silent())
    restore_snapshot(tmp_path / "bare", tmp_path / "new", None, progress=Silent())
    assert served(Store(tmp_path / "new").open("shop")) == shop.first
    (shop.logs / "shop.form.json").write_text("{}")
    shop.snapshot(tmp_path / "out")
    _, logs = restored(tmp_path / "out", tmp_path / "other")
    assert (logs / "shop.form.json").read_text() == "{}"
    with pytest.raises(InvalidInput, match=r"holds the logs \['shop'\]; say where to with --log"):
        restore_snapshot(tmp_path / "out", tmp_path / "third", None, progress=Silent())
    with pytest.raises(InvalidInput, match="there is no folder"):
        take_snapshot(shop.store, tmp_path / "nowhere", tmp_path / "x", n_kept=2, progress=Silent())


def test_nothing_is_overwritten(shop: Shop, tmp_path: Path) -> None:
    shop.snapshot(tmp_path / "out")
    with pytest.raises(AlreadyExists, match="out is not empty"):
        shop.snapshot(tmp_path / "out")
    (tmp_path / "empty" / "store").mkdir(parents=True)
    restored(tmp_path / "out", tmp_path / "empty")
    with pytest.raises(AlreadyExists, match="logs is not empty"):
        restore_snapshot(tmp_path / "out", tmp_path / "b", tmp_path / "empty" / "logs", progress=Silent())
    assert not (tmp_path / "b").exists()
    with pytest.raises(NotFound, match="a folder that `likewise snapshot` finished"):
        restored(tmp_path, tmp_path / "c")


def test_any_damage_is_found_and_nothing_is_restored(shop: Shop, tmp_path: Path, rng: np.random.Generator) -> None:
    shop.write(40)
    out = tmp_path / "out"
    shop.snapshot(out)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    assert len(files) >= 6
    for file in files:
        whole = file.read_bytes()
        for at in [0, len(whole) - 1, *rng.integers(0, len(whole), 6).tolist()]:
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
            with pytest.raises(CorruptArtifact, match=r"snapshot|restored"):
                restored(out, tmp_path / "new")
        file.write_bytes(whole[:-1])
        with pytest.raises(CorruptArtifact):
            restored(out, tmp_path / "new")
        file.unlink()
        with pytest.raises((CorruptArtifact, NotFound)):
            restored(out, tmp_path / "new")
        file.write_bytes(whole)
    (out / "store" / "stray").write_text("x")
    with pytest.raises(CorruptArtifact, match="store/stray is not part of the snapshot"):
        restored(out, tmp_path / "new")
    (out / "store" / "stray").unlink()
    assert [path.name for path in (tmp_path / "new").iterdir()] == []
    restored(out, tmp_path / "new")


def test_a_newer_format_is_refused(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shop.snapshot(out)
    told = json.loads(json.loads((out / "snapshot.json").read_text())["snapshot"]) | {"format": 2, "more": 1}
    content = json.dumps(told)
    outer = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "snapshot": content}
    (out / "snapshot.json").write_text(json.dumps(outer))
    with pytest.raises(CorruptArtifact, match="snapshot format 2 is not 1, the one this program reads"):
        restored(out, tmp_path / "new")


def test_a_damaged_version_is_not_taken(shop: Shop, tmp_path: Path) -> None:
    file = shop.store.directory("shop") / "columns"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArtifact, match="columns is not what was sealed"):
        shop.snapshot(tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


PROCESS = """
import os, resource, signal, sys
from pathlib import Path
from index_builder.progress import Silent
from lifecycle.snapshot import restore_snapshot, take_snapshot
from matching.store import Store

class Killer(Silent):
    left = int(sys.argv[2])
    def begin(self, stage, total):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
if int(sys.argv[3]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    if sys.argv[4] == "take":
        take_snapshot(Store(folder / "store"), folder / "logs", folder / "out", n_kept=2, progress=Killer())
    else:
        restore_snapshot(folder / "out", folder / "new" / "store", folder / "new" / "logs", progress=Killer())
except OSError as error:
    print(error)
    sys.exit(3)
"""


def in_process(folder: Path, what: str, *, kill_at: int = 0, file_bytes: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROCESS, folder, str(kill_at), str(file_bytes), what]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def there(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_kill_on_the_way_leaves_nothing_that_could_be_taken_for_whole(shop: Shop, tmp_path: Path) -> None:
    shop.write(30)
    for what, target in (("take", tmp_path / "out"), ("restore", tmp_path / "new" / "store")):
        for kill_at in range(1, 20):
            ended = in_process(tmp_path, what, kill_at=kill_at)
            assert ended.returncode in (0, -9), ended.stderr
            assert target.exists() == (ended.returncode == 0)
            if ended.returncode == 0:
                break
        assert kill_at > 2
    assert there(tmp_path) == ["logs", "new", "out", "store"], "what the killed ones left is swept"
    assert there(tmp_path / "new") == ["logs", "store"]
    assert served_from(tmp_path / "new" / "store", tmp_path / "new" / "logs") == shop.model(30)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", [2.5, pytest.param(1.05, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_nothing_half(shop: Shop, tmp_path: Path, step: float) -> None:
    shop.write(30)
    for what, target in (("take", tmp_path / "out"), ("restore", tmp_path / "new" / "store")):
        file_bytes, n_refused = 100.0, 0
        while not target.exists():
            ended = in_process(tmp_path, what, file_bytes=int(file_bytes))
            assert ended.returncode in (0, 3), ended.stderr
            assert target.exists() == (ended.returncode == 0)
            if ended.returncode == 3:
                n_refused += 1
                assert "File too large" in ended.stdout
                assert there(tmp_path) in (["logs", "store"], ["logs", "new", "out", "store"])
                assert there(tmp_path / "new") == []
            file_bytes *= step
        assert n_refused >= 3
    assert served_from(tmp_path / "new" / "store", tmp_path / "new" / "logs") == shop.model(30)


def test_the_commands_take_and_restore(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.write(30)
    shop.compact()
    shop.write(5)
    place = ["--store", str(tmp_path / "store"), "--log", str(tmp_path / "logs")]
    assert run(["snapshot", *place, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["aliases"] == {"shop": shop.store.resolve("shop")}
    assert told["logs"] == {"shop": [1, len(shop.written)]}
    assert len(told["versions"]) == 2
    place = ["--store", str(tmp_path / "new"), "--log", str(tmp_path / "new-logs")]
    assert run(["restore", "--from", str(tmp_path / "out"), *place]) == 0
    assert f"log shop holds the writes 1 to {len(shop.written)}" in capsys.readouterr().out
    assert served_from(tmp_path / "new", tmp_path / "new-logs") == shop.model(len(shop.written))
    assert run(["restore", "--from", str(tmp_path / "out"), *place]) == USAGE
    shutil.copytree(tmp_path / "out", tmp_path / "damaged")
    (tmp_path / "damaged" / "store" / "aliases" / "shop.jsonl").write_text("")
    place = ["--store", str(tmp_path / "x"), "--log", str(tmp_path / "y")]
    assert run(["restore", "--from", str(tmp_path / "damaged"), *place]) == FAULT
    assert "nothing was restored" in capsys.readouterr().err
