"""Events out of a log and into one as Parquet, and what sources read of both."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matching import event_files
from matching.errors import InvalidInput
from matching.event_files import Imported, export_events, import_events, read_event_log
from matching.event_log import SqlEventLog
from matching.events import Event, EventItem
from matching.interactions import Interactions, read_events
from matching.user_keys import UserKeys
from tests.commands import likewise

KEYS = UserKeys(b"k" * 32)
NOW = 1_700_000_000_000


def made(n: int) -> list[Event]:
    """Events of every shape, more of them than a batch of rows."""
    rng = np.random.default_rng(4)
    events = []
    for at in range(n):
        kind = ("view", "purchase", "impression", "search")[at % 4]
        n_items = {"search": 0, "impression": 5}.get(kind, int(rng.integers(1, 4)))
        items = tuple(
            EventItem(f"i{rng.integers(50)}", float(rng.integers(1, 4)), 2.5 * place if kind == "purchase" else None)
            if kind != "impression"
            else EventItem(f"i{place}", 1.0, None, place, 0.25)
            for place in range(n_items)
        )
        user = KEYS.key(f"u{rng.integers(20)}") if at % 5 else ""
        query, answer = ("boots", "") if kind == "search" else ("", f"r{at}" if at % 3 else "")
        events.append(
            Event(f"e{at}", kind, user, f"s{at % 7}" if at % 2 else "", items, NOW - at * 977, NOW, query, answer)
        )
    return events


def same(one: Interactions, other: Interactions) -> bool:
    return (one.user_ids, one.item_ids) == (other.user_ids, other.item_ids) and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("users", "items", "at_ms", "weights", "values")
    )


def test_a_log_goes_out_and_comes_back_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "_ROWS", 64)
    events = made(500)
    with SqlEventLog.open(tmp_path / "one.sqlite") as one, SqlEventLog.open(tmp_path / "two.sqlite") as two:
        one.append(events)
        seen: list[int] = []
        n_rows, last = export_events(one, tmp_path / "all.parquet", keys=KEYS, progress=seen.append)
        assert (n_rows, last) == (sum(max(1, len(event.items)) for event in events), 500)
        assert seen == sorted(seen)
        assert seen[-1] == n_rows
        assert len(seen) > 10
        assert import_events(two, tmp_path / "all.parquet", KEYS, now_ms=0) == Imported(500, 0, {})
        assert [event for _, event in two.read()] == events
        assert import_events(two, tmp_path / "all.parquet", KEYS, now_ms=0) == Imported(0, 500, {})
        assert same(read_event_log(one), read_events(tmp_path / "all.parquet"))
        assert len(read_event_log(one)) == sum(
            len(e.items) for e in events if e.user and e.event_type in ("view", "purchase")
        )
        assert export_events(one, tmp_path / "rest.parquet", keys=KEYS, after=498) == (6, 500)
        with pytest.raises(InvalidInput, match="were hashed with another secret; expected that of this log"):
            import_events(two, tmp_path / "all.parquet", UserKeys(b"o" * 32), now_ms=0)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".parquet", ".parquet", ".sqlite", ".sqlite"]


def shop_table(folder: Path, **columns: object) -> Path:
    at = [datetime(2024, 5, day, tzinfo=timezone.utc).replace(tzinfo=None) for day in (1, 2, 3, 4)]
    table = {
        "user_id": ["ann", "bob", None, "ann"],
        "item_id": ["a", "b", "a", None],
        "event_type": ["view", "purchase", "view", "search"],
        "timestamp": pa.array(at, pa.timestamp("us")),
    }
    pq.write_table(pa.table(table | columns), folder / "shop.parquet")
    return folder / "shop.parquet"


def test_a_table_of_a_shop_comes_in_with_hashed_users(tmp_path: Path) -> None:
    file = shop_table(
        tmp_path, quantity=pa.array([1, 3, None, 1]), price=[None, 2.5, None, None], event_id=[7, 8, 9, 10]
    )
    with SqlEventLog.open(tmp_path / "log") as log:
        assert import_events(log, file, KEYS, now_ms=5) == Imported(4, 0, {})
        events = [event for _, event in log.read()]
        assert [event.event_id for event in events] == ["7", "8", "9", "10"]
        assert [event.user for event in events] == [KEYS.key("ann"), KEYS.key("bob"), "", KEYS.key("ann")]
        assert events[1].items == (EventItem("b", 3, 7.5),)
        assert events[3].items == ()
        assert (events[0].at_ms, events[0].received_ms) == (1_714_521_600_000, 5)


def test_rows_without_ids_get_the_same_ones_each_time(tmp_path: Path) -> None:
    file = shop_table(tmp_path, quantity=[1, -2, 1, 1])
    with SqlEventLog.open(tmp_path / "log") as log:
        assert import_events(log, file, KEYS, now_ms=5) == Imported(3, 0, {"quantity not above 0": 1})
        assert import_events(log, file, KEYS, now_ms=6) == Imported(0, 3, {"quantity not above 0": 1})


def test_what_came_back_may_be_told_as_less_than_nothing(tmp_path: Path) -> None:
    file = shop_table(
        tmp_path, event_type=["return", "purchase", "view", "search"], quantity=[-2, 1, 1, 1], price=[2.5] * 4
    )
    with SqlEventLog.open(tmp_path / "log") as log:
        assert import_events(log, file, KEYS, now_ms=5).n_accepted == 4
        assert next(log.read())[1].items == (EventItem("a", 2, 5.0),)


def test_an_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "_ROWS", 16)
    events = made(200)
    with SqlEventLog.open(tmp_path / "one") as one, SqlEventLog.open(tmp_path / "two") as two:
        one.append(events)
        export_events(one, tmp_path / "all.parquet", keys=KEYS)

        def stop(n_rows: int) -> None:
            if n_rows > 100:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_events(two, tmp_path / "all.parquet", KEYS, now_ms=0, progress=stop)
        n_before = len(list(two.read()))
        assert 0 < n_before < 200
        assert import_events(two, tmp_path / "all.parquet", KEYS, now_ms=0) == Imported(200 - n_before, n_before, {})
        assert [event for _, event in two.read()] == events


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    with SqlEventLog.open(tmp_path / "log") as log:
        log.append(made(10))
        export_events(log, tmp_path / "all.parquet", keys=KEYS)
        before = (tmp_path / "all.parquet").read_bytes()

        def stop(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export_events(log, tmp_path / "all.parquet", keys=KEYS, progress=stop)
        assert (tmp_path / "all.parquet").read_bytes() == before
        assert not (tmp_path / "all.parquet.part").exists()


def test_the_commands(tmp_path: Path) -> None:
    file = shop_table(tmp_path)
    log = tmp_path / "log.sqlite"
    complained = likewise("events", "stats", log, status=2)
    assert "there is no log" in complained
    assert likewise("events", "import", log, file) == {"n_accepted": 4, "n_duplicates": 0, "left_out": {}}
    assert likewise("events", "stats", log)["n_events"] == {"purchase": 1, "search": 1, "view": 2}
    assert likewise("events", "export", log, tmp_path / "out.parquet") == {"n_rows": 4, "sequence": 4}
    assert likewise("events", "erase", log, "--user", "ann") == {"n_events": 2}
    assert likewise("events", "import", log, file) == {"n_accepted": 0, "n_duplicates": 4, "left_out": {}}
    assert likewise("events", "import", log, tmp_path / "out.parquet")["n_accepted"] == 0
    stats = likewise("events", "stats", log)
    # An erasure has its place in the log, too.
    assert (stats["n_users"], stats["n_erased"], stats["sequence"]) == (1, 1, 5)
    assert likewise("events", "erase", log, "--user", "", status=2)


def test_evaluate_reads_a_log_as_it_reads_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    n = 600
    table = {
        "user_id": [f"u{u}" for u in rng.integers(30, size=n)],
        "item_id": [f"i{i}" for i in rng.integers(20, size=n)],
        "event_type": ["purchase"] * n,
        "timestamp": pa.array(np.sort(rng.integers(0, 60 * 86_400_000, size=n)), pa.timestamp("ms")),
        "event_id": list(range(n)),
    }
    pq.write_table(pa.table(table), tmp_path / "events.parquet")
    likewise("events", "import", tmp_path / "log.sqlite", tmp_path / "events.parquet")
    asked = ["--cut", "1970-02-10", "--days", "15", "--source", "item-knn-trending", "--repeats"]
    of_file = likewise("evaluate", tmp_path / "events.parquet", *asked)
    of_log = likewise("evaluate", tmp_path / "log.sqlite", *asked)
    assert of_log["folds"] == of_file["folds"]
    file_rows, log_rows = (
        {row["source"]: row["overall"] for row in board["rows"] if row["source"] != "ials"}
        for board in (of_file, of_log)
    )  # iALS begins at random, by the order of the users, who have other names
    assert file_rows.keys() == log_rows.keys()
    for source, figures in file_rows.items():
        assert log_rows[source] == pytest.approx(figures), source
