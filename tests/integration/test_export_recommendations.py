"""Tables of recommendations: what a running service would answer each user."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest

from lifecycle.cli import DONE, USAGE, run
from matching.datapoint import Datapoint, Restrict
from matching.event_log import SqlEventLog
from matching.events import Event, EventItem
from matching.recommend import ModelStore
from matching.recommend.model_store import model_id_of
from matching.rules import RuleStore
from matching.rules.parsing import rules_of
from matching.sources.training import train
from matching.store import Store
from matching.user_keys import UserKeys
from tests.databases import PostgresProcess
from tests.interactions import NOW, random_interactions
from tests.services import Shop
from tests.versions import build_version

if TYPE_CHECKING:
    from tests.services import Service, Start

KNOWN = random_interactions(8, n_items=40, n=900)
SOURCES = {"sequential-rules": 1.0, "ease": 0.5, "trending": 0.0}
USERS = [f"shopper-{at}" for at in range(25)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    store = Store(tmp_path_factory.mktemp("shop") / "store", create=True)
    items = [Datapoint(item, (Restrict("half", (str(at % 2),)),)) for at, item in enumerate(KNOWN.item_ids)]
    vectors = np.random.default_rng(1).normal(size=(len(items), 8)).astype(np.float32)
    build_version(store, items, vectors, "cosine", alias="shop")
    for source in SOURCES:
        manifest = train(ModelStore(store.path), source, KNOWN, now_ms=NOW)
        ModelStore(store.path).set_alias(source, model_id_of(manifest), why="test")
    pinned: list[dict[str, Any]] = [
        {"id": "second", "kind": "pin", "item": "i007", "slot": 2},
        {"id": "down", "kind": "bury", "factor": 0.3, "items": ["i001"]},
    ]
    RuleStore(store.path).put("shop", rules_of(pinned), why="test")
    return Shop(store.path, "shop")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What 20 of the 25 users did in the last days."""
    file = tmp_path_factory.mktemp("log") / "events.sqlite"
    keys = UserKeys.of_file(file.with_name(f"{file.name}.key"))
    now, rng = int(time.time() * 1000), np.random.default_rng(3)
    with SqlEventLog.open(file) as held:
        for at in range(120):
            kind = ("view", "add_to_cart", "purchase")[at % 3]
            item = EventItem(KNOWN.item_ids[int(rng.integers(40))])
            when = now - (121 - at) * 3_600_000
            held.append([Event(f"e{at}", kind, keys.key(USERS[at % 20]), "", (item,), when, when)])
    return file


@pytest.fixture(scope="module")
def service(shop: Shop, log: Path, start_service: Start) -> Iterator[Service]:
    with start_service(shop, recommend={"sources": SOURCES, "rules": "shop"}, events={"log": str(log)}) as running:
        running.wait_until_ready()
        yield running


def command(shop: Shop, output: object, *more: str) -> list[str]:
    asked = ["export", "recommendations", "--store", str(shop.store), "--name", "shop", "--output", str(output)]
    return [*asked, *(f"--source={name}={weight}" for name, weight in SOURCES.items()), *more]


def test_each_user_gets_what_the_service_answers(shop: Shop, log: Path, service: Service, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("\n".join(USERS))
    more = [
        "--rules",
        "shop",
        "--users",
        str(tmp_path / "users"),
        "--events",
        str(log),
        "-k",
        "8",
        "--restrict",
        "half=1",
        "--exclude-bought",
    ]
    assert run(command(shop, tmp_path / "t", *more, "--part-users", "7", "--threads", "2")) == DONE
    parts = sorted((tmp_path / "t").glob("part-*.parquet"))
    assert len(parts) == 4
    found: dict[str, list[dict[str, Any]]] = {user: [] for user in USERS}
    for part in parts:
        for row in pq.read_table(part).to_pylist():
            own = found[row.pop("user_id")]
            own.append(row)
            assert row.pop("rank") == len(own)
    for user in USERS:
        body = {"userId": user, "k": 8, "excludeBought": True, "restricts": [{"namespace": "half", "allowList": ["1"]}]}
        code, _, told = service.ask("POST", "/v1/recommend", body)
        assert code == 200, told
        names = ("item_id", "score", "sources", "reason", "because", "rules")
        answered = [
            dict(zip(names, (each["itemId"], *(each[name] for name in names[1:])), strict=True))
            for each in told["items"]
        ]
        scores = [[row.pop("score") for row in rows] for rows in (found[user], answered)]
        assert found[user] == answered, user
        assert scores[0] == pytest.approx(scores[1], rel=1e-5)  # histories are a little older by now
    assert any([each["item_id"] for each in own].index("i007") == 1 for own in found.values() if len(own) > 1)
    manifest = json.loads((tmp_path / "t" / "table.json").read_text())
    assert manifest["asked"]["rules"] == told["rulesVersion"] != ""
    assert (manifest["models"], manifest["version_id"]) == (told["models"], told["indexVersion"])
    assert (manifest["kind"], manifest["n_items"], manifest["n_rows"]) == ("recommendations", 25, 200)


def test_all_users_of_a_log_as_json_lines_and_in_a_database(shop: Shop, log: Path, tmp_path: Path) -> None:
    assert run(command(shop, tmp_path / "t", "--events", str(log), "-k", "3", "--format", "jsonl")) == DONE
    lines = [json.loads(line) for line in (tmp_path / "t" / "part-00000.jsonl").read_text().splitlines()]
    keys = UserKeys.of_file(log.with_name(f"{log.name}.key"))
    assert [line["user_id"] for line in lines[::3]] == sorted(keys.key(user) for user in USERS[:20])
    database = PostgresProcess()
    try:
        database.start()
        address = database.new_database()
        assert run(command(shop, address, "--events", str(log), "-k", "3")) == DONE
        with psycopg.connect(address) as connection:
            told = connection.execute("SELECT * FROM likewise_recommendations ORDER BY user_id, rank").fetchall()
        kept = [tuple(line.values()) for line in lines]
        assert [row[:3] for row in told] == [row[:3] for row in kept]
        assert [row[4:] for row in told] == [row[4:] for row in kept]
        assert [row[3] for row in told] == pytest.approx([row[3] for row in kept], rel=1e-5)
    finally:
        database.remove()


def test_an_export_goes_on_as_of_the_time_when_it_began(
    shop: Shop, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lifecycle.exporting.recommendations import RecommendationExport

    whole, left = RecommendationExport.part, []

    def broken(self: RecommendationExport, places: slice) -> Any:
        if places.start >= 10:
            raise KeyboardInterrupt
        left.append(places.start)
        return whole(self, places)

    more = ["--events", str(log), "-k", "5", "--part-users", "5", "--json"]
    monkeypatch.setattr(RecommendationExport, "part", broken)
    assert run(command(shop, tmp_path / "t", *more)) == 130
    monkeypatch.undo()
    began = json.loads((tmp_path / "t.partial" / "job.json").read_text())["asked"]
    key = UserKeys.of_file(log.with_name(f"{log.name}.key")).key("late")
    with SqlEventLog.open(log) as held:
        held.append([Event("late", "view", key, "", (EventItem("i001"),), began["at_ms"] + 1, began["at_ms"] + 1)])
    assert run(command(shop, tmp_path / "t", *more)) == DONE
    manifest = json.loads((tmp_path / "t" / "table.json").read_text())
    assert manifest["asked"]["at_ms"] == began["at_ms"]
    assert (manifest["asked"]["sequence"], manifest["n_items"]) == (120, 20)
    assert left == [0, 5]


def test_nobody_is_an_error(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(shop, tmp_path / "t")) == USAGE
    assert "there are no users" in capsys.readouterr().err
    assert run(command(shop, tmp_path / "t", "--surface", "cellar")) == USAGE
    assert run(command(shop, tmp_path / "t", "--users", str(tmp_path / "none"))) == USAGE
