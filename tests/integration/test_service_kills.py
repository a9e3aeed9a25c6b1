"""A service killed while it is written to at full rate: what it acknowledged is there, what it did not is whole or absent."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

N_WRITERS, N_IDS, N_BASE = 4, 1000, 300
Points = dict[str, list[float]]


@dataclass
class Request:
    """A batch of upserts, or of removals, as it was sent."""

    path: str
    body: dict[str, Any]
    request_id: str
    token: str = ""

    def applied(self, points: Points) -> Points:
        """Return what is there once it was taken."""
        after = dict(points)
        for one in self.body.get("datapointIds", ()):
            after.pop(one, None)
        for point in self.body.get("datapoints", ()):  # of several of one id the last one holds
            after[point["datapointId"]] = point["featureVector"]
        return after


@dataclass
class Writer:
    """Writes to ids of its own, one request after the other, and knows what must be there."""

    number: int
    rng: Random
    points: Points = field(default_factory=dict)
    pending: Request | None = None
    answered: deque[Request] = field(default_factory=lambda: deque(maxlen=3))
    n_written: int = 0
    n_sent: int = 0

    @property
    def ids(self) -> list[str]:
        return [f"{self.number}-{at}" for at in range(N_IDS // N_WRITERS)]

    def next_request(self) -> Request:
        self.n_sent += 1
        request_id = f"{self.number}:{self.n_sent}"
        chosen = self.rng.choices(self.ids, k=self.rng.randint(1, 64))  # an id may come twice
        if self.rng.random() < 0.2:
            return Request("/v1/removeDatapoints", {"datapointIds": chosen, "requestId": request_id}, request_id)
        vectors = [[float(self.rng.randint(-(2**20), 2**20)) / 8 for _ in range(8)] for _ in chosen]
        points = [{"datapointId": one, "featureVector": v} for one, v in zip(chosen, vectors, strict=True)]
        return Request("/v1/upsertDatapoints", {"datapoints": points, "requestId": request_id}, request_id)

    def write_until_killed(self, service: Service) -> None:
        while True:
            self.pending = self.next_request()
            try:
                status, _, told = service.ask("POST", self.pending.path, self.pending.body)
            except (OSError, HTTPException):
                return
            assert (status, told["isRepeat"]) == (200, False), told
            self.take(self.pending, told["versionToken"])

    def take(self, request: Request, token: str) -> None:
        self.points = request.applied(self.points)
        self.n_written += len(request.body.get("datapoints") or request.body["datapointIds"])
        request.token = token
        self.answered.append(request)
        self.pending = None

    def check(self, service: Service, there: Points) -> None:
        """Check what is there against what was told, then repeat what was asked before the kill."""
        found = {one: vector for one, vector in there.items() if one.startswith(f"{self.number}-")}
        with_pending = self.points if self.pending is None else self.pending.applied(self.points)
        assert found in (self.points, with_pending), "each request as a whole or not at all"
        for request in self.answered:
            assert self.asked_again(service, request) == (request.token, True)
        if self.pending is not None:
            request = self.pending
            token, is_repeat = self.asked_again(service, request)
            assert self.points == with_pending or is_repeat == (found == with_pending), "it was taken once"
            assert self.asked_again(service, request) == (token, True)
            self.take(request, token)

    def asked_again(self, service: Service, request: Request) -> tuple[str, bool]:
        status, _, told = service.ask("POST", request.path, request.body)
        assert status == 200, told
        return str(told["versionToken"]), bool(told["isRepeat"])


def everything(service: Service, token: str = "0") -> Points:
    """Return the vectors of all that was written, up to a token at least, and check that nothing is there twice."""
    query = {"datapoint": {"featureVector": [0.0] * 8}, "neighborCount": N_BASE + N_IDS, "exact": True}
    asked = {"queries": [query], "returnFullDatapoint": True, "minVersion": token}
    status, _, told = service.ask("POST", "/v1/findNeighbors", asked)
    assert status == 200, told
    near = [each["datapoint"] for each in told["nearestNeighbors"][0]["neighbors"]]
    found = {each["datapointId"]: each["featureVector"] for each in near}
    assert len(found) == len(near), "nothing is there twice"
    written = {one: vector for one, vector in found.items() if one[1:2] == "-"}
    assert len(found) - len(written) == N_BASE, "nothing else is there"
    return written


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("n_kills", "seed"), [(2, 1), pytest.param(200, 2, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_and_a_repeated_request_is_taken_once(
    vector_shop: Shop, start_service: Start, tmp_path: Path, n_kills: int, seed: int
) -> None:
    rng = Random(seed)
    writers = [Writer(number, Random(rng.random())) for number in range(N_WRITERS)]
    seconds = 0.0
    for life in itertools.count():
        with start_service(vector_shop, write_log=str(tmp_path), max_k=N_BASE + N_IDS) as service:
            service.wait_until_ready()
            there = everything(service)
            for writer in writers:
                writer.check(service, there)
            token = max((request.token for writer in writers for request in writer.answered), key=int, default="0")
            assert everything(service, token) == {one: v for writer in writers for one, v in writer.points.items()}
            if life == n_kills:
                break
            threads = [threading.Thread(target=writer.write_until_killed, args=(service,)) for writer in writers]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.02, 0.5))
            service.process.send_signal(signal.SIGKILL)
            seconds += time.monotonic() - began
            for thread in threads:
                thread.join()
            assert service.process.wait() == -signal.SIGKILL
    n_written = sum(writer.n_written for writer in writers)
    print(f"{n_kills} kills, {n_written:,} writes, {n_written / seconds:,.0f} a second")
    assert n_written > 50 * n_kills
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == ["vectors"]  # the log of the endpoint
