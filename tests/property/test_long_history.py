"""A live index over a graph through a long history: writes, searches, repeats, restarts and compactions, against arrays."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index_builder.compact import compact
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, Filter, NumericRestrict, Restrict
from matching.live import Change, Delete, LiveIndex, Upsert, Write, WriteLog, truncate_log
from matching.store import Store
from matching.version import IndexVersion
from tests.versions import build_version

N_IDS, DIM = 1000, 48
LARGEST = 128  # whole numbers, of which all distances are exact in float32
COLOURS = ("red", "green", "blue")
RESTART_CHANCE = 0.001
EFFORT = 64
BUILD = {"plan": "graph", "recall_target": 0.9, "threads": 1, "shard_bytes": 1 << 16}
BITS = ["restricts", "numeric_restricts"]


@dataclass
class Model:
    """What must be there, by number of the id."""

    rng: np.random.Generator
    is_there: NDArray[np.bool_]
    vectors: NDArray[np.float32]
    colours: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, rng: np.random.Generator) -> Model:
        """Draw a first state."""
        there = rng.random(N_IDS) < 0.7
        return cls(rng, there, drawn(rng, N_IDS), rng.integers(0, 3, N_IDS), rng.integers(0, 10, N_IDS))

    def point(self, at: int) -> Datapoint:
        return Datapoint(
            f"item-{at:04}",
            (Restrict("colour", (COLOURS[self.colours[at]],)),),
            (NumericRestrict("size", int(self.sizes[at]), "int64"),),
        )

    def write(self) -> Write:
        """Draw a write and take it in."""
        at = int(self.rng.integers(N_IDS))
        kind = self.rng.random()
        if kind < 0.25:
            self.is_there[at] = False
            return Delete(f"item-{at:04}")
        self.colours[at], self.sizes[at] = self.rng.integers(3), self.rng.integers(10)
        if kind < 0.5 and self.is_there[at]:
            return Change(self.point(at), frozenset(BITS))  # type: ignore[arg-type]
        self.is_there[at], self.vectors[at] = True, drawn(self.rng, 1)[0]
        return Upsert(self.point(at), {"vectors": self.vectors[at][None]})

    def filtered(self) -> tuple[Filter, NDArray[np.bool_]]:
        """Draw a filter; return what passes it."""
        restricts, numbers, passing = [], [], self.is_there.copy()
        if self.rng.random() < 0.4:
            colour = int(self.rng.integers(3))
            restricts.append(Restrict("colour", (COLOURS[colour],)))
            passing &= self.colours == colour
        if self.rng.random() < 0.4:
            most = int(self.rng.integers(10))
            numbers.append(NumericRestrict("size", most, "int64", "LESS_EQUAL"))
            passing &= self.sizes <= most
        return Filter(tuple(restricts), tuple(numbers)), passing


def drawn(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.integers(-LARGEST, LARGEST + 1, (n, DIM)).astype(np.float32)


class Shop:
    """The index beside the model."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.model = Model.of(self.rng)
        self.store = Store(folder / "store", create=True)
        there = np.flatnonzero(self.model.is_there)
        points = [self.model.point(at) for at in there]
        build_version(self.store, points, self.model.vectors[there], "l2", alias="shop", build=BUILD)
        self.folder = folder / "log"
        self.n_sent = self.n_answers = self.n_restarts = self.n_compactions = 0
        self.sent: dict[str, tuple[list[Write], int]] = {}
        self.recalls: list[float] = []
        self.open()

    def open(self) -> None:
        self.log = WriteLog.open(self.folder, segment_bytes=1 << 18)
        self.live = LiveIndex(self.store.open("shop"), self.log)

    def close(self) -> None:
        self.live.close()
        self.log.close()

    @property
    def version(self) -> IndexVersion:
        return self.live.wait(self.log.last_sequence, deadline=time.monotonic() + 60)

    def write(self) -> int:
        if self.sent and self.rng.random() < 0.1:  # what was answered is asked again, late
            request_id = str(self.rng.choice(list(self.sent)))
            writes, token = self.sent[request_id]
            again = self.live.write(writes, request_id=request_id)
            assert (again.last_sequence, again.is_repeat) == (token, True)
            return 1
        self.version  # noqa: B018 a change needs somebody to change
        writes = [self.model.write() for _ in range(int(self.rng.integers(1, 17)))]
        self.n_sent += 1
        token = self.live.write(writes, request_id=f"r{self.n_sent}").last_sequence
        self.sent[f"r{self.n_sent}"] = (writes, token)
        if len(self.sent) > 5:
            del self.sent[next(iter(self.sent))]
        return len(writes)

    def search(self) -> int:
        wanted, passing = self.model.filtered()
        queries, k, exact = drawn(self.rng, 16), int(self.rng.integers(1, 51)), bool(self.rng.random() < 0.5)
        version = self.version
        found = version.search(
            queries, k, space="vectors", filter=wanted, exact=exact, effort=None if exact else EFFORT
        )
        assert found.plan == "exact" or not exact
        rows = np.flatnonzero(passing)
        far = ((queries[:, None].astype(np.float64) - self.model.vectors[rows]) ** 2).sum(axis=2)
        assert (version.n_datapoints, found.n_matching) == (int(self.model.is_there.sum()), len(rows))
        n = min(k, len(rows))
        for own, near in zip(far, found.neighbors, strict=True):
            distances = dict(zip([f"item-{at:04}" for at in rows], own, strict=True))
            ids = [each.datapoint_id for each in near]
            assert len(set(ids)) == len(ids) == n, "nobody twice, and as many as there are"
            assert (
                [each.distance for each in near] == [distances[one] for one in ids] == sorted(distances[i] for i in ids)
            )
            nearest = np.sort(own)[:n]
            if exact:
                assert [each.distance for each in near] == nearest.tolist()
            elif n and found.plan == "graph":
                self.recalls.append(float(np.mean([distances[one] <= nearest[-1] for one in ids])))
        self.n_answers += len(queries)
        return len(queries)

    def read(self) -> int:
        there = self.rng.choice(np.flatnonzero(self.model.is_there), 20)
        ids = [f"item-{at:04}" for at in there]
        assert self.version.datapoints(ids) == tuple(self.model.point(at) for at in there)
        for at, held in zip(there, self.version.vectors(ids, "vectors"), strict=True):
            assert np.array_equal(held[0], self.model.vectors[at])
        return len(ids)

    def restart(self) -> None:
        self.close()
        self.open()
        self.n_restarts += 1

    def compact(self) -> None:
        """Fold the writes in, go on from the new version, and let the log go."""
        built = compact(self.store, "shop", self.log, settings=BuildSettings(threads=1), progress=Silent())
        self.store.set_alias("shop", built.version_id, why="compacted")
        self.restart()
        truncate_log(self.store, ["shop"], self.log)
        self.n_compactions += 1


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("n_operations", "seed"), [(3_000, 1), pytest.param(200_000, 2, marks=pytest.mark.slow)])
def test_it_answers_as_arrays_would(tmp_path: Path, n_operations: int, seed: int) -> None:
    shop = Shop(tmp_path, seed)
    n_done, next_compaction = 0, 1_000
    while n_done < n_operations:
        luck = shop.rng.random()
        n_new = shop.write() if luck < 0.5 else shop.search() if luck < 0.98 else shop.read()
        n_done += n_new
        if shop.rng.random() < RESTART_CHANCE * n_new:
            shop.restart()
        if n_done >= next_compaction:
            shop.compact()
            next_compaction += max(1_000, n_operations // 20)
    print(
        f"{n_done:,} operations, {shop.n_answers:,} answers, {shop.n_restarts} restarts, {shop.n_compactions} compactions"
    )
    print(f"recall of {len(shop.recalls):,} graph searches {np.mean(shop.recalls):.4f}")
    assert len(shop.recalls) > n_operations / 50
    assert np.mean(shop.recalls) >= 0.95
    assert shop.n_compactions >= 2
    assert shop.n_answers > n_operations / 4
    shop.close()
