"""Versions exchanged under load, by a real service: no request fails, no answer is of two versions, no write is lost."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pytest

from matching.container import open_container, write_container
from matching.datapoint import Datapoint
from matching.faiss_index import load_faiss
from matching.manifest import seal
from matching.store import Store
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import EndpointServiceStub
from tests.services import Shop
from tests.versions import build_version
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Start

DIM = 16
N = 400


def new_version(store: Store, mark: str, n: int = N, **build: Any) -> str:
    """Publish a version whose ids begin with its mark; the first ten ids are in every version."""
    rng = np.random.default_rng(7)
    ids = [f"0-{at}" if at < 10 else f"{mark}-{at:04d}" for at in range(n)]
    points = [Datapoint(each, metadata={"mark": mark}) for each in ids]
    vectors = rng.normal(size=(n, DIM)).astype(np.float32)
    return build_version(store, points, vectors, "l2", build={"plan": "flat", "threads": 1, **build}).version_id


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A store with one version, `a`, under the alias `shop`."""
    store = Store(tmp_path / "store", create=True)
    store.set_alias("shop", new_version(store, "a"), why="test")
    return Shop(store.path, "shop")


def served(service: Service) -> str:
    """Return the version that answers."""
    return str(service.ask("GET", "/v1/versions/current")[2]["versionId"])


def wait_for(service: Service, version_id: str) -> None:
    """Wait until a version answers."""
    wait_until(lambda: served(service) == version_id, f"{version_id} answers: {service.log.read_text()[-3000:]}")


@dataclass
class Load:
    """What threads that ask without pause were told."""

    n_answered: int = 0
    faults: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)


@contextmanager
def load(service: Service, marks: dict[str, str], *, per_s: float = 100, n_threads: int = 2) -> Iterator[Load]:
    """Ask for neighbours at a rate until the block ends; each answer must be whole, and of one version."""
    told, is_over, lock = Load(), threading.Event(), threading.Lock()
    host = service.http.removeprefix("http://")
    body = json.dumps(
        {"queries": [{"datapoint": {"featureVector": [at] * DIM}, "neighborCount": 50} for at in (0.1, -1)]}
    )

    def ask() -> None:
        connection = http.client.HTTPConnection(host, timeout=30)
        due = time.monotonic()
        while not is_over.wait(max(0.0, due - time.monotonic())):
            due += n_threads / per_s  # open loop: who was late catches up
            try:
                connection.request("POST", "/v1/findNeighbors", body)
                answer = connection.getresponse()
                content = json.loads(answer.read())
                fault = "" if answer.status == 200 else f"{answer.status} {content}"
            except (OSError, http.client.HTTPException) as error:
                fault, content = repr(error), {}
            with lock:
                if fault:
                    told.faults.append(fault)
                    continue
                told.n_answered += 1
                told.versions.add(content["indexVersion"])
                of = {n["datapoint"]["datapointId"][0] for q in content["nearestNeighbors"] for n in q["neighbors"]}
                if of - {"0"} - {marks[content["indexVersion"]]}:
                    told.faults.append(f"{content['indexVersion']} answered with items of {sorted(of)}")
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("n_switches", "per_s"), [(6, 100), pytest.param(100, 500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_versions_are_exchanged_under_load_without_a_failed_or_mixed_answer(
    shop: Shop, start_service: Start, n_switches: int, per_s: int
) -> None:
    store = Store(shop.store)
    marks = {store.resolve("shop"): "a"} | {new_version(store, mark): mark for mark in "bc"}
    ids = list(marks)
    rss: list[int] = []
    with start_service(shop, follow_s=0.05) as service:
        service.wait_until_ready()
        process = psutil.Process(service.process.pid)
        with load(service, marks, per_s=per_s, n_threads=4) as told:
            began = time.monotonic()
            for at in range(1, n_switches + 1):
                store.set_alias("shop", ids[at % 3], why="test")
                wait_for(service, ids[at % 3])
                rss.append(process.memory_info().rss)
            seconds = time.monotonic() - began
        print(
            f"{told.n_answered} answers, {told.n_answered / seconds:.0f}/s; RSS in MB {[at >> 20 for at in rss[4::5]]}"
        )
        assert told.faults == []
        assert told.n_answered > 20 * n_switches
        assert told.versions == set(ids)
        assert max(rss[-3:]) <= 1.05 * max(rss[2:5])  # what was replaced is gone: three switches, for one may be early
        metrics = service.ask("GET", "/metrics")[2].decode()
        assert f'likewise_version_switches_total{{served="shop"}} {float(n_switches)}' in metrics
        line = f'likewise_variant_version{{index_version="{ids[n_switches % 3]}",served="shop",variant="shop"}} 1.0'
        assert [row for row in metrics.splitlines() if row.startswith("likewise_variant_version{")] == [line]


def post(service: Service, path: str, body: Any, status: int = 200) -> Any:
    """Return the answer to a POST; it must have the status."""
    code, _, answer = service.ask("POST", path, body)
    assert code == status, answer
    return answer


def promote(service: Service, version: str, status: int = 200) -> Any:
    """Ask the service to switch."""
    return post(service, "/v1/endpoints/shop:promote", {"version": version, "why": "test"}, status)


def refused(service: Service) -> list[str]:
    """Return why versions are not served."""
    state = service.ask("GET", "/readyz")[2]["endpoints"]["shop"]
    return list(state["refused"])


def counted(service: Service, name: str) -> float:
    """Return the sum over the labels of a metric."""
    lines = service.ask("GET", "/metrics")[2].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0] == name)


def poisoned(store: Store, version_id: str, spoil: Callable[[Path], None]) -> str:
    """Publish a copy of a version whose files were spoilt before they were sealed: every checksum is right."""
    old = store.directory(version_id)
    work = store.path / "work" / f"spoilt-{version_id}"
    shutil.copytree(old, work)
    spoil(work)
    told = json.loads((work / "manifest.json").read_text())
    told["files"] = {name: asdict(seal(work / name)) for name in told["files"]}
    content = json.dumps(told).encode()
    (work / "manifest.json").write_bytes(content)
    new = old.with_name(f"20260101-000000-{hashlib.sha256(content).hexdigest()[:16]}")
    work.rename(new)
    return new.name


def shard_file(directory: Path, which: str) -> Path:
    """Return where the first shard of the first space has its vectors or its index."""
    told = json.loads((directory / "manifest.json").read_text())
    return directory / str(told["spaces"][0]["shards"][0][which])


def spoil_arrays(which: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change the array that a file of a version holds, in a container whose checksums fit again.

    Args:
        which: "vectors", or "faiss" for the index of FAISS.
        change: writes into the array, or returns another one.
    """

    def spoil(work: Path) -> None:
        file = shard_file(work, which)
        arrays = {name: np.array(array) for name, array in open_container(file, which).items()}
        name = "bytes" if which == "faiss" else which
        changed = change(arrays[name])
        arrays[name] = arrays[name] if changed is None else changed
        file.unlink()
        write_container(file, which, arrays)

    return spoil


spoil_vectors = partial(spoil_arrays, "vectors")
spoil_faiss = partial(spoil_arrays, "faiss")


def spoil_manifest(*, whole: dict[str, Any] | None = None, **changes: Any) -> Callable[[Path], None]:
    """Change the first space of a manifest, or the `whole` of it."""

    def spoil(work: Path) -> None:
        file = work / "manifest.json"
        told = json.loads(file.read_text())
        told |= whole or {}
        told["spaces"][0] |= changes
        file.write_text(json.dumps(told))

    return spoil


def set_nan(vectors: Any) -> None:
    vectors[len(vectors) // 3, 2] = np.nan


def twice(vectors: Any) -> Any:
    return np.concatenate([vectors, vectors])


def claim_too_much(content: Any) -> None:
    """Let an index say that it holds more vectors than any memory does."""
    content[8:14] = 0xFF


def lead_astray(content: Any) -> Any:
    """Let the links of an HNSW index lead far outside of it: whoever follows them dies."""
    faiss = load_faiss()
    index = faiss.deserialize_index(content.view(np.uint8))
    hnsw = faiss.downcast_index(index.index).hnsw
    links = faiss.vector_to_array(hnsw.neighbors)
    faiss.copy_array_to_vector(np.where(links < 0, links, 2**31 - 1).astype(links.dtype), hnsw.neighbors)
    return faiss.serialize_index(index).view(content.dtype)


def swap_halves(vectors: Any) -> None:
    vectors[:] = np.roll(vectors, len(vectors) // 2, axis=0)


def test_a_poisoned_version_is_refused_once_and_never_interrupts_serving(shop: Shop, start_service: Start) -> None:
    store = Store(shop.store)
    good = store.resolve("shop")
    other = new_version(store, "b")
    graph = new_version(store, "c", 1500, plan="graph", degree=16, build_beam=40)
    hnsw = new_version(store, "d", 1500, plan="hnsw")
    flipped = poisoned(store, other, lambda work: None)
    with shard_file(store.directory(flipped), "vectors").open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    poisons = {
        flipped: "does not match its checksum",
        poisoned(store, other, spoil_vectors(set_nan)): "has the squared norm nan; expected a finite one",
        # the graph of other vectors: the search goes astray, the exact one does not
        poisoned(store, graph, spoil_vectors(swap_halves)): r"recall@10 is 0\.\d+; expected none and at least 0\.[39]",
        poisoned(store, hnsw, spoil_faiss(claim_too_much)): "does not match ntotal",
        poisoned(store, hnsw, spoil_faiss(lead_astray)): "neighbors.* out of range",
        poisoned(store, other, spoil_vectors(twice)): "does not fit manifest.json",
        poisoned(store, other, spoil_manifest(dim=DIM + 1)): "does not fit manifest.json",
        poisoned(store, other, spoil_manifest(whole={"n_datapoints": 0})): "has no datapoints",
        poisoned(store, other, spoil_manifest(encoder={"kind": "nonsense", "params": {}, "arrays": None})): "nonsense",
    }
    marks = {good: "a"}
    with start_service(shop, follow_s=0.05) as service:
        service.wait_until_ready()
        with load(service, marks) as told:
            for at, (poison, why) in enumerate(poisons.items(), 1):
                store.set_alias("shop", poison, why="test")
                wait_until(lambda: counted(service, "likewise_version_refusals_total") == at, why)  # noqa: B023
                assert re.search(why, *refused(service))
            before = len(service.log.read_text())
            time.sleep(0.5)  # ten looks at the alias: it is not tried again
            assert counted(service, "likewise_version_refusals_total") == len(poisons)
            assert "trying" not in service.log.read_text()[before:]
            assert service.ask("GET", "/readyz")[0] == 200
            store.set_alias("shop", good, why="test")
            wait_until(lambda: not refused(service), "nothing is refused any more")
        assert told.faults == []
        assert told.versions == {good}
        # asked by API, the alias is not moved at all
        answer = promote(service, next(at for at, why in poisons.items() if "nan" in why), status=409)
        assert "squared norm nan" in answer["error"]["message"]
        assert store.resolve("shop") == good
        assert promote(service, "nowhere", status=404)["error"]["status"] == "NOT_FOUND"
        assert served(service) == good


def test_a_version_that_does_not_fit_beside_what_is_served_is_refused_before_it_is_loaded(
    shop: Shop, start_service: Start
) -> None:
    store = Store(shop.store)
    good, large = store.resolve("shop"), new_version(store, "b", 2 * N)
    needed = {}
    for version in (good, large):
        entry = store.manifest(version)
        needed[version] = sum(entry.files[name].n_bytes for name in (entry.columns, entry.spaces[0].shards[0].vectors))
    with start_service(shop, follow_s=0.05, version_memory_bytes=sum(needed.values()) - 1) as service:
        service.wait_until_ready()
        why = promote(service, large, status=409)["error"]["message"]
        assert f"needs about {needed[large]:,} bytes of memory beside {needed[good]:,} of what is served" in why
        assert f"leaves {sum(needed.values()) - 1:,}; expected room for both" in why
        assert (served(service), store.resolve("shop")) == (good, good)
        assert "trying version" not in service.log.read_text()
        store.set_alias("shop", large, why="test")
        wait_until(lambda: bool(refused(service)), "it is refused")
        assert served(service) == good
    with start_service(shop, version_memory_bytes=sum(needed.values())) as service:
        service.wait_until_ready()
        assert promote(service, good)["new"] == good


def children(service: Service) -> list[int]:
    """Return the processes that a service has begun."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(") ")[2].split()
            if int(fields[1]) == service.process.pid and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("strike", "says"),
    [
        *(
            (lambda pid, number=number: os.kill(pid, number), f"ended with signal {number.name}; expected an answer")
            for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL)
        ),
        (lambda pid: resource.prlimit(pid, resource.RLIMIT_DATA, (2**20, 2**20)), "ended with status 1|into memory"),
    ],
    ids=["SIGSEGV", "SIGABRT", "SIGKILL", "memory"],
)
def test_a_version_that_kills_the_process_that_tries_it_is_refused(
    shop: Shop, start_service: Start, strike: Callable[[int], Any], says: str
) -> None:
    store = Store(shop.store)
    good, other = store.resolve("shop"), new_version(store, "b")
    with start_service(shop, follow_s=0.05) as service:
        service.wait_until_ready()
        with load(service, {good: "a", other: "b"}) as told:
            store.set_alias("shop", other, why="test")
            wait_until(lambda: bool(children(service)), "it is tried")
            strike(children(service)[0])
            wait_until(lambda: bool(refused(service)), "it is refused")
            assert re.search(says, refused(service)[0])
            assert service.ask("GET", "/readyz")[0] == 200
            assert served(service) == good
            assert promote(service, other)["new"] == other  # asked again, it is tried again
            assert (served(service), refused(service)) == (other, [])
        assert told.faults == []
        assert told.n_answered > 0


def test_a_version_with_the_encoder_of_another_is_refused(shop: Shop, text_shop: Shop, start_service: Start) -> None:
    store, texts = Store(shop.store), Store(text_shop.store)
    good = store.resolve("shop")
    alien = texts.directory(texts.resolve("shop"))
    spaces = json.loads((alien / "manifest.json").read_text())["spaces"]
    encoder = next(space["encoder"] for space in spaces if space["name"] == "text")

    def spoil(work: Path) -> None:
        target = work / encoder["arrays"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(alien / encoder["arrays"], target)
        files = json.loads((work / "manifest.json").read_text())["files"]
        spoil_manifest(whole={"files": {**files, encoder["arrays"]: None}}, encoder=encoder)(work)

    bad = poisoned(store, good, spoil)
    with start_service(shop) as service:
        service.wait_until_ready()
        answer = promote(service, bad, status=409)
        assert f"makes 384 numbers of a text; version {bad} holds {DIM}" in answer["error"]["message"]
        assert served(service) == good


def test_after_a_restart_the_newest_version_that_can_be_served_is(shop: Shop, start_service: Start) -> None:
    store = Store(shop.store)
    good = store.resolve("shop")
    bad = poisoned(store, new_version(store, "b"), spoil_vectors(set_nan))
    store.set_alias("shop", bad, why="test")
    with start_service(shop) as service:
        service.wait_until_ready()
        assert served(service) == good
        assert "squared norm nan" in refused(service)[0]
        assert store.resolve("shop") == bad


def test_a_rollback_leads_back_in_one_move_and_the_same_over_grpc(shop: Shop, start_service: Start) -> None:
    store = Store(shop.store)
    first, second = store.resolve("shop"), new_version(store, "b")
    with start_service(shop) as service, grpc.insecure_channel(service.grpc) as channel:
        service.wait_until_ready()
        stub = EndpointServiceStub(channel)
        move = stub.Promote(pb.PromoteRequest(name="shop", version=second, why="newer"), timeout=60)
        assert (move.old_version, move.new_version, move.by, move.why) == (first, second, "api", "newer")
        told = stub.GetEndpoint(pb.GetEndpointRequest(name="shop"), timeout=10)
        assert [(v.name, v.index, v.weight, v.index_version) for v in told.variants] == [("shop", "shop", 1, second)]
        assert len(store.history("shop")) == 2
        move = post(service, "/v1/endpoints/shop:rollback", {"why": "odd"})
        assert (move["old"], move["new"], move["why"]) == (second, first, "odd")
        assert served(service) == first
        assert len(store.history("shop")) == 3
        assert "named nothing before" in post(service, "/v1/endpoints/shop:rollback", {}, 404)["error"]["message"]
        with pytest.raises(grpc.RpcError, match="is not served here"):
            stub.Rollback(pb.RollbackRequest(name="else"), timeout=10)


def test_writes_before_while_and_after_a_switch_are_all_there_and_their_tokens_hold(
    shop: Shop, start_service: Start, tmp_path: Path
) -> None:
    store = Store(shop.store)
    versions = [new_version(store, mark) for mark in "bc"]
    acknowledged: list[str] = []
    changed = [0]  # version tokens
    faults: list[str] = []
    is_over = threading.Event()

    def write(service: Service, first: int) -> None:
        for at in itertools.count(first):
            if is_over.is_set():
                return
            point = {"datapointId": f"new-{at}", "featureVector": [float(at)] * DIM}
            code, _, answer = service.ask("POST", "/v1/upsertDatapoints", {"datapoints": [point]})
            if code != 200:
                faults.append(f"upsert {at}: {answer}")
                continue
            acknowledged.append(f"new-{at}")
            body = {"queries": [{"datapoint": {"featureVector": [float(at)] * DIM}, "neighborCount": 1}]}
            code, _, answer = service.ask("POST", "/v1/findNeighbors", body | {"minVersion": answer["versionToken"]})
            near = code == 200 and answer["nearestNeighbors"][0]["neighbors"][0]["datapoint"]["datapointId"]
            if near != f"new-{at}":
                faults.append(f"find {at}: {near} {answer}")
            change = {"datapointId": f"new-{at}", "restricts": [{"namespace": "at", "allowList": [str(at)]}]}
            body = {"datapoints": [change], "updateMask": "all_restricts"}
            code, _, answer = service.ask("POST", "/v1/upsertDatapoints", body)
            if code != 200:
                faults.append(f"change {at}: {answer}")
            else:
                changed.append(int(answer["versionToken"]))

    with start_service(shop, write_log=str(tmp_path / "logs"), follow_s=0.05) as service:
        service.wait_until_ready()
        writers = [threading.Thread(target=write, args=(service, 100_000 * (1 + at))) for at in range(2)]
        for writer in writers:
            writer.start()
        for version_id in (*versions, versions[0]):
            promote(service, version_id)
            time.sleep(0.2)
        n_at_last_switch = len(acknowledged)
        wait_until(lambda: len(acknowledged) > n_at_last_switch, "writes go on")
        is_over.set()
        for writer in writers:
            writer.join()
        assert faults == []
        assert served(service) == versions[0]
        asked = {"ids": acknowledged[-1000:], "minVersion": max(changed)}
        read = post(service, "/v1/readIndexDatapoints", asked)["datapoints"]
        assert [each["datapointId"] for each in read] == acknowledged[-1000:]
        assert all(each["restricts"][0]["namespace"] == "at" for each in read)
        assert (tmp_path / "logs" / "shop").is_dir()
    # a version of other vectors cannot take the writes in: refused, also after a restart
    points = [Datapoint("long")]
    longer = build_version(store, points, np.ones((1, DIM + 1), np.float32), "l2", build={"plan": "flat"}).version_id
    store.set_alias("shop", longer, why="test")
    with start_service(shop, write_log=str(tmp_path / "logs")) as service:
        service.wait_until_ready()
        assert served(service) == versions[0]
        assert "wants vectors of [17, 'l2', None] in space 'vectors', the writes" in refused(service)[0]
        read = post(service, "/v1/readIndexDatapoints", {"ids": acknowledged[-1000:]})["datapoints"]
        assert len(read) == len(acknowledged[-1000:])


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("n_kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_while_it_switches_a_service_comes_back_with_what_the_alias_names(
    shop: Shop, start_service: Start, n_kills: int
) -> None:
    store = Store(shop.store)
    versions = [store.resolve("shop"), new_version(store, "b")]
    rng = np.random.default_rng(3)
    n_moved = 0
    for at in range(n_kills):
        with start_service(shop) as service:
            service.wait_until_ready()
            now = store.resolve("shop")
            assert (served(service), refused(service)) == (now, [])
            target = versions[now == versions[0]]
            asking = threading.Thread(target=_ask_in_vain, args=(service, target))
            asking.start()
            time.sleep(float(rng.uniform(0, 3)) if at else 0.5)
            service.process.send_signal(signal.SIGKILL)
            asking.join()
        found = store.resolve("shop")
        assert found in versions
        store.verify(found)
        n_moved += found != now
    assert n_moved < n_kills  # the first was killed too early to have moved


def _ask_in_vain(service: Service, version_id: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        service.ask("POST", "/v1/endpoints/shop:promote", {"version": version_id})


def test_encoders_that_are_the_same_run_on(text_shop: Shop, start_service: Start) -> None:
    store = Store(text_shop.store)
    first = store.resolve("shop")
    store.set_alias("twin", first, why="test")
    second = poisoned(store, first, lambda work: None)  # the same in another manifest
    with start_service(Shop(text_shop.store, "twin"), follow_s=0.05) as service:
        service.wait_until_ready()
        running = children(service)
        assert len(running) == 1
        before = post(service, "/v1/search", {"text": "red shoes"})
        move = post(service, "/v1/endpoints/twin:promote", {"version": second})
        assert move["new"] == second
        after = post(service, "/v1/search", {"text": "red shoes"})
        assert after["indexVersion"] == second != before["indexVersion"]
        assert after["neighbors"] == before["neighbors"]
        assert children(service) == running
