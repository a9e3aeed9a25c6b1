"""Whether there is memory for another version: what it would take, and what this process may still have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matching.errors import GateRefused
from matching.manifest import Manifest

_ROOT: Final = Path("/")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a version needs in memory to answer at full speed, in bytes.

    Attributes:
        mapped: of files that every search reads where they lie.
        loaded: of indexes that are copied into memory of the process.
    """

    mapped: int
    loaded: int


@dataclass(frozen=True, slots=True)
class Room:
    """What is left: bytes that are free or hold nothing but copies of files, and who says so."""

    n_bytes: int
    told_by: str


def footprint_of(manifest: Manifest) -> Footprint:
    """Return what a version will take: columns, sparse sides and encoders, and of each shard what its plan reads.

    The vectors beside an index are left out: a search reads few of them, and the system may take their pages back.
    """
    mapped, loaded = [manifest.columns], []
    for space in manifest.spaces:
        encoder = None if space.encoder is None else space.encoder.arrays
        mapped += [name for name in (space.sparse, encoder) if name is not None]
        for shard in space.shards:
            if shard.faiss is not None:
                loaded.append(shard.faiss)
            else:
                mapped.append(shard.graph or shard.vectors)
    return Footprint(*(sum(manifest.files[name].n_bytes for name in names) for names in (mapped, loaded)))


def check_room(
    version_id: str, manifest: Manifest, served: Iterable[Manifest], *, budget_bytes: int | None = None
) -> None:
    """Check that a version fits beside those that are served.

    Args:
        version_id: of the version.
        manifest: its manifest.
        served: the manifests of what is served.
        budget_bytes: what all of them may take; what this machine and its control group leave where None.

    Raises:
        GateRefused: it does not.
    """
    new, old = footprint_of(manifest), [footprint_of(one) for one in served]
    n_new, n_old = new.mapped + new.loaded, sum(one.mapped for one in old)
    if budget_bytes is not None:
        room, n_old = Room(budget_bytes, "serving.version_memory_bytes"), n_old + sum(one.loaded for one in old)
    else:
        found = available()
        if found is None:
            return
        room = found  # what is served has its loaded part already, and its mapped part counts as free
    if n_new + n_old > room.n_bytes:
        raise GateRefused(
            f"[deploy] version {version_id} needs about {n_new:,} bytes of memory beside {n_old:,} of what is served, and "
            f"{room.told_by} leaves {room.n_bytes:,}; expected room for both; build it smaller, give the service more memory, or "
            "start the service anew with it"
        )


def available(root: Path = _ROOT) -> Room | None:
    """Return the memory that this process may still take, None where nobody tells: the machine's or its control group's.

    Args:
        root: where `proc` and `sys` lie.
    """
    rooms = [*_of_machine(root), *_of_groups(root)]
    return min(rooms, key=lambda room: room.n_bytes, default=None)


def _of_machine(root: Path) -> Iterator[Room]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = _table(root / "proc/meminfo")
        yield Room(told["MemAvailable:"] * 1024, "the machine (MemAvailable)")


def _of_groups(root: Path) -> Iterator[Room]:
    """Yield the room in the process's control group, of either version, and in those that it is in."""
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" and not controllers:
                names = "memory.max", "memory.current", "file", "shmem"
                yield from _of_group(root / "sys/fs/cgroup", path, *names)
            elif "memory" in controllers.split(","):
                names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"
                yield from _of_group(root / "sys/fs/cgroup/memory", path, *names)


def _of_group(mount: Path, path: str, limit: str, usage: str, files: str, shared: str) -> Iterator[Room]:
    group = mount / path.strip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max", or another container's path
            most, used, told = _number(folder / limit), _number(folder / usage), _table(folder / "memory.stat")
            yield Room(
                max(most - used + told[files] - told[shared], 0), f"the control group, of {most:,} ({folder / limit}),"
            )
        if folder == mount:
            return


def _number(file: Path) -> int:
    return int(file.read_text())


def _table(file: Path) -> dict[str, int]:
    rows = (line.split() for line in file.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
