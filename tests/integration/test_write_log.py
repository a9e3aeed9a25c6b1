"""The write log on a real disk: order, groups, repeats, truncation, failures, other processes."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from matching.errors import CorruptArtifact, InvalidInput, LimitExceeded, NotFound, StorageFull, Unavailable
from matching.live import Appended, WriteLog, disk, write_log
from matching.live.segment import MAX_BODY_BYTES, Frame, SegmentReader, pack_body


def payloads(log: WriteLog, first_sequence: int | None = None) -> list[bytes]:
    """Read a log, and prove that its sequences have no gaps."""
    first = log.first_sequence if first_sequence is None else first_sequence
    records = list(log.read(first))
    assert [record.sequence for record in records] == list(range(first, log.last_sequence + 1))
    return [record.payload for record in records]


def fill(log: WriteLog, n: int, start: int = 0) -> list[bytes]:
    written = [b"%d " % i * 10 for i in range(start, start + n)]
    for payload in written:
        log.append([payload])
    return written


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def crashed(folder: Path) -> Path:
    """Return a copy of a log as a kill would leave it at this moment."""
    return Path(shutil.copytree(folder, folder.with_name(folder.name + "-crashed"), dirs_exist_ok=True))


def test_a_new_log_may_go_on_from_another(tmp_path: Path) -> None:
    with WriteLog.open(tmp_path, first_sequence=1000) as log:
        assert (log.first_sequence, log.last_sequence) == (1000, 999)
        assert log.append([b"a"]).last_sequence == 1000
    with WriteLog.open(tmp_path, first_sequence=5) as log:
        assert payloads(log) == [b"a"]
        assert log.first_sequence == 1000


def test_wrong_values_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="segment_bytes is 0"):
        WriteLog.open(tmp_path, segment_bytes=0)
    with pytest.raises(InvalidInput, match="first_sequence is 0"):
        WriteLog.open(tmp_path, first_sequence=0)
    with pytest.raises(InvalidInput, match="n_request_ids is -1"):
        WriteLog.open(tmp_path, n_request_ids=-1)
    with WriteLog.open(tmp_path) as log:
        for wrong in ([], b"bytes", ["text"]):
            with pytest.raises(InvalidInput, match="expected a list of bytes"):
                log.append(wrong)  # type: ignore[arg-type]
        for request_id in ("", "é" * 128):
            with pytest.raises(InvalidInput, match=rf"has {2 * len(request_id)} bytes; expected 1 to 255"):
                log.append([b"a"], request_id=request_id)
        with pytest.raises(LimitExceeded, match="send fewer at once"):
            log.append([bytes(MAX_BODY_BYTES)])
        with pytest.raises(InvalidInput, match="sequence 1 is not acknowledged; the newest is 0"):
            log.truncate(1)
        assert log.last_sequence == 0


def test_the_largest_append_fits(tmp_path: Path) -> None:
    largest = [bytes(MAX_BODY_BYTES - 255 - 2 - 4)]
    with WriteLog.open(tmp_path) as log:
        log.append([b"small"])
        log.append(largest, request_id="r" * 255)
    with WriteLog.open(tmp_path) as log:
        assert payloads(log, 2) == largest
        assert len(segments(tmp_path)) == 2


def test_files_rotate_and_a_read_crosses_them(tmp_path: Path) -> None:
    with WriteLog.open(tmp_path, segment_bytes=1000) as log:
        written = fill(log, 100)
        assert len(segments(tmp_path)) > 3
        assert all(path.stat().st_size <= 1000 for path in segments(tmp_path))
        assert log.n_bytes == sum(path.stat().st_size for path in segments(crashed_and_closed(tmp_path)))
        for first in (1, 2, 13, 50, 99, 100, 101):
            assert payloads(log, first) == written[first - 1 :]
        with pytest.raises(NotFound, match="no record 102 yet; the newest is 100"):
            log.read(102)
    with WriteLog.open(tmp_path, segment_bytes=1000) as log:
        assert payloads(log) == written


def crashed_and_closed(folder: Path) -> Path:
    copy = crashed(folder)
    WriteLog.open(copy).close()
    return copy


def test_one_append_is_never_split_between_files(tmp_path: Path) -> None:
    with WriteLog.open(tmp_path, segment_bytes=100) as log:
        log.append([b"x" * 60] * 20)
        log.append([b"y"])
        assert [len(path.name) for path in segments(tmp_path)] == [24, 24]
        assert payloads(log) == [b"x" * 60] * 20 + [b"y"]


def test_truncation_drops_whole_files_and_says_what_is_gone(tmp_path: Path) -> None:
    with WriteLog.open(tmp_path, segment_bytes=1000) as log:
        written = fill(log, 60)
        begun = log.read(1)
        assert next(begun).sequence == 1
        first = log.truncate(30)
        assert 2 <= first <= 31
        assert log.first_sequence == first == int(segments(tmp_path)[0].stem)
        assert log.truncate(first - 1) == first
        assert payloads(log) == written[first - 1 :]
        with pytest.raises(
            NotFound, match=rf"record {first - 1} was truncated; the oldest is {first}: begin with a version"
        ):
            log.read(first - 1)
        with pytest.raises(NotFound, match="was truncated"):
            list(begun)
    with WriteLog.open(tmp_path, segment_bytes=1000) as log:
        begun = log.read(first)
        found = [next(begun).sequence]
        second = int(segments(tmp_path)[1].stem)
        log.truncate(second - 1)
        assert log.first_sequence == second
        found += [record.sequence for record in begun]  # the file that was begun is read to its end
        assert found == list(range(first, 61))
    with WriteLog.open(tmp_path, segment_bytes=1000) as log:
        assert payloads(log) == written[second - 1 :]
        assert log.truncate(60) <= 60
        assert len(segments(tmp_path)) == 1
        log.append([b"more"])
        assert payloads(log)[-1] == b"more"
        assert log.last_sequence == 61


def test_a_truncation_that_was_interrupted_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WriteLog.open(tmp_path, segment_bytes=500) as log:
        written = fill(log, 40)
        before = segments(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "remove", refusing(OSError(5, "Input/output error")))
            first = log.truncate(20)
        assert segments(tmp_path) == before
        assert payloads(log) == written[first - 1 :]
        (tmp_path / "head.new").write_bytes(b"half")
        with WriteLog.open(tmp_path, read_only=True) as reading:
            assert payloads(reading) == written[first - 1 :]
        assert segments(tmp_path) == before
    with WriteLog.open(tmp_path) as log:
        assert payloads(log) == written[first - 1 :]
    assert int(segments(tmp_path)[0].stem) == first
    assert not list(tmp_path.glob("*.new"))


def test_a_truncation_that_the_disk_refuses_drops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WriteLog.open(tmp_path, segment_bytes=500) as log:
        written = fill(log, 40)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync", refusing(OSError(28, "No space left on device")))
            with pytest.raises(Unavailable, match=r"\[truncate\] .* No space left on device; nothing was dropped"):
                log.truncate(20)
        assert log.append([b"on"]).last_sequence == 41
        assert payloads(log) == [*written, b"on"]


def refusing(error: BaseException) -> Callable[..., None]:
    def refuse(*arguments: object) -> None:
        raise error

    return refuse


def test_a_repeated_request_appends_nothing(tmp_path: Path) -> None:
    with WriteLog.open(tmp_path, segment_bytes=300) as log:
        assert log.append([b"a", b"b"], request_id="x") == Appended(1, 2)
        assert log.append([b"other"], request_id="x") == Appended(1, 2, is_repeat=True)
        fill(log, 30)
        log.truncate(30)
        assert log.first_sequence > 2
        assert log.append([b"a"], request_id="x") == Appended(1, 2, is_repeat=True)
        killed = crashed(tmp_path)
    for folder in (tmp_path, killed):
        for _ in range(3):
            with WriteLog.open(folder) as log:
                assert log.append([b"a"], request_id="x") == Appended(1, 2, is_repeat=True)
                assert log.last_sequence == 32
    with WriteLog.open(tmp_path, n_request_ids=0) as log:
        assert log.append([b"a"], request_id="x") == Appended(33, 33)


def test_only_the_newest_request_ids_are_remembered(tmp_path: Path) -> None:
    def known(log: WriteLog) -> list[str]:
        return [key for key in map(str, range(10)) if key in log._requests]

    with WriteLog.open(tmp_path, n_request_ids=3, segment_bytes=200) as log:
        for i in range(10):
            log.append([b"a" * 50], request_id=str(i))
        assert known(log) == ["7", "8", "9"]
        assert log.append([b"again"], request_id="2") == Appended(11, 11)
        assert known(log) == ["2", "8", "9"]
        log.truncate(10)
    with WriteLog.open(tmp_path, n_request_ids=3) as log:
        assert known(log) == ["2", "8", "9"]
        assert log.append([b"again"], request_id="2").is_repeat
        log.append([b"new"], request_id="0")
        assert known(log) == ["0", "2", "9"]


def test_a_request_id_that_was_used_again_is_remembered_by_its_last_use(tmp_path: Path) -> None:
    with WriteLog.open(tmp_path, n_request_ids=1, segment_bytes=1) as log:
        assert [log.append([b"x"], request_id=name).last_sequence for name in "abac"] == [1, 2, 3, 4]
    with WriteLog.open(tmp_path, segment_bytes=1) as log:
        assert log.truncate(2) == 3
    with WriteLog.open(tmp_path) as log:
        answers = [log.append([b"x"], request_id=name) for name in "abc"]
        assert answers == [Appended(3, 3, True), Appended(2, 2, True), Appended(4, 4, True)]


def test_a_request_that_was_not_answered_yet_is_not_noted_as_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    true_write = disk.write

    def write(handle: int, data: bytes, at: int) -> None:
        if at > 0 and not entered.is_set():
            entered.set()
            go_on.wait(10)
        true_write(handle, data, at)

    with WriteLog.open(tmp_path / "log", segment_bytes=100) as log, ThreadPoolExecutor(2) as pool:
        fill(log, 3)
        monkeypatch.setattr(disk, "write", write)
        first = pool.submit(log.append, [b""])
        entered.wait(10)
        pending = pool.submit(log.append, [b""], request_id="x")
        while len(log._queue) < 2:
            pass
        assert log.truncate(3) > 1
        killed = crashed(tmp_path / "log")
        go_on.set()
        assert (first.result(10), pending.result(10)) == (Appended(4, 4), Appended(5, 5))
    with WriteLog.open(killed) as log:
        assert log.append([b""], request_id="x") == Appended(4, 4)


def test_many_threads_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_threads, n_each, n_syncs = 16, 25, 0
    crowd = threading.Event()
    true_sync = disk.sync

    def sync(handle: int) -> None:
        nonlocal n_syncs
        n_syncs += 1
        crowd.wait(0.002)
        true_sync(handle)

    with WriteLog.open(tmp_path, segment_bytes=20_000) as log:
        monkeypatch.setattr(disk, "sync", sync)

        def work(thread: int) -> list[Appended]:
            return [log.append([b"%d %d" % (thread, i)] * (1 + i % 3)) for i in range(n_each)]

        with ThreadPoolExecutor(n_threads) as pool:
            answers = list(pool.map(work, range(n_threads)))
        assert n_syncs < n_threads * n_each / 3
    with WriteLog.open(tmp_path) as log:
        found = payloads(log)
    assert len(found) == n_threads * sum(1 + i % 3 for i in range(n_each))
    for thread, appended in enumerate(answers):
        assert [a.first_sequence for a in appended] == sorted(a.first_sequence for a in appended)
        for i, a in enumerate(appended):
            assert found[a.first_sequence - 1 : a.last_sequence] == [b"%d %d" % (thread, i)] * (1 + i % 3)


@pytest.mark.parametrize("place", ["write", "sync"])
@pytest.mark.parametrize("n_before", [0, 7])
def test_after_an_error_nothing_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, n_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    n_calls, entered, go_on = 0, threading.Event(), threading.Event()

    def fail(*arguments: object) -> None:
        nonlocal n_calls
        n_calls += 1
        entered.set()
        go_on.wait(10)
        raise OSError(5, "Input/output error")

    log = WriteLog.open(tmp_path)
    written = fill(log, n_before)
    true = getattr(disk, place)
    monkeypatch.setattr(disk, place, fail)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(log.append, [b"lost"], request_id="lost")
        entered.wait(10)
        waiting = [pool.submit(log.append, [b"waiting"]) for _ in range(3)]
        repeat = pool.submit(log.append, [b"lost"], request_id="lost")
        asking = pool.submit(log.wait, n_before + 1, timeout_s=10)
        while len(log._queue) < 4:
            pass
        go_on.set()
        for future in (first, *waiting, repeat, asking):
            with pytest.raises(Unavailable, match=r"has failed: Input/output error; nothing is acknowledged any more"):
                future.result(10)
    monkeypatch.setattr(disk, place, true)
    with pytest.raises(Unavailable, match="Input/output error"):
        log.append([b"later"])
    with pytest.raises(Unavailable, match="Input/output error"):
        log.truncate(0)
    assert n_calls == 1, "a disk that failed is not asked again"
    assert log.failure == "Input/output error"
    assert payloads(log) == written
    assert "acknowledges nothing more: Input/output error" in caplog.text
    log.close()
    with WriteLog.open(tmp_path) as log:
        assert payloads(log)[:n_before] == written
        assert log.last_sequence == n_before + (place == "sync"), (
            "the write reached the file, nobody knows about the disk"
        )
        again = log.append([b"lost"], request_id="lost")
        assert (again.last_sequence, again.is_repeat) == (n_before + 1, place == "sync")


def test_an_error_while_rotating_stops_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("cut", "create", "replace", "sync_folder"):
        folder = tmp_path / place
        log = WriteLog.open(folder, segment_bytes=300)
        written = fill(log, 3)
        with monkeypatch.context() as patch:
            patch.setattr(disk, place, refusing(OSError(5, "Input/output error")))
            with pytest.raises(Unavailable, match="Input/output error"):
                written += fill(log, 100)
        log.close()
        with WriteLog.open(folder, segment_bytes=300) as log:
            found = payloads(log)
            assert found == written[: len(found)] or found[: len(written)] == written
            log.append([b"more"])
            assert payloads(log)[-1] == b"more"


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("place", ["write", "create", "replace", "sync_folder"])
def test_a_full_disk_refuses_appends_until_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it says so on the way of an append, also between the steps of beginning a new file."""
    with WriteLog.open(tmp_path / "log", segment_bytes=300) as log:
        written = fill(log, 3)
        for n_before in range(6):
            true, n_calls = getattr(disk, place), 0

            def fail_late(*arguments: object, true: Callable[..., object] = true, n_before: int = n_before) -> object:
                nonlocal n_calls
                n_calls += 1
                if n_calls > n_before:
                    raise FULL
                return true(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(disk, place, fail_late)
                for _ in range(20):
                    try:
                        written += fill(log, 1)
                    except StorageFull:
                        break
                else:
                    pytest.fail("it never was full")
                with pytest.raises(StorageFull, match="is full, so nothing was taken, reads go on"):
                    log.append([b"again" * 50], request_id=f"{n_before}")
                assert log.failure == "No space left on device; writes go on once there is space"
                assert not log.is_over
                assert not log.wait(len(written) + 1, timeout_s=0)
                assert payloads(log) == written
                shutil.rmtree(tmp_path / "log-crashed", ignore_errors=True)
                crashed(tmp_path / "log")
            with WriteLog.open(tmp_path / "log-crashed") as killed:
                assert (payloads(killed), killed.cut_bytes) == (written, 0), "nothing is left of what was refused"
            assert not log.append([b"again" * 50], request_id=f"{n_before}").is_repeat
            assert log.append([b"again" * 50], request_id=f"{n_before}").is_repeat
            written += [b"again" * 50, *fill(log, 1)]
            assert log.failure is None
    with WriteLog.open(tmp_path / "log") as log:
        assert payloads(log) == written
    told = [record.getMessage() for record in caplog.records if "write log" in record.getMessage()]
    assert [text.split("the write log ")[1].split(" ")[1] for text in told] == ["no", "writes"] * 6, "each change once"


def test_all_who_share_a_sync_are_refused_together_and_may_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    true_write = disk.write

    def write(handle: int, data: bytes, at: int) -> None:
        entered.set()
        go_on.wait(10)
        true_write(handle, data[: len(data) // 2], at)
        raise FULL

    with WriteLog.open(tmp_path / "log") as log, ThreadPoolExecutor(6) as pool:
        written = fill(log, 2)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "write", write)
            asked = [pool.submit(log.append, [b"x"], request_id="0")]
            entered.wait(10)
            asked += [pool.submit(log.append, [b"x"], request_id=name) for name in "1230"]
            while len(log._queue) < 4:
                pass
            go_on.set()
            for future in asked:
                with pytest.raises(StorageFull):
                    future.result(10)
        assert payloads(log) == written
        answers = [log.append([b"x"], request_id=name) for name in "32100"]
        assert [(answer.last_sequence, answer.is_repeat) for answer in answers[:4]] == [
            (at, False) for at in range(3, 7)
        ]
        assert answers[4] == Appended(6, 6, is_repeat=True)
    with WriteLog.open(tmp_path / "log") as log:
        assert payloads(log) == [*written, *[b"x"] * 4]


def test_it_is_opened_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WriteLog.open(tmp_path / "log") as log:
        written = fill(log, 3)
        folder = crashed(tmp_path / "log")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "publish", refusing(FULL))
        log = WriteLog.open(folder)
        assert payloads(log) == written
        assert log.failure == "No space left on device; writes go on once there is space"
        with pytest.raises(StorageFull):
            log.append([b"x"])
    written += fill(log, 1)
    assert log.failure is None
    log.close()
    with WriteLog.open(folder) as log:
        assert payloads(log) == written


def test_what_an_interrupt_left_behind_is_unknown_and_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WriteLog.open(tmp_path) as log:
        written = fill(log, 2)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync", refusing(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                log.append([b"x"])
        with pytest.raises(Unavailable, match="has failed: KeyboardInterrupt"):
            log.append([b"y"])
        assert payloads(log) == written


def test_a_thread_that_is_interrupted_while_it_waits_leaves_no_one_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    true_sync = disk.sync

    class Gate:
        """A gate at which the waiting thread is interrupted."""

        n_acquired = 0

        def acquire(self) -> None:
            self.n_acquired += 1
            if self.n_acquired == 2:
                raise KeyboardInterrupt

        def release(self) -> None:
            pass

        def locked(self) -> bool:
            return True

    def sync(handle: int) -> None:
        entered.set()
        go_on.wait(10)
        true_sync(handle)

    with WriteLog.open(tmp_path) as log, ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(disk, "sync", sync)
        first = pool.submit(log.append, [b"first"])
        entered.wait(10)
        true_checked = write_log._checked

        def checked(payloads: list[bytes], request_id: str | None) -> write_log._Waiting:
            waiting = true_checked(payloads, request_id)
            waiting.gate = Gate()  # type: ignore[assignment]
            return waiting

        with monkeypatch.context() as patch:
            patch.setattr(write_log, "_checked", checked)
            with pytest.raises(KeyboardInterrupt):
                log.append([b"abandoned"])
        last = pool.submit(log.append, [b"last"])
        while len(log._queue) < 3:
            pass
        go_on.set()
        assert first.result(10).last_sequence == 1
        assert last.result(10).last_sequence == 3
        assert payloads(log) == [b"first", b"abandoned", b"last"]


def test_closing_waits_for_those_who_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()
    true_sync = disk.sync

    def sync(handle: int) -> None:
        entered.set()
        go_on.wait(10)
        true_sync(handle)

    log = WriteLog.open(tmp_path)
    monkeypatch.setattr(disk, "sync", sync)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(log.append, [b"1"])
        entered.wait(10)
        second = pool.submit(log.append, [b"2"])
        while len(log._queue) < 2:
            pass
        closing = pool.submit(log.close)
        while not log._is_closed:
            pass
        go_on.set()
        assert (first.result(10), second.result(10)) == (Appended(1, 1), Appended(2, 2))
        closing.result(10)
    with WriteLog.open(tmp_path) as log:
        assert payloads(log) == [b"1", b"2"]


def test_an_end_that_cannot_be_noted_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = WriteLog.open(tmp_path)
    written = fill(log, 3)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "replace", refusing(OSError(5, "Input/output error")))
        with pytest.raises(Unavailable, match=r"\[close\] .* Input/output error; all acknowledged records are there"):
            log.close()
    with WriteLog.open(tmp_path) as log:
        assert payloads(log) == written


def test_one_writer_and_any_number_of_readers(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no write log in"):
        WriteLog.open(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    with WriteLog.open(tmp_path) as log:
        written = fill(log, 5)
        with pytest.raises(Unavailable, match=rf"process {os.getpid()} writes to"):
            WriteLog.open(tmp_path)
        with WriteLog.open(tmp_path, read_only=True) as reading:
            written += fill(log, 1, 5)
            assert payloads(reading) == written[:5]
            for refused in (
                lambda: reading.append([b"x"]),
                lambda: reading.truncate(1),
                lambda: reading.wait(6, timeout_s=9),
            ):
                with pytest.raises(Unavailable, match="opened read-only"):
                    refused()
            assert reading.wait(5, timeout_s=0)
        assert log.append([b"x"]).last_sequence == 7
    WriteLog.open(tmp_path).close()


def test_reading_beside_a_writer_never_sees_damage(tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            first = log.append([os.urandom(200)] * 3).first_sequence
            if first % 50 < 3:
                log.truncate(max(0, first - 100))

    with WriteLog.open(tmp_path, segment_bytes=3000) as log, ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write) for _ in range(3)]
        try:
            seen = 0
            while seen < 1000:
                with WriteLog.open(tmp_path, read_only=True) as reading:
                    with contextlib.suppress(NotFound):  # truncated between the opening and the read
                        payloads(reading)
                    assert reading.last_sequence >= seen
                    seen = reading.last_sequence
        finally:
            stop.set()
        for future in writing:
            future.result(30)


def test_a_frame_that_was_written_during_the_opening_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WriteLog.open(tmp_path / "log") as log:
        written = fill(log, 3)
        folder = crashed(tmp_path / "log")
    (path,) = segments(folder)
    whole = path.read_bytes()
    patched(path, 150, bytes(20))
    with pytest.raises(CorruptArtifact, match="was written later"):
        WriteLog.open(folder, read_only=True)
    true_later_frames = SegmentReader.later_frames

    def later_frames(reader: SegmentReader, offset: int, end: int) -> Iterator[Frame]:
        path.write_bytes(whole)  # the process that writes has come so far meanwhile
        return true_later_frames(reader, offset, end)

    monkeypatch.setattr(SegmentReader, "later_frames", later_frames)
    with WriteLog.open(folder, read_only=True) as reading:
        assert payloads(reading) == written


def child(log: WriteLog, answers: multiprocessing.Queue[str]) -> None:
    for use in (
        lambda: log.append([b"x"]),
        lambda: log.read(1),
        lambda: log.wait(1, timeout_s=0),
        lambda: log.truncate(0),
    ):
        try:
            use()
        except Unavailable as error:
            answers.put(str(error))
    log.close()


def test_a_forked_process_may_not_use_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with WriteLog.open(tmp_path) as log:
        written = fill(log, 2)
        forked = context.Process(target=child, args=(log, answers))
        forked.start()
        told = [answers.get(timeout=20) for _ in range(4)]
        forked.join(20)
        assert forked.exitcode == 0
        assert all(f"opened by process {os.getpid()}, before a fork" in text for text in told)
        with pytest.raises(Unavailable, match="writes to"):
            WriteLog.open(tmp_path)  # the child's close did not give the parent's lock away
        assert payloads(log) == written


def test_a_torn_end_is_cut_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = WriteLog.open(tmp_path / "log")
    written = fill(log, 3)
    folder = crashed(tmp_path / "log")
    log.close()
    (last,) = segments(folder)
    with last.open("r+b") as file:
        file.seek(log.n_bytes)
        file.write(b"half a record")
    with caplog.at_level(logging.WARNING):
        with WriteLog.open(folder, read_only=True) as reading:
            assert (payloads(reading), reading.cut_bytes) == (written, 13)
        assert not caplog.records, "a reader changes nothing, and so cuts nothing"
        with WriteLog.open(folder) as log:
            assert (payloads(log), log.cut_bytes) == (written, 13)
            log.append([b"next"])
    assert [record.getMessage() for record in caplog.records] == [
        f"[open] {last.name}: 13 bytes of a torn record behind byte {log.n_bytes - 36 - 2 - 4 - 4} were cut off; "
        "no one was told that it was kept"
    ]
    with WriteLog.open(folder) as log:
        assert payloads(log) == [*written, b"next"]


def test_space_that_was_reserved_is_no_torn_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with WriteLog.open(tmp_path / "log") as log:
        written = fill(log, 3)
        folder = crashed(tmp_path / "log")
        assert segments(folder)[0].stat().st_size > 1 << 20
        with WriteLog.open(folder) as killed:
            assert (payloads(killed), killed.cut_bytes) == (written, 0)
    assert segments(tmp_path / "log")[0].stat().st_size == log.n_bytes
    assert not caplog.records


def damaged(folder: Path, change: Callable[[Path], object]) -> Path:
    """Return a log of several files, orderly closed and then changed."""
    with WriteLog.open(folder, segment_bytes=500) as log:
        fill(log, 30)
    change(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: segments(f)[0].unlink(), r"log at byte 0: records 1 to \d+ are missing before it; restore the file"),
        (
            lambda f: segments(f)[1].unlink(),
            r"log at byte 0: records \d+ to \d+ are missing before it; restore the file",
        ),
        (lambda f: segments(f)[-1].unlink(), r"at byte \d+: records \d+ to 30 are missing, which were acknowledged"),
        (
            lambda f: [path.unlink() for path in segments(f)],
            r"log at byte 64: records 1 to 30 are missing, which were ack",
        ),
        (lambda f: (f / "head").unlink(), r"the head of the log is missing beside 0+1\.log"),
        (lambda f: (f / "head").write_bytes(b""), r"head: its 0 bytes do not match their checksum"),
        (lambda f: os.truncate(segments(f)[1], 300), r"at byte \d+: .*, and a later file follows"),
        (lambda f: os.truncate(segments(f)[1], 64), r"log at byte 0: records \d+ to \d+ are missing before it"),
        (lambda f: os.truncate(segments(f)[1], 9), r"at byte 0: 9 bytes are less than a header of 64"),
        (lambda f: os.truncate(segments(f)[-1], 64), r"at byte 64: records \d+ to 30 are missing, which were acknowl"),
        (
            lambda f: segments(f)[0].write_bytes(segments(f)[1].read_bytes()),
            r"at byte 0: the header is damaged, or belong",
        ),
    ],
)
def test_what_is_missing_or_strange_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    folder = damaged(tmp_path / "log", change)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    for read_only in (False, True):
        with pytest.raises(CorruptArtifact, match=message):
            WriteLog.open(folder, read_only=read_only)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"} == before


def patched(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_frame_that_skips_a_sequence_is_refused(tmp_path: Path) -> None:
    """Whole, at its place, and yet not what follows: a program that wrote wrongly."""
    with WriteLog.open(tmp_path) as log:
        fill(log, 3)
        segment = log._segments[-1]
    with segment.path.open("ab") as file:
        body = pack_body([b"five"], b"")
        file.write(segment.frame(segment.end, body, 1, 5, segment.end) + body)
    with pytest.raises(CorruptArtifact, match=rf"at byte {segment.end}: record 5 follows 3; restore the file"):
        WriteLog.open(tmp_path)


def test_a_segment_of_another_log_is_refused(tmp_path: Path) -> None:
    damaged(tmp_path / "other", lambda folder: None)
    with pytest.raises(CorruptArtifact, match="belongs to another log"):
        WriteLog.open(damaged(tmp_path / "log", lambda f: shutil.copy(segments(tmp_path / "other")[1], segments(f)[1])))


def test_damage_while_it_is_open_is_told_by_the_read(tmp_path: Path) -> None:
    with WriteLog.open(tmp_path, segment_bytes=500) as log:
        fill(log, 30)
        patched(segments(tmp_path)[0], 150, b"????")
        with pytest.raises(
            CorruptArtifact,
            match=r"\[read\] 0+1\.log at byte \d+: the head of a record does not match its checksum, wh",
        ):
            list(log.read(1))
        segments(tmp_path)[1].unlink()
        with pytest.raises(CorruptArtifact, match=r"\[read\] .*the file is gone"):
            list(log.read(int(segments(tmp_path)[1].stem) - 1))


def test_a_creation_that_was_interrupted_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_publish = disk.publish

    def publish(path: Path, data: bytes) -> None:
        if path.suffix == ".log":
            raise OSError(28, "No space left on device")
        true_publish(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "publish", publish)
        with pytest.raises(OSError, match="No space left on device"):
            WriteLog.open(tmp_path, first_sequence=9)
    with pytest.raises(NotFound, match="no write log"):
        WriteLog.open(tmp_path, read_only=True)
    with WriteLog.open(tmp_path) as log:
        assert log.append([b"a"]).last_sequence == 9
