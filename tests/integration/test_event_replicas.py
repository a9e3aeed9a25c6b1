"""Services that share a log: what one takes changes what the others answer, and who is erased is gone from all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matching.store import Store
from matching.user_keys import UserKeys
from tests.commands import likewise
from tests.databases import PostgresProcess
from tests.redis_servers import RedisProcess
from tests.services import Service, Shop, Start
from tests.waiting import wait_until

ASKED: dict[str, Any] = {"items": ["item-0042"], "k": 5, "excludeSeen": True}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def events(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the settings of a log that is there, and empty."""
    folder = tmp_path_factory.mktemp("events")
    keys = {"user_key_file": str(folder / "users.key")}
    if request.param == "sqlite":
        return {"log": str(folder / "events.sqlite"), **keys}
    server: PostgresProcess = request.getfixturevalue("postgres")
    return {"log": server.new_database(), **keys}


@pytest.fixture(scope="module")
def replicas(vector_shop: Shop, start_service: Start, events: dict[str, Any]) -> Iterator[tuple[Service, Service]]:
    asked: dict[str, Any] = {"events": events, "recommend": {"sources": {"content": 1.0}}}
    with start_service(vector_shop, **asked) as one, start_service(vector_shop, **asked) as two:
        for each in (one, two):
            each.wait_until_ready()
        yield one, two


def slate(service: Service, user: str, session: str = "") -> list[str]:
    status, _, answer = service.ask("POST", "/v1/recommend", {**ASKED, "userId": user, "sessionId": session})
    assert status == 200, answer
    return [item["itemId"] for item in answer["items"]]


def view(event_id: str, item: str, **who: str) -> dict[str, Any]:
    return {"eventId": event_id, "eventType": "view", "items": [{"itemId": item}], **who}


def tell(service: Service, *told: dict[str, Any]) -> None:
    _, _, answer = service.ask("POST", "/v1/events", {"events": told})
    assert {each["status"] for each in answer["results"]} == {"accepted"}


def test_replicas_know_of_each_others_events_of_imports_and_of_erasures(
    replicas: tuple[Service, Service], events: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    first, second, third, *_ = slate(two, "zoe")
    tell(one, view("1", first, userId="zoe"), view("2", second, userId="zed"))
    assert first not in slate(one, "zoe")
    wait_until(lambda: first not in slate(two, "zoe"), "what the other took")
    row = {"user_id": "zoe", "item_id": second, "event_type": "view", "timestamp": datetime.now(timezone.utc)}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "history.parquet")
    monkeypatch.setenv("LIKEWISE__EVENTS__USER_KEY_FILE", events["user_key_file"])
    likewise("events", "import", events["log"], tmp_path / "history.parquet")
    for each in replicas:
        wait_until(lambda each=each: second not in slate(each, "zoe"), "what was imported")  # type: ignore[misc]
    tell(two, view("3", third, sessionId="visit"), view("4", third, userId="zoe", sessionId="visit"))
    assert likewise("events", "erase", events["log"], "--user", "zoe") == {"n_events": 4}
    for each in replicas:
        wait_until(lambda each=each: first in slate(each, "zoe", "visit"), "the erasure")  # type: ignore[misc]
        assert slate(each, "zoe", "visit")[:3] == [first, second, third]
        assert second not in slate(each, "zed")
        metrics = each.ask("GET", "/metrics")[2].decode()
        assert re.search(r"likewise_event_log_reachable 1", metrics)
        assert re.search(r"likewise_event_log_lag_events 0", metrics)
    _, _, answer = one.ask("POST", "/v1/events", {"events": [view("5", first, userId="zoe")]})
    assert answer["results"][0]["status"] == "duplicate"


def test_a_visit_becomes_its_users_on_every_replica(replicas: tuple[Service, Service]) -> None:
    one, two = replicas
    first, second, *_ = slate(two, "ann")
    tell(one, view("v1", first, sessionId="v"))
    wait_until(lambda: first not in slate(two, "", "v"), "the visit")
    assert first in slate(two, "ann")
    assert first not in slate(two, "ann", "v")  # a request that names both is answered from both
    tell(two, view("v2", second, userId="ann", sessionId="v"))
    assert not {first, second} & set(slate(two, "ann"))
    wait_until(lambda: not {first, second} & set(slate(one, "ann")), "the merge")
    assert first in slate(one, "", "v")


def test_replicas_with_users_in_redis_go_on_without_it_and_catch_up(
    vector_shop: Shop, start_service: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisProcess()
    server.start()
    log = tmp_path / "events.sqlite"
    asked: dict[str, Any] = {
        "events": {"log": str(log)},
        "recommend": {"sources": {"content": 1.0}, "redis": server.url(), "redis_timeout_s": 1},
    }
    try:
        with start_service(vector_shop, **asked) as one, start_service(vector_shop, **asked) as two:
            for each in (one, two):
                each.wait_until_ready()
            first, second, third, *_ = slate(one, "zoe")
            tell(one, view("1", first, userId="zoe"))
            assert first not in slate(one, "zoe")
            assert first not in slate(two, "zoe")  # at once: both ask the same Redis
            server.kill()
            status, _, answer = two.ask("POST", "/v1/recommend", {**ASKED, "userId": "zoe"})
            assert (status, answer["degraded"], len(answer["items"])) == (200, True, 5)
            assert re.search(r"likewise_lost_histories_total [1-9]", two.ask("GET", "/metrics")[2].decode())
            tell(two, view("2", second, userId="zoe"))  # the log takes it all the same
            server.start()
            for each in (one, two):
                wait_until(lambda each=each: not {first, second} & set(slate(each, "zoe")), "what it forgot")  # type: ignore[misc]
            tell(two, view("3", third, userId="zoe"))
            assert third not in slate(one, "zoe")
            likewise("events", "erase", log, "--user", "zoe")
            wait_until(lambda: slate(one, "zoe")[:3] == [first, second, third], "the erasure")
            assert slate(two, "zoe")[:3] == [first, second, third]
            assert not one.ask("POST", "/v1/recommend", {**ASKED, "userId": "zoe"})[2]["degraded"]
        server.kill()
        with start_service(vector_shop, **asked) as late:
            late.wait_until_ready()  # a service starts without Redis
            assert late.ask("POST", "/v1/recommend", {**ASKED, "userId": "zoe"})[2]["degraded"]
    finally:
        server.remove()


def test_nothing_of_an_erased_user_is_left_on_disk_nor_in_what_is_trained_next(tmp_path: Path) -> None:
    log, user = tmp_path / "events.sqlite", "canary@example.org"
    rows = [
        {
            "event_id": f"{who}-{at}",
            "user_id": who,
            "session_id": f"visit-of-{who}",
            "item_id": f"item-{at % 7}",
            "event_type": "purchase",
            "timestamp": datetime(2026, 1, 1 + at % 20, tzinfo=timezone.utc),
            "query": f"asked by {who}",
        }
        for who in (user, *(f"user-{number}" for number in range(12)))
        for at in range(9)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "history.parquet")
    likewise("events", "import", log, tmp_path / "history.parquet")
    key = UserKeys.of_file(tmp_path / "events.sqlite.key").key(user)
    assert key.encode() in log.read_bytes()
    assert likewise("events", "erase", log, "--user", user) == {"n_events": 9}
    likewise("events", "export", log, tmp_path / "events.parquet")
    Store(tmp_path / "store", create=True)
    for source in ("popular", "item-knn", "sequential-rules", "ials"):
        likewise("train", source, "--events", tmp_path / "events.parquet", "--store", tmp_path / "store")
    (tmp_path / "history.parquet").unlink()
    table = pq.read_table(tmp_path / "events.parquet").to_pylist()
    assert len(table) == 12 * 9
    assert not re.search(rf"canary|{key}", json.dumps(table, default=str))
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        assert b"canary" not in file.read_bytes(), file
        assert key.encode() not in file.read_bytes(), file
