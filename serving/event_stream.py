"""Events from a NATS JetStream stream: what the shop's own programs publish is taken as if it were posted.

A message is acknowledged when its events are on disk. One that is delivered again, because an acknowledgement was lost or this
service or the broker ended, changes nothing: its events have their ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import nats.errors
import nats.js.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from matching.errors import InvalidInput, LikewiseError
from matching.live.stream_log import Broker
from serving.event_intake import EventIntake, EventObserver, Malformed, ToldEvent
from serving.wire.event_json import parse_events

_log = logging.getLogger(__name__)
_DURABLE: Final = "likewise"
_RETRY_S: Final = 0.5
_ASK_S: Final = 2.0
_ACK_S: Final = 30.0  # a message that is not acknowledged by then is delivered again
_FETCHED: Final = 64


class EventStream:
    """Follows a stream until it is closed; belongs to one event loop. A lost broker is waited for."""

    def __init__(
        self, broker: Broker, name: str, intake: EventIntake, *, max_batch: int, observer: EventObserver
    ) -> None:
        self._broker = broker
        self._name = name
        self._intake = intake
        self._max_batch = max_batch
        self._observer = observer
        self._task = asyncio.get_running_loop().create_task(self._run(), name="event-stream")

    async def close(self) -> None:
        """Stop; what is not acknowledged is delivered again to whoever follows next."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        turn = 0
        while True:
            client = Client()
            server = self._broker.servers[turn % len(self._broker.servers)]
            try:
                await self._session(client, server)
            except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
                _log.warning("the stream of events %s: %s is lost: %s", self._name, server, type(error).__name__)
            except LikewiseError as error:
                _log.warning("the stream of events %s waits: %s", self._name, error)
            except Exception:  # the top of the task: a next session may fare better
                _log.exception("the stream of events %s broke", self._name)
            finally:
                with contextlib.suppress(nats.errors.Error, OSError, asyncio.TimeoutError):
                    await asyncio.wait_for(client.close(), _ASK_S)
            turn += 1
            await asyncio.sleep(_RETRY_S)

    async def _session(self, client: Client, server: str) -> None:
        given = {
            "user": self._broker.user,
            "password": self._broker.password,
            "user_credentials": self._broker.credentials_file,
            "tls": self._broker.tls,
        }
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        connecting = client.connect(
            server,
            allow_reconnect=False,
            connect_timeout=int(_ASK_S),
            ping_interval=1,
            max_outstanding_pings=2,
            error_cb=_ignored,
            **options,
        )
        await asyncio.wait_for(connecting, 1.5 * _ASK_S)
        stream = client.jetstream(timeout=_ASK_S)
        messages = await self._subscribed(stream)
        while client.is_connected:
            try:
                fetched = await messages.fetch(_FETCHED, timeout=_ASK_S)
            except nats.errors.TimeoutError:
                continue
            await self._take(fetched)

    async def _subscribed(self, stream: JetStreamContext) -> JetStreamContext.PullSubscription:
        try:
            info = await stream.stream_info(self._name)
        except nats.js.errors.NotFoundError:
            info = await stream.add_stream(
                api.StreamConfig(name=self._name, subjects=[self._name], storage=api.StorageType.FILE)
            )
        subjects = info.config.subjects or [self._name]
        wanted = api.ConsumerConfig(ack_policy=api.AckPolicy.EXPLICIT, ack_wait=_ACK_S, max_deliver=-1)
        return await stream.pull_subscribe(
            subjects[0] if len(subjects) == 1 else "", durable=_DURABLE, stream=self._name, config=wanted
        )

    async def _take(self, messages: Sequence[Msg]) -> None:
        told = [each for message in messages for each in self._parsed(message)]
        loop = asyncio.get_running_loop()
        try:
            for start in range(0, len(told), self._max_batch):
                await loop.run_in_executor(None, self._write, told[start : start + self._max_batch])
        except LikewiseError:
            for message in messages:
                await message.nak()  # else they come again after _ACK_S only
            raise
        for message in messages:
            await message.ack()

    def _write(self, told: Sequence[ToldEvent | Malformed]) -> None:
        self._intake.write(told, is_queued=True)

    def _parsed(self, message: Msg) -> list[ToldEvent | Malformed]:
        """The events of a message; one that cannot be read is counted, and not asked for again."""
        try:
            body = orjson.loads(message.data)
            events = parse_events(body if isinstance(body, dict) else {})
        except (orjson.JSONDecodeError, InvalidInput):
            self._observer.odd_event("unreadable_message")
            return []
        at_ms = int(message.metadata.timestamp.timestamp() * 1e3)
        return [
            replace(each, at_ms=at_ms) if isinstance(each, ToldEvent) and each.at_ms is None else each
            for each in events
        ]


async def _ignored(_: Exception) -> None:
    """Take what the client tells beside what it raises; without this it prints it."""
