"""What a follower knows of a stream: which sequences each message has, the newest messages whole, and request ids."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque

from matching.errors import CorruptArtifact
from matching.live.batch import Batch
from matching.live.log import Appended


class Tail:
    """The messages of a stream from its oldest on, taken one after the other. Guarded by its log's lock.

    A place is a message's number in the stream; a sequence is a record's in the log.

    Attributes:
        first_place: of the oldest message that is retained, or will be.
    """

    def __init__(
        self, first_place: int, sequence_before: int | None, *, n_request_ids: int = 1 << 16, held_bytes: int = 1 << 26
    ) -> None:
        """Begin with nothing.

        Args:
            sequence_before: of the last record before `first_place`; None where the messages have to tell.
            n_request_ids: how many are remembered, the newest.
            held_bytes: of payloads in memory.
        """
        self.first_place = first_place
        self._before = sequence_before
        self._ends = array("Q")  # the last sequence of each message
        self._uncounted: list[Batch] = []  # while nobody told what `_before` is
        self._held: deque[Batch] = deque()
        self._n_held_bytes = 0
        self._max_held_bytes = held_bytes
        self._n_request_ids = n_request_ids
        self._requests: dict[str, Appended] = {}
        self._newest_known_place = 0

    @property
    def is_counted(self) -> bool:
        """Whether the sequences are known."""
        return self._before is not None

    @property
    def next_place(self) -> int:
        """The place of the message to take next."""
        return self.first_place + len(self._ends) + len(self._uncounted)

    @property
    def first_sequence(self) -> int:
        """The sequence of the oldest record that is retained, or will be."""
        return (self._before or 0) + 1

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest record; first_sequence - 1 where there is none."""
        return self._ends[-1] if self._ends else self._before or 0

    def take(self, batch: Batch) -> None:
        """Take the message at `next_place`.

        Raises:
            CorruptArtifact: its writer had counted other records before it than there are.
        """
        if self._before is not None:
            self._count(batch)
            return
        self._uncounted.append(batch)
        if batch.known_place < self.first_place - 1:
            return
        n_known = batch.known_place - self.first_place + 1
        self._before = batch.known_sequence - sum(len(each.payloads) for each in self._uncounted[:n_known])
        uncounted, self._uncounted = self._uncounted, []
        for each in uncounted:
            self._count(each)

    def place_of(self, sequence: int) -> int:
        """Return the place of the message that has a record."""
        return self.first_place + bisect_left(self._ends, sequence)

    def where(self, place: int) -> Appended:
        """Return the sequences of a retained message."""
        at = place - self.first_place
        return Appended((self._ends[at - 1] if at else self._before or 0) + 1, self._ends[at])

    def held(self, place: int) -> Batch | None:
        """Return a message if it is in memory still."""
        at = place - (self.next_place - len(self._held))
        return self._held[at] if 0 <= at < len(self._held) else None

    def answered(self, request_id: str) -> Appended | None:
        """Return where the records of a request are, None for one that is not remembered."""
        return self._requests.get(request_id)

    def droppable(self, covered_sequence: int) -> int:
        """Return the place up to which messages may be dropped so that whoever opens the stream next can count the rest."""
        covered = self.first_place - 1 + bisect_left(self._ends, covered_sequence + 1)
        return max(self.first_place - 1, min(covered, self._newest_known_place, self.next_place - 2))

    def drop(self, last_place: int) -> None:
        """Forget the messages up to a place, which the stream no longer has."""
        n = min(last_place - self.first_place + 1, len(self._ends))
        if n > 0:
            self._before = self._ends[n - 1]
            del self._ends[:n]
            self.first_place += n

    def _count(self, batch: Batch) -> None:
        place, known = self.next_place, batch.known_place
        if known >= place:
            raise CorruptArtifact(
                f"[read] the writer of message {place} had read message {known}; expected an earlier one"
            )
        if known >= self.first_place - 1:
            counted = self._ends[known - self.first_place] if known >= self.first_place else self._before
            if counted != batch.known_sequence:
                raise CorruptArtifact(
                    f"[read] records up to message {known} end at {counted} here and at {batch.known_sequence} where message "
                    f"{place} was written; the stream changed: begin with the newest version"
                )
        where = Appended(self.last_sequence + 1, self.last_sequence + len(batch.payloads))
        self._ends.append(where.last_sequence)
        self._newest_known_place = known
        self._hold(batch)
        if batch.request_id:
            self._requests.pop(batch.request_id, None)
            self._requests[batch.request_id] = where
            while len(self._requests) > self._n_request_ids:
                del self._requests[next(iter(self._requests))]

    def _hold(self, batch: Batch) -> None:
        self._held.append(batch)
        self._n_held_bytes += _n_bytes(batch)
        while self._n_held_bytes > self._max_held_bytes and len(self._held) > 1:
            self._n_held_bytes -= _n_bytes(self._held.popleft())


def _n_bytes(batch: Batch) -> int:
    return sum(map(len, batch.payloads)) + 200
