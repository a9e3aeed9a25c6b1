"""Logs that share one stream, and what they do when the broker stops, dies, forgets or is not theirs."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import nats
import numpy as np
import pytest
from nats.js import JetStreamContext, api

from matching.datapoint import Datapoint, NumericRestrict, NumericType
from matching.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable
from matching.live import Appended, Change, Delete, LiveIndex, Upsert
from matching.live.stream_log import Broker, StreamLog
from tests.brokers import BrokerProcess, new_cluster
from tests.versions import MakeVersion
from tests.waiting import wait_until

T = TypeVar("T")


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex}"


def opened(broker: BrokerProcess, name: str, **options: Any) -> StreamLog:
    return StreamLog.open(Broker((broker.url,)), name, **options)


def asked(broker: BrokerProcess, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
    """Do something to the broker that Likewise would not."""

    async def ask() -> T:
        client = await nats.connect(broker.url)
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(ask())


def all_of(log: StreamLog) -> list[bytes]:
    return [record.payload for record in log.read(log.first_sequence)]


until = partial(wait_until, limit_s=30)


def test_all_that_follow_a_stream_see_the_same_sequences(broker: BrokerProcess, name: str) -> None:
    with opened(broker, name) as one, opened(broker, name) as two, opened(broker, name) as three:
        logs = [one, two, three]

        def work(at: int) -> list[Appended]:
            return [logs[at % 3].append([b"%d %d" % (at, i)] * (1 + i % 4), request_id=f"{at} {i}") for i in range(30)]

        with ThreadPoolExecutor(9) as pool:
            answers = list(pool.map(work, range(9)))
        last = max(answer.last_sequence for told in answers for answer in told)
        assert all(log.wait(last, timeout_s=30) for log in logs)
        first = all_of(one)
        assert len(first) == last == 9 * sum(1 + i % 4 for i in range(30))
        assert all_of(two) == all_of(three) == first
        for at, told in enumerate(answers):
            for i, answer in enumerate(told):
                assert first[answer.first_sequence - 1 : answer.last_sequence] == [b"%d %d" % (at, i)] * (1 + i % 4)
        for at in range(9):  # repeated elsewhere
            repeated = logs[(at + 1) % 3].append([b"x"], request_id=f"{at} 3")
            assert repeated == Appended(answers[at][3].first_sequence, answers[at][3].last_sequence, is_repeat=True)
        assert two.newest(timeout_s=10) == last


def test_truncation_reaches_all_and_who_opens_next_counts_alike(broker: BrokerProcess, name: str) -> None:
    with opened(broker, name, first_sequence=1000) as one, opened(broker, name) as two:
        assert one.append([b"a"]) == Appended(1000, 1000)
        for i in range(60):
            (one, two)[i % 2].append([b"%d" % i] * (1 + i % 3))
        last = one.newest(timeout_s=10)
        before = all_of(one)
        first = one.truncate(1060)
        assert 1030 < first <= 1061
        until(lambda: two.first_sequence == first)
        with pytest.raises(NotFound, match="was truncated"):
            two.read(first - 1)
        assert all_of(two) == before[first - 1000 :]
        with opened(broker, name) as three:
            assert (three.first_sequence, three.last_sequence) == (first, last)
            assert all_of(three) == before[first - 1000 :]
            assert three.append([b"more"]) == Appended(last + 1, last + 1)
        one.truncate(last + 1) if one.wait(last + 1, timeout_s=10) else None
        with opened(broker, name) as three:
            assert three.last_sequence == last + 1


def test_what_left_memory_is_read_from_the_broker(broker: BrokerProcess, name: str) -> None:
    with opened(broker, name, held_bytes=10_000) as log:
        written = [b"%d " % i * 50 for i in range(700)]
        for at in range(0, 700, 2):
            log.append(written[at : at + 2])
        assert len(log._known._held) < 100
        assert all_of(log) == written
        assert [record.payload for record in log.read(333)] == written[332:]


def test_a_broker_that_is_restarted_or_killed_loses_nothing(tmp_path: Path, name: str) -> None:
    acknowledged: dict[str, Appended] = {}
    refused = 0
    stop = threading.Event()
    with BrokerProcess(tmp_path) as broker, opened(broker, name) as one, opened(broker, name) as two:

        def work(log: StreamLog, who: str) -> None:
            nonlocal refused
            at = 0
            while not stop.is_set():
                at += 1
                for _ in range(100):
                    try:
                        acknowledged[f"{who} {at}"] = log.append([f"{who} {at}".encode()] * 2, request_id=f"{who} {at}")
                        break
                    except Unavailable:
                        refused += 1

        with ThreadPoolExecutor(4) as pool:
            for at in range(4):
                pool.submit(work, (one, two)[at % 2], f"w{at}")
            chosen = Random(3)
            for end in (broker.kill, broker.stop, broker.kill, broker.kill):
                time.sleep(0.4 + chosen.random())
                end()
                assert one.wait(1, timeout_s=1)  # what was read stays
                broker.start()
                done = len(acknowledged)
                until(lambda done=done: len(acknowledged) > done + 20)
            stop.set()
        last = one.newest(timeout_s=10)
        assert two.wait(last, timeout_s=10)
        found = all_of(one)
        assert found == all_of(two)
        assert one.failure is two.failure is None
    assert len(found) == 2 * len(acknowledged)  # none lost, none twice
    for said, where in acknowledged.items():
        assert found[where.first_sequence - 1 : where.last_sequence] == [said.encode()] * 2


def test_a_cluster_outlives_any_of_its_brokers(tmp_path: Path, name: str) -> None:
    brokers = new_cluster(tmp_path)
    acknowledged: list[int] = []
    stop = threading.Event()
    with contextlib.ExitStack() as held:
        for broker in brokers:
            held.enter_context(broker)
        urls = tuple(broker.url for broker in brokers)
        one = held.enter_context(StreamLog.open(Broker(urls), name, n_copies=3, open_timeout_s=60))
        two = held.enter_context(StreamLog.open(Broker(urls[::-1]), name, open_timeout_s=60))

        def work(log: StreamLog, who: str) -> None:
            at = 0
            while not stop.is_set():
                at += 1
                for _ in range(100):
                    with contextlib.suppress(Unavailable):
                        acknowledged.append(
                            log.append([f"{who} {at}".encode()], request_id=f"{who} {at}").last_sequence
                        )
                        break

        with ThreadPoolExecutor(2) as pool:
            pool.submit(work, one, "one")
            pool.submit(work, two, "two")
            try:
                for broker in brokers:
                    done = len(acknowledged)
                    until(lambda done=done: len(acknowledged) > done + 20)
                    broker.kill()
                    done = len(acknowledged)
                    until(lambda done=done: len(acknowledged) > done + 20)  # two of three are enough
                    broker.start()
            finally:
                stop.set()
        last = one.newest(timeout_s=30)
        assert two.wait(last, timeout_s=30)
        found = all_of(one)
        assert found == all_of(two)
        assert sorted(acknowledged) == list(range(1, last + 1))  # none lost, none twice
        assert len(set(found)) == len(found)


def test_a_lost_broker_stops_writes_for_as_long_as_it_is_lost(tmp_path: Path, name: str) -> None:
    with BrokerProcess(tmp_path) as broker, opened(broker, name, append_timeout_s=0.5) as log:
        log.append([b"a"])
        broker.kill()
        with pytest.raises(Unavailable, match=r"\[append\] .*; reads go on|until it is back, reads go on"):
            log.append([b"b"], request_id="b")
        with pytest.raises(Unavailable):
            log.newest(timeout_s=0.5)
        until(lambda: log.failure is not None)
        assert "the broker is lost" in str(log.failure)
        assert not log.is_over
        assert not log.reach.is_reachable
        assert all_of(log) == [b"a"]
        assert not log.wait(2, timeout_s=0.1)
        broker.start()
        until(lambda: log.failure is None)
        assert log.append([b"b"], request_id="b") == Appended(2, 2)
        until(lambda: log.reach.is_reachable and log.reach.sequence == 2)


def test_a_broker_that_does_not_answer_is_lost_too(tmp_path: Path, name: str) -> None:
    with BrokerProcess(tmp_path) as broker, opened(broker, name, append_timeout_s=1.5) as log:
        broker.send(signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable, match="reads go on"):
                log.append([b"a"], request_id="a")
            until(lambda: not log.reach.is_reachable)
        finally:
            broker.send(signal.SIGCONT)
        until(lambda: log.failure is None)
        assert log.append([b"a"], request_id="a").last_sequence == 1
        assert all_of(log) == [b"a"]


def test_no_broker_no_log(tmp_path: Path, name: str) -> None:
    broker = BrokerProcess(tmp_path)
    with pytest.raises(Unavailable, match=r"\[open\] stream .* the broker is lost: .*; start the broker"):
        opened(broker, name, open_timeout_s=2)


@pytest.mark.parametrize("is_made_anew", [True, False])
def test_a_broker_that_forgot_is_found_out(tmp_path: Path, name: str, is_made_anew: bool) -> None:
    with BrokerProcess(tmp_path) as broker, opened(broker, name) as log:
        log.append([b"a"])
        log.append([b"b"])
        asked(broker, lambda stream: stream.delete_stream(name))
        if is_made_anew:
            with opened(broker, name) as other:
                for _ in range(5):
                    other.append([b"other"])
                broker.kill()
                broker.start()
        else:
            broker.kill()
            broker.start()
        until(lambda: log.is_over)
        assert ("made anew" if is_made_anew else "is gone from the broker") in str(log.failure)
        with pytest.raises(Unavailable, match="nothing is acknowledged any more, reads go on"):
            log.append([b"c"])
        assert all_of(log) == [b"a", b"b"]


def test_the_end_that_a_broker_lost_is_missed_although_others_wrote_on(tmp_path: Path, name: str) -> None:
    with BrokerProcess(tmp_path) as broker, opened(broker, name) as log:
        log.append([b"a"])
        broker.stop()
        shutil.copytree(tmp_path / "data", tmp_path / "old")
        broker.start()
        log.append([b"b"])
        broker.kill()
        shutil.rmtree(tmp_path / "data")
        (tmp_path / "old").rename(tmp_path / "data")
        broker.start()
        until(lambda: log.is_over)
        assert "the broker lost acknowledged writes" in str(log.failure)


def test_a_message_that_is_missing_or_foreign_is_refused(broker: BrokerProcess, name: str) -> None:
    with opened(broker, name) as log:
        log.append([b"a"])
        asked(broker, lambda stream: stream.publish(name, b"of another program"))
        until(lambda: log.is_over)
        assert "message 2 of the stream begins with b'of anoth'" in str(log.failure)
        with pytest.raises(Unavailable, match="nothing is acknowledged any more"):
            log.wait(2, timeout_s=10)
    with pytest.raises((CorruptArtifact, Unavailable), match="begins with b'of anoth'"):
        opened(broker, name)
    config = api.StreamConfig(name=name + "-foreign", subjects=["foreign"])
    asked(broker, lambda stream: stream.add_stream(config))
    with pytest.raises(Unavailable, match="was not made by Likewise"):
        opened(broker, name + "-foreign")


def test_credentials_are_asked_for_and_never_told(tmp_path: Path, name: str) -> None:
    with BrokerProcess(tmp_path, 'authorization { user: "shop", password: "open sesame" }') as broker:
        with pytest.raises(Unavailable, match=r"(?i)authorization"):
            opened(broker, name, open_timeout_s=2)
        known = Broker((broker.url,), user="shop", password="open sesame")
        assert "sesame" not in repr(known)
        with StreamLog.open(known, name) as log:
            assert log.append([b"a"]).last_sequence == 1


DIM = 8
VECTOR = np.ones((1, DIM), np.float32)


def sized(datapoint_id: str, value: float, kind: NumericType = "float64") -> Upsert:
    return Upsert(
        Datapoint(datapoint_id, numeric_restricts=(NumericRestrict("size", value, kind),)), {"vectors": VECTOR}
    )


def test_two_live_indexes_agree_whoever_wrote(
    broker: BrokerProcess, name: str, make_version: MakeVersion, rng: np.random.Generator
) -> None:
    points = [Datapoint(f"{at}") for at in range(50)]
    base = make_version(points, rng.standard_normal((50, DIM)).astype(np.float32))
    with opened(broker, name) as log_a, opened(broker, name) as log_b:
        a, b = LiveIndex(base, log_a), LiveIndex(base, log_b)
        try:
            # two types for a new namespace at once: the first in the stream holds on both, the other is refused
            for _ in range(5):
                with ThreadPoolExecutor(2) as pool:
                    namespace = uuid.uuid4().hex
                    told = [
                        pool.submit(
                            index.write, [Upsert(Datapoint("n", numeric_restricts=(number,)), {"vectors": VECTOR})]
                        )
                        for index, number in (
                            (a, NumericRestrict(namespace, 1, "int64")),
                            (b, NumericRestrict(namespace, 1.5, "float64")),
                        )
                    ]
                refused = [future.exception() for future in told]
                assert sorted(type(each).__name__ for each in refused) == ["InvalidInput", "NoneType"]
                newest = max(future.result().last_sequence for future in told if not future.exception())
                kinds = {seen(index, newest).numeric_types()[namespace] for index in (a, b)}
                assert len(kinds) == 1
            # a change right behind an upsert of the other
            for at in range(30):
                one, other = (a, b) if at % 2 else (b, a)
                one.write([sized(f"x{at}", 1)])
                other.write([Change(Datapoint(f"x{at}", crowding_tag="t"), frozenset({"crowding_tag"}))])
            with pytest.raises(NotFound, match="upsert it with its vectors"):
                b.write([Change(Datapoint("nobody"), frozenset({"crowding_tag"}))])

            # changes, upserts and deletions of the same few at once
            def work(index: LiveIndex, seed: int) -> None:
                chosen = Random(seed)
                for _ in range(60):
                    target = f"x{chosen.randrange(5)}"
                    kind = chosen.random()
                    try:
                        if kind < 0.3:
                            index.write([Delete(target)])
                        elif kind < 0.6:
                            changed = Datapoint(target, crowding_tag=f"t{seed}")
                            index.write([Change(changed, frozenset({"crowding_tag"}))])
                        else:
                            index.write([sized(target, chosen.random())])
                    except NotFound:
                        pass

            with ThreadPoolExecutor(4) as pool:
                for done in [pool.submit(work, (a, b)[seed % 2], seed) for seed in range(4)]:
                    done.result()
            newest = log_a.newest(timeout_s=10)
            of_a, of_b = seen(a, newest), seen(b, newest)
            ids = sorted(of_a.columns.datapoint_id(row) for row in range(len(of_a.columns)) if row < 50 or row >= 64)
            for datapoint_id in {*ids, *(f"x{at}" for at in range(30))}:
                assert of_a.columns.find(datapoint_id) == of_b.columns.find(datapoint_id)
                if of_a.columns.find(datapoint_id) >= 0:
                    assert of_a.datapoints([datapoint_id]) == of_b.datapoints([datapoint_id])
            assert of_a.n_datapoints == of_b.n_datapoints
        finally:
            a.close()
            b.close()


def seen(index: LiveIndex, sequence: int) -> Any:
    return index.wait(sequence, deadline=time.monotonic() + 30)


def test_a_live_index_outlives_its_broker(
    tmp_path: Path, name: str, make_version: MakeVersion, rng: np.random.Generator
) -> None:
    base = make_version([Datapoint("a")], rng.standard_normal((1, DIM)).astype(np.float32))
    with BrokerProcess(tmp_path / "broker") as broker, opened(broker, name, append_timeout_s=0.5, held_bytes=1) as log:
        index = LiveIndex(base, log)
        try:
            seen(index, index.write([sized("b", 1), sized("c", 1)]).last_sequence)
            broker.kill()
            with pytest.raises(Unavailable):
                index.write([Delete("b")])
            assert "the broker is lost" in str(index.failure)
            assert index.snapshot.search(VECTOR, 3, space="vectors").neighbors[0]
            time.sleep(0.5)
            broker.start()
            until(lambda: index.failure is None)
            assert seen(index, index.write([Delete("b")]).last_sequence).n_datapoints == 2
        finally:
            index.close()


def test_wrong_storage_is_refused(broker: BrokerProcess, name: str) -> None:
    metadata = {"likewise-log": "00", "likewise-sequence-before": "0"}
    config = api.StreamConfig(name=name, subjects=[name], storage=api.StorageType.MEMORY, metadata=metadata)
    asked(broker, lambda stream: stream.add_stream(config))
    with pytest.raises((InvalidInput, Unavailable), match="expected files"):
        opened(broker, name)
