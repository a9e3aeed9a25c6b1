"""Events over HTTP and gRPC, by a service in a process of its own; killed and started again."""

from __future__ import annotations

import json
import random
import re
import signal
import threading
import time
import urllib.error
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import grpc
import pytest

from matching.event_log import SqlEventLog
from matching.user_keys import UserKeys
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import EventServiceStub
from tests.databases import PostgresProcess
from tests.services import Service, Shop, Start


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("events") / "events.sqlite"


@pytest.fixture(scope="module")
def service(vector_shop: Shop, start_service: Start, log_file: Path) -> Iterator[Service]:
    with start_service(vector_shop, events={"log": str(log_file)}) as running:
        running.wait_until_ready()
        yield running


def view(event_id: str, **more: Any) -> dict[str, Any]:
    told = {
        "eventId": event_id,
        "eventType": "view",
        "userId": "canary@example.org",
        "items": [{"itemId": "item-0007"}],
    }
    return told | more


def told(answer: Any) -> list[tuple[str, str]]:
    return [(each["status"], each.get("reason", "")) for each in answer["results"]]


def test_http_and_grpc_take_the_same_events(service: Service, channel: grpc.Channel, log_file: Path) -> None:
    body = {"events": [view("h1"), view("h2", atMs=1), view("h1"), {"eventId": "h3"}]}
    status, _, answer = service.ask("POST", "/v1/events", body)
    assert (status, told(answer)) == (
        200,
        [("accepted", ""), ("rejected", "late"), ("duplicate", ""), ("rejected", "invalid")],
    )
    assert [each["eventId"] for each in answer["results"]] == ["h1", "h2", "h1", "h3"]
    item = pb.Event.Item(item_id="item-0007", quantity=2.5, value=9, position=0, propensity=0.5)
    event = pb.Event(event_id="g1", event_type="impression", session_id="s", items=[item], recommendation_id="r")
    again = pb.Event(event_id="h1", event_type="view", user_id="canary@example.org", items=[item])
    answered = EventServiceStub(channel).WriteEvents(pb.WriteEventsRequest(events=[event, again, pb.Event()]))
    kinds = pb.WriteEventsResponse
    assert [each.status for each in answered.results] == [kinds.ACCEPTED, kinds.DUPLICATE, kinds.REJECTED]
    assert answered.results[2].reason == "invalid"
    with SqlEventLog.open(log_file) as log:
        first, second = [event for _, event in log.read()]
    assert (first.event_id, first.items[0].quantity) == ("h1", 1)
    assert first.user == UserKeys.of_file(log_file.with_name("events.sqlite.key")).key("canary@example.org")
    assert (second.items[0].quantity, second.items[0].position, second.recommendation_id) == (2.5, 0, "r")
    assert service.ask("POST", "/v1/events", {"events": []})[0] == 400
    assert service.ask("POST", "/v1/events", {"events": [view(str(n)) for n in range(1001)]})[0] == 413


def test_events_are_counted_and_no_user_is_told(service: Service, log_file: Path) -> None:
    body = {"events": [view("m1"), view("m1"), view("m2", items=[{"itemId": "unknown"}]), view("m3", atMs=1 << 50)]}
    assert service.ask("POST", "/v1/events", body, {"x-request-id": "metered"})[0] == 200
    metrics = service.ask("GET", "/metrics")[2].decode()
    for line in (
        'likewise_events_total{event_type="view",outcome="duplicate"}',
        'likewise_events_total{event_type="other",outcome="future"}',
        'likewise_odd_events_total{reason="unknown_item"}',
    ):
        assert re.search(re.escape(line) + r" [1-9]", metrics), line
    line = service.log_line("metered")
    assert (line["endpoint"], line["q"]) == ("write_events", 4)
    assert "canary" not in metrics + service.log.read_text()
    for file in log_file.parent.iterdir():
        assert b"canary" not in file.read_bytes()


def test_the_documented_example_is_accepted(service: Service) -> None:
    operation = service.ask("GET", "/openapi.json")[2]["paths"]["/v1/events"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    answer = service.ask("POST", "/v1/events", example)[2]
    assert told(answer) == [("accepted", "")] * len(example["events"])


def test_a_service_without_a_log_takes_no_events(vector_service: Service) -> None:
    status, _, answer = vector_service.ask("POST", "/v1/events", {"events": [view("1")]})
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "start it with --events" in answer["error"]["message"]


def test_replicas_share_a_log_on_postgresql(
    vector_shop: Shop, start_service: Start, postgres: PostgresProcess, tmp_path: Path
) -> None:
    address = postgres.new_database()
    events = {"log": address, "user_key_file": str(tmp_path / "users.key")}
    with start_service(vector_shop, events=events) as one, start_service(vector_shop, events=events) as two:
        assert told(one.ask("POST", "/v1/events", {"events": [view("1"), view("2")]})[2]) == [("accepted", "")] * 2
        assert told(two.ask("POST", "/v1/events", {"events": [view("2"), view("3")]})[2]) == [
            ("duplicate", ""),
            ("accepted", ""),
        ]
    with SqlEventLog.open(address) as log:
        assert [(sequence, event.event_id) for sequence, event in log.read()] == [(1, "1"), (2, "2"), (3, "3")]
        assert len({event.user for _, event in log.read()}) == 1


def test_an_event_changes_the_next_answer_and_is_known_after_a_restart(
    vector_shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    asked = {"userId": "zoe", "items": ["item-0042"], "k": 5, "excludeSeen": True}
    sections: dict[str, Any] = {
        "events": {"log": str(tmp_path / "events.sqlite")},
        "recommend": {"sources": {"content": 1.0}},
    }

    def answered(service: Service) -> list[str]:
        status, _, slate = service.ask("POST", "/v1/recommend", asked)
        assert status == 200, slate
        return [item["itemId"] for item in slate["items"]]

    with start_service(vector_shop, **sections) as service:
        before = answered(service)
        seen = view("z1", userId="zoe", items=[{"itemId": before[0]}])
        assert told(service.ask("POST", "/v1/events", {"events": [seen]})[2]) == [("accepted", "")]
        after = answered(service)
        assert before[0] not in after
        assert after[:4] == before[1:]
    with start_service(vector_shop, **sections) as service:
        assert answered(service) == after


def killed_while_writing(shop: Shop, start: Start, folder: Path, n_kills: int) -> None:
    """Kill a service while clients write, `n_kills` times; then find every acknowledged event once, in order of its client."""
    log = folder / "events.sqlite"
    chance = random.Random(7)
    acknowledged: list[str] = []
    sent: set[str] = set()
    pending: dict[int, list[str]] = {}
    counters = [0] * 3

    def write(client: int, service: Service, stop: threading.Event) -> None:
        while not stop.is_set():
            if client not in pending:  # what got no answer is sent again
                pending[client] = [f"{client}/{counters[client] + n}" for n in range(chance.randrange(1, 40))]
                counters[client] += len(pending[client])
                sent.update(pending[client])
            events = [view(each, userId=f"u{each}") for each in pending[client]]
            try:
                status, _, answer = service.ask("POST", "/v1/events", {"events": events})
            except (OSError, HTTPException, urllib.error.URLError, json.JSONDecodeError):
                return
            if status == 200:
                assert {each["status"] for each in answer["results"]} <= {"accepted", "duplicate"}
                acknowledged.extend(pending.pop(client))

    for _ in range(n_kills):
        with start(shop, events={"log": str(log)}) as service:
            service.wait_until_ready()
            stop = threading.Event()
            threads = [threading.Thread(target=write, args=(client, service, stop)) for client in range(3)]
            for thread in threads:
                thread.start()
            n_before, until = len(acknowledged), time.monotonic() + 60
            while len(acknowledged) == n_before and time.monotonic() < until:
                time.sleep(0.005)
            time.sleep(chance.random() * 0.1)
            service.process.send_signal(signal.SIGKILL)
            service.process.wait()
            stop.set()
            for thread in threads:
                thread.join()
        assert len(acknowledged) > n_before
    with SqlEventLog.open(log) as opened:
        kept = list(opened.read())
    ids = [event.event_id for _, event in kept]
    assert len(set(ids)) == len(ids)
    assert set(acknowledged) <= set(ids) <= sent
    assert [sequence for sequence, _ in kept] == list(range(1, len(kept) + 1))
    for client in range(3):
        mine = [int(each.partition("/")[2]) for each in ids if each.startswith(f"{client}/")]
        assert mine == sorted(mine)


def test_a_kill_loses_no_acknowledged_event(vector_shop: Shop, start_service: Start, tmp_path: Path) -> None:
    killed_while_writing(vector_shop, start_service, tmp_path, 2)


@pytest.mark.slow
def test_many_kills_lose_no_acknowledged_event(vector_shop: Shop, start_service: Start, tmp_path: Path) -> None:
    killed_while_writing(vector_shop, start_service, tmp_path, 60)
