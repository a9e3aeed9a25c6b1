"""A shard that cannot be read: the version is refused, or answers without it and says so; never an unflagged partial answer."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.compact import compact
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, Filter, Restrict, SparseRows
from matching.errors import CorruptArtifact, Unavailable
from matching.fusion import Fusion
from matching.hybrid import search_hybrid, search_hybrid_by_id
from matching.live import Change, Delete, LiveIndex, Upsert, WriteLog
from matching.store import Store
from matching.version import IndexVersion
from tests.versions import MakeVersion

N, DIM, K = 1_500, 64, 20
WANTED = Filter((Restrict("color", ("red",)),))
KINDS: dict[str, dict[str, Any]] = {
    "flat": {"plan": "flat"},
    "graph": {"plan": "graph", "degree": 16, "build_beam": 40},
    "grouped": {"plan": "graph", "degree": 16, "build_beam": 40},
    "hnsw": {"plan": "hnsw"},
}


def remove(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size - 2_000)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 4]))


def exchange(file: Path) -> None:
    """Put a directory in its place, which opens and cannot be read."""
    file.unlink()
    file.mkdir()


FAULTS: tuple[Callable[[Path], None], ...] = (remove, truncate, empty, flip, exchange)


@pytest.fixture(params=KINDS)
def whole(request: pytest.FixtureRequest, make_version: MakeVersion, rng: np.random.Generator) -> IndexVersion:
    """A version of several shards, with a sparse side and tokens."""
    points = [Datapoint(f"{at:04d}", (Restrict("color", (("red", "blue")[at % 2],)),)) for at in range(N)]
    owners = np.arange(N) if request.param != "grouped" else np.sort(rng.integers(N, size=2 * N))
    sparse = SparseRows(np.arange(0, 3 * N + 1, 3), np.tile([1, 5, 9], N), rng.random(3 * N).astype(np.float32))
    vectors = rng.normal(size=(len(owners), DIM)).astype(np.float32)
    build = {"shard_bytes": 1 << 17, "threads": 1, **KINDS[request.param]}
    made = make_version(points, vectors, metric="l2", owners=owners, sparse=sparse, alpha=0.5, alias="shop", **build)
    assert len(made.spaces["vectors"].shards) >= 3
    return made


def files_of(version: IndexVersion, shard: int) -> tuple[str, ...]:
    """Return the files of a shard of the only space."""
    return version.manifest.spaces[0].shards[shard].files


def ids_of(version: IndexVersion, shard: int) -> list[str]:
    """Return the datapoints of a shard."""
    entry = version.manifest.spaces[0].shards[shard]
    return version.columns.datapoint_ids(range(entry.first_row, entry.first_row + entry.n_rows))


def check_without(version: IndexVersion, whole: IndexVersion, lost: list[int], rng: np.random.Generator) -> None:
    """Every kind of search answers as if the datapoints of lost shards were excluded, and says so."""
    gone = [each for shard in lost for each in ids_of(whole, shard)]
    there = set(whole.columns.datapoint_ids(range(N))) - set(gone)
    n_owning = sum(len(own) > 0 for own in whole.vectors(sorted(there), "vectors"))
    coverage = n_owning / whole.manifest.spaces[0].n_datapoints
    queries = rng.normal(size=(3, DIM)).astype(np.float32)
    sparse = SparseRows(np.array([0, 1, 2, 3]), np.array([1, 5, 9]), np.ones(3, np.float32))
    for wanted in (Filter(), WANTED):
        knobs: dict[str, Any] = {"space": "vectors", "filter": wanted}
        expected = whole.search(queries, K, exact=True, exclude=gone, **knobs)
        found = version.search(queries, K, exact=True, **knobs)
        assert found.neighbors == expected.neighbors
        assert (found.coverage, found.n_matching) == (pytest.approx(coverage), expected.n_matching)
        both = version.search(queries, K, exact=True, sparse=sparse, **knobs)
        assert both.neighbors == whole.search(queries, K, exact=True, sparse=sparse, exclude=gone, **knobs).neighbors
        for fusion in (Fusion("rrf", 0.5), Fusion("rrf", 0.0)):
            fused = search_hybrid(version, K, fusion=fusion, vectors=queries, sparse=sparse, exact=True, **knobs)
            same = search_hybrid(
                whole, K, fusion=fusion, vectors=queries, sparse=sparse, exact=True, exclude=gone, **knobs
            )
            assert (fused.neighbors, fused.coverage) == (same.neighbors, found.coverage)
        near = version.search(queries, K, effort=200, **knobs)
        assert near.coverage == found.coverage
        for neighbors in near.neighbors:
            assert len(neighbors) == K
            assert {neighbor.datapoint_id for neighbor in neighbors} <= there


def check_reads(version: IndexVersion, gone: str) -> None:
    """What is asked of a datapoint in a lost shard is not there now, which is not the same as not there."""
    assert version.datapoints([gone])[0].datapoint_id == gone
    for ask in (
        lambda: version.vectors([gone], "vectors"),
        lambda: version.search_by_id([gone], 5, space="vectors"),
        lambda: search_hybrid_by_id(version, [gone], 5, space="vectors", fusion=Fusion("rrf", 0.5)),
    ):
        with pytest.raises(Unavailable, match="cannot be read: "):
            ask()


def test_a_version_opens_without_any_shard_and_says_so(
    store: Store, whole: IndexVersion, rng: np.random.Generator
) -> None:
    directory = store.directory("shop")
    for shard in range(len(whole.manifest.spaces[0].shards)):
        for name, fault in itertools.product(files_of(whole, shard), FAULTS):
            (directory / name).rename(directory / "whole")  # what `whole` has mapped stays as it is
            shutil.copy2(directory / "whole", directory / name)
            fault(directory / name)
            with pytest.raises(CorruptArtifact):
                store.open("shop")
            version = store.open("shop", partial=True)
            assert [at for at, each in enumerate(version.spaces["vectors"].shards) if each.lost] == [shard]
            assert len(version.lost) == 1
            check_reads(version, ids_of(whole, shard)[0])
            if fault is FAULTS[0] or name == files_of(whole, shard)[0]:
                check_without(version, whole, [shard], rng)
            if fault is exchange:
                (directory / name).rmdir()
            (directory / "whole").rename(directory / name)
            mended = version.look_again()
            assert (mended.lost, mended.spaces["vectors"].coverage) == ((), 1.0)
            assert mended.look_again() is mended


def test_nothing_is_answered_where_no_shard_of_a_space_is_left(store: Store, whole: IndexVersion) -> None:
    directory = store.directory("shop")
    for shard in range(len(whole.manifest.spaces[0].shards)):
        (directory / files_of(whole, shard)[-1]).unlink()
    with pytest.raises(CorruptArtifact, match="is missing"):
        store.open("shop", partial=True)


def test_a_file_that_every_search_needs_is_not_left_out(store: Store, whole: IndexVersion) -> None:
    flip(store.directory("shop") / whole.manifest.columns)
    with pytest.raises(CorruptArtifact, match="does not match its checksum"):
        store.open("shop", partial=True)


def test_what_is_written_over_while_it_is_mapped_is_left_out_and_taken_back(
    store: Store, whole: IndexVersion, rng: np.random.Generator
) -> None:
    directory = store.directory("shop")
    version = store.open("shop")
    copied = IndexVersion.open(Path(shutil.copytree(directory, directory.parent.parent / directory.name)))
    flip(directory / files_of(whole, 0)[0])
    version = version.look_again()
    check_without(version, copied, [0], rng)
    assert version.failure is None
    assert version.look_again(again=True) is version
    flip(directory / files_of(whole, 1)[-1])
    version = version.look_again()
    check_without(version, copied, [0, 1], rng)
    for shard in (0, 1):
        flip(directory / files_of(whole, shard)[0 - shard])  # back
    version = version.look_again()
    assert (version.lost, version.spaces["vectors"].coverage) == ((), 1.0)


def test_what_is_removed_or_exchanged_does_no_harm(store: Store, whole: IndexVersion) -> None:
    directory = store.directory("shop")
    (directory / files_of(whole, 0)[0]).unlink()
    name = files_of(whole, 1)[0]
    (directory / name).rename(directory / "elsewhere")
    shutil.copy(directory / "elsewhere", directory / name)
    assert whole.look_again() is whole


def test_damaged_columns_are_a_failure_until_they_are_whole_again(store: Store, whole: IndexVersion) -> None:
    columns = store.directory("shop") / whole.manifest.columns
    flip(columns)
    damaged = whole.look_again()
    assert "is not what was sealed" in (damaged.failure or "")
    assert damaged.look_again(again=True) is damaged
    flip(columns)
    assert damaged.look_again().failure is None


def test_writes_go_on_and_a_compaction_is_refused(
    tmp_path: Path, store: Store, whole: IndexVersion, rng: np.random.Generator
) -> None:
    directory = store.directory("shop")
    name = files_of(whole, 1)[0]
    (directory / name).rename(directory / "elsewhere")
    base = store.open("shop", partial=True)
    gone = [each for each in ids_of(whole, 1) if len(whole.vectors([each], "vectors")[0])]
    with WriteLog.open(tmp_path / "log") as log:
        live = LiveIndex(base, log)
        vector = rng.normal(size=(1, DIM)).astype(np.float32)
        sparse = SparseRows(np.array([0, 1]), np.array([5]), np.ones(1, np.float32))
        red = Datapoint(gone[2], (Restrict("color", ("red",)),))
        writes = [
            Upsert(Datapoint(gone[0]), {"vectors": vector}, {"vectors": sparse}),
            Delete(gone[1]),
            Change(red, frozenset({"restricts"})),
        ]
        written = live.write(writes)
        snapshot = live.wait(written.last_sequence, deadline=time.monotonic() + 60)
        found = snapshot.search(vector, 1, space="vectors", exact=True)
        assert [found.neighbors[0][0].datapoint_id, found.coverage < 1] == [gone[0], True]
        check_reads(snapshot, gone[2])
        assert snapshot.datapoints([gone[2]])[0].restricts == red.restricts
        with pytest.raises(CorruptArtifact, match="is missing"):
            compact(store, base.version_id, log, settings=BuildSettings(threads=1), progress=Silent())
        (directory / "elsewhere").rename(directory / name)
        live.rebase(base.look_again())
        assert live.snapshot.spaces["vectors"].coverage == 1.0
        assert (
            live.snapshot.vectors([gone[2]], "vectors")[0].tolist() == whole.vectors([gone[2]], "vectors")[0].tolist()
        )
        found = live.snapshot.search(vector, N, space="vectors", exact=True)
        assert (found.neighbors[0][0].datapoint_id, found.n_matching) == (
            gone[0],
            base.manifest.spaces[0].n_datapoints - 1,
        )
        live.close()
