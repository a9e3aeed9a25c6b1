"""A live index under any history of writes, against a dict and the slow reference of the searches."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from matching.datapoint import Datapoint, Filter, Metric, NumericRestrict
from matching.errors import NotFound
from matching.live import Change, Delete, LiveIndex, Upsert, Write, WriteLog
from matching.live.write import FieldName
from matching.store import Store
from matching.version import IndexVersion
from tests.property.test_search import DIM, check_against_reference, filters, restricts, shops, sizes
from tests.versions import build_version

Model = dict[str, tuple[Datapoint, NDArray[np.float32]]]

ids = st.integers(0, 120).map(lambda at: f"item-{at}")  # some of the shop's, some new
fields = st.sets(st.sampled_from(["restricts", "numeric_restricts", "crowding_tag", "metadata"]), min_size=1).map(
    frozenset
)


@st.composite
def datapoints(draw: st.DrawFn) -> Datapoint:
    number = draw(st.none() | sizes)
    return Datapoint(
        draw(ids),
        draw(restricts),
        () if number is None else (NumericRestrict("size", number, "int64"),),
        draw(st.sampled_from([None, "a", "b"])),
        {"title": draw(st.sampled_from(["old", "new"]))},
    )


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, Datapoint, frozenset[FieldName]]:
    return draw(st.sampled_from("UUCCD")), draw(datapoints()), draw(fields)


def applied(model: Model, write: Write) -> None:
    if isinstance(write, Delete):
        model.pop(write.datapoint_id, None)
    elif isinstance(write, Upsert):
        model[write.datapoint.datapoint_id] = (write.datapoint, write.vectors["vectors"][0])
    else:
        before, vector = model[write.datapoint.datapoint_id]
        new = {name: getattr(write.datapoint, name) for name in write.fields}
        model[before.datapoint_id] = (replace(before, **new), vector)


def check(version: IndexVersion, model: Model, metric: Metric, wanted: list[Filter], k: int, cap: int) -> None:
    points = [point for point, _ in model.values()]
    vectors = np.array([vector for _, vector in model.values()], np.float32).reshape(-1, DIM)
    query = np.random.default_rng(len(points)).standard_normal(DIM).astype(np.float32)
    assert version.n_datapoints == len(points)
    for one in [*wanted, Filter()]:
        check_against_reference(version, points, vectors, metric, query, one, k, cap)
    known = sorted(model)[:10]
    assert version.datapoints(known) == tuple(model[one][0] for one in known)
    for one, (held,) in zip(known, version.vectors(known, "vectors"), strict=True):
        vector = model[one][1]
        np.testing.assert_allclose(held, vector / np.linalg.norm(vector) if metric == "cosine" else vector, rtol=1e-5)
    counts: dict[str, int] = {}
    for point in points:
        for restrict in point.restricts:
            for token in restrict.allow if restrict.namespace == "colour" else ():
                counts[token] = counts.get(token, 0) + 1
    try:
        assert version.facets("colour") == counts
    except NotFound:
        assert not counts
    numbers = [float(n.value) for point in points for n in point.numeric_restricts]
    if "size" in version.numeric_types():
        assert version.numeric_range("size") == ((min(numbers), max(numbers)) if numbers else None)


@settings(max_examples=15)
@given(
    shop=shops(),
    metric=st.sampled_from(["ip", "cosine", "l2"]),
    shard_bytes=st.sampled_from([1 << 16, 1 << 30]),
    batches=st.lists(st.lists(changes(), min_size=1, max_size=12), min_size=1, max_size=6),
    wanted=st.lists(filters(), max_size=3),
    k=st.integers(1, 100),
    cap=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
def test_any_history_of_writes_reads_as_a_dict_would(
    shop: tuple[list[Datapoint], NDArray[np.float32]],
    metric: Metric,
    shard_bytes: int,
    batches: list[list[tuple[str, Datapoint, frozenset[FieldName]]]],
    wanted: list[Filter],
    k: int,
    cap: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    points, vectors = shop
    model: Model = {point.datapoint_id: (point, vector) for point, vector in zip(points, vectors, strict=True)}
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "store", create=True)
        base = build_version(store, points, vectors, metric, build={"plan": "flat", "shard_bytes": shard_bytes})
        with WriteLog.open(Path(directory) / "log") as log:
            live = LiveIndex(base, log)
            check(live.snapshot, model, metric, wanted, k, cap)
            first, first_model = live.snapshot, dict(model)
            for batch in batches:
                writes: list[Write] = []
                for kind, point, names in batch:
                    vector = rng.standard_normal((1, DIM)).astype(np.float32)
                    if kind == "U":
                        writes.append(Upsert(point, {"vectors": vector}))
                    elif kind == "D":
                        writes.append(Delete(point.datapoint_id))
                    elif point.datapoint_id in model:
                        writes.append(Change(point, names))
                    else:
                        continue
                    applied(model, writes[-1])
                if writes:
                    token = live.write(writes).last_sequence
                    check(live.wait(token, deadline=time.monotonic() + 30), model, metric, wanted, k, cap)
            check(first, first_model, metric, wanted, k, cap)
            live.close()
        with WriteLog.open(Path(directory) / "log") as log:
            live = LiveIndex(base, log)
            check(live.snapshot, model, metric, wanted, k, cap)
            live.close()
