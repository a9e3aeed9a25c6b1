"""Rejects: every row or picture that did not make it, with its place and its reason."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType

from matching.errors import GateRefused, InvalidInput

N_EXAMPLES = 3


class RejectCode(str, Enum):
    """Why a record was refused: a closed list.

    The first block holds the names of Vertex AI Vector Search's `RecordErrorType`, which vector files use alone; the
    second is for catalogue rows, the third for pictures, whose product may well be kept.
    """

    EMPTY_LINE = "EMPTY_LINE"
    INVALID_JSON_SYNTAX = "INVALID_JSON_SYNTAX"
    INVALID_CSV_SYNTAX = "INVALID_CSV_SYNTAX"
    INVALID_AVRO_SYNTAX = "INVALID_AVRO_SYNTAX"
    INVALID_EMBEDDING_ID = "INVALID_EMBEDDING_ID"
    EMBEDDING_SIZE_MISMATCH = "EMBEDDING_SIZE_MISMATCH"
    NAMESPACE_MISSING = "NAMESPACE_MISSING"
    PARSING_ERROR = "PARSING_ERROR"
    DUPLICATE_NAMESPACE = "DUPLICATE_NAMESPACE"
    OP_IN_DATAPOINT = "OP_IN_DATAPOINT"
    MULTIPLE_VALUES = "MULTIPLE_VALUES"
    INVALID_NUMERIC_VALUE = "INVALID_NUMERIC_VALUE"
    INVALID_ENCODING = "INVALID_ENCODING"
    INVALID_SPARSE_DIMENSIONS = "INVALID_SPARSE_DIMENSIONS"
    INVALID_TOKEN_VALUE = "INVALID_TOKEN_VALUE"  # noqa: S105
    INVALID_SPARSE_EMBEDDING = "INVALID_SPARSE_EMBEDDING"
    INVALID_EMBEDDING = "INVALID_EMBEDDING"

    MISSING_ID = "MISSING_ID"
    INVALID_ID = "INVALID_ID"
    DUPLICATE_ID = "DUPLICATE_ID"
    NO_CONTENT = "NO_CONTENT"
    NO_PICTURE_LEFT = "NO_PICTURE_LEFT"

    PICTURE_MISSING = "PICTURE_MISSING"
    PICTURE_OUTSIDE = "PICTURE_OUTSIDE"
    PICTURE_TOO_LARGE = "PICTURE_TOO_LARGE"
    PICTURE_UNDECODABLE = "PICTURE_UNDECODABLE"

    @property
    def is_picture(self) -> bool:
        """True when a picture was refused and not the row that names it."""
        return self.value.startswith("PICTURE_")


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused row or picture.

    Attributes:
        file: name of the file that holds it, relative to what was opened.
        place: where in the file: `line 17` (counted from 1) in text files, `row 17` (counted from 0) in Parquet and
            .npy, `record 17` (counted from 0) in Avro.
        datapoint_id: its id where one could be read.
        code: the reason's class.
        reason: the reason, with the values at fault.
    """

    file: str
    place: str
    datapoint_id: str | None
    code: RejectCode
    reason: str

    def to_json(self) -> str:
        """Return the reject as one line of JSON, without its newline."""
        row = {
            "file": self.file,
            "place": self.place,
            "datapoint_id": self.datapoint_id,
            "code": self.code.value,
            "reason": self.reason,
        }
        return json.dumps(row, ensure_ascii=True)

    def __str__(self) -> str:
        return f"{self.file} {self.place}: {self.code.value}: {self.reason}"


class RejectsFile:
    """Counts rejects, writes them as JSON Lines and refuses a build that has too many.

    The file appears under its name when the writer is closed, by exception or not: what was refused is wanted most when
    a build failed. Until then it grows beside it as `NAME.partial`, flushed after every `add`. Not thread-safe.

    Attributes:
        n_rows: rows seen.
        n_pictures: pictures named by those rows.
        n_rejected_rows: rows refused.
        n_rejected_pictures: pictures refused.
        counts: rejects by code.
        examples: the first rejects of each code, at most `N_EXAMPLES`.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, max_reject_frac: float = 0.01) -> None:
        """Open the writer; nothing is written when `path` is None.

        Raises:
            InvalidInput: `max_reject_frac` is not in [0, 1].
            OSError: the file cannot be created.
        """
        if not (math.isfinite(max_reject_frac) and 0 <= max_reject_frac <= 1):
            raise InvalidInput(f"[rejects] max_reject_frac is {max_reject_frac}; expected a share from 0 to 1")
        self.max_reject_frac = max_reject_frac
        self.n_rows = self.n_pictures = self.n_rejected_rows = self.n_rejected_pictures = 0
        self.counts: Counter[RejectCode] = Counter()
        self.examples: dict[RejectCode, list[Reject]] = {}
        self._path = None if path is None else Path(path)
        self._partial = None if self._path is None else self._path.with_name(self._path.name + ".partial")
        self._stream = None if self._partial is None else self._partial.open("w", encoding="utf-8", newline="\n")

    def add(self, rejects: Iterable[Reject], *, n_rows: int = 0, n_pictures: int = 0) -> None:
        """Count `n_rows` rows and `n_pictures` pictures as seen, and write those of them that were refused."""
        self.n_rows += n_rows
        self.n_pictures += n_pictures
        for reject in rejects:
            self.counts[reject.code] += 1
            if reject.code.is_picture:
                self.n_rejected_pictures += 1
            else:
                self.n_rejected_rows += 1
            shown = self.examples.setdefault(reject.code, [])
            if len(shown) < N_EXAMPLES:
                shown.append(reject)
            if self._stream is not None:
                self._stream.write(reject.to_json() + "\n")
        if self._stream is not None:
            self._stream.flush()

    def check(self) -> None:
        """Refuse when the refused share of the rows, or of the pictures, is over the limit.

        Raises:
            GateRefused: it is; names the counts, examples and the rejects file.
        """
        over = []
        for what, n_bad, n_all in (
            ("rows", self.n_rejected_rows, self.n_rows),
            ("pictures", self.n_rejected_pictures, self.n_pictures),
        ):
            if n_bad > self.max_reject_frac * n_all:
                over.append(f"{n_bad:,} of {n_all:,} {what} were rejected ({n_bad / max(n_all, 1):.2%})")
        if not over:
            return
        examples = "\n".join(
            f"  {self.counts[code]:,} x {code.value}, such as {shown[0].file} {shown[0].place}: {shown[0].reason}"
            for code, shown in sorted(self.examples.items(), key=lambda item: -self.counts[item[0]])
        )
        listed = "" if self._path is None else f"; all of them are listed in {self._path}"
        raise GateRefused(
            f"[rejects] {' and '.join(over)}; expected at most {self.max_reject_frac:.2%}; "
            f"repair the input or raise max_reject_frac{listed}\n{examples}"
        )

    def close(self) -> None:
        """Sync the file and give it its name. Closing twice is harmless.

        Raises:
            OSError: the disk refused.
        """
        if self._stream is None or self._partial is None or self._path is None:
            return
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None
        self._partial.replace(self._path)

    def __enter__(self) -> RejectsFile:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
