"""Events under load while the database and the broker are killed: what was told is kept, each once, and known at last."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from matching.event_log import SqlEventLog
from tests.brokers import BrokerProcess
from tests.databases import PostgresProcess
from tests.integration.test_event_stream import body, publish
from tests.services import Service, Shop, Start
from tests.waiting import wait_until


@pytest.mark.parametrize("n_kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_nothing_is_lost_or_doubled_when_database_and_broker_are_killed(
    vector_shop: Shop, start_service: Start, tmp_path: Path, n_kills: int
) -> None:
    chance = random.Random(3)
    database = PostgresProcess()
    database.start()
    address = database.new_database()
    told: set[str] = set()
    published = 0
    stop = threading.Event()

    def tell(client: int, services: list[Service]) -> None:
        """Send a batch until it is taken, by one replica or the other, then the next."""
        number = 0
        while not stop.is_set():
            batch = [f"h{client}/{number + at}" for at in range(chance.randrange(1, 60))]
            number += len(batch)
            item = [{"itemId": "item-0007"}]
            events = [{"eventId": each, "eventType": "view", "userId": each, "items": item} for each in batch]
            while True:
                status, _, answer = services[chance.randrange(2)].ask("POST", "/v1/events", {"events": events})
                if status == 200:
                    assert {each["status"] for each in answer["results"]} <= {"accepted", "duplicate"}
                    told.update(batch)
                    break
                assert status in (503, 504), answer
                time.sleep(0.05)

    try:
        with BrokerProcess(tmp_path / "broker") as broker:
            publish(broker, [body(0, 10)])
            events = {
                "log": address,
                "user_key_file": str(tmp_path / "users.key"),
                "stream": broker.url,
                "max_per_minute": 1_000_000,
            }
            with start_service(vector_shop, events=events) as one, start_service(vector_shop, events=events) as two:
                for each in (one, two):
                    each.wait_until_ready()
                clients = [threading.Thread(target=tell, args=(client, [one, two])) for client in range(3)]
                for client in clients:
                    client.start()
                published = 10
                for _ in range(n_kills):
                    publish(broker, [body(published + at, 10) for at in range(0, 200, 10)])
                    published += 200
                    time.sleep(chance.random() * 0.3)
                    database.kill()
                    publish(broker, [body(published, 10)])
                    published += 10
                    database.start()
                    n_before = len(told)
                    wait_until(lambda n=n_before: len(told) > n, "events after the database was back")  # type: ignore[misc]
                    broker.kill()
                    time.sleep(chance.random() * 0.3)
                    broker.start()
                stop.set()
                for client in clients:
                    client.join()
                told |= {f"e{at}" for at in range(published)}
                with SqlEventLog.open(address) as log:
                    wait_until(lambda: log.stats().sequence >= len(told), "all that was published", limit_s=120)
                    kept = list(log.read())
                ids = [event.event_id for _, event in kept]
                assert len(ids) == len(set(ids))
                assert set(ids) == told
                assert [sequence for sequence, _ in kept] == list(range(1, len(kept) + 1))
                for each in (one, two):
                    wait_until(lambda each=each: is_level(each), "both replicas know all")  # type: ignore[misc]
    finally:
        stop.set()
        database.remove()


def is_level(service: Service) -> bool:
    """Whether what a replica knows of users is level with the log."""
    metrics = service.ask("GET", "/metrics")[2].decode()
    return "likewise_event_log_lag_events 0.0" in metrics and "likewise_event_log_reachable 1.0" in metrics
