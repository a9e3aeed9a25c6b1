"""Events from a real broker, with either side killed on the way: each is kept, and once."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import nats
import pytest

from matching.event_log import SqlEventLog
from tests.brokers import BrokerProcess
from tests.services import Shop, Start
from tests.waiting import wait_until

STREAM = "likewise-events"


def publish(broker: BrokerProcess, bodies: list[bytes]) -> None:
    """Have messages stored."""

    async def send() -> None:
        client = await nats.connect(broker.url)
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=[STREAM])
        for body in bodies:
            await stream.publish(STREAM, body)
        await client.close()

    asyncio.run(send())


def body(first: int, n: int) -> bytes:
    item = [{"itemId": "item-0007"}]
    events = [
        {"eventId": f"e{at}", "eventType": "view", "userId": "ann", "items": item} for at in range(first, first + n)
    ]
    return json.dumps({"events": events}).encode()


def kept(log: Path) -> list[str]:
    with SqlEventLog.open(log) as opened:
        return [event.event_id for _, event in opened.read()]


def test_events_of_a_stream_survive_restarts_of_either_side(
    vector_shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    log = tmp_path / "events.sqlite"
    expected = [f"e{at}" for at in range(3_000)]
    with BrokerProcess(tmp_path / "broker") as broker:
        events = {"log": str(log), "stream": broker.url, "max_per_minute": 10}  # a queue is no robot
        publish(broker, [b"no events", *(body(at, 10) for at in range(0, 1_000, 10))])
        with start_service(vector_shop, events=events) as service:
            wait_until(lambda: len(kept(log)) > 0, "the first events")
            service.process.send_signal(signal.SIGKILL)
            service.process.wait()
        publish(broker, [body(at, 100) for at in range(900, 2_000, 100)])  # some of them again
        with start_service(vector_shop, events=events) as service:
            wait_until(lambda: len(kept(log)) >= 2_000, "what waited")
            broker.kill()
            broker.start()
            publish(broker, [body(2_000, 1_000)])
            wait_until(lambda: len(kept(log)) >= 3_000, "what came after the broker was back")
    assert sorted(kept(log), key=lambda each: int(each[1:])) == expected


@pytest.mark.parametrize("address", ["nats://user:secret@host:1", "http://host", "nats://"])
def test_an_address_that_no_broker_has_is_refused(address: str) -> None:
    from serving import EventSettings

    with pytest.raises(ValueError, match="stream"):
        EventSettings(log="x", stream=address)
