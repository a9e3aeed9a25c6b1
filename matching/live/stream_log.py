"""The write log as a NATS JetStream stream: several processes append to it, and all of them follow it.

Each append is one message. The broker orders the messages and acknowledges one when it has stored it; every process counts their
records in that order and so gives them the same sequences. A message carries the id of its request, by which the broker leaves
out repeats within the duplicate window, and every process those that it remembers.

A process follows the stream with a consumer of its own, which it makes anew behind the last message that it read whenever the
connection was lost or a message is missing. What is read is checked: every message by its checksum, no message left out, the
counts of other writers against its own, and after each connection that the last message is still the one that was read.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from matching.errors import CorruptArtifact, InvalidInput, LikewiseError, LimitExceeded, NotFound, Unavailable
from matching.live.batch import Batch, unpack_batch
from matching.live.log import Appended, Reach, Record, check_append, check_covered, not_yet, truncated
from matching.live.tail import Tail

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_ASK_S = 1.0  # an answer of the broker that takes longer counts as none
_POLL_S = 0.5
_RETRY_S = 0.2
_SILENCE_S = 3.0  # a consumer that sends neither messages nor heartbeats for so long is made anew
_FETCHED = 256  # messages asked for at once
_FETCHED_BYTES = 1 << 23
_MESSAGE_ROOM = 4096  # what a message may have beside its payload
# What the client raises when the connection ends under it; AttributeError where it has let go of the transport already.
_TROUBLES = (futures.CancelledError, asyncio.TimeoutError, nats.errors.Error, OSError, ValueError, AttributeError)
_ID = "likewise-log"
_BEFORE = "likewise-sequence-before"


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the brokers are, and who asks.

    Attributes:
        servers: `nats://host:port` or `tls://host:port` of each, without credentials.
        user: with `password`.
        credentials_file: of a JWT and its seed, as `nsc` writes them.
        tls: how connections are encrypted; None for not at all, or as the servers ask for.
    """

    servers: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    credentials_file: str | None = None
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        """Return where they are, and nothing of who asks."""
        return f"Broker({', '.join(self.servers)})"


class _Lost(Exception):  # not for callers: the session ends, and the next one begins
    """The broker, or a message of it, does not come."""


class StreamLog:
    """A stream with any number of writers; made by `open`, a context manager.

    Thread-safe. One thread of its own talks with the broker. A lost broker stops appends, which raise Unavailable within
    `append_timeout_s`, and nothing else; they go on when it is back.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        first_sequence: int,
        n_copies: int,
        duplicate_window_s: float,
        append_timeout_s: float,
        n_request_ids: int,
        held_bytes: int,
    ) -> None:
        self._broker = broker
        self._name = name
        self._config = api.StreamConfig(
            name=name,
            subjects=[name],
            storage=api.StorageType.FILE,
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.NEW,  # a full stream refuses writes, and forgets none
            num_replicas=n_copies,
            duplicate_window=duplicate_window_s,
            deny_delete=True,
            allow_direct=True,
            metadata={_ID: os.urandom(16).hex(), _BEFORE: str(first_sequence - 1)},
        )
        self._append_timeout_s = append_timeout_s
        self._new_tail: Callable[[int, int | None], Tail] = lambda place, before: Tail(
            place, before, n_request_ids=n_request_ids, held_bytes=held_bytes
        )
        self._lock = threading.Lock()
        self._progress = threading.Condition(self._lock)  # notified when something was read, lost, failed or closed
        self._tail: Tail | None = None
        self._stream_id = ""
        self._failure: str | None = None
        self._lost: str | None = "the broker was not reached yet"
        self._is_closed = False
        self._reached_place = 0  # of the newest message that the broker told of
        self._n_bytes = 0
        self._asked_at = -float("inf")
        self._lost_at = 0.0
        self._max_payload = 1 << 20
        self._client: Client | None = None  # of the session that may append; the loop's own, as all below
        self._heard_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()  # set for whoever waits for a message or a session, then replaced
        self._stopping = asyncio.Event()
        self._trouble: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="stream-log", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        broker: Broker,
        name: str,
        *,
        first_sequence: int = 1,
        n_copies: int = 1,
        duplicate_window_s: float = 600.0,
        append_timeout_s: float = 5.0,
        open_timeout_s: float = 10.0,
        n_request_ids: int = 1 << 16,
        held_bytes: int = 1 << 26,
    ) -> StreamLog:
        """Open a stream and read all that it retains, or make a new one.

        Args:
            name: of the stream and its subject: letters, digits, `-`, `_` and `=`.
            first_sequence: of a new stream; one that is there keeps its own.
            n_copies: brokers of a cluster that keep a new stream; an append waits for most of them.
            duplicate_window_s: how long the broker of a new stream remembers request ids.
            append_timeout_s: how long an append waits for the broker before it raises.
            open_timeout_s: how long to wait for a broker; reading takes as long as it takes.
            n_request_ids: how many request ids of the retained messages are remembered, the newest.
            held_bytes: of the newest messages that stay in memory; older ones are read from the broker again.

        Raises:
            InvalidInput: the stream is not kept in files.
            Unavailable: no broker answers, or it has no JetStream, or refuses the credentials.
            CorruptArtifact: a message is damaged or missing, or cannot be counted.
        """
        log = cls(
            broker,
            name,
            first_sequence=first_sequence,
            n_copies=n_copies,
            duplicate_window_s=duplicate_window_s,
            append_timeout_s=append_timeout_s,
            n_request_ids=n_request_ids,
            held_bytes=held_bytes,
        )
        try:
            log._await_tail(open_timeout_s)
        except BaseException:
            log.close()
            raise
        return log

    def __enter__(self) -> StreamLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def first_sequence(self) -> int:
        """The sequence of the oldest record that is retained, or will be."""
        return self._known.first_sequence

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest record that was read; first_sequence - 1 where none is retained."""
        return self._known.last_sequence

    @property
    def proved_sequence(self) -> int:
        """The sequence of the newest record that was read: the broker has stored what it sends."""
        return self._known.last_sequence

    @property
    def n_bytes(self) -> int:
        """Bytes of all messages that are retained, as the broker said last."""
        return self._n_bytes

    @property
    def failure(self) -> str | None:
        """Why nothing is acknowledged: the broker is lost, and may come back, or the stream is wrong, for good."""
        return self._failure or self._lost

    @property
    def is_over(self) -> bool:
        """Whether the log is closed, or the stream is not what was read of it before."""
        return self._is_closed or self._failure is not None

    @property
    def reach(self) -> Reach:
        """How far the broker said that the stream reaches; it is asked twice a second."""
        with self._lock:
            tail = self._known
            n_unread = max(0, self._reached_place - tail.next_place + 1)  # messages, each of a record at least
            at = self._lost_at if self._lost else time.monotonic()
            return Reach(tail.last_sequence + n_unread, at - self._asked_at, self._lost is None)

    def append(self, payloads: Sequence[bytes], *, request_id: str | None = None) -> Appended:
        """Append records, all or none of them, and return when the broker has stored them and they were read back.

        Raises:
            InvalidInput: no payloads, or an empty request id.
            LimitExceeded: more bytes than the broker takes in a message (its `max_payload`).
            Unavailable: the broker is lost or refuses, or the log is over. The records may be there all the same: repeat the
                request with its request id.
        """
        encoded = check_append(payloads, request_id)
        with self._lock:
            self._check_open("append")
            self._check_failure("append")
        if request_id is not None and (known := self.answered(request_id)) is not None:
            return known
        n_bytes = sum(map(len, payloads)) + 4 * len(payloads)
        if n_bytes > self._max_payload - _MESSAGE_ROOM:
            raise LimitExceeded(
                f"[append] {len(payloads)} records take {n_bytes} bytes; the broker takes {self._max_payload} in a message: send "
                "fewer at once, or raise its max_payload"
            )
        append_id = os.urandom(16)
        message_id = "a" + append_id.hex() if request_id is None else "r" + base64.urlsafe_b64encode(encoded).decode()
        return self._asked("append", self._append(append_id, message_id, request_id or "", payloads))

    def answered(self, request_id: str) -> Appended | None:
        """Return how a request was answered, None for one that this process has not read."""
        with self._lock:
            known = self._known.answered(request_id)
        return None if known is None else replace(known, is_repeat=True)

    def newest(self, *, timeout_s: float) -> int:
        """Ask the broker for the newest message, wait until it was read, and return the sequence of its last record.

        Raises:
            Unavailable: the broker is lost, or the time ran out.
        """
        with self._lock:
            self._check_open("read")
            self._check_failure("read")
        return self._asked("read", self._newest(timeout_s))

    def read(self, first_sequence: int) -> Iterator[Record]:
        """Yield the records from a sequence on, in order, until there is no newer one.

        The newest come from memory, older ones from the broker.

        Raises:
            NotFound: the sequence was truncated or lies in the future.
            CorruptArtifact: while iterating, a message is not what it was.
            Unavailable: the log is closed, or while iterating, the broker is lost.
        """
        with self._lock:
            self._check_open("read")
            if first_sequence > self._known.last_sequence + 1:
                raise not_yet(first_sequence, self._known.last_sequence)
            if first_sequence < self._known.first_sequence:
                raise truncated(first_sequence, self._known.first_sequence)
        return self._records(first_sequence)

    def wait(self, sequence: int, *, timeout_s: float) -> bool:
        """Wait until a record was read; return whether it was. A lost broker is waited for.

        Raises:
            Unavailable: it was not, and the log is over.
        """
        with self._progress:
            self._progress.wait_for(lambda: self._known.last_sequence >= sequence or self.is_over, timeout_s)
            if self._known.last_sequence >= sequence:
                return True
            self._check_open("wait")
            self._check_failure("wait")
            return False

    def truncate(self, covered_sequence: int) -> int:
        """Drop the messages whose records are all covered by a sealed version; return the oldest sequence that is retained.

        The newest message stays, and those before it that its writer had not read. Every process that has the stream open
        learns of it within a second. One that has not read that far yet, or opens the stream with an older version, finds its
        next record truncated.

        Raises:
            InvalidInput: it was not acknowledged yet.
            Unavailable: the broker is lost or refuses; all records are there still.
        """
        with self._lock:
            self._check_open("truncate")
            self._check_failure("truncate")
            check_covered(covered_sequence, self._known.last_sequence)
            place = self._known.droppable(covered_sequence)
            if place < self._known.first_place:
                return self._known.first_sequence
        self._asked("truncate", self._purge(place))
        return self.first_sequence

    def close(self) -> None:
        """Leave the broker; appends that wait for it raise. May be called twice."""
        with self._progress:
            self._is_closed = True
            self._progress.notify_all()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    # for the callers' threads

    @property
    def _known(self) -> Tail:
        assert self._tail is not None, "open waits for it"
        return self._tail

    def _await_tail(self, timeout_s: float) -> None:
        """Wait until all that the broker has was read."""
        deadline = time.monotonic() + timeout_s
        with self._progress:
            while not (self._tail and self._tail.is_counted and self._tail.next_place > self._reached_place):
                self._check_failure("open")
                if self._client is None and time.monotonic() > deadline:
                    raise Unavailable(
                        f"[open] stream {self._name!r}: {self._lost}; start the broker, or correct the settings"
                    )
                self._progress.wait(0.1)

    def _asked(self, operation: str, work: Coroutine[Any, Any, T]) -> T:
        """Return what the loop's thread finds out."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise _closed(operation) from None
        while not futures.wait([future], _ASK_S).done:
            if not self._thread.is_alive():  # it ended between the check above and the asking
                raise _closed(operation)
        try:
            return future.result()
        except LikewiseError:
            raise
        except _TROUBLES as error:
            self._check_open(operation)
            raise Unavailable(f"[{operation}] {_told(error)}; reads go on, ask again later") from error

    def _records(self, sequence: int) -> Iterator[Record]:
        while True:
            with self._lock:
                self._check_open("read")
                tail = self._known
                if sequence > tail.last_sequence:
                    return
                if sequence < tail.first_sequence:
                    raise truncated(sequence, tail.first_sequence)
                place = tail.place_of(sequence)
                held = tail.held(place)
            batches = [held] if held else self._asked("read", self._fetch(place))
            for at, batch in enumerate(batches, place):
                with self._lock:
                    if at < tail.first_place:
                        raise truncated(sequence, tail.first_sequence)
                    where = tail.where(at)
                if len(batch.payloads) != where.last_sequence - where.first_sequence + 1:
                    raise CorruptArtifact(f"[read] message {at} of stream {self._name!r} has changed since it was read")
                for found, payload in enumerate(batch.payloads, where.first_sequence):
                    if found >= sequence:
                        yield Record(found, payload)
                sequence = where.last_sequence + 1

    def _check_open(self, operation: str) -> None:
        if self._is_closed:
            raise _closed(operation)

    def _check_failure(self, operation: str) -> None:
        if self._failure is not None:
            raise Unavailable(f"[{operation}] {self._failure}; nothing is acknowledged any more, reads go on")

    # the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._sessions())
            rest = asyncio.all_tasks(self._loop)
            for task in rest:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        finally:
            self._loop.close()

    async def _sessions(self) -> None:
        """Talk with the broker until the log is closed, in one session after the other."""
        for turn in itertools.count():
            if self._stopping.is_set() or (self._failure is not None and self._tail is None):
                return
            client = Client()
            try:
                await self._session(client, self._broker.servers[turn % len(self._broker.servers)])
            except (CorruptArtifact, NotFound, InvalidInput) as error:
                self._fail(str(error))
            except (_Lost, nats.errors.Error, OSError, asyncio.TimeoutError) as error:
                self._lose(f"the broker is lost: {_told(error)}")
            except Exception as error:  # the top of the thread: a next session may fare better
                _logger.exception("the session with the broker broke")
                self._lose(f"the broker is lost: {_told(error)}")
            finally:
                self._client = None
                with contextlib.suppress(Exception):  # what is left of the connection is of no use
                    await asyncio.wait_for(client.close(), _ASK_S)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _RETRY_S)

    async def _session(self, client: Client, server: str) -> None:
        self._trouble = trouble = self._loop.create_future()
        trouble.add_done_callback(lambda future: future.cancelled() or future.exception())

        async def closed() -> None:
            self._end_session(_Lost(f"{server} closed the connection"))

        await self._connect(client, server, closed)
        stream = client.jetstream(timeout=_ASK_S)
        asked_at = time.monotonic()
        info = await self._found(stream)
        if self._failure is None:
            await self._check_stream(stream, info)
            self._learn(info, asked_at)
            self._max_payload = client.max_payload
            await self._follow(client, stream, trouble)
            self._client = client
        self._regain()  # after a failure the stream is only asked how far it reaches, which tells that this process is behind
        await self._watch(stream, trouble)

    async def _connect(self, client: Client, server: str, closed: Callable[[], Coroutine[Any, Any, None]]) -> None:
        told: list[str] = []

        async def note(error: Exception) -> None:
            told.append(_told(error))

        try:
            await asyncio.wait_for(
                client.connect(**self._options(server), closed_cb=closed, error_cb=note), 1.5 * _ASK_S
            )
        except asyncio.TimeoutError:
            raise _Lost(f"{server}: {told[-1] if told else 'no answer'}") from None

    def _options(self, server: str) -> dict[str, Any]:
        broker = self._broker
        options: dict[str, Any] = {
            "servers": [server],
            "name": f"likewise {self._name}",
            "allow_reconnect": False,
            "connect_timeout": _ASK_S,
            "ping_interval": 1,
            "max_outstanding_pings": 2,
            "reconnect_time_wait": 0.1,  # between attempts to connect at all
        }
        given = {
            "user": broker.user,
            "password": broker.password,
            "user_credentials": broker.credentials_file,
            "tls": broker.tls,
        }
        return {**options, **{name: value for name, value in given.items() if value is not None}}

    async def _found(self, stream: JetStreamContext) -> api.StreamInfo:
        """Return the stream as the broker knows it, which is made where this process has never seen it."""
        try:
            return await stream.stream_info(self._name)
        except nats.js.errors.NotFoundError:
            if self._tail is not None:
                raise CorruptArtifact(
                    f"[read] stream {self._name!r} is gone from the broker; restore its data, or begin with the newest version"
                ) from None
        try:
            return await stream.add_stream(self._config)
        except nats.js.errors.BadRequestError:
            return await stream.stream_info(self._name)  # another process was faster

    async def _check_stream(self, stream: JetStreamContext, info: api.StreamInfo) -> None:
        """Check that the stream is the one that was read, and goes on where reading stopped."""
        metadata = info.config.metadata or {}
        stream_id, before = metadata.get(_ID), metadata.get(_BEFORE, "")
        if stream_id is None or not before.isdigit():
            raise InvalidInput(
                f"[open] stream {self._name!r} was not made by Likewise; choose another name, or delete the stream"
            )
        if info.config.storage != api.StorageType.FILE:
            raise InvalidInput(f"[open] stream {self._name!r} is kept in {info.config.storage}; expected files")
        first, last = info.state.first_seq, info.state.last_seq
        if self._tail is None:
            place = max(1, first)
            with self._lock:
                self._stream_id, self._tail = stream_id, self._new_tail(place, int(before) if place == 1 else None)
            if place > last and place > 1:
                raise CorruptArtifact(
                    f"[open] stream {self._name!r} was emptied behind message {last}, and nothing in it tells how many records "
                    "there were; delete it and begin with the newest version"
                )
            return
        read = self._known.next_place - 1
        if stream_id != self._stream_id or last < read:
            raise CorruptArtifact(
                f"[read] stream {self._name!r} ends at message {last} and {read} was read: the broker lost acknowledged writes, "
                "or the stream was made anew; restore its data, or begin with the newest version"
            )
        if first > read + 1:
            raise NotFound(
                f"[read] stream {self._name!r} was truncated up to message {first - 1} and only {read} was read; begin with the "
                "newest version"
            )
        held = self._known.held(read)
        if held is not None and first <= read:
            message = await stream.get_msg(self._name, read)
            if unpack_batch(message.data or b"", read).append_id != held.append_id:
                raise CorruptArtifact(
                    f"[read] message {read} of stream {self._name!r} is not the one that was read: the broker lost acknowledged "
                    "writes; begin with the newest version"
                )

    async def _follow(self, client: Client, stream: JetStreamContext, trouble: asyncio.Future[None]) -> None:
        """Let the broker send what comes behind the last message that was read."""
        inbox = client.new_inbox()
        self._heard_at = time.monotonic()

        async def arrived(message: Msg) -> None:
            self._heard_at = time.monotonic()
            status = (message.headers or {}).get("Status")
            if status is not None:
                stalled = message.reply or (message.headers or {}).get("Nats-Consumer-Stalled")
                if stalled:
                    await client.publish(stalled)
                return
            try:
                self._arrived(message)
            except (LikewiseError, _Lost) as error:
                if not trouble.done():
                    trouble.set_exception(error)

        await client.subscribe(inbox, cb=arrived, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await stream.add_consumer(
            self._name,
            api.ConsumerConfig(
                deliver_subject=inbox,
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._known.next_place,
                ack_policy=api.AckPolicy.NONE,
                replay_policy=api.ReplayPolicy.INSTANT,
                flow_control=True,
                idle_heartbeat=1.0,
                inactive_threshold=5.0,
                mem_storage=True,
                num_replicas=1,
            ),
        )

    def _arrived(self, message: Msg) -> None:
        place = message.metadata.sequence.stream
        with self._progress:
            tail = self._known
            if place < tail.next_place or self._failure is not None:
                return
            if place > tail.next_place:
                raise _Lost(f"message {tail.next_place} did not come before {place}")
            tail.take(unpack_batch(message.data, place))
            self._progress.notify_all()
        self._tell()

    async def _watch(self, stream: JetStreamContext, trouble: asyncio.Future[None]) -> None:
        """Ask how far the stream reaches until the session ends; return when the log is closed."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        stuck_at = 0
        try:
            while True:
                ends: list[asyncio.Future[Any]] = [trouble, stopping]
                await asyncio.wait(ends, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
                if trouble.done():
                    await self._check_missing(stream, trouble.exception())
                if stopping.done():
                    return
                began = time.monotonic()
                try:
                    info = await stream.stream_info(self._name)
                except asyncio.TimeoutError:
                    if time.monotonic() - began > 3 * _ASK_S:
                        continue  # this process was stopped, not the broker
                    raise
                self._learn(info, began)
                is_behind = self._known.next_place <= info.state.last_seq and self._failure is None
                if is_behind and stuck_at == self._known.next_place and began - self._heard_at > _SILENCE_S:
                    raise _Lost(f"message {stuck_at} does not come")
                stuck_at = self._known.next_place
        finally:
            stopping.cancel()

    async def _check_missing(self, stream: JetStreamContext, error: BaseException | None) -> None:
        """Raise why a session ended; a message that was passed over may be missing for good."""
        place = self._known.next_place
        if isinstance(error, _Lost) and self._failure is None and self._reached_place >= place:
            info = await stream.stream_info(self._name)
            if info.state.first_seq <= place <= info.state.last_seq:
                try:
                    await stream.get_msg(self._name, place)
                except nats.js.errors.NotFoundError:
                    raise CorruptArtifact(
                        f"[read] message {place} of stream {self._name!r} is missing between others: begin with the newest "
                        "version"
                    ) from None
        raise error or _Lost("the session ended")

    def _learn(self, info: api.StreamInfo, asked_at: float) -> None:
        with self._progress:
            self._reached_place = info.state.last_seq
            self._n_bytes = info.state.bytes
            self._asked_at = asked_at
            if self._known.is_counted:
                self._known.drop(min(info.state.first_seq, self._known.next_place) - 1)
            self._progress.notify_all()

    def _lose(self, why: str) -> None:
        with self._progress:
            if self._lost is None:
                self._lost_at = time.monotonic()
                _logger.warning("[append] %s; no writes are taken until it is back, reads go on", why)
            self._lost = why
            self._progress.notify_all()
        self._tell()

    def _regain(self) -> None:
        with self._progress:
            self._lost = None
            self._progress.notify_all()
        if self._failure is None:
            _logger.info("following stream %s from message %d on", self._name, self._known.next_place)
        self._tell()

    def _fail(self, why: str) -> None:
        with self._progress:
            if self._failure is None:
                self._failure = why
                _logger.error("the stream failed, and no more writes are taken: %s", why)
            self._progress.notify_all()
        self._tell()

    def _end_session(self, error: Exception) -> None:
        if self._trouble is not None and not self._trouble.done():
            self._trouble.set_exception(error)

    def _tell(self) -> None:
        """Wake the coroutines that wait for a message or a session."""
        self._changed.set()
        self._changed = asyncio.Event()

    # coroutines on behalf of callers

    async def _until(self, is_so: Callable[[], bool], deadline: float) -> bool:
        """Wait until something is so; return whether it is."""
        while not is_so():
            left = deadline - time.monotonic()
            if left <= 0 or self.is_over:
                return False
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, _POLL_S))
        return True

    async def _connected(self, operation: str, deadline: float) -> Client:
        if not await self._until(lambda: self._client is not None, deadline):
            self._check_open(operation)
            self._check_failure(operation)
            raise Unavailable(f"[{operation}] {self._lost}; no writes are taken until it is back, reads go on")
        assert self._client is not None
        return self._client

    async def _append(self, append_id: bytes, message_id: str, request_id: str, payloads: Sequence[bytes]) -> Appended:
        deadline = time.monotonic() + self._append_timeout_s
        while True:
            client = await self._connected("append", deadline)
            with self._lock:
                known = self._known.next_place - 1, self._known.last_sequence
            message = Batch(append_id, *known, request_id, payloads).packed()
            left = deadline - time.monotonic()
            try:
                stored = await client.jetstream().publish(
                    self._name,
                    message,
                    timeout=max(min(left, 2 * _ASK_S), 0.01),
                    headers={"Nats-Msg-Id": message_id, "Nats-Expected-Stream": self._name},
                )
                break
            except nats.js.errors.APIError as error:
                if isinstance(error, nats.js.errors.BadRequestError) or left <= 0:
                    raise Unavailable(
                        f"[append] the broker refuses the write: {_told(error)}; look at its log"
                    ) from error
            except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
                if left <= 0:
                    raise Unavailable(
                        f"[append] the broker does not acknowledge: {_told(error)}; reads go on"
                    ) from error
            await asyncio.sleep(_RETRY_S / 4)
        return await self._stored(append_id, stored, deadline)

    async def _stored(self, append_id: bytes, stored: api.PubAck, deadline: float) -> Appended:
        """Return where an append is that the broker has stored, now or when it was first made."""
        place = stored.seq
        if not await self._until(lambda: self._known.next_place > place, deadline):
            self._check_open("append")
            self._check_failure("append")
            raise Unavailable(
                "[append] the write is stored and could not be read back in time; repeat it with its request id"
            )
        with self._lock:
            tail = self._known
            if place < tail.first_place:  # its sequences went with it
                return Appended(tail.first_sequence - 1, tail.first_sequence - 1, is_repeat=True)
            held, where = tail.held(place), tail.where(place)
        is_own = held is not None and held.append_id == append_id
        if not is_own and not stored.duplicate:
            raise Unavailable(
                f"[append] message {place} of the stream is not what was stored; repeat it with its request id"
            )
        return Appended(where.first_sequence, where.last_sequence, is_repeat=not is_own)

    async def _newest(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        client = await self._connected("read", deadline)
        info = await client.jetstream(timeout=max(min(timeout_s, _ASK_S), 0.01)).stream_info(self._name)
        if not await self._until(lambda: self._known.next_place > info.state.last_seq, deadline):
            raise Unavailable("[read] the newest writes could not be read in time; ask again")
        return self._known.last_sequence

    async def _purge(self, place: int) -> None:
        client = await self._connected("truncate", time.monotonic() + _ASK_S)
        stream = client.jetstream(timeout=10 * _ASK_S)
        await stream.purge_stream(self._name, seq=place + 1)
        asked_at = time.monotonic()
        self._learn(await stream.stream_info(self._name), asked_at)

    async def _fetch(self, place: int) -> list[Batch]:
        """Return some messages from a place on, at least one."""
        client = await self._connected("read", time.monotonic() + _ASK_S)
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
        found: list[Batch] = []
        try:
            asked = {"seq": place, "batch": _FETCHED, "max_bytes": _FETCHED_BYTES}
            await client.publish(f"$JS.API.DIRECT.GET.{self._name}", json.dumps(asked).encode(), inbox)
            while True:
                message = await subscription.next_msg(2 * _ASK_S)
                headers = message.headers or {}
                if "Status" in headers:
                    break
                if int(headers.get("Nats-Sequence", 0)) != place + len(found):
                    break
                found.append(unpack_batch(message.data, place + len(found)))
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
        if not found:
            raise Unavailable(f"[read] message {place} of stream {self._name!r} does not come; ask again")
        return found


def _closed(operation: str) -> Unavailable:
    return Unavailable(f"[{operation}] the log is closed; open it again")


def _told(error: BaseException) -> str:
    """Return what an error says, never with credentials: none are in a server's address."""
    return str(error) or type(error).__name__
