"""Rows as JSON Lines and as CSV for COPY, made a column at a time: nothing is done for each row in Python."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv


def json_lines(table: pa.Table) -> bytes:
    """Return a JSON object a line, its keys the columns' names; numbers are as exact as their columns."""
    if not table.num_rows:
        return b""
    parts: list[Any] = []
    for at, name in enumerate(table.column_names):
        parts += [
            _word(("{" if at == 0 else ",") + json.dumps(name) + ":"),
            _as_json(table.column(name).combine_chunks()),
        ]
    return _bytes_of(_joined(*parts, _word("}\n")))


def copied(table: pa.Table) -> bytes:
    """Return rows as CSV without a header, as `COPY ... (FORMAT csv)` reads it."""
    columns = [_as_array(column.combine_chunks()) for column in table.columns]
    out = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=False)
    pyarrow.csv.write_csv(pa.table(dict(zip(table.column_names, columns, strict=True))), out, options)
    return out.getvalue()


def _as_json(column: Any) -> Any:
    kind = column.type
    if pa.types.is_list(kind):
        offsets, values = column.offsets, _as_json(column.flatten())
        texts = pa.ListArray.from_arrays(_from_zero(offsets), values)
        return _joined(_word("["), pc.binary_join(texts, _word(",")), _word("]"))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        told = column.dictionary_encode()
        words = [json.dumps(word, ensure_ascii=False) for word in told.dictionary.to_pylist()]
        return pa.array(words, pa.large_string()).take(told.indices) if words else pa.array([], pa.large_string())
    return column.cast(pa.large_string())


def _as_array(column: Any) -> Any:
    """A list of words as PostgreSQL writes an array; words are names of sources, which need no quotes."""
    if not pa.types.is_list(column.type):
        return column
    words = column.cast(pa.list_(pa.large_string()))
    return _joined(_word("{"), pc.binary_join(words, _word(",")), _word("}"))


def _word(text: str) -> Any:
    return pa.scalar(text, pa.large_string())


def _joined(*parts: Any) -> Any:
    return pc.binary_join_element_wise(*parts, _word(""))


def _from_zero(offsets: Any) -> Any:
    return pc.subtract(offsets, offsets[0])


def _bytes_of(strings: Any) -> bytes:
    """The bytes of an array of large strings, one after the other."""
    _, offsets, data = strings.buffers()
    ends = memoryview(offsets).cast("q")
    return bytes(memoryview(data)[ends[strings.offset] : ends[strings.offset + len(strings)]])
