"""Events as Parquet: out of a log a row an item, and back, from that layout or from a shop's own table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from matching.errors import InvalidInput
from matching.events import Event, EventItem, EventLog
from matching.files import sync
from matching.interactions import EVENT_WEIGHTS, Interactions, gathered, open_events
from matching.user_keys import UserKeys

_ROWS: Final = 1 << 14
_FINGERPRINT: Final = b"likewise.users"
_TIME: Final = pa.timestamp("ms", tz="UTC")
_SCHEMA: Final = pa.schema(
    [  # type: ignore[arg-type]
        ("event_id", pa.string()),
        ("part", pa.int32()),  # which item of the event
        ("event_type", pa.string()),
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", _TIME),
        ("received", _TIME),
        ("quantity", pa.float64()),
        ("price", pa.float64()),  # of one
        ("value", pa.float64()),  # of all of them
        ("position", pa.int32()),
        ("propensity", pa.float64()),
        ("query", pa.string()),
        ("recommendation_id", pa.string()),
    ]
)
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file.

    Attributes:
        n_accepted: events that are new.
        n_duplicates: that the log had, or whose user was erased.
        left_out: rows that are no event, by why.
    """

    n_accepted: int
    n_duplicates: int
    left_out: dict[str, int]


def event_batches(log: EventLog, after: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield what a log holds after a sequence as rows, each batch with the last sequence in it; one in memory at a time."""
    columns: list[list[Any]] = [[] for _ in _SCHEMA]
    sequence = after
    for sequence, event in log.read(after):
        for row in _rows_of(event):
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        if len(columns[0]) >= _ROWS:
            yield sequence, pa.record_batch(columns, schema=_SCHEMA)
            columns = [[] for _ in _SCHEMA]
    if columns[0]:
        yield sequence, pa.record_batch(columns, schema=_SCHEMA)


def read_event_log(
    log: EventLog, *, weights: Mapping[str, float] = EVENT_WEIGHTS, progress: Progress = lambda n: None
) -> Interactions:
    """Read a log as `matching.interactions.read_events` reads a file: the same events give the same interactions.

    A page of it is in memory at a time, beside about 40 bytes an event. Ids of events are not: a log holds each once.

    Raises:
        InvalidInput: it holds nothing that counts, or a weight is wrong.
    """
    batches = (batch.drop_columns(["event_id"]) for _, batch in event_batches(log))
    return gathered(batches, "the log of events", weights=weights, progress=progress)


def export_events(
    log: EventLog, file: Path, *, keys: UserKeys | None = None, after: int = 0, progress: Progress = lambda n: None
) -> tuple[int, int]:
    """Write what a log holds after a sequence as Parquet: whole or not at all, streamed.

    Args:
        log: is read.
        file: is written, and replaced where it is there.
        keys: of the log's users; an import into a log with the same secret then knows them again.
        after: a sequence; where the export before ended, for the next file of a series.
        progress: is told how many rows are written.

    Returns:
        How many rows, and the last sequence among them.
    """
    fingerprint = "" if keys is None else keys.fingerprint
    schema = _SCHEMA.with_metadata({_FINGERPRINT: fingerprint.encode()})
    part = file.with_name(f"{file.name}.part")
    n_rows, last = 0, after
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for sequence, batch in event_batches(log, after):
                writer.write_batch(batch.cast(schema))
                last = sequence
                n_rows += batch.num_rows
                progress(n_rows)
        sync(part)
        part.replace(file)
        sync(file.parent)
    finally:
        part.unlink(missing_ok=True)
    return n_rows, last


def import_events(
    log: EventLog, file: Path, keys: UserKeys, *, now_ms: int, progress: Progress = lambda n: None
) -> Imported:
    """Put the events of a Parquet file into a log, a batch at a time; one that is there already is left as it is.

    An import that was interrupted is started again from the file's beginning: what is in the log counts as a duplicate.

    Args:
        log: takes them.
        file: as `export_events` writes it, or as `matching.interactions.read_events` reads it: columns `user_id`, `item_id`,
            `event_type` and `timestamp`; `event_id`, `session_id`, `quantity`, `price` (of one) or `value` (of all), `query` and
            `recommendation_id` may be there. A row without `event_id` gets one of its place and what it says.
        keys: hash the users, unless the file was exported with the same secret.
        now_ms: when it is told, milliseconds since 1970.
        progress: is told how many rows are read.

    Raises:
        InvalidInput: it is no such file, or its users were hashed with another secret.
    """
    source = open_events(file)
    user_key = _user_key_of(file, source, keys)
    accepted = duplicates = n_rows = 0
    left_out: dict[str, int] = {}
    waiting: list[Event] = []
    for rows in _pages(source):
        events = _gathered(_told(rows, n_rows, user_key, now_ms, left_out), waiting)
        waiting = [events.pop()] if events else []  # its other items may come with the next rows
        appended = log.append(events)
        accepted, duplicates = accepted + len(appended.accepted), duplicates + appended.duplicates
        n_rows += len(rows)
        progress(n_rows)
    appended = log.append(waiting)
    return Imported(accepted + len(appended.accepted), duplicates + appended.duplicates, left_out)


def _rows_of(event: Event) -> Iterator[tuple[Any, ...]]:
    for part, item in enumerate(event.items or (None,)):
        what: tuple[Any, ...] = (None,) * 5
        if item is not None:
            price = None if item.value is None else item.value / item.quantity
            what = (item.quantity, price, item.value, item.position, item.propensity)
        yield (
            event.event_id,
            part,
            event.event_type,
            event.user or None,
            event.session or None,
            None if item is None else item.item_id,
            event.at_ms,
            event.received_ms,
            *what,
            event.query or None,
            event.recommendation_id or None,
        )


def _user_key_of(file: Path, source: pq.ParquetFile, keys: UserKeys) -> Callable[[str], str]:
    told = (source.schema_arrow.metadata or {}).get(_FINGERPRINT)
    if told is None:
        return keys.key
    if told.decode() != keys.fingerprint:
        raise InvalidInput(
            f"[import] the users of {file} were hashed with another secret; expected that of this log; use its key file"
        )
    return lambda key: key


def _pages(source: pq.ParquetFile) -> Iterator[list[dict[str, Any]]]:
    names = source.schema_arrow.names
    known = [name for name in _SCHEMA.names if name in names]
    times = {name: _TIME for name in ("timestamp", "received") if name in known}
    for batch in source.iter_batches(_ROWS, columns=known):
        columns = {}
        for name in known:
            column = batch.column(name)
            if name in times:  # one without a zone is UTC
                column = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
            elif pa.types.is_string(_SCHEMA.field(name).type):
                column = column.cast(pa.string())
            columns[name] = column.to_pylist()
        if batch.num_rows:
            yield [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _told(
    rows: Iterable[dict[str, Any]],
    first: int,
    user_key: Callable[[str], str],
    now_ms: int,
    left_out: dict[str, int],
) -> Iterator[Event]:
    for at, row in enumerate(rows, first):
        if row["event_type"] is None or row["timestamp"] is None:
            left_out["no type or time"] = left_out.get("no type or time", 0) + 1
            continue
        item = _item_of(row)
        if item is not None and not 0 < item.quantity < float("inf"):
            left_out["quantity not above 0"] = left_out.get("quantity not above 0", 0) + 1
            continue
        user = row["user_id"] or ""
        received = row.get("received")
        yield Event(
            row.get("event_id") or _named(at, row),
            row["event_type"],
            user_key(user) if user else "",
            row.get("session_id") or "",
            () if item is None else (item,),
            row["timestamp"],
            now_ms if received is None else received,
            row.get("query") or "",
            row.get("recommendation_id") or "",
        )


def _item_of(row: dict[str, Any]) -> EventItem | None:
    if row["item_id"] is None:
        return None
    quantity = 1.0 if row.get("quantity") is None else float(row["quantity"])
    if row["event_type"] == "return":  # tables tell what came back as less than nothing
        quantity = abs(quantity)
    value = row.get("value")
    if value is None and row.get("price") is not None:
        value = row["price"] * quantity
    return EventItem(row["item_id"], quantity, value, row.get("position"), row.get("propensity"))


def _named(at: int, row: dict[str, Any]) -> str:
    told = "\x1f".join(str(row[name]) for name in ("user_id", "item_id", "event_type", "timestamp"))
    return hashlib.blake2b(f"{at}\x1f{told}".encode(), digest_size=12).hexdigest()


def _gathered(events: Iterable[Event], before: list[Event]) -> list[Event]:
    """Put the items of rows that follow one another and are of one event together."""
    found = before
    for event in events:
        if found and found[-1].event_id == event.event_id and event.items:
            found[-1] = replace(found[-1], items=found[-1].items + event.items)
        else:
            found.append(event)
    return found
