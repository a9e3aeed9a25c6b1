"""The manifest of an index version: what it holds, how it was made, how well it answers.

`manifest.json` is canonical JSON; the first 16 hex digits of its SHA-256 end the version id, so a changed manifest no longer
fits the directory it lies in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast

from matching.datapoint import Metric
from matching.errors import CorruptArtifact
from matching.files import sha256_of

FORMAT = 3  # 1 knew no log_sequence, 2 no ends of files
_FORMATS = (1, 2, FORMAT)
FILE_NAME = "manifest.json"
PlanName = Literal["flat", "graph", "hnsw", "ivfpq"]


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file of the version.

    Attributes:
        end: its last four bytes in hex, the checksum of a container's checksums: tells a whole file from another whole one
            without reading either. Empty where an earlier format did not keep it.
    """

    n_bytes: int
    sha256: str
    end: str = ""

    def is_of(self, file: Path) -> bool:
        """Return whether a file is this one, as far as its length and its end tell.

        Raises:
            OSError: it cannot be read.
        """
        return file.stat().st_size == self.n_bytes and self.end in ("", end_of(file))

    def is_whole(self, file: Path) -> bool:
        """Return whether a file is this one, byte for byte; reads all of it.

        Raises:
            OSError: it cannot be read.
        """
        return self.is_of(file) and sha256_of(file) == self.sha256


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Datapoint rows first_row .. first_row + n_rows of a space; first_row is a multiple of 64.

    The index beside the vectors is a `graph` or a `faiss` file; a flat space has neither.
    """

    first_row: int
    n_rows: int
    n_vectors: int
    vectors: str
    faiss: str | None = None
    graph: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it needs."""
        return tuple(name for name in (self.vectors, self.faiss, self.graph) if name is not None)


@dataclass(frozen=True, slots=True)
class Recall:
    """recall@k measured on held-out queries against exact search; low and high bound the mean with 95 % confidence."""

    k: int
    mean: float
    low: float
    high: float
    n_queries: int


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The cheapest knob that reaches `recall_target` where at least `selectivity` of the datapoints pass the filter.

    `effort` is what `matching.space.Plan` says; None stands for the exact scan. `recall_low` is the lower 95 % confidence
    bound of the recall measured with it, random and clustered filters taken together by the worse.
    """

    recall_target: float
    k: int
    selectivity: float
    effort: int | None
    recall: float
    recall_low: float


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """How a space is indexed, why, and what was predicted before it was built."""

    name: PlanName
    factory: str
    why: str
    params: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """The encoder of a space; `arrays` is the container of its fitted parameters, if it has any."""

    kind: str
    params: Mapping[str, object]
    arrays: str | None


@dataclass(frozen=True, slots=True)
class SpaceEntry:
    """One vector space over the version's datapoints.

    Attributes:
        is_grouped: a datapoint may own none or several vectors.
        best_of: its distance is the mean of its best_of nearest vectors.
        exact_below: up to this many matching datapoints the exact scan is cheaper than any index search.
        alpha: weight of the dense cosine against the sparse one, 1 where there is no sparse side.
    """

    name: str
    space_id: str
    metric: Metric
    dim: int
    modality: str | None
    n_vectors: int
    n_datapoints: int
    is_grouped: bool
    best_of: int
    alpha: float
    plan: PlanEntry
    recall_target: float
    recall: Recall
    operating_table: tuple[OperatingPoint, ...]
    exact_below: int
    shards: tuple[ShardEntry, ...]
    sparse: str | None
    encoder: EncoderEntry | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything there is to know of a version without opening it.

    Attributes:
        log_sequence: the last write of the write log that the version has in it, 0 for none.
    """

    created_at: str
    code_version: str
    seed: int
    n_datapoints: int
    source: Mapping[str, object]
    build: Mapping[str, object]
    columns: str
    spaces: tuple[SpaceEntry, ...]
    files: Mapping[str, SealedFile]
    parent: str | None = None
    log_sequence: int = 0
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return (json.dumps(asdict(self), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a version and hold it against the version's name.

    Raises:
        CorruptArtifact: the manifest is missing, of another format, or not the one the directory was named after.
    """
    try:
        content = (directory / FILE_NAME).read_bytes()
    except OSError as error:
        raise CorruptArtifact(
            f"[open] version {directory.name} has no readable {FILE_NAME}: {error.strerror}; restore it or build again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if not directory.name.endswith(found[:16]):
        raise CorruptArtifact(
            f"[open] {FILE_NAME} of {directory.name} has the digest {found[:16]}; it was changed after the version was sealed: "
            "restore it or build again"
        )
    raw = json.loads(content)
    if raw.get("format") not in _FORMATS:
        raise CorruptArtifact(
            f"[open] version {directory.name} has format {raw.get('format')}, this program reads {_FORMATS[0]} to {FORMAT}; use "
            "the program that wrote it, or build again"
        )
    sequence = raw.get("log_sequence", 0)
    if type(sequence) is not int or sequence < 0:
        raise CorruptArtifact(
            f"[open] version {directory.name} says that its last write is {sequence!r}; expected a whole number from 0 on: "
            "restore it or build again"
        )
    return _parse(raw)


def _parse(raw: dict[str, object]) -> Manifest:
    spaces = tuple(_parse_space(space) for space in cast(list[dict[str, object]], raw.pop("spaces")))
    files = {name: SealedFile(**entry) for name, entry in cast(dict[str, dict[str, object]], raw.pop("files")).items()}  # type: ignore[arg-type]
    return Manifest(**raw, spaces=spaces, files=files)  # type: ignore[arg-type]


def _parse_space(raw: dict[str, object]) -> SpaceEntry:
    nested: dict[str, object] = {
        "plan": PlanEntry(**cast(dict[str, object], raw["plan"])),  # type: ignore[arg-type]
        "recall": Recall(**cast(dict[str, object], raw["recall"])),  # type: ignore[arg-type]
        "operating_table": tuple(OperatingPoint(**p) for p in cast(list[dict[str, object]], raw["operating_table"])),  # type: ignore[arg-type]
        "shards": tuple(ShardEntry(**s) for s in cast(list[dict[str, object]], raw["shards"])),  # type: ignore[arg-type]
        "encoder": None if raw["encoder"] is None else EncoderEntry(**cast(dict[str, object], raw["encoder"])),  # type: ignore[arg-type]
    }
    return SpaceEntry(**(raw | nested))  # type: ignore[arg-type]


def seal(file: Path) -> SealedFile:
    """Return length, SHA-256 and end of a file."""
    return SealedFile(file.stat().st_size, sha256_of(file), end_of(file))


def end_of(file: Path) -> str:
    """Return the last four bytes of a file in hex.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        opened.seek(-min(4, file.stat().st_size), os.SEEK_END)
        return opened.read().hex()
