"""The store: sealed index versions and movable aliases in one local directory.

STORE/versions/<version_id>/   sealed, never edited
STORE/aliases/<name>.jsonl     append-only history; the last line rules
STORE/endpoints/<name>.jsonl   likewise: what each endpoint was and is
STORE/refused/<version_id>/    builds that missed a gate, kept for inspection
STORE/work/                    builds in progress
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from matching.errors import AlreadyExists, CorruptArtifact, InvalidInput, NotFound
from matching.files import sync
from matching.journal import Journal
from matching.manifest import FILE_NAME, Manifest, read_manifest
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


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """One line of an endpoint's history; `told` is the whole endpoint from then on, as the service wrote it."""

    at: str
    by: str
    why: str
    told: Mapping[str, Any]


class Store:
    """Versions, aliases and endpoints below one directory. Thread-safe; several processes may share it."""

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
        if alias not in self._alias_names():
            raise NotFound(f"[store] no alias {alias!r}; there are {sorted(self._alias_names())}")
        moves = tuple(AliasMove(**line) for line in self._alias_journal(alias).lines())
        if not moves:
            raise NotFound(f"[store] the history of alias {alias!r} is empty; set it with `likewise versions alias`")
        return moves

    def version_before(self, alias: str) -> str:
        """Return the version that an alias named before the one it names now: where a rollback leads.

        Raises:
            NotFound: there is no such alias, or it has named one version only.
            CorruptArtifact: a line of the history is damaged.
        """
        now, *before = self.way_back(alias)
        if not before:
            raise NotFound(
                f"[store] alias {alias!r} named nothing before {now}; expected a version to go back to; promote one"
            )
        return before[0]

    def way_back(self, alias: str) -> tuple[str, ...]:
        """Return the version that an alias names now, and where one rollback after the other would lead.

        A move back takes the move that it undoes out of the reckoning, so that the next one leads further back.

        Raises:
            NotFound: there is no such alias.
            CorruptArtifact: a line of the history is damaged.
        """
        path: list[str] = []
        for move in self.history(alias):
            if path[-2:-1] == [move.new]:
                path.pop()
            elif path[-1:] != [move.new]:
                path.append(move.new)
        return tuple(reversed(path))

    def endpoints(self) -> tuple[str, ...]:
        """Return the names of the endpoints that were configured."""
        return tuple(sorted(file.name.removesuffix(".jsonl") for file in (self.path / "endpoints").glob("*.jsonl")))

    def endpoint_history(self, name: str) -> tuple[EndpointChange, ...]:
        """Return what an endpoint was, oldest first, and is, last; nothing where none of that name was configured.

        Raises:
            InvalidInput: this cannot be a name.
            CorruptArtifact: a line of the history is damaged.
        """
        return tuple(EndpointChange(**line) for line in self._endpoint_journal(name).lines())

    def set_endpoint(
        self, name: str, told: Mapping[str, Any], *, n_before: int, why: str, by: str | None = None
    ) -> EndpointChange:
        """Say what an endpoint is from now on.

        Args:
            name: of the endpoint.
            told: all of it, as JSON holds it.
            n_before: length of the history that this change was made of.
            why: the reason, kept in the history.
            by: who changes it, the user of this process when None.

        Raises:
            InvalidInput: this cannot be a name.
            AlreadyExists: somebody else has changed it meanwhile.
            CorruptArtifact: a line of the history is damaged.
        """
        change = EndpointChange(_now(), by or user_name(), why, told)

        def make(lines: tuple[dict[str, Any], ...]) -> dict[str, Any]:
            if len(lines) != n_before:
                raise AlreadyExists(
                    f"[store] endpoint {name!r} was changed {len(lines)} times; expected {n_before}: somebody else changed it "
                    "meanwhile; look at it and try again"
                )
            return asdict(change)

        self._endpoint_journal(name).append(make)
        return change

    def stamp(self, aliases: Iterable[str], endpoint: str) -> tuple[tuple[int, int], ...]:
        """Return what changes whenever one of the aliases moves or the endpoint changes: cheap enough to be asked often."""
        return tuple(j.stamp() for j in (self._endpoint_journal(endpoint), *map(self._alias_journal, aliases)))

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

    def open(self, name: str, *, verify: bool = True, partial: bool = False) -> IndexVersion:
        """Open a version for searching; with `verify` every block is checked before anything is believed.

        Args:
            partial: leave out shards that cannot be read, as `IndexVersion.open` does.

        Raises:
            NotFound: no such alias or version.
            CorruptArtifact: a file of it is not what was sealed.
        """
        return IndexVersion.open(self.directory(name), verify=verify, partial=partial)

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
            if not sealed.is_whole(directory / file):
                raise CorruptArtifact(
                    f"[verify] version {directory.name}: {file} is not what was sealed; restore it or build again"
                )
        IndexVersion.open(directory, verify=True)
        return sum(sealed.n_bytes for sealed in manifest.files.values())

    def set_alias(
        self, alias: str, name: str, *, why: str, by: str | None = None, instead_of: str | None = None
    ) -> AliasMove:
        """Point an alias at a version, and append who, when and why to its history.

        Args:
            alias: it need not be there.
            name: the version, or another alias that names it now.
            why: the reason, kept in the history.
            by: who moves it, the user of this process when None.
            instead_of: the version that it must name up to now, any when None.

        Raises:
            InvalidInput: the alias is not a valid name, or is the id of a version.
            NotFound: no such version.
            AlreadyExists: somebody else has moved it meanwhile.
        """
        check_name(alias)
        target = self.resolve(name)
        if (self.path / "versions" / alias).is_dir():
            raise InvalidInput(f"[alias] {alias!r} is the id of a version; choose another name")

        def make(lines: tuple[dict[str, Any], ...]) -> dict[str, Any]:
            now = lines[-1]["new"] if lines else None
            if instead_of is not None and now != instead_of:
                raise AlreadyExists(
                    f"[store] alias {alias!r} names {now} by now; expected {instead_of}: somebody else moved it meanwhile; look "
                    "at it and try again"
                )
            return asdict(AliasMove(_now(), by or user_name(), now, target, why))

        return AliasMove(**self._alias_journal(alias).append(make))

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

    def _alias_journal(self, alias: str) -> Journal:
        check_name(alias)
        return Journal(self.path / "aliases" / f"{alias}.jsonl", f"alias {alias!r}")

    def _endpoint_journal(self, name: str) -> Journal:
        check_name(name)
        return Journal(self.path / "endpoints" / f"{name}.jsonl", f"endpoint {name!r}")


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


def user_name() -> str:
    """Return who runs this process, for a history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
