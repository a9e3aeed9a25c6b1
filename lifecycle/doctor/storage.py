"""Stores, write logs and the disks they lie on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lifecycle.doctor.finding import Finding, guarded
from matching.errors import CorruptArtifact, NotFound
from matching.live import WriteLog
from matching.live.recovery import segment_paths
from matching.store import Store

_LEAST_FREE_BYTES: Final = 64 * 2**20  # a file of the write log
_LOW_FRAC: Final = 0.1
_RESTORE: Final = (
    "restore the version from a copy, or build it again; point the alias at a version that is whole meanwhile"
)


def check_store(path: Path) -> Iterator[Finding]:
    """Look at the disk, the aliases and every byte of the versions that they name."""

    def look() -> Iterator[Finding]:
        store = Store(path)
        yield from check_disk("store", path)
        names = sorted(file.name.removesuffix(".jsonl") for file in (path / "aliases").glob("*.jsonl"))
        if not names:
            yield Finding(
                "store.alias",
                "error",
                f"{path} has no alias and {len(store.versions())} versions",
                "publish with `likewise build --alias NAME`, or set one with `likewise versions alias NAME --to VERSION`",
            )
        for name in names:
            yield from guarded("store.alias", lambda name=name: _check_alias(store, name), _RESTORE)  # type: ignore[misc]
        left = [entry.name for entry in (path / "work").glob("*") if entry.is_dir()]
        if left:
            yield Finding(
                "store.work",
                "warning",
                f"{len(left)} builds are under way or were left behind: {', '.join(sorted(left)[:3])}",
                "the next build removes what a dead one left",
            )

    yield from guarded("store", look, "name the directory that `likewise build --store` wrote to")


def _check_alias(store: Store, name: str) -> Iterator[Finding]:
    version_id = store.resolve(name)
    if not (store.path / "versions" / version_id).is_dir():
        raise NotFound(f"[doctor] alias {name!r} names version {version_id}, which is gone")
    n_bytes = store.verify(name)
    yield Finding("store.alias", "ok", f"{name} -> {version_id}: {n_bytes:,} bytes are what was sealed")


def check_log(path: Path) -> Iterator[Finding]:
    """Look at the disk and at every byte of the logs below a folder; a service may be writing to them."""

    def look() -> Iterator[Finding]:
        if not path.is_dir():
            raise NotFound(f"[doctor] there is no folder {path}")
        yield from check_disk("log", path)
        folders = [folder for folder in (path, *sorted(path.iterdir())) if folder.is_dir() and segment_paths(folder)]
        if not folders:
            yield Finding("log", "ok", f"{path} holds no writes yet")
        for folder in folders:
            yield from _check_log(folder)

    yield from guarded("log", look, "name the folder that `likewise serve --log` writes to")


def _check_log(folder: Path) -> Iterator[Finding]:
    try:
        with WriteLog.open(folder, read_only=True) as log:
            first, last, torn = log.first_sequence, log.last_sequence, log.cut_bytes
    except CorruptArtifact as error:
        yield Finding(
            "log",
            "error",
            str(error),
            f"stop the service and restore the log from a snapshot, or keep what is whole with `likewise log repair {folder}`",
        )
        return
    if torn:
        yield Finding(
            "log",
            "warning",
            f"{folder} ends with {torn:,} bytes of a record that was being written",
            "nothing acknowledged is lost; the service cuts them off at its next start",
        )
    yield Finding("log", "ok", f"{folder}: writes {first} to {last} are whole")


def check_disk(of: str, path: Path) -> Iterator[Finding]:
    """Look at what is free where something lies."""
    usage = shutil.disk_usage(path)
    told = f"{usage.free:,} of {usage.total:,} bytes are free where {path} lies"
    cure = "free some, or move it to a larger disk; writes are refused when it is full, and searches go on"
    if usage.free < _LEAST_FREE_BYTES:
        yield Finding(f"{of}.disk", "error", told, cure)
    elif usage.free < _LOW_FRAC * usage.total:
        yield Finding(f"{of}.disk", "warning", told, cure)
    else:
        yield Finding(f"{of}.disk", "ok", told)
