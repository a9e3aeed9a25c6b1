"""A live index over a graph: searched while it is written to, restarted, refused."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index_builder.compact import compact
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, Filter, NumericRestrict, NumericType, Restrict, SparseRows
from matching.errors import CorruptArtifact, DeadlineExceeded, InvalidInput, InvalidQuery, NotFound, Unavailable
from matching.live import Change, Delete, LiveIndex, Types, Upsert, WriteLog, pack_write
from matching.store import Store
from matching.version import IndexVersion
from tests.versions import MakeVersion

N, DIM = 3_000, 24


def shop(n: int, seed: int = 5) -> tuple[list[Datapoint], NDArray[np.float32]]:
    """Clustered vectors of items in ten categories, whose clusters they are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((10, DIM))
    cluster = rng.integers(0, 10, n)
    vectors = (centres[cluster] + 0.4 * rng.standard_normal((n, DIM))).astype(np.float32)
    points = [
        Datapoint(
            f"{seed}-{at:05}",
            (Restrict("category", (f"c{cluster[at]}",)),),
            (NumericRestrict("price", float(at % 100)),),
            f"brand-{at % 7}",
        )
        for at in range(n)
    ]
    return points, vectors


def upserts(points: list[Datapoint], vectors: NDArray[np.float32]) -> list[Upsert]:
    return [Upsert(point, {"vectors": vector[None]}) for point, vector in zip(points, vectors, strict=True)]


def written(live: LiveIndex, *writes: Upsert | Change | Delete) -> IndexVersion:
    return live.wait(live.write(writes).last_sequence, deadline=time.monotonic() + 30)


def found(version: IndexVersion, query: NDArray[np.float32], k: int = 10, **how: object) -> list[str]:
    near = version.search(query[None], k, space="vectors", **how).neighbors[0]  # type: ignore[arg-type]
    return [each.datapoint_id for each in near]


def recall(version: IndexVersion, queries: NDArray[np.float32], **how: object) -> float:
    hits = [
        len(set(found(version, query, **how)) & set(found(version, query, exact=True, **how))) / 10 for query in queries
    ]
    return float(np.mean(hits))


@pytest.fixture
def base(make_version: MakeVersion) -> IndexVersion:
    points, vectors = shop(N)
    return make_version(points, vectors, plan="graph", threads=1)


@pytest.fixture
def live(base: IndexVersion, tmp_path: Path) -> Iterator[LiveIndex]:
    with WriteLog.open(tmp_path / "log") as log:
        index = LiveIndex(base, log)
        yield index
        index.close()


def test_a_third_of_the_data_in_the_delta_is_found_as_well(live: LiveIndex) -> None:
    points, vectors = shop(1_500, seed=6)
    half = Filter((), (NumericRestrict("price", 50.0, "float64", "LESS"),))
    for at in range(0, len(points), 300):
        version = written(live, *upserts(points[at : at + 300], vectors[at : at + 300]))
    assert version.n_datapoints == N + 1_500
    queries = shop(60, seed=7)[1]
    assert recall(version, queries) >= 0.95
    assert recall(version, queries, filter=half) >= 0.95
    assert recall(version, queries, crowding_cap=2) >= 0.95
    from_delta = [one for query in queries for one in found(version, query) if one.startswith("6-")]
    assert 0.2 < len(from_delta) / 600 < 0.5


def test_what_is_deleted_or_replaced_is_not_found(live: LiveIndex, base: IndexVersion) -> None:
    query = shop(1, seed=8)[1][0]
    first, second, third, *_ = found(base, query, exact=True)
    far = -query
    moved = Upsert(base.datapoints([second])[0], {"vectors": far[None]})
    version = written(live, Delete(first), moved, Delete("never there"))
    assert version.n_datapoints == N - 1
    for exact in (False, True):
        near = found(version, query, exact=exact)
        assert near[0] == third
        assert not {first, second} & set(near)
        assert found(version, far, exact=exact)[0] == second
    with pytest.raises(NotFound, match="no datapoint"):
        version.datapoints([first])
    back = written(live, Upsert(base.datapoints([first])[0], {"vectors": query[None]}))
    assert found(back, query)[0] == first
    assert back.n_datapoints == N


def test_a_change_touches_columns_alone(live: LiveIndex, base: IndexVersion) -> None:
    query = shop(1, seed=8)[1][0]
    first = found(base, query)[0]
    cheap = Filter((), (NumericRestrict("price", 0.0, "float64", "LESS"),))
    assert found(base, query, filter=cheap) == []
    change = Change(
        Datapoint(first, numeric_restricts=(NumericRestrict("price", -1.0),)), frozenset({"numeric_restricts"})
    )
    version = written(live, change)
    assert found(version, query, filter=cheap) == [first]
    before, after = base.datapoints([first])[0], version.datapoints([first])[0]
    assert (after.restricts, after.crowding_tag) == (before.restricts, before.crowding_tag)
    assert np.array_equal(base.vectors([first], "vectors")[0], version.vectors([first], "vectors")[0])
    assert len(version.columns) == len(live.snapshot.columns)


def test_searches_see_one_state_while_writes_arrive(live: LiveIndex) -> None:
    points, vectors = shop(400, seed=9)
    query = vectors[0]
    stop = threading.Event()
    wrong: list[str] = []

    def search() -> None:
        while not stop.is_set():
            version = live.snapshot
            near = version.search(query[None], 20, space="vectors")
            again = version.search(query[None], 20, space="vectors")
            ids = [each.datapoint_id for each in near.neighbors[0]]
            if near.n_matching != version.n_datapoints or len(set(ids)) != 20 or near.neighbors != again.neighbors:
                wrong.append(f"{near.n_matching} {version.n_datapoints} {ids}")

    readers = [threading.Thread(target=search) for _ in range(3)]
    for reader in readers:
        reader.start()
    for at, write in enumerate(upserts(points, vectors)):
        live.write([write, Delete(f"5-{at:05}")])
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert live.wait(800, deadline=time.monotonic() + 30).n_datapoints == N


def test_what_is_written_leaves_the_garbage_collector_nothing_to_visit(
    make_version: MakeVersion, tmp_path: Path
) -> None:
    points, vectors = shop(400)
    side = SparseRows(np.array([0, 1]), np.array([3]), np.ones(1, np.float32))
    base = make_version(points[:1], vectors[:1], plan="flat", sparse=side, alpha=0.5)
    with WriteLog.open(tmp_path / "log") as log:
        live = LiveIndex(base, log)

        def tracked(first: int, last: int) -> int:
            for at in range(first, last):
                point = replace(points[at], metadata={"sizes": [38, {"cm": 1}]})
                live.write([Upsert(point, {"vectors": vectors[at : at + 1]}, {"vectors": side})])
            written(live, Change(replace(points[0], crowding_tag="new"), frozenset({"crowding_tag"})))
            gc.collect()
            return len(gc.get_objects())

        before = tracked(0, 100)
        after = tracked(100, 400)
        live.close()
    assert after - before < 100


def test_a_restart_finds_what_was_acknowledged(base: IndexVersion, tmp_path: Path) -> None:
    points, vectors = shop(700, seed=6)
    with WriteLog.open(tmp_path / "log") as log:
        index = LiveIndex(base, log)
        index.write(upserts(points, vectors), request_id="once")
        sized = Datapoint(points[0].datapoint_id, numeric_restricts=(NumericRestrict("size", 7, "int64"),))
        written(index, Upsert(sized, {"vectors": vectors[:1]}))
        before = written(index, Delete("5-00000"))
        index.close()
        query = vectors[0]
        near = found(before, query)
    with WriteLog.open(tmp_path / "log") as log:
        index = LiveIndex(base, log)
        assert index.snapshot.sequence == 703  # one more: what `size` holds
        as_float = Datapoint("x", numeric_restricts=(NumericRestrict("size", 7.5),))
        with pytest.raises(InvalidInput, match="which holds int64"):  # a type that the log, not the base, settled
            index.write([Upsert(as_float, {"vectors": vectors[:1]})])
        assert index.snapshot.n_datapoints == N + 699
        assert found(index.snapshot, query) == near
        assert index.write(upserts(points, vectors), request_id="once").is_repeat
        assert index.n_written == 702
        index.close()


def test_sparse_sides_of_added_rows_count(make_version: MakeVersion, tmp_path: Path) -> None:
    points, vectors = shop(100)
    one = np.ones(100, np.float32)
    sparse = SparseRows(np.arange(101, dtype=np.int64), np.arange(100, dtype=np.int64), one)
    base = make_version(points, vectors, sparse=sparse, alpha=0.5, plan="flat")
    asked = SparseRows(np.array([0, 1]), np.array([500]), one[:1])
    with WriteLog.open(tmp_path / "log") as log:
        live = LiveIndex(base, log)
        new = Upsert(Datapoint("new"), {"vectors": -vectors[:1]}, {"vectors": asked})
        version = written(live, new)
        assert found(version, vectors[0])[0] == "5-00000"
        [near] = version.search(vectors[:1], 3, space="vectors", sparse=asked).neighbors
        assert near[0].datapoint_id == "5-00000"  # alpha of the dense side alone
        near_new = next(each for each in version.search(vectors[:1], 101, space="vectors", sparse=asked).neighbors[0]
                        if each.datapoint_id == "new")  # fmt: skip
        assert near_new.distance == pytest.approx(1 - (0.5 * -1 + 0.5 * 1), abs=1e-5)
        live.close()


NAN = np.full((1, DIM), np.nan, np.float32)
GOOD = np.ones((1, DIM), np.float32)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (Upsert(Datapoint("x")), "has 0 vectors in space 'vectors'; expected one of 24 numbers"),
        (Upsert(Datapoint("x"), {"vectors": NAN}), "not finite"),
        (Upsert(Datapoint("x"), {"vectors": 1e20 * GOOD}), "whose norm is not within 1e-06 and 1e"),
        (Upsert(Datapoint("x"), {"vectors": 0 * GOOD}), "whose norm is not within 1e-06"),
        (Upsert(Datapoint("x"), {"vectors": GOOD[:, :7]}), "expected [m, 24]"),
        (Upsert(Datapoint("x"), {"vectors": np.vstack([GOOD, GOOD])}), "has 2 vectors"),
        (Upsert(Datapoint("x"), {"vectors": GOOD, "pictures": GOOD}), "has vectors of ['pictures']; the spaces are"),
        (Upsert(Datapoint(""), {"vectors": GOOD}), "expected 1 to 1024 bytes"),
        (
            Upsert(Datapoint("x", numeric_restricts=(NumericRestrict("size", 2**63, "int64"),)), {"vectors": GOOD}),
            "expected an int of 64 bits",
        ),
        (
            Upsert(Datapoint("x", numeric_restricts=(NumericRestrict("price", float("inf")),)), {"vectors": GOOD}),
            "expected a finite number",
        ),
        (
            Upsert(Datapoint("x", numeric_restricts=(NumericRestrict("price", 1, "int64"),)), {"vectors": GOOD}),
            "has int64 in the numeric namespace 'price', which holds float64",
        ),
    ],
)
def test_a_bad_write_is_refused_and_nothing_of_its_batch_is_taken(live: LiveIndex, write: Upsert, says: str) -> None:
    good = Upsert(Datapoint("good"), {"vectors": GOOD})
    with pytest.raises(InvalidInput) as refused:
        live.write([good, write])
    assert says in str(refused.value)
    assert written(live, Delete("nobody")).n_datapoints == N
    assert live.snapshot.columns.find("good") == -1


def test_a_new_namespace_gets_its_type_from_whoever_is_first_in_the_log(
    base: IndexVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def sized(name: str, value: float, kind: NumericType) -> Upsert:
        return Upsert(Datapoint(name, numeric_restricts=(NumericRestrict("size", value, kind),)), {"vectors": GOOD})

    with WriteLog.open(tmp_path / "log") as log:
        index = LiveIndex(base, log)
        log.append([pack_write(Types({"size": "int64"}))])  # of another process, not applied yet
        with pytest.raises(InvalidInput, match="has float64 in the numeric namespace 'size', which holds int64"):
            index.write([sized("x", 7.5, "float64")])
        version = written(index, sized("y", 7, "int64"))
        assert version.numeric_types()["size"] == "int64"
        # What a process wrote that serves a version of other types: the number cannot be kept, the rest is.
        log.append([pack_write(sized("z", 7.5, "float64"))])
        version = index.wait(log.last_sequence, deadline=time.monotonic() + 30)
        assert version.datapoints(["z"])[0].numeric_restricts == ()
        assert version.numeric_range("size") == (7, 7)
        assert "'size' of datapoint 'z' is left out" in caplog.text
        index.close()


def test_a_change_needs_somebody_to_change(live: LiveIndex) -> None:
    change = Change(Datapoint("x", crowding_tag="b"), frozenset({"crowding_tag"}))
    with pytest.raises(NotFound, match="upsert it with its vectors"):
        live.write([change])
    version = written(live, Upsert(Datapoint("x"), {"vectors": GOOD}), change)
    assert version.datapoints(["x"])[0].crowding_tag == "b"
    with pytest.raises(InvalidQuery, match="value_double"):
        version.search(GOOD, 3, space="vectors", filter=Filter((), (NumericRestrict("price", 1, "int64", "LESS"),)))


def test_a_change_is_answered_as_the_first_time_though_what_it_changed_is_gone(live: LiveIndex) -> None:
    change = Change(Datapoint("5-00001", crowding_tag="b"), frozenset({"crowding_tag"}))
    first = live.write([change], request_id="sale")
    written(live, Delete("5-00001"))
    assert live.write([change], request_id="sale") == replace(first, is_repeat=True)
    with pytest.raises(NotFound, match="upsert it with its vectors"):
        live.write([change], request_id="another sale")


def test_a_change_may_follow_the_upsert_it_builds_on_at_once(live: LiveIndex) -> None:
    for at in range(50):
        live.write([Upsert(Datapoint(f"new-{at}"), {"vectors": GOOD})])
        token = live.write(
            [Change(Datapoint(f"new-{at}", crowding_tag="b"), frozenset({"crowding_tag"}))]
        ).last_sequence
    version = live.wait(token, deadline=time.monotonic() + 30)
    assert all(point.crowding_tag == "b" for point in version.datapoints([f"new-{at}" for at in range(50)]))


def test_a_record_that_is_no_write_stops_writes_and_no_search(
    base: IndexVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with WriteLog.open(tmp_path / "log") as log:
        index = LiveIndex(base, log)
        log.append([b"of another program"])
        with pytest.raises(Unavailable, match="write 1 is not applied: writes are no longer applied"):
            index.wait(1, deadline=time.monotonic() + 30)
        with pytest.raises(Unavailable, match="reads go on"):
            index.write([Delete("x")])
        assert index.failure is not None
        assert len(found(index.snapshot, shop(1)[1][0])) == 10
        index.close()
    assert "no longer applied" in caplog.text
    with WriteLog.open(tmp_path / "log") as log, pytest.raises(CorruptArtifact, match="write format"):
        LiveIndex(base, log)


def test_a_token_of_the_future_is_waited_for_in_vain(live: LiveIndex) -> None:
    with pytest.raises(DeadlineExceeded, match="write 5 is not applied yet, 0 is"):
        live.wait(5, deadline=time.monotonic() + 0.05)
    live.close()
    with pytest.raises(Unavailable, match="closed"):
        live.wait(5, deadline=time.monotonic() + 5)


def test_a_base_starts_from_the_last_write_that_it_has_in_it(base: IndexVersion, tmp_path: Path) -> None:
    points, vectors = shop(4, seed=6)
    later = IndexVersion(base.version_id, replace(base.manifest, log_sequence=3), base.columns, base.spaces)
    with WriteLog.open(tmp_path / "log") as log:
        with pytest.raises(InvalidInput, match="has the writes up to 3 in it, and the log ends at 0"):
            LiveIndex(later, log)
        log.append([pack_write(write) for write in upserts(points, vectors)])
        live = LiveIndex(later, log)
        assert (live.snapshot.sequence, live.snapshot.n_datapoints) == (4, N + 1)
        assert live.snapshot.datapoints([points[3].datapoint_id]) == (points[3],)
        live.close()
        whole = LiveIndex(later, log, sequence=0)
        assert whole.snapshot.n_datapoints == N + 4
        whole.close()


def test_a_base_older_than_the_log_is_refused(base: IndexVersion, tmp_path: Path) -> None:
    with WriteLog.open(tmp_path / "log", first_sequence=6) as log:
        with pytest.raises(NotFound, match="has the writes up to 0 in it, and the log begins at 6: what lies between"):
            LiveIndex(base, log)
        LiveIndex(base, log, sequence=5).close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("n", "n_queries"), [(N, 300), pytest.param(50_000, 1_000, marks=pytest.mark.slow)])
def test_recall_stays_through_churn_restart_compaction_and_more_writes(
    store: Store, make_version: MakeVersion, tmp_path: Path, n: int, n_queries: int
) -> None:
    """Half of the datapoints are replaced by others, then the log is opened anew, then folded in, then a tenth comes on top."""
    queries = shop(n_queries, seed=7)[1]
    base = make_version(*shop(n), plan="graph", threads=1, alias="shop")
    told = {"before": graph_recall(base, queries)}
    gone = [Delete(f"5-{at:05}") for at in np.random.default_rng(4).permutation(n)[: n // 2]]
    with WriteLog.open(tmp_path / "log") as log:
        live = LiveIndex(base, log)
        for at, new in enumerate(batches(upserts(*shop(n // 2, seed=6)))):
            version = written(live, *new, *gone[at * 500 : at * 500 + len(new)])
        live.close()
        assert version.n_datapoints == n
        told["half replaced"] = graph_recall(version, queries)
        live = LiveIndex(base, log)
        told["restarted"] = graph_recall(live.snapshot, queries)
        live.close()
        built = compact(store, "shop", log, settings=BuildSettings(threads=1), progress=Silent())
        newest = store.open(built.version_id)
        told["compacted"] = graph_recall(newest, queries)
        live = LiveIndex(newest, log)
        for new in batches(upserts(*shop(n // 10, seed=9))):
            version = written(live, *new)
        told["a tenth on top"] = graph_recall(version, queries)
        live.close()
    print(told)
    assert min(told.values()) >= max(0.95, told["before"] - 0.005), told


def batches(writes: list[Upsert]) -> list[list[Upsert]]:
    return [writes[at : at + 500] for at in range(0, len(writes), 500)]


def graph_recall(version: IndexVersion, queries: NDArray[np.float32]) -> float:
    """Return the share of the ten nearest that the graph finds, without being helped by an exact scan."""
    found = version.search(queries, 10, space="vectors", effort=32)
    exact = version.search(queries, 10, space="vectors", exact=True)
    assert (found.plan, exact.plan) == ("graph", "exact")
    pairs = zip(found.neighbors, exact.neighbors, strict=True)
    hits = [len({n.datapoint_id for n in a} & {n.datapoint_id for n in b}) for a, b in pairs]
    return sum(hits) / (10 * len(hits))
