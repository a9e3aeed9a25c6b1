"""How long a connection is kept that the parser has not seen anything of, because all was refused."""

from __future__ import annotations

from typing import Any, ClassVar

import uvicorn

from serving.admission import Admission
from serving.http_connection import Connection
from serving.metrics import Metrics
from serving.settings import ServingSettings

REQUEST = b"POST /v1/findNeighbors HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n{}\n"


class Loop:
    """A loop whose clock we turn."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Any) -> Timer:
        self.timers.append(Timer(self.now + delay, call))
        return self.timers[-1]

    def turn(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.at <= self.now]:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.call()


class Timer:
    def __init__(self, at: float, call: Any) -> None:
        self.at = at
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def get_extra_info(self, _: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


class App:
    posts: ClassVar[dict[str, Any]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nothing is let in")


def test_a_connection_is_kept_for_as_long_after_a_refusal_as_after_an_answer() -> None:
    settings = ServingSettings(max_in_flight=1)
    admission, loop, transport = Admission(settings), Loop(), Transport()
    config = uvicorn.Config(App(), lifespan="off", log_config=None, timeout_keep_alive=75)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    connection = Connection(config, server, App(), settings, Metrics(), admission, loop)  # type: ignore[arg-type]
    connection.connection_made(transport)
    admission.admit("search", left_s=1.0)  # another has the only place
    for n_answers in (1, 2, 3):
        connection.data_received(REQUEST)
        assert len(transport.written) == n_answers
        assert transport.written[-1].startswith(b"HTTP/1.1 429 ")
        loop.turn(50.0)
        assert not transport.is_closed
    loop.turn(26.0)
    assert transport.is_closed
