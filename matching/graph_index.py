"""A graph index over vectors in memory or in one sealed file: approximate nearest neighbours, filtered, mutable."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpp_ext.native_graph import NativeGraph, NativeGraphClass, native_graph
from matching.container import open_container, write_container
from matching.errors import (
    AlreadyExists,
    CorruptArtifact,
    InvalidInput,
    InvalidQuery,
    LikewiseError,
    MissingExtra,
    NotFound,
)
from matching.files import sync

Metric = Literal["ip", "cosine", "l2"]
Layout = Literal["fast", "compact"]
Plan = Literal["graph", "scan", "graph, then scan"]

KIND = "graph"
FORMAT = 3
_LIKE_IT = 2  # the same, but that links of rows beyond 448 numbers had signs of all of them: these do not fit
MAX_DIM = 4096
MAX_ROWS = 2**31 - 1
MAX_K = 1 << 20
MAX_THREADS = 256
MAX_KNOBS = 1024
OCCLUSION = 1.05  # of 0.93 to 1.2 the least time at every recall; .99 takes a third less than with the 1 of HNSW
DEFAULT_RECALL = 0.95
DEFAULT_DEGREE = 32
DEFAULT_BUILD_BEAM = 100

_LAYOUTS: tuple[Layout, ...] = ("fast", "compact")
_METRICS: tuple[Metric, ...] = ("ip", "cosine", "l2")
_PLANS: tuple[Plan, ...] = ("graph", "scan", "graph, then scan")
_ARRAYS = (
    "codes",
    "fine",
    "signs",
    "sign_blocks",
    "factors",
    "centre",
    "neighbors",
    "blocks",
    "entries",
    "live",
    "table",
    "scan_table",
)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a query costs and finds, measured at build time on rows that the graph had not seen, k = 10."""

    effort: float
    """Rows whose links were followed, on average."""
    recall: float
    recall_low: float
    """Lower bound of the recall at 95 % confidence, one-sided."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a search found and how, one entry a query."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    plans: list[Plan]
    n_expanded: NDArray[np.int32]
    """Rows whose links were followed."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the choice between graph and scan weighs, in the time that the signs of one row are read in."""

    hop: float
    """Following the links of a row."""
    block: float
    """Bounding 32 rows that follow each other by their signs."""


class GraphIndex:
    """Approximate nearest neighbours by a graph over quantised vectors, ranked anew by 16-bit ones.

    Distances are -<q, x> for `ip`, 1 - cos for `cosine` and the squared Euclidean distance for `l2`, exact to about
    1e-4 of the vectors' spread; smaller is nearer and ties go to the lower row. Rows are numbered in the order they came.

    Thread-safe: searches run at the same time as each other and as one mutation; mutations wait for each other.

    Source: Malkov and Yashunin, HNSW, 2016 (links); Gao and Long, RaBitQ, SIGMOD 2024 (bounds from sign bits); Al-Jazzazi
    et al., Distance Adaptive Beam Search, 2025 (the stop rule). `docs/graph.md` tells what was measured.
    """

    def __init__(self, native: NativeGraph, *, seed: int, build_beam: int, occlusion: float) -> None:
        """Wrap a native index; use `build`, `from_links` or `open`."""
        self._native = native
        self._quick_search = native.quick_search
        self._dim = native.dim
        self._knobs: dict[tuple[float | None, float | None], tuple[float, float]] = {}
        self._seed = seed
        self._build_beam = build_beam
        self._occlusion = occlusion
        self._writing = threading.Lock()

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        *,
        metric: Metric = "ip",
        seed: int = 0,
        threads: int = 1,
        degree: int = DEFAULT_DEGREE,
        build_beam: int = DEFAULT_BUILD_BEAM,
        layout: Layout = "fast",
        costs: Costs | None = None,
        held_out: ArrayLike | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> GraphIndex:
        """Build an index; the same vectors, seed and settings give the same bytes whatever the number of threads.

        Args:
            vectors: float32[n, d], finite, 8 <= d <= 4096 (smaller d works, and gains nothing); left as they are.
            metric: "ip", "cosine" or "l2".
            seed: of the rotation, the order of insertion and the entries.
            threads: 1 to 256.
            degree: links of a row, 8 to 128.
            build_beam: candidates that a row's links are chosen from; more is a better graph and a slower build.
            layout: "fast" keeps the signs of a row's links beside them, 32 * (min(d, 448) / 8 + 8) bytes a row at degree 32;
                "compact" does without and takes a fifth to a third longer for a search.
            costs: what is weighed against each other, as `calibrate` measured it; if None, as a server took it for rows
                of this length. They say how much effort is worth measuring, and are saved.
            held_out: rows that no search finds, as if deleted, until `join` adds them: queries that measure a graph
                which has not seen them.
            progress: called with the number of rows linked so far; what it raises ends the build, and so does Ctrl-C.

        Raises:
            InvalidInput: vectors, metric, held_out or a number is not as stated.
            MissingExtra: the native module is not there.
        """
        return cls._build(vectors, None, metric, seed, threads, degree, build_beam, layout, costs, held_out, progress)

    @classmethod
    def from_links(
        cls,
        vectors: ArrayLike,
        links: ArrayLike,
        *,
        metric: Metric = "ip",
        seed: int = 0,
        threads: int = 1,
        degree: int = DEFAULT_DEGREE,
        layout: Layout = "fast",
        costs: Costs | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> GraphIndex:
        """Take the links of a graph built elsewhere, for instance on a GPU; more than `degree` a row are thinned out.

        Args:
            links: int32[n, m], the rows each row is linked to; negative = none.

        Raises:
            InvalidInput: as for `build`; links do not fit the vectors.
            MissingExtra: the native module is not there.
        """
        given = np.ascontiguousarray(links, np.int32)
        beam = max(DEFAULT_BUILD_BEAM, degree)
        return cls._build(vectors, given, metric, seed, threads, degree, beam, layout, costs, None, progress)

    @classmethod
    def _build(
        cls,
        vectors: ArrayLike,
        links: NDArray[np.int32] | None,
        metric: Metric,
        seed: int,
        threads: int,
        degree: int,
        build_beam: int,
        layout: Layout,
        costs: Costs | None,
        held_out: ArrayLike | None,
        progress: Callable[[int], None] | None,
    ) -> GraphIndex:
        native = _native()
        rows = _check_vectors("build", vectors, None, native)
        if metric not in _METRICS:
            raise InvalidInput(f"[build] metric is {metric!r}; expected ip, cosine or l2")
        _check_range("build", "threads", threads, 1, MAX_THREADS)
        if layout not in _LAYOUTS:
            raise InvalidInput(f"[build] layout is {layout!r}; expected fast or compact")
        _check_range("build", "degree", degree, 8, 128)
        _check_range("build", "build_beam", build_beam, degree, 4096)
        _check_range("build", "seed", seed, 0, 2**63 - 1)
        if links is not None and (links.ndim != 2 or len(links) != len(rows) or links.shape[1] == 0):
            raise InvalidInput(f"[build] links have shape {links.shape}; expected ({len(rows)}, m) with m >= 1")
        if links is not None and links.max(initial=-1) >= len(rows):
            raise InvalidInput(f"[build] a link leads to row {links.max()}; expected rows below {len(rows)}")
        apart = None if held_out is None else _check_rows("build", held_out, len(rows), InvalidInput)
        built = native.build(
            rows,
            metric=metric,
            seed=seed,
            degree=degree,
            build_beam=build_beam,
            occlusion=OCCLUSION,
            packed=layout == "fast",
            costs=None if costs is None else _checked(costs),
            threads=threads,
            progress=progress,
            links=links,
            held_out=apart,
        )
        return cls(built, seed=seed, build_beam=build_beam, occlusion=OCCLUSION)

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        effort: float | None = None,
        recall_target: float | None = None,
        mask: ArrayLike | None = None,
        exact: bool = False,
        threads: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the k nearest live rows of each query among those of the mask; always min(k, matches) of them.

        Args:
            queries: float32[q, d], finite.
            effort: rows whose links a query follows, on average; more never lowers the expected recall.
            recall_target: instead of effort, the recall@10 to reach, as measured at build time on rows the graph had
                not seen; .95 when neither is given. A target beyond what was measured gets the most that was measured.
            mask: bool[n], or a bitmap uint64[ceil(n / 64)] (row r is bit r % 64 of word r // 64); one for all queries.
            exact: look at every row, by its 16-bit form.
            threads: 1 to 256; the answer does not depend on it.

        Returns:
            Rows int64[q, k] and distances float32[q, k], nearest first, padded with -1 and +inf.

        Raises:
            InvalidQuery: an argument is not as stated, or both effort and recall_target are given.
        """
        knobs = self._knobs.get((effort, recall_target))
        if knobs is not None and not exact:
            usual = self._quick_search(queries, k, knobs[0], knobs[1], mask, threads)
            if usual is not None:
                return usual
        found = self._search(queries, k, effort, recall_target, mask, exact, threads, False)
        return cast("tuple[NDArray[np.int64], NDArray[np.float32]]", found)

    def trace(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        effort: float | None = None,
        recall_target: float | None = None,
        mask: ArrayLike | None = None,
        exact: bool = False,
        threads: int = 1,
    ) -> Trace:
        """Search, and tell how each answer was found. As `search` otherwise."""
        found = self._search(queries, k, effort, recall_target, mask, exact, threads, True)
        rows, distances, plans, expanded = cast(
            "tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.uint8], NDArray[np.int32]]", found
        )
        return Trace(rows, distances, [_PLANS[plan] for plan in plans.tolist()], expanded)

    def _search(
        self,
        queries: ArrayLike,
        k: int,
        effort: float | None,
        recall_target: float | None,
        mask: ArrayLike | None,
        exact: bool,
        threads: int,
        trace: bool,
    ) -> tuple[NDArray[np.generic], ...]:
        native = self._native
        asked = _check_vectors("search", queries, self._dim, native)
        _check_range("search", "k", k, 1, MAX_K)
        _check_range("search", "threads", threads, 1, MAX_THREADS)
        knobs = self._knobs.get((effort, recall_target))
        spread, margin = knobs if knobs is not None else self._knobs_for(effort, recall_target)
        keep = None if mask is None else _bitmap(mask, native.size)
        return native.search(asked, k, spread, margin, exact, keep, threads, trace)

    def _knobs_for(self, effort: float | None, recall_target: float | None) -> tuple[float, float]:
        native = self._native
        if effort is not None:
            if recall_target is not None:
                raise InvalidQuery("[search] effort and recall_target are both given; expected one of them")
            if not effort > 0:
                raise InvalidQuery(f"[search] effort is {effort}; expected a number above 0")
            spread = native.spread_for_effort(effort)
            margin = native.margin_for_recall(native.recall_of(spread))
        else:
            recall = DEFAULT_RECALL if recall_target is None else recall_target
            if not 0 < recall <= 1:
                raise InvalidQuery(f"[search] recall_target is {recall}; expected 0 < recall_target <= 1")
            spread = native.spread_for_recall(recall)
            margin = native.margin_for_recall(recall)
        if len(self._knobs) < MAX_KNOBS:
            self._knobs[effort, recall_target] = spread, margin
        return spread, margin

    def add(self, vectors: ArrayLike, *, threads: int = 1) -> NDArray[np.int64]:
        """Add rows; searches go on meanwhile and find them as soon as they are linked.

        Args:
            vectors: float32[m, d], finite.

        Returns:
            Their row numbers, int64[m].

        Raises:
            InvalidInput: vectors are not as stated.
        """
        rows = _check_vectors("add", vectors, self._dim, self._native)
        _check_range("add", "threads", threads, 1, MAX_THREADS)
        with self._writing:
            if self._native.size + len(rows) > MAX_ROWS:
                raise InvalidInput(
                    f"[add] {self._native.size} + {len(rows)} rows are more than {MAX_ROWS}; start another shard"
                )
            first = self._native.add(rows, threads)
        return np.arange(first, first + len(rows), dtype=np.int64)

    def join(self, *, threads: int = 1) -> None:
        """Add the rows that `build` held out, under the numbers they have; of an index that was saved, none."""
        _check_range("join", "threads", threads, 1, MAX_THREADS)
        with self._writing:
            self._native.join(threads)

    def delete(self, rows: ArrayLike) -> int:
        """Delete rows; they are never answered again, and keep linking others until `compact`.

        Returns:
            How many of them were there to be deleted.

        Raises:
            NotFound: a row was never added; nothing is deleted then.
        """
        with self._writing:
            return self._native.remove(_check_rows("delete", rows, self._native.size, NotFound))

    def compact(self, *, threads: int = 1) -> tuple[GraphIndex, NDArray[np.int64]]:
        """Return an index of the live rows alone, its graph repaired where rows went, and the row each had here.

        This index stays as it is; searches go on, mutations wait.
        """
        _check_range("compact", "threads", threads, 1, MAX_THREADS)
        with self._writing:
            native, old_rows = self._native.compacted(threads)
        return GraphIndex(native, seed=self._seed, build_beam=self._build_beam, occlusion=self._occlusion), old_rows

    def emptied(self) -> GraphIndex:
        """Return an index without rows that knows what was learnt and measured of these: rows of their kind can be added."""
        return GraphIndex(
            self._native.emptied(), seed=self._seed, build_beam=self._build_beam, occlusion=self._occlusion
        )

    def vectors(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return float32[m, d] of rows, to 16 bits; of unit length for cosine.

        Raises:
            NotFound: a row was never added.
        """
        return self._native.restore(_check_rows("vectors", rows, self._native.size, NotFound))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a sealed file, whole or not at all; mutations wait meanwhile.

        Raises:
            AlreadyExists: the path is taken.
        """
        target = Path(path)
        if target.exists():
            raise AlreadyExists(f"[save] {target} exists; choose another path or remove it")
        native = self._native
        with self._writing:
            arrays = {name: np.asarray(array) for name, array in native.arrays().items()}
            shape = [FORMAT, native.dim, _METRICS.index(cast("Metric", native.metric)), self._seed, native.degree]
            arrays["shape"] = np.array([*shape, self._build_beam, native.packed], np.int64)
            arrays["scalars"] = np.array([self._occlusion, native.longest, *native.costs], np.float32)
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            try:
                write_container(temporary, KIND, arrays)
                os.link(temporary, target)
            except FileExistsError as error:
                raise AlreadyExists(f"[save] {target} exists; choose another path or remove it") from error
            finally:
                temporary.unlink(missing_ok=True)
            sync(target.parent)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: bool = False,
        resident: bool = False,
        ranks_from_disk: bool = False,
    ) -> GraphIndex:
        """Map a sealed file; its pages come as they are needed, and the first mutation copies them.

        Args:
            verify: check every block against its checksum first, at about 3 GB/s. Header and layout always are, and a
                search of a damaged file may answer wrongly but never reads outside it.
            resident: copy it into memory of its own, in huge pages where the system gives them: slower to open, faster
                to search. A mapped file leaves to the system which of its pages stay in memory.
            ranks_from_disk: the eight finer bits a coordinate, which only rows that may be answered are ranked by, stay in
                the file and are read for each answer, until the first mutation: less memory, some microseconds a query.

        Raises:
            CorruptArtifact: the file is not what was sealed.
            MissingExtra: the native module is not there.
        """
        native = _native()
        file = Path(path)
        arrays = open_container(file, KIND, verify=verify)
        try:
            fmt, *shape = (int(value) for value in arrays["shape"].astype(np.int64))
            if fmt not in (FORMAT, _LIKE_IT):
                raise CorruptArtifact(
                    f"[open] {file.name}: graph format {fmt} is not {FORMAT}, the one this program reads; build it again"
                )
            dim, metric, seed, degree, build_beam, packed = shape
            occlusion, longest, hop, block = scalars = [float(value) for value in arrays["scalars"].astype(np.float32)]
        except (KeyError, ValueError) as error:
            raise CorruptArtifact(f"[open] {file.name}: its settings are damaged ({error}); build it again") from error
        sane = 1 <= dim <= MAX_DIM and 0 <= metric < len(_METRICS) and seed >= 0 and 8 <= degree <= 128
        sane = sane and degree <= build_beam <= 4096 and packed in (0, 1)
        if not sane or not all(np.isfinite(scalars)) or min(longest, hop, block) <= 0:
            raise CorruptArtifact(f"[open] {file.name}: settings {shape}, {scalars} are out of range; build it again")
        try:
            opened = native.open(
                dim=dim,
                metric=_METRICS[metric],
                seed=seed,
                degree=degree,
                build_beam=build_beam,
                occlusion=occlusion,
                packed=bool(packed),
                longest=longest,
                **{name: arrays[name] for name in _ARRAYS},
            )
        except (KeyError, TypeError, ValueError) as error:
            why = (
                "its arrays do not fit each other" if fmt == FORMAT else f"graph format {fmt} of rows as long as {dim}"
            )
            raise CorruptArtifact(f"[open] {file.name}: {why}; build it again") from error
        opened.set_costs(hop, block)
        if ranks_from_disk:
            with file.open("rb") as handle:
                opened.rank_from(handle.fileno(), _offset(arrays["fine"]))
        if resident:
            opened.load()
            _forget_pages(arrays["centre"])
        return cls(opened, seed=seed, build_beam=build_beam, occlusion=occlusion)

    @property
    def native(self) -> NativeGraph:
        """The index itself, for a native space that searches it."""
        return self._native

    def calibrate(self) -> Costs:
        """Measure `costs` on this machine, in some tens of milliseconds; searches plan by them from then on."""
        return Costs(*self._native.measure_costs())

    @property
    def costs(self) -> Costs:
        """What searches plan by; saved with the index."""
        return Costs(*self._native.costs)

    def __len__(self) -> int:
        """Return the number of live rows."""
        return self._native.n_live

    @property
    def n_rows(self) -> int:
        """Rows ever added, deleted ones among them."""
        return self._native.size

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._native.dim

    @property
    def metric(self) -> Metric:
        """What distances are."""
        return cast("Metric", self._native.metric)

    @property
    def layout(self) -> Layout:
        """Whether the signs of a row's links lie beside them."""
        return "fast" if self._native.packed else "compact"

    @property
    def n_unreachable(self) -> int:
        """Live rows that no walk from the entries can reach; 0 after a build or a compaction."""
        return self._native.n_unreachable()

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory of its own; 0 for a mapped file that was not changed."""
        return self._native.owned_bytes

    @property
    def operating_points(self) -> list[OperatingPoint]:
        """What was measured at build time, cheapest first; empty for fewer than about 1,000 rows, which are scanned."""
        table = self._native.arrays()["table"]
        return [OperatingPoint(effort, recall, low) for _, effort, recall, low in table.tolist()]


def _native() -> NativeGraphClass:
    try:
        return native_graph()
    except ImportError as error:
        raise MissingExtra(
            "[GraphIndex] the native module cannot be imported; reinstall likewise with a C++20 compiler at hand"
        ) from error


def _checked(costs: Costs) -> tuple[float, float]:
    if not (0 < costs.hop < np.inf and 0 < costs.block < np.inf):
        raise InvalidInput(f"[build] costs are {costs}; expected numbers above 0")
    return costs.hop, costs.block


def _mapping(array: NDArray[np.generic]) -> mmap.mmap | None:
    base: object = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


def _offset(array: NDArray[np.generic]) -> int:
    """Return where in its mapped file an array begins."""
    mapping = _mapping(array)
    assert mapping is not None
    return int(array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data)


def _forget_pages(array: NDArray[np.generic]) -> None:
    """Take all pages of an array's mapped file out of this process's memory; they come back when they are read."""
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _check_vectors(
    operation: str, vectors: ArrayLike, dim: int | None, native: NativeGraph | NativeGraphClass
) -> NDArray[np.float32]:
    wrong = InvalidQuery if operation == "search" else InvalidInput
    try:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused below
            checked = np.ascontiguousarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise wrong(f"[{operation}] vectors cannot be read as numbers: {error}; expected float32[n, d]") from error
    expected = f"[n, {dim}]" if dim is not None else f"[n, d], 1 <= d <= {MAX_DIM}"
    if checked.ndim != 2 or not 1 <= checked.shape[1] <= MAX_DIM or (dim is not None and checked.shape[1] != dim):
        raise wrong(f"[{operation}] vectors have shape {checked.shape}; expected float32{expected}")
    if len(checked) > MAX_ROWS:
        raise wrong(f"[{operation}] {len(checked)} rows are more than {MAX_ROWS}; use several shards")
    row = native.first_unfit_row(checked)
    if row >= 0:
        if np.isfinite(checked[row]).all():
            raise wrong(f"[{operation}] row {row} holds numbers beyond 1e15; expected smaller ones: scale them down")
        raise wrong(f"[{operation}] row {row} holds NaN or infinity; expected finite numbers")
    return checked


def _check_rows(operation: str, rows: ArrayLike, n_rows: int, wrong: type[LikewiseError]) -> NDArray[np.int64]:
    wanted = np.atleast_1d(np.asarray(rows))
    if wanted.size and (wanted.ndim != 1 or wanted.dtype.kind not in "iu"):
        raise InvalidInput(f"[{operation}] rows are {wanted.dtype}{list(wanted.shape)}; expected integers [m]")
    outside = wanted[(wanted < 0) | (wanted >= n_rows)]
    if outside.size:
        raise wrong(f"[{operation}] row {int(outside[0])} is not in the index; expected 0 <= row < {n_rows}")
    return np.ascontiguousarray(wanted, np.int64)


def _check_range(operation: str, name: str, value: int, lowest: int, highest: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not lowest <= value <= highest:
        wrong = InvalidQuery if operation == "search" else InvalidInput
        raise wrong(f"[{operation}] {name} is {value!r}; expected an integer, {lowest} <= {name} <= {highest}")


def _bitmap(mask: ArrayLike, n_rows: int) -> NDArray[np.uint64]:
    given = np.asarray(mask)
    n_words = -(-n_rows // 64)
    if given.dtype == np.uint64 and given.shape == (n_words,):
        return np.ascontiguousarray(given)
    if given.dtype != np.bool_ or given.shape != (n_rows,):
        raise InvalidQuery(
            f"[search] mask is {given.dtype}{list(given.shape)}; expected bool[{n_rows}] or a bitmap uint64[{n_words}]"
        )
    bits = np.zeros(8 * n_words, np.uint8)
    packed = np.packbits(given, bitorder="little")
    bits[: len(packed)] = packed
    return bits.view(np.uint64)
