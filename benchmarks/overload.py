"""What is left of a service's goodput when more arrives than it can answer, with its limit of waiting and by deadlines alone?

Open loop: requests arrive as a Poisson process however the service fares, each with a deadline, and latency counts from the
moment a request was due. Goodput is answers within the deadline a second; its peak is that of a closed loop just before.
One request is a batch of exact searches over 20,000 vectors. The server has core 0 to itself as far as the machine allows,
the generator core 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import psutil

N, DIM, QUERIES = 20_000, 384, 4
DEADLINE_S = 0.25
TIMES = (1, 2, 5, 10)
MOST_CONNECTIONS = 900
KEPT = {"receive_deadline_s": 3600.0}  # connections are opened before the clock runs, and wait for their first request
_SERVE = """
import json, sys
from pathlib import Path
from matching.store import Store
from serving import ServingSettings
from serving.server import serve
settings = ServingSettings(**json.loads(sys.argv[2]))
serve(Store(Path(sys.argv[1])), "bench", settings=settings, http_port=0, grpc_port=0, as_json=True, log_requests=False)
"""


def build(store_path: Path) -> None:
    """Publish a version of random unit vectors that is scanned."""
    from index_builder.draft import Draft
    from index_builder.progress import Silent
    from index_builder.settings import BuildSettings
    from matching.datapoint import Datapoint
    from matching.store import Store

    base = np.random.default_rng(1).normal(size=(N, DIM)).astype(np.float32)
    store = Store(store_path, create=True)
    draft = Draft(store, BuildSettings(plan="flat"), Silent())
    space = draft.new_space("vectors", DIM, space_id="benchmark", metric="l2")
    for at in range(N):
        draft.columns.add(Datapoint(f"{at:08}"))
    space.vectors.append(base, np.arange(N))
    store.set_alias("bench", draft.finish(source={"kind": "benchmark"}, parent=None).version_id, why="benchmark")


@contextlib.contextmanager
def served(store: Path, settings: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Serve on core 0; yield the server's process id and its address."""
    with tempfile.TemporaryFile("w") as log:
        command = ["taskset", "-c", "0", sys.executable, "-c", _SERVE, str(store), json.dumps(settings)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=harness.ROOT)
        assert process.stdout is not None
        try:
            told = json.loads(process.stdout.readline())
            time.sleep(1.0)  # warm
            yield process.pid, told["http"].removeprefix("http://")
        finally:
            process.terminate()
            process.wait(15)
            process.stdout.close()


class Connection(asyncio.Protocol):
    """Sends one request at a time and tells when its answer is there."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._left = -1
        self._held = b""
        self._due = 0.0
        self._status = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, due: float) -> None:
        self._due, self._left, self._held = due, -1, b""
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._held += data
            head, found, rest = self._held.partition(b"\r\n\r\n")
            if not found:
                return
            self._status = int(head[9:12])
            lowered = head.lower()
            at = lowered.index(b"content-length: ") + 16
            self._left = int(lowered[at:].split(b"\r", 1)[0])
            data = rest
        self._left -= len(data)
        if self._left <= 0:
            self._load.answered(self._status, time.perf_counter() - self._due)
            self._load.free.append(self)
            self._load.freed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost += 1


class Load:
    """What is asked of one address, and what came back."""

    def __init__(self, address: str, request: bytes) -> None:
        self.host, port = address.split(":")
        self.port = int(port)
        self.request = request
        self.free: deque[Connection] = deque()
        self.freed = asyncio.Event()
        self.lost = 0
        self.reset()

    def reset(self) -> None:
        self.n_connections = len(self.free)
        self.statuses: Counter[int] = Counter()
        self.good: list[float] = []
        self.refusals: list[float] = []
        self.unsent = 0

    def answered(self, status: int, seconds: float) -> None:
        self.statuses[status] += 1
        if status == 200 and seconds <= DEADLINE_S:
            self.good.append(seconds)
        elif status != 200:
            self.refusals.append(seconds)

    async def connect(self, n: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(n):
            _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
            self.free.append(connection)

    async def closed(self, seconds: float, n: int) -> float:
        """Keep n requests under way; return answers within the deadline a second."""
        self.reset()
        began = time.perf_counter()
        under_way = 0
        while (now := time.perf_counter()) - began < seconds:
            n_before = sum(self.statuses.values())
            while self.free and under_way - n_before < n:
                self.free.pop().ask(now)
                under_way += 1
            self.freed.clear()
            await self.freed.wait()
        rate = len(self.good) / (time.perf_counter() - began)
        await asyncio.sleep(1.0)
        return rate

    async def open(self, seconds: float, rate: float, rng: random.Random) -> float:
        """Let requests arrive at a rate; return answers within the deadline a second."""
        self.reset()
        began = due = time.perf_counter()
        while due - began < seconds:
            due += rng.expovariate(rate)
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            elif rng.random() < 0.05:
                await asyncio.sleep(0)  # behind its time: answers are read all the same
            if self.free:
                self.free.pop().ask(due)
            else:
                self.unsent += 1  # every connection waits: this caller gives up
        spent = time.perf_counter() - began
        good = len(self.good) / spent
        await asyncio.sleep(DEADLINE_S + 1.0)
        return good


def _percentile(values: list[float], q: float) -> float | None:
    return round(float(np.percentile(values, q)) * 1e3, 2) if values else None


async def measure(store: Path, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the peak, and what is left of it at each multiple."""
    rng = random.Random(1)
    queries = np.random.default_rng(2).normal(size=(QUERIES, DIM)).round(5).tolist()
    asked = [{"datapoint": {"featureVector": query}, "neighborCount": 10, "exact": True} for query in queries]
    body = json.dumps({"queries": asked}).encode()
    head = f"POST /v1/findNeighbors HTTP/1.1\r\nHost: b\r\ngrpc-timeout: {DEADLINE_S * 1e3:.0f}m\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with served(store, settings) as (pid, address):
        load = Load(address, request)
        await load.connect(MOST_CONNECTIONS)
        await load.closed(1.0, 8)
        peak = await load.closed(seconds, 8)
        rows = []
        for times in TIMES:
            server = psutil.Process(pid)
            memory, cpu = server.memory_info().rss, sum(server.cpu_times()[:2])
            good = await load.open(seconds, times * peak, rng)
            row = {
                "times": times,
                "offered_per_s": round(times * peak),
                "goodput_per_s": round(good, 1),
                "goodput_frac": round(good / peak, 3),
                "p50_ms": _percentile(load.good, 50),
                "p99_ms": _percentile(load.good, 99),
                "refusal_p99_ms": _percentile(load.refusals, 99),
                "statuses": {str(status): n for status, n in sorted(load.statuses.items())},
                "given_up": load.unsent,
                "memory_growth_mb": round((server.memory_info().rss - memory) / 2**20, 1),
                "server_cpu_frac": round((sum(server.cpu_times()[:2]) - cpu) / (seconds + DEADLINE_S + 1.0), 2),
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
        again = await load.closed(seconds, 8)
    return {"peak_per_s": round(peak, 1), "after_per_s": round(again, 1), "rows": rows, "connections_lost": load.lost}


def main() -> None:
    """Measure with the limit of waiting and by deadlines alone, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        build(store)
        results = {}
        for name, settings in (
            ("shedding", KEPT),
            ("by deadline alone", {**KEPT, "max_wait_s": 1e9, "max_in_flight": 1_000_000}),
        ):
            print(name, flush=True)
            results[name] = asyncio.run(measure(store, settings, arguments.seconds))
    harness.write("overload", {"deadline_s": DEADLINE_S, "seconds": arguments.seconds, **results})


if __name__ == "__main__":
    main()
