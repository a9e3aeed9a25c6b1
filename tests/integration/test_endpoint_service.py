"""Endpoints of a real service: who is answered by which variant, and who may change that."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from matching.store import Store
from serving.api_keys import KeyRing, change_keys
from serving.deployment import endpoint_of
from serving.override import Override, sign_override
from serving.wire import likewise_pb2 as pb
from serving.wire.likewise_pb2_grpc import EndpointServiceStub, MatchServiceStub
from tests.integration.test_deployment import (
    DIM,
    counted,
    new_version,
    poisoned,
    post,
    set_nan,
    spoil_vectors,
)
from tests.services import Shop
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.services import Service, Start

KEY = "0123456789abcdef0123456789abcdef"
QUERY = {"queries": [{"datapoint": {"featureVector": [0.5] * DIM}, "neighborCount": 5}]}
UNITS = [f"user-{at}" for at in range(300)]


def command(*arguments: str) -> Any:
    """Run the command line and return what it prints as JSON."""
    line = [sys.executable, "-m", "lifecycle", *arguments, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def home(tmp_path: Path) -> Shop:
    """A store with the endpoint `home`: two variants of an alias each, and a shadow of a third."""
    store = Store(tmp_path / "store", create=True)
    for mark in "abc":
        store.set_alias(f"shop-{mark}", new_version(store, mark, 60), why="test")
    variants = ["--variant", "control=0.9@shop-a", "--variant", "graph=0.1@shop-b", "--shadow", "next=1@shop-c"]
    told = command("endpoints", "create", "home", "--store", str(store.path), *variants, "--knob", "graph.exact=true")
    assert told["versions"]["graph"] == store.resolve("shop-b")
    assert [each["knobs"] for each in told["variants"]] == [{}, {"exact": True}, {}]
    return Shop(store.path, "home")


def variant_of(service: Service, unit: str = "", **headers: str) -> str:
    """Return the variant that answers a unit; its items must be those of its version."""
    headers |= {"x-likewise-unit": unit} if unit else {}
    code, _, answer = service.ask("POST", "/v1/findNeighbors", QUERY, headers)
    assert code == 200, answer
    mark = {"control": "a", "graph": "b"}[answer["variant"]]
    found = {each["datapoint"]["datapointId"][0] for each in answer["nearestNeighbors"][0]["neighbors"]}
    assert found <= {mark, "0"}
    return str(answer["variant"])


def assignments(service: Service) -> dict[str, str]:
    """Return the variant of each unit."""
    return {unit: variant_of(service, unit) for unit in UNITS}


def test_units_stay_where_they_are_over_restarts_replicas_and_a_ramp(home: Shop, start_service: Start) -> None:
    endpoint, _ = endpoint_of(Store(home.store), "home")
    expected = {unit: endpoint.assign(unit).variant.name for unit in UNITS}
    assert 10 < sum(name == "graph" for name in expected.values()) < 60
    with start_service(home) as first, start_service(home, follow_s=0.05) as second:
        first.wait_until_ready()
        second.wait_until_ready()
        assert assignments(first) == expected
        assert {unit: variant_of(second, unit) for unit in UNITS[:50]} == {unit: expected[unit] for unit in UNITS[:50]}
        assert variant_of(first) == "control"  # nobody knows who asks
        for forged in ("graph", "o1.Zm9v.YmFy"):
            code, _, answer = first.ask("POST", "/v1/findNeighbors", QUERY, {"x-likewise-override": forged})
            assert (code, answer["error"]["status"]) == (403, "PERMISSION_DENIED")
        wanted = {"variants": [{"name": "control", "weight": 0.5}, {"name": "graph", "weight": 0.5}], "why": "ramp"}
        told = post(first, "/v1/endpoints/home:traffic", wanted)
        assert [(v["name"], v["weight"], v["index"]) for v in told["variants"]] == [
            ("control", 0.5, "shop-a"),
            ("graph", 0.5, "shop-b"),
        ]
        ramped = assignments(first)
        assert all(ramped[unit] == "graph" for unit in UNITS if expected[unit] == "graph")
        assert 100 < sum(name == "graph" for name in ramped.values()) < 200
        wait_until(lambda: variant_of(second, _moved(expected, ramped)) == "graph", "the other replica follows")
        with grpc.insecure_channel(second.grpc) as channel:
            request = pb.FindNeighborsRequest(queries=[{"datapoint": {"feature_vector": [0.5] * DIM}}])
            for unit in UNITS[:50]:
                metadata = (("x-likewise-unit", unit),)
                answer = MatchServiceStub(channel).FindNeighbors(request, timeout=10, metadata=metadata)
                assert answer.variant == ramped[unit]
    with start_service(home) as again:
        again.wait_until_ready()
        assert {unit: variant_of(again, unit) for unit in UNITS[:100]} == {unit: ramped[unit] for unit in UNITS[:100]}


def _moved(before: dict[str, str], after: dict[str, str]) -> str:
    return next(unit for unit in UNITS if before[unit] != after[unit])


def test_a_signed_override_and_nothing_else_forces_a_variant(home: Shop, start_service: Start, tmp_path: Path) -> None:
    file = tmp_path / "override.keys"
    file.write_text(f"# of the testers\n{KEY}\n")
    file.chmod(0o600)
    told = command(
        "endpoints", "override", "home", "--variant", "graph", "--keys-file", str(file), "--store", str(home.store)
    )
    with start_service(home, auth={"override_keys_file": str(file)}) as service:
        service.wait_until_ready()
        in_control = next(unit for unit in UNITS if variant_of(service, unit) == "control")
        assert variant_of(service, in_control, **{"x-likewise-override": told["override"]}) == "graph"
        soon = int(time.time()) + 60
        for claims, key, status in (
            (Override("home", "graph", soon - 120), KEY, 403),
            (Override("home", "graph", soon), KEY[::-1], 403),
            (Override("else", "graph", soon), KEY, 403),
            (Override("home", "next", soon), KEY, 403),  # a shadow
            (Override("home", "gone", soon), KEY, 404),
        ):
            headers = {"x-likewise-override": sign_override(claims, key.encode())}
            assert service.ask("POST", "/v1/findNeighbors", QUERY, headers)[0] == status, claims
        assert variant_of(service, in_control, variant="graph") == "control"  # a header of no meaning


def test_shadows_see_copies_and_answer_nobody(home: Shop, start_service: Start) -> None:
    with start_service(home) as service:
        service.wait_until_ready()
        seen = {variant_of(service, unit) for unit in UNITS[:60]}
        assert seen == {"control", "graph"}
        wait_until(lambda: counted(service, "likewise_shadow_requests_total") == 60, "all copies are answered")
        metrics = service.ask("GET", "/metrics")[2].decode()
        assert 'likewise_shadow_requests_total{outcome="answered",variant="next"} 60.0' in metrics
        assert counted(service, "likewise_variant_answers_total") == 60
        assert counted(service, "likewise_queries_total") == 60  # copies are not counted as queries
        lines = [line for line in service.log_lines() if line.get("endpoint") == "find_neighbors"]
        assert {line["variant"] for line in lines} == {"control", "graph"}
        assert "user-" not in service.log.read_text()


def test_all_variants_take_in_the_writes_of_their_endpoint(home: Shop, start_service: Start, tmp_path: Path) -> None:
    with start_service(home, write_log=str(tmp_path / "logs")) as service:
        service.wait_until_ready()
        point = {"datapointId": "0-new", "featureVector": [0.5] * DIM}
        token = post(service, "/v1/upsertDatapoints", {"datapoints": [point]})["versionToken"]
        seen = set()
        for unit in UNITS[:60]:
            headers = {"x-likewise-unit": unit}
            code, _, answer = service.ask("POST", "/v1/findNeighbors", QUERY | {"minVersion": token}, headers)
            assert code == 200
            assert answer["nearestNeighbors"][0]["neighbors"][0]["datapoint"]["datapointId"] == "0-new"
            seen.add(answer["variant"])
        assert seen == {"control", "graph"}
        move = post(service, "/v1/endpoints/home:promote", {"version": "shop-c", "variant": "graph", "why": "newer"})
        store = Store(home.store)
        assert move["new"] == store.resolve("shop-b") == store.resolve("shop-c") != move["old"]
        shown = service.ask("GET", "/v1/endpoints/home")[2]
        versions = {each["name"]: each["indexVersion"] for each in shown["variants"]}
        assert versions["graph"] == versions["next"] != versions["control"]


def test_a_change_that_cannot_be_served_changes_nothing(home: Shop, start_service: Start) -> None:
    store = Store(home.store)
    with start_service(home) as service:
        service.wait_until_ready()
        before = service.ask("GET", "/v1/endpoints")[2]
        for body, status in (
            ({"variants": [{"name": "control", "weight": 0.5}]}, 400),
            ({"variants": [{"name": "control", "weight": 1.0, "index": "nowhere"}]}, 404),
            ({"variants": [{"name": "control", "weight": 1.0, "knobs": {"efort": 3}}]}, 400),
            ({"variants": [{"name": "control", "weight": 1.0}], "control": "next"}, 400),
            ({}, 400),
        ):
            answer = post(service, "/v1/endpoints/home:traffic", body, status)
            assert answer["error"]["message"].startswith("["), answer
        assert post(service, "/v1/endpoints/else:traffic", {"variants": []}, 404)["error"]["status"] == "NOT_FOUND"
        assert service.ask("GET", "/v1/endpoints")[2] == before
        assert len(store.endpoint_history("home")) == 1


def test_endpoints_are_the_admins(home: Shop, start_service: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    now = datetime.now(timezone.utc)
    keys: dict[str, str] = {}
    for scope in ("read", "write", "admin"):

        def add(ring: KeyRing, scope: Any = scope) -> tuple[KeyRing, str]:
            changed, _, text = ring.with_new(f"holder-{scope}", [scope], now=now, expires_at=None)
            return changed, text

        keys[scope] = change_keys(file, add)
    store = Store(home.store)
    with start_service(home, auth={"keys_file": str(file)}) as service, grpc.insecure_channel(service.grpc) as channel:
        service.wait_until_ready()
        stub = EndpointServiceStub(channel)
        for path in ("/v1/endpoints", "/v1/endpoints/home"):
            assert service.ask("GET", path)[0] == 401
            assert service.ask("GET", path, headers={"x-api-key": keys["write"]})[0] == 403
            assert service.ask("GET", path, headers={"x-api-key": keys["admin"]})[0] == 200
        body = {"variants": [{"name": "control", "weight": 1.0}], "why": "all to control"}
        for key, status in ((keys["read"], 403), (keys["write"], 403), (keys["admin"], 200)):
            code, _, _ = service.ask("POST", "/v1/endpoints/home:traffic", body, {"x-api-key": key})
            assert code == status
            with pytest.raises(grpc.RpcError) if status == 403 else contextlib.nullcontext():
                stub.ListEndpoints(pb.ListEndpointsRequest(), timeout=10, metadata=(("x-api-key", key),))
        change = store.endpoint_history("home")[-1]
        assert (change.by, change.why) == ("key:holder-admin", "all to control")
        audited = [line for line in service.log_lines() if line.get("logger") == "serving.audit"]
        done = [line for line in audited if line["action"] == "POST /v1/endpoints/home:traffic"]
        assert [(line["who"], line["code"]) for line in done] == [
            ("key:holder-read", "403"),
            ("key:holder-write", "403"),
            ("key:holder-admin", "200"),
        ]


def test_the_command_line_tries_a_version_before_it_promotes_it(home: Shop) -> None:
    store = Store(home.store)
    first, second = store.resolve("shop-a"), store.resolve("shop-b")
    there = ("--store", str(home.store))
    (move,) = command("versions", "promote", "shop-a", "--to", second, "--why", "newer", *there)
    assert (move["old"], move["new"], move["why"]) == (first, second, "newer")
    (move,) = command("versions", "rollback", "shop-a", *there)
    assert (move["old"], move["new"], move["why"]) == (second, first, "roll back")
    bad = poisoned(store, second, spoil_vectors(set_nan))
    line = [sys.executable, "-m", "lifecycle", "versions", "promote", "shop-a", "--to", bad, "--why", "x", *there]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert "squared norm nan" in done.stderr.replace("\n", " ")
    assert store.resolve("shop-a") == first
    changed = command(
        "endpoints", "traffic", "home", "--variant", "graph=0", "--variant", "control=1", "--drop", "next", *there
    )
    assert [(each["name"], each["weight"]) for each in changed["variants"]] == [("control", 1), ("graph", 0)]
    assert [each["why"] for each in changed["history"]] == ["created", "by hand"]
    assert [each["name"] for each in command("endpoints", "list", *there)] == ["home"]
