"""The store on a real disk: publishing, aliases, and every kind of damage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from matching.datapoint import Datapoint, NumericRestrict, Restrict
from matching.errors import AlreadyExists, CorruptArtifact, GateRefused, InvalidInput, NotFound
from matching.manifest import read_manifest
from matching.store import Store
from matching.version import IndexVersion
from tests.versions import MakeVersion, build_version


def shop(n: int, seed: int = 1) -> tuple[list[Datapoint], np.ndarray]:
    rng = np.random.default_rng(seed)
    points = [
        Datapoint(
            f"item-{at}",
            (Restrict("category", (f"c{at % 3}",), ("x",)),),
            (NumericRestrict("price", at * 0.5),),
            f"b{at % 4}",
            {"title": f"Item {at}", "price": at * 0.5},
        )
        for at in range(n)
    ]
    return points, rng.standard_normal((n, 16)).astype(np.float32)


def answers(version: IndexVersion, vectors: np.ndarray) -> list[list[tuple[str, float]]]:
    found = version.search(vectors[:5], 7, space="vectors")
    return [[(n.datapoint_id, n.distance) for n in near] for near in found.neighbors]


def test_what_was_built_can_be_read_back(make_version: MakeVersion) -> None:
    points, vectors = shop(100)
    version = make_version(points, vectors, metric="l2")
    assert version.datapoints(["item-7", "item-99"]) == (points[7], points[99])
    np.testing.assert_array_equal(version.vectors(["item-42"], "vectors")[0], vectors[42:43])
    assert version.facets("category") == {"c0": 34, "c1": 33, "c2": 33}
    assert version.numeric_range("price") == (0.0, 49.5)
    with pytest.raises(NotFound, match="no datapoint 'item-100' among 100"):
        version.datapoints(["item-100"])
    with pytest.raises(NotFound, match="no space 'text'"):
        version.search(vectors[:1], 1, space="text")


@pytest.mark.parametrize("plan", ["flat", "graph", "hnsw"])
def test_same_input_and_seed_give_the_same_bytes_in_any_order(tmp_path: Path, plan: str) -> None:
    points, vectors = shop(400)
    shuffled = np.random.default_rng(3).permutation(len(points))
    manifests = []
    for at, (order, threads) in enumerate([(np.arange(400), 1), (shuffled, 2)]):
        store = Store(tmp_path / str(at), create=True)
        built = {"plan": plan, "seed": 9, "threads": threads, "recall_target": 0.5}
        version = build_version(store, [points[i] for i in order], vectors[order], "cosine", build=built)
        manifests.append(read_manifest(store.directory(version.version_id)).files)
    assert manifests[0] == manifests[1]


PLANS = ["flat", "graph", "hnsw", "ivfpq"]
EXTREMES = (0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("n_each", [40, pytest.param(1_000, marks=pytest.mark.slow)])
def test_no_damage_to_any_file_reaches_an_answer(
    store: Store, make_version: MakeVersion, plan: str, n_each: int, rng: np.random.Generator
) -> None:
    """Bytes flipped anywhere, extreme numbers in headers, and ends cut off: so many of each a file."""
    points, vectors = shop(10_000 if plan == "ivfpq" else 300)  # as many as product codes need to train
    version = make_version(points, vectors, plan=plan, recall_target=0.5)
    directory = store.directory(version.version_id)
    files = sorted(f for f in directory.rglob("*") if f.is_file())
    assert len(files) == (3 if plan == "flat" else 4)
    for file in files:
        whole = file.read_bytes()
        for turn, damaged in enumerate(damages(whole, n_each, rng)):
            file.write_bytes(damaged)
            with pytest.raises(CorruptArtifact, match=r"restore|build"):
                store.open(version.version_id)
            if turn % 10 == 0:
                with pytest.raises(CorruptArtifact):
                    store.verify(version.version_id)
        file.write_bytes(whole)
    assert answers(store.open(version.version_id), vectors) == answers(version, vectors)
    assert store.verify(version.version_id) > 0


def damages(whole: bytes, n_each: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield a file with a bit or a byte changed, with a number in its first 256 bytes changed, and cut."""
    for at in [0, 9, len(whole) - 1, *rng.integers(0, len(whole), n_each).tolist()]:
        damaged = bytearray(whole)
        damaged[at] ^= int(rng.integers(1, 256)) if at % 2 else 1 << int(rng.integers(8))
        yield bytes(damaged)
    numbers = [(at, n, value) for n in (4, 8) for at in range(0, 256, n) for value in EXTREMES]
    for chosen in rng.permutation(len(numbers))[:n_each]:
        at, n, value = numbers[chosen]
        damaged = bytearray(whole)
        damaged[at : at + n] = (value % 2 ** (8 * n)).to_bytes(n, "little")
        if damaged != whole:
            yield bytes(damaged)
    for size in [0, 1, len(whole) - 1, *rng.integers(0, len(whole), n_each // 4).tolist()]:
        yield whole[:size]


def test_missing_and_foreign_files_are_found(store: Store, make_version: MakeVersion) -> None:
    points, vectors = shop(200)
    version = make_version(points, vectors)
    directory = store.directory(version.version_id)
    for file in sorted(f for f in directory.rglob("*") if f.is_file()):
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(CorruptArtifact):
            store.open(version.version_id)
        file.write_bytes(whole)
    (directory / "stray").write_bytes(b"x")
    with pytest.raises(CorruptArtifact, match="stray is not in the manifest"):
        store.verify(version.version_id)


def test_whole_files_in_each_other_s_place_are_found(store: Store, make_version: MakeVersion) -> None:
    """Shards of one length, of this version and of an older one: every checksum in them is right."""
    points, _ = shop(2048)
    both = [np.random.default_rng(seed).standard_normal((2048, 16)).astype(np.float32) for seed in (1, 2)]
    older, version = (make_version(points, vectors, shard_bytes=1 << 16) for vectors in both)
    directory = store.directory(version.version_id)
    shards = sorted(directory.rglob("*.vectors"))
    assert len({shard.stat().st_size for shard in shards}) == 1 < len(shards)
    for file, other in (
        (shards[0], shards[1]),
        (shards[1], store.directory(older.version_id) / shards[1].relative_to(directory)),
    ):
        whole = file.read_bytes()
        file.write_bytes(other.read_bytes())
        with pytest.raises(CorruptArtifact, match=rf"{file.name} is not what was sealed"):
            store.open(version.version_id)
        file.write_bytes(whole)
    assert answers(store.open(version.version_id), both[1]) == answers(version, both[1])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_no_byte_of_a_manifest_may_change(
    store: Store, make_version: MakeVersion, step: int, rng: np.random.Generator
) -> None:
    points, vectors = shop(100)
    older, version = make_version(points[:50], vectors[:50]), make_version(points, vectors)
    file = store.directory(version.version_id) / "manifest.json"
    whole = file.read_bytes()
    wrong = [whole[:size] for size in range(0, len(whole), step)]
    for at in range(0, len(whole), step):
        for flip in (0x01, 0x80, int(rng.integers(2, 128))):
            wrong.append(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    told = json.loads(whole)
    wrong += [
        whole.replace(b"{", b'{"format": 2,', 1),
        whole.replace(b"{", b'{"stray": 2,', 1),
        json.dumps(told).encode(),
        json.dumps(told | {"seed": 7}).encode(),
        (store.directory(older.version_id) / "manifest.json").read_bytes(),
    ]
    for content in wrong:
        file.write_bytes(content)
        with pytest.raises(CorruptArtifact, match="was changed after the version was sealed"):
            store.open(version.version_id)
    assert len(wrong) > 4 * len(whole) // step
    file.write_bytes(whole)
    assert answers(store.open(version.version_id), vectors) == answers(version, vectors)


def resealed(store: Store, version: IndexVersion, **changes: object) -> str:
    """Give a version another manifest under a name that fits it; return its id."""
    old = store.directory(version.version_id)
    told = json.loads((old / "manifest.json").read_text()) | changes
    content = json.dumps({name: value for name, value in told.items() if value is not None}).encode()
    new = old.with_name(f"20260101-000000-{hashlib.sha256(content).hexdigest()[:16]}")
    shutil.copytree(old, new)
    (new / "manifest.json").write_bytes(content)
    return new.name


def test_a_manifest_of_the_first_format_knows_no_log_and_no_ends_and_opens(
    store: Store, make_version: MakeVersion
) -> None:
    points, vectors = shop(60)
    version = make_version(points, vectors)
    files = json.loads((store.directory(version.version_id) / "manifest.json").read_text())["files"]
    bare = {name: {key: told[key] for key in ("n_bytes", "sha256")} for name, told in files.items()}
    first = store.open(resealed(store, version, format=1, log_sequence=None, parent="x", files=bare))
    assert first.manifest.log_sequence == 0
    assert answers(first, vectors) == answers(version, vectors)
    assert store.verify(first.version_id) > 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"log_sequence": -1}, "its last write is -1; expected a whole number"),
        ({"log_sequence": 1.5}, "its last write is 1.5"),
        ({"log_sequence": True}, "its last write is True"),
        ({"log_sequence": "7"}, "its last write is '7'"),
        ({"format": 4}, "has format 4, this program reads 1 to 3"),
        ({"format": None}, "has format None"),
    ],
)
def test_a_manifest_that_this_program_cannot_trust_is_refused(
    store: Store, make_version: MakeVersion, changes: dict[str, object], told: str
) -> None:
    version_id = resealed(store, make_version(*shop(60)), **changes)
    with pytest.raises(CorruptArtifact, match=told):
        store.open(version_id)


def test_aliases_keep_who_when_from_to_and_why(store: Store, make_version: MakeVersion) -> None:
    points, vectors = shop(100)
    first, second = make_version(points, vectors), make_version(points[:60], vectors[:60])
    store.set_alias("shop", first.version_id, why="built", by="ann")
    store.set_alias("shop", second.version_id, why="newer", by="bob")
    store.set_alias("shop", first.version_id, why="roll back", by="ann")
    moves = store.history("shop")
    assert [(m.by, m.old, m.new, m.why) for m in moves] == [
        ("ann", None, first.version_id, "built"),
        ("bob", first.version_id, second.version_id, "newer"),
        ("ann", second.version_id, first.version_id, "roll back"),
    ]
    assert store.resolve("shop") == first.version_id
    assert store.aliases() == {"shop": first.version_id}
    with pytest.raises(NotFound, match="neither an alias"):
        store.set_alias("shop", "nowhere", why="typo")
    with pytest.raises(InvalidInput, match="is the id of a version"):
        store.set_alias(first.version_id, second.version_id, why="odd")


def test_a_rollback_leads_one_version_further_back_each_time(store: Store, make_version: MakeVersion) -> None:
    ids = [make_version(*shop(20 + at)).version_id for at in range(4)]
    store.set_alias("shop", ids[0], why="built")
    with pytest.raises(NotFound, match=f"'shop' named nothing before {ids[0]}"):
        store.version_before("shop")
    for version_id in ids[1:]:
        store.set_alias("shop", version_id, why="newer")
    store.set_alias("shop", ids[3], why="the same again")
    for expected in (ids[2], ids[1]):
        assert store.version_before("shop") == expected
        store.set_alias("shop", store.version_before("shop"), why="roll back")
    store.set_alias("shop", ids[3], why="after all")
    assert store.version_before("shop") == ids[1]


def test_endpoints_keep_their_history_and_are_changed_by_one_at_a_time(store: Store) -> None:
    assert store.endpoints() == ()
    assert store.endpoint_history("home") == ()
    before = store.stamp(["shop"], "home")
    store.set_endpoint("home", {"split": [1]}, n_before=0, why="new", by="ann")
    assert store.stamp(["shop"], "home") != before
    with pytest.raises(AlreadyExists, match=r"'home' was changed 1 times; expected 0.*try again"):
        store.set_endpoint("home", {"split": [2]}, n_before=0, why="late")
    store.set_endpoint("home", {"split": [3]}, n_before=1, why="later", by="bob")
    assert [(c.by, c.why, c.told) for c in store.endpoint_history("home")] == [
        ("ann", "new", {"split": [1]}),
        ("bob", "later", {"split": [3]}),
    ]
    assert store.endpoints() == ("home",)
    file = store.path / "endpoints" / "home.jsonl"
    file.write_bytes(file.read_bytes().replace(b"later", b"lader"))
    with pytest.raises(CorruptArtifact, match="line 2 of the history of endpoint 'home'"):
        store.endpoint_history("home")
    with pytest.raises(InvalidInput, match="cannot be a name"):
        store.endpoint_history("../home")


def test_torn_alias_line_never_took_effect_and_a_damaged_one_is_refused(
    store: Store, make_version: MakeVersion
) -> None:
    points, vectors = shop(50)
    version = make_version(points, vectors, alias="shop")
    file = store.path / "aliases" / "shop.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert store.resolve("shop") == version.version_id
    store.set_alias("shop", version.version_id, why="again")
    assert [m.why for m in store.history("shop")] == ["test", "again"]
    file.write_bytes(whole.replace(b"test", b"tesu"))
    with pytest.raises(CorruptArtifact, match="line 1 of the history of alias 'shop'"):
        store.resolve("shop")


@pytest.mark.parametrize(
    ("plan", "build"),
    [("graph", {"degree": 8, "build_beam": 8}), ("hnsw", {"links": 4, "ef_construction": 8})],
)
def test_build_below_its_floor_is_refused_kept_and_never_named(
    store: Store, plan: str, build: dict[str, object]
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5_000, 64)).astype(np.float32)
    points = [Datapoint(f"{at}") for at in range(len(vectors))]
    with pytest.raises(GateRefused, match=r"the floor is 0\.999; raise --max-effort"):
        build_version(
            store,
            points,
            vectors,
            "ip",
            build={"plan": plan, "max_effort": 8, "recall_target": 0.999, **build},
        )
    assert store.versions() == ()
    assert list((store.path / "work").iterdir()) == []
    [kept] = (store.path / "refused").iterdir()
    assert json.loads((kept / "manifest.json").read_text())["spaces"][0]["recall"]["mean"] < 0.999


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "A", "a" * 129, "a\0b", "-a", "ä"])
def test_names_cannot_leave_the_store(store: Store, name: str) -> None:
    with pytest.raises((InvalidInput, NotFound)):
        store.directory(name)
    with pytest.raises(InvalidInput):
        store.set_alias(name, "x", why="no")


def test_living_builds_keep_their_work_and_dead_ones_are_swept(store: Store) -> None:
    work = store.new_work("one")
    (work / "staged").write_text("x")
    with pytest.raises(AlreadyExists, match="is being built already"):
        store.new_work("one")
    dead = store.path / "work" / "dead"
    dead.mkdir()
    dead.with_suffix(".lock").touch()  # its process is gone, so nobody holds the lock
    other = Store(store.path)
    other.remove_work(other.new_work("two"))
    assert sorted(entry.name for entry in work.parent.iterdir()) == ["one", "one.lock"]
    store.remove_work(work)
    assert list(work.parent.iterdir()) == []


def test_missing_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="likewise build --store"):
        Store(tmp_path / "none")


def test_of_all_who_move_an_alias_from_one_version_one_does(store: Store, make_version: MakeVersion) -> None:
    points, vectors = shop(3)
    versions = [make_version(points, vectors + at, alias="shop").version_id for at in range(5)]
    start, moved = threading.Barrier(4), []

    def move(own: str) -> None:
        for _ in range(30):
            start.wait()
            now = store.resolve("shop")
            start.wait()  # all four have looked
            with contextlib.suppress(AlreadyExists):
                if own != now:
                    moved.append(store.set_alias("shop", own, why="race", instead_of=now))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(move, versions[:4]))
    history = store.history("shop")[5:]
    assert len(moved) == len(history) == 30, "one in each round"
    assert [move.old for move in history[1:]] == [move.new for move in history[:-1]]
    with pytest.raises(
        AlreadyExists, match=r"alias 'new' names None by now; expected .*: somebody else moved it meanwhile"
    ):
        store.set_alias("new", versions[0], why="race", instead_of=versions[1])
