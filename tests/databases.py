"""A real PostgreSQL server, which tests start, kill and start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import free_port

_PROGRAMS = Path("/usr/lib/postgresql")


class PostgresProcess:
    """A server on a port and a data folder of its own; each commit is on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        folder = self._folder = Path(tempfile.mkdtemp(prefix="likewise-postgres-"))  # pytest's are for its user alone
        self._data = folder / "data"
        self._log = folder / "postgres.log"
        self._programs = _programs()
        # the server refuses to run as root
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        made = [self._programs / "initdb", "-D", self._data, "-U", "shop", "--auth=trust", "-E", "UTF8"]
        subprocess.run(list(map(str, made)), check=True, capture_output=True, user=self._user, cwd=folder)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until connections are taken."""
        command = [self._programs / "postgres", "-D", self._data, "-p", self.port, "-h", "127.0.0.1", "-k", ""]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=log, user=self._user, cwd=self._data
            )
        ready = [str(self._programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(400):
            if subprocess.run(ready, capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        """End as a crash would: the server and what it started."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)
        # the next start waits for the orphans, and says so
        for _ in range(400):
            if not subprocess.run(["pgrep", "-f", f"^postgres.*{self._data}"], capture_output=True).stdout:
                break
            time.sleep(0.05)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End in order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        """End, and leave nothing."""
        self.stop()
        shutil.rmtree(self._folder)

    def new_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"events_{uuid.uuid4().hex[:12]}"
        made = [self._programs / "createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "shop", name]
        subprocess.run(list(map(str, made)), check=True, capture_output=True)
        return f"postgresql://shop@127.0.0.1:{self.port}/{name}"


def _programs() -> Path:
    found = sorted(_PROGRAMS.glob("*/bin/postgres")) if _PROGRAMS.is_dir() else []
    if not found:
        root = Path(__file__).parent.parent
        subprocess.run([root / "tools" / "system-packages", "postgresql"], check=True, capture_output=True)
        found = sorted(_PROGRAMS.glob("*/bin/postgres"))
    if not found:
        pytest.skip("needs PostgreSQL: tools/system-packages postgresql")
    return found[-1].parent


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    """A server that is never stopped."""
    server = PostgresProcess()
    server.start()
    try:
        yield server
    finally:
        server.remove()
