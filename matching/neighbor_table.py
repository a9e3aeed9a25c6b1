"""A table of neighbors that was made before anybody asked: for the rows of one index version, the nearest rows of each.

DIR/table.json           what it was made of, and every part with its checksum; written last
DIR/part-00000.likewise  sealed containers of arrays, mapped
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matching.container import open_container
from matching.datapoint import Filter, NumericRestrict, Restrict
from matching.errors import CorruptArtifact, NotFound
from matching.live import LiveVersion
from matching.live.columns import LiveColumns
from matching.manifest import SealedFile
from matching.version import IndexVersion

KIND: Final = "neighbors"
FILE_NAME: Final = "table.json"
FORMAT: Final = 1
SEALED: Final = "sealed"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for every item of a table.

    Attributes:
        k: neighbors of each item.
        space: that was searched.
        filter: what the neighbors pass.
        exact, effort, recall_target, crowding_cap: as in `IndexVersion.search`.
    """

    k: int
    space: str
    filter: Filter = field(default_factory=Filter)
    crowding_cap: int = 0
    exact: bool = False
    effort: int | None = None
    recall_target: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `of_json` reads."""
        told: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return told

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Asked:
        """Return what `as_json` told."""
        restricts = [Restrict(r["namespace"], tuple(r["allow"]), tuple(r["deny"])) for r in told["filter"]["restricts"]]
        numbers = [NumericRestrict(**n) for n in told["filter"]["numeric_restricts"]]
        return cls(**{**told, "filter": Filter(tuple(restricts), tuple(numbers))})


@dataclass(frozen=True, slots=True)
class TableManifest:
    """What an exported table was made of.

    Attributes:
        kind: "neighbors" or "recommendations".
        form: of the parts: "parquet", "jsonl" or "sealed".
        version_id: of the index version.
        version_sha256: of that version's manifest.
        models: by source, of recommendations.
        asked: the settings, as JSON.
        n_items: items, or users, that the table was made for.
        n_rows: rows in all parts.
        job: digest of all that decides what is in it.
        parts: by file name, in order.
    """

    kind: str
    form: str
    version_id: str
    version_sha256: str
    models: Mapping[str, str]
    asked: Mapping[str, Any]
    n_items: int
    n_rows: int
    created_at: str
    job: str
    parts: Mapping[str, SealedFile]
    format: int = FORMAT


def read_table_manifest(directory: Path) -> TableManifest:
    """Return the manifest of an exported table.

    Raises:
        NotFound: there is no whole table.
        CorruptArtifact: the manifest is damaged, or of another format.
    """
    try:
        told = json.loads((directory / FILE_NAME).read_bytes())
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']}, expected {FORMAT}")
        parts = {name: SealedFile(**part) for name, part in told["parts"].items()}
        return TableManifest(**{**told, "parts": parts})
    except FileNotFoundError:
        raise NotFound(f"[table] {directory} holds no {FILE_NAME}; expected a whole table; export it again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"[table] {FILE_NAME} of {directory} cannot be read: {error}; export the table again"
        ) from error


class Neighbors(NamedTuple):
    """Of one row: the nearest, int64[m], their distances, float32[m], and how many datapoints passed the filter."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    n_matching: int


class NeighborTable:
    """A table of neighbors, mapped. Immutable and thread-safe."""

    def __init__(self, manifest: TableManifest, parts: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        self.manifest = manifest
        self.asked = Asked.of_json(manifest.asked)
        self._parts = [
            (
                part["of"].view(np.int32),
                part["rows"].view(np.int32),
                part["distances"].view(np.float32),
                part["n_matching"].view(np.int32),
            )
            for part in parts
        ]
        self._firsts = [int(of[0]) for of, *_ in self._parts]

    @classmethod
    def open(cls, directory: Path, *, verify: bool = True) -> NeighborTable:
        """Map a table; with `verify` every block is checked before anything is believed.

        Raises:
            NotFound: there is no whole table.
            CorruptArtifact: it is no table that can be served, or not what was sealed.
        """
        manifest = read_table_manifest(directory)
        if manifest.kind != KIND or manifest.form != SEALED:
            raise CorruptArtifact(
                f"[table] {directory} holds {manifest.kind} as {manifest.form}; expected {KIND} as {SEALED}; export it with "
                f"--format {SEALED}"
            )
        if not manifest.version_id.endswith(manifest.version_sha256[:16]):
            raise CorruptArtifact(
                f"[table] {directory} names version {manifest.version_id} with another digest; export it again"
            )
        parts = []
        for name, sealed in manifest.parts.items():
            try:
                is_right = sealed.is_of(directory / name)
            except OSError as error:
                raise CorruptArtifact(f"[table] {directory / name} cannot be read: {error}; export it again") from error
            if not is_right:
                raise CorruptArtifact(f"[table] {directory / name} is not the file that was written; export it again")
            parts.append(open_container(directory / name, KIND, verify=verify))
        return cls(manifest, parts)

    def find(self, version: IndexVersion, row: int) -> Neighbors | None:
        """Return the neighbors of a row; None where the table does not know them, or what was written since may change them."""
        if isinstance(version, LiveVersion) and isinstance(version.columns, LiveColumns):
            return self._find_live(version, version.columns, row)
        return self._find(row)

    def _find(self, row: int) -> Neighbors | None:
        at = bisect.bisect_right(self._firsts, row) - 1
        if at < 0:
            return None
        of, rows, distances, n_matching = self._parts[at]
        place = int(np.searchsorted(of, row))
        if place == len(of) or of[place] != row:
            return None
        n = int(np.count_nonzero(rows[place] >= 0))
        return Neighbors(rows[place, :n].astype(np.int64), distances[place, :n], int(n_matching[place]))

    def _find_live(self, version: LiveVersion, columns: LiveColumns, row: int) -> Neighbors | None:
        found = self._find(row)
        if found is None or version.sequence == version.manifest.log_sequence:
            return found
        if self.asked.filter:
            return None  # a write may have changed what passes
        bits = columns.live[found.rows // 64] >> (found.rows % 64).astype(np.uint64) & np.uint64(1)
        return found._replace(n_matching=version.space(self.asked.space).n_datapoints - 1) if bits.all() else None
