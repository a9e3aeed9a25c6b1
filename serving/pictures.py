"""The catalogue's pictures as files, and nothing else of the folder they lie in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final

from matching.errors import NotFound

_TYPES: Final = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture that may be sent: its real path, its content type, and a tag that changes when the file does."""

    path: Path
    content_type: str
    stat: os.stat_result
    etag: str


class Pictures:
    """The pictures below one folder. Immutable and thread-safe."""

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder).resolve()

    def find(self, path: str) -> PictureFile:
        """Return the picture at a path relative to the folder.

        Raises:
            NotFound: there is none; it is no picture; or the path leads out of the folder, by dots or by a link.
        """
        missing = NotFound(f"[pictures] no picture {path[:200]!r} in this version's catalogue")
        content_type = _TYPES.get(Path(path).suffix.lower())
        if self._folder is None or content_type is None or "\0" in path:
            raise missing
        try:
            real = (self._folder / path).resolve(strict=True)
            stat = real.stat()
        except (OSError, RuntimeError):  # a loop of links was a RuntimeError before Python 3.13
            raise missing from None
        if not real.is_relative_to(self._folder) or real.suffix.lower() not in _TYPES or not S_ISREG(stat.st_mode):
            raise missing
        return PictureFile(real, content_type, stat, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"')
