"""What does a find-neighbours request cost, and how long does it take, beside PostgreSQL with pgvector and Chroma?

Every service holds the same vectors in a graph of its own kind (Likewise's plan `graph`, HNSW of 16 links and 200 candidates
in the others), asked at the least effort that reaches the recall asked for, found by trying. One generator process asks all of
them: closed loop from some connections, one request at a time each, and open loop at a rate, where latency counts from the
moment a request was due. Services take turns, `--repeats` times; figures are medians of the turns. CPU is user and system time
of the service's processes over the requests they answered. Recall@10 is of the answers that were timed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

K = 10
CONNECTIONS = (1, 8, 32)
SERVICES = Path(__file__).resolve().parent.parent / ".peers" / "services" / "bin"
EFFORTS = (10, 16, 24, 32, 40, 56, 80, 112, 160, 240, 400)
Call = Callable[[int], Awaitable[list[int]]]
Connect = Callable[[], Awaitable[Call]]
_POSTGRES = """
import json, signal, sys, pgserver
server = pgserver.get_server(sys.argv[1], cleanup_mode="stop")
server.psql("ALTER SYSTEM SET shared_buffers = '1GB'")  # so that the index lies in PostgreSQL's own memory
server.cleanup()
server = pgserver.get_server(sys.argv[1], cleanup_mode="stop")
print(json.dumps({"uri": server.get_uri(), "pid": server.get_pid()}), flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
server.cleanup()
"""


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process and all that it started, those that have ended too."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                parents[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    family, ticks = {pid}, 0
    grown = True
    while grown:
        found = {child for child, (parent, _) in parents.items() if parent in family} - family
        grown = bool(found)
        family |= found
    for each in family:
        ticks += parents.get(each, (0, 0))[1]
    return ticks / os.sysconf("SC_CLK_TCK")


# ---- the generator: a process of its own, in the environment of the services -----------------------------------------


async def http_json(address: str, path: str, bodies: list[bytes]) -> Callable[[int], Awaitable[Any]]:
    """Return a call over one kept connection."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    head = f"POST {path} HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n".encode()
    requests = [head % len(body) + body for body in bodies]

    async def call(at: int) -> bytes:
        writer.write(requests[at])
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r")[0])
        return await reader.readexactly(length)

    return call


def likewise_http(asked: dict[str, Any], queries: list[list[float]]) -> Connect:
    """Ask Likewise over HTTP."""
    bodies = [
        json.dumps({"queries": [{"datapoint": {"featureVector": q}, "neighborCount": K, **asked["knobs"]}]}).encode()
        for q in queries
    ]

    async def connect() -> Call:
        post = await http_json(asked["address"], "/v1/findNeighbors", bodies)

        async def call(at: int) -> list[int]:
            found = json.loads(await post(at))["nearestNeighbors"][0]["neighbors"]
            return [int(each["datapoint"]["datapointId"]) for each in found]

        return call

    return connect


def likewise_grpc(asked: dict[str, Any], queries: list[list[float]]) -> Connect:
    """Ask Likewise over gRPC, each connection a channel of its own."""
    import grpc.aio

    sys.path.insert(0, asked["root"])
    from serving.wire import likewise_pb2 as pb

    effort = asked["knobs"].get("approximateNeighborCount", 0)
    messages = [
        pb.FindNeighborsRequest(
            queries=[
                pb.FindNeighborsRequest.Query(
                    datapoint=pb.IndexDatapoint(feature_vector=q), neighbor_count=K, approximate_neighbor_count=effort
                )
            ]
        ).SerializeToString()
        for q in queries
    ]

    async def connect() -> Call:
        channel = grpc.aio.insecure_channel(asked["address"], options=[("grpc.use_local_subchannel_pool", 1)])
        method = channel.unary_unary("/likewise.v1.MatchService/FindNeighbors")

        async def call(at: int) -> list[int]:
            answer = pb.FindNeighborsResponse.FromString(await method(messages[at]))
            return [int(each.datapoint.datapoint_id) for each in answer.nearest_neighbors[0].neighbors]

        return call

    return connect


def pg_vector(vector: NDArray[np.float32]) -> bytes:
    """Return a vector as pgvector sends and receives it: its length, 0, and big-endian numbers."""
    return np.array([len(vector), 0], ">i2").tobytes() + vector.astype(">f4").tobytes()


def pgvector(asked: dict[str, Any], queries: list[list[float]]) -> Connect:
    """Ask PostgreSQL by a prepared statement with a binary parameter; as text a vector of 384 costs 1 ms more to read."""
    import asyncpg

    vectors = [np.array(q, np.float32) for q in queries]

    async def connect() -> Call:
        connection = await asyncpg.connect(asked["address"])
        await connection.execute(f"SET hnsw.ef_search = {asked['knobs']['ef']}")
        await connection.set_type_codec("vector", encoder=pg_vector, decoder=bytes, format="binary")
        ready = await connection.prepare(f"SELECT id FROM items ORDER BY embedding <#> $1 LIMIT {K}")

        async def call(at: int) -> list[int]:
            return [row[0] for row in await ready.fetch(vectors[at])]

        return call

    return connect


def chroma(asked: dict[str, Any], queries: list[list[float]]) -> Connect:
    """Ask Chroma over HTTP."""
    path = f"/api/v2/tenants/default_tenant/databases/default_database/collections/{asked['knobs']['collection']}/query"
    bodies = [json.dumps({"query_embeddings": [q], "n_results": K, "include": []}).encode() for q in queries]

    async def connect() -> Call:
        post = await http_json(asked["address"], path, bodies)

        async def call(at: int) -> list[int]:
            return [int(each) for each in json.loads(await post(at))["ids"][0]]

        return call

    return connect


CALLERS = {"likewise http": likewise_http, "likewise grpc": likewise_grpc, "pgvector": pgvector, "chroma": chroma}


async def generate(asked: dict[str, Any]) -> dict[str, Any]:
    """Ask for some seconds and return the figures."""
    queries = [[round(x, 7) for x in q] for q in np.load(asked["queries"]).tolist()]
    connect = CALLERS[asked["service"]](asked, queries)
    calls = [await connect() for _ in range(asked["connections"])]
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    answers: dict[int, list[int]] = {}
    numbers = iter(range(1 << 60))
    warm = loop.time() + 0.5
    end = warm + asked["seconds"]
    cpu = 0.0

    async def ask(call: Call, due: float) -> None:
        at = next(numbers) % len(queries)
        found = await call(at)
        if due >= warm:
            latencies.append(loop.time() - due)
            answers[at] = found

    async def closed(call: Call) -> None:
        while loop.time() < end:
            await ask(call, loop.time())

    async def opened(call: Call, first: int) -> None:
        due = warm - 0.5 + first / asked["rate"]
        while due < end:
            await asyncio.sleep(max(due - loop.time(), 0))
            await ask(call, due)
            due += len(calls) / asked["rate"]

    async def clock() -> None:
        nonlocal cpu
        await asyncio.sleep(max(warm - loop.time(), 0))
        cpu = cpu_seconds(asked["pid"])

    work = [opened(call, at) if asked["rate"] else closed(call) for at, call in enumerate(calls)]
    await asyncio.gather(clock(), *work)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return {
        "requests_per_s": len(latencies) / asked["seconds"],
        "p50_ms": p50,
        "p99_ms": p99,
        "server_cpu_us": (cpu_seconds(asked["pid"]) - cpu) / len(latencies) * 1e6,
        "found": answers,
    }


# ---- the services ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(command: list[str], *, out: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """Run a service until the block ends."""
    process = subprocess.Popen(command, text=True, stdout=out, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def postgres(folder: Path, base: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
    """PostgreSQL with the vectors in a table and an HNSW index over them; what lies in the folder already is kept."""
    is_built = folder.exists()
    with started([str(SERVICES / "python"), "-c", _POSTGRES, str(folder)], out=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        np.save(folder.parent / "base.npy", base)
        script = f"""
import asyncio, asyncpg, sys, numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from service_peers import pg_vector
async def main():
    base = np.load({str(folder.parent / "base.npy")!r})
    c = await asyncpg.connect({told["uri"]!r}, command_timeout=3600)
    await c.execute("CREATE EXTENSION vector; SET maintenance_work_mem = '2GB'; SET max_parallel_maintenance_workers = 1")
    await c.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({base.shape[1]}))")
    await c.set_type_codec("vector", encoder=pg_vector, decoder=bytes, format="binary")
    await c.copy_records_to_table("items", records=enumerate(base))
    await c.execute("CREATE INDEX ON items USING hnsw (embedding vector_ip_ops) WITH (m = 16, ef_construction = 200)")
    await c.execute("VACUUM ANALYZE items")
asyncio.run(main())
"""
        if not is_built:
            subprocess.run([str(SERVICES / "python"), "-c", script], check=True)
        yield {"address": told["uri"], "pid": told["pid"], "knobs": [{"ef": effort} for effort in EFFORTS]}


@contextlib.contextmanager
def chroma_server(folder: Path, base: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
    """A Chroma server with one collection for each effort, which Chroma takes when a collection is made."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with started([str(SERVICES / "chroma"), "run", "--path", str(folder), "--port", str(port)]) as process:
        np.save(folder.parent / "base.npy", base)
        script = f"""
import chromadb, json, time, numpy as np
for _ in range(100):
    try:
        client = chromadb.HttpClient(port={port}); break
    except Exception: time.sleep(0.2)
base = np.load({str(folder.parent / "base.npy")!r})
out = []
for ef in (16, 40, 100):
    held = client.create_collection(f"items-{{ef}}", embedding_function=None, configuration={{"hnsw": {{
        "space": "ip", "max_neighbors": 16, "ef_construction": 200, "ef_search": ef, "num_threads": 1}}}})
    for at in range(0, len(base), 2000):
        part = base[at:at + 2000]
        held.add(ids=[str(at + i) for i in range(len(part))], embeddings=part)
    out.append({{"collection": str(held.id), "ef": ef}})
print(json.dumps(out))
"""
        done = subprocess.run([str(SERVICES / "python"), "-c", script], check=True, capture_output=True, text=True)
        knobs = json.loads(done.stdout.splitlines()[-1])
        yield {"address": f"http://127.0.0.1:{port}", "pid": process.pid, "knobs": knobs}


@contextlib.contextmanager
def likewise(folder: Path, base: NDArray[np.float32]) -> Iterator[dict[str, dict[str, Any]]]:
    """Likewise over both transports, asked at the recall that it was built for."""
    import request_cost as bench

    bench.build(folder, "peers", base, "graph")
    with bench.served(folder, "peers") as (pid, told):
        yield {
            f"likewise {transport}": {"address": told[transport], "pid": pid, "knobs": [{}]}
            for transport in ("http", "grpc")
        }


def measured(service: str, told: dict[str, Any], knobs: dict[str, Any], folder: Path, **asked: Any) -> dict[str, Any]:
    """Run the generator once; likewise's gRPC needs this environment, the others theirs."""
    python = sys.executable if service.startswith("likewise") else str(SERVICES / "python")
    asked |= {"service": service, "knobs": knobs, "address": told["address"], "pid": told["pid"]}
    asked |= {"queries": str(folder / "queries.npy"), "root": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(
        [python, __file__, "--generate", json.dumps(asked)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def recall_of(found: dict[str, list[int]], true: NDArray[np.int64]) -> float:
    """Recall@10 of answers by the number of their query."""
    return float(np.mean([len(set(ids) & set(true[int(at)].tolist())) / K for at, ids in found.items()]))


def main() -> None:
    """Build, tune, measure in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100_000, help="vectors")
    parser.add_argument("--recall", type=float, default=0.95, help="what every service must reach")
    parser.add_argument("--rate", type=float, default=200, help="requests a second of the open loop, 8 connections")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--without", default="", help="a,b: services to leave out")
    parser.add_argument("--keep", type=Path, help="keep what Likewise and PostgreSQL build here")
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.generate:
        print(json.dumps(asyncio.run(generate(json.loads(asked.generate)))))
        return
    import harness

    base, queries = harness.package_summaries(asked.n)
    true = np.argsort(-(queries @ base.T), axis=1)[:, :K]
    with contextlib.ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.save(folder / "queries.npy", queries)
        services = stack.enter_context(likewise(folder / "store", base))
        for name, serve in (("pgvector", postgres), ("chroma", chroma_server)):
            if name not in asked.without.split(","):
                services[name] = stack.enter_context(serve(folder / name, base))
        chosen = {}
        for name, told in services.items():
            for knobs in told["knobs"]:
                tried = measured(name, told, knobs, folder, connections=4, rate=0, seconds=1.5)
                recall = recall_of(tried["found"], true)
                chosen[name] = knobs
                print(f"{name} {knobs}: recall {recall:.3f}", file=sys.stderr)
                if recall >= asked.recall:
                    break
        rows = []
        for connections, rate in [(c, 0.0) for c in CONNECTIONS] + [(8, asked.rate)]:
            turns: dict[str, list[dict[str, Any]]] = {name: [] for name in services}
            for _ in range(asked.repeats):
                for name, told in services.items():
                    turns[name].append(
                        measured(
                            name, told, chosen[name], folder, connections=connections, rate=rate, seconds=asked.seconds
                        )
                    )
                    time.sleep(0.2)
            for name, own in turns.items():
                figures = {
                    key: round(statistics.median(turn[key] for turn in own), 3)
                    for key in ("requests_per_s", "p50_ms", "p99_ms", "server_cpu_us")
                }
                found = {at: ids for turn in own for at, ids in turn["found"].items()}
                rows.append(
                    {
                        "service": name,
                        "connections": connections,
                        "rate": rate,
                        **figures,
                        "recall_at_10": round(recall_of(found, true), 4),
                    }
                )
                print(rows[-1], file=sys.stderr)
        harness.write(
            "service_peers", {"n": asked.n, "dim": base.shape[1], "k": K, "repeats": asked.repeats, "rows": rows}
        )


if __name__ == "__main__":
    main()
