"""What the write log knows apart from its segments: which records must be there, and which requests were answered.

The file `head` is replaced whole when the log is opened, rotated, truncated or closed. Layout, little-endian:

    magic `LWWLHEAD`, format u32, n_answered u32, log_id[16], first sequence u64, synced sequence u64,
    then for each answered request: first sequence u64, last sequence u64, request id bytes u16, request id;
    CRC32C of all before it u32
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from matching.errors import CorruptArtifact
from matching.live import disk
from matching.live.segment import CURE, crc32c

NAME = "head"
MAGIC = b"LWWLHEAD"
FORMAT = 1
_FIXED = struct.Struct("<8sII16sQQ")
_ANSWERED = struct.Struct("<QQH")


@dataclass(frozen=True, slots=True)
class Head:
    """What must hold of the segments.

    Attributes:
        log_id: tells this log from another, 16 bytes.
        first_sequence: of the oldest record that is retained; what lies before was truncated.
        synced_sequence: every record up to here was on disk when this was written.
        answered: request id to first and last sequence, oldest first, of requests whose records were truncated.
    """

    log_id: bytes
    first_sequence: int
    synced_sequence: int
    answered: dict[str, tuple[int, int]]

    def write(self, folder: Path) -> None:
        """Replace the head of a log and wait until that is on disk.

        Raises:
            OSError: it cannot be written; the old one or this one is there.
        """
        parts = [_FIXED.pack(MAGIC, FORMAT, len(self.answered), self.log_id, self.first_sequence, self.synced_sequence)]
        for request_id, (first, last) in self.answered.items():
            encoded = request_id.encode()
            parts.append(_ANSWERED.pack(first, last, len(encoded)) + encoded)
        data = b"".join(parts)
        disk.publish(folder / NAME, data + struct.pack("<I", crc32c(data)))


def read_head(folder: Path) -> Head | None:
    """Return the head of a log, None where there is none.

    Raises:
        CorruptArtifact: it is damaged, or of a format that this program does not read.
    """
    try:
        data = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None
    fixed = data[: _FIXED.size]
    is_sealed = data[-4:] == struct.pack("<I", crc32c(data[:-4]))
    if is_sealed and fixed[:8] == MAGIC and fixed[8:12] != struct.pack("<I", FORMAT):
        raise CorruptArtifact(
            f"[open] {NAME}: format {int.from_bytes(fixed[8:12], 'little')} is not {FORMAT}, the one this program reads; "
            "open it with the program that wrote it"
        )
    if len(data) < _FIXED.size + 4 or fixed[:8] != MAGIC or not is_sealed:
        raise CorruptArtifact(f"[open] {NAME}: its {len(data)} bytes do not match their checksum; {CURE}")
    _, _, n_answered, log_id, first_sequence, synced_sequence = _FIXED.unpack(fixed)
    answered, at = {}, _FIXED.size
    for _ in range(n_answered):
        first, last, n_bytes = _ANSWERED.unpack_from(data, at)
        at += _ANSWERED.size + n_bytes
        answered[data[at - n_bytes : at].decode()] = (first, last)
    return Head(log_id, first_sequence, synced_sequence, answered)
