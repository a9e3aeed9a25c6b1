"""Days of a service in little: it is searched, written to, compacted and switched at once, and nothing piles up."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from matching.store import Store
from tests.integration.test_deployment import DIM, load, new_version, served
from tests.services import Shop
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Start

N_WRITTEN = 200


@pytest.mark.parametrize("n_compactions", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_nothing_piles_up(tmp_path: Path, start_service: Start, n_compactions: int) -> None:
    """Rounds of the same work; what is held after the last ones is what was held after the first ones."""
    store = Store(tmp_path / "store", create=True)
    store.set_alias("shop", new_version(store, "a"), why="test")
    rng = np.random.default_rng(20260108)
    faults: list[object] = []
    is_over = threading.Event()
    settings = {
        "write_log": str(tmp_path / "log"),
        "follow_s": 0.05,
        "compact_after_writes": 50,
        "compact_after_frac": 0.0,
        "log_keeps_versions": 2,
    }
    held: list[tuple[int, int, int, int]] = []  # resident bytes, descriptors, threads, bytes of the write log
    with start_service(Shop(store.path, "shop"), **settings) as service:
        service.wait_until_ready()
        process = psutil.Process(service.process.pid)

        def write() -> None:
            """Put the same items in again and again, and take some out."""
            while not is_over.wait(0.1):
                names = [f"0-new-{at}" for at in rng.choice(N_WRITTEN, 5, replace=False)]
                points = [{"datapointId": name, "featureVector": [50.0 + rng.random()] * DIM} for name in names]
                for path, body in (
                    ("upsertDatapoints", {"datapoints": points}),
                    ("removeDatapoints", {"datapointIds": names[:2]}),
                ):
                    status, _, answer = service.ask("POST", f"/v1/{path}", body)
                    if status != 200:
                        faults.append(answer)

        writing = threading.Thread(target=write)
        writing.start()
        try:
            with load(service, defaultdict(lambda: "a"), per_s=50) as told:
                for _ in range(n_compactions):
                    before = served(service)
                    wait_until(lambda: served(service) != before, service.log.read_text()[-2000:])  # noqa: B023
                    log_bytes = sum(file.stat().st_size for file in (tmp_path / "log").rglob("*") if file.is_file())
                    held.append((process.memory_info().rss, process.num_fds(), process.num_threads(), log_bytes))
        finally:
            is_over.set()
            writing.join()
    assert told.faults == []
    assert faults == []
    third = n_compactions // 3
    early, late = np.array(held[:third]).max(axis=0), np.array(held[-third:]).min(axis=0)
    print(f"{n_compactions} compactions, {told.n_answered} answers; at most {early} early, at least {late} late")
    assert late[0] <= early[0] * 1.05
    assert late[1] <= early[1] + 2
    assert late[2] <= early[2] + 2
    assert late[3] <= early[3] * 2
