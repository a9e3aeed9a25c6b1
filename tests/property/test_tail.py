"""What followers count of a stream, wherever they began and whatever was dropped, against a list of all records."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matching.errors import CorruptArtifact
from matching.live.batch import Batch, unpack_batch
from matching.live.log import Appended
from matching.live.tail import Tail


def stream(seed: int, n: int, before: int) -> tuple[list[Batch], list[Appended]]:
    """Return messages as several writers would publish them who had read up to anywhere, and where their records are."""
    chosen = Random(seed)
    batches: list[Batch] = []
    where: list[Appended] = []
    last = before
    for place in range(1, n + 1):
        known = chosen.randint(max(0, place - 4), place - 1)
        known_sequence = where[known - 1].last_sequence if known else before
        payloads = [b"%d" % chosen.randrange(100)] * chosen.randint(1, 4)
        request_id = f"r{chosen.randrange(20)}" if chosen.random() < 0.5 else ""
        batches.append(Batch(chosen.randbytes(16), known, known_sequence, request_id, payloads))
        where.append(Appended(last + 1, last + len(payloads)))
        last += len(payloads)
    return batches, where


@given(seed=st.integers(0, 1 << 30), n=st.integers(1, 40), before=st.integers(0, 5), held_bytes=st.integers(0, 5_000))
def test_whoever_begins_later_counts_alike(seed: int, n: int, before: int, held_bytes: int) -> None:
    batches, where = stream(seed, n, before)
    first = Tail(1, before, held_bytes=held_bytes)
    begun: list[Tail] = []
    chosen = Random(seed + 1)
    for place, batch in enumerate(batches, 1):
        for tail in (first, *begun):
            tail.take(batch)
        if chosen.random() < 0.3:
            covered = chosen.randint(first.first_sequence - 1, first.last_sequence)
            last_place = first.droppable(covered)
            assert last_place < place
            assert last_place < first.first_place or where[last_place - 1].last_sequence <= covered
            first.drop(last_place)
            late = Tail(first.first_place, before if first.first_place == 1 else None, held_bytes=held_bytes)
            for again in batches[first.first_place - 1 : place]:
                late.take(unpack_batch(again.packed(), 0))
            begun.append(late)
    for tail in (first, *begun):
        assert tail.is_counted
        assert (tail.next_place, tail.last_sequence) == (n + 1, where[-1].last_sequence)
        assert tail.first_sequence == where[tail.first_place - 1].first_sequence
        for place in range(tail.first_place, n + 1):
            assert tail.where(place) == where[place - 1]
            for sequence in range(where[place - 1].first_sequence, where[place - 1].last_sequence + 1):
                assert tail.place_of(sequence) == place
            held = tail.held(place)
            assert held is None or held.append_id == batches[place - 1].append_id
        assert tail.held(n) is not None
        assert tail.held(tail.first_place - 1) is None or tail.first_place > 1
    newest = {batch.request_id: place for batch, place in zip(batches, where, strict=True) if batch.request_id}
    assert all(first.answered(request_id) == place for request_id, place in newest.items())


def test_a_writer_that_counted_otherwise_is_found_out() -> None:
    tail = Tail(1, 0)
    tail.take(Batch(b"a" * 16, 0, 0, "", [b"x", b"y"]))
    with pytest.raises(
        CorruptArtifact, match="records up to message 1 end at 2 here and at 3 where message 2 was written"
    ):
        tail.take(Batch(b"b" * 16, 1, 3, "", [b"x"]))
    with pytest.raises(CorruptArtifact, match="the writer of message 2 had read message 2"):
        tail.take(Batch(b"c" * 16, 2, 2, "", [b"x"]))


@pytest.mark.parametrize("at", [0, 9, 20, 40, 60])
def test_a_damaged_message_is_refused(at: int) -> None:
    message = bytearray(Batch(b"a" * 16, 0, 0, "r", [b"x" * 50]).packed())
    message[at] ^= 1
    with pytest.raises(CorruptArtifact, match="message 7 of the stream"):
        unpack_batch(bytes(message), 7)


def test_only_the_newest_request_ids_are_remembered() -> None:
    tail = Tail(1, 0, n_request_ids=2)
    for at, request_id in enumerate("abcab"):
        tail.take(Batch(b"a" * 16, at, at, request_id, [b"x"]))
    assert [tail.answered(each) for each in "abc"] == [Appended(4, 4), Appended(5, 5), None]
