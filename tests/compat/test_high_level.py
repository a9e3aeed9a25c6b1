"""Google's high-level classes against a service: over REST and gRPC, in the clear and with TLS and a key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from matching.datapoint import Filter, NumericRestrict, Restrict
from serving.api_keys import KeyRing, change_keys
from tests.certificates import Authority
from tests.compat.catalog import DIM, Catalog
from tests.compat.google import PARENT

if TYPE_CHECKING:
    from tests.services import Service, Shop, Start

ROOT = Path(__file__).parents[2]
VECTOR = np.random.default_rng(19).normal(size=DIM).astype(np.float32)


def run(api_endpoint: str, transport: str, token: str = "", is_private: bool = False, **environment: str) -> Any:
    """Run a user's program and return what it told."""
    asked = {
        "api_endpoint": api_endpoint,
        "transport": transport,
        "token": token,
        "is_private": is_private,
        "vector": VECTOR.tolist(),
    }
    command = [sys.executable, "-m", "tests.compat.high_level", json.dumps(asked)]
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def check(told: Any, catalog: Catalog, domain: str) -> None:
    def same(answer: Any, expected: list[tuple[str, float]]) -> None:
        assert [name for name, _ in answer] == [name for name, _ in expected]
        # the classes say None for a distance of 0
        assert [own or 0.0 for _, own in answer] == pytest.approx([own for _, own in expected], rel=1e-4)

    assert (told["endpoint"], told["domain"]) == (f"{PARENT}/indexEndpoints/things", domain)
    assert told["deployed"] == told["of index"] == told["one deployed"] == ["things"]
    assert told["listed"] == [[f"{PARENT}/indexEndpoints/things"], [f"{PARENT}/indexes/things"]]
    assert told["two deployed"] == ["things", "second"]
    same(told["by vector"][0], catalog.nearest(VECTOR, 5))
    same(told["dense hybrid"][0], catalog.nearest(VECTOR, 5))
    same(told["by id"][0], catalog.nearest(catalog.vector("thing-017"), 5))
    wanted = Filter(
        (Restrict("color", ("red", "blue"), ("sale",)),),
        (NumericRestrict("stock", 0, "int64", "NOT_EQUAL"), NumericRestrict("price", 6.0, "float64", "LESS")),
    )
    for answer in told["filtered"]:
        same(answer, catalog.nearest(VECTOR, 9, wanted, cap=2))
    ((nearest, _),) = catalog.nearest(VECTOR, 1)
    (held,) = (datapoint for datapoint in catalog.datapoints if datapoint.datapoint_id == nearest)
    assert told["full"] == [nearest, catalog.vector(nearest).tolist(), held.crowding_tag or "", dict(held.metadata)]
    assert told["read"] == [[name, catalog.vector(name).tolist()] for name in ("thing-003", "thing-001")]
    assert [told["put in"], told["changed"], told["removed"]] == [True, True, True]


def test_over_rest_in_the_clear(service: Service, catalog: Catalog) -> None:
    check(run(service.http, "rest"), catalog, service.http.removeprefix("http://"))


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_with_tls_and_a_key(shop: Shop, catalog: Catalog, start_service: Start, tmp_path: Path, transport: str) -> None:
    def make(ring: KeyRing) -> tuple[KeyRing, str]:
        changed, _, text = ring.with_new("client", ("read", "write", "admin"), now=datetime.now(timezone.utc))
        return changed, text

    token = change_keys(tmp_path / "keys.json", make)
    authority = Authority(tmp_path, "ours")
    server = authority.certificate("server")
    tls = {"certificate_file": str(server.chain), "key_file": str(server.key)}
    auth, log = {"keys_file": str(tmp_path / "keys.json")}, str(tmp_path / "log")
    with start_service(shop, auth=auth, tls=tls, trust=authority.trust(), write_log=log) as service:
        service.wait_until_ready()
        address = service.grpc if transport == "grpc" else service.http.removeprefix("https://")
        trusted = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authority.file), "REQUESTS_CA_BUNDLE": str(authority.file)}
        check(run(address, transport, token, **trusted), catalog, address)
        if transport == "rest":  # over gRPC the client tries again for two minutes
            with pytest.raises(AssertionError, match="RefreshError"):  # what it makes of a 401
                run(address, transport, token[:-1] + "~", **trusted)


def test_the_private_service_is_found_on_the_port_that_the_client_insists_on(
    shop: Shop, catalog: Catalog, start_service: Start, tmp_path: Path
) -> None:
    host = f"127.77.{os.getpid() % 200 + 1}.1"  # an address of this machine that nobody else has the port of
    with start_service(shop, host=host, grpc_port=10_000, write_log=str(tmp_path / "log")) as service:
        service.wait_until_ready()
        told = run(service.http, "rest", is_private=True)
    ((answer),) = told["private"]
    expected = catalog.nearest(VECTOR, 5, Filter((Restrict("color", ("red",)),)))
    assert [name for name, _ in answer] == [name for name, _ in expected]
    assert [distance for _, distance in answer] == pytest.approx([distance for _, distance in expected], rel=1e-4)
