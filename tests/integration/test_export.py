"""Tables of neighbors: the answers of a running service, whole or not at all, resumed after a kill, mapped by a service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pyarrow.dataset as ds
import pytest

from lifecycle.cli import DONE, USAGE, run
from lifecycle.exporting.folder import FolderSink
from lifecycle.exporting.job import run as run_job
from lifecycle.exporting.neighbors import NeighborExport
from matching.errors import AlreadyExists
from matching.neighbor_table import Asked, NeighborTable, read_table_manifest
from matching.store import Store
from tests.databases import PostgresProcess
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

ROOT = Path(__file__).resolve().parents[2]
Told = dict[str, list[tuple[str, float]]]


def rows_of(folder: Path) -> Told:
    """What a folder of Parquet or JSON Lines tells, by item, in the order of ranks."""
    manifest = read_table_manifest(folder)
    found: Told = {}
    for name in manifest.parts:
        if manifest.form == "parquet":
            rows = ds.dataset(folder / name).to_table().to_pylist()
        else:
            rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for row in rows:
            own = found.setdefault(row["item_id"], [])
            own.append((row["neighbor_id"], row["distance"]))
            assert row["rank"] == len(own)
    assert sum(map(len, found.values())) == manifest.n_rows
    return found


def asked_of(service: Service, ids: list[str], **query: Any) -> Told:
    """What a service tells of the same items, in batches."""
    found: Told = {}
    for at in range(0, len(ids), 50):
        queries = [{"datapoint": {"datapointId": one}, **query} for one in ids[at : at + 50]]
        code, _, told = service.ask("POST", "/v1/findNeighbors", {"queries": queries})
        assert code == 200, told
        for result in told["nearestNeighbors"]:
            found[result["id"]] = [(n["datapoint"]["datapointId"], n["distance"]) for n in result["neighbors"]]
    return found


def near(told: Told) -> dict[str, list[tuple[str, float]]]:
    """Distances as float32 has them: Parquet and JSON write the same number differently."""
    return {item: [(one, float(np.float32(d))) for one, d in own] for item, own in told.items()}


@pytest.fixture(scope="module")
def graph_service(graph_shop: Shop, start_service: Start) -> Iterator[Service]:
    with start_service(graph_shop) as service:
        service.wait_until_ready()
        yield service


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_table_is_what_the_service_answers(
    vector_shop: Shop, vector_service: Service, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table"
    asked = ["--name", "vectors", "-k", "7", "--restrict", "color=red,blue", "--number", "price<=20"]
    command = ["export", "neighbors", "--store", str(vector_shop.store), *asked, "--output", str(out), "--format", form]
    assert run([*command, "--part-items", "64", "--threads", "2", "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["n_items"], told["n_kept"], told["index_version"]) == (300, 0, vector_service.index_version)
    assert {path.name for path in tmp_path.iterdir()} == {"table"}
    found = rows_of(out)
    restricts = [{"namespace": "color", "allowList": ["red", "blue"]}]
    numbers = [{"namespace": "price", "valueDouble": 20.0, "op": "LESS_EQUAL"}]
    expected: Told = {}
    for one in found:
        query = {"datapoint": {"datapointId": one, "restricts": restricts, "numericRestricts": numbers}}
        code, _, answer = vector_service.ask("POST", "/v1/findNeighbors", {"queries": [{**query, "neighborCount": 7}]})
        assert code == 200, answer
        (result,) = answer["nearestNeighbors"]
        expected[one] = [(n["datapoint"]["datapointId"], n["distance"]) for n in result["neighbors"]]
    assert near(found) == near(expected)
    assert len(found) == 300
    assert {len(own) for own in found.values()} == {7}
    assert run([*command, "--part-items", "64"]) == DONE  # it is there, and nothing is done
    assert "300 of them were there" in capsys.readouterr().out
    assert run([*command, "--part-items", "64", "-k", "8"]) == USAGE
    assert "holds something else" in capsys.readouterr().err


def test_a_graph_tells_a_batch_what_it_tells_each(graph_shop: Shop, graph_service: Service, tmp_path: Path) -> None:
    out = tmp_path / "table"
    command = ["export", "neighbors", "--store", str(graph_shop.store), "--name", graph_shop.name, "-k", "50"]
    assert run([*command, "--output", str(out), "--threads", "2", "--part-items", "5000"]) == DONE
    found = rows_of(out)
    ids = sorted(found)[::40]
    assert near({one: found[one] for one in ids}) == near(asked_of(graph_service, ids, neighborCount=50))
    version = Store(graph_shop.store).open(graph_shop.name)
    exact = version.search_by_id(ids, 50, space="vectors", exact=True)
    right = sum(
        len({n.datapoint_id for n in own} & {one for one, _ in found[item]}) for item, own in zip(ids, exact.neighbors)
    )
    assert right / (50 * len(ids)) > 0.9


def test_an_export_that_is_killed_goes_on_where_it_was(vector_shop: Shop, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = ["export", "neighbors", "--store", str(vector_shop.store), "--name", "vectors", "-k", "10"]
    command += ["--part-items", "2"]
    assert run([*command, "--output", str(whole)]) == DONE
    work = tmp_path / "killed.partial"
    again = [*command, "--output", str(killed), "--json"]
    process = subprocess.Popen([sys.executable, "-m", "lifecycle", *again], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(list(work.glob("part-*.parquet"))) >= 3 or process.poll() is not None, "some parts")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not killed.exists()
    kept = {file.name: file.stat().st_mtime_ns for file in work.glob("part-*.parquet")}
    noted = (work / "parts.jsonl").read_text().count("\n")
    assert 2 <= noted <= len(kept) < 150
    done = subprocess.run(
        [sys.executable, "-m", "lifecycle", *again], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert (told["n_kept"], told["n_items"]) == (2 * noted, 300)
    assert not work.exists()
    is_old = [file.name for file in killed.glob("part-*") if file.stat().st_mtime_ns == kept.get(file.name)]
    assert len(is_old) >= noted
    assert near(rows_of(killed)) == near(rows_of(whole))
    one, other = read_table_manifest(killed), read_table_manifest(whole)
    assert (one.version_id, one.asked, one.n_rows, one.job) == (other.version_id, other.asked, other.n_rows, other.job)
    assert {name: part.sha256 for name, part in one.parts.items()} == {
        name: part.sha256 for name, part in other.parts.items()
    }


def test_parts_of_another_export_are_made_again(vector_shop: Shop, tmp_path: Path) -> None:
    version = Store(vector_shop.store).open("vectors")

    def broken(places: slice) -> Any:
        if places.start >= 100:
            raise OSError("the power is gone")
        return exports[0].part(places)

    exports = [NeighborExport(version, Asked(k, "vectors")) for k in (5, 6)]
    for _ in range(2):
        with FolderSink(tmp_path / "t", "jsonl") as sink, pytest.raises(OSError, match="power"):
            run_job(exports[0].job(50, ""), sink, broken, threads=1)
        assert not (tmp_path / "t").exists()
    with FolderSink(tmp_path / "t", "jsonl") as sink:
        assert sink.begin(exports[0].job(50, "")) == {0, 1}
        with pytest.raises(AlreadyExists, match="another process writes"):
            FolderSink(tmp_path / "t", "jsonl").begin(exports[0].job(50, ""))
    with FolderSink(tmp_path / "t", "jsonl") as sink:
        done = run_job(exports[1].job(50, ""), sink, exports[1].part, threads=1)
    assert (done.n_kept, done.n_rows) == (0, 1800)
    assert {len(own) for own in rows_of(tmp_path / "t").values()} == {6}


def test_what_is_not_ours_stays(vector_shop: Shop, tmp_path: Path) -> None:
    command = ["export", "neighbors", "--store", str(vector_shop.store), "--name", "vectors", "--output"]
    for name in ("mine", "other.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "letter").write_text("dear")
    for name in ("mine", "other"):
        assert run([*command, str(tmp_path / name)]) == USAGE
    assert [file.name for file in sorted(tmp_path.rglob("letter"))] == ["letter", "letter"]
    assert run([*command, "ftp://host/table"]) == USAGE
    assert run([*command, "postgresql://host/db", "--table", "drop table"]) == USAGE


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresProcess]:
    held = PostgresProcess()
    held.start()
    yield held
    held.remove()


def in_database(address: str, table: str = "likewise_neighbors") -> Told:
    found: Told = {}
    with psycopg.connect(address) as connection:
        for item, rank, neighbor, distance in connection.execute(f"SELECT * FROM {table} ORDER BY item_id, rank"):
            own = found.setdefault(item, [])
            own.append((neighbor, distance))
            assert rank == len(own)
    return found


def test_a_database_has_the_same_rows_at_once_or_the_old_ones(
    vector_shop: Shop, database: PostgresProcess, tmp_path: Path
) -> None:
    address = database.new_database()
    command = ["export", "neighbors", "--store", str(vector_shop.store), "--name", vector_shop.name]
    command += ["--part-items", "2", "--output"]
    assert run([*command, str(tmp_path / "t"), "-k", "10"]) == DONE
    expected = near(rows_of(tmp_path / "t"))
    assert run([*command, address, "-k", "3"]) == DONE
    old = in_database(address)
    assert {len(own) for own in old.values()} == {3}
    again = [sys.executable, "-m", "lifecycle", *command, address, "-k", "10", "--threads", "2", "--json"]
    process = subprocess.Popen(again, cwd=ROOT, stdout=subprocess.DEVNULL)

    def n_parts() -> int:
        with psycopg.connect(address) as connection:
            (n,) = connection.execute("SELECT count(*) FROM likewise_export_parts WHERE part >= 0").fetchone() or (0,)
            return int(n)

    try:
        wait_until(lambda: n_parts() >= 3 or process.poll() is not None, "some parts")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert in_database(address) == old
    wait_until(lambda: run([*command, address, "-k", "10", "--threads", "2"]) == DONE, "the lock of the dead to go")
    assert near(in_database(address)) == expected
    with psycopg.connect(address) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        (comment,) = connection.execute("SELECT obj_description('likewise_neighbors'::regclass)").fetchone() or ("",)
        connection.execute("CREATE TABLE theirs (letter text)")
    assert {name for (name,) in tables} == {"likewise_neighbors", "likewise_export_parts"}
    assert Store(vector_shop.store).resolve(vector_shop.name) in comment
    assert run([*command, address, "--table", "theirs"]) == USAGE


def test_a_dead_database_is_told_of(vector_shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "neighbors", "--store", str(vector_shop.store), "--name", "vectors", "--output"]
    assert run([*command, "postgresql://shop@127.0.0.1:1/shop"]) == 3
    assert "cannot be reached" in capsys.readouterr().err


def test_a_sealed_table_is_mapped_and_believed_only_whole(vector_shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "table"
    command = ["export", "neighbors", "--store", str(vector_shop.store), "--name", "vectors", "-k", "4"]
    assert run([*command, "--output", str(out), "--format", "sealed", "--part-items", "70"]) == DONE
    version = Store(vector_shop.store).open("vectors")
    table = NeighborTable.open(out)
    for row in range(300):
        (expected,) = version.search_by_id([version.columns.datapoint_id(row)], 4, space="vectors").neighbors
        found = table.find(version, row)
        assert found is not None
        assert version.columns.datapoint_ids(found.rows.tolist()) == [n.datapoint_id for n in expected]
        assert found.distances.tolist() == [n.distance for n in expected]
        assert found.n_matching == 299
    assert table.find(version, 300) is None
    part = sorted(out.glob("part-*"))[1]
    content = bytearray(part.read_bytes())
    content[5000] ^= 1
    part.write_bytes(content)
    with pytest.raises(OSError, match="does not match its checksum"):
        NeighborTable.open(out)
    os.truncate(part, 5000)
    with pytest.raises(OSError, match="not the file that was written"):
        NeighborTable.open(out)


def test_a_service_answers_from_a_table_what_it_would_have_found(
    vector_shop: Shop, vector_service: Service, start_service: Start, tmp_path: Path
) -> None:
    command = ["export", "neighbors", "--store", str(vector_shop.store), "--name", "vectors", "-k", "10"]
    for name, more in (("all", []), ("red", ["--restrict", "color=red"])):
        assert run([*command, *more, "--output", str(tmp_path / name), "--format", "sealed"]) == DONE
    tables = [str(tmp_path / name) for name in ("all", "red")]
    red = [{"namespace": "color", "allowList": ["red"]}]

    def ask(service: Service, one: str, **query: Any) -> tuple[str, Any]:
        wanted = {"datapoint": {"datapointId": one, "restricts": query.pop("restricts", [])}, **query}
        code, _, told = service.ask("POST", "/v1/findNeighbors", {"queries": [wanted]})
        assert code == 200, told
        (result,) = told["nearestNeighbors"]
        return result["plan"], (result["neighbors"], result["nMatching"])

    with start_service(vector_shop, tables=tables, write_log=str(tmp_path / "log"), max_wait_s=30) as service:
        service.wait_until_ready()
        for asked, plan in (
            ({"neighborCount": 10}, "table"),
            ({"neighborCount": 3}, "table"),
            ({"neighborCount": 10, "restricts": red}, "table"),
            ({"neighborCount": 11}, "exact"),
            ({"neighborCount": 10, "exact": True}, "exact"),
            ({"neighborCount": 10, "includeSelf": True}, "exact"),
            ({"neighborCount": 10, "perCrowdingAttributeNeighborCount": 2}, "exact"),
            ({"neighborCount": 10, "restricts": [{"namespace": "color", "allowList": ["blue"]}]}, "exact"),
        ):
            for one in ("item-0007", "a/b 1é"):
                told, expected = ask(service, one, **asked), ask(vector_service, one, **asked)
                assert told[0] == plan, asked
                assert told[1] == expected[1], asked
        code, _, told = service.ask("GET", "/v1/items/item-0007/similar?k=5")
        assert (code, told["plan"] if "plan" in told else told["result"]["plan"]) == (200, "table")
        (nearest, *_), _ = ask(service, "item-0007", neighborCount=10)[1]
        gone = nearest["datapoint"]["datapointId"]
        assert service.ask("POST", "/v1/removeDatapoints", {"datapointIds": [gone]})[0] == 200
        wait_until(lambda: ask(service, "item-0007", neighborCount=10)[0] == "exact", "the removal to be seen")
        plan, (neighbors, n_matching) = ask(service, "item-0007", neighborCount=10)
        assert gone not in {each["datapoint"]["datapointId"] for each in neighbors}
        assert (len(neighbors), n_matching) == (10, 298)
        assert ask(service, "item-0007", neighborCount=10, restricts=red)[0] == "exact"


def test_tables_of_other_versions_are_not_asked(
    vector_shop: Shop, graph_shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    command = ["export", "neighbors", "--store", str(vector_shop.store), "--name", "vectors", "-k", "10"]
    assert run([*command, "--output", str(tmp_path / "t"), "--format", "sealed"]) == DONE
    with start_service(graph_shop, tables=[str(tmp_path / "t")]) as service:
        service.wait_until_ready()
        code, _, told = service.ask("POST", "/v1/findNeighbors", {"queries": [{"datapoint": {"datapointId": "00007"}}]})
        assert (code, told["nearestNeighbors"][0]["plan"]) == (200, "graph")
    with (
        pytest.raises(AssertionError, match=r"holds no table\.json"),
        start_service(vector_shop, tables=[str(tmp_path)]),
    ):
        pass
