"""Who did what with which item, and when: what sources of candidates learn from, and scoreboards measure with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from matching.errors import InvalidInput

# What an event says of the wish for an item, where the caller does not say it; other types say nothing.
EVENT_WEIGHTS: Final[Mapping[str, float]] = {"purchase": 1.0, "add_to_cart": 0.5, "wishlist": 0.3, "view": 0.1}
DAY_MS: Final = 86_400_000
_NEEDED: Final = ("user_id", "item_id", "event_type", "timestamp")
_OPTIONAL: Final = ("event_id", "part", "quantity", "price")
_BATCH_ROWS: Final = 1 << 16


class History(NamedTuple):
    """What one user did, oldest first.

    Attributes:
        items: int32[h], rows of `Interactions.item_ids`.
        at_ms: int64[h], since 1970.
        weights: float32[h].
    """

    items: NDArray[np.int32]
    at_ms: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Interactions:
    """n interactions in order of time. Immutable and thread-safe.

    Attributes:
        user_ids: sorted; `users` are its rows.
        item_ids: sorted; `items` are its rows.
        users: int32[n].
        items: int32[n].
        at_ms: int64[n], ascending, milliseconds since 1970.
        weights: float32[n], above 0.
        values: float32[n], what was paid, in the shop's currency; 0 where nobody knows.
        left_out: how many events are not here, by reason.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    at_ms: NDArray[np.int64]
    weights: NDArray[np.float32]
    values: NDArray[np.float32]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_users(self) -> int:
        """Users known, whether they did something here or not."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Items known, whether something was done with them here or not."""
        return len(self.item_ids)

    def between(self, start_ms: int, end_ms: int) -> Interactions:
        """Return what happened from `start_ms` until before `end_ms`, of the same users and items."""
        return self.take(slice(*np.searchsorted(self.at_ms, [start_ms, end_ms])))

    def take(self, which: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Interactions:
        """Return some of them, in their order, of the same users and items."""
        return replace(
            self,
            users=self.users[which],
            items=self.items[which],
            at_ms=self.at_ms[which],
            weights=self.weights[which],
            values=self.values[which],
        )

    @cached_property
    def _by_user(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.users, kind="stable")
        ends = np.searchsorted(self.users[order], np.arange(self.n_users + 1))
        return order, ends

    def rows_of(self, user: int) -> NDArray[np.int64]:
        """Return which interactions are a user's: int64[h], oldest first."""
        order, ends = self._by_user
        return order[ends[user] : ends[user + 1]]

    def history(self, user: int) -> History:
        """Return what a user did; empty where nothing is known of them."""
        return self.history_of(self.rows_of(user))

    def history_of(self, rows: NDArray[np.int64]) -> History:
        """Return some interactions of one user as what they did."""
        return History(self.items[rows], self.at_ms[rows], self.weights[rows])

    def distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return who took what, once however often: users and items, int64[m] each, by user and then by item."""
        pairs = np.unique(self.users.astype(np.int64) * self.n_items + self.items)
        users, items = np.divmod(pairs, max(self.n_items, 1))
        return users, items

    def digest(self) -> str:
        """Return what tells these interactions from others: SHA-256, in hexadecimal."""
        found = hashlib.sha256("\0".join((*self.user_ids, "", *self.item_ids)).encode())
        for array in (self.users, self.items, self.at_ms, self.weights, self.values):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def n_of_users(self) -> NDArray[np.int64]:
        """Return how much each user did: int64[n_users]."""
        return np.diff(self._by_user[1])


def read_events(
    path: Path, *, weights: Mapping[str, float] = EVENT_WEIGHTS, progress: Callable[[int], None] = lambda n: None
) -> Interactions:
    """Read a Parquet file of events, a batch of rows at a time; about 40 bytes of memory an event.

    Args:
        path: columns `user_id`, `item_id`, `event_type` (strings) and `timestamp` (a timestamp; without a zone it is UTC);
            `event_id` (an event told twice counts once), `quantity` and `price` may be there.
        weights: of each type of event, above 0. Events of other types, and those without user, item or time, are left out
            and counted.
        progress: is told how many rows are read.

    Raises:
        InvalidInput: it is no such file, or nothing is left of it.
    """
    check_weights(weights)
    file = open_events(path)
    columns = [*_NEEDED, *(name for name in _OPTIONAL if name in file.schema_arrow.names)]
    return gathered(_batches(file, columns), str(path), weights=weights, progress=progress)


def gathered(
    batches: Iterable[pa.RecordBatch],
    name: str,
    *,
    weights: Mapping[str, float] = EVENT_WEIGHTS,
    progress: Callable[[int], None] = lambda n: None,
) -> Interactions:
    """Return batches of events as interactions.

    Args:
        batches: with the columns of `read_events`, the same in all; `part` tells the items of one event apart.
        name: where they come from, for messages.
        weights: of each type of event, above 0.
        progress: is told how many rows are read.

    Raises:
        InvalidInput: nothing is left of them, or a weight is wrong.
    """
    check_weights(weights)
    ids: dict[str, dict[str, int]] = {"user_id": {}, "item_id": {}}
    parts: list[dict[str, NDArray[np.generic]]] = []
    n_read = 0
    for batch in batches:
        parts.append(_part(batch, ids, weights))
        n_read += batch.num_rows
        progress(n_read)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if not parts or not whole["kept"].any():
        raise InvalidInput(
            f"[read_events] {name} holds no event that counts, of {n_read}; expected one of {', '.join(sorted(weights))} "
            f"with user_id, item_id and timestamp; give --weight TYPE=WEIGHT for the types that it has"
        )
    left_out = {
        "no user, item or time": int(whole["nobody"].sum()),
        "type without weight": int(whole["unweighted"].sum()),
    }
    kept = whole["kept"]
    if "event_id" in whole:
        first = np.zeros(n_read, np.bool_)
        first[np.unique(whole["event_id"], return_index=True)[1]] = True
        left_out["told twice"] = int((kept & ~first).sum())
        kept = kept & first
    order = np.flatnonzero(kept)
    order = order[np.argsort(whole["at_ms"][order], kind="stable")]
    user_ids, users = _sorted_ids(ids["user_id"], whole["user_id"][order])
    item_ids, items = _sorted_ids(ids["item_id"], whole["item_id"][order])
    return Interactions(
        user_ids, item_ids, users, items, whole["at_ms"][order], whole["weight"][order], whole["value"][order], left_out
    )


def read_sequences(path: Path) -> Interactions:
    """Read a text file with a line a user: the user's id, then the ids of items, oldest first, with spaces between.

    That is the layout of the Amazon files of S3-Rec (Zhou et al., CIKM 2020). There are no times in it: an item's place in
    its line, in days, stands for one.

    Raises:
        InvalidInput: it cannot be read, or a line holds no item.
    """
    ids: dict[str, dict[str, int]] = {"user_id": {}, "item_id": {}}
    users: list[int] = []
    items: list[int] = []
    places: list[int] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"[read_sequences] {path} cannot be read: {error}; expected a text file of sequences"
        ) from error
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if len(parts) < 2:
            raise InvalidInput(
                f"[read_sequences] line {number} of {path} is {line[:40]!r}; expected a user's id and those of items"
            )
        user, *sequence = parts
        row = ids["user_id"].setdefault(user, len(ids["user_id"]))
        users += [row] * len(sequence)
        items += [ids["item_id"].setdefault(item, len(ids["item_id"])) for item in sequence]
        places += range(len(sequence))
    if not users:
        raise InvalidInput(f"[read_sequences] {path} is empty; expected a line a user")
    at_ms = np.array(places, np.int64) * DAY_MS
    order = np.argsort(at_ms, kind="stable")
    user_ids, user_rows = _sorted_ids(ids["user_id"], np.array(users, np.int32)[order])
    item_ids, item_rows = _sorted_ids(ids["item_id"], np.array(items, np.int32)[order])
    n = len(order)
    return Interactions(
        user_ids, item_ids, user_rows, item_rows, at_ms[order], np.ones(n, np.float32), np.zeros(n, np.float32)
    )


def check_weights(weights: Mapping[str, float]) -> None:
    """Check the weights of types of events.

    Raises:
        InvalidInput: there is none, or one is not a number above 0.
    """
    wrong = {kind: weight for kind, weight in weights.items() if not 0 < weight < np.inf}
    if wrong or not weights:
        raise InvalidInput(
            f"[weights] {wrong or 'none is given'}; expected a number above 0 for each type; leave a type out that says nothing"
        )


def open_events(path: Path) -> pq.ParquetFile:
    """Open a Parquet file of events and check that it has the columns.

    Raises:
        InvalidInput: it is no such file.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidInput(
            f"[read_events] {path} cannot be read as Parquet: {error}; expected a file of events"
        ) from error
    schema = file.schema_arrow
    missing = [name for name in _NEEDED if name not in schema.names]
    if missing:
        raise InvalidInput(
            f"[read_events] {path} has no column {', '.join(missing)}; it has {', '.join(schema.names)}; "
            f"expected {', '.join(_NEEDED)}; rename them"
        )
    if not pa.types.is_timestamp(schema.field("timestamp").type):
        raise InvalidInput(
            f"[read_events] timestamp of {path} is {schema.field('timestamp').type}; expected a timestamp; cast the column"
        )
    return file


def _batches(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return (batch for batch in file.iter_batches(_BATCH_ROWS, columns=columns) if batch.num_rows)


def _part(
    batch: pa.RecordBatch, ids: dict[str, dict[str, int]], weights: Mapping[str, float]
) -> dict[str, NDArray[np.generic]]:
    """One batch as numbers; ids are numbered in the order of their first sight."""
    part: dict[str, NDArray[np.generic]] = {}
    there = np.ones(batch.num_rows, np.bool_)
    for name in _NEEDED:
        there &= batch.column(name).is_valid().to_numpy(zero_copy_only=False)
    kinds = batch.column("event_type").cast(pa.string()).dictionary_encode()
    of_kind = np.array([weights.get(kind.as_py(), 0.0) for kind in kinds.dictionary] + [0.0], np.float32)
    weight = of_kind[kinds.indices.fill_null(len(of_kind) - 1).to_numpy()]
    weighted = weight > 0
    part["weight"] = weight
    part["kept"] = there & weighted
    part["nobody"] = ~there
    part["unweighted"] = there & ~weighted
    for name, known in ids.items():
        coded = batch.column(name).cast(pa.string()).dictionary_encode()
        rows = np.array([known.setdefault(value.as_py(), len(known)) for value in coded.dictionary] + [-1], np.int32)
        part[name] = rows[coded.indices.fill_null(len(rows) - 1).to_numpy()]
    at = batch.column("timestamp").cast(pa.timestamp("ms", batch.schema.field("timestamp").type.tz), safe=False)
    part["at_ms"] = at.cast(pa.int64()).fill_null(0).to_numpy()
    part["value"] = _value(batch)
    if "event_id" in batch.schema.names:
        part["event_id"] = _told_id(batch)
    return part


def _told_id(batch: pa.RecordBatch) -> NDArray[np.generic]:
    ids = batch.column("event_id")
    if "part" in batch.schema.names:
        parts = batch.column("part").cast(pa.string())
        ids = pc.binary_join_element_wise(ids.cast(pa.string()), parts, pa.scalar("\x1f"))  # type: ignore[call-overload]
    return np.asarray(ids.to_numpy(zero_copy_only=False))


def _value(batch: pa.RecordBatch) -> NDArray[np.float32]:
    value = np.zeros(batch.num_rows)
    for place, name in enumerate(("price", "quantity")):
        if name in batch.schema.names:
            numbers = np.asarray(batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
            known = np.where(np.isnan(numbers), place, numbers)  # no price is 0, no quantity 1
            value = known if place == 0 else value * known
    return value.astype(np.float32)


def _sorted_ids(known: Mapping[str, int], rows: NDArray[np.generic]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """The ids that occur, sorted, and the rows in them."""
    names = np.array(list(known), object)
    seen = np.unique(rows)
    order = seen[np.argsort(names[seen].astype(str), kind="stable")]
    new = np.full(len(known), -1, np.int32)
    new[order] = np.arange(len(order), dtype=np.int32)
    return tuple(names[order]), new[rows]
