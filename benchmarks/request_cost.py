"""What does a find-neighbours request cost over HTTP and over gRPC, beside a request that searches next to nothing?

One server process per version, default settings, log lines included; the generator runs in a process of its own. CPU is the
server process's user and system time over the requests it answered. The null server answers the same requests from a
version of 64 vectors: its figures are the price of transport, parsing and writing alone. With `--beside DIR` the services of
another checkout, its native module built, are asked in the same turns. Figures are medians of the turns. Recall@10 is of the
very answers that were timed, against exact neighbors.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray

K = 10
CONNECTIONS = (1, 8, 32)
_SERVE = """
import sys
from pathlib import Path
from matching.store import Store
from serving import ServingSettings
from serving.server import serve
serve(Store(Path(sys.argv[1])), sys.argv[2], settings=ServingSettings(), http_port=0, grpc_port=0, as_json=True)
"""


def build(store_path: Path, alias: str, base: NDArray[np.float32], plan: str) -> None:
    """Publish a version of the vectors; a version of that alias that lies there already is kept."""
    from index_builder.draft import Draft
    from index_builder.progress import Silent
    from index_builder.settings import BuildSettings
    from matching.datapoint import Datapoint, Restrict
    from matching.store import Store

    store = Store(store_path, create=True)
    if alias in store.aliases():
        return
    draft = Draft(store, BuildSettings(plan=plan), Silent())  # type: ignore[arg-type]
    space = draft.new_space("vectors", base.shape[1], space_id="benchmark", metric="ip")
    for first in range(0, len(base), 4096):
        part = base[first : first + 4096]
        for at in range(first, first + len(part)):
            draft.columns.add(Datapoint(f"{at:08}", (Restrict("tenth", (str(at % 10),)),)))
        space.vectors.append(part, np.arange(first, first + len(part)))
    store.set_alias(alias, draft.finish(source={"kind": "benchmark"}, parent=None).version_id, why="benchmark")


@contextlib.contextmanager
def served(store: Path, alias: str, checkout: Path = harness.ROOT) -> Iterator[tuple[int, dict[str, str]]]:
    """Serve a version with the code of a checkout; yield the server's process id and addresses."""
    with tempfile.TemporaryFile("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(store), alias],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=checkout,
        )
        assert process.stdout is not None
        try:
            told = json.loads(process.stdout.readline())
            time.sleep(1.0)  # warm
            yield process.pid, told
        finally:
            process.terminate()
            process.wait(15)
            process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- the generator, in a process of its own ------------------------------------------------------------------------


async def http_caller(address: str, bodies: list[bytes]) -> Callable[[int], Awaitable[bytes]]:
    """Return a call over one kept connection; the answer's body comes back unread."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    head = b"POST /v1/findNeighbors HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n"
    requests = [head % len(body) + body for body in bodies]

    async def call(at: int) -> bytes:
        writer.write(requests[at])
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r")[0])
        return await reader.readexactly(length)

    return call


async def grpc_caller(address: str, messages: list[bytes]) -> Callable[[int], Awaitable[bytes]]:
    """Return a call over a channel of its own; the answer comes back unparsed."""
    import grpc.aio

    channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    method = channel.unary_unary("/likewise.v1.MatchService/FindNeighbors")

    async def call(at: int) -> bytes:
        answer: bytes = await method(messages[at])
        return answer

    return call


async def generate(asked: dict[str, Any]) -> dict[str, Any]:
    """Ask in a closed loop for some seconds, from each connection one request at a time."""
    sys.path.insert(0, str(harness.ROOT))  # this file has the name of a package there
    queries = np.load(asked["queries"])
    extra = {"restricts": [{"namespace": "tenth", "allowList": ["3"]}]} if asked["filtered"] else {}
    asks = [
        {"queries": [{"datapoint": {"featureVector": [round(x, 7) for x in q], **extra}, "neighborCount": asked["k"]}]}
        for q in queries.tolist()
    ]
    if asked["transport"] == "http":
        make, payloads = http_caller, [json.dumps(ask).encode() for ask in asks]
    else:
        from google.protobuf import json_format

        from serving.wire import likewise_pb2 as pb

        make = grpc_caller
        payloads = [json_format.ParseDict(ask, pb.FindNeighborsRequest()).SerializeToString() for ask in asks]
    calls = [await make(asked["address"], payloads) for _ in range(asked["connections"])]
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    answers: dict[int, bytes] = {}
    numbers = iter(range(1 << 60))
    measured: dict[str, float] = {}
    began = loop.time()
    warm, end = began + 1.0, began + 1.0 + asked["seconds"]

    async def ask(call: Callable[[int], Awaitable[bytes]]) -> None:
        while (start := time.perf_counter()) and loop.time() < end:
            at = next(numbers) % len(payloads)
            answer = await call(at)
            if loop.time() < warm:
                continue
            if not measured:
                measured["cpu"], measured["at"] = cpu_seconds(asked["pid"]), loop.time()
            else:
                latencies.append(time.perf_counter() - start)
                answers[at] = answer

    await asyncio.gather(*(ask(call) for call in calls))
    spent, seconds = cpu_seconds(asked["pid"]) - measured["cpu"], loop.time() - measured["at"]
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return {
        "requests_per_s": len(latencies) / seconds,
        "p50_ms": p50,
        "p99_ms": p99,
        "server_cpu_us": spent / len(latencies) * 1e6,
        "client_cpu_us": time.process_time() / len(latencies) * 1e6,
        "found": {at: _ids(asked["transport"], answer) for at, answer in answers.items()},
    }


def _ids(transport: str, answer: bytes) -> list[int]:
    if transport == "http":
        neighbors = json.loads(answer)["nearestNeighbors"][0]["neighbors"]
        return [int(neighbor["datapoint"]["datapointId"]) for neighbor in neighbors]
    from serving.wire import likewise_pb2 as pb

    response = pb.FindNeighborsResponse.FromString(answer)
    return [int(neighbor.datapoint.datapoint_id) for neighbor in response.nearest_neighbors[0].neighbors]


def measure(pid: int, told: dict[str, str], queries: Path, **asked: Any) -> dict[str, Any]:
    """Run the generator once and return its figures."""
    asked |= {"pid": pid, "address": told[asked["transport"]], "queries": str(queries)}
    done = subprocess.run(
        [sys.executable, __file__, "--generate", json.dumps(asked)],
        capture_output=True,
        text=True,
        check=True,
        cwd=harness.ROOT,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> None:
    """Measure both transports at several numbers of connections, all servers in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100_000, help="vectors")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--store", type=Path, help="keep the built versions here")
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.generate:
        print(json.dumps(asyncio.run(generate(json.loads(asked.generate)))))
        return
    base, queries = harness.package_summaries(asked.n)
    checkouts = {"this": harness.ROOT} | ({"beside": asked.beside} if asked.beside else {})
    with contextlib.ExitStack() as stack:
        store = asked.store or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        build(store, f"real-{asked.n}", base, "graph")
        build(store, "null", base[:64], "flat")
        np.save(store / "queries.npy", queries)
        scores = queries @ base.T
        true = np.argsort(-scores, axis=1)[:, :K]
        scores[:, np.arange(asked.n) % 10 != 3] = -np.inf
        true_filtered = np.argsort(-scores, axis=1)[:, :K]
        servers = {
            (name, kind): stack.enter_context(served(store, alias, checkout))
            for name, checkout in checkouts.items()
            for kind, alias in (("real", f"real-{asked.n}"), ("null", "null"))
        }
        rows: list[dict[str, Any]] = []
        for transport in ("http", "grpc"):
            for connections, filtered in [(c, False) for c in CONNECTIONS] + [(8, True)]:
                shape = {"transport": transport, "connections": connections, "filtered": filtered}
                turns: dict[tuple[str, str], list[dict[str, Any]]] = {server: [] for server in servers}
                for _ in range(asked.repeats):
                    for (name, kind), told in servers.items():
                        k = K if kind == "real" else 1
                        figures = measure(*told, store / "queries.npy", k=k, seconds=asked.seconds, **shape)
                        turns[name, kind].append(figures)
                for name in checkouts:
                    row = _medians(turns[name, "real"])
                    found = {int(at): ids for turn in turns[name, "real"] for at, ids in turn["found"].items()}
                    wanted = true_filtered if filtered else true
                    row["recall_at_10"] = harness.recall(np.array(list(found.values())), wanted[list(found)])
                    without = _medians(turns[name, "null"])
                    row["null_server_cpu_us"], row["null_p50_ms"] = without["server_cpu_us"], without["p50_ms"]
                    row["cpu_ratio_to_null"] = row["server_cpu_us"] / row["null_server_cpu_us"]
                    rounded = {key: round(value, 3) for key, value in row.items()}
                    rows.append({"code": name, **shape, **rounded})
                    print(rows[-1], file=sys.stderr)
        harness.write(
            "request_cost", {"n": asked.n, "dim": base.shape[1], "k": K, "repeats": asked.repeats, "rows": rows}
        )


def _medians(turns: list[dict[str, Any]]) -> dict[str, float]:
    names = ("requests_per_s", "p50_ms", "p99_ms", "server_cpu_us", "client_cpu_us")
    return {name: statistics.median(turn[name] for turn in turns) for name in names}


if __name__ == "__main__":
    main()
