"""What a live index needs of the log of its writes: the file of one process, or the stream that several follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from matching.errors import InvalidInput, NotFound

MAX_REQUEST_ID_BYTES = 255


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log."""

    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the records of one append are.

    Attributes:
        first_sequence: of its first record.
        last_sequence: of its last: the version token of the whole append.
        is_repeat: its request id was known: these are the sequences of then, and nothing was appended now.
    """

    first_sequence: int
    last_sequence: int
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a log was known to reach when it was last asked.

    Attributes:
        sequence: of its newest record; it may be further, never less.
        age_s: how long before now, or before the log was lost, that was.
        is_reachable: whether it can be asked.
    """

    sequence: int
    age_s: float = 0.0
    is_reachable: bool = True


class Log(Protocol):
    """Records in one order, which everybody who opens the log sees alike. Thread-safe.

    *   An append that returned is kept, at its sequences, in order, whole. One that raised is there whole or not at all; repeat
        it with its request id and it is there once.
    *   Sequences have no gaps and never go back for an acknowledged record.
    *   What was read stays readable until it is truncated.
    """

    @property
    def first_sequence(self) -> int:
        """The sequence of the oldest record that is retained, or will be."""

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest record that can be read; first_sequence - 1 where none is retained."""

    @property
    def proved_sequence(self) -> int:
        """The sequence of the newest record that is known to be kept; others may be read already and be torn by a crash."""

    @property
    def n_bytes(self) -> int:
        """Bytes of all records that are retained, with what frames them."""

    @property
    def failure(self) -> str | None:
        """Why nothing is acknowledged at the moment, None while all is well."""

    @property
    def is_over(self) -> bool:
        """Whether the log is closed or has failed for good: nothing new will ever be read from it by this object."""

    @property
    def reach(self) -> Reach:
        """How far the log is known to reach, whether or not that can be read yet. Never waits."""

    def append(self, payloads: Sequence[bytes], *, request_id: str | None = None) -> Appended:
        """Append records, all or none of them, and return when they are kept.

        Args:
            payloads: at least one.
            request_id: what a repeated request repeats, at most 255 bytes of UTF-8. If it is known, nothing is appended, whatever
                the payloads.

        Raises:
            InvalidInput: no payloads, or an empty request id.
            LimitExceeded: too many bytes.
            Unavailable: nothing is acknowledged at the moment, or any more; see `failure`. The records may be there all the
                same: repeat the request with its request id.
        """

    def answered(self, request_id: str) -> Appended | None:
        """Return how a request was answered, None for one that is not remembered here."""

    def newest(self, *, timeout_s: float) -> int:
        """Return a sequence that no record acknowledged before the call is beyond, by whomever it was appended.

        Raises:
            Unavailable: nobody can tell within the time.
        """

    def read(self, first_sequence: int) -> Iterator[Record]:
        """Yield the records from a sequence on, in order, until there is no newer one.

        What is appended meanwhile is yielded too. To follow the log, `wait` for the next sequence and read on from there.

        Args:
            first_sequence: of the first record wanted; at most one behind the newest, which yields what comes.

        Raises:
            NotFound: at the call if the sequence was truncated or lies in the future, while iterating if it was truncated
                before the iteration came there.
            CorruptArtifact: while iterating, the bytes have changed since they were written.
            Unavailable: the log is closed, or while iterating, it cannot be reached.
        """

    def wait(self, sequence: int, *, timeout_s: float) -> bool:
        """Wait until a record can be read; return whether it can.

        Raises:
            Unavailable: it cannot, and never will: the log is over.
        """

    def truncate(self, covered_sequence: int) -> int:
        """Drop records that are covered by a sealed version, some or all; return the oldest sequence that is retained.

        Args:
            covered_sequence: the last sequence that is no longer needed.

        Raises:
            InvalidInput: it was not acknowledged yet.
            Unavailable: the log cannot drop anything now; all records are there still.
        """

    def close(self) -> None:
        """Acknowledge nothing more. May be called twice."""


def check_append(payloads: Sequence[bytes], request_id: str | None) -> bytes:
    """Check what is to be appended, and return its request id encoded.

    Raises:
        InvalidInput: no payloads, or a request id that is empty or too long.
    """
    if (
        isinstance(payloads, (bytes, str))
        or not payloads
        or not all(isinstance(payload, bytes) for payload in payloads)
    ):
        raise InvalidInput(f"[append] payloads is {type(payloads).__name__}; expected a list of bytes, at least one")
    encoded = b"" if request_id is None else request_id.encode()
    if request_id is not None and not 1 <= len(encoded) <= MAX_REQUEST_ID_BYTES:
        raise InvalidInput(f"[append] request_id has {len(encoded)} bytes; expected 1 to {MAX_REQUEST_ID_BYTES}")
    return encoded


def check_covered(covered_sequence: int, last_sequence: int) -> None:
    """Check that a log may be truncated up to a sequence.

    Raises:
        InvalidInput: it was not acknowledged yet.
    """
    if covered_sequence > last_sequence:
        raise InvalidInput(f"[truncate] sequence {covered_sequence} is not acknowledged; the newest is {last_sequence}")


def not_yet(sequence: int, last_sequence: int) -> NotFound:
    """Return the error of a read from the future."""
    return NotFound(f"[read] no record {sequence} yet; the newest is {last_sequence}")


def truncated(sequence: int, oldest: int) -> NotFound:
    """Return the error of a read behind the oldest record."""
    return NotFound(
        f"[read] record {sequence} was truncated; the oldest is {oldest}: begin with a version that covers {oldest - 1}"
    )
