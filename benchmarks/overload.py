"""What is left of a service's goodput when more arrives than it can answer, with its limit of waiting and by deadlines alone?

Open loop: requests arrive as a Poisson process however the service fares, each with a deadline, and latency counts from the
moment a request was due. Goodput is answers within the deadline a second; its peak is that of a closed loop just before.
One request is a batch of exact searches over 20,000 vectors. The server runs on core 0, the generator on core 1. On a machine
that others use too, goodput is also told for each second of core 0 that was the server's to have: what it used and what lay idle.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import psutil
from grpc_load import STREAMS, GrpcConnection, call_of
from load import HttpConnection, Load

N, DIM, QUERIES = 20_000, 384, 4
DEADLINE_S = 0.25
TIMES = (1, 2, 5, 10)
MOST_AT_ONCE = 900
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
_MESSAGE = """
import sys
from google.protobuf import json_format
from serving.wire import likewise_pb2 as pb
message = json_format.Parse(sys.stdin.read(), pb.FindNeighborsRequest())
sys.stdout.buffer.write(message.SerializeToString())
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
def served(store: Path, settings: dict[str, Any]) -> Iterator[tuple[int, dict[str, str]]]:
    """Serve on core 0; yield the server's process id and its addresses."""
    with tempfile.TemporaryFile("w") as log:
        command = ["taskset", "-c", "0", sys.executable, "-c", _SERVE, str(store), json.dumps(settings)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=harness.ROOT)
        assert process.stdout is not None
        try:
            told = json.loads(process.stdout.readline())
            time.sleep(1.0)  # warm
            yield process.pid, {"http": told["http"].removeprefix("http://"), "grpc": told["grpc"]}
        finally:
            process.terminate()
            process.wait(15)
            process.stdout.close()


def _percentile(values: list[float], q: float) -> float | None:
    return round(float(np.percentile(values, q)) * 1e3, 2) if values else None


def _asked() -> Any:
    queries = np.random.default_rng(2).normal(size=(QUERIES, DIM)).round(5).tolist()
    return [{"datapoint": {"featureVector": query}, "neighborCount": 10, "exact": True} for query in queries]


def _http_request() -> bytes:
    body = json.dumps({"queries": _asked()}).encode()
    head = f"POST /v1/findNeighbors HTTP/1.1\r\nHost: b\r\ngrpc-timeout: {DEADLINE_S * 1e3:.0f}m\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _grpc_call() -> tuple[bytes, bytes]:
    # Elsewhere: the benchmark serving.py lies nearer to this one than the package.
    written = subprocess.run(
        [sys.executable, "-c", _MESSAGE],
        input=json.dumps({"queries": _asked()}).encode(),
        stdout=subprocess.PIPE,
        cwd=harness.ROOT,
        check=True,
    )
    return call_of("/likewise.v1.MatchService/FindNeighbors", written.stdout, DEADLINE_S * 1e3)


class Core:
    """What the server used of core 0, and what it could have had."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)
        self._before = self._now()
        self._memory = self._server.memory_info().rss

    def _now(self) -> tuple[float, float, float]:
        core = psutil.cpu_times(percpu=True)[0]
        return sum(self._server.cpu_times()[:2]), core.idle + core.iowait, time.perf_counter()

    def told(self, n_good: int) -> dict[str, float]:
        """Return its figures since it was made; `goodput_per_core_s` counts only the time that others left it."""
        used, idle, seconds = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return {
            "goodput_per_core_s": round(n_good / (used + idle), 1),
            "server_cpu_frac": round(used / seconds, 2),
            "idle_frac": round(idle / seconds, 2),
            "memory_growth_mb": round((self._server.memory_info().rss - self._memory) / 2**20, 1),
        }


async def measure(store: Path, transport: str, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the peak, and what is left of it at each multiple."""
    rng = random.Random(1)
    with served(store, settings) as (pid, addresses):
        load = Load(
            addresses[transport], _http_request() if transport == "http" else _grpc_call(), deadline_s=DEADLINE_S
        )
        if transport == "http":
            await load.connect(HttpConnection, MOST_AT_ONCE)
        else:
            await load.connect(GrpcConnection, MOST_AT_ONCE // STREAMS, n_at_once=STREAMS)
        await load.closed(1.0, 8)
        core = Core(pid)
        peak = await load.closed(seconds, 8)
        at_peak = core.told(len(load.good))
        print(json.dumps({"transport": transport, "peak_per_s": round(peak, 1), **at_peak}), flush=True)
        rows = []
        for times in TIMES:
            core = Core(pid)
            good = await load.open(seconds, times * peak, rng)
            told = core.told(len(load.good))
            row = {
                "times": times,
                "offered_per_s": round(times * peak),
                "goodput_per_s": round(good, 1),
                "goodput_frac": round(good / peak, 3),
                "goodput_frac_of_core": round(told["goodput_per_core_s"] / at_peak["goodput_per_core_s"], 3),
                "n_good": len(load.good),
                "p50_ms": _percentile(load.good, 50),
                "p99_ms": _percentile(load.good, 99),
                "refusal_p50_ms": _percentile(load.refusals, 50),
                "refusal_p99_ms": _percentile(load.refusals, 99),
                "generator_lag_p99_ms": _percentile(load.lags, 99),
                "statuses": {str(status): n for status, n in sorted(load.statuses.items())},
                "given_up": load.unsent,
                **told,
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
        again = await load.closed(seconds, 8)
    return {
        "peak_per_s": round(peak, 1),
        "at_peak": at_peak,
        "after_per_s": round(again, 1),
        "rows": rows,
        "connections_lost": load.lost,
    }


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
        for name, transport, settings in (
            ("shedding", "http", KEPT),
            ("by deadline alone", "http", {**KEPT, "max_wait_s": 1e9, "max_in_flight": 1_000_000}),
            ("gRPC", "grpc", KEPT),
            ("gRPC by grpcio", "grpc", {**KEPT, "grpc_server": "grpcio"}),
        ):
            print(name, flush=True)
            results[name] = asyncio.run(measure(store, transport, settings, arguments.seconds))
    harness.write("overload", {"deadline_s": DEADLINE_S, "seconds": arguments.seconds, **results})


if __name__ == "__main__":
    main()
