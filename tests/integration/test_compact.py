"""Compaction of every kind of version, beside a writer, refused, interrupted."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index_builder.compact import compact
from index_builder.draft import Built, Draft
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, NumericRestrict, NumericType, Restrict, SparseRows
from matching.encoder_spec import EncoderSpec
from matching.errors import CorruptArtifact, GateRefused, InvalidInput, NotFound
from matching.live import Change, Delete, LiveIndex, Types, Upsert, Write, WriteLog, pack_write
from matching.store import Store
from matching.version import IndexVersion
from tests.versions import MakeVersion

DIM = 16


def shop(n: int, prefix: str = "item", seed: int = 3) -> tuple[list[Datapoint], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    points = [
        Datapoint(
            f"{prefix}-{at:05}",
            (Restrict("category", (f"c{at % 4}",)),),
            (NumericRestrict("price", float(at % 50)),),
            f"b{at % 5}",
            {"title": f"{prefix} {at}"},
        )
        for at in range(n)
    ]
    return points, rng.standard_normal((n, DIM)).astype(np.float32)


def folded(store: Store, base: IndexVersion, log: WriteLog, **how: object) -> Built:
    return compact(store, base.version_id, log, settings=BuildSettings(threads=1), progress=Silent(), **how)  # type: ignore[arg-type]


def snapshot_of(base: IndexVersion, log: WriteLog) -> IndexVersion:
    live = LiveIndex(base, log)
    live.close()
    return live.snapshot


def appended(log: WriteLog, *writes: Write) -> int:
    return log.append([pack_write(write) for write in writes]).last_sequence


def check_same_answers(before: IndexVersion, after: IndexVersion, space: str, **how: object) -> None:
    """Exact answers are equal; there are no ties, which the live index breaks by the age of rows."""
    queries = np.random.default_rng(8).standard_normal((20, before.space(space).dim)).astype(np.float32)
    found = [v.search(queries, 40, space=space, exact=True, **how).neighbors for v in (before, after)]  # type: ignore[arg-type]
    for near in zip(*found, strict=True):
        assert [[(n.datapoint_id, n.crowding_tag) for n in each] for each in near[:1]] == [
            [(n.datapoint_id, n.crowding_tag) for n in each] for each in near[1:]
        ]
        np.testing.assert_allclose(*([n.distance for n in each] for each in near), atol=2e-6)


def test_several_vectors_sparse_sides_encoders_and_pictures_are_carried_over(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    points, vectors = shop(300)
    draft = Draft(store, BuildSettings(plan="flat"), Silent())
    text = draft.new_space("text", DIM, space_id="t1", metric="cosine", modality="text")
    text.alpha, text.encoder = 0.5, EncoderSpec("test", {"words": 3}, {"weights": np.arange(5, dtype=np.float32)})
    image = draft.new_space("image", 8, space_id="i1", metric="l2", modality="image")
    image.best_of = 2
    lengths = rng.integers(0, 4, 300)
    pictures = rng.standard_normal((int(lengths.sum()), 8)).astype(np.float32)
    for point in points:
        draft.columns.add(point)
    text.vectors.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.arange(300))
    image.vectors.append(pictures, np.repeat(np.arange(300), lengths))
    spans = rng.integers(0, 5, 300)
    terms = np.concatenate([np.sort(rng.choice(50, n, replace=False)) for n in spans]).astype(np.int64)
    weights = rng.random(len(terms)).astype(np.float32)
    ends = np.concatenate([[0], np.cumsum(spans)])
    draft.new_sparse(text).append(SparseRows(ends, terms, weights), np.arange(300))
    base = store.open(draft.finish(source={"kind": "catalog", "images_dir": "/pictures"}, parent=None).version_id)

    new_points, new_vectors = shop(60, "new", seed=5)
    sides = SparseRows(np.array([0, 2]), np.array([3, 49]), np.array([0.6, 0.8], np.float32))
    with WriteLog.open(tmp_path / "log") as log:
        for at, (point, vector) in enumerate(zip(new_points, new_vectors, strict=True)):
            several = {"image": rng.standard_normal((at % 3, 8)).astype(np.float32)}
            if at % 5:  # the others have a sparse side alone
                several["text"] = vector[None]
            appended(log, Upsert(point, several, {} if at % 2 and at % 5 else {"text": sides}))
        appended(log, *(Delete(f"item-{at:05}") for at in range(0, 300, 7)))
        appended(log, Upsert(points[1], {"text": -new_vectors[:1]}))  # its pictures go
        sale = Datapoint("new-00003", numeric_restricts=(NumericRestrict("price", 0.5),), metadata={"title": "sale"})
        appended(log, Change(sale, frozenset({"numeric_restricts"})), Change(sale, frozenset({"metadata"})))
        last = appended(log, Change(replace(sale, datapoint_id="item-00002"), frozenset({"metadata"})))
        built = folded(store, base, log)
        before, after = snapshot_of(base, log), store.open(built.version_id)

    assert built.manifest.log_sequence == last
    assert (built.manifest.parent, after.images_dir) == (base.version_id, "/pictures")
    assert store.verify(built.version_id) > 0
    for name in ("text", "image"):
        old, new = base.space(name).entry, after.space(name).entry
        carried = ("space_id", "metric", "modality", "best_of", "alpha")
        assert [getattr(new, at) for at in carried] == [getattr(old, at) for at in carried]
        assert new.is_grouped
        assert before.space(name).n_datapoints == after.space(name).n_datapoints
        check_same_answers(before, after, name)
        check_same_answers(before, after, name, crowding_cap=2)
    encoder = after.space("text").encoder
    assert encoder is not None
    assert (encoder.kind, dict(encoder.params)) == ("test", {"words": 3})
    np.testing.assert_array_equal(encoder.arrays["weights"], np.arange(5))
    asked = SparseRows(np.arange(0, 42, 2), rng.integers(0, 50, 40).astype(np.int64), rng.random(40).astype(np.float32))
    both = [v.space("text").sparse.scores(asked, len(v.columns)) for v in (before, after)]  # type: ignore[union-attr]
    for row in range(len(after.columns)):
        name = after.columns.datapoint_id(row)
        at = before.columns.find(name)
        assert before.datapoints([name]) == after.datapoints([name])
        np.testing.assert_allclose(both[0][:, at], both[1][:, row], atol=1e-6)
        for space in ("text", "image"):
            np.testing.assert_array_equal(before.vectors([name], space)[0], after.vectors([name], space)[0])


def test_a_space_stays_open_to_any_number_of_vectors(make_version: MakeVersion, store: Store, tmp_path: Path) -> None:
    points, vectors = shop(80)
    base = make_version(points[:70], vectors, owners=np.arange(80) % 70, plan="flat")
    with WriteLog.open(tmp_path / "log") as log:
        last = appended(log, *(Upsert(points[at], {"vectors": vectors[at : at + 1]}) for at in range(10)))
        after = store.open(folded(store, base, log).version_id)
        assert after.space("vectors").entry.is_grouped, "each owns one now, and may own several again"
        live = LiveIndex(after, log)
        token = live.write([Upsert(points[0], {"vectors": vectors[:3]}), Upsert(points[1])]).last_sequence
        snapshot = live.wait(token, deadline=time.monotonic() + 30)
        held = snapshot.vectors([points[0].datapoint_id, points[1].datapoint_id], "vectors")
        assert [len(each) for each in held] == [3, 0]
        live.close()
        assert (last, token) == (10, 12)


def test_numbers_of_another_type_than_their_namespace_are_left_out_as_a_live_index_does(
    make_version: MakeVersion, store: Store, tmp_path: Path
) -> None:
    points, vectors = shop(40)
    base = make_version(points, vectors)

    def number(name: str, namespace: str, value: float, kind: NumericType) -> Change:
        wrong = NumericRestrict(namespace, value, kind)
        return Change(Datapoint(name, numeric_restricts=(wrong,)), frozenset({"numeric_restricts"}))

    with WriteLog.open(tmp_path / "log") as log:
        log.append([pack_write(Types({"size": "int64"}))])
        appended(
            log,
            number("item-00001", "size", 1.5, "float64"),
            number("item-00002", "size", 2, "int64"),
            number("item-00003", "weight", 2.5, "float32"),
            number("item-00004", "weight", 2, "int64"),
            number("item-00005", "price", 2, "int64"),
            Upsert(
                Datapoint("new", numeric_restricts=(NumericRestrict("weight", 1, "int64"),)), {"vectors": vectors[:1]}
            ),
        )
        before, after = snapshot_of(base, log), store.open(folded(store, base, log).version_id)
    names = [f"item-{at:05}" for at in range(6)] + ["new"]
    assert before.datapoints(names) == after.datapoints(names)
    assert [len(point.numeric_restricts) for point in after.datapoints(names)] == [1, 0, 1, 1, 0, 0, 0]
    assert after.numeric_types() == {"size": "int64", "weight": "float32", "price": "float64"}


def test_a_graph_keeps_its_recall(make_version: MakeVersion, store: Store, tmp_path: Path) -> None:
    """Half of the datapoints go and a third are new: as good as an index that was built of what is left at once."""
    points, vectors = shop(4_000)
    new_points, new_vectors = shop(1_200, "new", seed=6)
    base = make_version(points, vectors, plan="graph", threads=1, alias="shop")
    with WriteLog.open(tmp_path / "log") as log:
        appended(log, *(Delete(point.datapoint_id) for point in points[::2]))
        appended(
            log, *(Upsert(point, {"vectors": one[None]}) for point, one in zip(new_points, new_vectors, strict=True))
        )
        built = folded(store, base, log)
        live = snapshot_of(base, log)
    after = store.open(built.version_id)
    assert after.space("vectors").plan_name == "graph"
    fresh = make_version([*points[1::2], *new_points], np.vstack([vectors[1::2], new_vectors]), plan="graph", threads=1)
    check_same_answers(live, after, "vectors")
    queries = np.random.default_rng(9).standard_normal((200, DIM)).astype(np.float32)
    recalls = []
    for version in (after, fresh):
        near = version.search(queries, 10, space="vectors", effort=48)
        true = version.search(queries, 10, space="vectors", exact=True)
        assert (near.plan, true.plan) == ("graph", "exact")
        hits = [
            len({n.datapoint_id for n in a} & {n.datapoint_id for n in b})
            for a, b in zip(near.neighbors, true.neighbors, strict=True)
        ]
        recalls.append(float(np.mean(hits)) / 10)
        answered = {n.datapoint_id for each in near.neighbors for n in each}
        assert not answered & {point.datapoint_id for point in points[::2]}
    assert min(recalls) >= 0.95
    assert recalls[0] >= recalls[1] - 0.005


def test_a_reader_beside_the_writer_takes_only_what_is_on_disk_for_sure(
    make_version: MakeVersion, store: Store, tmp_path: Path
) -> None:
    points, vectors = shop(40)
    base = make_version(points, vectors)
    with WriteLog.open(tmp_path / "log") as log:
        for at in range(5):
            appended(log, Delete(points[at].datapoint_id))
        with WriteLog.open(tmp_path / "log", read_only=True) as beside:
            assert (beside.last_sequence, beside.proved_sequence, log.proved_sequence) == (5, 4, 5)
            built = folded(store, base, beside)
            assert built.manifest.log_sequence == 4
            assert built.manifest.n_datapoints == 36
            assert folded(store, base, beside, last_sequence=5).manifest.n_datapoints == 35  # the writer says so
            with pytest.raises(InvalidInput, match="those up to 6 were asked for; the log has 5, of which 4 are known"):
                folded(store, base, beside, last_sequence=6)
    with WriteLog.open(tmp_path / "log", read_only=True) as closed:
        assert closed.proved_sequence == 5


def test_a_base_that_the_log_does_not_reach_back_to_is_refused(
    make_version: MakeVersion, store: Store, tmp_path: Path
) -> None:
    base = make_version(*shop(40))
    with WriteLog.open(tmp_path / "log", first_sequence=9) as log:
        appended(log, Delete("item-00001"))
        with pytest.raises(NotFound, match="has the writes up to 0 in it, and the log begins at 9"):
            folded(store, base, log)


def test_what_goes_wrong_leaves_nothing(
    make_version: MakeVersion, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, vectors = shop(40)
    base = make_version(points, vectors)
    versions = store.versions()

    class Impatient(Silent):
        def begin(self, stage: str, total: int | None) -> None:
            if stage.startswith("vectors: measure"):
                raise KeyboardInterrupt

    with WriteLog.open(tmp_path / "log") as log:
        appended(log, Delete(points[0].datapoint_id))
        with pytest.raises(KeyboardInterrupt):
            compact(store, base.version_id, log, settings=BuildSettings(), progress=Impatient())
        assert list((store.path / "work").iterdir()) == []
        appended(log, Delete(points[1].datapoint_id))
        log.append([b"of another program"])
        with pytest.raises(CorruptArtifact, match="write format"):
            folded(store, base, log)
        file = next(store.directory(base.version_id).rglob("*.vectors"))
        whole = file.read_bytes()
        file.write_bytes(whole[:5000] + b"x" + whole[5001:])
        with pytest.raises(CorruptArtifact):
            folded(store, base, log)
    assert store.versions() == versions
    assert list((store.path / "work").iterdir()) == []


def test_a_space_that_shrank_too_far_for_a_graph_is_scanned(
    make_version: MakeVersion, store: Store, tmp_path: Path
) -> None:
    points, vectors = shop(200)
    base = make_version(points, vectors, plan="graph", recall_target=0.5)
    with WriteLog.open(tmp_path / "log") as log:
        appended(log, *(Delete(point.datapoint_id) for point in points[:150]))
        built = folded(store, base, log)
        assert built.manifest.spaces[0].plan.name == "flat"
        check_same_answers(snapshot_of(base, log), store.open(built.version_id), "vectors")


def test_a_compaction_below_its_floor_is_refused(make_version: MakeVersion, store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3_000, 64)).astype(np.float32)
    how = {"plan": "graph", "max_effort": 8, "degree": 8, "build_beam": 8, "recall_target": 0.05}
    base = make_version([Datapoint(f"{at}") for at in range(3_000)], vectors, metric="ip", **how)
    manifest = base.manifest
    build = {**manifest.build, "settings": {**manifest.build["settings"], "recall_target": 0.999}}  # type: ignore[dict-item]
    with WriteLog.open(tmp_path / "log") as log:
        appended(log, Delete("7"))
        old = store.directory(base.version_id)
        raised = store.new_work("raised")
        for file in manifest.files:
            (raised / file).parent.mkdir(parents=True, exist_ok=True)
            (raised / file).hardlink_to(old / file)
        stricter = store.publish(raised, replace(manifest, build=build))
        with pytest.raises(GateRefused, match=r"the floor is 0\.999"):
            folded(store, store.open(stricter), log)
    assert len(list((store.path / "refused").iterdir())) == 1
    assert len(store.versions()) == 2
