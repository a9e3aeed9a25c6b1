"""Libraries to measure beside Likewise: one class each, behind one small protocol. Nothing is imported before it is asked for.

`make peers` installs them into `.peers`, a folder of its own at the end of the import path, so that the environment of the
project stays as it is. Vectors arrive as C-ordered float32[n, d]; for the cosine metric they are unit vectors, which lets a
peer without that metric use the inner product. Rows of a missing neighbor are -1.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import harness
import numpy as np
from numpy.typing import NDArray

import cpp_ext

FOLDER = harness.ROOT / ".peers"

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Ask = Callable[[Vectors], Any]  # answers one query float32[1, d]; the rows, best first, in whatever shape the peer has

GRAPH_EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
LIST_EFFORTS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400, 800)


class Peer:
    """One library: builds an index in its folder, then answers. Not safe for concurrent use: efforts are often global.

    `effort` is the peer's own dial (ef, lists to probe, window); a larger one finds more. `single` and `among` return a
    closure with everything but the query settled, so that the clock sees one call of the library and no code of ours.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    module: ClassVar[str]
    metrics: ClassVar[frozenset[str]] = frozenset({"ip", "cosine", "l2"})
    efforts: ClassVar[tuple[float, ...]] = GRAPH_EFFORTS
    parameters: ClassVar[Mapping[str, object]] = {}
    filters: ClassVar[bool] = False
    labelled: ClassVar[bool] = False  # filters by an attribute that was indexed with the vectors, not by a mask
    scans: ClassVar[bool] = False  # looks at every row: minutes without a filter, so it takes part under filters alone
    built_as: ClassVar[str | None] = None  # the peer whose index this one opens, when it is built alike

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: Any = None

    @classmethod
    def missing(cls) -> str | None:
        """Return why this peer cannot be measured here, None where it can."""
        try:
            importlib.import_module(cls.module)
        except (ImportError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    @classmethod
    def version(cls) -> str:
        """Return the installed version."""
        return importlib.metadata.version(cls.package)

    def refuses(self, base: Vectors, metric: str) -> str | None:
        """Return why this peer cannot take these vectors, None where it can."""
        return None if metric in self.metrics else f"{self.name} has no {metric}"

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        """Build the index; `labels` are the filters that will be asked, for those that index attributes."""
        raise NotImplementedError

    def keep(self) -> None:
        """Write to the folder what `open` needs."""

    def open(self, base: Vectors, metric: str) -> None:
        """Open what an earlier run built and kept."""
        raise NotImplementedError

    def single(self, k: int, effort: float) -> Ask:
        """Return the fastest way that the library offers to answer one query in the calling thread."""
        raise NotImplementedError

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        """Answer all queries on so many threads; threads of Python where the library has no batch."""
        ask = self.single(k, effort)
        parts = np.array_split(np.arange(len(queries)), 8 * threads)
        with ThreadPoolExecutor(threads) as pool:
            done = pool.map(lambda part: [rows_of(ask(queries[i : i + 1]), k)[0] for i in part], parts)
            return np.array([rows for part in done for rows in part])

    def among(self, label: str, mask: Mask, k: int, effort: float) -> Ask:
        """Return how to answer one query among the rows of a mask, which is prepared outside the clock."""
        raise NotImplementedError


def rows_of(answer: Any, k: int) -> Rows:
    """Return int64[q, k] of any peer's answer: short ones are padded with -1."""
    if isinstance(answer, np.ndarray):
        found = answer.astype(np.int64).reshape(-1, answer.shape[-1])[:, :k]
    else:
        lists = answer if answer and isinstance(answer[0], list | np.ndarray) else [answer]
        found = np.full((len(lists), k), -1, np.int64)
        for row, ids in zip(found, lists):
            row[: len(ids)] = ids[:k]
    if found.shape[1] < k:
        found = np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=-1)
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send the progress bars that libraries print from C++ nowhere."""
    sys.stdout.flush()
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)


class Likewise(Peer):
    """This project, in memory of its own. An effort below 1 is a recall that its own planner turns into an effort."""

    name, package, module = "likewise", "likewise", "matching"
    efforts = (0.9, 0.95, 0.99, 4, 6, 8, *GRAPH_EFFORTS)
    filters = True
    layout: ClassVar[Literal["fast", "compact"]] = "fast"
    memory: ClassVar[Mapping[str, bool]] = {"resident": True}

    @classmethod
    def missing(cls) -> str | None:
        """Return why it cannot be measured: a tree without the graph, or one that is not built."""
        try:
            importlib.import_module("matching").GraphIndex  # noqa: B018  # asking is the point
        except (ImportError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    @classmethod
    def version(cls) -> str:
        """Return the version and a checksum of the code: an index of an earlier run may not be of this code."""
        native, graph = (importlib.import_module(name).__file__ for name in ("cpp_ext._native", "matching.graph_index"))
        code = b"".join(Path(file).read_bytes() for file in (native, graph) if file)
        return f"{super().version()}+{zlib.crc32(code):08x}"

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        from matching import GraphIndex

        self.index = GraphIndex.build(base, metric=metric, seed=seed, threads=threads, layout=self.layout)

    def keep(self) -> None:
        self.index.save(self.folder / "index")

    def open(self, base: Vectors, metric: str) -> None:
        from matching import GraphIndex

        self.index = GraphIndex.open(self.folder / "index", **self.memory)

    @staticmethod
    def _dial(effort: float) -> dict[str, float]:
        return {"recall_target": effort} if effort < 1 else {"effort": int(effort)}

    def single(self, k: int, effort: float) -> Ask:
        search, dial = self.index.search, self._dial(effort)
        return lambda query: search(query, k, **dial)[0]

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        return self.index.search(queries, k, threads=threads, **self._dial(effort))[0]

    def among(self, label: str, mask: Mask, k: int, effort: float) -> Ask:
        search, dial = self.index.search, self._dial(effort)
        bitmap = cpp_ext.new_bitmap(len(mask))
        cpp_ext.set_rows(bitmap, np.flatnonzero(mask))
        return lambda query: search(query, k, mask=bitmap, **dial)[0]


class LikewiseMapped(Likewise):
    """The same index, its file mapped: pages come as they are needed."""

    name = "likewise-mapped"
    built_as = Likewise.name
    memory: ClassVar[Mapping[str, bool]] = {}


class LikewiseCompact(Likewise):
    """In a fifth of the memory: no blocks, and what answers are ranked by stays on disk."""

    name = "likewise-compact"
    layout = "compact"
    parameters: ClassVar[Mapping[str, object]] = {"layout": "compact", "ranks_from_disk": True}
    memory: ClassVar[Mapping[str, bool]] = {"resident": True, "ranks_from_disk": True}


class SymphonyQG(Peer):
    """rabitqlib's graph with packed 1-bit codes of the neighbours and float32 rows."""

    name, package, module = "rabitqlib-symqg", "rabitqlib", "rabitqlib"
    bits: ClassVar[int] = 0
    parameters: ClassVar[Mapping[str, object]] = {"R": 32, "ef_construction": 200, "rows": "float32"}

    def refuses(self, base: Vectors, metric: str) -> str | None:
        small = f"{self.name} needs 64 dimensions" if base.shape[1] < 64 else None
        return super().refuses(base, metric) or small

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        import rabitqlib

        self.index = rabitqlib.SymqgIndex(
            base.shape[1], 32, metric="l2" if metric == "l2" else "ip", quantization_bits=self.bits
        )
        self.index.build(base, 200, num_threads=threads)

    def keep(self) -> None:
        self.index.save(str(self.folder / "index"))

    def open(self, base: Vectors, metric: str) -> None:
        import rabitqlib

        self.index = rabitqlib.SymqgIndex.load(str(self.folder / "index"))

    def single(self, k: int, effort: float) -> Ask:
        search, ef = self.index.search, int(effort)
        return lambda query: search(query, k, ef)[0]

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        return self.index.search_batch(queries, k, int(effort), threads)[0]


class SymphonyQG8(SymphonyQG):
    """The same with rows in 8 bits."""

    name = "rabitqlib-symqg-8bit"
    bits = 8
    parameters: ClassVar[Mapping[str, object]] = {"R": 32, "ef_construction": 200, "rows": "8 bits"}


class Glass(Peer):
    """Glass: an HNSW walked on 4-bit codes, float32 refinement of the last candidates, prefetch tuned by its `optimize`."""

    name, package, module = "glass-hnsw-sq4", "pyglass-portable", "glass"
    codes: ClassVar[str] = "SQ4U"
    parameters: ClassVar[Mapping[str, object]] = {"R": 32, "L": 200, "codes": "SQ4U", "refine": "FP32"}

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        import glass

        glass.set_num_threads(threads)
        graph = glass.Index("HNSW", "L2" if metric == "l2" else "IP", "SQ8U", R=32, L=200).build(base)
        graph.save(str(self.folder / "graph"))  # a searcher takes its graph away
        del graph
        self.open(base, metric)

    def open(self, base: Vectors, metric: str) -> None:
        import glass

        graph = glass.Graph(str(self.folder / "graph"))
        self.index = glass.Searcher(graph, base, "L2" if metric == "l2" else "IP", self.codes, "FP32")
        self.index.set_ef(64)
        self.index.optimize(1)

    def single(self, k: int, effort: float) -> Ask:
        self.index.set_ef(int(effort))
        search = self.index.search
        return lambda query: search(query[0], k)[0]

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        self.index.set_ef(int(effort))
        return self.index.batch_search(queries, k, threads)[0]


class Glass8(Glass):
    """The same on 8-bit codes."""

    name = "glass-hnsw-sq8"
    codes = "SQ8U"
    parameters: ClassVar[Mapping[str, object]] = {"R": 32, "L": 200, "codes": "SQ8U", "refine": "FP32"}


class Scann(Peer):
    """ScaNN: a tree of lists, anisotropic 4-bit codes of 2 dimensions, the best 100 scored again."""

    name, package, module = "scann", "scann-core", "scann"
    efforts = LIST_EFFORTS
    parameters: ClassVar[Mapping[str, object]] = {"leaves": "2 sqrt(n)", "dimensions_per_block": 2, "reorder": 100}

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        from scann import scann_ops_pybind

        maker = scann_ops_pybind.builder(base, 10, "squared_l2" if metric == "l2" else "dot_product")
        self.index = (
            maker.set_n_training_threads(threads)
            .tree(num_leaves=int(2 * len(base) ** 0.5), num_leaves_to_search=20, training_sample_size=len(base))
            .score_ah(2, anisotropic_quantization_threshold=float("nan") if metric == "l2" else 0.2)
            .reorder(100)
            .build()
        )

    def keep(self) -> None:
        (self.folder / "index").mkdir()
        self.index.serialize(str(self.folder / "index"))

    def open(self, base: Vectors, metric: str) -> None:
        from scann import scann_ops_pybind

        self.index = scann_ops_pybind.load_searcher(str(self.folder / "index"))

    def single(self, k: int, effort: float) -> Ask:
        search, leaves = self.index.search, int(effort)
        return lambda query: search(query[0], k, 100, leaves)[0]

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        if threads == 1:
            return self.index.search_batched(queries, k, 100, int(effort))[0]
        self.index.set_num_threads(threads)
        share = min(256, -(-len(queries) // threads))
        return self.index.search_batched_parallel(queries, k, 100, int(effort), share)[0]


class Hnswlib(Peer):
    """hnswlib: HNSW over float32 rows; a filter is a Python function of a row."""

    name, package, module = "hnswlib", "hnswlib", "hnswlib"
    parameters: ClassVar[Mapping[str, object]] = {"M": 16, "ef_construction": 200}
    filters = True

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        import hnswlib

        self.index = hnswlib.Index("l2" if metric == "l2" else "ip", base.shape[1])
        self.index.init_index(len(base), M=16, ef_construction=200, random_seed=seed)
        self.index.add_items(base, num_threads=threads)

    def keep(self) -> None:
        self.index.save_index(str(self.folder / "index"))

    def open(self, base: Vectors, metric: str) -> None:
        import hnswlib

        self.index = hnswlib.Index("l2" if metric == "l2" else "ip", base.shape[1])
        self.index.load_index(str(self.folder / "index"))

    def single(self, k: int, effort: float) -> Ask:
        self.index.set_ef(int(effort))
        search = self.index.knn_query
        return lambda query: search(query, k, num_threads=1)[0]

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        self.index.set_ef(int(effort))
        return self.index.knn_query(queries, k, num_threads=threads)[0]

    def among(self, label: str, mask: Mask, k: int, effort: float) -> Ask:
        self.index.set_ef(int(effort))
        search, chosen = self.index.knn_query, mask.tolist().__getitem__

        def ask(query: Vectors) -> Any:
            try:
                return search(query, k, num_threads=1, filter=chosen)[0]
            except RuntimeError:  # fewer than k found is an error here
                return []

        return ask


class Faiss(Peer):
    """What the FAISS indexes share: a factory, and parameters made anew for every effort."""

    package, module = "faiss-cpu", "faiss"
    filters = True

    @classmethod
    def version(cls) -> str:
        import faiss

        return str(faiss.__version__)

    def make(self, dim: int, n: int, metric: int) -> Any:
        """Return the empty index."""
        raise NotImplementedError

    def dial(self, effort: float, **chosen: Any) -> Any:
        """Return search parameters; `sel` among `chosen` restricts the rows."""
        raise NotImplementedError

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index = self.make(
            base.shape[1], len(base), faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        )
        self.index.train(base)
        self.index.add(base)

    def keep(self) -> None:
        import faiss

        faiss.write_index(self.index, str(self.folder / "index"))

    def open(self, base: Vectors, metric: str) -> None:
        import faiss

        self.index = faiss.read_index(str(self.folder / "index"))

    def _ask(self, k: int, parameters: Any) -> Ask:
        import faiss

        faiss.omp_set_num_threads(1)
        search = self.index.search
        return lambda query: search(query, k, params=parameters)[1]

    def single(self, k: int, effort: float) -> Ask:
        return self._ask(k, self.dial(effort))

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        import faiss

        faiss.omp_set_num_threads(threads)
        return self.index.search(queries, k, params=self.dial(effort))[1]

    def among(self, label: str, mask: Mask, k: int, effort: float) -> Ask:
        import faiss

        bits = np.packbits(mask, bitorder="little")
        ask = self._ask(k, self.dial(effort, sel=faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))))
        ask.bits = bits  # type: ignore[attr-defined]  # the selector borrows them
        return ask


class FaissHnsw(Faiss):
    """FAISS HNSW over float32 rows."""

    name = "faiss-hnsw"
    parameters: ClassVar[Mapping[str, object]] = {"M": 16, "efConstruction": 200}

    def make(self, dim: int, n: int, metric: int) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(dim, 16, metric)
        index.hnsw.efConstruction = 200
        return index

    def dial(self, effort: float, **chosen: Any) -> Any:
        import faiss

        return faiss.SearchParametersHNSW(efSearch=int(effort), **chosen)


class FaissHnswSq8(FaissHnsw):
    """FAISS HNSW over 8-bit codes, the best 3 k scored again from float32 rows."""

    name = "faiss-hnsw-sq8-refine"
    parameters: ClassVar[Mapping[str, object]] = {"M": 16, "efConstruction": 200, "codes": "QT_8bit", "k_factor": 3}
    k_factor: ClassVar[float] = 3

    def make(self, dim: int, n: int, metric: int) -> Any:
        import faiss

        codes = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, 16, metric)
        codes.hnsw.efConstruction = 200
        index = faiss.IndexRefineFlat(codes)
        codes.this.disown()
        index.own_fields = True
        return index

    def dial(self, effort: float, **chosen: Any) -> Any:
        import faiss

        inner = super().dial(effort, **chosen)
        return faiss.IndexRefineSearchParameters(k_factor=self.k_factor, base_index_params=inner)


class FaissIvfPq(Faiss):
    """FAISS inverted lists, 4-bit product codes scanned in registers, the best 10 k scored again from float32 rows."""

    name = "faiss-ivfpq-fastscan-refine"
    efforts = LIST_EFFORTS
    parameters: ClassVar[Mapping[str, object]] = {"nlist": "power of 2 near 2 sqrt(n)", "PQ": "d/2 x 4", "k_factor": 10}

    def refuses(self, base: Vectors, metric: str) -> str | None:
        odd = f"{self.name} needs an even dimension" if base.shape[1] % 2 else None
        return super().refuses(base, metric) or odd

    def codes(self, dim: int) -> str:
        """Return the code's name in the factory's language."""
        return f"PQ{dim // 2}x4fs"

    def make(self, dim: int, n: int, metric: int) -> Any:
        import faiss

        lists = 2 ** round(np.log2(2 * n**0.5))
        return faiss.index_factory(dim, f"IVF{lists},{self.codes(dim)},RFlat", metric)

    def dial(self, effort: float, **chosen: Any) -> Any:
        import faiss

        inner = faiss.SearchParametersIVF(nprobe=int(effort), **chosen)
        return faiss.IndexRefineSearchParameters(k_factor=10, base_index_params=inner)


class FaissIvfRabitq(FaissIvfPq):
    """FAISS inverted lists of 1-bit RaBitQ codes, the best 10 k scored again from float32 rows."""

    name = "faiss-ivf-rabitq-refine"
    parameters: ClassVar[Mapping[str, object]] = {"nlist": "power of 2 near 2 sqrt(n)", "bits": 1, "k_factor": 10}

    def refuses(self, base: Vectors, metric: str) -> str | None:
        return Faiss.refuses(self, base, metric)

    def codes(self, dim: int) -> str:
        return "RaBitQfs"


class FaissFlat(Faiss):
    """FAISS's exact scan."""

    name = "faiss-flat"
    efforts = (1,)
    scans = True

    def make(self, dim: int, n: int, metric: int) -> Any:
        import faiss

        return faiss.IndexFlat(dim, metric)

    def dial(self, effort: float, **chosen: Any) -> Any:
        import faiss

        return faiss.SearchParameters(**chosen)


class Usearch(Peer):
    """USearch: HNSW over half-precision rows."""

    name, package, module = "usearch-f16", "usearch", "usearch.index"
    parameters: ClassVar[Mapping[str, object]] = {"connectivity": 16, "expansion_add": 200, "dtype": "f16"}

    def _empty(self, dim: int, metric: str) -> Any:
        from usearch.index import Index

        return Index(
            ndim=dim,
            metric="l2sq" if metric == "l2" else "ip",
            dtype="f16",
            connectivity=16,
            expansion_add=200,
            enable_key_lookups=False,
        )

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        self.index = self._empty(base.shape[1], metric)
        self.index.add(np.arange(len(base)), base, threads=threads)

    def keep(self) -> None:
        self.index.save(str(self.folder / "index"))

    def open(self, base: Vectors, metric: str) -> None:
        self.index = self._empty(base.shape[1], metric)
        self.index.load(str(self.folder / "index"))

    def single(self, k: int, effort: float) -> Ask:
        self.index.expansion_search = int(effort)
        search = self.index.search
        return lambda query: search(query[0], k, threads=1).keys

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        self.index.expansion_search = int(effort)
        return self.index.search(queries, k, threads=threads).keys


class Vsag(Peer):
    """VSAG's hgraph over 8-bit codes, scored again from float32 rows; its Python binding has no batch."""

    name, package, module = "vsag-hgraph-sq8", "pyvsag", "pyvsag"
    parameters: ClassVar[Mapping[str, object]] = {
        "max_degree": 32,
        "ef_construction": 200,
        "codes": "sq8_uniform",
        "reorder": "fp32",
    }

    def _empty(self, dim: int, metric: str, threads: int) -> Any:
        import pyvsag

        pyvsag.set_logger_off()
        inner = {
            "base_quantization_type": "sq8_uniform",
            "precise_quantization_type": "fp32",
            "use_reorder": True,
            "max_degree": 32,
            "ef_construction": 200,
            "build_thread_count": threads,
        }
        settings = {
            "dtype": "float32",
            "metric_type": "l2" if metric == "l2" else "ip",
            "dim": dim,
            "index_param": inner,
        }
        return pyvsag.Index("hgraph", json.dumps(settings))

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        self.index = self._empty(base.shape[1], metric, threads)
        self.index.build(base.ravel(), np.arange(len(base), dtype=np.int64), len(base), base.shape[1])

    def keep(self) -> None:
        self.index.save(str(self.folder / "index"))

    def open(self, base: Vectors, metric: str) -> None:
        self.index = self._empty(base.shape[1], metric, 1)
        self.index.load(str(self.folder / "index"))

    def single(self, k: int, effort: float) -> Ask:
        search, dial = self.index.knn_search, json.dumps({"hgraph": {"ef_search": int(effort)}})
        return lambda query: search(query[0], k, dial)[0]


class Svs(Peer):
    """Intel's Vamana over half-precision rows."""

    name, package, module = "svs-vamana-f16", "scalable-vs", "svs"
    parameters: ClassVar[Mapping[str, object]] = {"degree": 32, "window": 128, "alpha": "1.2 (l2), .95 (ip)"}

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        import svs

        dial = svs.VamanaBuildParameters(
            alpha=1.2 if metric == "l2" else 0.95, graph_max_degree=32, window_size=128, prune_to=28
        )
        distance = svs.DistanceType.L2 if metric == "l2" else svs.DistanceType.MIP
        self.index = svs.Vamana.build(dial, base.astype(np.float16), distance, num_threads=threads)
        self.index.num_threads = 1

    def keep(self) -> None:
        self.index.save(*(str(self.folder / part) for part in ("config", "graph", "data")))

    def open(self, base: Vectors, metric: str) -> None:
        import svs

        self.index = svs.Vamana(
            str(self.folder / "config"),
            svs.GraphLoader(str(self.folder / "graph")),
            svs.VectorDataLoader(str(self.folder / "data"), svs.DataType.float16),
            svs.DistanceType.L2 if metric == "l2" else svs.DistanceType.MIP,
            num_threads=1,
        )

    def single(self, k: int, effort: float) -> Ask:
        self.index.search_window_size = int(effort)
        if self.index.num_threads != 1:
            self.index.num_threads = 1
        search = self.index.search
        return lambda query: search(query, k)[0]

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        self.index.search_window_size = int(effort)
        if self.index.num_threads != threads:
            self.index.num_threads = threads
        return self.index.search(queries, k)[0]


class Lorann(Peer):
    """LoRANN: lists scored by reduced-rank regression in 8 bits, the best scored again from its own copy of the rows."""

    name, package, module = "lorann", "lorann", "lorann"
    efforts = LIST_EFFORTS
    parameters: ClassVar[Mapping[str, object]] = {"clusters": "sqrt(n)", "global_dim": 128, "rank": 32, "rerank": 200}

    def refuses(self, base: Vectors, metric: str) -> str | None:
        small = f"{self.name} needs 64 dimensions" if base.shape[1] < 64 else None
        return super().refuses(base, metric) or small

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        import lorann

        dim = base.shape[1]
        self.index = lorann.LorannIndex(
            data=base,
            n_clusters=int(len(base) ** 0.5),
            global_dim=None if dim < 200 else 128 if dim <= 1000 else 256,
            quantization_bits=8,
            rank=32,
            distance=lorann.L2 if metric == "l2" else lorann.IP,
            copy=True,
        )
        self.index.build(n_threads=threads)

    def keep(self) -> None:
        self.index.save(str(self.folder / "index"))

    def open(self, base: Vectors, metric: str) -> None:
        import lorann

        self.index = lorann.LorannIndex.load(str(self.folder / "index"))

    def single(self, k: int, effort: float) -> Ask:
        search, clusters = self.index.search, int(effort)
        return lambda query: search(query[0], k, clusters, 200, n_threads=1)

    def batch(self, queries: Vectors, k: int, effort: float, threads: int) -> Any:
        return self.index.search(queries, k, int(effort), 200, n_threads=threads)


class QdrantEdge(Peer):
    """Qdrant's engine in process: HNSW over 8-bit codes, extra links per label, a scan of small sets.

    Labels are integers, which it tests twice as fast as keywords; one search thread spares it the hand-over to a pool.
    """

    name, package, module = "qdrant-edge", "qdrant-edge-py", "qdrant_edge"
    parameters: ClassVar[Mapping[str, object]] = {
        "m": 16,
        "ef_construct": 200,
        "full_scan_threshold": "10 MB",
        "codes": "int8, rescored",
        "filter": "indexed integers",
        "max_search_threads": 1,
    }
    filters = True
    labelled = True

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        import qdrant_edge as qe

        codes = qe.ScalarQuantizationConfig(type=qe.ScalarType.Int8, quantile=0.99, memory=qe.Memory.Pinned)
        config = qe.EdgeConfig(
            vectors=qe.EdgeVectorParams(
                size=base.shape[1], distance=qe.Distance.Euclid if metric == "l2" else qe.Distance.Dot
            ),
            hnsw_config=qe.HnswIndexConfig(
                m=16, ef_construct=200, full_scan_threshold=10_000, max_indexing_threads=threads
            ),
            quantization_config=codes,
            optimizers=qe.EdgeOptimizersConfig(default_segment_number=1, max_segment_size=2**31),
            wal_enabled=False,
        )
        (self.folder / "shard").mkdir()
        self.index = qe.EdgeShard.create(str(self.folder / "shard"), config)
        if labels:
            (self.folder / "labels.json").write_text(json.dumps(list(labels)))
            self.index.update(qe.UpdateOperation.create_field_index("label", qe.PayloadSchemaType.Integer))
        held = np.array(list(labels.values())).T if labels else np.zeros((len(base), 0), bool)
        for begin in range(0, len(base), 10_000):
            rows = range(begin, min(begin + 10_000, len(base)))
            points = [qe.Point(i, base[i].tolist(), {"label": np.flatnonzero(held[i]).tolist()}) for i in rows]
            self.index.update(qe.UpdateOperation.upsert_points(points))
        while self.index.optimize():
            pass
        self.index.flush()

    def open(self, base: Vectors, metric: str) -> None:
        import qdrant_edge as qe

        vectors = qe.EdgeVectorParams(
            size=base.shape[1], distance=qe.Distance.Euclid if metric == "l2" else qe.Distance.Dot
        )
        self.index = qe.EdgeShard.load(str(self.folder / "shard"), qe.EdgeConfig(vectors=vectors, max_search_threads=1))

    def _ask(self, k: int, effort: float, chosen: Any) -> Ask:
        import qdrant_edge as qe

        dial = qe.SearchParams(hnsw_ef=int(effort), quantization=qe.QuantizationSearchParams(rescore=True))
        search, request, nearest = self.index.search, qe.SearchRequest, qe.Query.Nearest

        def ask(query: Vectors) -> Any:
            wanted = request(nearest(query[0].tolist()), k, filter=chosen, params=dial)
            return [point.id for point in search(wanted)]

        return ask

    def single(self, k: int, effort: float) -> Ask:
        return self._ask(k, effort, None)

    def among(self, label: str, mask: Mask, k: int, effort: float) -> Ask:
        import qdrant_edge as qe

        number = json.loads((self.folder / "labels.json").read_text()).index(label)
        return self._ask(k, effort, qe.Filter(must=[qe.FieldCondition("label", match=qe.MatchValue(number))]))


class Zvec(Peer):
    """zvec: HNSW over 8-bit codes, refined; a filter is an indexed boolean column, asked in its query language."""

    name, package, module = "zvec-hnsw-int8", "zvec", "zvec"
    parameters: ClassVar[Mapping[str, object]] = {"m": 16, "ef_construction": 200, "codes": "INT8", "refine": True}
    filters = True
    labelled = True

    def build(self, base: Vectors, metric: str, *, seed: int, threads: int, labels: Mapping[str, Mask]) -> None:
        import zvec

        graph = zvec.HnswIndexParam(
            metric_type=zvec.MetricType.L2 if metric == "l2" else zvec.MetricType.IP,
            m=16,
            ef_construction=200,
            quantize_type=zvec.QuantizeType.INT8,
            use_contiguous_memory=True,
        )
        columns = [zvec.FieldSchema(name, zvec.DataType.BOOL, index_param=zvec.InvertIndexParam()) for name in labels]
        schema = zvec.CollectionSchema(
            name="peer",
            fields=columns or None,
            vectors=zvec.VectorSchema("vector", zvec.DataType.VECTOR_FP32, base.shape[1], index_param=graph),
        )
        shutil.rmtree(self.folder / "collection", ignore_errors=True)
        made = zvec.create_and_open(str(self.folder / "collection"), schema)
        held = {name: mask.tolist() for name, mask in labels.items()}
        for begin in range(0, len(base), 1000):
            rows = range(begin, min(begin + 1000, len(base)))
            made.insert(
                [
                    zvec.Doc(str(i), vectors={"vector": base[i]}, fields={name: held[name][i] for name in held})
                    for i in rows
                ]
            )
        made.optimize(zvec.OptimizeOption(concurrency=threads))
        made.flush()
        made.close()
        self.open(base, metric)

    def open(self, base: Vectors, metric: str) -> None:
        import zvec

        self.index = zvec.open(str(self.folder / "collection"), zvec.CollectionOption(read_only=True))
        names = self.index.resolve_internal_ids(np.arange(len(base)))
        self.row_of = np.array([-1 if name is None else int(name) for name in names] + [-1])  # of -1, the missing one

    def _ask(self, k: int, effort: float, chosen: str | None) -> Ask:
        import zvec

        dial, search, row_of = zvec.HnswQueryParam(ef=int(effort), is_using_refiner=True), self.index, self.row_of
        return lambda query: row_of[
            search.query_internal_ids(zvec.Query("vector", vector=query[0], param=dial), topk=k, filter=chosen)
        ]

    def single(self, k: int, effort: float) -> Ask:
        return self._ask(k, effort, None)

    def among(self, label: str, mask: Mask, k: int, effort: float) -> Ask:
        return self._ask(k, effort, f"{label} = true")


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Likewise,
        LikewiseMapped,
        LikewiseCompact,
        SymphonyQG,
        SymphonyQG8,
        Glass,
        Glass8,
        Scann,
        FaissHnswSq8,
        FaissHnsw,
        FaissIvfPq,
        FaissIvfRabitq,
        FaissFlat,
        Hnswlib,
        Usearch,
        Vsag,
        Svs,
        Lorann,
        QdrantEdge,
        Zvec,
    )
}


def chosen(names: str | None, *, filters: bool = False) -> list[type[Peer]]:
    """Return the peers named in `a,b,c`, all of them for None; say why one is left out.

    A name may be the beginning of several: `glass` stands for both. For filters those that have some, scanners among
    them; otherwise all but the scanners.
    """
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    found = []
    for name, peer in PEERS.items():
        if names is not None and not any(name.startswith(wanted) for wanted in names.split(",")):
            continue
        if not peer.filters if filters else peer.scans:
            continue
        reason = peer.missing()
        if reason:
            print(f"{name}: left out, {reason}", flush=True)
        else:
            found.append(peer)
    return found
