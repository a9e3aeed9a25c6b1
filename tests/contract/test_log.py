"""What every log of writes holds to, the file of one process and the stream that several follow."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from matching.errors import InvalidInput, LimitExceeded, NotFound, Unavailable
from matching.live import Appended, Log, Record, WriteLog
from matching.live.stream_log import Broker, StreamLog
from tests.brokers import BrokerProcess

Open = Callable[[], "contextlib.AbstractContextManager[Log]"]


def file_opener(folder: Path) -> Open:
    return lambda: WriteLog.open(folder, segment_bytes=2_000)


def stream_opener(broker: BrokerProcess) -> Open:
    name = f"test-{uuid.uuid4().hex}"
    return lambda: StreamLog.open(Broker((broker.url,)), name, held_bytes=100_000)


@pytest.fixture(params=["file", "stream"])
def opener(request: pytest.FixtureRequest, tmp_path: Path, broker: BrokerProcess) -> Open:
    """Return what opens the log, the same one each time."""
    return file_opener(tmp_path / "log") if request.param == "file" else stream_opener(broker)


@pytest.fixture
def log(opener: Open) -> Iterator[Log]:
    with opener() as opened:
        yield opened


def payloads(log: Log, first_sequence: int | None = None) -> list[bytes]:
    """Read a log, and prove that its sequences have no gaps."""
    first = log.first_sequence if first_sequence is None else first_sequence
    records = list(log.read(first))
    assert [record.sequence for record in records] == list(range(first, log.last_sequence + 1))
    return [record.payload for record in records]


def fill(log: Log, n: int, start: int = 0) -> list[bytes]:
    written = [b"%d " % i * 10 for i in range(start, start + n)]
    for payload in written:
        log.append([payload])
    return written


def test_what_was_appended_comes_back(opener: Open) -> None:
    with opener() as log:
        assert (log.first_sequence, log.last_sequence, list(log.read(1))) == (1, 0, [])
        assert log.append([b"one"]) == Appended(1, 1)
        assert log.append([b"", b"three", b"x" * 300_000]) == Appended(2, 4)
        assert list(log.read(3)) == [Record(3, b"three"), Record(4, b"x" * 300_000)]
        assert log.failure is None
        assert not log.is_over
    with opener() as log:
        assert (log.first_sequence, log.last_sequence) == (1, 4)
        assert log.append([b"five"]) == Appended(5, 5)
        assert payloads(log) == [b"one", b"", b"three", b"x" * 300_000, b"five"]


def test_wrong_values_are_refused_and_nothing_is_kept(log: Log) -> None:
    for wrong in ([], b"bytes", ["text"]):
        with pytest.raises(InvalidInput, match="expected a list of bytes"):
            log.append(wrong)  # type: ignore[arg-type]
    for request_id in ("", "é" * 128):
        with pytest.raises(InvalidInput, match=rf"has {2 * len(request_id)} bytes; expected 1 to 255"):
            log.append([b"a"], request_id=request_id)
    with pytest.raises(LimitExceeded, match="send fewer at once"):
        log.append([bytes(1 << 26)])
    with pytest.raises(InvalidInput, match="sequence 1 is not acknowledged; the newest is 0"):
        log.truncate(1)
    assert log.append([b"a"]) == Appended(1, 1)


def test_a_read_begins_anywhere_but_in_the_future(log: Log) -> None:
    written = fill(log, 100)
    for first in (1, 2, 13, 50, 99, 100, 101):
        assert payloads(log, first) == written[first - 1 :]
    with pytest.raises(NotFound, match="no record 102 yet; the newest is 100"):
        log.read(102)


def test_a_read_that_began_goes_on_with_what_is_appended(log: Log) -> None:
    written = fill(log, 1)
    reading = log.read(1)
    found = [next(reading).payload]
    for i in range(1, 60):
        written += fill(log, 1, i)
        found.append(next(reading).payload)
    assert found == written
    assert next(reading, None) is None


def test_a_follower_sees_everything_in_order(log: Log) -> None:
    n = 300
    found: list[Record] = []

    def follow() -> None:
        while len(found) < n:
            if log.wait(len(found) + 1, timeout_s=10):
                found.extend(log.read(len(found) + 1))

    follower = threading.Thread(target=follow)
    follower.start()
    written = fill(log, n)
    follower.join()
    assert not log.wait(n + 1, timeout_s=0.01)
    assert [record.payload for record in found] == written
    assert [record.sequence for record in found] == list(range(1, n + 1))


def test_a_follower_sees_all_of_a_batch_or_nothing(log: Log) -> None:
    sizes = [1 + i % 7 for i in range(150)]
    torn: list[int] = []
    seen = 0

    def follow() -> None:
        nonlocal seen
        ends = {sum(sizes[: i + 1]) for i in range(len(sizes))}
        while seen < sum(sizes):
            if log.wait(seen + 1, timeout_s=10):
                seen = log.last_sequence
                if seen not in ends:
                    torn.append(seen)

    follower = threading.Thread(target=follow)
    follower.start()
    for i, size in enumerate(sizes):
        log.append([b"%d" % i] * size)
    follower.join()
    assert torn == []
    assert payloads(log) == [b"%d" % i for i, size in enumerate(sizes) for _ in range(size)]


def test_many_appenders_share_one_order(opener: Open) -> None:
    n_threads, n_each = 12, 20
    with opener() as log:

        def work(thread: int) -> list[Appended]:
            return [log.append([b"%d %d" % (thread, i)] * (1 + i % 3)) for i in range(n_each)]

        with ThreadPoolExecutor(n_threads) as pool:
            answers = list(pool.map(work, range(n_threads)))
    with opener() as log:
        found = payloads(log)
    assert len(found) == n_threads * sum(1 + i % 3 for i in range(n_each))
    for thread, appended in enumerate(answers):
        assert [a.first_sequence for a in appended] == sorted(a.first_sequence for a in appended)
        for i, a in enumerate(appended):
            assert found[a.first_sequence - 1 : a.last_sequence] == [b"%d %d" % (thread, i)] * (1 + i % 3)


def test_a_repeated_request_appends_nothing(opener: Open) -> None:
    odd = "x\r\n é" * 20
    with opener() as log:
        assert log.append([b"a", b"b"], request_id="x") == Appended(1, 2)
        assert log.append([b"c"], request_id=odd) == Appended(3, 3)
        assert log.append([b"other"], request_id="x") == Appended(1, 2, is_repeat=True)
        assert log.answered("x") == Appended(1, 2, is_repeat=True)
        assert log.answered("y") is None
    with opener() as log:
        assert log.append([b"a", b"b"], request_id="x") == Appended(1, 2, is_repeat=True)
        assert log.append([b"c"], request_id=odd) == Appended(3, 3, is_repeat=True)
        assert log.append([b"d"]) == Appended(4, 4)


def test_the_same_request_at_once_is_there_once(log: Log) -> None:
    with ThreadPoolExecutor(8) as pool:
        for i in range(20):
            answers = list(pool.map(lambda _, i=i: log.append([b"x"], request_id=f"r{i}"), range(8)))
            assert {a.last_sequence for a in answers} == {i + 1}
            assert sum(not a.is_repeat for a in answers) == 1
    assert log.last_sequence == 20


def test_truncation_leaves_what_is_not_covered(opener: Open) -> None:
    with opener() as log:
        written = fill(log, 200)
        first = log.truncate(150)
        assert 2 <= first <= 151
        assert log.first_sequence == first
        assert payloads(log) == written[first - 1 :]
        with pytest.raises(NotFound, match=rf"record {first - 1} was truncated; the oldest is {first}: begin with a"):
            log.read(first - 1)
    with opener() as log:
        assert (log.first_sequence, log.last_sequence) == (first, 200)
        assert payloads(log) == written[first - 1 :]
        assert log.append([b"more"]) == Appended(201, 201)
        assert log.truncate(201) <= 202
        assert log.append([b"still more"]) == Appended(202, 202)
    with opener() as log:
        assert log.append([b"on"]) == Appended(203, 203)
        assert payloads(log)[-2:] == [b"still more", b"on"]


def test_it_tells_how_far_it_reaches(log: Log) -> None:
    assert log.newest(timeout_s=10) == 0
    log.append([b"a", b"b"])
    assert log.newest(timeout_s=10) == 2
    assert log.reach.is_reachable
    assert log.reach.sequence <= 2


def test_after_closing_nothing_is_acknowledged(opener: Open) -> None:
    with opener() as log:
        log.append([b"a"])
    assert log.is_over
    with pytest.raises(Unavailable, match=r"\[append\] the log is closed"):
        log.append([b"b"])
    with pytest.raises(Unavailable, match=r"\[read\] the log is closed"):
        log.read(1)
    with pytest.raises(Unavailable, match=r"\[wait\] the log is closed"):
        log.wait(2, timeout_s=10)
    log.close()


def test_appends_that_meet_the_closing_end(opener: Open) -> None:
    for _ in range(5):
        kept: list[int] = []
        with opener() as log:
            before = log.last_sequence

            def work(log: Log = log, kept: list[int] = kept) -> None:
                with contextlib.suppress(Unavailable):
                    while True:
                        kept.append(log.append([b"x"]).last_sequence)

            threads = [threading.Thread(target=work) for _ in range(6)]
            for thread in threads:
                thread.start()
            log.wait(before + 10, timeout_s=30)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        with opener() as log:
            assert set(kept) <= {record.sequence for record in log.read(before + 1)}
