"""The command line as others script it: a catalogue to answers, exit statuses, and what the user sees when it goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matching.live import Delete, LiveIndex, WriteLog, pack_write
from matching.store import Store
from tests.commands import likewise

N = 150


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shop") / "shop"
    likewise("catalog", "sample", directory, "--products", str(N))
    return directory


@pytest.fixture(scope="module")
def store(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("store")
    built = likewise(
        "build", "--catalog", shop / "products.parquet", "--images", shop, "--store", directory, "--name", "shop"
    )
    assert built["n_datapoints"] == N
    assert {s["name"]: s["plan"] for s in built["spaces"]} == {"text": "flat", "image": "flat", "fused": "flat"}
    return directory


def titles(answer: dict[str, Any]) -> list[str]:
    return [n["metadata"]["title"] for n in answer["neighbors"]]


def test_check_sums_the_catalogue_up(shop: Path) -> None:
    summary = likewise("catalog", "check", shop / "products.parquet", "--images", shop)
    assert (summary["n_rows"], summary["n_products"], summary["n_rejected_rows"]) == (N, N, 0)
    assert summary["n_rejected_pictures"] == 0
    assert summary["refusal"] is None


def test_text_picture_and_item_find_what_they_should(shop: Path, store: Path) -> None:
    where = ("--store", store, "--name", "shop")
    version = likewise("versions", "show", "shop", "--store", store)
    datapoint = likewise("search", *where, "--text", "a", "-k", "1")["neighbors"][0]
    own_title = datapoint["metadata"]["title"]
    by_text = likewise("search", *where, "--text", own_title, "-k", "5")
    assert own_title in titles(by_text)
    assert by_text["index_version"] == version["version"]
    pictured = next(
        n
        for n in likewise("search", *where, "--text", "shop", "-k", "20")["neighbors"]
        if n["metadata"].get("pictures")
    )
    picture = shop / pictured["metadata"]["pictures"][0]
    by_picture = likewise("search", *where, "--image", picture, "-k", "3")
    assert by_picture["space"] == "image"
    assert pictured["datapoint_id"] in [n["datapoint_id"] for n in by_picture["neighbors"]]
    by_item = likewise("search", *where, "--id", pictured["datapoint_id"], "-k", "4")
    assert by_item["space"] == "fused"
    assert pictured["datapoint_id"] not in [n["datapoint_id"] for n in by_item["neighbors"]]


def test_the_next_version_has_the_writes_and_answers_texts_and_pictures_as_before(
    shop: Path, store: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(store, tmp_path / "store"))
    picture = next(shop.rglob("*.jpg"))
    asked = [("--text", "red shoes"), ("--image", picture)]
    where = ("--store", store, "--name", "shop", "-k", "12")
    before = [likewise("search", *where, *one)["neighbors"] for one in asked]
    gone = {near[0]["datapoint_id"] for near in before}
    with WriteLog.open(tmp_path / "logs" / "shop") as log:
        log.append([pack_write(Delete(one)) for one in sorted(gone)])
    made = likewise("versions", "compact", "shop", "--store", store, "--log", tmp_path / "logs", "--promote")
    assert (made["n_datapoints"], made["is_promoted"]) == (N - len(gone), True)
    for one, was in zip(asked, before, strict=True):
        now = likewise("search", *where, *one)
        assert now["index_version"] == made["version"]
        left = [near for near in was if near["datapoint_id"] not in gone]
        assert [n["datapoint_id"] for n in now["neighbors"]][: len(left)] == [n["datapoint_id"] for n in left]
        assert [n["metadata"] for n in now["neighbors"]][: len(left)] == [n["metadata"] for n in left]
    assert likewise("versions", "show", "shop", "--store", store)["source"]["images_dir"] == str(shop.resolve())


def test_a_catalogue_may_have_writes_of_the_log_in_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    lines = [json.dumps({"id": f"{at}", "embedding": rng.standard_normal(8).tolist()}) for at in range(20)]
    (tmp_path / "vectors.json").write_text("\n".join(lines))
    store = tmp_path / "store"
    built = likewise(
        "build", "--vectors", tmp_path / "vectors.json", "--store", store, "--name", "v", "--log-sequence", "2"
    )
    with WriteLog.open(tmp_path / "log") as log:
        log.append([pack_write(Delete(f"{at}")) for at in range(3)])
        live = LiveIndex(Store(store).open(built["version"]), log)
        assert live.snapshot.n_datapoints == 19, "of the log, the third write alone is new to it"
        live.close()


def test_restricts_numbers_and_crowding_hold(store: Path) -> None:
    where = ("--store", store, "--name", "shop", "--text", "gift")
    every = likewise("search", *where, "-k", str(N))["neighbors"]
    category = every[0]["metadata"]["category"]
    price = sorted(n["metadata"]["price"] for n in every)[N // 2]
    allowed = [
        n["datapoint_id"] for n in every if n["metadata"]["category"] == category and n["metadata"]["price"] <= price
    ]
    found = likewise(
        "search", *where, "-k", str(N), "--restrict", f"category={category}", "--number", f"price<={price}"
    )
    assert [n["datapoint_id"] for n in found["neighbors"]] == allowed
    assert found["n_matching"] == len(allowed)
    capped = likewise("search", *where, "-k", "10", "--crowding", "1")["neighbors"]
    tags = [n["crowding_tag"] for n in capped if n["crowding_tag"] is not None]
    assert len(tags) == len(set(tags))


def test_versions_are_listed_verified_moved_and_compared(shop: Path, store: Path) -> None:
    first = likewise("versions", "list", "--store", store)[-1]["version"]
    second = likewise(
        "build", "--catalog", shop / "products.parquet", "--store", store, "--name", "texts", "--seed", "4"
    )["version"]
    assert likewise("versions", "verify", "shop", "--store", store)["is_intact"]
    difference = likewise("versions", "diff", "shop", "texts", "--store", store)
    assert (difference["n_gained"], difference["n_lost"]) == (0, 0)
    assert difference["settings"] == {"seed": [0, 4]}
    assert difference["spaces"][0] | {"neighbors_kept": 1.0, "is_comparable": True} == difference["spaces"][0]
    likewise("versions", "alias", "live", "--to", first, "--why", "first", "--store", store)
    likewise("versions", "alias", "live", "--to", second, "--why", "newer", "--store", store)
    moves = likewise("versions", "alias", "live", "--store", store)
    assert [(m["old"], m["new"], m["why"]) for m in moves] == [(None, first, "first"), (first, second, "newer")]


def test_ready_vectors_are_searched_by_vector(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 6))
    rows = [
        {
            "id": f"v{at}",
            "embedding": v.tolist(),
            "restricts": [{"namespace": "side", "allow": ["even" if at % 2 == 0 else "odd"]}],
        }
        for at, v in enumerate(vectors)
    ]
    (tmp_path / "vectors.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    likewise(
        "build", "--vectors", tmp_path / "vectors.json", "--metric", "l2", "--store", tmp_path / "s", "--name", "v"
    )
    np.save(tmp_path / "query.npy", vectors[7].astype(np.float32))
    found = likewise(
        "search",
        "--store",
        tmp_path / "s",
        "--name",
        "v",
        "--vector",
        tmp_path / "query.npy",
        "-k",
        "3",
        "--restrict",
        "side=odd",
    )
    assert found["neighbors"][0]["datapoint_id"] == "v7"
    assert found["neighbors"][0]["distance"] == pytest.approx(0, abs=1e-6)
    assert found["n_matching"] == 20
    complaint = likewise("search", "--store", tmp_path / "s", "--name", "v", "--text", "x", status=2)
    assert "was built from ready vectors and has no encoder" in complaint


@pytest.mark.parametrize("plan", ["graph", "hnsw"])
def test_a_graph_is_built_verified_and_searched(tmp_path: Path, plan: str) -> None:
    rng = np.random.default_rng(4)
    centres = rng.standard_normal((50, 32))
    vectors = (centres[rng.integers(0, 50, 12_000)] + 0.5 * rng.standard_normal((12_000, 32))).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    store = tmp_path / "store"
    built = likewise(
        "build",
        "--vectors",
        tmp_path / "vectors.npy",
        "--metric",
        "ip",
        "--store",
        store,
        "--name",
        "v",
        "--plan",
        plan,
    )
    [space] = built["spaces"]
    assert (space["plan"], space["n_vectors"]) == (plan, 12_000)
    assert space["params"]["predicted_resident_bytes"] > 12_000 * 32
    assert space["recall"]["low"] >= 0.95
    likewise("versions", "verify", "v", "--store", store)
    np.save(tmp_path / "query.npy", vectors[77] + np.float32(0.01))
    asked = ("search", "--store", store, "--name", "v", "--vector", tmp_path / "query.npy", "-k", "10")
    found, exact = likewise(*asked), likewise(*asked, "--exact")
    ids, true = ([n["datapoint_id"] for n in answer["neighbors"]] for answer in (found, exact))
    assert len(set(ids) & set(true)) >= 8
    assert (ids[0], found["neighbors"][0]["distance"]) == (true[0], exact["neighbors"][0]["distance"])
    file = store / "versions" / built["version"] / "spaces" / "vectors" / f"shard-0000.{plan}"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    assert "restore" in likewise(*asked, status=3)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("build", "--store", "s", "--name", "x"), 2, "give either --catalog or --vectors"),
        (("build", "--catalog", "nowhere.csv", "--store", "s", "--name", "x"), 2, "nowhere.csv"),
        (("build", "--catalog", "nowhere.csv", "--store", "s", "--name", "../x"), 2, "cannot be a name"),
        (("build", "--catalog", "c.csv", "--store", "s", "--name", "x", "--recall-target", "2"), 2, "recall_target"),
        (("search", "--store", "none", "--name", "x", "--text", "y"), 2, "is not a store"),
        (("catalog", "check", "bad.csv"), 1, "rows were rejected"),
        (
            ("build", "--catalog", "bad.csv", "--store", "s", "--name", "x", "--rejects", "r.jsonl"),
            1,
            "rows were rejected",
        ),
        (("versions", "list", "--stor", "s"), 2, "--store"),
        (("--settings", "bad.toml", "catalog", "check", "bad.csv"), 2, "did you mean build.recall_target?"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_mistakes_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text("id,title\n1,good\n,without an id\n1,the same id\n")
    (tmp_path / "bad.toml").write_text("[build]\nrecal_target = 1\n")
    assert says in likewise(*arguments, status=status)
    if "--rejects" in arguments:
        places = [json.loads(line)["place"] for line in (tmp_path / "r.jsonl").read_text().splitlines()]
        assert places == ["line 3", "line 4"]
        assert list((tmp_path / "s" / "work").iterdir()) == []


def test_rejects_stay_with_their_version_and_are_sealed_too(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("id,title\n1,a lamp\n,without an id\n2,a chair\n")
    store = tmp_path / "store"
    arguments = (
        "build",
        "--catalog",
        tmp_path / "some.csv",
        "--store",
        store,
        "--name",
        "x",
        "--max-reject-frac",
        "0.5",
    )
    version = likewise(*arguments)["version"]
    rejects = store / "versions" / version / "rejects.jsonl"
    assert json.loads(rejects.read_text())["code"] == "MISSING_ID"
    rejects.write_text(rejects.read_text().replace("line 3", "line 4"))
    assert "rejects.jsonl is not what was sealed" in likewise(
        "search", "--store", store, "--name", "x", "--text", "a", status=3
    )


def test_damaged_version_is_a_fault(store: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    version = likewise("versions", "list", "--store", copy)[0]["version"]
    for name in (
        "manifest.json",
        "columns",
        "spaces/text/shard-0000.vectors",
        "spaces/text/sparse",
        "spaces/image/shard-0000.vectors",
    ):
        file = copy / "versions" / version / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
        for command in (
            ("search", "--name", version, "--text", "x"),
            ("versions", "verify", version),
            ("serve", "--name", version),
        ):
            says = likewise(*command, "--store", copy, status=3)
            assert "restore" in says or "build" in says
        file.write_bytes(whole)


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_builds_lose_and_repeat_nothing(
    shop: Path, tmp_path: Path, times: int, rng: np.random.Generator
) -> None:
    store = tmp_path / "store"
    command = [
        "build",
        "--catalog",
        str(shop / "products.parquet"),
        "--images",
        str(shop),
        "--store",
        str(store),
        "--name",
        "shop",
    ]
    for _ in range(times):
        process = subprocess.Popen([sys.executable, "-m", "lifecycle", *command], stderr=subprocess.DEVNULL)
        time.sleep(float(rng.uniform(0.3, 6)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    built = likewise(*command)
    assert built["n_datapoints"] == N
    assert list((store / "work").iterdir()) == []  # what killed builds left is gone
    everything = likewise("search", "--store", store, "--name", "shop", "--text", "x", "-k", str(N), "--exact")[
        "neighbors"
    ]
    assert len({n["datapoint_id"] for n in everything}) == N


def test_a_fault_of_ours_is_no_refusal(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("matching.store.Store.versions", broken)
    assert "planted" in likewise("versions", "list", "--store", store, status=3)


def test_the_program_itself_runs_and_speaks_to_a_person(store: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lifecycle",
        "search",
        "--store",
        str(store),
        "--name",
        "shop",
        "--text",
        "lamp",
        "-k",
        "3",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "3 of 150 matching, space text, plan exact" in done.stdout
    done = subprocess.run(
        [*command[:3], "search", "--store", "none", "--name", "x"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "give one" in done.stderr
