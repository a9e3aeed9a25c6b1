"""How many queries a second does the graph answer at recall@10 of .90, .95 and .99, beside the libraries of `peers.py`?

All contestants answer the same queries in one process, in turns A B A B. Recall is our own, from the raw vectors: a row counts
when its exact distance is within the k-th one, and once however often it is named. `single` is one Python call a query on one
pinned core, in CPU time of the process; `batch` hands all queries over at once on `--threads` threads, in wall time.
Queries a second at a recall are interpolated on a logarithmic scale between neighbouring efforts of the Pareto front;
ratios are medians over the repeats. Build time is CPU time, of all threads. Memory is what a reopened index allocates, plus the
files that it maps and reads: all of them, and the pages that 1,000 queries touched (`RSS`). Likewise takes part twice, in
memory of its own as the libraries are and with its file mapped; ratios are those of the first.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import gzip
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
import numpy as np
import peers
import pyarrow.parquet as pq
from peers import Mask, Peer, Rows, Vectors
from threadpoolctl import threadpool_limits

K = 10
TARGETS = (0.9, 0.95, 0.99)
ENOUGH = 0.995  # no effort is tried beyond the first that finds as much
FASHION = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Data:
    """Vectors to index, queries and the metric; unit vectors where it is the cosine."""

    name: str
    base: Vectors
    queries: Vectors
    metric: str


def load(name: str, *, rows: int | None, n_queries: int, metric: str | None, cache: Path | None, threads: int) -> Data:
    """Return a data set, its first `rows` rows and `n_queries` queries."""
    usual, make = {
        "package_summaries": ("ip", lambda: harness.package_summaries(rows or 200_000)),
        "glove": ("cosine", _glove),
        "fashion": ("l2", _fashion),
        "pictures": ("cosine", lambda: _pictures(cache, threads)),
        "generated": ("l2", lambda: generated(rows or 1_000_000)),
    }[name]
    metric = metric or usual
    base, queries = (np.ascontiguousarray(part, np.float32) for part in make())
    base, queries = base[:rows], queries[:n_queries]
    if metric == "cosine":
        base, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (base, queries))
    return Data(name, base, queries, metric)


def _glove() -> tuple[Vectors, Vectors]:
    listed = pq.read_table(harness.data_dir() / "vectors" / "glove_twitter_25d" / "vectors.parquet")
    vectors = np.array(listed["vector"].to_pylist(), np.float32)
    asked = listed["is_query"].to_numpy()
    return vectors[~asked], vectors[asked]


def _fashion() -> tuple[Vectors, Vectors]:
    if not FASHION.exists():
        raise SystemExit(f"no {FASHION}: install the Debian package dataset-fashion-mnist")
    files = (FASHION / f"{part}-images-idx3-ubyte.gz" for part in ("train", "t10k"))
    base, queries = (
        np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16).reshape(-1, 784) for file in files
    )
    return base.astype(np.float32), queries.astype(np.float32)


def _pictures(cache: Path | None, threads: int) -> tuple[Vectors, Vectors]:
    kept = cache / "pictures.npz" if cache else None
    if kept and kept.exists():
        with np.load(kept) as held:
            return held["base"], held["queries"]
    from picture_quality import features

    from embeddings import ImageEncoder

    directory = harness.data_dir() / "products_images"
    listed = pq.read_table(directory / "images.parquet").to_pylist()
    encoder = ImageEncoder(n_threads=threads)
    asked, shown = (
        features(
            encoder, [directory / row["image_path"] for row in listed if (row["role"] == "query") == is_query], None
        )
        for is_query in (True, False)
    )
    encoder.close()
    if kept:
        np.savez(kept, base=shown, queries=asked)
    return shown, asked


def generated(n: int, dim: int = 128, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Return n rows and 1,000 queries in clusters of very different sizes; 32 dimensions carry nearly all of the spread."""
    rng = np.random.default_rng(seed)
    n_clusters, inner = max(n // 500, 1), 32
    centres = rng.standard_normal((n_clusters, inner), dtype=np.float32)
    weights = 1 / np.arange(1, n_clusters + 1) ** 0.5
    axes = rng.standard_normal((inner, dim), dtype=np.float32) / np.float32(inner**0.5)
    owners = rng.choice(n_clusters, n + 1000, p=weights / weights.sum())
    vectors = np.empty((n + 1000, dim), np.float32)
    for begin in range(0, len(vectors), 100_000):
        own = owners[begin : begin + 100_000]
        spread = centres[own] + np.float32(0.5) * rng.standard_normal((len(own), inner), dtype=np.float32)
        vectors[begin : begin + len(own)] = spread @ axes
    vectors += np.float32(0.05) * rng.standard_normal(vectors.shape, dtype=np.float32)
    return vectors[:n], vectors[n:]


class Truth:
    """The exact distance of the k-th neighbor of each query, among all rows or those of a mask."""

    def __init__(self, data: Data, queries: Vectors, mask: Mask | None = None) -> None:
        self.data, self.queries, self.mask = data, queries, mask
        rows = np.arange(len(data.base)) if mask is None else np.flatnonzero(mask)
        self.wanted = min(K, len(rows))
        best = np.full((len(queries), self.wanted), np.inf, np.float32)
        for begin in range(0, len(rows), 50_000):
            block = rows[begin : begin + 50_000]
            products = queries @ data.base[block].T
            distances = -products
            if data.metric == "l2":
                distances = np.square(data.base[block]).sum(axis=1) - 2 * products
            both = np.concatenate([best, distances], axis=1)
            best = np.partition(both, self.wanted - 1, axis=1)[:, : self.wanted]
        # recomputed as `distances` below has it: the difference of large squares would lose digits
        self.kth = best.max(axis=1)
        if data.metric == "l2":
            self.kth = self.kth + np.square(queries).sum(axis=1)

    def recall(self, found: Rows) -> float:
        """Return the share of the wanted neighbors that were found: distinct rows that are as near as the k-th."""
        hits = 0
        for query, kth, rows in zip(self.queries, self.kth, found):
            rows = np.unique(rows[rows >= 0])
            if self.mask is not None:
                assert self.mask[rows].all(), "a peer returned a row that its filter excludes"
            near = self.data.base[rows]
            distances = np.square(near - query).sum(axis=1) if self.data.metric == "l2" else -(near @ query)
            hits += min(self.wanted, int((distances <= kth + 1e-5 * abs(kth)).sum()))
        return hits / (self.wanted * len(found))


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (recall, speed) points that no other beats in both, recall rising, speed falling."""
    kept: list[tuple[float, float]] = []
    for point in sorted(points, reverse=True):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept[::-1]


def at_recall(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return the speed at a recall, log-linear between neighbours of the front; None where no point reaches it."""
    line = front(points)
    if not line or line[-1][0] < target:
        return None
    if target <= line[0][0]:
        return line[0][1]
    recalls, speeds = np.array(line).T
    return float(np.exp(np.interp(target, recalls, np.log(speeds))))


@dataclass
class Contestant:
    """A built peer and what was measured of it; `seconds` and `recalls` are by way (single, batch) and effort."""

    peer: Peer
    build: dict[str, Any]
    memory: dict[str, Any]
    recalls: dict[str, dict[float, float]] = field(default_factory=dict)
    seconds: dict[str, dict[float, list[float]]] = field(default_factory=dict)

    def speeds(self, way: str, n_queries: int, target: float) -> list[float | None]:
        """Return queries a second at a recall, one of each repeat."""
        efforts = self.seconds[way]
        repeats = min((len(spent) for spent in efforts.values()), default=0)
        return [
            at_recall([(self.recalls[way][e], n_queries / spent[i]) for e, spent in efforts.items()], target)
            for i in range(repeats)
        ]


@contextmanager
def workplace(cache: Path | None) -> Iterator[Path]:
    """Give a folder to build in: the lasting one, or one that goes away."""
    if cache is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield cache


def prepare(
    kind: type[Peer],
    data: Data,
    place: Path,
    *,
    threads: int,
    seed: int,
    labels: Mapping[str, Mask] | None = None,
    marked: str = "",
) -> Contestant | None:
    """Build or open a peer in a place; None, with the reason printed, where it cannot take these vectors."""
    folder = place / f"{data.name}-{len(data.base)}-{data.metric}{marked}" / (kind.built_as or kind.name)
    folder.mkdir(parents=True, exist_ok=True)
    peer = kind(folder)
    refused = peer.refuses(data.base, data.metric)
    if refused:
        print(f"{kind.name}: left out, {refused}", flush=True)
        return None
    about = {"version": kind.version(), "parameters": dict(kind.parameters)}
    note = folder / "built.json"
    built = json.loads(note.read_text()) if note.exists() else {}
    if any(built.get(key) != value for key, value in about.items()):
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        _settle()
        before, cpu, wall = harness.reset_peak(), time.process_time(), time.perf_counter()
        try:
            with peers.quiet():
                peer.build(data.base, data.metric, seed=seed, threads=threads, labels=labels or {})
        except (RuntimeError, ValueError) as error:
            print(f"{kind.name}: left out, {error}", flush=True)
            return None
        built = {
            **about,
            "threads": threads,
            "cpu_s": round(time.process_time() - cpu, 1),
            "wall_s": round(time.perf_counter() - wall, 1),
            "peak_mib": round(harness.peak_mib() - before),
            "load": round(os.getloadavg()[0], 1),
        }
        peer.keep()
        note.write_text(json.dumps(built))
        del peer
        peer = kind(folder)
    _settle()
    held = _memory_mib(folder)
    with peers.quiet():
        peer.open(data.base, data.metric)
        peer.batch(data.queries, K, max(effort for effort in kind.efforts if effort <= 256), 1)
    _settle()
    allocated, mapped, touched = np.subtract(_memory_mib(folder), held).tolist()
    memory = {"resident_mib": round(allocated + touched), "all_in_memory_mib": round(allocated + mapped)}
    told = f"built in {built['cpu_s']} CPU s, {memory['resident_mib']} MiB of {memory['all_in_memory_mib']} in memory"
    print(f"{kind.name} {built['version']}: {told}", flush=True)
    return Contestant(peer, built, memory)


def _settle() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _memory_mib(folder: Path) -> tuple[float, float, float]:
    """Return MiB of the process's own memory, of those mapped files of a folder that are read, and of their touched pages."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    allocated = sum(int(lines[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    mapped = resident = size = 0
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split(maxsplit=5)
        if not name.endswith(":"):
            ours = len(rest) == 5 and rest[4].startswith(str(folder.resolve()))
        elif ours and name == "Size:":
            size = int(rest[0])
        elif ours and name == "Rss:" and rest[0] != "0":
            mapped += size
            resident += int(rest[0])
    return allocated / 1024, mapped / 1024, resident / 1024


@contextmanager
def pinned() -> Iterator[None]:
    """Keep this thread on one core. Threads that a library starts meanwhile inherit that: batches go first."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def one_by_one(peer: Peer, effort: float, queries: Sequence[Vectors]) -> tuple[float, list[Any]]:
    """Answer queries, a call each; return CPU seconds of the process and the answers."""
    ask = peer.single(K, effort)
    start = time.process_time()
    answers = [ask(query) for query in queries]
    return time.process_time() - start, answers


def at_once(peer: Peer, effort: float, queries: Vectors, threads: int) -> tuple[float, Any]:
    """Answer queries in one call; return wall seconds and the answers."""
    start = time.perf_counter()
    answers = peer.batch(queries, K, effort, threads)
    return time.perf_counter() - start, answers


def sweep(contestants: Sequence[Contestant], data: Data, truth: Truth, way: str, *, repeats: int, threads: int) -> None:
    """Fill in recalls, which warms up, then seconds, in turns."""
    queries = [data.queries[i : i + 1] for i in range(len(data.queries))]
    for contestant in contestants:
        found = contestant.recalls[way] = {}
        for effort in contestant.peer.efforts:
            if way == "single":
                _, answers = one_by_one(contestant.peer, effort, queries)
                rows = np.concatenate([peers.rows_of(answer, K) for answer in answers])
            else:
                rows = peers.rows_of(at_once(contestant.peer, effort, data.queries, threads)[1], K)
            found[effort] = truth.recall(rows)
            if effort >= 1 and found[effort] >= ENOUGH:
                break
        contestant.seconds[way] = {effort: [] for effort in found}
    for _ in range(repeats):
        for contestant in contestants:
            for effort, spent in contestant.seconds[way].items():
                if way == "single":
                    spent.append(one_by_one(contestant.peer, effort, queries)[0])
                else:
                    spent.append(at_once(contestant.peer, effort, data.queries, threads)[0])


def figures_of(contestant: Contestant, n_queries: int) -> dict[str, Any]:
    """Return what is written of one contestant."""
    made: dict[str, Any] = {"build": contestant.build, **contestant.memory}
    for way, recalls in contestant.recalls.items():
        made[way] = {
            "highest_recall": round(max(recalls.values()), 4),
            "qps_at": {f"{target:.2f}": middle(contestant.speeds(way, n_queries, target)) for target in TARGETS},
            "points": [
                {
                    "effort": effort,
                    "recall": round(found, 4),
                    "qps": round(n_queries / float(np.median(contestant.seconds[way][effort]))),
                    "best_qps": round(n_queries / min(contestant.seconds[way][effort])),
                }
                for effort, found in recalls.items()
            ],
        }
    return made


def middle(values: Sequence[float | None]) -> int | None:
    """Return the median of the repeats, None where one of them did not get there."""
    return None if not values or None in values else round(float(np.median([v for v in values if v is not None])))


def ratios(
    contestants: Sequence[Contestant], way: str, n_queries: int, targets: Sequence[float] = TARGETS
) -> dict[str, dict[str, float | None]]:
    """Return how many times faster Likewise is than each library at each recall, medians over the repeats."""
    own = next((c for c in contestants if c.peer.name == peers.Likewise.name), None)
    told: dict[str, dict[str, float | None]] = {}
    for other in contestants if own else ():
        if own is None or isinstance(other.peer, peers.Likewise):
            continue
        told[other.peer.name] = {}
        for target in targets:
            pairs = zip(own.speeds(way, n_queries, target), other.speeds(way, n_queries, target))
            over = [a / b for a, b in pairs if a is not None and b is not None]
            told[other.peer.name][f"{target:.2f}"] = round(float(np.median(over)), 2) if over else None
    return told


def best_peers(made: Mapping[str, Any], way: str) -> dict[str, dict[str, Any]]:
    """Return the fastest library at each recall, Likewise aside."""
    best: dict[str, dict[str, Any]] = {}
    others = [name for name in made if not issubclass(peers.PEERS[name], peers.Likewise)]
    for target in (f"{target:.2f}" for target in TARGETS):
        reached = {name: made[name][way]["qps_at"][target] for name in others if made[name][way]["qps_at"][target]}
        if reached:
            name = max(reached, key=lambda peer: reached[peer])
            best[target] = {"peer": name, "qps": reached[name]}
    return best


def table(made: Mapping[str, Any], ways: Sequence[str]) -> str:
    """Return the figures as lines for a terminal."""
    head = [f"{way[0].upper()}@{target:.2f}" for way in ways for target in TARGETS]
    lines = [f"{'':30}" + "".join(f"{cell:>9}" for cell in head) + f"{'CPU s':>9}{'MiB':>7}{'RSS':>7}{'recall':>8}"]
    for name, of in made.items():
        cells = [of[way]["qps_at"][f"{target:.2f}"] for way in ways for target in TARGETS]
        told = "".join(f"{'-' if cell is None else format(cell, ','):>9}" for cell in cells)
        top = max(of[way]["highest_recall"] for way in ways)
        lines.append(
            f"{name:30}{told}{of['build']['cpu_s']:>9}{of['all_in_memory_mib']:>7}{of['resident_mib']:>7}{top:>8.4f}"
        )
    return "\n".join(lines)


def arguments(text: str | None) -> argparse.ArgumentParser:
    """Return the options that both searches share."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument(
        "--data",
        default="package_summaries",
        choices=("package_summaries", "glove", "fashion", "pictures", "generated"),
    )
    parser.add_argument("--rows", type=int, default=None, help="only so many rows")
    parser.add_argument("--metric", choices=("ip", "cosine", "l2"), default=None, help="another than the usual one")
    parser.add_argument("--peers", default=None, help="a,b,c: names or beginnings of names; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of builds and batches")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps built indexes between runs")
    return parser


def keep_figures(name: str, data: Data, figures: Mapping[str, Any]) -> None:
    """Write figures beside those of other data in results/NAME.json."""
    path = harness.RESULTS / f"{name}.json"
    before = json.loads(path.read_text())["data"] if path.exists() else {}
    key = f"{data.name} {len(data.base)} x {data.base.shape[1]} {data.metric}"
    harness.write(name, {"k": K, "data": {**before, key: {"machine": harness.machine(), **figures}}})


def main() -> None:
    """Measure and write the figures."""
    parser = arguments(__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--single-only", action="store_true", help="no batches")
    asked = parser.parse_args()
    data = load(
        asked.data,
        rows=asked.rows,
        n_queries=asked.queries,
        metric=asked.metric,
        cache=asked.cache,
        threads=asked.threads,
    )
    with threadpool_limits(asked.threads, "blas"):
        truth = Truth(data, data.queries)
    ways = ["single"] if asked.single_only else ["batch", "single"]
    with workplace(asked.cache) as place:
        contestants = []
        for kind in peers.chosen(asked.peers):
            contestant = prepare(kind, data, place, threads=asked.threads, seed=asked.seed)
            if contestant:
                contestants.append(contestant)
        for way in ways:
            if way == "batch":
                sweep(contestants, data, truth, way, repeats=asked.repeats, threads=asked.threads)
            else:
                with pinned():
                    sweep(contestants, data, truth, way, repeats=asked.repeats, threads=1)
    n = len(data.queries)
    made = {contestant.peer.name: figures_of(contestant, n) for contestant in contestants}
    figures = {
        "queries": n,
        "repeats": asked.repeats,
        "threads": asked.threads,
        "peers": made,
        "best_peer": {way: best_peers(made, way) for way in ways},
        "times_faster": {way: ratios(contestants, way, n) for way in ways},
    }
    keep_figures("graph_search", data, figures)
    print(table(made, ways))


if __name__ == "__main__":
    main()
