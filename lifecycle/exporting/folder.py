"""A folder as the place of an export: parts in DIR.partial, which becomes DIR when all of them are there.

DIR.partial/job.json     what is being made
DIR.partial/parts.jsonl  finished parts, a line with a checksum each
DIR.partial/part-00000.parquet
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from lifecycle.exporting.job import Job, Part
from lifecycle.exporting.lines import json_lines
from lifecycle.exporting.neighbors import NeighborPart
from matching.container import write_container
from matching.errors import AlreadyExists, CorruptArtifact, NotFound
from matching.files import sync
from matching.journal import Journal
from matching.manifest import SealedFile, seal
from matching.neighbor_table import FILE_NAME, SEALED, TableManifest, read_table_manifest

_JOB: Final = "job.json"
_PARTS: Final = "parts.jsonl"


def _parquet(file: Path, kind: str, part: Part) -> int:
    table = part.table()
    pq.write_table(table, file, compression="zstd")
    sync(file)
    return int(table.num_rows)


def _lines(file: Path, kind: str, part: Part) -> int:
    table = part.table()
    with file.open("wb") as out:
        out.write(json_lines(table))
        out.flush()
        os.fsync(out.fileno())
    return int(table.num_rows)


def _sealed(file: Path, kind: str, part: Part) -> int:
    assert isinstance(part, NeighborPart), "a service maps neighbors alone"
    arrays = part.arrays()
    write_container(file, kind, arrays)
    return int(np.count_nonzero(arrays["rows"].view(np.int32) >= 0))


_FORMS: Final[Mapping[str, tuple[str, Callable[[Path, str, Part], int]]]] = {
    "parquet": ("parquet", _parquet),
    "jsonl": ("jsonl", _lines),
    SEALED: ("likewise", _sealed),
}
FORMS: Final = tuple(_FORMS)


class FolderSink:
    """Writes the parts of an export as files. Thread-safe."""

    def __init__(self, folder: Path, form: str) -> None:
        """Prepare to make `folder`.

        Args:
            form: one of FORMS.
        """
        self._folder = folder
        self._work = folder.with_name(f"{folder.name}.partial")
        self._form = form
        self._job: Job | None = None
        self._lock: int | None = None
        self._noting = threading.Lock()
        self._is_whole = False

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def pending(self) -> Job | None:
        """Return the job whose parts lie in the folder beside, if one was begun and not finished."""
        file = self._work / _JOB
        if not file.exists():
            return None
        told = json.loads(file.read_bytes())
        return Job(**{name: told[name] for name in told.keys() - {"digest", "form"}})

    def begin(self, job: Job) -> set[int]:
        """Take a job up: keep the finished parts of the same one, and drop those of another.

        Raises:
            AlreadyExists: another process writes there, or something else lies there.
        """
        self._job = job
        if self._folder.exists():
            self._check_same(job)
            self._is_whole = True
            return set(range(job.n_parts))
        self._work.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._work, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyExists(
                f"[export] another process writes to {self._work}; expected none; wait for it to end"
            ) from None
        file = self._work / _JOB
        told = json.loads(json.dumps({"digest": job.digest(), "form": self._form, **asdict(job)}))
        if not file.exists() and any(self._work.iterdir()):
            raise AlreadyExists(f"[export] {self._work} is there and no export of ours; expected nothing; remove it")
        if file.exists() and json.loads(file.read_bytes()) != told:
            for old in (*self._work.glob("part-*"), *self._work.glob("parts.*"), self._work / FILE_NAME, file):
                old.unlink(missing_ok=True)
        if not file.exists():
            _write(file, told)
        return {int(line["part"]) for line in self._finished()}

    def write(self, part: int, content: Part) -> int:
        """Write a part under another name, and note it once it is on disk under its own."""
        assert self._job is not None, "begin() comes first"
        suffix, write = _FORMS[self._form]
        file = self._work / f"part-{part:05d}.{suffix}"
        new = file.with_name(f"{file.name}.new")
        new.unlink(missing_ok=True)
        n_rows = write(new, self._job.kind, content)
        new.rename(file)
        line = {"part": part, "name": file.name, "n_rows": n_rows, "seal": asdict(seal(file))}
        with self._noting:
            self._journal().append(lambda _: line)
        return n_rows

    def finish(self) -> int:
        """Write the manifest and give the folder its name."""
        job = self._job
        assert job is not None, "begin() comes first"
        if self._is_whole:
            return read_table_manifest(self._folder).n_rows
        lines = sorted(self._finished(), key=lambda line: int(line["part"]))
        manifest = TableManifest(
            kind=job.kind,
            form=self._form,
            version_id=job.version_id,
            version_sha256=job.version_sha256,
            models=job.models,
            asked=job.asked,
            n_items=job.n_items,
            n_rows=sum(line["n_rows"] for line in lines),
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            job=job.digest(),
            parts={line["name"]: SealedFile(**line["seal"]) for line in lines},
        )
        _write(self._work / FILE_NAME, asdict(manifest))
        self._work.rename(self._folder)
        sync(self._folder.parent)
        for own in (_JOB, _PARTS, Path(_PARTS).with_suffix(".lock").name):
            (self._folder / own).unlink(missing_ok=True)
        return manifest.n_rows

    def _check_same(self, job: Job) -> None:
        try:
            told = read_table_manifest(self._folder)
        except (NotFound, CorruptArtifact, OSError):
            told = None
        if told is None or (told.job, told.form) != (job.digest(), self._form):
            raise AlreadyExists(
                f"[export] {self._folder} is there and holds something else; expected nothing, or this very table; choose "
                "another folder or remove it"
            )

    def _journal(self) -> Journal:
        return Journal(self._work / _PARTS, f"export {self._work.name}")

    def _finished(self) -> tuple[dict[str, Any], ...]:
        return self._journal().lines()


def _write(file: Path, told: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    new = file.with_name(f"{file.name}.new")
    with new.open("wb") as out:
        out.write((json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
        out.flush()
        os.fsync(out.fileno())
    new.rename(file)
    sync(file.parent)
