"""One append as a message of a stream: its records, whole or not at all, and what its writer knew of the stream.

Layout, little-endian: magic `LWBATCH1`, CRC32C u32 of all that follows, append id [16], n_records u32, known place u64, known
sequence u64, then the body of a frame of the write log.

A message does not say which sequences its records have: several writers publish at once, and only the stream orders them.
Sequences follow from counting the records of all messages before. `known` says what the count was somewhere before, so that the
counting can begin in the middle of a stream, and is checked wherever it did not.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from matching.errors import CorruptArtifact
from matching.live.segment import crc32c, pack_body, unpack_body

MAGIC = b"LWBATCH1"
_HEAD = struct.Struct("<16sIQQ")
_CRC = struct.Struct("<I")
_OVERHEAD = len(MAGIC) + _CRC.size


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one append.

    Attributes:
        append_id: 16 random bytes that no other append has.
        known_place: of a message that its writer had read, the newest; 0 for none.
        known_sequence: of that message's last record.
        request_id: "" for none.
    """

    append_id: bytes
    known_place: int
    known_sequence: int
    request_id: str
    payloads: Sequence[bytes]

    def packed(self) -> bytes:
        """Return the message."""
        head = _HEAD.pack(self.append_id, len(self.payloads), self.known_place, self.known_sequence)
        data = head + pack_body(self.payloads, self.request_id.encode())
        return MAGIC + _CRC.pack(crc32c(data)) + data


def unpack_batch(message: bytes, place: int) -> Batch:
    """Return what a message carries.

    Raises:
        CorruptArtifact: it was damaged, or another program wrote it.
    """
    if message[: len(MAGIC)] != MAGIC:
        raise CorruptArtifact(
            f"[read] message {place} of the stream begins with {message[:8]!r}; expected {MAGIC!r}: give the service a stream "
            "for itself"
        )
    data = message[_OVERHEAD:]
    if len(data) < _HEAD.size or message[len(MAGIC) : _OVERHEAD] != _CRC.pack(crc32c(data)):
        raise CorruptArtifact(
            f"[read] message {place} of the stream does not match its checksum; begin with a version that covers it"
        )
    append_id, n_records, known_place, known_sequence = _HEAD.unpack_from(data)
    body = unpack_body(data[_HEAD.size :], n_records)
    return Batch(append_id, known_place, known_sequence, body.request_id, body.payloads)
