"""How many events a second are durable, by events in an append and threads that append, and how fast they are read again.

python benchmarks/event_log.py --seconds 3
python benchmarks/event_log.py --log postgresql://shop@127.0.0.1/shop
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import uuid
from pathlib import Path

from matching.event_log import SqlEventLog
from matching.events import Event, EventItem


def main() -> None:
    """Print one JSON object a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", help="path or address; a SQLite file in a new folder where not given")
    parser.add_argument("--folder", type=Path, help="where that folder is made: the disk to measure")
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for n_events, n_threads in ((1, 1), (1, 16), (10, 16), (100, 1), (500, 1), (500, 4)):
            where = asked.log or f"{folder}/events-{n_events}-{n_threads}.sqlite"
            with SqlEventLog.open(where) as log:
                print(json.dumps(measure(log, n_events, n_threads, asked.seconds)), flush=True)


def measure(log: SqlEventLog, n_events: int, n_threads: int, seconds: float) -> dict[str, float]:
    """Append for some seconds, then read all of it."""
    ends = time.perf_counter() + seconds
    n_before = log.stats().sequence
    waits: list[float] = []

    def write() -> None:
        while time.perf_counter() < ends:
            batch = [made(at) for at in range(n_events)]
            began = time.perf_counter()
            assert len(log.append(batch).accepted) == n_events
            waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    threads = [threading.Thread(target=write) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writing = time.perf_counter() - began
    began = time.perf_counter()
    n_read = sum(1 for _ in log.read(n_before))
    reading = time.perf_counter() - began
    waits.sort()
    return {
        "events_in_append": n_events,
        "threads": n_threads,
        "events_per_s": round(n_read / writing),
        "append_p50_ms": round(waits[len(waits) // 2] * 1e3, 2),
        "append_p99_ms": round(waits[int(len(waits) * 0.99)] * 1e3, 2),
        "read_events_per_s": round(n_read / reading),
    }


def made(at: int) -> Event:
    """Return a new event, of about the size of a shop's."""
    event_id = uuid.uuid4().hex
    item = EventItem(f"item-{at * 7919 % 100_000}", 1, 19.9)
    return Event(event_id, "view", event_id[:7], event_id[:9], (item,), 1_700_000_000_000 + at, 1_700_000_000_100)


if __name__ == "__main__":
    main()
