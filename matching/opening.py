"""The files of an index version, opened and checked; and looked at again while the version is searched.

Files are mapped. One that is removed, or has another in its place, does no harm, since what is mapped stays; one that is cut or
written over in place does, and is found by its length and its time of change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from matching.container import open_container
from matching.encoder_spec import EncoderSpec
from matching.errors import CorruptArtifact
from matching.faiss_index import FaissIndex
from matching.graph_index import GraphIndex
from matching.manifest import FILE_NAME, Manifest, SealedFile, ShardEntry, SpaceEntry
from matching.space import Shard, Space, SparseIndex

_NOTHING: Final[Mapping[str, SealedFile]] = {}


class Stamp(NamedTuple):
    """What changes when a file is exchanged or written to."""

    device: int
    inode: int
    n_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class OpenedFiles:
    """The files of an opened version.

    Attributes:
        directory: where they lie.
        manifest: what they should be.
        stamps: of each file before it was checked last; None where there was none.
        damaged: why a file that all searches need cannot be believed, by its name.
    """

    directory: Path
    manifest: Manifest
    stamps: Mapping[str, Stamp | None]
    damaged: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path, manifest: Manifest) -> OpenedFiles:
        """Take the stamps of files that are about to be opened."""
        return cls(directory, manifest, _stamps(directory, manifest))

    @property
    def of_shards(self) -> frozenset[str]:
        """The files that belong to one shard."""
        entries = (shard for space in self.manifest.spaces for shard in space.shards)
        return frozenset(name for shard in entries for name in shard.files)

    @property
    def containers(self) -> frozenset[str]:
        """The others that are checked block by block when they are mapped."""
        encoders = (space.encoder.arrays for space in self.manifest.spaces if space.encoder is not None)
        named = {self.manifest.columns, *encoders, *(space.sparse for space in self.manifest.spaces)}
        return frozenset(name for name in named if name is not None)

    def look_again(self, spaces: Mapping[str, Space], *, again: bool) -> tuple[OpenedFiles, Mapping[str, Space]]:
        """Return the files and the spaces as they are now; these themselves where nothing has changed.

        Args:
            spaces: as they were opened, or as this returned them.
            again: read lost files too that nobody has touched.
        """
        now = _stamps(self.directory, self.manifest)
        read: set[str] = set()
        found = {name: self._space_now(space, now, again, read) for name, space in spaces.items()}
        damaged = dict(self.damaged)
        for name in self.manifest.files.keys() - self.of_shards:
            if self._was_written(name, now) or (again and name in damaged and self._is_mapped(name, now)):
                read.add(name)
                damaged.pop(name, None)
                try:
                    check_file(self.directory, name, self.manifest.files, verify=True)
                except CorruptArtifact as error:
                    damaged[name] = str(error)
        stamps = {name: now[name] if name in read else stamp for name, stamp in self.stamps.items()}
        files = OpenedFiles(self.directory, self.manifest, stamps, damaged)
        if files == self and all(found[name] is spaces[name] for name in spaces):
            return self, spaces
        return files, found

    def _space_now(self, space: Space, now: Mapping[str, Stamp | None], again: bool, read: set[str]) -> Space:
        shards = list(space.shards)
        for at, (shard, entry) in enumerate(zip(space.shards, space.entry.shards, strict=True)):
            if shard.lost:
                is_due = again or any(now[name] != self.stamps[name] for name in entry.files)
            else:
                is_due = any(self._was_written(name, now) for name in entry.files)
            if is_due:
                read.update(entry.files)
                shards[at] = _opened_or_lost(self.directory, space.entry, entry, self.manifest.files)
        if all(new is old or new.lost == old.lost != "" for new, old in zip(shards, space.shards, strict=True)):
            return space
        return space.with_shards(shards)

    def _is_mapped(self, name: str, now: Mapping[str, Stamp | None]) -> bool:
        """Return whether the file that was opened is the one that lies there now."""
        before, there = self.stamps[name], now[name]
        return before is not None and there is not None and before[:2] == there[:2]

    def _was_written(self, name: str, now: Mapping[str, Stamp | None]) -> bool:
        return self._is_mapped(name, now) and now[name] != self.stamps[name]


def open_space(
    directory: Path,
    entry: SpaceEntry,
    n_rows: int,
    *,
    verify: bool,
    partial: bool = False,
    sealed: Mapping[str, SealedFile] = _NOTHING,
) -> Space:
    """Open one space of the version in `directory`.

    Args:
        partial: let shards that cannot be read be lost, as long as one can.
        sealed: how long files should be.

    Raises:
        CorruptArtifact: a file of it is not what was sealed.
    """
    if partial:
        shards = [_opened_or_lost(directory, entry, shard, sealed) for shard in entry.shards]
        if all(shard.lost for shard in shards):
            raise CorruptArtifact(shards[0].lost)
    else:
        shards = [_open_shard(directory, entry, shard, sealed, verify=verify) for shard in entry.shards]
    sparse = None
    if entry.sparse is not None:
        arrays = open_container(directory / entry.sparse, "sparse", verify=verify)
        sparse = SparseIndex(
            arrays["dimensions"].view(np.int64),
            arrays["offsets"].view(np.int64),
            arrays["rows"].view(np.int32),
            arrays["weights"].view(np.float32),
        )
    encoder = None
    if entry.encoder is not None:
        held = entry.encoder.arrays
        fitted = {} if held is None else open_container(directory / held, "encoder", verify=verify)
        encoder = EncoderSpec(entry.encoder.kind, entry.encoder.params, fitted)
    return Space(entry, shards, n_rows=n_rows, sparse=sparse, encoder=encoder)


def check_file(directory: Path, name: str, sealed: Mapping[str, SealedFile], *, verify: bool) -> None:
    """Check that a file is the one that was sealed by its length and its end, and with `verify` by its whole content.

    Raises:
        CorruptArtifact: it is not.
    """
    file = directory / name
    try:
        size = file.stat().st_size if file.is_file() else -1
        if size != sealed[name].n_bytes:
            raise CorruptArtifact(
                f"[open] version {directory.name}: {name} {'is missing' if size < 0 else f'has {size:,} bytes'}, "
                f"{sealed[name].n_bytes:,} were sealed; restore the version or build again"
            )
        if not (sealed[name].is_whole(file) if verify else sealed[name].is_of(file)):
            raise CorruptArtifact(
                f"[open] version {directory.name}: {name} is not what was sealed; restore the version or build again"
            )
    except CorruptArtifact:
        raise
    except OSError as error:
        raise CorruptArtifact(
            f"[open] version {directory.name}: {name} cannot be read: {error}; restore the version or build again"
        ) from error


def _stamps(directory: Path, manifest: Manifest) -> dict[str, Stamp | None]:
    return {name: _stamp_of(directory / name) for name in manifest.files}


def _stamp_of(file: Path) -> Stamp | None:
    try:
        told = file.stat()
    except OSError:
        return None
    return Stamp(told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns)


def _opened_or_lost(directory: Path, entry: SpaceEntry, shard: ShardEntry, sealed: Mapping[str, SealedFile]) -> Shard:
    """Return a shard, every block of it checked, or what stands for one that cannot be read."""
    try:
        return _open_shard(directory, entry, shard, sealed, verify=True)
    except CorruptArtifact as error:
        nothing = np.empty((0, entry.dim), np.float32)
        return Shard(
            shard.first_row, shard.n_rows, nothing, np.zeros(shard.n_rows + 1, np.int64), None, lost=str(error)
        )


def _open_shard(
    directory: Path, entry: SpaceEntry, shard: ShardEntry, sealed: Mapping[str, SealedFile], *, verify: bool
) -> Shard:
    for name in sealed.keys() & set(shard.files):
        check_file(directory, name, sealed, verify=False)
    arrays = open_container(directory / shard.vectors, "vectors", verify=verify)
    vectors = arrays["vectors"].view(np.float32)
    offsets = arrays["offsets"].view(np.int64) if entry.is_grouped else None
    fits = vectors.shape == (shard.n_vectors, entry.dim) and (
        len(vectors) == shard.n_rows
        if offsets is None
        else len(offsets) == shard.n_rows + 1
        and offsets[0] == 0
        and offsets[-1] == len(vectors)
        and bool((np.diff(offsets) >= 0).all())
    )
    if not fits:
        raise CorruptArtifact(f"[open] version {directory.name}: {shard.vectors} does not fit {FILE_NAME}; build again")
    index: GraphIndex | FaissIndex | None = None
    if shard.graph is not None:
        index = GraphIndex.open(directory / shard.graph, verify=verify)
        if (index.dim, index.n_rows, len(index)) != (entry.dim, shard.n_vectors, shard.n_vectors):
            raise CorruptArtifact(
                f"[open] version {directory.name}: {shard.graph} does not fit {FILE_NAME}; build again"
            )
    elif shard.faiss is not None:
        blob = open_container(directory / shard.faiss, "faiss", verify=verify)["bytes"].view(np.uint8)
        kind: Literal["hnsw", "ivfpq"] = "hnsw" if entry.plan.name == "hnsw" else "ivfpq"
        index = FaissIndex.load(blob, dim=entry.dim, n_vectors=shard.n_vectors, kind=kind)
    return Shard(shard.first_row, shard.n_rows, vectors, offsets, index)
