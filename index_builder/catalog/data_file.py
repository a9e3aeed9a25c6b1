"""Data files: which files an input path stands for, and their digests for a build's data snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from matching.errors import InvalidCatalog
from matching.files import sha256_of


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file that was read: its name, its size and the SHA-256 of its bytes in hex."""

    name: str
    n_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> DataFile:
        """Digest the file at `path`, under its own name or another one.

        Raises:
            InvalidCatalog: it cannot be read.
        """
        try:
            return cls(name or path.name, path.stat().st_size, sha256_of(path))
        except OSError as error:
            raise InvalidCatalog(f"[read] {path} cannot be read: {error}; expected a readable file") from error


def part_files(path: Path, suffixes: Collection[str], *, skip: Collection[str] = ()) -> list[Path]:
    """Return the file at `path`, or the files of that folder that end in one of `suffixes`, in the order of their
    names.

    Hidden files and files that begin with `_` (such as `_SUCCESS`) are not data.

    Raises:
        InvalidCatalog: there is no such file, or the folder holds none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidCatalog(f"[read] {path} does not exist; expected a file or a folder of part files")
    parts = sorted(
        part
        for part in path.iterdir()
        if part.suffix.lower() in suffixes and part.name not in skip and part.name[0] not in "._" and part.is_file()
    )
    if not parts:
        raise InvalidCatalog(f"[read] {path} holds no data; expected files that end in {', '.join(sorted(suffixes))}")
    return parts


def digest_of(files: Sequence[DataFile]) -> str:
    """Return one digest: the file's own for a single file, else that of the lines `sha256sum` prints for all of them."""
    if len(files) == 1:
        return files[0].sha256
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
