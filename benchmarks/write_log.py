"""How many durable appends a second does the write log take from 1, 8 and 32 threads, beside SQLite in WAL mode?

Every append is on disk before its thread goes on: SQLite commits with synchronous=FULL. It takes part twice, with a connection
a thread and with one connection behind a lock, and the faster one counts. Contestants run in turns A B A B in one process on
one disk, wall time, each run into a new folder; afterwards all records are read back, in order and whole. Ratios are medians
over the repeats. A record is 1,600 bytes, about a datapoint with 384 float32.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness

from matching.live import WriteLog, disk

PAYLOAD = bytes(range(256)) * 6 + b"x" * 64
Append = Callable[[bytes], object]


def timed(n_threads: int, n_each: int, thread_append: Callable[[], tuple[Append, Callable[[], None]]]) -> float:
    """Return the seconds from the moment when all threads are ready to the last acknowledgement."""
    ready = threading.Barrier(n_threads + 1)

    def work(thread: int) -> None:
        append, finish = thread_append()
        ready.wait()
        for i in range(n_each):
            append(b"%d %d " % (thread, i) + PAYLOAD)
        finish()

    with ThreadPoolExecutor(n_threads) as pool:
        working = [pool.submit(work, thread) for thread in range(n_threads)]
        ready.wait()
        start = time.perf_counter()
        for future in working:
            future.result()
        return time.perf_counter() - start


def check(payloads: list[bytes], n_threads: int, n_each: int) -> None:
    """Prove that every append is there, in the order of its thread."""
    assert len(payloads) == n_threads * n_each
    for thread in range(n_threads):
        mine = [payload for payload in payloads if payload.startswith(b"%d " % thread)]
        assert mine == [b"%d %d " % (thread, i) + PAYLOAD for i in range(n_each)]


def likewise(folder: Path, n_threads: int, n_each: int) -> float:
    """The write log."""
    with WriteLog.open(folder) as log:
        spent = timed(n_threads, n_each, lambda: (lambda payload: log.append([payload]), lambda: None))
    with WriteLog.open(folder) as log:
        check([record.payload for record in log.read(1)], n_threads, n_each)
    return spent


def connected(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "log.db", timeout=120, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS log (sequence INTEGER PRIMARY KEY, payload BLOB)")
    return connection


def written(folder: Path, n_threads: int, n_each: int) -> None:
    connection = connected(folder)
    check([row[0] for row in connection.execute("SELECT payload FROM log ORDER BY sequence")], n_threads, n_each)
    connection.close()


def sqlite_connections(folder: Path, n_threads: int, n_each: int) -> float:
    """A connection a thread; SQLite lets one of them write at a time."""
    first = connected(folder)

    def begin() -> tuple[Append, Callable[[], None]]:
        connection = connected(folder)
        return lambda payload: connection.execute("INSERT INTO log (payload) VALUES (?)", (payload,)), connection.close

    spent = timed(n_threads, n_each, begin)
    first.close()
    written(folder, n_threads, n_each)
    return spent


def sqlite_locked(folder: Path, n_threads: int, n_each: int) -> float:
    """One connection, and a lock around it."""
    connection, lock = connected(folder), threading.Lock()

    def append(payload: bytes) -> None:
        with lock:
            connection.execute("INSERT INTO log (payload) VALUES (?)", (payload,))

    spent = timed(n_threads, n_each, lambda: (append, lambda: None))
    connection.close()
    written(folder, n_threads, n_each)
    return spent


CONTESTANTS = {"likewise": likewise, "sqlite_connections": sqlite_connections, "sqlite_locked": sqlite_locked}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--appends", type=int, default=1600, help="a run, over all threads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    arguments = parser.parse_args()
    n_syncs = 0
    true_sync = disk.sync

    def counted(handle: int) -> None:
        nonlocal n_syncs
        n_syncs += 1
        true_sync(handle)

    disk.sync = counted
    figures: dict[str, object] = {"appends": arguments.appends, "payload_bytes": len(PAYLOAD)}
    for n_threads in (1, 8, 32):
        n_each = arguments.appends // n_threads
        rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        n_syncs = 0
        for _ in range(arguments.repeats):
            for name, run in CONTESTANTS.items():
                folder = Path(tempfile.mkdtemp(dir=arguments.folder))
                rates[name].append(n_threads * n_each / run(folder, n_threads, n_each))
                shutil.rmtree(folder)
        ratios = [a / max(b, c) for a, b, c in zip(*rates.values(), strict=True)]
        figures[f"{n_threads} threads"] = {
            "times_faster_than_sqlite": round(statistics.median(ratios), 2),
            "appends_a_sync": round(n_threads * n_each * arguments.repeats / n_syncs, 1),
            "appends_per_s": {name: round(statistics.median(rate)) for name, rate in rates.items()},
        }
    harness.write("write_log", figures)


if __name__ == "__main__":
    main()
