"""Requests that arrive however a service fares: an open loop, a closed one, and what came back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any


class HttpConnection(asyncio.Protocol):
    """Sends one request at a time and tells when its answer is there."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._left = -1
        self._held = b""
        self._due = 0.0
        self._status = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, due: float) -> None:
        self._due, self._left, self._held = due, -1, b""
        self.transport.write(self._load.call)

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._held += data
            head, found, rest = self._held.partition(b"\r\n\r\n")
            if not found:
                return
            self._status = int(head[9:12])
            lowered = head.lower()
            at = lowered.index(b"content-length: ") + 16
            self._left = int(lowered[at:].split(b"\r", 1)[0])
            data = rest
        self._left -= len(data)
        if self._left <= 0:
            self._load.answered(self._status, time.perf_counter() - self._due)
            self._load.free.append(self)
            self._load.freed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost += 1


class Load:
    """What is asked of one address, and what came back."""

    def __init__(self, address: str, call: Any, *, deadline_s: float) -> None:
        """Hold what a connection of its kind sends for each request."""
        self.host, port = address.split(":")
        self.port = int(port)
        self.call = call
        self.deadline_s = deadline_s
        self.free: deque[Any] = deque()  # connections, each as often as it takes another request
        self.freed = asyncio.Event()
        self.lost = 0
        self.reset()

    def reset(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.good: list[float] = []
        self.refusals: list[float] = []
        self.unsent = 0
        self.lags: list[float] = []

    def answered(self, status: int, seconds: float) -> None:
        self.statuses[status] += 1
        if status == 200 and seconds <= self.deadline_s:
            self.good.append(seconds)
        elif status != 200:
            self.refusals.append(seconds)

    async def connect(self, kind: Callable[[Load], Any], n: int, *, n_at_once: int = 1) -> None:
        """Open n connections, each for so many requests at once."""
        loop = asyncio.get_running_loop()
        connections = [(await loop.create_connection(lambda: kind(self), self.host, self.port))[1] for _ in range(n)]
        self.free.extend(connections * n_at_once)

    async def closed(self, seconds: float, n: int) -> float:
        """Keep n requests under way; return answers within the deadline a second."""
        self.reset()
        began = time.perf_counter()
        under_way = 0
        while (now := time.perf_counter()) - began < seconds:
            n_before = sum(self.statuses.values())
            while self.free and under_way - n_before < n:
                self.free.pop().ask(now)
                under_way += 1
            self.freed.clear()
            await self.freed.wait()
        rate = len(self.good) / (time.perf_counter() - began)
        await asyncio.sleep(1.0)
        return rate

    async def open(self, seconds: float, rate: float, rng: random.Random) -> float:
        """Let requests arrive at a rate; return answers within the deadline a second."""
        self.reset()
        began = due = time.perf_counter()
        while due - began < seconds:
            due += rng.expovariate(rate)
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
                self.lags.append(time.perf_counter() - due)
            elif rng.random() < 0.05:
                await asyncio.sleep(0)  # behind its time: answers are read all the same
            if self.free:
                self.free.pop().ask(due)
            else:
                self.unsent += 1  # every connection waits: this caller gives up
        spent = time.perf_counter() - began
        good = len(self.good) / spent
        await asyncio.sleep(self.deadline_s + 1.0)
        return good
