"""The bytes of a segment: what passes for a frame and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from matching.live.segment import FRAME_BYTES, HEADER_BYTES, BadFrame, Segment, new_log_id, pack_body

LOG_ID = new_log_id()


def segment(log_id: bytes = LOG_ID, first_sequence: int = 7) -> Segment:
    return Segment(Path("7.log"), log_id, first_sequence)


def test_a_frame_says_what_it_holds() -> None:
    body = pack_body([b"a", b"", b"ccc"], b"r1")
    frame = segment().parsed(segment().frame(100, body, 3, 9, 64), 100)
    assert (frame.first_sequence, frame.last_sequence, frame.synced_bytes) == (9, 11, 64)
    assert frame.end == 100 + FRAME_BYTES + len(body)


@pytest.mark.parametrize("at", range(FRAME_BYTES))
def test_no_bit_of_a_head_may_change(at: int) -> None:
    head = bytearray(segment().frame(100, b"body", 1, 9, 64))
    for bit in range(8):
        head[at] ^= 1 << bit
        with pytest.raises(BadFrame):
            segment().parsed(bytes(head), 100)
        head[at] ^= 1 << bit


@pytest.mark.parametrize(
    ("other", "offset"), [(segment(), 101), (segment(first_sequence=8), 100), (segment(LOG_ID[:-1] + b"?"), 100)]
)
def test_a_frame_is_one_only_at_its_place(other: Segment, offset: int) -> None:
    with pytest.raises(BadFrame, match="does not match its checksum"):
        other.parsed(segment().frame(100, b"body", 1, 9, 64), offset)


def test_a_frame_of_another_log_is_not_even_looked_at() -> None:
    with pytest.raises(BadFrame, match="no record begins here"):
        segment(b"\xa8" + LOG_ID[1:]).parsed(segment().frame(100, b"body", 1, 9, 64), 100)
    with pytest.raises(BadFrame, match="3 bytes are left"):
        segment().parsed(b"abc", 100)


def test_reading_begins_a_little_before_a_record() -> None:
    grown = segment(first_sequence=1)
    assert grown.place_before(1) == HEADER_BYTES
    at = HEADER_BYTES
    for sequence in range(1, 2001):
        grown.grow(sequence, sequence, at, at + 1000)
        at += 1000
    for sequence in (1, 2, 263, 264, 1999, 2000):
        assert 0 <= HEADER_BYTES + (sequence - 1) * 1000 - grown.place_before(sequence) <= (1 << 18) + 1000
