"""A service that compacts by itself while it is asked and written to."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from matching.live import LiveIndex, WriteLog
from matching.store import Store
from tests.integration.test_deployment import DIM, load, new_version, served, shop
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

__all__ = ["shop"]
QUICK: dict[str, Any] = {"compact_after_writes": 30, "compact_after_frac": 0.0, "follow_s": 0.1}


def upserted(service: Service, ids: list[str], seed: int) -> str:
    """Write datapoints; return the token of the last."""
    vectors = np.random.default_rng(seed).normal(size=(len(ids), DIM)) + 100  # far from what `load` asks for
    points = [{"datapointId": one, "featureVector": v.tolist()} for one, v in zip(ids, vectors, strict=True)]
    status, _, told = service.ask("POST", "/v1/upsertDatapoints", {"datapoints": points})
    assert status == 200, told
    return str(told["versionToken"])


def held(service: Service, ids: list[str], token: str) -> int:
    body = {"ids": ids, "minVersion": token}
    status, _, told = service.ask("POST", "/v1/readIndexDatapoints", body)
    assert status == 200, told
    return len(told["datapoints"])


def test_writes_are_folded_in_again_and_again_and_nobody_notices(
    shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    store = Store(shop.store)
    base = store.resolve("shop")
    with start_service(shop, write_log=str(tmp_path / "log"), log_keeps_versions=2, **QUICK) as service:
        service.wait_until_ready()
        marks = defaultdict(lambda: "a")  # every version holds the same items
        written: list[str] = []
        with load(service, marks, per_s=50) as told:
            for turn in range(2):
                before = served(service)
                ids = [f"w{turn}-{at}" for at in range(40)]
                written += ids
                token = upserted(service, ids, turn)
                wait_until(lambda: served(service) != before, service.log.read_text()[-2000:])  # noqa: B023
                assert held(service, written, token) == len(written)
            wait_until(lambda: served(service) in told.versions, "the load met the last version")
        assert told.faults == []
        assert told.versions == {base, *store.versions()}
        manifest = store.manifest("shop")
        assert (manifest.log_sequence, manifest.n_datapoints) == (80, 480)
        moves = store.history("shop")
        assert [move.by for move in moves[1:]] == ["compaction", "compaction"]
        assert [move.why for move in moves[1:]] == ["writes up to 40 taken in", "writes up to 80 taken in"]
        assert moves[0].new == base == store.manifest(moves[1].new).parent
        wait_until(lambda: service.log.read_text().count("writes dropped, the log begins at") == 2, "both truncated")
        token = upserted(service, ["last"], 9)
        assert held(service, ["last", *written], token) == 81
    with WriteLog.open(tmp_path / "log" / "shop") as log:
        live = LiveIndex(store.open("shop"), log)
        assert (live.snapshot.sequence, live.snapshot.n_datapoints) == (81, 481)
        live.close()
    assert list((store.path / "work").iterdir()) == []


def test_one_that_fails_is_told_of_and_put_off(shop: Shop, start_service: Start, tmp_path: Path) -> None:
    """All datapoints are removed: no version could hold what is left."""
    store = Store(shop.store)
    version = store.open("shop")
    ids = [version.columns.datapoint_id(row) for row in range(version.n_datapoints)]
    with start_service(shop, write_log=str(tmp_path / "log"), **QUICK) as service:
        service.wait_until_ready()
        status, _, told = service.ask("POST", "/v1/removeDatapoints", {"datapointIds": ids})
        assert status == 200, told
        wait_until(lambda: "compaction of shop failed" in service.log.read_text(), "it fails")
        assert "no vector is left in space 'vectors'" in service.log.read_text()
        token = upserted(service, ["back"], 1)
        assert held(service, ["back"], token) == 1
        time.sleep(1)
        assert service.log.read_text().count("compacting shop up to") == 1, "it waits for as many writes more"
        assert served(service) == version.version_id
        more = [f"m{at}" for at in range(410)]
        token = upserted(service, more, 2)
        wait_until(lambda: served(service) != version.version_id, "it is done later")
        assert held(service, more, token) == 410


@pytest.mark.parametrize("settings", [{"compact_after_writes": 0}, {"compact_after_frac": 0.5}])
def test_below_its_limits_it_rests(
    shop: Shop, start_service: Start, tmp_path: Path, settings: dict[str, float]
) -> None:
    with start_service(shop, write_log=str(tmp_path / "log"), **{**QUICK, **settings}) as service:
        service.wait_until_ready()
        token = upserted(service, [f"w-{at}" for at in range(100)], 3)
        time.sleep(1)
        assert held(service, ["w-7"], token) == 1
        assert "compacting" not in service.log.read_text()
    assert len(Store(shop.store).versions()) == 1


def test_a_service_that_ends_takes_the_compaction_with_it(shop: Shop, start_service: Start, tmp_path: Path) -> None:
    with start_service(shop, write_log=str(tmp_path / "log"), **QUICK) as service:
        service.wait_until_ready()
        upserted(service, [f"w-{at}" for at in range(100)], 3)
        wait_until(lambda: "compacting shop up to" in service.log.read_text(), "it begins")
    assert service.process.returncode == 0, service.log.read_text()
    store = Store(shop.store)
    store.remove_work(store.new_work("next"))
    with WriteLog.open(tmp_path / "log" / "shop") as log:
        live = LiveIndex(store.open("shop"), log)
        assert live.snapshot.n_datapoints == 500
        live.close()


def test_one_whose_alias_is_moved_meanwhile_leaves_it(shop: Shop, start_service: Start, tmp_path: Path) -> None:
    store = Store(shop.store)
    other = store.resolve("shop")
    store.set_alias("shop", new_version(store, "g", n=10_000, plan="graph"), why="takes a while to build again")
    with start_service(shop, write_log=str(tmp_path / "log"), **QUICK) as service:
        service.wait_until_ready()
        upserted(service, [f"w-{at}" for at in range(40)], 3)
        wait_until(lambda: any((store.path / "work").glob("*.lock")), "it has read the alias and begins to build")
        (compacting,) = [one for one in psutil.Process(service.process.pid).children() if "compact" in one.cmdline()]
        compacting.suspend()
        store.set_alias("shop", other, why="by hand, meanwhile")
        wait_until(lambda: served(service) == other, "the service follows")
        compacting.resume()
        wait_until(lambda: "compaction of shop failed" in service.log.read_text(), service.log.read_text()[-2000:])
        assert f"alias 'shop' names {other} by now" in service.log.read_text()
        assert served(service) == other
    assert store.history("shop")[-1].why == "by hand, meanwhile"
