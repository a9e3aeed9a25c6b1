"""The store: sealed index versions and movable aliases in one local directory.

STORE/versions/<version_id>/   sealed, never edited
STORE/aliases/<name>.jsonl     append-only history; the last line rules
STORE/refused/<version_id>/    builds that missed a gate, kept for inspection
STORE/work/                    builds in progress
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

import cpp_ext
from matching.errors import AlreadyExists, CorruptArtifact, InvalidInput, NotFound
from matching.files import sync
from matching.manifest import FILE_NAME, Manifest, read_manifest, seal
from matching.version import IndexVersion

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One line of an alias's history."""

    at: str
    by: str
    old: str | None
    new: str
    why: str


class Store:
    """Versions and aliases below one directory. Thread-safe; several processes may share it."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the store at `path`.

        Raises:
            NotFound: there is none, and `create` is not set.
        """
        self.path = Path(path)
        self._locks: dict[Path, IO[str]] = {}
        if create:
            for part in ("versions", "aliases", "refused", "work"):
                (self.path / part).mkdir(parents=True, exist_ok=True)
        elif not (self.path / "versions").is_dir():
            raise NotFound(
                f"[store] {self.path} is not a store; build one with `likewise build --store {self.path} ...`"
            )

    def versions(self) -> tuple[str, ...]:
        """Return the ids of the published versions, oldest first."""
        return tuple(sorted(entry.name for entry in (self.path / "versions").iterdir() if entry.is_dir()))

    def aliases(self) -> dict[str, str]:
        """Return the version id that each alias names."""
        names = sorted(file.name.removesuffix(".jsonl") for file in (self.path / "aliases").glob("*.jsonl"))
        return {name: self.history(name)[-1].new for name in names}

    def history(self, alias: str) -> tuple[AliasMove, ...]:
        """Return the moves of an alias, oldest first.

        Raises:
            NotFound: there is no such alias.
            CorruptArtifact: a line of the history is damaged.
        """
        file = self._alias_file(alias)
        if not file.is_file():
            raise NotFound(f"[store] no alias {alias!r}; there are {sorted(self._alias_names())}")
        moves = []
        for at, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):  # a torn last line never took effect
            checksum, _, content = line.partition(b" ")
            if checksum != _line_checksum(content):
                raise CorruptArtifact(
                    f"[store] line {at} of the history of alias {alias!r} does not match its checksum; restore {file.name}, or "
                    "remove the line after checking which version should be live"
                )
            moves.append(AliasMove(**json.loads(content)))
        if not moves:
            raise NotFound(f"[store] the history of alias {alias!r} is empty; set it with `likewise versions alias`")
        return tuple(moves)

    def resolve(self, name: str) -> str:
        """Return the version id that `name`, an alias or a version id, stands for.

        Raises:
            NotFound: it is neither.
        """
        if name in self._alias_names():
            return self.history(name)[-1].new
        if _NAME.fullmatch(name) and (self.path / "versions" / name).is_dir():
            return name
        raise NotFound(
            f"[store] {name!r} is neither an alias ({', '.join(sorted(self._alias_names())) or 'none yet'}) nor one of "
            f"{len(self.versions())} versions; `likewise versions list --store {self.path}` shows them"
        )

    def directory(self, name: str) -> Path:
        """Return where the version that `name` stands for lies."""
        return self.path / "versions" / self.resolve(name)

    def manifest(self, name: str) -> Manifest:
        """Return the checked manifest of a version."""
        return read_manifest(self.directory(name))

    def open(self, name: str, *, verify: bool = True) -> IndexVersion:
        """Open a version for searching; with `verify` every block is checked before anything is believed.

        Raises:
            NotFound: no such alias or version.
            CorruptArtifact: a file of it is not what was sealed.
        """
        return IndexVersion.open(self.directory(name), verify=verify)

    def verify(self, name: str) -> int:
        """Hold every file of a version against the strong hash in its manifest; return the bytes read.

        Raises:
            CorruptArtifact: a file is missing, foreign, of another length or of another content.
        """
        directory = self.directory(name)
        manifest = read_manifest(directory)
        found = {str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()} - {FILE_NAME}
        if strange := sorted(found ^ set(manifest.files)):
            raise CorruptArtifact(
                f"[verify] version {directory.name}: {strange[0]} is "
                f"{'not in the manifest' if strange[0] in found else 'missing'}; restore the version or build again"
            )
        for file, sealed in manifest.files.items():
            if seal(directory / file) != sealed:
                raise CorruptArtifact(
                    f"[verify] version {directory.name}: {file} is not what was sealed; restore it or build again"
                )
        IndexVersion.open(directory, verify=True)
        return sum(sealed.n_bytes for sealed in manifest.files.values())

    def set_alias(self, alias: str, name: str, *, why: str, by: str | None = None) -> AliasMove:
        """Point an alias at a version, and append who, when and why to its history.

        Raises:
            InvalidInput: the alias is not a valid name, or is the id of a version.
            NotFound: no such version.
        """
        check_name(alias)
        target = self.resolve(name)
        if (self.path / "versions" / alias).is_dir():
            raise InvalidInput(f"[alias] {alias!r} is the id of a version; choose another name")
        file = self._alias_file(alias)
        with _locked(file.with_suffix(".lock")):
            old = self.history(alias)[-1].new if file.is_file() and file.stat().st_size else None
            move = AliasMove(_now(), by or _user(), old, target, why)
            content = json.dumps(asdict(move), ensure_ascii=False, sort_keys=True).encode()
            with file.open("ab") as out:
                torn = _torn_bytes(file)
                out.truncate(file.stat().st_size - torn)
                out.write(_line_checksum(content) + b" " + content + b"\n")
                out.flush()
                os.fsync(out.fileno())
            sync(file.parent)
        return move

    def new_work(self, build_id: str) -> Path:
        """Make an empty directory for a build in progress.

        Raises:
            AlreadyExists: a build of that id is under way.
        """
        check_name(build_id)
        self._sweep()
        work = self.path / "work" / build_id
        lock = _lock_of(work).open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            work.mkdir()
        except OSError as error:
            lock.close()
            raise AlreadyExists(f"[build] {work} is being built already; wait for that build to end") from error
        self._locks[work] = lock
        return work

    def remove_work(self, work: Path) -> None:
        """Remove what an ended build left."""
        shutil.rmtree(work, ignore_errors=True)
        self._unlock(work)

    def _unlock(self, work: Path) -> None:
        lock = self._locks.pop(work, None)
        if lock is not None:
            lock.close()
            _lock_of(work).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what builds left whose process is gone: a living one holds its lock."""
        for file in (self.path / "work").glob("*.lock"):
            with file.open("a") as lock, contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(file.with_suffix(""), ignore_errors=True)
                file.unlink(missing_ok=True)

    def publish(self, work: Path, manifest: Manifest) -> str:
        """Seal `work` under the manifest and move it among the versions in one rename; return the version id."""
        return self._seal(work, manifest, "versions")

    def refuse(self, work: Path, manifest: Manifest) -> Path:
        """Keep a build that missed a gate for inspection; no alias can name it. Return where it lies."""
        return self.path / "refused" / self._seal(work, manifest, "refused")

    def _seal(self, work: Path, manifest: Manifest, part: str) -> str:
        content = manifest.to_bytes()
        with (work / FILE_NAME).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        for directory in sorted({file.parent for file in work.rglob("*")}, reverse=True):
            sync(directory)
        stamp = manifest.created_at[:19].replace("-", "").replace(":", "").replace("T", "-")
        version_id = f"{stamp}-{hashlib.sha256(content).hexdigest()[:16]}"
        target = self.path / part / version_id
        work.rename(target)
        sync(target.parent)
        self._unlock(work)
        return version_id

    def _alias_names(self) -> set[str]:
        return {file.name.removesuffix(".jsonl") for file in (self.path / "aliases").glob("*.jsonl")}

    def _alias_file(self, alias: str) -> Path:
        check_name(alias)
        return self.path / "aliases" / f"{alias}.jsonl"


def check_name(name: str) -> None:
    """Check that a name may be a file name and an alias.

    Raises:
        InvalidInput: it may not.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"[store] {name!r} cannot be a name; use 1 to 128 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
        )


def _lock_of(work: Path) -> Path:
    return work.parent / f"{work.name}.lock"


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _torn_bytes(file: Path) -> int:
    content = file.read_bytes()
    return len(content) - (content.rfind(b"\n") + 1)


def _line_checksum(content: bytes) -> bytes:
    return b"%08x" % int(cpp_ext.crc32c(content or b"\0", max(len(content), 1))[0])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
