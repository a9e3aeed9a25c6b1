"""Damage anywhere in a write log: told at the opening, read up to there, repaired with all records that are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from matching.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable
from matching.live import Types, WriteLog, disk, pack_write, plan_repair, repair
from tests.property.test_write_log import memory_folder, quick_disk

__all__ = ["quick_disk"]
NOTHING = pack_write(Types({}))


@dataclass
class Written:
    """A log as a kill leaves it, and what is in it."""

    folder: Path
    first_sequence: int
    payloads: list[bytes]
    requests: dict[str, tuple[int, int]]
    truncated_requests: dict[str, tuple[int, int]]

    def spoilt(self, change: Callable[[Path], object]) -> Path:
        """Return a copy that was changed."""
        copy = self.folder.with_name("spoilt")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder, copy)
        change(copy)
        return copy


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


@pytest.fixture(scope="module")
def written() -> Iterator[Written]:
    """Sixty appends in several files, the oldest of which were truncated."""
    rng = Random(5)
    base = memory_folder()
    sent: list[bytes] = []
    requests: dict[str, tuple[int, int]] = {}
    with WriteLog.open(base / "log", segment_bytes=1200) as log:
        for at in range(60):
            batch = [b"%d:%d:" % (at, i) + rng.randbytes(rng.randrange(60)) for i in range(rng.randrange(1, 5))]
            answer = log.append(batch, request_id=f"r{at}")
            sent += batch
            requests[f"r{at}"] = (answer.first_sequence, answer.last_sequence)
        first = log.truncate(40)
        shutil.copytree(base / "log", base / "killed")
        last, end = log._segments[-1].path.name, log._segments[-1].end
    os.truncate(base / "killed" / last, end)
    gone = {name: where for name, where in requests.items() if where[0] < first}
    kept = {name: where for name, where in requests.items() if where[0] >= first}
    assert gone
    yield Written(base / "killed", first, sent[first - 1 :], kept, gone)
    shutil.rmtree(base)


def check_read_only(folder: Path, written: Written) -> None:
    """Nobody opens it by accident, and who asks for it reads what lies before the damage."""
    for read_only in (False, True):
        with pytest.raises(CorruptArtifact, match=r"likewise log repair|restore one of them"):
            WriteLog.open(folder, read_only=read_only)
    with WriteLog.open(folder, read_only=True, up_to_damage=True) as log:
        found = [record.payload for record in log.read(log.first_sequence)]
        assert found == written.payloads[: len(found)] or log.first_sequence > written.first_sequence
        assert log.failure is not None
        assert log.is_over
        for use in (lambda: log.append([b"x"]), lambda: log.wait(10**6, timeout_s=9), lambda: log.truncate(0)):
            with pytest.raises(Unavailable, match=r"has failed: \[open\]"):
                use()


def check_repaired(folder: Path, written: Written, lost_before: tuple[tuple[int, int], ...] = ()) -> int:
    """Repair it; every record is as it was or one that changes nothing. Return how many are lost."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    plan = plan_repair(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"} == before
    assert repair(folder) == plan
    for name in plan.damaged:
        if name in before:
            assert (folder / f"{name}.damaged").read_bytes() == before[name]
    lost = {sequence for first, last in (*lost_before, *plan.lost) for sequence in range(first, last + 1)}
    last_sequence = written.first_sequence + len(written.payloads) - 1
    with WriteLog.open(folder, segment_bytes=1200) as log:
        assert (log.first_sequence, log.last_sequence) == (plan.first_sequence, plan.last_sequence)
        assert plan.last_sequence <= last_sequence
        found = {record.sequence: record.payload for record in log.read(log.first_sequence)}
        for sequence, payload in found.items():
            assert payload == (NOTHING if sequence in lost else written.payloads[sequence - written.first_sequence])
        for name, (first, last) in written.requests.items():
            if not lost & set(range(first, last + 1)) and first >= log.first_sequence:
                assert log.append([b"x"], request_id=name).last_sequence == last
        for name, (_, last) in written.truncated_requests.items():
            if not plan.forgets_requests:
                assert log.append([b"x"], request_id=name).last_sequence == last
        assert log.append([b"more"]).first_sequence == plan.last_sequence + 1
    assert plan_repair(folder).damaged == ()
    return len(lost)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("n_flips", "seed"), [(40, 1), pytest.param(1000, 2, marks=pytest.mark.slow)])
def test_a_flipped_byte_costs_at_most_the_append_that_it_lies_in(written: Written, n_flips: int, seed: int) -> None:
    rng = Random(seed)
    for _ in range(n_flips):
        name = rng.choice([*(path.name for path in segments(written.folder)), "head"])
        whole = (written.folder / name).read_bytes()
        end = len(whole)
        if name == segments(written.folder)[-1].name:  # what nothing proves was not acknowledged, for all that is known
            end = whole.rindex(whole[64:68])
        at, flip = rng.randrange(end), rng.randrange(1, 256)
        data = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
        folder = written.spoilt(lambda copy, name=name, data=data: (copy / name).write_bytes(data))
        check_read_only(folder, written)
        lost = check_repaired(folder, written)
        assert lost <= 4, (seed, name, at, flip)
        assert name != "head" or not lost


def emptied(folder: Path) -> None:
    for path in (*segments(folder), folder / "head"):
        path.write_bytes(b"\xff" * 100)


@pytest.mark.parametrize(
    ("change", "least_lost"),
    [
        (lambda f: segments(f)[0].unlink(), 5),
        (lambda f: segments(f)[2].unlink(), 5),
        (lambda f: segments(f)[-2].write_bytes(b""), 5),
        (lambda f: [path.unlink() for path in segments(f)[1:4]], 15),
        (lambda f: [path.unlink() for path in segments(f)[:-1]], 20),
        (lambda f: segments(f)[1].write_bytes(segments(f)[2].read_bytes()), 5),
        (lambda f: os.truncate(segments(f)[1], 700), 3),
        (lambda f: segments(f)[1].write_bytes(segments(f)[1].read_bytes() + b"\xff" * 700), 0),
        (lambda f: (f / "head").unlink(), 0),
    ],
)
def test_what_is_missing_or_strange_is_made_good(
    written: Written, change: Callable[[Path], object], least_lost: int
) -> None:
    folder = written.spoilt(change)
    check_read_only(folder, written)
    assert check_repaired(folder, written) >= least_lost


def test_the_newest_file_of_a_closed_log_is_missed_to_its_last_record(written: Written) -> None:
    folder = written.spoilt(lambda f: WriteLog.open(f).close())
    segments(folder)[-1].unlink()
    check_read_only(folder, written)
    assert check_repaired(folder, written) > 0
    with WriteLog.open(folder) as log:
        assert log.first_sequence + len(written.payloads) == log.last_sequence, "its sequences are not used again"


def test_an_interrupted_repair_is_begun_again(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    true_publish, n_calls = disk.publish, 0

    def publish(path: Path, data: bytes) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise OSError(28, "No space left on device")
        true_publish(path, data)

    folder = written.spoilt(lambda f: [os.truncate(path, 700) for path in segments(f)[:3]])
    lost = plan_repair(folder).lost
    with monkeypatch.context() as patch:
        patch.setattr(disk, "publish", publish)
        with pytest.raises(OSError, match="No space left"):
            repair(folder)
    with pytest.raises(CorruptArtifact):
        WriteLog.open(folder)
    assert len(lost) == 3
    assert check_repaired(folder, written, lost) > 0
    assert len(list(folder.glob("*.damaged"))) == 3


def test_what_cannot_be_proved_or_is_written_to_is_left_alone(written: Written, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"\[repair\] there is no folder"):
        repair(tmp_path / "none")
    with pytest.raises(NotFound, match="no write log in"):
        repair(tmp_path)
    with pytest.raises(CorruptArtifact, match=r"neither the head nor any of the headers of \d+ files is whole"):
        repair(written.spoilt(emptied))
    folder = written.spoilt(lambda f: None)
    assert plan_repair(folder).damaged == ()
    with WriteLog.open(folder), pytest.raises(Unavailable, match="writes to"):
        repair(folder)
    with pytest.raises(InvalidInput, match="a damaged log can only be read"):
        WriteLog.open(folder, up_to_damage=True)
