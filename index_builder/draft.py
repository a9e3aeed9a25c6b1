"""A version in the making: datapoints and vectors are staged, then indexed, measured, sealed and published, or refused."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import cast

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from index_builder.evaluate import HeldOut, Measured, measure_exact, measure_index
from index_builder.plan import GraphParams, IndexPlan, PlanChoice, choose_plan, default_memory_budget_bytes
from index_builder.progress import Progress
from index_builder.settings import BuildSettings
from index_builder.staging import StagedSparse, StagedVectors, write_shards
from matching.columns import ColumnsBuilder
from matching.container import open_container, write_bytes_container, write_container
from matching.datapoint import Metric
from matching.encoder_spec import EncoderSpec
from matching.errors import GateRefused, InvalidCatalog
from matching.faiss_index import FaissIndex, HnswParams, faiss_version
from matching.graph_index import GraphIndex
from matching.manifest import EncoderEntry, Manifest, Recall, ShardEntry, SpaceEntry, seal
from matching.opening import open_space
from matching.space import Shard, Space
from matching.store import Store

_COLUMNS_FILE = "columns"
_TRAIN_ROWS = 65_536
_MAX_HELD_OUT = 1_000
_CANARIES = 20


@dataclass(slots=True)
class SpaceDraft:
    """A space that is being filled; vectors are unit vectors where the metric is cosine."""

    name: str
    space_id: str
    metric: Metric
    modality: str | None
    vectors: StagedVectors
    sparse: StagedSparse | None = None
    alpha: float = 1.0
    best_of: int = 1
    encoder: EncoderSpec | None = None
    is_grouped: bool = False  # even where each datapoint owns one vector
    plan: PlanChoice | None = None  # instead of the settings'


@dataclass(frozen=True, slots=True)
class Built:
    """What a build came to."""

    version_id: str
    manifest: Manifest
    seconds: Mapping[str, float]


class Draft:
    """One version in the making, in the store's work directory. Not thread-safe.

    Leave it with `finish`, or with `abandon`, which removes what was staged.
    """

    def __init__(self, store: Store, settings: BuildSettings, progress: Progress) -> None:
        self._store, self._settings, self._progress = store, settings, progress
        self._started = datetime.now(timezone.utc)
        self.work = store.new_work(self._started.strftime("%Y%m%d-%H%M%S-%f"))
        self.columns = ColumnsBuilder(self.work / "records.staged")
        self.spaces: dict[str, SpaceDraft] = {}
        self.seconds: dict[str, float] = {}

    def new_space(
        self, name: str, dim: int, *, space_id: str, metric: Metric, modality: str | None = None
    ) -> SpaceDraft:
        """Start a space of vectors of `dim` dimensions."""
        directory = self.work / "spaces" / name
        directory.mkdir(parents=True)
        vectors = StagedVectors(directory / "vectors.staged", dim)
        self.spaces[name] = SpaceDraft(name, space_id, metric, modality, vectors)
        return self.spaces[name]

    def new_sparse(self, space: SpaceDraft) -> StagedSparse:
        """Give a space a sparse side."""
        space.sparse = StagedSparse(self.work / "spaces" / space.name / "sparse.staged")
        return space.sparse

    def abandon(self) -> None:
        """Remove what was staged."""
        staged = [self.columns, *(each for space in self.spaces.values() for each in (space.vectors, space.sparse))]
        for each in staged:
            with contextlib.suppress(OSError):  # what a full disk did not take is not wanted any more
                if each is not None:
                    each.close()
        self._store.remove_work(self.work)

    def finish(self, *, source: Mapping[str, object], parent: str | None, log_sequence: int = 0) -> Built:
        """Index, measure, seal and publish.

        Args:
            log_sequence: the last write of the log that is staged, 0 for none.

        Raises:
            GateRefused: a space missed its recall floor; the build is kept among the refused ones.
            InvalidCatalog: there is nothing to index.
        """
        if not len(self.columns):
            raise InvalidCatalog("[build] no datapoint is left to index; look at the rejects")
        order = self.columns.order()
        start = time.monotonic()
        self._progress.begin("write columns", None)
        self.columns.write(self.work / _COLUMNS_FILE)
        self.seconds["columns"] = time.monotonic() - start
        entries = tuple(self._index(draft, order) for draft in self.spaces.values() if draft.vectors.n_vectors)
        if not entries:
            raise InvalidCatalog("[build] no datapoint has a vector in any space; look at the rejects")
        missed = [e for e in entries if not _reaches_target(e)]
        manifest = replace(self._manifest(entries, len(order), source, parent), log_sequence=log_sequence)
        if missed:
            kept = self._store.refuse(self.work, manifest)
            worst = min(missed, key=lambda e: e.recall.low)
            raise GateRefused(
                f"[build] space {worst.name!r} reaches recall@{worst.recall.k} {worst.recall.mean:.3f} "
                f"(at least {worst.recall.low:.3f} with 95 % confidence) at effort {self._settings.max_effort}, the floor is "
                f"{worst.recall_target:g}; raise --max-effort, choose another --plan or lower --recall-target. Not published; "
                f"kept for inspection in {kept}"
            )
        version_id = self._store.publish(self.work, manifest)
        self._check_published(version_id)
        return Built(version_id, manifest, self.seconds)

    def _index(self, draft: SpaceDraft, order: NDArray[np.int64]) -> SpaceEntry:
        directory = f"spaces/{draft.name}"
        settings = self._settings
        start = time.monotonic()
        sample = draft.vectors.sample(_TRAIN_ROWS, seed=settings.seed)
        plan = choose_plan(
            sample,
            draft.vectors.n_vectors,
            draft.metric,
            choice=draft.plan or settings.plan,
            memory_budget_bytes=settings.memory_budget_bytes or default_memory_budget_bytes(),
            recall_target=settings.recall_target,
            graph=GraphParams(settings.degree, settings.build_beam, settings.layout),
            hnsw=HnswParams(settings.links, settings.ef_construction),
            n_threads=settings.threads,
        )
        cost = (
            f"; predicted {plan.resident_bytes / 2**20:,.0f} MiB and {plan.build_cpu_s:,.0f} CPU s"
            if plan.params
            else ""
        )
        self._progress.say(f"space {draft.name}: {plan.name}, because {plan.why}{cost}")
        self._progress.begin(f"{draft.name}: write vectors", None)
        shards = write_shards(
            draft.vectors,
            order,
            self.work,
            directory,
            max_shard_bytes=settings.shard_bytes,
            is_grouped=draft.is_grouped,
        )
        n_vectors, dim = draft.vectors.n_vectors, draft.vectors.dim
        draft.vectors.close()
        self.seconds[f"{draft.name} vectors"] = time.monotonic() - start
        sparse = None
        if draft.sparse is not None:
            start = time.monotonic()
            self._progress.begin(f"{draft.name}: invert sparse side", None)
            sparse = f"{directory}/sparse"
            draft.sparse.write(self.work / sparse, order)
            self.seconds[f"{draft.name} sparse"] = time.monotonic() - start
        entry = SpaceEntry(
            name=draft.name,
            space_id=draft.space_id,
            metric=draft.metric,
            dim=dim,
            modality=draft.modality,
            n_vectors=n_vectors,
            n_datapoints=self._n_present(shards),
            is_grouped="offsets" in open_container(self.work / shards[0].vectors, "vectors", verify=False),
            best_of=draft.best_of,
            alpha=draft.alpha,
            plan=plan.entry(),
            recall_target=settings.recall_target,
            recall=Recall(10, 0.0, 0.0, 0.0, 0),
            operating_table=(),
            exact_below=0,
            shards=shards,
            sparse=sparse,
            encoder=self._write_encoder(draft.encoder, directory),
        )
        return self._build_index(entry, plan, sample, len(order))

    def _n_present(self, shards: tuple[ShardEntry, ...]) -> int:
        n = 0
        for shard in shards:
            arrays = open_container(self.work / shard.vectors, "vectors", verify=False)
            n += (
                int(np.count_nonzero(np.diff(arrays["offsets"].view(np.int64))))
                if "offsets" in arrays
                else shard.n_rows
            )
        return n

    def _write_encoder(self, spec: EncoderSpec | None, directory: str) -> EncoderEntry | None:
        if spec is None:
            return None
        if not spec.arrays:
            return EncoderEntry(spec.kind, spec.params, None)
        write_container(self.work / directory / "encoder", "encoder", spec.arrays)
        return EncoderEntry(spec.kind, spec.params, f"{directory}/encoder")

    def _build_index(self, entry: SpaceEntry, plan: IndexPlan, sample: NDArray[np.float32], n_rows: int) -> SpaceEntry:
        settings, progress = self._settings, self._progress
        bare = open_space(self.work, entry, n_rows, verify=False)
        held_rows = _held_out_rows(bare, settings.seed)
        queries = _queries_of(bare, held_rows)
        start = time.monotonic()
        if plan.params is None:
            progress.begin(f"{entry.name}: measure", None)
            measured = measure_exact(bare, HeldOut(queries, _all_but(held_rows[:0], bare)))
            self.seconds[f"{entry.name} measure"] = time.monotonic() - start
            return _measured(entry, measured)
        rng = np.random.default_rng(settings.seed)
        cpu_start = time.process_time()
        progress.begin(f"{entry.name}: build {plan.name}", entry.n_vectors)
        filled: list[Shard] = []
        held_positions: list[NDArray[np.int64]] = []
        n_done = 0
        for shard in bare.shards:
            is_held = np.isin(shard.owners(np.arange(len(shard.vectors))) + shard.first_row, held_rows)
            held = np.flatnonzero(is_held)
            index: GraphIndex | FaissIndex

            def linked(n: int, before: int = n_done) -> None:
                progress.advance(before + n)

            if isinstance(plan.params, GraphParams):
                index = GraphIndex.build(
                    shard.vectors,
                    metric=entry.metric,
                    seed=settings.seed,
                    threads=settings.threads,
                    degree=plan.params.degree,
                    build_beam=plan.params.build_beam,
                    layout=plan.params.layout,
                    held_out=held,
                    progress=linked,
                )
            else:
                index = FaissIndex.train(
                    plan.params, sample, entry.metric, seed=settings.seed, n_threads=settings.threads
                )
                positions = rng.permutation(np.flatnonzero(~is_held))
                for n_added in index.add(shard.vectors, positions, n_threads=settings.threads):
                    linked(n_added)
            n_done += len(shard.vectors) - len(held)
            filled.append(replace(shard, index=index))
            held_positions.append(held)
        self.seconds[f"{entry.name} index"] = time.monotonic() - start
        self.seconds[f"{entry.name} index cpu"] = time.process_time() - cpu_start
        start = time.monotonic()
        progress.begin(f"{entry.name}: measure", None)
        partial = replace(entry, n_datapoints=entry.n_datapoints - len(held_rows))
        measured = measure_index(
            Space(partial, filled, n_rows=n_rows),
            HeldOut(queries, _all_but(held_rows, bare)),
            recall_target=settings.recall_target,
            max_effort=settings.max_effort,
            seed=settings.seed,
            progress=lambda note: progress.advance(0, note),
        )
        self.seconds[f"{entry.name} measure"] = time.monotonic() - start
        progress.begin(f"{entry.name}: seal", None)
        sealed = tuple(map(self._seal_shard, entry.shards, filled, held_positions))
        return _measured(replace(entry, shards=sealed), measured)

    def _seal_shard(self, entry: ShardEntry, shard: Shard, held: NDArray[np.int64]) -> ShardEntry:
        """Add what was held out to the index of a shard, and write it."""
        index, n_threads = shard.index, self._settings.threads
        assert index is not None
        stem = entry.vectors.removesuffix(".vectors")
        if isinstance(index, GraphIndex):
            name = f"{stem}.graph"
            index.join(threads=n_threads)
            index.save(self.work / name)
            return replace(entry, graph=name)
        name = f"{stem}.{index.kind}"
        for _ in index.add(shard.vectors, held, n_threads=n_threads):
            pass
        plain = self.work / f"{name}.staged"
        index.save(plain)
        write_bytes_container(self.work / name, "faiss", plain)
        plain.unlink()
        return replace(entry, faiss=name)

    def _manifest(
        self, spaces: tuple[SpaceEntry, ...], n_datapoints: int, source: Mapping[str, object], parent: str | None
    ) -> Manifest:
        self._progress.begin("seal", None)
        start = time.monotonic()
        names = sorted(str(f.relative_to(self.work)) for f in self.work.rglob("*") if f.is_file())
        files = {name: seal(self.work / name) for name in names}
        self.seconds["seal"] = time.monotonic() - start
        return Manifest(
            created_at=self._started.isoformat(timespec="seconds"),
            code_version=importlib.metadata.version("likewise"),
            seed=self._settings.seed,
            n_datapoints=n_datapoints,
            source=source,
            build={
                "settings": self._settings.model_dump(),
                "kernels": cpp_ext.backend(),
                "faiss": faiss_version(),
                "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            },
            columns=_COLUMNS_FILE,
            spaces=spaces,
            files=files,
            parent=parent,
        )

    def _check_published(self, version_id: str) -> None:
        """Open what was published as a service will, and let some datapoints find themselves."""
        version = self._store.open(version_id)
        for space in version.spaces.values():
            for row in np.linspace(0, version.n_datapoints - 1, _CANARIES).astype(int).tolist():
                vectors = space.vectors_of(row)
                if len(vectors):
                    found = version.search(np.asarray(vectors[:1]), 1, space=space.name, exact=True)
                    assert found.neighbors[0], (version_id, space.name, row)


def _reaches_target(entry: SpaceEntry) -> bool:
    if entry.plan.name == "flat":
        return entry.recall.mean >= entry.recall_target
    return any(
        p.selectivity == 1 and p.k == 10 and p.recall_target == entry.recall_target and p.effort is not None
        for p in entry.operating_table
    )


def _measured(entry: SpaceEntry, measured: Measured) -> SpaceEntry:
    return replace(
        entry, recall=measured.recall, operating_table=measured.table, exact_below=min(measured.exact_below, 2**62)
    )


def _held_out_rows(space: Space, seed: int) -> NDArray[np.int64]:
    """Return the rows whose vectors the index will not see while it is measured: a twentieth, at most a thousand."""
    rows = np.arange(space.n_rows) if space.present is None else cpp_ext.rows_of(space.present, space.n_rows)
    n = min(_MAX_HELD_OUT, max(len(rows) // 20, 1))
    return np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))


def _queries_of(space: Space, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    queries = np.stack([space.vectors_of(int(row)).mean(axis=0, dtype=np.float32) for row in rows])
    if space.metric == "cosine":
        queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    return cast(NDArray[np.float32], queries)


def _all_but(rows: NDArray[np.int64], space: Space) -> NDArray[np.uint64]:
    bitmap = cpp_ext.new_bitmap(space.n_rows, fill=True)
    if space.present is not None:
        cpp_ext.intersect(bitmap, space.present)
    cpp_ext.clear_rows(bitmap, rows)
    return bitmap
