"""A service whose disk is full, fails or has rotted: writes are refused in so many words, searches go on, nothing is lost."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import grpc
import pytest

from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import IndexServiceStub
from tests.commands import likewise
from tests.disks import empty, fill, small_disk

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

VECTOR = [9.0, 9, 9, 9, 9, 9, 9, 9]


class Writer:
    """Upserts datapoints under new ids, and remembers those that were acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.n_sent = 0
        self.token = "0"

    def write(self, service: Service, n: int = 1, n_bytes: int = 10) -> int:
        """Send one request; return its status."""
        ids = [f"w-{self.n_sent}-{at}" for at in range(n)]
        self.n_sent += 1
        points = [
            {"datapointId": one, "featureVector": VECTOR, "embeddingMetadata": {"x": "x" * n_bytes}} for one in ids
        ]
        status, _, told = service.ask("POST", "/v1/upsertDatapoints", {"datapoints": points})
        if status == 200:
            self.acknowledged += ids
            self.token = told["versionToken"]
        return status

    def check(self, service: Service) -> None:
        """Check that all that was acknowledged is there, and at most the one request more that nobody was told of."""
        for at in range(0, len(self.acknowledged), 1000):
            some = self.acknowledged[at : at + 1000]
            status, _, told = service.ask("POST", "/v1/readIndexDatapoints", {"ids": some, "minVersion": self.token})
            assert status == 200, told
            assert [each["datapointId"] for each in told["datapoints"]] == some
        found = service.ask("GET", "/v1/versions/current")[2]["nDatapoints"]
        assert found - 300 - len(self.acknowledged) in (0, 1), (found, len(self.acknowledged))


def check_searched(service: Service) -> None:
    query = {"datapoint": {"featureVector": VECTOR}, "neighborCount": 3}
    status, _, told = service.ask("POST", "/v1/findNeighbors", {"queries": [query]})
    assert status == 200, told
    assert len(told["nearestNeighbors"][0]["neighbors"]) == 3


def writes_are(service: Service) -> str:
    """Return what the service says of its writes; it is ready whatever that is."""
    status, _, told = service.ask("GET", "/readyz")
    assert status == 200
    return str(told["writes"])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n_rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_full_disk_refuses_writes_until_there_is_space(
    vector_shop: Shop, start_service: Start, tmp_path: Path, n_rounds: int
) -> None:
    writer = Writer()
    with small_disk(tmp_path / "disk", (64 + 16 * n_rounds) << 20) as disk:
        for turn in range(n_rounds):
            with start_service(vector_shop, write_log=str(disk / "log")) as service:
                service.wait_until_ready()
                writer.check(service)
                empty(disk)
                assert writer.write(service) == 200
                fill(disk)
                while (status := writer.write(service, 20, 20_000)) == 200:  # what fits into what was reserved
                    pass
                assert status == 507
                for _ in range(5):
                    assert writer.write(service, 20, 20_000) == 507
                    check_searched(service)
                with grpc.insecure_channel(service.grpc) as channel:
                    point = pb.IndexDatapoint(datapoint_id="g" * 1000, feature_vector=VECTOR)
                    with pytest.raises(grpc.RpcError) as refused:
                        IndexServiceStub(channel).UpsertDatapoints(pb.UpsertDatapointsRequest(datapoints=[point] * 900))
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "the disk of the write log is full" in refused.value.details()
                assert writes_are(service) == "No space left on device; writes go on once there is space"
                writer.check(service)
                if turn % 2:
                    service.process.send_signal(signal.SIGKILL)
                    continue
                empty(disk)
                assert writer.write(service, 20, 20_000) == 200, "the first write after there is space"
                assert writes_are(service) == "ok"
                writer.check(service)
                fill(disk)
                service.process.send_signal(signal.SIGKILL)
        with start_service(vector_shop, write_log=str(disk / "log")) as service:  # the disk is full still
            service.wait_until_ready()
            writer.check(service)
            check_searched(service)
            while (status := writer.write(service, 20, 20_000)) == 200:
                pass
            assert status == 507
            empty(disk)
            assert writer.write(service, 20, 20_000) == 200
            writer.check(service)


@contextmanager
def failing(service: Service, folder: Path, call: str, nth: int, trace: Path) -> Iterator[None]:
    """Let the nth call of a kind on the log's files fail from now on, once."""
    files = [part for path in sorted(folder.iterdir()) for part in ("-P", str(path))]
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={nth}"]
    command = ["strace", "-f", "-o", str(trace), *files, *inject, "-p", str(service.process.pid)]
    tracing = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracing.stderr is not None
    try:
        told = tracing.stderr.readline()
        if "attached" not in told:
            pytest.skip(f"needs to trace a process: {told.strip()}")
        yield
    finally:
        tracing.kill()
        tracing.wait()
        tracing.stderr.close()


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace, which fails a system call for us")
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
@pytest.mark.parametrize("n_faults", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_after_a_failed_call_nothing_is_acknowledged_and_a_restart_mends_it(
    vector_shop: Shop, start_service: Start, tmp_path: Path, call: str, n_faults: int
) -> None:
    """The nth sync, or write, of the log fails, n from 1 on."""
    for nth in range(1, n_faults + 1):
        writer, folder = Writer(), tmp_path / str(nth)
        with start_service(vector_shop, write_log=str(folder)) as service:
            service.wait_until_ready()
            with failing(service, folder / vector_shop.name, call, nth, tmp_path / "trace"):
                while (status := writer.write(service)) == 200:
                    assert len(writer.acknowledged) < 100 * nth
            assert status == 503
            assert len(writer.acknowledged) >= nth - 1  # strace counts the calls of each thread apart
            for _ in range(3):
                assert writer.write(service) == 503
                check_searched(service)
            assert writes_are(service) == "Input/output error"
            service.process.send_signal(signal.SIGKILL)
        with start_service(vector_shop, write_log=str(folder)) as service:
            service.wait_until_ready()
            writer.check(service)
            assert writes_are(service) == "ok"
            assert writer.write(service) == 200
        shutil.rmtree(folder)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n_flips", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_damaged_log_is_served_read_only_until_it_is_repaired(
    vector_shop: Shop, start_service: Start, tmp_path: Path, n_flips: int
) -> None:
    rng = Random(n_flips)
    writer, folder = Writer(), tmp_path / vector_shop.name
    with start_service(vector_shop, write_log=str(tmp_path)) as service:
        service.wait_until_ready()
        for _ in range(30):
            assert writer.write(service) == 200
    (file,) = folder.glob("*.log")
    whole = file.read_bytes()
    for _ in range(n_flips):
        at = rng.randrange(64, len(whole) * 9 // 10)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        with start_service(vector_shop, write_log=str(tmp_path)) as service:
            service.wait_until_ready()
            n_before = service.ask("GET", "/v1/versions/current")[2]["nDatapoints"] - 300
            assert 0 <= n_before < 30, "what lies before the damage"
            check_searched(service)
            assert writer.write(service) == 503
            assert "likewise log repair" in writes_are(service)
            assert "no writes are taken, and those behind the damage are not there" in service.log.read_text()
        plan = likewise("log", "repair", folder)
        assert (plan["n_kept"], plan["n_lost"], plan["is_repaired"]) == (29, 1, False)
        assert plan["lost"] == [[n_before + 1, n_before + 1]]
        assert likewise("log", "repair", folder, "--yes") == plan | {"is_repaired": True}
        with start_service(vector_shop, write_log=str(tmp_path)) as service:
            service.wait_until_ready()
            assert writes_are(service) == "ok"
            kept = [one for at, one in enumerate(writer.acknowledged) if at != n_before]
            told = service.ask("POST", "/v1/readIndexDatapoints", {"ids": kept})[2]
            assert [each["datapointId"] for each in told["datapoints"]] == kept
            assert service.ask("GET", "/v1/versions/current")[2]["nDatapoints"] == 300 + 29
        for left in (*folder.glob("*.damaged"), *folder.glob("*.log"), folder / "head"):
            left.unlink()
        file.write_bytes(whole)
        likewise("log", "repair", folder, "--yes")  # the head, from the file
