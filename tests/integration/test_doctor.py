"""`likewise doctor` against real faults: each is found, named and told apart, and a sound installation is left in peace."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest

from lifecycle.cli import run
from lifecycle.doctor import service as doctor_service
from matching.store import Store
from serving.api_keys import change_keys
from tests.brokers import BrokerProcess
from tests.certificates import Authority
from tests.services import Service, Shop, Start

Examined = tuple[int, dict[str, list[dict[str, str]]]]


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command and returns its status and findings, by check."""

    def examine(*arguments: object) -> Examined:
        capsys.readouterr()
        status = run(["doctor", "--json", *map(str, arguments)])
        told = capsys.readouterr().out
        found: dict[str, list[dict[str, str]]] = {}
        for finding in json.loads(told) if told else []:
            found.setdefault(finding["check"], []).append(finding)
        return status, found

    return examine


def wrong(examined: Examined) -> dict[str, str]:
    """Return what was found wrong, by check; each has a cure."""
    status, found = examined
    errors = {check: f["found"] for check, fs in found.items() for f in fs if f["severity"] == "error" and f["cure"]}
    assert (status == 1) == bool(errors)
    return errors


@pytest.fixture
def own_shop(vector_shop: Shop, tmp_path: Path) -> Shop:
    shutil.copytree(vector_shop.store, tmp_path / "store")
    return Shop(tmp_path / "store", vector_shop.name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_sound_installation(examine: Any, own_shop: Shop, start_service: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start_service(own_shop, write_log=str(log)) as service:
        service.wait_until_ready()
        points = [{"datapointId": "x", "featureVector": [1.0] * 8}]
        assert service.ask("POST", "/v1/upsertDatapoints", {"datapoints": points})[0] == 200
        status, found = examine("--store", own_shop.store, "--log", log, "--url", service.http)
    assert wrong((status, found)) == {}
    assert {"store.alias", "log", "service", "service.ready", "service.clock"} <= found.keys()
    assert "writes 1 to 1 are whole" in found["log"][0]["found"]


def test_nothing_to_look_at(examine: Any) -> None:
    assert examine()[0] == 2


def test_no_alias(examine: Any, own_shop: Shop) -> None:
    for file in (own_shop.store / "aliases").iterdir():
        file.unlink()
    assert "has no alias and 1 versions" in wrong(examine("--store", own_shop.store))["store.alias"]


def test_no_store(examine: Any, tmp_path: Path) -> None:
    assert "is not a store" in wrong(examine("--store", tmp_path))["store"]
    assert "there is no folder" in wrong(examine("--log", tmp_path / "none"))["log"]


@pytest.mark.parametrize("part", ["shard", "manifest", "gone", "alias"])
def test_a_damaged_store(examine: Any, own_shop: Shop, part: str) -> None:
    folder = Store(own_shop.store).directory(own_shop.name)
    if part == "gone":
        shutil.rmtree(folder)
    else:
        largest = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        files = {"shard": largest, "manifest": folder / "manifest.json"}
        file = files.get(part, own_shop.store / "aliases" / f"{own_shop.name}.jsonl")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert "store.alias" in wrong(examine("--store", own_shop.store))


def written_log(shop: Shop, start_service: Start, log: Path, n: int) -> Path:
    with start_service(shop, write_log=str(log)) as service:
        service.wait_until_ready()
        for at in range(n):
            points = [{"datapointId": f"x{at}", "featureVector": [1.0 + at] * 8}]
            assert service.ask("POST", "/v1/upsertDatapoints", {"datapoints": points})[0] == 200
    (segment,) = log.rglob("*.log")
    return segment


def test_a_torn_log_is_a_warning_and_a_damaged_one_is_wrong(
    examine: Any, own_shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    segment = written_log(own_shop, start_service, log, 5)
    whole = segment.read_bytes()
    end = len(whole.rstrip(b"\0"))
    segment.write_bytes(whole[:end] + b"\x07torn" * 9)
    status, found = examine("--log", log)
    assert status == 0
    assert [f["severity"] for f in found["log"]] == ["warning", "ok"]
    assert "of a record that was being written" in found["log"][0]["found"]

    data = bytearray(whole)
    data[end // 3] ^= 1
    segment.write_bytes(data)
    assert segment.name in wrong(examine("--log", log))["log"]


def test_a_full_disk_and_stopped_writes(examine: Any, own_shop: Shop, start_service: Start, small_disk: Path) -> None:
    with start_service(own_shop, write_log=str(small_disk)) as service:
        service.wait_until_ready()
        big = [{"datapointId": "x", "featureVector": [1.0] * 8, "embeddingMetadata": {"title": "y" * 100_000}}]
        statuses = [service.ask("POST", "/v1/upsertDatapoints", {"datapoints": big})[0] for _ in range(40)]
        assert 507 in statuses
        assert (
            service.ask("POST", "/v1/findNeighbors", {"queries": [{"datapoint": {"datapointId": "item-0042"}}]})[0]
            == 200
        )
        errors = wrong(examine("--log", small_disk, "--url", service.http))
    assert "bytes are free where" in errors["log.disk"]
    assert "it takes no writes" in errors["service.writes"]
    assert "bytes are free for the log" in errors["service.disk"]


def test_a_replica_without_its_broker_and_one_that_was_stopped(
    examine: Any, own_shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    with (
        BrokerProcess(tmp_path / "broker") as broker,
        start_service(own_shop, write_log=broker.url, log_timeout_s=0.5, max_lag_s=3.0) as service,
    ):
        service.wait_until_ready()
        assert wrong(examine("--url", service.http)) == {}
        service.process.send_signal(signal.SIGSTOP)
        broker.send(signal.SIGSTOP)  # so that it cannot learn what it missed
        time.sleep(4)
        service.process.send_signal(signal.SIGCONT)
        errors = wrong(examine("--url", service.http))
        assert "it leaves the rotation: behind: 0 writes" in errors["service.replica"]
        broker.send(signal.SIGCONT)
        service.wait_until_ready()
        broker.kill()
        points = [{"datapointId": "x", "featureVector": [1.0] * 8}]
        assert service.ask("POST", "/v1/upsertDatapoints", {"datapoints": points})[0] == 503
        errors = wrong(examine("--url", service.http))
        assert errors.keys() == {"service.writes"}
        assert "the broker is lost" in errors["service.writes"]


def test_keys_that_expired_and_those_that_soon_will(
    examine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    monkeypatch.setenv("LIKEWISE__AUTH__KEYS_FILE", str(file))
    assert "cannot be read" in wrong(examine())["keys"]
    now = datetime.now(timezone.utc)

    def make(name: str, born: timedelta, ends: timedelta | None) -> None:
        expires_at = None if ends is None else now + ends
        change_keys(file, lambda ring: ring.with_new(name, ["read"], now=now + born, expires_at=expires_at)[:2])

    make("old", -timedelta(days=9), -timedelta(days=1))
    assert "none of 1 keys" in wrong(examine())["keys"]
    make("soon", timedelta(), timedelta(days=3))
    make("fine", timedelta(), None)
    status, found = examine()
    assert status == 0
    assert [f["severity"] for f in found["keys"]] == ["warning", "warning", "ok"]
    assert "the last key of soon expires" in found["keys"][0]["found"]
    assert "all keys of old have expired" in found["keys"][1]["found"]
    file.chmod(0o666)
    assert "others may write it" in wrong(examine())["keys"]


@pytest.mark.parametrize(("days", "severity"), [(-1, "error"), (3, "warning"), (300, "ok")])
def test_certificates(examine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, severity: str) -> None:
    made = Authority(tmp_path, "us").certificate("localhost", days=days)
    monkeypatch.setenv("LIKEWISE__TLS__CERTIFICATE_FILE", str(made.chain))
    monkeypatch.setenv("LIKEWISE__TLS__KEY_FILE", str(made.key))
    status, found = examine()
    assert [f["severity"] for f in found["certificate"]] == [severity]
    assert status == (severity == "error")
    made.key.write_text("not a key")
    assert "do not make a certificate" in wrong(examine())["certificate"]


def test_a_broken_audit_log(examine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_text('{"number": 1}\n')
    monkeypatch.setenv("LIKEWISE__AUTH__AUDIT_FILE", str(file))
    assert "line 1" in wrong(examine())["audit"]


def test_nobody_there(examine: Any) -> None:
    assert "does not answer" in wrong(examine("--url", "http://127.0.0.1:1"))["service"]
    assert examine("--url", "ftp://127.0.0.1")[0] == 2


def test_a_service_that_is_not_ready(examine: Any, text_service: Service) -> None:
    (encoders,) = [
        p for p in psutil.Process(text_service.process.pid).children() if "resource_tracker" not in str(p.cmdline())
    ]
    encoders.send_signal(signal.SIGSTOP)
    try:
        text_service.wait_until_ready(False)
        assert "encoders is false" in wrong(examine("--url", text_service.http))["service.ready"]
    finally:
        encoders.send_signal(signal.SIGCONT)
    text_service.wait_until_ready()


def test_clocks_that_differ(examine: Any, vector_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's clock is right; this one is put a minute ahead."""
    real = time.time
    monkeypatch.setattr(doctor_service.time, "time", lambda: real() + 60)
    assert "differ by -60." in wrong(examine("--url", vector_service.http))["service.clock"]


def test_a_guarded_service_needs_a_key(
    examine: Any, vector_shop: Shop, start_service: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    text = change_keys(
        file,
        lambda ring: (lambda made: (made[0], made[2]))(ring.with_new("me", ["read"], now=datetime.now(timezone.utc))),
    )
    with start_service(vector_shop, auth={"keys_file": str(file)}) as service:
        service.wait_until_ready()
        status, found = examine("--url", service.http)
        assert (status, found["service.metrics"][0]["severity"]) == (0, "warning")
        monkeypatch.setenv("LIKEWISE_KEY", text)
        status, found = examine("--url", service.http)
        assert status == 0
        assert "service.metrics" not in found
