"""A real Redis server, which tests start, kill and start again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import free_port


class RedisProcess:
    """A server on a port and a folder of its own; it keeps nothing beyond its end."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="likewise-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        """Return the address of one of its databases."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start, and wait until connections are taken."""
        command = [
            _program(),
            "--port",
            str(self.port),
            "--save",
            "",
            "--dir",
            str(self._folder),
            "--bind",
            "127.0.0.1",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.025)
        raise AssertionError("Redis did not start")

    def send(self, number: int) -> None:
        """Send a signal: SIGSTOP makes it hang."""
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """End as a crash would; everything is forgotten."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        """End, and leave nothing."""
        self.kill()
        shutil.rmtree(self._folder)


def _program() -> str:
    found = shutil.which("redis-server")
    if found is None:
        root = Path(__file__).parent.parent
        subprocess.run([root / "tools" / "system-packages", "redis-server"], check=True, capture_output=True)
        found = shutil.which("redis-server")
    if found is None:
        pytest.skip("needs Redis: tools/system-packages redis-server")
    return found


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisProcess]:
    """A server that is never stopped."""
    server = RedisProcess()
    server.start()
    try:
        yield server
    finally:
        server.remove()
