"""Replicas of a service that share a stream: each a process, behind a real broker, killed and paused like anything else."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.brokers import BrokerProcess
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

VECTOR = [9.0] * 8
Starting = Callable[..., contextlib.AbstractContextManager["Service"]]


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def start(own_broker: BrokerProcess, vector_shop: Shop, start_service: Start) -> Starting:
    """Return what starts one more replica."""
    return lambda **settings: start_service(
        vector_shop, **{"write_log": own_broker.url, "log_timeout_s": 1.0, "max_lag_s": 3.0, **settings}
    )


def upsert(service: Service, *names: str, at: float = 9.0, request_id: str = "") -> tuple[int, Any]:
    points = [{"datapointId": name, "featureVector": [at] * 8} for name in names]
    body = {"datapoints": points, **({"requestId": request_id} if request_id else {})}
    status, _, answer = service.ask("POST", "/v1/upsertDatapoints", body)
    return status, answer


def token(service: Service, *names: str, **how: Any) -> str:
    status, answer = upsert(service, *names, **how)
    assert status == 200, answer
    return str(answer["versionToken"])


def read(service: Service, names: list[str], min_version: str) -> dict[str, float]:
    asked = {"ids": names, "minVersion": min_version}
    status, _, answer = service.ask("POST", "/v1/readIndexDatapoints", asked)
    assert status == 200, answer
    return {point["datapointId"]: point["featureVector"][0] for point in answer["datapoints"]}


def metric(service: Service, name: str) -> float:
    text = service.ask("GET", "/metrics")[2].decode()
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(name + " ")))


def test_a_write_to_any_is_seen_on_all(start: Starting) -> None:
    with start() as one, start() as two, start() as three:
        replicas = [one, two, three]
        for service in replicas:
            service.wait_until_ready()
        for at in range(30):
            written, asked = replicas[at % 3], replicas[(at + 1) % 3]
            said = token(written, f"new-{at}", at=float(at), request_id=f"r{at}")
            assert read(asked, [f"new-{at}"], said) == {f"new-{at}": at}
            again = upsert(asked, f"new-{at}", at=99.0, request_id=f"r{at}")[1]
            assert (again["versionToken"], again["isRepeat"]) == (said, True)
        gone = one.ask("POST", "/v1/removeDatapoints", {"datapointIds": ["new-3"]})[2]["versionToken"]
        assert two.ask("POST", "/v1/readIndexDatapoints", {"ids": ["new-3"], "minVersion": gone})[0] == 404
        body = {"queries": [{"datapoint": {"featureVector": VECTOR}}], "minVersion": "1000"}
        status, _, answer = two.ask("POST", "/v1/findNeighbors", body, {"x-timeout-ms": "200"})
        assert status in (400, 504), answer
        for service in replicas:
            service.wait_until_ready()
            assert metric(service, "likewise_log_position") == 31
            assert metric(service, "likewise_log_lag_writes") == 0
            assert metric(service, "likewise_log_reachable") == 1
            state = service.ask("GET", "/readyz")[2]
            assert (state["replica"], state["writes"]) == ("ok", "ok")
        with start() as four:  # catches up before it is ready
            four.wait_until_ready()
            assert read(four, [f"new-{at}" for at in range(30) if at != 3], "0") == {
                f"new-{at}": at for at in range(30) if at != 3
            }


class Writer:
    """Upserts to one replica in batches of ten, as fast as told, and remembers what was acknowledged."""

    def __init__(self, who: str, service: Service, per_s: float) -> None:
        self.who = who
        self.service = service
        self.acknowledged: dict[str, float] = {}  # datapoint to the newest value that was acknowledged
        self.tried: dict[str, float] = {}
        self.tokens: list[int] = []
        self.n_failed = 0
        self._per_s = per_s
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        at = 0
        began = time.monotonic()
        while not self._stop.is_set():
            at += 1
            names = [f"{self.who}-{(at * 10 + i) % 200}" for i in range(10)]
            self.tried |= dict.fromkeys(names, float(at))
            for _ in range(200):
                with contextlib.suppress(OSError, HTTPException):
                    status, answer = upsert(self.service, *names, at=float(at), request_id=f"{self.who}-{at}")
                    if status == 200:
                        self.acknowledged |= dict.fromkeys(names, float(at))
                        self.tokens.append(int(answer["versionToken"]))
                        break
                self.n_failed += 1
                if self._stop.wait(0.05):
                    return
            self._stop.wait(max(0.0, began + at * 10 / self._per_s - time.monotonic()))

    def __enter__(self) -> Writer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.thread.join()


def assert_all_there(service: Service, writers: list[Writer]) -> None:
    """Prove that a replica has what was acknowledged, or what was tried after it, and counted every write once."""
    newest = max(said for writer in writers for said in writer.tokens)
    for writer in writers:
        found = read(service, sorted(writer.acknowledged), str(newest))
        for name, value in writer.acknowledged.items():
            assert found[name] in (value, writer.tried[name]), name


@pytest.mark.parametrize("n_kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_a_killed_replica_catches_up_without_loss_or_repeats(start: Starting, n_kills: int) -> None:
    with start() as one, Writer("w0", one, 500) as first, Writer("w1", one, 500) as second:
        writers = [first, second]
        one.wait_until_ready()
        for at in range(n_kills):
            with start() as two:
                two.wait_until_ready()
                with Writer(f"k{at}", two, 200) as third:
                    time.sleep(0.7)
                    two.process.send_signal(signal.SIGKILL)
                    two.process.wait(10)
                    third.service = one  # repeats there what it got no answer to
                    time.sleep(0.3)
                writers.append(third)
        with start() as two:
            two.wait_until_ready()
            first._stop.set()
            second._stop.set()
            first.thread.join()
            second.thread.join()
            assert first.n_failed == second.n_failed == 0
            assert_all_there(one, writers)
            assert_all_there(two, writers)
            for service in (one, two):
                service.wait_until_ready()
            assert metric(one, "likewise_log_position") == metric(two, "likewise_log_position")
            # every batch is there once: each took ten sequences
            assert len({said for writer in writers for said in writer.tokens}) == sum(len(w.tokens) for w in writers)
            assert metric(one, "likewise_log_position") <= 10 * sum(len(w.tokens) + 1 for w in writers)
            assert all(said % 10 == 0 for writer in writers for said in writer.tokens)


@pytest.mark.parametrize("n_kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_lost_broker_stops_writes_and_no_search(start: Starting, own_broker: BrokerProcess, n_kills: int) -> None:
    with start() as one, start() as two:
        for service in (one, two):
            service.wait_until_ready()
        with Writer("a", one, 300) as first, Writer("b", two, 300) as second:
            for at in range(n_kills):
                time.sleep(0.5)
                own_broker.kill()
                status, answer = upsert(one, "refused")
                assert status == 503, answer
                assert "reads go on" in answer["error"]["message"]
                for service in (one, two):
                    for _ in range(100):
                        if "the broker is lost" in service.ask("GET", "/readyz")[2]["writes"]:
                            break
                        time.sleep(0.05)
                    status, _, state = service.ask("GET", "/readyz")
                    assert (status, state["ready"]) == (200, True), state
                    assert "the broker is lost" in state["writes"]
                    body = {"queries": [{"datapoint": {"featureVector": VECTOR}, "neighborCount": 3}]}
                    assert service.ask("POST", "/v1/findNeighbors", body)[0] == 200
                    assert metric(service, "likewise_log_reachable") == 0
                if at == 0:
                    time.sleep(4)  # longer than the lag that is allowed
                    assert all(service.ask("GET", "/readyz")[0] == 200 for service in (one, two))
                own_broker.start()
                done = len(first.tokens), len(second.tokens)
                for _ in range(400):
                    if len(first.tokens) > done[0] + 3 and len(second.tokens) > done[1] + 3:
                        break
                    time.sleep(0.05)
                else:
                    raise AssertionError("writes did not go on")
        for service in (one, two):
            assert_all_there(service, [first, second])
            service.wait_until_ready()
        assert metric(one, "likewise_log_position") == metric(two, "likewise_log_position")


@contextlib.contextmanager
def listening(port: int, rng: random.Random | None) -> Iterator[None]:
    """Take connections where a broker was, and say nothing, or nonsense."""
    is_over = threading.Event()

    def speak(held: socket.socket) -> None:
        with held, contextlib.suppress(OSError):
            while not is_over.wait(0.05):
                if rng is not None:
                    held.sendall(
                        rng.choice([rng.randbytes(200), b"INFO {}\r\nPONG\r\n", b"MSG x 1 99999999\r\n", b"INFO "])
                    )

    with socket.socket() as door, ThreadPoolExecutor(64) as pool:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", port))
        door.listen()

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    pool.submit(speak, door.accept()[0])

        taking = threading.Thread(target=take)
        taking.start()
        try:
            yield
        finally:
            is_over.set()
            door.shutdown(socket.SHUT_RDWR)
            taking.join()


@pytest.mark.parametrize("n_asks", [100, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["hangs", "silence", "garbage"])
def test_a_broker_that_hangs_or_talks_nonsense_costs_no_search(
    start: Starting, own_broker: BrokerProcess, how: str, n_asks: int
) -> None:
    body = {"queries": [{"datapoint": {"featureVector": VECTOR}, "neighborCount": 3}]}
    with start() as one:
        one.wait_until_ready()
        said = token(one, "before")
        with contextlib.ExitStack() as broken:
            if how == "hangs":
                own_broker.send(signal.SIGSTOP)
                broken.callback(own_broker.send, signal.SIGCONT)
            else:
                own_broker.kill()
                broken.callback(own_broker.start)
                rng = random.Random(20260109) if how == "garbage" else None
                broken.enter_context(listening(own_broker.port, rng))
            for _ in range(3):
                status, answer = upsert(one, "refused")
                assert status in (503, 504), answer
            for _ in range(n_asks):
                assert one.ask("POST", "/v1/findNeighbors", body)[0] == 200
            assert read(one, ["before"], said) == {"before": 9.0}
            assert one.process.poll() is None
        wait_until(lambda: upsert(one, "after")[0] == 200)
        assert read(one, ["before", "after"], token(one, "last")) == {"before": 9.0, "after": 9.0}
        one.wait_until_ready()


def test_a_paused_replica_leaves_the_rotation_until_it_has_caught_up(
    start: Starting, own_broker: BrokerProcess
) -> None:
    with start() as one, start() as two:
        for service in (one, two):
            service.wait_until_ready()
        with Writer("a", one, 500) as writer:
            for _ in range(2):
                time.sleep(0.5)
                two.process.send_signal(signal.SIGSTOP)
                time.sleep(4)
                known = writer.tokens[-1]
                two.process.send_signal(signal.SIGCONT)
                two.wait_until_ready()
                assert metric(two, "likewise_log_position") >= known
            two.process.send_signal(signal.SIGSTOP)
            time.sleep(4)
        own_broker.send(signal.SIGSTOP)  # nobody tells it now what it missed
        two.process.send_signal(signal.SIGCONT)
        for _ in range(10):
            status, _, state = two.ask("GET", "/readyz")
            assert status == 503
            assert state["replica"].startswith("behind: ")
            time.sleep(0.05)
        own_broker.send(signal.SIGCONT)
        two.wait_until_ready()
        assert metric(two, "likewise_log_position") >= writer.tokens[-1]
        assert_all_there(two, [writer])


class Balancer:
    """Sends requests to replicas that said a moment ago that they are ready, in turn."""

    def __init__(self) -> None:
        self.replicas: dict[str, bool] = {}
        self.said: dict[
            str, list[int]
        ] = {}  # by replica, the statuses of /readyz as they changed; 0 where its door is closed
        self.failed: list[str] = []
        self.n_answered = 0
        self._lock = threading.Lock()
        self._turn = 0
        self._stop = threading.Event()

    def watch(self) -> None:
        while not self._stop.wait(0.02):
            for url in list(self.replicas):
                try:
                    with urllib.request.urlopen(url + "/readyz", timeout=1) as answer:
                        status = int(answer.status)
                except urllib.error.HTTPError as error:
                    status = error.code
                except (OSError, HTTPException):
                    status = 0
                self.replicas[url] = status == 200
                if self.said.setdefault(url, [200])[-1] != status:
                    self.said[url].append(status)

    def ask(self, per_s: float) -> None:
        body = b'{"queries": [{"datapoint": {"datapointId": "item-0007"}, "neighborCount": 3}]}'
        while not self._stop.wait(1 / per_s):
            ready = [url for url, is_ready in list(self.replicas.items()) if is_ready]
            with self._lock:
                self._turn += 1
                turn = self._turn
            try:
                url = ready[turn % len(ready)]
                with urllib.request.urlopen(
                    urllib.request.Request(url + "/v1/findNeighbors", body), timeout=10
                ) as answer:
                    answer.read()
                with self._lock:
                    self.n_answered += 1
            except (OSError, HTTPException, ZeroDivisionError, IndexError) as error:
                self.failed.append(f"{error!r} of {len(ready)} ready")

    def stop(self) -> None:
        self._stop.set()


@pytest.mark.parametrize(("n_restarts", "per_s"), [(4, 100), pytest.param(50, 500, marks=pytest.mark.slow)])
def test_rolling_restarts_fail_no_request(start: Starting, n_restarts: int, per_s: int) -> None:
    balancer = Balancer()
    n_threads = 8
    with contextlib.ExitStack() as held, ThreadPoolExecutor(n_threads + 1) as pool:
        running: list[tuple[Service, contextlib.ExitStack]] = []

        def begin() -> None:
            own = held.enter_context(contextlib.ExitStack())
            service = own.enter_context(start())
            service.wait_until_ready()
            balancer.replicas[service.http] = True
            running.append((service, own))

        begin()
        begin()
        began = time.monotonic()
        pool.submit(balancer.watch)
        for _ in range(n_threads):
            pool.submit(balancer.ask, per_s / n_threads)
        try:
            for at in range(n_restarts):
                service, own = running.pop(0)
                token(running[0][0], f"during-{at}")
                service.process.send_signal(signal.SIGTERM)
                assert service.process.wait(60) == 0
                wait_until(lambda: balancer.said.get(service.http, [200])[-1] == 0)  # noqa: B023
                del balancer.replicas[service.http]
                own.close()
                begin()
            found = read(running[-1][0], [f"during-{at}" for at in range(n_restarts)], "0")
            assert len(found) == n_restarts
        finally:
            balancer.stop()
        seconds = time.monotonic() - began
    print(f"{balancer.n_answered} answers, {balancer.n_answered / seconds:.0f}/s, {len(balancer.failed)} failed")
    assert balancer.failed == []
    assert balancer.n_answered > 20 * n_restarts
    ended = [said for said in balancer.said.values() if said[-1] == 0]
    assert len(ended) == n_restarts
    # Not ready first, and then the door is closed; who looks fifty times a second may miss what lasts for a fifth of one.
    assert all(said in ([200, 503, 0], [200, 0]) for said in ended), ended
    assert ended.count([200, 503, 0]) > n_restarts / 2, ended


def test_a_new_replica_needs_the_newest_version_and_the_rest_of_the_stream(
    own_broker: BrokerProcess, vector_shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    from lifecycle.cli import run
    from tests.services import Shop as OwnShop

    store = tmp_path / "store"
    shutil.copytree(vector_shop.store, store)
    shop = OwnShop(store, vector_shop.name)
    place = [shop.name, "--store", str(store), "--log", own_broker.url]
    with start_service(shop, write_log=own_broker.url) as one:
        one.wait_until_ready()
        first = one.index_version
        for turn in range(2):
            for at in range(12):
                token(one, f"new-{turn}-{at}", at=float(at))
            assert run(["versions", "compact", *place, "--promote"]) == 0
        newest = token(one, "rest", at=50.0)
        assert run(["versions", "truncate-log", *place]) == 0
        with start_service(shop, write_log=own_broker.url) as two:
            two.wait_until_ready()
            assert two.index_version != first
            names = [f"new-{turn}-{at}" for turn in range(2) for at in range(12)]
            assert read(two, [*names, "rest"], newest) == {
                **{name: float(name.split("-")[2]) for name in names},
                "rest": 50.0,
            }
            assert newest == "25"
            assert token(two, "more") == "26"
            assert read(one, ["more", *names], "26")["more"] == 9.0
