"""Build an index version, from a catalogue through encoders or from ready vectors."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from embeddings import Content, EmbeddingCache, Encoder, FusedEncoder, ImageEncoder, JointEncoder, TextEncoder, embed
from embeddings.joint_heads import Pairs
from index_builder.catalog.catalog import Catalog
from index_builder.catalog.rejects import Reject, RejectCode, RejectsFile
from index_builder.catalog.vector_files import VectorFiles
from index_builder.cross_modal import CrossModal, learn_heads
from index_builder.draft import Built, Draft, SpaceDraft
from index_builder.progress import Progress
from index_builder.settings import BuildSettings
from index_builder.staging import StagedVectors
from matching.datapoint import Datapoint, Metric
from matching.errors import InvalidInput
from matching.store import Store


class _Counted(Protocol):
    """A batch that says how far through its files it is."""

    @property
    def bytes_done(self) -> int: ...

    @property
    def bytes_total(self) -> int: ...


_Batch = TypeVar("_Batch", bound=_Counted)
_BATCH = 256
_FIT_ROWS = 50_000
_EVEN = 0.5  # dense and sparse weigh the same where nobody has said otherwise
_REJECTS_FILE = "rejects.jsonl"


@dataclass(frozen=True, slots=True)
class CatalogEncoders:
    """The encoders of a catalogue build; a space is made for each that is there, and `fused` where both are.

    `joint` takes the place of heads that are learned, where the settings ask for the space `joint`.
    """

    text: Encoder | None
    image: Encoder | None
    joint: Encoder | None = None


class _Item(NamedTuple):
    """What is encoded of one product, as it is staged."""

    product_id: str
    text: str
    pictures: list[str]


def build_from_catalog(
    store: Store,
    catalog: Catalog,
    encoders: CatalogEncoders,
    *,
    cache: EmbeddingCache,
    settings: BuildSettings,
    progress: Progress,
    parent: str | None = None,
    log_sequence: int = 0,
    rejects_path: Path | None = None,
) -> Built:
    """Embed, index, measure, seal and publish a catalogue.

    The catalogue is read twice: once for what is encoded, once, when the undecodable pictures are known, for what is
    kept of each product. Embeddings go through the cache, so a build that was killed does not encode anything twice.

    Args:
        log_sequence: the last write of the write log that the catalogue has in it, 0 for none.

    Raises:
        GateRefused: too many rejects, a space missed its recall floor, or texts and pictures find each other no better by heads.
        InvalidCatalog: the catalogue cannot be read, or nothing of it is left.
        InvalidInput: a joint space is wanted, and there is too little to learn it from.
    """
    with _drafting(store, settings, progress, rejects_path) as (draft, rejects):
        work = _CatalogBuild(draft, catalog, encoders, cache, settings, progress, rejects)
        work.stage_items()
        work.check_joint()
        work.embed_texts()
        work.embed_pictures()
        work.fuse()
        work.join()
        work.keep_datapoints()
        source: dict[str, object] = {
            "kind": "catalog",
            "path": str(catalog.path),
            "digest": catalog.digest,
            "files": [{"name": f.name, "n_bytes": f.n_bytes, "sha256": f.sha256} for f in catalog.files],
            "images_dir": None if catalog.pictures is None else str(catalog.pictures.root.resolve()),
            "pictures_digest": work.pictures_digest.hexdigest(),
        }
        if work.cross_modal is not None:
            source["joint"] = asdict(work.cross_modal)
        return _finished(draft, rejects, source, parent, log_sequence)


def build_from_vectors(
    store: Store,
    files: VectorFiles,
    *,
    metric: Metric,
    settings: BuildSettings,
    progress: Progress,
    space_id: str | None = None,
    parent: str | None = None,
    log_sequence: int = 0,
    rejects_path: Path | None = None,
) -> Built:
    """Index, measure, seal and publish ready vectors, in a space named `vectors`, with the sparse sides that they have.

    Args:
        space_id: names the encoder that made the vectors; the digest of the files where it is not known, so that
            vectors of two imports are never taken for comparable.
        log_sequence: the last write of the write log that the files have in them, 0 for none.

    Raises:
        GateRefused: too many rejects, or the space missed its recall floor.
        InvalidCatalog: the files cannot be read, or nothing of them is left.
    """
    with _drafting(store, settings, progress, rejects_path) as (draft, rejects):
        space = draft.new_space("vectors", files.dim, space_id=space_id or files.digest, metric=metric)
        start = time.monotonic()
        for batch in _reported(files, progress, "read vectors"):
            rejects.add(batch.rejects, n_rows=batch.n_rows)
            first = len(draft.columns)
            for datapoint in batch.datapoints:
                draft.columns.add(datapoint)
            vectors = _unit(batch.vectors) if metric == "cosine" else batch.vectors
            space.vectors.append(vectors, first + batch.owners)
            if batch.sparse is not None:
                owners = np.arange(first, first + len(batch.datapoints))
                (space.sparse or draft.new_sparse(space)).append(batch.sparse, owners)
        draft.seconds["read"] = time.monotonic() - start
        if space.sparse is not None:
            space.alpha = _EVEN
        source = {
            "kind": "vectors",
            "path": str(files.path),
            "digest": files.digest,
            "files": [{"name": f.name, "n_bytes": f.n_bytes, "sha256": f.sha256} for f in files.files],
        }
        return _finished(draft, rejects, source, parent, log_sequence)


@contextlib.contextmanager
def _drafting(
    store: Store, settings: BuildSettings, progress: Progress, rejects_path: Path | None
) -> Iterator[tuple[Draft, RejectsFile]]:
    """Start a draft with its list of rejects; whatever goes wrong, nothing stays but the list, where the caller wants it."""
    draft = Draft(store, settings, progress)
    held = draft.work / _REJECTS_FILE
    try:
        with RejectsFile(held, max_reject_frac=settings.max_reject_frac) as rejects:
            yield draft, rejects
    except BaseException:
        if rejects_path is not None and held.is_file():
            rejects_path.parent.mkdir(parents=True, exist_ok=True)
            rejects_path.write_bytes(held.read_bytes())
        draft.abandon()
        raise


def _finished(
    draft: Draft, rejects: RejectsFile, source: Mapping[str, object], parent: str | None, log_sequence: int
) -> Built:
    rejects.check()
    rejects.close()
    counts = {
        "n_rows": rejects.n_rows,
        "n_rejected_rows": rejects.n_rejected_rows,
        "n_pictures": rejects.n_pictures,
        "n_rejected_pictures": rejects.n_rejected_pictures,
    }
    return draft.finish(source={**source, **counts}, parent=parent, log_sequence=log_sequence)


class _CatalogBuild:
    """The steps of a catalogue build that come before indexing."""

    def __init__(
        self,
        draft: Draft,
        catalog: Catalog,
        encoders: CatalogEncoders,
        cache: EmbeddingCache,
        settings: BuildSettings,
        progress: Progress,
        rejects: RejectsFile,
    ) -> None:
        self._draft, self._catalog, self._encoders, self._cache = draft, catalog, encoders, cache
        self._settings, self._progress, self._rejects = settings, progress, rejects
        self._items_path = draft.work / "items.staged"
        self._n_items = self._n_texts = self._n_pictures = 0
        self._bad_pictures: set[str] = set()
        self._text: tuple[SpaceDraft, Encoder] | None = None
        self._image: tuple[SpaceDraft, Encoder] | None = None
        self.pictures_digest = hashlib.sha256()
        self.cross_modal: CrossModal | None = None

    def stage_items(self) -> None:
        """Read the catalogue and put aside what is encoded."""
        with self._items_path.open("w", encoding="utf-8") as file:
            for batch in _reported(self._catalog, self._progress, "read catalogue"):
                self._rejects.add(batch.rejects, n_rows=batch.n_rows, n_pictures=batch.n_pictures)
                for product in batch.products:
                    file.write(json.dumps([product.product_id, product.text, product.pictures]) + "\n")
                    self._n_items += 1
                    self._n_texts += bool(product.text)
                    self._n_pictures += len(product.pictures)

    def check_joint(self) -> None:
        """Refuse a joint space that cannot be made, before anything is embedded.

        Raises:
            InvalidInput: texts or pictures are missing, or the joint model does not read both.
        """
        if not self._settings.joint:
            return
        n_texts = self._n_texts if self._encoders.text is not None else 0
        n_pictures = self._n_pictures if self._encoders.image is not None else 0
        if not n_texts or not n_pictures:
            raise InvalidInput(
                f"[joint] there are {n_texts:,} texts and {n_pictures:,} pictures; expected both; give --images, or build "
                "without --joint"
            )
        joint = self._encoders.joint
        if joint is not None and joint.accepts != {"text", "image"}:
            raise InvalidInput(
                f"[joint] the joint model reads {' and '.join(joint.accepts)}; expected texts and pictures; name a CLIP model"
            )

    def embed_texts(self) -> None:
        """Fill the space `text`."""
        encoder = self._encoders.text
        if encoder is None or not self._n_texts:
            return
        start = time.monotonic()
        if isinstance(encoder, TextEncoder):
            self._progress.begin("text: fit sparse side", None)
            encoder = encoder.fit(text for _, text in self._texts())
        space = self._new_space("text", encoder)
        if isinstance(encoder, TextEncoder):
            space.alpha = encoder.alpha
            sparse = self._draft.new_sparse(space)
            for batch in _batched(self._texts(), _BATCH):
                sparse.append(encoder.sparse_documents([text for _, text in batch]), _owners(batch))
        self._progress.begin("text: embed", self._n_texts)
        owners = (_owners(batch) for batch in _batched(self._texts(), _BATCH))
        contents = ([Content(text=text) for _, text in batch] for batch in _batched(self._texts(), _BATCH))
        done = 0
        for embedded, of in zip(embed(contents, encoder, cache=self._cache), owners):
            space.vectors.append(embedded.vectors, of[embedded.positions])
            done += len(of)
            self._progress.advance(done)
        self._text = space, encoder
        self._draft.seconds["embed text"] = time.monotonic() - start

    def embed_pictures(self) -> None:
        """Fill the space `image`: one vector a picture, whitened on this catalogue where the encoder can be."""
        encoder = self._encoders.image
        if encoder is None or not self._n_pictures:
            return
        start = time.monotonic()
        raw = self._new_space("image", encoder) if not isinstance(encoder, ImageEncoder) else None
        staged = (
            raw.vectors
            if raw
            else self._draft.new_space("features", encoder.dim, space_id=encoder.space_id, metric="cosine").vectors
        )
        self._progress.begin("image: embed", self._n_pictures)
        contents = (self._read(batch) for batch in _batched(self._pictures(), _BATCH))  # on another thread
        done = 0
        for embedded, batch in zip(embed(contents, encoder, cache=self._cache), _batched(self._pictures(), _BATCH)):
            staged.append(embedded.vectors, _owners(batch)[embedded.positions])
            self._rejects.add(
                self._refused(batch[failure.position][1], failure.reason) for failure in embedded.failures
            )
            done += len(batch)
            self._progress.advance(done)
        if isinstance(encoder, ImageEncoder):
            self._progress.begin("image: whiten", staged.n_vectors)
            encoder = encoder.fit(staged.sample(_FIT_ROWS, seed=self._settings.seed))
            raw = self._new_space("image", encoder)
            features, owners = staged.vectors(), staged.owners()
            for first in range(0, staged.n_vectors, _BATCH):
                raw.vectors.append(encoder.project(features[first : first + _BATCH]), owners[first : first + _BATCH])
                self._progress.advance(first)
            staged.close()
            del self._draft.spaces["features"]
        assert raw is not None
        self._image = raw, encoder
        self._draft.seconds["embed pictures"] = time.monotonic() - start

    def fuse(self) -> None:
        """Fill the space `fused` from the other two."""
        if self._text is None or self._image is None:
            return
        (texts, text_encoder), (images, image_encoder) = self._text, self._image
        fused = FusedEncoder(text_encoder, image_encoder, weight=self._settings.fused_text_weight)
        space = self._new_space("fused", fused)
        text_rows, text_owners = texts.vectors.vectors(), texts.vectors.owners()
        image_rows, image_owners = images.vectors.vectors(), images.vectors.owners()
        self._progress.begin("fused: combine", self._n_items)
        for first in range(0, self._n_items, _BATCH):
            last = min(first + _BATCH, self._n_items)
            text, has_text = _means(text_rows, text_owners, first, last)
            image, has_image = _means(image_rows, image_owners, first, last)
            has_any = has_text | has_image
            vectors = fused.combine(text[has_any], image[has_any], has_text[has_any], has_image[has_any])
            space.vectors.append(vectors, np.flatnonzero(has_any) + first)
            self._progress.advance(last)

    def join(self) -> None:
        """Fill the space `joint` where it is wanted: a vector of each text and of each picture."""
        if not self._settings.joint:
            return
        assert self._text is not None
        assert self._image is not None
        start = time.monotonic()
        (texts, text_encoder), (images, image_encoder) = self._text, self._image
        parts = (texts.vectors, images.vectors)
        if self._encoders.joint is not None:
            space = self._new_space("joint", self._encoders.joint)
            space.best_of = 1  # an item's text and its pictures are not alike
            self._embed_by(self._encoders.joint, space.vectors)
        else:
            heads, self.cross_modal = learn_heads(
                self._pairs(*parts), seed=self._settings.seed, progress=self._progress
            )
            space = self._new_space("joint", JointEncoder(text_encoder, image_encoder, heads))
            for part, mapped in zip(parts, (heads.texts, heads.pictures)):
                rows, owners = part.vectors(), part.owners()
                for first in range(0, len(rows), _BATCH):
                    space.vectors.append(mapped(rows[first : first + _BATCH]), owners[first : first + _BATCH])
        self._draft.seconds["joint"] = time.monotonic() - start

    def _pairs(self, texts: StagedVectors, images: StagedVectors) -> Pairs:
        """Return the pictures of products that have a text, or as many of them as heads are learned from."""
        of_texts, of_images = texts.owners(), images.owners()
        paired = np.flatnonzero(np.isin(of_images, of_texts))
        if len(paired) > _FIT_ROWS:
            paired = np.sort(np.random.default_rng(self._settings.seed).choice(paired, _FIT_ROWS, replace=False))
        owners, of = np.unique(of_images[paired], return_inverse=True)
        known: dict[bytes, int] = {}
        wanted = set(owners.tolist())
        same = [
            known.setdefault(hashlib.sha256(text.encode()).digest(), at) for at, text in self._texts() if at in wanted
        ]
        rows = np.asarray(texts.vectors()[np.searchsorted(of_texts, owners)], np.float32)
        return Pairs(rows, np.array(same, np.int64), np.asarray(images.vectors()[paired], np.float32), of)

    def _embed_by(self, encoder: Encoder, staged: StagedVectors) -> None:
        """Append what one encoder makes of all texts, and of all pictures that can be decoded."""

        def good_pictures() -> Iterator[tuple[int, str]]:
            return (each for each in self._pictures() if each[1] not in self._bad_pictures)

        self._progress.begin("joint: embed", self._n_texts + self._n_pictures)
        done = 0
        kinds: tuple[tuple[Callable[[], Iterator[tuple[int, str]]], Callable[[str], Content]], ...] = (
            (self._texts, lambda text: Content(text=text)),
            (good_pictures, lambda path: Content(image=self._picture(path))),
        )
        for asked, content in kinds:
            batches = ([content(each) for _, each in batch] for batch in _batched(asked(), _BATCH))
            for embedded, batch in zip(embed(batches, encoder, cache=self._cache), _batched(asked(), _BATCH)):
                staged.append(embedded.vectors, _owners(batch)[embedded.positions])
                done += len(batch)
                self._progress.advance(done)

    def keep_datapoints(self) -> None:
        """Read the catalogue again and keep what can be filtered by and shown, without the pictures that failed."""
        products = (product for batch in self._catalog for product in batch.products)
        for item, product in zip(self._items(), products, strict=True):
            assert item.product_id == product.product_id, "the catalogue changed while it was built"
            self._draft.columns.add(_without_pictures(product.datapoint(), self._bad_pictures))
        self._items_path.unlink()

    def _new_space(self, name: str, encoder: Encoder) -> SpaceDraft:
        space = self._draft.new_space(name, encoder.dim, space_id=encoder.space_id, metric="cosine", modality=name)
        space.encoder = encoder.spec()
        space.best_of = encoder.best_of
        return space

    def _items(self) -> Iterator[_Item]:
        with self._items_path.open(encoding="utf-8") as file:
            for line in file:
                yield _Item(*json.loads(line))

    def _texts(self) -> Iterator[tuple[int, str]]:
        return ((at, item.text) for at, item in enumerate(self._items()) if item.text)

    def _pictures(self) -> Iterator[tuple[int, str]]:
        return ((at, path) for at, item in enumerate(self._items()) for path in item.pictures)

    def _read(self, batch: Sequence[tuple[int, str]]) -> list[Content]:
        contents = []
        for _, path in batch:
            data = self._picture(path)
            self.pictures_digest.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
            contents.append(Content(image=data))
        return contents

    def _picture(self, path: str) -> bytes:
        assert self._catalog.pictures is not None
        return self._catalog.pictures.read(path)

    def _refused(self, path: str, reason: str) -> Reject:
        self._bad_pictures.add(path)
        return Reject(path, "picture", None, RejectCode.PICTURE_UNDECODABLE, reason)


def _without_pictures(datapoint: Datapoint, bad: set[str]) -> Datapoint:
    pictures = datapoint.metadata.get("pictures")
    if not isinstance(pictures, list) or bad.isdisjoint(pictures):
        return datapoint
    metadata = dict(datapoint.metadata)
    metadata["pictures"] = [path for path in pictures if path not in bad]
    return replace(datapoint, metadata=metadata)


def _reported(source: Iterable[_Batch], progress: Progress, stage: str) -> Iterator[_Batch]:
    begun = False
    for batch in source:
        if not begun:
            progress.begin(stage, batch.bytes_total)
            begun = True
        yield batch
        progress.advance(batch.bytes_done)


def _batched(items: Iterable[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    stream = iter(items)
    while batch := list(itertools.islice(stream, size)):
        yield batch


def _owners(batch: Sequence[tuple[int, str]]) -> NDArray[np.int64]:
    return np.fromiter((at for at, _ in batch), np.int64, len(batch))


def _means(
    rows: NDArray[np.float32], owners: NDArray[np.int64], first: int, last: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the unit mean of the vectors that each of the datapoints first .. last owns, and which own any."""
    low, high = np.searchsorted(owners, [first, last])
    sums = np.zeros((last - first, rows.shape[1]), np.float32)
    np.add.at(sums, owners[low:high] - first, rows[low:high])
    has_any = np.zeros(last - first, np.bool_)
    has_any[owners[low:high] - first] = True
    return _unit(sums), has_any


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1  # what has no direction stays zero
    return np.asarray(vectors / norms, np.float32)
