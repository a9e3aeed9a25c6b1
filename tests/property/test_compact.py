"""Compaction anywhere in any history of writes, with restarts, against a dict and the slow reference of the searches."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_builder.compact import compact
from index_builder.progress import Silent
from index_builder.settings import BuildSettings
from matching.datapoint import Datapoint, Filter, Metric
from matching.errors import InvalidCatalog, InvalidInput
from matching.live import Delete, LiveIndex, Upsert, Write, WriteLog
from matching.live.write import Change, FieldName
from matching.store import Store
from matching.version import IndexVersion
from tests.property.test_live_index import Model, applied, changes, check
from tests.property.test_search import DIM, filters, shops
from tests.versions import build_version

Batch = list[tuple[str, Datapoint, frozenset[FieldName]]]
steps = st.lists(
    st.one_of(
        st.lists(changes(), min_size=1, max_size=12), st.just("compact"), st.just("restart"), st.just("next base")
    ),
    min_size=2,
    max_size=8,
)


class History:
    """A base, its log, the live index over both, and the dict that it must equal."""

    def __init__(
        self,
        folder: Path,
        points: list[Datapoint],
        vectors: NDArray[np.float32],
        metric: Metric,
        shard_bytes: int,
    ) -> None:
        self.model: Model = {point.datapoint_id: (point, vector) for point, vector in zip(points, vectors, strict=True)}
        self.store = Store(folder / "store", create=True)
        self.folder = folder / "log"
        self.base = build_version(
            self.store, points, vectors, metric, build={"plan": "flat", "shard_bytes": shard_bytes}
        )
        self.newest: IndexVersion = self.base
        self.log = WriteLog.open(self.folder, segment_bytes=2_000)
        self.live = LiveIndex(self.base, self.log)
        self.token = 0

    def write(self, batch: Batch, rng: np.random.Generator) -> None:
        writes: list[Write] = []
        for kind, point, names in batch:
            if kind == "U":
                writes.append(Upsert(point, {"vectors": rng.standard_normal((1, DIM)).astype(np.float32)}))
            elif kind == "D":
                writes.append(Delete(point.datapoint_id))
            elif point.datapoint_id in self.model:
                writes.append(Change(point, names))
            else:
                continue
            applied(self.model, writes[-1])
        if writes:
            self.token = self.live.write(writes).last_sequence
            self.live.wait(self.token, deadline=time.monotonic() + 30)

    def compact(self) -> None:
        """Read the log beside its writer, as a process of its own would."""
        with WriteLog.open(self.folder, read_only=True) as log:
            asked = {"settings": BuildSettings(), "progress": Silent(), "last_sequence": self.token}
            if self.token == self.newest.manifest.log_sequence:
                with pytest.raises(InvalidInput, match="expected newer ones"):
                    compact(self.store, self.newest.version_id, log, **asked)
            elif not self.model:
                with pytest.raises(InvalidCatalog, match="no vector is left in space 'vectors'"):
                    compact(self.store, self.newest.version_id, log, **asked)
            else:
                built = compact(self.store, self.newest.version_id, log, **asked)
                assert built.manifest.log_sequence == self.token
                assert built.manifest.parent == self.newest.version_id
                self.newest = self.store.open(built.version_id)
                assert len(self.newest.columns) == len(self.model)
                ids = [self.newest.columns.datapoint_id(row) for row in range(len(self.model))]
                assert ids == sorted(self.model, key=str.encode)
        assert list((self.store.path / "work").iterdir()) == []

    def restart(self, *, base: IndexVersion | None = None) -> None:
        self.close()
        self.base = base or self.base
        self.log = WriteLog.open(self.folder, segment_bytes=2_000)
        self.live = LiveIndex(self.base, self.log)

    def close(self) -> None:
        self.live.close()
        self.log.close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n_examples", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_any_history_reads_as_a_dict_would_wherever_it_is_compacted(n_examples: int) -> None:
    @settings(max_examples=n_examples)
    @given(
        shop=shops(),
        metric=st.sampled_from(["ip", "cosine", "l2"]),
        shard_bytes=st.sampled_from([1 << 16, 1 << 30]),
        history=steps,
        wanted=st.lists(filters(), max_size=3),
        k=st.integers(1, 100),
        cap=st.integers(0, 2),
        seed=st.integers(0, 2**16),
    )
    def runs(
        shop: tuple[list[Datapoint], NDArray[np.float32]],
        metric: Metric,
        shard_bytes: int,
        history: list[Batch | str],
        wanted: list[Filter],
        k: int,
        cap: int,
        seed: int,
    ) -> None:
        rng = np.random.default_rng([seed, 1])  # no vector of the shop again: live, ties go by age
        with tempfile.TemporaryDirectory() as directory:
            one = History(Path(directory), *shop, metric, shard_bytes)
            try:
                for step in [*history, "compact", "next base"]:
                    if step == "compact":
                        one.compact()
                    elif step == "restart":
                        one.restart()
                    elif step == "next base":
                        one.restart(base=one.newest)
                    else:
                        one.write(step, rng)  # type: ignore[arg-type]
                    check(one.live.snapshot, one.model, metric, wanted, k, cap)
            finally:
                one.close()

    runs()
