"""How many events a second does a service take over HTTP, durably, and what does one cost?

python benchmarks/event_intake.py --seconds 5
python benchmarks/event_intake.py --log postgresql://shop@127.0.0.1/shop

A service in a process of its own, over vectors that are made up; clients in another process send batches over kept connections,
each event of about the size of a shop's. Told are events and requests a second, the CPU of the service for each event, and how
long requests take.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

sys.path.append(sys.path.pop(0))  # a benchmark beside this one is called as a package is
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import psutil

from index_builder.draft import Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint
from matching.store import Store
from tests.services import Service, Shop, running_service


def main() -> None:
    """Print one JSON object a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", help="path or address; a SQLite file in a new folder where not given")
    parser.add_argument("--folder", type=Path, help="where that folder is made: the disk to measure")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--clients", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        events = {
            "log": asked.log or str(folder / "events.sqlite"),
            "user_key_file": str(folder / "users.key"),
            "max_per_minute": 1_000_000,
        }
        with running_service(made_shop(folder), folder / "service.log", events=events) as service:
            service.wait_until_ready()
            for n_events in asked.batches:
                print(json.dumps(measure(service, n_events, asked.clients, asked.seconds)), flush=True)


def made_shop(folder: Path) -> Shop:
    """Return a small version: what is served has little to do with what events cost."""
    draft = Draft(Store(folder / "store", create=True), BuildSettings(plan="flat", threads=1), Silent())
    space = draft.new_space("vectors", 8, space_id="made", metric="l2")
    for at in range(1_000):
        draft.columns.add(Datapoint(f"item-{at}"))
    space.vectors.append(np.random.default_rng(1).normal(size=(1_000, 8)).astype(np.float32), np.arange(1_000))
    built = draft.finish(source={"kind": "made"}, parent=None)
    return Shop(folder / "store", built.version_id)


def measure(service: Service, n_events: int, n_clients: int, seconds: float) -> dict[str, float]:
    """Send batches for some seconds."""
    address = urlsplit(service.http)
    process = psutil.Process(service.process.pid)
    ends = time.perf_counter() + seconds
    waits: list[float] = []

    def send() -> None:
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
        while time.perf_counter() < ends:
            body = made(n_events)
            began = time.perf_counter()
            connection.request("POST", "/v1/events", body)
            answer = connection.getresponse()
            told = answer.read()
            waits.append(time.perf_counter() - began)
            assert answer.status == 200, told
            assert told.count(b"accepted") == n_events
        connection.close()

    cpu, began = process.cpu_times(), time.perf_counter()
    threads = [threading.Thread(target=send) for _ in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    after = process.cpu_times()
    n_taken = len(waits) * n_events
    waits.sort()
    return {
        "events_in_request": n_events,
        "clients": n_clients,
        "events_per_s": round(n_taken / took),
        "requests_per_s": round(len(waits) / took, 1),
        "cpu_us_an_event": round((after.user + after.system - cpu.user - cpu.system) / n_taken * 1e6, 1),
        "p50_ms": round(waits[len(waits) // 2] * 1e3, 2),
        "p99_ms": round(waits[int(len(waits) * 0.99)] * 1e3, 2),
    }


def made(n_events: int) -> bytes:
    """Return a body of new events, cheaply: the service's cost is what is measured."""
    salt = uuid.uuid4().hex
    events = [
        f'{{"eventId":"{salt}{at}","eventType":"view","userId":"user-{salt[:6]}{at % 50}","sessionId":"{salt[6:16]}{at % 50}",'
        f'"items":[{{"itemId":"item-{at * 7919 % 1000}","quantity":1,"value":19.9}}]}}'
        for at in range(n_events)
    ]
    return f'{{"events":[{",".join(events)}]}}'.encode()


if __name__ == "__main__":
    main()
