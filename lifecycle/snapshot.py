"""Snapshots of a store and its write logs, taken while writes go on, and their restoration.

    OUT/snapshot.json   what was taken and when, with the length and SHA-256 of every file, under a checksum; written last
    OUT/store/          histories of aliases and endpoints, and the versions that they name
    OUT/logs/           the acknowledged records of each log up to a moment, each a log that can be opened
    OUT/logs/*.json     what lies beside the logs

Both are made beside their target and renamed into place: one that was interrupted, or found the disk full, is not there.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from index_builder.progress import Progress
from matching.errors import AlreadyExists, CorruptArtifact, InvalidInput, NotFound
from matching.files import sync
from matching.live import WriteLog, check_reach, kept_versions
from matching.live.head import NAME as LOG_HEAD
from matching.live.head import read_head
from matching.manifest import FILE_NAME, read_manifest, seal
from matching.store import Store

FORMAT = 1
_TOLD = "snapshot.json"
_BLOCK_BYTES = 1 << 20
_N_TRIES = 20
_HISTORIES = ("aliases", "endpoints")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot holds.

    Attributes:
        aliases: the version that each names.
        versions: those that are there, oldest first.
        logs: name to first and last sequence.
        files: path below the snapshot to bytes and SHA-256.
    """

    created_at: str
    aliases: Mapping[str, str]
    versions: tuple[str, ...]
    logs: Mapping[str, tuple[int, int]]
    files: Mapping[str, tuple[int, str]]
    format: int = FORMAT

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


def take_snapshot(store: Store, logs: Path | None, out: Path, *, n_kept: int, progress: Progress) -> Snapshot:
    """Copy what a service needs to be started anew, while writes, compactions and switches go on.

    Args:
        logs: folder of write logs, None where there are none.
        out: made here; must not be there, or be empty.
        n_kept: versions of each alias: what it names, and where so many rollbacks lead.

    Raises:
        InvalidInput: fewer than two versions are to be kept.
        AlreadyExists: `out` is taken.
        CorruptArtifact: a version, a history or a log is damaged.
        NotFound: logs and versions were exchanged faster than they could be copied.
        OSError: the disk is full, or cannot be read.
    """
    with _in_one_step({"snapshot": out}) as parts:
        target = parts["snapshot"]
        for left in reversed(range(_N_TRIES)):
            try:
                taken = _copied(store, logs, target, n_kept, progress)
                break
            except NotFound:  # truncated or promoted meanwhile
                if not left:
                    raise
                for part in target.iterdir():
                    shutil.rmtree(part)
        content = json.dumps(asdict(taken), sort_keys=True, ensure_ascii=False)
        told = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "snapshot": content}
        (target / _TOLD).write_text(json.dumps(told), encoding="utf-8")
        _sync_tree(target)
    return taken


def read_snapshot(source: Path) -> Snapshot:
    """Return what a snapshot says that it holds.

    Raises:
        NotFound: there is none.
        CorruptArtifact: what it says is damaged, or of a format that this program does not read.
    """
    try:
        content = (source / _TOLD).read_bytes()
    except FileNotFoundError as error:
        raise NotFound(
            f"[restore] {source} has no {_TOLD}; expected a folder that `likewise snapshot` finished"
        ) from error
    try:
        outer = json.loads(content)
        told = outer["snapshot"]
        is_whole = hashlib.sha256(told.encode()).hexdigest() == outer["sha256"]
        inner = json.loads(told)
        fmt = inner.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"[restore] {_TOLD} cannot be read: {error}; take another snapshot") from error
    if not is_whole:
        raise CorruptArtifact(f"[restore] {_TOLD} does not match its checksum; take another snapshot")
    if fmt != FORMAT:
        raise CorruptArtifact(
            f"[restore] snapshot format {fmt} is not {FORMAT}, the one this program reads; use the program that took it"
        )
    pairs = {name: {key: tuple(pair) for key, pair in inner.pop(name).items()} for name in ("logs", "files")}
    return Snapshot(**inner | {"versions": tuple(inner["versions"])}, **pairs)  # type: ignore[arg-type]


def restore_snapshot(source: Path, store: Path, logs: Path | None, *, progress: Progress) -> Snapshot:
    """Verify every byte of a snapshot and put it where a service finds it, all of it or nothing.

    Args:
        store: directory of the store; must not be there, or be empty.
        logs: likewise of the write logs; None where the snapshot has none.

    Raises:
        NotFound: there is no snapshot.
        InvalidInput: it holds logs, and nobody says where to.
        AlreadyExists: a target is taken.
        CorruptArtifact: a file is missing, foreign or changed, or of a format that this program does not read.
        OSError: the disk is full, or cannot be read.
    """
    taken = read_snapshot(source)
    if taken.logs and logs is None:
        raise InvalidInput(f"[restore] the snapshot holds the logs {sorted(taken.logs)}; say where to with --log")
    _check_names(source, taken)
    targets = ({} if logs is None else {"logs": logs}) | {"store": store}  # without a store nothing is served
    with _in_one_step(targets) as parts:
        Store(parts["store"], create=True)
        progress.begin("copy and verify", taken.n_bytes)
        n_done = 0
        for name, sealed in sorted(taken.files.items()):
            part, _, path = name.partition("/")
            if _copy(source / name, parts[part] / path) != sealed:
                raise CorruptArtifact(
                    f"[restore] {name} is not what was taken; nothing was restored: use another snapshot"
                )
            n_done += sealed[0]
            progress.advance(n_done)
        progress.begin("verify versions and logs", None)
        _check_whole(Store(parts["store"]), parts.get("logs"), taken)
        for part_path in parts.values():
            _sync_tree(part_path)
    return taken


def _copied(store: Store, logs: Path | None, target: Path, n_kept: int, progress: Progress) -> Snapshot:
    """Copy histories, then versions, then logs, and check that the logs reach from the versions on.

    Raises:
        NotFound: they do not: something was exchanged meanwhile.
    """
    begins = {folder.name: _first_sequence(folder) for folder in _log_folders(logs)}
    copy = Store(target / "store", create=True)
    for part in _HISTORIES:
        for file in sorted((store.path / part).glob("*.jsonl")):
            whole = file.read_bytes()
            (copy.path / part).mkdir(exist_ok=True)
            (copy.path / part / file.name).write_bytes(whole[: whole.rfind(b"\n") + 1])
    names = {alias: copy.history(alias)[-1].new for alias in copy.aliases()}
    versions = _named_versions(store, copy, n_kept)
    if store.aliases() != names:
        raise NotFound("[snapshot] an alias moved while the histories were copied; take it again")
    for at, version in enumerate(sorted(versions)):
        progress.begin(f"copy version {at + 1} of {len(versions)}", None)
        _copy_version(store.directory(version), copy.path / "versions" / version)
    held = {}
    for folder in _log_folders(logs):
        progress.begin(f"copy log {folder.name}", None)
        held[folder.name] = _copy_log(folder, target / "logs" / folder.name)
    for file in sorted(logs.glob("*.json")) if logs is not None else ():
        _copy(file, target / "logs" / file.name)
    if {name: first for name, (first, _) in held.items()} != begins:
        raise NotFound("[snapshot] a log was truncated while it was copied, so a version may need more; take it again")
    _check_reach(copy, target / "logs", held)
    progress.begin("checksums", None)
    paths = sorted(path for path in target.rglob("*") if path.is_file())
    files = {str(path.relative_to(target)): _sealed(path) for path in paths}
    return Snapshot(
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        aliases=names,
        versions=tuple(sorted(versions)),
        logs=held,
        files=files,
    )


def _named_versions(store: Store, copy: Store, n_kept: int) -> set[str]:
    """Return what the copied histories name and the store has."""
    there = set(store.versions())
    found: set[str] = set()
    for alias in copy.aliases():
        (copy.path / "versions").mkdir(exist_ok=True)
        now = copy.history(alias)[-1].new
        found |= {now, *kept_versions(store, alias, n_kept)}
    for file in (copy.path / "endpoints").glob("*.jsonl"):
        last = file.read_bytes().splitlines()[-1:]
        found |= {version for version in there if any(json.dumps(version).encode() in line for line in last)}
    return found


def _copy_version(source: Path, target: Path) -> None:
    manifest = read_manifest(source)
    for name, sealed in manifest.files.items():
        if _copy(source / name, target / name) != (sealed.n_bytes, sealed.sha256):
            raise CorruptArtifact(
                f"[snapshot] version {source.name}: {name} is not what was sealed; restore it, or move the alias to a whole one"
            )
    _copy(source / FILE_NAME, target / FILE_NAME)


def _log_folders(logs: Path | None) -> list[Path]:
    if logs is None:
        return []
    if not logs.is_dir():
        raise InvalidInput(
            f"[snapshot] there is no folder {logs}; expected that of the write logs, see `likewise serve --log`"
        )
    return sorted(file.parent for file in logs.glob(f"*/{LOG_HEAD}"))


def _first_sequence(log: Path) -> int:
    head = read_head(log)
    assert head is not None
    return head.first_sequence


def _copy_log(source: Path, target: Path) -> tuple[int, int]:
    with WriteLog.open(source, read_only=True) as log:
        return log.first_sequence, log.copy(target)


def _check_reach(store: Store, logs: Path, held: Mapping[str, tuple[int, int]]) -> None:
    """Check that each log goes on where the version that has its name does.

    Raises:
        NotFound: it does not.
    """
    for name in set(held) & set(store.aliases()):
        with WriteLog.open(logs / name, read_only=True) as log:
            try:
                check_reach(name, store.manifest(name).log_sequence, log)
            except InvalidInput as error:
                raise NotFound(str(error)) from error


def _check_names(source: Path, taken: Snapshot) -> None:
    found = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()} - {_TOLD}
    if strange := sorted(found ^ set(taken.files)):
        raise CorruptArtifact(
            f"[restore] {strange[0]} is {'not part of the snapshot' if strange[0] in found else 'missing'}; nothing was "
            "restored: use another snapshot"
        )
    for name in taken.files:
        if name.split("/")[0] not in ("store", "logs") or ".." in name.split("/"):
            raise CorruptArtifact(f"[restore] {name!r} leads out of the snapshot; nothing was restored: use another")


def _check_whole(store: Store, logs: Path | None, taken: Snapshot) -> None:
    for version in taken.versions:
        store.verify(version)
    if store.aliases() != dict(taken.aliases):
        raise CorruptArtifact(f"[restore] the aliases are {store.aliases()}; expected {dict(taken.aliases)}")
    for name, (first, last) in taken.logs.items():
        assert logs is not None
        with WriteLog.open(logs / name, read_only=True) as log:
            if (log.first_sequence, log.last_sequence) != (first, last):
                raise CorruptArtifact(
                    f"[restore] log {name} holds {log.first_sequence} to {log.last_sequence}; expected {first} to {last}"
                )


@contextlib.contextmanager
def _in_one_step(targets: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Yield a new folder for each target, and give them their names once all went well; whatever goes wrong, they go.

    Raises:
        AlreadyExists: a target is there and not empty.
    """
    for target in targets.values():
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise AlreadyExists(f"[snapshot] {target} is not empty; choose another place or remove what is there")
    parts = {name: target.with_name(f".{target.name}.{os.getpid()}.part") for name, target in targets.items()}
    named: list[Path] = []
    try:
        for name, part in parts.items():
            _sweep(targets[name])
            part.mkdir(parents=True)
        yield parts
        for name, part in parts.items():
            part.rename(targets[name])
            named.append(targets[name])
            sync(targets[name].parent)
    except BaseException:
        for path in (*parts.values(), *named):
            shutil.rmtree(path, ignore_errors=True)
        raise


def _sweep(target: Path) -> None:
    """Remove what processes left that were killed on the way to a target."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        try:
            os.kill(int(left.name.split(".")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file and wait until it is on disk; return the length and SHA-256 of what was read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, n_bytes = hashlib.sha256(), 0
    with source.open("rb") as reading, target.open("xb") as writing:
        while block := reading.read(_BLOCK_BYTES):
            digest.update(block)
            n_bytes += writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    return n_bytes, digest.hexdigest()


def _sealed(path: Path) -> tuple[int, str]:
    found = seal(path)
    return found.n_bytes, found.sha256


def _sync_tree(path: Path) -> None:
    """Wait until all names and small files below a folder are on disk."""
    for below in sorted(path.rglob("*"), reverse=True):
        sync(below)
    sync(path)
