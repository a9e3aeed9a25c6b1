"""Records of text files, read as a stream. A bad record never costs its neighbours."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from index_builder.catalog.rejects import RejectCode
from matching.errors import InvalidCatalog

MAX_LINE_BYTES = 16 << 20
MAX_CSV_RECORD_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file.

    Attributes:
        number: counted from 1.
        text: the line without its line end, or None when it is refused.
        code, reason: why it is refused.
        end: bytes of the file up to its end.
    """

    number: int
    text: str | None
    code: RejectCode | None
    reason: str
    end: int


@dataclass(frozen=True, slots=True)
class CsvRecord:
    """One CSV record: its cells, or None and the reason why it is refused. `number` is the line it starts on."""

    number: int
    cells: list[str] | None
    code: RejectCode | None
    reason: str
    end: int


def read_lines(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Yield the lines of a UTF-8 file, with or without a byte order mark, line ends LF or CR LF.

    A line that is empty, too long or not UTF-8 comes back refused; it takes at most `max_line_bytes` of memory.

    Raises:
        InvalidCatalog: the file cannot be read, or is compressed, or is UTF-16.
    """
    end = 0
    with open_text(path) as stream:
        for number, (raw, n_bytes) in enumerate(_raw_lines(stream, max_line_bytes), start=1):
            end += n_bytes
            if number == 1 and raw is not None:
                raw = raw.removeprefix(_BOM)
            yield _line(number, raw, n_bytes, end, max_line_bytes)


def read_csv_records(
    path: Path, *, delimiter: str = ",", max_record_bytes: int = MAX_CSV_RECORD_BYTES
) -> Iterator[CsvRecord]:
    """Yield the records of a CSV file by RFC 4180: quoted cells may hold delimiters, doubled quotes and line ends.

    When a record that spans several lines proves broken (a stray quote, the end of the file, too long), only its first
    line is refused and reading goes on with the second one.

    Raises:
        InvalidCatalog: as in `read_lines`.
    """
    lines = _Pushback(read_lines(path, max_line_bytes=max_record_bytes))
    for line in lines:
        if line.text is None:
            yield CsvRecord(line.number, None, line.code, line.reason, line.end)
        elif '"' not in line.text:
            yield CsvRecord(line.number, line.text.split(delimiter), None, "", line.end)
        else:
            yield _quoted_record(line, lines, delimiter, max_record_bytes)


def open_text(path: Path) -> BinaryIO:
    """Open a text file for reading bytes.

    Raises:
        InvalidCatalog: it cannot be read, or is compressed, or is UTF-16.
    """
    try:
        stream = path.open("rb", buffering=_READ_BYTES)
        start = stream.read(4)
        stream.seek(0)
    except OSError as error:
        raise InvalidCatalog(f"[read] {path} cannot be read: {error}; expected a readable file") from error
    for magic, what, cure in (
        (b"\x1f\x8b", "compressed with gzip", "run gunzip first"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd", "run unzstd first"),
        (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or export it as CSV"),
        (b"\xff\xfe", "UTF-16", "convert it with iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff", "UTF-16", "convert it with iconv -f UTF-16 -t UTF-8"),
    ):
        if start.startswith(magic):
            stream.close()
            raise InvalidCatalog(f"[read] {path} is {what}; expected plain UTF-8 text; {cure}")
    return stream


class _Pushback:
    """An iterator of lines that takes lines back."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._back: deque[Line] = deque()

    def __iter__(self) -> _Pushback:
        return self

    def __next__(self) -> Line:
        return self._back.popleft() if self._back else next(self._lines)

    def push(self, lines: list[Line]) -> None:
        self._back.extendleft(reversed(lines))


def _quoted_record(first: Line, lines: _Pushback, delimiter: str, max_record_bytes: int) -> CsvRecord:
    pulled: list[Line] = []
    refused = ""

    def feed() -> Iterator[str]:
        nonlocal refused
        n_chars = len(first.text or "")
        yield (first.text or "") + "\n"
        for line in lines:
            pulled.append(line)
            # An empty line inside a quoted cell is part of the text.
            text = "" if line.code is RejectCode.EMPTY_LINE else line.text
            n_chars += len(text or "") + 1
            if text is None or n_chars > max_record_bytes:
                refused = line.reason or f"its quoted cell goes on for more than {max_record_bytes:,} characters"
                return
            yield text + "\n"

    try:
        cells = next(csv.reader(feed(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        lines.push(pulled)
        reason = f"not a CSV record: {refused or error}; a quoted cell that opens here has no proper end"
        return CsvRecord(first.number, None, RejectCode.INVALID_CSV_SYNTAX, reason, first.end)
    end = pulled[-1].end if pulled else first.end
    return CsvRecord(first.number, cells, None, "", end)


def _raw_lines(stream: BinaryIO, max_line_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Yield (bytes without LF, or None when too long; bytes consumed)."""
    while True:
        raw = stream.readline(max_line_bytes + 2)
        if not raw:
            return
        n_bytes = len(raw)
        body = raw.removesuffix(b"\n").removesuffix(b"\r")
        if len(body) <= max_line_bytes:
            yield body, n_bytes
            continue
        while raw and not raw.endswith(b"\n"):
            raw = stream.readline(_READ_BYTES)
            n_bytes += len(raw)
        yield None, n_bytes


def _line(number: int, raw: bytes | None, n_bytes: int, end: int, max_line_bytes: int) -> Line:
    if raw is None:
        reason = f"the line has {n_bytes:,} bytes; expected at most {max_line_bytes:,}"
        return Line(number, None, RejectCode.PARSING_ERROR, reason, end)
    if not raw.strip():
        return Line(number, None, RejectCode.EMPTY_LINE, "the line is empty", end)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} of the line"
        return Line(number, None, RejectCode.INVALID_ENCODING, reason, end)
    if "\0" in text:
        return Line(number, None, RejectCode.INVALID_ENCODING, f"a NUL character at offset {text.index(chr(0))}", end)
    return Line(number, text, None, "", end)
