"""The write log against a list: any order of calls, every damaged byte, every cut, power lost at every step."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from matching.errors import CorruptArtifact, NotFound, StorageFull, Unavailable
from matching.live import Appended, WriteLog, disk
from matching.live.segment import HEADER_BYTES
from matching.live.write_log import _Waiting

SECTOR_BYTES = 512
PAYLOADS = st.lists(st.binary(max_size=40), min_size=1, max_size=4)
REQUEST_IDS = st.none() | st.sampled_from([f"r{i}" for i in range(8)])


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel crashes here: what waits for the disk need not."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)


def memory_folder() -> Path:
    """Return a new folder, in memory where there is such a place."""
    return Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    folder = memory_folder()
    yield folder
    shutil.rmtree(folder)


def contents(log: WriteLog) -> list[bytes]:
    records = list(log.read(log.first_sequence))
    assert [record.sequence for record in records] == list(range(log.first_sequence, log.last_sequence + 1))
    return [record.payload for record in records]


def reopened(folder: Path, n_request_ids: int = 4) -> WriteLog:
    return WriteLog.open(folder, segment_bytes=300, n_request_ids=n_request_ids)


class LogMachine(RuleBasedStateMachine):
    """A log of small files beside a list of payloads and a list of answered requests."""

    def __init__(self) -> None:
        super().__init__()
        self.base = memory_folder()
        self.n_folders = 0

    @initialize(first=st.sampled_from([1, 2, 10**12]))
    def make(self, first: int) -> None:
        self.folder = self.base / "0"
        self.log = WriteLog.open(self.folder, segment_bytes=300, n_request_ids=4, first_sequence=first)
        self.first, self.oldest = first, first
        self.written: list[bytes] = []
        self.answered: list[tuple[str, int, int]] = []

    @rule(payloads=PAYLOADS, request_id=REQUEST_IDS)
    def append(self, payloads: list[bytes], request_id: str | None) -> None:
        answer = self.log.append(payloads, request_id=request_id)
        known = [found for found in self.answered[-4:] if found[0] == request_id]
        if known:
            assert answer == Appended(*known[-1][1:], is_repeat=True)
            return
        first = self.first + len(self.written)
        self.written += payloads
        assert answer == Appended(first, first + len(payloads) - 1)
        if request_id is not None:
            self.answered.append((request_id, answer.first_sequence, answer.last_sequence))

    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        covered = self.first - 1 + int(share * len(self.written))
        oldest = self.log.truncate(covered)
        assert self.oldest <= oldest <= max(covered + 1, self.oldest)
        assert self.log.first_sequence == oldest
        self.oldest = oldest

    @rule(share=st.floats(0, 1))
    def read_on(self, share: float) -> None:
        first = self.oldest + int(share * (self.log.last_sequence + 1 - self.oldest))
        assert [record.payload for record in self.log.read(first)] == self.written[first - self.first :]
        for outside in (self.oldest - 1, self.log.last_sequence + 2):
            with pytest.raises(NotFound):
                self.log.read(outside)

    @rule()
    def close_and_open(self) -> None:
        self.log.close()
        self.log = reopened(self.folder)

    @rule(tail=st.binary(max_size=60))
    def be_killed(self, tail: bytes) -> None:
        """Go on with the files as a kill leaves them, half a record behind the last one."""
        self.n_folders += 1
        copy = self.base / str(self.n_folders)
        shutil.copytree(self.folder, copy)
        with max(copy.glob("*.log")).open("r+b") as file:
            file.seek(self.log._segments[-1].end)
            file.write(tail)
        self.log.close()
        self.folder, self.log = copy, reopened(copy)
        assert self.log.cut_bytes == len(tail.rstrip(b"\0"))

    @rule()
    def look_beside(self) -> None:
        with WriteLog.open(self.folder, read_only=True) as reading:
            assert contents(reading) == self.written[self.oldest - self.first :]

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def is_the_list(self) -> None:
        assert self.log.last_sequence == self.first + len(self.written) - 1
        assert contents(self.log) == self.written[self.oldest - self.first :]

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
        shutil.rmtree(self.base)


def run_machine(n_examples: int, n_steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        LogMachine,
        settings=settings(
            max_examples=n_examples,
            stateful_step_count=n_steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.mark.parametrize(("n_examples", "n_steps"), [(25, 20), pytest.param(2000, 60, marks=pytest.mark.slow)])
def test_it_is_a_list(n_examples: int, n_steps: int) -> None:
    run_machine(n_examples, n_steps)


# damage


def small_log(folder: Path, *, segment_bytes: int, is_closed: bool) -> tuple[Path, list[bytes], list[int]]:
    """Return a log, its payloads, and the first offset of each in the last file."""
    rng = Random(3)
    written, offsets = [], []
    log = WriteLog.open(folder / "log", segment_bytes=segment_bytes)
    for i in range(6):
        payload = rng.randbytes(rng.randrange(20))
        before = log._segments[-1]
        at = before.end
        log.append([payload], request_id=f"request {i}" if i % 2 else None)
        offsets.append(at if log._segments[-1] is before else HEADER_BYTES)
        written.append(payload)
    copy = folder / "killed"
    shutil.copytree(folder / "log", copy)
    last = max(copy.glob("*.log"))
    os.truncate(last, log._segments[-1].end)  # reserved zeros are tried apart
    log.close()
    return (folder / "log" if is_closed else copy), written, offsets


def flips(folder: Path) -> Iterator[tuple[Path, int]]:
    """Damage each byte of each file, one at a time, by one bit or by all; the file is as before afterwards."""
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes() if path.name != "lock" else b""
        for at in range(len(whole)):
            flip = 0xFF if at % 9 == 8 else 1 << at % 9
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            yield path, at
        if whole:
            path.write_bytes(whole)


@pytest.mark.parametrize("segment_bytes", [150, 2000])
def test_no_byte_of_a_closed_log_may_change(tmp_path: Path, segment_bytes: int) -> None:
    folder, _, _ = small_log(tmp_path, segment_bytes=segment_bytes, is_closed=True)
    n = 0
    for path, _at in flips(folder):
        with pytest.raises(CorruptArtifact, match=path.name):
            WriteLog.open(folder, read_only=True)
        n += 1
    assert n > 400


@pytest.mark.parametrize("segment_bytes", [150, 2000])
def test_no_byte_before_the_last_append_of_a_killed_log_may_change(tmp_path: Path, segment_bytes: int) -> None:
    folder, written, offsets = small_log(tmp_path, segment_bytes=segment_bytes, is_closed=False)
    last = max(folder.glob("*.log"))
    n_cut = 0
    for path, at in flips(folder):
        if path == last and at >= offsets[-1]:
            with WriteLog.open(folder, read_only=True) as log:
                assert contents(log) == written[:-1]
                assert log.cut_bytes > 0
            n_cut += 1
        else:
            with pytest.raises(CorruptArtifact, match=path.name):
                WriteLog.open(folder, read_only=True)
    assert n_cut >= 40


def test_a_log_may_be_cut_anywhere_and_keeps_what_is_whole(tmp_path: Path) -> None:
    folder, written, offsets = small_log(tmp_path, segment_bytes=2000, is_closed=False)
    (path,) = folder.glob("*.log")
    whole = path.read_bytes()
    rng = Random(4)
    ends = [*offsets[1:], len(whole)]
    for size in range(HEADER_BYTES, len(whole) + 1):
        for tail in (b"", (b"\0", bytes(4096), rng.randbytes(rng.randrange(1, 4096)) + b"!")[size % 3]):
            left = whole[:size] + tail
            n_whole = sum(left[:end] == whole[:end] for end in ends)  # zeros may be just what was cut off
            shutil.rmtree(tmp_path / "cut", ignore_errors=True)
            shutil.copytree(folder, tmp_path / "cut")
            (tmp_path / "cut" / path.name).write_bytes(left)
            with WriteLog.open(tmp_path / "cut", segment_bytes=1000) as log:
                assert contents(log) == written[:n_whole]
                assert log.cut_bytes == len(left[[HEADER_BYTES, *ends][n_whole] :].rstrip(b"\0"))
                log.append([b"next"])
            with WriteLog.open(tmp_path / "cut", segment_bytes=1000) as log:
                assert contents(log) == [*written[:n_whole], b"next"]
                assert log.cut_bytes == 0
    for size in range(HEADER_BYTES):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptArtifact, match=f"{size} bytes are less than a header"):
            WriteLog.open(folder)


def test_a_zero_suffix_of_any_length_is_no_damage(tmp_path: Path) -> None:
    folder, written, _ = small_log(tmp_path, segment_bytes=2000, is_closed=False)
    (path,) = folder.glob("*.log")
    with path.open("ab") as file:
        file.write(bytes(311_299))
    with WriteLog.open(folder) as log:
        assert (contents(log), log.cut_bytes) == (written, 0)


def test_bytes_that_carry_a_log_are_not_taken_for_one(tmp_path: Path) -> None:
    """A record may hold a copy of the very log, torn behind it."""
    log = WriteLog.open(tmp_path / "log")
    for i in range(5):
        log.append([b"%d" % i])
    (path,) = (tmp_path / "log").glob("*.log")
    end = log._segments[-1].end
    log.append([path.read_bytes()[:end]])
    shutil.copytree(tmp_path / "log", tmp_path / "torn")
    os.truncate(tmp_path / "torn" / path.name, log._segments[-1].end - 1)
    log.close()
    with WriteLog.open(tmp_path / "torn") as torn:
        assert contents(torn) == [b"%d" % i for i in range(5)]


# power cuts


TRUE_DISK = {
    name: getattr(disk, name)
    for name in ("create", "write", "reserve", "sync", "cut", "replace", "remove", "sync_folder")
}


@dataclass
class File:
    """What a disk holds of a file, and what was written since the last sync."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # at, data; None cuts the file there

    def apply(self, at: int, data: bytes | None, chosen: Random | None, into: bytearray) -> None:
        if data is None:
            if chosen is None or chosen.random() < 0.5:
                del into[at:]
            return
        while data:  # by sectors, each there or not; one may be torn inside
            n = SECTOR_BYTES - at % SECTOR_BYTES
            piece, data = data[:n], data[n:]
            luck = 1.0 if chosen is None else chosen.random()
            if luck >= 0.5:
                kept = piece if luck >= 0.6 else piece[: chosen.randrange(len(piece) + 1)] if chosen else piece
                into.extend(bytes(max(0, at + len(kept) - len(into))))
                into[at : at + len(kept)] = kept
            at += len(piece)

    def sync(self) -> None:
        for at, data in self.pending:
            self.apply(at, data, None, self.synced)
        self.pending.clear()

    def lose(self, chosen: Random) -> None:
        """A sync failed: some of what was pending is on disk, and no later sync will write the rest."""
        for at, data in self.pending:
            self.apply(at, data, chosen, self.synced)
        self.pending.clear()

    def after_power_cut(self, chosen: Random) -> bytes:
        image = bytearray(self.synced)
        for at, data in self.pending:
            self.apply(at, data, chosen, image)
        return bytes(image)


class PowerSupply:
    """Watches a folder through every call of `disk`, and can tell what a power cut would leave of it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, chosen: Random) -> None:
        self.folder, self.chosen = folder, chosen
        self.files = {path.name: File(bytearray(path.read_bytes())) for path in folder.iterdir()}
        self.names = dict(self.files)
        self.changes: list[tuple[str, File | None]] = []
        self.fails_in = -1  # syncs from now
        self.full_in = -1  # writes from now
        self.on_step: Callable[[], None] = lambda: None
        for name in TRUE_DISK:
            patch.setattr(disk, name, getattr(self, name))

    def file(self, handle: int) -> File:
        return self.files[Path(f"/proc/self/fd/{handle}").readlink().name]

    def create(self, path: Path) -> int:
        handle: int = TRUE_DISK["create"](path)
        self.files[path.name] = File()
        self.changes.append((path.name, self.files[path.name]))
        self.on_step()
        return handle

    def write(self, handle: int, data: bytes, at: int) -> None:
        self.full_in -= 1
        is_full = self.full_in == 0
        if is_full:
            data = data[: self.chosen.randrange(len(data))]
        TRUE_DISK["write"](handle, data, at)
        self.file(handle).pending.append((at, data))
        self.on_step()
        if is_full:
            raise OSError(28, "No space left on device")

    def reserve(self, handle: int, start: int, n_bytes: int) -> None:
        n_bytes = min(n_bytes, 2000)
        TRUE_DISK["reserve"](handle, start, n_bytes)
        self.file(handle).pending.append((start, bytes(n_bytes)))
        self.on_step()

    def sync(self, handle: int) -> None:
        self.fails_in -= 1
        if self.fails_in == 0:
            self.file(handle).lose(self.chosen)
            raise OSError(5, "Input/output error")
        self.file(handle).sync()
        self.on_step()

    def cut(self, handle: int, size: int) -> None:
        TRUE_DISK["cut"](handle, size)
        self.file(handle).pending.append((size, None))
        self.on_step()
        self.sync(handle)

    def replace(self, source: Path, target: Path) -> None:
        TRUE_DISK["replace"](source, target)
        self.files[target.name] = self.files.pop(source.name)
        self.changes += [(target.name, self.files[target.name]), (source.name, None)]
        self.on_step()

    def remove(self, path: Path) -> None:
        TRUE_DISK["remove"](path)
        self.files.pop(path.name, None)
        self.changes.append((path.name, None))
        self.on_step()

    def sync_folder(self, path: Path) -> None:
        if path == self.folder:
            self.rename(self.names, None)
            self.changes.clear()
            self.on_step()

    def rename(self, names: dict[str, File], chosen: Random | None) -> None:
        for name, file in self.changes:
            if chosen is None or chosen.random() < 0.5:
                if file is None:
                    names.pop(name, None)
                else:
                    names[name] = file

    def kill(self, target: Path) -> None:
        """Fill a folder with what the kernel knows now."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder, target)

    def cut_power(self, target: Path) -> None:
        """Fill a folder with what might be on disk now."""
        names = dict(self.names)
        self.rename(names, self.chosen)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name, file in names.items():
            (target / name).write_bytes(file.after_power_cut(self.chosen))


@dataclass
class Ledger:
    """What was sent, and what was acknowledged: payloads are `append:record:of how many`."""

    acknowledged: dict[int, bytes] = field(default_factory=dict)
    covered: int = 0
    n_sent: int = 0
    n_refused: int = 0

    def send(self, log: WriteLog, n_records: int) -> None:
        self.n_sent += 1
        name = f"{self.n_sent}"
        payloads = [
            b"%s:%d:%d:" % (name.encode(), i, n_records) + b"x" * (self.n_sent * 37 % 700) for i in range(n_records)
        ]
        try:
            answer = log.append(payloads, request_id=name)
        except StorageFull:  # it is told for sure that nothing was taken
            self.n_refused += 1
            answer = log.append(payloads, request_id=name)
            assert not answer.is_repeat
        self.acknowledged.update(zip(range(answer.first_sequence, answer.last_sequence + 1), payloads, strict=True))

    def check(self, log: WriteLog) -> None:
        found = {record.sequence: record.payload for record in log.read(log.first_sequence)}
        assert log.first_sequence <= self.covered + 1
        for sequence, payload in self.acknowledged.items():
            assert found.get(sequence, payload if sequence < log.first_sequence else None) == payload, sequence
        parts = [payload.split(b":") for payload in found.values()]
        names = [(name, int(i), int(n)) for name, i, n, _ in parts]
        assert len(names) == len(set(names)), "something is there twice"
        for name, _, n in (
            names[:1] + names[-1:]
        ):  # files hold whole appends, and so the oldest and the newest are whole
            assert sum(other == name for other, _, _ in names) == n
        for sequence, payload in found.items():  # what an opening yielded is acknowledged by that
            assert self.acknowledged.setdefault(sequence, payload) == payload


def proved_beside(folder: Path) -> int:
    """Return how far a process that reads beside the writer believes the disk."""
    try:
        with WriteLog.open(folder, read_only=True) as log:
            assert log.proved_sequence <= log.last_sequence
            return log.proved_sequence
    except NotFound:
        return 0


def burst(log: WriteLog, ledger: Ledger, chosen: Random) -> None:
    """Appends that share a sync: the lead is taken while they queue."""
    sizes = [chosen.randrange(1, 4) for _ in range(chosen.randrange(1, 5))]
    absent = _Waiting(b"", 0, None)
    with log._lock:
        log._leader = absent
    with ThreadPoolExecutor(len(sizes)) as pool:
        futures = [pool.submit(ledger.send, log, size) for size in sizes]
        while len(log._queue) < len(sizes) and log.failure is None:
            time.sleep(0.0001)
        with log._lock:
            log._leader = log._queue[0]
            log._queue[0].gate.release()
        for future in futures:
            future.result()


def work(log: WriteLog, ledger: Ledger, chosen: Random) -> None:
    """Append and truncate for a while; perhaps close."""
    for _ in range(chosen.randrange(12)):
        burst(log, ledger, chosen)
        if chosen.random() < 0.1 and log.last_sequence > 20:
            ledger.covered = max(ledger.covered, log.last_sequence - 20)
            log.truncate(ledger.covered)
    if chosen.random() < 0.2:
        log.close()


@pytest.mark.parametrize("seed", range(5))
def test_what_a_failed_sync_lost_is_written_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The kernel calls pages clean that the disk never got: a log that believed them would lose them with the power."""
    ledger = Ledger()
    (tmp_path / "log").mkdir()
    with monkeypatch.context() as patch:
        supply = PowerSupply(tmp_path / "log", patch, Random(seed))
        log = WriteLog.open(tmp_path / "log")
        ledger.send(log, 2)
        supply.fails_in = 1
        with pytest.raises(Unavailable, match="Input/output error"):
            ledger.send(log, 5)
        log.close()
        with WriteLog.open(tmp_path / "log") as log:
            ledger.check(log)
            assert len(ledger.acknowledged) == 7, "it is in memory, whole"
            supply.cut_power(tmp_path / "image")
    with WriteLog.open(tmp_path / "image") as log:
        ledger.check(log)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("n_states", "seed"), [(150, 1), pytest.param(10_000, 100, marks=pytest.mark.slow)])
def test_a_power_cut_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_states: int, seed: int
) -> None:
    """Power is cut at random steps, the log opened from what is left, power cut again while it is being opened, and so on."""
    chosen = Random(seed)
    ledger = Ledger()
    folder, image = tmp_path / "0", tmp_path / "image"
    folder.mkdir()
    n_images = n_failures = life = 0
    while n_images < n_states:
        life += 1
        with monkeypatch.context() as patch:
            supply = PowerSupply(folder, patch, chosen)

            def look(supply: PowerSupply = supply) -> None:
                nonlocal n_images
                if chosen.random() < 0.3:
                    n_images += 1
                    so_far = Ledger(dict(ledger.acknowledged), ledger.covered)
                    (supply.kill if chosen.random() < 0.2 else supply.cut_power)(image)
                    proved = proved_beside(supply.folder)
                    with monkeypatch.context() as plain:
                        for name, call in TRUE_DISK.items():
                            plain.setattr(disk, name, call)
                        with WriteLog.open(image, segment_bytes=2500, n_request_ids=50) as log:
                            so_far.check(log)
                            assert proved <= log.last_sequence, "a reader took it for safe"

            supply.on_step = look
            if chosen.random() < 0.3:
                supply.fails_in = chosen.randrange(1, 20)
            if chosen.random() < 0.7:
                supply.full_in = chosen.randrange(1, 20)
            try:
                log = WriteLog.open(folder, segment_bytes=2500, n_request_ids=50)
                try:
                    ledger.check(log)
                    work(log, ledger, chosen)
                finally:
                    with log._lock:
                        log._is_closed = True
                    log._close_handles()
            except (Unavailable, OSError) as error:
                if isinstance(error, CorruptArtifact):
                    raise
                n_failures += 1
                if chosen.random() < 0.5:
                    supply.fails_in, supply.full_in, supply.on_step = -1, -1, lambda: None
                    with WriteLog.open(folder, segment_bytes=2500) as again:  # from memory that the disk does not hold
                        ledger.check(again)
            folder = tmp_path / str(life)
            supply.cut_power(folder)
            shutil.rmtree(supply.folder)
        ledger.acknowledged = {s: p for s, p in ledger.acknowledged.items() if s > ledger.covered - 100}
    with WriteLog.open(folder) as log:
        ledger.check(log)
    assert n_failures >= life // 12
    assert ledger.n_refused > life / 12
