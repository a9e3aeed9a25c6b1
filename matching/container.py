"""The sealed container: named arrays in one file, every byte of which is under a checksum.

Layout, little-endian:

    header   magic `LIKEWISE`, format u32, header bytes u32, payload bytes u64, block bytes u32, n_blocks u32, kind[16],
             JSON length u32, JSON {name: [dtype, shape, offset]}, zeros, CRC32C of all before it u32;
             padded to a multiple of 4096, so that the payload can be mapped
    payload  the arrays, each at a multiple of 64 bytes
    table    CRC32C of each payload block, u32[n_blocks], then the CRC32C of the table u32

The writer lays the file out first and hands the arrays out as memory maps, so an array larger than memory can be filled in
any order. Nothing in the file is believed before it was checked.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from matching.errors import CorruptArtifact
from matching.files import reserve

MAGIC = b"LIKEWISE"
FORMAT = 1
BLOCK_BYTES = 1 << 20
PAGE = 4096
ALIGNMENT = 64
MAX_HEADER_BYTES = 1 << 24
_CHECKED_BLOCKS = 4  # at once
_FIXED = struct.Struct("<8sIIQII16sI")
_DTYPES = frozenset(["uint8", "int8", "uint16", "float16", "int32", "uint32", "float32", "int64", "uint64", "float64"])

Array = NDArray[np.generic]


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


class ContainerWriter:
    """Writes one container; `seal` makes it valid. Not thread-safe."""

    def __init__(self, path: Path, kind: str, arrays: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Lay the file out.

        Args:
            path: a file that must not exist yet.
            kind: at most 16 ASCII letters; what `open_container` will insist on.
            arrays: dtype and shape by name.

        Raises:
            OSError: the disk has no room for it.
        """
        self._path = path
        layout: dict[str, tuple[str, tuple[int, ...], int]] = {}
        end = 0
        for name, (dtype, shape) in arrays.items():
            assert dtype in _DTYPES, dtype
            start = _round_up(end, ALIGNMENT)
            layout[name] = (dtype, shape, start)
            end = start + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._payload_bytes = end
        n_blocks = -(-end // BLOCK_BYTES)
        described = json.dumps(layout, sort_keys=True, separators=(",", ":")).encode()
        header_bytes = _round_up(_FIXED.size + len(described) + 4, PAGE)
        fixed = _FIXED.pack(MAGIC, FORMAT, header_bytes, end, BLOCK_BYTES, n_blocks, kind.encode(), len(described))
        head = (fixed + described).ljust(header_bytes - 4, b"\0")
        with path.open("xb") as file:
            file.write(head + _crc_bytes(head))
            file.truncate(header_bytes + end)
            reserve(file.fileno(), header_bytes + end)
        self._header_bytes = header_bytes
        starts = {name: start for name, (_, _, start) in layout.items()}
        self.arrays: dict[str, Array] = {
            name: np.memmap(path, np.dtype(dtype), "r+", header_bytes + starts[name], shape)
            if np.prod(shape)
            else np.empty(shape, dtype)
            for name, (dtype, shape) in arrays.items()
        }

    def seal(self) -> None:
        """Checksum the blocks, write the table and wait until all of it is on disk."""
        for array in self.arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        self.arrays = {}
        with self._path.open("r+b") as file:
            file.seek(self._header_bytes)
            table = b""
            left = self._payload_bytes
            while left:
                block = file.read(min(left, BLOCK_BYTES))
                table += _crc_bytes(block)
                left -= len(block)
            file.write(table + _crc_bytes(table))
            file.flush()
            os.fsync(file.fileno())


def write_container(path: Path, kind: str, arrays: Mapping[str, Array]) -> None:
    """Write arrays that are already in memory as one sealed container."""
    writer = ContainerWriter(path, kind, {name: (array.dtype.name, array.shape) for name, array in arrays.items()})
    for name, array in arrays.items():
        writer.arrays[name][...] = array
    writer.seal()


def write_bytes_container(path: Path, kind: str, content: Path) -> None:
    """Wrap the bytes of another file as the array `bytes` of a sealed container, a block at a time."""
    size = content.stat().st_size
    writer = ContainerWriter(path, kind, {"bytes": ("uint8", (size,))})
    target = writer.arrays["bytes"]
    with content.open("rb") as source:
        at = 0
        while block := source.read(BLOCK_BYTES):
            target[at : at + len(block)] = np.frombuffer(block, np.uint8)
            at += len(block)
    writer.seal()


def open_container(path: Path, kind: str, *, verify: bool = True) -> dict[str, Array]:
    """Map a container and return its arrays, read-only.

    Args:
        verify: check every payload block too, not only the header and the table; about 3 GB/s.

    Raises:
        CorruptArtifact: any byte is not what was sealed, or the file is of another kind.
    """
    try:
        with path.open(
            "rb", buffering=0
        ) as file:  # read and not touched: a fault of the disk is then an error, no signal
            layout, header_bytes, payload_bytes, n_blocks = _checked_header(file, path, kind)
            file.seek(header_bytes + payload_bytes)
            table = _read(file, 4 * n_blocks, path)
            _check(_read(file, 4, path) == _crc_bytes(table), path, "the checksum table is damaged")
            if verify:
                _check_blocks(file, header_bytes, payload_bytes, np.frombuffer(table, "<u4"), path)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except CorruptArtifact:
        raise
    except OSError as error:
        raise CorruptArtifact(
            f"[open] {path.name} cannot be read: {error}; restore the version or build it again"
        ) from error
    arrays: dict[str, Array] = {}
    for name, (dtype, shape, start) in layout.items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(mapped, dtype, count, header_bytes + start).reshape(shape)
    return arrays


def _checked_header(
    file: FileIO, path: Path, kind: str
) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], int, int, int]:
    size = os.fstat(file.fileno()).st_size
    _check(size >= PAGE, path, f"it holds {size} bytes, less than a header")
    page = _read(file, PAGE, path)
    magic, fmt, header_bytes, payload_bytes, block_bytes, n_blocks, found_kind, described = _FIXED.unpack_from(page)
    _check(magic == MAGIC, path, "it does not start with the container's magic")
    _check(fmt == FORMAT, path, f"container format {fmt} is not {FORMAT}, the one this program reads")
    _check(PAGE <= header_bytes <= min(size, MAX_HEADER_BYTES) and header_bytes % PAGE == 0, path, "bad header length")
    whole = page + _read(file, header_bytes - PAGE, path)
    head = whole[:-4]
    _check(whole[-4:] == _crc_bytes(head), path, "the header does not match its checksum")
    _check(found_kind.rstrip(b"\0") == kind.encode(), path, f"it holds {found_kind!r}, not {kind!r}")
    _check(block_bytes == BLOCK_BYTES and n_blocks == -(-payload_bytes // BLOCK_BYTES), path, "bad block layout")
    expected = header_bytes + payload_bytes + 4 * n_blocks + 4
    _check(size == expected, path, f"it holds {size} bytes, expected {expected}: truncated or padded")
    layout = {}
    for name, (dtype, shape, start) in json.loads(head[_FIXED.size : _FIXED.size + described]).items():
        _check(dtype in _DTYPES and start >= 0 and all(side >= 0 for side in shape), path, f"bad array {name!r}")
        count = 1
        for side in shape:
            count *= side
        _check(
            start + count * np.dtype(dtype).itemsize <= payload_bytes, path, f"array {name!r} ends behind the payload"
        )
        layout[name] = (dtype, tuple(shape), start)
    return layout, header_bytes, payload_bytes, n_blocks


def _check_blocks(file: FileIO, start: int, n_bytes: int, table: NDArray[np.uint32], path: Path) -> None:
    """Hold each block of the payload against its checksum."""
    file.seek(start)
    buffer = memoryview(bytearray(min(_CHECKED_BLOCKS * BLOCK_BYTES, n_bytes)))
    for first in range(0, len(table), _CHECKED_BLOCKS):
        part = buffer[: min(len(buffer), n_bytes - first * BLOCK_BYTES)]
        _fill(file, part, path)
        wrong = np.flatnonzero(cpp_ext.crc32c(part, BLOCK_BYTES) != table[first : first + _CHECKED_BLOCKS])
        _check(
            wrong.size == 0,
            path,
            f"block {first + int(wrong[0]) if wrong.size else 0} of {len(table)} does not match its checksum",
        )


def _read(file: FileIO, n_bytes: int, path: Path) -> bytes:
    content = bytearray(n_bytes)
    _fill(file, memoryview(content), path)
    return bytes(content)


def _fill(file: FileIO, target: memoryview, path: Path) -> None:
    at = 0
    while at < len(target):
        n = file.readinto(target[at:])
        _check(bool(n), path, f"it ends {len(target) - at} bytes early")
        at += n or 0


def _crc_bytes(data: bytes) -> bytes:
    if not data:
        return b"\0\0\0\0"
    return struct.pack("<I", int(cpp_ext.crc32c(data, len(data))[0]))


def _check(holds: bool, path: Path, what: str) -> None:
    if not holds:
        raise CorruptArtifact(f"[open] {path.name}: {what}; restore the file or build the version again")
