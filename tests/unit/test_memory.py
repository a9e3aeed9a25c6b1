"""What memory is left, as machines and control groups of both versions tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.memory import Room, available

GB = 10**9


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 5000000 kB\nHugePages_Total: 0\n"}
V1 = {
    "proc/self/cgroup": "4:memory:/shop/one\n1:cpu:/\n0::/\n",
    "sys/fs/cgroup/memory/shop/one/memory.limit_in_bytes": str(3 * GB),
    "sys/fs/cgroup/memory/shop/one/memory.usage_in_bytes": str(2 * GB),
    "sys/fs/cgroup/memory/shop/one/memory.stat": f"total_cache {GB}\ntotal_shmem {GB // 4}\n",
}
V2 = {
    "proc/self/cgroup": "0::/shop/one\n",
    "sys/fs/cgroup/shop/one/memory.max": "max\n",
    "sys/fs/cgroup/shop/one/memory.current": str(2 * GB),
    "sys/fs/cgroup/shop/one/memory.stat": "file 0\nshmem 0\n",
    "sys/fs/cgroup/shop/memory.max": f"{4 * GB}\n",
    "sys/fs/cgroup/shop/memory.current": str(3 * GB),
    "sys/fs/cgroup/shop/memory.stat": f"anon {2 * GB}\nfile {GB // 2}\nshmem 0\n",
}


@pytest.mark.parametrize(
    ("files", "n_bytes", "told_by"),
    [
        (MACHINE, 5_120_000_000, "MemAvailable"),
        (MACHINE | V1, 3 * GB - 2 * GB + GB - GB // 4, "shop/one/memory.limit_in_bytes"),
        (MACHINE | V2, 4 * GB - 3 * GB + GB // 2, "shop/memory.max"),
        (V2, 4 * GB - 3 * GB + GB // 2, "shop/memory.max"),
        (MACHINE | {"proc/self/cgroup": "4:memory:/of/another/container\n"}, 5_120_000_000, "MemAvailable"),
    ],
)
def test_the_narrowest_of_machine_and_groups_counts(
    tmp_path: Path, files: dict[str, str], n_bytes: int, told_by: str
) -> None:
    room = available(write(tmp_path, files))
    assert isinstance(room, Room)
    assert room.n_bytes == n_bytes
    assert told_by in room.told_by


def test_nothing_is_known_where_nobody_tells(tmp_path: Path) -> None:
    assert available(tmp_path) is None


def test_this_machine_tells() -> None:
    room = available()
    assert room is not None
    assert room.n_bytes > 0
