"""Cells: the raw values of a file's columns, checked and turned into JSON values."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from typing import Any

from index_builder.catalog.facets import NOT_A_NUMBER, NUMBER
from index_builder.catalog.rejects import RejectCode

MAX_JSON_DEPTH = 32


class RefusedRow(Exception):
    """A row cannot be taken: the code and the reason of its reject."""

    def __init__(self, code: RejectCode, reason: str) -> None:
        self.code = code
        self.reason = reason


NOT_TEXT = object()  # stands for a text that is not UTF-8


def arrow_cells(column: Any) -> list[object]:
    """Return the values of an Arrow array; texts that are not UTF-8 become `NOT_TEXT`."""
    import pyarrow as pa

    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = []
        for scalar in column:
            try:
                values.append(scalar.as_py())
            except UnicodeDecodeError:
                values.append(NOT_TEXT)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [_decoded(value) for value in values]
    if pa.types.is_map(column.type):
        return [dict(value) if isinstance(value, list) else value for value in values]
    return list(values)


def _decoded(value: bytes | None) -> object:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return NOT_TEXT


def json_object(text: str) -> tuple[dict[str, object] | None, tuple[RejectCode, str] | None]:
    """Return the object that a line of JSON holds, or the reason why it holds none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, (RejectCode.INVALID_JSON_SYNTAX, f"not JSON: {error}")
    if not isinstance(values, dict):
        return None, (RejectCode.INVALID_JSON_SYNTAX, f"a JSON {type(values).__name__}; expected an object")
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(values, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return None, (RejectCode.INVALID_ENCODING, "half of a surrogate pair: it stands for no character")
    return values, None


def json_cell(value: object, name: str, kind: str | None, depth: int = 0) -> object:
    """Return a column's value as JSON; `kind` says what the texts of a CSV column mean.

    Raises:
        RefusedRow: a number is not finite or needs more than 64 bits, a text is not UTF-8, or it is nested too deep.
    """
    if isinstance(value, str):
        return _typed(value, name, kind) if kind is not None else value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        if isinstance(value, float) and not math.isfinite(value):
            raise RefusedRow(RejectCode.INVALID_NUMERIC_VALUE, f"{name!r} is {value}; expected a finite number")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RefusedRow(RejectCode.INVALID_NUMERIC_VALUE, f"{name!r} is {shown(value)}; expected at most 64 bits")
        return value
    if isinstance(value, decimal.Decimal):
        return json_cell(float(value), name, None)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if depth == MAX_JSON_DEPTH:
        raise RefusedRow(RejectCode.PARSING_ERROR, f"{name!r} is nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, dict):
        return {str(key): json_cell(part, name, None, depth + 1) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_cell(part, name, None, depth + 1) for part in value]
    if value is NOT_TEXT:
        raise RefusedRow(RejectCode.INVALID_ENCODING, f"{name!r} is not UTF-8")
    return str(value)


def _typed(text: str, name: str, kind: str) -> object:
    text = text.strip()
    if kind == "bool":
        return text.lower() == "true"
    if kind == "number":
        if NUMBER.fullmatch(text):
            number = float(text) if re.search(r"[.eE]", text) else int(text)
            return json_cell(number, name, None)
        if NOT_A_NUMBER.fullmatch(text):
            raise RefusedRow(RejectCode.INVALID_NUMERIC_VALUE, f"{name!r} is {text!r}; expected a finite number")
    return text


def shown(value: object) -> str:
    """Return a value for a message, cut to 80 characters."""
    # Huge integers cannot be printed in Python without a limit, and nobody wants to read them.
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
