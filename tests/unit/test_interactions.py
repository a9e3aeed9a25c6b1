"""Events as sources and scoreboards see them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matching.errors import InvalidInput
from matching.interactions import DAY_MS, read_events, read_sequences

START = datetime(2024, 3, 1, 12)


def write(path: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> Path:
    known = {
        "timestamp": pa.timestamp("us"),
        "user_id": pa.string(),
        "item_id": pa.string(),
        "event_type": pa.string(),
        **types,
    }
    names = list(rows[0])
    pq.write_table(
        pa.table({name: pa.array([row[name] for row in rows], known.get(name)) for name in names}),
        path,
        row_group_size=2,
    )
    return path


def event(user: str | None, item: str | None, day: float, kind: str = "purchase", **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "event_type": kind, "timestamp": START + timedelta(days=day), **more}


def test_events_come_in_order_of_time_with_ids_sorted(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", [event("zoe", "b", 2), event("adam", "c", 1), event("zoe", "a", 0)])
    read = read_events(path)
    assert read.user_ids == ("adam", "zoe")
    assert read.item_ids == ("a", "b", "c")
    assert [(read.user_ids[u], read.item_ids[i]) for u, i in zip(read.users, read.items)] == [
        ("zoe", "a"),
        ("adam", "c"),
        ("zoe", "b"),
    ]
    assert np.diff(read.at_ms).tolist() == [DAY_MS, DAY_MS]
    assert read.at_ms[0] == int(START.replace(tzinfo=timezone.utc).timestamp() * 1000)


def test_what_does_not_count_is_counted(tmp_path: Path) -> None:
    rows = [
        event("u", "a", 0, event_id=1, quantity=2, price=1.5),
        event("u", "a", 1, event_id=1, quantity=2, price=1.5),
        event(None, "a", 2, event_id=2, quantity=1, price=1.0),
        event("u", "b", 3, "return", event_id=3, quantity=-1, price=1.0),
        event("u", "c", 4, "view", event_id=4, quantity=None, price=None),
    ]
    read = read_events(write(tmp_path / "e.parquet", rows))
    assert dict(read.left_out) == {"no user, item or time": 1, "type without weight": 1, "told twice": 1}
    assert [read.item_ids[i] for i in read.items] == ["a", "c"]
    assert read.weights.tolist() == [1.0, pytest.approx(0.1)]
    assert read.values.tolist() == [3.0, 0.0]
    only_views = read_events(tmp_path / "e.parquet", weights={"view": 2.0})
    assert [only_views.item_ids[i] for i in only_views.items] == ["c"]
    assert only_views.item_ids == ("c",)


def test_times_with_a_zone_are_the_same_moments(tmp_path: Path) -> None:
    zoned = [event("u", "a", 0) | {"timestamp": START.replace(tzinfo=timezone(timedelta(hours=2)))}]
    read = read_events(write(tmp_path / "e.parquet", zoned, timestamp=pa.timestamp("us", "Europe/Berlin")))
    assert read.at_ms[0] == int((START - timedelta(hours=2)).replace(tzinfo=timezone.utc).timestamp() * 1000)


def test_a_stretch_of_time_and_a_history(tmp_path: Path) -> None:
    rows = [event("u", "a", 0), event("v", "a", 1), event("u", "b", 2), event("u", "c", 3)]
    read = read_events(write(tmp_path / "e.parquet", rows))
    before = read.between(0, int(read.at_ms[3]))
    assert len(before) == 3
    history = before.history(read.user_ids.index("u"))
    assert [read.item_ids[i] for i in history.items] == ["a", "b"]
    assert before.n_of_users().tolist() == [2, 1]
    assert len(read.between(0, 0).history(0).items) == 0


@pytest.mark.parametrize(
    ("rows", "types", "message"),
    [
        ([{"user_id": "u", "item_id": "a", "timestamp": START}], {}, "no column event_type"),
        ([event("u", "a", 0) | {"timestamp": 5}], {"timestamp": pa.int64()}, "timestamp of .* is int64"),
        ([event("u", "a", 0, "return")], {}, "holds no event that counts, of 1"),
        ([event(None, "a", 0)], {}, "holds no event that counts"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, rows: list[dict[str, Any]], types: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_events(write(tmp_path / "e.parquet", rows, **types))


def test_no_parquet_and_wrong_weights(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_text("user,item")
    with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
        read_events(tmp_path / "e.parquet")
    with pytest.raises(InvalidInput, match="'view': 0"):
        read_events(tmp_path / "e.parquet", weights={"view": 0})
    with pytest.raises(InvalidInput, match="none is given"):
        read_events(tmp_path / "e.parquet", weights={})


def test_sequences(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("1 10 11 12\n2 11\n")
    read = read_sequences(path)
    assert [read.item_ids[i] for i in read.history(0).items] == ["10", "11", "12"]
    assert read.history(1).at_ms.tolist() == [0]
    path.write_text("1 10\n\n")
    with pytest.raises(InvalidInput, match="line 2"):
        read_sequences(path)
    path.write_text("")
    with pytest.raises(InvalidInput, match="is empty"):
        read_sequences(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_sequences(tmp_path / "absent.txt")
